"""Bytes of a picture to pixels: one decoder for every script, which says what is wrong with a file."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from utils.files import Status
from utils.library_output import hush_warnings, overheard, python_warnings

# What the header may say; wider than IMAGE_EXTENSIONS because a wrongly named file is still a picture.
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
# Of JPEG, PNG, TIFF, GIF and WebP; HEIC and AVIF have theirs four bytes later.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")
# OpenCV decodes these faster than Pillow; what has transparent parts and all other formats are Pillow's.
_BY_OPENCV = ("JPEG", "MPO", "PNG", "WEBP", "BMP")  # MPO: Pillow's name for a JPEG of several pictures
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_WIDE_MODES = ("I", "F")  # and I;16 in its variants: more than 8 bits, which Pillow would clip and OpenCV scales
TRANSPARENT = "transparent parts are shown on white"
BLACK_AND_WHITE = "black-and-white, which lowers similarity"  # by 0.11 on a real photo with a MobileFaceNet pack
_GREY_TOLERANCE = 12  # levels, of the tint; JPEG's colours of a grey picture differ by a few
_FAINT_TINT = 20  # levels
_FEWEST_SHADES = 50  # pixels of those that are looked at
_GREY_STEP = 8  # every so many pixels are looked at

# libjpeg-turbo's words (jerror.h) for coefficients that it made up; its others tell of bytes too many.
_MADE_UP = ("premature end", "bad Huffman code", "found marker")
_MOST_EXTRANEOUS = 512  # our choice; cameras pad with a few
_FEW_ROWS = 0.03  # of grey at the end: what follows a hole in the data is moved up by it
_MISSING_GREY = 128  # what libjpeg makes of blocks that are not in the file: all coefficients 0 (jdhuff.c)

# Generators put whole workflows into a PNG's text: 5 MB compressed were seen. Pillow's own limit is 1 MB a chunk.
PngImagePlugin.MAX_TEXT_CHUNK = 256 * 1024 * 1024
PngImagePlugin.MAX_TEXT_MEMORY = 512 * 1024 * 1024

# Pillow only reads headers here, and the limit that users can set stands in `check_size`. Formats are registered now,
# by one thread: when several threads open their first pictures at once, some find a format missing (Pillow 13.0).
Image.MAX_IMAGE_PIXELS = None
pillow_heif.register_heif_opener()
Image.init()
hush_warnings()
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what fails to decode gets its reason in the table


class ImageError(Exception):
    """One picture cannot be measured. `status` is what the table says, the message is the reason in words."""

    def __init__(self, status: Status, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class _Header:
    """What a picture's header says, and what is wrong with it."""

    format: str = ""
    mode: str = ""
    has_alpha: bool = False
    note: str = ""


def decode(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 BGR, EXIF orientation applied, first frame, alpha put on white. Raises ImageError."""
    return decode_with_note(data)[0]


def decode_with_note(data: bytes) -> tuple[np.ndarray, str]:
    """As `decode`, and what is to be said of a picture that could be decoded all the same; empty for most."""
    header = _header(data)
    if header.format == "PNG":
        _verify_png(data)
    if (header.format in _BY_OPENCV and not header.has_alpha) or header.mode.startswith(_WIDE_MODES):
        image, note = _by_opencv(data)
    else:
        image, note = _by_pillow(data)
    return image, "; ".join(filter(None, (note, header.note, _note_on_colour(image))))


def is_opaque(data: bytes) -> bool:
    """Whether the header of a picture knows no transparent parts."""
    return not _header(data).has_alpha


def header_size(file: io.BufferedReader) -> tuple[int, int]:
    """Width and height that the header of an open file says. Raises ImageError for what is no picture."""
    if not file.peek(1):
        raise ImageError(Status.UNREADABLE, "is empty (0 bytes)")
    try:
        with Image.open(file, formats=READABLE_FORMATS) as picture:
            return picture.size
    except UnidentifiedImageError as error:
        begins = file.read(12) if file.seek(0) == 0 else b""
        known = begins.startswith(_BEGINNINGS) or begins[4:8] == b"ftyp"
        said = "is damaged or cut off" if known else "is not a picture, whatever its name says"
        raise ImageError(Status.UNREADABLE, said) from error
    except Exception as error:  # a damaged header can raise anything in a parser: it is one bad file, not our end
        if file.seek(0) == 0 and file.read(4) == b"RIFF":  # Pillow opens a WebP only whole
            raise ImageError(Status.UNREADABLE, "is damaged or cut off") from error
        raise ImageError(Status.UNREADABLE, f"has a damaged header ({_one_line(error)})") from error


def _header(data: bytes) -> _Header:
    """Nothing is raised here: a header that Pillow cannot read may be one that OpenCV can."""
    with python_warnings() as said, contextlib.suppress(Exception), _opened(data) as picture:
        alpha = picture.mode in _ALPHA_MODES or "transparency" in picture.info
        note = f"the file's header is damaged ({said[0]})" if said else ""
        return _Header(picture.format or "", picture.mode, alpha, note)
    return _Header("JPEG")


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=READABLE_FORMATS)


def _by_opencv(data: bytes) -> tuple[np.ndarray, str]:
    image, words = _imdecode(data)
    if image is None and data.startswith(b"\xff\xd8"):
        image, words = _without_its_end(data)
    if image is None:
        return _by_pillow(data)  # which knows why, or has no limit of its own, as OpenCV has for long texts in a PNG
    if any(word in words for word in _MADE_UP) or _bytes_too_many(words) > _MOST_EXTRANEOUS:
        raise ImageError(Status.UNREADABLE, f"is damaged: {_what_lacks(data)}")
    return image, _note_on_pixels(words)


def _bytes_too_many(words: str) -> int:
    """What libjpeg passed over before a marker: a few bytes are padding, many are data that it could not follow."""
    return max((int(number) for number in re.findall(r"(\d+) extraneous bytes", words)), default=0)


def _imdecode(data: bytes, flags: int = cv2.IMREAD_COLOR) -> tuple[np.ndarray | None, str]:
    """From memory, because cv2.imread fails on non-ASCII Windows paths and gives no reason for anything."""
    try:
        return overheard(lambda: cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags))
    except cv2.error as error:
        raise ImageError(Status.UNREADABLE, f"cannot be decoded: {error.err or error}") from error


def _without_its_end(data: bytes) -> tuple[np.ndarray | None, str]:
    """A JPEG that lacks its last bytes: whole if those are only the end marker. Raises ImageError if they are pixels.

    OpenCV refuses such a file; with an end marker added, libjpeg says what it had to make up.
    """
    ended = data + b"\xff\xd9"
    image, words = _imdecode(ended)
    if image is not None and any(word in words for word in _MADE_UP):
        raise ImageError(Status.UNREADABLE, f"is damaged: {_what_lacks(ended)}")
    return image, words


def _what_lacks(jpeg: bytes) -> str:
    """Which part of a damaged JPEG's pixels are not in the file: rows at its end, or something inside it."""
    image, _ = _imdecode(jpeg, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return "its picture data is cut off"
    made_up = (np.abs(image.astype(np.int16) - _MISSING_GREY) <= 1).all(axis=(1, 2))
    rows = len(made_up) if made_up.all() else int(np.argmin(made_up[::-1]))
    if rows > _FEW_ROWS * len(made_up):
        return f"ends after {100 * (len(made_up) - rows) // len(made_up)} % of its rows"
    return "part of its picture data is missing"


def _note_on_pixels(words: str) -> str:
    # libpng warns of colour profiles and long texts; a PNG's pixels have checksums, which were verified
    lines = [line for line in words.splitlines() if not line.startswith("libpng warning")]
    if not lines:
        return ""
    first = lines[0].removeprefix("Corrupt JPEG data: ").strip()
    return f"the file is damaged, and part of the picture may be wrong ({first})"


def _note_on_colour(image: np.ndarray) -> str:
    some = image[::_GREY_STEP, ::_GREY_STEP].reshape(-1, 3).astype(np.int16)
    shades = some[(some.max(axis=1) > 16) & (some.min(axis=1) < 240)]  # black and white have no colour to show
    if len(shades) < _FEWEST_SHADES or shades.max() - shades.min() <= _GREY_TOLERANCE:
        return ""
    tints = np.diff(shades, axis=1)
    tint = np.median(tints, axis=0)  # toned prints have one tint all over, and a faint one
    dark = min(1.0, np.percentile(shades.max(axis=1), 95) / 200)  # colours of a dark picture differ by less
    spread = np.percentile(np.abs(tints - tint), 99.9)
    return BLACK_AND_WHITE if np.abs(tint).max() <= _FAINT_TINT * dark and spread <= _GREY_TOLERANCE * dark else ""


def _by_pillow(data: bytes) -> tuple[np.ndarray, str]:
    """What OpenCV does not decode, or without regard to transparent parts. Raises ImageError."""
    try:
        (image, note), _ = overheard(lambda: _composed(data))
        return image, note
    except Exception as error:  # whatever a damaged file makes the parser raise is the reason
        raise ImageError(Status.UNREADABLE, f"is damaged or cut off ({_one_line(error)})") from error


def _composed(data: bytes) -> tuple[np.ndarray, str]:
    with python_warnings(), _opened(data) as picture:
        upright = ImageOps.exif_transpose(picture)  # decodes the first frame
    if upright.mode.startswith(_WIDE_MODES):
        raise ValueError(f"a {picture.format} of mode {upright.mode}; save it with 8 bits a channel")
    if upright.mode not in _ALPHA_MODES and "transparency" not in upright.info:
        return _bgr(upright), ""
    layered = upright.convert("RGBA")
    solid = layered.getchannel("A").getextrema()[0] == 255
    white = Image.new("RGBA", layered.size, "white")
    return _bgr(Image.alpha_composite(white, layered)), "" if solid else TRANSPARENT


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its header cannot be read"
    return " ".join(str(error).split())


def _bgr(picture: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])


def _verify_png(data: bytes) -> None:
    """Raise ImageError for a damaged PNG before libpng meets it and writes to the terminal by itself."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            picture.verify()
    except Exception as error:  # whatever a damaged file makes the parser raise is the reason
        raise ImageError(Status.UNREADABLE, f"is damaged ({_one_line(error)})") from error
