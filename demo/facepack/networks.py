"""The building blocks of the pack's networks, and their layers. Inputs are (N, 3, H, W) RGB, as InsightFace feeds them.

Plain 3 x 3 convolutions: on a CPU they learn more a second than the depthwise ones that phones prefer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.facepack.pictures import ARCFACE_POINTS


class Step(nn.Module):
    """Convolution, batch norm, and a ReLU unless `end` is False."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, size: int = 3, groups: int = 1, end: bool = True):
        super().__init__()
        padding = 0 if groups > 1 else size // 2  # grouped: one answer for the whole map
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.groups > 1:  # the same as the convolution, and several times faster to train
            x = self.norm((x * self.conv.weight[:, 0]).sum(dim=(2, 3), keepdim=True))
        else:
            x = self.norm(self.conv(x))
        return functional.relu(x, inplace=True) if self.end else x


class Residual(nn.Module):
    """Two steps beside the way straight through (He et al. 2015)."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Sequential(Step(channels, channels), Step(channels, channels, end=False))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.inner(x), inplace=True)


# Of the squared length of an answer: with it, and with the crops at 14 x 14 pixels along 64 axes, other pictures of a
# demo world's person score 0.68, and the nearest reference 0.83, as with the small real pack of the tests.
SHOWN_SHARE = 0.25
SHRUNK_BY, _SHOWN = 8, 64
_SHOWN_PIXELS = 3 * (112 // SHRUNK_BY) ** 2


class Recogniser(nn.Module):
    """Crops (N, 3, 112, 112), aligned by a detector's uncertain points, to (N, 512).

    `aligner` looks where the five places of a well laid crop are in this one, (N, 10) in half crops from where they
    ought to be; `redraw` lays the crop anew by them (a spatial transformer, Jaderberg et al. 2015, but taught by true
    points); `body` reads that. It has one weight for each place of its last map, as MobileFaceNets have (Chen 2018).

    Who it is takes SHOWN_SHARE less than the whole of the answer. The rest says what else the crop shows: light, pose,
    expression. The scores of packs for photos fall with these, and the bands of the Copycat report are for such scores;
    from a network that reads identity alone, rendered people score 0.9, and every good picture would count as a copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("usual", torch.zeros(_SHOWN_PIXELS), persistent=False)
        self.register_buffer("shown", torch.zeros(_SHOWN_PIXELS, _SHOWN), persistent=False)
        self.register_buffer("free", torch.zeros(_SHOWN, 512), persistent=False)
        self.aligner = nn.Sequential(
            *(Step(3, 32, 4, size=7), Step(32, 48, 2), Residual(48)),
            *(Step(48, 64, 2), Step(64, 16, size=1), nn.Flatten(), nn.Linear(16 * 7 * 7, 10)),
        )
        self.body = nn.Sequential(
            *(Step(3, 48, 4, size=7), Residual(48)),
            *(Step(48, 96, 2), Residual(96), Residual(96)),
            *(Step(96, 144, 2), Residual(144), Residual(144)),
            *(Step(144, 256, size=1), Step(256, 256, size=7, groups=256, end=False), nn.Flatten(), nn.Linear(256, 512)),
        )
        for name, values in zip(("places", "to_rows"), redrawing(), strict=True):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def redraw(self, crops: Tensor, shifts: Tensor) -> Tensor:
        """The crops with what lies `shifts` (N, 10) off the five places brought to these."""
        rows = (shifts @ self.to_rows[:10] + self.to_rows[10]).reshape(-1, 3, 2)
        grid = (self.places @ rows).reshape(-1, 112, 112, 2)
        return functional.grid_sample(crops, grid, padding_mode="border", align_corners=False)

    def forward(self, crops: Tensor) -> Tensor:
        redrawn = self.redraw(crops, self.aligner(crops))
        who = functional.normalize(self.body(redrawn))
        seen = functional.normalize((shrunk(redrawn) - self.usual) @ self.shown)
        return math.sqrt(1 - SHOWN_SHARE) * who + math.sqrt(SHOWN_SHARE) * seen @ self.free

    @torch.no_grad()
    def settle(self, crops: Sequence[Tensor]) -> None:
        """Finds how to tell what crops show besides who it is, from some thousand crops in batches.

        Small pictures of the crops along their principal components, each divided by the root of its spread, so that
        brightness does not drown the rest; laid in the directions in which the crops' identities differ least.
        """
        redrawn = [self.redraw(some, self.aligner(some)) for some in crops]
        people = torch.cat([functional.normalize(self.body(some)) for some in redrawn])
        small = torch.cat([shrunk(some) for some in redrawn])
        self.usual.copy_(small.mean(dim=0))
        _, spread, axes = torch.linalg.svd(small - self.usual, full_matrices=False)
        spread = spread[:_SHOWN, None] / len(small) ** 0.5
        self.shown.copy_((axes[:_SHOWN] / spread.sqrt()).T)
        identity_axes = torch.linalg.svd(people - people.mean(dim=0), full_matrices=True)[2]
        self.free.copy_(identity_axes[-_SHOWN:])


def shrunk(crops: Tensor) -> Tensor:
    """(N, 588): the crops at 14 x 14 pixels."""
    return functional.avg_pool2d(crops, SHRUNK_BY).flatten(1)


def redrawing() -> tuple[np.ndarray, np.ndarray]:
    """What `Recogniser.redraw` multiplies with: the crop's pixels (112 * 112, 3) and (11, 6), lengths in half crops.

    A pixel of the new crop at (x, y, 1) is read from (x, y, 1) @ rows of the old one; `rows` (3, 2) is the turn, scale
    and shift that brings the five places nearest to the points, so it is linear in the points (least squares).
    """
    middle = (np.arange(112) + 0.5) / 56 - 1
    x, y = np.meshgrid(middle, middle)
    places = np.stack([x.ravel(), y.ravel(), np.ones(112 * 112)], axis=1)
    goal = (ARCFACE_POINTS + 0.5) / 56 - 1
    known = np.zeros((5, 2, 4))  # of a turn and scale (a, b) and a shift (c, d): x' = ax - by + c, y' = bx + ay + d
    known[:, 0] = np.stack([goal[:, 0], -goal[:, 1], np.ones(5), np.zeros(5)], axis=1)
    known[:, 1] = np.stack([goal[:, 1], goal[:, 0], np.zeros(5), np.ones(5)], axis=1)
    layout = np.array([[1, 0, 0, 1, 0, 0], [0, 1, -1, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]])
    to_rows = np.linalg.pinv(known.reshape(10, 4)).T @ layout
    still = goal.reshape(10) @ to_rows
    return places.astype(np.float32), np.vstack([to_rows, still]).astype(np.float32)


def landmarks() -> nn.Sequential:
    """(N, 3, 192, 192) to (N, 204): x, y, z of 68 points. Halved first: that keeps what such points need."""
    return nn.Sequential(
        *(nn.AvgPool2d(2), Step(3, 16, 2), Step(16, 32, 2), Residual(32)),
        *(Step(32, 64, 2), Residual(64), Step(64, 96, 2), Residual(96)),
        *(Step(96, 20, size=1), nn.Flatten(), nn.Linear(20 * 6 * 6, 204)),
    )


def age() -> nn.Sequential:
    """(N, 3, 96, 96) to (N, 1): the age in hundreds of years. Wrinkles are fine: many channels while the map is."""
    return nn.Sequential(
        *(Step(3, 32, 2), Step(32, 48, 2), Residual(48), Step(48, 80, 2), Residual(80)),
        *(Step(80, 96, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 1)),
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
