#!/usr/bin/env python3
"""Validate generated images: which of them may enter the dataset of a person, and why not the others?

    python validate_synthetic.py synthetic_iter1
    python validate_synthetic.py synthetic_iter1 --reference Reference_Images --approved approved --rejected rejected

reads   DIR/*.png ...                  generated images, with captions (.txt) beside them where there are any
        DIR/generation_metadata.json   what each of them should show; names the gap file, and with it the dataset and
                                       the sensors (without it, images are validated without a target)
        the dataset, or --reference    real photos of the person
writes  approved, rejected, unverified folders with copies, in DIR unless named; nothing there is overwritten
        validation_report.json         every check of every image: value, limit, passed, failed or not measured
        validation_report.html         the same as a page to look at

An image with a failed check is rejected; one that no check failed, but where a check could not be measured, is
unverified and kept apart. The limits stand in mirror/dataset/checks.py. Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import (
    BOOTSTRAP_REQUIREMENTS,
    METADATA,
    MODELS_FOLDER,
    PACK,
    SYNTHETIC_PREFIX,
    UNVERIFIED_WORDS,
    VERSION,
)

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.validation import ReferenceFacts, ValidatedImage, ValidationReport
    from mirror.dataset.batch import Batch
    from mirror.dataset.checks import Evidence, Nearest, Standard, Twin
    from mirror.dataset.sensors import Looked, SensorChoice, Sensors
    from mirror.faces.cache import FaceCache
    from mirror.faces.engine import FaceMeasurement
    from mirror.faces.measurer import Measurer

REPORT = "validation_report.json"


@dataclass
class References:
    """The real photos: all `pictures` of the dataset, and (file, face) of those that show the person."""

    folder: Path | None
    pictures: list[Looked]
    faces: list[tuple[str, FaceMeasurement]]


@dataclass
class Measured:
    """All that the images are judged by. `pool` (name, hash) are the pictures that none of them may repeat."""

    choice: SensorChoice
    sensors: Sensors
    measurer: Measurer | None  # None: no pack, so faces cannot be compared
    references: References
    standard: Standard
    faces: dict[str, FaceMeasurement]  # of the images, by file
    pool: list[tuple[str, int]]


def sensor_choice_of(args: argparse.Namespace, batch: Batch) -> SensorChoice:
    """The options, and where they are not given what the gap file was made with."""
    from dataclasses import fields

    from mirror.dataset.sensors import SensorChoice

    values = {}
    for one in fields(SensorChoice):
        given = getattr(args, one.name)
        kept = batch.settings.get(one.name) if one.name not in ("device", "max_megapixels") else None
        if given is not None or kept is not None:
            values[one.name] = kept if given is None else given
    return SensorChoice(**values | {"models_dir": Path(values.get("models_dir", MODELS_FOLDER))})


def what_is_missing(args: argparse.Namespace, batch: Batch, sensors: Sensors) -> dict[str, str]:
    """Sensors that no image can be measured with, and why. Raises UserError for another one than found the gaps."""
    from mirror.dataset.gaps import ANGLE, EYES, HANDS
    from mirror.detectors.detectors import EYE, HAND
    from utils.defaults import DETECTOR_FILES

    now, then = sensors.info, batch.sensors
    missing = {}
    for word, kind, identity in ((HANDS, HAND, now.hands), (EYES, EYE, now.eyes)):
        if identity is None:
            missing[word] = f"there is no {kind} detector: put {DETECTOR_FILES[kind]} into the models folder"
    if then is None:
        return missing
    pairs = (
        (ANGLE, then.angle.identity, now.angle.identity),
        (HANDS, then.hands, now.hands),
        (EYES, then.eyes, now.eyes),
    )
    for word, before, after in pairs:
        if None in (before, after) or before == after:
            continue
        if word not in args.allow_unverified:
            raise UserError(
                f"The gaps were found with {before}, and this is {after}: what they measure is not comparable. "
                f"Choose the sensor of then (--pack, --models-dir), or leave {word} out: --allow-unverified {word}."
            )
        missing[word] = f"the gaps were found with another sensor ({before})"
    return missing


def measure(args: argparse.Namespace, batch: Batch, cache: FaceCache) -> Measured:
    """Look at real photos, approved images and the batch. Raises UserError where a sensor is missing or another one."""
    from mirror.dataset.batch import list_pictures
    from mirror.dataset.checks import IDENTITY
    from mirror.dataset.gaps import GAP_TYPES
    from mirror.dataset.sensors import Examiner, PackAngles, find_measurer, find_sensors

    choice = sensor_choice_of(args, batch)
    sensors = find_sensors(choice, cache, "validated")
    missing = what_is_missing(args, batch, sensors)
    is_pack = isinstance(sensors.angle, PackAngles)
    measurer = sensors.angle.measurer if is_pack else find_measurer(choice, cache)
    if measurer is None:
        missing[IDENTITY] = f"the InsightFace pack {choice.pack or PACK} is not here: faces cannot be compared"
    real = [] if batch.dataset is None else list_pictures(batch, batch.dataset, batch.recursive)
    before = approved_before(args, batch)
    comparing = None if is_pack else measurer
    Examiner(sensors, GAP_TYPES, cache, choice.max_megapixels, comparing).examine(real + before + batch.pictures)
    known = measure_faces(measurer, [one for one in real if is_of_person(one.file)])
    references = References(batch.dataset, real, list(known.items()))
    standard = standard_of(references, missing)
    own = {hash_of(one, cache) for one in batch.pictures}
    others = [one for one in real if hash_of(one, cache) not in own]  # this batch may be merged already
    pool = pool_of(others, "the dataset") + pool_of(before, "the approved images")
    return Measured(choice, sensors, measurer, references, standard, measure_faces(measurer, batch.pictures), pool)


def measure_faces(measurer: Measurer | None, pictures: list[Looked]) -> dict[str, FaceMeasurement]:
    """The largest face by file, of the pictures that have one; what was measured already comes from the cache."""
    from mirror.contracts.summary import CANDIDATE
    from mirror.faces.measurer import Picture

    if measurer is None:
        return {}
    listed = [Picture(CANDIDATE, "Comparing", one.file, one.path) for one in pictures]
    measurer.measure(listed)
    return {one.filename: one.face for one in listed if one.measured}


def is_of_person(file: str) -> bool:
    """Whether a picture of the dataset is a real photo: generated ones that were merged keep their prefix."""
    return not file.rpartition("/")[2].startswith(SYNTHETIC_PREFIX)


def standard_of(references: References, missing: dict[str, str]) -> Standard:
    """What the images are held against; adds to `missing` what cannot be known without photos of the person."""
    import numpy as np

    from mirror.dataset.checks import IDENTITY, REFERENCES, Standard
    from mirror.dataset.gaps import GAP_TYPES
    from mirror.faces.metrics import FEWEST_REFERENCES, reference_level

    if not references.pictures:
        missing[REFERENCES] = "there are no real photos to compare with; --reference names their folder"
        missing[IDENTITY] = missing[REFERENCES]
    embeddings = [face.embedding for _, face in references.faces]
    yaws = np.array([face.yaw_deg for _, face in references.faces])
    level = reference_level(np.stack(embeddings), yaws) if embeddings else None
    if level is None and IDENTITY not in missing:
        missing[IDENTITY] = (
            f"faces were found in {len(embeddings)} real photo(s) of the person, and {FEWEST_REFERENCES} are needed"
        )
    real = [one.record.sharpness for one in references.pictures if one.record.size_wh and is_of_person(one.file)]
    return Standard(GAP_TYPES, level, float(np.median(real)) if real else None, missing)


def judge_all(args: argparse.Namespace, batch: Batch, measured: Measured, cache: FaceCache) -> list[ValidatedImage]:
    """Every image in the order of names: of two near duplicates the first is approved, and joins the pool."""
    from mirror.contracts.validation import Verdict
    from mirror.dataset.checks import Evidence

    compare, pool = comparison(measured.references), list(measured.pool)
    images = []
    for picture in batch.pictures:
        record, wanted = picture.record, batch.wanted.get(picture.file)
        gap_type, target = (wanted.gap_type, wanted.target) if wanted else (None, None)
        similarity, nearest = compare(measured.faces.get(picture.file))
        evidence = Evidence(record, gap_type, target, similarity, nearest, most_alike(record.picture_hash, pool))
        image = decided(evidence, measured.standard, args.allow_unverified, hash_of(picture, cache))
        if image.verdict == Verdict.APPROVED:
            pool += pool_of([picture], "this batch")
        images.append(image)
    return images


def decided(evidence: Evidence, standard: Standard, allowed: tuple[str, ...], sha256: str | None) -> ValidatedImage:
    """One line of the report."""
    from mirror.contracts.validation import ValidatedImage
    from mirror.dataset.checks import judge, quality, verdict

    record, nearest, real = evidence.record, evidence.nearest, standard.sharpness
    checks = judge(evidence, standard)
    is_picture = record.size_wh is not None and not record.spoiled
    return ValidatedImage(
        file=record.file,
        sha256=sha256,
        verdict=verdict(checks, standard.types.get(evidence.gap_type), allowed),
        gap_type=evidence.gap_type,
        target=evidence.target,
        quality=quality(evidence, standard),
        relative_sharpness=round(record.sharpness / real, 3) if real and is_picture else None,
        yaw_deg=record.yaw_deg,
        similarity=evidence.similarity,
        nearest_reference=nearest.file if nearest else None,
        nearest_similarity=nearest.similarity if nearest else None,
        checks=checks,
    )


def reasons_unmeasured(images: list[ValidatedImage]) -> list[str]:
    """Why checks of unverified images could not be measured, each reason once."""
    from mirror.contracts.validation import Outcome, Verdict

    unsure = [image for image in images if image.verdict == Verdict.UNVERIFIED]
    reasons = [one.reason for image in unsure for one in image.checks if one.outcome == Outcome.NOT_MEASURED]
    return list(dict.fromkeys(reasons))


def comparison(
    references: References,
) -> Callable[[FaceMeasurement | None], tuple[float | None, Nearest | None]]:
    """A function from a measured face to its similarity to the person, and to the reference most like it."""
    import numpy as np

    from mirror.dataset.checks import Nearest
    from mirror.faces.metrics import nearest, similarity_to_centroid

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
        likeness = round(float(similarity_to_centroid(row, known)[0]), 4)
        return likeness, Nearest(file, round(float(cosine[0]), 4), round(turn, 2))

    return compare


def most_alike(picture_hash: str | None, pool: list[tuple[str, int]]) -> Twin | None:
    """The picture of `pool` (name, hash) that differs in the fewest bits; None where there is nothing to compare."""
    from mirror.dataset.checks import Twin

    if picture_hash is None or not pool:
        return None
    own = int(picture_hash, 16)
    name, other = min(pool, key=lambda one: (own ^ one[1]).bit_count())
    return Twin(name, (own ^ other).bit_count())


def pool_of(pictures: list[Looked], whose: str) -> list[tuple[str, int]]:
    """Name and hash of every picture that could be read."""
    return [(f"{one.file} of {whose}", int(one.record.picture_hash, 16)) for one in pictures if one.record.picture_hash]


def approved_before(args: argparse.Namespace, batch: Batch) -> list[Looked]:
    """Pictures in the folder of approved ones that are no copies of this batch: an earlier run must not reject it."""
    from mirror.dataset.batch import list_pictures
    from utils.files import is_copy_of

    folder = folders_of(args)["approved"]
    if not folder.is_dir():
        return []
    return [
        one for one in list_pictures(batch, folder) if not any(is_copy_of(one.path, own.path) for own in batch.pictures)
    ]


def folders_of(args: argparse.Namespace) -> dict[str, Path]:
    """Verdict -> folder of its copies."""
    given = {"approved": args.approved, "rejected": args.rejected, "unverified": args.unverified}
    return {verdict: folder or args.folder / verdict for verdict, folder in given.items()}


def hash_of(picture: Looked, cache: FaceCache) -> str | None:
    """SHA-256 of the file; None where it cannot be read."""
    try:
        return cache.hash_file(picture.path)
    except OSError:
        return None


def report_of(
    args: argparse.Namespace, batch: Batch, measured: Measured, images: list[ValidatedImage]
) -> ValidationReport:
    """The run in numbers."""
    import cv2
    import numpy as np

    from mirror.contracts.validation import Outcome, ValidationReport, Verdict
    from utils.files import readable

    count = Counter(image.verdict for image in images)
    scores = [image.quality for image in images if image.verdict == Verdict.APPROVED and image.quality is not None]
    failed = Counter(one.check for image in images for one in image.checks if one.outcome == Outcome.FAILED)
    return ValidationReport(
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),
        folder=readable(str(batch.folder.resolve())),
        metadata=readable(str(batch.metadata.resolve())) if batch.metadata else None,
        references=_reference_facts(measured.references, measured.standard),
        sensors=measured.sensors.info,
        identity_pack=measured.measurer.identity if measured.measurer else None,
        settings=measured.choice.settings() | _limits() | {"allow_unverified": ",".join(args.allow_unverified)},
        versions={
            "validate_synthetic": VERSION,
            "python": sys.version.split()[0],
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
        approved=count[Verdict.APPROVED],
        rejected=count[Verdict.REJECTED],
        unverified=count[Verdict.UNVERIFIED],
        approved_percent=round(100 * count[Verdict.APPROVED] / len(images), 2) if images else None,
        mean_quality=round(sum(scores) / len(scores), 4) if scores else None,
        failures=dict(failed.most_common()),
        ignored_files=dict(batch.ignored.most_common()),
        warnings=batch.warnings,
        images=images,
    )


def _reference_facts(references: References, standard: Standard) -> ReferenceFacts | None:
    from mirror.contracts.validation import ReferenceFacts
    from utils.files import readable

    if references.folder is None:
        return None
    return ReferenceFacts(
        folder=readable(str(references.folder.resolve())),
        images=len(references.pictures),
        faces=len(references.faces),
        level=None if standard.level is None else round(standard.level, 4),
        sharpness=standard.sharpness,
    )


def _limits() -> dict[str, float]:
    from mirror.dataset import checks, pixels
    from mirror.faces import metrics

    return {
        "sharpness": pixels.SHARPNESS_LIMIT,
        "sharpness_side": pixels.SHARPNESS_SIDE,
        "darkest": pixels.BRIGHTNESS_LIMITS[0],
        "brightest": pixels.BRIGHTNESS_LIMITS[1],
        "duplicate_bits": pixels.DUPLICATE_BITS,
        "face_confidence": checks.CONFIDENCE,
        "second_face_share": checks.SECOND_FACE_SHARE,
        "identity_floor": metrics.IDENTITY_FLOOR,
        "copy_similarity": checks.COPY_SIMILARITY,
        "copy_angles_deg": checks.COPY_ANGLES_DEG,
    }


def sort_files(args: argparse.Namespace, batch: Batch, report: ValidationReport) -> None:
    """Copy every image to the folder of its verdict; take back what an earlier run put into that of another one.

    Only what the earlier report says was copied is ever taken back, and only while it still equals the original.
    """
    from utils.files import copy_with_caption, is_copy_of, readable, take_back_copy

    before = copies_before(args)
    folders = {verdict: folder.resolve() for verdict, folder in folders_of(args).items()}
    for picture, image in zip(batch.pictures, report.images, strict=True):
        old = before.get(image.file)
        if args.no_auto_filter or image.sha256 is None:  # what cannot be read cannot be copied
            image.copied_to = readable(str(old)) if old else None
            continue
        image.copied_to = readable(str(copy_with_caption(picture.path, folders[image.verdict])))
        if old and old.parent in set(folders.values()) - {folders[image.verdict]} and is_copy_of(old, picture.path):
            take_back_copy(old, picture.path)
    left = [] if args.no_auto_filter else _left_behind(batch, report, folders)
    report.warnings += left
    for note in left:
        say(f"Note: {note}")


def _left_behind(batch: Batch, report: ValidationReport, folders: dict[str, Path]) -> list[str]:
    """Copies of this batch in the folder of another verdict, which no report of here knows and nobody takes back."""
    from utils.files import is_copy_of, readable

    notes = []
    for verdict, folder in folders.items():
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        judged_otherwise = [
            picture.path
            for picture, image in zip(batch.pictures, report.images, strict=True)
            if image.verdict != verdict
        ]
        names = [place.name for place in there if any(is_copy_of(place, picture) for picture in judged_otherwise)]
        if names:
            notes.append(
                f"{folder} still holds {len(names)} image(s) that are not {verdict} any more, {readable(names[0])} "
                "first: the report of the run that put them there is gone. Remove them by hand."
            )
    return notes


def copies_before(args: argparse.Namespace) -> dict[str, Path]:
    """Where an earlier run put its copies, by file; nothing where its report is not there or cannot be read."""
    from mirror.contracts.contract import ContractError, read_contract
    from mirror.contracts.validation import ValidationReport

    if not args.report.exists():
        return {}
    try:
        earlier = read_contract(args.report, ValidationReport, "validate_synthetic.py")
    except ContractError as error:
        say(f"Note: {error} Copies of the run that wrote it are left where they are.")
        return {}
    return {image.file: Path(image.copied_to) for image in earlier.images if image.copied_to}


def write_results(args: argparse.Namespace, batch: Batch, references: References, report: ValidationReport) -> Path:
    """Copies first, then the page, the report last; path of the page. Raises UserError."""
    from mirror.contracts.contract import write_contract
    from mirror.report.validation import build_validation
    from utils.files import write_text_atomic

    page = args.report.with_suffix(".html")
    beside = {one.file: one.thumbnail for one in references.pictures}
    with _writing(args.report.parent):
        sort_files(args, batch, report)
        write_text_atomic(page, build_validation(report, [one.thumbnail for one in batch.pictures], beside))
        write_contract(args.report, report)
    return page


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the disk refuses, told as a UserError."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise UserError(f"{where} cannot be written: {error.strerror or error}.") from error


def tell(args: argparse.Namespace, report: ValidationReport, page: Path) -> None:
    """The end of a run: table and summary on stdout, or the report alone with --json."""
    from mirror.contracts.validation import Outcome, Verdict
    from mirror.dataset.checks import SAID

    if report.ignored_files:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in report.ignored_files.items())
        say(f"Passed over files that are no pictures: {kinds}.")
    if args.json:
        show_json(report.model_dump_json(indent=2))
        return
    wrong = {Verdict.REJECTED: Outcome.FAILED, Verdict.UNVERIFIED: Outcome.NOT_MEASURED}
    rows = [
        [image.file, str(image.verdict), "; ".join(f"{SAID[one.check]}: {one.reason}" for one in found)]
        for image in report.images
        if (found := [one for one in image.checks if one.outcome == wrong.get(image.verdict)])
    ]
    if rows:
        print_table("Not approved, and why", ["Image", "Verdict", "Reason"], rows, numbers=False)
    share = "" if report.approved_percent is None else f" ({report.approved_percent:.1f}%)"
    show(f"Approved: {report.approved}{share}", f"Rejected: {report.rejected}")
    if report.unverified:
        show(f"Unverified: {report.unverified} (kept apart; --allow-unverified says what may pass unmeasured)")
    show(f"Avg Quality: {'-' if report.mean_quality is None else format(report.mean_quality, '.2f')}")
    show(f"report: {args.report}", f"page: {page}")


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.dataset.batch import collect
    from mirror.faces.cache import open_cache

    args.report = args.report or args.folder / REPORT
    batch = collect(args.folder, args.reference, folders_of(args).values())
    _check_folders(args, batch)
    with _scratch_cache(args) as path:
        cache = open_cache(path)
        if cache.message:
            say(f"Note: {cache.message}")
        try:
            measured = measure(args, batch, cache)
            images = judge_all(args, batch, measured, cache)
        except KeyboardInterrupt:
            if cache.keeps and not args.no_cache:
                say("What was measured so far is kept; the same command goes on from there.")
            raise
        finally:
            cache.close()
    batch.warnings += [f"Not measured: {reason}." for reason in reasons_unmeasured(images)]
    for warning in batch.warnings:
        say(f"Note: {warning}")
    report = report_of(args, batch, measured, images)
    page = write_results(args, batch, measured.references, report)
    tell(args, report, page)
    return EXIT_OK


@contextmanager
def _scratch_cache(args: argparse.Namespace) -> Iterator[Path]:
    """The cache's file; with --no-cache one that is gone afterwards, as sensors and comparison share it."""
    import tempfile

    if not args.no_cache:
        yield args.cache
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        yield Path(scratch) / "cache.sqlite"


def _check_folders(args: argparse.Namespace, batch: Batch) -> None:
    """Find out before the work, not after it, that results cannot be written. Raises UserError."""
    import tempfile

    from mirror.contracts.contract import demand_own

    taken = {args.folder.resolve(): "the folder of the generated images"}
    if batch.dataset is not None:
        if batch.dataset.resolve() in taken:
            raise UserError(f"{batch.dataset} holds the generated images; --reference takes the folder of real photos.")
        taken[batch.dataset.resolve()] = "the folder of the real photos"
    for verdict, folder in folders_of(args).items():
        if folder.resolve() in taken:
            raise UserError(f"--{verdict} {folder} is {taken[folder.resolve()]}; it takes another one.")
        taken[folder.resolve()] = f"the folder of the {verdict} images"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--{verdict} {folder} is a file; it takes a folder.")
        if not os.access(_nearest_existing(folder), os.W_OK):
            raise UserError(f"--{verdict} {folder} cannot be written; choose another folder.")
    if args.report.suffix.lower() != ".json":
        raise UserError(f"--report {args.report} is no .json file; the page goes beside it as .html.")
    demand_own(args.report, "validate_synthetic.py")
    with _writing(args.report.parent):
        args.report.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.report.parent):
            pass


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "validate_synthetic.py",
        __doc__,
        "Exit codes: 0 done, also when all are rejected; 2 something to change (one sentence says what), "
        "1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add("folder", type=options.path, metavar="DIR", help=f"generated images, with {METADATA} where there is one")
    add("--approved", type=options.path, metavar="DIR", help="copies of approved images (default: approved in DIR)")
    add("--rejected", type=options.path, metavar="DIR", help="copies of rejected images (default: rejected in DIR)")
    add(
        "--unverified",
        type=options.path,
        metavar="DIR",
        help="copies of unverified images (default: unverified in DIR)",
    )
    add(
        "--reference",
        type=options.path,
        metavar="DIR",
        help="real photos of the person (default: the dataset that the metadata lead to)",
    )
    add("--no-auto-filter", action="store_true", help="only report; copy nothing")
    add(
        "--report",
        type=options.path,
        metavar="FILE",
        help=f"the page goes beside it as .html (default: {REPORT} in DIR)",
    )
    add(
        "--allow-unverified",
        type=_words,
        default=(),
        metavar="WORDS",
        help=f"what may pass unmeasured, of {','.join(UNVERIFIED_WORDS)} (default: nothing)",
    )
    options.add_sensors(parser, inherited=True)
    options.add_device(parser)
    options.add_max_megapixels(parser)
    options.add_cache(parser)
    add("--json", action="store_true", help="print the report as JSON to stdout, and nothing else there")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in words if word not in UNVERIFIED_WORDS]
    if unknown or not words:
        named = f"{unknown[0]!r} is none of them" if unknown else "it is empty"
        raise argparse.ArgumentTypeError(f"it takes {', '.join(UNVERIFIED_WORDS)}, with commas between; {named}")
    return words


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
