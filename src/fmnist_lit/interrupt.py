"""Ctrl-C, SIGTERM and their like: training finishes its step and saves; anything else stops at once."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ctrl-C, the end of a job; of a terminal; of a batch system's patience, which each has its own signal for.
ALWAYS = (signal.SIGINT, signal.SIGTERM)
SIGNALS = (*ALWAYS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Interrupted(BaseException):
    """A signal ended the run. Not an Exception: nothing that handles failures may take it for one.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.status = 128 + number  # as a shell reports it

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        """Let it pass from one process to another."""
        return Interrupted, (self.number,)


class Signals:
    """What to do when a signal comes, and which one came.

    ``deferred`` says that somebody asks for ``number`` soon, so that a signal need not stop the program.
    A second signal stops it in any case.

    Args:
        patient: not even a second signal stops it; for a rank, which gets each from several sides.
    """

    def __init__(self, patient: bool = False) -> None:
        self.deferred, self.patient = False, patient
        self.number: int | None = None

    def own(self) -> None:
        """Handle signals here, whoever handles them now. What nohup has switched off stays so."""
        for number in SIGNALS:
            if number in ALWAYS or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.received)

    def received(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, and stop if nobody asks for it soon.

        It is noted in any case: Python lets no exception out of a weak reference's callback or a ``__del__``.
        """
        waits = self.deferred and (self.number is None or self.patient)
        self.number = self.number or number
        if not waits:
            raise Interrupted(number)

    def check(self) -> None:
        """Stop if a signal came.

        Raises:
            Interrupted: one did.
        """
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def own_signals(patient: bool = False) -> Iterator[Signals]:
    """Handle SIGNALS here, then leave them as they were.

    Raises:
        Interrupted: a signal was noted, here or by whoever handled them before, and nobody has asked for it;
            its cause is the failure meanwhile.
    """
    signals = Signals(patient)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    for handler in before.values():
        if isinstance(outer := getattr(handler, "__self__", None), Signals):
            outer.check()
    signals.own()
    try:
        yield signals
        signals.deferred = False  # from here on each stops the program at once
        signals.check()
    except Exception as error:
        signals.deferred = False
        if signals.number is not None:
            raise Interrupted(signals.number) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_parent(parent: int | None = None) -> None:
    """Let a process end when the command that started it has, however that ended.

    What it works at gets SIGTERM, so that it saves; no other job of a sweep is begun.

    Args:
        parent: the process to follow; None: that of a sweep, whose worker this is, if it is one.
    """
    starter = multiprocessing.parent_process()
    parent = starter.pid if parent is None and starter else parent
    if parent is None:
        return
    if os.getppid() != parent:
        signal.raise_signal(signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # the job saves
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    if not any(thread.name == watch.__qualname__ for thread in threading.enumerate()):
        threading.Thread(target=watch, name=watch.__qualname__, daemon=True).start()
