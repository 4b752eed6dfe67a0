"""Train one of the demo's small YOLO models on rendered heads: face (with five keypoints), hands or eyes.

    python -m demo.train_yolo face --minutes 12 --scratch yolo_scratch
    python -m demo.train_yolo face --start models/demo/yolo/face.pt --seed 2
    python -m demo.train_yolo hands --epochs 3 --images 200 --output elsewhere

reads   nothing: the pictures are rendered (demo/yolo_data.py says what is marked in them)
writes  OUTPUT/<model>.pt, an Ultralytics checkpoint that loads with ULTRALYTICS_SAFE_LOAD=1; one line of JSON about it
        goes to stdout. --scratch keeps the rendered pictures, and models trained with the same folder share them

The network is YOLOv8 at an eighth of its width (YOLOv8n has a quarter). With --epochs the same machine gives the same
weights again; with --minutes the clock decides how many epochs there are. What follows from ultralytics, these weights
included, is under AGPL-3.0. benchmarks/demo_yolo_bench.py measures the result on people that were never trained on.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.truth import FIVE_NAMES
from demo.yolo_data import TRUE_BOXES, write_datasets
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say
from utils.defaults import MODELS_FOLDER
from utils.files import write_bytes_atomic
from utils.progress import GroupProgress

DEPTH, WIDTH = 0.33, 0.125
FLIPPED_POINTS = [1, 0, 2, 4, 3]  # the order of FIVE_NAMES in a mirrored picture
OKS_SIGMA = 0.08  # how far off a keypoint may be, as a share of the box; COCO has 0.025 for eyes, 0.1 for hips
SMALLEST_IMAGES = 8


@dataclass(frozen=True)
class Recipe:
    """`architecture` is a file of ultralytics' own; `pixels` is the side of a training picture, `scales` how far it
    may differ from that, as a share: heads must not be seen in rooms at other sizes either."""

    class_name: str
    task: str
    architecture: str
    pixels: int
    scales: float


RECIPES = {
    "face": Recipe("face", "pose", "cfg/models/v8/yolov8-pose.yaml", 192, 0.66),
    "hands": Recipe("hand", "detect", "cfg/models/v8/yolov8.yaml", 192, 0.25),
    "eyes": Recipe("eye", "detect", "cfg/models/v8/yolov8.yaml", 192, 0.25),
}
# AdamW at the rate that ultralytics' own `optimizer=auto` takes for one class. Time is short on a CPU, so batches are
# small and each makes a step (nbs). A third of the pictures come as mosaics of four, so that sizes and places vary.
HYPERPARAMETERS: dict[str, Any] = {
    "optimizer": "AdamW",
    "lr0": 0.002,
    "momentum": 0.9,
    "warmup_epochs": 0.3,
    "warmup_bias_lr": 0.0,
    "batch": 8,
    "nbs": 8,
    "mosaic": 0.3,
    "close_mosaic": 1,
}


def prepare_ultralytics(folder: Path) -> None:
    """Before the first import of ultralytics: only known classes load, nothing is downloaded, sent or installed.

    Its settings and matplotlib's go to `folder`, not to the user's home. Raises UserError where it is not installed.
    """
    os.environ |= {
        "ULTRALYTICS_SAFE_LOAD": "1",
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(folder),
        "MPLCONFIGDIR": str(folder),
    }
    try:
        from ultralytics.utils import SETTINGS
    except ImportError as error:
        raise UserError(f"{error}. Install it: python -m pip install -r requirements/bootstrap.txt") from error
    reporting = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
    dict.update(SETTINGS, dict.fromkeys(reporting, False))  # in memory: its own update() would write a file


def architecture(recipe: Recipe) -> dict[str, Any]:
    """Ultralytics' YOLOv8 with our own scale."""
    from ultralytics.utils import ROOT, YAML

    layers = YAML.load(ROOT / recipe.architecture)
    del layers["scales"]
    return layers | {"depth_multiple": DEPTH, "width_multiple": WIDTH, "nc": 1}


def dataset(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What ultralytics reads from a dataset's YAML file."""
    facts = {
        "path": folder,
        "train": str(folder / "images" / "train"),
        "val": str(folder / "images" / "val"),
        "names": {0: recipe.class_name},
        "nc": 1,
        "channels": 3,
    }
    if recipe.task == "pose":
        facts |= {
            "kpt_shape": [len(FIVE_NAMES), 3],
            "kpt_names": {0: list(FIVE_NAMES)},
            "flip_idx": FLIPPED_POINTS,
            "kpt_oks_sigmas": [OKS_SIGMA] * len(FIVE_NAMES),
        }
    return facts


def make_trainer(
    recipe: Recipe, folder: Path, runs: Path, length: dict[str, Any], seed: int, start: Path | None
) -> Any:
    """Ultralytics' trainer, network built; `length` is its `time` (hours) or `epochs`, `start` a checkpoint."""
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.models.yolo.pose import PoseTrainer
    from ultralytics.nn.tasks import load_checkpoint

    class HeadTrainer(PoseTrainer if recipe.task == "pose" else DetectionTrainer):
        def get_dataset(self) -> dict[str, Any]:
            """Ours as it is: ultralytics would look for a font on the internet when it checks a dataset's file."""
            return dataset(recipe, folder)

        def final_eval(self) -> None:
            """Nothing: the last epoch was measured, and `checkpoint` takes the weights from here."""

    settings = {
        "model": "heads.yaml",  # never read: the network is built below
        "task": recipe.task,
        "imgsz": recipe.pixels,
        "multi_scale": recipe.scales,
        "project": str(runs),
        "name": recipe.class_name,
        "exist_ok": True,
        "pretrained": False,
        "workers": 4,  # with a GPU; ultralytics takes none on a CPU
        "amp": False,  # it would download a model to check that it can
        "plots": False,
        "val": False,  # but after the last epoch
        "seed": seed,
    }
    trainer = HeadTrainer(overrides=settings | HYPERPARAMETERS | length)
    weights = load_checkpoint(start)[0] if start else None
    trainer.model = trainer.get_model(cfg=architecture(recipe), weights=weights, verbose=False)
    return trainer


def train(trainer: Any) -> list[float]:
    """Run the trainer; the mean loss of each epoch. Raises UserError when it is not a number."""
    losses: list[float] = []
    started = time.monotonic()

    def note(trainer: Any) -> None:
        losses.append(sum(float(value) for value in trainer.tloss.values()))
        say(f"epoch {trainer.epoch + 1}: loss {losses[-1]:.3f}, {time.monotonic() - started:.0f} s")

    trainer.add_callback("on_train_epoch_end", note)
    trainer.train()
    if not all(loss < float("inf") for loss in losses):  # false for NaN too
        raise UserError("The training diverged (its loss is not finite). Try another --seed.")
    return losses


def checkpoint(trainer: Any, recipe: Recipe) -> bytes:
    """The running mean of the weights as ultralytics' `strip_optimizer` leaves a model: half precision, weights only.

    Without what a checkpoint says of the machine that made it: folders, git state, date, options.
    """
    import torch
    from ultralytics import __version__

    model = copy.deepcopy(trainer.ema.ema).half().to("cpu", memory_format=torch.contiguous_format)
    for weights in model.parameters():
        weights.requires_grad = False
    model.criterion = None
    vars(model).pop("pt_path", None)  # where --start lay
    model.args = {"task": recipe.task, "imgsz": recipe.pixels}
    content = {
        "epoch": -1,
        "model": model,
        "ema": None,
        "optimizer": None,
        "train_args": dict(model.args),
        "version": __version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "description": "trained on rendered heads only",
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Render, train, write; facts about the model. Raises OSError and UserError."""
    prepare_ultralytics(scratch)
    with GroupProgress() as progress:
        task = progress.add("rendering", args.images)
        base = write_datasets(scratch, args.images, args.seed, args.workers, lambda: progress.step(task))
    recipe = RECIPES[args.model]
    length = {"epochs": args.epochs} if args.epochs else {"time": args.minutes / 60}
    trainer = make_trainer(recipe, base / args.model, scratch / "runs", length, args.seed, args.start)
    started = time.monotonic()
    losses = train(trainer)
    target = args.output / f"{args.model}.pt"
    args.output.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(target, checkpoint(trainer, recipe))
    return {
        "file": str(target),
        "bytes": target.stat().st_size,
        "epochs": len(losses),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "losses": [round(loss, 4) for loss in losses],
        "held_out": {k: v for k, v in trainer.metrics.items() if k.startswith("metrics/")},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m demo.train_yolo", __doc__)
    add = parser.add_argument
    add("model", choices=list(TRUE_BOXES), help="what to find")
    add("--output", type=Path, default=MODELS_FOLDER / "demo" / "yolo", help="folder for the checkpoint")
    add("--minutes", type=float, default=12.0, help="training time, rendering not counted")
    add("--epochs", type=int, help="so many epochs instead of --minutes")
    add("--start", type=Path, metavar="FILE", help="checkpoint of the same model to go on from")
    add("--images", type=int, default=960, help="pictures to render")
    add("--seed", type=int, default=1, help="decides everything that is random")
    add("--workers", type=int, help="processes that render; without it one a core")
    add("--scratch", type=Path, help="folder for pictures and logs, kept; without it a temporary one")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def checked_run(args: argparse.Namespace) -> int:
    """Exit code; the facts go to stdout as JSON. Raises UserError for values that train nothing."""
    if args.images < SMALLEST_IMAGES:
        raise UserError(f"--images {args.images} is too few: at least {SMALLEST_IMAGES}.")
    if args.minutes <= 0 or (args.epochs is not None and args.epochs < 1):
        raise UserError("--minutes and --epochs have to be above 0.")
    if args.start is not None and not args.start.is_file():
        raise UserError(f"There is no checkpoint {args.start} to start from.")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed} is too small: at least 0.")
    try:
        with tempfile.TemporaryDirectory(prefix="train_yolo_") as temporary:
            print(json.dumps(run(args, (args.scratch or Path(temporary)).resolve())))
    except OSError as error:
        raise UserError(f"Pictures or model cannot be written: {error}.") from error
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: checked_run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
