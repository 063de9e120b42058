"""Settings of a run: which are possible, how two differ, and the learning rates that they say."""

import contextlib
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.settings import FORMAT, OPTIMIZERS, Recipe, RunError, Settings, differences


def settings(name="exp_99_run_01_trial", n_epochs=3, **others):
    return Settings(name, "Net", {"size": (1, 2)}, "0123abcd", n_epochs, {"name": "few"}, **others)


def test_settings_are_flat_and_as_they_are_read_again():
    content = settings(recipe=Recipe("adam", 0.002)).as_json()
    assert content == json.loads(json.dumps(content))
    assert content["arguments"] == {"size": [1, 2]}
    assert (content["optimizer"], content["learning_rate"], content["decay"]) == ("adam", 0.002, False)
    assert (content["format"], content["seed"], content["batch_size"]) == (FORMAT, 123, 64)
    assert "recipe" not in content


@given(name=st.text(max_size=30) | st.text("./\\ab\0", max_size=8))
def test_no_name_leaves_the_output_folder(tmp_path_factory, name):
    out = tmp_path_factory.getbasetemp() / "out"
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        assert settings(name).experiment_name == name
    with contextlib.suppress(RunError):
        settings(name)
        assert (out / name).resolve().parent == out


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", ".hidden", "a b", "-x", "a\n"])
def test_names_that_are_no_plain_folder_name_are_refused(name):
    with pytest.raises(RunError, match=f"an experiment's name is letters, .*, not {re.escape(repr(name))}"):
        settings(name)


@pytest.mark.parametrize("n_epochs", [0, -1])
def test_at_least_one_epoch_is_needed(n_epochs):
    with pytest.raises(RunError, match=f"exp_99_run_01_trial: at least one epoch is needed, not {n_epochs}"):
        settings(n_epochs=n_epochs)


IMPOSSIBLE = [
    {"optimizer": "rmsprop"},
    *({field: value} for field in ("learning_rate", "localisation_rate") for value in (0.0, -1.0, math.nan, math.inf)),
    *({"localisation_norm": value} for value in (-1.0, math.nan, math.inf)),
]


@pytest.mark.parametrize("fields", IMPOSSIBLE, ids=str)
def test_an_impossible_recipe_is_refused(fields):
    with pytest.raises(RunError, match="exp_99_run_01_trial: a recipe has positive numbers and one of"):
        settings(recipe=Recipe(**fields))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", [None, 1.0])
def test_the_recipes_of_the_study_are_possible(optimizer, norm):
    assert settings(recipe=Recipe(optimizer, 0.002, 1e-9, norm, decay=True)).recipe.localisation_norm == norm


def test_the_learning_rates_fall_along_a_half_cosine_if_asked():
    assert [Recipe(decay=True).lr_scale(epoch, 4) for epoch in (1, 2, 3, 4)] == pytest.approx(
        [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]
    )
    assert Recipe().lr_scale(7, 10) == 1


def test_the_learning_rates_drop_to_a_tenth_after_an_epoch_if_asked():
    assert [Recipe(drop_after=0.5).lr_scale(epoch, 4) for epoch in (1, 2, 3, 4)] == [1, 1, 0.1, 0.1]
    falling = Recipe(decay=True, drop_after=0.5)
    assert falling.lr_scale(3, 4) == pytest.approx(0.5 / 10)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 2.5}, {"drop_after": 0}, {"drop_after": 2}])
def test_a_batch_is_a_positive_whole_number_and_a_drop_a_share_of_the_epochs(wrong):
    with pytest.raises(RunError, match="positive numbers"):
        settings(recipe=Recipe(**wrong))


def test_differences_are_named_in_the_order_of_the_settings():
    there, here = settings(run=2, seed=124).as_json(), settings(n_epochs=30).as_json()
    assert differences(there, here) == ["n_epochs 3 instead of 30", "run 2 instead of 1", "seed 124 instead of 123"]
    assert differences(here, here) == []


def test_a_setting_that_one_side_does_not_have_is_unknown_there():
    here = settings().as_json()
    there = {key: value for key, value in here.items() if key != "device"} | {"speed": 3}
    assert differences(there, here) == ["device unknown instead of cpu", "speed 3 instead of unknown"]


def test_long_values_are_cut_short():
    there, here = {"arguments": {"list": list(range(100))}}, {"arguments": {}}
    (line,) = differences(there, here)
    assert line.startswith('arguments {"list": [0, 1, 2')
    assert line.endswith("… instead of {}")
    assert len(line) < 90
