"""Pictures on disk: which files they are, in which order, and the one way in which they are read."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from utils.console import UserError
from utils.decoding import ImageError, header_size
from utils.defaults import IMAGE_EXTENSIONS, MAX_MEGAPIXELS
from utils.files import Status, reason_of

THUMBNAIL_SIDE = 176  # pixels, longest side; about 6 KB each, so that a page of 4,000 pairs stays under 40 MB
_THUMBNAIL_QUALITY = 72
PREVIEW_SIDE = 400  # pixels; about 20 KB each
_PREVIEW_QUALITY = 76


@dataclass
class Listing:
    """What a folder holds: pictures in natural order, and everything passed over, by suffix."""

    images: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    subfolders: list[Path] = field(default_factory=list)  # not entered
    problems: list[str] = field(default_factory=list)  # sub-folders that cannot be opened, a sentence each


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key in which `image 2` stands before `image 10`, whatever the case."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(0, int(part)) if index % 2 else (1, part) for index, part in enumerate(parts)]


def list_images(folder: Path, recursive: bool = False, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> Listing:
    """Pictures of `folder` (with `recursive`, of its sub-folders too). Raises UserError where it cannot be opened.

    A sub-folder named like a picture is listed as one when it is not entered: its row then says what it is.
    """
    listing = Listing()
    suffixes = {f".{extension.lower().lstrip('.')}" for extension in extensions}
    seen: set[tuple[int, int]] = set()

    def visit(directory: Path) -> None:
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back to a parent
            return
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(directory):
            suffix = Path(entry.name).suffix.lower()
            is_folder = _is_folder(entry)
            if is_folder and recursive:
                try:
                    visit(Path(entry.path))
                except OSError as error:
                    listing.problems.append(f"{entry.path} cannot be opened: {reason_of(error)}.")
                continue
            if is_folder:
                listing.subfolders.append(Path(entry.path))
            hidden = entry.name.startswith(".")  # such as macOS's ._photo.jpg, which holds no picture
            if suffix in suffixes and not hidden:
                listing.images.append(Path(entry.path))
            elif suffix in suffixes:
                listing.ignored["hidden"] += 1
            elif not is_folder and not hidden:
                listing.ignored[suffix or "no suffix"] += 1

    with _opening(folder):
        visit(folder)
    return listing


def list_subfolders(folder: Path) -> list[Path]:
    """Visible sub-folders of `folder` in natural order. Raises UserError where it cannot be opened."""
    with _opening(folder):
        return [Path(one.path) for one in _entries(folder) if _is_folder(one) and not one.name.startswith(".")]


def demand_folder(path: Path, advice: str) -> Path:
    """`path`, which must be a folder. Raises UserError that ends in `advice`."""
    if path.is_dir():
        return path
    raise UserError(f"{path} {'is a file, not a folder' if path.exists() else 'does not exist'}. {advice}")


def holds_pictures(folder: Path, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> bool:
    """Whether pictures lie directly in `folder`; one look, no descent. False where it cannot be opened."""
    suffixes = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(suffixes) for entry in entries)
    except OSError:
        return False


@contextlib.contextmanager
def _opening(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be opened: {reason_of(error)}.") from error


def _entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: (natural_key(entry.name), entry.name))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def check_size(width: int, height: int, max_megapixels: float) -> None:
    """Raise ImageError for a picture above the limit."""
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise ImageError(
            Status.TOO_LARGE,
            f"{width} x {height} pixels are {megapixels:.3g} megapixels; the limit is {max_megapixels:g}",
        )


def read_file(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """All bytes of the picture `path`, after a look at its header. Raises ImageError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ImageError(Status.UNREADABLE, "is a folder or a special file, not a picture")
        with open(path, "rb") as file:
            check_size(*header_size(file), max_megapixels)
            file.seek(0)
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(Status.UNREADABLE, "vanished, or is a link to nothing") from error
    except PermissionError as error:
        raise ImageError(Status.UNREADABLE, "no permission to read it") from error
    except OSError as error:
        raise ImageError(Status.UNREADABLE, f"cannot be read: {reason_of(error)}") from error


def thumbnail(image: np.ndarray) -> bytes:
    """JPEG of `image` (H, W, 3) BGR with its longest side at THUMBNAIL_SIDE, never enlarged."""
    return _small_jpeg(image, THUMBNAIL_SIDE, _THUMBNAIL_QUALITY)


def preview(image: np.ndarray) -> bytes:
    """As `thumbnail`, large enough to judge a face by: longest side at PREVIEW_SIDE."""
    return _small_jpeg(image, PREVIEW_SIDE, _PREVIEW_QUALITY)


def shrunk(jpegs: list[bytes | None], most_bytes: float) -> list[bytes | None]:
    """Small JPEGs that take no more than `most_bytes` together: as they are, else all scaled down alike."""
    total = sum(len(one) for one in jpegs if one)
    if total <= most_bytes:
        return jpegs
    images = [None if one is None else cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in jpegs]
    scale = 1.0
    while total > most_bytes and scale > 0.1:
        scale *= min(0.97, (most_bytes / total) ** 0.5)
        jpegs = [None if one is None else _scaled_jpeg(one, scale) for one in images]
        total = sum(len(one) for one in jpegs if one)
    return jpegs


def _small_jpeg(image: np.ndarray, side: int, quality: int) -> bytes:
    scale = min(1.0, side / max(image.shape[:2]))
    return _scaled_jpeg(image, scale, quality)


def _scaled_jpeg(image: np.ndarray, scale: float, quality: int = _THUMBNAIL_QUALITY) -> bytes:
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
