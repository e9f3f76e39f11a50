import contextlib
import io
import stat
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codecs.archive import read_archive
from app.codecs.support import parse_support
from app.codecs.vector import VectorCodec
from app.core.errors import EmptyClass, ImprintError, Invalid, Malformed, TooFewLabels, TooLarge
from app.core.limits import Limits

Zipped = Callable[..., bytes]
LIMITS = Limits()
PAIRS = {"cat/1.json": b"[1.0]", "dog/1.json": b"[2.0]"}


def refused(data: bytes, limits: Limits = LIMITS) -> ImprintError:
    with pytest.raises(ImprintError) as caught:
        read_archive(data, "vector", limits)
    return caught.value


def found(data: bytes) -> list[tuple[str, bytes, str]]:
    return [(item.label, item.raw.content, item.raw.pointer) for item in read_archive(data, "image", LIMITS)]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_each_file_is_an_example_of_its_folder(zipped: Zipped, compression: int) -> None:
    data = zipped({"cat/a.png": b"1", "dog/a.png": b"2", "cat/b": b""}, compression)
    assert found(data) == [
        ("cat", b"1", "/archive/cat~1a.png"),
        ("dog", b"2", "/archive/dog~1a.png"),
        ("cat", b"", "/archive/cat~1b"),
    ]


def test_one_common_outer_folder_is_allowed(zipped: Zipped) -> None:
    files = {"my data/": b"", "my data/cat/": b"", "my data/cat/1": b"1", "my data/dog/1": b"2", ".DS_Store": b""}
    assert [label for label, _, _ in found(zipped(files))] == ["cat", "dog"]


def test_a_zip_of_vectors_becomes_a_support(zipped: Zipped, vector_codec: VectorCodec) -> None:
    parsed = parse_support(vector_codec, read_archive(zipped(PAIRS), "vector", LIMITS), LIMITS)
    assert parsed.labels == ("cat", "dog")


def test_a_fault_in_a_file_points_at_the_member(zipped: Zipped, vector_codec: VectorCodec) -> None:
    examples = read_archive(zipped(PAIRS | {"dog/2.json": b"[1, NaN]"}), "vector", LIMITS)
    with pytest.raises(Invalid) as caught:
        parse_support(vector_codec, examples, LIMITS)
    assert caught.value.faults[0].pointer == "/archive/dog~12.json/1"


def test_one_folder_only_is_too_few_labels(zipped: Zipped, vector_codec: VectorCodec) -> None:
    for name in ("cat/1", "data/cat/1"):
        with pytest.raises(TooFewLabels):
            parse_support(vector_codec, read_archive(zipped({name: b"[1]"}), "vector", LIMITS), LIMITS)


def test_what_operating_systems_leave_behind_is_passed_over(zipped: Zipped) -> None:
    junk = ["__MACOSX/cat/._1.json", ".DS_Store", "cat/.DS_Store", "dog/Thumbs.db", "dog/desktop.ini", ".git/x/y/z"]
    assert len(found(zipped(PAIRS | dict.fromkeys(junk, b"x")))) == 2


@pytest.mark.parametrize("extra", ["bird/", "bird/.DS_Store"])
def test_an_empty_folder_is_an_empty_class(zipped: Zipped, extra: str) -> None:
    error = refused(zipped(PAIRS | {extra: b""}))
    assert isinstance(error, EmptyClass)
    assert "'bird'" in error.detail
    assert error.faults[0].pointer == "/archive/bird~1"
    wrapped = {f"all/{name}": content for name, content in (PAIRS | {extra: b""}).items()}
    assert refused(zipped(wrapped)).faults[0].pointer == "/archive/all~1bird~1"


@pytest.mark.parametrize("names", [["1.png"], ["cat/1", "2.png"], ["cat/1", "dog/old/1"], ["a/cat/1", "b/dog/1"]])
def test_files_out_of_a_label_s_folder_are_refused(zipped: Zipped, names: list[str]) -> None:
    error = refused(zipped(dict.fromkeys(names, b"x")))
    assert error.code == "archive-layout"
    assert error.faults[0].pointer.startswith("/archive/")


@pytest.mark.parametrize("files", [{}, {".DS_Store": b"x"}, {"__MACOSX/a/b": b"x"}])
def test_a_zip_without_files_is_refused(zipped: Zipped, files: dict[str, bytes]) -> None:
    assert refused(zipped(files)).code == "empty-archive"


@pytest.mark.parametrize(
    "name",
    ["../cat/1", "cat/../../1", "/etc/passwd", "cat\\1", "..\\..\\1", "C:/cat/1", "c:1", "cat//1", "cat/..", "//x/y"],
)
def test_unsafe_names_are_refused(zipped: Zipped, name: str) -> None:
    error = refused(zipped(PAIRS | {name: b"x"}))
    assert isinstance(error, Invalid)
    assert error.code == "unsafe-archive-path"
    assert error.faults[0].pointer == "/archive/" + name.replace("/", "~1")


def test_a_nul_in_a_name_is_refused(zipped: Zipped) -> None:
    assert refused(zipped(PAIRS | {"cat/aXb": b"x"}).replace(b"cat/aXb", b"cat/a\0b")).code == "unsafe-archive-path"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files_are_refused(kind: int) -> None:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo("cat/1")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    assert refused(buffer.getvalue()).code == "unsafe-archive-path"


def test_an_encrypted_zip_is_refused(zipped: Zipped) -> None:
    data = bytearray(zipped(PAIRS))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + flags
        data[at] |= 1
    assert refused(bytes(data)).code == "archive-encrypted"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_than_deflate_are_refused(zipped: Zipped, compression: int) -> None:
    assert refused(zipped(PAIRS, compression)).code == "archive-compression"


def test_a_zip_bomb_by_ratio_is_refused(zipped: Zipped) -> None:
    error = refused(zipped(PAIRS | {"cat/bomb": bytes(10_000_000)}))
    assert isinstance(error, TooLarge)
    assert error.code == "archive-too-large"
    assert error.faults[0].pointer == "/archive/cat~1bomb"


def test_a_zip_bomb_by_its_whole_size_is_refused(zipped: Zipped) -> None:
    data = zipped({f"cat/{at}": bytes(1_000_000) for at in range(20)})
    assert refused(data, Limits(archive_size_bytes=19_000_000)).code == "archive-too-large"


def test_a_zip_whose_declared_sizes_lie_is_never_unpacked_further() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1", bytes(50_000_000))
    data = buffer.getvalue()
    declared = struct.pack("<I", 50_000_000)
    assert data.count(declared) == 2
    assert refused(data.replace(declared, struct.pack("<I", 1000))).code == "not-a-zip"


def test_members_that_overlap_as_in_a_bomb_are_refused(zipped: Zipped) -> None:
    data = bytearray(zipped({"cat/1": b"x" * 100, "cat/2": b"x" * 100}, zipfile.ZIP_STORED))
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)
    assert refused(bytes(data)).code == "archive-too-large"


def test_a_zip_of_too_many_members_is_refused(zipped: Zipped) -> None:
    limits = Limits(examples=2)
    assert refused(zipped({f"cat/{at}": b"[1]" for at in range(3)}), limits).code == "too-many-examples"
    assert refused(b"PK\x01\x02" * 50_000, limits).code == "archive-too-large"


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"PK\x05\x06" + bytes(10)])
def test_what_is_no_zip_is_refused(data: bytes) -> None:
    error = refused(data)
    assert isinstance(error, Malformed)
    assert error.code == "not-a-zip"


def test_corrupt_and_truncated_zips_are_refused(zipped: Zipped) -> None:
    data = zipped({"cat/1": b"hello world" * 50, "dog/1": b"x"})
    assert refused(data[:-30]).code == "not-a-zip"
    spoilt = bytearray(data)
    spoilt[45] ^= 0xFF
    assert refused(bytes(spoilt)).code == "not-a-zip"


@pytest.mark.parametrize("label", ["חתול", "😀", "naïve café", "日本"])
def test_folder_names_in_utf8_are_read_with_and_without_the_flag(zipped: Zipped, label: str) -> None:
    data = zipped({f"{label}/1": b"1"})
    assert found(data)[0][0] == label
    bare = bytearray(data)
    for signature, flags in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        bare[data.index(signature) + flags] &= ~0x08
    assert found(bytes(bare))[0][0] == label


def test_other_folder_names_are_read_as_cp437(zipped: Zipped) -> None:
    data = zipped({"cafX/1": b"1"}).replace(b"cafX", "café".encode("cp437"))
    assert found(data)[0][0] == "café"


@given(data=st.data())
def test_any_damage_to_a_zip_is_read_or_an_error_of_ours(zipped: Zipped, data: st.DataObject) -> None:
    damaged = bytearray(zipped(PAIRS))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImprintError):
        read_archive(bytes(damaged), "vector", LIMITS)


@given(st.binary(max_size=100))
def test_any_bytes_are_no_zip_or_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(ImprintError):
        read_archive(data, "text", LIMITS)
        read_archive(b"PK\x03\x04" + data, "text", LIMITS)
