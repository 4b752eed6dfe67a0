"""What a generator says of images that it only simulates. It stands wherever such images are shown or counted."""

from __future__ import annotations

import json
from pathlib import Path

from utils.defaults import METADATA


def said_of(folder: Path) -> str | None:
    """The generator's own words, from the metadata in a folder of images; None where it says nothing of the kind.

    Metadata that cannot be read are not complained of here: whoever needs them does.
    """
    try:
        said = json.loads((folder / METADATA).read_text(encoding="utf-8"))["settings"]["simulated"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return said if isinstance(said, str) and said else None
