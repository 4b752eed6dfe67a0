"""Synthetic runs for the page tests: tables, summaries and thumbnails with a known truth and hostile names."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pandas as pd

from mirror.contracts.contract import Spread
from mirror.contracts.summary import GroupSummary, PackInfo, Summary
from mirror.faces.metrics import copy_band
from mirror.faces.pose import angle_bin
from mirror.faces.table import CANDIDATE, REFERENCE, make_table
from utils.files import Status

# Folder names that must stay text. The last byte of the surrogate is no UTF-8: Linux allows it in a file name.
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"</script><script>alert(2)</script>',
    "=cmd()",
    "Reference",
    "alpha",
    "Alpha",
    "10",
    "\N{FIRE} grün <b>&amp;</b>",
    "undecodable \udcff",
    "a_very_long_training_run_name_with_many_settings_lr1e-4_rank64_epoch_000010",
]


def row(kind: str, group: str, file: str, rng: np.random.Generator, **cells: object) -> dict:
    """A measured row with plausible random numbers; `cells` replace them."""
    yaw = float(rng.normal(0, 28))
    values = {
        "Type": kind,
        "Group": group,
        "Filename": file,
        "Status": Status.OK,
        "Similarity": float(np.clip(rng.normal(0.7 if kind == REFERENCE else 0.6, 0.09), -1, 1)),
        "Age": float(rng.normal(31, 4)),
        "Yaw": yaw,
        "Pitch": float(rng.normal(0, 12)),
        "Roll": float(rng.normal(0, 6)),
        "AngleBin": angle_bin(yaw),
        "DetScore": float(rng.uniform(0.6, 0.92)),
        "AspectRatio": float(rng.normal(0.76, 0.05)),
        "Faces": 1,
        "Pack": "synthetic@0000",
        "Provider": "CPUExecutionProvider",
        "PackLicence": "none: synthetic numbers",
    }
    return values | cells


def failed_row(kind: str, group: str, file: str, status: Status, reason: str) -> dict:
    """A row without measurements."""
    return {"Type": kind, "Group": group, "Filename": file, "Status": status, "Reason": reason}


def make_run(groups: list[str], each: int, references: int, seed: int = 0) -> pd.DataFrame:
    """`references` references and `each` images for every group; nearest references are drawn with a favourite."""
    rng = np.random.default_rng(seed)
    files = [f"ref {i:03d}.jpg" for i in range(references)]
    rows = []
    for i, file in enumerate(files):
        near = {"NearestReference": files[i - 1], "NearestSimilarity": float(rng.uniform(0.5, 0.99))}
        rows.append(row(REFERENCE, REFERENCE, file, rng, **(near if references > 1 else {"Similarity": np.nan})))
    for group in groups:
        shift = float(rng.normal(0, 0.06))
        for i in range(each):
            nearest = files[min(int(rng.exponential(references / 5)), references - 1)]
            cells = {"NearestReference": nearest, "NearestSimilarity": float(np.clip(rng.normal(0.68, 0.13), -1, 1))}
            rows.append(row(CANDIDATE, group, f"img_{i:04d}.png", rng, **cells))
            rows[-1]["Similarity"] += shift
    return make_table(rows)


def hostile_run(each: int = 8, references: int = 12) -> pd.DataFrame:
    """Ten candidate groups of HOSTILE names, hostile file names, every failure, one rescued face."""
    table = make_run(HOSTILE, each, references)
    first = int(np.flatnonzero(table["Group"] == HOSTILE[0])[0])
    rng = np.random.default_rng(9)
    table.loc[first, "Filename"] = "<img src=x onerror=alert(3)>.png"
    table.loc[first + 1, ["Filename", "Status"]] = ["\N{GRINNING FACE} Übergröße %{x} $a$ .png", Status.RESCUED]
    table.loc[first + 2, "Filename"] = "bytes \udc80\udcfe.png"
    extra = [
        failed_row(REFERENCE, REFERENCE, "</script><b>view</b>.jpg", Status.NO_FACE, "no face found"),
        failed_row(CANDIDATE, HOSTILE[0], "no face.png", Status.NO_FACE, "no face found"),
        failed_row(CANDIDATE, HOSTILE[1], "broken.png", Status.UNREADABLE, "zero bytes <b>"),
        failed_row(CANDIDATE, HOSTILE[1], "huge.png", Status.TOO_LARGE, "900 megapixels, limit 200"),
        row(CANDIDATE, HOSTILE[2], "no angle.png", rng, Yaw=np.nan, Pitch=np.nan, Age=np.nan, Status=Status.RESCUED),
    ]
    table = pd.concat([table, make_table(extra)], ignore_index=True)
    # Values on a limit and beyond, to see which band they fall in.
    rows = np.flatnonzero(table["Group"] == "10")[:5]
    table.loc[rows, "NearestSimilarity"] = [0.85, 0.8500001, 0.70, 0.50, 0.4999999]
    return table


def spread(values: pd.Series) -> Spread:
    values = values.dropna()
    if values.empty:
        return Spread(count=0)
    low, q1, median, q3, high = (float(value) for value in np.percentile(values, [0, 25, 50, 75, 100]))
    return Spread(count=len(values), median=median, q1=q1, q3=q3, minimum=low, maximum=high)


def summary_of(table: pd.DataFrame, has_age: bool = True, warnings: tuple[str, ...] = ()) -> Summary:
    """The contract that mirror_metrics.py would write for `table`."""
    groups = []
    for (kind, name), part in table.groupby(["Type", "Group"], sort=False):
        measured = part[part["Status"].isin([Status.OK, Status.RESCUED])]
        groups.append(
            GroupSummary(
                type=kind,
                name=name,
                images=len(part),
                faces=len(measured),
                rescued=int((part["Status"] == Status.RESCUED).sum()),
                failed=len(part) - len(measured),
                statuses={Status(key): count for key, count in Counter(part["Status"]).items()},
                similarity=spread(part["Similarity"]),
                nearest_similarity=spread(part["NearestSimilarity"]),
                age=spread(part["Age"]),
                yaw_abs_deg=spread(part["Yaw"].abs()),
                det_score=spread(part["DetScore"]),
                aspect_ratio=spread(part["AspectRatio"]),
                angle_bins=dict(Counter(part["AngleBin"].dropna())),
                copy_bands=dict(Counter(part["NearestSimilarity"].dropna().map(copy_band))),
            )
        )
    return Summary(
        created="2026-01-02T03:04:05+00:00",
        pack=PackInfo(
            name="synthetic",
            identity="synthetic@0000",
            tasks=["detection", "recognition"],
            licence="none: synthetic numbers",
            pose_source="landmark_3d_68",
            has_age=has_age,
        ),
        providers={"CPUExecutionProvider": int(sum(group.faces for group in groups))},
        versions={"numpy": np.__version__},
        settings={"det_size": 640},
        reference_folder="Reference_Images",
        candidates_folder="Lora_Candidates",
        groups=groups,
        ignored_files={},
        warnings=list(warnings),
        seconds={},
        results={"dashboard": "Dashboard_2026.html", "copycat": "CopycatReport_2026.html"},
    )


def face_map_of(table: pd.DataFrame, dimensions: int = 2) -> np.ndarray:
    """Made-up coordinates: NaN where nothing was measured."""
    rng = np.random.default_rng(3)
    centres = {group: rng.normal(0, 20, dimensions) for group in dict.fromkeys(table["Group"])}
    points = np.array([centres[group] for group in table["Group"]]) + rng.normal(0, 4, (len(table), dimensions))
    points[table["DetScore"].isna().to_numpy()] = np.nan
    return points


def thumbnails_of(table: pd.DataFrame) -> list[bytes | None]:
    """A small JPEG of its own for every row; None for unreadable files."""
    return [None if status == Status.UNREADABLE else _jpeg(i) for i, status in enumerate(table["Status"])]


def _jpeg(seed: int) -> bytes:
    colour = np.random.default_rng(seed).integers(0, 255, 3)
    picture = np.full((48, 36, 3), colour, np.uint8)
    done, data = cv2.imencode(".jpg", picture)
    assert done
    return data.tobytes()
