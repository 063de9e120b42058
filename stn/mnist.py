"""MNIST, read from its four archives, which are part of the repository; and other data sets in the same format.

torchvision's `datasets.MNIST` reads only unpacked copies, whose content it does not check, and writes them beside the
archives, where runs that start together would meet half a file. Reading the archives needs none of that.
"""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from lab.settings import RunError

ROOT = Path(__file__).resolve().parent.parent / "data"
MD5 = {  # checksums of the archives, as published
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}


class DataError(RunError):
    """The data cannot be used; the message names the file and the remedy."""


def read_mnist(folder=ROOT / "MNIST" / "raw"):
    """Return train images (60000, 28, 28), labels (60000,), test images and labels as arrays of bytes.

    Raise DataError if one of the archives in `folder` is missing or is not MNIST's.
    """
    for name, md5 in MD5.items():
        archive = folder / f"{name}.gz"
        if not archive.exists() or hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise DataError(f"{archive} is missing or damaged: restore it with `git checkout -- data`")
    return [read_idx(folder / f"{name}.gz") for name in MD5]


def read_folder(folder):
    """Return the same four arrays from the IDX files in `folder`, named like MNIST's. Raise DataError.

    The files are plain or .gz, and their names may have a dot before "idx", as in train-images.idx3-ubyte.
    """
    arrays = [read_idx(find_idx(folder, name)) for name in MD5]
    for split, pixels, labels in (("train", *arrays[:2]), ("t10k", *arrays[2:])):
        if pixels.shape[1:] != (28, 28):
            size = "×".join(map(str, pixels.shape[1:]))
            why = "a folder must hold images of 28×28, of which a study can make other sizes (docs/own_experiments.md)"
            raise DataError(f"{folder}: the {split} images are {size}; {why}")
        if len(pixels) == 0 or labels.shape != (len(pixels),) or labels.max() > 9:
            raise DataError(f"{folder}: the {split} set needs one label in 0..9 for each of its {len(pixels)} images")
    return arrays


def find_idx(folder, name):
    """Return the path of an IDX file in `folder`. Raise DataError, which names similar files."""
    names = [f"{spelling}{ending}" for spelling in (name, name.replace("-idx", ".idx")) for ending in ("", ".gz")]
    if path := next((folder / name for name in names if (folder / name).is_file()), None):
        return path
    split, kind, _ = name.split("-", 2)
    splits = ("t10k", "test") if split == "t10k" else (split,)
    files = sorted(path.name for path in folder.glob("*") if path.is_file())
    similar = [file for file in files if kind in file.lower() and any(split in file.lower() for split in splits)]
    advice = f"if {' or '.join(similar)} is this file, rename it" if similar else "four IDX files are needed"
    raise DataError(f"{folder}: neither {name} nor {name}.gz is there; {advice}")


def read_idx(path):
    """Read an IDX file of bytes (format: yann.lecun.com/exdb/mnist), plain or .gz, as an array. Raise DataError."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); put a good copy in its place") from None
    n_dims = 3 if "idx3" in path.name else 1
    start = 4 + 4 * n_dims
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, n_dims]) or len(content) != start + math.prod(shape):
        raise DataError(f"{path}: not a complete IDX file of {n_dims}-dimensional bytes; put a good copy in its place")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
