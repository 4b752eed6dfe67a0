#!/usr/bin/env python3
"""Improve a dataset and its LoRA iteration by iteration: find gaps, generate for them, validate, merge, train, measure.

    python bootstrap_loop.py --config bootstrap_config.json
    python bootstrap_loop.py --config bootstrap_config.json --dry-run      # only print the commands
    python bootstrap_loop.py --config bootstrap_config.json --undo 2       # take the merge of iteration 2 back out
    python bootstrap_loop.py --demo                                        # rendered heads, a simulated generator

reads   dataset_dir              real photos of one person; nothing is ever written there
        lora_output_dir          a lora.safetensors that is there becomes v1; else v1 is trained on the real photos
writes  output_dir               iteration_history.json, gaps_iter1.json, synthetic_iter1/, approved_iter1/,
                                 rejected_iter1/, dataset/ (copies of the photos, and what was merged),
                                 merge_manifest.json, bootstrap_report.html
        lora_output_dir          v1/, v2/ ...: every LoRA; lora.safetensors: the best one

Each step is a script of this project, run as a child process, or the command that the configuration puts in its place.
What a step did is recorded when it ends: the same command goes on after a kill, a power cut, a full disk or a failed
step. The rules by which the loop stops stand in mirror/loop/stopping.py.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import BOOTSTRAP_REQUIREMENTS, PROJECT

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.generation import GenerationMetadata
    from mirror.contracts.history import IterationRecord, LoraRecord
    from mirror.contracts.plan import PromptPlan
    from mirror.contracts.validation import ValidationReport
    from mirror.loop.commands import Commands, Places
    from mirror.loop.config import LoopConfig
    from mirror.loop.state import Loop
    from mirror.loop.steps import Child
    from mirror.loop.stopping import Decision

CONFIG = Path("bootstrap_config.json")
DEMO_FOLDER = PROJECT / "demo_bootstrap"

SHOWN_REASONS = 8  # of an iteration, the commonest; all of them stand in its validation report


# Steps. Each makes its outputs and puts what it learned into the history, which is written when the step has ended.


def do(
    loop: Loop,
    one: IterationRecord,
    step: str,
    child: Child | None,
    inputs: list,
    outputs: list,
    work: Callable[[bool], None],
) -> None:
    """One step, unless it is done."""
    key = [*inputs, *(child.key if child else [])]
    loop.ledger.step(one, step, key, outputs, work, lambda name: forget(loop, one, name))


def forget(loop: Loop, one: IterationRecord, step: str) -> None:
    """Take what a step and the later ones learned out of the history."""
    from mirror.contracts.contract import write_contract
    from mirror.contracts.history import IterationRecord
    from mirror.loop.commands import GAPS, GENERATE, MERGE, STEPS, TRAIN, VALIDATE
    from mirror.loop.merging import sync, without

    later = STEPS[STEPS.index(step) :]
    one.steps = [record for record in one.steps if record.step not in later]
    facts = {
        GAPS: ("gaps", "coverage_before"),
        GENERATE: ("generated",),
        VALIDATE: ("approved", "rejected", "unverified", "approval", "quality", "failures"),
        MERGE: ("merged", "merged_entries", "left_out", "synthetic_share", "coverage"),
        TRAIN: ("lora",),
    }
    fresh = IterationRecord(number=one.number)
    for name in later:
        for field in facts.get(name, ()):
            setattr(one, field, getattr(fresh, field))
    if MERGE in later and any(image.iteration == one.number for image in loop.manifest.merged):
        loop.manifest = without(loop.manifest, one.number)
        write_contract(loop.places.manifest, loop.manifest)
        sync(loop.manifest, loop.places.output)
    if TRAIN in later:
        loop.ledger.history.loras = [lora for lora in loop.ledger.history.loras if lora.iteration != one.number]


def run_fresh(loop: Loop, child: Child, *made: Path) -> None:
    """Run a child in an empty place."""
    from mirror.loop.merging import remove
    from mirror.loop.steps import run_child

    for path in made:
        remove(path)
    run_child(child, loop.locks)


def run_into(loop: Loop, child: Child, folder: Path, again: bool) -> None:
    """Run a child that fills a folder. Ours takes up what it left; of another program nobody knows whether it does, and
    it finds the folder there and empty."""
    from mirror.loop.merging import remove

    if not child.ours:
        folder_is_new(folder)
    elif not again:
        remove(folder)
    run_fresh(loop, child)


def gap_child(loop: Loop, number: int) -> Child:
    """Its page shows what earlier iterations merged, so it says where that was only simulated."""
    from mirror.loop.merging import without

    said, merged = loop.ledger.history.simulated, without(loop.manifest, number).merged
    return loop.commands.gaps(number, f"The synthetic images are {said}." if said and merged else "")


def find_gaps(loop: Loop, one: IterationRecord) -> None:
    from mirror.contracts.history import GapOutcome
    from mirror.loop.commands import GAPS, gaps_made
    from mirror.loop.facts import rounded
    from mirror.loop.merging import fingerprint, without
    from mirror.loop.stopping import coverage

    child, path = gap_child(loop, one.number), loop.places.gaps(one.number)

    def work(again: bool) -> None:
        run_fresh(loop, child, path)
        report = gaps_made(child, path)
        one.gaps = [
            GapOutcome(type=gap.type, target=gap.target, count=gap.count, reason=gap.reason)
            for gap in report.recommendations
        ]
        one.coverage_before = rounded(coverage(report, {}))

    do(loop, one, GAPS, child, [fingerprint(without(loop.manifest, one.number))], [path], work)
    tell(f"✓ Gap Analysis: {counted(len(one.gaps), 'gap')} found")


def generate(loop: Loop, one: IterationRecord) -> GenerationMetadata:
    from mirror.contracts.contract import read_contract
    from mirror.contracts.gaps import GapReport
    from mirror.loop.commands import GENERATE, asked_for, demand_asked, images_made
    from mirror.loop.facts import simulated
    from mirror.loop.steps import content_of

    child = loop.commands.generate(one.number, one.generator, loop.config.seed + one.number)
    folder = loop.places.of("synthetic", one.number)

    def work(again: bool) -> None:
        run_into(loop, child, folder, again)
        metadata = images_made(child, folder)
        gaps = read_contract(loop.places.gaps(one.number), GapReport, "gap_analysis.py")
        if short := demand_asked(child, metadata, asked_for(gaps, loop.config.generation.num_per_gap)):
            note(short)
        one.generated = len(metadata.images)
        loop.ledger.history.simulated = simulated(metadata) or loop.ledger.history.simulated

    do(loop, one, GENERATE, child, [content_of(loop.places.gaps(one.number)), hash_of(loop, one)], [folder], work)
    tell(f"✓ Generated: {counted(one.generated, 'image')}{label(loop)}")
    return images_made(child, folder)


def label(loop: Loop) -> str:
    """Behind every line that rests on simulated images; the table at the end says in full what they are."""
    return " (simulated)" if loop.ledger.history.simulated else ""


def hash_of(loop: Loop, one: IterationRecord) -> str:
    """Of the LoRA that generates in this iteration."""
    return next(lora.sha256 for lora in loop.ledger.history.loras if lora.name == one.generator)


def validate(loop: Loop, one: IterationRecord, metadata: GenerationMetadata) -> ValidationReport:
    from mirror.loop.commands import VALIDATE, validated
    from mirror.loop.facts import note_validation
    from mirror.loop.merging import fingerprint, without
    from mirror.loop.steps import content_of

    child, places, number = loop.commands.validate(one.number), loop.places, one.number
    report, approved = places.report(number), places.of("approved", number)

    def work(again: bool) -> None:
        folders = [places.of(name, number) for name in ("approved", "rejected", "unverified")]
        for folder in folders:
            folder_is_new(folder)
        run_fresh(loop, child, report)
        for folder in folders[1:]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        approved.mkdir(exist_ok=True)  # whatever another program did with it
        note_validation(one, validated(child, report, approved, metadata))

    inputs = [content_of(places.of("synthetic", number)), fingerprint(without(loop.manifest, number))]
    do(loop, one, VALIDATE, child, inputs, [report, approved], work)
    share = "" if one.approval is None else f" ({one.approval:.0%})"
    tell(f"✓ Validation: {one.approved} approved{share}{label(loop)}")
    return validated(child, report, approved, metadata)


def merge(loop: Loop, one: IterationRecord, report: ValidationReport, metadata: GenerationMetadata) -> None:
    from mirror.contracts.contract import read_contract, write_contract
    from mirror.contracts.gaps import GapReport
    from mirror.loop import merging
    from mirror.loop.commands import MERGE
    from mirror.loop.facts import rounded
    from mirror.loop.steps import content_of
    from mirror.loop.stopping import coverage

    config, places, number = loop.config, loop.places, one.number
    lora = (one.generator, hash_of(loop, one))

    def work(again: bool) -> None:
        plan = merging.plan_merge(
            loop.manifest,
            report,
            metadata,
            places.output,
            number,
            lora,
            config.person_trigger,
            config.max_synthetic_share,
        )
        write_contract(places.manifest, plan.manifest)
        loop.manifest = plan.manifest
        merging.sync(loop.manifest, places.output)
        one.merged, one.left_out = len(plan.merged), plan.left_out
        one.merged_entries = merging.entries_of(loop.manifest, number)
        one.synthetic_share = rounded(merging.synthetic_share(loop.manifest))
        added: dict[tuple[str, str], int] = {}
        for image in plan.merged:
            added[image.gap_type, image.target] = added.get((image.gap_type, image.target), 0) + 1
        gaps = read_contract(places.gaps(number), GapReport, "gap_analysis.py")
        one.coverage = rounded(coverage(gaps, added))

    inputs = [content_of(places.report(number)), content_of(places.of("synthetic", number)), lora]
    before = merging.without(loop.manifest, number)
    inputs += [config.person_trigger, config.max_synthetic_share, merging.fingerprint(before)]
    do(loop, one, MERGE, None, inputs, [places.manifest], work)
    tell(f"✓ Merged: {counted(one.merged, 'image')} into dataset{label(loop)}")
    tell_left_out(one)


def tell_left_out(one: IterationRecord) -> None:
    from mirror.loop.merging import CAP, DOUBLE, VANISHED

    words = {
        CAP: "as no more of the dataset may be synthetic (max_synthetic_share)",
        DOUBLE: "as the dataset holds the same already",
        VANISHED: "as the copy changed after validation",
    }
    for reason, count in one.left_out.items():
        note(f"{counted(count, 'approved image')} left out {words[reason]}.")


def train(loop: Loop, one: IterationRecord) -> None:
    """A LoRA from the base model, on all real photos but the held-out ones and all that was merged."""
    from mirror.contracts.history import LoraRecord
    from mirror.loop.commands import TRAIN, lora_made
    from mirror.loop.merging import fingerprint, sha256_of, trained_on
    from mirror.loop.steps import copy_atomic

    name, history = f"v{one.number + 1}", loop.ledger.history
    child, path = loop.commands.train(one.number, name), loop.places.lora(name)
    adopts = history.adopted if one.number == 0 else None

    def work(again: bool) -> None:
        if adopts:
            path.parent.mkdir(parents=True, exist_ok=True)
            copy_atomic(loop.places.best, path)
        else:
            run_into(loop, child, path.parent, again)
        real, merged = (None, None) if adopts else trained_on(loop.manifest)
        sha256 = sha256_of(path) if adopts else lora_made(child, path)
        if sha256 in {lora.sha256 for lora in history.loras}:
            raise UserError(f"{path} is the same as an earlier LoRA: {child.title.lower()} made nothing new.")
        file = path.relative_to(loop.places.loras).as_posix()
        record = LoraRecord(name=name, file=file, sha256=sha256, iteration=one.number, adopted=bool(adopts))
        record.real_images, record.synthetic_images = real, merged
        record.learned_from = [] if adopts else sorted({image.iteration for image in loop.manifest.merged})
        history.loras.append(record)
        one.lora = name

    inputs = [adopts] if adopts else [fingerprint(loop.manifest)]
    do(loop, one, TRAIN, None if adopts else child, inputs, [path], work)
    tell(f"✓ Training: LoRA {name} {'adopted' if adopts else 'complete'}")


def sample(loop: Loop, one: IterationRecord) -> None:
    """The fixed plan with the new LoRA."""
    from mirror.contracts.contract import read_contract
    from mirror.contracts.plan import PromptPlan
    from mirror.loop.commands import SAMPLE, demand_planned, images_made
    from mirror.loop.facts import simulated
    from mirror.loop.steps import content_of

    child, folder = loop.commands.sample(one.number, one.lora), loop.places.samples(one.lora)
    plan = read_contract(loop.places.plan, PromptPlan, "bootstrap_loop.py")
    lora = next(lora for lora in loop.ledger.history.loras if lora.name == one.lora)

    def work(again: bool) -> None:
        run_into(loop, child, folder, again)
        metadata = images_made(child, folder)
        demand_planned(child, metadata, plan)
        lora.samples = len(plan.images)
        loop.ledger.history.simulated = simulated(metadata) or loop.ledger.history.simulated

    do(loop, one, SAMPLE, child, [lora.sha256, content_of(loop.places.plan)], [folder], work)
    tell(f"✓ Samples: {counted(lora.samples, 'image')} of LoRA {one.lora}{label(loop)}")


def sample_again(loop: Loop, now: IterationRecord) -> None:
    """Samples of earlier LoRAs that are gone or were changed are drawn anew: LoRA, plan and seed are still there."""
    from mirror.loop.commands import SAMPLE

    for one in loop.ledger.history.iterations:
        if one is not now and one.lora and not loop.ledger.stands(one, SAMPLE):
            note(f"The samples of {one.lora} are gone or were changed: drawing them again.")
            sample(loop, one)


def measure(loop: Loop, one: IterationRecord) -> None:
    """What the samples of all LoRAs look like, against photos that none of them was trained on."""
    from mirror.loop.commands import MEASURE, measured, sample_scores
    from mirror.loop.facts import note_measures
    from mirror.loop.steps import content_of

    history, folder = loop.ledger.history, loop.places.of("metrics", one.number)
    child = loop.commands.measure(one.number, history.held_out > 0)
    drawn = {lora.name: lora.samples for lora in history.loras}

    def work(again: bool) -> None:
        folder_is_new(folder)
        run_fresh(loop, child)
        summary = measured(child, folder, drawn)
        note_measures(history.loras, summary, sample_scores(child, folder, summary), history.held_out > 0)

    photos = [(photo.sha256, photo.held_out) for photo in loop.manifest.real]
    inputs = [photos, *(content_of(loop.places.samples(name)) for name in drawn)]
    do(loop, one, MEASURE, child, inputs, [], work)
    lora = next(lora for lora in history.loras if lora.name == one.lora)
    tell(f"✓ Identity: {in_words(lora)}, to the {'held-out' if history.held_out else 'real'} photos{label(loop)}")


def folder_is_new(folder: Path) -> None:
    from mirror.loop.merging import remove

    remove(folder)
    folder.mkdir(parents=True)


def in_words(lora: LoraRecord) -> str:
    if lora.identity is None:
        return f"LoRA {lora.name} not measured, a face was found in {lora.faces} of {lora.samples} samples"
    between = "" if lora.identity_interval is None else " ({:.2f} to {:.2f})".format(*lora.identity_interval)
    return f"LoRA {lora.name} {lora.identity:.2f}{between}"


def decide(loop: Loop, one: IterationRecord) -> Decision:
    """What follows; recorded, published and shown."""
    from mirror.contracts.history import StopDecision
    from mirror.loop import stopping
    from mirror.loop.facts import hopeless_gaps, rounded, scores_of
    from mirror.loop.merging import photos_of
    from mirror.loop.state import publish

    history, config = loop.ledger.history, loop.config
    one.photos = photos_of(loop.manifest)
    one.needs_real_photos = hopeless_gaps(history, loop.manifest, one)
    iterations = scores_of(loop.ledger.history, loop.manifest)
    found = stopping.decide(iterations, config.convergence_threshold, config.max_iterations)
    one.score = rounded(iterations[-1].score) if one.lora and one.number else None  # the baseline's is likeness alone
    gain = found.gain
    one.decision = StopDecision(
        stop=found.stop,
        rule=found.rule,
        words=found.words,
        best=found.best,
        improvement_percent=None if gain is None else rounded(100 * gain.change),
        noise_percent=None if gain is None or gain.noise is None else rounded(100 * gain.noise),
    )
    history.best = found.best
    loop.ledger.save()
    publish(loop)
    write_page(loop)
    tell_decision(loop, one, found)
    return found


def tell_decision(loop: Loop, one: IterationRecord, found: Decision) -> None:
    from mirror.loop import stopping

    if found.gain is not None:
        limit, change = loop.config.convergence_threshold, found.gain.change
        side = f"{'below' if change < limit else 'above'} {100 * limit:g}% threshold"
        tell(f"{'✓' if change > 0 else '✗'} Improvement: {change:.1%} ({side}){label(loop)}")
    for gap in one.needs_real_photos:
        tell(f"✗ Needs real photos: {gap}, as fewer than a tenth of its images were approved in two iterations")
    if found.rule in stopping.CONVERGENCE:
        tell("✓ Convergence Achieved!")
    elif found.rule == stopping.WORSE:
        tell("✗ Worse")
    if found.stop or one.number:
        tell(f"{'Stopped: ' if found.stop else ''}{found.words}")


def write_page(loop: Loop) -> None:
    from mirror.contracts.contract import read_contract
    from mirror.contracts.plan import PromptPlan
    from mirror.loop.facts import last_decided
    from mirror.loop.merging import trained_on
    from mirror.loop.stopping import CONVERGENCE, WORSE
    from mirror.report.loop import LoopFacts, build_loop
    from utils.files import write_text_atomic

    history = loop.ledger.history
    plan = read_contract(loop.places.plan, PromptPlan, "bootstrap_loop.py")
    ended = last_decided(history, loop.manifest)
    decision = ended.decision if ended else None
    rule = decision.rule if decision else ""
    facts = LoopFacts(*trained_on(loop.manifest), decision, converged=rule in CONVERGENCE, worse=rule == WORSE)
    page = build_loop(history, loop.manifest, facts, plan, sample_thumbnails(loop, plan), reasons_by_image(loop))
    write_text_atomic(loop.places.page, page)


def sample_thumbnails(loop: Loop, plan: PromptPlan) -> dict[tuple[str, str], bytes]:
    """(LoRA, name in the plan) -> small JPEG."""
    from utils.images import ImageError, decode, read_file, thumbnail

    found = {}
    for lora in loop.ledger.history.loras:
        for one in plan.images:
            for path in loop.places.samples(lora.name).glob(f"{one.name}.*"):
                try:
                    found[lora.name, one.name] = thumbnail(decode(read_file(path)))
                except ImageError:
                    continue
    return found


def reasons_by_image(loop: Loop) -> dict[int, list[str]]:
    """Iteration -> the reasons for which single images were rejected, the commonest first."""
    from collections import Counter

    from mirror.contracts.contract import ContractError, read_contract
    from mirror.contracts.validation import Outcome, ValidationReport
    from mirror.dataset.checks import SAID

    reasons: dict[int, list[str]] = {}
    for one in loop.ledger.history.iterations:
        try:
            report = read_contract(loop.places.report(one.number), ValidationReport, "validate_synthetic.py")
        except ContractError:
            continue
        failed = Counter(
            f"{SAID.get(check.check, check.check)}: {check.reason}"
            for image in report.images
            for check in image.checks
            if check.outcome == Outcome.FAILED
        )
        reasons[one.number] = [f"{count} x {words}" for words, count in failed.most_common(SHOWN_REASONS)]
    return reasons


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def tell(*lines: str) -> None:
    """Lines of the result, at once, also into a pipe. That nobody reads it any more does not end the loop."""
    from mirror.loop.steps import heard_or_not

    with heard_or_not(sys.stdout):
        show(*lines)
        sys.stdout.flush()


def note(sentence: str) -> None:
    """The same for the talk."""
    from mirror.loop.steps import heard_or_not

    with heard_or_not(sys.stderr):
        say(f"Note: {sentence}")


# The story


def iterate(loop: Loop, one: IterationRecord) -> Decision:
    """One iteration, from wherever it was left to its decision."""
    if one.number == 0:
        tell("Iteration 0: the baseline, v1")
        train(loop, one)
    else:
        tell(f"Iteration {one.number} of at most {loop.config.max_iterations}, with LoRA {one.generator}")
        find_gaps(loop, one)
        if not any(gap.count for gap in one.gaps):
            return decide(loop, one)
        metadata = generate(loop, one)
        merge(loop, one, validate(loop, one, metadata), metadata)
        if not one.merged:
            return decide(loop, one)
        train(loop, one)
    sample(loop, one)
    sample_again(loop, one)
    measure(loop, one)
    return decide(loop, one)


def next_iteration(loop: Loop) -> IterationRecord | None:
    """The iteration that is due, begun; None where the loop has ended."""
    one = due(loop)
    return begun(loop, one) if one is not None and one not in loop.ledger.history.iterations else one


def due(loop: Loop) -> IterationRecord | None:
    """The one that did not end, or a new one; None where the loop has ended."""
    from mirror.contracts.history import IterationRecord
    from mirror.loop import stopping

    history = loop.ledger.history
    if not history.iterations:
        return IterationRecord(number=0)
    last = history.iterations[-1]
    if last.decision is None and last.number not in loop.manifest.undone:
        return last
    found = decided(loop)
    lifted = found.rule in stopping.LIFTED_BY_PHOTOS and photos_changed(loop)
    if (found.stop and not lifted) or last.number >= loop.config.max_iterations:
        return None
    return IterationRecord(number=last.number + 1, generator=found.best)


def decided(loop: Loop) -> Decision:
    """What follows from the iterations that count."""
    from mirror.loop import stopping
    from mirror.loop.facts import scores_of

    iterations = scores_of(loop.ledger.history, loop.manifest)
    return stopping.decide(iterations, loop.config.convergence_threshold, loop.config.max_iterations)


def photos_changed(loop: Loop) -> bool:
    """Whether the real photos are others than when it was decided last."""
    from mirror.loop.facts import last_decided
    from mirror.loop.merging import photos_of

    last = last_decided(loop.ledger.history, loop.manifest)
    return last is not None and last.photos != photos_of(loop.manifest)


def begun(loop: Loop, one: IterationRecord) -> IterationRecord:
    """A new iteration; with the first one, generated files among the user's photos enter the dataset."""
    from mirror.contracts.contract import write_contract
    from mirror.loop.merging import sync

    if one.number and not loop.manifest.baseline_is_made:
        loop.manifest = loop.manifest.model_copy(update={"baseline_is_made": True})
        write_contract(loop.places.manifest, loop.manifest)
        sync(loop.manifest, loop.places.output)
    loop.ledger.history.iterations.append(one)
    return one


def tell_end(loop: Loop) -> None:
    """The table of all LoRAs, and where everything lies."""
    history = loop.ledger.history
    rows = [
        [
            lora.name + (" (baseline)" if lora.iteration == 0 else "") + (" *" if lora.name == history.best else ""),
            "?" if lora.real_images is None else str(lora.real_images),
            "?" if lora.synthetic_images is None else str(lora.synthetic_images),
            *(
                "-" if value is None else f"{value:.3f}"
                for value in (lora.identity, *(lora.identity_interval or (None, None)), lora.pose_diversity)
            ),
        ]
        for lora in history.loras
    ]
    columns = ["LoRA", "Real", "Synthetic", "Identity", "from", "to (95 %)", "Pose diversity"]
    said = f" ({history.simulated})" if history.simulated else ""
    print_table(f"LoRAs; * is kept{said}", columns, rows)
    tell(f"best: {loop.places.best}", f"report: {loop.places.page}", f"history: {loop.places.history}")


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.loop.commands import Commands, Places
    from mirror.loop.config import load_config
    from mirror.loop.state import open_loop
    from mirror.loop.steps import StepError
    from mirror.training.presets import PRESETS

    if args.demo_baseline and not args.demo:
        raise UserError("--demo-baseline belongs to --demo; give both.")
    if args.demo:
        from demo.bootstrap_world import prepare

        args.config, args.yes = prepare(args.demo, args.demo_baseline), True
    config = load_config(args.config, PRESETS)
    places = Places(Path(config.output_dir), Path(config.lora_output_dir))
    commands = Commands(config, places, PROJECT if args.demo else args.config.resolve().parent)
    commands.demand_programs()
    if args.dry_run:
        with disk_told(places.output):
            return dry_run(config, commands)
    if args.undo is not None and not places.history.exists():
        raise UserError(f"There is no loop in {places.output}, so there is nothing to undo.")
    begins = args.undo is None and not places.history.exists()
    if begins and not args.yes and sys.stdin.isatty() and not agreed(config):
        return EXIT_OK
    try:
        with disk_told(places.output), locked(places) as locks:
            loop = open_loop(config, commands, locks, undoing=args.undo is not None)
            return run_undo(loop, args.undo) if args.undo is not None else run_loop(loop)
    except StepError as error:
        first, *others = error.lines
        say(f"Error: {first}", *others)
        return error.exit_code


def run_loop(loop: Loop) -> int:
    for warning in loop.ledger.history.warnings:
        note(warning)
    ended_before = True
    while (one := next_iteration(loop)) is not None:
        ended_before = False
        iterate(loop, one)
    if ended_before:
        tell_ended(loop)
        write_page(loop)
    tell_end(loop)
    return EXIT_OK


def tell_ended(loop: Loop) -> None:
    """Why this run does nothing, and what would make it go on."""
    from mirror.loop import stopping

    found, limit = decided(loop), loop.config.max_iterations
    lifted = found.rule in stopping.LIFTED_BY_PHOTOS and photos_changed(loop)
    if found.stop and not lifted:
        tell(f"This loop has ended: {found.words}")
    else:
        tell(f"This loop has ended: it has made its {counted(limit, 'iteration')}; raise max_iterations to go on.")
    if photos_changed(loop) and not lifted:
        tell(
            "The real photos have changed since, which does not lift this stop: "
            "a loop that begins anew, in another output_dir and lora_output_dir, starts from them."
        )


def run_undo(loop: Loop, number: int) -> int:
    """Take an iteration's merge out; one that had not ended is to be made again.

    The manifest alone says what is undone, so doing it twice does no harm.
    """
    from mirror.contracts.contract import write_contract
    from mirror.loop import merging
    from mirror.loop.commands import GAPS
    from mirror.loop.state import settle

    history = loop.ledger.history
    count = sum(image.iteration == number for image in loop.manifest.merged)
    one = next((one for one in history.iterations if one.number == number and number > 0), None)
    if one is None or (one.merged is None and not count and number not in loop.manifest.undone):
        raise UserError(
            f"There is no merge of iteration {number} in {loop.places.history}; --undo takes one that merged."
        )
    learned = [lora.name for lora in history.loras if number in lora.learned_from]
    if one.decision is None:
        forget(loop, one, GAPS)
    else:
        loop.manifest = merging.take_out(loop.manifest, number)
        write_contract(loop.places.manifest, loop.manifest)
        merging.sync(loop.manifest, loop.places.output)
    settle(loop)
    write_page(loop)
    tell(f"✓ Taken out: {counted(count, 'image')} of iteration {number}")
    tell_undone(loop, one, learned)
    return EXIT_OK


def tell_undone(loop: Loop, one: IterationRecord, learned: list[str]) -> None:
    if one.decision is None:
        tell(f"Iteration {one.number} had not ended: the next run makes it again, from its gap analysis.")
    elif learned:
        names = ", ".join(learned)
        tell(f"{names} learned from them: no longer compared, generated with or kept as the best LoRA.")
    tell(f"best: {loop.ledger.history.best}")


def dry_run(config: LoopConfig, commands: Commands) -> int:
    """Every command up to the end of the next iteration, as the shell would take it. Nothing is written or loaded."""
    loop = as_it_stands(config, commands)
    one = due(loop)
    if one is None:
        show("# Nothing would run.")
        tell_ended(loop)
        return EXIT_OK
    if one.number == 0:
        show("# Iteration 0")
        adopted = f"# v1: {loop.places.best} is adopted" if loop.ledger.history.adopted else None
        show(adopted or shell(commands.train(0, "v1")))
        tell_measuring(loop, 0)
    number = max(1, one.number)
    show(f"# Iteration {number} (of at most {config.max_iterations}; later ones alike, with the best LoRA so far)")
    show(shell(gap_child(loop, number)))
    show(shell(commands.generate(number, one.generator or "v1", config.seed + number)))
    show(shell(commands.validate(number)), f"# approved images are merged into {loop.places.dataset}")
    show(shell(commands.train(number, f"v{number + 1}")))
    tell_measuring(loop, number)
    return EXIT_OK


def tell_measuring(loop: Loop, number: int) -> None:
    show(shell(loop.commands.sample(number, f"v{number + 1}")))
    show(shell(loop.commands.measure(number, loop.ledger.history.held_out > 0)))


def as_it_stands(config: LoopConfig, commands: Commands) -> Loop:
    """The loop that is there, or that would begin, with the photos of now; nothing is written."""
    from mirror.loop import merging
    from mirror.loop.state import Loop, new_history, read_loop
    from mirror.loop.steps import Ledger

    places, folder = commands.places, Path(config.dataset_dir)
    try:
        photos = merging.list_real(folder)
    except UserError as error:  # the commands can be shown without photos
        say(f"Note: {error}")
        photos = []
    if places.history.exists():
        history, manifest = read_loop(config, places)
        manifest = merging.with_photos(manifest, merging.with_picture_hashes(photos, folder, manifest.real))
    else:
        history, manifest = new_history(config, places, photos, looks=False)
    return Loop(config, places, commands, Ledger(places.history, history), manifest, ())


def shell(child: Child) -> str:
    return subprocess.list2cmdline(child.command) if sys.platform == "win32" else shlex.join(child.command)


def agreed(config: LoopConfig) -> bool:
    """The one question, on a terminal alone, before hours of work."""
    count = config.max_iterations
    say(f"Up to {count} iteration(s) follow, each with a training from {config.base_model}. --yes does not ask.")
    try:
        return input("Begin? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


@contextmanager
def locked(places: Places) -> Iterator[tuple[int, ...]]:
    """No other loop in either folder."""
    from mirror.loop.lock import only_one

    with ExitStack() as stack:
        for folder in (places.output, places.loras):
            folder.mkdir(parents=True, exist_ok=True)
        yield tuple(stack.enter_context(only_one(folder)) for folder in (places.output, places.loras))


@contextmanager
def disk_told(folder: Path) -> Iterator[None]:
    """What the disk refuses, as a UserError."""
    import errno

    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or folder
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        no_room = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", None))  # Windows has no quota's
        what = "cannot be written" if error.errno in no_room else "cannot be used"
        raise UserError(
            f"{where} {what}: {reason}. Put that right and give the same command again: it goes on."
        ) from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "bootstrap_loop.py",
        __doc__,
        "Exit codes: 0 the loop ended by one of its rules, 2 something to change (one sentence says what), "
        "1 our fault, 130 interrupted. The same command goes on where the loop was left.",
    )
    add = parser.add_argument
    add(
        "--config",
        type=options.path,
        default=CONFIG,
        metavar="FILE",
        help="JSON file; docs/bootstrap-loop.md explains every key",
    )
    add("--dry-run", action="store_true", help="only print every command that would run; needs no model")
    add("--undo", type=int, metavar="N", help="take the images that iteration N merged back out of the dataset")
    add(
        "--demo",
        type=options.path,
        nargs="?",
        const=DEMO_FOLDER,
        metavar="DIR",
        help="the whole loop on rendered heads, offline and in minutes, in DIR; its generator is simulated "
        f"(without DIR: {DEMO_FOLDER.name} beside this script)",
    )
    add("--demo-baseline", action="store_true", help="with --demo: a generator that never improves")
    add("--yes", action="store_true", help="begin without asking; nothing is ever asked outside a terminal")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def end_like_ctrl_c() -> None:
    """A request to end, or a terminal that closes, is Ctrl-C: the step and all that it started end with the loop."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(number, signal.default_int_handler)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    end_like_ctrl_c()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
