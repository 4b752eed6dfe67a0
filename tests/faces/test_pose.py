"""Angles: signs by convention, accuracy on a model of known pose, truth by eye on real photos."""

import numpy as np
import pytest

from mirror.faces.pose import _HEAD, Angles, angle_bin, angles_from_keypoints, rotation


def seen(angles, size=200.0, centre=(300.0, 250.0)):
    """Five keypoints of the head model, turned, as a distant camera sees them."""
    return (_HEAD @ rotation(angles).T)[:, :2] * size + centre


def test_signs_are_what_the_words_say():
    def nose_from_eyes(angles):
        points = seen(angles)
        return points[2] - points[:2].mean(axis=0)

    front = nose_from_eyes(Angles(0, 0, 0))
    assert nose_from_eyes(Angles(30, 0, 0))[0] > front[0] + 10  # nose to the picture's right
    assert nose_from_eyes(Angles(0, 20, 0))[1] < front[1] - 10  # nose goes up (y grows downwards)
    eye_line = np.diff(seen(Angles(0, 0, 20))[:2], axis=0)[0]
    assert eye_line[1] > 10  # clockwise: the eye on the right sinks


def test_pack_pose_has_the_same_signs():
    """InsightFace reads its pose from 68 points; its own mean shape, turned by us, must give our angles back."""
    from insightface.data import get_object
    from insightface.utils import transform

    mean_shape = get_object("meanshape_68.pkl")
    for angles in (Angles(30, 0, 0), Angles(0, 20, 0), Angles(0, 0, 15), Angles(-40, -10, 25)):
        affine = transform.estimate_affine_matrix_3d23d(mean_shape, mean_shape @ rotation(angles).T)
        pitch, yaw, roll = transform.matrix2angle(transform.P2sRt(affine)[1])
        assert (yaw, pitch, roll) == pytest.approx(angles, abs=1e-3)


@pytest.mark.parametrize("yaw", [-75, -50, -25, 0, 25, 50, 75])
@pytest.mark.parametrize("pitch", [-20, 0, 20])
def test_known_turns_come_back(yaw, pitch):
    found = angles_from_keypoints(seen(Angles(yaw, pitch, 10)))
    # the pull towards the front is part of the method; from the side, five points hardly tell pitch from roll
    turned = abs(yaw) > 30
    assert abs(found.yaw_deg - yaw) <= 2 + abs(yaw) * 0.1
    assert abs(found.pitch_deg - pitch) <= (12 if turned else 6)
    assert abs(found.roll_deg - 10) <= (12 if turned else 4)


@pytest.mark.parametrize("turn", [37.0, 90.0, -120.0])
def test_turning_the_picture_changes_roll_alone(turn):
    points = seen(Angles(25, -10, 0)) + np.random.default_rng(1).normal(0, 3, (5, 2))
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    before, after = angles_from_keypoints(points), angles_from_keypoints(points @ np.array([[c, s], [-s, c]]))
    assert after.yaw_deg == pytest.approx(before.yaw_deg, abs=1e-6)
    assert after.pitch_deg == pytest.approx(before.pitch_deg, abs=1e-6)
    assert after.roll_deg - before.roll_deg == pytest.approx(turn, abs=1e-6)


def test_mirroring_flips_yaw_and_roll():
    points = seen(Angles(25, -10, 12)) + np.random.default_rng(2).normal(0, 3, (5, 2))
    mirrored = points[[1, 0, 2, 4, 3]] * (-1, 1)
    found, flipped = angles_from_keypoints(points), angles_from_keypoints(mirrored)
    assert flipped == pytest.approx((-found.yaw_deg, found.pitch_deg, -found.roll_deg), abs=1e-6)


def test_points_that_coincide_are_refused():
    with pytest.raises(ValueError):
        angles_from_keypoints(np.ones((5, 2)))


@pytest.mark.parametrize(
    ("yaw", "name"),
    [
        (0, "front"),
        (-24.9, "front"),
        (25, "three_quarter"),
        (-54.9, "three_quarter"),
        (55, "profile"),
        (-180, "profile"),
    ],
)
def test_bins_cover_every_angle(yaw, name):
    assert angle_bin(yaw) == name
