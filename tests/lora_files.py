"""LoRA files for the tiny pipelines, with random weights, in the formats of kohya, diffusers and ai-toolkit."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.tiny_models import hf_clip, sgm_name

RANK, ALPHA = 4, 2.0  # unequal, as trainers have it by default
STRENGTH = 0.3  # of the random weights: enough to change the picture


def attention_layers(denoiser: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The layers that kohya trains in a U-Net, and that everybody trains in a transformer: those of its blocks."""
    blocks = ("transformer_blocks", "attentions", "layers", "single_transformer_blocks")
    return {
        name: layer
        for name, layer in denoiser.named_modules()
        if isinstance(layer, torch.nn.Linear) and any(f"{block}." in name for block in blocks)
    }


def matrices(layer: torch.nn.Module, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """(down, up) for a layer."""
    rows, columns = layer.weight.shape[:2]
    return STRENGTH * torch.randn(rank, columns), STRENGTH * torch.randn(rows, rank)


def kohya_keys(base: str, down: torch.Tensor, up: torch.Tensor, alpha: float = ALPHA) -> dict[str, torch.Tensor]:
    return {
        f"{base}.lora_down.weight": down.contiguous(),
        f"{base}.lora_up.weight": up.contiguous(),
        f"{base}.alpha": torch.tensor(alpha),
    }


def kohya_unet_sdxl(unet: torch.nn.Module, rank: int = RANK, strength: float = 1.0) -> dict[str, torch.Tensor]:
    """As sd-scripts names the U-Net of SDXL: the original's (SGM) names. `strength` of each product."""
    tensors = {}
    for name, layer in attention_layers(unet).items():
        base = "lora_unet_" + sgm_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
        down, up = matrices(layer, rank)
        tensors |= kohya_keys(base, down, strength * up)
    return tensors


def kohya_sdxl(pipeline, text_encoders: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """As sd-scripts writes it for SDXL."""
    torch.manual_seed(seed)
    tensors = kohya_unet_sdxl(pipeline.unet)
    if text_encoders:
        for prefix, encoder in (("lora_te1_", pipeline.text_encoder), ("lora_te2_", pipeline.text_encoder_2)):
            for name, layer in encoder.named_modules():
                if name.endswith(("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")):
                    tensors |= kohya_keys(prefix + hf_clip(name).replace(".", "_"), *matrices(layer))
    return tensors


def kohya_sd15(pipeline, seed: int = 0, only: str = "") -> dict[str, torch.Tensor]:
    """As sd-scripts writes it for SD 1.5: diffusers' names with underscores."""
    torch.manual_seed(seed)
    tensors = {}
    for name, layer in attention_layers(pipeline.unet).items():
        if only not in name:
            continue
        tensors |= kohya_keys("lora_unet_" + name.replace(".", "_"), *matrices(layer))
    return tensors


def peft_format(pipeline, prefix: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """As diffusers ("unet.", "transformer.") and ai-toolkit ("diffusion_model.") write it: no alpha."""
    torch.manual_seed(seed)
    tensors = {}
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    for name, layer in attention_layers(denoiser).items():
        down, up = matrices(layer)
        tensors |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    return tensors


def kohya_flux(pipeline, seed: int = 0) -> dict[str, torch.Tensor]:
    """As sd-scripts writes it for Flux.1: the original's names, query, key and value in one module."""
    torch.manual_seed(seed)
    joined = {"qkv": ("to_q", "to_k", "to_v"), "txt_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
    tensors = {}
    for block, module in enumerate(pipeline.transformer.transformer_blocks):
        start = f"lora_unet_double_blocks_{block}"
        for side, names in (("img", joined["qkv"]), ("txt", joined["txt_qkv"])):
            wide = torch.nn.Linear(32, 3 * 32)
            assert all(getattr(module.attn, name).weight.shape == (32, 32) for name in names)
            tensors |= kohya_keys(f"{start}_{side}_attn_qkv", *matrices(wide))
        tensors |= kohya_keys(f"{start}_img_attn_proj", *matrices(module.attn.to_out[0]))
        tensors |= kohya_keys(f"{start}_img_mlp_0", *matrices(module.ff.net[0].proj))
    for block, module in enumerate(pipeline.transformer.single_transformer_blocks):
        # linear1, the joined one, is split by diffusers at the real model's width alone
        tensors |= kohya_keys(f"lora_unet_single_blocks_{block}_linear2", *matrices(module.proj_out))
    return tensors


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": "pt"} | (metadata or {}))
    return path
