"""What the numbers of one group say in words: overtrained, rigid, wrong person, good ..., or too few images to tell.

`RULES` holds every verdict: what it means, where that comes from, what to do next, and the pure function that judges.
What counts as usual comes from the references themselves: how alike they are at the same turn of the head
(mirror.faces.alike), and how near each one is to the nearest other, so that it fits the pack, the person and the number
of photos. Medians and MADs, or means without outliers: a few photos of somebody else must not move a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mirror.contracts.summary import Verdict
from mirror.faces import identity_rules, metrics
from mirror.faces.group import LIMITS, Faces, mad, mad_of_rows, resampled, spread_by
from mirror.faces.identity_rules import Finding

TOO_FEW, GOOD = "too few images to tell", "good"

Judge = Callable[[Faces, Faces, Faces | None], Finding | None]  # group, references, images without the LoRA


@dataclass(frozen=True)
class Rule:
    """One verdict: `judge` gives it, or None where it does not hold."""

    meaning: str
    source: str
    advice: str
    judge: Judge
    hides: tuple[str, ...] = ()  # verdicts that this one explains


def judge(group: Faces, references: Faces, floor: Faces | None = None) -> list[Verdict]:
    """All verdicts of a group, the gravest first; never none. `floor` are images that were made without the LoRA."""
    names = list(WITHOUT_FACES)
    enough = len(references) >= LIMITS.fewest_references
    if enough and len(group.all_nearest) >= LIMITS.fewest_for_copies:
        names += OF_COPIES if len(group.all_nearest) >= LIMITS.fewest_faces else ("copycat",)
    clear = enough and len(group) >= LIMITS.fewest_faces
    if clear:
        names = list(RULES)
    findings = {name: finding for name in names if (finding := RULES[name].judge(group, references, floor))}
    hidden = {other for name in findings for other in RULES[name].hides}
    found = [
        Verdict(name=name, sentence=sentence, numbers=numbers, advice=RULES[name].advice)
        for name, (sentence, numbers) in findings.items()
        if name not in hidden
    ]
    explained = enough and any(verdict.name in WITHOUT_FACES for verdict in found)  # why there are few faces
    if not clear and not explained:
        return [*found, _too_few(group, references)]
    return found or [_good_or_unsure(group, references)]


def _too_few(group: Faces, references: Faces) -> Verdict:
    if len(references) < LIMITS.fewest_references:
        count, least, advice = len(references), LIMITS.fewest_references, "Add reference photos."
        sentence = (
            f"Too few reference photos with a clear face that can be compared ({count}); at least {least} are needed."
        )
    else:
        count, least = len(group), LIMITS.fewest_faces
        advice = "Generate more images with it: 10 prompts, 3 seeds each."
        sentence = f"{count} clear face{'' if count == 1 else 's'}; at least {least} are needed for a verdict."
    return Verdict(name=TOO_FEW, sentence=sentence, numbers={"count": count, "needed": least}, advice=advice)


def _good_or_unsure(group: Faces, references: Faces) -> Verdict:
    alike = group.alike(references)
    if alike is None or alike.matched < LIMITS.fewest_faces:
        count = alike.matched if alike else 0
        sentence = f"{count} faces are turned as some reference is; at least {LIMITS.fewest_faces} are needed."
        advice = "Add references from these angles, or generate images from the front."
        numbers = {"count": count, "needed": LIMITS.fewest_faces}
        return Verdict(name=TOO_FEW, sentence=sentence, numbers=numbers, advice=advice)
    numbers = {"resemblance": alike.resemblance, "error": alike.error, "identity": alike.identity}
    if alike.resemblance >= LIMITS.unlike:
        sentence = f"As like the person ({alike.resemblance:.2f}) as the references are (1), no fault seen."
        return Verdict(name=GOOD, sentence=sentence, numbers=numbers, advice="Keep it.")
    sentence = f"Resemblance {alike.resemblance:.2f} is below {LIMITS.unlike:.2f}, but that may be chance."
    return Verdict(name=TOO_FEW, sentence=sentence, numbers=numbers, advice="Generate more images with it.")


# The rules, one function each.


def _collapsed(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    if group.collapsed < 2 or group.collapsed < LIMITS.collapsed * group.images:
        return None
    sentence = f"{group.collapsed} of {group.images} images are black or uniform frames."
    return sentence, {"collapsed": group.collapsed, "images": group.images}


def _many_failures(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    unclear = group.failed + group.rescued
    if not group.images or unclear < LIMITS.failed * group.images:
        return None
    if metrics.wilson(unclear, group.images)[0] < LIMITS.failed_wilson:
        return None
    second = f"{group.rescued} of {group.images} images show a face that only a second look found"
    sentence = f"{group.failed} of {group.images} images show no face"
    sentence = (
        f"{sentence}; {second}." if group.failed and group.rescued else f"{sentence if group.failed else second}."
    )
    return sentence, {"failed": group.failed, "rescued": group.rescued, "images": group.images}


def copies_of(group: Faces, references: Faces) -> int:
    """How many faces are near copies of a reference; 0 where there are too few references to say what is near."""
    if len(references) < LIMITS.fewest_references:
        return 0
    return int(np.sum((group.all_nearest > references.copy_limit) | group.all_repeated))


def _overtrained(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    copies, faces, limit = copies_of(group, references), len(group.all_nearest), references.copy_limit
    spreads = spread_by(group.all_ratio, references.all_ratio), spread_by(group.all_yaw_deg, references.all_yaw_deg)
    narrow = min(spreads)
    if copies < LIMITS.copies_most * faces or narrow > LIMITS.narrow:
        return None
    sentence = (
        f"{copies} of {faces} faces are near copies of a reference (above {limit:.2f}, or the "
        f"same picture), and face ratio or yaw vary only {narrow:.0%} as much as in the references."
    )
    return sentence, {"copies": copies, "faces": faces, "copy_limit": limit, "spread": narrow}


def _copycat(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    copies, faces, limit = copies_of(group, references), len(group.all_nearest), references.copy_limit
    if metrics.wilson(copies, faces)[0] <= LIMITS.copies_wilson:
        return None
    sentence = f"{copies} of {faces} faces are near copies of a reference (above {limit:.2f}, or the same picture)."
    return sentence, {"copies": copies, "faces": faces, "copy_limit": limit}


def _black_hole(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    """One reference takes many images, more than of the other references, and they are unusually near to it."""
    name, hits = Counter(group.all_nearest_name).most_common(1)[0]
    known, count, faces = Counter(references.all_nearest_name), len(references.all_nearest), len(group.all_nearest)
    share = (1 + known[name]) / (2 * count)  # of the references' own neighbours, one added for each
    chance = count * metrics.binomial_tail(hits, faces, share)
    near = float(np.median(group.all_nearest[[one == name for one in group.all_nearest_name]]))
    usual = float(np.median(references.all_nearest))
    is_near = 1 - near < LIMITS.hits_near * (1 - usual)
    if hits < LIMITS.hits_least * faces or chance > LIMITS.hits_chance or not is_near:
        return None
    sentence = (
        f"{hits} of {faces} faces are nearest to {name}, at {near:.2f} (references among themselves {usual:.2f})."
    )
    return sentence, {"reference": name, "hits": hits, "faces": faces, "nearest": near, "usual": usual}


def _rigid(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    yaw, ratio = spread_by(group.yaw_deg, references.yaw_deg), spread_by(group.ratio, references.ratio)
    varied = mad(references.yaw_deg) >= LIMITS.least_yaw_mad_deg
    if not varied or yaw > LIMITS.rigid:
        return None
    surely = resampled(group.yaw_deg, mad_of_rows, 0.95) / mad(references.yaw_deg)
    if surely > LIMITS.rigid_surely:
        return None
    sentence = (
        f"Heads turn {yaw:.0%} as much as in the references (yaw spread {mad(group.yaw_deg):.0f} against "
        f"{mad(references.yaw_deg):.0f} degrees), the face ratio varies {ratio:.0%} as much."
    )
    return sentence, {"yaw_spread": yaw, "at_most": float(surely), "ratio_spread": ratio}


def _ages(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    own, usual = group.age[~np.isnan(group.age)], references.age[~np.isnan(references.age)]
    if min(len(own), len(usual)) < LIMITS.fewest_references:
        return None
    years = float(np.median(own) - np.median(usual))
    ranges = metrics.median_interval(own), metrics.median_interval(usual)
    apart = ranges[0][0] > ranges[1][1] or ranges[0][1] < ranges[1][0]
    if abs(years) < LIMITS.years or not apart:
        return None
    way = "older" if years > 0 else "younger"
    sentence = f"Faces look {abs(years):.0f} years {way} ({np.median(own):.0f} against {np.median(usual):.0f})."
    return sentence, {"years": years, "age": float(np.median(own)), "references": float(np.median(usual))}


_README = "README of MirrorMetrics"
RULES: dict[str, Rule] = {
    "collapsed": Rule(
        "images are near-black or uniform frames, not pictures without a face",
        "late checkpoints of Flux.2 give such frames (atomantic/PortOS#1241)",
        "Take an earlier checkpoint; lower the learning rate.",
        _collapsed,
        hides=("many failures",),
    ),
    "many failures": Rule(
        "many images show no face, or one that the detector found only at a second look",
        "our choice: what was not measured must not vanish from a median",
        "Look at these images: cut-off heads, backs of heads, masks. Change the prompts, or take another checkpoint.",
        _many_failures,
        hides=("mixed", "identity drift", "undertrained"),
    ),
    "overtrained": Rule(
        "most faces are near copies of references, and the face ratio hardly varies",
        f"{_README}: similarity extremely high on all images and a Face Ratio variance near zero",
        "Take an earlier checkpoint, lower the steps or the learning rate, or use fewer repeats.",
        _overtrained,
        # copies have the age of their photo, so that their median says nothing of the LoRA's
        hides=("copycat", "rigid", "wrong person", "mixed", "identity drift", "undertrained", "ages the person"),
    ),
    "copycat": Rule(
        "more faces than chance gives are near copies of a reference",
        f"{_README}: the Copycat report; the limit from the references' leave-one-out nearest neighbours",
        "Look at the pairs in the Copycat report. Use fewer repeats, vary the captions, or take an earlier checkpoint.",
        _copycat,
        hides=("wrong person", "mixed", "undertrained"),
    ),
    "black hole": Rule(
        "one reference attracts far more images than it attracts references, and they are unusually near to it",
        f"{_README}: the Black Hole Ranking",
        "Remove that reference or lower its repeats; add photos that are unlike it.",
        _black_hole,
    ),
    "wrong person": Rule(
        "the faces are unlike the person, but as alike among themselves as pictures of one person are",
        "mirror.faces.alike: pairs at the same turn of the head, by the references' own",
        "Check trigger word and LoRA strength, and that the LoRA belongs to this person.",
        identity_rules.wrong_person,
        hides=("undertrained", "ages the person"),
    ),
    "mixed": Rule(
        "the person in some pictures, somebody else in the others",
        "two separate groups of likeness (Ashman, Bird & Zepf 1994), one of them the person (mirror.faces.alike)",
        "Check the dataset for other people, the captions for other names, and prompts for several people.",
        identity_rules.mixed,
        hides=("undertrained", "wrong person", "identity drift", "ages the person"),
    ),
    "identity drift": Rule(
        "turned heads are less like the person than heads near the front, or all are no more so than without the LoRA",
        f"{_README}: Profile Stability",
        "Add photos in three-quarter view and profile; train a little longer.",
        identity_rules.drift,
        hides=("wrong person", "undertrained", "ages the person"),  # turned heads have the age of somebody else
    ),
    "undertrained": Rule(
        "the faces are less like the person than her other pictures are, and nobody else's",
        "mirror.faces.alike: pairs at the same turn of the head, by the references' own",
        "Train longer, or take a later checkpoint; check strength and trigger word.",
        identity_rules.undertrained,
    ),
    "rigid": Rule(
        "heads turn far less than in the references (the face ratio is told as well)",
        f"{_README}: Face Ratio a flat line and Pose Variety clustered at the center",
        "Ask for other angles in the prompts first; then lower the steps, and add three-quarter views and profiles.",
        _rigid,
    ),
    "ages the person": Rule(
        "the apparent age differs from the references'",
        f"{_README}: Age Distribution",
        "Check light and skin texture of the dataset; name the age in prompts and captions.",
        _ages,
    ),
}
WITHOUT_FACES = ("collapsed", "many failures")  # what can be said though hardly a face was measured
OF_COPIES = ("overtrained", "copycat", "black hole")  # what faces of a second look can show as well
COPYING = ("overtrained", "copycat")  # a checkpoint that does is not the best one, however alike
