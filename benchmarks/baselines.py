"""What is measured: this project, and what it is compared with; each in a process of its own, in turn.

``python benchmarks/baselines.py NAME WORK`` says "ready" when it is warm. It answers each line "measure" with
images per second and its peak memory in MiB. WORK is a Work as JSON.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import fmnist_lit
from fmnist_lit import app, run  # noqa: F401 (app registers the resolvers that conf/ uses)
from fmnist_lit.allocator import keep_freed_memory
from fmnist_lit.check import check
from fmnist_lit.config import resolved
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.dataset import PIXEL_MEAN, PIXEL_STD

CONF = Path(fmnist_lit.__file__).parents[2] / "conf"  # of the checkout that is measured
Epoch = Callable[[], object]


class Work(NamedTuple):
    """What all do: epochs of some training images, with SGD and PyTorch's initialization."""

    model: str
    batch_size: int
    images: int
    threads: int
    device: str = "cpu"
    source: str | None = None

    def config(self) -> dict[str, Any]:
        """Compose the config of such a run, without validation, with the usual logging."""
        overrides = [f"model={self.model}", f"trainer={self.device}", f"threads={self.threads}"]
        overrides += [f"data.batch_size={self.batch_size}", "data.val_fraction=0"]
        overrides += ["trainer.max_epochs=1000000"]
        overrides += [f"data.images.source={self.source}"] if self.source else []
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = resolved(compose("config", overrides))
        config["data"]["train_subset"] = self.images
        check(config)
        return config


def answer(work: Work, seconds: float | None = None) -> None:
    """Say what the last epoch took; then wait until another is wanted, or end the process."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("ready" if seconds is None else f"{work.images / seconds} {memory}", flush=True)
    if input() != "measure":
        raise SystemExit


class Turns(L.Callback):
    """Lets a run train an epoch whenever one is wanted; what comes between two epochs counts."""

    def __init__(self, work: Work) -> None:
        self.work, self.started = work, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Answer, and wait; the first epoch warms up."""
        if trainer.current_epoch:
            answer(self.work, time.perf_counter() - self.started if trainer.current_epoch > 1 else None)
        self.started = time.perf_counter()


def project(work: Work) -> None:
    """Train with this project: a run with history, TensorBoard and checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        directory.mkdir()
        run.run(work.config(), directory, {}, "", callbacks=[Turns(work)])


def train(
    model: nn.Module, optimizer: Optimizer, batches: Iterable[Any], device: torch.device, read: bool = False
) -> None:
    """Train for an epoch in a plain loop."""
    for images, labels in batches:
        loss = cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if read:
            loss.item()


def data_on(device: torch.device, config: Mapping[str, Any]) -> DataModule:
    """Return this project's data, on a device without a trainer."""
    data = run.build_data(config)
    data.setup()
    for name, (images, labels) in data.splits.items():
        data.splits[name] = images.to(device), labels.to(device)
    return data


def bare(work: Work, config: Mapping[str, Any], device: torch.device) -> Epoch:
    """The same without Lightning: same batches, model, memory format and optimizer in a plain loop."""
    keep_freed_memory()
    batches = data_on(device, config).train_dataloader()
    model = run.build_classifier(config).model.to(device).train()
    return partial(train, model, run.build_optimizer(config, model.parameters()), batches, device)


def reports(work: Work, config: Mapping[str, Any], device: torch.device, workers: int) -> Epoch:
    """As the reports did: torchvision's transforms for each sample in a DataLoader, PyTorch's own layers."""
    run.build_data(config)  # the files are there and whole
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((PIXEL_MEAN,), (PIXEL_STD,))])
    images = datasets.FashionMNIST(config["data"]["images"]["folder"], transform=steps)
    loader: DataLoader[Any] = DataLoader(
        Subset(images, range(work.images)), work.batch_size, shuffle=True, num_workers=workers
    )
    model = run.build(config["model"], "model").to(device).train()
    optimizer = run.build(config["optim"], "optim", model.parameters())
    return partial(train, model, optimizer, loader, device, read=True)


def evaluation(work: Work, config: Mapping[str, Any], device: torch.device) -> Epoch:
    """This project's evaluation of the training images, as after every epoch."""
    batches = data_on(device, config).evaluation_loader("train")
    model = run.build_classifier(config).model.to(device).eval()
    return torch.inference_mode()(lambda: [model(batch[0]).argmax(1).tolist() for batch in batches])


def keras(work: Work, config: Mapping[str, Any], device: torch.device) -> Epoch:
    """Keras on TensorFlow, arrays in memory."""
    from keras_models import compiled

    images = run.build_data(config).images
    pixels = ((images.train[: work.images, ..., None] / 255 - PIXEL_MEAN) / PIXEL_STD).numpy()
    labels = images.train_labels[: work.images].numpy()
    fit = compiled(work.model, work.threads).fit
    return partial(fit, pixels, labels, batch_size=work.batch_size, epochs=1, verbose=0)


BASELINES: Mapping[str, Callable[[Work, Mapping[str, Any], torch.device], Epoch]] = {
    "bare": bare,
    "reports_0": partial(reports, workers=0),
    "reports_2": partial(reports, workers=2),
    "keras": keras,
    "evaluation": evaluation,
}


def serve(name: str, work: Work) -> None:
    """Go through an epoch whenever one is wanted; the first warms up."""
    if name == "fmnist_lit":
        project(work)
    device = torch.device("cuda" if work.device == "gpu" else "cpu")
    if name != "keras":
        torch.set_num_threads(work.threads)
    epoch = BASELINES[name](work, work.config(), device)
    epoch()
    answer(work)
    while True:
        started = time.perf_counter()
        epoch()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        answer(work, time.perf_counter() - started)


if __name__ == "__main__":
    serve(sys.argv[1], Work(**json.loads(sys.argv[2])))
