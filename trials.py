"""Two trials behind figures of the README.

    python trials.py parts [--rounds 2] [--save results/parts.json]

trains exp_02, exp_07 and exp_03 as run_experiments.py does, with all that TensorBoard gets and with `--log-images 0`:
the seconds of training, evaluation, TensorBoard and the rest (measures, figures, checkpoints and results), and the
memory that all processes need together. Seven minutes a round on two cores.

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
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

from files import write_json
from run_experiments import (
    EXPERIMENTS,
    Job,
    at_least_one,
    build,
    default_jobs,
    new_parser,
    parse_arguments,
    row_of,
    run_job,
    seed_of,
)

ROOT = Path(__file__).resolve().parent
MEASURED = ("exp_02", "exp_07", "exp_03")  # a network as in the tutorial, the slowest, and the fastest
PARTS = {  # of a run, and the functions of train.py or board.py in which their time passes
    "training": ("training_step", "train_epoch"),
    "evaluation": ("evaluate",),
    "tensorboard": ("start", "epoch_done"),
}


def parts_trial(rounds):
    """Train the runs in MEASURED in full, as many at a time as there are cores, each in a process of its own.

    Returns a row for each run, and the most memory that all these processes and this one needed together.
    """
    log_images = parse_arguments([]).log_images
    todo = [(identity, images) for identity in MEASURED for images in (log_images, 0)] * rounds
    most = 0
    with multiprocessing.get_context("spawn").Pool(default_jobs("cpu"), maxtasksperchild=1) as pool:
        rows = pool.starmap_async(parts_of_a_run, todo, chunksize=1)
        while not rows.ready():
            rows.wait(0.5)
            most = max(most, megabytes([os.getpid(), *(child.pid for child in multiprocessing.active_children())]))
    return {"peak_megabytes": round(most), "rows": rows.get()}


def parts_of_a_run(identity, log_images):
    """Train a run of an experiment; returns the seconds of its parts."""
    import board
    import data
    import train

    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part, function):
        def call(*arguments):
            started = time.perf_counter()
            result = function(*arguments)
            spent[part] += time.perf_counter() - started
            return result

        return call

    train.configure()
    digits = data.load()
    for part, names in PARTS.items():
        for name in names:
            module = board if part == "tensorboard" else train
            setattr(module, name, timed(part, getattr(module, name)))
    experiment = row_of(identity)
    with tempfile.TemporaryDirectory() as out:
        model = build(experiment, seed_of(1))
        started = time.perf_counter()
        train.train(model, "run", experiment.epochs, data=digits, out=out, log_images=log_images)
        seconds = time.perf_counter() - started
        kilobytes = sum(path.stat().st_size for path in Path(out, "run").glob("events*")) / 1000
    numbers = {"seconds": seconds, **spent, "rest": seconds - sum(spent.values()), "event_file_kb": kilobytes}
    row = {"experiment": identity, "log_images": log_images, **{name: round(x, 3) for name, x in numbers.items()}}
    print(row, flush=True)
    return row


def megabytes(pids):
    """What processes need of the memory together, pages that they share counted once (their PSS; on Linux)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            total += int(re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])
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
    import data

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
    parser = new_parser(__doc__)
    parser.add_argument("trial", choices=("parts", "many"))
    parser.add_argument("--rounds", type=at_least_one(99), default=2, metavar="N", help="of parts (default: 2)")
    parser.add_argument("--runs", type=at_least_one(999), default=143, metavar="N", help="of many (default: 143)")
    parser.add_argument("--save", metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    if options.save and not Path(options.save).resolve().parent.is_dir():
        parser.error(f"--save {options.save}: there is no such folder")
    with tempfile.TemporaryDirectory() as folder:
        measured = (
            parts_trial(options.rounds) if options.trial == "parts" else many_runs_trial(options.runs, Path(folder))
        )
    from train import git_commit, processor_name  # late: torch would need memory that is measured

    result = {"command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}
    result |= {"device_name": processor_name(), "cores": default_jobs("cpu"), "git_commit": git_commit()}
    result |= {"versions": {"python": platform.python_version(), "torch": version("torch")}, **measured}
    if options.save:
        write_json(options.save, result)
    else:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
