"""MNIST's archives: unpacked, verified, and read as arrays; and other data sets in the same format.

The four official archives are part of the repository, so the first use unpacks them and needs no network.
"""

import gzip
import hashlib
import math
import sys
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock

from lab.files import atomic_write, remove_parts

ROOT = Path(__file__).resolve().parent.parent / "data"
# MD5 of each archive (published; torchvision has the same) and of what it unpacks to (which torchvision never checks).
MD5 = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}


class DataError(Exception):
    """The data cannot be used; the message names the file and the remedy."""


def read_mnist():
    """Return train images (60000, 28, 28), labels (60000,), test images and labels as arrays of bytes."""
    unpack_mnist(ROOT)
    return [read_idx(ROOT / "MNIST" / "raw", name) for name in MD5]


def read_folder(folder):
    """Return the same four arrays from the IDX files in `folder`, named like MNIST's, plain or .gz. Raise DataError."""
    arrays = train_pixels, train_labels, test_pixels, test_labels = [read_idx(folder, name) for name in MD5]
    for split, pixels, labels in (("train", train_pixels, train_labels), ("t10k", test_pixels, test_labels)):
        if pixels.shape[1:] != (28, 28):
            size = "×".join(map(str, pixels.shape[1:]))
            raise DataError(f"{folder}: the {split} images are {size}; the networks read 28×28")
        if len(pixels) == 0 or labels.shape != (len(pixels),) or labels.max() > 9:
            raise DataError(f"{folder}: the {split} set needs one label in 0..9 for each of its {len(pixels)} images")
    return arrays


def read_idx(folder, name):
    """Read one IDX file of bytes (format: yann.lecun.com/exdb/mnist), plain or .gz, as an array. Raise DataError."""
    path = folder / name
    if not path.exists():
        path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{folder}: neither {name} nor {name}.gz is there; four IDX files are needed") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); put a good copy in its place") from None
    n_dims = 3 if "idx3" in name else 1
    start = 4 + 4 * n_dims
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else None
    if content[:4] != bytes([0, 0, 8, n_dims]) or len(content) != start + math.prod(shape):
        raise DataError(f"{path}: not a complete IDX file of {n_dims}-dimensional bytes; put a good copy in its place")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def md5(path):
    """Return the MD5 of a file in hexadecimal, or None if there is no such file."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.exists() else None


def damaged(raw):
    """List the unpacked files in `raw` that are missing or not MNIST's."""
    return [raw / name for name, (_, good) in MD5.items() if md5(raw / name) != good]


def unpack_mnist(root):
    """Make sure that the four unpacked files under `root`/MNIST/raw are MNIST's, byte for byte. Raise DataError.

    Unpack a missing or damaged one again from its archive (downloaded only if that is missing). Processes that start
    together wait for the one that unpacks.
    """
    raw = Path(root) / "MNIST" / "raw"
    try:
        if not damaged(raw):
            return
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):
            remove_parts(raw)
            for path in damaged(raw):  # asked again: another process may have unpacked in the meantime
                unpack(path, root)
    except OSError as error:
        raise DataError(
            f"{raw}: cannot unpack MNIST ({error}); the folder must be writable, with 60 MB free"
        ) from error


def unpack(path, root):
    """Write the MNIST file `path` from its archive beside it. Raise DataError for a bad archive."""
    archive = path.with_name(f"{path.name}.gz")
    if path.exists():
        print(f"{path} is damaged: unpacking it again from {archive.name}", file=sys.stderr)
        path.unlink()
    if not archive.exists():
        download_mnist(root, archive)
    good, _ = MD5[path.name]
    if (found := md5(archive)) != good:
        raise DataError(
            f"{archive} is damaged (MD5 {found}, expected {good}): restore it with "
            f"`git checkout -- data`, or delete it and run again to download it"
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.decompress(archive.read_bytes()))


def download_mnist(root, archive):
    from torchvision.datasets import MNIST  # late: a second of importing that hardly anyone needs

    print(f"{archive} is missing: downloading it", file=sys.stderr)
    try:
        MNIST(root, download=True)
    except RuntimeError as error:
        raise DataError(
            f"{archive} is missing and cannot be downloaded: restore it with `git checkout -- data`, or put it there "
            f"by hand ({' '.join(str(error).split())[:200]})"
        ) from error
