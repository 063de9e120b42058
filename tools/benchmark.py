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
import statistics
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from heapq import heapreplace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab import cli
from lab.catalogue import datasets
from lab.files import write_json
from lab.folder import provenance
from lab.settings import BATCH_SIZE, SEED, Job, longest_first
from run_experiments import ALL, EXPERIMENTS, default_jobs, parse_arguments

N_TRAIN = 60_000  # MNIST's training images
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
    order = data.epoch_order(len(digits.train_labels), SEED, 1).to(device)
    train.train_epoch(step, order[:640])
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
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        barrier = manager.Barrier(processes)
        epochs = [pool.submit(one_epoch, loop, experiment, device, barrier) for _ in range(processes)]
        try:
            training, testing, memory = zip(*(epoch.result() for epoch in as_completed(epochs)), strict=True)
        except BaseException:
            barrier.abort()  # the others would wait for one that failed
            raise
    return statistics.mean(training), statistics.mean(testing), max(memory)


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


def one_core(rounds, experiments):
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
    for experiment in map(ALL.get, experiments):
        images = datasets()[experiment.data].built(digits)
        for plain in (True, False):
            with conv2d.accelerated(train.build(experiment, SEED), not plain) as model:
                step = FastTraining(model, images, experiment.recipe).step
            calls[experiment.id, plain] = lambda step=step: step(batch)
    seconds = in_turn(calls, 10 * rounds, 10)
    return core_table(seconds, {name: operations for name, (_, operations) in convolutions.items()}) | {
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "images_in_a_register": conv2d_kernels.V,
    }


def in_turn(calls, times, repeats):
    """Return {name: [seconds of a call, ...]} of functions that are called in turn, so many times `repeats` calls."""
    seconds = {name: [] for name in calls}
    for _ in range(times):
        for name, call in calls.items():
            call()
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            seconds[name].append((time.perf_counter() - started) / repeats)
    return seconds


def core_table(seconds, operations):
    """Return the rates of the convolutions and the speed of the steps, medians of calls in turn.

    seconds: {"product": [...], a convolution: [...], (experiment, whether in the plain form): [...]}
    operations: of each convolution, and of two 1024² matrices, whose rate is called the core's peak.
    """
    peaks = [2 * 1024**3 / second for second in seconds["product"]]
    of_all = [sum(parts) for parts in zip(*(seconds[name] for name in operations), strict=True)]
    rows = [(name, seconds[name], operations[name]) for name in operations]
    rates = []
    for name, spent, n in [*rows, ("all four", of_all, sum(operations.values()))]:
        shares = [n / second / peak for second, peak in zip(spent, peaks, strict=True)]
        gflops = round(n / statistics.median(spent) / 1e9, 1)
        rates.append({"convolution": name, "gflops": gflops, "share_of_peak": round(statistics.median(shares), 3)})
    floor = round(1000 * sum(operations.values()) / statistics.median(peaks), 2)
    peak = round(statistics.median(peaks) / 1e9, 1)
    return {"peak_gflops": peak, "floor_ms_exp_02": floor, "convolutions": rates, "steps": step_rows(seconds)}


def step_rows(seconds):
    """Return the speed of steps, by experiment, medians of calls in turn; `seconds` as in `core_table`."""
    rows = []
    for experiment in dict.fromkeys(key[0] for key in seconds if isinstance(key, tuple)):
        plain, fast = seconds[experiment, True], seconds[experiment, False]
        numbers = {"plain_ms": 1000 * statistics.median(plain), "fast_ms": 1000 * statistics.median(fast)}
        numbers |= ratios(plain, fast)
        rows.append({"experiment": experiment, **{key: round(number, 2) for key, number in numbers.items()}})
    return rows


def ratios(theirs, ours):
    """Return the median, the smallest and the largest ratio of seconds that were measured in turn."""
    quotients = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"ratio": statistics.median(quotients), "ratio_min": min(quotients), "ratio_max": max(quotients)}


def row(experiment, rounds):
    """Return the table's row of one experiment from its rounds.

    Each is ((train seconds, test seconds, MB) of the tutorial, the same of ours, our processes at a time).
    """
    n_batches = math.ceil(N_TRAIN / BATCH_SIZE)
    tutorial = [train + test for (train, test, _), _, _ in rounds]
    ours = [(train + test) / processes for _, (train, test, _), processes in rounds]
    numbers = {
        "tutorial_ms_per_step": 1000 * statistics.median(t[0] for t, _, _ in rounds) / n_batches,
        "ours_ms_per_step": 1000 * statistics.median(o[0] for _, o, _ in rounds) / n_batches,
        "tutorial_seconds_per_epoch": statistics.median(tutorial),
        "ours_seconds_per_epoch": statistics.median(ours),
        **ratios(tutorial, ours),
        "ours_peak_mb": round(max(o[2] for _, o, _ in rounds)),
    }
    rounded = {name: round(number, 2) for name, number in numbers.items()}
    return {"experiment": experiment.id, "epochs": experiment.epochs, **rounded}


def whole_job(rows, processes):
    """Return the minutes of all experiments with both loops, and their ratio, from the rows of the table."""
    tutorial = sum(row["epochs"] * row["tutorial_seconds_per_epoch"] for row in rows)
    seconds = {row["experiment"]: row["epochs"] * row["ours_seconds_per_epoch"] * processes for row in rows}
    free = [0] * processes  # when each is, if the next idle one takes the next run
    for job in longest_first([Job(ALL[row["experiment"]], 1, row["epochs"]) for row in rows]):
        heapreplace(free, free[0] + seconds[job.experiment.id])
    return {
        "tutorial_minutes_whole_job": round(tutorial / 60, 2),
        "ours_minutes_all_cores_busy": round(sum(seconds.values()) / processes / 60, 2),
        "ours_minutes_whole_job": round(max(free) / 60, 2),
        "ratio_all_cores_busy": round(tutorial / sum(seconds.values()) * processes, 2),
        "ratio_whole_job": round(tutorial / max(free), 2),
    }


def core(options):
    """Time one core in a new process; return its numbers."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        numbers = pool.submit(one_core, options.rounds, options.core or STEPS_OF).result()
    for step in numbers["steps"]:
        print("{experiment}: a step takes {plain_ms:.1f} ms plain, {fast_ms:.1f} ms fast".format_map(step), flush=True)
    print("the convolutions reach {share_of_peak:.0%} of the peak".format_map(numbers["convolutions"][-1]))
    return {"core": numbers}


def speed(options):
    """Time whole epochs of both loops, round by round; return the table's rows and the whole job."""
    print("round  experiment  tutorial s/epoch  ours s/epoch  ratio", flush=True)
    jobs = options.jobs or default_jobs(parse_arguments(["--device", options.device]), 1)
    experiments = [e for e in EXPERIMENTS if not options.only or e.id in options.only]
    rounds = {experiment.id: [] for experiment in experiments}
    for number in range(1, options.rounds + 1):
        for experiment in experiments:
            tutorial = measure(tutorial_loop, experiment, options.device, 1)
            ours = measure(our_loop, experiment, options.device, jobs)
            rounds[experiment.id].append((tutorial, ours, jobs))
            a, b = sum(tutorial[:2]), sum(ours[:2]) / jobs
            print(f"{number:5d}  {experiment.id:10s}  {a:16.2f}  {b:12.2f}  {a / b:5.2f}", flush=True)
    rows = [row(experiment, rounds[experiment.id]) for experiment in experiments]
    whole = whole_job(rows, jobs)
    minutes = "whole job: tutorial {tutorial_minutes_whole_job:.1f} minutes, ours {ours_minutes_whole_job:.1f}"
    print(minutes.format_map(whole))
    how = {"device": options.device, "processes_at_a_time": jobs, "rounds": options.rounds}
    return {**how, "rows": rows, **whole}


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
    content = {"command": " ".join(["python", "tools/benchmark.py", *sys.argv[1:]])}
    content |= provenance(device_name=device_name)
    if options.device == "cpu":
        content |= core(options)
    if options.core is None:
        content |= speed(options)
    if options.save:
        write_json(options.save, content)
    else:
        print(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
