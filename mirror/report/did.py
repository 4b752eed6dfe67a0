"""`preview.html` of export_for_did.py: the chosen pictures with their figures, and why the others were left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mirror.contracts.did import DidFigure, DidRecord, DidSource
from mirror.report.render import encoded, render, shown


def build_did(record: DidRecord, pictures: Mapping[str, bytes]) -> str:
    """The whole page; `pictures` are small JPEGs by the file's name in the package."""
    return render(
        "did",
        _facts(record),
        record.warnings,
        cards=[_card(source, pictures) for source in record.sources],
        service=record.service_limits,
        sensors=record.sensors,
        not_used=record.not_used,
    )


def _facts(record: DidRecord) -> list[tuple[str, str]]:
    return [
        ("Dataset", shown(Path(record.dataset).name or record.dataset)),
        ("Pictures", f"{record.pictures:,}, of them {record.good:,} good enough"),
        ("Model pack", shown(record.pack)),
        ("Expressions by", shown(record.expression_model or "no model: not measured")),
    ]


def _card(source: DidSource, pictures: Mapping[str, bytes]) -> dict:
    wide, high = source.size_wh
    return {
        "file": source.file,
        "picture": shown(source.picture),
        "synthetic": source.is_synthetic,
        "score": f"{source.score:.2f}",
        "source": encoded(pictures[source.file]),
        "size_wh": source.size_wh,
        "facts": f"{wide} x {high} pixels, face {source.face_pixels:.0f} pixels, {source.bytes / 1000:,.0f} kB",
        "why": shown(source.why),
        "differs": shown(source.differs),
        "limited_by": [shown(one) for one in source.limited_by],
        "figures": [_row(figure) for figure in source.figures],
    }


def _row(figure: DidFigure) -> dict:
    state = {True: "passed", False: "failed", None: "unknown"}[figure.passed]
    words = {"passed": "holds", "failed": "ignored", "unknown": "not measured"}
    return {
        "name": figure.rule,
        "value": "\N{EN DASH}" if figure.passed is None else figure.shown,
        "limit": figure.shown_limit,
        "state": state,
        "word": words[state],
        "how": figure.measured_by,
        "good": 0 if figure.goodness is None else round(100 * max(0.0, figure.goodness)),
    }
