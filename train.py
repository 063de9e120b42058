"""Train one network, and leave behind all that is needed to look at it, to trust it and to go on with it.

    python train.py

trains `Net_CoordConv_Homography` into experiments/test, over whatever is there (as in exp_08 of run_experiments.py:
30 epochs, a few minutes on a CPU). `train()` does the same with any network of yours; it writes into
<out>/<experiment_name>/

    events.out.tfevents.*         TensorBoard: losses (nats per image), accuracies (%) and much more, see tensorboard.py
    settings.json                 what the run depends on
    checkpoint.pt                 weights, optimiser and history after the last complete epoch; transforms of 64 test
                                  images after each epoch
    checkpoint_previous.pt        the one before, used if the last is damaged
    weights.pt                    the final state_dict
    confusion_matrix.png
    visualized_transformation.png, class_statistics.png  what the transformer does
    results.json                  written last: a run that has it is finished
    failed.txt                    instead of it: why the run failed, if its numbers are not finite
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pickle
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import get_total_norm

from lab import figures, results
from lab.files import Damaged, Held, alone_in, read_sealed, unwritable, whole, write_json, write_sealed
from stn import measures, tensorboard
from stn.data import draw_epoch, epoch_order, epoch_seed, load
from stn.measures import has_transformer

N_EPOCHS = 30  # of `python train.py`, as in most of the experiments
BATCH_SIZE = 64  # the tutorial's
SEED = 123  # the original's; of run 01
THREADS = 1  # results differ between thread counts, so it is pinned; the cores are used by running side by side
# Operations that are called faster as a method of their first argument, which takes the same arguments.
SAME_AS_METHOD = (
    *("add_", "addcmul_", "addmm", "clone", "index_select", "mm", "mul", "mul_", "permute", "relu", "relu_", "repeat"),
    *("select", "sum", "t", "transpose", "view"),
)
N_SHOWN = 64  # test images whose transforms are drawn, and kept for every epoch
PACKAGES = ("torch", "torchvision", "kornia", "tensorboard", "numpy")
WRITTEN = (  # `results.json` first: without it a run does not look finished; no checkpoint outlives its settings
    *("results.json", "checkpoint.pt", "checkpoint_previous.pt", "failed.txt", "settings.json", "weights.pt"),
    *("confusion_matrix.png", "class_statistics.png", "visualized_transformation.png", "transformation.gif"),
    "events.out.tfevents.*",
)

WAY_OUT = "to replace it, run again with --force (in Python: overwrite=True), to keep it, choose another --out"


OPTIMIZERS = ("sgd", "adam")


class Recipe(NamedTuple):
    """How the weights move; by default as in the tutorial."""

    optimizer: str = "sgd"  # plain, or "adam" with torch.optim.Adam's betas and eps
    learning_rate: float = 0.01
    localisation_rate: float = 0.01  # of the parameters whose names begin with "loc_"
    localisation_norm: float | None = None  # the gradient to those is shortened to this norm where it is longer
    decay: bool = False  # both rates fall to 0 along a half cosine, from epoch to epoch

    def pace(self, epoch, n_epochs):
        """The factor of both rates in an epoch."""
        return (1 + math.cos(math.pi * (epoch - 1) / n_epochs)) / 2 if self.decay else 1.0


TUTORIAL = Recipe()


class RunError(Exception):
    """A run that cannot be made or went wrong; the message says which, why and what to do."""


def train(
    model,
    experiment_name,
    n_epochs=20,
    *,
    run=1,
    seed=SEED,
    arguments=None,
    recipe=TUTORIAL,
    data=None,
    out="experiments",
    device="cpu",
    overwrite=False,
    question="",
    log_images=tensorboard.LOG_IMAGES,
    report=None,
):
    """Train `model` by the recipe and return the content of its results.json.

    model: maps images (B, 1, 28, 28) to log-probabilities (B, 10); with a method `transform` (images -> images of
        the same shape) what the transformer does is drawn, with `homography` as in models.py it is also measured. Seed
        before you build it, for reproducible weights.
    experiment_name: the directory under `out`. If it holds the same run unfinished, that is continued after its last
        complete epoch, to the same result bit for bit; finished, its results are returned and `model` gets its weights;
        a run with other settings raises RunError unless `overwrite` asks for it to be replaced.
    run, arguments: recorded only (the run's number; the keyword arguments that made the model).
    seed: decides the order of the images and the dropout of every epoch. Sets torch's global seed.
    recipe: the optimiser and its learning rates.
    data: a `data.Dataset`; MNIST if None.
    device: "cpu", "cuda" or "cuda:N". A model with the attribute `repeatable` set, which says that it computes the
        same operations whatever the values, trains faster (see `recorded`), on a GPU several times: it must not
        branch on values, nor ask for one (`.item()`), nor make tensors from Python numbers.
    question: what the run is to answer; only shown, in TensorBoard.
    log_images: every how many epochs TensorBoard gets images and the parameters of the transformer; 0 for never.
    report: called as report(epoch, steps done, steps in all, last epoch's accuracy in % or None) now and then.
    """
    configure()
    data = (load() if data is None else data).to(device)
    plain = getattr(model, "plain", False)
    how = n_epochs, run, seed, data.description, device, plain, recipe
    settings = run_settings(experiment_name, model, arguments, *how)
    folder = Path(out) / experiment_name
    try:
        with alone_in(folder):
            if overwrite:
                remove_run(folder)
            state = state_of(folder, settings)
            if state == "finished":
                model.to(device).load_state_dict(load_tensors(folder / "weights.pt", device))
                return read_results(folder)
            if state == "failed":
                raise RunError(failure(folder))
            write_json(folder / "settings.json", settings)
            return train_on(model, settings, data, recipe, folder, question, log_images, report)
    except Held as by:
        raise RunError(f"{folder} is being trained by {by}; wait for it or choose another --out") from None
    except Damaged as error:
        raise RunError(f"{error}; {WAY_OUT}") from None
    except OSError as error:
        raise RunError(unwritable(folder, error)) from error


def train_on(model, settings, data, recipe, folder, question, log_images, report):
    """`train` after its preparations: from the last complete epoch to the end."""
    n_epochs, seed = settings["n_epochs"], settings["seed"]
    device = data.train_images.device
    model.to(device)
    moments = new_moments(model, recipe)
    history, transforms = load_checkpoint(folder, model, moments, device)
    predictions = conclusion = None
    pace = torch.ones((), device=device)
    step = training_step(model, data, recipe, pace, moments)
    with tensorboard.open_writer(folder, len(history)) as writer:
        if not history:
            tensorboard.start(writer, settings, question, model, data, log_images)
        for epoch in range(len(history) + 1, n_epochs + 1):
            started = time.perf_counter()
            torch.manual_seed(epoch_seed(seed, epoch))  # dropout; an epoch depends on (seed, epoch) alone
            order = epoch_order(len(data.train_labels), seed, epoch)
            draw_epoch(data, seed, epoch)
            pace.fill_(recipe.pace(epoch, n_epochs))
            accuracy = history[-1]["test_accuracy"] if history else None
            progress = report and (lambda *steps, epoch=epoch, last=accuracy: report(epoch, *steps, last))
            model.train()
            train_loss = train_epoch(step, order.to(device), progress)
            train_seconds = time.perf_counter() - started
            test_loss, predictions = evaluate(model, data.test_images, data.test_labels)
            if not all_finite(train_loss, test_loss, *model.state_dict().values(), *moments.values()):
                losses = f"train loss {train_loss}, test loss {test_loss}"
                fail(folder, f"the loss or a weight in epoch {epoch} is not finite ({losses})")
            correct = int((predictions == data.test_labels).sum())
            history.append(
                {
                    "epoch": epoch,
                    "train_loss": train_loss,
                    "test_loss": test_loss,
                    "test_correct": correct,
                    "test_accuracy": 100 * correct / len(predictions),
                    "train_seconds": round(train_seconds, 3),
                    "seconds": round(time.perf_counter() - started, 3),
                }
            )
            if epoch == n_epochs:
                conclusion = conclude(folder, model, data, predictions)
            # Before the checkpoint: a complete epoch is never missing its points.
            tensorboard.epoch_done(writer, model, data, history[-1], predictions, log_images, conclusion)
            if has_transformer(model):
                transforms.append(measures.homographies(model, data.test_images[:N_SHOWN]).cpu())
            state = {"model": model.state_dict(), "moments": moments, "history": history, "transforms": transforms}
            save_tensors(folder / "checkpoint.pt", state, previous=folder / "checkpoint_previous.pt")
    if predictions is None:  # all epochs were complete already
        _, predictions = evaluate(model, data.test_images, data.test_labels)
        conclusion = conclude(folder, model, data, predictions)
    return finish(folder, settings, model, history, predictions, conclusion)


def configure():
    """Settings of torch under which the same run gives the same bits, and the same arithmetic on every device."""
    torch.set_num_threads(THREADS)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def training_step(model, data, recipe=TUTORIAL, pace=1.0, moments=None):
    """Return a function that makes one step on the images of given indices and returns its loss, a scalar tensor.

    `pace`, a scalar tensor that may change between steps, multiplies the learning rates; `moments` are those of Adam
    (see `new_moments`), which each step changes. The updates are written out because torch's optimisers cannot be
    recorded on a CPU, and take longer.
    """
    names, parameters = zip(*trainable(model), strict=True)
    localises = [name.startswith("loc_") for name in names]
    rates = [recipe.localisation_rate if local else recipe.learning_rate for local in localises]
    pace = torch.as_tensor(pace, device=data.train_images.device)
    moments = moments or new_moments(model, recipe)

    def step(batch):
        images, labels = data.train_images.index_select(0, batch), data.train_labels.index_select(0, batch)
        loss = F.nll_loss(model(images), labels)
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True)  # 0 for one that has no part in it
        with torch.no_grad():
            if recipe.localisation_norm and any(localises):
                norm = get_total_norm(compress(grads, localises), foreach=False)
                factor = recipe.localisation_norm / norm.clamp(min=recipe.localisation_norm)
                grads = [grad * factor if shorten else grad for grad, shorten in zip(grads, localises, strict=True)]
            directions = adam_directions(grads, moments) if moments else grads
            for parameter, direction, rate in zip(parameters, directions, rates, strict=True):
                parameter.addcmul_(direction, pace, value=-rate)
        return loss.detach()

    return recorded(step, model, data, moments) if getattr(model, "repeatable", False) else step


def trainable(model):
    """The named parameters that are trained: [(name, parameter)]."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def new_moments(model, recipe):
    """What an optimiser remembers from step to step, as a flat dict of tensors; nothing for plain SGD."""
    if recipe.optimizer == "sgd":
        return {}
    named = trainable(model)
    zeros = {f"{kind} {name}": torch.zeros_like(p.detach()) for kind in ("mean", "square") for name, p in named}
    return {"steps": torch.zeros((), dtype=torch.float64, device=named[0][1].device), **zeros}


def adam_directions(grads, moments, beta1=0.9, beta2=0.999, eps=1e-8):
    """The steps of Adam (arXiv 1412.6980) for a learning rate of 1; updates the moments."""
    steps, *averages = moments.values()
    steps += 1
    for grad, mean, square in zip(grads, averages[: len(grads)], averages[len(grads) :], strict=True):
        mean.lerp_(grad, 1 - beta1)
        square.lerp_(grad.square(), 1 - beta2)
        yield mean / (1 - beta1**steps) / ((square / (1 - beta2**steps)).sqrt() + eps)


def recorded(step, model, data, moments):
    """`step` with its operations recorded once and repeated for every full batch, to the same bits.

    A third of a step of these small networks is the time from one operation to the next: in Python, in autograd, and
    on a GPU in launching a kernel. Repeating what was recorded takes 12 % off a step on a CPU, and most on a GPU.
    """
    device = data.train_images.device
    model.train()
    changed = [*model.parameters(), *model.buffers(), *moments.values()]
    before = [tensor.detach().clone() for tensor in changed]
    batch = torch.arange(BATCH_SIZE, device=device) % len(data.train_labels)
    repeat = cuda_graph(step, batch) if device.type == "cuda" else operations(step, batch)
    with torch.no_grad():
        for tensor, value in zip(changed, before, strict=True):  # recording is training, too
            tensor.copy_(value)
    return lambda batch: repeat(batch) if len(batch) == BATCH_SIZE else step(batch)  # an epoch's last batch is smaller


def operations(step, batch):
    """The operations of `step`, forward, backward and update, as one function without autograd and modules."""
    step(batch)  # what is computed once and kept for later must not become part of every step
    graph = make_fx(step)(batch)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.alias.default):
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            name = node.target.name().removeprefix("aten::").partition(".")[0]
            if name in SAME_AS_METHOD:
                node.op, node.target = "call_method", name
    graph.recompile()
    return torch.no_grad()(graph)


def cuda_graph(step, batch):
    """`step` as one CUDA graph, launched at once instead of kernel by kernel.

    The seed of the dropout is read when a graph is launched, so that torch.manual_seed works as without it.
    """
    torch.cuda.set_device(batch.device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch's documentation asks: a few ordinary steps before the capture
        for _ in range(3):
            step(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(batch)

    def replay(other):
        batch.copy_(other)
        graph.replay()
        return loss

    return replay


def train_epoch(step, order, progress=None):
    """One pass over the training images in `order` (N,). Returns the mean loss per image, in training mode.

    It ends early where the loss is not finite, which is looked at now and then.
    """
    batches = order.split(BATCH_SIZE)
    total = torch.zeros((), device=order.device)  # on the device: reading it at every step would stall a GPU
    for number, batch in enumerate(batches):
        total += step(batch) * len(batch)
        if number % 50 == 0:
            if not all_finite(total):
                break
            if progress:
                progress(number, len(batches))
    return total.item() / len(order)


def all_finite(*values):
    """Whether no number and no element of a tensor among `values` is NaN or infinite."""
    return all(torch.as_tensor(value).isfinite().all() for value in values)


def fail(folder, reason):
    """End a run and mark it as failed, so that it is not continued as if nothing had happened."""
    with whole(folder / "failed.txt") as path:
        path.write_text(reason, encoding="utf-8")
    raise RunError(failure(folder))


def failure(folder):
    """Why the run in `folder` is marked as failed, and what to do."""
    reason = (folder / "failed.txt").read_text(encoding="utf-8")
    return f"{folder} failed: {reason}; {WAY_OUT}, to try again after the last good epoch, delete failed.txt"


@torch.inference_mode()
def evaluate(model, images, labels):
    """Mean loss per image, and the predicted class of each (N,)."""
    model.eval()
    scores = torch.cat([model(batch) for batch in measures.batches(images)])
    return F.nll_loss(scores, labels).item(), scores.argmax(dim=1)


class Conclusion(NamedTuple):
    """What was found when a network had been trained, see `conclude`."""

    confusion: list  # see `measures.confusion`
    confusion_png: Path
    transformer: measures.TransformerMeasures | None


def conclude(folder, model, data, predictions):
    """Measure a trained network on the test images and draw the figures of its run: a `Conclusion`.

    predictions: the predicted classes of the test images (N,).
    """
    name = folder.name
    found = Conclusion(
        measures.confusion(data.test_labels, predictions),
        folder / "confusion_matrix.png",
        measures.of_transformer(model, data),
    )
    figures.save(figures.confusion_matrix(found.confusion, name), found.confusion_png)
    if hasattr(model, "transform"):
        draw_transforms(folder, name, model, data)
    if found.transformer:
        figures.save(figures.class_statistics(*found.transformer.statistics, name), folder / "class_statistics.png")
    return found


def finish(folder, settings, model, history, predictions, conclusion):
    """Write the weights and, last of all, results.json; return the content of the latter."""
    name = settings["experiment_name"]
    correct = sum(counts[digit] for digit, counts in enumerate(conclusion.confusion))
    save_tensors(folder / "weights.pt", model.state_dict())
    content = {
        "experiment_name": name,
        "avg_test_loss": history[-1]["test_loss"],
        "test_accuracy": 100 * correct / len(predictions),
        "test_correct": correct,
        "test_total": len(predictions),
        **{key: value for key, value in settings.items() if key != "experiment_name"},
        "live_parameters": sum(parameter.numel() for _, parameter in trainable(model)),
        "seconds": round(sum(epoch["seconds"] for epoch in history), 1),
        "device_name": torch.cuda.get_device_name(predictions.device) if predictions.is_cuda else processor_name(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "git_commit": git_commit(),
        "transformer": conclusion.transformer and conclusion.transformer.numbers,
        "confusion_matrix": conclusion.confusion,
        "history": history,
        "predictions": "".join(map(str, predictions.tolist())),  # one digit per test image, in the set's order
    }
    write_json(folder / "results.json", content)
    return content


@torch.inference_mode()
def draw_transforms(folder, name, model, data):
    """Draw the first test images before and after the transformer, and the frames that it reads, if it has any."""
    model.eval()
    images = data.test_images[:N_SHOWN]
    shown = (data.pixels(both)[:, 0].cpu() for both in (images, model.transform(images)))
    frames = measures.frames(measures.homographies(model, images)).cpu() if has_transformer(model) else None
    figures.save(figures.transformed_digits(*shown, name, frames), folder / "visualized_transformation.png")


def run_settings(experiment_name, model, arguments, n_epochs, run, seed, data, device, plain=False, recipe=TUTORIAL):
    """What the result of a run depends on; a run may only be continued with the same. Raises RunError."""
    if not re.fullmatch(r"\w[\w.-]*", experiment_name):
        raise RunError(f"an experiment's name is letters, digits, '_', '-' and '.', not {experiment_name!r}")
    if n_epochs < 1:
        raise RunError(f"{experiment_name}: at least one epoch is needed, not {n_epochs}")
    rates = recipe.learning_rate, recipe.localisation_rate, recipe.localisation_norm or 1.0
    if recipe.optimizer not in OPTIMIZERS or not all(0 < rate < math.inf for rate in rates):
        raise RunError(f"{experiment_name}: a recipe has positive numbers and one of {OPTIMIZERS}, not {recipe}")
    tensors = repr([(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()])
    settings = {
        "experiment_name": experiment_name,
        "model": type(model).__name__,
        "arguments": arguments or {},
        "state_dict": hashlib.md5(tensors.encode(), usedforsecurity=False).hexdigest(),  # of its names and shapes
        "n_epochs": n_epochs,
        "run": run,
        "seed": seed,
        "batch_size": BATCH_SIZE,
        **recipe._asdict(),
        "data": data,
        "device": torch.device(device).type,
        "threads": THREADS,
        "plain_convolutions": plain,  # see models.Net.plain
    }
    return json.loads(json.dumps(settings))  # as they will be read again: a tuple is a list there


def state_of(folder, settings):
    """ "new", "unfinished", "failed" or "finished". Raises RunError if `folder` holds a run with other settings."""
    decisive = ("settings.json", "checkpoint.pt", "checkpoint_previous.pt", "results.json")
    if not any(os.path.exists(folder / name) for name in decisive):
        return "new"
    there = None
    with contextlib.suppress(OSError, ValueError):  # no readable settings differ from any
        there = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    if not isinstance(there, dict):
        there = {}
    different = [key for key in settings if there.get(key) != settings[key]]
    if different:
        what = ", ".join(f"{key} {there.get(key, 'unknown')} instead of {settings[key]}" for key in different)
        raise RunError(f"{folder} holds a run with {what}; {WAY_OUT}")
    if (folder / "failed.txt").exists():
        return "failed"
    return "finished" if (folder / "results.json").exists() else "unfinished"


def read_results(folder):
    """The content of the results.json in `folder`. Raises RunError if it is not what `train` writes."""
    try:
        return results.read(folder / "results.json")
    except ValueError as error:
        raise RunError(f"{folder / 'results.json'} is broken ({error}); {WAY_OUT}") from None


def remove_run(folder):
    """Delete the files that a run writes into its folder, and nothing else."""
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            path.unlink()


def load_checkpoint(folder, model, moments, device):
    """Put the state after the last complete epoch into `model` and `moments`; return the history, [] if none, and the
    transforms of the first test images after each epoch, [(N_SHOWN, 3, 3), ...].

    A damaged checkpoint is named on stderr and deleted, and the one before is used.
    """
    damaged = False
    for path in (folder / "checkpoint.pt", folder / "checkpoint_previous.pt"):
        try:
            state = load_tensors(path, device)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged = True
            print(f"{error}; it is deleted", file=sys.stderr)
            path.unlink()
            continue
        model.load_state_dict(state["model"])
        for name, tensor in moments.items():
            tensor.copy_(state["moments"][name])
        if damaged:
            print(f"{folder} goes on from {path.name}, after epoch {len(state['history'])}", file=sys.stderr)
        return state["history"], [homographies.cpu() for homographies in state["transforms"]]
    if damaged:
        print(f"{folder} has no good checkpoint and starts again from epoch 1", file=sys.stderr)
    return [], []


def save_tensors(path, content, previous=None):
    """torch.save to a file that is whole and sealed (see files.py); the same content gives the same bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_sealed(path, buffer.getvalue(), previous)


def load_tensors(path, device):
    """What `save_tensors` wrote. Raises OSError (Damaged if the file is), and RunError if it would run code."""
    content = read_sealed(path)
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"{path} holds more than tensors and plain values ({reason}); {WAY_OUT}") from None


def git_commit():
    """The commit of this code, "-dirty" appended if a tracked file differs from it; None outside a repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor_name():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main():
    """The command line of this file: it has no options but --help."""
    import argparse

    from tqdm import tqdm

    from models import Net_CoordConv_Homography
    from stn.data import DataError

    usage, _, rest = __doc__.partition("\n\n")
    argparse.ArgumentParser(
        description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    ).parse_args()
    torch.manual_seed(SEED)
    arguments = {"padding": "background"}
    model = Net_CoordConv_Homography(**arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
    seconds = 0.1 if sys.stderr.isatty() else 30  # from one picture of the bar to the next
    with tqdm(total=1.0, desc="test", bar_format=form, mininterval=seconds) as bar:

        def report(epoch, step, steps, accuracy):
            bar.set_description(f"test, epoch {epoch}" + (f" ({accuracy:.2f} %)" if accuracy else ""), refresh=False)
            bar.update((epoch - 1 + step / steps) / N_EPOCHS - bar.n)

        try:
            how = {"arguments": arguments, "recipe": Recipe(localisation_rate=0.001), "device": device}
            done = train(model, "test", N_EPOCHS, **how, overwrite=True, report=report)
        except (RunError, DataError, OSError) as error:
            sys.exit(f"train.py: {error}")
        except KeyboardInterrupt:
            bar.close()
            print("Interrupted: the same command starts again.")
            sys.exit(130)
    print(f"test accuracy {done['test_accuracy']:.2f} % after {done['n_epochs']} epochs; see experiments/test")


if __name__ == "__main__":
    main()
