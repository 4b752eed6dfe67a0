#!/usr/bin/env python3
"""From a photo library to the pictures of one person: finds every face, groups faces into persons, finds duplicates.

    python facevault.py scan PHOTOS --recursive
    python facevault.py cluster
    python facevault.py dedup
    python facevault.py label 1 alice
    python facevault.py page

reads   PHOTOS/*.jpg ...       never changed, moved or deleted
writes  outputs/facevault/     vault.sqlite (the store), scan_report.json, duplicates.json, labels.json, faces.html

Each command does one step and asks nothing; the same command goes on where a run was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.vault import dataset_steps
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import DEMO_PACK, IMAGE_EXTENSIONS, PACK
from utils.files import demand_writable, disk_errors_as, some_of, tell_ignored, timestamp, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.vault import ScanReport
    from mirror.faces.packs import Pack
    from mirror.vault.scanning import Scan, ScannedPicture
    from utils.images import Listing

# Settings. Each is also an option of the command line, which wins.
OUTPUT = Path("outputs") / "facevault"
MIN_SCORE = 0.5  # of the detector; the engine itself finds nothing below
MIN_SIZE = 50  # pixels, longer side of a face's box
_NOT_FOR_PEOPLE = "The demo pack was trained on rendered heads: its scores say nothing about photos of people."


def run_scan(args: argparse.Namespace) -> int:
    """Every face of every picture of a folder into the store."""
    from mirror.contracts.contract import write_contract
    from mirror.faces.measurer import Measurer
    from mirror.vault.scanning import VaultLooker, scan
    from mirror.vault.store import LOCK, open_store
    from utils.folder_lock import only_one

    pictures, listing = collect(args.photos, args.recursive)
    demand_writable(args.output, "--output takes another folder.")
    pack = find_or_download(args.pack)
    warnings = list(listing.problems) + ([_NOT_FOR_PEOPLE] if pack.name == DEMO_PACK else [])
    for warning in warnings:
        say(f"Note: {warning}")
    with only_one(args.output, LOCK), open_store(args.output, make=True) as store:
        measurer = Measurer(pack, store, args.device, max_megapixels=args.max_megapixels, smallest_face=args.min_size)
        store.claim(measurer.identity)
        looker = VaultLooker(store, measurer, args.min_score, args.min_size)
        try:
            result = scan(store, looker, args.photos, pictures)
        except KeyboardInterrupt:
            say("What was measured so far is kept; the same command goes on from there.")
            raise
        report = scan_report(args, result, measurer, listing, warnings)
    path = args.output / "scan_report.json"
    with disk_errors_as(f"{path} cannot be written"):
        write_contract(path, report)
    tell_scan(report, path)
    return EXIT_OK


def collect(photos: Path, recursive: bool) -> tuple[list[ScannedPicture], Listing]:
    """List the pictures. Raises UserError where there are none."""
    from mirror.vault.scanning import ScannedPicture
    from utils.files import readable
    from utils.images import demand_folder, holds_pictures, list_images

    folder = demand_folder(photos, "facevault.py scan takes the folder that holds your photos.")
    listing = list_images(folder, recursive)
    listing.problems = [readable(problem) for problem in listing.problems]
    left_out = [] if recursive else [sub for sub in listing.subfolders if holds_pictures(sub)]
    hint = f"{len(left_out)} sub-folder(s) with pictures were left out; --recursive takes them in."
    if not listing.images:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(IMAGE_EXTENSIONS)})." + (f" {hint}" if left_out else "")
        )
    listing.problems += [readable(f"{folder}: {hint}")] if left_out else []
    names = [readable(path.relative_to(folder).as_posix()) for path in listing.images]
    return [ScannedPicture(name, path) for name, path in zip(names, listing.images, strict=True)], listing


def find_or_download(name: str) -> Pack:
    """The pack that was asked for, fetched once if need be. Raises UserError: no other pack ever takes its place."""
    from mirror.faces.packs import DOWNLOAD_URL, download_pack, find_pack, missing_demo_pack

    pack = find_pack(name)
    if pack is not None:
        return pack
    if name == DEMO_PACK:
        raise UserError(missing_demo_pack())
    url = DOWNLOAD_URL.format(name=name)
    say(f"The model pack {name} is not here yet; downloading it once from {url}")
    return download_pack(name, url, lambda done, total: None)


def scan_report(
    args: argparse.Namespace, result: Scan, measurer: object, listing: Listing, warnings: list[str]
) -> ScanReport:
    """What became of every file."""
    from importlib.metadata import version

    import cv2

    from mirror.contracts.vault import ScanReport
    from utils.files import readable

    rows = result.rows()
    return ScanReport(
        created=timestamp(),
        photos=readable(str(args.photos.resolve())),
        pack=measurer.pack_info(),
        settings={
            "recursive": args.recursive,
            "min_score": args.min_score,
            "min_size": args.min_size,
            "max_megapixels": args.max_megapixels,
        },
        versions=versions_of("facevault", insightface=version("insightface"), opencv=cv2.__version__),
        measured_now=sum(row.measured_now for row in rows),
        faces=sum(row.faces for row in rows),
        moved=result.moved,
        vanished=result.vanished,
        ignored_files=dict(listing.ignored.most_common()),
        warnings=warnings,
        files=rows,
    )


def tell_scan(report: ScanReport, path: Path) -> None:
    """The end of a scan on stdout."""
    tell_ignored(report.ignored_files)
    counts = Counter(row.status for row in report.files)
    rows = [[status, str(count)] for status, count in counts.items()]
    print_table("Pictures by status", ["Status", "Pictures"], rows)
    show(f"{len(report.files)} pictures, {report.measured_now} measured now, {report.faces} faces.")
    if report.moved:
        show(f"Found again elsewhere: {some_of([f'{one.was} is now {one.file}' for one in report.moved])}.")
    if report.vanished:
        show(f"Vanished: {some_of(report.vanished)}. Their faces are kept, and left out.")
    bad = [f"{row.file} ({row.reason})" for row in report.files if row.content is None]
    if bad:
        show(f"Not read: {some_of(bad)}.")
    show(f"report: {path}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "facevault.py",
        __doc__,
        "Exit codes: 0 done, 2 something to change (one sentence says what), 1 our fault, 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, formatter_class=options.HelpFormatter)
        sub.set_defaults(run=run)
        return sub

    _scan_options(command("scan", run_scan, "find every face of every picture of a folder"))
    dataset_steps.register(command)
    for sub in commands.choices.values():
        sub.add_argument("--output", type=options.path, default=OUTPUT, metavar="DIR", help="folder of the vault")
        options.add_debug_and_version(sub)
    return parser.parse_args(argv)


def _scan_options(parser: argparse.ArgumentParser) -> None:
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
    options.add_device(parser)
    options.add_max_megapixels(parser)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: args.run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
