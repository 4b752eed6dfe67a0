"""Where a pipeline or a training runs, and in which precision."""

from __future__ import annotations

from mirror.generation.families import Family
from utils.console import UserError


def choose_device(asked: str) -> str:
    """cuda or cpu. Raises UserError where cuda is asked for and not there."""
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("--device cuda: PyTorch finds no NVIDIA GPU here. Leave --device out, or take --device cpu.")
    return "cuda" if there and asked != "cpu" else "cpu"


def default_dtype(family: Family, device: str) -> str:
    """float32 on a CPU; on a GPU what the family was published in, where the GPU can do it."""
    import torch

    if device == "cpu":
        return "float32"
    if family.gpu_dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return family.gpu_dtype
