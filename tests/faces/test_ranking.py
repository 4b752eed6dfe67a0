"""The ranking: closed forms, simulated groups of known truth, and names of pictures as programs write them."""

import math

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mirror.faces import metrics
from mirror.faces.ranking import (
    Sample,
    are_known,
    difference_by_chance,
    holm,
    known_first,
    known_keys,
    paired_chance,
    picture_keys,
    proven_better,
    rank,
    shared_pictures,
)

SHAPES = {  # how similarities spread: drawn values, and their true median
    "normal": (lambda rng, shape: rng.normal(0.6, 0.08, shape), 0.6),
    "skewed": (lambda rng, shape: 0.8 - 0.04 * rng.gamma(3, 1, shape), 0.8 - 0.04 * 2.674060),
    "heavy tails": (lambda rng, shape: 0.6 + 0.05 * rng.standard_t(3, shape), 0.6),
}


@pytest.mark.parametrize("count", [12, 30, 60])
@pytest.mark.parametrize("shape", SHAPES)
def test_interval_covers_the_truth_in_93_to_97_of_100_groups(shape, count):
    """500 groups would scatter by 1 % themselves; 4,000 by 0.3 %."""
    draw, truth = SHAPES[shape]
    groups = draw(np.random.default_rng([11, count]), (4000, count))
    inside = [low <= truth <= high for low, high in map(metrics.median_interval, groups)]
    assert 0.93 <= np.mean(inside[:500]) <= 0.97
    assert 0.94 <= np.mean(inside) <= 0.965


def test_interval_of_six_values_lies_between_the_ends_and_of_five_is_their_range():
    # of six values both ends cover 1 - 2/64 = 0.969, the second and fifth 0.781
    low, high = metrics.median_interval([1, 2, 3, 4, 5, 6])
    assert 1 < low < 1.5 and low + high == pytest.approx(7)
    assert metrics.median_interval([5, 1, 4, 2, 3]) == (1, 5)


def test_interval_where_order_statistics_give_the_level_themselves():
    """Of 17 values the 5th to the 13th cover 0.951 (any table of the sign test), so the interval is hardly narrower."""
    low, high = metrics.median_interval(np.arange(1.0, 18.0))
    assert (low, high) == pytest.approx((5, 13), abs=0.05)


def simulated(rng, count, groups, paired, shift=0.0):
    """`groups` groups; the last one's truth is higher by `shift`. Prompts matter more than LoRAs do."""
    prompts = rng.normal(0, 0.08, count)
    found = []
    for g in range(groups):
        own = prompts if paired else rng.normal(0, 0.08, count)
        keys = tuple(f"{i}" if paired else f"{g} {i}" for i in range(count))
        values = 0.6 + own + rng.normal(0, 0.03, count) + (shift if g == groups - 1 else 0)
        found.append(Sample(f"g{g}", keys, values))
    return found


@pytest.mark.parametrize("count", [20, 60])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("groups", [2, 5])
def test_equal_groups_share_a_rank(groups, paired, count):
    rng = np.random.default_rng([7, groups, paired, count])
    worlds = 800 if paired else 100
    false = sum(any(proven_better(simulated(rng, count, groups, paired)).values()) for _ in range(worlds))
    assert false / worlds < 0.05


def test_a_difference_shows_and_pairs_show_it_with_fewer_pictures():
    rng = np.random.default_rng(3)
    shown = {True: 0, False: 0}
    for _ in range(40):
        for paired in shown:
            better = proven_better(simulated(rng, 20, 3, paired, shift=0.05))
            shown[paired] += better["g0"] == ["g2"] and better["g1"] == ["g2"]
    assert shown[True] > 36 and shown[False] < 8


def test_paired_chance_is_that_of_scipy():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(2)
    for count, shift in ((6, 0.05), (12, 0.02), (30, 0.0), (30, 0.03)):
        differences = rng.normal(shift, 0.05, count)
        chance, mean = paired_chance(differences)
        assert chance == pytest.approx(ttest_1samp(differences, 0).pvalue, rel=0.05)
        assert mean == pytest.approx(differences.mean())
    assert paired_chance(np.zeros(9)) == (1.0, 0.0) and paired_chance(np.ones(9)) == (0.0, 1.0)


def test_twelve_pictures_prove_a_clear_difference_among_sixteen_groups():
    rng = np.random.default_rng(4)
    samples = simulated(rng, 12, 16, True, shift=0.3)
    assert len(proven_better(samples)["g0"]) == 1 and rank(samples)[1].rank == 2


def test_rank_follows_the_medians_and_ties_share_it():
    rng = np.random.default_rng(5)
    keys = tuple(map(str, range(40)))
    base = rng.normal(0.6, 0.03, 40)
    samples = [
        Sample("worst", keys, base - 0.3),
        Sample("best", keys, base),
        Sample("twin", keys, rng.permutation(base)),
        Sample("empty", (), np.array([])),
        Sample("few", keys[:3], base[:3] - 0.1),
    ]
    ranked = {one.name: one for one in rank(samples)}
    assert list(ranked)[-1] == "empty" and ranked["empty"].rank is None and ranked["empty"].interval is None
    assert ranked["best"].rank == ranked["twin"].rank == 1
    assert ranked["few"].rank == 1, "three pictures prove nothing"
    assert ranked["worst"].rank == 4 and set(ranked["worst"].better) == {"best", "twin"}
    assert rank(samples) == rank(samples[::-1]), "the order of the folders decides nothing"


def test_the_same_group_twice_is_never_told_apart():
    values = np.random.default_rng(1).normal(0.6, 0.1, 30)
    keys = tuple(map(str, range(30)))
    assert proven_better([Sample("a", keys, values), Sample("b", keys, values)]) == {"a": [], "b": []}
    assert difference_by_chance(0.0, np.zeros(100)) == 1.0
    assert difference_by_chance(0.1, np.full(100, 0.1)) == 0.0


def test_chance_of_a_difference_in_closed_form():
    draws = np.concatenate([np.full(30, -1.0), np.full(20, 0.0), np.full(950, 1.0)])
    assert difference_by_chance(1.0, draws) == pytest.approx(2 * (30 + 10) / 1000)
    far = np.random.default_rng(0).normal(5, 1, 4000)  # no draw crosses 0: the normal tail of 5 deviations
    assert difference_by_chance(5.0, far) == pytest.approx(math.erfc(5 / math.sqrt(2)), rel=0.5)


def test_holm_is_that_of_the_textbook():
    # Holm 1979: compared with 0.05/4, 0.05/3, 0.05/2, 0.05 in turn, up to the first that is not below
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.06]) == [False] and holm([]) == []


@pytest.mark.parametrize(
    ("group", "files", "keys"),
    [
        ("lora-000002", ["img_001.png", "img_002.jpg"], ("img_001", "img_002")),
        ("lora-000002", ["lora-000002_001.png", "LORA-000002_002.png"], ("001", "002")),
        ("alice", ["close/alice_01.png", "far/alice_01.png"], ("close/_01", "far/_01")),
        ("a", ["alice_e000010_03_20240501123456_42.png"], ("alice_e000010_03__42",)),
        ("run", ["1724567890123__000000500_0.jpg"], ("000000500_0",)),
    ],
)
def test_what_names_say_of_prompt_and_seed(group, files, keys):
    assert picture_keys(group, files) == keys


def test_prompt_and_seed_go_before_names():
    four, eight = (f"photo of ohwx,  smiling <lora:ohwx-{step}:0.9>" for step in ("000004", "000008"))
    known = known_keys([four, eight, four, None, four], ["1", "1", "2", "3", None])
    assert known[0] == known[1] != known[2] and known[3] is known[4] is None
    assert known_first(known, ("a", "b", "c", "d", "e")) == (known[0], f"{known[0]} (2)", known[2], "d", "e")
    assert are_known(known[:3]) and are_known([]) and not are_known(known)
    assert known_keys([float("nan")], [float("nan")]) == [None], "an empty cell of the table"


def test_pictures_pair_by_prompt_and_seed_whatever_they_are_called(metrics, make_picture, tiny_pack, tmp_path):
    """Both groups hold 00001.png to 00008.png: of the same prompts, in another order."""
    make_picture(tmp_path / "ref" / "1.png")
    for group, step, turn in (("a", "000004", 0), ("b", "000008", 3)):
        for number in range(8):
            path = make_picture(tmp_path / "cand" / group / f"{(number + turn) % 8:05d}.png", 20 + number)
            text = PngInfo()
            prompt = f"photo {number} of ohwx <lora:ohwx-{step}:1>"
            text.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 42, Size: 64x64")
            with Image.open(path) as picture:
                picture.load()
            picture.save(path, pnginfo=text)
    run = metrics("--pack", tiny_pack)
    assert "pictures of the same prompt and seed are compared" in run.summary["compared"], run.stderr
    for path in (tmp_path / "cand" / "b").iterdir():
        with Image.open(path) as picture:
            picture.load()
        picture.save(path)
    plain = metrics("--pack", tiny_pack, output="plain")
    assert "pictures of the same name are compared" in plain.summary["compared"], "one group says nothing"


def test_pictures_of_two_checkpoints_belong_together():
    first = picture_keys("alice-000002", ["alice-000002_p1_s7.png", "alice-000002_p2_s7.png"])
    second = picture_keys("alice-000004", ["alice-000004_p1_s7.png", "alice-000004_p2_s7.png"])
    assert first == second
    samples = [Sample("a", first, np.zeros(2)), Sample("b", second, np.zeros(2))]
    assert shared_pictures(samples) == 1 and shared_pictures(samples[:1]) is None
    assert len(set(picture_keys("x", ["a.png", "a.jpg"]))) == 2, "the same stem twice is two pictures"
