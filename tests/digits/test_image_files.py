"""Image files as people have them: turned, with several pages, from telephones, named by patterns."""

import io
import json
import sys

import numpy as np
import pytest
from pictures import printed
from PIL import Image

from digits.image_files import UNREAD, ImageError, open_upright

# A picture (60, 90) that is different however it is turned or mirrored, in steps that a lossy format keeps.
PICTURE = np.kron(np.random.default_rng(0).integers(0, 2, (4, 6)), np.full((15, 15), 255)).astype(np.uint8)
STORED = {  # how the pixels lie in the file, by the orientation that the EXIF standard then gives them
    1: np.array, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
    6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
}  # fmt: skip
needs_avif = pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="needs a Pillow with AVIF")


def assert_is_picture(image, off=40):
    pixels = np.asarray(image.convert("L"), float)
    assert pixels.shape == PICTURE.shape
    assert np.abs(pixels - PICTURE).mean() < off


def save(path, kind, orientation=1, **options):
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](PICTURE)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, kind, exif=exif.tobytes(), **options)
    return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tiff", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"save_all": True, "append_images": [Image.new("L", (50, 50))]}),
        ("png", {}),
        ("webp", {"lossless": True}),
        pytest.param("avif", {}, marks=needs_avif),
    ],
    ids=["TIFF", "TIFF, packed", "TIFF of two pages", "PNG", "WebP", "AVIF"],
)
def test_a_file_is_turned_once(tmp_path, kind, options, orientation):
    """From its path and from memory; and what was done is said, whoever did it."""
    path = save(tmp_path / "picture", kind, orientation, **options)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        image, _, steps = open_upright(source)
        assert_is_picture(image)
        assert ("turned as its EXIF data say" in steps) == (orientation != 1)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("tiff", "read only the first of several pages"),
        ("gif", "read only the first of several frames"),
        ("png", "read only the first of several frames"),
        ("webp", "read only the first of several frames"),
        pytest.param("avif", "read only the first of several frames", marks=needs_avif),
    ],
)
def test_what_is_not_read_of_a_file_is_said(tmp_path, kind, step):
    others = [Image.fromarray(255 - PICTURE), Image.new("L", (90, 60), 128)]
    image, _, steps = open_upright(save(tmp_path / "several", kind, save_all=True, append_images=others))
    assert_is_picture(image)
    assert steps == [step]
    image, _, steps = open_upright(save(tmp_path / "one", kind))
    assert_is_picture(image)
    assert steps == []


def test_the_other_pictures_that_a_camera_keeps_of_a_photograph_are_no_pages(tmp_path):
    preview = Image.fromarray(PICTURE[::2, ::2])
    image, _, steps = open_upright(save(tmp_path / "photo.jpg", "mpo", save_all=True, append_images=[preview]))
    assert_is_picture(image)
    assert steps == []


def several(kind):
    """Return a file with the picture and its negative."""
    save(file := io.BytesIO(), kind, save_all=True, append_images=[Image.fromarray(255 - PICTURE)])
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata; the scripts do not show them
@pytest.mark.parametrize("kind", ["gif", "tiff", "webp", pytest.param("avif", marks=needs_avif)])
def test_any_damage_leaves_a_picture_or_one_line(kind):
    content, rng = several(kind), np.random.default_rng(1)
    reasons = []
    for place in rng.choice(len(content), 150, replace=len(content) < 150):
        changed = bytes([content[place] ^ int(rng.integers(1, 256))])
        for data in (content[:place] + changed + content[place + 1 :], content[:place]):
            try:
                open_upright(io.BytesIO(data))
            except ImageError as error:
                reasons.append(str(error))
    assert 0 < len(reasons) < 300
    assert not any("\n" in reason for reason in reasons)


@pytest.mark.parametrize("kind", ["gif", "tiff"])
@pytest.mark.parametrize("n_cut", [1, 10, 100, 200])
def test_a_damaged_rest_does_not_take_the_first_picture_away(kind, n_cut):
    image, _, steps = open_upright(io.BytesIO(several(kind)[:-n_cut]))
    assert_is_picture(image)
    assert steps == [UNREAD[kind.upper()]]


def heic(*brands):
    """The beginning of a file of the family of HEIC and AVIF (ISO/IEC 23008-12): its first box names the brands."""
    box = b"ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])
    return (4 + len(box)).to_bytes(4, "big") + box + b"\0\0\0\x08mdat"


@pytest.fixture
def without_plugin(monkeypatch):
    """As if pillow-heif were not installed, and Pillow were built without AVIF."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("HEIF", "AVIF"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (heic(b"heic", b"mif1", b"heic"), "is HEIC, which needs a plugin: python -m pip install pillow-heif"),
        (heic(b"mif1", b"heix"), "is HEIC, which needs a plugin: python -m pip install pillow-heif"),
        (heic(b"avif", b"mif1"), "is AVIF, which this Pillow lacks: python -m pip install --upgrade pillow"),
        (heic(b"mif1", b"avif"), "is AVIF, which this Pillow lacks: python -m pip install --upgrade pillow"),
        (heic(b"mp42", b"isom"), "is no image, or none of these: PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, AVIF, HEIC"),
        (b"\0\0\0\x10ftyp", "is no image, or none of these: PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, AVIF, HEIC"),
    ],
)
def test_pictures_of_telephones_name_what_they_need(without_plugin, tmp_path, content, reason):
    (tmp_path / "photo").write_bytes(content)
    for source in (tmp_path / "photo", io.BytesIO(content)):
        with pytest.raises(ImageError) as error:
            open_upright(source)
        assert str(error.value) == reason


@needs_avif
def test_a_damaged_avif_is_not_said_to_need_anything():
    with pytest.raises(ImageError, match="is no image, or none of these"):
        open_upright(io.BytesIO(heic(b"avif", b"mif1")))


@pytest.fixture
def plugin():
    pytest.importorskip("pillow_heif").register_heif_opener()  # so that these tests can write HEIC, too


@pytest.mark.parametrize("orientation", STORED)
def test_heic_is_read_upright_with_its_plugin(plugin, tmp_path, orientation):
    """Its orientation is no matter of EXIF data: the format has an own entry, by which the decoder turns it."""
    image, _, steps = open_upright(save(tmp_path / "photo.heic", "heif", orientation))
    assert_is_picture(image)
    assert steps == []


def test_the_main_picture_of_heic_is_read(plugin, tmp_path):
    others = [Image.fromarray(PICTURE), Image.new("L", (90, 60), 128)]
    path = tmp_path / "several.heic"
    Image.fromarray(255 - PICTURE).save(path, "heif", save_all=True, append_images=others, primary_index=1)
    image, _, steps = open_upright(path)
    assert_is_picture(image)
    assert steps == ["read only the main one of several pictures"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["b2.png", "a1.png", "c[1].png", "c1.png", "d.jpg"], 1):
        Image.fromarray(((1 - np.pad(printed(str(number)), 40)) * 255).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "in[1]").mkdir()
    (tmp_path / "in[1]" / "e.png").write_bytes((tmp_path / "a1.png").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.jpg", "?[12].png"], ["d.jpg", "a1.png", "b2.png", "c1.png"]),
        (["c[1].png"], ["c[1].png"]),  # there is a file of this name
        (["in[1]/*.png"], ["in[1]/e.png"]),  # there is a folder of this name
        (["i*/e.png"], ["in[1]/e.png"]),
        (["d.jpg", "d.*"], ["d.jpg", "d.jpg"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_match(call_here, folder, patterns, names):
    """Where the shell expands none, as on Windows."""
    process = call_here("predict.py", "--json", "--out", "out", *patterns, cwd=folder)
    assert process.returncode == 0, process.stdout
    assert [json.loads(line)["image"] for line in process.stdout.splitlines()] == names


def test_a_pattern_that_matches_nothing_is_one_line(call_here, folder):
    process = call_here("predict.py", "*.tif", "d.jpg", "x[1].png", cwd=folder)
    assert process.returncode == 1
    assert process.stderr.splitlines() == ["*.tif matches no file", "x[1].png matches no file"]
    assert process.stdout.startswith("d.jpg: 5  (")
    (line,) = call_here("predict.py", "--json", "*.tif", cwd=folder).stdout.splitlines()
    assert json.loads(line) == {"image": "*.tif", "error": "matches no file"}
