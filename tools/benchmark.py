"""How long an epoch takes, beside a loop written as in the PyTorch tutorial.

    python benchmark.py [--rounds 3] [--only exp_02 ...] [--device cpu|cuda] [--save results/benchmark.json]

For each experiment, in turn and `--rounds` times, one whole epoch (training and test) of

  tutorial   a DataLoader with 4 workers and PIL transforms, ordinary layers, eager, with all threads, alone;
  ours       what run_experiments.py does: as many processes at a time as it starts, one thread each on a CPU.

Both train the same network on the same number of batches. The ratio of a row is (tutorial's seconds) / (our seconds
per run, that is the seconds of the processes side by side divided by their number), formed within each round. The
whole job's seconds are the rows' medians times their epochs; ours end with the last run if the runs are started in
the order of run_experiments.py, which cannot divide seven runs evenly. Takes about eleven minutes on two cores.
"""

import heapq
import multiprocessing
import platform
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

from lab.files import write_json
from run_experiments import (
    EXPERIMENTS,
    Job,
    at_least_one,
    build,
    default_jobs,
    device_name,
    id_among,
    in_starting_order,
    new_parser,
    row_of,
)


def tutorial_model(experiment):
    """A new network of the experiment that computes everything as in the tutorial, where ours does it otherwise."""
    import torch.nn.functional as F

    import coordconv

    model = build(experiment, 123, plain=True)
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
    """(seconds of training, seconds of testing) of one epoch of the tutorial's loop, with a warm-up before."""
    import torch
    import torch.nn.functional as F
    from torchvision import datasets, transforms

    from stn import data

    preprocess = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((data.MNIST_MEAN,), (data.MNIST_STD,))]
    )
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # four are the tutorial's number
    # This process was spawned, and its loaders would spawn their workers, too; in the tutorial they are forked.
    loading = {"num_workers": 4, "multiprocessing_context": "fork" if sys.platform == "linux" else None}
    loaders = [
        torch.utils.data.DataLoader(
            datasets.MNIST(data.ROOT, train=train, transform=preprocess), batch_size=64, shuffle=True, **loading
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
    """The same for this repository's loop; starts together with the other processes at the barrier."""
    import torch

    import train
    from stn import data

    train.configure()
    digits = data.load().to(device)
    model = build(experiment, 123).to(device)
    step = train.training_step(model, digits)
    order = data.epoch_order(len(digits.train_labels), 123, 1).to(device)
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
    """Run `function(*arguments)` in so many processes at once; returns their mean seconds and their largest memory."""
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


def row(experiment, rounds, n_batches):
    """The table's row of one experiment from its rounds: [((train, test, MB) of the tutorial, the same of ours)]."""
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
    """Minutes of all experiments with both loops, and their ratio, from the rows of the table."""
    tutorial = sum(row["epochs"] * row["tutorial_seconds_per_epoch"] for row in rows)
    seconds = {row["experiment"]: row["epochs"] * row["ours_seconds_per_epoch"] * processes for row in rows}
    free = [0.0] * processes  # when each process has no run any more
    for job in in_starting_order([Job(row_of(row["experiment"]), 1, row["epochs"]) for row in rows]):
        heapq.heapreplace(free, free[0] + seconds[job.experiment.id])
    return {
        "tutorial_minutes_whole_job": round(tutorial / 60, 2),
        "ours_minutes_all_cores_busy": round(sum(seconds.values()) / processes / 60, 2),
        "ours_minutes_whole_job": round(max(free) / 60, 2),
        "ratio_all_cores_busy": round(tutorial / sum(seconds.values()) * processes, 2),
        "ratio_whole_job": round(tutorial / max(free), 2),
    }


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=at_least_one(99), default=3, metavar="N", help="epochs of each (default: 3)")
    parser.add_argument("--only", nargs="+", type=id_among(EXPERIMENTS), metavar="EXP", help="these experiments")
    parser.add_argument("--device", type=device_name, default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--jobs",
        type=at_least_one(1024),
        metavar="N",
        help="our processes at a time",
    )
    parser.add_argument("--save", metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    if options.save and not Path(options.save).resolve().parent.is_dir():
        parser.error(f"--save {options.save}: there is no such folder")
    print("round  experiment  tutorial s/epoch  ours s/epoch  ratio", flush=True)
    import torch

    from train import git_commit, processor_name

    commit = git_commit()
    jobs = options.jobs or default_jobs(options.device)
    experiments = [e for e in EXPERIMENTS if not options.only or e in options.only]
    rounds = {experiment.id: [] for experiment in experiments}
    for number in range(1, options.rounds + 1):
        for experiment in experiments:
            tutorial = measure(tutorial_epoch, (experiment, options.device), 1)
            ours = measure(our_epoch, (experiment, options.device), jobs)
            rounds[experiment.id].append((tutorial, ours, jobs))
            a, b = sum(tutorial[:2]), sum(ours[:2]) / jobs
            print(f"{number:5d}  {experiment.id:10s}  {a:16.2f}  {b:12.2f}  {a / b:5.2f}", flush=True)
    rows = [row(experiment, rounds[experiment.id], 938) for experiment in experiments]
    result = {
        "git_commit": commit,
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": options.device,
        "device_name": processor_name() if options.device == "cpu" else torch.cuda.get_device_name(),
        "cores": default_jobs("cpu"),
        "processes_at_a_time": jobs,
        "rounds": options.rounds,
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "rows": rows,
        **whole_job(rows, jobs),
    }
    print("\nexperiment  ms/step: tutorial  ours   s/epoch: tutorial  ours   ratio (min-max)   our peak memory")
    for r in rows:
        print(
            f"{r['experiment']:10s}  {r['tutorial_ms_per_step']:17.2f} {r['ours_ms_per_step']:5.2f}"
            f"  {r['tutorial_seconds_per_epoch']:17.2f} {r['ours_seconds_per_epoch']:5.2f}"
            f"  {r['ratio']:5.2f} ({r['ratio_min']:.2f}-{r['ratio_max']:.2f})  {r['ours_peak_mb']:6d} MB a process"
        )
    print(
        f"whole job: tutorial {result['tutorial_minutes_whole_job']:.1f} minutes, ours "
        f"{result['ours_minutes_whole_job']:.1f}: {result['ratio_whole_job']} times as fast "
        f"({result['device_name']}, {jobs} processes at a time, torch {result['versions']['torch']})"
    )
    if options.save:
        write_json(options.save, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
