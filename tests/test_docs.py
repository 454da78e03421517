"""What README and docs/ say is true: commands compose, links and files exist, examples run."""

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import benchmarks.speed
from fmnist_lit.check import check
from fmnist_lit.readers import command
from fmnist_lit.resume import named_run
from tests.fixtures import ROOT, SMALL, answer_in_process, call

PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text() for page in PAGES}
# What stands for a folder or file of the reader's own.
OWN = re.compile(r"\.\.\.|[A-Z]{3,}")
OF_EXTEND = "--config-dir"  # tests/test_plugins.py trains these


def commands() -> Iterator[str]:
    """Give each command of the pages once, its comment left out."""
    found: dict[str, None] = {}
    for text in TEXTS.values():
        lines = re.findall(r"^    (?:\$ )?((?:python|make|torchrun) .*)$", text.replace("\\\n", " "), re.M)
        found |= dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in lines)
    yield from found


COMMANDS = list(commands())
TRAININGS = [one.partition("train.py ")[2] for one in COMMANDS if "train.py " in one and OF_EXTEND not in one]
SCRIPTS = [one for one in COMMANDS if one.startswith("python scripts/")]


@pytest.fixture
def folder(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run under the name that the pages use."""
    shutil.copytree(runs["mlp4"], tmp_path / "outputs" / "runs" / "mine")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def first_job(overrides: list[str]) -> list[str]:
    """Return the overrides of a sweep's first job."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{one.key_or_group}={next(one.sweep_string_iterator())}"
        if one.is_sweep_override()
        else one.input_line
        for one in parsed
    ]


@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_composes(line: str, folder: Path, composed: Callable[..., Any]) -> None:
    overrides = [word for word in shlex.split(line) if not word.startswith("-") and word != "job"]
    overrides = [word.replace("FOLDER", str(folder)) for word in overrides]
    if resumed := named_run(overrides):
        assert (resumed.run / "config.yaml").is_file()
        return
    if line == "model=cnn_d":
        status, _, message = answer_in_process(overrides)
        (shown,) = re.findall(r"error: (model=cnn_d: .*), \.\.\.", TEXTS[ROOT / "docs" / "recipes.md"])
        assert (status, shown in message) == (2, True)
        return
    check(composed(*(one for one in first_job(overrides) if not one.startswith("hydra"))))


@pytest.mark.parametrize("line", SCRIPTS)
def test_a_scripts_command_line_is_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "exit_status", lambda work: 0)
    _, script, *words = shlex.split(line)
    assert call(importlib.import_module(script.removesuffix(".py").replace("/", ".")), *words).returncode == 0


def test_every_other_command_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    for line in COMMANDS:
        words = shlex.split(line)
        if words[0] == "make":
            assert words[1] in targets
        elif words[1] == "benchmarks/speed.py":
            monkeypatch.setattr("sys.argv", words[1:])
            benchmarks.speed.arguments()
        else:
            assert "train.py" in line or words[1].startswith("scripts/"), f"nobody tests {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            path, _, heading = link.partition("#")
            assert (page.parent / path).exists(), link
            assert f"\n## {heading}\n" in (page.parent / path).read_text() if heading else True, link
    roots = (ROOT, ROOT / "src" / "fmnist_lit", ROOT / "docs")
    for name in re.findall(r"`([\w./*-]+\.(?:py|yaml|md|txt|toml|lock|jsonl?))`", text):
        if "/" in name and not OWN.search(name) and "tiny" not in name:
            assert any(list(root.glob(name)) for root in roots), name


def test_what_the_log_names_is_kept() -> None:
    rows = re.findall(r"^\|.*", TEXTS[ROOT / "docs" / "experiments.md"], re.M)
    for row in rows:
        for name in re.findall(r"`([\w*/]+)`", row.rpartition(" | ")[2]):
            kept = name if name.startswith("studies/") else f"experiments/**/{name}"
            assert list((ROOT / "results").glob(f"{kept}.jsonl")), name


@pytest.mark.parametrize("page", ["README.md", "docs/from-python.md"])
def test_the_lines_for_python_run(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXTS[ROOT / page], re.DOTALL)
    space: dict[str, Any] = {}
    for block in blocks:
        exec(block, space)
    assert "Ankle boot" in capsys.readouterr().out


def test_the_readmes_model_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[ROOT / "README.md"].partition("## Add a model")[2]
    (code,) = re.findall(r"```python\n(.*?)```", text.partition("## From Python")[0], re.DOTALL)
    ((name, node),) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", text, re.DOTALL)
    (line,) = re.findall(r"python train.py (--config-dir .*)", text)
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(node)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of other tests
    status, _, error = answer_in_process([*shlex.split(line), *SMALL, "debug=fast", "hydra.run.dir=run"])
    sys.modules.pop("mine", None)
    assert (status in (0, None), error) == (True, "")


def test_the_readme_is_short() -> None:
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= 150
