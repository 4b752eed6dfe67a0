"""The map of all faces: t-SNE of the embeddings, kept in the cache."""

from __future__ import annotations

import hashlib

import numpy as np

from mirror.faces.cache import FaceCache
from mirror.faces.measurer import Picture
from mirror.faces.metrics import safe_perplexity

FEWEST_FACES_FOR_MAP = 5  # below that t-SNE has no neighbourhoods to keep
MAP_SEED = 42


def identity_map(pictures: list[Picture], dimensions: int, cache: FaceCache) -> tuple[np.ndarray | None, str]:
    """t-SNE coordinates (len(pictures), dimensions), NaN without a face; or None and the reason in a sentence."""

    rows = [i for i, p in enumerate(pictures) if p.measured]
    if len(rows) < FEWEST_FACES_FOR_MAP:
        return None, f"The map needs at least {FEWEST_FACES_FOR_MAP} faces; here are {len(rows)}."
    embeddings = np.stack([pictures[i].face.embedding for i in rows])
    key = f"tsne{dimensions}-{MAP_SEED}-" + hashlib.sha256(embeddings.tobytes()).hexdigest()
    kept = cache.get_blob("map", key)
    if kept is None:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        # cosine: for unit vectors the angle between faces, which is what ArcFace is trained on
        tsne = TSNE(
            dimensions, perplexity=safe_perplexity(len(rows)), init="random", metric="cosine", random_state=MAP_SEED
        )
        with threadpool_limits(1):  # its threads wait in a spin at every step, which is slower on a busy machine
            kept = tsne.fit_transform(embeddings).astype("<f4").tobytes()
        cache.put_blob("map", key, kept)
    coordinates = np.full((len(pictures), dimensions), np.nan)
    coordinates[rows] = np.frombuffer(kept, dtype="<f4").reshape(-1, dimensions)
    return coordinates, ""


def import_for_map() -> None:
    """What a run with new faces, and enough of them for a map, needs at its end, and what takes seconds to import."""
    import pandas  # noqa: F401
    import sklearn.manifold  # noqa: F401
