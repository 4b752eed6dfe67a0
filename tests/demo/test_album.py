"""The rendered album: its truth says who is where, and the same seed gives the same album."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
from conftest import ROOT

from demo.album import make_album


def write(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "demo.album", "--output", str(folder), "--workers", "1", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_truth_says_who_is_where(tmp_path):
    done = write(tmp_path / "album", "--persons", 3, "--photos", 2, 3, "--pixels", 96)
    assert done.returncode == 0, done.stderr
    truth = json.loads((tmp_path / "album" / "truth.json").read_text(encoding="utf-8"))
    assert set(truth["people"]) == {"p00", "p01", "p02", "s00", "s01"}
    assert {path.name for path in (tmp_path / "album").glob("*.jpg")} == {one["file"] for one in truth["images"]}
    groups = [one for one in truth["images"] if len(one["faces"]) > 1]
    assert groups
    for one in groups:
        names = [face["person"] for face in one["faces"]]
        assert len(set(names)) == len(names)  # nobody stands twice in a picture
        width = cv2.imread(str(tmp_path / "album" / one["file"])).shape[1]
        lefts = [face["box_xyxy"][0] for face in one["faces"] if face["box_xyxy"]]
        assert lefts == sorted(lefts) and lefts[-1] > width / len(names)
    again = write(tmp_path / "album")
    assert again.returncode == 2 and "is not empty" in again.stderr


def test_an_album_holds_siblings_profiles_ages_and_strangers_who_appear_once():
    album = make_album(5, persons=12, photos=(10, 12))
    people, singles = album.people, [shot for shot in album.shots if len(shot.names) == 1]
    apart = people["p00"].distance(people["p02"])
    assert people["p00"].distance(people["p01"]) < apart
    seen = [name for shot in album.shots for name in shot.names]
    assert {seen.count(name) for name in people if name.startswith("s")} == {1}
    assert sum(abs(shot.scenes[0].yaw_deg) > 60 for shot in singles) > 5
    ages = [shot.scenes[0].age for shot in singles if shot.names == ("p11",)]
    assert max(ages) - min(ages) == 30
    assert make_album(5, persons=12, photos=(10, 12)).shots == album.shots
