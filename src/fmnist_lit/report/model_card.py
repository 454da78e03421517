"""A model card (Mitchell et al. 2019): what a model is, its training, how good it is, where it fails."""

from typing import Any

from fmnist_lit.build import build
from fmnist_lit.models.layer_table import layer_table, parameter_count
from fmnist_lit.report.prediction import Predictor
from fmnist_lit.report.results import markdown
from fmnist_lit.report.run_directory import RunDirectory


def model_card(run: RunDirectory, predictor: Predictor, figures: dict[str, Any], difference: float) -> str:
    """Return the card as Markdown.

    Args:
        figures: of ``evaluation.metrics`` on the test images.
        difference: largest difference of a probability between the file and the model.
    """
    return (
        "\n\n".join(
            [
                "# Model card",
                about(predictor, difference),
                "## Layers\n\n" + layers(run),
                "## Training\n\n" + training(run),
                "## Test figures\n\n" + test_figures(figures),
                "## Intended use\n\nTeaching and research on image classification: "
                "comparisons, demonstrations, latency measurements.",
                limits(figures),
            ]
        )
        + "\n"
    )


def about(predictor: Predictor, difference: float) -> str:
    """Say what the file takes and gives."""
    return (
        f"A network of {parameter_count(predictor.model):,} trainable parameters that names the garment in a "
        "28x28 grey image, one of the ten classes of Fashion-MNIST.\n\n"
        "- Input `images`: uint8, (n, 28, 28), any n; light garment on black, 0 to 255. "
        "Normalization is inside.\n"
        "- Output `probabilities`: float32, (n, 10).\n"
        "- Same class as the PyTorch checkpoint on every test image; largest difference of a "
        f"probability {difference:.1e}."
    )


def layers(run: RunDirectory) -> str:
    """Return the layer table, in the model's own order."""
    rows = [
        f"| {row.layer} | {', '.join(map(str, row.output))} | {row.parameters:,} |"
        for row in layer_table(build(run.config["model"]))
    ]
    return "\n".join(["| layer | output | parameters |", "|---|---|---|", *rows])


def training(run: RunDirectory) -> str:
    """Say with what data and settings the model was trained."""
    data, optimizer, trainer = run.config["data"], dict(run.config["optim"]), run.config["trainer"]
    name = optimizer.pop("_target_").rpartition(".")[2]
    settings = ", ".join(f"{key} {markdown(value)}" for key, value in optimizer.items())
    images = data["images"]["_target_"].rpartition(".")[2]
    held_out = f"{data['val_fraction']:.0%} of the training images held out for validation"
    recorded = run.metrics()
    return (
        f"Data: `{images}`; {held_out if data['val_fraction'] else 'all training images, no validation'}. "
        f"{name} ({settings}), batches of {data['batch_size']}, {trainer['max_epochs']} epochs at most, seed "
        f"{run.config['seed']}. Commit {markdown(recorded['commit'])}; {markdown(recorded['device'])}. "
        "Everything else: config.yaml of the run."
    )


def test_figures(figures: dict[str, Any]) -> str:
    """Return overall and per-class figures."""
    low, high = figures["accuracy_95_interval"]
    rows = [
        f"| {name} | {f['precision']:.3f} | {f['recall']:.3f} | {f['f1']:.3f} |"
        for name, f in figures["classes"].items()
    ]
    return "\n".join(
        [
            f"Accuracy {figures['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}, Wilson) on "
            f"{figures['images']:,} images, loss {figures['loss']:.4f}, top-2 accuracy "
            f"{figures['top_2_accuracy']:.4f}, expected calibration error "
            f"{figures['expected_calibration_error']:.4f}. One run (n = 1).\n",
            "| class | precision | recall | F1 |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def limits(figures: dict[str, Any]) -> str:
    """Name what the model cannot do, with its weakest class."""
    weakest, f = min(figures["classes"].items(), key=lambda item: item[1]["recall"])
    return (
        "## Limits\n\n"
        f"- Weakest class: {weakest}, of which it finds {f['recall']:.0%}.\n"
        "- It knows ten classes and names one of them whatever the picture shows; its probabilities "
        "say nothing of pictures unlike the data set's (catalogue photographs of single garments, centred, "
        "on plain ground).\n"
        "- Not for decisions about people."
    )
