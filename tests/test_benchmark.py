"""scripts/benchmark.py: the same work for all, measured in turn. Speeds themselves are not tested."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import scripts.benchmark
from fmnist_lit.benchmark import contenders
from fmnist_lit.benchmark.rounds import measure_all, with_reports
from fmnist_lit.benchmark.work import Work
from fmnist_lit.errors import UserError
from tests.conftest import SMALL, call

WORK = Work(model="cnn_c", batch_size=32, images=100, threads=1, device="cpu", source=None)


@pytest.fixture(autouse=True)
def own_level() -> Iterator[None]:
    """What a contender is silent about, other tests want to hear."""
    yield
    logging.getLogger("fmnist_lit").setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", ["project", "bare", "evaluation"])
def test_contenders_measure_an_epoch(
    name: str, composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SMALL, "model=cnn_c", "data.limit=100", "data.val_fraction=0", "logger=tensorboard")
    monkeypatch.setattr(Work, "config", lambda self: composed(*overrides))
    measure = contenders.CONTENDERS[name](WORK)
    assert measure() > 0
    assert measure() > 0


def test_the_work_is_what_its_fields_say() -> None:
    config = WORK.config()
    assert config["data"]["batch_size"] == 32
    assert (config["data"]["limit"], config["data"]["val_fraction"]) == (100, 0)
    assert config["model"]["_target_"].endswith("CNNC")
    assert config["logger"]["tensorboard"], "the usual logging"


def test_a_contender_that_fails_is_named() -> None:
    work = {"model": "mlp4", "batch_size": 32, "images": 7, "threads": 1, "device": "cpu"}
    with pytest.raises(UserError, match=r"bare failed: .*data\.limit=7"):
        measure_all(["bare"], work, rounds=1)


def test_the_reports_get_the_better_of_their_two_loaders() -> None:
    speeds = {"reports_0": {"images_per_second": 10.0}, "reports_2": {"images_per_second": 30.0}}
    assert with_reports(speeds)["reports"] == {"images_per_second": 30.0}


def test_means_are_geometric_over_the_models() -> None:
    def row(model: str, project: float, reports: float, bare: float) -> dict[str, Any]:
        speeds = {"project": project, "reports": reports, "bare": bare}
        return {"model": model, "batch_size": 32, **{k: {"images_per_second": v} for k, v in speeds.items()}}

    rows = [row("mlp4", 8.0, 2.0, 8.0), row("cnn_c", 9.0, 9.0, 18.0)]
    means = scripts.benchmark.means(rows, ["project", "bare", "reports_0", "reports_2"])
    assert means == {"32": {"/reports": pytest.approx(2.0), "/bare": pytest.approx(0.5**0.5)}}


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("--models=mlp5", "Did you mean mlp4"),
        ("--batch-sizes=many", "whole numbers"),
        ("--rounds=0", "1 or more"),
    ],
)
def test_wrong_options_get_one_message(option: str, part: str) -> None:
    answer = call(scripts.benchmark, option)
    assert answer.returncode == 2
    assert part in answer.stderr
