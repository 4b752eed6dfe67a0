"""validate_synthetic.py on planted batches: each fault rejected for its reason, the person kept at every angle."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script
from documents import commands
from pages_browser import assert_fits, assert_quiet, chromium, opened
from synthetic_batch import GOOD_YAWS, UNASKED_YAWS, WRONG_YAWS, Planted, planted, write_png

from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import AngleSensor, GapSensors, ImageRecord
from mirror.contracts.validation import Check, Outcome, ValidatedImage, ValidationReport, Verdict
from mirror.dataset.checks import (
    CHECK_NAMES,
    COPY,
    DUPLICATE,
    FACE,
    IDENTITY,
    TARGET,
    Measurements,
    Nearest,
    Thresholds,
    judge,
    quality,
    verdict,
)
from mirror.dataset.gaps import ANGLE, EXPRESSION, EYES, GAP_TYPES, HANDS
from mirror.dataset.judging import judged_image
from mirror.dataset.pixels import histogram, unusable
from mirror.faces.engine import second_face_share
from mirror.faces.metrics import (
    IDENTITY_FLOOR,
    USUAL_SHARES,
    identity_limit,
    likeness_for_angle,
    reference_level,
    usual_similarity,
)
from mirror.report.validation import build_validation
from utils.captions import copy_with_caption, is_copy_of, take_back_copy
from utils.defaults import UNVERIFIED_WORDS
from utils.files import Status

FAULTS = (
    "blurred",
    "dark",
    "bright",
    "angle",
    "no_face",
    "two_faces",
    "near_copy",
    "pasted_face",
    "black",
    "grey",
    "blown",
)


@dataclass
class World:
    """A dataset, its gap file, and the batch validated once as users do it."""

    root: Path
    batch: dict[str, Planted]
    done: subprocess.CompletedProcess = None
    report: dict = field(default_factory=dict)

    def image(self, file: str) -> dict:
        return next(image for image in self.report["images"] if image["file"] == file)


@pytest.fixture(scope="module")
def world(mini_pack, tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("validation")
    real, batch = planted()
    for number, image in enumerate(real):
        write_png(root / "dataset" / f"{number:02d}.png", image)
    for one in batch:
        write_png(root / "batch" / one.file, one.image)
        (root / "batch" / one.file).with_suffix(".txt").write_text(f"ohwx person, {one.file}", encoding="utf-8")
    (root / "models").mkdir()
    gaps = run_script(
        "gap_analysis.py",
        *(root / "dataset", "--pack", mini_pack, "--models-dir", root / "models"),
        *("--output", root / "gaps.json", "--cache", root / "cache.sqlite"),
    )
    assert gaps.returncode == 0, gaps.stderr
    made = World(root, {one.file: one for one in batch})
    write_metadata(root / "batch", {one.file: ("face_angle", one.target) for one in batch if one.target})
    made.done = validate(root, root / "batch")
    assert made.done.returncode == 0, made.done.stderr
    made.report = read_report(root / "batch")
    return made


def write_metadata(folder: Path, targets: dict[str, tuple[str, str]], **fields: object) -> None:
    """What generate_synthetic.py writes, as far as validation reads it."""
    images = [{"file": file, "gap_type": kind, "target": target} for file, (kind, target) in targets.items()]
    data = {"schema_version": 1, "created": "2026-01-01T00:00:00", "gaps_file": "../gaps.json", "images": images}
    (folder / "generation_metadata.json").write_text(json.dumps(data | fields), encoding="utf-8")


def validate(root: Path, *arguments: object) -> subprocess.CompletedProcess:
    return run_script("validate_synthetic.py", *arguments, "--cache", root / "cache.sqlite")


def read_report(folder: Path) -> dict:
    return json.loads((folder / "validation_report.json").read_text(encoding="utf-8"))


@pytest.fixture
def few(world, tmp_path):
    """A batch of its own: some images of the world under the names given, with captions and the gap file."""

    def make(**files: str) -> Path:
        folder = tmp_path / "synthetic_iter1"
        folder.mkdir()
        for name, source in files.items():
            shutil.copy(world.root / "batch" / source, folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(f"caption of {name}", encoding="utf-8")
        shutil.copy(world.root / "gaps.json", tmp_path)
        write_metadata(folder, {})  # leads to dataset and sensors
        return folder

    return make


def failed(image: dict) -> list[str]:
    return [check["check"] for check in image["checks"] if check["outcome"] == "failed"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_rejected_for_exactly_its_reason(world, name):
    image = world.image(f"{name}.png")
    assert image["verdict"] == "rejected"
    assert failed(image) == [world.batch[f"{name}.png"].fault]
    (check,) = (check for check in image["checks"] if check["outcome"] == "failed")
    assert check["reason"] and check["reason"] in world.done.stdout.replace("\n", " ")


def test_good_images_are_approved_profiles_included(world):
    good = [world.image(one.file) for one in world.batch.values() if one.fault is None]
    wrong = [(image["file"], failed(image)) for image in good if image["verdict"] != "approved"]
    assert len(wrong) <= 0.1 * len(good), wrong  # the small pack finds two turned heads less alike than it should
    profiles = [image for image in good if image["target"] == "profile"]
    assert len(profiles) == sum(abs(yaw) > 55 for yaw in GOOD_YAWS)
    assert sum(image["verdict"] == "approved" for image in profiles) >= 0.8 * len(profiles)


@pytest.mark.parametrize("yaw", WRONG_YAWS)
def test_identity_at_every_angle(world, yaw):
    """The wrong person fails identity and nothing else; the right one passes at the same angle."""
    assert failed(world.image(f"wrong_{yaw}.png")) == [IDENTITY]
    right = {0: "good_+0.png", 30: "right_-30.png", 60: "right_60.png", 75: "good_+74.png"}[yaw]
    image = world.image(right)
    assert abs(abs(image["yaw_deg"]) - yaw) < 15  # five keypoints of a small pack
    assert IDENTITY not in failed(image)
    limits = [
        next(c["limit"] for c in world.image(f)["checks"] if c["check"] == IDENTITY) for f in ("good_+0.png", right)
    ]
    assert limits[1] < limits[0] if yaw else limits[1] == limits[0]


def test_images_without_metadata_are_validated_without_a_target(world):
    for yaw in UNASKED_YAWS:
        image = world.image(f"right_{yaw}.png")
        assert image["target"] is None and image["verdict"] == "approved"
        assert TARGET not in [check["check"] for check in image["checks"]]
    assert f"{len(UNASKED_YAWS + WRONG_YAWS)} image(s) are not in generation_metadata.json" in world.done.stderr


def test_numbers_agree(world):
    report, files = world.report, {verdict: set() for verdict in Verdict}
    for image in report["images"]:
        files[Verdict(image["verdict"])].add(image["file"])
    approved, rejected = len(files[Verdict.APPROVED]), len(files[Verdict.REJECTED])
    assert (report["approved"], report["rejected"], report["unverified"]) == (approved, rejected, 0)
    share = 100 * approved / len(world.batch)
    mean = np.mean([image["quality"] for image in report["images"] if image["verdict"] == "approved"])
    summary = f"Approved: {approved} ({share:.1f}%)\nRejected: {rejected}\nAvg Quality: "
    _, found, after = world.done.stdout.partition(summary)
    assert found and float(after.split()[0]) == pytest.approx(mean, abs=0.006)  # one mean is of rounded numbers
    assert report["references"]["faces"] == report["references"]["images"] == 10
    assert report["sensors"]["angle"]["identity"] == report["identity_pack"]
    assert len(report["providers"]) == 1 and 0 < sum(report["providers"].values()) <= len(report["images"])
    assert all(image["quality"] is None for image in report["images"] if image["file"] in ("black.png", "grey.png"))
    read_contract(world.root / "batch" / "validation_report.json", ValidationReport, "validate_synthetic.py")


def test_copies_lie_in_the_folder_of_their_verdict_with_captions(world):
    for image in world.report["images"]:
        place = world.root / "batch" / image["verdict"] / image["file"]
        assert place.read_bytes() == (world.root / "batch" / image["file"]).read_bytes()
        assert place.with_suffix(".txt").read_text(encoding="utf-8") == f"ohwx person, {image['file']}"
        assert Path(image["copied_to"]) == place.resolve()
    copies = [path for verdict in Verdict for path in (world.root / "batch" / verdict).glob("*.png")]
    assert len(copies) == len(world.batch)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but for the time stamps that runs write."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stamp = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d"
    return {name: re.sub(stamp, b"", data) if "report" in name else data for name, data in found.items()}


def test_a_second_run_changes_nothing(few, world):
    folder = few(a="good_+0.png", b="good_+3.png", c="dark.png")
    assert validate(world.root, folder).returncode == 0
    first = tree(folder)
    assert {"approved/a.png", "approved/a.txt", "approved/b.png", "rejected/c.png"} <= first.keys()
    assert validate(world.root, folder).returncode == 0
    assert tree(folder) == first


def test_nothing_is_overwritten_and_an_approved_image_is_not_approved_twice(few, world, tmp_path):
    folder = few(a="good_+0.png", b="good_+3.png")
    approved = tmp_path / "approved"
    write_png(approved / "a.png", world.batch["blurred.png"].image)  # another picture of this name
    (approved / "a.txt").write_text("by hand", encoding="utf-8")
    shutil.copy(folder / "b.png", approved / "from_before.png")
    before = tree(approved)
    assert validate(world.root, folder, "--approved", approved).returncode == 0
    after = tree(approved)
    assert {name: after[name] for name in before} == before
    assert after["a (2).png"] == (folder / "a.png").read_bytes() and after["a (2).txt"] == b"caption of a"
    (b,) = (image for image in read_report(folder)["images"] if image["file"] == "b.png")
    assert failed(b) == [DUPLICATE] and "from_before.png" in str(b["checks"])


def test_of_two_alike_the_first_is_approved(few, world):
    folder = few(a="good_+0.png", b="good_+0.png")
    validate(world.root, folder)
    first, second = read_report(folder)["images"]
    assert (first["verdict"], failed(second)) == ("approved", [DUPLICATE])
    assert "a.png of this batch" in str(second["checks"])


def test_of_two_alike_the_one_more_like_the_person_is_approved(few, world, tmp_path):
    """Whatever their names: the same picture wins, plain or noisy, when they are swapped."""
    pixels = world.batch["good_+0.png"].image
    noise = np.random.default_rng(1).normal(0, 12, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    approved, batch = [], few(a="good_+0.png", b="good_+0.png")
    for name in ("a.png", "b.png"):
        folder = tmp_path / f"noisy_{name[0]}"
        shutil.copytree(batch, folder)
        write_png(folder / name, noisy)
        validate(world.root, folder)
        report = read_report(folder)
        level = report["references"]["level"]
        by_verdict = {image["verdict"]: image for image in report["images"]}
        likeness = {
            verdict: likeness_for_angle(image["similarity"], image["yaw_deg"], level)
            for verdict, image in by_verdict.items()
        }
        assert failed(by_verdict["rejected"]) == [DUPLICATE] and likeness["approved"] > likeness["rejected"]
        approved.append(by_verdict["approved"]["file"] == name)
    assert approved in ([True, True], [False, False])


def test_a_batch_that_was_merged_already_is_judged_as_before(few, world, tmp_path):
    """The loop's normal state after a crash: approved images lie in the dataset too."""
    folder, dataset = few(a="good_+0.png", c="dark.png"), tmp_path / "dataset"
    shutil.copytree(world.root / "dataset", dataset)
    write_metadata(folder, {}, dataset=str(dataset))
    assert "Approved: 1 (50.0%)" in validate(world.root, folder).stdout
    shutil.copy(folder / "approved" / "a.png", dataset / "synthetic_a.png")
    assert "Approved: 1 (50.0%)" in validate(world.root, folder).stdout
    assert (folder / "approved" / "a.png").exists()


def test_copies_that_no_report_knows_are_named(few, world):
    folder = few(a="good_+0.png", c="dark.png")
    validate(world.root, folder)
    (folder / "validation_report.json").unlink()
    shutil.copy(folder / "c.png", folder / "approved" / "c.png")
    done = validate(world.root, folder)
    assert "still holds 1 image(s) that are not approved any more, c.png first" in done.stderr
    assert any(
        "c.png first" in warning
        for warning in json.loads((folder / "validation_report.json").read_text(encoding="utf-8"))["warnings"]
    )


def test_the_metadata_are_not_overwritten_by_the_report(few, world):
    folder = few(a="good_+0.png")
    before = (folder / "generation_metadata.json").read_bytes()
    done = validate(world.root, folder, "--report", folder / "generation_metadata.json")
    assert done.returncode == 2 and "was not written by validate_synthetic.py" in done.stderr
    assert (folder / "generation_metadata.json").read_bytes() == before


def test_no_auto_filter_only_reports(few, world):
    folder = few(a="good_+0.png", c="dark.png")
    before = set(tree(folder))
    done = validate(world.root, folder, "--no-auto-filter")
    assert "Approved: 1 (50.0%)" in done.stdout
    assert set(tree(folder)) - before == {"validation_report.json", "validation_report.html"}
    assert [image["copied_to"] for image in read_report(folder)["images"]] == [None, None]


def test_a_gate_without_its_sensor_does_not_open(few, world):
    """No hand detector: kept apart; allowed by name: approved, and the earlier copy is taken back."""
    folder = few(a="good_+0.png")
    write_metadata(folder, {"a.png": ("hands", "visible")})  # as earlier versions spelled it
    done = validate(world.root, folder)
    (image,) = read_report(folder)["images"]
    assert image["verdict"] == "unverified" and "Unverified: 1" in done.stdout and "Approved: 0 (0.0%)" in done.stdout
    (check,) = (check for check in image["checks"] if check["check"] == TARGET)
    assert (check["value"], check["limit"], check["outcome"]) == (None, "hands_visible", "not_measured")
    assert "hand_yolov8n.pt" in check["reason"]
    assert (folder / "unverified" / "a.txt").exists() and not (folder / "approved").exists()
    done = validate(world.root, folder, "--allow-unverified", "identity,hands")
    assert "Approved: 1 (100.0%)" in done.stdout
    assert (folder / "approved" / "a.png").exists() and not list((folder / "unverified").iterdir())
    page = (folder / "validation_report.html").read_text(encoding="utf-8")
    assert "some could not be measured and were allowed" in page and "every check passed" not in page


def test_words_of_allow_unverified_are_the_sensors_a_target_without_one_and_the_person():
    assert UNVERIFIED_WORDS == (ANGLE, HANDS, EYES, EXPRESSION, TARGET, IDENTITY)


def test_without_photos_the_person_is_unverified(few, world, mini_pack):
    folder = few(a="good_+0.png", wrong="wrong_0.png")
    (folder / "generation_metadata.json").unlink()
    done = validate(world.root, folder, "--pack", mini_pack)
    assert "Unverified: 2" in done.stdout and "--reference names their folder" in done.stderr
    assert {image["similarity"] for image in read_report(folder)["images"]} == {None}
    done = validate(world.root, folder, "--pack", mini_pack, "--reference", world.root / "dataset")
    assert "Approved: 1 (50.0%)\nRejected: 1" in done.stdout


def test_another_sensor_than_the_one_that_found_the_gap_is_refused(few, world, tmp_path):
    folder = few(a="good_+0.png")
    write_metadata(folder, {"a.png": ("face_angle", "front")})
    gaps = json.loads((tmp_path / "gaps.json").read_text(encoding="utf-8"))
    gaps["sensors"]["angle"]["identity"] = "buffalo_l@0123456789ab"
    (tmp_path / "gaps.json").write_text(json.dumps(gaps), encoding="utf-8")
    done = validate(world.root, folder)
    assert done.returncode == 2 and not (folder / "approved").exists()
    for part in ("found with buffalo_l@0123456789ab", "this is pack_mini@", "--allow-unverified angle"):
        assert part in done.stderr
    done = validate(world.root, folder, "--allow-unverified", "angle")
    (image,) = read_report(folder)["images"]
    assert done.returncode == 0 and image["verdict"] == "approved"
    assert "another sensor" in next(check["reason"] for check in image["checks"] if check["check"] == TARGET)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"schema_version": 1, "ima', ["the whole file", "run generate_synthetic.py again"]),
        ('{"created": ""}', ["field images: it is missing", "correct it, or run generate_synthetic.py again"]),
        (
            '{"schema_version": 1, "created": "", "images": [{"file": "sub/a.png"}]}',
            ["field images.0.file", "no plain file name"],
        ),
        (
            '{"schema_version": 1, "created": "", "images": [{"file": "a.png"}, {"file": "a.png"}]}',
            ["field images.1.file", "is named twice"],
        ),
        ('{"schema_version": 7, "created": "", "images": []}', ["field schema_version"]),
        ('{"schema_version": 1, "created": "", "images": [{"file": 3}]}', ["field images.0.file"]),
        ('{"schema_version": 1, "created": "", "images": [], "typo": 1}', ["field typo"]),
        ('{"schema_version": 1, "created": "", "images": [{"file": "a", "gap_type": "hands"}]}', ["belong together"]),
        (
            '{"schema_version": 1, "created": "", "images": [], "gaps_file": "lost.json"}',
            ["lost.json", "gap_analysis.py"],
        ),
        ('{"schema_version": 1, "created": "", "images": [], "dataset": "lost"}', ["lost", "--reference"]),
    ],
)
def test_a_broken_file_is_named_with_its_field(tmp_path, make_picture, text, parts):
    make_picture(tmp_path / "a.png")
    (tmp_path / "generation_metadata.json").write_text(text, encoding="utf-8")
    done = run_script("validate_synthetic.py", tmp_path)
    assert done.returncode == 2, done.stderr
    for part in (str(tmp_path), *parts):
        assert part in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "generation_metadata.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lost"], "does not exist"),
        (["empty"], "holds no pictures"),
        (["batch", "--approved", "batch"], "is the folder of the generated images"),
        (["batch", "--rejected", "x", "--approved", "x"], "is the folder of the approved images"),
        (["batch", "--report", "report.txt"], "no .json file"),
        (["batch", "--allow-unverified", "nose"], "'nose' is none of them"),
        (["batch", "--reference", "lost"], "are not there"),
        (["batch", "--reference", "batch"], "holds the generated images"),
        (["batch", "--reference", "empty"], "holds no pictures"),
        (["batch", "--models-dir", "lost"], "is no folder"),
    ],
)
def test_refusals(tmp_path, make_picture, arguments, said):
    make_picture(tmp_path / "batch" / "a.png")
    (tmp_path / "empty").mkdir()
    done = run_script("validate_synthetic.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "batch", "empty"]


def test_commands_of_the_documents_run_as_written(few, world, mini_pack, tmp_path):
    lines = [line.removeprefix("python ") for line in commands("python validate_synthetic.py")]
    assert len(lines) == 4
    folder = few(a="good_+0.png")
    write_metadata(folder, {"a.png": ("face_angle", "front")})
    shutil.copytree(world.root / "dataset", tmp_path / "Reference_Images")
    for command in lines:
        done = run_script(*shlex.split(command), "--cache", world.root / "cache.sqlite", cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        assert "Approved: 1 (100.0%)" in done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_the_contact_sheet(world, tmp_path, width):
    html = (world.root / "batch" / "validation_report.html").read_text(encoding="utf-8")
    with chromium() as browser:
        result = opened(browser, tmp_path, html, width=width)
        assert_fits(result)
        assert_quiet(result)
        names = result.texts("#rejected .heading .name")
        assert len(names) == world.report["rejected"]
        order = {image["file"]: image["quality"] or -1 for image in world.report["images"]}
        assert [order[name] for name in names] == sorted(order[name] for name in names)
        assert len(result.texts("#approved .heading .name")) == world.report["approved"]
        assert "every check passed" in html and "were allowed" not in html
        assert result.texts("#rejected .reasons b")[:3] == [CHECK_NAMES["intact"]] * 3
        result.page.close()


# The rules themselves, without pictures.


def record(**fields: object) -> ImageRecord:
    plain = {"size_wh": (512, 512), "faces": 1, "det_score": 0.9, "yaw_deg": 0.0, "sharpness": 300.0}
    plain |= {"brightness": 120.0, "values": {"face_angle": "front", "composition": None}}
    return ImageRecord(**{"file": "a.png", "status": Status.OK} | plain | fields)


THRESHOLDS = Thresholds(GAP_TYPES, level=0.85, sharpness=300.0)


def test_the_issues_own_figures_pass_and_other_people_do_not():
    """0.6-0.84 near the front, 0.48-0.62 at 60 and 0.35-0.53 at 75 degrees; others on photos up to 0.14 (95 %)."""
    for yaw, lowest in ((0, 0.60), (60, 0.48), (75, 0.35)):
        assert 0.14 < identity_limit(yaw, 0.84) < lowest
        assert identity_limit(-yaw, 0.84) == identity_limit(yaw, 0.84)


def test_the_limit_falls_with_the_turn_and_stops_at_the_floor():
    limits = [identity_limit(yaw, 0.9) for yaw in range(0, 91, 5)]
    assert all(low <= high for high, low in pairwise(limits)) and limits[0] > limits[-1]
    assert identity_limit(180, 0.9) == limits[-1]
    assert identity_limit(0, 0.1) == IDENTITY_FLOOR
    assert all(identity_limit(yaw, 0.9) < usual_similarity(yaw, 0.9) for yaw in range(0, 91, 5))


def test_the_level_of_references():
    angle = 0.3
    pair = [np.cos(angle), np.sin(angle)]
    assert reference_level(np.array([[1.0, 0.0], pair]), np.zeros(2)) is None
    assert reference_level(np.array([[1.0, 0.0]] * 3), np.zeros(3)) == pytest.approx(1.0)
    # the outlier does not move the median
    assert reference_level(np.array([[1.0, 0.0]] * 9 + [[-1.0, 0.0]]), np.zeros(10)) == pytest.approx(1.0)


def test_photos_in_profile_do_not_lower_the_level():
    """Scores that fall with the turn as usual give the level of the front."""
    spread = np.array([[np.cos(angle), np.sin(angle)] for angle in (-0.6, 0.0, 0.6)])
    frontal = reference_level(spread, np.zeros(3))
    assert reference_level(spread, np.full(3, 60.0)) == pytest.approx(min(1.0, frontal / USUAL_SHARES[60]))


def test_what_follows_from_a_failed_check_is_not_judged():
    checks = judge(Measurements(record(brightness=10.0, det_score=None), None, None), THRESHOLDS)
    outcomes = {check.check: check.outcome for check in checks}
    assert [check for check, outcome in outcomes.items() if outcome == Outcome.FAILED] == ["brightness"]
    assert outcomes[FACE] == outcomes[IDENTITY] == Outcome.NOT_MEASURED
    assert verdict(checks, (), ("identity",)) == Verdict.REJECTED


def test_what_our_networks_choke_on_is_unverified_whatever_is_allowed():
    failed_on = ImageRecord(file="a.png", status=Status.ERROR, reason="measuring failed")
    checks = judge(Measurements(failed_on, "face_angle", "front"), THRESHOLDS)
    assert {check.outcome for check in checks} == {Outcome.NOT_MEASURED}
    assert verdict(checks, ("angle",), ("angle", "hands", "eyes", "identity")) == Verdict.UNVERIFIED
    unreadable = ImageRecord(file="a.png", status=Status.UNREADABLE, reason="is empty")
    assert verdict(judge(Measurements(unreadable, None, None), THRESHOLDS), (), ()) == Verdict.REJECTED


@pytest.mark.parametrize(
    ("similarity", "turn", "is_copy"), [(0.99, 1.0, True), (0.99, 8.0, False), (0.95, 1.0, False), (0.97, 0.0, False)]
)
def test_a_copied_face_is_as_alike_and_as_turned(similarity, turn, is_copy):
    measurements = Measurements(record(), None, None, 0.8, Nearest("ref.png", similarity, turn))
    checks = {check.check: check for check in judge(measurements, THRESHOLDS)}
    assert (checks[COPY].outcome == Outcome.FAILED) == is_copy


@pytest.mark.parametrize("allowed", [(), ("angle",), ("hands",), ("identity",), ("hands", "identity")])
def test_only_the_named_sensor_may_be_missing(allowed):
    thresholds = Thresholds(
        GAP_TYPES, missing={"hands": "no detector", IDENTITY: "no photos", "references": "no photos"}
    )
    checks = judge(Measurements(record(), "composition", "hands_visible"), thresholds)
    wanted = Verdict.APPROVED if set(allowed) == {"hands", "identity"} else Verdict.UNVERIFIED
    assert verdict(checks, ("hands",), allowed) == wanted


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            ("expression", "smile"),
            "no sensor measures expression smile: look at the image yourself (there is no expression model",
        ),
        (
            ("lighting", "rim_light"),
            "no sensor measures lighting rim_light; it is told apart as low_key, high_key, n",
        ),
    ],
)
def test_a_target_that_nothing_measures_is_neither_passed_nor_failed(wanted, said):
    told = {name: gap for name, gap in GAP_TYPES.items() if name != "expression"}  # as without a model
    thresholds = Thresholds(told, level=0.85, missing={EXPRESSION: "there is no expression model"})
    image = Measurements(record(), *wanted, 0.8, Nearest("ref.png", 0.8, 10.0))
    (check,) = (one for one in judge(image, thresholds) if one.check == TARGET)
    assert check.outcome == Outcome.NOT_MEASURED and check.reason.startswith(said)
    verdicts = {
        allowed: judged_image(image, thresholds, allowed, None).verdict
        for allowed in ((), ("angle", "hands", "eyes", "identity"), ("target",))
    }
    assert list(verdicts.values()) == [Verdict.UNVERIFIED, Verdict.UNVERIFIED, Verdict.APPROVED]
    stranger = Measurements(record(), *wanted, 0.0, Nearest("ref.png", 0.0, 10.0))
    assert judged_image(stranger, thresholds, ("target",), None).verdict == Verdict.REJECTED


def test_an_expression_is_kept_apart_and_the_notes_say_why(few, world):
    folder = few(a="good_+0.png")
    write_metadata(folder, {"a.png": ("expression", "smile")})
    done = validate(world.root, folder)
    assert "Unverified: 1" in done.stdout and "no sensor measures expression smile" in done.stderr
    assert (folder / "unverified" / "a.png").exists()
    assert "expression: smile" in (folder / "validation_report.html").read_text(encoding="utf-8")
    done = validate(world.root, folder, "--allow-unverified", "target")
    assert "Approved: 1 (100.0%)" in done.stdout and (folder / "approved" / "a.png").exists()


def test_quality_in_closed_form():
    best = Measurements(record(det_score=1.0), None, None, usual_similarity(0, 0.85))
    assert quality(best, THRESHOLDS) == 1.0
    half = Measurements(record(det_score=0.75, sharpness=150.0, brightness=55.0), None, None, None)
    assert quality(half, THRESHOLDS) == 0.5
    at_limit = Measurements(record(det_score=1.0, yaw_deg=60.0), None, None, identity_limit(60, 0.85))
    assert quality(at_limit, THRESHOLDS) == 0.75
    assert quality(Measurements(record(unusable="black"), None, None), THRESHOLDS) is None


@pytest.mark.parametrize(
    ("grey", "what"),
    [
        (0, "black"),
        (4, "black"),
        (12, "one grey"),
        (127, "one grey"),
        (255, "blown"),
        ((0, 255), None),
        ((90, 110), None),
    ],
)
def test_spoiled_pictures(grey, what):
    image = np.full((64, 64), grey, np.uint8) if isinstance(grey, int) else np.full((64, 64), grey[0], np.uint8)
    if not isinstance(grey, int):
        image[:, ::2] = grey[1]
    assert unusable(histogram(image)) == what


def test_a_second_hit_on_the_same_head_is_no_second_face():
    main, inside, beside = [0, 0, 100, 100], [20, 20, 80, 90], [200, 0, 250, 50]
    assert second_face_share(np.array([main], float)) is None
    assert second_face_share(np.array([inside, main], float)) is None
    assert second_face_share(np.array([beside, inside, main], float)) == pytest.approx(0.25)


def test_copies_keep_what_is_there(tmp_path):
    source, folder = tmp_path / "a.png", tmp_path / "to"
    source.write_bytes(b"picture")
    source.with_suffix(".txt").write_text("caption")
    first = copy_with_caption(source, folder)
    assert copy_with_caption(source, folder) == first == folder / "a.png"
    (folder / "a.txt").write_text("changed by hand")
    assert copy_with_caption(source, folder) == first
    first.write_bytes(b"another picture")
    second = copy_with_caption(source, folder)
    assert second == folder / "a (2).png" and is_copy_of(second, source) and not is_copy_of(first, source)
    take_back_copy(second, source)
    source.with_suffix(".txt").unlink()
    source.with_suffix(".caption").write_text("grün", encoding="utf-16")
    third = copy_with_caption(source, tmp_path / "third")
    assert third.with_suffix(".txt").read_bytes() == "grün".encode()
    take_back_copy(third, source)
    assert list(third.parent.iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.txt"]


@pytest.mark.parametrize(
    ("outcome", "said"), [(Outcome.PASSED, "every check passed"), (Outcome.NOT_MEASURED, "and were allowed")]
)
def test_the_page_says_how_the_approved_ones_passed(outcome, said):
    image = ValidatedImage.model_validate(
        dict.fromkeys(ValidatedImage.model_fields)
        | {"file": "a.png", "verdict": Verdict.APPROVED}
        | {"checks": [Check(check=TARGET, value=None, limit=None, outcome=outcome)]}
    )
    angle = AngleSensor(kind="pack", identity="pack@0", source="keypoints")
    report = ValidationReport.model_validate(
        dict.fromkeys(ValidationReport.model_fields)
        | {"schema_version": 1, "script": "validate_synthetic.py", "created": "", "folder": "batch", "images": [image]}
        | {"sensors": GapSensors(angle=angle, hands=None, eyes=None), "settings": {}, "versions": {}, "failures": {}}
        | {"approved": 1, "rejected": 0, "unverified": 0, "ignored_files": {}, "warnings": [], "providers": {}}
    )
    page = build_validation(report, [None], {})
    assert [words in page for words in ("every check passed", "and were allowed")].count(True) == 1 and said in page


def test_images_may_be_as_soft_as_the_real_photos():
    """Small photos, or a smooth background, lie below the usual limit themselves."""
    soft = Measurements(record(sharpness=45.0), None, None, None)
    for real, outcome in (
        (300.0, Outcome.FAILED),
        (None, Outcome.FAILED),
        (80.0, Outcome.PASSED),
        (100.0, Outcome.FAILED),
    ):
        checks = {check.check: check for check in judge(soft, Thresholds(GAP_TYPES, level=0.85, sharpness=real))}
        assert checks["sharpness"].outcome == outcome, real
