"""Workers and the pool, without torch: real processes, whose functions do what a test wants."""

import itertools
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT
from stress_kill import wait_until
from workers_do import prepare, train

import run_experiments
from lab import cli, pool
from lab.cli import Interrupted
from lab.settings import Experiment, Job


def jobs_that(*questions):
    """Make a job for each: what it shall do, "" if nothing special."""
    return [Job(Experiment(f"exp_{n:02d}", "trial", "Net", 1, what), 1, 1) for n, what in enumerate(questions, 1)]


class Display:
    """Note what is to be shown: [(event, name of the run, ...)]."""

    def __init__(self):
        self.seen = []

    def start(self, name, n_epochs):
        self.seen.append(("start", name))

    def progress(self, name, n_epochs, *at):
        self.seen.append(("progress", name, *at))

    def end(self, name, n_epochs, status):
        self.seen.append(("end", name, status))


def run_all(jobs, at_a_time, display=None, worker=None):
    """Run jobs in the pool; return what was shown."""
    display = display or Display()
    pool.run_all(train, jobs, SimpleNamespace(jobs=at_a_time), display, worker or pool.Worker())
    return display.seen


@pytest.fixture
def worker():
    with pool.Worker() as worker:
        yield worker


def alive(pid):
    """Tell whether a process is there and no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


# One that dies


@pytest.mark.parametrize(("how", "code"), [("killed", -9), ("leaves", 7)], ids=["killed", "leaves"])
def test_a_dead_worker_costs_one_run_and_the_next_gets_a_new_one(how, code):
    jobs = jobs_that("", how, "", "")
    seen = run_all(jobs, 1)
    lost = f"failed: its process ended with exit code {code}"
    assert [job.status for job in jobs] == ["finished", lost, "finished", "finished"]
    before, after, at_last = (job.results["process"] for job in jobs if job.results)
    assert before != after == at_last
    assert [event for event in seen if event[0] == "end"] == [("end", job.name, job.status) for job in jobs]
    assert not any(map(alive, (before, after)))


@pytest.mark.parametrize(("how", "why"), [("fails", "no images"), ("raises", "ValueError: a bug")])
def test_a_run_that_fails_leaves_its_worker_to_the_next(how, why):
    jobs = jobs_that("", how, "")
    run_all(jobs, 1)
    assert [job.status for job in jobs] == ["finished", f"failed: {why}", "finished"]
    assert jobs[0].results == jobs[2].results


def test_a_worker_that_dies_before_its_call_costs_one_run(worker):
    worker.process.kill()
    worker.process.join()
    jobs = jobs_that("", "")
    run_all(jobs, 1, worker=worker)
    assert [job.status for job in jobs] == ["failed: its process ended with exit code -9", "finished"]


def test_workers_that_cannot_be_started_are_told(worker, monkeypatch):
    def refuse():
        raise OSError("no more processes")

    monkeypatch.setattr(pool, "Worker", refuse)
    jobs = jobs_that("", "", "")
    run_all(jobs, 2, worker=worker)
    why = "failed: its process cannot be started (no more processes)"
    assert [job.status for job in jobs] == ["finished", why, why]


def test_without_any_worker_the_command_says_so_in_one_line(monkeypatch, capsys):
    def refuse():
        raise OSError("no more processes")

    monkeypatch.setattr(pool, "Worker", refuse)
    monkeypatch.setattr(sys, "argv", ["run_experiments.py", "--runs", "2"])
    monkeypatch.setattr(cli, "raise_when_interrupted", lambda: None)  # pytest's are in force
    assert run_experiments.main() == 1
    assert capsys.readouterr().err == "run_experiments.py: OSError: no more processes\n"


# What goes through the pipes


def test_nobody_but_the_parent_reads_its_input_or_answers_ctrl_c():
    (job,) = jobs = jobs_that("reads")
    run_all(jobs, 1)
    assert job.results["ignores_ctrl_c"]
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler  # of this process, as before


def test_an_answer_that_cannot_go_through_the_pipe_ends_the_worker(capfd):
    (job,) = jobs = jobs_that("cannot be sent")
    run_all(jobs, 1)
    assert job.status == "failed: its process ended with exit code 1"
    assert "pickle" in capfd.readouterr().err


def test_what_a_run_tells_is_shown_in_its_order():
    (job,) = jobs = jobs_that("")
    assert run_all(jobs, 2) == [
        ("start", job.name),
        ("progress", job.name, 1, 5, 10, None),
        ("end", job.name, "finished"),
    ]


# Many


def test_no_more_workers_than_asked_for_and_the_first_is_used(worker):
    jobs = jobs_that(*[""] * 12)
    run_all(jobs, 3, worker=worker)
    processes = {job.results["process"] for job in jobs}
    assert worker.process.pid in processes
    assert len(processes) <= 3


def test_after_so_many_runs_a_worker_is_replaced(monkeypatch):
    monkeypatch.setattr(pool, "MAX_CALLS", 3)
    jobs = jobs_that(*[""] * 8)
    run_all(jobs, 1)
    processes = [job.results["process"] for job in jobs]
    assert [len(list(runs)) for _, runs in itertools.groupby(processes)] == [3, 3, 2]
    assert len(set(processes)) == 3
    assert not any(map(alive, processes))


def test_workers_work_at_the_same_time():
    """Both runs wait for ever, and both are under way before the interrupt."""

    class Impatient(Display):
        def progress(self, name, n_epochs, *at):
            super().progress(name, n_epochs, *at)
            if len({event[1] for event in self.seen if event[0] == "progress"}) == 2:
                raise Interrupted(130)

    with pytest.raises(Interrupted):
        run_all(jobs_that("waits", "waits"), 2, display=Impatient())


def test_with_ten_runs_the_first_run_of_the_costliest_experiment_starts_first(worker, monkeypatch, tmp_path, capfd):
    """By the command's own way from its options to the workers."""
    monkeypatch.setattr(run_experiments, "prepare", prepare)
    monkeypatch.setattr(run_experiments, "train_job", train)
    arguments = ["--only", "exp_03", "exp_05", "exp_02", "--runs", "10", "--jobs", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(run_experiments, "print_summary", lambda jobs: None)
    assert run_experiments.run(run_experiments.parse_arguments(arguments), worker) == 0
    lines = capfd.readouterr().err.splitlines()
    started = [line.split()[1][:13] for line in lines if line.endswith(": started")]
    alternating = [f"{exp_id}_run_{run:02d}" for run in range(1, 11) for exp_id in ("exp_02", "exp_05")]
    assert started == alternating + [f"exp_03_run_{run:02d}" for run in range(1, 11)]


# Ends


@pytest.mark.parametrize("what", ["waits", "disobeys"])
def test_interrupted_in_the_middle(worker, what):
    """Those that train are interrupted, the others not started, and no process is left after a second."""
    jobs = jobs_that("", what, what, what)

    class Interrupting(Display):
        def progress(self, name, n_epochs, *at):
            super().progress(name, n_epochs, *at)
            if at == (1, 0, 10, None):
                self.began = time.monotonic()
                raise Interrupted(143)

    display = Interrupting()
    with pytest.raises(Interrupted):
        run_all(jobs, 1, display=display, worker=worker)
    assert [job.status for job in jobs] == ["finished", "interrupted", "not started", "not started"]
    assert worker.process.exitcode == (-signal.SIGTERM if what == "waits" else -signal.SIGKILL)
    assert (time.monotonic() - display.began < 1) == (what == "waits")


def test_a_worker_ends_when_no_run_is_left_for_it(worker):
    """It does not wait for the others: their memory may be needed."""
    jobs, gone = jobs_that("waits", ""), []

    class Watching(Display):
        def end(self, name, n_epochs, status):
            wait_until(lambda: not alive(jobs[1].results["process"]))
            gone.append(name)
            raise Interrupted(130)

    with pytest.raises(Interrupted):
        run_all(jobs, 2, display=Watching(), worker=worker)
    assert gone == [jobs[1].name]


PARENT = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from lab import cli, pool
from lab.settings import Experiment, Job
from workers_do import train

if __name__ == "__main__":
    workers = [pool.Worker() for _ in range(3)]
    for worker, what in zip(workers, ("", "waits", "tells")):
        worker.send(train, Job(Experiment("exp_01", "trial", "Net", 1, what), 1, 1), None)
        worker.receive()
    print(*(worker.process.pid for worker in workers), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_workers_end_with_their_parent_whatever_they_do(tmp_path):
    """One waits for the next call, one is at work, and one just tells how it goes."""
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, tmp_path / "parent.py", ROOT, ROOT / "tests"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 3
        assert all(map(alive, workers))
        parent.kill()
        wait_until(lambda: not any(map(alive, workers)), seconds=10)
