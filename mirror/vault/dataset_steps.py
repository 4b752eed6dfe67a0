"""The commands of facevault.py that make datasets: caption, prep, export. Their options, and what they tell."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.vault.choices import BATCH, FORMATS, MIN_FACE, ORGANIZED, REAL_MIN, REPEATS, SIZE, STYLES
from utils import options
from utils.console import EXIT_OK, UserError, print_table, say, show
from utils.files import demand_writable, folder_of, some_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.prepared import PreparedSet
    from mirror.vault.crops import Window
    from mirror.vault.preparation import Settings
    from mirror.vault.shots import Shot
    from mirror.vault.store import VaultStore


def register(command) -> None:
    """Add the commands. `command(name, run, help)` gives the parser of one."""
    _caption_options(command("caption", run_caption, "describe a person's photos, for the texts beside them"))
    _prep_options(
        command("prep", run_prep, "make the dataset of a person: the best part of every photo, with captions")
    )
    _export_options(command("export", run_export, "copy or link the photos of persons into folders, or list them"))


# caption


def run_caption(args: argparse.Namespace) -> int:
    """Captions of a person's photos into the store, and into the dataset if there is one."""
    from mirror.dataset.sensors import find_expressions
    from mirror.vault.captions import MEASURED, Captions, StoredCaption
    from mirror.vault.expressions import read_expressions
    from mirror.vault.preparation import Settings, parts_of, with_trigger
    from mirror.vault.shots import person_named, shots_of

    with the_only_run(args.output) as store:
        trigger = with_trigger(store, args.name, Settings(args.trigger or "")).trigger
        shots = shots_of(store, person_named(store, args.name))
        _demand_photos(shots, args.name)
        read_expressions(store, shots, find_expressions(args.models_dir, args.expression_model, args.device))
        parts = parts_of(shots, earlier_settings(args.output / ORGANIZED, args.name))
        if args.model is None:
            plan = {shot.face.id: StoredCaption(MEASURED, args.style, trigger, "") for shot, _ in parts}
            Captions(store).put(plan)
        else:
            from mirror.vault.captioner import caption_photos, load_captioner

            captioner = load_captioner(args.model, args.style, args.device)
            caption_photos(store, parts, captioner, trigger, args.batch)
        tell_captions(store, parts, args.name, trigger)
        refresh_dataset(store, args.output, args.name, trigger)
    return EXIT_OK


def tell_captions(store: VaultStore, shots: list[tuple[Shot, Window]], name: str, trigger: str) -> None:
    """How many captions there are, by who wrote them, with one example and what is in nearly all of them."""
    from mirror.vault.captions import Captions, measured, words_for
    from mirror.vault.wording import told_constant_phrases

    stored = Captions(store).all()
    found = [words_for(shot, measured(store, shot, window), stored.get(shot.face.id)) for shot, window in shots]
    counts = Counter(by for _, by in found)
    who = {"person": "written by a person", "measured": "from what was measured", "model": "by the captioner"}
    show(f"{name}: " + ", ".join(f"{counts[by]} captions {words}" for by, words in who.items() if counts[by]))
    show(f"for example: {found[0][0]}")
    for warning in told_constant_phrases([words for words, _ in found], trigger):
        say(f"Warning: {warning}")


def refresh_dataset(store: VaultStore, output: Path, name: str, trigger: str) -> None:
    """The texts of a dataset that was prepared before, which is made anew with the settings of that time."""
    from dataclasses import replace

    earlier = earlier_settings(output / ORGANIZED, name)
    if earlier is None:
        return
    prepare(store, output, output / ORGANIZED / folder_of(name), name, replace(earlier, trigger=trigger))
    show(f"The captions in {output / ORGANIZED / folder_of(name)} are these now; those that people wrote stay.")


# prep


def run_prep(args: argparse.Namespace) -> int:
    """The dataset of one person."""
    from mirror.vault.preparation import Settings, with_trigger

    making = Settings(
        trigger=args.trigger or "",
        size=args.size,
        crop=not args.no_crop,
        min_face=args.min_face,
        real_min=args.real_min,
        most=args.most,
        repeats=args.kohya,
        lines=args.jsonl,
        links=args.symlink,
    )
    with the_only_run(args.output) as store:
        settings = with_trigger(store, args.name, making)
        folder = args.output / ORGANIZED / folder_of(args.name)
        tell_prepared(prepare(store, args.output, folder, args.name, settings, args.restore), folder)
    return EXIT_OK


def prepare(
    store: VaultStore, output: Path, folder: Path, name: str, settings: Settings, restores: bool = False
) -> PreparedSet:
    """Write one dataset. `restores`: with the pictures that somebody deleted from it."""
    from mirror.vault.preparation import Preparation, duplicates_in
    from mirror.vault.shots import person_named

    job = Preparation(store, name, person_named(store, name), folder, settings)
    return job.run(duplicates_in(store, output), restores)


def earlier_settings(organized: Path, name: str) -> Settings | None:
    """How the dataset of a person was prepared; None where there is none."""
    from mirror.contracts.contract import demand_own, read_contract
    from mirror.contracts.prepared import PreparedSet
    from mirror.vault.choices import METADATA
    from mirror.vault.preparation import Settings

    path = organized / folder_of(name) / METADATA
    if not path.is_file():
        return None
    demand_own(path, "facevault.py")
    known = read_contract(path, PreparedSet, "facevault.py prep")
    return Settings(**known.settings) if known.person == name else None


def tell_prepared(prepared: PreparedSet, folder: Path) -> None:
    """What is in the dataset, what is not, and what it lacks."""
    for share in prepared.distributions:
        rows = [
            [
                one.label,
                str(one.count),
                f"{one.share_percent:.0f} %",
                f"{one.goal_percent:g} %" if one.goal_percent else "-",
            ]
            for one in share.targets
        ]
        print_table(share.title, ["", "Pictures", "Share", "Goal"], rows)
    for gap in prepared.recommendations:
        show(f"Lacking: {gap.reason}")
    reasons = Counter(one.reason for one in prepared.left_out)
    for reason, count in reasons.items():
        names = [one.source for one in prepared.left_out if one.reason == reason]
        show(f"Left out, {count}: {reason} ({some_of(names)})")
    for warning in prepared.warnings:
        say(f"Warning: {warning}")
    captions = Counter(one.caption_by for one in prepared.pictures if one.caption_by)
    texts = f", {captions.total()} with captions" if captions else ", no captions: facevault.py caption writes some"
    show(f"{len(prepared.pictures)} pictures of {prepared.person}{texts}", f"dataset: {folder}")


# export


def run_export(args: argparse.Namespace) -> int:
    """Folders of one person or of all who have a name, and the list of what is in them."""
    from mirror.vault.exports import export

    with the_only_run(args.output) as store:
        export(store, args)
    return EXIT_OK


@contextlib.contextmanager
def the_only_run(output: Path) -> Iterator[VaultStore]:
    """The store, with no other run in it."""
    from mirror.vault.store import LOCK, STORE, open_store
    from utils.folder_lock import only_one

    if (output / STORE).is_file():  # else open_store says what is missing, and no folder is made
        demand_writable(output, "--output takes another folder.")
        with only_one(output, LOCK), open_store(output) as store:
            yield store
    else:
        with open_store(output) as store:
            yield store


def _demand_photos(shots: list, name: str) -> None:
    if not shots:
        raise UserError(f"No photo of {name} is there any more: scan the folder again that holds them.")


# Options


def _trigger(text: str) -> str:
    words = " ".join(text.split())
    if not words or "," in words:
        raise argparse.ArgumentTypeError(f"{text!r} is no trigger: some words without a comma, as in ohwx alice")
    return words


def _add_trigger(add) -> None:
    add(
        "--trigger",
        type=_trigger,
        metavar="WORDS",
        help='words for the person, first in every caption (default: those of earlier captions, or "ohwx NAME")',
    )


def _add_making(add) -> None:
    """How pictures are made, for prep and export."""
    sizes = options.between(256, 4096, whole=True)
    add(
        "--size",
        type=sizes,
        default=SIZE,
        metavar="PIXELS",
        help="side of the square whose area trainers' buckets have",
    )
    add("--min-face", type=options.count, default=MIN_FACE, metavar="PIXELS", help="leave out smaller faces")
    add("--restore", action="store_true", help="bring pictures back that were deleted from the folder by hand")


def _caption_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="person, as labelled")
    add(
        "--model",
        type=options.path,
        metavar="DIR",
        help="local folder of a captioner that transformers loads, such as Florence-2, BLIP or Qwen-VL "
        "(default: captions from what was measured)",
    )
    add("--style", choices=STYLES, default="tags", help="tags for SDXL and its kin, a sentence for Flux and Z-Image")
    add("--batch", type=options.count, default=BATCH, metavar="N", help="pictures that the captioner sees at once")
    _add_trigger(add)
    options.add_models_dir(parser, "folder where an expression model is looked for")
    options.add_expression_model(parser)
    options.add_device(parser)


def _prep_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="person, as labelled")
    _add_making(add)
    add("--no-crop", action="store_true", help="whole photos, other people and all")
    add("--real-min", type=options.count, default=REAL_MIN, metavar="N", help="warn below so many pictures")
    add("--most", type=options.count, metavar="N", help="take the best N pictures (default: all)")
    add(
        "--kohya",
        type=options.count,
        nargs="?",
        const=REPEATS,
        metavar="REPEATS",
        help=f"put the pictures into a folder named like {REPEATS}_ohwx alice; bootstrap_loop.py wants none",
    )
    add("--jsonl", action="store_true", help="write metadata.jsonl too, as Hugging Face's datasets have it")
    add("--symlink", action="store_true", help="link to photos that are taken as they are, instead of copying")
    _add_trigger(add)


def _export_options(parser: argparse.ArgumentParser) -> None:
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--all", action="store_true", help="everybody who has a name")
    who.add_argument("--person", metavar="NAME", help="one person")
    add = parser.add_argument
    add(
        "--format",
        choices=FORMATS,
        default=ORGANIZED,
        help="organized: whole photos by person; lora: a cropped dataset in kohya's folders; json: the list alone",
    )
    _add_making(add)
    add("--symlink", action="store_true", help="link to photos that are taken as they are, instead of copying")
    _add_trigger(add)
