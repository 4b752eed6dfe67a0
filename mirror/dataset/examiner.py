"""All sensors of a dataset at one look: each picture is decoded once for all of them, and sorted into gap types.

The pack runs one picture a core, detectors run in batches, and what either found is kept in the shared cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType

import numpy as np
from pydantic import ValidationError

from mirror.contracts.gaps import ImageRecord
from mirror.dataset import pixels
from mirror.dataset.angles import DetectorAngles, PackAngles
from mirror.dataset.boxes import BOXES_VERSION, Boxes, BoxSensor
from mirror.dataset.gaps import SHOT_SIZES, GapType, Look, face_height_share, measure_values
from mirror.dataset.sensors import Sensors
from mirror.detectors.detectors import demand_safe
from mirror.detectors.engines import EXACT
from mirror.detectors.expressions import CONFIDENCE
from mirror.faces.cache import FaceCache
from mirror.faces.engine import MEASUREMENT_VERSION, FaceMeasurement
from mirror.faces.expressions import EXPRESSION_VERSION
from mirror.faces.looking import failure, look_at
from mirror.faces.measurer import Measurer
from mirror.faces.pose import BIN_LIMITS_DEG
from utils.defaults import DETECTION_SIZE
from utils.files import Status
from utils.images import check_size, thumbnail
from utils.progress import GroupProgress

# Of the records that are kept of pictures; raise it with every change of what is computed: in this file, angles.py,
# gaps.py, pixels.py or mirror/faces/pose.py. The limits of the angle bins and shot sizes need no new version.
RECORD_VERSION = 5
BATCH_IMAGES = 16  # fills a GPU at 640 pixels (our choice)
BATCH_PIXELS = 64_000_000  # a batch of very large pictures is cut short: 192 MB decoded


@dataclass
class ExaminedPicture:
    """One input file and what became of it."""

    file: str  # relative to the dataset's folder, forward slashes
    path: Path
    record: ImageRecord | None = None  # None until it was looked at
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class _Decoded:
    """A picture on its way from the thread that read it to the detectors."""

    picture: ExaminedPicture
    content: str
    image: np.ndarray
    pixels: dict[str, object]  # fields of ImageRecord that need no sensor
    look: Look  # without what detectors find
    face: FaceMeasurement | None  # None: the face detector has yet to run
    note: str = ""  # what decoding found wrong with the file


class Examiner:
    """Looks at pictures with `sensors` and sorts them into the targets of `types`.

    `comparing` is a pack that is to see each picture as well, beside a face detector, for faces to be compared later.
    """

    def __init__(
        self,
        sensors: Sensors,
        types: Mapping[str, GapType],
        cache: FaceCache,
        max_megapixels: float,
        comparing: Measurer | None = None,
    ):
        self._sensors = sensors
        self._comparing = comparing
        self._types = types
        self.cache = cache
        self.max_megapixels = max_megapixels
        self._settings = _settings(sensors, types)

    def examine(self, pictures: list[ExaminedPicture]) -> None:
        """Fill in every picture, whatever happens to single ones. Ctrl-C keeps in the cache what was measured."""
        look_at(pictures, self)

    # What the engine looks with, see mirror.faces.looking.Looker.

    def label(self, picture: ExaminedPicture) -> str:
        return "Looking"

    def recall(self, picture: ExaminedPicture, content: str) -> bool:
        kept = self.cache.get_blob("look", f"{self._settings} {content}")
        small = self.cache.get_blob("thumbnail", content)
        if kept is None or small is None:
            return False
        try:
            record = ImageRecord.model_validate_json(kept).model_copy(update={"file": picture.file})
        except ValidationError:
            return False
        check_size(*record.size_wh, self.max_megapixels)
        picture.record, picture.thumbnail = record, small
        return True

    def look(self, picture: ExaminedPicture, content: str, image: np.ndarray, note: str) -> _Decoded:
        picture.thumbnail = thumbnail(image)
        angle = self._sensors.angle
        face = angle.measurer.face_of(content, image, note) if isinstance(angle, PackAngles) else None
        if self._comparing:
            self._comparing.face_of(content, image, note)
        return _decoded(picture, content, image, face, note)

    def is_full(self, batch: list[_Decoded]) -> bool:
        return len(batch) == BATCH_IMAGES or sum(one.look.grey.size for one in batch) > BATCH_PIXELS

    def finish(self, batch: list[_Decoded]) -> None:
        contents, images = [one.content for one in batch], [one.image for one in batch]
        nothing = [None] * len(batch)
        faces = [one.face for one in batch]
        if isinstance(self._sensors.angle, DetectorAngles):
            faces = self._sensors.angle.faces(contents, images)
        hands = self._sensors.hands.find(contents, images) if self._sensors.hands else nothing
        eyes = self._sensors.eyes.find(contents, images) if self._sensors.eyes else nothing
        for one, *found in zip(batch, faces, hands, eyes, strict=True):
            self._record(one, *found, self._expression_of(one, found[0]))

    def failed(self, picture: ExaminedPicture, status: Status, reason: str) -> None:
        picture.record = ImageRecord(file=picture.file, status=status, reason=reason)

    def done(self, picture: ExaminedPicture, progress: GroupProgress) -> None:
        """Nothing to say: the page shows every picture."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        detectors = self._sensors.detectors()
        for sensor in detectors:
            demand_safe(sensor.path)  # before the work, not when the first batch is full
        with ThreadPoolExecutor(1) as beside:
            # while the first pictures are decoded and the pack is loaded; what fails here is told at the first batch
            beside.map(BoxSensor.load, detectors)
            yield

    def _record(
        self,
        one: _Decoded,
        face: FaceMeasurement | Exception,
        hands: Boxes | Exception | None,
        eyes: Boxes | Exception | None,
        expression: str | Exception | None,
    ) -> None:
        error = next((found for found in (face, hands, eyes, expression) if isinstance(found, Exception)), None)
        if error is not None:
            self.failed(one.picture, Status.ERROR, failure(error))
            return
        record = _record_of(one, face, None if hands is None else len(hands.boxes_xyxy))
        record.eyes = _eyes_of(record.face_box_xyxy, eyes)
        record.expression = expression
        record.values = measure_values(_complete(one.look, record), self._types)
        one.picture.record = record
        self.cache.put_blob("look", f"{self._settings} {one.content}", record.model_dump_json().encode())
        self.cache.put_blob("thumbnail", one.content, one.picture.thumbnail)

    def _expression_of(self, one: _Decoded, face: FaceMeasurement | Exception) -> str | Exception | None:
        """What the largest face shows; None where nobody can tell."""
        if self._sensors.expressions is None or isinstance(face, Exception):
            return None
        try:
            reading = self._sensors.expressions.read(one.content, one.image, face)
        except Exception as error:  # whatever a network chokes on is one bad picture, and its row says why
            return error
        return None if reading is None else reading.expression


def _settings(sensors: Sensors, types: Mapping[str, GapType]) -> str:
    """Changes with everything that decides a record: sensors, versions, and the types with what they do.

    A user's own gap type has no version number: its instructions stand for it, and formatting does not change them.
    """
    numbers = f"{MEASUREMENT_VERSION} {BOXES_VERSION} {RECORD_VERSION} {DETECTION_SIZE} {BIN_LIMITS_DEG} {SHOT_SIZES}"
    numbers += f" {EXPRESSION_VERSION} {CONFIDENCE}{sensors.angle.engine_key}"
    classes = [one.asked if one.precision == EXACT else (one.asked, one.precision) for one in sensors.detectors()]
    measures = [(name, _instructions(getattr(types[name].measure, "__code__", None))) for name in sorted(types)]
    return hashlib.sha256(f"{sensors.info.model_dump_json()} {classes} {measures} {numbers}".encode()).hexdigest()


def _instructions(code: CodeType | None) -> tuple:
    """What a function's code does, without where it stands and how it is formatted; empty for a built-in."""
    if code is None:
        return ()
    return code.co_code.hex(), code.co_names, [_constant(one) for one in code.co_consts]


def _constant(value: object) -> object:
    if isinstance(value, CodeType):
        return _instructions(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)  # a set has no order of its own


def _decoded(
    picture: ExaminedPicture, content: str, image: np.ndarray, face: FaceMeasurement | None, note: str
) -> _Decoded:
    grey = pixels.grey_of(image)
    histogram = pixels.histogram(grey)
    brightness = pixels.brightness(histogram)
    facts = {
        "size_wh": (image.shape[1], image.shape[0]),
        "sharpness": round(pixels.sharpness(grey), 2),
        "brightness": round(brightness, 2),
        "exposure": pixels.exposure(brightness),
        "unusable": pixels.unusable(histogram),
        "picture_hash": f"{pixels.picture_hash(grey):032x}",
    }
    return _Decoded(picture, content, image, facts, Look(image, grey, histogram), face, note)


def _record_of(one: _Decoded, face: FaceMeasurement, hands: int | None) -> ImageRecord:
    """What is known of a picture, rounded as it is shown and kept; eyes and expression are added later."""

    def rounded(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    box = None if face.box_xyxy is None else tuple(round(edge, 1) for edge in face.box_xyxy)
    height = None if box is None else face_height_share(box, one.pixels["size_wh"], face.turned_deg)
    return ImageRecord(
        file=one.picture.file,
        status=face.status,
        reason=replace(face, note=one.note).reason,
        faces=face.faces,
        face_box_xyxy=box,
        det_score=rounded(face.det_score, 4),
        measured_by=face.provider if face.provider and face.faces else None,
        second_face_share=rounded(face.second_face_share, 4),
        yaw_deg=rounded(face.yaw_deg, 2),
        pitch_deg=rounded(face.pitch_deg, 2),
        roll_deg=rounded(face.roll_deg, 2),
        turned_deg=face.turned_deg,
        face_height_percent=None if height is None else round(100 * height, 2),
        hands=hands,
        **one.pixels,
    )


def _complete(look: Look, record: ImageRecord) -> Look:
    """`look` with the numbers as they stand in the record: a bin must agree with the angle that is shown."""
    names = ("face_box_xyxy", "yaw_deg", "pitch_deg", "turned_deg", "eyes", "hands", "expression")
    return replace(look, **{name: getattr(record, name) for name in names})


def _eyes_of(face_box_xyxy: tuple[float, float, float, float] | None, eyes: Boxes | None) -> int | None:
    """Eyes whose centre lies in the largest face. Without a face all, as its eyes may be all that is seen of it; where
    there are none either, nobody is there whose eyes could be hidden, and that is None."""
    if eyes is None:
        return None
    if face_box_xyxy is None:
        return len(eyes.boxes_xyxy) or None
    centres = (eyes.boxes_xyxy[:, :2] + eyes.boxes_xyxy[:, 2:]) / 2
    inside = (centres >= face_box_xyxy[:2]) & (centres <= face_box_xyxy[2:])
    return int(inside.all(axis=1).sum())
