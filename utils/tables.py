"""How a table fits into a terminal: names win over columns, and no word is broken."""

from __future__ import annotations

import os
import unicodedata

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_BORDER = 3  # cells between two columns; one more at the end
_WHOLE_NAME = 32  # cells up to which columns give way to a name; from there on its middle may be cut
_SHORTEST_NAME, _SHORTEST_TEXT = 9, 16  # cells below which a column says nothing
_TAILS = (0.5, 0.7, 0.3, 0.85, 0.15)  # shares of a cut name that its end gets, tried until all names differ


def layout(
    title: str, columns: list[str], rows: list[list[str]], numbers: bool, fold: tuple[str, ...]
) -> tuple[Table, list[str], Console]:
    """(the table, the columns that had to be left out, the console that it fits)"""
    console = Console(markup=False, highlight=False, emoji=False)
    kept, left_out = list(range(len(columns))), []
    if not console.is_terminal and "COLUMNS" not in os.environ:  # a file or a pipe is as wide as it takes
        console.width = max(console.width, _total(_natural(columns, rows, kept)), cell_len(title))
    for name in (*fold, None):
        widths = _widths(columns, rows, kept, numbers, console.width)
        if _total(widths) <= console.width or name is None:
            break
        kept.remove(columns.index(name))
        left_out.append(name)
    widths[0] = max(_SHORTEST_NAME, widths[0] - max(0, _total(widths) - console.width))
    whole = _natural(columns, rows, [0])[0]
    widths[0] = min(whole, widths[0] + max(0, console.width - _total(widths)))
    return _table(title, columns, rows, kept, widths, numbers), left_out, console


def _natural(columns: list[str], rows: list[list[str]], kept: list[int]) -> dict[int, int]:
    return {i: max(cell_len(columns[i]), *(cell_len(row[i]) for row in rows), 1) for i in kept}


def _widths(
    columns: list[str], rows: list[list[str]], kept: list[int], numbers: bool, available: int
) -> dict[int, int]:
    """Cells for each column: where there is too little room, headings wrap between words, and text does.

    Names are as long as they are, up to _WHOLE_NAME.
    """
    widths = _natural(columns, rows, kept)
    widths[0] = min(widths[0], _WHOLE_NAME)
    for i in kept[1:]:
        heading = max(map(cell_len, columns[i].split()), default=1)
        longest = max((cell_len(row[i]) for row in rows), default=1)
        least = max(heading, longest if numbers else min(longest, _SHORTEST_TEXT))
        widths[i] -= min(max(0, _total(widths) - available), widths[i] - least)
    return widths


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _BORDER * len(widths) + 1


def _table(
    title: str, columns: list[str], rows: list[list[str]], kept: list[int], widths: dict[int, int], numbers: bool
) -> Table:
    table = Table(title=title, title_justify="left")
    for i in kept:
        table.add_column(
            Text(columns[i]), justify="right" if numbers and i else "left", min_width=widths[i], max_width=widths[i]
        )
    names = _distinct([row[0] for row in rows], widths[kept[0]])
    for name, row in zip(names, rows, strict=True):
        cells = [name if i == 0 else " ".join(cut(word, widths[i]) for word in row[i].split(" ")) for i in kept]
        table.add_row(*map(Text, cells))
    return table


def _distinct(names: list[str], width: int) -> list[str]:
    """`names` cut to `width` cells, so that two that differ still do."""
    for share in _TAILS:
        cuts = [cut(name, width, share) for name in names]
        if len(set(cuts)) == len(set(names)):
            return cuts
    numbers = {name: str(i) for i, name in enumerate(dict.fromkeys(names), 1)}
    return [cut(name, width - len(numbers[name]) - 1) + f"~{numbers[name]}" for name in names]


def cut(text: str, width: int, tail_share: float = 0.5) -> str:
    """`text` in at most `width` cells; what is too long loses its middle. Emoji and accents stay whole."""
    if cell_len(text) <= width:
        return text
    clusters, room = _clusters(text), max(0, width - 1)
    tail_room = round(room * tail_share)
    head = _as_many(clusters, room - tail_room)
    tail = _as_many(clusters[::-1], tail_room)[::-1]
    return "".join([*head, ELLIPSIS, *tail])


def _as_many(clusters: list[str], room: int) -> list[str]:
    taken: list[str] = []
    for cluster in clusters:
        if cell_len("".join([*taken, cluster])) > room:
            break
        taken.append(cluster)
    return taken


def _clusters(text: str) -> list[str]:
    """Characters with the accents, variation selectors, skin tones and joined emoji that belong to them."""
    clusters: list[str] = []
    for character in text:
        joins = unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf") or "\U0001f3fb" <= character <= "\U0001f3ff"
        if clusters and (joins or clusters[-1].endswith("\u200d")):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters
