"""Which faces are one person: groups of embeddings that are alike on average, never two faces of one picture.

What hangs together by pairs of faces that are alike would tie many people into one cluster wherever a few faces stand
between them (DBSCAN alone does), so inside each such part groups are merged by average linkage: two
groups become one where the mean cosine over all pairs of their faces reaches the threshold. Whatever must not be
(two faces of one picture, two persons whom somebody named, a face that was taken out) is never merged.

For unit vectors the mean cosine over all pairs is the product of the two groups' mean vectors, so no matrix of all
faces is needed. Average linkage is reducible (Murtagh 1983): all pairs that are each other's nearest may be merged at
once, and a group without a partner above the threshold never gets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mirror.vault.neighbours import NOBODY, components

# Profiles of different persons are alike as often as profile and front of one: degrees of yaw from which a face ties no
# two groups together. On 731 rendered faces BCubed F was 0.855 and 0.884 without this limit, 0.891 with 40 (0.873 and
# 0.887 with 45, 0.888 and 0.892 with 35).
TURNED_DEG = 40.0
# Profiles and blurred faces lie far from a person's mean and near to a few of the person's faces. What is left over
# joins the person whose nearest faces are alike enough, and clearly more so than the next person's.
# benchmarks/vault_bench.py: of 547 rendered faces recall 0.76 to 0.83, precision 0.96 to 0.95.
JOIN_NEAREST, JOIN_ABOVE, JOIN_MARGIN = 3, 0.05, 0.05  # faces; cosine above the threshold; cosine to the next person
_BLOCK = 1024  # rows compared at once
_AT_ONCE = 8192  # groups of which all pairs are kept, 256 MB
_CANDIDATES = 8  # persons that a left-over face is held against


@dataclass(frozen=True)
class Known:
    """What somebody said of the faces, by index."""

    owner: dict[int, int] = field(default_factory=dict)  # face -> person that it belongs to
    banned: dict[int, frozenset[int]] = field(default_factory=dict)  # face -> persons that it does not belong to


def persons(
    embeddings: np.ndarray,
    pictures: Sequence[int],
    threshold: float,
    min_cluster: int,
    known: Known | None = None,
    turned: np.ndarray | None = None,
) -> np.ndarray:
    """Person of each face, (N,) int from 0 on; NOBODY where fewer than `min_cluster` faces are one person.

    `embeddings` (N, D) float32, unit norm; `pictures` (N,) says which faces are of one picture; `threshold`: cosine.
    Faces that are `turned` (N,) bool, see `is_turned`, join persons and tie none together; what is left of them can
    still be a person. Faces that somebody gave to a person are that person's however few they are.
    """
    known, pictures = known or Known(), np.asarray(pictures)
    labels = np.full(len(embeddings), NOBODY)
    if not len(embeddings):
        return labels
    plain = np.ones(len(embeddings), dtype=bool) if turned is None else ~turned
    plain[list(known.owner)] = True
    _group(labels, np.flatnonzero(plain), embeddings, pictures, threshold, min_cluster, known)
    _join(labels, embeddings, pictures, threshold, known)
    if not plain.all():
        left = np.flatnonzero(labels == NOBODY)
        _group(labels, left, embeddings, pictures, threshold, min_cluster, Known())
    found = labels != NOBODY
    labels[found] = np.unique(labels[found], return_inverse=True)[1]
    return labels


def is_turned(yaw_deg: np.ndarray) -> np.ndarray:
    """Which faces show too little of the person to tell two persons apart, by their yaw (N,)."""
    return np.abs(yaw_deg) > TURNED_DEG


def _group(
    labels: np.ndarray,
    which: np.ndarray,
    embeddings: np.ndarray,
    pictures: np.ndarray,
    threshold: float,
    min_cluster: int,
    known: Known,
) -> None:
    """New persons of the faces `which`, those with enough faces or an owner."""
    if not len(which):
        return
    place = {int(face): i for i, face in enumerate(which)}
    here = Known(
        {place[face]: person for face, person in known.owner.items()},
        {place[face]: persons for face, persons in known.banned.items() if face in place},
    )
    groups = alike(embeddings[which], pictures[which], threshold, here)
    is_person = np.bincount(groups) >= min_cluster
    is_person[[groups[face] for face in here.owner]] = True
    labels[which] = np.where(is_person[groups], groups + labels.max(initial=NOBODY) + 1, NOBODY)


def _join(labels: np.ndarray, embeddings: np.ndarray, pictures: np.ndarray, threshold: float, known: Known) -> None:
    """Give faces that are left over to the person whose nearest faces are like them, the surest first."""
    left = np.flatnonzero(labels == NOBODY)
    people = np.unique(labels[labels != NOBODY])
    if not len(left) or not len(people):
        return
    scores = _nearness(embeddings, left, labels)
    shown = {one: set(pictures[labels == one]) for one in people}
    owner = {labels[face]: person for face, person in known.owner.items()}
    for i in np.argsort(-scores.max(axis=1)):
        face = left[i]
        refused = known.banned.get(face, ())
        order = np.argsort(-scores[i])[:_CANDIDATES]
        allowed = [k for k in order if pictures[face] not in shown[people[k]] and owner.get(people[k]) not in refused]
        if not allowed or scores[i, allowed[0]] < threshold + JOIN_ABOVE:
            continue
        if len(allowed) > 1 and scores[i, allowed[0]] - scores[i, allowed[1]] < JOIN_MARGIN:
            continue
        labels[face] = people[allowed[0]]
        shown[people[allowed[0]]].add(pictures[face])


def _nearness(embeddings: np.ndarray, left: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(L, P) mean cosine of each left-over face to the JOIN_NEAREST of each person's faces that are most like it."""
    found = np.flatnonzero(labels != NOBODY)
    found = found[np.argsort(labels[found], kind="stable")]
    begins = np.flatnonzero(np.diff(labels[found], prepend=-2))
    sizes = np.diff(begins, append=len(found))
    rows = []
    for start in range(0, len(left), _BLOCK):
        cosine = embeddings[left[start : start + _BLOCK]] @ embeddings[found].T
        total, counted = 0.0, 0.0
        for nth in range(JOIN_NEAREST):
            nearest = np.maximum.reduceat(cosine, begins, axis=1)
            cosine[cosine == np.repeat(nearest, sizes, axis=1)] = -2
            is_there = (sizes > nth) & (nearest > -2)
            total = total + np.where(is_there, nearest, 0)
            counted = counted + is_there
        rows.append(total / counted)
    return np.concatenate(rows)


def alike(embeddings: np.ndarray, pictures: Sequence[int], threshold: float, known: Known) -> np.ndarray:
    """Group of each face, (N,) int from 0 on; a face that is like no other is a group of its own."""
    groups = _Groups.of(embeddings, np.asarray(pictures), known)
    for part in _tied(components(embeddings, threshold), groups.number.copy()):
        groups.merge_alike(np.unique(groups.number[part]), threshold)
    groups.merge_alike(np.unique(groups.number), threshold)
    return np.unique(groups.number, return_inverse=True)[1]


def _tied(parts: list[np.ndarray], number: np.ndarray) -> list[np.ndarray]:
    """`parts` (indices of faces), those joined that share a group; `number` (N,) is the group of each face.

    Faces that somebody named are one group from the start, and may lie in several parts.
    """
    whole: dict[int, list[int]] = {}  # number of a group -> all faces of the part that it lies in
    for part in parts:
        lists = {id(one): one for group in number[part] if (one := whole.get(int(group))) is not None}
        tied = [*part.tolist(), *(face for one in lists.values() for face in one)]
        whole.update(dict.fromkeys(map(int, number[tied]), tied))
    return [np.array(one) for one in {id(one): one for one in whole.values()}.values()]


def _mean_of(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Cosines of two groups as those of both together, the first having `share` of the faces; -2 where either has."""
    return np.where((one == -2) | (other == -2), -2, share * one + (1 - share) * other)


class _Groups:
    """Groups of faces that grow by merging; a group's number is that of its first face."""

    def __init__(self, number: np.ndarray, sums: np.ndarray, pictures: np.ndarray):
        self.number = number  # (N,) group of each face
        self.sums = sums  # (N, D) sum of the embeddings, valid at a group's number
        self.sizes = np.ones(len(number), dtype=int)
        self.pictures = pictures  # (N,) picture of each face
        self.members = [[i] for i in range(len(number))]
        self.owner = np.full(len(number), NOBODY)
        self.banned: list[frozenset[int]] = [frozenset()] * len(number)
        self.is_limited = np.zeros(len(number), dtype=bool)  # whether anything is banned

    @classmethod
    def of(cls, embeddings: np.ndarray, pictures: np.ndarray, known: Known) -> _Groups:
        """Every face by itself, but those that belong to one person."""
        groups = cls(np.arange(len(embeddings)), embeddings.astype(np.float32), pictures)
        for face, persons in known.banned.items():
            groups.banned[face], groups.is_limited[face] = persons, bool(persons)
        first: dict[int, int] = {}
        for face, person in known.owner.items():
            groups.owner[face] = person
            if first.setdefault(person, face) != face:
                groups._merge(first[person], face)
        return groups

    def merge_alike(self, which: np.ndarray, threshold: float) -> None:
        """Merge the groups with these numbers as long as two of them are alike and may be one.

        Only groups that grew, or whose nearest did, are compared anew: no group comes nearer to the others by growing.
        """
        active = np.unique(which)
        if len(active) <= _AT_ONCE:
            self._merge_few(active, threshold)
            return
        stale = np.ones(len(active), dtype=bool)
        best, cosine = np.zeros(len(active), dtype=int), np.zeros(len(active), dtype=np.float32)
        while len(active) > 1:
            rows = np.flatnonzero(stale)
            best[rows], cosine[rows] = self._partners(active, rows)
            here, is_alike = np.arange(len(active)), cosine >= threshold
            if not is_alike.any():
                return
            mutual = is_alike & (best[best] == here) & (here < best)
            if not mutual.any():  # equal to the last bit but one: take the nearest
                mutual = here == int(cosine.argmax())
            grown = np.flatnonzero(mutual)
            for one in grown:
                self._merge(int(active[one]), int(active[best[one]]))
            stale = np.zeros(len(active), dtype=bool)
            stale[grown] = stale[best[grown]] = True
            stale |= stale[best]
            # numbers are those of first faces: of two that merged, the lower one goes on
            gone = np.maximum(grown, best[grown])
            stays = is_alike.copy()
            stays[gone] = False
            stays[np.minimum(grown, best[grown])] = True
            place = np.cumsum(stays) - 1
            stale |= ~stays[best]
            active, best, cosine, stale = active[stays], place[best[stays]], cosine[stays], stale[stays]
            if len(active) <= _AT_ONCE:
                self._merge_few(active, threshold)
                return

    def _merge_few(self, active: np.ndarray, threshold: float) -> None:
        """As `merge_alike`, with a matrix of all pairs: a merged group's row is the mean of both.

        This is the update of Lance & Williams (1967, Computer Journal 9, 373-380). What may not be
        merged with one of two groups may not be merged with both together, so -2 stays -2.
        """
        alike, sizes = self._alike(active, np.arange(len(active))), self.sizes[active].astype(np.float32)
        best = alike.argmax(axis=1)
        here = np.arange(len(active))
        cosine = alike[here, best]
        while (cosine >= threshold).any():
            mutual = (cosine >= threshold) & (best[best] == here) & (here < best)
            if not mutual.any():  # equal to the last bit but one: take the nearest
                mutual = here == int(cosine.argmax())
            one = np.minimum(here, best)[mutual]
            other = np.maximum(here, best)[mutual]
            share = sizes[one] / (sizes[one] + sizes[other])
            alike[one] = _mean_of(alike[one], alike[other], share[:, None])
            alike[:, one] = _mean_of(alike[:, one], alike[:, other], share)
            alike[other], alike[:, other] = -2, -2
            sizes[one] += sizes[other]
            for i, j in zip(active[one], active[other], strict=True):
                self._merge(int(i), int(j))
            changed = np.zeros(len(active), dtype=bool)
            changed[one] = changed[other] = True
            stale = np.flatnonzero(changed | changed[best])
            best[stale] = alike[stale].argmax(axis=1)
            cosine[stale] = alike[stale, best[stale]]

    def _partners(self, active: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `active` of the nearest group that each may be merged with, their mean cosine)

        For the groups at the places `wanted` in `active`.
        """
        best, cosine = np.zeros(len(wanted), dtype=int), np.zeros(len(wanted), dtype=np.float32)
        for start in range(0, len(wanted), _BLOCK):
            place = slice(start, start + _BLOCK)
            alike = self._alike(active, wanted[place])
            best[place] = alike.argmax(axis=1)
            cosine[place] = alike[np.arange(len(alike)), best[place]]
        return best, cosine

    def _alike(self, active: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(R, A) mean cosines of groups, at the places `rows` in `active`, to all; -2 for what may not be one."""
        means = self.sums[active] / self.sizes[active, None]
        alike = means[rows] @ means.T
        alike[np.arange(len(rows)), rows] = -2
        shown = self._shown(active)
        if shown is not None:
            together = (shown[rows] @ shown.T).tocoo()
            alike[together.row, together.col] = -2
        owner = self.owner[active]
        is_owned = owner != NOBODY
        owned = np.flatnonzero(is_owned[rows])
        if len(owned):
            alike[owned] = np.where(is_owned & (owner[rows][owned, None] != owner[None, :]), -2, alike[owned])
        for i in np.flatnonzero(self.is_limited[active]):
            refused = np.isin(owner, list(self.banned[active[i]]))
            alike[np.ix_(rows == i, refused)] = -2
            alike[refused[rows], i] = -2
        return alike

    def _shown(self, active: np.ndarray):
        """Sparse (A, pictures): which groups have a face in which picture, of pictures with several of the groups.

        None where there is no such picture.
        """
        from scipy.sparse import csr_matrix

        faces = np.concatenate([self.members[one] for one in active])
        _, picture, counts = np.unique(self.pictures[faces], return_inverse=True, return_counts=True)
        is_shared = counts[picture] > 1
        if not is_shared.any():
            return None
        rows = np.repeat(np.arange(len(active)), self.sizes[active])[is_shared]
        ones = np.ones(len(rows), dtype=np.float32)
        return csr_matrix((ones, (rows, picture[is_shared])), shape=(len(active), len(counts)))

    def _merge(self, one: int, other: int) -> None:
        one, other = min(one, other), max(one, other)
        self.number[self.members[other]] = one
        self.members[one] += self.members[other]
        self.sums[one] += self.sums[other]
        self.sizes[one] += self.sizes[other]
        self.banned[one] |= self.banned[other]
        self.is_limited[one] |= self.is_limited[other]
        self.owner[one] = max(self.owner[one], self.owner[other])
