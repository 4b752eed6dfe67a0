"""Trainers that others made: their configuration written, started where they are, and what they leave checked.

kohya's sd-scripts (github.com/kohya-ss/sd-scripts) reads two TOML files: --config_file with its options, and in it
dataset_config (docs/config_README-en.md). ai-toolkit (github.com/ostris/ai-toolkit) reads one YAML file
(config/examples; toolkit/config_modules.py for names that these do not show). Any other program is started by a
command. The dataset is copied with captions that have the trigger, as every trainer would add it in another way. All
that a trainer is given and makes lies in a folder of ours, which a mark in it tells from other people's.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.generation.families import FAMILIES, Family
from mirror.generation.lora_files import check_lora
from mirror.training.presets import conv_alpha
from utils.captions import caption_of
from utils.console import UserError, say, shell_line
from utils.files import reason_of, write_bytes_atomic, write_text_atomic

if TYPE_CHECKING:  # slow ones are imported where they are used, so that train_lora.py --help is instant
    from mirror.training.data import TrainingImage, TrainingSet

_FLUX_FILES = ("clip_l", "t5xxl", "ae")  # beside the model itself, docs/flux_train_network.md
# What a distilled Z-Image is trained with, so that it stays distilled (its author's adapter).
_TURBO_ADAPTER = "ostris/zimage_turbo_training_adapter/zimage_turbo_training_adapter_v2.safetensors"
_KNOWN_SUFFIXES = (".jpg", ".jpeg", ".png")  # pictures that every trainer reads
_GIVEN = {"optimizer": "adamw8bit", "precision": "bf16"}  # to sd-scripts and ai-toolkit: our choice, for their GPUs
_OF_DIFFUSION = ("conv_rank", "min_snr_gamma", "noise_offset", "prediction", "zero_terminal_snr")


@dataclass(frozen=True)
class TrainerJob:
    """What a trainer is asked for. `settings` are those of a preset, with epochs, steps, seed, accumulate."""

    trainer: str
    dataset: TrainingSet
    base_model: str
    family: Family
    trigger: str
    folder: Path  # ours, for all that the trainer is given and makes
    name: str
    settings: dict[str, Any]
    trainer_folder: Path | None  # where the trainer was installed
    command: str | None  # of any other program
    extra: dict[str, str]  # options of the trainer's own


@dataclass(frozen=True)
class Start:
    """How a trainer is started, where its LoRA must be afterwards, and what it is given. Nothing is written yet."""

    command: list[str]
    folder: Path | None  # to start it in
    lora: Path
    texts: dict[Path, str]  # its configuration
    staged: dict[Path, list[TrainingImage]]  # folder -> pictures to be copied into it


@dataclass(frozen=True)
class Trainer:
    """A program that others made, and what differs from one to another; `TRAINERS`, at the end, has them all."""

    plan: Callable[[TrainerJob, dict[Path, list[TrainingImage]]], Start]
    cannot_take: tuple[str, ...] = ()  # settings of ours that it has no words for
    given: dict[str, str] = field(default_factory=dict)  # settings that are always the same
    needs_path: bool = True  # to be started

    def not_taken(self, family: Family) -> tuple[str, ...]:
        """Settings that do not reach it, and options that are refused."""
        return self.cannot_take if family.is_diffusion else (*_OF_DIFFUSION, *self.cannot_take)

    def settings(self, family: Family, settings: dict[str, Any]) -> dict[str, Any]:
        """Those of `settings` that reach it."""
        left_out = self.not_taken(family)
        return {name: value for name, value in settings.items() if name not in left_out} | self.given


def plan_start(trainer_job: TrainerJob) -> Start:
    """All that can be refused is refused here. Raises UserError."""
    staged: dict[Path, list[TrainingImage]] = {}
    names: dict[tuple[Path, int], Path] = {}
    for image in trainer_job.dataset.images:
        key = image.path.parent, image.repeats
        if key not in names:
            names[key] = _free_name(trainer_job, key[0], key[1], staged)
            staged[names[key]] = []
        staged[names[key]].append(image)
    _refuse_shared_names(staged)
    start = TRAINERS[trainer_job.trainer].plan(trainer_job, staged)
    for path, text in start.texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"A path in {path.name} is not UTF-8: rename that folder.") from error
    return start


def _refuse_shared_names(staged: dict[Path, list[TrainingImage]]) -> None:
    """Raise UserError where two pictures of a folder would have one caption file between them, and two captions."""
    for images in staged.values():
        first: dict[str, TrainingImage] = {}
        for image in images:
            other = first.setdefault(_copied_name(image.path).rpartition(".")[0].casefold(), image)
            if other.caption != image.caption:
                raise UserError(
                    f"{other.file} and {image.file} have different captions, and one name for the text file beside "
                    "them, as other trainers want it: rename one of the two."
                )


def _free_name(trainer_job: TrainerJob, parent: Path, repeats: int, taken: dict[Path, Any]) -> Path:
    """10_ohwx alice, as kohya's trainers name folders."""
    words = parent.name.partition("_")[2] if parent != trainer_job.dataset.folder else ""
    plain = trainer_job.folder / "dataset" / f"{repeats}_{words or 'pictures'}"
    if plain not in taken:
        return plain
    names = (plain.with_name(f"{plain.name} ({number})") for number in count(2))
    return next(name for name in names if name not in taken)


def refuse_overlap(dataset: Path, output: Path) -> None:
    """Raise UserError where pictures would be copied into their own folder, or lie among what is written."""
    source, target = dataset.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise UserError(
            f"--output {output} and the dataset {dataset} overlap (one folder is inside the other, or they are the "
            "same): choose another --output."
        )


def write_files(start: Start, folder: Path) -> None:
    """Make our folder, with its mark first, the copy of the dataset, and the configuration. Raises UserError."""
    from mirror.training.files import MARK, writing

    with writing(folder):
        folder.mkdir(exist_ok=True)
        write_text_atomic(folder / MARK, "train_lora.py made this folder, and --overwrite deletes it.\n")
        for target, images in start.staged.items():
            target.mkdir(parents=True)
            for image in images:
                write_text_atomic(caption_of(_copied(image.path, target)), image.caption + "\n")
        for path, text in start.texts.items():
            write_text_atomic(path, text)


def _copied_name(picture: Path) -> str:
    known = picture.suffix.lower() in _KNOWN_SUFFIXES
    return picture.name if known else f"{picture.stem}_{picture.suffix[1:].lower()}.png"


def _copied(picture: Path, folder: Path) -> Path:
    """A copy; as PNG what not every trainer reads, and what has transparent parts, under which trainers see garbage
    (github.com/kohya-ss/sd-scripts/issues/1269)."""
    import cv2

    from utils.decoding import ImageError, decode, is_opaque
    from utils.images import read_file

    copy = folder / _copied_name(picture)
    try:
        data = read_file(picture, math.inf)  # within the limit when the dataset was read
        if picture.suffix.lower() in _KNOWN_SUFFIXES and is_opaque(data):
            return Path(shutil.copyfile(picture, copy))
        pixels = decode(data)
    except ImageError as problem:  # it could be read before
        raise UserError(f"{picture} {problem.reason}: take it out of the dataset, or fetch it again.") from problem
    write_bytes_atomic(copy, cv2.imencode(".png", pixels)[1].tobytes())
    return copy


# kohya's sd-scripts


def _plan_sd_scripts(trainer_job: TrainerJob, staged: dict[Path, list[TrainingImage]]) -> Start:
    if trainer_job.family.sd_scripts is None:
        known = ", ".join(family.title for family in FAMILIES.values() if family.sd_scripts)
        raise UserError(
            f"sd-scripts is set up here for {known}, not for {trainer_job.family.title}: "
            f"--trainer ai-toolkit trains it."
        )
    script, _ = trainer_job.family.sd_scripts
    _demand_script(trainer_job.trainer_folder, script, "sd-scripts")
    dataset, config = trainer_job.folder / "dataset.toml", trainer_job.folder / "config.toml"
    texts = {dataset: _dataset_toml(trainer_job, staged), config: toml_lines(_sd_scripts_options(trainer_job, dataset))}
    trainer = trainer_job.trainer_folder or Path("sd-scripts")
    launch = ["-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1"]
    command = [
        _python_of(trainer_job.trainer_folder),
        *launch,
        str(trainer / script),
        "--config_file",
        str(config.resolve()),
    ]
    return Start(
        command, trainer_job.trainer_folder, trainer_job.folder / f"{trainer_job.name}.safetensors", texts, staged
    )


def _demand_script(folder: Path | None, script: str, trainer: str) -> None:
    if folder is not None and not (folder / script).is_file():
        raise UserError(f"--trainer-path {folder} is no {trainer}: it has no {script}.")


def _dataset_toml(trainer_job: TrainerJob, staged: dict[Path, list[TrainingImage]]) -> str:
    """--dataset_config, docs/config_README-en.md."""
    from mirror.dataset.buckets import bucket_step

    resolution = trainer_job.settings["resolution"]
    text = "[general]\n" + toml_lines({"caption_extension": ".txt", "enable_bucket": True})
    text += "\n[[datasets]]\n" + toml_lines(
        {
            "resolution": resolution,
            "batch_size": trainer_job.settings["batch"],
            "min_bucket_reso": resolution // 2,
            "max_bucket_reso": resolution * 2,
            "bucket_reso_steps": max(bucket_step(resolution), 32),
        }
    )
    for folder, images in staged.items():
        subset = {
            "image_dir": str(folder.resolve()),
            "num_repeats": images[0].repeats,
            "class_tokens": trainer_job.trigger,
        }
        text += "\n[[datasets.subsets]]\n" + toml_lines(subset)
    return text


def _sd_scripts_options(trainer_job: TrainerJob, dataset: Path) -> dict[str, Any]:
    """--config_file: option names as on the command line (docs/train_network.md and those of the families)."""
    settings, family = trainer_job.settings, trainer_job.family.name
    options = {
        "pretrained_model_name_or_path": _absolute(trainer_job.base_model),
        "dataset_config": str(dataset.resolve()),
        "output_dir": str(trainer_job.folder.resolve()),
        "output_name": trainer_job.name,
        "save_model_as": "safetensors",
        "save_precision": settings["save_precision"],
        "save_every_n_epochs": 1,
        "max_train_epochs": settings["epochs"],
        "network_module": trainer_job.family.sd_scripts[1],
        "network_dim": settings["rank"],
        "network_alpha": settings["alpha"],
        "network_train_unet_only": True,
        "learning_rate": settings["learning_rate"],
        "optimizer_type": "AdamW8bit",  # _GIVEN, in its own words
        "lr_scheduler": "cosine",
        "lr_warmup_steps": settings["warmup_steps"],
        "gradient_accumulation_steps": settings["accumulate"],
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "mixed_precision": _GIVEN["precision"],
        "sdpa": True,
        "cache_latents": True,
        "seed": settings["seed"],
        "training_comment": f"trigger: {trainer_job.trigger}",
    }
    if trainer_job.family.is_diffusion:
        options |= {name: settings[name] or None for name in ("min_snr_gamma", "noise_offset")}  # 0 is: without
        if rank := settings.get("conv_rank"):
            options["network_args"] = [f"conv_dim={rank}", f"conv_alpha={conv_alpha(settings):g}"]
        if settings["prediction"] == "v_prediction":
            options |= {"v_parameterization": True, "zero_terminal_snr": settings["zero_terminal_snr"]}
    if family == "sdxl":
        options |= {"cache_text_encoder_outputs": True, "no_half_vae": True}
    if family == "flux":
        lacking = [name for name in _FLUX_FILES if name not in trainer_job.extra]
        if lacking:
            asked = " ".join(f"--trainer-option {name}=FILE" for name in lacking)
            raise UserError(f"sd-scripts needs more files for Flux.1: {asked}")
        options |= {"guidance_scale": 1.0, "timestep_sampling": "flux_shift", "model_prediction_type": "raw"}
        options |= {"cache_text_encoder_outputs": True}
    return options | {name: _plain(value) for name, value in trainer_job.extra.items()}


def toml_lines(values: dict[str, Any]) -> str:
    """`key = value` lines; None is left out.

    Strings of JSON are strings of TOML where they are not escaped to surrogates, but for DEL, which TOML forbids.
    """
    kept = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None}
    return "".join(f"{key} = {text}\n".replace("\x7f", "\\u007f") for key, text in kept.items())


def _plain(text: str) -> Any:
    """A number or a truth where the text is one, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float)) and math.isfinite(value) else text


# ai-toolkit


def _plan_ai_toolkit(trainer_job: TrainerJob, staged: dict[Path, list[TrainingImage]]) -> Start:
    import yaml  # comes with accelerate

    _demand_script(trainer_job.trainer_folder, "run.py", "ai-toolkit")
    if trainer_job.settings.get("zero_terminal_snr"):
        raise UserError(
            "ai-toolkit has no option that we know of for models of zero terminal SNR: --trainer sd-scripts has one, "
            "and train_lora.py trains them itself."
        )
    if not trainer_job.family.ai_toolkit:
        raise UserError(f"ai-toolkit has no name that we know of for {trainer_job.family.title}: --trainer command.")
    config, made = trainer_job.folder / "config.yaml", trainer_job.folder / "ai-toolkit"
    text = yaml.safe_dump(_ai_toolkit_job(trainer_job, staged, made), sort_keys=False, allow_unicode=True)
    trainer = trainer_job.trainer_folder or Path("ai-toolkit")
    command = [_python_of(trainer_job.trainer_folder), str(trainer / "run.py"), str(config.resolve())]
    return Start(
        command,
        trainer_job.trainer_folder,
        made / trainer_job.name / f"{trainer_job.name}.safetensors",
        {config: text},
        staged,
    )


def _ai_toolkit_job(trainer_job: TrainerJob, staged: dict[Path, list[TrainingImage]], made: Path) -> dict[str, Any]:
    """A job as in its config/examples/train_lora_*.yaml."""
    settings, family = trainer_job.settings, trainer_job.family.name
    flow = not trainer_job.family.is_diffusion
    model: dict[str, Any] = {"name_or_path": _absolute(trainer_job.base_model), "arch": trainer_job.family.ai_toolkit}
    if flow:
        model |= {"quantize": True, "quantize_te": True}
    if family == "z-image" and "turbo" in trainer_job.base_model.lower():
        model["assistant_lora_path"] = _TURBO_ADAPTER
    network = {"type": "lora", "linear": settings["rank"], "linear_alpha": settings["alpha"]}
    if rank := settings.get("conv_rank"):
        network |= {"conv": rank, "conv_alpha": conv_alpha(settings)}
    of_diffusion: dict[str, Any] = {}
    if not flow:
        of_diffusion = {name: settings[name] for name in ("min_snr_gamma", "noise_offset") if settings[name]}
        model["is_v_pred"] = settings["prediction"] == "v_prediction"
    model |= {name: _plain(value) for name, value in trainer_job.extra.items()}
    process = {
        "type": "sd_trainer",
        "training_folder": str(made.resolve()),
        "training_seed": settings["seed"],
        "device": "cuda:0",
        "network": network,
        "save": {
            "dtype": {"fp16": "float16", "bf16": "bf16", "fp32": "float32"}[settings["save_precision"]],
            "save_every": max(1, settings["steps"] // settings["epochs"]),
            "max_step_saves_to_keep": settings["epochs"],
        },
        "datasets": [
            {
                "folder_path": str(folder.resolve()),
                "caption_ext": "txt",
                "num_repeats": images[0].repeats,
                "cache_latents_to_disk": True,
                "resolution": [settings["resolution"]],
            }
            for folder, images in staged.items()
        ],
        "train": {
            "batch_size": settings["batch"],
            "steps": settings["steps"],
            "gradient_accumulation": settings["accumulate"],
            "train_unet": True,
            "train_text_encoder": False,
            "gradient_checkpointing": settings["gradient_checkpointing"],
            "noise_scheduler": "flowmatch" if flow else "ddpm",
            "optimizer": _GIVEN["optimizer"],
            "lr": settings["learning_rate"],
            "lr_scheduler": "cosine",
            "dtype": _GIVEN["precision"],
            "disable_sampling": True,
            **of_diffusion,
        },
        "model": model,
    }
    return {
        "job": "extension",
        "config": {"name": trainer_job.name, "process": [process]},
        "meta": {"name": "[name]", "version": "1.0"},
    }


# Any other program


def _plan_command(trainer_job: TrainerJob, staged: dict[Path, list[TrainingImage]]) -> Start:
    """`--trainer-command` with {dataset} {base_model} {output} {lora} {name} {trigger} {config} filled in."""
    if not trainer_job.command:
        raise UserError('--trainer command needs --trainer-command "PROGRAM {dataset} ... {lora}".')
    config, lora = trainer_job.folder / "config.json", trainer_job.folder / f"{trainer_job.name}.safetensors"
    values = {
        "dataset": str((trainer_job.folder / "dataset").resolve()),
        "base_model": _absolute(trainer_job.base_model),
        "output": str(trainer_job.folder.resolve()),
        "lora": str(lora.resolve()),
        "name": trainer_job.name,
        "trigger": trainer_job.trigger,
        "config": str(config.resolve()),
    }
    try:
        command = [word.format_map(values) for word in split_command(trainer_job.command)]
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        known = " ".join(f"{{{name}}}" for name in values)
        raise UserError(f"--trainer-command cannot be filled in ({error}); it knows {known}.") from error
    if not command:
        raise UserError("--trainer-command is empty.")
    if shutil.which(command[0]) is None and not (trainer_job.trainer_folder or Path()).joinpath(command[0]).is_file():
        raise UserError(f"--trainer-command cannot be started: there is no program {command[0]}.")
    text = json.dumps(values | {"settings": trainer_job.settings} | trainer_job.extra, indent=2) + "\n"
    return Start(command, trainer_job.trainer_folder, lora, {config: text}, staged)


def split_command(text: str, windows: bool = os.name == "nt") -> list[str]:
    """The words of a command line. A backslash of Windows is part of a path, and quotes are taken off by us."""
    if not windows:
        return shlex.split(text)
    words = shlex.split(text, posix=False)
    return [word[1:-1] if len(word) > 1 and word[0] == word[-1] in ('"', "'") else word for word in words]


# Running it


def run_trainer(start: Start, folder: Path) -> int:
    """Start the trainer and wait; the number of layers of its LoRA. Raises UserError unless that is there and new."""
    from mirror.training.files import writing

    started = folder / ".started"
    with writing(started):
        write_bytes_atomic(started, b"")  # its time is of the same clock as the LoRA's
    try:
        say(f"Starting: {shell_line(start.command)}")
        try:
            done = subprocess.run(start.command, cwd=start.folder, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except OSError as error:
            raise UserError(f"{start.command[0]} cannot be started: {reason_of(error)}.") from error
        if done.returncode:
            raise UserError(f"The trainer ended with exit code {done.returncode}; see its output above.")
        if not start.lora.is_file():
            raise UserError(f"The trainer ended without an error, but there is no {start.lora}.")
        if start.lora.stat().st_mtime_ns < started.stat().st_mtime_ns:
            raise UserError(f"The trainer ended without an error, but {start.lora} is older than its start.")
    finally:
        started.unlink(missing_ok=True)
    return check_lora(start.lora)


def _python_of(folder: Path | None) -> str:
    """The Python of the trainer's own environment, where it has one."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    for name in ("venv", ".venv"):
        if folder is not None and (folder / name / inside).is_file():
            return str((folder / name / inside).absolute())
    return sys.executable if folder is not None else "python"


def _absolute(model: str) -> str:
    """Trainers are started in a folder of their own."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


# What --trainer offers.
TRAINERS = {
    "sd-scripts": Trainer(_plan_sd_scripts, given=_GIVEN),
    # it took no warm-up for its cosine until lately
    "ai-toolkit": Trainer(_plan_ai_toolkit, cannot_take=("warmup", "warmup_steps"), given=_GIVEN),
    "command": Trainer(_plan_command, needs_path=False),
}
