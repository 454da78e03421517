"""Ctrl-C and SIGTERM: training finishes its step and saves; anything else stops at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        """Handle signals here, whoever handles them now."""
        for number in SIGNALS:
            signal.signal(number, self.received)

    def received(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, or stop."""
        if self.deferred and (self.number is None or self.patient):
            self.number = self.number or number
            return
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
    """Handle SIGINT and SIGTERM here, then leave them as they were."""
    signals = Signals(patient)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    signals.own()
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
