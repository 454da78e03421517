"""Records of runs and RESULTS.md, which is made of them."""

import json
import math
import re
import shutil
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from pandas import Series

import scripts.evaluate
import scripts.record
from fmnist_lit.config import leaves, resolved
from fmnist_lit.errors import UserError
from fmnist_lit.readers.claims import read_claims
from fmnist_lit.readers.old_configs import RENAMED_KEYS, modern
from fmnist_lit.readers.overview import lines_of, with_table
from fmnist_lit.readers.records import (
    as_rows,
    is_kept,
    make_record,
    other_overrides,
    read_lines,
    read_records,
    read_studies,
    study_rows,
)
from fmnist_lit.readers.results_page import (
    COMPARISONS,
    NEAR,
    measured,
    read_commands,
    read_published,
    results_page,
    rows_of,
    verdict_of,
)
from tests.fixtures import ROOT, call

RECORDS = read_records(ROOT / "results" / "experiments")
COMMANDS = read_commands(ROOT / "results" / "studies.yaml")
CLAIMS = read_claims(ROOT / "results" / "claims.yaml")


def made_of(published: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Return the page of some records and the repository's claims and studies."""
    return results_page(published, records, CLAIMS, read_studies(ROOT / "results" / "studies"), COMMANDS)


def test_the_page_in_the_repository_is_that_of_the_records() -> None:
    page = made_of(read_published(ROOT / "results" / "published.yaml"), RECORDS)
    assert (ROOT / "RESULTS.md").read_text() == page, "run: make results"


def test_every_study_has_a_command_that_composes() -> None:
    files = {path.stem for path in (ROOT / "results" / "studies").glob("*.jsonl")}
    assert COMMANDS.keys() == files | {claim.study for claim in CLAIMS if claim.study}
    for command in chain(*COMMANDS.values()):
        of_one_run = [word for word in command.split() if "," not in word]
        assert of_any_seed(*of_one_run)


def test_the_readmes_table_is_that_of_the_records_and_its_prose_that_of_the_page() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = lines_of(read_published(ROOT / "results" / "published.yaml"), RECORDS)
    assert len(lines) >= 10
    assert with_table(readme, lines) == readme, "run: make results"
    page = (ROOT / "RESULTS.md").read_text()
    for text in (readme, (ROOT / "docs" / "recipes.md").read_text()):
        assert all(figure in page for figure in re.findall(r"\d\d\.\d\d ± \d\.\d\d", text))
    with pytest.raises(UserError, match="no place for its table"):
        with_table("# A README without its marks", lines)


def test_headers_of_experiments_say_what_was_published_and_measured() -> None:
    published = read_published(ROOT / "results" / "published.yaml")
    rows = [(report, row) for report, content in published.items() for row in content["rows"]]
    table = as_rows(RECORDS)
    for report, row in rows:
        experiment = f"{report}/{row['row']}"
        header = (ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text()
        line = measured(experiment, row.get("figure"), table)
        assert f"python train.py experiment={experiment}\n" in header
        for part in ("# Published: ", "# Not stated in the report, chosen here: "):
            assert part in header or report == "champion", f"{experiment}: {part}"
        assert f"# Measured: {line}.\n" in header, f"{experiment}: run: make results"


def test_every_experiment_has_a_row() -> None:
    published = read_published(ROOT / "results" / "published.yaml")
    rows = {f"{report}/{row['row']}" for report, content in published.items() for row in content["rows"]}
    folder = ROOT / "conf" / "experiment"
    files = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/[!_]*.yaml")}
    assert rows == {name for name in files if not name.startswith("tuned/")}  # a search's, of no report


def numbers(content: Any) -> set[float]:
    """Return all numbers of a report's facts."""
    if isinstance(content, dict | list):
        return set().union(*map(numbers, content.values() if isinstance(content, dict) else content))
    return {float(content)} if isinstance(content, int | float) else set()


def test_prose_types_no_accuracy_by_hand() -> None:
    """What it says of our runs comes from records; what it says of a report stands in the report's facts."""
    for content in read_published(ROOT / "results" / "published.yaml").values():
        texts = [content["about"], content.get("columns_about", "")]
        texts += [row.get(key, "") for row in content["rows"] for key in ("notes", "why")]
        typed = re.findall(r"\b\d\d\.\d+", re.sub(r"{{.*?}}", "", " ".join(texts)))
        assert set(map(float, typed)) <= numbers(content)


@cache
def of_any_seed(*overrides: str) -> DictConfig:
    """Compose a config once for all seeds."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def test_records_are_of_the_experiments_as_they_stand_in_conf() -> None:
    """Keys may have other names since, and a record may lack one that was added; none may say otherwise."""
    assert RECORDS
    for record in RECORDS:
        parted = (override.partition("=") for override in record["overrides"])
        overrides = [f"{RENAMED_KEYS.get(key, key)}{sign}{value}" for key, sign, value in parted]
        config = of_any_seed(f"experiment={record['experiment']}", *overrides)
        config.seed = record["seed"]
        now = {key: value for key, value in leaves(resolved(config)) if is_kept(key)}
        then = {key: value for key, value in modern(record["config"]).items() if is_kept(key)}
        assert {key: now[key] for key in then} == then, record["experiment"]
        assert len(record["commit"]) == 40
        assert len(record["history"]["train_loss"]) == record["epochs"]


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([], "-"),
        ([0.5, 0.6], "too few pairs"),
        ([0.5, 0.6, 0.7, 0.5, 0.6], "better"),
        ([-0.5, -0.6, -0.7, -0.5, -0.6], "worse"),
        ([0.5, -0.6, 0.7, -0.5, 0.6], "cannot be told"),
        ([0.1, 0.11, 0.09, 0.1, 0.1], "cannot be told"),  # five pairs alike by chance
        ([0.1, 0.11, 0.09, 0.1, 0.1] * 2, "better"),
    ],
)
def test_an_ingredient_gets_a_verdict_from_enough_pairs(pairs: list[float], verdict: str) -> None:
    assert verdict_of(Series(pairs, dtype=float)) == verdict


def test_no_record_names_a_place_of_a_machine() -> None:
    for path in (ROOT / "results").rglob("*.jsonl"):
        text = path.read_text()
        assert "output_dir" not in text
        assert "images.source" not in text
        assert "images.folder" not in text


def record(
    experiment: str, seed: int, test: float, val: float | None = None, *overrides: str
) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "seed": seed,
        "overrides": list(overrides),
        "test": {"accuracy": test},
        "val": None if val is None else {"accuracy": val},
        "epochs": 20,
        "seconds": 120.0,
    }


PUBLISHED: dict[str, Any] = {
    "five_models": {
        "about": "Twenty epochs.",
        "rows": [
            {"row": "mlp4", "figure": "test", "published": 88.62},
            {"row": "mlp4_patched", "figure": "test", "published": 89.99, "why": "the scheme is open"},
            {"row": "cnn_c", "figure": "test", "published": 90.34},
            {"row": "vgg11", "notes": "given up"},
        ],
    },
    "grid_search": {
        "about": "Early stopping.",
        "rows": [
            {"row": "mlp_32", "figure": "val", "published": 88.80},
            {"row": "mlp_128", "figure": "last_val", "published": 90.08},
        ],
    },
}


def rows(*records: dict[str, Any]) -> dict[str, str]:
    page = made_of(PUBLISHED, records)
    return {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| ")}


def test_means_deviations_and_differences_by_hand() -> None:
    made = [record("five_models/mlp4", seed, accuracy) for seed, accuracy in enumerate((0.88, 0.89, 0.90))]
    table = rows(*made, record("grid_search/mlp_32", 0, 0.87, 0.885))
    assert "| 88.62 | 89.00 ± 1.00 | 3 | +0.38 |" in table["five_models/mlp4"]
    assert "| val | 88.80 | 88.50 | 1 | -0.30 | 87.00 |" in table["grid_search/mlp_32"]
    last = record("grid_search/mlp_128", 0, 0.87, 0.885) | {"history": {"val_accuracy": [0.8, 0.91, 0.9]}}
    assert "| val, last epoch | 90.08 | 90.00 | 1 | -0.08 | 87.00 |" in rows(last)["grid_search/mlp_128"]
    assert "| not run | 0 |" in table["five_models/cnn_c"]
    assert "given up" in table["five_models/vgg11"]


def test_a_shortened_run_is_no_run_of_the_row() -> None:
    table = rows(record("five_models/vgg11", 0, 0.85, None, "trainer.max_epochs=1"))
    assert "| not run | 0 |" in table["five_models/vgg11"]
    assert "with trainer.max_epochs=1 (n = 1): test 85.00" in table["five_models/vgg11"]


def test_every_row_of_the_page_that_lies_apart_says_why() -> None:
    table = as_rows(RECORDS)
    for report, content in read_published(ROOT / "results" / "published.yaml").items():
        for row, found in zip(content["rows"], rows_of(report, content, table), strict=True):
            assert abs(found.apart or 0) <= NEAR or row.get("why"), found.experiment


def test_a_row_that_lies_apart_says_why() -> None:
    assert (
        "the scheme is open" in rows(record("five_models/mlp4_patched", 0, 0.88))["five_models/mlp4_patched"]
    )
    assert "the scheme" not in rows(record("five_models/mlp4_patched", 0, 0.897))["five_models/mlp4_patched"]
    above = rows(record("five_models/mlp4_patched", 0, 0.95))["five_models/mlp4_patched"]
    assert "the scheme is open" in above, "too good is as little reproduced as too bad"


def test_comparisons_pair_the_seeds() -> None:
    """By hand: differences 1, 2, 3 points; t(0.975, 2) = 4.3027, so 2 ± 2.48. Seed 7 has no partner."""
    title, first, second = COMPARISONS[0]
    made = [record(first, seed, 0.90 + 0.01 * seed) for seed in range(3)]
    made += [record(second, seed, 0.89) for seed in (0, 1, 2, 7)]
    line = rows(*made)[title]
    assert "| 3 |" in line
    assert "| +2.00 | -0.48 to +4.48 |" in line


def test_recipes_of_our_own_say_what_they_reach_and_what_each_ingredient_adds() -> None:
    """By hand: differences -0.5, -1.0, -1.5 points; 1 ± 4.3027 * 0.5 / sqrt(3), so -2.24 to +0.24."""
    cost = {"training_tflop": 99.94, "parameters": 292_666}
    made = [
        record("champion/cpu", seed, accuracy) | cost | {"test_flipped": {"accuracy": 0.95}}
        for seed, accuracy in enumerate((0.93, 0.94, 0.95))
    ]
    for run in made[:2]:
        run |= {"commit": "a" * 40, "date": "2026-11-26"}  # of the third nothing is known
    made += [record("champion/short", seed, 0.9, 0.93) for seed in range(3)]
    made += [
        record("champion/short", seed, 0.9, 0.925 - 0.005 * seed, "label_smoothing=0") for seed in range(3)
    ]
    rows = [{"row": "cpu"}, {"row": "gpu"}, {"row": "short"}]
    lines = results_page(
        {"champion": {"about": "Ours.", "rows": rows}}, made, CLAIMS, {}, COMMANDS
    ).splitlines()
    cpu = "| 94.00 ± 1.00 | 3 | 91.52 to 96.48 | 95.00 ± 0.00 | 292,666 | 99.9 | 20 | 2 |"
    assert f"| `champion/cpu` {cpu} aaaaaaa, - | 2026-11-26, - |" in lines
    assert "| `champion/gpu` | not run | 0 | - | - | - | - | - | - | - | - |" in lines
    assert not any(line.startswith("| `champion/short`") for line in lines)
    assert "| nothing | 93.00 ± 0.00 | 3 | - | - | - |" in lines
    assert "| `label_smoothing=0` | 92.00 ± 0.50 | 3 | -1.00 | -2.24 to +0.24 | too few pairs |" in lines


def test_minutes_of_a_gpu_say_so() -> None:
    """Those of a CPU are what a reader with a CPU expects."""
    devices = {"a": "cuda: NVIDIA H100 80GB HBM3, 79 GiB", "b": "cpu: AMD EPYC, 1 thread, 24 GiB"}
    made = [
        record(f"champion/{row}", 0, 0.9) | {"device": device, "parameters": 10}
        for row, device in devices.items()
    ]
    rows = {"champion": {"about": "Ours.", "rows": [{"row": "a", "readme": True}, {"row": "b"}]}}
    page = results_page(rows, made, CLAIMS, {}, COMMANDS)
    for row, minutes in {"a": "2 on NVIDIA H100 80GB HBM3", "b": "2"}.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `champion/{row}`"))
        assert line.split(" | ")[8] == minutes
    assert measured("champion/a", None, as_rows(made)).endswith("2 minutes on NVIDIA H100 80GB HBM3")
    assert [line.minutes for line in lines_of(rows, made)] == ["2 on NVIDIA H100 80GB HBM3"]


def test_an_ingredient_is_held_against_runs_of_its_own_precision_and_gpu() -> None:
    short, single = "champion/short", "trainer.precision=32-true"
    gpu = {"device": "cuda: NVIDIA H100 80GB HBM3, 79 GiB"}
    made = [record(short, 0, 0.9, 0.93), record(short, 0, 0.9, 0.95, "init=identity")]
    made += [record(short, 0, 0.9, 0.50, single), record(short, 0, 0.9, 0.54, single, "init=identity")]
    made += [record(short, 1, 0.9, 0.99, single, "init=identity")]  # without its fellow: no pair
    made += [record(short, 0, 0.9, 0.60) | gpu, record(short, 0, 0.9, 0.66, "init=identity") | gpu]
    rows = {"champion": {"about": "Ours.", "rows": [{"row": "cpu"}]}}
    lines = results_page(rows, made, CLAIMS, {}, COMMANDS).splitlines()
    assert "| nothing | 67.67 ± 22.50 | 3 | - | - | - |" in lines
    changed = next(line for line in lines if line.startswith("| `init=identity` |"))
    assert changed.split(" | ")[2:4] == ["4", "+4.00"]


def test_ingredients_and_sizes_may_be_runs_of_studies() -> None:
    short, few = "champion/short", {"parameters": 1000, "training_tflop": 99.99}
    plain = [record(short, seed, 0.9, 0.93) for seed in range(2)]
    tried = [record(short, seed, 0.9, 0.94, "init=identity") for seed in range(2)]
    small = [record(short, seed, 0.9, 0.92, "model.widths=[33,66]") | few for seed in range(2)]
    large = [record(short, 0, 0.9, 0.95, "model.widths=[48,96]") | few | {"parameters": 2000}]
    studies = {"ingredients": study_rows([*plain, *tried]), "isoflop": study_rows([*large, *small])}
    rows = {"champion": {"about": "Ours.", "rows": [{"row": "cpu"}]}}
    elsewhere = record(short, 0, 0.9, 0.5)  # of the same seed; the study has its own
    lines = results_page(rows, [elsewhere], CLAIMS, studies, COMMANDS).splitlines()
    assert "| nothing | 93.00 ± 0.00 | 2 | - | - | - |" in lines
    assert "| `init=identity` | 94.00 ± 0.00 | 2 | +1.00 | +1.00 to +1.00 | too few pairs |" in lines
    place = lines.index("| `model.widths=[33,66]` | 1,000 | 20 | 100.0 | 92.00 ± 0.00 | 2 |")
    assert lines[place + 1] == "| `model.widths=[48,96]` | 2,000 | 20 | 100.0 | 95.00 | 1 |"


@pytest.fixture
def experiment(run_copy: Path) -> Path:
    """A run as train.py leaves it, of a commit."""
    metrics = json.loads((run_copy / "metrics.json").read_text())
    metrics |= {"choices": {"experiment": "five_models/mlp4"}, "commit": "a" * 40}
    (run_copy / "metrics.json").write_text(json.dumps(metrics))
    (run_copy / ".hydra").mkdir(exist_ok=True)
    overrides = ["experiment=five_models/mlp4", "sweep=a/b", "seed=0", "threads=1", "trainer.max_epochs=3"]
    overrides += ["optim=sgd", "model.dropout=0.2"]  # as the experiment has them
    OmegaConf.save(OmegaConf.create(overrides), run_copy / ".hydra" / "overrides.yaml")
    return run_copy


def test_a_record_holds_the_last_weights_too(experiment: Path) -> None:
    """The best ones are made those of the first epoch, which take every image for the same class."""
    path = experiment / "checkpoints" / "best.ckpt"
    best = torch.load(path, weights_only=True) | {"epoch": 0, "global_step": 1}
    for weight in best["state_dict"].values():
        weight.zero_()
    torch.save(best, path)
    made = make_record(experiment)
    assert made["chosen_epoch"] == 1
    assert [column.count(0) for column in zip(*made["confusion"], strict=True)].count(10) == 9
    assert made["test_last"]["loss"] != pytest.approx(math.log(10), abs=0.01)


def test_a_run_becomes_a_record_and_the_page(experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "published.yaml", tmp_path / "results")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    answer = call(scripts.record, experiment, "--root", tmp_path)
    assert answer.returncode == 0, answer.stderr
    (kept,) = (tmp_path / "results").rglob("*.jsonl")
    assert kept == tmp_path / "results" / "experiments" / "five_models" / "mlp4.jsonl"
    (made,) = read_lines(kept)
    assert made["overrides"] == ["trainer.max_epochs=3"]
    assert made["test"] == json.loads((experiment / "metrics.json").read_text())["test"]
    assert sum(map(sum, made["confusion"])) == 100, "each test image once"
    hits = sum(made["confusion"][number][number] for number in range(10))
    assert hits == round(100 * made["test"]["accuracy"])
    assert 1 <= made["chosen_epoch"] <= made["epochs"] == 3
    assert made["final_rate"] == 0.01
    assert 0 < made["latency_ms"] < 1000
    assert call(scripts.evaluate, experiment, "--checkpoint", "last").returncode == 0
    last = json.loads((experiment / "evaluation" / "test" / "metrics.json").read_text())
    assert made["test_last"] == {key: last[key] for key in ("accuracy", "loss")}
    assert made["date"] == json.loads((experiment / "metrics.json").read_text())["date"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["date"])
    assert "with trainer.max_epochs=3 (n = 1)" in (tmp_path / "RESULTS.md").read_text()
    first = (tmp_path / "RESULTS.md").read_bytes()
    assert call(scripts.record, "--root", tmp_path).returncode == 0
    assert (tmp_path / "RESULTS.md").read_bytes() == first


def test_runs_of_a_study_are_lines_of_one_file(experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "published.yaml", tmp_path / "results")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    sweep = tmp_path / "sweep"
    for job, seed in enumerate((1, 0)):
        shutil.copytree(experiment, sweep / str(job))
        metrics = json.loads((experiment / "metrics.json").read_text())
        metrics |= {"choices": {"experiment": "none"}, "seed": seed}  # a sweep's job is no experiment
        (sweep / str(job) / "metrics.json").write_text(json.dumps(metrics))
    (sweep / "2").mkdir()
    (sweep / "2" / "config.yaml").write_bytes((experiment / "config.yaml").read_bytes())  # not finished
    command = (sweep, "--study", "epochs", "--root", tmp_path)
    for _ in range(2):  # the same runs again are no further ones
        answer = call(scripts.record, *command)
        assert answer.returncode == 0, answer.stderr
        assert "Kept: 2 runs" in answer.stdout
        kept = read_lines(tmp_path / "results" / "studies" / "epochs.jsonl")
        assert [line["seed"] for line in kept] == [0, 1]
        said = ("trainer.max_epochs=3", "optim=sgd", "model.dropout=0.2")  # as a study's runs are compared
        assert {tuple(line["overrides"]) for line in kept} == {said}
    assert not (tmp_path / "results" / "experiments").exists()
    elsewhere = call(scripts.record, sweep, "--study", "../epochs", "--root", tmp_path)
    assert elsewhere.returncode == 2
    assert elsewhere.stderr.startswith("error: --study '../epochs': it must be letters")
    alone = call(scripts.record, sweep / "0", "--root", tmp_path)
    assert alone.returncode == 1
    assert "is no experiment" in alone.stderr


FAULTS = {
    "no experiment": ({"choices": {"experiment": "none"}}, "is no experiment"),
    "dirty": ({"commit": "a" * 40 + "-dirty"}, "in no commit"),
    "no commit": ({"commit": None}, "in no commit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_repeated_is_not_kept(fault: str, experiment: Path, tmp_path: Path) -> None:
    change, part = FAULTS[fault]
    metrics = json.loads((experiment / "metrics.json").read_text()) | change
    (experiment / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "results").mkdir()
    answer = call(scripts.record, experiment, "--root", tmp_path)
    assert answer.returncode == 1
    assert part in answer.stderr
    assert not list((tmp_path / "results").iterdir())


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "results" / "experiments").mkdir(parents=True)
    (tmp_path / "results" / "experiments" / "odd.jsonl").write_text("[]")
    answer = call(scripts.record, "--root", tmp_path)
    assert answer.returncode == 1
    assert "odd.jsonl is no record" in answer.stderr


def test_no_record_keeps_an_override_that_names_a_place_or_changes_no_figure(tmp_path: Path) -> None:
    places = [f"{sign}data.images.{key}=/home/me" for sign in ("", "+", "++") for key in ("folder", "source")]
    places += ["+trainer.enable_progress_bar=false", "trainer.accelerator=gpu", "steps_per_execution=1"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps([*places, "output_dir=~/x", "optim.lr=1"]))
    assert other_overrides(tmp_path) == ["optim.lr=1"]
