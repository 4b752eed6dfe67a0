"""Train one of the four networks of the demo's face pack, on rendered heads only.

    python -m demo.train_face detector --minutes 15
    python -m demo.train_face recogniser --minutes 15 --scratch training_scratch
    python -m demo.train_face ageing --minutes 23

reads   nothing: the pictures are rendered first, or taken from --scratch, where the four networks find the same ones;
        `ageing` trains OUTPUT/age_demo.onnx further, on pictures of its own
writes  OUTPUT/det_demo.onnx, rec_demo.onnx, lmk_demo.onnx or age_demo.onnx; until then, every three minutes, what
        --resume needs to go on, as OUTPUT/det_demo.unfinished, ageing.unfinished and so on

python -m benchmarks.demo_models_bench measures the pack afterwards.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from utils import options
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import MODELS_FOLDER

NETWORKS = ("detector", "recogniser", "landmarks", "age", "ageing")
PEOPLE, AGEING_PEOPLE = 2000, 800
OUTPUT = MODELS_FOLDER / "demo" / "face"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m demo.train_face", __doc__)
    add = parser.add_argument
    add("network", choices=NETWORKS, help="which network; ageing trains age further, on what ten years change")
    add("--output", type=Path, default=OUTPUT, help="folder of the pack")
    add("--minutes", type=float, default=12.0, help="how long to train, rendering not counted")
    add("--steps", type=int, help="how many batches instead; then the same seed gives the same network")
    add("--seed", type=int, default=1, help="first weights, and what the batches are made of")
    add("--people", type=int, help=f"how many people to draw (default {PEOPLE}; ageing: {AGEING_PEOPLE})")
    add("--each", type=int, default=8, help="pictures of each person")
    add("--oddities", type=int, default=2400, help="pictures without a face, close-ups and the like")
    add(
        "--scratch",
        type=Path,
        help="keep the rendered pictures here (3.5 GB; ageing: 2 GB); without it they are deleted",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where a training was killed, else from the file in OUTPUT, as ageing always does",
    )
    add("--workers", type=int, help="processes that render; without it one a core")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def checked_run(args: argparse.Namespace) -> int:
    """Exit code. Raises UserError for values that train nothing."""
    for name, least in (("minutes", 0.01), ("steps", 1), ("seed", 0), ("people", 8), ("each", 3), ("oddities", 8)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value} is too small: at least {least}.")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError("PyTorch is missing: python -m pip install -r requirements/bootstrap.txt") from error
    with tempfile.TemporaryDirectory(prefix="demo_face_") as temporary:
        train(args, args.scratch or Path(temporary))
    return EXIT_OK


def train(args: argparse.Namespace, scratch: Path) -> list[float]:
    """Losses of the training."""
    from demo.facepack.training import RunSettings

    names = ("minutes", "steps", "seed", "each", "oddities", "workers", "resume")
    people = args.people or (AGEING_PEOPLE if args.network == "ageing" else PEOPLE)
    plan = RunSettings(scratch=scratch, people=people, **{name: getattr(args, name) for name in names})
    return importlib.import_module(f"demo.facepack.{args.network}").train(plan, args.output)


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: checked_run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
