"""A stand-in for buffalo_l: five networks of its build and cost, random weights, exactly one face in every picture.

    python -m benchmarks.standin_pack DIR            # costs what buffalo_l costs
    python -m benchmarks.standin_pack DIR --tiny     # a few channels wide, for tests

Speed does not depend on what the weights are, so a benchmark needs no download. How a network is built does matter,
because many small steps profit less from several threads than few large ones. So the detector has the layers of
SCRFD-10GF (Guo et al. 2021), the recogniser those of IResNet-50 (Deng et al. 2019), the 3-D landmark model those of
ResNet-50 (He et al. 2015); the two small ones are plain columns of convolutions. `cost` counts their
multiply-accumulates: 13.3 G at 640 x 640, 6.3 G, 3.0 G, 0.1 G and 0.01 G, as in buffalo_l.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DETECTOR_SIDE = 640
_FACE_BOX = (200.0, 120.0, 360.0, 320.0)  # in the detector's input; inside every picture up to 2:1


class _Graph:
    """Collects nodes and weights, and counts what they cost. A value is (name, channels, side)."""

    def __init__(self, seed: int, thin: int):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.cost = 0.0  # multiply-accumulates
        self._thin = thin  # divides all channels
        self._random = np.random.default_rng(seed)

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(self, value: tuple, channels: int, size: int = 3, stride: int = 1, end: str | None = "Relu") -> tuple:
        """Convolution with its batch norm folded in, then `end`: Relu, PRelu or nothing."""
        name, before, side = value
        channels = max(6, channels // self._thin)
        side = (side + stride - 1) // stride
        scale = np.sqrt(2 / (before * size * size))
        weights = self._random.standard_normal((channels, before, size, size)) * scale
        inputs = [name, self.constant(weights.astype(np.float32)), self.constant(np.zeros(channels, np.float32))]
        pads = [size // 2] * 4
        out = self.add("Conv", inputs, kernel_shape=[size, size], pads=pads, strides=[stride, stride])
        self.cost += float(size * size * before * channels * side * side)
        if end == "Relu":
            out = self.add("Relu", [out])
        elif end == "PRelu":
            out = self.add("PRelu", [out, self.constant(np.full((channels, 1, 1), 0.25, np.float32))])
        return out, channels, side

    def norm(self, value: tuple) -> tuple:
        """A batch norm that nothing folds away, because it stands before its convolution."""
        name, channels, side = value
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        inputs = [name, *(self.constant(part) for part in (ones, zeros, zeros, ones))]
        return self.add("BatchNormalization", inputs), channels, side

    def plus(self, one: tuple, other: tuple, end: str | None = None) -> tuple:
        out = self.add("Add", [one[0], other[0]])
        return (self.add(end, [out]) if end else out), one[1], one[2]

    def linear(self, name: str, inputs: int, outputs: int) -> str:
        weights = self._random.standard_normal((inputs, outputs)) * np.sqrt(1 / inputs)
        self.cost += float(inputs * outputs)
        return self.add("MatMul", [name, self.constant(weights.astype(np.float32))])

    def model(self, side: int | str, outputs: dict[str, list]) -> onnx.ModelProto:
        """`side` of the square input; a name for one that may be any rectangle."""
        size = [side, side] if isinstance(side, int) else [f"{side}_high", f"{side}_wide"]
        made = helper.make_graph(
            self.nodes,
            "standin",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.weights,
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def build_pack(folder: Path, tiny: bool = False) -> Path:
    """Write the five files into `folder`; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in NETWORKS.items():
        model, _ = build(16 if tiny else 1)
        onnx.save(model, folder / name)
    return folder


def detector(thin: int) -> tuple[onnx.ModelProto, float]:
    """SCRFD-10GF: residual backbone, feature pyramid, and at strides 8, 16 and 32 scores, boxes and keypoints."""
    g = _Graph(0, thin)
    value = g.conv(g.conv(g.conv(("input", 3, DETECTOR_SIDE), 28, stride=2), 28), 56)
    value = g.add("MaxPool", [value[0]], kernel_shape=[2, 2], strides=[2, 2]), value[1], value[2] // 2
    levels = []
    for channels, blocks, stride in ((56, 3, 1), (88, 4, 2), (88, 2, 2), (224, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = g.conv(g.conv(value, channels, stride=step), channels, end=None)
            skip = g.conv(value, channels, size=1, stride=step, end=None) if block == 0 else value
            value = g.plus(inner, skip, "Relu")
        levels.append(value)
    laterals = [g.conv(level, 56, size=1, end=None) for level in levels[1:]]
    for high, low in ((2, 1), (1, 0)):  # top down
        larger = g.add(
            "Resize", [laterals[high][0], "", g.constant(np.array([1, 1, 2, 2], np.float32))], mode="nearest"
        )
        laterals[low] = g.plus(laterals[low], (larger, *laterals[low][1:]))
    merged = [g.conv(lateral, 56, end=None) for lateral in laterals]
    for low, high in ((0, 1), (1, 2)):  # bottom up
        merged[high] = g.plus(merged[high], g.conv(merged[low], 56, stride=2, end=None))
    outputs: dict[str, list] = {}
    heads = [g.conv(g.conv(g.conv(level, 80), 80), 80) for level in merged]
    for values in (1, 4, 10):
        for head, stride in zip(heads, (8, 16, 32), strict=True):
            answer, _, side = g.conv(head, 2 * values * thin, end=None)
            outputs[_face_output(g, answer, values, stride, side)] = [f"places_{stride}", values]
    return g.model("input", outputs), g.cost


def recogniser(thin: int) -> tuple[onnx.ModelProto, float]:
    """IResNet-50: 112 x 112 in, 512 out."""
    g = _Graph(1, thin)
    value = g.conv(("input", 3, 112), 64, end="PRelu")
    for channels, blocks in ((64, 3), (128, 4), (256, 14), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 else 1
            inner = g.conv(g.conv(g.norm(value), channels, end="PRelu"), channels, stride=stride, end=None)
            skip = g.conv(value, channels, size=1, stride=stride, end=None) if block == 0 else value
            value = g.plus(inner, skip)
    flat = g.add("Flatten", [g.norm(value)[0]])
    return g.model(112, {g.linear(flat, value[1] * value[2] ** 2, 512): [1, 512]}), g.cost


def landmarks_3d(thin: int) -> tuple[onnx.ModelProto, float]:
    """ResNet-50: 192 x 192 in, 3309 out."""
    g = _Graph(2, thin)
    value = g.conv(("input", 3, 192), 64, size=7, stride=2)
    value = g.add("MaxPool", [value[0]], kernel_shape=[2, 2], strides=[2, 2]), value[1], value[2] // 2
    for channels, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and channels > 64 else 1
            inner = g.conv(g.conv(value, channels, size=1), channels, stride=stride)
            inner = g.conv(inner, 4 * channels, size=1, end=None)
            skip = g.conv(value, 4 * channels, size=1, stride=stride, end=None) if block == 0 else value
            value = g.plus(inner, skip, "Relu")
    flat = g.add("Flatten", [g.add("GlobalAveragePool", [value[0]])])
    return g.model(192, {g.linear(flat, value[1], 3309): [1, 3309]}), g.cost


def landmarks_2d(thin: int) -> tuple[onnx.ModelProto, float]:
    """192 x 192 in, 212 out."""
    g = _Graph(3, thin)
    return g.model(192, {_column(g, 192, 24, 212): [1, 212]}), g.cost


def gender_age(thin: int) -> tuple[onnx.ModelProto, float]:
    """96 x 96 in; two genders and the age in hundreds of years, kept human."""
    g = _Graph(4, thin)
    values = g.add("Tanh", [_column(g, 96, 16, 3)])
    values = g.add("Add", [values, g.constant(np.full(3, 2.0, np.float32))])
    values = g.add("Mul", [values, g.constant(np.full(3, 0.15, np.float32))])
    return g.model(96, {values: [1, 3]}), g.cost


def _column(g: _Graph, side: int, channels: int, outputs: int) -> str:
    value = ("input", 3, side)
    for step in range(5):
        value = g.conv(value, channels * (1 + step), stride=2)
    return g.linear(g.add("Flatten", [value[0]]), value[1] * value[2] ** 2, outputs)


def _face_output(g: _Graph, feature: str, values: int, stride: int, side: int) -> str:
    """One face at a fixed place; the network's own answer is added so weakly that it changes nothing.

    The answer is cut to what the input's rectangle has of `side` x `side` places.
    """
    left, top, right, bottom = (edge / stride for edge in _FACE_BOX)
    x, y = (left + right) // 2, (top + bottom) // 2
    answer = np.zeros((side, side, 2 * values), np.float32)
    row = (int(y), int(x), slice(0, values))  # of the first of two anchors
    if values == 1 and stride == 32:
        answer[row] = 0.9
    elif values == 4:
        answer[row] = (x - left, y - top, right - x, bottom - y)
    elif values == 10:
        eye, mouth = (right - left) * 0.22, (right - left) * 0.18
        answer[row] = (-eye, -1, eye, -1, 0, 0, -mouth, 1, mouth, 1)
    weak = g.add("Mul", [g.add("ReduceMean", [feature], keepdims=0), g.constant(np.float32(1e-20))])
    places = g.add("Slice", [g.add("Shape", [feature]), *(g.constant(np.array([edge])) for edge in (2, 4))])
    here = g.add("Slice", [g.constant(answer), g.constant(np.array([0, 0])), places, g.constant(np.array([0, 1]))])
    return g.add("Add", [g.add("Reshape", [here, g.constant(np.array([-1, values]))]), weak])


NETWORKS = {
    "det_10g.onnx": detector,
    "w600k_r50.onnx": recogniser,
    "1k3d68.onnx": landmarks_3d,
    "2d106det.onnx": landmarks_2d,
    "genderage.onnx": gender_age,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    print(build_pack(arguments.folder, arguments.tiny))
