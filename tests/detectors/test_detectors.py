"""Detectors: true outputs of real checkpoints, every kind of file, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script

from mirror.detectors.checkpoints import import_torch
from mirror.detectors.detectors import (
    EYE,
    FACE,
    FACE_LAYOUT,
    FINISHED_LAYOUT,
    HAND,
    YOLO_LAYOUT,
    Detector,
    Output,
    decode,
    find_detector,
    letterbox,
    load_detector,
)
from utils.console import UserError
from utils.defaults import DETECTOR_FILES

SHARED = ROOT.parent / "shared" / "yolov5_face"
FIXTURES = ("yolov5-c3-tiny-face", "yolov5n-0.5-face")
TOLERANCE = 1e-3  # relative, as the fixtures' README asks

BACKBONE = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16, True]]]
BACKBONE += [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "SPPF", [32, 5]]]


@pytest.fixture(params=FIXTURES)
def fixture(request) -> Path:
    """A checkpoint that yolov5-face's own code has saved."""
    return shared_fixture(request.param)


def shared_fixture(name: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs the checkpoints in {SHARED}, which are not part of the repository")
    return SHARED / f"{name}.pt"


def expected(fixture: Path) -> tuple[np.ndarray, np.ndarray]:
    """(input, true output) of a fixture"""
    truth = np.load(fixture.with_name(f"{fixture.stem}_expected.npz"))
    return truth["input"], truth["output"]


def make_ultralytics(task: str) -> object:
    """A small network of ultralytics with random weights and batch norms that matter."""
    import torch

    from mirror.detectors.ultralytics_yolo import import_tasks

    tasks = import_tasks()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if task == "pose":
        yaml = {"nc": 1, "kpt_shape": [5, 3], "backbone": BACKBONE, "head": [[[2, 4], 1, "Pose", ["nc", "kpt_shape"]]]}
        model = tasks.PoseModel(yaml, verbose=False)
    else:
        yaml = {"nc": 2, "backbone": BACKBONE, "head": [[[2, 4], 1, "Detect", ["nc"]]]}
        model = tasks.DetectionModel(yaml, verbose=False)
    model.names = {0: "left hand", 1: "right hand"} if task == "detect" else {0: "face"}
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module", params=["detect", "pose"])
def ultralytics_file(request, tmp_path_factory) -> Path:
    """A checkpoint as ultralytics' trainer writes it."""
    import torch

    path = tmp_path_factory.mktemp("ultralytics") / f"{request.param}.pt"
    settings = {"train_args": {"imgsz": 640}, "epoch": -1, "optimizer": None, "version": "8", "date": "today"}
    torch.save({"model": None, "ema": make_ultralytics(request.param).half()} | settings, path)
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (150, 100, 3), dtype=np.uint8)


# Real checkpoints


def test_outputs_are_those_of_the_project(fixture):
    pixels, truth = expected(fixture)
    found = load_detector(fixture, "cpu")._backend.run(pixels)
    assert found.shape == truth.shape
    np.testing.assert_allclose(found, truth, rtol=TOLERANCE, atol=TOLERANCE)


def test_boxes_and_landmarks_are_those_of_the_project(fixture):
    """From a picture on: the true output, filtered here by hand, against what `detect` gives."""
    pixels, truth = expected(fixture)
    image = np.ascontiguousarray((pixels[0].transpose(1, 2, 0)[..., ::-1] * 255).round().astype(np.uint8))
    detector = load_detector(fixture, "cpu")
    detector._backend.fixed_hw = image.shape[:2]  # no scaling
    scores = truth[0, :, 4] * truth[0, :, 15]
    best = scores.argmax()
    found = detector.detect([image], conf=float(scores[best]) * 0.9)[0]
    centre, size = truth[0, best, :2], truth[0, best, 2:4]
    box = np.clip(np.concatenate((centre - size / 2, centre + size / 2)), 0, [320, 256, 320, 256])
    row = np.abs(found.boxes_xyxy - box).sum(1).argmin()
    np.testing.assert_allclose(found.boxes_xyxy[row], box, rtol=0.01, atol=1)
    np.testing.assert_allclose(found.keypoints[row], truth[0, best, 5:15].reshape(5, 2), rtol=0.02, atol=1.5)
    np.testing.assert_allclose(found.scores[0], scores[best], rtol=0.01)


def test_no_class_of_the_file_is_made(fixture):
    import torch

    before = torch.serialization.get_safe_globals()
    load_detector(fixture, "cpu")
    assert {"models", "models.yolo", "models.common"} & set(sys.modules) == set()
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_converted_detector_loads_in_the_originals_place(fixture, tmp_path, picture):
    copy = tmp_path / DETECTOR_FILES[FACE]
    copy.write_bytes(fixture.read_bytes())
    assert run_script("inspect_pkl.py", "--convert", copy).returncode == 0
    original = load_detector(copy, "cpu")
    copy.unlink()
    path = find_detector(FACE, tmp_path)
    assert path == copy.with_suffix(".safetensors")
    converted = load_detector(path, "cpu")
    pixels, truth = expected(fixture)
    np.testing.assert_allclose(converted._backend.run(pixels), truth, rtol=TOLERANCE, atol=TOLERANCE)
    assert same(original.detect([picture], conf=0.01), converted.detect([picture], conf=0.01))
    assert converted.identity.startswith(f"{path.name}@") and converted.identity != original.identity


def test_ultralytics_outputs_are_those_of_ultralytics(ultralytics_file):
    import torch

    from mirror.detectors.ultralytics_yolo import import_tasks

    detector = load_detector(ultralytics_file, "cpu")
    model, _ = import_tasks().load_checkpoint(str(ultralytics_file))
    pixels = np.random.default_rng(0).random((2, 3, 64, 96), dtype=np.float32)
    with torch.inference_mode():
        truth = model(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(detector._backend.run(pixels), truth, rtol=TOLERANCE, atol=TOLERANCE)


def test_ultralytics_file_is_safe_and_converts_equal(ultralytics_file, tmp_path, picture):
    import torch
    from safetensors.torch import load_file

    copy = tmp_path / ultralytics_file.name
    copy.write_bytes(ultralytics_file.read_bytes())
    done = run_script("inspect_pkl.py", "--convert", copy)
    assert (done.returncode, " is safe: " in done.stdout) == (0, True), done.stdout + done.stderr
    saved = torch.load(copy, weights_only=False)["ema"].state_dict()
    converted = load_file(copy.with_suffix(".safetensors"))
    assert set(converted) == set(saved)
    assert all(converted[name].dtype == saved[name].dtype for name in saved)
    assert all(torch.equal(converted[name], saved[name]) for name in saved)
    one, other = load_detector(copy, "cpu"), load_detector(copy.with_suffix(".safetensors"), "cpu")
    found = one.detect([picture], conf=1e-6)  # untrained: it believes in nothing
    assert len(found[0].scores) > 3
    assert same(found, other.detect([picture], conf=1e-6))
    if copy.stem == "pose":
        assert found[0].keypoints.shape == (len(found[0].scores), 5, 2)
        assert set(found[0].classes) == {"face"}
    else:
        assert found[0].keypoints is None
        assert set(found[0].classes) <= {"left hand", "right hand"}


def same(found: list, other: list) -> bool:
    """Whether two results are equal."""
    return all(
        np.array_equal(a.boxes_xyxy, b.boxes_xyxy) and np.array_equal(a.scores, b.scores) and a.classes == b.classes
        for a, b in zip(found, other, strict=True)
    )


NO_NETWORK = """
import socket, subprocess, sys
def refuse(*arguments, **more):
    print("ASKED", arguments[:2])
    raise OSError("no network in this test")
import torch  # on Linux it asks ldconfig for libdl, before anything of ours happens
socket.getaddrinfo = socket.socket.connect = subprocess.Popen.__init__ = refuse
from pathlib import Path
from mirror.detectors.detectors import load_detector
load_detector(Path(sys.argv[1]), "cpu")
import ultralytics.utils as u
from utils.decoding import ImageError
from utils.images import read_file
Path(sys.argv[2]).write_bytes(b"no picture")
try:
    read_file(Path(sys.argv[2]))
except ImageError as error:
    print(error.reason)
print("ONLINE" if u.ONLINE or u.AUTOINSTALL else "OFFLINE", u.SAFE_LOAD)
"""


def test_loading_asks_no_network_and_installs_nothing(ultralytics_file, tmp_path):
    command = [sys.executable, "-c", NO_NETWORK, str(ultralytics_file), str(tmp_path / "bad.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines() == ["is not a picture, whatever its name says", "OFFLINE True"]


def test_ultralytics_is_refused_where_its_safe_way_is_off(monkeypatch):
    from mirror.detectors import ultralytics_yolo

    tasks = ultralytics_yolo.import_tasks()
    monkeypatch.setattr(tasks, "SAFE_LOAD", False)
    with pytest.raises(UserError, match="ULTRALYTICS_SAFE_LOAD off"):
        ultralytics_yolo.import_tasks()


def test_old_torch_is_refused(monkeypatch):
    monkeypatch.setattr(import_torch(), "__version__", "2.5.1+cpu")
    with pytest.raises(UserError, match=r"torch 2\.5\.1\+cpu cannot load model files safely"):
        import_torch()


# Pictures in, coordinates out


class Fake:
    """A network that finds one box in the middle of the left half of its input, whatever that is."""

    device, stride, fixed_hw, fixed_batch = "cpu", 32, None, None
    output = Output(YOLO_LAYOUT, ["thing"], 1, 2)

    def __init__(self):
        self.batches = []

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch.shape)
        assert batch.dtype == np.float32 and batch.min() >= 0 and batch.max() <= 1
        count, _, height, width = batch.shape
        mean = batch.mean((1, 2, 3))
        rows = [[width / 4, height / 2, width / 8, height / 8, 0.6 + 0.1 * m, width / 4, height / 2] for m in mean]
        return np.array(rows, np.float32).reshape(count, 7, 1)


def fake_detector() -> Detector:
    return Detector(Path("fake.onnx"), "fake.onnx@0", Fake())


@pytest.mark.parametrize("size_wh", [(640, 640), (320, 320), (1920, 1080), (832, 1216), (5, 2000)])
def test_coordinates_are_those_of_the_original(size_wh):
    width, height = size_wh
    found = fake_detector().detect([np.zeros((height, width, 3), np.uint8)])[0]
    boxed = letterbox(np.zeros((height, width, 3), np.uint8), 640, 32, None)
    ground_h, ground_w = boxed.pixels.shape[:2]
    assert max(ground_h, ground_w) == 640 and ground_h % 32 == ground_w % 32 == 0
    scale = 640 / max(size_wh)
    x = (ground_w / 4 - (ground_w - round(width * scale)) // 2) / scale
    y = (ground_h / 2 - (ground_h - round(height * scale)) // 2) / scale
    np.testing.assert_allclose(found.keypoints[0, 0], [x, y], atol=2 / scale)
    assert found.boxes_xyxy.dtype == found.scores.dtype == found.keypoints.dtype == np.float32
    left, top, right, bottom = found.boxes_xyxy[0]
    assert 0 <= left <= right <= width and 0 <= top <= bottom <= height


def test_colours_reach_the_network_as_rgb():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 2] = 255  # red, in OpenCV's order
    seen = []
    detector = fake_detector()
    detector._backend.run = lambda batch: (seen.append(batch), np.zeros((1, 7, 1), np.float32))[1]
    detector.detect([image])
    np.testing.assert_array_equal(seen[0][0, :, 320, 320], [1, 0, 0])


def test_pictures_of_one_shape_share_a_call_and_keep_their_order():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 25 * (i + 1), (64, 64 + 64 * (i % 2), 3), dtype=np.uint8) for i in range(9)]
    detector = fake_detector()
    together = detector.detect(images)
    assert sorted(shape[0] for shape in detector._backend.batches) == [4, 5]
    assert same(together, [detector.detect([image])[0] for image in images])
    assert len({float(found.scores[0]) for found in together}) == 9


def test_network_of_one_fixed_size_gets_it():
    detector = fake_detector()
    detector._backend.fixed_hw, detector._backend.fixed_batch = (128, 256), 4
    assert len(detector.detect([np.zeros((100, 50, 3), np.uint8)] * 5)) == 5
    assert detector._backend.batches == [(4, 3, 128, 256)] * 2


def decoded(rows: list, output: Output, conf: float = 0.5, iou: float = 0.45):
    boxed = letterbox(np.zeros((640, 640, 3), np.uint8), 640, 32, None)
    numbers = np.array(rows, np.float32)
    return decode(numbers.T if output.layout == YOLO_LAYOUT else numbers, output, boxed, conf, iou)


def test_weaker_boxes_on_the_same_thing_go():
    """Three boxes of 100 x 100: shifted by 30 they share 70/130 = 0.54, by 40 60/140 = 0.43."""
    rows = [[100, 100, 100, 100, 0.8], [130, 100, 100, 100, 0.9], [170, 100, 100, 100, 0.7], [9, 9, 5, 5, 0.4]]
    found = decoded(rows, Output(YOLO_LAYOUT, ["a"]))
    np.testing.assert_allclose(found.scores, [0.9, 0.7])
    np.testing.assert_allclose(found.boxes_xyxy, [[80, 50, 180, 150], [120, 50, 220, 150]])
    assert len(decoded(rows, Output(YOLO_LAYOUT, ["a"]), iou=0.6).scores) == 3


def test_different_things_may_overlap():
    rows = [[100, 100, 50, 50, 0.9, 0.1], [100, 100, 50, 50, 0.2, 0.8]]
    assert decoded(rows, Output(YOLO_LAYOUT, ["left", "right"])).classes == ["left", "right"]


def test_layout_of_yolov5_face():
    landmarks = [10, 11, 20, 21, 30, 31, 40, 41, 50, 51]
    found = decoded([[100, 200, 40, 60, 0.9, *landmarks, 0.8]], Output(FACE_LAYOUT, ["face"], 5))
    np.testing.assert_allclose(found.scores, [0.72], rtol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, [[80, 170, 120, 230]])
    np.testing.assert_allclose(found.keypoints, [np.reshape(landmarks, (5, 2))])
    assert len(decoded([[100, 200, 40, 60, 0.6, *landmarks, 0.8]], Output(FACE_LAYOUT, ["face"], 5)).scores) == 0


def test_layout_without_suppression_and_numbers_that_are_none():
    rows = [[10, 20, 30, 40, 0.9, 1, 5, 6, 1], [10, 20, 30, 40, 0.8, 1, 5, 6, 1], [0, 0, 0, 0, np.nan, 0, 0, 0, 0]]
    found = decoded(rows, Output(FINISHED_LAYOUT, ["a", "b"], 1, 3))
    np.testing.assert_allclose(found.boxes_xyxy, [[10, 20, 30, 40]] * 2)
    np.testing.assert_allclose(found.keypoints, [[[5, 6]]] * 2)
    assert found.classes == ["b", "b"]


# ONNX


def export(module: object, path: Path, metadata: dict[str, str] | None = None, free: bool = True) -> Path:
    """Write a torch module as ONNX, as both projects' exporters do."""
    import onnx
    import torch

    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if free else {}
    torch.onnx.export(
        module,
        torch.zeros(1, 3, 64, 96),
        path,
        input_names=["images"],
        dynamic_axes=axes,
        dynamo=False,
        opset_version=17,
    )
    model = onnx.load(path)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def tiny_rt_detr(classes: int, finished: bool) -> object:
    """The head of ultralytics' RT-DETR on two convolutions. `finished`: (B, N, 6), as of late; else (B, N, 4 + nc)."""
    import torch
    from torch import nn
    from ultralytics.nn.modules.head import RTDETRDecoder

    torch.manual_seed(0)
    head = RTDETRDecoder(classes, (8,), hd=32, nq=12, ndl=1, nh=2, d_ffn=32)
    head.export = True
    if not finished:
        head.postprocess = lambda boxes, scores: torch.cat((boxes, scores), -1)

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 4, 4))
            self.head = head

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.head([self.body(pictures)])

    return Tiny().eval()


@pytest.mark.parametrize(
    ("finished", "told"),
    [
        (False, {}),
        (True, {}),
        (True, {"head": "RTDETRDecoder"}),
        (False, {"description": "Ultralytics rtdetr-l model trained on hands.yaml"}),
    ],
)
def test_exports_of_rt_detr_are_refused_by_name(tmp_path, finished, told):
    """With two classes their six numbers for each box look like those of an export with NMS."""
    pytest.importorskip("onnx", reason="onnx makes the exports that this test reads")
    pytest.importorskip("ultralytics", reason="ultralytics has the network")
    metadata = {"task": "detect", "names": "{0: 'left', 1: 'right'}", "stride": "16"} | told
    path = export(tiny_rt_detr(2, finished), tmp_path / "hands.onnx", metadata, free=False)
    with pytest.raises(UserError, match=r"hands\.onnx cannot be used as a detector: it is an RT-DETR network"):
        load_detector(path, "cpu")


@pytest.mark.parametrize("boxes", [[[0, 0, 0, 0]], [[0.4, 0.2, 30, 40]]])
def test_exports_with_suppression_are_not_taken_for_rt_detr(tmp_path, boxes):
    """They give corners in pixels, and rows of zeros where nothing is found."""
    pytest.importorskip("onnx", reason="onnx makes the exports that this test reads")
    import torch

    class Suppressed(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            rows = torch.tensor([[*box, 0.9, 1] for box in boxes], dtype=torch.float32)[None]
            return rows + 0 * pictures.mean()

    metadata = {"task": "detect", "names": "{0: 'left', 1: 'right'}", "stride": "16"}
    path = export(Suppressed(), tmp_path / "hands.onnx", metadata, free=False)
    found = load_detector(path, "cpu").detect([np.zeros((64, 96, 3), np.uint8)])[0]
    np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=1e-4)
    assert found.classes == ["right"]


def test_onnx_of_yolov5_face(tmp_path, picture):
    pytest.importorskip("onnx", reason="onnx makes the exports that this test reads")
    original = load_detector(shared_fixture(FIXTURES[0]), "cpu")
    path = export(original._backend._module, tmp_path / "yolov5l-face.onnx")
    assert find_detector(FACE, tmp_path) == path
    detector = load_detector(path, "cpu")
    assert detector.device == "CPUExecutionProvider"
    batch = np.stack([letterbox(picture, 640, 64, None).pixels.transpose(2, 0, 1)] * 2).astype(np.float32) / 255
    one, other = (each._backend.run(batch) for each in (original, detector))
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)
    # rows as they are: untrained weights give many boxes the same score, and the order of equals is nobody's promise
    assert len(detector.detect([picture, picture[:70]], conf=0.015)[1].scores) > 0


def test_onnx_of_ultralytics(ultralytics_file, tmp_path, picture):
    pytest.importorskip("onnx", reason="onnx makes the exports that this test reads")
    original = load_detector(ultralytics_file, "cpu")
    module = original._backend._module
    original._backend.fixed_hw = (64, 96)
    metadata = {"task": ultralytics_file.stem, "names": str(module.names), "stride": "8", "kpt_shape": "[5, 3]"}
    if ultralytics_file.stem == "detect":
        del metadata["kpt_shape"]
    module.names = dict(enumerate(original.classes))
    metadata["names"] = str(module.names)
    module.model[-1].export = True
    path = export(module, tmp_path / "model.onnx", metadata, free=False)
    module.model[-1].export = False
    detector = load_detector(path, "cpu")
    assert detector.classes == original.classes
    (one,), (other,) = (each.detect([picture], conf=0.001) for each in (original, detector))
    np.testing.assert_allclose(other.scores, one.scores, rtol=1e-3)
    np.testing.assert_allclose(other.boxes_xyxy, one.boxes_xyxy, atol=0.05)
    assert one.classes == other.classes
    if one.keypoints is not None:
        np.testing.assert_allclose(other.keypoints, one.keypoints, atol=0.05)


# Which file


def test_detectors_are_found_by_name_and_stem(tmp_path):
    assert [find_detector(kind, tmp_path) for kind in (FACE, HAND, EYE)] == [None] * 3
    for name in ("hand_yolov8n.onnx", "hand_yolov8n.safetensors", "other.pt", "eyes_yolov.pt", "eyes_yolov.onnx"):
        (tmp_path / name).write_bytes(b"x")
    assert find_detector(HAND, tmp_path).name == "hand_yolov8n.safetensors"
    assert find_detector(EYE, tmp_path).name == "eyes_yolov.pt"
    assert find_detector(FACE, tmp_path, "other.pt").name == "other.pt"
    assert find_detector(FACE, Path("elsewhere"), str(tmp_path / "other.pt")) == tmp_path / "other.pt"
    assert find_detector(FACE, tmp_path, "none.pt") is None


def test_loading_nothing_heavy_to_find_a_file():
    code = "import sys, mirror.detectors.detectors; print({'torch', 'ultralytics', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_detector(path, "cpu")
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("page.pt", b"<!DOCTYPE html>", "it is no model file"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\n", "it is no model file"),
        ("broken.onnx", b"\x08\x07broken", "cannot be loaded as ONNX"),
        ("broken.safetensors", b"\x10\x00", "cannot be read as safetensors"),
    ],
)
def test_files_that_are_not_what_they_say(name, content, finding, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert finding in refusal(tmp_path / name)


def test_missing_file(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "none.pt")


def test_weights_without_a_network(tmp_path):
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "lora.pt")
    assert "it holds no network of yolov5-face or ultralytics" in refusal(tmp_path / "lora.pt")
    assert run_script("inspect_pkl.py", "--convert", tmp_path / "lora.pt").returncode == 0
    assert "does not say which network" in refusal(tmp_path / "lora.safetensors")


def test_network_for_another_task(tmp_path):
    import torch

    from mirror.detectors.ultralytics_yolo import import_tasks

    yaml = {"nc": 3, "backbone": BACKBONE, "head": [[-1, 1, "Classify", ["nc"]]]}
    model = import_tasks().ClassificationModel(yaml, verbose=False)
    torch.save({"model": model}, tmp_path / "classes.pt")
    assert "it is a ClassificationModel, and only networks for detect and pose" in refusal(tmp_path / "classes.pt")


def change_description(path: Path, change) -> Path:
    """`path`, a converted detector, with another description of its network."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no dictionary
    facts = json.loads(metadata["mirrormetrics"])
    change(facts["architecture"])
    save_file(tensors, path, metadata | {"mirrormetrics": json.dumps(facts)})
    return path


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        ([-1, 1, "TorchVision", [32, "resnet18", "DEFAULT"]], "its layer TorchVision is not known here"),
        ([-1, 1, "nn.Module.__init__", []], "its layer nn.Module.__init__ is not known here"),
        ([-1, 1, "Conv", [32, 3, 2]], "its weights do not fit its own description"),
    ],
)
def test_description_is_checked_as_well(ultralytics_file, tmp_path, row, finding):
    copy = tmp_path / ultralytics_file.name
    copy.write_bytes(ultralytics_file.read_bytes())
    assert run_script("inspect_pkl.py", "--convert", copy).returncode == 0
    path = change_description(copy.with_suffix(".safetensors"), lambda what: what["yaml"]["backbone"].insert(4, row))
    assert finding in refusal(path)


def test_layers_that_do_not_fit_are_found_when_loading(tmp_path):
    copy = tmp_path / "face.pt"
    copy.write_bytes(shared_fixture(FIXTURES[0]).read_bytes())
    assert run_script("inspect_pkl.py", "--convert", copy).returncode == 0

    def change(description: dict) -> None:
        description["sources"][11] = [-1, 2]

    assert "its layers do not fit together" in refusal(change_description(copy.with_suffix(".safetensors"), change))


def test_bfloat16_sees_the_same_heads():
    """A network of torch with `precision` fast: the same boxes, a little off, and only where it was asked for."""
    from demo.scene import draw_scene
    from demo.training_data import UNSEEN_SEED, draw_people, generator, render_all
    from mirror.detectors.engines import EXACT, FAST

    random = generator(UNSEEN_SEED, "detected")
    scenes = [draw_scene(who, random) for who in draw_people(UNSEEN_SEED, 12)]
    images = [one.image for one in render_all(scenes, 320, 1, samples=1.0)]
    network = ROOT / "models" / "demo" / "yolo" / "face.pt"
    exact, fast = (load_detector(network, "cpu", precision).detect(images, conf=0.25) for precision in (EXACT, FAST))
    certain = 0
    for one, other in zip(exact, fast, strict=True):
        np.testing.assert_allclose(other.scores[0], one.scores[0], atol=0.02)
        if one.scores[0] > 0.55:
            certain += 1
            np.testing.assert_allclose(other.boxes_xyxy[0], one.boxes_xyxy[0], atol=6)
    assert certain >= 5
    assert any(one.scores[0] != other.scores[0] for one, other in zip(exact, fast, strict=True))
