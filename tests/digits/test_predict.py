"""`predict.py` as a user calls it."""

import json
import os
import re
import struct

import numpy as np
import pytest
from own_pictures import stack
from pictures import endless_jpeg, handwritten, photographed, printed
from PIL import Image

from digits import pretrained
from stn import mnist


@pytest.fixture
def photos(tmp_path):
    """A photographed image of MNIST, three printed digits (also with damaged EXIF data), no image, a blank sheet."""
    image = handwritten(mnist.read_mnist()[2][0])
    photographed(image, np.random.default_rng(0)).save(tmp_path / "seven.jpg")
    line = np.pad(printed("274", "DejaVuSans"), 40)
    Image.fromarray(((1 - line) * 255).astype(np.uint8)).save(tmp_path / "three.png")
    directory = struct.pack("<HHHII", 1, 0x010F, 2, 400, 5000)  # one entry, whose text lies beyond the end
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + directory
    Image.open(tmp_path / "three.png").save(tmp_path / "damaged_exif.jpg", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("L", (300, 200), 230).save(tmp_path / "blank.png")
    return tmp_path


def test_several_images_are_read_and_bad_ones_named(call, call_here, photos):
    """Damaged EXIF data are passed over: Pillow warns of them, and the photograph is read as it stands."""
    names = ["seven.jpg", "broken.png", "blank.png", "missing.png", "damaged_exif.jpg", "three.png"]
    process = call("predict.py", *names, cwd=photos)
    assert process.returncode == 1
    told = [line for line in process.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split("  (")[0] for line in told] == ["seven.jpg: 7", "damaged_exif.jpg: 274", "three.png: 274"]
    assert told[0].endswith("1 found) -> seven.jpg.read.png")
    assert "dark ink on light, 3 found" in told[2]
    shares = [line.split()[1:3] for line in process.stdout.splitlines() if line.startswith(" ")]
    assert [share[0] for share in shares] == ["7:", *["2:", "7:", "4:"] * 2]
    assert process.stderr.splitlines() == [
        "broken.png is no image, or none of these: PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, AVIF, HEIC",
        "blank.png is blank: no ink stands out from the paper",
        "missing.png cannot be read (No such file or directory)",
    ]
    for name in ("seven.jpg.read.png", "three.png.read.png"):
        assert np.asarray(Image.open(photos / name).convert("RGB")).std() > 20  # something is drawn
    again = call_here("predict.py", "seven.jpg", "seven.jpg.read.png", cwd=photos)
    assert again.returncode == 0
    assert again.stderr == "seven.jpg.read.png is skipped: it is a picture by predict.py\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("script", ["predict.py", "extract_id.py"])
def test_pipes_and_what_takes_too_long_are_refused_and_the_others_go_on(call, photos, script):
    os.mkfifo(photos / "pipe.png")
    (photos / "scans.jpg").write_bytes(endless_jpeg())
    process = call(script, "pipe.png", "scans.jpg", "three.png", cwd=photos)
    assert process.returncode == 1
    assert process.stdout.startswith("three.png: ")
    assert process.stderr.splitlines() == [
        "pipe.png is no regular file but a pipe or a device; save the picture as a file first",
        "scans.jpg takes more than 2 seconds to decode; make it smaller or save it anew first",
    ]


def test_json_for_programs(call_here, photos):
    (photos / "other").mkdir()
    (photos / "seven.jpg").rename(photos / "other" / "three.png")
    process = call_here(
        "predict.py", "--json", "three.png", "broken.png", "other/three.png", "--out", "out/deep", cwd=photos
    )
    assert (process.returncode, process.stderr) == (1, "")
    three, broken, seven = map(json.loads, process.stdout.splitlines())
    assert (three["image"], three["digits"], seven["digits"]) == ("three.png", "274", "7")
    assert np.argmax(three["probabilities"], 1).tolist() == [2, 7, 4]
    assert np.abs(np.sum(three["probabilities"], 1) - 1).max() < 1e-3
    assert broken == {
        "image": "broken.png",
        "error": "is no image, or none of these: PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, AVIF, HEIC",
    }
    assert three["picture"] == "out/deep/three.png.read.png"
    assert seven["picture"] == "out/deep/three_2.png.read.png"  # of the same name, from another folder
    assert {path.name for path in (photos / "out" / "deep").iterdir()} == {"three.png.read.png", "three_2.png.read.png"}


def test_rows_and_what_was_left_out(call_here, tmp_path):
    page = np.pad(stack([printed("1,2", size=80), printed("74", size=80)], 40), 40)
    Image.fromarray(((1 - page) * 255).astype(np.uint8)).save(tmp_path / "page.png")
    result = json.loads(call_here("predict.py", "--json", "page.png", cwd=tmp_path).stdout)
    assert (result["digits"], result["rows"], result["left_out"]) == ("1274", ["12", "74"], {"marks": 1})
    assert result["steps"] == ["dark ink on light, 4 found", "left out: marks (1)"]
    line = call_here("predict.py", "page.png", cwd=tmp_path).stdout.splitlines()[0]
    assert line.startswith("page.png: 12 / 74  (dark ink on light, 4 found; left out: marks (1))")


def test_what_may_be_no_digit_is_told_with_doubt(call_here, tmp_path):
    page = np.pad(stack([printed("52", size=80), printed("KW", size=80)], 40), 40)
    Image.fromarray(((1 - page) * 255).astype(np.uint8)).save(tmp_path / "page.png")
    result = json.loads(call_here("predict.py", "--json", "page.png", cwd=tmp_path).stdout)
    assert (result["digits"][:2], result["doubtful"]) == ("52", True)
    assert result["in_doubt"] == [False, False, True, True]
    first, *each = call_here("predict.py", "page.png", cwd=tmp_path).stdout.splitlines()
    assert re.match(r"page\.png: 52 / \d\?\d\?  \(dark ink on light, 4 found\) -> ", first)
    assert [line[:6] for line in each[:2]] == ["    5 ", "    2 "]
    assert [line[5:8] for line in each[2:]] == ["?  ", "?  "]
    other = json.loads(call_here("predict.py", "--json", "--weights", "exp_16", "page.png", cwd=tmp_path).stdout)
    assert (other["doubtful"], other["in_doubt"]) == (None, None)


def test_as_it_is(call_here, tmp_path):
    image = mnist.read_mnist()[2][1]
    Image.fromarray(image).save(tmp_path / "two.png")
    process = call_here("predict.py", "two.png", "--as-is", "--weights", "exp_02", "--json", cwd=tmp_path)
    result = json.loads(process.stdout)
    assert (result["digits"], result["rows"], result["steps"]) == ("2", ["2"], ["taken as it is"])
    expected = pretrained.load("exp_02").read(image[None] / 255).probabilities
    np.testing.assert_allclose(result["probabilities"], expected, atol=1e-3)


def test_a_runs_folder_is_a_network_too(call_here, photos, undisturbed):
    process = call_here("predict.py", "three.png", "--json", "--weights", next(undisturbed.glob("exp_03*")), cwd=photos)
    assert process.returncode == 0, process.stderr
    assert len(json.loads(process.stdout)["digits"]) == 3  # after a look at 640 images


def test_the_networks_are_listed(call_here, tmp_path):
    lines = call_here("predict.py", "--list", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == pretrained.names()
    run = pretrained.load("exp_16").results
    accuracy = f"{run['test_correct'] / 100:.2f} % of 10,000 test images, seed 123, commit {run['git_commit'][:7]}"
    assert f"exp_16  homography, 4 passes, taught in perspective: {accuracy}" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "an image is needed"),
        (["x.png", "--weights", "exp_99"], "exp_99 is neither a name in weights/ (exp_02, "),
        (["x.png", "--out", "three.png"], "predict.py: [Errno 17] File exists: 'three.png'"),
        (["x.png", "--size", "3"], "unrecognized arguments: --size"),
    ],
)
def test_wrong_usage_is_one_clear_line(call_here, photos, arguments, message):
    process = call_here("predict.py", *arguments, cwd=photos)
    assert process.returncode == 2
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_a_name_with_other_letters_is_told_in_one_line(call_here, photos):
    (photos / "seven.jpg").rename(photos / "a\x1b[31m\nb.jpg")
    (photos / "broken.png").rename(photos / "c\n.png")
    process = call_here("predict.py", "a\x1b[31m\nb.jpg", "c\n.png", cwd=photos)
    assert process.stdout.splitlines()[0].startswith(r"a\x1b[31m\nb.jpg: 7  (")
    assert process.stderr.splitlines()[0].startswith(r"c\n.png is no image")


def test_a_folder_that_cannot_be_written_is_named(call_here, photos):
    (photos / "three.png.read.png").mkdir()
    process = call_here("predict.py", "three.png", "seven.jpg", cwd=photos)
    assert process.returncode == 1
    assert process.stderr == "three.png cannot be written: Is a directory\n"
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout.startswith("seven.jpg: 7  (")
