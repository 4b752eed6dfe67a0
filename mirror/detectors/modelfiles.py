"""What a model file holds and what its pickles would do, whatever it is packed in. Nothing in it is run or unpacked.

Known containers: a zip archive (torch.save since 1.6, .npz, TorchScript, archives inside archives), a tar archive
(torch.save before 0.1.10), the five pickles in a row of torch.save before 1.6, plain pickles, .npy, .safetensors and
.onnx. The content decides, not the name of the file.
"""

from __future__ import annotations

import io
import json
import mmap
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mirror.detectors.allowlist import Safety
from mirror.detectors.pickles import Pickle, Walk, walk_pickle
from utils.console import UserError
from utils.files import reason_of

SUFFIXES = (".pkl", ".pt", ".pth", ".bin", ".ckpt")  # what inspect_pkl.py looks for in models/
PICKLE_SUFFIXES = (*SUFFIXES, ".pickle", ".joblib", ".dat", ".data")

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
_TORCH_PICKLES = 5  # magic number, protocol, system, the object, the keys of the storages; raw numbers follow

DEEPEST_NESTING = 4
LARGEST_MEMBER = 1 << 30  # bytes, unpacked; the pickles of real models have a few megabytes
_STORAGE = re.compile(r"(?:^|/)data/\d+$")  # raw numbers, which torch never reads as a pickle
_CODE = re.compile(r"(?:^|/)code/.*\.py$")
_BAD_MEMBER = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError)  # not: encrypted, packed in an unknown way

TORCH_ZIP, TORCH_LEGACY, PLAIN_PICKLE, TORCHSCRIPT = (
    "PyTorch file",
    "PyTorch file of before 1.6",
    "pickle",
    "TorchScript",
)
ARCHIVE, SAFETENSORS, ONNX, NUMPY, NOT_A_MODEL = "archive", "safetensors", "ONNX", "NumPy array", "no model file"
_NO_PROGRAM = {
    SAFETENSORS: "its format holds numbers and no program",
    ONNX: "its format holds a network of known operators and no program",
}

# Fields of a ModelProto (onnx/onnx, onnx.proto) and how protobuf writes them: 0 a number, 2 bytes after their length.
_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_ONNX_ALWAYS = {1, 7, 8}  # version of the format, graph, versions of the operators


@dataclass
class Report:
    """What is known of one file."""

    kind: str = NOT_A_MODEL
    walk: Walk = field(default_factory=Walk)
    pickles: int = 0
    damage: set[str] = field(default_factory=set)  # those of the problems that fetching the file again can fix

    @property
    def safety(self) -> Safety:
        return self.walk.safety

    @property
    def is_damaged(self) -> bool:
        """Whether damage alone keeps it from being safe."""
        named = any(safety is not Safety.SAFE for safety in self.walk.imports.values())
        return not named and bool(self.walk.problems) and self.walk.problems.keys() <= self.damage

    def problem(self, what: str, is_damage: bool = False) -> None:
        self.walk.add(Walk(problems={what: Safety.UNKNOWN}))
        self.damage |= {what} if is_damage else set()

    def finding(self) -> str:
        """What decided the safety, as the end of a sentence that begins with the file's name."""
        worst = self.safety
        if worst is Safety.SAFE:
            return (
                "imports nothing but what weights need"
                if self.pickles
                else _NO_PROGRAM.get(self.kind, "holds no pickle")
            )
        names = sorted(name for name, safety in self.walk.imports.items() if safety is worst)
        parts = [f"it would import {', '.join(names[:6])}{' and more' if len(names) > 6 else ''}"] if names else []
        parts += [f"it would call {self.walk.calls[0]}"] if self.walk.calls else []
        parts += [problem for problem, safety in self.walk.problems.items() if safety is worst][:2]
        return "; ".join(parts)


def inspect_file(path: Path) -> Report:
    """Look into a file. Raises UserError where it cannot be read at all."""
    try:
        with open(path, "rb") as file:
            return inspect_open(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error)}.") from error


def inspect_open(file: BinaryIO) -> Report:
    """Look into an open file of the disk, piece by piece: checkpoints can be larger than the memory."""
    if file.seek(0, io.SEEK_END) == 0:
        return inspect_bytes(b"")
    file.seek(0)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return inspect_bytes(data)


def inspect_bytes(data: bytes | mmap.mmap) -> Report:
    """Look into the content of a file."""
    report = Report()
    if not len(data):
        report.problem("it is empty", is_damage=True)
        return report
    report.kind = _look(data, report, "", 0)
    return report


def _look(data: bytes | mmap.mmap, report: Report, name: str, depth: int) -> str:
    """Add to `report` what `data` holds; the kind of file that it is. `name` is the member's, empty for the file."""
    if depth > DEEPEST_NESTING:
        report.problem(f"files in it are nested more than {DEEPEST_NESTING} deep")
        return ARCHIVE
    kind = _look_into_container(data, report, name, depth)
    # always: bytes can be put so that they are two formats at once, and a loader may take the other one
    return _look_at_pickles(data, report, name, kind, depth)


def _look_into_container(data: bytes | mmap.mmap, report: Report, name: str, depth: int) -> str:
    head = bytes(data[:16])
    if zipfile.is_zipfile(_Bytes(data)):  # it may begin anywhere in the file
        return _look_into_zip(_Bytes(data), report, name, depth)
    if head.startswith(b"PK\x03\x04"):
        report.problem(f"{name or 'it'} is a zip archive that is damaged or cut off", is_damage=True)
        return ARCHIVE
    if _is_tar(data):
        return _look_into_tar(_Bytes(data), report, name, depth)
    if head.startswith(b"\x93NUMPY"):
        return _look_at_array(data, report, name, depth)
    if _is_safetensors(data):
        return SAFETENSORS
    return ONNX if _is_onnx(data) else NOT_A_MODEL


class _Bytes(io.RawIOBase):
    """Bytes or a memory map as a file with a position of its own, nothing copied."""

    def __init__(self, data: bytes | mmap.mmap):
        self._data, self._position = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, len(self._data))[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._position + size
        part = bytes(self._data[self._position : end])
        self._position += len(part)
        return part


# archives


def _look_into_zip(file: _Bytes, report: Report, name: str, depth: int) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()  # with duplicates: readers differ in which of two equal names they take
            kind = _kind_of_zip([member.filename for member in members])
            if kind == TORCHSCRIPT:
                report.problem(f"{name or 'it'} is TorchScript, which carries a program of its own")
            for member in members:
                if member.is_dir() or (kind == TORCH_ZIP and _STORAGE.search(member.filename)):
                    continue
                inner = f"{name}:{member.filename}" if name else member.filename
                _look_at_member(lambda member=member: archive.open(member), member.file_size, report, inner, depth)
            return kind
    except _BAD_MEMBER as error:
        report.problem(f"{name or 'it'} is a zip archive that cannot be read ({error})", isinstance(error, _DAMAGE))
        return ARCHIVE


def _kind_of_zip(names: list[str]) -> str:
    if any(_CODE.search(name) for name in names):
        return TORCHSCRIPT
    is_torch = any(name == "data.pkl" or name.endswith("/data.pkl") for name in names)
    return TORCH_ZIP if is_torch else ARCHIVE


def _look_into_tar(file: _Bytes, report: Report, name: str, depth: int) -> str:
    try:
        with tarfile.open(fileobj=file) as archive:
            for member in archive:
                if member.isfile():
                    inner = f"{name}:{member.name}" if name else member.name
                    _look_at_member(
                        lambda member=member: archive.extractfile(member), member.size, report, inner, depth
                    )
    except (*_BAD_MEMBER, tarfile.TarError) as error:
        report.problem(f"{name or 'it'} is a tar archive that cannot be read ({error})", isinstance(error, _DAMAGE))
    return ARCHIVE


def _is_tar(data: bytes | mmap.mmap) -> bool:
    try:
        with tarfile.open(fileobj=_Bytes(data), mode="r:") as archive:
            return archive.next() is not None
    except (tarfile.TarError, ValueError, OSError):
        return False


def _look_at_member(open_member: Callable[[], BinaryIO], size: int, report: Report, name: str, depth: int) -> None:
    if size > LARGEST_MEMBER:
        report.problem(f"{name} in it is too large to be looked at ({size / 1e9:.1f} GB)")
        return
    try:
        with open_member() as member:
            data = member.read(LARGEST_MEMBER + 1)
    except _BAD_MEMBER as error:
        report.problem(f"{name} in it cannot be read ({error})", isinstance(error, _DAMAGE))
        return
    if len(data) > LARGEST_MEMBER:
        report.problem(f"{name} in it is larger than it says")
    elif data:
        _look(data, report, name, depth + 1)


# pickles


def _look_at_pickles(data: bytes | mmap.mmap, report: Report, name: str, kind: str, depth: int) -> str:
    """Follow the pickles that `data` begins with; `kind` is what it is besides, and what it stays without a pickle."""
    first = walk_pickle(data)
    if not _is_a_pickle(first, data, name, kind):
        if not name and kind == NOT_A_MODEL:
            report.problem(f"it is no model file: it begins with {bytes(data[:16])!r}", is_damage=True)
        return kind
    is_torch = first.value == TORCH_MAGIC and first.end is not None
    where = f"{name} in it: " if name else ""
    pickles = [first]
    most = _TORCH_PICKLES if is_torch else len(data)
    while (end := pickles[-1].end) is not None and end < len(data) and len(pickles) < most:
        following = walk_pickle(data, end)
        if not is_torch and not _is_a_pickle(following, data[end : end + 1], "", NOT_A_MODEL):
            report.problem(f"{where}{len(data) - end} bytes follow the pickle that are none")
            break
        pickles.append(following)
    for pickle in pickles:
        problems = {where + what: safety for what, safety in pickle.walk.problems.items()}
        if pickle.end is None:
            report.damage.add(list(problems)[-1])  # what ended the reading
        report.walk.add(Walk(pickle.walk.imports, pickle.walk.calls, problems))
        for number, inner in enumerate(pickle.inner):
            _look_inside(inner, report, f"{name}:tensor_{number}" if name else f"tensor_{number}", depth)
    report.pickles += len(pickles)
    if kind != NOT_A_MODEL:
        return kind
    return TORCH_LEGACY if is_torch else PLAIN_PICKLE


def _look_inside(data: bytes, report: Report, name: str, depth: int) -> None:
    """What a pickle would have torch load, see `LOAD_BYTES`."""
    if len(data) > LARGEST_MEMBER:
        report.problem(f"{name} in it is too large to be looked at ({len(data) / 1e9:.1f} GB)")
    elif _look(data, report, name, depth + 1) not in (TORCH_ZIP, TORCH_LEGACY):
        report.problem(f"{name} in it is no file of PyTorch, though torch would load it")


def _is_a_pickle(pickle: Pickle, data: bytes | mmap.mmap, name: str, kind: str) -> bool:
    """Whether it was meant as one: text and numbers can look like a short pickle that does nothing."""
    walk, whole = pickle.walk, pickle.end is not None
    if walk.safety is Safety.DANGEROUS or (walk.imports and whole) or pickle.inner:
        return True
    if kind != NOT_A_MODEL:
        return False
    named = not name or name.lower().endswith(PICKLE_SUFFIXES)
    return data[:1] == b"\x80" or (named and (whole or bool(walk.imports)))


# other formats


def _look_at_array(data: bytes | mmap.mmap, report: Report, name: str, depth: int) -> str:
    """A .npy file: a pickle follows its header if it holds objects. The header is text that NumPy reads as literals."""
    major = data[6]
    size_field = struct.Struct("<H" if major == 1 else "<I")
    start = 8 + size_field.size
    try:
        (length,) = size_field.unpack(bytes(data[8:start]))
        header = bytes(data[start : start + length])
    except struct.error:
        header, length = b"", 0
    if b"descr" not in header:
        report.problem(f"{name or 'it'} is a NumPy array with a damaged header", is_damage=True)
    elif re.search(rb"['\"]\|?O", header):
        _look_at_pickles(bytes(data[start + length :]), report, name or "its array", NOT_A_MODEL, depth)
    return NUMPY


def _is_safetensors(data: bytes | mmap.mmap) -> bool:
    """Eight bytes of length, JSON, then numbers and nothing after them (huggingface/safetensors, "Format")."""
    if len(data) < 10 or bytes(data[8:9]) != b"{":
        return False
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(LARGEST_MEMBER, len(data) - 8):
        return False
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return max(ends, default=0) == len(data) - 8 - length
    except (ValueError, RecursionError, LookupError, TypeError):
        return False


def _is_onnx(data: bytes | mmap.mmap) -> bool:
    """Whether the fields of a ModelProto, and no other ones, fill it to its last byte."""
    position, seen = 0, set()
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            number, written = divmod(tag, 8)
            if _ONNX_FIELDS.get(number) != written:
                return False
            size, position = _varint(data, position)
            position += size if written == 2 else 0
            seen.add(number)
    except IndexError:
        return False
    return position == len(data) and seen >= _ONNX_ALWAYS


def _varint(data: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    """(number, first byte after it): seven bits in each byte, the lowest first. Raises IndexError at the end."""
    value = shift = 0
    while True:
        value |= (data[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if data[position - 1] < 0x80 or shift > 63:
            return value, position
