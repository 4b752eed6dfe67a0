"""The networks of deepcam-cn/yolov5-face: described from records of a checkpoint, built from that description.

A description is plain data, fit for JSON: a tree of layers, each with its kind, its settings and its inner layers. The
forward passes below are those of that project's models/common.py and models/yolo.py for inference; what a checkpoint
says about code is not used. Importing this file imports torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mirror.detectors.checkpoints import Record, UnfitError

FAMILY = "yolov5-face"
LANDMARKS = 5  # left eye, right eye, nose, left and right corner of the mouth, as seen
OUTPUTS = 5 + 2 * LANDMARKS  # cx, cy, w, h, objectness, landmarks; the class scores follow

_MODEL = "models.yolo.Model"
_DEEPEST = 12  # layers inside layers; the published networks have 6


class Conv(nn.Module):
    """Convolution, batch norm unless it is merged into the convolution already, activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.act(self.bn(x) if hasattr(self, "bn") else x)


class StemBlock(nn.Module):
    """The entry: halves the picture twice, on two ways that are joined."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_1(x)
        return self.stem_3(torch.cat((self.stem_2b(self.stem_2a(x)), self.stem_2p(x)), 1))


class Bottleneck(nn.Module):
    """Two convolutions, with a way around them where `add` is true."""

    def __init__(self, add: bool):
        super().__init__()
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Bottlenecks on one half of the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPP(nn.Module):
    """Maximum over windows of several sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [pool(x) for pool in self.m], 1))


class ShuffleV2Block(nn.Module):
    """Block of ShuffleNet V2 (Ma et al. 2018): two branches, channels interleaved."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 1:
            kept, worked = x.chunk(2, 1)
            y = torch.cat((kept, self.branch2(worked)), 1)
        else:
            y = torch.cat((self.branch1(x), self.branch2(x)), 1)
        batch, channels, height, width = y.shape
        return y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Concat(nn.Module):
    """Join along dimension `d`."""

    def __init__(self, d: int):
        super().__init__()
        self.d = d

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(x, self.d)


class Detect(nn.Module):
    """The head: feature maps to (B, N, 15 + nc) in pixels of the network's input."""

    def __init__(self, nc: int, na: int, stride: tuple[float, ...]):
        super().__init__()
        self.nc, self.na, self.stride = nc, na, stride
        self.register_buffer("anchors", torch.zeros(len(stride), na, 2))  # in strides; only kept
        self.register_buffer("anchor_grid", torch.zeros(len(stride), 1, na, 1, 1, 2))  # pixels

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([self.decode(level, self.m[level](x)) for level, x in enumerate(maps)], 1)

    def decode(self, level: int, x: torch.Tensor) -> torch.Tensor:
        """One feature map (B, na * (15 + nc), H, W) to (B, na * H * W, 15 + nc)."""
        batch, _, height, width = x.shape
        x = x.view(batch, self.na, OUTPUTS + self.nc, height, width).permute(0, 1, 3, 4, 2)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cell = torch.stack((columns, rows), -1).to(x)  # (H, W, 2)
        anchor, stride = self.anchor_grid[level], self.stride[level]
        centre = (x[..., 0:2].sigmoid() * 2 - 0.5 + cell) * stride
        size = (x[..., 2:4].sigmoid() * 2) ** 2 * anchor
        points = x[..., 5:OUTPUTS].unflatten(-1, (LANDMARKS, 2)) * anchor.unsqueeze(-2) + cell.unsqueeze(-2) * stride
        scores = x[..., OUTPUTS:].sigmoid()
        parts = (centre, size, x[..., 4:5].sigmoid(), points.flatten(-2), scores)
        return torch.cat(parts, -1).reshape(batch, -1, OUTPUTS + self.nc)


class FaceNetwork(nn.Module):
    """The whole: each layer takes the output of the one before it, or of those that `sources` names."""

    def __init__(self, layers: nn.Sequential, sources: list[int | list[int]]):
        super().__init__()
        self.model = layers
        self.sources = sources

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float, RGB in [0, 1], H and W multiples of the largest stride, to (B, N, 15 + nc)."""
        outputs: list[torch.Tensor] = []
        for layer, source in zip(self.model, self.sources, strict=True):
            if isinstance(source, list):
                x = layer([x if index == -1 else outputs[index] for index in source])
            else:
                x = layer(x if source == -1 else outputs[source])
            outputs.append(x)
        return x


# kind -> (full name in a checkpoint, what makes it, settings with the value of old files that lack one)
_TORCH = "torch.nn.modules"
_CONVOLUTION = {"in_channels": 0, "out_channels": 0, "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
_POOL = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
_KINDS: dict[str, tuple[str, Callable[..., nn.Module], dict[str, object]]] = {
    "Conv2d": (f"{_TORCH}.conv.Conv2d", nn.Conv2d, _CONVOLUTION | {"groups": 1}),
    "BatchNorm2d": (f"{_TORCH}.batchnorm.BatchNorm2d", nn.BatchNorm2d, {"num_features": 0, "eps": 1e-5}),
    "SiLU": (f"{_TORCH}.activation.SiLU", nn.SiLU, {}),
    "ReLU": (f"{_TORCH}.activation.ReLU", nn.ReLU, {}),
    "LeakyReLU": (f"{_TORCH}.activation.LeakyReLU", nn.LeakyReLU, {"negative_slope": 0.01}),
    "Hardswish": (f"{_TORCH}.activation.Hardswish", nn.Hardswish, {}),
    "Identity": (f"{_TORCH}.linear.Identity", nn.Identity, {}),
    "MaxPool2d": (f"{_TORCH}.pooling.MaxPool2d", nn.MaxPool2d, _POOL),
    "Upsample": (f"{_TORCH}.upsampling.Upsample", nn.Upsample, {"size": None, "scale_factor": 2.0, "mode": "nearest"}),
    "Sequential": (f"{_TORCH}.container.Sequential", nn.Sequential, {}),
    "ModuleList": (f"{_TORCH}.container.ModuleList", nn.ModuleList, {}),
    "Conv": ("models.common.Conv", Conv, {}),
    "StemBlock": ("models.common.StemBlock", StemBlock, {}),
    "Bottleneck": ("models.common.Bottleneck", Bottleneck, {"add": False}),
    "C3": ("models.common.C3", C3, {}),
    "SPP": ("models.common.SPP", SPP, {}),
    "ShuffleV2Block": ("models.common.ShuffleV2Block", ShuffleV2Block, {"stride": 1}),
    "Concat": ("models.common.Concat", Concat, {"d": 1}),
    "Detect": ("models.yolo.Detect", Detect, {"nc": 1, "na": 3, "stride": []}),
}
_KIND_OF = {full: kind for kind, (full, _, _) in _KINDS.items()}


def find_model(checkpoint: object) -> Record | None:
    """The network in a checkpoint of this family: the averaged one where there is one, as that project takes it."""
    found = checkpoint
    if isinstance(checkpoint, dict):
        found = checkpoint.get("ema") or checkpoint.get("model")
    return found if isinstance(found, Record) and found.kind == _MODEL else None


def describe(model: Record) -> dict:
    """The description of a network. Raises UnfitError naming what is not known here."""
    layers = model.children.get("model")
    if layers is None:
        raise UnfitError("its network has no layers")
    names = model.get("names") or []
    return {
        "names": [str(name) for name in (names.values() if isinstance(names, dict) else names)],
        "sources": [_source(layer) for layer in layers.children.values()],
        "model": _described(layers),
    }


def _source(layer: Record) -> int | list[int]:
    source = layer.get("f", -1)
    return [int(index) for index in source] if isinstance(source, (list, tuple)) else int(source)


def _described(record: Record) -> dict:
    kind = _KIND_OF.get(record.kind)
    if kind is None:
        raise UnfitError(f"its layer {record.kind} is not one of yolov5-face")
    settings = {name: _plain(record.get(name, default)) for name, default in _KINDS[kind][2].items()}
    if kind == "Conv2d":
        settings["bias"] = "bias" in record.own_tensors()
    node = {"kind": kind, "settings": settings}
    if record.children:
        node["layers"] = {name: _described(child) for name, child in record.children.items()}
    return node


def _plain(value: object) -> object:
    """`value` as JSON has it: a number, a word, or a list of numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UnfitError(f"a layer has {type(value).__name__} for a setting")


def build(description: dict) -> FaceNetwork:
    """The network of a description, without weights. Raises UnfitError."""
    try:
        layers = _built(description["model"], 0)
        head = layers[-1]
        if not isinstance(head, Detect) or not head.stride or head.stride != tuple(sorted(head.stride)):
            raise UnfitError("its last layer is no detection head")
        return FaceNetwork(layers, description["sources"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        raise UnfitError(f"its description is damaged ({error})") from error


def _built(node: dict, depth: int) -> nn.Module:
    if depth > _DEEPEST or node["kind"] not in _KINDS:
        raise UnfitError(f"its layer {node['kind']} is not one of yolov5-face")
    _, make, known = _KINDS[node["kind"]]
    settings = {name: value for name, value in node["settings"].items() if name in known or name == "bias"}
    layer = make(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})
    for name, inner in node.get("layers", {}).items():
        layer.add_module(name, _built(inner, depth + 1))
    return layer
