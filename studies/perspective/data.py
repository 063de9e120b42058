"""MNIST in perspective: Gaussian noise moves the four corners of each image, and the image as a whole.

The protocol is that of the IC-STN paper (arXiv 1612.03897). Every epoch distorts the training images anew; the test set
is one fixed draw. `perspective` crops the images to their frame of 28×28, `whole` draws the same on a canvas around it.
"""

from functools import partial

import numpy as np
import torch

from stn.data import Dataset, epoch_seed
from stn.warps import CORNERS, homography_warp, to_canvas
from studies.perspective import CANVAS, CROPPED, SIGMA, WHOLE_IMAGES

TEST_SEED = 0  # of the test set; runs have other seeds
DISTORTION_BATCH = 500


def perspective(clean):
    """Return the Dataset `clean` in perspective; its training images are undistorted before the first epoch."""
    train_images, description = clean.train_images.clone(), clean.description | CROPPED
    test_images = distorted_test_images(clean, clean.test_images.shape[2:])
    return Dataset(train_images, clean.train_labels, test_images, clean.test_labels, description, clean, draw_epoch)


def whole(clean):
    """Return the Dataset `clean` in the same perspective, on a canvas, so that nothing is cropped.

    Canvases are drawn batch by batch, because those of a whole epoch would take 750 MB. They are undistorted before the
    first epoch.
    """
    test_images = distorted_test_images(clean, [side * CANVAS for side in clean.test_images.shape[2:]])
    return Dataset(
        *(clean.train_images, clean.train_labels, test_images, clean.test_labels),
        clean.description | WHOLE_IMAGES,
        clean,
        draw_distortions,
        partial(draw_canvases, black=float(clean.train_images.min())),
        torch.eye(3).repeat(len(clean.train_images), 1, 1),
        canvas=CANVAS,
    )


def distorted_test_images(clean, size):
    """Return the test images, distorted in the same way in all runs, at `size`: (height, width)."""
    n, _, *clean_size = clean.test_images.shape
    test_images = clean.test_images.new_empty(n, 1, *size)
    distort(clean.test_images, perspective_homographies(n, TEST_SEED, 0, clean_size), test_images)
    return test_images


def draw_distortions(data, seed, epoch):
    """Replace `data.distortions` by those of the epoch."""
    data.distortions.copy_(perspective_homographies(len(data.distortions), seed, epoch, data.train_images.shape[2:]))


def draw_canvases(images, homographies, black):
    """Warp images (B, 1, 28, 28) by homographies (B, 3, 3), destination to source, onto canvases (B, 1, 56, 56).

    This uses our own warp: kornia's shows a mirrored ghost of what is behind the observer, which a canvas may contain.
    """
    size = tuple(side * CANVAS for side in images.shape[2:])
    return homography_warp(images - black, to_canvas(homographies, CANVAS), size=size) + black


def draw_epoch(data, seed, epoch):
    """Replace `data.train_images` by those of the epoch."""
    homographies = perspective_homographies(len(data.train_images), seed, epoch, data.train_images.shape[2:])
    distort(data.clean.train_images, homographies, data.train_images)


def perspective_homographies(n_images, seed, epoch, size=(28, 28)):
    """Return the distortions of one epoch, (n_images, 3, 3) float32 on the CPU.

    They map the distorted image (destination) to the source, in the coordinates of stn/warps.py. Each depends only on
    seed, epoch and the index of its image. size: height and width of the images, in pixels.
    """
    from kornia.geometry.transform import get_perspective_transform  # late: not needed for MNIST as it is

    noise = np.random.default_rng(epoch_seed(seed, epoch, stream=1)).standard_normal((n_images, 5, 2), np.float32)
    height, width = size
    noise = torch.from_numpy(noise) * SIGMA / torch.tensor([width / 2, height / 2])  # half an image is 1
    corners = torch.tensor(CORNERS).expand(n_images, 4, 2)
    return get_perspective_transform(corners, corners + noise[:, :4] + noise[:, 4:])


def distort(images, homographies, out):
    """Write images (N, 1, 28, 28), warped by homographies (N, 3, 3) from destination to source, into `out`.

    `out` has their size, or that of a canvas, (N, 1, 56, 56). The background has the smallest value of all pixels.
    """
    from kornia.geometry import transform

    black = images.min()
    parts = (tensor.split(DISTORTION_BATCH) for tensor in (images, homographies.to(images.device), out))
    for source, matrices, target in zip(*parts, strict=True):
        if out.shape == images.shape:
            warped = transform.homography_warp(source - black, matrices, source.shape[2:], align_corners=False)
            target.copy_(warped + black)
        else:
            target.copy_(draw_canvases(source, matrices, black))
