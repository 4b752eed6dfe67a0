"""What the bootstrap loop runs for each step, and what it demands of the result, whoever made it.

A step is one of our scripts, or the `command` that the configuration puts in its place; both are held to the same
contract: the files are there, they are new (the step began with an empty place), they are whole, and they parse.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mirror.contracts import table as columns
from mirror.contracts.contract import Contract, ContractError, read_contract
from mirror.contracts.gaps import GapReport
from mirror.contracts.generation import GenerationMetadata
from mirror.contracts.plan import PlannedPrompt, PromptPlan
from mirror.contracts.summary import CANDIDATE, Summary
from mirror.contracts.validation import ValidationReport, Verdict
from mirror.loop.config import PLACEHOLDERS, LoopConfig, filled
from mirror.loop.merging import DATASET, HELD_OUT, REAL, sha256_of
from mirror.loop.steps import Child, StepError, files_in, is_picture
from utils.console import UserError
from utils.defaults import METADATA, PACK, PROJECT

GAPS, GENERATE, VALIDATE, MERGE = "gaps", "generate", "validate", "merge"
TRAIN, SAMPLE, MEASURE = "train", "sample", "measure"
STEPS = (GAPS, GENERATE, VALIDATE, MERGE, TRAIN, SAMPLE, MEASURE)

LORA_FILE, TRAINING_LOG = "lora.safetensors", "training_log.json"
HISTORY, MANIFEST, PAGE, PLAN = (
    "iteration_history.json",
    "merge_manifest.json",
    "bootstrap_report.html",
    "sample_plan.json",
)
_SAFETENSORS_LIMIT = 100_000_000  # bytes of a header; the format's own limit
_SEED_STEP = 7919  # a prime, so that the seeds of a plan are not those of neighbouring plans
_NAMED = 5  # files that a sentence names, of however many


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

    def gaps(self, number: int, note: str = "") -> Child:
        config, output = self.config, self.places.gaps(number)
        own = ["gap_analysis.py", self.places.dataset, "--models-dir", config.models_dir, "--output", output]
        own += ["--max-synthetic-share", config.max_synthetic_share, "--cache", self.places.cache, *self._pack()]
        own += ["--goals", config.gap_analysis.goals] if config.gap_analysis.goals else []
        own += ["--note", note] if note else []
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
        own += ["--seed", values.get("seed", config.seed)]
        own += [] if wanted.steps is None else ["--steps", wanted.steps]
        own += [] if wanted.guidance is None else ["--guidance", wanted.guidance]
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

    def demand_programs(self) -> None:
        """Find out before hours of work that a program is missing. Raises UserError."""
        for section in PLACEHOLDERS:
            command = getattr(self.config, section).command
            if command is None:
                continue
            program = self._program(filled(command[:1], {"python": sys.executable})[0])
            if shutil.which(program) is not None:
                continue
            if Path(program).is_file():
                raise UserError(f"{section}.command: {program} may not be run; chmod +x allows it.")
            raise UserError(
                f"{section}.command: {command[0]} is neither in {self.folder}, where the configuration lies, nor a "
                "program that this system finds."
            )

    def _program(self, name: str) -> str:
        """A program of the user's own: beside the configuration, else wherever the system finds it."""
        beside = self.folder / Path(name).expanduser()
        return str(beside) if beside.is_file() else name

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
            return Child(title, command, log, self.folder)
        values = {
            "python": sys.executable,
            "models_dir": config.models_dir,
            "person": config.person_name,
            "trigger": config.person_trigger,
            "base_model": config.base_model,
            "dataset": self.places.dataset,
            "seed": config.seed,
        } | values
        program, *arguments = filled(settings.command, values)
        return Child(title, [self._program(program), *arguments], log, self.folder, ours=False)


def sample_plan(trigger: str, count: int, seed: int) -> PromptPlan:
    """The same pictures of every LoRA: the head angles in turn, each prompt with seeds of its own."""
    from mirror.dataset.gaps import GAP_TYPES

    targets = GAP_TYPES["face_angle"].targets
    images = []
    for index in range(count):
        turn, place = divmod(index, len(targets))
        words = targets[place].prompts[turn % len(targets[place].prompts)]
        images.append(
            PlannedPrompt(
                prompt=f"photo of {trigger}, {words}, high quality, natural light",
                seed=(seed + _SEED_STEP * (index + 1)) % 2**31,
                name=f"sample_{index + 1:02d}_{targets[place].name}",
            )
        )
    return PromptPlan(images=images)


# What a step must have made. Each raises StepError, which ends the loop.


def gaps_made(child: Child, path: Path) -> GapReport:
    return _contract(child, path, GapReport)


def images_made(child: Child, folder: Path) -> GenerationMetadata:
    """The metadata of a folder, in which every image is there, whole, and named."""
    metadata = _contract(child, folder / METADATA, GenerationMetadata)
    there = {one.relative_to(folder).as_posix() for one in files_in(folder) if is_picture(one)}
    named = [image.file for image in metadata.images]
    for problem, files in (
        ("names images that are not there", set(named) - there),
        ("does not name images that are there", there - set(named)),
        ("names images twice", {name for name in named if named.count(name) > 1}),
    ):
        if files:
            raise _wrong(child, f"{folder / METADATA} {problem}: {_listed(files)}")
    for name in named:
        _demand_picture(child, folder / name)
    return metadata


def asked_for(gaps: GapReport, num_per_gap: int) -> dict[tuple[str, str], int]:
    """(gap type, target) -> images that a generator is to make."""
    return {(gap.type, gap.target): min(gap.count, num_per_gap) for gap in gaps.recommendations if gap.count}


def demand_asked(child: Child, metadata: GenerationMetadata, asked: Mapping[tuple[str, str], int]) -> str:
    """What is short of `asked`, in a sentence or empty. Raises StepError where a gap got nothing, or a wrong one some.

    An image that the generator tried and reports as failed is no image, but its gap was seen to. Our own generator has
    no words for a gap type without prompts.
    """
    made = Counter((image.gap_type, image.target) for image in metadata.images)
    tried = made + Counter((one.gap_type, one.target) for one in metadata.failed)
    if strange := made.keys() - asked.keys():
        raise _wrong(child, f"it made images that no gap asks for: {_listed(map(_gap_name, strange))}")
    if ignored := [gap for gap in asked if gap not in tried and _has_prompts(*gap)]:
        raise _wrong(child, f"it made no image for {_listed(map(_gap_name, ignored))}")
    short = [f"{made[gap]} of {count} for {_gap_name(gap)}" for gap, count in asked.items() if made[gap] < count]
    return f"{child.title} made fewer images than were asked for: {', '.join(short)}." if short else ""


def _has_prompts(gap_type: str, target: str) -> bool:
    from mirror.dataset.gaps import GAP_TYPES

    known = GAP_TYPES[gap_type].targets if gap_type in GAP_TYPES else ()
    return any(one.name == target and one.prompts for one in known)


def _gap_name(gap: tuple[str | None, str | None]) -> str:
    return f"{gap[0]} {gap[1]}" if gap[0] else "no target"


def demand_planned(child: Child, metadata: GenerationMetadata, plan: PromptPlan) -> None:
    """Raise StepError unless the images are those of a plan: its names, prompts and seeds, all and no others."""
    from mirror.contracts.generation import retry_seed

    wanted = {one.name: one for one in plan.images}
    made = {Path(image.file).stem: image for image in metadata.images}
    stems = [Path(image.file).stem for image in metadata.images]
    if strange := {name for name in stems if name not in wanted or stems.count(name) > 1}:
        raise _wrong(child, f"it made images that are not in the plan, or one of them twice: {_listed(strange)}")
    if lost := wanted.keys() - made.keys() - {one.name for one in metadata.failed}:
        raise _wrong(child, f"images of the plan are missing: {_listed(lost)}")
    for name, image in made.items():
        one = wanted[name]
        if image.prompt != one.prompt:
            raise _wrong(child, f"{image.file} was drawn with another prompt than the plan's: {image.prompt!r}")
        if image.seed not in (one.seed, retry_seed(one.seed)):  # our script's second try for a black image
            raise _wrong(child, f"{image.file} was drawn with seed {image.seed}, and the plan says {one.seed}")


def _demand_picture(child: Child, path: Path) -> None:
    from utils.images import ImageError, decode, read_file

    try:
        decode(read_file(path))
    except ImageError as error:
        raise _wrong(child, f"{path} {error.reason}") from error


def validated(child: Child, path: Path, approved: Path, metadata: GenerationMetadata) -> ValidationReport:
    """The report, in which every generated image is judged, and every approved one is copied."""
    report = _contract(child, path, ValidationReport)
    judged, made = {image.file for image in report.images}, {image.file for image in metadata.images}
    if judged != made:
        raise _wrong(child, f"{path} and the generated images do not agree: {_listed(judged ^ made)}")
    for image in report.images:
        if image.verdict != Verdict.APPROVED:
            continue
        place = Path(image.copied_to or "")
        if not place.is_file() or place.parent.resolve() != approved.resolve() or sha256_of(place) != image.sha256:
            raise _wrong(child, f"{path} approves {image.file}, and its copy is not in {approved}")
    return report


def lora_made(child: Child, path: Path) -> str:
    """Hash of a LoRA file that is whole, with a training log beside it."""
    problem = lora_problem(path)
    if problem:
        raise _wrong(child, f"{path} {problem}")
    log = path.with_name(TRAINING_LOG)
    try:
        told = json.loads(log.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong(child, f"{log} cannot be read: {error}") from error
    if not isinstance(told, dict) or told.get("finished") is not True:
        raise _wrong(child, f'{log} does not tell of a finished training ("finished": true)')
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


def measured(child: Child, folder: Path, loras: Mapping[str, int]) -> Summary:
    """The summary of a run of mirror_metrics.py, with a group for each of `loras` (name -> samples that it drew)."""
    found = sorted(folder.glob("Summary_*.json"))
    if len(found) != 1:
        raise _wrong(child, f"{folder} should hold one Summary_*.json, and holds {len(found)}")
    summary = _contract(child, found[0], Summary)
    groups = {group.name: group for group in summary.groups if group.type == CANDIDATE}
    if lost := loras.keys() - groups.keys():
        raise _wrong(child, f"{found[0]} has no group {_listed(lost)}")
    for name, samples in loras.items():
        one = groups[name]
        if not 0 <= one.faces <= samples:
            raise _wrong(child, f"{found[0]} counts {one.faces} faces of {name}, which drew {samples} samples")
        if not all(map(math.isfinite, (one.identity or 0.0, *(one.identity_interval or ()), *one.angle_bins.values()))):
            raise _wrong(child, f"{found[0]} measured something of {name} that is no number")
    return summary


def sample_scores(child: Child, folder: Path, summary: Summary) -> dict[str, dict[str, float]]:
    """LoRA -> sample -> similarity corrected for pose, from the table beside a summary; empty where there is none."""
    from mirror.faces.metrics import pose_corrected

    scores: dict[str, dict[str, float]] = {}
    table = folder / summary.results.get("data", "")
    if not table.is_file():
        return scores
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row[columns.TYPE] == CANDIDATE and row[columns.SIMILARITY] and row[columns.YAW]:
                    corrected = float(pose_corrected([float(row[columns.SIMILARITY])], [float(row[columns.YAW])])[0])
                    if not math.isfinite(corrected):
                        raise ValueError(f"{row['Filename']} has no number")
                    scores.setdefault(row[columns.GROUP], {})[row[columns.FILENAME]] = round(corrected, 4)
    except KeyError as error:
        raise _wrong(child, f"{table} has no column {error.args[0]}") from error
    except (ValueError, csv.Error) as error:
        raise _wrong(child, f"{table} cannot be read: {error}") from error
    return scores


def _wrong(child: Child, what: str) -> StepError:
    """A result that is not what it should be: what, and where the step's own words are."""
    return StepError(
        f"{child.title}: {what}. What the step said is in {child.log}; put that right and give the same command again."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED])


def _contract(child: Child, path: Path, model: type[Contract]) -> Contract:
    if not path.is_file():
        raise _wrong(child, f"it ended well, and {path} is not there")
    try:
        return read_contract(path, model, cure=f"what the step said is in {child.log}")
    except ContractError as error:
        raise StepError(f"{child.title}: {error}") from error


def read_own(path: Path, model: type[Contract], instead: str) -> Contract:
    """A file that the loop itself wrote. Raises UserError where somebody changed it, with what to do `instead`."""
    try:
        return read_contract(path, model, "bootstrap_loop.py")
    except ContractError as error:
        reason = str(error).rpartition("; run bootstrap_loop.py")[0] or str(error)
        raise UserError(f"{reason}. It was damaged or changed by hand: {instead}") from error
