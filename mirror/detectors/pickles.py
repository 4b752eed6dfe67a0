"""Reading a pickle as what it is, a program for a small stack machine, without running it.

Every opcode is followed with stand-ins on the stack: names instead of what they import, calls instead of their results.
So a name that is put together while loading is seen as such, and a call is reported with its arguments.
`pickletools.genops` of Python's own library splits the bytes into opcodes; it constructs nothing.

Why no scanner from the registry (November 2026): modelscan wants Python below 3.13 and rich below 15, fickling is
LGPL and decompiles what only has to be listed, and picklescan is a list of bad names that does not look at arguments.
All that is not on our allow-list is reported here anyway, and loading has to judge by that same list.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from dataclasses import dataclass, field

from mirror.detectors.allowlist import ALLOWED, GETATTR, LOAD_BYTES, METHODS, Safety, Use, judge, modern, words

HIGHEST_PROTOCOL = 5
_SHOWN_LENGTH = 120  # characters of a call in a report
_MOST_CALLS = 20  # of one pickle that are reported one by one


@dataclass(frozen=True)
class Name:
    """A name that the pickle imports: "os.system"."""

    full: str


@dataclass(frozen=True)
class Made:
    """Something that a call would give: `by` is the name that was called, if it is known."""

    by: str | None


class _Mark:
    """The MARK of the stack machine."""


_MARK = _Mark()
_SPECIAL = (Name(GETATTR), Name(LOAD_BYTES))  # what they are called with decides
_UNKNOWN = Made(None)


@dataclass
class Walk:
    """What is known of one or more pickles."""

    imports: dict[str, Safety] = field(default_factory=dict)  # full name -> safety
    calls: list[str] = field(default_factory=list)  # of what is not allowed, with arguments: os.system('id')
    problems: dict[str, Safety] = field(default_factory=dict)  # half a sentence -> safety

    @property
    def safety(self) -> Safety:
        return max([*self.imports.values(), *self.problems.values()], default=Safety.SAFE)

    def add(self, other: Walk) -> None:
        """Take in what is known of another pickle of the same file."""
        self.calls += [call for call in other.calls if call not in self.calls]
        for mine, theirs in ((self.imports, other.imports), (self.problems, other.problems)):
            for what, safety in theirs.items():
                mine[what] = max(safety, mine.get(what, safety))


@dataclass
class Pickle:
    """One pickle of a stream: what it would do, its value as far as that is plain, and the first byte after it."""

    walk: Walk
    value: object = None
    end: int | None = None  # None: it is broken or cut off
    inner: list[bytes] = field(default_factory=list)  # files of PyTorch in it, which it would load


def walk_pickle(data: bytes | mmap.mmap, start: int = 0) -> Pickle:
    """Follow the pickle that begins at `start`; never raises for what stands in it."""
    machine = _Machine(data)
    file = data if isinstance(data, mmap.mmap) else io.BytesIO(data)
    file.seek(start)
    try:
        for opcode, argument, position in pickletools.genops(file):
            machine.position = position
            machine.step(opcode.name, argument)
        return Pickle(machine.walk, machine.pop(), file.tell(), machine.inner)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, AttributeError, TypeError) as error:
        where = f"after byte {machine.position}" if machine.position >= 0 else "at all"
        machine.problem(f"it cannot be read as a pickle {where} ({error or type(error).__name__})", Safety.UNKNOWN)
    return Pickle(machine.walk, inner=machine.inner)


class _Machine:
    """Stack, memo and findings of one pickle. A method for each kind of opcode; `step` chooses."""

    def __init__(self, data: bytes | mmap.mmap):
        self.data = data
        self.walk = Walk()
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.position = -1
        self.inner: list[bytes] = []
        self.spared = 2 * len(data)  # bytes that may still be encoded and kept: what is asked for again has no end

    def step(self, opcode: str, argument: object) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in _NOTHING_TO_DO:
            raise ValueError(f"opcode {opcode}")

    def problem(self, what: str, safety: Safety) -> None:
        self.walk.problems[what] = max(safety, self.walk.problems.get(what, safety))

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        self.hand_on([value])
        return value

    def pop_to_mark(self) -> list:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                self.hand_on(items)
                return items
        raise ValueError("a mark is missing")

    def hand_on(self, values: list) -> None:
        """getattr is harmless where it is called with a network's method; kept for later, it is not. So is loading."""
        for special in _SPECIAL:
            if special in values:
                self.walk.imports[special.full] = Safety.DANGEROUS

    # imports

    def import_lines(self, _: object) -> Name:
        """GLOBAL and INST: two lines of text, read here as the unpickler does; genops would undo escapes in them."""
        first = self.data.find(b"\n", self.position + 1)
        second = self.data.find(b"\n", first + 1)
        module = self.data[self.position + 1 : first].decode("utf-8", "replace")
        return self.imported(module, self.data[first + 1 : second].decode("utf-8", "replace"))

    def imported(self, module: object, name: object) -> Name:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.problem("it imports a name that is only put together while loading", Safety.DANGEROUS)
            return Name(f"{_shown(module)}.{_shown(name)}")
        full = f"{modern(module)}.{name}"
        if Name(full) not in _SPECIAL:
            self.walk.imports[full] = judge(full)
        return Name(full)

    def push_global(self, argument: object) -> None:
        self.stack.append(self.import_lines(argument))

    def stack_global(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.imported(module, name))

    # calls

    def call(self, function: object, arguments: object, is_new: bool) -> None:
        """`is_new`: an empty instance is made, without __init__."""
        full = function.full if isinstance(function, Name) else None
        made: object = Made(full)
        if full is None:
            self.problem("it calls something that it made itself", Safety.DANGEROUS)
            self.note_call(_shown(function), arguments)
        elif full == GETATTR:
            self.call_getattr(arguments)
        elif full == LOAD_BYTES:
            made = self.call_load_bytes(arguments)
        elif full == "_codecs.encode":
            made = self.encoded(arguments)
        elif full not in ALLOWED:
            self.note_call(full, arguments)
        elif ALLOWED[full] is Use.VALUE or (ALLOWED[full] is Use.LAYER and not is_new):
            self.problem(f"it calls {full}, which weights never need", Safety.UNKNOWN)
            self.note_call(full, arguments)
        self.stack.append(made)

    def call_load_bytes(self, arguments: object) -> Made:
        """A file of PyTorch inside is kept for whoever judges files."""
        data = arguments[0] if isinstance(arguments, tuple) and len(arguments) == 1 else None
        is_seen = isinstance(data, bytes) and self.may_keep(len(data))
        if is_seen:
            self.inner.append(data)
        safety = Safety.SAFE if is_seen else Safety.DANGEROUS
        self.walk.imports[LOAD_BYTES] = max(safety, self.walk.imports.get(LOAD_BYTES, safety))
        if not is_seen:
            self.problem("it loads bytes that are only put together while loading", Safety.DANGEROUS)
            self.note_call(LOAD_BYTES, arguments)
        return _UNKNOWN

    def encoded(self, arguments: object) -> object:
        """Bytes as protocols 0 to 2 write them: a text of their values and the name of an encoding."""
        text, encoding = arguments if isinstance(arguments, tuple) and len(arguments) == 2 else (None, None)
        if isinstance(text, str) and encoding in ("latin1", "latin-1") and self.may_keep(len(text)):
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                pass
        return Made("_codecs.encode")

    def may_keep(self, size: int) -> bool:
        """Whether so many bytes more can be kept. A file encodes and keeps each of its bytes once, if it is honest."""
        self.spared -= size
        return self.spared >= 0

    def call_getattr(self, arguments: object) -> None:
        owner, name = arguments if isinstance(arguments, tuple) and len(arguments) == 2 else (None, None)
        of = owner.full if isinstance(owner, Name) else owner.by if isinstance(owner, Made) else None
        is_method = ALLOWED.get(of) is Use.LAYER and name in METHODS
        safety = Safety.SAFE if is_method else Safety.DANGEROUS
        self.walk.imports[GETATTR] = max(safety, self.walk.imports.get(GETATTR, safety))
        if not is_method:
            self.note_call(GETATTR, arguments)

    def note_call(self, function: str, arguments: object) -> None:
        inner = ", ".join(_shown(a) for a in arguments) if isinstance(arguments, tuple) else _shown(arguments)
        call = f"{function}({inner})"
        call = call if len(call) <= _SHOWN_LENGTH else f"{call[: _SHOWN_LENGTH - 4]}...)"
        if len(self.walk.calls) < _MOST_CALLS and call not in self.walk.calls:
            self.walk.calls.append(call)

    def reduce(self, _: object) -> None:
        arguments, function = self.pop(), self.stack.pop()
        self.call(function, arguments, is_new=False)

    def inst(self, argument: object) -> None:
        arguments = tuple(self.pop_to_mark())
        self.call(self.import_lines(argument), arguments, is_new=False)

    def obj(self, _: object) -> None:
        function, *arguments = self.pop_to_mark()
        self.call(function, tuple(arguments), is_new=False)

    def newobj(self, _: object) -> None:
        arguments, cls = self.pop(), self.pop()
        self.call(cls, arguments, is_new=True)

    def newobj_ex(self, _: object) -> None:
        keywords, arguments, cls = self.pop(), self.pop(), self.pop()
        self.call(cls, (arguments, keywords), is_new=True)

    def build(self, _: object) -> None:
        """The object on top takes a state: its __setstate__ runs, or its attributes are set."""
        self.pop()
        target = self.stack[-1]
        if isinstance(target, Name):
            self.problem(f"it changes {target.full} itself", Safety.DANGEROUS)
        elif not isinstance(target, Made) or target.by is None:
            self.problem("it sets the state of something that has none", Safety.UNKNOWN)
        elif target.by not in ALLOWED:
            self.note_call(f"{target.by}.__setstate__", ("...",))

    def extension(self, argument: object) -> None:
        self.problem(f"it uses the registered extension {argument}, which can stand for any name", Safety.DANGEROUS)
        self.stack.append(_UNKNOWN)

    def persistent(self, identifier: object) -> None:
        kind = identifier[0] if isinstance(identifier, tuple) and identifier else identifier
        if kind not in ("storage", b"storage") and not isinstance(identifier, int):
            self.problem(f"it refers to something outside the pickle: {_shown(identifier)}", Safety.UNKNOWN)
        self.stack.append(Made("torch storage"))

    # containers

    def append(self, _: object) -> None:
        item = self.pop()
        self.extend([item])

    def appends(self, _: object) -> None:
        self.extend(self.pop_to_mark())

    def extend(self, items: list) -> None:
        """Lists are kept, for the sake of reports; what sets and made objects take in does not matter."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif isinstance(self.stack[-1], Name):
            self.problem(f"it changes {self.stack[-1].full} itself", Safety.DANGEROUS)

    def set_item(self, _: object) -> None:
        self.pop(), self.pop()
        self.extend([])

    def set_items(self, _: object) -> None:
        self.pop_to_mark()
        self.extend([])

    def tuple_of(self, count: int) -> None:
        items = tuple(self.pop() for _ in range(count))[::-1]
        self.stack.append(items)

    # memo

    def put(self, argument: int) -> None:
        self.memo[argument] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    def proto(self, argument: int) -> None:
        if argument > HIGHEST_PROTOCOL:
            self.problem(f"it is of pickle protocol {argument}, which is not known here", Safety.UNKNOWN)


_LITERALS = words(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8",
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT",
)
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_DICT": Made("dict"),
    "EMPTY_SET": Made("set"),
    "NEXT_BUFFER": Made("buffer"),
    "MARK": _MARK,
}
_NOTHING_TO_DO = ("FRAME", "STOP", "READONLY_BUFFER")
_STEPS = {
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "INST": _Machine.inst,
    "OBJ": _Machine.obj,
    "NEWOBJ": _Machine.newobj,
    "NEWOBJ_EX": _Machine.newobj_ex,
    "BUILD": _Machine.build,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": lambda machine, _: (machine.pop_to_mark(), machine.stack.append(Made("dict"))),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.set_items,
    "FROZENSET": lambda machine, _: (machine.pop_to_mark(), machine.stack.append(Made("frozenset"))),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "PROTO": _Machine.proto,
}


def _shown(value: object, depth: int = 2) -> str:
    """`value` for a report, short whatever it holds."""
    if isinstance(value, Name):
        return value.full
    if isinstance(value, Made):
        return f"<{value.by or 'something'}>"
    if isinstance(value, (list, tuple)):
        if depth == 0:
            return "[...]"
        inner = ", ".join(_shown(item, depth - 1) for item in value[:4]) + (", ..." if len(value) > 4 else "")
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, (str, bytes, bytearray)) and len(value) > _SHOWN_LENGTH:
        value = value[:_SHOWN_LENGTH]
    return repr(value)
