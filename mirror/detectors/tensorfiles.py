"""Files of tensors (.safetensors) that hold all that a checkpoint held: its tensors, and in the metadata the rest.

The metadata has one entry, `mirrormetrics`, a JSON text: either the architecture of a detector's network, or the
structure around the tensors: dictionaries, lists, numbers and words, with the names of the tensors in their places.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mirror.detectors.checkpoints import HOW_TO_INSTALL, Record, import_torch
from mirror.detectors.networks import Network
from utils.console import UserError

_ENTRY = "mirrormetrics"
_VERSION = 1
_DEEPEST = 100  # containers inside containers
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}


def write_network(path: Path, network: Network) -> None:
    """Write a network beside its name and verify it. Raises UserError; FileExistsError where `path` is taken."""

    def verify(written: Path) -> None:
        found = read_network(written)
        same = found.family == network.family and found.architecture == network.architecture
        # the format keeps tensors in an order of its own
        if not same or not equal(dict(sorted(found.tensors.items())), dict(sorted(network.tensors.items()))):
            raise UserError(f"{path} would not hold what was converted; nothing is written.")
        found.build()

    facts = {"family": network.family, "architecture": network.architecture}
    _write(path, {name: tensor.contiguous() for name, tensor in network.tensors.items()}, facts, verify)


def write_data(path: Path, content: object) -> None:
    """Write what a checkpoint holds and verify it. Raises UserError; FileExistsError where `path` is taken."""

    def verify(written: Path) -> None:
        if not equal(read_data(written), content):
            raise UserError(f"{path} would not hold what was converted; nothing is written.")

    tensors: dict[str, Any] = {}
    structure = _Encoder(tensors).encode(content, "")
    _write(path, tensors, {"structure": structure}, verify)


def read_network(path: Path) -> Network:
    """The network in a file that `write_network` wrote. Raises UserError."""
    facts, tensors = _read(path)
    if "family" not in facts or not isinstance(facts.get("architecture"), dict):
        raise UserError(
            f"{path} does not say which network its tensors belong to. A detector is converted from its original: "
            "python inspect_pkl.py --convert FILE"
        )
    return Network(facts["family"], facts["architecture"], tensors)


def read_data(path: Path) -> object:
    """The content of a file that `write_data` wrote; the tensors alone of any other. Raises UserError."""
    facts, tensors = _read(path)
    return _decode(facts["structure"], tensors) if "structure" in facts else tensors


def _write(path: Path, tensors: dict[str, Any], facts: dict, verify: Callable[[Path], None]) -> None:
    """Write beside `path`, read it again, then give it its name, if that is still free."""
    handle, temporary = tempfile.mkstemp(prefix=".converting-", suffix=".safetensors", dir=path.parent)
    os.close(handle)
    try:
        metadata = {"format": "pt", _ENTRY: json.dumps({"version": _VERSION} | facts)}
        # of its own each: tensors of a checkpoint can share memory, which the format does not have
        _safetensors().torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary, metadata)
        verify(Path(temporary))
        _rename_to_free(Path(temporary), path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _rename_to_free(temporary: Path, path: Path) -> None:
    with open(path, "xb") as taken:  # fails if the name is taken: another process may have been faster
        os.chmod(temporary, os.fstat(taken.fileno()).st_mode)  # mkstemp makes files that only their owner can read
    os.replace(temporary, path)


def _read(path: Path) -> tuple[dict, dict[str, Any]]:
    """(what the metadata says, the tensors)"""
    import_torch()
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(_ENTRY, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
        facts = json.loads(entry)
        if not isinstance(facts, dict):
            raise ValueError("its metadata is no dictionary")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}. Fetch or convert it again.") from error
    return facts, tensors


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"This needs safetensors, which is not installed: {HOW_TO_INSTALL}") from error
    return safetensors


class _Encoder:
    """Turns content into JSON values; tensors go into `tensors` under their dotted path."""

    def __init__(self, tensors: dict[str, Any]):
        self.torch = import_torch()
        self.tensors = tensors

    def encode(self, value: Any, path: str, depth: int = 0) -> object:
        if depth > _DEEPEST:
            raise UserError(f"It cannot be converted: {path[:80]} ... is nested more than {_DEEPEST} deep.")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, (self.torch.Tensor, np.ndarray, np.generic)):
            return self.keep(value, path)
        for name, kind in _MAPPINGS.items():
            if type(value) is kind:
                return {name: self.pairs(value, path, depth)}
        for name, kind in _SEQUENCES.items():
            if type(value) is kind:
                items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
                return {name: [self.encode(item, _join(path, str(i)), depth + 1) for i, item in enumerate(items)]}
        if isinstance(value, Record):
            return {"record": [value.kind, self.pairs(vars(value), path, depth)]}
        return self.encode_rare(value, path)

    def pairs(self, mapping: dict, path: str, depth: int) -> list:
        return [
            [self.encode(key, path, depth + 1), self.encode(value, _join(path, str(key)), depth + 1)]
            for key, value in mapping.items()
        ]

    def encode_rare(self, value: Any, path: str) -> dict:
        torch = self.torch
        if isinstance(value, (bytes, bytearray)):
            return {type(value).__name__: base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, slice):
            return {"slice": [value.start, value.stop, value.step]}
        if isinstance(value, PurePath):
            return {"path": str(value)}
        if isinstance(value, np.dtype):
            return {"numpy.dtype": value.str}
        for name, kind in (("dtype", torch.dtype), ("device", torch.device), ("size", torch.Size)):
            if isinstance(value, kind):
                return {name: list(value) if kind is torch.Size else str(value).removeprefix("torch.")}
        raise UserError(f"It cannot be converted: {path or 'its content'} is a {type(value).__name__}.")

    def keep(self, value: Any, path: str) -> dict:
        """A tensor, an array or a single number of NumPy."""
        kind = "tensor" if isinstance(value, self.torch.Tensor) else "array"
        name = path or kind
        while name in self.tensors:
            name += "'"
        try:
            if kind == "array":
                native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")  # a copy, never shared
                self.tensors[name] = self.torch.from_numpy(native)
            else:
                self.tensors[name] = value.detach().contiguous()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"It cannot be converted: {name} is a {kind} of {value.dtype}.") from error
        if kind == "array":
            return {"scalar" if isinstance(value, np.generic) else "array": name}
        return {"tensor": name}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _decode(value: Any, tensors: dict[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind in ("tensor", "array", "scalar"):
        tensor = tensors[inner]
        return tensor if kind == "tensor" else tensor.numpy() if kind == "array" else tensor.numpy()[()]
    if kind in _MAPPINGS:
        return _MAPPINGS[kind](_decode_pairs(inner, tensors))
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_decode(item, tensors) for item in inner)
    if kind == "record":
        record = type("Record", (Record,), {"kind": inner[0]})()
        vars(record).update(_decode_pairs(inner[1], tensors))
        return record
    return _decode_rare(kind, inner)


def _decode_pairs(pairs: list, tensors: dict[str, Any]) -> dict:
    return {_decode(key, tensors): _decode(item, tensors) for key, item in pairs}


def _decode_rare(kind: str, inner: Any) -> object:
    torch = import_torch()
    makers: dict[str, Callable[[Any], object]] = {
        "bytes": base64.b64decode,
        "bytearray": lambda text: bytearray(base64.b64decode(text)),
        "complex": lambda parts: complex(*parts),
        "slice": lambda parts: slice(*parts),
        "path": PurePath,
        "numpy.dtype": np.dtype,
        "dtype": lambda name: getattr(torch, name),
        "device": torch.device,
        "size": torch.Size,
    }
    return makers[kind](inner)


def equal(one: Any, other: Any) -> bool:
    """Whether two contents are the same: types, order, shapes and every bit of the numbers."""
    torch = import_torch()
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    if isinstance(one, Record) and isinstance(other, Record):
        return one.kind == other.kind and equal(vars(one), vars(other))
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        one, other = (np.asarray(each, dtype=each.dtype.newbyteorder("=")) for each in (one, other))
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            equal(pair, twin) for pair, twin in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(item, twin) for item, twin in zip(one, other, strict=True))
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    return one == other


def _bits(tensor: Any) -> bytes:
    torch = import_torch()
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
