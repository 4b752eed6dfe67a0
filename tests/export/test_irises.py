"""Irises are found where a picture has dark discs, and not where it has none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mirror.export.irises import find_irises

LEFT, RIGHT = (150.0, 140.0), (290.0, 150.0)


def face(open_eyes: bool = True) -> np.ndarray:
    """Skin with almond eyes, irises at LEFT and RIGHT, brows above."""
    image = np.full((300, 440, 3), (150, 170, 200), np.uint8)
    for x, y in (LEFT, RIGHT):
        at = (int(x), int(y))
        cv2.ellipse(image, (at[0], at[1] - 45), (35, 8), 0, 0, 360, (50, 60, 80), -1)
        if open_eyes:
            cv2.ellipse(image, at, (32, 15), 0, 0, 360, (235, 235, 235), -1)
            cv2.circle(image, at, 13, (60, 50, 40), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


@pytest.mark.parametrize("error", [(0, 0), (14, -10), (-12, 12), (0, 18)])
def test_irises_are_found_from_a_place_nearby(error):
    measured = np.array([LEFT, RIGHT]) + np.array([error, (-error[0], error[1])])
    found = find_irises(face(), measured)
    assert np.abs(found - [LEFT, RIGHT]).max() < 2.5


def test_a_turned_picture_gives_the_same_points():
    turned = np.ascontiguousarray(np.rot90(face(), -1))  # clockwise
    places = np.array([(299 - y, x) for x, y in (LEFT, RIGHT)])
    assert np.abs(find_irises(turned, places + 6.0) - places).max() < 2.5


def test_a_picture_too_small_has_none():
    small = cv2.resize(face(), None, fx=0.15, fy=0.15, interpolation=cv2.INTER_AREA)
    assert find_irises(small, np.array([LEFT, RIGHT]) * 0.15) is None


def test_what_is_found_stays_near_what_was_measured():
    """Closed eyes have no irises: no point may wander to the brows."""
    measured = np.array([LEFT, RIGHT])
    found = find_irises(face(open_eyes=False), measured)
    assert found is None or np.abs(found - measured).max() < 0.3 * 140
