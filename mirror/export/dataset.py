"""The pictures of a dataset as an export chooses among them: each measured, and each that cannot be used with a reason.

Identity is that of the dataset itself: photos that are unlike the others beyond doubt are left out as
mirror.dataset.soundness tells them, by likeness that is corrected for the turn of the head, so that profiles stay.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.exports import NotUsed
from mirror.contracts.gaps import GapSensors
from mirror.contracts.summary import REFERENCE
from mirror.dataset.angles import PackAngles
from mirror.dataset.measuring import is_of_person
from mirror.dataset.persons import two_persons
from mirror.dataset.pixels import DUPLICATE_BITS
from mirror.dataset.references import BESIDE, Photo, PhotoPixels
from mirror.dataset.sensors import SensorChoice, find_expressions, find_measurer
from mirror.dataset.soundness import LIMITS, OUTLIER, check
from mirror.detectors.expressions import ExpressionModel, Reading
from mirror.faces.cache import FaceCache
from mirror.faces.engine import FaceMeasurement
from mirror.faces.expressions import ExpressionSensor, reading_of
from mirror.faces.measurer import Beside, Measurer, Picture, missed_cuda
from mirror.faces.metrics import leave_one_out, pose_corrected
from mirror.generation.origins import origins_of
from utils.console import UserError, say
from utils.decoding import ImageError, decode
from utils.defaults import IMAGE_EXTENSIONS, PACK
from utils.files import readable, tell_ignored
from utils.images import demand_folder, list_images, read_file

_VERSION = 1  # of Light, in the cache; raise it when its numbers change
GENERATED = "generated, not a photo (--allow-synthetic takes it)"


@dataclass(frozen=True)
class Light:
    """How a face is lit, from its grey levels 0-255, by the halves of its box."""

    sides: float  # darker half by the brighter one, left and right: 1 is even
    burnt: float  # share of pixels above 250
    black: float  # share of pixels below 5

    @classmethod
    def of(cls, image: np.ndarray, face: FaceMeasurement) -> Light | None:
        """From a decoded picture (H, W, 3) uint8 BGR; None without a face."""
        if face.box_xyxy is None:
            return None
        left, top, right, bottom = (max(0, round(edge)) for edge in face.box_xyxy)
        grey = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2GRAY) if right > left else np.empty((0, 0))
        if min(grey.shape) < 4:
            return None
        grey = np.rot90(grey, -face.turned_deg // 90)
        half = grey.shape[1] // 2
        dark, bright = sorted((float(grey[:, :half].mean()), float(grey[:, -half:].mean())))
        burnt, black = float((grey > 250).mean()), float((grey < 5).mean())
        return cls(round((dark + 1) / (bright + 1), 4), round(burnt, 4), round(black, 4))


@dataclass(frozen=True)
class Candidate:
    """One picture that may be chosen."""

    file: str  # relative to the dataset's folder, forward slashes
    path: Path
    face: FaceMeasurement
    pixels: PhotoPixels
    light: Light
    likeness: float | None  # to the other pictures, corrected for the turn of the head; None with too few of them
    is_synthetic: bool
    reading: Reading | None = None  # None: no expression model, or nothing to read
    faults: tuple[str, ...] = ()  # sentences of mirror.dataset.soundness
    fault_kinds: tuple[str, ...] = ()  # their names there

    @property
    def face_side(self) -> float:
        """Shorter side of the face's box in pixels."""
        left, top, right, bottom = self.face.box_xyxy
        return min(right - left, bottom - top)

    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR, as it lies on the disk. Raises UserError where it can no longer be read."""
        try:
            return decode(read_file(self.path, math.inf))  # it was within the limit when it was measured
        except ImageError as error:
            raise UserError(f"{self.path} {error.reason}; it was there a moment ago.") from error


def same_picture(one: Candidate, other: Candidate) -> str:
    """How two pictures are one by their perceptual hashes, in words; empty where they are not."""
    own, mirrored = int(one.pixels.picture_hash, 16), int(one.pixels.mirrored_hash, 16)
    there = int(other.pixels.picture_hash, 16)
    if (own ^ there).bit_count() <= DUPLICATE_BITS:
        return "nearly the same picture"
    return "the mirror image of the same picture" if (mirrored ^ there).bit_count() <= DUPLICATE_BITS else ""


@dataclass
class ExportDataset:
    """All pictures of a folder: candidates in natural order of their names, and the others with their reasons."""

    folder: Path
    pack: str  # identity
    expressions: ExpressionModel | None  # what read them
    candidates: list[Candidate]
    not_used: list[NotUsed]
    synthetic_left_out: list[Candidate] = field(default_factory=list)  # which --allow-synthetic would take
    warnings: list[str] = field(default_factory=list)
    sensors: GapSensors | None = None  # who measured, for a gap file


def read_dataset(args: argparse.Namespace, cache: FaceCache) -> ExportDataset:
    """Measure the folder of the options. Raises UserError where there is nothing to choose from."""
    folder = demand_folder(args.dataset, "--dataset takes the folder with the pictures of the person.")
    listing = list_images(folder, args.recursive, IMAGE_EXTENSIONS)
    tell_ignored(listing.ignored)
    if not listing.images:
        deeper = " Its sub-folders are taken in with --recursive." if listing.subfolders else ""
        raise UserError(f"{folder} holds no pictures ({', '.join(IMAGE_EXTENSIONS)}).{deeper}")
    measurer, sensor = _measurer(args, cache), find_expressions(args.models_dir, args.expression_model, args.device)
    names = [readable(path.relative_to(folder).as_posix()) for path in listing.images]
    pictures = [Picture(REFERENCE, folder.name, *one) for one in zip(names, listing.images, strict=True)]
    measurer.measure(pictures, _beside(sensor))
    elsewhere = missed_cuda(args.device, {picture.face.provider for picture in pictures if picture.face is not None})
    if elsewhere:
        say(elsewhere)
    model = None if sensor is None else sensor.model
    origins, problems = origins_of(listing.images, cache)
    generated = [origin is not None or not is_of_person(name) for origin, name in zip(origins, names, strict=True)]
    empty = ExportDataset(folder, measurer.identity, model, [], [], warnings=[*listing.problems, *problems])
    empty.sensors = GapSensors(angle=PackAngles(measurer).info, expression=sensor.identity if sensor else None)
    return _sorted_out(empty, pictures, generated, args.allow_synthetic)


def _measurer(args: argparse.Namespace, cache: FaceCache) -> Measurer:
    choice = SensorChoice(
        models_dir=args.models_dir,
        pack=args.pack,
        device=args.device,
        engine=args.engine,
        precision=args.precision,
        max_megapixels=args.max_megapixels,
    )
    measurer = find_measurer(choice, cache)
    if measurer is None:
        raise UserError(
            f"The InsightFace pack {args.pack or PACK} is not here, and without one no face can be measured.",
            "  python mirror_metrics.py --reference FOLDER, with the folder of your photos, downloads it once, or "
            f"unzip it into {args.models_dir / PACK}; --pack takes another one.",
        )
    return measurer


def _beside(sensor: ExpressionSensor | None) -> Beside:
    """Pixels, light and expression of a picture, in one."""
    kinds, reads = [BESIDE.kind, f"light-{_VERSION}"], None
    if sensor is not None:
        reads = sensor.beside()
        kinds.append(reads.kind)

    def measure(image: np.ndarray, face: FaceMeasurement) -> bytes:
        light = Light.of(image, face)
        known = [json.loads(BESIDE.measure(image, face)), None if light is None else asdict(light)]
        return json.dumps([*known, reads.measure(image, face).decode() if reads else None]).encode()

    return Beside(kind=" ".join(kinds), measure=measure)


def _read_beside(picture: Picture) -> tuple[Photo, Light | None, Reading | None]:
    """What `_beside` measured."""
    pixels, light, reading = json.loads(picture.beside) if picture.beside else (None, None, None)
    photo = Photo(
        picture.filename,
        picture.status,
        picture.reason,
        picture.face,
        None if pixels is None else PhotoPixels(**pixels),
        picture.thumbnail,
    )
    return photo, None if light is None else Light(**light), reading_of(reading.encode() if reading else None)


def _sorted_out(
    dataset: ExportDataset, pictures: list[Picture], generated: list[bool], allow_synthetic: bool
) -> ExportDataset:
    """Who may be chosen; `generated` goes with `pictures`.

    Raises UserError where there is no face, or where there are two persons.
    """
    folder, known = dataset.folder, [_read_beside(picture) for picture in pictures]
    photos = [photo for photo, _, _ in known]
    faces = [photo for photo in photos if photo.measured]
    if not faces:
        raise UserError(
            f"No face was found in the {len(photos)} picture(s) of {folder}. Check that it holds photos of the person."
        )
    _demand_one_person(folder, faces)
    found, likeness = check(photos, []), _likeness(faces)
    for picture, is_synthetic, (photo, light, reading) in zip(pictures, generated, known, strict=True):
        faults = [fault for fault in found.faults if fault.file == photo.file]
        dropping = [fault for fault in faults if fault.fault == OUTLIER and not fault.keep]
        if not photo.measured or light is None or dropping:
            reason = (dropping or faults)[0].sentence if faults else "Its face could not be measured."
            dataset.not_used.append(NotUsed(file=photo.file, reason=reason))
            continue
        candidate = Candidate(
            photo.file,
            picture.path,
            photo.face,
            photo.pixels,
            light,
            likeness.get(photo.file),
            is_synthetic,
            reading,
            tuple(fault.sentence for fault in faults),
            tuple(fault.fault for fault in faults),
        )
        if candidate.is_synthetic and not allow_synthetic:
            dataset.synthetic_left_out.append(candidate)
            dataset.not_used.append(NotUsed(file=photo.file, reason=GENERATED))
        else:
            dataset.candidates.append(candidate)
    _demand_candidates(dataset, len(photos))
    return dataset


def _demand_candidates(dataset: ExportDataset, count: int) -> None:
    if not dataset.candidates:
        raise UserError(f"None of the {count} picture(s) of {dataset.folder} can be used: {_why(dataset.not_used)}")
    generated = len(dataset.synthetic_left_out)
    left_out = f"; {generated} generated one(s) are left out, --allow-synthetic takes them." if generated else "."
    say(f"{len(dataset.candidates)} of {count} picture(s) of {dataset.folder} can be chosen from{left_out}")


def _why(not_used: list[NotUsed]) -> str:
    first = not_used[0]
    more = f" (and {len(not_used) - 1} more)" if len(not_used) > 1 else ""
    return f"{first.file}: {first.reason.rstrip('.')}{more}."


def _demand_one_person(folder: Path, faces: list[Photo]) -> None:
    embeddings = np.stack([photo.face.embedding for photo in faces])
    yaws = np.array([photo.face.yaw_deg for photo in faces])
    other = two_persons(embeddings, yaws)
    if other is None:
        return
    files = [photo.file for photo, is_other in zip(faces, other, strict=True) if is_other]
    raise UserError(
        f"{folder} shows two persons: {len(faces) - len(files)} pictures of one and {len(files)} of another (such as "
        f"{files[0]}). Give each a folder of their own; python facevault.py sorts photos by person."
    )


def _likeness(faces: list[Photo]) -> dict[str, float]:
    """By file; empty where there are too few faces to say what is usual."""
    if len(faces) < LIMITS.fewest_faces:
        return {}
    similarity = leave_one_out(np.stack([photo.face.embedding for photo in faces]))
    values = pose_corrected(similarity, np.array([photo.face.yaw_deg for photo in faces]))
    return {photo.file: round(float(value), 4) for photo, value in zip(faces, values, strict=True)}
