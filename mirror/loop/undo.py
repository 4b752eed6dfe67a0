"""--undo: take what an iteration merged back out of the dataset."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.loop import merging
from mirror.loop.commands import GAPS
from mirror.loop.iteration import forget, set_manifest
from mirror.loop.state import Loop
from utils.console import UserError


@dataclass(frozen=True)
class Undone:
    """What became of it."""

    images: int  # that were taken out
    learned: list[str]  # LoRAs that learned from them
    is_open: bool  # the iteration had not ended, and is to be made again


def take_out(loop: Loop, number: int) -> Undone:
    """Take the images of iteration `number` out. Raises UserError where it merged none.

    The manifest alone says what is undone, so doing it twice does no harm.
    """
    history = loop.ledger.history
    count = sum(image.iteration == number for image in loop.manifest.merged)
    iteration = next((one for one in history.iterations if one.number == number and number > 0), None)
    if iteration is None or (iteration.merged is None and not count and number not in loop.manifest.undone):
        raise UserError(f"Iteration {number} was never merged, says {loop.paths.history}; --undo takes one that was.")
    learned = [lora.name for lora in history.loras if number in lora.learned_from]
    is_open = iteration.decision is None
    if is_open:
        forget(loop, iteration, GAPS)
    else:
        set_manifest(loop, merging.take_out(loop.manifest, number))
    return Undone(count, learned, is_open)
