"""Let trained networks look more or fewer times at test images than in their training, and measure what they read.

    python tools/passes.py --out results/passes.json

looks one to eight times, with each network of weights/ that was trained with several passes. Nothing is trained.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from digits import pretrained
from lab import cli
from lab.files import write_json
from lab.folder import provenance
from lab.settings import THREADS
from plot import dataset_of
from train import evaluate

PASSES = range(1, 9)
COMMAND = "python tools/passes.py --out results/passes.json"


def read_with_passes(network, data):
    """Return what a network reads of the test images of `data`, in %, by the number of passes: [one, two, ...]."""
    trained_with, shares = network.model.passes, []
    for network.model.passes in PASSES:
        _, predictions = evaluate(network.model, data.test_images, data.test_labels)
        right = (predictions == data.test_labels).view(len(predictions), -1).all(1)
        shares.append(100 * right.double().mean().item())
    network.model.passes = trained_with
    return shares


def main():
    parser = cli.new_parser(__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the record goes")
    options = cli.parse(parser)
    torch.set_num_threads(THREADS)
    rows = []
    for name in pretrained.names():
        network = pretrained.load(name)
        if getattr(network.model, "passes", 1) > 1:
            data = dataset_of(network.results)
            read = read_with_passes(network, data)
            rows.append({"network": name, "trained_with": network.model.passes, "read": read})
            print(name, *(f"{share:.2f}" for share in read), flush=True)
    write_json(options.out, {"command": COMMAND, "passes": [*PASSES], "rows": rows, **provenance()})


if __name__ == "__main__":
    main()
