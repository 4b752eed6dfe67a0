"""Photos of persons as folders that other programs take, and `manifest.json`, which lists them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mirror.contracts.contract import demand_own, write_contract
from mirror.contracts.prepared import ExportedPerson, ExportedPhoto, Manifest, PreparedSet
from mirror.vault.captions import Captions, measured, words_for
from mirror.vault.choices import LORA_READY, MANIFEST, METADATA, ORGANIZED, REPEATS
from mirror.vault.crops import Window
from mirror.vault.preparation import Preparation, Settings, duplicates_in, with_trigger
from mirror.vault.shots import Shot, name_of, named_persons, person_named, shots_by_person
from mirror.vault.store import VaultStore
from utils.console import UserError, print_table, show
from utils.files import disk_errors_as, folder_of, readable, timestamp


def export(store: VaultStore, args: argparse.Namespace) -> None:
    """Write what was asked for. Raises UserError where nobody has a name."""
    persons = _wanted(store, args)
    manifest_path = args.output / MANIFEST
    demand_own(manifest_path, "facevault.py")
    shots, stored = shots_by_person(store), Captions(store).all()
    exported, rows = [], []
    for name, person in persons.items():
        folder, said = None, "listed"
        if args.format != "json" and shots.get(person):
            folder, said = _write(store, args, name, person)
        mine = [_photo(store, one, stored) for one in shots.get(person, [])]
        exported.append(ExportedPerson(name=name, folder=None if folder is None else str(folder), photos=mine))
        rows.append([name, str(len(mine)), said])
    manifest = Manifest(created=timestamp(), format=args.format, persons=exported)
    with disk_errors_as(f"{manifest_path} cannot be written"):
        write_contract(manifest_path, manifest)
    print_table("Exported", ["Person", "Photos", ""], rows, numbers=False)
    show(f"manifest: {manifest_path}")


def _wanted(store: VaultStore, args: argparse.Namespace) -> dict[str, int]:
    if args.person is not None:
        name = name_of(store, args.person)
        return {name: person_named(store, name)}
    persons = named_persons(store)
    if not persons:
        raise UserError("Nobody has a name yet: facevault.py label CLUSTER NAME gives one.")
    folders: dict[str, str] = {}
    for name in persons:
        other = folders.setdefault(folder_of(name).casefold(), name)
        if other != name:
            raise UserError(f"{other} and {name} would share a folder: rename one of them with facevault.py label.")
    return persons


def _write(store: VaultStore, args: argparse.Namespace, name: str, person: int) -> tuple[Path, str]:
    """The folder of a person, and what became of it."""
    is_lora = args.format == "lora"
    folder = args.output / (LORA_READY if is_lora else ORGANIZED) / folder_of(name)
    if not is_lora and _is_dataset(folder, name):
        return folder, f"prepared already by prep, left as it is: {folder}"
    settings = Settings(
        trigger=args.trigger or "",
        size=args.size,
        crop=is_lora,
        min_face=args.min_face if is_lora else 1,
        repeats=REPEATS if is_lora else None,
        links=args.symlink,
        exported=True,
    )
    job = Preparation(store, name, person, folder, with_trigger(store, name, settings))
    prepared = job.run(duplicates_in(store, args.output), args.restore)
    left = f", {len(prepared.left_out)} left out" if prepared.left_out else ""
    how = "".join(f", {count} of them as {way}" for way, count in job.linked.items())
    return folder, f"{len(prepared.pictures)} pictures{how}{left}: {folder}"


def _is_dataset(folder: Path, name: str) -> bool:
    """Whether prep made the folder for this person: an export would undo what was chosen there."""
    path = folder / METADATA
    try:
        known = PreparedSet.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return False  # nothing, or what an export then refuses by name
    return known.person == name and not known.settings.get("exported")


def _photo(store: VaultStore, shot: Shot, stored: dict) -> ExportedPhoto:
    whole = Window((0, 0, *shot.size_wh), shot.size_wh)
    words, _ = words_for(shot, measured(store, shot, whole), stored.get(shot.face.id))
    return ExportedPhoto(
        source=readable(str(shot.source)),
        content=shot.picture.content,
        face_xyxy=shot.face.box_xyxy,
        score=shot.face.score,
        yaw_deg=shot.face.yaw_deg,
        caption=words,
    )
