"""What a user did wrong, in one message."""

import io
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from fmnist_lit.interrupt import Interrupted

MOST_CHOICES = 60  # in a message


class UserError(Exception):
    """A failure with a message for the user, who needs no traceback. Exit status 1."""

    status = 1


class UsageError(UserError):
    """A command line or configuration that cannot work. Exit status 2."""

    status = 2


class Diverged(UserError):
    """Training that no further step can mend."""


class Occupied(UsageError):
    """A run directory that nothing may be written into: another process has it, or it leads elsewhere."""


def choices(name: str, known: Iterable[str]) -> str:
    """Say which one was probably meant, and which names there are, if that is no page full."""
    names = sorted(set(known))
    if not names:
        return ""
    inside = [known for known in names if known.rpartition("/")[2] == name != known][:3]
    initials = "".join(word[:1] for word in name.split("_"))  # learning_rate, where it is called lr
    inside += [initials] if "_" in name and initials in names else []
    near = inside or get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return guess + (f"Choices: {', '.join(names)}." if len(names) <= MOST_CHOICES or not near else "")


def os_message(error: OSError, where: object = None) -> str:
    """Say which file is concerned, ``where`` if the error does not know, and what is wrong with it."""
    return f"{error.filename or where or 'input or output'}: {error.strerror or error}"


def printable(text: object, most: int = 500) -> str:
    """Return a text that steers no terminal and hides nothing: control characters and their like escaped.

    Args:
        most: characters; what is longer is cut off.
    """
    whole = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)[:most])
    return whole + ("..." if len(str(text)) > most else "")


def printable_lines(text: object) -> str:
    """Return a message of one line or more as ``printable`` does."""
    return "\n".join(printable(line, most=2000) for line in str(text).splitlines())


def encode_always() -> None:
    """Let no character end the program: one that the terminal does not have is printed as its number."""
    flush_output()  # else reconfigure would
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Print what is still to be printed, unless whoever read it has left; Python would say so at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_status(work: Callable[[], None]) -> int:
    """Do a script's work; print a user's fault as one message and return the exit status."""
    encode_always()
    try:
        work()
        sys.stdout.flush()  # a disk may be full
    except UserError as error:
        print(f"error: {printable_lines(error)}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        return 0  # whoever read the output has seen enough
    except OSError as error:
        print(f"error: {printable(os_message(error))}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        flush_output()
    return 0
