"""Run the experiments of the study, as many at a time as there are cores.

    python run_experiments.py                         the seven experiments, into experiments/
    python run_experiments.py --list                  what they are, and what came out
    python run_experiments.py --only exp_03 exp_06    some of them
    python run_experiments.py --set homography        another: steady, stability, homography, perspective,
                                                      card, long, lost (what keeps the digits in view), or
                                                      paper (other papers' benchmarks)
    python run_experiments.py --runs 5                five runs of each, with different seeds
    python run_experiments.py --runs 6-10             five more
    python run_experiments.py --epochs 2              a short look
    python run_experiments.py --runs 30 --executor slurm --slurm partition=cpu    as jobs of a Slurm cluster

A finished run is skipped and an unfinished one continued, so the same command also goes on after an interruption.
Exit code: 0 all done, 1 a run failed, 2 wrong usage, or a folder that holds another run or cannot be written,
130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import gc
import os
import re
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

from lab import catalogue, cli, pool
from lab.files import unwritable, write_json
from lab.folder import available_cores, modified_files, other_code, read_results, state_of
from lab.progress import Display, print_summary
from lab.results import ONE_RUN_EACH, PARTS, lost_epoch
from lab.settings import SEED, Experiment, Job, Recipe, RunError, printable  # noqa: F401 (Recipe: for rows)

# torch is imported late, by the functions that a worker calls: --help and --list answer at once.

# The spellings "coordconf" and "localistation" are the original's; they are names that people may have stored.
# An eighth experiment is one more row: id, the rest of the directory's name, a class of models.py, epochs, question,
# the arguments of the class, and a Recipe if it is not the tutorial's.
# fmt: off
EXPERIMENTS = (
    Experiment("exp_01", "reproduce_baseline", "Net", 20,
               "Does the network of the PyTorch tutorial reach the accuracy that the tutorial claims?"),
    Experiment("exp_02", "reproduce_baseline", "Net_CoordConv", 30,
               "The same network without any CoordConv layer: do ten more epochs help?"),
    Experiment("exp_03", "bypass_localisation", "Net_CoordConv", 30,
               "What does the classifier reach alone, without the spatial transformer?", {"bypass_localisation": True}),
    Experiment("exp_04", "coordconf_classifier_bypass_localisation", "Net_CoordConv", 30,
               "Without the transformer, do CoordConv layers in the classifier make up for it?",
               {"use_coordconf_classifier": True, "bypass_localisation": True}),
    Experiment("exp_05", "coordconf_classifier", "Net_CoordConv", 30,
               "With the transformer, do CoordConv layers help in the classifier?", {"use_coordconf_classifier": True}),
    Experiment("exp_06", "coordconf_localistation", "Net_CoordConv", 30,
               "Do CoordConv layers help in the localisation network?", {"use_coordconf_localisation": True}),
    Experiment("exp_07", "coordconf_localistation_coordconf_classifier", "Net_CoordConv", 30,
               "Do CoordConv layers help in both parts together?",
               {"use_coordconf_localisation": True, "use_coordconf_classifier": True}),
)
# fmt: on
SETS = {"original": EXPERIMENTS}
for study in catalogue.studies().values():
    SETS |= study.sets
ALL = catalogue.rows_by_id(SETS)
# With one pass, the rate that the trial of studies/lost chose for it; in this way `code` stays that of the other rows.
ONE_PASS = (ALL[row] for row in ("exp_32", "exp_33", "exp_36", "exp_37"))
ALL |= {row.id: replace(row, recipe=row.recipe._replace(localisation_rate=0.001)) for row in ONE_PASS}
SETS["card"] = tuple(ALL[row.id] for row in SETS["card"])
SETS = {name: tuple(ALL.get(row, row) if isinstance(row, str) else row for row in rows) for name, rows in SETS.items()}


def run(options, worker):
    """Run the experiments that are asked for and print what became of them; return the exit code."""
    started, local, executor = time.monotonic(), options.executor == "local", None
    jobs = [Job(row, number, options.epochs or row.epochs) for number in options.runs for row in selection(options)]
    print(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''} into {printable(options.out)}", flush=True)
    if not local:
        from lab import slurm  # late, with all that it imports: only for those who ask for it

        executor = slurm.new_executor(options)
    kind, prepared = worker.call("prepare", options, jobs)
    if kind == "failed":
        return complain(prepared)
    options, jobs, notes = prepared
    todo = [job for job in jobs if not job.results]
    for line in [*notes, *(f"{job.name}: {job.status}" for job in jobs if job.results)]:
        print(line, flush=True)
    display = Display(sum(job.n_epochs for job in todo))
    try:
        if todo and local:
            pool.run_all(WORKER, todo, options, display, worker)
        elif todo:
            pool.end([worker])  # nothing else is to be done here for hours
            slurm.run_all(executor, train_job, todo, options, display)
    finally:
        display.close()
        print_summary(jobs)
    if len(options.runs) == 1 < len(jobs):
        print(f"\n{ONE_RUN_EACH}")
    minutes = (time.monotonic() - started) / 60
    finished = [job for job in todo if job.status == "finished"]
    if todo:
        at_a_time = f", {options.jobs} at a time" if local else ""
        print(f"\n{len(finished)} of {len(jobs)} runs trained in {minutes:.1f} minutes{at_a_time}")
    if finished == jobs and not options.only and local:  # else these are not the minutes of the whole job
        return write_job(options, jobs, minutes)
    return 1 if len(finished) < len(todo) else 0


def selection(options):
    """List the experiments that the command line asks for, in the order of the table."""
    chosen = options.only or [experiment.id for experiment in SETS[options.set]]
    return [experiment for exp_id, experiment in ALL.items() if exp_id in chosen]


MACHINE_AND_CODE = ("device_name", "cores", "versions", "git_commit")  # fields of a run's results; equal in a whole job


def write_job(options, jobs, minutes):
    """Write what a whole job took into <out>/job.json; return the exit code."""
    name = "job.json" if options.set == "original" else f"job_{options.set}.json"
    summary = {"command": " ".join(["python", "run_experiments.py", *sys.argv[1:]]), "runs": len(jobs)}
    summary |= {"minutes": round(minutes, 2), "at_a_time": options.jobs}
    summary |= {key: jobs[0].results[key] for key in MACHINE_AND_CODE}
    summary["rows"] = [{"experiment": job.experiment.id, "run": job.run, **job.results["seconds"]} for job in jobs]
    try:
        write_json(Path(options.out) / name, summary)
    except OSError as error:
        complain(unwritable(options.out, error))
        return 1
    return 0


def complain(message):
    print(f"run_experiments.py: {message}", file=sys.stderr)
    return 2


# what a worker is asked

WORKER = [sys.executable, str(Path(__file__).resolve()), "--worker"]


def train_job(job, options, on_progress=None):
    """Train one job in this process. Return ("finished", what the summary says of it) or ("failed", why)."""
    # TensorBoard's thread hands an OSError to the next flush, which raises it below: no need to report it twice.
    previous_hook = threading.excepthook
    threading.excepthook = lambda error: None if issubclass(error.exc_type, OSError) else previous_hook(error)
    try:
        results = train_here(job, options, on_progress)
    except RunError as error:
        return "failed", str(error)
    except Exception as error:  # it is in the summary and the exit code; the traceback is for a bug report
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        threading.excepthook = previous_hook
        gc.collect()  # the images of this run are in reference cycles, 200 MB beside those of the worker's next one
    seconds = {part: sum(epoch[part] for epoch in results["history"]) for part in PARTS}
    seconds = {part.removesuffix("_seconds"): round(total, 2) for part, total in seconds.items()}
    shown = {key: results[key] for key in ("test_accuracy", "test_correct", "test_total", *MACHINE_AND_CODE)}
    return "finished", shown | {"seconds": seconds, "lost_epoch": lost_epoch(results)}


def train_here(job, options, on_progress=None):
    """Train one job in this process and return its results. Raise RunError."""
    from stn.data import load
    from train import build, configure, train_run

    configure()  # before anything is computed: the images in perspective, too, are those of one thread
    row = job.experiment
    model, data = build(row, job.seed), catalogue.datasets()[row.data].built(load(options.data))
    where = options.out, options.device, options.force
    return train_run(model, job.settings, data, *where, row.question, options.log_images, on_progress)


def prepare(options, jobs, on_progress=None):
    """Check options, data and folders before any training, and give each job its settings.

    Return ("prepared", (options, jobs, lines to be shown)), the options completed and the finished jobs marked, or
    ("failed", why).
    """
    import torch

    from stn.data import read
    from train import build, fast_package, settings_of

    here = options.executor == "local"  # elsewhere there may be other devices
    if options.device is None:
        options.device = "cuda" if here and torch.cuda.is_available() else "cpu"
    if here and options.device != "cpu" and (torch.device(options.device).index or 0) >= torch.cuda.device_count():
        return "failed", f"--device {options.device}: torch finds {torch.cuda.device_count()} CUDA devices here"
    options.jobs = options.jobs or default_jobs(options, len(jobs))
    try:
        _, description = read(options.data)
    except (RunError, OSError) as error:
        return "failed", str(error)
    numbers = "mean {mean} and standard deviation {std}".format(**description)
    notes = [f"{printable(options.data)}: normalised with the {numbers} of its training images"] if options.data else []
    specs, networks, settings, complaints = catalogue.datasets(), {}, {}, []
    for row in {job.experiment.id: job.experiment for job in jobs}.values():  # once for all its runs: they may be many
        networks[row.id], data = build(row, SEED), specs[row.data].describe(description)
        network_of_row = networks[row.id], row.name, row.arguments, row.epochs
        settings[row.id] = settings_of(*network_of_row, data, options.device, options.plain, recipe=row.recipe)
    for job in jobs:
        run_fields = {"experiment_name": job.name, "n_epochs": job.n_epochs, "run": job.run, "seed": job.seed}
        job.settings = replace(settings[job.experiment.id], **run_fields)
        try:
            notes += [] if options.force else mark_finished(job, Path(options.out) / job.name)
        except RunError as error:
            complaints.append(str(error))
    if complaints:
        return "failed", "\n".join(complaints)
    options.plain = jobs[0].settings.plain_convolutions  # True without Numba; the warning has been printed
    if todo := {job.experiment.id: job.experiment for job in jobs if not job.results}:
        try:
            Path(options.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return "failed", unwritable(options.out, error)
        if here and options.device == "cpu" and not options.plain:  # compile before there are more workers
            for row in todo.values():
                with fast_package().accelerated(networks[row.id], "cpu") as network:
                    network(torch.zeros(2, 1, *specs[row.data].image_size)).sum().backward()
    return "prepared", (options, jobs, notes)


def mark_finished(job, run_dir):
    """Give a job its results if its run is finished, and return a line about each file that was modified since.

    Raise RunError if the folder holds a run that cannot go on as this job.
    """
    if state_of(run_dir, job.settings.as_json()) != "finished":
        return []
    job.results, job.status = read_results(run_dir), "skipped: already finished"
    job.results["lost_epoch"] = lost_epoch(job.results)
    if job.results["code"] != job.settings.code:
        job.status += f", with {other_code(job.results)}"
    modified = modified_files(run_dir, job.results)
    return [f"{path} was modified after the run: missing, damaged or replaced" for path in modified]


def default_jobs(options, n_jobs):
    """How many runs are trained at a time: one a core, or one on a GPU; on a cluster all."""
    if options.executor != "local":
        return n_jobs
    return available_cores() if options.device == "cpu" else 1


# the command line


def list_experiments(out):
    """Print each experiment, its question, and what came out: in the folder `out`, or else in results/."""
    from lab import outcomes

    ours, complaints = outcomes.of_folder(out)
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        print(printable(f"run_experiments.py: {complaints[0]}{more}"), file=sys.stderr)
    for name, experiments in SETS.items():
        print(f"--set {name}")
        outcome_lines = outcomes.of_records(name) | ours
        for row in experiments:
            print(f"{row.id}  {row.title}, {row.epochs} epochs\n        {row.question}")
            if row.name in outcome_lines:
                print(f"        {printable(outcome_lines[row.name])}")


def run_numbers(text):
    """Parse --runs: "10" means the runs 1 to 10, "21-40" the runs 21 to 40."""
    match = re.fullmatch("(?:([0-9]{1,3})-)?([0-9]{1,3})", text)
    numbers = range(int(match[1] or 1), int(match[2]) + 1) if match else ()
    if not numbers or numbers[0] < 1:
        needed = f"a whole number from 1 to 999 is needed, or a range of them, as in 21-40, not {text!r}"
        raise argparse.ArgumentTypeError(needed)
    return numbers


def slurm_setting(text):
    """Parse --slurm: "time=120" as ("time", 120)."""
    match = re.fullmatch(r"([a-z_]+)=(.+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"KEY=VALUE is needed, as in partition=cpu, not {text!r}")
    return match[1], int(match[2]) if match[2].isdecimal() else match[2]


def parse_arguments(arguments=None):
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="list the experiments, their questions and what came out, then stop")
    add("--set", choices=SETS, default="original", help="which experiments (default: original, the seven)")
    add("--only", nargs="+", choices=ALL, metavar="EXP", help="run these, by id (exp_03 exp_06), of whichever set")
    runs = "runs 01 to N of each, or with 21-40 runs 21 to 40 (default: 1); the run decides the seed"
    add("--runs", type=run_numbers, default="1", metavar="N", help=runs)
    epochs = "train N epochs instead of those of the table"
    add("--epochs", type=cli.whole_number(1, 10_000), metavar="N", help=epochs)
    jobs = "processes at a time (default: one a core; on a GPU one)"
    add("--jobs", type=cli.whole_number(1, 1024), metavar="N", help=jobs)
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add("--data", metavar="FOLDER", help="another data set: a folder with four IDX files named like MNIST's")
    add("--out", default="experiments", metavar="FOLDER", help="where the runs go (default: experiments)")
    add("--plain", action="store_true", help="compute convolutions as usual (on a CPU: about a third as fast)")
    often = "TensorBoard gets images and histograms every N epochs (default: 5), or none (0)"
    add("--log-images", type=cli.whole_number(0, 10_000), default=5, metavar="N", help=often)
    add("--force", action="store_true", help="start the selected runs again and replace what is there")
    executor = "train here (default), or as jobs of a Slurm cluster; needs requirements-slurm.txt"
    add("--executor", choices=("local", "slurm"), default="local", help=executor)
    slurm = "for those jobs, repeatable: partition=cpu, time=120 (minutes), gpus_per_node=1, mem=4GB, account=..."
    add("--slurm", type=slurm_setting, action="append", default=[], metavar="KEY=VALUE", help=slurm)
    options = cli.parse(parser, arguments, repeatable=("--slurm",))
    if options.device is not None and not re.fullmatch(r"cpu|cuda(:\d{1,2})?", options.device):
        parser.error(f"--device: cpu, cuda or cuda:N is needed, not {options.device!r}")
    if not options.out.strip():
        parser.error("--out: the name of a folder is needed, not an empty one")
    for name, path in (("out", options.out), ("data", options.data or "")):
        if any("\ud800" <= letter <= "\udfff" for letter in path):  # bytes that are no text; TensorBoard needs one
            parser.error(f"--{name} {path!a}: a name that is text in UTF-8 is needed")
    if options.slurm and options.executor != "slurm":
        parser.error("--slurm is only for --executor slurm")
    if len(dict(options.slurm)) < len(options.slurm):
        parser.error("--slurm: a KEY is given twice")
    options.slurm = dict(options.slurm)
    return options


def main():
    if sys.argv[1:] == WORKER[2:]:
        pool.serve(prepare=prepare, train=train_job)
    options = parse_arguments()
    if options.list:
        cli.end_with_the_reader()
        list_experiments(options.out)
        return 0
    workers = []
    try:
        cli.raise_when_interrupted()
        workers.append(pool.Worker(WORKER))
        return run(options, workers[0])
    except pool.WorkerDied as error:  # its traceback, if there is one, has been printed
        complain(f"the preparation failed: {error}")
        return 1
    except RunError as error:
        return complain(error)
    except BrokenPipeError:  # nobody reads on (`| head`)
        pool.end(workers)
        os._exit(141)  # as a program that SIGPIPE ends; at once, since Python would complain of the pipe
    except (OSError, MemoryError, RuntimeError) as error:  # no memory, no thread
        complain(f"{type(error).__name__}: {error}")
        return 1
    except cli.Interrupted as received:
        same = "the command without --force" if options.force else "the same command"
        print(f"Interrupted: {same} goes on after the last complete epoch of each run.")
        return received.args[0]
    finally:
        pool.end(workers)


if __name__ == "__main__":
    sys.exit(main())
