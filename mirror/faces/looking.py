"""One engine that looks at many pictures: recalled where they are known, else read and decoded once, a worker a core.

What to look with is its argument, a `Looker`: the largest face by a pack (mirror/faces/measurer.py), or all sensors of
a dataset (mirror/dataset/examiner.py). A picture is whatever its looker fills in; it has a `path`.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from mirror.faces.cache import FaceCache, content_hash
from utils.console import UserError
from utils.cores import available_cores
from utils.decoding import ImageError, decode_with_note
from utils.files import Status
from utils.images import read_file
from utils.progress import GroupProgress

Item, Done = TypeVar("Item"), TypeVar("Done")


class Looker(Protocol):
    """What the engine looks with. `picture` is of the looker's own kind, and is filled in by it."""

    cache: FaceCache
    max_megapixels: float

    def label(self, picture: Any) -> str:
        """Name of the progress bar that counts it."""

    def recall(self, picture: Any, content: str) -> bool:
        """Fill in a picture whose content is known from before. Raises ImageError where it is above today's limit."""

    def look(self, picture: Any, content: str, image: np.ndarray, note: str) -> Any:
        """In a worker thread: all that works on one picture (H, W, 3) BGR; `note` is what decoding found wrong.

        What is returned is handed to `finish` in the main thread; None: the picture is filled in.
        """

    def is_full(self, batch: list) -> bool:
        """Whether `batch`, of what `look` returned, is to be finished now."""

    def finish(self, batch: list) -> None:
        """In the main thread: what works on several pictures at once."""

    def failed(self, picture: Any, status: Status, reason: str) -> None:
        """Fill in a picture that could not be looked at."""

    def done(self, picture: Any, progress: GroupProgress) -> None:
        """A picture is filled in; what there is to say of it goes above the bars."""

    def at_work(self) -> contextlib.AbstractContextManager:
        """Around the work, where there is any. Raises UserError where it could not succeed."""


def look_at(pictures: list, looker: Looker) -> None:
    """Fill in every picture, whatever happens to single ones. Ctrl-C keeps in the cache what was measured.

    Raises UserError where the looker's networks cannot be used.
    """
    unknown = [picture for picture in pictures if not _recalled(picture, looker)]
    if not unknown:
        return
    workers, batch = available_cores(), []
    with looker.at_work(), GroupProgress() as progress, ThreadPoolExecutor(workers) as pool:
        totals = Counter(looker.label(picture) for picture in unknown)
        bars = {label: progress.add(label, count) for label, count in totals.items()}

        def done(picture: Any) -> None:
            progress.step(bars[looker.label(picture)])
            looker.done(picture, progress)

        def finish() -> None:
            if batch:
                looker.finish([half for _, half in batch])
                for picture, _ in batch:
                    done(picture)
                batch.clear()

        try:
            for picture, half in as_they_come(pool, lambda one: _look(one, looker), unknown, window=4 * workers):
                if half is None:
                    done(picture)
                    continue
                batch.append((picture, half))
                if looker.is_full([half for _, half in batch]):
                    finish()
            finish()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _recalled(picture: Any, looker: Looker) -> bool:
    """Fill in a picture whose file has not changed since it was looked at."""
    content = looker.cache.content_of(picture.path)
    if content is None or not os.access(picture.path, os.R_OK):
        return False
    try:
        return looker.recall(picture, content)
    except ImageError as problem:  # measured under a higher limit than today's
        looker.failed(picture, problem.status, problem.reason)
        return True


def _look(picture: Any, looker: Looker) -> tuple[Any, Any]:
    """In a worker thread: one read, one decode, and what the looker does with it."""
    half = None
    try:
        content, data = read_and_remember(picture.path, looker.cache, looker.max_megapixels)
        if not looker.recall(picture, content):
            image, note = decode_with_note(data)
            half = looker.look(picture, content, image, note)
    except ImageError as problem:
        looker.failed(picture, problem.status, problem.reason)
    except UserError:  # the networks themselves cannot be used: that ends the run
        raise
    except Exception as error:  # whatever a network chokes on is one bad picture, and its row says why
        looker.failed(picture, Status.ERROR, failure(error))
    return picture, half


def failure(error: Exception) -> str:
    """The reason of a picture on which a network failed."""
    return f"measuring failed: {type(error).__name__}: {error}"


def read_and_remember(path: Path, cache: FaceCache, max_megapixels: float) -> tuple[str, bytes]:
    """Content hash and bytes of a picture; the cache then knows the file by its time stamp. Raises ImageError."""
    before = None
    with contextlib.suppress(OSError):  # read_file says what is wrong
        before = os.stat(path)
    data = read_file(path, max_megapixels)
    content = content_hash(data)
    if before is not None:
        cache.remember_file(path, before, content)
    return content, data


def as_they_come(
    pool: ThreadPoolExecutor, work: Callable[[Item], Done], items: Iterable[Item], window: int
) -> Iterator[Done]:
    """Results of `work` in the order of completion, at most `window` under way: memory does not grow with the input."""
    running: set[Future[Done]] = set()
    for item in items:
        running.add(pool.submit(work, item))
        if len(running) >= window:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)
