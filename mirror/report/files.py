"""What the pages show of the files themselves: a small JPEG of each inside the page, and the way to the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from markupsafe import Markup

from mirror.report.render import encoded
from utils.images import shrunk

# A page with 5,000 points stays below 40 MB: plotly.js is 4.8 MB, numbers and prompts are up to 5 MB.
MOST_PICTURE_BYTES = 29e6 * 3 / 4  # of JPEGs; base64 makes four characters of three bytes
PREVIEWED_PICTURES = 400  # up to so many, the dashboard carries larger pictures: about 20 KB each, 11 MB together
BLOCK = 64  # pictures in one piece of the page: a piece is parsed when one of its pictures is asked for


class _File(Protocol):
    path: Path
    thumbnail: bytes | None
    preview: bytes | None


@dataclass(frozen=True)
class PageFiles:
    """One entry a row of the table; a thumbnail is None where the file could not be read."""

    thumbnails: Sequence[bytes | None]
    previews: Sequence[bytes | None] = ()
    links: Sequence[str | None] = ()  # addresses of the files, relative to the page where that is possible

    @classmethod
    def of(cls, files: Iterable[_File], output: Path) -> PageFiles:
        """Of pictures that were measured, for pages in `output`."""
        files = list(files)
        return cls(
            [one.thumbnail for one in files],
            [one.preview for one in files],
            [address(one.path, output) for one in files],
        )

    def small(self) -> list[bytes | None]:
        """Thumbnails that fit into a page."""
        return self._small

    @cached_property
    def _small(self) -> list[bytes | None]:
        return shrunk(list(self.thumbnails), MOST_PICTURE_BYTES)

    def large(self) -> list[bytes | None]:
        """The larger pictures where there are any and they fit, else thumbnails. One a file: the page scales it."""
        pairs = zip(self.previews or [None] * len(self.thumbnails), self.thumbnails, strict=True)
        chosen = [large or small for large, small in pairs]
        return chosen if sum(len(one) for one in chosen if one) <= MOST_PICTURE_BYTES else self.small()


def address(path: Path, folder: Path) -> str | None:
    """Where a page in `folder` finds the file `path`."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return path.absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def picture_blocks(pictures: Sequence[bytes | None]) -> list[Markup]:
    """JSON lists of BLOCK base64 texts each, in the order of the rows. Base64 needs no escaping."""
    texts = [encoded(picture) or "" for picture in pictures]
    return [Markup('["' + '",\n"'.join(texts[at : at + BLOCK]) + '"]') for at in range(0, len(texts), BLOCK)]
