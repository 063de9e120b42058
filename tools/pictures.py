"""Pictures of digits as people have them, made here: printed and handwritten, photographed, in perspective or not."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from digits.own_images import ImageError, find_digits
from stn import mnist

N = 180  # of each kind
SCALE = 10  # pixels for one of MNIST's
# matplotlib's own fonts, the same everywhere. No network was taught them: studies/pictures draws in DejaVu's.
STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
COMPUTER_MODERN = ("cmr10", "cmss10", "cmtt10", "cmb10", "cmti10")
FONTS = (*STIX, *COMPUTER_MODERN)
KINDS = {  # name: (handwritten, in perspective)
    "printed": (False, False),
    "handwritten": (True, False),
    "printed, in perspective": (False, True),
    "handwritten, in perspective": (True, True),
}


def printed(text, font="DejaVuSans", size=200):
    """Return a text as ink (H, W) in [0, 1], its tallest letter `size` pixels high, cut at its edges."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    drawing = Image.new("L", (2 * size * (len(text) + 1), 3 * size))
    ImageDraw.Draw(drawing).text((size // 2, size // 2), text, 255, ImageFont.truetype(path, size * 1.4))
    return np.asarray(drawing.crop(drawing.getbbox()), np.float32) / 255


def in_field(ink):
    """Put ink into the middle of a square, (280, 280), as MNIST has it but larger: 200 pixels at the longest."""
    drawing = Image.fromarray((ink * 255).astype(np.uint8))
    factor = 20 * SCALE / max(drawing.size)
    drawing = drawing.resize([max(1, round(n * factor)) for n in drawing.size])
    field = Image.new("L", (28 * SCALE, 28 * SCALE))
    field.paste(drawing, tuple((28 * SCALE - n) // 2 for n in drawing.size))
    return np.asarray(field, np.float32) / 255


def handwritten(pixels):
    """Enlarge an image of MNIST, (28, 28) bytes, to (280, 280) in [0, 1]."""
    return np.asarray(Image.fromarray(pixels).resize((28 * SCALE,) * 2, Image.Resampling.BICUBIC), np.float32) / 255


def photographed(field, rng, in_perspective=False, size=480):
    """Photograph ink (H, W) in [0, 1] on paper: uneven light, noise, blur; return a PIL image (size, size), grey.

    In perspective, the corners of the field and the whole move by as much as in stn/perspective.py, in its pixels.
    """
    height, width = field.shape
    start = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    end = start + (size - np.array([width, height])) / 2
    if in_perspective:
        end += 3.5 * SCALE * (rng.standard_normal((4, 2)) + rng.standard_normal(2))
    ink = Image.fromarray((field * 255).astype(np.uint8))
    ink = ink.transform((size, size), Image.Transform.PERSPECTIVE, coefficients(end, start), Image.Resampling.BILINEAR)
    ink = np.asarray(ink.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2))), np.float32) / 255
    y, x = np.mgrid[0:1:size*1j, 0:1:size*1j]  # fmt: skip
    light = 1 - rng.uniform(0, 0.5) * (x if rng.random() < 0.5 else 1 - x) * (y if rng.random() < 0.5 else 1 - y)
    paper, pen = (0.85, 0.15) if rng.random() < 0.5 else (0.15, 0.85)
    seen = (paper + (pen - paper) * rng.uniform(0.6, 1) * ink) * light + rng.normal(0, 0.02, ink.shape)
    return Image.fromarray((seen.clip(0, 1) * 255).astype(np.uint8))


def coefficients(output, source):
    """The eight numbers by which PIL maps four points of the output, (4, 2), to those of the source."""
    rows, values = [], []
    for (x, y), (u, v) in zip(output, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(rows, values)


def dots(pitch=7):
    """Draw a page of halftone dots, half a pitch wide: 20,449 of them at a pitch of seven pixels."""
    y, x = np.mgrid[:1000, :1000]
    return Image.fromarray(np.where((x % pitch < pitch // 2) & (y % pitch < pitch // 2), 0, 255).astype(np.uint8))


def endless_jpeg():
    """Return a JPEG of half a megabyte, bytes, with 20,000 scans, of which a decoder has to decode each."""
    Image.new("L", (3000, 3000), 200).save(file := io.BytesIO(), "jpeg", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 20_000 + content[-2:]


def found_images(file):
    """Return the digits that are found in a picture, (N, 28, 28); none if it is refused."""
    try:
        return find_digits(file).images
    except ImageError:
        return np.zeros((0, 28, 28), np.float32)


def pictures(kind):
    """Yield (JPEG file in memory, its digit) of a kind, N in all, the same ones every time."""
    is_handwritten, in_perspective = KINDS[kind]
    rng = np.random.default_rng(list(KINDS).index(kind))
    images, labels = mnist.read_mnist()[2:]
    for number in range(N):
        digit = labels[number] if is_handwritten else number % 10
        field = handwritten(images[number]) if is_handwritten else in_field(printed(str(digit), FONTS[number // 20]))
        photographed(field, rng, in_perspective).save(file := io.BytesIO(), "jpeg", quality=80)
        yield file, str(digit)
