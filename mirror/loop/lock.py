"""One loop at a time in a folder. The system frees the lock however a process ends, so nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from utils.console import UserError, say
from utils.folder_lock import try_lock

LOCK_FILE = ".loop.lock"
_ORPHAN_SECONDS = 30  # how long a step of a loop that was killed may take to end


@contextlib.contextmanager
def lock_of_loop(folder: Path) -> Iterator[int]:
    """Hold the lock of `folder`; its file descriptor. Raises UserError where another loop has it.

    The descriptor is meant to be passed on to child processes: a child that outlives a killed loop then still keeps
    others out, and the next start waits for it. (Windows does not pass such locks on.)
    """
    path = folder / LOCK_FILE
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, folder)
        os.lseek(handle, 0, os.SEEK_SET)
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    """Wait for a step whose loop is gone, not for a loop that lives. Raises UserError."""
    until = time.monotonic() + _ORPHAN_SECONDS
    told = False
    while not try_lock(handle):
        owner = _owner(handle)
        if owner is None or _is_alive(owner):
            who = f" (process {owner})" if owner else ""
            raise UserError(f"Another loop{who} works in {folder}; wait for its end, or choose another output_dir.")
        if time.monotonic() > until:
            raise UserError(f"A step of an interrupted loop still works in {folder}: end it, then run this again.")
        if not told:
            say(f"A step of an interrupted loop still works in {folder}: waiting for its end ...")
        told = True
        time.sleep(0.05)


def _owner(handle: int) -> int | None:
    """The process that took the lock last, as it wrote itself down."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        return int(os.read(handle, 32))
    except (OSError, ValueError):
        return None


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # where asking with signal 0 would be a Ctrl-C, and only a living loop holds a lock
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Ended, and only waiting for its parent to ask how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
