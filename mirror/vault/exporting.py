"""Prepared folders as trainers take them: `organized/`, `lora_ready/<repeats>_<name>/` and `manifest.json`."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mirror.contracts.contract import write_contract
from mirror.contracts.vault import ExportedPerson, Manifest, Prepared
from mirror.vault.preparing import ORGANIZED, folder_name
from utils.files import timestamp, write_bytes_atomic

LORA, MANIFEST = "lora_ready", "manifest.json"
_CAPTIONS = (".txt", ".caption")


def export(made: list[Prepared], output: Path, form: str, links: bool, repeats: int, pack: str) -> Path:
    """Write what `form` (organized, lora or json) asks for beside the prepared folders; path of the manifest."""
    persons = []
    for one in made:
        folder = output / ORGANIZED / folder_name(one.person)
        if form == "lora":
            folder = _lora_folder(one, folder, output / LORA / f"{repeats}_{folder.name}", links)
        place = folder.relative_to(output).as_posix()
        persons.append(ExportedPerson(person=one.person, folder=place, images=len(one.images)))
    path = output / MANIFEST
    write_contract(path, Manifest(created=timestamp(), pack=pack, persons=persons))
    return path


def _lora_folder(one: Prepared, source: Path, target: Path, links: bool) -> Path:
    """kohya's folder: repeats in its name, pictures and captions inside, nothing else."""
    target.mkdir(parents=True, exist_ok=True)
    for image in one.images:
        for path in (source / image.file, *((source / image.file).with_suffix(suffix) for suffix in _CAPTIONS)):
            if path.is_file():
                _place(path, target / path.name, links and path.name == image.file)
    wanted = {image.file for image in one.images}
    stems = {Path(name).stem for name in wanted}
    own = f"{folder_name(one.person)}_"
    for path in target.iterdir():  # pictures of an earlier export that this one does not want
        if path.name.startswith(own) and path.stem not in stems and path.suffix not in _CAPTIONS:
            path.unlink()
    return target


def _place(source: Path, target: Path, links: bool) -> None:
    """A link where it is asked for and possible, else a copy; captions that are there already are somebody's own."""
    if target.exists() and (target.suffix in _CAPTIONS or target.stat().st_size == source.stat().st_size):
        return
    if links:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
        with contextlib.suppress(OSError):
            target.symlink_to(os.path.relpath(source, target.parent))
            return
    write_bytes_atomic(target, source.read_bytes())
    shutil.copystat(source, target)
