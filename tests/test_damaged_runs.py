"""A run that cannot be read gets one message from every script, and nothing is written."""

import os
import pickle
import shutil
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import scripts.curves
import scripts.evaluate
import scripts.export
import scripts.predict
import scripts.report
import scripts.results
from tests.fixtures import ROOT, call


def break_checkpoint(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch EXECUTED",))


FAULTS = {
    "no run": (lambda run: (run / "config.yaml").unlink(), "no run directory"),
    "config of another kind": (lambda run: (run / "config.yaml").write_text("a: 1"), "no config of a run"),
    "broken config": (lambda run: (run / "config.yaml").write_text("a: [1"), "config.yaml"),
    "no checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), "best.ckpt"),
    "truncated checkpoint": (lambda run: break_checkpoint(run / "checkpoints" / "best.ckpt"), "best.ckpt"),
    "empty checkpoint": (lambda run: (run / "checkpoints" / "best.ckpt").write_bytes(b""), "best.ckpt"),
    "malicious checkpoint": (
        lambda run: torch.save({"state_dict": Malicious()}, run / "checkpoints" / "best.ckpt"),
        "holds more than weights",
    ),
    "malicious bare pickle": (
        lambda run: (run / "checkpoints" / "best.ckpt").write_bytes(pickle.dumps(Malicious())),
        "best.ckpt",
    ),
    "forbidden target": (
        lambda run: (run / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace("fmnist_lit.models.mlp.MLP", "os.system")
        ),
        "os.system",
    ),
    "another model": (
        lambda run: (run / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace("- 500", "- 501")
        ),
        "does not fit",
    ),
}

IDX = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (1, 28, 28)) + bytes(784)


def arguments(script: ModuleType, run: Path, tmp_path: Path) -> list[object]:
    """What a script needs besides a run."""
    if script is scripts.predict:
        (tmp_path / "images").write_bytes(IDX)
        return [run, tmp_path / "images"]
    return [run, "-o", tmp_path / "report.html"] if script is scripts.report else [run]


def contents(run: Path) -> set[Path]:
    return set(run.rglob("*"))


@pytest.mark.parametrize("script", [scripts.evaluate, scripts.predict, scripts.export, scripts.report])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_run_gets_one_message(
    fault: str, script: ModuleType, run_copy: Path, tmp_path: Path
) -> None:
    damage, part = FAULTS[fault]
    damage(run_copy)
    before = contents(run_copy)
    answer = call(script, *arguments(script, run_copy, tmp_path))
    assert answer.returncode in (1, 2)
    assert part in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert len(answer.stderr.splitlines()) == 1
    assert contents(run_copy) == before
    assert not (tmp_path / "report.html").exists()
    assert not (ROOT / "EXECUTED").exists()


OF_ONE_RUN = (scripts.predict, scripts.export)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        *product((*OF_ONE_RUN, scripts.evaluate, scripts.report, scripts.curves), ["empty", "missing"]),
        *product(OF_ONE_RUN, ["below"]),  # for the others a folder stands for its runs
    ],
)
def test_a_folder_that_is_no_run_gets_one_message(
    script: ModuleType, kind: str, run_copy: Path, tmp_path: Path
) -> None:
    folder = {"empty": tmp_path / "empty", "missing": tmp_path / "missing", "below": run_copy.parent}[kind]
    (tmp_path / "empty").mkdir()
    answer = call(script, *arguments(script, folder, tmp_path))
    expected = {
        "empty": "is no run directory",
        "missing": "no such folder",
        "below": f"Did you mean {run_copy}?",
    }
    assert answer.returncode == 1
    assert expected[kind] in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("epoch,train_loss\n1,much\n", "history.csv is damaged"),
        ("epoch,train_loss\n", "no epoch was finished"),
    ],
)
@pytest.mark.parametrize("script", [scripts.curves, scripts.report])
def test_a_damaged_history_gets_one_message(
    content: str, part: str, script: ModuleType, run_copy: Path, tmp_path: Path
) -> None:
    (run_copy / "history.csv").write_text(content)
    answer = call(script, *arguments(script, run_copy, tmp_path))
    assert answer.returncode == 1
    assert part in answer.stderr


@pytest.mark.parametrize("script", [scripts.export, scripts.report])
def test_a_run_that_did_not_finish_is_refused(script: ModuleType, run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "metrics.json").unlink()
    answer = call(script, *arguments(script, run_copy, tmp_path))
    assert answer.returncode == 1
    assert "has no metrics.json: unfinished." in answer.stderr


def test_results_of_a_folder_without_runs_are_refused(tmp_path: Path) -> None:
    assert "holds no run" in call(scripts.results, tmp_path).stderr
    assert "no such folder" in call(scripts.results, tmp_path / "missing").stderr
