"""The building blocks of the pack's networks, and their layers. Inputs are (N, 3, H, W) RGB, as InsightFace feeds them.

Plain 3 x 3 convolutions: on a CPU they learn more a second than the depthwise ones that phones prefer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Step(nn.Module):
    """Convolution, batch norm, and a ReLU unless `end` is False."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, size: int = 3, groups: int = 1, end: bool = True):
        super().__init__()
        padding = 0 if groups > 1 else size // 2  # grouped: one answer for the whole map
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return functional.relu(x, inplace=True) if self.end else x


class Residual(nn.Module):
    """Two steps beside the way straight through (He et al. 2015)."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Sequential(Step(channels, channels), Step(channels, channels, end=False))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.inner(x), inplace=True)


def recogniser() -> nn.Sequential:
    """(N, 3, 112, 112) to (N, 512); one weight for each place of the last map, as MobileFaceNets have (Chen 2018)."""
    return nn.Sequential(
        *(Step(3, 24, 2), Step(24, 40, 2), Residual(40)),
        *(Step(40, 80, 2), Residual(80), Residual(80)),
        *(Step(80, 128, 2), Residual(128)),
        *(Step(128, 256, size=1), Step(256, 256, size=7, groups=256, end=False), nn.Flatten(), nn.Linear(256, 512)),
    )


def landmarks() -> nn.Sequential:
    """(N, 3, 192, 192) to (N, 204): x, y, z of 68 points. Halved first: that keeps what such points need."""
    return nn.Sequential(
        *(nn.AvgPool2d(2), Step(3, 16, 2), Step(16, 32, 2), Residual(32)),
        *(Step(32, 64, 2), Residual(64), Step(64, 96, 2), Residual(96)),
        *(Step(96, 20, size=1), nn.Flatten(), nn.Linear(20 * 6 * 6, 204)),
    )


def age() -> nn.Sequential:
    """(N, 3, 96, 96) to (N, 1): the age in hundreds of years."""
    return nn.Sequential(
        *(Step(3, 16, 2), Step(16, 32, 2), Residual(32), Step(32, 64, 2), Residual(64)),
        *(Step(64, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1)),
    )


class Detector(nn.Module):
    """A small SCRFD (Guo et al. 2021): maps at strides 8, 16 and 32, two anchors a cell.

    `forward` takes the picture already halved (N, 3, H / 2, W / 2): that is what makes 640 pixels cheap. The exported
    graph halves it itself. It gives, a stride, (N, 30, H / stride, W / stride): for the two anchors scores before the
    sigmoid (1 each), box sides (4 each) and keypoints (10 each), all lengths in units of the anchor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Step(3, 16, 2), Step(16, 32, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(Step(before, after, 2), Residual(after)) for before, after in ((32, 48), (48, 64), (64, 64))
        )
        self.laterals = nn.ModuleList(Step(channels, 32, size=1) for channels in (32, 48, 64, 64))
        self.heads = nn.ModuleList(nn.Sequential(Step(32, 32), nn.Conv2d(32, 30, 1)) for _ in range(3))
        for head in self.heads:
            nn.init.constant_(head[-1].bias[:2], -4.0)  # faces are rare (Lin et al. 2017)

    def forward(self, halved: Tensor) -> list[Tensor]:
        maps = [self.stem(halved)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        merged = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        for low in (2, 1, 0):
            larger = functional.interpolate(merged[low + 1], size=merged[low].shape[2:], mode="nearest")
            merged[low] = merged[low] + larger
        return [head(each) for head, each in zip(self.heads, merged[:3], strict=True)]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision() -> torch.autocast:
    """bfloat16 where the chip multiplies it several times faster (any GPU, CPUs with AMX), else plain float32."""
    quick = device().type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.autocast(device().type, torch.bfloat16, enabled=quick)
