"""Whether results that lie in a folder are still right: of the same files, options, model pack and program.

Nothing heavy is imported here: knowing that nothing has changed should take less time than loading NumPy and pandas.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mirror.contracts.contract import ContractError, read_contract
from mirror.contracts.summary import RESULT_FILES, Summary

# A file changed within this time may change again without a new time stamp (git calls that racy; FAT counts in twos).
_RACY_NS = 2_000_000_000
_MOST_SECONDS = 2.0  # listing files for longer costs more than it saves
_CACHES = "__pycache__"
_ENVIRONMENT = ("MIRROR_", "CUDA_", "HIP_")  # variables by which a machine is told what to measure with
_RESULT = re.compile("|".join(re.escape(name).replace(r"\{\}", r"[0-9]{8}_[0-9_]+") for name in RESULT_FILES.values()))


def fingerprint_of(
    options: Mapping[str, object], folders: Iterable[Path], program: Iterable[Path], written: Path | None = None
) -> str | None:
    """SHA-256 over options, machine, names, sizes and time stamps of all files below `folders` (inputs, pack), and the
    program.

    `program` names its files and folders; the names of installed packages, which carry versions, come from Python's
    own folders. Result files, and the file `written` by the run, do not count. None where a file may still change
    without a new time stamp, or where listing takes longer than it saves.
    """
    started = time.monotonic()
    digest = hashlib.sha256()
    variables = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    machine = [platform.node(), sys.version, variables]
    digest.update(json.dumps([machine, options], sort_keys=True, default=_plain).encode())
    for place in sys.path:
        if place.endswith("-packages") and os.path.isdir(place):
            digest.update(json.dumps(sorted(set(os.listdir(place)) - {_CACHES})).encode())
    written_at = os.path.realpath(written) if written else None
    newest = 0
    for path, size, changed in _files([*program, *folders]):
        if time.monotonic() - started > _MOST_SECONDS:
            return None
        name = os.path.basename(path)
        if _RESULT.fullmatch(name) or (written and name == written.name and os.path.realpath(path) == written_at):
            continue
        digest.update(f"{path}\0{size}\0{changed}\0".encode("utf-8", "surrogateescape"))
        newest = max(newest, changed)
    return None if time.time_ns() - newest < _RACY_NS else digest.hexdigest()


def still_right(output: Path, fingerprint: str | None) -> Summary | None:
    """The newest summary in `output` if its run has this fingerprint, and its result files are as it left them."""
    newest = max(output.glob("Summary_*.json"), default=None)
    if fingerprint is None or newest is None:
        return None
    try:
        if fingerprint not in newest.read_text(encoding="utf-8"):
            return None
        summary = read_contract(newest, Summary)
        written = newest.stat().st_mtime_ns  # the last of them
        found = [(output / name).stat() for name in summary.results.values()]
    except (OSError, UnicodeDecodeError, ContractError):  # of another version, damaged, or a file is gone
        return None
    untouched = found and all(file.st_size and file.st_mtime_ns <= written for file in found)
    return summary if untouched and summary.fingerprint == fingerprint else None


def _plain(value: object) -> str:
    return str(value.resolve()) if isinstance(value, Path) else repr(value)


def _files(places: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    """(path, bytes, time stamp in ns) of every file, in one order. Folders are told with -1 bytes, and where they
    really lie: an empty one is a group without pictures. What cannot be looked at is told with -2.
    """
    for place in places:
        waiting = [(os.path.abspath(place), ())]  # with the folders above, where links really lead
        while waiting:
            path, above = waiting.pop()
            try:
                status = os.stat(path)
                if not os.path.isdir(path):
                    yield path, status.st_size, status.st_mtime_ns
                    continue
                inside = sorted(os.listdir(path), reverse=True)
            except OSError:
                yield path, -2, 0
                continue
            real = os.path.realpath(path)
            yield path, -1, 0
            yield real, -1, 0
            if real not in above:  # links may lead in a circle
                waiting += [(os.path.join(path, name), (*above, real)) for name in inside if name != _CACHES]
