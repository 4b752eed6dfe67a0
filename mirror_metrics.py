#!/usr/bin/env python3
"""MirrorMetrics: how alike, how old, how turned and how free are the faces that a LoRA makes?

    python mirror_metrics.py                                  # Reference_Images/ against Lora_Candidates/*/
    python mirror_metrics.py --reference DIR --candidates DIR --output DIR

reads   Reference_Images/*.jpg ...            real photos of one person (the ground truth)
        Lora_Candidates/<LoRA>/*.png ...      generated images, one folder for each LoRA or checkpoint (optional)
writes  Dashboard_<time>.html  CopycatReport_<time>.html  Data_<time>.csv  Summary_<time>.json

Every picture's largest face is measured with an InsightFace model pack: ArcFace embedding, age, head angles. References
are scored against the centroid of the *other* references (leave-one-out), generated images against the centroid of all.
Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from utils.console import EXIT_OK, UserError, print_table, run_script, say
from utils.defaults import CACHE_FILE, DETECTION_SIZE, IMAGE_EXTENSIONS, MAX_MEGAPIXELS, PACK, PROJECT

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    import numpy as np
    import pandas as pd

    from utils.cache import FaceCache
    from utils.contracts import PackInfo, Summary
    from utils.measurer import Picture
    from utils.packs import Pack

# Settings. Each is also an option of the command line, which wins.
PATH_REFERENCE = PROJECT / "Reference_Images"
PATH_CANDIDATES_ROOT = PROJECT / "Lora_Candidates"
EXTENSIONS = IMAGE_EXTENSIONS  # jpg, jpeg, png, webp, bmp; upper or lower case

VERSION = "0.1.0"
FEWEST_FACES_FOR_MAP = 5  # below that t-SNE has no neighbourhoods to keep
MAP_SEED = 42
LOOSE = "(no folder)"  # group of pictures that lie beside the LoRA folders


@dataclass
class Inputs:
    """Everything found in the folders."""

    references: list[Picture]
    candidates: list[Picture]
    groups: list[tuple[str, str]]  # (type, name), empty folders included
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def collect(args: argparse.Namespace) -> Inputs:
    """List references and candidates. Raises UserError where there is nothing to do."""
    from utils.files import readable
    from utils.images import iter_subfolders, list_images
    from utils.measurer import Picture
    from utils.table import CANDIDATE, REFERENCE

    inputs = Inputs([], [], [(REFERENCE, REFERENCE)])

    def pictures(kind: str, group: str, folder: Path, recursive: bool) -> list[Picture]:
        try:
            listing = list_images(folder, recursive, EXTENSIONS)
        except OSError as error:
            raise UserError(f"{folder} cannot be opened: {error.strerror or error}.") from error
        inputs.ignored.update(listing.ignored)
        inside = sum(bool(list_images(sub, True, EXTENSIONS).images) for sub in listing.subfolders if group != LOOSE)
        if inside:
            inputs.warnings.append(
                f"{folder}: {inside} sub-folder(s) with pictures were left out; --recursive takes them in."
            )
        names = (readable(path.relative_to(folder).as_posix()) for path in listing.images)
        return [Picture(kind, group, name, path) for name, path in zip(names, listing.images, strict=True)]

    inputs.references = pictures(REFERENCE, REFERENCE, _folder(args.reference, "--reference"), args.recursive)
    root = _candidates_root(args)
    if root is not None:
        found = {LOOSE: pictures(CANDIDATE, LOOSE, root, recursive=False)}
        for folder in iter_subfolders(root):
            name = readable(folder.name)
            found[name] = pictures(CANDIDATE, name, folder, args.recursive)
        if not found[LOOSE]:
            del found[LOOSE]
        inputs.groups += [(CANDIDATE, name) for name in found]
        inputs.candidates = [picture for group in found.values() for picture in group]
        inputs.warnings += [f"{root / name} holds no pictures." for name, group in found.items() if not group]
    inputs.warnings = [readable(warning) for warning in inputs.warnings]
    if not inputs.references:
        raise UserError(_what_to_put_where(args, bool(inputs.candidates)))
    return inputs


def _folder(path: Path, option: str) -> Path:
    if path.is_dir():
        return path
    found = "is a file, not a folder" if path.exists() else "does not exist"
    raise UserError(f"{path} {found}. {option} takes the folder that holds the pictures.")


def _candidates_root(args: argparse.Namespace) -> Path | None:
    if args.candidates is None:  # the default folder may be missing: references alone are a full run
        return PATH_CANDIDATES_ROOT if PATH_CANDIDATES_ROOT.is_dir() else None
    return _folder(args.candidates, "--candidates")


def _what_to_put_where(args: argparse.Namespace, has_candidates: bool) -> str:
    suffixes = ", ".join(EXTENSIONS)
    root = args.candidates or PATH_CANDIDATES_ROOT
    without_photos = "There are generated images, but no real photos to compare them with."
    return (
        f"{without_photos if has_candidates else 'There are no pictures yet.'}\n"
        f"  Put real photos of the person ({suffixes}) into  {args.reference}\n"
        f"  and, if you have them, generated images into     {root}{os.sep}<one folder for each LoRA>\n"
        "  then run the same command again. Photos alone are enough for a check of the dataset before training."
    )


def find_or_download(args: argparse.Namespace) -> Pack:
    """The pack that was asked for, fetched once if need be. Raises UserError: no other pack ever takes its place."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from utils.console import talk
    from utils.packs import DOWNLOAD_URL, download_pack, find_pack

    pack = find_pack(args.pack)
    if pack is not None:
        return pack
    url = args.pack_url or DOWNLOAD_URL.format(name=args.pack)
    say(f"The model pack {args.pack} is not here yet; downloading it once from {url}")
    columns = (
        TextColumn(args.pack, markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk()) as bar:
        task = bar.add_task("", total=None)
        return download_pack(args.pack, url, lambda done, total: bar.update(task, completed=done, total=total))


def identity_map(pictures: list[Picture], dimensions: int, cache: FaceCache) -> tuple[np.ndarray | None, str]:
    """t-SNE coordinates (len(pictures), dimensions), NaN without a face; or None and the reason in a sentence."""
    import hashlib

    import numpy as np

    from utils.metrics import safe_perplexity

    rows = [i for i, p in enumerate(pictures) if p.measured]
    if len(rows) < FEWEST_FACES_FOR_MAP:
        return None, f"The map needs at least {FEWEST_FACES_FOR_MAP} faces; here are {len(rows)}."
    embeddings = np.stack([pictures[i].face.embedding for i in rows])
    key = f"tsne{dimensions}-{MAP_SEED}-" + hashlib.sha256(embeddings.tobytes()).hexdigest()
    kept = cache.get_blob("map", key)
    if kept is None:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        # cosine: for unit vectors the angle between faces, which is what ArcFace is trained on
        tsne = TSNE(
            dimensions, perplexity=safe_perplexity(len(rows)), init="random", metric="cosine", random_state=MAP_SEED
        )
        with threadpool_limits(1):  # its threads wait in a spin at every step, which is slower on a busy machine
            kept = tsne.fit_transform(embeddings).astype("<f4").tobytes()
        cache.put_blob("map", key, kept)
    coordinates = np.full((len(pictures), dimensions), np.nan)
    coordinates[rows] = np.frombuffer(kept, dtype="<f4").reshape(-1, dimensions)
    return coordinates, ""


def summarise(args: argparse.Namespace, inputs: Inputs, table: pd.DataFrame, pack: PackInfo, created: str) -> Summary:
    """The run in numbers."""
    from importlib.metadata import version

    import cv2
    import numpy as np

    from utils.contracts import Summary
    from utils.faces import DETECTION_THRESHOLD, RESCUE_PADDING
    from utils.files import readable
    from utils.table import summarise_group

    root = _candidates_root(args)
    return Summary(
        created=created,
        pack=pack,
        providers=dict(Counter(table["Provider"].dropna())),
        versions={
            "mirror_metrics": VERSION,
            "python": sys.version.split()[0],
            "insightface": version("insightface"),
            "onnxruntime": _onnxruntime_version(),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
        settings={
            "device": args.device,
            "det_size": args.det_size,
            "det_threshold": DETECTION_THRESHOLD,
            "rescue_padding": RESCUE_PADDING,
            "max_megapixels": args.max_megapixels,
            "recursive": args.recursive,
            "map": args.map,
            "map_seed": MAP_SEED,
        },
        reference_folder=readable(str(args.reference.resolve())),
        candidates_folder=readable(str(root.resolve())) if root else None,
        groups=[summarise_group(table, kind, name) for kind, name in inputs.groups],
        ignored_files=dict(inputs.ignored.most_common()),
        warnings=inputs.warnings,
        results={},
    )


def _onnxruntime_version() -> str:
    """Of the distribution that holds the code: with a GPU, `onnxruntime` is only a marker (see requirements/)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{version('onnxruntime-gpu')} (GPU)"
    except PackageNotFoundError:
        return version("onnxruntime")


def write_results(
    args: argparse.Namespace,
    pictures: list[Picture],
    table: pd.DataFrame,
    face_map: np.ndarray | None,
    map_note: str,
    summary: Summary,
) -> None:
    """The four result files, all of them or none; `summary.results` names them. Raises OSError."""
    from report.copycat import build_copycat
    from report.dashboard import build_dashboard
    from utils.contracts import write_contract
    from utils.files import write_text_atomic
    from utils.table import to_csv

    stamp = summary.created.replace("-", "").replace(":", "").replace("T", "_")[:15]
    kinds = {
        "dashboard": "Dashboard_{}.html",
        "copycat": "CopycatReport_{}.html",
        "data": "Data_{}.csv",
        "summary": "Summary_{}.json",
    }
    suffix = 1
    while any((args.output / name.format(stamp)).exists() for name in kinds.values()):  # a second run within a second
        suffix += 1
        stamp = f"{stamp[:15]}_{suffix}"
    summary.results = {kind: name.format(stamp) for kind, name in kinds.items()}
    texts = {
        "dashboard": build_dashboard(table, summary, face_map, map_note),
        "copycat": build_copycat(table, summary, [picture.thumbnail for picture in pictures]),
        "data": "\ufeff" + to_csv(table),  # the mark by which Excel knows UTF-8
    }
    paths = {kind: args.output / name for kind, name in summary.results.items()}
    try:
        for kind, text in texts.items():
            write_text_atomic(paths[kind], text)
        write_contract(paths["summary"], summary)
    except OSError:
        for path in paths.values():  # results come together or not at all
            path.unlink(missing_ok=True)
        raise


def tell(args: argparse.Namespace, inputs: Inputs, summary: Summary) -> None:
    """The end of a run: the table and the paths on stdout, or the summary alone with --json."""
    if inputs.ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in inputs.ignored.most_common())
        say(f"Passed over files that are no pictures: {kinds}.")
    if args.json:
        print(summary.model_dump_json(indent=2))
        return
    rows = [
        [group.name, str(group.images), str(group.faces), str(group.failed)]
        + [
            "-" if value is None else f"{value:.3f}"
            for value in (group.similarity.median, group.similarity.q1, group.similarity.q3)
        ]
        for group in summary.groups
    ]
    columns = ["Group", "Images", "Faces", "Failed", "Median similarity", "Q1", "Q3"]
    print_table("Similarity to the references (which are scored leave-one-out)", columns, rows)
    providers = ", ".join(f"{name} ({count})" for name, count in summary.providers.items())
    print(f"Pack {summary.pack.identity}, measured by {providers}\n{summary.pack.licence}")
    for kind, name in summary.results.items():
        print(f"{kind + ':':<11}{args.output / name}")


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from utils.cache import open_cache
    from utils.measurer import Measurer
    from utils.table import score_pictures

    inputs = collect(args)
    _check_output(args.output)
    for warning in inputs.warnings:
        say(f"Note: {warning}")
    pack = find_or_download(args)
    say(f"Model pack {pack.name} in {pack.folder}. {pack.licence()}")
    cache = open_cache(None if args.no_cache else args.cache)
    try:
        if cache.message:
            say(f"Note: {cache.message}")
        measurer = Measurer(pack, cache, args.device, args.det_size, args.max_megapixels, args.require_gpu)
        measurer.measure(inputs.references)
        _demand_a_face(inputs.references)
        measurer.measure(inputs.candidates)
        pack_info = measurer.pack_info()
        pictures = inputs.references + inputs.candidates
        table = score_pictures(pictures, pack_info)
        face_map, map_note = identity_map(pictures, int(args.map[0]), cache)
    finally:
        cache.close()
    created = time.strftime("%Y-%m-%dT%H:%M:%S")
    summary = summarise(args, inputs, table, pack_info, created)
    write_results(args, pictures, table, face_map, map_note, summary)
    tell(args, inputs, summary)
    return EXIT_OK


def _check_output(folder: Path) -> None:
    """Find out before the work, not after it, that results cannot be written. Raises UserError."""
    from utils.files import write_bytes_atomic

    probe = folder / ".mirror_metrics_probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(probe, b"probe")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Results cannot be written to {folder}: {error.strerror or error}. --output takes another folder."
        ) from error


def _demand_a_face(references: list[Picture]) -> None:
    if any(picture.measured for picture in references):
        return
    lines = "\n".join(f"  {picture.filename}: {picture.status} ({picture.reason})" for picture in references[:20])
    more = f"\n  and {len(references) - 20} more" if len(references) > 20 else ""
    raise UserError(f"No face could be measured in any reference, so there is nothing to compare with:\n{lines}{more}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = argparse.ArgumentParser(
        prog="mirror_metrics.py",
        description=__doc__.split("\n\n")[0],
        epilog="Exit codes: 0 done, 2 something to change (one sentence says what), 1 our fault, 130 interrupted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--reference", type=Path, default=PATH_REFERENCE, metavar="DIR", help="real photos of the person")
    add(
        "--candidates",
        type=Path,
        metavar="DIR",
        help=f"one sub-folder of generated images for each LoRA (default: {PATH_CANDIDATES_ROOT}, if it is there)",
    )
    add(
        "--output",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="folder for the result files; . is the current one",
    )
    add("--recursive", action="store_true", help="take in pictures of sub-folders too")
    add(
        "--pack",
        default=PACK,
        metavar="NAME|DIR",
        help="InsightFace model pack, by name or folder; scores of different packs do not mix",
    )
    add(
        "--pack-url",
        metavar="URL",
        help="where to download the pack from if it is not here (default: InsightFace's release page)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes an NVIDIA GPU if onnxruntime has one",
    )
    add("--require-gpu", action="store_true", help="stop unless the networks really run on CUDA")
    add(
        "--det-size",
        type=_detection_size,
        default=DETECTION_SIZE,
        metavar="PIXELS",
        help="side of the detector's input, a multiple of 32",
    )
    add(
        "--max-megapixels",
        type=float,
        default=MAX_MEGAPIXELS,
        metavar="MP",
        help="larger pictures are reported as too_large, not decoded",
    )
    add("--map", choices=("2d", "3d"), default="2d", help="dimensions of the identity map")
    add(
        "--cache",
        type=Path,
        default=CACHE_FILE,
        metavar="FILE",
        help="what was measured before; may be deleted at any time",
    )
    add("--no-cache", action="store_true", help="measure everything anew and keep nothing")
    add("--json", action="store_true", help="print the summary as JSON to stdout, and nothing else there")
    add("--debug", action="store_true", help="show the traceback of an unexpected error")
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser.parse_args(argv)


def _detection_size(text: str) -> int:
    if not text.isdigit() or int(text) % 32 or not 64 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 32 between 64 and 4096")
    return int(text)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
