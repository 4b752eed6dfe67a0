"""`validation_report.html`: the contact sheet of a validated folder, rejected images first, the worst of each first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from mirror.contracts.validation import Check, Outcome, ValidatedImage, ValidationReport, Verdict
from mirror.dataset.checks import CHECK_NAMES, NEEDS_PHOTOS
from mirror.report.render import encoded, moment, number, render, sensor_facts, shown

# Colour, mark and meaning of each verdict, in the order of the page; the word always stands beside the colour.
_LOOKS = {
    Verdict.REJECTED: ("#ff6b6b", "\N{MULTIPLICATION SIGN}", "at least one check failed"),
    Verdict.UNVERIFIED: ("#f5b942", "?", "nothing failed, but a check could not be measured"),
    Verdict.APPROVED: ("#4fd1a5", "\N{CHECK MARK}", "every check passed"),
}
_ALLOWED = "no check failed; some could not be measured and were allowed (--allow-unverified)"
_OUTCOMES = {Outcome.PASSED: "passed", Outcome.FAILED: "failed", Outcome.NOT_MEASURED: "not measured"}


def build_validation(
    report: ValidationReport, thumbnails: Sequence[bytes | None], references: Mapping[str, bytes | None]
) -> str:
    """The whole page, with the small JPEGs of `report.images` in their order and of the real photos by their file."""
    if len(thumbnails) != len(report.images):
        raise ValueError(f"{len(thumbnails)} thumbnails for {len(report.images)} images")
    cards = [_card(image, picture, references) for image, picture in zip(report.images, thumbnails, strict=True)]
    counts = {
        Verdict.REJECTED: report.rejected,
        Verdict.UNVERIFIED: report.unverified,
        Verdict.APPROVED: report.approved,
    }
    allowed = {image.verdict for image in report.images if _is_unmeasured(image)} & {Verdict.APPROVED}
    return render(
        "validation",
        _facts(report),
        report.warnings,
        approved_percent=report.approved_percent,
        mean_quality=report.mean_quality,
        failures=[(CHECK_NAMES[check], count) for check, count in report.failures.items()],
        most=max(report.failures.values(), default=1),
        sections=[
            {
                "verdict": str(verdict),
                "colour": colour,
                "mark": mark,
                "meaning": _ALLOWED if verdict in allowed else meaning,
                "count": counts[verdict],
                "cards": sorted((one for one in cards if one["verdict"] == verdict), key=_worst_first),
            }
            for verdict, (colour, mark, meaning) in _LOOKS.items()
        ],
    )


def _is_unmeasured(image: ValidatedImage) -> bool:
    return any(one.outcome == Outcome.NOT_MEASURED for one in image.checks)


def _worst_first(card: dict) -> float:
    """An image without a quality shows nothing at all: it comes first."""
    return -1.0 if card["quality"] is None else card["quality"]


def _facts(report: ValidationReport) -> list[tuple[str, str]]:
    real = report.references
    photos = "none: the person cannot be recognised"
    if real is not None:
        photos = f"{Path(real.folder).name or real.folder}, {real.faces:,} of {real.images:,} with the person's face"
    level = "not measured"
    if real is not None and real.level is not None:
        level = f"{real.level:.2f}: how similar a frontal photo is to the other photos (median)"
        level += "; the identity limit is set from it"
    return [
        ("Created", moment(report.created)),
        ("Folder", shown(Path(report.folder).name or report.folder)),
        ("Real photos", shown(photos)),
        ("How alike the photos are", level),
        ("Angles by", shown(report.sensors.angle.identity)),
        ("Identity by", shown(report.identity_pack or "no pack: not measured")),
        *sensor_facts(report.sensors),
    ]


def _card(image: ValidatedImage, picture: bytes | None, references: Mapping[str, bytes | None]) -> dict:
    reasons = [one for one in image.checks if one.outcome == Outcome.FAILED]
    if image.verdict == Verdict.UNVERIFIED:
        reasons = [one for one in image.checks if one.outcome == Outcome.NOT_MEASURED]
    compared = any(one.check in NEEDS_PHOTOS for one in reasons)
    beside = references.get(image.nearest_reference) if compared and image.nearest_reference else None
    return {
        "verdict": image.verdict,
        "file": _breakable(shown(image.file)),
        "source": encoded(picture),
        "beside": encoded(beside),
        "beside_name": _breakable(shown(image.nearest_reference or "")),
        "quality": image.quality,
        "wanted": shown(f"{image.gap_type}: {image.target}".replace("_", " ")) if image.gap_type else "no target",
        "facts": _numbers(image),
        "reasons": [(CHECK_NAMES[one.check], shown(one.reason), _value(one)) for one in reasons],
        "checks": [_row(one) for one in image.checks],
    }


def _breakable(name: str) -> Markup:
    """A file name that narrow cards break after its dots, dashes and underscores before anywhere else."""
    return Markup("<wbr>").join(re.split(r"(?<=[._-])", name))


def _numbers(image: ValidatedImage) -> str:
    """What was measured, in a line."""
    parts = []
    if image.yaw_deg is not None:
        parts.append(f"yaw {image.yaw_deg:.1f}°")
    if image.similarity is not None:
        parts.append(f"similarity {image.similarity:.2f}")
    if image.relative_sharpness is not None:
        parts.append(f"{image.relative_sharpness:.1f} × as sharp as the photos")
    return ", ".join(parts)


def _row(check: Check) -> dict:
    return {
        "name": CHECK_NAMES[check.check],
        "value": _text(check.value),
        "limit": _text(check.limit),
        "outcome": _OUTCOMES[check.outcome],
        "kind": str(check.outcome),
    }


def _value(check: Check) -> str:
    """Value and limit of a number that failed; nothing where the reason says it all."""
    if not isinstance(check.value, float) or check.limit is None:
        return f"{_text(check.value)} instead of {_text(check.limit)}" if isinstance(check.limit, str) else ""
    return f"{_text(check.value)}, limit {_text(check.limit)}"


def _text(value: float | str | tuple[float, float] | None) -> str:
    if isinstance(value, tuple):
        return f"{_text(value[0])}\N{EN DASH}{_text(value[1])}"
    if isinstance(value, float):
        return number(value, 0 if abs(value) >= 10 else 2)
    return "\N{EN DASH}" if value is None else shown(value).replace("_", " ")
