"""MNIST in perspective: the noise of the protocol, and that it is a function of seed, epoch and place alone."""

import pytest
import torch
from kornia.geometry.linalg import transform_points

from stn import perspective, warps


def moved_corners(homographies):
    """Where the corners of the frame come from, in pixels from where they are: (N, 4, 2), by kornia."""
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    return (transform_points(homographies, corners.expand(len(homographies), 4, 2)) - corners) * 14


def test_perspective_noise_is_that_of_the_protocol():
    """Corners and the whole move by Gaussians of 3.5 pixels: the variances of the corners and of their mean."""
    moved = moved_corners(perspective.perspective_homographies(20_000, 123, 1))
    sigma = perspective.PERSPECTIVE["perspective_sigma"]
    assert sigma == 3.5
    assert moved.var(0).numpy() == pytest.approx(2 * sigma**2, rel=0.05)
    assert moved.mean(1).var(0).numpy() == pytest.approx(sigma**2 * 1.25, rel=0.05)
    assert moved.mean((0, 1)).numpy() == pytest.approx(0, abs=0.1)


def test_a_distortion_is_a_function_of_seed_epoch_and_place(digits):
    first = perspective.perspective_homographies(640, 123, 1)
    assert torch.equal(first, perspective.perspective_homographies(640, 123, 1))
    assert torch.equal(first[:100], perspective.perspective_homographies(100, 123, 1))
    for other in ((124, 1), (123, 2)):
        assert not torch.isclose(first, perspective.perspective_homographies(640, *other)).all(dim=(1, 2)).any()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_distorted_images_do_not_depend_on_the_batch(digits, batch, monkeypatch):
    homographies = perspective.perspective_homographies(100, 123, 1)
    outs = []
    for size in (perspective.DISTORTION_BATCH, batch):
        monkeypatch.setattr(perspective, "DISTORTION_BATCH", size)
        outs.append(torch.empty(100, 1, 28, 28))
        perspective.distort(digits.train_images[:100], homographies, outs[-1])
    assert torch.equal(*outs)


@pytest.fixture
def threads():
    """Set the number of torch's threads; it is one again after the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_the_perspective_set_does_not_depend_on_the_number_of_threads(digits, threads):
    found = []
    for number in (1, 2):
        threads(number)
        distorted = perspective.perspective(digits)
        distorted.draw_epoch(123, 1)
        found.append((distorted.test_images, distorted.train_images))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_the_perspective_set(digits):
    """One test set for all runs; training images of each epoch drawn in place; the distortions by our own warp."""
    distorted = perspective.perspective(digits)
    assert torch.equal(distorted.test_images, perspective.perspective(digits).test_images)
    assert distorted.description == {**digits.description, "perspective_sigma": 3.5}
    distorted.draw_epoch(123, 1)
    first = distorted.train_images.clone()
    distorted.draw_epoch(123, 2)
    assert not torch.equal(first, distorted.train_images)
    distorted.draw_epoch(123, 1)
    assert torch.equal(first, distorted.train_images)
    black = digits.train_images.min()
    homographies = perspective.perspective_homographies(len(first), 123, 1)
    good = homographies[:, 2, :2].abs().sum(1) < 0.9  # no horizon in sight, where ours is bounded
    expected = warps.homography_warp(digits.train_images - black, homographies) + black
    torch.testing.assert_close(first[good], expected[good], atol=1e-4, rtol=1e-4)
    assert good.float().mean() > 0.9
    assert first.min() >= black - 1e-6
    untouched = digits.train_images.clone()
    digits.draw_epoch(123, 1)  # MNIST as it is has no epochs of its own
    assert torch.equal(untouched, digits.train_images)
