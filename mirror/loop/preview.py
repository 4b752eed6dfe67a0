"""--dry-run: every command up to the end of the next iteration. Nothing is written or loaded."""

from __future__ import annotations

from pathlib import Path

from mirror.contracts.history import IterationRecord
from mirror.loop import photos as user_photos
from mirror.loop.commands import Commands
from mirror.loop.iteration import FindGaps
from mirror.loop.state import Loop, new_history, read_loop
from mirror.loop.steps import Ledger
from utils.console import UserError, say, shell_line


def as_it_stands(commands: Commands) -> Loop:
    """The loop that is there, or that would begin, with the photos of now; nothing is written."""
    config, paths = commands.config, commands.paths
    folder = Path(config.dataset_dir)
    try:
        photos = user_photos.list_real(folder)
    except UserError as error:  # the commands can be shown without photos
        say(f"Note: {error}")
        photos = []
    if paths.history.exists():
        history, manifest = read_loop(config, paths)
        manifest = user_photos.with_photos(manifest, user_photos.with_picture_hashes(photos, folder, manifest.real))
    else:
        history, manifest = new_history(config, paths, photos, looks=False)
    return Loop(config, paths, commands, Ledger(paths.history, history), manifest, ())


def command_lines(loop: Loop, iteration: IterationRecord) -> list[str]:
    """The commands as a shell would take them, with headings behind #."""
    config, commands = loop.config, loop.commands
    lines = []
    if iteration.number == 0:
        adopted = f"# v1: {loop.paths.best} is adopted" if loop.ledger.history.adopted else None
        lines += ["# Iteration 0", adopted or shell_line(commands.train(0, "v1").command), *_measuring(loop, 0)]
    number = max(1, iteration.number)
    first = IterationRecord(number=number, generator=iteration.generator or "v1")
    alike = "each with another seed" if config.real_photos_only else "with the best LoRA so far"
    lines += [f"# Iteration {number} (of at most {config.max_iterations}; later ones alike, {alike})"]
    if not config.real_photos_only:
        lines += [
            shell_line(FindGaps(loop, first).child.command),
            shell_line(commands.generate(number, first.generator, config.seed + number).command),
            shell_line(commands.validate(number).command),
            f"# the best approved images are merged into {loop.paths.dataset}",
        ]
    lines += [shell_line(commands.train(number, f"v{number + 1}").command)]
    return lines + _measuring(loop, number)


def _measuring(loop: Loop, number: int) -> list[str]:
    measure = loop.commands.measure(number, loop.ledger.history.held_out > 0)
    return [shell_line(child.command) for child in (loop.commands.sample(number, f"v{number + 1}"), measure)]
