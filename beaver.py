#!/usr/bin/env python3
"""A menu that leads from a photo library to a LoRA: it asks, shows each command, and runs the scripts one by one.

    python beaver.py                                                                  asks everything
    python beaver.py --workflow 1 --photos DIR --person alice --yes                   asks nothing
    python beaver.py --workflow 1 --photos DIR --person alice --dry-run               only shows the commands

reads   what its scripts read
writes  outputs/beaver_session.json    answers, and which steps are done: the same command goes on where it stopped
        outputs/facevault/             faces, persons, captions, the datasets in organized/NAME
        outputs/lora_models/NAME/      the LoRA of workflow 1, from which workflow 4 goes on

The workflows stand in mirror/guide/workflows.py. Every step is a script of this project that can also be run by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_INTERRUPTED, EXIT_OK, UserError, run_script, say, show
from utils.folder_lock import only_one

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.session import BeaverSession
    from mirror.guide.parts import Question
    from mirror.guide.running import Run

OUTPUT = Path("outputs")
SESSION, LOCK = "beaver_session.json", "beaver.lock"
OF_ANOTHER = (
    "photos",
    "person",
)  # questions: with other answers it is another session, and the rest is not meant for it
TOOLS, PAGES, LEAVE = "3", "5", "q"
_MENU = {TOOLS: "Individual Tools", PAGES: "Look at results", LEAVE: "Leave"}


def run(args: argparse.Namespace) -> int:
    """One workflow without a question, or the menu."""
    is_terminal = sys.stdin.isatty()
    if not (args.yes or args.dry_run or is_terminal):
        raise UserError(
            "beaver.py asks questions, and nobody can answer them here: give --yes and the answers, such as "
            "--workflow 1 --photos DIR --person NAME."
        )
    if not args.workflow and (args.yes or args.dry_run):
        raise UserError(f"Which workflow? Give --workflow {' or '.join(workflows())}.")
    if args.dry_run:
        return show_commands(args)
    args.output.mkdir(parents=True, exist_ok=True)
    with only_one(args.output, LOCK):
        if args.workflow:
            return run_workflow(args, args.workflow)
        return menu(args)


def workflows() -> dict[str, str]:
    """Number and title of those that are steps one after the other."""
    from mirror.guide.workflows import WORKFLOWS

    return {number: workflow.title for number, workflow in WORKFLOWS.items()}


def menu(args: argparse.Namespace) -> int:
    """Ask what to do until the user leaves."""
    from mirror.guide.asking import ask
    from mirror.guide.tools import use_a_tool

    left = offer_to_go_on(args)
    while True:
        goes_on, chosen, left = bool(left), left, ""
        if not chosen:
            entries = dict(sorted({**workflows(), **_MENU}.items()))
            say("", "MirrorMetrics", *(f"  {number}: {title}" for number, title in entries.items()))
            chosen = ask("What shall be done", choices=list(entries), lists=False)
        if chosen == LEAVE:
            return EXIT_OK
        try:
            if chosen == PAGES:
                open_newest_page(args.output)
                continue
            code = use_a_tool() if chosen == TOOLS else run_workflow(args, chosen, asks_again=not goes_on)
            if code == EXIT_INTERRUPTED:
                return code
        except UserError as problem:
            say(*problem.lines)


def offer_to_go_on(args: argparse.Namespace) -> str:
    """The workflow that was left unfinished, if the user wants to go on with it, else ""."""
    from mirror.guide.asking import agrees

    session = earlier(args)
    if session is None or session.finished:
        return ""
    whose = session.answers.get("person") or session.answers.get("photos", "")
    where = f"in the step {session.running}" if session.running else f"after {len(session.done)} steps"
    title = workflows()[session.workflow]
    return session.workflow if agrees(f"{title} ({whose}) stopped {where}. Go on?") else ""


def earlier(args: argparse.Namespace) -> BeaverSession | None:
    """The session of the last time."""
    from mirror.guide.running import earlier_session

    session = earlier_session(args.session or args.output / SESSION)
    return session if session is None or session.workflow in workflows() else None


def run_workflow(args: argparse.Namespace, number: str, asks_again: bool = False) -> int:
    """Answers first, then all steps; the exit code of a step that failed, else 0.

    `asks_again`: on a terminal, the answers of an unfinished session are only defaults.
    """
    from mirror.guide.running import run_steps

    run = prepared_run(args, number, asks_again)
    run.save()
    try:
        code = run_steps(run)
    except KeyboardInterrupt:
        say("", *_stopped(run, args))
        raise
    if code == EXIT_INTERRUPTED:
        say("", *_stopped(run, args))
        return code
    if code != EXIT_OK:
        say(
            "",
            f"The step {run.session.running} ended with exit code {code}; its own words are above.",
            *_go_on(args),
        )
        return code
    say("")
    show(*run.workflow.afterwards(run.answers))
    return EXIT_OK


def _stopped(run: Run, args: argparse.Namespace) -> list[str]:
    return [f"Stopped in the step {run.session.running or 'that was next'}; what was done is kept.", *_go_on(args)]


def _go_on(args: argparse.Namespace) -> list[str]:
    return ["The same command goes on there." if args.yes else "beaver.py goes on there when it is started again."]


def prepared_run(args: argparse.Namespace, number: str, asks_again: bool = False) -> Run:
    """The session with all answers. An unfinished one of this workflow, person and photos is gone on with."""
    from mirror.contracts.session import BeaverSession
    from mirror.guide.asking import answer
    from mirror.guide.running import Run
    from mirror.guide.workflows import WORKFLOWS

    questions = WORKFLOWS[number].questions
    given = {name: getattr(args, name) or "" for name in all_questions()} | {"output": str(args.output)}
    asks = not args.yes and not args.dry_run and sys.stdin.isatty()
    before = earlier(args)
    goes_on = before is not None and before.workflow == number and not before.finished
    kept = chosen_answers(before.answers) if before is not None and (goes_on or asks) else {}
    answers = {name: value or kept.get(name, "") for name, value in given.items()}
    early = [question for question in questions if not question.at]
    known = goes_on and not asks_again  # a session is written when all is answered
    for question in early:
        is_asked = asks and not known and not given[question.name]
        answers[question.name] = answer(question, answers, is_asked) if question.when(answers) else ""
        if kept and question.name in OF_ANOTHER and answers[question.name] != before.answers.get(question.name):
            if goes_on:
                say(f"Another {question.name} than in the session that was left unfinished: this is a new one.")
            kept, goes_on, known = {}, False, False
            answers |= {name: value for name, value in given.items() if name not in OF_ANOTHER}
    is_same = known and all(answers[one.name] == before.answers.get(one.name) for one in early)
    for question in questions:
        if question.at and not is_same:
            answers[question.name] = given[question.name]
    done, more = (before.done, before.more) if goes_on else ({}, {})
    session = BeaverSession(workflow=number, answers=answers, more=more | more_of(args), done=done)
    return Run(session, args.session or args.output / SESSION, asks)


def all_questions() -> dict[str, Question]:
    """Every question of every workflow, by name."""
    from mirror.guide.workflows import WORKFLOWS

    return {one.name: one for workflow in reversed(WORKFLOWS.values()) for one in workflow.questions}


def chosen_answers(answers: dict[str, str]) -> dict[str, str]:
    """Those that are not what beaver.py itself would have answered: "ohwx alice" is no answer for bob."""
    questions = all_questions()
    return {
        name: value
        for name, value in answers.items()
        if value and name in questions and (questions[name].at or value != questions[name].default(answers))
    }


def more_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """--more by step. Raises UserError for a step that no workflow has."""
    import shlex

    from mirror.guide.workflows import WORKFLOWS

    steps = {step.name for workflow in WORKFLOWS.values() for step in workflow.steps}
    found: dict[str, list[str]] = {}
    for text in args.more or []:
        try:
            step, *words = shlex.split(text) or [""]
        except ValueError as error:
            raise UserError(f"--more {text}: {error}.") from error
        if step not in steps:
            raise UserError(f"--more {text}: its first word is no step; known: {', '.join(sorted(steps))}.")
        found.setdefault(step, []).extend(words)
    return found


def show_commands(args: argparse.Namespace) -> int:
    """--dry-run: the commands, as far as they are known before the first one has run."""
    from mirror.guide.running import as_typed, commands_of

    run = prepared_run(args, args.workflow)
    for question in run.workflow.questions:
        if question.at and not run.answers.get(question.name):
            run.answers[question.name] = question.default(run.answers) or question.name.upper()
    for step in run.workflow.steps:
        show(f"# {step.title}", *(as_typed(one) for one in commands_of(run, step)))
    return EXIT_OK


def open_newest_page(output: Path) -> None:
    """The newest page of any script, in the browser where there is one."""
    import os
    import webbrowser

    places = [*Path.cwd().glob("*.html"), *output.glob("**/*.html")]
    pages = sorted({path.resolve() for path in places}, key=lambda path: path.stat().st_mtime, reverse=True)
    if not pages:
        raise UserError(f"There is no page yet, neither here nor in {output}.")
    show(*(f"{path}" for path in pages[:5]))
    has_screen = sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if has_screen and webbrowser.open(pages[0].as_uri()):
        say(f"Opened: {pages[0].name}")
    else:
        say("No browser can be opened here: copy the first file to a computer with one.")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default. Every question of a workflow is one."""
    from mirror.guide.parts import PRESETS
    from mirror.guide.workflows import WORKFLOWS

    parser = options.script_parser(
        "beaver.py",
        __doc__,
        "Exit codes: 0 done, 130 interrupted, else that of the step that failed. The same command goes on.",
    )
    add = parser.add_argument
    told = ", ".join(f"{number} {title}" for number, title in workflows().items())
    add("--workflow", choices=tuple(WORKFLOWS), metavar="N", help=f"begin with one: {told} (default: the menu)")
    add("--yes", action="store_true", help="ask nothing: take the answers given here, and defaults")
    add("--dry-run", action="store_true", help="show the commands, and run none")
    group = parser.add_argument_group("answers")
    for name, question in sorted(all_questions().items()):
        kinds = {"choices": tuple(PRESETS)} if name == "preset" else {"metavar": "TEXT"}
        group.add_argument(f"--{name.replace('_', '-')}", help=question.words, **kinds)
    add("--output", type=options.path, default=OUTPUT, metavar="DIR", help="folder of all results")
    add("--session", type=options.path, metavar="FILE", help=f"session file (default: {SESSION} in --output)")
    add(
        "--more",
        action="append",
        metavar="WORDS",
        help='a step and more options for its script: --more "train --epochs 8 --rank 16"; may be repeated',
    )
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
