"""Options that all exports share."""

from __future__ import annotations

import argparse

from utils import options


def add_dataset(parser: argparse.ArgumentParser, output: str) -> None:
    """What goes in and out; `output` says in words what --output is."""
    add = parser.add_argument
    add("--dataset", type=options.path, required=True, metavar="DIR", help="pictures of one person; never changed")
    add("--output", type=options.path, required=True, metavar="PATH", help=output)
    add("--recursive", action="store_true", help="take in pictures of sub-folders too")
    add(
        "--allow-synthetic",
        action="store_true",
        help="generated pictures may be chosen too (marked as such); without it they are left out",
    )


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """How faces are measured."""
    options.add_models_dir(parser)
    options.add_pack(parser)
    options.add_expression_model(parser)
    options.add_face_device(parser)
    options.add_engine(parser)
    options.add_max_megapixels(parser)
    options.add_cache(parser)
    options.add_debug_and_version(parser)
