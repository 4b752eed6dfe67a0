"""`generation_metadata.json`: what generate_synthetic.py, or another generator, made."""

from __future__ import annotations

import random
import re
from typing import ClassVar, Literal

from mirror.contracts.contract import Contract
from mirror.contracts.gaps import AskedForGap, GapSensors
from mirror.contracts.plan import MAX_SEED


class GeneratedImage(AskedForGap):
    """One image that a generator wrote, and what it was asked to show."""

    file: str  # its name; it lies beside generation_metadata.json
    gap_type: str | None = None  # as in the gap file; null: made for no gap
    target: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    size_wh: tuple[int, int] | None = None  # pixels
    created: str | None = None


class Origin(Contract):
    """What a generated picture's own file, or the metadata beside it, says of how it was made."""

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None  # ComfyUI's go up to 2**64 - 1
    generator: str | None = None  # the program that wrote this down


_LORA_TAG = re.compile(r"<(?:lora|lyco|hypernet):([^<>:]*)[^<>]*>")


def prompt_key(prompt: str) -> str:
    """What is the same for all checkpoints of a series: A1111's prompts name the LoRA in a tag, each its own."""
    return " ".join(_LORA_TAG.sub(" ", prompt).split()).strip(" ,")


def loras_in(prompt: str) -> list[str]:
    """Names of the LoRA files that A1111's tags in a prompt load, without suffix."""
    return _LORA_TAG.findall(prompt)


class FailedImage(AskedForGap):
    """One planned image that came out black, blown or not a number, twice; no file was written."""

    name: str
    gap_type: str | None = None
    target: str | None = None
    prompt: str
    seeds: list[int]
    reason: str


def retry_seed(seed: int) -> int:
    """The seed of the second try for an image that came out black; metadata of a plan may name it instead of the first.

    The same every time: 0 to MAX_SEED.
    """
    return random.Random(f"{seed}/again").randint(0, MAX_SEED)


class GenerationMetadata(Contract):
    """`generation_metadata.json`: who made the images of a folder, for which gaps of which dataset.

    Another generator may write it too: all that validation needs is `images` with their targets, and either `gaps_file`
    or `dataset` and `sensors`. Paths are absolute, or relative to the file's own folder. generate_synthetic.py writes
    it after every image; `planned` says how many there will be.
    """

    people_write_it: ClassVar[bool] = True

    schema_version: Literal[1] = 1
    script: str = "generate_synthetic.py"  # or the program that took its place
    created: str = ""
    gaps_file: str | None = None
    dataset: str | None = None  # the folder that the gaps were found in
    sensors: GapSensors | None = None  # who found them
    base_model: str | None = None  # name@hash
    lora: str | None = None  # name@hash
    lora_scale: float | None = None
    lora_keys: int | None = None  # of the LoRA's file
    lora_unmatched: list[str] = []  # those of them that the base model has no place for
    family: str | None = None  # name of mirror/generation/families.py
    settings: dict[str, str | int | float | bool | None] = {}
    versions: dict[str, str] = {}
    plan: str | None = None  # hash of all prompts, seeds and names
    planned: int | None = None
    images: list[GeneratedImage]
    failed: list[FailedImage] = []
