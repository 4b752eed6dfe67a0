"""Where the irises are: dark discs near the eyes that a model pack found, exact to a hundredth of their distance.

Every edge votes for the point that a disc's centre would be at, one radius away on its dark side, as in the radial
symmetry transform (Loy and Zelinsky 2003, Fast radial symmetry for detecting points of interest).
"""

from __future__ import annotations

import cv2
import numpy as np

from mirror.export.geometry import moved, similarity, warp

# The eyes are looked at in a strip in which they lie APART pixels from each other. An iris is 11.7 mm wide and the
# pupils are 63 mm apart (Dodgson 2004, Variation and extrema of human interpupillary distance), a radius of 0.093.
APART, _STRIP_WH = 120, (240, 120)
_PLACES = np.array([[60.0, 60.0], [180.0, 60.0]])
_RADII = range(8, 14)  # pixels of the strip
# How far a pack's eyes may be off: standard deviation of the weight that votes have, pixels of the strip. Of 9, 14, 20
# and 26 it was best for 56 rendered heads (both eyes within 2 % of the canvas in 84, 91, 96 and 95 %).
_PRIOR = 20.0
_STRONG = 60  # percentile of gradients from where on an edge votes
_LIDS = 0.3  # weight of an edge that lies level, as lids and brows do; an upright one has 1.3
# Both irises together must be about as far apart, and as level, as the eyes that were measured, as a share of their
# distance. Else one of them is something else: a brow, a shadow, the frame of glasses. Wide, as the pack errs too:
# at 0.15 and 0.12 it refused 7 of those 56 heads, most of them wrongly.
_MOST_APART, _MOST_TILT = 0.25, 0.2


def find_irises(image: np.ndarray, eyes: np.ndarray) -> np.ndarray | None:
    """(2, 2) float64 centres of the left and the right iris in pixels of `image` (H, W, 3) uint8 BGR, near `eyes`.

    None where they are not both seen, or the picture is too small. Closed lids may be taken for irises, near enough.
    """
    if np.linalg.norm(eyes[1] - eyes[0]) < APART / 4:
        return None
    matrix = similarity(eyes, _PLACES)
    grey = cv2.cvtColor(warp(image, matrix, _STRIP_WH), cv2.COLOR_BGR2GRAY).astype(np.float32)
    votes = _votes(cv2.GaussianBlur(grey, (0, 0), 1.5))
    found = np.array([_peak(votes, place) for place in _PLACES])
    across, down = (found[1] - found[0] - (APART, 0)) / APART
    if abs(across) > _MOST_APART or abs(down) > _MOST_TILT:
        return None
    return moved(found, cv2.invertAffineTransform(matrix))


def _votes(grey: np.ndarray) -> np.ndarray:
    """(H, W) float32: how many edges have a dark disc's centre here."""
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.hypot(across, down)
    rows, columns = np.nonzero(strength > np.percentile(strength, _STRONG))
    steps = np.stack([across[rows, columns], down[rows, columns]]) / strength[rows, columns]
    weights = np.sqrt(strength[rows, columns]) * (_LIDS + np.abs(steps[0]))
    votes = np.zeros_like(grey)
    for radius in _RADII:
        x, y = np.rint(columns - radius * steps[0]).astype(int), np.rint(rows - radius * steps[1]).astype(int)
        inside = (x >= 0) & (x < grey.shape[1]) & (y >= 0) & (y < grey.shape[0])
        np.add.at(votes, (y[inside], x[inside]), weights[inside])
    return cv2.GaussianBlur(votes, (0, 0), 2.0)


def _peak(votes: np.ndarray, place: np.ndarray) -> tuple[int, int]:
    """x, y of the most votes, weighted by how near to `place` they are."""
    y, x = np.mgrid[: votes.shape[0], : votes.shape[1]]
    weighted = votes * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * _PRIOR**2))
    row, column = np.unravel_index(weighted.argmax(), weighted.shape)
    return int(column), int(row)
