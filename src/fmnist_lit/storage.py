"""Files and folders that are either whole or not there."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time go on from here."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: TextIO) -> bool:
    """Lock an open file, unless another process has; the lock ends with the file, or with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock on a file."""
    with path.open() as file:
        return not try_lock(file)


@contextmanager
def written_beside(path: Path, content: bytes) -> Iterator[str]:
    """Give a whole file under another name in the same folder; what the caller does not rename is removed."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        yield temporary
    except OSError as error:  # a full disk names no file
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it, so that no reader and no crash finds half of it.

    Raises:
        OSError: the folder is missing or full; nothing is left behind.
    """
    with written_beside(path, content) as temporary:
        os.replace(temporary, path)


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole, unless there is one: of many processes at once, one succeeds.

    Raises:
        FileExistsError: there is one.
        OSError: the folder is missing or full; nothing is left behind.
    """
    with written_beside(path, content) as temporary:
        os.link(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON. NaN and infinity are refused: JSON has neither."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill; it takes the place of ``folder`` once all is written.

    Raises:
        Exception: whatever the caller raised while filling it; then nothing has changed.
    """
    folder.parent.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
