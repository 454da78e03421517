"""Whatever a terminal can print and whatever a file is called, every script says what it has to say."""

import io
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TextIO

import numpy as np
import pytest
from PIL import Image

import scripts.best_runs
import scripts.curves
import scripts.data
import scripts.evaluate
import scripts.export
import scripts.images
import scripts.predict
import scripts.record
import scripts.report
import scripts.results
import scripts.tune
from fmnist_lit.readers.command import arguments
from fmnist_lit.summary import rendered
from tests.fixtures import Answer, call
from tests.test_data_sets import lay, small_files

ODD = "boot \udcff[bold]é$x$"  # a byte that is no UTF-8, markup, a letter that ASCII has not, mathematics


def call_on(stdout: TextIO, script: ModuleType, *given: object) -> tuple[int | str | None, str]:
    """Run a script's main with a standard output; return its exit status and its error stream."""
    errors = io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(errors), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, given)])
        try:
            status = script.main()
        except SystemExit as left:
            status = left.code
    return status, errors.getvalue()


def picture(path: Path) -> Path:
    Image.fromarray(np.pad(np.full((30, 20), 200, np.uint8), 10)).save(path)
    return path


@pytest.fixture
def odd(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in ``[/b]`` with an odd name; what takes seconds is left out."""
    run = run_copy.parent / "[" / "b]" / ODD
    run.parent.mkdir(parents=True)
    run_copy.rename(run)
    monkeypatch.chdir(run_copy.parent)
    for place in ("evaluate", "page"):
        monkeypatch.setattr(f"fmnist_lit.readers.{place}.plots", lambda _: {})
    monkeypatch.setattr(scripts.export, "write_onnx", lambda _, path: path.write_bytes(b"x"))
    monkeypatch.setattr(scripts.export, "largest_difference", lambda *_: 0.0)
    return run


LINES: dict[ModuleType, Callable[[Path, Path], list[object]]] = {
    scripts.best_runs: lambda run, new: [run, "-o", run.parent],
    scripts.curves: lambda run, new: [run, "-o", f"{new}.png"],
    scripts.evaluate: lambda run, new: [run],
    scripts.export: lambda run, new: [run],
    scripts.predict: lambda run, new: [run, picture(run / f"{ODD}.png"), "--show", f"{new}.png"],
    scripts.report: lambda run, new: [run, "-o", f"{new}.html"],
    scripts.results: lambda run, new: [run, "-o", f"{new}.md"],
}
FAILING = {  # what the command line cannot do, named with the odd name
    scripts.images: lambda run, new: [new],
    scripts.record: lambda run, new: [run],
    scripts.tune: lambda run, new: [new],
    scripts.data: lambda run, new: [run / "config.yaml"],
    scripts.results: lambda run, new: [new],
}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_every_script_takes_and_prints_every_name(encoding: str, odd: Path) -> None:
    for lines, expected in ((LINES, {0}), (FAILING, {1, 2})):
        for script, line in lines.items():
            stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            status, errors = call_on(stdout, script, *line(odd, odd.parent / f"{script.__name__}{ODD}"))
            stdout.seek(0)
            said = stdout.read() + errors
            assert status in expected, (script.__name__, said)
            assert "Traceback" not in said
            assert script is scripts.best_runs or r"boot \udcff[bold]" in "".join(said.split("\n")), said


def test_a_table_has_the_lines_of_the_terminal() -> None:
    for encoding, line in (("ascii", "+"), ("latin-1", "+"), ("utf-8", "┏")):
        with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding=encoding)):
            assert rendered(["a"], [["[/b]"]]).startswith(line)
            assert "[/b]" in rendered(["a"], [["[/b]"]])


def test_brackets_are_no_markup(runs: dict[str, Path], tmp_path: Path) -> None:
    answer = call(scripts.predict, runs["mlp4"], picture(tmp_path / "boot [front].png"), "--csv")
    assert "boot [front].png,dark," in answer.stdout
    for line in (["[/b]", "x"], [runs["mlp4"], "[/b]"], [runs["mlp4"], "x", "--[/b]"]):
        assert "[/b]" in call(scripts.predict, *line).stderr
    assert "[/b]" in call(scripts.results, tmp_path, "--format", "[/b]").stderr


@pytest.fixture
def left() -> Iterator[TextIO]:
    """The standard output of a program whose reader has left."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stdout:
        yield stdout


def test_a_reader_that_has_left_is_no_fault(runs: dict[str, Path], tmp_path: Path, left: TextIO) -> None:
    for line in ([], ["--json"]):
        assert call_on(left, scripts.predict, runs["mlp4"], picture(tmp_path / "x.png"), *line) == (0, "")
    left.flush()  # as Python does at its end


def test_a_full_disk_is_told(runs: dict[str, Path]) -> None:
    with open("/dev/full", "w") as full:
        status, errors = call_on(full, scripts.results, runs["mlp4"])
    assert (status, errors) == (1, "error: input or output: No space left on device\n")


def test_home_expands_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = [
        "~/run",
        "--data=~/data",
        "-o~/x.png",
        "data.images.folder=~/d",
        "~",
        "./~",
        "a/~b",
        "x~",
        "a=b/~",
    ]
    expanded = ["/home/me/run", "--data=/home/me/data", "-o/home/me/x.png", "data.images.folder=/home/me/d"]
    assert arguments(given, {}) == [*expanded, "/home/me", "./~", "a/~b", "x~", "a=b/~"]


def special(kind: str, path: Path) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "/dev/zero"])
def test_what_is_no_file_gets_a_message(
    kind: str, run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    file, folder = special(kind, Path("x.png")), lay(tmp_path / "images", small_files())
    (folder / "train-labels-idx1-ubyte").unlink()
    special(kind, Path("images/train-labels-idx1-ubyte"))
    lines: list[tuple[ModuleType, list[object]]] = [
        (scripts.predict, [run_copy, file]),
        (scripts.predict, [run_copy, run_copy / "config.yaml", "--show", file]),
        (scripts.predict, [file, file]),
        (scripts.curves, [run_copy, "-o", file]),
        (scripts.images, [folder]),
        (scripts.images, [file]),
        (scripts.results, [file]),
        (scripts.record, [file]),
        (scripts.tune, [file]),
        (scripts.data, [tmp_path / "data", "--source", folder]),
        (scripts.data, [tmp_path / "data", "--source", file]),
    ]
    for script, line in lines:
        answer: Answer = call(script, *line)
        assert answer.returncode in (1, 2), (script.__name__, line, answer)
        assert answer.stderr.strip(), script
    assert not file.is_file()
