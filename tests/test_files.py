"""Files that are whole or not there, when many want them at once and when the disk is full."""

import errno
import fcntl
import os
import platform
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from fmnist_lit import files
from fmnist_lit.allocator import keep_freed_memory
from fmnist_lit.app import message
from fmnist_lit.checkpoints import LAST, PREVIOUS, AtomicCheckpointIO
from fmnist_lit.errors import Occupied, UserError
from fmnist_lit.files import (
    is_locked,
    locked,
    require_all_inside,
    require_inside,
    whole_folder,
    write_json,
    write_new,
    write_whole,
)
from fmnist_lit.run import claim
from fmnist_lit.weights import load_checkpoint

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


def test_a_lock_is_seen_and_nothing_is_written_to_see_it(tmp_path: Path) -> None:
    lock, mine = tmp_path / ".lock", tmp_path / "mine"
    assert not is_locked(lock)
    assert not lock.exists()
    with FileLock(lock):
        assert is_locked(lock)
    assert not is_locked(lock)
    mine.write_text("mine")
    lock.unlink()
    lock.symlink_to(mine)
    assert not is_locked(lock)
    assert mine.read_text() == "mine"


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

    checkpoints = AtomicCheckpointIO()
    checkpoints.save_checkpoint({"epoch": 1}, tmp_path / LAST)
    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - free, free))
    with pytest.raises(UserError) as refused:
        checkpoints.save_checkpoint({"epoch": 2}, tmp_path / LAST)
    assert str(refused.value) == f"{tmp_path / LAST} cannot be written: {reason}"
    assert torch.load(tmp_path / LAST) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


@pytest.mark.parametrize("link", ["evaluation", "last.part", "dangling", "climbs", "inner/../../out"])
def test_nothing_is_written_through_a_link_that_leads_out(link: str, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    outside.mkdir()
    (outside / "file").write_text("mine")
    made = {
        "evaluation": ("evaluation", outside),
        "last.part": ("checkpoints/last.part", outside / "file"),
        "dangling": ("history.csv", tmp_path / "new"),
        "climbs": ("a/b", "../../.."),
        "inner/../../out": ("deep/er/export", "../../../out"),
    }[link]
    place = run / made[0]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(made[1])
    with pytest.raises(UserError, match="leads out of the run directory by a link"):
        require_inside(run, place / "test")
    with pytest.raises(UserError, match="leads out of the run directory by a link"):
        require_all_inside(run)


def test_a_run_behind_a_link_and_links_inside_it_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real" / "checkpoints").mkdir(parents=True)
    (tmp_path / "real" / "best").symlink_to("checkpoints")
    (tmp_path / "run").symlink_to("real")
    require_all_inside(tmp_path / "run")
    assert require_inside(tmp_path / "run", tmp_path / "run" / "best" / "x") == tmp_path / "run/best/x"


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "history.csv").symlink_to("mine")
    write_whole(tmp_path / "history.csv", b"rows")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "history.csv").read_bytes() == b"rows"
    assert not (tmp_path / "history.csv").is_symlink()


WRITERS: dict[str, Callable[[Path], None]] = {
    "metrics.json": lambda path: write_json(path, 1),
    "history.csv": lambda path: write_whole(path, b"rows"),
    "config.yaml": lambda path: write_new(path, b"seed: 0"),
    LAST: lambda path: AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, path),
    "best.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_content_then_name_are_on_the_disk_when_a_writer_returns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves an empty file of what was only renamed, and no name that its folder has not kept."""
    done: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = tmp_path / name
        done.append(
            f"{os.readlink(f'/proc/self/fd/{descriptor}')}, {'named' if path.exists() else 'unnamed'}"
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    WRITERS[name](tmp_path / name)
    content, folder = done
    assert content.startswith(f"{tmp_path}/.{name}.")
    assert content.endswith(", unnamed")
    assert folder == f"{tmp_path}, named"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_flipped_bit_anywhere_in_a_checkpoint_changes_no_figure(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": {"a": torch.rand(40, dtype=dtype), "b": torch.rand(3, dtype=dtype)}}, path)
    content, weights = path.read_bytes(), load_checkpoint(path)["state_dict"]
    refused = 0
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            bit = 1 << position % 8 if position % 3 else 16  # 16 makes a folder of a record
            os.pwrite(file.fileno(), bytes([byte ^ bit]), position)
            try:
                found = load_checkpoint(path)["state_dict"]
            except UserError:
                refused += 1
            else:
                assert all(torch.equal(found[name], weight) for name, weight in weights.items())
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert refused > len(content) / 4


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    """It may expand to gigabytes."""
    torch.save({"state_dict": {"a": torch.zeros(100_000)}}, tmp_path / "plain")
    with ZipFile(tmp_path / "plain") as plain, ZipFile(tmp_path / "best.ckpt", "w", ZIP_DEFLATED) as small:
        for record in plain.infolist():
            small.writestr(record.filename, plain.read(record))
    with pytest.raises(UserError, match="is no record of a checkpoint"):
        load_checkpoint(tmp_path / "best.ckpt")


def refusing(number: int) -> Callable[..., None]:
    """Return what a file system does that cannot do something."""

    def refuse(*arguments: Any, **further: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_or_modes_holds_runs_too(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("link", "chmod"):
        monkeypatch.setattr(os, call, refusing(number))
    test_of_many_runs_that_start_at_once_one_gets_the_directory(tmp_path)
    checkpoints = AtomicCheckpointIO()
    for epoch in (1, 2):
        checkpoints.save_checkpoint({"epoch": epoch}, tmp_path / LAST)
    assert [torch.load(tmp_path / name) for name in (PREVIOUS, LAST)] == [{"epoch": 1}, {"epoch": 2}]
    with whole_folder(tmp_path / "export") as folder:
        (folder / "file").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", PREVIOUS, LAST, "export"}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF])
def test_a_file_system_without_locks_holds_runs_too_and_says_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    for waiting in ("", "Waiting ..."):
        with locked(tmp_path / ".lock", waiting):
            pass
    assert not is_locked(tmp_path / ".lock")
    assert number == errno.ENOSYS or "no locks on this file system" in caplog.text


def test_who_waits_for_a_lock_says_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(files, "PATIENCE_S", 0.01)
    held = FileLock(tmp_path / ".lock")
    held.acquire()
    monkeypatch.setattr(files.log, "info", lambda *said: (log.append(said), held.release()))
    log: list[Any] = []
    with locked(tmp_path / ".lock", "Waiting for another process ..."):
        assert log == [("%s (lock: %s)", "Waiting for another process ...", tmp_path / ".lock")]
    held.acquire()
    with pytest.raises(Timeout), locked(tmp_path / ".lock"):
        raise AssertionError("two have it")
    held.release()


def test_what_a_killed_process_left_goes_when_the_same_is_written_again(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".a.json.1.part", ".a.json.2.part", ".b.json.1.part"))
    folder = tmp_path / ".export.1.part"
    folder.mkdir()
    for path in (old, new, other, folder / "file"):
        path.touch()
    for path in (old, other, folder):
        os.utime(path, (0, 0))
    write_json(tmp_path / "a.json", {})
    with whole_folder(tmp_path / "export"):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.json", "export", new.name, other.name}  # another process may be writing it now
