"""The options of facevault.py's commands, each with its default."""

from __future__ import annotations

import argparse

from utils import options
from utils.defaults import PACK

MIN_SCORE = 0.5  # of the detector; the engine itself finds nothing below
MIN_SIZE = 50  # pixels, longer side of a face's box
MIN_CLUSTER = 3  # faces: whoever appears once or twice is no person to train on
PHASH_BITS = 18  # bits of 64, see mirror/vault/duplicates.py


def scan_options(parser: argparse.ArgumentParser) -> None:
    """`scan`: what is looked at, and with which pack."""
    add = parser.add_argument
    add("photos", type=options.path, metavar="PHOTOS", help="folder with photos; nothing in it is ever changed")
    add("--recursive", action="store_true", help="take in pictures of sub-folders too")
    add(
        "--min-score",
        type=options.between(MIN_SCORE, 1),
        default=MIN_SCORE,
        metavar="SCORE",
        help="leave out faces that the detector is less sure of",
    )
    add("--min-size", type=options.count, default=MIN_SIZE, metavar="PIXELS", help="leave out smaller faces")
    add("--pack", default=PACK, metavar="NAME|DIR", help="InsightFace model pack; a vault belongs to one pack")
    options.add_face_device(parser)
    options.add_engine(parser)
    options.add_max_megapixels(parser)


def cluster_options(parser: argparse.ArgumentParser) -> None:
    """`cluster`."""
    add = parser.add_argument
    add(
        "--threshold",
        type=options.between(-1, 1),
        metavar="T",
        help="mean cosine from which two groups of faces are one person (default: that of the pack)",
    )
    add("--min-cluster", type=options.count, default=MIN_CLUSTER, metavar="N", help="fewest faces of a person")
    add("--preview", action="store_true", help="show what would come out, and write nothing")


def dedup_options(parser: argparse.ArgumentParser) -> None:
    """`dedup`."""
    add = parser.add_argument
    add(
        "--phash-threshold",
        type=options.between(0, 32, whole=True),
        default=PHASH_BITS,
        metavar="N",
        help="bits of 64 that may differ in the perceptual hashes of pictures that are compared more closely",
    )
    add("--dry-run", action="store_true", help="show what would come out, and write nothing")


def label_options(parser: argparse.ArgumentParser) -> None:
    """`label`: one act at a time."""
    add = parser.add_argument
    add(
        "cluster",
        nargs="?",
        metavar="CLUSTER",
        help="number or name of a cluster; without one all are shown, and names asked for on a terminal",
    )
    add("name", nargs="?", metavar="NAME", help="its name; one that another cluster has merges the two")
    add(
        "--names", type=options.path, metavar="FILE", help='JSON file such as {"1": "alice", "2": null}; or labels.json'
    )
    add("--merge", nargs=2, metavar="CLUSTER", help="make the second cluster part of the first")
    add("--split", metavar="CLUSTER", help="make a new cluster of --faces, or of the half that is least like the rest")
    add("--faces", type=options.count, nargs="+", metavar="FACE", help="numbers of faces, for --split")
    add("--take-out", type=options.count, nargs="+", metavar="FACE", help="faces that are not of their cluster")
    add("--not-a-person", metavar="CLUSTER", help="not a person to keep: stays visible, left out of exports")
    add("--undo", action="store_true", help="take the last act back")
