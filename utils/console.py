"""What users see in the terminal: talk on stderr, results on stdout, errors as one sentence, honest exit codes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import traceback
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.defaults import ANALYSIS_REQUIREMENTS

if TYPE_CHECKING:  # rich takes longer to import than --help should take
    from rich.console import Console

EXIT_OK, EXIT_OUR_FAULT, EXIT_USER, EXIT_BELOW, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

_REPLACEMENT = "\ufffd"
_JOINERS = "\u200c\u200d"  # invisible, harmless, and part of emoji and of some languages' words


class UserError(Exception):
    """Something that the user must change. The lines are complete: what, which file, what to do.

    Each line is an argument of its own: a line break inside one is part of a file's name, and is not printed as one.
    """

    def __init__(self, *lines: str):
        super().__init__("\n".join(lines))
        self.lines = lines


def talk() -> Console:
    """Console for everything that is not the result. File names are never read as markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(*lines: str) -> None:
    """Lines of talk. Needs no package, so that it can say that one is missing."""
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)


def show(*lines: str) -> None:
    """Lines of the result, on stdout."""
    for line in lines:
        print(printable(line))


def show_json(text: str) -> None:
    """JSON on stdout; what a terminal would obey inside its strings is escaped, so that it means the same."""
    print("".join(c if c == "\n" or _is_harmless(c) else _escaped(c) for c in text))


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def printable(text: str) -> str:
    """`text` as one line, without what a terminal would obey or cannot encode.

    Escape codes, line breaks, marks that turn the direction of writing, and broken UTF-8 come from names of files.
    """
    cleaned = "".join(c if _is_harmless(c) else _REPLACEMENT for c in text)
    return cleaned.encode("utf-8", "replace").decode("utf-8")


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def shell_line(command: list[str]) -> str:
    """A command as it can be typed, also where there are spaces in its paths."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def print_table(
    title: str,
    columns: list[str],
    rows: list[list[str]],
    numbers: bool = True,
    fold: tuple[str, ...] = (),
    elsewhere: str = "",
) -> None:
    """A table on stdout; with `numbers`, all columns but the first are.

    In a narrow terminal the columns in `fold` are left out, the first of them first; `elsewhere` says where they are.
    """
    from utils.tables import layout

    table, left_out, console = layout(
        title, columns, [[printable(cell) for cell in row] for row in rows], numbers, fold
    )
    console.print(table)
    if left_out:
        show(f"Left out, as the terminal is narrow: {', '.join(left_out)}. {elsewhere}".rstrip())


def run_script(run: Callable[[], int], debug: bool, requirements: str = ANALYSIS_REQUIREMENTS) -> int:
    """Exit code of `run()`: errors become one sentence on stderr, a traceback only with `debug`.

    `requirements` is what installs a package that turns out to be missing.
    """
    _own_stderr()
    for stream in (sys.stdout, sys.stderr):  # a Windows code page must not turn a file name into a crash
        stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        code = run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("Interrupted.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the result has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except ImportError as error:
        _show_traceback(debug)
        say(f"Error: {error}. Install what is missing: python -m pip install -r {requirements}")
        return EXIT_USER
    except UserError as error:
        first, *others = error.lines
        say(f"Error: {first}", *others)
        return EXIT_USER
    except Exception as error:
        _show_traceback(debug)
        say(f"Error: this should not happen: {type(error).__name__}: {error}. --debug shows where.")
        return EXIT_OUR_FAULT


def _show_traceback(debug: bool) -> None:
    if debug:
        say(*traceback.format_exc().splitlines())


def _own_stderr() -> None:
    """Give our talk a descriptor of its own: descriptor 2 is led away while libraries decode pictures
    (utils.library_output), and what other threads say meanwhile must not go with it."""
    if sys.stderr is sys.__stderr__ and sys.stderr is not None and sys.stderr.fileno() == 2:
        sys.stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
