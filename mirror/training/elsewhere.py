"""Training with a program that others made: its configuration is written, and it is started where its path is given."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mirror.generation.families import Family, find_family
from mirror.generation.pipelines import family_of_hub, local_identity
from mirror.training.base import look_at_base
from mirror.training.files import OutputFolder, writing
from mirror.training.presets import PRESETS, epochs_of
from mirror.training.setup import new_log, options_of, read_pictures, show_pictures, show_settings, tell_about
from mirror.training.trainers import TRAINERS, TrainerJob, plan_start, refuse_overlap, run_trainer, write_files
from utils.console import EXIT_OK, UserError, shell_line, show
from utils.files import write_bytes_atomic


def train_elsewhere(args: argparse.Namespace) -> int:
    """--trainer: write its configuration, start it where its path is given, and look at what it made."""
    output = OutputFolder(args.output, args.name)
    refuse_overlap(args.dataset, args.output)
    trainer_job = trainer_job_of(args)
    start = plan_start(trainer_job)
    output.demand_place_for_trainer()
    output.demand_free(False, args.overwrite)
    tell_about(trainer_job.dataset)
    if args.overwrite:
        output.clear()
    write_files(start, trainer_job.folder)
    for file in start.texts:
        show(f"written: {file}")
    if TRAINERS[args.trainer].needs_path and trainer_job.trainer_folder is None:
        show(f"Nothing is trained yet. Run this in the folder of {args.trainer}:", shell_line(start.command))
        return EXIT_OK
    log = new_log(args, trainer_job.dataset, local_identity_of(args.base_model), trainer_job.settings)
    layers = run_trainer(start, trainer_job.folder)
    with writing(output.lora):
        write_bytes_atomic(output.lora, start.lora.read_bytes())
        log.finished, log.lora, log.trainer, log.steps = (
            True,
            output.lora.name,
            args.trainer,
            trainer_job.settings["steps"],
        )
        output.write_log(log)
    show(f"layers: {layers}", f"lora: {output.lora}", f"log: {output.log}")
    return EXIT_OK


def show_trainer_job(args: argparse.Namespace) -> int:
    """--dry-run --trainer: what that trainer would be asked for, on stdout."""
    refuse_overlap(args.dataset, args.output)
    trainer_job = trainer_job_of(args)
    start = plan_start(trainer_job)
    settings = trainer_job.settings
    show_pictures(trainer_job.dataset)
    show_settings(settings)
    show(f"images: {len(trainer_job.dataset.images)}", f"an epoch: {trainer_job.dataset.samples} pictures seen")
    how = "" if args.epochs or args.steps else " (recommended)"
    show(f"epochs: {settings['epochs']}{how}", f"steps: {settings['steps']}")
    show(f"command: {shell_line(start.command)}")
    return EXIT_OK


def trainer_job_of(args: argparse.Namespace) -> TrainerJob:
    """What the trainer is asked for. Raises UserError."""
    if args.resume:
        raise UserError(
            "--resume works only for train_lora.py's own training; another trainer has its own way to resume."
        )
    family = find_family(args.base_model, args.family) or family_of_hub(args.base_model)
    refuse_options_not_passed(args, family)
    preset = PRESETS[args.preset or (family.name if family.name in PRESETS else "sdxl")]
    prediction, zero_snr = args.prediction or "epsilon", bool(args.zero_terminal_snr)
    if family.is_diffusion and Path(args.base_model).expanduser().exists():
        facts = look_at_base(args.base_model, args.prediction, args.zero_terminal_snr, args.base_config)
        prediction, zero_snr = facts.prediction, facts.zero_snr
    options = options_of(args, preset, zero_snr)
    dataset = read_pictures(args)
    an_epoch = math.ceil(math.ceil(dataset.samples / options["batch"]) / options["accumulate"])
    epochs = epochs_of(args.epochs, args.steps, len(dataset.images), dataset.samples, an_epoch)
    steps = epochs * an_epoch
    settings = options | {
        "epochs": epochs,
        "steps": steps,
        "warmup_steps": round(options["warmup"] * steps),
        "prediction": prediction,
        "zero_terminal_snr": zero_snr,
        "save_precision": args.save_precision,
    }
    return TrainerJob(
        trainer=args.trainer,
        dataset=dataset,
        base_model=args.base_model,
        family=family,
        trigger=args.trigger,
        folder=OutputFolder(args.output, args.name).trainer,
        name=args.name,
        settings=TRAINERS[args.trainer].settings(family, settings),
        trainer_folder=args.trainer_path.resolve() if args.trainer_path else None,
        command=args.trainer_command,
        extra=dict(args.trainer_option or []),
    )


# Options that no other trainer gets.
NOT_PASSED_ON = ("optimizer", "precision", "device", "format", "sample_prompts", "validation")


def refuse_options_not_passed(args: argparse.Namespace, family: Family) -> None:
    """Raise UserError for an option that the trainer would never hear of."""
    for name in (*NOT_PASSED_ON, *TRAINERS[args.trainer].not_taken(family)):
        if getattr(args, name, None) not in (None, "auto"):  # not every setting is an option
            raise UserError(
                f"--{name.replace('_', '-')} is not passed on to --trainer {args.trainer}: leave it out, and set what "
                "you need in the configuration that is written."
            )


def local_identity_of(model: str) -> str:
    """name@hash of a model on this disk, else its name."""
    return local_identity(model) or model
