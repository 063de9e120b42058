"""The folder of a run: who works in it, in which state it is, and where its numbers come from.

events.out.tfevents.*         TensorBoard, see stn/tensorboard.py
settings.json                 what the run depends on, see lab/settings.py
checkpoint.pt                 the state after the last complete epoch, see stn/checkpoint.py
checkpoint_previous.pt        the one before, used if the last is damaged
weights.pt                    the final state_dict
confusion_matrix.png
visualized_transformation.png, class_statistics.png  what the transformer does
results.json                  written last: a run that has it is finished
failed.txt                    written instead of results.json: why the run failed, if its numbers are not finite
"""

import hashlib
import json
import os
import platform
import subprocess
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from lab import results
from lab.catalogue import datasets
from lab.files import ROOT, read_sealed, sha256, write_text
from lab.settings import FORMAT, INFORMATIONAL, RunError, differences

PACKAGES = ("torch", "torchvision", "kornia", "tensorboard", "numpy", "numba")
# Delete in this order: without results.json the run no longer looks finished; checkpoints go before the settings they
# belong to.
RUN_FILES = (
    *("results.json", "checkpoint.pt", "checkpoint_previous.pt", "failed.txt", "settings.json", "weights.pt"),
    *("confusion_matrix.png", "class_statistics.png", "visualized_transformation.png", "transformation.gif"),
    "events.out.tfevents.*",
)
# The files that every result depends on. What a data set of a study depends on is said in its `DatasetSpec`; what logs,
# draws and compares is not among them.
CODE = (
    *("models.py", "coordconv.py", "train.py", "lab/settings.py", "fast/*.py"),
    *(f"stn/{name}.py" for name in ("data", "metrics", "mnist", "step", "warps")),
)
# A folder that contains any of these belongs to a run.
RUN_MARKERS = ("settings.json", "checkpoint.pt", "checkpoint_previous.pt", "results.json")
WIDEST_VECTORS = {"AVX-512": "avx512f", "AVX2": "avx2", "AVX": "avx"}  # names and their flags, the widest first
WAY_OUT = "to replace it, run again with --force (in Python: overwrite=True), to keep it, choose another --out"


class Locked(Exception):
    """Another process works in the folder; the message says which."""


@contextmanager
def run_lock(run_dir):
    """Lock `run_dir`, which is made if it is missing, and delete partial files that killed processes have left.

    The lock is the operating system's and ends with its process. Raise Locked, or OSError.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(run_dir / ".lock", timeout=0), run_dir / ".holder"  # the holder is only for the message
    try:
        lock.acquire()
    except Timeout:
        name = holder.read_text(encoding="utf-8", errors="replace") if holder.exists() else ""
        raise Locked(name or "another process") from None
    try:
        write_text(holder, f"process {os.getpid()} on {platform.node()}")
        for path in run_dir.glob(".*.part"):  # files of processes that were killed in `atomic_write`
            path.unlink()
        yield
    finally:
        lock.release()


def state_of(run_dir, settings):
    """Return "new", "unfinished", "failed" or "finished": whether a run may start, go on, or is to be left as it is.

    settings: as `Settings.as_json` gives them. Raise RunError if `run_dir` holds a run with other settings, or an
    unfinished one with other code or other versions of the packages.
    """
    if not any((run_dir / name).exists() for name in RUN_MARKERS):
        return "new"
    recorded = read_settings(run_dir)
    if recorded.get("format") != FORMAT:
        raise RunError(f"{run_dir} is of another version of this program, or has no readable settings.json; {WAY_OUT}")
    ignored = dict.fromkeys((*INFORMATIONAL, "code", "versions"))
    if different := differences(recorded | ignored, settings | ignored):
        raise RunError(f"{run_dir} holds a run with {', '.join(different)}; {WAY_OUT}")
    if (run_dir / "failed.txt").exists():
        return "failed"
    if (run_dir / "results.json").exists():
        return "finished"
    if recorded.get("code") != settings["code"] or settings["code"] is None:
        raise RunError(f"{run_dir} was started with {other_code(recorded)}, and can only go on with that; {WAY_OUT}")
    if different := differences(recorded.get("versions") or {}, settings["versions"]):
        raise RunError(f"{run_dir} was started with {', '.join(different)}; {WAY_OUT}")
    return "unfinished"


def other_code(settings):
    """Name the code that a run was started with."""
    return f"other code (commit {settings['git_commit']})" if settings.get("git_commit") else "code that is not known"


def devices(run_dir, name):
    """Name the devices that a run has been trained on so far, and this one."""
    before = read_settings(run_dir).get("device_name")
    return " and ".join(dict.fromkeys([*(before.split(" and ") if before else ()), name]))


def read_settings(run_dir):
    """Return the content of settings.json, {} if it cannot be read."""
    with suppress(OSError, ValueError):
        settings = json.loads((run_dir / "settings.json").read_text(encoding="utf-8"))
        return settings if isinstance(settings, dict) else {}
    return {}


def read_results(run_dir):
    """Return the content of results.json. Raise RunError if it is damaged or has other settings than settings.json."""
    path, settings = run_dir / "results.json", read_settings(run_dir)
    try:
        run_results = results.read(path)
    except ValueError as error:
        raise RunError(f"{path} is broken ({error}); {WAY_OUT}") from None
    if different := differences({key: run_results.get(key) for key in settings}, settings):
        raise RunError(f"{path} disagrees with settings.json: {', '.join(different)}; {WAY_OUT}")
    return run_results


def event_seals(run_dir):
    """Return {name: SHA-256} of TensorBoard's files."""
    return {path.name: sha256(path) for path in sorted(run_dir.glob("events.out.tfevents.*"))}


def modified_files(run_dir, run_results):
    """List the weights and TensorBoard's files that are not as a finished run with these results has left them."""
    recorded, present = run_results["events"] | {"weights.pt": run_results["weights"]}, event_seals(run_dir)
    with suppress(OSError):
        present["weights.pt"] = read_sealed(run_dir / "weights.pt")[2]
    return [run_dir / name for name in sorted(recorded | present) if recorded.get(name) != present.get(name)]


def fail(run_dir, reason):
    """Mark a run as failed, so that it is not continued as if nothing had happened, and raise RunError."""
    write_text(run_dir / "failed.txt", reason)
    raise RunError(failure(run_dir))


def failure(run_dir):
    """Say why the run in `run_dir` is marked as failed, and what to do."""
    reason = (run_dir / "failed.txt").read_text(encoding="utf-8", errors="replace")
    return f"{run_dir} failed: {reason}; {WAY_OUT}, to try again after the last good epoch, delete failed.txt"


def remove_run(run_dir):
    """Delete the files that a run writes into its folder, and nothing else. Raise RunError for a linked folder."""
    if run_dir.is_symlink():
        raise RunError(f"{run_dir} is a symbolic link: what it leads to is not replaced; remove the link")
    for pattern in RUN_FILES:
        for path in run_dir.glob(pattern):
            path.unlink()


def provenance(device_name=None):
    """Return where numbers come from: the device's name, cores, versions, and the commit of this code."""
    return {
        "device_name": device_name or processor_name(),
        "cores": available_cores(),
        "versions": versions(),
        "git_commit": git_commit(),
    }


@lru_cache
def versions():
    """Return the versions of Python and of the packages that a result may depend on, None of one that is missing."""
    installed = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return {"python": platform.python_version(), **installed}


def code_files(sources=()):
    """List the files that a result depends on; sources: patterns of those beside the core's (see `DatasetSpec`)."""
    return [path for pattern in (*CODE, *sources) for path in sorted(ROOT.glob(pattern))]


# {path: SHA-256} of the code that this process has imported, whatever becomes of the files.
IMPORTED = {path: sha256(path) for path in code_files(s for spec in datasets().values() for s in spec.sources)}


def code_changed(sources=()):
    """Tell whether one of the files that a result depends on has changed since this process imported it."""
    return any(sha256(path) != IMPORTED.get(path) for path in code_files(sources))


def code_hash(sources=(), others=()):
    """Return the SHA-256 of the files that a result depends on, as imported, and of others by their content now."""
    ours = [(path.relative_to(ROOT).as_posix(), IMPORTED.get(path) or sha256(path)) for path in code_files(sources)]
    return hashlib.sha256(repr((ours, [sha256(path) for path in others])).encode()).hexdigest()


@lru_cache
def git_commit():
    """The commit of this code, "-dirty" appended if a tracked file differs from it; None outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor_name():
    """Name the processor, and on Linux its widest vectors: two of one name may differ in them, and so in every bit."""
    with suppress(OSError):
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        cpu_info = {key.strip(): value.strip() for key, value in reversed(lines)}
        widest = [name for name, flag in WIDEST_VECTORS.items() if flag in cpu_info.get("flags", "").split()]
        if "model name" in cpu_info:
            return ", ".join([cpu_info["model name"], *widest[:1]])
    return platform.processor() or platform.machine()


def available_cores():
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
