"""`gaps.html`: a dataset compared with its goals, what could not be measured, and its pictures by angle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mirror.contracts.gaps import Distribution, GapReport, ImageRecord, TargetShare
from mirror.dataset.pixels import SHARPNESS_LIMIT
from mirror.report.render import ANGLE_SOURCES, encoded, moment, render, sensor_facts, shown

ANGLES = "face_angle"  # the gap type whose targets the pictures are laid out by
_UNREMARKABLE = (None, "hidden", "hands_hidden", "normal", "neutral")  # not worth a word beside every picture
_NO_ROOM = "synthetic limit reached"
_STATES = {  # colour and word; the word always stands beside the colour
    "gap": "#ff6b6b",
    "below goal": "#f5b942",
    "reached": "#4fd1a5",
    "no goal": "#8fa8d8",
}


def build_gaps(report: GapReport, thumbnails: Sequence[bytes | None]) -> str:
    """The whole page. `thumbnails[i]` is the small JPEG of `report.images[i]`, None where it could not be read."""
    if len(thumbnails) != len(report.images):
        raise ValueError(f"{len(thumbnails)} thumbnails for {len(report.images)} images")
    why = {missing.type: missing for missing in report.not_measured}
    wanted = {gap.key: gap.count for gap in report.recommendations}
    return render(
        "gaps",
        _facts(report),
        report.warnings,
        gaps=[
            {"label": _label(report, gap), "add": _to_add(gap.count), "reason": gap.reason}
            for gap in report.recommendations
        ],
        distributions=[
            {
                "title": one.title,
                "measured": one.measured,
                "missing": why.get(one.type),
                "rows": [_row(one, share, wanted) for share in one.targets],
            }
            for one in report.distributions
        ],
        bins=_bins(report, thumbnails),
        duplicates=report.near_duplicates,
        failures=[record for record in report.images if record.size_wh is None],
    )


def _facts(report: GapReport) -> list[tuple[str, str]]:
    angle = report.sensors.angle
    return [
        ("Created", moment(report.created)),
        ("Dataset", shown(Path(report.dataset).name or report.dataset)),
        ("Images", f"{len(report.images):,}, of them {report.synthetic_images:,} synthetic"),
        ("Angles by", shown(f"{angle.identity}, {ANGLE_SOURCES[angle.source]}")),
        *sensor_facts(report.sensors),
        ("Room for synthetic images", f"{report.synthetic_room:,}"),
    ]


def _label(report: GapReport, gap: object) -> str:
    """How a target is called; one that only its prompts know has no other name."""
    shares = next((one.targets for one in report.distributions if one.type == gap.type), [])
    unnamed = f"{gap.type}: {gap.target}".replace("_", " ")
    return next((share.label for share in shares if share.target == gap.target), unnamed)


def _to_add(count: int) -> str:
    return f"+{count:,}" if count else f"none: {_NO_ROOM}"


def _row(one: Distribution, share: TargetShare, wanted: dict[tuple[str, str], int]) -> dict:
    """One bar: its length and the mark of the goal in percent of the card's width."""
    key = (one.type, share.target)
    state = _state(share, key in wanted)
    return {
        "label": share.label,
        "count": share.count,
        "share": share.share_percent,
        "goal": share.goal_percent,
        "state": f"{state}, {_to_add(wanted[key]) if wanted[key] else _NO_ROOM}" if key in wanted else state,
        "colour": _STATES[state],
    }


def _state(share: TargetShare, is_gap: bool) -> str:
    if is_gap:
        return "gap"
    if share.goal_percent is None:
        return "no goal"
    return "reached" if (share.share_percent or 0.0) >= share.goal_percent else "below goal"


def _bins(report: GapReport, thumbnails: Sequence[bytes | None]) -> list[dict]:
    """Pictures by angle, then those that were read but have none."""
    targets = next((one.targets for one in report.distributions if one.type == ANGLES), [])
    bins = {share.target: {"label": share.label, "goal": share.goal_percent, "cards": []} for share in targets}
    bins[None] = {"label": "Images without a measured angle", "goal": None, "cards": []}
    titles = {one.type: one.title for one in report.distributions}
    for record, picture in zip(report.images, thumbnails, strict=True):
        if record.size_wh is not None:
            bins[record.values.get(ANGLES)]["cards"].append(_card(record, picture, titles))
    return [one for key, one in bins.items() if key is not None or one["cards"]]


def _card(record: ImageRecord, picture: bytes | None, titles: dict[str, str]) -> dict:
    values = {key: value for key, value in record.values.items() if key != ANGLES}
    tags = [_tag(titles[key], value) for key, value in values.items() if value not in _UNREMARKABLE]
    tags += ["blurred"] if record.sharpness < SHARPNESS_LIMIT else []
    tags += {"under": ["too dark"], "over": ["too bright"]}.get(record.exposure, [])
    return {
        "file": shown(record.file),
        "source": encoded(picture),
        "turn": _turn(record),
        "reason": shown(record.reason),
        "tags": tags,
    }


def _tag(title: str, value: str) -> str:
    return f"{title.lower()} visible" if value == "visible" else value.replace("_", " ")


def _turn(record: ImageRecord) -> str:
    """Yaw and pitch in words of the picture's viewer; whole degrees of yaw cut off, as 24.8 are still front."""
    if record.yaw_deg is None:
        return "no angle"
    side = "right" if record.yaw_deg > 0 else "left"
    tilt = "up" if record.pitch_deg > 0 else "down"
    return f"{int(abs(record.yaw_deg))}° {side}, {abs(record.pitch_deg):.0f}° {tilt}"
