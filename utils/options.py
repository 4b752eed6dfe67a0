"""Options that several scripts share, each written once: its name, what it takes, its default and its help."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from utils.console import printable
from utils.defaults import CACHE_FILE, DETECTOR_FILES, EXPRESSION_FILES, MAX_MEGAPIXELS, MODELS_FOLDER, PACK, VERSION

DEVICES = ("auto", "cpu", "cuda")
FACE_DEVICES = (*DEVICES, "directml", "coreml", "intel-gpu")  # onnxruntime and OpenVINO have more than PyTorch
ENGINES, PRECISIONS = ("auto", "onnxruntime", "openvino"), ("exact", "fast")
ANGLE_SENSORS = ("auto", "pack", "detector")
_AUTO_DEVICE = "auto takes an NVIDIA GPU where there is one"
_AUTO_FACE_DEVICE = (
    "auto takes an NVIDIA GPU where onnxruntime has one, or DirectML where that is installed; directml, coreml and "
    "intel-gpu are for the face networks alone, and untried"
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but none that says nothing: those options say in words what happens without them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == ()  # 0 says something
        return action.help if says_nothing else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without what a terminal would obey in an argument."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """As usual; `--describe` alone prints all options as JSON, from which beaver.py asks for them."""
        if (sys.argv[1:] if args is None else list(args)) == ["--describe"]:
            print(json.dumps(description(self)))
            sys.exit(0)
        return super().parse_args(args, namespace)


def description(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What a parser takes: its text, its options, the groups of which one must be given, and its sub-commands."""
    formatter, described, commands = parser._get_formatter(), [], {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = {name: description(sub) for name, sub in action.choices.items()}
        elif action.dest not in ("help", "version", "debug"):
            described.append(_described(action, formatter))
    one_of = [
        [action.option_strings[-1] for action in group._group_actions]
        for group in parser._mutually_exclusive_groups
        if group.required
    ]
    return {"text": parser.description, "options": described, "one_of": one_of, "commands": commands}


def _described(action: argparse.Action, formatter: argparse.HelpFormatter) -> dict[str, Any]:
    flag = action.option_strings[-1] if action.option_strings else None
    if isinstance(action, argparse.BooleanOptionalAction):
        flag = action.option_strings[-1 if action.default else 0]  # the one that changes anything
    nothing = action.default is None or action.default is argparse.SUPPRESS or action.default is False
    return {
        "flag": flag,  # null: given without one
        "name": action.metavar if isinstance(action.metavar, str) else action.dest.upper(),
        "takes": "nothing" if action.nargs == 0 else "many" if action.nargs in ("+", "*") else "one",
        "count": action.nargs if isinstance(action.nargs, int) and action.nargs else 1,
        "is_required": bool(action.required) and action.nargs != "?",
        "default": None if nothing else str(action.default),
        "choices": [str(choice) for choice in action.choices] if action.choices is not None else None,
        "help": formatter._expand_help(action) if action.help else "",
    }


def script_parser(script: str, documentation: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a script; its description is the first paragraph of the script's own documentation."""
    return _Parser(
        prog=script, description=documentation.split("\n\n")[0], epilog=epilog, formatter_class=HelpFormatter
    )


def add_debug_and_version(parser: argparse.ArgumentParser) -> None:
    """The last options of every script."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help=_AUTO_DEVICE)


def add_face_device(parser: argparse.ArgumentParser) -> None:
    """`--device` of scripts that measure faces."""
    parser.add_argument("--device", choices=FACE_DEVICES, default="auto", help=_AUTO_FACE_DEVICE)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """`--engine` and `--precision`: what runs the face networks, see mirror.detectors.engines."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what runs the face networks; auto is OpenVINO where it is installed and --precision fast asks for it",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="exact",
        help="fast takes the CPU's bfloat16, where it has it, or Intel GPUs' float16: recognition, landmarks and (on a "
        "CPU) detectors of hands and eyes take a third of the time or less, and similarities change by up to 0.01",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """`--cache` and `--no-cache`."""
    parser.add_argument(
        "--cache",
        type=path,
        default=CACHE_FILE,
        metavar="FILE",
        help="cache of earlier measurements; may be deleted at any time",
    )
    parser.add_argument("--no-cache", action="store_true", help="measure everything again and keep no measurement")


def add_max_megapixels(
    parser: argparse.ArgumentParser, help: str = "larger pictures are reported as too_large, not decoded"
) -> None:
    """`--max-megapixels`."""
    parser.add_argument("--max-megapixels", type=megapixels, default=MAX_MEGAPIXELS, metavar="MP", help=help)


def add_pack(parser: argparse.ArgumentParser, what: str = "InsightFace model pack", otherwise: str = "") -> None:
    """`--pack` of a script that can do without; the default pack is taken where it is there."""
    default = f"(default: {otherwise}{PACK}, if it is there)"
    parser.add_argument("--pack", metavar="NAME|DIR", help=f"{what} {default}")


def add_sensors(parser: argparse.ArgumentParser, inherited: bool = False) -> None:
    """What looks at pictures: folder, angle sensor, pack, detectors and their classes.

    With `inherited`, options that are left out are None: a gap file says what they are, or else the defaults hold.
    """
    otherwise = "what the gap file was made with, or " if inherited else ""

    def add(option: str, what: str, default: str, **more: Any) -> None:
        parser.add_argument(option, help=f"{what} (default: {otherwise}{default})", **more)

    with_what = (
        "what to measure face angles with: pack (InsightFace) or detector (the face detector, such as yolov5-face); "
        "auto prefers the pack"
    )
    if inherited:
        add("--models-dir", "folder with detectors and packs", MODELS_FOLDER.name, type=path, metavar="DIR")
        add("--angle-sensor", with_what, "auto", choices=ANGLE_SENSORS)
    else:
        add_models_dir(parser)
        parser.add_argument("--angle-sensor", choices=ANGLE_SENSORS, default="auto", help=with_what)
    add_pack(parser, otherwise=otherwise)
    add("--face-model", "face detector with five landmarks", DETECTOR_FILES["face"], metavar="FILE")
    add("--hand-model", "hand detector", f"{DETECTOR_FILES['hand']}, if it is there", metavar="FILE")
    add("--eye-model", "eye detector", f"{DETECTOR_FILES['eye']}, if it is there", metavar="FILE")
    add_expression_model(parser, otherwise)
    classes = "which of the detector's class names count as"
    add("--hand-classes", f"{classes} hands, such as palm,fist", "hand, left hand and the like", metavar="NAMES")
    add("--eye-classes", f"{classes} eyes", "eye, left eye and the like", metavar="NAMES")


def add_expression_model(parser: argparse.ArgumentParser, otherwise: str = "") -> None:
    """`--expression-model`; `otherwise` is what goes before the default."""
    parser.add_argument(
        "--expression-model",
        metavar="FILE",
        help="ONNX model of expressions: FER+, or an EfficientNet of HSEmotion "
        f"(default: {otherwise}the first of {', '.join(EXPRESSION_FILES)} in the models folder)",
    )


def add_models_dir(parser: argparse.ArgumentParser, help: str = "folder with detectors and packs") -> None:
    """`--models-dir`."""
    parser.add_argument("--models-dir", type=path, default=MODELS_FOLDER, metavar="DIR", help=help)


# Types of arguments: text in, value out; argparse.ArgumentTypeError says what was expected.


def path(text: str) -> Path:
    """A path; ~ is the home folder, which not every shell expands."""
    return Path(text).expanduser()


def number(what: str, is_good: Callable[[float], bool], whole: bool = False) -> Callable[[str], Any]:
    """A reader of numbers for which `is_good` holds; the refusal says `what` they are."""

    def read(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not is_good(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return read


def between(low: float, high: float, whole: bool = False) -> Callable[[str], Any]:
    """A reader of numbers from `low` to `high`."""
    kind = "a whole number" if whole else "a number"
    return number(f"{kind} from {low:g} to {high:g}", lambda value: low <= value <= high, whole)


def at_least(low: int) -> Callable[[str], Any]:
    """A reader of whole numbers from `low` on."""
    return number(f"a whole number from {low} on", lambda value: value >= low, whole=True)


count, seed = at_least(1), at_least(0)
megapixels = number("a number above 0", lambda value: 0 < value < math.inf)
