"""Train the demo's expression model, on rendered heads only.

    python -m demo.train_expression --minutes 30 --scratch expression_scratch
    python -m demo.train_expression --minutes 30 --scratch expression_scratch --resume

reads   nothing: the pictures are rendered first, or taken from --scratch
writes  OUTPUT/expression_demo.onnx; one line of JSON about it goes to stdout. --scratch keeps the rendered pictures
        and, every minute, a checkpoint, from which --resume goes on

With --steps the same machine gives the same file again, stopped and resumed or not; with --minutes the clock decides.
benchmarks/expression_bench.py measures the result on people that were never trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from mirror.contracts.expressions import EXPRESSIONS
from utils import options
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import DEMO_EXPRESSION
from utils.files import write_bytes_atomic
from utils.progress import GroupProgress

CHECKPOINT = "expression_training.pt"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m demo.train_expression", __doc__)
    add = parser.add_argument
    add("--output", type=Path, default=DEMO_EXPRESSION.parent, help="folder for the model")
    add("--minutes", type=float, default=30.0, help="how long to train, rendering not counted")
    add("--steps", type=int, help="how many batches instead; then the same seed gives the same model")
    add("--seed", type=int, default=1, help="first weights, and what the batches are made of")
    add("--people", type=int, default=400, help="how many people to draw")
    add("--each", type=int, default=3, help="pictures of every expression of a person")
    add("--scratch", type=Path, help="keep the rendered pictures (0.5 GB) and the checkpoint here")
    add("--start", metavar="FILE", help="checkpoint whose weights a new training starts from")
    add("--resume", action="store_true", help="go on from the checkpoint in --scratch")
    add("--workers", type=int, help="processes that render; without it one a core")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Render, train, write; facts about the model. Raises OSError and UserError."""
    from demo import expression_training as learning
    from demo.expression_data import faces

    training = learning.Training.begin(
        learning.Plan(args.minutes, args.steps, args.seed, args.people, args.each, args.start)
    )
    if args.resume:
        training.restore(scratch / CHECKPOINT)
    with GroupProgress() as progress:
        task = progress.add("rendering", args.people * args.each * len(EXPRESSIONS))
        shown = faces(args.people, args.each, scratch, args.workers, lambda: progress.step(task))
    learning.train(shown, training, scratch / CHECKPOINT)
    target = args.output / DEMO_EXPRESSION.name
    args.output.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(target, learning.exported(training.network))
    return {
        "file": str(target),
        "bytes": target.stat().st_size,
        "steps": training.step,
        "minutes": round(training.seconds / 60, 1),
        "loss": round(training.loss, 4),
        "held_out_accuracy": round(learning.held_out_accuracy(shown, training), 4),
    }


def checked_run(args: argparse.Namespace) -> int:
    """Exit code; the facts go to stdout as JSON. Raises UserError for values that train nothing."""
    for name, least in (("minutes", 0.01), ("steps", 1), ("seed", 0), ("people", 2), ("each", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value} is too small: at least {least}.")
    if args.resume and args.scratch is None:
        raise UserError("--resume needs --scratch, the folder of the training that was stopped.")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError("PyTorch is missing: python -m pip install -r requirements/bootstrap.txt") from error
    try:
        with tempfile.TemporaryDirectory(prefix="demo_expression_") as temporary:
            print(json.dumps(run(args, args.scratch or Path(temporary))))
    except OSError as error:
        raise UserError(f"Pictures or model cannot be written: {error}.") from error
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: checked_run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
