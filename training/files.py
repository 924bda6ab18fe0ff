"""Atomic writes: a reader, or the next run after a kill, sees the old file or the new one, never half of it."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path


class Damaged(RuntimeError):
    """A stored file that cannot be read; the message names it."""


@contextmanager
def atomic_write(path, mode="w"):
    """Opens a temporary file beside `path`; on success it is flushed to disk and renamed to `path`.

    Args:
        path: file to create or replace; missing folders are made.
        mode: "w" for text, "wb" for bytes.

    Yields:
        The open file. An exception inside leaves `path` as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(folder):
    """Flushes a file or a folder, so that it lasts through a power cut; not where the system refuses for a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def sync(folder):
    """Flushes every file of a folder to disk, and the folders, before a rename that must not come first."""
    for path in Path(folder).rglob("*"):
        _flush(path)
    _flush(folder)


def remove_leftovers(folder):
    """Removes what killed processes left half-written, at a folder that no other process writes to and below it."""
    folder = Path(folder)
    for path in [*folder.parent.glob(f".{folder.name}.*.tmp"), *folder.rglob(".*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def begins_with(path, content):
    """Whether a file begins with these bytes; not where it is missing, a folder or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(content)) == content
    except OSError:
        return False


def write_json(path, content):
    """Writes `content` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, sort_keys=False)
        file.write("\n")


def read_json(path, default=None):
    """The content of a JSON file, or `default` if it does not exist.

    Raises:
        Damaged: it is no JSON.
    """
    path = Path(path)
    if not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{path} is damaged ({error})") from None
