"""The configuration that beaver.py writes for the bootstrap loop, and the commands that run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mirror.guide.parts import Answers, Commands, dataset, loras
from utils.console import UserError, say
from utils.defaults import MODELS_FOLDER
from utils.files import disk_errors_as, write_text_atomic


def loop_config(answers: Answers) -> Path:
    return Path(answers["output"]) / f"bootstrap_{answers['person']}.json"


def write_loop_config(answers: Answers) -> None:
    """The configuration of the loop, unless there is one of this name. Its paths start at its own folder."""
    path, config = loop_config(answers), _loop_settings(answers)
    if path.exists():
        _tell_differences(path, config)
        return
    if not dataset(answers).is_dir():
        raise UserError(f"There is no {dataset(answers)}: workflow 1 makes the dataset of {answers['person']}.")
    with disk_errors_as(f"{path} cannot be written"):
        write_text_atomic(path, json.dumps(config, indent=2) + "\n")


def _loop_settings(answers: Answers) -> dict[str, Any]:
    """The loop's configuration as the answers have it."""
    base = Path(answers["base_model"])
    config = {
        "person_name": answers["person"],
        "person_trigger": answers["trigger"],
        "base_model": str(base.resolve()) if base.exists() else answers["base_model"],
        "dataset_dir": dataset(answers).relative_to(answers["output"]).as_posix(),
        "models_dir": str(MODELS_FOLDER),
        "output_dir": f"bootstrap/{answers['person']}",
        "lora_output_dir": loras(answers).relative_to(answers["output"]).as_posix(),
        "max_iterations": int(answers["iterations"]),
        "training": {"preset": answers["preset"]},
    }
    if answers["pack"]:
        config["pack"] = answers["pack"]
    return config


def _tell_differences(path: Path, wanted: dict[str, Any]) -> None:
    """What a configuration that is there says otherwise than the answers; a broken one is the loop's to refuse."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        training = {"preset": there["training"]["preset"]} if "preset" in there.get("training", {}) else None
        there = there | {"training": training or wanted["training"]}
    except (OSError, ValueError, TypeError, AttributeError):
        return
    other = [f"{key} {there[key]}, not {value}" for key, value in wanted.items() if there.get(key, value) != value]
    if other:
        say(f"{path} is there already, and the loop runs with it: {'; '.join(other)}. Delete it to have it made anew.")


def loop_commands(answers: Answers) -> Commands:
    command = ["bootstrap_loop.py", "--config", str(loop_config(answers))]
    return [[*command, "--dry-run"], [*command, "--yes"]]
