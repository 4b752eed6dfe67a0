"""Trainers that others made: their configuration written, started where they are, and what they leave checked.

kohya's sd-scripts (github.com/kohya-ss/sd-scripts) reads two TOML files: --config_file with its options, and in it
dataset_config (docs/config_README-en.md). ai-toolkit (github.com/ostris/ai-toolkit) reads one YAML file
(config/examples). Any other program is started by a command. The dataset is copied with captions that have the trigger,
as every trainer would add it in another way.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.console import UserError, say
from utils.families import Family
from utils.files import caption_of, write_bytes_atomic, write_text_atomic
from utils.images import decode, read_file
from utils.lora_files import check_lora
from utils.training_data import TrainingSet

SD_SCRIPTS, AI_TOOLKIT, COMMAND = "sd-scripts", "ai-toolkit", "command"
TRAINERS = (SD_SCRIPTS, AI_TOOLKIT, COMMAND)

# Family -> script of sd-scripts and its module for LoRA.
_SD_SCRIPTS = {
    "sdxl": ("sdxl_train_network.py", "networks.lora"),
    "sd15": ("train_network.py", "networks.lora"),
    "flux": ("flux_train_network.py", "networks.lora_flux"),
}
_FLUX_FILES = ("clip_l", "t5xxl", "ae")  # beside the model itself, docs/flux_train_network.md
# Family -> what ai-toolkit calls it.
_AI_TOOLKIT = {
    "sdxl": "sdxl",
    "sd15": "sd1",
    "flux": "flux",
    "flux2-klein": "flux2_klein_4b",
    "z-image": "zimage",
    "qwen-image": "qwen_image",
}
_DIFFUSION = ("sdxl", "sd15")  # the others learn by flow matching
# What a distilled Z-Image is trained with, so that it stays distilled (its author's adapter).
_TURBO_ADAPTER = "ostris/zimage_turbo_training_adapter/zimage_turbo_training_adapter_v2.safetensors"
_KNOWN_SUFFIXES = (".jpg", ".jpeg", ".png")  # pictures that every trainer reads


@dataclass(frozen=True)
class Order:
    """What a trainer is asked for. `settings` are those of a preset, with epochs, steps, seed, accumulate."""

    trainer: str
    dataset: TrainingSet
    base_model: str
    family: Family
    trigger: str
    output: Path
    name: str
    settings: dict[str, Any]
    place: Path | None  # where the trainer was installed
    command: str | None  # of any other program
    extra: dict[str, str]  # options of the trainer's own


@dataclass(frozen=True)
class Start:
    """How a trainer is started, and where its LoRA must be afterwards."""

    command: list[str]
    folder: Path | None  # to start it in
    lora: Path
    files: list[Path]  # that were written for it


def set_up(order: Order) -> Start:
    """Write the trainer's files. Raises UserError for a family that it does not train."""
    folders = stage_dataset(order.dataset, order.output / "dataset")
    if order.trainer == SD_SCRIPTS:
        return _set_up_sd_scripts(order, folders)
    if order.trainer == AI_TOOLKIT:
        return _set_up_ai_toolkit(order, folders)
    return _set_up_command(order)


def stage_dataset(dataset: TrainingSet, target: Path) -> list[tuple[Path, int]]:
    """Copy pictures and captions into `target`, which is made anew; its folders, and the repeats of each."""
    folders: dict[tuple[str, int], Path] = {}
    try:
        shutil.rmtree(target, ignore_errors=True)
        for image in dataset.images:
            parent = image.path.parent
            key = str(parent), image.repeats
            if key not in folders:
                words = parent.name.partition("_")[2] if parent != dataset.folder else "pictures"
                folders[key] = target / f"{image.repeats}_{words or 'pictures'}"
                folders[key].mkdir(parents=True)
            copy = _copied(image.path, folders[key])
            write_text_atomic(caption_of(copy), image.caption + "\n")
    except OSError as error:
        raise UserError(f"The dataset cannot be copied to {target}: {error.strerror or error}.") from error
    return [(folder, repeats) for (_, repeats), folder in folders.items()]


def _copied(picture: Path, folder: Path) -> Path:
    """A copy; of what not every trainer reads, as PNG."""
    if picture.suffix.lower() in _KNOWN_SUFFIXES:
        return Path(shutil.copy(picture, folder / picture.name))
    import cv2

    copy = folder / f"{picture.stem}_{picture.suffix[1:].lower()}.png"
    pixels = decode(read_file(picture))
    write_bytes_atomic(copy, cv2.imencode(".png", pixels)[1].tobytes())
    return copy


# kohya's sd-scripts


def _set_up_sd_scripts(order: Order, folders: list[tuple[Path, int]]) -> Start:
    if order.family.name not in _SD_SCRIPTS:
        raise UserError(
            f"sd-scripts is set up here for SDXL, SD 1.5 and Flux.1, not for {order.family.title}: "
            f"--trainer ai-toolkit trains it."
        )
    script, _ = _SD_SCRIPTS[order.family.name]
    dataset, config = order.output / "dataset.toml", order.output / "config.toml"
    write_text_atomic(dataset, _dataset_toml(order, folders))
    write_text_atomic(config, toml_lines(_sd_scripts_options(order, dataset)))
    if order.place is not None and not (order.place / script).is_file():
        raise UserError(f"--trainer-path {order.place} is no sd-scripts: it has no {script}.")
    place = order.place or Path("sd-scripts")
    launch = ["-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1"]
    command = [_python_of(order.place), *launch, str(place / script), "--config_file", str(config.resolve())]
    return Start(command, order.place, order.output / f"{order.name}.safetensors", [dataset, config])


def _dataset_toml(order: Order, folders: list[tuple[Path, int]]) -> str:
    """--dataset_config, docs/config_README-en.md."""
    from utils.training_data import bucket_step

    resolution = order.settings["resolution"]
    text = "[general]\n" + toml_lines({"caption_extension": ".txt", "enable_bucket": True})
    text += "\n[[datasets]]\n" + toml_lines(
        {
            "resolution": resolution,
            "batch_size": order.settings["batch"],
            "min_bucket_reso": resolution // 2,
            "max_bucket_reso": resolution * 2,
            "bucket_reso_steps": max(bucket_step(resolution), 32),
        }
    )
    for folder, repeats in folders:
        subset = {"image_dir": str(folder.resolve()), "num_repeats": repeats, "class_tokens": order.trigger}
        text += "\n[[datasets.subsets]]\n" + toml_lines(subset)
    return text


def _sd_scripts_options(order: Order, dataset: Path) -> dict[str, Any]:
    """--config_file: option names as on the command line (docs/train_network.md and those of the families)."""
    settings, family = order.settings, order.family.name
    options = {
        "pretrained_model_name_or_path": _absolute(order.base_model),
        "dataset_config": str(dataset.resolve()),
        "output_dir": str(order.output.resolve()),
        "output_name": order.name,
        "save_model_as": "safetensors",
        "save_precision": settings["save_precision"],
        "save_every_n_epochs": 1,
        "max_train_epochs": settings["epochs"],
        "network_module": _SD_SCRIPTS[family][1],
        "network_dim": settings["rank"],
        "network_alpha": settings["alpha"],
        "network_train_unet_only": True,
        "learning_rate": settings["learning_rate"],
        "optimizer_type": "AdamW8bit",
        "lr_scheduler": "cosine",
        "lr_warmup_steps": settings["warmup_steps"],
        "gradient_accumulation_steps": settings["accumulate"],
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "mixed_precision": "bf16",
        "sdpa": True,
        "cache_latents": True,
        "seed": settings["seed"],
        "training_comment": f"trigger: {order.trigger}",
    }
    if family in _DIFFUSION:
        options |= {"min_snr_gamma": settings["min_snr_gamma"], "noise_offset": settings["noise_offset"]}
        if settings["prediction"] == "v_prediction":
            options |= {"v_parameterization": True, "zero_terminal_snr": settings["zero_terminal_snr"]}
    if family == "sdxl":
        options |= {"cache_text_encoder_outputs": True, "no_half_vae": True}
    if family == "flux":
        lacking = [name for name in _FLUX_FILES if name not in order.extra]
        if lacking:
            asked = " ".join(f"--trainer-option {name}=FILE" for name in lacking)
            raise UserError(f"sd-scripts needs more files for Flux.1: {asked}")
        options |= {"guidance_scale": 1.0, "timestep_sampling": "flux_shift", "model_prediction_type": "raw"}
        options |= {"cache_text_encoder_outputs": True}
    return options | {name: _plain(value) for name, value in order.extra.items()}


def toml_lines(values: dict[str, Any]) -> str:
    """`key = value` lines. Strings of JSON are strings of TOML."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if value is not None)


def _plain(text: str) -> Any:
    """A number or a truth where the text is one, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float)) else text


# ai-toolkit


def _set_up_ai_toolkit(order: Order, folders: list[tuple[Path, int]]) -> Start:
    import yaml  # comes with accelerate

    config = order.output / "config.yaml"
    job = _ai_toolkit_job(order, folders)
    write_text_atomic(config, yaml.safe_dump(job, sort_keys=False, allow_unicode=True))
    if order.place is not None and not (order.place / "run.py").is_file():
        raise UserError(f"--trainer-path {order.place} is no ai-toolkit: it has no run.py.")
    place = order.place or Path("ai-toolkit")
    command = [_python_of(order.place), str(place / "run.py"), str(config.resolve())]
    return Start(command, order.place, order.output / AI_TOOLKIT / order.name / f"{order.name}.safetensors", [config])


def _ai_toolkit_job(order: Order, folders: list[tuple[Path, int]]) -> dict[str, Any]:
    """A job as in its config/examples/train_lora_*.yaml."""
    settings, family = order.settings, order.family.name
    flow = family not in _DIFFUSION
    model: dict[str, Any] = {"name_or_path": _absolute(order.base_model), "arch": _AI_TOOLKIT[family]}
    if flow:
        model |= {"quantize": True, "quantize_te": True}
    if family == "z-image" and "turbo" in order.base_model.lower():
        model["assistant_lora_path"] = _TURBO_ADAPTER
    model |= {name: _plain(value) for name, value in order.extra.items()}
    process = {
        "type": "sd_trainer",
        "training_folder": str((order.output / AI_TOOLKIT).resolve()),
        "device": "cuda:0",
        "network": {"type": "lora", "linear": settings["rank"], "linear_alpha": settings["alpha"]},
        "save": {
            "dtype": {"fp16": "float16", "bf16": "bf16", "fp32": "float32"}[settings["save_precision"]],
            "save_every": max(1, settings["steps"] // settings["epochs"]),
            "max_step_saves_to_keep": settings["epochs"],
        },
        "datasets": [
            {
                "folder_path": str(folder.resolve()),
                "caption_ext": "txt",
                "num_repeats": repeats,
                "cache_latents_to_disk": True,
                "resolution": [settings["resolution"]],
            }
            for folder, repeats in folders
        ],
        "train": {
            "batch_size": settings["batch"],
            "steps": settings["steps"],
            "gradient_accumulation": settings["accumulate"],
            "train_unet": True,
            "train_text_encoder": False,
            "gradient_checkpointing": settings["gradient_checkpointing"],
            "noise_scheduler": "flowmatch" if flow else "ddpm",
            "optimizer": "adamw8bit",
            "lr": settings["learning_rate"],
            "dtype": "bf16",
            "disable_sampling": True,
        },
        "model": model,
    }
    return {
        "job": "extension",
        "config": {"name": order.name, "process": [process]},
        "meta": {"name": "[name]", "version": "1.0"},
    }


# Any other program


def _set_up_command(order: Order) -> Start:
    """`--trainer-command` with {dataset} {base_model} {output} {lora} {name} {trigger} {config} filled in."""
    if not order.command:
        raise UserError('--trainer command needs --trainer-command "PROGRAM {dataset} ... {lora}".')
    config, lora = order.output / "config.json", order.output / f"{order.name}.safetensors"
    values = {
        "dataset": str((order.output / "dataset").resolve()),
        "base_model": _absolute(order.base_model),
        "output": str(order.output.resolve()),
        "lora": str(lora.resolve()),
        "name": order.name,
        "trigger": order.trigger,
        "config": str(config.resolve()),
    }
    write_text_atomic(config, json.dumps(values | {"settings": order.settings} | order.extra, indent=2) + "\n")
    try:
        command = [word.format_map(values) for word in shlex.split(order.command)]
    except (KeyError, ValueError, IndexError) as error:
        known = " ".join(f"{{{name}}}" for name in values)
        raise UserError(f"--trainer-command cannot be filled in ({error}); it knows {known}.") from error
    return Start(command, order.place, lora, [config])


# Running it


def run_trainer(start: Start, output: Path) -> int:
    """Start the trainer and wait; the number of layers of its LoRA. Raises UserError unless that is there and new."""
    started = output / ".started"
    write_bytes_atomic(started, b"")  # its time is of the same clock as the LoRA's
    try:
        say(f"Starting: {shlex.join(start.command)}")
        try:
            done = subprocess.run(start.command, cwd=start.folder, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except OSError as error:
            raise UserError(f"{start.command[0]} cannot be started: {error.strerror or error}.") from error
        if done.returncode:
            raise UserError(f"The trainer ended with exit code {done.returncode}; what it said stands above.")
        if not start.lora.is_file():
            raise UserError(f"The trainer ended without an error, but there is no {start.lora}.")
        if start.lora.stat().st_mtime_ns < started.stat().st_mtime_ns:
            raise UserError(f"The trainer ended without an error, but {start.lora} is older than its start.")
    finally:
        started.unlink(missing_ok=True)
    return check_lora(start.lora)


def _python_of(place: Path | None) -> str:
    """The Python of the trainer's own environment, where it has one."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    for name in ("venv", ".venv"):
        if place is not None and (place / name / inside).is_file():
            return str((place / name / inside).absolute())
    return sys.executable if place is not None else "python"


def _absolute(model: str) -> str:
    """Trainers are started in a folder of their own."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model
