"""The claims of the reports, each answered by paired runs: an effect, its interval, and a verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pandas import DataFrame, Series
from pydantic import BaseModel, ConfigDict

from fmnist_lit.readers.records import overridden
from fmnist_lit.readers.spread import Spread, spread
from fmnist_lit.readers.text import render

Keys = dict[str, str]
Verdict = Literal["agrees", "contradicts", "cannot be told", "not run", "not tested"]


class Claim(BaseModel):
    """A sentence of a report, and what of our runs answers it.

    Args:
        study: whose runs are compared; None: those of experiments.
        figure: what is compared: an accuracy in percent ("val", "test", "train", "last_val"), a loss
            ("val_loss"), "gap" (train less test accuracy), "epochs", "minutes"; "val@3" is that of epoch 3.
        first: overrides (or the experiment) that the claim is about.
        second: those it is held against; of several, the one that is best in validation. None: ``limit``.
        best: a key of which each side has its best value in validation.
        expected: of first less second.
        margin: how far apart is still the same.
        limit: a number that first is held against.
        reason: why no run answers it.
    """

    model_config = ConfigDict(extra="forbid")

    report: str
    claim: str
    study: str | None = None
    figure: str = "val"
    first: Keys = {}
    second: list[Keys] = []
    best: str | None = None
    expected: Literal["more", "less", "same"] = "more"
    margin: float = 0.4
    limit: float | None = None
    reason: str | None = None


class Answer(NamedTuple):
    """What runs say of a claim."""

    effect: Spread | None
    n: int
    verdict: Verdict


def read_claims(path: Path) -> list[Claim]:
    """Read all claims; none where there is no such file."""
    known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Claim.model_validate(claim) for claim in known]


def answer(claim: Claim, tables: Mapping[str | None, DataFrame]) -> Answer:
    """Hold a claim against the runs there are.

    Args:
        tables: of each study; under None that of experiments.
    """
    if claim.reason:
        return Answer(None, 0, "not tested")
    table = tables.get(claim.study)
    differences = compared(claim, table) if table is not None else Series(dtype=float)
    if differences.empty:
        return Answer(None, 0, "not run")
    effect = spread(differences.tolist())
    return Answer(effect, len(differences), verdict(claim, effect))


def compared(claim: Claim, table: DataFrame) -> "Series[float]":
    """Return first less second, or less the limit, of each pair of runs that are alike in all else."""
    first = side(claim.first, claim.best, table)
    if claim.limit is not None and claim.figure in first:
        return (first[claim.figure] - claim.limit).dropna()
    sides = [rows for keys in claim.second if len(rows := side(keys, claim.best, table))]
    if first.empty or not sides or claim.figure not in table:
        return Series(dtype=float)
    second = max(sides, key=lambda rows: rows[judged(rows)].mean())
    named = {*claim.first, *(key for keys in claim.second for key in keys), claim.best}
    alike = [key for key in (*overridden(table), "experiment", "seed") if key not in named]
    return (first.set_index(alike)[claim.figure] - second.set_index(alike)[claim.figure]).dropna()


def side(keys: Keys, best: str | None, table: DataFrame) -> DataFrame:
    """Return the runs of one side, each model (or whatever else differs) with the best value of a key."""
    rows = table
    for key, value in keys.items():
        rows = rows[rows[key] == value] if key in rows else rows.head(0)
    if rows.empty or best is None:
        return rows
    others = [key for key in (*overridden(rows), "experiment") if key not in (*keys, best)]
    by = judged(rows)
    means = rows.groupby([*others, best])[by].mean().reset_index()
    chosen = means.loc[means.groupby(others)[by].idxmax()]
    return rows.merge(chosen[[*others, best]], on=[*others, best])


def judged(rows: DataFrame) -> str:
    """Return the figure by which runs are chosen: validation accuracy where there is any."""
    return "val" if rows["val"].notna().any() else "test"


def verdict(claim: Claim, effect: Spread) -> Verdict:
    """Say what an effect's interval means for a claim."""
    if effect.interval is None:
        return "cannot be told"
    low, high = effect.interval
    if claim.expected == "same":
        if -claim.margin <= low and high <= claim.margin:
            return "agrees"
        return "contradicts" if low > claim.margin or high < -claim.margin else "cannot be told"
    low, high = (low, high) if claim.expected == "more" else (-high, -low)
    return "agrees" if low > 0 else "contradicts" if high < 0 else "cannot be told"


def claims_table(claims: Sequence[Claim], tables: Mapping[str | None, DataFrame]) -> str:
    """Return a row for each claim."""
    answers = [(claim, answer(claim, tables)) for claim in claims]
    return render("claims_table.md", answers=answers, comparison=comparison)


def comparison(claim: Claim) -> str:
    """Say what is held against what."""
    if claim.reason:
        return "-"
    both = (claim.first, *claim.second)
    sides = [" ".join(f"{key}={value}" for key, value in keys.items()) for keys in both]
    against = f"{claim.limit:g}" if claim.limit is not None else " or ".join(sides[1:])
    best = f", each at its best {claim.best}" if claim.best else ""
    return f"{claim.figure}: {sides[0] or 'all'} less {against}{best}"
