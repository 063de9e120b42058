"""What a run shows in TensorBoard, all of it written through the one SummaryWriter of its directory.

At step 0: question and settings as text, what the table of hyperparameters needs, a layout of the custom scalars, the
graph of the network. After each epoch: losses and accuracy, accuracy by class, images per second, and which share of
the digits the classifier sees. Every few epochs and at the end: test digits and what the transformer makes of them (at
the start, too), its parameters over the test set as histograms, and which share of it is rotation, scale, shear,
translation and perspective. At the end: the confusion matrix and the mean image of each class. Nothing of it changes
the run.
"""

import contextlib
import copy
import inspect
import io
import warnings

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lab import figures
from lab.settings import printable
from stn import warps
from stn.data import metrics_of
from stn.metrics import confusion, has_transformer, homographies

LOG_IMAGES = 5  # epochs from one heavy part to the next: TensorBoard's slider keeps ten images
BINS = 50  # bins of a histogram, equally wide: the default ones are too wide for numbers near 1
LARGER = 2  # pixels of a picture for each of a digit
LAYOUT = {  # tags are regular expressions there
    "All runs": {
        "test accuracy (%)": ["Multiline", ["Accuracy test$"]],
        "test loss (nats per image)": ["Multiline", ["Average loss test$"]],
        "train loss (nats per image)": ["Multiline", ["Average loss train$"]],
    }
}


def open_writer(run_dir, history):
    """Return the writer of a run with this history of complete epochs. TensorBoard hides what was logged after them.

    TensorBoard reads event files in the order of their names, which start with a time. Older files are renamed to small
    numbers, so that they come first even if the clock was set back.
    """
    for number, path in enumerate(sorted(run_dir.glob("events.out.tfevents.*"))):
        if history:
            path.rename(run_dir / f"events.out.tfevents.{number:010d}.earlier")
        else:
            path.unlink()
    return SummaryWriter(run_dir, purge_step=len(history) + 1)


def start(writer, settings, question, model, data, log_images):
    """Log what is known before the first epoch, at step 0. log_images: 0 leaves out the heavy parts."""
    columns = hyperparameters(settings, model)
    cells = [(name, printable(str(value)).replace("|", r"\|")) for name, value in columns.items()]
    rows = [f"| {name} | {value} |" for name, value in cells]
    writer.add_text("Question", question or "(none was given)", 0)
    writer.add_text("Settings", "\n".join(["| setting | value |", "| --- | --- |", *rows]), 0)
    writer.add_custom_scalars(LAYOUT)
    # `add_hparams` would create a second run. Only the session summaries are written; TensorBoard then collects the
    # columns from all runs.
    _, session_start, _ = hparams(columns, {})
    writer.file_writer.add_summary(session_start, 0)
    if log_images:
        add_graph(writer, model, data.test_images[:1])
        add_digits(writer, model, data, 0)


def epoch_done(writer, model, data, entry, predictions, log_images, conclusion=None):
    """Log one epoch: its entry of the history, and the predicted classes of the test images, shaped as labels.

    conclusion: after the last epoch what `train.conclude` returns, None before.
    """
    epoch, last = entry["epoch"], conclusion is not None
    for digit, counts in enumerate(confusion(data.test_labels[: len(predictions)], predictions)):
        if sum(counts):
            writer.add_scalar(f"Class accuracy/{digit}", 100 * counts[digit] / sum(counts), epoch)
    speed = len(data.train_labels) / max(entry["train_seconds"], 0.001)  # rounded to 0.001, so maybe 0
    writer.add_scalar("Images per second", speed, epoch)
    if log_images and (epoch % log_images == 0 or last):
        add_digits(writer, model, data, epoch)
        if has_transformer(model):
            tested = data.test_images[: data.n_test_each_epoch]
            transforms = conclusion.transformer.homographies if last else homographies(model, tested)
            add_transforms(writer, transforms, epoch, data.middle(data.test_images).shape[2:])
    if log_images and last:
        with Image.open(conclusion.confusion_png) as picture:
            add_picture(writer, "Confusion matrix", np.asarray(picture.convert("RGB")), epoch)
        if conclusion.transformer and conclusion.transformer.statistics:
            add_class_means(writer, conclusion.transformer.statistics, epoch)
    if last:
        _, _, session_end = hparams({}, {})
        writer.file_writer.add_summary(session_end, epoch)
    if "seen" in entry:
        writer.add_scalar("Digits seen (%)", 100 * entry["seen"], epoch)
    writer.add_scalar("Average loss train", entry["train_loss"], epoch)
    writer.add_scalar("Average loss test", entry["test_loss"], epoch)
    writer.add_scalar("Accuracy test", entry["test_accuracy"], epoch)
    writer.flush()


def hyperparameters(settings, model):
    """Return a run's columns in TensorBoard's table: its settings, the arguments of the network among them."""
    values = {
        name: settings[name]
        for name in settings
        if name not in ("experiment_name", "format", "weights_signature", "structure", "versions")
    }
    defaults = {name: p.default for name, p in inspect.signature(type(model)).parameters.items()}
    defaults = {name: value for name, value in defaults.items() if isinstance(value, bool | int | float | str)}
    arguments = defaults | values.pop("arguments")
    values |= {f"data_{name}": value for name, value in values.pop("data").items()}
    values |= {name if name not in values else f"model_{name}": value for name, value in arguments.items()}
    # Log all but numbers as text: TensorBoard turns bools into numbers and drops None.
    return {name: value if type(value) in (int, float) else str(value) for name, value in values.items()}


def add_graph(writer, model, image):
    """Log the operations of the network in testing, its convolutions written as usual; or as text why it cannot."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # warnings that tracing is deprecated and that sizes become constants
        try:
            network = copy.deepcopy(model).cpu().eval()
            with torch.no_grad():
                # Traced here because add_graph would check the trace, which takes a second.
                traced = torch.jit.trace(network, image.cpu(), check_trace=False)
            writer.add_graph(traced, image.cpu())
        except Exception as error:  # a picture that your own network cannot give must not end the run
            writer.add_text("Graph", f"This network cannot be traced ({type(error).__name__}).", 0)


def add_digits(writer, model, data, epoch):
    """Log the first test images, and what `model.transform`, if there is one, makes of them."""
    if hasattr(model, "transform"):
        metrics = metrics_of(data)
        add_picture(writer, metrics.PICTURE, metrics.picture(model, data), epoch)


def add_transforms(writer, transforms, epoch, size):
    """Log the parameters of all transforms (N, 3, 3) as histograms, and the mean shares of their parts in %.

    size: height and width of the images, in pixels.
    """
    height, width = size
    factors = warps.decompose(transforms)
    if (transforms[:, 2, :2] == 0).all():  # affine
        factors = {name: values for name, values in factors.items() if "perspective" not in name}
    for name, share in warps.component_shares(factors).items():
        writer.add_scalar(f"Transform share/{name}", 100 * share.nanmean().item(), epoch)
    units = {
        "rotation": ("degrees", torch.rad2deg),
        "translation x": ("pixels", lambda values: values * (width / 2)),
        "translation y": ("pixels", lambda values: values * (height / 2)),
    }
    for name, values in factors.items():
        unit, convert = units.get(name, (None, lambda values: values))
        values = convert(values[values.isfinite()])
        if len(values):
            tag = f"Transform/{name}" + (f" ({unit})" if unit else "")
            writer.add_histogram(tag, values.cpu(), epoch, bins=BINS)


def add_class_means(writer, statistics, epoch):
    """Log the mean image of each class before the transformer, in a first row, and after it."""
    means = torch.cat([means for means, _ in statistics])
    picture = figures.grid_of(means, columns=len(means) // 2)
    add_picture(writer, "Mean of each class, before and after", picture, epoch)


def add_picture(writer, tag, picture, epoch):
    """Log a picture: grey values (H, W) in [0, 1], enlarged, or bytes (H, W, 3) as they are."""
    grey = picture.ndim == 2
    picture = picture.repeat(LARGER, 0).repeat(LARGER, 1) if grey else picture
    writer.add_image(tag, picture, epoch, dataformats="HW" if grey else "HWC")
