"""Export a finished run's model: python scripts/export.py RUN (ONNX, with a model card beside it)."""

import fmnist_lit.program  # noqa: F401 (first: see there)

import torch

from fmnist_lit.errors import printable
from fmnist_lit.readers.command import Checkpoint, Data, Run, Trust, command_line, take_free_threads
from fmnist_lit.readers.evaluate import evaluate, metrics
from fmnist_lit.readers.export import largest_difference, model_card, require_onnx, write_onnx
from fmnist_lit.readers.own_files import own_folder, require_own
from fmnist_lit.readers.predict import Predictor
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run_files import read_metrics

FOLDS = 2  # the card names no folds


@command_line
def main(run: Run, checkpoint: Checkpoint = "best", data: Data = None, trust: Trust = None) -> None:
    """Write RUN/export/ with model.onnx and README.md, unless the file answers otherwise than the model."""
    require_onnx()
    take_free_threads()
    directory = RunDirectory(run, data, trust or ())
    predictor = Predictor(directory, checkpoint)
    read_metrics(run)  # before the long work: the card needs them
    require_own(run, "export")
    print("Evaluating the checkpoint on the test images ...")
    evaluation = evaluate(directory, "test", checkpoint)
    images = torch.from_numpy(evaluation.images)
    print("Exporting ...")
    with own_folder(run, "export") as folder:
        write_onnx(predictor, folder / "model.onnx")
        difference = largest_difference(folder / "model.onnx", predictor, images)
        card = model_card(directory, predictor, metrics(evaluation, FOLDS), difference)
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(
        f"Same class as the checkpoint on all {len(images):,} test images; "
        f"largest difference of a probability {difference:.1e}."
    )
    print(f"model.onnx and its card README.md are in {printable(run / 'export')}")


if __name__ == "__main__":
    main()
