"""export_for_did.py on rendered heads whose truth is known, and on the real photos beside the repository."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from documents import commands, page
from expression_nets import own_net
from pages_browser import assert_fits, assert_quiet, chromium, opened
from PIL import Image

from demo.identity import draw_identity
from demo.render import render
from demo.scene import LIGHTS, Scene
from mirror.export.did_rules import RULES, Figure, Judged

PACK = ROOT / "models" / "demo" / "face"
SIZE_WH = (512, 640)
WHO = draw_identity(np.random.default_rng([7, 4]))
FRONT = Scene(
    WHO, light=LIGHTS["high_key"], fill=0.6, lens_mm=85.0, place=(0.5, 0.5), background_seed=3, clothes_seed=4
)
SCENES = {
    "good_1.png": FRONT,
    "good_1_again.png": replace(FRONT, seed=9, grain=1.4),
    "good_2.png": replace(FRONT, background="outdoor", background_seed=8, clothes_seed=21, light=LIGHTS["overcast"]),
    "good_3.png": replace(FRONT, background="indoor", background_seed=2, clothes_seed=33),
    "turned.png": replace(FRONT, yaw_deg=30.0, background_seed=5),
    "tilted.png": replace(FRONT, roll_deg=-20.0, background_seed=7),
    "half_dark.png": replace(FRONT, light=LIGHTS["low_key"], background_seed=11),
    "blurred.png": replace(FRONT, blur_px=6.0, background_seed=12),
    "small.png": replace(FRONT, fill=0.25, background_seed=13),
    "close.png": replace(FRONT, place=(0.5, 0.18), background_seed=14),
    "nobody.png": replace(FRONT, person=False),
}
LACKS = {
    "turned.png": "turned to a side",
    "tilted.png": "tilted",
    "half_dark.png": "One half of the face has",
    "blurred.png": "blurred",
    "small.png": "across (at least 200 px)",
    "close.png": "he hair is cut off",
    "nobody.png": "No face was found",
    "two_faces.png": "A second face has",
}
PICTURES = (*SCENES, "two_faces.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The rendered dataset."""
    folder = tmp_path_factory.mktemp("did") / "alice"
    folder.mkdir()
    for name, scene in SCENES.items():
        cv2.imwrite(str(folder / name), render(scene, SIZE_WH).image)
    beside = [cv2.imread(str(folder / name)) for name in ("good_1.png", "good_3.png")]
    cv2.imwrite(str(folder / "two_faces.png"), np.hstack(beside))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache") / "cache.sqlite"


def export_in(folder: Path, cache: Path, dataset: Path, *more: object, code: int = 0, pack: Path = PACK):
    """Run the script; the package lies in `folder`."""
    arguments = ("--dataset", dataset, "--output", "package", "--pack", pack, "--cache", cache, *more)
    done = run_script("export_for_did.py", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("Error:") == (code != 0)
    return done


@pytest.fixture
def export(tmp_path, cache):
    return partial(export_in, tmp_path, cache)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, cache, pictures) -> tuple[subprocess.CompletedProcess, Path]:
    """The whole dataset: what was said, and the package."""
    folder = tmp_path_factory.mktemp("exported")
    return export_in(folder, cache, pictures), folder / "package"


def some(pictures: Path, folder: Path, *names: str) -> Path:
    """A dataset of its own with some of the pictures."""
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(pictures / name, folder)
    return folder


def record_in(folder: Path) -> dict:
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def test_good_pictures_are_chosen_and_every_other_one_has_its_reason(exported):
    done, package = exported
    record = record_in(package)
    chosen = [one["picture"] for one in record["sources"]]
    assert [one["file"] for one in record["sources"]] == [f"source_0{number}.jpg" for number in (1, 2, 3)]
    assert {"good_2.png", "good_3.png"} < set(chosen) and len(set(chosen) & {"good_1.png", "good_1_again.png"}) == 1
    reasons = {one["file"]: one["reason"] for one in record["not_used"]}
    assert sorted([*chosen, *reasons]) == sorted(PICTURES) and record["pictures"] == len(PICTURES)
    for name, words in LACKS.items():
        assert words in reasons[name], name
    (again,) = {"good_1.png", "good_1_again.png"} - set(chosen)
    assert "Good, but" in reasons[again] and "source_0" in reasons[again]
    assert record["good"] == 4 and record["complete"] and "3 of 5 pictures" in done.stderr
    for source in record["sources"]:
        assert source["picture"] in done.stdout and source["why"] and source["file"] in record["files"]
        assert all(figure["passed"] is not False for figure in source["figures"])
        assert any(one.startswith("not measured: mouth, eyes, expression") for one in source["limited_by"])
    scores = {one["picture"]: one["score"] for one in record["sources"]}
    assert chosen[0] == max(scores, key=scores.get) and record["sources"][1]["differs"]


def test_what_is_written_is_the_picture_itself_cut_around_the_head(exported, pictures):
    _, package = exported
    for source in record_in(package)["sources"]:
        image = cv2.imread(str(package / source["file"]))
        original = cv2.imread(str(pictures / source["picture"]))
        left, top, right, bottom = source["crop_xyxy"]
        assert source["scale"] == 1 and image.shape[1::-1] == tuple(source["size_wh"]) == (right - left, bottom - top)
        assert np.abs(image.astype(int) - original[top:bottom, left:right]).mean() < 4
        assert (package / source["file"]).stat().st_size == source["bytes"] < 10_000_000


def test_a_large_picture_is_shrunk_and_a_turned_file_is_set_upright_without_its_exif(export, pictures, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    exif[0x010F] = "CameraOfAlice"
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    with Image.open(pictures / "good_2.png") as picture:
        large = picture.resize((4 * SIZE_WH[0], 4 * SIZE_WH[1]), Image.Resampling.LANCZOS)
    large.rotate(90, expand=True).save(dataset / "large.jpg", exif=exif, quality=95)
    assert b"CameraOfAlice" in (dataset / "large.jpg").read_bytes()
    export(dataset)
    (source,) = record_in(tmp_path / "package")["sources"]
    assert source["turned_deg"] == 90 and max(source["size_wh"]) == 1280 and source["scale"] < 1
    data = (tmp_path / "package" / "source_01.jpg").read_bytes()
    with Image.open(tmp_path / "package" / "source_01.jpg") as written:
        assert not written.getexif() and written.format == "JPEG"
    assert b"Exif" not in data and b"CameraOfAlice" not in data
    left, top, right, bottom = source["crop_xyxy"]
    same = np.array(large)[top:bottom, left:right, ::-1]
    image = cv2.imread(str(tmp_path / "package" / "source_01.jpg"))
    assert np.abs(image.astype(int) - cv2.resize(same, image.shape[1::-1], interpolation=cv2.INTER_AREA)).mean() < 5


def test_the_same_command_writes_the_same_bytes_and_spares_what_it_did_not_write(export, exported, pictures, tmp_path):
    package = tmp_path / "package"
    first = {path.name: path.read_bytes() for path in exported[1].iterdir()}
    export(pictures, "--no-cache")
    assert {path.name: path.read_bytes() for path in package.iterdir()} == first
    export(pictures)
    assert {path.name: path.read_bytes() for path in package.iterdir()} == first
    export(pictures, "--count", "1")
    assert sorted(path.name for path in package.iterdir()) == ["metadata.json", "preview.html", "source_01.jpg"]
    (package / "source_01.jpg").write_bytes(b"mine")
    assert "source_01.jpg" in export(pictures, code=2).stderr
    assert (package / "source_01.jpg").read_bytes() == b"mine"
    shutil.rmtree(package)
    package.mkdir()
    (package / "metadata.json").write_text('{"name": "alice"}')
    assert "was not written by export_for_did.py" in export(pictures, code=2).stderr
    assert len(list(package.iterdir())) == 1


def test_where_none_is_good_enough_the_closest_three_are_shown_and_nothing_is_written(export, pictures, tmp_path):
    dataset = some(pictures, tmp_path / "dataset", "turned.png", "half_dark.png", "small.png", "close.png")
    done = export(dataset, code=2)
    rows = [line for line in done.stdout.splitlines() if ".png" in line]
    assert len(rows) == 3 and any("at least 200 px" in row for row in rows)
    assert "None of the 4 picture(s)" in done.stderr and "nothing was written" in done.stderr
    assert not (tmp_path / "package").exists()
    broken = done.stderr.partition("--ignore ")[2].split()[0]
    export(dataset, "--ignore", broken)
    (source,) = record_in(tmp_path / "package")["sources"]
    assert any(one.endswith("ignored as asked") for one in source["limited_by"])
    assert source["picture"] in rows[0] and "breaks no rule but what was ignored" in source["why"]
    assert "smile is no rule" in run_script("export_for_did.py", "--ignore", "smile").stderr


def test_the_expression_decides_where_a_model_reads_it(export, pictures, tmp_path):
    """The stand-in reads bright faces as smiling: a level that every face is nearest to decides for all of them."""
    smiling = own_net(tmp_path / "smiling.onnx", {"neutral": 0.0, "smile": 120.0})
    done = export(pictures, "--expression-model", smiling, code=2)
    assert "the expression is neutral by" in done.stdout and not (tmp_path / "package").exists()
    neutral = own_net(tmp_path / "neutral.onnx", {"neutral": 120.0, "smile": 0.0})
    export(pictures, "--expression-model", neutral)
    record = record_in(tmp_path / "package")
    figures = [one for source in record["sources"] for one in source["figures"] if one["rule"] == "expression"]
    assert len(figures) == 3 and all(one["passed"] and one["value"] > 0.5 for one in figures)
    assert record["expression_model"].startswith("neutral.onnx@")


def test_generated_pictures_are_left_out_unless_they_are_asked_for(export, pictures, tmp_path):
    dataset = some(pictures, tmp_path / "dataset", "good_2.png")
    shutil.copy(pictures / "good_1.png", dataset / "synthetic_face_angle_front_001.png")
    export(dataset)
    record = record_in(tmp_path / "package")
    assert [one["picture"] for one in record["sources"]] == ["good_2.png"] and len(record["not_used"]) == 1
    done = export(dataset, "--allow-synthetic")
    marked = {one["picture"]: one["is_synthetic"] for one in record_in(tmp_path / "package")["sources"]}
    assert marked == {"good_2.png": False, "synthetic_face_angle_front_001.png": True} and "(generated)" in done.stdout


def test_pictures_that_only_the_metadata_beside_them_calls_generated_are_left_out(export, pictures, tmp_path):
    dataset = some(pictures, tmp_path / "dataset", "good_1.png", "good_2.png")
    images = [{"file": "good_1.png", "prompt": "photo of ohwx woman", "seed": 1}]
    (dataset / "generation_metadata.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    export(dataset)
    record = record_in(tmp_path / "package")
    assert [one["picture"] for one in record["sources"]] == ["good_2.png"]
    assert "--allow-synthetic" in record["not_used"][0]["reason"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no pictures"),
        ("no face", "No face was found in the 1 picture(s)"),
        ("one bad picture", "None of the 1 picture(s)"),
        ("two persons", "shows two persons"),
        ("output in dataset", "lies in the dataset"),
        ("output in a folder of the dataset", "lies in the dataset"),
        ("output is a file", "is a file; it takes a folder"),
    ],
)
def test_a_bad_dataset_gets_one_sentence(export, pictures, tmp_path, case, said):
    dataset, more = tmp_path / "dataset", ()
    if case != "missing":
        names = {"no face": ["nobody.png"], "one bad picture": ["small.png"], "output in dataset": ["good_1.png"]}
        some(pictures, dataset, *names.get(case, []))
    if case == "two persons":
        for number in range(8):
            who = draw_identity(np.random.default_rng([number % 2, 60]))
            scene = replace(FRONT, who=who, seed=number, yaw_deg=float(number), fill=0.75)
            cv2.imwrite(str(dataset / f"{number}.png"), render(scene, 200).image)
    if case == "output in dataset":
        more = ("--output", dataset)
    if case == "output in a folder of the dataset":
        more = ("--output", dataset / "package")
    if case == "output is a file":
        more = ("--output", shutil.copy(pictures / "good_1.png", tmp_path / "file.png"))
    assert said in export(dataset, *more, code=2).stderr
    assert not (tmp_path / "package").exists()
    assert not dataset.is_dir() or not list(dataset.glob("*.json"))


def test_the_guides_command_as_it_stands(pictures, tmp_path):
    (line,) = [one for one in commands("python export_for_did.py") if "organized/alice" in one]
    assert line == "python export_for_did.py --dataset outputs/facevault/organized/alice --output alice_did_package/"
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "export_for_did.py", tmp_path)
    pack = {"det_demo": "det_10g", "rec_demo": "w600k_r50", "lmk_demo": "1k3d68", "age_demo": "genderage"}
    (tmp_path / "models" / "buffalo_l").mkdir(parents=True)
    for ours, name in pack.items():
        shutil.copy(PACK / f"{ours}.onnx", tmp_path / "models" / "buffalo_l" / f"{name}.onnx")
    some(pictures, tmp_path / "outputs" / "facevault" / "organized" / "alice", *SCENES)
    command = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    record = record_in(tmp_path / "alice_did_package")
    assert record["sources"] and (tmp_path / "alice_did_package" / "source_01.jpg").is_file()
    # under another name the demo pack's landmarks count, as those of buffalo_l do
    measured = {one["rule"] for one in record["sources"][0]["figures"] if one["passed"]}
    assert {"mouth", "eyes"} <= measured and "Not measured: expression" in done.stderr


def test_the_page_opens_offline_and_fits(exported, tmp_path):
    html = (exported[1] / "preview.html").read_text(encoding="utf-8")
    with chromium() as browser:
        for width in (1280, 390):
            shown = opened(browser, tmp_path, html, width)
            assert_quiet(shown)
            assert_fits(shown)
            assert shown.page.locator(".source img").count() == 3
            assert shown.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert shown.texts(".source h2")[0].startswith("source_01.jpg")
            assert set(shown.texts(".source:first-child tbody th")) == set(rule_names())
            shown.page.close()


def rule_names() -> list[str]:
    from mirror.export.did_rules import RULE_NAMES

    return list(RULE_NAMES)


def test_the_rules_of_mouth_and_eyes_on_true_landmarks():
    """Landmarks as exact as a renderer's: what the rules make of them, whatever a pack sees."""
    from mirror.export.did_rules import RULES
    from mirror.export.geometry import eye_opening, mouth_opening
    from mirror.faces.engine import FaceMeasurement
    from utils.files import Status

    rules = {rule.name: rule for rule in RULES}
    for number in range(4):
        who = draw_identity(np.random.default_rng([number, 61]))
        for expression, closed in (("neutral", False), ("surprised", False), ("laughing", False), ("neutral", True)):
            truth = render(Scene(who, expression=expression, eyes_closed=closed, yaw_deg=8.0, roll_deg=9.0), 96).truth
            points = tuple(map(tuple, truth.points_68[:, :2]))
            face = FaceMeasurement(Status.OK, 1, "", (96, 96), landmarks=points)
            opened_mouth = expression in ("surprised", "laughing")
            assert (rules["mouth"].goodness(mouth_opening(face)) < 0) == opened_mouth
            if expression == "neutral":
                assert (rules["eyes"].goodness(eye_opening(face)) < 0) == closed


def test_boxes_follow_the_turn_of_the_picture():
    from mirror.export.geometry import room_around
    from mirror.faces.engine import FaceMeasurement
    from mirror.vault.crops import upright, upright_box
    from utils.files import Status

    for turned in (0, 90, 180, 270):
        image = np.zeros((40, 30, 3), np.uint8)
        image[5:15, 8:14] = 255  # upright
        lying = np.ascontiguousarray(np.rot90(image, turned // 90))
        rows, columns = np.nonzero(lying[..., 0])
        box = (float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0)
        face = FaceMeasurement(Status.OK, 1, "", lying.shape[1::-1], box_xyxy=box, turned_deg=turned)
        assert upright_box(box, face.size_wh, turned) == (8, 5, 14, 15)
        assert np.array_equal(upright(lying, turned), image)
        assert room_around(face) == (0.5, 2.5, 8 / 6)


def test_real_photos_of_one_man(export, photos, mini_pack, tmp_path):
    """Of four photos one is frontal and large; one is turned, one small in frame, one black-and-white and turned."""
    dataset = some(photos, tmp_path / "dataset", "d1.jpeg", "d3.jpeg", "d4.jpeg", "d5.jpeg")
    done = export(dataset, pack=mini_pack)
    record = record_in(tmp_path / "package")
    assert [one["picture"] for one in record["sources"]] == ["d1.jpeg"] and len(record["not_used"]) == 3
    assert "Head angles come from keypoints" in done.stderr and "the pack has no 68 landmarks" in done.stderr


def test_the_rules_told_are_those_that_are_asked():
    from mirror.export.did_limits import SERVICE_LIMITS
    from mirror.export.did_rules import RULES

    text = page("exports")
    rows = text[text.index("| rule | a picture passes where") :].split("\n\n")[0].splitlines()[2:]
    told = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0].strip("`") for row in told] == [rule.name for rule in RULES]
    assert [row[2] for row in told] == [rule.shown_limit for rule in RULES]
    assert all(limit.source in text for limit in SERVICE_LIMITS if limit.source.startswith("https"))


def test_an_ignored_rule_still_counts_in_the_rank():
    yaw = next(rule for rule in RULES if rule.name == "yaw")
    near, far = (Judged(None, (Figure(yaw, value, is_ignored=True),)) for value in (11.0, 57.0))
    level = next(rule for rule in RULES if rule.name == "pitch")
    ideal = Figure(level, level.ideal)
    near, far = (replace(one, figures=(*one.figures, ideal)) for one in (near, far))
    assert not near.broken and not far.broken and near.score > far.score >= 0
