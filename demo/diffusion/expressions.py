"""Fifth stage: the U-Net learns expressions from scenes that are alike but for the face.

Among pictures of different people the difference that an expression makes is one or two hundredths of all that differs,
and where noise is weak it can be seen, so that no word is needed. So here each scene is asked for with every
expression, under the same noise; where noise is strong, all of these start from one face, whichever; and the losses
count most where the faces differ. Beside them go the usual pictures, so that nothing else is forgotten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from demo.diffusion import expression_words, unet, vae
from demo.diffusion.captions import Captions
from demo.diffusion.pictures import EXPRESSIONS, Pictures
from demo.diffusion.stages import Course, Stage, batches, load_networks

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SCENES, OTHERS = 7, 20  # in a batch: scenes with every expression, and usual pictures
RATE, AVERAGED, FALLS_OVER = 1e-3, 0.998, 0.4
# Where words are read, and the layers that draw what was read at the latents' own size. The rest of the U-Net stays:
# with all of it learning, a try of minutes told expressions no better, and git would keep all of it a second time.
LEARNS = re.compile(r"attn2|up_blocks\.2\.resnets\.0|up_blocks\.2\.resnets\.1\.conv1")
_FASTER = (r"attn2\.to_[kv]", 5.0)  # what reads words; in tries of 500 steps angry faces, the hardest, came sooner
_TIMES = (300, 980)  # steps of the noise: below, nothing is left to decide; above, nothing can be seen yet
_ANY_SHOWN_ABOVE = 350  # above it the latents show any of the expressions, below it the one that is asked for
_FACE_WEIGHT, _DIFFERENCES = 2.0, 4.0


def file_of(scratch: Path) -> Path:
    return scratch / "expressions.pt"


def train(seen: Pictures, faces: Pictures, tokenizer: CLIPTokenizer, scratch: Path, minutes: float, seed: int) -> None:
    """Until its minutes are over. `faces` have every expression of a scene, one after the other."""
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    network, encoder, named = unet.trained(tokenizer, scratch)
    load_networks(expression_words.file_of(scratch), {"text_encoder": encoder})
    network.to(memory_format=torch.channels_last).set_attn_processor(AttnProcessor())
    encoder.requires_grad_(False)
    for name, weight in network.named_parameters():
        weight.requires_grad_(bool(LEARNS.search(name)))
    course = Course(file_of(scratch), minutes, RATE, FALLS_OVER, averaged=AVERAGED, faster=_FASTER)
    stage = Stage(course, {"unet": network, "text_encoder": encoder})
    random = stage.random(seed)
    schedule = unet.noise_schedule()
    usual = vae.encode_all(seen, scratch)
    usual_weights = vae.face_weights(seen.boxes, usual.shape[-1], _FACE_WEIGHT)
    kinds = len(EXPRESSIONS)
    alike = vae.encode_all(faces, scratch)
    alike = alike.reshape(2, -1, kinds, *alike.shape[2:])
    alike_weights = vae.face_weights(faces.boxes, alike.shape[-1], _FACE_WEIGHT)[::kinds]
    captions = Captions(seen.scenes, tokenizer, random)
    face_captions = Captions(faces.scenes[::kinds], tokenizer, random)
    order = iter(batches(len(seen.scenes), OTHERS, random))
    face_order = iter(batches(alike.shape[1], SCENES, random))

    def of_faces() -> Tensor:
        chosen, mirrored = next(face_order), random.random(SCENES) < 0.5
        asked = torch.from_numpy(alike[mirrored.astype(int), chosen]).float()  # (SCENES, E, C, h, w)
        weight = _turned(alike_weights[chosen], mirrored)[:, None] * weights_of_differences(asked)
        weight = weight / weight.mean((2, 3), keepdim=True)
        at = torch.randint(*_TIMES, (SCENES, 1)).expand(SCENES, kinds)
        shown = asked[torch.arange(SCENES), torch.randint(kinds, (SCENES,))][:, None]
        shown = torch.where((at > _ANY_SHOWN_ABOVE)[..., None, None, None], shown, asked)
        noise = torch.randn_like(asked[:, :1]).expand_as(asked)
        ids, named.traits = face_captions.of_faces(chosen, mirrored)
        noisy = schedule.add_noise(shown.flatten(0, 1), noise.flatten(0, 1), at.flatten())
        told = unet.velocity(network, noisy, at.flatten(), encoder(ids).last_hidden_state)
        errors = (told - velocity_to(asked.flatten(0, 1), noisy, schedule.alphas_cumprod[at.flatten()])).square()
        return (errors.mean(1) * weight.expand(-1, kinds, -1, -1).flatten(0, 1)).mean()

    def of_others() -> Tensor:
        chosen, mirrored = next(order), random.random(OTHERS) < 0.5
        clean = torch.from_numpy(usual[mirrored.astype(int), chosen]).float()
        noise, at = torch.randn_like(clean), unet.times(OTHERS)
        ids, named.traits = captions.of(chosen, mirrored)
        told = unet.velocity(network, schedule.add_noise(clean, noise, at), at, encoder(ids).last_hidden_state)
        errors = (told - schedule.get_velocity(clean, noise, at)).square().mean(1)
        return (errors * _turned(usual_weights[chosen], mirrored)).mean()

    def loss_of_batch() -> dict[str, Tensor]:
        faces_loss, others = of_faces(), of_others()
        return {"loss": faces_loss + others, "faces": faces_loss, "others": others}

    stage.run(loss_of_batch)


def _turned(weights: np.ndarray, mirrored: np.ndarray) -> Tensor:
    return torch.from_numpy(np.where(mirrored[:, None, None], weights[..., ::-1], weights)).float()


def weights_of_differences(asked: Tensor) -> Tensor:
    """(B, 1, h, w), 1 where the faces of a scene (B, E, C, h, w) are the same, more the more they differ."""
    apart = (asked - asked.mean(1, keepdim=True)).square().mean((1, 2))
    return 1 + _DIFFERENCES * (apart / apart.mean((1, 2), keepdim=True).clamp(min=1e-6))[:, None]


def velocity_to(clean: Tensor, noisy: Tensor, kept: Tensor) -> Tensor:
    """The velocity that leads from `noisy` to `clean`, whichever latents the noise was added to; `kept` (B,) is the
    share of their variance that is left (alphas_cumprod)."""
    kept = kept[:, None, None, None]
    return (kept.sqrt() * noisy - clean) / (1 - kept).sqrt()
