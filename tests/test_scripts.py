"""The command lines of scripts/: one message for a wrong one, exit status 2; options stand anywhere."""

import json
from pathlib import Path
from types import ModuleType

import pytest

import scripts.curves
import scripts.evaluate
import scripts.export
import scripts.predict
import scripts.record
import scripts.report
import scripts.results
from tests.conftest import call
from tests.test_damaged_runs import IDX

WRONG: list[tuple[ModuleType, list[str], str]] = [
    (scripts.evaluate, [], "RUN"),
    (scripts.evaluate, ["RUN", "--folds", "1"], "--folds"),
    (scripts.evaluate, ["RUN", "--folds", "many"], "--folds"),
    (scripts.evaluate, ["RUN", "--split", "all"], "--split"),
    (scripts.evaluate, ["RUN", "--checkpoint", "first"], "--checkpoint"),
    (scripts.evaluate, ["RUN", "--unknown"], "--unknown"),
    (scripts.evaluate, ["RUN", "--data", ""], "--data"),
    (scripts.evaluate, ["RUN", "--trust"], "--trust"),
    (scripts.predict, ["RUN"], "IMAGE"),
    (scripts.predict, ["RUN", "x.png", "--threads", "0"], "--threads"),
    (scripts.predict, ["RUN", "x.png", "--background", "grey"], "--background"),
    (scripts.export, [], "RUN"),
    (scripts.export, ["RUN", "RUN"], "RUN"),
    (scripts.curves, [], "RUN"),
    (scripts.curves, ["RUN", "RUN"], "-o"),
    (scripts.report, ["RUN", "-o"], "-o"),
    (scripts.results, [], "FOLDER"),
    (scripts.results, ["FOLDER", "FOLDER"], "--group-by"),
    (scripts.results, ["FOLDER", "--format", "xls"], "--format"),
    (scripts.record, ["--root"], "--root"),
]


@pytest.mark.parametrize(("script", "line", "part"), WRONG, ids=str)
def test_a_wrong_command_line_gets_exit_status_2(script: ModuleType, line: list[str], part: str) -> None:
    answer = call(script, *line)
    assert answer.returncode == 2
    assert part in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len([text for text in answer.stderr.splitlines() if text.lower().startswith("error: ")]) == 1


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(scripts.evaluate, "--help")
    assert answer.returncode == 0
    for option in ("RUN", "--checkpoint", "--data FOLDER", "--trust PACKAGE", "--split", "--folds"):
        assert option in " ".join(answer.stdout.split())


def test_options_stand_before_between_and_behind(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(IDX)
    run, images = runs["mlp4"], tmp_path / "images"
    options = ["--threads", "1", "--json"]
    lines = [[*options, run, images], [run, *options, images], [run, images, *options]]
    answers = [json.loads(call(scripts.predict, *line).stdout) for line in lines]
    assert answers[0] == answers[1] == answers[2]


def test_several_keys_group_a_table(runs: dict[str, Path]) -> None:
    folder = runs["mlp4"]
    for line in (["--group-by", "model", "seed"], ["--group-by", "model", "--group-by", "seed"]):
        (row,) = json.loads(call(scripts.results, folder, *line, "--format", "json").stdout)["finished"]
        assert list(row)[:2] == ["model", "seed"]
