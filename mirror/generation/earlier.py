"""Images of an earlier run of the same plan: what is there, what is still to make, what must not mix."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mirror.contracts.contract import read_contract
from mirror.contracts.generation import GeneratedImage, GenerationMetadata, retry_seed
from mirror.generation.a1111 import read_ours
from mirror.generation.families import Family
from mirror.generation.planning import GenerationPlan
from mirror.generation.prompts import PlannedImage
from mirror.generation.settings import effective_settings
from utils.console import UserError
from utils.defaults import METADATA, SYNTHETIC_PREFIX


def read_earlier(args: argparse.Namespace, plan: GenerationPlan) -> GenerationMetadata | None:
    """The metadata of an earlier run of the same plan, None for a new folder. Raises UserError for another plan."""
    path = args.output / METADATA
    if not path.exists():
        stray = [
            file.name
            for planned in plan.planned_images
            for file in args.output.glob(f"{planned.name}*")
            if is_file_of(file, planned)
        ]
        if stray:
            raise UserError(
                f"{args.output} holds {stray[0]}, and no {METADATA} that says how it was made; "
                "--output takes another folder."
            )
        return None
    earlier = read_contract(path, GenerationMetadata, cure="delete it, and take another --output")
    if earlier.plan != plan.hash:
        raise UserError(
            f"{args.output} holds images of another plan; --output takes another folder, or give the same gap file, "
            "prompts, --person, --seed, --num-per-gap and --candidates as then."
        )
    return earlier


def demand_same_run(earlier: GenerationMetadata, args: argparse.Namespace, family: Family, identity: str) -> None:
    """Images of two models or settings must not mix in one folder. Raises UserError."""
    folder, now = args.output, effective_settings(args, family, identity)
    before = earlier.settings | earlier.model_dump(include=OUTSIDE_SETTINGS)
    changed = [f"{name} {before.get(name)} instead of {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{folder} holds images of another run ({', '.join(changed)}). Give the same options, or another --output."
        )


OUTSIDE_SETTINGS = {"base_model", "lora", "lora_scale", "family"}  # fields of their own in the metadata


def images_there(folder: Path, plan: GenerationPlan, earlier: GenerationMetadata | None) -> list[GeneratedImage]:
    """Images of the plan that lie in the folder already, also one that was written just before a run was killed."""
    known = {image.file: image for image in earlier.images} if earlier else {}
    images = []
    for planned in plan.planned_images:
        for path in sorted(folder.glob(f"{planned.name}*.png")):
            if not is_file_of(path, planned):
                continue
            written = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(path.stat().st_mtime))
            image = known.get(path.name) or read_ours(path.read_bytes(), path.name, written)
            if image and image.prompt == planned.prompt and image.seed in (planned.seed, retry_seed(planned.seed)):
                images.append(image)
                break
    return images


def is_file_of(path: Path, planned: PlannedImage) -> bool:
    """Whether a file has the name of a planned image: with a time stamp, or, of a fixed plan, as it is."""
    import re

    stamp = r"_\d{8}_\d{6}" if planned.gap_type else ""
    return re.fullmatch(re.escape(planned.name) + stamp, path.stem) is not None


def file_name(planned: PlannedImage) -> str:
    return f"{planned.name}{time.strftime('_%Y%m%d_%H%M%S') if planned.gap_type else ''}.png"


def images_done(plan: GenerationPlan, metadata: GenerationMetadata) -> set[str]:
    """Names of the planned images that need no work: made, or failed twice."""
    files = [Path(image.file) for image in metadata.images]
    made = {planned.name for planned in plan.planned_images for file in files if is_file_of(file, planned)}
    return made | {one.name for one in metadata.failed}


def is_complete(args: argparse.Namespace, plan: GenerationPlan, earlier: GenerationMetadata) -> bool:
    """Whether an earlier run with the same settings left nothing to do."""
    there = all((args.output / image.file).is_file() for image in earlier.images)
    return there and {planned.name for planned in plan.planned_images} == images_done(plan, earlier)


def remove_half_written(folder: Path, plan: GenerationPlan) -> None:
    """Files that a killed run left half-written. Raises OSError."""
    ours = tuple(
        f".{name}" for name in (SYNTHETIC_PREFIX, METADATA, *(f"{planned.name}.png" for planned in plan.planned_images))
    )
    for rest in folder.glob(".*.tmp"):
        if rest.name.startswith(ours):
            rest.unlink(missing_ok=True)
