"""Arrange the connected parts of ink: take off lines and frames, find rows of digits, and tell digits from marks.

Boxes are (N, 4) integers, (top, left, bottom, right) in pixels, of the parts with the labels 1 to N.
"""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from digits.image_files import ImageError

MOST_DIGITS = 100
MOST_PARTS = 500  # that are no specks; each is compared with each
SPECK = 0.1  # of the tallest part's height; what is smaller in both directions is dirt
# As a share of its row's height: a lower part is a mark, such as a comma; wider ones may be, and are, several digits.
MARK, SPLIT, JOINED = 0.4, 1.3, 1.8
LOW_ROW = 0.3  # of the tallest row's height: a lower row is too small to be read beside it
TEXTURE = "are probably a text or a texture"


def label_parts(mask):
    """Label the connected parts of a mask (H, W): integers (H, W), and their boxes."""
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels)]
    return labels, np.array(boxes, int).reshape(number, 4)


def heights(boxes):
    return boxes[:, 2] - boxes[:, 0]


def widths(boxes):
    return boxes[:, 3] - boxes[:, 1]


def slices(box):
    return np.s_[box[0] : box[2], box[1] : box[3]]


def at_edge(boxes, shape):
    """Return which boxes touch the edge of an image of a shape (H, W)."""
    return (boxes[:, :2] <= 0).any(1) | (boxes[:, 2:] >= shape).any(1)


def check_number(boxes, shape):
    """Raise ImageError if there are too many parts to be compared with each other."""
    inside = boxes[~at_edge(boxes, shape)]
    sizes = np.maximum(heights(boxes), widths(boxes))
    number = np.count_nonzero(sizes > SPECK * heights(inside if len(inside) else boxes).max(initial=0))
    if number > MOST_PARTS:
        raise ImageError(f"falls into {number:,} parts; more than {MOST_PARTS} {TEXTURE}")


# Lines and frames


def keep_runs(mask, length, axis):
    """Keep the runs of a mask (H, W) along an axis that are at least `length` pixels long (a morphological opening)."""
    length |= 1
    shrunk = ndimage.minimum_filter1d(mask.astype(np.uint8), length, axis, mode="constant")
    return ndimage.maximum_filter1d(shrunk, length, axis, mode="constant").astype(bool)


def straight_lines(mask, length, axis):
    """Return where a mask (H, W) has straight lines along an axis, at least `length` long, and their thickness.

    They may be askew by a pixel or so. Strokes that cross them, whose runs across are longer, do not belong to them.
    """
    runs = keep_runs(ndimage.maximum_filter1d(mask.astype(np.uint8), 3, 1 - axis), length, axis) & mask
    starts = np.count_nonzero(runs & ~np.roll(runs, 1, 1 - axis))
    if not starts:
        return runs, 0
    thickness = np.count_nonzero(runs) / starts
    return runs & ~keep_runs(mask, round(1.5 * thickness) + 2, 1 - axis), thickness


def find_lines(mask, length):
    """Return where a mask (H, W) has lines of a least length (vertical, horizontal), and the thickest one's thickness.

    Where two lines cross, both end.
    """
    lines, thicknesses = zip(*(straight_lines(mask, length[axis], axis) for axis in (0, 1)), strict=True)
    found = lines[0] | lines[1]
    thickness = max(thicknesses)
    if all(thicknesses):
        near = [ndimage.maximum_filter(line.astype(np.uint8), 2 * round(thickness) + 1) for line in lines]
        found |= mask & (near[0] & near[1]).astype(bool)
    return found, thickness


def enclosed_by(number, labels, boxes):
    """Return the indices of parts that lie in the holes of the part of an index."""
    box = boxes[number]
    inside = (boxes[:, :2] > box[:2]).all(1) & (boxes[:, 2:] < box[2:]).all(1)
    inside &= heights(boxes) > 0.05 * heights(boxes[number : number + 1])
    if not inside.any():
        return np.flatnonzero(inside)
    filled = ndimage.binary_fill_holes(labels[slices(box)] == number + 1)
    middles = (boxes[inside].reshape(-1, 2, 2).sum(1) // 2 - box[:2]).T
    return np.flatnonzero(inside)[filled[tuple(middles)]]


def covered(lines, axis):
    """Return the share of rows (axis 0) or columns (axis 1) that lines go through, crossed by strokes or not."""
    places = np.flatnonzero(lines.any(1 - axis))
    return np.ptp(places) / lines.shape[axis] if len(places) > 0.3 * lines.shape[axis] else 0


def take_off_lines(mask):
    """Return a mask (H, W) of ink without the frames and lines around and below the writing, and how many there were.

    Frames are parts that enclose others, such as rings, boxes and tables, or have straight lines at three of their
    sides; lines are much longer than the writing is high, or go from edge to edge.
    """
    labels, boxes = label_parts(mask)
    check_number(boxes, mask.shape)
    tall, wide = heights(boxes), widths(boxes)
    tallest = tall.max(initial=0)
    is_large = np.maximum(tall, wide) > max(8, SPECK * tallest)
    inner = {n: enclosed_by(n, labels, boxes) for n in np.flatnonzero(is_large)}
    inner = {n: found for n, found in inner.items() if is_frame(n, found, tall)}
    is_writing = is_large & (wide < 2 * tall) & ~at_edge(boxes, mask.shape)
    is_writing[list(inner)] = False
    mask, number = mask.copy(), 0
    for n in np.flatnonzero(is_large):
        others = is_writing.copy()
        others[n] = False
        writing = np.median(tall[inner[n]]) if n in inner else np.median(tall[others]) if others.any() else None
        box = boxes[n]
        part = labels[slices(box)] == n + 1
        length = least_length(part, box, mask.shape, writing, n in inner)
        if length is None:
            continue
        lines, thickness = find_lines(part, length)
        share = np.count_nonzero(lines) / np.count_nonzero(part)
        if n in inner and share < 0.5:  # a ring, or a frame that is askew
            mask[slices(box)] &= ~part
            number += 1
        elif lines.any() and (n in inner or is_ruled(part, lines, box, mask.shape, writing, thickness)):
            mask[slices(box)] &= ~part | drop_remnants(part & ~lines, lines, thickness, writing)
            number += 1
    return mask, number


def is_frame(number, inner, tall):
    """Return whether a part is a frame, by the parts in its holes: one is a quarter as tall, or there are several."""
    return (tall[inner] > 0.25 * tall[number]).any() or len(inner) > 2


def least_length(part, box, shape, writing, is_frame):
    """Return how long lines in a part are at least, (vertical, horizontal), or None if it can have none.

    writing: the height of other writing, or None.
    """
    tall, wide = part.shape
    if writing is not None:
        if not is_frame and max(tall, wide) < 1.2 * writing:
            return None
        length = max(8, round(1.2 * writing))  # or most of a box that is a little larger than the writing
        return [min(length, round(0.8 * n)) if n > 1.1 * writing else length for n in (tall, wide)]
    if wide > 2.5 * tall:  # a number on a line, which joins its digits
        return 2 * tall, round(1.2 * tall)
    if box[0] <= 0 or box[1] <= 0 or box[2] >= shape[0] or box[3] >= shape[1]:
        return round(0.25 * shape[0]), round(0.25 * shape[1])
    return round(0.6 * tall), round(0.6 * wide)


def is_ruled(part, lines, box, shape, writing, thickness):
    """Return whether a part that encloses nothing has lines that are no strokes of a digit."""
    tall, wide = part.shape
    if thickness > max(tall, wide) / 12:
        return False
    rim = max(3, round(2 * thickness), min(tall, wide) // 10)
    sides = [lines[:rim], lines[-rim:], lines[:, :rim], lines[:, -rim:]]
    if sum(covered(side, 1 - n // 2) > 0.8 for n, side in enumerate(sides)) > 2:
        return True
    height, width = shape
    across = covered(lines, 1) > 0.8, covered(lines, 0) > 0.8
    if writing is not None or wide > 2.5 * tall:
        return (across[0] and wide > 2 * (writing or tall)) or (across[1] and tall > 2.5 * (writing or tall))
    inner = lines[rim:-rim] if across[0] else lines[:, rim:-rim]  # a cropped 7 has its bar along the edge
    from_edge = box[1] <= 1 and box[3] >= width - 1, box[0] <= 1 and box[2] >= height - 1
    return any(a and b for a, b in zip(across, from_edge, strict=True)) and bool(inner.any())


def drop_remnants(rest, lines, thickness, writing):
    """Return what is left of a part, (h, w) bool, without scraps along the lines that were taken off, and ticks."""
    labels, boxes = label_parts(rest)
    if not len(boxes):
        return rest
    near = ndimage.maximum_filter(lines.astype(np.uint8), 2 * round(thickness) + 3) > 0
    numbers = np.arange(1, len(boxes) + 1)
    scraps = ndimage.mean(near, labels, numbers) > 0.5
    touching = np.unique(labels[near])
    height = writing or heights(boxes).max()
    is_bar = (widths(boxes) <= 2.5 * thickness + 2) & np.isin(numbers, touching)
    ends = np.array(
        [near[top, left:right].any() and near[bottom - 1, left:right].any() for top, left, bottom, right in boxes]
    )
    scraps |= is_bar & ((heights(boxes) < 0.7 * height) | ends) | (heights(boxes) <= 1.5 * thickness + 1)
    return rest & ~np.isin(labels, numbers[scraps])


# Rows and digits


def find_rows(labels, boxes):
    """Return the rows of digits, from top to bottom, and what was left out.

    Each row is a list of digits from left to right, each the labels of its parts. What was left out is a dict of
    numbers: {"at the edge": 2, "marks": 1}. Raise ImageError if there are too many digits.
    """
    left_out = {}
    chosen = np.arange(len(boxes))
    is_cut = at_edge(boxes, labels.shape)
    tallest = heights(boxes[~is_cut]).max(initial=0)
    if tallest > len(labels) / 20:  # otherwise the digit itself touches the edge
        left_out["at the edge"] = int(np.count_nonzero(is_cut & (heights(boxes) > LOW_ROW * tallest)))
        chosen = chosen[~is_cut]
    tallest = heights(boxes[chosen]).max(initial=0)
    sizes = np.maximum(heights(boxes), widths(boxes))
    chosen = chosen[sizes[chosen] > SPECK * tallest]
    rows = []
    for number in sorted(chosen, key=lambda n: boxes[n, 0] - boxes[n, 2]):
        row = find_row(boxes[number], rows, boxes)
        rows.append([number]) if row is None else row.append(number)
    rows = [join_parts(sorted(row, key=lambda n: boxes[n, 1]), labels, boxes) for row in rows]
    kept = []
    highest = max((max(box[2] - box[0] for box, _ in row) for row in rows), default=0)
    for row in sorted(rows, key=lambda row: min(box[0] + box[2] for box, _ in row)):
        digits, counts = choose_digits(row, highest)
        for name, count in counts.items():
            left_out[name] = left_out.get(name, 0) + count
        if digits:
            kept.append([parts for _, parts in sorted(digits, key=lambda digit: digit[0][1])])
    number = sum(map(len, kept))
    if number > MOST_DIGITS:
        raise ImageError(f"seems to hold {number} digits; more than {MOST_DIGITS} {TEXTURE}")
    return kept, {name: count for name, count in left_out.items() if count}


def find_row(box, rows, boxes):
    """Return the row that a part belongs to, of those of taller parts, or None."""
    best = 0, None
    for row in rows:
        members = boxes[row]
        gaps = np.maximum(members[:, 1] - box[3], box[1] - members[:, 3])
        nearest = members[gaps.argmin()]
        overlap = (min(box[2], nearest[2]) - max(box[0], nearest[0])) / (box[2] - box[0])
        is_low = box[2] - box[0] < 0.5 * heights(members).max()
        if overlap > max(best[0], 0.3 if is_low else 0.5):
            best = overlap, row
        elif best[1] is None and any(are_halves(box, member) for member in members):
            best = 0, row
    return best[1]


def are_halves(box, other):
    """Return whether two boxes, one above the other, are parts of one broken digit and not digits of two rows.

    Whole digits are higher than wide, and rows farther apart than the parts of a digit.
    """
    union = max(box[2], other[2]) - min(box[0], other[0])
    gap = max(box[0], other[0]) - min(box[2], other[2])
    low, wide = box[2] - box[0], box[3] - box[1]
    if x_overlap(box, other) < 0.5 or gap > 0.25 * union:
        return False
    if low < 0.35 * union and wide > max(0.2 * union, 1.2 * low):  # a bar
        return True
    is_flat = any(b[3] - b[1] > 1.05 * (b[2] - b[0]) for b in (box, other))
    return gap <= (0.12 if is_flat else 0.05) * union


def x_overlap(box, other):
    """Return by how much two boxes overlap from left to right, as a share of the narrower one."""
    return (min(box[3], other[3]) - max(box[1], other[1])) / min(box[3] - box[1], other[3] - other[1])


def join_parts(row, labels, boxes):
    """Join the parts of a row that belong to one digit: [(box, labels of its parts), ...]."""
    row_height = heights(boxes[row]).max()
    digits = []
    for number in sorted(row, key=lambda n: boxes[n, 0] - boxes[n, 2]):
        box = boxes[number]
        for k, (other, parts) in enumerate(digits):
            if belong_together(box, other, parts, labels, row_height):
                union = (*np.minimum(box[:2], other[:2]), *np.maximum(box[2:], other[2:]))
                digits[k] = np.array(union), [*parts, number + 1]
                break
        else:
            digits.append((box, [number + 1]))
    return digits


def belong_together(box, other, parts, labels, row_height):
    """Return whether a part belongs to a digit of taller parts in its row."""
    tall, wide = box[2] - box[0], box[3] - box[1]
    overlap, is_apart = x_overlap(box, other), box[0] >= other[2] or box[2] <= other[0]
    if tall > 0.7 * row_height:
        return overlap > (0.5 if is_apart else 0.9)
    middle = ((box[0] + box[2]) / 2 - other[0]) / (other[2] - other[0])
    is_beside = overlap < 0.5
    if max(tall, wide) < 0.2 * row_height or (is_beside and not 0.2 < middle < 0.75):
        return False
    reach = max(2, round((0.08 if is_beside else 0.2) * row_height))  # commas are farther away, and at the foot
    near = labels[max(0, box[0] - reach) : box[2] + reach, max(0, box[1] - reach) : box[3] + reach]
    return bool(np.isin(near, parts).any())


def choose_digits(row, highest):
    """Divide the parts of a row into digits and what is none, which is counted by its name."""
    row_height = max(box[2] - box[0] for box, _ in row)
    if row_height < LOW_ROW * highest:
        return [], {"too small": len(row)}
    digits = [(box, parts) for box, parts in row if not is_mark(box, row_height)]
    usual = np.median([box[3] - box[1] for box, _ in digits])
    several = max(1.35 * row_height, 2.6 * usual) if len(digits) > 2 else np.inf
    single = [digit for digit in digits if digit[0][3] - digit[0][1] <= min(several, JOINED * row_height)]
    return single, {"marks": len(row) - len(digits), "joined": len(digits) - len(single)}


def is_mark(box, row_height):
    """Return whether a part is a mark and no digit: it is low, or less low and narrow, as a bold comma is."""
    tall, wide = box[2] - box[0], box[3] - box[1]
    return tall < (0.55 if wide < 0.4 * row_height else MARK) * row_height


def split_parts(labels, boxes, amount):
    """Split wide parts whose digits touch by faint ink only: return new labels and boxes.

    amount: of ink, (H, W) in [0, 1]. A part is split where several tall parts, side by side, remain of its darker ink.
    """
    labels, number = labels.copy(), len(boxes)
    for n in np.flatnonzero(widths(boxes) > SPLIT * heights(boxes)):
        box = slices(boxes[n])
        part = labels[box] == n + 1
        for threshold in (0.5, 0.65, 0.8):
            cores, its_boxes = label_parts(part & (amount[box] > threshold))
            tall = np.flatnonzero(heights(its_boxes) > 0.6 * len(part))
            tall = tall[np.argsort(its_boxes[tall, 1])]
            if len(tall) > 1 and all(x_overlap(*its_boxes[[a, b]]) < 0.3 for a, b in pairwise(tall)):
                away = ~np.isin(cores, tall + 1)
                nearest = ndimage.distance_transform_edt(away, return_distances=False, return_indices=True)
                new = np.zeros(len(its_boxes) + 1, int)
                new[tall + 1] = [n + 1, *range(number + 1, number + len(tall))]
                number += len(tall) - 1
                labels[box][part] = new[cores[tuple(nearest)]][part]
                break
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels)]
    return labels, np.array(boxes, int).reshape(number, 4)


def is_display(mask):
    """Return whether a mask (H, W) shows seven-segment digits: nearly all of it are bars, upright and level."""
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")
    width = 4 * distance[distance > 0].mean()  # of a stroke: the mean distance to its edge is a quarter of its width
    labels, boxes = label_parts(mask)
    if width < 0.06 * heights(boxes).max():  # of a pen
        return False
    areas = ndimage.sum_labels(mask, labels, np.arange(1, len(boxes) + 1))
    are_apart = np.mean(areas > 0.75 * heights(boxes) * widths(boxes)) > 0.5  # bars, not joined at their ends
    least, most = max(3, round((1.2 if are_apart else 1.5) * width)), round(1.5 * width) + 2
    bars = [keep_runs(mask, least, axis) & ~keep_runs(mask, most, 1 - axis) for axis in (0, 1)]
    shares = [np.count_nonzero(bar) / np.count_nonzero(mask) for bar in bars]
    sizes = [np.minimum(heights(size), widths(size)) for _, size in map(label_parts, bars)]
    is_balanced = are_apart or min(shares) > 0.38  # which rows of 7 are not
    number = np.count_nonzero(np.concatenate(sizes) > width / 2)
    return sum(shares) > (0.89 if is_balanced else 0.94) and min(shares) > 0.25 and number > 6
