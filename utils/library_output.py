"""What libraries say by themselves while they work: kept off the terminal, and handed to whoever called them.

libjpeg inside OpenCV writes to file descriptor 2, past Python and without the name of any file; Pillow issues Python
warnings. Threads decode side by side, so words at the descriptor first belong to all who listen: whoever may have
caused them does the same work again, alone, and then knows. That is rare, and costs healthy pictures nothing.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

Result = TypeVar("Result")


class _Descriptor:
    """Descriptor 2, led into a file while anybody listens."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._listeners, self._alone = 0, False
        self._file: BinaryIO | None = None
        self._terminal: int | None = None  # what descriptor 2 was

    @contextlib.contextmanager
    def led_away(self, alone: bool = False) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._alone and not (alone and self._listeners))
            if not self._listeners:
                self._begin()
            self._listeners, self._alone = self._listeners + 1, alone
        try:
            yield
        finally:
            with self._free:
                self._listeners, self._alone = self._listeners - 1, False
                if not self._listeners:
                    self._end()
                self._free.notify_all()

    def _begin(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `_end` closes it
        self._terminal = os.dup(2)
        os.dup2(self._file.fileno(), 2)

    def _end(self) -> None:
        os.dup2(self._terminal, 2)
        os.close(self._terminal)
        self._file.close()

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def words(self) -> str:
        self._file.seek(0)
        return self._file.read().decode("utf-8", "replace").strip()


_descriptor = _Descriptor()


def overheard(work: Callable[[], Result]) -> tuple[Result, str]:
    """What `work` returns, and what a library wrote to the terminal meanwhile. `work` may be done twice.

    Our own talk has another descriptor (utils.console.run_script), so nothing of it is lost or taken for theirs.
    """
    try:
        with _descriptor.led_away():
            before = _descriptor.size()
            result = work()
            is_silent = _descriptor.size() == before
    except OSError:  # no descriptor 2, or no room for a temporary file: then nobody listens
        return work(), ""
    if is_silent:
        return result, ""
    with _descriptor.led_away(alone=True):
        return work(), _descriptor.words()


class _Heard(threading.local):
    messages: list[str] | None = None


_heard = _Heard()


def _keep_warning(message: Warning | str, *_: object, **__: object) -> None:
    if _heard.messages is not None:
        _heard.messages.append(" ".join(str(message).split()))


@contextlib.contextmanager
def python_warnings() -> Iterator[list[str]]:
    """The warnings that this thread causes, in words. Needs `hush_warnings`."""
    before, _heard.messages = _heard.messages, []
    try:
        yield _heard.messages
    finally:
        _heard.messages = before


def hush_warnings() -> None:
    """Python's warnings are for developers: they reach `python_warnings`, and no terminal."""
    warnings.showwarning = _keep_warning
    warnings.filterwarnings("always", module=r"PIL\b")  # for each picture, not once for each line of Pillow
