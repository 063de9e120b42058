"""The warps against kornia, against each other and against points moved by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import homography_warp, warp_perspective

from stn import warps


def homographies(n, strength=0.2):
    """(n, 8), around the identity."""
    torch.manual_seed(n)
    identity = torch.tensor(warps.HOMOGRAPHY_IDENTITY, dtype=torch.float64)
    return identity + strength * torch.randn(n, 8, dtype=torch.float64)


def by_kornia(images, matrices, size, padding):
    """The same by kornia, which knows no background: it is taken off before, and put back."""
    background = images.amin((2, 3), keepdim=True) if padding == "background" else 0
    mode = "zeros" if padding == "background" else padding
    return homography_warp(images - background, matrices, size, padding_mode=mode, align_corners=False) + background


def warp(images, theta, padding="zeros"):
    """By 6 or by 8 parameters."""
    if theta.shape[1] == 6:
        return warps.affine_warp(images, theta, padding)
    return warps.homography_warp(images, warps.to_homography(theta), padding)


@pytest.mark.parametrize("padding", warps.PADDINGS)
@pytest.mark.parametrize("identity", [warps.AFFINE_IDENTITY, warps.HOMOGRAPHY_IDENTITY])
def test_identity_leaves_the_image_as_it_is(digits, identity, padding):
    images = digits.test_images[:8].double()
    theta = torch.tensor(identity, dtype=torch.float64).expand(8, -1)
    assert (warp(images, theta, padding) - images).abs().max() < 1e-6


def test_affine_equals_the_tutorial(digits):
    images = digits.test_images[:8]
    theta = homographies(8)[:, :6].float()
    grid = F.affine_grid(theta.view(-1, 2, 3), images.shape, align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(warps.affine_warp(images, theta), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("padding", warps.PADDINGS)
def test_homography_without_perspective_is_affine(digits, padding):
    images = digits.test_images[:8].double()
    theta = homographies(8)
    theta[:, 6:] = 0
    torch.testing.assert_close(warp(images, theta, padding), warp(images, theta[:, :6], padding))
    assert torch.equal(warps.to_homography(theta), warps.to_homography(theta[:, :6]))


@pytest.mark.parametrize("size", [(28, 28), (20, 33)], ids=str)
def test_homography_equals_kornia(size):
    torch.manual_seed(0)
    images = torch.rand(16, 2, *size, dtype=torch.float64)
    theta = homographies(16, 0.1)
    matrix = torch.cat([theta, torch.ones(16, 1, dtype=torch.float64)], 1).view(16, 3, 3)
    assert torch.equal(warps.to_homography(theta), matrix)
    for padding in warps.PADDINGS:
        expected = by_kornia(images, matrix, size, padding)
        torch.testing.assert_close(warps.homography_warp(images, matrix, padding), expected)


@pytest.mark.parametrize("padding", warps.PADDINGS)
def test_an_output_of_another_size_equals_kornia(padding):
    torch.manual_seed(0)
    images, matrices = torch.rand(8, 2, 40, 33, dtype=torch.float64), warps.to_homography(homographies(8, 0.1))
    expected = by_kornia(images, matrices, (12, 50), padding)
    torch.testing.assert_close(warps.homography_warp(images, matrices, padding, (12, 50)), expected)
    affine = matrices[:, :2].flatten(1)
    flat = matrices.clone()
    flat[:, 2] = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    ours = warps.affine_warp(images, affine, padding, (12, 50))
    torch.testing.assert_close(ours, warps.homography_warp(images, flat, padding, (12, 50)))


@pytest.mark.parametrize("padding", warps.PADDINGS)
def test_a_large_image_is_warped_as_a_small_one(padding):
    """By operations that need less memory: nothing is kept for it."""
    torch.manual_seed(0)
    images, matrices = torch.rand(3, 1, 70, 65, dtype=torch.float64), warps.to_homography(homographies(3, 0.1))
    assert warps.CACHED_SIZE < 70 * 65
    expected = by_kornia(images, matrices, (70, 65), padding)
    torch.testing.assert_close(warps.homography_warp(images, matrices, padding), expected)
    matrices[:, 2] = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    expected = by_kornia(images, matrices, (70, 65), padding)
    torch.testing.assert_close(warps.affine_warp(images, matrices[:, :2].flatten(1), padding), expected)


@pytest.mark.parametrize("name", ["affine_warp", "homography_warp"])
def test_one_image_or_one_transform_serves_a_batch(name):
    torch.manual_seed(0)
    warp, images = getattr(warps, name), torch.rand(3, 2, 9, 8, dtype=torch.float64)
    transforms = homographies(3, 0.1)
    transforms = transforms[:, :6] if name == "affine_warp" else warps.to_homography(transforms)
    for number in range(3):
        one = transforms[number : number + 1]
        torch.testing.assert_close(warp(images, one)[number], warp(images, transforms)[number])
        torch.testing.assert_close(warp(images[:1], transforms)[number], warp(images[:1], one)[0])
    with pytest.raises(ValueError, match="3 images need 3 transforms or one, not 2"):
        warp(images, transforms[:2])


@pytest.mark.parametrize("warp", [warps.affine_warp, warps.homography_warp])
def test_wrong_arguments_are_refused_in_words(warp):
    shape = (6,) if warp is warps.affine_warp else (3, 3)
    images, transforms = torch.rand(2, 1, 5, 5), torch.rand(2, *shape)
    for padding in ("Zeros", "constant", "", None, 0):
        with pytest.raises(ValueError, match="padding must be one of"):
            warp(images, transforms, padding)
    with pytest.raises(ValueError, match=r"images must be \(B, C, H, W\), not \(2, 5, 5\)"):
        warp(images[:, 0], transforms)
    for wrong in (torch.rand(2, 8), torch.rand(2, 2, 3), torch.rand(shape), torch.rand(2, 3, 4)):
        with pytest.raises(ValueError, match=r"transforms must be \(B, (6|3, 3)\), not \("):
            warp(images, wrong)
    with pytest.raises(ValueError, match="at least one pixel, not 0 × 5"):
        warp(images, transforms, size=(0, 5))


def test_a_matrix_is_filled_from_6_or_8_numbers_and_no_others():
    for shape in ((2, 5), (2, 7), (2, 9), (2, 1), (2, 0), (6,), (8,), (2, 3, 3)):
        with pytest.raises(ValueError, match=r"6 or 8 numbers, \(B, 6\) or \(B, 8\), not \("):
            warps.to_homography(torch.zeros(shape))


def test_a_size_may_be_one_number(digits):
    images, matrices = digits.test_images[:3], warps.to_homography(homographies(3, 0.1)).float()
    assert torch.equal(
        warps.homography_warp(images, matrices, size=40), warps.homography_warp(images, matrices, size=(40, 40))
    )
    assert warps.affine_warp(images, matrices[:, :2].flatten(1), size=7).shape == (3, 1, 7, 7)
    assert warps.affine_warp(images, theta=matrices[:, :2].flatten(1), size=np.int64(7)).shape == (3, 1, 7, 7)
    assert warps.homography_warp(images=images, matrices=matrices, size=[7, 6]).shape == (3, 1, 7, 6)


@pytest.mark.parametrize(
    "size", [(8,), (8, 8, 8), 8.0, (8.0, 8), "8", np.ones(2, int), (), torch.ones(2).long()], ids=repr
)
def test_a_size_that_is_none_is_refused_in_words(size):
    images, matrices = torch.rand(2, 1, 5, 5), torch.eye(3).expand(2, 3, 3)
    with pytest.raises(ValueError, match=r"size must be a whole number or two, \(height, width\), not "):
        warps.homography_warp(images, matrices, size=size)


@pytest.mark.parametrize("name", ["affine_warp", "homography_warp"])
def test_what_is_no_tensor_is_refused_in_words(name):
    images, warp = torch.rand(1, 1, 5, 5), getattr(warps, name)
    with pytest.raises(TypeError, match="transforms must be a tensor, not a list"):
        warp(images, [[1.0, 0, 0, 0, 1, 0]])
    with pytest.raises(TypeError, match="images must be a tensor, not a ndarray"):
        warp(images.numpy(), torch.rand(1, 6))


def test_what_is_kept_changes_no_result(digits):
    """A new network reads at the kinks of bilinear sampling: another rounding there would be another gradient."""
    images, results = digits.test_images[:8], []
    for full in (False, True):
        warps._cache.clear()
        if full:
            for n in range(warps.CACHE_LENGTH + 3):  # (more than are ever kept, as several threads could leave)
                warps._cache["another size", n] = torch.zeros(1)
        theta = torch.tensor([warps.HOMOGRAPHY_IDENTITY]).repeat(8, 1).requires_grad_()
        affine = warps.affine_warp(images, theta[:, :6])
        whole = warps.homography_warp(images, warps.to_homography(theta))
        (gradient,) = torch.autograd.grad((affine + whole).square().sum(), theta)
        results.append([affine, whole, gradient])
        assert len(warps._cache) == (warps.CACHE_LENGTH + 3 if full else 1)
    warps._cache.clear()
    assert all(torch.equal(ours, expected) for ours, expected in zip(*results, strict=True))


@pytest.mark.parametrize("size", [(28, 28), (70, 70)])
def test_empty_batches_give_empty_results(size):
    images, matrices, points = torch.rand(0, 2, *size), torch.rand(0, 3, 3), torch.rand(0, 5, 2)
    for padding in warps.PADDINGS:
        assert warps.homography_warp(images, matrices, padding).shape == (0, 2, *size)
        assert warps.affine_warp(images, torch.rand(0, 6), padding).shape == (0, 2, *size)
    assert warps.to_homography(torch.rand(0, 8)).shape == warps.to_homography(torch.rand(0, 6)).shape == (0, 3, 3)
    assert warps.has_bounded_denominator(matrices, *size).shape == (0,)
    assert warps.map_points(matrices, points).shape == warps.map_pixels(matrices, points, size, size).shape == (0, 5, 2)
    assert all(share.shape == (0,) for share in warps.component_shares(warps.decompose(matrices)).values())
    assert warps.pad_to_canvas(images, 2).shape == (0, 2, 2 * size[0], 2 * size[1])


def test_pixels_of_an_output_of_another_size_map_both_ways():
    """By hand: the output is twice as fine in x and shows the left half of the input, and back by the inverse."""
    matrices = torch.tensor([[[0.5, 0, -0.5], [0, 1, 0], [0, 0, 1]]], dtype=torch.float64)
    output, source = torch.tensor([[[0.0, 0], [9, 3]]]).double(), torch.tensor([[[-0.25, 0], [4.25, 3]]]).double()
    torch.testing.assert_close(warps.map_pixels(matrices, output, (4, 10), (4, 10)), source)
    torch.testing.assert_close(warps.map_pixels(torch.linalg.inv(matrices), source, (4, 10), (4, 10)), output)
    matrices, points = warps.to_homography(homographies(8, 0.1)), torch.rand(8, 5, 2, dtype=torch.float64) * 20
    there = warps.map_pixels(matrices, points, (20, 30), (56, 40))
    torch.testing.assert_close(warps.map_pixels(torch.linalg.inv(matrices), there, (56, 40), (20, 30)), points)


def test_a_homography_in_pixels_maps_as_the_normalised_one():
    """By hand, an enlargement to twice the size and a step of one pixel; and as `map_pixels` does."""
    enlarged = warps.pixel_homography(torch.eye(3).double()[None], (56, 20), (28, 10))
    by_hand = torch.tensor([[[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]], dtype=torch.float64)
    torch.testing.assert_close(enlarged, by_hand)
    step = warps.pixel_homography(
        warps.to_homography(torch.tensor([[1, 0, 2 / 10, 0, 1, 0]]).double()), (28, 10), (28, 10)
    )
    torch.testing.assert_close(step[0], torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1.0]]).double())
    matrices, points = warps.to_homography(homographies(8, 0.1)), torch.rand(8, 5, 2, dtype=torch.float64) * 20
    mapped = transform_points(warps.pixel_homography(matrices, (20, 30), (56, 40)), points)
    torch.testing.assert_close(mapped, warps.map_pixels(matrices, points, (20, 30), (56, 40)))


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_a_homography_in_pixels_is_what_opencv_takes(padding):
    """By kornia's warp_perspective, which follows OpenCV's warpPerspective.

    It takes the map from the input to the output, as OpenCV's does without WARP_INVERSE_MAP, hence the inverse. Its
    matrix is in pixels; with align_corners=True, it counts them from the centre of the first one, as OpenCV does.
    """
    torch.manual_seed(0)
    images, matrices = torch.rand(8, 2, 40, 33, dtype=torch.float64), warps.to_homography(homographies(8, 0.1))
    in_pixels = warps.pixel_homography(matrices, (12, 50), (40, 33))
    expected = warp_perspective(images, torch.linalg.inv(in_pixels), (12, 50), padding_mode=padding, align_corners=True)
    torch.testing.assert_close(warps.homography_warp(images, matrices, padding, (12, 50)), expected)


@pytest.mark.parametrize("n_parameters", [6, 8])
def test_theta_maps_from_the_output_to_the_input_in_x_y_order(n_parameters):
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 10, 17] = 1  # row 10, column 17
    theta = torch.tensor([[1, 0, 2 * 3 / 28, 0, 1, 2 * -2 / 28, 0, 0]])[:, :n_parameters]  # reads 3 right, 2 up
    moved = warp(image, theta)
    expected = torch.zeros_like(image)
    expected[0, 0, 12, 14] = 1
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", warps.PADDINGS)
@pytest.mark.parametrize("n_parameters", [6, 8])
def test_gradients(n_parameters, padding):
    torch.manual_seed(0)
    images = torch.rand(2, 1, 5, 5, dtype=torch.float64)
    theta = homographies(2, 0.05)[:, :n_parameters].requires_grad_()
    assert torch.autograd.gradcheck(lambda t: warp(images, t, padding), (theta,))


def test_what_lies_outside_is_grey_or_background(digits):
    """A digit moved out of sight: 0 on a normalised image, or as dark as the image's own background."""
    images = digits.test_images[:4]
    away = torch.tensor([[1.0, 0, 5, 0, 1, 0]]).expand(4, 6)
    assert (warp(images, away) == 0).all()
    assert torch.equal(warp(images, away, "background"), images.amin((2, 3), keepdim=True).expand_as(images))


def test_a_denominator_near_zero_yields_finite_outputs_and_gradients(digits):
    images = digits.test_images[:4]
    theta = torch.tensor([[1, 0, 0, 0, 1, 0, last, last] for last in (1 - 1e-9, -1.0, 50.0, 1e20)], requires_grad=True)
    outputs = warp(images, theta, "background")
    outputs.square().sum().backward()
    assert outputs.isfinite().all()
    assert warps.has_bounded_denominator(warps.to_homography(theta), 28, 28).all()
    assert not warps.has_bounded_denominator(warps.to_homography(homographies(8, 0.1)), 28, 28).any()
    assert theta.grad.isfinite().all()


def test_points_map_to_where_the_warp_reads():
    """A single bright pixel of the output's picture is found where map_points says; kornia maps the points alike."""
    theta = homographies(8, 0.1)
    matrices = warps.to_homography(theta)
    points = torch.rand(8, 5, 2, dtype=torch.float64) * 2 - 1
    mapped = warps.map_points(matrices, points)
    torch.testing.assert_close(mapped, transform_points(matrices, points))
    torch.testing.assert_close(warps.map_points(torch.linalg.inv(matrices), mapped), points)
    # An image whose pixels hold their own x and y: what is read at a pixel is the place it is read from.
    ys, xs = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    own_place = torch.stack([xs, ys]).double().expand(8, 2, 28, 28)
    pixels = torch.tensor([[12.0, 14.0], [9.0, 16.0]], dtype=torch.float64)
    expected = warps.to_pixels(warps.map_points(matrices, warps.to_normalised(pixels, 28, 28).expand(8, 2, 2)), 28, 28)
    read = warps.homography_warp(own_place, matrices)[:, :, [14, 16], [12, 9]].transpose(1, 2)
    torch.testing.assert_close(read, expected)


def test_pixels_and_normalised_coordinates():
    corners = torch.tensor(
        [[-0.5, -0.5], [0.0, 0.0], [31.5, 19.5]], dtype=torch.float64
    )  # outer corner, first pixel's centre, other corner
    normalised = warps.to_normalised(corners, 20, 32)
    torch.testing.assert_close(
        normalised, torch.tensor([[-1, -1], [1 / 32 - 1, 1 / 20 - 1], [1, 1]], dtype=torch.float64)
    )
    torch.testing.assert_close(warps.to_pixels(normalised, 20, 32), corners)


def test_warps_compose_as_their_matrices_do(digits):
    """Warping twice is reading through the product, first @ second."""
    first, second = warps.to_homography(homographies(2, 0.05)).split(1)
    ys, xs = torch.meshgrid(torch.linspace(-3, 3, 28), torch.linspace(-3, 3, 28), indexing="ij")
    blob = (-(xs**2) - ys**2).exp().double().view(1, 1, 28, 28)  # smooth: interpolating twice hardly blurs it
    twice = warps.homography_warp(warps.homography_warp(blob, first), second)
    once = warps.homography_warp(blob, first @ second)
    other = warps.homography_warp(blob, second @ first)
    assert (twice - once).abs().max() < 0.02 < (twice - other).abs().max()


def products(f):
    """Multiply the matrices of the docstring of `warps.decompose`: eight numbers, each (B,), -> (B, 3, 3)."""
    one, zero = torch.ones_like(f["shear"]), torch.zeros_like(f["shear"])

    def matrix(*entries):
        return torch.stack([{1: one, 0: zero}.get(e, e) if isinstance(e, int) else e for e in entries], 1).view(
            -1, 3, 3
        )

    cos, sin = f["rotation"].cos(), f["rotation"].sin()
    return (
        matrix(1, 0, f["translation x"], 0, 1, f["translation y"], 0, 0, 1)
        @ matrix(cos, -sin, 0, sin, cos, 0, 0, 0, 1)
        @ matrix(f["scale x"], 0, 0, 0, f["scale y"], 0, 0, 0, 1)
        @ matrix(1, f["shear"], 0, 0, 1, 0, 0, 0, 1)
        @ matrix(1, 0, 0, 0, 1, 0, f["perspective x"], f["perspective y"], 1)
    )


def test_factors_multiply_to_the_homography_again():
    """Strong ones, mirror images among them, and one that is scaled: its last entry is not 1."""
    matrices = warps.to_homography(homographies(100, 0.7))
    assert (torch.linalg.det(matrices) < 0).any()
    torch.testing.assert_close(products(warps.decompose(matrices)), matrices)
    torch.testing.assert_close(products(warps.decompose(-3 * matrices)), matrices)


@pytest.mark.parametrize(
    ("rows", "name", "value", "distance"),
    [
        # A quarter turn: x reads from -y. A point moves √2 times as far as it is from the centre, √(2/3) on average.
        ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], "rotation", torch.pi / 2, (4 / 3) ** 0.5),
        ([[1, 0, 0.3], [0, 1, 0], [0, 0, 1]], "translation x", 0.3, 0.3),
        ([[1, 0, 0], [0, 1, -0.2], [0, 0, 1]], "translation y", -0.2, 0.2),
        ([[0.5, 0, 0], [0, 1, 0], [0, 0, 1]], "scale x", 0.5, 0.5 / 3**0.5),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 1]], "scale y", 2.0, 1 / 3**0.5),
        ([[1, 0.4, 0], [0, 1, 0], [0, 0, 1]], "shear", 0.4, 0.4 / 3**0.5),
        ([[1, 0, 0], [0, 1, 0], [0.1, 0, 1]], "perspective x", 0.1, 0.1 * (14 / 45) ** 0.5),
        ([[1, 0, 0], [0, 1, 0], [0, -0.1, 1]], "perspective y", -0.1, 0.1 * (14 / 45) ** 0.5),
    ],
)
def test_each_factor_alone(rows, name, value, distance):
    """It has its value, the others have those of the identity, and all the share; the distance by its own grid."""
    matrix = torch.tensor([rows], dtype=torch.float64)
    factors = warps.decompose(matrix)
    identity = {key: 1.0 if "scale" in key else 0.0 for key in factors}
    for key, found in factors.items():
        assert found.item() == pytest.approx(value if key == name else identity[key]), key
    part = name.split()[0]
    assert {key: share.item() for key, share in warps.component_shares(factors).items()} == {
        key: pytest.approx(float(key == part)) for key in ("translation", "rotation", "scale", "shear", "perspective")
    }
    steps = (torch.arange(400, dtype=torch.float64) + 0.5) / 200 - 1
    points = torch.cartesian_prod(steps, steps).unsqueeze(0)
    moved = (warps.map_points(matrix, points) - points).square().sum(2).mean().sqrt().item()
    assert moved == pytest.approx(distance, rel=0.02 if part == "perspective" else 1e-4)  # that is to first order
    # Beside a translation of the same distance it has half the share.
    beside = factors | {"translation x": torch.tensor([distance if part != "translation" else 0.0])}
    if part != "translation":
        assert warps.component_shares(beside)[part].item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("canvas", [1, 2, 3])
def test_a_canvas_goes_on_around_an_image(canvas):
    """What fills an image fills the middle of a canvas; read from there, too, it is that image; sides may be odd."""
    torch.manual_seed(0)
    images = torch.rand(5, 1, 7, 10, dtype=torch.float64)
    matrices = warps.to_homography(torch.tensor(warps.HOMOGRAPHY_IDENTITY) + 0.1 * torch.randn(5, 8)).double()
    canvases = warps.pad_to_canvas(images, canvas)
    assert canvases.shape == (5, 1, 7 * canvas, 10 * canvas)
    assert torch.equal(warps.crop_centre(canvases, canvas), images)
    read = warps.homography_warp(images, matrices, "background")
    if canvas != 2:  # then the middle of an odd number of rows is half a pixel away
        reads = warps.from_canvas(matrices, canvas)
        torch.testing.assert_close(warps.homography_warp(canvases, reads, "background", (7, 10)), read)
        fills = warps.to_canvas(matrices, canvas)
        filled = warps.homography_warp(images, fills, "background", canvases.shape[2:])
        torch.testing.assert_close(warps.crop_centre(filled, canvas), read)


def test_an_identity_has_no_shares_and_affine_maps_no_perspective():
    factors = warps.decompose(warps.to_homography(torch.tensor([warps.AFFINE_IDENTITY])))
    assert [share.item() for share in warps.component_shares(factors).values()] == [0] * 5
    factors = {name: values for name, values in factors.items() if "perspective" not in name}
    assert list(warps.component_shares(factors)) == ["translation", "rotation", "scale", "shear"]
