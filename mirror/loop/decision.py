"""What follows from the iterations so far: which one is due, whether the loop ends, which LoRA it keeps."""

from __future__ import annotations

from mirror.contracts.history import IterationRecord, StopDecision
from mirror.loop import stopping
from mirror.loop.facts import gaps_for_real_photos, last_decided, rounded, scores_of
from mirror.loop.iteration import set_manifest
from mirror.loop.merging import photos_of
from mirror.loop.state import Loop, publish
from mirror.loop.stopping import Decision


def conclusion(loop: Loop) -> Decision:
    """What follows from the iterations that count."""
    iterations = scores_of(loop.ledger.history, loop.manifest)
    return stopping.decide(iterations, loop.config.convergence_threshold, loop.config.max_iterations)


def record_decision(loop: Loop, iteration: IterationRecord) -> Decision:
    """Record what follows from an iteration, and publish the best LoRA."""
    history = loop.ledger.history
    iteration.photos = photos_of(loop.manifest)
    iteration.needs_real_photos = gaps_for_real_photos(history, loop.manifest, iteration)
    found = conclusion(loop)
    gain = found.gain
    if iteration.lora and iteration.number:  # the baseline has no score: its identity alone would be one
        iteration.score = rounded(scores_of(history, loop.manifest)[-1].score)
    iteration.decision = StopDecision(
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
    return found


def photos_changed(loop: Loop) -> bool:
    """Whether the real photos are others than when it was decided last."""
    last = last_decided(loop.ledger.history, loop.manifest)
    return last is not None and last.photos != photos_of(loop.manifest)


def is_lifted(loop: Loop, found: Decision) -> bool:
    """Whether other photos lift a stop that rested on the old ones."""
    return found.rule in stopping.LIFTED_BY_PHOTOS and photos_changed(loop)


def due(loop: Loop) -> IterationRecord | None:
    """The iteration that did not end, or a new one; None where the loop has ended."""
    history = loop.ledger.history
    if not history.iterations:
        return IterationRecord(number=0)
    last = history.iterations[-1]
    if last.decision is None and last.number not in loop.manifest.undone:
        return last
    found = conclusion(loop)
    if (found.stop and not is_lifted(loop, found)) or last.number >= loop.config.max_iterations:
        return None
    return IterationRecord(number=last.number + 1, generator=found.best)


def next_iteration(loop: Loop) -> IterationRecord | None:
    """The iteration that is due, begun; None where the loop has ended.

    With the first one after the baseline, generated files among the user's photos enter the dataset.
    """
    iteration = due(loop)
    if iteration is None or iteration in loop.ledger.history.iterations:
        return iteration
    if iteration.number and not loop.manifest.baseline_is_made:
        set_manifest(loop, loop.manifest.model_copy(update={"baseline_is_made": True}))
    loop.ledger.history.iterations.append(iteration)
    return iteration
