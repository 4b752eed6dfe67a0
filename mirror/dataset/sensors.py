"""Which sensors look at a dataset: those that a user asked for, else those that are there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mirror.contracts.gaps import GapSensors
from mirror.dataset.angles import DetectorAngles, PackAngles
from mirror.dataset.boxes import BoxSensor
from mirror.detectors.detectors import EYE, FACE, HAND, find_detector
from mirror.faces.cache import FaceCache
from mirror.faces.measurer import Measurer
from mirror.faces.packs import find_pack
from utils.console import UserError, say
from utils.defaults import DETECTOR_FILES, MAX_MEGAPIXELS, MODELS_FOLDER, PACK
from utils.files import readable, reason_of


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


def find_sensors(choice: SensorChoice, cache: FaceCache, action: str) -> Sensors:
    """The pack, or else the face detector; hands and eyes where there are detectors. Raises UserError without angles.

    `action` is what was not done then: "analysed".
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
            f"There is nothing to measure angles with, so nothing was {action}. One of these is needed:",
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
