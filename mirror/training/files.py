"""What a training leaves in its output folder: checkpoints, the state to resume from, and the log.

lora.safetensors                 the LoRA, once it is finished
<name>-000005.safetensors        the LoRA after epoch 5, as kohya's trainers name it
<name>-step00000123.safetensors  the LoRA where Ctrl-C stopped the training
samples/<name>-000005/           pictures made with it
training_log.json                see mirror/contracts/
training_state.pt                all that --resume needs; gone when the training is finished
trainer/                         all that another trainer (--trainer) is given and makes, with a mark that it is ours
"""

from __future__ import annotations

import io
import json
import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.contracts.contract import write_contract
from mirror.contracts.training import TrainingLog
from mirror.generation.families import FAMILIES
from mirror.generation.lora_files import DIFFUSERS, Layers, diffusers_tensors, kohya_tensors
from mirror.training.presets import conv_alpha
from utils.console import UserError
from utils.files import disk_errors_as, write_bytes_atomic

if TYPE_CHECKING:
    import torch

LORA, LOG, STATE, SAMPLES, TRAINER = "lora.safetensors", "training_log.json", "training_state.pt", "samples", "trainer"
MARK = ".made_by_train_lora"  # in TRAINER: what lacks it is somebody else's folder, and is left alone
_STATE_VERSION = 2
_UP = (".lora_up.weight", ".lora_B.weight")  # ends of the names of tensors that begin at zero

_SGM, _DIFFUSERS = "https://github.com/Stability-AI/generative-models", "diffusers"


@dataclass(frozen=True)
class LoraFormat:
    """How LoRA files of a training are written."""

    name: str  # KOHYA or DIFFUSERS of mirror.generation.lora_files
    dtype: str  # float16, bfloat16 or float32
    family: str
    layers_per_block: int
    scale: float  # alpha / rank, for layers of any rank


class OutputFolder:
    """The files of one training, by the name that its checkpoints carry."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.name = name
        self.lora, self.log, self.state, self.trainer = (folder / one for one in (LORA, LOG, STATE, TRAINER))

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / f"{self.name}-{epoch:06d}.safetensors"

    def stopped(self, step: int) -> Path:
        return self.folder / f"{self.name}-step{step:08d}.safetensors"

    def samples(self, epoch: int) -> Path:
        return self.folder / SAMPLES / self.checkpoint(epoch).stem

    def taken(self) -> list[Path]:
        """What an earlier training of this name left."""
        pattern = re.compile(re.escape(self.name) + r"-(\d{6}|step\d{8})")
        found = [path for path in (self.lora, self.log, self.state) if path.exists()]
        if self.folder.is_dir():
            found += [path for path in self.folder.glob("*.safetensors") if pattern.fullmatch(path.stem)]
        if (self.folder / SAMPLES).is_dir():
            found += [path for path in (self.folder / SAMPLES).iterdir() if pattern.fullmatch(path.name)]
        if (self.trainer / MARK).is_file():
            found.append(self.trainer)
        return sorted(found)

    def demand_free(self, resume: bool, overwrite: bool) -> None:
        """Make the folder; raise UserError where results would be overwritten, or cannot be written."""
        taken = self.taken()
        if taken and not resume and not overwrite:
            raise UserError(
                f"{self.folder} holds {taken[0].name} of an earlier training: --resume goes on with it, "
                "--overwrite deletes it, another --output leaves it."
            )
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(self.folder / ".writable", b"")
            (self.folder / ".writable").unlink()

    def demand_place_for_trainer(self) -> None:
        """Raise UserError where the folder for another trainer's files is somebody else's."""
        if self.trainer.exists() and not (self.trainer / MARK).is_file():
            raise UserError(
                f"{self.trainer} is there already and was not made by train_lora.py, which would put its files there: "
                "choose another --output."
            )

    def clear(self) -> None:
        """Delete what an earlier training left: for --overwrite, when nothing is left to refuse."""
        for path in self.taken():
            with writing(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write_log(self, log: TrainingLog) -> None:
        write_contract(self.log, log)

    def write_state(self, state: dict[str, Any]) -> None:
        """Whole or not at all: a kill while it is written leaves the one before."""
        import torch

        buffer = io.BytesIO()
        torch.save({"version": _STATE_VERSION} | state, buffer)
        write_bytes_atomic(self.state, buffer.getbuffer())

    def read_state(self) -> dict[str, Any] | None:
        """None where there is none. Raises UserError for one that cannot be used."""
        import torch

        if not self.state.exists():
            return None
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)  # never runs code of the file
            known = isinstance(state, dict) and state.get("version") == _STATE_VERSION
        except Exception as error:  # torch, zipfile and pickle each have their own way to refuse a damaged file
            raise UserError(f"{self.state} is damaged ({error}): --overwrite begins anew.") from error
        if not known:
            raise UserError(f"{self.state} is of another version of train_lora.py: --overwrite begins anew.")
        return state


def writing(path: Path) -> AbstractContextManager[None]:
    """What the disk refuses, told as a UserError."""
    return disk_errors_as(f"{path} cannot be written")


def lora_tensors(layers: Layers, how: LoraFormat) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, rounded. Raises UserError where they are not numbers (any more)."""
    import torch

    dtype = getattr(torch, how.dtype)
    if how.name == DIFFUSERS:
        tensors = {name: one.to(dtype) for name, one in diffusers_tensors(layers, how.scale).items()}
    else:
        halves = {module: (down.to(dtype), up.to(dtype)) for module, (down, up) in layers.items()}
        tensors = kohya_tensors(halves, how.scale, how.family, how.layers_per_block)
    broken = next((name for name, one in tensors.items() if not bool(one.isfinite().all())), None)
    if broken is not None:
        raise UserError(
            f"The LoRA broke: {broken} holds values that are not numbers (NaN) in {how.dtype}. What was saved before "
            "is untouched. A lower --learning-rate helps, or another --save-precision; --overwrite begins anew."
        )
    return tensors


def demand_learned(tensors: dict[str, torch.Tensor]) -> None:
    """Raise UserError for a LoRA that changes nothing."""
    if not any(bool(one.any()) for name, one in tensors.items() if name.endswith(_UP)):
        raise UserError(
            "Nothing was learned: all up weights of the LoRA are zero, so it would change nothing. A higher "
            "--learning-rate helps, or --save-precision fp32; --overwrite begins anew."
        )


def header_of(log: TrainingLog, how: LoraFormat, name: str) -> dict[str, str]:
    """Metadata as kohya's trainers write them (ss_*), and as ModelSpec wants them.

    Times are left out, so that the same training gives the same bytes; the log has them.
    """
    settings, resolution = log.settings, log.settings["resolution"]
    rank = settings["rank"]
    sgm = how.family == "sdxl" and how.name != DIFFUSERS
    facts = {
        "ss_base_model_version": FAMILIES[how.family].base_version,
        "ss_sd_model_name": log.base_model,
        "ss_v2": False,
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank if how.name == DIFFUSERS else settings["alpha"],
        "ss_output_name": name,
        "ss_steps": log.steps,
        "ss_epoch": len(log.epochs),
        "ss_num_epochs": settings["epochs"],
        "ss_num_train_images": log.samples_per_epoch,
        "ss_num_reg_images": 0,
        "ss_learning_rate": settings["learning_rate"],
        "ss_unet_lr": settings["learning_rate"],
        "ss_optimizer": settings["optimizer"],
        "ss_lr_scheduler": "cosine",
        "ss_lr_warmup_steps": settings["warmup_steps"],
        "ss_batch_size_per_device": settings["batch"],
        "ss_gradient_accumulation_steps": settings["accumulate"],
        "ss_gradient_checkpointing": settings["gradient_checkpointing"],
        "ss_mixed_precision": settings["precision"],
        "ss_min_snr_gamma": settings["min_snr_gamma"],
        "ss_noise_offset": settings["noise_offset"],
        "ss_zero_terminal_snr": settings["zero_terminal_snr"],
        "ss_seed": settings["seed"],
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_cache_latents": True,
        "ss_enable_bucket": True,
        "ss_bucket_info": json.dumps({"buckets": log.buckets}),
        "ss_training_comment": f"dataset sha256 {log.dataset_hash}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": FAMILIES[how.family].architecture,
        "modelspec.implementation": _SGM if sgm else _DIFFUSERS,
        "modelspec.title": name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.trigger_phrase": log.trigger,
        "modelspec.prediction_type": "v" if settings["prediction"] == "v_prediction" else "epsilon",
        "mirrormetrics.dataset_hash": log.dataset_hash,
        "mirrormetrics.base_model": log.base_model,
    }
    if conv_rank := settings.get("conv_rank"):
        alpha = conv_rank if how.name == DIFFUSERS else conv_alpha(settings)
        facts["ss_network_args"] = json.dumps({"conv_dim": str(conv_rank), "conv_alpha": f"{alpha:g}"})
    return {key: str(value) for key, value in facts.items()}
