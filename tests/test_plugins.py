"""One class and one YAML: every example of docs/extend.md trains as written; no file of ours is touched."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

import fmnist_lit.models
from fmnist_lit.build import locate
from fmnist_lit.resume import way_on
from tests.fixtures import ROOT, SMALL, answer_in_process

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


def test_a_module_that_cannot_be_imported_says_why(outside: Path) -> None:
    (outside / "broken.py").write_text("raise ValueError('numpy.dtype size changed')")
    with pytest.raises(ValueError, match="size changed"):
        locate("broken.Net")


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


def test_the_readmes_model_trains_as_one_of_the_projects(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file beside the others of the package, and one of the options, as written."""
    readme = (ROOT / "README.md").read_text().partition("## Adding a model")[2]
    code, node = (re.findall(rf"```{kind}\n(.*?)```", readme, re.DOTALL)[0] for kind in ("python", "yaml"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.py").write_text(code)
    (tmp_path / "options" / "model" / "tiny.yaml").write_text(node)
    monkeypatch.setattr(
        fmnist_lit.models, "__path__", [*fmnist_lit.models.__path__, str(tmp_path / "models")]
    )
    run = train(outside, "--config-dir", "options", "model=tiny")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["parameters"] == 1_690
    assert "fmnist_lit.models.tiny.Tiny" in (run / "config.yaml").read_text()
    assert node.startswith("# yaml-language-server: $schema=../schemas/model.json\n")


def test_the_readmes_lines_for_a_notebook_run(
    outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = re.findall(r"In a notebook.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    run = train(outside, "model=mlp", "model.hidden=[8]")
    (outside / "outputs" / "runs").mkdir(parents=True)
    run.rename(outside / "outputs" / "runs" / "mine")
    exec(lines, {})
    assert "Ankle boot" in capsys.readouterr().out


def test_the_recorded_command_finds_the_options_again(outside: Path) -> None:
    run = train(outside, "--config-dir", "options", "model=tiny", "seed=3")
    command = shlex.split(json.loads((run / "metrics.json").read_text())["command"])
    assert command[2:4] == ["--config-dir", str(outside / "options")]
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    assert "model=tiny" in overrides
    assert not any("options" in override for override in overrides)
    status, _, error = answer_in_process([*command[2:], "hydra.run.dir=again"])
    assert (status in (0, None), error) == (True, "")


def test_a_stopped_run_says_all_packages_to_trust(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "yours.py").write_text(MODULE)
    run = train(outside, "--config-dir", "options", "model=tiny", "metrics=confidence")
    (run / "metrics.json").unlink()
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("mine.Confidence", "yours.Confidence"))
    assert way_on(run).endswith(f"resume={run} trust=mine,yours")
    status, _, error = answer_in_process([f"resume={run}"])
    assert status == 2
    assert "trust=mine,yours" in error
    (run / "config.yaml").write_text(text)
    status, _, error = answer_in_process([f"resume={run}", "trust=mine"])
    assert (status in (0, None), error) == (True, "")
