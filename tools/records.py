"""Keep runs and weights in the repository, and write its page of results from what is kept.

    python tools/records.py --record runs      adds the runs in experiments/ to results/runs.json, if they are complete
    python tools/records.py --keep exp_16      keeps the weights of its run 01 in weights/, with the record of that run
    python tools/records.py --docs             writes docs/results.md and its figures, from results/ and weights/

Exit code 1 if there is no result at all, 2 for wrong usage or a set that is not complete.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import page

from lab import catalogue, cli, figures
from lab.comparison import comparable, differences_from_row, drop_incompatible_runs, of_experiment
from lab.files import write_json, write_text
from lab.published import ORIGINAL_ACCURACY
from lab.results import is_mnist, read_all
from lab.settings import RunError
from plot import (
    LOSS,
    N_ANIMATED,
    accuracy_curves,
    comparison_figures,
    curves_figure,
    dataset_of,
    read_json,
    read_runs,
    save_animation,
    train_losses,
)
from run_experiments import ALL, EXPERIMENTS
from studies.paper.protocol import SIDES
from studies.steady import recipes_figure

RECORDS = {  # the records in results/: the experiments of each
    "runs": tuple(row.id for row in EXPERIMENTS if row.name in ORIGINAL_ACCURACY),
    "formulations": ("exp_02", "exp_03", "exp_07"),  # that are trained in the fast and in the plain form
} | page.RECORDS
# Figures of data sets made of digits have these prefixes.
PREFIXES = tuple({spec.figure_prefix for spec in catalogue.datasets().values() if spec.figure_prefix})
SHOWN = ("exp_02", "exp_14", "exp_16")  # networks of weights/ whose transforms the documentation shows
ANIMATED = ("exp_16",)  # there, too, with the statistics of its classes
CARDS_SHOWN = 40  # scenes


def draw_shown(pictures):
    """Draw scenes with cards, and what the transformers of single runs do, from weights/."""
    from digits import pretrained
    from stn import data, metrics
    from studies.cards.data import TEST_SEED, scenes, sources_of

    drawn = scenes(sources_of(data.load(), "test", "test"), CARDS_SHOWN, TEST_SEED, 1.0)
    figures.save(figures.scenes(drawn.images[:, 0], "the first test scenes"), pictures / "scenes.png")

    for exp_id in SHOWN:
        _, model, run = pretrained.load(exp_id)
        name, digits = run["experiment_name"], dataset_of(run)
        figures.save(metrics.draw_transforms(model, digits, name), pictures / f"visualized_transformation_{exp_id}.png")
        if exp_id in ANIMATED:
            statistics = metrics.measure_transformer(model, digits).statistics
            figures.save(figures.class_statistics(*statistics, name), pictures / f"class_statistics_{exp_id}.png")
            _, transforms = pretrained.load_from_weights(exp_id, part="transforms")
            save_animation(pictures / f"transformation_{exp_id}.gif", run, transforms, digits)


def draw_lost(record, pictures):
    """Draw how readers of cards get lost in their first steps, from results/lost_steps.json."""
    from lab.settings import SEED
    from stn import data
    from studies.lost import report

    figures.save(report.seen_figure(record), pictures / "LostSteps.png")
    cards, scenes = catalogue.datasets()["held-out cards"].built(data.load()), {}
    for run in report.shown_runs(record).values():
        cards.draw_epoch(SEED - 1 + int(run), 1)
        scenes[run] = cards.train_images[: report.N_SCENES, 0].numpy().copy()
    figures.save(report.outlines_figure(record, scenes), pictures / "LostOutlines.png")


def draw_papers(path):
    """Draw examples of the papers' distorted digits."""
    from stn import data
    from studies.paper import report

    digits, images = data.load(), {}
    few = digits._replace(test_images=digits.test_images[: report.EXAMPLES**2])
    for name in SIDES:
        made = catalogue.datasets()[name].built(few._replace(test_labels=few.test_labels[: len(few.test_images)]))
        images[name] = made.pixels(made.test_images[: len(few.test_images)])[:, 0].numpy()
    figures.save(report.examples_figure(images), path)


def draw_card(path, exp_id="exp_311", number=0):
    """Draw what extract_id.py makes of a test scene shown large, by a network in weights/."""
    from PIL import Image

    from digits import pretrained
    from studies.cards import detector

    network = pretrained.load(exp_id)
    scene = dataset_of(network.results).test_images[number, 0].numpy()
    photo = Image.fromarray(scene).resize((1024, 1024), Image.Resampling.BICUBIC).convert("RGB")
    card = detector.find_card(photo, network.model, detector.alignment(network))
    pictures = detector.outlined(photo, card), detector.straightened(photo, card)
    figures.save(figures.card_found(*map(np.asarray, pictures), card.number), path)


def write_docs(results, docs, pictures):
    """Write docs/results.md, and every figure of the documentation into `pictures`, from what is kept."""
    names = "runs", "steady", "swings", "perspective", "whole", "card"
    runs, steady, swings, *distorted = (read_json(results / f"{name}.json") for name in names)
    drawn = comparison_figures(runs)
    for made in distorted:
        drawn |= comparison_figures(made)
    for data in SIDES:
        if (path := results / f"paper_{data}.json").exists():
            drawn |= comparison_figures(read_json(path))
    drawn |= recipes_figure(runs, ALL, steady)
    drawn["StabilityCurves.png"] = accuracy_curves(swings)
    drawn["LongCurves.png"] = curves_figure(read_json(results / "long.json"), train_losses, LOSS)
    drawn["diagram.png"] = figures.network_diagram("")
    for name, drawing in drawn.items():
        if not (name.endswith("Curves.png") and name.startswith(PREFIXES)):  # these show nothing new
            figures.save(drawing, pictures / name)
    draw_shown(pictures)
    draw_card(pictures / "extract_id.png")
    draw_lost(read_json(results / "lost_steps.json"), pictures)
    draw_papers(pictures / "PaperDigits.png")
    write_text(docs / "results.md", page.results_document(results, ALL))


def as_in_the_table(run, plain=False):
    """Tell whether a run is its experiment's as the table has it, on MNIST: no short look and no variation."""
    experiment = ALL[run["experiment_name"].partition("_run_")[0]]
    full = run["n_epochs"] == experiment.epochs and run["plain_convolutions"] == plain
    return full and is_mnist(run["data"]) and not differences_from_row(run, experiment)


def complete(out, runs, exp_ids, plain=False):
    """Return the runs of a set as the table has it, of each experiment those whose numbers all of them have.

    Raise ValueError if there are none, or if code or machines differ.
    """
    full = {}  # {experiment: {number: run}}
    for exp_id in exp_ids:
        numbered = of_experiment(runs, ALL[exp_id])
        full[exp_id] = {number: run for number, run in numbered.items() if as_in_the_table(run, plain)}
    if missing := [exp_id for exp_id in exp_ids if not full[exp_id]]:
        raise ValueError(f"{out} has no full run of {', '.join(missing)}")
    numbers = sorted(set.intersection(*map(set, full.values())))
    if not numbers:
        raise ValueError(f"{out} has no number of which there is a full run of each experiment")
    complete_runs = {of_one[n]["experiment_name"]: of_one[n] for of_one in full.values() for n in numbers}
    if not comparable(complete_runs):
        raise ValueError("the runs differ in code or machine")
    return complete_runs


def record(out, name, runs, results):
    """Keep the runs of a complete set in results/<name>.json.

    The runs there count as well, if they come from the same code and machine; otherwise they are replaced.
    Of the formulations, <out> has the runs and <out>_plain the same in the plain form.
    Raise ValueError or OSError if the set is not complete.
    """
    path = results / f"{name}.json"
    if name == "formulations":
        plain_dir = f"{Path(out)}_plain"
        plain_runs, _ = drop_incompatible_runs(read_all(plain_dir)[0])
        kept = {"fast": complete(out, runs, RECORDS[name])}
        kept["plain"] = complete(plain_dir, plain_runs, RECORDS[name], plain=True)
    else:
        rows = {run_name: run for run_name, run in runs.items() if run_name.partition("_run_")[0] in RECORDS[name]}
        runs = {run_name: run for run_name, run in rows.items() if as_in_the_table(run)}
        together = (read_json(path) if path.exists() else {}) | runs
        kept = complete(out, together if runs and comparable(together) else runs, RECORDS[name])
    write_json(path, kept)


def keep(out, exp_ids, runs):
    """Keep the weights of run 01 of experiments in weights/, and print the paths.

    Raise ValueError, OSError or RunError if a run is not there, not whole, or not as the table has it.
    """
    from digits import pretrained

    for exp_id in exp_ids:
        name = ALL[exp_id].directory(1)
        if name not in runs or not as_in_the_table(runs[name]):
            raise ValueError(f"{out} has no full run 01 of {exp_id}")
        print(pretrained.keep(Path(out) / name, N_ANIMATED if exp_id in ANIMATED else 0))


def main():
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--out", default="experiments", metavar="FOLDER", help="where the runs are")
    add("--record", choices=RECORDS, help="keep the runs in results/NAME.json")
    add("--keep", nargs="+", choices=ALL, default=(), metavar="EXP", help="keep the weights of run 01 of these")
    add("--docs", action="store_true", help="write docs/results.md and .readme_figures/")
    options = cli.parse(parser)
    if options.docs:
        write_docs(ROOT / "results", ROOT / "docs", ROOT / ".readme_figures")
        return 0
    if not (options.record or options.keep):
        parser.error("--record, --keep or --docs is needed")
    if not Path(options.out).is_dir():
        parser.error(f"--out {options.out}: there is no such folder")
    try:
        runs, _ = read_runs(options.out)
        if not runs:
            print(f"records.py: no results in {options.out}; run_experiments.py makes them", file=sys.stderr)
            return 1
        if options.record:
            record(options.out, options.record, runs, ROOT / "results")
        keep(options.out, options.keep, runs)
    except (RunError, ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    cli.run(main)
