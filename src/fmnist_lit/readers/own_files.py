"""What readers write into a run directory: through no link, and over nothing but what they wrote themselves.

A run may come from anywhere, and its owner may have put files into it. What was written is known by its
SHA-256, kept in ``RUN/.written/`` as ``sha256sum --check`` reads it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fmnist_lit.errors import UserError
from fmnist_lit.files import whole_folder, write_whole
from fmnist_lit.run_files import read_file

LARGEST = 2**30  # bytes of a file that a reader wrote: an ONNX model


def require_own(run: Path, name: str) -> None:
    """Make sure that a file or flat folder of a run is ours to write.

    Raises:
        UserError: it is a link, or behind one, or holds what no reader wrote.
    """
    for path in (run / ".written", *reversed((run / name).parents), run / name):
        if run in path.parents and path.is_symlink():
            raise UserError(f"{path} is a link; nothing is written through links. Move it away first.")
    path, ours = run / name, written(run, name)
    for file in path.iterdir() if path.is_dir() else [path] if path.exists() else []:
        if ours.get(file.relative_to(run).as_posix()) != digest(file):
            raise UserError(f"{file} is not as it was written here, and would be lost. Move it away first.")


def written(run: Path, name: str) -> dict[str, str]:
    """Return the digests of what readers wrote, by path from the run."""
    path = record(run, name)
    lines = read_file(path).decode(errors="replace").splitlines() if path.exists() else []
    return {file: value for value, _, file in (line.partition("  ") for line in lines)}


def record(run: Path, name: str) -> Path:
    """Return where the digests of a file or folder are kept."""
    return run / ".written" / name.replace("/", "-")


def digest(file: Path) -> str | None:
    """Return a file's SHA-256; None for what no reader writes: a link, a folder, a device."""
    if file.is_symlink() or not file.is_file():
        return None
    return hashlib.sha256(read_file(file, LARGEST)).hexdigest()


def keep(run: Path, name: str, digests: Mapping[str, str | None]) -> None:
    """Keep the digests of what was written."""
    record(run, name).parent.mkdir(exist_ok=True)
    lines = [f"{value}  {file}\n" for file, value in digests.items()]
    write_whole(record(run, name), "".join(lines).encode())


@contextmanager
def own_folder(run: Path, name: str) -> Iterator[Path]:
    """Give a new folder to fill with files; it takes the place of ``RUN/name`` once all is written.

    Raises:
        UserError: what is there is not ours.
    """
    require_own(run, name)
    with whole_folder(run / name) as folder:
        yield folder
        digests = {f"{name}/{file.name}": digest(file) for file in sorted(folder.iterdir())}
    keep(run, name, digests)


def write_own(run: Path, name: str, content: bytes) -> None:
    """Write ``RUN/name`` whole.

    Raises:
        UserError: what is there is not ours.
    """
    require_own(run, name)
    write_whole(run / name, content)
    keep(run, name, {name: digest(run / name)})
