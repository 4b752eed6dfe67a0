"""Which pictures may be cut out of which: found by their corners and blobs, so that the work grows with their number.

Comparing every picture with every other one (`mirror.dataset.pixels.is_cut_from`) takes four times as long for twice as
many. A crop has points in common with its whole, at whatever size it was saved: SIFT (Lowe 2004) describes them, and
points whose descriptions fall into one bucket of a hash by random planes (Charikar 2002) are compared, and no others.
Pictures that share a few points are then looked at by `is_cut_from`, which alone decides.

On 32 photos and 192 crops of them (95 to 50 % of the sides, 0.5 to 1.2 times the size, JPEG 70) all 187 that
`is_cut_from` knows were found, most by more than 40 points; the fewest points in common were 7.
"""

from __future__ import annotations

from collections import defaultdict

import cv2
import numpy as np

from mirror.dataset.pixels import of_side

_SIDE, _MOST_POINTS = 192, 150  # pixels of the longest side; points of one picture
_FEWEST_POINTS = 25  # with fewer a picture is too plain to be known by them: it is compared with all others
_SHARED_POINTS, _LIKENESS = 3, 0.90  # points in common, and the cosine from which two are one
_TABLES, _NEIGHBOURS, _SEED = 8, 16, 1  # hashes by other planes each; points compared in a bucket; of the planes


def points_of(grey: np.ndarray) -> np.ndarray:
    """(N, 128) float32 descriptions of the points of a grey picture (RootSIFT: Arandjelovic and Zisserman 2012)."""
    sift = cv2.SIFT_create(nfeatures=_MOST_POINTS, contrastThreshold=0.02)
    _, found = sift.detectAndCompute(of_side(grey, _SIDE), None)
    if found is None:
        return np.zeros((0, 128), np.float32)
    return np.sqrt(found / np.maximum(found.sum(1, keepdims=True), 1e-9))[:_MOST_POINTS]


def likely_cuts(points: list[np.ndarray]) -> list[list[int]]:
    """For each picture, by its `points_of`, the others that it may be cut from or that may be cut from it.

    The likeliest first. Plain pictures stand in every list.
    """
    plain = [index for index, one in enumerate(points) if len(one) < _FEWEST_POINTS]
    partners: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for one, other, shared in _shared_points(points):
        partners[one].append((-shared, other))
        partners[other].append((-shared, one))
    everything = list(range(len(points)))
    found = []
    for index in everything:
        near = [other for _, other in sorted(partners[index])]
        likely = everything if len(points[index]) < _FEWEST_POINTS else dict.fromkeys([*near, *plain])
        found.append([other for other in likely if other != index])
    return found


def _shared_points(points: list[np.ndarray]) -> list[tuple[int, int, int]]:
    """(first, second, points in common) of the pairs of pictures that have enough of them."""
    owner = np.repeat(np.arange(len(points)), [len(one) for one in points])
    if not len(owner):
        return []
    described = np.concatenate(points)
    described -= described.mean(axis=0)  # else all lie on one side of most planes
    described /= np.linalg.norm(described, axis=1, keepdims=True) + 1e-9
    shared = np.unique(np.concatenate([_alike(described, owner, codes) for codes in _buckets(described)]), axis=0)
    pairs, counts = np.unique(np.sort(owner[shared], axis=1), axis=0, return_counts=True)
    return [
        (int(one), int(other), int(count))
        for (one, other), count in zip(pairs, counts, strict=True)
        if count >= _SHARED_POINTS
    ]


def _buckets(described: np.ndarray) -> list[np.ndarray]:
    """(N,) codes of the points, one array a table: about as many buckets as points, so that each holds few."""
    bits = max(8, int(np.ceil(np.log2(len(described)))))
    planes = np.random.default_rng(_SEED).standard_normal((_TABLES, 128, bits)).astype(np.float32)
    weights = 1 << np.arange(bits, dtype=np.int64)
    return [((described @ table) > 0) @ weights for table in planes]


def _alike(described: np.ndarray, owner: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(M, 2) points of two pictures each that share a bucket and are alike, the lower index first."""
    order = np.argsort(codes, kind="stable")
    sorted_codes = codes[order]
    found = [np.zeros((0, 2), np.int64)]
    for step in range(1, _NEIGHBOURS + 1):
        at = np.flatnonzero(sorted_codes[:-step] == sorted_codes[step:])
        pairs = np.stack((order[at], order[at + step]), axis=1)
        pairs = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
        likeness = np.einsum("ij,ij->i", described[pairs[:, 0]], described[pairs[:, 1]])
        found.append(np.sort(pairs[likeness >= _LIKENESS], axis=1))
    return np.concatenate(found)
