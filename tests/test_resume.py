"""Runs that are stopped anywhere and go on: the same bits as without the stop."""

import csv
import fcntl
import io
import json
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fmnist_lit.checkpoints import LAST, PREVIOUS, StopWhenDiverged, is_whole
from fmnist_lit.classifier import Classifier
from fmnist_lit.data import datamodule
from fmnist_lit.errors import Diverged, UsageError, UserError
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.resume import named_run, resume
from fmnist_lit.run import run

RECIPES = {
    "everything that is random": (
        *("model=cnn_c", "augment=shift_flip", "augment.erasing=0.5", "augment.noise=0.1"),
        *("schedule=onecycle", "weight_averaging=0.9", "optim=adam", "label_smoothing=0.1"),
    ),
    "everything that looks back": (
        *("model=mlp4", "optim.lr=0.2", "schedule=plateau", "schedule.patience=0", "trainer.max_epochs=30"),
        *("callbacks=early_stopping", "callbacks.patience=2", "schedule.cooldown=0"),
    ),
}
GROUPS = 5  # of each epoch: 160 images, batches of 16, two in a group


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "GROUP_IMAGES", 32)


def at_group(monkeypatch: pytest.MonkeyPatch, group: int, event: Callable[[], None]) -> None:
    """Let something happen in the middle of a group, counted from the start of the run."""
    backward_pass, count = Classifier.backward_pass, [0]

    def counted(self: Classifier, batch: Any) -> Any:
        count[0] += 1
        if count[0] == 2 * group + 2:
            event()
        return backward_pass(self, batch)

    monkeypatch.setattr(Classifier, "backward_pass", counted)


def die() -> None:
    raise Killed


def kill(config: dict[str, Any], directory: Path, group: int, resumed: bool = False) -> None:
    """Run until the process is no more, in the middle of a group."""
    with pytest.MonkeyPatch.context() as patch:
        at_group(patch, group, die)
        with pytest.raises(Killed):
            run(config, directory, {}, "", resumed)


def outcome(directory: Path) -> tuple[Any, list[dict[str, str]], dict[str, Any]]:
    """Return what a run gave, but for its times."""
    weights = torch.load(directory / "checkpoints" / LAST, weights_only=True)["state_dict"]
    with (directory / "history.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
    metrics = json.loads((directory / "metrics.json").read_bytes())
    return weights, rows, {k: v for k, v in metrics.items() if "second" not in k and k != "commit"}


def assert_same(first: Path, second: Path) -> None:
    (weights, *figures), (others, *other_figures) = outcome(first), outcome(second)
    assert figures == other_figures
    assert weights.keys() == others.keys()
    for name in weights:
        assert torch.equal(weights[name], others[name]), name


@pytest.fixture(scope="module")
def recipe(composed: Any) -> Callable[..., dict[str, Any]]:
    def config(name: str, *further: str) -> dict[str, Any]:
        small = ("data=synthetic", "data.images.train=200", "data.images.test=50", "data.batch_size=16")
        small += ("trainer=cpu", "trainer.max_epochs=3", "threads=1", "logger=none")
        made: dict[str, Any] = composed(*small, "callbacks.save_every_s=0", *RECIPES[name], *further)
        return made

    return config


@pytest.fixture(scope="module")
def whole(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both recipes without a stop."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamodule, "GROUP_IMAGES", 32)
        for name in RECIPES:
            made[name] = tmp_path_factory.mktemp("whole")
            run(recipe(name), made[name], {}, "")
    assert 4 < outcome(made["everything that looks back"])[2]["epochs"] < 30, "it is to stop early"
    return made


def stop_and_go_on(config: dict[str, Any], directory: Path, groups: list[int]) -> None:
    """Kill a run in the middle of a group, again after so many more groups, and let it end."""
    for attempt, group in enumerate(groups):
        kill(config, directory, group, resumed=attempt > 0)
    torch.manual_seed(12345)  # whatever state the new process would be in
    run(config, directory, {}, "", resumed=True)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "groups",
    [[0], [1], [GROUPS - 1], [GROUPS], [GROUPS + 2], [2 * GROUPS + 1], [3, 0, 4, 2]],
    ids=lambda groups: "+".join(map(str, groups)),
)
def test_a_killed_run_goes_on_to_the_same_bits(
    name: str, groups: list[int], recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    stop_and_go_on(recipe(name), tmp_path, groups)
    assert_same(tmp_path, whole[name])
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", LAST}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_killed_while_it_is_tested_trains_no_more(
    name: str, recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "test_step", lambda *arguments: die())
        with pytest.raises(Killed):
            run(recipe(name), tmp_path, {}, "")
    with pytest.MonkeyPatch.context() as patch:
        at_group(patch, 0, lambda: pytest.fail("a step more"))
        run(recipe(name), tmp_path, {}, "", resumed=True)
    assert_same(tmp_path, whole[name])


def test_without_checkpoints_within_epochs_it_goes_on_from_the_last_epoch(
    recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    name = "everything that is random"
    config = recipe(name, "callbacks.save_every_s=1000")
    stop_and_go_on(config, tmp_path, [2 * GROUPS - 1, GROUPS - 1])
    assert_same(tmp_path, whole[name])


def test_any_damaged_byte_is_noticed(runs: dict[str, Path], tmp_path: Path) -> None:
    """Or it means nothing, as a time of day does: what loads has the weights that were written."""
    content = (next(iter(runs.values())) / "checkpoints" / LAST).read_bytes()
    draw, refused = random.Random(0), 0
    written = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
    for place in [len(content) - 1, *(draw.randrange(len(content) - 2000, len(content)) for _ in range(100))]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / LAST).write_bytes(damaged)
        if not is_whole(tmp_path / LAST):
            refused += 1
            continue
        weights = torch.load(tmp_path / LAST, weights_only=True)["state_dict"]
        assert all(torch.equal(weights[name], written[name]) for name in written), place
    assert refused > 50


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    damage: str, recipe: Any, whole: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "everything that is random"
    kill(recipe(name), tmp_path, 4)
    last = tmp_path / "checkpoints" / LAST
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[:1000], "changed": content, "gone": b""}[damage])
    if damage == "gone":
        last.unlink()
    assert not is_whole(last)
    assert is_whole(last.with_name(PREVIOUS))
    caplog.set_level("INFO", logger="fmnist_lit")
    run(recipe(name), tmp_path, {}, "", resumed=True)
    assert_same(tmp_path, whole[name])
    assert PREVIOUS in caplog.text
    assert ("is damaged" in caplog.text) == (damage != "gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(
    number: signal.Signals, recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    name = "everything that is random"
    handler = signal.getsignal(number)
    config = recipe(name, "callbacks.save_every_s=1000")
    with pytest.MonkeyPatch.context() as patch:
        at_group(patch, GROUPS + 2, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as stopped:
            run(config, tmp_path, {}, "")
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is handler
    checkpoint = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)
    assert checkpoint["global_step"] == 2 * (GROUPS + 3)
    run(config, tmp_path, {}, "", resumed=True)
    assert_same(tmp_path, whole[name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_validation_waits_for_the_end_of_the_epoch(
    number: signal.Signals, recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    """Lightning would leave on SIGTERM between two validation batches, without a word and with status 0."""
    name = "everything that is random"
    config = recipe(name, "callbacks.save_every_s=1000", "data.eval_batch_size=8")
    step, count = Classifier.validation_step, [0]

    def counted(self: Classifier, *arguments: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            os.kill(os.getpid(), number)
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "validation_step", counted)
        with pytest.raises(Interrupted) as stopped:
            run(config, tmp_path, {}, "")
    assert stopped.value.status == 128 + number
    run(config, tmp_path, {}, "", resumed=True)
    assert [row["train_loss"] for row in outcome(tmp_path)[1]] == [
        row["train_loss"] for row in outcome(whole[name])[1]
    ]


def test_an_interrupt_passes_from_process_to_process() -> None:
    again = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert (again.status, str(again)) == (143, "interrupted by SIGTERM")


def test_a_run_that_was_moved_goes_on(recipe: Any, whole: dict[str, Path], tmp_path: Path) -> None:
    name = "everything that looks back"
    accuracies = [row["val_accuracy"] for row in outcome(whole[name])[1]]
    best = accuracies.index(max(accuracies))
    kill(recipe(name), tmp_path, (best + 1) * GROUPS + 1)  # when the best epoch is past
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.move(tmp_path, moved)
    tmp_path.mkdir()
    run(recipe(name), moved, {}, "", resumed=True)
    assert_same(moved, whole[name])


def test_a_loss_that_is_no_number_ends_the_run_with_step_rate_and_checkpoint(
    recipe: Any, tmp_path: Path
) -> None:
    config = recipe("everything that is random", "optim.lr=1e30")
    with pytest.raises(UserError) as diverged:
        run(config, tmp_path, {}, "")
    for part in ("at step ", "epoch 1", "learning rate ", "optim.lr=", "There is no checkpoint"):
        assert part in str(diverged.value)


def test_weights_that_are_no_numbers_are_not_kept(recipe: Any, tmp_path: Path) -> None:
    """The last step of a group may spoil them after a loss that was still a number."""

    def spoil() -> None:
        with torch.no_grad():
            next(trained[0].model.parameters()).fill_(float("nan"))

    trained: list[Classifier] = []
    config = recipe("everything that is random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "on_train_start", lambda self: trained.append(self), raising=False)
        stepped = StopWhenDiverged.on_train_batch_end
        count = [0]

        def after(self: Any, *arguments: Any) -> None:
            stepped(self, *arguments)
            count[0] += 1
            if count[0] == GROUPS + 2:
                spoil()

        patch.setattr(StopWhenDiverged, "on_train_batch_end", after)
        with pytest.raises(Diverged, match=r"weights are no numbers .* at step 14.*Last good checkpoint: "):
            run(config, tmp_path, {}, "")
    weights = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_run_that_goes_on_elsewhere_is_left_alone(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with (tmp_path / "config.yaml").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="in another process"):
            run(recipe("everything that is random"), tmp_path, {}, "", resumed=True)


def test_the_command_line_names_one_run_and_nothing_else() -> None:
    assert named_run(["model=cnn_c"]) is None
    assert named_run(["resume=a/b"]) == Path("a/b")
    with pytest.raises(UsageError, match=r"Leave out: optim\.lr=1"):
        named_run(["resume=a/b", "optim.lr=1"])


def test_what_cannot_go_on_says_why(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run of train.py; it has no config.yaml"):
        resume(tmp_path)
    finished = shutil.copytree(next(iter(runs.values())), tmp_path / "finished")
    (finished / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create({"hydra": {}}), finished / ".hydra" / "hydra.yaml")
    with pytest.raises(UsageError, match="is finished, with a test accuracy of"):
        resume(finished)
