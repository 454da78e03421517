"""Types of values, as signatures name them: a config is checked by these."""

from re import fullmatch
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field


def folder_name(text: str) -> str:
    """Return a name that a folder can have anywhere, and that steers no shell and no terminal.

    Raises:
        ValueError: it is none; the message says what is.
    """
    if not fullmatch(r"\w[\w.-]*", text) or len(text.encode()) > 200:
        raise ValueError("letters, digits, dots, - and _, 200 bytes at most")
    return text


def refuse_typed(value: object) -> None:
    """Refuse a value where a node belongs.

    Raises:
        ValueError: always.
    """
    raise ValueError("a node with a _target_")


Node = Annotated[Any, AfterValidator(refuse_typed)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Natural = Annotated[int, Field(ge=0, le=2**31)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
AtLeastOne = Annotated[float, Field(ge=1)]
FolderName = Annotated[str, AfterValidator(folder_name)]
# A number of batches, or a share of them; nobody trains on none.
SomeBatches = Natural | Probability
TrainBatches = Count | Annotated[float, Field(gt=0, le=1)]

# What the signatures of PyTorch and Lightning leave out, by argument.
LIMITS = {
    "accumulate_grad_batches": Count,
    "alpha": Share,
    "betas": tuple[Share, Share],
    "check_val_every_n_epoch": Count | None,
    "devices": Count,
    "eps": Positive,
    "gamma": Positive,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "gradient_clip_val": NotNegative | None,
    "limit_test_batches": SomeBatches | None,
    "limit_train_batches": TrainBatches | None,
    "limit_val_batches": SomeBatches | None,
    "lr": Positive,
    "max_epochs": Count,
    "momentum": Share,
    "num_nodes": Count,
    "overfit_batches": SomeBatches,
    "step_size": Count,
    # Others start processes by a launcher of their own.
    "strategy": Literal["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"],
    "weight_decay": NotNegative,
}
