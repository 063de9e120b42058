"""Find the card in photographs, straighten it, and read the number on it.

    python extract_id.py photo.jpg scan.png            the number, the probability of each digit, the card's corners
    python extract_id.py --out cards *.jpg             writes the pictures into the folder cards
    python extract_id.py --json photo.jpg              one JSON object per photograph, for programs
    python extract_id.py --weights FOLDER photo.jpg    by a run of yours: experiments/exp_40_...

Beside each photograph, photo.jpg.card.png is the straightened card and photo.jpg.outline.png the photograph with the
card's outline. Photographs are PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or (with the package pillow-heif) HEIC, of
any size from 48×48 to 89 million pixels. Only the first page or frame of a file is read. One that cannot be read is
named on stderr, and the next one is read. "No card found" is a result, too: there is no card, or the network is not
sure enough of it.

Exit code: 0 all were read (also where no card was found), 1 some files could not be read or pictures not be written, 2
wrong usage or unusable weights, 130 interrupted (143: by SIGTERM).
"""

from pathlib import Path

from digits.image_files import add_options, process_files
from lab import cli
from lab.files import atomic_write
from lab.settings import printable

# torch is imported late, by the functions that read: --help answers at once.

DEFAULT = "exp_311"  # four homography passes, taught corners, and scenes without a card
SUFFIXES = (".card.png", ".outline.png")
DOUBTS = {"digits": "the digits are unsure", "corners": "two looks disagree on the corners"}


def read_photo(path, target, network, alignment, debug=False):
    """Read one photograph; return the result, and the same in lines.

    The pictures of the card and of its outline are written as `target` with a suffix. debug: also report and draw the
    likeliest card where none was found. Raise ImageError, or OSError if a picture cannot be written.
    """
    from studies.cards import detector

    photo, steps = detector.read_photograph(path)
    card = detector.find_card(photo, network.model, alignment)
    is_found = card.confidence >= detector.THRESHOLD
    result = {"image": str(path), "number": None, "confidence": round(card.confidence, 4), "found": is_found}
    result |= {"digits_sure": round(card.sure, 4), "agreement": round(card.agreement, 4)}
    result["doubts"] = [] if is_found else doubts(card.sure, card.agreement, detector.THRESHOLD)
    result |= dict.fromkeys(("probabilities", "corners", "card", "outline")) | {"steps": steps}
    if is_found or debug:
        result["number"] = card.number
        result["probabilities"] = [round(float(value), 4) for value in card.probabilities]
    if (is_found or debug) and card.is_drawable:
        result["corners"] = [[round(float(value), 1) for value in corner] for corner in card.corners]
        pictures = {"card": detector.straightened(photo, card), "outline": detector.outlined(photo, card)}
        for (name, picture), suffix in zip(pictures.items(), SUFFIXES, strict=True):
            result[name] = str(target.with_name(target.name + suffix))
            with atomic_write(result[name]) as temporary:
                picture.save(temporary, "png", compress_level=1)
    return result, format_result(result, detector.THRESHOLD, detector.RULED_BY, network.name)


def doubts(sure, agreement, threshold):
    """List why a card was not found, names of `DOUBTS`: the factors of its confidence that are below the threshold.

    If neither is, but their product is, it is the smaller one.
    """
    factors = {"digits": sure, "corners": agreement}
    low = [name for name, factor in factors.items() if factor < threshold]
    return low or [min(factors, key=factors.get)]


def format_result(result, threshold, ruled_by, network_name):
    """Format a result in lines: the number, the probability of each digit, and the corners; or why there is none."""
    image, confidence = printable(result["image"]), int(100 * result["confidence"]) / 100  # rounded down
    first = f"{image}: {result['number']}  (confidence {result['confidence']:.2f}"
    if not result["found"]:
        factors = "digits {digits_sure:.2f} × agreement of two looks {agreement:.2f}".format_map(result)
        is_guess = network_name not in (DEFAULT, ruled_by)
        guess = f", which was chosen for {ruled_by} and is a guess for {network_name}" * is_guess
        reasons = " and ".join(DOUBTS[name] for name in result["doubts"])
        first = f"{image}: no card found, {reasons} (confidence {confidence:.2f} = {factors}; "
        first += f"{threshold:.2f} is needed{guess}"
    first = "; ".join([first, *result["steps"]]) + ")"
    if not result["number"]:
        return first
    digits = zip(result["number"], result["probabilities"], strict=True)
    corners = "the likeliest card is too large to be drawn"
    if result["corners"]:
        first += " -> " + ", ".join(printable(result[key]) for key in ("card", "outline"))
        corners = "corners, pixels: " + "   ".join(f"({x:.1f}, {y:.1f})" for x, y in result["corners"])
    return "\n    ".join((first, "   ".join(f"{digit}: {p:.1%}" for digit, p in digits), corners))


def main():
    parser = cli.new_parser(__doc__)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="files with one card each")
    add_options(parser, DEFAULT)
    parser.add_argument("--debug", action="store_true", help="where no card is found, report and draw the likeliest")
    options = cli.parse(parser)

    def prepare():
        import torch

        from digits import pretrained
        from studies.cards import detector

        torch.set_num_threads(1)  # scenes are small
        network = pretrained.load(options.weights).require("cards")
        alignment = detector.alignment(network)
        return lambda path, target: read_photo(path, target, network, alignment, options.debug)

    return process_files(options.photos, options, "extract_id.py", SUFFIXES, prepare)


if __name__ == "__main__":
    cli.run(main)
