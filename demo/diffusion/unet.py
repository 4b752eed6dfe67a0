"""Third stage: the U-Net, and with it the text encoder, learn to take the noise out of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from demo.diffusion import text, vae
from demo.diffusion.captions import Captions
from demo.diffusion.networks import new_unet
from demo.diffusion.pictures import Pictures
from demo.diffusion.stages import Course, Stage, batches, load_networks

if TYPE_CHECKING:
    from diffusers import DDPMScheduler
    from transformers import CLIPTokenizer

BATCH, RATE, DECAY, AVERAGED = 48, 1e-3, 0.01, 0.999
_FACE_WEIGHT = 2.0
_EVERY_TIME, _MIDDLE = 0.5, (350, 1000)  # the other half of the steps falls where faces take shape


def file_of(scratch: Path) -> Path:
    return scratch / "unet.pt"


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion's betas; the network predicts the velocity (Salimans and Ho 2022)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
    )


def train(
    seen: Pictures, tokenizer: CLIPTokenizer, scratch: Path, minutes: float, seed: int, keep_text_encoder: bool = False
) -> None:
    """Until its minutes are over; with `keep_text_encoder` that one stays as it is."""
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    latents = vae.encode_all(seen, scratch)
    encoder, named = text.new_named_encoder(tokenizer, text.traits_of_a_person())
    load_networks(text.file_of(scratch), {"text_encoder": encoder})
    unet = new_unet().to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # the fused attention is far slower backwards in bfloat16 on CPUs
    encoder.requires_grad_(not keep_text_encoder)
    course = Course(file_of(scratch), minutes, RATE, decay=DECAY, averaged=AVERAGED)
    stage = Stage(course, {"unet": unet, "text_encoder": encoder})
    random = stage.random(seed)
    captions = Captions(seen, tokenizer, random)
    schedule = noise_schedule()
    weights = vae.face_weights(seen.boxes, latents.shape[-1], _FACE_WEIGHT)
    order = iter(batches(len(seen.scenes), BATCH, random))

    def loss_of_batch() -> dict[str, Tensor]:
        chosen, mirrored = next(order), random.random(BATCH) < 0.5
        clean = torch.from_numpy(latents[mirrored.astype(int), chosen]).float()
        weight = torch.from_numpy(np.where(mirrored[:, None, None], weights[chosen][..., ::-1], weights[chosen]))
        noise, at = torch.randn_like(clean), times(BATCH)
        ids, named.traits = captions.of(chosen, mirrored)
        with torch.autocast("cpu", torch.bfloat16):
            told = unet(
                schedule.add_noise(clean, noise, at).contiguous(memory_format=torch.channels_last),
                at,
                encoder(ids).last_hidden_state,
            ).sample
        errors = (told.float() - schedule.get_velocity(clean, noise, at)).square()
        errors = (errors * weight[:, None].float()).mean((1, 2, 3))
        late = at > 600
        return {"loss": errors.mean(), "noisy": errors[late].mean(), "clear": errors[~late].mean()}

    stage.run(loss_of_batch)


def times(count: int) -> Tensor:
    """(count,) steps of the schedule."""
    anywhere = torch.randint(0, 1000, (count,))
    middle = torch.randint(*_MIDDLE, (count,))
    return torch.where(torch.rand(count) < _EVERY_TIME, anywhere, middle)
