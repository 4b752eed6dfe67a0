"""How well open eyes are told from closed ones in two photos of one moment, on rendered heads.

    python -m benchmarks.eyes_bench --people 24

prints  of two photos of one moment: how often closed eyes are told beside open ones (mirror/vault/eyes.py, which
        facevault.py dedup asks), and how often open ones are taken for closed: a moment later, with another expression,
        saved anew, smaller, brighter, blurred. Beside it the eye aspect ratio of 68 landmarks, if the pack has any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from benchmarks.truth_bench import wilson
from demo.scene import Scene, draw_scene
from demo.sets import nudged
from demo.training_data import UNSEEN_SEED, draw_people, generator, render_all
from mirror.faces.engine import FaceEngine
from mirror.faces.packs import find_pack
from mirror.vault.eyes import eye_contrast, is_closed_beside
from mirror.vault.scanning import face_sharpness
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, show
from utils.defaults import DEMO_PACK

EACH = 3  # moments of a person
YAW_DEG = 25.0  # as far as heads are turned: mirror/vault/eyes.py measures what it calls front
# The six points of an eye in the 68-point scheme (iBUG), from one corner round to the other.
EYES = (range(36, 42), range(42, 48))


@dataclass(frozen=True)
class Seen:
    """What is measured of one picture."""

    contrast: float | None
    sharpness: float
    aspect_ratio: float | None  # of the landmarks


def aspect_ratio(points: np.ndarray) -> float:
    """Mean of both eyes, of (68, 2) points: height by width (Soukupová and Čech 2016)."""

    def apart(one: int, other: int) -> float:
        return float(np.linalg.norm(points[one] - points[other]))

    return float(np.mean([(apart(e[1], e[5]) + apart(e[2], e[4])) / (2 * apart(e[0], e[3])) for e in EYES]))


def scenes(people: int) -> list[dict[str, Scene]]:
    """Moments: a photo, and what may be beside it."""
    random, found = generator(UNSEEN_SEED, "eyes"), []
    for i, who in enumerate(draw_people(UNSEEN_SEED, people)):
        for k in range(EACH):
            first = draw_scene(
                who,
                random,
                yaw_deg=float(random.uniform(-YAW_DEG, YAW_DEG)),
                fill=float(random.uniform(0.35, 0.6)),
                glasses="clear" if (i + k) % 3 == 0 else "none",
            )
            later = nudged(first, 0.7, random)
            other = "laughing" if first.expression != "laughing" else "neutral"
            moment = {"open": first, "a moment later": later, "closed": replace(later, eyes_closed=True)}
            found.append(moment | {"another expression": replace(later, expression=other, strength=1.0)})
    return found


def spoiled(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same photo as other programs save it, or as a camera that moves takes it."""
    streak = np.full((1, max(3, image.shape[0] // 40) | 1), 1.0)
    yield "saved anew", cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    yield "smaller", cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    yield "brighter", np.clip(image * 1.25 + 8, 0, 255).astype(np.uint8)
    yield "blurred", cv2.GaussianBlur(image, (0, 0), image.shape[0] / 300)
    yield "moved", cv2.filter2D(image, -1, streak / streak.size)


class Looker:
    """A pack, and the landmarks that its engine does not hand on."""

    def __init__(self, folder: Path):
        from insightface.app import FaceAnalysis

        self._engine = FaceEngine(folder)
        self._app = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"])
        self._app.prepare(ctx_id=-1)

    def look(self, image: np.ndarray) -> Seen:
        face = self._engine.measure(image)
        if face.box_xyxy is None:
            return Seen(None, 0.0, None)
        faces = [one.landmark_3d_68 for one in self._app.get(image, max_num=1)]
        ratio = aspect_ratio(faces[0][:, :2]) if faces and faces[0] is not None else None
        return Seen(eye_contrast(image, face.keypoints[:2], face.yaw_deg), face_sharpness(image, face.box_xyxy), ratio)


def rows_of(moments: list[dict[str, Seen]]) -> list[list[str]]:
    """A row for each kind of picture beside the open one: how often its eyes are called closed."""
    rows = []
    for kind in moments[0]:
        if kind == "open":
            continue
        pairs = [(one[kind], one["open"]) for one in moments]
        known = [(a, b) for a, b in pairs if a.contrast is not None and b.contrast is not None]
        closed = sum(is_closed_beside(a.contrast, a.sharpness, b.contrast, b.sharpness) for a, b in known)
        falling = [a.contrast / b.contrast for a, b in known]
        low, middle, high = np.percentile(falling, (0, 50, 100))
        least, most = wilson(closed, len(known))
        rate = f"{closed / len(known):.0%} ({least:.0%} to {most:.0%}, n {len(known)})"
        ratios = [(a.aspect_ratio, b.aspect_ratio) for a, b in pairs if a.aspect_ratio and b.aspect_ratio]
        lower = f"{np.mean([a < b for a, b in ratios]):.0%}" if ratios else "-"
        rows.append([kind, rate, f"{low:.2f} / {middle:.2f} / {high:.2f}", lower])
    return rows


def run(args: argparse.Namespace) -> int:
    """One table."""
    pack = find_pack(args.pack)
    if pack is None:
        raise UserError(f"There is no pack {args.pack}.")
    looker, drawn = Looker(pack.folder), scenes(args.people)
    pictures = render_all([scene for moment in drawn for scene in moment.values()], args.pixels, args.workers)
    moments = []
    for moment in drawn:
        images = {kind: next(pictures).image for kind in moment}
        images |= dict(spoiled(images["open"]))
        moments.append({kind: looker.look(image) for kind, image in images.items()})
    titles = ["Beside the open photo", "Called closed", "Contrast by its", "Lower aspect ratio of landmarks"]
    print_table(f"{len(moments)} moments of {args.people} persons, pack {pack.name}", titles, rows_of(moments))
    show("Contrast by that of the open photo: lowest, median, highest.")
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.eyes_bench", __doc__)
    add = parser.add_argument
    add("--people", type=options.count, default=24, metavar="N", help="persons whom no pack has seen")
    add("--pixels", type=options.count, default=384, metavar="N", help="height of the rendered pictures")
    add("--pack", default=DEMO_PACK, metavar="NAME|DIR", help="what finds the eyes")
    add("--workers", type=options.count, metavar="N", help="processes that render (default: one a core)")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
