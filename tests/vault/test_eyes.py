"""Closed eyes beside open ones: what `scan` measures, what `dedup` keeps and says; and stores of before."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run_script

from demo.identity import draw_identity
from demo.render import render
from demo.scene import draw_scene
from demo.sets import nudged
from mirror.vault.eyes import CLOSED, eye_contrast

PERSONS = 6
SAID = "open-eyed: the eyes are closed here"


def jpeg(path: Path, image: np.ndarray, quality: int = 92) -> None:
    path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def facevault(output: Path, *arguments: object) -> str:
    done = run_script("facevault.py", *arguments, "--output", output)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def ask(output: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(output / "vault.sqlite")) as db:
        return db.execute(query).fetchall()


def contrasts(output: Path) -> dict[str, float | None]:
    """By file name, of the largest face."""
    rows = ask(output, "SELECT path, eyes, max(right - left) FROM faces JOIN files USING (content) GROUP BY path")
    return {Path(path.decode()).name: eyes for path, eyes, _ in rows}


def sets(output: Path) -> list[tuple[str, str, str]]:
    """(kept, duplicate, why)"""
    groups = json.loads((output / "duplicates.json").read_text(encoding="utf-8"))["groups"]
    pairs = [(group["keep"], one) for group in groups for one in group["duplicates"]]
    return [(Path(kept).name, Path(one["file"]).name, one["why"]) for kept, one in pairs]


@pytest.fixture(scope="module")
def bursts(tmp_path_factory) -> Path:
    """The vault of moments that were photographed three times, once with closed eyes: that photo has the most bytes."""
    folder = tmp_path_factory.mktemp("bursts")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(5)
    for i in range(PERSONS):
        who = draw_identity(rng)
        first = draw_scene(who, rng, yaw_deg=float(rng.uniform(-15, 15)), fill=0.55, glasses="none")
        jpeg(folder / "photos" / f"{i}_open.jpg", render(first, 320).image)
        jpeg(folder / "photos" / f"{i}_again.jpg", render(nudged(first, 0.3, rng), 320).image)
        closed = replace(nudged(first, 0.3, rng), eyes_closed=True)
        jpeg(folder / "photos" / f"{i}_closed.jpg", render(closed, 320).image, 100)
    facevault(folder / "vault", "scan", folder / "photos", "--pack", "demo")
    facevault(folder / "vault", "dedup")
    return folder / "vault"


def test_of_one_moment_the_photo_with_open_eyes_is_kept(bursts):
    found = sets(bursts)
    beside = [(kept, other, why) for kept, other, why in found if "closed" in kept + other]
    assert len(beside) >= PERSONS - 1, "the three photos of a moment are duplicates"
    lost = [why for kept, other, why in beside if "closed" in other]
    assert lost.count(SAID) >= PERSONS - 1, found
    assert [other for _, other, why in found if why == SAID and "closed" not in other] == []


def test_closed_eyes_are_told_only_beside_open_ones(bursts, tmp_path):
    """The same photos without the open ones: no set is decided by eyes."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((bursts.parent / "photos").glob("*_closed.jpg")):
        image = cv2.imread(str(path))
        jpeg(photos / path.name, image)
        jpeg(photos / f"small_{path.name}", cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA))
    facevault(tmp_path / "vault", "scan", photos, "--pack", "demo")
    facevault(tmp_path / "vault", "dedup")
    found = sets(tmp_path / "vault")
    assert len(found) == PERSONS and {why.split(":")[0] for *_, why in found} == {"larger"}


def test_real_photos(tmp_path, photos, mini_pack):
    """A pack without landmarks measures eyes too; copies of a photo with open eyes never have closed ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = ("close_eyes.jpeg", "right_face.png", "d1.jpeg", "mask2.jpg", "yifei.jpg", "sad.png", "woman_search.jpeg")
    for name in names:
        image = cv2.imread(str(photos / name))
        stem = Path(name).stem
        jpeg(folder / f"{stem}.jpg", image, 95)
        jpeg(folder / f"{stem}_blurred.jpg", cv2.GaussianBlur(image, (0, 0), 2.5), 95)
        jpeg(folder / f"{stem}_small.jpg", cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA), 60)
    facevault(tmp_path / "vault", "scan", folder, "--pack", mini_pack)
    facevault(tmp_path / "vault", "dedup")
    eyes = contrasts(tmp_path / "vault")
    assert eyes["right_face.jpg"] is None, "a profile shows one eye"
    assert eyes["close_eyes.jpg"] < CLOSED * eyes["woman_search.jpg"], "as smooth a skin"
    found = sets(tmp_path / "vault")
    assert len(found) >= 10 and SAID not in {why for *_, why in found}


def test_a_store_of_before_is_read_and_knows_no_eyes(bursts, tmp_path):
    output = tmp_path / "vault"
    output.mkdir()
    with closing(sqlite3.connect(bursts / "vault.sqlite")) as db:
        db.execute("VACUUM INTO ?", (str(output / "vault.sqlite"),))
    with closing(sqlite3.connect(output / "vault.sqlite")) as db:
        db.execute("ALTER TABLE faces DROP COLUMN eyes")
        db.commit()
    facevault(output, "stats")
    facevault(output, "dedup")
    assert sets(output) and SAID not in {why for *_, why in sets(output)}
    photos = tmp_path / "photos"
    photos.mkdir()
    jpeg(photos / "new.jpg", cv2.imread(str(bursts.parent / "photos" / "0_open.jpg")), 80)
    facevault(output, "scan", photos, "--pack", "demo")
    eyes = contrasts(output)
    assert eyes.pop("new.jpg") is not None and set(eyes.values()) == {None}


def test_the_place_of_a_face_and_its_turn_make_no_difference():
    rng = np.random.default_rng(1)
    picture = render(replace(draw_scene(draw_identity(rng), rng, yaw_deg=4.0, fill=0.5), roll_deg=0.0), 320)
    eyes = picture.truth.five_points[:2]
    known = eye_contrast(picture.image, tuple(map(tuple, eyes)), 4.0)
    turned = np.ascontiguousarray(np.rot90(picture.image, -1))  # clockwise: (x, y) goes to (height - 1 - y, x)
    places = tuple((picture.image.shape[0] - 1 - y, x) for x, y in eyes)
    assert eye_contrast(turned, places, 4.0) == pytest.approx(known, rel=0.03)
    wide = cv2.copyMakeBorder(picture.image, 40, 0, 70, 0, cv2.BORDER_REPLICATE)
    assert eye_contrast(wide, tuple((x + 70, y + 40) for x, y in eyes), 4.0) == pytest.approx(known, rel=0.03)
    assert eye_contrast(picture.image, tuple(map(tuple, eyes)), 60.0) is None
    assert eye_contrast(picture.image, tuple(map(tuple, eyes * 0.3)), 4.0) is None
