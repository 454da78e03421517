"""Where a run's messages go: to the terminal, and dated into the run directory's train.log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fmnist_lit.errors import flush_output


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stdout is at the time, so that a progress bar can make room for a line."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The standard output of the moment."""
        return sys.stdout

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without whoever has read enough, or a terminal that was closed; train.log has it all."""
        if isinstance(sys.exc_info()[1], OSError):
            flush_output()
        else:
            super().handleError(record)


def log_to_console() -> None:
    """Log as conf/hydra/job_logging/run.yaml says, where Hydra is not asked."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()], force=True)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write all messages into a file too."""
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
