"""Two trials behind figures of the README.

    python trials.py logging [--rounds 3] [--save results/logging.json]

trains exp_02, in turn with all that TensorBoard gets and with `--log-images 0`: the seconds of a processor that the
calls of board.py take, and their share of a whole run's (of exp_02 in results/runs.json). They do not
depend on the number of training images, so there are only 640 of them here. A minute a round.

    python trials.py many [--runs 143] [--save results/scale.json]

trains the seven experiments for one epoch on 64 images and multiplies each into 143 finished runs, which differ in
name, number and seed: 1,001. Then it calls as a user would plot.py and run_experiments.py, which finds all of them
finished and prints its summary, and starts TensorBoard: the seconds of each, three times. A few minutes.
"""

import contextlib
import ctypes
import json
import os
import platform
import re
import shutil
import statistics
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
    run_job,
    seed_of,
)

ROOT = Path(__file__).resolve().parent


def logging_trial(rounds):
    """Train exp_02 with and without the heavy parts, in turn; returns what was measured, a row a run."""
    import board
    import data
    from train import configure, train

    configure()
    spent = [0.0]

    def timed(function):
        def call(*arguments):
            started = time.process_time()
            function(*arguments)
            spent[0] += time.process_time() - started

        return call

    board.start, board.epoch_done = timed(board.start), timed(board.epoch_done)
    digits = data.load()
    digits = digits._replace(train_images=digits.train_images[:640], train_labels=digits.train_labels[:640])
    experiment, rows = EXPERIMENTS[1], []
    for number in range(1, rounds + 1):
        for log_images in (board.LOG_IMAGES, 0):
            with tempfile.TemporaryDirectory() as out:
                spent[0], started = 0.0, time.process_time()
                model = build(experiment, 123)
                train(model, "run", experiment.epochs, data=digits, out=out, log_images=log_images)
                row = {"round": number, "log_images": log_images}
                row |= {"cpu_seconds": time.process_time() - started, "logging_cpu_seconds": spent[0]}
                row["event_file_kb"] = sum(path.stat().st_size for path in Path(out, "run").glob("events*")) / 1000
            rows.append({name: round(value, 3) for name, value in row.items()})
            print(rows[-1], flush=True)
    record = json.loads((ROOT / "results" / "runs.json").read_text(encoding="utf-8"))
    whole = statistics.median(
        run["seconds"] for name, run in record.items() if name == experiment.directory(run["run"])
    )
    costs = {
        n: statistics.median(r["logging_cpu_seconds"] for r in rows if r["log_images"] == n)
        for n in (0, board.LOG_IMAGES)
    }
    shares = {f"percent_of_a_run_log_images_{n}": round(100 * cost / whole, 2) for n, cost in costs.items()}
    return {"seconds_of_a_whole_run": whole, **shares, "rows": rows}


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
    parser.add_argument("trial", choices=("logging", "many"))
    parser.add_argument("--rounds", type=at_least_one(99), default=3, metavar="N", help="of logging (default: 3)")
    parser.add_argument("--runs", type=at_least_one(999), default=143, metavar="N", help="of many (default: 143)")
    parser.add_argument("--save", metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    if options.save and not Path(options.save).resolve().parent.is_dir():
        parser.error(f"--save {options.save}: there is no such folder")
    from train import git_commit, processor_name

    with tempfile.TemporaryDirectory() as folder:
        measured = (
            logging_trial(options.rounds) if options.trial == "logging" else many_runs_trial(options.runs, Path(folder))
        )
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
