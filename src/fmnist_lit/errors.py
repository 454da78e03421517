"""What a user did wrong, in one message."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A failure with a message for the user, who needs no traceback. Exit status 1."""

    status = 1


class UsageError(UserError):
    """A command line or configuration that cannot work. Exit status 2."""

    status = 2


def choices(name: str, known: Iterable[str]) -> str:
    """Say which names there are and which one was probably meant."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return (f"Did you mean {near[0]}? " if near else "") + f"Choices: {', '.join(names)}."
