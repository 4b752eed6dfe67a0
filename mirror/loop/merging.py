"""The working dataset of the bootstrap loop: real photos and merged images, as the manifest lists them.

The manifest is written first, whole or not at all, and the folders follow it (`sync`): whatever interrupts that, doing
it again ends in the same folders. Real photos are copied from the user's folder, where nothing is ever written.

    real/       copies of the photos that are trained on
    holdout/    copies of those that never are
    dataset/    those of real/ again, and the merged images: what is trained on

Generated files that the user put among the photos (`synthetic_*`) are no real photos: they stay out of real/ and of the
baseline's training, enter dataset/ after that, and count as synthetic.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

from mirror.contracts.gaps import GapKey
from mirror.contracts.generation import GeneratedImage, GenerationMetadata
from mirror.contracts.history import CAP, DOUBLE, SPARE, VANISHED
from mirror.contracts.manifest import MergedImage, MergeManifest, RealPhoto
from mirror.contracts.validation import ValidatedImage, ValidationReport, Verdict
from mirror.loop.photos import DATASET, HELD_OUT, REAL, is_generated, source_of
from utils.captions import caption_bytes, caption_of, read_caption
from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS, SYNTHETIC_PREFIX
from utils.files import bytes_of, file_word, sha256_of, write_bytes_atomic


@dataclass(frozen=True)
class Merge:
    """The manifest after a merge, and how many approved images were left out for which reason."""

    manifest: MergeManifest
    merged: list[MergedImage]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Source:
    """Where the images of a merge come from: the iteration, the LoRA that made them, and the words for the person."""

    iteration: int
    lora: str
    lora_sha256: str
    trigger: str


def held_out_in(manifest: MergeManifest) -> int:
    """Real photos that similarity is measured against."""
    return sum(photo.held_out and not is_generated(photo) for photo in manifest.real)


def photos_trained_on(manifest: MergeManifest) -> Iterator[RealPhoto]:
    """Of the user's files those that training reads: no held-out ones, generated ones once the baseline is made."""
    for photo in manifest.real:
        if not photo.held_out and (manifest.baseline_is_made or not is_generated(photo)):
            yield photo


def trained_on(manifest: MergeManifest) -> tuple[int, int]:
    """Real photos and synthetic images of the working dataset."""
    given = list(photos_trained_on(manifest))
    generated = sum(map(is_generated, given))
    return len(given) - generated, len(manifest.merged) + generated


def synthetic_share(manifest: MergeManifest) -> float:
    """Share of the working dataset that was generated."""
    real, synthetic = trained_on(manifest)
    return synthetic / (real + synthetic) if real + synthetic else 0.0


def exceeds(manifest: MergeManifest, max_share: float) -> bool:
    """Whether what was merged takes the synthetic share above `max_share`."""
    real, synthetic = trained_on(manifest)
    return bool(manifest.merged) and synthetic > Fraction(str(max_share)) * (real + synthetic)


def room(manifest: MergeManifest, max_share: float) -> int:
    """Images that may be added before `max_share` of the working dataset is synthetic."""
    from mirror.dataset.gaps import synthetic_room

    real, synthetic = trained_on(manifest.model_copy(update={"baseline_is_made": True}))
    return synthetic_room(real + synthetic, synthetic, max_share)


def photos_of(manifest: MergeManifest) -> str:
    """Changes with the set of real photos that may be trained on."""
    genuine = sorted(photo.sha256 for photo in manifest.real if not photo.held_out and not is_generated(photo))
    return hashlib.sha256(repr(genuine).encode()).hexdigest()


def entries_of(manifest: MergeManifest, iteration: int) -> str | None:
    """Changes with anything that stands in the manifest about what `iteration` merged; None where it merged nothing."""
    entries = [one.model_dump_json() for one in manifest.merged if one.iteration == iteration]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest() if entries else None


def plan_merge(
    manifest: MergeManifest,
    report: ValidationReport,
    metadata: GenerationMetadata,
    output: Path,
    source: Source,
    max_share: float,
    wanted: Mapping[GapKey, int],
) -> Merge:
    """Which approved images enter the dataset: none twice, no more than the cap allows, the gaps by turns.

    `wanted` are images by gap: of more than that, the best are taken. An earlier merge of the same iteration is
    replaced.
    """
    manifest = without(manifest, source.iteration)
    known = {photo.sha256 for photo in manifest.real} | {one.sha256 for one in manifest.merged}
    about = {image.file: image for image in metadata.images}
    free = room(manifest, max_share)
    left_out: Counter[str] = Counter()
    chosen: list[MergedImage] = []
    offered: Counter[GapKey] = Counter()
    for gap, image in by_turns(report, {file: image.key for file, image in about.items()}):
        copy = Path(image.copied_to)
        if not copy.is_file() or sha256_of(copy) != image.sha256:
            left_out[VANISHED] += 1
        elif image.sha256 in known:
            left_out[DOUBLE] += 1
        elif offered[gap] >= wanted.get(gap, len(report.images)):
            left_out[SPARE] += 1
        elif len(chosen) >= free:
            offered[gap] += 1
            left_out[CAP] += 1
        else:
            known.add(image.sha256)
            offered[gap] += 1
            chosen.append(_entry(image, gap, about.get(image.file), output, source))
    merged = sorted(manifest.merged + chosen, key=lambda one: (one.iteration, one.file))
    again = {f"{DATASET}/{one.file}" for one in chosen}
    retired = {path: sha256 for path, sha256 in manifest.retired.items() if path not in again}
    return Merge(manifest.model_copy(update={"merged": merged, "retired": retired}), chosen, dict(left_out))


def _entry(
    image: ValidatedImage, gap: GapKey, made: GeneratedImage | None, output: Path, source: Source
) -> MergedImage:
    """What the manifest says of an approved image; `made` is what its generator said."""
    copy = Path(image.copied_to)
    kind = file_word(f"{gap.type}_{gap.target}") if gap.type else "image"
    return MergedImage(
        file=f"{SYNTHETIC_PREFIX}iter{source.iteration}_{kind}_{image.sha256[:10]}{copy.suffix.lower()}",
        source=os.path.relpath(copy, output).replace(os.sep, "/"),
        sha256=image.sha256,
        caption=caption_for(copy, made.prompt if made else None, source.trigger),
        iteration=source.iteration,
        gap_type=gap.type,
        target=gap.target,
        seed=made.seed if made else None,
        quality=image.quality,
        lora=source.lora,
        lora_sha256=source.lora_sha256,
    )


def without(manifest: MergeManifest, iteration: int) -> MergeManifest:
    """`manifest` as it was before `iteration` merged; what it merged is to go."""
    gone = [one for one in manifest.merged if one.iteration == iteration]
    kept = [one for one in manifest.merged if one.iteration != iteration]
    dropped = {f"{DATASET}/{one.file}": one.sha256 for one in gone}
    return manifest.model_copy(update={"merged": kept, "retired": manifest.retired | dropped})


def by_turns(report: ValidationReport, made_for: Mapping[str, GapKey]) -> list[tuple[GapKey, ValidatedImage]]:
    """The approved images, one of each gap in turn, the best of each first: a cap then cuts all gaps alike.

    `made_for` is the gap by file, as the generator has it.
    """
    level = report.references.level if report.references else None
    gaps: dict[GapKey, list[ValidatedImage]] = {}
    for image in report.images:
        if image.verdict == Verdict.APPROVED and image.copied_to and image.sha256:
            gaps.setdefault(made_for.get(image.file, image.key), []).append(image)
    rows = [[(gap, one) for one in sorted(images, key=lambda one: _rank(one, level))] for gap, images in gaps.items()]
    return [one for turn in zip_longest(*rows) for one in turn if one is not None]


def _rank(image: ValidatedImage, level: float | None) -> tuple[float, float, str]:
    """Sorts the best image first: most like the person for its head angle, then of the best quality.

    Likeness first is our choice: the gates saw to the rest.
    """
    from mirror.faces.metrics import likeness_for_angle

    likeness = likeness_for_angle(image.similarity, image.yaw_deg, level)
    return -(likeness or 0.0), -(image.quality or 0.0), image.sha256


def caption_for(picture: Path, prompt: str | None, trigger: str) -> str:
    """The caption of a generated picture, else its prompt; the trigger stands in it in any case. Raises UserError."""
    beside = read_caption(picture)
    words = (prompt or "" if beside is None else beside.text).strip()
    if trigger.casefold() in words.casefold():
        return words
    return f"{trigger}, {words}" if words else trigger


def take_out(manifest: MergeManifest, iteration: int) -> MergeManifest:
    """`manifest` without what `iteration` merged, which is noted."""
    gone = [one for one in manifest.merged if one.iteration == iteration]
    undone = sorted({*manifest.undone, iteration})
    changes = {"taken_out": manifest.taken_out + gone, "undone": undone}
    return without(manifest, iteration).model_copy(update=changes)


def fingerprint(manifest: MergeManifest) -> str:
    """Changes with what the working dataset trains."""
    parts = [(one.file, one.sha256, one.caption_sha256) for one in photos_trained_on(manifest)]
    parts += [(one.file, one.sha256, one.caption) for one in manifest.merged]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def sync(manifest: MergeManifest, output: Path) -> None:
    """Make real/, holdout/ and dataset/ below `output` what the manifest says. Raises UserError, OSError.

    Copies that are missing or were changed are made anew. Only what the manifest has retired is removed, and only while
    it is what the loop put there.
    """
    for folder in (REAL, HELD_OUT, DATASET):
        (output / folder).mkdir(parents=True, exist_ok=True)
    wanted: dict[Path, str] = {}
    source = Path(manifest.dataset_dir)
    for photo in manifest.real:
        if photo.held_out and is_generated(photo):
            continue  # made after a held-out photo: neither trained on nor a measure
        if photo.held_out:
            wanted |= _copy_of_real(source, output / HELD_OUT / photo.file, photo)
        elif not is_generated(photo):
            wanted |= _copy_of_real(source, output / REAL / photo.file, photo)
            wanted |= _linked(output / REAL / photo.file, output / DATASET / photo.file, photo)
        elif manifest.baseline_is_made:
            wanted |= _copy_of_real(source, output / DATASET / photo.file, photo)
    for image in manifest.merged:
        wanted |= _copy_of_merged(output, image)
    _clear(manifest, output, wanted)


def _copy_of_real(folder: Path, copy: Path, photo: RealPhoto) -> dict[Path, str]:
    source, found = source_of(folder, photo.file), {copy: photo.sha256}
    _ensure(copy, photo.sha256, source, bytes_of)
    if photo.caption_sha256 is not None:
        found[caption_of(copy)] = photo.caption_sha256
        _ensure(caption_of(copy), photo.caption_sha256, source, caption_bytes)
    return found


def _ensure(copy: Path, sha256: str, source: Path, read: Callable[[Path], bytes | None]) -> None:
    """`copy` holds the content `sha256`: what is `read` of the picture `source`, itself or its caption.

    Raises UserError where that changed.
    """
    if copy.is_file() and sha256_of(copy) == sha256:
        return
    data = read(source)
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        what = "is gone" if data is None else "was changed"
        which = f"The caption of {source}" if read is caption_bytes else source
        raise UserError(f"{which} {what} while the loop worked with it, and {copy} cannot be made; put it back.")
    copy.unlink(missing_ok=True)  # never write through a link into another copy
    write_bytes_atomic(copy, data)


def _linked(real: Path, copy: Path, photo: RealPhoto) -> dict[Path, str]:
    """The photo again in dataset/: a hard link to our own copy where the disk can, so that it takes no room."""
    found = {}
    for one, other, sha256 in (
        (real, copy, photo.sha256),
        (caption_of(real), caption_of(copy), photo.caption_sha256),
    ):
        if sha256 is None:
            continue
        found[other] = sha256
        if not other.is_file() or sha256_of(other) != sha256:
            other.unlink(missing_ok=True)
            try:
                os.link(one, other)
            except OSError:
                write_bytes_atomic(other, one.read_bytes())
    return found


def _copy_of_merged(output: Path, image: MergedImage) -> dict[Path, str]:
    copy, words = output / DATASET / image.file, image.caption.encode("utf-8")
    digest = hashlib.sha256(words).hexdigest()
    if not caption_of(copy).is_file() or sha256_of(caption_of(copy)) != digest:
        write_bytes_atomic(caption_of(copy), words)  # before the picture: a picture in the folder has its caption
    _ensure(copy, image.sha256, output / image.source, bytes_of)
    return {copy: image.sha256, caption_of(copy): digest}


def _clear(manifest: MergeManifest, output: Path, wanted: dict[Path, str]) -> None:
    """Remove what the manifest retired, and what killed writes left. Raises UserError for files of somebody else.

    That is pictures, and captions of ours: both would be trained on. What else a trainer leaves there stays.
    """
    suffixes = {f".{extension}" for extension in IMAGE_EXTENSIONS}
    captions = {caption_of(path) for path in wanted}
    for folder in (REAL, HELD_OUT, DATASET):
        names = {path.name for path in wanted} | {path.rpartition("/")[2] for path in manifest.retired}
        for path in half_written(output / folder, names):
            path.unlink()
        for path in sorted((output / folder).iterdir()):
            retired = manifest.retired.get(f"{folder}/{path.name}")
            is_read = path.suffix.lower() in suffixes or path in captions or retired is not None
            if path in wanted or not is_read or path.name.startswith(".") or not os.path.lexists(path):
                continue
            if not path.is_file() or sha256_of(path) != retired:
                raise UserError(
                    f"{path} is not of this loop: move it away; photos and their captions belong into "
                    f"{manifest.dataset_dir}."
                )
            path.unlink()
            if path.suffix.lower() in suffixes and caption_of(path) not in wanted:
                caption_of(path).unlink(missing_ok=True)


def half_written(folder: Path, names: Iterable[str]) -> list[Path]:
    """Temporary files that killed writes of `names` left in `folder`, see utils.files.write_bytes_atomic."""
    beginnings = tuple({f".{name[:40]}." for name in names})
    return [path for path in folder.glob(".*.tmp") if path.name.startswith(beginnings)]


def remove(path: Path) -> None:
    """Remove a folder or file that the loop made, if it is there; a link is removed, never followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def new_folder(folder: Path) -> None:
    """An empty folder, whatever was there."""
    remove(folder)
    folder.mkdir(parents=True)
