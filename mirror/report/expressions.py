"""`index.html` of export_expressions.py: all pictures by expression, and two of them laid over each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.expression_export import ExpressionFolder, ExpressionPicture, ExpressionsRecord
from mirror.report.render import encoded, render, shown
from utils.images import preview

SMALL_SIDE = 400  # pixels, as previews have


def small_picture(bgra: np.ndarray) -> bytes:
    """A picture of the page from (S, S, 4) uint8: a JPEG, or a PNG where anything is transparent."""
    if (bgra[..., 3] == 255).all():
        return preview(np.ascontiguousarray(bgra[..., :3]))
    scale = min(1.0, SMALL_SIDE / bgra.shape[0])
    side = max(1, round(bgra.shape[0] * scale))
    return cv2.imencode(".png", cv2.resize(bgra, (side, side), interpolation=cv2.INTER_AREA))[1].tobytes()


def build_expressions(record: ExpressionsRecord, pictures: Mapping[str, bytes]) -> str:
    """The whole page; `pictures` are those of `small_picture` by the file's name in the export."""
    folders = [_folder(folder, pictures) for folder in record.expressions]
    cards = [card for folder in folders for card in folder["cards"]]
    other = next((i for i, card in enumerate(cards) if card["expression"] != cards[0]["expression"]), 1)
    return render(
        "expressions",
        _facts(record),
        [shown(one) for one in (*record.warnings, record.canvas_said) if one],
        folders=folders,
        cards=cards,
        above=other,
        eyes=[{"x": f"{100 * x:g}", "y": f"{100 * y:g}"} for x, y in (record.left_eye_xy, record.right_eye_xy)],
        not_used=record.not_used,
    )


def _facts(record: ExpressionsRecord) -> list[tuple[str, str]]:
    (left, height), (right, _) = record.left_eye_xy, record.right_eye_xy
    chosen = sum(len(folder.pictures) for folder in record.expressions)
    return [
        ("Dataset", shown(Path(record.dataset).name or record.dataset)),
        ("Pictures", f"{chosen:,} of {record.pictures:,}"),
        ("Size", f"{record.canvas} x {record.canvas} pixels"),
        ("Eyes at", f"{left:g} and {right:g} of the width, {height:g} of the height"),
        ("Background", shown(f"cut out by {record.matting_model}" if record.matting_model else "as it is")),
        ("Expressions by", shown(record.expression_model)),
        ("Model pack", shown(record.pack)),
    ]


def _folder(folder: ExpressionFolder, pictures: Mapping[str, bytes]) -> dict:
    asked = len(folder.pictures) + (folder.lacking or 0)
    return {
        "name": folder.expression,
        "count": f"{len(folder.pictures)} of {asked}" if folder.told else "not measured",
        "said": shown(folder.said),
        "cards": [_card(one, folder.expression, pictures[one.file]) for one in folder.pictures],
    }


def _card(one: ExpressionPicture, expression: str, data: bytes) -> dict:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    likeness = "" if one.likeness is None else f", likeness {one.likeness:.2f}"
    return {
        "file": shown(one.file),
        "name": shown(one.file.partition("/")[2]),
        "expression": expression,
        "picture": shown(one.picture),
        "synthetic": one.is_synthetic,
        "source": f"data:image/{kind};base64,{encoded(data)}",
        "score": f"{one.score:.2f}",
        "facts": f"{one.confidence:.0%} {expression}, yaw {one.yaw_deg:.0f}\N{DEGREE SIGN}, pitch {one.pitch_deg:.0f}"
        f"\N{DEGREE SIGN}, sharpness {one.sharpness:.0f}{likeness}, scale {one.scale:.2f}",
        "faults": [shown(fault) for fault in one.faults],
    }
