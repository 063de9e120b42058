"""Kill a short job with SIGKILL at random moments, go on with it each time, and compare with the undisturbed job.

    python tests/stress_kill.py [--kills 60] [--seed 0]

The victim is in turn a process that the parent has started, the parent, and all at once. At the end every run must be
what it is without a kill: the same bytes of weights.pt, history, predictions, settings and TensorBoard points; and
after each kill of the parent no process may be left. Exit code 1 and a traceback if not.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ("exp_03", "exp_08")  # one without a transformer, one with
VICTIMS = ("worker", "parent", "all")


def job(data, out, epochs):
    """The command of the short job."""
    command = [sys.executable, ROOT / "run_experiments.py", "--data", data, "--out", out, "--epochs", epochs]
    return [*map(str, command), "--jobs", "2", "--only", *EXPERIMENTS]


def points(folder):
    """All that TensorBoard shows of a run but for the speed and the graph: {tag: [(step, content)]}."""
    events = EventAccumulator(str(folder), dict.fromkeys(("images", "histograms", "tensors", "scalars"), 0)).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    del found["Images per second"]
    for tag in events.Tags()["images"]:
        found[tag] = [(event.step, event.encoded_image_string) for event in events.Images(tag)]
    for tag in events.Tags()["histograms"]:
        found[tag] = [(event.step, event.histogram_value) for event in events.Histograms(tag)]
    for tag in events.Tags()["tensors"]:
        found[tag] = [(event.step, event.tensor_proto.string_val[0]) for event in events.Tensors(tag)]
    return found


def without_times(results):
    results = json.loads(json.dumps(results))
    del results["seconds"]
    for epoch in results["history"]:
        del epoch["seconds"], epoch["train_seconds"]
    return results


def assert_same_run(one, other):
    """Two folders with the same finished run, bit for bit, but for the times."""
    results = [without_times(json.loads((folder / "results.json").read_text())) for folder in (one, other)]
    assert results[0] == results[1], one
    assert (one / "weights.pt").read_bytes() == (other / "weights.pt").read_bytes(), one
    assert points(one) == points(other), one


def assert_same_runs(one, other):
    names = sorted(path.name for path in one.iterdir() if path.is_dir())
    assert names == sorted(path.name for path in other.iterdir() if path.is_dir())
    for name in names:
        assert_same_run(one / name, other / name)


def processes(group):
    """The living processes of a process group: {process: its parent}."""
    table = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in table.stdout.splitlines())
    return {int(pid): int(parent) for pid, parent, of, state in rows if int(of) == group and state[0] != "Z"}


def wait_until(condition, seconds=60):
    """Wait for `condition()`; returns how long it took."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < seconds, "it does not happen"
        time.sleep(0.02)
    return time.perf_counter() - started


def kill(process, victim, chance, log):
    """SIGKILL the victim; return the seconds until that was noticed, or None if there was nobody to kill."""
    group = process.pid
    alive = processes(group)
    workers = workers_of(group)  # at the start also the one that prepares
    if group not in alive or (victim == "worker" and not workers):
        return None
    noticed = log.read_text().count("exit code -9")
    for pid in {"parent": [group], "worker": workers and [chance.choice(workers)], "all": alive}[victim]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if victim == "worker":  # the parent says so, unless the worker had done its work
        return wait_until(lambda: log.read_text().count("exit code -9") > noticed or process.poll() is not None)
    process.wait()
    return wait_until(lambda: not processes(group))


def workers_of(group):
    """The processes that do the work of the job whose parent leads this process group."""
    alive = processes(group)
    servers = {pid for pid, parent in alive.items() if parent == group}
    return [pid for pid, parent in alive.items() if parent in servers]


def stress(data, out, epochs, kills, undisturbed, seed=0):
    """Kill the job so often, going on with it each time, and from the start where it came to its end; compare each end
    with the undisturbed job. Returns the longest time in seconds until a kill was noticed."""
    chance = random.Random(seed)
    out, log = Path(out), Path(out).with_suffix(".log")
    done = []
    while len(done) < kills:
        with log.open("w") as stream:
            process = subprocess.Popen(job(data, out, epochs), stdout=stream, stderr=stream, start_new_session=True)
        while process.poll() is None and len(done) < kills:
            before = time.time()
            if chance.random() < 0.7:  # otherwise it is killed anywhere, most often while it starts
                with contextlib.suppress(FileNotFoundError):  # a file that is being replaced
                    while process.poll() is None and not any(
                        path.stat().st_mtime > before for path in out.glob("*/checkpoint.pt")
                    ):
                        time.sleep(0.01)
            time.sleep(chance.uniform(0, 2))
            seconds = kill(process, VICTIMS[len(done) % len(VICTIMS)], chance, log)
            if seconds is not None:
                done.append(seconds)
        if process.poll() is None:  # the last victim was a worker; the rest of this job is not of interest
            process.kill()
            wait_until(lambda group=process.pid: not processes(group))
        assert "Traceback" not in log.read_text(), log.read_text()
        if process.wait() == 0:
            assert_same_runs(out, undisturbed)
            shutil.rmtree(out)
        print(f"{len(done)} kills", flush=True)
    subprocess.run(job(data, out, epochs), check=True, capture_output=True)
    assert_same_runs(out, undisturbed)
    return max(done)


def main():
    from conftest import few_digits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, epochs, undisturbed = folder / "digits", 30, folder / "undisturbed"
        data.mkdir()
        few_digits(data)
        subprocess.run(job(data, undisturbed, epochs), check=True, capture_output=True)
        seconds = stress(data, folder / "killed", epochs, options.kills, undisturbed, options.seed)
    print(f"{options.kills} kills, the same bits; noticed after {seconds:.2f} s at most")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
