"""Goals of a user's own, from a JSON file, in the place of those of mirror/dataset/gaps.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mirror.contracts.gaps import documented, documented_type
from mirror.dataset.gaps import GapType, check_goals
from utils.console import UserError


def load_goals(path: Path, types: Mapping[str, GapType]) -> dict[str, GapType]:
    """`types` with the goals of a JSON file: {"face_angle": {"profile": 25, "front": null}}, in percent.

    A number is a goal with its trigger at half; {"goal": 25, "trigger": 20} gives both; null or 0 takes the goal away.
    What the file does not name stays. Raises UserError naming file and field.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"The goals {path} cannot be read: {error}.") from error
    changed = dict(types)
    for name, goals in _known(_respelled(given, path), types, f"{path}", "gap type").items():
        names = {target.name: target for target in types[name].targets}
        for target_name, goal in _known(goals, names, f"{path}: {name}", "target").items():
            field = f"{path}: {name}.{target_name}"
            names[target_name] = replace(names[target_name], **_goal(goal, field))
        changed[name] = replace(types[name], targets=tuple(names.values()))
        try:
            check_goals(changed[name])
        except ValueError as error:
            raise UserError(f"{path}: {error}.") from error
    return changed


def _respelled(given: object, path: Path) -> object:
    """Goals with the documented names of types and targets. Raises UserError where one has two spellings."""
    if not isinstance(given, dict):
        return given
    found: dict[str, object] = {}
    for name, goals in given.items():
        if isinstance(goals, dict):
            names = {target: documented(name, target).target for target in goals}
            _demand_one_spelling(list(names.values()), f"{path}: {name}")
            goals = {names[target]: goal for target, goal in goals.items()}
        found[name] = goals
    _demand_one_spelling([documented_type(name) for name in found], f"{path}")
    return {documented_type(name): goals for name, goals in found.items()}


def _demand_one_spelling(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: {name} stands there in two spellings; leave one of them out.")


def _known(given: object, known: Mapping[str, object], where: str, what: str) -> dict:
    if not isinstance(given, dict):
        raise UserError(f"{where}: a table of goals is expected here, not {json.dumps(given)[:60]}.")
    for name in given:
        if name not in known:
            raise UserError(f"{where}: {name!r} is no {what}; known: {', '.join(known)}.")
    return given


def _goal(given: object, field: str) -> dict[str, float | None]:
    """Goal and trigger of one entry of a goals file. Raises UserError."""
    if given is None or given == 0:
        return {"goal_percent": None, "trigger_percent": None}
    if not isinstance(given, dict):
        given = {"goal": given}
    _known(given, {"goal": 0, "trigger": 0}, field, "field of a goal")
    goal = given.get("goal")
    trigger = given.get("trigger", goal / 2 if _is_percentage(goal) else None)
    for name, value in (("goal", goal), ("trigger", trigger)):
        if not _is_percentage(value):
            hint = " Goals are percentages: 20 is a fifth." if isinstance(value, float) and 0 < value < 1 else ""
            raise UserError(f"{field}: {name} {json.dumps(value)} is no percentage from 1 to 100.{hint}")
    return {"goal_percent": float(goal), "trigger_percent": float(trigger)}


def _is_percentage(value: object) -> bool:
    # below 1 it is most likely a share by mistake; half of the smallest goal may still be a trigger
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.5 <= value <= 100
