"""Measure speed, memory and scale.

    python tools/benchmark.py [speed] [--rounds 3] [--only exp_02 ...] [--device cpu] [--save results/benchmark.json]

How long an epoch takes, beside a loop written as in the PyTorch tutorial. For each experiment, in turn and `--rounds`
times, one whole epoch (training and test) of

  tutorial   a DataLoader with 4 workers and PIL transforms, ordinary layers, eager, with all threads, alone;
  ours       what run_experiments.py does: as many processes at a time as it starts, one thread each on a CPU.

Both train the same network on the same number of batches. The ratio of a row is (tutorial's seconds) / (our seconds
per run, that is the seconds of the processes side by side divided by their number), formed within each round. The
whole job's seconds are the rows' medians times their epochs; ours end with the last run if the runs are started in
the order of run_experiments.py, which cannot divide seven runs evenly. Takes about eleven minutes on two cores.

    python tools/benchmark.py memory [--save results/memory.json]

runs the seven experiments for two epochs and looks again and again at the memory that all processes need together. A
minute; on Linux, where nothing else should use torch meanwhile.

    python tools/benchmark.py scale [--runs 143] [--save results/scale.json]

trains the seven experiments for one epoch on 64 images and multiplies each into 143 finished runs, which differ in
name, number and seed: 1,001. Then it calls as a user would plot.py and run_experiments.py, which finds all of them
finished and prints its summary, and starts TensorBoard: the seconds of each, three times. A few minutes.
"""

import contextlib
import ctypes
import heapq
import json
import math
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab import cli, results
from lab.files import write_json
from lab.folder import provenance
from lab.settings import BATCH_SIZE, SEED, Job, in_starting_order
from run_experiments import ALL, EXPERIMENTS, build, default_jobs, parse_arguments, prepare, train_here

N_TRAIN = 60_000  # MNIST's training images


def tutorial_model(experiment):
    """Return a new network of the experiment that computes everything as in the tutorial, not as ours does."""
    import torch.nn.functional as F

    import coordconv

    model = build(experiment, SEED, plain=True)
    for layer in model.modules():
        if isinstance(layer, coordconv.CoordConv2d):
            layer.forward = lambda x, layer=layer: layer.conv(layer.addcoords(x))

    def transform(x):
        if model.bypass_localisation:
            return x
        grid = F.affine_grid(model.localise(x).view(-1, 2, 3), x.size(), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def classify(x):
        x = F.relu(F.max_pool2d(model.conv1(x), 2))
        x = F.relu(F.max_pool2d(F.dropout2d(model.conv2(x), training=model.training), 2))
        x = F.dropout(F.relu(model.fc1(x.flatten(1))), training=model.training)
        return F.log_softmax(model.fc2(x), dim=1)

    model.transform, model.classify = transform, classify
    return model


def tutorial_epoch(experiment, device):
    """Return the seconds of training and of testing of one epoch of the tutorial's loop, after a warm-up."""
    import torch
    import torch.nn.functional as F
    from torchvision import datasets, transforms

    from stn import data, mnist

    preprocess = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((data.MNIST_MEAN,), (data.MNIST_STD,))]
    )
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # four are the tutorial's number
    # This process was spawned, and its loaders would spawn their workers, too; in the tutorial they are forked.
    loading = {"num_workers": 4, "multiprocessing_context": "fork" if sys.platform == "linux" else None}
    loaders = [
        torch.utils.data.DataLoader(
            datasets.MNIST(mnist.ROOT, train=train, transform=preprocess), batch_size=64, shuffle=True, **loading
        )
        for train in (True, False)
    ]
    model = tutorial_model(experiment).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train(batches):
        model.train()
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.nll_loss(model(images), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    train([next(iter(loaders[0]))] * 10)
    started = time.perf_counter()
    train(loaders[0])
    trained = time.perf_counter()
    model.eval()
    with torch.no_grad():
        for images, labels in loaders[1]:
            scores = model(images.to(device))
            F.nll_loss(scores, labels.to(device), reduction="sum").item()
            scores.argmax(dim=1).eq(labels.to(device)).sum().item()
    return trained - started, time.perf_counter() - trained


def our_epoch(experiment, device, barrier):
    """Return the same for this repository's loop; start together with the other processes at the barrier."""
    import torch

    import train
    from stn import data
    from stn.step import training_step

    train.configure()
    digits = data.load().to(device)
    model = build(experiment, SEED).to(device)
    step = training_step(model, digits)
    order = data.epoch_order(len(digits.train_labels), SEED, 1).to(device)
    train.train_epoch(step, order[:640])
    barrier.wait()
    started = time.perf_counter()
    train.train_epoch(step, order)
    trained = time.perf_counter()
    train.evaluate(model, digits.test_images, digits.test_labels)
    if device != "cpu":
        torch.cuda.synchronize()
    return trained - started, time.perf_counter() - trained


def measured(function, *arguments):
    """Main function of a measuring process: send the seconds and the peak memory in MB through the last argument."""
    *arguments, queue = arguments
    seconds = function(*arguments)
    import resource  # late: not on Windows, where only this script cannot be used

    unit = 1024**2 if sys.platform == "darwin" else 1024  # of ru_maxrss, in a MB
    queue.put((*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit))


def measure(function, arguments, processes):
    """Run `function(*arguments)` in so many processes at once; return their mean seconds and their largest memory."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    extra = () if function is tutorial_epoch else (context.Barrier(processes),)
    workers = [context.Process(target=measured, args=(function, *arguments, *extra, queue)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    results = []
    try:
        while len(results) < processes:
            if any(worker.exitcode for worker in workers):
                raise SystemExit("benchmark.py: a measuring process failed")
            if not queue.empty():
                results.append(queue.get())
            time.sleep(0.05)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()  # one that waits for a failed one
    training, testing, memory = zip(*results, strict=True)
    return statistics.mean(training), statistics.mean(testing), max(memory)


def row(experiment, rounds):
    """Return the table's row of one experiment from its rounds.

    Each is ((train seconds, test seconds, MB) of the tutorial, the same of ours, our processes at a time).
    """
    n_batches = math.ceil(N_TRAIN / BATCH_SIZE)
    seconds = {
        "tutorial": [train + test for (train, test, _), _, _ in rounds],
        "ours": [(train + test) / processes for _, (train, test, _), processes in rounds],
    }
    ratios = [a / b for a, b in zip(seconds["tutorial"], seconds["ours"], strict=True)]
    return {
        "experiment": experiment.id,
        "epochs": experiment.epochs,
        "tutorial_ms_per_step": round(1000 * statistics.median(t[0] for t, _, _ in rounds) / n_batches, 2),
        "ours_ms_per_step": round(1000 * statistics.median(o[0] for _, o, _ in rounds) / n_batches, 2),
        "tutorial_seconds_per_epoch": round(statistics.median(seconds["tutorial"]), 2),
        "ours_seconds_per_epoch": round(statistics.median(seconds["ours"]), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "ours_peak_mb": round(max(o[2] for _, o, _ in rounds)),
    }


def whole_job(rows, processes):
    """Return the minutes of all experiments with both loops, and their ratio, from the rows of the table."""
    tutorial = sum(row["epochs"] * row["tutorial_seconds_per_epoch"] for row in rows)
    seconds = {row["experiment"]: row["epochs"] * row["ours_seconds_per_epoch"] * processes for row in rows}
    free = [0.0] * processes  # when each process has no run any more
    for job in in_starting_order([Job(ALL[row["experiment"]], 1, row["epochs"]) for row in rows]):
        heapq.heapreplace(free, free[0] + seconds[job.experiment.id])
    return {
        "tutorial_minutes_whole_job": round(tutorial / 60, 2),
        "ours_minutes_all_cores_busy": round(sum(seconds.values()) / processes / 60, 2),
        "ours_minutes_whole_job": round(max(free) / 60, 2),
        "ratio_all_cores_busy": round(tutorial / sum(seconds.values()) * processes, 2),
        "ratio_whole_job": round(tutorial / max(free), 2),
    }


def memory(folder):
    """Run the seven experiments for two epochs; return the most memory that all processes needed together, in MB."""
    command = [sys.executable, ROOT / "run_experiments.py", "--device", "cpu", "--epochs", "2", "--out", folder]
    most, looks = 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most, looks = max(most, megabytes(family(process.pid))), looks + 1
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"benchmark.py: run_experiments.py ended with exit code {process.returncode}")
    return {"peak_megabytes": round(most), "looks": looks}


def family(pid):
    """List a process and all that descend from it (on Linux)."""
    members = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            members += [member for child in children.read_text().split() for member in family(int(child))]
    return members


def megabytes(pids):
    """Return what processes need of the memory together, pages that they share counted once (their PSS; on Linux).

    Of pages that others share, too, it is only a part.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            sizes = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss: +(\d+) kB", sizes, re.MULTILINE)[1])
    return total / 1024


def scale(runs, folder):
    """Make so many tiny runs of each of the seven in `folder` and time what looks at all; return the seconds."""
    from stn import mnist

    images, out = folder / "few_images", folder / "experiments"
    images.mkdir()
    mnist.write_idx(images, [array[:64] for array in mnist.read_mnist()])
    arguments = ["--data", str(images), "--out", str(out), "--device", "cpu", "--epochs", "1", "--runs", str(runs)]
    options = parse_arguments(arguments)
    _, (options, jobs, _) = prepare(options, [Job(experiment, 1, 1) for experiment in EXPERIMENTS])
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

    for job in jobs:
        train_here(job, options)
        for run in range(2, runs + 1):
            multiply(out / job.name, out / job.experiment.directory(run), run)
    files = [path for path in out.rglob("*") if path.is_file()]
    result |= {"files": len(files), "megabytes": round(sum(path.stat().st_size for path in files) / 1e6)}
    timed("plot", call, "plot.py", "--out", str(out), "--figures", str(folder))
    timed("second_start", call, "run_experiments.py", *arguments)
    timed("tensorboard", tensorboard_lists, out, result["runs"])
    return result


def processor_seconds():
    """Return those of all processes that this one has started and that have ended, and of those that they started."""
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
    own = {"experiment_name": other.name, "run": run, "seed": SEED - 1 + run}
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    write_json(other / "settings.json", settings | own)
    results.write(other / "results.json", results.read(folder / "results.json") | own)


def tensorboard_lists(out, runs):
    """Start TensorBoard on the folder `out` and return when it has read something of so many runs."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={out}", "--host=127.0.0.1", "--port=0"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            listed = []
            while len(listed) < runs:
                if server.poll() is not None:
                    raise SystemExit("benchmark.py: TensorBoard has ended")
                time.sleep(0.5)
                log.seek(0)
                if address := re.search(r"http://127\.0\.0\.1:\d+", log.read()):
                    with urllib.request.urlopen(f"{address[0]}/data/runs", timeout=60) as response:
                        listed = json.load(response)
        finally:
            server.terminate()


def speed(options, _folder):
    """Time whole epochs of both loops, round by round; return the table's rows and the whole job."""
    print("round  experiment  tutorial s/epoch  ours s/epoch  ratio", flush=True)
    jobs = options.jobs or default_jobs(parse_arguments(["--device", options.device]), 1)
    experiments = [e for e in EXPERIMENTS if not options.only or e.id in options.only]
    rounds = {experiment.id: [] for experiment in experiments}
    for number in range(1, options.rounds + 1):
        for experiment in experiments:
            tutorial = measure(tutorial_epoch, (experiment, options.device), 1)
            ours = measure(our_epoch, (experiment, options.device), jobs)
            rounds[experiment.id].append((tutorial, ours, jobs))
            a, b = sum(tutorial[:2]), sum(ours[:2]) / jobs
            print(f"{number:5d}  {experiment.id:10s}  {a:16.2f}  {b:12.2f}  {a / b:5.2f}", flush=True)
    rows = [row(experiment, rounds[experiment.id]) for experiment in experiments]
    whole = whole_job(rows, jobs)
    minutes = whole["tutorial_minutes_whole_job"], whole["ours_minutes_whole_job"]
    print("whole job: tutorial {:.1f} minutes, ours {:.1f}".format(*minutes))
    how = {"device": options.device, "processes_at_a_time": jobs, "rounds": options.rounds}
    return {**how, "rows": rows, **whole}


def main():
    kinds = {
        "speed": speed,
        "memory": lambda options, folder: memory(folder),
        "scale": lambda options, folder: scale(options.runs, folder),
    }
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("kind", nargs="?", choices=kinds, default="speed")
    add("--rounds", type=int, default=3, metavar="N", help="of speed: epochs of each (default: 3)")
    add("--only", nargs="+", choices=[e.id for e in EXPERIMENTS], metavar="EXP", help="of speed: these experiments")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="of speed (default: cpu)")
    add("--jobs", type=int, metavar="N", help="of speed: our processes at a time")
    add("--runs", type=int, default=143, metavar="N", help="of scale: runs of each experiment (default: 143)")
    add("--save", metavar="FILE", help="write the figures as JSON")
    options = cli.parse(parser)
    cli.check_numbers(parser, options, rounds=99, jobs=1024, runs=999)
    cli.check_parent(parser, options, "save")
    device_name = None
    if options.device == "cuda":
        import torch

        device_name = torch.cuda.get_device_name()
    content = {
        "command": " ".join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        **provenance(device_name=device_name),
    }
    with tempfile.TemporaryDirectory() as folder:
        content |= kinds[options.kind](options, Path(folder))
    if options.save:
        write_json(options.save, content)
    else:
        print(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
