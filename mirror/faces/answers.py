"""What a run says: verdicts of each group, the ranking, checkpoint curves, and one sentence for each question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

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
    DatasetCheck,
    RankedGroup,
    Verdict,
)
from mirror.faces import metrics, ranking, steps, verdicts
from mirror.faces.group import LIMITS, Faces, lost_per_30_degrees, mad
from mirror.faces.verdicts import COPYING, GOOD, TOO_FEW
from utils.files import some_of

_FEW_PHOTOS = f"Too few reference photos with a clear face; at least {LIMITS.fewest_references} are needed."


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
    faces: dict[str, Faces]
    samples: dict[str, ranking.Sample]
    verdicts: dict[str, list[Verdict]]
    by_prompt: bool  # whether pictures are compared by prompt and seed, else by name
    has_holdout: bool  # similarity is then to the held-out photos

    def names(self, group: str) -> list[str]:
        return [verdict.name for verdict in self.verdicts[group]]

    def with_any(self, *names: str) -> list[str]:
        return [group for group in self.verdicts if set(names) & set(self.names(group))]

    def fit(self, groups: Iterable[str]) -> list[str]:
        """Those without a fault; where there are none, those that copy nothing."""
        groups = [group for group in groups if len(self.samples[group].scores)]
        sound = [group for group in groups if set(self.names(group)) <= {GOOD, TOO_FEW}]
        return sound or [group for group in groups if group not in self.with_any(*COPYING)]


def conclude(
    table: pd.DataFrame, groups: Iterable[tuple[str, str]], embeddings: np.ndarray, dataset: DatasetCheck
) -> Conclusions:
    """From the table of a run; `groups` are (type, name), empty ones included.

    `embeddings` are (rows, D), NaN without a face; `dataset` is the references' check.
    """
    candidates = [name for kind, name in groups if kind == CANDIDATE and name != BASELINE]
    is_candidate = table[columns.TYPE] == CANDIDATE
    rows = dict(iter(table[is_candidate].groupby(columns.GROUP, sort=False)))
    is_own = (table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)
    references = Faces.of(table[is_own], embeddings[is_own])

    def faces_of(name: str) -> Faces:
        return Faces.of(rows.get(name, table.iloc[:0]), embeddings[is_candidate & (table[columns.GROUP] == name)])

    floor = faces_of(BASELINE) if BASELINE in rows else None
    faces = {name: faces_of(name) for name in candidates}
    found = {name: rows.get(name, table.iloc[:0]).dropna(subset=columns.SIMILARITY) for name in candidates}
    known = {name: ranking.known_keys(one[columns.PROMPT], one[columns.SEED]) for name, one in found.items()}
    by_prompt = all(map(ranking.are_known, known.values()))
    run = _Run(
        references,
        faces,
        {name: _sample(name, one, known[name] if by_prompt else None) for name, one in found.items()},
        {name: verdicts.judge(one, references, floor) for name, one in faces.items()},
        by_prompt,
        bool(((table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == HELD_OUT)).any()),
    )
    ranked = ranking.rank(list(run.samples.values()))
    curves = _curves(run)
    return Conclusions(
        run.verdicts,
        [_line(run, one) for one in ranked],
        curves,
        [_best(run, ranked, curves), _overtrained(run), _rigid(run), _dataset(run, dataset)],
        _compared(run),
    )


def _sample(name: str, found: pd.DataFrame, known: list[str | None] | None) -> ranking.Sample:
    """The scores of a group by picture; `known` are keys by prompt and seed, where they count."""
    mark = steps.mark_of(name)
    files = map(steps.without_step, found[columns.FILENAME])
    keys = ranking.picture_keys(name, files, (mark.token,) if mark else ())
    keys = keys if known is None else ranking.known_first(known, keys)
    return ranking.Sample(name, keys, found[columns.SIMILARITY].to_numpy(dtype=float))


def _line(run: _Run, ranked: ranking.Ranked) -> RankedGroup:
    """One group's line of the ranking, with what stands beside its similarity."""
    faces, references = run.faces[ranked.name], run.references
    ages = [one.age[~np.isnan(one.age)] for one in (faces, references)]
    usual = mad(references.yaw_deg) if len(references) else 0.0
    return RankedGroup(
        name=ranked.name,
        rank=ranked.rank,
        median=ranked.median,
        interval=ranked.interval,
        to_references=_to_references(faces, references) if run.has_holdout else None,
        better=ranked.better,
        spread=mad(run.samples[ranked.name].scores) if ranked.faces else None,
        lost_per_30_deg=lost_per_30_degrees(faces),
        pose_coverage=mad(faces.yaw_deg) / usual if usual > 0 and len(faces) else None,
        age_shift_years=float(np.median(ages[0]) - np.median(ages[1])) if len(ages[0]) and len(ages[1]) else None,
        copies=verdicts.copies_of(faces, references),
    )


def _to_references(faces: Faces, references: Faces) -> float | None:
    if not len(faces) or not len(references):
        return None
    return float(np.median(metrics.similarity_to_centroid(faces.vectors, references.vectors)))


def _compared(run: _Run) -> str:
    against = "the held-out photos, which no LoRA was trained on" if run.has_holdout else "the references"
    shared = ranking.shared_pictures(list(run.samples.values()))
    if shared is None:
        return f"Similarity is to the centre of {against}."
    what, shares = ("prompt and seed", "prompts with their seeds") if run.by_prompt else ("name", "names")
    how = f"pictures of the same {what} are compared with each other" if shared > 0 else f"they share no {shares}"
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
    enough = [name for name, sample in run.samples.items() if len(sample.scores) >= ranking.FEWEST_TO_COMPARE]
    fit = run.fit(enough)
    if not fit:
        return _unknown("best checkpoint", _why_none_is_best(run, enough), "similarity")
    best = max(fit, key=lambda name: run.samples[name].median)
    worse: set[str] = set()  # earlier checkpoints of the same training, compared among themselves alone
    for curve in curves:
        if curve.highest == best and curve.best is not None:
            best = curve.best
            names = [point.group for point in curve.checkpoints]
            worse = set(names[: names.index(best)])
    by_name = {one.name: one for one in ranked}
    one = by_name[best]
    apart = {name for name in fit if best in by_name[name].better or name in one.better} | worse | {best}
    like = [name for name in fit if name not in apart]
    numbers = {"group": best, "median": one.median, "not_distinguishable": len(like)}
    if one.interval:
        numbers |= {"low": one.interval[0], "high": one.interval[1]}
    return Answer(
        question="best checkpoint",
        headline=best,
        tone="good" if GOOD in run.names(best) else "unknown",
        sentence="; ".join(_about_best(run, one, like)) + ".",
        numbers=numbers,
        panel="similarity",
    )


def _why_none_is_best(run: _Run, enough: list[str]) -> str:
    if not run.samples:
        return "There are no generated images."
    if not enough:
        most = max(len(sample.scores) for sample in run.samples.values())
        if not most:
            return "No face was measured in any generated image."
        return f"No group has more than {most} measured face(s); at least {ranking.FEWEST_TO_COMPARE} are needed."
    return "Every group with enough faces copies references."


def _about_best(run: _Run, best: ranking.Ranked, like: list[str]) -> list[str]:
    interval = f" ({best.interval[0]:.3f} - {best.interval[1]:.3f})" if best.interval else ""
    parts = [f"Median similarity {best.median:.3f}{interval}"]
    parts += [f"not distinguishable from {some_of(like)}"] if like else []
    faults = [name for name in run.names(best.name) if name != GOOD]
    parts += [f"not sure to be good: {', '.join(faults)}"] if faults else []
    copying = [name for name in run.with_any(*COPYING) if name != best.name]
    parts += [f"{some_of(copying)} {'copies' if len(copying) == 1 else 'copy'} references"] if copying else []
    return parts


def _overtrained(run: _Run) -> Answer:
    copying = "copycat" if run.with_any("copycat") and not run.with_any("overtrained") else "overtrained"
    question = _Question("overtrained", copying, "copycat", f"No group copies references{_most_copies(run)}")
    few = [name for name, one in run.faces.items() if len(one.all_nearest) < LIMITS.fewest_faces]
    return _about(run, question, "Not sure, but copies references:" if copying == "copycat" else "Yes,", few)


def _most_copies(run: _Run) -> str:
    counts = {name: verdicts.copies_of(one, run.references) for name, one in run.faces.items()}
    if len(run.references) < LIMITS.fewest_references or not any(counts.values()):
        return ""
    name = max(counts, key=lambda key: counts[key] / max(1, len(run.faces[key].all_nearest)))
    return f"; most near copies: {counts[name]} of {len(run.faces[name].all_nearest)} in {name}"


def _rigid(run: _Run) -> Answer:
    if len(run.references) < LIMITS.fewest_references:
        return _unknown("rigid", _FEW_PHOTOS, "pose", faces=len(run.references))
    usual = mad(run.references.yaw_deg)
    if usual < LIMITS.least_yaw_mad_deg:
        sentence = f"The references themselves hardly turn their heads (yaw spread {usual:.0f} degrees)."
        return _unknown("rigid", sentence, "pose", references=usual)
    few = [name for name, one in run.faces.items() if len(one) < LIMITS.fewest_faces]
    otherwise = f"Heads turn in every group{' with enough clear faces' if few else ''}"
    return _about(run, _Question("rigid", "rigid", "pose", otherwise), "Yes,", few)


class _Question(NamedTuple):
    """What is asked, the verdict that says yes, where it shows, and what is said where no group has it."""

    name: str
    verdict: str
    panel: str
    otherwise: str


def _about(run: _Run, question: _Question, yes: str, few: list[str]) -> Answer:
    """Which groups have the verdict, with the first one's own sentence; `few` have too few faces to tell."""
    found = run.with_any(question.verdict)
    numbers: dict[str, int | float | str] = {"groups": len(found), "too_few": len(few)}
    if not run.verdicts:
        return _unknown(question.name, "There are no generated images.", question.panel, **numbers)
    if len(run.references) < LIMITS.fewest_references:
        return _unknown(question.name, _FEW_PHOTOS, question.panel, **numbers)
    if not found and len(few) == len(run.verdicts):
        sentence = f"No group has enough clear faces; at least {LIMITS.fewest_faces} are needed."
        return _unknown(question.name, sentence, question.panel, **numbers)
    if not found:
        headline, tone = "No", "good"
        sentence = question.otherwise + (f"; too few to tell of {some_of(few)}" if few else "") + "."
    else:
        first = next(one for one in run.verdicts[found[0]] if one.name == question.verdict)
        numbers |= first.numbers
        headline, tone = f"{yes} {some_of(found, 1)}", "bad"
        sentence = f"{found[0]}: {first.sentence} Also: {some_of(found[1:])}." if found[1:] else first.sentence
    return Answer(
        question=question.name, headline=headline, tone=tone, sentence=sentence, numbers=numbers, panel=question.panel
    )


def _unknown(question: str, why: str, panel: str, **numbers: float | str) -> Answer:
    """What the pictures cannot answer; `why` is a sentence."""
    return Answer(question=question, headline="Cannot tell", tone="unknown", sentence=why, numbers=numbers, panel=panel)


def _dataset(run: _Run, check: DatasetCheck) -> Answer:
    """The check of the references in a sentence."""
    references = run.references
    if len(references) < LIMITS.fewest_references:
        return _unknown("dataset", _FEW_PHOTOS, "dataset", faces=len(references))
    files: dict[str, list[str]] = {}
    for fault in check.faults:
        files.setdefault(fault.fault, []).append(fault.file)
    parts = [f"{len(names)} {_counted(fault, len(names))} ({some_of(names)})" for fault, names in files.items()]
    absent = [name.replace("_", "-") for name, count in check.coverage["angles"].items() if not count]
    parts += [f"no {' and no '.join(absent)} view"] if absent else []
    parts += [f"{len(check.missing)} gap(s) in what they cover"] if check.missing and not absent else []
    begin = f"{check.photos} photos, {len(check.keep)} to keep"
    numbers = {"photos": check.photos, "failed": references.failed}
    numbers |= {"outliers": len(files.get("outlier", [])), "near_duplicates": len(files.get("near duplicate", []))}
    things = "thing" if len(parts) == 1 else "things"
    return Answer(
        question="dataset",
        headline=f"{len(parts)} {things} to look at" if parts else "Nothing wrong seen",
        tone="bad" if parts else "good",
        sentence=f"{begin}{'; ' + ', '.join(parts) if parts else ''}.",
        numbers=numbers | {"keep": len(check.keep)},
        panel="dataset",
    )


def _counted(fault: str, count: int) -> str:
    """As in 2 outliers, but 2 blurred."""
    return f"{fault}s" if count > 1 and fault in ("outlier", "near duplicate", "small face") else fault
