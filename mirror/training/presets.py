"""Training settings by kind of base model, each value with its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

OUR_CHOICE = "our choice"
_SDXL_GUIDE = "kohya sd-scripts, docs/sdxl_train_network.md: its example"
_GUIDE = "kohya sd-scripts, docs/train_network.md"


@dataclass(frozen=True)
class Preset:
    """What an option is set to where the user does not say it."""

    family: str  # sdxl or sd15: what the base model must be
    rank: int
    alpha: float  # the LoRA is scaled by alpha / rank
    batch: int  # pictures a step and process
    resolution: int  # pixels, side of the square whose area buckets have
    noise_offset: float  # 0 for bases of zero terminal SNR, which need none
    sources: dict[str, str]
    learning_rate: float = 1e-4
    min_snr_gamma: float = 5.0
    warmup: float = 0.05  # share of all steps


_SOURCES = {
    "rank": _SDXL_GUIDE,
    "alpha": _SDXL_GUIDE,
    "learning_rate": _SDXL_GUIDE,
    "batch": OUR_CHOICE,
    "resolution": "Podell et al. 2023 (arXiv 2307.01952): the area SDXL was trained at",
    "min_snr_gamma": "Hang et al. 2023 (arXiv 2303.09556): gamma 5",
    "noise_offset": "Podell et al. 2023 (arXiv 2307.01952), section 2.5: SDXL itself was trained with 0.05",
    "warmup": OUR_CHOICE,
}
_SDXL = Preset("sdxl", rank=32, alpha=16, batch=1, resolution=1024, noise_offset=0.05, sources=_SOURCES)
PRESETS = {
    "sdxl": _SDXL,
    "sd15": Preset(
        "sd15",
        rank=16,
        alpha=8,
        batch=2,
        resolution=512,
        noise_offset=0.05,
        sources=_SOURCES
        | {
            "rank": f"{_GUIDE}: its example",
            "alpha": f"{_GUIDE}: about half of the rank",
            "learning_rate": f"{_GUIDE}: its example",
            "resolution": "Rombach et al. 2022 (arXiv 2112.10752): the size Stable Diffusion 1.5 was trained at",
            "noise_offset": OUR_CHOICE,
        },
    ),
    "zit": replace(  # Animagine XL, which the documents call ZIT (for Z-Image: --trainer)
        _SDXL,
        noise_offset=0.0,
        sources=_SOURCES | {"noise_offset": f"{OUR_CHOICE}: flat backgrounds of drawings must stay flat"},
    ),
}

REPEATS = 10  # of pictures in a folder without a number; our choice: as in kohya's usual folder names, 10_name

# How often pictures are seen in a whole training, all our choice: each about 100 times, a small set in all at least
# 1,500 times, as a face needs some steps to be learned, a large one at most 6,000 times.
VIEWS_PER_IMAGE, FEWEST_VIEWS, MOST_VIEWS = 100, 1_500, 6_000


def conv_alpha(settings: Mapping[str, Any]) -> float:
    """Alpha of the convolutions: they are scaled as the other layers are, by alpha / rank."""
    return settings["conv_rank"] * settings["alpha"] / settings["rank"]


def epochs_of(epochs: int | None, steps: int | None, images: int, samples: int, an_epoch: int) -> int:
    """Whole epochs for options of train_lora.py: as given, as near as can be to `steps`, or recommended.

    `an_epoch` is how many steps of the optimizer one epoch has.
    """
    if steps:
        return max(1, round(steps / an_epoch))
    return epochs or recommended_epochs(images, samples)


def recommended_epochs(images: int, samples: int) -> int:
    """Epochs for a dataset of so many pictures, of which an epoch shows `samples` (repeats counted)."""
    wanted = min(max(VIEWS_PER_IMAGE * images, FEWEST_VIEWS), MOST_VIEWS)
    return max(1, math.ceil(wanted / samples))
