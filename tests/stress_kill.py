"""Kill a short job with SIGKILL at random moments, go on with it each time, and compare with the undisturbed job.

    python tests/stress_kill.py [--kills 60] [--seed 0]

The victim is in turn a process that the parent has started, the parent, and all at once. At the end every run must be
what it is without a kill: the same bytes of weights.pt, history, predictions, settings and TensorBoard points; and
after each kill of the parent no process may be left. Exit code 1 and a traceback if not.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ("exp_03", "exp_08")  # one without a transformer, one with
EPOCHS = 6
VICTIMS = ("worker", "parent", "all")


class Family(subprocess.Popen):
    """A process whose descendants are found wherever they are: all inherit a mark in their environment."""

    def __init__(self, command, **options):
        self.mark = f"STRESS_KILL_FAMILY={uuid.uuid4()}"
        environment = dict([*os.environ.items(), self.mark.split("=")])
        super().__init__([*map(str, command)], env=environment, start_new_session=True, **options)

    def members(self):
        """List the living processes of the family: [(process, its parent, its command and environment)]."""
        table = subprocess.run(["ps", "axeww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True)
        rows = (line.split(maxsplit=3) for line in table.stdout.splitlines() if self.mark in line)
        return [(int(pid), int(parent), command) for pid, parent, state, command in rows if state[0] != "Z"]

    def workers(self):
        """List the processes that work for this one."""
        return [pid for pid, parent, command in self.members() if parent == self.pid and " --worker " in command]


def job(data, out, epochs=EPOCHS, jobs=2):
    """Return the command of the short job."""
    command = [sys.executable, ROOT / "run_experiments.py", "--data", data, "--out", out, "--epochs", epochs]
    return [*map(str, command), "--jobs", str(jobs), "--only", *EXPERIMENTS]


def run_job(data, out, epochs=EPOCHS):
    """Run the short job, or what is left of it, undisturbed."""
    subprocess.run(job(data, out, epochs, jobs=1), check=True, capture_output=True)


def points(folder):
    """Return what TensorBoard shows of a run, but not speed, commit and graph: {tag: [(step, content)]}."""
    events = EventAccumulator(str(folder), dict.fromkeys(("images", "histograms", "tensors", "scalars"), 0)).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    del found["Images per second"]
    for tag in events.Tags()["images"]:
        found[tag] = [(event.step, event.encoded_image_string) for event in events.Images(tag)]
    for tag in events.Tags()["histograms"]:
        found[tag] = [(event.step, event.histogram_value) for event in events.Histograms(tag)]
    for tag in events.Tags()["tensors"]:
        texts = [(event.step, event.tensor_proto.string_val[0]) for event in events.Tensors(tag)]
        found[tag] = [(step, re.sub(rb"\| git_commit \|.*\n", b"", text)) for step, text in texts]
    return found


def without_times(results):
    """Return results, or a part of them, without the seconds that anything took."""
    if isinstance(results, list):
        return [without_times(entry) for entry in results]
    if not isinstance(results, dict):
        return results
    timed = [key for key in results if key in ("seconds", "events") or key.endswith("_seconds")]
    return {key: without_times(value) for key, value in results.items() if key not in timed}


def assert_same_run(one, other):
    """Check that two folders hold the same finished run, bit for bit, but for the times and the commit of the code."""
    from lab import results

    ours, theirs = (without_times(results.read(folder / "results.json")) for folder in (one, other))
    assert ours == theirs | {"git_commit": ours["git_commit"]}, one
    assert (one / "weights.pt").read_bytes() == (other / "weights.pt").read_bytes(), one
    assert points(one) == points(other), one


def assert_same_runs(one, other):
    names = sorted(path.name for path in one.iterdir() if path.is_dir())
    assert names == sorted(path.name for path in other.iterdir() if path.is_dir())
    for name in names:
        assert_same_run(one / name, other / name)


def wait_until(condition, seconds=170):
    """Wait for `condition()`; return how many seconds it took."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < seconds, "it does not happen"
        time.sleep(0.02)
    return time.perf_counter() - started


def kill(process, victim, chance, log):
    """SIGKILL the victim; return the seconds until that was noticed, or None if there was nobody to kill."""
    workers = process.workers()  # at the start the one that prepares
    if process.poll() is not None or (victim == "worker" and not workers):
        return None
    noticed = log.read_text().count("exit code -9")
    everybody = [pid for pid, _, _ in process.members()]
    for pid in {"parent": [process.pid], "worker": workers and [chance.choice(workers)], "all": everybody}[victim]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if victim == "worker":  # the parent says so, unless the worker had done its work
        return wait_until(lambda: log.read_text().count("exit code -9") > noticed or process.poll() is not None)
    process.wait()
    return wait_until(lambda: not process.members())


def stress(data, out, epochs, kills, undisturbed, seed=0, jobs=2):
    """Kill the job so often, going on with it each time, and from the start where it came to its end; compare each end
    with the undisturbed job. Return the longest time in seconds until a kill was noticed."""
    chance = random.Random(seed)
    out, log = Path(out), Path(out).with_suffix(".log")
    done = []
    while len(done) < kills:
        with log.open("w") as stream:
            process = Family(job(data, out, epochs, jobs), stdout=stream, stderr=stream)
        while process.poll() is None and len(done) < kills:
            before = time.time()
            if chance.random() < 0.7:  # otherwise it is killed anywhere, most often while it starts
                with contextlib.suppress(FileNotFoundError):  # a file that is being replaced
                    while process.poll() is None and not any(
                        path.stat().st_mtime > before for path in out.glob("*/checkpoint.pt")
                    ):
                        time.sleep(0.01)
            time.sleep(chance.uniform(0, 1.2))
            seconds = kill(process, VICTIMS[len(done) % len(VICTIMS)], chance, log)
            if seconds is not None:
                done.append(seconds)
        if process.poll() is None:  # the last victim was a worker; the rest of this job is not of interest
            process.kill()
            wait_until(lambda family=process: not family.members())
        assert "Traceback" not in log.read_text(), log.read_text()
        if process.wait() == 0:
            assert_same_runs(out, undisturbed)
            shutil.rmtree(out)
        print(f"{len(done)} kills", flush=True)
    run_job(data, out, epochs)
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
        run_job(data, undisturbed, epochs)
        seconds = stress(data, folder / "killed", epochs, options.kills, undisturbed, options.seed)
    print(f"{options.kills} kills, the same bits; noticed after {seconds:.2f} s at most")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
