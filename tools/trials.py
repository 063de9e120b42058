"""Three trials behind figures of the README.

    python trials.py parts [--save results/parts.json]

trains the seven experiments in full, as many at a time as there are cores, and exp_02 with `--log-images 0`, too: the
seconds of training, evaluation, TensorBoard and the rest (measures, figures, checkpoints, results) of each run. Eleven
minutes on two cores.

    python trials.py memory [--save results/memory.json]

runs the seven experiments for two epochs and looks again and again at the memory that all processes need together.
A minute; on Linux, where nothing else should use torch meanwhile.

    python trials.py many [--runs 143] [--save results/scale.json]

trains the seven experiments for one epoch on 64 images and multiplies each into 143 finished runs, which differ in
name, number and seed: 1,001. Then it calls as a user would plot.py and run_experiments.py, which finds all of them
finished and prints its summary, and starts TensorBoard: the seconds of each, three times. A few minutes.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from unittest import mock

from lab.files import write_json
from run_experiments import (
    EXPERIMENTS,
    Job,
    at_least_one,
    build,
    default_jobs,
    in_starting_order,
    new_parser,
    parse_arguments,
    row_of,
    run_job,
    seed_of,
)

ROOT = Path(__file__).resolve().parent
PARTS = {  # of a run, and the functions in which their time passes
    "training": ("train.training_step", "train.train_epoch"),
    "evaluation": ("train.evaluate",),
    "tensorboard": ("board.start", "board.epoch_done"),
}


def parts_trial():
    """Train the seven, and exp_02 without images, as many at a time as there are cores; returns a row for each run."""
    log_images = parse_arguments([]).log_images
    jobs = in_starting_order([Job(experiment, 1, experiment.epochs) for experiment in EXPERIMENTS[:7]])
    todo = [(job.experiment.id, log_images) for job in jobs] + [("exp_02", 0)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(default_jobs("cpu"), context) as pool:
        return {"rows": list(pool.map(parts_of_a_run, *zip(*todo, strict=True)))}


def parts_of_a_run(identity, log_images):
    """Train a run of an experiment; returns the seconds of its parts, without the start of a process and its data."""
    import train
    from stn import data

    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part, function):
        def call(*arguments):
            started = time.perf_counter()
            result = function(*arguments)
            spent[part] += time.perf_counter() - started
            return result

        return call

    train.configure()
    digits, experiment = data.load(), row_of(identity)
    model = build(experiment, seed_of(1))
    with contextlib.ExitStack() as stack:
        for part, names in PARTS.items():
            for name in names:
                stack.enter_context(mock.patch(name, timed(part, pkgutil.resolve_name(name))))
        out = stack.enter_context(tempfile.TemporaryDirectory())
        started = time.perf_counter()
        train.train(model, "run", experiment.epochs, data=digits, out=out, log_images=log_images)
        seconds = time.perf_counter() - started
        kilobytes = sum(path.stat().st_size for path in Path(out, "run").glob("events*")) / 1000
    numbers = {"seconds": seconds, **spent, "rest": seconds - sum(spent.values()), "event_file_kb": kilobytes}
    row = {"experiment": identity, "log_images": log_images, **{name: round(x, 3) for name, x in numbers.items()}}
    print(row, flush=True)
    return row


def memory_trial(folder):
    """Run the seven experiments for two epochs; returns the most memory that all processes needed together, in MB."""
    command = [sys.executable, str(ROOT / "run_experiments.py"), "--device", "cpu", "--epochs", "2", "--out", folder]
    most, looks = 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most, looks = max(most, megabytes(family(process.pid))), looks + 1
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"trials.py: run_experiments.py ended with exit code {process.returncode}")
    return {"peak_megabytes": round(most), "looks": looks}


def family(pid):
    """A process and all that descend from it (on Linux)."""
    members = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            members += [member for child in children.read_text().split() for member in family(int(child))]
    return members


def megabytes(pids):
    """What processes need of the memory together, pages that they share counted once (their PSS; on Linux).

    Of pages that others share, too, it is only a part.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            sizes = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss: +(\d+) kB", sizes, re.MULTILINE)[1])
    return total / 1024


def many_runs_trial(runs, folder):
    """Make so many tiny runs of each of the seven in `folder` and time what looks at all; returns the seconds."""
    images, out = folder / "few_images", folder / "experiments"
    write_few_images(images)
    how = ["--data", str(images), "--out", str(out), "--device", "cpu", "--epochs", "1", "--runs", str(runs)]
    options = parse_arguments(how)
    result = {"runs": runs * len(EXPERIMENTS)}

    def timed(name, function, *arguments):
        seconds, cpu_seconds = [], []
        for _ in range(3):
            started, used = time.perf_counter(), processor_seconds()
            function(*arguments)
            seconds.append(round(time.perf_counter() - started, 2))
            cpu_seconds.append(round(processor_seconds() - used, 2))
        result[name] = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        print(name, result[name], flush=True)

    for experiment in EXPERIMENTS:
        run_job(Job(experiment, 1, 1), options)
        for run in range(2, runs + 1):
            multiply(out / experiment.directory(1), out / experiment.directory(run), run)
    files = [path for path in out.rglob("*") if path.is_file()]
    result |= {"files": len(files), "megabytes": round(sum(path.stat().st_size for path in files) / 1e6)}
    timed("plot", call, "plot.py", "--out", str(out), "--figures", str(folder))
    timed("second_start", call, "run_experiments.py", *how)
    timed("tensorboard", tensorboard_lists, out, result["runs"])
    return result


def processor_seconds():
    """Of all processes that this one has started and that have ended, and of those that they started."""
    import resource  # late: not on Windows, where only this script cannot be used

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def call(script, *arguments):
    """Run a script of the repository and wait for all its processes."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: on Linux, what it leaves behind becomes ours
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True, stdout=subprocess.DEVNULL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def multiply(folder, other, run):
    """Copy a finished run with all its files as the run of this number."""
    shutil.copytree(folder, other)
    for name in ("settings.json", "results.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        write_json(other / name, content | {"experiment_name": other.name, "run": run, "seed": seed_of(run)})


def write_few_images(folder, n=64):
    """The first images of MNIST as four IDX files."""
    from stn import data

    folder.mkdir(parents=True, exist_ok=True)
    arrays, _ = data.read()
    for name, array in zip(data.MNIST_MD5, arrays, strict=True):
        shape = (n, *array.shape[1:])
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        (folder / name).write_bytes(header + array[:n].tobytes())


def tensorboard_lists(out, runs):
    """Start TensorBoard on the folder `out` and return when it has read something of so many runs."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={out}", "--host=127.0.0.1", "--port=0"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            listed = []
            while len(listed) < runs:
                if server.poll() is not None:
                    raise SystemExit("trials.py: TensorBoard has ended")
                time.sleep(0.5)
                log.seek(0)
                if address := re.search(r"http://127\.0\.0\.1:\d+", log.read()):
                    with urllib.request.urlopen(f"{address[0]}/data/runs", timeout=60) as response:
                        listed = json.load(response)
        finally:
            server.terminate()


def main():
    trials = {
        "parts": lambda options, folder: parts_trial(),
        "memory": lambda options, folder: memory_trial(folder),
        "many": lambda options, folder: many_runs_trial(options.runs, Path(folder)),
    }
    parser = new_parser(__doc__)
    parser.add_argument("trial", choices=trials)
    parser.add_argument("--runs", type=at_least_one(999), default=143, metavar="N", help="of many (default: 143)")
    parser.add_argument("--save", metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    if options.save and not Path(options.save).resolve().parent.is_dir():
        parser.error(f"--save {options.save}: there is no such folder")
    from train import git_commit, processor_name

    result = {"command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}
    result |= {"device_name": processor_name(), "cores": default_jobs("cpu"), "git_commit": git_commit()}
    result |= {"versions": {"python": platform.python_version(), "torch": version("torch")}}
    with tempfile.TemporaryDirectory() as folder:
        result |= trials[options.trial](options, folder)
    if options.save:
        write_json(options.save, result)
    else:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
