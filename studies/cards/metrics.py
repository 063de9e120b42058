"""Measure and draw how well cards are found and their numbers read.

Trained on digits only, a network is free to choose its own frame for the card. So one constant homography, fitted on
training cards, aligns that frame with the card before corners and outlines are measured.
"""

import numpy as np
import torch
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from lab import figures
from lab.catalogue import spec_of
from stn import warps
from stn.metrics import TransformerMeasures, batches, homographies
from studies.cards import geometry
from studies.cards.data import scenes, sources_of

N_ALIGNED = N_CURVE = 1000  # training scenes for the alignment; test scenes for each strength
ALIGNMENT_SEED, CURVE_SEED = 1, 2  # of those
FIELD_GRID = 7, 33  # rows and columns of the points of the number's field that `share_seen` looks at
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
N_SHOWN, PICTURE = 12, "Test scenes, the outline that is found, and the strip that is read"  # drawn


def measure_transformer(model, data):
    """Measure a network on the test scenes of `data`, and on scenes of several strengths.

    The numbers:

    digits_read: the share of all digits that are read, in %. (The share of whole numbers is the run's accuracy.)
    iou, iou_95: the mean intersection over union of outline and card, in the card's own frame (SmartDoc 2015), and the
        share of scenes where it is at least 0.95.
    corner_error, corner_error_p95: the mean distance of the four corners from the true ones, in % of the card's
        diagonal: median and 95th percentile.
    by_strength: lists of the strengths, and of numbers_read and digits_read (%), iou and corner_error at each.

    For strips there are only numbers_read and digits_read. The homographies are the network's own, not aligned.
    """
    model.eval()
    straight = data.test_images.shape[2:] == geometry.STRIP
    alignment = None if straight else alignment_of(model, data)
    backgrounds = "train" if spec_of(data.description).held_out else "test"
    sources, found = sources_of(data.clean, "test", backgrounds), []
    for strength in STRENGTHS:
        drawn = scenes(sources, N_CURVE, CURVE_SEED, strength, straight)
        found.append(measure(model, *(part.to(data.test_images.device) for part in drawn), alignment))
    curve = {name: [each[name] for each in found] for name in found[0] if not name.endswith("95")}
    numbers = measure(model, data.test_images, data.test_labels, data.test_homographies, alignment)
    del numbers["numbers_read"]
    transforms = None if straight else homographies(model, data.test_images)
    return TransformerMeasures(numbers | {"by_strength": {"strength": list(STRENGTHS)} | curve}, transforms, None)


@torch.inference_mode()
def measure(model, images, labels, truth, alignment):
    """Return the measures of one set of scenes, see `measure_transformer`; truth: the true homographies (N, 3, 3)."""
    right = torch.cat([model(batch).argmax(1) for batch in batches(images)]) == labels
    numbers = {"numbers_read": 100 * float(right.all(1).double().mean())}
    numbers["digits_read"] = 100 * float(right.double().mean())
    if alignment is None:
        return numbers
    found = homographies(model, images).double() @ alignment
    overlaps = iou(torch.linalg.inv(truth.double()) @ found)
    ours, theirs = (geometry.card_corners(each) for each in (found, truth.double()))
    diagonals = (theirs - theirs.roll(2, 1)).norm(dim=2).mean(1)
    errors = 100 * ((ours - theirs).norm(dim=2).mean(1) / diagonals).cpu().numpy()
    numbers |= {"iou": float(overlaps.mean()), "iou_95": float((overlaps >= 0.95).mean())}
    return numbers | {"corner_error": float(np.median(errors)), "corner_error_p95": float(np.quantile(errors, 0.95))}


def alignment_of(model, data):
    """Fit the constant homography from the card's nominal position to its position in the network's frame, (3, 3).

    It is fitted to the median position of each corner in training scenes of full strength.
    """
    drawn = scenes(sources_of(data.clean, "train", "train"), N_ALIGNED, ALIGNMENT_SEED, 1.0)
    device = data.test_images.device
    found = homographies(model, drawn.images.to(device)).double()
    corners = geometry.card_corners(torch.linalg.inv(found) @ drawn.homographies.to(device).double())
    middle = corners.median(0, keepdim=True).values.cpu().numpy()
    return torch.from_numpy(geometry.homographies_to(middle)[0]).to(device)


def iou(outlines):
    """Return the intersection over union of cards and outlines, (N,) float64.

    outlines (N, 3, 3) map the card's nominal position to the outline's position in the card's own frame. An outline
    that crosses the horizon has no overlap.
    """
    corners = geometry.card_corners(outlines)
    nominal, _ = geometry.constants(geometry.places_in_the_middle, corners)
    weights = torch.cat([nominal, torch.ones_like(nominal[..., :1])], 2) @ outlines.transpose(1, 2)
    behind = (weights[..., 2] <= 0).any(1).cpu().numpy()
    card = nominal[0].cpu().numpy()
    box, area = Bbox(card[[0, 2]]), polygon_area(card)
    found = np.zeros(len(corners))
    for number, outline in enumerate(corners.cpu().numpy()):
        if not behind[number]:
            parts = Path(np.vstack([outline, outline[:1]])).clip_to_bbox(box).to_polygons()
            common = sum(polygon_area(part) for part in parts)
            found[number] = common / (area + polygon_area(outline) - common)
    return found


def polygon_area(points):
    """Return the area of a simple polygon (N, 2), by the shoelace formula."""
    x, y = np.asarray(points, float).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def share_seen(data, homographies):
    """Return the share, 0 to 1, of the number's field that the classifier sees, in the first test scenes.

    homographies: those of as many scenes (N, 3, 3). The classifier sees only the strip that they cut out.
    """
    return field_seen(homographies, data.test_homographies[: len(homographies)])


def field_seen(homographies, truth):
    """Return the share of the number's field that is seen, from homographies and the true ones, both (N, 3, 3)."""
    _, field = geometry.constants(geometry.places_in_the_middle, homographies)
    points = warps.sampling_points(truth.to(homographies) @ field, *FIELD_GRID)
    seen = warps.map_points(torch.linalg.inv_ex(homographies @ field).inverse, points)
    return float((seen.abs() <= 1).all(2).double().mean())  # infinity and NaN are not


@torch.inference_mode()
def draw_transforms(model, data, title):
    """Draw the first test scenes with their predicted outlines, and the strips with the digits that are read."""
    model.eval()
    images, labels = data.test_images[:N_SHOWN], data.test_labels[:N_SHOWN].tolist()
    strips = model.transform(images)
    read = model.classify(strips).argmax(1).tolist()
    texts = [("".join(map(str, ours)), ours == label) for ours, label in zip(read, labels, strict=True)]
    transforms = None if images.shape[2:] == geometry.STRIP else model.homography(images)
    return draw_scenes(images, transforms, strips, texts, title)


def draw_warps(data, transforms, title, padding):
    """Draw the first test scenes, the outlines of homographies (N, 3, 3), and the strips that these cut out."""
    transforms = transforms[:N_SHOWN]
    images = data.test_images[: len(transforms)]
    return draw_scenes(images, transforms, geometry.strips(images / 255, transforms), [("", True)] * len(images), title)


def draw_scenes(images, transforms, strips, texts, title):
    """Draw scenes (N, 1, 128, 128), outlines, unless `transforms` is None, and strips (N, 1, 28, 133)."""
    outlines = None
    if transforms is not None:
        outlines = warps.to_pixels(geometry.card_corners(transforms), geometry.SCENE, geometry.SCENE).cpu().numpy()
    strips = strips / 255 if strips.dtype == torch.uint8 else strips
    return figures.cards_read(images[:, 0].cpu().numpy(), outlines, strips[:, 0].cpu().numpy(), texts, title)


def picture(model, data):
    """Return the figure of `draw_transforms` as an image (H, W, 3) of bytes, for TensorBoard."""
    return figures.as_picture(draw_transforms(model, data, ""))
