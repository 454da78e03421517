"""What the command lines of scripts/ have in common."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fmnist_lit.constraints import folder_name
from fmnist_lit.errors import UsageError, exit_status
from fmnist_lit.run_files import run_directories
from fmnist_lit.threads import free_threads


def named_folder(text: str) -> Path:
    """Return the folder that a command line names; an empty one would mean another.

    Raises:
        BadParameter: it has no name.
    """
    if not text:
        raise typer.BadParameter("a folder's name is not empty")
    return Path(os.path.expanduser(text)).absolute()


def study_name(text: str) -> str:
    """Return the name of a study: files and folders get it.

    Raises:
        UsageError: none can have it.
    """
    try:
        return folder_name(text)
    except ValueError as error:
        raise UsageError(f"--study {text!r}: it must be {error}; files and folders get it.") from error


def with_runs_below(paths: list[Path]) -> list[Path]:
    """Return paths with the finished runs below a folder of runs in its place."""
    found: list[Path] = []
    for path in paths:
        holds_runs = path.is_dir() and not (path / "config.yaml").exists()
        below = run_directories(path) if holds_runs else []
        found += [run for run in below if (run / "metrics.json").exists()] or [path]
    return found


RUN = {"metavar": "RUN", "help": "a run directory", "show_default": False}
SEVERAL = RUN | {"help": "a run directory, or a folder of them"}
Run = Annotated[Path, typer.Argument(**RUN)]
RunPaths = Annotated[list[Path], typer.Argument(**SEVERAL, callback=with_runs_below)]
Checkpoint = Annotated[Literal["best", "last"], typer.Option(help="which of the run's")]
Data = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=named_folder, help="of Fashion-MNIST, if not where the run says"),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE",
        help="from which the run's classes may come too; several by commas, or repeated",
        callback=lambda packages: [name.strip() for several in packages or () for name in several.split(",")],
    ),
]


def output_option(content: str, *names: str) -> Any:
    """Return the option that says where a script writes, to a file or folder alone."""
    return typer.Option(*(names or ("-o", "--output")), help=content, callback=no_device)


def no_device(path: Path | None) -> Path | None:
    """Return a path to write to.

    Raises:
        BadParameter: it is a pipe, a socket or a device, which a file would replace.
    """
    if path and path.exists() and not (path.is_file() or path.is_dir()):
        raise typer.BadParameter(f"{path} is no regular file")
    return path


def kind_of(output: Path, kinds: Iterable[str], option: str = "-o") -> str:
    """Return what an output's name ends in, without the dot.

    Raises:
        UsageError: it is none of the kinds that can be written.
    """
    kind = output.suffix.removeprefix(".")
    if kind not in kinds:
        raise UsageError(
            f"{option} {output}: its name must end in {', '.join(f'.{name}' for name in kinds)}."
        )
    return kind


def take_free_threads(asked: int | None = None) -> None:
    """Compute with the threads that were asked for, else one for each core that other programs leave idle."""
    import torch  # several scripts need none

    torch.set_num_threads(asked or free_threads(torch.get_num_threads()))


def arguments(given: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """Return a command line's arguments: home expanded where a shell does not, values added to options.

    Args:
        values: of options that may stand without one: before another option, or last.
    """
    line = [re.sub(r"^(-\w|[^=/]+=)?(~.*)", home_expanded, argument, flags=re.DOTALL) for argument in given]
    return [
        f"{name}={values[name]}" if name in values and following.startswith("-") else name
        for name, following in zip(line, [*line[1:], "-"], strict=False)
    ]


def home_expanded(found: re.Match[str]) -> str:
    """Expand the path behind an option's or key's name."""
    return (found[1] or "") + os.path.expanduser(found[2])


def command_line(work: Callable[..., None], values: Mapping[str, str] | None = None) -> Callable[[], Any]:
    """Return a script's main: read the command line as a function's signature says, do the work, and exit.

    Exit statuses are those of ``exit_status``, and 2 for a command line that cannot be read.

    Args:
        values: as ``arguments`` takes them.
    """

    @wraps(work)
    def command(**arguments: Any) -> None:
        raise typer.Exit(exit_status(lambda: work(**arguments)))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    return lambda: app(args=arguments(sys.argv[1:], values or {}))
