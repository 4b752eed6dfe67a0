"""Every generated image compared with the thresholds, one after the other: an approved one counts for the next."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mirror.contracts.validation import ValidatedImage, Verdict
from mirror.dataset.batch import Batch
from mirror.dataset.checks import (
    Duplicate,
    Measurements,
    Nearest,
    Thresholds,
    judge,
    quality,
    verdict,
    words_for_target,
)
from mirror.dataset.examiner import ExaminedPicture
from mirror.dataset.measuring import Measured, References, pool_of
from mirror.dataset.sorting import hash_of
from mirror.faces.cache import FaceCache
from mirror.faces.engine import FaceMeasurement
from mirror.faces.metrics import likeness_for_angle, nearest, similarity_to_centroid


def judge_all(args: argparse.Namespace, batch: Batch, measured: Measured, cache: FaceCache) -> list[ValidatedImage]:
    """Every image, in the order of names.

    Of two near duplicates the one that is more like the person for its angle is approved, else the first, and joins the
    pool.
    """
    compare, pool = comparison(measured.references), list(measured.pool)
    compared = {picture.file: compare(measured.faces.get(picture.file)) for picture in batch.pictures}

    def turn(picture: ExaminedPicture) -> tuple[float, str]:
        similarity, _ = compared[picture.file]
        likeness = likeness_for_angle(similarity, picture.record.yaw_deg, measured.thresholds.level)
        return -(likeness or 0.0), picture.file

    images = {}
    for picture in sorted(batch.pictures, key=turn):
        record, wanted = picture.record, batch.wanted.get(picture.file)
        gap_type, target = (wanted.gap_type, wanted.target) if wanted else (None, None)
        similarity, nearest = compared[picture.file]
        measurements = Measurements(
            record, gap_type, target, similarity, nearest, most_alike(record.picture_hash, pool)
        )
        image = judged_image(measurements, measured.thresholds, args.allow_unverified, hash_of(picture, cache))
        if image.verdict == Verdict.APPROVED:
            pool += pool_of([picture], "this batch")
        images[picture.file] = image
    return [images[picture.file] for picture in batch.pictures]


def judged_image(
    measurements: Measurements, thresholds: Thresholds, allowed: tuple[str, ...], sha256: str | None
) -> ValidatedImage:
    """One line of the report."""
    record, nearest, real = measurements.record, measurements.nearest, thresholds.sharpness
    checks = judge(measurements, thresholds)
    is_picture = record.size_wh is not None and not record.unusable
    return ValidatedImage(
        file=record.file,
        sha256=sha256,
        verdict=verdict(checks, words_for_target(measurements, thresholds.types), allowed),
        gap_type=measurements.gap_type,
        target=measurements.target,
        quality=quality(measurements, thresholds),
        relative_sharpness=round(record.sharpness / real, 3) if real and is_picture else None,
        yaw_deg=record.yaw_deg,
        similarity=measurements.similarity,
        nearest_reference=nearest.file if nearest else None,
        nearest_similarity=nearest.similarity if nearest else None,
        checks=checks,
    )


def comparison(
    references: References,
) -> Callable[[FaceMeasurement | None], tuple[float | None, Nearest | None]]:
    """A function from a measured face to its similarity to the person, and to the reference most like it."""
    import numpy as np

    if not references.faces:
        return lambda face: (None, None)
    known = np.stack([face.embedding for _, face in references.faces])

    def compare(face: FaceMeasurement | None) -> tuple[float | None, Nearest | None]:
        if face is None:
            return None, None
        row = face.embedding[None, :]
        index, cosine = nearest(row, known)
        file, other = references.faces[int(index[0])]
        turn = max(abs(getattr(face, angle) - getattr(other, angle)) for angle in ("yaw_deg", "pitch_deg", "roll_deg"))
        similarity = round(float(similarity_to_centroid(row, known)[0]), 4)
        return similarity, Nearest(file, round(float(cosine[0]), 4), round(turn, 2))

    return compare


def most_alike(picture_hash: str | None, pool: list[tuple[str, int]]) -> Duplicate | None:
    """The picture of `pool` (name, hash) that differs in the fewest bits; None where there is nothing to compare."""
    if picture_hash is None or not pool:
        return None
    own = int(picture_hash, 16)
    name, other = min(pool, key=lambda one: (own ^ one[1]).bit_count())
    return Duplicate(name, (own ^ other).bit_count())
