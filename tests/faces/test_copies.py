"""Copying is not likeness: planted copies of real photos, rendered images that repeat a picture, a face or neither."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pages_fixture as made
import pandas as pd
import pytest
from conftest import Run, run_script

from demo.render import render
from demo.scene import BACKGROUNDS
from demo.sets import copied_reference, make_set, make_world, nudged
from mirror.contracts.summary import CANDIDATE, REFERENCE
from mirror.faces import copies
from mirror.faces.cache import open_cache
from mirror.faces.copies import ALIKE_DEG, LIKENESS, SAME_BITS, SAME_PICTURE, SAME_POSE, copy_kind, turned_alike
from mirror.faces.engine import FaceMeasurement
from mirror.faces.group import LIMITS
from mirror.faces.measurer import Measurer, Picture
from mirror.faces.packs import demo_pack, find_pack
from mirror.faces.picture_hash import hash_distance, look_of
from mirror.faces.table import score_pictures
from utils.files import Status

UPRIGHT_LEFT_OUT = ("view.jpg", "no_face.png", "rot_90.jpg", "left_wryneck.png")  # no face, or on its side
ONE_PICTURE = {"kun.jpg", "kun_crop.jpg", "rot_0.jpg", "crop.png"}  # the same photo four times
COPIED = ("Rob_Lowe_0002.jpg", "d1.jpeg", "happy.png", "image_T1.jpeg", "left_face.jpeg", "mask2.jpg", "woman.png")


def cropped(image: np.ndarray, share: float) -> np.ndarray:
    """Without `share` of the height above and below, and of the width left and right."""
    height, width = image.shape[:2]
    top, left = round(height * share), round(width * share)
    return image[top : height - top, left : width - left]


PLANTED = {
    "saved anew": lambda image: image,
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "enlarged": lambda image: cv2.resize(image, None, fx=1.4, fy=1.4, interpolation=cv2.INTER_CUBIC),
    "cropped": lambda image: cropped(image, 0.05),
    "turned": lambda image: np.rot90(image),
    "upside down": lambda image: np.rot90(image, 2),
    "mirrored": lambda image: image[:, ::-1],
    "brighter": lambda image: np.clip(image * 1.25 + 10, 0, 255).astype(np.uint8),
    "mirrored and cropped": lambda image: cropped(image[:, ::-1], 0.05),
}


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory, mini_pack, photos) -> Run:
    """28 upright photos as references, a folder of candidates for each kind of copy."""
    base = tmp_path_factory.mktemp("planted")
    (base / "ref").mkdir()
    for path in photos.iterdir():
        if path.name not in UPRIGHT_LEFT_OUT:
            shutil.copy(path, base / "ref")
    for how, name in itertools.product(PLANTED, COPIED):
        folder = base / "cand" / how
        folder.mkdir(parents=True, exist_ok=True)
        image = np.ascontiguousarray(PLANTED[how](cv2.imread(str(photos / name))))
        cv2.imwrite(str(folder / f"{Path(name).stem}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    return measured(base, mini_pack)


def measured(base: Path, pack: Path, output: str = "out") -> Run:
    done = run_script(
        "mirror_metrics.py",
        *("--reference", base / "ref", "--candidates", base / "cand", "--output", base / output),
        *("--cache", base / "cache.sqlite", "--pack", pack),
    )
    assert done.returncode == 0, done.stderr
    return Run(done.returncode, done.stdout, done.stderr, base / output)


def test_planted_copies_of_real_photos_are_the_same_picture(planted_run):
    table = planted_run.table
    generated = table[table.Type == CANDIDATE]
    assert len(generated) == len(PLANTED) * len(COPIED)
    wrong = generated[(generated.Copy != SAME_PICTURE) | (generated.HashDistance > SAME_BITS)]
    assert wrong[["Group", "Filename", "Copy", "HashDistance", "NearestReference"]].to_dict("records") == []
    stems = generated.Filename.map(lambda name: Path(name).stem)
    assert (generated.NearestReference.map(lambda name: Path(name).stem) == stems).all()


def test_no_pair_of_different_photos_is_the_same_picture(planted_run, mini_pack):
    """All pairs of 28 photos, people with several of them among these; the four that are one photo are found."""
    folder = planted_run.output.parent
    pictures = [Picture(REFERENCE, REFERENCE, one.name, one) for one in sorted((folder / "ref").iterdir())]
    cache = open_cache(folder / "cache.sqlite")
    Measurer(find_pack(str(mini_pack)), cache).measure(pictures)
    cache.close()
    assert len(pictures) == 28 and all(picture.measured for picture in pictures)
    looks = {one.filename: look_of(one.thumbnail, one.face.box_xyxy, one.face.size_wh) for one in pictures}
    pairs = itertools.combinations(sorted(looks), 2)
    found = {pair for pair in pairs if hash_distance(*(looks[name] for name in pair)) <= SAME_BITS}
    assert found == set(itertools.combinations(sorted(ONE_PICTURE), 2))


def test_the_report_says_what_was_planted(planted_run):
    table, page = planted_run.table, planted_run.file("CopycatReport").read_text(encoding="utf-8")
    bits = int(table[table.Group == "mirrored"].HashDistance.iloc[0])
    assert f"The whole picture again: {bits} of 256 bits differ." in page
    photos = table[table.Type == REFERENCE].set_index("Filename")
    assert set(photos.index[photos.Copy == SAME_PICTURE]) == ONE_PICTURE


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """A folder with 14 references; images that repeat one of them, its face in other places, and the person alone."""
    base = tmp_path_factory.mktemp("rendered")
    world = make_world(11, reference_size=14, outliers=0, duplicates=2)
    source, random = world.reference[copied_reference(world)].scene, np.random.default_rng(11)
    elsewhere = [
        replace(
            nudged(source, 0.1, random),
            background=place,
            background_seed=int(random.integers(1 << 30)),
            clothes_seed=int(random.integers(1 << 30)),
        )
        for place in BACKGROUNDS * 3
        if place != source.background
    ]
    scenes = {
        "ref": [shot.scene for shot in world.reference],
        "cand/overtrained": [shot.scene for shot in make_set(world, "overtrained", 8, 1.0).shots],
        "cand/same face": elsewhere,
        "cand/balanced": [shot.scene for shot in make_set(world, "balanced", 8).shots],
    }
    for folder, shots in scenes.items():
        (base / folder).mkdir(parents=True)
        for i, scene in enumerate(shots):
            cv2.imwrite(str(base / folder / f"{i:03d}.png"), render(scene, 256).image)
    return base


@pytest.fixture(scope="module")
def rendered_run(rendered) -> Run:
    return measured(rendered, demo_pack().folder)


def kinds_of(run: Run) -> dict[str, dict[str, int]]:
    """How many images of each group are of each kind."""
    generated = run.table[run.table.Type == CANDIDATE]
    return {group: part.Copy.value_counts().to_dict() for group, part in generated.groupby("Group")}


def test_a_repeated_picture_is_told_from_the_person(rendered_run):
    """Near copies repeat scene, clothes and light as well, at a head turned by a fraction of a degree."""
    seen = kinds_of(rendered_run)
    assert seen["overtrained"] == {SAME_PICTURE: 7, LIKENESS: 1}, "seven near copies are planted"
    assert seen["balanced"] == {LIKENESS: 8} and SAME_PICTURE not in seen["same face"]
    photos = rendered_run.table[rendered_run.table.Type == REFERENCE].set_index("Filename")
    doubled = {"000.png", "001.png", "012.png", "013.png"}
    assert set(photos.index[photos.Copy == SAME_PICTURE]) == doubled, "planted near duplicates"


def test_a_repeated_face_in_other_places_is_a_pose(rendered, mini_pack):
    """The demo pack's embeddings depend on the background too much for that; a pack for photos sees the face."""
    seen = kinds_of(measured(rendered, mini_pack, "mini"))
    assert seen["same face"] == {SAME_POSE: 6}
    assert seen["overtrained"] == {SAME_PICTURE: 7, LIKENESS: 1} and seen["balanced"] == {LIKENESS: 8}


def test_a_second_run_counts_nothing_anew(rendered_run, monkeypatch):
    """The distances are rows of their own in the cache: what was measured before stays valid beside them."""
    folder = rendered_run.output.parent
    kinds = [(REFERENCE, REFERENCE, folder / "ref"), (CANDIDATE, "balanced", folder / "cand" / "balanced")]
    pictures = [Picture(*kind, one.name, one) for *kind, place in kinds for one in sorted(place.iterdir())]
    cache = open_cache(folder / "cache.sqlite")
    measurer = Measurer(demo_pack(), cache)
    measurer.measure(pictures)
    monkeypatch.setattr(copies, "hash_distance", lambda *looks: pytest.fail("counted again"))
    table = score_pictures(pictures, measurer.pack_info())
    copies.add_copies(table, pictures, cache)
    cache.close()
    wanted = rendered_run.table
    wanted = wanted[(wanted.Type == REFERENCE) | (wanted.Group == "balanced")]
    assert table.HashDistance.tolist() == wanted.HashDistance.tolist() and table.Copy.tolist() == wanted.Copy.tolist()


def test_without_a_face_or_a_reference_the_cells_are_blank(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "only.jpg", 1)
    make_picture(tmp_path / "cand" / "a" / "one.png", 2)
    (tmp_path / "cand" / "a" / "broken.png").write_bytes(b"no picture")
    run = metrics("--pack", tiny_pack)
    assert run.row("one.png").Copy in (SAME_POSE, LIKENESS)
    for name in ("only.jpg", "broken.png"):
        assert pd.isna(run.row(name).Copy) and pd.isna(run.row(name).HashDistance)


def test_the_kind_of_a_pair():
    assert copy_kind(SAME_BITS, 0.3, 0.9, False) == SAME_PICTURE, "whatever the faces say"
    assert copy_kind(SAME_BITS + 2, 0.95, 0.9, True) == SAME_POSE
    assert copy_kind(None, 0.95, 0.9, True) == SAME_POSE
    assert copy_kind(None, 0.95, 0.9, False) == copy_kind(None, 0.9, 0.9, True) == LIKENESS


def face(yaw_deg: float | None, pitch_deg: float = 0.0, width: float = 80.0) -> FaceMeasurement:
    box = (0.0, 0.0, width, 100.0)
    return FaceMeasurement(Status.OK, 1, "CPU", (200, 200), box, yaw_deg=yaw_deg, pitch_deg=pitch_deg)


def test_heads_turned_alike_or_as_mirror_images():
    assert turned_alike(face(30), face(30 - ALIKE_DEG)) and turned_alike(face(30), face(-30))
    assert not turned_alike(face(30), face(5)) and not turned_alike(face(0), face(0, pitch_deg=ALIKE_DEG + 1))
    assert not turned_alike(face(0), face(0, width=60)) and not turned_alike(face(None), face(0))


def test_too_few_references_leave_the_documented_limit():
    """From five on, what is usual among them decides; photos of one shoot are as like as copies."""
    few, shoot = (made.make_run([], each=0, references=count) for count in (4, 12))
    for table in (few, shoot):
        table["NearestSimilarity"] = 0.96
    assert copies.copy_limit(few) == 0.85
    assert copies.copy_limit(shoot) == pytest.approx(1 - 0.04 * LIMITS.copy_share)
