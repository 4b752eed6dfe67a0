#!/usr/bin/env python3
"""Improve a dataset and its LoRA round by round: find gaps, generate for them, validate, merge, train, measure.

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
step. The rules by which the loop stops stand in utils/stopping.py.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils.console import EXIT_OK, UserError, print_table, run_script, say
from utils.defaults import PROJECT

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from utils.contracts import (
        GenerationMetadata,
        IterationRecord,
        LoraRecord,
        PromptPlan,
        ValidationReport,
    )
    from utils.loop_commands import Commands, Places
    from utils.loop_config import LoopConfig
    from utils.loop_state import Loop
    from utils.steps import Child
    from utils.stopping import Decision

CONFIG = Path("bootstrap_config.json")
DEMO_FOLDER = PROJECT / "demo_bootstrap"

VERSION = "0.1.0"
BOOTSTRAP = "requirements/bootstrap.txt"


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
    from utils.contracts import IterationRecord, write_contract
    from utils.loop_commands import GAPS, GENERATE, MERGE, STEPS, TRAIN, VALIDATE
    from utils.merging import sync, without

    later = STEPS[STEPS.index(step) :]
    one.steps = [record for record in one.steps if record.step not in later]
    facts = {
        GAPS: ("gaps", "coverage_before"),
        GENERATE: ("generated",),
        VALIDATE: ("approved", "rejected", "unverified", "approval", "quality", "failures"),
        MERGE: ("merged", "left_out", "synthetic_share", "coverage"),
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
    from utils.merging import remove
    from utils.steps import run_child

    for path in made:
        remove(path)
    run_child(child, loop.locks)


def find_gaps(loop: Loop, one: IterationRecord) -> None:
    from utils.contracts import GapOutcome
    from utils.loop_commands import GAPS, gaps_made
    from utils.loop_facts import rounded
    from utils.merging import fingerprint, without
    from utils.stopping import coverage

    child, path = loop.commands.gaps(one.number), loop.places.gaps(one.number)

    def work(again: bool) -> None:
        run_fresh(loop, child, path)
        report = gaps_made(child, path)
        one.gaps = [
            GapOutcome(type=gap.type, target=gap.target, count=gap.count, reason=gap.reason)
            for gap in report.recommendations
        ]
        one.coverage_before = rounded(coverage(report, {}))

    do(loop, one, GAPS, child, [fingerprint(without(loop.manifest, one.number))], [path], work)
    print(f"✓ Gap Analysis: {counted(len(one.gaps), 'gap')} found")


def generate(loop: Loop, one: IterationRecord) -> GenerationMetadata:
    from utils.loop_commands import GENERATE, images_made
    from utils.loop_facts import simulated
    from utils.steps import content_of

    child = loop.commands.generate(one.number, one.generator, loop.config.seed + one.number)
    folder = loop.places.of("synthetic", one.number)

    def work(again: bool) -> None:
        # our own script takes up what it left; of another program nobody knows whether it does
        run_fresh(loop, child, *([] if again and child.ours else [folder]))
        metadata = images_made(child, folder)
        one.generated = len(metadata.images)
        loop.ledger.history.simulated = simulated(metadata) or loop.ledger.history.simulated

    do(loop, one, GENERATE, child, [content_of(loop.places.gaps(one.number)), hash_of(loop, one)], [folder], work)
    print(f"✓ Generated: {counted(one.generated, 'image')}{label(loop)}")
    return images_made(child, folder)


def label(loop: Loop) -> str:
    return f" ({loop.ledger.history.simulated})" if loop.ledger.history.simulated else ""


def hash_of(loop: Loop, one: IterationRecord) -> str:
    """Of the LoRA that generates in this iteration."""
    return next(lora.sha256 for lora in loop.ledger.history.loras if lora.name == one.generator)


def validate(loop: Loop, one: IterationRecord, metadata: GenerationMetadata) -> ValidationReport:
    from utils.loop_commands import VALIDATE, validated
    from utils.loop_facts import note_validation
    from utils.merging import fingerprint, without
    from utils.steps import content_of

    child, places, number = loop.commands.validate(one.number), loop.places, one.number
    report, approved = places.report(number), places.of("approved", number)

    def work(again: bool) -> None:
        run_fresh(loop, child, report, approved, places.of("rejected", number), places.of("unverified", number))
        approved.mkdir(exist_ok=True)
        note_validation(one, validated(child, report, approved, metadata))

    inputs = [content_of(places.of("synthetic", number)), fingerprint(without(loop.manifest, number))]
    do(loop, one, VALIDATE, child, inputs, [report, approved], work)
    share = "" if one.approval is None else f" ({one.approval:.0%})"
    print(f"✓ Validation: {one.approved} approved{share}")
    return validated(child, report, approved, metadata)


def merge(loop: Loop, one: IterationRecord, report: ValidationReport, metadata: GenerationMetadata) -> None:
    from utils import merging
    from utils.contracts import GapReport, read_contract, write_contract
    from utils.loop_commands import MERGE
    from utils.loop_facts import rounded
    from utils.steps import content_of
    from utils.stopping import coverage

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
    print(f"✓ Merged: {counted(one.merged, 'image')} into dataset")
    tell_left_out(one)


def tell_left_out(one: IterationRecord) -> None:
    from utils.merging import CAP, DOUBLE, VANISHED

    words = {
        CAP: "as no more of the dataset may be synthetic (max_synthetic_share)",
        DOUBLE: "that the dataset holds already",
        VANISHED: "that changed after validation",
    }
    for reason, count in one.left_out.items():
        say(f"Left out: {counted(count, 'approved image')} {words[reason]}.")


def train(loop: Loop, one: IterationRecord) -> None:
    """A LoRA from the base model, on all real photos but the held-out ones and all that was merged."""
    from utils.contracts import LoraRecord
    from utils.loop_commands import TRAIN, lora_made
    from utils.merging import fingerprint, sha256_of, trained_on
    from utils.steps import copy_atomic

    name, history = f"v{one.number + 1}", loop.ledger.history
    child, path = loop.commands.train(one.number, name), loop.places.lora(name)
    adopts = history.adopted if one.number == 0 else None

    def work(again: bool) -> None:
        if adopts:
            path.parent.mkdir(parents=True, exist_ok=True)
            copy_atomic(loop.places.best, path)
        else:
            run_fresh(loop, child, *([] if again and child.ours else [path.parent]))
        real, merged = (None, None) if adopts else trained_on(loop.manifest)
        sha256 = sha256_of(path) if adopts else lora_made(child, path)
        if sha256 in {lora.sha256 for lora in history.loras}:
            raise UserError(f"{path} is the same as an earlier LoRA: {child.title.lower()} made nothing new.")
        file = path.relative_to(loop.places.loras).as_posix()
        record = LoraRecord(name=name, file=file, sha256=sha256, iteration=one.number, adopted=bool(adopts))
        record.real_images, record.synthetic_images = real, merged
        history.loras.append(record)
        one.lora = name

    inputs = [adopts] if adopts else [fingerprint(loop.manifest)]
    do(loop, one, TRAIN, None if adopts else child, inputs, [path], work)
    print(f"✓ Training: LoRA {name} {'adopted' if adopts else 'complete'}")


def sample(loop: Loop, one: IterationRecord) -> None:
    """The fixed plan with the new LoRA."""
    from utils.contracts import PromptPlan, read_contract
    from utils.loop_commands import SAMPLE, images_made
    from utils.loop_facts import simulated
    from utils.steps import content_of

    child, folder = loop.commands.sample(one.number, one.lora), loop.places.samples(one.lora)
    plan = read_contract(loop.places.plan, PromptPlan, "bootstrap_loop.py")
    lora = next(lora for lora in loop.ledger.history.loras if lora.name == one.lora)

    def work(again: bool) -> None:
        run_fresh(loop, child, *([] if again and child.ours else [folder]))
        metadata = images_made(child, folder, plan)
        lora.samples = len(plan.images)
        loop.ledger.history.simulated = simulated(metadata) or loop.ledger.history.simulated

    do(loop, one, SAMPLE, child, [lora.sha256, content_of(loop.places.plan)], [folder], work)
    print(f"✓ Samples: {counted(lora.samples, 'image')} of LoRA {one.lora}{label(loop)}")


def measure(loop: Loop, one: IterationRecord) -> None:
    """What the samples of all LoRAs look like, against photos that none of them was trained on."""
    from utils.loop_commands import MEASURE, measured, sample_scores
    from utils.loop_facts import note_measures
    from utils.steps import content_of

    history, folder = loop.ledger.history, loop.places.of("metrics", one.number)
    child = loop.commands.measure(one.number, history.held_out > 0)
    names = [lora.name for lora in history.loras]

    def work(again: bool) -> None:
        folder_is_new(folder)
        run_fresh(loop, child)
        summary = measured(child, folder, names)
        note_measures(history.loras, summary, sample_scores(folder, summary), history.held_out > 0)

    photos = [(photo.sha256, photo.held_out) for photo in loop.manifest.real]
    inputs = [photos, *(content_of(loop.places.samples(name)) for name in names)]
    do(loop, one, MEASURE, child, inputs, [], work)
    lora = next(lora for lora in history.loras if lora.name == one.lora)
    print(f"✓ Identity: {in_words(lora)}, to the {'held-out' if history.held_out else 'real'} photos")


def folder_is_new(folder: Path) -> None:
    from utils.merging import remove

    remove(folder)
    folder.mkdir(parents=True)


def in_words(lora: LoraRecord) -> str:
    if lora.identity is None:
        return f"LoRA {lora.name} not measured, a face was found in {lora.faces} of {lora.samples} samples"
    between = "" if lora.identity_interval is None else " ({:.2f} to {:.2f})".format(*lora.identity_interval)
    return f"LoRA {lora.name} {lora.identity:.2f}{between}"


def decide(loop: Loop, one: IterationRecord) -> Decision:
    """What follows; recorded, published and shown."""
    from utils import stopping
    from utils.contracts import StopDecision
    from utils.loop_facts import hopeless_gaps, rounded, rounds_of
    from utils.loop_state import publish

    history, config = loop.ledger.history, loop.config
    one.needs_real_photos = hopeless_gaps(history, loop.manifest, one)
    rounds = rounds_of(loop.ledger.history, loop.manifest)
    found = stopping.decide(rounds, config.convergence_threshold, config.max_iterations)
    one.score = rounded(rounds[-1].score) if one.lora else None
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
    from utils import stopping

    threshold = f"{loop.config.convergence_threshold:.0%} threshold"
    if found.gain is not None:
        side = "below" if found.gain.change < loop.config.convergence_threshold else "above"
        print(f"{'✓' if found.gain.change > 0 else '✗'} Improvement: {found.gain.change:.1%} ({side} {threshold})")
    for gap in one.needs_real_photos:
        print(f"✗ Needs real photos: {gap}, as fewer than a tenth of its images were approved in two rounds")
    if found.rule in (stopping.CONVERGED, stopping.APPROVAL, stopping.NO_GAPS):
        print("✓ Convergence Achieved!")
    elif found.rule == stopping.WORSE:
        print("✗ Worse")
    if found.stop or one.number:
        print(f"{'Stopped: ' if found.stop else ''}{found.words}")


def write_page(loop: Loop) -> None:
    from report.loop import build_loop
    from utils.contracts import PromptPlan, read_contract
    from utils.files import write_text_atomic

    plan = read_contract(loop.places.plan, PromptPlan, "bootstrap_loop.py")
    page = build_loop(loop.ledger.history, loop.manifest, plan, sample_thumbnails(loop, plan), reasons_by_image(loop))
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

    from utils.checks import SAID
    from utils.contracts import ContractError, Outcome, ValidationReport, read_contract

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
        reasons[one.number] = [f"{count} x {words}" for words, count in failed.most_common(8)]
    return reasons


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# The story


def iterate(loop: Loop, one: IterationRecord) -> Decision:
    """One iteration, from wherever it was left to its decision."""
    if one.number == 0:
        print("Round 0: the control, v1")
        train(loop, one)
    else:
        print(f"Iteration {one.number} of at most {loop.config.max_iterations}, with LoRA {one.generator}")
        find_gaps(loop, one)
        if not any(gap.count for gap in one.gaps):
            return decide(loop, one)
        metadata = generate(loop, one)
        merge(loop, one, validate(loop, one, metadata), metadata)
        if not one.merged:
            return decide(loop, one)
        train(loop, one)
    sample(loop, one)
    measure(loop, one)
    return decide(loop, one)


def next_iteration(loop: Loop) -> IterationRecord | None:
    """The one that did not end, or a new one; None where the loop has ended."""
    from utils import stopping
    from utils.contracts import IterationRecord
    from utils.loop_facts import rounds_of

    history = loop.ledger.history
    if not history.iterations:
        return begun(loop, IterationRecord(number=0))
    last = history.iterations[-1]
    if last.decision is None and last.number not in loop.manifest.undone:
        return last
    found = stopping.decide(
        rounds_of(loop.ledger.history, loop.manifest), loop.config.convergence_threshold, loop.config.max_iterations
    )
    if found.stop or last.number >= loop.config.max_iterations:
        return None
    return begun(loop, IterationRecord(number=last.number + 1, generator=found.best))


def begun(loop: Loop, one: IterationRecord) -> IterationRecord:
    loop.ledger.history.iterations.append(one)
    return one


def tell_end(loop: Loop) -> None:
    """The table of all LoRAs, and where everything lies."""
    history = loop.ledger.history
    rows = [
        [
            lora.name + (" (control)" if lora.iteration == 0 else "") + (" *" if lora.name == history.best else ""),
            "?" if lora.real_images is None else str(lora.real_images),
            "?" if lora.synthetic_images is None else str(lora.synthetic_images),
            *(
                "-" if value is None else f"{value:.3f}"
                for value in (lora.identity, *(lora.identity_interval or (None, None)), lora.variety)
            ),
        ]
        for lora in history.loras
    ]
    columns = ["LoRA", "Real", "Synthetic", "Identity", "from", "to (95 %)", "Variety"]
    print_table(f"LoRAs; * is kept{label(loop)}", columns, rows)
    print(f"best: {loop.places.best}\nreport: {loop.places.page}\nhistory: {loop.places.history}")


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from utils.loop_commands import Commands, Places
    from utils.loop_config import load_config
    from utils.loop_state import open_loop
    from utils.steps import StepError

    if args.demo_control and not args.demo:
        raise UserError("--demo-control belongs to --demo; give both.")
    if args.demo:
        from demo.bootstrap_world import prepare

        args.config, args.yes = prepare(args.demo, args.demo_control), True
    config = load_config(args.config)
    places = Places(Path(config.output_dir), Path(config.lora_output_dir))
    commands = Commands(config, places, PROJECT if args.demo else args.config.resolve().parent)
    if args.dry_run:
        return dry_run(commands)
    if not args.yes and args.undo is None and sys.stdin.isatty() and not agreed(config):
        return EXIT_OK
    try:
        with disk_told(places.output), locked(places) as locks:
            loop = open_loop(config, commands, locks)
            return run_undo(loop, args.undo) if args.undo is not None else run_loop(loop)
    except StepError as error:
        say(f"Error: {error}")
        return error.exit_code


def run_loop(loop: Loop) -> int:
    from utils.loop_facts import counting

    for warning in loop.ledger.history.warnings:
        say(f"Note: {warning}")
    ended_before = True
    while (one := next_iteration(loop)) is not None:
        ended_before = False
        iterate(loop, one)
    if ended_before:
        last = next(one for one in reversed(counting(loop.ledger.history, loop.manifest)) if one.decision)
        print(f"This loop has ended: {last.decision.words}")
        write_page(loop)
    tell_end(loop)
    return EXIT_OK


def run_undo(loop: Loop, number: int) -> int:
    """Take an iteration's merge out. The manifest alone says what is undone, so doing it twice does no harm."""
    from utils import merging
    from utils.contracts import write_contract

    one = next((one for one in loop.ledger.history.iterations if one.number == number and number > 0), None)
    if one is None or (one.merged is None and number not in loop.manifest.undone):
        raise UserError(
            f"There is no merge of iteration {number} in {loop.places.history}; --undo takes one that merged."
        )
    count = sum(image.iteration == number for image in loop.manifest.merged)
    loop.manifest = merging.take_out(loop.manifest, number)
    write_contract(loop.places.manifest, loop.manifest)
    merging.sync(loop.manifest, loop.places.output)
    write_page(loop)
    print(f"✓ Taken out: {counted(count, 'image')} of iteration {number}")
    trained = [lora.name for lora in loop.ledger.history.loras if lora.iteration >= number]
    if trained:
        print(f"{', '.join(trained)} learned from them and stay as they are; the next training does without.")
    return EXIT_OK


def dry_run(commands: Commands) -> int:
    """Every command of round 0 and of one iteration, as the shell would take them. Nothing is written or loaded."""
    places = commands.places
    adopts = places.best.exists() and not places.history.exists()
    first = f"# v1: {places.best} is adopted" if adopts else shell(commands.train(0, "v1"))
    print(f"# Round 0\n{first}\n{shell(commands.sample(0, 'v1'))}\n{shell(commands.measure(0, True))}")
    seed = commands.config.seed + 1
    print(f"# Iteration 1 (of at most {commands.config.max_iterations}; later ones alike, with the best LoRA so far)")
    for child in (commands.gaps(1), commands.generate(1, "v1", seed), commands.validate(1)):
        print(shell(child))
    print(f"# approved images are merged into {places.dataset}")
    for child in (commands.train(1, "v2"), commands.sample(1, "v2"), commands.measure(1, True)):
        print(shell(child))
    return EXIT_OK


def shell(child: Child) -> str:
    return shlex.join(child.command)


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
    from utils.lock import only_one

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
        raise UserError(
            f"{where} cannot be written: {reason}. Put that right and give the same command again: it goes on."
        ) from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = argparse.ArgumentParser(
        prog="bootstrap_loop.py",
        description=__doc__.split("\n\n")[0],
        epilog="Exit codes: 0 the loop ended by one of its rules, 2 something to change (one sentence says what), "
        "1 our fault, 130 interrupted. The same command goes on where the loop was left.",
        formatter_class=_Help,
    )
    add = parser.add_argument
    add("--config", type=_path, default=CONFIG, metavar="FILE", help="JSON file; the README explains every key")
    add("--dry-run", action="store_true", help="only print every command that would run; needs no model")
    add("--undo", type=int, metavar="N", help="take the images that iteration N merged back out of the dataset")
    add(
        "--demo",
        type=_path,
        nargs="?",
        const=DEMO_FOLDER,
        metavar="DIR",
        help="the whole loop on rendered heads, offline and in minutes, in DIR; its generator is simulated "
        f"(without DIR: {DEMO_FOLDER.name} beside this script)",
    )
    add("--demo-control", action="store_true", help="with --demo: a generator that never improves")
    add("--yes", action="store_true", help="begin without asking; nothing is ever asked outside a terminal")
    add("--debug", action="store_true", help="show the traceback of an unexpected error")
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser.parse_args(argv)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but no `None`: those options say in words what happens without them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _path(text: str) -> Path:
    return Path(text).expanduser()  # not every shell does it


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP)


if __name__ == "__main__":
    sys.exit(main())
