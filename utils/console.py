"""What users see in the terminal: talk on stderr, results on stdout, errors as one sentence, honest exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich takes longer to import than --help should take
    from rich.console import Console

EXIT_OK, EXIT_OUR_FAULT, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130


class UserError(Exception):
    """Something that the user must change. The message is complete: what, which file, what to do."""


def talk() -> Console:
    """Console for everything that is not the result. File names are never read as markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(message: str) -> None:
    """One line of talk. Needs no package, so that it can say that one is missing."""
    print(printable(message), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` without what a terminal would obey or cannot encode (escape codes and broken UTF-8 in file names)."""
    cleaned = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    return cleaned.encode("utf-8", "replace").decode("utf-8")


def print_table(title: str, columns: list[str], rows: list[list[str]], numbers: bool = True) -> None:
    """A table on stdout; with `numbers`, all columns but the first are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(printable(cell)) for cell in row])
    Console(markup=False, highlight=False, emoji=False).print(table)


def run_script(run: Callable[[], int], debug: bool, requirements: str = "requirements/analysis.txt") -> int:
    """Exit code of `run()`: errors become one sentence on stderr, a traceback only with `debug`.

    `requirements` is what installs a package that turns out to be missing.
    """
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
        if debug:
            traceback.print_exc()
        say(f"Error: {error}. Install what is missing: python -m pip install -r {requirements}")
        return EXIT_USER
    except UserError as error:
        say(f"Error: {error}")
        return EXIT_USER
    except Exception as error:
        if debug:
            traceback.print_exc()
        say(f"Error: this should not happen: {type(error).__name__}: {error}. --debug shows where.")
        return EXIT_OUR_FAULT
