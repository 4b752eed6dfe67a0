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
import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import BOOTSTRAP_REQUIREMENTS, PROJECT
from utils.files import reason_of

if TYPE_CHECKING:  # mirror.loop is imported where it is used, so that --help is instant
    from mirror.contracts.history import IterationRecord
    from mirror.loop.commands import Commands, LoopPaths
    from mirror.loop.config import LoopConfig
    from mirror.loop.state import Loop
    from mirror.loop.stopping import Decision

CONFIG = Path("bootstrap_config.json")
DEMO_FOLDER = PROJECT / "demo_bootstrap"


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.loop.commands import Commands, LoopPaths
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
    paths = LoopPaths(Path(config.output_dir), Path(config.lora_output_dir))
    commands = Commands(config, paths, PROJECT if args.demo else args.config.resolve().parent)
    commands.demand_programs()
    if args.dry_run:
        with disk_told(paths.output):
            return dry_run(config, commands)
    if args.undo is not None and not paths.history.exists():
        raise UserError(f"There is no loop in {paths.output}, so there is nothing to undo.")
    begins = args.undo is None and not paths.history.exists()
    if begins and not args.yes and sys.stdin.isatty() and not agreed(config):
        return EXIT_OK
    try:
        with disk_told(paths.output), locked(paths) as locks:
            loop = open_loop(config, commands, locks, undoing=args.undo is not None)
            return run_undo(loop, args.undo) if args.undo is not None else run_loop(loop)
    except StepError as error:
        first, *others = error.lines
        say(f"Error: {first}", *others)
        return error.exit_code


def run_loop(loop: Loop) -> int:
    """Iterations, until a rule ends the loop."""
    from mirror.loop.decision import next_iteration
    from mirror.loop.talk import note

    for warning in loop.ledger.history.warnings:
        note(warning)
    ended_before = True
    while (iteration := next_iteration(loop)) is not None:
        ended_before = False
        iterate(loop, iteration)
    if ended_before:
        tell_ended(loop)
        write_page(loop)
    tell_end(loop)
    return EXIT_OK


def iterate(loop: Loop, iteration: IterationRecord) -> None:
    """One iteration, from wherever it was left to its decision."""
    from mirror.loop.decision import decide
    from mirror.loop.iteration import Measure, Sample, Train, sample_again

    is_trained = make_baseline(loop) if iteration.number == 0 else fill_gaps(loop, iteration)
    if is_trained:
        Train(loop, iteration).run()
        Sample(loop, iteration).run()
        sample_again(loop, iteration)
        Measure(loop, iteration).run()
    found = decide(loop, iteration)
    write_page(loop)
    tell_decision(loop, iteration, found)


def make_baseline(loop: Loop) -> bool:
    """v1 comes from the real photos as they are."""
    from mirror.loop.talk import tell

    tell("Iteration 0: the baseline, v1")
    return True


def fill_gaps(loop: Loop, iteration: IterationRecord) -> bool:
    """From the gaps to the merge; whether anything was merged that a new LoRA can learn from."""
    from mirror.loop.iteration import FindGaps, Generate, Merge, Validate
    from mirror.loop.talk import tell

    tell(f"Iteration {iteration.number} of at most {loop.config.max_iterations}, with LoRA {iteration.generator}")
    gaps = FindGaps(loop, iteration)
    gaps.run()
    if not any(gap.count for gap in iteration.gaps):
        return False
    generation = Generate(loop, iteration, gaps)
    generation.run()
    validation = Validate(loop, iteration, generation)
    validation.run()
    Merge(loop, iteration, gaps, validation).run()
    return bool(iteration.merged)


def tell_decision(loop: Loop, iteration: IterationRecord, found: Decision) -> None:
    """What was gained, and why the loop ends or goes on."""
    from mirror.loop import stopping
    from mirror.loop.iteration import label
    from mirror.loop.talk import tell

    if found.gain is not None:
        limit, change = loop.config.convergence_threshold, found.gain.change
        side = f"{'below' if change < limit else 'above'} {100 * limit:g}% threshold"
        tell(f"{'✓' if change > 0 else '✗'} Improvement: {change:.1%} ({side}){label(loop)}")
    for gap in iteration.needs_real_photos:
        tell(f"✗ Needs real photos: {gap}, as fewer than a tenth of its images were approved in two iterations")
    if found.rule in stopping.CONVERGENCE:
        tell("✓ Convergence Achieved!")
    elif found.rule == stopping.WORSE:
        tell("✗ Worse")
    if found.stop or iteration.number:
        tell(f"{'Stopped: ' if found.stop else ''}{found.words}")


def write_page(loop: Loop) -> None:
    """The page as the history is now."""
    from mirror.loop.merging import trained_on
    from mirror.loop.page_data import last_decision, plan_of, reasons_by_image, sample_thumbnails
    from mirror.loop.stopping import CONVERGENCE, WORSE
    from mirror.report.loop import LoopFacts, build_loop
    from utils.files import write_text_atomic

    plan, decision = plan_of(loop), last_decision(loop)
    rule = decision.rule if decision else ""
    facts = LoopFacts(*trained_on(loop.manifest), decision, converged=rule in CONVERGENCE, worse=rule == WORSE)
    pictures, reasons = sample_thumbnails(loop, plan), reasons_by_image(loop)
    page = build_loop(loop.ledger.history, loop.manifest, facts, plan, pictures, reasons)
    write_text_atomic(loop.paths.page, page)


def tell_ended(loop: Loop) -> None:
    """Why this run does nothing, and what would make it go on."""
    from mirror.loop.decision import decided, is_lifted, photos_changed
    from mirror.loop.talk import counted, tell

    found, limit = decided(loop), loop.config.max_iterations
    lifted = is_lifted(loop, found)
    if found.stop and not lifted:
        tell(f"This loop has ended: {found.words}")
    else:
        tell(f"This loop has ended: it has made its {counted(limit, 'iteration')}; raise max_iterations to go on.")
    if photos_changed(loop) and not lifted:
        tell(
            "The real photos have changed since, which does not lift this stop: "
            "a loop that begins anew, in another output_dir and lora_output_dir, starts from them."
        )


def tell_end(loop: Loop) -> None:
    """The table of all LoRAs, and where everything lies."""
    from mirror.loop.talk import tell

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
    tell(f"best: {loop.paths.best}", f"report: {loop.paths.page}", f"history: {loop.paths.history}")


def run_undo(loop: Loop, number: int) -> int:
    """Take an iteration's merge out; one that had not ended is to be made again."""
    from mirror.loop.state import settle
    from mirror.loop.talk import counted, tell
    from mirror.loop.undo import take_out

    undone = take_out(loop, number)
    settle(loop)
    write_page(loop)
    tell(f"✓ Taken out: {counted(undone.images, 'image')} of iteration {number}")
    if undone.is_open:
        tell(f"Iteration {number} had not ended: the next run makes it again, from its gap analysis.")
    elif undone.learned:
        names = ", ".join(undone.learned)
        tell(f"{names} learned from them: no longer compared, generated with or kept as the best LoRA.")
    tell(f"best: {loop.ledger.history.best}")
    return EXIT_OK


def dry_run(config: LoopConfig, commands: Commands) -> int:
    """Every command up to the end of the next iteration, as the shell would take it. Nothing is written or loaded."""
    from mirror.loop.decision import due
    from mirror.loop.preview import as_it_stands, command_lines

    loop = as_it_stands(config, commands)
    iteration = due(loop)
    if iteration is None:
        show("# Nothing would run.")
        tell_ended(loop)
    else:
        show(*command_lines(loop, iteration))
    return EXIT_OK


def agreed(config: LoopConfig) -> bool:
    """The one question, on a terminal alone, before hours of work."""
    count = config.max_iterations
    say(f"Up to {count} iteration(s) follow, each with a training from {config.base_model}. --yes does not ask.")
    try:
        return input("Begin? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


@contextmanager
def locked(paths: LoopPaths) -> Iterator[tuple[int, ...]]:
    """No other loop in either folder."""
    from mirror.loop.lock import only_one

    with ExitStack() as stack:
        for folder in (paths.output, paths.loras):
            folder.mkdir(parents=True, exist_ok=True)
        yield tuple(stack.enter_context(only_one(folder)) for folder in (paths.output, paths.loras))


@contextmanager
def disk_told(folder: Path) -> Iterator[None]:
    """What the disk refuses, as a UserError."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or folder
        no_room = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", None))  # Windows has no quota's
        what = "cannot be written" if error.errno in no_room else "cannot be used"
        raise UserError(
            f"{where} {what}: {reason_of(error)}. Put that right and give the same command again: it goes on."
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
