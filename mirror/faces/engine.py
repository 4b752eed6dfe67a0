"""The face engine: one picture in, its largest face measured.

InsightFace's model classes do the work (detection, ArcFace alignment and embedding, 3-D landmarks with pose, age); what
is ours is which of them run, on what, and how many at once. Sessions are shared by threads: `measure` may be called
from as many threads as there are cores, each network then runs on its caller's thread alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mirror.detectors.engines import DEFAULT, EXACT, GPU_NAMES, OPENVINO, Engine
from mirror.detectors.openvino_session import OpenVinoError, OpenVinoSession
from mirror.detectors.providers import safe_for_threads, session_options
from mirror.faces.finding import DETECTION_THRESHOLD, FaceFinder, Faces
from mirror.faces.metrics import unit
from mirror.faces.pose import angles_from_keypoints
from utils.console import UserError
from utils.defaults import DETECTION_SIZE
from utils.files import Status

TURN_THE_FILE = "measured turned"
PADDED, NO_FACE = "Rescued via padding", "no face found, not in a second look either"
# Faces beside the largest one are measured too, from this share of its area on, so that another one can be chosen.
OTHER_FACE_SHARE, MOST_OTHERS = 0.04, 9

# Needed networks. The 2-D landmark model of the larger packs is never run: nothing here uses its points.
DETECTION, RECOGNITION, POSE, AGE = "detection", "recognition", "landmark_3d_68", "genderage"

# Raise when the numbers of a measurement change for the same picture and pack: cached rows are then measured anew.
MEASUREMENT_VERSION = 6

Points = tuple[tuple[float, float], ...]  # x, y in pixels


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
    turned_deg: int = 0  # clockwise: how the picture was turned to measure the face upright
    found: str = ""  # in words, where the face was not found at once
    note: str = ""  # what is wrong with the file, though it could be decoded
    # In pixels of the original picture, as the face is upright: left eye, right eye, nose tip, mouth corners (as seen).
    keypoints: Points | None = None
    landmarks: Points | None = None  # 68, in the order of iBUG 300-W (Sagonas et al. 2013); None: the pack has none
    others: tuple[FaceMeasurement, ...] = ()  # further faces of the same picture, largest first

    @property
    def reason(self) -> str:
        """What there is to say of it, in words; empty for a face that was found at once in a healthy file."""
        said = NO_FACE if self.status == Status.NO_FACE else self.found
        return "; ".join(filter(None, (said, self.note)))

    @property
    def aspect_ratio(self) -> float | None:
        """Width of the face box by its height, of the head as it is upright."""
        if self.box_xyxy is None:
            return None
        left, top, right, bottom = self.box_xyxy
        wide, high = right - left, bottom - top
        return high / wide if self.turned_deg in (90, 270) else wide / high


class FaceEngine:
    """The networks of one pack, loaded. Raises UserError where the pack cannot be used.

    `meanwhile` runs in a thread beside the loading, which leaves Python's own thread idle for most of its time.
    With `smallest_face` (pixels, the longer side of its box) every face from that size on is measured, however large
    the largest one is, and pictures that are too large to show such faces at the usual size are looked at once more.
    """

    def __init__(
        self,
        pack_folder: Path,
        device: str = "auto",
        detection_size: int = DETECTION_SIZE,
        meanwhile: Callable[[], object] | None = None,
        smallest_face: float | None = None,
        engine: Engine = DEFAULT,
    ):
        self.detection_size = detection_size
        self._smallest_face = smallest_face
        self._models = _load_models(pack_folder, device, meanwhile or (lambda: None), engine)
        _demand(engine, [model.session for model in self._models.values()])
        try:
            self._finder = FaceFinder(self._models[DETECTION], detection_size, _example())
        except Exception as error:  # onnxruntime says in many ways that a network does not run
            raise UserError(f"The face detector in {pack_folder} does not run ({error}).") from error
        self.tasks = sorted(self._models)

    @property
    def provider(self) -> str:
        """The execution provider that the sessions really run on; two names joined by + where they differ."""
        sessions = [model.session for model in self._models.values()]
        return "+".join(sorted({session.get_providers()[0] for session in sessions}))

    def measure(self, image: np.ndarray) -> FaceMeasurement:
        """The largest face of `image` (H, W, 3) uint8 BGR, found as mirror.faces.finding says; `others` beside it."""
        faces = self._finder.find(image, self._smallest_face)
        if not len(faces):
            return FaceMeasurement(Status.NO_FACE, 0, self.provider, (image.shape[1], image.shape[0]))
        largest, *others = _faces_apart(faces, self._smallest_face)
        measured = self._measure_face(faces, largest, (image.shape[1], image.shape[0]))
        return replace(measured, others=tuple(self._measure_face(faces, i, measured.size_wh) for i in others))

    def _measure_face(self, faces: Faces, index: int, size_wh: tuple[int, int]) -> FaceMeasurement:
        from insightface.app.common import Face

        box, keypoints = faces.boxes[index], faces.keypoints[index]
        face = Face(bbox=box[:4], kps=keypoints, det_score=box[4])
        self._models[RECOGNITION].get(faces.image, face)
        if AGE in self._models:
            self._models[AGE].get(faces.image, face)
        if POSE in self._models:
            self._models[POSE].get(faces.image, face)
            pitch, yaw, roll = (float(angle) for angle in face["pose"])
        else:
            yaw, pitch, roll = angles_from_keypoints(keypoints)
        return FaceMeasurement(
            status=_status_of(faces),
            faces=len(faces),
            provider=self.provider,
            size_wh=size_wh,
            box_xyxy=faces.in_original(box[:4]),
            det_score=float(box[4]),
            age=float(face["age"]) if AGE in self._models else None,
            yaw_deg=yaw,
            pitch_deg=pitch,
            roll_deg=(roll - faces.turned_deg + 180) % 360 - 180,
            embedding=unit(face["embedding"]).astype(np.float32),
            second_face_share=second_face_share(faces.boxes[:, :4], faces.largest),
            turned_deg=faces.turned_deg,
            found=_words_for(faces),
            keypoints=_rounded(faces.points_in_original(keypoints)),
            landmarks=_rounded(faces.points_in_original(face[POSE][:, :2])) if POSE in self._models else None,
        )


def _rounded(points: np.ndarray) -> Points:
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in points)


def _status_of(faces: Faces) -> Status:
    if faces.turned_deg:
        return Status.ROTATED
    return Status.RESCUED if faces.padded or faces.enlarged_to else Status.OK


def _words_for(faces: Faces) -> str:
    """How the faces were found, where it was not at once."""
    said = []
    if faces.turned_deg:
        way = {90: "90° clockwise", 180: "180°", 270: "90° counterclockwise"}[faces.turned_deg]
        said.append(f"{TURN_THE_FILE} by {way}; turn the file itself")
    if faces.padded:
        said.append(PADDED)
    if faces.enlarged_to:
        said.append(f"Rescued at {faces.enlarged_to} pixels: the face is small")
    return "; ".join(said)


def _faces_apart(faces: Faces, smallest_face: float | None = None) -> list[int]:
    """Indices of the largest face, then of others that are worth measuring, by area.

    All from `smallest_face` pixels on, else the largest few.
    """
    boxes = faces.boxes[:, :4]
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas, centres = sizes.prod(axis=1), boxes[:, :2] + sizes / 2
    chosen = [faces.largest]
    for i in np.argsort(-areas):
        inside = any(((centres[i] >= boxes[j, :2]) & (centres[i] <= boxes[j, 2:])).all() for j in chosen)
        if smallest_face is None:
            is_worth_it = areas[i] >= OTHER_FACE_SHARE * areas[faces.largest]
        else:
            is_worth_it = sizes[i].max() >= smallest_face
        if not inside and is_worth_it:
            chosen.append(int(i))
    return chosen if smallest_face is not None else chosen[: 1 + MOST_OTHERS]


def second_face_share(boxes_xyxy: np.ndarray, largest: int | None = None) -> float | None:
    """Area of the second largest face by that of the largest, of boxes (N, 4); None where there is no second one.

    `largest` is the index of the face that counts as such (default: by area). A box whose centre lies inside it is a
    second hit on the same head, not a second face.
    """
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    areas = sizes[:, 0] * sizes[:, 1]
    largest = int(areas.argmax()) if largest is None else largest
    main = boxes_xyxy[largest]
    centres = boxes_xyxy[:, :2] + sizes / 2
    apart = ~((centres >= main[:2]) & (centres <= main[2:])).all(axis=1)
    return float(areas[apart].max() / areas[largest]) if apart.any() else None


def settings_key(detection_size: int, smallest_face: float | None = None, engine: Engine = DEFAULT) -> str:
    """Everything beside picture and pack that decides the numbers; part of every cache key."""
    from importlib.metadata import version

    every = "" if smallest_face is None else f"-every{smallest_face:g}"
    known = f"m{MEASUREMENT_VERSION}-det{detection_size}-thr{DETECTION_THRESHOLD}"
    return f"{known}-insightface{version('insightface')}{every}{engine.key}"


def _example() -> np.ndarray:
    """Six upright faces, (H, W, 3) BGR: the picture that InsightFace ships to try its packs with."""
    from insightface.data import get_image

    return get_image("t1")


def _load_models(pack_folder: Path, device: str, meanwhile: Callable[[], object], engine: Engine) -> dict:
    """InsightFace's model objects by task. Raises UserError naming what is wrong with the pack."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    # OpenCV's own threads would fight with the callers, too: each picture stays on its caller's thread
    cv2.setNumThreads(1)

    def how() -> dict:
        """For each file anew: CoreML changes the options of a session."""
        providers, options = session_options(engine.gpu or device)
        # one thread for each network call: callers run one call a core, which beats many threads in one call
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # one detector session for all shapes of pictures: one each, which is InsightFace's default, would take memory
        return {"providers": providers, "sess_options": options, "static_shape_sessions": False}

    # onnxruntime prints to stdout that a GPU does not start, where only results belong
    with ThreadPoolExecutor(1) as beside, redirect_stdout(sys.stderr):
        import insightface.app  # noqa: F401 - whole, before another thread imports what it shares with it

        waiting = beside.submit(meanwhile)
        models = _models_by_task(pack_folder, engine, how)
        waiting.result()
    if DETECTION not in models:
        raise UserError(f"{pack_folder} holds no face detector: it is no model pack.")
    if RECOGNITION not in models:
        raise UserError(f"{pack_folder} holds no recognition model (ArcFace): similarity cannot be measured with it.")
    if not models[DETECTION].use_kps:
        raise UserError(f"The detector in {pack_folder} finds no keypoints: faces cannot be aligned with it.")
    return models


def _demand(engine: Engine, sessions: list[Any]) -> None:
    """Raises UserError where the chosen GPU does not run all networks: what it measured is kept under its name."""
    if not engine.gpu:
        return
    elsewhere = {session.get_providers()[0] for session in sessions} & {"CPUExecutionProvider"}
    if elsewhere:
        raise UserError(
            f"{GPU_NAMES[engine.gpu]} does not start here, so nothing was measured: update the graphics driver, "
            "or take --device cpu."
        )
    for session in sessions:
        if hasattr(session, "disable_fallback"):
            session.disable_fallback()  # else onnxruntime goes on with the CPU in silence after an error


def _models_by_task(folder: Path, engine: Engine, how: Callable[[], dict]) -> dict:
    """The needed models of a pack, with options of `how`. Raises UserError naming a file that cannot be loaded.

    Packs with a manifest are read by InsightFace's FaceAnalysis. Plain ones are read file by file, the first of a kind
    wins, which is what FaceAnalysis does as well; but it looks for the files with a pattern, in which [brackets] of a
    folder's name mean something else.
    """
    from insightface.app import FaceAnalysis
    from insightface.model_zoo import get_model, has_model_package_manifest

    needed = (DETECTION, RECOGNITION, POSE, AGE)

    def load(path: Path) -> object:
        try:
            model = _with_openvino(path, engine) if engine.name == OPENVINO else None
            return model or _guarded(get_model(str(path), **how()))
        except OpenVinoError:
            raise
        except Exception as error:  # onnx, protobuf and onnxruntime each have their own way to refuse a damaged file
            advice = "If the file is damaged, fetch it again."
            raise UserError(f"The model {path} cannot be loaded ({error}). {advice}") from error

    if has_model_package_manifest(str(folder)):
        try:
            models = FaceAnalysis(name=str(folder), allowed_modules=list(needed), **how()).models
            for model in models.values():
                is_detector = model.taskname == DETECTION
                session = _openvino_session(Path(model.model_file), engine, is_detector)
                model.session = session or safe_for_threads(model.session)
            return models
        except OpenVinoError:
            raise
        except Exception as error:  # as above, or its manifest is not what it should be
            raise UserError(f"The pack {folder} cannot be loaded ({error}).") from error
    models: dict = {}
    with ThreadPoolExecutor() as pool:  # reading and preparing 300 MB takes seconds, most of them outside Python
        for model in pool.map(load, sorted(folder.glob("*.onnx"))):
            if getattr(model, "taskname", None) in needed:  # a face swapper has none
                models.setdefault(model.taskname, model)
    return models


def _guarded(model: Any) -> Any:
    """The same model of InsightFace (None stays None), whose session several threads may call."""
    if getattr(model, "session", None) is not None:
        model.session = safe_for_threads(model.session)
    return model


def _openvino_session(path: Path, engine: Engine, is_detector: bool) -> OpenVinoSession | None:
    """None where onnxruntime runs the file.

    A detector stays exact, as its keypoints are off by pixels in bfloat16: embeddings would differ by cosines of 0.96.
    On a CPU onnxruntime runs it as fast; a GPU is not left for it.
    """
    if engine.name != OPENVINO or (is_detector and engine.precision != EXACT and not engine.gpu):
        return None
    return OpenVinoSession(path, EXACT if is_detector else engine.precision, "GPU" if engine.gpu else "CPU")


def _with_openvino(path: Path, engine: Engine) -> object | None:
    """InsightFace's object for a file, told apart as its own router does, with a session of OpenVINO.

    None: it is no network that is needed, or onnxruntime runs it.
    """
    from insightface.model_zoo import SCRFD
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    from insightface.model_zoo.attribute import Attribute
    from insightface.model_zoo.landmark import Landmark

    inputs, outputs, high, wide = _facts_of(path)
    if inputs != 1:
        return None  # a face swapper, say
    if outputs >= 5:
        session = _openvino_session(path, engine, is_detector=True)
        return None if session is None else SCRFD(str(path), session, static_shape_sessions=False)
    if high != wide or high < 96 or high % 16:
        return None
    kind = {192: Landmark, 96: Attribute}.get(high, ArcFaceONNX)
    return kind(str(path), _openvino_session(path, engine, is_detector=False))


def _facts_of(path: Path) -> tuple[int, int, int, int]:
    """Numbers of inputs and outputs, height and width of the first input (0 where they may vary); reads no weights."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    high, wide = (side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[2:4])
    kept = {one.name for one in graph.initializer}
    return sum(one.name not in kept for one in graph.input), len(graph.output), high, wide
