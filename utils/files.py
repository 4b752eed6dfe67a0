"""Files: what became of one, and writing results whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from utils.console import UserError, say
from utils.defaults import VERSION


class Status(StrEnum):
    """What became of one input file. Only OK, RESCUED and ROTATED carry measurements."""

    OK = "ok"
    RESCUED = "rescued"  # found only with black padding around the picture, or at more pixels
    ROTATED = "rotated"  # measured after turning the picture, which lies on its side or upside down
    NO_FACE = "no_face"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    ERROR = "error"  # the networks themselves failed on this picture

    @property
    def measured(self) -> bool:
        return self in (Status.OK, Status.RESCUED, Status.ROTATED)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, then replace: a full disk leaves no half file. Raises OSError."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for text, as UTF-8. Raises OSError."""
    write_bytes_atomic(path, text.encode("utf-8"))


def reason_of(error: OSError) -> str:
    """Why the system refused, without its number and the path, which the sentence around it names."""
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)


@contextlib.contextmanager
def disk_errors_as(sentence: str, advice: str = "") -> Iterator[None]:
    """Disk errors as a UserError that begins with `sentence`, as in "Results cannot be written to DIR"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{sentence}: {reason_of(error)}. {advice}".rstrip()) from error


def demand_writable(folder: Path, advice: str) -> None:
    """Make `folder`, and find out before the work, not after it, that results cannot be written. Raises UserError."""
    with disk_errors_as(f"Results cannot be written to {folder}", advice):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def timestamp() -> str:
    """Now, as every document says it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def versions_of(script: str, **packages: str) -> dict[str, str]:
    """What a document was made with: script, Python and the packages that the numbers depend on."""
    return {script: VERSION, "python": sys.version.split()[0], **packages}


def some_of(names: list[str], most: int = 3, separator: str = ", ") -> str:
    """The first of many names in one line: "a, b, c and 5 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def first_of(lines: list[str], most: int = 20) -> list[str]:
    """The first `most` of the lines, and how many more there are."""
    return lines[:most] + ([f"  and {len(lines) - most} more"] if len(lines) > most else [])


def tell_ignored(ignored: Mapping[str, int]) -> None:
    """Say how many files of which suffix were not looked at."""
    if ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in ignored.items())
        say(f"Ignored files that are not pictures: {kinds}.")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safetensors_header(path: Path) -> tuple[dict, int]:
    """The JSON header of a `.safetensors` file, and where the tensors' bytes begin. Raises OSError, ValueError.

    Eight bytes of length, little-endian, then the header (huggingface.co/docs/safetensors, "Format").
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            raise ValueError("its header is cut off")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, 8 + length


def bytes_of(path: Path) -> bytes | None:
    """A file's content; None where there is no such file. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def readable(name: str) -> str:
    """A file name as text that can be written anywhere: Linux allows bytes that are no UTF-8; they show as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_word(name: str) -> str:
    """A name as part of a file's name, on every system."""
    return re.sub(r"[^\w-]+", "_", name)


# Windows keeps these names for devices, whatever the suffix: learn.microsoft.com, "Naming Files, Paths, and Namespaces"
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def folder_of(name: str) -> str:
    """A person's name, or other words, as the name of a folder on every system; most stay as they are."""
    kept = "".join(letter if letter.isprintable() and letter not in '<>:"/\\|?*' else "_" for letter in name)
    word = kept.strip(" .")
    return word if word.strip("_") and not _DEVICES.fullmatch(word) else f"person_{word or '_'}"
