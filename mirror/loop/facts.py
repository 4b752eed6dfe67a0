"""What the steps of a bootstrap loop learned: from their results into the history, and from there to the stop rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mirror.contracts.generation import GenerationMetadata
from mirror.contracts.history import CAP, GapOutcome, IterationHistory, IterationRecord, LoraRecord
from mirror.contracts.manifest import MergeManifest
from mirror.contracts.summary import CANDIDATE, HELD_OUT, REFERENCE, Summary
from mirror.contracts.validation import ValidationReport, Verdict
from mirror.faces.metrics import pose_diversity, pose_diversity_interval
from mirror.loop.stopping import Attempt, IterationScores, best_of, interval_part, need_real_photos, share


def counting(history: IterationHistory, manifest: MergeManifest) -> list[IterationRecord]:
    """Iterations that were not undone, and whose LoRA did not learn from what was."""
    gone = set(manifest.undone)
    tainted = {lora.name for lora in history.loras if gone & set(lora.learned_from)}
    return [one for one in history.iterations if one.number not in gone and one.lora not in tainted]


def last_decided(history: IterationHistory, manifest: MergeManifest) -> IterationRecord | None:
    """The newest iteration that counts and has ended."""
    return next((one for one in reversed(counting(history, manifest)) if one.decision), None)


def best_now(history: IterationHistory, manifest: MergeManifest) -> str | None:
    """The best LoRA of the iterations that count and have ended."""
    ended = {one.number for one in counting(history, manifest) if one.decision}
    iterations = [one for one in scores_of(history, manifest) if one.number in ended]
    return best_of(iterations).lora if iterations else None


def scores_of(history: IterationHistory, manifest: MergeManifest) -> list[IterationScores]:
    """The history as the stop rules see it."""

    loras = {lora.name: lora for lora in history.loras}
    iterations = counting(history, manifest)
    first = next((one.coverage_before for one in history.iterations if one.number == 1), None)
    return [_scored(one, loras.get(one.lora), one.coverage if one.number else first) for one in iterations]


def _scored(one: IterationRecord, lora: LoraRecord | None, coverage: float | None) -> IterationScores:
    asked = [gap for gap in one.gaps or [] if gap.count]
    judged = [one.approved, one.rejected, one.unverified]
    return IterationScores(
        one.number,
        one.lora,
        coverage=coverage,
        approval=share(one.approved, sum(judged)) if None not in judged else None,
        gaps=None if one.gaps is None else len(one.gaps),
        merged=one.merged,
        photos=one.photos,
        without_room=one.left_out.get(CAP, 0) + (0 if asked else len(one.gaps or [])),
        only_real_photos_help=bool(asked) and all(str(gap.key) in one.needs_real_photos for gap in asked),
        **_measures(lora),
    )


def _measures(lora: LoraRecord | None) -> dict[str, object]:
    """What the samples of a LoRA showed, similarity by what the real photos score."""
    if lora is None:
        return {}
    unit = lora.level or 1.0
    return {
        "identity": interval_part(lora.identity, lora.identity_interval, unit),
        "pose_diversity": interval_part(lora.pose_diversity, lora.pose_diversity_interval),
        "faces": share(lora.faces, lora.samples),
        "scores": {sample: score / unit for sample, score in lora.scores.items()},
    }


def gaps_for_real_photos(history: IterationHistory, manifest: MergeManifest, one: IterationRecord) -> list[str]:
    """Gaps that generation does not fill with the real photos of now, as they are named in the history."""
    earlier = [past for past in counting(history, manifest) if past.number < one.number and past.photos == one.photos]
    # what could not be verified says nothing about what the generator can do
    attempts = [{gap.key: _attempt(gap) for gap in past.gaps or []} for past in [*earlier, one]]
    return [str(gap) for gap in need_real_photos(attempts)]


def _attempt(gap: GapOutcome) -> Attempt:
    generated = gap.generated - gap.unverified
    return Attempt(generated, gap.approved, generated if gap.wanted is None else gap.wanted)


def note_validation(one: IterationRecord, report: ValidationReport) -> None:
    """Counts, approval, and what came of each gap."""

    verdicts = Counter(image.verdict for image in report.images)
    one.approved, one.rejected = verdicts[Verdict.APPROVED], verdicts[Verdict.REJECTED]
    one.unverified, one.failures = verdicts[Verdict.UNVERIFIED], report.failures
    one.approval = rounded(one.approved / len(report.images)) if report.images else None
    one.quality = report.mean_quality
    for gap in one.gaps:
        tried = [image for image in report.images if image.key == gap.key]
        found = Counter(image.verdict for image in tried)
        gap.generated, gap.approved, gap.unverified = len(tried), found[Verdict.APPROVED], found[Verdict.UNVERIFIED]


def note_measures(
    loras: list[LoraRecord], summary: Summary, scores: Mapping[str, dict[str, float]], has_holdout: bool
) -> None:
    """All LoRAs by one measurement, as scores of two packs do not mix."""

    groups = {(group.type, group.name): group for group in summary.groups}
    standard = groups.get((REFERENCE, HELD_OUT if has_holdout else REFERENCE))
    for lora in loras:
        group = groups[CANDIDATE, lora.name]
        bins = list(group.angle_bins.values())
        between, spread = group.identity_interval, pose_diversity_interval(bins)
        lora.faces, lora.similarity = group.faces, rounded(group.similarity.median)
        lora.identity, lora.scores = rounded(group.identity), scores.get(lora.name, {})
        lora.identity_interval = None if between is None else tuple(map(rounded, between))
        lora.level = None if standard is None else rounded(standard.identity)
        lora.pose_diversity = rounded(pose_diversity(bins))
        lora.pose_diversity_interval = None if spread is None else tuple(map(rounded, spread))


def rounded(value: float | None) -> float | None:
    """To four digits, as the history keeps numbers."""
    return None if value is None else round(float(value), 4)


def simulated(metadata: GenerationMetadata) -> str | None:
    """What a generator that simulates says of itself."""
    said = metadata.settings.get("simulated")
    return said if isinstance(said, str) and said else None
