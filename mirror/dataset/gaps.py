"""Gap types: what a dataset can lack, how it is measured, how much of it there should be, and how to ask for it.

`GAP_TYPES` is the one table that gap_analysis.py (measures, goals) and generate_synthetic.py (prompt texts) read. A
type sorts every picture into one of its targets; a target may have a goal. docs/gap-analysis.md says how to add one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mirror.contracts.expressions import EXPRESSIONS
from mirror.contracts.gaps import Distribution, Recommendation, TargetShare
from mirror.dataset import pixels
from mirror.faces.pose import BIN_LIMITS_DEG, angle_bin
from utils.console import UserError

ANGLE, HANDS, EYES, EXPRESSION = "angle", "hands", "eyes", "expression"  # sensors that a type can need

# Height of the face box by the picture's height, lower limit included. Our choice, from what film calls a close-up
# (head and shoulders), a medium shot (from the waist up) and a full shot (the whole figure): rendered so
# (demo/scene.py, FRAMINGS bust, half_body and full_figure), the face of a figure takes 43 %, 21 % and 10 %.
SHOT_SIZES = {"full": (0.0, 0.15), "medium": (0.15, 0.35), "close_up": (0.35, math.inf)}

FEWEST_IMAGES, GOOD_MINIMUM, IDEAL_IMAGES = 20, 50, 100  # below 20 shares say little; minimum and ideal as documented


@dataclass(frozen=True)
class Look:
    """One decoded picture and what the sensors found in it, for the measure functions."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    grey: np.ndarray  # (H, W) uint8
    histogram: np.ndarray  # (256,) share of pixels at each grey level
    face_box_xyxy: tuple[float, float, float, float] | None = None  # pixels, the largest face
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    turned_deg: int = 0  # clockwise, by which the picture would be upright
    eyes: int | None = None  # None: no detector for them
    hands: int | None = None
    expression: str | None = None  # None: no model for it, or one that is not sure


@dataclass(frozen=True)
class Target:
    """One value of a gap type. Below `trigger_percent` of the images it is a gap, and `goal_percent` is asked for."""

    name: str
    label: str  # begins the reason: "Profile shots are 8.2% (target: 20%)"
    prompts: tuple[str, ...] = ()  # texts that ask a generator for it
    goal_percent: float | None = None
    trigger_percent: float | None = None


@dataclass(frozen=True)
class GapType:
    """One way of sorting pictures. `measure` returns the name of a target, or None where it cannot tell."""

    name: str
    title: str
    measure: Callable[[Look], str | None]
    targets: tuple[Target, ...]
    needs: str | None = None  # ANGLE, HANDS, EYES, EXPRESSION, or None where pixels are enough

    def target(self, name: str) -> Target:
        return next(target for target in self.targets if target.name == name)


def face_angle(look: Look) -> str | None:
    return None if look.yaw_deg is None else angle_bin(look.yaw_deg)


def shot_size(look: Look) -> str | None:
    if look.face_box_xyxy is None:
        return None
    share = face_height_share(look.face_box_xyxy, look.image.shape[1::-1], look.turned_deg)
    return next(name for name, (low, high) in SHOT_SIZES.items() if low <= share < high)


def face_height_share(
    box_xyxy: tuple[float, float, float, float], size_wh: tuple[int, int], turned_deg: int = 0
) -> float:
    """Height of a face box, as far as it lies inside the picture, by the picture's height, both as they are upright."""
    axis = 0 if turned_deg in (90, 270) else 1
    return max(0.0, min(box_xyxy[2 + axis], size_wh[axis]) - max(box_xyxy[axis], 0.0)) / size_wh[axis]


def composition(look: Look) -> str | None:
    return None if look.hands is None else "hands_visible" if look.hands else "hands_hidden"


def eyes(look: Look) -> str | None:
    return None if look.eyes is None else "visible" if look.eyes else "hidden"


def expression(look: Look) -> str | None:
    return look.expression


def lighting(look: Look) -> str:
    return pixels.lighting(look.histogram)


GAP_TYPES: dict[str, GapType] = {}


def measured_type(gap_type: str | None, target: str | None, types: Mapping[str, GapType] = GAP_TYPES) -> GapType | None:
    """The one of `types` that measures a target; None where no sensor does, as for a setting."""
    gap = types.get(gap_type)
    return gap if gap is not None and any(one.name == target for one in gap.targets) else None


def register(gap: GapType) -> None:
    """Add a type to the table. Raises ValueError for a name that is taken, and for what `check_goals` refuses."""
    if gap.name in GAP_TYPES:
        raise ValueError(f"the gap type {gap.name} is registered already")
    check_goals(gap)
    GAP_TYPES[gap.name] = gap


def check_goals(gap: GapType) -> None:
    """Raise ValueError for goals that no number of images reaches, or targets that are not what is measured."""
    if gap.measure is face_angle and [target.name for target in gap.targets] != list(BIN_LIMITS_DEG):
        bins = ", ".join(BIN_LIMITS_DEG)
        raise ValueError(f"the targets of {gap.name} must be the angle bins of mirror/faces/pose.py, in order: {bins}")
    goals = [target for target in gap.targets if target.goal_percent is not None]
    for target in goals:
        if target.trigger_percent is None or target.trigger_percent > target.goal_percent:
            raise ValueError(f"{gap.name}.{target.name}: the trigger must be given, and not lie above the goal")
    total = sum(_share(target.goal_percent) for target in goals)
    if total > 1 or (total == 1 and len(goals) < len(gap.targets)):
        room = "100%" if len(goals) == len(gap.targets) else "less than 100%, as other targets have no goal"
        raise ValueError(f"the goals of {gap.name} add up to {float(100 * total):g}%; they may take {room}")


def _share(percent: float) -> Fraction:
    """Exact: 30 % of 10 images are 3, which floating point does not promise."""
    return Fraction(str(percent)) / 100


_EXPRESSIONS = {  # label, and texts that ask a generator for it
    "neutral": ("Neutral faces", ("neutral expression, relaxed face", "calm neutral face, mouth closed")),
    "smile": ("Smiles", ("gentle smile, happy expression", "broad smile, showing teeth")),
    "serious": ("Serious faces", ("serious expression, intense gaze", "serious face, slight frown")),
    "laughing": ("Laughing faces", ("laughing, mouth open, joyful", "laughing out loud, eyes narrowed with joy")),
    "surprised": ("Surprised faces", ("surprised expression, eyebrows raised", "astonished, eyes wide, mouth open")),
    "angry": ("Angry faces", ("angry expression, eyebrows drawn together", "furious look, frowning, lips pressed")),
    "sad": ("Sad faces", ("sad expression, corners of the mouth down", "sorrowful look, inner eyebrows raised")),
}
_WITH_GOAL = ("neutral", "smile")

# Goals: profile 20 and hands 30 are documented; the others, and triggers at half of the goal, are our choice. Lighting
# is a type of the kind that users add: a function that looks at pixels, two goals, and prompt texts.
# Of expressions a smile and a neutral face have goals: albums lack one or the other, and what is the same everywhere is
# learned with the person. The rest are a matter of taste, for --goals.
BUILT_IN_TYPES = (
    GapType(
        name="face_angle",
        title="Face angle",
        measure=face_angle,
        needs=ANGLE,
        targets=(
            Target("front", "Front shots", ("front view, facing the camera", "looking straight at the camera"), 50, 25),
            Target(
                "three_quarter",
                "Three-quarter shots",
                ("three-quarter view, head turned to the left", "three-quarter view, head turned to the right"),
                30,
                15,
            ),
            Target(
                "profile",
                "Profile shots",
                (
                    "profile view from the left side, side of the face",
                    "profile view from the right side, side of the face",
                ),
                20,
                10,
            ),
        ),
    ),
    GapType(
        name="composition",
        title="Composition",
        measure=composition,
        needs=HANDS,
        targets=(
            Target(
                "hands_visible",
                "Images with visible hands",
                ("hands visible, one hand near the chin", "both hands visible", "waving, hand raised beside the face"),
                30,
                15,
            ),
            Target("hands_hidden", "Images without hands", ("hands out of frame",)),
        ),
    ),
    GapType(
        name="lighting",
        title="Lighting",
        measure=lighting,
        targets=(
            Target(pixels.LOW_KEY, "Low-key shots", ("low-key lighting, dark background, deep shadows",), 10, 5),
            Target(pixels.HIGH_KEY, "High-key shots", ("high-key lighting, bright white background",), 10, 5),
            Target(pixels.NORMAL, "Shots in normal light", ("natural lighting",)),
        ),
    ),
    GapType(
        name="shot_size",
        title="Shot size",
        measure=shot_size,
        needs=ANGLE,
        targets=(
            Target("close_up", "Close-ups", ("close-up portrait, head and shoulders",)),
            Target("medium", "Medium shots", ("medium shot, from the waist up",)),
            Target("full", "Full shots", ("full body shot, whole figure in frame",)),
        ),
    ),
    GapType(
        name="eyes",
        title="Eyes",
        measure=eyes,
        needs=EYES,
        targets=(
            Target("visible", "Images with visible eyes", ("eyes open, eyes visible",)),
            Target("hidden", "Images without visible eyes", ("eyes closed", "dark sunglasses")),
        ),
    ),
    GapType(
        name="expression",
        title="Expression",
        measure=expression,
        needs=EXPRESSION,
        targets=tuple(
            Target(name, *_EXPRESSIONS[name], *((20, 10) if name in _WITH_GOAL else ())) for name in EXPRESSIONS
        ),
    ),
)

for _built_in in BUILT_IN_TYPES:
    register(_built_in)


def measure_values(look: Look, types: Mapping[str, GapType]) -> dict[str, str | None]:
    """Target of one picture for every type. Raises UserError where a measure function breaks its promise."""
    values = {}
    for gap in types.values():
        try:
            value = gap.measure(look)
        except Exception as error:  # a user's own function may raise anything
            problem = f"{type(error).__name__}: {error}"
            raise UserError(
                f"The measure function of gap type {gap.name} failed ({problem}); see its entry."
            ) from error
        names = [target.name for target in gap.targets]
        if value is not None and value not in names:
            raise UserError(f"The measure function of gap type {gap.name} gave {value!r}; its targets are {names}.")
        values[gap.name] = value
    return values


def distribution(gap: GapType, values: list[str | None]) -> Distribution:
    """How often each target occurs among the images where the type could be measured."""
    measured = sum(value is not None for value in values)
    shares = []
    for target in gap.targets:
        count = values.count(target.name)
        share = round(100 * count / measured, 4) if measured else None
        shares.append(
            TargetShare(
                target=target.name,
                label=target.label,
                count=count,
                share_percent=share,
                goal_percent=target.goal_percent,
                trigger_percent=target.trigger_percent,
            )
        )
    return Distribution(type=gap.name, title=gap.title, measured=measured, targets=shares)


def images_wanted(one: Distribution) -> dict[str, int]:
    """Images to add for each target that is a gap, so that all of them reach their goals after adding.

    A target is a gap when it lies below its trigger, or when what is added for the others would push it there. Only
    what is measured counts: `one.measured` images now, and every added one.
    """
    goals = {share.target: share for share in one.targets if share.goal_percent is not None}
    if not one.measured:
        return {}

    def below(images: int) -> set[str]:
        return {name for name, share in goals.items() if share.count < _share(share.trigger_percent) * images}

    wanted: dict[str, int] = {}
    gaps = below(one.measured)
    while gaps - wanted.keys():
        chosen = [share for name, share in goals.items() if name in gaps | wanted.keys()]
        wanted = _additions(chosen, one.measured)
        gaps = below(one.measured + sum(wanted.values()))
    return wanted


def _additions(gaps: list[TargetShare], measured: int) -> dict[str, int]:
    """The fewest images that bring all `gaps`, which exclude each other, to their goals at once.

    With goals g and counts n, the total T after adding must satisfy n + x >= g T for each gap, T = measured + sum x.
    In real numbers T = (measured - sum n) / (1 - sum g); from there the whole numbers are found by stepping up, and
    the first that fits is the least, because each x grows with T.
    """
    goals = [_share(gap.goal_percent) for gap in gaps]
    rest = measured - sum(gap.count for gap in gaps)
    total = max(measured, math.ceil(rest / (1 - sum(goals)))) if sum(goals) < 1 else measured
    while True:
        wanted = [max(0, math.ceil(goal * total) - gap.count) for goal, gap in zip(goals, gaps, strict=True)]
        if measured + sum(wanted) <= total:
            return {gap.target: count for gap, count in zip(gaps, wanted, strict=True)}
        total = measured + sum(wanted)


def synthetic_room(images: int, synthetic: int, max_share: float) -> int:
    """Images that may be added to `images`, of which `synthetic` were generated, before `max_share` of all are."""
    share = Fraction(str(max_share))
    return max(0, math.floor((share * images - synthetic) / (1 - share)))


def recommend(distributions: list[Distribution], room: int, max_share: float) -> list[Recommendation]:
    """What to add for every gap, `room` images in all; where they are not enough each gap gets its part."""
    gaps = [(one, share, images_wanted(one)) for one in distributions for share in one.targets]
    gaps = [(one, share, wanted[share.target]) for one, share, wanted in gaps if share.target in wanted]
    counts = clipped([wanted for _, _, wanted in gaps], room)
    return [
        Recommendation(
            type=one.type,
            target=share.target,
            count=count,
            reason=_reason(share, count, wanted, max_share),
            share_percent=share.share_percent,
            goal_percent=share.goal_percent,
            wanted=wanted,
        )
        for (one, share, wanted), count in zip(gaps, counts, strict=True)
    ]


def _reason(share: TargetShare, count: int, wanted: int, max_share: float) -> str:
    reason = f"{share.label} are {share.share_percent:.1f}% (target: {share.goal_percent:g}%)"
    if count == wanted:
        return reason
    limit = f"at most {100 * max_share:g}% of the dataset may be synthetic"
    return f"{reason}; clipped from {wanted} to {count}, as {limit}"


def clipped(wanted: list[int], room: int) -> list[int]:
    """`wanted`, or where its sum exceeds `room` each one's part of `room`, largest remainders first."""
    total = sum(wanted)
    if total <= room:
        return list(wanted)
    counts = [count * room // total for count in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda i: -(wanted[i] * room % total))
    for i in by_remainder[: room - sum(counts)]:
        counts[i] += 1
    return counts
