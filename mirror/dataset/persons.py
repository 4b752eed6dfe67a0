"""Whether a folder shows one person or two."""

from __future__ import annotations

import numpy as np

from mirror.faces.alike import between, split
from mirror.faces.group import LIMITS

FEWEST = 3  # pictures of the second person: fewer are outliers, see mirror.dataset.soundness
# Identity (mirror.faces.alike) of the parts with each other below which they are two persons. Cut like this, the photos
# of one rendered person give 0.57 and more (22 sets, demo pack), those of two 0.50 and less in 95 % of 231 pairs of
# persons, half the photos of each. Careful on purpose: it refuses a dataset.
ACROSS = 0.50


def two_persons(embeddings: np.ndarray, yaw_deg: np.ndarray) -> np.ndarray | None:
    """(N,) bool: the smaller of two persons' pictures; None where the faces are one person, or it can't be told.

    `embeddings` (N, D) unit norm, `yaw_deg` (N,). The faces are cut in two along their first principal component; the
    parts are two persons where faces at the same turn of the head are as unlike as ACROSS says.
    """
    if len(embeddings) < 2 * FEWEST:
        return None
    centred = embeddings - embeddings.mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    is_first = split(embeddings, along > 0)
    smaller = is_first if is_first.sum() <= len(is_first) / 2 else ~is_first
    if smaller.sum() < max(FEWEST, LIMITS.mixed_least * len(smaller)):
        return None
    across = between(embeddings[~smaller], yaw_deg[~smaller], embeddings[smaller], yaw_deg[smaller])
    return smaller if across < ACROSS else None
