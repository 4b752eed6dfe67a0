"""How alike two sets of faces are: 1 for one person whatever the spread, less for blends, and honest doubt."""

import numpy as np
import pytest

from mirror.faces import metrics
from mirror.faces.alike import MOST_FACES, YAW_WINDOW_DEG, between, cohesion, compare, split

LENGTH = 256
PERSON, STRANGER, PROFILE = np.eye(LENGTH)[:3]


def pictures(who, count, seed, alike=0.6, limit_deg=50.0):
    """(embeddings, yaw): two pictures of one person have the cosine `alike`, and all change as the head turns."""
    rng = np.random.default_rng(seed)
    yaw_deg = rng.uniform(-limit_deg, limit_deg, count)
    noise = metrics.unit(rng.normal(0, 1, (count, LENGTH)))
    turned = metrics.unit(who + np.abs(yaw_deg[:, None]) / 60 * PROFILE)
    return metrics.unit(np.sqrt(alike) * turned + np.sqrt(1 - alike) * noise), yaw_deg


@pytest.mark.parametrize("alike", [0.3, 0.6, 0.9])
def test_other_pictures_of_the_person_give_one_however_they_vary(alike):
    references = pictures(PERSON, 30, 0, alike)
    said = [compare(*pictures(PERSON, 30, seed, alike), *references) for seed in range(1, 41)]
    for figure in ("likeness", "identity", "resemblance"):
        assert np.mean([getattr(one, figure) for one in said]) == pytest.approx(1, abs=0.03), figure


def test_the_doubt_is_no_less_than_the_spread_of_groups_and_references():
    said = [compare(*pictures(PERSON, 20, 2 * s), *pictures(PERSON, 15, 2 * s + 1)) for s in range(200)]
    spread = np.std([one.resemblance for one in said])
    assert spread <= np.mean([one.error for one in said]) <= 2 * spread  # a jackknife errs to the safe side
    assert np.mean([one.surely_below(1.0, 1.645) for one in said]) <= 0.08


def test_identity_is_the_angle_between_two_people_and_poses_do_not_matter():
    other = metrics.unit(0.6 * PERSON + 0.8 * STRANGER)
    references = pictures(PERSON, 40, 1)
    front = compare(*pictures(PERSON, 30, 2, limit_deg=5), *references)
    assert front.identity == pytest.approx(1, abs=0.05)
    said = [compare(*pictures(other, 30, seed, limit_deg=5), *references).identity for seed in range(20)]
    assert np.mean(said) == pytest.approx(0.6, abs=0.05)


def test_a_group_that_only_resembles_itself_is_told_from_blends():
    references = pictures(PERSON, 30, 0)
    stranger = pictures(STRANGER, 30, 1)
    everybody = metrics.unit(PERSON + np.random.default_rng(2).normal(0, 1 / np.sqrt(LENGTH), (30, LENGTH)))
    blends, yaw_deg = pictures(everybody, 30, 3)
    assert cohesion(*stranger, *references) == pytest.approx(1, abs=0.12)
    assert cohesion(blends, yaw_deg, *references) < 0.7


def test_faces_at_angles_that_no_reference_has_are_left_out():
    references = pictures(PERSON, 30, 0, limit_deg=10)
    vectors, yaw_deg = pictures(PERSON, 30, 1, limit_deg=80)
    said = compare(vectors, yaw_deg, *references)
    assert said.matched == np.sum(np.abs(yaw_deg) <= np.abs(references[1]).max() + YAW_WINDOW_DEG) < 30
    assert compare(vectors, yaw_deg + 200, *references) is None
    assert compare(vectors[:1], yaw_deg[:1], *references) is None


def test_two_people_are_cut_apart_from_a_poor_start():
    vectors = np.concatenate([pictures(PERSON, 20, 1)[0], pictures(STRANGER, 10, 2)[0]])
    yaw_deg = np.zeros(30)
    start = np.arange(30) % 3 > 0
    start[:20] |= np.arange(20) % 2 > 0
    is_first = split(vectors, start)
    assert is_first.tolist() in ([True] * 20 + [False] * 10, [False] * 20 + [True] * 10)
    first, second = vectors[:20], vectors[20:]
    assert between(first, yaw_deg[:20], second, yaw_deg[20:]) < 0.4
    assert between(first[:10], yaw_deg[:10], first[10:], yaw_deg[10:20]) == pytest.approx(1, abs=0.15)


def test_large_groups_are_thinned_and_say_the_same():
    references = pictures(PERSON, 30, 0)
    vectors, yaw_deg = pictures(PERSON, 3 * MOST_FACES, 1)
    said = compare(vectors, yaw_deg, *references)
    assert said.matched <= MOST_FACES and said.resemblance == pytest.approx(1, abs=0.05)
