"""Draw pictures that hold no digit: letters, words, documents, textures, drawings and photographs.

Those of `CALIBRATION` are for the threshold of digits/doubt.py, those of `TEST` for measuring it: other letters, fonts,
photographs and textures. Neither was taught: studies/pictures draws letters in the fonts of the DejaVu family, other
photographs and blurred noise.
"""

import re
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np
from own_pictures import draw_pen, framed, lit, stack
from pictures import COMPUTER_MODERN, STIX, printed
from PIL import Image

from studies.pictures import PHOTOGRAPHS
from studies.pictures.cards import draw_heap

ROOT = Path(__file__).resolve().parent.parent
GREEK = ("DejaVuSerif", "DejaVuSans-Bold")  # fonts that were taught, letters that were not
# Letters that no hand and no font draws as a digit.
CLEAR = "ACEFHKLMNPRUVWXacdefhkmnprtuvwx"
CLEAR_GREEK = "ΓΔΛΞΠΣΦΨΩαηθλμπφψωЖШЩЮЯДЦЫЙж"
# Strokes of letters as a person with a pen draws them, corners (x, y) in a box of width 4 and height 6.
PEN_LETTERS = {
    "calibration": {
        "A": [[(0, 6), (2, 0), (4, 6)], [(0.8, 3.8), (3.2, 3.8)]],
        "E": [[(3.5, 0), (0, 0), (0, 6), (3.5, 6)], [(0, 3), (2.8, 3)]],
        "H": [[(0, 0), (0, 6)], [(4, 0), (4, 6)], [(0, 3), (4, 3)]],
        "K": [[(0, 0), (0, 6)], [(3.6, 0), (0, 3.3), (3.8, 6)]],
        "M": [[(0, 6), (0.4, 0), (2, 4), (3.6, 0), (4, 6)]],
        "d": [[(3.4, 3), (1.5, 2.4), (0.2, 4.2), (1.4, 6), (3.3, 5)], [(3.4, 0), (3.4, 6)]],
        "m": [[(0, 6), (0, 2.5), (0.1, 3.4), (1.2, 2.4), (2, 3.4), (2, 6)], [(2, 3.4), (3.2, 2.4), (4, 3.4), (4, 6)]],
        "x": [[(0, 2), (4, 6)], [(4, 2), (0, 6)]],
    },
    "test": {
        "F": [[(3.6, 0), (0, 0), (0, 6)], [(0, 2.8), (2.8, 2.8)]],
        "N": [[(0, 6), (0, 0), (4, 6), (4, 0)]],
        "R": [[(0, 6), (0, 0), (2.6, 0.2), (3.4, 1.5), (2.6, 2.8), (0, 3)], [(1.6, 3), (3.8, 6)]],
        "V": [[(0, 0), (2, 6), (4, 0)]],
        "W": [[(0, 0), (1, 6), (2, 2), (3, 6), (4, 0)]],
        "h": [[(0.4, 0), (0.4, 6)], [(0.4, 3.8), (1.8, 2.5), (3.2, 3.4), (3.4, 6)]],
        "p": [[(0.4, 2), (0.4, 6)], [(0.4, 2.4), (2.4, 1.8), (3.4, 3), (2.4, 4.3), (0.4, 4)]],
        "t": [[(1.6, 0), (1.6, 5), (2.4, 6), (3.4, 5.6)], [(0.2, 2), (3.2, 2)]],
    },
}
DOODLES = {
    "arrow": [[(0, 3), (4, 3)], [(2.6, 1.6), (4, 3), (2.6, 4.4)]],
    "star": [[(0.8, 6), (2, 0), (3.2, 6), (0, 2.3), (4, 2.3), (0.8, 6)]],
    "house": [[(0, 2.5), (2, 0), (4, 2.5), (4, 6), (0, 6), (0, 2.5), (4, 2.5)]],
    "triangle": [[(2, 0.5), (4, 5.5), (0, 5.5), (2, 0.5)]],
    "square": [[(0, 1), (4, 1), (4, 5), (0, 5), (0, 1)]],
    "hash": [[(1.3, 0), (0.9, 6)], [(3.1, 0), (2.7, 6)], [(0, 2), (4, 2)], [(0, 4), (4, 4)]],
    "heart": [[(2, 1.5), (1, 0.3), (0, 1.5), (0.4, 3), (2, 5.5), (3.6, 3), (4, 1.5), (3, 0.3), (2, 1.5)]],
    "tree": [[(2, 0), (0.3, 2.4), (3.7, 2.4), (2, 0)], [(2, 2.4), (0, 4.6), (4, 4.6), (2, 2.4)], [(2, 4.6), (2, 6)]],
}


def by_pen(rng, drawings):
    """Draw one of {name: strokes} with a pen."""
    height = int(rng.integers(80, 240))
    strokes = drawings[rng.choice(list(drawings))]
    return lit(framed(draw_pen(strokes, rng, height, max(2, round(height * rng.uniform(0.02, 0.12)))), rng), rng)


def letter(rng, letters, fonts):
    return lit(framed(printed(rng.choice(list(letters)), rng.choice(fonts), int(rng.integers(60, 240))), rng), rng)


@cache
def words():
    """List the words of the licence, without names and numbers."""
    return re.findall(r"\b[a-z]{3,}\b", (ROOT / "LICENSE").read_text(encoding="utf-8"))


def word(rng, fonts):
    return lit(framed(printed(rng.choice(words()), rng.choice(fonts), int(rng.integers(50, 130))), rng), rng)


def document(rng, fonts):
    """Draw a paragraph of 3 to 10 lines of 3 to 6 words."""
    font, height = rng.choice(fonts), int(rng.integers(25, 45))
    lines = [" ".join(rng.choice(words(), rng.integers(3, 7))) for _ in range(rng.integers(3, 11))]
    return lit(framed(stack([printed(line, font, height) for line in lines], height // 2), rng), rng)


def part_of_photograph(rng, part):
    """Cut a rectangle out of a photograph, at least a third as high and wide."""
    image = Image.open(ROOT / "data" / "photographs" / f"{rng.choice(PHOTOGRAPHS[part])}.png").convert("L")
    width, height = (int(side * rng.uniform(0.34, 1)) for side in image.size)
    left, top = (int(rng.integers(0, all_ - side + 1)) for all_, side in zip(image.size, (width, height), strict=True))
    return image.crop((left, top, left + width, top + height))


def heap(rng):
    """Draw a heap of flat shapes, or a part of it."""
    side = int(rng.integers(60, 257))
    return Image.fromarray(draw_heap(rng)[:side, :side])


def noise(rng):
    """Draw noise of all scales, whose amplitudes fall as a power of the frequency."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(300), np.fft.fftfreq(300)))
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(0, 1, frequency.shape)) / frequency ** rng.uniform(0.7, 1.6)
    values = np.fft.ifft2(spectrum).real
    low, high = np.quantile(values, (0.01, 0.99))
    return Image.fromarray((255 * ((values - low) / (high - low)).clip(0, 1)).astype(np.uint8))


def kinds(part, fonts, texture):
    """Return {kind: function that draws a picture} of a part, "calibration" or "test"."""
    return {
        "letter, printed": partial(letter, letters=CLEAR, fonts=fonts),
        "letter, by pen": partial(by_pen, drawings=PEN_LETTERS[part]),
        "word": partial(word, fonts=fonts),
        "document": partial(document, fonts=fonts),
        "texture": texture,
        "part of a photograph": partial(part_of_photograph, part=part),
    }


CALIBRATION = kinds("calibration", STIX, heap)
TEST = kinds("test", COMPUTER_MODERN, noise) | {
    "Greek or Cyrillic letter": partial(letter, letters=CLEAR_GREEK, fonts=GREEK),
    "drawing": partial(by_pen, drawings=DOODLES),
}


def draw_pictures(part, kind, number):
    """Yield PIL images of a kind, the same ones every time. part: `CALIBRATION` or `TEST`."""
    for n in range(number):
        yield part[kind](np.random.default_rng([31 if part is TEST else 30, zlib.crc32(kind.encode()), n]))
