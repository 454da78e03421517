"""Learning-rate schedules: PyTorch's own classes from their keywords, and ours."""

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from fmnist_lit import schedules
from fmnist_lit.errors import UsageError
from fmnist_lit.schedules import Schedule, as_lightning, build_schedule, mode_of


@pytest.fixture
def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)


def made(target: str, optimizer: torch.optim.Optimizer, steps: int, **settings: Any) -> Schedule:
    """Make a schedule as a run does, of a node of its config."""
    return build_schedule({"_target_": target, **settings}, optimizer, steps)


PYTORCH, OURS = "torch.optim.lr_scheduler", "fmnist_lit.schedules"
# Class, keywords, interval, and the rates of the first five steps or epochs.
PYTORCHS: dict[str, tuple[dict[str, Any], str, list[float]]] = {
    "StepLR": ({"step_size": 2, "gamma": 0.5}, "epoch", [0.1, 0.1, 0.05, 0.05, 0.025]),
    "MultiStepLR": ({"milestones": [1, 3]}, "epoch", [0.1, 0.01, 0.01, 0.001, 0.001]),
    "ExponentialLR": ({"gamma": 0.5}, "epoch", [0.1, 0.05, 0.025, 0.0125, 0.00625]),
    "ConstantLR": ({"factor": 0.5, "total_iters": 2}, "epoch", [0.05, 0.05, 0.1, 0.1, 0.1]),
    "LinearLR": ({"start_factor": 0.5, "total_iters": 2}, "epoch", [0.05, 0.075, 0.1, 0.1, 0.1]),
    "PolynomialLR": ({"total_iters": 4}, "epoch", [0.1, 0.075, 0.05, 0.025, 0]),
    "CosineAnnealingLR": ({"T_max": 2}, "epoch", [0.1, 0.05, 0, 0.05, 0.1]),
    "CosineAnnealingWarmRestarts": ({"T_0": 2}, "epoch", [0.1, 0.05, 0.1, 0.05, 0.1]),
    "CyclicLR": ({"base_lr": 0, "max_lr": 1, "step_size_up": 2}, "step", [0, 0.5, 1, 0.5, 0]),
    "OneCycleLR": (
        {"max_lr": 1, "anneal_strategy": "linear", "pct_start": 0.5, "div_factor": 5, "final_div_factor": 1},
        "step",
        [0.2, 0.7333333, 0.84, 0.52, 0.2],
    ),
}


@pytest.mark.parametrize("name", PYTORCHS)
def test_pytorchs_classes_need_their_keywords_alone(name: str, sgd: torch.optim.Optimizer) -> None:
    settings, interval, expected = PYTORCHS[name]
    schedule = made(f"{PYTORCH}.{name}", sgd, 5, **settings)
    assert schedule is not None
    assert schedule.keys() == {"scheduler", "interval"}
    assert schedule["interval"] == interval
    rates = []
    for _ in expected:
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        if len(rates) < len(expected):
            schedule["scheduler"].step()
    assert rates == pytest.approx(expected, abs=1e-7)


def rates_of(schedule: Schedule, optimizer: torch.optim.Optimizer, steps: int) -> list[list[float]]:
    """Return the rate of each group in each step."""
    assert schedule is not None
    rates = []
    for step in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if step < steps - 1:
            schedule["scheduler"].step()
    return list(map(list, zip(*rates, strict=True)))


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"warmup": 0.0, "end": 0.0}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"warmup": 0.4, "end": 0.0}, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
        ({"warmup": 0.0, "end": 0.5}, [1, 0.9, 0.8, 0.7, 0.6]),
    ],
)
def test_a_line_goes_up_and_down(
    settings: dict[str, float], shares: list[float], sgd: torch.optim.Optimizer
) -> None:
    (rates,) = rates_of(made(f"{OURS}.linear", sgd, 5, **settings), sgd, 5)
    assert rates == pytest.approx([0.1 * share for share in shares])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {"warmup": 0.4, "end": 0.0}),
        ("onecycle", {"warmup": 0.4, "div_factor": 25, "final_div_factor": 10_000}),
    ],
)
def test_each_group_of_an_optimizer_has_its_own_highest_rate(name: str, settings: dict[str, float]) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.01, 0.1)]
    optimizer = torch.optim.SGD(groups)
    rates = rates_of(made(f"{OURS}.{name}", optimizer, 10, **settings), optimizer, 10)
    assert [max(of_group) for of_group in rates] == pytest.approx([0.01, 0.1])


def test_who_says_how_long_a_cycle_is_gets_it(sgd: torch.optim.Optimizer) -> None:
    own = ({"total_steps": 7}, {"epochs": 7, "steps_per_epoch": 1})
    for settings in own:
        schedule = made(f"{PYTORCH}.OneCycleLR", sgd, 100, max_lr=1, **settings)
        assert schedule is not None
        assert schedule["scheduler"].total_steps == 7


def test_the_interval_may_be_chosen(sgd: torch.optim.Optimizer) -> None:
    schedule = made(f"{PYTORCH}.StepLR", sgd, 100, step_size=9, interval="step")
    assert schedule is not None
    assert schedule["interval"] == "step"


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"monitor": "val_accuracy"}, "max"),
        ({"monitor": "val_loss"}, "min"),
        ({"monitor": "val_loss", "mode": "max"}, "max"),
        ({"monitor": "somebody's own", "mode": "min"}, "min"),
    ],
)
def test_a_plateau_is_of_what_its_monitor_says(
    settings: dict[str, str], mode: str, sgd: torch.optim.Optimizer
) -> None:
    ours = {"factor": 0.1, "patience": 0, "cooldown": 0, "threshold": 0, "min_lr": 0}
    for schedule in (
        made(f"{PYTORCH}.ReduceLROnPlateau", sgd, 100, **settings),
        made(f"{OURS}.plateau", sgd, 100, **ours, **settings),
    ):
        assert schedule is not None
        assert schedule["interval"] == "epoch"
        assert schedule["monitor"] == settings["monitor"]
        assert schedule["scheduler"].mode == mode


MODES = {
    "max": "val_accuracy val_acc acc train/accuracy val_f1 macro_f1 val_auroc val_auc balanced-accuracy "
    "val_recall f1_score top5_accuracy val_kappa",
    "min": "val_loss loss train/loss loss_sum val_error err error_rate nll cross_entropy brier_score val_ece "
    "mse val_rmse top1_error",
}


@pytest.mark.parametrize(
    ("name", "mode"), [(n, mode) for mode, names in MODES.items() for n in names.split()]
)
def test_a_metrics_name_says_which_way_is_better(name: str, mode: str) -> None:
    assert mode_of(name) == mode


def test_a_name_that_says_nothing_is_asked_about() -> None:
    with pytest.raises(UsageError, match=r"seconds.*mode=max or mode=min"):
        mode_of("seconds")


def a_rate(optimizer: torch.optim.Optimizer) -> Any:
    return 0.1


def a_pytorch_schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.StepLR:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2)


def test_a_function_may_say_that_it_returns_one_of_pytorchs(sgd: torch.optim.Optimizer) -> None:
    schedule = build_schedule({"_target_": f"{__name__}.a_pytorch_schedule"}, sgd, 10)
    assert schedule is not None
    assert isinstance(schedule["scheduler"], torch.optim.lr_scheduler.StepLR)


def nothing(optimizer: torch.optim.Optimizer) -> Schedule:
    return {}


def an_interval(optimizer: torch.optim.Optimizer) -> Schedule:
    return {"interval": "step"}


@pytest.mark.parametrize(
    ("target", "settings", "fault"),
    [
        (f"{PYTORCH}.ReduceLROnPlateau", {}, "needs a monitor"),
        (f"{PYTORCH}.ReduceLROnPlateau", {"monitor": None, "mode": "min"}, "needs a monitor"),
        (f"{PYTORCH}.ReduceLROnPlateau", {"monitor": "val_loss", "interval": "step"}, "interval=step"),
        (f"{PYTORCH}.StepLR", {"step_size": 3, "interval": "year"}, "one of step, epoch"),
        (f"{PYTORCH}.StepLR", {}, "step_size"),
        (f"{PYTORCH}.StepLR", {"step_size": 3, "gama": 0.1}, "gama"),
        (f"{PYTORCH}.OneCycleLR", {"max_lr": 1, "pct_start": 7}, "pct_start"),
        (f"{__name__}.a_rate", {}, "annotated to return"),
        (f"{__name__}.nothing", {}, "NoneType is none of"),
        (f"{__name__}.an_interval", {}, "NoneType is none of"),
    ],
)
def test_what_is_no_schedule_is_refused(
    target: str, settings: dict[str, Any], fault: str, sgd: torch.optim.Optimizer
) -> None:
    with pytest.raises(UsageError, match=fault):
        made(target, sgd, 100, **settings)


def test_lightnings_forms_are_taken(sgd: torch.optim.Optimizer) -> None:
    scheduler = lr_scheduler.ConstantLR(sgd)
    assert as_lightning(None) is None
    assert as_lightning(scheduler) == {"scheduler": scheduler, "interval": "epoch"}
    given = {"scheduler": scheduler, "interval": "step", "name": "rate"}
    assert as_lightning(given) == given
    assert as_lightning({"scheduler": scheduler}) == {"scheduler": scheduler, "interval": "epoch"}


def test_ours_are_what_they_were(sgd: torch.optim.Optimizer) -> None:
    """Positional as the run calls them, with the keys of conf/schedule."""
    assert schedules.constant(sgd) is None
    for schedule in (
        schedules.cosine(sgd, 10, min_lr=0.0),
        schedules.onecycle(sgd, 10, warmup=0.1, div_factor=25, final_div_factor=1e4),
    ):
        assert schedule is not None
        assert schedule["interval"] == "step"
        assert as_lightning(schedule) == schedule
