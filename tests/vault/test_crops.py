"""The part of a photo that a dataset gets: the whole face, nobody else's, in a bucket, never enlarged."""

import numpy as np
import pytest

from mirror.dataset.buckets import buckets
from mirror.vault.crops import (
    MOST_ASPECT,
    OTHERS_FROM,
    SMALLEST_SHARE,
    choose_window,
    cut,
    upright,
    upright_box,
    upright_size,
)

RESOLUTION = 512


def random_case(rng):
    width, height = (int(rng.integers(120, 3000)) for _ in range(2))
    side = int(rng.integers(30, 0.9 * min(width, height)))
    faces = []
    for size in (side, *rng.integers(15, side + 1, rng.integers(0, 4))):
        left, top = rng.uniform(-0.2 * size, width - 0.8 * size), rng.uniform(-0.2 * size, height - 0.8 * size)
        faces.append((left, top, left + 0.8 * size, top + size))
    return (width, height), faces[0], faces[1:]


def size_of(box):
    return max(box[2] - box[0], box[3] - box[1])


def test_the_face_is_whole_and_no_other_is_in_it():
    rng, found = np.random.default_rng(4), 0
    for _ in range(3000):
        (width, height), face, others = random_case(rng)
        window = choose_window((width, height), face, others, RESOLUTION)
        if window is None:
            assert others
            continue
        found += 1
        left, top, right, bottom = window.box_xyxy
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        inside = max(face[0], 0), max(face[1], 0), min(face[2], width), min(face[3], height)
        assert left <= inside[0] + 1 and top <= inside[1] + 1 and right >= inside[2] - 1 and bottom >= inside[3] - 1
        assert window.size_wh[0] <= right - left and window.size_wh[1] <= bottom - top, "enlarged"
        assert window.size_wh == window.wh or window.size_wh in buckets(RESOLUTION)
        for other in others:
            if size_of(other) < OTHERS_FROM * size_of(face):
                continue
            across = min(right, other[2]) - max(left, other[0])
            down = min(bottom, other[3]) - max(top, other[1])
            assert across <= 1 or down <= 1, (window, other)
    assert found > 1500


def test_a_lost_face_is_narrowed_to_and_a_strip_is_shortened():
    far = choose_window((4000, 3000), (2900, 400, 2960, 480), [], RESOLUTION)
    left, top, right, bottom = far.box_xyxy
    assert 80 / (bottom - top) == pytest.approx(SMALLEST_SHARE, rel=0.15)
    assert (2930 - left) / (right - left) == pytest.approx(2930 / 4000, abs=0.15), "its place in the picture is kept"
    wide = choose_window((6000, 1000), (5000, 300, 5300, 700), [], RESOLUTION).wh
    assert wide[0] / wide[1] <= MOST_ASPECT * 1.1


def test_two_heads_side_by_side_are_parted_and_two_that_overlap_are_not():
    one, other = (200, 200, 400, 450), (600, 200, 800, 450)
    left, right = (choose_window((1000, 800), mine, [theirs], 512) for mine, theirs in ((one, other), (other, one)))
    assert left.box_xyxy[2] <= 600 and right.box_xyxy[0] >= 400
    assert choose_window((1000, 800), one, [(300, 300, 500, 550)], 512) is None


def test_a_turned_picture_stands_upright():
    image = np.zeros((200, 300, 3), np.uint8)
    image[20:60, 100:130] = 255
    for turned in (0, 90, 180, 270):
        turn = upright(image, turned)
        box = upright_box((100, 20, 130, 60), (300, 200), turned)
        left, top, right, bottom = map(int, box)
        assert turn.shape[1::-1] == upright_size((300, 200), turned)
        assert turn[top:bottom, left:right].all() and turn.sum() == turn[top:bottom, left:right].sum()
        window = choose_window(turn.shape[1::-1], box, [], 512)
        assert cut(turn, window).shape[1::-1] == window.size_wh
