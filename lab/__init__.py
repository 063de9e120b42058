"""The laboratory in which experiments are run, kept and compared: nothing here imports torch."""

import os
from importlib.util import find_spec


def forget_missing_backend():
    """Remove MPLBACKEND from the environment if it names a module of a package that is not installed.

    A notebook sets it for every program that it starts, in any environment, and then matplotlib cannot be imported.
    """
    backend = os.environ.get("MPLBACKEND", "")
    package = backend.removeprefix("module://").partition(".")[0]
    if backend.startswith("module://") and not (package and find_spec(package)):
        del os.environ["MPLBACKEND"]


forget_missing_backend()  # here, since every script imports lab before matplotlib
