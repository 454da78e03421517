"""One of the processes that train together: python -m fmnist_lit.worker RUN, which ``elastic.py`` starts."""

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from fmnist_lit.interrupt import Interrupted, follow_parent


def main() -> int:
    """Train, and return the exit status."""
    follow_parent(os.getppid())  # before the seconds that the imports take
    from fmnist_lit.config import read_config, read_origin
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
