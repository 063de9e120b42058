"""What a whole job needs of the memory, and how long 1,001 finished runs take to look at (on Linux).

    python -m pytest tests/commands/test_scale.py --slow [--save-measurements results]

takes a few minutes; nothing else should use torch meanwhile. Two tests are of the measuring itself.
"""

import contextlib
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, prepared
from helpers import write_idx

from lab import results
from lab.files import write_json
from lab.settings import SEED
from run_experiments import EXPERIMENTS, train_here
from stn import mnist

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc of Linux"),
]
N_RUNS = 143  # of each of the seven


def megabytes(pids):
    """Return what processes need of the memory together, pages that they share counted once (their PSS).

    Of pages that others share, too, it is only a part.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            sizes = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss: +(\d+) kB", sizes, re.MULTILINE)[1])
    return total / 1024


def test_a_whole_job_of_two_workers_needs_less_than_2_gb(start, tmp_path, save_measurement):
    options = ["--device", "cpu", "--jobs", "2", "--epochs", "2", "--out", tmp_path]
    most, looks = 0, 0
    with open(tmp_path / "log", "w") as log:
        process = start([sys.executable, ROOT / "run_experiments.py", *options], stdout=log, stderr=log)
        while process.poll() is None:
            most, looks = max(most, megabytes(pid for pid, _, _ in process.members())), looks + 1
            time.sleep(0.1)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    save_measurement("memory", {"peak_megabytes": round(most), "looks": looks})
    assert most < 2000


SHARE_MEMORY = """
import os, time
shared = b"1" * (200 * 2**20)
if os.fork() == 0:
    if os.fork() == 0:
        print(flush=True)
time.sleep(60)
"""


def test_memory_that_processes_share_counts_once(start):
    process = start([sys.executable, "-c", SHARE_MEMORY])
    process.stdout.readline()
    pids = [pid for pid, _, _ in process.members()]
    assert len(pids) == 3  # with its child and its grandchild
    assert 200 < megabytes(pids) < 300
    assert megabytes([process.pid]) < 100  # a third of it, and what is its own
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert megabytes([process.pid]) == 0


def multiply(folder, other, run):
    """Copy a finished run with all its files as the run of this number."""
    shutil.copytree(folder, other)
    own = {"experiment_name": other.name, "run": run, "seed": SEED - 1 + run}
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    write_json(other / "settings.json", settings | own)
    results.write(other / "results.json", results.read(folder / "results.json") | own)


def test_a_multiplied_run_is_a_finished_one(idx_folder, tmp_path):
    folders = ["--data", idx_folder, "--out", tmp_path]
    experiment = EXPERIMENTS[2]
    _, (options, (job,), _) = prepared([experiment], *folders)
    train_here(job, options)
    multiply(tmp_path / job.name, tmp_path / experiment.directory(17), 17)
    _, (_, jobs, _) = prepared([experiment], *folders, runs=17)
    assert [job.run for job in jobs if job.status == "skipped: already finished"] == [1, 17]


def test_plot_and_a_second_start_look_at_a_thousand_runs_in_seconds(tmp_path, save_measurement):
    """Tiny runs of the seven, each multiplied into many that differ in name, number and seed."""
    images, out = tmp_path / "few_images", tmp_path / "experiments"
    images.mkdir()
    write_idx(images, [array[:64] for array in mnist.read_mnist()])
    folders = ["--data", images, "--out", out]
    _, (options, jobs, _) = prepared(EXPERIMENTS, *folders)
    for job in jobs:
        train_here(job, options)
        for run in range(2, N_RUNS + 1):
            multiply(out / job.name, out / job.experiment.directory(run), run)
    n_runs, files = N_RUNS * len(jobs), [path for path in out.rglob("*") if path.is_file()]
    size = {"files": len(files), "megabytes": round(sum(path.stat().st_size for path in files) / 1e6)}
    measured = {
        "plot": timed(call, "plot.py", "--out", out, "--figures", tmp_path),
        "second_start": timed(
            call, "run_experiments.py", *folders, "--device", "cpu", "--epochs", "1", "--runs", str(N_RUNS)
        ),
        "tensorboard": timed(list_in_tensorboard, out, n_runs),
    }
    save_measurement("scale", {"runs": n_runs, **size, **measured})
    for name in ("plot", "second_start"):
        assert statistics.median(measured[name]["seconds"]) < 10, name


def timed(function, *arguments):
    """Call three times; return the seconds that passed, and those of the processor for all processes that ended."""

    def processor_seconds():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    found = {"seconds": [], "cpu_seconds": []}
    for _ in range(3):
        started, used = time.perf_counter(), processor_seconds()
        function(*arguments)
        found["seconds"].append(round(time.perf_counter() - started, 2))
        found["cpu_seconds"].append(round(processor_seconds() - used, 2))
    return found


def call(script, *arguments):
    """Run a script of the repository and wait for all its processes."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what it leaves behind becomes ours
    subprocess.run([sys.executable, ROOT / script, *arguments], check=True, stdout=subprocess.DEVNULL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def list_in_tensorboard(out, n_runs):
    """Start TensorBoard on the folder `out` and return when it has read something of so many runs."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={out}", "--host=127.0.0.1", "--port=0"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            listed = []
            while len(listed) < n_runs:
                assert server.poll() is None, "TensorBoard has ended"
                time.sleep(0.5)
                log.seek(0)
                if address := re.search(r"http://127\.0\.0\.1:\d+", log.read()):
                    with urllib.request.urlopen(f"{address[0]}/data/runs", timeout=60) as response:
                        listed = json.load(response)
        finally:
            server.terminate()
