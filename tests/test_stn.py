"""The warps against kornia, against each other and against points moved by hand."""

import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.transform import homography_warp

import stn


def homographies(n, strength=0.2):
    torch.manual_seed(n)
    return torch.tensor(stn.HOMOGRAPHY_IDENTITY, dtype=torch.float64) + strength * torch.randn(
        n, 8, dtype=torch.float64
    )


@pytest.mark.parametrize(
    ("warp", "identity"),
    [(stn.affine_warp, stn.AFFINE_IDENTITY), (stn.homography_warp_8, stn.HOMOGRAPHY_IDENTITY)],
)
def test_identity_leaves_the_image_as_it_is(digits, warp, identity):
    images = digits.test_images[:8].double()
    theta = torch.tensor(identity, dtype=torch.float64).expand(8, -1)
    assert (warp(images, theta) - images).abs().max() < 1e-6


def test_affine_equals_the_tutorial(digits):
    images = digits.test_images[:8]
    theta = homographies(8)[:, :6].float()
    grid = F.affine_grid(theta.view(-1, 2, 3), images.shape, align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(stn.affine_warp(images, theta), expected, atol=2e-5, rtol=0)


def test_homography_without_perspective_is_affine(digits):
    images = digits.test_images[:8].double()
    theta = homographies(8)
    theta[:, 6:] = 0
    torch.testing.assert_close(stn.homography_warp_8(images, theta), stn.affine_warp(images, theta[:, :6]))


def test_homography_equals_kornia(digits):
    images = digits.test_images[:16].double()
    theta = homographies(16, 0.1)
    matrix = torch.cat([theta, torch.ones(16, 1, dtype=torch.float64)], 1).view(16, 3, 3)
    expected = homography_warp(images, matrix, (28, 28), align_corners=False)
    torch.testing.assert_close(stn.homography_warp_8(images, theta), expected)


@pytest.mark.parametrize("n_parameters", [6, 8])
def test_theta_maps_from_the_output_to_the_input_in_x_y_order(n_parameters):
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 10, 17] = 1  # row 10, column 17
    theta = torch.tensor([[1, 0, 2 * 3 / 28, 0, 1, 2 * -2 / 28, 0, 0]])[:, :n_parameters]  # reads 3 right, 2 up
    warp = stn.affine_warp if n_parameters == 6 else stn.homography_warp_8
    moved = warp(image, theta)
    expected = torch.zeros_like(image)
    expected[0, 0, 12, 14] = 1
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("warp", [stn.affine_warp, stn.homography_warp_8])
def test_gradients(warp):
    torch.manual_seed(0)
    images = torch.rand(2, 1, 5, 5, dtype=torch.float64)
    theta = homographies(2, 0.05)[:, : 6 if warp is stn.affine_warp else 8].requires_grad_()
    assert torch.autograd.gradcheck(lambda t: warp(images, t), (theta,))
