"""Signals that arrive at the worst moments: none is forgotten, and what was saved goes on."""

import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fmnist_lit.run
from fmnist_lit import callbacks, trainer
from fmnist_lit.callbacks import History
from fmnist_lit.checkpoints import LAST, AtomicCheckpointIO
from fmnist_lit.classifier import Classifier
from fmnist_lit.errors import Diverged
from fmnist_lit.interrupt import ALWAYS, SIGNALS, Interrupted, own_signals
from fmnist_lit.run import run
from tests.fixtures import SMALL, answer_in_process

# Where the signal comes, at which call, and whether there must be a checkpoint by then.
MOMENTS: dict[str, tuple[Any, str, int, bool]] = {
    "while data is built": (fmnist_lit.run, "build_data", 1, False),
    "while processes exchange": (callbacks, "largest", 2, True),
    "while the last exchange goes on": (callbacks, "largest", 10, True),
    "while a checkpoint is saved": (AtomicCheckpointIO, "save_checkpoint", 2, True),
    "while the last checkpoint is saved": (AtomicCheckpointIO, "save_checkpoint", -1, True),
    "in validation": (Classifier, "validation_step", 1, True),
    "in the test": (Classifier, "test_step", 1, True),
}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "GROUP_IMAGES", 32)


def at_call(
    patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, event: Callable[[], None]
) -> Callable[[], int]:
    """Let something happen within the call of that number; return what tells how many there were."""
    original, count = getattr(owner, name), [0]

    def counted(*arguments: Any, **further: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            event()
        return original(*arguments, **further)

    patch.setattr(owner, name, counted)
    return lambda: count[0]


@pytest.fixture
def config(composed: Any) -> dict[str, Any]:
    made: dict[str, Any] = composed(
        *(*SMALL, "model=mlp4", "data.batch_size=16"),
        *("callbacks.resume.every_s=1000", "callbacks.best.monitor=null"),
    )
    return made


@pytest.fixture
def weights(config: dict[str, Any], tmp_path: Path) -> Any:
    """The weights that a run ends with which nobody stopped."""
    (tmp_path / "whole").mkdir()
    run(config, tmp_path / "whole", {}, "")
    return last(tmp_path / "whole")


def last(directory: Path) -> Any:
    return torch.load(directory / "checkpoints" / LAST, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *((moment, number) for moment in MOMENTS for number in ALWAYS),
        *(("in validation", number) for number in SIGNALS if number not in ALWAYS),
    ],
)
def test_a_signal_stops_a_run_whenever_it_comes(
    moment: str, number: signal.Signals, config: dict[str, Any], weights: Any, tmp_path: Path
) -> None:
    owner, name, call, saved = MOMENTS[moment]
    directory = tmp_path / "stopped"
    directory.mkdir()
    if call < 0:  # from the end
        with pytest.MonkeyPatch.context() as patch:
            calls = at_call(patch, owner, name, 0, lambda: None)
            (tmp_path / "counted").mkdir()
            run(config, tmp_path / "counted", {}, "")
            call += calls() + 1
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, owner, name, call, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as stopped:
            run(config, directory, {}, "")
    assert stopped.value.status == 128 + number
    assert (directory / "checkpoints" / LAST).exists() == saved
    assert not (directory / "metrics.json").exists()
    run(config, directory, {}, "", resumed=True)
    assert all(torch.equal(weight, weights[name]) for name, weight in last(directory).items())


def test_a_killed_process_goes_on_to_the_same_bits(
    config: dict[str, Any], weights: Any, tmp_path: Path
) -> None:
    directory = tmp_path / "killed"
    directory.mkdir()
    process = multiprocessing.get_context("fork").Process(target=run, args=(config, directory, {}, ""))
    process.start()
    while not (directory / "checkpoints" / LAST).exists():
        assert process.is_alive(), "it ended before it saved"
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (directory / "metrics.json").exists()
    run(config, directory, {}, "", resumed=True)
    assert all(torch.equal(weight, weights[name]) for name, weight in last(directory).items())


def test_a_signal_is_not_forgotten_when_the_job_fails_before_it_stops(tmp_path: Path) -> None:
    """The signal waits for the step's end, at which the loss is no number: no other job may begin."""

    def fail(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Diverged("training diverged")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "on_train_batch_end", fail)
        command = ["-m", *SMALL, "model=mlp4", "seed=0,1", f"output_dir={tmp_path}", "name=night"]
        status, said, message = answer_in_process(command)
    assert status == 143
    assert message.splitlines() == [
        "error: training diverged",
        "interrupted by SIGTERM. To go on: the same command again.",
    ]
    assert not (tmp_path / "sweeps" / "night" / "1").exists()
    assert "unfinished" in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_where_python_lets_no_exception_out_stops_the_run_and_the_sweep() -> None:
    class Held:
        pass

    def drop_one() -> None:
        """Get a signal in the callback of a weak reference."""
        held = Held()
        reference = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGINT))
        del held
        assert reference() is None

    with pytest.raises(Interrupted), own_signals():
        drop_one()

    def sweep() -> None:
        with own_signals():  # of a command
            drop_one()
            with own_signals():  # of its next job
                pytest.fail("it was begun")

    with pytest.raises(Interrupted):
        sweep()


def test_what_nohup_has_switched_off_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with own_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
