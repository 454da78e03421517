"""Runs that are stopped anywhere and go on: the same bits as without the stop."""

import io
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

import fmnist_lit.run as run_module
from fmnist_lit import checkpoints, trainer
from fmnist_lit.callbacks import History, ResumeCheckpoint
from fmnist_lit.checkpoints import BEST, LAST, PREVIOUS
from fmnist_lit.classifier import Classifier
from fmnist_lit.config import read_config
from fmnist_lit.errors import Diverged, Occupied, UsageError, UserError
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.resume import named_run, resume
from fmnist_lit.run import claim, run
from fmnist_lit.run_files import read_overrides
from tests import fixtures
from tests.fixtures import SMALL, is_valid

RECIPES = {
    "everything that is random": (
        *("model=cnn_c", "augment=shift_flip", "augment.erasing.probability=0.5", "augment.noise.std=0.1"),
        *("schedule=onecycle", "ema_decay=0.9", "optim=adam", "label_smoothing=0.1"),
    ),
    "everything that looks back": (
        *("model=mlp", "model.hidden=[64]", "model.dropout=0.2", "optim.lr=0.03", "trainer.max_epochs=30"),
        *("schedule=plateau", "schedule.patience=0", "schedule.cooldown=0"),
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=2"),
    ),
}
CHOSEN = (
    *("model=residual", "model.stem=18", "model.widths=[4]", "model.blocks=[1]", "optim=muon"),
    *("schedule=linear", "augment=cutout", "augment.affine.flip=0", "init=identity", "callbacks=hard_part"),
    "+callbacks.flip._target_=fmnist_lit.ingredients.AlternatingFlip",
    "+callbacks.stem._target_=fmnist_lit.ingredients.WhitenedStem",
    *("+callbacks.biases._target_=fmnist_lit.ingredients.FastBiases", "+callbacks.biases.factor=16"),
    "+callbacks.small._target_=fmnist_lit.ingredients.LowResolutionFirst",
    *("+callbacks.small.until=0.5", "+callbacks.small.side=14"),
)
PRECISE = (
    *("schedule=cosine", "ema_decay=0.9", "augment=shift_flip", "model.hidden=[16]"),
    *("model=mlp", "trainer.max_epochs=2"),
)
GROUPS = 5  # of each epoch: 160 images, batches of 16, two in a group


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "GROUP_IMAGES", 32)


def at_group(monkeypatch: pytest.MonkeyPatch, group: int, event: Callable[[], None]) -> None:
    """Let something happen in the middle of a group, counted from the start of the run."""
    manual_step, count = Classifier.manual_step, [0]

    def counted(self: Classifier, *arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 2 * group + 2:
            event()
        return manual_step(self, *arguments)

    monkeypatch.setattr(Classifier, "manual_step", counted)


def die() -> None:
    raise Killed


def kill(config: dict[str, Any], directory: Path, group: int, resumed: bool = False) -> None:
    """Run until the process is no more, in the middle of a group."""
    with pytest.MonkeyPatch.context() as patch:
        at_group(patch, group, die)
        with pytest.raises(Killed):
            run(config, directory, {}, "", resumed)


def outcome(directory: Path) -> tuple[Any, list[dict[str, str]], dict[str, Any]]:
    """Return what a run gave, but for its times: all weights, history, metrics."""
    weights = {
        f"{name} {key}": weight
        for name in (LAST, BEST)
        for key, weight in torch.load(directory / "checkpoints" / name, weights_only=True)[
            "state_dict"
        ].items()
    }
    return weights, *fixtures.outcome(directory)[1:]


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
        made: dict[str, Any] = composed(*small, "callbacks.resume.every_s=0", *RECIPES[name], *further)
        return made

    return config


@pytest.fixture(scope="module")
def whole(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both recipes without a stop."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "GROUP_IMAGES", 32)
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


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_keeps_the_steps_of_a_call_that_it_began_with(
    steps: int, recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    """What it has behind it is counted in calls: with others it would leave batches out, or repeat some."""
    name = "everything that is random"
    kill(recipe(name), tmp_path, GROUPS + 2)
    run(recipe(name) | {"steps_per_execution": steps}, tmp_path, {}, "", resumed=True)
    assert_same(tmp_path, whole[name])
    with pytest.raises(UsageError, match="Leave out: steps_per_execution=4"):
        named_run([f"resume={tmp_path}", "steps_per_execution=4"])


ACCUMULATED = {
    "flag": ("+trainer.accumulate_grad_batches=4",),
    "callback": (
        "+callbacks.more._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler",
        "+callbacks.more.scheduling={0: 4}",
    ),
}


@pytest.mark.parametrize("name", ACCUMULATED)
def test_a_run_that_accumulates_gradients_is_stopped_behind_a_step(
    name: str, recipe: Any, tmp_path: Path
) -> None:
    """Ten batches an epoch, steps after 4, 8 and 10; gradients in between are in no checkpoint."""
    config = recipe("everything that is random", *ACCUMULATED[name], "callbacks.resume.every_s=1000")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for directory in (whole, stopped):
        directory.mkdir()
    run(config, whole, {}, "")

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
            if arguments[-1] == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(config, stopped, {}, "", callbacks=[Stop()])
    assert torch.load(stopped / "checkpoints" / LAST, weights_only=True)["global_step"] == 2
    run(config, stopped, {}, "", resumed=True)
    assert_same(stopped, whole)


def test_without_checkpoints_within_epochs_it_goes_on_from_the_last_epoch(
    recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    name = "everything that is random"
    config = recipe(name, "callbacks.resume.every_s=1000")
    stop_and_go_on(config, tmp_path, [2 * GROUPS - 1, GROUPS - 1])
    assert_same(tmp_path, whole[name])


def test_a_checkpoint_every_few_epochs_is_enough_and_the_last_epoch_has_one(
    recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    name = "everything that is random"
    config = recipe(name, "callbacks.resume.every_s=1000", "callbacks.resume.every_n_epochs=2")
    kill(config, tmp_path, 3 * GROUPS - 1)
    checkpoint = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)
    assert checkpoint["epoch"] == 1, "the second's, and none of the first"
    assert not (tmp_path / "checkpoints" / PREVIOUS).exists()
    run(config, tmp_path, {}, "", resumed=True)
    assert_same(tmp_path, whole[name])


def test_the_last_step_has_a_checkpoint_too(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 images in batches of 32: epochs of five steps, of which the third ends after two."""
    saved: list[int] = []
    save = ResumeCheckpoint.save

    def noted(self: ResumeCheckpoint, trainer: Any, *further: Any) -> None:
        saved.append(trainer.global_step)
        save(self, trainer, *further)

    monkeypatch.setattr(ResumeCheckpoint, "save", noted)
    few = ("callbacks.resume.every_s=1000", "callbacks.resume.every_n_epochs=2")
    trained("model=cnn_a", *few, "+trainer.max_steps=12", "trainer.max_epochs=9")
    assert saved == [10, 12]


def test_any_damaged_byte_is_noticed(runs: dict[str, Path], tmp_path: Path) -> None:
    """Or it means nothing, as a time of day does: what loads has the weights that were written."""
    content = (next(iter(runs.values())) / "checkpoints" / LAST).read_bytes()
    draw, refused = random.Random(0), 0
    written = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
    for place in [len(content) - 1, *(draw.randrange(len(content) - 2000, len(content)) for _ in range(100))]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / LAST).write_bytes(damaged)
        if not is_valid(tmp_path / LAST):
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
    assert not is_valid(last)
    assert is_valid(last.with_name(PREVIOUS))
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
    config = recipe(name, "callbacks.resume.every_s=1000")
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
    config = recipe(name, "callbacks.resume.every_s=1000", "data.eval_batch_size=8")
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


def after_the_best_epoch(whole: Path) -> int:
    """Return a group behind the best epoch of a run."""
    accuracies = [row["val_accuracy"] for row in outcome(whole)[1]]
    return (accuracies.index(max(accuracies)) + 1) * GROUPS + 1


@pytest.fixture(scope="module")
def stopped_once(recipe: Any, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when its best epoch was past, told apart from others by choices and command."""
    name = "everything that looks back"
    directory = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "GROUP_IMAGES", 32)
        at_group(patch, after_the_best_epoch(whole[name]), die)
        with pytest.raises(Killed):
            run(recipe(name), directory, {"model": "mlp"}, "python train.py model=mlp")
    return directory


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped"))


PLACES = ["relative", "through a link", "below a link", "moved", "copied", "not normalized"]


@pytest.mark.parametrize(
    ("began", "place"),
    [*product(["absolute"], PLACES), *product(["relative", "through a link"], ["moved", "through a link"])],
)
def test_a_run_goes_on_by_whatever_name_and_wherever(
    place: str,
    began: str,
    recipe: Any,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "everything that looks back"
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    first = {
        "absolute": tmp_path / "real" / "run",
        "relative": Path("real/run"),
        "through a link": Path("link/run"),
    }
    kill(recipe(name), first[began], after_the_best_epoch(whole[name]))
    best = (tmp_path / "real" / "run" / "checkpoints" / BEST).read_bytes()
    if place == "moved":
        shutil.move("real/run", "elsewhere/run")
    elif place == "copied":
        shutil.copytree("real/run", "elsewhere/run")
    (tmp_path / "by name").symlink_to(tmp_path / "real" / "run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    then = {
        "relative": Path("../real/run"),
        "through a link": Path("../by name"),
        "below a link": tmp_path / "link" / "run",
        "moved": Path("run"),
        "copied": Path("run"),
        "not normalized": tmp_path / "real" / ".." / "elsewhere" / ".." / "real" / "run",
    }[place]
    run(recipe(name), then, {}, "", resumed=True)
    assert_same(then, whole[name])
    assert (then / "checkpoints" / BEST).read_bytes() == best
    if place == "copied":
        assert (tmp_path / "real" / "run" / "checkpoints" / BEST).read_bytes() == best


@pytest.mark.parametrize("place", ["here", "moved"])
def test_a_checkpoint_callback_of_lightnings_goes_on_with_its_files(
    place: str, recipe: Any, tmp_path: Path
) -> None:
    """It keeps the two best epochs, and removes what was among them before, wherever the run is by then."""
    mine = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val_loss", "save_top_k": 2}
    config = recipe("everything that is random", "trainer.max_epochs=4")
    config["callbacks"]["mine"] = mine
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for directory in (whole, stopped):
        directory.mkdir()
    run(config, whole, {}, "")
    kill(config, stopped, 3 * len_epoch(whole) - 1)
    if place == "moved":
        stopped = stopped.rename(tmp_path / "moved")
    run(config, stopped, {}, "", resumed=True)
    files = {path.relative_to(whole): path for path in whole.rglob("*.ckpt")}
    assert len(files) == 4, "last, best and two of the callback's"
    assert {path.relative_to(stopped) for path in stopped.rglob("*.ckpt")} == set(files)
    for name, path in files.items():
        weights, others = (torch.load(p, weights_only=True)["state_dict"] for p in (path, stopped / name))
        assert all(torch.equal(weights[key], others[key]) for key in weights)


def len_epoch(directory: Path) -> int:
    """Return the groups of an epoch."""
    last = torch.load(directory / "checkpoints" / LAST, weights_only=True)
    return int(last["global_step"]) // 2 // 4


def test_what_lightning_would_not_reload_ends_a_resume(
    recipe: Any, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "best_states", lambda checkpoint: {})  # its paths stay as they were
    moved = stopped.rename(stopped.with_name("moved"))
    with pytest.raises(UserWarning, match="won't be reloaded"):
        run(recipe("everything that looks back"), moved, {}, "", resumed=True)
    with pytest.raises(UserError, match=r"cannot go on: UserWarning: .*won't be reloaded"):
        resume(moved)


def assert_same_after_stops(config: dict[str, Any], folder: Path, groups: list[int]) -> None:
    """Train once without and once with stops, and compare."""
    once, twice = folder / "once", folder / "twice"
    for directory in (once, twice):
        directory.mkdir()
    run(config, once, {}, "")
    stop_and_go_on(config, twice, groups)
    assert_same(twice, once)


@pytest.mark.parametrize(
    ("optim", "precision"),
    [
        *((name, "64-true") for name in ("sgd", "nesterov", "adam", "nadam", "amsgrad", "rmsprop", "adamw")),
        *((name, "bf16-mixed") for name in ("nesterov", "nadam")),  # whose state is of single precision
    ],
)
def test_every_optimizer_goes_on_to_the_same_bits_in_every_precision(
    optim: str, precision: str, recipe: Any, tmp_path: Path
) -> None:
    name = "everything that is random"
    config = recipe(name, f"trainer.precision={precision}", *PRECISE, f"optim={optim}")
    assert_same_after_stops(config, tmp_path, [GROUPS + 1])


def test_batch_normalization_of_double_precision_goes_on_to_the_same_bits(
    recipe: Any, tmp_path: Path
) -> None:
    small = ("model=residual", "model.widths=[4]", "model.blocks=[1]", "model.stem=4")
    config = recipe("everything that is random", *small, "trainer.precision=64-true", "trainer.max_epochs=2")
    assert_same_after_stops(config, tmp_path, [1, 3])


def test_ingredients_of_champions_go_on_to_the_same_bits(recipe: Any, tmp_path: Path) -> None:
    """The images of an epoch are arranged anew where it goes on, those that were chosen once stay chosen."""
    config = recipe("everything that is random", *CHOSEN)
    assert_same_after_stops(config, tmp_path, [1, GROUPS, GROUPS])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (flip, "damaged or no checkpoint"),
        (Path.unlink, "there is no such checkpoint"),
        (lambda best: best.write_bytes(b""), "damaged or no checkpoint"),
        (lambda best: best.write_bytes(best.read_bytes()[:-1000]), "damaged or no checkpoint"),
        (lambda best: shutil.copyfile(best.with_name(LAST), best), "is not of the best epoch"),
    ],
    ids=["one bit", "gone", "empty", "cut", "another epoch's"],
)
def test_best_weights_that_are_lost_are_no_other_weights(
    damage: Callable[[Path], Any], part: str, recipe: Any, whole: dict[str, Path], stopped: Path
) -> None:
    name = "everything that looks back"
    damage(stopped / "checkpoints" / BEST)
    with pytest.raises(
        UserError, match=rf"{part}.*The best epoch's weights are lost\. Without .*checkpoints"
    ):
        run(recipe(name), stopped, {}, "", resumed=True)
    assert not (stopped / "metrics.json").exists()
    shutil.rmtree(stopped / "checkpoints")
    run(recipe(name), stopped, {}, "", resumed=True)
    assert_same(stopped, whole[name])


def test_best_weights_of_an_epoch_that_did_not_come_again_are_not_tested(recipe: Any, stopped: Path) -> None:
    """A kill between the two files leaves a better epoch's; on another device it may not be found again."""
    best = stopped / "checkpoints" / BEST
    torch.save(torch.load(best, weights_only=True) | {"global_step": 10**6}, best)
    with pytest.raises(UserError, match="is not of the best epoch"):
        run(recipe("everything that looks back"), stopped, {}, "", resumed=True)
    assert not (stopped / "metrics.json").exists()


def test_weights_that_are_damaged_before_the_test_are_not_tested(recipe: Any, tmp_path: Path) -> None:
    config = recipe("everything that is random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "settle", lambda folder, chosen: flip(folder / BEST))
        with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
            run(config, tmp_path, {}, "")


@pytest.mark.parametrize("moment", ["before the best has its name", "after it"])
def test_a_better_epoch_of_which_the_last_checkpoint_knows_nothing_is_found_again(
    moment: str, recipe: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    """The process ends between the two files of an epoch."""
    name = "everything that is random"
    save, count = checkpoints.AtomicCheckpointIO.save_checkpoint, [0]

    def save_or_die(self: Any, checkpoint: Any, path: Any, **options: Any) -> None:
        count[0] += Path(path).name == BEST
        if count[0] == 2 and (moment.startswith("before") or Path(path).name == LAST):
            die()
        save(self, checkpoint, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.AtomicCheckpointIO, "save_checkpoint", save_or_die)
        with pytest.raises(Killed):
            run(recipe(name), tmp_path, {}, "")
    assert count[0] == 2
    run(recipe(name), tmp_path, {}, "", resumed=True)
    assert_same(tmp_path, whole[name])


def test_without_validation_data_the_best_is_the_last_whatever_a_power_cut_left(
    recipe: Any, tmp_path: Path
) -> None:
    config = recipe("everything that is random", "data.val_fraction=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "test_step", lambda *arguments: die())
        with pytest.raises(Killed):
            run(config, tmp_path, {}, "")
    folder = tmp_path / "checkpoints"
    last = (folder / LAST).read_bytes()
    (folder / BEST).unlink()
    (folder / BEST).write_bytes(b"")
    left = [
        folder / f".{BEST}.part",
        tmp_path / ".history.csv.x.part",
        tmp_path / ".hydra" / ".overrides.yaml.x.part",
    ]
    for part in left:
        part.write_bytes(b"")
    run(config, tmp_path, {}, "", resumed=True)
    assert (folder / BEST).read_bytes() == (folder / LAST).read_bytes() == last
    assert not any(part.exists() for part in left)
    assert {path.name for path in folder.iterdir()} == {BEST, LAST}


@pytest.mark.parametrize("left", [None, b""], ids=["gone", "empty"])
def test_the_run_s_own_config_is_enough_to_go_on(
    left: bytes | None, whole: dict[str, Path], stopped: Path
) -> None:
    kept = {stopped / "config.yaml", *(stopped / "checkpoints").iterdir()}
    for path in [path for path in stopped.rglob("*") if path.is_file() and path not in kept]:
        path.unlink()
        if left is not None:
            path.write_bytes(left)
    if left is not None:
        for name in ("hydra.yaml", "config.yaml"):
            (stopped / ".hydra" / name).write_bytes(left)
    metrics = resume(stopped)
    assert metrics["choices"] == {"model": "mlp"}
    assert metrics["command"] == "python train.py model=mlp"
    (weights, rows, _), (others, other_rows, _) = (
        outcome(stopped),
        outcome(whole["everything that looks back"]),
    )
    assert rows == other_rows
    assert all(torch.equal(weights[key], others[key]) for key in weights)


def test_a_refused_start_changes_nothing(recipe: Any, stopped: Path) -> None:
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(Occupied, match="already holds a run"):
        run(recipe("everything that is random"), stopped, {"model": "cnn_c"}, "python train.py model=cnn_c")
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before
    assert resume(stopped)["choices"] == {"model": "mlp"}


def test_a_resume_with_another_config_says_what_differs(recipe: Any, stopped: Path) -> None:
    config = recipe("everything that looks back", "optim.lr=0.1", "data.images.seed=7")
    with pytest.raises(UserError, match=r"another config: .*optim\.lr was 0\.03, is 0\.1"):
        run(config, stopped, {}, "", resumed=True)
    config = recipe("everything that looks back", "callbacks.resume.every_s=10", "data.eval_batch_size=64")
    run(config, stopped, {}, "", resumed=True)


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
        started = Classifier.on_train_start
        patch.setattr(Classifier, "on_train_start", lambda self: [trained.append(self), started(self)])
        stepped = History.on_train_batch_end
        count = [0]

        def after(self: Any, *arguments: Any) -> None:
            stepped(self, *arguments)
            count[0] += 1
            if count[0] == GROUPS + 2:
                spoil()

        patch.setattr(History, "on_train_batch_end", after)
        with pytest.raises(Diverged, match=r"weights are no numbers .* at step 14.*Last good checkpoint: "):
            run(config, tmp_path, {}, "")
    weights = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_run_that_goes_on_elsewhere_is_left_alone(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with FileLock(tmp_path / ".lock"), pytest.raises(UsageError, match="in another process"):
        run(recipe("everything that is random"), tmp_path, {}, "", resumed=True)


def test_the_command_line_names_one_run_and_nothing_else() -> None:
    assert named_run(["model=cnn_c"]) is None
    assert named_run(["resume=a/b"]) == (Path("a/b"), (), ())
    assert named_run(["resume=~/b"]) == (Path.home() / "b", (), ())
    assert named_run(["trust=[mine, yours]", "resume=a/b"]) == (Path("a/b"), ("mine", "yours"), ())
    changed = ("threads=1", "trainer.max_epochs=9")
    assert named_run(["threads=1", "resume=a/b", "trainer.max_epochs=9"]) == (Path("a/b"), (), changed)
    with pytest.raises(UsageError, match=r"Leave out: optim\.lr=1\. What may change: trainer\.max_epochs, "):
        named_run(["resume=a/b", "threads=1", "optim.lr=1"])


@pytest.mark.parametrize("argument", ["ckpt_path=", "+ckpt_path=", "resume="])
def test_a_checkpoint_is_answered_with_its_run(argument: str, whole: dict[str, Path]) -> None:
    run = whole["everything that looks back"]
    with pytest.raises(UsageError, match=rf"resume={run}(;|$)"):
        resume(*(named_run([f"{argument}{run}/checkpoints/last.ckpt"]) or ()))


def test_a_run_goes_on_for_longer_as_if_it_had_been_said_at_first(recipe: Any, tmp_path: Path) -> None:
    for name, epochs in (("short", 2), ("long", 3)):
        config = recipe("everything that is random", "schedule=constant", f"trainer.max_epochs={epochs}")
        (tmp_path / name).mkdir()
        run(config, tmp_path / name, {}, f"python train.py model=mlp trainer.max_epochs={epochs} seed=1")
    with pytest.raises(UsageError, match=r"is finished, .*\(epochs: \d\).* [34] or more"):
        resume(tmp_path / "short", changed=("trainer.max_epochs=2",))
    metrics = resume(tmp_path / "short", changed=("trainer.max_epochs=3", "data.eval_batch_size=64"))
    (weights, rows, _), (others, other_rows, _) = outcome(tmp_path / "short"), outcome(tmp_path / "long")
    assert rows == other_rows
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    told = "python train.py model=mlp seed=1 trainer.max_epochs=3 data.eval_batch_size=64"
    assert metrics["command"] == told
    assert read_config(tmp_path / "short")["trainer"]["max_epochs"] == 3
    assert read_overrides(tmp_path / "short") == told.split()[2:]


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        (("schedule=cosine",), "depend on the length"),
        (("schedule=onecycle",), "depend on the length"),
        (
            (
                "+callbacks.swa._target_=lightning.pytorch.callbacks.StochasticWeightAveraging",
                "+callbacks.swa.swa_lrs=0.01",
            ),
            "the length",
        ),
        (("callbacks=hard_part",), "HardPart depends on the length"),
        (("callbacks=low_resolution_first",), "LowResolutionFirst depends on the length"),
    ],
)
def test_a_run_that_would_have_gone_another_way_is_not_made_longer(
    further: tuple[str, ...], reason: str, composed: Any, tmp_path: Path
) -> None:
    config = composed(*SMALL, "model=mlp4", *further)
    claim(tmp_path, config)
    with pytest.raises(UsageError, match=rf"trainer\.max_epochs: .*{reason}"):
        resume(tmp_path, changed=("trainer.max_epochs=3",))
    assert read_config(tmp_path) == config


def test_what_cannot_go_on_says_why(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run of train.py; it has no config.yaml.$"):
        resume(tmp_path)
    finished = shutil.copytree(next(iter(runs.values())), tmp_path / "finished")
    with pytest.raises(UsageError, match=r"no run of .* Name the directory of a run: finished$"):
        resume(tmp_path)
    for length in ("1e1", "-1", "0"):
        with pytest.raises(UsageError, match=rf"trainer.max_epochs={length}: it must be a whole number"):
            resume(finished, changed=[f"trainer.max_epochs={length}"])
    (finished / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create({"hydra": {}}), finished / ".hydra" / "hydra.yaml")
    with pytest.raises(UsageError, match=r"is finished, .*\(epochs: \d\).* [34] or more"):
        resume(finished)
