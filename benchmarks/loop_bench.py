"""Does the bootstrap loop help? The loop, and LoRAs of as many steps on the real photos alone, for several people.

    python -m benchmarks.loop_bench --folder loop_bench --people 5 --seeds 3
    python -m benchmarks.loop_bench --folder loop_bench --pack demo --pack DIR       # every figure by each pack

Each run is bootstrap_loop.py in a folder of its own: the same command goes on where an earlier one
ended, and prints the table of what is there. The photos are rendered heads of people whom no demo model saw, and lack
profiles, as those of the loop's demo; what generates is the demo's diffusion model. Then the LoRA that a run keeps, and
the last one that it trained, are asked for every angle, and their samples are compared with other pictures of the
person at 0, 30 and 60 degrees: the one is what a user gets, who has the first LoRA where no other is clearly better;
the other tells whether the images help (a loop that merged nothing has no other LoRA than the first; how many
learned from generated images is printed).

A person's photos are the same in all runs. Intervals of 95 % are bootstrapped over people, and over the seeds of each;
a loop and its control, which share person and seed, stay together. What the controls of one person differ by comes of
their seeds, of training and samples; what the LoRAs within a control differ by, of trainings alone (`training_noise`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.demo_diffusion_bench import ASKED_DEG, REACHED_DEG, Asked, centre, demand_model, faces, generate, plan
from demo.bootstrap_world import (
    CONTROL,
    DIFFUSION,
    GOALS,
    LEARNING,
    LOOP,
    TRAINING_STEPS,
    configuration,
    render_small_photos,
)
from demo.diffusion.photos import TRIGGER, write_photos
from demo.identity import Identity
from demo.training_data import UNSEEN_SEED, draw_people, generator
from mirror.contracts.contract import read_contract
from mirror.contracts.history import IterationHistory
from mirror.faces.packs import find_pack
from mirror.loop.config import LoopConfig
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say
from utils.cores import available_cores
from utils.decoding import decode
from utils.defaults import DEMO_PACK, PROJECT
from utils.files import sha256_of, write_text_atomic

HELD_OUT_DEG = {"front": 0.0, "three_quarter": 30.0, "profile": 60.0}
PICTURES_OF_EACH = 6  # held out, at every angle
STRANGERS, MOST_PEOPLE = 20, 100
SEED_STEP = 1000  # between the seeds of runs: a control counts on from its own
RESAMPLES = 2000
ARMS = (LOOP, CONTROL)
KEPT, LAST = "the LoRA that a run keeps", "the last LoRA of a run"


@dataclass
class Run:
    """What one loop or control came to; `figures` by name."""

    person: int
    seed: int
    arm: str
    figures: dict[str, float] = field(default_factory=dict)


def prepare(folder: Path, who: Identity, run: Run, facts: dict) -> Path:
    """The configuration of a run, with its photos. Raises UserError where `facts` are not those of an earlier start."""
    config, stamp = folder / "config.json", folder / "bench.json"
    if run.arm == LOOP:  # a control has no use for these, and stays the same whatever they are
        settings = LoopConfig.model_validate(configuration(folder, run.arm))
        facts = facts | {"candidates": settings.generation.candidates, "num_per_gap": settings.generation.num_per_gap}
        facts |= {"share": settings.max_synthetic_share, "weight": settings.training.synthetic_weight}
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) != facts:
        raise UserError(f"{folder} was made with another model or other options; --folder takes a new one.")
    if not config.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(stamp, json.dumps(facts))
        render_small_photos(folder / "photos", who, run.person)
        (folder / "goals.json").write_text(json.dumps(GOALS), encoding="utf-8")
        settings = {"seed": SEED_STEP * run.seed, "max_iterations": facts["iterations"]}
        write_text_atomic(config, json.dumps(configuration(folder, run.arm) | settings))
    return config


def run_loop(config: Path) -> dict[str, Path]:
    """The LoRAs of a loop, by KEPT and LAST. Raises UserError where it ends in an error."""
    done = config.with_name("done")
    if not done.is_file():
        command = [sys.executable, "bootstrap_loop.py", "--config", str(config), "--yes"]
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8")
        if ended.returncode:
            raise UserError(f"{config}: the loop ended with {ended.returncode}: {ended.stderr.strip()[-400:]}")
        done.touch()
    loras = config.parent / "loras"
    return {KEPT: loras / "lora.safetensors", LAST: loras / history_of(config.parent).loras[-1].file}


def samples_of(made: Path, lora: Path, images: list[Asked]) -> list[np.ndarray]:
    """The plan's images with a LoRA, in the folder `made`; made once."""
    if not made.with_suffix(".done").is_file():
        shutil.rmtree(made, ignore_errors=True)
        pictures = generate(made, images, DIFFUSION, lora)
        made.with_suffix(".done").touch()
        return pictures
    return [decode((made / f"{one.name}.png").read_bytes()) for one in images]


def held_out(folder: Path, who: Identity, seed: int) -> dict[str, list[np.ndarray]]:
    """Pictures of somebody that no LoRA saw, by angle, both sides."""
    found = {}
    for name, yaw in HELD_OUT_DEG.items():
        yaws = [side * yaw for side in (-1, 1)] * (PICTURES_OF_EACH // 2)
        paths = sorted((folder / name).glob("*.png"))
        if len(paths) < len(yaws):
            paths = write_photos(folder / name, who, yaws, generator(UNSEEN_SEED + seed, f"held out, {name}"))
        found[name] = [decode(path.read_bytes()) for path in paths]
    return found


def figures_of(
    images: list[Asked],
    pictures: list[np.ndarray],
    own: dict[str, np.ndarray],
    others: list[dict[str, np.ndarray]],
    pack: Path,
) -> dict[str, float]:
    """What samples show, by one pack; `own` and `others` are mean faces (D,) by angle, unit norm."""
    found = faces(pictures, pack)
    figures = {"faces found": float(np.mean([face is not None for face in found]))}
    for target in ASKED_DEG:
        chosen = [(one, face) for one, face in zip(images, found, strict=True) if one.target == target]
        seen = [(one, face) for one, face in chosen if face]
        reached = [abs(face.yaw_deg - one.yaw_deg) <= REACHED_DEG for one, face in seen]
        likeness = [float(face.embedding @ own[target]) for _, face in seen]
        nearest = [
            float(face.embedding @ own[target]) > max(float(face.embedding @ one[target]) for one in others)
            for _, face in seen
        ]
        if likeness:
            figures[f"{target}: similarity to held-out pictures"] = statistics.fmean(likeness)
        figures[f"{target}: nearest to the person"] = sum(nearest) / len(chosen)
        figures[f"{target}: angle reached"] = sum(reached) / len(chosen)
    front = [
        face.embedding for one, face in zip(images, found, strict=True) if face is not None and one.target == "front"
    ]
    alike = [float(a @ b) for a, b in combinations(front, 2)]
    if alike:
        figures["similarity of two samples from the front"] = statistics.fmean(alike)
    return figures


def centres(pictures: dict[str, list[np.ndarray]], pack: Path) -> dict[str, np.ndarray]:
    """The mean direction of a head's faces at each angle."""
    return {name: centre(faces(images, pack)) for name, images in pictures.items()}


def history_of(folder: Path) -> IterationHistory:
    return read_contract(folder / "output" / "iteration_history.json", IterationHistory, "bootstrap_loop.py")


def coverage_of(history: IterationHistory) -> float | None:
    """How far the dataset of a loop reached its goals at the end."""
    known = [one.coverage for one in history.iterations if one.coverage is not None]
    return known[-1] if known else None


def training_noise(controls: list[IterationHistory]) -> tuple[float, int] | None:
    """(standard deviation of identity from one training on the same photos to another, pairs of LoRAs), as a share of
    what the photos score among each other.

    All LoRAs of a control learned from the same photos and were asked for the same samples, so that the mean difference
    d of two of them has the variance 2 SD^2, and beside it that of the samples, which their own scatter tells.
    """
    squares = []
    for history in controls:
        for a, b in combinations(history.loras, 2):
            shared = a.scores.keys() & b.scores.keys()
            if a.level and len(shared) > 1:
                gains = [(b.scores[one] - a.scores[one]) / a.level for one in shared]
                squares.append((statistics.fmean(gains) ** 2 - statistics.variance(gains) / len(gains)) / 2)
    return (max(0.0, statistics.fmean(squares)) ** 0.5, len(squares)) if squares else None


def run(args: argparse.Namespace) -> int:
    """Runs what is missing, then prints the table of each pack."""
    demand_model(DIFFUSION)
    packs = {name: find_pack(name).folder for name in args.pack or [DEMO_PACK]}
    crowd = draw_people(UNSEEN_SEED, MOST_PEOPLE + STRANGERS)
    people, strangers = crowd[: args.people], crowd[-STRANGERS:]
    images = plan(TRIGGER, args.each)
    weights = DIFFUSION / "unet" / "diffusion_pytorch_model.safetensors"
    facts = {"model": sha256_of(weights), "iterations": args.iterations, "each": args.each}
    facts |= {"training": f"--steps {TRAINING_STEPS} {LEARNING}", "goals": GOALS}
    # for samples, too: where threads outnumber the cores, PyTorch's wait for each other and take several times as long
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // args.jobs))

    def result(which: tuple[int, int, str]) -> dict[str, list[np.ndarray]]:
        index, seed, arm = which
        folder = args.folder / f"person{index}_seed{seed}_{arm}"
        loras = run_loop(prepare(folder, people[index], Run(index, seed, arm), facts))
        pictures = {KEPT: samples_of(folder / "bench_samples", loras[KEPT], images)}
        same = sha256_of(loras[LAST]) == sha256_of(loras[KEPT])
        pictures[LAST] = pictures[KEPT] if same else samples_of(folder / "bench_samples_last", loras[LAST], images)
        say(f"person {index + 1} of {len(people)}, seed {seed} of {args.seeds}: {arm} done")
        return pictures

    runs_asked = [
        (index, seed, arm) for seed in range(1, args.seeds + 1) for index in range(len(people)) for arm in ARMS
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        made = dict(zip(runs_asked, pool.map(result, runs_asked), strict=True))
    histories = {
        (index, seed, arm): history_of(args.folder / f"person{index}_seed{seed}_{arm}") for index, seed, arm in made
    }
    shown = [held_out(args.folder / f"held_out_{at}", who, at) for at, who in enumerate(people)]
    unknown = [held_out(args.folder / f"stranger_{at}", who, 1000 + at) for at, who in enumerate(strangers)]
    for name, pack in packs.items():
        others = [centres(pictures, pack) for pictures in unknown]
        own = [centres(pictures, pack) for pictures in shown]
        by_which: dict[str, list[Run]] = {KEPT: [], LAST: []}
        for (index, seed, arm), pictures in made.items():
            coverage = coverage_of(histories[index, seed, arm])
            goals = {} if coverage is None else {"goals of the dataset": coverage}
            known: dict[int, dict[str, float]] = {}  # where both are one LoRA, it is measured once
            for which, runs in by_which.items():
                if (key := id(pictures[which])) not in known:
                    known[key] = figures_of(images, pictures[which], own[index], others, pack) | goals
                runs.append(Run(index, seed, arm, known[key]))
        for which, runs in by_which.items():
            print(f"\n{which}, {name}, {len(people)} people, {args.seeds} seeds\n")
            print_table(runs)
    print_endings(histories)
    return EXIT_OK


def print_endings(histories: dict[tuple[int, int, str], IterationHistory]) -> None:
    """By which rule the runs ended, which LoRA they keep, what was approved, and how far trainings differ."""
    for arm in ARMS:
        ended = [history for (_, _, one), history in histories.items() if one == arm]
        decisions = [history.iterations[-1].decision for history in ended]
        told = Counter(f"{one.rule}, {one.best} kept" for one in decisions if one)
        print(f"\n{arm}: " + "; ".join(f"{count} x {words}" for words, count in told.most_common()))
        learned = sum(bool(history.loras[-1].synthetic_images) for history in ended)
        print(f"{arm}: the last LoRA of {learned} of {len(ended)} learned from generated images")
        made = [(one.approved, one.generated) for history in ended for one in history.iterations if one.generated]
        if made:
            approved, generated = (sum(numbers) for numbers in zip(*made, strict=True))
            print(f"{arm}: {approved} of {generated} generated images approved")
    noise = training_noise([history for (_, _, arm), history in histories.items() if arm == CONTROL])
    if noise:
        print(f"controls: identity differs by {noise[0]:.4f} (SD) between trainings, {noise[1]} pairs of LoRAs")


def print_table(runs: list[Run]) -> None:
    """Markdown: loop, control, difference with its interval, spread of the controls."""
    print("| figure | loop | control | difference (95 %) | controls of one person differ by |\n|---|---|---|---|---|")
    for name in dict.fromkeys(name for one in runs for name in one.figures):
        by_arm = {
            arm: {(one.person, one.seed): one.figures[name] for one in runs if one.arm == arm and name in one.figures}
            for arm in ARMS
        }
        means = [f"{statistics.fmean(by_arm[arm].values()):.3f}" if by_arm[arm] else "-" for arm in ARMS]
        changes = {key: by_arm[LOOP][key] - by_arm[CONTROL][key] for key in by_arm[LOOP] if key in by_arm[CONTROL]}
        told = "-"
        if changes:
            low, high = interval(changes)
            told = f"{statistics.fmean(changes.values()):+.3f} ({low:+.3f} to {high:+.3f})"
        spread = spread_of(by_arm[CONTROL])
        print(f"| {name} | {' | '.join(means)} | {told} | {'-' if spread is None else f'{spread:.3f}'} |")


def spread_of(values: dict[tuple[int, int], float]) -> float | None:
    """Standard deviation within a person, over all people; None with one seed."""
    groups = [[value for (person, _), value in values.items() if person == each] for each in {p for p, _ in values}]
    squares = [statistics.variance(group) for group in groups if len(group) > 1]
    return statistics.fmean(squares) ** 0.5 if squares else None


def interval(values: dict[tuple[int, int], float]) -> tuple[float, float]:
    """95 % percentile interval of the mean: people drawn with replacement, then the seeds of each."""
    random = np.random.default_rng(1)
    groups = [[value for (one, _), value in values.items() if one == each] for each in {one for one, _ in values}]
    means = []
    for _ in range(RESAMPLES):
        drawn = [groups[i] for i in random.integers(0, len(groups), len(groups))]
        means.append(np.mean([np.mean(random.choice(group, len(group))) for group in drawn]))
    return tuple(np.quantile(means, [0.025, 0.975]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.loop_bench", __doc__)
    add = parser.add_argument
    add("--folder", type=Path, required=True, metavar="DIR", help="where runs are kept, and gone on with")
    add("--people", type=options.between(1, MOST_PEOPLE, whole=True), default=5, help="how many people")
    add("--seeds", type=options.count, default=3, help="runs of each person, of loop and control")
    add("--iterations", type=options.count, default=2, help="of each run, at most")
    add("--each", type=options.count, default=12, help="samples of each angle at the end")
    add("--jobs", type=options.count, default=1, help="runs at the same time")
    add("--pack", action="append", help="name or folder of a model pack; may be repeated")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
