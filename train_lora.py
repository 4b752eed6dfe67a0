#!/usr/bin/env python3
"""Train a LoRA of a person on SDXL or Stable Diffusion 1.5; for other models, set up and run a trainer made for them.

    python train_lora.py dataset --base-model stabilityai/stable-diffusion-xl-base-1.0 --output my_lora \\
        --trigger "ohwx alice"
    python train_lora.py dataset --base-model M --output my_lora --trigger "ohwx alice" --resume

reads   DIR/10_ohwx alice/*.jpg ...    pictures, each seen 10 times an epoch; or pictures in DIR itself
        the .txt beside a picture      its caption, UTF-8; the trigger is added where it is missing
        the base model                 a diffusers folder, a hub id, or a single .safetensors file
        a model pack                   where there is one, so that no crop cuts the largest face
writes  OUTPUT/lora.safetensors        when the training is finished; loads in diffusers, ComfyUI and A1111
        OUTPUT/<name>-000005.safetensors   after every epoch, as kohya's trainers name them
        OUTPUT/samples/<name>-000005/  pictures after every epoch (--sample-prompts), candidates for mirror_metrics.py
        OUTPUT/training_log.json       base model, dataset, settings and losses
        OUTPUT/training_state.pt       what --resume goes on from, until the training is finished
        OUTPUT/trainer/                with --trainer: what that trainer is given, and what it makes

The U-Net alone is trained; latents and text embeddings are made once and kept. The loop stands in
mirror/training/loop.py, saving and resuming in mirror/training/state.py, presets in mirror/training/presets.py.
Ctrl-C saves before it ends, and a kill loses at most the current epoch: --resume then gives the weights that an
undisturbed training would have given. Several GPUs or machines: accelerate launch train_lora.py ...
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.generation.families import FAMILIES
from mirror.training.presets import PRESETS, REPEATS, epochs_of
from mirror.training.processes import PRECISIONS
from mirror.training.trainers import TRAINERS
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import BOOTSTRAP_REQUIREMENTS, LEAST_SYNTHETIC_WEIGHT, PACK

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from accelerate import Accelerator

    from mirror.training.base import BaseFacts
    from mirror.training.data import TrainingSet
    from mirror.training.job import Job
    from mirror.training.presets import Preset
    from mirror.training.setup import TrainingPlan


def run(args: argparse.Namespace) -> int:
    """Show the plan, hand over to another trainer, or train here."""
    from mirror.training.elsewhere import train_elsewhere

    if args.dry_run:
        return show_plan(args)
    if args.trainer:
        return train_elsewhere(args)
    try:
        return train_here(args)
    except UserError as error:
        rank = os.environ.get("RANK", "0")  # of several processes, which may each have a reason of its own
        raise error if rank == "0" else UserError(f"process {rank}: {error}") from error


def train_here(args: argparse.Namespace) -> int:
    """The whole job, top to bottom; what can be refused before the libraries are loaded comes first."""
    from mirror.training.base import look_at_base
    from mirror.training.setup import build_job, preset_of, read_pictures

    facts = look_at_base(args.base_model, args.prediction, args.zero_terminal_snr, args.base_config)
    preset = preset_of(args, facts.family.name)
    pictures = read_pictures(args)
    from mirror.generation.pipelines import quiet
    from mirror.training.loop import train
    from mirror.training.processes import in_main_process, start_accelerator

    with quiet():
        accelerator = start_accelerator(args.device, args.precision)
        plan = in_main_process(accelerator, lambda: make_training_plan(args, accelerator, facts, preset, pictures))
        if plan.finished:
            tell_finished(args, accelerator)
        else:
            with enough_memory():
                job = build_job(args, accelerator, facts, plan)
                train(job)
            tell(job)
        accelerator.end_training()
    return EXIT_OK


def assign_buckets_by_faces(args: argparse.Namespace, dataset: TrainingSet, resolution: int) -> TrainingSet:
    """Every picture in its bucket, so that no face is cut where a pack can find it. Raises UserError."""
    from mirror.training.data import assign_buckets, find_faces

    with face_finder(args) as measurer:
        faces = find_faces(dataset, measurer) if measurer else None
    if faces is None:
        dataset.warnings.append(
            f"The model pack {args.pack or PACK} is not here, so faces were not looked for: what overhangs a picture's "
            "bucket is cut evenly from both sides."
        )
    return assign_buckets(dataset, faces, resolution)


@contextmanager
def face_finder(args: argparse.Namespace) -> Iterator[Any]:
    """The face pack, or None where there is none and none was asked for by name."""
    from mirror.dataset.sensors import SensorChoice, find_measurer
    from mirror.faces.cache import measurement_cache

    choice = SensorChoice(args.models_dir, pack=args.pack, device=args.device, max_megapixels=args.max_megapixels)
    with measurement_cache(args.cache, keeps=not args.no_cache) as cache:
        yield find_measurer(choice, cache)


def show_plan(args: argparse.Namespace) -> int:
    """--dry-run: what would be trained, on stdout. No network is loaded."""
    from mirror.training.base import look_at_base
    from mirror.training.data import assign_buckets, steps_an_epoch
    from mirror.training.elsewhere import show_trainer_job
    from mirror.training.setup import options_of, preset_of, read_pictures, show_pictures, show_settings

    if args.trainer:
        return show_trainer_job(args)
    facts = None
    if args.preset is None or Path(args.base_model).expanduser().exists():
        facts = look_at_base(args.base_model, args.prediction, args.zero_terminal_snr, args.base_config)
    options = options_of(args, preset_of(args, facts and facts.family.name), bool(facts and facts.zero_snr))
    dataset = assign_buckets(read_pictures(args), None, options["resolution"])
    an_epoch = steps_an_epoch(dataset, options["batch"], args.accumulate)
    epochs = epochs_of(args.epochs, args.steps, len(dataset.images), dataset.samples, an_epoch)
    show_pictures(dataset)
    rows = [[f"{width} x {height}", str(count)] for (width, height), count in dataset.bucket_counts.items()]
    print_table("Buckets", ["Size", "Images"], rows)
    show_settings(options)
    show(
        f"images: {len(dataset.images)}", f"an epoch: {dataset.samples} pictures seen, {an_epoch} steps on one process"
    )
    show(f"epochs: {epochs}{'' if args.epochs or args.steps else ' (recommended)'}", f"steps: {epochs * an_epoch}")
    show(f"checkpoints: {epochs} files {args.name}-*.safetensors, one an epoch, and lora.safetensors")
    return EXIT_OK


def make_training_plan(
    args: argparse.Namespace, accelerator: Accelerator, facts: BaseFacts, preset: Preset, pictures: TrainingSet
) -> TrainingPlan:
    """Every picture in its bucket, all settings, and what --resume finds. Raises UserError."""
    from mirror.training.data import assign_buckets, read_dataset, refuse_shared
    from mirror.training.elsewhere import local_identity_of
    from mirror.training.files import OutputFolder
    from mirror.training.samples import read_prompts
    from mirror.training.setup import TrainingPlan, new_log, options_of, settings_of_run, tell_about
    from mirror.training.state import demand_same, earlier_training

    output = OutputFolder(args.output, args.name)
    output.demand_free(args.resume, args.overwrite)
    earlier = earlier_training(output) if args.resume else None
    if args.resume and earlier is None:
        say(f"There is nothing to resume in {args.output}: the training begins.")
    prompts = [] if args.sample_prompts is None else read_prompts(args.sample_prompts)
    options = options_of(args, preset, facts.zero_snr)
    held_out = None
    if args.validation is not None:
        held_out = assign_buckets(
            read_dataset(args.validation, args.trigger, 1, args.max_megapixels), None, options["resolution"]
        )
        refuse_shared(pictures, held_out)
    dataset = assign_buckets_by_faces(args, pictures, options["resolution"])
    tell_about(dataset)
    for warning in held_out.warnings if held_out else []:
        say(f"Note: held-out pictures: {warning}")
    settings = options | settings_of_run(args, accelerator, facts, dataset, options)
    log = new_log(args, dataset, local_identity_of(args.base_model) if earlier else args.base_model, settings)
    if earlier is not None:
        demand_same(output, earlier, log)
    return TrainingPlan(dataset, held_out, prompts, settings, log, earlier is not None and earlier.finished)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Too little memory, found out only while working, told as a UserError."""
    from mirror.generation.pipelines import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "Memory ran out. What helps: --batch 1 with --accumulate, --gradient-checkpointing, a smaller --resolution "
            "or --rank, no --conv-rank; other programs on the GPU take theirs."
        ) from error


def tell_finished(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """--resume of a training that needs none, by one process alone."""
    from mirror.training.files import OutputFolder

    if accelerator.is_main_process:
        say(f"The training in {args.output} is finished already.")
        show(f"lora: {OutputFolder(args.output, args.name).lora}")


def tell(job: Job) -> None:
    """The end of a training, on stdout, by one process alone."""
    if not job.accelerator.is_main_process:
        return
    first, last = job.log.epochs[0].loss, job.log.epochs[-1].loss
    show(f"steps: {job.log.steps}", f"loss: {first:.4f} in the first epoch, {last:.4f} in the last")
    after = job.log.epochs[-1].validation_loss
    if job.log.validation_loss_before is not None and after is not None:  # --validation may come and go with --resume
        show(f"held-out pictures: {job.log.validation_loss_before:.4f} before, {after:.4f} after")
    show(f"lora: {job.output.lora}", f"log: {job.output.log}")


_PRESET_HELP = (
    "settings (default: those of the base model's family). zit is Animagine XL, an SDXL model; Z-Image, which others "
    "call ZIT, is trained by --trainer ai-toolkit"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "train_lora.py",
        __doc__,
        "Exit codes: 0 done; 2 something to change (one sentence says what), 1 our fault, 130 interrupted. "
        "Presets, with a source for each value, stand in mirror/training/presets.py.",
    )
    add = parser.add_argument
    add(
        "dataset",
        type=options.path,
        metavar="DATASET",
        help="folder of pictures with captions, or of sub-folders named like 10_name (10 repeats)",
    )
    add("--base-model", required=True, metavar="M", help="diffusers folder, hub id, or .safetensors file")
    add(
        "--base-config",
        type=options.path,
        metavar="DIR",
        help="diffusers folder with the configuration of a single-file model; needed without internet",
    )
    add("--output", type=options.path, required=True, metavar="DIR", help="folder for LoRA, checkpoints and log")
    add("--trigger", type=_words, required=True, metavar="WORDS", help='words for the person in captions: "ohwx alice"')
    add("--name", type=_name, metavar="NAME", help="file name of checkpoints (default: from --trigger, ohwx_alice)")
    add("--preset", choices=tuple(PRESETS), help=_PRESET_HELP)
    _add_training(parser)
    _add_results(parser)
    _add_other_trainers(parser)
    _add_pictures_and_machine(parser)
    args = parser.parse_args(argv)
    args.name = args.name or _name(args.trigger)
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    for name in ("family", "trainer_path", "trainer_command", "trainer_option"):
        if getattr(args, name) and not args.trainer:
            parser.error(f"--{name.replace('_', '-')} belongs to --trainer")
    return args


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training (defaults: the preset's)").add_argument
    length = add.__self__.add_mutually_exclusive_group().add_argument
    length("--epochs", type=_count, metavar="N", help="(default: recommended by the size of the dataset)")
    length("--steps", type=_count, metavar="N", help="whole epochs, as near to so many steps as they come")
    add("--repeats", type=_count, default=REPEATS, metavar="N", help="repeats of pictures in no folder like 10_name")
    add(
        "--synthetic-weight",
        type=_weight,
        default=1.0,
        metavar="W",
        help="generated pictures (synthetic_*) beside photos get this share of their folder's repeats, 0.01 to 1",
    )
    add("--rank", type=_count, metavar="R", help="width of the LoRA")
    add("--alpha", type=_positive, metavar="A", help="the LoRA is scaled by alpha / rank; half of --rank, if given")
    add("--conv-rank", type=_count, metavar="R", help="convolutions learn, too (LoCon), in this width (default: none)")
    add("--learning-rate", type=_positive, metavar="LR", help="highest learning rate, reached after the warm-up")
    add("--warmup", type=_share, metavar="SHARE", help="share of the steps in which the learning rate rises, 0 to 1")
    add("--batch", type=_count, metavar="N", help="batch size, on each GPU")
    add("--accumulate", type=_count, default=1, metavar="N", help="batches an optimizer step (gradient accumulation)")
    add("--resolution", type=_resolution, metavar="PIXELS", help="pictures get the area of a square with this side")
    add("--min-snr-gamma", type=_amount, metavar="G", help="min-SNR weighting of the losses; 0 switches it off")
    add("--noise-offset", type=_amount, metavar="O", help="0 is none (the default for zero-terminal-SNR models)")
    add("--seed", type=int, default=42, metavar="N", help="random seed of everything")
    add("--optimizer", choices=("auto", "adamw", "adamw8bit"), default="auto", help="auto: 8 bits with bitsandbytes")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="auto: bf16 or fp16 on a GPU, else fp32")
    add(
        "--gradient-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="less memory, slower; on unless --no-gradient-checkpointing",
    )
    add("--prediction", choices=("epsilon", "v_prediction"), help="what the model predicts (default: read from it)")
    add(
        "--zero-terminal-snr",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the base model was trained with zero terminal SNR (default: read from the model)",
    )
    add(
        "--validation",
        type=options.path,
        metavar="DIR",
        help="held-out pictures: their loss is measured after every epoch",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("results").add_argument
    add(
        "--sample-prompts",
        type=options.path,
        metavar="FILE",
        help="text file, one prompt a line; samples are generated after every epoch",
    )
    add("--sample-seeds", type=_count, default=1, metavar="N", help="images of each prompt, with seeds from --seed on")
    add("--sample-steps", type=_count, default=30, metavar="N", help="denoising steps of each sample image")
    add(
        "--format",
        choices=("kohya", "diffusers"),
        help="key names: kohya's (the default) load in diffusers, ComfyUI and A1111",
    )
    add("--save-precision", choices=tuple(PRECISIONS), default="fp16", help="precision in which LoRA files are saved")
    add("--resume", action="store_true", help="go on with the training in --output, or begin one")
    add("--overwrite", action="store_true", help="delete an earlier training in --output")
    add("--dry-run", action="store_true", help="print the plan and load nothing; faces are not looked for")


def _add_other_trainers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("other trainers").add_argument
    add(
        "--trainer",
        choices=tuple(TRAINERS),
        help="train with this program instead: write its configuration, and start it if --trainer-path is given",
    )
    add("--trainer-path", type=options.path, metavar="DIR", help="where sd-scripts or ai-toolkit was installed")
    add(
        "--trainer-command",
        metavar="COMMAND",
        help="for --trainer command; {dataset}, {base_model}, {lora}, {config} ... are filled in",
    )
    add(
        "--trainer-option",
        type=_option,
        action="append",
        metavar="KEY=VALUE",
        help="an option of the trainer's own: clip_l=clip_l.safetensors; may be repeated",
    )
    add("--family", choices=tuple(FAMILIES), help="what the base model is (default: found out from its files)")


def _add_pictures_and_machine(parser: argparse.ArgumentParser) -> None:
    others = parser.add_argument_group("pictures and machine")
    options.add_models_dir(others, "folder with model packs")
    options.add_pack(others, "InsightFace model pack that finds the faces")
    options.add_device(others)
    options.add_max_megapixels(others, "larger pictures are left out")
    options.add_cache(others)
    options.add_debug_and_version(others)


def _words(text: str) -> str:
    words = " ".join(text.split())
    if not words:
        raise argparse.ArgumentTypeError("it is empty")
    return words


def _option(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not re.fullmatch(r"\w+", key, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not like key=value")
    return key, value


def _name(text: str) -> str:
    """A file name that every system takes."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text.strip()).strip(".")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} gives no file name")
    return name


_count = options.between(1, 1_000_000, whole=True)
_positive = options.between(1e-12, 1e6)
_amount = options.between(0, 1e6)
_share = options.between(0, 1)
_weight = options.between(LEAST_SYNTHETIC_WEIGHT, 1)
_pixels = options.between(64, 4096, whole=True)


def _resolution(text: str) -> int:
    pixels = _pixels(text)
    if pixels % 8:
        raise argparse.ArgumentTypeError(f"{pixels} is not a multiple of 8")
    return pixels


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
