"""Steps and epochs as trainers write them into names, and the best checkpoint of a curve whose truth is known."""

import numpy as np
import pytest

from mirror.faces.ranking import Sample
from mirror.faces.steps import best_checkpoint, mark_of, series_of


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


@pytest.mark.parametrize("name", ["balanced", "my_lora_v2", "v1.5", "the10", "lr1e-4", "2024-05-01", "", "(no folder)"])
def test_names_that_say_neither(name):
    assert mark_of(name) is None


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
