"""The papers' benchmarks: distortions against kornia, SciPy and their distributions; transforms; published sizes."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from kornia.geometry import transform as kornia
from scipy import ndimage, stats
from scipy.interpolate import RBFInterpolator

import fast
import train
from lab.catalogue import datasets
from lab.settings import Recipe
from run_experiments import ALL, SETS
from stn import metrics as digit_metrics
from stn import warps
from stn.data import load
from studies.paper import FAMILIES, metrics, networks, protocol, splines
from studies.paper import data as paper

N = 20_000  # distortions that are compared with their distribution
TEST_SETS = {  # the mean pixel of a test set, the standard deviation, and the projection
    "R": (0.00583, 0.94918, -0.08476),
    "RTS": (-0.24779, 0.64239, -0.01797),
    "P": (-0.08697, 0.85745, 0.05376),
    "E": (-0.09439, 0.84903, -0.06255),
    "TC": (-0.29503, 0.58713, -0.03069),
}


def drawn(name, n=N, digits=None):
    return paper.DISTORTIONS[name].draw(paper.generator(7, 1), n, side=protocol.SIDES[name], digits=digits)


def is_uniform(values, low, high):
    return stats.kstest(np.asarray(values, float), "uniform", (low, high - low)).pvalue > 0.001


def is_normal(values, sigma):
    return stats.kstest(np.asarray(values, float).ravel(), "norm", (0, sigma)).pvalue > 0.001


@pytest.fixture(scope="module")
def made(digits):
    """The five data sets, made of few digits."""
    return {name: datasets()[name].built(digits) for name in protocol.SIDES}


# ----------------------------------------------------------------------------------------------------------- splines


def bookstein(sources, points):
    """The same spline by SciPy: sources (16, 2), points (N, 2)."""
    return RBFInterpolator(splines.CONTROL_POINTS, sources, kernel="thin_plate_spline", degree=1)(points)


@pytest.fixture
def bent():
    torch.manual_seed(1)
    return torch.tensor(splines.CONTROL_POINTS) + 0.2 * torch.randn(3, 16, 2)


def test_a_spline_is_scipys(bent):
    """Not kornia's, whose kernel is centred at the sources, which makes another function of the same points."""
    points = torch.rand(50, 2) * 2.4 - 1.2
    ours = splines.map_points(bent, points)
    for source, mapped in zip(bent, ours, strict=True):
        np.testing.assert_allclose(mapped, bookstein(source, points), atol=1e-5)


def test_a_spline_maps_its_control_points_to_their_sources(bent):
    assert torch.allclose(splines.map_points(bent, torch.tensor(splines.CONTROL_POINTS)), bent, atol=1e-5)


def test_a_spline_through_affine_sources_is_that_affine_map(digits):
    theta = torch.tensor([[0.9, -0.3, 0.1, 0.2, 1.1, -0.05]])
    controls = torch.tensor(splines.CONTROL_POINTS)[None]
    sources = warps.map_points(warps.to_homography(theta), controls)
    images = digits.test_images[:3]
    ours = splines.warp(images, sources.expand(3, -1, -1), "background")
    torch.testing.assert_close(ours, warps.affine_warp(images, theta, "background"), atol=1e-4, rtol=0)
    torch.testing.assert_close(splines.nearest_affine(sources), warps.to_homography(theta), atol=1e-5, rtol=0)


def test_a_warp_by_a_spline_is_scipys(digits, bent):
    """Pixel by pixel by SciPy's own interpolation, into a larger image."""
    images = digits.test_images[:3] - digits.test_images.min()
    ours = splines.warp(images, bent, size=(30, 40))
    y, x = np.meshgrid((np.arange(30) + 0.5) / 15 - 1, (np.arange(40) + 0.5) / 20 - 1, indexing="ij")
    pixels = np.stack([x.ravel(), y.ravel()], 1)
    for image, source, warped in zip(images, bent, ours, strict=True):
        mapped = (bookstein(source, pixels) + 1) * 14 - 0.5
        theirs = ndimage.map_coordinates(image[0], mapped.T[::-1], order=1, mode="grid-constant")
        np.testing.assert_allclose(warped[0].ravel(), theirs, atol=2e-3)


# ------------------------------------------------------------------------------------------------------- distortions


def in_pixels(name, params):
    """Affine maps (n, 6) as matrices from pixels of the distorted image to pixels of the digit, (n, 2, 3)."""
    side = protocol.SIDES[name]
    return warps.pixel_homography(warps.to_homography(params), (side, side), (28, 28))[:, :2].double()


def test_rotations_and_scattered_digits_have_their_distributions():
    turned, scattered = in_pixels("R", drawn("R")), in_pixels("RTS", drawn("RTS"))
    for matrices, limit in ((turned, 90), (scattered, 45)):
        angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).rad2deg()
        assert is_uniform(angles, -limit, limit)
    scales = scattered[:, :, :2].det().rsqrt()
    assert torch.allclose(turned[:, :, :2].det(), torch.ones(N, dtype=torch.float64), atol=1e-5)
    assert is_uniform(scales, 0.7, 1.2)
    inverse = torch.linalg.inv(scattered[:, :, :2])
    centres = (inverse @ (13.5 - scattered[:, :, 2:]))[..., 0]  # where the digit's centre lies
    assert is_uniform(centres[:, 0], 13.5, 27.5)
    assert is_uniform(centres[:, 1], 13.5, 27.5)
    assert abs(np.corrcoef([*centres.T.numpy(), scales])[np.triu_indices(3, 1)]).max() < 0.03


def test_corners_and_control_points_have_their_distributions():
    corners = torch.tensor(warps.CORNERS)
    moved = warps.map_points(drawn("P"), corners.expand(N, 4, 2))
    bent = drawn("E")
    for places, sources, sigma in ((corners, moved, 5), (torch.tensor(splines.CONTROL_POINTS), bent, 1.5)):
        # The noise of both x of a column of points has the same scale in it: their difference has none.
        left = (places[:, 0] == -1).nonzero().flatten()[:2]
        difference = (sources[:, left[0], 0] - sources[:, left[1], 0]) * 14
        assert is_normal(difference, sigma * math.sqrt(2))
        scales = (sources * places).sum((1, 2)) / places.square().sum()  # 1 over the scale, and noise
        noise = sigma / 14 / places.square().sum().sqrt()
        assert float(scales.mean()) == pytest.approx(4 * math.log(4 / 3), abs=0.01)
        spread = 4 / 3 - (4 * math.log(4 / 3)) ** 2  # of 1 over a uniform scale
        assert float(scales.var()) == pytest.approx(spread + float(noise) ** 2, rel=0.06)


@pytest.mark.parametrize("name", ["R", "RTS", "P"])
def test_digits_are_turned_and_projected_as_by_kornia(digits, name):
    params, side = drawn(name, 40), protocol.SIDES[name]
    images = digits.test_images[:40] - digits.test_images.min()
    ours = paper.DISTORTIONS[name].apply(images, params, side=side)
    if name == "P":
        corners = torch.tensor([[0.0, 0], [28, 0], [28, 28], [0, 28]]).expand(40, 4, 2) - 0.5
        sources = (warps.map_points(params, torch.tensor(warps.CORNERS).expand(40, 4, 2)) + 1) * 14 - 0.5
        back = kornia.get_perspective_transform(sources, corners)  # kornia maps from source to destination
        theirs = kornia.warp_perspective(images, back, (side, side), align_corners=True)
        regular = ~warps.has_bounded_denominator(params, side, side)
        ours, theirs = ours[regular], theirs[regular]
        assert len(ours) > 30
    else:
        forward = torch.nn.functional.pad(in_pixels(name, params), (0, 0, 0, 1))
        forward[:, 2, 2] = 1
        back = torch.linalg.inv(forward)[:, :2].float()
        theirs = kornia.warp_affine(images, back, (side, side), align_corners=True)
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)


def test_clutter_is_pasted_as_written(digits):
    """By loops over the patches; every patch is a square of a training digit, and the sum of light ends at white."""
    params = drawn("TC", 30, digits.train_images)
    images, (black, white) = digits.test_images[:30], (float(digits.test_images.min()), float(digits.test_images.max()))
    ours = paper.paste(images, params, 60, black, white)
    for image, row, pasted in zip(images[:, 0] - black, params.numpy(), ours[:, 0], strict=True):
        canvas = np.zeros((60, 60))
        y, x, *clutter = row
        canvas[int(y) : int(y) + 28, int(x) : int(x) + 28] += image.numpy()
        for patch in np.reshape(clutter, (protocol.N_PATCHES, 38)):
            y, x = map(int, patch[:2])
            canvas[y : y + 6, x : x + 6] += patch[2:].reshape(6, 6) - black
        np.testing.assert_allclose(pasted, canvas.clip(max=white - black) + black, atol=1e-5)
    windows = digits.train_images.unfold(2, 6, 1).unfold(3, 6, 1).reshape(-1, 36)
    filled = params[:, 2:].reshape(-1, 38)[:, 2:]
    filled = filled[filled.std(1) > 0.5][:20]
    assert all((windows == patch).all(1).any() for patch in filled)


def test_places_of_digits_and_clutter_are_uniform(digits):
    params = drawn("TC", digits=digits.train_images)
    places = params[:, :2].long()
    corners = params[:, 2:].unflatten(1, (-1, 38))[:, :, :2].long().flatten(0, 1)
    for values, n in ((places[:, 0], 33), (places[:, 1], 33), (corners[:, 0], 55), (corners[:, 1], 55)):
        assert stats.chisquare(np.bincount(values, minlength=n)).pvalue > 0.001
        assert len(values.unique()) == n


# --------------------------------------------------------------------------------------------------------- data sets


@pytest.mark.parametrize("name", protocol.SIDES)
def test_a_data_set_is_a_function_of_seed_and_epoch(made, digits, name):
    data, side = made[name], protocol.SIDES[name]
    n = len(digits.test_images)
    assert data.test_images.shape == (10 * n, 1, side, side)
    assert torch.equal(data.test_labels, digits.test_labels.repeat(10))
    assert data.n_test_each_epoch == n
    assert torch.equal(datasets()[name].built(digits).test_images, data.test_images)
    draws = data.test_images.unflatten(0, (10, n))
    assert not any(torch.isclose(draws[0], draws[k]).all(dim=(1, 2, 3)).any() for k in range(1, 10))
    if data.test_homographies is not None:  # those of image i in draw k, and of that image alone
        for k, i in ((0, 0), (3, 7), (9, n - 1)):
            place = data.test_homographies[k * n + i][None]
            image = warps.homography_warp(digits.test_images[i][None], place, "background", (side, side))
            added = data.test_images[k * n + i] - image[0]  # clutter adds light
            assert added.min() > -1e-4
            assert name == "TC" or added.max() < 1e-4
    indices, drawn = torch.arange(64), {}
    for key in ((123, 1), (123, 2), (124, 1), (123, 1)):
        data.draw_epoch(*key)
        images, labels = data.batch(indices)
        assert torch.equal(labels, digits.train_labels[:64])
        assert images.shape == (64, 1, side, side)
        assert torch.equal(drawn.setdefault(key, images), images)
    first, *others = drawn.values()
    assert not any(torch.isclose(first, other).all(dim=(1, 2, 3)).any() for other in others)


@pytest.mark.parametrize("name", protocol.SIDES)
def test_outside_of_digits_is_background_and_no_ink_is_made_up(made, digits, name):
    data, black = made[name], digits.train_images.min()
    data.draw_epoch(123, 1)
    images, _ = data.batch(torch.arange(640))
    assert images.min() >= black - 1e-5
    assert images.max() <= digits.train_images.max() + 1e-4
    ink = (images - black).sum() / (digits.train_images - black).sum()
    low, high = {"R": (0.97, 1), "RTS": (0.85, 1), "P": (0.5, 0.9), "E": (0.7, 0.8), "TC": (1.2, 1.5)}[name]
    assert low < ink < high


def test_held_out_digits_are_training_digits(digits):
    for name in ("R", "TC"):
        data = datasets()[f"{name} held out"].built(digits)
        assert (len(data.train_images), len(data.test_images)) == (534, 106)  # of 640
        assert torch.equal(data.test_labels, digits.train_labels[-106:])
        assert data.description["held_out"]
        assert torch.equal(data.clean.test_images, digits.train_images[-106:])


@pytest.mark.slow
def test_the_test_sets_are_those_of_the_documentation():
    """Of 100,000 images each, normalised as MNIST is; docs/papers.md has these numbers.

    The projection sees the order of images and of pixels.
    """
    mnist = load()
    for name, expected in TEST_SETS.items():
        images = datasets()[name].built(mnist).test_images
        rng = np.random.default_rng(0)
        of_images, of_pixels = (torch.from_numpy(rng.standard_normal(n)) for n in (len(images), images[0].numel()))
        parts = zip(of_images.split(1000), images.split(1000), strict=True)
        projection = sum(weights @ (part.flatten(1).double() @ of_pixels) for weights, part in parts) / len(images)
        measured = *(float(measure(images.double())) for measure in (torch.mean, torch.std)), float(projection)
        assert measured == pytest.approx(expected, abs=2e-5), name


# -------------------------------------------------------------------------------------------------------- transforms


def test_transforms_are_what_they_are_called():
    angle = torch.tensor([[0.3], [-1.2]])
    centre = torch.zeros(2, 2)
    ones = torch.ones(2, 2)
    theirs = kornia.get_rotation_matrix2d(centre, -angle[:, 0].rad2deg(), ones)
    torch.testing.assert_close(networks.rotation(angle)[:, :2], theirs)
    theirs = kornia.get_rotation_matrix2d(centre, -angle[:, 0].rad2deg(), 1.5 * ones)
    params = torch.cat([1.5 * angle.cos(), 1.5 * angle.sin(), torch.tensor([[0.1, 0.2], [0.3, 0.4]])], 1)
    made = networks.similarity(params)
    torch.testing.assert_close(made[:, :2, :2], theirs[:, :, :2])
    assert made[:, :2, 2].tolist() == params[:, 2:].tolist()
    assert networks.attention(torch.tensor([[0.5, 0.1, -0.2]]))[0].flatten().tolist() == pytest.approx(
        [0.5, 0, 0.1, 0, 0.5, -0.2, 0, 0, 1]
    )


@pytest.mark.parametrize("row", SETS["paper"], ids=lambda row: row.title)
def test_every_network_starts_from_the_identity(row, made, digits):
    """Its transform shows the image as it is, and it predicts log-probabilities of the images of its data set."""
    network = train.build(row, 1).eval()
    data = made.get(row.data) or datasets()[row.data].built(digits)
    images = data.test_images[:4]
    with torch.no_grad():
        scores = network(images)
        if hasattr(network, "transform") and row.data in made:
            torch.testing.assert_close(network.transform(images), images, atol=2e-4, rtol=0)
            if not network.bypass_localisation:
                torch.testing.assert_close(network.homography(images), torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=0)
    assert torch.allclose(scores.exp().sum(1), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("exp_id", ["exp_204", "exp_205", "exp_252", "exp_253", "exp_255", "exp_257"])
def test_every_parameter_gets_a_gradient(exp_id, digits):
    network = train.build(ALL[exp_id], 1).train()
    with torch.no_grad():  # away from the identity, whose last weights are 0
        for name, parameter in network.named_parameters():
            if name in ("loc_fc2.weight", "loc_last.weight"):
                parameter.normal_(0, 0.05)
    torch.nn.functional.nll_loss(network(digits.train_images[:64]), digits.train_labels[:64]).backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_networks_have_the_sizes_that_are_published():
    sizes = {"exp_251": 54_122, "exp_252": 53_744, "exp_257": 39_079}
    for exp_id, size in sizes.items():
        assert sum(p.numel() for p in train.build(ALL[exp_id], 1).parameters()) == size
    for exp_id in ("exp_254", "exp_255"):
        assert sum(p.numel() for p in train.build(ALL[exp_id], 1).parameters()) == pytest.approx(400_000, rel=0.002)
    shared = sum(p.numel() for p in train.build(ALL["exp_253"], 1).parameters())
    assert shared == pytest.approx(54_000, rel=0.005)


@pytest.mark.parametrize(
    "exp_id", ["exp_202", "exp_204", "exp_205", "exp_223", "exp_234", "exp_244", "exp_253", "exp_255"]
)
def test_a_recorded_step_is_the_plain_one(exp_id, made):
    """With the distortion of the batch, for each kind of transform, localiser and data set."""
    row, found = ALL[exp_id], {}
    data = made[row.data]
    data.draw_epoch(123, 1)
    for make in (train.PlainTraining, fast.new_training):
        network = train.build(row, 1).train()
        training = make(network, data, Recipe(learning_rate=0.02))
        assert getattr(training, "repeat", True)  # it is recorded
        torch.manual_seed(2)  # dropout; recording has drawn some
        losses = [float(training.step(torch.arange(step, step + 64))) for step in range(3)]
        found[make] = losses, torch.cat([weights.detach().flatten() for weights in network.parameters()])
    plain, recorded = found.values()
    assert recorded[0] == pytest.approx(plain[0], rel=1e-4)
    assert torch.allclose(recorded[1], plain[1], atol=2e-4)


def test_a_network_that_shares_its_first_layer_looks_through_it():
    network = train.build(ALL["exp_253"], 1).eval()
    with torch.no_grad():
        network.loc_last.weight.normal_(0, 0.1)
        images = torch.rand(3, 1, 28, 28)
        before = network.localise(images)
        network.conv1.bias.add_(0.5)
        assert not torch.allclose(network.localise(images), before)


def test_families_compare_networks_on_the_same_digits():
    for one, other, _ in chain(*FAMILIES.values()):
        assert ALL[one].data == ALL[other].data


# ---------------------------------------------------------------------------------------------------------- measures


class Turning(networks.Net_CoordConv):
    """Turns every image by an angle of its own, given with the images."""

    def __init__(self, angles):
        super().__init__(padding="background")
        self.angles = angles

    def homography(self, x):
        angles, self.angles = self.angles[: len(x)], self.angles[len(x) :]
        return networks.rotation(angles[:, None])


@pytest.mark.parametrize(("turn_back", "expected"), [(1.0, 0.0), (0.0, 180 / math.sqrt(12)), (0.5, 90 / math.sqrt(12))])
def test_the_spread_of_angles_is_that_of_what_is_left(made, turn_back, expected):
    """A uniform angle of ±90 degrees has a standard deviation of 52; turning halfway back leaves half of it."""
    data = made["R"]
    true = metrics.angle_of(data.test_homographies)
    numbers = metrics.measure_transformer(Turning(-turn_back * true), data).numbers
    assert numbers["angle_spread"] == pytest.approx(expected, abs=0.02 if turn_back == 1 else 1.5)


def test_the_spread_is_pooled_over_the_classes():
    """One class that lies straight and three that vary by 20 degrees about angles of their own."""
    angles = torch.tensor([10.0] * 4 + [90 - 20, 90 + 20, -170 + 20, -170 - 20, 0 + 20, 0 - 20]).deg2rad()
    labels = torch.tensor([0] * 4 + [1, 1, 2, 2, 3, 3])
    assert metrics.spread(angles, labels).rad2deg().item() == pytest.approx(20 * math.sqrt(6 / 10), rel=1e-4)


def test_the_angle_of_a_homography_is_that_at_its_centre():
    """Shifts and perspective do not turn a digit; the rotation is that of the decomposition, without shear."""
    torch.manual_seed(3)
    angles, shift, perspective = torch.rand(50) * 4 - 2, torch.randn(50, 2) * 0.3, torch.randn(50, 2) * 0.3
    turned = networks.rotation(angles[:, None])
    turned[:, :2, 2] = shift
    bent = torch.eye(3).repeat(50, 1, 1)
    bent[:, 2, :2] = perspective
    torch.testing.assert_close(metrics.angle_of(3 * turned @ bent), angles, atol=1e-5, rtol=0)


def test_a_spline_is_measured_by_what_it_makes(made):
    """One that is affine has the variances of the affine network; one that bends has others."""
    network = networks.Net_Spline(padding="background").eval()
    affine = networks.Net_CoordConv(padding="background").eval()
    theta = torch.tensor([0.8, 0.1, 0.0, -0.1, 0.9, 0.05])
    sources = warps.map_points(warps.to_homography(theta[None]), torch.tensor(splines.CONTROL_POINTS)[None])
    with torch.no_grad():
        affine.loc_fc2.bias.copy_(theta)
        network.loc_fc2.bias.copy_(sources.flatten())
    ours, theirs = (metrics.measure_transformer(model, made["R"]).numbers for model in (network, affine))
    assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-3)
    assert "ink_kept" not in ours
    with torch.no_grad():
        network.loc_fc2.bias.add_(torch.randn(32) * 0.3)
    assert metrics.measure_transformer(network, made["R"]).numbers != pytest.approx(ours, rel=0.01)


def test_ink_of_clutter_does_not_count_as_seen(made):
    """A window on every digit alone sees all of the digits' ink, and hardly half of all ink."""
    data, n = made["TC"], 100
    to_digit = torch.linalg.inv(data.test_homographies[:n])  # the digit's image fills what is read
    assert metrics.share_seen(data, to_digit) == pytest.approx(1, abs=0.01)
    assert digit_metrics.share_seen(data, to_digit) < 0.9
    away = warps.to_homography(torch.tensor([[0.1, 0, 3, 0, 0.1, 3]]).expand(n, 6))
    assert metrics.share_seen(data, away) == 0
