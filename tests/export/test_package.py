"""Where exports write: what a killed run left, what another run holds, and what somebody changed."""

from __future__ import annotations

import json

import pytest

from mirror.contracts.exports import ExportRecord
from mirror.export.package import Package
from utils.console import UserError
from utils.folder_lock import only_one


class Record(ExportRecord):
    script_name = "export_test.py"


def record() -> Record:
    return Record(
        script="export_test.py", complete=True, dataset="d", pack="p", settings={}, versions={}, warnings=[],
        not_used=[], files={},
    )  # fmt: skip


def write(folder, **files: bytes) -> Package:
    package = Package(folder / "index.json", Record)
    for name, data in files.items():
        package.add(f"smile/{name}.png", data)
    package.write(record())
    return package


def test_temporary_files_of_a_killed_run_are_cleared(tmp_path):
    write(tmp_path, one=b"1")
    drafts = [tmp_path / "smile" / ".one.png.x7.tmp", tmp_path / ".index.json.y8.tmp"]
    strange = tmp_path / "smile" / ".other.png.z9.tmp"
    for path in (*drafts, strange):
        path.write_bytes(b"half")
    write(tmp_path, one=b"1")
    assert not any(path.exists() for path in drafts) and strange.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "smile"]


def test_only_what_was_deleted_is_said_to_be(tmp_path):
    write(tmp_path, one=b"1", two=b"2")
    (tmp_path / "smile" / "one.png").write_bytes(b"edited")
    assert write(tmp_path, three=b"3").deleted == ["smile/two.png"]
    assert (tmp_path / "smile" / "one.png").read_bytes() == b"edited"


def test_two_runs_at_once_leave_the_files_of_one(tmp_path):
    early = Package(tmp_path / "index.json", Record)
    early.add("smile/early.png", b"early")
    write(tmp_path, late=b"late")
    early.write(record())
    assert [path.name for path in (tmp_path / "smile").iterdir()] == ["early.png"]
    assert list(json.loads((tmp_path / "index.json").read_text())["files"]) == ["smile/early.png"]


def test_a_run_that_writes_keeps_others_out(tmp_path):
    with only_one(tmp_path, ".index.json.lock"), pytest.raises(UserError, match="Another run works in"):
        write(tmp_path, one=b"1")


def test_a_folder_under_the_name_of_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "smile" / "one.png").mkdir(parents=True)
    with pytest.raises(UserError, match="did not write"):
        Package(tmp_path / "index.json", Record).demand_free(["smile/one.png"])
