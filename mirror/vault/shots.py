"""The photos of one person: where that person's face is in each, and who else is in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mirror.dataset.buckets import Box
from mirror.faces.cache import content_hash
from mirror.vault.crops import upright_box, upright_size
from mirror.vault.store import Face, StoredPicture, VaultStore
from utils.console import UserError
from utils.decoding import ImageError
from utils.files import Status
from utils.images import read_file


@dataclass(frozen=True)
class Shot:
    """One photo of the person."""

    face: Face
    picture: StoredPicture
    others: tuple[Face, ...]  # everybody else's faces in it

    @property
    def source(self) -> Path:
        """One of the files that hold it: the first by name."""
        return min(self.picture.paths)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Of the picture as it stands upright; the boxes too."""
        return upright_size(self.picture.size_wh, self.face.turned_deg)

    @property
    def face_box(self) -> Box:
        return self._upright(self.face)

    @property
    def other_boxes(self) -> list[Box]:
        return [self._upright(one) for one in self.others]

    def _upright(self, face: Face) -> Box:
        return upright_box(face.box_xyxy, self.picture.size_wh, self.face.turned_deg)


def read_photo(shot: Shot) -> tuple[Path, bytes]:
    """The first of its files that still holds what was scanned, and its bytes. Raises ImageError."""
    problem = None
    for path in sorted(shot.picture.paths):
        try:
            data = read_file(path, math.inf)  # within the limit when it was scanned
        except ImageError as error:
            problem = problem or error
            continue
        if content_hash(data) == shot.picture.content:
            return path, data
        problem = ImageError(Status.UNREADABLE, "was changed since the scan: scan again")
    raise problem


def named_persons(store: VaultStore) -> dict[str, int]:
    """Number by name, of the persons who have one and are to be kept, in the order of names."""
    rows = store.ask("SELECT name, id FROM persons WHERE name IS NOT NULL AND name != '' AND kept ORDER BY name")
    return dict(rows)


def name_of(store: VaultStore, asked: str) -> str:
    """The name of a person who is asked for by it, or by a cluster's number. Raises UserError as `person_named`."""
    persons = named_persons(store)
    number = asked.removeprefix("cluster ").strip()
    if asked not in persons and number.isdecimal():
        asked = next((name for name, person in persons.items() if person == int(number)), number)
    person_named(store, asked)
    return asked


def person_named(store: VaultStore, name: str) -> int:
    """The number of a person. Raises UserError naming those that are known."""
    persons = named_persons(store)
    if name in persons:
        return persons[name]
    if name.isdecimal():
        raise _no_name(store, name)
    if store.ask("SELECT 1 FROM persons WHERE name = ?", name):
        raise UserError(f"{name} is marked as not a person to keep: facevault.py label {name} {name} changes that.")
    known = f"known: {', '.join(persons)}" if persons else "nobody has a name yet"
    raise UserError(
        f"Nobody in {store.path} is called {name}; {known}. facevault.py label CLUSTER {name} gives a name."
    )


def _no_name(store: VaultStore, number: str) -> UserError:
    rows = store.ask("SELECT name FROM persons WHERE CAST(id AS TEXT) = ?", number)
    if not rows:
        return UserError(f"There is no cluster {number}. facevault.py label shows which there are.")
    if rows[0][0]:
        return UserError(f"Cluster {number} is not a person to keep: facevault.py label {number} NAME changes that.")
    return UserError(f"Cluster {number} has no name yet: facevault.py label {number} NAME gives one.")


def shots_of(store: VaultStore, person: int) -> list[Shot]:
    """Every photo of the person that is there, by file name."""
    return shots_by_person(store).get(person, [])


def shots_by_person(store: VaultStore) -> dict[int, list[Shot]]:
    """The photos of each person, by file name."""
    pictures, by_content = store.pictures(), {}
    for face in store.faces():
        by_content.setdefault(face.content, []).append(face)
    found: dict[int, list[Shot]] = {}
    for content, faces in by_content.items():
        for face in faces:
            if face.person is not None and content in pictures:
                others = tuple(one for one in faces if one.id != face.id)
                found.setdefault(face.person, []).append(Shot(face, pictures[content], others))
    return {person: sorted(shots, key=lambda one: one.source) for person, shots in found.items()}
