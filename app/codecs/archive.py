"""A zip with one folder per label, read in memory and never unpacked to disk."""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Final

from app.backbones._base import Modality
from app.codecs._base import RawInput
from app.codecs._errors import (
    ArchiveCompression,
    ArchiveEncrypted,
    ArchiveLayout,
    ArchiveTooLarge,
    EmptyArchive,
    NotAZip,
    TooManyExamples,
    UnsafeArchivePath,
)
from app.codecs.pointer import pointer, shown
from app.codecs.support import RawExample
from app.core.errors import EmptyClass
from app.core.limits import Limits

_FIRST_RATIO_BYTES: Final = 1024 * 1024
"""Members that unpack to less are not held to the ratio: a short list of zeros packs well."""
_SPARE_MEMBERS: Final = 20_000
"""Folders and the files that operating systems leave behind, on top of the limit on examples."""
_CHUNK_BYTES: Final = 1024 * 1024
_JUNK_FILES: Final = frozenset({"thumbs.db", "desktop.ini"})
_DRIVE: Final = re.compile(r"[A-Za-z]:")
# What zipfile raises on corrupt archives.
_CORRUPT: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    EOFError,
    OSError,
    LookupError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    name: str
    parts: tuple[str, ...]

    @property
    def pointer(self) -> str:
        return pointer("archive", self.name)

    @property
    def folder(self) -> tuple[str, ...]:
        """The folder that this is, or lies in."""
        return self.parts if self.info.is_dir() else self.parts[:-1]


def read_archive(data: bytes, modality: Modality, limits: Limits) -> list[RawExample]:
    """The examples of a zip: `<label>/<file>`, or `<anything>/<label>/<file>` with one common outer folder.

    A file is an image, a UTF-8 text or a JSON list of numbers, by the modality; its name means nothing.
    Hidden files, `__MACOSX`, `Thumbs.db` and `desktop.ini` are passed over. Names are UTF-8 (with the
    flag, or valid as such), else cp437. Store and deflate are read.

    Raises: `NotAZip` (400); `UnsafeArchivePath`, `ArchiveEncrypted`, `ArchiveCompression`, `ArchiveLayout`,
    `EmptyArchive`, `EmptyClass` (422); `TooManyExamples`, `ArchiveTooLarge` (413), before more than
    the limit is unpacked.
    """
    # Each entry of the directory starts so: counted before Python makes an object of each.
    if data.count(b"PK\x01\x02") > 2 * (limits.examples + _SPARE_MEMBERS):
        raise ArchiveTooLarge("The zip has too many members.", pointer="/archive")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = [_member(info) for info in archive.infolist()]
            _check_sizes(members, limits)
            labelled = _by_label([member for member in members if member.parts])
            if len(labelled) > limits.examples:
                raise TooManyExamples(
                    f"{len(labelled)} examples are given; the limit is {limits.examples}.", pointer="/archive"
                )
            return _read(archive, labelled, modality, limits)
    except _CORRUPT:
        raise NotAZip("The zip file is corrupt, cut short, or no zip file.", pointer="/archive") from None


def _member(info: zipfile.ZipInfo) -> _Member:
    """The member with its name decoded and found safe."""
    name = info.orig_filename
    if not info.flag_bits & 0x800:
        # zipfile has read it as cp437; some tools write UTF-8 without saying so.
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.orig_filename
    where = pointer("archive", name)
    parts = tuple(part for part in name.removesuffix("/").split("/") if part != ".")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or "\\" in name or "\0" in name or _DRIVE.match(name) or {"", ".."} & set(parts):
        raise UnsafeArchivePath(
            f"The member {shown(name)} has an unsafe name: use relative names with / and without .. in them.",
            pointer=where,
        )
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise UnsafeArchivePath(f"The member {shown(name)} is a link or a special file.", pointer=where)
    if info.flag_bits & 0x1:
        raise ArchiveEncrypted("The zip is encrypted; send it without a password.", pointer=where)
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ArchiveCompression("Pack the zip with deflate or store; other methods are not read.", pointer=where)
    return _Member(info, name, parts)


def _check_sizes(members: Sequence[_Member], limits: Limits) -> None:
    """Refuse by the declared sizes; the real ones are counted while reading."""
    if sum(not member.info.is_dir() for member in members) > limits.examples + _SPARE_MEMBERS:
        raise ArchiveTooLarge("The zip has too many members.", pointer="/archive")
    if sum(member.info.file_size for member in members) > limits.archive_size_bytes:
        raise _too_large(limits)
    for member in members:
        size, packed = member.info.file_size, member.info.compress_size
        if size > _FIRST_RATIO_BYTES and size > limits.archive_ratio * packed:
            raise ArchiveTooLarge(
                f"A member of the zip unpacks to more than {limits.archive_ratio} times its size.",
                pointer=member.pointer,
            )
    by_place = sorted(members, key=lambda member: member.info.header_offset)
    for before, after in pairwise(by_place):
        if before.info.header_offset + 30 + before.info.compress_size > after.info.header_offset:
            raise ArchiveTooLarge("Members of the zip overlap, as in a zip bomb.", pointer=after.pointer)


def _by_label(members: Sequence[_Member]) -> list[tuple[str, _Member]]:
    """Each file with the name of its folder, in the order of the zip."""
    seen = [member for member in members if member.folder and not _is_hidden(member.folder)]
    # The folder of a junk file counts: it may be an empty class.
    folders = list(dict.fromkeys(member.folder for member in seen))
    files = [member for member in members if not member.info.is_dir() and not _is_junk(member.parts)]
    wrapped = bool(files) and all(len(file.parts) > 2 for file in files) and len({parts[0] for parts in folders}) == 1
    depth = int(wrapped)
    for file in files:
        if len(file.parts) != depth + 2:
            raise ArchiveLayout(
                f"The file {shown(file.name)} does not lie in a folder of a label: pack one folder per label, "
                "with files and no folders in it.",
                pointer=file.pointer,
            )
    filled = {file.parts[depth] for file in files}
    for parts in folders:
        if len(parts) == depth + 1 and parts[depth] not in filled:
            raise EmptyClass(label=parts[depth][:200], pointer=pointer("archive", "/".join(parts) + "/"))
    if not files:
        raise EmptyArchive("The zip holds no files: pack one folder per label.", pointer="/archive")
    return [(file.parts[depth], file) for file in files]


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _is_junk(parts: Sequence[str]) -> bool:
    return _is_hidden(parts) or parts[-1].lower() in _JUNK_FILES


def _read(
    archive: zipfile.ZipFile, labelled: Sequence[tuple[str, _Member]], modality: Modality, limits: Limits
) -> list[RawExample]:
    examples, left_bytes = [], limits.archive_size_bytes
    media_type = "application/json" if modality == "vector" else None
    for label, member in labelled:
        content = _content(archive, member, left_bytes, limits)
        left_bytes -= len(content)
        raw = RawInput("bytes", content, member.pointer, media_type)
        examples.append(RawExample(label, raw, member.pointer))
    return examples


def _content(archive: zipfile.ZipFile, member: _Member, left_bytes: int, limits: Limits) -> bytes:
    chunks, size = [], 0
    with archive.open(member.info) as file:
        while chunk := file.read(_CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > left_bytes:
                raise _too_large(limits)
    return b"".join(chunks)


def _too_large(limits: Limits) -> ArchiveTooLarge:
    return ArchiveTooLarge(
        f"The zip unpacks to more than the limit of {limits.archive_size_bytes} bytes.", pointer="/archive"
    )
