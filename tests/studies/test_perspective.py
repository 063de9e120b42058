"""MNIST in perspective: the noise of the protocol, and that it is a function of seed, epoch and place alone."""

import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import homography_warp

from stn import data, warps
from studies.perspective import data as perspective


def moved_corners(homographies):
    """Where the corners of the frame come from, in pixels from where they are: (N, 4, 2), by kornia."""
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    return (transform_points(homographies, corners.expand(len(homographies), 4, 2)) - corners) * 14


def test_perspective_noise_is_that_of_the_protocol():
    """Corners and the whole move by Gaussians of 3.5 pixels: the variances of the corners and of their mean."""
    moved = moved_corners(perspective.perspective_homographies(20_000, 123, 1))
    sigma = perspective.SIGMA
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
        canvases = perspective.whole(digits)
        canvases.draw_epoch(123, 1)
        found.append((distorted.test_images, distorted.train_images, canvases.test_images))
        found[-1] += tuple(canvases.batch(batch)[0] for batch in torch.arange(640).split(64))
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


def taken(canvases, size=64):
    """All training images of an epoch, taken batch by batch."""
    return torch.cat([canvases.batch(batch)[0] for batch in torch.arange(len(canvases.train_labels)).split(size)])


def test_whole_images_are_kornias_warp_of_an_image_with_a_margin(digits):
    """Where no denominator is bounded: there kornia's shows what is behind the observer."""
    canvases = perspective.whole(digits)
    canvases.draw_epoch(123, 2)
    black, double = digits.train_images.min(), torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    for clean, seed, epoch, ours in (
        (digits.test_images, perspective.TEST_SEED, 0, canvases.test_images),
        (digits.train_images, 123, 2, taken(canvases)),
    ):
        homographies = torch.linalg.inv(double) @ perspective.perspective_homographies(len(clean), seed, epoch) @ double
        margin = F.pad(clean - black, (14,) * 4)
        expected = homography_warp(margin, homographies, (56, 56), align_corners=False) + black
        good = ~warps.has_bounded_denominator(homographies, 56, 56)
        torch.testing.assert_close(ours[good], expected[good], atol=1e-4, rtol=1e-4)
        assert good.float().mean() > 0.95
        assert ours.shape == (len(clean), 1, 56, 56)
        assert ours.min() >= black - 1e-6


def test_the_middle_of_whole_images_is_what_the_frame_leaves_of_them(digits):
    """The same draws; and they are those of the epoch, whatever was drawn before."""
    canvases, cropped = perspective.whole(digits), perspective.perspective(digits)
    assert canvases.description == {**cropped.description, "canvas": 2}
    undistorted = taken(canvases)[:, :, 14:42, 14:42]  # before the first epoch
    torch.testing.assert_close(undistorted, digits.train_images, atol=1e-4, rtol=1e-4)
    for epoch in (2, 1):
        for images in (canvases, cropped):
            images.draw_epoch(123, epoch)
        torch.testing.assert_close(canvases.middle(taken(canvases)), cropped.train_images, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(canvases.middle(canvases.test_images), cropped.test_images, atol=1e-4, rtol=1e-4)


def test_hardly_any_ink_is_lost_on_a_canvas():
    """Of MNIST's 10,000 test images; the numbers are those of docs/method.md, in % of the ink and of the images."""
    digits = data.load()
    homographies = perspective.perspective_homographies(10_000, perspective.TEST_SEED, 0)
    ink = digits.pixels(digits.test_images).flatten(1)
    found = {}
    for canvas in (1, 2):
        to_distorted = torch.linalg.inv(homographies.double())
        pixels = warps.to_normalised(torch.cartesian_prod(*[torch.arange(28.0)] * 2).flip(1), 28, 28).double()
        landed = transform_points(to_distorted, pixels.expand(10_000, 784, 2))
        lost = (ink * (landed.abs() > canvas).any(2)).sum(1) / ink.sum(1)
        found[canvas] = [
            round(100 * value.item(), 2) for value in (lost.mean(), *((lost > t).double().mean() for t in (0.01, 0.2)))
        ]
    assert found[1] == pytest.approx([5.80, 44.3, 10.0], abs=0.1)
    assert found[2] == pytest.approx([0.07, 0.8, 0.1], abs=0.05)
