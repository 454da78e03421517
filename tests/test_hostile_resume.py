"""resume=RUN on a directory that came by mail or was damaged: one message, or the right end; nothing runs."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fmnist_lit import app
from fmnist_lit.checkpoints import BEST, LAST, PREVIOUS
from fmnist_lit.classifier import Classifier
from fmnist_lit.run import run


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture(scope="module")
def killed(composed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch, with all files that it may have by then."""
    small = ("data=synthetic", "data.images.train=100", "data.images.test=20", "data.batch_size=16")
    small += ("model=mlp", "model.hidden=[8]", "optim=adam", "schedule=plateau", "trainer=cpu")
    config = composed(*small, "trainer.max_epochs=3", "threads=1", "callbacks.resume.every_s=0")
    directory: Path = tmp_path_factory.mktemp("killed") / "run"
    directory.mkdir()
    step = Classifier.validation_step

    def die_in_the_second_epoch(self: Classifier, *arguments: Any) -> None:
        if self.trainer.current_epoch:
            raise Killed
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "validation_step", die_in_the_second_epoch)
        with pytest.raises(Killed):
            run(config, directory, {"model": "mlp"}, "python train.py model=mlp")
    return directory


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "mail" / "run"))


def go_on(directory: Path) -> tuple[int, str]:
    """Resume as the command line does; return the exit status and what it says of a failure."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        status = app.go_on(directory)
    return status, said.getvalue()


def assert_one_message(answer: tuple[int, str], part: str = "") -> None:
    status, said = answer
    assert status in (1, 2)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1, said
    assert part in said


def test_the_run_itself_can_be_resumed(copy: Path) -> None:
    assert go_on(copy) == (0, "")


GONE = object()
VALUES = {
    "data": [GONE, None, 5, [], {}, "x"],
    "data.images": [GONE, None, "x", {"_target_": "os.system", "command": "touch EXECUTED"}],
    "data.batch_size": ["32", 0, -1, 1.5, None, 10**400, True, [], float("nan")],
    "data.val_fraction": ["a", 1, float("nan"), float("inf"), None],
    "data.images.train": [10**12, "many", -10],
    "model": [GONE, None, [], "mlp"],
    "model._target_": [GONE, "os.system", 5, None, [], "torch.optim.SGD", "lightning.pytorch.Trainer"],
    "model.hidden": [GONE, "wide", [0], [2**31], [2**31, 2**31], [None], [[8]], [9]],
    "optim._target_": ["builtins.eval", "fmnist_lit.models.mlp.MLP", "torch.optim.SGD"],
    "optim.lr": ["fast", 10**400, float("nan"), float("-inf"), 0, None, True],
    "optim.betas": [0.9, [0.9], [0.9, "x"], [0.9, 1.5]],
    "schedule._target_": ["os.system", "fmnist_lit.schedules.onecycle", 1],
    "logger.tensorboard.name": ["../../outside", "/tmp/outside", "", None],
    "logger.tensorboard.version": ["../outside", "/tmp", 1],
    "trainer.max_epochs": ["all", 0, 2.5, None, 2**40],
    "trainer.precision": ["8", 32, None],
    "trainer.devices": ["two", -1, None],
    "callbacks.monitor": ["val_f1", 1],
    "callbacks.best.monitor": ["val_f1", 1],
    "callbacks.added": [
        {"_target_": "os.system", "command": "touch EXECUTED"},
        {"_target_": "tests.elsewhere.Callback"},
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/tmp/outside"},
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "outside"},
        {"_target_": "lightning.pytorch.callbacks.OnExceptionCheckpoint", "dirpath": "../outside"},
    ],
    "logger.added": [
        {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "../outside"},
        {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": "http://outside.invalid"},
    ],
    "metrics.added": [{"_target_": "builtins.eval"}, "accuracy"],
    "debug": [GONE, None, 5],
    "seed": [GONE, "x", -1, 2**40],
    "surprise": [1, {"_target_": "os.system"}],
    "origin": [5, {"choices": 1, "command": "x"}, {"choices": {}, "command": ["rm"]}],
}
MUTATIONS = [(key, value) for key, values in VALUES.items() for value in values]


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value
    if value is GONE:
        del config[last]


@pytest.mark.parametrize(
    ("key", "value"), MUTATIONS, ids=lambda item: "gone" if item is GONE else str(item)[:40]
)
def test_a_changed_config_gets_one_message(key: str, value: Any, copy: Path) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    set_key(config, key, value)
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert_one_message(go_on(copy))
    assert not Path("EXECUTED").exists()
    assert not (copy / "metrics.json").exists()
    assert {path.name for path in copy.parent.iterdir()} == {"run"}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"\xff\xfe", b"a: [1", b"- 1", b"seed: ${oc.env:HOME}", b"[" * 9_000]
)
def test_a_damaged_config_gets_one_message_and_writes_nothing(content: bytes, copy: Path) -> None:
    (copy / "config.yaml").write_bytes(content)
    before = sorted(copy.rglob("*"))
    assert_one_message(go_on(copy), "config.yaml")
    assert sorted(copy.rglob("*")) == before


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no callbacks": lambda c: c.pop("callbacks"),
    "no loops": lambda c: c.pop("loops"),
    "no version": lambda c: c.pop("pytorch-lightning_version"),
    "no optimizer": lambda c: c.pop("optimizer_states"),
    "no schedules": lambda c: c.pop("lr_schedulers"),
    "no weights": lambda c: c.update(state_dict={}),
    "weights of another shape": lambda c: c["state_dict"].update(
        {k: v[:1] for k, v in c["state_dict"].items()}
    ),
    "texts for weights": lambda c: c["state_dict"].update(dict.fromkeys(c["state_dict"], "x")),
    "a list": lambda c: c.update(callbacks=[]),
    "no best epoch": lambda c: [c["callbacks"].pop(k) for k in list(c["callbacks"]) if "BestCheckpoint" in k],
    "no resume point": lambda c: [c["callbacks"].pop(k) for k in list(c["callbacks"]) if "Resume" in k],
    "no history": lambda c: [c["callbacks"].pop(k) for k in list(c["callbacks"]) if "History" in k],
    "rows of text": lambda c: c["callbacks"]["History"].update(rows="x"),
    "random state of text": lambda c: c["callbacks"]["ResumeCheckpoint"].update(random=["x"]),
    "a number for the best": lambda c: c.update(best=5),
}


@pytest.mark.parametrize("state", STATES)
def test_a_checkpoint_of_other_content_gets_one_message(state: str, copy: Path) -> None:
    last = copy / "checkpoints" / LAST
    checkpoint = torch.load(last, weights_only=True)
    STATES[state](checkpoint)
    torch.save(checkpoint, last)
    assert_one_message(go_on(copy))
    assert not (copy / "metrics.json").exists()


def test_paths_in_a_checkpoint_are_not_believed(copy: Path, tmp_path: Path) -> None:
    """Lightning removes the file of which a checkpoint says that it was the best, if a better one comes."""
    (tmp_path / "mine").write_text("mine")
    last = copy / "checkpoints" / LAST
    checkpoint = torch.load(last, weights_only=True)
    path = f"{copy / 'checkpoints'}/../../../mine"
    for state in checkpoint["callbacks"].values():
        if "best_model_path" in state:
            worst = torch.tensor(-1.0)
            state |= {"best_model_path": path, "kth_best_model_path": path, "last_model_path": path}
            state |= {"best_k_models": {path: worst}, "best_model_score": worst, "kth_value": worst}
    torch.save(checkpoint, last)
    assert go_on(copy)[0] == 0
    assert (tmp_path / "mine").read_text() == "mine"


LINKS = (
    *("history.csv", "train.log", "failure.json", "metrics.json", "checkpoints", f"checkpoints/{LAST}"),
    ".lock",
    *(
        f"checkpoints/{PREVIOUS}",
        f"checkpoints/{BEST}",
        "checkpoints/last.part",
        "checkpoints/.best.ckpt.part",
    ),
    *(
        "checkpoints/previous.ckpt.part",
        ".hydra",
        ".hydra/overrides.yaml",
        "tensorboard",
        ".ranks",
        "evaluation",
    ),
)


@pytest.mark.parametrize("target", ["file", "folder", "dangling"])
@pytest.mark.parametrize("name", LINKS)
def test_no_link_leads_a_resume_out_of_the_run(name: str, target: str, copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("mine")
    (outside / "folder" / LAST).write_text("mine")
    place = copy / name
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
    place.symlink_to(outside / target)
    before = {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")}
    answer = go_on(copy)
    assert_one_message(answer, "metrics.json" if name == "metrics.json" and target == "file" else "link")
    assert {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")} == before


def test_no_logging_of_the_run_is_set_up(copy: Path, tmp_path: Path) -> None:
    handler = {"()": "os.system", "command": f"touch {tmp_path}/EXECUTED"}
    elsewhere = {"class": "logging.FileHandler", "filename": str(tmp_path / "WRITTEN")}
    job_logging = {"version": 1, "handlers": {"a": handler, "b": elsewhere}, "root": {"handlers": ["a", "b"]}}
    hydra = {"hydra": {"job_logging": job_logging, "runtime": {"choices": {}}, "overrides": {"task": []}}}
    (copy / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    (copy / ".hydra" / "config.yaml").write_text("a: ${oc.env:HOME}")
    assert go_on(copy) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"mail"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"test": 5}', '{"test": {"accuracy": "x"}}', "[" * 100_000]
)
def test_damaged_metrics_say_what_to_do(content: str, copy: Path) -> None:
    (copy / "metrics.json").write_text(content)
    assert_one_message(go_on(copy), "metrics.json, resume=")
    (copy / "metrics.json").unlink()
    assert go_on(copy) == (0, "")


@pytest.mark.parametrize("content", [b"", b"epoch\nx,y,z\n", b"\0\xff"])
def test_a_damaged_history_is_written_anew(content: bytes, copy: Path) -> None:
    (copy / "history.csv").write_bytes(content)
    assert go_on(copy) == (0, "")
    assert (copy / "history.csv").read_text().splitlines()[1].startswith("1,")
    assert json.loads((copy / "metrics.json").read_bytes())["epochs"] == 3
