"""One class and one YAML: every example of docs/extend.md trains as written; no file of ours is touched."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL, answer_in_process

PAGE = (ROOT / "docs" / "extend.md").read_text()
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")[1:]}
MODULE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
FILES = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = {name: re.findall(r"    \$ python train.py (.*)", text) for name, text in SECTIONS.items()}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody's own, in which the commands are given: a module and options."""
    (tmp_path / "mine.py").write_text(MODULE)
    for name, text in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def train(outside: Path, *arguments: str) -> Path:
    keys = [argument.partition("=")[0] for argument in arguments]
    small = [item for item in (*SMALL, "trainer.max_epochs=1") if item.partition("=")[0] not in keys]
    if "data" in keys:
        small = [item for item in small if not item.startswith("data.")]
    status, said, error = answer_in_process([*arguments[:2], *small, *arguments[2:], "hydra.run.dir=run"])
    assert status in (0, None), (said, error)
    assert error == ""
    return outside / "run"


def test_the_page_has_every_kind() -> None:
    kinds = ["Model", "Optimizer", "Schedule", "Augmentation", "Callback", "Logger", "Metric", "Data set"]
    assert list(SECTIONS) == kinds
    assert len(FILES) == len(kinds)
    assert {len(commands) for commands in COMMANDS.values()} == {1}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_part_from_outside_trains(kind: str, outside: Path) -> None:
    run = train(outside, *shlex.split(COMMANDS[kind][0]))
    history = (run / "history.csv").read_text().splitlines()
    match kind:
        case "Callback":
            assert (run / "counted").read_text() == "10"  # 160 images in batches of 32, two epochs
        case "Logger":
            assert len((run / "lines.jsonl").read_text().splitlines()) >= 2
        case "Metric":
            assert "val_confidence" in history[0]
            assert "confidence" in (run / "metrics.json").read_text()
        case "Schedule":
            rates = [row.split(",")[history[0].split(",").index("learning_rate")] for row in history[1:]]
            assert [float(rate) for rate in rates] == [0.01, 0.005]


def test_all_parts_at_once(outside: Path) -> None:
    options = [command[0].split()[2] for command in COMMANDS.values()]
    run = train(outside, "--config-dir", "options", *options)
    assert (run / "metrics.json").is_file()


def test_a_model_that_names_no_floor_of_its_loss_is_held_against_zero(outside: Path) -> None:
    _, said, error = answer_in_process(
        ["--config-dir", "options", "model=tiny", *SMALL, "debug=overfit", "hydra.run.dir=run"]
    )
    assert "floor 0.0000" in said + error + (outside / "run" / "train.log").read_text()
