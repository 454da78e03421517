"""One of the processes that train together: python -m fmnist_lit.worker RUN, which ``elastic.py`` starts."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler


def end_with_launcher() -> None:
    """Treat the launcher's end, however it comes, as SIGTERM: finish the step, save, end."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Train, and return the exit status."""
    end_with_launcher()  # before the seconds that the imports take
    from fmnist_lit.config import read_config, read_origin
    from fmnist_lit.interrupt import Interrupted
    from fmnist_lit.logs import log_to_console
    from fmnist_lit.run import run

    handler = get_error_handler()
    handler.initialize()
    directory, resumed = Path(sys.argv[1]), sys.argv[2:] == ["resumed"]
    if os.environ["RANK"] == "0":
        log_to_console()
    try:
        run(read_config(directory), directory, *read_origin(directory), resumed=resumed, claimed=True)
    except Interrupted as error:
        return error.status
    except Exception as error:
        handler.record_exception(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
