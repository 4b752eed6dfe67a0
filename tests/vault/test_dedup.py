"""`facevault.py dedup`: 200 planted copies, nothing else of the same persons, bursts, and which picture is kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from vault_fixture import VaultRun, make_vault

from demo.identity import draw_identity
from demo.render import render
from demo.scene import draw_scene
from demo.sets import nudged

KINDS = ("resaved", "resized", "cropped", "brightened", "mirrored")


def planted(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The same photo as it comes back from other programs; (H, W, 3) uint8."""
    height, width = image.shape[:2]
    if kind == "resized":
        return cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    if kind == "cropped":  # 5 % of each side's length, from a random place
        top, left = (int(share * side) for share, side in zip(rng.uniform(0, 0.05, 2), (height, width), strict=True))
        return image[top : top + int(0.95 * height), left : left + int(0.95 * width)]
    if kind == "brightened":
        return np.clip(image * 1.25 + 8, 0, 255).astype(np.uint8)
    return image[:, ::-1] if kind == "mirrored" else image


def write(path: Path, image: np.ndarray, quality: int = 92) -> Path:
    path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A vault with 40 copies of each kind, after `dedup`; the name of each file's source."""
    folder = tmp_path_factory.mktemp("album")
    vault = make_vault(folder)
    originals = sorted((folder / "photos").glob("*.jpg"))
    source, rng = {path.name: path.name for path in originals}, np.random.default_rng(3)
    for i in range(200):
        original, kind = originals[i // 5 % len(originals)], KINDS[i % 5]
        copy = planted(cv2.imread(str(original)), kind, rng)
        path = write(folder / "photos" / f"{kind}_{i}_{original.name}", copy, 70 if kind == "resaved" else 92)
        source[path.name] = original.name
    run = VaultRun(vault, folder / "copy")
    for step in (("scan", folder / "photos", "--pack", "demo"), ("cluster",), ("dedup",)):
        run(*step)
    return run, source


def test_planted_copies_are_found_and_no_other_photo_of_the_same_person(found):
    run, source = found
    groups = run.json("duplicates.json")["groups"]
    together = {}
    for group in groups:
        files = [group["keep"], *(one["file"] for one in group["duplicates"])]
        sources = {source[Path(file).name] for file in files}
        assert len(sources) == 1, files  # no false one
        for file in files:
            together[Path(file).name] = Path(group["keep"]).name
    copies = [name for name in source if source[name] != name]
    hits = [name for name in copies if name in together and together.get(source[name]) == together[name]]
    assert len(copies) == 200 and len(hits) >= 190
    for kind in KINDS:
        assert sum(name.startswith(kind) for name in hits) >= 36, kind


def test_the_largest_sharpest_least_compressed_one_is_kept_and_told_why(found):
    run, _ = found
    groups = run.json("duplicates.json")["groups"]
    whys = {one["why"].split(":")[0] for group in groups for one in group["duplicates"]}
    assert {"larger", "less compressed"} <= whys
    keeps = [Path(group["keep"]).name for group in groups]
    assert not [name for name in keeps if name.startswith(("resized", "resaved", "cropped"))]
    mirrored = [one for group in groups for one in group["duplicates"] if "mirrored" in one["file"]]
    assert any(one["mirrored"] for one in mirrored)


def test_nothing_is_deleted_and_a_dry_run_writes_nothing(found, tmp_path):
    run, source = found
    assert {path.name for path in run.photos.glob("*.jpg")} == set(source)
    again = VaultRun(run.output, tmp_path)
    (again.output / "duplicates.json").unlink()
    assert "Dry run" in again("dedup", "--dry-run").stdout
    assert not (again.output / "duplicates.json").exists()


def test_a_photo_on_its_side_is_the_same_photo(tmp_path, found):
    run, _ = found
    sides = tmp_path / "sides"
    sides.mkdir()
    originals = sorted(path for path in run.photos.glob("*.jpg") if not path.name.startswith(KINDS))[:6]
    for path in originals:
        image = cv2.imread(str(path))
        write(sides / f"side_{path.name}", cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), 85)
    shutil.copy(sides / f"side_{originals[0].name}", sides / "bytes.jpg")
    again = VaultRun(run.output, tmp_path)
    again("scan", sides, "--pack", "demo")
    turned = again.ask("SELECT count(DISTINCT content) FROM faces WHERE turned = 270")[0][0]
    again("dedup")
    pairs = {
        (Path(group["keep"]).name, Path(one["file"]).name)
        for group in again.json("duplicates.json")["groups"]
        for one in group["duplicates"]
    }
    (same,) = [
        one
        for group in again.json("duplicates.json")["groups"]
        for one in group["duplicates"]
        if one["kind"] == "exact" and "side_" in one["file"]
    ]
    assert same["why"].startswith("the same bytes as ") and same["why"].endswith("bytes.jpg")
    seen = [names for names in pairs if any(name.startswith("side_") for name in names)]
    assert turned >= 4 and len(seen) >= turned


def test_bursts_and_the_same_bytes(tmp_path, found):
    """Two photos of one moment are a burst; the same person another time is not; the same bytes are exact."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(8)
    who = draw_identity(rng)
    scene = replace(draw_scene(who, rng), yaw_deg=5.0)
    pictures = [scene, nudged(scene, 0.7, rng), draw_scene(who, rng), draw_scene(who, rng)]
    for i, one in enumerate(pictures):
        write(photos / f"{i}.jpg", render(one, 320).image)
    shutil.copy(photos / "3.jpg", photos / "copy of 3.jpg")
    run, _ = found
    fresh = VaultRun(run.output, tmp_path)
    shutil.rmtree(fresh.output)
    fresh("scan", photos, "--pack", "demo")
    done = fresh("dedup")
    groups = fresh.json("duplicates.json")["groups"]
    pairs = {
        (frozenset((Path(group["keep"]).name, Path(one["file"]).name)), one["kind"])
        for group in groups
        for one in group["duplicates"]
    }
    exact = (frozenset(("3.jpg", "copy of 3.jpg")), "exact")
    assert exact in pairs and len(pairs) == 2
    ((moment, kind),) = pairs - {exact}
    assert moment == {"0.jpg", "1.jpg"} and kind in ("burst", "near")
    assert "Nothing is deleted" in done.stdout
