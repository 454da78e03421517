"""Mean, deviation and interval of repeated measurements, as numbers and as text."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t as student


class Spread(NamedTuple):
    """Mean, standard deviation and 95% interval of the mean; the last two are None for one value."""

    mean: float
    std: float | None
    interval: tuple[float, float] | None

    def mean_text(self, form: str = ".2f") -> str:
        """Return the mean with its standard deviation."""
        return f"{self.mean:{form}}" + ("" if self.std is None else f" ± {self.std:{form}}")

    def interval_text(self, form: str = ".2f") -> str:
        """Return the ends of the interval."""
        return "-" if self.interval is None else " to ".join(f"{end:{form}}" for end in self.interval)


def spread(values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)) -> Spread:
    """Return mean, standard deviation (n - 1) and Student's 95% interval of the mean, cut to its limits."""
    mean = fmean(values)
    if len(values) < 2:
        return Spread(mean, None, None)
    std = stdev(values)
    half = float(student.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(mean, std, (max(limits[0], mean - half), min(limits[1], mean + half)))
