"""How many bits of the hash differ between a picture and its copies, and between pictures that are none?

    python -m benchmarks.copies_bench --pack DIR --photos DIR                    # planted copies of real photos
    python -m benchmarks.copies_bench --pack DIR --worlds DIR/501 DIR/502 ...    # worlds of demo/make_world.py

Photos: 18 copies of each, compared with their photo; then all pairs of different photos, where the nearest are to be
looked at, as a folder may hold one photo twice. Worlds: each image beside its nearest reference, near copies and near
duplicates (as their truth.json says) apart from the others. The limit SAME_BITS stands between the two. Also: what a
pair costs by what measuring a picture costs, both in seconds of one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from demo.make_world import CANDIDATES, REFERENCES, TRUTH
from mirror.faces.cache import open_cache
from mirror.faces.copies import SAME_BITS
from mirror.faces.measurer import Measurer, Picture
from mirror.faces.metrics import nearest
from mirror.faces.packs import find_pack
from mirror.faces.picture_hash import Look, hash_distance, look_of
from utils.decoding import ImageError, decode_with_note
from utils.images import list_images


def _sized(image: np.ndarray, share: float) -> np.ndarray:
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=share, fy=share, interpolation=how)


def _cropped(image: np.ndarray, top: float, right: float, bottom: float, left: float) -> np.ndarray:
    """Without these shares of height and width."""
    height, width = image.shape[:2]
    return image[int(height * top) : height - int(height * bottom), int(width * left) : width - int(width * right)]


def _lit(image: np.ndarray, gain: float, more: float = 0.0) -> np.ndarray:
    return np.clip(image * gain + more, 0, 255).astype(np.uint8)


COPIES = {  # what is done, and the JPEG quality afterwards
    "saved anew at 60": (lambda image: image, 60),
    "saved anew at 30": (lambda image: image, 30),
    "half the size": (lambda image: _sized(image, 0.5), 90),
    "0.7 of the size": (lambda image: _sized(image, 0.7), 80),
    "1.5 of the size": (lambda image: _sized(image, 1.5), 90),
    "cut by 5 %": (lambda image: _cropped(image, 0.05, 0.05, 0.05, 0.05), 92),
    "cut at the left": (lambda image: _cropped(image, 0, 0, 0, 0.05), 92),
    "cut above and below": (lambda image: _cropped(image, 0.05, 0, 0.05, 0), 92),
    "cut at a corner": (lambda image: _cropped(image, 0.05, 0.05, 0, 0), 92),
    "cut by 10 %": (lambda image: _cropped(image, 0.1, 0.1, 0.1, 0.1), 92),
    "turned by 90": (lambda image: np.rot90(image), 92),
    "turned by 180": (lambda image: np.rot90(image, 2), 92),
    "turned by 270": (lambda image: np.rot90(image, 3), 92),
    "mirrored": (lambda image: image[:, ::-1], 92),
    "brighter, clipped": (lambda image: _lit(image, 1.25, 10), 92),
    "darker": (lambda image: _lit(image, 0.7), 92),
    "gamma 0.7": (lambda image: (255 * (image / 255) ** 0.7).astype(np.uint8), 92),
    "mirrored, cut by 5 %": (lambda image: _cropped(image[:, ::-1], 0.05, 0.05, 0.05, 0.05), 85),
}


def measured(measurer: Measurer, paths: Iterable[Path]) -> dict[str, Picture]:
    """Pictures with a face, by file name."""
    pictures = [Picture("", "", path.name, path) for path in paths]
    measurer.measure(pictures)
    return {picture.filename: picture for picture in pictures if picture.measured}


def look(picture: Picture) -> Look:
    return look_of(picture.thumbnail, picture.face.box_xyxy, picture.face.size_wh)


def tell(what: str, bits: list[int]) -> None:
    """Quantiles, and how many the limit takes for the same picture."""
    low, middle, high = np.quantile(bits, [0.05, 0.5, 0.95])
    same = sum(one <= SAME_BITS for one in bits)
    print(
        f"{what}: {len(bits)} pairs, least {min(bits)}, 5 / 50 / 95 % {low:.0f} / {middle:.0f} / {high:.0f}, "
        f"most {max(bits)}; {same} are the same picture"
    )


def on_photos(measurer: Measurer, folder: Path, scratch: Path) -> None:
    photos = measured(measurer, list_images(folder).images)
    for how, (change, quality) in COPIES.items():
        for name, photo in photos.items():
            place = scratch / how / f"{name}.jpg"
            place.parent.mkdir(exist_ok=True)
            try:
                image, _ = decode_with_note(photo.path.read_bytes())
            except ImageError:
                continue
            cv2.imwrite(str(place), np.ascontiguousarray(change(image)), [cv2.IMWRITE_JPEG_QUALITY, quality])
    looks, all_bits = {name: look(photo) for name, photo in photos.items()}, []
    for how in COPIES:
        found = measured(measurer, sorted((scratch / how).iterdir()))
        bits = [hash_distance(looks[name.removesuffix(".jpg")], look(one)) for name, one in found.items()]
        all_bits += bits
        tell(how, bits)
    tell("all copies", all_bits)
    pairs = {(a, b): hash_distance(looks[a], looks[b]) for a, b in itertools.combinations(looks, 2)}
    tell("pairs of photos", list(pairs.values()))
    for (first, second), bits in sorted(pairs.items(), key=lambda item: item[1])[:14]:
        print(f"  {bits:3d} {first} and {second}")


def on_world(measurer: Measurer, folder: Path) -> tuple[list[int], list[int]]:
    """Bits of near copies and near duplicates, and of all other images, each beside its nearest reference."""
    photos = measured(measurer, list_images(folder / REFERENCES).images)
    looks = [look(photo) for photo in photos.values()]
    embeddings = np.stack([photo.face.embedding for photo in photos.values()])
    near, others = [], []
    for place in [folder / REFERENCES, *sorted((folder / CANDIDATES).iterdir())]:
        entries = json.loads((place / TRUTH).read_text(encoding="utf-8"))["images"]
        planted = {entry["file"]: entry["planted"] for entry in entries}
        doubled = {f"{entry['facts']['of']:03d}.png" for entry in entries if entry["planted"] == "near_duplicate"}
        images = photos if place.name == REFERENCES else measured(measurer, list_images(place).images)
        if not images:
            continue
        is_reference = images is photos
        faces = embeddings if is_reference else np.stack([one.face.embedding for one in images.values()])
        index, _ = nearest(faces, embeddings, is_reference)
        for (name, picture), at in zip(images.items(), index, strict=True):
            is_near = planted[name] in ("near_copy", "near_duplicate") or (is_reference and name in doubled)
            (near if is_near else others).append(hash_distance(looks[at], look(picture)))
    return near, others


def on_time(measurer: Measurer, pictures: list[Path]) -> None:
    """Seconds of one core for a picture: measured, and compared with another."""
    images = [cv2.imread(str(path)) for path in pictures]
    found = list(measured(measurer, pictures).values())
    started = time.process_time()
    for image in images:
        measurer.engine().measure(image)
    measuring = (time.process_time() - started) / len(images)
    looks = [look(picture) for picture in found]
    started = time.process_time()
    for picture, other in zip(found, looks[1:] + looks[:1], strict=True):
        hash_distance(other, look(picture))
    comparing = (time.process_time() - started) / len(found)
    print(f"measuring {1e3 * measuring:.1f} ms, comparing {1e3 * comparing:.2f} ms: {comparing / measuring:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="name or folder of a model pack")
    parser.add_argument("--photos", type=Path, help="folder of photos, each of another picture")
    parser.add_argument("--worlds", type=Path, nargs="*", default=[], help="folders of demo/make_world.py")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = open_cache(Path(scratch) / "cache.sqlite")
        measurer = Measurer(find_pack(args.pack), cache)
        if args.photos:
            on_photos(measurer, args.photos, Path(scratch))
            on_time(measurer, list_images(args.photos).images)
        near, others = [], []
        for folder in args.worlds:
            found = on_world(measurer, folder)
            near, others = near + found[0], others + found[1]
        if args.worlds:
            tell("near copies and near duplicates", near)
            tell("other images", others)
            on_time(measurer, list_images(args.worlds[0] / REFERENCES).images)
        cache.close()


if __name__ == "__main__":
    main()
