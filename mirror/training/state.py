"""Saving a training and going on with it: checkpoints, the state of the optimizer, and what must be as it was.

A state is written before the first step and after every epoch, whole or not at all, and last of what an epoch leaves:
whatever it names is there. Nothing that is broken is written over what was whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.contracts.contract import ContractError, read_contract
from mirror.contracts.training import TrainingLog
from mirror.generation.lora_files import safetensors_bytes
from mirror.training.files import OutputFolder, demand_learned, header_of, lora_tensors, writing
from mirror.training.job import Job
from mirror.training.processes import in_main_process
from utils.console import UserError, say
from utils.files import write_bytes_atomic

if TYPE_CHECKING:
    import torch

# What follows from the rest is compared last, so that a refusal names the cause.
_DERIVED = ("crops", "epochs", "steps", "warmup_steps")
_WORDS = {
    "dataset": "dataset (pictures, captions or repeats)",
    "base_model": "base model",
    "crops": "cropping of the pictures (is the same model pack there?)",
    "epochs": "number of epochs",
}
_HASHES = ("dataset", "crops")  # say nothing to a reader


def layers_of(job: Job) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> (down, up), float32 on the CPU."""
    from peft.utils import get_peft_model_state_dict

    state = {name: one.detach().float().cpu() for name, one in get_peft_model_state_dict(job.bare_unet).items()}
    down, up = ".lora_A.weight", ".lora_B.weight"
    modules = [name.removesuffix(down) for name in state if name.endswith(down)]
    return {module: (state[module + down], state[module + up]) for module in modules}


def write_lora(job: Job, path: Path, last: bool = False) -> None:
    """The LoRA as it is now. Raises UserError where it is broken, or `last` and has learned nothing."""
    tensors = lora_tensors(layers_of(job), job.how)
    if last:
        demand_learned(tensors)
    with writing(path):
        write_bytes_atomic(path, safetensors_bytes(tensors, header_of(job.log, job.how, job.output.name)))


def save_state(job: Job, epochs: int, losses: list[float]) -> None:
    """All that the next step depends on: `epochs` are complete, and `losses` those of the next one's steps so far."""
    scaler = job.accelerator.scaler
    with writing(job.output.state):
        job.output.write_state(
            {
                "epochs": epochs,
                "losses": losses,
                "lora": {name: one.detach().cpu() for name, one in job.trained.items()},
                "optimizer": job.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
                "log": job.log.model_dump_json(),
            }
        )
        job.output.write_log(job.log)


def resume(job: Job) -> tuple[int, list[float]] | None:
    """(complete epochs, losses of the next one's steps); the job as it was then. None: nothing is there.

    Raises UserError for a training of other settings.
    """
    import torch

    state = in_main_process(job.accelerator, job.output.read_state)
    if state is None:
        return None
    log = TrainingLog.model_validate_json(state["log"])
    in_main_process(job.accelerator, lambda: demand_same(job.output, log, job.log))
    with torch.no_grad():
        for name, one in job.trained.items():
            one.copy_(state["lora"][name])
    job.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"] and job.accelerator.scaler:
        job.accelerator.scaler.load_state_dict(state["scaler"])
    job.log = log
    if job.accelerator.is_main_process:
        say(f"Resuming after epoch {state['epochs']}, step {len(state['losses'])} of the next.")
    return state["epochs"], state["losses"]


def earlier_training(output: OutputFolder) -> TrainingLog | None:
    """The log of the training that --resume goes on with, or finds finished; None where nothing is there.

    Raises UserError where what is left cannot be gone on with.
    """
    state = output.read_state()
    if state is not None:
        return TrainingLog.model_validate_json(state["log"])
    taken = output.taken()
    if not taken:
        return None
    if output.lora.exists() and output.log.exists():
        try:
            log = read_contract(output.log, TrainingLog, "train_lora.py")
        except ContractError as error:
            raise UserError(f"There is nothing to resume: {error}") from error
        if log.finished:
            return log
    raise UserError(
        f"{output.folder} holds {taken[0].name}, but no {output.state.name} to go on from: --overwrite begins anew, "
        "another --output leaves it."
    )


def demand_same(output: OutputFolder, then: TrainingLog, now: TrainingLog) -> None:
    """Raise UserError where dataset, model or settings are others than then: they would make another LoRA."""
    before, after = _identity(then), _identity(now)
    for name in sorted(before.keys() | after.keys(), key=lambda name: _rank(name, after)):
        old, new = before.get(name), after.get(name)
        if old == new or (name == "base_model" and "@" not in new and old.startswith(f"{new}@")):
            continue  # of a model on the hub the hash is known only when it is loaded
        seen = "" if name in _HASHES else f" ({old} then, {new} now)"
        word = _WORDS.get(name, name)
        if then.finished:
            raise UserError(
                f"The training in {output.folder} is finished, with another {word}{seen}: its learning rate has fallen "
                "to 0, so nothing is left to go on with. Another --output begins a new one, --overwrite deletes this."
            )
        raise UserError(
            f"{output.folder} was begun with another {word}{seen}: --resume needs the same, --overwrite begins anew."
        )


def _identity(log: TrainingLog) -> dict[str, Any]:
    facts = {"trigger": log.trigger, "name": None, "dataset": log.dataset_hash, "base_model": log.base_model}
    return facts | log.settings


def _rank(name: str, names: dict[str, Any]) -> tuple[bool, int]:
    return name in _DERIVED, list(names).index(name) if name in names else len(names)


def save_stopped(job: Job, epoch: int, losses: list[float]) -> None:
    """After Ctrl-C, in the middle of an epoch."""

    def save() -> None:
        write_lora(job, job.output.stopped(job.log.steps))
        save_state(job, epoch - 1, losses)
        say(f"Stopped in epoch {epoch}; everything is saved. The same command with --resume goes on.")

    in_main_process(job.accelerator, save)


def finish(job: Job) -> None:
    """The LoRA gets its name, the log says so, the state is not needed any more."""

    def save() -> None:
        write_lora(job, job.output.lora, last=True)
        job.log.finished, job.log.lora = True, job.output.lora.name
        with writing(job.output.log):
            job.output.write_log(job.log)
            job.output.state.unlink(missing_ok=True)

    in_main_process(job.accelerator, save)
