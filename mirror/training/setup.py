"""From options and pictures to a training that can begin: settings, log, encoded pictures, LoRA, optimizer."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.contracts.training import TrainingLog
from mirror.generation.pipelines import load
from mirror.training import base
from mirror.training.base import (
    BaseFacts,
    Example,
    bytes_when_loaded,
    demand_memory,
    demand_room,
    encode_captions,
    encode_images,
    make_optimizer,
    optimizer_name,
    refuse_unusual,
    too_long,
    with_lora,
)
from mirror.training.data import TrainingSet, read_dataset, steps_an_epoch
from mirror.training.files import LoraFormat, OutputFolder
from mirror.training.job import Job
from mirror.training.noising import noise_schedule
from mirror.training.presets import PRESETS, Preset, epochs_of
from mirror.training.processes import PRECISIONS, progress_in_main
from mirror.training.samples import Sampler, make_sampler, sample_as_trained
from utils.captions import told_kinds
from utils.console import UserError, print_table, say, show
from utils.files import readable, timestamp, versions_of

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainingPlan:
    """What will be trained, before any network is loaded."""

    dataset: TrainingSet  # placed in buckets
    held_out: TrainingSet | None
    prompts: list[str]  # of samples
    settings: dict[str, Any]
    log: TrainingLog
    finished: bool  # with --resume: nothing is left to do


def preset_of(args: argparse.Namespace, family: str | None) -> Preset:
    """The preset asked for, or that of the family. Raises UserError for one of another family."""
    preset = PRESETS[args.preset or family]
    if family is not None and preset.family != family:
        raise UserError(f"--preset {args.preset} is for {preset.family}, and {args.base_model} is {family}.")
    return preset


def options_of(args: argparse.Namespace, preset: Preset, zero_snr: bool) -> dict[str, Any]:
    """What the options say, and where they say nothing the preset."""
    names = ("rank", "alpha", "learning_rate", "batch", "resolution", "min_snr_gamma", "noise_offset", "warmup")
    values = {name: getattr(preset, name) if getattr(args, name) is None else getattr(args, name) for name in names}
    if args.rank is not None and args.alpha is None:
        values["alpha"] = args.rank / 2
    if args.conv_rank is not None:  # else there is no such setting: trainings from before it can be resumed
        values["conv_rank"] = args.conv_rank
    if zero_snr:
        # Such bases see pure noise, and learn dark and bright without an offset. The weights of min-SNR for velocity,
        # min(SNR, gamma) / (SNR + 1), fall to 0 where the noise is pure: just the steps that zero terminal SNR is for
        # would not be learned. Both our choice; the options go before.
        values |= {name: 0.0 for name in ("noise_offset", "min_snr_gamma") if getattr(args, name) is None}
    return (
        {"name": args.name, "preset": args.preset or preset.family}
        | values
        | {
            "accumulate": args.accumulate,
            "seed": args.seed,
            "gradient_checkpointing": args.gradient_checkpointing,
        }
    )


def build_job(args: argparse.Namespace, accelerator: Accelerator, facts: BaseFacts, plan: TrainingPlan) -> Job:
    """Refuse what cannot work, load, encode, put the LoRA in. Raises UserError."""
    import torch

    settings, on_cpu = plan.settings, accelerator.device.type == "cpu"
    dtype = getattr(torch, PRECISIONS[settings["precision"]])
    # never in bfloat16, whose few digits the VAE would keep when it goes back to float32
    loaded_in = torch.float32 if on_cpu else torch.float16
    needed = bytes_when_loaded(args.base_model, loaded_in.itemsize)
    demand_memory(needed, base.memory_free("cpu"), f"Loading {args.base_model}", "Close other programs.")
    loaded = load(args.base_model, facts.family.name, args.base_config, "cpu", str(loaded_in).removeprefix("torch."))
    pipeline = loaded.pipeline
    refuse_unusual(pipeline, args.base_model)
    sample_as_trained(pipeline, facts.prediction, facts.zero_snr)
    for part in (pipeline.unet, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        if part is not None:
            part.to(dtype)
    plan.log.base_model = loaded.identity
    if accelerator.is_main_process:
        widths = f"rank {settings['rank']}"
        widths += f" (convolutions {settings['conv_rank']})" if "conv_rank" in settings else ""
        say(
            f"{loaded.identity}: {settings['epochs']} epochs, {settings['steps']} steps, {widths}, "
            f"on {settings['processes']} x {settings['device']} in {settings['precision']}, {settings['optimizer']}"
        )
    examples, held_examples, sampler = encode(args, accelerator, pipeline, plan)
    unet = with_lora(pipeline.unet, settings)
    demand_room(accelerator.device.type, unet, settings)
    optimizer = make_optimizer(unet, settings)
    trained = {name: one for name, one in unet.named_parameters() if one.requires_grad}
    layers = unet.config.layers_per_block
    unet, optimizer = accelerator.prepare(unet, optimizer)
    return Job(
        settings=settings,
        accelerator=accelerator,
        unet=unet,
        trained=trained,
        optimizer=optimizer,
        schedule=noise_schedule(pipeline.scheduler.config, facts.prediction, facts.zero_snr),
        examples=examples,
        samples=[index for index, image in enumerate(plan.dataset.images) for _ in range(image.repeats)],
        held_out=held_examples,
        dtype=dtype,
        sampler=sampler,
        output=OutputFolder(args.output, args.name),
        overwrite=args.overwrite,
        log=plan.log,
        how=LoraFormat(
            settings["format"],
            PRECISIONS[args.save_precision],
            facts.family.name,
            layers,
            settings["alpha"] / settings["rank"],
        ),
    )


def settings_of_run(
    args: argparse.Namespace, accelerator: Accelerator, facts: BaseFacts, dataset: TrainingSet, options: dict[str, Any]
) -> dict[str, Any]:
    """Settings that depend on machine, model and dataset."""
    processes, precision = accelerator.num_processes, accelerator.mixed_precision
    an_epoch = steps_an_epoch(dataset, options["batch"], options["accumulate"], processes)
    epochs = epochs_of(args.epochs, args.steps, len(dataset.images), dataset.samples, an_epoch)
    steps = epochs * an_epoch
    return {
        "crops": dataset.crops,
        "epochs": epochs,
        "steps": steps,
        "warmup_steps": round(options["warmup"] * steps),
        "processes": processes,
        "device": accelerator.device.type,
        "precision": "fp32" if precision == "no" else precision,
        "optimizer": optimizer_name(args.optimizer, accelerator.device.type),
        "prediction": facts.prediction,
        "zero_terminal_snr": facts.zero_snr,
        "format": args.format or "kohya",  # no default of the option: other trainers refuse a format that was given
        "save_precision": args.save_precision,
    }


def new_log(args: argparse.Namespace, dataset: TrainingSet, identity: str, settings: dict[str, Any]) -> TrainingLog:
    """The log before the first step."""
    from importlib.metadata import version

    packages = ("torch", "diffusers", "peft", "accelerate", "transformers")
    return TrainingLog(
        created=timestamp(),
        finished=False,
        lora=None,
        trainer="train_lora.py",
        trigger=args.trigger,
        dataset=readable(str(dataset.folder.resolve())),
        dataset_hash=dataset.identity,
        images=len(dataset.images),
        samples_per_epoch=dataset.samples,
        buckets={f"{width}x{height}": count for (width, height), count in dataset.bucket_counts.items()},
        base_model=identity,
        settings=settings,
        versions=versions_of("train_lora", **{name: version(name) for name in packages}),
        steps=0,
        warnings=dataset.warnings,
    )


def encode(
    args: argparse.Namespace, accelerator: Accelerator, pipeline: Any, plan: TrainingPlan
) -> tuple[list[Example], list[Example], Sampler | None]:
    """Examples of dataset and held-out pictures, and what generates samples; the text encoders are gone afterwards."""
    device, images, held = accelerator.device, plan.dataset.images, plan.held_out.images if plan.held_out else []
    captions = list(dict.fromkeys(image.caption for image in images + held))
    cut_off = too_long(pipeline, captions)
    if cut_off and accelerator.is_main_process:
        say(f"Note: {cut_off} caption(s) have more than 75 tokens; CLIP does not see the rest.")
    sampler = None
    if plan.prompts:
        seeds = [args.seed + number for number in range(args.sample_seeds)]
        size_and_steps = plan.settings["resolution"], args.sample_steps
        sampler = make_sampler(pipeline, plan.prompts, seeds, *size_and_steps, device)
    with progress_in_main(accelerator) as (add, step):
        task = add("Captions", len(captions))
        prompts = encode_captions(pipeline, captions, device, lambda: step(task))
        task = add("Latents", len(images) + len(held))
        examples, held_examples = (
            encode_images(pipeline, some, prompts, device, args.max_megapixels, lambda: step(task))
            for some in (images, held)
        )
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipeline, name, None) is not None:
            setattr(pipeline, name, None)
    return examples, held_examples, sampler


def read_pictures(args: argparse.Namespace) -> TrainingSet:
    """The dataset as it lies there. Raises UserError."""
    return read_dataset(args.dataset, args.trigger, args.repeats, args.max_megapixels, args.synthetic_weight)


def tell_about(dataset: TrainingSet) -> None:
    """Which captions were read, and what else is to be said of the dataset, on stderr."""
    if dataset.captions:
        say(told_kinds(dataset.captions))
    for warning in dataset.warnings:
        say(f"Note: {warning}")


def show_pictures(dataset: TrainingSet) -> None:
    """Folders with their repeats, on stdout; what is to be said of them, on stderr."""
    tell_about(dataset)
    rows = [[folder, str(images), str(repeats)] for (folder, repeats), images in dataset.folder_counts.items()]
    print_table("Pictures", ["Folder", "Images", "Repeats"], rows)


def show_settings(settings: dict[str, Any]) -> None:
    """The settings that people choose, on stdout."""
    names = (
        "preset",
        "rank",
        "alpha",
        "conv_rank",
        "learning_rate",
        "batch",
        "accumulate",
        "resolution",
        "min_snr_gamma",
        "noise_offset",
    )
    for name in names:
        if name in settings:
            show(f"{name}: {settings[name]}")
