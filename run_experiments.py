"""Run the experiments of the study, as many at a time as there are cores.

    python run_experiments.py                         the seven experiments, into experiments/
    python run_experiments.py --list                  what they are
    python run_experiments.py --only exp_03 exp_06    some of them
    python run_experiments.py --set homography        another set: homography, perspective or stability
    python run_experiments.py --runs 5                five runs of each, with different seeds
    python run_experiments.py --epochs 2              a short look
    python run_experiments.py --runs 30 --executor slurm --slurm partition=cpu    as jobs of a Slurm cluster

A finished run is skipped and an unfinished one continued, so the same command also goes on after an interruption.
Exit code: 0 all done, 1 a run failed, 2 wrong usage, or a folder that holds another run or cannot be written,
130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import multiprocessing
import multiprocessing.forkserver
import os
import re
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from lab.files import check_room, unwritable, write_json

# torch is imported late, by the functions that need it: --help and --list answer at once.


@dataclass(frozen=True)
class Experiment:
    """One row of the study; run `r` of it lives in <out>/<id>_run_<r>_<title>."""

    id: str
    title: str
    model: str  # the name of a class in models.py
    epochs: int
    question: str
    arguments: dict = field(default_factory=dict)  # of that class
    recipe: dict = field(default_factory=dict)  # what differs from the tutorial's recipe; see train.Recipe
    perspective: bool = False  # on MNIST in perspective (see data.perspective) instead of as it is

    def directory(self, run):
        return f"{self.id}_run_{run:02d}_{self.title}"


# The spellings "coordconf" and "localistation" are the original's; they are names that people may have stored.
EXPERIMENTS = (
    Experiment(
        "exp_01",
        "reproduce_baseline",
        "Net",
        20,
        "Does the network of the PyTorch tutorial reach the accuracy that the tutorial claims?",
    ),
    Experiment(
        "exp_02",
        "reproduce_baseline",
        "Net_CoordConv",
        30,
        "The same network without any CoordConv layer: do ten more epochs help?",
    ),
    Experiment(
        "exp_03",
        "bypass_localisation",
        "Net_CoordConv",
        30,
        "What does the classifier reach alone, without the spatial transformer?",
        {"bypass_localisation": True},
    ),
    Experiment(
        "exp_04",
        "coordconf_classifier_bypass_localisation",
        "Net_CoordConv",
        30,
        "Without the transformer, do CoordConv layers in the classifier make up for it?",
        {"use_coordconf_classifier": True, "bypass_localisation": True},
    ),
    Experiment(
        "exp_05",
        "coordconf_classifier",
        "Net_CoordConv",
        30,
        "With the transformer, do CoordConv layers help in the classifier?",
        {"use_coordconf_classifier": True},
    ),
    Experiment(
        "exp_06",
        "coordconf_localistation",
        "Net_CoordConv",
        30,
        "Do CoordConv layers help in the localisation network?",
        {"use_coordconf_localisation": True},
    ),
    Experiment(
        "exp_07",
        "coordconf_localistation_coordconf_classifier",
        "Net_CoordConv",
        30,
        "Do CoordConv layers help in both parts together?",
        {"use_coordconf_localisation": True, "use_coordconf_classifier": True},
    ),
)

# The four that the original wrote down and never ran. The localisation network learns slowly: else the accuracy jumps
# from epoch to epoch. What lies outside of an image is background, not grey.
STEADY = {"padding": "background"}
GENTLE = {"localisation_rate": 0.001}
HOMOGRAPHY = (
    Experiment(
        "exp_08",
        "homography",
        "Net_CoordConv_Homography",
        30,
        "Is a homography as good a transform as an affine one?",
        STEADY,
        GENTLE,
    ),
    Experiment(
        "exp_09",
        "homography_coordconf_classifier",
        "Net_CoordConv_Homography",
        30,
        "With a homography, do CoordConv layers help in the classifier?",
        {"use_coordconf_classifier": True, **STEADY},
        GENTLE,
    ),
    Experiment(
        "exp_10",
        "homography_coordconf_localistation",
        "Net_CoordConv_Homography",
        30,
        "With a homography, do CoordConv layers help in the localisation network?",
        {"use_coordconf_localisation": True, **STEADY},
        GENTLE,
    ),
    Experiment(
        "exp_11",
        "homography_coordconf_localistation_coordconf_classifier",
        "Net_CoordConv_Homography",
        30,
        "With a homography, do CoordConv layers help in both parts together?",
        {"use_coordconf_localisation": True, "use_coordconf_classifier": True, **STEADY},
        GENTLE,
    ),
)

# On digits in strong perspective, where a homography could pay. All rows share one recipe.
ADAM = {
    "optimizer": "adam",
    "learning_rate": 0.002,
    "localisation_rate": 0.0004,
    "localisation_norm": 1.0,  # some are a hundred times longer, and one can throw the digits out of sight
    "decay": True,
}
PERSPECTIVE = tuple(
    Experiment(f"exp_{number}", f"perspective_{title}", model, 30, question, arguments, ADAM, perspective=True)
    for number, title, model, question, arguments in (
        (
            12,
            "bypass_localisation",
            "Net_CoordConv",
            "On digits in perspective, what does the classifier reach alone?",
            {"bypass_localisation": True},
        ),
        (
            13,
            "affine",
            "Net_CoordConv",
            "On digits in perspective, how much does the affine transformer help?",
            STEADY,
        ),
        (
            14,
            "homography",
            "Net_CoordConv_Homography",
            "On digits in perspective, is a homography the better transform?",
            STEADY,
        ),
        (
            15,
            "homography_2_passes",
            "Net_CoordConv_Homography",
            "Does it help to look a second time, at the image as it is warped so far?",
            {"passes": 2, **STEADY},
        ),
        (
            16,
            "homography_4_passes",
            "Net_CoordConv_Homography",
            "Do four looks help more than two?",
            {"passes": 4, **STEADY},
        ),
        (
            17,
            "affine_4_passes",
            "Net_CoordConv",
            "Is it the homography or the repeated looking that helps?",
            {"passes": 4, **STEADY},
        ),
        (
            18,
            "homography_coordconf_localistation",
            "Net_CoordConv_Homography",
            "On digits in perspective, do CoordConv layers help the localisation network?",
            {"use_coordconf_localisation": True, **STEADY},
        ),
        (
            19,
            "homography_4_passes_coordconf_localistation",
            "Net_CoordConv_Homography",
            "And when it looks four times?",
            {"use_coordconf_localisation": True, "passes": 4, **STEADY},
        ),
    )
)

# What causes the swings of the accuracy between epochs? The affine network of exp_02, with one of the two changes that
# the homographies have, with the other, and with both.
STABILITY = (
    Experiment(
        "exp_20",
        "background_padding",
        "Net_CoordConv",
        30,
        "Are the swings due to the grey that the transformer reads outside of an image?",
        STEADY,
    ),
    Experiment(
        "exp_21",
        "slow_localisation",
        "Net_CoordConv",
        30,
        "Are the swings due to a localisation network that learns too fast?",
        {},
        GENTLE,
    ),
    Experiment(
        "exp_22",
        "background_padding_slow_localisation",
        "Net_CoordConv",
        30,
        "Does it take both?",
        STEADY,
        GENTLE,
    ),
)

SETS = {"original": EXPERIMENTS, "homography": HOMOGRAPHY, "perspective": PERSPECTIVE, "stability": STABILITY}
ALL = tuple(experiment for rows in SETS.values() for experiment in rows)


RUN_SIZE = 1_000_000  # bytes on the disk, about


def row_of(identity):
    """The experiment with this id."""
    return next(row for row in ALL if row.id == identity)


def seed_of(run):
    """Run 01 has the original's seed. All experiments share the seed of a run, and so the order of its images."""
    return 122 + run


@dataclass
class Job:
    """One run of one experiment, and what became of it."""

    experiment: Experiment
    run: int
    epochs: int
    status: str = "not started"  # then: skipped, finished, failed: why, interrupted
    results: dict | None = None

    @property
    def name(self):
        return self.experiment.directory(self.run)


def build(experiment, seed, plain=False):
    """A new network of the experiment; the seed decides its initial weights."""
    import torch

    import models

    torch.manual_seed(seed)
    model = getattr(models, experiment.model)(**experiment.arguments)
    model.plain = plain
    return model


def run_job(job, options, report=None):
    """Train one job in this process; returns its results."""
    from stn import data
    from train import Recipe, configure, train

    configure()  # before anything is computed: the images in perspective, too, are those of one thread
    experiment, seed = job.experiment, seed_of(job.run)
    images = data.load(options.data)
    return train(
        model=build(experiment, seed, options.plain),
        experiment_name=job.name,
        n_epochs=job.epochs,
        run=job.run,
        seed=seed,
        arguments=experiment.arguments,
        recipe=Recipe(**experiment.recipe),
        data=data.perspective(images) if experiment.perspective else images,
        out=options.out,
        device=options.device,
        overwrite=options.force,
        question=experiment.question,
        log_images=options.log_images,
        report=report,
    )


def outcome(job, options, report=None):
    """Train one job in this process; returns ("finished", what the summary says of it) or ("failed", why)."""
    import train
    from stn import data

    # TensorBoard's thread hands an OSError to the next flush, which raises it below: no need to report it twice.
    told = threading.excepthook
    threading.excepthook = lambda what: None if issubclass(what.exc_type, OSError) else told(what)
    try:
        results = run_job(job, options, report)
        return "finished", {key: results[key] for key in ("test_accuracy", "test_correct", "test_total")}
    except (train.RunError, data.DataError) as error:
        return "failed", str(error)
    except Exception as error:  # told in the summary and by the exit code; the traceback is for a bug report
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"


def worker(job, options, connection):
    """The main function of a run's own process: train, and tell the parent how it goes."""
    connection.send(outcome(job, options, lambda *progress: connection.send(("progress", progress))))


def worker_context(jobs):
    """How processes are started, made ready with Ctrl-C ignored: it reaches the whole terminal, only the parent acts.

    On Linux every worker begins as a copy of a server that has imported the heavy packages, and inherits the server's
    way with signals. Elsewhere each worker is a new interpreter, which inherits the parent's (see `start`).
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    heavy = ["torch.utils.tensorboard", "torch.fx.experimental.proxy_tensor", "matplotlib.figure"]
    heavy += ["kornia.geometry"] if any(job.experiment.perspective for job in jobs) else []
    context.set_forkserver_preload(heavy)
    with ignoring_ctrl_c():
        multiprocessing.forkserver.ensure_running()
    return context


def end_server():
    """End the server of `worker_context` now: it may be busy importing for seconds before it sees that it should."""
    server = getattr(multiprocessing.forkserver, "_forkserver", None)  # Python has no public way to it
    if pid := getattr(server, "_forkserver_pid", None):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def ignoring_ctrl_c():
    """Processes started meanwhile inherit it. After an exception it stays: `interrupt` wants no second Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def attached(function, *arguments):
    """Call the function in a process that ends when its parent does, also if that is killed."""

    def leave_with_parent():
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    function(*arguments)


def start(context, function, *arguments):
    """Call `function(*arguments, connection)` in a new process; returns the process and our end of the connection."""
    ours, theirs = context.Pipe(duplex=False)
    # A daemon is ended with its parent, even if an interrupt should come between these lines.
    process = context.Process(target=attached, args=(function, *arguments, theirs), daemon=True)
    with nullcontext() if sys.platform == "linux" else ignoring_ctrl_c():
        process.start()
    theirs.close()
    return process, ours


def run_all(context, jobs, options, display):
    """Run the jobs in processes of their own, `options.jobs` at a time; sets the status of each."""
    waiting = in_starting_order(jobs)
    running = {}
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                process, connection = start(context, worker, waiting[0], options)
                running[connection] = waiting[0], process
                display.start(waiting.pop(0))
            for connection in wait(running):
                job, process = running[connection]
                try:
                    kind, content = connection.recv()
                except EOFError:  # the process has ended
                    del running[connection]
                    process.join()
                    if job.status == "not started":
                        job.status = f"failed: its process ended with exit code {process.exitcode}"
                    display.end(job)
                    continue
                if kind == "progress":
                    display.progress(job, *content)
                elif kind == "finished":
                    job.status, job.results = "finished", content
                else:
                    job.status = f"failed: {content}"
    finally:  # after an interrupt; nothing is running otherwise
        for job, process in running.values():
            if job.status == "not started":
                job.status = "interrupted"
            process.terminate()
        deadline = time.monotonic() + 1
        for _, process in running.values():
            process.join(max(0, deadline - time.monotonic()))
            process.kill()


def in_starting_order(jobs):
    """The jobs with the longest first, so that no core waits long for a last one."""
    return sorted(jobs, key=cost)[::-1]


def cost(job):
    """How long a job takes beside the others: one look at an image takes about as long as classifying it."""
    arguments = job.experiment.arguments
    return job.epochs * (1 if arguments.get("bypass_localisation") else 1 + arguments.get("passes", 1))


class Display:
    """A progress bar per running job and one for all; plain lines now and then where there is no terminal."""

    def __init__(self, jobs, stream=sys.stderr, seconds_between_lines=30):
        from tqdm import tqdm

        self.tqdm = tqdm
        self.interactive = stream.isatty()
        self.stream = stream
        # tqdm hides its bars on a terminal that does not know its width, as some pseudo terminals do.
        self.width = (os.get_terminal_size(stream.fileno()).columns or 80) if self.interactive else None
        self.seconds_between_lines = seconds_between_lines
        self.last_line = {}
        self.bars = {}
        self.total = self.new_bar("all", sum(job.epochs for job in jobs)) if self.interactive else None

    def new_bar(self, name, epochs):
        form = "{desc:<44} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
        how = {"bar_format": form, "file": self.stream, "ncols": self.width, "leave": False, "smoothing": 0.05}
        return self.tqdm(total=epochs, desc=name[:44], **how)

    def start(self, job):
        if self.interactive:
            self.bars[job.name] = self.new_bar(job.name, job.epochs)
        else:
            self.line(job, "started")

    def progress(self, job, epoch, step, steps, accuracy):
        done = epoch - 1 + step / steps
        if self.interactive:
            bar = self.bars[job.name]
            self.total.update(done - bar.n)
            bar.set_postfix_str(f"{accuracy:.2f} %" if accuracy is not None else "", refresh=False)
            bar.update(done - bar.n)
        elif time.monotonic() - self.last_line[job.name] > self.seconds_between_lines:
            self.line(
                job,
                f"epoch {epoch} of {job.epochs}" + (f", {accuracy:.2f} %" if accuracy is not None else ""),
            )

    def end(self, job):
        if self.interactive:
            bar = self.bars.pop(job.name, None)  # a job of a cluster has none
            self.total.update(job.epochs - (bar.n if bar else 0))
            if bar:
                bar.close()
        else:
            self.line(job, job.status)

    def line(self, job, text):
        print(f"{time.strftime('%H:%M:%S')} {job.name}: {text}", file=self.stream, flush=True)
        self.last_line[job.name] = time.monotonic()

    def close(self):
        for bar in (*self.bars.values(), self.total):
            if bar is not None:
                bar.close()


def print_summary(jobs):
    width = max(len(job.name) for job in jobs)
    print(f"\n{'experiment':<{width}}  accuracy  correct         status")
    for job in jobs:
        figures = " " * 24
        if job.results:
            correct = f"{job.results['test_correct']} of {job.results['test_total']}"
            figures = f"{job.results['test_accuracy']:6.2f} %  {correct:<14}"
        print(f"{job.name:<{width}}  {figures}  {job.status}")


def id_among(experiments):
    """argparse type: one of these experiments by its id."""

    def convert(text):
        for experiment in experiments:
            if text == experiment.id:
                return experiment
        known = ", ".join(experiment.id for experiment in experiments)
        raise argparse.ArgumentTypeError(f"unknown experiment {text!r}; the known ones are {known}")

    return convert


def at_least_one(limit):
    """argparse type: a whole number from 1 to `limit`."""

    def convert(text):
        if re.fullmatch(r"\d{1,9}", text) and 1 <= int(text) <= limit:
            return int(text)
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {limit} is needed, not {text!r}")

    return convert


def whole_number(text):
    """argparse type: 0, 1, 2, ..."""
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    raise argparse.ArgumentTypeError(f"a whole number is needed, not {text!r}")


def device_name(text):
    """argparse type: cpu, cuda or cuda:N."""
    if re.fullmatch(r"cpu|cuda(:\d{1,2})?", text):
        return text
    raise argparse.ArgumentTypeError(f"cpu, cuda or cuda:N is needed, not {text!r}")


class Once(argparse.Action):
    """argparse action: store the value of an option, which may be given once (of several, argparse takes the last)."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = vars(namespace).setdefault("_given", set())
        if self.dest in given:
            parser.error(f"{option_string} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def parameter(text):
    """argparse type: KEY=VALUE -> (key, value), the value as a number if it is one."""
    if match := re.fullmatch(r"([a-z_]+)=(.+)", text):
        return match[1], int(match[2]) if match[2].isdecimal() else match[2]
    raise argparse.ArgumentTypeError(f"KEY=VALUE is needed, as in partition=cpu, not {text!r}")


def new_parser(docstring):
    """A parser whose help shows the script's docstring; options cannot be abbreviated, nor given twice with a value."""
    usage, _, rest = docstring.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.register("action", None, Once)  # what an option does that names no action
    return parser


def end_with_the_reader():
    """Let this process end quietly when nobody reads on what it prints (`| head`)."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def folder_name(text):
    """argparse type: the path of a folder."""
    if text.strip():
        return text
    raise argparse.ArgumentTypeError("the name of a folder is needed, not an empty one")


def default_jobs(device):
    """How many runs are trained at a time: one a core, or one on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def parse_arguments(arguments=None):
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="list the experiments and the question that each asks, then stop")
    add("--set", choices=SETS, default="original", help="which experiments (default: original, the seven)")
    add(
        "--only",
        nargs="+",
        type=id_among(ALL),
        metavar="EXP",
        help="run these experiments, by id (exp_03 exp_06), of whichever set",
    )
    add(
        "--runs",
        type=at_least_one(999),
        default=1,
        metavar="N",
        help="runs 01 to N of each; the run decides the seed",
    )
    add("--epochs", type=at_least_one(10_000), metavar="N", help="train N epochs instead of 20 or 30")
    add(
        "--jobs",
        type=at_least_one(1024),
        metavar="N",
        help="processes at a time (default: one a core; on a GPU one)",
    )
    add("--device", type=device_name, help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add("--data", metavar="FOLDER", help="another data set: a folder with four IDX files named like MNIST's")
    add(
        "--out",
        type=folder_name,
        default="experiments",
        metavar="FOLDER",
        help="where the runs go (default: experiments)",
    )
    add(
        "--plain", action="store_true", help="compute convolutions as they are usually written (on a CPU: half as fast)"
    )
    add(
        "--log-images",
        type=whole_number,
        default=5,
        metavar="N",
        help="TensorBoard gets images and histograms every N epochs (default: 5), or none (0)",
    )
    add("--force", action="store_true", help="start the selected runs again and replace what is there")
    add(
        "--executor",
        choices=("local", "slurm", "submitit-local"),  # the last one is for tests
        default="local",
        metavar="{local,slurm}",
        help="train here (default), or as jobs of a Slurm cluster; needs requirements-slurm.txt",
    )
    add(
        "--slurm",
        action="append",
        type=parameter,
        default=[],
        metavar="KEY=VALUE",
        help="for those jobs, repeatable: partition=cpu, time=120 (minutes), gpus_per_node=1, mem=4GB, account=...",
    )
    options = parser.parse_args(arguments)
    if options.slurm and options.executor != "slurm":
        parser.error("--slurm is only for --executor slurm")
    if len(dict(options.slurm)) < len(options.slurm):
        parser.error("--slurm: a KEY is given twice")
    return options


def selection(options):
    """The experiments that the command line asks for, in the order of the table."""
    return [experiment for experiment in ALL if experiment in (options.only or SETS[options.set])]


def prepare(options, jobs):
    """Find out before any training what would go wrong; marks the finished jobs as skipped. Raises RunError."""
    import torch

    from stn import data
    from train import Recipe, RunError, read_results, run_settings, state_of

    here = options.executor == "local"  # elsewhere there may be other devices
    if options.device is None:
        options.device = "cuda" if here and torch.cuda.is_available() else "cpu"
    if here and options.device != "cpu" and (torch.device(options.device).index or 0) >= torch.cuda.device_count():
        raise RunError(f"--device {options.device}: torch finds {torch.cuda.device_count()} CUDA devices here")
    options.jobs = options.jobs or (default_jobs(options.device) if here else len(jobs))
    _, description = data.read(options.data)  # also unpacks MNIST once for all workers
    if options.data:
        numbers = "mean {mean} and standard deviation {std}".format(**description)
        print(f"{options.data}: normalised with the {numbers} of its training images", flush=True)
    conflicts = []
    # Settings tell networks by their shapes, which are the same in all runs of an experiment: there may be many runs.
    networks = {job.experiment.id: job.experiment for job in jobs}
    networks = {name: build(experiment, seed_of(1), options.plain) for name, experiment in networks.items()}
    for job in jobs if not options.force else ():
        experiment, seed, folder = job.experiment, seed_of(job.run), Path(options.out) / job.name
        model = networks[experiment.id]
        kind = description | (data.PERSPECTIVE if experiment.perspective else {})
        how = (experiment.arguments, job.epochs, job.run, seed, kind, options.device, options.plain)
        how += (Recipe(**experiment.recipe),)
        try:
            if state_of(folder, run_settings(job.name, model, *how)) == "finished":
                job.results = read_results(folder)
                job.status = "skipped: already finished"
        except RunError as error:
            conflicts.append(str(error))
    if conflicts:
        raise RunError("\n".join(conflicts))
    if todo := [job for job in jobs if not job.results]:
        try:
            check_room(Path(options.out), RUN_SIZE * len(todo))
        except OSError as error:
            raise RunError(unwritable(options.out, error)) from error


def prepare_apart(options, jobs, connection):
    """`prepare` as the main function of a process: the parent never imports torch, which saves 400 MB of memory.

    Sends the options and the jobs as they are then, and the complaint or None.
    """
    from stn.data import DataError
    from train import RunError

    try:
        prepare(options, jobs)
        connection.send((options, jobs, None))
    except (RunError, DataError, OSError) as error:
        connection.send((options, jobs, str(error)))


class Interrupted(BaseException):
    """Raised by the first SIGINT or SIGTERM; `args[0]` is the exit code that belongs to it."""


def interrupt(signal_number, _frame):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying up
    raise Interrupted(128 + signal_number)


def main():
    options = parse_arguments()
    if options.list:
        end_with_the_reader()
        for name, experiments in SETS.items():
            print(f"--set {name}")
            for experiment in experiments:
                print(f"{experiment.id}  {experiment.title}, {experiment.epochs} epochs\n        {experiment.question}")
        return 0
    jobs = [Job(e, run, options.epochs or e.epochs) for run in range(1, options.runs + 1) for e in selection(options)]
    print(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''} into {options.out}", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        return run(options, jobs)
    except Interrupted as received:
        end_server()
        how = "the command without --force" if options.force else "the same command"
        print(f"Interrupted: {how} goes on after the last complete epoch of each run.")
        return received.args[0]


def run(options, jobs):
    """Prepare and run the jobs and print what became of them; returns the exit code."""
    started = time.monotonic()
    executor = None
    if options.executor != "local":
        from lab import slurm  # late, with all that it imports: only for those who ask for it

        try:
            executor = slurm.new_executor(options)
        except slurm.ClusterError as error:
            print(f"run_experiments.py: {error}", file=sys.stderr)
            return 2
    context = worker_context(jobs)
    process, connection = start(context, prepare_apart, options, jobs)
    try:
        options, jobs, complaint = connection.recv()
    except EOFError:  # its traceback has been printed
        process.join()
        print(f"run_experiments.py: the preparation ended with exit code {process.exitcode}", file=sys.stderr)
        return 1
    finally:
        process.terminate()  # after an interrupt; it has nothing more to do otherwise
    if complaint:
        print(f"run_experiments.py: {complaint}", file=sys.stderr)
        return 2
    todo = [job for job in jobs if not job.results]
    for job in jobs:
        if job.results:
            print(f"{job.name}: {job.status}", flush=True)
    display = Display(todo)
    try:
        if todo and executor:
            try:
                slurm.run_all(executor, outcome, in_starting_order(todo), options, display)
            except slurm.ClusterError as error:
                print(f"run_experiments.py: {error}", file=sys.stderr)
                return 2
        elif todo:
            run_all(context, todo, options, display)
    finally:
        display.close()
        print_summary(jobs)
    minutes = (time.monotonic() - started) / 60
    finished = [job for job in todo if job.status == "finished"]
    if todo:
        at_a_time = "" if executor else f", {options.jobs} at a time"
        print(f"\n{len(finished)} of {len(jobs)} runs trained in {minutes:.1f} minutes{at_a_time}")
    # Not after an interruption: then these are not the whole job's minutes.
    if finished == jobs and not options.only and not executor:
        record = {"runs": len(jobs), "minutes": round(minutes, 2), "at_a_time": options.jobs}
        try:
            name = "job.json" if options.set == "original" else f"job_{options.set}.json"
            write_json(Path(options.out) / name, record)
        except OSError as error:
            print(f"run_experiments.py: {unwritable(options.out, error)}", file=sys.stderr)
            return 1
    return 1 if len(finished) < len(todo) else 0


if __name__ == "__main__":
    sys.exit(main())
