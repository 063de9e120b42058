"""Probabilities that mean what they say, and digits in doubt."""

import json

import doubt
import no_digits
import numpy as np
import pytest
from conftest import ROOT
from helpers import picture
from pictures import COMPUTER_MODERN, STIX, printed

from digits import pretrained
from digits.doubt import CALIBRATIONS, mark
from digits.own_images import find_digits
from predict import DEFAULT
from studies.pictures import PHOTOGRAPHS
from studies.pictures.drawing import FONTS, SIGNS

RECORD = json.loads((ROOT / "results" / "doubt.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def network():
    return pretrained.load("exp_302")


def test_a_mark_follows_each_digit_in_doubt():
    assert mark([3, 0, 5], np.array([False, True, False])) == ["3", "0?", "5"]
    assert mark([3, 0, 5], None) == ["3", "0", "5"]


def test_probabilities_are_softened_by_the_temperature(network):
    images = np.random.default_rng(0).random((4, 28, 28), np.float32)
    scores = network.look(images)[0].numpy().astype(float)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)
    calibration = CALIBRATIONS["exp_302"]
    powers = np.exp(scores) ** (1 / calibration.temperature)
    read = network.read(images)
    np.testing.assert_allclose(read.probabilities, powers / powers.sum(1, keepdims=True), rtol=1e-4)
    assert read.doubtful.tolist() == (read.probabilities.max(1) < calibration.threshold).tolist()


def test_a_network_without_calibration_knows_no_doubt():
    network = pretrained.load("exp_03")
    images = np.random.default_rng(0).random((4, 28, 28), np.float32)
    read = network.read(images)
    assert read.doubtful is None
    np.testing.assert_allclose(read.probabilities, np.exp(network.look(images)[0].numpy()), rtol=1e-5)


def test_digits_are_told_with_hardly_a_doubt_and_letters_with_one(network):
    doubts = []
    for font in COMPUTER_MODERN[:3]:
        read = network.read(find_digits(picture(np.pad(printed("2358", font, 80), 30))).images)
        assert read.probabilities.argmax(1).tolist() == [2, 3, 5, 8]
        doubts += read.doubtful.tolist()
        assert network.read(find_digits(picture(np.pad(printed("ARKMW", font, 80), 30))).images).doubtful.all()
    assert sum(doubts) <= 1


# how the calibration is found


def test_the_temperature_is_found_that_the_scores_were_multiplied_by():
    """Digits drawn from known probabilities, whose logarithms are then multiplied: overconfident by this factor."""
    rng = np.random.default_rng(0)
    scores = np.log(rng.dirichlet(np.full(10, 0.3), 20_000) + 1e-9)
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    digits = (rng.random(len(scores))[:, None] > probabilities.cumsum(1)).sum(1).clip(0, 9)
    assert doubt.fit_temperature(scores, digits) == pytest.approx(1, abs=0.03)
    assert doubt.fit_temperature(2.5 * scores, digits) == pytest.approx(2.5, abs=0.06)
    calibrated, overconfident = (doubt.calibration_error(doubt.soften(f * scores, 1), digits) for f in (1, 2.5))
    assert calibrated < 0.02 < 0.05 < overconfident


def test_the_calibration_error_of_a_case_by_hand():
    """Three of four are right at a confidence of 0.9, and one of two at 0.6: (4 · 0.15 + 2 · 0.1) / 6."""
    confidence, is_right = [0.9] * 4 + [0.6] * 2, [1, 1, 1, 0, 1, 0]
    probabilities = np.array([[c] + [(1 - c) / 9] * 9 for c in confidence])
    digits = np.where(is_right, 0, 1)
    assert doubt.calibration_error(probabilities, digits) == pytest.approx(0.8 / 6)


def test_the_threshold_is_the_smallest_that_the_rule_allows():
    kinds = {"few": np.linspace(0, 0.5, 1000), "many": np.r_[np.full(985, 0.2), np.full(5, 0.6), np.full(10, 0.8051)]}
    assert doubt.choose_threshold(kinds) == 0.601  # ten of 2,000 are told, at most half a percent
    assert doubt.choose_threshold({"refused": np.full(100, np.nan)}) == 0


def test_what_is_measured_was_not_calibrated_with_nor_taught():
    assert not set(STIX) & set(COMPUTER_MODERN)
    assert not set(FONTS["training"]) & {*STIX, *COMPUTER_MODERN}
    assert not set(no_digits.PEN_LETTERS["calibration"]) & set(no_digits.PEN_LETTERS["test"])
    photographs = [name for part in PHOTOGRAPHS.values() for name in part]
    assert len(set(photographs)) == len(photographs)
    assert not set(no_digits.CLEAR_GREEK) & set(SIGNS)
    for kind in no_digits.CALIBRATION:
        ours, theirs = (
            next(no_digits.draw_pictures(part, kind, 1)) for part in (no_digits.CALIBRATION, no_digits.TEST)
        )
        assert ours.tobytes() != theirs.tobytes()
        assert ours.tobytes() == next(no_digits.draw_pictures(no_digits.CALIBRATION, kind, 1)).tobytes()


# what was measured


def test_the_calibration_is_the_recorded_one():
    assert {RECORD["network"]: (RECORD["temperature"], RECORD["threshold"])} == CALIBRATIONS
    assert RECORD["network"] == DEFAULT


def test_few_letters_documents_and_textures_are_told_without_doubt():
    assert list(RECORD["others"]) == list(no_digits.TEST)
    assert all(sum(row.values()) == RECORD["pictures"]["others"] for row in RECORD["others"].values())
    told = sum(RECORD["others"][kind]["told"] for kind in doubt.RULING)
    assert told <= 0.01 * len(doubt.RULING) * RECORD["pictures"]["others"]


def test_the_page_shows_the_record():
    page = (ROOT / "docs" / "own_images.md").read_text(encoding="utf-8")
    assert all(table in page for table in doubt.draw_tables(RECORD))
    assert f"below {RECORD['threshold']} is told" in page
