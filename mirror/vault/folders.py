"""Folders that FaceVault fills with pictures and captions, and how it tells its own files from people's.

What is about to be written is noted in the store first, as path and SHA-256. A file that is not what was noted for its
path was written or changed by somebody: it is never overwritten and never deleted. A run that is killed leaves notes
too many, which do no harm, and never a file without its note.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from mirror.vault.store import VaultStore
from utils.files import bytes_of, disk_errors_as, sha256_of, write_bytes_atomic

_SCHEMA = """CREATE TABLE IF NOT EXISTS written (path TEXT, sha256 TEXT, recipe TEXT, PRIMARY KEY (path, sha256))"""
_CLEARED = "cleared "  # before the recipe of a file that was deleted here: nobody else took it away


class Folder:
    """One folder below the vault's. Use it as the only run of the vault."""

    def __init__(self, store: VaultStore, path: Path):
        self.path = path
        self._store = store
        self._root = store.path.parent
        with store.change() as db:
            db.execute(_SCHEMA)
        with disk_errors_as(f"{path} cannot be made"):
            path.mkdir(parents=True, exist_ok=True)

    def holds(self, name: str, recipe: str) -> bool:
        """Whether the file is there as it was written by this recipe."""
        digests = self._digests(name, "AND recipe = ?", recipe)
        with contextlib.suppress(OSError):
            return bool(digests) and sha256_of(self.path / name) in digests
        return False

    def is_ours(self, name: str) -> bool:
        """Whether nobody else wrote or changed the file; True where there is none."""
        path = self.path / name
        if not os.path.lexists(path):
            return True
        with contextlib.suppress(OSError):
            return sha256_of(path) in self._digests(name)
        return os.path.islink(path) and bool(self._digests(name))  # a link of ours to a photo that is gone

    def write(self, name: str, data: bytes, recipe: str = "") -> bool:
        """Whether the file holds `data` now; False: somebody else's file is there."""
        if not self.is_ours(name) and bytes_of(self.path / name) != data:
            return False
        self._note(name, hashlib.sha256(data).hexdigest(), recipe)
        with self._writing(name):
            if bytes_of(self.path / name) != data or (self.path / name).is_symlink():
                write_bytes_atomic(self.path / name, data)
        return True

    def link(self, name: str, source: Path, sha256: str, recipe: str) -> str:
        """How the photo got there: symlink, hard link, copy, or "" where somebody else's file is there."""
        if not self.is_ours(name):
            return ""
        self._note(name, sha256, recipe)
        target = self.path / name
        draft = target.with_name(f".{target.name[:40]}.link.tmp")  # cleared as those of write_bytes_atomic are
        with self._writing(name):
            draft.unlink(missing_ok=True)
            how = _linked(source, draft)
            os.replace(draft, target)  # at once: a picture that is missing was deleted by somebody
            draft.unlink(missing_ok=True)  # a second hard link to the same file is not moved
        return how

    def names(self) -> list[str]:
        """Of every file that was ever written here, whether it is there or not."""
        inside = self._key("")
        rows = self._store.ask("SELECT DISTINCT path FROM written WHERE substr(path, 1, ?) = ?", len(inside), inside)
        return sorted(key[len(inside) :] for (key,) in rows)

    def is_changed(self, name: str) -> bool:
        """Whether the file is there as somebody else wrote it."""
        return os.path.lexists(self.path / name) and not self.is_ours(name)

    def is_deleted(self, name: str) -> bool:
        """Whether a file that was written here was taken away, and not by `clear`."""
        noted = self._digests(name, "AND recipe NOT LIKE ?", f"{_CLEARED}%")
        return bool(noted) and not os.path.lexists(self.path / name)

    def move(self, name: str, new_name: str) -> bool:
        """Give a file that somebody changed another name; False where somebody's other file has that."""
        if not self.is_ours(new_name):
            return False
        self._note(new_name, "", "")  # known by its name, and never taken for our own
        with self._writing(new_name):
            os.replace(self.path / name, self.path / new_name)
        return True

    def clear(self, keep: Collection[str]) -> list[str]:
        """Delete our own files but those to `keep`; the names of pictures and captions that people changed stay."""
        kept = []
        for name in self.names():
            self._clear_drafts(name)
            path = self.path / name
            if name in keep or not os.path.lexists(path):
                continue
            if self.is_ours(name):
                self._note_cleared(name)
                with self._writing(name):
                    path.unlink()
                with contextlib.suppress(OSError):
                    path.parent.rmdir()  # where nothing is left in it
            else:
                kept.append(name)
        return kept

    def _clear_drafts(self, name: str) -> None:
        """What a killed run left half written under a temporary name (utils.files.write_bytes_atomic)."""
        path = self.path / name
        for draft in path.parent.glob(f".{glob.escape(path.name[:40])}.*.tmp"):
            with self._writing(name):
                draft.unlink()

    def _key(self, name: str) -> str:
        return f"{self.path.relative_to(self._root).as_posix()}/{name}"

    def _digests(self, name: str, more: str = "", *values: str) -> set[str]:
        rows = self._store.ask(f"SELECT sha256 FROM written WHERE path = ? {more}", self._key(name), *values)
        return {sha256 for (sha256,) in rows}

    def _note(self, name: str, sha256: str, recipe: str) -> None:
        with self._store.change() as db:
            db.execute("INSERT OR REPLACE INTO written VALUES (?, ?, ?)", (self._key(name), sha256, recipe))

    def _note_cleared(self, name: str) -> None:
        with self._store.change() as db:
            db.execute("UPDATE written SET recipe = ? || recipe WHERE path = ?", (_CLEARED, self._key(name)))

    @contextlib.contextmanager
    def _writing(self, name: str):
        path = self.path / name
        with disk_errors_as(f"{path} cannot be written", "Fix that and give the same command again: it goes on."):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield


def _linked(source: Path, target: Path) -> str:
    """How the photo got to `target`: symlink, hard link or copy, whichever the system can do."""
    for how, make in (("symlink", os.symlink), ("hard link", os.link)):
        with contextlib.suppress(OSError, NotImplementedError):
            make(source.resolve(), target)
            return how
    shutil.copyfile(source, target)
    return "copy"
