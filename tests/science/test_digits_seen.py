"""That a transformer which loses its digits is noticed, while it trains and afterwards, and that others are not."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import TRIAL, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab import results
from lab.progress import epoch_text, print_summary
from lab.settings import Experiment, Job
from models import Net
from stn import metrics, warps
from studies.cards import geometry
from studies.cards import metrics as card_metrics

RECORDS = Path(__file__).resolve().parents[2] / "results"
LOST = {  # of all kept runs: read off their losses, which end at that of guessing
    "exp_30_run_01_perspective_whole_homography_4_passes_long": 85,
    "exp_32_run_06_card_affine": 1,
    "exp_50_run_23_lost_as_it_is": 1,
    "exp_50_run_24_lost_as_it_is": 1,
    "exp_50_run_31_lost_as_it_is": 6,
    "exp_55_run_22_lost_bounded": 1,
    "exp_55_run_23_lost_bounded": 1,
    "exp_55_run_28_lost_bounded": 5,
    "exp_57_run_23_lost_clipped_passes": 1,
    "exp_57_run_24_lost_clipped_passes": 1,
    "exp_63_run_28_lost_two_passes_as_it_is": 1,
}


class Astray(Net):
    """A transformer that shows, from an epoch on, what lies to the right of the image."""

    first_epoch = 1

    def start_epoch(self, epoch, n_epochs):
        self.shift = 3.0 if epoch >= self.first_epoch else 0.0

    def params_to_homography(self, params):
        there = torch.zeros_like(params)
        there[:, 2] = getattr(self, "shift", 0.0)
        return super().params_to_homography(params + there)

    repeatable = False  # `shift` is a number in Python


class AstrayInTheEnd(Astray):
    first_epoch = 3


class Guessing(Net):
    """A network whose classifier sees everything and learns nothing."""

    def classify(self, x):
        return F.log_softmax(0 * super().classify(x), dim=1)


def test_kept_runs_that_are_lost_are_known():
    lost = {}
    for path in RECORDS.glob("*.json"):
        record = json.loads(path.read_text())
        runs = record.items() if isinstance(record, dict) else ()
        runs = {name: kept for name, kept in runs if isinstance(kept, dict) and "history" in kept}
        lost |= {name: results.lost_epoch(kept) for name, kept in runs.items()}
    assert len(lost) > 300
    assert {name: epoch for name, epoch in lost.items() if epoch} == LOST


@pytest.mark.parametrize(("model", "n_epochs", "epoch"), [(Net, 2, None), (Astray, 1, 1), (AstrayInTheEnd, 3, 3)])
def test_a_transformer_that_leaves_the_digits(model, n_epochs, epoch, digits, tmp_path):
    reports = []
    written = run(digits, tmp_path, n_epochs=n_epochs, model=model, on_progress=lambda *at: reports.append(at[3]))
    shares = [entry["seen"] for entry in written["history"]]
    assert results.lost_epoch(written) == results.lost_epoch(results.condensed(written)) == epoch
    assert min(shares[: (epoch or 9) - 1], default=1) > 0.9
    assert max(shares[epoch - 1 :] if epoch else [0]) == 0
    scalars = EventAccumulator(str(tmp_path / TRIAL)).Reload().Scalars("Digits seen (%)")
    assert [point.value for point in scalars] == pytest.approx([100 * share for share in shares])
    assert reports[0] is None
    assert [report["seen"] for report in reports[1:]] == shares[:-1]


def test_a_network_that_guesses_is_lost_after_three_epochs(digits, tmp_path):
    written = run(digits, tmp_path, n_epochs=4, model=Guessing)
    assert min(entry["seen"] for entry in written["history"]) > 0.9
    assert results.lost_epoch(written) == 3
    assert results.lost_epoch(written | {"history": written["history"][:2]}) is None


def entry(epoch, loss, seen=1.0, test_loss=None):
    test_loss = loss if test_loss is None else test_loss
    return {"epoch": epoch, "train_loss": loss, "test_loss": test_loss, "seen": seen, "test_accuracy": 9.8}


def test_one_that_finds_back_is_not_lost():
    history = [entry(1, 2.3), entry(2, 2.3, 0.0), entry(3, 2.3), entry(4, 1.0, 0.1), entry(5, 0.5)]
    assert results.lost_epoch({"history": history[:4]}) == 2
    assert results.lost_epoch({"history": history}) is None


def test_other_parts_of_a_loss_are_not_guessing():
    """Taught corners add to the train loss; the test loss is that of the digits alone."""
    assert results.lost_epoch({"history": [entry(3, 4.0, test_loss=0.8)]}) is None
    assert results.lost_epoch({"history": [entry(3, 0.1, test_loss=2.5)]}) is None


def test_it_is_said_while_it_trains_and_in_the_end(capsys):
    lost = entry(84, 2.3, 0.01) | {"lost_epoch": 84}
    assert epoch_text(lost) == "9.80 %, lost the digits in epoch 84"
    assert epoch_text(entry(1, 2.0, 0.987) | {"lost_epoch": None}) == "9.80 %, 99 % of the digits seen"
    job = Job(Experiment("exp_99", "trial", "Net", 90, ""), 1, 90)
    job.conclude("finished", {"test_accuracy": 9.8, "test_correct": 980, "test_total": 10_000, "lost_epoch": 84})
    print_summary([job])
    assert capsys.readouterr().out.endswith("980 of 10000      finished, lost the digits in epoch 84\n")


def shifted(homographies, x):
    """Homographies that read so far to the right, in the frame of the output."""
    shift = torch.eye(3)
    shift[0, 2] = x
    return homographies @ shift


def test_the_share_of_the_digits_that_is_seen(digits):
    identity = torch.eye(3).expand(50, 3, 3)
    assert metrics.share_seen(digits, identity) == 1
    assert metrics.share_seen(digits, shifted(identity, 2.0)) == 0
    ink = digits.pixels(digits.test_images[:50])
    assert metrics.share_seen(digits, shifted(identity, 1.0)) == pytest.approx(
        float(ink[..., 14:].sum() / ink.sum()), rel=1e-5
    )
    magnified = warps.to_homography(torch.tensor([[0.5, 0, 0, 0, 0.5, 0]])).expand(50, 3, 3)
    middle = ink[..., 7:21, 7:21].sum() / ink.sum()
    assert metrics.share_seen(digits, magnified) == pytest.approx(float(middle), rel=1e-5)


def test_the_share_of_a_number_on_a_card_that_is_seen(few_cards):
    data = few_cards()
    truth = data.test_homographies[:20]
    assert card_metrics.share_seen(data, truth) == 1
    # The field is a part of the scene: moved by half of its width in the straightened scene, half of it is seen.
    half = geometry.NUMBER_WIDTH / geometry.SCENE
    assert card_metrics.share_seen(data, shifted(truth, half)) == pytest.approx(0.5, abs=0.02)
    assert card_metrics.share_seen(data, shifted(truth, 1.5)) == 0
    assert card_metrics.share_seen(data, torch.zeros(20, 3, 3)) == 0
