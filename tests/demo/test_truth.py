"""The report tells the truth about worlds whose truth is known: rendered heads, real networks, the real script.

A slice of benchmarks/truth_bench.py. Limits lie well inside what its worlds gave, so that a failure here means that
something broke. Needs the small pack beside the repository (../shared/faces/pack_mini).
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest

from benchmarks import truth_bench as bench
from benchmarks.truth_panels import PANELS
from benchmarks.truth_world import measure_world

SEEDS = (0, 1)  # two worlds, one a core
PIXELS, SIZE = 320, 12  # at 256 pixels the small network is not sure enough of its outliers and blends


@pytest.fixture(scope="module")
def worlds(mini_pack):
    with ProcessPoolExecutor(len(SEEDS), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(measure_world, seed, str(mini_pack), SIZE, PIXELS) for seed in SEEDS]
        return [job.result() for job in jobs]


def test_every_plain_head_from_profile_to_profile_is_found(worlds):
    heads = bench.plain(worlds)
    assert {head[0] for head in heads} >= {-80.0, 0.0, 80.0}
    assert [head for head in heads if head[1] is None] == []


def test_yaw_has_the_right_sign_and_order_and_bin(worlds):
    pairs = bench.measured_plain(worlds)
    turned = pairs[np.abs(pairs[:, 0]) >= 15]
    assert (np.sign(turned[:, 0]) == np.sign(turned[:, 1])).all()
    for world in worlds:
        sweep = bench.measured_plain([world])
        assert bench.spearman(*sweep.T) > 0.95
    assert bench.mean_yaw_error(pairs, 60) < 10
    clear = [pair for pair in pairs if bench.away_from_borders(pair[0])]
    assert np.mean([bench.angle_bin(true) == bench.angle_bin(yaw) for true, yaw in clear]) > 0.7


def test_the_same_head_scores_above_others_and_nearer_heads_above_farther_ones(worlds):
    same = np.concatenate([world["heads"]["same"] for world in worlds])
    different = np.concatenate([world["heads"]["different"] for world in worlds])
    assert np.median(same) - np.median(different[:, 1]) > 0.2
    for world in worlds:
        assert bench.spearman(*np.array(world["heads"]["morph"]).T) < -0.5


def test_leave_one_out_puts_planted_outliers_last_and_duplicates_find_each_other(worlds):
    for world in worlds:
        assert world["references"]["outliers_last"]
        assert len(world["references"]["duplicates"]) == 2
        for mutual, similarity in world["references"]["duplicates"]:
            assert mutual and similarity > 0.9


def test_near_copies_come_first_and_their_source_tops_the_black_hole_ranking(worlds):
    for world in worlds:
        copies = world["copies"]
        assert copies["set"]["source_first"]
        assert copies["set"]["precision"] == 1
        assert copies["report"]["precision"] > 0.85 > 3 * copies["report"]["chance"]


def test_most_close_ups_are_rescued_and_are_the_person(worlds):
    shots = [shot for world in worlds for shot in world["close_ups"]]
    rescued = [shot for shot in shots if shot["status"] == "rescued"]
    assert len(rescued) > 0.7 * len(shots)
    assert np.mean([shot["person"] > shot["stranger"] for shot in rescued]) > 0.8


def test_the_step_series_improves_and_then_copies(worlds):
    for world in worlds:
        similarity, nearest, _ = np.array(world["steps"], dtype=float).T
        assert similarity[3] > similarity[1] > similarity[0]  # steps 8, 4, 2
        assert min(nearest[4:]) > nearest[3]  # steps 10 and 12 above 8


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.key)
def test_each_planted_set_differs_from_the_balanced_one_where_it_should(worlds, panel):
    planted, calm = bench.values_of(worlds, panel)
    if panel.kind == "aged" and not worlds[0]["pack"]["has_age"]:
        assert not len(planted)  # not measured is empty, never a number
        return
    assert len(planted) == len(worlds)
    assert (panel.direction * (planted - calm) > 0).all(), (planted, calm)


def test_wilson_intervals_are_those_of_the_textbook():
    assert bench.wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert bench.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert bench.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_rank_figures():
    assert bench.spearman([1, 2, 3, 4], [2, 3, 5, 90]) == pytest.approx(1)
    assert bench.spearman([1, 2, 3, 4], [9, 5, 3, -1]) == pytest.approx(-1)
    first, second = [1, 1, 2, 5, 3], [4, 4, 1, 2, 2]
    assert bench.spearman(first, second) == pytest.approx(pd.Series(first).corr(pd.Series(second), method="spearman"))
    assert bench.chance_above([3, 4], [1, 2]) == 1
    assert bench.chance_above([1, 2], [1, 2]) == 0.5


def test_a_bootstrap_interval_holds_the_value_and_is_the_same_again():
    values = list(np.random.default_rng(3).normal(5, 1, 40))
    low, high = bench.bootstrap(values, np.mean, seed=1)
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(40), rel=0.15)
    assert (low, high) == bench.bootstrap(values, np.mean, seed=1)


def test_the_smallest_severity_that_shows_must_show_from_there_on():
    line = bench.sweep_line("kind", "label", [0.0, 1.0, 0.5, 0.9, 1.0, 1.0])
    assert line.endswith("| 0.5 |")
    assert bench.sweep_line("kind", "label", [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]).endswith("| does not show |")
    assert bench.sweep_line("kind", "label", [None] * 6).endswith("| not measurable with this pack |")
