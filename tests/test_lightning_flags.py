"""Lightning's flags, callbacks and loggers by their own names: each does what Lightning documents."""

import csv
import io
import json
import logging
import math
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from fmnist_lit.callbacks import BestCheckpoint, EarlyStopping
from fmnist_lit.check import check
from fmnist_lit.errors import UsageError
from fmnist_lit.readers.evaluate import evaluate
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run import run
from fmnist_lit.trainer import build_callbacks
from tests.fixtures import SMALL, answer_in_process

CALLBACKS = "lightning.pytorch.callbacks"
TINY = ("model=mlp", "model.hidden=[16]", "data.batch_size=16")  # ten batches of 160 images an epoch
RATE = (f"+callbacks.rate._target_={CALLBACKS}.LearningRateMonitor", "logger=csv")
AVERAGING = (
    f"+callbacks.swa._target_={CALLBACKS}.StochasticWeightAveraging",
    "+callbacks.swa.swa_lrs=0.05",
    "+callbacks.swa.swa_epoch_start=2",
    "+callbacks.swa.annealing_epochs=1",
)


@pytest.fixture
def fit(trained: Any, tmp_path: Path) -> Any:
    """Train a tiny network; return its directory, its last checkpoint and its history."""

    def train(*overrides: str) -> tuple[Path, dict[str, Any], list[dict[str, str]]]:
        directory, _ = trained(*TINY, *overrides, directory=tmp_path)
        last = directory / "checkpoints" / "last.ckpt"
        checkpoint = torch.load(last, weights_only=True) if last.exists() else {}
        history = directory / "history.csv"
        rows = list(csv.DictReader(history.open())) if history.exists() else []
        return directory, checkpoint, rows

    return train


def optimizer_steps(checkpoint: dict[str, Any]) -> int:
    """Return how many steps Adam counted."""
    return int(checkpoint["optimizer_states"][0]["state"][0]["step"])


@pytest.mark.parametrize(
    ("flags", "steps", "epochs"),
    [
        ((), 20, 2),
        (("+trainer.accumulate_grad_batches=2",), 10, 2),
        (("+trainer.accumulate_grad_batches=3",), 8, 2),
        (("+trainer.max_steps=7",), 7, 1),
        (("+trainer.max_steps=13",), 13, 2),
        (("trainer.limit_train_batches=3",), 6, 2),
        (("trainer.limit_train_batches=1",), 2, 2),
        (("trainer.limit_train_batches=0.5",), 10, 2),
        (("+trainer.overfit_batches=2",), 4, 2),
        (("+trainer.val_check_interval=0.5",), 20, 2),
        (("+trainer.check_val_every_n_epoch=2",), 20, 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_of_steps_count_as_lightning_counts(
    flags: tuple[str, ...], steps: int, epochs: int, fit: Any
) -> None:
    _, checkpoint, rows = fit("optim=adam", *flags)
    assert optimizer_steps(checkpoint) == checkpoint["global_step"] == steps
    assert len(rows) == epochs


def test_overfitting_trains_on_the_same_batches_in_each_epoch(fit: Any) -> None:
    _, _, rows = fit("optim.lr=1e-30", "model.dropout=0", "+trainer.overfit_batches=2")
    assert rows[0]["train_loss"] == rows[1]["train_loss"]


def test_validation_in_every_second_epoch(fit: Any) -> None:
    _, checkpoint, rows = fit(
        "+trainer.check_val_every_n_epoch=2", "schedule=plateau", "trainer.max_epochs=4"
    )
    assert [row["val_accuracy"] == "nan" for row in rows] == [True, False, True, False]
    (schedule,) = checkpoint["lr_schedulers"]
    assert schedule["last_epoch"] == 2, "a plateau counts epochs of which it knows something"


def test_a_fast_development_run_trains_one_batch_and_keeps_nothing(fit: Any) -> None:
    directory, checkpoint, rows = fit("+trainer.fast_dev_run=true")
    assert not checkpoint
    assert len(rows) == 1
    assert (directory / "metrics.json").exists()


@pytest.mark.parametrize("name", ["simple", "advanced"])
def test_a_profiler_reports(name: str, fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    directory, _, _ = fit(f"+trainer.profiler={name}", "trainer.max_epochs=1")
    assert "run_training_epoch" in caplog.text
    assert "run_training_epoch" in (directory / "train.log").read_text()


def test_a_table_of_layers_is_printed_once(fit: Any) -> None:
    directory, _, _ = fit(f"+callbacks.layers._target_={CALLBACKS}.ModelSummary", "trainer.max_epochs=1")
    assert (directory / "train.log").read_text().count("Modules in train mode") == 1
    assert not logging.getLogger("lightning").handlers, "it would say it a second time"


def test_a_run_whose_time_is_over_says_so(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    directory, _, rows = fit("+trainer.max_time=00:00:00:01", "trainer.max_epochs=1000")
    said = f"Stopped early, after epoch {len(rows)} of 1000: the time that it was given is over."
    assert said in (directory / "train.log").read_text()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("64", "64-true"), ("32", "32-true"), ("bf16", "bf16-mixed"), ("bf16-true", "bf16-true")],
)
def test_a_precision_has_one_name(typed: str, meant: str, composed: Any) -> None:
    assert composed(*SMALL, "model=mlp4", f"trainer.precision={typed}")["trainer"]["precision"] == meant


def logged(directory: Path) -> dict[str, list[str]]:
    """Return what Lightning's CSV logger wrote, by column."""
    with (directory / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows if row[name]] for name in rows[0]}


def test_a_learning_rate_monitor_writes_the_rates(fit: Any) -> None:
    directory, _, rows = fit(*RATE, "schedule=step", "schedule.step_size=1")
    columns = logged(directory)
    assert [float(rate) for rate in columns["lr-SGD"]] == pytest.approx([0.01, 0.001])
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.01, 0.001])
    metrics = json.loads((directory / "metrics.json").read_text())
    for split in ("train", "val", "test"):  # of the tested weights
        assert [float(value) for value in columns[f"final/{split}_accuracy"]] == [metrics[split]["accuracy"]]
    assert [float(loss) for loss in columns["val_loss"]] == pytest.approx(
        [float(row["val_loss"]) for row in rows]
    )


@pytest.mark.parametrize("callbacks", [(), RATE])
def test_a_rate_that_no_step_logs_is_warned_of(callbacks: tuple[str, ...], trained: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        trained(*TINY, *callbacks, "schedule=cosine")
    said = [str(one.message) for one in caught]
    assert any("smaller than the logging interval" in line for line in said) == bool(callbacks)


def in_a_row(model: torch.nn.Module) -> torch.Tensor:
    """Return a copy of all weights, one behind the other."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


class Recorder(L.Callback):
    """Keeps the weights of each epoch's start."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights.append(in_a_row(pl_module))


@pytest.mark.parametrize("model", [TINY, ("model=cnn_a", "data.batch_size=16")], ids=["mlp", "batch norm"])
def test_the_average_of_stochastic_weight_averaging_is_tested(
    model: tuple[str, ...], composed: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recorder = Recorder()
    config = composed(*SMALL, *model, *AVERAGING, "trainer.max_epochs=4")
    metrics = run(config, tmp_path, {}, "", callbacks=[recorder])
    assert [line for line in caplog.messages if line.startswith("Tested")] == [
        "Tested: the average of StochasticWeightAveraging."
    ]
    average = torch.stack(recorder.weights[1:4]).mean(0)
    torch.testing.assert_close(in_a_row(RunDirectory(tmp_path).model("best")), average)
    answers = evaluate(RunDirectory(tmp_path), "test", "best")
    assert (answers.predicted == answers.true).mean() == pytest.approx(metrics["test"]["accuracy"])
    rates = [float(row["learning_rate"]) for row in csv.DictReader((tmp_path / "history.csv").open())]
    assert rates[:4] == pytest.approx([0.01, 0.01, 0.05, 0.05]), "its own rate takes over"


def test_a_device_monitor_writes_the_devices_figures(fit: Any) -> None:
    pytest.importorskip("psutil", reason="Lightning reads a CPU's figures with it")
    monitor = (
        f"+callbacks.device._target_={CALLBACKS}.DeviceStatsMonitor",
        "+callbacks.device.cpu_stats=true",
    )
    directory, _, _ = fit(*monitor, "logger=csv", "+trainer.log_every_n_steps=1")
    assert any("DeviceStatsMonitor" in name for name in logged(directory))


def test_several_loggers_at_once(fit: Any) -> None:
    directory, _, rows = fit("logger=[tensorboard,csv]")
    assert list((directory / "tensorboard").glob("events*"))
    assert len(logged(directory)["val_accuracy"]) == len(rows)


def test_weights_and_biases_offline(fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="an extra: pip install -e .[loggers]")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    directory, _, _ = fit("logger=wandb", "logger.wandb.offline=true")
    wandb.finish()
    assert list(directory.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_in_a_local_store(fit: Any, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="an extra: pip install -e .[loggers]")
    _, _, rows = fit("logger=mlflow", f"logger.mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        kept = database.execute("select value from metrics where key = 'val_loss' order by step").fetchall()
    assert [value for (value,) in kept] == pytest.approx([float(row["val_loss"]) for row in rows])


OF_SINGLE_STEPS = {
    "+trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches",
    "+trainer.max_steps=50": "trainer.max_steps",
    "+trainer.min_steps=5": "trainer.min_steps",
    "+trainer.val_check_interval=0.5": "trainer.val_check_interval",
    "+trainer.val_check_interval=1": "trainer.val_check_interval",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run",
    "+trainer.fast_dev_run=1": "trainer.fast_dev_run",
    "+trainer.overfit_batches=2": "trainer.overfit_batches",
    "+trainer.overfit_batches=0.5": "trainer.overfit_batches",
    "trainer.limit_train_batches=1": "trainer.limit_train_batches",
    "trainer.limit_train_batches=0.5": "trainer.limit_train_batches",
    " ".join(AVERAGING): "StochasticWeightAveraging",
}


@pytest.mark.parametrize("flags", OF_SINGLE_STEPS)
def test_what_needs_single_steps_says_so_with_several(flags: str, trained: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        trained(*TINY, "steps_per_execution=32", *flags.split(), directory=tmp_path)
    expected = f"{OF_SINGLE_STEPS[flags]}: not with steps_per_execution=32. Set steps_per_execution=1."
    assert str(refused.value) == expected
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


class Terminal(io.StringIO):
    """What a user looks at."""

    def isatty(self) -> bool:
        """Whether it is a terminal: it is."""
        return True


@pytest.mark.parametrize("steps", [1, 4])
def test_a_terminal_shows_progress(steps: int, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    trained(*TINY, f"steps_per_execution={steps}", "trainer.max_epochs=1")
    assert "Epoch 1/1" in screen.getvalue()
    assert "val_accuracy" in screen.getvalue(), "what is monitored"
    assert f"{math.ceil(10 / steps)}/{math.ceil(10 / steps)}" in screen.getvalue()


def test_a_rate_monitored_in_each_step_is_logged_in_each_step(fit: Any) -> None:
    every = ("+callbacks.rate.logging_interval=step", "+trainer.log_every_n_steps=1")
    directory, _, _ = fit(*RATE, *every, "schedule=cosine", "trainer.max_epochs=1")
    assert len(logged(directory)["lr-SGD"]) == 10


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_monitored_rate_stands_at_the_optimizers_steps(interval: str, fit: Any) -> None:
    directory, _, _ = fit(
        *RATE, f"+callbacks.rate.logging_interval={interval}", "+trainer.log_every_n_steps=10"
    )
    rows = list(csv.DictReader((directory / "csv" / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["lr-SGD"]] == (
        ["0", "10"] if interval == "epoch" else ["9", "19"]
    )


@pytest.mark.parametrize("node", ["callbacks.resume=null", "~callbacks.resume"])
def test_without_a_callback_to_resume_from_a_run_still_ends_with_its_weights(node: str, fit: Any) -> None:
    directory, checkpoint, rows = fit(node)
    assert checkpoint["state_dict"]
    assert len(rows) == 2
    assert (directory / "metrics.json").exists()


class MyFinder(L.pytorch.callbacks.BatchSizeFinder):
    """A finder of somebody's own."""


@pytest.mark.parametrize(
    ("target", "finder"),
    [
        (f"{CALLBACKS}.BatchSizeFinder", "BatchSizeFinder"),
        (f"{CALLBACKS}.LearningRateFinder", "LearningRateFinder"),
        (f"{__name__}.MyFinder", "BatchSizeFinder"),
    ],
)
def test_what_would_change_the_config_is_refused(target: str, finder: str, composed: Any) -> None:
    config = composed(*SMALL, *TINY, f"+callbacks.finder._target_={target}")
    with pytest.raises(UsageError, match=f"{finder} changes what a config says"):
        check(config)


class MyBest(BestCheckpoint):
    """A checkpoint of somebody's own."""


def test_a_callback_made_elsewhere_knows_from_a_name_whether_more_is_better(composed: Any) -> None:
    assert [EarlyStopping(monitor).mode for monitor in ("val_accuracy", "val_loss")] == ["max", "min"]
    config = composed(*SMALL, *TINY, f"callbacks.best._target_={__name__}.MyBest")
    (best,) = (one for one in build_callbacks(config) if isinstance(one, MyBest))
    assert (best.monitor, best.mode) == ("val_accuracy", "max")


def test_a_metric_says_itself_whether_more_is_better(composed: Any) -> None:
    node = "+metrics.kappa_like._target_=torchmetrics.classification.MulticlassCalibrationError"
    named = ("+metrics.kappa_like.n_bins=5", "callbacks.best.monitor=val_kappa_like")
    config = composed(*SMALL, *TINY, node, *named)
    (best,) = (one for one in build_callbacks(config) if isinstance(one, BestCheckpoint))
    assert best.mode == "min", "calibration error: its class says so"


def test_a_metric_of_many_numbers_is_refused(composed: Any) -> None:
    matrix = "torchmetrics.classification.MulticlassConfusionMatrix"
    with pytest.raises(UsageError, match=r"matrix: .* gives \(10, 10\); a metric must give one"):
        check(composed(*SMALL, *TINY, f"+metrics.matrix._target_={matrix}"))


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (("trainer.max_steps=5",), "Add it: +trainer.max_steps="),
        (
            ("schedule._target_=torch.optim.lr_scheduler.StepLR", "schedule.step_size=2"),
            "Add it: +schedule.step_size=",
        ),
        (("optim.foreach=true",), "Add it: +optim.foreach="),
        (("metrics=macro_f1", "metrics.macro_f1.top=1"), "Did you mean top_k?"),
    ],
    ids=str,
)
def test_a_key_that_no_file_has_yet_wants_a_plus(overrides: tuple[str, ...], hint: str) -> None:
    status, _, message = answer_in_process([*SMALL, *overrides])
    assert status == 2
    assert hint in message
    assert len(message.splitlines()) == 1
