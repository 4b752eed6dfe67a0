"""Whether results that lie in a folder are still right: of the same files, options, model pack and program.

Nothing heavy is imported here: knowing that nothing has changed should take less time than loading NumPy and pandas.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mirror.contracts.contract import ContractError, read_contract
from mirror.contracts.summary import Summary

# A file changed within this time may change again without a new time stamp (git calls that racy; FAT counts in twos).
_RACY_NS = 2_000_000_000
_MOST_FILES = 20_000  # listing more of them takes longer than what is saved
_LATEST = 20  # summaries in a folder that are looked through
_ENVIRONMENT = ("MIRROR_", "CUDA_", "HIP_")  # variables by which a machine is told what to measure with


def fingerprint_of(options: Mapping[str, object], folders: Iterable[Path], program: Iterable[Path]) -> str | None:
    """SHA-256 over options, names, sizes and time stamps of all files below `folders` (inputs, pack), and the program.

    `program` names its files and folders; the names of installed packages, which carry versions, come from Python's
    own folders. None where a file may still change without a new time stamp, or where there are too many.
    """
    digest = hashlib.sha256()
    variables = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    digest.update(json.dumps([sys.version, options, variables], sort_keys=True, default=_plain).encode())
    installed = [
        sorted(os.listdir(place)) for place in sys.path if place.endswith("-packages") and os.path.isdir(place)
    ]
    digest.update(json.dumps(installed).encode())
    newest = 0
    for number, (name, size, changed) in enumerate(_files([*program, *folders])):
        if number == _MOST_FILES:
            return None
        digest.update(f"{name}\0{size}\0{changed}\0".encode("utf-8", "surrogateescape"))
        newest = max(newest, changed)
    return None if time.time_ns() - newest < _RACY_NS else digest.hexdigest()


def still_right(output: Path, fingerprint: str | None) -> Summary | None:
    """The latest summary in `output` of a run with this fingerprint whose result files are all there; else None."""
    if fingerprint is None:
        return None
    for path in sorted(output.glob("Summary_*.json"), reverse=True)[:_LATEST]:
        try:
            if fingerprint not in path.read_text(encoding="utf-8"):
                continue
            summary = read_contract(path, Summary)
        except (OSError, UnicodeDecodeError, ContractError):  # no result of this version
            continue
        files = [output / name for name in summary.results.values()]
        if summary.fingerprint == fingerprint and files and all(file.is_file() for file in files):
            return summary
    return None


def _plain(value: object) -> str:
    return str(value.resolve()) if isinstance(value, Path) else repr(value)


def _files(places: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    """(path, bytes, time stamp in ns) of every file, in one order; what cannot be looked at is -1 bytes."""
    seen: set[tuple[int, int]] = set()
    for place in places:
        waiting = [os.path.abspath(place)]
        while waiting:
            path = waiting.pop()
            try:
                status = os.stat(path)
                inside = sorted(os.listdir(path)) if os.path.isdir(path) else None
            except OSError:
                yield path, -1, 0
                continue
            if inside is None:
                yield path, status.st_size, status.st_mtime_ns
            elif (status.st_dev, status.st_ino) not in seen:  # links may lead in a circle
                seen.add((status.st_dev, status.st_ino))
                yield path, len(inside), 0  # an empty folder counts too: it is a group without pictures
                waiting += [os.path.join(path, name) for name in reversed(inside) if name != "__pycache__"]
