"""`beaver_session.json`: what was answered, and how far the steps came."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract


class BeaverSession(Contract):
    """Of the workflow that was begun last."""

    schema_version: Literal[1] = 1
    script: Literal["beaver.py"] = "beaver.py"
    workflow: str
    answers: dict[str, str]  # as the options of beaver.py take them
    more: dict[str, list[str]] = {}  # step -> options that the user adds
    done: dict[str, list[str]] = {}  # step -> its commands, each as it can be typed
    running: str | None = None  # the step that was begun and has not ended well
    finished: bool = False
