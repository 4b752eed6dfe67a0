"""The reference photos as training data: what their pixels say, and which of them show the same twice.

Pixels are measured while a photo is decoded for its face, and kept in the cache beside it: the light and the sharpness
of the face itself, because a dark wall or a blurred background behind a good face is no fault.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from mirror.dataset import pixels
from mirror.dataset.limits import COPY_ANGLES_DEG, COPY_SIMILARITY
from mirror.faces.cache import FaceCache
from mirror.faces.engine import FaceMeasurement
from mirror.faces.measurer import Beside, Picture
from utils.files import Status

# The side to which a face is shrunk (never enlarged) before its sharpness is measured. On 30 photos of the
# tests the variance of the Laplacian is then 117 and more, 14 in one that is motion-blurred, and 4 to 70 once
# they are blurred by half a percent of their longer side: pixels.SHARPNESS_LIMIT, 100, lies between. Of whole
# pictures, as validation measures generated ones, 9 of the 30 fall below it, by their smooth backgrounds.
FACE_SIDE = 160

# Cosine from which one photo is tried as a cut of another one, and with how many of the most alike: on six photos, cut
# to 80 and 70 % of their sides, the cosine to the whole was 0.78 and more.
CUT_SIMILARITY, CUT_TRIES = 0.75, 3

SAME, MIRRORED, CUT, MOMENT = "same picture", "mirrored", "cut out", "same moment"
_VERSION = 1  # of all that is kept; raise it when numbers change


@dataclass(frozen=True)
class PhotoPixels:
    """What the pixels of a photo say. Grey levels 0-255."""

    brightness: float  # mean grey level of the face, of the whole picture where there is none
    sharpness: float | None  # variance of the Laplacian of the face at FACE_SIDE; None without a face
    lighting: str  # of the whole picture, see pixels.lighting
    picture_hash: str  # hexadecimal, see pixels.picture_hash
    mirrored_hash: str  # of the mirror image

    @classmethod
    def of(cls, image: np.ndarray, face: FaceMeasurement) -> PhotoPixels:
        """From a decoded picture (H, W, 3) uint8 BGR."""
        grey = pixels.grey_of(image)
        of_face = _face_in(grey, face)
        grey = np.ascontiguousarray(np.rot90(grey, -face.turned_deg // 90))  # upright: a copy may lie otherwise
        small = pixels.of_side(grey, 2 * pixels.CROP_SIDE)  # enough for the hash of its mirror image
        return cls(
            brightness=round(float((grey if of_face is None else of_face).mean()), 2),
            sharpness=None if of_face is None else round(_sharpness(of_face), 2),
            lighting=pixels.lighting(pixels.histogram(grey)),
            picture_hash=f"{pixels.picture_hash(grey):032x}",
            mirrored_hash=f"{pixels.picture_hash(np.ascontiguousarray(small[:, ::-1])):032x}",
        )


def _face_in(grey: np.ndarray, face: FaceMeasurement) -> np.ndarray | None:
    if face.box_xyxy is None:
        return None
    left, top, right, bottom = (max(0, round(edge)) for edge in face.box_xyxy)
    part = grey[top:bottom, left:right]
    return part if min(part.shape) > 2 else None


def _sharpness(grey: np.ndarray) -> float:
    small = grey if max(grey.shape) <= FACE_SIDE else pixels.of_side(grey, FACE_SIDE)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


BESIDE = Beside(
    kind=f"photo-pixels-{_VERSION}",
    measure=lambda image, face: json.dumps(asdict(PhotoPixels.of(image, face))).encode(),
)


@dataclass(frozen=True)
class Photo:
    """One reference photo; what was not measured is None."""

    file: str
    status: Status
    reason: str
    face: FaceMeasurement | None
    pixels: PhotoPixels | None
    thumbnail: bytes | None

    @classmethod
    def of(cls, picture: Picture) -> Photo:
        known = None if picture.beside is None else PhotoPixels(**json.loads(picture.beside))
        return cls(picture.filename, picture.status, picture.reason, picture.face, known, picture.thumbnail)

    @property
    def measured(self) -> bool:
        return self.status.measured and self.pixels is not None


@dataclass(frozen=True)
class Repeat:
    """Two photos, by index, that show the same; `how` is SAME, MIRRORED, CUT or MOMENT."""

    first: int
    second: int
    how: str
    similarity: float
    differing_bits: int  # of 128, between the pictures or, where MIRRORED, one and the other's mirror image


def repeats_among(photos: list[Photo], cache: FaceCache) -> list[Repeat]:
    """Every pair that shows the same, of photos with a face; kept in the cache, as cuts take a while to find."""
    rows = [index for index, photo in enumerate(photos) if photo.measured]
    if len(rows) < 2:
        return []
    seen = hashlib.sha256(b"".join(photos[index].face.embedding.tobytes() for index in rows))
    seen.update("".join(photos[index].pixels.picture_hash for index in rows).encode())
    key = f"{_VERSION} {rows} {seen.hexdigest()}"
    kept = cache.get_blob("repeats", key)
    if kept is not None:
        return [Repeat(*one) for one in json.loads(kept)]
    found = _find(photos, rows)
    cache.put_blob("repeats", key, json.dumps([list(asdict(one).values()) for one in found]).encode())
    return found


def _find(photos: list[Photo], rows: list[int]) -> list[Repeat]:
    embeddings = np.stack([photos[index].face.embedding for index in rows])
    cosines = embeddings @ embeddings.T
    found: dict[tuple[int, int], Repeat] = {}

    def add(i: int, j: int, how: str, bits: int) -> None:
        """The first word on a pair counts."""
        i, j = sorted((i, j))
        found.setdefault((i, j), Repeat(rows[i], rows[j], how, round(float(cosines[i, j]), 4), bits))

    hashes = [int(photos[index].pixels.picture_hash, 16) for index in rows]
    mirrored = [int(photos[index].pixels.mirrored_hash, 16) for index in rows]
    for i, j, bits in pixels.near_duplicates(hashes):
        add(i, j, SAME, bits)
    for i, j, bits in pixels.near_duplicates(hashes + mirrored):
        if i < len(rows) <= j and i != j - len(rows):
            add(i, j - len(rows), MIRRORED, bits)
    for i, j in _likely_cuts(cosines):
        if (i, j) not in found and _is_cut(photos[rows[i]], photos[rows[j]]):
            add(i, j, CUT, (hashes[i] ^ hashes[j]).bit_count())
    for i, j in zip(*np.nonzero(np.triu(cosines > COPY_SIMILARITY, 1)), strict=True):
        if _turn_deg(photos[rows[i]].face, photos[rows[j]].face) <= COPY_ANGLES_DEG:
            add(int(i), int(j), MOMENT, (hashes[i] ^ hashes[j]).bit_count())
    return list(found.values())


def _likely_cuts(cosines: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i < j) of which one may be cut from the other: for each photo those most alike."""
    pairs = set()
    for i, row in enumerate(cosines):
        others = [int(j) for j in np.argsort(-row)[: CUT_TRIES + 1] if j != i and row[j] >= CUT_SIMILARITY]
        pairs |= {(min(i, j), max(i, j)) for j in others}
    return sorted(pairs)


def _is_cut(one: Photo, other: Photo) -> bool:
    greys = [cv2.imdecode(np.frombuffer(photo.thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE) for photo in (one, other)]
    return pixels.is_cut_from(*greys) or pixels.is_cut_from(*greys[::-1])


def _turn_deg(one: FaceMeasurement, other: FaceMeasurement) -> float:
    """The largest of the three differences of angles."""
    pairs = ((one.yaw_deg, other.yaw_deg), (one.pitch_deg, other.pitch_deg), (one.roll_deg, other.roll_deg))
    return max(abs((a - b + 180) % 360 - 180) for a, b in pairs)
