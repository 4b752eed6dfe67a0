"""The configuration of the bootstrap loop: typed, merged deeply over its defaults, every mistake one sentence.

Paths are relative to the configuration file's folder, so that the same command means the same wherever it is given.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from utils.console import UserError
from utils.defaults import HARD_SYNTHETIC_SHARE, LEAST_SYNTHETIC_WEIGHT, MAX_SYNTHETIC_SHARE, UNVERIFIED_WORDS

SEED = 42
# Images for each one that is wanted, and the share of a photo's repeats that a merged image has in training. Merging
# whatever passes until half of the dataset is synthetic, and weighing it like photos, made LoRAs of the demo's world
# less like the person; the best few of eight candidates, at 30 % and half the weight, made no difference that could be
# told (docs/demo-world.md, "Does the loop help?"). Four are our choice: images of larger models take their time.
CANDIDATES, SYNTHETIC_WEIGHT = 4, 0.5
SAMPLES = 24  # images of each LoRA that similarity is measured on; our choice: the median is then known to about 0.03

# Other names of keys, which are read as well: those of our scripts' options.
OTHER_NAMES = {"generation": {"steps": "num_inference_steps", "guidance": "guidance_scale"}}

# What a command may ask for, by the step that it takes over; `needs` must occur in it.
_EVERYWHERE = ("python", "models_dir", "person", "trigger", "base_model", "dataset", "seed")
PLACEHOLDERS = {
    "gap_analysis": (*_EVERYWHERE, "output", "max_synthetic_share"),
    "generation": (
        *(*_EVERYWHERE, "gaps", "prompts", "output", "lora"),
        *("num_per_gap", "candidates", "steps", "guidance"),
    ),
    "validation": (*_EVERYWHERE, "folder", "references", "approved", "rejected", "unverified", "report"),
    "training": (*_EVERYWHERE, "output", "preset", "epochs", "synthetic_weight"),
    "metrics": (*_EVERYWHERE, "references", "holdout", "candidates", "output"),
}
NEEDED = {
    "gap_analysis": ("dataset", "output"),
    "generation": ("gaps", "prompts", "output"),
    "validation": ("folder", "approved", "report"),
    "training": ("dataset", "output"),
    "metrics": ("candidates", "output"),
}
_HINTS = {  # where nothing of nearly that name is there
    "dataset_dir": "; it is the folder with the person's photos",
    "models_dir": "; it is the folder for detectors and model packs, and may be empty",
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")

Command = list[str]


class _Section(BaseModel):
    """A part of the file. `command` is a program that takes the step over, as an argument list with placeholders."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: Command | None = Field(None, min_length=1)
    options: Command = []  # more arguments for our own script


class GapSettings(_Section):
    goals: str | None = None  # JSON file with other goals


class GenerationSettings(_Section):
    num_per_gap: int = Field(5, ge=1)
    candidates: int = Field(CANDIDATES, ge=1)  # made for each image that is wanted; the best are merged
    num_inference_steps: int | None = Field(None, ge=1)  # null: the default of the base model's family
    guidance_scale: float | None = Field(None, ge=0)  # the same

    @property
    def candidates_asked_for(self) -> int:
        """As many as the generator can know of: a command without {candidates} makes one image for each wanted one."""
        is_told = self.command is None or any("{candidates}" in argument for argument in self.command)
        return self.candidates if is_told else 1


class ValidationSettings(_Section):
    auto_filter: bool = True  # false: validation only reports, and the loop ends there
    allow_unverified: list[Literal[UNVERIFIED_WORDS]] = []


class TrainingSettings(_Section):
    preset: str = "sdxl"
    epochs: int = Field(10, ge=1)
    steps: int | None = Field(None, ge=1)  # takes the place of epochs: every LoRA learns for as long
    synthetic_weight: float = Field(SYNTHETIC_WEIGHT, ge=LEAST_SYNTHETIC_WEIGHT, le=1)  # share of a photo's repeats

    @property
    def weighs(self) -> bool:
        """Whether the trainer is told of `synthetic_weight`."""
        return self.command is None or any("{synthetic_weight}" in argument for argument in self.command)


class MetricsSettings(_Section):
    samples: int = Field(SAMPLES, ge=3)


class LoopConfig(BaseModel):
    """`bootstrap_config.json`. What a file leaves out has the default given here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    person_name: str = Field(min_length=1)
    person_trigger: str = Field(min_length=1)
    base_model: str = Field(min_length=1)  # hub id, diffusers folder or .safetensors file
    dataset_dir: str = Field("", min_length=1)  # without it, see `_with_default_folders`
    models_dir: str = Field("models", min_length=1)
    output_dir: str = Field("outputs/bootstrap", min_length=1)
    lora_output_dir: str = Field("", min_length=1)  # the same
    max_iterations: int = Field(5, ge=1, le=1000)
    convergence_threshold: float = Field(0.05, gt=0, lt=1)
    real_photos_only: bool = False  # the control: no images, every LoRA learns from the photos, with another seed
    max_synthetic_share: float = Field(MAX_SYNTHETIC_SHARE, ge=0, le=HARD_SYNTHETIC_SHARE)
    pack: str | None = None  # InsightFace model pack; null: the scripts' own default
    expression_model: str | None = None  # ONNX file; null: the one that lies in models_dir, if any
    seed: int = Field(SEED, ge=0, lt=2**31)
    gap_analysis: GapSettings = GapSettings()
    generation: GenerationSettings = GenerationSettings()
    validation: ValidationSettings = ValidationSettings()
    training: TrainingSettings = TrainingSettings()
    metrics: MetricsSettings = MetricsSettings()
    _base: Path = PrivateAttr(Path())  # folder of the file

    def portable(self, text: str) -> str:
        """A path below the file's folder relative to it, so that a project can be moved; any other text as it is."""
        path = Path(text)
        inside = path.is_absolute() and path.is_relative_to(self._base)
        return path.relative_to(self._base).as_posix() if inside else text


def load_config(path: Path, presets: Collection[str]) -> LoopConfig:
    """The configuration in `path`, its paths absolute; `presets` are the names that our own training knows.

    Raises UserError naming the key, and the nearest valid name.
    """
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}. --config takes a JSON file, such as the project's bootstrap_config.json.")
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_no_key_twice)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. It must be a JSON file.") from error
    try:
        config = LoopConfig.model_validate_json(json.dumps(_with_documented_names(path, given)))
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error.errors()[0])}") from error
    _check_words(path, config, presets)
    config = _with_default_folders(path, config)
    _check_commands(path, config)
    return _with_paths(path, config)


def _with_documented_names(path: Path, given: object) -> object:
    """The file's content with OTHER_NAMES replaced. Raises UserError where a key stands there under both names."""
    if not isinstance(given, dict):
        return given
    renamed = dict(given)
    for section, names in OTHER_NAMES.items():
        keys = renamed.get(section)
        if not isinstance(keys, dict):
            continue
        for other, name in names.items():
            if other in keys and name in keys:
                raise UserError(f"{path}: {section}.{name} and {section}.{other} are the same; leave one of them out.")
        renamed[section] = {names.get(key, key): value for key, value in keys.items()}
    return renamed


def _with_default_folders(path: Path, config: LoopConfig) -> LoopConfig:
    """The folders of the person where the file names none: what FaceVault sorted, and what the loop trains."""
    defaults = {"dataset_dir": "outputs/facevault/organized", "lora_output_dir": "outputs/lora_models"}
    missing = {key: folder for key, folder in defaults.items() if not getattr(config, key)}
    is_folder_name = config.person_name not in (".", "..") and not set(config.person_name) & set("/\\")
    if missing and not is_folder_name:
        raise UserError(
            f"{path}: person_name: {json.dumps(config.person_name)} is no name of a folder, and "
            f"{' and '.join(missing)} would be called that; give them in the file."
        )
    return config.model_copy(update={key: f"{folder}/{config.person_name}" for key, folder in missing.items()})


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} appears twice")
    return dict(pairs)


def _sentence(error: dict) -> str:
    """One problem of pydantic's list in words, with the path of the key and a hint."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = list(_fields_at(error["loc"][:-1]))
        return f"{key} is not a known key{_nearest(str(error['loc'][-1]), names)}."
    if error["type"] == "missing":
        return f"the key {key} is missing."
    seen = json.dumps(error["input"], ensure_ascii=False)[:60]
    hint = ""
    if key == "convergence_threshold" and isinstance(error["input"], int | float):
        hint = " It is a share: 0.05 is 5 %."
    message = error["msg"].removeprefix("Input ").replace("should be", "it should be", 1)
    return f"{key or 'the whole file'}: {message}, and it is {seen}.{hint}"


def _fields_at(location: tuple[str | int, ...]) -> dict:
    model = LoopConfig
    for part in location:
        model = model.model_fields[part].annotation
    return model.model_fields


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1, 0.5)
    return f"; did you mean {close[0]}" if close else f"; known: {', '.join(names)}"


def _check_words(path: Path, config: LoopConfig, presets: Collection[str]) -> None:
    """Raise UserError for names that only a step would find out to be wrong, hours later."""
    for key in ("person_name", "person_trigger"):
        words = getattr(config, key)
        if not words.strip() or not words.isprintable():
            raise UserError(f"{path}: {key}: {json.dumps(words)} is blank, or not one line of text.")
    training = config.training
    if training.command is None and training.preset not in presets:
        hint = _nearest(training.preset, list(presets))
        raise UserError(f"{path}: training.preset: {training.preset!r} is no preset{hint}.")


def _check_commands(path: Path, config: LoopConfig) -> None:
    """Raise UserError for a placeholder that is not known, or one that a step cannot do without."""
    for section, known in PLACEHOLDERS.items():
        command = getattr(config, section).command
        if command is None:
            continue
        if section == "training" and config.training.steps:
            raise UserError(f"{path}: training.steps is for our own script; with training.command leave it out.")
        weight = "synthetic_weight"
        if section == "training" and weight in config.training.model_fields_set and not config.training.weighs:
            raise UserError(
                f"{path}: training.{weight} does nothing, as training.command does not name {{{weight}}}: put it in, "
                f"or leave training.{weight} out."
            )
        if getattr(config, section).options:
            raise UserError(f"{path}: {section}.options are for our own script; with {section}.command leave them out.")
        used = [name for argument in command for name in _PLACEHOLDER.findall(argument)]
        for name in used:
            if name not in known:
                hint = _nearest(name, list(known))
                raise UserError(f"{path}: {section}.command: {{{name}}} is no placeholder{hint}.")
            key = OTHER_NAMES["generation"].get(name)
            if key is not None and getattr(config.generation, key) is None:
                raise UserError(
                    f"{path}: {section}.command: {{{name}}} stands for {section}.{key}, which has no value: only our "
                    "own script knows the default of a model's family. Give it one."
                )
        for name in NEEDED[section]:
            if name not in used:
                raise UserError(f"{path}: {section}.command: {{{name}}} is missing, so the step cannot be checked.")


def filled(command: Command, values: dict[str, object]) -> Command:
    """`command` with its placeholders replaced; all other braces stay."""
    return [_PLACEHOLDER.sub(lambda one: str(values.get(one[1], one[0])), argument) for argument in command]


def _with_paths(path: Path, config: LoopConfig) -> LoopConfig:
    """Absolute paths; raises UserError for what must be there and is not, and for folders inside each other."""
    base = path.resolve().parent
    found = {key: _absolute(base, getattr(config, key)) for key in ("dataset_dir", "models_dir")}
    made = {key: _absolute(base, getattr(config, key)) for key in ("output_dir", "lora_output_dir")}
    for key, folder in found.items():
        if not folder.is_dir():
            hint = _nearest_file(folder) or _HINTS[key]
            raise UserError(f"{path}: {key}: {_what_is(folder)}{hint}.")
    for key, folder in made.items():
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{path}: {key}: {folder} is a file, and it should be a folder.")
    _demand_apart(path, found, made)
    changes = {key: str(folder) for key, folder in (found | made).items()}
    changes["base_model"] = _base_model(path, base, config.base_model)
    if config.pack is not None:
        changes["pack"] = _pack(path, base, Path(changes["models_dir"]), config.pack)
    if config.expression_model is not None:
        changes["expression_model"] = _expression_model(
            path, base, Path(changes["models_dir"]), config.expression_model
        )
    gaps = config.gap_analysis
    if gaps.goals is not None:
        goals = _existing(path, base, "gap_analysis.goals", gaps.goals)
        changes["gap_analysis"] = gaps.model_copy(update={"goals": str(goals)})
    config = config.model_copy(update=changes)
    config._base = base
    return config


def _absolute(base: Path, given: str) -> Path:
    """Raises UserError for what can be no path: a home of nobody, a NUL, more letters than a name may have."""
    try:
        path_given = (base / Path(given).expanduser()).resolve()
        path_given.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{given[:80]!r} in the configuration cannot be a path: {error}.") from error
    return path_given


def _existing(path: Path, base: Path, key: str, given: str) -> Path:
    path_given = _absolute(base, given)
    if not path_given.exists():
        raise UserError(f"{path}: {key}: {_what_is(path_given)}{_nearest_file(path_given)}.")
    return path_given


def _what_is(path_given: Path) -> str:
    return (
        f"{path_given} is a file, and it should be a folder" if path_given.exists() else f"{path_given} does not exist"
    )


def _nearest_file(path_given: Path) -> str:
    """The name in the same folder that is most like it."""
    if path_given.exists() or not path_given.parent.is_dir():
        return ""
    close = difflib.get_close_matches(path_given.name, [one.name for one in path_given.parent.iterdir()], 1, 0.6)
    return f"; did you mean {path_given.parent / close[0]}" if close else ""


def _is_path(given: str) -> bool:
    """Whether a name is meant as a path: a hub id has one slash and no dot at its beginning."""
    return given.startswith((".", "/", "~", "\\")) or "\\" in given or given.count("/") > 1


def _pack(path: Path, base: Path, models: Path, given: str) -> str:
    """A folder as an absolute path, a name as it is. Raises UserError for what none of the scripts would find."""
    from mirror.faces.packs import KNOWN_PACKS, PackError, find_pack

    if _is_path(given):
        return str(_existing(path, base, "pack", given))
    try:
        is_there = (models / given).is_dir() or find_pack(given) is not None
    except PackError as error:
        raise UserError(f"{path}: pack: {error}") from error
    if not is_there and given not in KNOWN_PACKS:
        raise UserError(f"{path}: pack: {given!r} is no model pack that is here{_nearest(given, list(KNOWN_PACKS))}.")
    return given


def _expression_model(path: Path, base: Path, models: Path, given: str) -> str:
    """A file in the models folder, or wherever it is, as an absolute path. Raises UserError."""
    inside = _absolute(models, given)
    found = inside if inside.is_file() else _existing(path, base, "expression_model", given)
    if not found.is_file():
        raise UserError(f"{path}: expression_model: {found} is a folder; it takes an ONNX file.")
    return str(found)


def _base_model(path: Path, base: Path, given: str) -> str:
    """A folder or file that is there as an absolute path, a hub id as it is. Raises UserError for a path to nothing."""
    path_given = _absolute(base, given)
    if path_given.exists():
        return str(path_given)
    if _is_path(given) or given.lower().endswith((".safetensors", ".ckpt")):
        raise UserError(f"{path}: base_model: {_what_is(path_given)}{_nearest_file(path_given)}.")
    return given


def _demand_apart(path: Path, found: dict[str, Path], made: dict[str, Path]) -> None:
    """Raise UserError for a folder of the loop that is the user's, in it or around it, or within the other one."""
    for key, folder in made.items():
        others = found | {name: other for name, other in made.items() if name != key}
        for name, other in others.items():
            if folder == other and name in made:
                raise UserError(f"{path}: {key} and {name} are both {folder}; choose two folders.")
            if folder == other or other in folder.parents or folder in other.parents:
                raise UserError(
                    f"{path}: {key} {folder} and {name} {other} overlap (one is inside the other, or they are "
                    f"the same); the loop writes into {key}, so choose separate folders."
                )
