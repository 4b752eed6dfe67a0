"""What the second looks of mirror/faces/finding.py are worth on real photos with one face each.

    python -m benchmarks.finding_bench PACK_FOLDER PHOTOS_FOLDER

Every photo is compared with itself turned by 90, 180 and 270 degrees, cropped inside the face's box, and shrunk into a
landscape of 4000 x 3000; each by what the first look alone gives and by what `FaceFinder.find` gives.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mirror.faces.engine import FaceEngine
from mirror.faces.finding import Faces
from utils.decoding import decode
from utils.images import list_images, read_file

CROPS = (0.0, 0.05, 0.10, 0.15, 0.20)  # inside the face's box, as a share of it
WIDTHS = (30, 38, 50)  # pixels of a face in the landscape


def run(args: argparse.Namespace) -> None:
    engine = FaceEngine(args.pack)
    photos = [decode(read_file(path)) for path in list_images(args.photos).images]
    first = [_first_look(engine, photo) for photo in photos]
    kept = [(photo, faces) for photo, faces in zip(photos, first, strict=True) if len(faces) == 1]
    plain = sum(engine._finder._is_plainly_upright(faces) and not engine._finder._is_cut(faces) for _, faces in kept)
    print(f"{len(kept)} of {len(photos)} photos hold one face; {plain} of them need no second look")
    whole = [_embedding(engine, faces) for _, faces in kept]
    for turns in (1, 2, 3):
        made = [np.ascontiguousarray(np.rot90(photo, -turns)) for photo, _ in kept]
        _compare(engine, f"turned by {90 * turns} degrees", made, whole)
    for inside in CROPS:
        made = [_cropped(photo, faces.boxes[0, :4], inside) for photo, faces in kept]
        _compare(engine, f"cropped {100 * inside:.0f} % inside the box", made, whole)
    for width in WIDTHS:
        made = [_landscape(photo, faces.boxes[0, :4], width) for photo, faces in kept]
        _compare(engine, f"face {width} pixels wide in 4000 x 3000", made, whole)


def _compare(engine: FaceEngine, what: str, pictures: list[np.ndarray], whole: list[np.ndarray]) -> None:
    """One line: cosine to the whole photo with the first look alone and with all, and the time by that of the first."""
    alone, seconds_alone = _cosines(engine, lambda picture: _first_look(engine, picture), pictures, whole)
    all_looks, seconds_all = _cosines(engine, engine._finder.find, pictures, whole)
    worse = sum(after < before - 0.03 for before, after in zip(alone, all_looks, strict=True))
    print(
        f"{what:34} mean {np.mean(alone):.3f} -> {np.mean(all_looks):.3f}, within 0.03: "
        f"{np.mean(np.array(alone) > 0.97):.0%} -> {np.mean(np.array(all_looks) > 0.97):.0%}, "
        f"worse by 0.03: {worse}, time x {seconds_all / seconds_alone:.2f}"
    )


def _cosines(
    engine: FaceEngine, find: Callable[[np.ndarray], Faces], pictures: list[np.ndarray], whole: list[np.ndarray]
) -> tuple[list[float], float]:
    started = time.monotonic()
    found = [find(picture) for picture in pictures]
    seconds = time.monotonic() - started
    pairs = zip(found, whole, strict=True)
    return [float(_embedding(engine, faces) @ other) if len(faces) else 0.0 for faces, other in pairs], seconds


def _first_look(engine: FaceEngine, image: np.ndarray) -> Faces:
    return Faces(image, *engine._finder._detect(image, engine._finder.size))


def _embedding(engine: FaceEngine, faces: Faces) -> np.ndarray:
    return engine._measure_face(faces, faces.largest, faces.image.shape[1::-1]).embedding


def _cropped(photo: np.ndarray, box: np.ndarray, inside: float) -> np.ndarray:
    left, top, right, bottom = (float(edge) for edge in box)
    dx, dy = inside * (right - left), inside * (bottom - top)
    rows = slice(int(max(0, top + dy)), int(bottom - dy))
    return np.ascontiguousarray(photo[rows, int(max(0, left + dx)) : int(right - dx)])


def _landscape(photo: np.ndarray, box: np.ndarray, width: int) -> np.ndarray:
    scale = width / float(box[2] - box[0])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((3000, 4000, 3), (90, 140, 90), np.uint8)
    canvas[1500 : 1500 + small.shape[0], 1900 : 1900 + small.shape[1]] = small
    return canvas


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, metavar="PACK_FOLDER", help="model pack that fits the photos")
    parser.add_argument("photos", type=Path, metavar="PHOTOS_FOLDER", help="pictures with one face each")
    run(parser.parse_args())
