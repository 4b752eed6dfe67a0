"""Files: what became of one, writing results whole or not at all, copying pictures without losing anything."""

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
from itertools import count
from pathlib import Path

from utils.console import UserError, say
from utils.defaults import VERSION


class Status(StrEnum):
    """What became of one input file. Only OK and RESCUED carry measurements."""

    OK = "ok"
    RESCUED = "rescued"  # found only after black padding around the picture
    NO_FACE = "no_face"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    ERROR = "error"  # the networks themselves failed on this picture

    @property
    def measured(self) -> bool:
        return self in (Status.OK, Status.RESCUED)


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


def caption_of(picture: Path) -> Path:
    """Where the caption of a picture lies, if it has one: a text file of its name, as trainers read it."""
    return picture.with_suffix(".txt")


def copy_with_caption(picture: Path, folder: Path) -> Path:
    """Copy a picture and its caption into `folder`; where the copy lies. Nothing that is there is overwritten.

    A copy that is there already is left as it is, caption included. Where another file has the name, the copy gets a
    number: `a (2).png`. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, caption = picture.read_bytes(), _bytes_of(caption_of(picture))
    for number in count(1):
        copy = folder / (picture.name if number == 1 else f"{picture.stem} ({number}){picture.suffix}")
        there = _bytes_of(copy)
        if there == data:
            return copy
        if there is None and _bytes_of(caption_of(copy)) in (None, caption):
            break
    if caption is not None:
        write_bytes_atomic(caption_of(copy), caption)
    write_bytes_atomic(copy, data)  # last: a picture in the folder has its caption
    return copy


def is_copy_of(copy: Path, picture: Path) -> bool:
    """Whether `copy` is what `copy_with_caption` made of `picture`: its name or that with a number, and its bytes."""
    named = re.fullmatch(re.escape(picture.stem) + r"( \(\d+\))?", copy.stem) and copy.suffix == picture.suffix
    return bool(named) and copy.is_file() and _bytes_of(copy) == _bytes_of(picture)


def take_back_copy(copy: Path, picture: Path) -> None:
    """Delete the copy of `picture` at `copy`, and its caption unless somebody changed it. Raises OSError."""
    if _bytes_of(caption_of(copy)) == _bytes_of(caption_of(picture)):
        caption_of(copy).unlink(missing_ok=True)
    copy.unlink(missing_ok=True)


def _bytes_of(path: Path) -> bytes | None:
    """None where there is no such file."""
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
