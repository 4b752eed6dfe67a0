"""The working dataset of the bootstrap loop: real photos and merged images, as the manifest lists them.

The manifest is written first, whole or not at all, and the folders follow it (`sync`): whatever interrupts that, doing
it again ends in the same folders. Real photos are copied from the user's folder, where nothing is ever written.

    real/       copies of the photos that are trained on
    holdout/    copies of those that never are
    dataset/    those of real/ again, and the merged images: what is trained on
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

from utils.console import UserError
from utils.contracts import GenerationMetadata, MergedImage, MergeManifest, RealPhoto, ValidationReport, Verdict
from utils.defaults import IMAGE_EXTENSIONS, SYNTHETIC_PREFIX
from utils.files import caption_of, write_bytes_atomic

REAL, HELD_OUT, DATASET = "real", "holdout", "dataset"

# Photos are held out where there are at least FEWEST_TO_SPLIT of them, as documented: a fifth, at least five.
FEWEST_TO_SPLIT, HELD_OUT_SHARE, FEWEST_HELD_OUT = 25, 0.20, 5

CAP, DOUBLE, VANISHED = "synthetic_cap", "duplicate", "changed_since_validation"  # why an approved image is not merged


@dataclass(frozen=True)
class Merge:
    """The manifest after a merge, and how many approved images were left out for which reason."""

    manifest: MergeManifest
    merged: list[MergedImage]
    left_out: dict[str, int]


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_real(folder: Path) -> list[RealPhoto]:
    """The user's photos with their hashes, each content once. Raises UserError where there are none."""
    from utils.images import list_images

    try:
        paths = list_images(folder).images
    except OSError as error:
        raise UserError(f"{folder} cannot be opened: {error.strerror or error}.") from error
    photos: dict[str, RealPhoto] = {}
    for path in paths:
        if path.is_file():
            caption = caption_of(path)
            words = sha256_of(caption) if caption.is_file() else None
            photo = RealPhoto(file=path.name, sha256=sha256_of(path), caption_sha256=words)
            photos.setdefault(photo.sha256, photo)
    if not photos:
        raise UserError(f"{folder} holds no pictures (jpg, jpeg, png, webp, bmp); dataset_dir takes the real photos.")
    return list(photos.values())


def split(photos: list[RealPhoto], twins: Iterable[tuple[int, int]], seed: int) -> list[RealPhoto]:
    """`photos` with a fifth of them held out, by seed and content, whatever their names and order.

    `twins` are near duplicates by index: such photos are all trained on, because a held-out photo whose twin was
    trained on is no longer unseen. Generated files of the dataset are never held out.
    """
    wanted = max(FEWEST_HELD_OUT, round(HELD_OUT_SHARE * len(photos)))
    alike = {index for pair in twins for index in pair}
    free = [
        photo
        for index, photo in enumerate(photos)
        if index not in alike and not photo.file.startswith(SYNTHETIC_PREFIX)
    ]
    if len(photos) < FEWEST_TO_SPLIT or len(free) < wanted:
        return photos
    drawn = sorted(free, key=lambda photo: hashlib.sha256(f"{seed} {photo.sha256}".encode()).digest())[:wanted]
    held_out = {photo.sha256 for photo in drawn}
    return [photo.model_copy(update={"held_out": photo.sha256 in held_out}) for photo in photos]


def with_photos(manifest: MergeManifest, photos: list[RealPhoto]) -> MergeManifest:
    """`manifest` with the photos that the user's folder holds now: new ones are trained on, held-out ones stay so."""
    held_out = {photo.sha256 for photo in manifest.real if photo.held_out}
    now = [photo.model_copy(update={"held_out": photo.sha256 in held_out}) for photo in photos]
    kept = {(photo.file, photo.sha256) for photo in now}
    gone = [photo for photo in manifest.real if (photo.file, photo.sha256) not in kept]
    places = {f"{folder}/{photo.file}": photo.sha256 for photo in gone for folder in (REAL, HELD_OUT, DATASET)}
    return manifest.model_copy(update={"real": now, "retired": manifest.retired | places})


def trained_on(manifest: MergeManifest) -> tuple[int, int]:
    """Real photos and merged images of the working dataset."""
    return sum(not photo.held_out for photo in manifest.real), len(manifest.merged)


def synthetic_share(manifest: MergeManifest) -> float:
    """Share of the working dataset that was generated; files the user named like that count too."""
    real, merged = trained_on(manifest)
    return (_synthetic_real(manifest) + merged) / (real + merged) if real + merged else 0.0


def _synthetic_real(manifest: MergeManifest) -> int:
    return sum(photo.file.startswith(SYNTHETIC_PREFIX) and not photo.held_out for photo in manifest.real)


def room(manifest: MergeManifest, max_share: float) -> int:
    """Images that may be added before `max_share` of the working dataset is synthetic."""
    limit = Fraction(str(max_share))
    real, merged = trained_on(manifest)
    genuine = real - _synthetic_real(manifest)
    return max(0, math.floor(limit * genuine / (1 - limit)) - merged - _synthetic_real(manifest))


def plan_merge(
    manifest: MergeManifest,
    report: ValidationReport,
    metadata: GenerationMetadata,
    output: Path,
    iteration: int,
    lora: tuple[str, str],
    trigger: str,
    max_share: float,
) -> Merge:
    """Which approved images enter the dataset: none twice, no more than the cap allows, the gaps by turns.

    `lora` is name and hash of the LoRA that made them. An earlier merge of the same iteration is replaced.
    """
    manifest = without(manifest, iteration)
    before = manifest.merged
    known = {photo.sha256 for photo in manifest.real} | {one.sha256 for one in before}
    about = {image.file: image for image in metadata.images}
    left_out: dict[str, int] = {}
    chosen: list[MergedImage] = []

    def leave(reason: str) -> None:
        left_out[reason] = left_out.get(reason, 0) + 1

    free = room(manifest, max_share)
    for image in by_turns(report):
        source = Path(image.copied_to)
        if not source.is_file() or sha256_of(source) != image.sha256:
            leave(VANISHED)
        elif image.sha256 in known:
            leave(DOUBLE)
        elif len(chosen) >= free:
            leave(CAP)
        else:
            known.add(image.sha256)
            made = about.get(image.file)
            kind = f"{image.gap_type}_{image.target}" if image.gap_type else "image"
            chosen.append(
                MergedImage(
                    file=f"{SYNTHETIC_PREFIX}iter{iteration}_{kind}_{image.sha256[:10]}{source.suffix.lower()}",
                    source=os.path.relpath(source, output).replace(os.sep, "/"),
                    sha256=image.sha256,
                    caption=caption_for(source, made.prompt if made else None, trigger),
                    iteration=iteration,
                    gap_type=image.gap_type,
                    target=image.target,
                    seed=made.seed if made else None,
                    quality=image.quality,
                    lora=lora[0],
                    lora_sha256=lora[1],
                )
            )
    merged = sorted(before + chosen, key=lambda one: (one.iteration, one.file))
    again = {f"{DATASET}/{one.file}" for one in chosen}
    retired = {place: sha256 for place, sha256 in manifest.retired.items() if place not in again}
    return Merge(manifest.model_copy(update={"merged": merged, "retired": retired}), chosen, left_out)


def without(manifest: MergeManifest, iteration: int) -> MergeManifest:
    """`manifest` as it was before `iteration` merged; what it merged is to go."""
    gone = [one for one in manifest.merged if one.iteration == iteration]
    kept = [one for one in manifest.merged if one.iteration != iteration]
    places = {f"{DATASET}/{one.file}": one.sha256 for one in gone}
    return manifest.model_copy(update={"merged": kept, "retired": manifest.retired | places})


def by_turns(report: ValidationReport) -> list:
    """The approved images, one of each gap in turn, the best of each first: a cap then cuts all gaps alike."""
    gaps: dict[tuple, list] = {}
    for image in report.images:
        if image.verdict == Verdict.APPROVED and image.copied_to and image.sha256:
            gaps.setdefault((image.gap_type, image.target), []).append(image)
    rows = [sorted(one, key=lambda image: (-(image.quality or 0.0), image.sha256)) for one in gaps.values()]
    return [image for turn in zip_longest(*rows) for image in turn if image is not None]


def caption_for(picture: Path, prompt: str | None, trigger: str) -> str:
    """The caption beside a generated picture, else its prompt; the trigger stands in it in any case."""
    beside = caption_of(picture)
    words = beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else (prompt or "").strip()
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
    parts = [(one.file, one.sha256, one.caption_sha256) for one in manifest.real if not one.held_out]
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
        place = output / (HELD_OUT if photo.held_out else REAL) / photo.file
        wanted |= _copy_of_real(source / photo.file, place, photo)
        if not photo.held_out:
            wanted |= _linked(place, output / DATASET / photo.file, photo)
    for image in manifest.merged:
        wanted |= _copy_of_merged(output, image)
    _clear(manifest, output, wanted)


def _copy_of_real(source: Path, place: Path, photo: RealPhoto) -> dict[Path, str]:
    found = {place: photo.sha256}
    _ensure(place, photo.sha256, source)
    if photo.caption_sha256 is not None:
        found[caption_of(place)] = photo.caption_sha256
        _ensure(caption_of(place), photo.caption_sha256, caption_of(source))
    return found


def _ensure(place: Path, sha256: str, source: Path) -> None:
    """`place` holds the content `sha256`, from `source` where it does not yet. Raises UserError where that changed."""
    if place.is_file() and sha256_of(place) == sha256:
        return
    data = source.read_bytes() if source.is_file() else None
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        what = "is gone" if data is None else "was changed"
        raise UserError(f"{source} {what} while the loop worked with it, and {place} cannot be made; put it back.")
    place.unlink(missing_ok=True)  # never write through a link into another copy
    write_bytes_atomic(place, data)


def _linked(real: Path, place: Path, photo: RealPhoto) -> dict[Path, str]:
    """The photo again in dataset/: a hard link to our own copy where the disk can, so that it takes no room."""
    found = {}
    for one, other, sha256 in (
        (real, place, photo.sha256),
        (caption_of(real), caption_of(place), photo.caption_sha256),
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
    place, words = output / DATASET / image.file, image.caption.encode("utf-8")
    digest = hashlib.sha256(words).hexdigest()
    if not caption_of(place).is_file() or sha256_of(caption_of(place)) != digest:
        write_bytes_atomic(caption_of(place), words)  # before the picture: a picture in the folder has its caption
    _ensure(place, image.sha256, output / image.source)
    return {place: image.sha256, caption_of(place): digest}


def _clear(manifest: MergeManifest, output: Path, wanted: dict[Path, str]) -> None:
    """Remove what the manifest retired, and what killed writes left. Raises UserError for pictures of somebody else."""
    suffixes = {f".{extension}" for extension in IMAGE_EXTENSIONS}
    for folder in (REAL, HELD_OUT, DATASET):
        for path in sorted((output / folder).iterdir()):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                path.unlink()
            if path in wanted or path.suffix.lower() not in suffixes or path.name.startswith("."):
                continue
            if not path.is_file() or sha256_of(path) != manifest.retired.get(f"{folder}/{path.name}"):
                raise UserError(f"{path} is not of this loop: move it away; photos belong into {manifest.dataset_dir}.")
            path.unlink()
            if caption_of(path) not in wanted:
                caption_of(path).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a folder or file that the loop made, if it is there; a link is removed, never followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
