"""Every face of every picture of a folder, into the store; only pictures that are new to it are measured."""

from __future__ import annotations

import argparse
import contextlib
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.vault import MovedFile, ScannedFile, ScanReport
from mirror.dataset.pixels import brightness, grey_of, histogram, sharpness
from mirror.faces.engine import FaceMeasurement
from mirror.faces.looking import look_at
from mirror.faces.measurer import Measurer
from mirror.vault.choices import LORA_READY, ORGANIZED
from mirror.vault.eyes import eye_contrast
from mirror.vault.store import Face, MeasuredFace, StoredPicture, VaultStore, path_key
from utils.console import UserError
from utils.defaults import IMAGE_EXTENSIONS
from utils.files import Status, readable, timestamp, versions_of
from utils.images import Listing, check_size, demand_folder, holds_pictures, list_images, thumbnail
from utils.progress import GroupProgress

FACE_SIDE = 112  # pixels to which a face's crop is brought before its sharpness is measured: ArcFace's own input
FACE_THUMBNAIL = 112  # pixels; about 4 KB each, so that a page of 10,000 faces stays below 60 MB
_FACE_QUALITY = 78
_MARGIN = 0.25  # of the box, shown around a face


@dataclass
class ScannedPicture:
    """One file of the folder and what became of it."""

    name: str  # relative to the folder, forward slashes
    path: Path
    content: str | None = None
    status: Status | None = None
    reason: str = ""
    faces: int = 0
    is_new: bool = False  # its content was measured in this run


class VaultLooker:
    """What the picture engine looks with (mirror.faces.looking.Looker): all faces, into the store one by one."""

    def __init__(self, store: VaultStore, measurer: Measurer, min_score: float, min_size: float):
        self.cache = store
        self.max_megapixels = measurer.max_megapixels
        self._store, self._measurer = store, measurer
        self._min_score, self._min_size = min_score, min_size
        self.settings = f"score{min_score:g}-size{min_size:g}{measurer.runs_on.key}"

    def label(self, picture: ScannedPicture) -> str:
        return "Scanning"

    def recall(self, picture: ScannedPicture, content: str) -> bool:
        if self._store.settings_of(content) != self.settings:
            return False
        rows = self._store.ask("SELECT width, height, status, reason FROM pictures WHERE content = ?", content)
        width, height, status, reason = rows[0]
        check_size(width, height, self.max_megapixels)
        picture.content, picture.status, picture.reason = content, Status(status), reason
        picture.faces = self._store.ask("SELECT count(*) FROM faces WHERE content = ?", content)[0][0]
        return True

    def look(self, picture: ScannedPicture, content: str, image: np.ndarray, note: str) -> None:
        measured = self._measurer.engine().measure(image)
        faces = [self._face(one, image) for one in (measured, *measured.others) if self._is_wanted(one)]
        status, reason = _outcome(measured, faces, note)
        grey = grey_of(image)
        stored = StoredPicture(
            content=content,
            status=status,
            reason=reason,
            size_wh=measured.size_wh,
            bytes=os.path.getsize(picture.path),
            sharpness=round(sharpness(grey), 2),
            brightness=round(brightness(histogram(grey)), 2),
            paths=(),
        )
        self._store.put_picture(stored, self.settings, thumbnail(image), faces)
        picture.content, picture.status, picture.reason = content, status, reason
        picture.faces, picture.is_new = len(faces), True

    def _is_wanted(self, face: FaceMeasurement) -> bool:
        if face.box_xyxy is None or face.det_score < self._min_score:
            return False
        left, top, right, bottom = face.box_xyxy
        return max(right - left, bottom - top) >= self._min_size

    def _face(self, one: FaceMeasurement, image: np.ndarray) -> MeasuredFace:
        crop = grey_of(_part(image, one.box_xyxy, 0.0))
        face = Face(
            id=0,
            content="",
            box_xyxy=tuple(round(edge, 1) for edge in one.box_xyxy),
            score=round(one.det_score, 4),
            yaw_deg=round(one.yaw_deg, 2),
            pitch_deg=round(one.pitch_deg, 2),
            roll_deg=round(one.roll_deg, 2),
            age=one.age,
            sharpness=round(face_sharpness(image, one.box_xyxy), 2),
            brightness=round(float(crop.mean()), 2),
            turned_deg=one.turned_deg,
            eyes=eye_contrast(image, one.keypoints[:2], one.yaw_deg),
            person=None,
        )
        return MeasuredFace(face, one.embedding, _face_jpeg(image, one))

    def is_full(self, batch: list) -> bool:
        return True

    def finish(self, batch: list) -> None:
        """Nothing: a pack works on one picture at a time."""

    def failed(self, picture: ScannedPicture, status: Status, reason: str) -> None:
        self._store.note_bad_file(picture.path, status, reason)
        picture.content, picture.status, picture.reason = None, status, reason

    def done(self, picture: ScannedPicture, progress: GroupProgress) -> None:
        if picture.content is None:
            progress.print(f"{picture.name}: {picture.status} ({picture.reason})")

    def at_work(self) -> contextlib.AbstractContextManager:
        self._measurer.engine()  # a pack that cannot be used ends the run before the first picture
        return contextlib.nullcontext()


def _outcome(measured: FaceMeasurement, faces: list[MeasuredFace], note: str) -> tuple[Status, str]:
    """Status and words of a picture: a face that is too small or too doubtful does not count as none at all."""
    if measured.status == Status.NO_FACE or faces:
        said = measured.reason
        status = measured.status
    else:
        status, said = Status.NO_FACE, "faces were found, all below --min-score or --min-size"
    return status, "; ".join(filter(None, (said, note)))


def face_sharpness(image: np.ndarray, box_xyxy: tuple[float, ...]) -> float:
    """Variance of the Laplacian of a face's own crop, at one size for all faces; image (H, W, 3) uint8 BGR."""
    crop = grey_of(_part(image, box_xyxy, 0.0))
    small = cv2.resize(crop, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


def _part(image: np.ndarray, box_xyxy: tuple[float, ...], margin: float) -> np.ndarray:
    """The part of a picture (H, W, 3) within a box and a margin around it, never empty."""
    left, top, right, bottom = box_xyxy
    room = margin * max(right - left, bottom - top)
    height, width = image.shape[:2]
    x0, y0 = min(max(0, round(left - room)), width - 1), min(max(0, round(top - room)), height - 1)
    x1, y1 = max(x0 + 1, min(width, round(right + room))), max(y0 + 1, min(height, round(bottom + room)))
    return image[y0:y1, x0:x1]


def _face_jpeg(image: np.ndarray, one: FaceMeasurement) -> bytes:
    """The face upright, its longest side FACE_THUMBNAIL pixels."""
    part = np.rot90(_part(image, one.box_xyxy, _MARGIN), -(one.turned_deg // 90))
    scale = FACE_THUMBNAIL / max(part.shape[:2])
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(np.ascontiguousarray(part), size, interpolation=how)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _FACE_QUALITY])[1].tobytes()


@dataclass
class Scan:
    """What one scan found out."""

    pictures: list[ScannedPicture]
    moved: list[MovedFile] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)

    def rows(self) -> list[ScannedFile]:
        """A row for every file of the folder."""
        return [
            ScannedFile(
                file=one.name,
                status=str(one.status),
                reason=readable(one.reason),
                faces=one.faces,
                content=one.content,
                measured_now=one.is_new,
            )
            for one in self.pictures
        ]


def scan(store: VaultStore, looker: VaultLooker, folder: Path, pictures: list[ScannedPicture]) -> Scan:
    """Measure what is new and note what moved and what vanished. Ctrl-C and kills lose the pictures in hand alone.

    A missing file of another folder has moved if its content is here; else its disk may only be unplugged.
    """
    before = {path_key(path): (content, vanished) for path, content, _, _, vanished in store.files()}
    look_at(pictures, looker)
    seen = {path_key(one.path): one for one in pictures}
    root = path_key(folder)
    inside = root if root.endswith(os.fsencode(os.sep)) else root + os.fsencode(os.sep)
    found = {one.content for one in pictures if one.content is not None}
    gone = {
        key: facts  # a file in a sub-folder that this scan did not enter is still there
        for key, facts in before.items()
        if key not in seen and (key.startswith(inside) or facts[0] in found) and not os.path.lexists(key)
    }
    store.mark_seen(seen, gone)
    result = Scan(pictures)
    left: dict[str, list[bytes]] = {}
    for key, (content, vanished) in gone.items():
        if content is not None and not vanished:
            left.setdefault(content, []).append(key)
    for key, one in seen.items():
        if before.get(key, (None,))[0] != one.content and left.get(one.content):
            same = left[one.content]
            was = next((old for old in same if os.path.basename(old) == os.path.basename(key)), same[0])
            same.remove(was)
            result.moved.append(MovedFile(file=one.name, was=_name(was, folder)))
    moved_from = {one.was for one in result.moved}
    names = [_name(key, folder) for key, (_, vanished) in sorted(gone.items()) if not vanished]
    result.vanished = [name for name in names if name not in moved_from]
    return result


def _name(key: bytes, folder: Path) -> str:
    return readable(Path(os.path.relpath(os.fsdecode(key), os.path.abspath(folder))).as_posix())


def collect(photos: Path, recursive: bool, output: Path) -> tuple[list[ScannedPicture], Listing]:
    """List the pictures, without those that FaceVault made below `output`. Raises UserError where there are none."""
    folder = demand_folder(photos, "facevault.py scan takes the folder that holds your photos.")
    listing = list_images(folder, recursive)
    listing.problems = [readable(problem) for problem in listing.problems]
    made = _made_here(listing.images, folder, output)
    if made:
        listing.images = [path for path in listing.images if path not in made]
        said = f"Left out, as FaceVault itself made them: {len(made)} picture(s) in {output}."
        listing.problems.append(readable(said))
    left_out = [] if recursive else [sub for sub in listing.subfolders if holds_pictures(sub)]
    hint = f"{len(left_out)} sub-folder(s) with pictures were left out; --recursive takes them in."
    if not listing.images:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(IMAGE_EXTENSIONS)})." + (f" {hint}" if left_out else "")
        )
    listing.problems += [readable(f"{folder}: {hint}")] if left_out else []
    names = [readable(path.relative_to(folder).as_posix()) for path in listing.images]
    return [ScannedPicture(name, path) for name, path in zip(names, listing.images, strict=True)], listing


def _made_here(images: list[Path], photos: Path, output: Path) -> set[Path]:
    """Pictures that lie in a dataset of the vault, where datasets lie below the photos."""
    folders = {(output / name).resolve() for name in (ORGANIZED, LORA_READY)}
    folders = {one for one in folders if photos.resolve() in one.parents}
    return {path for path in images if folders & {*path.parent.resolve().parents}} if folders else set()


def scan_report(
    args: argparse.Namespace, result: Scan, measurer: Measurer, listing: Listing, warnings: list[str]
) -> ScanReport:
    """What became of every file."""
    rows = result.rows()
    return ScanReport(
        created=timestamp(),
        photos=readable(str(args.photos.resolve())),
        pack=measurer.pack_info(),
        settings={
            "recursive": args.recursive,
            "min_score": args.min_score,
            "min_size": args.min_size,
            "max_megapixels": args.max_megapixels,
            "engine": measurer.runs_on.name,
            "precision": measurer.runs_on.precision,
            "gpu": measurer.runs_on.gpu or None,
        },
        versions=versions_of("facevault", insightface=version("insightface"), opencv=cv2.__version__),
        measured_now=sum(row.measured_now for row in rows),
        faces=sum(row.faces for row in rows),
        moved=result.moved,
        vanished=result.vanished,
        ignored_files=dict(listing.ignored.most_common()),
        warnings=warnings,
        files=rows,
    )
