"""The steps of one iteration, each an object: what it reads, what it makes, what it records, what it says.

`Step.run` does a step unless it is done already: the ledger compares the hashes of its inputs, and of what it made.
What a step records in the history is named once, in `records`, so that a step that is done again first forgets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from mirror.contracts.contract import read_contract, write_contract
from mirror.contracts.gaps import GapKey, GapReport
from mirror.contracts.generation import GenerationMetadata
from mirror.contracts.history import WHY_LEFT_OUT, GapOutcome, IterationRecord, LoraRecord
from mirror.contracts.plan import PromptPlan
from mirror.contracts.validation import ValidationReport
from mirror.loop import merging
from mirror.loop.commands import GAPS, GENERATE, MEASURE, MERGE, SAMPLE, TRAIN, VALIDATE
from mirror.loop.facts import note_measures, note_validation, rounded, simulated
from mirror.loop.results import (
    asked_for,
    demand_asked,
    demand_planned,
    gaps_made,
    images_made,
    lora_made,
    measured,
    metadata_of,
    sample_scores,
    unmeasured_targets,
    validated,
)
from mirror.loop.state import Loop
from mirror.loop.steps import Child, CrashError, content_of, copy_atomic, digest, run_child
from mirror.loop.stopping import coverage
from mirror.loop.talk import counted, note, tell
from utils.console import UserError
from utils.files import sha256_of


class Step:
    """One step of an iteration. Subclasses say what is theirs; `run` is the same for all."""

    name: str
    records: tuple[str, ...] = ()  # fields of IterationRecord that `make` sets

    def __init__(self, loop: Loop, iteration: IterationRecord):
        self.loop, self.iteration = loop, iteration
        self.child = self.command()

    def command(self) -> Child | None:
        """The process that does the work; None where the loop does it itself."""
        return None

    def inputs(self) -> list:
        """What decides the result besides the command: with other inputs a step is done again."""
        return []

    def outputs(self) -> list[Path]:
        """Files and folders whose content must stay what it was, or the step is done again."""
        return []

    def make(self, again: bool) -> None:
        """Make the outputs, check them, and record what was learned. `again`: begun before, and not ended."""
        raise NotImplementedError

    @classmethod
    def forget(cls, loop: Loop, iteration: IterationRecord) -> None:
        """Take back what this step changed beside the fields in `records`."""

    def line(self) -> str:
        """What the console says when the step is done."""
        raise NotImplementedError

    def run(self) -> None:
        """Do the step unless it is done, and say so. After a crash it is taken up once more, as by the same command."""
        try:
            self._do()
        except CrashError as crash:
            note(f"{crash.lines[0].partition('. ')[0]}: a library crashed. The step is tried once more.")
            self.child = replace(self.child, again=True)
            self._do()
        tell(f"  {self.line()}")

    def _do(self) -> None:
        self.loop.ledger.step(self, lambda: forget(self.loop, self.iteration, self.name))

    def key(self) -> str:
        """Hash of all that decides the result."""
        return digest([*self.inputs(), *(self.child.key if self.child else [])])

    def run_child(self, *made: Path) -> None:
        """Run the child; what it is to make is not there yet."""
        for path in made:
            merging.remove(path)
        run_child(self.child, self.loop.locks)

    def run_child_into(self, folder: Path, again: bool) -> None:
        """Run a child that fills a folder. Ours takes up what it left; of another program nobody knows whether it does,
        and it finds the folder there and empty."""
        if not self.child.ours:
            merging.new_folder(folder)
        elif not again:
            merging.remove(folder)
        self.run_child()


def forget(loop: Loop, iteration: IterationRecord, name: str) -> None:
    """Take what a step and the later ones learned out of the history."""
    later = ORDER[[step.name for step in ORDER].index(name) :]
    names = {step.name for step in later}
    iteration.steps = [record for record in iteration.steps if record.step not in names]
    fresh = IterationRecord(number=iteration.number)
    for step in later:
        for field in step.records:
            setattr(iteration, field, getattr(fresh, field))
        step.forget(loop, iteration)


def label(loop: Loop) -> str:
    """Behind every line that rests on simulated images; the table at the end says in full what they are."""
    return " (simulated)" if loop.ledger.history.simulated else ""


def lora_of(loop: Loop, name: str) -> LoraRecord:
    return next(lora for lora in loop.ledger.history.loras if lora.name == name)


class FindGaps(Step):
    """What the working dataset lacks."""

    name, records = GAPS, ("gaps", "coverage_before")

    def command(self) -> Child:
        # its page shows what earlier iterations merged, so it says where that was only simulated
        said = self.loop.ledger.history.simulated
        merged = merging.without(self.loop.manifest, self.iteration.number).merged
        note_on_page = f"The synthetic images are {said}." if said and merged else ""
        return self.loop.commands.gaps(self.iteration.number, note_on_page)

    @property
    def path(self) -> Path:
        return self.loop.paths.gaps(self.iteration.number)

    @cached_property
    def report(self) -> GapReport:
        """As it was written, read once."""
        return gaps_made(self.child, self.path)

    @property
    def wanted(self) -> dict[GapKey, int]:
        """Gap -> images that are to be merged for it."""
        return asked_for(self.report, self.loop.config.generation.num_per_gap)

    def inputs(self) -> list:
        return [merging.fingerprint(merging.without(self.loop.manifest, self.iteration.number))]

    def outputs(self) -> list[Path]:
        return [self.path]

    def make(self, again: bool) -> None:
        self.run_child(self.path)
        self.iteration.gaps = [
            GapOutcome(**gap.key._asdict(), count=gap.count, reason=gap.reason) for gap in self.report.recommendations
        ]
        self.iteration.coverage_before = rounded(coverage(self.report, {}))

    def line(self) -> str:
        found, before = len(self.iteration.gaps), self._gaps_before()
        better = " (improving!)" if before is not None and found < before else ""
        return f"✓ Gap Analysis: {counted(found, 'gap')} found{better}"

    def _gaps_before(self) -> int | None:
        """Gaps of the iteration before this one."""
        earlier = [one for one in self.loop.ledger.history.iterations if one.number < self.iteration.number]
        return None if not earlier or earlier[-1].gaps is None else len(earlier[-1].gaps)


class Generate(Step):
    """Images for the gaps, with the best LoRA so far."""

    name, records = GENERATE, ("generated",)

    def __init__(self, loop: Loop, iteration: IterationRecord, gaps: FindGaps):
        super().__init__(loop, iteration)
        self.gaps = gaps

    def command(self) -> Child:
        number = self.iteration.number
        return self.loop.commands.generate(number, self.iteration.generator, self.loop.config.seed + number)

    @property
    def folder(self) -> Path:
        return self.loop.paths.of("synthetic", self.iteration.number)

    @cached_property
    def metadata(self) -> GenerationMetadata:
        """As it was written, read once; where `make` ran in this process, every image was looked at too."""
        return metadata_of(self.child, self.folder)

    def inputs(self) -> list:
        return [content_of(self.gaps.path), lora_of(self.loop, self.iteration.generator).sha256]

    def outputs(self) -> list[Path]:
        return [self.folder]

    def make(self, again: bool) -> None:
        history = self.loop.ledger.history
        self.run_child_into(self.folder, again)
        self.metadata = images_made(self.child, self.folder)
        candidates = self.loop.config.generation.candidates_asked_for
        asked = {gap: candidates * count for gap, count in self.gaps.wanted.items()}
        if short := demand_asked(self.child, self.metadata, asked):
            note(short)
        for gap in self.iteration.gaps:
            gap.wanted = self.gaps.wanted.get(gap.key, 0)
        self.iteration.generated = len(self.metadata.images)
        history.simulated = simulated(self.metadata) or history.simulated

    def line(self) -> str:
        return f"✓ Generated: {counted(self.iteration.generated, 'image')}{label(self.loop)}"


class Validate(Step):
    """Which of them may enter the dataset."""

    name = VALIDATE
    records = ("approved", "rejected", "unverified", "approval", "quality", "failures")

    def __init__(self, loop: Loop, iteration: IterationRecord, generated: Generate):
        super().__init__(loop, iteration)
        self.generated = generated

    def command(self) -> Child:
        return self.loop.commands.validate(self.iteration.number)

    @property
    def path(self) -> Path:
        return self.loop.paths.report(self.iteration.number)

    @property
    def approved(self) -> Path:
        return self.loop.paths.of("approved", self.iteration.number)

    @cached_property
    def report(self) -> ValidationReport:
        """As it was written, read and checked once."""
        is_sorted = self.loop.config.validation.auto_filter
        return validated(self.child, self.path, self.approved if is_sorted else None, self.generated.metadata)

    def inputs(self) -> list:
        before = merging.without(self.loop.manifest, self.iteration.number)
        return [content_of(self.generated.folder), merging.fingerprint(before)]

    def outputs(self) -> list[Path]:
        return [self.path, self.approved]

    def make(self, again: bool) -> None:
        number = self.iteration.number
        folders = [self.loop.paths.of(name, number) for name in ("approved", "rejected", "unverified")]
        for folder in folders:
            merging.new_folder(folder)
        self.run_child(self.path)
        *documented, unverified = folders
        if unverified.is_dir() and not any(unverified.iterdir()):
            unverified.rmdir()
        for folder in documented:
            folder.mkdir(exist_ok=True)  # whatever another program did with it
        note_validation(self.iteration, self.report)
        for reason in unmeasured_targets(self.report):
            note(f"Unverified, and so not merged: {reason}.")

    def line(self) -> str:
        approval = self.iteration.approval
        share = "" if approval is None else f" ({approval:.0%})"
        return f"✓ Validation: {self.iteration.approved} approved{share}{label(self.loop)}"


class Merge(Step):
    """Approved images enter the working dataset: the manifest first, the folders follow it."""

    name = MERGE
    records = ("merged", "merged_entries", "left_out", "synthetic_share", "coverage")

    def __init__(self, loop: Loop, iteration: IterationRecord, gaps: FindGaps, validation: Validate):
        super().__init__(loop, iteration)
        self.gaps, self.validation = gaps, validation

    @property
    def source(self) -> merging.Source:
        generator = lora_of(self.loop, self.iteration.generator)
        return merging.Source(self.iteration.number, generator.name, generator.sha256, self.loop.config.person_trigger)

    def inputs(self) -> list:
        config, source = self.loop.config, self.source
        before = merging.without(self.loop.manifest, self.iteration.number)
        inputs = [content_of(self.validation.path), content_of(self.validation.generated.folder)]
        inputs += [(source.lora, source.lora_sha256), config.person_trigger, config.max_synthetic_share]
        return [*inputs, merging.fingerprint(before)]

    def outputs(self) -> list[Path]:
        return [self.loop.paths.manifest]

    def make(self, again: bool) -> None:
        loop, iteration = self.loop, self.iteration
        metadata, output = self.validation.generated.metadata, loop.paths.output
        share, wanted = loop.config.max_synthetic_share, self.gaps.wanted
        merge = merging.plan_merge(loop.manifest, self.validation.report, metadata, output, self.source, share, wanted)
        set_manifest(loop, merge.manifest)
        iteration.merged, iteration.left_out = len(merge.merged), merge.left_out
        iteration.merged_entries = merging.entries_of(loop.manifest, iteration.number)
        iteration.synthetic_share = rounded(merging.synthetic_share(loop.manifest))
        added = Counter(image.key for image in merge.merged)
        iteration.coverage = rounded(coverage(self.gaps.report, added))

    @classmethod
    def forget(cls, loop: Loop, iteration: IterationRecord) -> None:
        if any(image.iteration == iteration.number for image in loop.manifest.merged):
            set_manifest(loop, merging.without(loop.manifest, iteration.number))

    def line(self) -> str:
        return f"✓ Merged: {counted(self.iteration.merged, 'image')} into dataset{label(self.loop)}"

    def run(self) -> None:
        super().run()
        for reason, count in self.iteration.left_out.items():
            note(f"{counted(count, 'approved image')} left out {WHY_LEFT_OUT[reason]}.")


class Train(Step):
    """A LoRA from the base model, on all real photos but the held-out ones and all that was merged."""

    name, records = TRAIN, ("lora",)

    def __init__(self, loop: Loop, iteration: IterationRecord):
        self.lora = f"v{iteration.number + 1}"
        self.adopts = loop.ledger.history.adopted if iteration.number == 0 else None
        super().__init__(loop, iteration)

    def command(self) -> Child | None:
        return None if self.adopts else self.loop.commands.train(self.iteration.number, self.lora)

    @property
    def path(self) -> Path:
        return self.loop.paths.lora(self.lora)

    def inputs(self) -> list:
        return [self.adopts] if self.adopts else [merging.fingerprint(self.loop.manifest)]

    def outputs(self) -> list[Path]:
        return [self.path]

    def make(self, again: bool) -> None:
        paths, history = self.loop.paths, self.loop.ledger.history
        record = LoraRecord(name=self.lora, file="", sha256="", iteration=self.iteration.number)
        if self.adopts:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            copy_atomic(paths.best, self.path)
            record.adopted, record.sha256 = True, sha256_of(self.path)
        else:
            self.run_child_into(self.path.parent, again)
            record.real_images, record.synthetic_images = merging.trained_on(self.loop.manifest)
            record.sha256 = lora_made(self.child, self.path)
            record.learned_from = sorted({image.iteration for image in self.loop.manifest.merged})
        if record.sha256 in {lora.sha256 for lora in history.loras}:
            raise UserError(f"{self.path} is the same as an earlier LoRA: the training made nothing new.")
        record.file = self.path.relative_to(paths.loras).as_posix()
        history.loras.append(record)
        self.iteration.lora = self.lora

    @classmethod
    def forget(cls, loop: Loop, iteration: IterationRecord) -> None:
        history = loop.ledger.history
        history.loras = [lora for lora in history.loras if lora.iteration != iteration.number]

    def line(self) -> str:
        return f"✓ Training: LoRA {self.lora} {'adopted' if self.adopts else 'complete'}"


class Sample(Step):
    """The fixed plan with the new LoRA."""

    name = SAMPLE

    def __init__(self, loop: Loop, iteration: IterationRecord):
        self.lora = lora_of(loop, iteration.lora)
        super().__init__(loop, iteration)

    def command(self) -> Child:
        return self.loop.commands.sample(self.iteration.number, self.lora.name)

    @property
    def folder(self) -> Path:
        return self.loop.paths.samples(self.lora.name)

    def inputs(self) -> list:
        return [self.lora.sha256, content_of(self.loop.paths.plan)]

    def outputs(self) -> list[Path]:
        return [self.folder]

    def make(self, again: bool) -> None:
        history = self.loop.ledger.history
        plan = read_contract(self.loop.paths.plan, PromptPlan, "bootstrap_loop.py")
        self.run_child_into(self.folder, again)
        metadata = images_made(self.child, self.folder)
        demand_planned(self.child, metadata, plan)
        self.lora.samples = len(plan.images)
        history.simulated = simulated(metadata) or history.simulated

    def line(self) -> str:
        return f"✓ Samples: {counted(self.lora.samples, 'image')} of LoRA {self.lora.name}{label(self.loop)}"


class Measure(Step):
    """What the samples of all LoRAs look like, against photos that none of them was trained on."""

    name = MEASURE

    def command(self) -> Child:
        return self.loop.commands.measure(self.iteration.number, self.loop.ledger.history.held_out > 0)

    def inputs(self) -> list:
        photos = [(photo.sha256, photo.held_out) for photo in self.loop.manifest.real]
        loras = self.loop.ledger.history.loras
        return [photos, *(content_of(self.loop.paths.samples(lora.name)) for lora in loras)]

    def make(self, again: bool) -> None:
        history, folder = self.loop.ledger.history, self.loop.paths.of("metrics", self.iteration.number)
        merging.new_folder(folder)
        self.run_child()
        summary = measured(self.child, folder, {lora.name: lora.samples for lora in history.loras})
        scores = sample_scores(self.child, folder, summary)
        note_measures(history.loras, summary, scores, history.held_out > 0)

    def line(self) -> str:
        lora, has_holdout = lora_of(self.loop, self.iteration.lora), self.loop.ledger.history.held_out > 0
        words = f"not measured, a face was found in {lora.faces} of {lora.samples} samples"
        if lora.identity is not None:
            interval = "" if lora.identity_interval is None else " ({:.2f} to {:.2f})".format(*lora.identity_interval)
            words = f"{lora.identity:.2f}{interval}"
        photos = "held-out" if has_holdout else "real"
        return f"✓ Identity: LoRA {lora.name} {words}, to the {photos} photos{label(self.loop)}"


ORDER: Sequence[type[Step]] = (FindGaps, Generate, Validate, Merge, Train, Sample, Measure)


def set_manifest(loop: Loop, manifest: object) -> None:
    """Write the manifest, then make the folders follow it."""
    loop.manifest = manifest
    write_contract(loop.paths.manifest, manifest)
    merging.sync(manifest, loop.paths.output)


def restore_lost_samples(loop: Loop, now: IterationRecord) -> None:
    """Generate samples of earlier LoRAs again where they are gone or were changed: LoRA, plan and seed are there."""
    for iteration in loop.ledger.history.iterations:
        if iteration is not now and iteration.lora and not loop.ledger.stands(iteration, SAMPLE):
            note(f"The samples of {iteration.lora} are gone or were changed: generating them again.")
            Sample(loop, iteration).run()
