"""MNIST from `data/` into memory, and its order in an epoch.

The four official archives are part of the repository, so the first use unpacks them and needs no network.
"""

import gzip
import hashlib
import math
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock

from lab.files import remove_parts, whole

ROOT = Path(__file__).resolve().parent / "data"
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of the 60,000 training images in [0, 1], as in the PyTorch tutorial

# MD5 of each archive (published; torchvision has the same) and of what it unpacks to (which torchvision never checks).
MNIST_MD5 = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}


class DataError(Exception):
    """The data cannot be used; the message names the file and the remedy."""


class Dataset(NamedTuple):
    """Normalised images, (N, 1, 28, 28) float32, and labels, (N,) int64 in 0..9, of the two splits."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    description: dict  # name, mean, std and md5: what a result depends on
    clean: "Dataset | None" = None  # of a distorted set: what it is made of (see `perspective`)

    def to(self, device):
        clean = self.clean and self.clean.to(device)
        return Dataset(*(split.to(device) for split in self[:4]), self.description, clean)

    def pixels(self, images):
        """Normalised images of this set -> the same with pixels from 0, black, to 1."""
        return images.mul(self.description["std"]).add_(self.description["mean"]).clamp_(0, 1)


def load(folder=None):
    """Read MNIST, or the four IDX files of the same names (plain or .gz) in `folder`, and normalise the images.

    MNIST is normalised with its published mean and standard deviation, another data set with those of its own
    training images. Raises DataError.
    """
    (train_pixels, train_labels, test_pixels, test_labels), description = read(folder)
    mean, std = description["mean"], description["std"]
    return Dataset(
        normalise(train_pixels, mean, std),
        torch.from_numpy(train_labels.astype(np.int64)),
        normalise(test_pixels, mean, std),
        torch.from_numpy(test_labels.astype(np.int64)),
        description,
    )


def read(folder=None):
    """The four arrays of bytes that `load` makes a Dataset of, and their description. Raises DataError."""
    official = folder is None
    if official:
        unpack_mnist(ROOT)
    folder = ROOT / "MNIST" / "raw" if official else Path(folder)
    arrays = train_pixels, train_labels, test_pixels, test_labels = [read_idx(folder, file) for file in MNIST_MD5]
    for split, pixels, labels in (("train", train_pixels, train_labels), ("t10k", test_pixels, test_labels)):
        if pixels.shape[1:] != (28, 28):
            size = "×".join(map(str, pixels.shape[1:]))
            raise DataError(f"{folder}: the {split} images are {size}; the networks read 28×28")
        if len(pixels) == 0 or labels.shape != (len(pixels),) or labels.max() > 9:
            raise DataError(f"{folder}: the {split} set needs one label in 0..9 for each of its {len(pixels)} images")
    if official:
        mean, std = MNIST_MEAN, MNIST_STD
    else:
        mean, std = round(float(train_pixels.mean() / 255), 4), round(float(train_pixels.std() / 255), 4)
        if std == 0:
            raise DataError(f"{folder}: all training pixels have the same value")
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(array)
    name = "MNIST" if official else folder.resolve().name
    return arrays, {"name": name, "mean": mean, "std": std, "md5": digest.hexdigest()}


def normalise(pixels, mean, std):
    """Bytes (N, 28, 28) -> float32 (N, 1, 28, 28), as torchvision's ToTensor and Normalize do it."""
    images = torch.from_numpy(pixels.astype(np.float32)).unsqueeze(1)
    return images.div_(255).sub_(mean).div_(std)


def epoch_seed(seed, epoch, stream=0):
    """The seed of everything random in one epoch, so that an epoch depends on nothing that ran before it.

    What shall not depend on the rest of the epoch's randomness uses another stream.
    """
    return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(n_images, seed, epoch):
    """The order of the training images in one epoch: a permutation (n_images,), the same on every device."""
    return torch.randperm(n_images, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


# Perspective MNIST, the protocol of the IC-STN paper (arXiv 1612.03897): each corner of an image, and the image as a
# whole, are moved by Gaussian noise of this standard deviation in each direction, in pixels.
PERSPECTIVE = {"perspective_sigma": 3.5}  # part of the description of such a set
TEST_SEED = 0  # of the one fixed test set; runs have other seeds
DISTORTION_BATCH = 500


def perspective(clean):
    """The Dataset `clean` in perspective: one fixed test set, and training images drawn anew in every epoch.

    `draw_epoch` fills the training images, which are not distorted before.
    """
    test_images = torch.empty_like(clean.test_images)
    distort(clean.test_images, perspective_homographies(len(test_images), TEST_SEED, 0), test_images)
    description = {**clean.description, **PERSPECTIVE}
    train_images = clean.train_images.clone()
    return Dataset(train_images, clean.train_labels, test_images, clean.test_labels, description, clean)


def draw_epoch(data, seed, epoch):
    """Make `data.train_images` those of an epoch: only in a distorted set they differ from epoch to epoch."""
    if data.clean:
        homographies = perspective_homographies(len(data.train_images), seed, epoch)
        distort(data.clean.train_images, homographies, data.train_images)


def perspective_homographies(n_images, seed, epoch):
    """The distortions of one epoch, (n_images, 3, 3): a function of seed, epoch and the image's place in the set.

    Destination (the distorted image) to source, in the coordinates of stn.py, float32 on the CPU.
    """
    from kornia.geometry.transform import get_perspective_transform  # late: not needed for MNIST as it is

    noise = np.random.default_rng(epoch_seed(seed, epoch, stream=1)).standard_normal((n_images, 5, 2), np.float32)
    noise = torch.from_numpy(noise) * PERSPECTIVE["perspective_sigma"] / 14  # 14 pixels are 1
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).expand(n_images, 4, 2)
    return get_perspective_transform(corners, corners + noise[:, :4] + noise[:, 4:])


def distort(images, homographies, out):
    """Write images (N, 1, 28, 28), warped by homographies (N, 3, 3) from destination to source, into `out`.

    Outside of the image it is as dark as the set's darkest pixel.
    """
    from kornia.geometry.transform import homography_warp

    black = images.min()
    parts = (tensor.split(DISTORTION_BATCH) for tensor in (images, homographies.to(images.device), out))
    for source, matrices, target in zip(*parts, strict=True):
        warped = homography_warp(source - black, matrices, source.shape[2:], align_corners=False)
        target.copy_(warped + black)


def read_idx(folder, name):
    """Read one IDX file of bytes (format: yann.lecun.com/exdb/mnist), plain or .gz, as a NumPy array."""
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
    """The MD5 of a file in hexadecimal, or None if there is no such file."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.exists() else None


def damaged(raw):
    """The unpacked files in `raw` that are missing or not MNIST's."""
    return [raw / name for name, (_, good) in MNIST_MD5.items() if md5(raw / name) != good]


def unpack_mnist(root):
    """Make sure that the four unpacked files under `root`/MNIST/raw are MNIST's, byte for byte.

    A missing or damaged one is unpacked again from its archive (downloaded only if that is missing). Processes
    that start together wait for the one that unpacks. Raises DataError.
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
    """Write the MNIST file `path` from its archive beside it. Raises DataError for a bad archive."""
    archive = path.with_name(f"{path.name}.gz")
    if path.exists():
        print(f"{path} is damaged: unpacking it again from {archive.name}", file=sys.stderr)
        path.unlink()
    if not archive.exists():
        download_mnist(root, archive)
    good, _ = MNIST_MD5[path.name]
    if (found := md5(archive)) != good:
        raise DataError(
            f"{archive} is damaged (MD5 {found}, expected {good}): restore it with "
            f"`git checkout -- data`, or delete it and run again to download it"
        )
    with whole(path) as temporary:
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
