"""Workers and the pool, without torch: real processes, whose functions do what a test wants."""

import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT
from stress_kill import wait_until

import run_experiments
from lab import pool
from lab.cli import Interrupted
from lab.settings import Experiment, Job

WORKER = f"""
import os, signal, subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
from lab import pool


def prepare(options, jobs, on_progress):
    return "prepared", (options, jobs, ["a line"])


def train(job, options, on_progress):
    what = job.experiment.question
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "leaves":
        os._exit(7)
    elif what == "raises":
        raise ValueError("a bug")
    elif what == "fails":
        return "failed", "no images"
    elif what == "prints":
        print("printed", flush=True)
        os.write(1, b"written\\n")
        subprocess.run(["echo", "echoed"])
    elif what == "reads":
        assert (sys.stdin.read(), os.read(0, 10), subprocess.run(["cat"], capture_output=True).stdout) == ("", b"", b"")
    elif what in ("waits", "disobeys"):
        if what == "disobeys":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        on_progress(1, 0, 10, None)
        time.sleep(600)
    elif what == "tells":
        while True:
            on_progress(1, 0, 10, None)
    on_progress(1, 5, 10, None)
    return "finished", {{"process": os.getpid()}}


pool.serve(prepare=prepare, train=train)
"""
COMMAND = [sys.executable, "-c", WORKER]


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


def run_all(jobs, at_a_time, command=COMMAND, display=None, worker=None):
    """Run jobs in the pool; return what was shown."""
    display = display or Display()
    pool.run_all(command, jobs, SimpleNamespace(jobs=at_a_time), display, worker)
    return display.seen


@pytest.fixture
def worker():
    worker = pool.Worker(COMMAND)
    yield worker
    pool.end([worker])


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


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/nowhere/python"], "its process cannot be started ([Errno 2] No such file or directory: '/nowhere/python')"),
        (["false"], "its process ended with exit code 1"),
    ],
)
def test_workers_that_cannot_be_started_are_told(command, why):
    jobs = jobs_that("", "", "")
    run_all(jobs, 2, command)
    assert [job.status for job in jobs] == [f"failed: {why}"] * 3


def test_without_any_worker_the_command_says_so_in_one_line():
    program = "import sys, run_experiments as r; r.WORKER = ['/nowhere/python']; sys.exit(r.main())"
    process = subprocess.run([sys.executable, "-c", program, "--runs", "2"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("run_experiments.py: the preparation failed: its process cannot be started ([Errno 2]")


def test_an_answer_that_breaks_off_is_a_death():
    answer = io.BytesIO()
    pickle.dump(("finished", {"test_accuracy": 98.5, "text": "x" * 300}), answer)
    for length in range(len(answer.getvalue())):
        worker = object.__new__(pool.Worker)
        worker.calls = 0
        part = io.BytesIO(answer.getvalue()[:length])
        ended = {"wait": lambda timeout=None: -9, "terminate": lambda: None, "kill": lambda: None}
        worker.process = SimpleNamespace(stdin=io.BytesIO(), stdout=part, **ended)
        with pytest.raises(pool.WorkerDied, match="exit code -9"):
            worker.call("train")


# What goes through the pipes


def test_what_a_library_prints_does_not_get_between_the_answers(capfd):
    jobs = jobs_that("prints", "reads", "")
    run_all(jobs, 1)
    assert [job.status for job in jobs] == ["finished"] * 3
    assert len({job.results["process"] for job in jobs}) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    assert sorted(shown.err.split()) == ["echoed", "printed", "written"]


class HereOnly:
    """Options of a class that a worker does not know."""

    jobs = 1


def test_a_call_that_a_worker_cannot_read_ends_it(capfd):
    (job,) = jobs = jobs_that("")
    pool.run_all(COMMAND, jobs, HereOnly(), Display())
    assert job.status == "failed: its process ended with exit code 1"
    assert "No module named 'test_pool'" in capfd.readouterr().err


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
    monkeypatch.setattr(pool, "CALLS_OF_A_WORKER", 3)
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
    monkeypatch.setattr(run_experiments, "WORKER", COMMAND)
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
    assert worker.process.returncode == (-signal.SIGTERM if what == "waits" else -signal.SIGKILL)
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
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from lab import pool
from lab.settings import Experiment, Job

workers = [pool.Worker([sys.executable, "-c", sys.argv[2]]) for _ in range(3)]
for worker, what in zip(workers, ("", "waits", "tells")):
    call = "train", Job(Experiment("exp_01", "trial", "Net", 1, what), 1, 1), None
    told = threading.Event()
    on_progress = {"on_progress": lambda *_, told=told: told.set()}
    threading.Thread(target=worker.call, args=call, kwargs=on_progress, daemon=True).start()
    told.wait()
print(*(worker.process.pid for worker in workers), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_workers_end_with_their_parent_whatever_they_do():
    """One waits for the next call, one is at work, and one just tells how it goes."""
    with subprocess.Popen([sys.executable, "-c", PARENT, ROOT, WORKER], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 3
        assert all(map(alive, workers))
        parent.kill()
        wait_until(lambda: not any(map(alive, workers)), seconds=10)
