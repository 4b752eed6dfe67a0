#!/usr/bin/env python3
"""Improve a dataset and its LoRA iteration by iteration: find gaps, generate for them, validate, merge, train, measure.

    python bootstrap_loop.py --config bootstrap_config.json
    python bootstrap_loop.py --config bootstrap_config.json --dry-run      # only print the commands
    python bootstrap_loop.py --config bootstrap_config.json --undo 2       # take the merge of iteration 2 back out
    python bootstrap_loop.py --demo                                        # rendered heads and a small model of them

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
DEMO_KINDS = {
    "control": "as many training steps for each LoRA, on the real photos only",
    "simulated": "a simulated generator that improves with what its LoRA saw",
    "baseline": "a simulated generator that never improves, so the loop should report no gain",
}


def run(args: argparse.Namespace) -> int:
    """Read the configuration; then show what would run, undo a merge, or improve the dataset and its LoRA."""
    from mirror.loop.commands import Commands, LoopPaths
    from mirror.loop.state import as_begun
    from mirror.loop.steps import StepError

    config = read_config(args)
    paths = LoopPaths(Path(config.output_dir), Path(config.lora_output_dir))
    config = as_begun(config, paths)
    commands = Commands(config, paths, PROJECT if args.demo else args.config.resolve().parent)
    commands.demand_programs()
    try:
        with disk_errors_with_their_path(paths.output):
            if args.dry_run:
                return dry_run(commands)
            if args.undo is not None:
                return undo(commands, args.undo)
            return improve(commands, asks=not args.yes)
    except StepError as error:
        first, *others = error.lines
        say(f"Error: {first}", *others)
        return error.exit_code


def read_config(args: argparse.Namespace) -> LoopConfig:
    """The configuration of --config, or that of --demo, which renders its photos first. Raises UserError."""
    from mirror.loop.config import load_config
    from mirror.training.presets import PRESETS

    if args.kind and not args.demo:
        raise UserError(f"--demo-{args.kind} belongs to --demo; give both.")
    if args.demo:
        from demo.bootstrap_world import LOOP, prepare

        args.config, args.yes = prepare(args.demo, args.kind or LOOP), True
    return load_config(args.config, PRESETS)


def improve(commands: Commands, asks: bool) -> int:
    """Iterations, until a rule ends the loop."""
    from mirror.loop.decision import next_iteration
    from mirror.loop.state import open_loop
    from mirror.loop.talk import note

    is_new = not commands.paths.history.exists()
    if is_new and asks and sys.stdin.isatty() and not agreed(commands.config):
        return EXIT_OK
    with locked(commands.paths) as locks:
        loop = open_loop(commands, locks)
        tell_captions(loop)
        for warning in loop.ledger.history.warnings:
            note(warning)
        iteration = next_iteration(loop)
        if iteration is None:
            tell_nothing_left(loop)
            write_page(loop)
        while iteration is not None:
            iterate(loop, iteration)
            iteration = next_iteration(loop)
        tell_end(loop)
    return EXIT_OK


def iterate(loop: Loop, iteration: IterationRecord) -> None:
    """One iteration, from wherever it was left to its decision."""
    from mirror.loop.decision import record_decision
    from mirror.loop.iteration import Measure, Sample, Train, restore_lost_samples
    from mirror.loop.talk import tell

    if iteration.number == 0:
        tell("Iteration 0: the baseline, v1")
        trains = True  # on the real photos as they are
    elif loop.config.real_photos_only:
        tell(f"Iteration {iteration.number}: of at most {loop.config.max_iterations}, on the real photos only")
        trains = True
    else:
        tell(f"Iteration {iteration.number}: of at most {loop.config.max_iterations}, with LoRA {iteration.generator}")
        trains = fill_gaps(loop, iteration)
    if trains:
        Train(loop, iteration).run()
        Sample(loop, iteration).run()
        restore_lost_samples(loop, iteration)
        Measure(loop, iteration).run()
    found = record_decision(loop, iteration)
    write_page(loop)
    tell_decision(loop, iteration, found)


def fill_gaps(loop: Loop, iteration: IterationRecord) -> bool:
    """From the gaps to the merge; whether anything was merged that a new LoRA can learn from."""
    from mirror.loop.iteration import FindGaps, Generate, Merge, Validate

    gaps = FindGaps(loop, iteration)
    gaps.run()
    if not any(gap.count for gap in iteration.gaps):
        return False
    generation = Generate(loop, iteration, gaps)
    generation.run()
    validation = Validate(loop, iteration, generation)
    validation.run()
    if not loop.config.validation.auto_filter:
        raise UserError(
            f"Nothing was merged, as validation.auto_filter is false: look at {validation.path.with_suffix('.html')}; "
            "with true, the same command merges what validation approved, and goes on."
        )
    Merge(loop, iteration, gaps, validation).run()
    return bool(iteration.merged)


def tell_captions(loop: Loop) -> None:
    """Which kinds of captions the photos have; the copies of all of them are .txt files."""
    from mirror.loop.photos import kinds_of_captions
    from mirror.loop.talk import remark
    from utils.captions import told_kinds

    kinds = kinds_of_captions(Path(loop.manifest.dataset_dir), loop.manifest.real)
    if kinds:
        remark(told_kinds(kinds))


def tell_decision(loop: Loop, iteration: IterationRecord, found: Decision) -> None:
    """What was gained, and why the loop ends or goes on."""
    from mirror.loop import stopping
    from mirror.loop.iteration import label
    from mirror.loop.talk import tell

    if found.gain is not None:
        limit, change = loop.config.convergence_threshold, found.gain.change
        side = f"{'below' if change < limit else 'above'} {100 * limit:g}% threshold"
        tell(f"  {'✓' if change > 0 else '✗'} Improvement: {change:.1%} ({side}){label(loop)}")
    for gap in iteration.needs_real_photos:
        tell(f"  ✗ Needs real photos: {gap}, as fewer than a tenth of its images were approved in two iterations")
    if found.rule in stopping.CONVERGENCE:
        tell("✓ Convergence Achieved!")
    elif found.rule == stopping.WORSE:
        tell("✗ Worse than the best LoRA so far")
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


def tell_nothing_left(loop: Loop) -> None:
    """Why this run does nothing, and what would make it go on."""
    from mirror.loop.decision import conclusion, is_lifted, photos_changed
    from mirror.loop.talk import counted, tell

    found, limit = conclusion(loop), loop.config.max_iterations
    lifted = is_lifted(loop, found)
    if found.stop and not lifted:
        tell(f"This loop has ended: {found.words}")
    else:
        tell(f"This loop has ended: it has made its {counted(limit, 'iteration')}; raise max_iterations to go on.")
    if photos_changed(loop) and not lifted:
        tell(
            "The real photos have changed since, but this loop stopped for another reason. To use the new photos, "
            "start a new loop in another output_dir and lora_output_dir."
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


def undo(commands: Commands, number: int) -> int:
    """Take an iteration's merge out; one that had not ended is to be made again. Raises UserError."""
    from mirror.loop.state import open_loop, settle
    from mirror.loop.talk import counted, tell
    from mirror.loop.undo import take_out

    if not commands.paths.history.exists():
        raise UserError(f"There is no loop in {commands.paths.output}, so there is nothing to undo.")
    with locked(commands.paths) as locks:
        loop = open_loop(commands, locks, may_exceed_cap=True)
        undone = take_out(loop, number)
        settle(loop)
        write_page(loop)
    tell(f"✓ Taken out: {counted(undone.images, 'image')} of iteration {number}")
    if undone.is_open:
        tell(f"Iteration {number} had not ended: the next run makes it again, from its gap analysis.")
    elif undone.learned:
        names = ", ".join(undone.learned)
        tell(f"Trained on them, so no longer compared, used to generate or kept as the best LoRA: {names}")
    tell(f"best: {loop.ledger.history.best}")
    return EXIT_OK


def dry_run(commands: Commands) -> int:
    """Every command up to the end of the next iteration, as the shell would take it. Nothing is written or loaded."""
    from mirror.loop.decision import due
    from mirror.loop.preview import as_it_stands, command_lines

    loop = as_it_stands(commands)
    iteration = due(loop)
    if iteration is None:
        show("# Nothing would run.")
        tell_nothing_left(loop)
    else:
        show(*command_lines(loop, iteration))
    return EXIT_OK


def agreed(config: LoopConfig) -> bool:
    """The one question, on a terminal alone, before hours of work."""
    count = config.max_iterations
    say(f"This runs up to {count} iteration(s), each with a training of {config.base_model}. --yes does not ask.")
    try:
        return input("Begin? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


@contextmanager
def locked(paths: LoopPaths) -> Iterator[tuple[int, ...]]:
    """No other loop in either folder."""
    from mirror.loop.lock import lock_of_loop

    with ExitStack() as stack:
        for folder in (paths.output, paths.loras):
            folder.mkdir(parents=True, exist_ok=True)
        yield tuple(stack.enter_context(lock_of_loop(folder)) for folder in (paths.output, paths.loras))


@contextmanager
def disk_errors_with_their_path(folder: Path) -> Iterator[None]:
    """Disk errors as a UserError that names the path, or else `folder`."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or folder
        no_room = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", None))  # Windows has no EDQUOT
        what = "cannot be written" if error.errno in no_room else "cannot be used"
        raise UserError(
            f"{where} {what}: {reason_of(error)}. Fix that and give the same command again: it goes on."
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
    add("--dry-run", action="store_true", help="print the commands that would run, and stop; needs no model")
    add("--undo", type=int, metavar="N", help="undo iteration N: remove the images that it added to the dataset")
    add(
        "--demo",
        type=options.path,
        nargs="?",
        const=DEMO_FOLDER,
        metavar="DIR",
        help="the whole loop on rendered heads with a small diffusion model of them, offline and in minutes, in DIR "
        f"(without DIR: {DEMO_FOLDER.name} beside this script)",
    )
    kinds = parser.add_mutually_exclusive_group()
    for kind, told in DEMO_KINDS.items():
        kinds.add_argument(f"--demo-{kind}", dest="kind", action="store_const", const=kind, help=f"with --demo: {told}")
    add("--yes", action="store_true", help="do not ask for confirmation")
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
