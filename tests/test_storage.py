"""Files that are whole or not there, when many want them at once and when the disk is full."""

import errno
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf

from fmnist_lit.allocator import keep_freed_memory
from fmnist_lit.checkpoints import LAST, WholeCheckpoints
from fmnist_lit.errors import Occupied, UserError
from fmnist_lit.launch import message
from fmnist_lit.run import claim
from fmnist_lit.storage import is_locked, locked, write_whole

MANY = 16


class Usage(NamedTuple):
    """What shutil.disk_usage answers."""

    total: int
    used: int
    free: int


def test_of_many_runs_that_start_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    def start(seed: int) -> int | None:
        try:
            claim(tmp_path, {"seed": seed})
        except Occupied:
            return None
        return seed

    with ThreadPoolExecutor(MANY) as pool:
        winners = [seed for seed in pool.map(start, range(MANY)) if seed is not None]
    assert len(winners) == 1
    assert OmegaConf.load(tmp_path / "config.yaml") == {"seed": winners[0]}
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_one_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with locked(tmp_path / "lock"):
            inside.append(number)
            assert is_locked(tmp_path / "lock")
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(work, range(MANY)))
    assert not is_locked(tmp_path / "lock")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_the_c_library_agrees_to_keep_memory() -> None:
    assert keep_freed_memory()


def no_space(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "history.csv", b"old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left") as full:
        write_whole(tmp_path / "history.csv", b"new")
    assert message(full.value) == f"{tmp_path / 'history.csv'}: No space left on device"
    assert (tmp_path / "history.csv").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.parametrize(("free", "reason"), [(0, "No space left on device"), (2**30, "unexpected pos 7")])
def test_a_checkpoint_that_cannot_be_written_says_why_and_leaves_the_old_one(
    free: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch reports a full disk as a position in its file."""

    def fail(*arguments: Any) -> None:
        raise RuntimeError("unexpected pos 7")

    checkpoints = WholeCheckpoints(writes=True)
    checkpoints.save_checkpoint({"epoch": 1}, tmp_path / LAST)
    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - free, free))
    with pytest.raises(UserError) as refused:
        checkpoints.save_checkpoint({"epoch": 2}, tmp_path / LAST)
    assert str(refused.value) == f"{tmp_path / LAST} cannot be written: {reason}"
    assert torch.load(tmp_path / LAST) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
