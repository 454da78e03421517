"""Files and folders that are either whole or not there."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from fmnist_lit.errors import Occupied

PART = ".part"  # ends the name of a file that is being written
LOCK = ".lock"  # of a folder in which one process at a time may work


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock of this name; nothing is written to find out."""
    if path.is_symlink() or not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # of a folder that may only be read nobody knows
        return False


def require_inside(run: Path, path: Path) -> Path:
    """Return a path of a run directory that may be written to: no link leads it out of there.

    A run may come from anywhere, and with it links to what is not its own.

    Raises:
        Occupied: one does.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run)):
        raise Occupied(f"{path} leads out of the run directory by a link, and nothing is written there.")
    return path


def require_all_inside(run: Path) -> None:
    """Refuse a run directory with a link that leads out of it, before anything is written there.

    Raises:
        Occupied: there is one.
    """
    for path in run.rglob("*"):
        if path.is_symlink():
            require_inside(run, path)


def sync_folder(folder: Path) -> None:
    """Let a folder's names survive a power cut; a file's own fsync does not care for its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path, publish: Callable[[str, Path], None] = os.replace) -> Iterator[BinaryIO]:
    """Give a file to write; once all of it is on the disk, it becomes ``path`` in one step.

    No reader, crash or power cut finds half of it, and a link at ``path`` is replaced, not followed.

    Args:
        publish: gives the file its name.

    Raises:
        OSError: the folder is missing or full; nothing is left behind.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            publish(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:  # a full disk names no file
        raise type(error)(error.errno, error.strerror, str(path)) from error


def give_name(path: Path, name: str) -> None:
    """Let a file have another name in its folder too, in one step, whatever has that name now."""
    link = path.with_name(f".{name}{PART}")
    link.unlink(missing_ok=True)
    os.link(path, link)
    os.replace(link, path.with_name(name))


def remove_parts(folder: Path) -> None:
    """Remove what a killed process had half written."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: the folder is missing or full; nothing is left behind.
    """
    with whole_file(path) as file:
        file.write(content)


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole, unless there is one: of many processes at once, one succeeds.

    Raises:
        FileExistsError: there is one.
        OSError: the folder is missing or full; nothing is left behind.
    """
    with whole_file(path, publish=os.link) as file:
        file.write(content)


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
