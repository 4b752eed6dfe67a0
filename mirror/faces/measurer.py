"""Many pictures measured with one pack: from the cache where it can, else by one worker a core."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from mirror.contracts.summary import PackInfo, group_label
from mirror.faces.cache import FaceCache, content_hash
from mirror.faces.engine import AGE, POSE, RESCUED, FaceEngine, FaceMeasurement, settings_key
from mirror.faces.packs import Pack
from utils.console import UserError, say
from utils.cores import available_cores
from utils.defaults import DETECTION_SIZE, MAX_MEGAPIXELS
from utils.files import Status
from utils.images import ImageError, check_size, decode_with_note, read_file, thumbnail
from utils.progress import GroupProgress

Item, Done = TypeVar("Item"), TypeVar("Done")

CUDA = "CUDAExecutionProvider"
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

    @property
    def measured(self) -> bool:
        """Whether there is an embedding to compare."""
        return self.status is not None and self.status.measured


class Measurer:
    """Measures pictures with one pack; the networks load when the first picture needs them.

    `device` is auto, cpu or cuda. With `require_gpu` UserError is raised unless the networks really run on CUDA, and
    measurements that another provider made before do not count. `meanwhile` runs beside the loading of the networks.
    """

    def __init__(
        self,
        pack: Pack,
        cache: FaceCache,
        device: str = "auto",
        detection_size: int = DETECTION_SIZE,
        max_megapixels: float = MAX_MEGAPIXELS,
        require_gpu: bool = False,
        meanwhile: Callable[[], object] | None = None,
    ):
        self._pack = pack
        self._meanwhile = meanwhile
        self._cache = cache
        self._device = device
        self._detection_size = detection_size
        self._max_megapixels = max_megapixels
        self._require_gpu = require_gpu
        self._engine: FaceEngine | None = None
        self._loading = threading.Lock()
        self.load_seconds = 0.0  # spent on loading the networks
        self._settings = settings_key(detection_size)
        self.identity = pack.identity(cache.hash_file)

    def engine(self) -> FaceEngine:
        """The loaded networks. Raises UserError where they cannot be used as asked."""
        with self._loading:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    def _load(self) -> FaceEngine:
        started = time.monotonic()
        engine = FaceEngine(self._pack.folder, self._device, self._detection_size, self._meanwhile)
        self.load_seconds = time.monotonic() - started
        say(f"Networks: {', '.join(engine.tasks)} on {engine.provider}")
        if engine.provider != CUDA and self._require_gpu:
            raise UserError(f"--require-gpu: the networks run on {engine.provider}, not on CUDA. {GPU_ADVICE}")
        self._cache.put_blob("tasks", self.identity, ",".join(engine.tasks).encode())
        return engine

    def pack_info(self) -> PackInfo:
        """Who measures, for every result file."""
        kept = self._cache.get_blob("tasks", self.identity)
        tasks = kept.decode().split(",") if kept else self.engine().tasks
        return PackInfo(
            name=self._pack.name,
            identity=self.identity,
            tasks=tasks,
            licence=self._pack.licence(),
            pose_source="landmark_3d_68" if POSE in tasks else "keypoints",
            has_age=AGE in tasks,
        )

    def measure(self, pictures: list[Picture]) -> None:
        """Fill in every picture, whatever happens to single ones. Ctrl-C keeps what was measured in the cache."""
        if self._require_gpu:
            self.engine()
        unknown = [picture for picture in pictures if not self._recall(picture)]
        if not unknown:
            return
        workers = available_cores()
        with GroupProgress() as progress, ThreadPoolExecutor(workers) as pool:
            totals = Counter((picture.type, picture.group) for picture in unknown)
            tasks = {group: progress.add(group_label(*group), count) for group, count in totals.items()}
            try:
                for picture in as_they_come(pool, self._look_at, unknown, window=4 * workers):
                    progress.step(tasks[picture.type, picture.group])
                    if picture.status == Status.RESCUED:
                        progress.print(f"{picture.group}/{picture.filename}: {RESCUED}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def measure_image(self, content: str, image: np.ndarray, note: str = "") -> FaceMeasurement:
        """The face of one decoded picture, whose bytes have the hash `content`; kept for the next time.

        `note` is what decoding found wrong with the file.
        """
        face = replace(self.engine().measure(image), note=note)
        self._cache.put_face(content, self.identity, self._settings, face)
        return face

    def known_face(self, content: str) -> FaceMeasurement | None:
        """What this pack measured before in a picture of this content."""
        return self._cache.get_face(content, self.identity, self._settings, CUDA if self._require_gpu else None)

    def _recall(self, picture: Picture) -> bool:
        """Fill in a picture whose file has not changed since it was measured."""
        content = self._cache.content_of(picture.path)
        return content is not None and os.access(picture.path, os.R_OK) and self._from_cache(picture, content)

    def _from_cache(self, picture: Picture, content: str) -> bool:
        face = self.known_face(content)
        small = self._cache.get_blob("thumbnail", content)
        if face is None or small is None:
            return False
        _fill(picture, face, small)
        try:
            check_size(*face.size_wh, self._max_megapixels)
        except ImageError as problem:  # measured under a higher limit than today's
            picture.status, picture.reason = problem.status, problem.reason
            picture.face = picture.thumbnail = None
        return True

    def _look_at(self, picture: Picture) -> Picture:
        """In a worker thread: one read, one decode, the networks that are needed."""
        try:
            content, data = read_and_remember(picture.path, self._cache, self._max_megapixels)
            if not self._from_cache(picture, content):
                image, note = decode_with_note(data)
                _fill(picture, self.measure_image(content, image, note), thumbnail(image))
                self._cache.put_blob("thumbnail", content, picture.thumbnail)
        except ImageError as problem:
            picture.status, picture.reason = problem.status, problem.reason
        except UserError:  # the networks themselves cannot be used: that ends the run
            raise
        except Exception as error:  # whatever a network chokes on is one bad picture, and the row says why
            picture.status, picture.reason = Status.ERROR, f"measuring failed: {type(error).__name__}: {error}"
        return picture


def read_and_remember(path: Path, cache: FaceCache, max_megapixels: float) -> tuple[str, bytes]:
    """Content hash and bytes of a picture; the cache then knows the file by its time stamp. Raises ImageError."""
    before = None
    with contextlib.suppress(OSError):  # read_file says what is wrong
        before = os.stat(path)
    data = read_file(path, max_megapixels)
    content = content_hash(data)
    if before is not None:
        cache.remember_file(path, before, content)
    return content, data


def _fill(picture: Picture, face: FaceMeasurement, small: bytes) -> None:
    reasons = {Status.RESCUED: RESCUED, Status.NO_FACE: "no face found, with black padding neither"}
    picture.status = face.status
    picture.reason = "; ".join(filter(None, (reasons.get(face.status), face.note)))
    picture.face, picture.thumbnail = face, small


def as_they_come(
    pool: ThreadPoolExecutor, work: Callable[[Item], Done], items: Iterable[Item], window: int
) -> Iterator[Done]:
    """Results of `work` in the order of completion, at most `window` under way: memory does not grow with the input."""
    running: set[Future[Done]] = set()
    for item in items:
        running.add(pool.submit(work, item))
        if len(running) >= window:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)
