"""What the loop says: lines of the result and notes, at once, also into a pipe that nobody reads any more."""

from __future__ import annotations

import sys

from mirror.loop.steps import heard_or_not
from utils.console import say, show


def tell(*lines: str) -> None:
    """Lines of the result. That nobody reads them any more does not end the loop."""
    with heard_or_not(sys.stdout):
        show(*lines)
        sys.stdout.flush()


def remark(sentence: str) -> None:
    """The same for the talk."""
    with heard_or_not(sys.stderr):
        say(sentence)


def note(sentence: str) -> None:
    """A remark that matters."""
    remark(f"Note: {sentence}")


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
