"""scripts/results.py, curves.py and report.py: many runs side by side."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from omegaconf import OmegaConf

import scripts.curves
import scripts.report
import scripts.results
from fmnist_lit.models.layer_table import Row
from fmnist_lit.readers.architecture import architecture_plot
from fmnist_lit.readers.spread import spread
from fmnist_lit.run_files import read_history
from tests.fixtures import call

Figures = dict[tuple[str, int], float]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def folder(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Figures]:
    """Two rates, three and one seed; a run that failed, one that was killed, one that is damaged."""
    folder = tmp_path_factory.mktemp("outputs")
    accuracies = {}
    for lr, seed in (("0.01", 0), ("0.01", 1), ("0.01", 2), ("0.1", 0)):
        run, metrics = trained(
            "model=mlp4",
            f"optim.lr={lr}",
            f"seed={seed}",
            "trainer.max_epochs=1",
            directory=make(folder / f"{lr}-{seed}"),
        )
        accuracies[lr, seed] = metrics["test"]["accuracy"]
    for name in ("failed", "killed", "damaged"):
        shutil.copytree(run, folder / "apart" / name)
        (folder / "apart" / name / "metrics.json").unlink()
    (folder / "apart" / "failed" / "failure.json").write_text(json.dumps({"reason": "training diverged"}))
    (folder / "apart" / "damaged" / "metrics.json").write_text("{")
    return folder, accuracies


def copy_runs(folder: Path, target: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(folder / name, target / name)


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_row_for_each_configuration_over_its_seeds(folder: tuple[Path, Figures]) -> None:
    path, accuracies = folder
    table = json.loads(call(scripts.results, path, "--format", "json").stdout)
    rows = {row["optim.lr"]: row for row in table["finished"]}
    values = [accuracies["0.01", seed] for seed in range(3)]
    assert rows.keys() == {"0.01", "0.1"}
    assert rows["0.01"]["seeds"] == 3
    assert rows["0.01"]["test_accuracy"] == pytest.approx(fmean(values))
    assert rows["0.01"]["test_std"] == pytest.approx(stdev(values))
    assert rows["0.1"]["seeds"] == 1
    assert rows["0.1"]["test_std"] is None
    assert rows["0.1"]["parameters"] == 583_010
    apart = {Path(run["run"]).name: run["reason"] for run in table["without_result"]}
    assert apart.keys() == {"failed", "killed", "damaged"}
    assert apart["failed"] == "failed: training diverged"
    assert apart["killed"] == "unfinished"
    assert "damaged" in apart["damaged"]


def test_the_same_seed_twice_is_one_value(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    path, _ = folder
    for i in range(3):
        shutil.copytree(path / "0.1-0", tmp_path / str(i))
    (row,) = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)["finished"]
    assert (row["seeds"], row["runs"], row["test_std"]) == (1, 3, None)
    assert "1 (3 runs)" in call(scripts.results, tmp_path).stdout


def test_grouping_by_other_keys(folder: tuple[Path, Figures]) -> None:
    path, accuracies = folder
    rows = list(
        csv.DictReader(
            io.StringIO(call(scripts.results, path, "--group-by", "seed", "--format", "csv").stdout)
        )
    )
    assert {row["seed"] for row in rows} == {"0", "1", "2"}
    (both,) = [row for row in rows if row["seed"] == "0"]
    assert float(both["test_accuracy"]) == pytest.approx(fmean([accuracies["0.01", 0], accuracies["0.1", 0]]))
    answer = call(scripts.results, path, "--group-by", "optim.rl")
    assert answer.returncode == 2
    assert "Did you mean optim.lr?" in answer.stderr


def test_one_seed_has_no_spread_however_many_configurations_a_row_holds(
    folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    path, accuracies = folder
    copy_runs(path, tmp_path, "0.01-0", "0.1-0")
    answer = call(scripts.results, tmp_path, "--group-by", "model", "--format", "json")
    (row,) = json.loads(answer.stdout)["finished"]
    assert (row["seeds"], row["runs"], row["test_std"], row["test_95_low"]) == (1, 2, None, None)
    assert row["test_accuracy"] == pytest.approx(fmean([accuracies["0.01", 0], accuracies["0.1", 0]]))


def edited(path: Path, accuracy: float | None = None, **values: Any) -> None:
    """Set dotted keys (with __ for dots) of a run's config, and its test accuracy."""
    config = OmegaConf.load(path / "config.yaml")
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    OmegaConf.save(config, path / "config.yaml")
    metrics = json.loads((path / "metrics.json").read_text())
    metrics["seed"] = values.get("seed", metrics["seed"])
    if accuracy is not None:
        metrics["test"]["accuracy"] = accuracy
    (path / "metrics.json").write_text(json.dumps(metrics))


def test_folds_of_one_seed_have_a_spread(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    accuracies = (0.5, 0.7, 0.9)
    for fold, accuracy in enumerate(accuracies):
        shutil.copytree(folder[0] / "0.01-0", tmp_path / str(fold))
        edited(tmp_path / str(fold), accuracy, data__folds=3, data__fold=fold)
    (row,) = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)["finished"]
    assert (row["seeds"], row["folds"], row["mixes"], row["test_95_low"]) == (1, 3, "", None)
    assert row["test_accuracy"] == pytest.approx(fmean(accuracies))
    assert row["test_std"] == pytest.approx(stdev(accuracies))
    assert "70.00% ± 20.00 | - |" in (text := call(scripts.results, tmp_path).stdout)
    assert "one seed: ± over 3 folds" in text


def test_the_row_of_the_best_validation_accuracy_comes_first(
    folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    for name, val, test in (("0.01-0", 0.2, 0.9), ("0.1-0", 0.3, 0.1)):
        shutil.copytree(folder[0] / name, tmp_path / name)
        edited(tmp_path / name, test)
        path = tmp_path / name / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["val"]["accuracy"] = val
        path.write_text(json.dumps(metrics))
    rows = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)["finished"]
    assert [row["optim.lr"] for row in rows] == ["0.1", "0.01"]


MIXTURES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "epochs": ([{"trainer__max_epochs": n} for n in (1, 5, 50)], "trainer.max_epochs=1..50"),
    "a limit": ([{"data__train_subset": n} for n in (None, 100, None)], "data.train_subset=100,None"),
    "dropout": ([{"model__dropout": n} for n in (0.0, 0.5, 0.2)], "model.dropout=0.0..0.5"),
    "split": ([{"data__split_seed": n} for n in (0, 1, 2)], "data.split_seed=0..2"),
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_row_of_different_configurations_says_so_and_has_no_spread(
    kind: str, folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    changes, words = MIXTURES[kind]
    for seed, change in enumerate(changes):
        shutil.copytree(folder[0] / "0.01-0", tmp_path / str(seed))
        edited(tmp_path / str(seed), seed=seed, **change)
    arguments = (tmp_path, "--group-by", "model", "optim._target_")
    (row,) = json.loads(call(scripts.results, *arguments, "--format", "json").stdout)["finished"]
    assert (row["seeds"], row["mixes"]) == (3, words)
    assert row["test_std"] is row["test_95_low"] is row["test_95_high"] is None
    text = call(scripts.results, *arguments).stdout
    assert f"mixes {words}" in text
    assert "±" not in text


def test_one_folder_at_a_time(folder: tuple[Path, Figures]) -> None:
    for keys in ((), ("--group-by", "model")):
        answer = call(scripts.results, folder[0] / "0.01-0", folder[0] / "0.01-1", *keys)
        assert answer.returncode == 2
        assert answer.stderr == (
            f"error: {folder[0] / '0.01-1'}: one folder at a time; keys stand behind --group-by.\n"
        )


def test_seeds_alone_are_no_mixture(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    copy_runs(folder[0], tmp_path, "0.01-0", "0.01-1", "0.01-2")
    edited(tmp_path / "0.01-0", threads=7, name="other", output_dir="elsewhere")
    answer = call(scripts.results, tmp_path, "--group-by", "model", "--format", "json")
    (row,) = json.loads(answer.stdout)["finished"]
    assert row["mixes"] == ""
    assert row["test_std"] is not None


@pytest.mark.parametrize("accuracies", [(0.99, 1.0), (0.0, 0.05), (0.1, 0.9)])
def test_intervals_stay_within_0_and_1(
    accuracies: tuple[float, float], folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    for seed, accuracy in enumerate(accuracies):
        shutil.copytree(folder[0] / "0.01-0", tmp_path / str(seed))
        edited(tmp_path / str(seed), accuracy, seed=seed)
    (row,) = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)["finished"]
    assert 0 <= row["test_95_low"] < row["test_95_high"] <= 1


def test_trials_of_a_search_stand_apart_unless_they_alone_are_asked_for(
    folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    study = tmp_path / "tune" / "rate"
    copy_runs(folder[0], study, "0.01-1", "0.01-2")
    copy_runs(folder[0] / "apart", study, "failed")
    (study / "study.lock").touch()
    copy_runs(folder[0], tmp_path / "runs", "0.01-0")
    table = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)
    assert [row["runs"] for row in table["finished"]] == [1]
    assert table["searches"] == [{"folder": str(study), "trials": 3}]
    assert table["without_result"] == []
    assert "3 trials" in call(scripts.results, tmp_path).stdout
    assert "3 trials" in call(scripts.results, tmp_path, "--format", "csv").stderr
    (row,) = json.loads(call(scripts.results, study, "--format", "json").stdout)["finished"]
    assert row["runs"] == 2


def test_a_readable_table_has_a_handful_of_differences(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    keys = [f"further.key{i}" for i in range(12)]
    for number in range(2):
        shutil.copytree(folder[0] / "0.01-0", tmp_path / str(number))
        values = {key.replace(".", "__"): number for key in keys}
        config = OmegaConf.load(tmp_path / str(number) / "config.yaml")
        OmegaConf.update(config, "further", {}, force_add=True)
        OmegaConf.save(config, tmp_path / str(number) / "config.yaml")
        edited(tmp_path / str(number), **values)
    heading, _, first, *_ = call(scripts.results, tmp_path).stdout.splitlines()
    assert heading.count("|") <= 14
    assert "| also |" in heading
    assert "and 2 more" in first
    (row, _) = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)["finished"]
    assert set(keys) <= row.keys()


@pytest.mark.parametrize("content", ["[]", "{}", "null", "{"])
def test_a_file_that_is_no_metrics_is_listed_apart(
    content: str, folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    path, _ = folder
    copy_runs(path, tmp_path, "0.01-0", "0.1-0")
    (tmp_path / "0.1-0" / "metrics.json").write_text(content)
    table = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)
    assert len(table["finished"]) == 1
    assert "metrics.json is damaged" in table["without_result"][0]["reason"]


def test_a_run_of_before_a_key_was_added_has_its_old_value(
    folder: tuple[Path, Figures], tmp_path: Path
) -> None:
    path, _ = folder
    copy_runs(path, tmp_path, "0.01-0", "0.01-1")
    config = OmegaConf.load(tmp_path / "0.01-0" / "config.yaml")
    for key in ("label_smoothing", "ema_decay", "freeze"):
        config.pop(key)
    OmegaConf.save(config, tmp_path / "0.01-0" / "config.yaml")
    (row,) = json.loads(call(scripts.results, tmp_path, "--format", "json").stdout)["finished"]
    assert row["seeds"] == 2


def test_formats_and_files(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    path, _ = folder
    text = call(scripts.results, path).stdout
    assert "| optim.lr | n | test accuracy |" in text
    assert "Without a result (3):" in text
    assert "training diverged" in text
    for name in ("table.md", "table.csv", "table.json"):
        assert call(scripts.results, path, "-o", tmp_path / name).returncode == 0
    assert (tmp_path / "table.md").read_text() == text
    assert "training diverged" in call(scripts.results, path, "--format", "csv").stderr
    answer = call(scripts.results, path, "-o", tmp_path / "table.xls")
    assert answer.returncode == 2
    assert ".md, .csv, .json" in answer.stderr


def test_the_interval_is_students() -> None:
    """By hand: t(0.975, 2) = 4.3027; mean 0.9, standard deviation 0.01."""
    mean, std, interval = spread([0.89, 0.90, 0.91])
    assert (mean, std) == (pytest.approx(0.9), pytest.approx(0.01))
    assert interval == pytest.approx((0.9 - 4.3027 * 0.01 / 3**0.5, 0.9 + 4.3027 * 0.01 / 3**0.5), abs=1e-6)


def test_curves_of_one_run_and_of_several(
    folder: tuple[Path, Figures], run_copy: Path, tmp_path: Path
) -> None:
    path, _ = folder
    assert call(scripts.curves, run_copy).returncode == 0
    assert (run_copy / "curves.png").read_bytes().startswith(b"\x89PNG")
    output = tmp_path / "all.svg"
    several = [path / "0.01-0", path / "0.1-0", path / "apart" / "killed"]
    assert call(scripts.curves, *several, "-o", output).returncode == 0
    assert output.exists()
    assert "-o curves.png" in call(scripts.curves, *several).stderr
    assert ".png, .pdf, .svg" in call(scripts.curves, run_copy, "-o", tmp_path / "curves.txt").stderr


def test_history_is_read_as_it_was_written(run_copy: Path) -> None:
    history = read_history(run_copy)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert {"train_loss", "val_accuracy", "learning_rate"} <= set(history)


def test_the_page_stands_by_itself(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    path, accuracies = folder
    output = tmp_path / "report.html"
    answer = call(scripts.report, path / "0.01-0", path / "0.1-0", "-o", output)
    assert answer.returncode == 0, answer.stderr
    page = output.read_text()
    assert not re.search(r"(src|href)=.(?!data:|#)", page), "nothing is fetched from elsewhere"
    assert "<th>optim.lr</th>" in page
    assert f"{accuracies['0.1', 0]:.4f}" in page
    assert page.count("<img") == 1 + 2 * 6
    assert page.count('alt="architecture"') == 2
    assert "f1-score" in page
    assert page.index("best of 2, by val accuracy") < page.index("<table")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_click_on_a_heading_sorts_the_pages_table(folder: tuple[Path, Figures], tmp_path: Path) -> None:
    path, output = folder[0], tmp_path / "report.html"
    call(scripts.report, path / "0.01-0", path / "0.1-0", "-o", output)
    click = "<script>document.querySelector('th:nth-child(2) button').click()</script></body>"
    output.write_text(output.read_text().replace("</body>", click))
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    command = [
        str(CHROMIUM),
        *flags.split(),
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
        str(output),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    rows = re.findall(r'<tr><td><a href="#run-(\d)">', shown)
    assert rows == ["2", "1"], "the larger rate first"


def test_a_metric_of_ones_own_has_a_column_whatever_its_name_starts_with(run_copy: Path) -> None:
    metrics = json.loads((run_copy / "metrics.json").read_text())
    metrics["test"]["accuracy_top5"] = 0.9
    metrics["test_flipped"] = metrics["test"]
    (run_copy / "metrics.json").write_text(json.dumps(metrics))
    headings = call(scripts.results, run_copy.parent).stdout.splitlines()[0]
    assert "| test accuracy_top5 |" in headings
    assert "flipped" not in headings


def test_a_picture_of_any_number_of_layers_fits_into_memory() -> None:
    assert architecture_plot([Row("ReLU", (1,), 0)] * 2000).get_figheight() <= 300


def test_further_columns_are_those_that_were_asked_for(runs: dict[str, Path]) -> None:
    folder = runs["mlp4"]
    rows = list(csv.DictReader((folder / "history.csv").open()))
    metrics = json.loads((folder / "metrics.json").read_text())
    names = ("train_loss", "last_val_accuracy", "epochs", "final_rate")
    columns = [item for name in names for item in ("--columns", name)]
    (row,) = json.loads(call(scripts.results, folder, *columns, "--format", "json").stdout)["finished"]
    assert row["train_loss"] == pytest.approx(metrics["train"]["loss"])
    assert row["last_val_accuracy"] == pytest.approx(float(rows[-1]["val_accuracy"]))
    assert (row["epochs"], row["final_rate"]) == (3, float(rows[-1]["learning_rate"]))
    assert "last val accuracy | epochs | final rate" in call(scripts.results, folder, *columns).stdout
    answer = call(scripts.results, folder, "--columns", "last_val")
    assert answer.returncode == 2
    assert "--columns last_val: no run has such a number. Did you mean last_val_loss?" in answer.stderr
