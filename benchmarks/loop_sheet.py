"""A picture that shows what a loop with the demo's diffusion model taught: the person, the base model, two LoRAs.

    ./run.sh bootstrap --demo my_loop
    python -m benchmarks.loop_sheet my_loop sheet.jpg

The rows: rendered photos that the loop began with, then images of the base model, the loop's first LoRA and its last
one, made by generate_synthetic.py with the same prompts (the base model's without the trigger) and seeds, four each
from the front, at three quarters and in profile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.demo_diffusion_bench import ASKED_DEG, demand_model, generate, plan
from demo.bootstrap_world import DIFFUSION, FRONT
from demo.diffusion.photos import TRIGGER
from mirror.contracts.contract import read_contract
from mirror.contracts.history import IterationHistory
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say
from utils.decoding import decode
from utils.files import demand_writable, disk_errors_as, write_bytes_atomic

EACH = 4
COLUMNS = EACH * len(ASKED_DEG)
_QUALITY = 88  # of the JPEG


def photos_of(folder: Path) -> list[np.ndarray]:
    """COLUMNS of the photos, as the demo writes them: those that are not from the front come last.

    Raises UserError where there are fewer.
    """
    paths = sorted(folder.glob("*.png"))
    if len(paths) < COLUMNS:
        raise UserError(f"{folder} holds {len(paths)} photos, and the sheet shows {COLUMNS}.")
    turned = paths[FRONT:][-COLUMNS:]
    front = paths[:FRONT]
    wanted = COLUMNS - len(turned)
    chosen = front[:: max(1, len(front) // max(1, wanted))][:wanted]
    return [decode(path.read_bytes()) for path in chosen + turned]


def run(args: argparse.Namespace) -> int:
    """Writes the sheet. Raises UserError for a loop that is simulated or has not ended."""
    demand_model(DIFFUSION)
    demand_writable(args.sheet.absolute().parent, "Choose another file.")
    if not (args.loop / "output").is_dir():
        raise UserError(f"{args.loop} is no folder of a loop's demo; ./run.sh bootstrap --demo {args.loop} makes one.")
    history = read_contract(args.loop / "output" / "iteration_history.json", IterationHistory, "bootstrap_loop.py")
    if history.simulated:
        raise UserError(f"The images of the loop in {args.loop} are simulated; the sheet takes a loop of --demo.")
    decision = history.iterations[-1].decision if history.iterations else None
    if decision is None or not decision.stop:
        raise UserError(f"The loop in {args.loop} has not ended; run it to its end first.")
    first, last = (args.loop / "loras" / one.file for one in (history.loras[0], history.loras[-1]))
    rows = [photos_of(args.loop / "photos")]
    with tempfile.TemporaryDirectory(prefix="loop_sheet_") as temporary:
        for name, person, lora in (("base", "person", None), ("first", TRIGGER, first), ("last", TRIGGER, last)):
            rows.append(generate(Path(temporary) / name, plan(person, EACH), DIFFUSION, lora))
    sheet = np.vstack([np.hstack(row) for row in rows])
    _, written = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    with disk_errors_as(f"{args.sheet} cannot be written"):
        write_bytes_atomic(args.sheet, written.tobytes())
    say(f"{args.sheet}: {history.loras[0].name} and {history.loras[-1].name} of {args.loop}")
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.loop_sheet", __doc__)
    parser.add_argument("loop", type=Path, metavar="LOOP", help="folder of a loop's demo that has run")
    parser.add_argument("sheet", type=Path, metavar="FILE", help="JPEG to write")
    options.add_debug_and_version(parser)
    args = parser.parse_args(argv)
    if args.sheet.suffix.lower() not in (".jpg", ".jpeg"):
        parser.error(f"{args.sheet} should end in .jpg")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
