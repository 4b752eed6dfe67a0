"""The table of one run: one row for every input file, as in `Data_<timestamp>.csv`."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.contract import Spread
from mirror.contracts.summary import CANDIDATE, HELD_OUT, REFERENCE, GroupSummary, PackInfo
from mirror.faces import metrics
from mirror.faces.choosing import ANOTHER_IS_NEARER, LARGEST, choose_faces
from mirror.faces.engine import TURN_THE_FILE
from mirror.faces.frames import say_collapsed
from mirror.faces.measurer import Picture, missed_cuda
from mirror.faces.pose import BIN_LIMITS_DEG, angle_bin
from mirror.faces.ranking import true_interval
from utils.decoding import BLACK_AND_WHITE, TRANSPARENT
from utils.files import Status, some_of

# What is said of single rows and summed up for the whole run.
_TOLD_OF_ROWS = {
    TURN_THE_FILE: "lie on their side or upside down and were measured turned; turn the files",
    BLACK_AND_WHITE: "are black-and-white, which lowers similarity (by about 0.1)",
    TRANSPARENT: "have transparent parts, which are shown on white",
    ANOTHER_IS_NEARER: "hold another face that is more like the references; --face nearest measures those",
}
SAME_PICTURE = 0.9999  # similarity that only the very same picture reaches

# A spreadsheet takes a cell that begins with one of these for a formula (OWASP, "CSV Injection"); where the list
# separator is a semicolon, as in German Excel, a cell also begins after one.
_FORMULA_START = re.compile(r"(^|;)(\s*)(?=[=+\-@])|^(?=[\t\r\n])")


def make_table(rows: list[dict]) -> pd.DataFrame:
    """Frame with exactly mirror.contracts.table.COLUMNS from dictionaries; missing keys are blank."""
    return pd.DataFrame(rows, columns=list(columns.COLUMNS)).astype(columns.COLUMNS)


def add_map(table: pd.DataFrame, face_map: np.ndarray | None) -> None:
    """Each row's place on the identity map (rows, 2 or 3), NaN without a face; nothing where there is no map."""
    if face_map is not None:
        for name, values in zip(columns.TSNE, face_map.T, strict=False):  # a flat map has no third
            table[name] = values


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV text; text cells that a spreadsheet would run as a formula get a leading apostrophe."""
    safe = table.copy()
    for column, kind in columns.COLUMNS.items():
        if kind == "object":
            safe[column] = safe[column].map(_defused, na_action="ignore")
    return safe.to_csv(index=False, lineterminator="\n", float_format="%.6f")


def _defused(text: str) -> str:
    return _FORMULA_START.sub(lambda start: f"{start[0]}'", str(text))


def score_pictures(pictures: list[Picture], pack: PackInfo, face: str = LARGEST) -> pd.DataFrame:
    """The table of `pictures`, in their order: what was measured, and how each compares with the references.

    Similarity is to the centroid of the held-out photos where there are any, else of the references; pictures that
    are part of that centroid are scored leave-one-out. The nearest picture is always a reference: copies are made of
    what was trained on. At least one reference must be measured, and one held-out photo where there are any. `face`
    says which one of several a candidate is compared by; of references it is always the largest.
    """
    held_out = [one for one in pictures if one.measured and one.group == HELD_OUT and one.type == REFERENCE]
    references = [one for one in pictures if one.measured and one.group == REFERENCE and one.type == REFERENCE]
    candidates = [one for one in pictures if one.measured and one.type == CANDIDATE]
    truth = _embeddings(references)
    standard = _embeddings(held_out) if held_out else truth
    similarity = metrics.similarity_to_centroid(truth, standard) if held_out else metrics.leave_one_out(truth)
    scores = _compared(references, similarity, metrics.nearest(truth, truth, True), references)
    if held_out:
        similarity = metrics.leave_one_out(standard)
        scores |= _compared(held_out, similarity, metrics.nearest(standard, truth), references)
    choose_faces(candidates, standard, face)
    say_collapsed(pictures)
    if candidates:
        generated = _embeddings(candidates)
        similarity = metrics.similarity_to_centroid(generated, standard)
        scores |= _compared(candidates, similarity, metrics.nearest(generated, truth), references)
    return make_table([_row(picture, pack) | scores.get(id(picture), {}) for picture in pictures])


def _embeddings(pictures: list[Picture]) -> np.ndarray:
    """(N, D), one row a picture."""
    return np.stack([picture.face.embedding for picture in pictures])


def _compared(
    pictures: list[Picture],
    similarity: np.ndarray,
    neighbours: tuple[np.ndarray, np.ndarray],
    references: list[Picture],
) -> dict[int, dict]:
    """Cells that compare, by id() of the picture; `neighbours` as from metrics.nearest."""
    return {
        id(picture): {
            columns.SIMILARITY: score,
            columns.NEAREST_REFERENCE: references[index].filename if index >= 0 else None,
            columns.NEAREST_SIMILARITY: cosine,
        }
        for picture, score, index, cosine in zip(pictures, similarity, *neighbours, strict=True)
    }


def _row(picture: Picture, pack: PackInfo) -> dict:
    """Cells of one picture alone."""
    row = {
        columns.TYPE: picture.type,
        columns.GROUP: picture.group,
        columns.FILENAME: picture.filename,
        columns.STATUS: str(picture.status),
        columns.REASON: picture.reason or None,
        columns.PACK: pack.identity,
        columns.PACK_LICENCE: pack.licence,
    }
    if (made := picture.origin) is not None:
        row |= {columns.PROMPT: made.prompt, columns.GENERATOR: made.generator}
        row[columns.SEED] = None if made.seed is None else str(made.seed)
    face = picture.face
    if face is not None:
        row |= {columns.FACES: face.faces, columns.PROVIDER: face.provider}
    if picture.measured:
        row |= {
            columns.AGE: face.age,
            columns.YAW: face.yaw_deg,
            columns.PITCH: face.pitch_deg,
            columns.ROLL: face.roll_deg,
            columns.ANGLE_BIN: angle_bin(face.yaw_deg),
            columns.DET_SCORE: face.det_score,
            columns.ASPECT_RATIO: face.aspect_ratio,
        }
    return row


def summarise_group(table: pd.DataFrame, kind: str, name: str) -> GroupSummary:
    """The rows of one group in numbers. `kind` is REFERENCE or CANDIDATE."""
    rows = table[(table[columns.TYPE] == kind) & (table[columns.GROUP] == name)]
    scored = rows[rows[columns.SIMILARITY].notna() & rows[columns.YAW].notna()]
    identity = metrics.pose_corrected(scored[columns.SIMILARITY].to_numpy(), scored[columns.YAW].to_numpy())
    statuses = Counter(Status(status) for status in rows[columns.STATUS])
    faces = sum(count for status, count in statuses.items() if status.measured)
    bins = Counter(rows[columns.ANGLE_BIN].dropna())
    bands = Counter(metrics.copy_band(value) for value in rows[columns.NEAREST_SIMILARITY].dropna())
    return GroupSummary(
        type=kind,
        name=name,
        images=len(rows),
        faces=faces,
        rescued=statuses[Status.RESCUED],
        failed=len(rows) - faces,
        statuses=dict(statuses),
        similarity=_spread(rows[columns.SIMILARITY]),
        similarity_interval=true_interval(rows[columns.SIMILARITY].to_numpy()),
        identity=float(np.median(identity)) if len(identity) else None,
        identity_interval=metrics.median_interval(identity),
        nearest_similarity=_spread(rows[columns.NEAREST_SIMILARITY]),
        age=_spread(rows[columns.AGE]),
        yaw_abs_deg=_spread(rows[columns.YAW].abs()),
        det_score=_spread(rows[columns.DET_SCORE]),
        aspect_ratio=_spread(rows[columns.ASPECT_RATIO]),
        angle_bins={name: bins[name] for name in BIN_LIMITS_DEG},
        copy_bands={band: bands[band] for band in metrics.BANDS} if kind == CANDIDATE else {},
    )


def _spread(values: pd.Series) -> Spread:
    values = values.dropna()
    if values.empty:
        return Spread(count=0)
    low, q1, median, q3, high = (float(value) for value in values.quantile([0, 0.25, 0.5, 0.75, 1]))
    return Spread(count=len(values), median=median, q1=q1, q3=q3, minimum=low, maximum=high)


def warnings_about(table: pd.DataFrame, device: str) -> list[str]:
    """What makes the numbers of a run mean less than they seem to; `device` is what was asked for."""
    warnings = []
    held_out = table[(table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == HELD_OUT)]
    known = int((held_out[columns.NEAREST_SIMILARITY] > SAME_PICTURE).sum())
    if known:
        warnings.append(
            f"{known} held-out photo(s) are also references: photos that a LoRA was trained on cannot show whether it "
            "learned the person."
        )
    elsewhere = missed_cuda(device, set(table[columns.PROVIDER].dropna()))
    if elsewhere:
        warnings.append(elsewhere)
    same = table[(table[columns.TYPE] == CANDIDATE) & (table[columns.NEAREST_SIMILARITY] > SAME_PICTURE)]
    for said, what in _TOLD_OF_ROWS.items():
        told = table[table[columns.REASON].str.contains(said, na=False, regex=False)]
        if len(told):
            names = [f"{group}/{file}" for group, file in zip(told[columns.GROUP], told[columns.FILENAME], strict=True)]
            warnings.append(f"{len(told)} picture(s) {what}: {some_of(names)}.")
    for group, number in same[columns.GROUP].value_counts(sort=False).items():
        warnings.append(
            f"{group}: {number} picture(s) are copies of references; leave them out, they say nothing about a LoRA."
        )
    return warnings
