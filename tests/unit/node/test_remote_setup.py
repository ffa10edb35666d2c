"""What a node refuses of a bundle, and how one arrives in pieces."""

import hashlib
import io
import itertools
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.node import remote_setup
from prefect_parallel_run.node.remote_setup import BundleRefusedError, Incoming, unpack, unpacked

FILE, LINK, FOLDER, DEVICE = 0o100644, 0o120777, 0o040755, 0o020666


def archive(*members):
    """Bytes of an archive of (name, data) or (name, data, mode)."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data, *mode in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it stands, whatever ZipInfo thinks of it
            info.external_attr = (mode[0] if mode else FILE) << 16
            made.writestr(info, data, zipfile.ZIP_DEFLATED)
    return target.getvalue()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def refused(data, cache, tmp_path, words):
    """The archive is refused, and nothing of it is anywhere."""
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BundleRefusedError, match=words):
        unpack(tmp_path / "a.zip", sha256, cache)
    assert unpacked(cache, sha256) is None
    assert [path.name for path in (cache / "bundles").iterdir()] == [f"{sha256}.lock"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "cache"}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a/./x", "a//x", "x/", "..", ".", "", "a/..", "./x", "\x00x", "x\x00.py"]
)
def test_a_member_outside_of_the_folder_is_refused(cache, tmp_path, name):
    """For every form of such a name."""
    refused(archive(("ok.py", "1"), (name, "2")), cache, tmp_path, "is outside of its folder|not a valid zip file")


@pytest.mark.parametrize("mode", [LINK, FOLDER, DEVICE, 0o010644, 0o140755, 0])
def test_a_member_that_is_not_a_file_is_refused(cache, tmp_path, mode):
    """Above all links: later members would be written through them."""
    refused(archive(("a", "/tmp", mode), ("a/x", "2")), cache, tmp_path, "not a regular file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a", "a/b"])
def test_a_duplicate_name_is_refused(cache, tmp_path, second):
    """It would be undefined which of them counts."""
    refused(archive(("a", "1"), (second, "2")), cache, tmp_path, "twice")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unexpected_compression_is_refused(cache, tmp_path, how):
    """The flow process never uses it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        info = zipfile.ZipInfo("a")
        info.external_attr = FILE << 16
        made.writestr(info, b"1", how)
    refused(target.getvalue(), cache, tmp_path, "by an unexpected method")


def test_names_may_differ_only_in_case(cache, tmp_path):
    """If the file system distinguishes them."""
    data = archive(("a.py", "1"), ("A.py", "2"))
    (tmp_path / "a.zip").write_bytes(data)
    root = unpack(tmp_path / "a.zip", hashlib.sha256(data).hexdigest(), cache)
    assert {path.name: path.read_text() for path in root.iterdir()} == {"a.py": "1", "A.py": "2"}


def test_a_different_hash_is_refused(cache, tmp_path):
    """Before a byte of the archive is parsed."""
    (tmp_path / "a.zip").write_bytes(archive(("a", "1")))
    with pytest.raises(BundleRefusedError, match="its SHA-256 differs"):
        unpack(tmp_path / "a.zip", "0" * 64, cache)


@pytest.mark.parametrize("sha256", ["", "../" * 21 + "x", "G" * 64, "A" * 64, "a" * 63])
def test_an_invalid_hash_is_refused(cache, tmp_path, sha256):
    """It becomes the name of a folder."""
    for ask in (lambda: unpacked(cache, sha256), lambda: unpack(tmp_path, sha256, cache)):
        with pytest.raises((BundleRefusedError, IsADirectoryError)):
            ask()


def test_a_zip_bomb_is_refused_by_its_declared_size(cache, tmp_path, monkeypatch):
    """The total of all members counts."""
    monkeypatch.setattr(remote_setup, "MOST_BYTES", 1000)
    refused(archive(("a", b"0" * 600), ("b", b"0" * 600)), cache, tmp_path, "more than 1000 bytes")


def test_a_zip_bomb_with_a_wrong_size_is_refused(cache, tmp_path):
    """No more bytes are written than declared."""
    data = bytearray(archive(("a", b"0" * 1_000_000)))
    told = struct.pack("<L", 1_000_000)
    while (place := data.find(told)) >= 0:  # in the member's header and in the directory
        data[place : place + 4] = struct.pack("<L", 10)
    refused(bytes(data), cache, tmp_path, "not a valid zip file")


def test_too_many_members_are_refused(cache, tmp_path, monkeypatch):
    """Even small ones."""
    monkeypatch.setattr(remote_setup, "MOST_FILES", 2)
    refused(archive(("a", ""), ("b", ""), ("c", "")), cache, tmp_path, "3 members")


@pytest.mark.parametrize("cut", [0, 1, 30, -30, -1])
def test_a_truncated_archive_is_refused(cache, tmp_path, cut):
    """Even if its hash is correct."""
    refused(archive(("a", "1" * 100))[: cut or 0], cache, tmp_path, "not a valid zip file")


@given(noise=st.binary(max_size=30), place=st.integers(0, 400))
def test_a_damaged_archive_never_writes_outside(tmp_path_factory, noise, place):
    """It is unpacked inside its folder, or refused."""
    root = tmp_path_factory.mktemp("noise")
    data = bytearray(archive(("a.py", b"1" * 100), ("b/c.py", b"2"), ("b/d.py", b"3")))
    data[place : place + len(noise)] = noise
    sha256 = hashlib.sha256(data).hexdigest()
    (root / "a.zip").write_bytes(data)
    try:
        folder = unpack(root / "a.zip", sha256, root / "cache")
    except BundleRefusedError:
        assert unpacked(root / "cache", sha256) is None
    else:
        assert unpacked(root / "cache", sha256) == folder
    assert {path.name for path in root.iterdir()} == {"a.zip", "cache"}
    assert {path.name for path in (root / "cache" / "bundles").iterdir()} <= {sha256, f"{sha256}.lock"}


@given(cuts=st.lists(st.integers(0, 200), max_size=6), again=st.booleans())
def test_pieces_are_joined(tmp_path_factory, cuts, again):
    """Pieces of any size; one may be sent twice."""
    cache = tmp_path_factory.mktemp("pieces")
    data = archive(("a.py", b"1" * 100))
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    with Incoming(cache, hashlib.sha256(data).hexdigest()) as incoming:
        for start, stop in itertools.pairwise(places):
            for _ in range(1 + again):
                incoming.write(start, data[start:stop])
        assert (incoming.unpack() / "a.py").read_bytes() == b"1" * 100


def test_a_missing_piece_is_detected(cache):
    """Immediately, or by the hash at the end; an endless stream is stopped."""
    data = archive(("a.py", b"1"))
    with Incoming(cache, hashlib.sha256(data).hexdigest()) as incoming:
        with pytest.raises(BundleRefusedError, match="a piece at offset 5"):
            incoming.write(5, b"x")
        incoming.write(0, data[:-1])
        with pytest.raises(BundleRefusedError, match="its SHA-256 differs"):
            incoming.unpack()
        incoming.write(len(data) - 1, data[-1:])
        incoming.unpack()
    with Incoming(cache, "0" * 64) as incoming:
        incoming._size = 1 << 40
        with pytest.raises(BundleRefusedError, match="has more than"):
            incoming.write(1 << 40, b"x")
    assert len(list((cache / "bundles").iterdir())) == 2  # folder and lock
