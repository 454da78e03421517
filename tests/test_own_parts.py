"""Metrics, callbacks and models of somebody's own: what they log is seen, what cannot be is said at once."""

import csv
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from fmnist_lit.callbacks import BestCheckpoint
from fmnist_lit.check import check
from fmnist_lit.classifier import Classifier
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.resume import named_run, resume
from fmnist_lit.run import build_classifier, run
from fmnist_lit.schedules import build_schedule
from fmnist_lit.trainer import build_callbacks, steps_per_execution
from scripts import evaluate
from tests.fixtures import SMALL, call

CALLBACKS = "lightning.pytorch.callbacks"
TINY = ("model=mlp", "model.hidden=[16]", "data.batch_size=16")  # ten batches of 160 images an epoch
HERE = __name__


class Confidence(Metric):
    """Mean probability of the answer; somebody holds that less is better."""

    higher_is_better = False
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.total = self.total + torch.stack([preds.softmax(1).amax(1).sum(), torch.tensor(len(target))])

    def compute(self) -> Tensor:
        return self.total[0] / self.total[1]


class Decided(Confidence):
    """It says by a property which way is better."""

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        return True


class OtherNames(Confidence):
    """Its arguments have other names than training gives."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        super().update(logits, labels)


class OfClasses(Confidence):
    """It wants to know how many classes there are, by the name that models use."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.number = classes


class Net(nn.Module):
    """It wants to know how many classes there are, by the name that metrics use."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.output = nn.Linear(784, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.output(images.flatten(1))
        return output


class Told(L.Callback):
    """Keeps what it finds of the epoch's training, and logs something of its own."""

    found: list[float]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.found = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("steps_before", float(trainer.global_step))
        pl_module.log("epoch", 77.0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.found.append(float(trainer.callback_metrics["train_loss"]))


def metric(name: str, kind: type[Metric] = Confidence) -> str:
    return f"+metrics.{name}._target_={HERE}.{kind.__name__}"


def rows_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "history.csv").open()))


# Metrics


@pytest.mark.parametrize("name", ["accuracy", "loss", "loss_sum", "flipped_loss"])
def test_a_metric_by_the_name_of_our_own_is_refused(name: str, composed: Any) -> None:
    with pytest.raises(UsageError, match=rf"^metrics\.{name}: every run has .* Choose another name"):
        check(composed(*TINY, metric(name)))


@pytest.mark.parametrize("name", ["update", "items", "training"])
def test_a_metric_by_the_name_of_a_method_is_no_traceback(name: str, composed: Any) -> None:
    with pytest.raises(UsageError, match=rf"^metrics\.{name}: "):
        check(composed(*TINY, metric(name)))


def test_a_metric_is_called_in_the_check_as_in_training(composed: Any) -> None:
    with pytest.raises(
        UsageError, match=r"metrics\.mine: OtherNames cannot count by update\(preds, target\)"
    ):
        check(composed(*TINY, metric("mine", OtherNames)))


@pytest.mark.parametrize(
    ("name", "kind", "mode"), [("cal_score", Confidence, "min"), ("my_loss", Decided, "max")]
)
def test_a_schedule_and_callbacks_ask_the_same_metric_which_way_is_better(
    name: str, kind: type[Metric], mode: str, composed: Any
) -> None:
    looking = (metric(name, kind), "schedule=plateau", f"schedule.monitor=val_{name}")
    config = composed(*SMALL, *TINY, *looking, f"callbacks.best.monitor=val_{name}")
    check(config)
    (best,) = (one for one in build_callbacks(config) if isinstance(one, BestCheckpoint))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    for target in (config["schedule"]["_target_"], "torch.optim.lr_scheduler.ReduceLROnPlateau"):
        node = {**config["schedule"], "_target_": target}
        if "torch" in target:
            del node["min_lr"]
        schedule = build_schedule(node, optimizer, 10, metrics=config["metrics"])
        assert schedule is not None
        assert schedule["scheduler"].mode == best.mode == mode


def test_a_metric_that_does_not_say_which_way_is_asked_about_by_the_right_key(composed: Any) -> None:
    statistics = "+metrics.top2._target_=torchmetrics.classification.MulticlassStatScores"
    config = composed(*TINY, statistics, "schedule=plateau", "schedule.monitor=val_top2")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(UsageError, match=r"Set \+schedule\.mode=max or \+schedule\.mode=min"):
        build_schedule(config["schedule"], optimizer, 10, metrics=config["metrics"])
    config["schedule"]["mode"] = None
    with pytest.raises(UsageError, match=r"Set schedule\.mode=max or schedule\.mode=min"):
        build_schedule(config["schedule"], optimizer, 10, metrics=config["metrics"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("callbacks.best.monitor=val_confidense",), "Did you mean val_confidence?"),
        (("callbacks.best.monitor=confidence",), "Choices: .*val_confidence"),
        (("callbacks.best.monitor=val_acuracy",), "Did you mean val_accuracy?"),
        (("schedule=plateau", "schedule.monitor=val_los"), "schedule.monitor=val_los: .* mean val_loss?"),
        (
            ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val_foo"),
            "monitor=val_foo: nothing",
        ),
        *(
            ((f"+callbacks.x._target_={CALLBACKS}.{kind}", "+callbacks.x.monitor=val_los"), "callbacks.x.mon")
            for kind in ("EarlyStopping", "ModelCheckpoint")
        ),
    ],
)
def test_what_nobody_logs_is_refused_at_the_start(
    overrides: tuple[str, ...], said: str, composed: Any
) -> None:
    with pytest.raises(UsageError, match=said):
        check(composed(*TINY, metric("confidence"), *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ("callbacks.best.monitor=train_loss_sum",),
        ("callbacks.best.monitor=train_confidence",),
        (f"+callbacks.told._target_={HERE}.Told", "callbacks.best.monitor=val_my_loss"),
        (
            f"+callbacks.rate._target_={CALLBACKS}.LearningRateMonitor",
            *("callbacks.best.monitor=lr-SGD", "+callbacks.best.mode=max", "logger=csv"),
        ),
    ],
)
def test_what_somebody_may_log_is_not_refused(overrides: tuple[str, ...], composed: Any) -> None:
    check(composed(*TINY, metric("confidence"), *overrides))


def test_what_a_callback_was_to_log_is_missed_in_the_first_epoch(trained: Any, tmp_path: Path) -> None:
    overrides = (f"+callbacks.told._target_={HERE}.Told", f"+callbacks.x._target_={CALLBACKS}.EarlyStopping")
    with pytest.raises(UserError, match=r"monitor=val_lost: nothing of that name is logged. Did you mean"):
        trained(*TINY, *overrides, "+callbacks.x.monitor=val_lost", directory=tmp_path)


# Classes


def test_a_model_and_a_metric_are_told_the_classes_by_either_name(composed: Any) -> None:
    config = composed(*SMALL, metric("of_classes", OfClasses)) | {"model": {"_target_": f"{HERE}.Net"}}
    check(config)
    classifier = build_classifier(config, ("left", "middle", "right"))
    assert classifier.outputs == 3
    found = dict(classifier.metrics_of("val").items(keep_base=True))["of_classes"]
    assert found.number == 3
    config["model"]["num_classes"] = 12
    assert build_classifier(config, ("left", "middle", "right")).outputs == 12


def test_a_metric_of_another_number_of_classes_is_refused_before_anything_is_written(composed: Any) -> None:
    node = "+metrics.f1._target_=torchmetrics.classification.MulticlassF1Score"
    config = composed(*SMALL, *TINY, node, "+metrics.f1.num_classes=3")
    check(config)  # as many as it says
    with pytest.raises(UsageError, match=r"metrics\.f1: MulticlassF1Score cannot count .* \(n, 10\)"):
        build_classifier(config)


# Callbacks


HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_of_single_steps_gets_them(hook: str, composed: Any) -> None:
    config = composed(*SMALL, *TINY)
    own = type("Own", (L.Callback,), {hook: lambda *arguments: None})()
    assert steps_per_execution(config, [L.Callback()]) > 1
    assert steps_per_execution(config, [own]) == 1
    given = L.pytorch.callbacks.LambdaCallback(**{hook: lambda *arguments: None})
    assert steps_per_execution(config, [given]) == 1


@pytest.mark.parametrize("flags", ["", "steps_per_execution=1", "+trainer.max_steps=13"])
def test_a_callback_finds_the_epochs_training_at_its_end(flags: str, composed: Any, tmp_path: Path) -> None:
    told = Told()
    config = composed(*SMALL, *TINY, *flags.split())
    run(config, tmp_path, {}, "", callbacks=[told])
    rows = rows_of(tmp_path)
    assert len({row["train_loss"] for row in rows}) == 2
    assert [row["epoch"] for row in rows] == ["1", "2"], "our own columns are ours"
    assert [float(row["steps_before"]) for row in rows] == [0, 10]
    assert told.found == pytest.approx([float(row["train_loss"]) for row in rows])


class Hurry(L.Callback):
    """Ends the run within the first epoch."""

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        trainer.should_stop = trainer.global_step == 3


def test_an_epoch_that_a_callback_cuts_short_has_its_training_too(composed: Any, tmp_path: Path) -> None:
    run(composed(*SMALL, *TINY), tmp_path, {}, "", callbacks=[Hurry()])
    (row,) = rows_of(tmp_path)
    assert float(row["train_loss"]) > 0


@pytest.mark.parametrize("kind", ["LearningRateMonitor", "DeviceStatsMonitor"])
def test_who_needs_a_logger_says_so_at_the_start(kind: str, composed: Any) -> None:
    node = [f"+callbacks.mine._target_={CALLBACKS}.{kind}"]
    with pytest.raises(UsageError, match=f"{kind} needs a logger: logger=csv"):
        check(composed(*SMALL, *TINY, *node))
    check(composed(*SMALL, *TINY, *node, "logger=csv"))


class Refuses(L.Callback):
    """It cannot do what it was asked for."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise L.pytorch.utilities.exceptions.MisconfigurationException("This callback\n needs a horse.")


def test_what_lightning_cannot_do_is_one_message(composed: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^This callback needs a horse\.$"):
        run(composed(*SMALL, *TINY), tmp_path, {}, "", callbacks=[Refuses()])


class Killed(BaseException):
    """Stands for a kill."""


def test_a_resumed_epoch_keeps_what_callbacks_logged_at_its_start(
    composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = (f"+callbacks.rate._target_={CALLBACKS}.LearningRateMonitor", "logger=csv")
    config = composed(
        *SMALL, *TINY, *logged, f"+callbacks.told._target_={HERE}.Told", "callbacks.resume.every_s=0"
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()
    run(config, whole, {}, "")
    step, count = Classifier.training_step, [0]

    def killed_in_the_second_epoch(self: Classifier, *arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 15:
            raise Killed
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", killed_in_the_second_epoch)
        with pytest.raises(Killed):
            run(config, stopped, {}, "")
    run(config, stopped, {}, "", resumed=True)
    expected, found = (
        [{k: v for k, v in row.items() if "second" not in k} for row in rows_of(d)] for d in (whole, stopped)
    )
    assert found == expected
    assert "nan" not in found[1].values()
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (torch.load(d / "checkpoints" / name, weights_only=True) for d in (whole, stopped))
        assert all(torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in one["state_dict"])


# What a run says


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "Tested: the weights of epoch . \\(step .0 of 20\\), the best val_accuracy: 0\\.\\d{4}\\.$"),
        (
            ("+trainer.max_steps=5",),
            "Tested: the last weights, of epoch 1 (step 5 of 5); val_accuracy was never logged.",
        ),
        (
            ("+trainer.max_steps=15",),
            "of epoch 1 (step 10 of 15), .* The last epoch ended without validation",
        ),
        (("callbacks.best.monitor=null",), "the last weights, of epoch 2 (step 20 of 20); no metric chooses"),
        (("data.val_fraction=0",), "Tested: the last weights, of epoch 2"),
        (("+trainer.fast_dev_run=true",), "Tested: the weights after step 1; fast_dev_run keeps no others."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_run_says_which_weights_are_tested(
    overrides: tuple[str, ...], said: str, trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trained(*TINY, *overrides)
    (line,) = (line for line in caplog.messages if "Tested: " in line)
    pattern = said if said.endswith("$") else said.replace("(", "\\(").replace(")", "\\)")
    assert re.search(pattern, line)


def test_an_epochs_line_has_its_own_metrics_and_what_is_monitored(
    trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    looking = (
        metric("sure"),
        f"+callbacks.told._target_={HERE}.Told",
        "callbacks.best.monitor=steps_before",
        "+callbacks.best.mode=max",
    )
    caplog.set_level("INFO")
    trained(*TINY, *looking)
    number = r"\d+\.\d{4}"
    split = rf"loss {number} accuracy {number} sure {number}"
    assert re.search(rf"epoch 2/2: train {split}, val {split}, steps_before 10\.0000, ", caplog.text)


# Whom to trust


@pytest.fixture
def foreign(composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stopped run with classes from three packages."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mycallbacks", "mymetrics", "mymodels"):
        (tmp_path / f"{name}.py").write_text(f"from {HERE} import Confidence, Net, Told")
    directory = tmp_path / "run"
    directory.mkdir()
    config = composed(
        *SMALL,
        *("+callbacks.told._target_=mycallbacks.Told", "+metrics.sure._target_=mymetrics.Confidence"),
    )
    config["model"] = {"_target_": "mymodels.Net"}
    run(config, directory, {}, "python train.py")
    (directory / "metrics.json").unlink()
    return directory


def test_a_resume_names_all_packages_to_trust_with_those_given(foreign: Path) -> None:
    for given in ((), ("mymetrics",), ("mycallbacks", "mymodels")):
        with pytest.raises(UsageError) as refused:
            resume(foreign, given)
        named = str(refused.value).partition("trust=")[2].partition(" ")[0].split(",")
        assert set(named) == {"mycallbacks", "mymetrics", "mymodels"}
    wanted = named_run([f"resume={foreign}", "trust=mycallbacks, mymetrics", "trust=[mymodels]"])
    assert wanted is not None
    assert wanted.trust == ("mycallbacks", "mymetrics", "mymodels")
    assert wanted.changed == ()
    assert resume(*wanted)["epochs"] == 2
    for words in (["--trust", "one,two"], ["--trust", "one", "--trust", "two"]):
        answer = call(evaluate, foreign, *words)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert "--trust one,two,mymodels for a script" in answer.stderr
