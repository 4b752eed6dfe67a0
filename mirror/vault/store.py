"""`vault.sqlite`, the one store of a photo library: pictures by content, faces, persons, corrections.

Every change is one transaction of SQLite in its write-ahead log, so a process that is killed leaves what was finished
and nothing half. A store belongs to one model pack, because the scores of two packs cannot be compared.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.console import UserError
from utils.files import Status, sha256_of

STORE = "vault.sqlite"
LOCK = "facevault.lock"
_APPLICATION_ID = 0x4D4D5631  # "MMV1": SQLite's own place for saying whose file this is
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS pictures (content TEXT PRIMARY KEY, status TEXT, reason TEXT, width INTEGER, height INTEGER,
    bytes INTEGER, sharpness REAL, brightness REAL, settings TEXT, thumbnail BLOB);
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, content TEXT, status TEXT,
    reason TEXT, vanished INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS files_by_content ON files (content);
CREATE TABLE IF NOT EXISTS faces (id INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT, left REAL, top REAL, right REAL,
    bottom REAL, score REAL, yaw REAL, pitch REAL, roll REAL, age REAL, sharpness REAL, brightness REAL, turned INTEGER,
    embedding BLOB, thumbnail BLOB, person INTEGER);
CREATE INDEX IF NOT EXISTS faces_by_content ON faces (content);
CREATE TABLE IF NOT EXISTS persons (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, kept INTEGER DEFAULT 1);
CREATE TABLE IF NOT EXISTS pins (face INTEGER PRIMARY KEY, person INTEGER);
CREATE TABLE IF NOT EXISTS bans (face INTEGER, person INTEGER, PRIMARY KEY (face, person));
CREATE TABLE IF NOT EXISTS expressions (face INTEGER PRIMARY KEY, model TEXT, expression TEXT);
CREATE TABLE IF NOT EXISTS acts (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT, what TEXT, changes TEXT);
"""
# A file changed within this time of being read may change again without a new time stamp (git calls that racy).
_RACY_NS = 2_000_000_000
_SAME_BOX = 0.5  # overlap (intersection by union) from which a face measured anew is the face known before


@dataclass(frozen=True)
class Face:
    """One face of one picture. Angles in degrees, signs as in mirror.faces.pose."""

    id: int
    content: str
    box_xyxy: tuple[float, float, float, float]  # pixels of the picture as it lies on the disk
    score: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    age: float | None
    sharpness: float  # variance of the Laplacian of the face's own crop, see mirror.vault.scanning
    brightness: float  # mean grey level of the crop, 0-255
    turned_deg: int
    person: int | None  # None: in no cluster

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        return max(self.box_xyxy[2] - self.box_xyxy[0], self.box_xyxy[3] - self.box_xyxy[1])


@dataclass(frozen=True)
class StoredPicture:
    """One content; `paths` are the files that hold it and are there."""

    content: str
    status: Status
    reason: str
    size_wh: tuple[int, int]
    bytes: int
    sharpness: float
    brightness: float
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class MeasuredFace:
    """A face on its way into the store."""

    face: Face  # its id, content and person mean nothing yet
    embedding: np.ndarray  # (D,) float32, unit norm
    thumbnail: bytes


class VaultStore:
    """Use `open_store`. Methods may be called from several threads."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._db = connection
        self._lock = threading.RLock()
        self.path = path

    # What the store says of itself.

    def fact(self, key: str) -> str | None:
        rows = self.ask("SELECT value FROM facts WHERE key = ?", key)
        return rows[0][0] if rows else None

    def set_fact(self, key: str, value: str) -> None:
        with self.change() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def claim(self, pack: str) -> None:
        """Make the store that of the pack with this identity. Raises UserError where it is another's."""
        known = self.fact("pack")
        if known is None:
            self.set_fact("pack", pack)
        elif known != pack:
            raise UserError(
                f"{self.path} holds faces measured with the pack {known}; scores of {pack} do not mix with them. "
                "Choose that pack with --pack, or another folder with --output."
            )

    # What the picture engine asks (mirror.faces.looking).

    def content_of(self, path: Path) -> str | None:
        """Content hash of an unchanged file that was read before, else None."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        rows = self.ask("SELECT size, mtime_ns, content FROM files WHERE path = ?", path_key(path))
        return rows[0][2] if rows and rows[0][:2] == (status.st_size, status.st_mtime_ns) else None

    def remember_file(self, path: Path, status: os.stat_result, content: str) -> None:
        """Note that `path`, with the `status` it had before it was read, has this content hash."""
        is_racy = time.time_ns() - status.st_mtime_ns <= _RACY_NS
        row = (path_key(path), -1 if is_racy else status.st_size, status.st_mtime_ns, content)
        with self.change() as db:
            db.execute(
                "INSERT INTO files (path, size, mtime_ns, content, status, reason) VALUES (?, ?, ?, ?, NULL, '') "
                "ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, "
                "content = excluded.content, status = NULL, reason = ''",
                row,
            )

    def hash_file(self, path: Path) -> str:
        """SHA-256 of a file."""
        return sha256_of(path)

    def get_blob(self, kind: str, key: str) -> bytes | None:
        """What a measurer noted of its pack."""
        known = self.fact(f"{kind} of {key}")
        return None if known is None else known.encode()

    def put_blob(self, kind: str, key: str, value: bytes) -> None:
        self.set_fact(f"{kind} of {key}", value.decode())

    def note_bad_file(self, path: Path, status: Status, reason: str) -> None:
        """A file that could not be looked at. Its content is not trusted: the next scan tries again."""
        with self.change() as db:
            db.execute(
                "INSERT INTO files (path, size, mtime_ns, content, status, reason) VALUES (?, -1, 0, NULL, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET size = -1, mtime_ns = 0, content = NULL, status = excluded.status, "
                "reason = excluded.reason",
                (path_key(path), str(status), reason),
            )

    def settings_of(self, content: str) -> str | None:
        """What a picture was measured with; None where it is not known."""
        rows = self.ask("SELECT settings FROM pictures WHERE content = ?", content)
        return rows[0][0] if rows else None

    def put_picture(self, picture: StoredPicture, settings: str, thumbnail: bytes, faces: list[MeasuredFace]) -> None:
        """A picture and its faces, whole or not at all. A face that was known keeps its id and all that hangs on it."""
        with self.change() as db:
            known = {face.id: face.box_xyxy for face in self._faces_where("content = ?", picture.content)}
            db.execute(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(picture.content, str(picture.status), picture.reason, *picture.size_wh, picture.bytes),
                    *(picture.sharpness, picture.brightness, settings, thumbnail),
                ),
            )
            for one in faces:
                same = max(known, key=lambda i: _overlap(known[i], one.face.box_xyxy), default=None)
                is_same = same is not None and _overlap(known[same], one.face.box_xyxy) >= _SAME_BOX
                self._put_face(db, picture.content, one, same if is_same else None)
                if is_same:
                    del known[same]
            for gone in known:
                for table, column in (("faces", "id"), ("pins", "face"), ("bans", "face")):
                    db.execute(f"DELETE FROM {table} WHERE {column} = ?", (gone,))

    def _put_face(self, db: sqlite3.Connection, content: str, one: MeasuredFace, known: int | None) -> None:
        face = one.face
        values = (
            *(content, *face.box_xyxy, face.score, face.yaw_deg, face.pitch_deg, face.roll_deg, face.age),
            *(face.sharpness, face.brightness, face.turned_deg, one.embedding.astype("<f4").tobytes(), one.thumbnail),
        )
        if known is None:
            db.execute(
                "INSERT INTO faces (content, left, top, right, bottom, score, yaw, pitch, roll, age, sharpness, "
                "brightness, turned, embedding, thumbnail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        else:
            db.execute(
                "UPDATE faces SET content = ?, left = ?, top = ?, right = ?, bottom = ?, score = ?, yaw = ?, "
                "pitch = ?, roll = ?, age = ?, sharpness = ?, brightness = ?, turned = ?, embedding = ?, "
                "thumbnail = ? WHERE id = ?",
                (*values, known),
            )

    # What is in it.

    def files(self) -> Iterator[tuple[Path, str | None, str | None, str, bool]]:
        """(path, content, status of a bad file, its reason, whether it vanished) of every file ever seen."""
        for path, content, status, reason, vanished in self.ask(
            "SELECT path, content, status, reason, vanished FROM files ORDER BY path"
        ):
            yield Path(os.fsdecode(path)), content, status, reason, bool(vanished)

    def pictures(self) -> dict[str, StoredPicture]:
        """By content, those that some file still holds."""
        paths: dict[str, list[Path]] = {}
        for path, content, _, _, vanished in self.files():
            if content is not None and not vanished:
                paths.setdefault(content, []).append(path)
        rows = self.ask("SELECT content, status, reason, width, height, bytes, sharpness, brightness FROM pictures")
        return {
            content: StoredPicture(
                content, Status(status), reason, (width, height), size, sharp, bright, tuple(paths[content])
            )
            for content, status, reason, width, height, size, sharp, bright in rows
            if content in paths
        }

    def pictures_on_disk(self) -> dict[str, StoredPicture]:
        """As `pictures`, without files that are not there at this moment, whatever the last scan saw."""
        found = {}
        for content, picture in self.pictures().items():
            paths = tuple(path for path in picture.paths if os.path.lexists(path))
            if paths:
                found[content] = replace(picture, paths=paths)
        return found

    def thumbnail_of(self, content: str) -> bytes | None:
        rows = self.ask("SELECT thumbnail FROM pictures WHERE content = ?", content)
        return rows[0][0] if rows else None

    def faces(self) -> list[Face]:
        """All faces of pictures that are there, by id."""
        there = "content IN (SELECT content FROM files WHERE NOT vanished AND content IS NOT NULL)"
        return self._faces_where(f"{there} ORDER BY id")

    def _faces_where(self, condition: str, *values: object) -> list[Face]:
        columns = "id, content, left, top, right, bottom, score, yaw, pitch, roll, age, sharpness, brightness, turned"
        return [
            Face(row[0], row[1], tuple(row[2:6]), *row[6:])
            for row in self.ask(f"SELECT {columns}, person FROM faces WHERE {condition}", *values)
        ]

    def embeddings(self, faces: list[Face]) -> np.ndarray:
        """(N, D) float32, unit norm, of these faces in their order."""
        place = {face.id: i for i, face in enumerate(faces)}
        matrix: np.ndarray | None = None
        with self._lock:
            for face, blob in self._db.execute("SELECT id, embedding FROM faces"):
                if face in place:
                    row = np.frombuffer(blob, "<f4")
                    if matrix is None:
                        matrix = np.zeros((len(faces), len(row)), np.float32)
                    matrix[place[face]] = row
        return np.zeros((0, 1), np.float32) if matrix is None else matrix

    # Changes.

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept, or nothing. Raises UserError where the disk refuses."""
        with self._lock:
            if self._db.in_transaction:  # part of a larger one
                yield self._db
                return
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    yield self._db
            except sqlite3.OperationalError as error:
                raise UserError(
                    f"{self.path} cannot be written ({error}). What was finished before is kept."
                ) from error

    def ask(self, query: str, *values: object) -> list[tuple]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def mark_seen(self, seen: Iterable[bytes], vanished: Iterable[bytes]) -> None:
        """Files that were met in a scan, and files that were not."""
        with self.change() as db:
            db.executemany("UPDATE files SET vanished = 0 WHERE path = ? AND vanished", ((path,) for path in seen))
            db.executemany("UPDATE files SET vanished = 1 WHERE path = ?", ((path,) for path in vanished))

    def close(self) -> None:
        with self._lock:
            self._db.close()


def path_key(path: Path) -> bytes:
    """A file in the store: its whole path as the system's own bytes, which need not be UTF-8."""
    return os.fsencode(os.path.abspath(path))


@contextlib.contextmanager
def open_store(folder: Path, make: bool = False) -> Iterator[VaultStore]:
    """The store of `folder`, closed at the end. Raises UserError where it is no good, or missing (unless `make`)."""
    path = folder / STORE
    if not make and not path.is_file():
        raise UserError(f"There is no {path}: run facevault.py scan PHOTOS first, or name its folder with --output.")
    try:
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        store = VaultStore(connection, path)
        _prepare(connection, path)
    except sqlite3.Error as error:
        raise UserError(
            f"{path} is damaged or no store of FaceVault ({error}). Move it away and scan again."
        ) from error
    try:
        yield store
    finally:
        store.close()


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise UserError(f"{path} is no store of FaceVault. Move it away, or choose another folder with --output.")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if tables and version != SCHEMA_VERSION:
        raise UserError(
            f"{path} is of version {version}, this program reads version {SCHEMA_VERSION}. "
            "Use the program that wrote it, or choose another folder with --output."
        )
    db.execute("PRAGMA synchronous = NORMAL")
    if not tables:
        db.execute("PRAGMA journal_mode = WAL")  # stays with the file
        db.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
            f"{_SCHEMA} COMMIT;"
        )


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection by union of two boxes."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    both = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (box, other)) - shared
    return shared / both if both > 0 else 0.0
