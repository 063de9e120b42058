"""What the command lines of the scripts have in common."""

import argparse
import os
import signal
import sys
from pathlib import Path


def new_parser(docstring):
    """Return a parser whose help is the script's docstring; options cannot be abbreviated."""
    usage, _, rest = docstring.partition("\n\n")
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


def check_numbers(parser, options, **limits):
    """Exit with a message if a number is not from 1 to its limit: `runs=999` looks at options.runs, None passes."""
    for name, limit in limits.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= limit:
            parser.error(f"--{name}: a whole number from 1 to {limit} is needed, not {value}")


def check_parent(parser, options, name):
    """Exit with a message if the folder of the file that an option names does not exist."""
    if (path := getattr(options, name)) and not Path(path).resolve().parent.is_dir():
        parser.error(f"--{name} {path}: there is no such folder")


class Lasting:
    """A text stream that says once, elsewhere, that it cannot be written, and is silent from then on."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self.attempt(lambda: self.stream.write(text))

    def flush(self):
        return self.attempt(self.stream.flush)

    def attempt(self, act):
        try:
            return act()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if self.stream is sys.__stdout__:
                print(f"The output cannot be written ({error}); the work goes on.", file=sys.stderr)


def keep_streams():
    """Let no text that is printed end the program: a stream that is closed or full, nor letters that it lacks."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the caller: else the next file that is opened would be taken for it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 as long as the process
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Lasting(stream))


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
    """Exit with what a script's `main` returns; an interrupt ends it with one line and no traceback."""
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
