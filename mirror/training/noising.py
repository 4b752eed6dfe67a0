"""The arithmetic of diffusion training: what is sampled at each step, what the network is to predict, how losses weigh.

Everything random is seeded by (seed, epoch, step, process): nothing has to be remembered to resume.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler

EPSILON, V_PREDICTION = "epsilon", "v_prediction"
PREDICTIONS = (EPSILON, V_PREDICTION)


def seed_of(*parts: int | str) -> int:
    """A seed of 63 bits that differs with every part."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def noise_schedule(config: dict, prediction: str, zero_snr: bool) -> DDPMScheduler:
    """The schedule of a base model. `zero_snr`: rescaled so that it ends in pure noise (arXiv 2305.08891)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(config, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)


def sample_noise(
    shape: tuple[int, ...], timesteps: int, offset: float, *seed: int | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (B, C, H, W) and timesteps (B,), sampled on the CPU so that every device gets the same.

    `offset` shifts the noise of a whole channel, so that the network learns dark and bright pictures
    (Guttenberg 2023, "Diffusion with Offset Noise").
    """
    import torch

    generator = torch.Generator().manual_seed(seed_of(*seed))
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise += offset * torch.randn((*shape[:2], 1, 1), generator=generator)
    return noise, torch.randint(0, timesteps, (shape[0],), generator=generator)


def target_of(schedule: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """What the network is to predict at the timesteps `at` (B,): the noise, or the velocity."""
    if schedule.config.prediction_type == V_PREDICTION:
        return schedule.get_velocity(latents, noise, at)
    return noise


def min_snr_weights(schedule: DDPMScheduler, at: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights (B,) of the losses at timesteps `at`; all 1 without `gamma`.

    min(SNR, gamma) / SNR for noise and min(SNR, gamma) / (SNR + 1) for velocity (Hang et al. 2023, arXiv 2303.09556,
    section 3.4): easy steps of little noise no longer drown the others.
    """
    import torch

    if not gamma:
        return torch.ones_like(at, dtype=torch.float32)
    kept = schedule.alphas_cumprod.to(at.device)[at].float()
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / (snr + (schedule.config.prediction_type == V_PREDICTION))


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Of `steps`, counted from 0: a rise over `warmup` steps, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epoch_batches(buckets: Sequence[Hashable], batch: int, *seed: int | str) -> list[list[int]]:
    """Samples 0 ... N - 1, of which each lies in one of `buckets`, shuffled into batches of one bucket each."""
    import torch

    generator = torch.Generator().manual_seed(seed_of(*seed))
    by_bucket = defaultdict(list)
    for sample in torch.randperm(len(buckets), generator=generator).tolist():
        by_bucket[buckets[sample]].append(sample)
    batches = [one[start : start + batch] for one in by_bucket.values() for start in range(0, len(one), batch)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def share_of(batches: list[list[int]], process: int, processes: int, accumulate: int) -> list[list[list[int]]]:
    """The steps of one process: groups of `accumulate` batches. The first batches come again where some are missing."""
    padded = batches + [batches[index % len(batches)] for index in range(-len(batches) % processes)]
    own = padded[process::processes]
    return [own[start : start + accumulate] for start in range(0, len(own), accumulate)]
