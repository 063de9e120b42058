"""Files that appear whole or not at all and show when they are damaged."""

import hashlib
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the repository


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
    """The checksum of a sealed file does not fit; the message names the file."""


class Foreign(Exception):
    """A sealed file belongs to another owner than it should; the message names the file."""


def write_sealed(path, content, owner, previous=None):
    """Write bytes, the SHA-256 of their owner, and the SHA-256 of both, which is returned.

    owner: 64 hexadecimal digits. torch.load passes over what stands behind its own bytes.
    """
    content += owner.encode()
    seal = hashlib.sha256(content).hexdigest()
    with atomic_write(path, previous) as temporary:
        temporary.write_bytes(content + seal.encode())
    return seal


def read_sealed(path, owner=None):
    """Return (the bytes that `write_sealed` wrote, the checksum that it returned).

    Raise Damaged if the checksum does not fit, and Foreign if the file has another owner; None skips that check.
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


def unwritable(folder, error):
    """Put an OSError from work in `folder` into one line: what happened, where, and what to do."""
    return (
        f"{folder} cannot be used ({error}); fix this or choose another --out; "
        "the same command goes on after the last complete epoch"
    )
