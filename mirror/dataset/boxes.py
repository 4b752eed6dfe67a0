"""Detectors of faces, hands and eyes at work on pictures: boxes found in batches, and kept in the cache."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirror.detectors.detectors import CONFIDENCE, EYE, FACE, HAND, OVERLAP
from mirror.detectors.engines import EXACT
from mirror.faces.cache import FaceCache
from utils.console import UserError, say
from utils.defaults import DETECTION_SIZE, DETECTOR_FILES

if TYPE_CHECKING:
    from mirror.detectors.detectors import Detector, Found

# Of what is kept of boxes; raise it with every change of the numbers of mirror/detectors/detectors.py or of decoding.
BOXES_VERSION = 3
# Words that may stand beside a class's kind and leave it what it is: "left hand", but not "handbag" or "face mask".
_QUALIFIERS = {"left", "right", "open", "visible", "human"}


@dataclass(frozen=True)
class Boxes:
    """What a detector found in one picture, in its pixels."""

    boxes_xyxy: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    keypoints: np.ndarray | None  # (N, K, 2)

    def moved(self, corner: float, scale: float) -> Boxes:
        """In the pixels of a picture that was scaled by `scale` and then moved by `corner` = (x, y)."""
        points = None if self.keypoints is None else (self.keypoints - corner) / scale
        return Boxes((self.boxes_xyxy - np.tile(corner, 2)) / scale, self.scores, points)


class BoxSensor:
    """A detector file, loaded when the first picture needs it."""

    def __init__(
        self,
        kind: str,
        path: Path,
        device: str,
        cache: FaceCache,
        classes: str | None = None,
        precision: str = EXACT,
    ):
        self.kind = kind  # what its boxes are to show, see mirror/detectors/detectors.py
        self.path = path
        self.asked = classes  # names of the model's own, with commas between; None: those of the kind
        self.identity = f"{path.name}@{cache.hash_file(path)[:12]}"
        self.precision = precision
        self._device = device
        self._cache = cache
        self._detector = None
        self._loading = threading.Lock()

    def find(self, contents: list[str], images: list[np.ndarray]) -> list[Boxes | Exception]:
        """Boxes in every picture (H, W, 3) BGR, or what went wrong with it. `contents` are the pictures' hashes."""
        found: list[Boxes | Exception | None] = [self._recall(content) for content in contents]
        unknown = [i for i, boxes in enumerate(found) if boxes is None]
        for i, boxes in zip(unknown, self.run([images[i] for i in unknown]), strict=True):
            found[i] = boxes
            if isinstance(boxes, Boxes):
                self._keep(contents[i], boxes)
        return found

    def run(self, images: list[np.ndarray]) -> list[Boxes | Exception]:
        """The network itself on a batch; a picture that it chokes on does not stop the others. Raises UserError."""
        if not images:
            return []
        try:
            found = self.load().detect(images, CONFIDENCE, OVERLAP)
        except UserError:
            raise
        except Exception as error:  # whatever a network raises belongs to the pictures that it was given
            return [error] if len(images) == 1 else [one for image in images for one in self.run([image])]
        return [self._of_my_kind(one) for one in found]

    def load(self) -> Detector:
        """The detector, loaded once, whichever thread asks first. Raises UserError."""
        with self._loading:
            if self._detector is None:
                from mirror.detectors.detectors import load_detector

                detector = load_detector(self.path, self._device, self.precision)
                self._demand_fit(detector)
                no_cuda = self._device == "cuda" and detector.device == "cpu"
                say(f"Detector: {self.identity} on {detector.device}{', as there is no CUDA here' if no_cuda else ''}")
                self._detector = detector
        return self._detector

    def _demand_fit(self, detector: Detector) -> None:
        """Raises UserError for a model that cannot give what this sensor is for."""
        self._classes = classes_of(self.kind, detector.classes, self.path, self.asked)
        if self.kind == FACE and detector.keypoints != 5:
            raise UserError(
                f"{self.path} gives {detector.keypoints or 'no'} landmarks with each box, and angles are read "
                f"from five. Put {DETECTOR_FILES[FACE]} in its place, or use an InsightFace pack (--pack)."
            )

    def _of_my_kind(self, found: Found) -> Boxes:
        mine = [i for i, name in enumerate(found.classes) if name in self._classes]
        points = None if found.keypoints is None else found.keypoints[mine]
        return Boxes(found.boxes_xyxy[mine], found.scores[mine], points)

    def _key(self, content: str) -> str:
        rule = f"{self.kind}={self.asked or ''} v{BOXES_VERSION} {DETECTION_SIZE} {CONFIDENCE} {OVERLAP}"
        fast = "" if self.precision == EXACT else f"{self.precision} "
        return f"{self.identity} {rule} {fast}{content}"

    def _recall(self, content: str) -> Boxes | None:
        kept = self._cache.get_blob("boxes", self._key(content))
        if kept is None:
            return None
        boxes, scores, points = json.loads(kept)
        points = None if points is None else np.array(points, np.float32).reshape(len(boxes), -1, 2)
        return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), points)

    def _keep(self, content: str, found: Boxes) -> None:
        points = None if found.keypoints is None else np.asarray(found.keypoints).tolist()
        row = [np.asarray(found.boxes_xyxy).tolist(), np.asarray(found.scores).tolist(), points]
        self._cache.put_blob("boxes", self._key(content), json.dumps(row).encode())


def classes_of(kind: str, names: list[str], path: Path, asked: str | None = None) -> set[str]:
    """Those of a detector's class `names` that are of `kind`, or those `asked` for. Raises UserError for none.

    "left hand" is a hand, "handbag" and "no hand" are not. A detector with a single class is believed, whatever its
    maker called it, unless the name is that of another kind.
    """
    told = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    if asked:
        wanted = {name.strip() for name in asked.split(",")}
        if unknown := sorted(wanted - set(names)):
            raise UserError(f"{path} has no class {unknown[0]!r}: it finds {told}.")
        return wanted
    others = {one for one in (FACE, HAND, EYE) if one != kind}
    alone = len(names) == 1 and not any(_is_of(one, names[0]) for one in others)
    chosen = {name for name in names if alone or _is_of(kind, name)}
    if not chosen:
        option = "" if kind == FACE else f", or name the classes that are: --{kind}-classes"
        raise UserError(
            f"{path} is no {kind} detector: it finds {told}. Put one that finds {kind}s in its place{option}."
        )
    return chosen


def _is_of(kind: str, name: str) -> bool:
    words = set(re.split(r"[^a-z]+", name.casefold())) - {""}
    return bool(words & {kind, f"{kind}s"}) and words <= {kind, f"{kind}s", *_QUALIFIERS}
