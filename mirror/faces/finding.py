"""Where the faces of a picture are: found at once, or in a second look that is taken only where the first one is weak.

    at once    the detector at its usual input size; every picture
    padded     a black border around it: nothing was found, or the largest face is cut off at the picture's edge
    turned     by 90, 180 or 270 degrees: the face lies on its side, or is found less clearly than an upright one
    enlarged   at up to 1,920 pixels: nothing was found, and the picture is larger than the detector's input

`python -m benchmarks.finding_bench` measures what the looks are worth; the limits were set on 28 real photos with a
RetinaFace detector, and the figures beside them are from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mirror.faces.pose import angles_from_keypoints

DETECTION_THRESHOLD = 0.5  # InsightFace's own default
RESCUE_PADDING = 0.40  # black border on each side, as a share of that side, as documented
ENLARGED_SIZES = (1280, 1920)  # pixels, sides of the detector's input for small faces; documented in docs/speed.md

TILTED_DEG = 45.0  # roll beyond which a face lies nearer to a turned picture than to an upright one
# A face is compared with itself turned, four tiles in one image. Small and with much around it: of 102 photos and
# turned photos the right tile won 102 times at 160 pixels and 2.5 boxes, 97 at 320 pixels, 100 at 1.5 boxes.
_TILE, _TILE_BOXES = 160, 2.5
_TILE_THRESHOLD = 0.3  # below the usual one: of four tiles all scores are wanted
# In log-odds, by how much a face must be clearer turned than as it is: in the tiles, and in tiles and whole picture
# together. Photos that were turned had 1.0 and 3.0 at the least, a rendered profile that was not 0.6 and -1.7.
_CLEARER_TILE, _CLEARER = 0.5, 1.0
# In log-odds, how much less clear a cut face may be with a border: with it the keypoints lie better all the same.
# Cosine to the whole photo, cropped 15 % inside the face's box: 0.37 as it is, 0.66 so.
_BORDER_HANDICAP = 2.0
# In log-odds, by how much a false box is less clear than the face beside it: 0.7 against 8 in a photo of a tilted head.
# Our choice; SCRFD's scores span less than that, so that with its packs the largest box always counts.
_DOUBTFUL = 4.0
# Pixels of black beside a picture at the least: a face at its edge then has the similarities that it has in a square,
# to 0.001; without them one of 28 photos differed by 0.0025.
_BLACK = 16
_STRIDE = 32  # pixels: the coarsest of the detectors' grids, which an input must fill
# Pixels in the detector's input below which faces are missed, where every face is wanted: the anchors of SCRFD and
# RetinaFace begin at 16.
_SMALLEST_SEEN = 20.0
_CLOSER_BOXES = 6.0  # face boxes a side: a face of a sixth of the detector's input is one that it finds well


@dataclass(frozen=True)
class Faces:
    """The faces of one picture, in pixels of `image`, which is the picture after `turned_deg`."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    boxes: np.ndarray  # (N, 5) x1 y1 x2 y2 score
    keypoints: np.ndarray  # (N, 5, 2)
    padded: bool = False
    enlarged_to: int = 0  # pixels, the detector's input where that was larger than usual
    turned_deg: int = 0  # clockwise

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def largest(self) -> int:
        """Index of the largest face; a doubtful box is passed over for a clear face of at least half its area."""
        areas = (self.boxes[:, 2:4] - self.boxes[:, 0:2]).prod(axis=1)
        clarity = [_log_odds(score) for score in self.boxes[:, 4]]
        best = int(areas.argmax())
        rivals = [
            i for i in range(len(areas)) if 2 * areas[i] >= areas[best] and clarity[i] > clarity[best] + _DOUBTFUL
        ]
        return max(rivals, key=lambda i: areas[i], default=best)

    def in_original(self, box_xyxy: np.ndarray) -> tuple[float, float, float, float]:
        """A box of `image` in pixels of the picture before it was turned."""
        left, top, right, bottom = (float(edge) for edge in box_xyxy)
        height, width = self.image.shape[:2]
        return {
            0: (left, top, right, bottom),
            90: (top, width - right, bottom, width - left),
            180: (width - right, height - bottom, width - left, height - top),
            270: (height - bottom, left, height - top, right),
        }[self.turned_deg]

    def points_in_original(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of `image` in pixels of the picture before it was turned."""
        x, y = points[:, 0], points[:, 1]
        height, width = self.image.shape[:2]
        turned = {0: (x, y), 90: (y, width - x), 180: (width - x, height - y), 270: (height - y, x)}
        return np.stack(turned[self.turned_deg], axis=1)


class FaceFinder:
    """Looks for faces with InsightFace's detector `model`. Thread-safe.

    `example` is a picture (H, W, 3) BGR of upright faces: what is found less clearly than their median gets a second
    look.
    """

    def __init__(self, model: object, size: int, example: np.ndarray):
        self._model = model
        self.size = size
        scores = self._detect(example, size)[0][:, 4]
        self._clear = float(np.median(scores)) if len(scores) else 0.0

    def find(self, image: np.ndarray, smallest_face: float | None = None) -> Faces:
        """The faces of `image` (H, W, 3) uint8 BGR, so that the largest is found well; none is an empty result.

        With `smallest_face` (pixels of `image`) faces from that size on are looked for beside the largest one as well.
        """
        faces = self._find_largest(image)
        if smallest_face is None or not len(faces) or faces.enlarged_to:
            return faces
        return self._with_small_ones(faces, smallest_face)

    def _with_small_ones(self, faces: Faces, smallest_face: float) -> Faces:
        """`faces`, and those that are too small in the detector's usual input."""
        side = max(faces.image.shape[:2])

        def shows(size: int) -> bool:
            return smallest_face * size / side >= _SMALLEST_SEEN

        if shows(self.size):
            return faces
        size = next((size for size in ENLARGED_SIZES if shows(size)), ENLARGED_SIZES[-1])
        boxes, keypoints = self._detect(faces.image, size)
        new = [i for i in range(len(boxes)) if not any(_is_one_face(boxes[i], known) for known in faces.boxes)]
        return replace(
            faces,
            boxes=np.concatenate([faces.boxes, boxes[new]]),
            keypoints=np.concatenate([faces.keypoints, keypoints[new]]),
        )

    def _find_largest(self, image: np.ndarray) -> Faces:
        faces = self._look(image)
        if len(faces) and self._is_plainly_upright(faces):
            return faces
        turned = self._turned(image, faces)
        if turned is not None or len(faces):
            return turned or faces
        enlarged = self._enlarged(image)
        if not len(enlarged) or self._is_plainly_upright(enlarged):
            return enlarged
        return self._turned(image, enlarged) or enlarged

    def _look(self, image: np.ndarray) -> Faces:
        """At once, or with a black border."""
        faces = Faces(image, *self._detect(image, self.size))
        if len(faces) and not self._is_cut(faces):
            return faces
        padded = Faces(image, *self._detect_padded(image), padded=True)
        if not len(padded):
            return faces
        if len(faces) and _log_odds(_score(padded)) < _log_odds(_score(faces)) - _BORDER_HANDICAP:
            return faces
        return padded

    def _is_cut(self, faces: Faces) -> bool:
        """Whether the largest face reaches beyond the picture."""
        left, top, right, bottom = faces.boxes[faces.largest, :4]
        height, width = faces.image.shape[:2]
        return left < 0 or top < 0 or right > width or bottom > height

    def _is_plainly_upright(self, faces: Faces) -> bool:
        if _score(faces) < self._clear:
            return False
        return abs(angles_from_keypoints(faces.keypoints[faces.largest]).roll_deg) <= TILTED_DEG

    def _turned(self, image: np.ndarray, faces: Faces) -> Faces | None:
        """The faces of the turned picture, where it shows the largest one, or any, more clearly."""
        if len(faces):
            turn, gain = self._clearest_turn(_around(image, faces.boxes[faces.largest, :4], _TILE))
        else:
            turn, gain = self._clearest_turn(_window(image, (0.0, 0.0), max(image.shape[:2]), self.size // 2))
        if not turn:
            return None
        upright = np.ascontiguousarray(np.rot90(image, -turn))
        again = self._enlarged(upright) if faces.enlarged_to else self._look(upright)
        if len(again) and len(faces):
            gain += _log_odds(_score(again)) - _log_odds(_score(faces))
        return replace(again, turned_deg=90 * turn) if len(again) and gain >= _CLEARER else None

    def _clearest_turn(self, square: np.ndarray) -> tuple[int, float]:
        """Quarter turns clockwise that show the face of `square` most clearly, and by how much, in log-odds.

        0 turns: it is as clear as it is, or there is no face in any.
        """
        tile = len(square)
        rows = [[square, np.rot90(square, -1)], [np.rot90(square, -2), np.rot90(square, -3)]]
        boxes, _ = self._detect(np.vstack([np.hstack(row) for row in rows]), 2 * tile, _TILE_THRESHOLD)
        scores = np.zeros(4)
        for left, top, right, bottom, score in boxes:
            turn = 2 * ((top + bottom) / 2 >= tile) + ((left + right) / 2 >= tile)
            scores[turn] = max(scores[turn], score)
        best = int(scores.argmax())
        gain = _log_odds(scores[best]) - _log_odds(scores[0])
        return (best, gain) if scores[best] >= DETECTION_THRESHOLD and gain >= _CLEARER_TILE else (0, 0.0)

    def _enlarged(self, image: np.ndarray) -> Faces:
        """A look at more pixels, for faces that are a few pixels wide at the usual size."""
        side = max(image.shape[:2])
        size = next((size for size in ENLARGED_SIZES if side <= size), ENLARGED_SIZES[-1])
        if side <= self.size or size <= self.size:
            return Faces(image, *_nothing())
        faces = Faces(image, *self._detect(image, size), enlarged_to=size)
        return self._closer(faces) if len(faces) else faces

    def _closer(self, faces: Faces) -> Faces:
        """The largest face seen once more in a part of the picture, where its keypoints are found more exactly."""
        left, top, right, bottom = (float(edge) for edge in faces.boxes[faces.largest, :4])
        side = max(right - left, bottom - top) * _CLOSER_BOXES
        corner = (left + right - side) / 2, (top + bottom - side) / 2
        closer = Faces(faces.image, *self._detect(_window(faces.image, corner, side, self.size), self.size))
        middle = ((closer.boxes[:, :2] <= self.size / 2) & (closer.boxes[:, 2:4] >= self.size / 2)).all(axis=1)
        if not middle.any():
            return faces
        scale, one = side / self.size, int(np.flatnonzero(middle)[closer.boxes[middle, 4].argmax()])
        boxes, keypoints = faces.boxes.copy(), faces.keypoints.copy()
        boxes[faces.largest, :4] = closer.boxes[one, :4] * scale + np.array(corner * 2, np.float32)
        boxes[faces.largest, 4] = closer.boxes[one, 4]
        keypoints[faces.largest] = closer.keypoints[one] * scale + np.array(corner, np.float32)
        return replace(faces, boxes=boxes, keypoints=keypoints)

    def _detect(
        self, image: np.ndarray, size: int, threshold: float = DETECTION_THRESHOLD
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 5) x1 y1 x2 y2 score, and keypoints (N, 5, 2), in pixels of `image`."""
        height, width = image.shape[:2]
        if min(height, width) * size < max(height, width):
            return _nothing()  # shrunk to the detector's input, less than one pixel is left of the short side
        try:
            return self._model.detect(image, input_size=self._input_wh(image, size), det_thresh=threshold)
        except ValueError:
            if size == self.size:
                raise
            return _nothing()  # a detector that was exported for one size has no second look at another

    def _input_wh(self, image: np.ndarray, size: int) -> tuple[int, int]:
        """The detector's input for a picture whose longer side becomes `size`: no more black beside it than must be.

        A network that was exported for one size takes that only.
        """
        if self._model.static_input_size is not None:
            return size, size
        height, width = image.shape[:2]
        scale = size / max(height, width)
        return tuple(min(size, _STRIDE * math.ceil((side * scale + _BLACK) / _STRIDE)) for side in (width, height))

    def _detect_padded(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`_detect` with a black border of RESCUE_PADDING around the picture; results in original coordinates.

        The picture is drawn into the detector's input at once: a border around the full-size picture would cost three
        times its memory and then be shrunk to the same.
        """
        height, width = image.shape[:2]
        scale = self.size / ((1 + 2 * RESCUE_PADDING) * max(height, width))
        inner_w, inner_h = round(width * scale), round(height * scale)
        if min(inner_w, inner_h) < 1:
            return _nothing()
        left, top = round(RESCUE_PADDING * inner_w), round(RESCUE_PADDING * inner_h)
        # the longer side is the detector's input to the pixel, so that nothing is scaled once more
        sides = (
            self.size if side == max(height, width) else round(side * self.size / max(height, width))
            for side in (height, width)
        )
        canvas = np.zeros((*sides, 3), np.uint8)
        canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h))
        boxes, keypoints = self._detect(canvas, self.size)
        stretch = np.array([width / inner_w, height / inner_h], np.float32)
        corner = np.array([left, top], np.float32)
        boxes = boxes.copy()
        boxes[:, 0:2] = (boxes[:, 0:2] - corner) * stretch
        boxes[:, 2:4] = (boxes[:, 2:4] - corner) * stretch
        return boxes, (keypoints - corner) * stretch


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)


def _is_one_face(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether the centre of one box lies inside the other."""

    def holds(outer: np.ndarray, inner: np.ndarray) -> bool:
        centre = (inner[:2] + inner[2:4]) / 2
        return bool((centre >= outer[:2]).all() and (centre <= outer[2:4]).all())

    return holds(box, other) or holds(other, box)


def _score(faces: Faces) -> float:
    return float(faces.boxes[faces.largest, 4])


def _log_odds(score: float) -> float:
    """Scores of detectors crowd below 1; their log-odds do not."""
    score = min(max(float(score), 1e-6), 1 - 1e-6)
    return float(np.log(score / (1 - score)))


def _around(image: np.ndarray, box_xyxy: np.ndarray, tile: int) -> np.ndarray:
    """The square of _TILE_BOXES face boxes around a face, as (tile, tile, 3)."""
    left, top, right, bottom = (float(edge) for edge in box_xyxy)
    side = max(right - left, bottom - top) * _TILE_BOXES
    return _window(image, ((left + right - side) / 2, (top + bottom - side) / 2), side, tile)


def _window(image: np.ndarray, corner_xy: tuple[float, float], side: float, tile: int) -> np.ndarray:
    """The square of `side` pixels from `corner_xy` on, as (tile, tile, 3); black where the picture ends."""
    scale = tile / side
    x, y = corner_xy
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(image.shape[1], round(x + side)), min(image.shape[0], round(y + side))
    at_x, at_y = max(0, round((left - x) * scale)), max(0, round((top - y) * scale))
    width = min(tile - at_x, max(1, round((right - left) * scale)))
    height = min(tile - at_y, max(1, round((bottom - top) * scale)))
    canvas = np.zeros((tile, tile, 3), np.uint8)
    inner = image[top:bottom, left:right]
    if not inner.size or min(width, height) < 1:  # a box beside the picture
        return canvas
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas[at_y : at_y + height, at_x : at_x + width] = cv2.resize(inner, (width, height), interpolation=how)
    return canvas
