"""MNIST's archives and other IDX files: what is read is what was published, and a bad file is named."""

import gzip
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets

from stn import mnist


def test_archives_have_the_published_checksums():
    published = {name.removesuffix(".gz"): md5 for name, md5 in datasets.MNIST.resources}
    assert published == mnist.MD5


def damage(path, how):
    """Make a file what a careless disk makes of it."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        altered = content[:3000] + bytes([content[3000] ^ 1]) + content[3001:]
        path.write_bytes({"truncated": content[:-1], "altered": altered, "empty": b""}[how])


@pytest.mark.parametrize("name", mnist.MD5)
@pytest.mark.parametrize("how", ["missing", "truncated", "altered", "empty"])
def test_a_bad_archive_is_named_with_the_remedy(archives, tmp_path, fault, name, how):
    raw = shutil.copytree(archives, tmp_path / "raw")
    archive = raw / f"{name}.gz"
    damage(archive, how)
    with fault("archive of the data missing, truncated or altered") as told:
        with pytest.raises(mnist.DataError) as error:
            mnist.read_mnist(raw)
        told()
        assert str(error.value) == f"{archive} is missing or damaged: restore it with `git checkout -- data`"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, "neither train-images-idx3-ubyte nor"),
        ("train-images-idx3-ubyte", b"", "not a complete IDX file"),
        ("train-images-idx3-ubyte", bytes([0, 0, 8, 3]), "not a complete IDX file"),
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


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_names_with_a_dot_are_read_too(idx_folder, tmp_path, ending):
    """As some programs unpack them: train-images.idx3-ubyte, which may lie beside a folder of the usual name."""
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    for path in idx_folder.iterdir():
        content = path.read_bytes()
        dotted = re.sub("-(idx.-)", r".\1", path.name) + ending
        (tmp_path / dotted).write_bytes(gzip.compress(content) if ending else content)
    for ours, plain in zip(mnist.read_folder(tmp_path), mnist.read_folder(idx_folder), strict=True):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(
    ("name", "there", "hint"),
    [
        ("train-images-idx3-ubyte", ["TRAIN-IMAGES.IDX3"], "TRAIN-IMAGES.IDX3"),
        (
            "t10k-labels-idx1-ubyte",
            ["emnist-digits-test-labels-idx1-ubyte.gz", "emnist-mnist-test-labels-idx1-ubyte.gz", "notes.txt"],
            "emnist-digits-test-labels-idx1-ubyte.gz or emnist-mnist-test-labels-idx1-ubyte.gz",
        ),
        ("train-labels-idx1-ubyte", ["TrainLabels.idx1"], "TrainLabels.idx1"),
        ("train-labels-idx1-ubyte", ["test-labels-idx1-ubyte", "train"], None),
    ],
)
def test_a_similar_name_is_told(idx_folder, tmp_path, name, there, hint):
    for path in idx_folder.iterdir():
        if path.name != name:
            shutil.copy(path, tmp_path)
    for other in there:
        shutil.copy(idx_folder / name, tmp_path / other)
    with pytest.raises(mnist.DataError) as error:
        mnist.read_folder(tmp_path)
    missing = f"{tmp_path}: neither {name} nor {name}.gz is there"
    advice = f"if {hint} is this file, rename it" if hint else "four IDX files are needed"
    assert str(error.value) == f"{missing}; {advice}"


LABEL_FILES = st.binary(max_size=20).map(lambda labels: bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + labels)


@given(content=st.binary(max_size=64) | LABEL_FILES)
def test_reading_any_bytes_gives_the_labels_or_a_clear_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("idx")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    complete = len(content) >= 8 and content[:8] == bytes([0, 0, 8, 1]) + (len(content) - 8).to_bytes(4, "big")
    if complete:
        assert mnist.read_idx(folder / "t10k-labels-idx1-ubyte").tolist() == list(content[8:])
    else:
        with pytest.raises(mnist.DataError, match="t10k-labels-idx1-ubyte: not a complete IDX file"):
            mnist.read_idx(folder / "t10k-labels-idx1-ubyte")
