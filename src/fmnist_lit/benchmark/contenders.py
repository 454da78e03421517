"""The contenders in PyTorch. Each is made once and then measured several times; it returns seconds."""

import logging
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from fmnist_lit import run
from fmnist_lit.allocator import keep_freed_memory
from fmnist_lit.benchmark.work import Work
from fmnist_lit.build import build
from fmnist_lit.checkpoints import ResumePoints
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.images import PIXEL_MEAN, PIXEL_STD
from fmnist_lit.history import History, now
from fmnist_lit.interrupt import Signals
from fmnist_lit.trainer import build_trainer, quiet_lightning

Measurement = Callable[[], float]


class Clock(L.Callback):
    """Takes the time from the first training step to the end of the last epoch, logging and all."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self.started = now(pl_module.device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self.seconds = now(pl_module.device) - self.started


def device_of(work: Work) -> torch.device:
    """Return the device that is measured."""
    return torch.device("cuda" if work.device == "gpu" else "cpu")


def data_on(device: torch.device, config: Mapping[str, Any]) -> DataModule:
    """Return this project's data, ready on a device without a trainer."""
    data = run.build_data(config)
    data.setup()
    data.parts = {
        name: (images.to(device), labels.to(device)) for name, (images, labels) in data.parts.items()
    }
    return data


def project(work: Work) -> Measurement:
    """This project: ``Trainer.fit`` with history, TensorBoard, progress and checkpoints."""
    config = work.config()
    quiet_lightning()
    logging.getLogger("fmnist_lit").setLevel(logging.WARNING)
    data = run.build_data(config)

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            every_s = config["callbacks"]["save_every_s"]
            resume_points = ResumePoints(directory / "checkpoints", every_s, Signals())
            history = History(directory / "history.csv")
            trainer = build_trainer(config, directory, history, [resume_points])
            clock = Clock()
            trainer.callbacks.append(clock)  # type: ignore[attr-defined]
            trainer.fit(run.build_classifier(config), datamodule=data)
        return clock.seconds

    return measure


def bare_loop(work: Work) -> Measurement:
    """The same without the Trainer: same batches, model, memory format and optimizer."""
    config, device = work.config(), device_of(work)
    data = data_on(device, config)

    def measure() -> float:
        model = run.build_classifier(config).model.to(device).train()
        optimizer = run.build_optimizer(config, model.parameters())
        started = now(device)
        for images, labels in data.train_batches():
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return now(device) - started

    return measure


def reports_loop(work: Work, workers: int) -> Measurement:
    """As the reports did: torchvision's transforms for each sample in a DataLoader, a plain loop."""
    config, device = work.config(), device_of(work)
    build(config["data"]["images"])  # the files are there and whole
    steps = [transforms.ToTensor(), transforms.Normalize((PIXEL_MEAN,), (PIXEL_STD,))]
    images = datasets.FashionMNIST(config["data"]["images"]["folder"], transform=transforms.Compose(steps))
    loader: DataLoader[Any] = DataLoader(
        Subset(images, range(work.images)), batch_size=work.batch_size, shuffle=True, num_workers=workers
    )

    def measure() -> float:
        model = build(config["model"]).to(device).train()
        optimizer = build(config["optim"], model.parameters())
        total = 0.0
        started = now(device)
        for batch, labels in loader:
            loss = cross_entropy(model(batch.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        return now(device) - started

    return measure


def evaluation(work: Work) -> Measurement:
    """This project's evaluation of the training images, as after every epoch."""
    config, device = work.config(), device_of(work)
    data = data_on(device, config)
    model = run.build_classifier(config).model.to(device).eval()

    def measure() -> float:
        started = now(device)
        with torch.inference_mode():
            hits = sum(
                (model(images).argmax(1) == labels).sum()
                for images, labels in data.evaluation_loader("train")
            )
        assert int(hits) <= work.images
        return now(device) - started

    return measure


def keras(work: Work) -> Measurement:
    """Keras on TensorFlow, arrays in memory."""
    from fmnist_lit.benchmark.keras_models import fit

    config = work.config()
    images = build(config["data"]["images"])
    pixels = (images.train[: work.images].numpy() / 255 - PIXEL_MEAN) / PIXEL_STD
    return fit(work, pixels.astype("float32"), images.train_labels[: work.images].numpy())


CONTENDERS: Mapping[str, Callable[[Work], Measurement]] = {
    "project": project,
    "bare": bare_loop,
    "reports_0": lambda work: reports_loop(work, 0),
    "reports_2": lambda work: reports_loop(work, 2),
    "keras": keras,
    "evaluation": evaluation,
}


def peak_memory_mib() -> float:
    """Return the largest resident memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(name: str, work: Work) -> None:
    """Measure once for each line of standard input; answer with images per second and MiB."""
    if name != "keras":
        torch.set_num_threads(work.threads)
    if name in ("project", "bare"):  # the limit of this project's own loop, only the Trainer removed
        keep_freed_memory()
    measure = CONTENDERS[name](work)
    measure()  # warm up: caches, allocations, thread pools
    print("ready", flush=True)
    while input() == "measure":
        print(work.images / measure(), peak_memory_mib(), flush=True)


if __name__ == "__main__":
    values = dict(item.partition("=")[::2] for item in sys.argv[2:])
    serve(
        sys.argv[1],
        Work(
            model=values["model"],
            batch_size=int(values["batch_size"]),
            images=int(values["images"]),
            threads=int(values["threads"]),
            device=values["device"],
            source=values.get("source") or None,
        ),
    )
