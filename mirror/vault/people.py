"""Persons of a vault: clusters with numbers, names, and what somebody corrected. Every act can be undone.

An act on a cluster fixes the faces that it has at that moment (`pins`): they stay together in every later clustering.
A face that is taken out is banned from the cluster. What was not touched is clustered anew each time.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mirror.vault.clustering import NOBODY, Known, is_turned, persons
from mirror.vault.store import Face, VaultStore
from utils.console import UserError, printable
from utils.files import timestamp


@dataclass(frozen=True)
class Person:
    """A cluster; `name` is None until somebody gives one, `kept` is False for "not a person to keep"."""

    id: int
    name: str | None
    kept: bool

    @property
    def called(self) -> str:
        return self.name or f"cluster {self.id}"


@dataclass(frozen=True)
class Clustered:
    """What a clustering found: the person of each face, by the face's number; None is in no cluster."""

    person_of: dict[int, int | None]
    new: int  # clusters that were not there before

    @property
    def sizes(self) -> Counter[int]:
        return Counter(person for person in self.person_of.values() if person is not None)


def all_persons(store: VaultStore) -> dict[int, Person]:
    """By number."""
    rows = store.ask("SELECT id, name, kept FROM persons ORDER BY id")
    return {number: Person(number, name, bool(kept)) for number, name, kept in rows}


def recluster(store: VaultStore, threshold: float, min_cluster: int, preview: bool = False) -> Clustered:
    """Cluster all faces that are there. With `preview` nothing is written, and new clusters have negative numbers."""
    faces = store.faces()
    contents: dict[str, int] = {}
    pictures = [contents.setdefault(face.content, len(contents)) for face in faces]
    turned = is_turned(np.array([face.yaw_deg for face in faces]))
    labels = persons(store.embeddings(faces), pictures, threshold, min_cluster, _known(store, faces), turned)
    numbers = _numbers(store, faces, labels.tolist())
    new = sorted({number for number in numbers.values() if number < 0}, reverse=True)
    if not preview:
        with store.change() as db:
            for number in new:
                added = db.execute("INSERT INTO persons (name, kept) VALUES (NULL, 1)").lastrowid
                numbers = {label: added if one == number else one for label, one in numbers.items()}
            person_of = _person_of(faces, labels.tolist(), numbers)
            changed = [(person_of[face.id], face.id) for face in faces if person_of[face.id] != face.person]
            db.executemany("UPDATE faces SET person = ? WHERE id = ?", changed)
            _drop_empty(db)
    return Clustered(_person_of(faces, labels.tolist(), numbers), len(new))


def _person_of(faces: list[Face], labels: list[int], numbers: dict[int, int]) -> dict[int, int | None]:
    return {face.id: numbers.get(label) for face, label in zip(faces, labels, strict=True)}


def _known(store: VaultStore, faces: list[Face]) -> Known:
    """What somebody said, by the place of a face in `faces`."""
    place = {face.id: i for i, face in enumerate(faces)}
    owner = {place[face]: person for face, person in store.ask("SELECT face, person FROM pins") if face in place}
    banned: dict[int, frozenset[int]] = {}
    for face, person in store.ask("SELECT face, person FROM bans"):
        if face in place:
            banned[place[face]] = banned.get(place[face], frozenset()) | {person}
    return Known(owner, banned)


def _numbers(store: VaultStore, faces: list[Face], labels: list[int]) -> dict[int, int]:
    """Number of the person that each label is: the pinned one, else the one that most of its faces had, else a new one
    below 0. A number is given once, the largest cluster first."""
    pins = dict(store.ask("SELECT face, person FROM pins"))
    groups: dict[int, list[Face]] = {}
    for face, label in zip(faces, labels, strict=True):
        if label != NOBODY:
            groups.setdefault(label, []).append(face)
    numbers: dict[int, int] = {}
    for label, members in groups.items():
        pinned = {pins[face.id] for face in members if face.id in pins}
        if pinned:
            numbers[label] = pinned.pop()
    taken = set(numbers.values()) | set(pins.values())
    for label, members in sorted(groups.items(), key=lambda one: -len(one[1])):
        if label in numbers:
            continue
        before = Counter(face.person for face in members if face.person is not None and face.person not in taken)
        numbers[label] = before.most_common(1)[0][0] if before else -1 - len(numbers)
        taken.add(numbers[label])
    return numbers


def _drop_empty(db) -> None:
    """Clusters without a face, a name or a correction."""
    db.execute(
        "DELETE FROM persons WHERE name IS NULL AND kept "
        "AND id NOT IN (SELECT person FROM faces WHERE person NOT NULL) "
        "AND id NOT IN (SELECT person FROM pins) AND id NOT IN (SELECT person FROM bans)"
    )


# Acts. Each raises UserError where it is not possible, and then nothing is changed.


def find(store: VaultStore, asked: str) -> Person:
    """The cluster of this number or name."""
    people = all_persons(store)
    named = [person for person in people.values() if person.name == asked]
    number = asked.removeprefix("cluster ").strip()
    if not named and number.isdecimal() and int(number) in people:
        named = [people[int(number)]]
    if not named:
        raise UserError(f"There is no cluster {printable(asked)}. facevault.py label shows which there are.")
    return named[0]


def name(store: VaultStore, asked: str, new_name: str) -> str:
    """Name a cluster. A name that another one has already merges the two."""
    person, new_name = find(store, asked), new_name.strip()
    if not new_name or not new_name.isprintable():
        raise UserError(f"{printable(new_name)!r} is no name: it takes letters that can be printed.")
    if new_name.isdecimal():
        raise UserError(f"{new_name} is no name: clusters are called by numbers.")
    same = [one for one in all_persons(store).values() if one.name == new_name and one.id != person.id]
    if same:
        return merge(store, new_name, asked)
    if person.name is None:
        what = f"{person.called} is {new_name}"
    elif person.name != new_name:
        what = f"{person.name} is called {new_name} now"
    else:
        what = f"cluster {person.id} is called {new_name} " + ("already" if person.kept else "and kept again")
    with _act(store, what) as said:
        _pin(store, person.id)
        with store.change() as db:
            db.execute("UPDATE persons SET name = ?, kept = 1 WHERE id = ?", (new_name, person.id))
    return said


def merge(store: VaultStore, asked: str, other: str) -> str:
    """Make `other` part of the first cluster."""
    one, two = find(store, asked), find(store, other)
    if one.id == two.id:
        raise UserError(f"{one.called} and {printable(other)} are the same cluster.")
    if one.name and two.name and one.name != two.name:
        raise UserError(f"{one.name} and {two.name} are two names. Rename one of them to the other to merge them.")
    both = store.ask(
        "SELECT content FROM faces WHERE person = ? INTERSECT SELECT content FROM faces WHERE person = ?",
        one.id,
        two.id,
    )
    if both:
        picture = store.pictures().get(both[0][0])
        where = printable(str(picture.paths[0])) if picture else "one picture"
        raise UserError(f"{one.called} and {two.called} are both in {where}: two faces of one picture are two persons.")
    with _act(store, f"{two.called} is merged into {one.called}") as said, store.change() as db:
        _pin(store, one.id)
        _pin(store, two.id)
        db.execute("UPDATE pins SET person = ? WHERE person = ?", (one.id, two.id))
        db.execute("UPDATE faces SET person = ? WHERE person = ?", (one.id, two.id))
        db.execute("UPDATE OR REPLACE bans SET person = ? WHERE person = ?", (one.id, two.id))
        db.execute("DELETE FROM bans WHERE EXISTS (SELECT 1 FROM pins WHERE face = bans.face AND person = bans.person)")
        db.execute("UPDATE persons SET name = coalesce(name, ?) WHERE id = ?", (two.name, one.id))
        db.execute("DELETE FROM persons WHERE id = ?", (two.id,))
    return said


def split(store: VaultStore, asked: str, chosen: list[int]) -> str:
    """Make the `chosen` faces of a cluster a new one; without any, the half that is least like the rest."""
    person = find(store, asked)
    faces = [face for face in store.faces() if face.person == person.id]
    if len(faces) < 2:
        raise UserError(f"{person.called} has {len(faces)} face(s): there is nothing to split.")
    if chosen:
        strange = sorted(set(chosen) - {face.id for face in faces})
        if strange:
            raise UserError(f"Face {strange[0]} is not in {person.called}.")
    else:
        chosen = _smaller_half(store, faces)
    if len(set(chosen)) == len(faces):
        raise UserError(f"These are all faces of {person.called}: there is nothing to split.")
    what = f"{len(set(chosen))} of {len(faces)} faces of {person.called} are a new cluster"
    with _act(store, what) as said, store.change() as db:
        _pin(store, person.id)
        new = db.execute("INSERT INTO persons (name, kept) VALUES (NULL, 1)").lastrowid
        for table, column in (("pins", "face"), ("faces", "id")):
            db.executemany(f"UPDATE {table} SET person = ? WHERE {column} = ?", [(new, one) for one in chosen])
    return f"{said}: cluster {new}"


def _smaller_half(store: VaultStore, faces: list[Face]) -> list[int]:
    """Faces of the smaller of two groups that k-means finds."""
    from sklearn.cluster import KMeans

    labels = KMeans(2, n_init=10, random_state=0).fit_predict(store.embeddings(faces))
    smaller = int(labels.sum() * 2 <= len(labels))
    return [face.id for face, label in zip(faces, labels, strict=True) if label == smaller]


def take_out(store: VaultStore, chosen: list[int]) -> str:
    """Faces that are not of the cluster that they are in."""
    faces = {face.id: face for face in store.faces()}
    for one in chosen:
        if one not in faces:
            raise UserError(f"There is no face {one}. labels.json and the page show their numbers.")
        if faces[one].person is None:
            raise UserError(f"Face {one} is in no cluster.")
    with _act(store, f"{len(chosen)} face(s) taken out of their clusters") as said, store.change() as db:
        for one in chosen:
            person = faces[one].person
            _pin(store, person)
            db.execute("DELETE FROM pins WHERE face = ?", (one,))
            db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?)", (one, person))
            db.execute("UPDATE faces SET person = NULL WHERE id = ?", (one,))
    return said


def not_a_person(store: VaultStore, asked: str) -> str:
    """A cluster that nobody needs: strangers, statues, posters. It stays visible, and is left out of exports."""
    person = find(store, asked)
    with _act(store, f"{person.called} is not a person to keep") as said, store.change() as db:
        _pin(store, person.id)
        db.execute("UPDATE persons SET kept = 0 WHERE id = ?", (person.id,))
    return said


def undo(store: VaultStore) -> str:
    """Take the last act back; what a clustering changed since then stays."""
    rows = store.ask("SELECT id, what, changes FROM acts ORDER BY id DESC LIMIT 1")
    if not rows:
        raise UserError("There is nothing to undo.")
    number, what, changes = rows[0]
    with store.change() as db:
        for table, key, before, after in json.loads(changes):
            if _row(store, table, key) == after:
                _put_row(db, table, key, before)
        db.execute("DELETE FROM acts WHERE id = ?", (number,))
    return f"Undone: {what}"


def _pin(store: VaultStore, person: int) -> None:
    with store.change() as db:
        db.execute("INSERT OR REPLACE INTO pins SELECT id, person FROM faces WHERE person = ?", (person,))


@contextlib.contextmanager
def _act(store: VaultStore, what: str) -> Iterator[str]:
    """One transaction, and what it changed, kept for `undo`."""
    with store.change() as db:
        before = _rows(store)
        yield what
        after = _rows(store)
        keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        changes = [[table, key, before.get((table, key)), after.get((table, key))] for table, key in keys]
        row = (timestamp(), what, json.dumps(changes))
        db.execute("INSERT INTO acts (at, what, changes) VALUES (?, ?, ?)", row)


_TABLES = {  # key columns, value columns
    "persons": (("id",), ("name", "kept")),
    "pins": (("face",), ("person",)),
    "bans": (("face", "person"), ()),
    "faces": (("id",), ("person",)),
}


def _rows(store: VaultStore) -> dict[tuple[str, str], list]:
    """Every row that an act may change, by table and key."""
    found = {}
    for table, (keys, values) in _TABLES.items():
        for row in store.ask(f"SELECT {', '.join((*keys, *values))} FROM {table}"):
            found[table, json.dumps(row[: len(keys)])] = list(row[len(keys) :])
    return found


def _row(store: VaultStore, table: str, key: str) -> list | None:
    keys, values = _TABLES[table]
    where = " AND ".join(f"{one} = ?" for one in keys)
    rows = store.ask(f"SELECT {', '.join(values) or '1'} FROM {table} WHERE {where}", *json.loads(key))
    return (list(rows[0]) if values else []) if rows else None


def _put_row(db, table: str, key: str, row: list | None) -> None:
    keys, values = _TABLES[table]
    where = " AND ".join(f"{one} = ?" for one in keys)
    if row is None:
        db.execute(f"DELETE FROM {table} WHERE {where}", json.loads(key))
    elif table == "faces":  # the face itself is no act's to make
        db.execute(f"UPDATE faces SET person = ? WHERE {where}", (*row, *json.loads(key)))
    else:
        marks = ", ".join("?" * (len(keys) + len(values)))
        columns = ", ".join((*keys, *values))
        db.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", (*json.loads(key), *row))
