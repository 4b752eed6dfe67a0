"""Does the report tell the truth? Seeded worlds of rendered heads whose truth is known, through the real script.

    python -m benchmarks.truth_bench --pack DIR                    # 50 worlds took 90 minutes on 2 busy cores
    python -m benchmarks.truth_bench --pack DIR --worlds 6 --sweep-worlds 0

Each world is written as `python -m demo.make_world` writes it, measured by mirror_metrics.py with a cache of its own,
and compared with its truth files (benchmarks/truth_world.py). Prints Markdown tables. Rates carry Wilson intervals;
everything else carries bootstrap intervals over worlds (pictures of one world are not independent), both of 95 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.truth_panels import PANELS, Panel
from benchmarks.truth_world import SEVERITIES, measure_world
from mirror.faces.packs import find_pack
from mirror.faces.pose import BIN_LIMITS_DEG, angle_bin
from utils.cores import available_cores

RESAMPLES = 1000
Z_95 = 1.96
BORDER_DEG = 8.0  # nearer than this to a border between bins, either bin is a fair answer
SHOWS = 0.8  # a severity shows where at least this share of worlds lies outside what balanced sets do

World = dict  # what measure_world gives


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927)."""
    share, z2 = hits / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap(worlds: list, figure: Callable[[list], float], seed: int) -> tuple[float, float]:
    """95 % percentile interval of `figure` over worlds drawn with replacement."""
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(worlds), (RESAMPLES, len(worlds)))
    return tuple(np.nanquantile([figure([worlds[i] for i in draw]) for draw in draws], [0.025, 0.975]))


def ranks(values: Iterable[float]) -> np.ndarray:
    """Rank of each value from 1; equal values share their mean rank."""
    _, place, counts = np.unique(np.asarray(list(values)), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def spearman(first: Iterable[float], second: Iterable[float]) -> float:
    """Rank correlation (Spearman 1904)."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def chance_above(first: Iterable[float], second: Iterable[float]) -> float:
    """Probability that a value of `first` lies above one of `second` (area under the ROC curve), ties count half."""
    a, b = np.asarray(list(first))[:, None], np.asarray(list(second))[None, :]
    return float((a > b).mean() + 0.5 * (a == b).mean())


class Table:
    """Rows of `figure | value | 95 % interval | of`, as Markdown."""

    def __init__(self, worlds: list[World], seed: int):
        self.worlds, self.seed = worlds, seed
        self.lines = ["| figure | value | 95 % interval | of |", "|---|---|---|---|"]

    def rate(self, label: str, answers: Iterable[bool], unit: str) -> None:
        """`answers` are independent only across worlds; with many a world the interval is too narrow by that."""
        found = [bool(answer) for answer in answers]
        if not found:
            self.lines.append(f"| {label} | no case | | 0 {unit} |")
            return
        low, high = wilson(sum(found), len(found))
        share = sum(found) / len(found)
        self.lines.append(f"| {label} | {share:.1%} | {low:.1%} to {high:.1%} | {sum(found)} of {len(found)} {unit} |")

    def value(self, label: str, figure: Callable[[list[World]], float], digits: int = 2, unit: str = "") -> None:
        value = figure(self.worlds)
        low, high = bootstrap(self.worlds, figure, self.seed)
        cells = f"{value:.{digits}f}{unit} | {low:.{digits}f} to {high:.{digits}f}"
        self.lines.append(f"| {label} | {cells} | {len(self.worlds)} worlds |")


def plain(worlds: list[World]) -> list[list]:
    return [head for world in worlds for head in world["yaw"]["plain"]]


def measured_plain(worlds: list[World]) -> np.ndarray:
    """(N, 2) true and measured yaw of plain heads."""
    return np.array([[true, yaw] for true, yaw, _ in plain(worlds) if yaw is not None])


def mean_yaw_error(pairs: np.ndarray, limit_deg: float) -> float:
    near = pairs[np.abs(pairs[:, 0]) <= limit_deg]
    return float(np.abs(near[:, 0] - near[:, 1]).mean())


def away_from_borders(yaw_deg: float) -> bool:
    borders = [low for low, _ in BIN_LIMITS_DEG.values() if low > 0]
    return all(abs(abs(yaw_deg) - border) > BORDER_DEG for border in borders)


def yaw_rows(table: Table, worlds: list[World]) -> None:
    heads = plain(worlds)
    pairs = measured_plain(worlds)
    table.rate("plain heads from -80 to 80 degrees found", (head[1] is not None for head in heads), "heads")
    table.rate("... without the black border", (head[2] == "ok" for head in heads), "heads")
    turned = pairs[np.abs(pairs[:, 0]) >= 10]
    table.rate("sign of the yaw right, from 10 degrees", np.sign(turned[:, 0]) == np.sign(turned[:, 1]), "heads")

    def order(limit_deg: float) -> Callable[[list[World]], float]:
        def figure(some: list[World]) -> float:
            sweeps = [measured_plain([world]) for world in some]
            near = [sweep[np.abs(sweep[:, 0]) <= limit_deg] for sweep in sweeps]
            return float(np.mean([spearman(*sweep.T) for sweep in near]))

        return figure

    table.value("order of the yaw over a sweep of -80 to 80 degrees, rank correlation", order(80), 3)
    table.value("... -60 to 60 degrees", order(60), 3)
    table.value("mean error of the yaw to 60 degrees", lambda some: mean_yaw_error(measured_plain(some), 60), 1, "°")
    for name, (low, high) in BIN_LIMITS_DEG.items():
        inside = [p for p in pairs if low <= abs(p[0]) < high and away_from_borders(p[0])]
        label = f"bin right, plain heads in {name}, more than {BORDER_DEG:.0f}° from its borders"
        table.rate(label, [angle_bin(yaw) == name for _, yaw in inside], "heads")
    daily = np.array([pair for world in worlds for pair in world["yaw"]["everyday"]])
    table.value(
        "mean error of the yaw, everyday pictures to 55 degrees",
        lambda some: mean_yaw_error(np.array([p for world in some for p in world["yaw"]["everyday"]]), 60),
        1,
        "°",
    )
    clear = [p for p in daily if away_from_borders(p[0])]
    table.rate("bin right, everyday pictures", [angle_bin(t) == angle_bin(y) for t, y in clear], "pictures")


def head_rows(table: Table) -> None:
    def same(some: list[World]) -> float:
        return statistics.median(cosine for world in some for cosine in world["heads"]["same"])

    def different(some: list[World]) -> float:
        return statistics.median(cosine for world in some for _, cosine in world["heads"]["different"])

    def order(key: str) -> Callable[[list[World]], float]:
        return lambda some: float(np.mean([spearman(*np.array(world["heads"][key]).T) for world in some]))

    def all_pairs(some: list[World]) -> float:
        return spearman(*np.array([pair for world in some for pair in world["heads"]["different"]]).T)

    table.value("cosine of two pictures of the same head, to 40 degrees, median", same)
    table.value("cosine of different heads, to 40 degrees, median", different)
    table.value("gap of the two medians", lambda some: same(some) - different(some))
    table.value(
        "chance that a same pair scores above a different pair",
        lambda some: chance_above(
            (c for world in some for c in world["heads"]["same"]),
            (c for world in some for _, c in world["heads"]["different"]),
        ),
    )
    table.value("rank correlation of distance and Similarity, one face turning into another", order("morph"))
    table.value("rank correlation of distance and cosine, heads at random", all_pairs)


def reference_rows(table: Table, worlds: list[World]) -> None:
    found = [world["references"] for world in worlds]
    table.rate("both planted outliers last of the references", (one["outliers_last"] for one in found), "worlds")
    table.value(
        "lowest good reference above the highest outlier, median",
        lambda some: float(np.nanmedian([world["references"]["outlier_margin"] for world in some])),
    )
    mutual = [pair[0] for one in found for pair in one["duplicates"]]
    table.rate("near duplicates are each other's nearest reference", mutual, "pairs")
    table.value(
        "NearestSimilarity of near duplicates, median",
        lambda some: statistics.median(p[1] for world in some for p in world["references"]["duplicates"] if p[1]),
        3,
    )
    table.value(
        "NearestSimilarity of other references, median",
        lambda some: statistics.median(world["references"]["nearest_of_single"] for world in some),
        3,
    )


def copy_rows(table: Table, worlds: list[World]) -> None:
    for key, label in (("set", "the overtrained set"), ("report", "the whole report")):
        first = [world["copies"][key]["precision"] == 1 for world in worlds]
        table.rate(f"all near copies first in the Copycat order of {label}", first, "worlds")
        chance = statistics.mean(world["copies"][key]["chance"] for world in worlds)
        table.value(
            f"... mean precision (by chance {chance:.2f})",
            lambda some, key=key: statistics.mean(world["copies"][key]["precision"] for world in some),
            3,
        )
        top = [world["copies"][key]["source_first"] for world in worlds]
        table.rate(f"their source tops the Black Hole Ranking of {label}", top, "worlds")


def close_up_rows(table: Table, worlds: list[World]) -> None:
    shots = [shot for world in worlds for shot in world["close_ups"]]
    for status, words in (("ok", "found at once"), ("rescued", "rescued"), ("no_face", "not found")):
        table.rate(f"close-ups {words}", (shot["status"] == status for shot in shots), "pictures")
    for status in ("rescued", "ok"):
        found = [shot for shot in shots if shot["status"] == status]
        right = [shot["person"] > shot["stranger"] for shot in found]
        table.rate(f"close-ups ({status}) nearer to the person than to the stranger", right, "pictures")
        if found:
            middle = statistics.median(shot["similarity"] for shot in found)
            table.lines.append(f"| ... Similarity, median | {middle:.2f} | | {len(found)} pictures |")


def step_rows(table: Table, worlds: list[World]) -> None:
    """Steps 2, 4, 6, 8 get better; 8 is the best without copies; 10 and 12 copy."""
    runs = [np.array(world["steps"], dtype=float) for world in worlds]
    similarity, nearest = [run[:, 0] for run in runs], [run[:, 1] for run in runs]
    varied = [np.where(run[:, 2] < 0.5, run[:, 0], -1) for run in runs]
    table.rate(
        "step series: median Similarity rises at every step from 2 to 8",
        (bool(np.all(np.diff(one[:4]) > 0)) for one in similarity),
        "worlds",
    )
    table.rate("... is highest at step 8 of 2 to 8", (one[:4].argmax() == 3 for one in similarity), "worlds")
    table.rate("... is highest at step 8 of all", (one.argmax() == 3 for one in similarity), "worlds")
    table.rate(
        "... is highest at step 8 of those where no reference takes half of the images",
        (one.argmax() == 3 for one in varied),
        "worlds",
    )
    table.rate(
        "... NearestSimilarity of steps 10 and 12 above that of step 8",
        (one[4] > one[3] and one[5] > one[3] for one in nearest),
        "worlds",
    )
    table.value(
        "... NearestSimilarity jumps from step 8 to 12 by, median",
        lambda some: statistics.median(world["steps"][5][1] - world["steps"][3][1] for world in some),
        3,
    )


def values_of(worlds: list[World], panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """(set, balanced) of the worlds where both were measured."""
    key = panel.key
    pairs = [(world["panels"][key], world["balanced"][key]) for world in worlds]
    found = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def panel_table(worlds: list[World], seed: int) -> list[str]:
    lines = [
        "| set | where | set, median | balanced, median | effect (1 is perfect) | 95 % interval | right in its world |",
        "|---|---|---|---|---|---|---|",
    ]
    for panel in PANELS:
        planted, calm = values_of(worlds, panel)
        name = f"| {panel.kind} | {panel.label} |"
        if not len(planted):
            lines.append(f"{name} not measurable with this pack | | | | |")
            continue

        def effect(some: list[World], panel: Panel = panel) -> float:
            first, second = values_of(some, panel)
            return chance_above(panel.direction * first, panel.direction * second)

        low, high = bootstrap(worlds, effect, seed)
        right = int((panel.direction * (planted - calm) > 0).sum())
        sign_low, sign_high = wilson(right, len(planted))
        lines.append(
            f"{name} {np.median(planted):.3f} | {np.median(calm):.3f} | {effect(worlds):.2f} | {low:.2f} to {high:.2f} "
            f"| {right} of {len(planted)} ({sign_low:.0%} to {sign_high:.0%}) |"
        )
    return lines


def sweep_table(worlds: list[World]) -> list[str]:
    """Share of worlds in which a severity shows, and the smallest that shows from there on."""
    swept = [world["sweep"] for world in worlds if world["sweep"]]
    if not swept:
        return []
    lines = [
        "| set | where | " + " | ".join(map(str, SEVERITIES)) + " | smallest that shows |",
        "|---" * (len(SEVERITIES) + 3) + "|",
    ]
    for panel in PANELS:
        calm = [world["balanced"][panel.key] for world in worlds]
        shares = [shown_share(panel, calm, [one[str(s)]["panels"][panel.key] for one in swept]) for s in SEVERITIES]
        lines.append(sweep_line(panel.kind, panel.label, shares))
    first = [[one[str(s)]["copies"]["precision"] == 1 for one in swept] for s in SEVERITIES]
    lines.append(sweep_line("overtrained", "Copycat: all near copies first", [statistics.mean(a) for a in first]))
    source = [[one[str(s)]["copies"]["source_first"] for one in swept] for s in SEVERITIES]
    lines.append(sweep_line("overtrained", "Black Hole Ranking: source first", [statistics.mean(a) for a in source]))
    last = [[one[str(s)]["outliers_last"] for one in swept] for s in SEVERITIES]
    lines.append(sweep_line("references", "leave-one-out: both outliers last", [statistics.mean(a) for a in last]))
    return lines


def shown_share(panel: Panel, calm: list[float | None], planted: list[float | None]) -> float | None:
    """Share of `planted` beyond 97.5 % of what balanced sets do, on the side that the plant should show."""
    known = [panel.direction * value for value in calm if value is not None]
    found = [panel.direction * value for value in planted if value is not None]
    if not known or not found:
        return None
    return float(np.mean(np.array(found) > np.quantile(known, 0.975)))


def sweep_line(kind: str, label: str, shares: list[float | None]) -> str:
    if None in shares:
        return f"| {kind} | {label} |" + " |" * len(SEVERITIES) + " not measurable with this pack |"
    smallest = "does not show"
    for severity, share in reversed(list(zip(SEVERITIES, shares, strict=True))):
        if share < SHOWS:
            break
        smallest = str(severity)
    return f"| {kind} | {label} | " + " | ".join(f"{share:.0%}" for share in shares) + f" | {smallest} |"


def measure_all(args: argparse.Namespace, pack: str) -> list[World]:
    """Every world, one process a core; in the order of the seeds."""
    found: dict[int, World] = {}
    started = time.perf_counter()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(measure_world, args.seed + i, pack, args.size, args.pixels, i < args.sweep_worlds): i
            for i in range(args.worlds)
        }
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            seconds = time.perf_counter() - started
            print(f"{len(found)} of {args.worlds} worlds, {seconds:.0f} s", file=sys.stderr, flush=True)
    return [found[i] for i in range(args.worlds)]


def tell(args: argparse.Namespace, worlds: list[World]) -> None:
    swept = sum(bool(world["sweep"]) for world in worlds)
    print(
        f"Pack {worlds[0]['pack']['identity']}; {len(worlds)} worlds from seed {args.seed}, {args.size} pictures "
        f"a set, {args.pixels} pixels. Intervals are of 95 %: Wilson's for rates, else a bootstrap over worlds "
        f"({RESAMPLES} resamples).\n"
    )
    table = Table(worlds, args.seed)
    yaw_rows(table, worlds)
    head_rows(table)
    reference_rows(table, worlds)
    copy_rows(table, worlds)
    close_up_rows(table, worlds)
    step_rows(table, worlds)
    print("\n".join(table.lines))
    print(
        "\nPlanted sets against the balanced set, at their default severity. Effect: the chance that a planted set's "
        "figure lies beyond a balanced one's, over all pairs of worlds (0.5 is no difference).\n"
    )
    print("\n".join(panel_table(worlds, args.seed)))
    if swept:
        print(
            f"\nSeverity: share of {swept} worlds in which the set lies outside 97.5 % of the {len(worlds)} balanced "
            f"sets (or in which the last three statements hold). It shows where {SHOWS:.0%} of them do, from there "
            "on upwards.\n"
        )
        print("\n".join(sweep_table(worlds)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pack", required=True, metavar="NAME|DIR", help="model pack that measures")
    parser.add_argument("--worlds", type=int, default=50, help="seeded worlds")
    parser.add_argument("--sweep-worlds", type=int, default=5, help="of them, how many are swept over severities")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first world, and of the bootstrap")
    parser.add_argument("--size", type=int, default=12, help="pictures in a set")
    parser.add_argument("--pixels", type=int, default=320, help="side of a picture")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="processes")
    parser.add_argument("--facts", type=Path, metavar="FILE", help="also keep what each world gave, as JSON")
    args = parser.parse_args()
    pack = find_pack(args.pack)
    if pack is None:
        print(f"No model pack {args.pack}; --pack takes a folder or a name in models/.", file=sys.stderr)
        return 2
    worlds = measure_all(args, str(pack.folder))
    if args.facts:
        args.facts.write_text(json.dumps(worlds), encoding="utf-8")
    tell(args, worlds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
