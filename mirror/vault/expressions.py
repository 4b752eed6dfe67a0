"""What the faces of a photo library show: read from the photos once for a model, and kept in the store."""

from __future__ import annotations

from mirror.faces.expressions import EXPRESSION_VERSION, ExpressionSensor
from mirror.vault.shots import Shot, read_photo
from mirror.vault.store import VaultStore
from utils.console import say
from utils.decoding import ImageError, decode
from utils.progress import GroupProgress


def read_expressions(store: VaultStore, shots: list[Shot], sensor: ExpressionSensor | None) -> None:
    """Bring what is kept of these faces to what `sensor` says; what another model said is forgotten."""
    model = f"{sensor.identity} {EXPRESSION_VERSION}" if sensor else ""
    with store.change() as db:
        db.executemany(
            "DELETE FROM expressions WHERE face = ? AND model != ?", [(shot.face.id, model) for shot in shots]
        )
    known = {face for (face,) in store.ask("SELECT face FROM expressions")}
    todo = [shot for shot in shots if shot.face.id not in known] if sensor else []
    if not todo:
        return
    with GroupProgress() as progress:
        task = progress.add("Expressions", len(todo))
        for shot in todo:
            _read(store, shot, sensor, model)
            progress.step(task)


def _read(store: VaultStore, shot: Shot, sensor: ExpressionSensor, model: str) -> None:
    try:
        image = decode(read_photo(shot)[1])
    except ImageError as problem:
        say(f"Note: the expression in {shot.source} is not measured: it {problem.reason}.")
        return
    reading = sensor.read(shot.picture.content, image, shot.face)
    row = (shot.face.id, model, None if reading is None else reading.expression)
    with store.change() as db:
        db.execute("INSERT OR REPLACE INTO expressions VALUES (?, ?, ?)", row)


def expression_of(store: VaultStore, shot: Shot) -> str | None:
    """What the person's face in a photo shows; None where it was not measured, or the model is not sure."""
    rows = store.ask("SELECT expression FROM expressions WHERE face = ?", shot.face.id)
    return rows[0][0] if rows else None
