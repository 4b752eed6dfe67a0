"""Gap reports and registry entries made up for tests, without any picture."""

from __future__ import annotations

from mirror.contracts.contract import Spread
from mirror.contracts.gaps import (
    AngleSensor,
    Distribution,
    GapReport,
    GapSensors,
    ImageRecord,
    NotMeasured,
    TargetShare,
)
from mirror.dataset.gaps import GAP_TYPES, Target, distribution, recommend, synthetic_room
from utils.files import Status


def shares(counts: dict[str, int], goals: dict[str, tuple[float, float]]) -> Distribution:
    """A distribution with these images and, for some targets, (goal, trigger) in percent."""
    measured = sum(counts.values())
    return Distribution(
        type="made_up",
        title="Made up",
        measured=measured,
        targets=[
            TargetShare(
                target=name,
                label=f"{name.capitalize()} shots",
                count=count,
                share_percent=100 * count / measured if measured else None,
                goal_percent=goals[name][0] if name in goals else None,
                trigger_percent=goals[name][1] if name in goals else None,
            )
            for name, count in counts.items()
        ],
    )


def record(file: str, angle: str | None = "front", yaw: float | None = 3.0, **fields: object) -> ImageRecord:
    values = dict.fromkeys(GAP_TYPES) | {"face_angle": angle, "lighting": "normal"}
    return ImageRecord(
        **{
            "file": file,
            "status": Status.OK,
            "size_wh": (64, 48),
            "faces": 1,
            "yaw_deg": yaw,
            "pitch_deg": None if yaw is None else -4.0,
            "sharpness": 250.0,
            "brightness": 120.0,
            "exposure": "normal",
            "picture_hash": "0" * 32,
            "values": values,
        }
        | fields
    )


def report_of(records: list[ImageRecord], warnings: tuple[str, ...] = ()) -> GapReport:
    """The gap file of these records; hands and eyes have no detector."""
    seen = [one for one in records if one.size_wh is not None]
    distributions = [distribution(gap, [one.values[gap.name] for one in seen]) for gap in GAP_TYPES.values()]
    room = synthetic_room(len(seen), 0, 0.3)
    return GapReport(
        created="2026-01-02T03:04:05",
        dataset="/somewhere/dataset",
        recommendations=recommend(distributions, room, 0.3),
        distributions=distributions,
        not_measured=[
            NotMeasured(type=one.type, why="no <b>detector</b>") for one in distributions if not one.measured
        ],
        sensors=GapSensors(
            angle=AngleSensor(kind="pack", identity="made_up@0123456789ab", source="keypoints"), hands=None, eyes=None
        ),
        settings={"max_synthetic_share": 0.3},
        versions={},
        synthetic_images=0,
        synthetic_room=room,
        sharpness=Spread(count=0),
        brightness=Spread(count=0),
        near_duplicates=[],
        ignored_files={},
        warnings=list(warnings),
        images=records,
    )


def target(name: str, goal: float | None = None) -> Target:
    return Target(name, name, ("text",), goal, None if goal is None else goal / 2)
