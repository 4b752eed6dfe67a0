"""Many pictures measured with one pack: from the cache where it can, else by one worker a core."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mirror.contracts.generation import Origin
from mirror.contracts.summary import PackInfo, group_label
from mirror.detectors.engines import DEFAULT, Engine
from mirror.detectors.providers import CUDA
from mirror.faces.cache import FaceCache
from mirror.faces.engine import AGE, POSE, FaceEngine, FaceMeasurement, settings_key
from mirror.faces.looking import look_at
from mirror.faces.packs import Pack
from utils.console import UserError, say
from utils.defaults import DETECTION_SIZE, MAX_MEGAPIXELS
from utils.files import Status
from utils.images import check_size, preview, thumbnail
from utils.progress import GroupProgress

_AGAIN = "\N{ANTICLOCKWISE DOWNWARDS AND UPWARDS OPEN CIRCLE ARROWS}"  # as documented
GPU_ADVICE = "docs/troubleshooting.md says how onnxruntime gets a GPU."


@dataclass
class Picture:
    """One input file and what became of it."""

    type: str  # mirror.contracts.REFERENCE or CANDIDATE
    group: str
    filename: str  # relative to the group's folder, forward slashes
    path: Path
    status: Status | None = None  # None until it was looked at
    reason: str = ""  # in words, where the status is not ok
    face: FaceMeasurement | None = None
    thumbnail: bytes | None = None
    preview: bytes | None = None  # larger, where few pictures are measured
    beside: bytes | None = None  # what Measurer.measure was asked to measure too
    origin: Origin | None = None  # how it was made, where that is written down

    @property
    def measured(self) -> bool:
        """Whether there is an embedding to compare."""
        return self.status is not None and self.status.measured


@dataclass(frozen=True)
class Beside:
    """What else is measured of a picture (H, W, 3) BGR while it is decoded for its face.

    It is kept under a `kind` of its own; a new one when the numbers change.
    """

    kind: str
    measure: Callable[[np.ndarray, FaceMeasurement], bytes]


def missed_cuda(device: str, providers: Collection[str]) -> str | None:
    """The sentence for networks that ran elsewhere, on `providers`, though `device` is cuda; None where all is well."""
    others = sorted(set(providers) - {CUDA})
    if device != "cuda" or not others:
        return None
    return f"--device cuda was asked for, but {' and '.join(others)} measured. {GPU_ADVICE}"


def embeddings_of(pictures: list[Picture]) -> np.ndarray:
    """(len(pictures), D) float32, NaN without a face; D is 1 where there is none at all."""
    length = next((len(picture.face.embedding) for picture in pictures if picture.measured), 1)
    embeddings = np.full((len(pictures), length), np.nan, np.float32)
    for row, picture in zip(embeddings, pictures, strict=True):
        if picture.measured:
            row[:] = picture.face.embedding
    return embeddings


class Measurer:
    """Measures pictures with one pack; the networks load when the first picture needs them.

    `device` is a value of `--device`. With `require_gpu` UserError is raised unless the networks really run on CUDA,
    and measurements that another provider made before do not count. `while_loading` is called while the networks load.
    With `previews` each picture is kept as a larger JPEG too; pictures measured without it before have none.
    With `smallest_face` (pixels) every face from that size on is measured, see mirror.faces.engine. `runs_on` is the
    engine, as chosen.
    """

    def __init__(
        self,
        pack: Pack,
        cache: FaceCache,
        device: str = "auto",
        detection_size: int = DETECTION_SIZE,
        max_megapixels: float = MAX_MEGAPIXELS,
        require_gpu: bool = False,
        while_loading: Callable[[], object] | None = None,
        previews: bool = False,
        smallest_face: float | None = None,
        engine: Engine = DEFAULT,
    ):
        self._pack = pack
        self._while_loading = while_loading
        self.cache = cache
        self._device = device
        self._detection_size = detection_size
        self.max_megapixels = max_megapixels
        self._require_gpu = require_gpu
        self._previews = previews
        self._beside: Beside | None = None
        self._engine: FaceEngine | None = None
        self._loading = threading.Lock()
        self.load_seconds = 0.0  # spent on loading the networks
        self._smallest_face = smallest_face
        self.runs_on = engine
        self._settings = settings_key(detection_size, smallest_face, engine)
        if engine.said:
            say(f"Note: {engine.said}")
        self.identity = pack.identity(cache.hash_file)

    def engine(self) -> FaceEngine:
        """The loaded networks. Raises UserError where they cannot be used as asked."""
        with self._loading:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    def _load(self) -> FaceEngine:
        started = time.monotonic()
        engine = FaceEngine(
            self._pack.folder,
            self._device,
            self._detection_size,
            self._while_loading,
            self._smallest_face,
            self.runs_on,
        )
        self.load_seconds = time.monotonic() - started
        say(f"Networks: {', '.join(engine.tasks)} on {engine.provider}")
        if engine.provider != CUDA and self._require_gpu:
            raise UserError(f"--require-gpu: the networks run on {engine.provider}, not on CUDA. {GPU_ADVICE}")
        self.cache.put_blob("tasks", self.identity, ",".join(engine.tasks).encode())
        return engine

    def pack_info(self) -> PackInfo:
        """Who measures, for every result file."""
        kept = self.cache.get_blob("tasks", self.identity)
        tasks = kept.decode().split(",") if kept else self.engine().tasks
        return PackInfo(
            name=self._pack.name,
            identity=self.identity,
            tasks=tasks,
            licence=self._pack.licence(),
            pose_source="landmark_3d_68" if POSE in tasks else "keypoints",
            has_age=AGE in tasks,
        )

    def measure(self, pictures: list[Picture], beside: Beside | None = None) -> None:
        """Fill in every picture, whatever happens to single ones. Ctrl-C keeps what was measured in the cache.

        `beside` is measured of each as well; a picture whose face alone is known is decoded again, and no network runs.
        """
        if self._require_gpu:
            self.engine()
        self._beside = beside
        look_at(pictures, self)

    def measure_image(self, content: str, image: np.ndarray, note: str = "") -> FaceMeasurement:
        """The face of one decoded picture, whose bytes have the hash `content`; kept for the next time.

        `note` is what decoding found wrong with the file.
        """
        face = replace(self.engine().measure(image), note=note)
        self.cache.put_face(content, self.identity, self._settings, face)
        return face

    def known_face(self, content: str) -> FaceMeasurement | None:
        """What this pack measured before in a picture of this content."""
        return self.cache.get_face(content, self.identity, self._settings, CUDA if self._require_gpu else None)

    def face_of(self, content: str, image: np.ndarray, note: str) -> FaceMeasurement:
        """What was measured before, else what `measure_image` finds."""
        return self.known_face(content) or self.measure_image(content, image, note)

    # What the engine looks with, see mirror.faces.looking.Looker.

    def label(self, picture: Picture) -> str:
        return group_label(picture.type, picture.group)

    def recall(self, picture: Picture, content: str) -> bool:
        face = self.known_face(content)
        small = self.cache.get_blob("thumbnail", content)
        beside = self.cache.get_blob(*self._beside_key(content)) if self._beside else None
        if face is None or small is None or (self._beside and beside is None):
            return False
        check_size(*face.size_wh, self.max_megapixels)
        _fill(picture, face, small)
        picture.beside = beside
        picture.preview = self.cache.get_blob("preview", content) if self._previews else None
        return True

    def look(self, picture: Picture, content: str, image: np.ndarray, note: str) -> None:
        face = self.face_of(content, image, note)
        _fill(picture, face, thumbnail(image))
        self.cache.put_blob("thumbnail", content, picture.thumbnail)
        if self._beside:
            picture.beside = self._beside.measure(image, face)
            self.cache.put_blob(*self._beside_key(content), picture.beside)
        if self._previews:
            picture.preview = preview(image)
            self.cache.put_blob("preview", content, picture.preview)

    def _beside_key(self, content: str) -> tuple[str, str]:
        return self._beside.kind, f"{content} {self.identity} {self._settings}"

    def is_full(self, batch: list) -> bool:
        return True

    def finish(self, batch: list) -> None:
        """Nothing: a pack works on one picture at a time."""

    def failed(self, picture: Picture, status: Status, reason: str) -> None:
        picture.status, picture.reason = status, reason

    def done(self, picture: Picture, progress: GroupProgress) -> None:
        if picture.face is not None and picture.face.found:
            progress.print(f"{picture.group}/{picture.filename}: {_AGAIN} {picture.face.found}")

    def at_work(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()


def _fill(picture: Picture, face: FaceMeasurement, small: bytes) -> None:
    picture.status, picture.reason = face.status, face.reason
    picture.face, picture.thumbnail = face, small
