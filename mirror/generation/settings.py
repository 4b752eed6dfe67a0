"""What decides how images look: sampling parameters and everything else that one folder has in common."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mirror.generation.devices import choose_device, default_dtype
from mirror.generation.families import Family
from mirror.generation.loras import lora_identity
from mirror.generation.pipelines import SamplingParameters
from mirror.generation.prompts import NEGATIVE


def sampling_of(args: argparse.Namespace, family: Family) -> SamplingParameters:
    """The options, and where they are not given the defaults of the family."""
    guidance = family.guidance if args.guidance is None else args.guidance
    guided = family.takes_negative and guidance > family.guided_above
    return SamplingParameters(
        steps=args.steps or family.steps,
        guidance=guidance,
        width=args.width or family.size,
        height=args.height or family.size,
        negative=(NEGATIVE if args.negative is None else args.negative) if guided else None,
    )


def effective_settings(args: argparse.Namespace, family: Family, identity: str) -> dict[str, str | int | float | None]:
    """What decides how images look, beside the plan: the images of one folder have all of it in common."""
    return asdict(sampling_of(args, family)) | {
        "batch": args.batch,
        "dtype": args.dtype or default_dtype(family, choose_device(args.device)),
        "family": family.name,
        "base_model": identity,
        "lora": args.lora and lora_identity(args.lora),
        "lora_scale": args.lora and args.lora_scale,
    }
