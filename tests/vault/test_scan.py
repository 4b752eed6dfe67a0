"""`facevault.py scan`: every face, only once; files that move, vanish or are no good; kills, packs, two runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script

from utils.folder_lock import only_one


class Vault:
    """facevault.py on a folder of the test's own."""

    def __init__(self, folder: Path, pack: object):
        self.output, self.pack = folder / "vault", pack

    def scan(self, photos: Path, *more: object, pack: object = None) -> subprocess.CompletedProcess:
        arguments = ("scan", photos, "--pack", pack or self.pack, "--output", self.output, *more)
        return run_script("facevault.py", *arguments)

    @property
    def report(self) -> dict:
        return json.loads((self.output / "scan_report.json").read_text(encoding="utf-8"))

    def ask(self, query: str) -> list[tuple]:
        with closing(sqlite3.connect(self.output / "vault.sqlite")) as db:
            return db.execute(query).fetchall()


@pytest.fixture
def vault(tmp_path, tiny_pack) -> Vault:
    return Vault(tmp_path, tiny_pack)


@pytest.fixture
def album(tmp_path, make_picture) -> Path:
    """Five pictures of which none is like another, and older than the moment in which a file may still change."""
    folder = tmp_path / "photos"
    for i in range(5):
        make_picture(folder / f"{i}.jpg", i)
    settle(folder)
    return folder


def settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 60, time.time() - 60))


def test_a_second_scan_measures_only_what_is_new(vault, album, make_picture):
    done = vault.scan(album)
    assert done.returncode == 0, done.stderr
    assert vault.report["measured_now"] == 5 and "5 pictures, 5 measured now" in done.stdout
    before = vault.ask("SELECT id, content, embedding FROM faces ORDER BY id")
    make_picture(album / "new.png", 9)
    assert vault.scan(album).returncode == 0
    now = {row["file"]: row["measured_now"] for row in vault.report["files"]}
    assert [name for name, measured in now.items() if measured] == ["new.png"] and len(now) == 6
    assert vault.ask("SELECT id, content, embedding FROM faces ORDER BY id")[:5] == before
    assert len(vault.ask("SELECT id FROM faces")) == 6


def test_moved_and_vanished_files_are_told_apart(vault, album):
    vault.scan(album)
    (album / "0.jpg").rename(album / "renamed.jpg")
    (album / "1.jpg").unlink()
    shutil.copy(album / "2.jpg", album / "copy.jpg")
    done = vault.scan(album)
    report = vault.report
    assert report["moved"] == [{"file": "renamed.jpg", "was": "0.jpg"}] and report["vanished"] == ["1.jpg"]
    assert report["measured_now"] == 0 and "Vanished: 1.jpg" in done.stdout
    assert len(vault.ask("SELECT content FROM pictures")) == 5  # what vanished is kept, a copy is no new picture
    again = vault.scan(album)
    assert vault.report["vanished"] == [] and again.returncode == 0


def test_a_library_that_moved_is_found_again_and_its_dead_files_are_never_kept(vault, album):
    shutil.copy(album / "0.jpg", album / "copy of 0.jpg")
    settle(album)
    vault.scan(album)
    album = album.rename(album.with_name("library"))
    (album / "1.jpg").replace(album / "2.jpg")
    done = vault.scan(album)
    assert "Found again elsewhere" in done.stdout and len(vault.report["moved"]) == 5
    assert {"file": "2.jpg", "was": "../photos/1.jpg"} in vault.report["moved"]
    there = [os.fsdecode(path) for (path,) in vault.ask("SELECT path FROM files WHERE NOT vanished ORDER BY path")]
    assert [path for path in there if os.path.exists(path)] == sorted(str(path) for path in album.iterdir())
    (album / "0.jpg").unlink()  # the scan does not know yet
    run_script("facevault.py", "dedup", "--output", vault.output)
    found = json.loads((vault.output / "duplicates.json").read_text())
    assert found["groups"] == [], "nothing is a duplicate of a file that is gone"


def test_datasets_below_the_photos_are_no_photos(vault, album, make_picture):
    vault.output = album / "outputs"
    make_picture(vault.output / "organized" / "alice" / "0.jpg", 7)
    make_picture(album / "organized" / "8.jpg", 8)
    done = vault.scan(album, "--recursive")
    assert "as FaceVault itself made them: 1 picture(s)" in done.stderr
    assert [row["file"] for row in vault.report["files"]][-2:] == ["4.jpg", "organized/8.jpg"]
    assert len(vault.report["files"]) == 6 and "Left out" in vault.report["warnings"][0]


def test_a_folder_that_is_not_entered_has_not_vanished(vault, album, make_picture):
    make_picture(album / "sub" / "6.jpg", 6)
    settle(album)
    vault.scan(album, "--recursive")
    done = vault.scan(album)
    assert vault.report["vanished"] == [] and "--recursive takes them in" in done.stderr
    assert vault.ask("SELECT count(*) FROM files WHERE vanished") == [(0,)]


def test_bad_pictures_are_rows_with_a_reason(vault, album):
    (album / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (album / "notes.txt").write_text("x")
    done = vault.scan(album)
    assert done.returncode == 0
    (row,) = [row for row in vault.report["files"] if row["file"] == "broken.jpg"]
    assert row["status"] == "unreadable" and row["reason"] and row["content"] is None
    assert vault.ask("SELECT status FROM files WHERE status IS NOT NULL") == [("unreadable",)]
    assert vault.report["ignored_files"] == {".txt": 1} and "broken.jpg" in done.stdout


def test_originals_stay_as_they_are_in_a_folder_that_cannot_be_written(vault, album):
    before = {path.name: path.read_bytes() for path in album.iterdir()}
    album.chmod(0o555)
    try:
        assert vault.scan(album).returncode == 0
    finally:
        album.chmod(0o755)
    assert {path.name: path.read_bytes() for path in album.iterdir()} == before


def test_another_pack_is_refused_by_name(vault, album, tmp_path, tiny_pack):
    vault.scan(album)
    other = tmp_path / "other_pack"
    shutil.copytree(tiny_pack, other)
    done = vault.scan(album, pack=other)
    assert done.returncode == 2 and done.stderr.count("\n") <= 3
    assert "tiny@" in done.stderr and "other_pack@" in done.stderr and "do not mix" in done.stderr


def test_two_runs_at_once_the_second_says_so(vault, album):
    vault.output.mkdir()
    with only_one(vault.output, "facevault.lock"):
        done = vault.scan(album)
    assert done.returncode == 2 and "Another run works in" in done.stderr


def test_kills_lose_nothing_and_double_nothing(vault, tmp_path, make_picture):
    photos = tmp_path / "many"
    for i in range(60):
        make_picture(photos / f"{i:03d}.jpg", i)
    settle(photos)
    command = [sys.executable, str(ROOT / "facevault.py"), "scan", str(photos), "--pack", str(vault.pack)]
    finished = []
    for kill in range(6):
        process = subprocess.Popen([*command, "--output", str(vault.output)], stderr=subprocess.DEVNULL)
        began, goal = time.monotonic(), (kill + 1) * 5
        while process.poll() is None and time.monotonic() - began < 60:
            if (vault.output / "vault.sqlite").is_file() and count(vault) >= goal:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished.append(count(vault))
    assert finished == sorted(finished) and 0 < finished[-1] < 60
    done = vault.scan(photos)
    assert done.returncode == 0 and vault.report["measured_now"] == 60 - finished[-1]
    assert len(vault.ask("SELECT DISTINCT content FROM faces")) == len(vault.ask("SELECT id FROM faces")) == 60
    assert vault.ask("PRAGMA integrity_check") == [("ok",)]


def count(vault: Vault) -> int:
    try:
        return len(vault.ask("SELECT content FROM pictures"))
    except sqlite3.Error:  # the tables are not there yet
        return 0


def test_every_face_of_a_group_is_found_small_ones_too(tmp_path, mini_pack):
    from insightface.data import get_image

    six = get_image("t1")
    half = cv2.resize(six, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    wide = np.full((2600, 3840, 3), 128, np.uint8)
    wide[1500 : 1500 + len(half), 300 : 300 + half.shape[1]] = half
    wide[200 : 200 + len(six), 2400 : 2400 + six.shape[1]] = six
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "wide.jpg"), wide)
    vault = Vault(tmp_path, mini_pack)
    assert vault.scan(tmp_path / "photos").returncode == 0
    assert vault.report["faces"] == 12
    ids = vault.ask("SELECT id FROM faces ORDER BY id")
    assert vault.scan(tmp_path / "photos", "--min-size", 100).returncode == 0
    assert vault.report["measured_now"] == 1 and 0 < vault.report["faces"] <= 6
    assert set(vault.ask("SELECT id FROM faces")) < set(ids)  # a face that is measured anew keeps its number


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scan", "nowhere"), "does not exist"),
        (("scan", "."), "holds no pictures"),
        (("scan", ".", "--min-score", "0.2"), "not a number from 0.5 to 1"),
    ],
)
def test_a_mistake_gets_one_sentence(tmp_path, arguments, said):
    done = run_script("facevault.py", *arguments, "--output", tmp_path / "v", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_no_store_is_refused(vault, album):
    vault.output.mkdir()
    (vault.output / "vault.sqlite").write_text("something else entirely" * 100)
    done = vault.scan(album)
    assert done.returncode == 2 and "no store of FaceVault" in done.stderr
