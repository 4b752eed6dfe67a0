"""One run at a time in a folder. The system frees the lock however a process ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from utils.console import UserError


@contextlib.contextmanager
def only_one(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock file `name` of `folder`, which is gone afterwards. Raises UserError where another run holds it,
    OSError where the folder cannot be written."""
    path = folder / name
    handle = _open_locked(path)
    if handle is None:
        raise UserError(f"Another run works in {folder}: wait for its end, or take another folder.")
    try:
        yield
    finally:
        if sys.platform == "win32":  # an open file cannot be deleted there, nor one that a next run has opened
            os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(handle)


def _open_locked(path: Path) -> int | None:
    """The locked file; None where another process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not try_lock(handle):
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # its last owner deleted it between the two calls


def try_lock(handle: int) -> bool:
    """Lock an open file against other processes until it is closed; False where another one has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # far behind the end: Windows keeps others from reading locked bytes
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
