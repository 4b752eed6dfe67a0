#!/usr/bin/env python3
"""Train a LoRA of a person on SDXL or Stable Diffusion 1.5; for other models, set up and run a trainer made for them.

    python train_lora.py dataset --base-model stabilityai/stable-diffusion-xl-base-1.0 --output my_lora \\
        --trigger "ohwx alice"
    python train_lora.py dataset --base-model M --output my_lora --trigger "ohwx alice" --resume

reads   DIR/10_ohwx alice/*.jpg ...    pictures, each seen 10 times an epoch; or pictures in DIR itself
        the .txt beside a picture      its caption, UTF-8; the trigger is added where it is missing
        the base model                 a diffusers folder, a hub id, or a single .safetensors file
        a model pack                   where there is one, so that no crop cuts a face
writes  OUTPUT/lora.safetensors        when the training is finished; loads in diffusers, ComfyUI and A1111
        OUTPUT/<name>-000005.safetensors   after every epoch, as kohya's trainers name them
        OUTPUT/samples/<name>-000005/  pictures after every epoch (--sample-prompts), candidates for mirror_metrics.py
        OUTPUT/training_log.json       base model, dataset, settings and losses
        OUTPUT/training_state.pt       what --resume goes on from, until the training is finished

The U-Net alone is trained; latents and text embeddings are made once and kept. Presets stand in utils/presets.py.
Ctrl-C saves before it ends, and a kill loses at most the current epoch: --resume then gives the weights that an
undisturbed training would have given. Several GPUs or machines: accelerate launch train_lora.py ...
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.console import EXIT_OK, EXIT_USER, UserError, print_table, run_script, say
from utils.defaults import CACHE_FILE, MAX_MEGAPIXELS, MODELS_FOLDER, PACK
from utils.families import FAMILIES
from utils.files import write_bytes_atomic
from utils.presets import PRESETS, REPEATS, Preset, recommended_epochs
from utils.processes import PRECISIONS

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    import torch
    from accelerate import Accelerator
    from diffusers import DDPMScheduler

    from utils.contracts import TrainingLog
    from utils.processes import StopRequests
    from utils.trainers import Order
    from utils.training_base import BaseFacts, Example
    from utils.training_data import TrainingSet
    from utils.training_files import LoraFormat, OutputFolder
    from utils.training_samples import Sampler

# The layers that learn: all of the U-Net's transformers, as kohya's trainers choose them.
TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
WEIGHT_DECAY = 0.01  # PyTorch's default for AdamW
LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped, kohya's default (--max_grad_norm)
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the schedule at which held-out pictures are looked at

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}  # kept for each trained number
TRAINERS = ("sd-scripts", "ai-toolkit", "command")  # of utils/trainers.py

VERSION = "0.1.0"
BOOTSTRAP = "requirements/bootstrap.txt"


@dataclass
class Job:
    """Everything that the loop works with."""

    settings: dict[str, Any]
    accelerator: Accelerator
    unet: Any  # with the LoRA, as accelerate wrapped it
    trained: dict[str, Any]  # name -> parameter of the LoRA
    optimizer: Any
    schedule: DDPMScheduler
    examples: list[Example]  # one a picture
    samples: list[int]  # the pictures of an epoch, repeats included: indices of examples
    held_out: list[Example]
    dtype: torch.dtype  # of the frozen weights
    sampler: Sampler | None
    output: OutputFolder
    log: TrainingLog
    how: LoraFormat

    @property
    def bare_unet(self) -> Any:
        return self.accelerator.unwrap_model(self.unet)


# The plan


def preset_of(args: argparse.Namespace, family: str | None) -> Preset:
    """The preset asked for, or that of the family. Raises UserError for one of another family."""
    preset = PRESETS[args.preset or family]
    if family is not None and preset.family != family:
        raise UserError(f"--preset {args.preset} is for {preset.family}, and {args.base_model} is {family}.")
    return preset


def options_of(args: argparse.Namespace, preset: Preset) -> dict[str, Any]:
    """What the options say, and where they say nothing the preset."""
    names = ("rank", "alpha", "learning_rate", "batch", "resolution", "min_snr_gamma", "noise_offset", "warmup")
    values = {name: getattr(preset, name) if getattr(args, name) is None else getattr(args, name) for name in names}
    if args.rank is not None and args.alpha is None:
        values["alpha"] = args.rank / 2
    return values | {
        "preset": args.preset or preset.family,
        "accumulate": args.accumulate,
        "seed": args.seed,
        "gradient_checkpointing": args.gradient_checkpointing,
    }


def read_pictures(args: argparse.Namespace) -> TrainingSet:
    """The dataset as it lies there. Raises UserError."""
    from utils.training_data import read_dataset

    return read_dataset(args.dataset, args.trigger, args.repeats, args.max_megapixels)


def place_pictures(args: argparse.Namespace, dataset: TrainingSet, resolution: int) -> TrainingSet:
    """Every picture in its bucket, so that no face is cut where a pack can find it. Raises UserError."""
    from utils.training_data import find_faces, place_all

    with _measurer(args) as measurer:
        faces = find_faces(dataset, measurer) if measurer else None
    if faces is None:
        dataset.warnings.append(
            f"The model pack {args.pack or PACK} is not here, so faces were not looked for: what overhangs a picture's "
            "bucket is cut evenly from both sides."
        )
    return place_all(dataset, faces, resolution)


@contextmanager
def _measurer(args: argparse.Namespace) -> Iterator[Any]:
    """The face pack, or None where there is none and none was asked for by name."""
    from utils.cache import open_cache
    from utils.sensors import SensorChoice, find_measurer

    cache = open_cache(None if args.no_cache else args.cache)
    if cache.message:
        say(f"Note: {cache.message}")
    try:
        yield find_measurer(
            SensorChoice(args.models_dir, pack=args.pack, device=args.device, max_megapixels=args.max_megapixels), cache
        )
    finally:
        cache.close()


def steps_an_epoch(dataset: TrainingSet, batch: int, accumulate: int, processes: int = 1) -> int:
    """Steps of the optimizer. Batches are of one bucket each, so each bucket may end in a smaller one."""
    views: dict[tuple[int, int], int] = {}
    for image in dataset.images:
        views[image.placement.bucket_wh] = views.get(image.placement.bucket_wh, 0) + image.repeats
    batches = sum(math.ceil(count / batch) for count in views.values())
    return math.ceil(math.ceil(batches / processes) / accumulate)


def show_plan(args: argparse.Namespace) -> int:
    """--dry-run: what would be trained, on stdout. No network is loaded."""
    from utils.training_base import look_at_base
    from utils.training_data import place_all

    if args.preset is None:
        family = look_at_base(args.base_model, args.prediction, args.zero_terminal_snr, args.base_config).family.name
        preset = preset_of(args, family)
    else:
        preset = preset_of(args, None)
    options = options_of(args, preset)
    dataset = place_all(read_pictures(args), None, options["resolution"])
    for warning in dataset.warnings:
        say(f"Note: {warning}")
    epochs = args.epochs or recommended_epochs(len(dataset.images), dataset.samples)
    an_epoch = steps_an_epoch(dataset, options["batch"], args.accumulate)
    rows = [[f"{width} x {height}", str(count)] for (width, height), count in dataset.bucket_counts.items()]
    print_table("Buckets", ["Size", "Images"], rows)
    for name in ("preset", "rank", "alpha", "learning_rate", "batch", "accumulate", "resolution", "min_snr_gamma"):
        print(f"{name}: {options[name]}")
    print(f"images: {len(dataset.images)}\nan epoch: {dataset.samples} pictures seen, {an_epoch} steps on one process")
    print(f"epochs: {epochs}{'' if args.epochs else ' (recommended)'}\nsteps: {epochs * an_epoch}")
    return EXIT_OK


# Building the job


def build_job(args: argparse.Namespace, accelerator: Accelerator, facts: BaseFacts, found: TrainingSet) -> Job:
    """Refuse what cannot work, load, encode, put the LoRA in. Raises UserError."""
    import torch

    from utils.noising import noise_schedule
    from utils.pipelines import load
    from utils.processes import from_main
    from utils.training_base import bytes_in_files, demand_memory, memory_free, refuse_unusual
    from utils.training_files import LoraFormat, OutputFolder

    options = options_of(args, preset_of(args, facts.family.name))
    if facts.zero_snr and args.noise_offset is None:
        options["noise_offset"] = 0.0  # such bases see pure noise, and learn dark and bright without it
    output = OutputFolder(args.output, args.name)
    dataset, held_out = from_main(accelerator, lambda: prepare(args, found, options, output))
    settings = options | settings_of_run(args, accelerator, facts, dataset, options)
    room = memory_free("cpu")
    demand_memory(bytes_in_files(args.base_model), room, f"Loading {args.base_model}", "Close other programs.")
    dtype, on_cpu = getattr(torch, PRECISIONS[settings["precision"]]), accelerator.device.type == "cpu"
    # never in bfloat16, whose few digits the VAE would keep when it goes back to float32
    loaded = load(args.base_model, facts.family.name, args.base_config, "cpu", "float32" if on_cpu else "float16")
    pipeline = loaded.pipeline
    refuse_unusual(pipeline, args.base_model)
    draw_as_trained(pipeline, facts)
    for part in (pipeline.unet, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        if part is not None:
            part.to(dtype)
    if accelerator.is_main_process:
        say(
            f"{loaded.identity}: {settings['epochs']} epochs, {settings['steps']} steps, rank {settings['rank']}, "
            f"on {settings['processes']} x {settings['device']} in {settings['precision']}, {settings['optimizer']}"
        )
    log = new_log(args, dataset, loaded.identity, settings)
    examples, held_examples, sampler = encode(args, accelerator, pipeline, dataset, held_out, settings)
    unet = with_lora(pipeline.unet, settings)
    demand_room(accelerator, unet, settings)
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
        samples=[place for place, image in enumerate(dataset.images) for _ in range(image.repeats)],
        held_out=held_examples,
        dtype=dtype,
        sampler=sampler,
        output=output,
        log=log,
        how=LoraFormat(args.format, PRECISIONS[args.save_precision], facts.family.name, layers, settings["alpha"]),
    )


def draw_as_trained(pipeline: Any, facts: BaseFacts) -> None:
    """Samples are drawn by the schedule that is trained, where options say another than the model itself."""
    config = pipeline.scheduler.config
    if (config.prediction_type, bool(config.get("rescale_betas_zero_snr"))) != (facts.prediction, facts.zero_snr):
        changed = {"prediction_type": facts.prediction, "rescale_betas_zero_snr": facts.zero_snr}
        pipeline.scheduler = type(pipeline.scheduler).from_config(config, **changed)


def prepare(
    args: argparse.Namespace, found: TrainingSet, options: dict[str, Any], output: OutputFolder
) -> tuple[TrainingSet, TrainingSet | None]:
    """Output folder, and every picture in its bucket, in the main process. Raises UserError."""
    from utils.training_data import place_all, read_dataset

    output.prepare(args.resume, args.overwrite)
    dataset = place_pictures(args, found, options["resolution"])
    for warning in dataset.warnings:
        say(f"Note: {warning}")
    if args.validation is None:
        return dataset, None
    held_out = read_dataset(args.validation, args.trigger, 1, args.max_megapixels)
    return dataset, place_all(held_out, None, options["resolution"])


def settings_of_run(
    args: argparse.Namespace, accelerator: Accelerator, facts: BaseFacts, dataset: TrainingSet, options: dict[str, Any]
) -> dict[str, Any]:
    """Settings that depend on machine, model and dataset."""
    epochs = args.epochs or recommended_epochs(len(dataset.images), dataset.samples)
    processes, precision = accelerator.num_processes, accelerator.mixed_precision
    steps = epochs * steps_an_epoch(dataset, options["batch"], options["accumulate"], processes)
    return {
        "epochs": epochs,
        "steps": steps,
        "warmup_steps": round(options["warmup"] * steps),
        "processes": processes,
        "device": accelerator.device.type,
        "precision": "fp32" if precision == "no" else precision,
        "optimizer": optimizer_name(args.optimizer, accelerator.device.type),
        "prediction": facts.prediction,
        "zero_terminal_snr": facts.zero_snr,
        "format": args.format,
        "save_precision": args.save_precision,
    }


def optimizer_name(asked: str, device: str) -> str:
    """adamw or adamw8bit. Raises UserError."""
    from importlib.util import find_spec

    has_8bit = find_spec("bitsandbytes") is not None
    if asked == "adamw8bit" and not has_8bit:
        raise UserError("--optimizer adamw8bit needs a package: python -m pip install bitsandbytes")
    if asked == "auto":
        return "adamw8bit" if has_8bit and device == "cuda" else "adamw"
    return asked


def new_log(args: argparse.Namespace, dataset: TrainingSet, identity: str, settings: dict[str, Any]) -> TrainingLog:
    """The log before the first step."""
    from importlib.metadata import version

    from utils.contracts import TrainingLog
    from utils.files import readable

    packages = ("torch", "diffusers", "peft", "accelerate", "transformers")
    return TrainingLog(
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),
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
        versions={"train_lora": VERSION, "python": sys.version.split()[0]} | {name: version(name) for name in packages},
        steps=0,
        warnings=dataset.warnings,
    )


def encode(
    args: argparse.Namespace,
    accelerator: Accelerator,
    pipeline: Any,
    dataset: TrainingSet,
    held_out: TrainingSet | None,
    settings: dict[str, Any],
) -> tuple[list[Example], list[Example], Sampler | None]:
    """Examples of dataset and held-out pictures, and what draws samples; the text encoders are gone afterwards."""
    from utils.processes import progress_in_main
    from utils.training_base import encode_captions, encode_images, too_long
    from utils.training_samples import make_sampler, read_prompts

    device, images, held = accelerator.device, dataset.images, held_out.images if held_out else []
    captions = list(dict.fromkeys(image.caption for image in images + held))
    cut_off = too_long(pipeline, captions)
    if cut_off and accelerator.is_main_process:
        say(f"Note: {cut_off} caption(s) have more than 75 tokens; CLIP does not see the rest.")
    sampler = None
    if args.sample_prompts is not None:
        seeds = [args.seed + number for number in range(args.sample_seeds)]
        drawing = settings["resolution"], args.sample_steps
        sampler = make_sampler(pipeline, read_prompts(args.sample_prompts), seeds, *drawing, device)
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


def with_lora(unet: Any, settings: dict[str, Any]) -> Any:
    """The U-Net frozen, with LoRA layers in float32 beside those of TARGET_MODULES; repeatable by seed."""
    import torch
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    unet.requires_grad_(False)
    torch.manual_seed(settings["seed"])
    unet.add_adapter(LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=list(TARGET_MODULES)))
    cast_training_params(unet, torch.float32)
    if settings["gradient_checkpointing"]:
        unet.enable_gradient_checkpointing()
    return unet.train()


def demand_room(accelerator: Accelerator, unet: Any, settings: dict[str, Any]) -> None:
    """Raise UserError where the memory will not do, with what would help."""
    from utils.training_base import demand_memory, memory_free, memory_needed

    batch, resolution, checkpointing = (settings[name] for name in ("batch", "resolution", "gradient_checkpointing"))
    device = accelerator.device.type
    needed = memory_needed(unet, batch, resolution, checkpointing, OPTIMIZER_BYTES[settings["optimizer"]])
    if device == "cpu":  # there the weights are loaded already
        needed -= sum(one.numel() * one.element_size() for one in unet.parameters())
    helps = ["--batch 1 with --accumulate"] if batch > 1 else []
    helps += [] if checkpointing else ["--gradient-checkpointing"]
    helps += [f"--resolution {max(64, resolution * 3 // 4 // 64 * 64)}", "a smaller --rank"]
    demand_memory(needed, memory_free(device), "This training", f"What helps: {', '.join(helps)}.")


def make_optimizer(unet: Any, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW over the LoRA, with 8-bit states where that was chosen (Dettmers et al. 2021, arXiv 2110.02861)."""
    import torch

    parameters = [one for one in unet.parameters() if one.requires_grad]
    options = {"lr": settings["learning_rate"], "weight_decay": WEIGHT_DECAY}
    if settings["optimizer"] == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, **options)


# The loop


def train(job: Job) -> None:
    """All epochs that are left. Raises KeyboardInterrupt after saving, when it was asked to stop."""
    from utils.processes import StopRequests, from_main

    done, first_step, losses = resume(job)
    if done == 0 and first_step == 0 and job.held_out:
        job.log.validation_loss_before = from_main(job.accelerator, lambda: validation_loss(job))
    with StopRequests() as stop:
        for epoch in range(done + 1, job.settings["epochs"] + 1):
            started = time.monotonic()
            losses, stopped = train_epoch(job, epoch, first_step, losses, stop)
            if stopped:
                save_stopped(job, epoch, losses)
                raise KeyboardInterrupt
            finish_epoch(job, epoch, losses, time.monotonic() - started)
            first_step, losses = 0, []
    finish(job)


def train_epoch(
    job: Job, epoch: int, first_step: int, losses: list[float], stop: StopRequests
) -> tuple[list[float], bool]:
    """(loss of every step of the epoch so far, whether it was stopped)"""
    from utils.noising import epoch_batches, learning_rate_factor, share_of
    from utils.processes import progress_in_main

    settings, accelerator = job.settings, job.accelerator
    buckets = [job.examples[place].bucket_wh for place in job.samples]
    batches = epoch_batches(buckets, settings["batch"], settings["seed"], "order", epoch)
    steps = share_of(batches, accelerator.process_index, accelerator.num_processes, settings["accumulate"])
    made = list(losses)
    stopped = False
    with progress_in_main(accelerator, "steps") as (add, advance):
        task = add(f"Epoch {epoch} of {settings['epochs']}", len(steps) - first_step)
        for step in range(first_step, len(steps)):
            overall = (epoch - 1) * len(steps) + step
            factor = learning_rate_factor(overall, settings["steps"], settings["warmup_steps"])
            for group in job.optimizer.param_groups:
                group["lr"] = settings["learning_rate"] * factor
            made.append(train_step(job, steps[step], (epoch, step)))
            job.log.steps = overall + 1
            advance(task)
            stopped = step + 1 < len(steps) and stop.anywhere(accelerator)
            if stopped:
                break
    return numbers_of(made), stopped


def train_step(job: Job, group: list[list[int]], when: tuple[int, int]) -> torch.Tensor:
    """One step of the optimizer over a group of batches; the mean loss over all processes."""
    accelerator, losses = job.accelerator, []
    for place, batch in enumerate(group):
        is_last = place + 1 == len(group)
        with nullcontext() if is_last else accelerator.no_sync(job.unet):  # gradients are exchanged once a step
            loss = loss_of(job, batch, (*when, place, accelerator.process_index))
            accelerator.backward(loss / len(group))
        losses.append(loss.detach())
    accelerator.clip_grad_norm_(list(job.trained.values()), LARGEST_GRADIENT)
    job.optimizer.step()
    job.optimizer.zero_grad()
    mean = sum(losses) / len(losses)
    return accelerator.reduce(mean, "mean") if accelerator.num_processes > 1 else mean


def loss_of(job: Job, batch: list[int], when: tuple[int, ...]) -> torch.Tensor:
    """Weighted squared error of the U-Net's prediction for samples of one bucket, noised as drawn for this moment."""
    import torch

    from utils.noising import draw, min_snr_weights, target_of

    device, settings = job.accelerator.device, job.settings
    examples = [job.examples[job.samples[sample]] for sample in batch]
    latents = torch.stack([one.latents for one in examples])
    timesteps = job.schedule.config.num_train_timesteps
    noise, at = draw(latents.shape, timesteps, settings["noise_offset"], settings["seed"], "noise", *when)
    latents, noise, at = latents.to(device), noise.to(device), at.to(device)
    prediction = predict(job, job.unet, examples, job.schedule.add_noise(latents, noise, at), at)
    errors = (prediction.float() - target_of(job.schedule, latents, noise, at)).square().mean(dim=(1, 2, 3))
    return (errors * min_snr_weights(job.schedule, at, settings["min_snr_gamma"])).mean()


def predict(job: Job, unet: Any, examples: list[Example], noisy: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The U-Net's output (B, C, H, W) for noisy latents at timesteps `at` (B,)."""
    import torch

    device = noisy.device
    embeds = torch.stack([one.prompt.embeds for one in examples]).to(device, job.dtype)
    added = None
    if examples[0].time_ids is not None:
        added = {
            "text_embeds": torch.stack([one.prompt.pooled for one in examples]).to(device, job.dtype),
            "time_ids": torch.stack([one.time_ids for one in examples]).to(device, job.dtype),
        }
    return unet(noisy.to(job.dtype), at, embeds, added_cond_kwargs=added, return_dict=False)[0]


def validation_loss(job: Job) -> float:
    """Mean squared error on held-out pictures, always at the same noise and timesteps (VALIDATION_TIMES)."""
    import torch

    from utils.noising import draw, target_of

    unet, device, errors = job.bare_unet, job.accelerator.device, []
    timesteps = job.schedule.config.num_train_timesteps
    unet.eval()
    with torch.no_grad(), job.accelerator.autocast():
        for place, example in enumerate(job.held_out):
            latents = example.latents[None].to(device)
            for share in VALIDATION_TIMES:
                noise = draw(latents.shape, timesteps, 0.0, "validation", place, share)[0].to(device)
                at = torch.tensor([int(share * timesteps)], device=device)
                guess = predict(job, unet, [example], job.schedule.add_noise(latents, noise, at), at)
                errors.append((guess.float() - target_of(job.schedule, latents, noise, at)).square().mean())
    unet.train()
    return float(torch.stack(errors).mean())


def numbers_of(losses: list[torch.Tensor | float]) -> list[float]:
    """The losses as numbers. Raises UserError where they are none any more."""
    numbers = [float(loss) for loss in losses]
    if not all(math.isfinite(number) for number in numbers):
        step = next(place for place, number in enumerate(numbers) if not math.isfinite(number))
        raise UserError(
            f"The loss is no number any more from step {step + 1} of this epoch on. A lower --learning-rate helps, or "
            "--precision bf16; --overwrite begins anew."
        )
    return numbers


# Saving and resuming


def layers_of(job: Job) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> (down, up), float32 on the CPU."""
    from peft.utils import get_peft_model_state_dict

    state = {name: one.detach().float().cpu() for name, one in get_peft_model_state_dict(job.bare_unet).items()}
    down, up = ".lora_A.weight", ".lora_B.weight"
    modules = [name.removesuffix(down) for name in state if name.endswith(down)]
    return {module: (state[module + down], state[module + up]) for module in modules}


def write_lora(job: Job, path: Path) -> None:
    """The LoRA as it is now. Raises UserError."""
    from utils.training_files import header_of, lora_bytes

    header = header_of(job.log, job.how, job.output.name)
    with _writing(path):
        write_bytes_atomic(path, lora_bytes(layers_of(job), job.how, header))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the disk refuses, told as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Make room, then --resume.") from error


def save_state(job: Job, epochs: int, losses: list[float]) -> None:
    """All that the next step depends on: `epochs` are complete, and `losses` those of the next one's steps so far."""
    scaler = job.accelerator.scaler
    with _writing(job.output.state):
        job.output.write_state(
            {
                "settings": job.settings,
                "dataset": job.log.dataset_hash,
                "base_model": job.log.base_model,
                "epochs": epochs,
                "losses": losses,
                "lora": {name: one.detach().cpu() for name, one in job.trained.items()},
                "optimizer": job.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
                "log": job.log.model_dump_json(),
            }
        )
        job.output.write_log(job.log)


def resume(job: Job) -> tuple[int, int, list[float]]:
    """(complete epochs, steps made of the next one, their losses); the job as it was then. Raises UserError."""
    import torch

    from utils.contracts import TrainingLog
    from utils.processes import from_main

    state = from_main(job.accelerator, job.output.read_state)
    if state is None:
        return 0, 0, []
    from_main(job.accelerator, lambda: _demand_same(job, state))
    with torch.no_grad():
        for name, one in job.trained.items():
            one.copy_(state["lora"][name])
    job.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"] and job.accelerator.scaler:
        job.accelerator.scaler.load_state_dict(state["scaler"])
    job.log = TrainingLog.model_validate_json(state["log"])
    if job.accelerator.is_main_process:
        say(f"Resuming after epoch {state['epochs']}, step {len(state['losses'])} of the next.")
    return state["epochs"], len(state["losses"]), state["losses"]


def _demand_same(job: Job, state: dict[str, Any]) -> None:
    """Another dataset, model or setting would make another LoRA."""
    now = job.settings | {"dataset": job.log.dataset_hash, "base_model": job.log.base_model}
    then = state["settings"] | {"dataset": state["dataset"], "base_model": state["base_model"]}
    for name, value in now.items():
        if then.get(name) != value:
            seen = "" if name in ("dataset", "base_model") else f" ({then.get(name)} then, {value} now)"
            raise UserError(
                f"{job.output.folder} was begun with another {name}{seen}: --resume needs the same, "
                "--overwrite begins anew."
            )


def save_stopped(job: Job, epoch: int, losses: list[float]) -> None:
    """After Ctrl-C, in the middle of an epoch."""
    from utils.processes import from_main

    def save() -> None:
        write_lora(job, job.output.stopped(job.log.steps))
        save_state(job, epoch - 1, losses)
        say(f"Stopped in epoch {epoch}; everything is saved. The same command with --resume goes on.")

    from_main(job.accelerator, save)


def finish_epoch(job: Job, epoch: int, losses: list[float], seconds: float) -> None:
    """Checkpoint, held-out loss, samples, and last the state: whatever it names is there."""
    from utils.contracts import EpochLog
    from utils.processes import from_main

    def save() -> None:
        output = job.output
        record = EpochLog(
            epoch=epoch,
            losses=losses,
            loss=sum(losses) / len(losses),
            learning_rate=job.optimizer.param_groups[0]["lr"],
            validation_loss=validation_loss(job) if job.held_out else None,
            seconds=round(seconds, 3),
            checkpoint=output.checkpoint(epoch).name,
            samples=output.samples(epoch).relative_to(output.folder).as_posix() if job.sampler else None,
        )
        job.log.epochs.append(record)
        job.log.gpu_memory_bytes = most_gpu_memory()
        write_lora(job, output.checkpoint(epoch))
        if job.sampler:
            with _writing(output.samples(epoch)):
                job.sampler.draw(job.accelerator, job.bare_unet, job.dtype, output.samples(epoch))
        save_state(job, epoch, [])
        held = "" if record.validation_loss is None else f", held-out pictures {record.validation_loss:.4f}"
        say(f"Epoch {epoch}: loss {record.loss:.4f}{held}, {output.checkpoint(epoch).name}")

    from_main(job.accelerator, save)


def most_gpu_memory() -> int | None:
    """Bytes that PyTorch reserved at most on this process's GPU; None on the CPU."""
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else None


def finish(job: Job) -> None:
    """The LoRA gets its name, the log says so, the state is not needed any more."""
    from utils.processes import from_main

    def save() -> None:
        write_lora(job, job.output.lora)
        job.log.finished, job.log.lora = True, job.output.lora.name
        with _writing(job.output.log):
            job.output.write_log(job.log)
            job.output.state.unlink(missing_ok=True)

    from_main(job.accelerator, save)


# Trainers that others made


def train_elsewhere(args: argparse.Namespace) -> int:
    """--trainer: write its configuration, start it where its path is given, and look at what it made."""
    from utils.trainers import COMMAND, run_trainer, set_up
    from utils.training_files import OutputFolder

    output = OutputFolder(args.output, args.name)
    order = order_of(args)
    output.prepare(False, args.overwrite)
    start = set_up(order)
    for file in start.files:
        print(f"written: {file}")
    if args.trainer != COMMAND and order.place is None:
        print(f"Nothing is trained yet. In the folder where {args.trainer} lies:\n{shlex.join(start.command)}")
        return EXIT_OK
    log = new_log(args, order.dataset, local_identity_of(args.base_model), order.settings)
    layers = run_trainer(start, args.output)
    with _writing(output.lora):
        write_bytes_atomic(output.lora, start.lora.read_bytes())
        log.finished, log.lora, log.trainer, log.steps = True, output.lora.name, args.trainer, order.settings["steps"]
        output.write_log(log)
    print(f"layers: {layers}\nlora: {output.lora}\nlog: {output.log}")
    return EXIT_OK


def order_of(args: argparse.Namespace) -> Order:
    """What the trainer is asked for. Raises UserError."""
    from utils.families import find_family
    from utils.pipelines import family_of_hub
    from utils.trainers import Order
    from utils.training_base import TRAINED_HERE, look_at_base

    if args.resume:
        raise UserError("--resume belongs to train_lora.py's own training; other trainers resume in ways of their own.")
    family = find_family(args.base_model, args.family) or family_of_hub(args.base_model)
    preset = PRESETS[args.preset or ("sd15" if family.name == "sd15" else "sdxl")]
    options = options_of(args, preset)
    prediction, zero_snr = args.prediction or "epsilon", bool(args.zero_terminal_snr)
    if family.name in TRAINED_HERE and Path(args.base_model).expanduser().exists():
        facts = look_at_base(args.base_model, args.prediction, args.zero_terminal_snr, args.base_config)
        prediction, zero_snr = facts.prediction, facts.zero_snr
    dataset = read_pictures(args)
    for warning in dataset.warnings:
        say(f"Note: {warning}")
    epochs = args.epochs or recommended_epochs(len(dataset.images), dataset.samples)
    steps = epochs * math.ceil(math.ceil(dataset.samples / options["batch"]) / options["accumulate"])
    settings = options | {
        "epochs": epochs,
        "steps": steps,
        "warmup_steps": round(options["warmup"] * steps),
        "prediction": prediction,
        "zero_terminal_snr": zero_snr,
        "save_precision": args.save_precision,
    }
    place = args.trainer_path.resolve() if args.trainer_path else None
    return Order(
        trainer=args.trainer,
        dataset=dataset,
        base_model=args.base_model,
        family=family,
        trigger=args.trigger,
        output=args.output,
        name=args.name,
        settings=settings,
        place=place,
        command=args.trainer_command,
        extra=dict(args.trainer_option or []),
    )


def local_identity_of(model: str) -> str:
    """name@hash of a model on this disk, else its name."""
    from utils.pipelines import local_identity

    return local_identity(model) or model


# The story


def run(args: argparse.Namespace) -> int:
    """What the options ask for."""
    if args.dry_run:
        return show_plan(args)
    if args.trainer:
        return train_elsewhere(args)
    try:
        return train_here(args)
    except UserError:
        if os.environ.get("RANK", "0") != "0":  # of several processes, which all find the same, the first one says it
            return EXIT_USER
        raise


def train_here(args: argparse.Namespace) -> int:
    """The whole job, top to bottom; what can be refused before the libraries are loaded comes first."""
    from utils.training_base import look_at_base

    facts = look_at_base(args.base_model, args.prediction, args.zero_terminal_snr, args.base_config)
    preset_of(args, facts.family.name)
    dataset = read_pictures(args)
    from utils.pipelines import quiet
    from utils.processes import from_main, start_accelerator

    with quiet():
        accelerator = start_accelerator(args.device, args.precision)
        finished = from_main(accelerator, lambda: _finished_before(args))
        if finished is None:
            with _enough_memory():
                job = build_job(args, accelerator, facts, dataset)
                train(job)
        if accelerator.is_main_process:
            print(f"lora: {finished}") if finished else tell(job)
        accelerator.end_training()
    return EXIT_OK


def _finished_before(args: argparse.Namespace) -> Path | None:
    """With --resume, the LoRA of a training that is finished already."""
    from utils.contracts import ContractError, TrainingLog, read_contract
    from utils.training_files import OutputFolder

    output = OutputFolder(args.output, args.name)
    if not args.resume or output.state.exists() or not output.lora.exists():
        return None
    try:
        finished = read_contract(output.log, TrainingLog, "train_lora.py").finished
    except ContractError as error:
        raise UserError(f"There is nothing to resume: {error}") from error
    if finished:
        say(f"The training in {args.output} is finished already.")
    return output.lora if finished else None


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Too little memory, found out only while working, told as a UserError."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            "Memory ran out. What helps: --batch 1 with --accumulate, --gradient-checkpointing, a smaller --resolution "
            "or --rank; other programs on the GPU take theirs."
        ) from error


def tell(job: Job) -> None:
    """The end of a run, on stdout."""
    first, last = job.log.epochs[0].loss, job.log.epochs[-1].loss
    print(f"steps: {job.log.steps}\nloss: {first:.4f} in the first epoch, {last:.4f} in the last")
    if job.log.validation_loss_before is not None:
        after = job.log.epochs[-1].validation_loss
        print(f"held-out pictures: {job.log.validation_loss_before:.4f} before, {after:.4f} after")
    print(f"lora: {job.output.lora}\nlog: {job.output.log}")


_PRESET_HELP = (
    "settings (default: those of the base model's family). zit is Animagine XL, an SDXL model; Z-Image, which others "
    "call ZIT, is trained by --trainer ai-toolkit"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = argparse.ArgumentParser(
        prog="train_lora.py",
        description=__doc__.split("\n\n")[0],
        epilog="Exit codes: 0 done; 2 something to change (one sentence says what), 1 our fault, 130 interrupted. "
        "Presets, with a source for each value, stand in utils/presets.py.",
        formatter_class=_Help,
    )
    add = parser.add_argument
    add("dataset", type=_path, metavar="DATASET", help="pictures with captions, or folders of them named 10_name")
    add("--base-model", required=True, metavar="M", help="diffusers folder, hub id, or .safetensors file")
    add("--base-config", type=_path, metavar="DIR", help="configuration of a single file, for use without a network")
    add("--output", type=_path, required=True, metavar="DIR", help="gets LoRA, checkpoints and log")
    add("--trigger", type=_words, required=True, metavar="WORDS", help='what calls the person: "ohwx alice"')
    add("--name", type=_name, metavar="NAME", help="of the checkpoints (default: the trigger, ohwx_alice)")
    add("--preset", choices=tuple(PRESETS), help=_PRESET_HELP)
    training = parser.add_argument_group("training (defaults: the preset's)")
    add = training.add_argument
    add("--epochs", type=_count, metavar="N", help="(default: recommended by the size of the dataset)")
    add("--repeats", type=_count, default=REPEATS, metavar="N", help="for pictures in folders without a number")
    add("--rank", type=_count, metavar="R", help="width of the LoRA")
    add("--alpha", type=_positive, metavar="A", help="the LoRA is scaled by alpha / rank; half of --rank, if given")
    add("--learning-rate", type=_positive, metavar="LR", help="at its highest, after the warm-up")
    add("--warmup", type=_share, metavar="SHARE", help="of all steps, over which the learning rate rises")
    add("--batch", type=_count, metavar="N", help="pictures a step and process")
    add("--accumulate", type=_count, default=1, metavar="N", help="batches whose gradients make one step")
    add("--resolution", type=_resolution, metavar="PIXELS", help="side of the square whose area pictures get")
    add("--min-snr-gamma", type=_amount, metavar="G", help="weighting of the losses; 0 is none")
    add("--noise-offset", type=_amount, metavar="O", help="0 is none, as for bases of zero terminal SNR")
    add("--seed", type=int, default=42, metavar="N", help="of everything that is drawn")
    add("--optimizer", choices=("auto", "adamw", "adamw8bit"), default="auto", help="auto: 8 bits with bitsandbytes")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="auto: bf16 or fp16 on a GPU, else fp32")
    add("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True, help="less memory, slower")
    add("--prediction", choices=("epsilon", "v_prediction"), help="what the base model predicts (default: as it says)")
    add(
        "--zero-terminal-snr",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the base model's noise ends in pure noise (default: as it says)",
    )
    add("--validation", type=_path, metavar="DIR", help="held-out pictures: their loss is measured after every epoch")
    results = parser.add_argument_group("results")
    add = results.add_argument
    add("--sample-prompts", type=_path, metavar="FILE", help="one prompt a line, drawn after every epoch")
    add("--sample-seeds", type=_count, default=1, metavar="N", help="pictures of each prompt, seeds from --seed on")
    add("--sample-steps", type=_count, default=30, metavar="N", help="of denoising")
    add(
        "--format",
        choices=("kohya", "diffusers"),
        default="kohya",
        help="key names: kohya's load in diffusers, ComfyUI and A1111",
    )
    add("--save-precision", choices=tuple(PRECISIONS), default="fp16", help="of the LoRA files")
    add("--resume", action="store_true", help="go on with the training in --output, or begin one")
    add("--overwrite", action="store_true", help="delete an earlier training in --output")
    add("--dry-run", action="store_true", help="print the plan and load nothing; faces are not looked for")
    elsewhere = parser.add_argument_group("trainers that others made")
    add = elsewhere.add_argument
    add("--trainer", choices=TRAINERS, help="write its configuration, and run it where its path is given")
    add("--trainer-path", type=_path, metavar="DIR", help="where sd-scripts or ai-toolkit was installed")
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
    add("--family", choices=tuple(FAMILIES), help="what the base model is (default: as its files say)")
    others = parser.add_argument_group("pictures and machine")
    add = others.add_argument
    add("--models-dir", type=_path, default=MODELS_FOLDER, metavar="DIR", help="where model packs lie")
    add(
        "--pack",
        metavar="NAME|DIR",
        help=f"InsightFace model pack that finds the faces (default: {PACK}, if it is there)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes an NVIDIA GPU where there is one")
    add("--max-megapixels", type=_positive, default=MAX_MEGAPIXELS, metavar="MP", help="larger pictures are left out")
    add("--cache", type=_path, default=CACHE_FILE, metavar="FILE", help="faces and hashes; may be deleted at any time")
    add("--no-cache", action="store_true", help="measure everything anew and keep nothing")
    add("--debug", action="store_true", help="show the traceback of an unexpected error")
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    args = parser.parse_args(argv)
    args.name = args.name or _name(args.trigger)
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    if args.family and not args.trainer:
        parser.error("--family belongs to --trainer")
    return args


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but none that the option says in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default in (None, ()) or isinstance(action, argparse._StoreTrueAction)
        return action.help if said else super()._get_help_string(action)


def _path(text: str) -> Path:
    return Path(text).expanduser()  # not every shell does it


def _words(text: str) -> str:
    words = " ".join(text.split())
    if not words:
        raise argparse.ArgumentTypeError("it is empty")
    return words


def _option(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key.replace("_", "").isalnum():
        raise argparse.ArgumentTypeError(f"{text!r} is not like key=value")
    return key, value


def _name(text: str) -> str:
    """A file name that every system takes."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text.strip()).strip(".")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} gives no file name")
    return name


def _number(text: str, lowest: float, highest: float = math.inf, kind: type = float) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not lowest <= number <= highest or number == math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest:g} to {highest:g}")
    return number


def _count(text: str) -> int:
    return _number(text, 1, 1_000_000, int)


def _positive(text: str) -> float:
    return _number(text, 1e-12, 1e6)


def _amount(text: str) -> float:
    return _number(text, 0, 1e6)


def _share(text: str) -> float:
    return _number(text, 0, 1)


def _resolution(text: str) -> int:
    pixels = _number(text, 64, 4096, int)
    if pixels % 8:
        raise argparse.ArgumentTypeError(f"{pixels} is not a multiple of 8")
    return pixels


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP)


if __name__ == "__main__":
    sys.exit(main())
