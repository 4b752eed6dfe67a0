"""A stand-in for a model pack: the same five kinds of network, random weights, exactly one face in every picture.

    python -m benchmarks.standin_pack DIR            # costs what buffalo_l costs
    python -m benchmarks.standin_pack DIR --tiny     # a few hundred kB, for tests

Speed does not depend on what the weights are, so a benchmark needs no download. The costs are those of buffalo_l in
multiply-accumulates: detector 13.3 G at 640 x 640, recogniser 6.3 G, 3-D landmarks 3.0 G, 2-D landmarks 0.1 G,
gender-age 0.01 G. Each network is a column of 3 x 3 convolutions whose width is chosen to meet its cost.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# file: (input side, output values, cost in MAC, strides of the convolutions)
_STAGES = (2, 1, 2, 1, 2, 1, 1, 2, 1)
NETWORKS = {
    "w600k_r50.onnx": (112, 512, 6.3e9, (1, 2, 1, 1, 2, 1, 1, 1, 2, 1, 1)),
    "1k3d68.onnx": (192, 3309, 3.0e9, _STAGES),
    "2d106det.onnx": (192, 212, 0.1e9, _STAGES),
    "genderage.onnx": (96, 3, 0.01e9, _STAGES),
}
DETECTOR, DETECTOR_SIDE, DETECTOR_COST = "det_10g.onnx", 640, 13.3e9
DETECTOR_STRIDES = (2, 2, 1, 2, 1, 1, 2, 1, 1, 2, 1)  # the steps that reach 1/8, 1/16 and 1/32 feed the three outputs
_TINY_WIDTH = 6  # channels; fewer, and rectifiers that never fire leave embeddings of zeros
_FACE_BOX = (200.0, 120.0, 360.0, 320.0)  # in the detector's input; inside every picture up to 2:1


class _Graph:
    """Collects nodes and weights."""

    def __init__(self, seed: int):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def random(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        return self.constant((self._random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32))

    def convolution(self, source: str, channels: tuple[int, int], stride: int) -> str:
        weights = self.random(channels[1], channels[0], 3, 3)
        out = self.add("Conv", [source, weights], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])
        return self.add("Relu", [out])


def build_pack(folder: Path, tiny: bool = False) -> Path:
    """Write the five files into `folder`; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    widths = column_widths(DETECTOR_SIDE, DETECTOR_STRIDES, DETECTOR_COST, tiny)
    onnx.save(_detector(widths), folder / DETECTOR)
    for seed, (name, (side, outputs, cost, strides)) in enumerate(NETWORKS.items(), start=1):
        widths = column_widths(side, strides, cost, tiny)
        onnx.save(_regressor(side, outputs, widths, strides, seed), folder / name)
    return folder


def column_cost(side: int, widths: list[int], strides: tuple[int, ...]) -> float:
    """Multiply-accumulates of a column of 3 x 3 convolutions over a `side` x `side` picture of 3 channels."""
    total, channels = 0.0, 3
    for width, stride in zip(widths, strides, strict=True):
        side = (side + stride - 1) // stride
        total += 9.0 * channels * width * side * side
        channels = width
    return total


def column_widths(side: int, strides: tuple[int, ...], cost: float, tiny: bool = False) -> list[int]:
    """Channels of each step, wider where the picture is smaller, as many as `cost` allows."""
    if tiny:
        return [_TINY_WIDTH] * len(strides)
    growth = np.sqrt(np.cumprod(strides))
    widths = [1] * len(strides)
    for base in range(1, 512):
        wider = [max(1, round(base * g)) for g in growth]
        if column_cost(side, wider, strides) > cost:
            break
        widths = wider
    return widths


def _regressor(side: int, outputs: int, widths: list[int], strides: tuple[int, ...], seed: int) -> onnx.ModelProto:
    graph = _Graph(seed)
    out, channels = "input", 3
    for width, stride in zip(widths, strides, strict=True):
        out = graph.convolution(out, (channels, width), stride)
        channels = width
    flat = graph.add("Flatten", [graph.add("AveragePool", [out], kernel_shape=[2, 2], strides=[2, 2])])
    last_side = side // int(np.prod(strides)) // 2
    values = graph.add("MatMul", [flat, graph.random(channels * last_side**2, outputs)])
    if outputs == 3:  # two genders and the age in hundreds of years: keep it human
        values = graph.add("Add", [graph.add("Tanh", [values]), graph.constant(np.full(3, 2.0, np.float32))])
        values = graph.add("Mul", [values, graph.constant(np.full(3, 0.15, np.float32))])
    return _model(graph, [1, 3, side, side], {values: [1, outputs]})


def _detector(widths: list[int]) -> onnx.ModelProto:
    """SCRFD's nine outputs: scores, boxes and keypoints at strides 8, 16 and 32, two anchors a place."""
    graph = _Graph(0)
    out, channels, reached, features = "input", 3, 1, {}
    for width, stride in zip(widths, DETECTOR_STRIDES, strict=True):
        out = graph.convolution(out, (channels, width), stride)
        channels, reached = width, reached * stride
        features[reached] = out
    outputs: dict[str, list[int]] = {}
    for values in (1, 4, 10):
        for stride in (8, 16, 32):
            places = (DETECTOR_SIDE // stride) ** 2 * 2
            outputs[_face_output(graph, features[stride], values, stride, places)] = [places, values]
    return _model(graph, [1, 3, DETECTOR_SIDE, DETECTOR_SIDE], outputs)


def _face_output(graph: _Graph, feature: str, values: int, stride: int, places: int) -> str:
    """A constant answer, to which the network's own result is added so weakly that it changes nothing."""
    left, top, right, bottom = (edge / stride for edge in _FACE_BOX)
    x, y = (left + right) // 2, (top + bottom) // 2
    answer = np.zeros((places, values), np.float32)
    row = int(y * (DETECTOR_SIDE // stride) + x) * 2
    if values == 1 and stride == 32:
        answer[row] = 0.9
    elif values == 4:
        answer[row] = (x - left, y - top, right - x, bottom - y)
    elif values == 10:
        eye, mouth = (right - left) * 0.22, (right - left) * 0.18
        answer[row] = (-eye, -1, eye, -1, 0, 0, -mouth, 1, mouth, 1)
    mean = graph.add("ReduceMean", [feature], keepdims=0)
    return graph.add("Add", [graph.constant(answer), graph.add("Mul", [mean, graph.constant(np.float32(1e-20))])])


def _model(graph: _Graph, input_shape: list[int], outputs: dict[str, list[int]]) -> onnx.ModelProto:
    made = helper.make_graph(
        graph.nodes,
        "standin",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        graph.weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    print(build_pack(arguments.folder, arguments.tiny))
