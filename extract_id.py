"""Find the card in photographs, straighten it, and read the number on it.

    python extract_id.py photo.jpg scan.png            the number of each, its digits' probabilities, the card's corners
    python extract_id.py --out cards *.jpg             the pictures go into the folder cards
    python extract_id.py --json photo.jpg              an object in one line for each photograph, for programs
    python extract_id.py --weights FOLDER photo.jpg    by a run of yours: experiments/exp_40_...

Beside each photograph, photo.jpg.card.png is the straightened card and photo.jpg.outline.png the photograph with the
card's outline. Photographs are PNG, JPEG, WebP, GIF, BMP, TIFF or PPM, of any size from 48×48 to 89 million pixels. One
that cannot be read is named on stderr, the others go on. "No card found" is a result, too: there is none, or the
network is not sure enough of it.

Exit code: 0 all were read, 1 some were not, 2 wrong usage, 130 interrupted (143: by SIGTERM).
"""

import math
import sys
from pathlib import Path

from lab import cli
from lab.files import atomic_write
from lab.settings import RunError, printable

# torch is imported late, by the functions that read: --help answers at once.

DEFAULT = "exp_40"  # four homography passes, told in training where the corners were
CARD, OUTLINE = SUFFIXES = (".card.png", ".outline.png")


def read_photo(path, target, model, alignment, debug=False):
    """Read one photograph, write its card and its outline as `target` with a suffix; return a result, and it in lines.

    debug: also give and draw the likeliest card where none was found, as far as its numbers are finite. Raise
    ImageError, or OSError if a picture cannot be written.
    """
    from studies.cards import detector

    photo = detector.read_photograph(path)
    card = detector.find_card(photo, model, alignment)
    is_found = card.confidence >= detector.THRESHOLD
    result = {"image": str(path), "number": None, "confidence": round(card.confidence, 4), "found": is_found}
    result |= {"digits_sure": round(card.sure, 4), "agreement": round(card.agreement, 4)}
    result |= dict.fromkeys(("probabilities", "corners", "card", "outline"))
    pictures = {"card": detector.straightened, "outline": detector.outlined} if is_found or debug else {}
    for (name, draw), suffix in zip(pictures.items(), SUFFIXES, strict=False):
        if picture := draw(photo, card):
            picture_path = target.with_name(target.name + suffix)
            with atomic_write(picture_path) as temporary:
                picture.save(temporary, "png", compress_level=1)
            result[name] = str(picture_path)
    if (is_found or debug) and all(map(math.isfinite, card.probabilities)):
        result["number"] = card.number
        result["probabilities"] = [round(float(value), 4) for value in card.probabilities]
    if (is_found or debug) and all(map(math.isfinite, card.corners.flat)):
        result["corners"] = [[round(float(value), 1) for value in corner] for corner in card.corners]
    return result, format_result(result, detector.THRESHOLD, is_found or debug)


def format_result(result, threshold, shown):
    """Format a result in lines: the number, the probability of each digit, and the corners; or why there is none.

    shown: whether to tell of the card.
    """
    doubts = "digits {digits_sure:.2f} × agreement of two looks {agreement:.2f}".format_map(result)
    image, confidence = printable(result["image"]), int(100 * result["confidence"]) / 100  # rounded down
    if not result["found"]:
        needed = f"{threshold:.2f} is needed, chosen for {DEFAULT}"
        first = f"{image}: no card found (confidence {confidence:.2f} = {doubts}; {needed})"
    else:
        first = f"{image}: {result['number']}  (confidence {result['confidence']:.2f})"
    if not shown:
        return first
    pictures = ", ".join(printable(result[key]) for key in ("card", "outline") if result[key])
    lines = [f"{first} -> {pictures}" if pictures else first]
    if result["number"]:
        pairs = zip(result["number"], result["probabilities"], strict=True)
        lines.append("   ".join(f"{digit}: {p:.1%}" for digit, p in pairs))
    else:
        lines.append("the digits have no finite probabilities")
    if not result["corners"]:
        lines.append("the likeliest card has corners that are not finite, so it is not drawn")
    else:
        lines.append("corners, pixels: " + "   ".join(f"({x:.1f}, {y:.1f})" for x, y in result["corners"]))
        if not result["card"]:
            lines.append("the likeliest card is too large to be straightened")
    return "\n    ".join(lines)


def main():
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("photos", nargs="+", type=Path, metavar="PHOTO", help="files with one card each")
    add("--weights", default=DEFAULT, metavar="NAME", help=f"of weights/, or the folder of a run (default: {DEFAULT})")
    add("--out", metavar="FOLDER", help="where the pictures go (default: beside each photograph)")
    add("--debug", action="store_true", help="where no card is found, show and draw the likeliest one all the same")
    add("--json", action="store_true", help="print one JSON object a line")
    options = cli.parse(parser)
    import torch

    from digits import pretrained
    from digits.image_files import ImageError, new_folder, process_files
    from stn.mnist import DataError
    from studies.cards import detector

    torch.set_num_threads(1)  # scenes are small
    try:
        network = pretrained.load(options.weights).that_reads("cards")
        alignment = detector.alignment(network)
        new_folder(options.out)
    except (RunError, DataError, ImageError, OSError) as error:
        print(f"extract_id.py: {error}", file=sys.stderr)
        return 2

    def work(path, target):
        return read_photo(path, target, network.model, alignment, options.debug)

    return process_files(options.photos, options, "extract_id.py", SUFFIXES, work)


if __name__ == "__main__":
    cli.run(main)
