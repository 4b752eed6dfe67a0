"""Which faces hang together: connected parts of the graph of each face's nearest ones, exact or by cells.

Embeddings are (N, D) float32, unit norm; distances are 1 - cosine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NEIGHBOURS = 32  # nearest faces of each that are kept: bounds the memory at any number of faces
# Up to here every face is compared with every other one, which takes four times as long for twice the faces.
EXACT_UP_TO = 25_000
_PROBED = 16  # cells in which a face's neighbours are looked for
_BLOCK = 1024  # rows compared at once
NOBODY = -1


def components(embeddings: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Indices of faces that hang together by pairs with a cosine from `threshold` on; single ones left out.

    DBSCAN for which two samples are enough finds the connected parts of the graph, no more: SciPy finds them without
    the two seconds that scikit-learn takes to import.
    """
    from scipy.sparse.csgraph import connected_components

    if len(embeddings) < 2:
        return []
    _, labels = connected_components(nearest(embeddings, 1 - threshold), directed=False)
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    parts = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    return [parts[label] for label in np.argsort(first) if sizes[label] > 1]


def nearest(embeddings: np.ndarray, distance: float, exact_up_to: int = EXACT_UP_TO):
    """Sparse (N, N) cosine distances of the nearest NEIGHBOURS within `distance`, both ways.

    Of more than `exact_up_to` faces, of those that are found in the cells nearest to each (`_in_cells`).
    """
    from scipy.sparse import csr_matrix

    count = len(embeddings)
    rows, columns, values = [], [], []
    for some, others in _in_cells(embeddings) if count > exact_up_to else _blocks(count):
        cosine = embeddings[some] @ (embeddings.T if others is None else embeddings[others].T)
        cosine[some[:, None] == others if others is not None else (np.arange(len(some)), some)] = -2
        near = cosine >= 1 - distance
        for row in np.flatnonzero(near.sum(axis=1) > NEIGHBOURS):  # few: most faces have few that are alike
            near[row] &= cosine[row] >= np.partition(cosine[row], -NEIGHBOURS)[-NEIGHBOURS]
        row, column = np.nonzero(near)
        rows.append(some[row])
        columns.append(column if others is None else others[column])
        values.append(np.maximum(1 - cosine[row, column], 1e-7))  # a zero would be no entry
    row, column, value = map(np.concatenate, (rows, columns, values))
    graph = csr_matrix((value, (row, column)), shape=(count, count))
    return graph.maximum(graph.T).tocsr()


def _blocks(count: int) -> Iterator[tuple[np.ndarray, None]]:
    """Some faces at a time, each compared with all."""
    for start in range(0, count, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, count)), None


def _in_cells(embeddings: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The faces of each cell of a k-means, and those of the cells nearest to it.

    An inverted file (Sivic & Zisserman 2003) by scikit-learn's MiniBatchKMeans. A pair that it misses can still become
    one person: the parts' groups are compared with each other in full.
    """
    from sklearn.cluster import MiniBatchKMeans

    cells = round(len(embeddings) ** 0.5 / 2)
    means = MiniBatchKMeans(cells, batch_size=4096, n_init=1, max_iter=10, random_state=0).fit(embeddings)
    centres = means.cluster_centers_ / np.linalg.norm(means.cluster_centers_, axis=1, keepdims=True)
    order = np.argsort(means.labels_, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(means.labels_, minlength=cells))[:-1])
    for cell, near in enumerate(np.argsort(-(centres @ centres.T), axis=1)[:, :_PROBED]):
        others = np.concatenate([members[i] for i in near])
        for start in range(0, len(members[cell]), _BLOCK):
            yield members[cell][start : start + _BLOCK], others
