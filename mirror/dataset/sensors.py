"""The sensors that look at a dataset together: one decode of each picture serves them all.

Faces and angles come from an InsightFace pack, or from a face detector with five landmarks; hands and eyes from
detectors of their own, where there are any. The pack runs one picture a core, detectors run in batches, and what either
found is kept in the shared cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import ValidationError

from mirror.contracts.gaps import AngleSensor, GapSensors, ImageRecord
from mirror.dataset import pixels
from mirror.dataset.gaps import GapType, Look, face_height_share, measure_values
from mirror.detectors.detectors import CONFIDENCE, EYE, FACE, HAND, OVERLAP, demand_safe, find_detector
from mirror.faces.cache import FaceCache
from mirror.faces.engine import MEASUREMENT_VERSION, RESCUE_PADDING, RESCUED, FaceMeasurement, second_face_share
from mirror.faces.measurer import Measurer, as_they_come, read_and_remember
from mirror.faces.packs import find_pack
from mirror.faces.pose import angles_from_keypoints
from utils.console import UserError, say
from utils.cores import available_cores
from utils.defaults import DETECTION_SIZE, DETECTOR_FILES, MAX_MEGAPIXELS, MODELS_FOLDER, PACK
from utils.files import Status, readable, reason_of
from utils.images import ImageError, check_size, decode_with_note, thumbnail
from utils.progress import GroupProgress

if TYPE_CHECKING:
    from mirror.detectors.detectors import Detector, Found

# of what is kept of a detector's boxes; raise it with every change of mirror/detectors/detectors.py's numbers
_BOXES_VERSION = 2
# Of the records that are kept of pictures; raise it with every change of a number or a bin: in this file, gaps.py,
# pixels.py or pose.py.
_RECORD_VERSION = 1
# Words that may stand beside a class's kind and leave it what it is: "left hand", but not "handbag" or "face mask".
_QUALIFIERS = {"left", "right", "open", "visible", "human"}
BATCH_IMAGES = 16  # fills a GPU at 640 pixels (our choice)
BATCH_PIXELS = 64_000_000  # a batch of very large pictures is cut short: 192 MB decoded
RESCUE_SIDE = 1280  # pixels; detectors shrink to about half of it, so a larger picture is not needed for a second look

NO_FACE = "no face found, with black padding neither"


@dataclass
class Looked:
    """One input file and what became of it."""

    file: str  # relative to the dataset's folder, forward slashes
    path: Path
    record: ImageRecord | None = None  # None until it was looked at
    thumbnail: bytes | None = None


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

    def __init__(self, kind: str, path: Path, device: str, cache: FaceCache, classes: str | None = None):
        self.kind = kind  # what its boxes are to show, see mirror/detectors/detectors.py
        self.path = path
        self.asked = classes  # names of the model's own, with commas between; None: those of the kind
        self.identity = f"{path.name}@{cache.hash_file(path)[:12]}"
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

                detector = load_detector(self.path, self._device)
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
        rule = f"{self.kind}={self.asked or ''} v{_BOXES_VERSION} {DETECTION_SIZE} {CONFIDENCE} {OVERLAP}"
        return f"{self.identity} {rule} {content}"

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


@dataclass(frozen=True)
class Face:
    """The largest face of a picture, or none (`count` 0); angles in degrees, see mirror/faces/pose.py."""

    count: int
    status: Status
    box_xyxy: tuple[float, float, float, float] | None = None
    confidence: float | None = None
    second_share: float | None = None  # see mirror/faces/engine.second_face_share
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None


class PackAngles:
    """Faces and angles from an InsightFace pack, one picture at a time, from any thread."""

    def __init__(self, measurer: Measurer):
        self.measurer = measurer
        self.info = AngleSensor(kind="pack", identity=measurer.identity, source=measurer.pack_info().pose_source)

    def face(self, content: str, image: np.ndarray, note: str) -> Face:
        found = self.measurer.known_face(content) or self.measurer.measure_image(content, image, note)
        return _face_of_pack(found)


class DetectorAngles:
    """Faces and angles from a face detector with five landmarks, in batches."""

    def __init__(self, sensor: BoxSensor):
        self.sensor = sensor
        self.info = AngleSensor(kind="detector", identity=sensor.identity, source="keypoints")

    def faces(self, contents: list[str], images: list[np.ndarray]) -> list[Face | Exception]:
        """The largest face of every picture; where none is seen, a second look with a black border around it."""
        found = self.sensor.find(contents, images)
        again = [i for i, boxes in enumerate(found) if isinstance(boxes, Boxes) and not len(boxes.boxes_xyxy)]
        faces = [_failed_or_face(boxes, Status.OK) for boxes in found]
        padded = [_with_border(images[i]) for i in again]
        keys = [f"{contents[i]} with border" for i in again]
        for i, boxes, (_, corner, scale) in zip(
            again, self.sensor.find(keys, [image for image, _, _ in padded]), padded, strict=True
        ):
            faces[i] = _failed_or_face(boxes.moved(corner, scale) if isinstance(boxes, Boxes) else boxes)
        return faces


@dataclass(frozen=True)
class Sensors:
    """All that look at a picture; hands and eyes are None where there is no detector for them."""

    angle: PackAngles | DetectorAngles
    hands: BoxSensor | None = None
    eyes: BoxSensor | None = None

    def detectors(self) -> list[BoxSensor]:
        """Those that are files of their own."""
        face = self.angle.sensor if isinstance(self.angle, DetectorAngles) else None
        return [one for one in (face, self.hands, self.eyes) if one is not None]

    @property
    def info(self) -> GapSensors:
        return GapSensors(
            angle=self.angle.info,
            hands=self.hands.identity if self.hands else None,
            eyes=self.eyes.identity if self.eyes else None,
        )


@dataclass(frozen=True)
class _Decoded:
    """A picture on its way from the thread that read it to the detectors."""

    picture: Looked
    content: str
    image: np.ndarray
    pixels: dict[str, object]  # fields of ImageRecord that need no sensor
    look: Look  # without what detectors find
    face: Face | None  # None: the face detector has yet to run
    note: str = ""  # what decoding found wrong with the file


@dataclass(frozen=True)
class SensorChoice:
    """Which sensors a user asked for; None: the default file, where it is there. gaps.json keeps it in its settings."""

    models_dir: Path
    angle_sensor: str = "auto"  # auto, pack or detector
    pack: str | None = None  # name or folder
    face_model: str | None = None
    hand_model: str | None = None
    eye_model: str | None = None
    hand_classes: str | None = None  # class names with commas between
    eye_classes: str | None = None
    device: str = "auto"
    max_megapixels: float = MAX_MEGAPIXELS

    def settings(self) -> dict[str, str | float | None]:
        """Plain values; folders absolute, so that the next script finds them from wherever it runs."""
        values = asdict(self) | {"models_dir": readable(str(self.models_dir.resolve()))}
        if self.pack and Path(self.pack).expanduser().is_dir():
            values["pack"] = readable(str(Path(self.pack).expanduser().resolve()))
        return values


def sensor_choice(options: object) -> SensorChoice:
    """Those of a script's options, attributes of one object, that are about sensors."""
    return SensorChoice(**{field.name: getattr(options, field.name) for field in fields(SensorChoice)})


def find_sensors(choice: SensorChoice, cache: FaceCache, deed: str) -> Sensors:
    """The pack, or else the face detector; hands and eyes where there are detectors. Raises UserError without angles.

    `deed` is what was not done then: "analysed".
    """
    if choice.models_dir != MODELS_FOLDER and not choice.models_dir.is_dir():
        raise UserError(f"{choice.models_dir} is no folder. --models-dir takes the folder with detectors and packs.")
    measurer = None if choice.angle_sensor == "detector" else find_measurer(choice, cache)
    angle = None if measurer is None else PackAngles(measurer)
    if angle is None and choice.angle_sensor != "pack":
        face = _box_sensor(FACE, choice.face_model, choice, cache)
        angle = None if face is None else DetectorAngles(face)
    if angle is None:
        pack = choice.pack or PACK
        raise UserError(
            f"There is nothing to measure angles with, so nothing was {deed}. One of these is needed:",
            f"  the InsightFace pack {pack}: python mirror_metrics.py --reference FOLDER, with the folder of your "
            f"photos, downloads it once, or unzip it into {choice.models_dir / pack}",
            f"  a face detector with five landmarks: put {choice.face_model or DETECTOR_FILES[FACE]} into "
            f"{choice.models_dir}",
        )
    return Sensors(
        angle,
        hands=_box_sensor(HAND, choice.hand_model, choice, cache, choice.hand_classes),
        eyes=_box_sensor(EYE, choice.eye_model, choice, cache, choice.eye_classes),
    )


def find_measurer(choice: SensorChoice, cache: FaceCache) -> Measurer | None:
    """The pack as mirror_metrics.py finds it, --models-dir first; one that was asked for by name must be there."""
    name = choice.pack or PACK
    beside = choice.models_dir / name
    is_beside = choice.models_dir != MODELS_FOLDER and name.strip() and beside.is_dir()
    pack = find_pack(str(beside.resolve()) if is_beside else name)
    if pack is None and choice.pack:
        raise UserError(f"The model pack {choice.pack} is neither in {choice.models_dir} nor in ~/.insightface/models.")
    if pack is None:
        return None
    say(f"Model pack {pack.name} in {pack.folder}. {pack.licence()}")
    return Measurer(pack, cache, choice.device, max_megapixels=choice.max_megapixels)


def _box_sensor(
    kind: str, name: str | None, choice: SensorChoice, cache: FaceCache, classes: str | None = None
) -> BoxSensor | None:
    path = find_detector(kind, choice.models_dir, name)
    if path is None and name:
        raise UserError(f"The {kind} detector {name} is not in {choice.models_dir}.")
    try:
        return None if path is None else BoxSensor(kind, path, choice.device, cache, classes)
    except OSError as error:
        raise UserError(f"The {kind} detector {path} cannot be read: {reason_of(error)}.") from error


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
        self._cache = cache
        self._max_megapixels = max_megapixels
        self._settings = _settings(sensors, types)

    def examine(self, pictures: list[Looked]) -> None:
        """Fill in every picture, whatever happens to single ones. Ctrl-C keeps in the cache what was measured."""
        unknown = [picture for picture in pictures if not self._recall(picture)]
        if not unknown:
            return
        for sensor in self._sensors.detectors():
            demand_safe(sensor.path)  # before the work, not when the first batch is full
        workers = available_cores()
        with GroupProgress() as progress, ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as beside:
            # while the first pictures are decoded and the pack is loaded; what fails here is told at the first batch
            beside.map(BoxSensor.load, self._sensors.detectors())
            task = progress.add("Looking", len(unknown))
            batch: list[_Decoded] = []
            try:
                for decoded in as_they_come(pool, self._prepare, unknown, window=4 * workers):
                    if isinstance(decoded, _Decoded):
                        batch.append(decoded)
                    else:
                        progress.step(task)
                    if len(batch) == BATCH_IMAGES or sum(one.look.grey.size for one in batch) > BATCH_PIXELS:
                        self._finish(batch, progress, task)
                        batch = []
                self._finish(batch, progress, task)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _recall(self, picture: Looked) -> bool:
        """Fill in a picture whose file has not changed since these sensors looked at it."""
        content = self._cache.content_of(picture.path)
        return content is not None and os.access(picture.path, os.R_OK) and self._from_cache(picture, content)

    def _from_cache(self, picture: Looked, content: str) -> bool:
        kept = self._cache.get_blob("look", f"{self._settings} {content}")
        small = self._cache.get_blob("thumbnail", content)
        if kept is None or small is None:
            return False
        try:
            record = ImageRecord.model_validate_json(kept).model_copy(update={"file": picture.file})
            check_size(*record.size_wh, self._max_megapixels)
        except ValidationError:
            return False
        except ImageError as problem:  # measured under a higher limit than today's
            picture.record = ImageRecord(file=picture.file, status=problem.status, reason=problem.reason)
            return True
        picture.record, picture.thumbnail = record, small
        return True

    def _prepare(self, picture: Looked) -> _Decoded | Looked:
        """In a worker thread: one read, one decode, and all that works on one picture. A Looked is done already."""
        try:
            content, data = read_and_remember(picture.path, self._cache, self._max_megapixels)
            if self._from_cache(picture, content):
                return picture
            image, note = decode_with_note(data)
            picture.thumbnail = thumbnail(image)
            face = (
                self._sensors.angle.face(content, image, note) if isinstance(self._sensors.angle, PackAngles) else None
            )
            if self._comparing and not self._comparing.known_face(content):
                self._comparing.measure_image(content, image, note)
            return replace(_decoded(picture, content, image, face), note=note)
        except ImageError as problem:
            picture.record = ImageRecord(file=picture.file, status=problem.status, reason=problem.reason)
        except UserError:  # the networks themselves cannot be used: that ends the run
            raise
        except Exception as error:  # whatever a network chokes on is one bad picture, and the row says why
            picture.record = _failure(picture, error)
        return picture

    def _finish(self, batch: list[_Decoded], progress: GroupProgress, task: int) -> None:
        """In the main thread: the detectors on a batch, then the records."""
        if not batch:
            return
        contents, images = [one.content for one in batch], [one.image for one in batch]
        nothing = [None] * len(batch)
        faces = [one.face for one in batch]
        if isinstance(self._sensors.angle, DetectorAngles):
            faces = self._sensors.angle.faces(contents, images)
        hands = self._sensors.hands.find(contents, images) if self._sensors.hands else nothing
        eyes = self._sensors.eyes.find(contents, images) if self._sensors.eyes else nothing
        for one, *found in zip(batch, faces, hands, eyes, strict=True):
            self._record(one, *found)
            progress.step(task)

    def _record(
        self, one: _Decoded, face: Face | Exception, hands: Boxes | Exception | None, eyes: Boxes | Exception | None
    ) -> None:
        failed = next((found for found in (face, hands, eyes) if isinstance(found, Exception)), None)
        if failed is not None:
            one.picture.record = _failure(one.picture, failed)
            return
        record = _record(one, face, None if hands is None else len(hands.boxes_xyxy), _eyes_of(face, eyes))
        record.values = measure_values(_complete(one.look, record), self._types)
        one.picture.record = record
        self._cache.put_blob("look", f"{self._settings} {one.content}", record.model_dump_json().encode())
        self._cache.put_blob("thumbnail", one.content, one.picture.thumbnail)


def _settings(sensors: Sensors, types: Mapping[str, GapType]) -> str:
    """Changes with everything that decides a record: sensors, versions, and the types with what they do.

    A user's own gap type has no version number: its instructions stand for it, and formatting does not change them.
    """
    numbers = f"{MEASUREMENT_VERSION} {_BOXES_VERSION} {_RECORD_VERSION} {DETECTION_SIZE}"
    classes = [one.asked for one in sensors.detectors()]
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


def _decoded(picture: Looked, content: str, image: np.ndarray, face: Face | None) -> _Decoded:
    grey = pixels.grey_of(image)
    histogram = pixels.histogram(grey)
    brightness = pixels.brightness(histogram)
    facts = {
        "size_wh": (image.shape[1], image.shape[0]),
        "sharpness": round(pixels.sharpness(grey), 2),
        "brightness": round(brightness, 2),
        "exposure": pixels.exposure(brightness),
        "spoiled": pixels.spoiled(histogram),
        "picture_hash": f"{pixels.picture_hash(grey):032x}",
    }
    look = Look(image, grey, histogram, None, None, None, None, None)
    return _Decoded(picture, content, image, facts, look, face)


def _record(one: _Decoded, face: Face, hands: int | None, eyes: int | None) -> ImageRecord:
    height = one.look.grey.shape[0]
    share = None if face.box_xyxy is None else face_height_share(face.box_xyxy, height)
    return ImageRecord(
        file=one.picture.file,
        status=face.status,
        reason="; ".join(filter(None, ({Status.RESCUED: RESCUED, Status.NO_FACE: NO_FACE}.get(face.status), one.note))),
        faces=face.count,
        face_box_xyxy=face.box_xyxy,
        face_confidence=face.confidence,
        second_face_share=face.second_share,
        yaw_deg=face.yaw_deg,
        pitch_deg=face.pitch_deg,
        roll_deg=face.roll_deg,
        face_height_percent=None if share is None else round(100 * share, 2),
        hands=hands,
        eyes=eyes,
        **one.pixels,
    )


def _complete(look: Look, record: ImageRecord) -> Look:
    """`look` with the numbers as they stand in the record: a bin must agree with the angle that is shown."""
    return Look(
        look.image,
        look.grey,
        look.histogram,
        face_box_xyxy=record.face_box_xyxy,
        yaw_deg=record.yaw_deg,
        pitch_deg=record.pitch_deg,
        eyes=record.eyes,
        hands=record.hands,
    )


def _failure(picture: Looked, error: Exception) -> ImageRecord:
    reason = f"measuring failed: {type(error).__name__}: {error}"
    return ImageRecord(file=picture.file, status=Status.ERROR, reason=reason)


def _face_of_pack(found: FaceMeasurement) -> Face:
    if found.box_xyxy is None:
        return Face(0, found.status)
    angles = (found.yaw_deg, found.pitch_deg, found.roll_deg)
    return _face(found.faces, found.status, found.box_xyxy, found.det_score, found.second_face_share, *angles)


def _failed_or_face(boxes: Boxes | Exception, status: Status = Status.RESCUED) -> Face | Exception:
    """The largest face among the boxes of a face detector with five landmarks."""
    if isinstance(boxes, Exception):
        return boxes
    if not len(boxes.boxes_xyxy):
        return Face(0, Status.NO_FACE)
    sizes = boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]
    largest = int(sizes.prod(axis=1).argmax())
    try:
        angles = angles_from_keypoints(boxes.keypoints[largest])
    except ValueError as error:  # points that coincide: the network made nothing of this face
        return error
    box = boxes.boxes_xyxy[largest]
    second = second_face_share(boxes.boxes_xyxy)
    return _face(len(boxes.scores), status, box, boxes.scores[largest], second, *angles)


def _face(
    count: int,
    status: Status,
    box_xyxy: np.ndarray,
    score: float,
    second: float | None,
    yaw: float,
    pitch: float,
    roll: float,
) -> Face:
    box = tuple(round(float(edge), 1) for edge in box_xyxy)
    second = None if second is None else round(second, 4)
    return Face(count, status, box, round(float(score), 4), second, round(yaw, 2), round(pitch, 2), round(roll, 2))


def _eyes_of(face: Face, eyes: Boxes | None) -> int | None:
    """Eyes whose centre lies in the largest face. Without a face all, as its eyes may be all that is seen of it; where
    there are none either, nobody is there whose eyes could be hidden, and that is None."""
    if eyes is None:
        return None
    if face.box_xyxy is None:
        return len(eyes.boxes_xyxy) or None
    centres = (eyes.boxes_xyxy[:, :2] + eyes.boxes_xyxy[:, 2:]) / 2
    inside = (centres >= face.box_xyxy[:2]) & (centres <= face.box_xyxy[2:])
    return int(inside.all(axis=1).sum())


def _with_border(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """`image` inside a black border of RESCUE_PADDING of its sides, the corner (x, y) it begins at, and its scale."""
    scale = min(1.0, RESCUE_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    top, left = round(RESCUE_PADDING * small.shape[0]), round(RESCUE_PADDING * small.shape[1])
    padded = cv2.copyMakeBorder(small, top, top, left, left, cv2.BORDER_CONSTANT)
    return padded, np.array([left, top], np.float32), scale
