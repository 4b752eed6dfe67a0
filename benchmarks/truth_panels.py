"""What each planted set should show, and in which panel of the report: one number each, from the rows of Data_*.csv."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mirror.faces.metrics import BANDS, copy_band

Measure = Callable[[pd.DataFrame, pd.DataFrame], float]  # rows of the set, rows of the references


@dataclass(frozen=True)
class Panel:
    """One number that a panel shows of a set; `direction` is +1 where the plant should raise it, -1 where lower it."""

    kind: str  # of demo.sets.KINDS
    label: str
    direction: int
    measure: Measure

    @property
    def key(self) -> str:
        return f"{self.kind} | {self.label}"

    def value(self, rows: pd.DataFrame, references: pd.DataFrame) -> float | None:
        """None where it cannot be measured: too few faces, or a quantity that the pack does not give."""
        of_faces = self.measure not in (rescued_share, failed_share)
        if of_faces and rows["Similarity"].notna().sum() < 2:
            return None
        value = self.measure(rows, references)
        return None if pd.isna(value) else float(value)


def nearest_median(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return rows["NearestSimilarity"].median()


def danger_share(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return float(np.mean([copy_band(value) == list(BANDS)[-1] for value in rows["NearestSimilarity"].dropna()]))


def top_hits_share(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    """Share of the faces that the most frequent nearest reference swallows."""
    hits = rows["NearestReference"].dropna().value_counts()
    return hits.iloc[0] / hits.sum()


def yaw_spread(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return rows["Yaw"].std()


def slope_over_yaw(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    """Similarity per 10 degrees of |yaw|, least squares."""
    found = rows.dropna(subset=["Similarity", "Yaw"])
    return float(np.polyfit(found["Yaw"].abs() / 10, found["Similarity"], 1)[0])


def similarity_gap(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    """How far the box lies above the references' own."""
    return rows["Similarity"].median() - references["Similarity"].median()


def similarity_spread(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return rows["Similarity"].std()


def rescued_share(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return (rows["Status"] == "rescued").mean()


def failed_share(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return rows["Similarity"].isna().mean()


def ratio_median(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return rows["AspectRatio"].median()


def confidence_median(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    return rows["DetScore"].median()


def age_gap(rows: pd.DataFrame, references: pd.DataFrame) -> float:
    """Years above the references; NaN for packs without an age model."""
    return rows["Age"].median() - references["Age"].median()


PANELS = (
    Panel("overtrained", "Copycat: median NearestSimilarity", 1, nearest_median),
    Panel("overtrained", "Copycat: share in the Danger Zone", 1, danger_share),
    Panel("overtrained", "Black Hole Ranking: share of the top reference", 1, top_hits_share),
    Panel("rigid", "Pose Variety: standard deviation of yaw, degrees", -1, yaw_spread),
    Panel("drifting", "Profile Stability: similarity per 10 degrees of yaw", -1, slope_over_yaw),
    Panel("undertrained", "Face Similarity: median above the references'", -1, similarity_gap),
    Panel("wrong_person", "Face Similarity: median above the references'", -1, similarity_gap),
    Panel("two_persons", "Face Similarity: standard deviation", 1, similarity_spread),
    Panel("close_ups", "Status: share rescued", 1, rescued_share),
    Panel("close_ups", "Detection Confidence: median", -1, confidence_median),
    Panel("close_ups", "Face Ratio: median", 1, ratio_median),
    Panel("failures", "Status: share without a face", 1, failed_share),
    Panel("aged", "Age: median above the references', years", 1, age_gap),
)
