"""Files that appear whole or not at all."""

import json
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path):
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it to `path`.

    After a crash at any moment `path` holds either its old content or the new one, complete.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    """Write `content` as JSON, one top-level key a line. Raises ValueError for NaN and infinities."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    with whole(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
