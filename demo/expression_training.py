"""The expression network: its layers, what a batch is made of, the loop with its checkpoint, and the ONNX file.

A training that was stopped goes on from its checkpoint as if it had not been: with a number of steps it ends with the
same file.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.expression_data import Faces
from demo.facepack.export import Graph
from demo.facepack.networks import Residual, Step, device, mixed_precision
from demo.facepack.pictures import spoiled
from mirror.contracts.expressions import EXPRESSIONS
from mirror.detectors.expressions import METADATA_KEY, OURS_GROWTH
from mirror.faces.engine import FaceMeasurement
from mirror.faces.expressions import face_crop
from utils.console import UserError, say
from utils.files import Status, write_bytes_atomic

SIDE = 64  # pixels of the network's input
NOTE = "MirrorMetrics demo expressions, MIT licence. Trained on rendered heads only: not for photos of people."
BATCH = 64
RATE, DECAY, SMOOTHING = 2e-3, 0.05, 0.05  # tried on held-out people: AdamW's rate and weight decay, label smoothing
# How far a measured box lies from the true one, in shares of its longer side, and a measured roll from the true one:
# standard deviations over rendered heads to 55 degrees with the demo pack (benchmarks/expression_bench.py prints them).
BOX_SHIFT, BOX_SCALE, ROLL_DEG = 0.035, 0.08, 4.0
_SPOILED_SHARE = 0.5  # of the crops; the others stay as they were rendered
_HELD_OUT_SHARE = 0.05  # of the people, to measure on during training
_WARM_UP = 0.05  # share of the training over which the learning rate rises
_REPORT_S, _CHECKPOINT_S = 20.0, 60.0


@dataclass(frozen=True)
class Plan:
    """What decides the result. With `steps` the same plan gives the same network; minutes vary."""

    minutes: float
    steps: int | None  # takes the place of the minutes
    seed: int
    people: int
    each: int  # pictures of each expression of a person
    start: str | None = None  # checkpoint whose weights are gone on from, at half the learning rate

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return RATE / 2 if self.start else RATE

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


def expression_network() -> nn.Sequential:
    """(N, 3, 64, 64) RGB in 0..1 to logits (N, 7). Flattened at 4 x 4 cells: where a brow lies is what counts.

    Each picture is brought to one brightness and contrast first, so that skin and light need not be learned away.
    """
    return nn.Sequential(
        *(nn.InstanceNorm2d(3), Step(3, 24, 2), Residual(24), Step(24, 48, 2), Residual(48)),
        *(Step(48, 72, 2), Residual(72), Step(72, 48, 2)),
        *(nn.Flatten(), nn.Linear(48 * 4 * 4, len(EXPRESSIONS))),
    )


def exported(network: nn.Sequential) -> bytes:
    """The ONNX file: logits in the order of EXPRESSIONS, which its metadata names."""
    graph = Graph()
    value = graph.layer("input", network)
    facts = {METADATA_KEY: ",".join(EXPRESSIONS)}
    return graph.model(["batch", 3, SIDE, SIDE], {value: ["batch", len(EXPRESSIONS)]}, NOTE, facts)


def crop(faces: Faces, row: int, random: np.random.Generator | None = None) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 BGR as the product cuts it out; with `random` off the mark, mirrored, spoiled."""
    box, roll_deg = faces.boxes[row].astype(float), float(faces.roll_deg[row])
    if random is not None:
        longer = (box[2:] - box[:2]).max()
        centre = (box[:2] + box[2:]) / 2 + random.normal(0, BOX_SHIFT, 2) * longer
        half = (box[2:] - box[:2]) / 2 * np.exp(random.normal(0, BOX_SCALE))
        box, roll_deg = np.concatenate([centre - half, centre + half]), roll_deg + random.normal(0, ROLL_DEG)
    measured = FaceMeasurement(Status.OK, 1, "", (0, 0), box_xyxy=tuple(box), roll_deg=roll_deg)
    cut = face_crop(faces.images[row], measured, OURS_GROWTH)
    cut = cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA if len(cut) > SIDE else cv2.INTER_LINEAR)
    if random is not None:
        mirror, spoil = random.random() < 0.5, random.random() < _SPOILED_SHARE
        cut = np.ascontiguousarray(cut[:, ::-1]) if mirror else cut
        cut = spoiled(cut, random) if spoil else cut
    return cut


def as_input(crops: Sequence[np.ndarray]) -> Tensor:
    """(N, 3, SIDE, SIDE) RGB in 0..1."""
    pixels = np.stack(crops)[..., ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32) / 255).to(device())


def labels(faces: Faces, rows: np.ndarray) -> Tensor:
    """(N,) places in EXPRESSIONS."""
    return torch.from_numpy(faces.expression[rows]).to(device())


@dataclass
class Training:
    """A training under way; `save` and `restore` carry all of it from one process to the next."""

    plan: Plan
    network: nn.Sequential
    optimiser: torch.optim.AdamW
    random: np.random.Generator
    step: int = 0
    seconds: float = 0.0  # of training, earlier processes included
    loss: float = math.nan  # running mean

    @classmethod
    def begin(cls, plan: Plan) -> Training:
        """From random weights, or from those of the plan's checkpoint. Raises UserError where it is none."""
        torch.manual_seed(plan.seed)
        torch.set_num_threads(1)  # the network is small: threads would wait for each other
        network = expression_network().to(device(), memory_format=torch.channels_last)
        if plan.start is not None:
            try:
                network.load_state_dict(torch.load(plan.start, map_location=device(), weights_only=True)["network"])
            except Exception as error:  # torch.load says in many ways that a file is no checkpoint
                raise UserError(
                    f"{plan.start} is no checkpoint to start from ({str(error).splitlines()[0]})."
                ) from error
        optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=DECAY)
        return cls(plan, network, optimiser, np.random.default_rng(plan.seed))

    @property
    def share(self) -> float:
        return self.plan.share(self.step, self.seconds)

    def save(self, path: Path) -> None:
        content = {
            "plan": asdict(self.plan),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.random.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes_atomic(path, buffer.getvalue())

    def restore(self, path: Path) -> None:
        """Raises UserError where the file is missing, damaged, or another plan's."""
        try:
            content = torch.load(path, map_location=device(), weights_only=True)
            other = {k: v for k, v in content["plan"].items() if v != asdict(self.plan)[k]}
            if not other:
                self.network.load_state_dict(content["network"])
                self.optimiser.load_state_dict(content["optimiser"])
                self.random.bit_generator.state = content["random"]
                self.step, self.seconds, self.loss = content["step"], content["seconds"], content["loss"]
        except Exception as error:  # torch.load says in many ways that a file is no checkpoint
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be gone on from ({reason}). Train anew, without --resume.") from error
        if other:
            told = ", ".join(f"--{name} {value}" for name, value in other.items())
            raise UserError(f"{path} is of a training with {told}. Give the same, or train anew without --resume.")


def train(faces: Faces, training: Training, checkpoint: Path) -> None:
    """Train to the end of the plan; the checkpoint is written every minute and at the end."""
    rows = learned_rows(faces, training.plan)
    training.network.train()
    cv2.setNumThreads(1)  # crops are small: threads would cost more than they give
    reported = saved = last = time.monotonic()
    while training.share < 1:
        _one_step(faces, rows, training)
        now = time.monotonic()
        training.seconds += now - last
        last = now
        if now - reported > _REPORT_S:
            reported = now
            left = training.seconds / training.share * (1 - training.share)
            clock = f"{int(left) // 60}:{int(left) % 60:02d} left"
            say(f"  {min(training.share, 1):4.0%}  step {training.step}  loss {training.loss:.3f}  {clock}")
        if now - saved > _CHECKPOINT_S:
            saved = now
            training.save(checkpoint)
    training.save(checkpoint)
    training.network.eval()


def _one_step(faces: Faces, rows: np.ndarray, training: Training) -> None:
    """The learning rate rises for a moment, then falls along a cosine to nothing (Loshchilov and Hutter 2017)."""
    share, random = training.share, training.random
    for group in training.optimiser.param_groups:
        group["lr"] = (
            training.plan.rate * min(1.0, (share + 1e-3) / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * min(share, 1)))
        )
    batch = random.choice(rows, BATCH)
    images = as_input([crop(faces, row, random) for row in batch])
    with mixed_precision():
        logits = training.network(images)
    loss = functional.cross_entropy(logits.float(), labels(faces, batch), label_smoothing=SMOOTHING)
    training.optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(training.network.parameters(), 5.0)
    training.optimiser.step()
    training.step += 1
    value = loss.item()
    training.loss = value if math.isnan(training.loss) else 0.98 * training.loss + 0.02 * value
    if not math.isfinite(value):
        raise UserError("The training diverged (its loss is not finite). Try another --seed.")


def learned_rows(faces: Faces, plan: Plan) -> np.ndarray:
    """Rows of the people that are learned from; the last few people are held out."""
    held_out = max(1, round(plan.people * _HELD_OUT_SHARE))
    return np.arange((plan.people - held_out) * plan.each * len(EXPRESSIONS))


@torch.no_grad()
def held_out_accuracy(faces: Faces, training: Training) -> float:
    """Share of the held-out people's pictures that are read right, cut out by their true boxes."""
    rows = np.arange(learned_rows(faces, training.plan)[-1] + 1, len(faces))
    found = []
    for first in range(0, len(rows), BATCH):
        some = as_input([crop(faces, row) for row in rows[first : first + BATCH]])
        found.append(training.network(some).argmax(dim=1))
    return float((torch.cat(found) == labels(faces, rows)).float().mean())
