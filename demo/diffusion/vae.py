"""First stage: the VAE. It learns from patches of the pictures, and is told to be exact in the face."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.diffusion.networks import new_vae
from demo.diffusion.pictures import PIXELS, Pictures
from demo.diffusion.stages import Course, Stage, batches, load_networks
from utils.files import write_bytes_atomic
from utils.progress import GroupProgress

BATCH, PATCH = 8, 64  # small steps, but many: a minute of 8 patches teaches more than one of 24
RATE, FALLS_OVER = 1.5e-3, 0.5
NOISE = 0.1  # added to latents in training, so that the decoder forgives what the U-Net does not get quite right
_FACE_WEIGHT = 6.0
EDGES, _LEVEL = 2.0, 0.1  # weights


def file_of(scratch: Path) -> Path:
    return scratch / "vae.pt"


def train(seen: Pictures, scratch: Path, minutes: float, seed: int) -> None:
    """Until its minutes are over."""
    torch.manual_seed(seed)
    vae = new_vae().to(memory_format=torch.channels_last)
    stage = Stage(Course(file_of(scratch), minutes, RATE, FALLS_OVER), {"vae": vae})
    if not stage.is_over:
        (scratch / "decoder.pt").unlink(missing_ok=True)  # it was learned for another encoder
    random = stage.random(seed)
    weights = face_weights(seen.boxes, PIXELS, _FACE_WEIGHT)
    order = iter(batches(len(seen.images), BATCH, random))

    def loss_of_batch() -> dict[str, Tensor]:
        pixels, weight = patches(seen, weights, next(order), random)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pixels).latents
            drawn = vae.decode(latents + NOISE * torch.randn_like(latents)).sample
        return losses_of(drawn.float(), pixels, weight, latents.float())

    stage.run(loss_of_batch)


def losses_of(drawn: Tensor, pixels: Tensor, weight: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """Squared differences of pixels and of edges, and how far latents are from mean 0 and deviation 1.

    Absolute differences leave colours grey for long: what cannot be learned, single hairs, pulls as hard as what can.
    """
    flat = (weight * (drawn - pixels).square()).mean()
    edges = sum((inner(weight, a) * a.square()).mean() for a in differences(drawn - pixels))
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    level = (mean.square() + (deviation - 1).square()).mean()
    return {"loss": 4 * flat + 8 * edges + _LEVEL * level, "pixels": flat, "edges": edges, "level": level}


def absolute(drawn: Tensor, pixels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute differences of pixels and of edges."""
    edges = sum((inner(weight, a) * a.abs()).mean() for a in differences(drawn - pixels))
    return (weight * (drawn - pixels).abs()).mean(), edges


def inner(weight: Tensor, differences: Tensor) -> Tensor:
    """Weights for differences, of which there is one less across or down."""
    return weight[..., : differences.shape[-2], : differences.shape[-1]]


def differences(pixels: Tensor) -> list[Tensor]:
    """Of neighbours, across and down."""
    return [pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]]


@torch.no_grad()
def edge_energy(pixels: Tensor) -> Tensor:
    """Variance of the Laplacian of the grey picture, which validation calls sharpness."""
    grey = pixels.mean(1, keepdim=True)
    around = grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:] + grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1]
    return (around - 4 * grey[..., 1:-1, 1:-1]).var((2, 3)).mean()


def patches(
    seen: Pictures, weights: np.ndarray, chosen: np.ndarray, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(pictures (B, 3, PATCH, PATCH) in -1 to 1, weights (B, 1, PATCH, PATCH)), half of them mirrored."""
    pixels, weight = [], []
    for index in chosen:
        top, left = random.integers(0, PIXELS - PATCH + 1, 2)
        cut = np.s_[top : top + PATCH, left : left + PATCH]
        turn = slice(None, None, -1 if random.random() < 0.5 else 1)
        pixels.append(seen.images[index][cut][:, turn])
        weight.append(weights[index][cut][:, turn])
    return to_pixels(np.stack(pixels)), torch.from_numpy(np.stack(weight))[:, None].float()


def to_pixels(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 BGR as (N, 3, H, W) RGB in -1 to 1."""
    raw = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2)
    return (raw.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def face_weights(boxes: np.ndarray, side: int, most: float) -> np.ndarray:
    """(N, side, side) float16 with mean 1 each: `most` times as much in the face as elsewhere."""
    scale, place = side / PIXELS, (np.arange(side) + 0.5)
    out = np.ones((len(boxes), side, side), np.float32)
    for weight, box in zip(out, boxes * scale, strict=True):
        if np.isfinite(box).all():
            down = (place >= box[1]) & (place <= box[3])
            across = (place >= box[0]) & (place <= box[2])
            weight[np.outer(down, across)] = most
        weight /= weight.mean()
    return out.astype(np.float16)


def encode_all(seen: Pictures, scratch: Path) -> np.ndarray:
    """(2, N, C, h, w) float16 latents of the pictures and of their mirror images, made once for each VAE."""
    which = hashlib.sha256(file_of(scratch).read_bytes()).hexdigest()[:12]
    file = scratch / f"latents-{seen.name}-{which}.npy"
    if file.exists():
        return np.load(file)
    vae = new_vae().eval()
    load_networks(file_of(scratch), {"vae": vae})
    vae.to(memory_format=torch.channels_last)
    out: list[list[np.ndarray]] = [[], []]
    with GroupProgress() as progress, torch.inference_mode():
        starts = range(0, len(seen.images), 64)
        task = progress.add("Latents of 64", len(starts))
        for start in starts:
            pixels = to_pixels(seen.images[start : start + 64])
            for mirrored in (0, 1):
                latents = vae.encode(pixels.flip(-1) if mirrored else pixels).latents
                out[mirrored].append(latents.half().numpy())
            progress.step(task)
    latents = np.stack([np.concatenate(group) for group in out])
    written = io.BytesIO()
    np.save(written, latents)
    write_bytes_atomic(file, written.getvalue())
    return latents
