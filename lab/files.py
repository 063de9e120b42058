"""Files that appear whole or not at all and show when they are damaged."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

PROBE = 1_000_000  # bytes that are written to see whether that is possible


@contextmanager
def atomic_write(path, previous=None):
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
    """Delete what processes that were killed in `atomic_write` have left in `folder`, which must be locked."""
    for path in folder.glob(".*.part"):
        path.unlink()


def write_text(path, text):
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write `content` as JSON, one top-level key a line. Raise ValueError for NaN and infinities."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


class Damaged(OSError):
    """The content of a sealed file is not what was written; the message names the file."""


class Foreign(Exception):
    """A sealed file belongs to another owner than it should; the message names the file."""


def write_sealed(path, content, owner, previous=None):
    """Write bytes and behind them 128 hexadecimal digits, which torch.load passes over; return the last 64.

    They are the owner's (a SHA-256 itself) and the SHA-256 of all before.
    """
    content += owner.encode()
    seal = hashlib.sha256(content).hexdigest()
    with atomic_write(path, previous) as temporary:
        temporary.write_bytes(content + seal.encode())
    return seal


def read_sealed(path, owner=None):
    """Return (the bytes that `write_sealed` wrote, their seal).

    Raise Damaged if any bit of the file is another, or missing, and Foreign if it is somebody else's; None fits all.
    """
    content = Path(path).read_bytes()
    content, seal = content[:-64], content[-64:]
    if len(content) < 64 or hashlib.sha256(content).hexdigest().encode() != seal:
        raise Damaged(f"{path} is damaged: its checksum does not fit")
    if owner and content[-64:] != owner.encode():
        raise Foreign(f"{path} belongs to another run, or to the same with other settings or code")
    return content[:-64], seal.decode()


def sha256(path):
    """Return the SHA-256 of a file, None if it cannot be read."""
    with suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None


def check_room(folder, size=PROBE):
    """Make `folder` if it is missing. Raise OSError if files of `size` bytes in all cannot be written into it."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not os.path.exists(path):
            raise OSError(f"{path} is a symbolic link that leads nowhere")
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(min(size, PROBE)))
        file.flush()


def unwritable(folder, error):
    """Put an OSError from work in `folder` into one line: what happened, where, the space there, and what to do."""
    try:
        there = folder = Path(folder).absolute()
        while not os.path.exists(there):
            there = there.parent
        room = f"; {shutil.disk_usage(there).free / 1e6:,.1f} MB are free there"
    except OSError:  # the working directory is gone
        room = ""
    return (
        f"{folder} cannot be used ({error}){room}. Put that right or choose another --out; "
        "the same command goes on after the last complete epoch"
    )
