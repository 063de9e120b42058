"""Read the digits in images: drawings, prints, photographs.

    python predict.py photo.jpg scan.png            the digits of each, and photo.jpg.read.png: what the network saw
    python predict.py --weights exp_02 photo.jpg    by another network of weights/, or a run: experiments/exp_...
    python predict.py --list                        the networks of weights/
    python predict.py --json photo.jpg              one JSON object per image, for programs

Several digits are read row by row, printed as "12 / 34". A digit in doubt has a "?", perhaps because it is none. What
was left out, such as a comma, is named. Images are PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or (with the package
pillow-heif) HEIC, of any size up to 89 million pixels, dark on light or light on dark. Only the first page or frame of
a file is read. An image that cannot be read is named on stderr, and the next one is read.

Exit code: 0 all were read, 1 some were not, 2 wrong usage, 130 interrupted (143: by SIGTERM).
"""

from pathlib import Path

from digits.image_files import add_options, process_files
from lab import cli, figures
from lab.results import commit, last
from lab.settings import printable

# torch is imported late, by the functions that read: --help answers at once.

DEFAULT = "exp_302"  # four homography passes, taught drawn digits, too, and to doubt what is none
SUFFIX = ".read.png"


def read_image(path, picture, network, as_is):
    """Read one image and draw what the network saw into `picture`; return the result, and the same in lines.

    Raise ImageError, or OSError if the picture cannot be written.
    """
    from digits.doubt import mark
    from digits.own_images import find_digits

    detected = find_digits(path, as_is)
    read = network.read(detected.images)
    digits = read.probabilities.argmax(1)
    text = "".join(map(str, digits))
    told = mark(digits, read.doubtful)
    titles = [f"{name}, {row.max():.0%}" for name, row in zip(told, read.probabilities, strict=True)]
    frames = None
    if read.frames is not None:  # from pixels of 28×28, counted from their centres, to those of the image
        frames = (read.frames + 0.5) * detected.positions[:, None, :1] + detected.positions[:, None, 1:] - 0.5
    figures.save(figures.digits_read(detected.grey, frames, detected.images, read.straightened, titles), picture)
    result = {
        "image": str(path),
        "digits": text,
        "rows": detected.split_rows(text),
        "doubtful": None if read.doubtful is None else bool(read.doubtful.any()),
        "in_doubt": None if read.doubtful is None else read.doubtful.tolist(),
        "probabilities": [[round(float(value), 4) for value in row] for row in read.probabilities],
        "left_out": detected.left_out,
        "steps": detected.steps,
        "picture": str(picture),
    }
    return result, format_result(result, told, detected.split_rows(told))


def format_result(result, told, rows):
    """Format a result in lines: the rows of digits, the steps, and the likeliest classes of each digit.

    told: the digits as they are told, with "?" after those in doubt; rows: these, row by row.
    """
    image, picture = printable(result["image"]), printable(result["picture"])
    lines = [f"{image}: {' / '.join(rows)}  ({'; '.join(result['steps'])}) -> {picture}"]
    for name, row in zip(told, result["probabilities"], strict=True):
        likeliest = sorted(range(10), key=lambda n: -row[n])[:3]
        lines.append(f"    {name:4}" + "   ".join(f"{n}: {row[n]:.1%}" for n in likeliest))
    return "\n".join(lines)


def list_networks():
    from digits import pretrained

    for network in map(pretrained.load, pretrained.names()):
        run = network.results
        accuracy = f"{last(run):.2f} % of {run['test_total']:,} test images"
        print(f"{network.name}  {network.description}: {accuracy}, seed {run['seed']}, commit {commit(run)}")


def main():
    parser = cli.new_parser(__doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="files with one or several digits each")
    add_options(parser, DEFAULT)
    parser.add_argument("--as-is", action="store_true", help="images are like MNIST's, 28×28, light on black")
    parser.add_argument("--list", action="store_true", help="list the networks of weights/, then stop")
    options = cli.parse(parser)
    if not options.images and not options.list:
        parser.error("an image is needed")

    def prepare():
        import torch

        from digits import pretrained

        torch.set_num_threads(1)  # images are small
        if options.list:
            return list_networks()
        network = pretrained.load(options.weights).require("digits")
        return lambda path, target: read_image(path, target.with_name(target.name + SUFFIX), network, options.as_is)

    return process_files([] if options.list else options.images, options, "predict.py", (SUFFIX,), prepare)


if __name__ == "__main__":
    cli.run(main)
