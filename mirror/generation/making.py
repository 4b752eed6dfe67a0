"""Making the images of a plan, one chunk after the other, with less where the memory ends."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mirror.contracts.contract import write_contract
from mirror.contracts.generation import FailedImage, GeneratedImage, GenerationMetadata, retry_seed
from mirror.dataset.pixels import grey_of, histogram, unusable
from mirror.generation import pipelines
from mirror.generation.a1111 import parameters, png
from mirror.generation.earlier import file_name, images_done
from mirror.generation.families import SIZE_STEP
from mirror.generation.loras import LoraFacts
from mirror.generation.pipelines import Loaded, SamplingParameters
from mirror.generation.planning import GenerationPlan
from mirror.generation.prompts import PlannedImage
from utils.console import UserError, say
from utils.defaults import METADATA
from utils.files import timestamp, write_bytes_atomic
from utils.progress import ImageProgress

SMALLEST = 256  # pixels: --allow-smaller does not go below


SMALLER = 0.75  # of width and height, each time that the memory ends


@dataclass
class ImagePipeline:
    """Everything that images are made with. Batch, memory and size give way where the GPU's memory ends."""

    loaded: Loaded
    lora: LoraFacts | None
    sampling: SamplingParameters
    batch: int
    allow_smaller: bool


def memory_name(device: str) -> str:
    return "memory" if device == "cpu" else "GPU memory"


def used(pipeline: ImagePipeline) -> dict[str, int | bool | None]:
    """What the memory left of the options so far; images have their own size in the metadata."""
    import torch

    on_cpu = pipeline.loaded.device == "cpu"
    return {
        "batch_used": pipeline.batch,
        "width_used": pipeline.sampling.width,
        "height_used": pipeline.sampling.height,
        "low_vram": pipeline.loaded.low_vram,
        "gpu_memory_bytes": None if on_cpu else torch.cuda.max_memory_reserved(),  # the most so far
    }


def generate(
    args: argparse.Namespace, plan: GenerationPlan, pipeline: ImagePipeline, metadata: GenerationMetadata
) -> None:
    """Make what is not there yet, chunk by chunk; a chunk has the same images in every run, so that they come out
    the same after an interruption."""
    done = images_done(plan, metadata)
    chunks = [plan.planned_images[i : i + args.batch] for i in range(0, len(plan.planned_images), args.batch)]
    with ImageProgress(
        sum(planned.name not in done for planned in plan.planned_images), pipeline.sampling.steps
    ) as progress:
        for chunk in chunks:
            if all(planned.name in done for planned in chunk):
                continue
            pictures = sample_chunk(pipeline, chunk, [planned.seed for planned in chunk], progress)
            for planned, picture in zip(chunk, pictures, strict=True):
                if planned.name not in done:
                    finish(args.output, planned, picture, pipeline, metadata, progress)


def sample_chunk(
    pipeline: ImagePipeline, planned_images: list[PlannedImage], seeds: list[int], progress: ImageProgress
) -> list[np.ndarray | None]:
    """Pictures of some planned images at once, or in as many goes as memory asks for. Raises UserError."""
    pictures: list[np.ndarray | None] = []
    while len(pictures) < len(planned_images):
        here = slice(len(pictures), len(pictures) + pipeline.batch)
        part = planned_images[here]
        negatives = None
        if pipeline.sampling.negative is not None:
            negatives = [
                pipeline.sampling.negative if planned.negative is None else planned.negative for planned in part
            ]
        progress.begin()
        try:
            prompts = [planned.prompt for planned in part]
            pictures += pipelines.sample(
                pipeline.loaded, prompts, negatives, seeds[here], pipeline.sampling, progress.step
            )
            continue
        except (RuntimeError, MemoryError) as error:
            if not pipelines.is_out_of_memory(error):
                raise
        step_down(pipeline)  # outside, where no traceback holds what filled the memory
    return pictures


def step_down(pipeline: ImagePipeline) -> None:
    """After the memory ended: a smaller batch, then low-memory mode, then, if allowed, a smaller size; said aloud."""
    import torch

    sampling, memory = pipeline.sampling, memory_name(pipeline.loaded.device)
    smaller = smaller_size(sampling.width, sampling.height) if pipeline.allow_smaller else None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if pipeline.batch > 1:
        pipeline.batch //= 2
        say(f"Out of {memory}: going on with {pipeline.batch} image(s) at once.")
    elif not pipeline.loaded.low_vram:
        pipelines.move_to_device(pipeline.loaded, pipeline.loaded.device, low_vram=True)
        say(f"Out of {memory}: going on with --low-vram.")
    elif smaller is not None:
        pipeline.sampling = replace(sampling, width=smaller[0], height=smaller[1])
        say(f"Out of {memory}: going on with {smaller[0]} x {smaller[1]} pixels.")
    else:
        hint = "" if pipeline.allow_smaller else "; --allow-smaller lets it go on with smaller images"
        raise UserError(
            f"The {memory} is not enough for {sampling.width} x {sampling.height} pixels, even in low-memory mode: "
            f"close other programs, or take a smaller --width and --height{hint}."
        )


def smaller_size(width: int, height: int) -> tuple[int, int] | None:
    """Both sides by the same factor, the shorter not below `SMALLEST`; None where that makes nothing smaller."""
    factor = max(SMALLER, SMALLEST / min(width, height))
    size = tuple(round(side * factor / SIZE_STEP) * SIZE_STEP for side in (width, height))
    return size if factor < 1 and size != (width, height) else None


def finish(
    folder: Path,
    planned: PlannedImage,
    picture: np.ndarray | None,
    pipeline: ImagePipeline,
    metadata: GenerationMetadata,
    progress: ImageProgress,
) -> None:
    """Write one image and the metadata; a black one gets a second try, and is reported if that is black too."""
    seeds, reason = [planned.seed], fault(picture)
    if reason:
        progress.print(f"{planned.name} came out as {reason}: trying once more with another seed.")
        seeds.append(retry_seed(planned.seed))
        (picture,) = sample_chunk(pipeline, [planned], seeds[-1:], progress)
        reason = fault(picture)
    if reason:
        metadata.failed.append(
            FailedImage(
                name=planned.name,
                gap_type=planned.gap_type,
                target=planned.target,
                prompt=planned.prompt,
                seeds=seeds,
                reason=reason,
            )
        )
        progress.done(f"{planned.name}: {reason} twice, not written")
    else:
        image = write_image(folder, planned, seeds[-1], picture, pipeline)
        metadata.images.append(image)
        progress.done(image.file)
    metadata.settings |= used(pipeline)
    write_contract(folder / METADATA, metadata)


def fault(picture: np.ndarray | None) -> str | None:
    """What is wrong with a picture (H, W, 3) uint8 RGB that shows nothing; None for a good one."""
    if picture is None:
        return "not a number"
    return unusable(histogram(grey_of(picture[:, :, ::-1].copy())))


def write_image(
    folder: Path, planned: PlannedImage, seed: int, picture: np.ndarray, pipeline: ImagePipeline
) -> GeneratedImage:
    """One PNG, whole or not at all, and its line for the metadata."""
    loaded, lora, sampling = pipeline.loaded, pipeline.lora, pipeline.sampling
    negative = sampling.negative if planned.negative is None or sampling.negative is None else planned.negative
    image = GeneratedImage(
        file=file_name(planned),
        gap_type=planned.gap_type,
        target=planned.target,
        prompt=planned.prompt,
        negative_prompt=negative,
        seed=seed,
        steps=sampling.steps,
        guidance=sampling.guidance,
        size_wh=(picture.shape[1], picture.shape[0]),
        created=timestamp(),
    )
    scheduler = type(loaded.pipeline.scheduler).__name__
    known_lora = lora and (lora.path.stem, lora.a1111_hash)
    text = parameters(image, scheduler, loaded.identity.partition("@")[0], known_lora, lora and lora.scale)
    write_bytes_atomic(folder / image.file, png(picture, text, image))
    return image
