"""Prompt data inside a PNG, in the convention of the A1111 web UI, which galleries and other tools read.

The text "parameters" holds prompt, negative prompt and one line of settings (modules/infotext_utils.py there).
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from mirror.contracts.generation import GeneratedImage
from utils.files import safetensors_header

PARAMETERS, OURS = "parameters", "mirrormetrics"

# Names that A1111 knows; others stand as diffusers calls them.
SAMPLERS = {
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}


LORA_HASH_DIGITS = 12  # modules/hashes.py and extensions-builtin/Lora/network.py there


def lora_hash(path: Path) -> str:
    """What A1111 knows a LoRA by ("AutoV3" elsewhere): the SHA-256 of a .safetensors file without its header."""
    with open(path, "rb") as file:
        file.seek(safetensors_header(path)[1])
        return hashlib.file_digest(file, "sha256").hexdigest()[:LORA_HASH_DIGITS]


def quoted(value: object) -> str:
    """A value of the line of settings, as JSON text where it holds what separates them (`quote` there)."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"\n') else text


def parameters(
    image: GeneratedImage, scheduler: str, model: str, lora: tuple[str, str] | None, lora_scale: float | None
) -> str:
    """The text for one image. `lora` is its name, and its hash by `lora_hash`."""
    settings = {
        "Steps": image.steps,
        "Sampler": SAMPLERS.get(scheduler, scheduler),
        "CFG scale": f"{image.guidance:g}",
        "Seed": image.seed,
        "Size": "{}x{}".format(*image.size_wh),
        "Model": model,
    }
    if lora is not None:
        settings |= {"Lora hashes": "{}: {}".format(*lora), "Lora scale": f"{lora_scale:g}"}
    lines = [image.prompt, f"Negative prompt: {image.negative_prompt}" if image.negative_prompt else ""]
    lines.append(", ".join(f"{name}: {quoted(value)}" for name, value in settings.items()))
    return "\n".join(line for line in lines if line)


def png(picture: np.ndarray, text: str, image: GeneratedImage) -> bytes:
    """A picture (H, W, 3) uint8 RGB as PNG with its prompt data, and with what our metadata say about it.

    Name and time stay out: the same picture is the same file.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    for key, value in ((PARAMETERS, text), (OURS, image.model_dump_json(exclude={"file", "created"}))):
        texts.add_text(key, value) if value.isascii() else texts.add_itxt(key, value)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def facts_in(text: str) -> GeneratedImage:
    """What `png` wrote as the text OURS; its file has no name there. Raises ValueError for anything else."""
    return GeneratedImage.model_validate_json(f'{{"file": "", {text[1:]}')


def read_ours(data: bytes, file: str, created: str) -> GeneratedImage | None:
    """What `png` wrote into a picture; None for a picture of somebody else, or a damaged one."""
    from PIL import Image, UnidentifiedImageError
    from pydantic import ValidationError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            facts = facts_in(picture.text[OURS])
    except (OSError, UnidentifiedImageError, AttributeError, KeyError, ValidationError, SyntaxError, ValueError):
        return None
    return facts.model_copy(update={"file": file, "created": created})
