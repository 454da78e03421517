"""Export a finished run's model: python scripts/export.py RUN (ONNX, with a model card beside it)."""

import argparse
import sys
from pathlib import Path

from fmnist_lit.data.sources import named_folder
from fmnist_lit.errors import exit_status, printable
from fmnist_lit.report.evaluation import evaluate, metrics
from fmnist_lit.report.model_card import model_card
from fmnist_lit.report.onnx_file import largest_difference, require_onnx, write_onnx
from fmnist_lit.report.own_files import own_folder, require_own
from fmnist_lit.report.prediction import Predictor
from fmnist_lit.report.run_directory import CHECKPOINTS, RunDirectory

FOLDS = 2  # the card names no folds


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Export a finished run's model to ONNX, and check the file.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="best")
    parser.add_argument(
        "--data", type=named_folder, metavar="FOLDER", help="of Fashion-MNIST, if not where the run says"
    )
    return parser.parse_args()


def export(path: Path, checkpoint: str, data: Path | None) -> None:
    """Write RUN/export/ with model.onnx and README.md, unless the file answers otherwise than the model."""
    require_onnx()
    run = RunDirectory(path, data)
    predictor = Predictor(run, checkpoint)
    run.metrics()  # before the long work: the card needs them
    require_own(path, "export")
    print("Evaluating the checkpoint on the test images ...")
    figures = metrics(evaluate(run, "test", checkpoint), FOLDS)
    images, _ = run.images("test")
    print("Exporting ...")
    with own_folder(path, "export") as folder:
        write_onnx(predictor, folder / "model.onnx")
        difference = largest_difference(folder / "model.onnx", predictor, images)
        (folder / "README.md").write_text(model_card(run, predictor, figures, difference))
    print(
        f"Same class as the checkpoint on all {len(images):,} test images; "
        f"largest difference of a probability {difference:.1e}."
    )
    print(f"model.onnx and its card README.md are in {printable(path / 'export')}")


def main() -> int:
    """Export one run."""
    chosen = arguments()
    return exit_status(lambda: export(chosen.run, chosen.checkpoint, chosen.data))


if __name__ == "__main__":
    sys.exit(main())
