"""One colour and one marker for every group, the same in all panels and on both pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import HELD_OUT, REFERENCE, Summary, group_label
from mirror.report.render import shortened, shown

PANEL = "#1a1d27"  # behind the charts

# Purple for references (as documented) and ten candidates. Found by a random search with local ascent that maximises
# the smallest CIE Lab distance (CIE76) between any two colours, over normal vision and the protan, deutan and tritan
# simulations of Machado, Oliveira & Fernandes 2009 at severity 1.0: 26.6 (normal alone 28.1), with a contrast of at
# least 3.5:1 to PANEL. Ordered so that the first few, the common case, are furthest apart. Measured in the tests.
REFERENCE_COLOUR = "#a855f7"
CANDIDATE_COLOURS = (
    "#6fffeb",  # aqua
    "#ff9b00",  # orange
    "#5a72a6",  # slate
    "#9a6658",  # brown
    "#bbfeb8",  # mint
    "#f4f27e",  # yellow
    "#e80c11",  # red
    "#eca3ff",  # pink
    "#9cb261",  # olive
    "#0eb0a9",  # teal
)

# Second cue: the marker. When colours repeat (more than ten groups) the next round of groups starts one marker
# further: colour and marker together are unique for 90 groups. Names are Plotly's; the paths draw them in 16 x 16.
REFERENCE_SYMBOL, HELD_OUT_SYMBOL = "circle", "hexagon"
SYMBOL_PATHS = {
    "circle": "M8 2a6 6 0 1 1 0 12a6 6 0 1 1 0-12z",
    "square": "M2.8 2.8h10.4v10.4H2.8z",
    "diamond": "M8 1l7 7-7 7-7-7z",
    "triangle-up": "M8 2l6.6 11.5H1.4z",
    "cross": "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z",
    "triangle-down": "M8 14L1.4 2.5h13.2z",
    "x": "M8 5.2l3-3L13.8 5l-3 3 3 3L11 13.8l-3-3-3 3L2.2 11l3-3-3-3L5 2.2z",
    "pentagon": "M8 1.6l6.5 4.8-2.5 7.5H4L1.5 6.4z",
    "star": "M8 .8l1.9 5h5.3l-4.2 3.3 1.5 5.3L8 11.3l-4.5 3.1L5 9.1.8 5.8h5.3z",
    "hexagon": "M8 1.4l5.8 3.3v6.6L8 14.6l-5.8-3.3V4.7z",
}
CANDIDATE_SYMBOLS = tuple(name for name in SYMBOL_PATHS if name != REFERENCE_SYMBOL)

# Plotly's three-dimensional scatter knows these markers only.
SYMBOLS_3D = {
    "circle": "circle",
    "square": "square",
    "diamond": "diamond",
    "cross": "cross",
    "x": "x",
    "triangle-up": "square-open",
    "triangle-down": "diamond-open",
    "pentagon": "circle-open",
    "star": "cross",
    "hexagon": "x",
}


@dataclass(frozen=True)
class Group:
    """One group as the pages show it. `index` is its place in every list of groups on the page."""

    index: int
    type: str
    name: str
    colour: str
    symbol: str

    @property
    def is_reference(self) -> bool:
        return self.type == REFERENCE

    @property
    def label(self) -> str:
        """The name, told apart from the references where a LoRA folder is itself called like them."""
        return group_label(self.type, shown(self.name))

    @property
    def key(self) -> str:
        """Its row on a category axis. Not a bare number: Plotly takes "0" for the first category that is shown."""
        return f"g{self.index}"

    @property
    def short(self) -> str:
        return shortened(self.label)

    @property
    def path(self) -> str:
        return SYMBOL_PATHS[self.symbol]


def page_groups(table: pd.DataFrame, summary: Summary) -> list[Group]:
    """All groups of the run: references first, then candidates in the order of the summary, empty ones included."""
    keys = dict.fromkeys((group.type, group.name) for group in summary.groups)
    keys |= dict.fromkeys(zip(table[columns.TYPE], table[columns.GROUP], strict=True))
    ordered = [key for key in keys if key[0] == REFERENCE] + [key for key in keys if key[0] != REFERENCE]
    return assign(ordered)


def assign(keys: Iterable[tuple[str, str]]) -> list[Group]:
    """Colours and markers for (Type, Group) keys, by their order alone."""
    groups, candidates = [], 0
    for index, (kind, name) in enumerate(keys):
        if kind == REFERENCE:
            symbol = HELD_OUT_SYMBOL if name == HELD_OUT else REFERENCE_SYMBOL
            groups.append(Group(index, kind, name, REFERENCE_COLOUR, symbol))
            continue
        turn, index_of_colour = divmod(candidates, len(CANDIDATE_COLOURS))
        symbol = CANDIDATE_SYMBOLS[(index_of_colour + turn) % len(CANDIDATE_SYMBOLS)]
        groups.append(Group(index, kind, name, CANDIDATE_COLOURS[index_of_colour], symbol))
        candidates += 1
    return groups


def group_index(table: pd.DataFrame, groups: list[Group]) -> list[int]:
    """For every row of the table the index of its group."""
    indexes = {(group.type, group.name): group.index for group in groups}
    return [indexes[key] for key in zip(table[columns.TYPE], table[columns.GROUP], strict=True)]
