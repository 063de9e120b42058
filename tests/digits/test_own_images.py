"""Digits in images as people have them, brought to 28×28 as MNIST was made."""

import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import ROOT
from pictures import (
    KINDS,
    N,
    coefficients,
    dots,
    endless_jpeg,
    found_images,
    handwritten,
    in_field,
    photographed,
    pictures,
    printed,
)
from PIL import Image
from scipy import ndimage

from digits import image_files, pretrained
from digits.own_images import ImageError, find_digits, read_grey
from stn import mnist

INK = np.pad(in_field(printed("5")), ((20, 60), (70, 10)))  # (360, 360), not in the middle
DARK = Image.fromarray(((1 - INK) * 255).astype(np.uint8))
RECORD = ROOT / "results" / "own_images.json"


def mnist_like(ink):
    """Bring ink, without noise, to 28×28 by hand: a box of 20, the centre of mass in the middle. An oracle."""
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.3) for axis in (1, 0))
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = ndimage.zoom(ndimage.gaussian_filter(crop, max(crop.shape) / 60), 20 / max(crop.shape), order=1)
    field = np.pad(small, 28)
    y, x = (round(middle) for middle in ndimage.center_of_mass(field))
    return field[y - 14 : y + 14, x - 14 : x + 14]


def likeness(image, other):
    """The correlation of two images, at the best of nine places."""
    moves = [np.roll(other, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(np.corrcoef(image.ravel(), move.ravel())[0, 1] for move in moves)


def saved(image, kind="png", **options):
    image.save(file := io.BytesIO(), kind, **options)
    file.seek(0)
    return file


def one(source):
    found = find_digits(source)
    assert len(found.images) == 1
    return found.images[0]


@pytest.mark.parametrize("text", list("0123456789"))
def test_a_digit_fits_the_box_and_has_its_centre_of_mass_in_the_middle(text):
    ink = np.pad(printed(text), ((30, 200), (300, 40)))
    image = one(Image.fromarray(((1 - ink) * 255).astype(np.uint8)))
    assert image.shape == (28, 28)
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0, 1)
    y, x = np.nonzero(image)
    assert 19 <= max(np.ptp(y), np.ptp(x)) + 1 <= 20
    assert np.abs(np.array(ndimage.center_of_mass(image)) - 13.5).max() <= 0.51
    assert likeness(image, mnist_like(ink)) > 0.92


def test_an_image_of_mnist_comes_back_as_it_was():
    images = mnist.read_mnist()[2][:50]
    likenesses = [likeness(one(Image.fromarray(255 - image)), image / 255) for image in images]
    enlarged = [one(Image.fromarray((handwritten(image) * 255).astype(np.uint8))) for image in images]
    assert min(likenesses) > 0.9
    assert np.mean(likenesses) > 0.97
    assert min(likeness(ours, image / 255) for ours, image in zip(enlarged, images, strict=True)) > 0.85


def sixteen_bits(image, most=65535):
    return Image.fromarray((np.asarray(image, np.float32) / 255 * most).astype(np.uint16))


def transparent(ink, shade):
    """Ink of a shade on nothing; what is transparent has the other shade, which must not be seen."""
    alpha = Image.fromarray((ink * 255).astype(np.uint8))
    return Image.merge("LA", (Image.new("L", alpha.size, shade), alpha))


KINDS_OF_FILES = {
    "grey PNG": lambda: saved(DARK),
    "light on dark": lambda: saved(Image.eval(DARK, lambda value: 255 - value)),
    "colours": lambda: saved(Image.merge("RGB", (DARK, DARK, Image.new("L", DARK.size, 200)))),
    "one bit": lambda: saved(DARK.convert("1")),
    "16 bits": lambda: saved(sixteen_bits(DARK)),
    "12 of 16 bits": lambda: saved(sixteen_bits(DARK, 4095)),
    "32 bits": lambda: saved(DARK.convert("I"), "tiff"),
    "floating point": lambda: saved(Image.fromarray(np.asarray(DARK, np.float32) / 255), "tiff"),
    "palette": lambda: saved(DARK.convert("P")),
    "palette, transparent": lambda: saved(transparent(INK, 0).convert("RGBA").quantize(), "png"),
    "GIF": lambda: saved(DARK, "gif"),
    "BMP": lambda: saved(DARK, "bmp"),
    "JPEG": lambda: saved(DARK, "jpeg"),
    "JPEG of CMYK": lambda: saved(DARK.convert("CMYK"), "jpeg"),
    "WebP": lambda: saved(DARK.convert("RGB"), "webp"),
    "dark on nothing": lambda: saved(transparent(INK, 0)),
    "light on nothing": lambda: saved(transparent(INK, 255)),
    "dark on nothing, WebP": lambda: saved(transparent(INK, 0).convert("RGBA"), "webp", lossless=True),
    "large": lambda: saved(DARK.resize((4500, 4500)), "jpeg"),
    "narrow": lambda: saved(DARK.crop((60, 40, 360, 310))),
    "small": lambda: saved(DARK.resize((40, 40), Image.Resampling.BOX)),
    "faint": lambda: saved(Image.eval(DARK, lambda value: 160 + value // 6)),
    "photographed": lambda: saved(photographed(INK, np.random.default_rng(1))),
}


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_the_same_digit_in_every_kind_of_file(kind):
    assert likeness(one(KINDS_OF_FILES[kind]()), mnist_like(INK)) > 0.93


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_data_say_how_an_image_is_turned(orientation):
    """The pixels are stored so that a viewer who follows the EXIF standard shows the digit upright."""
    stored = {
        1: np.array, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(DARK))  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = find_digits(saved(Image.fromarray(np.ascontiguousarray(stored)), "jpeg", exif=exif))
    assert likeness(found.images[0], mnist_like(INK)) > 0.95
    assert any("EXIF" in step for step in found.steps) == (orientation != 1)


def test_thin_strokes_are_thickened():
    """A hairline circle would fade to nothing in 28×28."""
    y, x = np.mgrid[-300:300, -300:300]
    image = Image.fromarray(np.where(np.abs(np.hypot(x, y) - 250) < 2, 0, 255).astype(np.uint8))
    found = find_digits(image)
    assert "thin strokes thickened" in found.steps
    assert 1.5 < found.images[0][14].sum() / 2 < 3.5  # the width of a stroke, in pixels


def test_digits_side_by_side_and_in_lines_are_read_in_order():
    """By hand: each is most like itself among the ten."""
    ideal = [mnist_like(printed(str(digit))) for digit in range(10)]
    lines = [printed(text, size=60) for text in ("314159", "26")]
    ink = np.zeros((400, 600))
    for top, line in zip((50, 220), lines, strict=True):
        ink[top : top + line.shape[0], 40 : 40 + line.shape[1]] = line
    ink[300:304, 500:504] = 1  # a speck
    found = find_digits(Image.fromarray(((1 - ink) * 255).astype(np.uint8)))
    assert "".join(str(np.argmax([likeness(i, digit) for digit in ideal])) for i in found.images) == "31415926"


def test_a_digit_in_two_parts_is_one():
    ink = INK.copy()
    ink[INK.shape[0] // 2 - 60 :][:12] = 0  # cut through
    assert likeness(one(Image.fromarray(((1 - ink) * 255).astype(np.uint8))), mnist_like(INK)) > 0.9


@pytest.mark.parametrize("digit", range(10))
def test_a_sheet_on_a_table_is_no_digit_and_a_bold_digit_is_no_sheet(digit):
    ink = printed(str(digit), "DejaVuSans-Bold")
    sheet = np.pad((1 - ink) * 0.6 + 0.3, 90, constant_values=0.9)
    for image in (np.pad(sheet, (40, 60), constant_values=0.1), 1 - ink, 1 - np.pad(ink, 8), np.pad(ink, 8)):
        assert likeness(one(Image.fromarray((image * 255).astype(np.uint8))), mnist_like(ink)) > 0.85


def test_the_place_of_a_digit_leads_back_to_its_image():
    found = find_digits(DARK)
    (scale, left, top), (y, x) = found.positions[0], ndimage.center_of_mass(found.images[0])
    expected = np.array(ndimage.center_of_mass(INK))
    assert np.abs(np.array([y + 0.5, x + 0.5]) * scale + [top, left] - expected).max() < scale / 3


@pytest.mark.parametrize(
    "grey",
    [
        np.zeros((50, 60)),
        np.full((50, 60), 255),
        np.tile(np.linspace(100, 200, 300), (200, 1)),
        np.random.default_rng(0).normal(128, 12, (300, 300)).clip(0, 255),
        np.full((1, 1), 7),
        np.eye(7) * 255,
        np.full((1, 90), 7),
    ],
    ids=["black", "white", "a lamp's light", "noise", "one pixel", "few pixels", "one line"],
)
def test_images_without_ink_are_refused(grey):
    with pytest.raises(ImageError, match=r"^is blank" if min(grey.shape) > 9 else r"^is too small"):
        find_digits(Image.fromarray(grey.astype(np.uint8)))


@pytest.fixture
def bad(tmp_path):
    content = saved(DARK).getvalue()
    huge = Image.new("1", (12_000, 12_000))
    for name, data in {
        "empty.png": b"",
        "text.png": b"This is no image.",
        "cut.png": content[: len(content) // 2],
        "cut.jpg": saved(DARK, "jpeg").getvalue()[:2000],
        "huge.png": saved(huge).getvalue(),
        "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.png", "is no image"),
        ("text.png", "is no image"),
        ("cut.png", "cannot be read"),
        ("cut.jpg", "cannot be read"),
        ("huge.png", "has more than 89,478,485 pixels"),
        ("drawing.eps", "is no image, or none of these: PNG"),
        ("folder.png", r"cannot be read \(Is a directory\)"),
        ("missing.png", r"cannot be read \(No such file or directory\)"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(bad, name, reason):
    with pytest.raises(ImageError, match=rf"^{reason}[^\n]*$"):
        find_digits(bad / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["pipe.png", "link.png", "/dev/zero"])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, name):
    """Nobody writes into the pipe: to open it as other files are opened would take for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    refused = []

    def find():
        with pytest.raises(ImageError, match=r"^is no regular file but a pipe or a device; save .+$"):
            find_digits(tmp_path / name)
        refused.append(name)

    thread = threading.Thread(target=find, daemon=True)  # which does not keep the tests from ending
    thread.start()
    thread.join(20)
    assert refused == [name]


def bmp_of_runs():
    """A BMP of 9000×9000 pixels in runs of one pixel each, of which the first thousand lines are there."""
    runs = (b"\x01\x07" * 9000 + b"\0\0") * 1000
    header = struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + bytes(1024) + runs


@pytest.mark.parametrize(
    "content",
    [
        endless_jpeg(),
        b"P6\n9000 9000\n254\n" + bytes(30_000_000),
        b"P3\n9000 9000\n255\n" + b"1 " * 10**7,
        bmp_of_runs(),
    ],
    ids=["a JPEG of 20,000 scans", "a PPM to be scaled", "a PPM in digits", "a BMP of short runs"],
)
def test_decoding_ends_after_a_while(monkeypatch, content):
    """Without a limit, three of them take more than ten seconds, and the third one four."""
    monkeypatch.setattr(image_files, "MOST_SECONDS", 0.2)
    started = time.thread_time()
    with pytest.raises(
        ImageError, match=r"^takes more than 0\.2 seconds to decode; make it smaller or save it anew first$"
    ):
        find_digits(io.BytesIO(content))
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("pitch", [7, 31])
def test_a_page_of_dots_is_refused_within_two_seconds(pitch):
    started = time.thread_time()
    with pytest.raises(ImageError, match=r"^falls into [\d,]+ parts; more than 500 are probably a text or a texture$"):
        find_digits(dots(pitch))
    assert time.thread_time() - started < 2


MEMORY = """
import resource, sys
from digits.image_files import open_upright
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_upright(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize(("mode", "most"), [("RGB", 500), ("RGBA", 1200), ("I;16", 1100), ("P", 600)])
def test_the_largest_images_need_little_more_than_a_gigabyte(tmp_path, mode, most):
    """Megabytes beyond what the process needs anyway."""
    image = Image.new(mode, (9400, 9400))
    image.putpixel((7, 7), 1 if mode in ("P", "I;16") else (1, 2, 3, 4)[: len(mode)])
    image.save(tmp_path / "large.png")
    process = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "large.png"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(process.stdout) < most


def test_every_byte_of_a_png_may_be_broken():
    """Whatever the damage: an image, or one line; nothing else is raised."""
    content = saved(DARK.resize((60, 60))).getvalue()
    rng = np.random.default_rng(2)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata
        for place in range(len(content)):
            broken = bytearray(content)
            broken[place] ^= int(rng.integers(1, 256))
            try:
                find_digits(io.BytesIO(bytes(broken)))
            except ImageError as error:
                refused += "\n" not in str(error)
    assert refused > len(content) / 4


def test_as_it_is():
    image = mnist.read_mnist()[2][0]
    found = find_digits(saved(Image.fromarray(image)), as_is=True)
    np.testing.assert_array_equal(found.images[0], image.astype(np.float32) / 255)
    with pytest.raises(ImageError, match="is 360×360, not 28×28 pixels"):
        find_digits(saved(DARK), as_is=True)


def test_a_large_image_is_shrunk_with_its_proportions():
    grey, steps = read_grey(saved(Image.new("L", (4000, 1000))))
    assert grey.shape == (500, 2000)
    assert steps == ["shrunk from 4000×1000"]


def test_the_perspective_of_the_pictures_is_that_of_its_four_points():
    points = np.array([[0, 0], [10, 1], [11, 9], [-1, 10]], float)
    a, b, c, d, e, f, g, h = coefficients(points, points * 2 + 3)
    for x, y in points:
        mapped = np.array([a * x + b * y + c, d * x + e * y + f]) / (g * x + h * y + 1)
        np.testing.assert_allclose(mapped, [2 * x + 3, 2 * y + 3], atol=1e-9)


@pytest.mark.slow
def test_how_many_digits_are_read_in_imitated_photographs(save_measurement):
    """Printed and handwritten, as they are and in perspective, by every network: as many as the record says.

    A few more or less with other versions of what decodes and resizes images.
    """
    loaded = map(pretrained.load, pretrained.names())
    networks = {network.name: network for network in loaded if network.reads == "digits"}
    rows = {name: {} for name in networks}

    for kind in KINDS:
        found, digits = zip(*[(found_images(file), digit) for file, digit in pictures(kind)], strict=True)
        lengths = np.cumsum([len(images) for images in found])[:-1]
        for name, network in networks.items():
            read = np.split(network.read(np.concatenate(found)).probabilities.argmax(1), lengths)
            texts = ["".join(map(str, one)) for one in read]
            rows[name][kind] = sum(text == digit for text, digit in zip(texts, digits, strict=True))
    save_measurement("own_images", {"images": N, "rows": rows})
    recorded = json.loads(RECORD.read_text())["rows"]
    assert rows.keys() == recorded.keys()
    for name, row in rows.items():
        for kind, correct in row.items():
            assert abs(correct - recorded[name][kind]) <= 4, (name, kind, correct)
    for kind in KINDS:
        assert "perspective" not in kind or rows["exp_16"][kind] > rows["exp_03"][kind]
