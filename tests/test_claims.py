"""Claims of the reports are answered by pairs of runs that are alike in all else."""

from typing import Any

import pytest

from fmnist_lit.readers.claims import Claim, answer, claims_table, read_claims
from fmnist_lit.readers.grid_table import grid_table
from fmnist_lit.readers.loss_curve import loss_table, losses
from fmnist_lit.readers.records import as_rows, study_rows, with_runs
from tests.fixtures import ROOT

CLAIMS = read_claims(ROOT / "results" / "claims.yaml")


def run(seed: int, val: float, test: float = 0.5, **overrides: str) -> dict[str, Any]:
    """Return a record of a run."""
    return {
        "experiment": "none",
        "seed": seed,
        "overrides": [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()],
        "train": {"accuracy": 0.9, "loss": 0.3},
        "val": {"accuracy": val, "loss": 0.4},
        "test": {"accuracy": test, "loss": 0.5},
        "epochs": 2,
        "seconds": 60.0,
        "history": {"val_accuracy": [val / 2, val], "train_loss": [1.0, None]},
    }


def claim(**further: Any) -> Claim:
    sides = {"first": {"optim": "sgd"}, "second": [{"optim": "adam"}]}
    return Claim(**{"report": "r", "claim": "c", "study": "s", **sides, **further})


def pairs(*differences: float) -> list[dict[str, Any]]:
    """Return runs of SGD and Adam, each pair of a seed so many points apart."""
    made = [
        (run(i, 0.8 + d / 100, optim="sgd"), run(i, 0.8, optim="adam")) for i, d in enumerate(differences)
    ]
    return [one for pair in made for one in pair]


@pytest.mark.parametrize(
    ("differences", "expected", "verdict"),
    [
        ((1.0, 1.1, 0.9), "more", "agrees"),
        ((1.0, 1.1, 0.9), "less", "contradicts"),
        ((-1.0, -1.1, -0.9), "less", "agrees"),
        ((1.0, -1.0, 0.5), "more", "cannot be told"),
        ((1.0,), "more", "cannot be told"),
        ((0.1, 0.0, -0.1), "same", "agrees"),
        ((1.0, 1.1, 0.9), "same", "contradicts"),
        ((0.5, 0.3, 0.4), "same", "cannot be told"),
    ],
)
def test_the_interval_decides(differences: tuple[float, ...], expected: Any, verdict: str) -> None:
    found = answer(claim(expected=expected), {"s": as_rows(pairs(*differences))})
    assert found.verdict == verdict
    assert found.n == len(differences)
    assert found.effect is not None
    assert found.effect.mean == pytest.approx(sum(differences) / len(differences))


def test_only_runs_that_are_alike_are_compared() -> None:
    runs = [
        run(0, 0.8, optim="sgd", model="a"),
        run(0, 0.7, optim="adam", model="a"),
        run(1, 0.9, optim="sgd", model="a"),  # no other of this seed
        run(0, 0.5, optim="sgd", model="b"),
        run(0, 0.6, optim="adam", model="b"),
    ]
    found = answer(claim(), {"s": as_rows(runs)})
    assert found.n == 2
    assert found.effect is not None
    assert found.effect.mean == pytest.approx(0)


def test_a_run_of_an_experiment_stands_for_the_job_that_would_be_the_same_run() -> None:
    alone = run(0, 0.7) | {"config": {"model.depth": 1, "model.hidden": [32, 16]}}
    wanted = claim(first={"model.depth": "2"}, second=[{"model.depth": "1"}])
    runs = [run(0, 0.8, model__depth="2", model__hidden="[32,16]"), alone]
    found = answer(wanted, {"s": study_rows(runs)})
    assert found.effect is not None
    assert found.effect.mean == pytest.approx(10)
    alone["config"]["model.hidden"] = [64]
    assert answer(wanted, {"s": study_rows(runs)}).verdict == "not run", "they are not alike"


def test_runs_of_two_experiments_are_compared_each_with_its_own() -> None:
    runs = pairs(1.0, 1.0, 1.3)
    others = [record | {"experiment": "other"} for record in pairs(3.0, 3.0)]
    study = with_runs(runs, others)
    assert len(study) == 10, "none takes another's place"
    found = answer(claim(), {"s": study_rows(study)})
    assert found.n == 5
    assert found.effect is not None
    assert found.effect.mean == pytest.approx((1.0 + 1.0 + 1.3 + 3.0 + 3.0) / 5)


def test_each_side_has_its_best_rate_by_validation_and_the_strongest_other_is_taken() -> None:
    runs = [
        run(0, 0.80, 0.50, optim="sgd", optim__lr="0.1"),
        run(0, 0.70, 0.99, optim="sgd", optim__lr="1"),  # better in test, which chooses nothing
        run(0, 0.60, 0.40, optim="adam", optim__lr="0.1"),
        run(0, 0.50, 0.70, optim="adam", optim__lr="1"),
        run(0, 0.30, 0.90, optim="rmsprop", optim__lr="0.1"),
    ]
    wanted = claim(second=[{"optim": "adam"}, {"optim": "rmsprop"}], best="optim.lr", figure="test")
    found = answer(wanted, {"s": as_rows(runs)})
    assert found.effect is not None
    assert found.effect.mean == pytest.approx(10)


def test_figures_of_an_epoch_and_of_the_last_one() -> None:
    tables = {"s": as_rows(pairs(2.0, 2.0, 2.3))}
    early = answer(claim(figure="val@1"), tables).effect
    assert early is not None
    assert early.mean == pytest.approx(1.05), "half of the last epoch's"
    assert answer(claim(figure="last_train_loss"), tables).verdict == "not run", "it is no number"


def test_a_limit_a_reason_and_runs_that_are_not_there() -> None:
    tables = {"s": as_rows(pairs(1.0, 1.2))}
    above = answer(claim(second=[], limit=70), tables)
    assert (above.n, above.verdict) == (2, "agrees")
    assert answer(claim(reason="why"), tables).verdict == "not tested"
    assert answer(claim(study="another"), tables).verdict == "not run"
    assert answer(claim(first={"optim": "lion"}), tables).verdict == "not run"
    assert "not tested: why" in claims_table([claim(reason="why")], tables)


def test_every_claim_of_the_reports_has_a_row_and_names_what_there_is() -> None:
    assert len(CLAIMS) >= 30
    assert {claim.report for claim in CLAIMS} == {
        *("five_models", "early_stopping", "augmentation", "grid_search", "batch_size")
    }
    for one in CLAIMS:
        assert one.reason or (one.first and (one.second or one.limit is not None)), one.claim
        for keys in (one.first, *one.second):
            if "experiment" in keys:
                assert (ROOT / "conf" / "experiment" / f"{keys['experiment']}.yaml").exists(), one.claim


def test_the_best_ten_of_a_grid_stand_beside_the_printed_ones() -> None:
    runs = [run(0, 0.90 + i / 1000, model__hidden=f"[{i},8]", model__dropout="0.2") for i in range(12)]
    for record in runs:
        record["history"] |= {name: [0.5, 0.25] for name in ("val_loss", "train_accuracy", "train_loss")}
        record["final_rate"] = 1e-5
    printed = [{"hidden layers": "11, 8", "dropout": 0.2, "val": 91.0, "val loss": 0.3, "epochs": 45}]
    lines = grid_table(as_rows(runs), printed).splitlines()
    assert len(lines) == 2 + 10 + 2
    assert (
        lines[2]
        == "| 11, 8 | 0.2 | 1e-05 | 91.10 | 0.2500 | 25.00 | 0.2500 | 2 | 1 | 91.00, 0.3000, 45 epochs |"
    )
    assert lines[11].startswith("| 2, 8 | 0.2 | 1e-05 | 90.20 ")
    assert "12 of 30 runs" in lines[-1]
    assert "within 0.90 points" in lines[-1]
    assert "is 0.27" in lines[-1], "of 12,000 images at 90.65%"
    assert grid_table(None, printed) == "Not run yet."


def test_losses_are_on_the_reports_scale() -> None:
    batch = {"experiment": "batch_size/bs100", "overrides": []}
    made = [batch | {"seed": s, "history": {"train_loss": [loss, 1.6]}} for s, loss in enumerate((1.7, 1.9))]
    ours = losses(made)
    assert ours[0].tolist() == pytest.approx([1.7 * 600 / 938, 1.6 * 600 / 938])
    lines = loss_table([1.12985, 1.06286], ours).splitlines()
    assert lines[2].startswith("| 1 | 1.1299 | 1.1514 ± 0.0905 | +0.0215 |")
    assert lines[3].startswith("| 2 | 1.0629 | 1.0235 ± 0.0000 | -0.0394 |")
    assert loss_table([1.1], losses([])).splitlines()[2] == "| 1 | 1.1000 | - | - |"
