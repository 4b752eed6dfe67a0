"""A folder of training pictures as kohya's trainers read it: captions, repeats, and the part of a picture to train on.

    dataset/10_ohwx alice/01.jpg     each picture is seen 10 times an epoch; without a caption it is "ohwx alice"
    dataset/10_ohwx alice/01.txt     the caption of 01.jpg: its first line; see utils/captions.py for the other kinds

Pictures that lie in the folder itself count too, with a number of repeats of the caller's. Pictures are trained at
about the area of a square of the resolution, in the bucket (width, height) that fits their shape best; what overhangs
is cut off, but never from the largest face.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.summary import REFERENCE
from mirror.dataset.buckets import Box, Placement, place
from mirror.faces.measurer import Measurer, Picture
from utils.captions import read_caption
from utils.console import UserError
from utils.decoding import ImageError, decode
from utils.defaults import IMAGE_EXTENSIONS, SYNTHETIC_PREFIX
from utils.files import Status, readable
from utils.images import demand_folder, list_images, read_file

_WHOLE = 1e-6  # what products of decimal fractions may be away from a whole number
_FOLDER = re.compile(r"(\d+)_(.+)")  # repeats and class words, as kohya's trainers read a folder's name


@dataclass(frozen=True)
class TrainingImage:
    """One picture with what it teaches. `placement` is None until it was placed."""

    file: str  # relative to the dataset's folder, forward slashes
    path: Path
    caption: str
    repeats: int  # times in an epoch
    size_wh: tuple[int, int]  # pixels, EXIF orientation applied
    sha256: str
    placement: Placement | None = None


@dataclass
class TrainingSet:
    """A whole dataset, in the order of names."""

    folder: Path
    images: list[TrainingImage]
    warnings: list[str] = field(default_factory=list)
    captions: Counter[str] = field(default_factory=Counter)  # kind -> how many were read

    @property
    def samples(self) -> int:
        """Pictures seen in one epoch."""
        return sum(image.repeats for image in self.images)

    @property
    def identity(self) -> str:
        """SHA-256 over names, pictures, captions as they are trained, and repeats."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.file}\0{image.sha256}\0{image.caption}\0{image.repeats}\0".encode())
        return digest.hexdigest()

    @property
    def crops(self) -> str:
        """16 hexadecimal digits over what is cut from every picture: another model pack may find another face."""
        cuts = [(image.file, image.placement) for image in self.images]
        return hashlib.sha256(repr(cuts).encode()).hexdigest()[:16]

    @property
    def folder_counts(self) -> dict[tuple[str, int], int]:
        """(folder, repeats) -> pictures, in the order of names."""
        return dict(Counter((image.path.parent.name, image.repeats) for image in self.images))

    @property
    def bucket_counts(self) -> dict[tuple[int, int], int]:
        """Bucket -> pictures placed in it, without repeats; the narrowest first."""
        return dict(sorted(Counter(image.placement.bucket_wh for image in self.images if image.placement).items()))


def read_dataset(
    folder: Path, trigger: str, repeats: int, max_megapixels: float, synthetic_weight: float = 1.0
) -> TrainingSet:
    """The pictures of `folder` and of its folders with a number; `repeats` for those without one. Raises UserError.

    Beside photos, generated pictures get this share of the repeats.
    """
    demand_folder(folder, "train_lora.py takes the folder with the training pictures.")
    dataset = TrainingSet(folder, [])
    own = _FOLDER.fullmatch(folder.resolve().name)
    _add_folder(dataset, folder, trigger, int(own[1]) if own else repeats, own[2] if own else "", max_megapixels)
    passed_over = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        named = _FOLDER.fullmatch(inner.name)
        if named and int(named[1]):
            _add_folder(dataset, inner, trigger, int(named[1]), named[2], max_megapixels)
        else:
            passed_over.append(readable(inner.name))
    if passed_over:
        dataset.warnings.append(f"Ignored folders whose name is not like 10_name: {', '.join(passed_over)}.")
    if not dataset.images:
        left_out = f" {' '.join(dataset.warnings)}" if dataset.warnings else ""
        raise UserError(f"{folder} holds no pictures ({', '.join(IMAGE_EXTENSIONS)}) to train on.{left_out}")
    return with_weight(dataset, synthetic_weight)


def with_weight(dataset: TrainingSet, weight: float) -> TrainingSet:
    """Generated pictures with the share `weight` of their repeats, at least one; photos keep theirs.

    Where all pictures are generated, or none is, nothing changes.
    """
    generated = [image for image in dataset.images if image.path.name.startswith(SYNTHETIC_PREFIX)]
    if weight == 1 or not 0 < len(generated) < len(dataset.images):
        return dataset
    fewer = {image.file: max(1, round(weight * image.repeats)) for image in generated}
    repeats = {image.repeats: fewer[image.file] for image in generated}
    warnings = [
        f"Generated pictures are seen {less} time(s) an epoch beside photos that are seen {before}: "
        f"{weight:g} times that is no whole number."
        for before, less in sorted(repeats.items())
        if abs(less - weight * before) > _WHOLE
    ]
    images = [replace(image, repeats=fewer.get(image.file, image.repeats)) for image in dataset.images]
    return replace(dataset, images=images, warnings=dataset.warnings + warnings)


def _add_folder(
    dataset: TrainingSet, folder: Path, trigger: str, repeats: int, words: str, max_megapixels: float
) -> None:
    listing = list_images(folder)
    without_caption = longer = 0
    for path in listing.images:
        file = readable(path.relative_to(dataset.folder).as_posix())
        found = read_caption(path, dataset.folder)
        lines = found.lines if found else []
        without_caption += not lines
        longer += len(lines) > 1
        try:
            data = read_file(path, max_megapixels)
            height, width = decode(data).shape[:2]  # the whole picture, so that a damaged one is found now
        except ImageError as problem:
            dataset.warnings.append(f"{file} is left out: it {problem.reason}.")
            continue
        caption = with_trigger(lines[0] if lines else words, trigger)
        if lines:
            dataset.captions[found.kind] += 1
        dataset.images.append(
            TrainingImage(file, path, caption, repeats, (width, height), hashlib.sha256(data).hexdigest())
        )
    if without_caption:
        said = f'"{with_trigger(words, trigger)}"'
        dataset.warnings.append(
            f"{without_caption} picture(s) in {readable(folder.name)} have no caption: {said} is used."
        )
    if longer:
        dataset.warnings.append(f"{longer} caption(s) in {readable(folder.name)} have several lines: the first counts.")


def with_trigger(caption: str, trigger: str) -> str:
    """`caption`, with the trigger in front where it does not say it already, in whatever case."""
    if re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


# Buckets


def assign_buckets(dataset: TrainingSet, faces: dict[str, Box | None] | None, resolution: int) -> TrainingSet:
    """Every picture in its bucket. `faces` are boxes by file, None where no face was found; None: nobody looked."""
    placed, left_out, warnings = [], [], list(dataset.warnings)
    for image in dataset.images:
        placement = place(image.size_wh, (faces or {}).get(image.file), resolution)
        if placement is None:
            left_out.append(image.file)
        else:
            placed.append(replace(image, placement=placement))
    if left_out:
        warnings.append(f"Left out, because no bucket has room for the whole face: {', '.join(left_out)}.")
    without = sum(box is None for box in faces.values()) if faces is not None else 0
    if without:
        warnings.append(f"No face was found in {without} picture(s): these are cut from the centre.")
    small = sum(math.prod(image.size_wh) < 0.9 * math.prod(image.placement.bucket_wh) for image in placed)
    if small:
        warnings.append(f"{small} picture(s) are smaller than the resolution of {resolution} and get enlarged.")
    if not placed:
        raise UserError(f"No picture of {dataset.folder} can be trained. {' '.join(warnings)}")
    return TrainingSet(dataset.folder, placed, warnings, dataset.captions)


def steps_an_epoch(dataset: TrainingSet, batch: int, accumulate: int, processes: int = 1) -> int:
    """Steps of the optimizer. Batches are of one bucket each, so each bucket may end in a smaller one."""
    views: dict[tuple[int, int], int] = {}
    for image in dataset.images:
        views[image.placement.bucket_wh] = views.get(image.placement.bucket_wh, 0) + image.repeats
    batches = sum(math.ceil(count / batch) for count in views.values())
    return math.ceil(math.ceil(batches / processes) / accumulate)


def refuse_shared(dataset: TrainingSet, held_out: TrainingSet) -> None:
    """Raise UserError where a held-out picture is trained on: its loss would say nothing."""
    trained = {image.sha256: image.file for image in dataset.images}
    for image in held_out.images:
        if image.sha256 in trained:
            raise UserError(
                f"--validation {image.path} is {trained[image.sha256]} of the dataset: held-out pictures must not be "
                "trained on. Take it out of one of the two."
            )


def find_faces(dataset: TrainingSet, measurer: Measurer) -> dict[str, Box | None]:
    """Box of the largest face by file, None where there is none; what cannot be decoded is taken out of the set."""
    pictures = [Picture(REFERENCE, "Faces", image.file, image.path) for image in dataset.images]
    measurer.measure(pictures)
    broken = {one.filename: one.reason for one in pictures if not one.measured and one.status != Status.NO_FACE}
    dataset.images = [image for image in dataset.images if image.file not in broken]
    dataset.warnings += [f"{file} is left out: it {reason}." for file, reason in broken.items()]
    return {one.filename: one.face.box_xyxy if one.measured else None for one in pictures if one.filename not in broken}


def pixels_of(image: TrainingImage, max_megapixels: float) -> np.ndarray:
    """(H, W, 3) uint8 RGB, the size of the picture's bucket. Raises UserError."""
    placement = image.placement
    try:
        picture = decode(read_file(image.path, max_megapixels))
    except ImageError as problem:
        raise UserError(f"{image.path} {problem.reason}: take it out of the dataset, or fetch it again.") from problem
    shrinks = placement.scaled_wh[0] < picture.shape[1]
    # as kohya's trainers: area means down, Lanczos up
    scaled = cv2.resize(picture, placement.scaled_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    (left, top), (width, height) = placement.crop_xy, placement.bucket_wh
    return cv2.cvtColor(scaled[top : top + height, left : left + width], cv2.COLOR_BGR2RGB)
