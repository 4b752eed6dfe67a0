"""Train the demo's diffusion model, on rendered heads only: a small Stable Diffusion of rendered people.

    python -m demo.train_diffusion vae --minutes 15 --scratch training_scratch
    python -m demo.train_diffusion text --minutes 3 --scratch training_scratch
    python -m demo.train_diffusion unet --minutes 90 --scratch training_scratch
    python -m demo.train_diffusion expression-words --minutes 7 --scratch training_scratch
    python -m demo.train_diffusion expressions --minutes 60 --scratch training_scratch
    python -m demo.train_diffusion decoder --minutes 15 --scratch training_scratch
    python -m demo.train_diffusion export --scratch training_scratch
    python -m demo.train_diffusion import --scratch other_scratch     # an exported model, to train it further

reads   nothing: pictures are rendered first, or taken from --scratch, where each part finds what those before it left
writes  SCRATCH/vae.pt, text.pt ...  a file of each part, every two minutes; the same command goes on from there
        OUTPUT/                     a diffusers folder, by `export`

Times are for two cores of a CPU that multiplies matrices of bfloat16. benchmarks.demo_diffusion_bench measures the
model afterwards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo.training_data import TRAINING_SEED
from utils import options
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import BOOTSTRAP_REQUIREMENTS, MODELS_FOLDER

PARTS = ("vae", "text", "unet", "expression-words", "expressions", "decoder", "export", "import")
OUTPUT = MODELS_FOLDER / "demo" / "diffusion"


def run(args: argparse.Namespace) -> int:
    """One part. Raises UserError where an earlier one is missing."""
    from demo.diffusion import decoder, export, expression_words, expressions, text, unet, vae
    from demo.diffusion.pictures import faces, pictures
    from demo.diffusion.words import write_tokenizer

    needed = {
        "unet": (vae, text),
        "expression-words": (unet,),
        "expressions": (vae, unet, expression_words),
        "decoder": (vae,),
        "export": (vae, unet),
    }
    for earlier in needed.get(args.part, ()):
        file = earlier.file_of(args.scratch)
        if not file.exists():
            raise UserError(f"{file} is missing: train that part first.")
    learns_text = args.part == "expression-words" or (args.part == "unet" and not args.keep_text_encoder)
    if learns_text and expression_words.are_imported(args.scratch):
        kept = "the part unet takes --keep-text-encoder" if args.part == "unet" else "go on with `expressions`"
        raise UserError(f"The imported text encoder says expressions already, and would learn them twice: {kept}.")
    tokenizer = write_tokenizer(args.scratch / "tokenizer")
    if args.part == "export":
        export.export(tokenizer, args.scratch, args.output)
        return EXIT_OK
    if args.part == "import":
        export.take_up(tokenizer, args.output, args.scratch)
        return EXIT_OK
    seen = pictures(TRAINING_SEED, args.people, args.each, args.scratch, args.workers)
    if args.part in ("vae", "decoder"):
        module = vae if args.part == "vae" else decoder
        module.train(seen, args.scratch, args.minutes, args.seed)
    elif args.part == "text":
        text.train(seen, tokenizer, args.scratch, args.minutes, args.seed)
    elif args.part == "expression-words":
        expression_words.train(seen, tokenizer, args.scratch, args.minutes, args.seed)
    elif args.part == "expressions":
        alike = faces(TRAINING_SEED, args.scenes, args.scratch, args.workers)
        expressions.train(seen, alike, tokenizer, args.scratch, args.minutes, args.seed)
    else:
        unet.train(seen, tokenizer, args.scratch, args.minutes, args.seed, args.keep_text_encoder)
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m demo.train_diffusion", __doc__)
    add = parser.add_argument
    add("part", choices=PARTS, help="which part")
    add("--minutes", type=options.between(0.01, 1e5), default=15.0, help="how long to train, over all starts")
    add("--people", type=options.between(8, 10**6, whole=True), default=4000, help="how many people to draw")
    add("--each", type=options.between(1, 1000, whole=True), default=2, help="pictures of each person")
    add(
        "--scenes",
        type=options.between(8, 10**6, whole=True),
        default=900,
        help="with `expressions`: scenes, each with seven faces",
    )
    add("--keep-text-encoder", action="store_true", help="with `unet`: text encoder stays as it is")
    add("--seed", type=options.between(0, 2**31, whole=True), default=1, help="first weights and what is drawn")
    add("--scratch", type=Path, default=Path("training_scratch"), help="where pictures and unfinished parts are kept")
    add("--output", type=Path, default=OUTPUT, help="folder that `export` writes and `import` reads")
    add("--workers", type=options.between(1, 61, whole=True), help="processes that render; without it one a core")
    options.add_debug_and_version(parser)
    args = parser.parse_args(argv)
    if args.keep_text_encoder and args.part != "unet":
        parser.error("--keep-text-encoder belongs to the part unet")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
