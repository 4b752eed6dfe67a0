"""The steps of a long job: each a child process, its result recorded when it ends, and none done twice.

A record is written whole, after everything that the step made has reached the disk. Starting again therefore finds
every step either done or not begun: what an interrupted step left is taken up by the same step, or removed.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from mirror.contracts.contract import write_contract
from mirror.contracts.history import IterationHistory, IterationRecord, RunningStep, StepRecord
from mirror.loop.windows_job import end_children_with_us
from utils.captions import caption_files
from utils.console import EXIT_OUR_FAULT, EXIT_USER, UserError
from utils.defaults import IMAGE_EXTENSIONS, METADATA
from utils.files import reason_of, timestamp, write_bytes_atomic

# Fields of JSON files that tell the time or follow from it: two runs that differ in nothing else count as equal.
TIME_FIELDS = frozenset({"created", "started", "finished", "updated", "seconds", "written"})

_OURS = {"PYTHONFAULTHANDLER": "1"}  # after a crash of native code the log ends with where every thread was
_FAULT = "Fatal Python error"  # begins that

LAST_LINES = 12  # of a child that failed, shown with the error
_TAIL_BYTES = 20_000  # enough for that many lines, tracebacks and progress bars among them
_LAST_WORDS_SECONDS = 2  # for what still lies in the pipe when the child has ended
_END_SECONDS = 60  # how long a child may take to end after Ctrl-C: a training saves its state first
# Windows does not fork, and a child that is not on the console yet would never hear of a Ctrl-C that was held.
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if os.name == "posix" else ()
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# How a process ends that native code brings down. Windows: access violation, page error, stack overflow, integer
# division, damaged heap, damaged stack; learn.microsoft.com/openspecs/windows_protocols/ms-erref, "NTSTATUS Values".
# Its abort() is not among them: it ends with 3, which --fail-below does as well. Nor are illegal instructions on either
# system: a library that was built for another processor crashes again.
CRASHES = {-number for number in (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT)}
if os.name == "posix":
    CRASHES |= {-signal.SIGBUS}
else:
    CRASHES |= {0xC0000005, 0xC0000006, 0xC00000FD, 0xC0000094, 0xC0000374, 0xC0000409}


class StepError(UserError):
    """A child ended badly, or left something else than it should. `exit_code` is what the loop ends with."""

    def __init__(self, *lines: str, exit_code: int = EXIT_USER):
        super().__init__(*lines)
        self.exit_code = exit_code


class CrashError(StepError):
    """One of our scripts was ended by its libraries' native code, which is nobody's setting and may well not recur."""


@dataclass(frozen=True)
class Child:
    """One process to run. `ours` is False for a program that the user put in for a step."""

    title: str  # begins the sentence when it fails
    command: list[str]
    log: Path
    folder: Path  # where it runs
    ours: bool = True
    again: bool = False  # its log goes on behind what the first try left there

    @property
    def key(self) -> list[str]:
        """What of the command decides the result; where our Python and scripts lie does not."""
        return [Path(self.command[1]).name, *self.command[2:]] if self.ours else self.command


def run_child(child: Child, inherited: Iterable[int] = ()) -> None:
    """Run it to its end; its talk goes to stderr and into the log. It cannot ask anything, and it ends with us.

    It has a session of its own: there is no `/dev/tty` on which it could wait for an answer, and what it started is
    found by its group and ended with it. `inherited` are file descriptors that it keeps open, locks among them. Raises
    StepError with its last lines; CrashError where a script of ours crashed.
    """
    child.log.parent.mkdir(parents=True, exist_ok=True)
    end_children_with_us()  # Windows
    log = open(child.log, "ab" if child.again else "wb")  # noqa: SIM115 - who reads the child closes it, perhaps later
    process = listener = None
    try:
        with held_signals():
            process = _start(child, inherited)
            listener = Listener(process, log)
        process.wait()
    except KeyboardInterrupt:
        if process is not None:
            _interrupt(process)
        raise
    finally:
        try:
            if process is not None:
                _end(process)
        finally:
            if listener is not None:
                listener.finish()
            else:
                log.close()
    if code := process.returncode:
        kind = CrashError if child.ours and code in CRASHES else StepError
        exit_code = EXIT_OUR_FAULT if child.ours and (code == 1 or code in CRASHES) else EXIT_USER
        raise kind(*_why(child, code, listener.tail), exit_code=exit_code)


def _start(child: Child, inherited: Iterable[int]) -> subprocess.Popen:
    posix = {"start_new_session": True, "pass_fds": tuple(inherited), "preexec_fn": _die_with_parent()}
    try:
        return subprocess.Popen(
            child.command,
            cwd=child.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"} | (_OURS if child.ours else {}),
            **(posix if os.name == "posix" else {}),
        )
    except OSError as error:
        raise StepError(f"{child.title} cannot start {child.command[0]}: {reason_of(error)}.") from error


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Requests to end wait until the block is done; of several that came, one is delivered. For the main thread.

    With a `preexec_fn`, forking calls functions of the standard library in which an exception is printed and lost: a
    Ctrl-C in that moment would end nothing. One just after the fork would leave the child running. Not on Windows.
    """
    handlers = {number: signal.getsignal(number) for number in _HELD}
    # what is ignored, or left to the system, stays so: the child inherits that
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    arrived: list[int] = []
    holding = True

    def hold(number: int, frame: object) -> None:
        if holding:
            arrived.append(number)
        else:  # another one was delivered before this handler could be taken away
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, hold)
        yield
    finally:
        holding = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class Listener:
    """Passes on what a child says to stderr and to its log, and keeps the last of it in `tail`.

    The pipe is read to its end whatever becomes of stderr and log: a child whose pipe is full would stand still.
    """

    def __init__(self, process: subprocess.Popen, log: BinaryIO):
        self.tail = bytearray()
        self._process, self._log = process, log
        self._aloud = True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        text = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a letter
        with contextlib.suppress(OSError), self._log:  # closing writes once more, perhaps to a full disk
            while piece := os.read(self._process.stdout.fileno(), 65536):
                self.tail.extend(piece)
                del self.tail[:-_TAIL_BYTES]
                with contextlib.suppress(OSError):  # a full disk must not stop what the child itself may still do
                    self._log.write(piece)
                    self._log.flush()
                if self._aloud:
                    with heard_or_not(sys.stderr):
                        sys.stderr.write(text.decode(piece))
                        sys.stderr.flush()

    def finish(self) -> None:
        """Wait for the last words, but not long: what left the child's session may keep the pipe open."""
        self._thread.join(_LAST_WORDS_SECONDS)
        self._aloud = False


@contextlib.contextmanager
def heard_or_not(stream: TextIO) -> Iterator[None]:
    """Write to a stream; where nobody reads it any more (`| head`, a closed terminal), it leads nowhere from then."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _die_with_parent() -> Callable[[], None] | None:
    """For Linux: the child is killed when the loop is, so that no orphan goes on writing."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone already
            os._exit(1)

    return arrange


def _interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C for the child, which may save its work; a second one does not wait."""
    with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired, OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGINT)
        process.wait(_END_SECONDS)


def _end(process: subprocess.Popen) -> None:
    """Whatever happened: neither the child nor anything that it started is left."""
    with held_signals():
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is empty
                os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            process.kill()
    process.wait()


def _why(child: Child, code: int, tail: bytearray) -> list[str]:
    text = tail.decode("utf-8", "replace").replace("\r", "\n")
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    crashed = child.ours and code in CRASHES
    said = text.partition(_FAULT)[0] if crashed else text
    lines = [line.rstrip() for line in said.splitlines() if line.strip()][-LAST_LINES:]
    advice = "Give" if crashed else "Fix that and give"
    last = " If it crashes once more, please report it, with that file." if crashed else ""
    return [
        f"{child.title} {how}. {'Its last lines:' if lines else 'It had printed nothing.'}",
        *(f"  {line}" for line in lines),
        f"All of it is in {child.log}. {advice} the same command again: it goes on at this step.{last}",
    ]


def digest(*parts: object) -> str:
    """Hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def content_of(path: Path) -> str | None:
    """Hash of a file or of what counts in a folder, TIME_FIELDS of JSON files aside; None where nothing is there."""
    if path.is_dir():
        return digest([(os.path.relpath(one, path).replace(os.sep, "/"), content_of(one)) for one in what_counts(path)])
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):
            return digest(timeless(json.loads(data)))
    return hashlib.sha256(data).hexdigest()


def relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that a project can be moved; whole where Windows has them on two drives."""
    try:
        return os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:
        return str(path)


def what_counts(folder: Path) -> list[Path]:
    """The metadata and the pictures that they name, else all pictures; with captions. What systems strew into folders
    (.DS_Store, Thumbs.db) undoes no step."""
    pictures = [one for one in files_in(folder) if is_picture(one)]
    metadata = folder / METADATA
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(metadata.read_text(encoding="utf-8"))
        pictures = sorted(folder / image["file"] for image in told["images"])
    found = [metadata] if metadata.is_file() else []
    found += [one for picture in pictures for one in (picture, *caption_files(picture)) if one.is_file()]
    return list(dict.fromkeys(found))


def is_picture(path: Path) -> bool:
    """By its name; hidden files, such as macOS's ._photo.jpg, hold none."""
    return path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS and not path.name.startswith(".")


def files_in(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted."""
    return sorted(one for one in folder.rglob("*") if one.is_file())


def timeless(value: object) -> object:
    """`value` without TIME_FIELDS, at any depth."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in TIME_FIELDS}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def to_disk(path: Path) -> None:
    """Wait until a file, or every file of a folder, has reached the disk: a record must not be there before it."""
    for one in files_in(path) if path.is_dir() else [path]:
        handle = os.open(one, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # Windows syncs only what is open for writing
                os.fsync(handle)
        finally:
            os.close(handle)


class Doable(Protocol):
    """What the ledger asks of a step, see mirror.loop.iteration.Step."""

    name: str
    iteration: IterationRecord

    def key(self) -> str: ...
    def outputs(self) -> list[Path]: ...
    def make(self, again: bool) -> None: ...


class Ledger:
    """The history on the disk. All changes go through `save`, which writes it whole or not at all."""

    def __init__(self, path: Path, history: IterationHistory):
        self.path = path
        self.history = history

    def save(self) -> None:
        self.history.updated = timestamp()
        write_contract(self.path, self.history)

    def stands(self, iteration: IterationRecord, name: str) -> bool:
        """Whether a step was done, and what it made is still there and the same."""
        done = next((record for record in iteration.steps if record.step == name), None)
        folder = self.path.parent
        return done is not None and all(content_of(folder / at) == was for at, was in done.outputs.items())

    def step(self, step: Doable, forget: Callable[[], None]) -> None:
        """Do a step of an iteration unless it is done with the same inputs and its outputs still stand.

        `forget` takes what the step recorded out of the history, with the steps after it.
        """
        iteration, key, folder = step.iteration, step.key(), self.path.parent
        done = next((record for record in iteration.steps if record.step == step.name), None)
        if done and done.inputs == key and self.stands(iteration, step.name):
            return
        again = iteration.running == RunningStep(step=step.name, inputs=key)
        forget()
        iteration.running = RunningStep(step=step.name, inputs=key)
        self.save()
        started = timestamp()
        step.make(again)
        outputs = step.outputs()
        for output in outputs:
            to_disk(output)
        iteration.steps.append(
            StepRecord(
                step=step.name,
                inputs=key,
                outputs={relative(path, folder): content_of(path) for path in outputs},
                started=started,
                finished=timestamp(),
            )
        )
        iteration.running = None
        self.save()


def copy_atomic(source: Path, target: Path) -> None:
    """`target` becomes a copy of `source`, whole or not at all. Raises OSError."""
    write_bytes_atomic(target, source.read_bytes())
