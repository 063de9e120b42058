"""`extract_id.py` and what it is made of: what is found in a scene lies there in the photograph, and bad input is told.

Most tests have a stand-in for the network, which finds a white card on black by its brightness alone.
"""

import io
import json
import re
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import coefficients
from PIL import Image, ImageDraw

import extract_id
from digits import pretrained
from digits.image_files import ImageError
from lab.settings import RunError
from models import Net_CoordConv
from stn import data, warps
from studies.cards import CARDS, detector, geometry, metrics, rendering
from studies.cards import data as card_data
from studies.cards.networks import Net_Card, Net_Card_Homography
from studies.pictures.cards import photographs

N = 1000  # scenes of each kind
RECORD = ROOT / "results" / "extract_id.json"
NEEDED = f"{detector.THRESHOLD:.2f}"
KEPT = extract_id.DEFAULT in pretrained.names()
needs_weights = pytest.mark.skipif(not KEPT, reason=f"needs the weights of {extract_id.DEFAULT}")
CORNERS = np.array([(500, 310), (1130, 390), (1090, 800), (470, 700)], float)  # of a card, from the outer edge
NUMBER = "314159"


class Finder(Net_Card_Homography):
    """Finds what is white in a scene, and reads the same number, surely if it sees all of it."""

    def __init__(self):
        super().__init__(taught_corners=1.0)

    def homography(self, scenes):
        corners = np.stack([corners_of_white(scene) for scene in scenes[:, 0].numpy()])
        self.sure = np.ptp(corners, (1, 2)) > 8
        return torch.from_numpy(geometry.homographies_to(corners * 2 / geometry.SCENE - 1)).float()

    def classify(self, strips):
        scores = torch.full((len(strips), 10, 6), 1e-4)
        for place, digit in enumerate(NUMBER):
            scores[:, int(digit), place] = torch.from_numpy(np.where(self.sure, 0.999, 0.3)).float()
        return scores.log()


NOWHERE = np.array([(60, 60), (68, 60), (68, 68), (60, 68)], float)


def corners_of_white(scene):
    """In pixels from the outer edge, (4, 2); NOWHERE if white reaches the edge of the scene, or there is none."""
    y, x = np.nonzero(scene > 0.5)
    if len(x) < 50 or min(x.min(), y.min()) == 0 or max(x.max(), y.max()) == geometry.SCENE - 1:
        return NOWHERE
    ends = (np.argmin(x + y), np.argmax(x - y), np.argmax(x + y), np.argmin(x - y))
    return np.stack([x[[*ends]] + (0, 1, 1, 0), y[[*ends]] + (0, 0, 1, 1)], 1).astype(float)


@pytest.fixture(scope="module")
def finder():
    return Finder().eval()


def drawn_card(width=1012, height=638):
    """A white card with coloured marks, each in a place of its own."""
    card = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(card)
    for number, colour in enumerate(("red", "green", "blue", "orange", "purple")):
        x, y = width * (0.1 + 0.17 * number), height * (0.15 + 0.14 * number)
        pen.ellipse((x, y, x + width / 12, y + height / 8), colour)
    return card


def photographed(card, corners, size):
    """Lay a card's outer corners to these, (4, 2), on black."""
    width, height = card.size
    numbers = coefficients(corners, np.array([(0, 0), (width, 0), (width, height), (0, height)], float))
    photo = card.transform(size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)
    outside = Image.new("L", card.size, 255).transform(size, Image.Transform.PERSPECTIVE, numbers)
    return Image.composite(photo, Image.new("RGB", size), outside)


def fitting(corners, size):
    """Move and scale corners of the 1600×1200 photograph into another one."""
    return (corners - (800, 600)) * min(size[0] / 1600, size[1] / 1200) + np.array(size) / 2


EYE = torch.eye(3, dtype=torch.float64)
sizes = st.tuples(st.integers(detector.LEAST, 900), st.integers(detector.LEAST, 900))


def ramp(size, axis):
    """A photograph whose grey grows from 0 to 240 along an axis."""
    width, height = size
    values = (np.arange(size[axis]) + 0.5) * 240 / size[axis]
    grey = np.broadcast_to(values if axis == 0 else values[:, None], (height, width))
    return Image.fromarray((grey + 0.5).astype(np.uint8))


def in_tensors(arrays):
    return torch.from_numpy(np.stack(arrays))


def off_the_ramps(size, looked):
    """How far what scenes show, looked(grey), is from where their places say: in pixels of a scene, and how many."""
    worst, count = 0.0, 0
    pixels = torch.cartesian_prod(torch.arange(128.0), torch.arange(128.0)).flip(1).double()
    points = warps.to_normalised(pixels, geometry.SCENE, geometry.SCENE)
    for axis in (0, 1):
        scenes, places = map(in_tensors, looked(ramp(size, axis)))
        where = warps.map_points(places, points.expand(len(places), -1, 2))
        step = float(places[:, axis, axis].min()) / geometry.SCENE * 240  # of grey, for a pixel of a scene
        grey = (where[..., axis] + 1) * 120
        inside = (where.abs() < 1 - 3 * places[:, [0, 1], [0, 1]].amax() / 64).all(2)
        off = (scenes.flatten(1) - grey).abs()[inside]
        worst, count = max(worst, float(off.max()) / max(step, 1)), count + len(off)
    return worst, count


@given(sizes)
@settings(max_examples=15)
def test_scenes_show_what_lies_at_their_places(size):
    """Whatever the size: a grey that tells where it is lies there, to half a pixel and the rounding."""
    worst, count = off_the_ramps(size, detector.cut_squares)
    assert worst <= 2
    assert count > 1000


@given(sizes, st.floats(0.05, 3), st.tuples(st.floats(-1, 1), st.floats(-1, 1)), st.floats(-40, 40))
@settings(max_examples=40)
def test_the_second_look_shows_the_card_in_the_middle(size, scale, place, angle):
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    corners = geometry.nominal_corners() @ np.array([[cos, sin], [-sin, cos]]) * scale * max(size) / 128
    corners = corners / (np.array(size) / 2) + place
    homography = torch.from_numpy(geometry.homographies_to(corners[None])[0])
    worst, _ = off_the_ramps(size, lambda grey: detector.cut_around(grey, homography[None])) if scale < 1.2 else (0, 0)
    assert worst <= 2
    scene, places = map(in_tensors, detector.cut_around(ramp(size, 0), homography[None]))
    assert scene.shape == (1, 128, 128)
    seen = warps.to_pixels(geometry.card_corners(torch.linalg.inv(places[0]) @ homography[None]), 128, 128)[0]
    assert (seen.amin(0) + seen.amax(0) - 127).abs().max() < 1
    lengths = (seen - seen.roll(-1, 0)).norm(dim=1)
    if geometry.SCENE / 8 < scale * max(size) < 4 * max(size):
        assert float(lengths[0]) == pytest.approx(geometry.CARD_WIDTH, rel=0.01)


@given(st.integers(1, 2000))
def test_squares_leave_nothing_out(size):
    found = detector.starts(size)
    if size <= geometry.SCENE:
        assert abs(2 * found[0] + geometry.SCENE - size) <= 1
        assert len(found) == 1
    else:
        assert (found[0], found[-1]) == (0, size - geometry.SCENE)
        assert np.diff(found).max() <= detector.STEP


@pytest.mark.parametrize(
    "size", [(1600, 1200), (1200, 1600), (4000, 3000), (300, 290), (900, 200), (200, 1100)], ids=str
)
def test_a_card_is_found_where_it_lies_and_comes_back_straight(finder, size):
    """To a pixel of the last look for the stand-in, which sees no finer; the geometry itself is exact."""
    corners = fitting(CORNERS, size)
    card = drawn_card()
    photo = photographed(card, corners, size)
    found = detector.find_card(photo, finder, EYE)
    assert found.number == NUMBER
    assert 0.9 < found.confidence < 0.999  # what it sees from afar is a little elsewhere
    pixel = max(np.linalg.norm(corners[1] - corners[0]) / geometry.CARD_WIDTH, 1)
    assert np.abs(found.corners + 0.5 - corners).max() < 1.6 * pixel
    true = geometry.homographies_to(corners[None] * 2 / np.array(size) - 1)[0]
    exact = found._replace(homography=true, corners=corners - 0.5)
    straight = detector.straightened(photo, exact)
    assert straight.width / straight.height == pytest.approx(geometry.CARD_WIDTH / geometry.CARD_HEIGHT, rel=0.01)
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1) / (1, 58 / 92, 1, 58 / 92)
    assert straight.width == pytest.approx(np.clip(max(sides), 92, 1012), abs=1)
    expected = np.asarray(card.resize(straight.size, Image.Resampling.BOX), float)
    off = np.abs(np.asarray(straight, float) - expected)[2:-2, 2:-2]
    assert off.mean() < (3 if min(size) >= 1200 else 12)


def test_a_small_card_in_a_large_photograph_is_found(finder):
    corners = (CORNERS - CORNERS.mean(0)) * 0.5 + (1350, 200)
    found = detector.find_card(photographed(drawn_card(), corners, (1600, 1200)), finder, EYE)
    assert np.abs(found.corners + 0.5 - corners).max() < 6


def test_an_alignment_moves_the_outline(finder):
    photo = photographed(drawn_card(), CORNERS, (1600, 1200))
    shrunk = torch.diag(torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
    whole, half = (detector.find_card(photo, finder, alignment).corners for alignment in (EYE, shrunk))
    assert np.ptp(half, 0) == pytest.approx(np.ptp(whole, 0) / 2, rel=0.05)


def saved(image, kind="png", **options):
    image.save(file := io.BytesIO(), kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_in_full_resolution(orientation):
    photo = photographed(drawn_card(), fitting(CORNERS, (320, 240)), (320, 240))
    stored = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(photo))  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    read, _ = detector.read_photograph(saved(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(photo))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "F", "10 bits", "12 bits", "14 bits", "16 bits"])
def test_photographs_of_all_modes_are_as_bright_as_they_were(mode):
    grey = ramp((320, 240), 0)
    if mode == "F":
        photo = Image.fromarray(np.asarray(grey) / np.float32(255))
    elif mode.endswith("bits"):
        full = 2 ** int(mode[:2]) - 1
        photo = Image.fromarray((np.asarray(grey) / 255 * full).round().astype(np.uint16))
    else:
        photo = grey.convert("RGB").convert(mode)
    read, _ = detector.read_photograph(saved(photo, "tiff"))
    assert (read.mode, read.size) == ("RGB", (320, 240))
    assert np.abs(np.asarray(read.convert("L"), float).mean() - np.asarray(grey).mean()) < (3 if mode == "1" else 1.5)


@pytest.mark.parametrize("size", [(1, 1), (47, 300), (4000, 20)], ids=str)
def test_a_tiny_photograph_is_refused(size):
    with pytest.raises(ImageError, match=r"^is too small, \d+×\d+ pixels: to read a card, 48 are needed"):
        detector.read_photograph(saved(Image.new("L", size)))


def chosen_threshold(*kinds):
    """Return the smallest threshold, in steps of 0.01, with at most 1 % of false alarms in each kind of images.

    kinds: arrays of confidences of images without a card. This is the rule behind detector.THRESHOLD.
    """
    hundredths = (hundredth / 100 for hundredth in range(100))
    return next((least for least in hundredths if all(np.mean(kind >= least) <= 0.01 for kind in kinds)), 1.0)


def test_the_threshold_is_the_lowest_hundredth_that_one_in_a_hundred_reaches():
    assert chosen_threshold(np.linspace(0.0005, 0.9995, 1000)) == 0.99
    assert chosen_threshold(np.array([0.105] * 2 + [0.05] * 98)) == 0.11
    few = np.array([0.105] + [0.05] * 99)
    assert chosen_threshold(few) == 0.06
    assert chosen_threshold(few, np.array([0.205] * 2 + [0.05] * 98)) == 0.21  # the harder kind decides


# the command


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, finder):
    """Run the command with the stand-in, in this process and in an empty folder: (exit code, lines, error lines)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "load", lambda which: pretrained.Trained(str(which), finder, {"data": CARDS}))

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["extract_id.py", *map(str, arguments)])
        code = extract_id.main()
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err.splitlines()

    return main


@pytest.fixture
def photos(tmp_path):
    photographed(drawn_card(), CORNERS, (1600, 1200)).save(tmp_path / "card.jpg")
    Image.new("RGB", (400, 300)).save(tmp_path / "dark.png")
    return tmp_path


def test_the_number_its_probabilities_and_the_corners_are_told(run, photos):
    code, lines, errors = run("card.jpg", "dark.png")
    assert (code, errors) == (0, [])  # no card is a result, too
    first, digits, corners, none = lines
    assert first == f"card.jpg: {NUMBER}  (confidence 0.99) -> card.jpg.card.png, card.jpg.outline.png"
    assert digits.split() == [part for digit in NUMBER for part in (f"{digit}:", "99.9%")]
    assert corners.startswith("    corners, pixels: (")
    assert re.fullmatch(
        r"dark\.png: no card found, the digits are unsure( and two looks disagree on the corners)? "
        r"\(confidence 0\.\d\d = digits [01]\.\d\d × agreement of two looks [01]\.\d\d; "
        rf"{re.escape(NEEDED)} is needed\)",
        none,
    )
    assert {path.name for path in photos.iterdir()} == {
        *("card.jpg", "dark.png", "card.jpg.card.png", "card.jpg.outline.png")
    }
    with Image.open("card.jpg.outline.png") as outline, Image.open("card.jpg") as photo:
        assert outline.size == (1200, 900)
        drawn = np.abs(np.asarray(outline, float) - np.asarray(photo.resize((1200, 900)), float)).max(2) > 60
    assert 0.005 < drawn.mean() < 0.05
    with Image.open("card.jpg.card.png") as card:
        middle = np.asarray(card.resize((92, 58)), float)[[13, 21], [13, 28]]  # of the first two marks
    assert np.argmax(middle, 1).tolist() == [0, 1]  # red and green: the colours are kept


def test_the_threshold_is_called_a_guess_only_for_another_network_than_the_one_it_was_chosen_for(run, photos):
    (line,) = run("dark.png", "--weights", "exp_32")[1]
    assert line.endswith(f"; {NEEDED} is needed, which was chosen for exp_40 and is a guess for exp_32)")
    for name in (extract_id.DEFAULT, detector.RULED_BY):
        (line,) = run("dark.png", "--weights", name)[1]
        assert line.endswith(f"; {NEEDED} is needed)")


def test_json_for_programs(run, photos):
    (photos / "other").mkdir()
    (photos / "card.jpg").rename(photos / "other" / "dark.png")
    code, lines, errors = run("--json", "other/dark.png", "missing.png", "dark.png", "--out", "out/deep")
    assert (code, errors) == (1, [])
    card, missing, none = map(json.loads, lines)
    factors = {"found", "confidence", "digits_sure", "agreement", "doubts"}
    keys = {"image", "number", "probabilities", "corners", "card", "outline", "steps", *factors}
    assert card.keys() == none.keys() == keys
    assert (card["image"], card["number"], card["probabilities"]) == ("other/dark.png", NUMBER, [0.999] * 6)
    assert np.abs(np.array(card["corners"]) - CORNERS).max() < 12
    assert (card["card"], card["outline"]) == ("out/deep/dark.png.card.png", "out/deep/dark.png.outline.png")
    assert missing == {"image": "missing.png", "error": "cannot be read (No such file or directory)"}
    assert none["confidence"] < detector.THRESHOLD
    assert card["doubts"] == none["steps"] == []
    assert "digits" in none["doubts"]
    assert all(none[key] is None for key in keys - {"image", "steps", *factors})
    for each in (card, none):
        assert each["confidence"] == pytest.approx(each["digits_sure"] * each["agreement"], abs=2e-4)
        assert each["found"] == (each["confidence"] >= detector.THRESHOLD)


def test_what_was_seen_where_no_card_is_found_is_shown_if_asked_for(run, photos):
    """The likeliest card, its digits, and both pictures; it stays marked as not found."""
    code, lines, errors = run("--json", "--debug", "dark.png")
    assert (code, errors) == (0, [])
    result = json.loads(lines[0])
    assert not result["found"]
    assert re.fullmatch(r"\d{6}", result["number"])
    assert len(result["probabilities"]) == 6
    assert np.array(result["corners"]).shape == (4, 2)
    assert {path.name for path in photos.glob("dark.png.*")} == {"dark.png.card.png", "dark.png.outline.png"}
    lines = run("--debug", "--out", "again", "dark.png")[1]
    assert lines[0].startswith("dark.png: no card found, the digits are unsure")
    assert lines[0].endswith("-> again/dark.png.card.png, again/dark.png.outline.png")
    assert lines[2].startswith("    corners, pixels: (")


class Lost(Finder):
    """Finds the same in every scene, by a given homography, and gives digits given probabilities."""

    def __init__(self, matrix, probability=0.3):
        super().__init__()
        self.matrix, self.probability = torch.tensor(matrix), probability

    def homography(self, scenes):
        return self.matrix.expand(len(scenes), 3, 3)

    def classify(self, strips):
        return torch.full((len(strips), 10, 6), self.probability).log()


def scaled(factor):
    return [[factor, 0.0, 0.0], [0.0, factor, 0.0], [0.0, 0.0, 1.0]]


NAN, INFINITE = float("nan"), float("inf")
ON_THE_HORIZON = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [128 / 92, 0.0, 1.0]]  # two corners, but for rounding
AT_INFINITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("script_options", [(), ("--json",)])
@pytest.mark.parametrize(
    ("matrix", "drawn"),
    [
        ([[NAN] * 3] * 3, ()),
        (scaled(INFINITE), ()),
        (AT_INFINITY, ()),
        (ON_THE_HORIZON, ()),
        (scaled(1e30), ()),
        (scaled(3e7), ()),
        (scaled(300.0), ("card", "outline")),
        (scaled(1e-30), ("card", "outline")),
        (scaled(0.0), ("card", "outline")),
    ],
    ids=["nan", "infinite", "at infinity", "on the horizon", "1e30", "3e7", "300", "1e-30", "0"],
)
def test_a_likeliest_card_without_a_size_that_can_be_drawn_is_one_statement(
    run, photos, monkeypatch, matrix, drawn, script_options
):
    lost = pretrained.Trained("lost", Lost(matrix).eval(), {"data": CARDS})
    monkeypatch.setattr(pretrained, "load", lambda which: lost)
    code, lines, errors = run("--debug", "dark.png", *script_options)
    assert (code, errors) == (0, [])
    assert {path.name for path in photos.glob("dark.png.*")} == {f"dark.png.{name}.png" for name in drawn}
    for name in drawn:
        with Image.open(f"dark.png.{name}.png") as picture:
            picture.load()
    if script_options:
        result = json.loads(lines[0], parse_constant=pytest.fail)  # NaN is no JSON
        assert (result["found"], result["number"]) == (False, "000000")
        assert {name for name in ("card", "outline") if result[name]} == {*drawn}
        assert (result["corners"] is None) == (not drawn)
    else:
        assert lines[0].startswith("dark.png: no card found, ")
        assert lines[0].endswith(", ".join(f"dark.png.{name}.png" for name in drawn) if drawn else ")")
        last = "corners, pixels: " if drawn else "the likeliest card is too large to be drawn"
        assert lines[-1].strip().startswith(last)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_a_doubt_is_a_factor_below_the_threshold(sure, agreement, threshold):
    """Both if both are below it, and the smaller one if only their product is."""
    found = extract_id.doubts(sure, agreement, threshold)
    if min(sure, agreement) < threshold:
        assert ("digits" in found, "corners" in found) == (sure < threshold, agreement < threshold)
    else:
        assert found == (["corners"] if agreement < sure else ["digits"])


@pytest.mark.parametrize("options", [(), ("--debug",)])
def test_digits_without_a_probability_are_no_card(run, photos, monkeypatch, options):
    lost = pretrained.Trained("lost", Lost(scaled(1.0), NAN).eval(), {"data": CARDS})
    monkeypatch.setattr(pretrained, "load", lambda which: lost)
    code, lines, errors = run(*options, "dark.png", "card.jpg")
    assert (code, errors) == (0, [])
    assert "(confidence 0.00 = digits 0.00 × " in lines[0]
    result = json.loads(run(*options, "--json", "dark.png")[1][0], parse_constant=pytest.fail)
    assert (result["found"], result["probabilities"]) == (False, [0] * 6 if options else None)


def test_what_was_done_to_a_photograph_is_told(run, photos):
    """With and without a card in it: one that is lying is turned, and a second page is not read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("card.jpg", "dark.png"):
        upright, page = Image.open(photos / name), Image.new("RGB", (100, 100))
        lying = upright.transpose(Image.Transpose.ROTATE_90)
        lying.save(photos / f"{name}.tif", "tiff", exif=exif, save_all=True, append_images=[page])
    steps = ["read only the first of several pages", "turned as its EXIF data say"]
    code, lines, errors = run("card.jpg.tif", "dark.png.tif")
    assert (code, errors) == (0, [])
    assert lines[0].startswith(f"card.jpg.tif: {NUMBER}  (confidence 0.99; {'; '.join(steps)}) -> ")
    assert lines[-1].endswith(f"{NEEDED} is needed; {'; '.join(steps)})")
    _, lines, _ = run("--json", "card.jpg.tif", "dark.png.tif", "dark.png")
    assert [json.loads(line)["steps"] for line in lines] == [steps, steps, []]


def test_photographs_of_one_name_do_not_overwrite_each_other(run, photos):
    (photos / "other").mkdir()
    (photos / "other" / "card.jpg").write_bytes((photos / "card.jpg").read_bytes())
    code, lines, _ = run("--json", "card.jpg", "other/card.jpg", "--out", "out")
    assert code == 0
    assert [json.loads(line)["card"] for line in lines] == ["out/card.jpg.card.png", "out/card_2.jpg.card.png"]


def test_pictures_of_its_own_are_passed_over_but_no_others(run, photos):
    """By their names and that of a photograph beside them, or named on the same line."""
    assert run("card.jpg", "card.jpg", "--out", "out")[0] == 0
    (photos / "id.card.png").write_bytes((photos / "dark.png").read_bytes())
    (photos / "card.jpg.card.png").write_bytes((photos / "dark.png").read_bytes())
    code, lines, errors = run("card.jpg.card.png", "id.card.png")
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith("id.card.png: no card found")
    assert errors == ["card.jpg.card.png is skipped: it is a picture by extract_id.py"]
    code, lines, errors = run("--json", "card.jpg", "out/card.jpg.outline.png", "--out", "again")
    assert (code, errors, json.loads(lines[0])["number"]) == (0, [], NUMBER)
    why = "is skipped: it is a picture by extract_id.py"
    assert json.loads(lines[1]) == {"image": "out/card.jpg.outline.png", "error": why}


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0garbage garbage", b""], ids=["short", "garbage", "none"])
def test_a_photograph_with_damaged_exif_data_is_read_as_it_lies(kind, exif):
    read, _ = detector.read_photograph(saved(ramp((320, 240), 0), kind, exif=exif))
    assert np.abs(np.asarray(read.convert("L"), float) - np.asarray(ramp((320, 240), 0))).mean() < 3


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1), (99, 0)])
def test_a_photograph_is_turned_as_its_exif_data_say(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    read, _ = detector.read_photograph(saved(ramp((320, 240), 0), exif=exif))
    assert np.array_equal(np.asarray(read.convert("L")), np.rot90(np.asarray(ramp((320, 240), 0)), turned))


def test_bad_files_are_named_and_the_others_go_on(run, photos):
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("This is no image.")
    (photos / "cut.jpg").write_bytes((photos / "card.jpg").read_bytes()[:3000])
    Image.new("1", (12_000, 12_000)).save(photos / "huge.png")
    Image.new("L", (20, 20)).save(photos / "tiny.png")
    (photos / "card.jpg").rename(photos / "renamed.png")  # what it holds counts, not what it is called
    code, lines, errors = run(
        "empty.png", "text.jpg", "cut.jpg", "huge.png", "tiny.png", "missing\n.png", "renamed.png"
    )
    assert code == 1
    formats = "is no image, or none of these: PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, AVIF, HEIC"
    assert errors[:2] == [f"empty.png {formats}", f"text.jpg {formats}"]
    assert errors[2].startswith("cut.jpg cannot be read (")
    assert errors[3:] == [
        "huge.png has more than 89,478,485 pixels; make it smaller first",
        "tiny.png is too small, 20×20 pixels: to read a card, 48 are needed in both directions",
        r"missing\n.png cannot be read (No such file or directory)",
    ]
    assert lines[0].startswith(f"renamed.png: {NUMBER}  (")


@pytest.mark.parametrize("script", ["extract_id.py", pytest.param("predict.py", marks=pytest.mark.slow)])
def test_an_interrupt_ends_it_in_one_line_and_leaves_complete_pictures(script, photos):
    command = [sys.executable, ROOT / script, "--json", "--out", "out", *["card.jpg"] * 500]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=photos) as process:
        assert "card.jpg" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == f"{script}: interrupted\n"
    assert not list(photos.glob("out/.*"))
    for path in photos.glob("out/*"):
        Image.open(path).verify()


def test_a_place_that_cannot_be_written_is_named(run, photos):
    (photos / "card.jpg.card.png").mkdir()
    code, lines, errors = run("card.jpg", "dark.png")
    assert (code, len(lines), errors) == (1, 1, ["card.jpg cannot be written: Is a directory"])
    assert run("card.jpg", "--out", "dark.png") == (2, [], ["extract_id.py: [Errno 17] File exists: 'dark.png'"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: PHOTO"),
        (["x.png", "--weights", "exp_99"], "extract_id.py: exp_99 is neither a name in weights/ (exp_02, "),
        (["x.png", "--weights", "exp_16"], "extract_id.py: exp_16 reads digits, not cards: it is for predict.py"),
        (["x.png", "--size", "3"], "unrecognized arguments: --size" if KEPT else "--size"),
    ],
)
def test_wrong_usage_is_one_clear_line(call_here, tmp_path, arguments, message):
    process = call_here("extract_id.py", *arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_digits_are_not_read_by_what_finds_cards(finder):
    network = pretrained.Trained(
        "exp_40", finder, {"arguments": {"passes": 4}, "model": "Net_Card_Homography", "data": CARDS}
    )
    assert network.require("cards") is network
    for refused in (lambda: network.require("digits"), lambda: network.read(np.zeros((1, 28, 28)))):
        with pytest.raises(RunError, match=r"^exp_40 reads cards, not digits: it is for extract_id\.py$"):
            refused()
    fixed = network._replace(model=Net_Card(bypass_localisation=True))
    with pytest.raises(RunError, match=r"^exp_40 has no transformer, so it finds no card$"):
        detector.alignment(fixed)
    assert pretrained.Trained("exp_02", Net_CoordConv(), {"data": {}}).reads == "digits"


# the network itself


class Shifted(Net_Card_Homography):
    """Reads every scene at a place of its own, the same for all."""

    frame = torch.tensor([[0.5, 0, 0.25], [0, 0.5, -0.125], [0, 0, 1]])

    def homography(self, scenes):
        return self.frame.expand(len(scenes), 3, 3)


def test_a_network_of_numbers_alone_is_aligned_on_training_scenes(monkeypatch):
    """One with a frame of its own is aligned with where cards lie on average there: nearly in the scenes' middle."""
    monkeypatch.setattr(metrics, "N_ALIGNED", 200)
    network = pretrained.Trained("new", Shifted().eval(), {})
    corners = geometry.card_corners(detector.alignment(network)[None])
    expected = (geometry.card_corners(EYE[None]) - torch.tensor([0.25, -0.125])) / 0.5
    assert (corners - expected).abs().max() < 0.3
    assert (corners - geometry.card_corners(EYE[None])).abs().max() > 0.4


SQUARE = np.array([(0, 0), (10, 0), (10, 10), (0, 10)], float)


@pytest.mark.parametrize(
    ("corners", "is_one"),
    [
        (SQUARE, True),
        (SQUARE[::-1], False),  # seen from behind
        (SQUARE[[0, 2, 1, 3]], False),  # crossed
        (np.array([(0, 0), (10, 0), (2, 2), (0, 10)], float), False),  # bent inwards
        (np.where(SQUARE == 10, np.inf, SQUARE), False),
        (np.where(SQUARE == 10, np.nan, SQUARE), False),
    ],
)
def test_an_outline_is_convex_and_clockwise(corners, is_one):
    assert detector.is_outline(corners) == is_one
    assert detector.measure_agreement(SQUARE, corners) == pytest.approx(float(is_one))


def test_two_looks_agree_by_the_distance_of_their_corners():
    """A square of 10 with a diagonal of 14.14: moved by 3 and 4, it is off by 5."""
    assert detector.measure_agreement(SQUARE + np.array([3, 4]), SQUARE) == pytest.approx(1 - 2 * 5 / 200**0.5)
    assert detector.measure_agreement(SQUARE + np.array([8, 0]), SQUARE) == 0
    assert detector.measure_agreement(SQUARE + np.inf, SQUARE) == 0


def test_a_card_that_ends_infinitely_far_away_is_looked_at_all_the_same():
    homography = torch.tensor([[1, 0, 0], [0, 1, 0], [128 / 92, 0, 1]], dtype=torch.float64)
    scenes, places = map(in_tensors, detector.cut_around(ramp((320, 240), 0), homography[None]))
    assert scenes.shape == (1, 128, 128)
    assert places.isfinite().all()


@needs_weights
def test_a_drawn_card_is_read_in_a_fresh_clone(call, tmp_path):
    scene = drawn_scenes(10, True)
    for number in range(10):
        Image.fromarray(scene.images[number, 0].numpy()).resize((640, 640)).save(tmp_path / f"{number}.png")
    process = call("extract_id.py", "--json", *(f"{number}.png" for number in range(10)), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    read = [json.loads(line)["number"] for line in process.stdout.splitlines()]
    told = ["".join(map(str, digits)) for digits in scene.labels.tolist()]
    assert sum(ours == number for ours, number in zip(read, told, strict=True)) >= 7


def drawn_scenes(n, with_card, split="test"):
    """Scenes of full strength; other ones with a card than without, of either split."""
    seed = {"train": 10, "test": 20}[split] + with_card
    return rendering.draw(*card_data.sources_of(data.load(), split, split), n, seed, 1.0, with_card)


def small_in_a_photograph(scene, bank, rng):
    """Lay a scene, 600 pixels wide, somewhere on a texture."""
    photo = Image.fromarray(bank[rng.integers(len(bank))]).resize((1600, 1200), Image.Resampling.BICUBIC)
    place = int(rng.integers(1000)), int(rng.integers(600))
    photo.paste(Image.fromarray(scene).resize((600, 600), Image.Resampling.BICUBIC), place)
    return photo


def busy(scene, bank, rng):
    """The same or, one time in two, six textures side by side."""
    if rng.integers(2):
        return small_in_a_photograph(scene, bank, rng)
    rows = [np.concatenate([bank[rng.integers(len(bank))] for _ in range(3)], 1) for _ in range(2)]
    return Image.fromarray(np.concatenate(rows)).resize((1536, 1024))


def as_it_is(scene, _bank, _rng):
    return Image.fromarray(scene)


def on_its_head(scene, _bank, _rng):
    return Image.fromarray(scene[::-1, ::-1].copy())


KINDS = {  # what the tool is measured on: split, with a card, how a scene becomes a photograph
    "training scenes without a card": ("train", False, as_it_is),
    "training photographs without a card": ("train", False, busy),
    "training scenes": ("train", True, as_it_is),
    "test scenes without a card": ("test", False, as_it_is),
    "test photographs without a card": ("test", False, busy),
    "other photographs without a card": ("photographs", False, busy),  # three that nothing was taught or chosen with
    "test scenes": ("test", True, as_it_is),
    "test scenes, small in photographs of 1600×1200": ("test", True, small_in_a_photograph),
    "test scenes on their heads": ("test", True, on_its_head),
}


def found_in(kind, network, n=N):
    """Return of each of n photographs of a kind: the confidence, whether the number is right, and the corner error.

    The latter is as in studies/cards/metrics.py, of scenes, in % of the card's diagonal.
    """
    split, with_card, photographed_as = KINDS[kind]
    bank = photographs("test") if split == "photographs" else rendering.textures(split)
    split = "train" if split == "train" else "test"
    scenes, rng = drawn_scenes(n, with_card, split), np.random.default_rng(0)
    true = warps.to_pixels(geometry.card_corners(scenes.homographies), geometry.SCENE, geometry.SCENE).numpy()
    alignment, found = detector.alignment(network), []
    for image, label, corners in zip(scenes.images[:, 0].numpy(), scenes.labels.tolist(), true, strict=True):
        photo = photographed_as(image, bank, rng)
        card = detector.find_card(photo.convert("RGB"), network.model, alignment)
        diagonal = np.linalg.norm(corners - np.roll(corners, 2, 0), axis=1).mean()
        error = 100 * np.linalg.norm(card.corners - corners, axis=1).mean() / diagonal
        found.append((card.confidence, card.number == "".join(map(str, label)), error))
    return np.array(found).T


def row_of(kind, confidences, right, errors):
    kept = confidences >= detector.THRESHOLD
    row = {"scenes": len(kept), "kept": int(kept.sum())}
    _, with_card, photographed_as = KINDS[kind]
    if with_card:
        row["right"] = int((kept & (right == 1)).sum())
    if with_card and photographed_as is as_it_is:
        row["corner_error"] = float(np.median(errors[kept]))
    return row


def seconds_for(path, network):
    """Return how long a photograph takes: to find its card, and all but importing and starting; medians of 20."""
    alignment, photo, spent = detector.alignment(network), detector.read_photograph(path)[0], []
    for _ in range(20):
        times = [time.perf_counter()]
        detector.find_card(photo, network.model, alignment)
        times.append(time.perf_counter())
        extract_id.read_photo(path, path, network, alignment)
        times.append(time.perf_counter())
        spent.append(np.diff(times))
    return np.median(spent, 0).tolist()


@needs_weights
@pytest.mark.slow
def test_how_many_numbers_are_found_and_how_often_there_is_no_card(save_measurement, call, tmp_path):
    """The threshold is what its rule chooses, and all is as the record says; times are only measured.

    A few more or less with other versions of what resizes images.
    """
    network = pretrained.load(extract_id.DEFAULT)
    found = {kind: found_in(kind, network) for kind in KINDS}
    rows = {kind: row_of(kind, *numbers) for kind, numbers in found.items()}
    path = tmp_path / "photo.jpg"
    small_in_a_photograph(
        drawn_scenes(1, True).images[0, 0].numpy(), rendering.textures("test"), np.random.default_rng(0)
    ).save(path)
    find, whole = seconds_for(path, network)
    started = [time.perf_counter()]
    for _ in range(5):
        assert call("extract_id.py", path, cwd=tmp_path).returncode == 0
        started.append(time.perf_counter())
    times = {"to_find": find, "without_imports": whole, "with_imports": statistics.median(np.diff(started).tolist())}
    ruling = pretrained.load(detector.RULED_BY)
    kinds = (f"training {what} without a card" for what in ("scenes", "photographs"))
    chosen = chosen_threshold(*(found_in(kind, ruling)[0] for kind in kinds))
    numbers = {"threshold": detector.THRESHOLD, "chosen": chosen, "rows": rows, "seconds": times}
    save_measurement("extract_id", numbers)
    assert chosen == detector.THRESHOLD
    recorded = json.loads(RECORD.read_text())
    assert recorded["threshold"] == recorded["chosen"] == detector.THRESHOLD
    for kind, row in rows.items():
        for name in row.keys() & {"kept", "right"}:
            few = 2 if "without" in kind else 5
            assert abs(row[name] - recorded["rows"][kind][name]) <= few, (kind, name)


def test_what_was_measured_is_a_table():
    rows = {kind: {"scenes": 1000, "kept": 10 * number} for number, kind in enumerate(KINDS)}
    rows["test scenes"] |= {"right": 25, "corner_error": 0.6}
    record = {
        "threshold": 0.9,
        "rows": rows,
        "seconds": dict.fromkeys(("to_find", "without_imports", "with_imports"), 0.5),
    }
    from page import measurement_tables  # of tools/

    told = measurement_tables().extract_id(record)
    assert "| test scenes | 1,000 | 60 | 6.0 | 25 | 0.60 |" in told
    assert "| test scenes without a card | 1,000 | 30 | 3.0 |  |  |" in told
    assert "confidence of 0.90" in told
