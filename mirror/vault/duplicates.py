"""Which pictures show the same: the same bytes, the same photo saved anew, or photos of one moment.

    exact   the same bytes in several files
    near    one photo resaved, resized, cropped a little, brightened, mirrored or lying on its side: perceptual hashes
            (imagehash) propose, laying one small picture over the other decides
    burst   several photos of one moment: every face has the same embedding, pose, place and light within their noise

Of each set one picture is kept, the best; every other is a duplicate of that one itself, never of a neighbour's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cmp_to_key

import cv2
import numpy as np

from mirror.vault.crops import upright
from mirror.vault.keeping import Candidate, better_one, why_kept
from mirror.vault.store import Face, StoredPicture, VaultStore

# Bits of imagehash's pHash (64) that differ, up to which two pictures are laid over each other. Of 200 planted copies
# of 173 pictures (tests/vault/test_dedup.py plants the same) those cropped by 5 % differed by up to 18.
PHASH_BITS = 18
# Correlation of the small grey pictures, one slid over the other at 92.5 to 100 % of its size. Planted copies: 0.958
# and more; different pictures whose hashes were near: 0.890 and less.
SAME_PICTURE = 0.93
_SIDE, _SIZES = 96, (1.0, 0.975, 0.95, 0.925)
# A cheap look before that, for large libraries: correlation of 16 x 16 grey pictures. Planted copies: 0.85 and more.
_TINY, _TINY_ALIKE = 16, 0.75

# Photos of one moment. The cosine of one photo with itself saved anew is 0.94 and more with the packs at hand, that of
# different photos of one person 0.89 and less. The rest is our choice: what a hand-held burst changes.
BURST_COSINE, BURST_DEG, BURST_GREY = 0.92, 8.0, 15.0
BURST_SHIFT, BURST_GROWTH = 0.5, 1.25  # of the face: its shift by its size, its size by the other's
BURST_PICTURE = 0.70  # correlation of the pictures as for near ones: the same scene, moved a little

_BLOCK = 1024


@dataclass(frozen=True)
class Duplicate:
    """One picture that shows the same as one that is kept."""

    content: str
    kind: str  # near or burst
    bits: int  # of the perceptual hash that differ
    likeness: float  # correlation of the two pictures laid over each other
    mirrored: bool
    why: str  # the other one is kept


@dataclass(frozen=True)
class DuplicateSet:
    keep: str  # content
    duplicates: list[Duplicate]


@dataclass(frozen=True)
class _Small:
    """A picture as it is compared."""

    grey: np.ndarray  # (_SIDE, _SIDE) uint8
    phash: int
    phash_mirrored: int


def find_duplicates(store: VaultStore, most_bits: int = PHASH_BITS) -> list[DuplicateSet]:
    """Sets of pictures that show the same, near ones and bursts; exact ones are files of one picture."""
    pictures = store.pictures_on_disk()
    order = sorted(pictures)
    place = {content: i for i, content in enumerate(order)}
    faces: dict[str, list[Face]] = {}
    for face in store.faces():
        faces.setdefault(face.content, []).append(face)
    smalls = [_small(store.thumbnail_of(content), _turned_deg(faces.get(content, []))) for content in order]
    pairs: dict[tuple[int, int], tuple[str, int, float, bool]] = {}
    for i, j in _near_candidates(smalls, most_bits):
        likeness, mirrored = _likeness(smalls[i], smalls[j])
        if likeness >= SAME_PICTURE:
            pairs[i, j] = ("near", _bits(smalls[i], smalls[j], mirrored), likeness, mirrored)
    for i, j in _burst_candidates(store, faces, pictures, place):
        likeness = _laid_over(smalls[i].grey, smalls[j].grey)
        if (i, j) not in pairs and likeness >= BURST_PICTURE:
            pairs[i, j] = ("burst", _bits(smalls[i], smalls[j], False), likeness, False)
    largest = {content: max(known, key=lambda face: face.size) for content, known in faces.items()}
    return _sets(pairs, [Candidate(pictures[content], largest.get(content)) for content in order])


def _turned_deg(faces: list[Face]) -> int:
    """How a picture is turned so that its largest face stands upright: one saved on its side is the same photo."""
    return max(faces, key=lambda face: face.size).turned_deg if faces else 0


def _small(jpeg: bytes, turned_deg: int) -> _Small:
    import imagehash
    from PIL import Image

    grey = upright(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE), turned_deg)
    hashes = [
        int(str(imagehash.phash(Image.fromarray(one))), 16) for one in (grey, np.ascontiguousarray(grey[:, ::-1]))
    ]
    return _Small(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), *hashes)


def _near_candidates(smalls: list[_Small], most_bits: int) -> Iterator[tuple[int, int]]:
    """Pairs i < j whose hashes are near, mirrored or not, and whose tiny pictures are alike."""
    if len(smalls) < 2:
        return
    own = np.array([one.phash for one in smalls], dtype=np.uint64)
    mirrored = np.array([one.phash_mirrored for one in smalls], dtype=np.uint64)
    tiny, tiny_mirrored = (_normed([one.grey[:, ::way] for one in smalls]) for way in (1, -1))
    for start in range(0, len(smalls), _BLOCK):
        rows = slice(start, start + _BLOCK)
        near = np.zeros((len(own[rows]), len(own)), dtype=bool)
        for hashes, pictures in ((own, tiny), (mirrored, tiny_mirrored)):
            bits = np.bitwise_count(hashes[rows, None] ^ own[None, :])
            near |= (bits <= most_bits) & (pictures[rows] @ tiny.T >= _TINY_ALIKE)
        for i, j in zip(*np.nonzero(np.triu(near, start + 1)), strict=True):
            yield start + int(i), int(j)


def _normed(greys: list[np.ndarray]) -> np.ndarray:
    """(N, _TINY²) float32 of unit norm and mean 0: their products are correlations."""
    tiny = np.stack(
        [cv2.resize(np.ascontiguousarray(one), (_TINY, _TINY), interpolation=cv2.INTER_AREA) for one in greys]
    )
    rows = tiny.reshape(len(greys), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _likeness(one: _Small, other: _Small) -> tuple[float, bool]:
    """(correlation as they lie best, whether that is mirrored)"""
    straight = _laid_over(one.grey, other.grey)
    mirrored = _laid_over(one.grey, np.ascontiguousarray(other.grey[:, ::-1]))
    return max(straight, mirrored), mirrored > straight


def _laid_over(one: np.ndarray, other: np.ndarray) -> float:
    """Highest correlation of one small picture with a place in the other, each slightly shrunk in turn."""
    best = -1.0
    for whole, part in ((one, other), (other, one)):
        for share in _SIZES:
            side = round(_SIDE * share)
            template = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
            if template.std() > 0 and whole.std() > 0:
                best = max(best, float(cv2.matchTemplate(whole, template, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _bits(one: _Small, other: _Small, mirrored: bool) -> int:
    return ((one.phash_mirrored if mirrored else one.phash) ^ other.phash).bit_count()


def _burst_candidates(
    store: VaultStore, faces: dict[str, list[Face]], pictures: dict[str, StoredPicture], place: dict[str, int]
) -> Iterator[tuple[int, int]]:
    """Pairs i < j of pictures with as many faces each, all of which are the same within their noise."""
    known = [face for content in faces if content in place for face in faces[content]]
    if len(known) < 2:
        return
    embeddings = store.embeddings(known)
    same: dict[tuple[str, str], int] = {}
    for start in range(0, len(known), _BLOCK):
        alike = np.triu(embeddings[start : start + _BLOCK] @ embeddings.T >= BURST_COSINE, start + 1)
        for i, j in zip(*np.nonzero(alike), strict=True):
            one, other = known[start + int(i)], known[int(j)]
            if one.content != other.content and _is_same_moment(one, other, pictures):
                key = tuple(sorted((one.content, other.content)))
                same[key] = same.get(key, 0) + 1
    for (one, other), count in same.items():
        if count == len(faces[one]) == len(faces[other]):
            yield min(place[one], place[other]), max(place[one], place[other])


def _is_same_moment(one: Face, other: Face, pictures: dict[str, StoredPicture]) -> bool:
    """Person, pose, place, size and light of a face."""
    turns = [abs(getattr(one, angle) - getattr(other, angle)) for angle in ("yaw_deg", "pitch_deg", "roll_deg")]
    size, other_size = (_share(face, pictures[face.content]) for face in (one, other))
    shift = np.linalg.norm(np.subtract(_place(one, pictures[one.content]), _place(other, pictures[other.content])))
    return (
        one.person == other.person
        and max(turns) <= BURST_DEG
        and abs(one.brightness - other.brightness) <= BURST_GREY
        and max(size, other_size) <= BURST_GROWTH * min(size, other_size)
        and shift <= BURST_SHIFT * max(size, other_size)
    )


def _share(face: Face, picture: StoredPicture) -> float:
    return face.size / max(picture.size_wh)


def _place(face: Face, picture: StoredPicture) -> tuple[float, float]:
    """Middle of a face as shares of the picture's longer side."""
    left, top, right, bottom = face.box_xyxy
    side = max(picture.size_wh)
    return (left + right) / 2 / side, (top + bottom) / 2 / side


def _sets(pairs: dict[tuple[int, int], tuple[str, int, float, bool]], known: list[Candidate]) -> list[DuplicateSet]:
    """The best picture keeps all that are duplicates of it, then the best of the rest."""
    beside: dict[int, set[int]] = {}
    for i, j in pairs:
        beside.setdefault(i, set()).add(j)
        beside.setdefault(j, set()).add(i)
    left, sets = set(beside), []
    candidates = {
        i: replace(known[i], eyes_closed=known[i].has_closed_eyes_beside(known[j] for j in others))
        for i, others in beside.items()
    }
    by_quality = cmp_to_key(lambda i, j: better_one(candidates[i], candidates[j]))
    for best in sorted(beside, key=by_quality, reverse=True):
        others = sorted(beside[best] & left, key=lambda i: str(known[i].picture.paths[0])) if best in left else []
        if not others:
            continue
        left -= {best, *others}
        found = []
        for i in others:
            kind, bits, likeness, mirrored = pairs[min(i, best), max(i, best)]
            why = why_kept(candidates[best], candidates[i])
            found.append(Duplicate(known[i].picture.content, kind, bits, round(likeness, 3), mirrored, why))
        sets.append(DuplicateSet(known[best].picture.content, found))
    first_file = {one.picture.content: str(one.picture.paths[0]) for one in known}
    return sorted(sets, key=lambda one: first_file[one.keep])
