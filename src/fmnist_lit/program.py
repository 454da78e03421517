"""What a program imports first: from then on Ctrl-C is one line, and no character ends it."""

import sys
from types import TracebackType

from fmnist_lit.errors import encode_always

show = sys.excepthook


def show_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show what ended the program; a line of a Ctrl-C that nobody caught, while modules are imported, say."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        show(kind, error, trace)


sys.excepthook = show_quietly
encode_always()
