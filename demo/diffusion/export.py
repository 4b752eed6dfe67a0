"""The trained parts as a diffusers folder of Stable Diffusion 1.5's classes, in float16.

The weights have bfloat16's seven bits behind the point, so that git stores three quarters of their bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from demo.diffusion import compact, decoder, text, unet, vae
from demo.diffusion.networks import new_unet, new_vae
from demo.diffusion.stages import load_networks
from utils.console import UserError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

_KEPT = ("README.md", "LICENSE.txt", compact.FILE)


def pipeline_of(tokenizer: CLIPTokenizer, scratch: Path) -> StableDiffusionPipeline:
    """What a training has reached so far: running means of the U-Net's weights, the latest decoder."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pictures = new_vae()
    load_networks(vae.file_of(scratch), {"vae": pictures})
    if decoder.file_of(scratch).exists():
        load_networks(decoder.file_of(scratch), {"decoder": pictures.decoder}, means=True)
    encoder, named = text.new_named_encoder(tokenizer, text.traits_of_a_person())
    network = new_unet()
    load_networks(unet.file_of(scratch), {"unet": network, "text_encoder": encoder}, means=True)
    encoder.set_input_embeddings(named.words)
    schedule = EulerDiscreteScheduler.from_config(
        dict(unet.noise_schedule().config), timestep_spacing="trailing", steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=pictures.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=network.eval(),
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(tokenizer: CLIPTokenizer, scratch: Path, output: Path) -> None:
    """Writes `output` anew, but for card, licence and a packed training. Raises UserError for a folder of others."""
    import torch

    ours = {"model_index.json", *_KEPT}
    if output.exists() and any(output.iterdir()) and not any((output / name).is_file() for name in ours):
        raise UserError(f"{output} holds other files; --output takes a new folder, or one of such a model.")

    pipeline = pipeline_of(tokenizer, scratch)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.to(torch.bfloat16).to(torch.float16)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part)
    for name in _KEPT:
        if (output / name).is_file():
            shutil.copy(output / name, part / name)
    shutil.rmtree(output, ignore_errors=True)
    part.rename(output)
