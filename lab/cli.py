"""What the command lines of the scripts have in common."""

import argparse
import re
import signal
import sys
from pathlib import Path


def new_parser(docstring):
    """Return a parser whose help is the script's docstring (None under `python -OO`); options cannot be abbreviated."""
    usage, _, rest = (docstring or "").partition("\n\n")
    return argparse.ArgumentParser(
        description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def parse(parser, arguments=None, repeatable=()):
    """Parse the command line. An option that is given twice is an error: argparse would silently take the last."""
    words = sys.argv[1:] if arguments is None else arguments
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    for option in given:
        if given.count(option) > 1 and option not in repeatable:
            parser.error(f"{option} is given twice")
    return parser.parse_args(arguments)


def whole_number(low, high):
    """Return what parses a whole number from `low` to `high`: the `type` of an option."""

    def parse_number(text):
        if re.fullmatch("[0-9]{1,9}", text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"a whole number from {low} to {high} is needed, not {text!r}")

    return parse_number


class Interrupted(BaseException):
    """Raised by the first SIGINT or SIGTERM; `args[0]` is the exit code that belongs to it."""


def raise_when_interrupted():
    """Let the first SIGINT or SIGTERM raise Interrupted in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def interrupt(signal_number, _frame):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying up
    raise Interrupted(128 + signal_number)


def run(main):
    """Exit with what a script's `main` returns; an interrupt ends it with one line, a closed pipe with none."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    end_with_the_reader()
    try:
        raise_when_interrupted()
        sys.exit(main())
    except Interrupted as received:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(received.args[0])


def end_with_the_reader():
    """End quietly when nobody reads on what is printed (`| head`)."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
