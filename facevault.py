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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.vault import dataset_steps
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import DEMO_PACK, IMAGE_EXTENSIONS, PACK
from utils.files import demand_writable, disk_errors_as, first_of, some_of, tell_ignored, timestamp, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.vault import ScanReport
    from mirror.faces.packs import Pack
    from mirror.vault.scanning import Scan, ScannedPicture
    from mirror.vault.store import VaultStore
    from utils.images import Listing

# Settings. Each is also an option of the command line, which wins.
OUTPUT = Path("outputs") / "facevault"
MIN_SCORE = 0.5  # of the detector; the engine itself finds nothing below
MIN_SIZE = 50  # pixels, longer side of a face's box
MIN_CLUSTER = 3  # faces: whoever appears once or twice is no person to train on
PHASH_BITS = 18  # bits of 64, see mirror/vault/duplicates.py
DUPLICATES = "duplicates.json"
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


def run_cluster(args: argparse.Namespace) -> int:
    """Faces into persons; names and corrections stay."""
    from mirror.vault.people import all_persons, recluster
    from mirror.vault.thresholds import default_threshold

    with opened(args) as store:
        pack = store.fact("pack") or ""
        threshold, is_measured = default_threshold(pack)
        if args.threshold is not None:
            threshold = args.threshold
        elif not is_measured:
            say(f"Note: no threshold was measured for the pack {pack}: {threshold:g} is a guess. Look at the page.")
        found = recluster(store, threshold, args.min_cluster, args.preview)
        people = all_persons(store)
        rows = []
        for number, size in sorted(found.sizes.items(), key=lambda one: -one[1]):
            person = people.get(number)
            rows.append([str(number) if person else "new", (person.name if person else None) or "-", str(size)])
        print_table("Persons", ["Cluster", "Name", "Faces"], rows)
        alone = sum(person is None for person in found.person_of.values())
        show(f"{len(rows)} persons, {found.new} of them new; {alone} of {len(found.person_of)} faces in no cluster.")
        show(f"Threshold {threshold:g} (mean cosine), at least {args.min_cluster} faces, pack {pack}")
        if args.preview:
            show("Preview: nothing was written.")
        else:
            write_labels(args, store)
            write_page(args, store)
    return EXIT_OK


def run_dedup(args: argparse.Namespace) -> int:
    """Pictures that show the same; the best of each set is kept, and nothing is deleted."""
    from mirror.contracts.contract import write_contract
    from mirror.vault.labels import duplicates_of

    with opened(args) as store:
        found = duplicates_of(store, args.phash_threshold)
        kinds = Counter(one.kind for group in found.groups for one in group.duplicates)
        rows = [[kind, str(kinds[kind])] for kind in ("exact", "near", "burst")]
        print_table("Duplicates", ["Kind", "Files"], rows)
        for line in first_of(
            [
                f"keep {group.keep}; {one.kind}: {one.file} ({one.why})"
                for group in found.groups
                for one in group.duplicates
            ]
        ):
            show(line)
        show(f"{kinds.total()} duplicates in {len(found.groups)} sets. Nothing is deleted.")
        if args.dry_run:
            show("Dry run: nothing was written.")
            return EXIT_OK
        path = args.output / DUPLICATES
        with disk_errors_as(f"{path} cannot be written"):
            write_contract(path, found)
        show(f"duplicates: {path}")
    return EXIT_OK


def run_label(args: argparse.Namespace) -> int:
    """Names and corrections; without any, the clusters there are."""
    from mirror.vault import people
    from mirror.vault.labels import read_names

    asked = [args.cluster is not None, args.names, args.merge, args.split, args.take_out, args.not_a_person, args.undo]
    if sum(bool(one) for one in asked) > 1:
        raise UserError(
            "One act at a time: CLUSTER NAME, --names, --merge, --split, --take-out, --not-a-person or --undo."
        )
    if args.cluster is not None and args.name is None:
        raise UserError(f"Which name is cluster {args.cluster} to have? facevault.py label {args.cluster} NAME")
    if args.faces and not args.split:
        raise UserError("--faces says which faces --split makes a new cluster of.")
    with opened(args) as store:
        if args.cluster is not None:
            said = [people.name(store, args.cluster, args.name)]
        elif args.names:
            names = read_names(args.names)
            with store.change():  # all of the file or nothing
                said = [
                    people.not_a_person(store, one) if new is None else people.name(store, one, new)
                    for one, new in names.items()
                ]
        elif args.merge:
            said = [people.merge(store, *args.merge)]
        elif args.split:
            said = [people.split(store, args.split, args.faces or [])]
        elif args.take_out:
            said = [people.take_out(store, args.take_out)]
        elif args.not_a_person:
            said = [people.not_a_person(store, args.not_a_person)]
        elif args.undo:
            said = [people.undo(store)]
        else:
            said = []
            show_clusters(store)
        show(*(f"{one}." for one in said))
        write_labels(args, store)
    return EXIT_OK


def show_clusters(store: VaultStore) -> None:
    """A table of clusters, each with a picture to know it by."""
    from mirror.vault.labels import labels_of

    rows = [
        [str(one.cluster), one.name or "-", str(len(one.faces)), one.faces[0].file if one.faces else "-"]
        for one in labels_of(store).persons
        if one.kept
    ]
    print_table("Clusters, each with its clearest face", ["Cluster", "Name", "Faces", "Picture"], rows, numbers=False)
    show("Name one: facevault.py label CLUSTER NAME. To see them: facevault.py page")


def run_stats(args: argparse.Namespace) -> int:
    """What the vault holds, as a table."""
    from mirror.vault.labels import stats_of

    with opened(args, writes=False) as store:
        print_table(f"The vault in {args.output}", ["What", "Number"], stats_of(store))
        show(f"Pack {store.fact('pack')}")
    return EXIT_OK


def run_page(args: argparse.Namespace) -> int:
    """faces.html, of what the vault holds now."""
    with opened(args, writes=False) as store:
        write_page(args, store)
    return EXIT_OK


def write_page(args: argparse.Namespace, store: VaultStore) -> None:
    """The page, which works offline."""
    from mirror.contracts.contract import read_contract
    from mirror.contracts.vault import Duplicates
    from mirror.report.faces import build_faces
    from mirror.vault.labels import labels_of, thumbnails_of
    from utils.files import write_text_atomic

    found, path = args.output / DUPLICATES, args.output / "faces.html"
    duplicates = read_contract(found, Duplicates, "facevault.py dedup") if found.is_file() else None
    faces, pictures = thumbnails_of(store, duplicates)
    page = build_faces(labels_of(store), duplicates, faces, pictures, args.output)
    with disk_errors_as(f"{path} cannot be written"):
        write_text_atomic(path, page)
    show(f"page: {path}")


def write_labels(args: argparse.Namespace, store: VaultStore) -> None:
    """labels.json, anew after every change."""
    from mirror.contracts.contract import write_contract
    from mirror.vault.labels import labels_of

    path = args.output / "labels.json"
    with disk_errors_as(f"{path} cannot be written"):
        write_contract(path, labels_of(store))
    show(f"labels: {path}")


@contextmanager
def opened(args: argparse.Namespace, writes: bool = True) -> Iterator[VaultStore]:
    """The store, for this run alone where it writes."""
    from mirror.vault.store import LOCK, STORE, open_store
    from utils.folder_lock import only_one

    if not (args.output / STORE).is_file() or not writes:
        with open_store(args.output) as store:
            yield store
        return
    with only_one(args.output, LOCK), open_store(args.output) as store:
        yield store


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
    _cluster_options(command("cluster", run_cluster, "group faces into persons; names and corrections stay"))
    _dedup_options(command("dedup", run_dedup, "find pictures that show the same; nothing is deleted"))
    _label_options(command("label", run_label, "name clusters and correct them; every act can be undone"))
    command("stats", run_stats, "what the vault holds, as a table")
    command("page", run_page, "write faces.html: persons, faces and duplicates to look at")
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


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--threshold",
        type=options.between(-1, 1),
        metavar="T",
        help="mean cosine from which two groups of faces are one person (default: that of the pack)",
    )
    add("--min-cluster", type=options.count, default=MIN_CLUSTER, metavar="N", help="fewest faces of a person")
    add("--preview", action="store_true", help="show what would come out, and write nothing")


def _dedup_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--phash-threshold",
        type=options.between(0, 32, whole=True),
        default=PHASH_BITS,
        metavar="N",
        help="bits of 64 that may differ in the perceptual hashes of pictures that are compared more closely",
    )
    add("--dry-run", action="store_true", help="show what would come out, and write nothing")


def _label_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("cluster", nargs="?", metavar="CLUSTER", help="number or name of a cluster; without one all are shown")
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


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: args.run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
