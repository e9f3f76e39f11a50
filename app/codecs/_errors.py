"""What can be wrong with an input, by name. Statuses are decided at the edge, by family."""

from app.core.errors import Invalid, Malformed, TooLarge, UnsupportedMedia


class WrongKind(Invalid):
    """A text where an image belongs, and the like."""

    code = "wrong-input-kind"
    title = "Another kind of input than the backbone reads"


class UrlNotFetched(Invalid):
    """A URL where the bytes belong: this server fetches nothing."""

    code = "url-not-fetched"
    title = "URLs are never fetched"


class BadBase64(Invalid):
    """A string that is not strict base64."""

    code = "invalid-base64"
    title = "Not base64"


class EmptyImage(Invalid):
    """No bytes where an image belongs."""

    code = "empty-image"
    title = "The image is empty"


class UndecodableImage(Invalid):
    """A JPEG, PNG or WebP by its first bytes that is cut short or corrupt."""

    code = "undecodable-image"
    title = "The image cannot be decoded"


class UnsupportedImage(UnsupportedMedia):
    """Bytes of a format that is not on the list, whatever their declared type."""

    code = "unsupported-image-format"
    title = "Unsupported image format"


class AnimatedImage(UnsupportedMedia):
    """An image of several frames: which one is meant is not ours to guess."""

    code = "animated-image"
    title = "Animated images are not read"


class ImageTooLarge(TooLarge):
    """An image file of more bytes than the limit."""

    code = "image-too-large"
    title = "The image file is too large"


class TooManyPixels(TooLarge):
    """An image whose header announces more pixels than the limit."""

    code = "too-many-pixels"
    title = "The image has too many pixels"


class NotUtf8(Invalid):
    """Bytes that are not UTF-8."""

    code = "not-utf8"
    title = "The text is not UTF-8"


class BadText(Invalid):
    """Text with a NUL or a lone surrogate: no text has those on purpose."""

    code = "invalid-text"
    title = "The text holds forbidden characters"


class EmptyText(Invalid):
    """Text without anything to read in it."""

    code = "empty-text"
    title = "The text is empty"


class TextTooLong(TooLarge):
    """More characters than the limit; refused before tokenizing."""

    code = "text-too-long"
    title = "The text is too long"


class NotNumbers(Invalid):
    """Something else than a list of numbers where a vector belongs."""

    code = "not-a-number"
    title = "A vector is a list of numbers"


class NotFinite(Invalid):
    """A NaN, an infinity or a number beyond the range of float32."""

    code = "not-finite"
    title = "A vector holds finite numbers only"


class VectorSize(Invalid):
    """A vector of another size than the others, or than the task's."""

    code = "vector-size"
    title = "The vector has the wrong size"


class VectorTooLong(TooLarge):
    """A vector of more dimensions than the limit."""

    code = "vector-too-long"
    title = "The vector is too long"


class NotSafetensors(Malformed):
    """A body that does not parse as safetensors."""

    code = "not-safetensors"
    title = "Not a safetensors file"


class BadTensor(Invalid):
    """A safetensors file without the one tensor that is read, or with it in another shape or type."""

    code = "invalid-tensor"
    title = "The safetensors file holds something else"


class TooManyInputs(TooLarge):
    """More inputs in one request than the limit."""

    code = "too-many-inputs"
    title = "Too many inputs"


class TooManyExamples(TooLarge):
    """More examples than the limit."""

    code = "too-many-examples"
    title = "Too many examples"


class TooManyLabels(TooLarge):
    """More labels than the limit."""

    code = "too-many-labels"
    title = "Too many labels"


class BadLabel(Invalid):
    """A label that is empty, or holds control characters."""

    code = "invalid-label"
    title = "The label is not valid"


class LabelTooLong(Invalid):
    """A label of more characters than the limit."""

    code = "label-too-long"
    title = "The label is too long"


class NotAZip(Malformed):
    """Bytes that are no zip file, or a corrupt one."""

    code = "not-a-zip"
    title = "Not a zip file"


class UnsafeArchivePath(Invalid):
    """A member whose name or type reaches out of its folder."""

    code = "unsafe-archive-path"
    title = "Unsafe path in the zip"


class ArchiveEncrypted(Invalid):
    """A member under a password."""

    code = "archive-encrypted"
    title = "The zip is encrypted"


class ArchiveCompression(Invalid):
    """A member packed by another method than store or deflate."""

    code = "archive-compression"
    title = "Unsupported compression in the zip"


class ArchiveLayout(Invalid):
    """Files that do not lie in one folder per label."""

    code = "archive-layout"
    title = "The zip has another layout"


class EmptyArchive(Invalid):
    """A zip without any file to read."""

    code = "empty-archive"
    title = "The zip is empty"


class ArchiveTooLarge(TooLarge):
    """A zip that unpacks to more than the limits, or a zip bomb."""

    code = "archive-too-large"
    title = "The zip unpacks to too much"
