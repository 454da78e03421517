"""Reads a checkpoint that may be damaged, or made by anybody."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fmnist_lit.errors import UserError


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint if each of its bytes is what was written; no code in it is run.

    Raises:
        UserError: it is missing or damaged, or holds more than weights and plain values.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint.")
    try:
        with path.open("rb") as file:
            require_intact(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a file that is refused anyway
                checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
            raise ValueError("it has no state_dict")
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} was not loaded: it is damaged, or holds more than weights.") from error
    except Exception as error:  # there are many words for a damaged file, and two parsers
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no checkpoint: {reason}") from error
    return checkpoint


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights under the model's own names: the average's, if there is one."""
    weights = {str(key): value for key, value in checkpoint["state_dict"].items()}
    prefix = "averaged.module." if "averaged.n_averaged" in weights else "model."
    return {
        key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix) and isinstance(value, torch.Tensor)
    }


def require_intact(file: BinaryIO) -> None:
    """Compare the checksum of every record, as PyTorch's own reader does not.

    Raises:
        ValueError: a record is not of the kind that PyTorch writes; it may expand to gigabytes.
        BadZipFile: a checksum differs, or it is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        for record in archive.infolist():  # not testzip, which looks for records by name: it may be damaged
            if record.compress_type or record.external_attr:  # compressed, or none of PyTorch's own files
                raise ValueError(f"{record.filename} is no record of a checkpoint")
            with archive.open(record) as content:
                while content.read(2**20):
                    pass
