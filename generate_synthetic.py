#!/usr/bin/env python3
"""Generate what a dataset lacks: images of the person, by a base model with a LoRA, for every gap of a gap file.

    python generate_synthetic.py gaps.json --base-model sdxl_base --lora alice.safetensors --person "ohwx person" \\
        --output synthetic_iter1
    python generate_synthetic.py gaps.json --person "ohwx person" --dry-run

reads   gaps.json                   from gap_analysis.py: what is missing, and how many images of it
        base model and LoRA         a diffusers folder, a .safetensors checkpoint or a hub id; a .safetensors LoRA
writes  DIR/synthetic_face_angle_profile_001_20241226_143022.png ...   with the prompt inside, as A1111 writes it
        DIR/generation_metadata.json   every image with prompt, seed and gap, for validate_synthetic.py

The metadata are written after every image; the same command goes on where an earlier run stopped. Prompts and seeds
come from --seed alone. The families of base models stand in mirror/generation/families.py. Everything stays on this
computer; only a hub id is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.generation.families import DTYPES, FAMILIES, SIZE_STEP
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import BOOTSTRAP_REQUIREMENTS, METADATA
from utils.files import disk_errors_as, timestamp, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.generation import GenerationMetadata
    from mirror.generation.loras import LoraFacts
    from mirror.generation.making import ImagePipeline
    from mirror.generation.pipelines import Loaded, SamplingParameters
    from mirror.generation.planning import GenerationPlan

# Settings. Each is also an option of the command line, which wins.
NUM_PER_GAP = 5  # images for each gap at most, as documented
LORA_SCALE = 1.0
SEED = 0

# Prompts of your own: a table NAME_PROMPTS, by target, is what the images of a gap type "name" are asked for with. It
# goes before the texts of mirror/dataset/gaps.py and mirror/generation/prompts.py. For example
#     LIGHTING_PROMPTS = {"low_key": "dark background, deep shadows", "high_key": "bright white background"}

LOCK_FILE = ".generating.lock"


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.generation.planning import make_plan
    from mirror.generation.prompts import own_tables

    plan = make_plan(args, own_tables(globals(), Path(__file__).name))
    for sentence in plan.passed_over:
        say(f"Note: no image for {sentence}")
    if plan.unmeasured:
        say(
            f"Note: no sensor measures {', '.join(plan.unmeasured)}: validate_synthetic.py keeps such images apart as "
            "unverified, for you to look at; --allow-unverified target lets them pass."
        )
    if not plan.planned_images:
        tell_nothing(args, plan)
    elif args.dry_run:
        print_plan(plan, args.json)
    else:
        _check_options(args)
        with _open_folder(args.output, plan):
            metadata = fill_folder(args, plan)
            tell(args, metadata)
    return EXIT_OK


def fill_folder(args: argparse.Namespace, plan: GenerationPlan) -> GenerationMetadata:
    """Generate the images that are not there yet; the metadata of all."""
    from mirror.generation.earlier import demand_same_run, images_there, is_complete, read_earlier
    from mirror.generation.pipelines import local_family, local_identity

    earlier = read_earlier(args, plan)
    family = local_family(args.base_model, args.family, args.base_config)
    if earlier and family:  # now, before minutes of loading; the family of a hub id is known only after it
        demand_same_run(earlier, args, family, local_identity(args.base_model))
        if is_complete(args, plan, earlier):
            say("All images of this plan are there already.")
            return earlier
    pipeline = open_pipeline(args, plan)
    metadata = metadata_of(args, plan, pipeline)
    if earlier:
        demand_same_run(earlier, args, pipeline.loaded.family, pipeline.loaded.identity)
        metadata.created, metadata.failed = earlier.created, earlier.failed
    metadata.images = images_there(args.output, plan, earlier)
    if metadata.images or metadata.failed:
        say(
            f"{len(metadata.images) + len(metadata.failed)} of {len(plan.planned_images)} images are there from an "
            "earlier run."
        )
    generate_rest(args, plan, pipeline, metadata)
    return metadata


def print_plan(plan: GenerationPlan, as_json: bool) -> None:
    """The plan on stdout: a table, or JSON."""
    if as_json:
        show_json(json.dumps({"images": [asdict(planned) for planned in plan.planned_images]}, indent=2))
        return
    rows = [
        [planned.gap_type or "-", planned.target or "-", planned.prompt, str(planned.seed)]
        for planned in plan.planned_images
    ]
    print_table(f"{len(rows)} image(s) to generate", ["Gap", "Target", "Prompt", "Seed"], rows, numbers=False)


def tell_nothing(args: argparse.Namespace, plan: GenerationPlan) -> None:
    """There is no image to make, and that is no error."""
    from mirror.contracts.generation import GenerationMetadata

    asked = any(gap.count for gap in plan.gaps.recommendations)
    why = "none of the gaps can be asked for, as the notes say" if asked else "the gap file asks for no image"
    (say if args.json else show)(f"Nothing to generate: {why}.")
    if args.json and args.dry_run:
        print_plan(plan, as_json=True)
    elif args.json:
        show_json(
            GenerationMetadata(created=timestamp(), plan=plan.hash, planned=0, images=[]).model_dump_json(indent=2)
        )


def open_pipeline(args: argparse.Namespace, plan: GenerationPlan) -> ImagePipeline:
    """Load model and LoRA, prove that the LoRA acts, and bring both to the device. Raises UserError."""
    from mirror.generation import pipelines
    from mirror.generation.devices import choose_device
    from mirror.generation.loras import load_lora
    from mirror.generation.making import ImagePipeline
    from mirror.generation.settings import sampling_of

    device = choose_device(args.device)
    say(f"Loading {args.base_model} ...")
    loaded = pipelines.load(args.base_model, args.family, args.base_config, device, args.dtype)
    sampling = sampling_of(args, loaded.family)
    if sampling.negative is None and (args.negative or any(planned.negative for planned in plan.planned_images)):
        reason = f"at guidance {sampling.guidance:g}" if loaded.family.takes_negative else "at all"
        given = "--negative is" if args.negative else "those of the plan are"
        say(f"Note: {loaded.family.title} uses no negative prompt {reason}; {given} left out.")
    lora = None if args.lora is None else load_lora(loaded, args.lora, args.lora_scale)
    free, weights = pipelines.free_bytes(device), pipelines.weight_bytes(loaded.pipeline)
    low_vram = args.low_vram
    if not low_vram and free is not None:
        low_vram = pipelines.needs_low_vram(free, weights, loaded.family, sampling, args.batch)
        if low_vram:
            gib = f"{free / pipelines.GIB:.1f} GiB are free, the weights take {weights / pipelines.GIB:.1f}"
            say(f"Low-memory mode, as with --low-vram: {gib}.")
    warm_up(loaded, lora, device, low_vram, plan.planned_images[0].prompt, sampling)
    if lora is not None:
        tell_lora(lora)
    tell_pipeline(loaded, sampling, plan)
    return ImagePipeline(loaded, lora, sampling, args.batch, args.allow_smaller)


def warm_up(
    loaded: Loaded, lora: LoraFacts | None, device: str, low_vram: bool, prompt: str, sampling: SamplingParameters
) -> None:
    """Bring everything to the device and let the denoiser work once; in low-memory mode if needed. Raises UserError."""
    from mirror.generation.loras import demand_difference
    from mirror.generation.making import memory_name
    from mirror.generation.pipelines import is_out_of_memory, move_to_device

    for saving in (True,) if low_vram else (False, True):
        try:
            move_to_device(loaded, device, saving)
            if lora is not None:
                demand_difference(loaded, lora, prompt, sampling)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not saving:
            say(f"Out of {memory_name(device)}: going on with --low-vram.")
    other = "take a smaller --width and --height" if device == "cpu" else "take --device cpu"
    raise UserError(f"The {memory_name(device)} is not enough for {loaded.name}: close other programs, or {other}.")


def tell_lora(lora: LoraFacts) -> None:
    from mirror.generation.loras import HARDLY, SHOWN_KEYS

    matched = lora.keys - len(lora.unmatched)
    say(
        f"{lora.kind} {lora.identity}: {matched} of {lora.keys} keys matched; at scale {lora.scale:g} it changes the "
        f"model's output by {100 * lora.difference:.3g} %."
    )
    if lora.difference < HARDLY:
        say("Warning: the LoRA changes almost nothing; use a later checkpoint, or a larger --lora-scale.")
    if lora.unmatched:
        first = ", ".join(lora.unmatched[:SHOWN_KEYS])
        say(f"Not matched, and left out: {first}{' ... (all in the metadata)' if lora.unmatched[SHOWN_KEYS:] else ''}")


def tell_pipeline(loaded: Loaded, sampling: SamplingParameters, plan: GenerationPlan) -> None:
    """What is really used."""
    from mirror.generation.pipelines import prompt_is_cut

    where = "the CPU, slowly" if loaded.device == "cpu" else _gpu_name()
    say(
        f"{loaded.family.title}: {loaded.identity}, {loaded.dtype} on {where}; {sampling.steps} steps, guidance "
        f"{sampling.guidance:g}, {sampling.width} x {sampling.height} pixels"
        f"{', low memory' if loaded.low_vram else ''}."
    )
    cut = sum(prompt_is_cut(loaded, planned.prompt) for planned in plan.planned_images)
    if cut:
        say(
            f"Note: {cut} of {len(plan.planned_images)} prompts are longer than this model can read; their ends are "
            "ignored."
        )


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def metadata_of(args: argparse.Namespace, plan: GenerationPlan, pipeline: ImagePipeline) -> GenerationMetadata:
    """What the run will be, without images yet."""
    import diffusers
    import torch
    import transformers

    from mirror.contracts.generation import GenerationMetadata
    from mirror.generation.earlier import OUTSIDE_SETTINGS
    from mirror.generation.making import used
    from mirror.generation.settings import effective_settings
    from utils.files import readable

    loaded, lora, gaps = pipeline.loaded, pipeline.lora, plan.gaps
    effective = effective_settings(args, loaded.family, loaded.identity)
    asked = {} if plan.is_fixed else {"person": args.person, "seed": args.seed}
    return GenerationMetadata(
        created=timestamp(),
        gaps_file=readable(str(args.gaps.resolve())) if args.gaps else None,
        dataset=gaps.dataset if gaps else None,
        sensors=gaps.sensors if gaps else None,
        **{name: value for name, value in effective.items() if name in OUTSIDE_SETTINGS},
        lora_keys=lora.keys if lora else None,
        lora_unmatched=lora.unmatched if lora else [],
        settings={name: value for name, value in effective.items() if name not in OUTSIDE_SETTINGS}
        | asked
        | used(pipeline),
        versions=versions_of(
            "generate_synthetic",
            torch=torch.__version__,
            diffusers=diffusers.__version__,
            transformers=transformers.__version__,
            device=loaded.device if loaded.device == "cpu" else _gpu_name(),
        ),
        plan=plan.hash,
        planned=len(plan.planned_images),
        images=[],
    )


def tell(args: argparse.Namespace, metadata: GenerationMetadata) -> None:
    """The end of a run: what there is for each gap, or the metadata alone with --json. Raises UserError without any."""
    if args.json:
        show_json(metadata.model_dump_json(indent=2))
    else:
        made = Counter((image.gap_type or "-", image.target or "-") for image in metadata.images)
        rows = [[gap, target, str(count)] for (gap, target), count in made.items()]
        print_table(f"Images in {args.output}", ["Gap", "Target", "Images"], rows, numbers=False)
        for one in metadata.failed:
            show(f"Not generated: {one.name} ({one.reason}, with seeds {', '.join(map(str, one.seeds))}).")
        show(f"{len(metadata.images)} of {metadata.planned} image(s)", f"metadata: {args.output / METADATA}")
    if not metadata.images:
        raise UserError("Every image came out unusable; try --dtype float32, and check the base model's files.")


def generate_rest(
    args: argparse.Namespace, plan: GenerationPlan, pipeline: ImagePipeline, metadata: GenerationMetadata
) -> None:
    """Generate every image of the plan that the metadata do not list. Raises UserError."""
    from mirror.contracts.contract import write_contract
    from mirror.generation.making import generate

    try:
        with disk_errors_as(f"Images cannot be written to {args.output}"):
            write_contract(args.output / METADATA, metadata)
            generate(args, plan, pipeline, metadata)
    except KeyboardInterrupt:
        say("What was generated so far is kept; the same command goes on from there.")
        raise


def _check_options(args: argparse.Namespace) -> None:
    """What a dry run does without. Raises UserError."""
    if args.base_model is None:
        raise UserError("--base-model is needed: a diffusers folder, a .safetensors checkpoint or a hub id.")
    if (args.lora is None) != args.no_lora:
        raise UserError("--lora takes the LoRA of the person; --no-lora generates with the base model alone.")
    if args.output is None:
        raise UserError("--output is needed: the folder for the images.")
    if args.lora is not None and not args.lora.is_file():
        raise UserError(f"--lora {args.lora} is not there; it takes a .safetensors file.")


@contextlib.contextmanager
def _open_folder(folder: Path, plan: GenerationPlan) -> Iterator[None]:
    """Make the folder and keep other runs out; remove what a killed run left half-written. Raises UserError."""
    from mirror.generation.earlier import remove_half_written
    from utils.folder_lock import only_one

    with contextlib.ExitStack() as stack:
        with disk_errors_as(f"Images cannot be written to {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_one(folder, LOCK_FILE))
            remove_half_written(folder, plan)
        yield


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "generate_synthetic.py",
        __doc__,
        "'ZIT' can mean Animagine, an SDXL model (--family sdxl), or Z-Image-Turbo (--family z-image). "
        "Exit codes: 0 done, also where there is nothing to generate; 2 something to change (one "
        "sentence says what), 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add(
        "gaps",
        type=options.path,
        nargs="?",
        metavar="GAPS",
        help="gap file from gap_analysis.py (leave it out with a .json --prompts-file)",
    )
    add("--base-model", metavar="MODEL", help="diffusers folder, .safetensors checkpoint or hub id")
    add(
        "--lora",
        type=options.path,
        metavar="FILE",
        help="LoRA of the person (or LoHa, LoKr, DoRA, (IA)3): .safetensors by kohya, LyCORIS, diffusers or ai-toolkit",
    )
    add("--no-lora", action="store_true", help="generate with the base model alone")
    add("--lora-scale", type=_scale, default=LORA_SCALE, metavar="SCALE", help="strength of the LoRA")
    add("--person", metavar="WORDS", help='trigger words of the person, as in the training captions: "ohwx person"')
    add("--output", type=options.path, metavar="DIR", help="folder for images and metadata")
    _add_images(parser)
    _add_model(parser)
    return parser.parse_args(argv)


def _add_images(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("images").add_argument
    add("--num-per-gap", type=options.count, default=NUM_PER_GAP, metavar="N", help="images wanted for a gap, at most")
    add(
        "--candidates",
        type=options.count,
        default=1,
        metavar="N",
        help="make N images for each one that is wanted, to choose the best from (default: %(default)s)",
    )
    add(
        "--seed",
        type=options.seed,
        default=SEED,
        metavar="N",
        help="random seed; the prompts and the seed of every image follow from it",
    )
    add("--steps", type=options.count, metavar="N", help="denoising steps (default: by family; SDXL 30)")
    add("--guidance", type=_guidance, metavar="X", help="guidance scale (default: by family; SDXL 7.5)")
    add("--width", type=_side, metavar="PIXELS", help="(default: by family; SDXL 1024)")
    add("--height", type=_side, metavar="PIXELS", help="(default: by family; SDXL 1024)")
    add("--negative", metavar="WORDS", help="negative prompt, where the family has one (default: common faults)")
    add(
        "--prompts-file",
        type=options.path,
        metavar="FILE",
        help="your own prompts: .txt with one prompt a line, in which {person} and {target} are filled in; or .json "
        "with prompts, seeds and names, which needs no gap file",
    )
    add("--dry-run", action="store_true", help="only print the plan: gap, target, prompt, seed; needs no model")
    add(
        "--json", action="store_true", help="print the metadata (--dry-run: the plan) to stdout, and nothing else there"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    others = parser.add_argument_group("model and machine")
    add = others.add_argument
    add("--family", choices=tuple(FAMILIES), help="what the base model is (default: found out from its files)")
    add(
        "--base-config",
        type=options.path,
        metavar="DIR",
        help="diffusers folder of the same family; needed for a single-file model without internet",
    )
    options.add_device(others)
    add("--dtype", choices=DTYPES, help="(default: float32 on a CPU, else by family)")
    add("--batch", type=options.count, default=1, metavar="N", help="images at once")
    add("--low-vram", action="store_true", help="less GPU memory, slower (default: only if memory is short)")
    add("--allow-smaller", action="store_true", help="if memory runs out, continue with smaller images")
    options.add_debug_and_version(others)


_guidance = options.number("a number from 0 to 100", lambda value: 0 <= value <= 100)
_scale = options.number("a number from -10 to 10 other than 0", lambda value: -10 <= value <= 10 and value != 0)
_side = options.number(
    f"a whole number of pixels, a multiple of {SIZE_STEP} from 64 to 8192",
    lambda value: 64 <= value <= 8192 and value % SIZE_STEP == 0,
    whole=True,
)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
