"""Image files of one's own: opened with care, turned upright, and what is made of them told, for scripts.

(Importing this file imports neither torch nor SciPy.)
"""

import json
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from lab.settings import printable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no others: some run programs, as EPS does

# By the orientation in EXIF data: how an image is turned upright.
TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))

# What white may be where an image's mode does not say it: the least that nothing exceeds is taken.
WHITES = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))

# What Pillow warns of is passed over, damaged EXIF data for instance, but a large image is refused.
warnings.filterwarnings("ignore", module="PIL")
warnings.simplefilter("error", Image.DecompressionBombWarning)


class ImageError(Exception):
    """An image from which nothing can be read; the message says why, in one line."""


def upright(source, take, draft=None):
    """Open an image file, or a PIL image, and return what `take` makes of it and what was done, in words.

    take: called with the image, upright, of mode F with values in [0, 1] or RGB, and its size as it is stored. draft: a
    mode and a size; a large JPEG is decoded no larger than that needs. Raise ImageError.
    """
    if isinstance(source, Path) and source.exists() and not (source.is_file() or source.is_dir()):
        raise ImageError("is no file")  # a pipe, from which nothing may ever come
    try:
        with source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS) as image:
            steps, size = [], image.size
            if draft:
                image.draft(*draft)
            if (turn := turn_of(image)) is not None:
                image = image.transpose(turn)
                steps.append("turned as its EXIF data say")
            return take(laid_flat(image, steps), size), steps
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"is no image, or none of these: {', '.join(FORMATS)}") from None
    except MemoryError:
        raise ImageError("needs more memory than there is; make it smaller first") from None
    except (OSError, ValueError, SyntaxError, LookupError, ArithmeticError, TypeError) as error:  # by kind of damage
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"cannot be read ({' '.join(reason.split())[:100]})") from None


def turn_of(image):
    """Return how a PIL image is turned upright by its EXIF data; None if not at all, or if these are damaged."""
    try:
        return TURNS.get(image.getexif().get(0x0112))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return None


def laid_flat(image, steps):
    """Turn a PIL image of any mode into one of mode F with values in [0, 1], or RGB; transparent is empty."""
    if image.mode[0] in "IF":  # 16 or 32 bits, of which cameras use 10 to 16
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0).clip(0)
        scale = next((scale for scale in WHITES if values.max() <= scale), values.max())
        return Image.fromarray(values / np.float32(scale))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha, visible = np.asarray(image.getchannel("A"), np.float32), np.asarray(image.convert("L"))
        if alpha.min() < 255:
            is_dark = np.average(visible, weights=alpha + 1e-6) < 128
            steps.append(f"laid on {'white' if is_dark else 'black'}, since it is transparent")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white" if is_dark else "black"), image)
    return image.convert("RGB")


def process_files(paths, options, script, suffixes, work):
    """Let `work` read images, print what it makes of each, and return the exit code: 1 if some cannot be read.

    work(path, target) returns a result for --json, and the same in lines. It writes files named `target` and one of the
    suffixes: beside the image, or in the folder options.out; what it has made of an image there is passed over. It may
    raise ImageError, or OSError if a file cannot be written: that is told, and the next one is read.
    """

    def report(path, separator, reason):
        text = json.dumps({"image": str(path), "error": reason}) if options.json else f"{path}{separator}{reason}"
        print(text if options.json else printable(text), file=sys.stdout if options.json else sys.stderr, flush=True)

    failed, taken, names = False, set(), {path.name for path in paths}
    for path in paths:
        if is_made(path, suffixes, names):
            report(path, ": ", f"passed over, a picture by {script}")
            continue
        try:
            result, lines = work(path, new_place(path, options.out, taken))
            print(json.dumps(result) if options.json else lines, flush=True)
        except (ImageError, OSError) as error:
            failed = True
            unwritten = f"cannot be written: {getattr(error, 'strerror', None) or error}"
            report(path, " ", str(error) if isinstance(error, ImageError) else unwritten)
    return int(failed)


def new_folder(path):
    """Make the folder for --out, if one is named. Raise ImageError if that cannot be."""
    try:
        if path:
            Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"--out {path}: {'is no folder' if Path(path).exists() else error.strerror}") from None


def is_made(path, suffixes, names):
    """Tell whether a file is a picture made of another one, which lies beside it or is among these names."""
    sources = [path.name.removesuffix(suffix) for suffix in suffixes if path.name.endswith(suffix)]
    return any(source in names or path.with_name(source).is_file() for source in sources)


def new_place(path, out, taken):
    """Return where what is made of an image goes, but for a suffix: beside it or in `out`; none of those taken."""
    folder, number = Path(out) if out else path.parent, 1
    target = folder / path.name
    while target in taken:
        number += 1
        target = folder / f"{path.stem}_{number}{path.suffix}"
    taken.add(target)
    return target
