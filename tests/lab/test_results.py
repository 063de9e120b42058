"""results.json is believed only where it can be true, and is condensed without loss."""

import json
import shutil

import hypothesis.strategies as st
import pytest
import torch
from conftest import results_of, write_results
from helpers import Linear, run
from hypothesis import given

from lab import results
from stn import data

NAME = "exp_03_run_01_bypass_localisation"


def test_what_train_writes_is_read(tmp_path, digits):
    written = run(digits, tmp_path, NAME, 2, Linear)
    assert results.read(tmp_path / NAME / "results.json") == written
    small = results.condensed(written)
    assert small["history"]["test_correct"] == [epoch["test_correct"] for epoch in written["history"]]
    assert small["train_seconds"] == pytest.approx(sum(epoch["train_seconds"] for epoch in written["history"]), abs=0.1)
    assert "wrong" not in small  # the labels of other data are not known here


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", '{"experiment_name": 3}', "1e5"])
def test_broken_files_are_named_and_passed_over(tmp_path, content):
    write_results(tmp_path, NAME, [982])
    (tmp_path / "test").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text(content)
    record, complaints = results.read_all(tmp_path)
    assert list(record) == [NAME]
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{tmp_path / 'broken' / 'results.json'}: passed over, it is broken (")
    assert "\n" not in complaints[0]


def folder(path):
    path.mkdir()


def no_text(path):
    path.write_bytes(b"\xff\xfe{}")


@pytest.mark.parametrize("make", [folder, no_text], ids=lambda make: make.__name__)
def test_what_is_no_file_of_results_is_named_and_passed_over(tmp_path, make):
    write_results(tmp_path, NAME, [982])
    (tmp_path / "odd").mkdir()
    make(tmp_path / "odd" / "results.json")
    record, complaints = results.read_all(tmp_path)
    assert list(record) == [NAME]
    assert len(complaints) == 1
    assert str(tmp_path / "odd" / "results.json") in complaints[0]


def test_a_copied_folder_is_not_a_second_run(tmp_path):
    write_results(tmp_path, NAME, [982])
    shutil.copytree(tmp_path / NAME, tmp_path / "copy_of_exp_03")
    record, complaints = results.read_all(tmp_path)
    assert len(record) == 1
    assert "a copied or renamed folder?" in complaints[0]


def test_a_file_without_or_with_a_wrong_checksum_is_named_and_passed_over(tmp_path):
    path = write_results(tmp_path, NAME, [900, 982])
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no checksum; made by an earlier version"):
        results.read(path)
    record, complaints = results.read_all(tmp_path)
    assert record == {}
    assert complaints == [
        f"{path}: passed over, it is broken (no checksum; made by an earlier version of this program?)"
    ]


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path_factory, place, bit):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    path = folder / NAME / "results.json"
    if not path.exists():
        write_results(folder, NAME, [900, 982])
    good = path.read_bytes()
    wrong = bytearray(good)
    wrong[place % len(good)] ^= 1 << bit
    path.write_bytes(wrong)
    read, complaints = results.read_all(folder)
    path.write_bytes(good)
    if read:  # white space between the values
        assert read == {NAME: results.condensed(results_of(NAME, [900, 982]))}
    else:
        assert len(complaints) == 1
        assert "\n" not in complaints[0]


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        results.write(tmp_path / "results.json", results_of(NAME, [982], avg_test_loss=float("nan")))
    assert list(tmp_path.iterdir()) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(sorted(results_of(NAME, [982]))), inner, max_size=6)
        ),
    )
)
def test_no_json_is_taken_for_results_or_ends_in_another_error(tmp_path_factory, content):
    """Any, and real results with other values, without a new checksum."""
    path = tmp_path_factory.getbasetemp() / "any" / NAME / "results.json"
    if not path.exists():
        write_results(path.parent.parent, NAME, [982])
        path.rename(path.with_name("good"))
    good = json.loads(path.with_name("good").read_text())
    merged = good | content if isinstance(content, dict) and content else content
    path.write_text(json.dumps(merged))
    if merged == good:
        return
    with pytest.raises(ValueError, match=r"checksum|Error|not a file") as error:
        results.read(path)
    assert "\n" not in str(error.value)


def test_condensing_loses_nothing(tmp_path):
    """Of MNIST itself: the predictions and the confusion matrix follow from the wrong ones and the labels."""
    (_, _, _, labels), description = data.read()
    predicted = labels.copy()
    predicted[[3, 77, 9999]] = (labels[[3, 77, 9999]] + 1) % 10
    matrix = torch.bincount(torch.from_numpy(labels.astype(int) * 10 + predicted), minlength=100).view(10, 10).tolist()
    changes = {"predictions": "".join(map(str, predicted)), "confusion_matrix": matrix, "data": description}
    path = write_results(tmp_path, NAME, [9997], total=10_000, **changes)
    small = results.condensed(results.read(path))
    assert set(results.wrong_images(small)) == {3, 77, 9999}
    assert results.confusion_matrix(small) == matrix
    restored = [results.wrong_images(small).get(image, label) for image, label in enumerate(labels.tolist())]
    assert restored == predicted.tolist()
