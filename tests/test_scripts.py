"""The command lines of scripts/: one message for a wrong one, exit status 2; options stand anywhere."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

import scripts.best_runs
import scripts.curves
import scripts.evaluate
import scripts.export
import scripts.images
import scripts.predict
import scripts.record
import scripts.report
import scripts.results
from fmnist_lit.data import sources
from fmnist_lit.data.dataset import CLASSES
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.plots import images_plot
from tests.fixtures import call
from tests.test_damaged_runs import IDX
from tests.test_data import idx

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
    (scripts.images, ["FOLDER", "-o", "images.pdf"], ".png"),
    (scripts.images, ["no-such-folder"], "no such folder"),
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
    two = ["--group-by", "model", "seed"]
    for line in ([folder, *two], ["--group-by", "model", "--group-by", "seed", folder], [*two, folder]):
        (row,) = json.loads(call(scripts.results, *line, "--format", "json").stdout)["finished"]
        assert list(row)[:2] == ["model", "seed"]


def test_a_folder_with_a_keys_name_is_not_taken_for_the_runs(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_copy.parent)
    Path("model").mkdir()
    for line in (["--group-by", "seed", "model", "run"], ["run", "--group-by", "seed", "model"]):
        answer = call(scripts.results, *line)
        assert answer.stdout.startswith("| seed | model |"), answer


def test_json_holds_no_infinite_number(run_copy: Path) -> None:
    history = (run_copy / "history.csv").read_text().splitlines()
    cells = [
        "inf" if name == "val_loss" else cell
        for name, cell in zip(*(line.split(",") for line in (history[0], history[-1])), strict=True)
    ]
    (run_copy / "history.csv").write_text("\n".join([*history[:-1], ",".join(cells)]))
    answer = call(scripts.results, run_copy, "--columns", "last_val_loss", "--format", "json")
    (row,) = json.loads(answer.stdout, parse_constant=pytest.fail)["finished"]
    assert row["last_val_loss"] is None


def test_a_name_without_runs_is_told(tmp_path: Path) -> None:
    answer = call(scripts.record, tmp_path / "typo", "--root", tmp_path)
    assert (answer.returncode, answer.stderr) == (1, f"error: {tmp_path / 'typo'} holds no run.\n")
    assert not list(tmp_path.iterdir())


def test_the_best_mlp_and_cnn_are_tested_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    """Chosen by validation accuracy, whatever their test accuracy is."""
    for name, run in runs.items():
        shutil.copytree(run, tmp_path / "outputs" / name)
        shutil.copytree(run, tmp_path / "outputs" / f"{name}-worse")
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["val"]["accuracy"], metrics["test"]["accuracy"] = 0.01, 1.0
        (tmp_path / "outputs" / f"{name}-worse" / "metrics.json").write_text(json.dumps(metrics))
    answer = call(scripts.best_runs, tmp_path / "outputs", "-o", tmp_path)
    assert answer.returncode == 0, answer.stderr
    kinds = {"convolution-neural-net.txt": "cnn_b", "multi-layer-net.txt": "mlp4"}
    assert [line.rpartition(", ")[2] for line in answer.stdout.splitlines()] == list(kinds)
    assert "worse" not in answer.stdout
    for file, name in kinds.items():
        lines = (tmp_path / file).read_text().splitlines()
        known = json.loads((runs[name] / "metrics.json").read_text())["test"]["accuracy"]
        assert lines[1] == f"accuracy {known:.4f}"
        pairs = [line.split() for line in lines[3:]]
        assert len(pairs) == 100
        assert sum(true == predicted for true, predicted in pairs) == round(100 * known)


def test_the_first_images_are_drawn(tmp_path: Path) -> None:
    images = drawn_garments(train=60, test=10, seed=0)
    drawn = (images.train, images.train_labels, images.test, images.test_labels)
    for name, values in zip(sources.MD5, drawn, strict=True):
        (tmp_path / name).write_bytes(idx(values))
    answer = call(scripts.images, tmp_path, "-o", tmp_path / "images.png")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")
    figure = images_plot(drawn[0].numpy(), drawn[1].numpy(), CLASSES, "train")
    *shown, bars = figure.axes
    assert [axes.get_title() for axes in shown] == [CLASSES[label] for label in drawn[1][:50]]
    assert [bar.get_height() for bar in bars.patches] == drawn[1].bincount(minlength=10).tolist()


def test_a_folder_of_runs_stands_for_its_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, run in runs.items():
        shutil.copytree(run, tmp_path / "outputs" / "runs" / name)
    drawn = call(scripts.curves, tmp_path / "outputs", "-o", tmp_path / "curves.svg")
    assert drawn.returncode == 0
    assert drawn.stdout.startswith("Drawn: ")
    made = call(scripts.report, tmp_path / "outputs", "-o", tmp_path / "page.html")
    assert made.returncode == 0
    assert all(name in (tmp_path / "page.html").read_text() for name in runs)


def test_a_runs_name_is_answered_with_its_folder(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs["mlp4"], tmp_path / "outputs" / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    answer = call(scripts.evaluate, "first")
    assert answer.stderr == "error: first: no such folder. Did you mean outputs/runs/first?\n"
