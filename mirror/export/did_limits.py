"""What D-ID publishes about source pictures, in one table, and what we chose where it publishes nothing.

Looked up on 2026-11-28 in D-ID's FAQ and API pages (docs.d-id.com: talks, images, photo avatars). Not found there: a
smallest picture, a smallest face, how far a head may be turned, the mouth, the light.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOKED_UP = "2026-11-28"
_FAQ = "https://www.d-id.com/faqs/"
_HEYGEN = "https://docs.heygen.com/docs/create-personalized-avatars-with-photos"


@dataclass(frozen=True)
class ServiceLimit:
    """One line of the table."""

    what: str
    value: str  # for people
    source: str  # address of the page, or why we chose it


# The smaller reading of "10 MB".
MOST_BYTES = 10_000_000
# Pixels. A standard presenter's video is at most 1280 x 1280; a larger picture is not refused, it only shows no more.
LONGEST_SIDE = 1280
# Pixels, shorter side of the face's box. D-ID names none; another talking-head service asks for a face "larger than
# 200x200 pixels".
SMALLEST_FACE = 200.0

SERVICE_LIMITS = (
    ServiceLimit("file format", "JPEG or PNG; we write JPEG", _FAQ),
    ServiceLimit("file size", f"at most {MOST_BYTES // 1_000_000} MB", _FAQ),
    ServiceLimit(
        "longest side", f"we shrink to {LONGEST_SIDE} pixels, the largest video of a standard presenter", _FAQ
    ),
    ServiceLimit(
        "face",
        f"at least {SMALLEST_FACE:.0f} pixels: our choice, as D-ID names none; HeyGen's limit for photos",
        _HEYGEN,
    ),
    ServiceLimit(
        "pose, mouth, eyes, light, room around the head", "our choice: D-ID publishes no numbers", "none found"
    ),
)
