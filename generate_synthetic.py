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
come from --seed alone. Families: SDXL (and Animagine, Pony, Illustrious), SD 1.5, Flux.1, Flux.2-Klein, Z-Image,
Qwen-Image. Everything stays on this computer; only a hub id is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.generation.families import DTYPES, FAMILIES
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import BOOTSTRAP_REQUIREMENTS, METADATA, SYNTHETIC_PREFIX, VERSION

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    import numpy as np

    from mirror.contracts.gaps import GapReport
    from mirror.contracts.generation import GeneratedImage, GenerationMetadata
    from mirror.generation.families import Family
    from mirror.generation.loras import LoraFacts
    from mirror.generation.pipelines import Drawing, Loaded
    from mirror.generation.prompts import Shot
    from utils.progress import ImageProgress

# Settings. Each is also an option of the command line, which wins.
NUM_PER_GAP = 5  # images for each gap at most, as documented
LORA_SCALE = 1.0
SEED = 0

SMALLEST = 256  # pixels: --allow-smaller does not go below
SIZE_STEP = 16  # pixels: all families take sizes of such steps
SMALLER = 0.75  # of width and height, each time that the memory ends
LOCK_FILE = ".generating.lock"


@dataclass
class Plan:
    """What to make, and where it comes from."""

    shots: list[Shot]
    passed_over: list[str]  # sentences about gaps that get no image
    gaps: GapReport | None = None
    is_fixed: bool = False  # a plan of the user's own: neither --person nor --seed act

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps([asdict(shot) for shot in self.shots]).encode()).hexdigest()[:12]


@dataclass
class Studio:
    """Everything that images are made with. Batch, memory and size give way where the GPU's memory ends."""

    loaded: Loaded
    lora: LoraFacts | None
    drawing: Drawing
    batch: int
    allow_smaller: bool


def make_plan(args: argparse.Namespace) -> Plan:
    """The images to make. Needs no model. Raises UserError."""
    from mirror.generation.prompts import plan_gaps, read_prompts

    prompts = () if args.prompts_file is None else read_prompts(args.prompts_file)
    gaps = read_gaps(args.gaps)
    if isinstance(prompts, list):
        return Plan(prompts, [], gaps, is_fixed=True)
    if gaps is None:
        raise UserError("A gap file is needed, or a plan: --prompts-file plan.json. gap_analysis.py writes a gap file.")
    if not (args.person or "").strip():
        raise UserError('--person says who is to be seen, in the words that the LoRA was trained with: "ohwx person".')
    shots, passed_over = plan_gaps(gaps.recommendations, args.person, args.num_per_gap, args.seed, prompts)
    return Plan(shots, passed_over, gaps)


def read_gaps(path: Path | None) -> GapReport | None:
    from mirror.contracts.contract import ContractError, read_contract
    from mirror.contracts.gaps import GapReport

    try:
        return None if path is None else read_contract(path, GapReport, "gap_analysis.py")
    except ContractError as error:
        raise UserError(str(error)) from error


def print_plan(plan: Plan, as_json: bool) -> None:
    """The plan on stdout: a table, or JSON."""
    if as_json:
        show_json(json.dumps({"images": [asdict(shot) for shot in plan.shots]}, indent=2))
        return
    rows = [[shot.gap_type or "-", shot.target or "-", shot.prompt, str(shot.seed)] for shot in plan.shots]
    print_table(f"{len(rows)} image(s) to generate", ["Gap", "Target", "Prompt", "Seed"], rows, numbers=False)


def tell_nothing(args: argparse.Namespace, plan: Plan) -> None:
    """There is no image to make, and that is no error."""
    from mirror.contracts.generation import GenerationMetadata

    asked = any(gap.count for gap in plan.gaps.recommendations)
    why = "none of the gaps can be asked for, as the notes say" if asked else "the gap file asks for no image"
    (say if args.json else print)(f"Nothing to generate: {why}.")
    if args.json and args.dry_run:
        print_plan(plan, as_json=True)
    elif args.json:
        show_json(GenerationMetadata(created=_now(), plan=plan.hash, planned=0, images=[]).model_dump_json(indent=2))


def drawing_of(args: argparse.Namespace, family: Family) -> Drawing:
    """The options, and where they are not given the defaults of the family."""
    from mirror.generation.pipelines import Drawing
    from mirror.generation.prompts import NEGATIVE

    guidance = family.guidance if args.guidance is None else args.guidance
    guided = family.takes_negative and guidance > family.guided_above
    return Drawing(
        steps=args.steps or family.steps,
        guidance=guidance,
        width=args.width or family.size,
        height=args.height or family.size,
        negative=(NEGATIVE if args.negative is None else args.negative) if guided else None,
    )


def effective_settings(args: argparse.Namespace, family: Family, identity: str) -> dict[str, str | int | float | None]:
    """What decides how images look, beside the plan: the images of one folder have all of it in common."""
    from mirror.generation.devices import choose_device, default_dtype
    from mirror.generation.loras import lora_identity

    return asdict(drawing_of(args, family)) | {
        "batch": args.batch,
        "dtype": args.dtype or default_dtype(family, choose_device(args.device)),
        "family": family.name,
        "base_model": identity,
        "lora": args.lora and lora_identity(args.lora),
        "lora_scale": args.lora and args.lora_scale,
    }


def open_studio(args: argparse.Namespace, plan: Plan) -> Studio:
    """Load model and LoRA, prove that the LoRA acts, and bring both to the device. Raises UserError."""
    from mirror.generation import pipelines
    from mirror.generation.devices import choose_device
    from mirror.generation.loras import load_lora

    device = choose_device(args.device)
    say(f"Loading {args.base_model} ...")
    loaded = pipelines.load(args.base_model, args.family, args.base_config, device, args.dtype)
    drawing = drawing_of(args, loaded.family)
    if drawing.negative is None and (args.negative or any(shot.negative for shot in plan.shots)):
        reason = f"at guidance {drawing.guidance:g}" if loaded.family.takes_negative else "at all"
        given = "--negative is" if args.negative else "those of the plan are"
        say(f"Note: {loaded.family.title} uses no negative prompt {reason}; {given} left out.")
    lora = None if args.lora is None else load_lora(loaded, args.lora, args.lora_scale)
    free, weights = pipelines.free_bytes(device), pipelines.weight_bytes(loaded.pipeline)
    low_vram = args.low_vram
    if not low_vram and free is not None:
        low_vram = pipelines.needs_low_vram(free, weights, loaded.family, drawing, args.batch)
        if low_vram:
            gib = f"{free / pipelines.GIB:.1f} GiB are free, the weights take {weights / pipelines.GIB:.1f}"
            say(f"Low-memory mode, as with --low-vram: {gib}.")
    settle(loaded, lora, device, low_vram, plan.shots[0].prompt, drawing)
    if lora is not None:
        tell_lora(lora)
    tell_studio(loaded, drawing, plan)
    return Studio(loaded, lora, drawing, args.batch, args.allow_smaller)


def settle(loaded: Loaded, lora: LoraFacts | None, device: str, low_vram: bool, prompt: str, drawing: Drawing) -> None:
    """Bring everything to the device and let the denoiser work once; in low-memory mode if needed. Raises UserError."""
    from mirror.generation.loras import demand_difference
    from mirror.generation.pipelines import is_out_of_memory, place

    for saving in (True,) if low_vram else (False, True):
        try:
            place(loaded, device, saving)
            if lora is not None:
                demand_difference(loaded, lora, prompt, drawing)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not saving:
            say(f"Out of {_memory(device)}: going on with --low-vram.")
    other = "take a smaller --width and --height" if device == "cpu" else "take --device cpu"
    raise UserError(f"The {_memory(device)} is not enough for {loaded.name}: close other programs, or {other}.")


def _memory(device: str) -> str:
    return "memory" if device == "cpu" else "GPU memory"


def tell_lora(lora: LoraFacts) -> None:
    from mirror.generation.loras import HARDLY, SHOWN_KEYS

    matched = lora.keys - len(lora.unmatched)
    say(
        f"LoRA {lora.identity}: {matched} of {lora.keys} keys matched; at scale {lora.scale:g} it changes the model's "
        f"output by {100 * lora.difference:.3g} %."
    )
    if lora.difference < HARDLY:
        say("Warning: that is hardly anything; take a later checkpoint, or a larger --lora-scale.")
    if lora.unmatched:
        first = ", ".join(lora.unmatched[:SHOWN_KEYS])
        say(f"Not matched, and left out: {first}{' ... (all in the metadata)' if lora.unmatched[SHOWN_KEYS:] else ''}")


def tell_studio(loaded: Loaded, drawing: Drawing, plan: Plan) -> None:
    """What is really used."""
    from mirror.generation.pipelines import prompt_is_cut

    where = "the CPU, slowly" if loaded.device == "cpu" else _gpu_name()
    say(
        f"{loaded.family.title}: {loaded.identity}, {loaded.dtype} on {where}; {drawing.steps} steps, guidance "
        f"{drawing.guidance:g}, {drawing.width} x {drawing.height} pixels{', low memory' if loaded.low_vram else ''}."
    )
    cut = sum(prompt_is_cut(loaded, shot.prompt) for shot in plan.shots)
    if cut:
        say(f"Note: {cut} of {len(plan.shots)} prompts are longer than this model reads; their ends do not count.")


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def metadata_of(args: argparse.Namespace, plan: Plan, studio: Studio) -> GenerationMetadata:
    """What the run will be, without images yet."""
    import diffusers
    import torch
    import transformers

    from mirror.contracts.generation import GenerationMetadata
    from utils.files import readable

    loaded, lora, gaps = studio.loaded, studio.lora, plan.gaps
    effective = effective_settings(args, loaded.family, loaded.identity)
    asked = {} if plan.is_fixed else {"person": args.person, "seed": args.seed}
    return GenerationMetadata(
        created=_now(),
        gaps_file=readable(str(args.gaps.resolve())) if args.gaps else None,
        dataset=gaps.dataset if gaps else None,
        sensors=gaps.sensors if gaps else None,
        **{name: value for name, value in effective.items() if name in OUTSIDE_SETTINGS},
        lora_keys=lora.keys if lora else None,
        lora_unmatched=lora.unmatched if lora else [],
        settings={name: value for name, value in effective.items() if name not in OUTSIDE_SETTINGS}
        | asked
        | used(studio),
        versions={
            "generate_synthetic": VERSION,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "device": loaded.device if loaded.device == "cpu" else _gpu_name(),
        },
        plan=plan.hash,
        planned=len(plan.shots),
        images=[],
    )


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


def read_earlier(args: argparse.Namespace, plan: Plan) -> GenerationMetadata | None:
    """The metadata of an earlier run of the same plan, None for a new folder. Raises UserError for another plan."""
    from mirror.contracts.contract import ContractError, read_contract
    from mirror.contracts.generation import GenerationMetadata

    path = args.output / METADATA
    if not path.exists():
        stray = [
            file.name for shot in plan.shots for file in args.output.glob(f"{shot.name}*") if is_file_of(file, shot)
        ]
        if stray:
            raise UserError(
                f"{args.output} holds {stray[0]}, and no {METADATA} that says how it was made; "
                "--output takes another folder."
            )
        return None
    try:
        earlier = read_contract(path, GenerationMetadata, cure="delete it, and take another --output")
    except ContractError as error:
        raise UserError(str(error)) from error
    if earlier.plan != plan.hash:
        raise UserError(
            f"{args.output} holds images of another plan; --output takes another folder, or give the same gap file, "
            "prompts, --person, --seed and --num-per-gap as then."
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


def take_over(folder: Path, plan: Plan, earlier: GenerationMetadata | None) -> list[GeneratedImage]:
    """Images of the plan that lie in the folder already, also one that was written just before a run was killed."""
    from mirror.contracts.generation import retry_seed
    from mirror.generation.a1111 import read_ours

    known = {image.file: image for image in earlier.images} if earlier else {}
    images = []
    for shot in plan.shots:
        for path in sorted(folder.glob(f"{shot.name}*.png")):
            if not is_file_of(path, shot):
                continue
            written = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(path.stat().st_mtime))
            image = known.get(path.name) or read_ours(path.read_bytes(), path.name, written)
            if image and image.prompt == shot.prompt and image.seed in (shot.seed, retry_seed(shot.seed)):
                images.append(image)
                break
    return images


def is_file_of(path: Path, shot: Shot) -> bool:
    """Whether a file has the name of a shot: with a time stamp, or, of a fixed plan, as it is."""
    import re

    stamp = r"_\d{8}_\d{6}" if shot.gap_type else ""
    return re.fullmatch(re.escape(shot.name) + stamp, path.stem) is not None


def file_name(shot: Shot) -> str:
    return f"{shot.name}{time.strftime('_%Y%m%d_%H%M%S') if shot.gap_type else ''}.png"


def shots_done(plan: Plan, metadata: GenerationMetadata) -> set[str]:
    """Names of the shots that need no work: made, or failed twice."""
    files = [Path(image.file) for image in metadata.images]
    made = {shot.name for shot in plan.shots for file in files if is_file_of(file, shot)}
    return made | {one.name for one in metadata.failed}


def generate(args: argparse.Namespace, plan: Plan, studio: Studio, metadata: GenerationMetadata) -> None:
    """Make what is not there yet, chunk by chunk; a chunk has the same images in every run, so that they come out
    the same after an interruption."""
    from utils.progress import ImageProgress

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
    from mirror.generation.pipelines import draw, is_out_of_memory

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
            pictures += draw(studio.loaded, prompts, negatives, seeds[here], studio.drawing, progress.step)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        step_down(studio)  # outside, where no traceback holds what filled the memory
    return pictures


def step_down(studio: Studio) -> None:
    """After the memory ended: a smaller batch, then low-memory mode, then, if allowed, a smaller size; said aloud."""
    import torch

    from mirror.generation.pipelines import place

    drawing, memory = studio.drawing, _memory(studio.loaded.device)
    smaller = smaller_size(drawing.width, drawing.height) if studio.allow_smaller else None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if studio.batch > 1:
        studio.batch //= 2
        say(f"Out of {memory}: going on with {studio.batch} image(s) at once.")
    elif not studio.loaded.low_vram:
        place(studio.loaded, studio.loaded.device, low_vram=True)
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
    from mirror.contracts.contract import write_contract
    from mirror.contracts.generation import FailedImage, retry_seed

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
    from mirror.dataset.pixels import grey_of, histogram, spoiled

    if picture is None:
        return "not a number"
    return spoiled(histogram(grey_of(picture[:, :, ::-1].copy())))


def write_image(folder: Path, shot: Shot, seed: int, picture: np.ndarray, studio: Studio) -> GeneratedImage:
    """One PNG, whole or not at all, and its line for the metadata."""
    from mirror.contracts.generation import GeneratedImage
    from mirror.generation.a1111 import parameters, png
    from utils.files import write_bytes_atomic

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
        created=_now(),
    )
    scheduler = type(loaded.pipeline.scheduler).__name__
    known_lora = lora and (lora.path.stem, lora.a1111_hash)
    text = parameters(image, scheduler, loaded.identity.partition("@")[0], known_lora, lora and lora.scale)
    write_bytes_atomic(folder / image.file, png(picture, text, image))
    return image


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


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
        raise UserError("Every image came out spoiled; try --dtype float32, and look whether the base model is whole.")


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    plan = make_plan(args)
    for sentence in plan.passed_over:
        say(f"Note: no image for {sentence}")
    if not plan.shots:
        tell_nothing(args, plan)
    elif args.dry_run:
        print_plan(plan, args.json)
    else:
        _check_options(args)
        with _open_folder(args.output, plan):
            tell(args, fill_folder(args, plan))
    return EXIT_OK


def fill_folder(args: argparse.Namespace, plan: Plan) -> GenerationMetadata:
    """Make what is not there; the metadata of all."""
    from mirror.generation.pipelines import local_family, local_identity

    earlier = read_earlier(args, plan)
    family = local_family(args.base_model, args.family, args.base_config)
    if earlier and family:  # of a hub id that is known only once it is loaded
        demand_same_run(earlier, args, family, local_identity(args.base_model))
        if is_complete(args, plan, earlier):
            say("All images of this plan are there already.")
            return earlier
    studio = open_studio(args, plan)
    metadata = metadata_of(args, plan, studio)
    if earlier:
        demand_same_run(earlier, args, studio.loaded.family, studio.loaded.identity)
        metadata.created, metadata.failed = earlier.created, earlier.failed
    metadata.images = take_over(args.output, plan, earlier)
    if metadata.images or metadata.failed:
        say(f"{len(metadata.images) + len(metadata.failed)} of {len(plan.shots)} images are there from an earlier run.")
    _make(args, plan, studio, metadata)
    return metadata


def _make(args: argparse.Namespace, plan: Plan, studio: Studio, metadata: GenerationMetadata) -> None:
    from mirror.contracts.contract import write_contract

    try:
        write_contract(args.output / METADATA, metadata)
        generate(args, plan, studio, metadata)
    except OSError as error:
        raise UserError(f"Images cannot be written to {args.output}: {error.strerror or error}.") from error
    except KeyboardInterrupt:
        say("What was generated so far is kept; the same command goes on from there.")
        raise


def is_complete(args: argparse.Namespace, plan: Plan, earlier: GenerationMetadata) -> bool:
    """Whether an earlier run with the same settings left nothing to do."""
    there = all((args.output / image.file).is_file() for image in earlier.images)
    return there and {shot.name for shot in plan.shots} == shots_done(plan, earlier)


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
def _open_folder(folder: Path, plan: Plan) -> Iterator[None]:
    """Make the folder and keep other runs out; remove what a killed run left half-written. Raises UserError."""
    from utils.folder_lock import only_one

    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_one(folder, LOCK_FILE))
            remove_rests(folder, plan)
        except OSError as error:
            raise UserError(f"Images cannot be written to {folder}: {error.strerror or error}.") from error
        yield


def remove_rests(folder: Path, plan: Plan) -> None:
    """Files that a killed run left half-written. Raises OSError."""
    ours = tuple(f".{name}" for name in (SYNTHETIC_PREFIX, METADATA, *(f"{shot.name}.png" for shot in plan.shots)))
    for rest in folder.glob(".*.tmp"):
        if rest.name.startswith(ours):
            rest.unlink(missing_ok=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "generate_synthetic.py",
        __doc__,
        "'ZIT' means two things: some documents call Animagine so, which is an SDXL model (--family sdxl); "
        "others Z-Image-Turbo (--family z-image). Exit codes: 0 done, also where there is nothing to generate; 2 "
        "something to change (one sentence says what), 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add(
        "gaps",
        type=options.path,
        nargs="?",
        metavar="GAPS",
        help="gap file from gap_analysis.py (not with a plan of your own)",
    )
    add("--base-model", metavar="MODEL", help="diffusers folder, .safetensors checkpoint or hub id")
    add(
        "--lora",
        type=options.path,
        metavar="FILE",
        help="LoRA of the person: .safetensors by kohya, diffusers or ai-toolkit",
    )
    add("--no-lora", action="store_true", help="generate with the base model alone")
    add("--lora-scale", type=_scale, default=LORA_SCALE, metavar="SCALE", help="strength of the LoRA")
    add("--person", metavar="WORDS", help='who is to be seen, as in the training captions: "ohwx person"')
    add("--output", type=options.path, metavar="DIR", help="folder for images and metadata")
    add("--num-per-gap", type=options.count, default=NUM_PER_GAP, metavar="N", help="most images for one gap")
    add(
        "--seed",
        type=options.seed,
        default=SEED,
        metavar="N",
        help="all prompts and the seeds of all images come from it",
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
        help="text: a prompt a line in place of ours, with {person} and {target}; .json: a plan of prompts, seeds and "
        "names, which needs no gap file",
    )
    add("--dry-run", action="store_true", help="only print the plan: gap, target, prompt, seed; needs no model")
    add("--family", choices=tuple(FAMILIES), help="what the base model is (default: found out from its files)")
    add(
        "--base-config",
        type=options.path,
        metavar="DIR",
        help="diffusers folder of the family, for a checkpoint without network",
    )
    options.add_device(parser)
    add("--dtype", choices=DTYPES, help="(default: float32 on a CPU, else by family)")
    add("--batch", type=options.count, default=1, metavar="N", help="images at once")
    add("--low-vram", action="store_true", help="less GPU memory, slower (default: where free memory is too little)")
    add("--allow-smaller", action="store_true", help="out of memory, go on with smaller images")
    add(
        "--json", action="store_true", help="print the metadata (--dry-run: the plan) to stdout, and nothing else there"
    )
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


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
