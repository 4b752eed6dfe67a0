"""What the bootstrap loop runs for each step, and what it demands of the result, whoever made it.

A step is one of our scripts, or the `command` that the configuration puts in its place; both are held to the same
contract: the files are there, they are new (the step began with an empty place), they are whole, and they parse.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.console import UserError
from utils.contracts import (
    CANDIDATE,
    Contract,
    ContractError,
    GapReport,
    GenerationMetadata,
    PlannedPrompt,
    PromptPlan,
    Summary,
    ValidationReport,
    Verdict,
    read_contract,
)
from utils.defaults import IMAGE_EXTENSIONS, METADATA, PACK, PROJECT
from utils.loop_config import LoopConfig, filled
from utils.merging import DATASET, HELD_OUT, REAL, sha256_of
from utils.steps import Child, StepError

GAPS, GENERATE, VALIDATE, MERGE = "gaps", "generate", "validate", "merge"
TRAIN, SAMPLE, MEASURE, DECIDE = "train", "sample", "measure", "decide"
STEPS = (GAPS, GENERATE, VALIDATE, MERGE, TRAIN, SAMPLE, MEASURE, DECIDE)

LORA_FILE, TRAINING_LOG = "lora.safetensors", "training_log.json"
HISTORY, MANIFEST, PAGE, PLAN = (
    "iteration_history.json",
    "merge_manifest.json",
    "bootstrap_report.html",
    "sample_plan.json",
)
_SAFETENSORS_LIMIT = 100_000_000  # bytes of a header; the format's own limit


@dataclass(frozen=True)
class Places:
    """Where everything of a loop lies."""

    output: Path
    loras: Path

    def gaps(self, number: int) -> Path:
        return self.output / f"gaps_iter{number}.json"

    def of(self, what: str, number: int) -> Path:
        """synthetic_iter1, approved_iter1, rejected_iter1, unverified_iter1, metrics_iter1"""
        return self.output / f"{what}_iter{number}"

    def report(self, number: int) -> Path:
        return self.output / f"validation_iter{number}.json"

    def samples(self, lora: str = "") -> Path:
        return self.output / "samples" / lora

    def log(self, number: int, step: str) -> Path:
        return self.output / "logs" / f"iter{number}_{step}.log"

    def lora(self, name: str) -> Path:
        return self.loras / name / LORA_FILE

    @property
    def best(self) -> Path:
        return self.loras / LORA_FILE

    @property
    def dataset(self) -> Path:
        return self.output / DATASET

    @property
    def real(self) -> Path:
        return self.output / REAL

    @property
    def held_out(self) -> Path:
        return self.output / HELD_OUT

    @property
    def history(self) -> Path:
        return self.output / HISTORY

    @property
    def manifest(self) -> Path:
        return self.output / MANIFEST

    @property
    def page(self) -> Path:
        return self.output / PAGE

    @property
    def plan(self) -> Path:
        return self.output / PLAN

    @property
    def cache(self) -> Path:
        return self.output / "cache.sqlite"


@dataclass(frozen=True)
class Commands:
    """The commands of one configuration. `folder` is where commands of the user's own run: beside the configuration."""

    config: LoopConfig
    places: Places
    folder: Path

    def gaps(self, number: int) -> Child:
        config, output = self.config, self.places.gaps(number)
        own = ["gap_analysis.py", self.places.dataset, "--models-dir", config.models_dir, "--output", output]
        own += ["--max-synthetic-share", config.max_synthetic_share, "--cache", self.places.cache, *self._pack()]
        own += ["--goals", config.gap_analysis.goals] if config.gap_analysis.goals else []
        values = {"output": output, "max_synthetic_share": config.max_synthetic_share}
        return self._child("Gap analysis", "gap_analysis", number, GAPS, own, values)

    def generate(self, number: int, lora: str, seed: int) -> Child:
        """Images for the gaps of an iteration."""
        gaps, output = self.places.gaps(number), self.places.of("synthetic", number)
        values = {"gaps": gaps, "prompts": "", "output": output, "seed": seed}
        return self._generation("Generation", number, GENERATE, lora, values, [gaps])

    def sample(self, number: int, lora: str) -> Child:
        """The fixed plan with a LoRA."""
        values = {"gaps": "", "prompts": self.places.plan, "output": self.places.samples(lora)}
        return self._generation("Sampling", number, SAMPLE, lora, values, ["--prompts-file", self.places.plan])

    def _generation(self, title: str, number: int, step: str, lora: str, values: dict, first: list) -> Child:
        config, wanted = self.config, self.config.generation
        file = self.places.lora(lora)
        own = ["generate_synthetic.py", *first, "--base-model", config.base_model, "--lora", file]
        own += ["--person", config.person_trigger, "--output", values["output"], "--num-per-gap", wanted.num_per_gap]
        own += ["--steps", wanted.steps, "--guidance", wanted.guidance, "--seed", values.get("seed", config.seed)]
        more = {"lora": file, "num_per_gap": wanted.num_per_gap, "steps": wanted.steps, "guidance": wanted.guidance}
        return self._child(title, "generation", number, step, own, values | more)

    def validate(self, number: int) -> Child:
        config, places = self.config, self.places
        folder, report = places.of("synthetic", number), places.report(number)
        sorted_into = {name: places.of(name, number) for name in ("approved", "rejected", "unverified")}
        own = ["validate_synthetic.py", folder, "--models-dir", config.models_dir, "--reference", places.dataset]
        for name, place in sorted_into.items():
            own += [f"--{name}", place]
        own += ["--report", report, "--cache", places.cache, *self._pack()]
        allowed = config.validation.allow_unverified
        own += ["--allow-unverified", ",".join(allowed)] if allowed else []
        values = {"folder": folder, "references": places.dataset, "report": report} | sorted_into
        return self._child("Validation", "validation", number, VALIDATE, own, values)

    def train(self, number: int, lora: str) -> Child:
        config, wanted, output = self.config, self.config.training, self.places.lora(lora).parent
        own = ["train_lora.py", self.places.dataset, "--base-model", config.base_model, "--output", output]
        own += ["--trigger", config.person_trigger, "--preset", wanted.preset, "--epochs", wanted.epochs]
        own += ["--seed", config.seed, "--resume", "--models-dir", config.models_dir, "--cache", self.places.cache]
        values = {"output": output, "preset": wanted.preset, "epochs": wanted.epochs}
        return self._child("Training", "training", number, TRAIN, own + self._pack(), values)

    def measure(self, number: int, has_holdout: bool) -> Child:
        output, places = self.places.of("metrics", number), self.places
        own = ["mirror_metrics.py", "--reference", places.real, "--candidates", places.samples(), "--output", output]
        own += ["--holdout", places.held_out] if has_holdout else []
        own += ["--cache", places.cache, *self._pack(always=True)]
        values = {"references": places.real, "candidates": places.samples(), "output": output}
        values["holdout"] = places.held_out if has_holdout else ""
        return self._child("Measuring", "metrics", number, MEASURE, own, values)

    def _pack(self, always: bool = False) -> list[str]:
        """The model pack: by its folder where it lies in models_dir, as the scripts look for names elsewhere."""
        name = self.config.pack or PACK
        inside = Path(self.config.models_dir) / name
        if inside.is_dir():
            return ["--pack", str(inside)]
        return ["--pack", name] if always or self.config.pack else []

    def _child(self, title: str, section: str, number: int, step: str, own: list, values: dict) -> Child:
        config, settings = self.config, getattr(self.config, section)
        log = self.places.log(number, step)
        if settings.command is None:
            command = [sys.executable, str(PROJECT / own[0]), *map(str, own[1:]), *settings.options]
            return Child(title, command, log, Path.cwd())
        values = {
            "python": sys.executable,
            "models_dir": config.models_dir,
            "person": config.person_name,
            "trigger": config.person_trigger,
            "base_model": config.base_model,
            "dataset": self.places.dataset,
            "seed": config.seed,
        } | values
        return Child(title, filled(settings.command, values), log, self.folder, ours=False)


def sample_plan(trigger: str, count: int, seed: int) -> PromptPlan:
    """The same pictures of every LoRA: the head angles in turn, each prompt with seeds of its own."""
    from utils.gaps import GAP_TYPES

    targets = GAP_TYPES["face_angle"].targets
    images = []
    for index in range(count):
        turn, place = divmod(index, len(targets))
        words = targets[place].prompts[turn % len(targets[place].prompts)]
        images.append(
            PlannedPrompt(
                prompt=f"photo of {trigger}, {words}, high quality, natural light",
                seed=(seed + 7919 * (index + 1)) % 2**31,
                name=f"sample_{index + 1:02d}_{targets[place].name}",
            )
        )
    return PromptPlan(images=images)


# What a step must have made. Each raises StepError, which ends the loop.


def gaps_made(child: Child, path: Path) -> GapReport:
    return _contract(child, path, GapReport)


def images_made(child: Child, folder: Path, plan: PromptPlan | None = None) -> GenerationMetadata:
    """The metadata of a folder, in which every image is there, whole, and named; with `plan`, all that was planned."""
    metadata = _contract(child, folder / METADATA, GenerationMetadata)
    suffixes = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
    there = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.name.lower().endswith(suffixes)}
    named = [image.file for image in metadata.images]
    for problem, files in (
        ("names images that are not there", set(named) - there),
        ("does not name images that are there", there - set(named)),
        ("names images twice", {name for name in named if named.count(name) > 1}),
    ):
        if files:
            raise StepError(f"{child.title}: {folder / METADATA} {problem}: {', '.join(sorted(files)[:5])}.")
    for name in named:
        _demand_picture(child, folder / name)
    if plan is not None:
        done = {Path(name).stem for name in named} | {one.name for one in metadata.failed}
        lost = [one.name for one in plan.images if one.name not in done]
        if lost:
            raise StepError(f"{child.title}: {folder} lacks images of the plan: {', '.join(lost[:5])}.")
    return metadata


def _demand_picture(child: Child, path: Path) -> None:
    from utils.images import ImageError, decode, read_file

    try:
        decode(read_file(path))
    except ImageError as error:
        raise StepError(f"{child.title}: {path} {error.reason}.") from error


def validated(child: Child, path: Path, approved: Path, metadata: GenerationMetadata) -> ValidationReport:
    """The report, in which every generated image is judged, and every approved one is copied."""
    report = _contract(child, path, ValidationReport)
    judged, made = {image.file for image in report.images}, {image.file for image in metadata.images}
    if judged != made:
        odd = ", ".join(sorted(judged ^ made)[:5])
        raise StepError(f"{child.title}: {path} and the generated images do not agree: {odd}.")
    for image in report.images:
        if image.verdict != Verdict.APPROVED:
            continue
        place = Path(image.copied_to or "")
        if not place.is_file() or place.parent.resolve() != approved.resolve() or sha256_of(place) != image.sha256:
            raise StepError(f"{child.title}: {path} approves {image.file}, and its copy is not in {approved}.")
    return report


def lora_made(child: Child, path: Path) -> str:
    """Hash of a LoRA file that is whole, with a training log beside it."""
    problem = lora_problem(path)
    if problem:
        raise StepError(f"{child.title}: {path} {problem}.")
    log = path.with_name(TRAINING_LOG)
    try:
        told = json.loads(log.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{child.title}: {log} cannot be read: {error}.") from error
    if not isinstance(told, dict) or told.get("finished") is False:
        raise StepError(f"{child.title}: {log} does not tell of a finished training.")
    return sha256_of(path)


def lora_problem(path: Path) -> str:
    """What is wrong with a .safetensors file, as the end of a sentence; empty where it is whole.

    Eight bytes of length, a JSON header, then exactly the bytes that the header lays out
    (huggingface.co/docs/safetensors, "Format").
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= _SAFETENSORS_LIMIT else None
        tensors = [one for name, one in header.items() if name != "__metadata__"]
        end = max(one["data_offsets"][1] for one in tensors)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return "is no .safetensors file with weights in it"
    return "" if size == 8 + length + end else f"is cut off: {size} bytes where its header asks for {8 + length + end}"


def measured(child: Child, folder: Path, loras: list[str]) -> Summary:
    """The summary of a run of mirror_metrics.py, with a group for each of `loras`."""
    found = sorted(folder.glob("Summary_*.json"))
    if len(found) != 1:
        raise StepError(f"{child.title}: {folder} should hold one Summary_*.json, and holds {len(found)}.")
    summary = _contract(child, found[0], Summary)
    groups = {group.name for group in summary.groups if group.type == CANDIDATE}
    lost = [name for name in loras if name not in groups]
    if lost:
        raise StepError(f"{child.title}: {found[0]} has no group {', '.join(lost)}.")
    return summary


def sample_scores(folder: Path, summary: Summary) -> dict[str, dict[str, float]]:
    """LoRA -> sample -> similarity corrected for pose, from the table beside a summary; empty where there is none."""
    from utils.metrics import pose_corrected

    scores: dict[str, dict[str, float]] = {}
    table = folder / summary.results.get("data", "")
    if not table.is_file():
        return scores
    with open(table, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            if row["Type"] == CANDIDATE and row["Similarity"] and row["Yaw"]:
                corrected = pose_corrected([float(row["Similarity"])], [float(row["Yaw"])])[0]
                scores.setdefault(row["Group"], {})[row["Filename"]] = round(float(corrected), 4)
    return scores


def _contract(child: Child, path: Path, model: type[Contract]) -> Contract:
    if not path.is_file():
        raise StepError(f"{child.title} ended well, and {path} is not there; see {child.log}.")
    try:
        return read_contract(path, model, Path(child.command[1 if child.ours else 0]).name)
    except ContractError as error:
        raise StepError(f"{child.title}: {error}") from error


def read_own(path: Path, model: type[Contract], instead: str) -> Contract:
    """A file that the loop itself wrote. Raises UserError where somebody changed it, with what to do `instead`."""
    try:
        return read_contract(path, model, "bootstrap_loop.py")
    except ContractError as error:
        reason = str(error).rpartition("; run bootstrap_loop.py")[0] or str(error)
        raise UserError(f"{reason}. It was damaged or changed by hand: {instead}") from error
