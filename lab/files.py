"""Files that appear whole or not at all and show when they are damaged, and folders that one process works in.

Nothing here imports torch.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

TRIAL = 1_000_000  # bytes that are written to see whether that is possible


@contextmanager
def whole(path, previous=None):
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it to `path`.

    After a crash at any moment `path` holds either its old content or the new one, complete. With `previous`, another
    path, the old content stays there until next time, and for an instant of the renaming only there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(folder):
    """Delete what processes that were killed in `whole` have left in `folder`, which must be locked."""
    for path in folder.glob(".*.part"):
        path.unlink()


def write_json(path, content):
    """Write `content` as JSON, one top-level key a line. Raises ValueError for NaN and infinities."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    with whole(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


class Damaged(OSError):
    """The content of a sealed file is not what was written; the message names the file."""


def write_sealed(path, content, previous=None):
    """Write bytes and behind them their SHA-256, 64 hexadecimal digits, which torch.load passes over."""
    with whole(path, previous) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def read_sealed(path):
    """The bytes that `write_sealed` wrote. Raises Damaged if any bit of the file is another, or missing."""
    content = Path(path).read_bytes()
    content, seal = content[:-64], content[-64:]
    if hashlib.sha256(content).hexdigest().encode() != seal:
        raise Damaged(f"{path} is damaged: its checksum does not fit")
    return content


def check_room(folder, size=TRIAL):
    """Make `folder` if it is missing. Raises OSError if files of `size` bytes in all cannot be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(min(size, TRIAL)))
        file.flush()


def unwritable(folder, error):
    """One line for an OSError from work in `folder`: what happened, where, the space there, and what to do."""
    there = folder = Path(folder).absolute()
    while not os.path.exists(there):
        there = there.parent
    free = shutil.disk_usage(there).free / 1e6
    return (
        f"{folder} cannot be used ({error}); {free:,.1f} MB are free there. Put that right or choose another --out; "
        "the same command goes on after the last complete epoch"
    )


class Held(Exception):
    """Another process works in the folder; the message says which."""


@contextmanager
def alone_in(folder):
    """Work in `folder`, made if it is missing, as the only process; what killed ones left half-written is deleted.

    The lock is the operating system's and ends with its process. Raises Held, or OSError if there is no room to work.
    """
    check_room(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    note = folder / ".holder"  # says who has the lock, for the message alone
    try:
        lock.acquire()
    except Timeout:
        raise Held(holder(note)) from None
    try:
        note.write_text(f"{os.getpid()} {platform.node()}", encoding="utf-8")
        remove_parts(folder)
        yield
    finally:
        lock.release()


def holder(note):
    """The process that wrote `note`, in words; one that is gone has no part in what happens now."""
    with suppress(OSError, ValueError):
        pid, host = note.read_text(encoding="utf-8").split()
        if host == platform.node() and os.name == "posix":
            with suppress(PermissionError):  # it is there, and another user's
                os.kill(int(pid), 0)  # no signal, only the question whether it is there
        return f"process {int(pid)} on {host}"
    return "another process"
