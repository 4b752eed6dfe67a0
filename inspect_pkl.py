#!/usr/bin/env python3
"""What would this model file do when it is loaded? Found out without loading it.

    python inspect_pkl.py                            # every .pkl, .pt, .pth, .bin and .ckpt in models/
    python inspect_pkl.py models/hand_yolov8n.pt
    python inspect_pkl.py --convert models/*.pt

reads   model files; a folder stands for the model files in it, and patterns are expanded here as well
writes  with --convert a .safetensors beside each safe file: the same content without a program in it

A pickle is a program. safe: it imports nothing but what weights need. dangerous: it imports what can start programs,
read or write files, or look up other code. unknown: anything else, such as classes of a project that is not known
here, or what cannot be read to its end. .safetensors and .onnx hold no program: safe where they are whole. Nothing of
a file is ever run, imported or unpacked to disk.
"""

from __future__ import annotations

import argparse
import glob
import sys
from dataclasses import dataclass
from pathlib import Path

from mirror.detectors.allowlist import Safety
from mirror.detectors.checkpoints import UnfitError, import_torch, read_checkpoint
from mirror.detectors.modelfiles import (
    PLAIN_PICKLE,
    SUFFIXES,
    TORCH_LEGACY,
    TORCH_ZIP,
    Report,
    inspect_file,
    inspect_open,
)
from mirror.detectors.networks import Network, find_network
from utils import options
from utils.console import EXIT_OK, EXIT_USER, UserError, print_table, run_script, say, show
from utils.defaults import MODELS_FOLDER
from utils.files import reason_of

EXIT_CODES = {Safety.SAFE: EXIT_OK, Safety.UNKNOWN: 3, Safety.DANGEROUS: 4}
ADVICE = {
    Safety.SAFE: "",
    Safety.UNKNOWN: " Load it only if you trust whoever made it.",
    Safety.DANGEROUS: " Do not load it.",
}
ADVICE_DAMAGED = " It is damaged or not what it says: fetch it again."
MOST_NAMES = 30  # of one kind, listed for one file


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    looked = [InspectedFile(path, inspect_file(path)) for path in collect(args.files)]
    tell(looked, args.list)
    all_done = convert_all(looked) if args.convert else True
    worst = max(each.report.safety for each in looked)
    # a conversion that failed is told by the exit code only where no file is worse than safe
    return EXIT_CODES[worst] if all_done or worst is not Safety.SAFE else EXIT_USER


@dataclass
class InspectedFile:
    """A file and what is known of it."""

    path: Path
    report: Report


def collect(asked: list[str]) -> list[Path]:
    """The files that are meant, in order. Raises UserError for one that is not there."""
    if not asked:
        files = _model_files(MODELS_FOLDER) if MODELS_FOLDER.is_dir() else []
        if not files:
            raise UserError(f"There are no model files in {MODELS_FOLDER} ({', '.join(SUFFIXES)}). Name one.")
        return files
    files = []
    for text in asked:
        path = Path(text).expanduser()
        if path.is_dir():
            found = _model_files(path)
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
        if not found:
            raise UserError(f"{path} does not exist." if not path.is_dir() else f"There are no model files in {path}.")
        files += found
    return list(dict.fromkeys(files))


def _model_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def tell(looked: list[InspectedFile], list_names: bool) -> None:
    """The table, then for each file a sentence, and what it would import and call."""
    rows = [
        [str(each.path), each.report.kind, str(len(each.report.walk.imports)), each.report.safety.name.lower()]
        for each in looked
    ]
    print_table("What the files would do when they are loaded", ["File", "What it is", "Imports", "Verdict"], rows)
    for each in looked:
        report = each.report
        safety = report.safety
        finding = report.finding()
        advice = ADVICE_DAMAGED if report.is_damaged else ADVICE[safety]
        show(f"{each.path} is {safety.name.lower()}: {finding}.{advice}")
        for what in (Safety.DANGEROUS, Safety.UNKNOWN, Safety.SAFE):
            names = sorted(name for name, judged in report.walk.imports.items() if judged is what)
            if what is not Safety.SAFE or list_names:
                _tell_some(f"imports, {what.name.lower()}", names)
        _tell_some("calls", report.walk.calls)
        _tell_some("other problems", [problem for problem in report.walk.problems if problem not in finding])


def _tell_some(title: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        show(f"  {title}: {', '.join(names[:MOST_NAMES])}{more}")


def convert(path: Path) -> str:
    """Write the .safetensors of a safe file; a sentence about it. Raises UserError."""
    from mirror.detectors.tensorfiles import write_data, write_network

    target = path.with_suffix(".safetensors")
    is_taken = f"{target} is there already and is not overwritten, as it holds something else. Move it away first."
    with open(path, "rb") as file:
        report = inspect_open(file)  # again, through the same handle that is read from: files can change
        if report.safety is not Safety.SAFE:
            raise UserError(f"{path} changed while it was looked at.")
        content = read_checkpoint(file, report, str(path))
    try:
        network = find_network(content)
        note = ""
    except UnfitError as error:
        network, note = None, f" It holds a network that is no detector for this project: {error}."
    if target.exists():
        if not _holds(target, content, network):
            raise UserError(is_taken)
        return f"{path} is converted already: {target} holds the same."
    try:
        if network is None:
            write_data(target, content)
            return f"{target} is written and holds the same as {path}.{note}"
        write_network(target, network)
        return f"{target} is written and holds the same network ({network.family}) as {path}."
    except FileExistsError as error:
        raise UserError(is_taken) from error
    except OSError as error:
        raise UserError(f"{target} cannot be written: {reason_of(error)}.") from error


def _holds(target: Path, content: object, network: Network | None) -> bool:
    """Whether a .safetensors is what `convert` would write of `content`, or of the `network` found in it."""
    from mirror.detectors.tensorfiles import equal, read_data, read_network

    try:
        if network is None:
            return equal(read_data(target), content)
        found = read_network(target)
    except (UserError, ValueError, LookupError, TypeError, AttributeError):  # a file of another program, or damaged
        return False
    described = (found.family, found.architecture) == (network.family, network.architecture)
    return described and equal(dict(sorted(found.tensors.items())), dict(sorted(network.tensors.items())))


def convert_all(looked: list[InspectedFile]) -> bool:
    """Convert the safe ones; whether all of these could be."""
    fit = []
    for each in looked:
        if each.report.safety is not Safety.SAFE:
            say(f"{each.path} is not converted, because it is not safe.")
        elif each.report.kind not in (TORCH_ZIP, TORCH_LEGACY, PLAIN_PICKLE):
            say(f"{each.path} is not converted: {each.report.kind}, not a pickle or a file of PyTorch.")
        else:
            fit.append(each.path)
    if fit and not _can_convert():
        return False
    outcomes = [_convert_or_tell(path) for path in fit]
    return all(outcomes)


def _can_convert() -> bool:
    try:
        import_torch()
    except UserError as error:
        say(f"Error: Nothing is converted. {error}")
        return False
    return True


def _convert_or_tell(path: Path) -> bool:
    try:
        show(convert(path))
    except UserError as error:
        say(f"Error: {path} is not converted. {error}")
        return False
    return True


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "inspect_pkl.py",
        __doc__,
        "Exit codes: 0 all are safe, 3 the worst is unknown, 4 the worst is dangerous, 2 something to change "
        "(one sentence says what), 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="files, folders or patterns (default: the model files in models/)")
    add("--convert", action="store_true", help="write a .safetensors beside each safe file; needs torch")
    add("--list", action="store_true", help="list the harmless imports too")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
