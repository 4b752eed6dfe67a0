"""One script by itself: its options are asked with their defaults, as the script's own parser describes them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

from mirror.guide.asking import agrees, ask
from mirror.guide.running import as_typed, run_command
from utils.console import UserError, print_table, say
from utils.defaults import PROJECT

TOOLS = (
    "facevault.py",
    "mirror_metrics.py",
    "gap_analysis.py",
    "generate_synthetic.py",
    "validate_synthetic.py",
    "train_lora.py",
    "bootstrap_loop.py",
    "inspect_pkl.py",
    "export_for_did.py",
    "export_facesheet.py",
    "export_expressions.py",
)


def describe(script: str) -> dict[str, Any]:
    """What a script takes, by its own parser. Raises UserError."""
    done = subprocess.run(
        [sys.executable, str(PROJECT / script), "--describe"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONUTF8": "1", **os.environ},
    )
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        words = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"{script} does not say its options: {words}") from error


def use_a_tool() -> int | None:
    """Choose a script, answer its options, run it; its exit code, or None where nothing was run."""
    there = [name for name in TOOLS if (PROJECT / name).is_file()]
    say("", *(f"  {number}: {name}" for number, name in enumerate(there, 1)))
    numbers = {str(number): name for number, name in enumerate(there, 1)}
    chosen = ask("Which script", choices=[*numbers, *there], lists=False)
    script = numbers.get(chosen, chosen)
    described, command = describe(script), [script]
    if described["commands"]:
        say(*(f"  {name}: {one['text']}" for name, one in described["commands"].items()))
        chosen = ask("Which command", choices=list(described["commands"]), lists=False)
        described = described["commands"][chosen]
        command.append(chosen)
    say("", described["text"] or "")
    command += ask_options(described)
    say("", f"$ {as_typed(command)}")
    return run_command(command) if agrees("Run it?") else None


def ask_options(described: dict[str, Any]) -> list[str]:
    """The arguments of a command: what is needed first, then whatever the user wants to change."""
    options = described["options"]
    needed = [one for one in options if one["is_required"]]
    values = {_key(one): _needed_value(one) for one in needed}
    for group in described["one_of"]:
        flag = ask("One of these", choices=group)
        chosen = next(one for one in options if one["flag"] == flag)
        values[flag] = [] if chosen["takes"] == "nothing" else _needed_value(chosen)
    alternatives = {flag for group in described["one_of"] for flag in group}
    others = [one for one in options if not one["is_required"] and _key(one) not in alternatives]
    if others and agrees("Change other options?", default=False):
        _change(others, values)
    positional = [value for one in options if one["flag"] is None for value in values.get(_key(one), [])]
    flagged = [[one["flag"], *values[one["flag"]]] for one in options if one["flag"] in values]
    return positional + [part for one in flagged for part in one]


def _key(option: dict[str, Any]) -> str:
    return option["flag"] or option["name"]


def _needed_value(option: dict[str, Any]) -> list[str]:
    while True:
        value = _value(option)
        if value:
            return value


def _value(option: dict[str, Any]) -> list[str]:
    """Asked; several values as on a command line. Empty: left as it is."""
    text = ask(f"{_key(option)}: {option['help']}", choices=option["choices"] or ())
    several = option["takes"] == "many" or option["count"] > 1
    if not several:
        return [text] if text else []
    try:
        return shlex.split(text, posix=os.name != "nt")
    except ValueError:
        say("A quotation mark is missing.")
        return []


def _change(options: list[dict[str, Any]], values: dict[str, list[str]]) -> None:
    """Options by number, until Enter."""
    while True:
        rows = [
            [
                str(number),
                _key(one),
                " ".join(values[_key(one)]) or "yes" if _key(one) in values else one["default"] or "-",
            ]
            for number, one in enumerate(options, 1)
        ]
        print_table("Options", ["", "Option", "Value"], rows, numbers=False)
        number = ask(
            "Number of an option to change, or Enter to go on", choices=["", *(row[0] for row in rows)], lists=False
        )
        if not number:
            return
        one = options[int(number) - 1]
        if one["takes"] == "nothing":
            say(one["help"])
            if values.pop(_key(one), None) is None:
                values[_key(one)] = []
            continue
        value = _value(one)
        if value:
            values[_key(one)] = value
        else:
            values.pop(_key(one), None)
