"""The trained parts as a diffusers folder of Stable Diffusion 1.5's classes, in float16."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from demo.diffusion import decoder, text, unet, vae
from demo.diffusion.networks import NamedEmbedding, new_unet, new_vae
from demo.diffusion.pictures import traits
from demo.diffusion.stages import keep_networks, load_networks
from demo.identity import mean_identity

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

_KEPT = ("README.md", "LICENSE.txt")
NAMES = "names.safetensors"  # of no use but for training on


def pipeline_of(tokenizer: CLIPTokenizer, scratch: Path) -> tuple[StableDiffusionPipeline, NamedEmbedding]:
    """What a training has reached so far: running means of the weights; and what names people, no part of it."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pictures = new_vae()
    load_networks(vae.file_of(scratch), {"vae": pictures})
    if decoder.file_of(scratch).exists():
        load_networks(decoder.file_of(scratch), {"decoder": pictures.decoder}, means=True)
    encoder, named = text.new_named_encoder(tokenizer, len(traits(mean_identity())))
    network = new_unet()
    load_networks(unet.file_of(scratch), {"unet": network, "text_encoder": encoder}, means=True)
    encoder.set_input_embeddings(named.words)
    schedule = EulerDiscreteScheduler.from_config(
        dict(unet.noise_schedule().config), timestep_spacing="trailing", steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=pictures.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=network.eval(),
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, named


def unpack(tokenizer: CLIPTokenizer, folder: Path, scratch: Path) -> None:
    """The parts of an exported folder as the stages keep them, so that any machine can go on with a training."""
    import torch
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    whole = {"torch_dtype": torch.float32}
    pictures = AutoencoderTiny.from_pretrained(folder / "vae", **whole)
    keep_networks(vae.file_of(scratch), {"vae": pictures})
    keep_networks(decoder.file_of(scratch), {"decoder": pictures.decoder})
    _, named = text.new_named_encoder(tokenizer, len(traits(mean_identity())))
    network = UNet2DConditionModel.from_pretrained(folder / "unet", **whole)
    trained = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    named.words = trained.get_input_embeddings()
    trained.set_input_embeddings(named)
    named.of_traits.load_state_dict({name: one.float() for name, one in load_file(folder / NAMES).items()})
    keep_networks(text.file_of(scratch), {"text_encoder": trained})
    keep_networks(unet.file_of(scratch), {"unet": network, "text_encoder": trained})


def export(tokenizer: CLIPTokenizer, scratch: Path, output: Path) -> None:
    """Writes `output` anew, but for its card and licence."""
    import torch

    pipeline, named = pipeline_of(tokenizer, scratch)
    pipeline.to(torch.float16)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part)
    from safetensors.torch import save_file

    names = named.of_traits.to(torch.float16)
    save_file({name: one.contiguous() for name, one in names.state_dict().items()}, part / NAMES)
    for name in _KEPT:
        if (output / name).is_file():
            shutil.copy(output / name, part / name)
    shutil.rmtree(output, ignore_errors=True)
    part.rename(output)
