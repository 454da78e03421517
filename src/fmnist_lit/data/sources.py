"""Where the official Fashion-MNIST files come from. Every byte is verified before it is used.

Facts: https://github.com/zalandoresearch/fashion-mnist; Debian's package dataset-fashion-mnist holds the
same files, compressed anew, so what identifies a file is the md5 of its uncompressed content.
"""

import argparse
import gzip
import hashlib
import http.client
import logging
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock

from fmnist_lit.data.images import Images
from fmnist_lit.errors import UserError
from fmnist_lit.storage import write_whole

log = logging.getLogger(__name__)

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TIMEOUT_S = 30  # of one connection; a whole package may take longer

Contents = dict[str, bytes]
Source = Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]


class Unavailable(Exception):
    """A source cannot give a file; the message says why."""


def fashion_mnist(folder: str, source: str | None = None) -> Images:
    """Read Fashion-MNIST from ``folder``, fetching what is missing or damaged there.

    Args:
        folder: kept as ``folder/FashionMNIST/raw/*``, torchvision's layout.
        source: a folder that already holds the files, compressed or not, tried before the network.

    Raises:
        UserError: no source has a file, or ``folder`` cannot be written.
    """
    files = obtain(Path(folder), Path(source) if source else None)
    return Images(*(parse_idx(files[name]) for name in MD5))


def obtain(folder: Path, source: Path | None) -> Contents:
    """Return the four verified files, by name, from the first source that has each."""
    raw = folder / "FashionMNIST" / "raw"
    files, _ = read_whole_files(raw)
    if len(files) == len(MD5):
        return files
    try:
        raw.mkdir(parents=True, exist_ok=True)
        # Runs that start together wait here for the first one instead of fetching four times.
        with FileLock(raw / ".lock"):
            return complete(raw, source)
    except OSError as error:
        raise UserError(
            f"cannot keep Fashion-MNIST in {raw}: {error.strerror or error}. "
            "Name another folder: data.images.folder=..."
        ) from error


def read_whole_files(raw: Path) -> tuple[Contents, list[str]]:
    """Return the files of the data folder that are whole, and what is wrong with the damaged ones."""
    files, damaged = {}, []
    for name in MD5:
        try:
            files[name] = verified(name, (raw / name).read_bytes())
        except Unavailable as error:
            damaged.append(str(error))
        except (FileNotFoundError, NotADirectoryError):
            pass
    return files, damaged


def complete(raw: Path, source: Path | None) -> Contents:
    """Fetch what is missing, a source after another, and write each verified file whole."""
    files, damaged = read_whole_files(raw)
    for damage in damaged:
        log.warning("Damaged file in %s: %s. It is fetched anew.", raw, damage)
    attempts = [f"  {raw}: {'; '.join(damaged) or 'the files are not there'}"]
    for title, fetch in sources(source):
        missing = [name for name in MD5 if name not in files]
        if not missing:
            break
        log.info("Fetching %d of %d Fashion-MNIST files from %s.", len(missing), len(MD5), title)
        try:
            for name, content in fetch(missing):
                files[name] = verified(name, content)
                write_whole(raw / name, content)
        except Unavailable as error:
            attempts.append(f"  {title}: {error}")
    if len(files) == len(MD5):
        return files
    raise UserError(
        "no source has Fashion-MNIST whole. Tried:\n"
        + "\n".join(attempts)
        + "\nPut the four files (.gz or not) into a folder and name it: data.images.source=FOLDER; "
        "or train without them: data=synthetic"
    )


def sources(named: Path | None) -> list[tuple[str, Source]]:
    """List the sources in the order in which they are tried."""
    folders = [named, DEBIAN_FOLDER] if named else [DEBIAN_FOLDER]
    return [
        *((str(folder), partial(from_folder, folder)) for folder in folders),
        *((mirror, partial(from_mirror, mirror)) for mirror in torchvision_mirrors()),
        (f"Debian's package {DEBIAN_PACKAGE}", from_debian_package),
    ]


def torchvision_mirrors() -> list[str]:
    """Return the addresses that torchvision knows."""
    from torchvision.datasets import FashionMNIST

    return list(FashionMNIST.mirrors)


def verified(name: str, content: bytes) -> bytes:
    """Return the content if it is the official file of that name, else raise Unavailable."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != MD5[name]:
        raise Unavailable(f"{name} has md5 {digest}, not {MD5[name]}")
    return content


def decompressed(name: str, content: bytes) -> bytes:
    """Unpack gzip, and say of what file that failed."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Unavailable(f"{name}: damaged gzip file ({error})") from error


def from_folder(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read files from a folder, or from torchvision's layout below it, compressed or not."""
    if not folder.is_dir():
        raise Unavailable("no such folder")
    for name in names:
        places = [f / n for f in (folder, folder / "FashionMNIST" / "raw") for n in (name, name + ".gz")]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise Unavailable(f"holds neither {name} nor {name}.gz")
        try:
            content = place.read_bytes()
        except OSError as error:
            raise Unavailable(f"{place.name}: {error.strerror}") from error
        yield name, decompressed(name, content) if place.suffix == ".gz" else content


def from_mirror(mirror: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Download compressed files below an address."""
    for name in names:
        try:
            with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=TIMEOUT_S) as answer:
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{name}.gz: {getattr(error, 'reason', error)}") from error
        yield name, decompressed(name, content)


def from_debian_package(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Download and unpack the Debian package into a temporary folder; needs apt, but not root."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"this system has no {program}")
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
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=20 * TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command[:2])} took longer than {20 * TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout).strip().splitlines() or [f"exit status {error.returncode}"]
        raise Unavailable(f"{command[0]}: {words[-1]}") from error


def parse_idx(content: bytes) -> torch.Tensor:
    """Turn a whole IDX file of unsigned bytes into a uint8 tensor of its shape."""
    assert content[:3] == b"\x00\x00\x08", "an IDX file of unsigned bytes"
    dimensions = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return torch.frombuffer(bytearray(content[4 + 4 * dimensions :]), dtype=torch.uint8).view(*shape)


def main() -> int:
    """Get Fashion-MNIST into a folder (default: data) and say where it is."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", nargs="?", default="data", help="where the files are kept")
    parser.add_argument("--source", help="a folder that already holds them")
    arguments = parser.parse_args()
    folder = arguments.folder
    try:
        images = fashion_mnist(folder, arguments.source)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    print(
        f"Fashion-MNIST is whole in {folder}: {len(images.train)} training, {len(images.test)} test images."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
