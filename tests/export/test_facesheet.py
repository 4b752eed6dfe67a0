"""export_facesheet.py on rendered people whose angles are known, on real photos, and on what users get wrong."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from expression_nets import own_net
from PIL import Image

from demo.identity import draw_identity, mean_identity
from demo.render import Picture, render
from demo.scene import HEAD_CM, Scene
from mirror.export.facesheet import ANGLES
from mirror.export.heads import is_sure
from mirror.faces.engine import FaceMeasurement
from mirror.faces.pose import Angles, rotation
from utils.files import Status

GUIDE = (
    "python export_facesheet.py --dataset outputs/facevault/organized/alice "
    "--angles front,profile_left,profile_right,three_quarter --output alice_metahuman.jpg"
)
STANDIN = {"det_demo": "det_10g", "rec_demo": "w600k_r50", "lmk_demo": "1k3d68", "age_demo": "genderage"}
PIXELS = 288
YAWS = {"a1": 2.0, "a2": -10.0, "a3": 40.0, "a4": -42.0, "a5": -84.0, "a6": 82.0, "a10": -66.0}
FULL = "front,three_quarter_left,three_quarter_right,profile_left,profile_right"


@pytest.fixture(scope="module")
def heads() -> dict[str, Picture]:
    """One person from all sides, upright and neutral, but for `a3` whose head is tilted."""
    who = draw_identity(np.random.default_rng(3))
    tilts = {"a3": 14.0, "a5": -9.0}
    return {
        name: render(Scene(who, yaw_deg=yaw, roll_deg=tilts.get(name, 0.0), fill=0.55, seed=number), PIXELS)
        for number, (name, yaw) in enumerate(YAWS.items())
    }


@pytest.fixture(scope="module")
def alice(tmp_path_factory, heads) -> Path:
    """A project in which the guide's command works as it stands; the dataset in it has GPS places in its EXIF."""
    project = tmp_path_factory.mktemp("sheet") / "MirrorMetrics"
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "export_facesheet.py", project)
    (project / "models" / "buffalo_l").mkdir(parents=True)
    for ours, name in STANDIN.items():
        shutil.copy(
            ROOT / "models" / "demo" / "face" / f"{ours}.onnx", project / "models" / "buffalo_l" / f"{name}.onnx"
        )
    dataset = project / "outputs" / "facevault" / "organized" / "alice"
    dataset.mkdir(parents=True)
    for name, head in heads.items():
        save(dataset / f"{name}.jpg", head.image)
    (dataset / "a1.txt").write_text("ohwx alice", encoding="utf-8")
    (dataset / "a0.jpg").write_bytes(b"no picture")
    return project


@pytest.fixture(scope="module")
def dataset(alice) -> Path:
    return alice / "outputs" / "facevault" / "organized" / "alice"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Run the script with the demo pack and a cache that the tests share."""
    cache = tmp_path_factory.mktemp("cache") / "cache.sqlite"

    def run(dataset: Path, output: Path, *more: object, code: int = 0) -> subprocess.CompletedProcess:
        arguments = ("--dataset", dataset, "--output", output, "--pack", "demo", "--cache", cache, "--cell", 200)
        done = run_script("export_facesheet.py", *arguments, *more)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def save(path: Path, image: np.ndarray) -> Path:
    """As a phone does, with the place in its EXIF."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPS IFD, latitude
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[:, :, ::-1]).save(path, exif=exif, quality=95)
    return path


def record_of(sheet: Path) -> dict:
    return json.loads(sheet.with_suffix(".json").read_text(encoding="utf-8"))


def cells_of(sheet: Path) -> dict[str, dict]:
    return {cell["angle"]: cell for cell in record_of(sheet)["cells"]}


def files_of(sheet: Path) -> dict[str, str | None]:
    return {name: cell["chosen"] and Path(cell["chosen"]["file"]).stem for name, cell in cells_of(sheet).items()}


@pytest.fixture(scope="module")
def sheet(export, dataset, tmp_path_factory) -> Path:
    """All five angles of alice."""
    output = tmp_path_factory.mktemp("out") / "sheet.png"
    export(dataset, output, "--angles", FULL, "--columns", 3)
    return output


def test_the_guides_command_as_it_stands(alice):
    command = [sys.executable, *shlex.split(GUIDE)[1:]]
    done = subprocess.run(command, cwd=alice, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    sheet = alice / "alice_metahuman.jpg"
    with Image.open(sheet) as picture:
        assert picture.format == "JPEG" and not picture.getexif() and picture.info["dpi"] == (300, 300)
        assert picture.width >= 4 * 1024 and picture.height >= 1024, "print size"
    files = files_of(sheet)
    assert list(files) == ["front", "profile_left", "profile_right", "three_quarter"], "in the order asked"
    assert (files["front"], files["profile_left"], files["profile_right"]) == ("a1", "a5", "a6")
    assert files["three_quarter"] in ("a3", "a4"), "the better side"
    record = record_of(sheet)
    told = {cell["chosen"]["file"] for cell in record["cells"]} | {one["file"] for one in record["not_used"]}
    assert told == {f"{name}.jpg" for name in (*YAWS, "a0")}, "every picture is accounted for"
    assert "a5.jpg" in done.stdout and "profile_left" in done.stdout


def test_left_and_right_are_the_persons_own(sheet, heads):
    """By the renderer's points: which side of the jaw is nearer to the camera, and where the nose points."""
    for name, file in files_of(sheet).items():
        points = heads[file].truth.points_68
        persons_right, persons_left = points[2], points[14]  # from the front, as seen at the picture's left and right
        nose = points[30, 0] - (persons_right[0] + persons_left[0]) / 2
        if name.endswith("_left"):
            assert persons_left[2] > persons_right[2] and nose < 0
        elif name.endswith("_right"):
            assert persons_right[2] > persons_left[2] and nose > 0


def test_each_cell_has_the_picture_of_its_angle(sheet):
    wanted = {"front": "a1", "three_quarter_left": "a4", "three_quarter_right": "a3"}
    assert files_of(sheet) == wanted | {"profile_left": "a5", "profile_right": "a6"}
    reasons = {one["file"]: one["reason"] for one in record_of(sheet)["not_used"]}
    assert "front: a1.jpg is better" in reasons["a2.jpg"]
    assert "profile_left: a5.jpg is better" in reasons["a10.jpg"] and "by angle" in reasons["a10.jpg"]
    assert reasons["a0.jpg"].startswith("It cannot be read")


def test_heads_are_level_alike_and_at_one_place(sheet, heads):
    """Where the renderer's points come to lie in the cells."""
    sizes, rows = [], []
    for name, cell in cells_of(sheet).items():
        chosen = cell["chosen"]
        matrix, truth = np.array(chosen["matrix"]), heads[Path(chosen["file"]).stem].truth
        points = truth.points_68[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        rows.append(points[36:48, 1].mean() / 200)
        sizes.append(chosen["scale"] * truth.scene["fill"] * PIXELS / HEAD_CM)
        if "profile" in name:  # upright heads: levelling undoes the tilt of the picture, up to the shape of the face
            assert chosen["levelled_by"] == "ear-nose line" and abs(chosen["turned_deg"] - truth.roll_deg) < 9
        else:
            across = points[42:48].mean(axis=0) - points[36:42].mean(axis=0)
            assert (
                abs(np.degrees(np.arctan2(across[1], across[0]))) < 8
            )  # 7.3 at 42 degrees, where an eye is foreshortened
    assert np.ptp(rows) < 0.06
    assert np.ptp(sizes) / np.mean(sizes) < 0.2


def test_the_same_command_gives_the_same_bytes(export, dataset, sheet, tmp_path):
    before = (sheet.read_bytes(), sheet.with_suffix(".json").read_bytes())
    export(dataset, sheet, "--angles", FULL, "--columns", 3)
    assert (sheet.read_bytes(), sheet.with_suffix(".json").read_bytes()) == before


def test_another_suffix_replaces_the_sheet_and_says_so(export, dataset, tmp_path):
    export(dataset, tmp_path / "alice.jpg", "--angles", "front")
    done = export(dataset, tmp_path / "alice.PNG", "--angles", "front")
    assert "alice.jpg of an earlier run was deleted" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice.PNG", "alice.json"]
    (tmp_path / "alice.PNG").write_bytes(b"edited")
    done = export(dataset, tmp_path / "alice.jpg", "--angles", "front")
    assert (tmp_path / "alice.PNG").read_bytes() == b"edited" and "was deleted" not in done.stderr


def test_a_missing_angle_is_an_empty_cell_that_says_how_to_get_it(export, dataset, tmp_path):
    output = tmp_path / "sheet.tif"
    done = export(dataset, output, "--angles", "up,front", "--background", "#204060")
    cell = cells_of(output)["up"]
    assert cell["chosen"] is None and "looking up" in cell["missing"] and "Add photos" in cell["how_to_get"]
    assert "Missing: up" in done.stdout
    with Image.open(output) as picture:
        assert picture.format == "TIFF" and round(picture.info["dpi"][0]) == 300
        left, top, _, bottom = cell["box_xyxy"]
        assert picture.getpixel((left + 20, top + 20)) == (0x20, 0x40, 0x60) == picture.getpixel((0, 0))
        assert picture.getpixel((left, (top + bottom) // 2)) == (255, 255, 255), "a frame that shows on the dark paper"


def test_the_command_for_a_missing_angle_can_be_typed(export, dataset, tmp_path):
    spaced = tmp_path / "my alice"
    spaced.mkdir()
    shutil.copy(dataset / "a1.jpg", spaced)
    export(spaced, tmp_path / "sheet.jpg", "--angles", "front,profile_left")
    said = cells_of(tmp_path / "sheet.jpg")["profile_left"]["how_to_get"]
    assert shlex.join(["gap_analysis.py", str(spaced), "--output"]) in said


def test_a_missing_gpu_is_said(export, dataset, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine's onnxruntime has CUDA")
    done = export(dataset, tmp_path / "sheet.jpg", "--angles", "front", "--device", "cuda")
    assert "--device cuda was asked for, but CPUExecutionProvider measured" in done.stderr


def test_no_cell_that_can_be_filled_is_said_and_nothing_is_written(export, dataset, tmp_path):
    done = export(dataset, tmp_path / "out" / "sheet.jpg", "--angles", "up,down", code=2)
    assert "shows one of the asked angles" in done.stderr and "  down: Add photos" in done.stderr
    assert not (tmp_path / "out").exists()


def test_generated_pictures_fill_only_what_no_photo_shows(export, dataset, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(dataset, mixed)
    for name, new in (("a6", "profile_001"), ("a1", "front_001")):
        shutil.copy(mixed / f"{name}.jpg", mixed / f"synthetic_face_angle_{new}_20260101_000000.png")
    (mixed / "a6.jpg").unlink()
    output = tmp_path / "sheet.jpg"
    asked = ("--angles", "front,profile_right")
    done = export(mixed, output, *asked)
    assert files_of(output) == {"front": "a1", "profile_right": None} and "--allow-synthetic takes one" in done.stdout
    done = export(mixed, output, *asked, "--allow-synthetic")
    chosen = {name: cell["chosen"] for name, cell in cells_of(output).items()}
    assert chosen["front"]["file"] == "a1.jpg" and not chosen["front"]["is_synthetic"]
    assert chosen["profile_right"]["file"].startswith("synthetic_") and chosen["profile_right"]["is_synthetic"]
    assert "(generated)" in done.stdout
    reasons = {one["file"]: one["reason"] for one in record_of(output)["not_used"]}
    assert "it is generated, and the photo a1.jpg" in reasons["synthetic_face_angle_front_001_20260101_000000.png"]


def test_of_two_pictures_at_one_angle_the_sharp_one_is_taken(export, heads, tmp_path):
    image = heads["a1"].image
    folder = tmp_path / "two"
    save(folder / "1_blurred.jpg", cv2.GaussianBlur(image, (0, 0), 4))
    save(folder / "2_sharp.jpg", image)
    export(folder, tmp_path / "sheet.jpg", "--angles", "front")
    assert files_of(tmp_path / "sheet.jpg") == {"front": "2_sharp"}
    assert "by faults" in record_of(tmp_path / "sheet.jpg")["not_used"][0]["reason"]


def test_a_neutral_face_is_preferred_where_it_is_measured(export, heads, tmp_path):
    """The stand-in model calls a dark crop neutral, or a bright one."""
    image = heads["a1"].image
    folder = tmp_path / "two"
    save(folder / "bright.jpg", image)
    save(folder / "dark.jpg", (image * 0.6).astype(np.uint8))
    for expected, levels in (
        ("dark", {"neutral": 70.0, "smile": 150.0}),
        ("bright", {"neutral": 150.0, "smile": 70.0}),
    ):
        model = own_net(tmp_path / f"{expected}.onnx", levels)
        export(folder, tmp_path / "sheet.jpg", "--angles", "front", "--expression-model", model)
        chosen = cells_of(tmp_path / "sheet.jpg")["front"]["chosen"]
        assert Path(chosen["file"]).stem == expected and chosen["expression"] == "neutral" and chosen["neutral"] > 0.5
    assert record_of(tmp_path / "sheet.jpg")["expression_model"].startswith("bright.onnx@")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--angles", "front,leftish"), "knows no leftish"),
        (("--angles", "front,front"), "names front twice"),
        (("--angles", ","), "names no angle"),
        (("--background", "transparent pink"), "--background takes original"),
        (("--output", "sheet.psd"), "ends in .jpg, .jpeg, .png, .tif, .tiff"),
        (("--output", "DATASET/sheet.jpg"), "lies in the dataset"),
        (("--dataset", "nowhere"), "nowhere does not exist"),
    ],
)
def test_wrong_options_are_one_sentence(export, dataset, tmp_path, more, said):
    more = [one.replace("DATASET", str(dataset)) for one in more]
    done = export(dataset, tmp_path / "sheet.jpg", *more, code=2)
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()) and not (dataset / "sheet.jpg").exists()


def test_unusable_datasets_are_one_sentence_each(export, heads, tmp_path):
    save(tmp_path / "empty_wall" / "1.jpg", np.full((200, 200, 3), 150, np.uint8))
    (tmp_path / "none").mkdir()
    save(tmp_path / "between" / "1.jpg", render(Scene(mean_identity(), yaw_deg=20.0), 224).image)
    for number, name in enumerate(("a1", "a2", "a3")):
        save(tmp_path / "two" / f"{name}.jpg", heads[name].image)
        other = render(Scene(mean_identity(), yaw_deg=YAWS[name], seed=number), 224)
        save(tmp_path / "two" / f"{name}_other.jpg", other.image)
    for folder, said in (
        ("empty_wall", "No face was found in the 1 picture(s)"),
        ("none", "holds no pictures"),
        ("between", "No picture of"),
        ("two", "shows two persons"),
    ):
        done = export(tmp_path / folder, tmp_path / "out" / "sheet.jpg", code=2)
        assert done.stderr.count("Error: ") == 1 and said in done.stderr, folder
        assert not (tmp_path / "out").exists()


def test_one_picture_is_a_sheet_with_empty_cells(export, heads, tmp_path):
    save(tmp_path / "one" / "1.jpg", heads["a1"].image)
    done = export(tmp_path / "one", tmp_path / "sheet.jpg")
    assert list(files_of(tmp_path / "sheet.jpg").values()) == ["1", None, None, None]
    assert done.stdout.count("Missing: ") == 3


def test_files_of_others_are_not_overwritten(export, dataset, tmp_path):
    foreign = tmp_path / "alice.jpg"
    foreign.write_bytes(b"mine")
    done = export(dataset, foreign, code=2)
    assert "alice.jpg" in done.stderr and foreign.read_bytes() == b"mine"
    (tmp_path / "bob.json").write_text("{}", encoding="utf-8")
    done = export(dataset, tmp_path / "bob.jpg", code=2)
    assert "bob.json was not written by export_facesheet.py" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice.jpg", "bob.json"]


def test_a_face_whose_side_is_unsure_is_trusted_for_no_angle():
    """Found with a low score, or turned to one side by its pose and to the other by the detector's keypoints."""
    shape = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.61, 0.52], [-0.42, 1.09, -0.05], [0.42, 1.09, -0.05]])
    to_the_left = 100 + 40 * (shape @ rotation(Angles(-60.0, 0.0, 0.0)).T)[:, :2]
    face = FaceMeasurement(Status.OK, 1, "", (200, 200), (60, 60, 140, 160), 0.9, None, -62.0, 0.0, 0.0)
    face = replace(face, keypoints=tuple(map(tuple, to_the_left)))
    assert ANGLES["profile_left"].off(face) is not None and is_sure(face)
    assert not is_sure(replace(face, det_score=0.5)) and not is_sure(replace(face, yaw_deg=62.0))


def test_real_photos_with_a_pack_without_landmarks(export, mini_pack, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("left_face.jpeg", "right_face.png", "happy.png", "d1.jpeg", "rise_face.jpeg"):
        shutil.copy(photos / name, folder)
    output = tmp_path / "sheet.jpg"
    done = export(folder, output, "--pack", mini_pack, "--angles", "front,profile_left,profile_right,up,down")
    files = files_of(output)
    assert files["front"] in ("happy", "d1") and files["up"] == "rise_face" and files["down"] is None
    assert (files["profile_left"], files["profile_right"]) == ("left_face", "right_face")
    assert "This pack has no 3-D landmarks" in done.stderr
    assert cells_of(output)["profile_left"]["chosen"]["levelled_by"] == "roll of the keypoints"
