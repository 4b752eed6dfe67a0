"""Which sensors look at a dataset: those that a user asked for, else those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from mirror.contracts.gaps import GapSensors
from mirror.dataset.angles import DetectorAngles, PackAngles
from mirror.dataset.boxes import BoxSensor
from mirror.dataset.gaps import GapType, expression
from mirror.detectors.detectors import EYE, FACE, HAND, find_detector
from mirror.detectors.engines import EXACT, choose_engine
from mirror.detectors.expressions import ExpressionModel, find_expression_model
from mirror.faces.cache import FaceCache
from mirror.faces.expressions import ExpressionSensor
from mirror.faces.measurer import Measurer
from mirror.faces.packs import find_pack
from utils.console import UserError, say
from utils.defaults import DEMO_EXPRESSION, DETECTOR_FILES, MAX_MEGAPIXELS, MODELS_FOLDER, PACK
from utils.files import readable, reason_of


@dataclass(frozen=True)
class Sensors:
    """All that look at a picture; hands, eyes and expressions are None where there is no model for them."""

    angle: PackAngles | DetectorAngles
    hands: BoxSensor | None = None
    eyes: BoxSensor | None = None
    expressions: ExpressionSensor | None = None

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
            expression=self.expressions.identity if self.expressions else None,
        )

    def untold(self, gap: GapType) -> tuple[str, ...]:
        """The targets of a type that the expression model does not tell; none where there is no model."""
        if gap.measure is not expression or self.expressions is None:
            return ()
        return tuple(target.name for target in gap.targets if target.name not in self.expressions.tells)

    def told(self, types: Mapping[str, GapType]) -> dict[str, GapType]:
        """`types` without such targets: that a model never says "laughing" does not mean that nobody laughs."""
        kept = {name: [one for one in gap.targets if one.name not in self.untold(gap)] for name, gap in types.items()}
        return {name: replace(gap, targets=tuple(kept[name])) for name, gap in types.items()}


@dataclass(frozen=True)
class SensorChoice:
    """Which sensors a user asked for; None: the default file, where it is there. gaps.json keeps it in its settings."""

    models_dir: Path
    angle_sensor: str = "auto"  # auto, pack or detector
    pack: str | None = None  # name or folder
    face_model: str | None = None
    hand_model: str | None = None
    eye_model: str | None = None
    expression_model: str | None = None
    hand_classes: str | None = None  # class names with commas between
    eye_classes: str | None = None
    device: str = "auto"
    engine: str = "auto"  # what runs the pack, see mirror.detectors.engines
    precision: str = "exact"
    max_megapixels: float = MAX_MEGAPIXELS

    def settings(self) -> dict[str, str | float | None]:
        """Plain values; folders absolute, so that the next script finds them from wherever it runs."""
        values = asdict(self) | {"models_dir": readable(str(self.models_dir.resolve()))}
        if self.pack and Path(self.pack).expanduser().is_dir():
            values["pack"] = readable(str(Path(self.pack).expanduser().resolve()))
        if self.expression_model and (path := find_expression_model(self.models_dir, self.expression_model)):
            values["expression_model"] = readable(str(path.resolve()))
        return values


def sensor_choice(options: object) -> SensorChoice:
    """Those of a script's options, attributes of one object, that are about sensors."""
    return SensorChoice(**{field.name: getattr(options, field.name) for field in fields(SensorChoice)})


def find_sensors(choice: SensorChoice, cache: FaceCache, action: str) -> Sensors:
    """The pack, or else the face detector; the others where there are models. Raises UserError without angles.

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
    engine = choose_engine(choice.engine, choice.precision, choice.device)
    if measurer is None and engine.said:  # a pack's measurer says it itself
        say(f"Note: {engine.said}")
    # a face detector stays exact, as angles come from its points; of hands and eyes presence counts. Fast on a GPU
    # says nothing of the CPU, which runs these.
    precision = EXACT if engine.gpu else engine.precision
    return Sensors(
        angle,
        hands=_box_sensor(HAND, choice.hand_model, choice, cache, choice.hand_classes, precision),
        eyes=_box_sensor(EYE, choice.eye_model, choice, cache, choice.eye_classes, precision),
        expressions=find_expressions(choice.models_dir, choice.expression_model, choice.device, cache),
    )


def find_expressions(
    models_dir: Path, named: str | None, device: str, cache: FaceCache | None = None
) -> ExpressionSensor | None:
    """The expression model that was named, else the one that is there; None if there is none. Raises UserError."""
    path = find_expression_model(models_dir, named)
    if path is None and named:
        raise UserError(f"The expression model {named} is not in {models_dir}, and no file is called so.")
    if path is None:
        return None
    model = ExpressionModel(path, device)
    say(f"Expression model {model.identity} ({model.kind}): it tells {', '.join(model.tells)}.")
    if path.resolve() == DEMO_EXPRESSION.resolve():
        say("It was trained on rendered heads only: for the demo and for tests, not for photos of people.")
    return ExpressionSensor(model, cache)


def no_expression_model(models_dir: Path | str) -> str:
    """Why expressions are not measured, and what would measure them."""
    return f"there is no expression model: put one, such as emotion-ferplus-8.onnx, into {models_dir}"


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
    engine = choose_engine(choice.engine, choice.precision, choice.device)
    return Measurer(pack, cache, choice.device, max_megapixels=choice.max_megapixels, engine=engine)


def _box_sensor(
    kind: str,
    name: str | None,
    choice: SensorChoice,
    cache: FaceCache,
    classes: str | None = None,
    precision: str = EXACT,
) -> BoxSensor | None:
    path = find_detector(kind, choice.models_dir, name)
    if path is None and name:
        raise UserError(f"The {kind} detector {name} is not in {choice.models_dir}.")
    try:
        return None if path is None else BoxSensor(kind, path, choice.device, cache, classes, precision)
    except OSError as error:
        raise UserError(f"The {kind} detector {path} cannot be read: {reason_of(error)}.") from error
