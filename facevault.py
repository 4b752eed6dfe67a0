#!/usr/bin/env python3
"""From a photo library to the pictures of one person: finds every face, groups faces into persons, finds duplicates.

    python facevault.py scan PHOTOS --recursive
    python facevault.py cluster
    python facevault.py dedup
    python facevault.py label 1 alice
    python facevault.py page
    python facevault.py caption alice
    python facevault.py prep alice

reads   PHOTOS/*.jpg ...       never changed, moved or deleted
writes  outputs/facevault/     vault.sqlite (the store), scan_report.json, duplicates.json, labels.json, faces.html,
                               organized/alice/ (the dataset), lora_ready/, manifest.json

Each command does one step, and the same command goes on where a run was stopped. Nothing is asked, but names by `label`
on a terminal.
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
from mirror.vault.choices import ORGANIZED
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import DEMO_PACK
from utils.files import demand_writable, disk_errors_as, first_of, folder_of, some_of, tell_ignored

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.vault import ScanReport
    from mirror.vault.store import VaultStore

# Settings. Each is also an option of the command line, which wins.
OUTPUT = Path("outputs") / "facevault"
DUPLICATES = "duplicates.json"
_NOT_FOR_PEOPLE = "The demo pack was trained on rendered heads: its scores say nothing about photos of people."


def run_scan(args: argparse.Namespace) -> int:
    """Every face of every picture of a folder into the store."""
    from mirror.contracts.contract import write_contract
    from mirror.detectors.engines import choose_engine
    from mirror.faces.asked_pack import find_or_download
    from mirror.faces.measurer import Measurer
    from mirror.vault.scanning import VaultLooker, collect, scan, scan_report
    from mirror.vault.store import LOCK, open_store
    from utils.folder_lock import only_one

    pictures, listing = collect(args.photos, args.recursive, args.output)
    demand_writable(args.output, "--output takes another folder.")
    pack = find_or_download(args.pack)
    warnings = list(listing.problems) + ([_NOT_FOR_PEOPLE] if pack.name == DEMO_PACK else [])
    for warning in warnings:
        say(f"Note: {warning}")
    with only_one(args.output, LOCK), open_store(args.output, make=True) as store:
        engine = choose_engine(args.engine, args.precision, args.device)
        how = {"max_megapixels": args.max_megapixels, "smallest_face": args.min_size, "engine": engine}
        measurer = Measurer(pack, store, args.device, **how)
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
            before = people.find(store, args.cluster).name
            said = [people.name(store, args.cluster, args.name), *told_old_folder(args.output, before, args.name)]
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
            show_clusters(store)
            said = ask_names(store) if sys.stdin.isatty() and sys.stderr.isatty() else []
        show(*(f"{one.rstrip('.')}." for one in said))
        write_labels(args, store)
    return EXIT_OK


def told_old_folder(output: Path, before: str | None, name: str) -> list[str]:
    """A dataset that stays under the name that a person had."""
    folder = output / ORGANIZED / folder_of(before or "")
    if before in (None, name) or not folder.is_dir():
        return []
    return [f"{folder} stays as it was, under the name of before; facevault.py prep makes one of the new name"]


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


def ask_names(store: VaultStore) -> list[str]:
    """On a terminal: a name for each cluster without one; what was done. Each name is kept at once."""
    from mirror.guide.asking import ask
    from mirror.vault import people
    from mirror.vault.labels import labels_of

    said: list[str] = []
    for one in labels_of(store).persons:
        if one.name or not one.kept or not one.faces:
            continue
        files = dict.fromkeys(face.file for face in one.faces[:3])
        say("", f"Cluster {one.cluster}, {len(one.faces)} faces. The clearest are in", *(f"  {file}" for file in files))
        while True:
            try:
                name = ask("Name (Enter: none yet, -: not a person to keep, q: no more)")
                if name == "q":
                    return said
                if name:
                    number = str(one.cluster)
                    said.append(people.not_a_person(store, number) if name == "-" else people.name(store, number, name))
                break
            except UserError as problem:
                say(*problem.lines)
            except KeyboardInterrupt:  # or the end of input
                return said
    return said


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
    from mirror.vault import arguments

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

    arguments.scan_options(command("scan", run_scan, "find every face of every picture of a folder"))
    arguments.cluster_options(command("cluster", run_cluster, "group faces into persons; names and corrections stay"))
    arguments.dedup_options(command("dedup", run_dedup, "find pictures that show the same; nothing is deleted"))
    arguments.label_options(command("label", run_label, "name clusters and correct them; every act can be undone"))
    command("stats", run_stats, "what the vault holds, as a table")
    command("page", run_page, "write faces.html: persons, faces and duplicates to look at")
    dataset_steps.register(command)
    for sub in commands.choices.values():
        sub.add_argument("--output", type=options.path, default=OUTPUT, metavar="DIR", help="folder of the vault")
        options.add_debug_and_version(sub)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: args.run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
