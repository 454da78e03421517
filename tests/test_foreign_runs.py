"""Runs of somebody's own classes and data: readers build them only from packages that are trusted by name."""

import ast
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

import scripts.curves
import scripts.evaluate
import scripts.export
import scripts.predict
import scripts.report
import scripts.results
from fmnist_lit.build import check_node
from fmnist_lit.errors import UsageError
from fmnist_lit.models.cnn import CNNB
from fmnist_lit.readers.run_directory import gives_probabilities
from tests.fixtures import ROOT, call
from tests.test_plugins import outside, train  # noqa: F401 (a fixture)


@pytest.fixture
def foreign(outside: Path) -> Path:  # noqa: F811
    """A run of a foreign model on a foreign data set of three classes."""
    return train(outside, "--config-dir", "options", "model=tiny", "data=stripes", "metrics=confidence")


def test_a_foreign_run_is_read_once_its_package_is_trusted(foreign: Path, tmp_path: Path) -> None:
    Image.fromarray(torch.zeros(28, 28, dtype=torch.uint8).numpy()).save(tmp_path / "black.png")
    page = tmp_path / "page.html"
    readers: list[tuple[ModuleType, list[object]]] = [
        (scripts.evaluate, [foreign]),
        (scripts.predict, [foreign, tmp_path / "black.png", "--json"]),
        (scripts.report, [foreign, "-o", page]),
        (scripts.export, [foreign]),
    ]
    for script, arguments in readers:
        refused = call(script, *arguments)
        assert refused.returncode == 1
        assert "--trust mine" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    said = {script: call(script, *arguments, "--trust", "mine") for script, arguments in readers}
    assert [answer.stderr for answer in said.values() if answer.returncode] == []
    measured = json.loads((foreign / "evaluation" / "test" / "metrics.json").read_text())
    recorded = json.loads((foreign / "metrics.json").read_text())
    assert measured["accuracy"] == recorded["test"]["accuracy"]
    assert measured["loss"] == pytest.approx(recorded["test"]["loss"], rel=1e-6)
    names = ["left", "middle", "right"]
    assert list(measured["classes"]) == recorded["classes"] == names
    assert list(json.loads(said[scripts.predict].stdout)[0]["probabilities"]) == names
    for text in (page.read_text(), (foreign / "export" / "README.md").read_text()):
        assert "middle" in text
        assert "Pullover" not in text


def test_tables_and_curves_read_a_foreign_run_as_data(foreign: Path, tmp_path: Path) -> None:
    table = json.loads(call(scripts.results, foreign, "--format", "json").stdout)
    recorded = json.loads((foreign / "metrics.json").read_text())["test"]
    assert table["finished"][0]["test_accuracy"] == recorded["accuracy"]
    assert table["finished"][0]["test_confidence"] == pytest.approx(recorded["confidence"])
    assert "test confidence" in call(scripts.results, foreign).stdout
    assert call(scripts.curves, foreign, "-o", tmp_path / "curves.png").returncode == 0


class Head(nn.Module):
    """A network with some head."""

    def __init__(self, head: object) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(784, 10), head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = self.linear(images.flatten(1))
        return self.head(output) if callable(self.head) else output


HEADS = {
    "a softmax layer": (Head(nn.Softmax(dim=1)), True),
    "a softmax function": (Head(lambda output: output.softmax(1)), True),
    "a key named head": (Head("softmax"), False),
    "log-probabilities": (Head(nn.LogSoftmax(dim=1)), False),
    "independent probabilities": (Head(nn.Sigmoid()), False),
    "report five_models": (CNNB("softmax"), True),
    "corrected": (CNNB("logits"), False),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_network_itself_shows_whether_it_gives_probabilities(kind: str) -> None:
    model, expected = HEADS[kind]
    assert gives_probabilities(model.eval()) == expected


class Anything(nn.Module):
    """A network that takes any key."""

    def __init__(self, **further: object) -> None:
        super().__init__()


def test_what_a_class_takes_under_any_name_is_checked_too() -> None:
    node = {"_target_": f"{__name__}.Anything", "part": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(UsageError, match=r"model\.part\._target_=os\.system: only targets from tests are"):
        check_node(node, "model", trusted=["tests"])


def test_training_imports_no_reader() -> None:
    """But the table of a sweep, which is made when all its jobs are done."""
    source = ROOT / "src" / "fmnist_lit"
    for path in source.rglob("*.py"):
        if path.parent.name == "readers":
            continue
        tree = ast.parse(path.read_text())
        found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        readers = [module for module in found if module.startswith("fmnist_lit.readers")]
        assert readers == (["fmnist_lit.readers.sweep_table"] if path.name == "app.py" else []), path
        at_the_top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert "fmnist_lit.readers.sweep_table" not in at_the_top
