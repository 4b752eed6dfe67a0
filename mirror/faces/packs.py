"""Model packs: which folder, whether it is complete, who it is.

A pack is a folder of ONNX files as InsightFace lays them out. Scores of different packs do not mix, so a pack that is
asked for is found, or downloaded whole, or the run stops: nothing else ever takes its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from utils.console import UserError
from utils.defaults import DEMO_PACK, EXPRESSION_FILES, MODELS_FOLDER, PACK
from utils.files import reason_of

INSIGHTFACE_FOLDER = Path("~/.insightface/models")

# The files of InsightFace's packs that are used here (python-package/README.md of that project; its 2-D landmark model
# is never run). A folder that lacks one is not that pack.
KNOWN_PACKS = {
    "buffalo_l": ("det_10g.onnx", "w600k_r50.onnx", "1k3d68.onnx", "genderage.onnx"),
    "buffalo_m": ("det_2.5g.onnx", "w600k_r50.onnx", "1k3d68.onnx", "genderage.onnx"),
    "buffalo_s": ("det_500m.onnx", "w600k_mbf.onnx", "1k3d68.onnx", "genderage.onnx"),
    "buffalo_sc": ("det_500m.onnx", "w600k_mbf.onnx"),
    "antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx", "1k3d68.onnx", "genderage.onnx"),
    DEMO_PACK: ("det_demo.onnx", "rec_demo.onnx", "lmk_demo.onnx", "age_demo.onnx"),  # ours: demo/train_face.py
}
_INSIGHTFACE_LICENCE = (
    "InsightFace model pack: for non-commercial research use only (github.com/deepinsight/insightface)"
)
_UNKNOWN_LICENCE = "licence not stated in the pack's folder; ask whoever made it"


class PackError(UserError):
    """The pack that was asked for cannot be used; nothing is measured."""


@dataclass(frozen=True)
class Pack:
    """A pack on this disk. `folder` holds the ONNX files themselves."""

    name: str
    folder: Path

    @property
    def files(self) -> list[Path]:
        """Everything that decides the scores, in a fixed order."""
        return sorted(p for p in self.folder.iterdir() if p.suffix.lower() in (".onnx", ".json") and p.is_file())

    def identity(self, hash_file: Callable[[Path], str]) -> str:
        """`name@` and 12 hex digits over the names and contents of all model files."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(f"{path.name}\0{hash_file(path)}\0".encode())
        return f"{self.name}@{digest.hexdigest()[:12]}"

    def licence(self) -> str:
        """One line: the pack's own licence file, or what is known of InsightFace's packs."""
        for path in sorted(self.folder.glob("LICEN[CS]E*")):
            lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            first = next((line for line in lines if line), "")
            if first:
                return first[:200]
        return _INSIGHTFACE_LICENCE if self.name in KNOWN_PACKS else _UNKNOWN_LICENCE


def find_pack(asked: str) -> Pack | None:
    """The pack `asked` for: a directory, or a name looked up in models/ and ~/.insightface/models/; None if not there.

    Raises PackError for a directory that is no complete pack.
    """
    if not asked.strip():
        raise PackError(f"--pack is empty; it takes a folder with a model pack, or its name, such as {PACK}.")
    directory = Path(asked).expanduser()
    is_path = os.sep in asked or "/" in asked or asked in (".", "..")
    if is_path or models_inside(directory) is not None:
        return _pack_in(directory)
    for parent in (MODELS_FOLDER, INSIGHTFACE_FOLDER.expanduser()):
        folder = models_inside(parent / asked)
        if folder is not None and not missing_files(asked, folder):
            return Pack(asked, folder.resolve())
    return None


def _pack_in(directory: Path) -> Pack:
    """The pack in a directory that was named. Raises PackError."""
    if not directory.is_dir():
        raise PackError(f"There is no folder {directory}; --pack takes a folder with a model pack, or its name.")
    folder = models_inside(directory)
    if folder is None:
        raise PackError(f"{directory} holds no .onnx files; --pack takes a folder with a model pack, or its name.")
    name = directory.resolve().name
    if folder.resolve().parent == (MODELS_FOLDER / DEMO_PACK).resolve():
        name = DEMO_PACK
    elif name == DEMO_PACK:
        name = "demo (another)"  # somebody's own pack that happens to lie in a folder of this name
    lacking = missing_files(name, folder)
    if lacking:
        raise PackError(f"{directory} is not a whole {name}: it lacks {', '.join(lacking)}.")
    return Pack(name, folder.resolve())


def demo_pack() -> Pack | None:
    """The pack that ships with the project, wherever the program is called from; None when it is not whole."""
    folder = models_inside(MODELS_FOLDER / DEMO_PACK)
    whole = folder is not None and not missing_files(DEMO_PACK, folder)
    return Pack(DEMO_PACK, folder.resolve()) if whole else None


def missing_demo_pack() -> str:
    """The sentence for a copy of the project whose own pack is not whole."""
    try:
        lacking = missing_files(DEMO_PACK, models_inside(MODELS_FOLDER / DEMO_PACK))
    except PackError as error:
        return str(error)
    files = ", ".join(lacking) or "its files"
    return (
        f"The demo pack in {MODELS_FOLDER / DEMO_PACK} is not whole ({files} missing). "
        "It comes with the project: fetch the project again."
    )


def missing_files(name: str, folder: Path | None) -> list[str]:
    """Files of the known pack `name` that `folder` lacks; empty for packs that are not known."""
    here = {path.name for path in folder.iterdir()} if folder is not None else set()
    return [file for file in KNOWN_PACKS.get(name, ()) if file not in here]


def models_inside(directory: Path) -> Path | None:
    """`directory`, or its one sub-folder, that holds .onnx files: some packs unzip into a folder of their own name.

    Raises PackError for a folder that holds several packs.
    """
    if not directory.is_dir():
        return None
    try:
        if _has_models(directory):
            return directory
        nested = [path for path in sorted(directory.iterdir()) if path.is_dir() and _has_models(path)]
    except OSError as error:
        raise PackError(f"{error.filename or directory} cannot be opened: {reason_of(error)}.") from error
    if len(nested) > 1:
        names = ", ".join(path.name for path in nested)
        raise PackError(f"{directory} holds several packs ({names}); name one of them.")
    return nested[0] if nested else None


def _has_models(folder: Path) -> bool:
    """Whether networks lie in it that may be a pack's: an expression model is none."""
    files = [path for path in folder.iterdir() if path.suffix.lower() == ".onnx" and path.is_file()]
    return not all(any(fnmatch(path.name, pattern) for pattern in EXPRESSION_FILES) for path in files)
