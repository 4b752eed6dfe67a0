"""The JSON files that scripts hand to each other, as typed models.

Every contract that a script writes carries `schema_version`; reading another version, a broken file or a wrong type
raises `ContractError` with the file, the field and the script to run again. Files that people write too
(`people_write_it`) may leave the version out, and all that only a script knows. Writing is atomic (see `utils.files`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from utils.console import UserError
from utils.files import write_text_atomic


class ContractError(UserError):
    """A JSON file between scripts cannot be used; the message names file, field and cure."""


class Contract(BaseModel):
    """Base of all contracts: unknown fields are an error, so that a typo never passes in silence."""

    # built at first use: a run meets few of the contracts, and building all of them delays every start
    model_config = ConfigDict(extra="forbid", defer_build=True)

    people_write_it: ClassVar[bool] = False  # by hand, or with a program of their own


class Spread(Contract):
    """Five numbers of one measured quantity; all null where nothing was measured (`count` 0)."""

    count: int
    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    minimum: float | None = None
    maximum: float | None = None


Model = TypeVar("Model", bound=Contract)


_VERSION = "schema_version"


_PAGE_MARK = "MirrorMetrics"  # stands at the head of every page of ours


def write_contract(path: Path, contract: Contract) -> None:
    """Write `contract` as indented UTF-8 JSON, whole or not at all."""
    write_text_atomic(path, contract.model_dump_json(indent=2) + "\n")


def demand_own(path: Path, script: str) -> None:
    """Raise UserError where results would overwrite a file that `script` has not written: `path`, or its page.

    A damaged file is taken for the script's own: nobody else's lies under its name.
    """
    page = path.with_suffix(".html")
    try:
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            strange = None if isinstance(found, dict) and found.get("script") == script else path
        else:
            strange = page if page.is_file() and _PAGE_MARK not in page.read_text(encoding="utf-8") else None
    except (OSError, ValueError):
        return
    if strange is not None:
        raise UserError(f"{strange} is there already and was not written by {script}. Choose another name.")


def read_contract(path: Path, model: type[Model], made_by: str = "", cure: str = "") -> Model:
    """Read `path` as `model`; `made_by` names the script to run again, `cure` what else helps. Raises ContractError."""
    hand = f"correct it, or run {made_by} again to write it anew"
    again = cure or (hand if model.people_write_it else hand.removeprefix("correct it, or "))
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} cannot be read ({error}); {again}.") from error
    try:
        contract = model.model_validate_json(text)
    except ValidationError as error:
        raise ContractError(f"{path}: {_sentence(error.errors()[0])}; {again}.") from error
    is_due = _VERSION in model.model_fields and not model.people_write_it
    if is_due and _VERSION not in contract.model_fields_set:
        raise ContractError(f"{path}: field {_VERSION} is missing; {again}.")
    return contract


def checked(entry: object, model: type[Model], where: str) -> Model:
    """`entry` as `model`, numbers of numpy included. Raises UserError with a sentence that begins with `where`."""
    try:
        return model.model_validate_json(json.dumps(entry, default=_plain))
    except (TypeError, ValueError) as error:
        problem = _sentence(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{where}: {problem}; the entry is {str(entry)[:200]}.") from error


def _plain(value: object) -> object:
    """A number of numpy as one of Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} cannot stand in JSON")


def _sentence(error: dict) -> str:
    """One problem of pydantic's list in words."""
    field = ".".join(str(part) for part in error["loc"]) or "the whole file"
    messages = {"missing": "it is missing", "extra_forbidden": "no such field is known here"}
    return f"field {field}: {messages.get(error['type'], error['msg'])}"
