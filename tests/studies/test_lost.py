"""The candidates against losing the card: what each does, and that it is trained as it is written."""

import math

import lost_steps
import pytest
import torch

import fast
import train
from run_experiments import SETS
from stn import warps
from studies.cards import geometry
from studies.cards.networks import Net_Card_Homography
from studies.lost import report
from studies.lost.networks import Net_Card_Candidate, distance_outside

ROWS = {row.id: row for row in SETS["lost"]}


def trained(row, data, make, n_steps=3):
    """Return the losses and the final weights of a few steps of a row's network."""
    torch.manual_seed(1)
    network = Net_Card_Candidate(**row.arguments).train()
    with torch.no_grad():  # away from the identity, so that every remedy has something to do
        network.loc_fc2.bias.add_(torch.tensor([0.1, -0.1, 0.2, 0.1, 0.1, -0.2, 0.05, 0.05]))
    # By plain SGD: Adam enlarges differences in the last digits of gradients that are nearly 0.
    steps = make(network, data, row.recipe._replace(optimizer="sgd", learning_rate=0.02))
    torch.manual_seed(2)  # dropout; recording has drawn some
    losses = [float(steps.step(torch.arange(step, step + 64))) for step in range(n_steps)]
    return losses, torch.cat([weights.detach().flatten() for weights in network.parameters()])


@pytest.fixture(scope="module")
def cards(few_cards):
    return few_cards()


@pytest.mark.parametrize("exp_id", ["exp_50", "exp_53", "exp_54", "exp_55", "exp_56", "exp_57"])
def test_a_recorded_step_is_the_plain_one(exp_id, cards):
    plain, recorded = (trained(ROWS[exp_id], cards, make) for make in (train.PlainTraining, fast.new_training))
    assert recorded[0] == pytest.approx(plain[0], rel=1e-4)
    assert torch.allclose(recorded[1], plain[1], atol=2e-4)


def test_every_remedy_changes_the_training(cards):
    """But for the later passes, which are set by the epoch, and for a clipping that these gradients do not need."""
    rows = {exp_id: row for exp_id, row in ROWS.items() if exp_id not in ("exp_56", "exp_57")}
    ends = {exp_id: trained(row, cards, train.PlainTraining)[1] for exp_id, row in rows.items()}
    baseline = ends.pop("exp_50")
    for exp_id, weights in ends.items():
        assert not torch.allclose(weights, baseline, atol=1e-5), exp_id


def test_without_a_remedy_it_is_the_reader_of_cards(cards):
    torch.manual_seed(1)
    ours = Net_Card_Candidate(passes=2).eval()
    theirs = Net_Card_Homography(passes=2).eval()
    theirs.load_state_dict(ours.state_dict())
    images = cards.test_images[:5]
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.loss(images, cards.test_labels[:5], None), theirs.loss(images, cards.test_labels[:5], None))


def test_the_leash_is_slack_in_the_picture_and_leads_back_from_outside():
    corners = torch.tensor(geometry.CORNERS)
    assert distance_outside(corners) == 0
    assert distance_outside(0.6 * corners) == 0
    # Moved to the right by 1: two corners lie 92/128 outside.
    moved = (corners + torch.tensor([1.0, 0.0])).requires_grad_()
    assert distance_outside(moved).item() == pytest.approx(2 * (92 / 128) ** 2, rel=1e-6)
    (grad,) = torch.autograd.grad(distance_outside(moved), moved)
    assert (grad[..., 0] >= 0).all()  # against it: to the left
    assert grad[..., 0].sum() > 0
    # A fifth of its size: each side is shorter by 0.3 of its nominal length than half of it.
    assert distance_outside(0.2 * corners).item() == pytest.approx(4 * 0.3**2, rel=1e-5)


def test_bounded_parameters_stay_within_the_bound():
    network = Net_Card_Candidate(bound=0.5)
    identity = torch.tensor(warps.HOMOGRAPHY_IDENTITY)
    made = network.params_to_homography((identity + torch.tensor([9.0, -9, 0.001, 0, 0, 0, 0, 0]))[None])[0]
    assert made[0].tolist() == pytest.approx([1.5, -0.5, 0.5 * math.tanh(0.002)], rel=1e-5)


def test_later_passes_change_nothing_in_the_first_half_of_the_epochs(cards):
    network = Net_Card_Candidate(passes=4, later_passes=True).eval()
    with torch.no_grad():
        network.loc_fc2.bias.add_(0.05)
    for epoch, n_passes in ((1, 2), (3, 2), (4, 4), (6, 4)):
        network.start_epoch(epoch, 6)
        with torch.no_grad():
            after = network.homographies(cards.test_images[:3])
        assert torch.allclose(after[2], after[1], atol=1e-6) == (n_passes == 2)


def test_the_gradient_of_each_pass_is_clipped_by_itself(cards):
    """The norms are measured before and behind the clipping, in every pass of a batch."""

    class Watched(Net_Card_Candidate):
        def params_to_homography(self, params):
            params.register_hook(lambda grad: norms.append(grad.norm().item()))
            return super().params_to_homography(params)

    found = {}
    for limit in (None, 0.05):
        norms = []
        torch.manual_seed(1)
        network = Watched(passes=3, pass_norm=limit)
        network.loss(cards.train_images[:8], cards.train_labels[:8], None).backward()
        found[limit] = norms
    assert len(found[0.05]) == len(found[None]) == 3
    assert max(found[None]) > 0.05
    assert max(found[0.05]) <= 0.05 * (1 + 1e-5)


def test_traces_are_tabulated_and_the_lost_and_the_returning_are_chosen():
    """One that stays, one that gets lost, one that finds back."""
    traces = {"21": [0.9, 0.8, 0.9], "22": [0.9, 0.1, 0.0], "23": [0.9, 0.0, 0.7]}
    outlines = [[10.0] * 16] * 2
    record = {
        "steps": [0, 10, 20],
        "shown_at": (0, 20),
        "variants": {"as it is": {run: {"seen": seen, "outlines": outlines} for run, seen in traces.items()}},
    }
    row = report.steps_table(record).splitlines()[-1]
    assert row == "| as it is | 3 | 2 | 1 (1 to 91 %) | 0 |"
    assert report.shown_runs(record) == {"gets lost": "22", "finds back": "23"}
    lines = report.seen_figure(record).axes[0].lines
    assert sorted(line.get_color() == report.LOST_COLOUR for line in lines[:3]) == [False, False, True]
    scenes = {run: torch.zeros(2, 128, 128).numpy() for run in ("22", "23")}
    titles = [axes.get_title() for axes in report.outlines_figure(record, scenes).axes]
    assert titles == [
        f"run {run} {kind}, step {step}"
        for kind, run in report.shown_runs(record).items()
        for _ in range(2)
        for step in (0, 20)
    ]


def test_the_first_steps_are_followed(few_cards, monkeypatch):
    """Through a few steps, as the plain loop makes them; a variant changes only what its name says."""
    monkeypatch.setattr(lost_steps, "held_out_cards", lambda: few_cards())
    monkeypatch.setattr(lost_steps, "MEASURED", {0, 2})
    monkeypatch.setattr(lost_steps, "SHOWN_AT", (0, 3))
    as_it_is, same, waiting = (lost_steps.follow(1, n_steps=3, wait=wait) for wait in (0, 0, 3))
    assert as_it_is == same
    assert [len(as_it_is[name]) for name in ("seen", "corners", "gradient", "outlines")] == [3, 3, 2, 2]
    assert waiting["corners"][0] == waiting["corners"][-1]  # the localisation network has not learnt
    assert waiting["seen"][0] == as_it_is["seen"][0]
    assert as_it_is["corners"][0] != as_it_is["corners"][-1]
    assert lost_steps.follow(1, n_steps=3, batches=100)["corners"] != as_it_is["corners"]
