"""gap_analysis.py as users run it: on rendered heads of known truth, on real photos, and on what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from detector_standin import CHOKE, FILES, key_of
from documents import page
from model_corpus import evil_files
from PIL import Image

from demo.identity import draw_identity
from demo.parallel import render_all
from demo.scene import draw_scene
from demo.sets import nudged, spread_yaws
from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import GapReport
from mirror.dataset.boxes import classes_of
from mirror.faces.pose import BIN_LIMITS_DEG, angle_bin
from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS
from utils.files import Status

AWAY_DEG = 8.0  # from a border of the bins: nearer than that a bin says little about a measured angle
PIXELS = 256


class Result:
    """What one run gave."""

    def __init__(self, done: subprocess.CompletedProcess, output: Path):
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        self.output = output

    @property
    def report(self) -> GapReport:
        return read_contract(self.output, GapReport, "gap_analysis.py")

    @property
    def records(self) -> dict:
        return {record.file: record for record in self.report.images}

    def targets(self, kind: str) -> dict:
        (one,) = [one for one in self.report.distributions if one.type == kind]
        return {share.target: share for share in one.targets}


@pytest.fixture
def gaps(tmp_path):
    """Run gap_analysis.py with a cache and an empty models folder of the test's own, without a home folder's packs."""

    def run(dataset: Path, *arguments: object, script: str = "gap_analysis.py", output: str = "gaps.json") -> Result:
        (tmp_path / "models").mkdir(exist_ok=True)
        own = ("--models-dir", tmp_path / "models", "--output", tmp_path / "out" / output)
        cache = ("--cache", tmp_path / "cache.sqlite")
        done = run_script(script, dataset, *own, *cache, *arguments, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
        return Result(done, tmp_path / "out" / output)

    return run


@pytest.fixture(scope="session")
def heads(tmp_path_factory):
    """Folder and truth by file name: 32 heads from -80 to 80 degrees, two of them again, two with a hand."""
    rng = np.random.default_rng(11)
    who = draw_identity(rng)
    scenes = [draw_scene(who, rng, yaw_deg=float(yaw)) for yaw in spread_yaws(32, 80, rng)]
    scenes += [nudged(scene, 0.25, rng) for scene in scenes[:2]]
    scenes += [draw_scene(who, rng, yaw_deg=0.0, hand="wave", fill=0.35) for _ in range(2)]
    folder = tmp_path_factory.mktemp("heads")
    truth = {}
    for i, picture in enumerate(render_all(scenes, PIXELS, workers=1)):
        name = f"{i:03d}.png"
        cv2.imwrite(str(folder / name), picture.image)
        truth[name] = picture
    return folder, truth


@pytest.fixture(scope="session")
def measured_heads(heads, mini_pack, tmp_path_factory):
    """The real script with the real small pack on them."""
    base = tmp_path_factory.mktemp("measured")
    own = ("--models-dir", base, "--output", base / "gaps.json", "--cache", base / "cache.sqlite")
    return Result(run_script("gap_analysis.py", heads[0], *own, "--pack", mini_pack), base / "gaps.json")


def away_from_borders(yaw: float) -> bool:
    borders = [low for low, _ in BIN_LIMITS_DEG.values() if low]
    return all(abs(abs(yaw) - border) > AWAY_DEG for border in borders)


# Truth


def test_bins_are_right_away_from_the_borders(measured_heads, heads):
    assert measured_heads.code == 0, measured_heads.stderr
    records, truth = measured_heads.records, heads[1]
    assert set(records) == set(truth)
    clear = {name: one.truth.yaw_deg for name, one in truth.items() if away_from_borders(one.truth.yaw_deg)}
    assert {angle_bin(yaw) for yaw in clear.values()} == set(BIN_LIMITS_DEG) and len(clear) >= 15
    right = [records[name].values["face_angle"] == angle_bin(yaw) for name, yaw in clear.items()]
    assert np.mean(right) >= 0.85  # by five keypoints the small pack reads 3 of these 25 one bin off
    turned = {name: yaw for name, yaw in clear.items() if abs(yaw) > 15}
    assert all(np.sign(records[name].yaw_deg) == np.sign(yaw) for name, yaw in turned.items()), "left is left"


def test_faces_duplicates_and_shares_are_those_of_the_world(measured_heads, heads):
    report, records = measured_heads.report, measured_heads.records
    for name, one in heads[1].items():
        record = records[name]
        assert record.status == Status.OK and record.det_score > 0.5 and record.size_wh == (PIXELS, PIXELS)
        box, true = np.array(record.face_box_xyxy), np.array(one.truth.face_box_xyxy)
        overlap = np.minimum(box, true)[2:] - np.maximum(box, true)[:2]
        assert (overlap > 0.5 * (true[2:] - true[:2])).all(), name
    assert {(pair.first, pair.second) for pair in report.near_duplicates} == {
        ("000.png", "032.png"),
        ("001.png", "033.png"),
    }
    shares = measured_heads.targets("face_angle")
    values = [record.values["face_angle"] for record in records.values()]
    for name, share in shares.items():
        assert share.count == values.count(name)
        assert share.share_percent == pytest.approx(100 * share.count / len(values), abs=1e-3)
    assert report.synthetic_room == 15 and (report.synthetic_room + 1) / (36 + 15 + 1) > 0.3


def test_what_has_no_detector_is_unmeasured_never_zero(measured_heads):
    report = measured_heads.report
    assert report.sensors.hands is None is report.sensors.eyes
    assert all(record.hands is None is record.eyes for record in report.images)
    for kind in ("composition", "eyes"):
        assert all(share.share_percent is None for share in measured_heads.targets(kind).values())
    assert {missing.type for missing in report.not_measured} == {"composition", "eyes", "expression"}
    assert "composition" not in {gap.type for gap in report.recommendations}
    said = [line for line in measured_heads.stdout.splitlines() if line.startswith("Not measured: composition")]
    assert len(said) == 1 and "put hand_yolov8n.pt into" in said[0]
    assert "no hand detector" in measured_heads.output.with_suffix(".html").read_text(encoding="utf-8")


def test_real_photos_have_the_angles_that_the_eye_sees(gaps, photos, mini_pack):
    result = gaps(photos, "--pack", mini_pack)
    assert result.code == 0, result.stderr
    records = result.records
    assert sorted(records) == sorted(path.name for path in photos.iterdir())
    for name in ("happy.png", "sad.png", "close_eyes.jpeg", "d1.jpeg", "Rob_Lowe_0002.jpg", "mask2.jpg"):
        assert records[name].values["face_angle"] == "front", name
    assert records["left_face.jpeg"].yaw_deg < -45 and records["right_face.png"].yaw_deg > 45
    for name in ("view.jpg", "no_face.png"):
        record = records[name]
        assert (record.status, record.values["face_angle"], record.values["shot_size"]) == ("no_face", None, None)
        assert record.values["lighting"] is not None, "light needs no face"
    assert [(gap.type, gap.target) for gap in result.report.recommendations] == [
        ("face_angle", "three_quarter"),
        ("face_angle", "profile"),
    ]
    room = result.report.synthetic_room
    assert sum(gap.count for gap in result.report.recommendations) == room == 13
    assert "as at most 30% of the dataset may be synthetic" in result.report.recommendations[0].reason
    assert "2 gap(s) found." in result.stdout and "In 2 of 32 images no face was found." in result.stderr


# With detectors


@pytest.fixture
def truth_models(heads, tmp_path):
    """Model files, as tests/fixtures/detector_standin.py reads them, that hold the truth of the heads."""

    def write(kind: str, of_picture) -> None:
        known = {key_of(one.image): of_picture(one.truth) for one in heads[1].values()}
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / FILES[kind]).write_text(json.dumps(known), encoding="utf-8")

    write("hand", lambda truth: [truth.hand_boxes_xyxy, None])
    write("eye", lambda truth: [truth.eye_boxes_xyxy, None])
    write("face", lambda truth: [[truth.face_box_xyxy], [truth.five_points.tolist()]])
    return tmp_path / "models"


def test_detectors_measure_what_they_find(gaps, heads, truth_models):
    """Five landmarks instead of a pack, hands and eyes, in batches, with one decode of each picture."""
    folder, truth = heads
    result = gaps(folder, script="tests/fixtures/detector_standin.py")
    assert result.code == 0, result.stderr
    report, records = result.report, result.records
    assert (report.sensors.angle.kind, report.sensors.angle.source) == ("detector", "keypoints")
    for sensor, kind in (
        (report.sensors.angle.identity, "face"),
        (report.sensors.hands, "hand"),
        (report.sensors.eyes, "eye"),
    ):
        assert re.fullmatch(re.escape(FILES[kind]) + "@[0-9a-f]{12}", sensor)
    hands = {name: len(one.truth.hand_boxes_xyxy) for name, one in truth.items()}
    assert {name: record.hands for name, record in records.items()} == hands and sum(hands.values()) >= 2
    assert {name: record.eyes for name, record in records.items()} == {
        name: len(one.truth.eye_boxes_xyxy) for name, one in truth.items()
    }
    seen = sum(count > 0 for count in hands.values())
    share = result.targets("composition")["hands_visible"]
    assert (share.count, share.goal_percent) == (seen, 30)
    (gap,) = [gap for gap in report.recommendations if gap.type == "composition"]
    assert (seen + gap.wanted) / (36 + gap.wanted) >= 0.3 > (seen + gap.wanted - 1) / (36 + gap.wanted - 1)
    clear = [name for name, one in truth.items() if away_from_borders(one.truth.yaw_deg)]
    right = [records[name].values["face_angle"] == angle_bin(truth[name].truth.yaw_deg) for name in clear]
    assert np.mean(right) >= 0.95, "the points are exact"
    assert [missing.type for missing in report.not_measured] == ["expression"]
    counts = json.loads(result.stderr.splitlines()[-1])
    assert counts == {"decoded": 36, "batches": [16] * 6 + [4] * 3}

    again = gaps(folder, script="tests/fixtures/detector_standin.py", output="again.json")
    assert json.loads(again.stderr.splitlines()[-1]) == {"decoded": 0, "batches": []}, "all of it was in the cache"
    assert again.report.images == report.images and again.report.recommendations == report.recommendations
    hand = truth_models / FILES["hand"]
    hand.write_text("{}", encoding="utf-8")
    other = gaps(folder, script="tests/fixtures/detector_standin.py", output="other.json")
    assert json.loads(other.stderr.splitlines()[-1])["batches"] == [16, 16, 4], (
        "only the other hand detector had to look"
    )
    assert {record.hands for record in other.records.values()} == {0}
    assert other.targets("composition")["hands_visible"].share_percent == 0, "measured, and none is there"


def test_real_detectors_look_along(gaps, heads, mini_pack):
    """The project's own small YOLO files in the users' places: eyes in most frontal heads, hands counted everywhere."""
    models = ROOT / "models" / "demo" / "yolo"
    result = gaps(heads[0], "--pack", mini_pack, "--hand-model", models / "hands.pt", "--eye-model", models / "eyes.pt")
    assert result.code == 0, result.stderr
    report, records = result.report, result.records
    assert report.sensors.hands.startswith("hands.pt@") and report.sensors.eyes.startswith("eyes.pt@")
    assert all(record.hands is not None is not record.eyes for record in records.values())
    front = [name for name, one in heads[1].items() if abs(one.truth.yaw_deg) < 25]
    assert np.mean([records[name].eyes > 0 for name in front]) > 0.7
    assert not {"composition", "eyes"} & {missing.type for missing in report.not_measured}
    assert "Detector: hands.pt@" in result.stderr and " on cpu" in result.stderr


@pytest.mark.parametrize("script", ["gap_analysis.py", "validate_synthetic.py"])
def test_a_detector_that_would_run_something_is_refused_and_runs_nothing(tmp_path, make_picture, tiny_pack, script):
    models, canaries = tmp_path / "models", tmp_path / "canaries"
    models.mkdir()
    canaries.mkdir()
    variant = next(variant for variant in evil_files(canaries, None) if variant.runs == "pickle")
    (models / "hand_yolov8n.pt").write_bytes(variant.data)
    make_picture(tmp_path / "dataset" / "1.jpg")
    output = ("--output", tmp_path / "gaps.json") if script == "gap_analysis.py" else ()
    done = run_script(
        script,
        tmp_path / "dataset",
        "--models-dir",
        models,
        "--pack",
        tiny_pack,
        "--no-cache",
        "--device",
        "cpu",
        *output,
    )
    assert done.returncode == 2, done.stderr
    assert (
        "nothing of it has run" in done.stderr and f"python inspect_pkl.py {models / 'hand_yolov8n.pt'}" in done.stderr
    )
    assert not list(canaries.iterdir())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("kind", "names", "chosen"),
    [
        ("hand", ["0"], {"0"}),
        ("hand", ["left hand", "Right_Hand", "face"], {"left hand", "Right_Hand"}),
        ("hand", ["hands", "no_hand"], {"hands"}),
        ("hand", ["person", "bicycle", "handbag"], None),  # COCO's
        ("hand", ["face"], None),
        ("eye", ["surface", "eyeglasses"], None),
        ("eye", ["open eye", "closed eye"], {"open eye"}),
        ("face", ["face_mask", "face"], {"face"}),
    ],
)
def test_of_several_classes_those_of_the_kind_are_taken(kind, names, chosen):
    path = Path("yolov8n.pt")
    if chosen is not None:
        assert classes_of(kind, names, path) == chosen
        return
    with pytest.raises(UserError, match=f"no {kind} detector: it finds {', '.join(names)}"):
        classes_of(kind, names, path)


def test_classes_can_be_named():
    gestures = ["palm", "fist", "person"]
    assert classes_of("hand", gestures, Path("g.pt"), "palm, fist") == {"palm", "fist"}
    with pytest.raises(UserError, match=r"g\.pt has no class 'thumb': it finds palm, fist, person"):
        classes_of("hand", gestures, Path("g.pt"), "thumb")


def test_a_detector_of_something_else_is_refused_even_where_nothing_is_found(gaps, tmp_path, make_picture):
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "demo" / "yolo" / "hands.pt", tmp_path / "models" / "yolov5l-face.pt")
    make_picture(tmp_path / "dataset" / "1.jpg")
    result = gaps(tmp_path / "dataset", "--angle-sensor", "detector")
    assert result.code == 2 and "yolov5l-face.pt is no face detector: it finds hand" in result.stderr
    assert not result.output.exists()


def test_files_of_others_are_not_overwritten(gaps, tmp_path, make_picture, tiny_pack):
    make_picture(tmp_path / "dataset" / "1.jpg")
    (tmp_path / "out").mkdir()
    foreign = {"package.json": '{"name": "mine"}', "index.html": "<p>mine</p>"}
    for name, text in foreign.items():
        (tmp_path / "out" / name).write_text(text, encoding="utf-8")
        result = gaps(tmp_path / "dataset", "--pack", tiny_pack, output=Path(name).with_suffix(".json").name)
        assert result.code == 2 and f"{name} is there already" in result.stderr
        assert (tmp_path / "out" / name).read_text(encoding="utf-8") == text


def test_a_picture_on_which_a_network_chokes_is_one_bad_row(gaps, heads, truth_models, tiny_pack):
    folder, truth = heads
    hand = truth_models / FILES["hand"]
    hand.write_text(json.dumps({CHOKE: key_of(truth["003.png"].image)}), encoding="utf-8")
    result = gaps(folder, "--pack", tiny_pack, script="tests/fixtures/detector_standin.py")
    assert result.code == 0, result.stderr
    assert result.report.sensors.angle.kind == "pack", "it takes the place of the face detector"
    bad = [record for record in result.report.images if record.status == Status.ERROR]
    assert [record.file for record in bad] == ["003.png"] and "the network chokes" in bad[0].reason
    assert bad[0].hands is None and result.targets("composition")["hands_hidden"].count == 35
    assert "1 error" in result.stderr
    chosen = gaps(
        folder, "--angle-sensor", "detector", script="tests/fixtures/detector_standin.py", output="chosen.json"
    )
    assert chosen.report.sensors.angle.kind == "detector"


def test_a_face_that_overflows_the_picture_is_seen_with_a_border():
    from mirror.dataset.angles import DetectorAngles
    from mirror.dataset.boxes import Boxes
    from mirror.faces.engine import NO_FACE, PADDED

    points = np.float32([[90, 60], [160, 60], [125, 100], [95, 140], [155, 140]])

    class SeesWithBorder:
        identity = "fake@0"

        def find(self, contents, images):
            def boxes(image):
                top, left = (int(np.flatnonzero(image.any(axis=(1 - side, 2)))[0]) for side in (0, 1))
                if not top:
                    return Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), None)
                corner = np.float32([left, top])
                box = np.float32([[left, top, left + 250, top + 200]])
                return Boxes(box, np.float32([0.8]), (points + corner)[None])

            return [boxes(image) for image in images]

    picture = np.full((200, 250, 3), 90, np.uint8)
    (face,) = DetectorAngles(SeesWithBorder()).faces(["a"], [picture])
    assert (face.status, face.faces, face.box_xyxy) == (Status.RESCUED, 1, (0, 0, 250, 200))
    large = np.full((2000, 2500, 3), 90, np.uint8)
    (face,) = DetectorAngles(SeesWithBorder()).faces(["a"], [large])
    assert face.box_xyxy == pytest.approx((0, 0, 250 / 0.512, 200 / 0.512), abs=3), "back in the picture's own pixels"
    assert PADDED != NO_FACE


OWN_TYPE = """
def brightness(look):
    return "{answer}"


register(GapType("brightness", "Brightness", brightness, (Target("light", "Light", ()), Target("dark", "Dark", ()))))
"""


def test_kept_records_survive_reformatting_but_not_another_measure(gaps, tmp_path, make_picture, tiny_pack):
    for i in range(3):
        make_picture(tmp_path / "set" / f"{i}.jpg", i)
    project = _copy_of_the_project(tmp_path)
    source = project / "mirror" / "dataset" / "gaps.py"
    written = source.read_text(encoding="utf-8")

    def kept_after(code: str) -> tuple[int, set]:
        source.write_text(code, encoding="utf-8")
        result = gaps(tmp_path / "set", "--pack", tiny_pack, script=project / "gap_analysis.py")
        assert result.code == 0, result.stderr
        with contextlib.closing(sqlite3.connect(tmp_path / "cache.sqlite")) as cache:
            rows = cache.execute("SELECT count(*) FROM blobs WHERE kind = 'look'").fetchone()[0]
        return rows, {record.values.get("brightness") for record in result.records.values()}

    assert kept_after(written) == (3, {None})
    moved = written.replace("def face_angle(look: Look)", "\n\n# moved down\ndef face_angle(\n    look: Look,\n)")
    assert moved != written and kept_after(moved) == (3, {None}), "nothing was measured anew"
    assert kept_after(written + OWN_TYPE.format(answer="light")) == (6, {"light"})
    assert kept_after(written + OWN_TYPE.format(answer="dark")) == (9, {"dark"}), "another function, another answer"


# Sensors that are missing


def _copy_of_the_project(tmp_path: Path) -> Path:
    """With no pack of this machine in models/."""
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gap_analysis.py", tmp_path / "project")
    return tmp_path / "project"


def test_without_an_angle_sensor_nothing_is_analysed(gaps, tmp_path, make_picture):
    make_picture(tmp_path / "set" / "1.jpg")
    result = gaps(tmp_path / "set", script=_copy_of_the_project(tmp_path) / "gap_analysis.py")
    assert result.code == 2
    for part in ("nothing to measure angles with", "buffalo_l", "mirror_metrics.py", f"put {FILES['face']} into"):
        assert part in result.stderr
    assert not list((tmp_path / "out").iterdir()), "no result of a step that did not finish"


def test_a_sensor_that_was_asked_for_must_be_there(gaps, tmp_path, make_picture, tiny_pack):
    make_picture(tmp_path / "set" / "1.jpg")
    for option, value in (("--pack", "buffalo_x"), ("--hand-model", "my_hands.pt")):
        result = gaps(tmp_path / "set", "--pack", tiny_pack, option, value, script="tests/fixtures/detector_standin.py")
        assert result.code == 2 and value in result.stderr, result.stderr
    shutil.copytree(tiny_pack, tmp_path / "models" / "buffalo_x")
    assert gaps(tmp_path / "set", "--pack", "buffalo_x").report.sensors.angle.identity.startswith("buffalo_x@")


# The dataset


def test_every_file_of_the_folder_is_accounted_for(gaps, tmp_path, make_picture, tiny_pack):
    dataset = tmp_path / "set"
    for i in range(3):
        make_picture(dataset / f"{i}.jpg", i)
    make_picture(dataset / "synthetic_face_angle_profile_001.png", 7)
    make_picture(dataset / "10_ohwx" / "inner.jpg", 8)
    (dataset / "empty.jpg").write_bytes(b"")
    (dataset / "text.png").write_text("I am no picture")
    (dataset / "caption.txt").write_text("ohwx")
    (dataset / "folder.png").mkdir()
    Image.new("1", (30000, 30000)).save(dataset / "huge.png")
    result = gaps(dataset, "--pack", tiny_pack)
    assert result.code == 0, result.stderr
    statuses = {name: record.status for name, record in result.records.items()}
    assert statuses == {
        **{f"{i}.jpg": "ok" for i in range(3)},
        "synthetic_face_angle_profile_001.png": "ok",
        "empty.jpg": "unreadable",
        "text.png": "unreadable",
        "folder.png": "unreadable",
        "huge.png": "too_large",
    }
    assert "0 bytes" in result.records["empty.jpg"].reason
    report = result.report
    assert report.ignored_files == {".txt": 1} and report.synthetic_images == 1
    assert {one.type: one.measured for one in report.distributions}["lighting"] == 4, "of those that could be read"
    assert "below 20 a share says little; at least 50 images are advised, 100 or more are ideal" in result.stderr
    assert "Not read: 3 unreadable, 1 too_large." in report.warnings
    assert any("--recursive" in warning for warning in report.warnings)
    deep = gaps(dataset, "--pack", tiny_pack, "--recursive", output="deep.json")
    assert "10_ohwx/inner.jpg" in deep.records and len(deep.records) == 8, "folder.png is entered now"


def test_a_dataset_that_is_none_is_one_sentence(gaps, tmp_path, make_picture, tiny_pack):
    (tmp_path / "bare").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.jpg").write_bytes(b"no")
    make_picture(tmp_path / "nested" / "inner" / "1.jpg")
    for folder, said in (
        ("missing", "does not exist"),
        ("broken/1.jpg", "is a file, not a folder"),
        ("bare", f"holds no pictures ({', '.join(IMAGE_EXTENSIONS)})."),
        ("nested", "--recursive takes them in"),
        ("broken", "No picture of the dataset could be read"),
    ):
        result = gaps(tmp_path / folder, "--pack", tiny_pack)
        assert result.code == 2 and said in result.stderr and not result.output.exists(), result.stderr
    assert "1.jpg: unreadable (is not a picture" in result.stderr


@pytest.fixture
def small_set(tmp_path, make_picture):
    for i in range(4):
        make_picture(tmp_path / "set" / f"{i}.jpg", i)
    return tmp_path / "set"


def test_options_of_the_command_line(gaps, small_set, tiny_pack, tmp_path):
    goals = tmp_path / "goals.json"
    goals.write_text(json.dumps({"face_angle": {"profile": None, "three_quarter": None, "front": None},
                                 "lighting": {"low_key": None, "high_key": None}}))  # fmt: skip
    result = gaps(small_set, "--pack", tiny_pack, "--goals", goals, "--json", "--note", "<b>Half of it is drawn.")
    assert result.code == 0, result.stderr
    assert "<b>Half of it is drawn." in result.report.warnings
    assert "&lt;b&gt;Half of it is drawn." in result.output.with_suffix(".html").read_text(encoding="utf-8")
    assert GapReport.model_validate_json(result.stdout) == result.report, "the gap file and nothing else"
    assert result.report.recommendations == [], "nothing is asked for without goals"
    assert "0 gaps" in gaps(small_set, "--pack", tiny_pack, "--goals", goals).stdout
    goals.write_text(json.dumps({"lighting": {"low_key": 99, "high_key": None}}))
    for share, room in ((0, 0), (0.5, 4)):
        capped = gaps(small_set, "--pack", tiny_pack, "--goals", goals, "--max-synthetic-share", share)
        assert capped.code == 0, capped.stderr
        capped = capped.report
        assert capped.synthetic_room == room == sum(gap.count for gap in capped.recommendations)
        assert capped.recommendations and "clipped from" in capped.recommendations[0].reason
    for arguments, said in (
        (("--max-synthetic-share", 0.6), "not a share between 0 and 0.5"),
        (("--goals", tmp_path / "none.json"), "none.json cannot be read"),
        (("--output", tmp_path), "is no .json file"),
        (("--output", small_set / "0.jpg" / "gaps.json"), "--output takes another file"),
    ):
        bad = gaps(small_set, "--pack", tiny_pack, *arguments)
        assert bad.code == 2 and said in bad.stderr, bad.stderr


def test_help_names_every_default_file():
    shown = run_script("gap_analysis.py", "--help").stdout
    from utils.defaults import DETECTOR_FILES

    for default in (*DETECTOR_FILES.values(), "buffalo_l", "gaps.json", "0.3", "auto", "100.0"):
        assert default in shown, default


def test_without_a_cache_everything_is_measured_anew(gaps, small_set, tiny_pack, tmp_path):
    first = gaps(small_set, "--pack", tiny_pack)
    second = gaps(small_set, "--pack", tiny_pack)
    third = gaps(small_set, "--pack", tiny_pack, "--no-cache")
    assert ["Networks:" in run.stderr for run in (first, second, third)] == [True, False, True]
    assert first.report.images == second.report.images == third.report.images


def test_other_angle_bins_do_not_take_the_old_bins_from_the_cache(gaps, small_set, tiny_pack, tmp_path):
    before = gaps(small_set, "--pack", tiny_pack)
    assert "front" in {record.values["face_angle"] for record in before.report.images}
    project = _copy_of_the_project(tmp_path)
    pose = project / "mirror" / "faces" / "pose.py"
    was = pose.read_text(encoding="utf-8")
    pose.write_text(was.replace("(0.0, 25.0)", "(0.0, 0.01)").replace("(25.0, 55.0)", "(0.01, 55.0)"), encoding="utf-8")
    after = gaps(small_set, "--pack", tiny_pack, script=str(project / "gap_analysis.py"))
    assert after.code == 0, after.stderr
    assert "front" not in {record.values["face_angle"] for record in after.report.images}


# The documents


def test_own_gap_type_of_the_documents(small_set, tiny_pack, tmp_path):
    """The example as it stands there, at the end of mirror/dataset/gaps.py as it says, in a copy of the project."""
    chapter = page("gap-analysis").split("## Adding a gap type of your own")[1].split("\n#")[0]
    (code,) = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    project = _copy_of_the_project(tmp_path)
    with open(project / "mirror" / "dataset" / "gaps.py", "a", encoding="utf-8") as file:
        file.write("\n\n" + code)
    for i in (0, 1):
        grey = cv2.cvtColor(cv2.imread(str(small_set / f"{i}.jpg")), cv2.COLOR_BGR2GRAY)
        cv2.imwrite(str(small_set / f"{i}.jpg"), grey)
    output = tmp_path / "own.json"
    command = [sys.executable, project / "gap_analysis.py", small_set, "--pack", tiny_pack, "--output", output]
    done = subprocess.run([*command, "--no-cache"], capture_output=True, encoding="utf-8", env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    report = read_contract(output, GapReport, "gap_analysis.py")
    values = {record.file: record.values["tone"] for record in report.images}
    assert values == {"0.jpg": "black_and_white", "1.jpg": "black_and_white", "2.jpg": "colour", "3.jpg": "colour"}
    shares = {share.target: share for one in report.distributions if one.type == "tone" for share in one.targets}
    assert (shares["colour"].share_percent, shares["colour"].goal_percent) == (50, 90)
    (gap,) = [gap for gap in report.recommendations if gap.type == "tone"]
    assert (gap.target, gap.wanted) == ("colour", 16)
    assert "Tone" in output.with_suffix(".html").read_text(encoding="utf-8")
