"""Content-addressed files."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.registry.blobs import FolderBlobs, sha256_hex
from app.registry.errors import BlobCorrupt, BlobMissing, DiskFull


@pytest.fixture
def blobs(tmp_path):
    return FolderBlobs(tmp_path / "blobs")


def _files(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_blob_reads_back_and_lies_under_its_hash(blobs, tmp_path):
    (sha256,) = blobs.put([b"content"])
    assert sha256 == sha256_hex(b"content")
    assert blobs.get(sha256) == b"content"
    assert blobs.exists(sha256)
    assert _files(tmp_path) == [tmp_path / "blobs" / sha256[:2] / sha256]


def test_the_same_content_is_stored_once(blobs, tmp_path):
    blobs.put([b"same", b"same"])
    blobs.put([b"same"])
    assert len(_files(tmp_path)) == 1


def test_a_missing_blob_is_a_clear_error(blobs):
    assert not blobs.exists("0" * 64)
    with pytest.raises(BlobMissing, match="000000000000"):
        blobs.get("0" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_hash_names_a_blob(blobs, name):
    with pytest.raises(BlobMissing):
        blobs.get(name)


@pytest.mark.parametrize("damaged", [b"", b"Content", b"content and more"])
def test_a_damaged_blob_is_a_clear_error_and_not_a_wrong_answer(blobs, tmp_path, damaged):
    (sha256,) = blobs.put([b"content"])
    _files(tmp_path)[0].write_bytes(damaged)
    with pytest.raises(BlobCorrupt, match="damaged"):
        blobs.get(sha256)


def test_a_truncated_blob_is_mended_by_putting_its_content_again(blobs, tmp_path):
    (sha256,) = blobs.put([b"content"])
    _files(tmp_path)[0].write_bytes(b"con")
    blobs.put([b"content"])
    assert blobs.get(sha256) == b"content"


def _fail_with(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_at_fsync_is_named_and_leaves_no_file(blobs, tmp_path, monkeypatch, code):
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", _fail_with(code))
        with pytest.raises(DiskFull):
            blobs.put([b"content"])
    assert _files(tmp_path) == []
    assert not blobs.exists(sha256_hex(b"content"))


def test_a_file_over_the_size_limit_is_a_full_disk_and_leaves_no_file(blobs, tmp_path, file_size_limit):
    with file_size_limit(50_000), pytest.raises(DiskFull):
        blobs.put([b"x" * 100_000])
    assert _files(tmp_path) == []


def test_other_trouble_with_files_keeps_its_name(blobs, monkeypatch):
    monkeypatch.setattr("os.fsync", _fail_with(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        blobs.put([b"content"])


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(blobs, tmp_path, monkeypatch):
    seen = []
    sync = os.fsync

    def note(descriptor):
        named = [path for path in _files(tmp_path) if path.parent.name != "incoming"]
        seen.append(len(named))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    blobs.put([b"content"])
    assert seen == [0, 1, 1]  # the file; then its folder and, as that is new, the folder above


def test_leftovers_of_dead_writers_are_removed_and_those_of_the_living_stay(blobs, tmp_path):
    old, young = tmp_path / "blobs/incoming/old", tmp_path / "blobs/incoming/young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    blobs.remove_leftovers()
    assert _files(tmp_path) == [young]


def test_threads_may_put_the_same_content_at_once(blobs, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        hashes = {sha for found in pool.map(lambda _: blobs.put([b"a" * 50_000, b"b"]), range(16)) for sha in found}
    assert len(hashes) == len(_files(tmp_path)) == 2
