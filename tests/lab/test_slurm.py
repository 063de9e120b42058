"""Runs as jobs: by submitit's own local executor, and by its Slurm executor with a Slurm that is made of scripts."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import submitit
from conftest import ROOT, prepared
from stress_kill import EPOCHS, EXPERIMENTS, assert_same_run, wait_until

from lab import results, slurm
from lab.settings import Job, RunError
from run_experiments import ALL, train_job

ROWS = [ALL[exp_id] for exp_id in EXPERIMENTS]
COMMANDS = {
    # Starts the jobs of the array at once, each a group of processes whose number is kept.
    "sbatch": r"""
        cp "$1" "$FAKE/submitted.sh"
        last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
        export SLURM_ARRAY_JOB_ID=4711 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
        export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
        for number in $(seq 0 "$last"); do
            SLURM_ARRAY_TASK_ID=$number SLURM_JOB_ID=$((4711 + number)) \
                setsid bash "$FAKE/submitted.sh" >"$FAKE/log_$number" 2>&1 </dev/null &
            echo $! >>"$FAKE/groups"
        done
        echo "Submitted batch job 4711"
        """,
    "srun": 'while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done; exec "$@"',
    "sacct": 'echo "JobID|State|NodeList"',
    "scancel": 'echo "$@" >>"$FAKE/cancelled"; for group in $(cat "$FAKE/groups"); do kill -KILL -- "-$group"; done',
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Put scripts that stand for Slurm first in the PATH; the folder of their notes."""
    commands, notes = tmp_path / "bin", tmp_path / "notes"
    for folder in (commands, notes):
        folder.mkdir()
    for name, script in COMMANDS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(notes))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return notes


def test_jobs_of_slurm_are_cancelled_by_ctrl_c_and_go_on_with_the_same_command(
    cluster, undisturbed, idx_folder, tmp_path, call, start
):
    """From another folder than the repository's, and to the same bits as without Slurm and interruption."""
    arguments = ("--data", idx_folder, "--out", "out", "--epochs", EPOCHS, "--only", *EXPERIMENTS)
    arguments += ("--executor", "slurm", "--slurm", "partition=cpu", "--slurm", "time=30", "--jobs", 5)
    process = start([sys.executable, ROOT / "run_experiments.py", *arguments], cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob("out/*/checkpoint.pt")) or process.poll() is not None)
    assert process.workers() == []  # the one that prepared does not stay for as long as the jobs do
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert output.splitlines()[-1].startswith("Interrupted: the same command goes on")
    assert "Traceback" not in errors
    assert (cluster / "cancelled").read_text() == "4711\n"
    submitted = (cluster / "submitted.sh").read_text().splitlines()
    expected = ("--partition=cpu", "--time=30", "--array=0-1%2", "--job-name=stn", "--cpus-per-task=1")
    assert {f"#SBATCH {option}" for option in expected} <= set(submitted)
    (cluster / "groups").unlink()

    again = call("run_experiments.py", *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished") == 2
    for experiment in ROWS:
        assert_same_run(tmp_path / "out" / experiment.directory(1), undisturbed / experiment.directory(1))
    there = ("--data", idx_folder, "--out", tmp_path / "out", "--executor", "slurm")
    _, (_, jobs, _) = prepared(ROWS, *there, n_epochs=EPOCHS)
    assert [job.status for job in jobs] == ["skipped: already finished"] * 2
    record, complaints = results.read_all(tmp_path / "out")
    assert (list(record), complaints) == ([job.name for job in jobs], [])  # the folder of the jobs is passed over


def test_a_preempted_job_is_queued_again_and_goes_on(undisturbed, idx_folder, tmp_path, monkeypatch):
    """With --force: it replaces what was there once, not again when it goes on."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "out"
    experiment = ROWS[0]
    arguments = ["--data", idx_folder, "--out", out, "--executor", "slurm", "--force"]
    _, (options, jobs, _) = prepared([experiment], *arguments, n_epochs=EPOCHS)
    executor = submitit.LocalExecutor(out / ".slurm")
    executor.update_parameters(timeout_min=120)
    (task,) = executor.map_array(slurm.Resumable(train_job, options), jobs)
    folder = out / experiment.directory(1)
    wait_until(lambda: (folder / "checkpoint.pt").exists() or task.done())
    assert not task.done(), task.stderr()
    (handled,) = [
        int(pid) for pid in subprocess.run(["pgrep", "-P", task.job_id], capture_output=True, text=True).stdout.split()
    ]
    os.kill(handled, signal.SIGUSR2)  # as Slurm does it some time before the end
    kind, figures = task.result()
    assert "Requeued job" in task.stdout() + task.stderr()
    assert kind == "finished"
    assert figures["test_correct"] == results.read(folder / "results.json")["test_correct"]
    events = list(folder.glob("events.*"))
    assert len(events) == 2  # it went on after an epoch, and did not begin again
    assert_same_run(folder, undisturbed / folder.name)


def test_jobs_know_nothing_of_the_allocation_that_they_are_submitted_from(cluster, tmp_path, monkeypatch):
    """Their own allocation is another one; how Slurm is reached and what the user has chosen stays."""
    chosen = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "physics", "DATA": "here"}
    around = {"SLURM_JOB_ID": "12", "SLURM_MEM_PER_CPU": "512", "SLURM_RESTART_COUNT": "1", "SLURMD_NODENAME": "n1"}
    around |= {"SRUN_DEBUG": "3", "SUBMITIT_EXECUTOR": "slurm"}
    (tmp_path / "bin" / "sbatch").write_text('#!/usr/bin/env bash\nenv >"$FAKE/environment"\nexit 1\n')

    def handed_on(*environments):
        with monkeypatch.context() as patch:
            for environment in environments:
                for name, value in environment.items():
                    patch.setenv(name, value)
            options = SimpleNamespace(out=tmp_path / "out", slurm={}, jobs=None)
            before = dict(os.environ)
            with pytest.raises(RunError, match="not accepted"):
                slurm.run_all(slurm.new_executor(options), None, [Job(ROWS[0], 1, 1)], options, None)
            assert dict(os.environ) == before
        lines = (cluster / "environment").read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    inside = handed_on(chosen, around)
    assert chosen.items() <= inside.items()
    assert not around.keys() & inside.keys()
    assert inside["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    outside = chosen | {"SLURM_CPU_BIND": "none"}  # without an allocation, it can only be the user's choice
    assert outside.items() <= handed_on(outside).items()


def test_jobs_that_slurm_rejects_are_told(cluster, idx_folder, tmp_path, call):
    refusal = "sbatch: error: invalid partition specified: gpu"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/usr/bin/env bash\necho '{refusal}' >&2\nexit 1\n")
    arguments = ("--data", idx_folder, "--only", "exp_03", "--executor", "slurm", "--slurm", "partition=gpu")
    told = call("run_experiments.py", *arguments, cwd=tmp_path)
    assert (told.returncode, "Traceback" in told.stderr) == (2, False)
    assert told.stderr.splitlines()[-1].startswith("run_experiments.py: the jobs were not accepted: ")
    assert refusal in told.stderr.splitlines()[-1]


def test_a_job_that_fails_or_vanishes_is_told(tmp_path):
    class Task:
        job_id, paths = "7", type("Paths", (), {"stderr": "7.err"})

        def __init__(self, content):
            self.content = content

        def done(self):
            return True

        def result(self):
            if self.content is None:
                raise RuntimeError("a long log")
            return self.content

    class Executor:
        folder = tmp_path

        def map_array(self, function, jobs):
            return [Task(function(job)) for job in jobs]

    class Ended(list):
        def end(self, *seen):
            self.append(seen)

    jobs, ended = [Job(experiment, 1, 1) for experiment in list(ALL.values())[:3]], Ended()
    outcomes = dict(
        zip([job.name for job in jobs], [("finished", {"test_correct": 1}), ("failed", "no images"), None], strict=True)
    )
    slurm.run_all(Executor(), lambda job, options: outcomes[job.name], jobs, None, ended)
    assert [job.status for job in jobs] == [
        "finished",
        "failed: no images",
        "failed: job 7 ended without a result, see 7.err",
    ]
    assert jobs[0].results == {"test_correct": 1}
    assert sorted(ended) == sorted((job.name, 1, job.status) for job in jobs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm", "partition"], "KEY=VALUE is needed, as in partition=cpu, not 'partition'"),
        (["--slurm", "time=soon"], "--slurm time=soon: a whole number of minutes is needed"),
        (["--slurm", "colour=red"], "--slurm: Unavailable parameter(s): ['colour'] Valid parameters are:"),
    ],
)
def test_wrong_parameters_are_one_line_and_exit_code_2(cluster, call, tmp_path, arguments, message):
    process = call("run_experiments.py", "--out", tmp_path / "out", "--executor", "slurm", *arguments)
    assert process.returncode == 2
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_without_slurm_or_submitit_it_is_said(call, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ("run_experiments.py", "--out", tmp_path / "out", "--executor", "slurm")
    process = call(*arguments)
    assert process.returncode == 2
    assert process.stderr.startswith(
        "run_experiments.py: --executor slurm: this machine is not part of a Slurm cluster"
    )
    (tmp_path / "submitit.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = call(*arguments)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "run_experiments.py: --executor slurm needs submitit: python -m pip install -r requirements-slurm.txt"
    ]
    ordinary = call("run_experiments.py", "--slurm", "partition=cpu")
    assert ordinary.returncode == 2
    assert ordinary.stderr.splitlines()[-1].endswith("--slurm is only for --executor slurm")
    assert not (tmp_path / "out").exists()
