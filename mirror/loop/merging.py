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
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.contracts.generation import GeneratedImage, GenerationMetadata
from mirror.contracts.manifest import MergedImage, MergeManifest, RealPhoto
from mirror.contracts.validation import ValidatedImage, ValidationReport, Verdict
from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS, SYNTHETIC_PREFIX
from utils.files import caption_of, readable, sha256_of, write_bytes_atomic

if TYPE_CHECKING:
    import numpy as np

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


@dataclass(frozen=True)
class Source:
    """Where the images of a merge come from: the iteration, the LoRA that made them, and the words for the person."""

    iteration: int
    lora: str
    lora_sha256: str
    trigger: str


def list_real(folder: Path) -> list[RealPhoto]:
    """The user's pictures with their hashes, each content once. Raises UserError where none of them is a real photo."""
    from utils.images import list_images

    photos: dict[str, RealPhoto] = {}
    for path in list_images(folder).images:
        if not path.is_file():
            continue
        caption = caption_of(path)
        words = sha256_of(caption) if caption.is_file() else None
        photo = RealPhoto(file=readable(path.name), sha256=sha256_of(path), caption_sha256=words)
        photos.setdefault(photo.sha256, photo)
    if all(is_generated(photo) for photo in photos.values()):
        inside = passed_over(folder)
        hint = f" Those in {', '.join(inside)} are not used: put them into the folder itself." if inside else ""
        raise UserError(
            f"{folder} holds no real photos (jpg, jpeg, png, webp, bmp; {SYNTHETIC_PREFIX}* are generated ones).{hint}"
        )
    return list(photos.values())


def passed_over(folder: Path) -> list[str]:
    """Sub-folders that hold pictures, which the loop does not enter."""
    from utils.images import holds_pictures, list_subfolders

    return [readable(inside.name) for inside in list_subfolders(folder) if holds_pictures(inside)]


def is_generated(photo: RealPhoto) -> bool:
    """Whether a file among the real photos is a generated one, by its name."""
    return photo.file.startswith(SYNTHETIC_PREFIX)


def with_picture_hashes(photos: list[RealPhoto], folder: Path, known: Iterable[RealPhoto] = ()) -> list[RealPhoto]:
    """`photos` of `folder` with their picture hashes; `known` ones keep theirs, unreadable ones have none."""
    from mirror.dataset.pixels import grey_of, picture_hash
    from utils.images import ImageError, decode, read_file

    hashes = {photo.sha256: photo.picture_hash for photo in known if photo.picture_hash}
    for photo in photos:
        if photo.sha256 not in hashes:
            try:
                seen = picture_hash(grey_of(decode(read_file(_source(folder, photo.file)))))
            except ImageError:
                continue
            hashes[photo.sha256] = f"{seen:032x}"
    return [photo.model_copy(update={"picture_hash": hashes.get(photo.sha256)}) for photo in photos]


def near_duplicates_of(photos: list[RealPhoto]) -> list[tuple[int, int]]:
    """Near duplicates among photos with picture hashes, by index."""
    from mirror.dataset.pixels import near_duplicates

    places = [index for index, photo in enumerate(photos) if photo.picture_hash]
    pairs = near_duplicates([int(photos[index].picture_hash, 16) for index in places])
    return [(places[first], places[second]) for first, second, _ in pairs]


def split(
    photos: list[RealPhoto],
    near_duplicates: Iterable[tuple[int, int]],
    seed: int,
    is_cut: Callable[[RealPhoto], bool] = lambda photo: False,
) -> list[RealPhoto]:
    """`photos` with a fifth of them held out, by seed and content, whatever their names and order.

    `near_duplicates` are pairs by index, and `is_cut` says of a photo whether another one shows a part of it, or it
    a part of another: such photos are all trained on, because a held-out photo whose near duplicate was trained on
    is no longer unseen. Generated files of the dataset are never held out.
    """
    genuine = sum(not is_generated(photo) for photo in photos)
    wanted = max(FEWEST_HELD_OUT, round(HELD_OUT_SHARE * genuine))
    alike = {index for pair in near_duplicates for index in pair}
    free = [photo for index, photo in enumerate(photos) if index not in alike and not is_generated(photo)]
    if genuine < FEWEST_TO_SPLIT or len(free) < wanted:
        return photos
    by_lot = sorted(free, key=lambda photo: hashlib.sha256(f"{seed} {photo.sha256}".encode()).digest())
    held_out = {photo.sha256 for photo in islice((photo for photo in by_lot if not is_cut(photo)), wanted)}
    if len(held_out) < wanted:
        return photos
    return [photo.model_copy(update={"held_out": photo.sha256 in held_out}) for photo in photos]


def cuts_among(photos: list[RealPhoto], folder: Path) -> Callable[[RealPhoto], bool]:
    """Whether one of `photos` shows a part of another one, or more around it; False for unreadable ones."""
    from mirror.dataset.pixels import for_cuts, is_cut_from
    from utils.progress import GroupProgress

    small = {}
    with GroupProgress(only_live=True) as progress:
        task = progress.add("Reading photos", len(photos))
        for photo in photos:
            if (grey := _seen(_source(folder, photo.file))) is not None:
                small[photo.sha256] = for_cuts(grey)
            progress.step(task)

    def is_cut(photo: RealPhoto) -> bool:
        others = [grey for sha256, grey in small.items() if sha256 != photo.sha256]
        own = small.get(photo.sha256)
        return own is not None and any(is_cut_from(own, one) or is_cut_from(one, own) for one in others)

    return is_cut


def cut_from_held_out(manifest: MergeManifest, photos: list[RealPhoto], output: Path) -> set[str]:
    """Hashes of those of `photos` that are new and show a part of a held-out photo, or more around it."""
    from mirror.dataset.pixels import is_cut_from

    known = {photo.sha256 for photo in manifest.real}
    new = [photo for photo in photos if photo.sha256 not in known]
    held_out = [output / HELD_OUT / photo.file for photo in manifest.real if photo.held_out and new]
    wholes = [grey for path in held_out if (grey := _seen(path)) is not None]
    return {
        photo.sha256
        for photo in new
        if (grey := _seen(_source(Path(manifest.dataset_dir), photo.file))) is not None
        if any(is_cut_from(grey, whole) or is_cut_from(whole, grey) for whole in wholes)
    }


def _seen(path: Path) -> np.ndarray | None:
    """A picture in grey; None where it cannot be read."""
    from mirror.dataset.pixels import grey_of
    from utils.images import ImageError, decode, read_file

    try:
        return grey_of(decode(read_file(path)))
    except ImageError:
        return None


def with_photos(manifest: MergeManifest, photos: list[RealPhoto], cut: Container[str] = ()) -> MergeManifest:
    """`manifest` with the photos that the user's folder holds now. Raises UserError where a held-out one is gone.

    The split is frozen. What was held out stays so under another name, with other bytes or saved anew, and what comes
    later and is nearly the same picture, or `cut` from one (by hash), is held out with it. Anything else that is new is
    trained on.
    """
    held_out = [photo for photo in manifest.real if photo.held_out]
    learned = {photo.sha256 for photo in manifest.real if not photo.held_out}
    now = [
        photo.model_copy(
            update={
                "held_out": photo.sha256 not in learned
                and (photo.sha256 in cut or any(_is_same(photo, one) for one in held_out))
            }
        )
        for photo in photos
    ]
    for one in held_out:
        if not any(photo.held_out and not is_generated(photo) and _is_same(photo, one) for photo in now):
            raise UserError(
                f"{one.file} is gone from {manifest.dataset_dir}: this loop holds it out and measures likeness against "
                "it. Put it back, or begin anew with another output_dir and lora_output_dir."
            )
    return manifest.model_copy(update={"real": now, "retired": manifest.retired | _retired_by(manifest.real, now)})


def _is_same(photo: RealPhoto, held_out: RealPhoto) -> bool:
    """By name, by content, or by what it looks like as a whole."""
    from mirror.dataset.pixels import DUPLICATE_BITS

    if photo.sha256 == held_out.sha256 or photo.file.casefold() == held_out.file.casefold():
        return True
    if photo.picture_hash is None or held_out.picture_hash is None:
        return False
    return (int(photo.picture_hash, 16) ^ int(held_out.picture_hash, 16)).bit_count() <= DUPLICATE_BITS


def _retired_by(before: list[RealPhoto], now: list[RealPhoto]) -> dict[str, str]:
    """Copies of pictures and captions that the user's folder does not hold any more: place -> hash."""
    pictures = {(photo.file, photo.sha256) for photo in now}
    captions = {photo.file for photo in now if photo.caption_sha256 is not None}
    gone = [(photo.file, photo.sha256) for photo in before if (photo.file, photo.sha256) not in pictures]
    gone += [
        (caption_of(Path(photo.file)).name, photo.caption_sha256)
        for photo in before
        if photo.caption_sha256 is not None and photo.file not in captions
    ]
    return {f"{folder}/{name}": sha256 for name, sha256 in gone for folder in (REAL, HELD_OUT, DATASET)}


def held_out_in(manifest: MergeManifest) -> int:
    """Real photos that likeness is measured against."""
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
) -> Merge:
    """Which approved images enter the dataset: none twice, no more than the cap allows, the gaps by turns.

    An earlier merge of the same iteration is replaced.
    """
    manifest = without(manifest, source.iteration)
    known = {photo.sha256 for photo in manifest.real} | {one.sha256 for one in manifest.merged}
    about = {image.file: image for image in metadata.images}
    free = room(manifest, max_share)
    left_out: Counter[str] = Counter()
    chosen: list[MergedImage] = []
    for image in by_turns(report):
        copy = Path(image.copied_to)
        if not copy.is_file() or sha256_of(copy) != image.sha256:
            left_out[VANISHED] += 1
        elif image.sha256 in known:
            left_out[DOUBLE] += 1
        elif len(chosen) >= free:
            left_out[CAP] += 1
        else:
            known.add(image.sha256)
            chosen.append(_entry(image, about.get(image.file), output, source))
    merged = sorted(manifest.merged + chosen, key=lambda one: (one.iteration, one.file))
    again = {f"{DATASET}/{one.file}" for one in chosen}
    retired = {place: sha256 for place, sha256 in manifest.retired.items() if place not in again}
    return Merge(manifest.model_copy(update={"merged": merged, "retired": retired}), chosen, dict(left_out))


def _entry(image: ValidatedImage, made: GeneratedImage | None, output: Path, source: Source) -> MergedImage:
    """What the manifest says of an approved image; `made` is what its generator said."""
    copy = Path(image.copied_to)
    kind = f"{image.gap_type}_{image.target}" if image.gap_type else "image"
    return MergedImage(
        file=f"{SYNTHETIC_PREFIX}iter{source.iteration}_{kind}_{image.sha256[:10]}{copy.suffix.lower()}",
        source=os.path.relpath(copy, output).replace(os.sep, "/"),
        sha256=image.sha256,
        caption=caption_for(copy, made.prompt if made else None, source.trigger),
        iteration=source.iteration,
        gap_type=image.gap_type,
        target=image.target,
        seed=made.seed if made else None,
        quality=image.quality,
        lora=source.lora,
        lora_sha256=source.lora_sha256,
    )


def without(manifest: MergeManifest, iteration: int) -> MergeManifest:
    """`manifest` as it was before `iteration` merged; what it merged is to go."""
    gone = [one for one in manifest.merged if one.iteration == iteration]
    kept = [one for one in manifest.merged if one.iteration != iteration]
    places = {f"{DATASET}/{one.file}": one.sha256 for one in gone}
    return manifest.model_copy(update={"merged": kept, "retired": manifest.retired | places})


def by_turns(report: ValidationReport) -> list[ValidatedImage]:
    """The approved images, one of each gap in turn, the best of each first: a cap then cuts all gaps alike."""
    gaps: dict[tuple, list] = {}
    for image in report.images:
        if image.verdict == Verdict.APPROVED and image.copied_to and image.sha256:
            gaps.setdefault(image.key, []).append(image)
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


def _source(folder: Path, file: str) -> Path:
    """The user's file that is called `file` in the manifest, where a name that is no UTF-8 is spelt another way."""
    if (folder / file).exists():
        return folder / file
    return next((path for path in folder.iterdir() if readable(path.name) == file), folder / file)


def _copy_of_real(folder: Path, place: Path, photo: RealPhoto) -> dict[Path, str]:
    source, found = _source(folder, photo.file), {place: photo.sha256}
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
    """Remove what the manifest retired, and what killed writes left. Raises UserError for files of somebody else.

    That is pictures, and captions of ours: both would be trained on. What else a trainer leaves there stays.
    """
    suffixes = {f".{extension}" for extension in IMAGE_EXTENSIONS}
    captions = {caption_of(path) for path in wanted}
    for folder in (REAL, HELD_OUT, DATASET):
        names = {path.name for path in wanted} | {place.rpartition("/")[2] for place in manifest.retired}
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
