"""Train one network, and write its checkpoints, TensorBoard logs, figures and results.json.

    python train.py

trains `Net_CoordConv_Homography` into experiments/test and overwrites what is there (as exp_08: 30 epochs, a few
minutes on a CPU). `train()` does the same with any network of yours. What is written: see lab/folder.py.
"""

import math
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.parameter import is_lazy

from lab import cli, figures, folder, results
from lab.catalogue import build_network, datasets, find_network, spec_of
from lab.files import Damaged, unwritable, write_json
from lab.progress import Display
from lab.settings import SEED, THREADS, TUTORIAL, Recipe, RunError, Settings, fingerprint
from stn import tensorboard
from stn.checkpoint import (
    code_of,
    load_checkpoint,
    load_finished,
    save_checkpoint,
    save_tensors,
    structure,
    weights_signature,
)
from stn.data import epoch_order, epoch_seed, load, metrics_of
from stn.metrics import N_SEEN, N_SHOWN, TransformerMeasures, batches, confusion, has_transformer, homographies
from stn.mnist import DataError
from stn.step import is_localisation, loss_of, trainable, unchanged

STEPS_BETWEEN_CHECKS = 50  # steps from one look at the loss, and one call of `on_progress`, to the next


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
    plain=False,
    overwrite=False,
    question="",
    log_images=tensorboard.LOG_IMAGES,
    on_progress=None,
):
    """Train `model` by the recipe and return the content of its results.json.

    model: maps images (B, 1, 28, 28) to log-probabilities (B, 10); with a method `transform` (images -> images of
        that shape) what the transformer does is drawn, with `homography` as in models.py it is also measured. If the
        model has a method `loss`, `loss(*batch)` is used instead of the negative log-likelihood. A method `start_epoch`
        is called with the number of each epoch and how many there are. Seed before you build it, for reproducible
        weights.
    experiment_name: the directory under `out`. If it holds the same run unfinished, that is continued after its last
        complete epoch, to the same result bit for bit; finished, its results are returned and `model` gets its weights
        (other code is named on stderr); a run with other settings raises RunError unless `overwrite` asks for it to be
        replaced.
    run, arguments: the run's number and the keyword arguments that made the model; only recorded.
    seed: decides the order of the images and the dropout of every epoch. Sets torch's global seed.
    recipe: the optimiser and its learning rates.
    data: a `stn.data.Dataset`; MNIST if None.
    plain: train by the plain loop of this file and torch's own layers, whatever fast/ could do.
    device: "cpu", "cuda" or "cuda:N". A model with the attribute `repeatable` set trains faster (see fast/step.py), on
        a GPU several times. Set `repeatable` only if the same operations run for all values: no branches on values, no
        `.item()`, no tensors from Python numbers.
    question: what the run is to answer; only shown, in TensorBoard.
    log_images: every how many epochs TensorBoard gets images and the parameters of the transformer; 0 for never.
    on_progress: called as on_progress(epoch, steps done, steps in all, last) now and then. last: the previous epoch's
        entry of the history, plus `lost_epoch`, the epoch in which the digits were lost, or None. In the first epoch
        `last` is None.
    """
    data = load() if data is None else data
    if folder.code_changed(spec_of(data.description).sources):
        raise RunError(f"{experiment_name}: the code has changed since it was imported; start Python again")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # the last one: torch has been built without CUDA
        raise RunError(f"{experiment_name}: device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    if lazy_names(model):  # its first images decide the sizes
        check_outputs(model.to(device), data, device, experiment_name)
        if names := lazy_names(model):
            raise RunError(f"{experiment_name}: {', '.join(names)} have no size: their layers are never called")
    run_fields = {"run": run, "seed": seed, "recipe": recipe, "plain": plain}
    settings = settings_of(model, experiment_name, arguments, n_epochs, data.description, device, **run_fields)
    return train_run(model, settings, data, out, device, overwrite, question, log_images, on_progress)


def lazy_names(model):
    """List the names of the parameters and buffers whose sizes the first images decide."""
    named = (*model.named_parameters(), *model.named_buffers())
    return [name for name, tensor in named if is_lazy(tensor)]


def build(experiment, seed):
    """Return a new network of an `Experiment`; the seed decides its initial weights.

    Raise RunError if neither models.py nor a study has a network of that name.
    """
    kind = find_network(experiment.model)
    if kind is None:
        raise RunError(f"{experiment.id}: neither models.py nor a study has a network {experiment.model}")
    torch.manual_seed(seed)
    return build_network(kind, experiment.arguments, datasets()[experiment.data])


def settings_of(model, experiment_name, arguments, n_epochs, data, device, plain=False, **run_fields):
    """Return the `Settings` of a run. data: the description of a data set. Raise RunError if they are invalid."""
    kind_of_device = torch.device(device).type
    run_fields["plain_convolutions"] = plain or not (fast_package() and fast_package().is_available(kind_of_device))
    run_fields |= {"device": kind_of_device, "code": code_of(model, data), "git_commit": folder.git_commit()}
    run_fields |= {"versions": folder.versions(), "structure": structure(model)}
    kind, signature = type(model).__name__, weights_signature(model)
    return Settings(experiment_name, kind, arguments or {}, signature, n_epochs, data, **run_fields)


def train_run(model, settings, data, out, device, overwrite, question, log_images, on_progress):
    """Train what `settings` describe, from the last complete epoch to the end; see `train`."""
    configure()
    run_dir, recorded = Path(out) / settings.experiment_name, settings.as_json()
    try:
        with folder.run_lock(run_dir):
            if overwrite:
                folder.remove_run(run_dir)
            state = folder.state_of(run_dir, recorded)
            if state == "finished":
                return take_finished(run_dir, model.to(device), settings, device)
            if state == "failed":
                raise RunError(folder.failure(run_dir))
            if code_of(model, settings.data) != settings.code:
                raise RunError(f"{run_dir}: the code has changed since this command was started; start it again")
            check_outputs(model.to(device), data, device, settings.experiment_name)
            data = data.to(device)
            clock = Clock()
            fast = None if settings.plain_convolutions else fast_package()
            with fast.accelerated(model, settings.device) if fast else nullcontext():
                training = new_training(model, data, settings, fast)
                device_name = (
                    torch.cuda.get_device_name(device) if settings.device == "cuda" else folder.processor_name()
                )
                recorded["device_name"] = folder.devices(run_dir, device_name)
                write_json(run_dir / "settings.json", recorded)
                history, predictions, conclusion = epochs(
                    model, settings, data, training, clock, run_dir, question, log_images, on_progress
                )
            return finish(run_dir, recorded, model, history, predictions, conclusion)
    except folder.Locked as by:
        raise RunError(f"{run_dir} is being trained by {by}; wait for it or choose another --out") from None
    except Damaged as error:
        raise RunError(f"{error}; {folder.WAY_OUT}") from None
    except OSError as error:
        raise RunError(unwritable(run_dir, error)) from error


def take_finished(run_dir, model, settings, device):
    """Put the weights of a finished run into `model` and return its results; say on stderr if its code was another.

    Raise RunError if the weights do not belong to the results.
    """
    run_results, weights = load_finished(run_dir, device)
    if run_results["code"] != settings.code or settings.code is None:
        print(f"{run_dir}: already finished, with {folder.other_code(run_results)}", file=sys.stderr)
    model.load_state_dict(weights)
    return run_results


@torch.no_grad()  # not in inference mode: what a network makes there and keeps could not be trained with
def check_outputs(model, data, device, name):
    """Raise RunError if a network has nothing to train or does not give log-probabilities of test images.

    They are (B, 10) of one digit in each image, or (B, 10, D) of D digits.
    """
    if not trainable(model):
        raise RunError(f"{name}: the network has no parameter to train")
    images, n_digits = data.test_images[:2].to(device), data.test_labels.shape[1:]
    with as_run_error(name, f"the network fails on images {tuple(images.shape)}"):
        scores = model.eval()(images)
    shape = tuple(getattr(scores, "shape", ()))
    if shape != (wanted := (len(images), results.N_CLASSES, *n_digits)):
        raise RunError(f"{name}: the network gives {shape} of {len(images)} images, not log-probabilities {wanted}")
    sums = scores.double().exp().sum(1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise RunError(f"{name}: the network's rows are not log-probabilities: it should end with log_softmax")


@contextmanager
def as_run_error(name, what):
    """Raise RunError, in one line, for whatever your own network raises here."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{name}: {what}: {type(error).__name__}: {reason}") from error


def configure():
    """Set torch so that the same run gives the same bits, with the same arithmetic on every device."""
    torch.set_num_threads(THREADS)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


class PlainTraining:
    """The training steps of a run, as one reads them: forward, loss, backward, two groups of parameters, update."""

    def __init__(self, model, data, recipe):
        self.model, self.data, self.recipe = model, data, recipe
        rates, named = recipe.as_settings(), trainable(model)
        self.localiser = [parameter for name, parameter in named if is_localisation(name)]
        groups = [
            {"params": [p for name, p in named if not is_localisation(name)], "lr": rates["learning_rate"]},
            {"params": self.localiser, "lr": rates["localisation_rate"]},
        ]
        self.optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[recipe.optimizer](groups)
        self.rates = [group["lr"] for group in groups]

    def step(self, batch):
        """Make a step on the training images of given indices (B,); return its mean loss, a scalar."""
        loss = loss_of(self.model, *self.data.batch(batch))
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.localisation_norm:
            torch.nn.utils.clip_grad_norm_(self.localiser, self.recipe.localisation_norm)
        self.optimizer.step()
        return loss.detach()

    def scale_rates(self, factor):
        """Multiply the learning rates of the recipe, for the steps from now on."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self):
        """Return what the optimiser remembers from step to step."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)


def fast_package():
    """Return the package fast/, None without it."""
    try:
        import fast
    except ImportError:
        return None
    return fast


def new_training(model, data, settings, fast=None):
    """Prepare the training of a network, and do a trial step on a full batch and on the last, smaller one.

    The network stays as it is. Raise RunError if either fails: the last may be of one image only, say, which batch
    normalisation refuses. fast: the package fast/, None for the plain loop.
    """
    name, n, batch_size = settings.experiment_name, len(data.train_labels), settings.recipe.batch_size
    with as_run_error(name, "a training step cannot be recorded (see `repeatable` in the docstring of train)"):
        training = (fast.new_training if fast else PlainTraining)(model, data, settings.recipe)
    for size in sorted({min(n, batch_size), n % batch_size} - {0}, reverse=True):
        what = f"a training step on a batch of {size} image{'s' if size > 1 else ''} fails"
        with unchanged(model, training), as_run_error(name, what):
            model.train()
            training.step(torch.arange(size, device=data.train_images.device))
    return training


def epochs(model, settings, data, training, clock, run_dir, question, log_images, on_progress):
    """Train the epochs that are missing. Return the history, the predictions of the test images, and a `Conclusion`."""
    recipe, n_epochs, seed = settings.recipe, settings.n_epochs, settings.seed
    owner, device = fingerprint(settings.as_json()), data.train_images.device
    history, transforms = load_checkpoint(run_dir, owner, model, training, device)
    predictions = conclusion = None
    with tensorboard.open_writer(run_dir, history) as writer:
        if not history:
            tensorboard.start(writer, settings.as_json(), question, model, data, log_images)
        for epoch in range(len(history) + 1, n_epochs + 1):
            clock.lap()
            torch.manual_seed(epoch_seed(seed, epoch))  # dropout; an epoch depends on (seed, epoch) alone
            order = epoch_order(len(data.train_labels), seed, epoch)
            data.draw_epoch(seed, epoch)
            if hasattr(model, "start_epoch"):
                model.start_epoch(epoch, n_epochs)
            training.scale_rates(recipe.lr_scale(epoch, n_epochs))
            last = history[-1] | {"lost_epoch": results.lost_epoch({"history": history})} if history else None
            progress = on_progress and (lambda *steps, epoch=epoch, last=last: on_progress(epoch, *steps, last))
            model.train()
            train_loss = train_epoch(training.step, order.to(device).split(recipe.batch_size), progress)
            train_seconds = clock.lap()
            n_tested = data.n_test_each_epoch if epoch < n_epochs else None
            labels = data.test_labels[:n_tested]
            test_loss, predictions = evaluate(model, data.test_images[:n_tested], labels)
            test_seconds = clock.lap()
            if not all_finite(
                train_loss, test_loss, *tensors_in(model.state_dict()), *tensors_in(training.state_dict())
            ):
                losses = f"train loss {train_loss}, test loss {test_loss}"
                folder.fail(run_dir, f"the loss or a weight in epoch {epoch} is not finite ({losses})")
            correct = int((predictions == labels).view(len(labels), -1).all(1).sum())
            entry = {
                "epoch": epoch,
                "train_loss": train_loss,
                "test_loss": test_loss,
                "test_correct": correct,
                "test_total": len(labels),
                "test_accuracy": 100 * correct / len(labels),
                "train_seconds": train_seconds,
                "test_seconds": test_seconds,
            }
            if has_transformer(model):
                first_ones = homographies(model, data.test_images[:N_SEEN])
                transforms.append(first_ones[:N_SHOWN].cpu().clone())
                entry["seen"] = round(metrics_of(data).share_seen(data, first_ones), 4)
            if epoch == n_epochs:
                conclusion = conclude(run_dir, model, data, predictions)
            clock.lap()
            # Before the checkpoint: a complete epoch is never missing its points.
            tensorboard.epoch_done(writer, model, data, entry, predictions, log_images, conclusion)
            entry["log_seconds"] = clock.lap()
            # All that is not in the three: preparations, measures and figures, the checkpoint of the epoch before.
            entry["other_seconds"] = clock.rest(train_seconds + test_seconds + entry["log_seconds"])
            history.append(entry)
            save_checkpoint(run_dir, owner, model, training, history, transforms)
    if predictions is None:  # all epochs were complete already
        _, predictions = evaluate(model, data.test_images, data.test_labels)
        conclusion = conclude(run_dir, model, data, predictions)
    return history, predictions, conclusion


class Clock:
    """Seconds since the last look, to the millisecond."""

    def __init__(self):
        self.last = self.counted = time.perf_counter()

    def lap(self):
        """Return the seconds since the last lap."""
        before, self.last = self.last, time.perf_counter()
        return round(self.last - before, 3)

    def rest(self, accounted):
        """Return the seconds since the last call, or the start, less those that are accounted for already."""
        before, self.counted = self.counted, time.perf_counter()
        return round(max(0.0, self.counted - before - accounted), 3)


def train_epoch(step, batches, on_progress=None):
    """Pass once over the training images. Return the mean loss per image, in training mode.

    batches: indices of images, several (B,). Stop early if the loss is not finite; checked every 50 steps.
    """
    total = torch.zeros((), device=batches[0].device)  # on the device: reading it at every step would stall a GPU
    for number, batch in enumerate(batches):
        total += step(batch) * len(batch)
        if number % STEPS_BETWEEN_CHECKS == 0:
            if not all_finite(total):
                break
            if on_progress:
                on_progress(number, len(batches))
    return total.item() / sum(map(len, batches))


def tensors_in(state):
    """List the tensors of a state dict, nested or not."""
    if isinstance(state, torch.Tensor):
        return [state]
    return [tensor for value in state.values() for tensor in tensors_in(value)] if isinstance(state, dict) else []


def all_finite(*values):
    """Tell whether no number and no element of a tensor among `values` is NaN or infinite."""
    return all(torch.as_tensor(value).isfinite().all() for value in values)


@torch.inference_mode()
def evaluate(model, images, labels):
    """Return the mean loss per digit, NaN if any score is, and the predicted classes, in the shape of the labels.

    labels: (N,), or (N, D) of images with several digits.
    """
    model.eval()
    scores = torch.cat([model(batch) for batch in batches(images)])
    loss = F.nll_loss(scores, labels).item()
    return math.nan if scores.isnan().any() else loss, scores.argmax(dim=1)


class Conclusion(NamedTuple):
    """What `conclude` measures when a network has been trained."""

    confusion: list  # counts of all digits, see `stn.metrics.confusion`
    confusion_png: Path
    transformer: TransformerMeasures | None


def conclude(run_dir, model, data, predictions):
    """Measure a trained network on the test images and draw the figures of its run into `run_dir`.

    predictions: the predicted classes of the test images, in the shape of their labels.
    """
    name, metrics = run_dir.name, metrics_of(data)
    conclusion = Conclusion(
        confusion(data.test_labels, predictions),
        run_dir / "confusion_matrix.png",
        metrics.measure_transformer(model, data),
    )
    figures.save(figures.confusion_matrix(conclusion.confusion, name), conclusion.confusion_png)
    if hasattr(model, "transform"):
        figures.save(metrics.draw_transforms(model, data, name), run_dir / "visualized_transformation.png")
    if conclusion.transformer and conclusion.transformer.statistics:
        figures.save(
            figures.class_statistics(*conclusion.transformer.statistics, name), run_dir / "class_statistics.png"
        )
    return conclusion


def finish(run_dir, settings, model, history, predictions, conclusion):
    """Write the weights and, last of all, results.json; return the content of the latter."""
    correct = history[-1]["test_correct"]
    weights = save_tensors(run_dir / "weights.pt", model.state_dict(), fingerprint(settings))
    run_results = {
        "experiment_name": run_dir.name,
        "avg_test_loss": history[-1]["test_loss"],
        "test_accuracy": 100 * correct / len(predictions),
        "test_correct": correct,
        "test_total": len(predictions),
        **{key: value for key, value in settings.items() if key != "experiment_name"},
        "trainable_parameters": sum(parameter.numel() for _, parameter in trainable(model)),
        "seconds": round(sum(epoch[part] for epoch in history for part in results.PARTS), 1),
        **folder.provenance(settings["device_name"]),
        "git_commit": settings["git_commit"],  # at the start, as is the code
        "weights": weights,  # the seal of weights.pt
        "events": folder.event_seals(run_dir),
        "transformer": conclusion.transformer and conclusion.transformer.numbers,
        "confusion_matrix": conclusion.confusion,
        "history": history,
        "predictions": "".join(
            map(str, predictions.flatten().tolist())
        ),  # the digits of the test images, in their order
    }
    results.write(run_dir / "results.json", run_results)
    return run_results


def main(n_epochs=30, data=None):
    """Train the network of exp_08 into experiments/test; there are no options but --help.

    n_epochs, data: other ones for a short look, see `train`.
    """
    from models import Net_CoordConv_Homography

    cli.parse(cli.new_parser(__doc__))
    name, arguments, recipe = "test", {"padding": "background"}, Recipe(localisation_rate=0.001)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    display = Display(n_epochs)
    try:
        cli.raise_when_interrupted()
        display.start(name, n_epochs)
        done = train(
            Net_CoordConv_Homography(**arguments),
            name,
            n_epochs,
            arguments=arguments,
            recipe=recipe,
            data=data,
            device=device,
            overwrite=True,
            on_progress=lambda *at: display.progress(name, n_epochs, *at),
        )
    except (RunError, DataError, OSError) as error:
        sys.exit(f"train.py: {error}")
    except cli.Interrupted as received:
        print("Interrupted: the same command starts again.")
        return received.args[0]
    finally:
        display.close()
    lost = results.lost_text(results.lost_epoch(done))
    print(f"test accuracy {done['test_accuracy']:.2f} % after {done['n_epochs']} epochs; see experiments/{name}")
    if lost:
        print(f"The network has {lost}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
