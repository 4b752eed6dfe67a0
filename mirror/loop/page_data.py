"""What the loop's page shows beside the history: thumbnails of samples, reasons of rejection, the conclusion."""

from __future__ import annotations

from collections import Counter

from mirror.contracts.contract import ContractError, read_contract
from mirror.contracts.history import StopDecision
from mirror.contracts.plan import PromptPlan
from mirror.contracts.validation import Outcome, ValidationReport
from mirror.dataset.checks import CHECK_NAMES
from mirror.loop.facts import last_decided
from mirror.loop.state import Loop
from utils.decoding import ImageError, decode
from utils.images import read_file, thumbnail

SHOWN_REASONS = 8  # of an iteration, the commonest; all of them stand in its validation report


def plan_of(loop: Loop) -> PromptPlan:
    return read_contract(loop.paths.plan, PromptPlan, "bootstrap_loop.py")


def last_decision(loop: Loop) -> StopDecision | None:
    """Of the newest iteration that counts."""
    ended = last_decided(loop.ledger.history, loop.manifest)
    return ended.decision if ended else None


def sample_thumbnails(loop: Loop, plan: PromptPlan) -> dict[tuple[str, str], bytes]:
    """(LoRA, name in the plan) -> small JPEG."""
    found = {}
    for lora in loop.ledger.history.loras:
        for planned in plan.images:
            for path in loop.paths.samples(lora.name).glob(f"{planned.name}.*"):
                try:
                    found[lora.name, planned.name] = thumbnail(decode(read_file(path)))
                except ImageError:
                    continue
    return found


def reasons_by_image(loop: Loop) -> dict[int, list[str]]:
    """Iteration -> the reasons for which single images were rejected, the commonest first."""
    reasons: dict[int, list[str]] = {}
    for iteration in loop.ledger.history.iterations:
        try:
            path = loop.paths.report(iteration.number)
            report = read_contract(path, ValidationReport, "validate_synthetic.py")
        except ContractError:
            continue
        failed = Counter(
            f"{CHECK_NAMES.get(check.check, check.check)}: {check.reason}"
            for image in report.images
            for check in image.checks
            if check.outcome == Outcome.FAILED
        )
        reasons[iteration.number] = [f"{count} x {words}" for words, count in failed.most_common(SHOWN_REASONS)]
    return reasons
