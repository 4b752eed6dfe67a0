"""Networks run by OpenVINO, with the few methods of an onnxruntime session that InsightFace's model classes call.

OpenVINO has a processor's bfloat16 instructions, which onnxruntime lacks: on CPUs that have them a network takes a
third to a fifth of the time. Compiled networks are kept in a folder, from which they load faster than from their files.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.console import UserError
from utils.cores import available_cores
from utils.defaults import ENGINE_CACHE
from utils.files import sha256_of

_HINTS = {"CPU": {"exact": "f32", "fast": "bf16"}, "GPU": {"exact": "f32", "fast": "f16"}}
_WITHOUT = {"CPU": "--engine onnxruntime", "GPU": "--device cpu"}
_WORDS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoError(UserError):
    """OpenVINO cannot run a network; the message says what can."""


@dataclass(frozen=True)
class Port:
    """An input or output: its shape has numbers, and names where it may vary."""

    name: str
    shape: list[int | str]
    type: str = "tensor(float)"


class OpenVinoSession:
    """The network in an ONNX file, compiled for the CPU or an Intel GPU (`where`, OpenVINO's CPU or GPU). Thread-safe.

    `precision` is exact (float32) or fast (bfloat16 on a CPU, float16 on a GPU). On a CPU every call runs on one
    thread. Raises OpenVinoError where OpenVINO cannot run the file.
    """

    def __init__(self, path: Path, precision: str, where: str = "CPU", cache: Path | None = ENGINE_CACHE):
        core = openvino_core()
        wanted: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[where][precision]}
        if where == "CPU":
            cores = available_cores()
            wanted |= {
                # as with onnxruntime: callers run one call a core, which beats many threads in one call
                "NUM_STREAMS": cores,
                "INFERENCE_NUM_THREADS": cores,
                "ENABLE_CPU_PINNING": False,  # another process may have the core that a thread would be tied to
            }
        self._compiled = _compiled(core, path, where, wanted, cache)
        self.model_path = str(path)
        runs = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self._provider = f"OpenVINO, {where}, {_WORDS.get(runs, runs)}"
        self._inputs = [_port(one) for one in self._compiled.inputs]
        self._outputs = [_port(one) for one in self._compiled.outputs]
        self._places = {one.name: place for place, one in enumerate(self._outputs)}
        self._requests = threading.local()

    def get_inputs(self) -> list[Port]:
        return self._inputs

    def get_outputs(self) -> list[Port]:
        return self._outputs

    def get_providers(self) -> list[str]:
        """What runs the network, in words."""
        return [self._provider]

    def get_provider_options(self) -> dict[str, dict]:
        return {}

    def run(self, names: Sequence[str] | None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs by name, of this call alone."""
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        request.infer(dict(feed))
        places = range(len(self._outputs)) if names is None else [self._places[name] for name in names]
        return [request.get_output_tensor(place).data.copy() for place in places]


def _compiled(core: Any, path: Path, where: str, wanted: dict[str, Any], cache: Path | None) -> Any:
    """From the cache where it holds the network."""
    if cache is not None and _is_folder(cache):
        # OpenVINO knows files by path, size and seconds: one that was replaced would run as it was before
        kept = {"CACHE_DIR": str(cache / sha256_of(path)[:16])}
        # somebody else's file in the cache, a full disk: the network itself may be fine, which the next lines find out
        with contextlib.suppress(RuntimeError):
            return core.compile_model(str(path), where, wanted | kept)
    try:
        return core.compile_model(str(path), where, wanted)
    except RuntimeError as error:  # OpenVINO has many ways to say it, on several lines
        raise OpenVinoError(
            f"OpenVINO cannot run {path} ({last_line(error)}). {_WITHOUT[where]} does without it; "
            "if that fails as well, the file is damaged: fetch it again."
        ) from error


def last_line(error: Exception) -> str:
    """What an error of OpenVINO says in the end; the lines before name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def openvino_core() -> Any:
    """OpenVINO's own way to its devices, without the package that would tell Intel about its use."""
    sys.modules.setdefault("openvino_telemetry", None)  # then OpenVINO takes its empty stand-in; nothing leaves here
    import openvino

    return openvino.Core()


def _is_folder(path: Path) -> bool:
    """Whether it is there, or could be made: without it networks are compiled at every start."""
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK)


def _port(port: Any) -> Port:
    shape = [size.get_length() if size.is_static else f"side_{at}" for at, size in enumerate(port.get_partial_shape())]
    return Port(port.get_any_name(), shape)
