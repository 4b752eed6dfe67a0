"""The folders that mirror_metrics.py reads: what is in them, group by group, and what was ignored."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mirror.contracts.summary import BASELINE, CANDIDATE, HELD_OUT, REFERENCE
from mirror.faces.measurer import Picture
from utils.console import UserError
from utils.files import readable
from utils.images import demand_folder, holds_pictures, list_images, list_subfolders
from utils.simulation import said_of

HOLDOUT = "holdout"  # sub-folder of the references that is found by itself
LOOSE = "(no folder)"  # group of pictures that lie beside the LoRA folders


@dataclass(frozen=True)
class Folders:
    """Where pictures are to be found."""

    reference: Path
    candidates: Path | None  # None: the default folder is not there, and references alone are a full run
    asked_candidates: Path  # where candidates belong
    holdout: Path | None
    recursive: bool
    extensions: tuple[str, ...]
    baseline: Path | None = None  # images that were made without a LoRA, where they do not lie among the candidates


@dataclass
class Inputs:
    """Everything found in the folders."""

    references: list[Picture]
    candidates: list[Picture]
    groups: list[tuple[str, str]]  # (type, name), empty folders included
    held_out: list[Picture] = field(default_factory=list)  # real photos that no LoRA was trained on
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def collect(folders: Folders) -> Inputs:
    """List references and candidates. Raises UserError where there is nothing to do."""
    reference = existing_folder(folders.reference, "--reference")
    inputs = Inputs([], [], [(REFERENCE, REFERENCE)])
    inputs.references = _pictures(inputs, REFERENCE, REFERENCE, reference, folders)
    if folders.holdout is not None:
        inputs.groups.append((REFERENCE, HELD_OUT))
        inputs.held_out = _pictures(inputs, REFERENCE, HELD_OUT, existing_folder(folders.holdout, "--holdout"), folders)
    root = folders.candidates
    if root is not None:
        loose = _pictures(inputs, CANDIDATE, LOOSE, root, folders)
        names = {LOOSE} if loose else set()
        inputs.groups += [(CANDIDATE, name) for name in names]
        inputs.candidates += loose
        for folder in list_subfolders(root):
            name = _not_yet(readable(folder.name), names)
            inputs.groups.append((CANDIDATE, name))
            try:
                found = _pictures(inputs, CANDIDATE, name, folder, folders)
            except UserError as error:  # one group that cannot be opened must not stop the others
                found = []
                inputs.warnings.append(str(error))
            else:
                inputs.warnings += [] if found else [f"{folder} holds no pictures."]
            inputs.candidates += found
    if folders.baseline is not None:
        _add_baseline(inputs, folders, folders.baseline)
    inputs.warnings += _simulated(inputs)
    inputs.warnings = [readable(warning) for warning in inputs.warnings]
    if not inputs.references:
        raise UserError(*_what_to_put_where(folders, bool(inputs.candidates)))
    return inputs


def found_holdout(reference: Path, extensions: tuple[str, ...]) -> Path | None:
    """The references' own folder of held-out photos, where there is one with pictures in it."""
    folder = reference / HOLDOUT
    return folder if folder.is_dir() and holds_pictures(folder, extensions) else None


def _add_baseline(inputs: Inputs, folders: Folders, folder: Path) -> None:
    """The group of images without a LoRA. Raises UserError."""
    if (CANDIDATE, BASELINE) in inputs.groups:
        raise UserError(f"There are two baselines: {folder} and the folder {BASELINE} among the candidates. Keep one.")
    inputs.groups.append((CANDIDATE, BASELINE))
    found = _pictures(inputs, CANDIDATE, BASELINE, existing_folder(folder, "--baseline"), folders)
    if not found:
        raise UserError(f"{folder} holds no pictures. --baseline takes images that were made without a LoRA.")
    inputs.candidates += found


def _pictures(inputs: Inputs, kind: str, group: str, folder: Path, folders: Folders) -> list[Picture]:
    """Pictures of one group; what was passed over goes into `inputs`. Raises UserError."""
    listing = list_images(folder, folders.recursive and group != LOOSE, folders.extensions)
    inputs.ignored.update(listing.ignored)
    inputs.warnings += listing.problems
    left_out = [sub for sub in listing.subfolders if group != LOOSE and holds_pictures(sub, folders.extensions)]
    if group == REFERENCE and kind == REFERENCE and folders.holdout not in (None, folder):  # they are no references
        left_out = [sub for sub in left_out if sub != folders.holdout]
        listing.images = [path for path in listing.images if not path.is_relative_to(folders.holdout)]
    if left_out:
        sentence = f"{folder}: {len(left_out)} sub-folder(s) with pictures were left out; --recursive takes them in."
        inputs.warnings.append(sentence)
    names: set[str] = set()
    return [
        Picture(kind, group, _not_yet(readable(path.relative_to(folder).as_posix()), names), path)
        for path in listing.images
    ]


def _simulated(inputs: Inputs) -> list[str]:
    """What generators say of groups that they only simulated."""
    folders = {picture.path.parent: picture.group for picture in inputs.candidates}
    said = {group: words for folder, group in folders.items() if (words := said_of(folder))}
    return [
        f"The images of {', '.join(group for group in said if said[group] == words)} are {words}."
        for words in dict.fromkeys(said.values())
    ]


def _not_yet(name: str, names: set[str]) -> str:
    """`name`, or with a number behind it where `names` has it already; added to `names`."""
    unique, number = name, 1
    while unique in names:
        number += 1
        unique = f"{name} ({number})"
    names.add(unique)
    return unique


def existing_folder(path: Path, option: str) -> Path:
    return demand_folder(path, f"{option} takes the folder that holds the pictures.")


def _what_to_put_where(folders: Folders, has_candidates: bool) -> tuple[str, ...]:
    suffixes = ", ".join(folders.extensions)
    candidates = f"{folders.asked_candidates}{os.sep}<one folder for each LoRA>"
    without_photos = "There are generated images, but no real photos to compare them with."
    return (
        without_photos if has_candidates else "There are no pictures yet.",
        f"  Put real photos of the person ({suffixes}) into  {folders.reference}",
        f"  and, if you have them, generated images into     {candidates}",
        "  then run the same command again. Photos alone are enough for a check of the dataset before training.",
        "  To see it at work without photos: --demo",
    )
