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
from mirror.faces.group import LIMITS, Faces, likeness_of, mad, outlier_limit
from mirror.faces.pose import BIN_LIMITS_DEG
from mirror.faces.verdicts import COPYING, GOOD, TOO_FEW
from utils.files import some_of


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


def conclude(table: pd.DataFrame, groups: Iterable[tuple[str, str]], embeddings: np.ndarray) -> Conclusions:
    """From the table of a run; `groups` are (type, name), empty ones included; embeddings (rows, D), NaN without."""
    candidates = [name for kind, name in groups if kind == CANDIDATE and name != BASELINE]
    is_candidate = table[columns.TYPE] == CANDIDATE
    rows = dict(iter(table[is_candidate].groupby(columns.GROUP, sort=False)))
    is_own = (table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)
    own, references = table[is_own], Faces.of(table[is_own], embeddings[is_own])

    def faces_of(name: str) -> Faces:
        return Faces.of(rows.get(name, table.iloc[:0]), embeddings[is_candidate & (table[columns.GROUP] == name)])

    floor = faces_of(BASELINE) if BASELINE in rows else None
    faces = {name: faces_of(name) for name in candidates}
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
        [RankedGroup(name=r.name, rank=r.rank, median=r.median, interval=r.interval, better=r.better) for r in ranked],
        curves,
        [_best(run, ranked, curves), _overtrained(run), _rigid(run), _dataset(run)],
        _compared(run, has_holdout),
    )


def _sample(name: str, rows: pd.DataFrame) -> ranking.Sample:
    found = rows[rows[columns.SIMILARITY].notna()]
    mark = steps.mark_of(name)
    keys = ranking.picture_keys(name, found[columns.FILENAME], (mark.token,) if mark else ())
    return ranking.Sample(name, keys, found[columns.SIMILARITY].to_numpy(dtype=float))


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
        return Answer(question="best checkpoint", sentence=f"Cannot tell: {why}.", numbers={}, panel="similarity")
    best = max(fit, key=lambda name: run.samples[name].median)
    for curve in curves:
        if curve.highest == best and curve.best is not None:
            best = curve.best
    by_name = {one.name: one for one in ranked}
    one = by_name[best]
    like = [name for name in fit if name != best and best not in by_name[name].better and name not in one.better]
    interval = f" ({one.interval[0]:.3f} - {one.interval[1]:.3f})" if one.interval else ""
    parts = [f"{best}: median similarity {one.median:.3f}{interval}"]
    parts += [f"not distinguishable from {some_of(like)}"] if like else []
    copying = [name for name in run.with_any(*COPYING) if name != best]
    parts += [f"{some_of(copying)} {'copies' if len(copying) == 1 else 'copy'} references"] if copying else []
    numbers = {"group": best, "median": one.median, "not_distinguishable": len(like)}
    if one.interval:
        numbers |= {"low": one.interval[0], "high": one.interval[1]}
    return Answer(question="best checkpoint", sentence="; ".join(parts) + ".", numbers=numbers, panel="similarity")


def _overtrained(run: _Run) -> Answer:
    most = _most_copies(run)
    return _about(run, "overtrained", COPYING, "copycat", f"no group copies references{most}")


def _most_copies(run: _Run) -> str:
    counts = {
        name: verdicts.copies_of(one, run.references) for name, one in run.faces.items() if one.images > one.failed
    }
    if not counts or len(run.references) < LIMITS.fewest_references:
        return ""
    name = max(counts, key=lambda key: counts[key] / len(run.faces[key].all_nearest))
    return f"; most near copies: {counts[name]} of {len(run.faces[name].all_nearest)} in {name}"


def _rigid(run: _Run) -> Answer:
    usual = mad(run.references.yaw_deg) if len(run.references) else 0.0
    if usual < LIMITS.least_yaw_mad_deg:
        sentence = f"Cannot tell: the references themselves hardly turn their heads (yaw spread {usual:.0f} degrees)."
        return Answer(question="rigid", sentence=sentence, numbers={"references": usual}, panel="pose")
    return _about(run, "rigid", ("rigid",), "pose", "heads turn in every group")


def _about(run: _Run, question: str, names: tuple[str, ...], panel: str, otherwise: str) -> Answer:
    """Which groups have one of these verdicts, with the first one's own sentence."""
    found = run.with_any(*names)
    unsure = [name for name in run.verdicts if TOO_FEW in run.names(name)]
    numbers: dict[str, int | float | str] = {"groups": len(found), "too_few": len(unsure)}
    if not run.verdicts:
        sentence = "Cannot tell: there are no generated images."
    elif found:
        first = next(verdict for verdict in run.verdicts[found[0]] if verdict.name in names)
        numbers |= first.numbers
        more = f" Also: {some_of(found[1:])}." if found[1:] else ""
        sentence = f"Yes, {found[0]}: {first.sentence}{more}"
    elif len(unsure) == len(run.verdicts):
        sentence = f"Cannot tell: {run.verdicts[unsure[0]][-1].sentence}"
    else:
        sentence = f"No: {otherwise}" + (f"; too few images to tell of {some_of(unsure)}" if unsure else "") + "."
    return Answer(question=question, sentence=sentence, numbers=numbers, panel=panel)


def outliers(rows: pd.DataFrame) -> list[str]:
    """File names of references that are unlike the others, the worst first; none below five."""
    faces = rows[rows[columns.SIMILARITY].notna() & rows[columns.YAW].notna()]
    if len(faces) < LIMITS.fewest_references:
        return []
    likeness = likeness_of(faces)
    limit = outlier_limit(likeness)
    order = np.argsort(likeness)
    return [str(faces[columns.FILENAME].iloc[i]) for i in order if likeness[i] < limit]


def _dataset(run: _Run) -> Answer:
    rows, references = run.reference_rows, run.references
    if len(references) < LIMITS.fewest_references:
        sentence = f"Cannot tell: {len(references)} clear faces in the references; at least 5 are needed."
        return Answer(question="dataset", sentence=sentence, numbers={"faces": len(references)}, panel="similarity")
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
    sentence = f"{begin}; {', '.join(parts) if parts else 'nothing wrong seen'}."
    numbers = {"photos": references.images, "level": references.level, "failed": references.failed}
    numbers |= {"outliers": len(strange), "near_duplicates": len(doubles)}
    return Answer(question="dataset", sentence=sentence, numbers=numbers, panel="similarity")
