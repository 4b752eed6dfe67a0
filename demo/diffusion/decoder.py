"""Last stage: the VAE's decoder goes on learning beside a network that tells its patches from real ones.

Absolute differences alone make pictures soft, and validation refuses soft pictures. Encoder and latents stay as they
are, so this can be done at any time, beside the U-Net. The losses are those of Esser et al. 2021 (arXiv 2012.09841):
hinge losses of a patch discriminator, weighted so that its gradient is a share (`_JUDGED`) of that of the differences.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from demo.diffusion import vae
from demo.diffusion.networks import new_vae
from demo.diffusion.pictures import PIXELS, Pictures
from demo.diffusion.stages import Course, Stage, batches, load_networks

BATCH, RATE, JUDGE_RATE, AVERAGED = 8, 3e-4, 5e-4, 0.995
_JUDGED = 0.6  # at the last layer
_BEGINS = 150  # steps after which the decoder begins to listen to the discriminator


def file_of(scratch: Path) -> Path:
    return scratch / "decoder.pt"


def new_judge() -> nn.Module:
    """Patches of 30 pixels to how real each looks."""

    def layer(inside: int, outside: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 4, stride, 1), nn.GroupNorm(8, outside), nn.LeakyReLU(0.2)]

    first = [nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*first, *layer(32, 64, 2), *layer(64, 96, 1), nn.Conv2d(96, 1, 3, 1, 1))


def train(seen: Pictures, scratch: Path, minutes: float, seed: int) -> None:
    """Until its minutes are over."""
    torch.manual_seed(seed)
    whole = new_vae().to(memory_format=torch.channels_last)
    load_networks(vae.file_of(scratch), {"vae": whole})
    whole.encoder.requires_grad_(False).eval()
    judge = new_judge().to(memory_format=torch.channels_last)
    learns = torch.optim.AdamW(judge.parameters(), lr=JUDGE_RATE, betas=(0.5, 0.9), weight_decay=0.0)
    course = Course(file_of(scratch), minutes, RATE, averaged=AVERAGED)
    stage = Stage(course, {"decoder": whole.decoder}, {"judge": judge, "learns": learns})
    random = stage.random(seed)
    weights = vae.face_weights(seen.boxes, PIXELS, 2.0)
    order = iter(batches(len(seen.images), BATCH, random))
    last = whole.decoder.layers[-1].weight

    def loss_of_batch() -> dict[str, Tensor]:
        pixels, weight = vae.patches(seen, weights, next(order), random)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = whole.encode(pixels).latents
                latents = latents + 0.5 * vae.NOISE * torch.randn_like(latents)
            drawn = whole.decode(latents).sample.float()
            told = judge(torch.cat([pixels, drawn.detach()])).float()
        real, made = told.chunk(2)
        judged = torch.relu(1 - real).mean() + torch.relu(1 + made).mean()
        learns.zero_grad()
        judged.backward()
        learns.step()
        flat, edges = vae.absolute(drawn, pixels, weight)
        differences = flat + vae.EDGES * edges
        if stage.steps < _BEGINS:
            return {"loss": differences, "pixels": flat, "edges": edges, "judge": judged}
        judge.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            liked = -judge(drawn).float().mean()
        judge.requires_grad_(True)
        by_pixels = torch.autograd.grad(differences, last, retain_graph=True)[0].norm()
        by_judge = torch.autograd.grad(liked, last, retain_graph=True)[0].norm()
        share = _JUDGED * (by_pixels / (by_judge + 1e-6)).clamp(0, 100)
        return {
            "loss": differences + share * liked,
            "pixels": flat,
            "edges": edges,
            "judge": judged,
            "sharpness": vae.edge_energy(drawn) / vae.edge_energy(pixels),
        }

    stage.run(loss_of_batch)
