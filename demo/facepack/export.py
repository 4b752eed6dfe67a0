"""From trained PyTorch layers to an ONNX file, by hand: nothing to install, and no node more than needed.

Nodes stay without names on purpose: InsightFace decides by the names of the first nodes how pictures are scaled, and
unnamed ones mean (picture - 127.5) / 127.5 for a recogniser, (picture - 127.5) / 128 for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from demo.facepack.networks import SHOWN_SHARE, SHRUNK_BY, Recogniser, Residual, Step
from utils.console import UserError

NOTE = "MirrorMetrics demo pack, MIT licence. Trained on rendered heads only: not for photos of people."
_LEVELS, _IN_8_BITS = 127, "_int8"  # largest weight of a row, end of the name of weights in 8 bits
_OPSET, _IR = 17, 8  # as benchmarks/standin_pack.py: read by every onnxruntime of the last years


class Graph:
    """Nodes and weights as they are added; values are known by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: np.ndarray, learned: bool = True) -> str:
        """What is not `learned` is left alone when the file is read back (`restore`)."""
        name = f"{'w' if learned else 'c'}{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def layer(self, value: str, module: nn.Module) -> str:
        """The nodes of a trained module, in evaluation mode. Raises TypeError for a kind of layer it does not know."""
        match module:
            case nn.Sequential():
                for each in module:
                    value = self.layer(value, each)
                return value
            case Step():
                value = self._conv(value, module.conv, *_folded(module.conv, module.norm))
                return self.add("Relu", [value]) if module.end else value
            case Residual():
                return self.add("Relu", [self.add("Add", [value, self.layer(value, module.inner)])])
            case Recogniser():
                redrawn = self._redrawn(value, self.layer(value, module.aligner), module)
                return self._who_and_shown(self.layer(redrawn, module.body), redrawn, module)
            case nn.Conv2d():
                return self._conv(value, module, _array(module.weight), _array(module.bias))
            case nn.Linear():
                weights = [self.constant(_array(module.weight)), self.constant(_array(module.bias))]
                return self.add("Gemm", [value, *weights], transB=1)
            case nn.InstanceNorm2d(num_features=channels, affine=False):
                scale, shift = (
                    self.constant(np.ones(channels, np.float32)),
                    self.constant(np.zeros(channels, np.float32)),
                )
                return self.add("InstanceNormalization", [value, scale, shift], epsilon=module.eps)
            case nn.AvgPool2d(kernel_size=side):
                return self.add("AveragePool", [value], kernel_shape=[side, side], strides=[side, side])
            case nn.AdaptiveAvgPool2d():
                return self.add("GlobalAveragePool", [value])
            case nn.Flatten():
                return self.add("Flatten", [value])
        raise TypeError(f"no ONNX nodes are known for {type(module).__name__}")

    def _conv(self, value: str, conv: nn.Conv2d, weight: np.ndarray, bias: np.ndarray) -> str:
        inputs = [value, self.constant(weight), self.constant(bias)]
        size, stride, pad = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        shape = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [pad] * 4}
        return self.add("Conv", inputs, group=conv.groups, **shape)

    def _redrawn(self, crops: str, shifts: str, network: Recogniser) -> str:
        """`Recogniser.redraw` in nodes."""
        to_rows = _array(network.to_rows)
        places, first, last, one_each, as_crop = (
            self.constant(values, learned=False)
            for values in (
                *(_array(network.places), to_rows[:10], to_rows[10]),
                *(np.array([-1, 3, 2], np.int64), np.array([-1, 112, 112, 2], np.int64)),
            )
        )
        rows = self.add("Reshape", [self.add("Gemm", [shifts, first, last]), one_each])
        grid = self.add("Reshape", [self.add("MatMul", [places, rows]), as_crop])
        return self.add("GridSample", [crops, grid], mode="bilinear", padding_mode="border", align_corners=0)

    def _who_and_shown(self, who: str, redrawn: str, network: Recogniser) -> str:
        """The end of `Recogniser.forward` in nodes."""
        usual, shown, free = (
            self.constant(values, learned=False)
            for values in (
                _array(network.usual),
                _array(network.shown),
                _array(network.free) * np.float32(SHOWN_SHARE**0.5),
            )
        )
        share = self.constant(np.array((1 - SHOWN_SHARE) ** 0.5, np.float32), learned=False)
        small = self.add("Flatten", [self.layer(redrawn, nn.AvgPool2d(SHRUNK_BY))])
        seen = self.add("MatMul", [self.add("Sub", [small, usual]), shown])
        seen = self.add("MatMul", [self.add("LpNormalization", [seen], axis=-1, p=2), free])
        who = self.add("Mul", [self.add("LpNormalization", [who], axis=-1, p=2), share])
        return self.add("Add", [who, seen])

    def model(
        self, input_shape: list, outputs: dict[str, list], note: str, facts: dict[str, str] | None = None
    ) -> bytes:
        """The file's bytes. A dimension given as text is free; `facts` become the file's metadata."""
        made = helper.make_graph(
            self.nodes,
            "demo",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.weights,
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        model.doc_string = note
        helper.set_model_props(model, facts or {})
        onnx.checker.check_model(model)
        return model.SerializeToString()


def column(network: nn.Module, side: int, zeros: int, width: int) -> bytes:
    """A network of (N, 3, side, side) whose `width` values are the last of its answer, after `zeros` zeros."""
    graph = Graph()
    value = graph.layer("input", network)
    if zeros:
        value = graph.add("Pad", [value, graph.constant(np.array([0, zeros, 0, 0], np.int64))])
    return graph.model(["batch", 3, side, side], {value: ["batch", zeros + width]}, NOTE)


def packed(data: bytes) -> bytes:
    """The file with the weights of its layers in 8 bits, a scale for each row; it computes nearly the same.

    onnxruntime multiplies them out when it loads the file, as with any constant. Biases stay as they are.
    """
    model = onnx.load_from_string(data)
    weights, unpacking = [], []
    for each in model.graph.initializer:
        values = numpy_helper.to_array(each)
        if not (each.name.startswith("w") and values.ndim > 1 and values.dtype == np.float32):
            weights.append(each)
            continue
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
        scale = np.maximum(largest / np.float32(_LEVELS), np.finfo(np.float32).tiny)
        levels, scales, whole = each.name + _IN_8_BITS, f"s{each.name}", f"v{each.name}"
        weights.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), levels))
        weights.append(numpy_helper.from_array(scale, scales))
        unpacking.append(helper.make_node("Cast", [levels], [whole], to=TensorProto.FLOAT))
        unpacking.append(helper.make_node("Mul", [whole, scales], [each.name]))
    nodes = [*unpacking, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(weights)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _learned(model: onnx.ModelProto) -> Iterator[np.ndarray]:
    """Weights and biases of a file that `Graph` wrote, in the order of the layers; those in 8 bits multiplied out."""
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for name, values in arrays.items():
        if name.startswith("w"):
            scales = arrays.get(f"s{name.removesuffix(_IN_8_BITS)}")
            yield values if scales is None else values * scales


def restore(network: nn.Module, path: Path) -> None:
    """Puts the weights of a file that `Graph` wrote back into `network`; its batch norms are left with a shift alone.

    Raises UserError where the file is missing or is another network's.
    """
    try:
        _fill(network, _learned(onnx.load(path)))
    except (OSError, DecodeError, RuntimeError, ValueError, StopIteration) as error:
        advice = "Make it anew with python -m demo.train_face, without --resume."
        raise UserError(f"{path} cannot be trained further ({error}). {advice}") from error


@torch.no_grad()
def _fill(network: nn.Module, arrays: Iterator[np.ndarray]) -> None:
    """In the order of the layers, which is that of the export."""
    for layer in network.modules():
        if isinstance(layer, Step):
            layer.conv.weight.copy_(torch.tensor(next(arrays)))
            layer.norm.bias.copy_(torch.tensor(next(arrays)))
            layer.norm.running_var.fill_(1 - layer.norm.eps)
        elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:  # a step's own has none
            layer.weight.copy_(torch.tensor(next(arrays)))
            layer.bias.copy_(torch.tensor(next(arrays)))


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a convolution that does its batch norm's work as well."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return _array(conv.weight * scale[:, None, None, None]), _array(norm.bias - norm.running_mean * scale)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float32)
