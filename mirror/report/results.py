"""The result files of one run of mirror_metrics.py: all of them, or none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from mirror.contracts.contract import write_contract
from mirror.contracts.summary import RESULT_FILES, Summary
from mirror.faces.table import to_csv
from mirror.report.copycat import build_copycat
from mirror.report.dashboard import build_dashboard
from mirror.report.files import PageFiles
from utils.console import UserError
from utils.files import reason_of, write_text_atomic


def write_results(
    output: Path,
    table: pd.DataFrame,
    files: PageFiles,
    face_map: np.ndarray | None,
    map_note: str,
    summary: Summary,
) -> None:
    """Write pages, table and summary into `output`; `summary.results` then names them. Raises UserError."""
    with _reserved(output, summary.created) as stamp:
        summary.results = {kind: name.format(stamp) for kind, name in RESULT_FILES.items()}
        paths = {kind: output / name for kind, name in summary.results.items()}
        started = time.monotonic()
        texts = {
            "dashboard": build_dashboard(table, summary, face_map, map_note, files),
            "copycat": build_copycat(table, summary, files.large(), files.links),
            "data": "\ufeff" + to_csv(table),  # the mark by which Excel knows UTF-8
        }
        summary.seconds["pages"] = round(time.monotonic() - started, 3)
        try:
            for kind, text in texts.items():
                write_text_atomic(paths[kind], text)
            write_contract(paths["summary"], summary)
        except BaseException as error:  # results come together or not at all, also when Ctrl-C comes between
            for path in paths.values():
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise UserError(f"Results cannot be written to {output}: {reason_of(error)}.") from error
            raise


@contextmanager
def _reserved(folder: Path, created: str) -> Iterator[str]:
    """A time stamp for file names that no other run takes, also not one that started in the same second."""
    second = created.replace("-", "").replace(":", "").replace("T", "_")
    for number in count(1):
        stamp = second if number == 1 else f"{second}_{number}"
        claim = folder / f".{stamp}.claim"
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            if not any((folder / name.format(stamp)).exists() for name in RESULT_FILES.values()):
                yield stamp
                return
        finally:
            claim.unlink(missing_ok=True)
