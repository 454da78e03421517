"""Files and folders that are either whole or not there."""

import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from filelock import BaseFileLock, FileLock, Timeout

from fmnist_lit.errors import Occupied

log = logging.getLogger(__name__)

PART = ".part"  # ends the name of a file or folder that is being written
LEFT_S = 3600  # a part so old is of a process that was killed
LOCK = ".lock"  # of a folder in which one process at a time may work
PATIENCE_S = 2  # before it is said what is waited for
# What file systems answer to what they do not have: locks (some of Lustre and NFS), a folder's fsync.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[BaseFileLock]:
    """Keep other processes out; a lock ends with its process, if not before.

    Where the file system has no locks there is none, which is said.

    Args:
        waiting: what to say if another process has it for seconds; without it nobody waits.

    Raises:
        Timeout: another process has it, and nobody waits.
        OSError: its file cannot be written.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=PATIENCE_S if waiting else 0)
        except Timeout:
            if not waiting:
                raise
            log.info("%s (lock: %s)", waiting, path)
            lock.acquire()
    except OSError as error:
        if error.errno not in UNSUPPORTED:  # Timeout has none
            raise
        log.warning("%s: no locks on this file system. Start nothing twice at once here.", path.parent)
    try:
        yield lock
    finally:
        lock.release()


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
        if error.errno not in UNSUPPORTED:
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
    remove_parts(path.parent, path.name, LEFT_S)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # exFAT knows no modes
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
    try:
        os.link(path, link)
    except OSError:  # exFAT and many of FUSE have no links; whatever else it is comes again
        shutil.copyfile(path, link)
    os.replace(link, path.with_name(name))


def take_name(temporary: str, path: Path) -> None:
    """Give a file a name that no other has, in one step.

    Raises:
        FileExistsError: another one has it.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # without links in two steps: no other process gets the name either
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)


def remove_parts(folder: Path, name: str = "", older_s: float = -1) -> None:
    """Remove what a killed process had half written: files, and folders of ``whole_folder``.

    Args:
        name: of what was to be written; "": of anything.
        older_s: only what was not changed for so many seconds.
    """
    for part in folder.glob(f".{escape(name)}*{PART}"):
        with suppress(FileNotFoundError):  # another process removes it too
            if time.time() - part.lstat().st_mtime > older_s:
                shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()


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
    with whole_file(path, publish=take_name) as file:
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
    remove_parts(folder.parent, folder.name, LEFT_S)
    begins = f".{folder.name}."
    with tempfile.TemporaryDirectory(PART, begins, folder.parent, ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)
        with suppress(OSError):  # exFAT knows no modes
            os.chmod(temporary, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
