"""The face engine: one picture in, its largest face measured.

InsightFace's model classes do the work (detection, ArcFace alignment and embedding, 3-D landmarks with pose, age); what
is ours is which of them run, on what, and how many at once. Sessions are shared by threads: `measure` may be called
from as many threads as there are cores, each network then runs on its caller's thread alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mirror.detectors.providers import wanted_providers
from mirror.faces.metrics import unit
from mirror.faces.pose import angles_from_keypoints
from utils.console import UserError
from utils.defaults import DETECTION_SIZE
from utils.files import Status

DETECTION_THRESHOLD = 0.5  # InsightFace's own default
RESCUE_PADDING = 0.40  # black border on each side, as a share of that side, as documented
RESCUED, NO_FACE = "Rescued via padding", "no face found, with black padding neither"

# Needed networks. The 2-D landmark model of the larger packs is never run: nothing here uses its points.
DETECTION, RECOGNITION, POSE, AGE = "detection", "recognition", "landmark_3d_68", "genderage"

# Raise when the numbers of a measurement change for the same picture and pack: cached rows are then measured anew.
MEASUREMENT_VERSION = 3


@dataclass(frozen=True)
class FaceMeasurement:
    """What is known of one picture. What has a default is None where no face was found."""

    status: Status
    faces: int
    provider: str  # onnxruntime execution provider of the sessions that measured
    size_wh: tuple[int, int]  # pixels of the picture
    box_xyxy: tuple[float, float, float, float] | None = None  # pixels of the original picture
    det_score: float | None = None
    age: float | None = None  # years
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    embedding: np.ndarray | None = None  # (D,) float32, unit norm
    second_face_share: float | None = None  # see `second_face_share`
    note: str = ""  # what is wrong with the file, though it could be decoded

    @property
    def reason(self) -> str:
        """What there is to say of it, in words; empty for a face that was found at once in a healthy file."""
        said = {Status.RESCUED: RESCUED, Status.NO_FACE: NO_FACE}.get(self.status)
        return "; ".join(filter(None, (said, self.note)))

    @property
    def aspect_ratio(self) -> float | None:
        """Width of the face box by its height."""
        if self.box_xyxy is None:
            return None
        left, top, right, bottom = self.box_xyxy
        return (right - left) / (bottom - top)


class FaceEngine:
    """The networks of one pack, loaded. Raises UserError where the pack cannot be used.

    `meanwhile` runs in a thread beside the loading, which leaves Python's own thread idle for most of its time.
    """

    def __init__(
        self,
        pack_folder: Path,
        device: str = "auto",
        detection_size: int = DETECTION_SIZE,
        meanwhile: Callable[[], object] | None = None,
    ):
        self.detection_size = detection_size
        self._models = _load_models(pack_folder, device, detection_size, meanwhile or (lambda: None))
        self.tasks = sorted(self._models)

    @property
    def provider(self) -> str:
        """The execution provider that the sessions really run on; two names joined by + where they differ."""
        sessions = [model.session for model in self._models.values()]
        sessions += self._models[DETECTION].resolution_sessions.values()
        return "+".join(sorted({session.get_providers()[0] for session in sessions}))

    def measure(self, image: np.ndarray) -> FaceMeasurement:
        """The largest face of `image` (H, W, 3) uint8 BGR, as found at once or after black padding."""
        status = Status.OK
        boxes, keypoints = self._detect(image)
        if not len(boxes):
            status = Status.RESCUED
            boxes, keypoints = self._detect_padded(image)
        if not len(boxes):
            return FaceMeasurement(Status.NO_FACE, 0, self.provider, (image.shape[1], image.shape[0]))
        return self._measure_face(image, boxes, keypoints, status)

    def _measure_face(
        self, image: np.ndarray, boxes: np.ndarray, all_keypoints: np.ndarray, status: Status
    ) -> FaceMeasurement:
        """The largest of the faces with `boxes` (N, 5) and `all_keypoints` (N, 5, 2), N >= 1."""
        from insightface.app.common import Face

        sizes = boxes[:, 2:4] - boxes[:, 0:2]
        largest = int((sizes[:, 0] * sizes[:, 1]).argmax())
        box, keypoints = boxes[largest], all_keypoints[largest]
        face = Face(bbox=box[:4], kps=keypoints, det_score=box[4])
        self._models[RECOGNITION].get(image, face)
        if AGE in self._models:
            self._models[AGE].get(image, face)
        if POSE in self._models:
            self._models[POSE].get(image, face)
            pitch, yaw, roll = (float(angle) for angle in face["pose"])
        else:
            yaw, pitch, roll = angles_from_keypoints(keypoints)
        return FaceMeasurement(
            status=status,
            faces=len(boxes),
            provider=self.provider,
            size_wh=(image.shape[1], image.shape[0]),
            box_xyxy=tuple(float(edge) for edge in box[:4]),
            det_score=float(box[4]),
            age=float(face["age"]) if AGE in self._models else None,
            yaw_deg=yaw,
            pitch_deg=pitch,
            roll_deg=roll,
            second_face_share=second_face_share(boxes[:, :4]),
            embedding=unit(face["embedding"]).astype(np.float32),
        )

    def _detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 5) x1 y1 x2 y2 score, and keypoints (N, 5, 2), in pixels of `image`."""
        height, width = image.shape[:2]
        if min(height, width) * self.detection_size < max(height, width):
            return _nothing()  # shrunk to the detector's input, less than one pixel is left of the short side
        return _run_detector(self._models[DETECTION], image, self.detection_size)

    def _detect_padded(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`_detect` with a black border of RESCUE_PADDING around the picture; results in original coordinates.

        The picture is drawn into the detector's input at once: a border around the full-size picture would cost three
        times its memory and then be shrunk to the same.
        """
        height, width = image.shape[:2]
        scale = self.detection_size / ((1 + 2 * RESCUE_PADDING) * max(height, width))
        inner_w, inner_h = round(width * scale), round(height * scale)
        if min(inner_w, inner_h) < 1:
            return _nothing()
        left, top = round(RESCUE_PADDING * inner_w), round(RESCUE_PADDING * inner_h)
        canvas = np.zeros((self.detection_size, self.detection_size, 3), np.uint8)
        canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h))
        boxes, keypoints = self._detect(canvas)
        stretch = np.array([width / inner_w, height / inner_h], np.float32)
        corner = np.array([left, top], np.float32)
        boxes = boxes.copy()
        boxes[:, 0:2] = (boxes[:, 0:2] - corner) * stretch
        boxes[:, 2:4] = (boxes[:, 2:4] - corner) * stretch
        return boxes, (keypoints - corner) * stretch


def second_face_share(boxes_xyxy: np.ndarray) -> float | None:
    """Area of the second largest face by that of the largest, of boxes (N, 4); None where there is no second one.

    A box whose centre lies inside the largest is a second hit on the same head, not a second face.
    """
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    areas = sizes[:, 0] * sizes[:, 1]
    main = boxes_xyxy[areas.argmax()]
    centres = boxes_xyxy[:, :2] + sizes / 2
    apart = ~((centres >= main[:2]) & (centres <= main[2:])).all(axis=1)
    return float(areas[apart].max() / areas.max()) if apart.any() else None


def settings_key(detection_size: int) -> str:
    """Everything beside picture and pack that decides the numbers; part of every cache key."""
    from importlib.metadata import version

    return f"m{MEASUREMENT_VERSION}-det{detection_size}-thr{DETECTION_THRESHOLD}-insightface{version('insightface')}"


def _run_detector(model: object, image: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    return model.detect(image, input_size=(size, size), det_thresh=DETECTION_THRESHOLD)


def _load_models(pack_folder: Path, device: str, detection_size: int, meanwhile: Callable[[], object]) -> dict:
    """InsightFace's model objects by task. Raises UserError naming what is wrong with the pack."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings about graph details mean nothing to users
    onnxruntime.disable_telemetry_events()  # nothing leaves the machine
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    # OpenCV's own threads would fight with the callers, too: each picture stays on its caller's thread
    cv2.setNumThreads(1)
    options = onnxruntime.SessionOptions()
    # One thread for each network call: callers run one call a core, which beats many threads in one call, and threads
    # that spin while they wait steal the cores of the other networks (benchmarks/mirror_metrics_bench.py).
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    providers = wanted_providers(device, onnxruntime.get_available_providers())
    with ThreadPoolExecutor(1) as beside:
        import insightface.app  # noqa: F401 - whole, before another thread imports what it shares with it

        waiting = beside.submit(meanwhile)
        models = _models_by_task(pack_folder, detection_size, providers=providers, sess_options=options)
        waiting.result()
    if DETECTION not in models:
        raise UserError(f"{pack_folder} holds no face detector: it is no model pack.")
    if RECOGNITION not in models:
        raise UserError(f"{pack_folder} holds no recognition model (ArcFace): similarity cannot be measured with it.")
    if not models[DETECTION].use_kps:
        raise UserError(f"The detector in {pack_folder} finds no keypoints: faces cannot be aligned with it.")
    return models


def _models_by_task(folder: Path, detection_size: int, **options: object) -> dict:
    """The needed models of a pack. Raises UserError naming a file that cannot be loaded.

    Packs with a manifest are read by InsightFace's FaceAnalysis. Plain ones are read file by file, the first of a kind
    wins, which is what FaceAnalysis does as well; but it looks for the files with a pattern, in which [brackets] of a
    folder's name mean something else.
    """
    from insightface.app import FaceAnalysis
    from insightface.model_zoo import get_model, has_model_package_manifest

    needed = (DETECTION, RECOGNITION, POSE, AGE)

    def started(model: object) -> object:
        # the detector makes a session of its own for each input size; make it now, so that its provider counts too
        if getattr(model, "taskname", None) == DETECTION:
            _run_detector(model, np.zeros((detection_size, detection_size, 3), np.uint8), detection_size)
        return model

    def load(path: Path) -> object:
        try:
            return started(get_model(str(path), **options))
        except Exception as error:  # onnx, protobuf and onnxruntime each have their own way to refuse a damaged file
            advice = "If the file is damaged, fetch it again."
            raise UserError(f"The model {path} cannot be loaded ({error}). {advice}") from error

    if has_model_package_manifest(str(folder)):
        try:
            models = FaceAnalysis(name=str(folder), allowed_modules=list(needed), **options).models
            return {task: started(model) for task, model in models.items()}
        except Exception as error:  # as above, or its manifest is not what it should be
            raise UserError(f"The pack {folder} cannot be loaded ({error}).") from error
    models: dict = {}
    with ThreadPoolExecutor() as pool:  # reading and preparing 300 MB takes seconds, most of them outside Python
        for model in pool.map(load, sorted(folder.glob("*.onnx"))):
            if model is not None and model.taskname in needed:
                models.setdefault(model.taskname, model)
    return models


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)
