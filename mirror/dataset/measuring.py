"""What validation measures before it judges: the real photos, the generated images, and what no sensor can see."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mirror.contracts.summary import CANDIDATE
from mirror.dataset.angles import PackAngles
from mirror.dataset.batch import Batch, list_pictures
from mirror.dataset.checks import IDENTITY, REFERENCES, Thresholds
from mirror.dataset.examiner import ExaminedPicture, Examiner
from mirror.dataset.gaps import ANGLE, EXPRESSION, EYES, GAP_TYPES, HANDS, GapType
from mirror.dataset.sensors import SensorChoice, Sensors, find_measurer, find_sensors, no_expression_model
from mirror.dataset.sorting import folders_of, hash_of
from mirror.detectors.detectors import EYE, HAND
from mirror.faces.cache import FaceCache
from mirror.faces.engine import FaceMeasurement
from mirror.faces.measurer import Measurer, Picture
from mirror.faces.metrics import FEWEST_REFERENCES, reference_level
from utils.captions import is_copy_of
from utils.console import UserError
from utils.defaults import (
    DETECTOR_FILES,
    MODELS_FOLDER,
    PACK,
    SYNTHETIC_PREFIX,
)

_HOW_TO_CHOOSE = {EXPRESSION: "--expression-model"}


@dataclass
class References:
    """The real photos: all `pictures` of the dataset, and (file, face) of those that show the person."""

    folder: Path | None
    pictures: list[ExaminedPicture]
    faces: list[tuple[str, FaceMeasurement]]


@dataclass
class Measured:
    """All that the images are judged by. `pool` (name, hash) are the pictures that none of them may repeat."""

    choice: SensorChoice
    sensors: Sensors
    measurer: Measurer | None  # None: no pack, so faces cannot be compared
    references: References
    thresholds: Thresholds
    faces: dict[str, FaceMeasurement]  # of the images, by file
    pool: list[tuple[str, int]]


def what_is_missing(args: argparse.Namespace, batch: Batch, sensors: Sensors) -> dict[str, str]:
    """Sensors that no image can be measured with, and why. Raises UserError for another one than found the gaps."""
    now, then = sensors.info, batch.sensors
    missing = {}
    for word, kind, identity in ((HANDS, HAND, now.hands), (EYES, EYE, now.eyes)):
        if identity is None:
            missing[word] = f"there is no {kind} detector: put {DETECTOR_FILES[kind]} into the models folder"
    if now.expression is None:
        missing[EXPRESSION] = no_expression_model("the models folder")
    if then is None:
        return missing
    pairs = (
        (ANGLE, then.angle.identity, now.angle.identity),
        (HANDS, then.hands, now.hands),
        (EYES, then.eyes, now.eyes),
        (EXPRESSION, then.expression, now.expression),
    )
    for word, before, after in pairs:
        if None in (before, after) or before == after:
            continue
        if word not in args.allow_unverified:
            how = _HOW_TO_CHOOSE.get(word, "--pack, --models-dir")
            raise UserError(
                f"The gaps were found with {before}, and this is {after}: what they measure cannot be compared. "
                f"Use the first one again ({how}), or skip this check: --allow-unverified {word}."
            )
        missing[word] = f"the gaps were found with another sensor ({before})"
    return missing


def measure(args: argparse.Namespace, batch: Batch, cache: FaceCache) -> Measured:
    """Look at real photos, approved images and the batch. Raises UserError where a sensor is missing or another one."""
    choice = sensor_choice_of(args, batch)
    sensors = find_sensors(choice, cache, "validated")
    missing = what_is_missing(args, batch, sensors)
    is_pack = isinstance(sensors.angle, PackAngles)
    measurer = sensors.angle.measurer if is_pack else find_measurer(choice, cache)
    if measurer is None:
        missing[IDENTITY] = f"the InsightFace pack {choice.pack or PACK} is not here: faces cannot be compared"
    real = [] if batch.dataset is None else list_pictures(batch, batch.dataset, batch.recursive)
    before = approved_before(args, batch)
    comparing = None if is_pack else measurer
    types = told_types(sensors)
    Examiner(sensors, types, cache, choice.max_megapixels, comparing).examine(real + before + batch.pictures)
    known = measure_faces(measurer, [one for one in real if is_of_person(one.file)])
    references = References(batch.dataset, real, list(known.items()))
    thresholds = thresholds_of(references, types, missing)
    own = {hash_of(one, cache) for one in batch.pictures}
    others = [one for one in real if hash_of(one, cache) not in own]  # this batch may be merged already
    pool = pool_of(others, "the dataset") + pool_of(before, "the approved images")
    return Measured(choice, sensors, measurer, references, thresholds, measure_faces(measurer, batch.pictures), pool)


def told_types(sensors: Sensors) -> dict[str, GapType]:
    """The gap types and targets that these sensors tell: without an expression model nothing measures an expression."""
    told = sensors.told(GAP_TYPES)
    return {name: gap for name, gap in told.items() if gap.needs != EXPRESSION or sensors.expressions is not None}


def measure_faces(measurer: Measurer | None, pictures: list[ExaminedPicture]) -> dict[str, FaceMeasurement]:
    """The largest face by file, of the pictures that have one; what was measured already comes from the cache."""
    if measurer is None:
        return {}
    listed = [Picture(CANDIDATE, "Comparing", one.file, one.path) for one in pictures]
    measurer.measure(listed)
    return {one.filename: one.face for one in listed if one.measured}


def is_of_person(file: str) -> bool:
    """Whether a picture of the dataset is a real photo: generated ones that were merged keep their prefix."""
    return not file.rpartition("/")[2].startswith(SYNTHETIC_PREFIX)


def thresholds_of(references: References, types: Mapping[str, GapType], missing: dict[str, str]) -> Thresholds:
    """What the images are compared with; adds to `missing` what cannot be known without photos of the person."""
    import numpy as np

    if not references.pictures:
        missing[REFERENCES] = "there are no real photos to compare with; --reference names their folder"
        missing[IDENTITY] = missing[REFERENCES]
    embeddings = [face.embedding for _, face in references.faces]
    yaws = np.array([face.yaw_deg for _, face in references.faces])
    level = reference_level(np.stack(embeddings), yaws) if embeddings else None
    if level is None and IDENTITY not in missing:
        missing[IDENTITY] = (
            f"faces were found in {len(embeddings)} real photo(s) of the person, and {FEWEST_REFERENCES} are needed"
        )
    real = [one.record.sharpness for one in references.pictures if one.record.size_wh and is_of_person(one.file)]
    return Thresholds(types, level, float(np.median(real)) if real else None, missing)


def sensor_choice_of(args: argparse.Namespace, batch: Batch) -> SensorChoice:
    """The options, and where they are not given what the gap file was made with."""
    from dataclasses import fields

    own = ("device", "engine", "precision", "max_megapixels")  # of the machine and the run, not of the gap file
    values = {}
    for one in fields(SensorChoice):
        given = getattr(args, one.name)
        kept = batch.settings.get(one.name) if one.name not in own else None
        if given is not None or kept is not None:
            values[one.name] = kept if given is None else given
    return SensorChoice(**values | {"models_dir": Path(values.get("models_dir", MODELS_FOLDER))})


def pool_of(pictures: list[ExaminedPicture], whose: str) -> list[tuple[str, int]]:
    """Name and hash of every picture that could be read."""
    return [(f"{one.file} of {whose}", int(one.record.picture_hash, 16)) for one in pictures if one.record.picture_hash]


def approved_before(args: argparse.Namespace, batch: Batch) -> list[ExaminedPicture]:
    """Pictures in the folder of approved ones that are no copies of this batch: an earlier run must not reject it."""
    folder = folders_of(args)["approved"]
    if not folder.is_dir():
        return []
    return [
        one for one in list_pictures(batch, folder) if not any(is_copy_of(one.path, own.path) for own in batch.pictures)
    ]
