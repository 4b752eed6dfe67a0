"""Prompt data inside a PNG, in the convention of the A1111 web UI, which galleries and other tools read.

The text "parameters" holds prompt, negative prompt and one line of settings (modules/infotext_utils.py there).
"""

from __future__ import annotations

import io

import numpy as np

from utils.contracts import GeneratedImage

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


def parameters(image: GeneratedImage, scheduler: str, model: str, lora: str | None, lora_scale: float | None) -> str:
    """The text for one image. `model` and `lora` are name@hash."""
    settings = {
        "Steps": image.steps,
        "Sampler": SAMPLERS.get(scheduler, scheduler),
        "CFG scale": f"{image.guidance:g}",
        "Seed": image.seed,
        "Size": "{}x{}".format(*image.size_wh),
        "Model": model.partition("@")[0],
    }
    if lora is not None:
        name, _, digest = lora.partition("@")
        settings |= {"Lora hashes": f'"{name}: {digest}"', "Lora scale": f"{lora_scale:g}"}
    lines = [image.prompt, f"Negative prompt: {image.negative_prompt}" if image.negative_prompt else ""]
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
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


def read_ours(data: bytes, file: str, created: str) -> GeneratedImage | None:
    """What `png` wrote into a picture; None for a picture of somebody else, or a damaged one."""
    from PIL import Image, UnidentifiedImageError
    from pydantic import ValidationError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            text = picture.text[OURS]
        facts = GeneratedImage.model_validate_json(f'{{"file": "", {text[1:]}')
    except (OSError, UnidentifiedImageError, AttributeError, KeyError, ValidationError, SyntaxError, ValueError):
        return None
    return facts.model_copy(update={"file": file, "created": created})
