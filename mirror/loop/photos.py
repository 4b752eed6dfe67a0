"""The user's photos in the loop: which are there, which are held out, and which are the same picture again.

A photo is known by its content; a held-out one stays held out renamed, saved anew or cropped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.contracts.manifest import MergeManifest, RealPhoto
from utils.captions import caption_of, read_caption
from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS, SYNTHETIC_PREFIX
from utils.files import readable, sha256_of

if TYPE_CHECKING:
    import numpy as np

REAL, HELD_OUT, DATASET = "real", "holdout", "dataset"  # folders of the loop that hold copies of photos

# Photos are held out where there are at least FEWEST_TO_SPLIT of them, as documented: a fifth, at least five.
FEWEST_TO_SPLIT, HELD_OUT_SHARE, FEWEST_HELD_OUT = 25, 0.20, 5


def list_real(folder: Path) -> list[RealPhoto]:
    """The user's pictures with their hashes, each content once. Raises UserError where none of them is a real photo."""
    from utils.images import list_images

    photos: dict[str, RealPhoto] = {}
    for path in list_images(folder).images:
        if not path.is_file():
            continue
        caption = read_caption(path)
        words = hashlib.sha256(caption.text.encode("utf-8")).hexdigest() if caption else None
        photo = RealPhoto(file=readable(path.name), sha256=sha256_of(path), caption_sha256=words)
        photos.setdefault(photo.sha256, photo)
    refuse_shared_names(photos.values())
    if all(is_generated(photo) for photo in photos.values()):
        inside = passed_over(folder)
        hint = f" Those in {', '.join(inside)} are not used: put them into the folder itself." if inside else ""
        kinds = ", ".join(IMAGE_EXTENSIONS)
        raise UserError(f"{folder} holds no real photos ({kinds}; {SYNTHETIC_PREFIX}* are generated ones).{hint}")
    return list(photos.values())


def refuse_shared_names(photos: Iterable[RealPhoto]) -> None:
    """Raise UserError where two photos share the name of a caption's copy, a .txt, and have different captions."""
    first: dict[str, RealPhoto] = {}
    for photo in photos:
        other = first.setdefault(caption_of(Path(photo.file)).name.casefold(), photo)
        if other.caption_sha256 != photo.caption_sha256:
            raise UserError(
                f"{other.file} and {photo.file} have different captions, and one name for the text file beside their "
                "copies: rename one of the two."
            )


def kinds_of_captions(folder: Path, photos: Iterable[RealPhoto]) -> Counter[str]:
    """Kind -> how many of the photos have their caption from such a file."""
    found = (read_caption(source_of(folder, photo.file), folder) for photo in photos if photo.caption_sha256)
    return Counter(caption.kind for caption in found if caption and caption.lines)


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
    from utils.decoding import ImageError, decode
    from utils.images import read_file

    hashes = {photo.sha256: photo.picture_hash for photo in known if photo.picture_hash}
    for photo in photos:
        if photo.sha256 not in hashes:
            try:
                seen = picture_hash(grey_of(decode(read_file(source_of(folder, photo.file)))))
            except ImageError:
                continue
            hashes[photo.sha256] = f"{seen:032x}"
    return [photo.model_copy(update={"picture_hash": hashes.get(photo.sha256)}) for photo in photos]


def near_duplicates_of(photos: list[RealPhoto]) -> list[tuple[int, int]]:
    """Near duplicates among photos with picture hashes, by index."""
    from mirror.dataset.pixels import near_duplicates

    hashed = [index for index, photo in enumerate(photos) if photo.picture_hash]
    pairs = near_duplicates([int(photos[index].picture_hash, 16) for index in hashed])
    return [(hashed[first], hashed[second]) for first, second, _ in pairs]


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
    from mirror.dataset.cuts import likely_cuts, points_of
    from mirror.dataset.pixels import for_cuts, is_cut_from
    from utils.progress import GroupProgress

    place, small, points = {}, [], []
    with GroupProgress(only_live=True) as progress:
        task = progress.add("Reading photos", len(photos))
        for photo in photos:
            if (grey := _seen(source_of(folder, photo.file))) is not None:
                place[photo.sha256] = len(small)
                small.append(for_cuts(grey))
                points.append(points_of(grey))
            progress.step(task)
    likely = likely_cuts(points)

    def is_cut(photo: RealPhoto) -> bool:
        if photo.sha256 not in place:
            return False
        own = small[place[photo.sha256]]
        others = [small[index] for index in likely[place[photo.sha256]]]
        return any(is_cut_from(own, one) or is_cut_from(one, own) for one in others)

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
        if (grey := _seen(source_of(Path(manifest.dataset_dir), photo.file))) is not None
        if any(is_cut_from(grey, whole) or is_cut_from(whole, grey) for whole in wholes)
    }


def _seen(path: Path) -> np.ndarray | None:
    """A picture in grey; None where it cannot be read."""
    from mirror.dataset.pixels import grey_of
    from utils.decoding import ImageError, decode
    from utils.images import read_file

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
                f"{one.file} is gone from {manifest.dataset_dir}: this loop holds it out and measures similarity "
                "against it. Put it back, or begin anew with another output_dir and lora_output_dir."
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
    """Copies of pictures and captions that the user's folder does not hold any more: path -> hash."""
    pictures = {(photo.file, photo.sha256) for photo in now}
    captions = {photo.file for photo in now if photo.caption_sha256 is not None}
    gone = [(photo.file, photo.sha256) for photo in before if (photo.file, photo.sha256) not in pictures]
    gone += [
        (caption_of(Path(photo.file)).name, photo.caption_sha256)
        for photo in before
        if photo.caption_sha256 is not None and photo.file not in captions
    ]
    return {f"{folder}/{name}": sha256 for name, sha256 in gone for folder in (REAL, HELD_OUT, DATASET)}


def source_of(folder: Path, file: str) -> Path:
    """The user's file that is called `file` in the manifest, where a name that is no UTF-8 is spelt another way."""
    if (folder / file).exists():
        return folder / file
    return next((path for path in folder.iterdir() if readable(path.name) == file), folder / file)
