"""What the command lines of scripts/ have in common."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fmnist_lit.data import sources
from fmnist_lit.errors import UsageError, exit_status


def named_folder(text: str) -> Path:
    """Return the folder that an option names.

    Raises:
        BadParameter: it has no name.
    """
    try:
        return sources.named_folder(text)
    except ArgumentTypeError as error:
        raise typer.BadParameter(str(error)) from error


RUN = {"metavar": "RUN", "help": "a run directory", "show_default": False}
Run = Annotated[Path, typer.Argument(**RUN)]
RunPaths = Annotated[list[Path], typer.Argument(**RUN)]
Checkpoint = Annotated[Literal["best", "last"], typer.Option(help="which of the run's")]
Data = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=named_folder, help="of Fashion-MNIST, if not where the run says"),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(metavar="PACKAGE", help="from which the run's classes may come too; may be repeated"),
]


def output_option(content: str) -> Any:
    """Return the option that says where a script writes."""
    return typer.Option("-o", "--output", help=content)


def kind_of(output: Path, kinds: Iterable[str]) -> str:
    """Return what an output's name ends in, without the dot.

    Raises:
        UsageError: it is none of the kinds that can be written.
    """
    kind = output.suffix.removeprefix(".")
    if kind not in kinds:
        raise UsageError(f"-o {output}: its name must end in {', '.join(f'.{name}' for name in kinds)}.")
    return kind


def command_line(work: Callable[..., None]) -> Callable[[], Any]:
    """Return a script's main: read the command line as a function's signature says, do the work, and exit.

    Exit statuses are those of ``exit_status``, and 2 for a command line that cannot be read.
    """

    @wraps(work)
    def command(**arguments: Any) -> None:
        raise typer.Exit(exit_status(lambda: work(**arguments)))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    return app
