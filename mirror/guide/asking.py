"""Questions on a terminal by rich, line by line, so that they work in cmd.exe and over ssh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mirror.guide.parts import PRESETS, Answers, Question
from utils.console import UserError, printable, say, talk
from utils.files import folder_of


def ask(words: str, default: str = "", choices: Sequence[str] = (), lists: bool = True) -> str:
    """A line of text; Enter takes the default. Ctrl-D ends beaver.py as Ctrl-C does. `lists`: the choices are shown."""
    from rich.prompt import Prompt

    if choices and lists:
        words = f"{words} ({', '.join(choices)})"
    while True:
        shown = f"{words} [{printable(default)}]" if default else words
        try:
            answer = Prompt.ask(_plain(shown), console=talk(), default=default, show_default=False).strip()
        except EOFError as error:
            raise KeyboardInterrupt from error
        if not choices or answer in choices:
            return answer
        say(f"{answer!r} is none of {', '.join(filter(None, choices))}.")


def agrees(words: str, default: bool = True) -> bool:
    """Yes or no; Enter is the default."""
    said = ask(f"{words} {'[Y/n]' if default else '[y/N]'}").casefold()
    return said in ("y", "yes") or (default and not said)


def _plain(words: str):
    from rich.text import Text

    return Text(words)


def answer(question: Question, answers: Answers, asks: bool) -> str:
    """What is known, or else the default, or else what is asked. Raises UserError where nobody can be asked."""
    given = answers.get(question.name, "") or question.default(answers)
    if not asks:
        return checked(question, given)
    if question.name == "preset":
        say(*(f"  {name}: {PRESETS[name].title}" for name in question.choices))
    while True:
        try:
            said = ask(question.words, given, question.choices, lists=question.name != "preset")
            return checked(question, _without_quotes(said) if question.is_folder else said, was_asked=True)
        except UserError as problem:
            say(*problem.lines)


def _without_quotes(path: str) -> str:
    """A path that was dragged into a terminal, or copied by Windows' "Copy as path"."""
    return path[1:-1] if len(path) > 2 and path[0] == path[-1] and path[0] in "'\"" else path


def checked(question: Question, given: str, was_asked: bool = False) -> str:
    """The answer, if it is one. Raises UserError, which speaks of the option unless the user `was_asked`."""
    flag = f"--{question.name.replace('_', '-')}"
    if not given:
        if question.is_needed:
            raise UserError("An answer is needed." if was_asked else f"{question.words}: no answer; give {flag}.")
        return ""
    said = given if was_asked else f"{flag} {given}"
    if question.choices and given not in question.choices:
        raise UserError(f"{said} is none of {', '.join(question.choices)}.")
    if question.is_name and (folder_of(given) != given or given.isdecimal()):
        raise UserError(f"{said}: that is no name of a folder; letters, spaces, - and _ are.")
    if question.name == "trigger" and "," in given:
        raise UserError(f"{said}: a comma ends trigger words; leave it out.")
    if question.is_folder:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise UserError(f"{said} is no folder that is there.")
        return str(folder)
    return given
