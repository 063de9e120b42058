"""Measure how long an epoch takes, beside a loop written as in the PyTorch tutorial.

    python tools/benchmark.py [--rounds 3] [--only exp_02 ...] [--device cpu] [--jobs N] [--save FILE]
    python tools/benchmark.py --core [exp_33 ...] [--rounds 3] [--save FILE]

For each experiment, in turn and `--rounds` times, one whole epoch (training and test) of

  tutorial   a DataLoader with 4 workers and PIL transforms, ordinary layers, eager, with all threads, alone;
  ours       what run_experiments.py does: as many processes at a time as it starts, one thread each on a CPU.

Both train the same network on the same number of batches. The ratio of a row is (tutorial's seconds) / (our seconds
per run, that is the seconds of the processes side by side divided by their number), formed within each round. The
whole job's seconds are the rows' medians times their epochs; ours end with the last run if the longest start first:
seven runs cannot be divided evenly.

Before that, on one core: a step with our convolutions and with the ordinary layers, both recorded, in turn; and the
rate of each convolution, forward and backward, beside that of a product of two 1024² matrices, which is called the
core's peak. A CPU takes about ten minutes in all. With --core that is all, for any experiments.
"""

import json
import math
import multiprocessing
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from heapq import heapreplace
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab import cli
from lab.catalogue import datasets
from lab.files import write_json
from lab.folder import provenance
from lab.settings import BATCH_SIZE, SEED, Job, longest_first
from run_experiments import ALL, EXPERIMENTS, default_jobs, parse_arguments

N_BATCHES = math.ceil(60_000 / BATCH_SIZE)  # of MNIST's training images
STEPS_OF = ("exp_02", "exp_03", "exp_07")  # unless others are asked for


def tutorial_model(experiment):
    """Return a new network of the experiment that computes everything as in the tutorial, not as ours does."""
    import torch.nn.functional as F

    import coordconv
    import train

    model = train.build(experiment, SEED)
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


def tutorial_loop(experiment, device):
    """Return two functions, one that trains an epoch in the tutorial's way and one that tests, warmed up."""
    import torch
    import torch.nn.functional as F
    from torchvision.datasets import MNIST
    from torchvision.transforms import Compose, Normalize, ToTensor

    from stn import data, mnist

    preprocess = Compose([ToTensor(), Normalize((data.MNIST_MEAN,), (data.MNIST_STD,))])
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # four are the tutorial's number
    # This process was spawned, and its loaders would spawn their workers, too; in the tutorial they are forked.
    loading = {"num_workers": 4, "multiprocessing_context": "fork" if sys.platform == "linux" else None}
    loaders = [
        torch.utils.data.DataLoader(
            MNIST(mnist.ROOT, train, preprocess, download=True), batch_size=64, shuffle=True, **loading
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

    @torch.no_grad()
    def test():
        model.eval()
        for images, labels in loaders[1]:
            scores = model(images.to(device))
            F.nll_loss(scores, labels.to(device), reduction="sum").item()
            scores.argmax(dim=1).eq(labels.to(device)).sum().item()

    train([next(iter(loaders[0]))] * 10)
    return lambda: train(loaders[0]), test


def our_loop(experiment, device):
    """Return the same of this repository."""
    import train
    from fast.step import FastTraining
    from stn import data

    train.configure()
    digits = data.load().to(device)
    model = train.build(experiment, SEED).to(device)
    step = FastTraining(model, digits, experiment.recipe).step
    order = data.epoch_order(len(digits.train_labels), SEED, 1).to(device).split(experiment.recipe.batch_size)
    train.train_epoch(step, order[:10])
    return lambda: train.train_epoch(step, order), lambda: train.evaluate(model, digits.test_images, digits.test_labels)


def one_epoch(loop, experiment, device, barrier):
    """Return (seconds of training, of testing, peak memory in MB) of this process, which starts with the others."""
    import resource  # late: not on Windows, where only this script cannot be used

    import torch

    train, test = loop(experiment, device)
    barrier.wait()
    started = time.perf_counter()
    train()
    trained = time.perf_counter()
    test()
    if device != "cpu":
        torch.cuda.synchronize()
    tested = time.perf_counter()
    unit = 1024**2 if sys.platform == "darwin" else 1024  # of ru_maxrss, in a MB
    return trained - started, tested - trained, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(loop, experiment, device, processes):
    """Run an epoch in so many new processes at once; return their mean seconds and their largest memory."""
    context = multiprocessing.get_context("spawn")
    # If a process fails, the manager ends first, and with it the waiting of the others at the barrier.
    with ProcessPoolExecutor(processes, context) as pool, context.Manager() as manager:
        barrier = manager.Barrier(processes)
        epochs = [pool.submit(one_epoch, loop, experiment, device, barrier) for _ in range(processes)]
        training, testing, memory = zip(*(epoch.result() for epoch in as_completed(epochs)), strict=True)
    return mean(training), mean(testing), max(memory)


def convolution_calls(model):
    """Return {"1 → 10, k 5": (a function that computes it forward and backward once, its operations)} of a network."""
    import torch

    from fast import conv2d

    calls = {}
    for first, second, is_warped in ((model.loc_conv1, model.loc_conv2, False), (model.conv1, model.conv2, True)):
        size = 28
        for layer, to_images in ((first, is_warped), (second, True)):  # whether its input needs a gradient
            n_out, channels, k, _ = layer.weight.shape
            half = (size - k + 1) // 2
            images = conv2d.in_groups(torch.randn(BATCH_SIZE, channels, size, size))
            weight, plane = layer.weight.detach(), torch.zeros(n_out, 3)

            def call(images=images, weight=weight, plane=plane, to_images=to_images):
                pooled, places = torch.ops.stn.conv_pool(images, weight, plane)
                torch.ops.stn.conv_pool_grad(pooled, images, weight, places, to_images)

            operations = 2 * n_out * channels * k**2 * (2 * half) ** 2 * BATCH_SIZE * (2 + to_images)
            calls[f"{channels} → {n_out}, k {k}"] = call, operations
            size = half
    return calls


def one_core(rounds, exp_ids):
    """Return what one core does: the rates of the convolutions of exp_02, and the milliseconds of recorded steps."""
    import torch

    import train
    from fast import conv2d, conv2d_kernels
    from fast.step import FastTraining
    from stn import data

    train.configure()
    digits, batch, factor = data.load(), torch.arange(BATCH_SIZE), torch.randn(1024, 1024)
    convolutions = convolution_calls(train.build(ALL["exp_02"], SEED))
    calls = {"product": lambda: factor @ factor} | {name: call for name, (call, _) in convolutions.items()}
    for experiment in map(ALL.get, exp_ids):
        images = datasets()[experiment.data].built(digits)
        for form in ("plain", "fast"):
            with conv2d.accelerated(train.build(experiment, SEED), form == "fast") as model:
                step = FastTraining(model, images, experiment.recipe).step
            calls[experiment.id, form] = lambda step=step: step(batch)
    operations = {name: n for name, (_, n) in convolutions.items()}
    return core_table(in_turn(calls, 10 * rounds, 10), operations, exp_ids) | {
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "images_in_a_register": conv2d_kernels.V,
    }


def in_turn(calls, times, repeats):
    """Return {name: [seconds of a call, ...]} of functions that are called in turn, so many times `repeats` calls."""
    from torch.utils.benchmark import Timer

    timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
    rounds = [{name: timer.timeit(repeats).mean for name, timer in timers.items()} for _ in range(times)]
    return {name: [seconds[name] for seconds in rounds] for name in calls}


def core_table(seconds, operations, exp_ids):
    """Return the rates of the convolutions and the speed of the steps, medians of calls in turn.

    seconds: {"product": [...], a convolution: [...], (an experiment's id, "plain" or "fast"): [...]}
    operations: of each convolution; those of two 1024² matrices are known. Their rate is called the core's peak.
    """
    peaks = [2 * 1024**3 / second for second in seconds["product"]]
    spent = {name: seconds[name] for name in operations}
    spent["all four"] = [sum(parts) for parts in zip(*spent.values(), strict=True)]
    operations = operations | {"all four": sum(operations.values())}
    rates, steps = [], []
    for name, n in operations.items():
        share = median(n / second / peak for second, peak in zip(spent[name], peaks, strict=True))
        gflops = round(n / median(spent[name]) / 1e9, 1)
        rates.append({"convolution": name, "gflops": gflops, "share_of_peak": round(share, 3)})
    for exp_id in exp_ids:
        plain, fast = seconds[exp_id, "plain"], seconds[exp_id, "fast"]
        numbers = {"plain_ms": 1000 * median(plain), "fast_ms": 1000 * median(fast), **ratios(plain, fast)}
        steps.append({"experiment": exp_id, **rounded(numbers)})
    return {
        "peak_gflops": round(median(peaks) / 1e9, 1),
        "floor_ms_exp_02": round(1000 * operations["all four"] / median(peaks), 2),
        "convolutions": rates,
        "steps": steps,
    }


def ratios(theirs, ours):
    """Return the median, the smallest and the largest ratio of seconds that were measured in turn."""
    quotients = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"ratio": median(quotients), "ratio_min": min(quotients), "ratio_max": max(quotients)}


def rounded(numbers):
    return {name: round(number, 2) for name, number in numbers.items()}


def row(experiment, rounds, processes):
    """Return the table's row of one experiment from its rounds.

    Each is ((train seconds, test seconds, MB) of the tutorial, the same of our processes at a time).
    """
    tutorial = [train + test for (train, test, _), _ in rounds]
    ours = [(train + test) / processes for _, (train, test, _) in rounds]
    numbers = {
        "tutorial_ms_per_step": 1000 * median(theirs[0] for theirs, _ in rounds) / N_BATCHES,
        "ours_ms_per_step": 1000 * median(our[0] for _, our in rounds) / N_BATCHES,
        "tutorial_seconds_per_epoch": median(tutorial),
        "ours_seconds_per_epoch": median(ours),
        **ratios(tutorial, ours),
        "ours_peak_mb": round(max(our[2] for _, our in rounds)),
    }
    return {"experiment": experiment.id, "epochs": experiment.epochs, **rounded(numbers)}


def whole_job(rows, processes):
    """Return the minutes of all experiments with both loops, and their ratio, from the rows of the table."""
    tutorial = sum(row["epochs"] * row["tutorial_seconds_per_epoch"] for row in rows)
    seconds = {row["experiment"]: row["epochs"] * row["ours_seconds_per_epoch"] * processes for row in rows}
    free = [0] * processes  # when each is, if the next idle one takes the next run
    for job in longest_first([Job(ALL[row["experiment"]], 1, row["epochs"]) for row in rows]):
        heapreplace(free, free[0] + seconds[job.experiment.id])
    busy, last = sum(seconds.values()) / processes, max(free)
    minutes = {"tutorial_minutes_whole_job": tutorial, "ours_minutes_all_cores_busy": busy}
    minutes["ours_minutes_whole_job"] = last
    minutes = {name: seconds / 60 for name, seconds in minutes.items()}
    return rounded(minutes | {"ratio_all_cores_busy": tutorial / busy, "ratio_whole_job": tutorial / last})


def speed(options):
    """Time whole epochs of both loops, round by round; return the table's rows and the whole job."""
    jobs = options.jobs or default_jobs(parse_arguments(["--device", options.device]), 1)
    experiments = [e for e in EXPERIMENTS if not options.only or e.id in options.only]
    rounds = {experiment.id: [] for experiment in experiments}
    for number in range(1, options.rounds + 1):
        for experiment in experiments:
            tutorial = measure(tutorial_loop, experiment, options.device, 1)
            ours = measure(our_loop, experiment, options.device, jobs)
            rounds[experiment.id].append((tutorial, ours))
            seconds = f"tutorial {sum(tutorial[:2]):.2f} s an epoch, ours {sum(ours[:2]) / jobs:.2f} s"
            print(f"round {number}, {experiment.id}: {seconds}", flush=True)
    rows = [row(experiment, rounds[experiment.id], jobs) for experiment in experiments]
    how = {"device": options.device, "processes_at_a_time": jobs, "rounds": options.rounds}
    return {**how, "rows": rows, **whole_job(rows, jobs)}


def main():
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--rounds", type=cli.whole_number(1, 99), default=3, metavar="N", help="epochs of each (default: 3)")
    add("--only", nargs="+", choices=[e.id for e in EXPERIMENTS], metavar="EXP", help="these experiments")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add("--jobs", type=cli.whole_number(1, 1024), metavar="N", help="our processes at a time")
    steps = f"only what one core does, with the steps of these experiments (default: {' '.join(STEPS_OF)})"
    add("--core", nargs="*", choices=ALL, metavar="EXP", help=steps)
    add("--save", metavar="FILE", help="write the numbers as JSON")
    options = cli.parse(parser)
    if options.save and not Path(options.save).resolve().parent.is_dir():
        parser.error(f"--save {options.save}: there is no such folder")
    if options.core is not None and (options.device != "cpu" or options.only or options.jobs):
        parser.error("--core: not with --device cuda, --only or --jobs")
    device_name = None
    if options.device == "cuda":
        import torch

        device_name = torch.cuda.get_device_name()
    numbers = {"command": " ".join(["python", "tools/benchmark.py", *sys.argv[1:]]), **provenance(device_name)}
    if options.device == "cpu":
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            numbers["core"] = pool.submit(one_core, options.rounds, options.core or STEPS_OF).result()
    if options.core is None:
        numbers |= speed(options)
    print(json.dumps(numbers, indent=1))
    if options.save:
        write_json(options.save, numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
