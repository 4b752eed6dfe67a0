"""SHA-256 of large files, kept from run to run by path, size and time of change: a base model is read once.

Kept in one JSON file beside the program, which may be deleted at any time; what cannot be read or written there is
hashed anew, without a word.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from pathlib import Path

from utils.defaults import HASHES_FILE
from utils.files import sha256_of, write_text_atomic

KEPT_FROM = 64 << 20  # bytes; what is smaller is read in a tenth of a second

# A file that changes twice within the disk's clock tick has one time for both contents (two seconds on exFAT): the hash
# of a file that was touched just now is not kept. git does the same with its index.
_CLOCK_TICK_NS = 3 * 10**9


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Read once, as long as path, size and time stay. Raises OSError."""
    state = path.stat()
    return _hash_of(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.cache
def _hash_of(path: Path, size: int, changed_ns: int) -> str:
    if size < KEPT_FROM:
        return sha256_of(path)
    key, seen = str(path), [size, changed_ns]
    entry = _kept().get(key)
    if entry and entry[:2] == seen:
        return entry[2]
    found, after = sha256_of(path), path.stat()
    if [after.st_size, after.st_mtime_ns] == seen and time.time_ns() - changed_ns > _CLOCK_TICK_NS:
        _keep(key, [*seen, found])
    return found


def _kept() -> dict[str, list]:
    """Path -> [size, time of change in ns, hash]; empty where there is no such file, or none of ours."""
    try:
        told = json.loads(HASHES_FILE.read_text(encoding="utf-8"))
        return {path: entry for path, entry in told.items() if _is_entry(entry)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: object) -> bool:
    match entry:
        case [int(), int(), str(digits)]:
            return len(digits) == 64 and set(digits) <= set("0123456789abcdef")
    return False


def _keep(key: str, entry: list) -> None:
    """Entries of files that are gone are dropped."""
    entries = {path: one for path, one in _kept().items() if os.path.exists(path)} | {key: entry}
    with contextlib.suppress(OSError, ValueError):  # a program on a disk that cannot be written to; a name in no UTF-8
        write_text_atomic(HASHES_FILE, json.dumps(entries, indent=1) + "\n")
