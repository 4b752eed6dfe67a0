"""The demo's YOLO models: each trains and writes a checkpoint that loads safely; the committed ones see as they should.

Everything that imports ultralytics runs in a process of its own, with a home of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.render import render
from demo.scene import Scene
from demo.training_data import UNSEEN_SEED, draw_people
from demo.truth import FIVE_NAMES
from demo.yolo_data import TRUE_BOXES, label_lines, true_eyes, true_faces, true_hands

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "models" / "demo" / "yolo"
CLASS_NAMES = {"face": "face", "hands": "hand", "eyes": "eye"}
LARGEST_BYTES = 4_000_000  # what the project promises of each model
PICTURES, EPOCHS = 32, 3
LOCAL_PATHS = (b"/tmp", b"/work", b"/root", b"/home", b"/usr", b"/var", b"C:\\")

needs_ultralytics = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "ultralytics")),
    reason="needs torch and ultralytics: python -m pip install -r requirements/bootstrap.txt",
)

# names the models, then for each picture what each model finds; argv: settings folder, checkpoints, "--", pictures
LOOK = """
import json, sys
from pathlib import Path
from demo.train_yolo import prepare_ultralytics
prepare_ultralytics(Path(sys.argv[1]))
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load
from ultralytics.utils import SAFE_LOAD
assert SAFE_LOAD and hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
split = sys.argv.index("--")
told = {}
for path in sys.argv[2:split]:
    model = YOLO(path)
    told[Path(path).stem] = {
        "names": model.names,
        "task": model.task,
        "kpt_shape": getattr(model.model, "kpt_shape", None),
        "box_biases": [branch[-1].bias.tolist() for branch in model.model.model[-1].cv2],
        "half": all(p.dtype == torch.float16 for p in torch_safe_load(path)[0]["model"].parameters()),
        "found": [
            {
                "boxes": result.boxes.xyxy.tolist(),
                "scores": result.boxes.conf.tolist(),
                "points": result.keypoints.xy.tolist() if result.keypoints is not None else None,
            }
            for picture in sys.argv[split + 1 :]
            for result in model.predict(picture, imgsz=320, conf=0.5, verbose=False)
        ],
    }
print(json.dumps(told))
"""


def python(home: Path, *arguments: object) -> subprocess.CompletedProcess:
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def look(folder: Path, checkpoints: list[Path], pictures: list[Path]) -> dict:
    """What LOOK tells, model by model."""
    done = python(folder / "home", "-c", LOOK, folder / "settings", *checkpoints, "--", *pictures)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def person(index: int = 0):
    return draw_people(UNSEEN_SEED, index + 1)[index]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, dict]:
    """Each model trained for a moment on the same few pictures: what the command told, by model."""
    folder = tmp_path_factory.mktemp("trained")
    before = files_in(COMMITTED) | set(ROOT.iterdir())
    told = {}
    for model in TRUE_BOXES:
        done = python(
            folder / "home",
            *("-m", "demo.train_yolo", model, "--epochs", EPOCHS, "--images", PICTURES, "--workers", 1),
            *("--scratch", folder / "scratch", "--output", folder / "out", "--debug"),
        )
        assert done.returncode == 0, done.stderr
        told[model] = json.loads(done.stdout)
    assert not files_in(folder / "home"), "something was written into the user's home"
    assert files_in(COMMITTED) | set(ROOT.iterdir()) == before
    return told


@needs_ultralytics
@pytest.mark.parametrize("model", TRUE_BOXES)
def test_the_loss_is_a_number_and_falls(trained, model):
    losses = trained[model]["losses"]
    assert len(losses) == EPOCHS
    assert np.isfinite(losses).all()
    assert min(losses) < losses[0]


@needs_ultralytics
def test_trained_checkpoints_load_safely_and_say_what_they_find(trained, tmp_path):
    told = look(tmp_path, [Path(trained[model]["file"]) for model in TRUE_BOXES], [])
    for model, facts in told.items():
        assert facts["names"] == {"0": CLASS_NAMES[model]}
        assert facts["half"]
        assert any(np.ptp(biases) > 0 for biases in facts["box_biases"]), "they begin as one number: nothing was learnt"
        assert facts["task"] == ("pose" if model == "face" else "detect")
        assert facts["kpt_shape"] == ([len(FIVE_NAMES), 3] if model == "face" else None)
        assert_nothing_local(Path(trained[model]["file"]))


@needs_ultralytics
def test_the_safe_loading_that_these_tests_rely_on_refuses_other_classes(tmp_path):
    bad = tmp_path / "bad.pt"
    save = "import fractions, sys, torch; torch.save({'model': fractions.Fraction(1, 3)}, sys.argv[1])"
    assert python(tmp_path / "home", "-c", save, bad).returncode == 0
    done = python(tmp_path / "home", "-c", LOOK, tmp_path / "settings", bad, "--")
    assert done.returncode != 0
    assert "outside the supported Ultralytics checkpoint format" in done.stderr


def assert_nothing_local(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        pickled = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
    assert pickled
    for sign in LOCAL_PATHS:
        assert not any(sign in content for content in pickled), f"{path.name} contains {sign!r}"


@pytest.mark.parametrize("model", TRUE_BOXES)
def test_committed_checkpoints_are_small_and_name_no_folder(model):
    path = COMMITTED / f"{model}.pt"
    assert path.stat().st_size < LARGEST_BYTES
    assert_nothing_local(path)


@needs_ultralytics
def test_committed_checkpoints_see_face_hands_and_eyes(tmp_path):
    plain = Scene(person(), yaw_deg=-12.0, fill=0.4, seed=3)
    scenes = {
        "plain": plain,
        "waving": replace(plain, hand="wave"),
        "closed": replace(plain, eyes_closed=True),
        "nobody": replace(plain, person=False),
    }
    pictures = {name: render(scene, 384) for name, scene in scenes.items()}
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture.image)
    told = look(
        tmp_path, [COMMITTED / f"{model}.pt" for model in TRUE_BOXES], [tmp_path / f"{name}.png" for name in pictures]
    )
    found = {model: dict(zip(pictures, facts["found"], strict=True)) for model, facts in told.items()}
    assert told["face"]["kpt_shape"] == [len(FIVE_NAMES), 3]

    truth = pictures["plain"].truth
    assert found["face"]["plain"]["boxes"], "no face found"
    assert np.abs(np.array(found["face"]["plain"]["boxes"][0]) - truth.face_box_xyxy).max() < 20
    between_eyes = np.linalg.norm(truth.five_points[1] - truth.five_points[0])
    errors = np.linalg.norm(np.array(found["face"]["plain"]["points"][0]) - truth.five_points, axis=1)
    assert errors.mean() < 0.25 * between_eyes
    assert not found["face"]["nobody"]["boxes"]

    assert found["hands"]["waving"]["boxes"]
    assert not found["hands"]["plain"]["boxes"]
    assert len(found["eyes"]["plain"]["boxes"]) in (1, 2)  # the model is small: README.md has its figures
    assert not found["eyes"]["closed"]["boxes"]
    assert not found["eyes"]["nobody"]["boxes"]


def test_a_head_that_looks_away_has_no_face_and_no_eyes():
    size = (160, 160)
    front = render(Scene(person(), seed=1), 160).truth
    back = render(Scene(person(), yaw_deg=180.0, seed=1), 160).truth
    assert len(true_faces(front, size)) == 1 and len(true_eyes(front, size)) == 2
    assert true_faces(back, size) == true_eyes(back, size) == []


def test_only_open_eyes_that_the_camera_sees_are_marked():
    size = (160, 160)
    scene = Scene(person(), seed=1)
    assert true_eyes(render(replace(scene, eyes_closed=True), 160).truth, size) == []
    assert true_eyes(render(replace(scene, glasses="dark"), 160).truth, size) == []
    assert len(true_eyes(render(replace(scene, yaw_deg=80.0), 160).truth, size)) == 1
    assert true_eyes(render(replace(scene, fill=0.125), 160).truth, size) == []


def test_hands_are_marked_where_they_are():
    scene = Scene(person(), fill=0.3, seed=1)
    assert true_hands(render(scene, 160).truth, (160, 160)) == []
    (hand,) = true_hands(render(replace(scene, hand="wave"), 160).truth, (160, 160))
    assert (hand.box_xyxy[0] + hand.box_xyxy[2]) / 2 > 90  # waves at the image's right


def test_label_lines_are_shares_and_points_outside_are_unlabelled():
    truth = render(Scene(person(), fill=1.75, place=(0.5, 0.85), seed=1), 160).truth
    line = label_lines(true_faces(truth, (160, 160)), (160, 160)).split()
    assert len(line) == 5 + 3 * len(FIVE_NAMES)
    values = np.array(line, float)
    assert values.min() >= 0 and values[1:5].max() <= 1
    points = values[5:].reshape(-1, 3)
    for point, (x, y) in zip(points, truth.five_points, strict=True):
        outside = not (0 <= x < 160 and 0 <= y < 160)
        assert (point == 0).all() if outside else point[2] in (1, 2)
    assert (points[:, 2] == 0).any() and (points[:, 2] == 2).any()


@needs_ultralytics
def test_numbers_that_train_nothing_are_refused(tmp_path):
    done = python(tmp_path / "home", "-m", "demo.train_yolo", "face", "--images", 2, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.strip() == "Error: --images 2 is too few: at least 8."
    assert not (tmp_path / "out").exists()
