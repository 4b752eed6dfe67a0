"""What does the demo's diffusion model draw, and does a LoRA teach it a person whom it never saw?

    python -m benchmarks.demo_diffusion_bench --people 5
    python -m benchmarks.demo_diffusion_bench --people 5 --pack demo --pack DIR    # every figure by each pack

Images are made by generate_synthetic.py, LoRAs by train_lora.py, as users run them, on the CPU. First the base model is
asked for each angle: faces found, angle reached (within 15 degrees of what the words stand for, and on the asked side),
how alike the faces of different seeds are; then for each shot size, light and expression: gap_analysis.py sorts the
images, as it does those of users. Then for each person 24 rendered photos become a LoRA, whose samples are
compared with other photos of the person and of 20 strangers. A face that is not found counts against every rate; means
are of those that were found. Rates carry intervals of 95 % (Wilson's).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.demo_models_bench import Found, face_finder, rate
from demo.bootstrap_world import GUIDANCE, LEARNING, SAMPLING_STEPS, TRAINING_STEPS
from demo.diffusion.photos import TRIGGER, usual_yaws, write_photos
from demo.diffusion.words import side_of
from demo.training_data import UNSEEN_SEED, draw_people, generator
from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import GapReport
from mirror.dataset.gaps import GAP_TYPES
from mirror.faces.packs import find_pack
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say
from utils.decoding import decode
from utils.defaults import DEMO_EXPRESSION, DEMO_PACK, MODELS_FOLDER, PROJECT

STRANGERS, PHOTOS_OF_EACH = 20, 8
PHOTOS = (16, 5, 3)  # that a LoRA learns from: from the front, turned, in profile
ASKED_DEG = {"front": 0.0, "three_quarter": 40.0, "profile": 70.0}  # the middle of what the words stand for
REACHED_DEG = 15.0
OTHER_WORDS = ("shot_size", "lighting", "expression")
MODEL = MODELS_FOLDER / "demo" / "diffusion"


@dataclass(frozen=True)
class Asked:
    """An image of a plan, and where its prompt says that the nose points (degrees, negative to the image's left)."""

    name: str
    target: str
    yaw_deg: float
    prompt: str
    seed: int


def plan(person: str, each: int) -> list[Asked]:
    """Every text that asks for an angle, in turn, `each` of an angle."""
    images = []
    for target in GAP_TYPES["face_angle"].targets:
        for index in range(each):
            text = target.prompts[index % len(target.prompts)]
            yaw = ASKED_DEG[target.name] * side_of(text)
            prompt = f"photo of {person}, {text}, neutral expression, plain studio background, medium close-up"
            images.append(Asked(f"{target.name}_{index:02d}", target.name, yaw, prompt, 1000 + len(images)))
    return images


def script(name: str, *arguments: object) -> None:
    """A script of the project, as users run it. Raises UserError where it failed."""
    done = subprocess.run(
        [sys.executable, name, *map(str, arguments)], cwd=PROJECT, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise UserError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-400:]}")


def demand_model(model: Path) -> None:
    """Raises UserError where no model was exported yet."""
    if not (model / "model_index.json").is_file():
        raise UserError(
            f"{model} holds no model; models/demo/diffusion/README.md says how one is trained and exported."
        )


def generate(folder: Path, images: list[Asked], model: Path, lora: Path | None) -> list[np.ndarray]:
    """The images of a plan, (H, W, 3) uint8 BGR."""
    folder.mkdir(parents=True)
    listed = [{"name": one.name, "prompt": one.prompt, "seed": one.seed} for one in images]
    plan_file = folder.with_suffix(".json")
    plan_file.write_text(json.dumps({"images": listed}), encoding="utf-8")
    which = ["--no-lora"] if lora is None else ["--lora", lora]
    how = ["--steps", SAMPLING_STEPS, "--guidance", GUIDANCE, "--device", "cpu", "--batch", 8]
    script(
        "generate_synthetic.py", "--base-model", model, "--prompts-file", plan_file, "--output", folder, *which, *how
    )
    return [decode((folder / f"{one.name}.png").read_bytes()) for one in images]


def train(photos: Path, output: Path, model: Path, seed: int, more: list[str]) -> Path:
    """A LoRA as the demo of the loop trains it."""
    own = [photos, "--base-model", model, "--output", output, "--trigger", TRIGGER, "--preset", "sd15"]
    script(
        "train_lora.py", *own, "--steps", TRAINING_STEPS, "--seed", seed, "--pack", DEMO_PACK, *LEARNING.split(), *more
    )
    return output / "lora.safetensors"


def faces(images: list[np.ndarray], pack: Path) -> list[Found | None]:
    find = face_finder(pack)
    return [find(SimpleNamespace(image=image)) for image in images]


def base_rows(images: list[Asked], found: list[Found | None]) -> dict[str, str]:
    """What the base model makes of the angles, and how alike its people are."""
    rows = {}
    for target in ASKED_DEG:
        chosen = [(one, face) for one, face in zip(images, found, strict=True) if one.target == target]
        seen = [(one, face) for one, face in chosen if face]
        near = sum(abs(face.yaw_deg - one.yaw_deg) <= REACHED_DEG for one, face in seen)
        rows[f"{target}: faces found"] = rate(len(seen), len(chosen))
        rows[f"{target}: angle reached within {REACHED_DEG:.0f} degrees"] = rate(near, len(chosen))
        if ASKED_DEG[target]:
            right = sum(np.sign(face.yaw_deg) == np.sign(one.yaw_deg) for one, face in seen)
            rows[f"{target}: on the asked side"] = rate(right, len(chosen))
    front = [face.embedding for one, face in zip(images, found, strict=True) if one.target == "front" and face]
    alike = [float(a @ b) for a, b in combinations(front, 2)]
    rows["similarity of two seeds from the front, median"] = f"{np.median(alike):.2f}" if alike else "-"
    return rows


def word_plan(each: int) -> list[Asked]:
    """Every text that asks for a shot size, a light or an expression, in turn, `each` of a target, from the front."""
    images = []
    for name in OTHER_WORDS:
        for target in GAP_TYPES[name].targets:
            for index in range(each if target.prompts else 0):
                text = target.prompts[index % len(target.prompts)]
                prompt = f"photo of person, {GAP_TYPES['face_angle'].targets[0].prompts[0]}, {text}"
                images.append(Asked(f"{name}-{target.name}-{index:02d}", target.name, 0.0, prompt, 5000 + len(images)))
    return images


def word_rows(folder: Path, images: list[Asked], model: Path) -> dict[str, str]:
    """How often gap_analysis.py sorts an image where its words ask for, with the demo's pack and expression model."""
    generate(folder, images, model, None)
    rows = {}
    for asked in dict.fromkeys(one.name.rsplit("-", 1)[0] for one in images):
        chosen = [one for one in images if one.name.startswith(f"{asked}-")]
        apart, report = folder / asked, folder / f"{asked}.json"
        apart.mkdir()
        for one in chosen:
            (folder / f"{one.name}.png").rename(apart / f"{one.name}.png")
        how = ["--pack", DEMO_PACK, "--expression-model", DEMO_EXPRESSION, "--no-cache"]
        script("gap_analysis.py", apart, "--output", report, *how)
        gap_type, target = asked.split("-")
        told = read_contract(report, GapReport, "gap_analysis.py").distributions
        shares = [share for one in told if one.type == gap_type for share in one.targets]
        seen = sum(share.count for share in shares if share.target == target)
        rows[f"asked for and seen as {gap_type} {target}"] = rate(seen, len(chosen))
    return rows


def centre(found: list[Found | None]) -> np.ndarray:
    """The mean direction of the faces, unit norm. Raises UserError where none was found."""
    seen = [face.embedding for face in found if face]
    if not seen:
        raise UserError("A pack finds no face on the rendered photos of somebody.")
    mean = np.mean(seen, 0)
    return mean / np.linalg.norm(mean)


def lora_rows(
    images: list[Asked],
    samples: list[list[Found | None]],
    own: list[np.ndarray],
    strangers: list[np.ndarray],
    photos: list[list[float]],
) -> dict[str, str]:
    """How often samples are nearer to their person than to any stranger, by angle, and how near."""
    rows = {}
    for target in ASKED_DEG:
        hits, count, near, far = 0, 0, [], []
        for found, mine in zip(samples, own, strict=True):
            for one, face in zip(images, found, strict=True):
                if one.target != target:
                    continue
                count += 1
                if face is None:
                    continue
                to_mine, to_others = float(face.embedding @ mine), max(float(face.embedding @ s) for s in strangers)
                hits += to_mine > to_others
                near.append(to_mine)
                far.append(to_others)
        rows[f"LoRA, {target}: nearer to the person than to any of {len(strangers)} strangers"] = rate(hits, count)
        rows[f"LoRA, {target}: similarity to the person, and to the nearest stranger"] = (
            f"{np.mean(near):.2f}, {np.mean(far):.2f} (n {len(near)})" if near else "-"
        )
    rows["photos of the person among each other, front"] = f"{np.mean([v for group in photos for v in group]):.2f}"
    return rows


def run(args: argparse.Namespace) -> int:
    """Prints a Markdown table."""
    demand_model(args.model)
    packs = {name: find_pack(name).folder for name in args.pack or [DEMO_PACK]}
    crowd = draw_people(UNSEEN_SEED, args.first + args.people + STRANGERS)
    people, strangers = crowd[args.first : args.first + args.people], crowd[-STRANGERS:]
    with tempfile.TemporaryDirectory(prefix="diffusion_bench_") as temporary:
        folder = args.keep or Path(temporary)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds files already; --keep takes a new folder.")
        say("base model")
        base_plan = plan("person", args.each)
        base = generate(folder / "base", base_plan, args.model, None)
        words = word_rows(folder / "words", word_plan(args.each), args.model)
        random = generator(UNSEEN_SEED, "diffusion bench")
        faces_of_strangers = [photos_of(folder / f"stranger_{at}", who, random) for at, who in enumerate(strangers)]
        lora_plan = plan(TRIGGER, args.each)
        samples, others, seconds = [], [], []
        for index, who in enumerate(people):
            own = generator(UNSEEN_SEED + args.first + index, "diffusion bench person")
            others.append(photos_of(folder / f"person_{index}", who, own))
            write_photos(folder / f"photos_{index}", who, usual_yaws(*PHOTOS, own), own)
            began = time.monotonic()
            lora = train(folder / f"photos_{index}", folder / f"lora_{index}", args.model, 1, args.train_option)
            seconds.append(time.monotonic() - began)
            say(f"person {index + 1} of {len(people)}: LoRA in {seconds[-1]:.0f} s")
            samples.append(generate(folder / f"samples_{index}", lora_plan, args.model, lora))
        columns = {}
        for name, pack in packs.items():
            apart = [centre(faces(images, pack)) for images in faces_of_strangers]
            known = [faces(images, pack) for images in others]
            alike = [[float(a.embedding @ b.embedding) for a, b in combinations(filter(None, g), 2)] for g in known]
            columns[name] = base_rows(base_plan, faces(base, pack)) | lora_rows(
                lora_plan,
                [faces(images, pack) for images in samples],
                [centre(group) for group in known],
                apart,
                alike,
            )
    print("| figure | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for row in next(iter(columns.values())):
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")
    for row, told in words.items():
        print(f"| {row} | {told} |" + " |" * (len(columns) - 1))
    print(f"| training of a LoRA, seconds | {', '.join(f'{one:.0f}' for one in seconds)} |" + " |" * (len(columns) - 1))
    return EXIT_OK


def photos_of(folder: Path, who: object, random: np.random.Generator) -> list[np.ndarray]:
    """Frontal photos that no LoRA learns from."""
    paths = write_photos(folder, who, usual_yaws(PHOTOS_OF_EACH, 0, 0, random), random)
    return [decode(path.read_bytes()) for path in paths]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.demo_diffusion_bench", __doc__)
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, help="diffusers folder")
    add("--pack", action="append", help="name or folder of a model pack; may be repeated")
    add("--people", type=options.count, default=5, help="how many LoRAs")
    add("--first", type=options.between(0, 10**6, whole=True), default=0, help="number of the first person")
    add("--each", type=options.count, default=8, help="images of each angle")
    add("--keep", type=Path, metavar="DIR", help="leave photos, LoRAs and samples here")
    add("--train-option", action="append", default=[], help="one more option of train_lora.py; may be repeated")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
