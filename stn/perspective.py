"""MNIST in perspective: the four corners of each image, and the image as a whole, are moved by Gaussian noise.

The protocol is that of the IC-STN paper (arXiv 1612.03897). Training images are drawn anew in every epoch, the test set
is one fixed draw.
"""

import numpy as np
import torch

from lab.sets import PERSPECTIVE_SIGMA
from stn.data import Dataset, epoch_seed
from stn.warps import CORNERS

PERSPECTIVE = {"perspective_sigma": PERSPECTIVE_SIGMA}  # in each direction; part of the description of such a set
TEST_SEED = 0  # of the test set; runs have other seeds
DISTORTION_BATCH = 500


def perspective(clean):
    """Return the Dataset `clean` in perspective; its training images are undistorted before the first epoch."""
    test_images = torch.empty_like(clean.test_images)
    distort(clean.test_images, perspective_homographies(len(test_images), TEST_SEED, 0), test_images)
    description = {**clean.description, **PERSPECTIVE}
    train_images = clean.train_images.clone()
    return Dataset(train_images, clean.train_labels, test_images, clean.test_labels, description, clean, draw_epoch)


def draw_epoch(data, seed, epoch):
    """Make `data.train_images` those of an epoch."""
    homographies = perspective_homographies(len(data.train_images), seed, epoch)
    distort(data.clean.train_images, homographies, data.train_images)


def perspective_homographies(n_images, seed, epoch):
    """Return the distortions of one epoch, (n_images, 3, 3): a function of seed, epoch and place in the set.

    Destination (the distorted image) to source, in the coordinates of warps.py, float32 on the CPU.
    """
    from kornia.geometry.transform import get_perspective_transform  # late: not needed for MNIST as it is

    noise = np.random.default_rng(epoch_seed(seed, epoch, stream=1)).standard_normal((n_images, 5, 2), np.float32)
    noise = torch.from_numpy(noise) * PERSPECTIVE["perspective_sigma"] / 14  # half an image of 28 pixels is 1
    corners = torch.tensor(CORNERS).expand(n_images, 4, 2)
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
