"""Whole runs on drawn images: what is in the run directory, and whether the figures are right."""

import csv
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from fmnist_lit import provenance, trainer
from fmnist_lit.averages import MovingAverage
from fmnist_lit.build import build
from fmnist_lit.callbacks import History, ResumeCheckpoint
from fmnist_lit.classifier import Classifier
from fmnist_lit.data.loader import BatchLoader, epoch_order, normalize
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.models.initialization import initialize
from fmnist_lit.models.speedups import prepare
from fmnist_lit.readers.evaluate import evaluate
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run import build_classifier, build_data, run
from fmnist_lit.tensorboard import log_graph
from tests.fixtures import SMALL


def weights(directory: Path, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint = torch.load(directory / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def history(directory: Path) -> list[dict[str, float]]:
    with (directory / "history.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_run_directory_is_complete(trained: Any, composed: Any) -> None:
    directory, metrics = trained("model=mlp4", "seed=3")
    assert json.loads((directory / "metrics.json").read_text()) == metrics
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for part in ("train", "val", "test"):
        assert 0 <= metrics[part]["accuracy"] <= 1
        assert metrics[part]["loss"] > 0
    assert metrics["epochs"] == 2
    assert metrics["parameters"] == 583_010
    assert metrics["seed"] == 3
    assert metrics["device"].startswith("cpu: ")
    assert metrics["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert metrics["command"] == "python train.py model=mlp4 seed=3"
    rows = history(directory)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(rows[0]) == [
        *("epoch", "train_accuracy", "train_loss", "train_loss_sum", "val_accuracy", "val_loss"),
        *("learning_rate", "seconds", "images_per_second"),
    ]
    assert all(row["seconds"] > 0 and row["images_per_second"] > 0 for row in rows)
    assert "_target_: fmnist_lit.models.mlp.MLP" in (directory / "config.yaml").read_text()


def test_a_line_says_what_the_epoch_gave_and_how_long_the_rest_takes() -> None:
    row = {"epoch": 2.0, "train_loss": 0.5, "train_accuracy": 0.75, "train_loss_sum": 9, "val_ece": 0.125}
    row |= {"grad_norm": 3.0, "seconds": 40.0, "images_per_second": 9}
    said = "epoch 2/5: train loss 0.5000 accuracy 0.7500, val ece 0.1250, grad_norm 3.0000, 40.0 s"
    assert History.line(row, 5, ["grad_norm", "val_ece"]) == f"{said}, 2 min left"
    assert History.line(row, 2, ["grad_norm"]) == said.replace("/5", "/2")


@pytest.mark.parametrize("name", ["mlp4", "cnn_c"])
def test_training_equals_a_plain_loop(
    name: str, trained: Any, composed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits as a loop without Lightning: weights, loss sums, and figures of every part."""
    monkeypatch.setattr(trainer, "GROUP_IMAGES", 64)  # several calls an epoch
    overrides = (f"model={name}", "init=he_normal", "optim=adam", "data.batch_size=32", "seed=5")
    directory, metrics = trained(*overrides)
    config = composed("data=synthetic", "data.images.train=200", "data.images.test=100", *overrides)

    torch.manual_seed(5)
    model = build(config["model"], "model")
    initialize(model, **config["init"])
    prepare(model)
    data = build(config["data"], "data", seed=5)
    data.setup()
    images, labels = data.splits["train"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    sums, hits = [], []
    for epoch in range(2):
        model.train()
        sums.append(0.0)
        hits.append(0)
        for chosen in epoch_order(len(images), 5, epoch).split(32):
            optimizer.zero_grad()
            output = model(normalize(images[chosen], "standard"))
            loss = cross_entropy(output, labels[chosen])
            loss.backward()
            optimizer.step()
            sums[-1] += loss.item()
            hits[-1] += int((output.argmax(1) == labels[chosen]).sum())
    assert same(weights(directory), model.state_dict())
    assert [row["train_loss_sum"] for row in history(directory)] == pytest.approx(sums, rel=1e-12)
    assert [row["train_accuracy"] * len(images) for row in history(directory)] == pytest.approx(hits)

    model.load_state_dict(weights(directory, "best"))
    model.eval()
    for part, (images, labels) in data.splits.items():
        with torch.inference_mode():
            output = model(normalize(images, "standard"))
        assert metrics[part]["accuracy"] == pytest.approx((output.argmax(1) == labels).double().mean().item())
        assert metrics[part]["loss"] == pytest.approx(cross_entropy(output, labels).item(), rel=1e-5)


class Asker(L.Callback):
    """Counts the gradients that it is shown."""

    def __init__(self) -> None:
        self.shown = 0

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert all(weight.grad is not None for weight in pl_module.parameters())
        self.shown += 1


def test_a_callback_that_asks_for_gradients_is_shown_them(composed: Any, tmp_path: Path) -> None:
    config = composed(*SMALL, "model=cnn_a", "data.val_fraction=0")
    asker = Asker()
    run(config, tmp_path, {}, "", callbacks=[asker])
    assert asker.shown == 2 * math.ceil(200 / 32)


class Scaler(L.Callback):
    """Says that losses are scaled, as they are on a GPU with trainer.precision=16-mixed."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.precision_plugin.scaler = object()  # type: ignore[attr-defined]


def test_scaled_losses_are_left_to_lightning(
    composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward: list[int] = []
    plain = Classifier.manual_backward
    monkeypatch.setattr(
        Classifier, "manual_backward", lambda self, loss: (backward.append(1), plain(self, loss))
    )
    run(composed(*SMALL, "model=cnn_a", "data.val_fraction=0"), tmp_path, {}, "", callbacks=[Scaler()])
    assert len(backward) == 2 * math.ceil(200 / 32)


@pytest.mark.parametrize("name", ["mlp4", "cnn_a", "cnn_c"])
def test_training_is_that_of_the_plain_model(name: str, trained: Any, composed: Any) -> None:
    """Without any faster path, in double precision: what both round off is all the difference."""
    overrides = (f"model={name}", "data.val_fraction=0", "trainer.max_epochs=1")
    overrides += () if name == "cnn_a" else ("model.dropout=0",)
    config = composed("data=synthetic", "data.images.train=200", "data.images.test=100", *overrides)
    torch.manual_seed(0)
    model = build(config["model"], "model").double()
    data = build(config["data"], "data", seed=0)
    data.setup()
    images, labels = data.splits["train"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    total = 0.0
    for chosen in epoch_order(len(images), 0, 0).split(32):
        optimizer.zero_grad()
        loss = cross_entropy(model(normalize(images[chosen], "standard").double()), labels[chosen])
        loss.backward()
        optimizer.step()
        total += loss.item()
    (row,) = history(trained(*overrides)[0])
    assert row["train_loss_sum"] == pytest.approx(total, rel=1e-5)


def test_same_seed_same_bits_other_seed_other_bits(trained: Any) -> None:
    first, metrics = trained("model=cnn_c")
    again, repeated = trained("model=cnn_c")
    assert same(weights(first), weights(again))
    assert same(weights(first, "best"), weights(again, "best"))
    times = ("seconds", "images_per_second")
    assert {k: v for k, v in metrics.items() if k not in times} == {
        k: v for k, v in repeated.items() if k not in times
    }
    other, _ = trained("model=cnn_c", "seed=1")
    assert not same(weights(first), weights(other))


def test_best_checkpoint_is_the_first_epoch_with_the_highest_validation_accuracy(trained: Any) -> None:
    # A rate this high makes the figures go up and down.
    directory, metrics = trained("model=mlp4", "optim.lr=0.2", "trainer.max_epochs=6")
    accuracies = [row["val_accuracy"] for row in history(directory)]
    best = accuracies.index(max(accuracies))
    checkpoint = torch.load(directory / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == best
    assert best < 5, "choose a rate at which the last epoch is not the best"
    assert metrics["val"]["accuracy"] == pytest.approx(max(accuracies), abs=1e-6)

    directory, metrics = trained(
        "model=mlp4", "optim.lr=0.2", "trainer.max_epochs=6", "callbacks.best.monitor=val_loss"
    )
    assert metrics["val"]["loss"] == pytest.approx(
        min(row["val_loss"] for row in history(directory)), abs=1e-6
    )


def test_without_validation_data_the_last_epoch_is_the_best(trained: Any) -> None:
    directory, metrics = trained("model=mlp4", "data.val_fraction=0")
    assert metrics["val"] is None
    assert same(weights(directory, "best"), weights(directory, "last"))
    assert "val_loss" not in history(directory)[0]


def test_watching_the_test_set_changes_nothing_but_the_history(trained: Any) -> None:
    plain, metrics = trained("model=mlp4")
    watched, same_metrics = trained("model=mlp4", "data.log_test_every_epoch=true")
    assert same(weights(plain, "best"), weights(watched, "best"))
    assert metrics["test"] == same_metrics["test"]
    best = torch.load(watched / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    row = history(watched)[best]
    assert row["test_accuracy"] == pytest.approx(metrics["test"]["accuracy"])
    assert row["val_accuracy"] == pytest.approx(metrics["val"]["accuracy"])
    only_test, _ = trained("model=mlp4", "data.log_test_every_epoch=true", "data.val_fraction=0")
    assert "test_accuracy" in history(only_test)[0]


def test_early_stopping(trained: Any) -> None:
    overrides = (
        "model=mlp4",
        "optim.lr=1e-9",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
    )
    directory, metrics = trained(*overrides, "trainer.max_epochs=50")  # nothing moves at this rate
    accuracies = [row["val_accuracy"] for row in history(directory)]
    assert metrics["epochs"] == len(accuracies) == accuracies.index(max(accuracies)) + 3


def rates(directory: Path) -> list[float]:
    return [row["learning_rate"] for row in history(directory)]


def test_schedules(trained: Any) -> None:
    common = (
        "model=cnn_a",
        "optim.lr=0.1",
        "data.batch_size=160",
        "trainer.max_epochs=5",
    )  # one step an epoch
    assert rates(trained(*common)[0]) == [0.1] * 5
    cosine = [0.05 * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    assert rates(trained(*common, "schedule=cosine")[0]) == pytest.approx(cosine)
    onecycle = rates(trained(*common, "schedule=onecycle", "schedule.warmup=0.4")[0])
    assert onecycle[0] == pytest.approx(0.1 / 25)
    assert max(onecycle) == onecycle[1] == pytest.approx(0.1)
    assert onecycle[-1] == pytest.approx(0.1 / 25 / 10_000)
    stuck = (
        "model=cnn_a",
        "optim.lr=0.001",
        "trainer.max_epochs=6",
        "schedule=plateau",
        "schedule.patience=1",
    )
    for monitor in ("val_accuracy", "val_loss"):
        falling = rates(trained(*stuck, f"schedule.monitor={monitor}", "schedule.threshold=0.99")[0])
        assert falling == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_gradient_clipping_and_deterministic_reach_the_trainer(trained: Any) -> None:
    plain, _ = trained("model=mlp4", "trainer.deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()
    for precision in ("32-true", "bf16-mixed"):
        options = ("model=mlp4", f"trainer.precision={precision}")
        clipped, _ = trained(*options, "trainer.gradient_clip_val=0.001")
        assert not same(weights(trained(*options)[0]), weights(clipped))
    clipped, _ = trained("model=mlp4", "trainer.gradient_clip_val=0.001")
    assert not same(weights(plain), weights(clipped))
    torch.use_deterministic_algorithms(False)


def test_a_trainer_of_ones_own_predicts_the_test_images(composed: Any) -> None:
    config = composed(*SMALL)
    classifier, data = build_classifier(config), build_data(config)
    own = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    answers = torch.cat(own.predict(classifier, datamodule=data))  # type: ignore[arg-type]
    images, _ = data.splits["test"]
    pixels = normalize(images, "standard", data.images.statistics)
    torch.testing.assert_close(answers, classifier.model.eval()(pixels).detach())


def test_one_batch_of_each(trained: Any) -> None:
    fast = ("model=cnn_b", "debug=fast", "trainer.max_epochs=1", "data.log_test_every_epoch=true")
    directory, metrics = trained(*fast, "data.batch_size=8", "data.eval_batch_size=7")
    (row,) = history(directory)
    for figures in (metrics["train"], metrics["val"], metrics["test"], {"accuracy": row["test_accuracy"]}):
        assert (figures["accuracy"] * 7) % 1 == pytest.approx(0, abs=1e-6)
    assert row["train_loss_sum"] == row["train_loss"]
    assert (row["train_accuracy"] * 8) % 1 == 0


@pytest.mark.parametrize(
    ("name", "epochs"), [("mlp4", 100), ("mlp_custom", 100), ("cnn_a", 50), ("cnn_b", 50), ("cnn_c", 50)]
)
def test_every_model_learns_a_few_images_by_heart(
    name: str, epochs: int, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_at_the_end(self: ResumeCheckpoint, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == epochs - 1:  # a hundred checkpoints take longer than the training
            self.save(trainer, module, stop=0)

    monkeypatch.setattr(ResumeCheckpoint, "on_train_epoch_end", save_at_the_end)
    _, metrics = trained(f"model={name}", "debug=overfit", f"trainer.max_epochs={epochs}")
    assert metrics["train"]["accuracy"] == 1


def test_a_model_that_cannot_learn_fails_its_overfitting_run(trained: Any) -> None:
    with pytest.raises(UserError, match="by heart"):
        trained("model=mlp4", "debug=overfit", "optim.lr=1e-9")


def test_divergence_is_said_and_leaves_no_metrics(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d+ \(epoch 1.*optim\.lr"):
        trained("model=mlp4", "optim.lr=1e9", "trainer.max_epochs=5", directory=tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "history.csv").exists(), "a run that has diverged goes no further"


def test_a_directory_holds_one_run(trained: Any) -> None:
    directory, _ = trained("model=mlp4", "debug=fast")
    with pytest.raises(UsageError, match="already holds a run"):
        trained("model=mlp4", "debug=fast", directory=directory)


def test_tensorboard_shows_the_run(trained: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory, metrics = trained("model=mlp4", "logger=tensorboard", "patch=shared")
    tags: dict[str, Any] = {"scalars": set(), "images": set(), "tensors": set()}
    graph, scalars, hparams = False, {}, b""
    for path in (directory / "tensorboard").glob("events*"):
        events = EventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()
        graph = graph or events.Tags()["graph"]
        for kind, names in tags.items():
            names |= set(events.Tags()[kind])
        scalars |= {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        if "_hparams_/session_start_info" in events.summary_metadata:
            hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert graph
    for key, value in history(directory)[1].items():
        if key != "epoch":
            assert scalars[key][1].value == pytest.approx(value, rel=1e-6)
            assert scalars[key][1].step == 2
    assert {"test/confusion_matrix", "test/predictions"} <= tags["images"]
    assert "config/text_summary" in tags["tensors"]
    assert b"optim.lr" in hparams
    assert b"model" in hparams
    assert scalars["final/test_accuracy"][0].value == pytest.approx(metrics["test"]["accuracy"])


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_run_to_the_end(precision: str, trained: Any) -> None:
    _, metrics = trained("model=cnn_c", "logger=tensorboard", f"trainer.precision={precision}")
    assert metrics["epochs"] == 2


def test_mixed_precision_is_of_the_training_steps_alone(trained: Any) -> None:
    directory, metrics = trained("model=cnn_c", "trainer.precision=bf16-mixed")
    plain, _ = trained("model=cnn_c")
    assert not same(weights(directory), weights(plain))
    run = RunDirectory(directory)
    for part in ("val", "test"):
        assert evaluate(run, part, "best").loss == pytest.approx(metrics[part]["loss"], rel=1e-6)


def test_half_precision_on_a_cpu_is_refused(trained: Any) -> None:
    with pytest.raises(UsageError, match="bf16-mixed"):
        trained("model=cnn_c", "trainer.precision=16-mixed")


def test_one_step_of_warm_up(trained: Any) -> None:
    trained("model=mlp4", "schedule=onecycle", "schedule.warmup=0.5", "data.batch_size=160")


def test_a_compiled_network_is_the_same_network(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is what is trained: all of it, once for each size of batch, and nothing else."""
    compiled: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append(next(each.shape for each in inputs if each.shape[2:] == (28, 28)))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr("fmnist_lit.run.is_worth_compiling", lambda config: True)
    overrides = ("model=residual", "trainer.precision=bf16-mixed", "ema_decay=0.9", "data.batch_size=48")
    directory, _ = trained(*overrides, "compile=true")
    plain, _ = trained(*overrides)
    assert same(weights(directory), weights(plain))
    assert [size[0] for size in compiled] == [48, 160 - 3 * 48]


def test_nothing_is_compiled_on_a_cpu(
    trained: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", None)
    with caplog.at_level("INFO"):
        trained("model=cnn_a", "compile=true")
    assert "compile=true: not on a CPU, where it is no faster." in caplog.messages


CUDA = {
    "plain": ("model=cnn_c", "logger=tensorboard"),
    "half": ("model=cnn_c", "trainer.precision=16-mixed"),
    "half, single steps": ("model=cnn_c", "trainer.precision=16-mixed", "steps_per_execution=1"),
    "brain": ("model=residual", "trainer.precision=bf16-mixed", "optim=muon", "augment=cutmix"),
    "compiled": ("model=residual", "trainer.precision=bf16-mixed", "compile=true", "ema_decay=0.9"),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", CUDA)
def test_cuda(name: str, trained: Any, recwarn: pytest.WarningsRecorder) -> None:
    directory, metrics = trained(*CUDA[name], "trainer=gpu")
    assert not [warning for warning in recwarn if "GPU" in str(warning.message)]
    assert metrics["device"].startswith("cuda: ")
    assert 0 <= metrics["test"]["accuracy"] <= 1
    found = evaluate(RunDirectory(directory), "test", "best")  # on a CPU, in single precision
    assert found.loss == pytest.approx(metrics["test"]["loss"], rel=1e-2)


class Questions(TorchFunctionMode):
    """Notes what makes a program wait for a device's number."""

    WAITING = ("__bool__", "__float__", "__index__", "__int__", "cpu", "item", "nonzero", "tolist")

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked |= {func.__name__} & set(self.WAITING)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augment", ["shift_flip", "cutmix", "mixup", "fmix", "cutout"])
def test_a_step_waits_for_no_number_of_its_device(
    augment: str, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a GPU stands still between two steps."""
    questions = Questions()
    for owner, name in ((BatchLoader, "batch"), (Classifier, "manual_step")):
        plain = getattr(owner, name)

        def asked(*args: Any, plain: Any = plain, **kwargs: Any) -> Any:
            with questions:
                return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, asked)
    overrides = ("augment.erasing.probability=0.5", "ema_decay=0.9", "schedule=onecycle")
    trained("model=cnn_a", f"augment={augment}", "steps_per_execution=5", *overrides)
    assert not questions.asked


def test_a_resumed_average_knows_its_steps() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    first, second = MovingAverage(network, 0.9), MovingAverage(network, 0.9)
    first.follow(network)
    for _ in range(3):
        network(torch.ones(2, 1))
        first.update()
    second.load_state_dict(first.state_dict())
    second.follow(network)
    torch.nn.init.constant_(network[0].weight, 5.0)
    for average in (first, second):
        average.update()
    assert torch.equal(first.module[0].weight, second.module[0].weight)
    assert second.n_averaged == 4
    assert second.module[1].num_batches_tracked == 3


def test_an_average_follows_a_network_that_was_moved(composed: Any) -> None:
    """Its weights lie elsewhere when it is trained for a second time."""
    config = composed(*SMALL, "model=cnn_a", "ema_decay=0.5")
    classifier, found = build_classifier(config), []
    for _ in range(2):
        own = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        own.fit(classifier, datamodule=build_data(config))
        found.append(classifier.averaged.module.classifier[0].weight.detach().clone())
        classifier.double().float()
    assert not torch.equal(*found)


def test_label_smoothing_and_averaging_equal_a_plain_loop(trained: Any, composed: Any) -> None:
    """What is trained on is the smoothed loss, what is counted the plain one, what is tested the average."""
    overrides = ("model=cnn_a", "label_smoothing=0.2", "ema_decay=0.5", "data.val_fraction=0")
    directory, metrics = trained(*overrides)
    config = composed("data=synthetic", "data.images.train=200", "data.images.test=100", *overrides)

    torch.manual_seed(0)
    model = prepare(build(config["model"], "model"))
    average = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
    data = build(config["data"], "data", seed=0)
    data.setup()
    images, labels = data.splits["train"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    sums, steps = [], 0
    for epoch in range(2):
        sums.append(0.0)
        for chosen in epoch_order(len(images), 0, epoch).split(32):
            optimizer.zero_grad()
            output = model(normalize(images[chosen], "standard"))
            cross_entropy(output, labels[chosen], label_smoothing=0.2).backward()
            optimizer.step()
            sums[-1] += cross_entropy(output, labels[chosen]).item()
            kept = min(0.5, (1 + steps) / (10 + steps)) if steps else 0.0
            for name, value in average.items():
                value.mul_(kept).add_(model.state_dict()[name], alpha=1 - kept)
            steps += 1
    assert [row["train_loss_sum"] for row in history(directory)] == pytest.approx(sums, rel=1e-6)
    tested = RunDirectory(directory).model("best").state_dict()
    for name, value in average.items():
        torch.testing.assert_close(tested[name], value, msg=name)
    answers = evaluate(RunDirectory(directory), "test", "best")
    assert (answers.predicted == answers.true).mean() == pytest.approx(metrics["test"]["accuracy"])


def test_a_network_that_saw_mirror_images_is_asked_about_them_too(trained: Any) -> None:
    directory, metrics = trained("model=cnn_a", "augment.affine.flip=0.5")
    run = RunDirectory(directory)
    model, (images, labels) = run.model(), run.data_module().splits["test"]
    images = normalize(images, "standard")
    with torch.inference_mode():
        output = (model(images) + model(images.flip(3))) / 2
    assert metrics["test_flipped"]["accuracy"] == (output.argmax(1) == labels).double().mean().item()
    assert metrics["test_flipped"]["loss"] == pytest.approx(cross_entropy(output, labels).item(), rel=1e-5)
    assert metrics["test_flipped"]["loss"] != metrics["test"]["loss"]
    assert "test_flipped" not in trained("model=cnn_a")[1]


def test_a_run_is_of_the_code_that_it_started_with(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Commit(L.Callback):
        """Somebody commits while the run trains."""

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            monkeypatch.setattr(provenance, "commit", lambda: "b" * 40)

    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    assert trained("model=mlp4", "debug=fast", callbacks=[Commit()])[1]["commit"] == "a" * 40


def test_a_run_says_how_much_it_computed(trained: Any) -> None:
    """200 images less 40 for validation, two epochs; mlp []: 784 to 10, forward and weight gradients."""
    _, metrics = trained("model=mlp", "model.hidden=[]", "trainer.precision=64-true")
    assert metrics["training_tflop"] == pytest.approx(2 * 160 * 2 * (2 * 784 * 10) / 1e12)


STOP = (
    *("_target_=lightning.pytorch.callbacks.EarlyStopping", "monitor=val_accuracy", "mode=max"),
    "stopping_threshold=0.0",
)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["callbacks=early_stopping", "callbacks.early_stopping.patience=2"], "no better in 2 checks"),
        (
            [f"+callbacks.stop.{item}" for item in STOP],
            "better than stopping_threshold=0.0",
        ),
    ],
)
def test_an_early_stop_says_why(
    overrides: list[str], reason: str, trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    directory, metrics = trained("model=mlp4", "optim.lr=1e-12", "trainer.max_epochs=9", *overrides)
    rows = history(directory)
    assert metrics["epochs"] == len(rows) < 9
    last, best = rows[-1]["val_accuracy"], max(row["val_accuracy"] for row in rows)
    epoch = next(number for number, row in enumerate(rows, 1) if row["val_accuracy"] == best)
    said = f"Stopped early, after epoch {len(rows)} of 9: val_accuracy is {last:.4f}, {reason}"
    said += f"; its best was {best:.4f} in epoch {epoch}." if "patience" in overrides[1] else "."
    assert said in caplog.text
    assert said in (directory / "train.log").read_text()


def test_a_run_that_trains_to_its_end_was_not_stopped_early(
    trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trained("model=mlp4", "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optim.lr=1e-12")
    assert "Stopped early" not in caplog.text


SWA = "lightning.pytorch.callbacks.StochasticWeightAveraging"


@pytest.mark.parametrize(
    ("overrides", "which"),
    [
        ([], "best"),
        (["data.val_fraction=0"], "last"),
        (["callbacks.best.monitor=null"], "last"),
        (["callbacks.best.monitor=train_loss"], "best"),
        ([f"+callbacks.swa._target_={SWA}", "+callbacks.swa.swa_lrs=0.1"], "last"),
    ],
)
def test_a_checkpoint_is_called_what_it_is(
    overrides: list[str], which: str, composed: Any, tmp_path: Path
) -> None:
    config = composed(*SMALL, "model=mlp4", *overrides)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = RunDirectory(tmp_path, trust=None)
    assert (run.which("best"), run.which("last")) == (which, "last")


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("others", [0, 1])
def test_traced_graphs_do_not_pile_up(others: int, composed: Any, tmp_path: Path) -> None:
    """PyTorch keeps what it compiles until the process ends; what others have compiled stays usable."""
    compiled = torch.jit._state._python_cu.get_functions
    torch._C._jit_clear_class_registry()  # of what other tests have traced in this process
    scripted = [torch.jit.script(torch.nn.Sequential(torch.nn.ReLU())) for _ in range(others)]
    before = len(compiled())
    logger = TensorBoardLogger(tmp_path)
    data = SimpleNamespace(evaluation_loader=lambda split: [(torch.zeros(1, 1, 28, 28), None)])
    for model in ("mlp4", "cnn_a"):
        log_graph(logger, build_classifier(composed(f"model={model}")), data)  # type: ignore[arg-type]
    assert others or len(compiled()) == before == 0
    for one in scripted:
        assert one(torch.ones(1)) == 1
    torch._C._jit_clear_class_registry()
