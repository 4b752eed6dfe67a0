"""What every model of the small world learns from: people by seed, and pictures rendered on all cores (`render_all`).

Training and measuring never share a person: `TRAINING_SEED` and `UNSEEN_SEED` give different ones, and neither is the
seed of a demo world (demo/sets.py draws from its own generators).
"""

from __future__ import annotations

import numpy as np

from demo.identity import Identity, draw_identity
from demo.parallel import render_all

__all__ = ["TRAINING_SEED", "UNSEEN_SEED", "draw_people", "generator", "render_all"]

TRAINING_SEED, UNSEEN_SEED = 1_000_003, 2_000_003


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers of their own for each purpose, so that one model's data does not move another's."""
    return np.random.default_rng([seed, *purpose.encode()])


def draw_people(seed: int, count: int) -> list[Identity]:
    """The first `count` people of a seed."""
    random = generator(seed, "people")
    return [draw_identity(random) for _ in range(count)]
