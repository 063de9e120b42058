"""Read digits in one's own images: drawings, prints, photographs.

    python predict.py photo.jpg scan.png            what each shows, and what the network saw as photo.jpg.read.png
    python predict.py --weights exp_02 photo.jpg    by another network of weights/, or a run: experiments/exp_...
    python predict.py --list                        the networks of weights/
    python predict.py --json photo.jpg              an object in one line for each image, for programs

Several digits side by side are read in order. Images are PNG, JPEG, WebP, GIF, BMP, TIFF or PPM, of any size up to 89
million pixels, dark on light or light on dark. An image that cannot be read is named on stderr, the others go on.

Exit code: 0 all were read, 1 some were not, 2 wrong usage.
"""

import json
import sys
from pathlib import Path

from lab import cli, figures
from lab.results import commit, last
from lab.settings import RunError, printable

# torch is imported late, by the functions that read: --help answers at once.

DEFAULT = "exp_16"  # four homography passes, taught in perspective, as photographs are
SUFFIX = ".read.png"


def read_image(path, network, as_is, picture):
    """Read one image, draw what the network saw into `picture`, and return what was found.

    Raise ImageError, or OSError if the picture cannot be written.
    """
    from stn.own_images import find_digits

    found = find_digits(path, as_is)
    read = network.read(found.images)
    digits = read.probabilities.argmax(1)
    titles = [f"{digit}, {row[digit]:.0%}" for digit, row in zip(digits, read.probabilities, strict=True)]
    frames = None
    if read.frames is not None:  # from pixels of 28×28, counted from their centres, to those of the image
        frames = (read.frames + 0.5) * found.places[:, None, :1] + found.places[:, None, 1:] - 0.5
    figures.save(figures.digits_read(found.grey, frames, found.images, read.straightened, titles), picture)
    return {
        "image": str(path),
        "digits": "".join(map(str, digits)),
        "probabilities": [[round(float(value), 4) for value in row] for row in read.probabilities],
        "steps": found.steps,
        "picture": str(picture),
    }


def told(result):
    """Tell a result in lines: the digits, the steps, and the likeliest classes of each digit."""
    image, picture = printable(result["image"]), printable(result["picture"])
    lines = [f"{image}: {result['digits']}  ({'; '.join(result['steps'])}) -> {picture}"]
    for digit, row in zip(result["digits"], result["probabilities"], strict=True):
        likeliest = sorted(range(10), key=lambda n: -row[n])[:3]
        lines.append(f"    {digit}   " + "   ".join(f"{n}: {row[n]:.1%}" for n in likeliest))
    return "\n".join(lines)


def new_picture(path, out, taken):
    """Return the path of an image's picture, beside it or in the folder `out`; none of those that are taken."""
    folder, number = Path(out) if out else path.parent, 1
    picture = folder / f"{path.name}{SUFFIX}"
    while picture in taken:
        number += 1
        picture = folder / f"{path.stem}_{number}{path.suffix}{SUFFIX}"
    taken.add(picture)
    return picture


def list_networks():
    from stn import trained

    for network in map(trained.load, trained.names()):
        run = network.results
        accuracy = f"{last(run):.2f} % of {run['test_total']:,} test images"
        print(f"{network.name}  {network.description}: {accuracy}, seed {run['seed']}, commit {commit(run)}")


def main():
    cli.keep_streams()
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="files with one or several digits each")
    add("--weights", default=DEFAULT, metavar="NAME", help=f"of weights/, or the folder of a run (default: {DEFAULT})")
    add("--out", metavar="FOLDER", help="where the pictures go (default: beside each image)")
    add("--as-is", action="store_true", help="images are 28×28, light on black, as MNIST's: change nothing")
    add("--json", action="store_true", help="print one JSON object a line")
    add("--list", action="store_true", help="list the networks of weights/, then stop")
    options = cli.parse(parser)
    if not options.images and not options.list:
        parser.error("an image is needed")
    import torch

    from stn import trained
    from stn.own_images import ImageError

    torch.set_num_threads(1)  # images are small
    try:
        if options.list:
            list_networks()
            return 0
        network = trained.load(options.weights)
        if options.out:
            Path(options.out).mkdir(parents=True, exist_ok=True)
    except (RunError, OSError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    failed, taken = False, set()
    for path in options.images:
        if path.name.endswith(SUFFIX):
            print(f"{printable(str(path))}: passed over, a picture by predict.py", file=sys.stderr)
            continue
        try:
            picture = new_picture(path, options.out, taken)
            result = read_image(path, network, options.as_is, picture)
            print(json.dumps(result) if options.json else told(result), flush=True)
        except (ImageError, OSError) as error:
            failed = True
            reason = str(error) if isinstance(error, ImageError) else f"cannot be written ({error}); choose an --out"
            print(
                json.dumps({"image": str(path), "error": reason}) if options.json else printable(f"{path} {reason}"),
                file=sys.stdout if options.json else sys.stderr,
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
