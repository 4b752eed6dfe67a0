#!/usr/bin/env python3
"""Choosing held-out photos: what the comparisons cost, each picture with each other one, and by points in common.

    python benchmarks/held_out_bench.py            # 75, 150 and 300 rendered pictures, a tenth of them crops
    python benchmarks/held_out_bench.py --counts 300 600

Both ways take the same pictures in turn and draw a fifth of them, as the loop does; what they say must agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mirror.dataset.cuts import likely_cuts, points_of
from mirror.dataset.pixels import for_cuts, is_cut_from


def picture(seed: int) -> np.ndarray:
    """(384, 512) uint8: shapes of all sizes, as in a photo, and some grain."""
    rng = np.random.default_rng(seed)
    grey = sum(
        cv2.resize(rng.normal(0, 40 / 1.6**level, (3 << level, 4 << level)), (512, 384), interpolation=cv2.INTER_CUBIC)
        for level in range(6)
    )
    return np.clip(grey + 128 + rng.normal(0, 3, grey.shape), 0, 255).astype(np.uint8)


def pictures_of(count: int) -> list[np.ndarray]:
    """`count` pictures; every tenth is a crop of the one before it, saved smaller."""
    found = []
    for index in range(count):
        if index % 10 == 9:
            found.append(cv2.resize(found[-1][40:330, 60:470], (300, 212), interpolation=cv2.INTER_AREA))
        else:
            found.append(picture(index))
    return found


def two_by_two(pictures: list[np.ndarray], drawn: range) -> list[bool]:
    """What was done before."""
    small = [for_cuts(one) for one in pictures]
    return [any(is_related(small, i, j) for j in range(len(small)) if i != j) for i in drawn]


def by_points(pictures: list[np.ndarray], drawn: range) -> list[bool]:
    """What is done now."""
    small = [for_cuts(one) for one in pictures]
    likely = likely_cuts([points_of(one) for one in pictures])
    return [any(is_related(small, i, j) for j in likely[i]) for i in drawn]


def is_related(small: list[np.ndarray], i: int, j: int) -> bool:
    return is_cut_from(small[i], small[j]) or is_cut_from(small[j], small[i])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[75, 150, 300], help="pictures (default: 75 150 300)")
    print("| pictures | two by two | by points |\n|---|---|---|")
    for count in parser.parse_args().counts:
        pictures, drawn = pictures_of(count), range(0, count, 5)
        times, answers = [], []
        for way in (two_by_two, by_points):
            begun = time.perf_counter()
            answers.append(way(pictures, drawn))
            times.append(time.perf_counter() - begun)
        if answers[0] != answers[1]:
            print(f"The two ways disagree on {count} pictures.", file=sys.stderr)
            return 1
        print(f"| {count} | {times[0]:.1f} s | {times[1]:.1f} s |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
