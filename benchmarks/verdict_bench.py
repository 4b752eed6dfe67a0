"""Do the verdicts tell the truth? Worlds of rendered heads with planted faults, through the real script.

    python -m benchmarks.verdict_bench --worlds DIR --pack demo DIR_OF_A_PACK --seeds 601 602 603
    python -m benchmarks.verdict_bench --worlds DIR --pack demo --seeds 701 702 --power

Worlds that are missing are rendered into DIR/<seed> (about 3 minutes each), then mirror_metrics.py measures each with a
cache beside it, so that a second run takes seconds. With --power, faults are planted at several severities, and groups
of 30 and of 12 pictures are judged (DIR/power_<seed>). Prints Markdown tables: how often each planted fault is named,
what is said of whom, the best step, and power against severity. Rates carry Wilson intervals of 95 %.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.truth_world import run_script
from demo import make_world as writer
from demo.parallel import render_all
from demo.sets import STEPS, make_set, make_world
from mirror.faces.metrics import wilson
from mirror.faces.verdicts import GOOD, RULES, TOO_FEW

SIZE, PIXELS, FEW = 30, 320, 12
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
NAMED = {  # group: the verdict that is true of it
    "overtrained": "overtrained",
    "lora-000012": "overtrained",
    "rigid": "rigid",
    "failures": "many failures",
    "close_ups": "many failures",
    "two_persons": "mixed",
    "wrong_person": "wrong person",
    "drifting": "identity drift",
    "undertrained": "undertrained",
    "aged": "ages the person",
    "balanced": GOOD,
    "lora-000008": GOOD,
}
ALSO_TRUE = {  # a part of the same fault, or a fair answer where the planted fault is small
    "overtrained": {"black hole"},
    "lora-000012": {"black hole"},
    "lora-000010": {"overtrained", "copycat", "black hole"},
    "lora-000002": {"undertrained"},
    "lora-000004": {"undertrained"},
    "lora-000006": {"undertrained", GOOD},
    "failures": {TOO_FEW},
    "close_ups": {TOO_FEW},
    "aged": {GOOD},
}
BEST_STEP = 8
SWEPT = ("overtrained", "rigid", "two_persons", "wrong_person", "drifting", "undertrained")

Said = dict[tuple[str, int, str], list[str]]  # (pack, seed, group): verdicts


def render_world(base: Path, seed: int) -> None:
    """The world of `seed` in `base`, unless it is there."""
    stamp = base / writer.STAMP
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8"))["planted"]:
        return
    print(f"rendering {base}", file=sys.stderr, flush=True)
    with contextlib.redirect_stderr(io.StringIO()):  # a line for each set
        writer.run(base, writer.Settings(seed, SIZE, PIXELS), workers=1)


def render_power(base: Path, seed: int) -> None:
    """The references of `seed` and every swept fault at every severity, SIZE pictures each; then FEW of the same."""
    world = make_world(seed, reference_size=SIZE + 4)
    folders = {base / writer.REFERENCES: world.reference}
    candidates = base / writer.CANDIDATES
    for kind in SWEPT:
        for severity in SEVERITIES:
            folders[candidates / f"{kind}@{severity}"] = make_set(world, kind, SIZE, severity).shots
    for folder, shots in folders.items():
        if not (folder / writer.TRUTH).is_file():  # written last
            print(f"rendering {folder}", file=sys.stderr, flush=True)
            pictures = render_all([shot.scene for shot in shots], PIXELS, workers=1)
            writer.write_shots(folder, shots, pictures, {"set": folder.name})
        few = base / f"few_{writer.CANDIDATES}" / folder.name
        if folder.parent == candidates and not few.is_dir():
            few.mkdir(parents=True)
            for place in range(FEW):  # evenly: some sets begin with what is planted
                name = f"{place * SIZE // FEW:03d}.png"
                shutil.copyfile(folder / name, few / name)


def measure(base: Path, pack: str, candidates: str = writer.CANDIDATES) -> dict:
    """Summary of the real script. Raises RuntimeError with what it said."""
    cache = next(iter(sorted(base.glob("*.sqlite"))), base / "cache.sqlite")
    with tempfile.TemporaryDirectory() as output:
        return json.loads(run_script(pack, base, candidates, Path(output), cache))


def verdicts_of(summary: dict) -> dict[str, list[str]]:
    """Of every group of generated images."""
    return {
        group["name"]: [verdict["name"] for verdict in group["verdicts"]]
        for group in summary["groups"]
        if group["type"] == "Candidate"
    }


def rate(answers: list[bool]) -> str:
    """`3 of 4 (30 - 95 %)`"""
    if not answers:
        return "-"
    low, high = wilson(sum(answers), len(answers))
    return f"{sum(answers)} of {len(answers)} ({100 * low:.0f} - {100 * high:.0f} %)"


def print_table(heading: list[str], rows: list[list[str]]) -> None:
    """Markdown."""
    for cells in (heading, ["---"] * len(heading), *rows):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def named_table(said: Said, packs: list[str]) -> None:
    """How often the planted fault is named, and how often something else is said beside or instead of it."""
    heading = ["planted in", "true verdict"]
    heading += [f"{what}, {pack}" for pack in packs for what in ("named", "another verdict")]
    rows = []
    for group, verdict in NAMED.items():
        row = [group, f"*{verdict}*"]
        for pack in packs:
            names = [names for key, names in said.items() if (key[0], key[2]) == (pack, group)]
            row.append(rate([verdict in one for one in names]))
            row.append(rate([bool(set(one) - {verdict, TOO_FEW} - ALSO_TRUE.get(group, set())) for one in names]))
        rows.append(row)
    print_table(heading, rows)


def confusion_table(said: Said, pack: str) -> None:
    """How often each verdict is said of each group, in percent of the worlds."""
    counts: dict[str, Counter] = defaultdict(Counter)
    worlds: Counter = Counter()
    for (of_pack, _, group), names in said.items():
        if of_pack == pack:
            counts[group].update(names)
            worlds[group] += 1
    columns = [name for name in (*RULES, GOOD, TOO_FEW) if any(one[name] for one in counts.values())]
    rows = [
        [group, *(f"{100 * one[name] / worlds[group]:.0f}" if one[name] else "" for name in columns)]
        for group, one in sorted(counts.items())
    ]
    print(f"What is said of each group, in percent of the worlds ({pack}):\n")
    print_table(["group", *columns], rows)


def steps_table(best: dict[tuple[str, int], str | None], packs: list[str]) -> None:
    """Whether the best step of the planted series is found, exactly and within one step."""
    rows = []
    for pack in packs:
        found = [None if name is None else int(name.rsplit("-", 1)[1]) for key, name in best.items() if key[0] == pack]
        near = [step is not None and abs(STEPS.index(step) - STEPS.index(BEST_STEP)) <= 1 for step in found]
        rows.append([pack, rate([step == BEST_STEP for step in found]), rate(near)])
    print_table(["pack", "best step found", "within one step"], rows)


def power_table(said: dict[tuple[str, int, str], list[str]], packs: list[str]) -> None:
    """Share of worlds that name the fault, by severity, pack and number of pictures."""
    heading = ["planted", *(f"{severity:g}" for severity in SEVERITIES)]
    for pack in packs:
        for size in (SIZE, FEW):
            rows = []
            for kind in SWEPT:
                row = [kind]
                for severity in SEVERITIES:
                    key = f"{kind}@{severity}"
                    names = [
                        names for at, names in said.items() if (at[0], at[1], at[2].split("/")[0]) == (pack, size, key)
                    ]
                    row.append(f"{sum(NAMED[kind] in one for one in names)} of {len(names)}")
                rows.append(row)
            print(f"Named at each severity, {size} pictures a group ({pack}):\n")
            print_table(heading, rows)


def judge_worlds(folder: Path, packs: list[str], seeds: list[int]) -> None:
    """The tables of whole worlds."""
    said: Said = {}
    best = {}
    labels = []
    for pack in packs:
        labels.append(Path(pack).name)
        for seed in seeds:
            render_world(folder / str(seed), seed)
            summary = measure(folder / str(seed), pack)
            said |= {(labels[-1], seed, group): names for group, names in verdicts_of(summary).items()}
            best[labels[-1], seed] = next((curve["best"] for curve in summary["curves"]), None)
    print(f"{len(seeds)} worlds, seeds {', '.join(map(str, seeds))}, {SIZE} pictures a group, {PIXELS} pixels.\n")
    named_table(said, labels)
    steps_table(best, labels)
    for label in labels:
        confusion_table(said, label)


def judge_power(folder: Path, packs: list[str], seeds: list[int]) -> None:
    """The tables of power against severity."""
    said = {}
    for seed in seeds:
        base = folder / f"power_{seed}"
        render_power(base, seed)
        for pack in packs:
            for size, candidates in ((SIZE, writer.CANDIDATES), (FEW, f"few_{writer.CANDIDATES}")):
                found = verdicts_of(measure(base, pack, candidates))
                said |= {(Path(pack).name, size, f"{group}/{seed}"): names for group, names in found.items()}
    print(f"{len(seeds)} worlds, seeds {', '.join(map(str, seeds))}, {PIXELS} pixels.\n")
    power_table(said, [Path(pack).name for pack in packs])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--worlds", type=Path, required=True, help="folder of the worlds; rendered where missing")
    parser.add_argument("--pack", nargs="+", default=["demo"], help="model packs, names or folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(601, 621)), help="worlds to judge")
    parser.add_argument("--power", action="store_true", help="faults at several severities instead of whole worlds")
    args = parser.parse_args()
    (judge_power if args.power else judge_worlds)(args.worlds, args.pack, args.seeds)


if __name__ == "__main__":
    main()
