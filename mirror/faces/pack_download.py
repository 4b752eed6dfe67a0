"""How a model pack gets here: downloaded whole or not at all, and where it fails the sentence that says what to do.

Apart from `packs`, as a run whose pack is here need not wait for the network's libraries to load.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mirror.faces.packs import KNOWN_PACKS, Pack, PackError, missing_files, models_inside
from utils.console import talk
from utils.defaults import DEMO_PACK, MODELS_FOLDER

# Where InsightFace itself downloads from (insightface 2.1, utils/storage.py).
DOWNLOAD_URL = "https://github.com/deepinsight/insightface/releases/download/model-zoo/{name}.zip"
_TIMEOUT_S = 30
# What a cut, refused or damaged download raises: the network, the protocol, the archive and what is packed in it.
_BAD_DOWNLOAD = (OSError, ValueError, EOFError, RuntimeError, http.client.HTTPException, zipfile.BadZipFile, zlib.error)


def download_with_bar(name: str, url: str) -> Pack:
    """As `download_pack`, with a progress bar."""
    columns = (
        TextColumn(name, markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk()) as bar:
        task = bar.add_task("", total=None)
        return download_pack(name, url, lambda done, total: bar.update(task, completed=done, total=total))


def download_pack(name: str, url: str, progress: Callable[[int, int | None], None]) -> Pack:
    """Fetch the pack `name` into models/, whole or not at all. `progress(bytes so far, bytes in all or None)`.

    Raises PackError with the one message that a user without network needs.
    """
    target = MODELS_FOLDER / name
    try:
        _refuse_occupied(target)
        MODELS_FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=MODELS_FOLDER, ignore_cleanup_errors=True) as scratch:
            archive = Path(scratch) / "pack.zip"
            _fetch(url, archive, progress)
            folder = _unpack(name, archive, Path(scratch) / "unpacked")
            _move_into_place(folder, target)
    except _BAD_DOWNLOAD as error:
        raise PackError(*_how_to_install(name, url, error)) from error
    return Pack(name, models_inside(target) or target)


def _fetch(url: str, path: Path, progress: Callable[[int, int | None], None]) -> None:
    """Download `url` to `path`. Raises OSError (URLError is one), also when the connection ends too early."""
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, open(path, "wb") as file:
        length = answer.headers.get("Content-Length")
        total = int(length) if length else None
        done = 0
        while chunk := answer.read(1 << 18):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")


def _unpack(name: str, archive: Path, folder: Path) -> Path:
    """Extract and check `archive`; the folder that holds the models. Raises ValueError, BadZipFile, OSError."""
    if not zipfile.is_zipfile(archive):
        raise ValueError("what the server sent is not a zip archive")
    with zipfile.ZipFile(archive) as unzip:
        unzip.extractall(folder)  # checks every member's CRC; zipfile keeps members inside `folder`
    models = models_inside(folder)
    if models is None:
        raise ValueError("the archive holds no .onnx files")
    lacking = missing_files(name, models)
    if lacking:
        raise ValueError(f"the archive lacks {', '.join(lacking)}")
    return models


def _refuse_occupied(target: Path) -> None:
    """A folder of the pack's name that is not the pack is the user's: it is never deleted. Raises ValueError."""
    if not target.is_dir() or not any(target.iterdir()):
        return
    lacking = missing_files(target.name, models_inside(target))
    raise ValueError(f"{target} exists but lacks {', '.join(lacking) or 'any .onnx file'}: move it away first")


def _move_into_place(folder: Path, target: Path) -> None:
    found = models_inside(target)
    if found is not None and not missing_files(target.name, found):
        return  # another process was faster
    if target.is_dir():
        target.rmdir()  # Windows does not replace even an empty folder
    os.replace(folder, target)


def _how_to_install(name: str, url: str, error: Exception) -> list[str]:
    files = KNOWN_PACKS.get(name)
    reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
    lines = [
        f"The model pack {name} is not on this computer and could not be downloaded ({reason}). Nothing was measured.",
        f"  What is missing: {', '.join(files)}" if files else f"  What is missing: the .onnx files of {name}",
        f"  Where to get it: {url}",
        f"  Where to put it: unzip it into {MODELS_FOLDER / name} and run the same command again.",
    ]
    if files is None:
        lines.append(f"  Known packs: {', '.join(pack for pack in KNOWN_PACKS if pack != DEMO_PACK)}.")
    return lines
