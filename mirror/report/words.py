"""What a run of mirror_metrics.py says in the terminal: numbers and verdicts of each group, the four answers."""

from __future__ import annotations

from mirror.contracts.summary import CANDIDATE, GroupSummary, Summary, group_label
from utils.console import print_table, show


def tell_groups(summary: Summary, compared_with: str) -> None:
    """The similarity of each group to `compared_with`, a plural."""
    rows = [
        [
            group_label(group.type, group.name),
            *map(str, (group.images, group.faces, group.failed)),
            *_similarity_of(group),
        ]
        for group in summary.groups
    ]
    columns = ["Group", "Images", "Faces", "Failed", "Median similarity", "95 % interval", "Q1", "Q3"]
    print_table(
        f"Similarity to the {compared_with} (each of these against the others)",
        columns,
        rows,
        fold=("Q3", "Q1", "Images", "95 % interval"),
        elsewhere="The summary has them.",
    )


def tell_verdicts(summary: Summary) -> None:
    """Rank and verdicts of each group, and one sentence for each question."""
    verdicts = {group.name: group.verdicts for group in summary.groups if group.type == CANDIDATE}
    rows = [
        [
            group_label(CANDIDATE, one.name),
            "-" if one.rank is None else str(one.rank),
            ", ".join(verdict.name for verdict in verdicts[one.name]),
        ]
        for one in summary.ranking
    ]
    if rows:
        title = "Groups of one rank cannot be told apart" if len(rows) > 1 else "Verdict"
        print_table(title, ["Group", "Rank", "Verdict"], rows, numbers=False)
    for answer in summary.answers:
        show(f"{answer.question.capitalize()}? {answer.text}")


def _similarity_of(group: GroupSummary) -> list[str]:
    """Median, its interval, first and third quartile."""
    spread, interval = group.similarity, group.similarity_interval
    numbers = ["-" if value is None else f"{value:.3f}" for value in (spread.median, spread.q1, spread.q3)]
    return [numbers[0], "-" if interval is None else f"{interval[0]:.3f} - {interval[1]:.3f}", *numbers[1:]]
