"""What workflows are made of: questions, steps, presets, and where things lie."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils.captions import usual_trigger

Answers = dict[str, str]  # by question; what was not answered is ""
Commands = list[list[str]]  # each: script, then its arguments


@dataclass(frozen=True)
class Question:
    """One thing to know. It is asked on a terminal, and is an option of beaver.py."""

    name: str
    words: str
    default: Callable[[Answers], str] = lambda answers: ""
    choices: tuple[str, ...] = ()
    is_folder: bool = False  # must be a folder that is there
    is_name: bool = False  # becomes the name of a folder
    is_needed: bool = True  # "" is no answer
    when: Callable[[Answers], bool] = lambda answers: True
    at: str = ""  # the step before which it is asked; "": at the beginning


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    commands: Callable[[Answers], Commands]
    leaves: Callable[[Answers], list[Path]] = lambda answers: []
    before: Callable[[Answers], None] = lambda answers: None  # what the commands read
    is_current: Callable[[Answers], bool] = lambda answers: True  # whether what it read is as it was


@dataclass(frozen=True)
class Workflow:
    title: str
    questions: tuple[Question, ...]
    steps: tuple[Step, ...]
    afterwards: Callable[[Answers], list[str]] = field(default=lambda answers: [])


@dataclass(frozen=True)
class Preset:
    """What is trained on. `options` are those of train_lora.py."""

    title: str
    base_model: str
    options: tuple[str, ...]
    is_ours: bool = True  # trained by train_lora.py itself, which can resume


PRESETS = {
    "sdxl": Preset("SDXL", "stabilityai/stable-diffusion-xl-base-1.0", ("--preset", "sdxl")),
    "flux": Preset("Flux.1", "black-forest-labs/FLUX.1-dev", ("--family", "flux", "--trainer", "ai-toolkit"), False),
    "zit": Preset("ZIT (Animagine XL)", "cagliostrolab/animagine-xl-3.1", ("--preset", "zit")),
    "sd15": Preset("SD 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", ("--preset", "sd15")),
    "custom": Preset("Custom", "", ()),
}


def vault(answers: Answers) -> Path:
    return Path(answers["output"]) / "facevault"


def faces_page(answers: Answers) -> Path:
    return vault(answers) / "faces.html"


def dataset(answers: Answers) -> Path:
    return vault(answers) / "organized" / answers["person"]


def loras(answers: Answers) -> Path:
    return Path(answers["output"]) / "lora_models" / answers["person"]


def trigger_of(answers: Answers) -> str:
    """That of the person's dataset, or else the usual one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((dataset(answers) / "metadata.json").read_text(encoding="utf-8"))["trigger"])
    return usual_trigger(answers["person"])
