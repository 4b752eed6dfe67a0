"""A folder of generated images, and where its metadata lead: to targets, gap file, dataset and sensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import GapReport, GapSensors, read_gaps
from mirror.contracts.generation import GeneratedImage, GenerationMetadata
from mirror.dataset.examiner import ExaminedPicture
from utils.captions import TEXT_SUFFIXES
from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS, METADATA
from utils.files import readable
from utils.images import demand_folder, holds_pictures, list_images
from utils.simulation import said_of


@dataclass
class Batch:
    """Everything found in the folder, and where its metadata lead."""

    folder: Path
    pictures: list[ExaminedPicture]
    metadata: Path | None = None
    wanted: dict[str, GeneratedImage] = field(default_factory=dict)  # by file
    dataset: Path | None = None
    recursive: bool = False  # whether sub-folders of the dataset count
    sensors: GapSensors | None = None  # who found the gaps
    settings: dict = field(default_factory=dict)  # of the gap file
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def collect(folder: Path, reference: Path | None, own: Iterable[Path] = ()) -> Batch:
    """List the images and follow their metadata; `reference` takes the place of the dataset. Raises UserError.

    `own` are the folders that validation writes its copies to.
    """
    demand_folder(folder, "validate_synthetic.py takes the folder with the generated images.")
    batch = Batch(folder, [])
    batch.pictures = list_pictures(batch, folder)
    for suffix in (*TEXT_SUFFIXES, ".jsonl", ".json", ".html"):  # captions, metadata and our own reports belong here
        del batch.ignored[suffix]
    if (folder / METADATA).exists():
        _follow(batch, folder / METADATA)
    elif not batch.pictures:
        kinds = ", ".join(IMAGE_EXTENSIONS)
        raise UserError(f"{folder} holds no pictures ({kinds}) and no {METADATA}. {_left_out(folder, own)}".rstrip())
    if reference is not None:
        batch.dataset, batch.recursive = reference, False
    if batch.dataset is not None and not batch.dataset.is_dir():
        raise UserError(f"The real photos in {batch.dataset} are not there. --reference takes the folder with them.")
    if reference is not None and not list_pictures(batch, reference):
        hint = _left_out(reference, own)
        raise UserError(
            f"--reference {reference} holds no pictures; it takes the folder with real photos. {hint}".rstrip()
        )
    batch.warnings += [note for note in (_left_out(folder, own),) if note]
    return batch


def _left_out(folder: Path, own: Iterable[Path]) -> str:
    """What is said of sub-folders with pictures, apart from those that validation itself writes to; often nothing."""
    known = {path.resolve() for path in own}
    others = [sub for sub in list_images(folder).subfolders if sub.resolve() not in known and holds_pictures(sub)]
    return f"{len(others)} sub-folder(s) of {folder} with pictures were left out." if others else ""


def list_pictures(batch: Batch, folder: Path, recursive: bool = False) -> list[ExaminedPicture]:
    """Pictures of a folder; what was passed over in the batch's own goes into `batch`. Raises UserError."""
    listing = list_images(folder, recursive)
    if folder == batch.folder:
        batch.ignored.update(listing.ignored)
    batch.warnings += [readable(problem) for problem in listing.problems]
    return [ExaminedPicture(readable(path.relative_to(folder).as_posix()), path) for path in listing.images]


def _follow(batch: Batch, path: Path) -> None:
    """From the metadata to targets, dataset and sensors. Raises UserError naming file and field."""
    metadata = read_contract(path, GenerationMetadata, "generate_synthetic.py")
    batch.metadata = path
    batch.wanted = {image.file: image for image in metadata.images}
    if said := said_of(path.parent):
        batch.warnings.append(f"These images are {said}.")
    _demand_whole_lines(path, metadata)
    batch.dataset = _beside(path, metadata.dataset)
    batch.sensors = metadata.sensors
    gaps = _beside(path, metadata.gaps_file)
    if gaps is not None and (gaps.exists() or batch.dataset is None or batch.sensors is None):
        _follow_gaps(batch, read_gaps(gaps))
    here = {picture.file for picture in batch.pictures}
    lost, unknown = len(batch.wanted.keys() - here), len(here - batch.wanted.keys())
    if lost:
        batch.warnings.append(f"{lost} image(s) of {METADATA} are not in the folder.")
    if unknown:
        batch.warnings.append(f"{unknown} image(s) are not in {METADATA}: they are validated without a target.")


def _follow_gaps(batch: Batch, gaps: GapReport) -> None:
    """What the metadata themselves say goes before."""
    batch.dataset = batch.dataset or (None if gaps.dataset is None else Path(gaps.dataset))
    batch.sensors = batch.sensors or gaps.sensors
    batch.recursive = bool(gaps.settings.get("recursive"))
    batch.settings = gaps.settings


def _beside(path: Path, named: str | None) -> Path | None:
    """A path that the file `path` names: absolute, or relative to the file's folder."""
    return None if named is None else path.parent / Path(named).expanduser()


def _demand_whole_lines(path: Path, metadata: GenerationMetadata) -> None:
    names: set[str] = set()
    for index, image in enumerate(metadata.images):
        if "/" in image.file or "\\" in image.file or image.file in names:
            fault = "is named twice" if image.file in names else "is no plain file name: images lie beside this file"
            raise UserError(f"{path}: field images.{index}.file: {image.file!r} {fault}.")
        names.add(image.file)
        if (image.gap_type is None) != (image.target is None):
            raise UserError(
                f"{path}: field images.{index}: gap_type and target belong together; one of them is missing."
            )
