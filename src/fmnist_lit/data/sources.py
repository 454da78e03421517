"""Where the official Fashion-MNIST files come from. Every byte is verified before it is used.

Facts: https://github.com/zalandoresearch/fashion-mnist; Debian's package dataset-fashion-mnist holds the
same files, compressed anew, so what identifies a file is the md5 of its uncompressed content.
"""

import gzip
import hashlib
import http.client
import io
import logging
import os
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fmnist_lit.constraints import Text
from fmnist_lit.data import idx
from fmnist_lit.data.dataset import Images
from fmnist_lit.data.idx import UNREADABLE, candidates, opened, reason
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.files import LOCK, locked, write_new

log = logging.getLogger(__name__)

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TIMEOUT_S, APT_TIMEOUT_S = 30, 600  # of one connection; of one command about packages
LAYOUT = Path("FashionMNIST", "raw")  # torchvision's, below its root
CHECKOUT = Path(__file__).parents[3]
LIMIT = 2**26  # bytes of a file; the largest has 47 million

Contents = dict[str, bytes]
Source = Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]


class Unavailable(Exception):
    """A source cannot give a file; the message says why."""


def fashion_mnist(folder: Text, source: Text | None = None, fetch: bool = True) -> Images:
    """Read Fashion-MNIST from ``folder``; what is missing there is fetched. No file is ever overwritten.

    Args:
        folder: kept as ``folder/FashionMNIST/raw/*``, torchvision's layout. The files may be there or in the
            folder itself, compressed or not, under either of their names.
        source: a folder that holds the four files, compressed or not. It is used or refused; none other is.
        fetch: what is missing.

    Raises:
        UsageError: ``source`` is refused, or ``folder`` holds other files under their names.
        UserError: no source has a file, or ``folder`` cannot be written.
    """
    if not fetch:
        try:
            return stored(Path(folder))
        except Unavailable as error:
            raise UserError(f"Fashion-MNIST was expected in {folder}: {error}.") from error
    return in_memory(obtain(Path(folder), None if source is None else Path(source)))


def stored(folder: Path) -> Images:
    """Read Fashion-MNIST from a folder of the four files, or of torchvision's layout; nothing is fetched.

    Raises:
        Unavailable: it is not there whole; the message says what is wrong.
    """
    return in_memory(dict(from_folder(folder, MD5)))


def recorded(folder: str) -> Path:
    """Return the data folder that a run's config names.

    Runs of earlier versions name it relative to where they were started: it is looked for in the working
    folder, then in the checkout.
    """
    places = [place / str(folder) for place in (Path.cwd(), CHECKOUT)]
    return next((place for place in places if has_files(place)), places[0])


def has_files(folder: Path) -> bool:
    """Whether a folder has the names of the four files, in torchvision's layout or without one."""
    return all(candidates(folder, name) or candidates(folder / LAYOUT, name) for name in MD5)


def in_memory(files: Contents) -> Images:
    """Turn the four files into tensors."""
    # The fourth byte of an IDX file says how many dimensions it has.
    tensors = (idx.parse_idx(io.BytesIO(files[name]), files[name][3]) for name in MD5)
    train, train_labels, test, test_labels = tensors
    return Images(train, train_labels, test, test_labels)


def obtain(folder: Path, source: Path | None) -> Contents:
    """Return the four verified files, by name, and see to it that ``folder`` holds them in some form."""
    given = None if source is None else named_files(source)
    raw = folder / LAYOUT
    files = kept_files(raw)
    if len(files) == len(MD5):
        return files
    try:
        return dict(from_folder(folder, MD5))  # whole without a layout, too
    except Unavailable as error:
        if any(candidates(folder, name) for name in MD5):
            log.warning("%s: its own files are left alone, for %s.", folder, error)
    try:
        raw.mkdir(parents=True, exist_ok=True)
        # Runs that start together wait here for the first one instead of fetching four times.
        with locked(raw / LOCK, f"Waiting for another process that fills {raw} ..."):
            files = kept_files(raw)
            missing = [name for name in MD5 if name not in files]
            found = fetched(missing) if given is None else ((name, given[name]) for name in missing)
            for name, content in found:
                write_new(raw / name, content)
                files[name] = content
    except OSError as error:
        raise UserError(
            f"cannot keep Fashion-MNIST in {raw}: {error.strerror or error}. "
            "Name another folder: data.images.folder=..."
        ) from error
    return files


def named_files(source: Path) -> Contents:
    """Return what the user's own folder holds.

    Raises:
        UsageError: it does not hold the four official files.
    """
    try:
        return dict(from_folder(source, MD5))
    except Unavailable as error:
        raise UsageError(
            f"data.images.source={source}: {error}. A source that is named is used or refused: name a folder "
            "that holds the four official files (.gz or not), or name none."
        ) from error


def kept_files(raw: Path) -> Contents:
    """Return those of the four files that the data folder holds.

    Raises:
        UsageError: something else has the name of one. Ours are written whole, so it is the user's.
    """
    files = {}
    for name in MD5:
        for path in candidates(raw, name)[:1]:
            try:
                files[name] = read(path, name)
            except Unavailable as error:
                raise UsageError(
                    f"{raw} holds other files than Fashion-MNIST's: {error}. It is left as it is. "
                    f"Remove {path}, or name another folder: data.images.folder=..."
                ) from error
    return files


def fetched(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Give each file from the first source that has it, and tell what came of every source.

    Raises:
        UserError: no source has a file.
    """
    missing, failures = list(names), []
    log.info("Looking for %d of %d files of Fashion-MNIST ...", len(missing), len(MD5))
    for title, fetch in sources():
        wanted = len(missing)
        try:
            for name, content in fetch(tuple(missing)):
                yield name, content
                missing.remove(name)
        except Unavailable as error:
            failures.append(f"{title}: {error}")
            log.info("Tried %s.", failures[-1])
        if wanted > len(missing):
            log.info("From %s: %d files.", title, wanted - len(missing))
        if not missing:
            return
    raise UserError(
        "no source has Fashion-MNIST whole. Tried:\n  "
        + "\n  ".join(failures)
        + "\nPut the four files (.gz or not) into a folder and name it: data.images.source=FOLDER; "
        "or train without them: data=synthetic"
    )


def sources() -> list[tuple[str, Source]]:
    """List the sources in the order in which they are tried where the user names none."""
    from torchvision.datasets import FashionMNIST

    return [
        (str(DEBIAN_FOLDER), partial(from_folder, DEBIAN_FOLDER)),
        *((mirror, partial(from_mirror, mirror)) for mirror in FashionMNIST.mirrors),
        (f"Debian's package {DEBIAN_PACKAGE}", from_debian_package),
    ]


def read(path: Path, name: str) -> bytes:
    """Return the content of a file, compressed or not, if it is the official one of that name.

    Raises:
        Unavailable: it is not.
    """
    with readable(path.name), opened(path) as file:
        return verified(name, file.read(LIMIT))


def verified(name: str, content: bytes) -> bytes:
    """Return the content if it is the official file of that name, else raise Unavailable."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != MD5[name]:
        raise Unavailable(f"{name} has md5 {digest}, not {MD5[name]}")
    return content


@contextmanager
def readable(file: str) -> Iterator[None]:
    """Say which file cannot be read, and why.

    Raises:
        Unavailable: it cannot.
    """
    try:
        yield
    except (*UNREADABLE, http.client.HTTPException) as error:
        raise Unavailable(f"{file}: {reason(error)}") from error


def from_folder(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read verified files from a folder, or from torchvision's layout below it, compressed or not."""
    if not os.path.isdir(folder):
        raise Unavailable("it is no folder" if os.path.lexists(folder) else "no such folder")
    for name in names:
        places = [*candidates(folder, name), *candidates(folder / LAYOUT, name)]
        if not places:
            raise Unavailable(f"it holds neither {name} nor {name}.gz, nor with .idx")
        yield name, read(places[0], name)


def from_mirror(mirror: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Download and verify compressed files below an address."""
    for name in names:
        with readable(f"{name}.gz"):
            answer = urllib.request.urlopen(f"{mirror}{name}.gz", timeout=TIMEOUT_S)
            with answer, gzip.open(answer) as file:
                content = file.read(LIMIT)
        yield name, verified(name, content)


def from_debian_package(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Download and unpack the Debian package into a temporary folder; needs apt, but not root."""
    with tempfile.TemporaryDirectory(prefix="fmnist-lit-") as temporary:
        folder = Path(temporary)
        # The system's package lists may be missing or old, and only root may renew them: keep our own.
        own_lists = [f"-oDir::State::Lists={folder / 'lists'}", f"-oDir::Cache={folder / 'cache'}"]
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        call(folder, "apt-get", "-q", *own_lists, "update")
        call(folder, "apt-get", "-q", *own_lists, "download", DEBIAN_PACKAGE)
        package = next(folder.glob(f"{DEBIAN_PACKAGE}_*.deb"), None)
        if package is None:
            raise Unavailable(f"apt-get found no {DEBIAN_PACKAGE}")
        call(folder, "dpkg-deb", "-x", package.name, "unpacked")
        yield from from_folder(folder / "unpacked" / DEBIAN_FOLDER.relative_to("/"), names)


def call(folder: Path, *command: str) -> None:
    """Run a program that may ask nothing, and turn its failure into its last words."""
    try:
        subprocess.run(
            command, cwd=folder, input="", capture_output=True, text=True, check=True, timeout=APT_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise Unavailable(f"this system has no {command[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command[:2])} took longer than {error.timeout} s") from error
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout).strip().splitlines() or [f"exit status {error.returncode}"]
        raise Unavailable(f"{command[0]}: {words[-1]}") from error
