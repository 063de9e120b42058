"""Draw digits, and what is no digit, as people's pictures show them: in fonts, and with a pen.

Every image is made as `digits.own_images` makes those of a picture: 28×28, light on black, centred by mass. All random
choices come from the generator that is passed.
"""

import string
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from digits.image_files import ImageError
from digits.own_images import find_digits, to_mnist
from stn.mnist import ROOT
from studies.pictures import PHOTOGRAPHS

HEIGHT = 60  # pixels of a drawing, before it is brought to 28×28
NARROW = 8  # pixels of 28: the least width of a part of a picture
# matplotlib's own fonts, the same everywhere; one family to train on, two to measure with.
FONTS = {
    "training": (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    ),
    "test": (
        *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
        *("cmr10", "cmss10", "cmtt10", "cmb10", "cmti10"),
    ),
}
LIKE_DIGITS = "OoQDlIiJjSsZzBbGgqTyY"  # letters that some hand or font draws as a digit
SIGNS = "".join(sorted(set(string.ascii_letters + "&@#%$+=*~^€£§") - set(LIKE_DIGITS)))

# How people write digits, and letters that no hand writes as a digit: strokes, separated by semicolons, of points "x,y"
# in a box of 100×100, y downward, that a smooth curve joins. A point that is repeated is a corner.
FORMS = {
    0: (
        "50,0 15,20 5,55 25,95 60,97 90,60 85,20 50,0",
        "60,3 20,15 5,50 20,90 55,100 90,70 90,25 55,0 40,5",
        "50,0 15,20 5,55 25,95 60,97 90,60 85,20 50,0; 85,10 15,90",
    ),
    1: (
        "50,0 50,100",
        "22,28 55,0 55,0 52,100",
        "5,45 55,0 55,0 55,100",
        "10,20 40,12 55,0 55,0 50,100",
        "25,25 50,0 50,0 50,100; 20,100 80,100",
        "50,0 50,100; 25,100 75,100",
    ),
    2: (
        "10,25 30,2 75,5 85,35 50,70 5,100 5,100 95,98",
        "10,20 40,0 80,15 75,50 30,95 10,90 25,75 60,90 95,95",
        "5,5 80,3 80,3 5,97 5,97 90,100",
    ),
    3: (
        "10,12 50,0 85,20 40,47 40,47 90,70 60,100 5,90",
        "10,3 85,3 85,3 40,42 40,42 90,65 60,98 5,90",
        "10,15 50,0 85,22 55,45 85,70 50,100 5,87",
    ),
    4: (
        "25,0 5,55 5,55 95,52; 75,10 70,100",
        "65,0 2,68 2,68 98,66; 67,0 67,100",
        "10,0 12,40 40,55 85,40; 88,0 85,100",
        "70,100 70,0 70,0 5,65 5,65 95,65",
    ),
    5: (
        "85,3 20,3 20,3 15,45 15,45 60,38 88,68 50,100 5,90",
        "20,5 15,45 15,45 65,40 85,70 50,100 8,90; 22,4 90,2",
        "80,5 30,5 15,35 50,45 85,70 55,98 10,93",
    ),
    6: (
        "70,0 25,30 8,70 40,100 85,80 60,50 12,72",
        "35,0 10,50 15,90 50,100 85,82 70,55 15,70",
        "85,8 50,2 12,40 15,85 55,100 88,75 55,50 15,70",
    ),
    7: (
        "5,5 90,3 90,3 40,100",
        "5,5 90,3 90,3 40,100; 30,50 85,48",
        "5,20 8,3 8,3 90,3 90,3 40,100",
        "5,10 40,0 92,5 92,5 60,50 50,100",
        "5,15 10,3 10,3 90,3 90,3 40,100; 30,52 85,50",
    ),
    8: (
        "75,12 40,0 15,22 55,50 88,78 50,100 12,78 50,48 82,20 60,3",
        "50,0 20,22 50,46 80,22 50,0; 50,46 10,74 50,100 90,74 50,46",
    ),
    9: (
        "85,20 50,0 12,25 40,50 85,20 85,20 80,100",
        "85,15 45,0 12,28 40,52 82,30 85,20 75,75 35,100",
        "85,20 50,0 12,25 45,50 85,25 85,25 85,85 50,100 12,90",
    ),
}
LETTERS = {
    "A": ("0,100 50,0 50,0 100,100; 20,62 80,62", "5,100 15,55 50,0 85,55 95,100; 12,65 90,62"),
    "C": ("92,15 50,0 8,50 50,100 92,85", "95,25 65,2 15,25 12,75 55,100 95,88"),
    "E": ("92,3 8,3 8,3 8,98 8,98 95,98; 8,50 75,48", "88,8 45,0 15,22 50,46 50,46 8,72 45,100 92,88"),
    "F": ("92,3 8,3 8,3 8,100; 8,48 72,46", "20,0 15,100; 5,5 95,0; 15,50 75,48"),
    "H": ("8,0 8,100; 92,0 92,100; 8,50 92,48",),
    "K": ("8,0 8,100; 88,0 8,58; 30,45 92,100", "10,0 10,100; 90,5 12,55 12,55 90,98"),
    "L": ("10,0 10,98 10,98 92,98", "15,0 12,85 25,98 90,95"),
    "M": ("5,100 12,0 12,0 50,65 50,65 88,0 88,0 95,100", "5,100 5,0 5,0 50,50 50,50 95,0 95,0 95,100"),
    "N": ("8,100 8,0 8,0 92,100 92,100 92,0", "5,100 15,5 15,5 80,98 80,98 95,0"),
    "P": ("10,100 10,0 10,0 70,3 90,28 65,52 10,55", "15,0 10,100; 5,10 60,0 92,25 60,52 15,50"),
    "R": (
        "10,100 10,0 10,0 70,3 88,26 60,50 10,50 10,50 90,100",
        "12,0 10,100; 5,8 65,2 88,25 55,50 15,48; 40,50 92,100",
    ),
    "U": ("8,0 10,70 50,100 90,70 92,0", "8,0 10,70 45,98 85,70 88,0 88,0 90,100"),
    "V": ("5,0 50,100 50,100 95,0",),
    "W": ("3,0 25,100 25,100 50,30 50,30 75,100 75,100 97,0", "5,0 15,85 42,90 50,30 58,90 85,85 95,0"),
    "X": ("5,0 95,100; 95,0 5,100", "5,5 40,25 45,75 5,95; 95,5 60,25 55,75 95,95"),
    "a": (
        "90,20 50,0 8,45 35,100 88,60; 88,0 90,80 100,100",
        "15,15 55,0 85,25 85,100; 85,45 30,50 10,78 40,100 85,75",
    ),
    "d": ("88,0 88,100; 88,60 50,38 10,70 45,100 88,80", "85,65 45,40 10,72 45,98 80,75 90,0 90,0 88,85 98,100"),
    "e": ("10,50 88,48 88,48 82,12 50,0 12,30 15,75 55,100 92,85",),
    "f": ("85,8 55,0 40,25 40,100; 10,42 75,40", "90,12 60,0 45,30 50,80 25,100; 15,45 80,42"),
    "h": ("12,0 12,100; 12,65 50,42 85,60 88,100", "20,0 10,100 10,100 25,60 65,45 75,65 70,100"),
    "k": ("12,0 12,100; 80,40 14,70 14,70 88,100",),
    "m": ("5,100 5,5; 5,35 28,5 48,30 48,100; 48,35 72,5 93,30 95,100",),
    "n": ("10,100 10,5; 10,40 50,3 88,35 90,100", "5,10 15,5 20,100; 20,40 60,0 85,30 85,90 98,95"),
    "p": ("12,0 12,100; 12,15 55,0 88,28 55,60 12,48",),
    "r": ("15,100 15,5; 15,45 45,5 88,15",),
    "t": ("45,0 42,85 65,100 92,88; 10,30 88,28", "50,0 50,100; 12,30 88,28"),
    "u": ("8,5 10,75 45,98 85,65; 88,5 88,80 98,98",),
}


def draw_digit(digit, rng, fonts="training"):
    """Draw a digit in a random font or, as often, with a random pen: (28, 28) in [0, 1]."""
    return draw_printed(str(digit), rng, fonts) if rng.random() < 0.5 else draw_written(FORMS[digit], rng)


def draw_printed(text, rng, fonts="training"):
    """Print a text in a random font, weight, width and slant: (28, 28) in [0, 1]."""
    drawing = Image.new("L", (HEIGHT * (len(text) + 1), 2 * HEIGHT))
    ImageDraw.Draw(drawing).text((HEIGHT // 3, HEIGHT // 3), text, 255, open_font(rng.choice(FONTS[fonts])))
    ink = np.asarray(drawing.crop(drawing.getbbox()), np.float32) / 255
    bolder = int(rng.integers(-1, 3))  # pixels
    if bolder:
        change = ndimage.grey_dilation if bolder > 0 else ndimage.grey_erosion
        changed = change(np.pad(ink, 3), size=(abs(bolder) + 1,) * 2)
        ink = changed if changed.max() > 0.5 else ink  # a thin stroke may be gone
    return bring_to_mnist(ink, rng)


@lru_cache
def open_font(name):
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", HEIGHT)


def draw_written(forms, rng):
    """Write one of the forms of a digit or letter, with a random hand and pen: (28, 28) in [0, 1]."""
    strokes = rng.choice(forms).split(";")
    return draw_strokes([[point.split(",") for point in stroke.split()] for stroke in strokes], rng)


def draw_strokes(strokes, rng):
    """Draw strokes, lists of points in a box of 100×100, with a random hand and pen: (28, 28) in [0, 1]."""
    width, pen = rng.uniform(0.45, 0.95), rng.uniform(0.05, 0.16)
    drawing = Image.new("L", (2 * HEIGHT, 2 * HEIGHT))
    pencil = ImageDraw.Draw(drawing)
    for stroke in strokes:
        points = np.array(stroke, float) / 100
        repeated = np.r_[False, (np.diff(points, axis=0) == 0).all(1)]
        points = points[~repeated] + rng.normal(0, 0.035, (len(points) - repeated.sum(), 2))
        corners = [i - repeated[: i + 1].sum() for i in np.flatnonzero(repeated)]
        line = smooth(points, [0, *corners, len(points) - 1])
        line = ((line - 0.5) * (width, 1) * HEIGHT + HEIGHT).tolist()
        pencil.line([tuple(point) for point in line], 255, max(2, round(pen * HEIGHT)), "curve")
        radius = pen * HEIGHT / 2
        for x, y in (line[0], line[-1]):
            pencil.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return bring_to_mnist(np.asarray(drawing, np.float32) / 255, rng)


def draw_no_digits(rng, number):
    """Draw what is no digit, `number` images (28, 28) in [0, 1]: as many parts of pictures as drawings."""
    drawn, parts = [], []
    while len(drawn) + len(parts) < number:
        if len(drawn) <= len(parts):
            drawn.append(draw_no_digit(rng))
        else:
            parts += find_parts(rng)
    return [*drawn, *parts][:number]


def draw_no_digit(rng, fonts="training"):
    """Draw what is no digit: a sign, a letter, a word, joined digits or a scribble: (28, 28) in [0, 1]."""
    kind = rng.integers(5)
    if kind == 0:
        return draw_printed(rng.choice(list(SIGNS)), rng, fonts)
    if kind == 1:
        letters = list(string.ascii_letters)
        return draw_printed("".join(rng.choice(letters, rng.integers(2, 6))), rng, fonts)
    if kind == 2:
        return draw_printed("".join(map(str, rng.integers(0, 10, rng.integers(2, 4)))), rng, fonts)
    if kind == 3:
        return draw_written(LETTERS[rng.choice(list(LETTERS))], rng)
    n_strokes = rng.integers(1, 4)
    return draw_strokes([rng.uniform(0, 100, (rng.integers(5, 10), 2)) for _ in range(n_strokes)], rng)


def find_parts(rng):
    """Take a texture or a part of a photograph, and return what would be read in it: at most 3 images (28, 28)."""
    if rng.random() < 0.5:
        values = ndimage.gaussian_filter(rng.normal(0, 1, (150, 150)), rng.uniform(0.5, 12, 2))
        low, high = np.quantile(values, (0.01, 0.99))
        picture = Image.fromarray((255 * ((values - low) / (high - low)).clip(0, 1)).astype(np.uint8))
    else:
        name = rng.choice(PHOTOGRAPHS["taught"])
        photograph = Image.open(ROOT / "photographs" / f"{name}.png").convert("L")
        width, height = (int(side * rng.uniform(0.1, 0.6)) for side in photograph.size)
        left, top = (int(rng.integers(side)) for side in (photograph.width - width, photograph.height - height))
        picture = photograph.crop((left, top, left + width, top + height))
        if max(picture.size) > 300:
            picture.thumbnail((300, 300))
    try:
        images = find_digits(picture).images
    except ImageError:
        return []
    is_broad = (images.max(1) > 0.1).sum(1) >= NARROW  # others may pass for a 1
    return list(rng.permutation(images[is_broad])[:3])


def smooth(points, corners):
    """Return a smooth curve (n, 2) through points (k, 2), with corners at those of these indices."""
    parts = []
    for first, last in pairwise(corners):
        part = points[first : last + 1]
        along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(part, axis=0), axis=1).clip(0.01))]
        spline = make_interp_spline(along, part, k=min(3, len(part) - 1))
        parts.append(spline(np.linspace(0, along[-1], 24)))
    return np.concatenate(parts)


def bring_to_mnist(ink, rng):
    """Slant, turn and bend ink (H, W) a little, and return it as (28, 28) in [0, 1]."""
    side = int(1.6 * max(ink.shape)) + 8
    padded = np.zeros((side, side), np.float32)
    top, left = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
    padded[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    turn, slant, widen = rng.normal(0, 0.08), rng.normal(0, 0.12), rng.uniform(0.85, 1.15)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, 0], [slant, widen]]
    bend = ndimage.gaussian_filter(rng.normal(0, 1, (2, 8, 8)), (0, 1.2, 1.2)) * side / 40
    bend = np.stack([ndimage.zoom(each, side / 8, order=1) for each in bend])
    middle = (side - 1) / 2
    rows, columns = np.mgrid[:side, :side].astype(float) - middle
    where = [
        matrix[0, 0] * rows + matrix[0, 1] * columns + middle + bend[0][:side, :side],
        matrix[1, 0] * rows + matrix[1, 1] * columns + middle + bend[1][:side, :side],
    ]
    ink = ndimage.map_coordinates(padded, where, order=1)
    (box,) = ndimage.find_objects((ink > 0.1).astype(int))
    return to_mnist(ink[box], box)[0]
