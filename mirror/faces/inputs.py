"""The folders that mirror_metrics.py reads: what is in them, group by group, and what was ignored."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mirror.contracts.generation import loras_in
from mirror.contracts.summary import BASELINE, CANDIDATE, HELD_OUT, REFERENCE
from mirror.faces.measurer import Picture
from mirror.faces.steps import ONETRAINER, Mark, by_step, group_name, mark_of, sample_mark_of
from utils.console import UserError
from utils.files import readable
from utils.images import demand_folder, holds_pictures, list_images, list_subfolders
from utils.simulation import said_of

HOLDOUT = "holdout"  # sub-folder of the references that is found by itself
LOOSE = "(no folder)"  # group of pictures that lie beside the LoRA folders
_PROMPT_FOLDER = re.compile(r"\d+ - |custom$")  # OneTrainer's folders of samples, one a prompt


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
        _split_by_names(inputs, LOOSE, loose, root)
        for folder in [root] if _is_by_prompt(root) else list_subfolders(root):
            names |= {group for kind, group in inputs.groups if kind == CANDIDATE}
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
            _split_by_names(inputs, name, found, folder)
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


def _is_by_prompt(folder: Path) -> bool:
    """Whether a folder is OneTrainer's folder of samples: of all steps, in one sub-folder for each prompt."""
    try:
        inside = list_subfolders(folder)
    except UserError:  # told when it is listed
        return False
    return bool(inside) and all(_PROMPT_FOLDER.match(one.name) for one in inside) and any(map(_holds_samples, inside))


def _holds_samples(folder: Path) -> bool:
    try:
        return any(ONETRAINER in path.name for path in list_images(folder).images)
    except UserError:
        return False


def _mark_of_file(path: Path) -> Mark | None:
    return sample_mark_of(readable(path.name))


def _split_by_names(inputs: Inputs, name: str, pictures: list[Picture], folder: Path) -> None:
    """Trainers put the samples of all steps into one folder: a group for each, where their file names tell steps."""
    marks = {id(one): _mark_of_file(one.path) for one in pictures}
    count = _split(inputs, name, pictures, marks)
    if count:
        inputs.warnings.append(f"{folder}: sample images of {count} steps, told by their file names, one group each.")


def split_by_prompts(inputs: Inputs) -> list[str]:
    """The same where names tell nothing, but prompts load a LoRA of several steps, as <lora:name-000004:1> does.

    A sentence for each folder that became several groups. Prompts must have been read.
    """
    sentences = []
    for name in [name for kind, name in inputs.groups if kind == CANDIDATE and not mark_of(name)]:
        pictures = [one for one in inputs.candidates if one.group == name]
        told = {id(one): _marks_in(one) for one in pictures}
        numbers = {(mark.series, mark.unit, mark.number) for marks in told.values() for mark in marks}
        runs = Counter((series, unit) for series, unit, _ in numbers)
        several = [run for run, count in runs.items() if count > 1]
        if len(several) == 1:  # else two LoRAs change from picture to picture
            marks = {key: next((m for m in one if (m.series, m.unit) == several[0]), None) for key, one in told.items()}
            count = _split(inputs, name, pictures, marks)
            sentences.append(f"{name}: images of {count} steps of a LoRA, told by their prompts, one group each.")
    return sentences


def _marks_in(picture: Picture) -> list[Mark]:
    prompt = picture.origin.prompt if picture.origin else None
    return [mark for name in loras_in(prompt or "") if (mark := mark_of(name))]


def _split(inputs: Inputs, name: str, pictures: list[Picture], marks: dict[int, Mark | None]) -> int:
    """Move pictures of the group `name` into one group for each step; what tells none stays. How many steps, or 0."""
    steps = by_step(list(marks.values()))
    if steps is None or name == BASELINE:
        return 0
    taken = {group for _, group in inputs.groups}
    with_series = len({mark.series for mark in steps}) > 1
    folder = "" if name == LOOSE else name
    new = {
        (mark.series, mark.unit, mark.number): _not_yet(group_name(folder, mark, with_series), taken) for mark in steps
    }
    for one in pictures:
        if (mark := marks[id(one)]) is not None:
            one.group = new[mark.series, mark.unit, mark.number]
    place = inputs.groups.index((CANDIDATE, name))
    stays = [(CANDIDATE, name)] if any(mark is None for mark in marks.values()) else []
    inputs.groups[place : place + 1] = [*stays, *((CANDIDATE, group) for group in new.values())]
    order = {group: number for number, (kind, group) in enumerate(inputs.groups) if kind == CANDIDATE}
    inputs.candidates.sort(key=lambda one: order[one.group])
    return len(new)


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
    deep = folders.recursive or (kind == CANDIDATE and _is_by_prompt(folder))
    listing = list_images(folder, deep and group != LOOSE, folders.extensions)
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
