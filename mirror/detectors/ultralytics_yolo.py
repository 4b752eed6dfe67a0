"""Detection and pose networks of the ultralytics package: described from a checkpoint, built by that package.

A description is the network's own YAML as plain data. Only this is taken from a file, and only layers on our list may
stand in it; then ultralytics builds the network as it does for training, and the weights are put in. So no object of a
checkpoint ever reaches ultralytics, and its loading, with all that it tries to be helpful, is not used.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from typing import Any

from PIL import Image

from mirror.detectors.allowlist import TORCH_LAYERS, ULTRALYTICS_LAYERS
from mirror.detectors.checkpoints import HOW_TO_INSTALL, Record, UnfitError, import_torch
from utils.console import UserError

FAMILY = "ultralytics"
TASKS = {"ultralytics.nn.tasks.DetectionModel": "detect", "ultralytics.nn.tasks.PoseModel": "pose"}

# Read by ultralytics when it is imported (ultralytics/utils/__init__.py). The first makes it build networks without
# eval(); the others keep it from asking the network whether it is there, and from running pip.
_ENVIRONMENT = {
    "ULTRALYTICS_SAFE_LOAD": "1",
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
}
_LAYERS = frozenset(name for names in ULTRALYTICS_LAYERS.values() for name in names.split()) | {
    f"nn.{name}" for names in TORCH_LAYERS.values() for name in names.split()
}
_SETTINGS = ("nc", "scales", "scale", "depth_multiple", "width_multiple", "max_channels", "activation", "reg_max")
_SETTINGS += ("end2end", "kpt_shape", "flip_idx", "ch", "channels")


def find_model(checkpoint: object) -> Record | None:
    """The network in a checkpoint of this family: the averaged one where there is one, as ultralytics takes it."""
    found = checkpoint.get("ema") or checkpoint.get("model") if isinstance(checkpoint, dict) else checkpoint
    return found if isinstance(found, Record) and found.kind.startswith("ultralytics.") else None


def describe(model: Record) -> dict:
    """The description of a network. Raises UnfitError naming what does not fit."""
    if model.kind not in TASKS:
        known = " and ".join(TASKS.values())
        raise UnfitError(f"it is a {model.kind.rpartition('.')[2]}, and only networks for {known} are used here")
    yaml = model.get("yaml")
    if not isinstance(yaml, dict):
        raise UnfitError("it does not say how its network is built")
    names = model.get("names") or {}
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    description = {
        "task": TASKS[model.kind],
        "names": {str(index): str(name) for index, name in pairs},
        "yaml": {key: yaml[key] for key in (*_SETTINGS, "backbone", "head") if key in yaml},
    }
    _check(description)
    return json.loads(json.dumps(description))  # as it comes back from a file: lists, no tuples


def _check(description: dict) -> None:
    """Nothing but plain values and layers of our list: ultralytics looks names up wherever it finds them."""
    yaml = description["yaml"]
    for row in [*yaml["backbone"], *yaml["head"]]:
        if row[2] not in _LAYERS:
            raise UnfitError(f"its layer {row[2]} is not known here")
    _check_plain(yaml)


def _check_plain(value: object) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_plain(item)
    elif isinstance(value, dict):
        _check_plain(list(value.values()))
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise UnfitError(f"its description holds {type(value).__name__}")


def build(description: dict) -> Any:
    """The network of a description, without weights. Raises UnfitError, UserError without a fit ultralytics."""
    tasks = import_tasks()
    try:
        _check(description)
        yaml = copy.deepcopy(description["yaml"])  # ultralytics writes into it
        channels = yaml.get("channels") or yaml.get("ch") or 3
        make = {"detect": tasks.DetectionModel, "pose": tasks.PoseModel}[description["task"]]
        return make(yaml, ch=channels, nc=len(description["names"]) or None, verbose=False)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
        raise UnfitError(f"its description is damaged ({error})") from error


def import_tasks() -> Any:
    """`ultralytics.nn.tasks`, with its safe ways really on. Raises UserError."""
    import_torch()
    if "ultralytics" not in sys.modules:
        os.environ.update(_ENVIRONMENT)
    try:
        opener = Image.open
        tasks = importlib.import_module("ultralytics.nn.tasks")
        Image.open = opener  # ultralytics' own wants to install a package for every file that is no picture
    except ImportError as error:
        raise UserError(f"This needs ultralytics, which is not installed: {HOW_TO_INSTALL}") from error
    # below torch 2.6 it drops the safe way without a word, and versions before 8.4 have none
    safe = getattr(tasks, "_SafeLoad", None)
    if safe is None or not safe.restricted():
        raise UserError(
            "ultralytics does not build networks in its safe way here: it is too old, or was imported with "
            f"ULTRALYTICS_SAFE_LOAD off. {HOW_TO_INSTALL}"
        )
    return tasks
