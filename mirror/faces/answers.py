"""What a run says: verdicts of each group, the ranking, checkpoint curves, and one sentence for each question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import (
    BASELINE,
    CANDIDATE,
    HELD_OUT,
    REFERENCE,
    Answer,
    Checkpoint,
    Curve,
    RankedGroup,
    Verdict,
)
from mirror.faces import ranking, steps, verdicts
from mirror.faces.pose import BIN_LIMITS_DEG
from mirror.faces.verdicts import COPYING, GOOD, TOO_FEW, Faces
from utils.files import some_of

OUTLIER_MADS = 3.5  # modified z-score from which a photo is an outlier (Iglewicz & Hoaglin 1993)
OUTLIER_SHARE = 0.9  # ... and below this share of the median, which photos of one shoot never are


@dataclass(frozen=True)
class Conclusions:
    """Everything that is said of the groups of one run."""

    verdicts: dict[str, list[Verdict]]  # of the groups of generated images
    ranking: list[RankedGroup]
    curves: list[Curve]
    answers: list[Answer]
    compared: str


@dataclass(frozen=True)
class _Run:
    """The groups of a run; the one without a LoRA stands apart."""

    references: Faces
    reference_rows: pd.DataFrame
    faces: dict[str, Faces]
    samples: dict[str, ranking.Sample]
    verdicts: dict[str, list[Verdict]]

    def names(self, group: str) -> list[str]:
        return [verdict.name for verdict in self.verdicts[group]]

    def with_any(self, *names: str) -> list[str]:
        return [group for group in self.verdicts if set(names) & set(self.names(group))]

    def fit(self, groups: Iterable[str]) -> list[str]:
        """Those without a fault; where there are none, those that copy nothing."""
        groups = [group for group in groups if len(self.samples[group].scores)]
        sound = [group for group in groups if set(self.names(group)) <= {GOOD, TOO_FEW}]
        return sound or [group for group in groups if group not in self.with_any(*COPYING)]


def conclude(table: pd.DataFrame, groups: Iterable[tuple[str, str]]) -> Conclusions:
    """From the table of a run; `groups` are (type, name), empty ones included."""
    candidates = [name for kind, name in groups if kind == CANDIDATE and name != BASELINE]
    rows = dict(iter(table[table[columns.TYPE] == CANDIDATE].groupby(columns.GROUP, sort=False)))
    own = table[(table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)]
    references = Faces.of(own)
    floor = Faces.of(rows[BASELINE]) if BASELINE in rows else None
    faces = {name: Faces.of(rows.get(name, table.iloc[:0])) for name in candidates}
    run = _Run(
        references,
        own,
        faces,
        {name: _sample(name, rows.get(name, table.iloc[:0])) for name in candidates},
        {name: verdicts.judge(one, references, floor) for name, one in faces.items()},
    )
    ranked = ranking.rank(list(run.samples.values()))
    curves = _curves(run)
    has_holdout = bool(((table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == HELD_OUT)).any())
    return Conclusions(
        run.verdicts,
        [_line(run, one) for one in ranked],
        curves,
        [_best(run, ranked, curves), _overtrained(run), _rigid(run), _dataset(run)],
        _compared(run, has_holdout),
    )


def _sample(name: str, rows: pd.DataFrame) -> ranking.Sample:
    found = rows[rows[columns.SIMILARITY].notna()]
    mark = steps.mark_of(name)
    keys = ranking.picture_keys(name, found[columns.FILENAME], (mark.token,) if mark else ())
    return ranking.Sample(name, keys, found[columns.SIMILARITY].to_numpy(dtype=float))


def _line(run: _Run, ranked: ranking.Ranked) -> RankedGroup:
    """One group's line of the ranking, with what stands beside its similarity."""
    faces, references = run.faces[ranked.name], run.references
    ages = [one.age[~np.isnan(one.age)] for one in (faces, references)]
    usual = verdicts.mad(references.yaw_deg) if len(references) else 0.0
    return RankedGroup(
        name=ranked.name,
        rank=ranked.rank,
        median=ranked.median,
        interval=ranked.interval,
        better=ranked.better,
        spread=verdicts.mad(run.samples[ranked.name].scores) if ranked.faces else None,
        lost_per_30_deg=verdicts.lost_per_30_degrees(faces),
        pose_coverage=verdicts.mad(faces.yaw_deg) / usual if usual > 0 and len(faces) else None,
        age_shift_years=float(np.median(ages[0]) - np.median(ages[1])) if len(ages[0]) and len(ages[1]) else None,
        copies=verdicts.copies_of(faces, references),
    )


def _compared(run: _Run, has_holdout: bool) -> str:
    against = "the held-out photos, which no LoRA was trained on" if has_holdout else "the references"
    shared = ranking.shared_pictures(list(run.samples.values()))
    if shared is None:
        return f"Similarity is to the centre of {against}."
    how = "pictures of the same name are compared with each other" if shared > 0 else "their pictures share no names"
    return (
        f"Similarity is to the centre of {against}. Groups that share a rank cannot be told apart by these pictures "
        f"({how}; all pairs of groups corrected together)."
    )


def _curves(run: _Run) -> list[Curve]:
    found = []
    for (series, unit), points in steps.series_of(run.samples).items():
        fit = set(run.fit(name for _, name in points))
        best, highest = steps.best_checkpoint([run.samples[name] for _, name in points if name in fit])
        line = [_checkpoint(run, number, name) for number, name in points]
        found.append(Curve(series=series, unit=unit, checkpoints=line, best=best, highest=highest))
    return found


def _checkpoint(run: _Run, number: int, name: str) -> Checkpoint:
    (ranked,) = ranking.rank([run.samples[name]])
    faces = run.faces[name]
    return Checkpoint(
        group=name,
        number=number,
        median=ranked.median,
        interval=ranked.interval,
        faces=ranked.faces,
        images=faces.images,
        copies=verdicts.copies_of(faces, run.references),
        verdicts=run.names(name),
    )


# The questions.


def _best(run: _Run, ranked: list[ranking.Ranked], curves: list[Curve]) -> Answer:
    fit = run.fit(run.samples)
    if not fit:
        why = "there are no generated images" if not run.samples else "no group was measured that copies nothing"
        return _unknown("best checkpoint", f"{why[0].upper()}{why[1:]}.", "similarity")
    best = max(fit, key=lambda name: run.samples[name].median)
    for curve in curves:
        if curve.highest == best and curve.best is not None:
            best = curve.best
    by_name = {one.name: one for one in ranked}
    one = by_name[best]
    like = [name for name in fit if name != best and best not in by_name[name].better and name not in one.better]
    interval = f" ({one.interval[0]:.3f} - {one.interval[1]:.3f})" if one.interval else ""
    parts = [f"Median similarity {one.median:.3f}{interval}"]
    parts += [f"not distinguishable from {some_of(like)}"] if like else []
    faults = [name for name in run.names(best) if name not in (GOOD, TOO_FEW)]
    parts += [f"not good yet: {', '.join(faults)}"] if faults else []
    copying = [name for name in run.with_any(*COPYING) if name != best]
    parts += [f"{some_of(copying)} {'copies' if len(copying) == 1 else 'copy'} references"] if copying else []
    numbers = {"group": best, "median": one.median, "not_distinguishable": len(like)}
    if one.interval:
        numbers |= {"low": one.interval[0], "high": one.interval[1]}
    return Answer(
        question="best checkpoint",
        headline=best,
        tone="good" if GOOD in run.names(best) else "unknown",
        sentence="; ".join(parts) + ".",
        numbers=numbers,
        panel="similarity",
    )


def _overtrained(run: _Run) -> Answer:
    most = _most_copies(run)
    return _about(run, "overtrained", COPYING, "copycat", f"No group copies references{most}")


def _most_copies(run: _Run) -> str:
    counts = {
        name: verdicts.copies_of(one, run.references) for name, one in run.faces.items() if one.images > one.failed
    }
    if not counts or len(run.references) < verdicts.LIMITS.fewest_references:
        return ""
    name = max(counts, key=lambda key: counts[key] / len(run.faces[key].all_nearest))
    return f"; most near copies: {counts[name]} of {len(run.faces[name].all_nearest)} in {name}"


def _rigid(run: _Run) -> Answer:
    usual = verdicts.mad(run.references.yaw_deg) if len(run.references) else 0.0
    if usual < verdicts.LIMITS.least_yaw_mad_deg:
        sentence = f"The references themselves hardly turn their heads (yaw spread {usual:.0f} degrees)."
        return _unknown("rigid", sentence, "pose", references=usual)
    return _about(run, "rigid", ("rigid",), "pose", "Heads turn in every group")


def _about(run: _Run, question: str, names: tuple[str, ...], panel: str, otherwise: str) -> Answer:
    """Which groups have one of these verdicts, with the first one's own sentence."""
    found = run.with_any(*names)
    unsure = [name for name in run.verdicts if TOO_FEW in run.names(name)]
    numbers: dict[str, int | float | str] = {"groups": len(found), "too_few": len(unsure)}
    if not run.verdicts:
        return _unknown(question, "There are no generated images.", panel, **numbers)
    if not found and len(unsure) == len(run.verdicts):
        return _unknown(question, run.verdicts[unsure[0]][-1].sentence, panel, **numbers)
    if not found:
        headline, tone = "No", "good"
        sentence = otherwise + (f"; too few images to tell of {some_of(unsure)}" if unsure else "") + "."
    else:
        first = next(verdict for verdict in run.verdicts[found[0]] if verdict.name in names)
        numbers |= first.numbers
        headline, tone = f"Yes, {some_of(found, 1)}", "bad"
        sentence = f"{found[0]}: {first.sentence}" + (f" Also: {some_of(found[1:])}." if found[1:] else "")
    return Answer(question=question, headline=headline, tone=tone, sentence=sentence, numbers=numbers, panel=panel)


def _unknown(question: str, why: str, panel: str, **numbers: float | str) -> Answer:
    """What the pictures cannot answer; `why` is a sentence."""
    return Answer(question=question, headline="Cannot tell", tone="unknown", sentence=why, numbers=numbers, panel=panel)


def outliers(rows: pd.DataFrame) -> list[str]:
    """File names of references that are unlike the others, the worst first; none below five."""
    faces = rows[rows[columns.SIMILARITY].notna() & rows[columns.YAW].notna()]
    if len(faces) < verdicts.LIMITS.fewest_references:
        return []
    likeness = verdicts.likeness_of(faces)
    middle = float(np.median(likeness))
    limit = min(middle - OUTLIER_MADS * verdicts.mad(likeness), OUTLIER_SHARE * middle)
    order = np.argsort(likeness)
    return [str(faces[columns.FILENAME].iloc[i]) for i in order if likeness[i] < limit]


def _dataset(run: _Run) -> Answer:
    rows, references = run.reference_rows, run.references
    if len(references) < verdicts.LIMITS.fewest_references:
        sentence = f"{len(references)} clear faces in the references; at least 5 are needed."
        return _unknown("dataset", sentence, "dataset", faces=len(references))
    strange = outliers(rows)
    near = rows[columns.NEAREST_SIMILARITY] > references.copy_limit
    doubles = list(rows.loc[near, columns.FILENAME])
    bins = rows[columns.ANGLE_BIN].value_counts()
    missing = [name.replace("_", "-") for name in BIN_LIMITS_DEG if not bins.get(name, 0)]
    parts = [f"{references.failed} without a face"] if references.failed else []
    parts += [f"{len(strange)} unlike the others ({some_of(strange)})"] if strange else []
    parts += [f"{len(doubles)} near duplicates ({some_of(doubles)})"] if doubles else []
    parts += [f"no {' and no '.join(missing)} view"] if missing else []
    begin = f"{references.images} photos, like each other at {references.level:.2f}"
    sentence = f"{begin}{'; ' + ', '.join(parts) if parts else ''}."
    numbers = {"photos": references.images, "level": references.level, "failed": references.failed}
    numbers |= {"outliers": len(strange), "near_duplicates": len(doubles)}
    things = "thing" if len(parts) == 1 else "things"
    headline = f"{len(parts)} {things} to look at" if parts else "Nothing wrong seen"
    return Answer(
        question="dataset",
        headline=headline,
        tone="bad" if parts else "good",
        sentence=sentence,
        numbers=numbers,
        panel="dataset",
    )
