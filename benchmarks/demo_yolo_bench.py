"""How well do the demo's YOLO models see? Rendered people that they were never trained on, everything about them known.

    python -m benchmarks.demo_yolo_bench                                # 2 minutes on 2 cores
    python -m benchmarks.demo_yolo_bench --models DIR --images 60

Prints a Markdown table with a column for each input size. Scenes are drawn as for training (demo/yolo_data.py: all
framings, yaw to 85 degrees, masks, glasses, dim and blurred pictures, nobody at all), of other people, at other sizes.
Intervals are Wilson's of 95 %; pictures of one person are not quite independent, so they are a little narrow.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth_bench import wilson
from demo.render import Picture
from demo.train_yolo import prepare_ultralytics
from demo.training_data import UNSEEN_SEED, draw_people, generator, render_all
from demo.yolo_data import TRUE_BOXES, Marked, draw_wide_scenes, pixels_per_cm
from mirror.faces.pose import BIN_LIMITS_DEG, angle_bin
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import MODELS_FOLDER

PIXELS = 448  # pictures are squares of this side
PICTURES_A_PERSON = 8
LEAST_SCORE = 0.01  # what counts towards mAP
CONFIDENCE = 0.25  # what counts as found: ultralytics' own default
OVERLAP = 0.5  # intersection over union from which a box is right
EYES_FROM_FILL = 0.2  # a full figure's eyes are too small to be marked (demo/yolo_data.py)
BATCH = 16


@dataclass(frozen=True)
class Seen:
    """What a model found in one picture, best first: (N, 4) xyxy and (N, 5, 2) in pixels, (N,) scores."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray | None

    def sure(self) -> Seen:
        keep = self.scores >= CONFIDENCE
        return Seen(self.boxes[keep], self.scores[keep], None if self.points is None else self.points[keep])


def look(model: Path, pictures: Sequence[Picture], pixels: int) -> list[Seen]:
    """What the checkpoint finds in each picture at an input size of `pixels`."""
    from ultralytics import YOLO

    network, found = YOLO(model), []
    for start in range(0, len(pictures), BATCH):
        images = [picture.image for picture in pictures[start : start + BATCH]]
        for result in network.predict(images, imgsz=pixels, conf=LEAST_SCORE, verbose=False):
            points = None if result.keypoints is None else result.keypoints.xy.cpu().numpy()
            found.append(Seen(result.boxes.xyxy.cpu().numpy(), result.boxes.conf.cpu().numpy(), points))
    return found


def overlaps(box: Sequence[float], others: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of one box with each of (N, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return shared / (areas + (box[2] - box[0]) * (box[3] - box[1]) - shared)


def average_precision(seen: Sequence[Seen], true: Sequence[list[Marked]]) -> float:
    """Area under precision over recall at OVERLAP, precision made falling (PASCAL VOC, from 2010 on)."""
    total = sum(map(len, true))
    ranked = sorted(((score, i, k) for i, one in enumerate(seen) for k, score in enumerate(one.scores)), reverse=True)
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, i, k in ranked:
        boxes = np.array([thing.box_xyxy for thing in true[i]]).reshape(-1, 4)
        free = [0.0 if (i, j) in taken else o for j, o in enumerate(overlaps(seen[i].boxes[k], boxes))]
        hit = bool(free) and max(free) >= OVERLAP
        if hit:
            taken.add((i, int(np.argmax(free))))
        hits.append(hit)
    right = np.cumsum(hits)
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(precision[np.array(hits, bool)].sum() / total)


def face_errors(seen: Seen, thing: Marked, unit_px: float) -> float | None:
    """Mean distance of the keypoints in the frame, in units of `unit_px`; None where the face was not found."""
    sure = seen.sure()
    fits = overlaps(thing.box_xyxy, sure.boxes)
    if not len(fits) or fits.max() < OVERLAP:
        return None
    inside = thing.points[:, 2] > 0
    distances = np.linalg.norm(sure.points[int(fits.argmax())] - thing.points[:, :2], axis=1)[inside]
    return float(distances.mean() / unit_px) if len(distances) else float("nan")


def rate(hits: Sequence[bool]) -> str:
    if not len(hits):
        return "no case"
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits) / len(hits):.1%} ({low:.1%} to {high:.1%})"


Rows = dict[str, str]  # figure: its value


def face_rows(seen: list[Seen], true: list[list[Marked]], pictures: list[Picture]) -> Rows:
    rows = {"face: box mAP50": f"{average_precision(seen, true):.3f}"}
    faces = []
    for one, things, picture in zip(seen, true, pictures, strict=True):
        between_eyes = 2 * picture.truth.scene["who"]["eye_spacing"] * pixels_per_cm(picture.truth, PIXELS)
        faces += [(angle_bin(picture.truth.yaw_deg), face_errors(one, thing, between_eyes)) for thing in things]
    for name in BIN_LIMITS_DEG:
        errors = [error for bin_name, error in faces if bin_name == name]
        found = [error for error in errors if error is not None]
        rows[f"face: found, {name} ({len(errors)})"] = rate([error is not None for error in errors])
        rows[f"face: keypoint error, {name}"] = f"{np.nanmean(found):.3f}" if found else "no case"
    empty = [not len(one.sure().scores) for one, things in zip(seen, true, strict=True) if not things]
    rows[f"face: none found where there is none ({len(empty)})"] = rate(empty)
    return rows


def visible_rows(name: str, seen: list[Seen], true: list[list[Marked]]) -> Rows:
    """Box mAP50, and whether anything was found, against whether anything is marked."""
    answers = [(bool(things), bool(len(one.sure().scores))) for one, things in zip(seen, true, strict=True)]
    shown = [found for marked, found in answers if marked]
    absent = [not found for marked, found in answers if not marked]
    return {
        f"{name}: box mAP50": f"{average_precision(seen, true):.3f}",
        f"{name}: visible or not, right ({len(answers)})": rate([marked == found for marked, found in answers]),
        f"{name}: found where visible ({len(shown)})": rate(shown),
        f"{name}: none found where not ({len(absent)})": rate(absent),
    }


def fair_for(model: str) -> Callable[[Picture], bool]:
    """Whether a picture is a fair question: no mere sliver of a hand at the edge, no eyes too small to be marked."""
    if model == "hands":
        return lambda picture: (
            bool(TRUE_BOXES["hands"](picture.truth, (PIXELS, PIXELS))) == picture.truth.hands_in_frame
        )
    if model == "eyes":
        return lambda picture: picture.truth.scene["fill"] >= EYES_FROM_FILL
    return lambda picture: True


def measure(models: Path, model: str, pictures: list[Picture], pixels: int) -> Rows:
    fair = [picture for picture in pictures if fair_for(model)(picture)]
    true = [TRUE_BOXES[model](picture.truth, (PIXELS, PIXELS)) for picture in fair]
    seen = look(models / f"{model}.pt", fair, pixels)
    return face_rows(seen, true, fair) if model == "face" else visible_rows(model, seen, true)


def run(models: Path, images: int, inputs: Sequence[int], workers: int | None) -> None:
    """Print the table of the checkpoints that `models` has."""
    present = [model for model in TRUE_BOXES if (models / f"{model}.pt").is_file()]
    if not present:
        raise UserError(f"{models} has none of {', '.join(f'{model}.pt' for model in TRUE_BOXES)}.")
    people = draw_people(UNSEEN_SEED, -(-images // PICTURES_A_PERSON))
    scenes = draw_wide_scenes(people, generator(UNSEEN_SEED, "yolo"), images)
    pictures = list(render_all(scenes, PIXELS, workers))
    columns: list[Rows] = [{} for _ in inputs]
    for model in present:
        for column, pixels in zip(columns, inputs, strict=True):
            column |= measure(models, model, pictures, pixels)
    print(f"{images} pictures of {len(people)} people, {PIXELS} pixels, found means a score from {CONFIDENCE}\n")
    print("| figure (cases) | " + " | ".join(f"input {pixels}" for pixels in inputs) + " |")
    print("|---" * (len(inputs) + 1) + "|")
    for figure in columns[0]:
        print(f"| {figure} | " + " | ".join(column[figure] for column in columns) + " |")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=MODELS_FOLDER / "demo" / "yolo", help="folder of checkpoints")
    parser.add_argument("--images", type=int, default=320, help="pictures to render")
    parser.add_argument(
        "--inputs", type=int, nargs="+", default=[192, 320], help="sizes of the networks' input, pixels"
    )
    parser.add_argument("--workers", type=int, help="processes that render; without it one a core")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    args = parser.parse_args(argv)

    def work() -> int:
        with tempfile.TemporaryDirectory() as scratch:
            prepare_ultralytics(Path(scratch))
            run(args.models, args.images, args.inputs, args.workers)
        return EXIT_OK

    return run_script(work, args.debug)


if __name__ == "__main__":
    sys.exit(main())
