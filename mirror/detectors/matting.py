"""Matting models: an ONNX file in, and how opaque each pixel of a person's picture is.

    model = MattingModel(Path("modnet.onnx"))
    alpha = model.alpha(image)    # image (H, W, 3) uint8 BGR -> (H, W) float32, 0 background to 1 person

A file is known by its input's name and size; its first output is the matte, of one channel. Read are
    MODNet      `input` (N, 3, free, free): RGB / 127.5 - 1, longer side 512, sides multiples of 32; the matte as it is
                (github.com/ZHKKKe/MODNet, onnx/inference_onnx.py and export_onnx.py)
    U-2-Net     (N, 3, 320, 320), also silueta and u2net_human_seg: RGB by its largest value, less ImageNet's mean, by
                its deviation; the matte stretched from its least to its largest value
                (github.com/danielgatis/rembg, rembg/sessions/base.py and u2net_human_seg.py)
    RMBG-1.4    `input` (N, 3, 1024, 1024): RGB / 255 - 0.5; the matte stretched
                (huggingface.co/briaai/RMBG-1.4, preprocess_image and postprocess_image of its README)
    BiRefNet    `input_image` (N, 3, S, S): RGB / 255, less ImageNet's mean, by its deviation; the sigmoid of the output
                (github.com/danielgatis/rembg, rembg/sessions/birefnet_general.py; the names are those of
                huggingface.co/onnx-community/BiRefNet-ONNX)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mirror.detectors.providers import open_session
from utils.console import UserError
from utils.files import reason_of

MODNET, U2NET, RMBG, BIREFNET = "MODNet", "U-2-Net", "RMBG-1.4", "BiRefNet"  # kinds of files

_MODNET_SIDE, _MODNET_STEP = 512, 32
_U2NET_SIDE, _RMBG_SIDE = 320, 1024
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, RGB
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_FLAT = 1e-6  # a matte with less between its least and its largest value shows nothing to stretch


@dataclass(frozen=True)
class _Kind:
    """How a model is fed and read."""

    name: str
    side: int | None  # pixels of the square input; None: any size
    prepare: Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 RGB -> (H, W, 3) float32
    finish: Callable[[np.ndarray], np.ndarray]  # (H, W) float32 -> the same from 0 to 1


class MattingModel:
    """A loaded model. Raises UserError: one sentence naming the file."""

    def __init__(self, path: Path, device: str = "auto"):
        self.path = Path(path)
        try:
            data = self.path.read_bytes()  # once: what has the hash is what is run
        except OSError as error:
            raise UserError(f"The matting model {path} cannot be read: {reason_of(error)}.") from error
        self.identity = f"{self.path.name}@{hashlib.sha256(data).hexdigest()[:12]}"
        self._session = open_session(self.path, data, device)
        self._kind = _kind_of(self.path, self._session)

    @property
    def kind(self) -> str:
        """MODNET, U2NET, RMBG or BIREFNET."""
        return self._kind.name

    def alpha(self, image: np.ndarray) -> np.ndarray:
        """(H, W) float32, 0 to 1, of an `image` (H, W, 3) uint8 BGR. Raises UserError where the network fails."""
        height, width = image.shape[:2]
        size = _modnet_size(width, height) if self._kind.side is None else (self._kind.side, self._kind.side)
        shrinks = width * height > size[0] * size[1]
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        matte = self._kind.finish(_run(self.path, self._session, self._kind.prepare(small[..., ::-1])))
        return np.clip(cv2.resize(matte, (width, height), interpolation=cv2.INTER_LINEAR), 0.0, 1.0)


def _run(path: Path, session: Any, values: np.ndarray) -> np.ndarray:
    """The first output (H, W) float32 for values (H, W, 3) float32. Raises UserError."""
    given = np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)
    try:
        answer = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: given})[0]
    except Exception as error:  # onnxruntime says in many ways that a network does not run
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be used as a matting model: it does not run ({reason}).") from error
    if answer.ndim != 4 or answer.shape[:2] != (1, 1):
        raise UserError(f"{path} is no matting model: its output {list(answer.shape)} is not of one channel.")
    return answer[0, 0].astype(np.float32)


def _kind_of(path: Path, session: Any) -> _Kind:
    """By the input's name and size. Raises UserError."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    first, shape = inputs[0], inputs[0].shape
    is_picture = len(inputs) == 1 and first.type == "tensor(float)" and len(shape) == 4 and shape[1] == 3
    kind = _named(first.name, shape[2:]) if is_picture else None
    channels = outputs[0].shape[1] if len(outputs[0].shape) == 4 else None
    if kind is None or (isinstance(channels, int) and channels != 1):
        raise UserError(
            f"{path} is no matting model that is known: it takes {first.name} {first.type} {shape} and gives "
            f"{outputs[0].shape}. Known are {MODNET}, {U2NET}, {RMBG} and {BIREFNET}."
        )
    return kind


def _named(name: str, size: list) -> _Kind | None:
    """The kind of an input of this name and [height, width]; None for an unknown one."""
    height, width = (edge if isinstance(edge, int) else None for edge in size)
    if name == "input_image" and height == width:
        return _Kind(BIREFNET, height or _RMBG_SIDE, _imagenet, _sigmoid)
    if (height, width) == (_U2NET_SIDE, _U2NET_SIDE):
        return _Kind(U2NET, _U2NET_SIDE, _imagenet_by_largest, _stretched)
    if name == "input" and (height, width) == (_RMBG_SIDE, _RMBG_SIDE):
        return _Kind(RMBG, _RMBG_SIDE, _centred, _stretched)
    if name == "input" and height is None and width is None:
        return _Kind(MODNET, None, _plus_minus_one, _as_it_is)
    return None


def _modnet_size(width: int, height: int) -> tuple[int, int]:
    scale = _MODNET_SIDE / max(width, height)
    wide, high = (max(_MODNET_STEP, int(edge * scale) // _MODNET_STEP * _MODNET_STEP) for edge in (width, height))
    return wide, high


# Pixels into values: (H, W, 3) uint8 RGB to (H, W, 3) float32


def _plus_minus_one(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 127.5 - 1


def _centred(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255 - 0.5


def _imagenet(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) / 255 - _MEAN) / _DEVIATION


def _imagenet_by_largest(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) / max(1, int(pixels.max())) - _MEAN) / _DEVIATION


# Outputs into mattes


def _as_it_is(matte: np.ndarray) -> np.ndarray:
    return matte


def _sigmoid(matte: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(matte, -80, 80)))


def _stretched(matte: np.ndarray) -> np.ndarray:
    least, largest = float(matte.min()), float(matte.max())
    return (matte - least) / (largest - least) if largest - least > _FLAT else matte
