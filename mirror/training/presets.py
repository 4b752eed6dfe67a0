"""What train_lora.py offers: trainers, and training settings by kind of base model, each value with its source."""

from __future__ import annotations

import math
from dataclasses import dataclass

SD_SCRIPTS, AI_TOOLKIT, COMMAND = "sd-scripts", "ai-toolkit", "command"
TRAINERS = (SD_SCRIPTS, AI_TOOLKIT, COMMAND)  # made by others; mirror/training/trainers.py writes their set-up

OUR_CHOICE = "our choice"
_SDXL_GUIDE = "kohya sd-scripts, docs/sdxl_train_network.md: its example"
_GUIDE = "kohya sd-scripts, docs/train_network.md"
_MIN_SNR = "Hang et al. 2023 (arXiv 2303.09556): gamma 5"
_OFFSET = "Podell et al. 2023 (arXiv 2307.01952), section 2.5: SDXL itself was trained with 0.05"


@dataclass(frozen=True)
class Preset:
    """What an option is set to where the user does not say it."""

    family: str  # sdxl or sd15: what the base model must be
    rank: int
    alpha: float  # the LoRA is scaled by alpha / rank
    learning_rate: float
    batch: int  # pictures a step and process
    resolution: int  # pixels, side of the square whose area buckets have
    min_snr_gamma: float
    noise_offset: float  # 0 for bases of zero terminal SNR, which need none
    warmup: float  # share of all steps
    sources: dict[str, str]


PRESETS = {
    "sdxl": Preset(
        family="sdxl",
        rank=32,
        alpha=16,
        learning_rate=1e-4,
        batch=1,
        resolution=1024,
        min_snr_gamma=5.0,
        noise_offset=0.05,
        warmup=0.05,
        sources={
            "rank": _SDXL_GUIDE,
            "alpha": _SDXL_GUIDE,
            "learning_rate": _SDXL_GUIDE,
            "batch": OUR_CHOICE,
            "resolution": "Podell et al. 2023 (arXiv 2307.01952): the area SDXL was trained at",
            "min_snr_gamma": _MIN_SNR,
            "noise_offset": _OFFSET,
            "warmup": OUR_CHOICE,
        },
    ),
    "sd15": Preset(
        family="sd15",
        rank=16,
        alpha=8,
        learning_rate=1e-4,
        batch=2,
        resolution=512,
        min_snr_gamma=5.0,
        noise_offset=0.05,
        warmup=0.05,
        sources={
            "rank": f"{_GUIDE}: its example",
            "alpha": f"{_GUIDE}: about half of the rank",
            "learning_rate": f"{_GUIDE}: its example",
            "batch": OUR_CHOICE,
            "resolution": "Rombach et al. 2022 (arXiv 2112.10752): the size Stable Diffusion 1.5 was trained at",
            "min_snr_gamma": _MIN_SNR,
            "noise_offset": OUR_CHOICE,
            "warmup": OUR_CHOICE,
        },
    ),
    "zit": Preset(  # Animagine XL, which the documents call ZIT (for Z-Image: --trainer)
        family="sdxl",
        rank=32,
        alpha=16,
        learning_rate=1e-4,
        batch=1,
        resolution=1024,
        min_snr_gamma=5.0,
        noise_offset=0.0,
        warmup=0.05,
        sources={
            "rank": _SDXL_GUIDE,
            "alpha": _SDXL_GUIDE,
            "learning_rate": _SDXL_GUIDE,
            "batch": OUR_CHOICE,
            "resolution": "an SDXL model: Podell et al. 2023 (arXiv 2307.01952)",
            "min_snr_gamma": _MIN_SNR,
            "noise_offset": f"{OUR_CHOICE}: flat backgrounds of drawings must stay flat",
            "warmup": OUR_CHOICE,
        },
    ),
}

REPEATS = 10  # of pictures in a folder without a number; our choice: as in kohya's usual folder names, 10_name

# How often pictures are seen in a whole training, all our choice: each about 100 times, a small set in all at least
# 1,500 times, as a face needs some steps to be learned, a large one at most 6,000 times.
VIEWS_PER_IMAGE, FEWEST_VIEWS, MOST_VIEWS = 100, 1_500, 6_000


def recommended_epochs(images: int, samples: int) -> int:
    """Epochs for a dataset of so many pictures, of which an epoch shows `samples` (repeats counted)."""
    wanted = min(max(VIEWS_PER_IMAGE * images, FEWEST_VIEWS), MOST_VIEWS)
    return max(1, math.ceil(wanted / samples))
