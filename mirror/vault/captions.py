"""Captions of a person's photos: kept in the store as what was seen, put into words where a picture is saved.

What was measured depends on the part of the photo that is saved, so the words are made with it. A captioner's text is
kept as it was written. A person's own words come first: a text beside the photo, or an edited one beside the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.prepared import CaptionBy
from mirror.dataset import pixels
from mirror.dataset.gaps import SHOT_SIZES, face_height_share
from mirror.vault.crops import Window, in_window, upright
from mirror.vault.expressions import expression_of
from mirror.vault.shots import Shot
from mirror.vault.store import VaultStore
from mirror.vault.wording import Measured, caption
from utils.captions import caption_of, read_caption
from utils.console import UserError
from utils.decoding import BLACK_AND_WHITE

MEASURED = "measured"  # the source of a caption that no captioner wrote
_SCHEMA = """CREATE TABLE IF NOT EXISTS captions (face INTEGER PRIMARY KEY, source TEXT, style TEXT, trigger TEXT,
    said TEXT)"""


@dataclass(frozen=True)
class StoredCaption:
    """How a face's photo is to be captioned. `said` is a captioner's own text, "" where there was none."""

    source: str
    style: str
    trigger: str
    said: str


class Captions:
    """The captions of a store, by face."""

    def __init__(self, store: VaultStore):
        self._store = store
        with store.change() as db:
            db.execute(_SCHEMA)

    def all(self) -> dict[int, StoredCaption]:
        rows = self._store.ask("SELECT face, source, style, trigger, said FROM captions")
        return {face: StoredCaption(*rest) for face, *rest in rows}

    def put(self, captions: dict[int, StoredCaption]) -> None:
        """All of them or none."""
        rows = [(face, one.source, one.style, one.trigger, one.said) for face, one in captions.items()]
        with self._store.change() as db:
            db.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?)", rows)


def measured(store: VaultStore, shot: Shot, window: Window) -> Measured:
    """What is known of the part of the photo that is saved."""
    face = shot.face
    share = face_height_share(in_window(shot.face_box, window), window.wh)
    seen_others = [box for box in shot.other_boxes if _centre_inside(box, window)]
    return Measured(
        yaw_deg=face.yaw_deg,
        pitch_deg=face.pitch_deg,
        roll_deg=(face.roll_deg + face.turned_deg + 180) % 360 - 180,  # as the picture stands upright
        shot_size=next(name for name, (low, high) in SHOT_SIZES.items() if low <= share < high),
        lighting=lighting_of(store, shot, window),
        is_grey=BLACK_AND_WHITE in shot.picture.reason,
        has_others=bool(seen_others),
        expression=expression_of(store, shot),
    )


def lighting_of(store: VaultStore, shot: Shot, window: Window) -> str:
    """By the stored thumbnail, so that no photo is decoded again; a histogram hardly depends on the size."""
    jpeg = store.thumbnail_of(shot.picture.content)
    if jpeg is None:
        return pixels.NORMAL
    small = upright(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), shot.face.turned_deg)
    return pixels.lighting(pixels.histogram(pixels.grey_of(part_of_thumbnail(small, shot, window))))


def part_of_thumbnail(small: np.ndarray, shot: Shot, window: Window) -> np.ndarray:
    """The part of an upright thumbnail (H, W, 3) that the window shows, at least one pixel."""
    across, down = small.shape[1] / shot.size_wh[0], small.shape[0] / shot.size_wh[1]
    left, top, right, bottom = window.box_xyxy
    x0, y0 = min(int(left * across), small.shape[1] - 1), min(int(top * down), small.shape[0] - 1)
    return small[y0 : max(y0 + 1, round(bottom * down)), x0 : max(x0 + 1, round(right * across))]


def words_for(shot: Shot, seen: Measured, stored: StoredCaption | None) -> tuple[str | None, CaptionBy | None]:
    """The caption of a picture that is about to be saved, and who wrote it. Raises UserError for what is no text."""
    own = own_words(shot)
    if own is not None:
        return own, "person"
    if stored is None:
        return None, None
    return caption(stored.trigger, stored.style, seen, stored.said), "model" if stored.said else "measured"


def own_words(shot: Shot) -> str | None:
    """What somebody wrote in a file beside the photo, or beside another file of the same content."""
    for path in sorted(shot.picture.paths):
        found = read_caption(path)
        if found is not None and found.lines:
            return found.text.strip()
    return None


def edited_words(picture: Path) -> str | None:
    """What somebody wrote beside a saved picture."""
    try:
        found = read_caption(picture)
    except UserError:
        return None
    return found.text.strip() if found is not None and found.path == caption_of(picture) else None


def _centre_inside(box: tuple[float, float, float, float], window: Window) -> bool:
    left, top, right, bottom = window.box_xyxy
    return left <= (box[0] + box[2]) / 2 < right and top <= (box[1] + box[3]) / 2 < bottom
