"""What a step must have made: every result is checked, ours as strictly as another program's.

Each check raises StepError, which ends the loop, with what is wrong and where the step's own words are.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mirror.contracts import table as columns
from mirror.contracts.contract import Contract, ContractError, read_contract
from mirror.contracts.gaps import GapKey, GapReport
from mirror.contracts.generation import GenerationMetadata
from mirror.contracts.plan import PromptPlan
from mirror.contracts.summary import CANDIDATE, Summary
from mirror.contracts.validation import Outcome, ValidationReport, Verdict
from mirror.dataset.checks import TARGET
from mirror.loop.commands import TRAINING_LOG
from mirror.loop.steps import Child, StepError, files_in, is_picture
from utils.defaults import METADATA
from utils.files import reason_of, safetensors_header, sha256_of

_NAMED = 5  # files that a sentence names, of however many


def gaps_made(child: Child, path: Path) -> GapReport:
    return _contract(child, path, GapReport)


def images_made(child: Child, folder: Path) -> GenerationMetadata:
    """The metadata of a folder, in which every image is there, whole, and named."""
    metadata = _contract(child, folder / METADATA, GenerationMetadata)
    there = {one.relative_to(folder).as_posix() for one in files_in(folder) if is_picture(one)}
    named = [image.file for image in metadata.images]
    for problem, files in (
        ("names images that are not there", set(named) - there),
        ("does not name images that are there", there - set(named)),
        ("names images twice", {name for name in named if named.count(name) > 1}),
    ):
        if files:
            raise _wrong(child, f"{folder / METADATA} {problem}: {_listed(files)}")
    for name in named:
        _demand_picture(child, folder / name)
    return metadata


def metadata_of(child: Child, folder: Path) -> GenerationMetadata:
    """The metadata of a folder whose images were looked at when they were made, and are still the same."""
    return _contract(child, folder / METADATA, GenerationMetadata)


def asked_for(gaps: GapReport, num_per_gap: int) -> dict[GapKey, int]:
    """Gap -> images that a generator is to make."""
    return {gap.key: min(gap.count, num_per_gap) for gap in gaps.recommendations if gap.count}


def demand_asked(child: Child, metadata: GenerationMetadata, asked: Mapping[GapKey, int]) -> str:
    """What is short of `asked`, in a sentence or empty. Raises StepError where a gap got nothing, or a wrong one some.

    An image that the generator tried and reports as failed is no image, but its gap was seen to. Our own generator has
    no words for a gap type without prompts.
    """
    made = Counter(image.key for image in metadata.images)
    tried = made + Counter(image.key for image in metadata.failed)
    if strange := made.keys() - asked.keys():
        raise _wrong(child, f"it made images that no gap asks for: {_listed(map(str, strange))}")
    if ignored := [gap for gap in asked if gap not in tried and _has_prompts(*gap)]:
        raise _wrong(child, f"it made no image for {_listed(map(str, ignored))}")
    short = [f"{made[gap]} of {count} for {gap}" for gap, count in asked.items() if made[gap] < count]
    return f"{child.title} made fewer images than were asked for: {', '.join(short)}." if short else ""


def _has_prompts(gap_type: str, target: str) -> bool:
    from mirror.dataset.gaps import GAP_TYPES

    known = GAP_TYPES[gap_type].targets if gap_type in GAP_TYPES else ()
    return any(one.name == target and one.prompts for one in known)


def demand_planned(child: Child, metadata: GenerationMetadata, plan: PromptPlan) -> None:
    """Raise StepError unless the images are those of a plan: its names, prompts and seeds, all and no others."""
    from mirror.contracts.generation import retry_seed

    wanted = {one.name: one for one in plan.images}
    made = {Path(image.file).stem: image for image in metadata.images}
    stems = [Path(image.file).stem for image in metadata.images]
    if strange := {name for name in stems if name not in wanted or stems.count(name) > 1}:
        raise _wrong(child, f"it made images that are not in the plan, or one of them twice: {_listed(strange)}")
    if lost := wanted.keys() - made.keys() - {one.name for one in metadata.failed}:
        raise _wrong(child, f"images of the plan are missing: {_listed(lost)}")
    for name, image in made.items():
        one = wanted[name]
        if image.prompt != one.prompt:
            raise _wrong(child, f"{image.file} was generated with another prompt than the plan's: {image.prompt!r}")
        if image.seed not in (one.seed, retry_seed(one.seed)):  # our script's second try for a black image
            raise _wrong(child, f"{image.file} was generated with seed {image.seed}, and the plan says {one.seed}")


def _demand_picture(child: Child, path: Path) -> None:
    from utils.decoding import ImageError, decode
    from utils.images import read_file

    try:
        decode(read_file(path))
    except ImageError as error:
        raise _wrong(child, f"{path} {error.reason}") from error


def validated(child: Child, path: Path, approved: Path | None, metadata: GenerationMetadata) -> ValidationReport:
    """The report, in which every generated image is judged, and every approved one is copied (None: none is)."""
    report = _contract(child, path, ValidationReport)
    judged, made = {image.file for image in report.images}, {image.file for image in metadata.images}
    if judged != made:
        raise _wrong(child, f"{path} and the generated images do not agree: {_listed(judged ^ made)}")
    for image in report.images:
        if image.verdict != Verdict.APPROVED or approved is None:
            continue
        copy = Path(image.copied_to or "")
        if not copy.is_file() or copy.parent.resolve() != approved.resolve() or sha256_of(copy) != image.sha256:
            raise _wrong(child, f"{path} approves {image.file}, and its copy is not in {approved}")
    return report


def unmeasured_targets(report: ValidationReport) -> list[str]:
    """Why targets of unverified images could not be measured, each reason once."""
    unsure = [image for image in report.images if image.verdict == Verdict.UNVERIFIED]
    checks = [one for image in unsure for one in image.checks if one.check == TARGET]
    return list(dict.fromkeys(one.reason for one in checks if one.outcome == Outcome.NOT_MEASURED))


def lora_made(child: Child, path: Path) -> str:
    """Hash of a LoRA file that is whole, with a training log beside it."""
    problem = lora_problem(path)
    if problem:
        raise _wrong(child, f"{path} {problem}")
    log = path.with_name(TRAINING_LOG)
    try:
        told = json.loads(log.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong(child, f"{log} cannot be read: {error}") from error
    if not isinstance(told, dict) or told.get("finished") is not True:
        raise _wrong(child, f'{log} does not tell of a finished training ("finished": true)')
    return sha256_of(path)


def lora_problem(path: Path) -> str:
    """What is wrong with a .safetensors file, as the end of a sentence; empty where it is whole.

    Behind its header stand exactly the bytes that the header lays out.
    """
    try:
        size = path.stat().st_size
        header, begin = safetensors_header(path)
        end = begin + max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {reason_of(error)}"
    except (ValueError, TypeError, KeyError, IndexError):
        return "is no .safetensors file with weights in it"
    return "" if size == end else f"is cut off: {size} bytes where its header asks for {end}"


def measured(child: Child, folder: Path, loras: Mapping[str, int]) -> Summary:
    """The summary of a run of mirror_metrics.py, with a group for each of `loras` (name -> its samples)."""
    found = sorted(folder.glob("Summary_*.json"))
    if len(found) != 1:
        raise _wrong(child, f"{folder} should hold one Summary_*.json, and holds {len(found)}")
    summary = _contract(child, found[0], Summary)
    groups = {group.name: group for group in summary.groups if group.type == CANDIDATE}
    if lost := loras.keys() - groups.keys():
        raise _wrong(child, f"{found[0]} has no group {_listed(lost)}")
    for name, samples in loras.items():
        one = groups[name]
        if not 0 <= one.faces <= samples:
            raise _wrong(child, f"{found[0]} counts {one.faces} faces of {name}, which has {samples} samples")
        if not all(map(math.isfinite, (one.identity or 0.0, *(one.identity_interval or ()), *one.angle_bins.values()))):
            raise _wrong(child, f"{found[0]}: a value of group {name} is not a number")
    return summary


def sample_scores(child: Child, folder: Path, summary: Summary) -> dict[str, dict[str, float]]:
    """LoRA -> sample -> similarity corrected for pose, from the table beside a summary; empty where there is none."""
    from mirror.faces.metrics import pose_corrected

    scores: dict[str, dict[str, float]] = {}
    table = folder / summary.results.get("data", "")
    if not table.is_file():
        return scores
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row[columns.TYPE] == CANDIDATE and row[columns.SIMILARITY] and row[columns.YAW]:
                    corrected = float(pose_corrected([float(row[columns.SIMILARITY])], [float(row[columns.YAW])])[0])
                    if not math.isfinite(corrected):
                        raise ValueError(f"{row['Filename']} has no number")
                    scores.setdefault(row[columns.GROUP], {})[row[columns.FILENAME]] = round(corrected, 4)
    except KeyError as error:
        raise _wrong(child, f"{table} has no column {error.args[0]}") from error
    except (ValueError, csv.Error) as error:
        raise _wrong(child, f"{table} cannot be read: {error}") from error
    return scores


def _wrong(child: Child, what: str) -> StepError:
    """A result that is not what it should be: what, and where the step's own words are."""
    return StepError(
        f"{child.title}: {what}. What the step said is in {child.log}; fix that and give the same command again."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED])


def _contract(child: Child, path: Path, model: type[Contract]) -> Contract:
    if not path.is_file():
        raise _wrong(child, f"it finished without an error, but {path} is missing")
    try:
        return read_contract(path, model, cure=f"what the step said is in {child.log}")
    except ContractError as error:
        raise StepError(f"{child.title}: {error}") from error
