"""Detectors of faces, hands and eyes: a model file in, boxes and keypoints of pictures out.

    detector = load_detector(find_detector(FACE, Path("models")))
    found = detector.detect([image])      # image: (H, W, 3) uint8 BGR, as OpenCV reads it

Read are the checkpoints of deepcam-cn/yolov5-face and of ultralytics (detection and pose), `.safetensors` that
`inspect_pkl.py --convert` made of them, and `.onnx` exports of both. Nothing that a checkpoint names is run: it is
checked first, then read as plain data, and the network is built by our code or by ultralytics.

Layouts of `.onnx` that are accepted, input (B, 3, H, W) float32 RGB in [0, 1], B and H, W fixed or free:
    (B, N, 15 + nc)    yolov5-face's export.py: cx, cy, w, h, objectness, five landmarks, class scores
    (B, 4 + nc + K, N) ultralytics' export: cx, cy, w, h, class scores, keypoints
    (B, N, 6 + K)      the same with `nms` or for networks without NMS: x1, y1, x2, y2, score, class, keypoints
Those of ultralytics carry metadata (`task`, `names`, `kpt_shape`), by which they are known.
"""

from __future__ import annotations

import ast
import hashlib
import io
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from mirror.detectors.allowlist import Safety
from mirror.detectors.checkpoints import UnfitError, how_to_inspect, import_torch, read_checkpoint
from mirror.detectors.engines import EXACT, FAST
from mirror.detectors.modelfiles import Report, inspect_bytes
from mirror.detectors.networks import Network, find_network
from mirror.detectors.providers import open_session
from mirror.detectors.tensorfiles import read_network
from utils.console import UserError
from utils.defaults import DETECTION_SIZE, DETECTOR_FILES
from utils.files import reason_of

FACE, HAND, EYE = "face", "hand", "eye"
_IN_ITS_PLACE = (".safetensors", ".onnx")  # a file of the same stem, taken in this order where the .pt is missing

CONFIDENCE = 0.5  # documented: face confidence above 0.5
OVERLAP = 0.45  # intersection over union above which the weaker box goes; default of yolov5-face's detect_face.py
GREY = 114  # border of the letterbox, as both families were trained with (utils/augmentations.py, letterbox)
BATCH = 8  # pictures of equal shape in one call
_MOST_BOXES = 300  # of a picture, before overlaps are removed ten times as many; default of ultralytics

FACE_LAYOUT, YOLO_LAYOUT, FINISHED_LAYOUT = "yolov5-face", "ultralytics", "without NMS"
_FACE_POINTS = 5
_RT_DETR = "it is an RT-DETR network, which is not read here: export a YOLO network"


@dataclass(frozen=True)
class Found:
    """What was found in one picture, best first; coordinates are pixels of the original picture."""

    boxes_xyxy: np.ndarray  # (N, 4) float32
    scores: np.ndarray  # (N,) float32
    keypoints: np.ndarray | None  # (N, K, 2) float32; five are in ArcFace's order; None: the model gives none
    classes: list[str]


@dataclass(frozen=True)
class Output:
    """How a network's numbers are to be read."""

    layout: str
    names: list[str]
    keypoints: int = 0
    keypoint_size: int = 2  # numbers for each: x, y and perhaps how visible


class Backend(Protocol):
    """Whatever runs the network."""

    device: str
    stride: int  # height and width of the input are multiples of it
    fixed_hw: tuple[int, int] | None  # the only input size that it takes
    fixed_batch: int | None  # the only number of pictures at once
    output: Output

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) float32 RGB in [0, 1] to the layout of `output`."""


class Detector:
    """A loaded model. `detect` may be called from several threads; calls of the network follow one another."""

    def __init__(self, path: Path, identity: str, backend: Backend):
        self.name = path.name
        self.identity = identity  # file name, "@" and 12 hex digits of the content's SHA-256
        self._backend = backend
        self._lock = threading.Lock()  # ultralytics' head keeps its grid in itself

    @property
    def device(self) -> str:
        """What it really runs on: cpu, cuda:0, or the execution provider of onnxruntime."""
        return self._backend.device

    @property
    def classes(self) -> list[str]:
        """What it tells apart, by the model's own names."""
        return self._backend.output.names

    @property
    def keypoints(self) -> int:
        """How many it gives for each box; 0: none."""
        return self._backend.output.keypoints

    def detect(self, images: list[np.ndarray], conf: float = CONFIDENCE, iou: float = OVERLAP) -> list[Found]:
        """What is in each of `images` (H, W, 3) uint8 BGR. A picture's result does not depend on the others."""
        boxed = [letterbox(image, DETECTION_SIZE, self._backend.stride, self._backend.fixed_hw) for image in images]
        by_shape = defaultdict(list)
        for index, picture in enumerate(boxed):
            by_shape[picture.pixels.shape].append(index)
        results: dict[int, Found] = {}
        size = self._backend.fixed_batch or BATCH
        for indices in by_shape.values():
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                raw = self._run(np.stack([boxed[i].pixels for i in part]))
                for i, numbers in zip(part, raw, strict=False):
                    results[i] = decode(numbers, self._backend.output, boxed[i], conf, iou)
        return [results[index] for index in range(len(images))]

    def _run(self, pictures: np.ndarray) -> np.ndarray:
        """`pictures` (B, H, W, 3) uint8 BGR through the network, filled up where it wants a fixed number."""
        missing = (self._backend.fixed_batch or 0) - len(pictures)
        if missing > 0:
            pictures = np.concatenate([pictures, np.repeat(pictures[-1:], missing, 0)])
        batch = np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        with self._lock:
            return self._backend.run(batch)


# Pictures into the network's input, and back


@dataclass(frozen=True)
class Letterboxed:
    """A picture scaled to fit, on a grey ground."""

    pixels: np.ndarray  # (H, W, 3) uint8 BGR
    scale_xy: np.ndarray  # (2,) input pixels for each pixel of the original
    corner_xy: np.ndarray  # (2,) where the original begins in the input
    size_wh: tuple[int, int]  # pixels of the original

    def to_original(self, points_xy: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the input in pixels of the original."""
        return ((points_xy - self.corner_xy) / self.scale_xy).astype(np.float32)


def letterbox(image: np.ndarray, size: int, stride: int, fixed_hw: tuple[int, int] | None) -> Letterboxed:
    """`image` with its longer side scaled to `size`, on the smallest ground of whole strides, or on `fixed_hw`."""
    height, width = image.shape[:2]
    limit_h, limit_w = fixed_hw or (size, size)
    scale = min(limit_h / height, limit_w / width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    ground_h, ground_w = fixed_hw or (-(-inner_h // stride) * stride, -(-inner_w // stride) * stride)
    top, left = (ground_h - inner_h) // 2, (ground_w - inner_w) // 2
    pixels = np.full((ground_h, ground_w, 3), GREY, np.uint8)
    # averaging where the picture shrinks: skipping pixels would make the result depend on noise
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    pixels[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=method)
    scale_xy = np.array([inner_w / width, inner_h / height])
    return Letterboxed(pixels, scale_xy, np.array([left, top], np.float64), (width, height))


def decode(numbers: np.ndarray, output: Output, picture: Letterboxed, conf: float, iou: float) -> Found:
    """One picture's raw `numbers`, in the layout that `output` says, as what was found in it."""
    boxes, scores, classes, points = _split(numbers, output, conf)
    order = np.argsort(-scores, kind="stable")[: 10 * _MOST_BOXES]
    if output.layout != FINISHED_LAYOUT:
        order = order[_without_overlaps(boxes[order], classes[order], iou)]
    order = order[:_MOST_BOXES]
    corners = picture.to_original(boxes[order].reshape(-1, 2, 2))
    corners = np.clip(corners, 0, np.array(picture.size_wh, np.float32)).reshape(-1, 4)
    keypoints = picture.to_original(points[order]) if output.keypoints else None
    named = [output.names[c] if c < len(output.names) else str(c) for c in classes[order]]
    return Found(corners, scores[order].astype(np.float32), keypoints, named)


def _split(numbers: np.ndarray, output: Output, conf: float) -> tuple[np.ndarray, ...]:
    """Boxes (N, 4) xyxy, scores (N,), classes (N,) int, points (N, K, 2) of those above `conf`, input pixels."""
    rows = numbers.T if output.layout == YOLO_LAYOUT else numbers
    if output.layout == FINISHED_LAYOUT:
        boxes, scores, classes, points = rows[:, :4], rows[:, 4], rows[:, 5].astype(int), rows[:, 6:]
    else:
        first = 5 + 2 * _FACE_POINTS if output.layout == FACE_LAYOUT else 4
        by_class = rows[:, first : first + len(output.names)]
        if output.layout == FACE_LAYOUT:
            by_class, points = by_class * rows[:, 4:5], rows[:, 5:first]
        else:
            points = rows[:, first + len(output.names) :]
        classes = by_class.argmax(1)
        scores = by_class[np.arange(len(rows)), classes]
        half = rows[:, 2:4] / 2
        boxes = np.concatenate((rows[:, :2] - half, rows[:, :2] + half), 1)
    kept = scores > conf  # false for NaN as well
    points = points[kept].reshape(int(kept.sum()), output.keypoints, output.keypoint_size)[..., :2]
    return boxes[kept], scores[kept], classes[kept], points


def _without_overlaps(boxes: np.ndarray, classes: np.ndarray, iou: float) -> np.ndarray:
    """Indices of the boxes (N, 4), best first, that no better one of the same class overlaps by more than `iou`."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        overlap = shared / np.maximum(areas[best] + areas[left] - shared, 1e-9)
        left = left[(overlap <= iou) | (classes[left] != classes[best])]
    return np.array(kept, dtype=int)


# Finding and loading


def find_detector(kind: str, models_dir: Path, name: str | None = None) -> Path | None:
    """The file of a detector of `kind` in `models_dir`, or one of the same stem in its place; None if there is none.

    `name` is another file's name, or its path.
    """
    wanted = Path(models_dir) / Path(name or DETECTOR_FILES[kind]).expanduser()
    for path in (wanted, *(wanted.with_suffix(suffix) for suffix in _IN_ITS_PLACE)):
        if path.is_file():
            return path
    return None


def demand_safe(path: Path) -> None:
    """Look into a checkpoint without loading it, which needs no torch. Raises UserError for one that is not safe."""
    if path.suffix.lower() not in _IN_ITS_PLACE:
        _demand_safe(path, inspect_bytes(_content(path)))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error)}.") from error


def load_detector(path: Path, device: str = "auto", precision: str = EXACT) -> Detector:
    """The detector in a file; `device` is one of `--device`. Raises UserError: one sentence naming file and finding.

    `precision` fast has a network of torch run in a CPU's bfloat16, where its boxes are off by some pixels; onnxruntime
    and GPUs run exactly.
    """
    path = Path(path)
    data = _content(path)  # once: what is checked is what is read
    identity = f"{path.name}@{hashlib.sha256(data).hexdigest()[:12]}"
    if path.suffix.lower() == ".onnx":
        return Detector(path, identity, _OnnxBackend(path, data, device))
    try:
        network = read_network(path) if path.suffix.lower() == ".safetensors" else _network_of(path, data)
        return Detector(path, identity, _TorchBackend(network, device, precision))
    except UnfitError as error:
        raise UserError(f"{path} cannot be used as a detector: {error}. {_advice(path)}") from error


def _network_of(path: Path, data: bytes) -> Network:
    """The network in a checkpoint, after a look at all that it would import. Raises UserError."""
    report = inspect_bytes(data)
    _demand_safe(path, report)
    network = find_network(read_checkpoint(io.BytesIO(data), report, str(path)))
    if network is None:
        raise UnfitError("it holds no network of yolov5-face or ultralytics")
    return network


def _demand_safe(path: Path, report: Report) -> None:
    if report.safety is not Safety.SAFE:
        raise UserError(f"{path} is not loaded, nothing of it has run: {report.finding()}. {_advice(path)}")


def _advice(path: Path) -> str:
    return f"To see what it holds: {how_to_inspect(str(path))}"


class _TorchBackend:
    """A network of torch."""

    fixed_hw = fixed_batch = None

    def __init__(self, network: Network, device: str, precision: str):
        self._torch = import_torch()
        self.device = "cuda:0" if device in ("auto", "cuda") and self._torch.cuda.is_available() else "cpu"
        self._module = network.build()
        if network.family != FACE_LAYOUT:
            self._module.fuse(verbose=False)  # batch norms go into the convolutions, as in ultralytics' own predict
        # on CPUs a quarter less time (YOLOv8n, one thread), with the same numbers but for their last digits
        self._module.to(self.device, memory_format=self._torch.channels_last)
        self._in_bfloat16 = precision == FAST and self.device == "cpu"
        self.stride = int(max(self._strides()))
        self.output = _output_of(network, self._module)
        self._try()

    def _strides(self) -> Any:
        return self._module.model[-1].stride

    def run(self, batch: np.ndarray) -> np.ndarray:
        pictures = self._torch.from_numpy(batch).to(self.device, memory_format=self._torch.channels_last)
        fast = self._torch.autocast("cpu", self._torch.bfloat16, enabled=self._in_bfloat16)
        with self._torch.inference_mode(), fast:
            numbers = self._module(pictures)
        numbers = numbers[0] if isinstance(numbers, (tuple, list)) else numbers
        return numbers.float().cpu().numpy()

    def _try(self) -> None:
        """Find out now, not at the first picture, that the layers do not fit together. Raises UnfitError."""
        try:
            numbers = self.run(np.zeros((1, 3, self.stride, self.stride), np.float32))
        except (RuntimeError, AttributeError, TypeError, IndexError, ValueError) as error:
            raise UnfitError(f"its layers do not fit together ({str(error).splitlines()[0]})") from error
        _check_shape(self.output, numbers.shape)


def _output_of(network: Network, module: Any) -> Output:
    if network.family == FACE_LAYOUT:
        head = module.model[-1]
        names = [*network.architecture.get("names", ()), *(str(i) for i in range(head.nc))][: head.nc]
        return Output(FACE_LAYOUT, names, _FACE_POINTS)
    names = list(network.architecture["names"].values()) or list(module.names.values())
    count, size = getattr(module, "kpt_shape", (0, 2))
    finished = getattr(module, "end2end", False)
    return Output(FINISHED_LAYOUT if finished else YOLO_LAYOUT, names, int(count), int(size))


def _check_shape(output: Output, shape: tuple) -> None:
    """Raises UnfitError where numbers of this shape (B, ...) cannot be in the layout."""
    points = output.keypoints * output.keypoint_size
    width = {
        FACE_LAYOUT: 5 + points + len(output.names),
        YOLO_LAYOUT: 4 + len(output.names) + points,
        FINISHED_LAYOUT: 6 + points,
    }[output.layout]
    axis = 1 if output.layout == YOLO_LAYOUT else 2
    if len(shape) != 3 or (isinstance(shape[axis], int) and shape[axis] != width):
        raise UnfitError(f"its output has the shape {list(shape)}, and {width} numbers for each box are expected")


class _OnnxBackend:
    """A network of onnxruntime."""

    def __init__(self, path: Path, data: bytes, device: str):
        self._session = open_session(path, data, device)
        self.device = self._session.get_providers()[0]
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
            raise UserError(f"{path} takes {inputs[0].type} {shape}, and (B, 3, H, W) float32 is expected.")
        self._input = inputs[0].name
        self.fixed_batch = shape[0] if isinstance(shape[0], int) else None
        self.fixed_hw = tuple(shape[2:]) if all(isinstance(edge, int) for edge in shape[2:]) else None
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.stride, self.output = _read_metadata(metadata, outputs[0].shape)
            _check_shape(self.output, tuple(outputs[0].shape))
            self._refuse_shares()
        except UnfitError as error:
            raise UserError(f"{path} cannot be used as a detector: {error}.") from error

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: batch})[0]

    def _refuse_shares(self) -> None:
        """Exports of RT-DETR can have the width of those without NMS. Raises UnfitError.

        That is those of two classes (cx, cy, w, h, and a score for each class), and those of ultralytics since 8.4 (cx,
        cy, w, h, score, class). Older files do not name their head; but their boxes are shares of the picture, between
        0 and 1, and they always give some.
        """
        if self.output.layout != FINISHED_LAYOUT:
            return
        height, width = self.fixed_hw or (DETECTION_SIZE, DETECTION_SIZE)
        boxes = self.run(np.full((self.fixed_batch or 1, 3, height, width), 0.5, np.float32))[0, :, :4]
        if np.any(boxes > 0) and np.all((boxes >= 0) & (boxes <= 1)):
            raise UnfitError(_RT_DETR)


def _read_metadata(metadata: dict[str, str], shape: list) -> tuple[int, Output]:
    """(stride, how to read the output) of an export; `shape` as the file says it, with names for what is free."""
    if "task" not in metadata:
        width = shape[-1] if len(shape) == 3 else None
        classes = width - 5 - 2 * _FACE_POINTS if isinstance(width, int) else 1
        if len(shape) != 3 or not 1 <= classes <= 100:
            raise UnfitError(f"its output {shape} is neither of yolov5-face nor, having no metadata, of ultralytics")
        return 64, Output(FACE_LAYOUT, ["face"] if classes == 1 else [str(i) for i in range(classes)], _FACE_POINTS)
    if metadata["task"] not in ("detect", "pose"):
        raise UnfitError(f"it is made for the task {metadata['task']}, and only detect and pose are used here")
    try:
        names = ast.literal_eval(metadata["names"])
        count, size = ast.literal_eval(metadata.get("kpt_shape", "(0, 2)"))
        stride = int(float(metadata.get("stride", "32")))
        names = [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        raise UnfitError(f"its metadata is damaged ({error})") from error
    if "RTDETR" in metadata.get("head", "") or metadata.get("description", "").startswith("Ultralytics rtdetr"):
        raise UnfitError(_RT_DETR)
    finished = shape[-1] == 6 + count * size
    return stride, Output(FINISHED_LAYOUT if finished else YOLO_LAYOUT, names, count, size)
