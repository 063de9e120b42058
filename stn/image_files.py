"""Image files of one's own: opened with care, turned upright, and what is made of them told, for scripts.

(Importing this file imports neither torch nor SciPy.)
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lab.settings import printable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no others: some run programs, as EPS does

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
    try:
        with source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS) as image:
            steps, size = [], image.size
            if draft:
                image.draft(*draft)
            orientation = image.getexif().get(0x0112, 1)
            if orientation != 1:
                image = ImageOps.exif_transpose(image)
                steps.append("turned as its EXIF data say")
            return take(laid_flat(image, steps), size), steps
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"is no image, or none of these: {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, LookupError, ArithmeticError, TypeError) as error:  # by kind of damage
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"cannot be read ({' '.join(reason.split())[:100]})") from None


def laid_flat(image, steps):
    """Turn a PIL image of any mode into one of mode F with values in [0, 1], or RGB; transparent is empty."""
    if image.mode[0] in "IF":  # 16 or 32 bits
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0).clip(0)
        scale = next((scale for scale in (1, 255, 65535) if values.max() <= scale), values.max())
        return Image.fromarray(values / np.float32(scale))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha, visible = np.asarray(image.getchannel("A"), np.float32), np.asarray(image.convert("L"))
        if alpha.min() < 255:
            is_dark = np.average(visible, weights=alpha + 1e-6) < 128
            steps.append(f"laid on {'white' if is_dark else 'black'}, since it is transparent")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white" if is_dark else "black"), image)
    return image.convert("RGB")


def tell_each(paths, options, script, suffixes, work):
    """Let `work` read images, print what it makes of each, and return the exit code: 1 if some cannot be read.

    work(path, place) returns a result for --json, and the same in lines. It writes files named `place` and one of the
    suffixes: beside the image, or in the folder options.out; images of such names are passed over. It may raise
    ImageError, or OSError if a file cannot be written: that is told, and the next one is read.
    """
    failed, taken = False, set()
    for path in paths:
        if path.name.endswith(suffixes):
            print(f"{printable(str(path))}: passed over, a picture by {script}", file=sys.stderr)
            continue
        try:
            result, lines = work(path, new_place(path, options.out, taken))
            print(json.dumps(result) if options.json else lines, flush=True)
        except (ImageError, OSError) as error:
            failed = True
            reason = str(error) if isinstance(error, ImageError) else f"cannot be written ({error}); choose an --out"
            print(
                json.dumps({"image": str(path), "error": reason}) if options.json else printable(f"{path} {reason}"),
                file=sys.stdout if options.json else sys.stderr,
                flush=True,
            )
    return int(failed)


def new_place(path, out, taken):
    """Return where what is made of an image goes, but for a suffix: beside it or in `out`; none of those taken."""
    folder, number = Path(out) if out else path.parent, 1
    place = folder / path.name
    while place in taken:
        number += 1
        place = folder / f"{path.stem}_{number}{path.suffix}"
    taken.add(place)
    return place
