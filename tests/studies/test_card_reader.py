"""The networks that find a card and read it: what they see, in which direction, and what they are taught by."""

import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import homography_warp
from torch import nn

import train
from fast import conv2d
from fast.step import FastTraining
from lab import catalogue
from lab.settings import Recipe
from models import Net
from run_experiments import ALL, SETS
from stn import warps
from stn.data import Dataset
from stn.step import loss_of
from studies.cards import data as card_data
from studies.cards import geometry
from studies.cards.networks import Net_Card, Net_Card_Homography

SIZES = {"Net_Card": 86_742, "Net_Card_Homography": 86_872}  # their trainable parameters
NOMINAL = torch.tensor([(-92.0, -58), (92, -58), (92, 58), (-92, 58)], dtype=torch.float64) / 128  # the card's corners
NEAR = torch.diag(torch.tensor([geometry.NEAR_X, geometry.NEAR_Y, 1], dtype=torch.float64))
# In the straightened scene the number's field are the rows 71 to 86 and the columns 26 to 101.
FIELD = torch.tensor([[76 / 128, 0, 0], [0, 16 / 128, (71 + 87) / 128 - 1], [0, 0, 1]], dtype=torch.float64)
NETWORKS = {  # the step is recorded of, and computed in two forms
    "bypass": (Net_Card, {"bypass_localisation": True}),
    "affine": (Net_Card, {}),
    "4 passes": (Net_Card_Homography, {"passes": 4}),
    "taught": (Net_Card_Homography, {"passes": 2, "taught_corners": 10.0}),
    "CoordConv": (Net_Card_Homography, {"use_coordconf_localisation": True}),
}


def new(model, seed=0, **arguments):
    torch.manual_seed(seed)
    return model(**arguments)


def perturbed(model, **arguments):
    """A network in float64 whose transforms differ from scene to scene, as after some training."""
    network = new(model, **arguments)
    if not network.bypass_localisation:
        nn.init.normal_(network.loc_fc2.weight, std=0.02)
    return network.double().eval()


def answering(model, *answers, **arguments):
    """A network in float64 whose localisation network answers with these matrices (B, 3, 3), one a pass."""
    network = new(model, passes=len(answers), **arguments).double().eval()
    parameters = [(matrix / matrix[:, 2:, 2:]).flatten(1)[:, : len(model.transform_identity)] for matrix in answers]
    network.localise = lambda x: parameters.pop(0)
    return network


@pytest.fixture(scope="module")
def sources(digits):
    return card_data.sources_of(digits, "test", "test")


@pytest.fixture(scope="module")
def scenes(sources):
    """Forty of full strength: bytes, labels, true homographies."""
    return card_data.scenes(sources, 40, 3, 1.0)


@pytest.fixture(scope="module")
def exact(scenes):
    """The same as numbers from 0 to 1, in float64."""
    return scenes.images.double() / 255


def test_a_strip_of_an_undisturbed_scene_is_the_numbers_field_enlarged(sources):
    images = card_data.scenes(sources, 20, 3, 0.0).images.double()
    around = F.interpolate(
        images[:, :, 67:91, 22:106], size=(42, 147), mode="bilinear"
    )  # four pixels more on each side
    found = geometry.strips(images, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    torch.testing.assert_close(found, around[:, :, 7:-7, 7:-7])


def test_a_strip_is_what_the_true_homography_makes_of_a_scene(scenes, exact):
    truth = scenes.homographies.double()
    expected = homography_warp(exact, truth @ FIELD, (28, 133), align_corners=False)
    torch.testing.assert_close(geometry.strips(exact, truth), expected)


def test_the_six_outputs_are_the_digits_from_left_to_right():
    """Each is what the classifier of the study makes of its own cell, and digits that change places change outputs."""
    network = perturbed(Net_Card)
    torch.manual_seed(1)
    digits = torch.rand(5, 6, 28, 14, dtype=torch.float64)  # they stay away from where cells overlap
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    strips = torch.full((2, 5, 1, 28, 133), 0.7, dtype=torch.float64)
    for strip, placed in zip(strips, (digits, digits[:, order]), strict=True):
        for k in range(6):
            strip[:, 0, :, 21 * k + 7 : 21 * k + 21] = placed[:, k]
    scores, permuted = map(network, strips)
    torch.testing.assert_close(permuted, scores[:, :, order])
    mean, deviation = strips[0].mean((1, 2, 3), keepdim=True), strips[0].std((1, 2, 3), correction=0, keepdim=True)
    ink = (mean - strips[0]) / (deviation.square() + 1e-4).sqrt()
    for k in range(6):
        expected = Net.classify(network, ink[..., 21 * k : 21 * k + 28])
        torch.testing.assert_close(scores[:, :, k], expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_log_probabilities_of_six_digits_whatever_the_batch(name, exact):
    model, arguments = NETWORKS[name]
    network = perturbed(model, **arguments)
    with torch.no_grad():
        scores = network(exact)
        assert scores.shape == (40, 10, 6)
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(40, 6, dtype=torch.float64))
        torch.testing.assert_close(network(exact[:3].flip(0)), scores[:3].flip(0))


def test_bytes_are_read_as_the_numbers_that_they_stand_for(scenes):
    network = perturbed(Net_Card_Homography, passes=2).float()
    strips = (geometry.strips(scenes.images / 255, scenes.homographies) * 255).round().byte()
    with torch.no_grad():
        for images in (scenes.images, strips):
            assert torch.equal(network(images), network(images / 255))
        assert torch.equal(network.homography(scenes.images), network.homography(scenes.images / 255))
        assert torch.equal(network.transform(strips), strips)


@pytest.mark.parametrize("passes", [1, 2, 4])
@pytest.mark.parametrize("model", [Net_Card, Net_Card_Homography])
def test_a_new_network_reads_where_cards_lie_on_average(model, passes, exact):
    """As does one that never looks; it reads the same digits, since its classifier starts with the same weights."""
    network, blind = (new(model, **how).double().eval() for how in ({"passes": passes}, {"bypass_localisation": True}))
    identity = torch.eye(3, dtype=torch.float64).expand(40, 3, 3)
    torch.testing.assert_close(network.homography(exact), identity)
    assert torch.equal(blind.homography(exact), identity)
    for each in (network, blind):
        torch.testing.assert_close(each.transform(exact), homography_warp(exact, FIELD.expand(40, 3, 3), (28, 133)))
    torch.testing.assert_close(network(exact), blind(exact))


@pytest.mark.parametrize("model", [Net_Card, Net_Card_Homography])
def test_each_pass_looks_from_nearer_at_the_scene_as_it_is_straightened_so_far(model, exact):
    """By hand, from what the localisation network answers to what kornia makes of the scenes."""
    network = perturbed(model, passes=3)

    def answer(seen):
        mean, variance = seen.mean((2, 3), keepdim=True), seen.var((2, 3), correction=0, keepdim=True)
        return warps.to_homography(network.localise((seen - mean) / (variance + 1e-4).sqrt()))

    half = exact.reshape(40, 1, 64, 2, 64, 2).mean((3, 5))
    found = [answer(half.reshape(40, 1, 32, 2, 32, 2).mean((3, 5)))]
    for _ in range(2):
        seen = homography_warp(half, found[-1] @ NEAR, (32, 32), align_corners=False)
        found.append(found[-1] @ NEAR @ answer(seen) @ NEAR.inverse())
    for ours, expected in zip(network.homographies(exact), found, strict=True):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(network.homography(exact), found[-1])
    assert (found[0] - found[2]).abs().amax((1, 2)).min() > 1e-3


def test_a_transform_of_ones_own_is_that_of_every_pass(exact):
    """One that only shifts to the right, by what it predicts: in a nearer view by less."""

    class Shifting(Net_Card):
        transform_identity = (0.0,)

        def params_to_homography(self, params):
            return torch.eye(3, dtype=params.dtype) + F.pad(params[:, :, None], (2, 0, 0, 2))

    network, shifts = perturbed(Shifting, passes=3), []
    localise = network.localise
    network.localise = lambda x: shifts.append(localise(x)) or shifts[-1]
    found = network.homographies(exact)[-1]
    expected = torch.eye(3, dtype=torch.float64).repeat(40, 1, 1)
    expected[:, 0, 2] = (shifts[0] + geometry.NEAR_X * (shifts[1] + shifts[2]))[:, 0]
    torch.testing.assert_close(found, expected)
    assert shifts[2].abs().min() > 0


def test_a_network_that_answers_with_the_truth_reads_the_card_where_it_lies(scenes, exact, sources):
    """From the straightened scene to the scene: the other way round, the number is not there."""
    truth = scenes.homographies.double()
    identity = torch.eye(3, dtype=torch.float64).expand(40, 3, 3)
    straight = geometry.strips(card_data.scenes(sources, 40, 3, 0.0).images.double() / 255, identity)
    alike = {}
    for name, matrices in (("truth", truth), ("inverse", truth.inverse())):
        network = answering(Net_Card_Homography, matrices)
        strips = network.transform(exact)
        alike[name] = [
            torch.corrcoef(torch.stack(pair).flatten(1))[0, 1] for pair in zip(strips, straight, strict=True)
        ]
    assert torch.stack(alike["truth"]).median() > 0.9
    assert torch.stack(alike["inverse"]).median() < 0.3
    network = answering(Net_Card_Homography, truth)
    corners = geometry.card_corners(network.homography(exact))
    torch.testing.assert_close(corners, transform_points(truth, NOMINAL.expand(40, 4, 2)))


def test_what_the_first_look_has_missed_is_found_by_the_second(scenes, exact):
    """The second answer is the homography that is still missing, in the coordinates of the nearer view."""
    truth = scenes.homographies.double()
    first = truth.roll(1, 0)
    missing = NEAR.inverse() @ first.inverse() @ truth @ NEAR
    found = answering(Net_Card_Homography, first / first[:, 2:, 2:], missing).homographies(exact)
    torch.testing.assert_close(found[0], first)
    scale = found[1][:, 2:, 2:]
    torch.testing.assert_close(found[1] / scale, truth)


@pytest.mark.parametrize("passes", [1, 3])
def test_taught_corners_add_their_misses_after_every_pass(passes, scenes, exact):
    taught = perturbed(Net_Card_Homography, passes=passes, taught_corners=10.0)
    untaught = perturbed(Net_Card_Homography, passes=passes)
    truth = scenes.homographies.double()
    read = -taught(exact).gather(1, scenes.labels.unsqueeze(1)).mean()
    corners = transform_points(truth, NOMINAL.expand(40, 4, 2))
    misses = 0
    for found in taught.homographies(exact):
        far = (transform_points(found, NOMINAL.expand(40, 4, 2)) - corners).abs()
        misses += torch.where(far < 0.1, 5 * far.square(), far - 0.05).mean()
    assert misses > 0.01
    torch.testing.assert_close(loss_of(taught, exact, scenes.labels, truth), read + 10 * misses)
    torch.testing.assert_close(loss_of(untaught, exact, scenes.labels, truth), read)


def test_a_network_that_is_taught_nothing_else_has_the_mean_loss_of_six_digits(exact, scenes):
    network = perturbed(Net_Card)
    cells = network(exact).transpose(1, 2).reshape(-1, 10)  # as if each digit were an image of its own
    expected = F.nll_loss(cells, scenes.labels.flatten())
    torch.testing.assert_close(loss_of(network, exact, scenes.labels, scenes.homographies.double()), expected)


@pytest.mark.parametrize("experiment", SETS["card"], ids=lambda e: e.id)
def test_trainable_parameters_are_counted_by_hand_and_all_get_a_gradient(experiment, scenes):
    network = perturbed(catalogue.find_network(experiment.model), **experiment.arguments).float().train()
    expected = 21_840 if network.bypass_localisation else SIZES[experiment.model]
    if experiment.arguments.get("use_coordconf_localisation"):
        expected += 2 * 25 * (16 + 32)  # two further channels for each kernel of 5×5
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    loss_of(network, *scenes).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "name",
    [name if name == "taught" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_the_recorded_step_is_the_plain_one_to_the_bit(name, scenes):
    """Two full batches, repeated, and a smaller one, of scenes that have changed since the recording."""
    train.configure()
    model, arguments = NETWORKS[name]
    indices = torch.arange(150) % 40
    recipe, outcomes = Recipe("adam", 0.002, 0.001, 1.0), []
    for recorded in (True, False):
        network = new(model, **arguments).train()
        images, labels, homographies = (part[indices].clone() for part in scenes)
        data = Dataset(images.flip(0), labels.flip(0), images, labels, {}, train_homographies=homographies.flip(0))
        training = FastTraining(network, data, recipe)
        step = training.step if recorded else training.unrecorded_step
        for part, new_part in zip(
            (data.train_images, data.train_labels, data.train_homographies),
            (images, labels, homographies),
            strict=True,
        ):
            part.copy_(new_part)
        torch.manual_seed(1)
        losses = [step(batch) for batch in torch.arange(150).split(64)]
        outcomes.append([*losses, *network.parameters(), *training.state.values()])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    before = new(model, **arguments).parameters()
    assert not any(torch.equal(a, b) for a, b in zip(outcomes[0][3:], before, strict=False))


@pytest.mark.parametrize("name", NETWORKS)
def test_fast_convolutions_make_the_same_of_scenes(name, exact, scenes):
    model, arguments = NETWORKS[name]
    found = []
    for plain in (False, True):
        with conv2d.accelerated(perturbed(model, **arguments), not plain) as network:
            loss = loss_of(network, exact, scenes.labels, scenes.homographies.double())
            found.append([network(exact), loss, *torch.autograd.grad(loss, [*network.parameters()])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


def test_the_table_has_its_networks():
    """Among them a reader of straight strips, which has nothing to find."""
    assert {row.model for row in SETS["card"]} == {"Net_Card", "Net_Card_Homography"}
    straight = [row for row in SETS["card"] if row.data == "straight cards"]
    assert straight == [ALL["exp_41"]]
    assert straight[0].arguments == {"bypass_localisation": True}
