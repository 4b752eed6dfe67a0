"""What a dataset lacks: its coverage against the goals of gap analysis, and warnings before hours of training."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from mirror.contracts.gaps import Distribution, Recommendation
from mirror.contracts.prepared import PreparedPicture
from mirror.dataset.gaps import FEWEST_IMAGES, GAP_TYPES, GOOD_MINIMUM, distribution, recommend, synthetic_room
from mirror.vault import sameness
from mirror.vault.crops import upright
from mirror.vault.shots import Shot
from mirror.vault.store import VaultStore
from mirror.vault.wording import told_constant_phrases
from utils.defaults import MAX_SYNTHETIC_SHARE


def coverage(pictures: list[PreparedPicture]) -> tuple[list[Distribution], list[Recommendation]]:
    """Shares of angles, shot sizes and light, and what gap_analysis.py would ask for, as photos that are missing."""
    kinds = [gap for name, gap in GAP_TYPES.items() if name in pictures[0].values]
    shares = [distribution(gap, [one.values.get(gap.name) for one in pictures]) for gap in kinds]
    wanted = recommend(shares, synthetic_room(len(pictures), 0, MAX_SYNTHETIC_SHARE), MAX_SYNTHETIC_SHARE)
    labels = {(one.type, share.target): share.label for one in shares for share in one.targets}
    return shares, [one.model_copy(update={"reason": _reason(one, labels[one.type, one.target])}) for one in wanted]


def _reason(gap: Recommendation, label: str) -> str:
    """Photos cost nothing but looking, so what the loop may generate at most says nothing here."""
    more = f"{gap.wanted} more photo{'' if gap.wanted == 1 else 's'} would do"
    return f"{label} are {gap.share_percent:.0f} % of the pictures, the goal is {gap.goal_percent:g} %; {more}"


def warnings_of(
    pictures: list[PreparedPicture], shares: list[Distribution], trigger: str, size: int, real_min: int
) -> Iterator[str]:
    """What a trainer should know of the pictures, and of the words beside them."""
    count = len(pictures)
    if count < real_min:
        yield f"Only {count} pictures: fewer than {real_min} rarely teach a face. Add photos, or generate with care."
    elif count < GOOD_MINIMUM:
        yield f"{count} pictures: {GOOD_MINIMUM} are the usual minimum, and the loop can add some."
    for share in shares:
        largest = max(share.targets, key=lambda one: one.count)
        if share.type == "shot_size" and share.measured >= FEWEST_IMAGES // 2 and largest.count >= 0.8 * share.measured:
            yield f"Unbalanced shots: {largest.count} of {share.measured} pictures are {largest.label.lower()}."
    enlarged = sum(_is_enlarged(one, size) for one in pictures)
    if enlarged:
        yield f"{enlarged} pictures have fewer pixels than {size}²: a trainer enlarges them."
    yield from told_constant_phrases([one.caption for one in pictures if one.caption], trigger)


def warnings_of_photos(store: VaultStore, shots: list[Shot], crowded: int) -> Iterator[str]:
    """What is the same throughout, and who else is to be seen; `crowded` pictures show other people."""
    for region, part in sameness.same_throughout([_regions(store, one) for one in shots]).items():
        yield f"One {region} in {part:.0%} of the pictures: the LoRA will draw it for ever. Add photos with others."
    if crowded:
        yield f"{crowded} pictures show other people too, whom a LoRA may learn: cut them away, without --no-crop."


def _regions(store: VaultStore, shot: Shot) -> dict[str, np.ndarray | None]:
    jpeg = store.thumbnail_of(shot.picture.content)
    if jpeg is None:
        return dict.fromkeys((sameness.OUTFIT, sameness.ROOM))
    small = upright(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), shot.face.turned_deg)
    across, down = small.shape[1] / shot.size_wh[0], small.shape[0] / shot.size_wh[1]
    return sameness.histograms(small, tuple(edge * (across, down)[i % 2] for i, edge in enumerate(shot.face_box)))


def _is_enlarged(one: PreparedPicture, size: int) -> bool:
    return one.size_wh[0] * one.size_wh[1] < 0.9 * size * size  # as train_lora.py counts them
