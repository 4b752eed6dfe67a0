"""Copies of the images go into the folders of their verdicts; nothing that lies there is overwritten."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.contracts.contract import ContractError, read_contract
from mirror.contracts.validation import ValidationReport
from mirror.dataset.batch import Batch
from mirror.dataset.examiner import ExaminedPicture
from mirror.faces.cache import FaceCache
from utils.captions import copy_with_caption, is_copy_of, take_back_copy
from utils.console import UserError, say
from utils.files import readable, reason_of


def folders_of(args: argparse.Namespace) -> dict[str, Path]:
    """Verdict -> folder of its copies."""
    given = {"approved": args.approved, "rejected": args.rejected, "unverified": args.unverified}
    return {verdict: folder or args.folder / verdict for verdict, folder in given.items()}


def hash_of(picture: ExaminedPicture, cache: FaceCache) -> str | None:
    """SHA-256 of the file; None where it cannot be read."""
    try:
        return cache.hash_file(picture.path)
    except OSError:
        return None


def sort_files(args: argparse.Namespace, batch: Batch, report: ValidationReport) -> None:
    """Copy every image to the folder of its verdict; take back what an earlier run put into that of another one.

    Only what the earlier report says was copied is ever taken back, and only while it still equals the original.
    """
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
    left = [] if args.no_auto_filter else left_behind(batch, report, folders)
    report.warnings += left
    for note in left:
        say(f"Note: {note}")


def left_behind(batch: Batch, report: ValidationReport, folders: dict[str, Path]) -> list[str]:
    """Copies of this batch in the folder of another verdict, which no report of here knows and nobody takes back."""
    notes = []
    for verdict, folder in folders.items():
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        judged_otherwise = [
            picture.path
            for picture, image in zip(batch.pictures, report.images, strict=True)
            if image.verdict != verdict
        ]
        names = [copy.name for copy in there if any(is_copy_of(copy, picture) for picture in judged_otherwise)]
        if names:
            notes.append(
                f"{folder} still holds {len(names)} image(s) that are not {verdict} any more, {readable(names[0])} "
                "first: the report of the run that put them there is gone. Remove them by hand."
            )
    return notes


def copies_before(args: argparse.Namespace) -> dict[str, Path]:
    """Where an earlier run put its copies, by file; nothing where its report is not there or cannot be read."""
    if not args.report.exists():
        return {}
    try:
        earlier = read_contract(args.report, ValidationReport, "validate_synthetic.py")
    except ContractError as error:
        say(f"Note: {error} Copies of the run that wrote it are left where they are.")
        return {}
    return {image.file: Path(image.copied_to) for image in earlier.images if image.copied_to}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the disk refuses, told as a UserError."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise UserError(f"{where} cannot be written: {reason_of(error)}.") from error
