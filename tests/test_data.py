"""The data: what is read is MNIST, whatever happened to the files."""

import gzip
import hashlib
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.linalg import transform_points
from torchvision import datasets, transforms

from stn import data, warps

IMAGES = "t10k-images-idx3-ubyte"


@pytest.fixture
def root(tmp_path):
    """A data folder as in a fresh clone: the four archives, nothing unpacked."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(archive, raw)
    return tmp_path / "data"


def test_mnist_is_what_torchvision_reads_and_normalises():
    mnist = data.load()
    preprocess = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    for train, images, labels in ((True, *mnist[:2]), (False, *mnist[2:4])):
        reference = datasets.MNIST(data.ROOT, train=train, transform=preprocess)
        assert torch.equal(labels, reference.targets)
        assert images.shape == (len(reference), 1, 28, 28)
        for index in range(0, len(reference), 997):
            assert torch.equal(images[index], reference[index][0])
    assert mnist.description["name"] == "MNIST"
    assert abs(mnist.train_images.mean()) < 1e-3
    assert abs(mnist.train_images.std() - 1) < 1e-3


def test_archives_have_the_published_checksums():
    published = {name.removesuffix(".gz"): md5 for name, md5 in datasets.MNIST.resources}
    assert published == {name: archive for name, (archive, _) in data.MNIST_MD5.items()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A data folder of this module in which everything is unpacked; a test must leave it so."""
    root = tmp_path_factory.mktemp("unpacked")
    shutil.copytree(ROOT / "data" / "MNIST" / "raw", root / "MNIST" / "raw")
    data.unpack_mnist(root)
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
    paths = [unpacked / "MNIST" / "raw" / name for name in data.MNIST_MD5]
    for path in paths:
        damage(path, how)
    with fault("data file missing, truncated or altered", len(paths)) as told:
        data.unpack_mnist(unpacked)
        told()
        assert data.damaged(unpacked / "MNIST" / "raw") == []
        named = [f"{path} is damaged: unpacking it again from {path.name}.gz" for path in paths]
        assert capsys.readouterr().err.splitlines() == ([] if how == "missing" else named)


@pytest.mark.parametrize("name", data.MNIST_MD5)
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
        with pytest.raises(data.DataError) as error:
            data.unpack(path, unpacked)
        told()
        assert f"{archive} is " in str(error.value)
        assert "restore it with `git checkout -- data`" in str(error.value)
        if how == "missing":
            assert "cannot be downloaded" in str(error.value)
        else:
            found = hashlib.md5(archive.read_bytes()).hexdigest()
            assert f"(MD5 {found}, expected {data.MNIST_MD5[name][0]})" in str(error.value)
        assert not path.exists()
    for file, content in kept.items():
        file.write_bytes(content)


def test_a_bad_archive_does_no_harm_while_the_unpacked_file_is_good(unpacked):
    archive = unpacked / "MNIST" / "raw" / f"{IMAGES}.gz"
    good = archive.read_bytes()
    archive.write_bytes(b"rotten")
    data.unpack_mnist(unpacked)
    archive.write_bytes(good)


def test_a_missing_archive_is_downloaded_where_there_is_a_network(root, monkeypatch, capsys):
    raw = root / "MNIST" / "raw"
    shutil.copytree(raw, root / "mirror")
    (raw / f"{IMAGES}.gz").unlink()
    handler = partial(SimpleHTTPRequestHandler, directory=str(root / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        data.unpack_mnist(root)
        server.shutdown()
    assert data.damaged(raw) == []
    assert f"{raw / IMAGES}.gz is missing: downloading it" in capsys.readouterr().err


def test_a_data_folder_without_the_permission_to_write_is_named(ordinary_user, fault):
    raw = ordinary_user / "MNIST" / "raw"
    raw.mkdir(parents=True)
    raw.chmod(0o500)
    with fault("no permission to write into the data folder") as told:
        with pytest.raises(data.DataError, match=rf"{raw}: cannot unpack MNIST .*ermission.*must be writable"):
            data.unpack_mnist(ordinary_user)
        told()
    raw.chmod(0o700)


def test_two_processes_starting_at_once_on_a_fresh_clone(root):
    (root / "MNIST" / "raw" / f".{IMAGES}.77.part").write_bytes(b"of one that was killed while it unpacked")
    program = "import sys, data; data.unpack_mnist(sys.argv[1])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, root], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0
        assert errors == b""
    assert data.damaged(root / "MNIST" / "raw") == []
    assert not list((root / "MNIST" / "raw").glob(".*.part"))


def test_another_data_set_is_normalised_with_its_own_statistics(digits, idx_folder, tmp_path):
    assert digits.train_images.shape == (640, 1, 28, 28)
    assert abs(digits.train_images.mean()) < 1e-3
    assert abs(digits.train_images.std() - 1) < 1e-3
    for path in idx_folder.iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = data.load(tmp_path)
    assert packed.description["md5"] == digits.description["md5"]
    assert torch.equal(packed.test_images, digits.test_images)


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
    with pytest.raises(data.DataError, match=message) as error:
        data.load(tmp_path)
    assert str(tmp_path) in str(error.value)


LABEL_FILES = st.binary(max_size=20).map(lambda labels: bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + labels)


@given(content=st.binary(max_size=64) | LABEL_FILES)
def test_reading_any_bytes_gives_the_labels_or_a_clear_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("idx")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    complete = len(content) >= 8 and content[:8] == bytes([0, 0, 8, 1]) + (len(content) - 8).to_bytes(4, "big")
    if complete:
        assert data.read_idx(folder, "t10k-labels-idx1-ubyte").tolist() == list(content[8:])
    else:
        with pytest.raises(data.DataError, match="t10k-labels-idx1-ubyte: not a complete IDX file"):
            data.read_idx(folder, "t10k-labels-idx1-ubyte")


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(1, 500))
def test_the_order_is_a_permutation_and_a_function_of_seed_and_epoch(n, seed, epoch):
    torch.rand(3)  # whatever was drawn before
    order = data.epoch_order(n, seed, epoch)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, data.epoch_order(n, seed, epoch))
    if n > 20:
        assert not torch.equal(order, data.epoch_order(n, seed, epoch + 1))
        assert not torch.equal(order, data.epoch_order(n, seed + 1, epoch))


def moved_corners(homographies):
    """Where the corners of the frame come from, in pixels from where they are: (N, 4, 2), by kornia."""
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    return (transform_points(homographies, corners.expand(len(homographies), 4, 2)) - corners) * 14


def test_perspective_noise_is_that_of_the_protocol():
    """Corners and the whole move by Gaussians of 3.5 pixels: the variances of the corners and of their mean."""
    moved = moved_corners(data.perspective_homographies(20_000, 123, 1))
    sigma = data.PERSPECTIVE["perspective_sigma"]
    assert sigma == 3.5
    assert moved.var(0).numpy() == pytest.approx(2 * sigma**2, rel=0.05)
    assert moved.mean(1).var(0).numpy() == pytest.approx(sigma**2 * 1.25, rel=0.05)
    assert moved.mean((0, 1)).numpy() == pytest.approx(0, abs=0.1)


def test_a_distortion_is_a_function_of_seed_epoch_and_place(digits):
    first = data.perspective_homographies(640, 123, 1)
    assert torch.equal(first, data.perspective_homographies(640, 123, 1))
    assert torch.equal(first[:100], data.perspective_homographies(100, 123, 1))
    for other in ((124, 1), (123, 2)):
        assert not torch.isclose(first, data.perspective_homographies(640, *other)).all(dim=(1, 2)).any()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_distorted_images_do_not_depend_on_the_batch(digits, batch, monkeypatch):
    homographies = data.perspective_homographies(100, 123, 1)
    outs = []
    for size in (data.DISTORTION_BATCH, batch):
        monkeypatch.setattr(data, "DISTORTION_BATCH", size)
        outs.append(torch.empty(100, 1, 28, 28))
        data.distort(digits.train_images[:100], homographies, outs[-1])
    assert torch.equal(*outs)


def test_the_perspective_set_does_not_depend_on_the_number_of_threads(idx_folder):
    program = (
        "import sys, torch, data; torch.set_num_threads(int(sys.argv[1])); "
        "d = data.perspective(data.load(sys.argv[2])); "
        "data.draw_epoch(d, 123, 1); print(*(t.double().abs().sum().item() for t in (d.test_images, d.train_images)))"
    )
    commands = [[sys.executable, "-c", program, threads, str(idx_folder)] for threads in ("1", "2")]
    sums = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout for command in commands]
    assert sums[0] == sums[1] != ""


def test_the_perspective_set(digits):
    """One test set for all runs; training images of each epoch drawn in place; the distortions by our own warp."""
    distorted = data.perspective(digits)
    assert torch.equal(distorted.test_images, data.perspective(digits).test_images)
    assert distorted.description == {**digits.description, "perspective_sigma": 3.5}
    data.draw_epoch(distorted, 123, 1)
    first = distorted.train_images.clone()
    data.draw_epoch(distorted, 123, 2)
    assert not torch.equal(first, distorted.train_images)
    data.draw_epoch(distorted, 123, 1)
    assert torch.equal(first, distorted.train_images)
    black = digits.train_images.min()
    homographies = data.perspective_homographies(len(first), 123, 1)
    good = homographies[:, 2, :2].abs().sum(1) < 0.9  # no horizon in sight, where ours is bounded
    expected = warps.homography_warp(digits.train_images - black, homographies) + black
    torch.testing.assert_close(first[good], expected[good], atol=1e-4, rtol=1e-4)
    assert good.float().mean() > 0.9
    assert first.min() >= black - 1e-6
    untouched = digits.train_images.clone()
    data.draw_epoch(digits, 123, 1)  # MNIST as it is has no epochs of its own
    assert torch.equal(untouched, digits.train_images)
