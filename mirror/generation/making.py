"""Making the images of a plan, one chunk after the other, with less where the memory ends."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mirror.contracts.contract import write_contract
from mirror.contracts.generation import FailedImage, GeneratedImage, GenerationMetadata, retry_seed
from mirror.dataset.pixels import grey_of, histogram, spoiled
from mirror.generation import pipelines
from mirror.generation.a1111 import parameters, png
from mirror.generation.earlier import file_name, shots_done
from mirror.generation.families import SIZE_STEP
from mirror.generation.loras import LoraFacts
from mirror.generation.pipelines import Drawing, Loaded
from mirror.generation.planning import Plan
from mirror.generation.prompts import Shot
from utils.console import UserError, say
from utils.defaults import METADATA
from utils.files import write_bytes_atomic
from utils.progress import ImageProgress

SMALLEST = 256  # pixels: --allow-smaller does not go below


SMALLER = 0.75  # of width and height, each time that the memory ends


@dataclass
class Studio:
    """Everything that images are made with. Batch, memory and size give way where the GPU's memory ends."""

    loaded: Loaded
    lora: LoraFacts | None
    drawing: Drawing
    batch: int
    allow_smaller: bool


def memory_name(device: str) -> str:
    return "memory" if device == "cpu" else "GPU memory"


def used(studio: Studio) -> dict[str, int | bool | None]:
    """What the memory left of the options so far; images have their own size in the metadata."""
    import torch

    on_cpu = studio.loaded.device == "cpu"
    return {
        "batch_used": studio.batch,
        "width_used": studio.drawing.width,
        "height_used": studio.drawing.height,
        "low_vram": studio.loaded.low_vram,
        "gpu_memory_bytes": None if on_cpu else torch.cuda.max_memory_reserved(),  # the most so far
    }


def generate(args: argparse.Namespace, plan: Plan, studio: Studio, metadata: GenerationMetadata) -> None:
    """Make what is not there yet, chunk by chunk; a chunk has the same images in every run, so that they come out
    the same after an interruption."""
    done = shots_done(plan, metadata)
    chunks = [plan.shots[i : i + args.batch] for i in range(0, len(plan.shots), args.batch)]
    with ImageProgress(sum(shot.name not in done for shot in plan.shots), studio.drawing.steps) as progress:
        for chunk in chunks:
            if all(shot.name in done for shot in chunk):
                continue
            pictures = draw_chunk(studio, chunk, [shot.seed for shot in chunk], progress)
            for shot, picture in zip(chunk, pictures, strict=True):
                if shot.name not in done:
                    finish(args.output, shot, picture, studio, metadata, progress)


def draw_chunk(studio: Studio, shots: list[Shot], seeds: list[int], progress: ImageProgress) -> list[np.ndarray | None]:
    """Pictures of some shots at once, or in as many goes as memory asks for. Raises UserError where none is enough."""
    pictures: list[np.ndarray | None] = []
    while len(pictures) < len(shots):
        here = slice(len(pictures), len(pictures) + studio.batch)
        part = shots[here]
        negatives = None
        if studio.drawing.negative is not None:
            negatives = [studio.drawing.negative if shot.negative is None else shot.negative for shot in part]
        progress.begin()
        try:
            prompts = [shot.prompt for shot in part]
            pictures += pipelines.draw(studio.loaded, prompts, negatives, seeds[here], studio.drawing, progress.step)
            continue
        except (RuntimeError, MemoryError) as error:
            if not pipelines.is_out_of_memory(error):
                raise
        step_down(studio)  # outside, where no traceback holds what filled the memory
    return pictures


def step_down(studio: Studio) -> None:
    """After the memory ended: a smaller batch, then low-memory mode, then, if allowed, a smaller size; said aloud."""
    import torch

    drawing, memory = studio.drawing, memory_name(studio.loaded.device)
    smaller = smaller_size(drawing.width, drawing.height) if studio.allow_smaller else None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if studio.batch > 1:
        studio.batch //= 2
        say(f"Out of {memory}: going on with {studio.batch} image(s) at once.")
    elif not studio.loaded.low_vram:
        pipelines.place(studio.loaded, studio.loaded.device, low_vram=True)
        say(f"Out of {memory}: going on with --low-vram.")
    elif smaller is not None:
        studio.drawing = replace(drawing, width=smaller[0], height=smaller[1])
        say(f"Out of {memory}: going on with {smaller[0]} x {smaller[1]} pixels.")
    else:
        hint = "" if studio.allow_smaller else "; --allow-smaller lets it go on with smaller images"
        raise UserError(
            f"The {memory} is not enough for {drawing.width} x {drawing.height} pixels, even in low-memory mode: "
            f"close other programs, or take a smaller --width and --height{hint}."
        )


def smaller_size(width: int, height: int) -> tuple[int, int] | None:
    """Both sides by the same factor, the shorter not below `SMALLEST`; None where that makes nothing smaller."""
    factor = max(SMALLER, SMALLEST / min(width, height))
    size = tuple(round(side * factor / SIZE_STEP) * SIZE_STEP for side in (width, height))
    return size if factor < 1 and size != (width, height) else None


def finish(
    folder: Path,
    shot: Shot,
    picture: np.ndarray | None,
    studio: Studio,
    metadata: GenerationMetadata,
    progress: ImageProgress,
) -> None:
    """Write one image and the metadata; a black one gets a second try, and is reported if that is black too."""
    seeds, reason = [shot.seed], fault(picture)
    if reason:
        progress.print(f"{shot.name} came out as {reason}: trying once more with another seed.")
        seeds.append(retry_seed(shot.seed))
        (picture,) = draw_chunk(studio, [shot], seeds[-1:], progress)
        reason = fault(picture)
    if reason:
        metadata.failed.append(
            FailedImage(
                name=shot.name,
                gap_type=shot.gap_type,
                target=shot.target,
                prompt=shot.prompt,
                seeds=seeds,
                reason=reason,
            )
        )
        progress.done(f"{shot.name}: {reason} twice, not written")
    else:
        image = write_image(folder, shot, seeds[-1], picture, studio)
        metadata.images.append(image)
        progress.done(image.file)
    metadata.settings |= used(studio)
    write_contract(folder / METADATA, metadata)


def fault(picture: np.ndarray | None) -> str | None:
    """What is wrong with a picture (H, W, 3) uint8 RGB that shows nothing; None for a good one."""
    if picture is None:
        return "not a number"
    return spoiled(histogram(grey_of(picture[:, :, ::-1].copy())))


def write_image(folder: Path, shot: Shot, seed: int, picture: np.ndarray, studio: Studio) -> GeneratedImage:
    """One PNG, whole or not at all, and its line for the metadata."""
    loaded, lora, drawing = studio.loaded, studio.lora, studio.drawing
    negative = drawing.negative if shot.negative is None or drawing.negative is None else shot.negative
    image = GeneratedImage(
        file=file_name(shot),
        gap_type=shot.gap_type,
        target=shot.target,
        prompt=shot.prompt,
        negative_prompt=negative,
        seed=seed,
        steps=drawing.steps,
        guidance=drawing.guidance,
        size_wh=(picture.shape[1], picture.shape[0]),
        created=timestamp(),
    )
    scheduler = type(loaded.pipeline.scheduler).__name__
    known_lora = lora and (lora.path.stem, lora.a1111_hash)
    text = parameters(image, scheduler, loaded.identity.partition("@")[0], known_lora, lora and lora.scale)
    write_bytes_atomic(folder / image.file, png(picture, text, image))
    return image


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
