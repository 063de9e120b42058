"""Fit when a network of weights/ should doubt a digit, on pictures with and without digits, and measure it on others.

    python tools/doubt.py --out results/doubt.json

The temperature is the one for which the digits of the calibrating pictures are likeliest. The threshold is the smallest
one, in steps of 0.001, for which at most `MOST` of the calibrating pictures with letters, documents and textures are
told without doubt. Both are for digits/doubt.py. A picture is told without doubt if there is a digit in it, and none in
doubt.

The calibrating pictures show every second test image of MNIST, the fonts of the family STIX and other letters than
those to measure with, which show the other test images and Computer Modern.
"""

import io
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import no_digits
import numpy as np
import own_pictures
import torch
from pictures import COMPUTER_MODERN, STIX, found_images, handwritten, in_field, photographed, printed
from scipy.optimize import minimize_scalar

from digits import pretrained
from digits.doubt import soften
from lab import cli
from lab.files import write_json
from lab.folder import available_cores, provenance
from lab.tables import markdown_table
from stn import mnist

COMMAND = "python tools/doubt.py --out results/doubt.json"
NETWORK = "exp_302"
MOST = 0.005  # half of what is allowed on other pictures
RULING = ("letter, printed", "letter, by pen", "word", "document", "texture")  # kinds that choose the threshold
N_DIGITS, N_OTHERS = 100, 100  # pictures of each kind
STEPS = 1000  # of the threshold
KINDS = ("printed", "handwritten", "by pen")


def draw_digits(part, kind, in_perspective):
    """Yield (picture, digit) of one digit, N_DIGITS times. part: "calibration" or "test"."""
    is_test = part == "test"
    rng = np.random.default_rng([is_test, KINDS.index(kind), in_perspective])
    fonts = COMPUTER_MODERN if is_test else STIX
    images, labels = (array[is_test::2] for array in mnist.read_mnist()[2:])
    for number in range(N_DIGITS):
        digit = number % 10
        if kind == "handwritten":
            field = handwritten(images[number])
            digit = labels[number]
        elif kind == "printed":
            field = in_field(printed(str(digit), rng.choice(fonts)))
        else:
            strokes = own_pictures.STROKES[str(digit)]
            field = in_field(own_pictures.draw_pen(strokes, rng, 200, int(rng.integers(6, 24))))
        picture = photographed(field, rng, in_perspective)
        picture.save(file := io.BytesIO(), "jpeg", quality=80)
        yield file, int(digit)


def read_digits(part, network):
    """Return the log-probabilities (N, 10), digits (N,) and kinds (N,) of pictures in which one digit is found."""
    scores, digits, kinds = [], [], []
    for kind in KINDS:
        for in_perspective in (False, True):
            for file, digit in draw_digits(part, kind, in_perspective):
                images = found_images(file)
                if len(images) == 1:
                    scores.append(read_scores(images, network)[0])
                    digits.append(digit)
                    kinds.append(kind + ", in perspective" * in_perspective)
    return np.array(scores), np.array(digits), np.array(kinds)


def read_scores(images, network):
    """Return the log-probabilities (N, 10) of images, not calibrated."""
    return network.look(images)[0].numpy().astype(float)


def fit_temperature(scores, digits):
    """Return the temperature, rounded to 0.01, under which the digits are likeliest."""

    def surprise(logarithm):
        return -np.log(soften(scores, np.exp(logarithm))[np.arange(len(digits)), digits]).mean()

    return round(float(np.exp(minimize_scalar(surprise, bounds=(-2, 2), method="bounded").x)), 2)


def calibration_error(probabilities, digits, bins=15):
    """Return the expected calibration error: how far confidence and accuracy are apart, in bins of confidence."""
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == digits
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(sum(abs((confidence - is_right)[places == place].sum()) for place in range(bins)) / len(digits))


def surest_digits(name, part, kind, temperature):
    """Return the smallest probability of a digit that is read in each picture of a kind, NaN if it is refused."""
    torch.set_num_threads(1)
    network, surest = pretrained.load(name), []
    for picture in no_digits.draw_pictures(getattr(no_digits, part), kind, N_OTHERS):
        images = found_images(picture)
        surest.append(soften(read_scores(images, network), temperature).max(1).min() if len(images) else np.nan)
    return np.array(surest)


def read_others(name, part, kinds, temperature):
    """Return {kind: `surest_digits` of it}."""
    with ProcessPoolExecutor(available_cores()) as pool:
        found = {kind: pool.submit(surest_digits, name, part, kind, temperature) for kind in kinds}
        return {kind: future.result() for kind, future in found.items()}


def choose_threshold(others):
    """Return the smallest threshold for which at most MOST of all pictures, {kind: their surest digits}, are told."""
    surest = np.concatenate(list(others.values()))
    for step in range(STEPS + 1):
        if (surest >= step / STEPS).mean() <= MOST:
            return step / STEPS
    raise ValueError("even certainty is too little")


def draw_tables(record):
    """Draw the tables of pictures without digits and of those with one, in Markdown."""
    others = [[kind, *row.values()] for kind, row in record["others"].items()]
    digits = [[kind, *row.values()] for kind, row in record["digits"].items()]
    return (
        markdown_table(["pictures without digits", "told without doubt", "with doubt", "refused"], others),
        markdown_table(["pictures", "right", "right, in doubt", "wrong, in doubt", "wrong", "not one digit"], digits),
    )


def main():
    parser = cli.new_parser(__doc__)
    parser.add_argument("--weights", default=NETWORK, metavar="NAME", help="a network of weights/")
    parser.add_argument("--out", metavar="FILE", help="where the record goes (default: it is printed)")
    options = cli.parse(parser)
    torch.set_num_threads(1)
    network = pretrained.load(options.weights).require("digits")
    scores, digits, _ = read_digits("calibration", network)
    temperature = fit_temperature(scores, digits)
    threshold = choose_threshold(read_others(network.name, "CALIBRATION", RULING, temperature))
    record = {"command": COMMAND, **provenance(), "network": network.name, "temperature": temperature}
    record |= {"threshold": threshold, "pictures": {"digits": N_DIGITS, "others": N_OTHERS}}

    scores, digits, kinds = read_digits("test", network)
    softened = soften(scores, temperature)
    errors = {"before": soften(scores, 1.0), "after": softened}
    record["calibration_error"] = {name: round(calibration_error(p, digits), 4) for name, p in errors.items()}
    sure, is_right = softened.max(1) >= threshold, softened.argmax(1) == digits
    outcomes = {"right": is_right & sure, "right?": is_right & ~sure}
    outcomes |= {"wrong?": ~is_right & ~sure, "wrong": ~is_right & sure}
    record["digits"] = {}
    for kind in map(str, dict.fromkeys(kinds)):
        row = {name: int((where & (kinds == kind)).sum()) for name, where in outcomes.items()}
        record["digits"][kind] = row | {"not found": N_DIGITS - sum(row.values())}
    record["others"] = {
        kind: {
            "told": int((values >= threshold).sum()),
            "doubtful": int((values < threshold).sum()),
            "refused": int(np.isnan(values).sum()),
        }
        for kind, values in read_others(network.name, "TEST", no_digits.TEST, temperature).items()
    }
    write_json(options.out, record) if options.out else print(json.dumps(record, indent=1))


if __name__ == "__main__":
    cli.run(main)
