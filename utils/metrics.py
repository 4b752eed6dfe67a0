"""The measures themselves: pure NumPy, no files, no networks.

Embeddings are `(N, D) float32` or float64, one row a face, unit norm. Cosine similarity is their dot product.
"""

from __future__ import annotations

import numpy as np

# Bands of the similarity between a generated image and its nearest reference, as documented for the Copycat report:
# below 0.50 LOW, 0.50-0.70 OK, 0.70-0.85 Watch Out, above 0.85 Danger Zone. A limit belongs to the band above it,
# except 0.85 ("above 0.85" is the Danger Zone).
LOW, OK, WATCH_OUT, DANGER_ZONE = "LOW", "OK", "Watch Out", "Danger Zone"
BAND_LIMITS = {LOW: (None, 0.50), OK: (0.50, 0.70), WATCH_OUT: (0.70, 0.85), DANGER_ZONE: (0.85, None)}


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (..., D) scaled to unit Euclidean norm, float64. Raises ValueError for a zero vector."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(norms > 0):
        raise ValueError("a zero vector has no direction")
    return vectors / norms


def centroid(embeddings: np.ndarray) -> np.ndarray:
    """Unit-norm mean direction (D,) of unit embeddings (N, D), N >= 1."""
    return unit(np.asarray(embeddings, dtype=np.float64).mean(axis=0))


def similarity_to_centroid(candidates: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Cosine (M,) of each candidate (M, D) to the centroid of all references (N, D)."""
    return np.asarray(candidates, dtype=np.float64) @ centroid(references)


def leave_one_out(references: np.ndarray) -> np.ndarray:
    """Cosine (N,) of each reference to the centroid of the *others*; NaN where there is no other.

    Against the full centroid a reference would be compared with itself as well, which flatters it: with N references
    of mutual cosine c by about (1 - c) / N. The sum of the others is the sum of all minus the row: O(N D).
    """
    rows = np.asarray(references, dtype=np.float64)
    if len(rows) < 2:
        return np.full(len(rows), np.nan)
    others = rows.sum(axis=0) - rows
    norms = np.linalg.norm(others, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (rows * others).sum(axis=1) / norms, np.nan)


def nearest(queries: np.ndarray, references: np.ndarray, exclude_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Index (M,) and cosine (M,) of the nearest reference of each query; ties go to the first.

    `exclude_self`: queries *are* the references, and a row is not its own neighbour. Where no neighbour exists the
    index is -1 and the cosine NaN.
    """
    queries = np.asarray(queries, dtype=np.float64)
    references = np.asarray(references, dtype=np.float64)
    if len(references) < (2 if exclude_self else 1):
        return np.full(len(queries), -1), np.full(len(queries), np.nan)
    cosines = queries @ references.T
    if exclude_self:
        np.fill_diagonal(cosines, -np.inf)
    index = cosines.argmax(axis=1)
    return index, cosines[np.arange(len(queries)), index]


def copy_band(similarity: float) -> str:
    """Name of the band of a similarity to the nearest reference."""
    if similarity > BAND_LIMITS[DANGER_ZONE][0]:
        return DANGER_ZONE
    if similarity >= BAND_LIMITS[WATCH_OUT][0]:
        return WATCH_OUT
    return OK if similarity >= BAND_LIMITS[OK][0] else LOW


def safe_perplexity(count: int) -> float:
    """t-SNE perplexity for `count` points: 30 (van der Maaten & Hinton 2008 advise 5-50), less for small sets.

    scikit-learn demands perplexity < count; a third of the neighbours keeps the map from collapsing to a ring.
    """
    return float(min(30.0, max(1.0, (count - 1) / 3.0)))
