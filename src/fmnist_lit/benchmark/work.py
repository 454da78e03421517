"""The work that every contender does: the same model, data, batches, optimizer and threads."""

from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir

from fmnist_lit import launch  # noqa: F401 (registers the resolvers that conf/ uses)
from fmnist_lit.config import check, resolved

CONF = Path(__file__).parents[3] / "conf"
MODELS = ("mlp4", "mlp_custom", "cnn_a", "cnn_b", "cnn_c")


class Work(NamedTuple):
    """What is trained in one measurement: one epoch of ``images`` training images."""

    model: str
    batch_size: int
    images: int
    threads: int
    device: str
    source: str | None

    def config(self) -> dict[str, Any]:
        """Compose the config of such a run: SGD with momentum, PyTorch's initialization, usual logging."""
        overrides = [
            f"model={self.model}",
            f"trainer={self.device}",
            f"data.batch_size={self.batch_size}",
            f"data.limit={self.images}",
            "data.val_fraction=0",
            "trainer.max_epochs=1",
            f"threads={self.threads}",
        ]
        overrides += [f"data.images.source={self.source}"] if self.source else []
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = resolved(compose("config", overrides))
        check(config)
        return config
