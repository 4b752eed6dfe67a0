"""The content of a checked model file as plain data: dictionaries, lists, numbers, tensors, and records of objects.

No class that a file names is ever made. Where it names a network layer, a `Record` takes its place, which keeps what
the file says about it and can do nothing. Networks are built from records by code of ours or of ultralytics.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, BinaryIO

from mirror.detectors.allowlist import ALLOWED, GETATTR, LOAD_BYTES, Safety, Use, modern
from mirror.detectors.modelfiles import PLAIN_PICKLE, TORCH_LEGACY, TORCH_ZIP, Report
from utils.console import UserError, shell_line

OLDEST_TORCH = (2, 6)  # the first whose weights_only loading takes an allow-list of names (torch/serialization.py)
HOW_TO_INSTALL = "python -m pip install -r requirements/bootstrap.txt"

_ONE_AT_A_TIME = threading.Lock()  # torch has one allow-list for the whole process


class UnfitError(UserError):
    """A file holds no network that can be used here. The message is the end of a sentence that begins with the file."""


class Record:
    """What a file says about one object of a class that is not made: `kind` and its attributes."""

    kind = ""  # full name of the class, such as models.common.Conv

    def __setstate__(self, state: object) -> None:
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        for part in (attributes, slots):
            if isinstance(part, dict):
                self.__dict__.update(part)

    @property
    def children(self) -> dict[str, Record]:
        """Records of the layers inside this one, if it is a layer."""
        return {name: child for name, child in self._part("_modules").items() if isinstance(child, Record)}

    def own_tensors(self) -> dict[str, Any]:
        """Parameters and saved buffers of this object alone."""
        transient = self.__dict__.get("_non_persistent_buffers_set") or ()
        own = self._part("_parameters") | self._part("_buffers")
        return {name: what for name, what in own.items() if hasattr(what, "dtype") and name not in transient}

    def tensors(self, prefix: str = "") -> dict[str, Any]:
        """Those of all layers inside as well, by their dotted names, as torch's state_dict has them."""
        found = {prefix + name: tensor for name, tensor in self.own_tensors().items()}
        for name, child in self.children.items():
            found |= child.tensors(f"{prefix}{name}.")
        return found

    def get(self, name: str, default: object = None) -> object:
        """An attribute of the object."""
        return self.__dict__.get(name, default)

    def _part(self, name: str) -> dict:
        part = self.__dict__.get(name)
        return dict(part) if isinstance(part, dict) else {}


def read_checkpoint(file: BinaryIO, report: Report, name: str) -> object:
    """The content of an open file of this `report`, which must say that it is safe.

    `name` is the file's, for messages. Raises UserError.
    """
    if report.safety is not Safety.SAFE:
        raise ValueError(f"{name} is not safe: {report.finding()}")
    try:
        if report.kind in (TORCH_ZIP, TORCH_LEGACY):
            return _read_torch(file, set(report.walk.imports))
        if report.kind == PLAIN_PICKLE:
            has_tensors = LOAD_BYTES in report.walk.imports
            with _torch_limited_to([]) if has_tensors else nullcontext():
                return _Reader(file).load()
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in torch, numpy, zip or pickle, each in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot be read ({reason}). Run: {how_to_inspect(name)}") from error
    raise UserError(f"{name} is of a kind that is not read here ({report.kind}). Run: {how_to_inspect(name)}")


def how_to_inspect(name: str) -> str:
    """The command that looks into a file, for copying."""
    return shell_line(["python", "inspect_pkl.py", name])


def import_torch() -> Any:
    """torch, of a version whose safe loading can be trusted. Raises UserError."""
    # its threads spin while they wait, and steal the cores of the pack's networks (benchmarks/steps_bench.py)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError as error:
        raise UserError(f"This needs torch, which is not installed: {HOW_TO_INSTALL}") from error
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        raise UserError(f"torch {torch.__version__} cannot load model files safely; {wanted} can: {HOW_TO_INSTALL}")
    return torch


def _read_torch(file: BinaryIO, imports: set[str]) -> object:
    torch = import_torch()
    # only what the file names: torch goes through the whole list at every opcode
    known = [(what, name) for name, what in _known().items() if name in imports]
    if "numpy.dtype" in imports:
        import numpy as np

        known += [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    with _torch_limited_to(known):
        return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def _torch_limited_to(known: list) -> Iterator[None]:
    """Meanwhile torch.load takes what weights of its own need, and these."""
    torch = import_torch()
    with _ONE_AT_A_TIME:
        others = torch.serialization.get_safe_globals()  # ultralytics, for one, adds its own classes for good
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals(known)
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


class _Reader(pickle.Unpickler):
    """Python's unpickler that gets every name from our list; for pickles that torch has not written."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{modern(module)}.{name}"
        if full in _known():
            return _known()[full]
        if full == LOAD_BYTES:
            return _load_tensor_file
        if ALLOWED.get(full) in (Use.VALUE, Use.CALL) and full.startswith("torch.") and not full.endswith("Storage"):
            package, _, inner = full.rpartition(".")
            return getattr(importlib.import_module(package), inner)
        raise pickle.UnpicklingError(f"{full} is not on the allow-list")


def _load_tensor_file(data: bytes) -> object:
    """Stands for `LOAD_BYTES`, which would unpickle without any check: the numbers of a tensor, and nothing else."""
    torch = import_torch()
    numbers = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(numbers, (torch.storage.TypedStorage, torch.storage.UntypedStorage)):
        raise pickle.UnpicklingError("a file of PyTorch in it holds something else than the numbers of a tensor")
    return numbers


@cache
def _known() -> dict[str, Any]:
    """Name -> what stands for it: records for layers and settings, the real thing for plain data."""
    import _codecs
    import collections
    import pathlib

    import numpy as np

    numeric = np._core.numeric if hasattr(np, "_core") else np.core.numeric
    array = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    known = {
        "collections.OrderedDict": collections.OrderedDict,
        "collections.Counter": collections.Counter,
        "_codecs.encode": _codecs.encode,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "types.SimpleNamespace": _record_of("types.SimpleNamespace"),
        "builtins.object": object,
        GETATTR: _no_attribute,
        **{f"builtins.{what.__name__}": what for what in (set, frozenset, bytearray, complex, slice)},
    }
    for package in ("numpy.core", "numpy._core"):
        known |= {f"{package}.multiarray.{name}": getattr(array, name) for name in ("_reconstruct", "scalar")}
        known[f"{package}.numeric._frombuffer"] = numeric._frombuffer
    for name, use in ALLOWED.items():
        if use is Use.LAYER or name.endswith(".IterableSimpleNamespace"):
            known[name] = _record_of(name)
        elif name.startswith("pathlib"):
            known[name] = pathlib.PurePath
    return known


def _record_of(name: str) -> type[Record]:
    return type("Record", (Record,), {"kind": name})


def _no_attribute(*_: object) -> None:
    """Stands for getattr, which old Ultralytics checkpoints call for a network's own method: not needed here."""
