"""What the three small YOLO models learn from: heads in every framing and at every angle, and the boxes true in them.

`TRUE_BOXES` says what each model is to find. Sizes are in centimetres at the head's middle, so that a box means the
same in every framing:

    face   the part in the frame between chin and middle of the forehead, with five keypoints; a head that is turned
           away by more than FACE_YAW_DEG has no face
    hands  a hand that shows at least HAND_CM by HAND_CM; a finger at the edge of the frame does not count
    eyes   an OPEN eye whose pupil the camera sees: its lids and EYE_MARGIN_CM around them. Closed eyes, eyes behind
           dark glasses, hands or the nose, and eyes below EYE_PIXELS_CM are not marked: "an eye was found" means that
           one is open and to be seen
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from demo.identity import Identity
from demo.render import Picture
from demo.scene import FRAMINGS, HEAD_CM, LIGHTS, Scene, draw_scene
from demo.training_data import TRAINING_SEED, draw_people, generator, render_all
from demo.truth import Truth, clip_box
from utils.files import write_text_atomic

FACE_YAW_DEG = 100.0
HAND_CM = 3.0
EYE_MARGIN_CM = 0.6
EYE_PIXELS_CM = 2.2  # a head of 50 pixels; below, an opening is one or two pixels high and nobody can tell
PICTURES_A_PERSON = 16
SIZES_WH = ((320, 320), (320, 320), (256, 320))  # in turn from person to person, pixels
HELD_OUT_EVERY = 11  # of so many people one is for validation; no multiple of the number of sizes

_FRAMING_SHARES = {"extreme_close_up": 0.12, "close_up": 0.20, "bust": 0.28, "half_body": 0.22, "full_figure": 0.18}
_HAND_SHARES = {"none": 0.45, "wave": 0.22, "chin": 0.18, "cheek": 0.15}
_GLASSES_SHARES = {"none": 0.70, "clear": 0.18, "dark": 0.12}
_COVER_SHARES = {"none": 0.88, "mask": 0.08, "hand": 0.04}
_SIDE_DEG = 30.0  # turned further to its side, the head hides a hand at its cheek


@dataclass(frozen=True)
class Marked:
    """One thing to find, in pixels; `points` (5, 3) are x, y and a state: 2 seen, 1 hidden, 0 not in the frame."""

    box_xyxy: tuple[float, ...]
    points: np.ndarray | None = None


def pixels_per_cm(truth: Truth, height: int) -> float:
    """At the middle of the head, in a picture of `height` pixels."""
    return truth.scene["fill"] * height / HEAD_CM


def true_faces(truth: Truth, size_wh: tuple[int, int]) -> list[Marked]:
    if truth.face_box_xyxy is None or abs((truth.yaw_deg + 180) % 360 - 180) > FACE_YAW_DEG:
        return []
    inside = ((truth.five_points >= 0) & (truth.five_points < size_wh)).all(axis=1)
    state = np.where(inside, 1 + np.array(truth.five_visible), 0)
    return [Marked(truth.face_box_xyxy, np.column_stack([truth.five_points, state]))]


def true_hands(truth: Truth, size_wh: tuple[int, int]) -> list[Marked]:
    least = HAND_CM * pixels_per_cm(truth, size_wh[1])
    return [Marked(box) for box in truth.hand_boxes_xyxy if min(box[2] - box[0], box[3] - box[1]) >= least]


def true_eyes(truth: Truth, size_wh: tuple[int, int]) -> list[Marked]:
    scale = pixels_per_cm(truth, size_wh[1])
    if truth.eyes_closed or scale < EYE_PIXELS_CM:
        return []
    margin = EYE_MARGIN_CM * scale * np.array([-1, -1, 1, 1])
    seen = [box for box, pupil in zip(truth.eye_boxes_xyxy, truth.five_visible[:2], strict=True) if pupil]
    boxes = [clip_box(tuple(float(v) for v in np.array(box) + margin), size_wh) for box in seen]
    return [Marked(box) for box in boxes if box is not None]


TRUE_BOXES: dict[str, Callable[[Truth, tuple[int, int]], list[Marked]]] = {
    "face": true_faces,
    "hands": true_hands,
    "eyes": true_eyes,
}


def _pick(random: np.random.Generator, shares: dict[str, float]) -> str:
    return str(random.choice(list(shares), p=list(shares.values())))


def draw_wide_scene(who: Identity, random: np.random.Generator) -> Scene:
    """A picture of anything that the models will see: any framing, yaw to 85 degrees, hands, glasses, masks, faults."""
    fill = FRAMINGS[_pick(random, _FRAMING_SHARES)] * float(random.uniform(0.82, 1.2))
    yaw = float(random.uniform(-85, 85)) if random.uniform() < 0.75 else float(random.normal(0, 12))
    scene = draw_scene(
        who,
        random,
        fill=fill,
        yaw_deg=yaw,
        pitch_deg=float(np.clip(random.normal(0, 9), -24, 24)),
        roll_deg=float(np.clip(random.normal(0, 8), -24, 24)),
        place=_place(fill, random),
        hand=_pick(random, _HAND_SHARES),
        glasses=_pick(random, _GLASSES_SHARES),
        cover=_pick(random, _COVER_SHARES),
        eyes_closed=bool(random.uniform() < 0.15),
    )
    if scene.hand == "cheek" and yaw > _SIDE_DEG:
        scene = replace(scene, hand="wave")
    return _without_face(_faulty(scene, random), random)


def _place(fill: float, random: np.random.Generator) -> tuple[float, float]:
    """Around where a photographer puts the head: lower the larger it is (as demo/render.py does by default)."""
    usual = float(np.clip(0.10 + 0.74 * fill, 0.10, 0.5))
    return 0.5 + float(random.uniform(-0.2, 0.2)), usual + float(random.uniform(-0.04, 0.08))


def _faulty(scene: Scene, random: np.random.Generator) -> Scene:
    """Some pictures are dark, blurred, flat or compressed."""
    draws = random.uniform(size=5)
    return replace(
        scene,
        light=LIGHTS["low_key"] if draws[0] < 0.08 else scene.light,
        blur_px=float(random.uniform(0.5, 3.0)) if draws[1] < 0.15 else 0.0,
        motion_px=float(random.uniform(3.0, 12.0)) if draws[2] < 0.05 else 0.0,
        contrast=float(random.uniform(0.4, 0.9)) if draws[3] < 0.10 else 1.0,
        jpeg=int(random.integers(55, 95)) if draws[4] < 0.3 else 0,
    )


def _without_face(scene: Scene, random: np.random.Generator) -> Scene:
    """One picture in fourteen shows nobody, one in fourteen the back of a head."""
    draw, turn = random.uniform(), float(random.uniform(-40, 40))
    if draw < 1 / 14:
        return replace(scene, person=False)
    if draw < 2 / 14:  # without hands: the head would hide them, and the truth does not know
        return replace(scene, yaw_deg=180 + turn, pitch_deg=0.0, hand="none", cover="none")
    return scene


def draw_wide_scenes(people: list[Identity], random: np.random.Generator, count: int) -> list[Scene]:
    """`count` scenes, the same number of each person as far as it goes; a person keeps to one expression."""
    each = math.ceil(count / len(people))
    scenes = []
    for who in people:
        mine = [draw_wide_scene(who, random) for _ in range(each)]
        look = {"expression": mine[0].expression, "strength": mine[0].strength}  # a face is quick when rendered again
        scenes += [replace(scene, **look) for scene in mine]
    return scenes[:count]


def label_lines(things: list[Marked], size_wh: tuple[int, int]) -> str:
    """Ultralytics' label file: `class x y width height` as shares of the picture, then `x y state` of each point."""
    lines = []
    for thing in things:
        x0, y0, x1, y1 = thing.box_xyxy
        values = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
        values = list(np.array(values) / (size_wh * 2))
        for x, y, state in [] if thing.points is None else thing.points:
            values += [x / size_wh[0], y / size_wh[1], state] if state else [0, 0, 0]
        lines.append(" ".join(["0", *(f"{value:.6g}" for value in values)]) + "\n")
    return "".join(lines)


def write_datasets(
    folder: Path, images: int, seed: int, workers: int | None = None, on_picture: Callable[[], None] = lambda: None
) -> Path:
    """Render `images` training pictures once and write them for all models; the folder that holds one folder each.

    FOLDER/pictures_<images>_<seed>/<model>/images/{train,val}/*.jpg and labels/ beside images/. What an earlier call
    with the same numbers has finished is used again. Raises OSError.
    """
    base = folder / f"pictures_{images}_{seed}"
    finished = base / "finished"
    if finished.exists():
        return base
    for model in TRUE_BOXES:
        for part in ("train", "val"):
            (base / model / "images" / part).mkdir(parents=True, exist_ok=True)
            (base / model / "labels" / part).mkdir(parents=True, exist_ok=True)
    for name, part, picture in _training_pictures(images, seed, workers):
        _write_picture(base, name, part, picture)
        on_picture()
    write_text_atomic(finished, f"{images} pictures\n")
    return base


def _training_pictures(images: int, seed: int, workers: int | None) -> Iterator[tuple[str, str, Picture]]:
    """(name, train or val, picture), ordered by size."""
    people = draw_people(TRAINING_SEED, max(math.ceil(images / PICTURES_A_PERSON), 2))
    scenes = draw_wide_scenes(people, generator(TRAINING_SEED, f"yolo {seed}"), images)
    each = math.ceil(images / len(people))
    for size in dict.fromkeys(SIZES_WH):
        mine = [i for i in range(images) if SIZES_WH[i // each % len(SIZES_WH)] == size]
        for i, picture in zip(mine, render_all([scenes[i] for i in mine], size, workers), strict=True):
            person = i // each
            held_out = person % HELD_OUT_EVERY == min(HELD_OUT_EVERY, len(people)) - 1
            yield f"{person:04d}_{i % each:02d}", "val" if held_out else "train", picture


def _write_picture(base: Path, name: str, part: str, picture: Picture) -> None:
    size_wh = picture.image.shape[1::-1]
    encoded = cv2.imencode(".jpg", picture.image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    for model, true_boxes in TRUE_BOXES.items():
        lines = label_lines(true_boxes(picture.truth, size_wh), size_wh)
        (base / model / "images" / part / f"{name}.jpg").write_bytes(encoded)
        (base / model / "labels" / part / f"{name}.txt").write_text(lines, encoding="utf-8")
