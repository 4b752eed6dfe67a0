"""Measures: closed forms, and a reference written the slow way."""

import numpy as np
import pytest

from mirror.faces import metrics


def random_faces(count, seed=0, dimensions=16):
    rows = np.random.default_rng(seed).standard_normal((count, dimensions))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_leave_one_out_of_three_unit_axes():
    # the centroid of the other two axes lies in a plane at a right angle to the first
    assert metrics.leave_one_out(np.eye(3)) == pytest.approx([0, 0, 0])


def test_leave_one_out_of_two_faces_is_their_cosine():
    angle = 0.3
    pair = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    assert metrics.leave_one_out(pair) == pytest.approx([np.cos(angle)] * 2)


def test_leave_one_out_equals_the_slow_way():
    faces = random_faces(9)
    slow = []
    for i in range(9):
        mean = np.delete(faces, i, axis=0).mean(axis=0)
        slow.append(faces[i] @ mean / np.linalg.norm(mean))
    assert metrics.leave_one_out(faces) == pytest.approx(slow, abs=1e-12)


def test_leave_one_out_of_a_single_reference_is_unknown_not_one():
    assert np.isnan(metrics.leave_one_out(random_faces(1))).all()


def test_leave_one_out_is_below_the_flattering_full_centroid():
    faces = random_faces(5)
    assert (metrics.leave_one_out(faces) < metrics.similarity_to_centroid(faces, faces)).all()


def test_similarity_to_the_centroid_of_orthogonal_faces():
    assert metrics.similarity_to_centroid(np.array([[1.0, 0.0]]), np.eye(2)) == pytest.approx([np.sqrt(0.5)])


def test_nearest_finds_the_planted_copy_and_ties_go_to_the_first():
    faces = random_faces(20)
    index, cosine = metrics.nearest(faces[[7, 3]], faces)
    assert index.tolist() == [7, 3]
    assert cosine == pytest.approx([1, 1])
    assert metrics.nearest(faces[:1], np.repeat(faces[:1], 3, axis=0))[0].tolist() == [0]


def test_nearest_of_a_reference_is_never_itself():
    faces = random_faces(6)
    index, cosine = metrics.nearest(faces, faces, exclude_self=True)
    slow = [max((faces[i] @ faces[j], j) for j in range(6) if j != i) for i in range(6)]
    assert index.tolist() == [j for _, j in slow]
    assert cosine == pytest.approx([c for c, _ in slow])


def test_nearest_without_a_neighbour_is_unknown():
    index, cosine = metrics.nearest(random_faces(1), random_faces(1), exclude_self=True)
    assert index.tolist() == [-1]
    assert np.isnan(cosine).all()


@pytest.mark.parametrize(
    ("similarity", "band"),
    [(0.4999, "LOW"), (0.50, "OK"), (0.6999, "OK"), (0.70, "Watch Out"), (0.85, "Watch Out"), (0.8501, "Danger Zone")],
)
def test_bands_at_their_limits(similarity, band):
    assert metrics.copy_band(similarity) == band


def test_unit_refuses_a_vector_without_direction():
    with pytest.raises(ValueError):
        metrics.unit(np.zeros(4))


def test_interval_of_a_median_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        low, high = metrics.median_interval(rng.normal(0.5, 0.1, 25))
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_interval_of_a_median_is_the_same_twice_and_narrows_with_more_values():
    rng = np.random.default_rng(4)
    few, many = rng.normal(0.5, 0.1, 8), rng.normal(0.5, 0.1, 400)
    assert metrics.median_interval(few) == metrics.median_interval(few)
    assert np.ptp(metrics.median_interval(many)) < np.ptp(metrics.median_interval(few)) / 3
    assert metrics.median_interval([0.4, 0.4, 0.4]) == (0.4, 0.4)


def test_pose_correction_makes_usual_heads_equal():
    yaws = np.array([0.0, -30.0, 60.0, 75.0])
    usual = np.array([metrics.usual_similarity(yaw, 0.8) for yaw in yaws])
    assert metrics.pose_corrected(usual, yaws) == pytest.approx([0.8] * 4)
    assert metrics.pose_corrected([0.3], [200.0]) == pytest.approx([0.3 / 0.40]), "beyond the table its last share"


def test_interval_of_too_few_values_is_unknown():
    assert metrics.median_interval([0.4, np.nan, 0.5]) is None


@pytest.mark.parametrize("count", [5, 6, 10, 100, 4000])
def test_perplexity_is_what_scikit_learn_accepts(count):
    assert 1.0 <= metrics.safe_perplexity(count) < count
