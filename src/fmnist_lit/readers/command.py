"""What the command lines of scripts/ have in common."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fmnist_lit.data import sources
from fmnist_lit.errors import exit_status


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
