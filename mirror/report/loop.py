"""`bootstrap_report.html`: the iterations of a bootstrap loop, the LoRAs side by side, and why it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mirror.contracts.history import (
    WHY_LEFT_OUT,
    GapOutcome,
    IterationHistory,
    IterationRecord,
    LoraRecord,
    StopDecision,
)
from mirror.contracts.manifest import MergeManifest
from mirror.contracts.plan import PromptPlan
from mirror.dataset.checks import CHECK_NAMES
from mirror.report.colours import CANDIDATE_COLOURS, REFERENCE_COLOUR
from mirror.report.render import encoded, moment, number, render, shown

SHOWN_SAMPLES = 12  # prompts of the plan that the page shows: every head angle, in a page of few MB; all were measured
_GOOD, _BAD, _OPEN = "#4fd1a5", "#ff6b6b", "#f5b942"


@dataclass(frozen=True)
class LoopFacts:
    """What the loop concludes from its files, and the page shows."""

    real: int  # photos that are trained on
    synthetic: int
    decision: StopDecision | None  # of the newest iteration that counts; None before the first
    converged: bool  # by that decision
    worse: bool


def build_loop(
    history: IterationHistory,
    manifest: MergeManifest,
    concluded: LoopFacts,
    plan: PromptPlan,
    samples: Mapping[tuple[str, str], bytes],
    reasons: Mapping[int, Sequence[str]],
) -> str:
    """The whole page. `samples` (LoRA, name in the plan) are small JPEGs, `reasons` by iteration sentences."""
    iterations = [one for one in history.iterations if one.number]
    return render(
        "loop",
        _facts(history, concluded),
        history.warnings,
        simulated=shown(history.simulated or ""),
        decision=_decision(concluded),
        compared_with="held-out photos" if history.held_out else "real photos (none are held out)",
        level=_level(history.loras),
        loras=[_lora(history, lora, index) for index, lora in enumerate(history.loras)],
        iterations=[_iteration(history, one, manifest, reasons.get(one.number, ())) for one in iterations],
        columns=[_column(history, lora) for lora in history.loras],
        samples=_samples(history.loras, plan, samples),
        unseen=max(0, len(plan.images) - SHOWN_SAMPLES),
    )


def _facts(history: IterationHistory, concluded: LoopFacts) -> list[tuple[str, str]]:
    real, synthetic = concluded.real, concluded.synthetic
    made = f"{synthetic:,} of {real + synthetic:,}"
    if history.settings.get("real_photos_only"):
        made = "none: this is a control, on the real photos only"
    return [
        ("Person", shown(history.person)),
        ("Base model", shown(PurePath(history.base_model).name)),
        ("Begun", moment(history.created)),
        ("Real photos", f"{real:,} to train on, {history.held_out:,} held out"),
        ("Synthetic in the dataset", made),
        ("Kept", shown(history.best or "none yet")),
    ]


def _decision(concluded: LoopFacts) -> dict:
    decision = concluded.decision
    if decision is None:
        return {"title": "Not decided yet", "words": "The baseline is still being made.", "colour": _OPEN}
    title = "Stopped" if decision.stop else "The loop continues"
    if concluded.converged:
        return {"title": "Convergence achieved", "words": shown(decision.words), "colour": _GOOD}
    colour = _BAD if concluded.worse else _OPEN
    return {"title": title, "words": shown(decision.words), "colour": colour}


def _level(loras: Sequence[LoraRecord]) -> float | None:
    """How similar the real photos are to each other, in percent of the scale."""
    level = next((lora.level for lora in reversed(loras) if lora.level is not None), None)
    return None if level is None else _percent(level)


def _percent(value: float) -> float:
    return round(100 * min(1.0, max(0.0, value)), 2)


def _colour(index: int) -> str:
    """The baseline has the colour that all pages give to the references."""
    return REFERENCE_COLOUR if index == 0 else CANDIDATE_COLOURS[(index - 1) % len(CANDIDATE_COLOURS)]


def _lora(history: IterationHistory, lora: LoraRecord, index: int) -> dict:
    low, high = lora.identity_interval or (None, None)
    return _column(history, lora) | {
        "colour": _colour(index),
        "real": "not known" if lora.real_images is None else f"{lora.real_images:,}",
        "synthetic": "not known" if lora.synthetic_images is None else f"{lora.synthetic_images:,}",
        "identity": lora.identity,
        "similarity": lora.similarity,
        "low": low,
        "high": high,
        "at": None if lora.identity is None else _percent(lora.identity),
        "from": None if low is None else _percent(low),
        "width": None if low is None else round(_percent(high) - _percent(low), 2),
        "pose_diversity": lora.pose_diversity,
        "faces": f"{lora.faces:,} of {lora.samples:,}",
    }


def _column(history: IterationHistory, lora: LoraRecord) -> dict:
    tags = ["baseline"] if lora.iteration == 0 else []
    tags += ["adopted"] if lora.adopted else []
    tags += ["kept"] if lora.name == history.best else []
    return {"name": shown(lora.name), "tags": tags}


def _iteration(
    history: IterationHistory, one: IterationRecord, manifest: MergeManifest, reasons: Sequence[str]
) -> dict:
    decision = one.decision
    identity = next((lora.identity for lora in history.loras if lora.name == one.lora), None)
    unknown = [
        name
        for name, part in (("identity", identity), ("coverage", one.coverage), ("approval", one.approval))
        if part is None
    ]
    gain = None if decision is None else decision.improvement_percent
    noise = None if decision is None else decision.noise_percent
    return {
        "number": one.number,
        "undone": one.number in manifest.undone,
        "generator": shown(one.generator or ""),
        "lora": shown(one.lora or "none"),
        "gap_count": _count(None if one.gaps is None else len(one.gaps)),
        "gaps": [_gap(gap, one.needs_real_photos) for gap in one.gaps or []],
        "is_searched": one.gaps is not None,
        "is_generated": one.generated is not None,
        "generated": _count(one.generated),
        "approved": _count(one.approved),
        "approval": None if one.approval is None else _percent(one.approval),
        "quality": number(one.quality, 2),
        "merged": _count(one.merged),
        "coverage": None if one.coverage is None else _percent(one.coverage),
        "share": None if one.synthetic_share is None else _percent(one.synthetic_share),
        "identity": number(identity, 3),
        "score": number(one.score, 3),
        "without": "" if one.score is None or not unknown else f"without {' and '.join(unknown)}",
        "gain": "\N{EN DASH}" if gain is None else f"{gain:+.1f}%",
        "noise": "" if noise is None else f"\N{PLUS-MINUS SIGN}{noise:.1f}%",
        "failures": [(CHECK_NAMES.get(check, shown(check)), count) for check, count in one.failures.items() if count],
        "most": max([1, *one.failures.values()]),
        "reasons": [shown(reason) for reason in reasons],
        "left_out": [
            f"{count:,} approved and left out {WHY_LEFT_OUT.get(reason, shown(reason))}"
            for reason, count in one.left_out.items()
        ],
        "words": shown(decision.words) if decision else "Not finished yet.",
    }


def _gap(gap: GapOutcome, need_real_photos: Sequence[str]) -> dict:
    return {
        "name": shown(f"{gap.type}: {gap.target}".replace("_", " ")),
        "reason": shown(gap.reason),
        "count": gap.count,
        "outcome": _outcome(gap),
        "need_real_photos": str(gap.key) in need_real_photos,
    }


def _outcome(gap: GapOutcome) -> str:
    if not gap.generated:
        return "none generated"
    unsure = f", {gap.unverified:,} unverified" if gap.unverified else ""
    return f"{gap.approved:,} of {gap.generated:,} approved{unsure}"


def _count(value: int | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,}"


def _samples(loras: Sequence[LoraRecord], plan: PromptPlan, samples: Mapping[tuple[str, str], bytes]) -> list[dict]:
    """A row for each prompt, a picture for each LoRA."""
    return [
        {
            "prompt": shown(one.prompt),
            "seed": one.seed,
            "pictures": [encoded(samples.get((lora.name, one.name))) for lora in loras],
        }
        for one in plan.images[:SHOWN_SAMPLES]
    ]
