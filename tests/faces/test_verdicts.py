"""Verdicts: groups whose fault is known by construction, limits from the references, and honest silence."""

from dataclasses import replace

import numpy as np
import pytest

from mirror.faces import metrics
from mirror.faces.group import LIMITS, Faces, lost_per_30_degrees, mad
from mirror.faces.verdicts import GOOD, RULES, TOO_FEW, judge

YEARS, LENGTH = 30.0, 128
ALIKE = 0.6  # cosine of two pictures of one person, as small real packs have it
PERSON, STRANGER = np.eye(LENGTH)[:2]


def people(count, seed):
    """(count, LENGTH) somebody else in every picture."""
    return metrics.unit(np.random.default_rng(seed).normal(0, 1, (count, LENGTH)))


def pictures_of(who, seed):
    """(N, LENGTH) embeddings of pictures of `who` (N, LENGTH): two of one person have the cosine ALIKE."""
    return metrics.unit(np.sqrt(ALIKE) * who + np.sqrt(1 - ALIKE) * people(len(who), [seed, 1]))


def blend(share, other, person=PERSON):
    """Faces `share` of the way to others, (N, LENGTH) or (LENGTH,)."""
    share = np.asarray(share)[..., None]
    return metrics.unit((1 - share) * person + share * other)


def faces(count, seed, who=PERSON, near=0.72, yaw_deg=30.0, **changes):
    """The person as references show her, or `who`; `near` to the nearest photo, spread of the yaw in degrees."""
    rng = np.random.default_rng(seed)
    yaw = np.clip(rng.normal(0, yaw_deg, count), -70, 70)
    vectors = pictures_of(np.broadcast_to(who, (count, LENGTH)), seed)
    made = Faces(
        images=count,
        failed=0,
        rescued=0,
        collapsed=0,
        similarity=vectors @ PERSON,
        likeness=vectors @ PERSON,
        yaw_deg=yaw,
        ratio=rng.normal(0.75, 0.04, count),
        age=rng.normal(YEARS, 3, count),
        vectors=vectors,
        all_yaw_deg=yaw,
        all_ratio=rng.normal(0.75, 0.04, count),
        all_nearest=1 - (1 - near) * np.exp(rng.normal(0, 0.3, count)),
        all_repeated=np.zeros(count, bool),
        all_nearest_name=tuple(f"{i:03d}.jpg" for i in rng.integers(0, 25, count)),
    )
    return replace(made, **changes)


REFERENCES = faces(25, 0)


def names(group, references=REFERENCES, floor=None):
    return [verdict.name for verdict in judge(group, references, floor)]


def copies(count, share, seed=1):
    """`share` of the faces are the photo 007.jpg again."""
    one = faces(count, seed)
    is_copy = np.arange(count) < share * count
    return replace(
        one,
        all_nearest=np.where(is_copy, 0.97, one.all_nearest),
        all_nearest_name=tuple("007.jpg" if c else n for c, n in zip(is_copy, one.all_nearest_name, strict=True)),
        ratio=np.where(is_copy, 0.75, one.ratio),
        all_ratio=np.where(is_copy, 0.75, one.all_ratio),
        all_yaw_deg=np.where(is_copy, 4.0, one.all_yaw_deg),
        yaw_deg=np.where(is_copy, 4.0, one.yaw_deg),
        vectors=np.where(is_copy[:, None], pictures_of(PERSON[None], 7), one.vectors),
    )


@pytest.mark.parametrize("count", [12, 30])
def test_groups_without_a_fault_are_good(count):
    """200 groups like the references: at most 5 % false verdicts."""
    said = [names(faces(count, 1000 + seed), faces(25, 2000 + seed)) for seed in range(200)]
    assert np.mean([one == [GOOD] for one in said]) >= 0.95
    with_faults = [one for one in said if set(one) - {GOOD, TOO_FEW}]
    assert len(with_faults) <= 10, with_faults


@pytest.mark.parametrize("count", [12, 30])
@pytest.mark.parametrize(
    ("expected", "make"),
    [
        ("overtrained", lambda n, s: copies(n, 0.8, s)),
        ("black hole", lambda n, s: copies(n, 0.8, s)),
        ("copycat", lambda n, s: copies(n, 0.3, s)),
        ("rigid", lambda n, s: faces(n, s, yaw_deg=3, ratio=np.random.default_rng(s).normal(0.75, 0.008, n))),
        ("undertrained", lambda n, s: faces(n, s, who=blend(0.5, people(n, s)))),
        ("wrong person", lambda n, s: faces(n, s, who=STRANGER)),
        ("wrong person", lambda n, s: faces(n, s, who=blend(0.6, STRANGER))),
        ("ages the person", lambda n, s: faces(n, s, age=np.random.default_rng(s).normal(YEARS + 12, 3, n))),
    ],
)
def test_planted_faults_are_named(expected, make, count):
    assert np.mean([expected in names(make(count, seed)) for seed in range(20)]) >= 0.95


def test_copies_of_one_photo_say_nothing_of_who_is_in_them():
    """One picture again and again is alike itself, and as little like the average as any single picture."""
    one = copies(30, 0.9)
    odd = pictures_of(blend(0.6, STRANGER)[None], 7)
    vectors = np.where(one.all_nearest[:, None] == 0.97, odd, one.vectors)
    assert names(replace(one, vectors=vectors)) == ["overtrained", "black hole"]


def test_copies_and_somebody_else_in_profile_say_nothing_of_age():
    older = np.random.default_rng(3).normal(YEARS + 12, 3, 30)
    assert names(faces(30, 1, age=older)) == ["ages the person"]
    assert names(replace(copies(30, 0.9), age=older)) == ["overtrained", "black hole"]
    said = names(replace(copies(30, 0.3), age=older))
    assert {"copycat", "ages the person"} <= set(said), "most of the faces are no copies"
    assert names(replace(drifting(1), age=older)) == ["identity drift"]


@pytest.mark.parametrize("count", [12, 30])
def test_half_of_the_pictures_of_somebody_else(count):
    half = np.where(np.arange(count)[:, None] % 2, PERSON, STRANGER)
    said = [names(faces(count, seed, who=half)) for seed in range(20)]
    assert np.mean([one == ["mixed"] for one in said]) >= 0.9, said


def drifting(seed, count=30):
    """Somebody else in profile, the person at the front."""
    one = faces(count, seed)
    share = np.clip((np.abs(one.yaw_deg) - 10) / 40, 0, 1)
    return replace(one, vectors=pictures_of(blend(share, STRANGER), seed))


def test_somebody_else_in_profile_is_drift_and_nothing_else():
    said = [names(drifting(seed)) for seed in range(20)]
    assert np.mean([one == ["identity drift"] for one in said]) >= 0.95, said
    assert "identity drift" not in names(replace(drifting(1), yaw_deg=faces(30, 1, yaw_deg=2).yaw_deg))


def test_similarity_lost_as_heads_turn():
    one = faces(30, 1)
    line = replace(one, similarity=0.8 - 0.1 * np.abs(one.yaw_deg) / 30)
    assert lost_per_30_degrees(line) == pytest.approx(0.1)
    assert lost_per_30_degrees(faces(30, 1, yaw_deg=2)) is None, "heads that do not turn say nothing"


def test_no_more_like_the_person_than_without_the_lora():
    floor = faces(30, 5, who=blend(0.55, people(30, 5)))
    assert "identity drift" not in names(faces(30, 6), floor=floor)
    assert "identity drift" in names(faces(30, 6, who=blend(0.55, people(30, 6))), floor=floor)
    below = replace(faces(30, 7), likeness=floor.likeness - 0.5)
    assert "identity drift" not in names(below, floor=floor), "what lies below the floor is another fault"


def test_faces_turned_as_no_reference_is_cannot_be_judged():
    (verdict,) = judge(faces(30, 1, yaw_deg=1), replace(REFERENCES, yaw_deg=REFERENCES.yaw_deg * 0 + 60))
    assert verdict.name == TOO_FEW and verdict.sentence.startswith("0 faces are turned")


def test_what_can_be_said_though_hardly_a_face_was_measured():
    none = replace(faces(3, 1), images=30, failed=27, collapsed=27)
    assert names(none) == ["collapsed"]
    assert names(replace(faces(20, 1), images=30, failed=2, rescued=8)) == ["many failures"]
    assert names(replace(faces(29, 1), images=30, failed=1)) == [GOOD]
    assert names(faces(0, 1)) == [TOO_FEW]


def test_three_copies_of_three_are_copies_already():
    few = replace(faces(3, 1), all_repeated=np.ones(3, bool))
    assert names(few) == ["copycat", TOO_FEW] and names(replace(few, all_repeated=np.arange(3) < 1)) == [TOO_FEW]


def test_the_same_picture_is_a_copy_however_the_face_scores():
    narrow = {"all_yaw_deg": np.full(30, 5.0), "all_repeated": np.arange(30) < 15}
    assert names(replace(faces(30, 1), **narrow)) == ["overtrained"]
    assert names(replace(faces(30, 1), all_repeated=np.arange(30) < 15)) == ["copycat"], "no other fault"


def test_copies_that_only_a_second_look_found_are_copies():
    cropped = replace(copies(30, 0.8), images=30, rescued=30, likeness=np.array([]), yaw_deg=np.array([]))
    cropped = replace(cropped, vectors=np.zeros((0, LENGTH)))
    assert names(cropped) == ["many failures", "overtrained", "black hole"]


def test_too_few_images_or_references_are_said():
    (few,) = judge(faces(LIMITS.fewest_faces - 1, 1, who=STRANGER), REFERENCES)
    assert (few.name, few.numbers) == (TOO_FEW, {"count": 7, "needed": 8}) and "more images" in few.advice
    (few,) = judge(faces(30, 1, who=STRANGER), faces(LIMITS.fewest_references - 1, 0))
    assert few.name == TOO_FEW and "reference photos" in few.sentence


def test_a_low_resemblance_that_may_be_chance_is_not_called_good():
    one_stranger = np.where(np.arange(9)[:, None] == 4, STRANGER, PERSON)
    said = [judge(faces(9, seed, who=one_stranger, yaw_deg=20), REFERENCES)[0] for seed in range(20)]
    unsure = [one for one in said if one.name == TOO_FEW]
    assert unsure and all("may be chance" in one.sentence for one in unsure)


def test_strangers_and_duplicates_among_the_references_move_no_limit_far():
    strangers = np.arange(25) >= 23
    vectors = np.where(strangers[:, None], pictures_of(np.tile(STRANGER, (25, 1)), 3), REFERENCES.vectors)
    spoiled = replace(
        REFERENCES,
        vectors=vectors,
        likeness=vectors @ PERSON,
        all_nearest=np.where(strangers, 0.99, REFERENCES.all_nearest),
    )
    assert spoiled.sound.tolist() == (~strangers & REFERENCES.sound).tolist()
    assert spoiled.copy_limit == pytest.approx(REFERENCES.copy_limit, abs=0.03)
    assert spoiled.level == pytest.approx(REFERENCES.level, abs=0.03)
    groups = [faces(30, seed) for seed in range(5)]
    resembled = [[one.alike(references).resemblance for one in groups] for references in (REFERENCES, spoiled)]
    assert resembled[0] == pytest.approx(resembled[1], abs=0.03)


def test_a_photo_that_is_there_twice_counts_once():
    twice = replace(REFERENCES, vectors=np.r_[REFERENCES.vectors[:-1], REFERENCES.vectors[:1]])
    assert twice.sound.tolist() == [*REFERENCES.sound[:-1], False]


def test_photos_of_one_shoot_are_no_copies():
    """Nearest photos at 0.95: images as near to them are not near copies; the limit never leaves the Danger Zone."""
    shoot = replace(REFERENCES, all_nearest=np.full(25, 0.95))
    assert "copycat" not in names(replace(faces(30, 1), all_nearest=np.full(30, 0.95)), shoot)
    assert replace(REFERENCES, all_nearest=np.full(25, 0.3)).copy_limit == 0.85


def test_references_that_look_one_way_call_nothing_rigid():
    assert "rigid" not in names(faces(30, 1, yaw_deg=2), faces(25, 0, yaw_deg=3))


def test_every_verdict_says_its_numbers_and_what_to_do():
    made = [
        copies(30, 0.8),
        faces(30, 1, who=STRANGER),
        faces(30, 2, who=blend(0.5, people(30, 2))),
        replace(faces(20, 1), images=40, failed=20),
    ]
    for verdict in (one for group in made for one in judge(group, REFERENCES)):
        assert verdict.numbers and verdict.advice and verdict.sentence.endswith(".")
        assert any(character.isdigit() for character in verdict.sentence)
    assert all(rule.meaning and rule.source and rule.advice for rule in RULES.values())


def test_mad_is_the_deviation_of_normal_values_and_ignores_a_few():
    values = np.random.default_rng(1).normal(0, 2, 20000)
    assert mad(values) == pytest.approx(2, rel=0.03)
    assert mad(np.r_[values, np.full(1000, 500.0)]) == pytest.approx(2, rel=0.1)


def test_wilson_and_binomial_are_those_of_the_textbook():
    assert metrics.wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert metrics.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert metrics.wilson(0, 0) == (0, 1)
    assert metrics.binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert metrics.binomial_tail(0, 3, 0.5) == 1 and metrics.binomial_tail(3, 3, 0.1) == pytest.approx(0.001)
