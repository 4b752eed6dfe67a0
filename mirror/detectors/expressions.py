"""Expression models: an ONNX file in, and what the face in a crop shows.

    model = ExpressionModel(find_expression_model(Path("models")))
    reading = model.read(crop)    # crop: (H, W, 3) uint8 BGR of one face, of any size
    reading.expression            # one of `model.tells`; None: the model is not sure, or it shows something else

A file is known by its input, its output and its metadata, never by its name alone. Three kinds are read:
    ours        (N, 3, H, W) float32 RGB in [0, 1]; metadata `mirror.expressions`: names with commas between, in the
                order of the output (N, number of names), which are logits (demo/train_expression.py)
    FER+        (N, 1, 64, 64) float32 grey 0 to 255; 8 logits (github.com/onnx/models, README of
                vision/body_analysis/emotion_ferplus)
    HSEmotion   (N, 3, S, S) float32 RGB / 255, less ImageNet's mean, by its deviation, S 224 (EfficientNet-B0) or 260
                (B2), the input named `input`; 8 logits, or 7 without contempt, or the 8 and valence and arousal
                (github.com/av-savchenko/hsemotion-onnx, hsemotion_onnx/facial_emotions.py)
All three take the softmax of their logits as shares.

FER+ and HSEmotion know one word for a happy face, which is read as `smile`: whether somebody laughs out loud they do
not tell, and a serious face they call neutral, angry or sad. So `laughing` and `serious` are not measured with them.
Disgust, fear and contempt are no expression of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mirror.contracts.expressions import EXPRESSIONS
from mirror.detectors.providers import open_session
from utils.console import UserError
from utils.defaults import EXPRESSION_FILES
from utils.files import reason_of

FERPLUS, HSEMOTION, OURS = "FER+", "HSEmotion", "MirrorMetrics"  # kinds of files
OTHER = "other"  # what is none of EXPRESSIONS: disgust, fear, contempt
METADATA_KEY = "mirror.expressions"

# A share of one half is more than all others together. Our choice: below it a model has seen two things at once, and a
# picture that may be either is counted as neither.
CONFIDENCE = 0.5

_NAMES = {
    "neutral": "neutral",
    "happiness": "smile",
    "surprise": "surprised",
    "sadness": "sad",
    "anger": "angry",
    "disgust": OTHER,
    "fear": OTHER,
    "contempt": OTHER,
}
_FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_HSEMOTION = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
_HSEMOTION_BY_WIDTH = {
    8: _HSEMOTION,
    7: tuple(name for name in _HSEMOTION if name != "contempt"),
    10: _HSEMOTION,  # valence and arousal follow
}
_FERPLUS_SIDE, _HSEMOTION_SIDES = 64, (224, 260)
_FREE_SIDE = 128  # pixels, of a crop for one of ours that takes any size

# Side of the square that is cut out, by the longer side of the face's box. FER+ learned from pictures of 48 x 48 that
# the face fills (github.com/microsoft/FERPlus, src/ferplus.py takes them whole); HSEmotion is shown the box of a face
# (github.com/av-savchenko/hsemotion-onnx, demo/). Ours sees some of the head's outline too, our choice.
_FERPLUS_GROWTH = _HSEMOTION_GROWTH = 1.0
OURS_GROWTH = 1.2

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, RGB
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Reading:
    """What a model sees in one face: the share of each expression that it tells, and of everything else."""

    scores: dict[str, float]  # those of `tells`, and OTHER; they add up to 1

    @property
    def best(self) -> str:
        """The largest share, however small; it may be OTHER."""
        return max(self.scores, key=self.scores.get)

    @property
    def expression(self) -> str | None:
        """What the face shows; None where the model is not sure, or it is none of the expressions."""
        return self.best if self.best != OTHER and self.scores[self.best] > CONFIDENCE else None


@dataclass(frozen=True)
class _Kind:
    """How a model is fed and read."""

    name: str
    classes: tuple[str, ...]  # of EXPRESSIONS, or OTHER; one for each of the first numbers of the output
    side: int  # pixels of the square input
    prepare: Callable[[np.ndarray], np.ndarray]  # (side, side, 3) uint8 BGR -> (C, side, side) float32
    growth: float  # side of the square that is cut out, by the longer side of the face's box


class ExpressionModel:
    """A loaded model. `read` may be called from several threads. Raises UserError: one sentence naming the file."""

    def __init__(self, path: Path, device: str = "auto"):
        self.path = Path(path)
        try:
            data = self.path.read_bytes()  # once: what has the hash is what is run
        except OSError as error:
            raise UserError(f"{path} cannot be read: {reason_of(error)}.") from error
        self.identity = f"{self.path.name}@{hashlib.sha256(data).hexdigest()[:12]}"
        self._session = open_session(self.path, data, device)
        self._kind = _kind_of(self.path, self._session)
        self._input = self._session.get_inputs()[0].name

    @property
    def kind(self) -> str:
        """FERPLUS, HSEMOTION or OURS."""
        return self._kind.name

    @property
    def tells(self) -> tuple[str, ...]:
        """Those of EXPRESSIONS that it can tell, in their order."""
        return tuple(name for name in EXPRESSIONS if name in self._kind.classes)

    @property
    def growth(self) -> float:
        """Side of the square that it wants to see, by the longer side of the face's box."""
        return self._kind.growth

    def read(self, crop: np.ndarray) -> Reading:
        """What the face in a square `crop` (H, W, 3) uint8 BGR shows."""
        side = self._kind.side
        # averaging where the crop shrinks: skipping pixels would make the result depend on noise
        method = cv2.INTER_AREA if min(crop.shape[:2]) > side else cv2.INTER_LINEAR
        values = self._kind.prepare(cv2.resize(crop, (side, side), interpolation=method))
        logits = self._session.run(None, {self._input: np.ascontiguousarray(values[None])})[0][0]
        shares = _softmax(logits[: len(self._kind.classes)].astype(np.float64))
        scores = dict.fromkeys((*self.tells, OTHER), 0.0)
        for name, share in zip(self._kind.classes, shares, strict=True):
            scores[name] += float(share)
        return Reading(scores)


def find_expression_model(models_dir: Path, named: str | None = None) -> Path | None:
    """The file of an expression model in `models_dir`, by the patterns of EXPRESSION_FILES; None if there is none.

    `named` is another file's name there, or its path.
    """
    if named is not None:
        own = Path(named).expanduser()
        return next((path for path in (Path(models_dir) / own, own) if path.is_file()), None)
    found = (path for pattern in EXPRESSION_FILES for path in sorted(Path(models_dir).glob(pattern)))
    return next((path for path in found if path.is_file()), None)


# Which kind a file is


def _kind_of(path: Path, session: Any) -> _Kind:
    """How a file is read, by what it says of itself and by how much it gives. Raises UserError."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    first, names = inputs[0], session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    kind = None
    if len(inputs) == len(outputs) == 1 and first.type == "tensor(float)" and _is_one_picture(first.shape):
        kind = _ours(path, names, session, first) if names is not None else _known(path, session, first)
    if kind is None:
        raise UserError(
            f"{path} is no expression model: it takes {first.name} {first.type} {first.shape} "
            f"and gives {outputs[0].shape}. Known are FER+, HSEmotion's EfficientNets, "
            f"and models with the metadata {METADATA_KEY}."
        )
    return kind


def _is_one_picture(shape: list) -> bool:
    """(N, C, H, W) where N may be 1; what is free is a name or None."""
    return len(shape) == 4 and (shape[0] == 1 or not isinstance(shape[0], int))


def _ours(path: Path, names: str, session: Any, first: Any) -> _Kind | None:
    """A model that names its classes; None where its input is no square RGB picture. Raises UserError."""
    classes, known = tuple(name.strip() for name in names.split(",")), (*EXPRESSIONS, OTHER)
    sides = {edge if isinstance(edge, int) else _FREE_SIDE for edge in first.shape[2:]}
    if first.shape[1] != 3 or len(sides) != 1:
        return None
    side = sides.pop()
    wrong = [f"{name!r} is none of {', '.join(known)}" for name in classes if name not in known]
    if len(set(classes)) < max(2, len(classes)):
        wrong.append("two names at least are needed, each once")
    if not wrong and (width := _width(path, session, first, side)) != len(classes):
        wrong.append(f"the file gives {width} numbers")
    if wrong:
        raise UserError(f"{path} cannot be used: its metadata {METADATA_KEY} is {names!r}, and {wrong[0]}.")
    return _Kind(OURS, classes, side, _rgb, OURS_GROWTH)


def _known(path: Path, session: Any, first: Any) -> _Kind | None:
    """FER+ or HSEmotion, which say nothing of themselves; None where it is neither. Raises UserError."""
    size = first.shape[1:]
    if size == [1, _FERPLUS_SIDE, _FERPLUS_SIDE]:
        by_width, prepare, growth, name = {len(_FERPLUS): _FERPLUS}, _grey, _FERPLUS_GROWTH, FERPLUS
    elif first.name == "input" and size in [[3, side, side] for side in _HSEMOTION_SIDES]:
        by_width, prepare, growth, name = _HSEMOTION_BY_WIDTH, _normalised, _HSEMOTION_GROWTH, HSEMOTION
    else:
        return None
    names = by_width.get(_width(path, session, first, size[-1]))
    return _Kind(name, tuple(_NAMES[one] for one in names), size[-1], prepare, growth) if names else None


def _width(path: Path, session: Any, first: Any, side: int) -> int:
    """Numbers for one picture; finds out now, not at the first face, that a network does not run. Raises UserError."""
    try:
        answer = session.run(None, {first.name: np.zeros((1, first.shape[1], side, side), np.float32)})[0]
        return answer.shape[1] if answer.shape[:1] == (1,) and answer.ndim == 2 else 0
    except Exception as error:  # onnxruntime says in many ways that a network does not run
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be used as an expression model: it does not run ({reason}).") from error


# Pixels into a network's input: (side, side, 3) uint8 BGR to (C, side, side) float32


def _grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[None].astype(np.float32)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _normalised(pixels: np.ndarray) -> np.ndarray:
    return (_rgb(pixels) - _MEAN[:, None, None]) / _DEVIATION[:, None, None]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
