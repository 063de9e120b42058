"""`run_experiments.py --list` says what came out: of the runs in --out, and otherwise of the records in results/."""

import json
import re
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT, results_of, write_results

from lab import outcomes, stats
from run_experiments import ALL, SETS

MNIST = {"name": "MNIST", "md5": "bd3808b2414328cf71cc2764408ae4c5"}


def listed(output):
    """Return {(set, id): what came out, None if nothing is said} of what --list prints."""
    found, name, exp_id = {}, None, None
    for line in output.splitlines():
        if line.startswith("--set "):
            name = line.split()[1]
        elif match := re.match(r"(exp_\d+)  ", line):
            exp_id = match[1]
            found[name, exp_id] = None
        elif re.match(r"        \d+\.\d\d %", line):
            found[name, exp_id] = line.strip()
    return found


@pytest.fixture(scope="module")
def from_records(call, tmp_path_factory):
    return listed(call("run_experiments.py", "--list", cwd=tmp_path_factory.mktemp("empty")).stdout)


def test_without_runs_every_experiment_has_what_results_say(from_records):
    assert list(from_records) == [(name, row.id) for name, rows in SETS.items() for row in rows]
    missing = {exp_id for (_, exp_id), line in from_records.items() if line is None}
    made_in_turn = ("lost", "paper", "paper_recipe", "pictures", "half_rate")
    assert missing <= {row.id for name in made_in_turn for row in SETS[name]}
    for exp_id, line in ((exp_id, line) for (_, exp_id), line in from_records.items() if line):
        pattern = r"([\d.]+) %, (?:centre of (\d+) runs|one run)"
        pattern += r"(?:, \d+ of them lost,)? of (\d+) epochs in ([\d.]+) minutes(?: each)?"
        shown, n, epochs, minutes, source = re.fullmatch(pattern + r" \((.+)\)", line).groups()
        record = json.loads((ROOT / source).read_text())
        title = ALL[exp_id].title
        runs = [run for name, run in record.items() if re.fullmatch(rf"{exp_id}_run_\d+_{title}", name)]
        assert (int(n or 1), int(epochs)) == (len(runs), ALL[exp_id].epochs)
        accuracies = [100 * run["test_correct"] / run["test_total"] for run in runs]
        assert float(shown) == pytest.approx(stats.centre(accuracies), abs=0.0051)
        assert float(minutes) == pytest.approx(statistics.fmean(run["seconds"] for run in runs) / 60, abs=0.051)
    assert from_records["original", "exp_03"].endswith("(results/runs.json)")
    assert from_records["steady", "exp_03"].endswith("(results/steady.json)")  # its own runs of that row


def test_the_centre_is_that_of_the_table_in_the_documentation(from_records):
    page = (ROOT / "docs" / "results.md").read_text()
    row = page[page.index("|  |") :].splitlines()[2]
    assert from_records["original", "exp_01"][:5] in row


def test_the_runs_in_out_come_first(call, tmp_path, from_records):
    for run, correct in enumerate((981, 983), 1):
        write_results(tmp_path, ALL["exp_03"].directory(run), [900, correct], data=MNIST)
    write_results(tmp_path, ALL["exp_14"].directory(1), [912], data={"name": "few", "perspective_sigma": 3.5})
    process = call("run_experiments.py", "--list", "--out", tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    found = listed(process.stdout)
    assert found["original", "exp_03"] == f"98.20 %, centre of 2 runs of 2 epochs in 0.4 minutes each ({tmp_path})"
    assert found["steady", "exp_03"] == found["original", "exp_03"]
    assert found["perspective", "exp_14"] == f"91.20 %, one run of 1 epoch on few in 0.2 minutes ({tmp_path})"
    ours = {("original", "exp_03"), ("steady", "exp_03"), ("perspective", "exp_14")}
    assert {key: line for key, line in found.items() if key not in ours} == {
        key: line for key, line in from_records.items() if key not in ours
    }


def test_lost_runs_are_counted(tmp_path):
    for run, seen in ((1, 0.9), (2, 0.1), (3, 0.8)):
        content = results_of(name := ALL["exp_02"].directory(run), [980], data=MNIST)
        content["history"][0]["seen"] = seen
        write_results(tmp_path, name, [980], data=MNIST, history=content["history"])
    line = outcomes.of_folder(tmp_path)[0][ALL["exp_02"].name]
    assert line.startswith("98.00 %, centre of 3 runs, 1 of them lost, of 1 epoch in")


def test_runs_that_are_not_pooled_do_not_count(tmp_path):
    for run, correct in enumerate((981, 983), 1):
        write_results(tmp_path, ALL["exp_03"].directory(run), [900, correct], data=MNIST)
    write_results(tmp_path, ALL["exp_03"].directory(3), [500], data=MNIST)
    assert outcomes.of_folder(tmp_path)[0][ALL["exp_03"].name].startswith("98.20 %, centre of 2 runs of 2 epochs")


@pytest.mark.parametrize("content", ["", "[]", "{}", "\0", '{"checksum": 1}', "damaged", "folder", "renamed"])
def test_what_cannot_be_read_is_one_line_on_stderr(call_here, tmp_path, from_records, content):
    path = write_results(tmp_path, ALL["exp_01"].directory(1), [900])
    if content == "folder":
        path.unlink()
        path.mkdir()
    elif content == "damaged":
        path.write_text(path.read_text().replace("900", "901"))
    elif content == "renamed":
        path.parent.rename(tmp_path / ALL["exp_01"].directory(2))
    else:
        path.write_text(content)
    write_results(tmp_path, ALL["exp_02"].directory(1), [985], data=MNIST)
    (tmp_path / ALL["exp_03"].directory(1)).mkdir()  # unfinished: nothing is said of it
    process = call_here("run_experiments.py", "--list", "--out", tmp_path)
    assert process.returncode == 0
    (line,) = process.stderr.splitlines()
    assert re.match(
        rf"run_experiments\.py: {tmp_path}/exp_01_run_0\d_\w+/results\.json: passed over, it is broken ", line
    )
    found = listed(process.stdout)
    assert found["original", "exp_01"] == from_records["original", "exp_01"]
    assert found["original", "exp_02"].startswith("98.50 %, one run")


def test_it_waits_for_no_large_library():
    """It answers in about 0.3 seconds."""
    large = ("torch", "numpy", "scipy", "pandas", "matplotlib", "kornia", "tensorboard", "jinja2")
    program = (
        "import sys, run_experiments; sys.argv = ['run_experiments.py', '--list']; run_experiments.main(); "
        f"sys.exit(str([name for name in {large} if name in sys.modules]))"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert process.stderr == "[]\n"
