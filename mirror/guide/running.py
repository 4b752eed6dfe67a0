"""The steps of a workflow, one subprocess after the other, and the session file that says how far they came."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mirror.contracts.contract import read_contract, write_contract
from mirror.contracts.session import BeaverSession
from mirror.guide.asking import answer
from mirror.guide.parts import Answers, Step, Workflow, faces_page
from mirror.guide.workflows import WORKFLOWS, told_choice, told_clusters
from utils.console import EXIT_INTERRUPTED, EXIT_OK, UserError, say, shell_line
from utils.defaults import PROJECT
from utils.files import disk_errors_as

ENDS_SECONDS = 30  # what a step gets to save its work after it was told to stop


@dataclass
class Run:
    """A workflow under way."""

    session: BeaverSession
    path: Path  # of the session file
    asks: bool

    @property
    def workflow(self) -> Workflow:
        return WORKFLOWS[self.session.workflow]

    @property
    def answers(self) -> Answers:
        return self.session.answers

    def save(self) -> None:
        with disk_errors_as(f"{self.path} cannot be written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_contract(self.path, self.session)


def earlier_session(path: Path) -> BeaverSession | None:
    """The session that a file holds. Raises UserError for a damaged one."""
    if not path.is_file():
        return None
    return read_contract(path, BeaverSession, "beaver.py", f"delete {path} to begin anew")


def run_steps(run: Run) -> int:
    """All steps from the first that is not done; the exit code of the one that fails, else 0."""
    skips = True
    for number, step in enumerate(run.workflow.steps, 1):
        _answer_for(run, step)
        try:
            commands = commands_of(run, step)
        except UserError:
            _forget_answers_of(run, step)
            raise
        skips = skips and is_done(run, step, commands)
        said = f"Step {number} of {len(run.workflow.steps)}: {step.title}"
        if skips or not commands:
            say(f"{said}: {'done before' if skips else 'nothing to do'}")
            continue
        say("", said)
        run.session.running = step.name
        run.save()
        step.before(run.answers)
        for command in commands:
            code = run_command(command)
            if code != EXIT_OK:
                if code != EXIT_INTERRUPTED:
                    _forget_answers_of(run, step)
                return code
        run.session.done[step.name] = [shell_line(one) for one in commands]
        run.session.running = None
        run.save()
    run.session.finished = True
    run.save()
    return EXIT_OK


def commands_of(run: Run, step: Step) -> list[list[str]]:
    """The commands of a step with what the user adds."""
    return [[*command, *run.session.more.get(step.name, [])] for command in step.commands(run.answers)]


def is_done(run: Run, step: Step, commands: list[list[str]]) -> bool:
    """Whether it ended well in this session with these commands, and what it leaves is there. A step that is done may
    have nothing to do any more, such as naming a person."""
    done = run.session.done.get(step.name)
    is_same = done is not None and (not commands or done == [shell_line(one) for one in commands])
    return is_same and all(path.exists() for path in step.leaves(run.answers)) and step.is_current(run.answers)


def _answer_for(run: Run, step: Step) -> None:
    """What can only be asked now."""
    for question in run.workflow.questions:
        if question.at == step.name and not run.answers.get(question.name):
            lines = told_clusters(run.answers)
            if run.asks:
                say("", f"Persons that were found (to look at: {faces_page(run.answers)}):", *lines)
            run.answers[question.name] = answer(question, run.answers, run.asks)
            if not run.asks and question.name == "cluster":
                say(*told_choice(run.answers))
            run.save()


def as_typed(command: list[str]) -> str:
    """The command as it can be typed in the current folder."""
    parts = [Path(sys.executable), PROJECT / command[0]]
    here = Path.cwd()
    names = [str(one.relative_to(here)) if one.is_relative_to(here) else str(one) for one in parts]
    return shell_line([*names, *command[1:]])


def _forget_answers_of(run: Run, step: Step) -> None:
    """What was asked before a step that failed may be why: it is asked again."""
    for question in run.workflow.questions:
        if question.at == step.name:
            run.answers[question.name] = ""
    run.save()


def run_command(command: list[str]) -> int:
    """Run a script of the project; its exit code. The command is shown as it can be typed.

    A script that is interrupted says so itself; KeyboardInterrupt is only raised where it could not.
    """
    line = [sys.executable, str(PROJECT / command[0]), *command[1:]]
    say(f"$ {as_typed(command)}")
    environment = {"PYTHONUTF8": "1", **os.environ}  # any file name can be printed, as in launch.py
    with stopping_like_ctrl_c():
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, env=environment)
        try:
            return process.wait()
        except KeyboardInterrupt:
            if _ended(process) == EXIT_INTERRUPTED:
                return EXIT_INTERRUPTED
            raise


def _ended(process: subprocess.Popen) -> int:
    """Exit code of a step that is to end, after it could save its work.

    A terminal has told it to stop already; another sender told this process alone.
    """
    try:
        if not sys.stdin.isatty():
            process.send_signal(signal.SIGINT if os.name != "nt" else signal.CTRL_C_EVENT)
        return process.wait(ENDS_SECONDS)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.kill()
        return process.wait()


@contextlib.contextmanager
def stopping_like_ctrl_c() -> Iterator[None]:
    """A request to end, or a terminal that closes, is Ctrl-C."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
