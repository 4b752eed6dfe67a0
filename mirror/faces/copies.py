"""Copying is not likeness: whether an image repeats its nearest reference as a picture, as a face, or not at all.

A high similarity to one photo says that the LoRA knows the person or that it repeats the photo. Two further looks tell
them apart: the pictures laid over each other and hashed (mirror.faces.picture_hash), and the angle of the heads.

    same picture  the whole picture again: the very file, also saved anew, resized, cropped, turned or mirrored, or one
                  so alike in scene, light and pose that a trainer has no use for both
    same pose     the face again, in another picture: nearer to the photo than two photos of the person are to each
                  other (`near_copy_limit`, from the leave-one-out nearest neighbours), and turned alike
    likeness      neither: another picture, be it of the person or of somebody else
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import REFERENCE
from mirror.faces.cache import FaceCache
from mirror.faces.engine import FaceMeasurement
from mirror.faces.group import LIMITS, SAME_PICTURE, near_copy_limit
from mirror.faces.measurer import Picture
from mirror.faces.metrics import BANDS
from mirror.faces.picture_hash import HASH_SIDE, Look, hash_distance, look_of
from utils.cores import available_cores

Item, Done = TypeVar("Item"), TypeVar("Done")

SAME_POSE, LIKENESS = "same pose", "likeness"
KINDS = {
    SAME_PICTURE: "the whole picture again, perhaps resized, cropped, turned or mirrored",
    SAME_POSE: "the face of the reference again, at its angle, in another picture",
    LIKENESS: "another picture; the bands below say how like the person it is",
}

# Bits of 256 (benchmarks/copies_bench.py). Of 30 photos 18 copies each, saved anew, at 50 to 150 % of their size, cut
# by 5 and 10 %, turned, mirrored, brighter and darker: 95 % up to 14, the worst 26 (clipped white). Pairs of different
# photos: 54 and more. In five rendered worlds 700 near copies and near duplicates: up to 18; 2,040 images that are
# none, beside their nearest reference, some before the same background: 32 and more.
SAME_BITS = 28
# Two measurements of one face in a picture and its copies differ by up to 8.5 degrees of yaw or pitch and by 7 % of the
# face ratio (99 % and 95 % of the same 540 copies, pack_mini). Our choice, just above.
ALIKE_DEG, ALIKE_RATIO = 10.0, 0.10


def copy_kind(bits: int | None, similarity: float, limit: float, turned_alike: bool) -> str:
    """SAME_PICTURE, SAME_POSE or LIKENESS of a pair, from `hash_distance`, cosine of the faces and `copy_limit`."""
    if bits is not None and bits <= SAME_BITS:
        return SAME_PICTURE
    return SAME_POSE if similarity > limit and turned_alike else LIKENESS


def turned_alike(first: FaceMeasurement, second: FaceMeasurement) -> bool:
    """Whether two heads look the same way, or one as the other's mirror image does. False where an angle is missing."""
    angles = (first.yaw_deg, first.pitch_deg, second.yaw_deg, second.pitch_deg)
    if None in angles or not first.aspect_ratio or not second.aspect_ratio:
        return False
    yaw_deg = min(abs(first.yaw_deg - second.yaw_deg), abs(first.yaw_deg + second.yaw_deg))
    pitch_deg = abs(first.pitch_deg - second.pitch_deg)
    ratio = abs(first.aspect_ratio / second.aspect_ratio - 1)
    return max(yaw_deg, pitch_deg) <= ALIKE_DEG and ratio <= ALIKE_RATIO


def copy_limit(references: pd.DataFrame) -> float:
    """Similarity above which a face is a near copy, from the table's rows of the references.

    With too few of them to know how near to each other photos of the person are, the documented Danger Zone begins it.
    """
    nearest = references.dropna(subset=[columns.YAW, columns.SIMILARITY])[columns.NEAREST_SIMILARITY].dropna()
    enough = len(nearest) >= LIMITS.fewest_references
    return near_copy_limit(nearest.to_numpy(dtype=float)) if enough else BANDS["Danger Zone"].low


def add_copies(table: pd.DataFrame, pictures: list[Picture], cache: FaceCache) -> None:
    """Fill in COPY and HASH_DISTANCE; `pictures` are the rows of `table`, in their order, after `score_pictures`."""
    is_reference = (table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)
    limit = copy_limit(table[is_reference])
    row_of = {name: row for row, name in table.loc[is_reference, columns.FILENAME].items()}
    pairs = {
        row: (pictures[row], pictures[row_of[name]])
        for row, name in table[columns.NEAREST_REFERENCE].items()
        if isinstance(name, str)
    }
    distances = _distances(list(pairs.values()), cache)
    for (row, (picture, nearest)), bits in zip(pairs.items(), distances, strict=True):
        similarity = float(table.at[row, columns.NEAREST_SIMILARITY])
        alike = turned_alike(picture.face, nearest.face)
        table.at[row, columns.COPY] = copy_kind(bits, similarity, limit, alike)
        if bits is not None:
            table.at[row, columns.HASH_DISTANCE] = bits


def _distances(pairs: list[tuple[Picture, Picture]], cache: FaceCache) -> list[int | None]:
    """Bits that differ between picture and reference, from the cache where they were counted before; None without a
    thumbnail."""
    keys = [_key(*pair) for pair in pairs]
    kept = [cache.get_blob("hash distance", key) for key in keys]
    found = [None if bits is None else int(bits) for bits in kept]
    new = [index for index, bits in enumerate(found) if bits is None]
    references = {id(one): one for _, one in (pairs[index] for index in new)}
    looks = {key: _look(one) for key, one in references.items()}  # of references alone: they come again and again

    def count(index: int) -> int | None:
        picture, reference = pairs[index]
        first, second = looks[id(reference)], _look(picture)
        return None if first is None or second is None else hash_distance(first, second)

    for index, bits in zip(new, _in_threads(count, new), strict=True):
        found[index] = bits
        if bits is not None:
            cache.put_blob("hash distance", keys[index], str(bits).encode())
    return found


def _look(picture: Picture) -> Look | None:
    """None without a measured face or a thumbnail."""
    if not picture.measured or picture.thumbnail is None or picture.face.box_xyxy is None:
        return None
    return look_of(picture.thumbnail, picture.face.box_xyxy, picture.face.size_wh)


def _in_threads(work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
    """`work` on each item; most of its time is spent in OpenCV, outside Python."""
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(work, items))


def _key(first: Picture, second: Picture) -> str:
    """Of everything that decides the distance of a pair. Raise the number when `hash_distance` changes."""
    known = hashlib.sha256(f"1 {HASH_SIDE}".encode())
    for one in (first, second):
        known.update(f"{one.face.box_xyxy} {one.face.size_wh}".encode())
        known.update(hashlib.sha256(one.thumbnail or b"").digest())
    return known.hexdigest()
