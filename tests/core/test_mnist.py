"""MNIST's archives and other IDX files: what is read is what was published, whatever happened to the files."""

import hashlib
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets

from stn import mnist

IMAGES = "t10k-images-idx3-ubyte"


@pytest.fixture
def root(tmp_path):
    """A data folder as in a fresh clone: the four archives, nothing unpacked."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(archive, raw)
    return tmp_path / "data"


def test_archives_have_the_published_checksums():
    published = {name.removesuffix(".gz"): md5 for name, md5 in datasets.MNIST.resources}
    assert published == {name: archive for name, (archive, _) in mnist.MD5.items()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A data folder of this module in which everything is unpacked; a test must leave it so."""
    root = tmp_path_factory.mktemp("unpacked")
    shutil.copytree(ROOT / "data" / "MNIST" / "raw", root / "MNIST" / "raw")
    mnist.unpack_mnist(root)
    return root


def damage(path, how):
    """Make a file what a careless disk makes of it."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        altered = content[:3000] + bytes([content[3000] ^ 1]) + content[3001:]
        path.write_bytes({"truncated": content[:-1], "altered": altered, "empty": b""}[how])


@pytest.mark.parametrize("how", ["missing", "truncated", "altered", "empty"])
def test_damaged_unpacked_files_are_unpacked_again(unpacked, fault, capsys, how):
    """All four at once; each is named, unless it was not there."""
    paths = [unpacked / "MNIST" / "raw" / name for name in mnist.MD5]
    for path in paths:
        damage(path, how)
    with fault("data file missing, truncated or altered", len(paths)) as told:
        mnist.unpack_mnist(unpacked)
        told()
        assert mnist.damaged(unpacked / "MNIST" / "raw") == []
        named = [f"{path} is damaged: unpacking it again from {path.name}.gz" for path in paths]
        assert capsys.readouterr().err.splitlines() == ([] if how == "missing" else named)


@pytest.mark.parametrize("name", mnist.MD5)
@pytest.mark.parametrize("how", ["missing", "truncated", "altered", "empty"])
def test_a_bad_archive_is_named_with_the_remedy(unpacked, monkeypatch, fault, name, how):
    """Without a network."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    path = unpacked / "MNIST" / "raw" / name
    archive = path.with_name(f"{name}.gz")
    kept = {file: file.read_bytes() for file in (path, archive)}
    path.unlink()
    damage(archive, how)
    with fault("archive of the data missing, truncated or altered") as told:
        with pytest.raises(mnist.DataError) as error:
            mnist.unpack(path, unpacked)
        told()
        assert f"{archive} is " in str(error.value)
        assert "restore it with `git checkout -- data`" in str(error.value)
        if how == "missing":
            assert "cannot be downloaded" in str(error.value)
        else:
            found = hashlib.md5(archive.read_bytes()).hexdigest()
            assert f"(MD5 {found}, expected {mnist.MD5[name][0]})" in str(error.value)
        assert not path.exists()
    for file, content in kept.items():
        file.write_bytes(content)


def test_a_bad_archive_does_no_harm_while_the_unpacked_file_is_good(unpacked):
    archive = unpacked / "MNIST" / "raw" / f"{IMAGES}.gz"
    good = archive.read_bytes()
    archive.write_bytes(b"rotten")
    mnist.unpack_mnist(unpacked)
    archive.write_bytes(good)


def test_a_missing_archive_is_downloaded_where_there_is_a_network(root, monkeypatch, capsys):
    raw = root / "MNIST" / "raw"
    shutil.copytree(raw, root / "mirror")
    (raw / f"{IMAGES}.gz").unlink()
    handler = partial(SimpleHTTPRequestHandler, directory=str(root / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        mnist.unpack_mnist(root)
        server.shutdown()
    assert mnist.damaged(raw) == []
    assert f"{raw / IMAGES}.gz is missing: downloading it" in capsys.readouterr().err


def test_a_data_folder_without_the_permission_to_write_is_named(ordinary_user, fault):
    raw = ordinary_user / "MNIST" / "raw"
    raw.mkdir(parents=True)
    raw.chmod(0o500)
    with fault("no permission to write into the data folder") as told:
        with pytest.raises(mnist.DataError, match=rf"{raw}: cannot unpack MNIST .*ermission.*must be writable"):
            mnist.unpack_mnist(ordinary_user)
        told()
    raw.chmod(0o700)


def test_two_processes_starting_at_once_on_a_fresh_clone(root):
    (root / "MNIST" / "raw" / f".{IMAGES}.77.part").write_bytes(b"of one that was killed while it unpacked")
    program = "import sys; from stn import mnist; mnist.unpack_mnist(sys.argv[1])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, root], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0
        assert errors == b""
    assert mnist.damaged(root / "MNIST" / "raw") == []
    assert not list((root / "MNIST" / "raw").glob(".*.part"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, "neither train-images-idx3-ubyte nor"),
        ("train-images-idx3-ubyte", b"", "not a complete IDX file"),
        ("train-labels-idx1-ubyte", bytes([0, 0, 8, 1, 0, 0, 0, 1, 3]), "one label in 0..9 for each"),
        ("t10k-labels-idx1-ubyte", bytes([0, 0, 8, 1, 0, 0, 1, 244]) + bytes([77] * 500), "one label in 0..9"),
        ("t10k-images-idx3-ubyte", bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4]), "are 2×2"),
    ],
)
def test_a_bad_data_set_is_named(idx_folder, tmp_path, name, content, message):
    for path in idx_folder.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(mnist.DataError, match=message) as error:
        mnist.read_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


LABEL_FILES = st.binary(max_size=20).map(lambda labels: bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + labels)


@given(content=st.binary(max_size=64) | LABEL_FILES)
def test_reading_any_bytes_gives_the_labels_or_a_clear_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("idx")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    complete = len(content) >= 8 and content[:8] == bytes([0, 0, 8, 1]) + (len(content) - 8).to_bytes(4, "big")
    if complete:
        assert mnist.read_idx(folder, "t10k-labels-idx1-ubyte").tolist() == list(content[8:])
    else:
        with pytest.raises(mnist.DataError, match="t10k-labels-idx1-ubyte: not a complete IDX file"):
            mnist.read_idx(folder, "t10k-labels-idx1-ubyte")
