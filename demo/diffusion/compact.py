"""A training that is not finished, in a file that a commit can hold: weights in 8 bits, to go on from elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from demo.diffusion import decoder, text, unet, vae
from demo.diffusion.networks import new_unet, new_vae
from demo.diffusion.stages import keep_networks, load_networks
from utils.console import UserError
from utils.files import write_bytes_atomic

FILE = "training.safetensors"
_SCALE = ".scale"


def parts(tokenizer: object) -> dict[str, nn.Module]:
    """All networks of a training, new."""
    encoder, _ = text.new_named_encoder(tokenizer, text.traits_of_a_person())
    return {"vae": new_vae(), "unet": new_unet(), "text_encoder": encoder}


def pack(tokenizer: object, scratch: Path, file: Path) -> None:
    """What the stages in `scratch` have reached: running means, the latest decoder."""
    from safetensors.torch import save

    networks = parts(tokenizer)
    load_networks(vae.file_of(scratch), {"vae": networks["vae"]})
    if decoder.file_of(scratch).exists():
        load_networks(decoder.file_of(scratch), {"decoder": networks["vae"].decoder}, means=True)
    load_networks(unet.file_of(scratch), {name: networks[name] for name in ("unet", "text_encoder")}, means=True)
    tensors: dict[str, Tensor] = {}
    for part, network in networks.items():
        for name, one in network.state_dict().items():
            tensors |= rounded(f"{part}/{name}", one)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(file, save(tensors))


def rounded(name: str, one: Tensor) -> dict[str, Tensor]:
    """A tensor as whole numbers of -127 to 127 with a scale for each of its rows; small ones in float16."""
    if one.ndim < 2:
        return {name: one.half() if one.is_floating_point() else one}
    flat = one.float().flatten(1)
    scale = (flat.abs().amax(1) / 127).clamp(min=1e-12)
    return {name: (flat / scale[:, None]).round().to(torch.int8).reshape(one.shape), name + _SCALE: scale}


def unpack(tokenizer: object, file: Path, scratch: Path) -> None:
    """Fills `scratch` with what `pack` kept: weights, so that VAE, U-Net and decoder can learn on. Raises UserError.

    Optimisers begin anew, and the part `text` cannot go on: what it answered with is not kept.
    """
    if unet.file_of(scratch).exists():
        raise UserError(f"{scratch} holds a training already; --scratch takes a new folder.")
    from safetensors.torch import load_file

    networks, tensors = parts(tokenizer), load_file(file)
    for part, network in networks.items():
        state = {}
        for name, like in network.state_dict().items():
            one = tensors[f"{part}/{name}"]
            scale = tensors.get(f"{part}/{name}{_SCALE}")
            if scale is not None:
                one = one.float() * scale.reshape(-1, *[1] * (one.ndim - 1))
            state[name] = one.to(like.dtype)
        network.load_state_dict(state)
    scratch.mkdir(parents=True, exist_ok=True)
    keep_networks(vae.file_of(scratch), {"vae": networks["vae"]})
    keep_networks(text.file_of(scratch), {"text_encoder": networks["text_encoder"]})
    keep_networks(unet.file_of(scratch), {name: networks[name] for name in ("unet", "text_encoder")})
