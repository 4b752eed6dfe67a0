"""The stop rules: one history for each rule, properties over random histories, and simulated runs of twenty."""

import math
from dataclasses import replace

import numpy as np
import pytest
from gaps_fixture import record, report_of

from mirror.contracts.gaps import GapKey
from mirror.faces.metrics import median_interval, pose_diversity, pose_diversity_interval
from mirror.loop import stopping
from mirror.loop.stopping import (
    Attempt,
    IterationScores,
    Part,
    beats,
    best_of,
    coverage,
    decide,
    gain_of,
    interval_part,
    need_real_photos,
    share,
)

THRESHOLD, LIMIT = 0.05, 20


def made(number, identity=0.6, pose_diversity=0.8, cover=0.5, approved=10, noise=0.02, **fields):
    """An iteration in which all was measured; the baseline has no approval."""
    known = {
        "lora": f"v{number + 1}",
        "identity": Part(identity, noise),
        "pose_diversity": Part(pose_diversity, noise),
        "faces": share(24, 24),
        "coverage": cover,
        "approval": share(approved, 15) if number else None,
        "gaps": 3 if number else None,
        "merged": approved if number else None,
    }
    return IterationScores(number, **known | fields)


def rule_of(*iterations, limit=LIMIT):
    rule = decide(iterations, THRESHOLD, limit).rule
    assert rule in (*stopping.RULES, stopping.GO_ON)
    return rule


def test_after_the_control_the_loop_goes_on():
    assert not decide([made(0)], THRESHOLD, LIMIT).stop


def test_each_rule():
    start = made(0, identity=0.5, cover=0.3)
    good = made(1, identity=0.7, cover=0.5)
    assert rule_of(start, good) == stopping.GO_ON
    assert rule_of(start, replace(good, gaps=0, lora=None)) == stopping.NO_GAPS
    assert rule_of(start, made(1, identity=0.3, cover=0.9)) == stopping.WORSE
    assert rule_of(start, made(1, identity=0.6, cover=0.9, pose_diversity=0.5)) == stopping.WORSE
    assert rule_of(start, made(1, identity=0.6, faces=share(8, 24))) == stopping.WORSE
    full = replace(good, lora=None, identity=None, merged=0, without_room=4)
    assert rule_of(start, full) == stopping.NO_ROOM
    high = [made(n, identity=0.5 + 0.1 * n, cover=0.3 + 0.15 * n, approved=14) for n in (1, 2)]
    assert rule_of(start, *high) == stopping.APPROVAL
    assert rule_of(start, replace(good, only_real_photos_help=True)) == stopping.REAL_PHOTOS
    assert rule_of(start, good, limit=1) == stopping.MAX_ITERATIONS


def test_nothing_approved_once_is_tried_again_and_twice_ends_it():
    start, nothing = made(0), made(1, approved=0, lora=None, identity=None, pose_diversity=None, faces=None, cover=0.5)
    assert rule_of(start, nothing) == stopping.GO_ON
    decision = decide([start, nothing, replace(nothing, number=2)], THRESHOLD, LIMIT)
    assert (decision.rule, decision.best) == (stopping.NOTHING_APPROVED, "v1")
    assert "v1, the baseline, is kept" in decision.words
    other_photos = replace(nothing, number=2, photos="others")
    assert rule_of(start, nothing, other_photos) == stopping.GO_ON, "iterations with other real photos do not add up"


def test_documented_convergence():
    """'Improvement: 4.2% (below 5% threshold)', against each of the last three iterations."""
    start = made(0, identity=0.5, cover=0.5, noise=0.001)
    level = [made(n, identity=0.7, cover=0.7, noise=0.001, approval=Part(0.7)) for n in (1, 2, 3)]
    last = made(4, identity=0.7294, cover=0.7294, noise=0.001, approval=Part(0.7294))
    decision = decide([start, *level, last], THRESHOLD, LIMIT)
    assert decision.rule == stopping.CONVERGED and f"{decision.gain.change:.1%}" == "4.2%"
    assert decision.best == "v5", "the best of those that beat the baseline"


def test_a_small_gain_that_noise_may_hide_must_be_small_against_the_last_three_rounds():
    start = made(0, identity=0.5, cover=0.5)
    first = made(1, identity=0.7, cover=0.7)
    flat = made(2, identity=0.71, cover=0.71)
    assert decide([start, first, flat], THRESHOLD, LIMIT).rule == stopping.GO_ON
    same = [replace(flat, number=number, lora=f"v{number + 1}") for number in (3, 4)]
    assert rule_of(start, first, flat, same[0]) == stopping.GO_ON, "much better than the baseline still"
    assert rule_of(start, first, flat, *same) == stopping.CONVERGED


def test_no_gain_is_said_and_keeps_the_control():
    decision = decide([made(0), made(1), made(2)], THRESHOLD, LIMIT)
    assert (decision.rule, decision.best) == (stopping.NO_GAIN, "v1")
    assert "No gain: no LoRA is clearly better than v1" in decision.words


def test_a_worse_round_is_never_convergence():
    decision = decide([made(0, identity=0.5), made(1, identity=0.8), made(2, identity=0.4)], THRESHOLD, LIMIT)
    assert (decision.rule, decision.best) == (stopping.WORSE, "v2")
    assert "v3 is worse than v2" in decision.words and "(0.80 before, 0.40 now)" in decision.words


def test_the_same_samples_are_compared_pair_by_pair():
    """A gain far below the spread of the samples counts where nearly every one of them gained."""
    rng = np.random.default_rng(2)
    before = {f"{i}.png": float(rng.uniform(0.3, 0.9)) for i in range(24)}
    after = {name: score + float(rng.normal(0.12, 0.02)) for name, score in before.items()}
    wide = Part(0.6, 0.1)
    old, new = (replace(made(0), identity=wide, scores=scores) for scores in (before, after))
    assert beats(new, old) and not beats(old, new) and stopping.fall(new, old)
    shuffled = dict(zip(before, rng.permutation(list(after.values())), strict=True))
    assert not beats(replace(new, scores=shuffled), old)
    little = {name: score + 0.03 for name, score in before.items()}
    assert not beats(replace(new, scores=little), old), "another training on the same images may do as much"
    few = {name: after[name] for name in list(after)[:7]}
    assert not beats(replace(new, scores=few), old), "too few pairs: the intervals decide"


def test_unknown_is_neither_better_nor_worse():
    known, unknown = made(0), replace(made(1), identity=Part(0.1, None), pose_diversity=None, faces=None)
    assert not beats(unknown, known) and not stopping.fall(known, unknown)
    assert beats(known, replace(made(0), identity=None)), "a LoRA with faces beats one without"


def test_a_gap_needs_real_photos_after_two_rounds_below_a_tenth():
    gap, other = GapKey("face_angle", "profile"), GapKey("composition", "hands_visible")

    def tried(generated, approved, wanted=10):
        return Attempt(generated, approved, wanted)

    assert need_real_photos([{gap: tried(10, 0)}]) == []
    both = [{gap: tried(10, 0), other: tried(5, 3)}, {gap: tried(10, 1), other: tried(5, 0)}]
    assert need_real_photos(both) == [gap]
    assert need_real_photos([{gap: tried(10, 1)}, {gap: tried(10, 1)}]) == [], "a tenth is not fewer than a tenth"
    assert need_real_photos([{gap: tried(10, 0)}, {gap: tried(0, 0)}, {gap: tried(10, 0)}]) == [gap], (
        "an iteration without attempts says nothing"
    )
    assert need_real_photos([{gap: tried(10, 0)}, {gap: tried(10, 0)}, {gap: tried(10, 9)}]) == []
    assert need_real_photos([{gap: tried(56, 4, 7)}, {gap: tried(40, 4, 5)}]) == [gap]
    assert need_real_photos([{gap: tried(56, 5, 4)}, {gap: tried(56, 4, 4)}]) == [], "all that were wanted were found"


def test_coverage_counts_what_was_merged_for_its_goal():
    gaps = report_of([record(f"{i}.png") for i in range(8)] + [record("p.png", "profile", 70.0)])
    before = coverage(gaps, {})
    # front 8 of 9 (goal 50), three-quarter 0 (30), profile 1 of 9 (20); low key and high key 0 of 9 (10 each)
    assert before == pytest.approx((1 + 0 + (100 / 9) / 20 + 0 + 0) / 5)
    after = coverage(gaps, {("face_angle", "three_quarter"): 3})
    assert after == pytest.approx((1 + (100 * 3 / 12) / 30 + (100 / 12) / 20 + 0 + 0) / 5)


def test_coverage_of_nothing_measured_is_unknown():
    gaps = report_of([record("a.png", None, None)])
    for one in gaps.distributions:
        one.measured = 0
    assert coverage(gaps, {}) is None


def test_share_has_noise_even_where_all_agree():
    assert share(12, 12).value == 1.0 and 0.05 < share(12, 12).noise < 0.2
    assert share(0, 0) is None
    assert share(60, 120).noise == pytest.approx(1.96 * math.sqrt(0.25 / 124), rel=1e-6)


def test_pose_diversity():
    assert (
        pose_diversity([5, 5, 5]) == pytest.approx(1)
        and pose_diversity([9, 0, 0]) == 0
        and pose_diversity([0, 0, 0]) is None
    )
    low, high = pose_diversity_interval([10, 4, 1])
    assert low < pose_diversity([10, 4, 1]) < high
    assert pose_diversity_interval([1, 1, 0]) is None


# Properties, over histories drawn at random.


def any_part(rng):
    return None if rng.uniform() < 0.15 else Part(float(rng.uniform()), float(rng.uniform(0, 0.1)))


def any_history(seed):
    rng = np.random.default_rng(seed)
    iterations = [IterationScores(0, "v1", any_part(rng), any_part(rng), any_part(rng), float(rng.uniform()))]
    for number in range(1, int(rng.integers(2, 12))):
        merged = int(rng.integers(0, 6))
        lora = f"v{number + 1}" if merged else None
        measured = [any_part(rng) if lora else None for _ in range(3)]
        iterations.append(
            IterationScores(
                number,
                lora,
                *measured,
                coverage=float(rng.uniform()),
                approval=any_part(rng),
                gaps=int(rng.integers(0, 4)),
                merged=merged,
                without_room=int(rng.integers(0, 2)),
                only_real_photos_help=bool(rng.uniform() < 0.1),
            )
        )
    return iterations


@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_properties(seed):
    for one in range(seed, seed + 100):
        iterations = any_history(one)
        limit = int(np.random.default_rng(one).integers(1, 12))
        decision = decide(iterations, THRESHOLD, limit)
        assert decision == decide(list(iterations), THRESHOLD, limit), "the same history, the same decision"
        assert decision.best in [iteration.lora for iteration in iterations if iteration.lora], "what is kept exists"
        assert decision.stop == (decision.rule != stopping.GO_ON) and decision.words.endswith(".")
        if iterations[-1].number >= limit or iterations[-1].gaps == 0:
            assert decision.stop
        if decision.rule == stopping.WORSE:
            assert decision.best != iterations[-1].lora, "a worse LoRA is never kept"
        if decision.rule == stopping.NO_GAIN:
            assert decision.best == "v1"
        if decision.rule in (stopping.NO_GAIN, stopping.CONVERGED):
            assert gain_of(iterations).change < THRESHOLD
            assert not stopping.fall(best_of(iterations[:-1]), iterations[-1])
        assert decide(iterations, THRESHOLD, limit + 50).rule != stopping.MAX_ITERATIONS
        better = replace(iterations[0], number=99, lora="best", identity=Part(1.0, 0.0), pose_diversity=Part(1.0, 0.0))
        better = replace(better, faces=Part(1.0, 0.0))
        if all(iteration.identity is None or iteration.identity.value < 0.75 for iteration in iterations):
            assert best_of([*iterations, better]).lora == "best", "what is best in everything is kept"


# Simulated histories as production sees them: 24 samples an iteration at the same prompts and seeds, of which some look
# more like the person with any LoRA; a shift that all samples of a LoRA share; 15 images an iteration to approve.


def simulated(course, rng, training_noise):
    """Iterations until the loop stops; `course(n)` is (true identity, share of frontal samples, coverage, approval)."""
    iterations, prompts = [], rng.normal(0, 0.07, 24)
    for number in range(LIMIT + 1):
        identity, frontal, cover, approval = course(number)
        shift = rng.normal(0, training_noise)
        scores = np.clip(identity + shift + prompts + rng.normal(0, 0.04, 24), -1, 1)
        frontal = float(np.clip(frontal + rng.normal(0, training_noise), 0, 1))
        bins = rng.multinomial(24, [frontal, (1 - frontal) / 2, (1 - frontal) / 2])
        approved = int(rng.binomial(15, approval))
        iterations.append(
            IterationScores(
                number,
                f"v{number + 1}",
                identity=interval_part(float(np.median(scores)), median_interval(scores)),
                pose_diversity=interval_part(pose_diversity(bins), pose_diversity_interval(bins)),
                faces=share(24, 24),
                coverage=cover,
                approval=share(approved, 15) if number else None,
                gaps=2 if number else None,
                merged=max(approved, 1) if number else None,
                scores={f"{i}.png": float(score) for i, score in enumerate(scores)},
            )
        )
        decision = decide(iterations, THRESHOLD, LIMIT)
        if decision.stop:
            return decision, iterations
    raise AssertionError("the loop did not stop at its limit")


def improving(number):
    learnt = 1 - 0.75**number
    return 0.35 + 0.45 * learnt, 0.7 - 0.35 * learnt, 0.3 + 0.6 * learnt, 0.35 + 0.5 * learnt


def flat(number):
    return 0.55, 0.5, 0.5, 0.5


def oscillating(number):
    return 0.55 + (0.012 if number % 2 else -0.012), 0.5, 0.5, 0.5 + (0.03 if number % 2 else -0.03)


def collapsing(number):
    better, lost = min(number, 3), max(0, number - 3)
    return 0.45 + 0.08 * better - 0.13 * lost, 0.4 + 0.1 * min(lost, 4), 0.4 + 0.12 * better, 0.4 + 0.1 * better


def true_score(course, number):
    identity, _, cover, approval = course(number)
    return (identity + cover + approval) / 3


def right_for_improving(decision, iterations):
    """Stops where the true gain has become small, with a LoRA that is truly better than the baseline by far."""
    last = iterations[-1].number
    gain = true_score(improving, last) / true_score(improving, last - 1) - 1
    best = int(decision.best[1:]) - 1
    return (
        decision.rule in (stopping.CONVERGED, stopping.APPROVAL, stopping.MAX_ITERATIONS)
        and gain < 2 * THRESHOLD
        and improving(best)[0] > improving(last)[0] - 0.1
        and best > 0
    )


def right_for_no_change(decision, iterations):
    return decision.rule == stopping.NO_GAIN and decision.best == "v1" and iterations[-1].number <= 8


def right_for_collapsing(decision, iterations):
    """Says worse within two iterations of the fall that begins after iteration 3, and keeps a LoRA from before it."""
    return (
        decision.rule == stopping.WORSE and iterations[-1].number in (4, 5) and int(decision.best[1:]) - 1 in (1, 2, 3)
    )


@pytest.mark.parametrize(
    ("course", "right"),
    [
        (improving, right_for_improving),
        (flat, right_for_no_change),
        (oscillating, right_for_no_change),
        (collapsing, right_for_collapsing),
    ],
)
@pytest.mark.parametrize("training_noise", [0.0, stopping.TRAINING_NOISE])
def test_simulated_histories_end_with_the_right_decision(course, right, training_noise):
    rng = np.random.default_rng(11)
    runs = [simulated(course, rng, training_noise) for _ in range(120)]
    wrong = [
        (decision.rule, iterations[-1].number, decision.best)
        for decision, iterations in runs
        if not right(decision, iterations)
    ]
    assert len(wrong) <= 0.05 * len(runs), wrong


@pytest.mark.parametrize("truth", [0.0, 0.03])
def test_the_bench_tells_the_noise_of_trainings_from_that_of_samples(truth):
    from types import SimpleNamespace

    from benchmarks.loop_bench import training_noise

    rng = np.random.default_rng(12)
    controls = []
    for _ in range(40):
        prompts, level = rng.normal(0.5, 0.1, 30), 0.8
        loras = []
        for _ in range(3):
            scores = prompts + rng.normal(0, truth * level) + rng.normal(0, 0.05, 30)
            loras.append(SimpleNamespace(level=level, scores={f"{i}.png": float(one) for i, one in enumerate(scores)}))
        controls.append(SimpleNamespace(loras=loras))
    found, pairs = training_noise(controls)
    assert pairs == 120 and found == pytest.approx(truth, abs=0.006)
    assert training_noise([SimpleNamespace(loras=loras[:1])]) is None
