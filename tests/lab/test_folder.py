"""The folder of a run: in which state it is, and what is said of one that cannot be continued."""

import json

import pytest
from conftest import results_of, write_results

from lab import folder
from lab.files import write_json
from lab.settings import RunError, Settings

WAY_OUT = "to replace it, run again with --force (in Python: overwrite=True), to keep it, choose another --out"
# As the version of the program wrote it whose folders had no format yet.
EARLIER = {
    **{"experiment_name": "trial", "model": "Net", "arguments": {}, "state_dict": "0123abcd", "run": 1, "seed": 123},
    **{"n_epochs": 3, "optimizer": "sgd", "learning_rate": 0.01, "localisation_rate": 0.01, "localisation_norm": None},
    **{"decay": False, "batch_size": 64, "data": {"name": "few"}, "device": "cpu", "threads": 1},
    "plain_convolutions": False,
}


@pytest.fixture
def settings():
    return Settings("trial", "Net", {}, "0123abcd", 3, {"name": "few"}, code="c" * 64).as_json()


@pytest.mark.parametrize("others", [[], ["weights.pt", "notes.txt", "confusion_matrix.png"]], ids=str)
def test_a_folder_without_a_run_is_new(tmp_path, settings, others):
    assert folder.state_of(tmp_path / "missing", settings) == "new"
    for name in others:
        (tmp_path / name).touch()
    assert folder.state_of(tmp_path, settings) == "new"


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ([], "unfinished"),
        (["checkpoint.pt"], "unfinished"),
        (["checkpoint.pt", "failed.txt"], "failed"),
        (["checkpoint.pt", "weights.pt", "results.json"], "finished"),
    ],
    ids=str,
)
def test_the_state_of_a_run(tmp_path, settings, files, state):
    write_json(tmp_path / "settings.json", settings)
    for name in files:
        (tmp_path / name).touch()
    assert folder.state_of(tmp_path, settings) == state
    with pytest.raises(RunError, match=r"holds a run with n_epochs 3 instead of 4, seed 123 instead of 7; to replace"):
        folder.state_of(tmp_path, settings | {"n_epochs": 4, "seed": 7})


@pytest.mark.parametrize("name", folder.RUN_MARKERS)
def test_a_folder_of_an_earlier_version_is_refused_with_the_way_out(tmp_path, settings, name):
    """Whatever is left of it; its settings may be, or nothing may tell whose it is."""
    for content in (EARLIER, EARLIER | {"format": folder.FORMAT - 1}, None):
        (tmp_path / name).write_text("left")
        (tmp_path / "settings.json").unlink(missing_ok=content is not None)
        if content is not None:
            (tmp_path / "settings.json").write_text(json.dumps(content))
        elif name == "settings.json":
            return
        with pytest.raises(RunError) as refused:
            folder.state_of(tmp_path, settings)
        message = str(refused.value)
        assert message.startswith(f"{tmp_path} is of another version of this program")
        assert message.endswith(f"; {WAY_OUT}")
        assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe"])
def test_settings_that_cannot_be_read_are_refused_with_the_way_out(tmp_path, settings, content):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(RunError, match=r"has no readable settings.json; to replace it, .*--force.*--out"):
        folder.state_of(tmp_path, settings)


def test_results_are_read_or_named_with_the_way_out(tmp_path):
    name = "exp_03_run_01_trial"
    place = write_results(tmp_path, name, [987]).parent
    assert folder.read_results(place) == results_of(name, [987])
    (place / "results.json").write_text((place / "results.json").read_text().replace("98.7", "99.7"))
    with pytest.raises(RunError) as broken:
        folder.read_results(place)
    assert str(broken.value) == f"{place / 'results.json'} is broken (its checksum does not fit); {WAY_OUT}"
