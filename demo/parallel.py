"""Scenes rendered on all cores, in their order."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import cv2

from demo.render import Picture, render
from demo.scene import Scene
from utils.cores import available_cores


def _begin() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for the pictures


def render_all(
    scenes: Sequence[Scene], size: int | tuple[int, int], workers: int | None = None, samples: float | None = None
) -> Iterator[Picture]:
    """Pictures of `scenes`, in their order. `size` in pixels: a square's side or (width, height).

    `workers` are processes, one a core by default; with one, the pictures are rendered right here. `samples` as in
    `render`. Neighbouring scenes of one person are quicker: the renderer keeps a face's shape and skin.
    """
    workers = min(workers or available_cores(), len(scenes), 61)  # Windows waits for no more than that
    if workers <= 1:
        yield from (render(scene, size, samples) for scene in scenes)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
    try:
        yield from pool.map(partial(render, size=size, samples=samples), scenes, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)
