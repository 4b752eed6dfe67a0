"""Captions of pictures: where they lie, how they are read, and how they travel with a copy.

Three kinds are known, and the first that holds words counts:

    01.txt, 01.caption    a text file of the picture's name: UTF-8 with or without a mark, or UTF-16 with its mark
    metadata.jsonl        in the picture's folder or one above: a line {"file_name": "01.jpg", "text": "..."} a picture,
                          as the folders of Hugging Face's datasets have it, from which the scripts of diffusers train

What this project writes is always a .txt in UTF-8, which every trainer reads.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

from utils.console import UserError
from utils.files import bytes_of, reason_of, write_bytes_atomic

TEXT_SUFFIXES = (".txt", ".caption")
METADATA_LINES = "metadata.jsonl"

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Caption:
    """What is said of a picture, all its lines, and where that stands."""

    text: str
    kind: str  # .txt, .caption or metadata.jsonl
    path: Path

    @property
    def lines(self) -> list[str]:
        """Those with words. Trainers read the first."""
        return [line.strip() for line in re.split(r"\r\n|\r|\n", self.text) if line.strip()]


def usual_trigger(name: str) -> str:
    """Trigger words for a person where none were given; a comma would end them."""
    return f"ohwx {' '.join(name.replace(',', ' ').split())}"


def read_caption(picture: Path, top: Path | None = None) -> Caption | None:
    """What is said of a picture; None where nothing is. Raises UserError for what is not text.

    `metadata.jsonl` is looked for in the picture's folder and in those above it, up to `top`.
    """
    empty = None
    for kind in TEXT_SUFFIXES:
        path = picture.with_suffix(kind)
        data = _read(path)
        if data is None:
            continue
        caption = Caption(_decoded(data, path, "caption"), kind, path)
        if caption.lines:
            return caption
        empty = empty or caption
    return _from_metadata(picture, top) or empty


def caption_files(picture: Path) -> list[Path]:
    """The files that may hold the caption of a picture, those that are there."""
    places = [*(picture.with_suffix(kind) for kind in TEXT_SUFFIXES), picture.parent / METADATA_LINES]
    return [place for place in places if place.is_file()]


def told_kinds(kinds: Counter[str]) -> str:
    """Which captions were read: "Captions: 12 from .txt files, 3 from metadata.jsonl."; empty where there are none."""
    names = {kind: f"{kind} files" for kind in TEXT_SUFFIXES} | {METADATA_LINES: METADATA_LINES}
    found = [f"{kinds[kind]} from {name}" for kind, name in names.items() if kinds[kind]]
    return f"Captions: {', '.join(found)}." if found else ""


def _from_metadata(picture: Path, top: Path | None) -> Caption | None:
    """The nearest metadata.jsonl that says something of the picture."""
    for folder in _upwards(picture.parent, top or picture.parent):
        path = folder / METADATA_LINES
        try:
            status = path.stat()
        except OSError:
            continue
        texts = _texts_of(path, status.st_size, status.st_mtime_ns)
        text = texts.get(_plain(picture.relative_to(folder).as_posix()))
        if text is not None:
            return Caption(text, METADATA_LINES, path)
    return None


def _upwards(folder: Path, top: Path) -> Iterator[Path]:
    yield folder
    while folder != top and top in folder.parents:
        folder = folder.parent
        yield folder


@lru_cache(maxsize=64)
def _texts_of(path: Path, size: int, changed_ns: int) -> dict[str, str]:
    """Name -> text of a metadata.jsonl, which is read anew when it changes. Raises UserError."""
    texts: dict[str, str] = {}
    try:
        content = _decoded(path.read_bytes(), path, "file")
    except OSError as error:
        raise UserError(f"The captions {path} cannot be read: {reason_of(error)}.") from error
    rows = [(number, row) for number, row in enumerate(content.split("\n"), 1) if row.strip()]
    for number, row in rows:
        name, text = _row_of(row, path, number)
        if text is not None:
            texts[_plain(name)] = text
    if rows and not texts:
        raise UserError(
            f'{path} has no "text" in any line, from which captions are read: name yours so, or take the file away.'
        )
    return texts


def _row_of(row: str, path: Path, number: int) -> tuple[str, str | None]:
    """(file_name, text); of a list of texts the first, which is the one that diffusers does not draw by lot."""
    try:
        entry = json.loads(row)
        name, text = entry["file_name"], entry.get("text")
        text = text[0] if isinstance(text, list) and text else text
        if isinstance(name, str) and (text is None or isinstance(text, str)):
            f"{name}{text}".encode()  # half an emoji is no text
            return name, text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(
        f'Line {number} of {path} is not like {{"file_name": "01.jpg", "text": "..."}}: mend it, or take the file away.'
    )


def _plain(name: str) -> str:
    """A name as it can be compared: macOS writes an umlaut as two characters, Windows a folder with a backslash."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _read(path: Path) -> bytes | None:
    try:
        return bytes_of(path)
    except OSError as error:
        raise UserError(f"The caption {path} cannot be read: {reason_of(error)}.") from error


def _decoded(data: bytes, path: Path, what: str) -> str:
    """UTF-8, with or without a mark; UTF-16, which Windows calls Unicode, has one. Raises UserError."""
    try:
        text = data.decode("utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"The {what} {path} is not text (UTF-8 or UTF-16): save it as UTF-8, or delete it.")
    return text


# Copies


def caption_of(picture: Path) -> Path:
    """Where the caption of a copy is written: a text file of its name, as every trainer reads it."""
    return picture.with_suffix(".txt")


def caption_bytes(picture: Path) -> bytes | None:
    """What the caption of a copy of `picture` holds: its own as UTF-8, None where it has none.

    What is no text is handed on as it is: whoever trains on it says so.
    """
    try:
        caption = read_caption(picture)
    except UserError:
        files = [path for kind in TEXT_SUFFIXES if (path := picture.with_suffix(kind)).is_file()]
        return bytes_of(files[0]) if files else None
    return None if caption is None else caption.text.encode("utf-8")


def copy_with_caption(picture: Path, folder: Path) -> Path:
    """Copy a picture and its caption into `folder`; where the copy lies. Nothing that is there is overwritten.

    A copy that is there already is left as it is, caption included. Where another file has the name, the copy gets a
    number: `a (2).png`. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, caption = picture.read_bytes(), caption_bytes(picture)
    for number in count(1):
        copy = folder / (picture.name if number == 1 else f"{picture.stem} ({number}){picture.suffix}")
        there = bytes_of(copy)
        if there == data:
            return copy
        if there is None and bytes_of(caption_of(copy)) in (None, caption):
            break
    if caption is not None:
        write_bytes_atomic(caption_of(copy), caption)
    write_bytes_atomic(copy, data)  # last: a picture in the folder has its caption
    return copy


def is_copy_of(copy: Path, picture: Path) -> bool:
    """Whether `copy` is what `copy_with_caption` made of `picture`: its name or that with a number, and its bytes."""
    named = re.fullmatch(re.escape(picture.stem) + r"( \(\d+\))?", copy.stem) and copy.suffix == picture.suffix
    return bool(named) and copy.is_file() and bytes_of(copy) == bytes_of(picture)


def take_back_copy(copy: Path, picture: Path) -> None:
    """Delete the copy of `picture` at `copy`, and its caption unless somebody changed it. Raises OSError."""
    if bytes_of(caption_of(copy)) == caption_bytes(picture):
        caption_of(copy).unlink(missing_ok=True)
    copy.unlink(missing_ok=True)
