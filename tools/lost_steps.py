"""Follow readers of cards through their first steps, each with one possible cause of losing the card changed.

    python tools/lost_steps.py --out results/lost_steps.json

trains 300 steps of exp_50 for runs 21 to 40, in each of the `VARIANTS`, by the plain loop. Runs of one number have the
same initial weights and batches wherever their variant does not say otherwise. At the steps `MEASURED` it looks, in 64
scenes of the first epoch, where the corners are and which share of the number the classifier sees.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import islice, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import fast
from lab import cli
from lab.catalogue import datasets
from lab.files import write_json
from lab.folder import available_cores, provenance
from lab.settings import BATCH_SIZE, SEED
from run_experiments import run_numbers
from stn import warps
from stn.data import epoch_order, epoch_seed, load
from studies.cards import geometry
from studies.cards import metrics as card_metrics
from studies.lost import CONSTANT, PASSES, QUARTER
from studies.lost.networks import Net_Card_Candidate
from train import PlainTraining, configure

N_STEPS, N_SCENES = 300, 64
MEASURED = {*range(0, 40, 2), *range(40, N_STEPS + 1, 10)}  # numbers of steps after which it looks
COMMAND = "python tools/lost_steps.py --out results/lost_steps.json"
OTHER = 100  # added to the number of a run for other weights or other batches
WAIT = 94  # steps, one epoch
N_SHOWN, SHOWN_AT = 4, (0, 10, 20, 40, 100, N_STEPS)  # scenes whose outlines are kept, and after which steps


class Net_Card_Last_Gradient(Net_Card_Candidate):
    """The same, but no gradient goes back through a pass to those before it: only the last one teaches."""

    def refine(self, x, homographies):
        return super().refine(x, homographies.detach())


# What is changed, in the words of docs/lost.md.
VARIANTS = {
    "as it is": {},
    "a quarter of the rate": {"recipe": QUARTER},
    "the leash": {"arguments": {"leash": 1.0}},
    "other batches": {"batches": OTHER},
    "other initial weights": {"weights": OTHER},
    "one pass": {"arguments": {"passes": 1}},
    "two passes": {"arguments": {"passes": 2}},
    "gradient of the last pass only": {"network": Net_Card_Last_Gradient},
    "gradient clipped to a tenth": {"recipe": CONSTANT._replace(localisation_norm=0.1)},
    "Adam with steps by the size of the gradient": {"eps": 0.01},
    "localisation network learns from the second epoch on": {"wait": WAIT},
}


def follow(
    run,
    recipe=CONSTANT,
    network=Net_Card_Candidate,
    arguments=None,
    batches=0,
    weights=0,
    eps=1e-8,
    wait=0,
    n_steps=N_STEPS,
):
    """Train the first steps of a run and return what is seen of it, {name: [value at each of the steps `MEASURED`]}.

    batches, weights: added to the number of the run that decides these. eps: of Adam, for the localisation network.
    wait: its first steps, in which it does not learn.
    """
    configure()
    data, seed = held_out_cards(), SEED - 1 + run + batches
    torch.manual_seed(SEED - 1 + run + weights)
    model = network(**{"passes": PASSES} | (arguments or {}))
    training = PlainTraining(model, data, recipe)
    local = training.optimizer.param_groups[1]
    local["eps"], rate = eps, local["lr"]
    trace = {"seen": [], "corners": [], "gradient": [], "outlines": []}
    with fast.accelerated(model, "cpu"):
        for step, batch in enumerate(islice(epochs_of(data, seed), n_steps)):
            if step == 0:
                scenes, truth = data.train_images[:N_SCENES].clone(), data.train_homographies[:N_SCENES].clone()
            if step in MEASURED:
                measure(model, scenes, truth, step, trace)
            local["lr"] = rate if step >= wait else 0.0
            model.train()
            training.step(batch)
            if step in MEASURED:
                norms = [weight.grad.norm() for weight in training.localiser if weight.grad is not None]
                trace["gradient"].append(float(f"{torch.stack(norms).norm():.3g}"))  # after the clipping
        measure(model, scenes, truth, n_steps, trace)
    return trace


def epochs_of(data, seed):
    """Yield the batches of indices of one epoch after the other, and make the scenes those of each epoch."""
    for epoch in range(1, sys.maxsize):
        torch.manual_seed(epoch_seed(seed, epoch))
        data.draw_epoch(seed, epoch)
        yield from epoch_order(len(data.train_labels), seed, epoch).split(BATCH_SIZE)


@torch.no_grad()
def measure(model, scenes, truth, step, trace):
    """Add to a trace the share that is seen, and in pixels of the scene the median corners and some outlines."""
    model.eval()
    homographies = model.homography(scenes)
    trace["seen"].append(round(card_metrics.field_seen(homographies, truth), 4))
    corners = warps.to_pixels(geometry.card_corners(homographies), geometry.SCENE, geometry.SCENE)
    trace["corners"].append(rounded(corners.median(0).values))
    if step in SHOWN_AT:
        trace["outlines"].append(rounded(corners[:N_SHOWN]))


def rounded(positions):
    """List positions, to a tenth of a pixel."""
    return [round(value, 1) for value in positions.flatten().tolist()]


@lru_cache
def held_out_cards():
    """Return the data set, made once in each process."""
    return datasets()["held-out cards"].built(load())


def follow_variant(task):
    name, run = task
    return follow(run, **VARIANTS[name])


def main():
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="FILE", help="what it has already is not done again")
    add("--runs", type=run_numbers, default="21-40", metavar="N", help="as for run_experiments.py (default: 21-40)")
    add("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT", help="some of the variants")
    jobs = "processes at a time (default: one a core)"
    add("--jobs", type=cli.whole_number(1, 1024), default=available_cores(), metavar="N", help=jobs)
    options = cli.parse(parser)
    done = json.loads(options.out.read_text())["variants"] if options.out.exists() else {}
    tasks = [task for task in product(options.only, options.runs) if str(task[1]) not in done.get(task[0], {})]
    steps = {"steps": sorted(MEASURED), "shown_at": SHOWN_AT}
    with ProcessPoolExecutor(options.jobs) as pool:
        for (name, run), trace in zip(tasks, pool.map(follow_variant, tasks), strict=True):
            done.setdefault(name, {})[str(run)] = trace
            print(f"{name}, run {run}: {100 * trace['seen'][-1]:.0f} % of the numbers seen at the end", flush=True)
            write_json(options.out, {"command": COMMAND, **steps, **provenance(), "variants": done})


if __name__ == "__main__":
    main()
