"""When the bootstrap loop ends, and which LoRA it keeps: iterations in, a decision out; nothing is read or measured.

The score of an iteration is the mean of three parts, each 0 to 1:

    identity    median similarity of the new LoRA's samples to the held-out real photos, by what those photos score
                among each other, at most 1
    coverage    how far the working dataset reaches its goals after the merge (`coverage`)
    approval    share of the generated images that validation approved

Two iterations are compared only on the parts measured in both (v1 has no approval: nothing was generated before it).
Every part has its noise: half of the 95 % interval of the value if it were measured again. What samples show of a
LoRA has more: a second training on the same images gives another LoRA (TRAINING_NOISE). Simulated histories with both
kinds of noise end rightly in at least 95 % (tests/loop/test_stopping.py). That rests on how far trainings differ: where
it is twice as much, only four in five of the flat ones do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mirror.contracts.gaps import GapKey, GapReport

# Rules, by name, in the order in which they are asked.
NO_GAPS, WORSE, NO_ROOM, NOTHING_APPROVED = "no_gaps", "worse", "no_room", "nothing_approved"
APPROVAL, CONVERGED, NO_GAIN, REAL_PHOTOS = "approval", "converged", "no_gain", "needs_real_photos"
MAX_ITERATIONS, GO_ON = "max_iterations", "go_on"
RULES = (NO_GAPS, WORSE, NO_ROOM, NOTHING_APPROVED, APPROVAL, CONVERGED, NO_GAIN, REAL_PHOTOS, MAX_ITERATIONS)
CONVERGENCE = (CONVERGED, APPROVAL, NO_GAPS)  # the loop reached what it is for; by the others it gives up
LIFTED_BY_PHOTOS = (NO_GAPS, NO_ROOM, NOTHING_APPROVED, REAL_PHOTOS)  # other real photos may change what they rest on

HIGH_APPROVAL = 0.90  # above it twice in a row the loop ends, as documented
REAL_PHOTOS_APPROVAL = 0.10  # a gap below it over two iterations needs real photos, as documented

# A difference counts when it exceeds 1.75 times the half width of its own 95 % interval, 3.4 standard errors: the loop
# asks three things after each of up to twenty iterations, and at 1.0 one flat history in ten would be called worse. Our
# choice, with the simulated histories of tests/loop/test_stopping.py.
BEYOND_NOISE = 1.75
# Standard deviation of what all samples of a LoRA have in common and another training on the same images would not
# repeat, as a share of the scale: similarity by the real photos' level, pose diversity, share of faces. Pairs of
# samples do not show it. Of identity 0.013 and 0.016 were measured (benchmarks/loop_bench.py: each time 45 pairs of
# LoRAs that learned from the same photos with other seeds, 15 controls of five rendered people, two versions of the
# demo's diffusion model), together 0.0145; for the other two, and for large base models, it is an assumption.
TRAINING_NOISE = 0.015
# Where noise could hide a gain above the threshold, the loop ends only if the score lies below it against each of so
# many iterations before (at least two): over three of them a gain worth another one outgrows the noise. Our choice.
WINDOW = 3
# From so many samples that both LoRAs have, their similarity is compared pair by pair: the same prompts and seeds
# differ far less between two LoRAs than among each other. Our choice.
FEWEST_PAIRS = 8
_Z95 = 1.96
_TRAININGS = (_Z95 * TRAINING_NOISE,) * 2  # of the two LoRAs that are compared


class Attempt(NamedTuple):
    """What an iteration tried for a gap, in images."""

    generated: int
    approved: int
    wanted: int  # that were to be merged


@dataclass(frozen=True)
class Part:
    """A measured value, 0 to 1, and half the width of its 95 % interval; None where too little was measured for one."""

    value: float
    noise: float | None = 0.0


@dataclass(frozen=True)
class IterationScores:
    """One iteration as the rules see it; number 0 is the baseline. None: not measured."""

    number: int
    lora: str | None = None  # None: no LoRA came of it
    identity: Part | None = None
    pose_diversity: Part | None = None  # of head angles, mirror.faces.metrics.pose_diversity
    faces: Part | None = None  # share of the samples that show a face
    coverage: float | None = None
    approval: Part | None = None
    gaps: int | None = None
    merged: int | None = None
    photos: str | None = None  # the set of real photos that it was decided with
    without_room: int = 0  # approved images that the cap kept out
    only_real_photos_help: bool = False  # every gap that is left needs real photos
    scores: Mapping[str, float] = field(default_factory=dict)  # sample -> identity, for those with a face

    def parts(self) -> dict[str, Part]:
        """What the score is the mean of."""
        coverage = None if self.coverage is None else Part(self.coverage)
        found = {"identity": self.identity, "coverage": coverage, "approval": self.approval}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def score(self) -> float | None:
        values = [part.value for part in self.parts().values()]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Gain:
    """Change of the score as a share of what it was, and its noise; None: unknown."""

    change: float
    noise: float | None


@dataclass(frozen=True)
class Decision:
    """What follows. `rule` is one of the names above."""

    stop: bool
    rule: str
    words: str
    best: str
    gain: Gain | None = None


def share(count: int, of: int) -> Part | None:
    """A share with the noise of its count: Agresti & Coull 1998, which does not call 12 of 12 certain."""
    if of <= 0:
        return None
    middle = (count + 2) / (of + 4)
    return Part(count / of, _Z95 * math.sqrt(middle * (1 - middle) / (of + 4)))


def interval_part(value: float | None, interval: tuple[float, float] | None, unit: float = 1.0) -> Part | None:
    """A value with its 95 % interval as a Part, both by `unit`, the value cut off at 0 and 1."""
    if value is None or unit <= 0:
        return None
    noise = None if interval is None else (interval[1] - interval[0]) / 2 / unit
    return Part(min(1.0, max(0.0, value / unit)), noise)


def coverage(report: GapReport, added: Mapping[GapKey, int]) -> float | None:
    """How far the goals are reached, 0 to 1: the mean over all targets of share by goal, each at most 1.

    `added` (type, target) are images that were merged after `report`; each counts for the goal it was made for, in the
    type of that goal. None where nothing that has a goal could be measured.
    """
    reached = []
    for one in report.distributions:
        of_type = {share.target: added.get(GapKey(one.type, share.target), 0) for share in one.targets}
        measured = one.measured + sum(of_type.values())
        for target in one.targets:
            if target.goal_percent and measured:
                percent = 100 * (target.count + of_type[target.target]) / measured
                reached.append(min(1.0, percent / target.goal_percent))
    return sum(reached) / len(reached) if reached else None


def need_real_photos(attempts: Sequence[Mapping[GapKey, Attempt]]) -> list[GapKey]:
    """Gaps whose last two iterations with attempts were approved in fewer than a tenth, and not as often as wanted.

    `attempts` has one dictionary an iteration.
    """
    found = []
    for gap in dict.fromkeys(gap for one in attempts for gap in one):
        last = [one[gap] for one in attempts if gap in one and one[gap].generated][-2:]
        generated, approved, wanted = (sum(numbers) for numbers in zip(*last, strict=True)) if last else (0, 0, 0)
        if len(last) == 2 and approved < wanted and approved < REAL_PHOTOS_APPROVAL * generated:
            found.append(gap)
    return found


def fall(best: IterationScores, new: IterationScores) -> str:
    """What makes the new LoRA worse than the best one by more than noise, in words; empty where it is not worse."""
    for name, words in (
        ("identity", "it looks less like the person"),
        ("pose_diversity", "its head angles vary less"),
        ("faces", "fewer of its samples show a face"),
    ):
        before, after = getattr(best, name), getattr(new, name)
        if _higher(best, new, name):
            return f"{words} ({before.value:.2f} before, {after.value:.2f} now)"
    return ""


def beats(new: IterationScores, best: IterationScores) -> bool:
    """Whether the new LoRA is better than the best one by more than noise, and worse in nothing."""
    if fall(best, new):
        return False
    if best.identity is None:
        return new.identity is not None
    return any(_higher(new, best, name) for name in ("identity", "pose_diversity", "faces"))


def _higher(one: IterationScores, other: IterationScores, name: str) -> bool:
    """Whether `one` is above `other` by more than noise; similarity by pairs of samples where there are enough."""
    both = one.scores.keys() & other.scores.keys()
    if name != "identity" or len(both) < FEWEST_PAIRS:
        return _beyond(getattr(one, name), getattr(other, name))
    gains = [one.scores[sample] - other.scores[sample] for sample in both]
    noise = _Z95 * statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.mean(gains) > BEYOND_NOISE * math.hypot(noise, *_TRAININGS)


def _beyond(higher: Part | None, lower: Part | None) -> bool:
    """Whether a share of the samples lies above another LoRA's by more than noise explains; False where unknown."""
    if higher is None or lower is None or None in (higher.noise, lower.noise):
        return False
    return higher.value - lower.value > BEYOND_NOISE * math.hypot(higher.noise, lower.noise, *_TRAININGS)


def best_of(iterations: Sequence[IterationScores]) -> IterationScores:
    """The iteration whose LoRA is kept: the best of those that beat the baseline by more than noise, else the first."""
    best = iterations[0]
    for one in iterations[1:]:
        is_better = best is iterations[0] or _quality(one) > _quality(best)
        if one.lora is not None and is_better and beats(one, iterations[0]) and not fall(best, one):
            best = one
    return best


def _quality(one: IterationScores) -> float:
    """What its samples show, 0 to 1."""
    known = [part.value for part in (one.identity, one.pose_diversity) if part is not None]
    return sum(known) / len(known) if known else 0.0


def gain_of(iterations: Sequence[IterationScores]) -> Gain | None:
    """What the last iteration gained over the one before it; None where they have nothing in common."""
    gains = _gains(iterations)
    return gains[-1] if gains else None


def _gains(iterations: Sequence[IterationScores]) -> list[Gain]:
    """The last iteration against each of the `WINDOW` iterations before it that have a LoRA, the nearest one last."""
    before = [one for one in iterations[:-1] if one.lora is not None][-WINDOW:]
    return [gain for gain in (_gain(one, iterations[-1]) for one in before) if gain is not None]


def _gain(before: IterationScores, after: IterationScores) -> Gain | None:
    old, new = before.parts(), after.parts()
    shared = [name for name in old if name in new]
    base = sum(old[name].value for name in shared)
    if not base:
        return None
    noises = [part.noise for name in shared for part in (old[name], new[name])]
    noises += _TRAININGS if "identity" in shared else ()
    noise = None if None in noises else math.hypot(*noises) / base
    return Gain((sum(new[name].value for name in shared) - base) / base, noise)


def decide(iterations: Sequence[IterationScores], threshold: float, max_iterations: int) -> Decision:
    """What follows from the iterations so far, the baseline first. `threshold` is a share: 0.05 is 5 %."""
    last, best = iterations[-1], best_of(iterations)
    gain = gain_of(iterations) if last.number and last.lora is not None else None
    found = next(_reasons_to_stop(iterations, gain, threshold, max_iterations), None)
    if found is None:
        return Decision(False, GO_ON, _going_on(gain, threshold), best.lora, gain)
    rule, words = found
    return Decision(True, rule, f"{words} {_kept(iterations, best)}", best.lora, gain)


def _reasons_to_stop(
    iterations: Sequence[IterationScores], gain: Gain | None, threshold: float, limit: int
) -> Iterator[tuple[str, str]]:
    """Rule and sentence of all that would end the loop; the first one counts."""
    last, before = iterations[-1], iterations[-2:]
    if last.gaps == 0:
        yield NO_GAPS, "Every goal that could be measured is reached in the dataset."
    if last.number and last.lora is not None:
        best = best_of(iterations[:-1])
        if lost := fall(best, last):
            yield WORSE, f"{last.lora} is worse than {best.lora}: {lost}. This is not convergence."
    if last.number and not last.merged and last.without_room:
        yield (
            NO_ROOM,
            "The dataset has as many synthetic images as max_synthetic_share allows; add real photos to allow more.",
        )
    if len(iterations) > 2 and all(
        one.number and one.lora is None and not one.merged and one.photos == last.photos for one in before
    ):
        words = "No image of the last two iterations could be added to the dataset; the report lists the reasons."
        yield NOTHING_APPROVED, words
    rates = [one.approval.value for one in before if one.approval is not None]
    if len(rates) == 2 and min(rates) > HIGH_APPROVAL:
        yield APPROVAL, f"More than {HIGH_APPROVAL:.0%} of the images were approved in two iterations in a row."
    if gain is not None and _is_small(gain, iterations, threshold):
        said = f"Improvement {gain.change:.1%}, below the threshold of {100 * threshold:g}%"
        yield (CONVERGED, f"{said}: converged.") if best_of(iterations).number else (NO_GAIN, f"{said}.")
    if last.only_real_photos_help:
        words = "Every gap that is left needs real photos: fewer than a tenth of its images were approved."
        yield REAL_PHOTOS, words
    if last.number >= limit:
        yield MAX_ITERATIONS, f"The limit of {limit} iteration(s) is reached (max_iterations)."


def _is_small(gain: Gain, iterations: Sequence[IterationScores], threshold: float) -> bool:
    """Below the threshold beyond doubt, or against each of the last iterations."""
    if gain.change >= threshold:
        return False
    gains = _gains(iterations)
    is_beyond_doubt = gain.noise is not None and gain.change + BEYOND_NOISE * gain.noise < threshold
    return is_beyond_doubt or (len(gains) > 1 and max(one.change for one in gains) < threshold)


def _kept(iterations: Sequence[IterationScores], best: IterationScores) -> str:
    others = [one for one in iterations[1:] if one.lora is not None]
    baseline = f"{iterations[0].lora}, the baseline"
    if best.number:
        return f"{best.lora} is kept: it is clearly better than {baseline}."
    if not others:
        return f"{baseline}, is kept."
    return f"No gain: no LoRA is clearly better than {baseline}. {best.lora} is kept."


def _going_on(gain: Gain | None, threshold: float) -> str:
    if gain is None:
        return "The loop continues."
    if gain.change >= threshold:
        return f"Improvement {gain.change:.1%}: the loop continues."
    error = "an unknown measuring error" if gain.noise is None else f"a measuring error of {gain.noise:.1%}"
    return f"Improvement {gain.change:.1%} with {error}: too uncertain to stop, so the loop continues."
