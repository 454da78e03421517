"""train.py, ended after its first training step: python -m fmnist_lit.benchmark.first_step [OVERRIDE...]."""

import os
import runpy
from pathlib import Path
from typing import Any

from fmnist_lit.classifier import Classifier


def leave(*arguments: Any) -> None:
    """End the process at once."""
    os._exit(0)


if __name__ == "__main__":
    Classifier.on_train_batch_end = leave  # type: ignore[assignment, method-assign]
    runpy.run_path(str(Path(__file__).parents[3] / "train.py"), run_name="__main__")
