"""The training itself: epochs, steps of the optimizer, losses, and the pictures that are held out.

The order of batches, noise and timesteps follow from (seed, epoch, step, process), see mirror/training/noising.py: a
training that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mirror.contracts.training import EpochLog
from mirror.training.base import Example
from mirror.training.files import writing
from mirror.training.job import Job
from mirror.training.noising import (
    epoch_batches,
    learning_rate_factor,
    min_snr_weights,
    sample_noise,
    share_of,
    target_of,
)
from mirror.training.processes import StopRequests, in_main_process, progress_in_main
from mirror.training.state import finish, resume, save_state, save_stopped, write_lora
from utils.console import UserError, say

if TYPE_CHECKING:
    import torch

LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped, kohya's default (--max_grad_norm)
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the schedule at which held-out pictures are looked at


def train(job: Job) -> None:
    """All epochs that are left. Raises KeyboardInterrupt after saving, when it was asked to stop."""
    epochs = job.settings["epochs"]
    done, losses = resume(job) or begin(job)
    with StopRequests(job.accelerator.is_main_process) as stop:
        for epoch in range(done + 1, epochs + 1):
            started = time.monotonic()
            losses, stopped = train_epoch(job, epoch, losses, stop)
            if stopped:
                save_stopped(job, epoch, losses)
                raise KeyboardInterrupt
            finish_epoch(job, epoch, losses, time.monotonic() - started)
            losses = []
            if epoch < epochs and stop.anywhere(job.accelerator):
                if job.accelerator.is_main_process:
                    say(f"Stopped after epoch {epoch}; everything is saved. The same command with --resume goes on.")
                raise KeyboardInterrupt
    finish(job)


def begin(job: Job) -> tuple[int, list[float]]:
    """Nothing is left that could be refused: now an earlier training may go. A state is there from here on."""

    def save() -> None:
        if job.held_out:
            job.log.validation_loss_before = validation_loss(job)
        if job.overwrite:
            job.output.clear()
        save_state(job, 0, [])

    in_main_process(job.accelerator, save)
    return 0, []


def train_epoch(job: Job, epoch: int, losses: list[float], stop: StopRequests) -> tuple[list[float], bool]:
    """(loss of every step of the epoch, with those made before; whether it was stopped)"""
    settings, accelerator, first_step = job.settings, job.accelerator, len(losses)
    buckets = [job.examples[index].bucket_wh for index in job.samples]
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
    for index, batch in enumerate(group):
        is_last = index + 1 == len(group)
        with nullcontext() if is_last else accelerator.no_sync(job.unet):  # gradients are exchanged once a step
            loss = loss_of(job, batch, (*when, index, accelerator.process_index))
            accelerator.backward(loss / len(group))
        losses.append(loss.detach())
    accelerator.clip_grad_norm_(list(job.trained.values()), LARGEST_GRADIENT)
    job.optimizer.step()
    job.optimizer.zero_grad()
    mean = sum(losses) / len(losses)
    return accelerator.reduce(mean, "mean") if accelerator.num_processes > 1 else mean


def loss_of(job: Job, batch: list[int], when: tuple[int, ...]) -> torch.Tensor:
    """Weighted squared error of the U-Net's prediction for samples of one bucket, with the noise of this step."""
    import torch

    device, settings = job.accelerator.device, job.settings
    examples = [job.examples[job.samples[sample]] for sample in batch]
    latents = torch.stack([one.latents for one in examples])
    timesteps = job.schedule.config.num_train_timesteps
    noise, at = sample_noise(latents.shape, timesteps, settings["noise_offset"], settings["seed"], "noise", *when)
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
    """Mean squared error on held-out pictures, always at the same noise and timesteps (VALIDATION_TIMES).

    Raises UserError where it is not a number.
    """
    import torch

    unet, device, errors = job.bare_unet, job.accelerator.device, []
    timesteps = job.schedule.config.num_train_timesteps
    unet.eval()
    with torch.no_grad(), job.accelerator.autocast():
        for index, example in enumerate(job.held_out):
            latents = example.latents[None].to(device)
            for share in VALIDATION_TIMES:
                noise = sample_noise(latents.shape, timesteps, 0.0, "validation", index, share)[0].to(device)
                at = torch.tensor([int(share * timesteps)], device=device)
                guess = predict(job, unet, [example], job.schedule.add_noise(latents, noise, at), at)
                errors.append((guess.float() - target_of(job.schedule, latents, noise, at)).square().mean())
    unet.train()
    loss = float(torch.stack(errors).mean())
    if not math.isfinite(loss):
        helps = "A lower --learning-rate helps, or --precision bf16; --overwrite begins anew."
        if not job.log.steps:
            helps = f"{job.log.base_model} itself does not work in {job.settings['precision']}: try --precision bf16."
        raise UserError(f"The loss of the held-out pictures is not a number (NaN) after {job.log.steps} steps. {helps}")
    return loss


def numbers_of(losses: list[torch.Tensor | float]) -> list[float]:
    """The losses as numbers. Raises UserError where they are none any more."""
    numbers = [float(loss) for loss in losses]
    if not all(math.isfinite(number) for number in numbers):
        step = next(index for index, number in enumerate(numbers) if not math.isfinite(number))
        raise UserError(
            f"The loss is not a number (NaN) from step {step + 1} of this epoch on. A lower --learning-rate helps, or "
            "--precision bf16; --overwrite begins anew."
        )
    return numbers


def finish_epoch(job: Job, epoch: int, losses: list[float], seconds: float) -> None:
    """Checkpoint, held-out loss, samples, and last the state: whatever it names is there."""

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
            with writing(output.samples(epoch)):
                job.sampler.generate(job.accelerator, job.bare_unet, job.dtype, output.samples(epoch))
        save_state(job, epoch, [])
        held = "" if record.validation_loss is None else f", held-out pictures {record.validation_loss:.4f}"
        say(f"Epoch {epoch}: loss {record.loss:.4f}{held}, {output.checkpoint(epoch).name}")

    in_main_process(job.accelerator, save)


def most_gpu_memory() -> int | None:
    """Bytes that PyTorch reserved at most on this process's GPU; None on the CPU."""
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else None
