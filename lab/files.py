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

    After a crash at any moment `path` holds either the old file or the new one, complete. With `previous`, another
    path, the old file stays there until next time, and for an instant of the renaming only there.
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


def write_text(path, text):
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, values):
    """Write a dict as JSON, one top-level key a line. Raise ValueError for NaN and infinities."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


class Damaged(OSError):
    """The checksum of a sealed file does not fit; the message names the file."""


def write_sealed(path, data, fingerprint, previous=None):
    """Write bytes, the fingerprint of the settings that they belong to, and the SHA-256 of both, which is returned.

    fingerprint: 64 hexadecimal digits. torch.load ignores what follows its own bytes.
    """
    data += fingerprint.encode()
    checksum = hashlib.sha256(data).hexdigest()
    with atomic_write(path, previous) as temporary:
        temporary.write_bytes(data + checksum.encode())
    return checksum


def read_sealed(path):
    """Return (bytes, fingerprint, checksum) of a file of `write_sealed`. Raise Damaged if the checksum does not fit."""
    data = Path(path).read_bytes()
    data, checksum = data[:-64], data[-64:]
    if len(data) < 64 or hashlib.sha256(data).hexdigest().encode() != checksum:
        raise Damaged(f"{path} is damaged: its checksum does not fit")
    return data[:-64], data[-64:].decode(), checksum.decode()


def sha256(path):
    """Return the SHA-256 of a file, None if it cannot be read."""
    with suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None


def unwritable(folder, error):
    """Put an OSError from work in `folder` into one line: what happened, where, and what to do."""
    remedy = "fix this or choose another --out; the same command goes on after the last complete epoch"
    return f"{folder} cannot be used ({error}); {remedy}"
