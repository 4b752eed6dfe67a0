"""Pictures on disk: which files they are, in which order, and the one way in which they are read."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS, MAX_MEGAPIXELS
from utils.files import Status, reason_of
from utils.library_output import hush_warnings, overheard, python_warnings

THUMBNAIL_SIDE = 176  # pixels, longest side; about 6 KB each, so that a page of 4,000 pairs stays under 40 MB
_THUMBNAIL_QUALITY = 72

# What the header may say; wider than IMAGE_EXTENSIONS because a wrongly named file is still a picture.
_READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")

# Pillow only reads headers here, and MAX_MEGAPIXELS is the limit that users can set. Its formats are registered now,
# by one thread: when several threads open their first pictures at once, some find a format missing (Pillow 13.0).
Image.MAX_IMAGE_PIXELS = None
Image.init()
hush_warnings()
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what fails to decode gets its reason in the table


class ImageError(Exception):
    """One picture cannot be measured. `status` is what the table says, the message is the reason in words."""

    def __init__(self, status: Status, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = reason


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
            _check_header(file, max_megapixels)
            file.seek(0)
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(Status.UNREADABLE, "vanished, or is a link to nothing") from error
    except PermissionError as error:
        raise ImageError(Status.UNREADABLE, "no permission to read it") from error
    except OSError as error:
        raise ImageError(Status.UNREADABLE, f"cannot be read: {reason_of(error)}") from error


def decode(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 BGR, EXIF orientation applied, first frame, alpha dropped. Raises ImageError."""
    return decode_with_note(data)[0]


def decode_with_note(data: bytes) -> tuple[np.ndarray, str]:
    """As `decode`, and what is wrong with a picture that could be decoded all the same; empty for a healthy one."""
    if data.startswith(b"\x89PNG"):
        _verify_png(data)
    try:
        # from memory, because cv2.imread fails on non-ASCII Windows paths and gives no reason for anything
        image, words = overheard(lambda: cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR))
    except cv2.error as error:
        raise ImageError(Status.UNREADABLE, f"cannot be decoded: {error.err or error}") from error
    if image is None:
        raise ImageError(Status.UNREADABLE, _reason_for_failed_decoding(data))
    return image, "; ".join(filter(None, (_note_on_pixels(words), _note_on_header(data))))


def _note_on_pixels(words: str) -> str:
    if not words:
        return ""
    first = words.splitlines()[0].removeprefix("Corrupt JPEG data: ").strip()
    return f"the file is damaged, and part of the picture may be wrong ({first})"


def _note_on_header(data: bytes) -> str:
    with python_warnings() as said, contextlib.suppress(Exception):  # OpenCV has decoded it: Pillow may fail in peace
        Image.open(io.BytesIO(data), formats=_READABLE_FORMATS).close()
    return f"the file's header is damaged ({said[0]})" if said else ""


def thumbnail(image: np.ndarray) -> bytes:
    """JPEG of `image` (H, W, 3) BGR with its longest side at THUMBNAIL_SIDE, never enlarged."""
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY])[1].tobytes()


def _check_header(file: io.BufferedReader, max_megapixels: float) -> None:
    if not file.peek(1):
        raise ImageError(Status.UNREADABLE, "is empty (0 bytes)")
    try:
        with Image.open(file, formats=_READABLE_FORMATS) as picture:
            width, height = picture.size
    except UnidentifiedImageError as error:
        raise ImageError(Status.UNREADABLE, "is not a picture, whatever its name says") from error
    except Exception as error:  # a damaged header can raise anything in a parser: it is one bad file, not our end
        raise ImageError(Status.UNREADABLE, f"has a damaged header ({error})") from error
    check_size(width, height, max_megapixels)


def _verify_png(data: bytes) -> None:
    """Raise ImageError for a damaged PNG before libpng meets it and writes to the terminal by itself."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            picture.verify()
    except Exception as error:  # whatever a damaged file makes the parser raise is the reason
        raise ImageError(Status.UNREADABLE, f"is damaged ({error})") from error


def _reason_for_failed_decoding(data: bytes) -> str:
    """OpenCV says no more than None; Pillow knows why."""
    try:
        with Image.open(io.BytesIO(data), formats=_READABLE_FORMATS) as picture:
            picture.load()
    except Exception as error:  # any failure is the reason that is asked for here
        return f"is damaged ({error})"
    return f"is a {picture.format} of mode {picture.mode} that OpenCV cannot decode"
