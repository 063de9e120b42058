"""Images in memory, and their order in an epoch: a function of the run's seed and the epoch, of nothing else."""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lab.catalogue import spec_of
from stn import warps
from stn.mnist import DataError, read_folder, read_mnist

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # the tutorial's values, of the 60,000 training images in [0, 1]


class Dataset(NamedTuple):
    """Normalised images, (N, 1, H, W) float32, and labels, (N,) int64 in 0..9, of the two splits.

    A data set may be made from another one, its `clean`. Its training images may change every epoch: `draw` writes them
    into `train_images`. If an epoch does not fit in memory, `distort` changes each batch instead, by the `distortions`
    that `draw` writes. On a canvas (see stn/warps.py) images are `canvas` times as high and as wide.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    description: dict  # name, mean, std, md5, and what a distortion and a canvas add: what a result depends on
    clean: "Dataset | None" = None  # the data set that this one is made from
    draw: Callable | None = None  # draw(data, seed, epoch) makes the training images those of an epoch
    distort: Callable | None = None  # distort(training images, distortions) returns the images of a batch
    distortions: torch.Tensor | None = None  # with `distort`: those of each training image (N, ...)
    train_homographies: torch.Tensor | None = None  # the true transforms (N, 3, 3), if they are known
    test_homographies: torch.Tensor | None = None
    canvas: int = 1  # how many times as large as a digit's image the images are, in both directions
    n_test_each_epoch: int | None = None  # test images that are evaluated after every epoch but the last; None: all

    def to(self, device):
        parts = {name: part for name, part in self._asdict().items() if isinstance(part, torch.Tensor | Dataset)}
        return self._replace(**{name: part.to(device) for name, part in parts.items()})

    def draw_epoch(self, seed, epoch):
        """Make the training images those of an epoch, where they differ from epoch to epoch."""
        if self.draw:
            self.draw(self, seed, epoch)

    def batch(self, indices):
        """Return the training images and labels of indices (B,), and the true homographies, if there are any."""
        images = self.train_images.index_select(0, indices)
        if self.distort:
            images = self.distort(images, self.distortions.index_select(0, indices))
        rest = self.train_labels, self.train_homographies
        return images, *(part.index_select(0, indices) for part in rest if part is not None)

    def middle(self, images):
        """Cut out of images of this set what a network sees before any warp: (B, 1, 28, 28)."""
        return warps.crop_centre(images, self.canvas)

    def pixels(self, images):
        """Turn normalised images of this set into pixels from 0, black, to 1."""
        return images.mul(self.description["std"]).add_(self.description["mean"]).clamp_(0, 1)


def load(folder=None):
    """Read MNIST, or the four IDX files of the same names in `folder`, and normalise the images. Raise DataError."""
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
    """Return the four arrays of bytes that `load` makes a Dataset of, and their description. Raise DataError.

    MNIST is normalised with its published mean and standard deviation, another data set with those of its own
    training images.
    """
    if folder is None:
        arrays, name, mean, std = read_mnist(), "MNIST", MNIST_MEAN, MNIST_STD
    else:
        arrays = read_folder(Path(folder))
        name, pixels = Path(folder).resolve().name, arrays[0]
        mean, std = round(float(pixels.mean() / 255), 4), round(float(pixels.std() / 255), 4)
        if std == 0:
            raise DataError(f"{folder}: all training pixels have the same value")
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(array)
    return arrays, {"name": name, "mean": mean, "std": std, "md5": digest.hexdigest()}


def normalise(pixels, mean, std):
    """Bytes (N, 28, 28) -> float32 (N, 1, 28, 28), as torchvision's ToTensor and Normalize do it."""
    images = torch.from_numpy(pixels.astype(np.float32)).unsqueeze(1)
    return images.div_(255).sub_(mean).div_(std)


def epoch_seed(seed, epoch, stream=0):
    """Return the seed of everything random in one epoch, so that an epoch depends on nothing that ran before it.

    Use another `stream` for independent random numbers.
    """
    return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(n_images, seed, epoch):
    """Return the order of the training images in one epoch: a permutation (n_images,), the same on every device."""
    return torch.randperm(n_images, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


def metrics_of(data):
    """Return the module that measures and draws what a transformer does to the images of a `Dataset`."""
    return importlib.import_module(spec_of(data.description).metrics)
