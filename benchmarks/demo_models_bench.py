"""How good are the demo's own face networks, on people whom they never saw?

    python -m benchmarks.demo_models_bench                    # the pack in models/demo/face
    python -m benchmarks.demo_models_bench --pack demo --pack DIR    # columns side by side

Renders people of a seed of their own (`UNSEEN_SEED`), measures them with InsightFace's FaceAnalysis at 640 pixels as
users would, and prints a Markdown table. What a pack does not find counts against it. Rates carry 95 % intervals
(Wilson), as if pictures of one person were independent.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.truth_bench import wilson
from demo.facepack.gallery import hidden, nobody, overflowing, turned_away
from demo.render import Picture
from demo.scene import Scene, draw_scene
from demo.training_data import UNSEEN_SEED, draw_people, generator, render_all
from mirror.faces.engine import FaceEngine
from mirror.faces.finding import DETECTION_THRESHOLD
from mirror.faces.packs import Pack, find_pack
from mirror.faces.pose import angles_from_keypoints
from utils import options
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import DEMO_PACK, DETECTION_SIZE
from utils.files import Status

YAWS_DEG = np.arange(-80.0, 81.0, 20.0)
POSE_LIMIT_DEG = 60.0
AGES = (18.0, 75.0)
EACH = 5  # everyday pictures of a person
OVERLAP = 0.4  # intersection over union from which a box is the face


@dataclass(frozen=True)
class Found:
    """The largest face that a pack reports."""

    box_xyxy: np.ndarray
    five: np.ndarray  # (5, 2)
    embedding: np.ndarray  # (D,) unit norm
    yaw_deg: float
    pitch_deg: float
    age: float | None


@dataclass(frozen=True)
class Album:
    """Pictures of one kind; `person` counts the people."""

    pictures: list[Picture]
    person: list[int]


def albums(people: int, pixels: int, workers: int | None) -> dict[str, Album]:
    """What is measured, by name."""
    crowd = draw_people(UNSEEN_SEED, people)
    random = generator(UNSEEN_SEED, "bench")
    age = random.uniform(*AGES, people)
    scenes: dict[str, list[list[Scene]]] = {
        "plain": [[Scene(who, yaw_deg=yaw, background_seed=i) for yaw in YAWS_DEG] for i, who in enumerate(crowd)],
        "everyday": [[draw_scene(who, random) for _ in range(EACH)] for who in crowd],
        "ages": [[draw_scene(who, random, age_years=float(age[i])) for _ in range(2)] for i, who in enumerate(crowd)],
    }
    for maker in (nobody, turned_away, hidden, overflowing):
        scenes[maker.__name__] = [[maker(who, random)[0] for _ in range(2)] for who in crowd]
    made = {}
    for name, groups in scenes.items():
        pictures = list(render_all([scene for group in groups for scene in group], pixels, workers))
        made[name] = Album(pictures, [i for i, group in enumerate(groups) for _ in group])
    return made


def face_finder(folder: Path) -> Callable[[Picture], Found | None]:
    """InsightFace with the networks of a pack."""
    import onnxruntime
    from insightface.app import FaceAnalysis

    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small networks: threads would mostly wait for each other
    app = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"], sess_options=options)
    app.prepare(ctx_id=-1, det_thresh=DETECTION_THRESHOLD, det_size=(DETECTION_SIZE, DETECTION_SIZE))

    def find(picture: Picture) -> Found | None:
        faces = app.get(picture.image)
        if not faces:
            return None
        face = max(faces, key=lambda each: np.prod(each.bbox[2:] - each.bbox[:2]))
        if face.pose is None:
            yaw, pitch, _ = angles_from_keypoints(face.kps)
        else:
            pitch, yaw, _ = face.pose
        return Found(face.bbox, face.kps, face.normed_embedding, float(yaw), float(pitch), face.age)

    return find


def same_place(found: Found | None, picture: Picture) -> bool:
    """Whether the reported box lies on the face."""
    if found is None or picture.truth.face_box_xyxy is None:
        return False
    a, b = found.box_xyxy, np.array(picture.truth.face_box_xyxy)
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return bool(inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner) > OVERLAP)


def keypoint_error(found: Found, picture: Picture) -> float:
    """Mean distance of the five points from the truth, as a share of the eyes' distance in space."""
    points = picture.truth.points_68
    eyes = np.linalg.norm(points[36:42].mean(axis=0) - points[42:48].mean(axis=0))
    return float(np.linalg.norm(found.five - picture.truth.five_points, axis=1).mean() / eyes)


def verification(found: Sequence[Found | None], person: Sequence[int]) -> tuple[int, int]:
    """Right answers and questions: same person or not? The threshold comes from the other half of the people.

    Each pair of pictures of one person counts, and as many pairs of different people; a face not found is a wrong
    answer.
    """
    random = generator(UNSEEN_SEED, "pairs")
    rows = [[i for i, who in enumerate(person) if who % 2 == half] for half in (0, 1)]
    halves = [_pairs(found, person, each, random) for each in rows]
    right = asked = 0
    for learn, test in (halves, halves[::-1]):
        scores, same = learn
        limits = np.unique(scores[np.isfinite(scores)])
        limit = limits[int(np.argmax([((scores >= each) == same).mean() for each in limits]))]
        right += int((np.isfinite(test[0]) & ((test[0] >= limit) == test[1])).sum())
        asked += len(test[0])
    return right, asked


def _pairs(
    found: Sequence[Found | None], person: Sequence[int], rows: list[int], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each pair (NaN where a face is missing), and whether it is one person."""
    pairs = list(combinations(rows, 2))
    same = [pair for pair in pairs if person[pair[0]] == person[pair[1]]]
    other = [pair for pair in pairs if person[pair[0]] != person[pair[1]]]
    chosen = same + [other[i] for i in random.permutation(len(other))[: len(same)]]
    scores = [
        np.nan if found[a] is None or found[b] is None else float(found[a].embedding @ found[b].embedding)
        for a, b in chosen
    ]
    return np.array(scores), np.arange(len(chosen)) < len(same)


def rate(hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{hits / count:.1%} ({low:.1%} to {high:.1%}, n {count})"


def figures(folder: Path, made: dict[str, Album]) -> dict[str, str]:
    """One column of the table."""
    find = face_finder(folder)
    found = {name: [find(picture) for picture in album.pictures] for name, album in made.items()}
    faces = [pair for name in ("plain", "everyday") for pair in zip(found[name], made[name].pictures, strict=True)]
    turned = [(f, p) for f, p in faces if abs(p.truth.yaw_deg) <= POSE_LIMIT_DEG and same_place(f, p)]
    aged = [(f, p) for f, p in zip(found["ages"], made["ages"].pictures, strict=True) if f is not None]
    ages = [abs(f.age - p.truth.age_years) for f, p in aged if f.age is not None]
    engine = FaceEngine(folder)
    statuses = [engine.measure(picture.image).status for picture in made["overflowing"].pictures]
    column = {}
    for name, label in (("plain", "plain heads, -80 to 80 degrees, found"), ("everyday", "everyday pictures, found")):
        hits = [same_place(f, p) for f, p in zip(found[name], made[name].pictures, strict=True)]
        column[label] = rate(sum(hits), len(hits))
    for name, label in (
        ("nobody", "a face reported in an empty room"),
        ("turned_away", "a face reported on the back of a head"),
        ("hidden", "a face reported under mask, glasses and hand"),
    ):
        column[label] = rate(sum(f is not None for f in found[name]), len(found[name]))
    column["faces larger than the picture: found at once"] = rate(statuses.count(Status.OK), len(statuses))
    column["the same: found with room around"] = rate(len(statuses) - statuses.count(Status.NO_FACE), len(statuses))
    errors = [keypoint_error(f, p) for f, p in turned]
    column["keypoint error to 60 degrees, share of the eyes' distance"] = spread(errors, 100, " %")
    column["same person or not, everyday pictures"] = rate(*verification(found["everyday"], made["everyday"].person))
    column["yaw error to 60 degrees"] = spread([abs(f.yaw_deg - p.truth.yaw_deg) for f, p in turned], 1, "°")
    column["pitch error to 60 degrees"] = spread([abs(f.pitch_deg - p.truth.pitch_deg) for f, p in turned], 1, "°")
    column["age error, 18 to 75 years"] = spread(ages, 1, " years") if ages else "has no age network"
    return column


def spread(errors: Sequence[float], scale: float, unit: str) -> str:
    """Mean and 95th percentile."""
    values = scale * np.asarray(errors)
    return f"{values.mean():.1f}{unit} (95 % below {np.quantile(values, 0.95):.1f}{unit}, n {len(values)})"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.demo_models_bench", __doc__)
    add = parser.add_argument
    add("--pack", action="append", help=f"a pack's folder or name; may be repeated (default: {DEMO_PACK})")
    add("--people", type=int, default=40, help="people to render, at least 4")
    add("--pixels", type=int, default=384, help="side of the pictures")
    add("--workers", type=int, help="processes that render; without it one a core")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    packs = [_found(asked) for asked in args.pack or [DEMO_PACK]]
    made = albums(args.people, args.pixels, args.workers)
    columns = [figures(pack.folder, made) for pack in packs]
    print("| figure | " + " | ".join(pack.name for pack in packs) + " |")
    print("|---|" + "---|" * len(packs))
    for label in columns[0]:
        print(f"| {label} | " + " | ".join(column[label] for column in columns) + " |")
    return EXIT_OK


def _found(asked: str) -> Pack:
    pack = find_pack(asked)
    if pack is None:
        raise UserError(f"There is no pack {asked}; --pack takes a folder with a model pack, or its name.")
    return pack


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
