"""How good the transforms of a network are: numbers for results.json, and the statistics that figures.py draws."""

import torch
import torch.nn.functional as F

import data as mnist
import stn

CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))  # of the image's frame, in the coordinates of stn.py
BATCH_SIZE = 250
PAIRS = 2000  # test images of which a second distorted copy is made


def has_transformer(model):
    """Whether `model` has a method `homography`, as those in models.py, and uses it."""
    return hasattr(model, "homography") and not getattr(model, "bypass_localisation", False)


def confusion(labels, predictions, n_classes=10):
    """How often images of each class, by row, were taken for each class, by column: two of (N,) -> a list of lists."""
    counts = torch.bincount(labels * n_classes + predictions, minlength=n_classes**2)
    return counts.view(n_classes, n_classes).tolist()


def class_statistics(images, labels, n_classes=10):
    """Mean and variance of each pixel in each class: (N, 1, H, W), (N,) -> two of (n_classes, H, W) on the CPU.

    Those of a class without images are 0.
    """
    members = F.one_hot(labels, n_classes).T.to(images.dtype)  # (n_classes, N)
    members = members / members.sum(1, keepdim=True).clamp(min=1)
    pixels = images.flatten(1)
    means = members @ pixels
    variances = (members @ pixels.square() - means.square()).clamp(min=0)
    return tuple(statistic.view(n_classes, *images.shape[2:]).cpu() for statistic in (means, variances))


def within_class_variance(variances, labels):
    """Those of `class_statistics`, averaged over pixels and images: how far a pixel is from its class's mean."""
    shares = torch.bincount(labels, minlength=len(variances)).cpu() / len(labels)
    return float((variances.mean((1, 2)) * shares).sum())


def rectified(images, homographies):
    """Images (N, 1, H, W) as warped by homographies (N, 3, 3), destination to source, background around them."""
    pairs = zip(images.split(BATCH_SIZE), homographies.split(BATCH_SIZE), strict=True)
    return torch.cat([stn.homography_warp(*pair, padding="background") for pair in pairs])


def ink_kept(images, homographies):
    """The share of the sum of all pixels for which the transformed images have a place: (N, 1, H, W), (N, 3, 3)."""
    height, width = images.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).view(-1, 2).to(images)
    points = stn.to_normalised(pixels, height, width)
    kept = torch.zeros((), device=images.device)
    for batch, matrices in zip(images.split(BATCH_SIZE), homographies.split(BATCH_SIZE), strict=True):
        inverse = torch.linalg.inv_ex(matrices).inverse
        inside = (stn.map_points(inverse, points.expand(len(batch), -1, -1)).abs() <= 1).all(2)  # infinity, NaN are not
        kept += (batch.flatten(1) * inside).sum()
    return float(kept / images.sum())


def frames(homographies, size=28):
    """Where in the image the corners of the transformed image lie: (N, 3, 3) -> (N, 4, 2), (x, y) in pixels."""
    corners = torch.tensor(CORNERS).to(homographies).expand(len(homographies), 4, 2)
    return stn.to_pixels(stn.map_points(homographies, corners), size, size)


def corner_distance(first, second):
    """How far apart the same corners land in two images: (N, 3, 3), (N, 3, 3) -> (N,), in pixels, the mean of four.

    Both homographies map points of such an image (destination) to the undistorted digit, whose corners are meant.
    """
    landed = (frames(torch.linalg.inv_ex(homographies).inverse) for homographies in (first, second))
    return torch.sub(*landed).norm(dim=2).mean(1)


@torch.inference_mode()
def homographies(model, images):
    """`model.homography` of all images, in batches: (N, 3, 3)."""
    return torch.cat([model.homography(batch) for batch in images.split(BATCH_SIZE)])


@torch.inference_mode()
def of_transformer(model, data):
    """The measures of a network with a transformer on the test images of `data`, as numbers by name.

    within_class_variance_before, _after: see `within_class_variance`. Here and for the ink, what lies outside of an
        image is background, also where the network's own padding is grey: the digits are measured.
    ink_kept: see `ink_kept`.
    ink_area: the sum of all pixels after the transform divided by that before: below 1 digits shrink.
    bounded: the share of images in which the denominator of a pixel is bounded (see stn.SMALLEST_DENOMINATOR).
    corner_distance_before, _after: of distorted data only. Two differently distorted copies of the same digit, as they
        are and through the network: how far apart the digit's corners land in them. It is 0 if the network undoes the
        distortions (or shrinks everything to a point: look at the ink, too). Median over the first digits.

    Also returns the `class_statistics` of the images before and after the transformer.
    """
    model.eval()
    transforms = homographies(model, data.test_images)
    before, labels = data.pixels(data.test_images), data.test_labels
    after = rectified(before, transforms)
    statistics = [class_statistics(images, labels) for images in (before, after)]
    variances = [within_class_variance(both[1], labels) for both in statistics]
    results = {
        "within_class_variance_before": variances[0],
        "within_class_variance_after": variances[1],
        "ink_kept": ink_kept(before, transforms),
        "ink_area": float(after.sum() / before.sum()),
        "bounded": float(stn.bounded(transforms, *before.shape[2:]).float().mean()),
    }
    if data.clean:
        results |= corner_distances(model, data, transforms[:PAIRS])
    return results, statistics


def corner_distances(model, data, transforms):
    """{"corner_distance_before": …, "corner_distance_after": …}, from `transforms` of the first test images."""
    n = len(transforms)
    first, second = (
        mnist.perspective_homographies(len(data.test_labels), mnist.TEST_SEED, copy)[:n].to(transforms)
        for copy in (0, 1)
    )
    images = torch.empty_like(data.test_images[:n])
    mnist.distort(data.clean.test_images[:n], second, images)
    distances = {
        "before": corner_distance(first, second),
        "after": corner_distance(first @ transforms, second @ homographies(model, images)),
    }
    return {f"corner_distance_{when}": float(distance.nanmedian()) for when, distance in distances.items()}
