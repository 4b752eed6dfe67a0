"""Where an export writes: only new files and its own earlier ones, so that the same command can be given again.

The record (see mirror.contracts.exports) names every file of the export with its SHA-256. It is written first, as not
complete, and again at the end: a run that is killed leaves no file that the next one would take for somebody else's.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from mirror.contracts.contract import write_contract
from mirror.contracts.exports import ExportRecord
from utils.console import UserError
from utils.files import bytes_of, disk_errors_as, some_of, write_bytes_atomic
from utils.folder_lock import only_one

ADVICE = "Choose another --output, or move it away."


class Package:
    """The files beside a record, relative to the folder that it lies in. Raises UserError where nothing may be written.

    `model` is the record's own contract: what does not read as one was not written by its script.
    """

    def __init__(self, record_path: Path, model: type[ExportRecord]):
        self.record_path, self.folder, self._model = record_path, record_path.parent, model
        self._files: dict[str, bytes] = {}
        self.deleted: list[str] = []  # names of an earlier run's files that `write` deleted
        self._before = self._read_record()

    def add(self, name: str, data: bytes) -> None:
        """A file of the export, to be written by `write`; `name` may hold forward slashes."""
        self._files[name] = data

    def demand_free(self, names: list[str]) -> None:
        """Raise UserError where a file that somebody else wrote, or changed, stands under one of the names.

        May be asked before the work, of those names that are known then.
        """
        strange = [name for name in names if not self._is_ours(name)]
        if strange:
            raise UserError(
                f"{self.folder} holds files that {self._model.script_name} did not write, or that were changed since: "
                f"{some_of(strange)}. {ADVICE}"
            )

    def write(self, record: ExportRecord) -> None:
        """All files, then the record; those of an earlier run that are no longer part of it are deleted.

        What another run wrote here meanwhile is an earlier run too.
        """
        with disk_errors_as(f"{self.folder} cannot be written", ADVICE):
            self.folder.mkdir(parents=True, exist_ok=True)
            with only_one(self.folder, f".{self.record_path.name}.lock"):
                self._before = self._read_record()
                self._write(record)

    def _write(self, record: ExportRecord) -> None:
        self.demand_free([name for name in self._files if bytes_of(self.folder / name) != self._files[name]])
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(self._files.items())}
        gone = {name: sha256 for name, sha256 in self._before.items() if name not in digests}
        self._clear_drafts()
        started = record.model_copy(update={"complete": False, "files": gone | digests})
        write_contract(self.record_path, started.signed())
        for name, data in self._files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if bytes_of(path) != data:
                write_bytes_atomic(path, data)
        self.deleted = [name for name in sorted(gone) if self._delete(name)]
        write_contract(self.record_path, record.model_copy(update={"complete": True, "files": digests}).signed())

    def _clear_drafts(self) -> None:
        """Temporary files of write_bytes_atomic that a killed run left."""
        for path in (self.record_path, *(self.folder / name for name in self._before)):
            for draft in path.parent.glob(f".{glob.escape(path.name[:40])}.*.tmp"):
                draft.unlink(missing_ok=True)

    def _read_record(self) -> dict[str, str]:
        """Name -> SHA-256 of what the script wrote here before."""
        if not os.path.lexists(self.record_path):
            return {}
        try:
            record = self._model.model_validate_json(self.record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, ValidationError):
            record = None
        if record is None or record.script != self._model.script_name or not record.is_untouched():
            raise UserError(
                f"{self.record_path} was not written by {self._model.script_name}, or was changed since. {ADVICE}"
            )
        return record.files

    def _is_ours(self, name: str) -> bool:
        path = self.folder / name
        if not os.path.lexists(path):
            return True
        data = bytes_of(path) if path.is_file() else None  # a folder of that name is none of ours
        return data is not None and hashlib.sha256(data).hexdigest() == self._before.get(name)

    def _delete(self, name: str) -> bool:
        """Whether a file of an earlier run was deleted; one that somebody changed stays."""
        path = self.folder / name
        if not os.path.lexists(path) or not self._is_ours(name):
            return False
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # where nothing is left in it
        return True
