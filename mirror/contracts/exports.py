"""What an export wrote and why: the JSON in its folder, or beside its one file."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar, Literal

from mirror.contracts.contract import Contract


class NotUsed(Contract):
    """A picture of the dataset that is not in the export."""

    file: str  # relative to the dataset's folder, forward slashes
    reason: str


class ExportRecord(Contract):
    """Base of all three. The same dataset and options give the same bytes, so it carries no time."""

    script_name: ClassVar[str] = ""

    schema_version: Literal[1] = 1
    script: str
    complete: bool  # False: the run that began it did not end
    dataset: str  # folder, as it was given
    pack: str  # identity of the model pack that measured
    expression_model: str | None = None  # identity; None: expressions were not measured
    settings: dict[str, str | int | float | bool | list[str] | None]
    versions: dict[str, str]
    warnings: list[str]
    not_used: list[NotUsed]
    files: dict[str, str]  # every other file of the export, by its name: SHA-256
    checksum: str = ""  # of all the rest, so that an edited record is not taken for our own

    def signed(self) -> ExportRecord:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def is_untouched(self) -> bool:
        """Whether nobody edited it since it was written."""
        return self.checksum == self._digest()

    def _digest(self) -> str:
        text = json.dumps(self.model_dump(mode="json", exclude={"checksum"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
