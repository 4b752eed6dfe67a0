"""Third stage: the U-Net, and with it the text encoder, learn to take the noise out of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from demo.diffusion import stages, text, vae
from demo.diffusion.captions import Captions
from demo.diffusion.networks import NamedEmbedding, new_unet
from demo.diffusion.pictures import Pictures
from demo.diffusion.stages import Course, Stage, batches, load_networks

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

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
    if not stage.is_over:
        stages.discard(*(scratch / name for name in ("expression_words.pt", "expressions.pt")[keep_text_encoder:]))
    random = stage.random(seed)
    captions = Captions(seen.scenes, tokenizer, random)
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
            said = encoder(ids).last_hidden_state
        told = velocity(unet, schedule.add_noise(clean, noise, at), at, said)
        errors = (told - schedule.get_velocity(clean, noise, at)).square()
        errors = (errors * weight[:, None].float()).mean((1, 2, 3))
        late = at > 600
        return {"loss": errors.mean(), "noisy": errors[late].mean(), "clear": errors[~late].mean()}

    stage.run(loss_of_batch)


def velocity(unet: UNet2DConditionModel, noisy: Tensor, at: Tensor, said: Tensor) -> Tensor:
    """(B, C, h, w) float32, what the U-Net tells of noisy latents at steps `at` (B,) and said (B, TOKENS, width)."""
    with torch.autocast("cpu", torch.bfloat16):
        told = unet(noisy.contiguous(memory_format=torch.channels_last), at, said).sample
    return told.float()


def trained(tokenizer: CLIPTokenizer, scratch: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, NamedEmbedding]:
    """The U-Net and its text encoder as this stage has left them: running means of their weights."""
    encoder, named = text.new_named_encoder(tokenizer, text.traits_of_a_person())
    network = new_unet()
    load_networks(file_of(scratch), {"unet": network, "text_encoder": encoder}, means=True)
    return network, encoder, named


def times(count: int) -> Tensor:
    """(count,) steps of the schedule."""
    anywhere = torch.randint(0, 1000, (count,))
    middle = torch.randint(*_MIDDLE, (count,))
    return torch.where(torch.rand(count) < _EVERY_TIME, anywhere, middle)
