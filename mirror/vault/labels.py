"""What a vault says in files: `labels.json`, `duplicates.json`, the names that people write, the table of `stats`."""

from __future__ import annotations

import json
from pathlib import Path

from mirror.contracts.vault import DuplicateFile, DuplicateGroup, Duplicates, LabelledFace, LabelledPerson, Labels
from mirror.vault import duplicates
from mirror.vault.people import all_persons
from mirror.vault.store import Face, StoredPicture, VaultStore
from utils.console import UserError
from utils.files import Status, readable, reason_of, timestamp


def labels_of(store: VaultStore) -> Labels:
    """All clusters, named ones first, then by size; the clearest face of each stands first."""
    pictures, people = store.pictures(), all_persons(store)
    members: dict[int | None, list[Face]] = {number: [] for number in people}
    for face in store.faces():
        members.setdefault(face.person if face.person in people else None, []).append(face)
    order = sorted(people.values(), key=lambda one: (not one.kept, one.name is None, -len(members[one.id]), one.id))
    return Labels(
        created=timestamp(),
        pack=store.fact("pack") or "",
        persons=[
            LabelledPerson(
                cluster=one.id,
                name=one.name,
                kept=one.kept,
                faces=[_labelled(face, pictures) for face in sorted(members[one.id], key=by_clearness)],
            )
            for one in order
        ],
        unclustered=[_labelled(face, pictures) for face in members.get(None, [])],
    )


def by_clearness(face: Face) -> tuple[float, int]:
    """Sort key: clear, large, frontal faces first."""
    turn = max(0.2, 1 - abs(face.yaw_deg) / 90)
    return (-face.score * turn * min(1.0, face.sharpness / 500) * min(1.0, face.size / 200), face.id)


def _labelled(face: Face, pictures: dict[str, StoredPicture]) -> LabelledFace:
    return LabelledFace(
        face=face.id,
        file=_file(pictures[face.content].paths[0]),
        box_xyxy=face.box_xyxy,
        score=face.score,
        sharpness=face.sharpness,
        yaw_deg=face.yaw_deg,
    )


def read_names(path: Path) -> dict[str, str | None]:
    """Number or name of a cluster -> its name, None for "not a person"; of a plain JSON object, or of labels.json.

    Raises UserError.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error)}.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}).") from error
    if isinstance(found, dict) and isinstance(found.get("persons"), list):
        try:
            labels = Labels.model_validate(found)
        except ValueError as error:
            raise UserError(
                f"{path} is no labels.json as facevault.py writes it. Take a plain object instead."
            ) from error
        found = {str(one.cluster): one.name for one in labels.persons if one.name is not None}
    if not isinstance(found, dict) or not all(one is None or isinstance(one, str) for one in found.values()):
        raise UserError(
            f'{path} is to be an object such as {{"1": "alice", "2": null}}: a name or null for each cluster.'
        )
    return found


def stats_of(store: VaultStore) -> list[list[str]]:
    """Rows of (what, number)."""
    pictures, faces, people = store.pictures(), store.faces(), all_persons(store)
    files = list(store.files())
    sizes = dict.fromkeys(people, 0)
    for face in faces:
        if face.person in sizes:
            sizes[face.person] += 1
    named = sorted((one for one in people.values() if one.name and one.kept), key=lambda one: -sizes[one.id])
    rows = [
        ("files", sum(not vanished for *_, vanished in files)),
        ("of them not readable", sum(status is not None and not vanished for _, _, status, _, vanished in files)),
        ("vanished files", sum(vanished for *_, vanished in files)),
        ("different pictures", len(pictures)),
        ("pictures without a face", sum(one.status == Status.NO_FACE for one in pictures.values())),
        ("faces", len(faces)),
        ("faces in no cluster", sum(face.person not in people for face in faces)),
        ("clusters", sum(one.kept for one in people.values())),
        ("not persons to keep", sum(not one.kept for one in people.values())),
        *((f"faces of {one.name}", sizes[one.id]) for one in named),
    ]
    return [[what, f"{number:,}"] for what, number in rows]


def duplicates_of(store: VaultStore, most_bits: int) -> Duplicates:
    """All files that show the same as a better one, of those that are on the disk."""
    pictures = store.pictures_on_disk()
    found = {one.keep: one for one in duplicates.find_duplicates(store, most_bits)}
    dropped = {one.content: (keep, one) for keep, group in found.items() for one in group.duplicates}
    groups: dict[str, list[DuplicateFile]] = {}
    for content, picture in pictures.items():
        keep, one = dropped.get(content, (content, None))
        first, *same = picture.paths
        copies = [_duplicate(path, "exact", 0, 1.0, False, f"the same bytes as {_file(first)}") for path in same]
        if one is not None:
            copies.insert(0, _duplicate(first, one.kind, one.bits, one.likeness, one.mirrored, one.why))
        if copies:
            groups.setdefault(keep, []).extend(copies)
    return Duplicates(
        created=timestamp(),
        pictures=len(pictures),
        settings={
            "phash_threshold": most_bits,
            "likeness": duplicates.SAME_PICTURE,
            "burst_cosine": duplicates.BURST_COSINE,
            "burst_degrees": duplicates.BURST_DEG,
        },
        groups=sorted(
            (DuplicateGroup(keep=_file(pictures[keep].paths[0]), duplicates=files) for keep, files in groups.items()),
            key=lambda group: group.keep,
        ),
    )


def _duplicate(path: Path, kind: str, bits: int, likeness: float, mirrored: bool, why: str) -> DuplicateFile:
    return DuplicateFile(file=_file(path), kind=kind, bits=bits, likeness=likeness, mirrored=mirrored, why=why)


def _file(path: Path) -> str:
    return readable(str(path))


def thumbnails_of(store: VaultStore, found: Duplicates | None) -> tuple[dict[int, bytes], dict[str, bytes]]:
    """Small JPEGs for the page: of all faces by number, and of the files that duplicates.json names."""
    faces = dict(store.ask("SELECT id, thumbnail FROM faces"))
    named = (
        {file for group in found.groups for file in (group.keep, *(one.file for one in group.duplicates))}
        if found
        else ()
    )
    files = {_file(path): picture.content for picture in store.pictures().values() for path in picture.paths}
    return faces, {file: store.thumbnail_of(files[file]) for file in named if file in files}
