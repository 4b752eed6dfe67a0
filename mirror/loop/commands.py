"""What the bootstrap loop runs for each step, and what it demands of the result, whoever made it.

A step is one of our scripts, or the `command` that the configuration puts in its place; both are held to the same
contract: the files are there, they are new (the step began with an empty index), they are whole, and they parse.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from mirror.contracts.contract import Contract, ContractError, read_contract
from mirror.contracts.plan import PlannedPrompt, PromptPlan
from mirror.loop.config import PLACEHOLDERS, LoopConfig, filled
from mirror.loop.photos import DATASET, HELD_OUT, REAL
from mirror.loop.steps import Child
from utils.console import UserError
from utils.defaults import PACK, PROJECT

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
_SEED_STEP = 7919  # a prime, so that the seeds of a plan are not those of neighbouring plans


class LoopPaths:
    """Where everything of a loop lies."""

    def __init__(self, output: Path, loras: Path):
        self.output, self.loras = output, loras
        self.dataset, self.real, self.held_out = (output / name for name in (DATASET, REAL, HELD_OUT))
        self.history, self.manifest, self.page, self.plan = (output / name for name in (HISTORY, MANIFEST, PAGE, PLAN))
        self.cache = output / "cache.sqlite"
        self.best = loras / LORA_FILE

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


@dataclass(frozen=True)
class Commands:
    """The commands of one configuration. `folder` is where commands of the user's own run: beside the configuration."""

    config: LoopConfig
    paths: LoopPaths
    folder: Path

    def gaps(self, number: int, note: str = "") -> Child:
        config, output = self.config, self.paths.gaps(number)
        own = ["gap_analysis.py", self.paths.dataset, "--models-dir", config.models_dir, "--output", output]
        own += ["--max-synthetic-share", config.max_synthetic_share, "--cache", self.paths.cache, *self._models()]
        own += ["--goals", config.gap_analysis.goals] if config.gap_analysis.goals else []
        own += ["--note", note] if note else []
        values = {"output": output, "max_synthetic_share": config.max_synthetic_share}
        return self._child("Gap analysis", "gap_analysis", number, GAPS, own, values)

    def generate(self, number: int, lora: str, seed: int) -> Child:
        """Images for the gaps of an iteration."""
        gaps, output = self.paths.gaps(number), self.paths.of("synthetic", number)
        values = {"gaps": gaps, "prompts": "", "output": output, "seed": seed}
        count = self.config.generation.candidates
        candidates = ["--candidates", count] if count > 1 else []
        return self._generation("Generation", number, GENERATE, lora, values, [gaps, *candidates])

    def sample(self, number: int, lora: str) -> Child:
        """The fixed plan with a LoRA."""
        values = {"gaps": "", "prompts": self.paths.plan, "output": self.paths.samples(lora)}
        return self._generation("Sampling", number, SAMPLE, lora, values, ["--prompts-file", self.paths.plan])

    def _generation(self, title: str, number: int, step: str, lora: str, values: dict, first: list) -> Child:
        config, wanted = self.config, self.config.generation
        file = self.paths.lora(lora)
        own = ["generate_synthetic.py", *first, "--base-model", config.base_model, "--lora", file]
        own += ["--person", config.person_trigger, "--output", values["output"], "--num-per-gap", wanted.num_per_gap]
        own += ["--seed", values.get("seed", config.seed)]
        steps, guidance = wanted.num_inference_steps, wanted.guidance_scale
        own += [] if steps is None else ["--steps", steps]
        own += [] if guidance is None else ["--guidance", guidance]
        more = {"lora": file, "num_per_gap": wanted.num_per_gap, "steps": steps, "guidance": guidance}
        more["candidates"] = wanted.candidates
        return self._child(title, "generation", number, step, own, values | more)

    def validate(self, number: int) -> Child:
        config, paths = self.config, self.paths
        folder, report = paths.of("synthetic", number), paths.report(number)
        sorted_into = {name: paths.of(name, number) for name in ("approved", "rejected", "unverified")}
        own = ["validate_synthetic.py", folder, "--models-dir", config.models_dir, "--reference", paths.dataset]
        for name, index in sorted_into.items():
            own += [f"--{name}", index]
        own += ["--report", report, "--cache", paths.cache, *self._models()]
        allowed = config.validation.allow_unverified
        own += ["--allow-unverified", ",".join(allowed)] if allowed else []
        own += [] if config.validation.auto_filter else ["--no-auto-filter"]
        values = {"folder": folder, "references": paths.dataset, "report": report} | sorted_into
        return self._child("Validation", "validation", number, VALIDATE, own, values)

    def train(self, number: int, lora: str) -> Child:
        config, wanted, output = self.config, self.config.training, self.paths.lora(lora).parent
        own = ["train_lora.py", self.paths.dataset, "--base-model", config.base_model, "--output", output]
        own += ["--trigger", config.person_trigger, "--preset", wanted.preset]
        own += ["--steps", wanted.steps] if wanted.steps else ["--epochs", wanted.epochs]
        seed = config.seed + number if config.real_photos_only else config.seed
        own += ["--seed", seed, "--resume", "--models-dir", config.models_dir, "--cache", self.paths.cache]
        own += ["--synthetic-weight", wanted.synthetic_weight] if number and wanted.synthetic_weight < 1 else []
        values = {"output": output, "preset": wanted.preset, "epochs": wanted.epochs, "seed": seed}
        values["synthetic_weight"] = wanted.synthetic_weight
        return self._child("Training", "training", number, TRAIN, own + self._pack(), values)

    def measure(self, number: int, has_holdout: bool) -> Child:
        output, paths = self.paths.of("metrics", number), self.paths
        own = ["mirror_metrics.py", "--reference", paths.real, "--candidates", paths.samples(), "--output", output]
        own += ["--holdout", paths.held_out] if has_holdout else []
        own += ["--cache", paths.cache, *self._pack(always=True)]
        values = {"references": paths.real, "candidates": paths.samples(), "output": output}
        values["holdout"] = paths.held_out if has_holdout else ""
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

    def _models(self) -> list[str]:
        """What looks at pictures: the pack, and the expression model where one is named."""
        named = self.config.expression_model
        return [*self._pack(), *(["--expression-model", named] if named else [])]

    def _pack(self, always: bool = False) -> list[str]:
        """The model pack: by its folder where it lies in models_dir, as the scripts look for names elsewhere."""
        name = self.config.pack or PACK
        inside = Path(self.config.models_dir) / name
        if inside.is_dir():
            return ["--pack", str(inside)]
        return ["--pack", name] if always or self.config.pack else []

    def _child(self, title: str, section: str, number: int, step: str, own: list, values: dict) -> Child:
        config, settings = self.config, getattr(self.config, section)
        log = self.paths.log(number, step)
        if settings.command is None:
            command = [sys.executable, str(PROJECT / own[0]), *map(str, own[1:]), *settings.options]
            return Child(title, command, log, self.folder)
        values = {
            "python": sys.executable,
            "models_dir": config.models_dir,
            "person": config.person_name,
            "trigger": config.person_trigger,
            "base_model": config.base_model,
            "dataset": self.paths.dataset,
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
        turn, which = divmod(index, len(targets))
        target = targets[which]
        words = target.prompts[turn % len(target.prompts)]
        images.append(
            PlannedPrompt(
                prompt=f"photo of {trigger}, {words}, high quality, natural light",
                seed=(seed + _SEED_STEP * (index + 1)) % 2**31,
                name=f"sample_{index + 1:02d}_{target.name}",
            )
        )
    return PromptPlan(images=images)


def read_own(path: Path, model: type[Contract], instead: str) -> Contract:
    """A file that the loop itself wrote. Raises UserError where somebody changed it, with what to do `instead`."""
    try:
        return read_contract(path, model, "bootstrap_loop.py")
    except ContractError as error:
        reason = str(error).rpartition("; run bootstrap_loop.py")[0] or str(error)
        raise UserError(f"{reason}. It was damaged or changed by hand: {instead}") from error
