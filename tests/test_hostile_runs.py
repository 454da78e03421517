"""Run directories that came by mail: nothing in them runs, is resolved, or leads a writer elsewhere."""

import csv
import io
import json
import os
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from matplotlib.figure import Figure

import scripts.curves
import scripts.evaluate
import scripts.export
import scripts.predict
import scripts.record
import scripts.report
import scripts.results
from fmnist_lit.app import go_on
from fmnist_lit.config import read_config
from fmnist_lit.errors import UserError
from fmnist_lit.plots import add_legends
from fmnist_lit.readers.sweep_table import sweep_summary
from tests.fixtures import Answer, call
from tests.test_damaged_runs import IDX
from tests.test_data import idx

CONFIGS = {
    "empty": b"",
    "no YAML": b"a: [1",
    "no mapping": b"- 1",
    "binary": b"\xff\xfe\x00\x01",
    "zeros": bytes(100),
    "an alias": b"a: &x [1, 1]\nb: [*x, *x]",
    "an alias bomb": b"a: &a [x]\n" + b"\n".join(b"b%d: &b%d [*a, *a]" % (i, i) for i in range(9)),
    "depth": b"[" * 50_000,
    "length": b"a: " + b"x" * 2_000_000,
    "an interpolation": b"a: ${oc.env:HOME}",
    "an escaped interpolation": rb'a: {b: ["\x24{oc.env:HOME}"]}',
    "an interpolation as a key": b"${oc.env:HOME}: 1",
    "a Python object": b"a: !!python/object/apply:os.system [ls]",
    "a date": b"a: 2020-01-01",
    "a set": b"a: !!set {x}",
    "bytes": b"a: !!binary aGVsbG8=",
    "a number of 5,000 digits": b"a: " + b"9" * 5_000,
    "an unhashable key": b"? [1]\n: 2",
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_config_is_plain_data_or_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config.yaml cannot be read: ") as refused:
        read_config(tmp_path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_config_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no config\.yaml"):
        read_config(tmp_path)


SECRET = "s3cret-of-the-environment"
REFERENCE = "${oc.env:SECRET}"
LOGGING = """
hydra:
  job_logging:
    version: 1
    handlers:
      console: {{(): os.system, command: touch {canary}}}
      file: {{class: logging.FileHandler, filename: {outside}/log}}
    root: {{handlers: [console, file]}}
  runtime: {{output_dir: {outside}, choices: {{model: "${{oc.env:SECRET}}"}}}}
  overrides: {{task: ["${{oc.env:SECRET}}"]}}
"""


class Touch:
    """What a pickle may ask for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


class Attacked(NamedTuple):
    """A run to spoil, a folder of somebody else, and a file that appears if code ran."""

    run: Path
    outside: Path
    canary: Path


def edit_config(run: Path, key: str, value: Any) -> None:
    """Set a dotted key of config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    node = config
    for part in key.split(".")[:-1]:
        node = node[part]
    node[key.split(".")[-1]] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def edit_metrics(run: Path, **values: Any) -> None:
    """Set keys of metrics.json."""
    content = json.loads((run / "metrics.json").read_text()) | values
    (run / "metrics.json").write_text(json.dumps(content))


def linked(path: Path, target: Path) -> None:
    """Put a link in the place of a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def dishonest_checkpoint(path: Path) -> None:
    """Weights of the right names and the size of one number each, spread over gigabytes."""
    weights = torch.load(path, weights_only=True)
    for name in weights["state_dict"]:
        weights["state_dict"][name] = torch.zeros(1).expand(2**20, 2**12)
    torch.save(weights, path)


def compressed(path: Path) -> None:
    """Pack a checkpoint's zip anew; ten gigabytes of zeros would fit into ten megabytes."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)


def poisoned(path: Path) -> None:
    """Give the weights values of which no probability follows."""
    content = torch.load(path, weights_only=True)
    for weight in content["state_dict"].values():
        weight.fill_(float("nan")) if weight.is_floating_point() else None
    torch.save(content, path)


MARKUP = "<script>alert(1)</script>|[x](http://e)\n# `$\\frac$ \x1b[31m\u202e[bold]=1+1 " + REFERENCE

ATTACKS: dict[str, Callable[[Attacked], Any]] = {
    "a factory for logging": lambda a: hydra(a, LOGGING.format(canary=a.canary, outside=a.outside)),
    "a secret for the output folder": lambda a: edit_config(a.run, "output_dir", REFERENCE),
    "a secret for a rate": lambda a: edit_config(a.run, "optim.lr", REFERENCE),
    "a secret for a default": lambda a: edit_config(a.run, "optim.lr", "${oc.env:NONE,${oc.env:SECRET}}"),
    "a secret for a folder": lambda a: edit_config(a.run, "data.images.folder", REFERENCE),
    "a secret for the name": lambda a: edit_config(a.run, "name", REFERENCE),
    "a secret for an unknown key": lambda a: edit_config(a.run, "unknown", {"key": [REFERENCE]}),
    "a secret in the overrides": lambda a: overrides(a, f"- optim.lr={REFERENCE}\n- name=x\n"),
    "a command for a model": lambda a: edit_config(
        a.run, "model", {"_target_": "os.system", "command": f"touch {a.canary}"}
    ),
    "a command inside a model": lambda a: edit_config(
        a.run, "model.patch", {"_target_": "os.system", "command": f"touch {a.canary}"}
    ),
    "a command for images": lambda a: edit_config(
        a.run, "data.images", {"_target_": "subprocess.run", "args": ["touch", str(a.canary)]}
    ),
    "another target of ours for a model": lambda a: edit_config(
        a.run,
        "model",
        {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": f"{a.outside}"},
    ),
    "another target of ours for images": lambda a: edit_config(
        a.run, "data.images._target_", "fmnist_lit.models.lenet.LeNet"
    ),
    "a Python object": lambda a: (a.run / "config.yaml").write_text(
        f"model: !!python/object/apply:os.system ['touch {a.canary}']\ndata: 1\n"
    ),
    "Python in the overrides": lambda a: overrides(
        a, f"- !!python/object/apply:os.system ['touch {a.canary}']\n"
    ),
    "a pickle for the best checkpoint": lambda a: torch.save(
        {"state_dict": Touch(a.canary)}, a.run / "checkpoints" / "best.ckpt"
    ),
    "a pickle for both checkpoints": lambda a: [
        (a.run / "checkpoints" / name).write_bytes(pickle.dumps(Touch(a.canary)))
        for name in ("best.ckpt", "last.ckpt")
    ],
    "weights of gigabytes": lambda a: dishonest_checkpoint(a.run / "checkpoints" / "best.ckpt"),
    "compressed weights": lambda a: compressed(a.run / "checkpoints" / "best.ckpt"),
    "weights that are no numbers": lambda a: poisoned(a.run / "checkpoints" / "best.ckpt"),
    "a model of gigabytes": lambda a: edit_config(a.run, "model.hidden", [2**30, 2**30]),
    "images without end": lambda a: edit_config(a.run, "data.images.train", 2**31 - 8),
    "evaluation/ a link": lambda a: linked(a.run / "evaluation", a.outside),
    "evaluation/test a link": lambda a: linked(a.run / "evaluation" / "test", a.outside),
    "evaluation/ a link that leads nowhere": lambda a: linked(a.run / "evaluation", a.outside / "new"),
    "export/ a link": lambda a: linked(a.run / "export", a.outside),
    "export/ with links": lambda a: linked(a.run / "export" / "README.md", a.outside / "test" / "mine.txt"),
    "curves.png a link": lambda a: linked(a.run / "curves.png", a.outside / "test" / "mine.txt"),
    "curves.png a link that leads nowhere": lambda a: linked(a.run / "curves.png", a.outside / "new.png"),
    "curves.png a folder": lambda a: (a.run / "curves.png").mkdir(),
    "the notes of what was written a link": lambda a: linked(a.run / ".written", a.outside),
    "checkpoints/ a link": lambda a: linked(a.run / "checkpoints", a.outside),
    "best.ckpt a link to no file": lambda a: linked(a.run / "checkpoints" / "best.ckpt", Path("/dev/zero")),
    "metrics.json endless": lambda a: linked(a.run / "metrics.json", Path("/dev/zero")),
    "metrics.json of the environment": lambda a: linked(a.run / "metrics.json", Path("/proc/self/environ")),
    "history.csv of a secret": lambda a: linked(a.run / "history.csv", a.outside / "test" / "mine.txt"),
    "metrics.json that waits": lambda a: fifo(a.run / "metrics.json"),
    "history.csv that waits": lambda a: fifo(a.run / "history.csv"),
    "config.yaml that waits": lambda a: fifo(a.run / "config.yaml"),
    "best.ckpt that waits": lambda a: fifo(a.run / "checkpoints" / "best.ckpt"),
    "metrics.json a folder": lambda a: folder(a.run / "metrics.json"),
    "history.csv a folder": lambda a: folder(a.run / "history.csv"),
    "history.csv of 10 GB": lambda a: sparse(a.run / "history.csv"),
    "metrics.json of 10 GB": lambda a: sparse(a.run / "metrics.json"),
    "config.yaml of 10 GB": lambda a: sparse(a.run / "config.yaml"),
    "best.ckpt of 10 GB": lambda a: sparse(a.run / "checkpoints" / "best.ckpt"),
    "metrics.json of a million brackets": lambda a: (a.run / "metrics.json").write_text("[" * 10**6),
    "markup in the metrics": lambda a: edit_metrics(
        a.run, command=MARKUP, device=MARKUP, commit=MARKUP, choices={MARKUP: MARKUP, "experiment": MARKUP}
    ),
    "markup for an epoch": lambda a: edit_metrics(a.run, epochs=MARKUP),
    "markup in the overrides": lambda a: overrides(a, json.dumps([MARKUP])),
    "markup in unknown keys": lambda a: edit_config(a.run, "unknown", {MARKUP.replace("${", ""): 1}),
    "markup for a failure": lambda a: [
        (a.run / "metrics.json").unlink(),
        (a.run / "failure.json").write_text(json.dumps({"reason": MARKUP})),
    ],
}


def hydra(attacked: Attacked, text: str) -> None:
    (attacked.run / ".hydra").mkdir(exist_ok=True)
    (attacked.run / ".hydra" / "hydra.yaml").write_text(text)


def overrides(attacked: Attacked, text: str) -> None:
    (attacked.run / ".hydra").mkdir(exist_ok=True)
    (attacked.run / ".hydra" / "overrides.yaml").write_text(text)


def snapshot(root: Path) -> dict[Path, bytes | None]:
    """Return the contents of the small files below a folder, not of links."""
    small = {path for path in root.rglob("*") if stat.S_ISREG(path.lstat().st_mode)}
    return {
        path: path.read_bytes() if path in small and path.stat().st_size < 2**26 else None
        for path in root.rglob("*")
    }


def small_plot(histories: Any) -> Figure:
    """Draw the runs' names alone."""
    figure = Figure(figsize=(1, 1))
    add_legends(figure, figure.subplots(), histories)
    return figure


@pytest.fixture
def attacked(run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attacked:
    """A run as it came by mail; what is slow and not attacked is left out of the readers."""
    outside = tmp_path / "outside"
    for name in ("test", "checkpoints"):
        (outside / name).mkdir(parents=True)
        (outside / name / "mine.txt").write_text(f"epoch,train_loss\n1,{SECRET}\n")
    (run_copy.parent / "other").mkdir()  # beside which the run has columns of its own
    for name in ("config.yaml", "metrics.json"):
        shutil.copy(run_copy / name, run_copy.parent / "other")
    monkeypatch.setenv("SECRET", SECRET)
    for module in ("fmnist_lit.readers.evaluate", "fmnist_lit.readers.page"):
        monkeypatch.setattr(f"{module}.plots", lambda evaluation: {})
    for module in ("fmnist_lit.readers.page", "scripts.curves"):
        monkeypatch.setattr(f"{module}.curves_plot", small_plot)
    monkeypatch.setattr("scripts.export.write_onnx", lambda predictor, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr("scripts.export.largest_difference", lambda *arguments: 0.0)
    return Attacked(run_copy, outside, tmp_path / "canary")


def resumed(run: Path) -> Answer:
    """Go on with a run, in process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = go_on(run)
    return Answer(status, out.getvalue(), err.getvalue())


def summarized(folder: Path) -> Answer:
    text, failed = sweep_summary(folder)
    return Answer(1 if failed else 0, text, "error: failed" if failed else "")


def all_readers(attacked: Attacked, root: Path) -> Iterator[tuple[str, Answer]]:
    """Open a run with every reader, and go on with it."""
    run, images = attacked.run, root / "images"
    images.write_bytes(IDX)
    yield "evaluate", call(scripts.evaluate, run, "--folds", 2)
    yield "predict", call(scripts.predict, run, images, "--json")
    yield "export", call(scripts.export, run)
    yield "report", call(scripts.report, run, "-o", root / "report.html")
    yield "curves", call(scripts.curves, run)
    yield "curves -o", call(scripts.curves, run, "-o", root / "curves.svg")
    for kind in ("md", "csv", "json"):
        yield "results", call(scripts.results, run.parent, "--format", kind)
    yield "record", call(scripts.record, run, "--root", root / "project")
    yield "sweep", summarized(run.parent)
    yield "resume of a finished run", resumed(run)
    if not (run / "metrics.json").is_dir():
        (run / "metrics.json").unlink(missing_ok=True)
    yield "resume", resumed(run)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_run_harms_nobody(attack: str, attacked: Attacked, tmp_path: Path) -> None:
    project = tmp_path / "project" / "results"
    project.mkdir(parents=True)
    (project / "published.yaml").write_text("{}")
    ATTACKS[attack](attacked)
    before = snapshot(attacked.outside)
    for reader, answer in all_readers(attacked, tmp_path):
        told = answer.stdout + answer.stderr
        assert answer.returncode in (0, 1, 2), reader
        assert answer.returncode == 0 or "error: " in answer.stderr, reader
        assert "Traceback" not in told, reader
        assert SECRET not in told, reader
        assert not set(told) & {"\x1b", "\u202e"}, reader
        assert snapshot(attacked.outside) == before, reader
        assert not attacked.canary.exists(), reader
    for path, content in snapshot(tmp_path).items():
        if attacked.outside not in path.parents and content is not None:
            assert SECRET.encode() not in content, path
    page = tmp_path / "report.html"
    assert not page.exists() or "<script" not in page.read_text()


BAD = {
    "null": None,
    "a list": [1],
    "a text": "0.9",
    "true": True,
    "negative": -1,
    "too high": 1e308,
    "a whole number of 400 digits": 10**400,
    "nested": {"accuracy": {"accuracy": 1}},
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "minus Infinity": float("-inf"),
}
WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    f"{part}.{key} {kind}": lambda m, part=part, key=key, value=value: m[part].update({key: value})
    for part in ("train", "val", "test")
    for key in ("accuracy", "loss")
    for kind, value in BAD.items()
}
WRONG |= {
    f"{key} {kind}": lambda m, key=key, value=value: m.update({key: value})
    for key in ("train", "test", "epochs", "seconds", "parameters", "seed", "device", "command", "choices")
    for kind, value in BAD.items()
    if (key, kind) not in (("train", "null"), ("device", "a text"), ("command", "a text"))
}
WRONG |= {
    f"no {key}": lambda m, key=key: m.pop(key) for key in ("train", "val", "test", "epochs", "seed", "device")
}
WRONG |= {
    "accuracy 7": lambda m: m["test"].update(accuracy=7),
    "a part without loss": lambda m: m["test"].pop("loss"),
    "choices of lists": lambda m: m.update(choices={"model": ["mlp4"]}),
    "a command of a megabyte": lambda m: m.update(command="x" * 2**20),
}
TEXTS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "cut off": b'{"train": {"accuracy"',
    "binary": bytes(range(256)),
    "no UTF-8": b'{"train": "\xff\xfe"}',
    "zeros": bytes(1000),
    "deep": b'{"a":' * 100_000,
    "many digits": b'{"epochs": ' + b"9" * 100_000 + b"}",
    "too high": b'{"seconds": 1e999}',
}


@pytest.fixture(scope="module")
def pair(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a whole run and one whose metrics.json is to be spoilt."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("whole", "spoilt"):
        (folder / name).mkdir()
        for file in ("config.yaml", "metrics.json", "history.csv"):
            shutil.copy(runs["mlp4"] / file, folder / name)
    return folder


def assert_apart(folder: Path) -> None:
    """Each table of the folder has the whole run, and names the other with the reason."""
    answer = call(scripts.results, folder, "--format", "json")
    table = json.loads(answer.stdout, parse_constant=pytest.fail)
    assert (answer.returncode, len(table["finished"])) == (0, 1), answer.stderr
    (apart,) = table["without_result"]
    assert apart["run"] == str(folder / "spoilt")
    assert "spoilt/" in apart["reason"]
    text, failed = sweep_summary(folder)
    assert failed == 1
    assert "whole" in text


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_figures_spoil_no_folder(wrong: str, pair: Path, runs: dict[str, Path]) -> None:
    metrics = json.loads((runs["mlp4"] / "metrics.json").read_text())
    WRONG[wrong](metrics)
    (pair / "spoilt" / "metrics.json").write_text(json.dumps(metrics))
    assert_apart(pair)


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["metrics.json", "config.yaml"])
def test_what_is_no_file_of_a_run_spoils_no_folder(name: str, content: bytes, pair: Path, runs: Any) -> None:
    for file in ("metrics.json", "config.yaml"):
        shutil.copy(runs["mlp4"] / file, pair / "spoilt")
    (pair / "spoilt" / name).write_bytes(content)
    assert_apart(pair)


HISTORIES = {
    "a text": "epoch,learning_rate,train_loss,train_accuracy\n1,0.1,much,0.5\n",
    "too few": "epoch,learning_rate,train_loss,train_accuracy\n1,0.1\n",
    "too many": "epoch,learning_rate,train_loss,train_accuracy\n1,0.1,1,0.5,7\n",
    "too high": "epoch,learning_rate,train_loss,train_accuracy\n1,0.1,1e308,0.5\n",
    "an accuracy of 7": "epoch,learning_rate,train_loss,train_accuracy\n1,0.1,1,7\n",
    "negative": "epoch,learning_rate,train_loss,train_accuracy\n1,-0.1,1,0.5\n",
    "half an epoch": "epoch,learning_rate,train_loss,train_accuracy\n0.5,0.1,1,0.5\n",
    "no epoch": "learning_rate,train_loss,train_accuracy\n0.1,1,0.5\n",
    "a field of a megabyte": "epoch,learning_rate\n" + "1" * 2**20 + ",1\n",
    "binary": "\x00\x01\x02",
}


@pytest.mark.parametrize("content", HISTORIES.values(), ids=HISTORIES)
def test_wrong_epochs_get_one_message(content: str, pair: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(pair / "whole" / "config.yaml", tmp_path / "run")
    (tmp_path / "run" / "history.csv").write_text(content)
    answer = call(scripts.curves, tmp_path / "run", "-o", tmp_path / "curves.png")
    assert answer.returncode == 1
    assert "history.csv" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_run_that_diverged_is_drawn(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(pair / "whole" / "config.yaml", tmp_path / "run")
    rows = "epoch,learning_rate,train_loss,train_accuracy\n1,0.1,2,0.5\n2,0.1,inf,0.5\n3,0.1,nan,nan\n"
    (tmp_path / "run" / "history.csv").write_text(rows)
    assert call(scripts.curves, tmp_path / "run", "-o", tmp_path / "curves.png").returncode == 0


KEYS = (
    *("model", "model._target_", "model.hidden", "model.dropout", "data", "data.images", "seed"),
    *("data.images._target_", "data.images.train", "data.val_fraction", "data.eval_batch_size"),
    *("data.normalization", "data.split_seed", "optim", "optim.lr", "trainer"),
)


FITTING = {("model.hidden", "a list"), ("optim.lr", "too high")}  # values that may be


@pytest.mark.parametrize(("key", "kind"), [pair for pair in product(KEYS, BAD) if pair not in FITTING])
def test_wrong_values_in_a_config_get_one_message(key: str, kind: str, pair: Path, runs: Any) -> None:
    shutil.copy(runs["mlp4"] / "config.yaml", pair / "spoilt")
    edit_config(pair / "spoilt", key, BAD[kind])
    for answer in (call(scripts.evaluate, pair / "spoilt"), call(scripts.curves, pair / "spoilt")):
        assert answer.returncode == 1
        assert len(answer.stderr.splitlines()) == 1
        assert "config.yaml" in answer.stderr
        assert "no checkpoints/best.ckpt" not in answer.stderr


@pytest.mark.parametrize("key", ["model", "model._target_", "model.hidden", "data.images", "data.split_seed"])
def test_a_config_that_lacks_a_key_gets_one_message(key: str, run_copy: Path) -> None:
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    *parents, last = key.split(".")
    del reduce(dict.__getitem__, parents, config)[last]
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config))
    answer = call(scripts.evaluate, run_copy)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1
    assert "config.yaml" in answer.stderr


def test_readers_replace_what_they_wrote_and_nothing_else(attacked: Attacked) -> None:
    run = attacked.run
    commands = {
        "evaluation/test": lambda: call(scripts.evaluate, run),
        "export": lambda: call(scripts.export, run),
        "curves.png": lambda: call(scripts.curves, run),
    }
    for name, command in commands.items():
        for _ in range(2):
            assert command().returncode == 0, name
        mine = {"evaluation/test": "notes.txt", "export": "README.md", "curves.png": ""}[name]
        (run / name / mine).write_text("mine") if mine else (run / name).write_text("mine")
        answer = command()
        assert answer.returncode == 1, name
        assert "would be lost" in answer.stderr
        assert (run / name / mine if mine else run / name).read_text() == "mine"


def test_nothing_of_a_run_is_markup_in_tables_pages_and_pictures(attacked: Attacked, tmp_path: Path) -> None:
    run = attacked.run
    shutil.copytree(run, run.parent / "[bold]other")
    edit_metrics(run, command=MARKUP, device=MARKUP, commit=MARKUP, choices={"model": MARKUP, "=1+1": MARKUP})
    edit_config(run, "unknown", {"@SUM(1)": "=1+1"})
    table = call(scripts.results, run.parent).stdout
    assert "<script" not in table
    assert "](http" not in table
    widths = {line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "no cell ends early"
    text = call(scripts.results, run.parent, "--format", "csv").stdout
    rows = list(csv.reader(io.StringIO(text)))
    assert [cell for row in rows for cell in row if cell[:1] in "=+@" and cell] == []
    assert "'=1+1" in {cell for row in rows for cell in row}
    assert call(scripts.report, run, "-o", tmp_path / "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert call(scripts.export, run).returncode == 0
    card = (run / "export" / "README.md").read_text()
    assert "<script" not in card
    assert "](http" not in card
    for kind in ("svg", "pdf", "png"):
        both = (run, run.parent / "[bold]other")
        assert call(scripts.curves, *both, "-o", tmp_path / f"curves.{kind}").returncode == 0
    assert "<script" not in (tmp_path / "curves.svg").read_text()
    assert "[bold]other" in sweep_summary(run.parent)[0]
    named = tmp_path / "[link=http:e]\x1b[31m.idx"
    named.write_bytes(idx(torch.arange(784).reshape(1, 28, 28) % 256))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # a short name is not folded
        answer = call(scripts.predict, run, named.name)
    assert "[link=http:e]" in answer.stdout.replace("\n", "")
    assert "\x1b" not in answer.stdout


def test_the_names_of_overrides_write_no_lines_into_configs(attacked: Attacked, tmp_path: Path) -> None:
    edit_metrics(attacked.run, commit="a" * 40, choices={"experiment": "five_models/mlp4"})
    overrides(attacked, json.dumps(["x=1.\nmodel:\n  _target_: os.system\n#"]))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "published.yaml").write_text("{}")
    answer = call(scripts.record, attacked.run, "--root", tmp_path)
    assert answer.returncode == 1
    assert "text of one line" in answer.stderr
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["published.yaml"]
