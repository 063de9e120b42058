"""Scenes with cards: the card lies where the homography says, carries the digits that the labels say, and no more."""

import hashlib
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import homography_warp
from scipy.ndimage import convolve

from stn import warps
from stn.mnist import DataError, read_mnist
from studies.cards import geometry, rendering

STRENGTHS = 0.5, 1.0, 1.5
FIELD = (  # the number's, in the straightened scene: rows and columns
    slice(35 + geometry.NUMBER_Y, 35 + geometry.NUMBER_Y + geometry.CELL),
    slice(18 + geometry.NUMBER_X, 18 + geometry.NUMBER_X + geometry.NUMBER_WIDTH),
)


def corners_of(homographies):
    """In pixels of the scene, (N, 4, 2)."""
    return warps.to_pixels(geometry.card_corners(homographies), geometry.SCENE, geometry.SCENE)


@pytest.fixture(scope="module")
def small():
    _, _, pixels, labels = read_mnist()
    return rendering.small_digits(pixels[:1000]), labels[:1000]


@pytest.fixture(scope="module")
def bank():
    return rendering.textures("test")


def clear(small, bank, n, seed, strength):
    """The scenes that `draw` draws, free of all but the place of the card: images, labels, homographies."""
    homographies, seen = rendering.places(n, seed, strength)
    look = rendering.looks(n, seed, 0, len(bank), seen)
    chosen = rendering.choices(n, seed, len(small[0]))
    return torch.from_numpy(rendering.render(small[0], chosen, bank, homographies, look)), chosen, homographies


def straightened(images, homographies):
    """By kornia."""
    warped = homography_warp(images.float()[:, None], torch.from_numpy(homographies), (128, 128), align_corners=False)
    return warped[:, 0]


def inked(homographies, seed):
    """The paper's and the ink's greys of scenes."""
    look = rendering.looks(len(homographies), seed, 0, 1, np.tile([0, 128], (len(homographies), 2)))
    return (torch.from_numpy(look[name].copy())[:, None, None] for name in ("paper", "ink"))


def test_a_small_digit_is_the_average_of_areas(small):
    pixels = read_mnist()[2][:1000]
    larger = torch.from_numpy(pixels).double().repeat_interleave(4, 1).repeat_interleave(4, 2)
    expected = F.avg_pool2d(larger, 7)
    assert (torch.from_numpy(small[0]) - expected).abs().max() <= 0.5
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (50, 28, 28), dtype=torch.uint8)
    expected = F.avg_pool2d(noise.double().repeat_interleave(4, 1).repeat_interleave(4, 2), 7)
    assert (torch.from_numpy(rendering.small_digits(noise.numpy())) - expected).abs().max() <= 0.5
    assert (rendering.small_digits(np.full((1, 28, 28), 255, np.uint8)) == 255).all()


def test_without_strength_the_card_is_at_its_nominal_place(small, bank):
    scenes = rendering.draw(*small, bank, 20, 5, 0)
    assert torch.equal(scenes.homographies, torch.eye(3).expand(20, 3, 3))
    assert torch.equal(scenes.images[:, 0], clear(small, bank, 20, 5, 0)[0])
    corners = torch.tensor([[17.5, 34.5], [109.5, 34.5], [109.5, 92.5], [17.5, 92.5]])
    torch.testing.assert_close(corners_of(scenes.homographies), corners.expand(20, 4, 2))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_homography_straightens_the_scene(small, bank, strength):
    """The card is as at strength 0 but for the blur of interpolations, and to a tenth of a pixel where it is there."""
    nominal = clear(small, bank, 100, 5, 0)[0].float()
    images, _, homographies = clear(small, bank, 100, 5, strength)

    def errors(straight):
        return (straight - nominal)[:, 37:91, 20:108].square().mean((1, 2))

    straight = straightened(images, homographies)
    best = errors(straight)
    for axis in (1, 2):
        before, after = errors(straight.roll(-1, axis)), errors(straight.roll(1, axis))
        offset = (before - after) / (before + after - 2 * best) / 2  # of the lowest point of a parabola
        assert offset.abs().max() < 0.15
        assert offset.mean().abs() < 0.03
    assert best.mean() < 0.1 * errors(straightened(images, np.roll(homographies, 1, 0))).mean()


def test_corners_are_those_of_the_homography_and_of_the_picture(small, bank):
    homographies = torch.from_numpy(rendering.places(300, 1, 1.5)[0])
    nominal = torch.tensor([(-92.0, -58), (92, -58), (92, 58), (-92, 58)]) / 128
    points = transform_points(homographies, nominal.expand(300, 4, 2))
    corners = corners_of(homographies)
    torch.testing.assert_close(corners, points * 64 + 63.5, atol=1e-3, rtol=0)
    # A white card on black has its centre of mass, and its area, where the corners say.
    blank = np.zeros((1, 16, 16), np.uint8)
    look = rendering.looks(300, 1, 0, 1, np.tile([0, 128], (300, 2)))
    for name in ("paper", "ink", "border", "print", "box", "head"):
        look[name] = 255
    look["brightness"] = look["contrast"] = 0
    white = rendering.render(blank, np.zeros((300, 6), np.int64), bank, homographies.numpy(), look) / 255.0
    (x, y), (next_x, next_y) = (c.double().numpy().transpose(2, 0, 1) for c in (corners, corners.roll(-1, 1)))
    cross = x * next_y - next_x * y
    area = cross.sum(1) / 2
    assert white.sum((1, 2)) == pytest.approx(area, rel=0.003)
    for (a, b), axis in (((x, next_x), 1), ((y, next_y), 2)):
        middle = (white.sum(axis) * np.arange(128)).sum(1) / white.sum((1, 2))
        assert middle == pytest.approx(((a + b) * cross).sum(1) / (6 * area), abs=0.05)


def test_scenes_are_a_function_of_the_seed_and_fewer_are_the_first_of_more(small, bank):
    scenes = rendering.draw(*small, bank, 60, 3)
    for again, few in zip(rendering.draw(*small, bank, 60, 3), rendering.draw(*small, bank, 7, 3), strict=True):
        assert any(torch.equal(again, tensor) for tensor in scenes)
        assert any(torch.equal(few, tensor[:7]) for tensor in scenes)
    other = rendering.draw(*small, bank, 60, 4)
    assert not any((a == b).flatten(1).all(1).any() for a, b in zip(scenes, other, strict=True))
    assert [tensor.dtype for tensor in scenes] == [torch.uint8, torch.int64, torch.float32]
    assert [tuple(tensor.shape) for tensor in scenes] == [(60, 1, 128, 128), (60, 6), (60, 3, 3)]
    assert all(len(tensor) == 0 for tensor in rendering.draw(*small, bank, 0, 3))


@pytest.mark.parametrize("strength", [0.1, *STRENGTHS])
@given(seed=st.integers(0, 2**63 - 1))
def test_cards_are_convex_and_inside_of_what_is_seen(strength, seed):
    homographies, seen = rendering.places(100, seed, strength)
    corners = corners_of(torch.from_numpy(homographies)).double().numpy() + 0.5  # from the edge
    sides = np.roll(corners, -1, 1) - corners
    turns = np.cross(np.pad(sides, ((0, 0), (0, 0), (0, 1))), np.pad(np.roll(sides, -1, 1), ((0, 0), (0, 0), (0, 1))))
    assert (turns[..., 2] > 500).all()
    assert (corners >= seen[:, None, [2, 0]] + rendering.MARGIN - 1e-3).all()
    assert (corners <= seen[:, None, [3, 1]] - rendering.MARGIN + 1e-3).all()
    points = torch.tensor([(x, y, 1.0) for x in (-1, 1) for y in (-1, 1)]) @ torch.from_numpy(homographies).mT
    assert (points[:, :, 2] > 0).float().mean() > 0.99


def test_one_scene_in_three_has_bars_as_grey_as_its_background(small, bank):
    _, seen = rendering.places(3000, 2, 1)
    size = seen[:, 1::2] - seen[:, ::2]
    assert ((size < 128).sum(1) <= 1).all()
    assert size.min() == 92
    assert (size.min(1) < 128).mean() == pytest.approx(1 / 3, abs=0.03)
    images = rendering.draw(*small, bank, 60, 2, 0.01, with_card=False).images[:, 0].numpy()
    barred = 0
    for image, (top, bottom, left, right) in zip(images, seen, strict=False):
        outside = np.ones((128, 128), bool)
        outside[top:bottom, left:right] = False
        if outside.any():
            barred += 1
            assert len(set(image[outside])) == 1
            assert image[outside][0] == pytest.approx(image[~outside].mean(), abs=2)
    assert barred > 10


def test_stronger_scenes_move_the_card_and_disturb_the_scene_more(small, bank):
    nominal = corners_of(torch.eye(3)[None])
    moved, noise = [], []
    for strength in (0, *STRENGTHS):
        scenes = rendering.draw(*small, bank, 300, 8, strength)
        moved.append((corners_of(scenes.homographies) - nominal).norm(dim=2).mean())
        plain = clear(small, bank, 300, 8, strength)[0]
        noise.append((scenes.images[:, 0].float() - plain).abs().mean())
    assert moved == sorted(moved)
    assert noise == sorted(noise)
    assert moved[0] < 1e-4
    assert noise[0] == 0
    assert moved[3] > 10


def test_labels_are_those_of_the_digits_on_the_card(small, bank):
    """The ink in the nominal field is that of the digits of the labels, the greater where two overlap."""
    digits, labels = small
    scenes = rendering.draw(digits, labels, bank, 50, 9, 0)
    chosen = rendering.choices(50, 9, len(digits))
    assert torch.equal(scenes.labels, torch.from_numpy(labels[chosen].astype(np.int64)))
    expected = np.zeros((50, 16, 76))
    for k in range(6):
        cell = expected[:, :, 12 * k : 12 * k + 16]
        np.maximum(cell, digits[chosen[:, k]], out=cell)
    paper, ink = inked(scenes.homographies, 9)
    found = (paper - scenes.images[(slice(None), 0, *FIELD)]) / (paper - ink) * 255
    assert (found - torch.from_numpy(expected)).abs().max() < 255 / 60
    assert np.bincount(rendering.draw(digits, labels, bank, 300, 9, with_card=False).labels.flatten()).min() > 100


def test_without_a_card_there_is_none(small, bank):
    blank = rendering.draw(*small, bank, 40, 6, 0, with_card=False).images
    carded = rendering.draw(*small, bank, 40, 6, 0).images
    rows, columns = slice(35, 93), slice(18, 110)
    outside = torch.ones(128, 128, dtype=torch.bool)
    outside[rows, columns] = False
    assert torch.equal(blank[..., outside], carded[..., outside])
    assert (blank != carded)[..., rows, columns].float().mean() > 0.9
    other = rendering.draw(small[0][::-1], small[1], bank, 40, 6, 0, with_card=False).images
    assert torch.equal(blank, other)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_finger_lies_on_the_card_but_not_on_the_number(small, bank, strength):
    n = 1000
    look = rendering.looks(n, 4, strength, len(bank), np.tile([0, 128], (n, 2)))
    look["depth"] = look["blur"] = look["noise"] = 0
    held = look["finger_radius"] > 0
    assert held.mean() == pytest.approx(0.3, abs=0.05)
    chosen, homographies = rendering.choices(n, 4, len(small[0])), np.tile(np.eye(3, dtype=np.float32), (n, 1, 1))
    without = look.copy()
    without["finger_radius"] = 0
    differs = np.not_equal(*(rendering.render(small[0], chosen, bank, homographies, each) for each in (look, without)))
    assert not differs[(slice(None), *FIELD)].any()
    assert not differs[~held].any()
    on_the_card = differs[held, 35:93, 18:110].sum((1, 2))
    assert (on_the_card > 0).all()
    assert on_the_card.max() < 18 * 12 * strength + 60
    assert (differs[held].sum((1, 2)) > on_the_card).all()


@pytest.fixture(scope="module")
def disturbed(small, bank):
    """Return what scenes look like at strength 1.5 with one disturbance alone, and without any: looks, floats, floats.

    Scenes are (300, 128, 128), rounded to bytes before.
    """

    def draw(*names):
        homographies, seen = rendering.places(300, 12, 1.5)
        look, still = (rendering.looks(300, 12, strength, len(bank), seen) for strength in (1.5, 0))
        still["light"], still["depth"], still["blur"], still["noise"] = (0, 0, 1), 0, 0, 0
        plain = still.copy()
        for name in names:
            still[name] = look[name]
        chosen = rendering.choices(300, 12, len(small[0]))
        pictures = (rendering.render(small[0], chosen, bank, homographies, each) for each in (still, plain))
        return still, *(picture.astype(float) for picture in pictures)

    return draw


def on_lines(lines):
    """The values a·x + b·y + c of lines (n, 3) at the pixels, (n, 128, 128)."""
    y, x = np.mgrid[:128, :128]
    return sum(lines[:, k, None, None].astype(float) * grid for k, grid in enumerate((x, y, np.ones_like(x))))


def seen_of(look):
    """Which pixels show what is seen, (n, 128, 128): none of those of the bars."""
    y, x = np.mgrid[:128, :128]
    top, bottom, left, right = (look[name][:, None, None] for name in ("top", "bottom", "left", "right"))
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def test_the_light_grows_from_side_to_side_and_is_one_in_the_middle(disturbed):
    look, lit, plain = disturbed("light")
    factor = on_lines(look["light"])
    assert factor[:, 63:65, 63:65].mean((1, 2)) == pytest.approx(np.ones(300), abs=1e-6)
    edge = np.abs(factor - 1).max((1, 2))
    assert 0.3 < edge.max() < 1.5 * 0.25 * 2**0.5
    assert np.median(edge) > 0.1
    seen = seen_of(look)
    assert np.abs(lit - (plain * factor).clip(0, 255))[seen].max() < 1.3  # of bytes: both are rounded


def test_a_shadow_has_a_depth_a_soft_edge_and_leaves_the_rest_as_it_is(disturbed):
    look, shaded, plain = disturbed("shadow", "depth")
    inside, depth, seen = on_lines(look["shadow"]), look["depth"][:, None, None], seen_of(look)
    assert 0.4 < (look["depth"] > 0).mean() < 0.6
    assert look["depth"].max() == pytest.approx(0.6, abs=0.02)
    untouched = seen & ((inside <= 0) | (depth == 0))
    np.testing.assert_array_equal(shaded[untouched], plain[untouched])
    assert np.abs(shaded - plain * (1 - depth))[seen & (inside >= 1)].max() < 1.1
    edge = seen & (inside > 0) & (inside < 1) & (depth > 0.2) & (plain > 100)
    share = ((1 - shaded / plain.clip(1)) / depth.clip(0.1))[edge]  # of the whole shadow
    assert share.min() > -0.05
    assert share.max() < 1.05
    means = [share[np.abs(inside[edge] - at) < 0.05].mean() for at in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert means == sorted(means)
    assert means[0] < 0.06  # it begins softly
    assert means[2] == pytest.approx(0.5, abs=0.02)
    assert means[0] + means[4] == pytest.approx(1, abs=0.04)


def test_motion_blurs_along_a_line(disturbed):
    """As SciPy convolves what is seen with three pixels in a row; far motions leave one out between two of them."""
    look, blurred, plain = disturbed("blur", "blur_x", "blur_y")
    ways = set()
    for record, found, sharp in zip(look, blurred, plain, strict=True):
        part = slice(record["top"], record["bottom"]), slice(record["left"], record["right"])
        kernel, dx, dy = np.zeros((5, 5)), record["blur_x"], record["blur_y"]
        kernel[2, 2] = 1 - 2 * record["blur"]
        kernel[2 + dy, 2 + dx] += record["blur"]
        kernel[2 - dy, 2 - dx] += record["blur"]
        assert np.abs(found[part] - convolve(sharp[part], kernel, mode="nearest")).max() < 1.1
        ways.add((int(dx), int(dy)))
    one = {(1, 0), (1, 1), (0, 1), (-1, 1)}
    assert ways == one | {(2 * x, 2 * y) for x, y in one}
    assert 0.2 < look["blur"].max() < 1 / 3


def test_noise_is_gaussian_of_its_strength_and_without_pattern(disturbed):
    look, noisy, plain = disturbed("noise", "noise_x", "noise_y")
    sigma = 32 * look["noise"]
    assert sigma.max() == pytest.approx(255 * 0.04 * 1.5, rel=0.03)
    strong = np.flatnonzero(sigma > 6)
    assert len(strong) > 100
    scaled = []
    for k in strong:
        part = slice(look["top"][k], look["bottom"][k]), slice(look["left"][k], look["right"][k])
        grey = np.abs(plain[k][part] - 127.5) < 60  # nothing is cut off
        if grey.mean() < 0.5:
            continue
        values = ((noisy[k] - plain[k])[part]) / sigma[k]
        assert values[grey].mean() == pytest.approx(0, abs=0.1)
        assert values[grey].std() == pytest.approx(1, abs=0.08)
        for one, other in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1])):
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06
        scaled.append(values[grey])
    scaled = np.concatenate(scaled)
    assert [np.mean(np.abs(scaled) < limit) for limit in (1, 2)] == pytest.approx([0.683, 0.954], abs=0.015)
    assert len({tuple(noise) for noise in look[["noise_x", "noise_y"]].tolist()}) > 250


def test_training_and_test_share_no_background():
    assert not set(rendering.PHOTOS["train"]) & set(rendering.PHOTOS["test"])
    banks = {split: rendering.textures(split) for split in ("train", "test")}
    found = [hashlib.sha256(texture).hexdigest() for bank in banks.values() for texture in bank]
    assert len(set(found)) == len(found) == sum(map(len, banks.values()))
    files = {path.stem for path in (rendering.ROOT / "backgrounds").glob("*.png")}
    assert files == {*rendering.PHOTOS["train"], *rendering.PHOTOS["test"]}
    for bank in banks.values():
        assert bank.shape[1:] == (256, 256)
        assert bank.mean((1, 2)) == pytest.approx(127.5, abs=4)


def test_the_bytes_are_the_same_on_every_machine(small):
    for split, same in (("train", "cda1c7c79360f0b1"), ("test", "66d40fbf618206b6")):
        scenes = rendering.draw(*small, rendering.textures(split), 60, 1, 1.5)
        assert [hashlib.sha256(tensor.numpy()).hexdigest()[:16] for tensor in scenes] == [
            same,
            "0cbd4c2d57085737",
            "77a2b15ed3c9eac0",
        ]


@given(
    n=st.integers(0, 12),
    n_digits=st.integers(1, 5),
    n_textures=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    strength=st.floats(0, 3),
    with_card=st.booleans(),
)
def test_drawing_stays_within_its_arrays(small, bank, n, n_digits, n_textures, seed, strength, with_card):
    """Each array lies between guards; nothing writes them, and what is read there would be seen in the pixels."""
    from studies.cards import kernels

    guards = []

    def surrounded(array, fill):
        memory = np.full(array.nbytes + 8192, fill, np.uint8)
        inner = memory[4096 : 4096 + array.nbytes].view(array.dtype).reshape(array.shape)
        inner[...] = array
        guards.append((memory, array.nbytes, fill))
        return inner

    def render(*arguments):
        for fill in (0x00, 0xFF):
            inner = [surrounded(a, fill) if isinstance(a, np.ndarray) else a for a in arguments]
            kernels.render(*inner)
            images.append(inner[0])

    images = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "compiled_render", lambda: render)
        rendering.draw(small[0][:n_digits], small[1][:n_digits], bank[:n_textures], n, seed, strength, with_card)
    assert np.array_equal(*images)
    for memory, size, fill in guards:
        assert (memory[:4096] == fill).all()
        assert (memory[4096 + size :] == fill).all()


UNDRAWABLE = {
    "no digits": {"digits": np.empty((0, 16, 16), np.uint8)},
    "digits of another size": {"digits": np.zeros((3, 28, 28), np.uint8)},
    "digits as floats": {"digits": np.zeros((3, 16, 16), np.float32)},
    "textures of another size": {"bank": np.zeros((2, 128, 256), np.uint8)},
    "no textures": {"bank": np.empty((0, 256, 256), np.uint8)},
    "a digit that is not there": {"chosen": np.full((4, 6), 3)},
    "a digit before the first": {"chosen": np.full((4, 6), -1)},
    "too few numbers": {"chosen": np.zeros((3, 6), np.int64)},
    "a map that is not finite": {"homographies": np.full((4, 3, 3), np.nan, np.float32)},
    "a map without an inverse": {"homographies": np.zeros((4, 3, 3), np.float32)},
    "a texture that is not there": {"look": ("texture", 2)},
    "a place beyond a texture": {"look": ("texture_x", 129)},
    "a place before the noise": {"look": ("noise_y", -1)},
    "a view beyond the scene": {"look": ("bottom", 129)},
    "a view of nothing": {"look": ("right", 0)},
    "a wide blur": {"look": ("blur_x", 3)},
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("wrong", UNDRAWABLE)
def test_what_cannot_be_drawn_is_refused_before_compiled_code_has_it(wrong, small, monkeypatch):
    homographies, seen = rendering.places(4, 1, 1)
    given = {"digits": small[0][:3], "chosen": rendering.choices(4, 1, 3), "bank": rendering.textures("train")[:2]}
    given |= {"homographies": homographies, "look": rendering.looks(4, 1, 1, 2, seen)}
    assert rendering.render(**given).shape == (4, 128, 128)
    monkeypatch.setattr(rendering, "compiled_render", lambda: pytest.fail("compiled code is called"))
    ((name, value),) = UNDRAWABLE[wrong].items()
    if name == "look":
        given["look"][value[0]][1] = value[1]
    else:
        given[name] = value
    with pytest.raises(ValueError, match=r"must be \(|cannot be drawn"):
        rendering.render(**given)


def test_without_numba_one_line_says_so(small, bank, monkeypatch):
    for name in ("studies.cards.kernels", "numba"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("studies.cards.kernels", raising=False)
    with pytest.raises(DataError, match=r"^drawing cards needs Numba \(.*\): python -m pip install numba$"):
        rendering.draw(*small, bank, 1, 0)
