"""The trained parts as a diffusers folder of Stable Diffusion 1.5's classes, in float16, and back again to train on.

The weights are rounded to multiples of a power of two, so that git stores little more than half of their bytes. Beside
them lies what gives people their names (`NamedEmbedding`), which nothing but a further training needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from demo.diffusion import decoder, expression_words, expressions, text, unet, vae
from demo.diffusion.networks import NamedEmbedding, new_vae
from demo.diffusion.stages import keep_networks, load_networks
from utils.console import UserError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

NAMES = "names.safetensors"
# To the largest weight of a row, at least half of them. Half as many for the U-Net save an eighth of its bytes in git.
_STEPS, _UNET_STEPS = 127, 63
_LATER_STEPS = 31  # of what learned expressions: the model was in git before, which keeps both
_KEPT = ("README.md", "LICENSE.txt")


def pipeline_of(tokenizer: CLIPTokenizer, scratch: Path) -> tuple[StableDiffusionPipeline, NamedEmbedding]:
    """What a training has reached so far: running means of the U-Net's weights, the latest decoder. What has learned
    expressions is rounded already."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pictures = new_vae()
    load_networks(vae.file_of(scratch), {"vae": pictures})
    if decoder.file_of(scratch).exists():
        load_networks(decoder.file_of(scratch), {"decoder": pictures.decoder}, means=True)
    network, encoder, named = unet.trained(tokenizer, scratch)
    if expressions.file_of(scratch).exists():
        before = [{name: one.clone() for name, one in net.state_dict().items()} for net in (network, encoder)]
        load_networks(expressions.file_of(scratch), {"unet": network, "text_encoder": encoder}, means=True)
        for net, weights in zip((network, encoder), before, strict=True):
            round_weights(net, _LATER_STEPS, but=weights)
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


def export(tokenizer: CLIPTokenizer, scratch: Path, output: Path) -> None:
    """Writes `output` anew, but for card and licence. Raises UserError for a folder of something else."""
    from safetensors.torch import save_file

    ours = {"model_index.json", *_KEPT}
    if output.exists() and any(output.iterdir()) and not any((output / name).is_file() for name in ours):
        raise UserError(f"{output} holds other files; --output takes a new folder, or one of such a model.")

    pipeline, named = pipeline_of(tokenizer, scratch)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        round_weights(network, _UNET_STEPS if network is pipeline.unet else _STEPS)
        network.to(torch.float16)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part)
    save_file(named.of_traits.state_dict(), part / NAMES)
    for name in _KEPT:
        if (output / name).is_file():
            shutil.copy(output / name, part / name)
    shutil.rmtree(output, ignore_errors=True)
    part.rename(output)


def round_weights(network: nn.Module, steps: int, but: dict[str, Tensor] | None = None) -> None:
    """Each row of a weight to whole multiples of its own power of two, at most `steps`; what has no rows stays, and
    rows that are as they are in `but`."""
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            rows = weight.data.flatten(1)
            unit = torch.exp2(torch.ceil(torch.log2(rows.abs().amax(1, keepdim=True).clamp(min=1e-8) / steps)))
            rounded = (rows / unit).round() * unit
            if but:
                rounded = torch.where((rows == but[name].flatten(1)).all(1, keepdim=True), rows, rounded)
            weight.data.copy_(rounded.reshape(weight.shape))


def take_up(tokenizer: CLIPTokenizer, model: Path, scratch: Path) -> None:
    """Fills `scratch` with an exported model, so that VAE, U-Net and decoder can learn on. Raises UserError.

    Optimisers begin anew, and the part `text` cannot go on: what it answered with is not kept.
    """
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    if not (model / NAMES).is_file():
        raise UserError(f"{model / NAMES} is missing: `export` writes it.")
    if any(scratch.glob("*.pt")):
        raise UserError(f"{scratch} holds a training already; --scratch takes a new folder.")
    encoder, named = text.new_named_encoder(tokenizer, text.traits_of_a_person())
    encoder.set_input_embeddings(named.words)
    encoder.load_state_dict(CLIPTextModel.from_pretrained(model / "text_encoder").state_dict())
    named.of_traits.load_state_dict(load_file(model / NAMES))
    encoder.set_input_embeddings(named)
    networks = {"unet": UNet2DConditionModel.from_pretrained(model / "unet"), "text_encoder": encoder}
    keep_networks(vae.file_of(scratch), {"vae": AutoencoderTiny.from_pretrained(model / "vae").float()})
    keep_networks(text.file_of(scratch), {"text_encoder": encoder.float()})
    # an exported encoder says expressions already, and would say them twice
    keep_networks(expression_words.file_of(scratch), {"text_encoder": encoder}, seconds=float("inf"))
    keep_networks(unet.file_of(scratch), {name: network.float() for name, network in networks.items()})
