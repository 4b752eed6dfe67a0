"""What was measured before, in one local SQLite file, safe for processes side by side.

A row is keyed by the picture's content, the pack's identity and the settings, and carries a checksum. To know a
picture's content without reading it again, size and time stamp of its file are remembered as well.
A file that is damaged, of an older version or not ours is never trusted: it is moved aside or emptied, with a message.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from mirror.faces.engine import FaceMeasurement
from utils.console import say
from utils.files import Status, sha256_of

_APPLICATION_ID = 0x4D4D4331  # "MMC1": SQLite's own place for saying whose file this is
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, content TEXT);
CREATE TABLE IF NOT EXISTS faces (content TEXT, pack TEXT, settings TEXT, record TEXT, embedding BLOB, crc INTEGER,
                                  PRIMARY KEY (content, pack, settings));
CREATE TABLE IF NOT EXISTS blobs (kind TEXT, key TEXT, value BLOB, crc INTEGER, PRIMARY KEY (kind, key));
"""
_FLUSH_EVERY_S = 1.0
# A file changed within this time of being read may change again without a new time stamp (git calls that racy).
_RACY_NS = 2_000_000_000


class FaceCache:
    """Use `open_cache`. Methods may be called from several threads; a failing disk turns the cache off, not the run."""

    def __init__(self, connection: sqlite3.Connection | None, message: str = ""):
        self._db = connection
        self._lock = threading.Lock()
        self._pending: list[tuple[str, tuple]] = []
        self._last_flush = time.monotonic()
        self.message = message  # what was wrong with the file when it was opened, one sentence, or empty

    @property
    def keeps(self) -> bool:
        """Whether what is put in will be there next time."""
        return self._db is not None

    def content_of(self, path: Path) -> str | None:
        """Content hash of an unchanged file that was read before, else None."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        rows = self._ask("SELECT size, mtime_ns, content FROM files WHERE path = ?", (_path_key(path),))
        if rows and rows[0][:2] == (status.st_size, status.st_mtime_ns):
            return rows[0][2]
        return None

    def remember_file(self, path: Path, status: os.stat_result, content: str) -> None:
        """Note that `path`, with the `status` it had before it was read, has this content hash."""
        if time.time_ns() - status.st_mtime_ns > _RACY_NS:
            row = (_path_key(path), status.st_size, status.st_mtime_ns, content)
            self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)

    def hash_file(self, path: Path) -> str:
        """SHA-256 of a file, from memory where it has not changed."""
        known = self.content_of(path)
        if known is None:
            status = os.stat(path)
            known = sha256_of(path)
            self.remember_file(path, status, known)
        return known

    def get_face(self, content: str, pack: str, settings: str, provider: str | None = None) -> FaceMeasurement | None:
        """A measurement made before; with `provider`, only one that this execution provider made."""
        rows = self._ask(
            "SELECT record, embedding, crc FROM faces WHERE content = ? AND pack = ? AND settings = ?",
            (content, pack, settings),
        )
        measurement = _restored(*rows[0]) if rows else None
        if measurement is not None and provider not in (None, measurement.provider):
            return None
        return measurement

    def put_face(self, content: str, pack: str, settings: str, measurement: FaceMeasurement) -> None:
        """Keep a measurement."""
        faces = [measurement, *measurement.others]
        record = json.dumps([_fields(face) for face in faces])
        embedding = b"".join(face.embedding.astype("<f4").tobytes() for face in faces if face.embedding is not None)
        row = (content, pack, settings, record, embedding, zlib.crc32(embedding, zlib.crc32(record.encode())))
        self._write("INSERT OR REPLACE INTO faces VALUES (?, ?, ?, ?, ?, ?)", row)

    def get_blob(self, kind: str, key: str) -> bytes | None:
        """Bytes kept under `kind` (thumbnail, map, tasks) and `key`."""
        rows = self._ask("SELECT value, crc FROM blobs WHERE kind = ? AND key = ?", (kind, key))
        return rows[0][0] if rows and zlib.crc32(rows[0][0]) == rows[0][1] else None

    def put_blob(self, kind: str, key: str, value: bytes) -> None:
        """Keep `value`."""
        self._write("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)", (kind, key, value, zlib.crc32(value)))

    def close(self) -> None:
        """Commit and let go of the file."""
        with self._lock:
            self._flush()
            if self._db is not None:
                self._db.close()
                self._db = None

    def _ask(self, query: str, values: tuple) -> list[tuple]:
        with self._lock:
            if self._pending:
                self._flush()  # what was written a moment ago counts as known
            if self._db is None:
                return []
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._turn_off(error)
                return []

    def _write(self, query: str, values: tuple) -> None:
        with self._lock:
            self._pending.append((query, values))
            if time.monotonic() - self._last_flush > _FLUSH_EVERY_S:
                self._flush()

    def _flush(self) -> None:
        """Write what is pending in one short transaction: a long one would lock other processes out."""
        pending, self._pending = self._pending, []
        if self._db is None:
            return
        try:
            with self._db:
                for query, values in pending:
                    self._db.execute(query, values)
        except sqlite3.Error as error:
            self._turn_off(error)
        self._last_flush = time.monotonic()

    def _turn_off(self, error: sqlite3.Error) -> None:
        say(f"Note: the cache cannot be used any more ({error}); the run goes on without it.")
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._db = None


def open_cache(path: Path | None) -> FaceCache:
    """The cache in `path`, made where it is missing; `.message` says what was wrong with it. None: no cache at all."""
    if path is None:
        return FaceCache(None)
    message = ""
    try:
        problem = _problem_of(path)
        if problem:
            aside = path.with_name(f"{path.name}.{time.strftime('%Y%m%d_%H%M%S')}.unused")
            os.replace(path, aside)
            message = f"The cache {path} {problem}: moved to {aside.name}, everything is measured anew."
        return FaceCache(*_connected(path, message))
    except (OSError, sqlite3.Error) as error:
        return FaceCache(None, f"The cache {path} cannot be used ({error}); the run goes on without it.")


@contextlib.contextmanager
def measurement_cache(path: Path, keeps: bool, shared: bool = False) -> Iterator[FaceCache]:
    """The cache of one run, closed at its end. What is wrong with it is said, and after Ctrl-C what it is good for.

    Unless it `keeps` there is none; or, where parts of the run find in it what others measured (`shared`), one in a
    temporary folder.
    """
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True) if shared and not keeps else None
    cache = open_cache(path if keeps else scratch and Path(scratch.name) / path.name)
    if cache.message:
        say(f"Note: {cache.message}")
    try:
        yield cache
    except KeyboardInterrupt:
        if cache.keeps and keeps:
            say("What was measured so far is kept; the same command goes on from there.")
        raise
    finally:
        cache.close()
        if scratch:
            scratch.cleanup()


def content_hash(data: bytes) -> str:
    """Key of a picture's content: SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _path_key(path: Path) -> str:
    # file names may hold bytes that are no UTF-8 (lone surrogates), which SQLite refuses
    return os.path.abspath(path).encode("utf-8", "backslashreplace").decode()


def _connected(path: Path, message: str) -> tuple[sqlite3.Connection, str]:
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _SCHEMA_VERSION):
        message = f"The cache {path} is of another version of this program: emptied, everything is measured anew."
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f'DROP TABLE "{table}"')
    connection.executescript(
        f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_SCHEMA_VERSION};"
        f"{_SCHEMA} COMMIT;"
    )
    return connection, message


def _problem_of(path: Path) -> str:
    """What is wrong with an existing cache file, as the end of a sentence; empty where nothing is."""
    if not path.exists() or path.stat().st_size == 0:
        return ""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                return "is not a cache of this program"
            return "" if connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok" else "is damaged"
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            return "is damaged or not a cache of this program"


def _restored(record: str, embedding: bytes, crc: int) -> FaceMeasurement | None:
    """The measurement of a row, or None where the row is not what was written."""
    if zlib.crc32(embedding, zlib.crc32(record.encode())) != crc:
        return None
    all_fields = json.loads(record)
    vectors = np.frombuffer(embedding, dtype="<f4").reshape(len(all_fields), -1) if embedding else [None]
    face, *others = (_face_of(*known) for known in zip(all_fields, vectors, strict=True))
    return replace(face, others=tuple(others))


def _fields(face: FaceMeasurement) -> dict:
    """What is kept as JSON: embeddings are bytes, and the other faces of a picture stand beside the first."""
    left_out = ("embedding", "others")
    return {field.name: getattr(face, field.name) for field in fields(face) if field.name not in left_out}


def _face_of(known: dict, embedding: np.ndarray | None) -> FaceMeasurement:
    known["status"] = Status(known["status"])
    known["size_wh"] = tuple(known["size_wh"])
    known["box_xyxy"] = tuple(known["box_xyxy"]) if known["box_xyxy"] is not None else None
    for name in ("keypoints", "landmarks"):
        known[name] = tuple(map(tuple, known[name])) if known[name] is not None else None
    return FaceMeasurement(**known, embedding=embedding)
