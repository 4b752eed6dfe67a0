"""Steps and epochs as trainers write them into names, and the best checkpoint of a curve whose truth is known."""

import numpy as np
import pytest

from mirror.faces.ranking import Sample
from mirror.faces.steps import (
    Mark,
    best_checkpoint,
    by_step,
    group_name,
    mark_of,
    sample_mark_of,
    series_of,
    without_step,
)


@pytest.mark.parametrize(
    ("name", "series", "unit", "number"),
    [
        ("alice-000012", "alice", "epoch", 12),  # kohya, --save_every_n_epochs
        ("alice-step00000500", "alice", "step", 500),  # kohya, --save_every_n_steps
        ("alice_000001500", "alice", "step", 1500),  # ai-toolkit
        ("alice2024-05-01_12-00-00-save-500-10-0", "alice", "step", 500),  # OneTrainer
        ("2024-05-01_12-00-00-save-1500-30-20", "", "step", 1500),
        ("checkpoint-500", "", "step", 500),  # diffusers
        ("step01500", "", "step", 1500),
        ("alice 1500 steps", "alice", "step", 1500),
        ("e10", "", "epoch", 10),
        ("alice_e10_rank16", "alice rank16", "epoch", 10),
        ("Alice_Epoch_10", "Alice", "epoch", 10),
        ("epoch=10", "", "epoch", 10),
        ("1500", "", "step", 1500),
        ("lr1e-4_rank64_epoch_000010", "lr1e-4_rank64", "epoch", 10),
    ],
)
def test_habits_of_trainers(name, series, unit, number):
    mark = mark_of(name)
    assert (mark.series, mark.unit, mark.number) == (series, unit, number)


@pytest.mark.parametrize(
    "name",
    [
        "balanced",
        "my_lora_v2",
        "v1.5",
        "the10",
        "lr1e-4",
        "2024-05-01",
        "",
        "(no folder)",
        "portrait_1024",
        "flux_2024",
    ],
)
def test_names_that_say_neither(name):
    assert mark_of(name) is None


@pytest.mark.parametrize(
    ("name", "series", "unit", "number", "rest"),
    [
        ("alice_000500_01_20240101120000_42.png", "alice", "step", 500, "alice__01_20240101120000_42.png"),  # kohya
        ("my_lora_e000010_00_20240101120000_42.png", "my_lora", "epoch", 10, "my_lora__00_20240101120000_42.png"),
        ("e000010_00_20240101120000.png", "", "epoch", 10, "_00_20240101120000.png"),
        ("a_20240101120000_000500_01_42.png", "a", "step", 500, "a__01_42.png"),  # kohya, earlier
        ("a_000500_00_20240101120000_42_000.png", "a", "step", 500, "a__00_20240101120000_42_000.png"),  # musubi-tuner
        ("1700000000000__000000500_0.jpg", "", "step", 500, "_0.jpg"),  # ai-toolkit
        ("rank00_sample003_1700000000000__000001500_3.png", "", "step", 1500, "rank00_sample003__3.png"),
        ("0 - a man/2024-01-01_12-00-00-training-sample-500-10-0.png", "", "step", 500, "0 - a man/.png"),  # OneTrainer
        ("step_500_alice_1024x1024.png", "", "step", 500, "_alice_1024x1024.png"),  # SimpleTuner
        ("alice-step00000500_p1.png", "", "step", 500, "alice-_p1.png"),
        ("p1_s7_epoch_10.png", "", "epoch", 10, "p1_s7_.png"),
        ("checkpoint-1500 3.png", "", "step", 1500, " 3.png"),
    ],
)
def test_habits_of_sample_images(name, series, unit, number, rest):
    mark = sample_mark_of(name)
    assert (mark.series, mark.unit, mark.number) == (series, unit, number)
    assert without_step(name) == rest


@pytest.mark.parametrize(
    "name",
    [
        "00012-1234567.png",  # A1111: counter and seed, of any length
        "00012-123456.png",
        "00500-000500.png",
        "1234567890.png",
        "ComfyUI_00012_.png",
        "ComfyUI_temp_abcde_00012_.png",
        "alice_000012.png",
        "img_001.png",
        "prompt01_seed42.png",
        "20240101120000-00012-42-20 steps.png",
        "00012-steps20-cfg7.png",
        "00012-step 20.png",
        "IMG_20240101_120000.jpg",
        "grid-0001.png",
        "2024-01-01_12-00-00.png",
        "1700000000000_500.jpg",
        "photo_000500_01.png",
    ],
)
def test_seeds_and_counters_are_no_steps(name):
    assert sample_mark_of(name) is None and without_step(name) == name


def test_two_steps_of_one_run_make_groups():
    one, two, other = Mark("a", "step", 500, "500"), Mark("a", "step", 1000, "1000"), Mark("b", "step", 500, "500")
    assert by_step([two, None, one, one]) == [one, two] and by_step([one, other, None]) is None
    assert by_step([one, two, other]) == [one, two, other] and by_step([]) is None
    for folder in ("run", "run-000004", "steps2000_run_e10", "", "1500", "checkpoint-500"):
        named = [mark_of(group_name(folder, mark, with_series=False)) for mark in (one, two)]
        assert [(mark.unit, mark.number) for mark in named] == [("step", 500), ("step", 1000)], folder
        assert named[0].series == named[1].series
    assert group_name("run", one, with_series=True) == "run a step 500"


def test_checkpoints_of_one_training_in_the_order_of_training():
    names = ["b-000004", "a-000010", "a-000002", "a-step00000100", "other", "a-000004", "b-000004 (2)"]
    runs = series_of(names)
    assert runs == {("a", "epoch"): [(2, "a-000002"), (4, "a-000004"), (10, "a-000010")]}


def curve(medians, seed, count=30, noise=0.02):
    rng = np.random.default_rng(seed)
    prompts = rng.normal(0, 0.07, count)
    keys = tuple(map(str, range(count)))
    return [Sample(f"s{i}", keys, m + prompts + rng.normal(0, noise, count)) for i, m in enumerate(medians)]


def test_best_is_the_earliest_within_noise_of_the_highest():
    """A peak at the fourth of six, twenty times: named within one step; a plateau is taken from its beginning."""
    found = [int(best_checkpoint(curve([0.4, 0.5, 0.58, 0.65, 0.61, 0.55], seed))[0][1]) for seed in range(20)]
    assert set(found) == {3}
    flat = [best_checkpoint(curve([0.4, 0.65, 0.65, 0.65], seed)) for seed in range(20)]
    assert np.mean([best == "s1" for best, _ in flat]) > 0.9
    assert {highest for _, highest in flat} > {"s2", "s3"} or len({highest for _, highest in flat}) > 1


def test_few_pictures_do_not_make_the_first_checkpoint_the_best():
    few = curve([0.3, 0.5, 0.65], 1, count=4)
    assert best_checkpoint(few) == ("s2", "s2"), "nothing is proven of four pictures, but 0.3 is not within noise"
    assert best_checkpoint([]) == (None, None)
    assert best_checkpoint([Sample("empty", (), np.array([]))]) == (None, None)
