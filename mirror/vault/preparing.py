"""`organized/<name>/`: one person's pictures as trainers take them, the best first in metadata.json.

A file is named by what it was made of, so the same command again makes only what is missing, a killed one goes on, and
captions beside the files stay with them. What an earlier preparation made and this one does not want is removed; other
files in the folder are never touched.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.contract import ContractError, read_contract, write_contract
from mirror.contracts.vault import Duplicates, LeftOut, Prepared, PreparedImage
from mirror.dataset.gaps import (
    FEWEST_IMAGES,
    GAP_TYPES,
    GOOD_MINIMUM,
    SHOT_SIZES,
    distribution,
    face_height_share,
    recommend,
)
from mirror.faces.pose import angle_bin
from mirror.vault.labels import by_clearness
from mirror.vault.people import Person
from mirror.vault.store import Face, StoredPicture, VaultStore
from utils.console import UserError
from utils.decoding import ImageError, decode_with_note
from utils.defaults import MAX_MEGAPIXELS
from utils.files import file_word, readable, timestamp, write_bytes_atomic
from utils.images import read_file

ORGANIZED, METADATA_FILE = "organized", "metadata.json"
# Width by height of the crops: buckets that kohya's scripts and ai-toolkit have too, so that they cut no further.
SHAPES = (1 / 1, 3 / 4, 4 / 3, 2 / 3, 3 / 2)
_MULTIPLE = 64  # pixels; both sides of a bucket are multiples, as SDXL's and Flux's trainers want it
FACE_ROOM = 0.35  # of the face's size, kept free around it at least
_CLOSE = 3.0  # sides of a face, of the closer crop that is tried where somebody else is in the picture
_JPEG_QUALITY = 96
_MARK = 10  # hexadecimal digits in a file's name
_TAKEN_AS_THEY_ARE = (".jpg", ".jpeg", ".png", ".webp")  # every trainer reads them
ONE_SIDED = 0.8  # share of one shot size, or of one angle, from which a warning is due; our choice


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    side: int | None  # pixels of a square bucket's side; None: the pictures as they are
    fewest: int  # pictures below which there is a warning


def prepare(store: VaultStore, person: Person, output: Path, wanted: Wanted, duplicates: Duplicates | None) -> Prepared:
    """Write one person's folder below `output`. Raises UserError where there is nothing to write."""
    folder = output / ORGANIZED / folder_name(person.name or "")
    folder.mkdir(parents=True, exist_ok=True)
    _demand_own(folder, person)
    pictures = store.pictures()
    faces = store.faces()
    beside: dict[str, list[Face]] = {}
    for face in faces:
        beside.setdefault(face.content, []).append(face)
    doubles = {one.file: group.keep for group in duplicates.groups for one in group.duplicates} if duplicates else {}
    images, left_out = [], []
    for face in sorted((one for one in faces if one.person == person.id), key=by_clearness):
        picture = pictures[face.content]
        source = readable(str(picture.paths[0]))
        if source in doubles:
            left_out.append(LeftOut(file=source, why=f"shows the same as {doubles[source]}"))
            continue
        others = [one for one in beside[face.content] if one.id != face.id]
        made = _made(folder, person, face, others, picture, wanted)
        if isinstance(made, str):
            left_out.append(LeftOut(file=source, why=made))
        else:
            images.append(made)
    if not images:
        raise UserError(
            f"No picture of {person.called} is left to prepare.", *(f"  {one.file}: {one.why}" for one in left_out[:20])
        )
    _remove_others(folder, {one.file for one in images})
    prepared = _document(person, images, left_out, wanted)
    write_contract(folder / METADATA_FILE, prepared)
    return prepared


def folder_name(name: str) -> str:
    """A person's name as the name of a folder, on every system."""
    return file_word(name).strip("_") or "person"


def _demand_own(folder: Path, person: Person) -> None:
    """Raise UserError for a metadata.json of somebody else, or of another person whose name makes the same folder."""
    path = folder / METADATA_FILE
    if not path.is_file():
        return
    try:
        earlier = read_contract(path, Prepared, "facevault.py prep")
    except ContractError as error:
        raise UserError(f"{path} was not written by this facevault.py ({error}). Move the folder away.") from error
    if earlier.cluster != person.id:
        raise UserError(f"{folder} is the folder of {earlier.person}. Give one of the two another name.")


def _remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove what was made for this folder before, by whole or by killed runs, and is not wanted any more."""
    own = re.compile(rf"{re.escape(folder.name)}_[0-9a-f]{{{_MARK}}}\.(jpg|jpeg|png|webp)")
    for path in folder.iterdir():
        if own.fullmatch(path.name) and path.name not in wanted:
            path.unlink()


def _made(
    folder: Path, person: Person, face: Face, others: list[Face], picture: StoredPicture, wanted: Wanted
) -> PreparedImage | str:
    """The picture of one face, written unless it is there; in words why there is none."""
    crop: tuple[int, int, int, int] | None = None
    size_wh, own, theirs = _upright(picture.size_wh, face, others)
    if wanted.side is not None:
        crop = crop_around(own, theirs, size_wh)
        if crop is None:
            return "somebody else is too near to the face"
    elif others:
        return f"shows {len(others)} other face(s); a crop may leave them out"
    out_wh = size_wh if crop is None else bucket((crop[2] - crop[0], crop[3] - crop[1]), wanted.side)
    mark = hashlib.sha256(f"{picture.content} {crop} {out_wh}".encode()).hexdigest()[:_MARK]
    as_it_is = (
        crop is None and not face.turned_deg and picture.paths[0].suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    suffix = picture.paths[0].suffix.lower() if as_it_is else ".jpg"
    path = folder / f"{folder_name(person.name or '')}_{mark}{suffix}"
    if not path.is_file():
        try:
            data = read_file(picture.paths[0], MAX_MEGAPIXELS * 10)
            if hashlib.sha256(data).hexdigest() != picture.content:
                return "has changed since it was scanned: scan again"
            write_bytes_atomic(path, data if as_it_is else _jpeg(data, face.turned_deg, crop, out_wh))
        except ImageError as problem:
            return f"cannot be read any more: {problem.reason}"
    kept_wh = size_wh if crop is None else (crop[2] - crop[0], crop[3] - crop[1])
    inside = own if crop is None else tuple(own[i] - crop[i % 2] for i in range(4))
    share = face_height_share(inside, kept_wh)
    return PreparedImage(
        file=path.name,
        source=readable(str(picture.paths[0])),
        content=picture.content,
        face=face.id,
        crop_xyxy=crop,
        size_wh=out_wh,
        face_angle=angle_bin(face.yaw_deg),
        shot_size=next(name for name, (low, high) in SHOT_SIZES.items() if low <= share < high),
        yaw_deg=face.yaw_deg,
        score=face.score,
        sharpness=face.sharpness,
    )


def _jpeg(data: bytes, turned_deg: int, crop: tuple[int, int, int, int] | None, out_wh: tuple[int, int]) -> bytes:
    image = np.rot90(decode_with_note(data)[0], -(turned_deg // 90))
    if crop is not None:
        left, top, right, bottom = crop
        image = image[top:bottom, left:right]
    image = np.ascontiguousarray(image)
    if image.shape[1::-1] != out_wh:
        image = cv2.resize(image, out_wh, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


Box = tuple[float, float, float, float]


def _upright(size_wh: tuple[int, int], face: Face, others: list[Face]) -> tuple[tuple[int, int], Box, list[Box]]:
    """(size, box of the face, boxes of the others) in the picture after it was turned by the face's `turned_deg`."""
    width, height = size_wh

    def turned(box: Box) -> Box:
        left, top, right, bottom = box
        return {
            0: box,
            90: (height - bottom, left, height - top, right),
            180: (width - right, height - bottom, width - left, height - top),
            270: (top, width - right, bottom, width - left),
        }[face.turned_deg]

    size = (height, width) if face.turned_deg in (90, 270) else size_wh
    return size, turned(face.box_xyxy), [turned(one.box_xyxy) for one in others]


def crop_around(face: Box, others: list[Box], size_wh: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The largest crop of one of SHAPES that holds the face with room around it and nobody else; None: there is none.

    Of the picture's own shape first; where somebody else is in it, closer around the face.
    """
    width, height = size_wh
    room = FACE_ROOM * max(face[2] - face[0], face[3] - face[1])
    needed = (max(0, face[0] - room), max(0, face[1] - room), min(width, face[2] + room), min(height, face[3] + room))
    found = []
    for shape in SHAPES:
        whole = min(width, height * shape)
        close = min(whole, _CLOSE * max(face[2] - face[0], (face[3] - face[1]) * shape))
        for wide in (whole, (whole + close) / 2, close):
            box = _placed(needed, (wide, wide / shape), size_wh)
            if box is not None and not any(_meets(box, other) for other in others):
                found.append((wide * wide / shape, box))
    return max(found)[1] if found else None


def _placed(needed: Box, wanted_wh: tuple[float, float], size_wh: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """A box of this size around the middle of what is needed, moved into the picture; None where that cuts it."""
    edges = []
    for axis in (0, 1):
        length = int(wanted_wh[axis])
        if length < needed[2 + axis] - needed[axis]:
            return None
        middle = (needed[axis] + needed[2 + axis]) / 2
        begin = int(min(max(0, middle - length / 2), size_wh[axis] - length))
        edges.append((begin, begin + length))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _meets(box: tuple[int, int, int, int], other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def bucket(crop_wh: tuple[int, int], side: int) -> tuple[int, int]:
    """Pixels of a crop in a trainer's bucket of `side` x `side` pixels of area; never enlarged."""
    width, height = crop_wh
    scale = min(1.0, side / (width * height) ** 0.5)
    if scale == 1.0:
        return crop_wh
    return tuple(max(_MULTIPLE, round(length * scale / _MULTIPLE) * _MULTIPLE) for length in (width, height))


def _document(person: Person, images: list[PreparedImage], left_out: list[LeftOut], wanted: Wanted) -> Prepared:
    coverage = [
        distribution(GAP_TYPES[name], [getattr(one, name) for one in images]) for name in ("face_angle", "shot_size")
    ]
    return Prepared(
        created=timestamp(),
        person=person.name or "",
        cluster=person.id,
        settings={"size": wanted.side, "crop": wanted.side is not None, "real_min": wanted.fewest},
        images=images,
        left_out=left_out,
        coverage=coverage,
        gaps=recommend(coverage, 10**6, 1.0),
        warnings=_warnings(images, wanted),
    )


def _warnings(images: list[PreparedImage], wanted: Wanted) -> list[str]:
    """What makes the pictures a poor dataset."""
    said, count = [], len(images)
    if count < wanted.fewest:
        said.append(f"{count} picture(s) are fewer than {wanted.fewest}: a LoRA learns the photos, not the person.")
    elif count < GOOD_MINIMUM:
        said.append(f"{count} pictures; at least {GOOD_MINIMUM} are advised.")
    for field, what in (("shot_size", "shot size"), ("face_angle", "angle")):
        values = [getattr(one, field) for one in images]
        most = max(set(values), key=values.count)
        if count >= FEWEST_IMAGES and values.count(most) >= ONE_SIDED * count:
            said.append(f"{values.count(most)} of {count} pictures have one {what}: {most.replace('_', ' ')}.")
    small = sum(min(one.size_wh) < (wanted.side or 0) / 2 for one in images)
    if small:
        said.append(
            f"{small} of {count} pictures are smaller than half of {wanted.side} pixels: trainers enlarge them."
        )
    return said
