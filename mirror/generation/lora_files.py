"""LoRA files as trainers write them: names that diffusers, ComfyUI and A1111 load, and a check without a base model.

Kohya's names are read by all three: `lora_unet_<module>.lora_down.weight`, `.lora_up.weight` and `.alpha`, where SDXL's
modules are named as in Stability's own code (`input_blocks_4_1_...`) and those of Stable Diffusion 1.5 as in diffusers.
The other format has diffusers' own names, `unet.<module>.lora_A.weight` and `.lora_B.weight`, and no place for alpha:
there the up weights are multiplied by alpha / rank, so that every reader scales them right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from utils.console import UserError

if TYPE_CHECKING:
    import torch

KOHYA, DIFFUSERS = "kohya", "diffusers"

Layers = dict[str, tuple["torch.Tensor", "torch.Tensor"]]  # module of the U-Net -> (down (R, in ...), up (out, R ...))


def kohya_module(module: str, family: str, layers_per_block: int) -> str:
    """Kohya's name of a U-Net module that diffusers calls `down_blocks.1.attentions.0.proj_in`."""
    words = module.split(".")
    if family == "sdxl" and words[0] in ("down_blocks", "mid_block", "up_blocks"):
        words = _sdxl_words(words, layers_per_block + 1)
    return "_".join(["lora", "unet", *words]).replace(".", "_")


# What the layers of a residual block are called in Stability's code.
_RESNET = {
    "conv1": ["in_layers", "2"],
    "conv2": ["out_layers", "3"],
    "time_emb_proj": ["emb_layers", "1"],
    "conv_shortcut": ["skip_connection"],
}


def _sdxl_words(words: list[str], each: int) -> list[str]:
    """A module's name in Stability's code, whose blocks are counted through, `each` of them to one of diffusers'."""
    if words[0] == "mid_block":
        (kind, layer), rest = words[1:3], words[3:]
        return ["middle_block", *(["1", *rest] if kind == "attentions" else [str(2 * int(layer)), *_RESNET[rest[0]]])]
    block, kind, layer, rest = int(words[1]), words[2], int(words[3]), words[4:]
    if kind == "downsamplers":
        return ["input_blocks", str((block + 1) * each), "0", "op"]
    if kind == "upsamplers":  # after the attention, which all of SDXL's blocks that grow have
        return ["output_blocks", str(block * each + each - 1), "2", *rest]
    number = block * each + layer
    start = ["output_blocks", str(number)] if words[0] == "up_blocks" else ["input_blocks", str(number + 1)]
    return [*start, *(["1", *rest] if kind == "attentions" else ["0", *_RESNET[rest[0]]])]


def kohya_tensors(layers: Layers, scale: float, family: str, layers_per_block: int) -> dict[str, torch.Tensor]:
    """Tensors by kohya's names; each alpha, `scale` times the layer's rank, is float32, the others as they come."""
    import torch

    tensors = {}
    for module, (down, up) in layers.items():
        name = kohya_module(module, family, layers_per_block)
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = torch.tensor(scale * down.shape[0])
    return tensors


def diffusers_tensors(layers: Layers, scale: float) -> dict[str, torch.Tensor]:
    """Tensors by diffusers' names, `scale` multiplied into the up weights."""
    tensors = {}
    for module, (down, up) in layers.items():
        tensors[f"unet.{module}.lora_A.weight"] = down
        tensors[f"unet.{module}.lora_B.weight"] = up * scale
    return tensors


def safetensors_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A .safetensors file, the same bytes for the same content: the library writes metadata in an order of chance."""
    from safetensors.torch import save

    plain = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8 : 8 + length])
    header = json.dumps({"__metadata__": dict(sorted(metadata.items()))} | header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants the tensors to begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + plain[8 + length :]


def check_lora(path: Path) -> int:
    """How many layers the LoRA in `path` has. Raises UserError where it is none that would load and act."""
    from mirror.generation.loras import read_lora, sort_keys

    tensors = read_lora(path)
    modules, strangers = sort_keys(list(tensors))
    if strangers or not modules:
        example = f" (such as {strangers[0]})" if strangers else ""
        raise UserError(
            f"{path} is no LoRA: {len(strangers)} of its {len(tensors)} tensors are no part of one{example}."
        )
    for module in modules:
        down, up = tensors[module.down], tensors[module.up]
        if min(down.dim(), up.dim()) < 2 or down.shape[0] != up.shape[1]:
            raise UserError(f"{path} is no LoRA: the two halves of {module.name} are not of one rank.")
        if not bool(down.isfinite().all() and up.isfinite().all()):
            raise UserError(f"{path} holds values that are not numbers (NaN): its training failed.")
    if not any(bool(tensors[module.up].any()) for module in modules):
        raise UserError(f"{path} changes nothing: all its up weights are zero.")
    return len(modules)
