"""Compare the finished runs.

    python plot.py [--out experiments] [--figures FOLDER]

reads every <out>/*/results.json and writes, into <out> unless --figures says otherwise,

    AccuracyComparison.png        test accuracy by experiment, with a 95 % interval where there are several runs
    PerspectiveComparison.png     the same on digits in perspective, if there are such runs
    train_loss.png                the train loss of exp_01 and exp_02, run 01
    diagram_<experiment>.png      what each experiment's network looks like

    python plot.py --animate exp_16_run_01_perspective_homography_4_passes

draws <out>/<run>/transformation.gif: what the run's transformer did to test images after each epoch.

Both take a few seconds. The run `test` of train.py is left out; what cannot be read is named and passed over.

    python plot.py --readme

is for those who maintain this repository: it also copies the seven results to results/, and redraws every figure and
rewrites every table of the README from them.

Exit code 1 if there is no result at all, 2 for wrong usage.
"""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import figures
import report
from files import whole, write_json
from run_experiments import ALL, EXPERIMENTS, SETS, new_parser
from stats import mean_and_half_width

ROOT = Path(__file__).resolve().parent
BASELINE = ("baseline (tutorial's claim)", 98.69, None, 0)  # a bar of figures.accuracy_bars
N_ANIMATED = 24  # digits
# The figures of single runs that the README shows.
SHOWN = (
    *(("exp_02", "confusion_matrix.png"), ("exp_06", "confusion_matrix.png")),
    *(("exp_02", "visualized_transformation.png"), ("exp_14", "visualized_transformation.png")),
    *(
        ("exp_16", "visualized_transformation.png"),
        ("exp_16", "class_statistics.png"),
        ("exp_16", "transformation.gif"),
    ),
)


def read_results(out):
    """Return ({experiment without its run number: [results, by run]}, [complaint about a folder passed over])."""
    found, complaints = {}, []
    folders = [path for path in Path(out).iterdir() if path.is_dir() and not path.name.startswith(".")]
    for folder in sorted(path for path in folders if path.name != "test"):
        path = folder / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            check(results, folder.name)
        except FileNotFoundError:
            complaints.append(f"{folder}: passed over, it has no results.json (unfinished?)")
        except (OSError, ValueError, RecursionError) as error:
            complaints.append(f"{path}: passed over, it is broken ({error})")
        else:
            found.setdefault(re.sub(r"_run_\d+", "", folder.name, count=1), []).append(results)
    return found, complaints


def check(results, name):
    """Raise ValueError if this is not the content of the results.json of the run `name`."""
    if not isinstance(results, dict):
        raise ValueError("not a JSON object")
    if results.get("experiment_name") != name:
        raise ValueError(f"it is of {results.get('experiment_name')!r}; a copied or renamed folder?")
    accuracy, history = results.get("test_accuracy"), results.get("history")
    if not isinstance(results.get("data", {}), dict):
        raise ValueError("'data' does not describe a data set")
    if type(accuracy) not in (int, float) or not 0 <= accuracy <= 100:  # isinstance would let True pass for a number
        raise ValueError("'test_accuracy' is not a percentage")
    if not isinstance(history, list) or not all(
        isinstance(epoch, dict) and type(epoch.get("train_loss")) is float and math.isfinite(epoch["train_loss"])
        for epoch in history
    ):
        raise ValueError("'history' is not a list of epochs with their losses")


def accuracy_rows(found):
    """Every experiment as a bar of `figures.accuracy_bars`."""
    rows = []
    for name, runs in found.items():
        mean, half = mean_and_half_width([results["test_accuracy"] for results in runs])
        rows.append((name, mean, half, len(runs)))
    return rows


def of_perspective(runs):
    """Whether these runs of one experiment are on MNIST in perspective."""
    return "perspective_sigma" in runs[0].get("data", {})


def diagram(experiment):
    """The block diagram of a row of the table."""
    passes = experiment.arguments.get("passes", 1)
    looks = f" × {passes}" if passes > 1 else ""
    return figures.network_diagram(
        f"{experiment.id}: {experiment.question}",
        coordconv_localisation=experiment.arguments.get("use_coordconf_localisation", False),
        coordconv_classifier=experiment.arguments.get("use_coordconf_classifier", False),
        bypass=experiment.arguments.get("bypass_localisation", False),
        transform=("homography" if "Homography" in experiment.model else "affine") + looks,
    )


def draw_comparison(found, target):
    """Write the figures of the module's docstring into the folder `target`, and print their paths."""

    def draw(figure, name):
        figures.save(figure, target / name)
        print(target / name)

    in_perspective = {name: runs for name, runs in found.items() if of_perspective(runs)}
    upright = {name: runs for name, runs in found.items() if name not in in_perspective}
    draw(figures.accuracy_bars([BASELINE, *accuracy_rows(upright)]), "AccuracyComparison.png")
    if in_perspective:
        draw(figures.accuracy_bars(accuracy_rows(in_perspective)), "PerspectiveComparison.png")
    runs = {results["experiment_name"]: results for several in found.values() for results in several}
    baselines = [name for name in (experiment.directory(1) for experiment in EXPERIMENTS[:2]) if name in runs]
    curves = [(name, [epoch["train_loss"] for epoch in runs[name]["history"]]) for name in baselines]
    if curves:
        draw(figures.loss_curves(curves, "train loss, mean per image (nats)"), "train_loss.png")
    for experiment in ALL:
        if experiment in EXPERIMENTS or f"{experiment.id}_{experiment.title}" in found:
            draw(diagram(experiment), f"diagram_{experiment.id}.png")


def animate(out, name):
    """Draw what the transformer of the run `name` did to test images after each epoch, as a GIF; returns its path.

    Raises OSError, ValueError or train.RunError if the run has not what it takes.
    """
    import torch  # late, with all that imports it: other plots do not wait for it

    import data
    import measures
    import stn
    from train import load_tensors

    folder = Path(out) / name
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    checkpoint = load_tensors(folder / "checkpoint.pt", "cpu")
    if not checkpoint["transforms"]:
        raise ValueError(f"{folder} has no transformer to animate")
    digits = data.load()
    if "perspective_sigma" in settings["data"]:
        digits = data.perspective(digits)
    if settings["data"] != digits.description:
        raise ValueError(f"{folder}: only runs on MNIST can be animated")
    images = digits.test_images[:N_ANIMATED]
    padding = settings["arguments"].get("padding", "zeros")
    pictures = []
    for epoch, homographies in enumerate([torch.eye(3).expand(N_ANIMATED, 3, 3), *checkpoint["transforms"]]):
        after = stn.homography_warp(images, homographies[:N_ANIMATED], padding)
        title = f"{name}, after epoch {epoch}" if epoch else f"{name}, at the start"
        frames = measures.frames(homographies[:N_ANIMATED])
        shown = (digits.pixels(both)[:, 0] for both in (images, after))
        pictures.append(figures.transformed_digits(*shown, title, frames))
    figures.save_animation(pictures, folder / "transformation.gif")
    return folder / "transformation.gif"


def reportable(found, experiment):
    """The runs of the experiment as the table has it, on MNIST and a CPU: no short looks and no variations."""
    as_in_the_table = {"arguments": experiment.arguments, "n_epochs": experiment.epochs, **experiment.recipe}
    as_in_the_table |= {"device": "cpu", "plain_convolutions": False}
    return [
        run
        for run in found.get(f"{experiment.id}_{experiment.title}", ())
        if run["data"]["name"] == "MNIST" and all(run.get(key) == value for key, value in as_in_the_table.items())
    ]


def update_readme(out, found):
    """Copy the runs that the README reports into results/, and make its figures and tables from there.

    Raises ValueError or OSError if one of the seven experiments or a figure is missing.
    """
    results, pictures = ROOT / "results", ROOT / ".readme_figures"
    runs = {experiment.id: reportable(found, experiment) for experiment in ALL}
    for experiment in EXPERIMENTS:
        name = experiment.directory(1)
        if name not in [run["experiment_name"] for run in runs[experiment.id]]:
            raise ValueError(f"--readme needs {name}, as the table has it")
    for experiment in EXPERIMENTS:
        name = experiment.directory(1)
        shutil.copyfile(Path(out) / name / "results.json", results / f"{name}.json")
    shutil.copyfile(Path(out) / "job.json", results / "job.json")
    for name, ids in report.CONDENSED.items():
        together = [run for identity in ids for run in runs[identity]]
        write_json(results / f"{name}.json", {run["experiment_name"]: report.condensed(run) for run in together})
    for identity, name in SHOWN:
        directory = next(experiment for experiment in ALL if experiment.id == identity).directory(1)
        if name.endswith(".gif"):
            animate(out, directory)
        stem, _, kind = name.partition(".")
        shutil.copyfile(Path(out) / directory / name, pictures / f"{stem}_{identity}.{kind}")
    draw_comparison({f"{e.id}_{e.title}": runs[e.id][:1] for e in EXPERIMENTS}, pictures)
    perspective = {f"{e.id}_{e.title}": runs[e.id] for e in SETS["perspective"] if runs[e.id]}
    figures.save(figures.accuracy_bars(accuracy_rows(perspective)), pictures / "PerspectiveComparison.png")
    with whole(ROOT / "README.md") as temporary:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        temporary.write_text(report.fill_readme(text, report.readme_blocks(results)), encoding="utf-8")


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: beside the runs)")
    parser.add_argument("--animate", metavar="RUN", help="only draw <out>/RUN/transformation.gif, the run by epochs")
    parser.add_argument("--readme", action="store_true", help="update results/, .readme_figures/ and README.md")
    options = parser.parse_args()
    if not Path(options.out).is_dir():
        parser.error(f"--out {options.out}: there is no such folder")

    if options.animate:
        from train import RunError

        try:
            print(animate(options.out, options.animate))
        except (RunError, ValueError, OSError, LookupError, TypeError) as error:
            parser.error(f"--animate {options.animate}: {error}")
        return 0
    found, complaints = read_results(options.out)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not found:
        print(f"plot.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
        return 1
    if options.readme:
        try:
            update_readme(options.out, found)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return 0
    target = Path(options.figures or options.out)
    target.mkdir(parents=True, exist_ok=True)
    draw_comparison(found, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
