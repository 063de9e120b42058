"""Open image files from users, and run the scripts that read them: predict.py and extract_id.py.

(Importing this file imports neither torch nor SciPy.)
"""

import glob
import json
import os
import stat
import struct
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

from lab.settings import RunError, printable
from stn.mnist import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")  # no others: some run programs, as EPS
# Formats that some installations lack: brands that such a file names in its first bytes, and what to do.
OPTIONAL = {
    "AVIF": (("avif", "avis"), "is AVIF, which this Pillow lacks: python -m pip install --upgrade pillow"),
    "HEIF": (("heic", "heix", "mif1"), "is HEIC, which needs a plugin: python -m pip install pillow-heif"),
}
# What is said of a file with several pictures. (Those behind the first of a JPEG are the camera's own, of the same.)
UNREAD = {
    "TIFF": "read only the first of several pages",
    "HEIF": "read only the main one of several pictures",
    **dict.fromkeys(("GIF", "PNG", "WEBP", "AVIF"), "read only the first of several frames"),
}

# The processor time, in seconds, that decoding may take. Without a limit, a JPEG of half a megabyte with thousands of
# scans would occupy a core for long, and so would some large files that Pillow decodes in Python (PPM, runs in BMP).
MOST_SECONDS = 2
BLOCK = 4096  # bytes that a decoder gets at a time; its processor time is checked before each block

# The possible values of white where an image's mode does not say it: the smallest that no pixel exceeds is taken.
WHITES = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))

# Pillow's warnings, of damaged EXIF data for instance, are ignored, but a very large image is refused.
warnings.filterwarnings("ignore", module="PIL")
warnings.simplefilter("error", Image.DecompressionBombWarning)

DAMAGE = (  # what Pillow raises, by the kind of damage
    *(OSError, EOFError, ValueError, SyntaxError, LookupError, ArithmeticError, TypeError, RuntimeError, struct.error),
)


class ImageError(Exception):
    """An image that cannot be read; the message says why, in one line, and follows the image's name."""


class TimedFile:
    """A binary file that can be read until this thread has worked for MOST_SECONDS; then it raises ImageError."""

    def __init__(self, file):
        self.file, self.end = file, time.thread_time() + MOST_SECONDS

    def __getattr__(self, name):
        return getattr(self.file, name)

    def read(self, *size):
        if time.thread_time() > self.end:
            raise ImageError(f"takes more than {MOST_SECONDS} seconds to decode; make it smaller or save it anew first")
        return self.file.read(*size)


@contextmanager
def open_regular(path):
    """Open a regular file for reading its bytes. Raise ImageError for a pipe or a device, since these may never end."""

    def open_without_waiting(path, flags):
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # otherwise a pipe waits for a writer

    with open(path, "rb", opener=open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError("is no regular file but a pipe or a device; save the picture as a file first")
        yield file


def open_upright(source, draft=None):
    """Open an image; return it upright, its size as stored, and what was done, in words. Raise ImageError.

    source: a path, a binary file or a PIL image. The result has mode F with values in [0, 1], or RGB. draft: a mode and
    a size; a large JPEG is decoded no larger than that needs.
    """
    try:
        with open_image(source) as image:
            steps, size, orientation = [], image.size, None
            if draft:
                image.draft(*draft)
            with suppress(*DAMAGE):  # of EXIF data
                orientation = image.getexif().get(ExifTags.Base.Orientation)
            image.load()
            with suppress(*DAMAGE):
                ImageOps.exif_transpose(image, in_place=True)  # no TIFF, which Pillow has turned when it was loaded
            if orientation in range(2, 9):
                steps.append("turned as its EXIF data say")
            flat = flatten_mode(image, steps)
            if image.format in UNREAD and has_more(image):
                steps.insert(0, UNREAD[image.format])
            return flat, size, steps
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except MemoryError:
        raise ImageError("needs more memory than there is; make it smaller first") from None
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"cannot be read ({' '.join(reason.split())[:100]})") from None


@contextmanager
def open_image(source):
    """Open a path or a binary file as a PIL image whose decoding is limited, or copy a PIL image. Raise ImageError."""
    if isinstance(source, Image.Image):
        yield source.copy()
        return
    # Pillow gets a file without its name: it maps a file with a name into memory, and there a TIFF that is to be turned
    # has width and height exchanged.
    with open_regular(source) if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
        try:
            image = Image.open(TimedFile(file), formats=readable_formats())
        except Image.UnidentifiedImageError:
            file.seek(0)
            raise ImageError(explain_unknown(file.read(64))) from None
        image.decodermaxblock = BLOCK
        with image:
            yield image


def readable_formats():
    """List the FORMATS that Pillow reads here: HEIF by an optional plugin, AVIF by a recent Pillow."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN and (name != "AVIF" or features.check("avif"))]


def explain_unknown(start):
    """Say why a file that starts with these bytes is not read."""
    brands = start[8 : int.from_bytes(start[:4], "big")].decode("latin1") if start[4:8] == b"ftyp" else ""
    kind = next((name for name, (known, _) in OPTIONAL.items() if any(brand in brands for brand in known)), None)
    if kind and kind not in readable_formats():
        return OPTIONAL[kind][1]
    return f"is no image, or none of these: {', '.join(FORMATS).replace('HEIF', 'HEIC')}"


def has_more(image):
    """Return whether a file holds more pictures than the one that is read, be they damaged or not."""
    try:
        return image.is_animated
    except DAMAGE:
        return True


def flatten_mode(image, steps):
    """Convert a PIL image of any mode to RGB, or to mode F with values in [0, 1]; lay a transparent one on a colour."""
    if image.mode[0] in "IF":  # 16 or 32 bits, of which cameras use 10 to 16
        values = np.nan_to_num(np.array(image, np.float32), copy=False, posinf=0, neginf=0)
        np.maximum(values, 0, out=values)
        values /= np.float32(next((white for white in WHITES if values.max() <= white), values.max()))
        return Image.fromarray(values)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            few = image.resize([min(side, 500) for side in image.size], Image.Resampling.NEAREST)
            alpha, visible = np.asarray(few.getchannel("A"), np.float32), np.asarray(few.convert("L"))
            colour = "white" if np.average(visible, weights=alpha + 1e-6) < 128 else "black"
            steps.append(f"laid on {colour}, since it is transparent")
            image = Image.alpha_composite(Image.new("RGBA", image.size, colour), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def add_options(parser, default):
    """Add the options that both scripts have. default: the name of a network."""
    parser.add_argument(
        "--weights", default=default, metavar="NAME", help=f"of weights/, or the folder of a run (default: {default})"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the pictures go (default: beside each image)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def process_files(paths, options, script, suffixes, prepare):
    """Read images, print the results, and return the exit code: 1 if some cannot be read, 2 if none can be.

    paths: of images, or patterns, see `expand_pattern`.
    prepare() loads what is needed and returns a function: read(path, target) returns a result for --json, and the same
    in lines. It writes pictures, named `target` and one of the suffixes, beside the image or in the folder options.out;
    such a picture is skipped if it is among the paths. It may raise ImageError, or OSError if a picture cannot be
    written: this is reported, and the next image is read.
    """

    def report(path, reason):
        text = json.dumps({"image": str(path), "error": reason}) if options.json else printable(f"{path} {reason}")
        print(text, file=sys.stdout if options.json else sys.stderr, flush=True)

    try:
        read = prepare()
        if options.out:
            Path(options.out).mkdir(parents=True, exist_ok=True)
    except (RunError, DataError, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2
    failed, taken, files = False, set(), []
    for path in paths:
        matches = expand_pattern(path)
        if not matches:
            failed = True
            report(path, "matches no file")
        files += matches
    names = {path.name for path in files}
    for path in files:
        sources = [path.name.removesuffix(suffix) for suffix in suffixes if path.name.endswith(suffix)]
        if any(source in names or path.with_name(source).is_file() for source in sources):
            report(path, f"is skipped: it is a picture by {script}")
            continue
        target = unused_path(path, options.out, taken)
        taken.add(target)
        try:
            result, lines = read(path, target)
            print(json.dumps(result) if options.json else lines, flush=True)
        except (ImageError, OSError) as error:
            failed = True
            unwritten = f"cannot be written: {getattr(error, 'strerror', None) or error}"
            report(path, str(error) if isinstance(error, ImageError) else unwritten)
    return int(failed)


def expand_pattern(path):
    """Return the files that a path such as photos/*.jpg stands for, sorted: on Windows, no shell does it.

    A path without wildcards, or of a file that exists, stands for itself alone.
    """
    if os.path.lexists(path) or not any(letter in str(path) for letter in "*?["):
        return [path]
    folder = glob.escape(str(path.parent)) if path.parent.is_dir() else path.parent
    return sorted(map(Path, glob.glob(str(Path(folder, path.name)))))


def unused_path(path, out, taken):
    """Return a path, not among those taken, for the pictures of an image: its own name, beside it or in `out`."""
    folder, number = Path(out) if out else path.parent, 1
    target = folder / path.name
    while target in taken:
        number += 1
        target = folder / f"{path.stem}_{number}{path.suffix}"
    return target
