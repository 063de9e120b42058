"""The measures of a transformer, on cases whose answer is known."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import train
from models import Net_CoordConv_Homography
from stn import metrics, warps
from studies.perspective.data import TEST_SEED, distort, perspective, perspective_homographies, whole
from studies.perspective.metrics import corner_distance, measure_transformer


def scaling(factor, n=1):
    """A transform that reads `factor` times as far from the centre: below 1 it magnifies."""
    return torch.diag(torch.tensor([factor, factor, 1.0])).expand(n, 3, 3)


def test_within_class_variance_by_hand():
    """Two classes of one pixel: 0 and 1 (variance 1/4), and 0.5 twice (variance 0), equally frequent."""
    images = torch.tensor([0.0, 1.0, 0.5, 0.5]).view(4, 1, 1, 1)
    labels = torch.tensor([3, 3, 7, 7])
    batches = zip(images.split(3), labels.split(3), strict=True)
    means, variances = metrics.class_statistics(batches)
    assert means[3] == 0.5
    assert (variances[3], variances[7]) == (0.25, 0)
    assert metrics.mean_over_images(variances, labels) == pytest.approx(0.125)
    assert metrics.mean_over_images(means, labels) == pytest.approx(0.5)
    assert (means[4], variances[4]) == (0, 0)  # a class without images


def test_ink_of_a_digit_that_is_moved_and_lost():
    rectified = partial(warps.homography_warp, padding="background")
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 12:16, 4:8] = 1
    identity = torch.eye(3).unsqueeze(0)
    assert metrics.ink_kept([(image, identity)]) == 1
    # What is outside of the middle 80 % is cut off: nothing here.
    assert metrics.ink_kept([(image, scaling(0.8))]) == 1
    right = identity.clone()
    right[0, 0, 2] = 12 / 28  # reads 6 pixels to the right: the columns 4 and 5 fall out
    assert metrics.ink_kept([(image, right)]) == pytest.approx(0.5)
    assert metrics.ink_kept([(image, identity), (2 * image, right)]) == pytest.approx(2 / 3)
    assert rectified(image, right).sum() == pytest.approx(8)
    right[0, 0, 2] = 5
    assert metrics.ink_kept([(image, right)]) == rectified(image, right).sum() == 0
    assert metrics.ink_kept([(image, torch.zeros(1, 3, 3))]) == 0  # a singular one has no inverse
    assert rectified(image, scaling(0.8)).sum() == pytest.approx(16 / 0.64, rel=0.1)


def test_frames_and_corner_distance_by_hand():
    frame = metrics.frames(scaling(0.5), (28, 28))[0]
    assert frame.tolist() == [[6.5, 6.5], [20.5, 6.5], [20.5, 20.5], [6.5, 20.5]]
    # Reading twice as far from the centre puts the corners of the digit half way: 7 pixels right and 7 down.
    other = metrics.frames(scaling(0.5), (10, 42))[0]  # a corner is where the image ends, whatever its size
    assert other.tolist() == [[10, 2], [31, 2], [31, 7], [10, 7]]
    distance = corner_distance(scaling(1.0, 2), torch.stack([scaling(2.0)[0], torch.eye(3)]), (28, 28))
    assert distance.tolist() == pytest.approx([7 * math.sqrt(2), 0])


class Rectifier(nn.Module):
    """Knows the distortion of each image and undoes it."""

    def __init__(self, images, distortions):
        super().__init__()
        self.known = {tuple(image.flatten().tolist()): h for image, h in zip(images, distortions, strict=True)}

    def homography(self, images):
        return torch.stack([torch.linalg.inv(self.known[tuple(image.flatten().tolist())]) for image in images])


class Nothing(nn.Module):
    factor = 1.0

    def homography(self, images):
        return scaling(self.factor, len(images))


def test_the_measures_of_doing_nothing_and_of_a_perfect_rectification(digits):
    distorted = perspective(digits)
    nothing = measure_transformer(Nothing(), distorted).numbers
    assert nothing["within_class_variance_after"] == pytest.approx(nothing["within_class_variance_before"], rel=1e-5)
    assert (nothing["ink_kept"], nothing["ink_area"]) == pytest.approx((1, 1))
    assert nothing["corner_distance_after"] == nothing["corner_distance_before"]
    # To first order each coordinate of a corner differs by a Gaussian of variance 4 · 3.5²: 8.8 pixels on average.
    assert 6 < nothing["corner_distance_before"] < 13
    assert nothing["bounded"] == 0
    magnifier = Nothing()
    magnifier.factor = 0.5
    magnified = measure_transformer(magnifier, distorted).numbers
    assert magnified["corner_distance_after"] == pytest.approx(2 * nothing["corner_distance_before"], rel=0.01)
    assert magnified["ink_area"] > 2
    n = len(digits.test_labels)
    first, second = (perspective_homographies(n, TEST_SEED, copy) for copy in (0, 1))
    copies = torch.empty_like(digits.test_images)
    distort(digits.test_images, second, copies)
    perfect = Rectifier(torch.cat([distorted.test_images, copies]), torch.cat([first, second]))
    rectified = measure_transformer(perfect, distorted).numbers
    assert rectified["corner_distance_after"] < 1e-3
    assert rectified["within_class_variance_after"] < rectified["within_class_variance_before"]
    assert rectified.keys() == nothing.keys()


def test_the_measures_on_a_canvas(digits):
    """Doing nothing shows its middle: as on cropped images, but for the ink. A rectifier brings all of it back."""
    cropped, canvases = perspective(digits), whole(digits)
    of_cropped, nothing = (measure_transformer(Nothing(), images).numbers for images in (cropped, canvases))
    assert of_cropped.keys() == nothing.keys()
    for name in of_cropped.keys() - {"ink_kept", "ink_area"}:
        assert nothing[name] == pytest.approx(of_cropped[name], rel=1e-4), name
    ink = [images.pixels(images.test_images.clone()).sum().item() for images in (cropped, canvases)]
    assert nothing["ink_kept"] == pytest.approx(ink[0] / ink[1], rel=1e-4)
    assert nothing["ink_area"] == pytest.approx(ink[0] / ink[1], rel=1e-4)
    n = len(digits.test_labels)
    first, second = (perspective_homographies(n, TEST_SEED, copy) for copy in (0, 1))
    copies = torch.empty_like(canvases.test_images)
    distort(digits.test_images, second, copies)
    perfect = Rectifier(torch.cat([canvases.test_images, copies]), torch.cat([first, second]))
    found = measure_transformer(perfect, canvases)
    assert found.numbers["corner_distance_after"] < 1e-3
    assert found.numbers["ink_kept"] > 0.99
    means, variances = metrics.class_statistics([(digits.pixels(digits.test_images.clone()), digits.test_labels)])
    assert (found.statistics[1][0] - means).abs().mean() < 0.02  # read twice, it is smoother
    variance = metrics.mean_over_images(variances, digits.test_labels)
    assert found.numbers["within_class_variance_after"] == pytest.approx(float(variance), rel=0.4)
    assert [statistic.shape for pair in found.statistics for statistic in pair] == [(10, 28, 28)] * 4


def test_the_batches_do_not_matter(digits, monkeypatch):
    """Of 500 images, in one batch and in three of which the last is smaller."""
    torch.manual_seed(0)
    model = Net_CoordConv_Homography(True, True).eval()
    nn.init.normal_(model.loc_fc2.weight, std=0.05)
    found = []
    for size in (500, 192):
        monkeypatch.setitem(metrics.TEST_BATCH_SIZE, "cpu", size)
        measured = measure_transformer(model, perspective(digits))
        loss, predictions = train.evaluate(model, digits.test_images, digits.test_labels)
        assert measured.homographies.shape == (500, 3, 3)
        found.append({"loss": loss, "sum of predictions": predictions.sum().item(), **measured.numbers})
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_clean_digits_have_no_corner_distance(digits):
    assert not any("corner" in name for name in metrics.measure_transformer(Nothing(), digits).numbers)
