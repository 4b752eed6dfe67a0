"""What people get of the check of their references: a table, and a list of the files to keep."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mirror.contracts.summary import DatasetCheck
from utils.console import UserError, print_table, show
from utils.defaults import IMAGE_EXTENSIONS
from utils.files import disk_errors_as, some_of, write_text_atomic

OPTION = "--export-keep"


def demand_list_file(path: Path) -> None:
    """Refuse, before the work, what must not be overwritten by a list. Raises UserError."""
    takes = f"{OPTION} takes the name of a text file to write, such as keep.txt."
    if path.is_dir():
        raise UserError(f"{path} is a folder. {takes}")
    if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS or _is_picture(path):
        raise UserError(f"{path} is a picture. {takes}")
    if path.exists() and not _is_list(path):
        raise UserError(f"{path} exists and is no list of file names, so it is not overwritten. {takes}")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist. {takes}")


def _is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does, whatever its name."""
    from utils.decoding import ImageError, header_size  # not before it is needed: OpenCV takes a while to load

    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            header_size(file)
    except (OSError, ImageError):
        return False
    return True


def _is_list(path: Path) -> bool:
    """Whether an earlier list stands there: names of pictures alone, or nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return all(Path(line).suffix.lower().lstrip(".") in IMAGE_EXTENSIONS for line in lines)


def write_keep(path: Path, check: DatasetCheck) -> None:
    """File names of the photos to keep, relative to the references' folder, one a line, UTF-8. Raises UserError."""
    with disk_errors_as(f"The list cannot be written to {path}", f"{OPTION} takes another file."):
        write_text_atomic(path, "".join(f"{name}\n" for name in check.keep))


def tell_check(check: DatasetCheck, exported: Path | None) -> None:
    """The faults by kind, and what would be kept."""
    counts = Counter(fault.fault for fault in check.faults)
    rows = []
    for name, count in counts.items():
        of_kind = [fault for fault in check.faults if fault.fault == name]
        rows.append([name, str(count), some_of([fault.file for fault in of_kind]), of_kind[0].advice])
    if rows:
        columns, elsewhere = ["Fault", "Photos", "Files", "What to do"], "The summary has them."
        print_table("Your references as a training set", columns, rows, False, ("What to do", "Photos"), elsewhere)
    for sentence in check.missing:
        show(f"Missing: {sentence}")
    where = f"their names are in {exported}" if exported else f"{OPTION} FILE writes their names"
    show(f"It would keep {len(check.keep)} of {check.photos} photos; {where}.")
