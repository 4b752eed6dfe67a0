"""Which library runs the networks, and how exactly: as asked, as far as this machine has it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from mirror.detectors.providers import CUDA, wanted_providers

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
EXACT, FAST = "exact", "fast"
INSTALL_OPENVINO = "python -m pip install -r requirements/openvino.txt"
DIRECTML, COREML, INTEL_GPU = "directml", "coreml", "intel-gpu"
GPU_NAMES = {DIRECTML: "DirectML", COREML: "CoreML", INTEL_GPU: "OpenVINO on an Intel GPU"}
_ARITHMETIC = "OPTIMIZATION_CAPABILITIES"
_INSTALL = {  # how onnxruntime gets them
    DIRECTML: "on Windows, MIRROR_ONNXRUNTIME=directml has the launcher install it",
    COREML: "onnxruntime has it on macOS",
}


@dataclass(frozen=True)
class Engine:
    """What runs, and on which of the GPUs whose arithmetic is not that of CPUs. `said`: where it is not as asked."""

    name: str = ONNXRUNTIME
    precision: str = EXACT
    said: str = ""
    gpu: str = ""

    @property
    def key(self) -> str:
        """Its part of a cache key; empty for the one that needs nothing but the requirements."""
        parts = [part for part in (self.name, self.precision, self.gpu) if part]
        return "" if parts == [ONNXRUNTIME, EXACT] else "".join(f"-{part}" for part in parts)


DEFAULT = Engine()


def choose_engine(name: str = "auto", precision: str = EXACT, device: str = "auto") -> Engine:
    """The engine for options `--engine`, `--precision` and `--device`.

    auto is OpenVINO where it is faster, which is with a CPU's bfloat16; in float32 both take about as long
    (`python -m benchmarks.mirror_metrics_bench`). Whatever is not there is replaced by what is, with a sentence.
    """
    if device in _INSTALL or (device == "auto" and name != OPENVINO and _has_directml()):
        return _on_onnxruntimes_gpu(DIRECTML if device == "auto" else device, name, precision)
    if device == INTEL_GPU:
        return _on_intel_gpu(name, precision)
    if name == ONNXRUNTIME or (name == "auto" and precision == EXACT):
        no_fast = f"{ONNXRUNTIME} has no faster arithmetic on CPUs, so the networks run exactly."
        return Engine(said=no_fast if precision == FAST else "")
    if device == "cuda":
        return Engine(said="OpenVINO and --precision fast are for CPUs: for --device cuda onnxruntime is asked.")
    if device == "auto" and _has_cuda():
        asked = "onnxruntime is here with CUDA, so it is asked to run the networks on the GPU, exactly"
        return Engine(said=f"{asked}. OpenVINO and --precision fast are for CPUs: --device cpu takes them.")
    has_bfloat16, missing = _asked_openvino(lambda core: "BF16" in core.get_property("CPU", _ARITHMETIC))
    if missing:
        return Engine(said=missing)
    if precision == FAST and not has_bfloat16:
        lacks = "This CPU has no bfloat16 arithmetic, so --precision fast would gain nothing: the networks run exactly."
        return Engine(ONNXRUNTIME if name == "auto" else OPENVINO, EXACT, lacks)
    return Engine(OPENVINO, precision)


def _on_onnxruntimes_gpu(gpu: str, name: str, precision: str) -> Engine:
    """DirectML or CoreML, where onnxruntime has it."""
    import onnxruntime

    if wanted_providers(gpu, onnxruntime.get_available_providers()) == wanted_providers("cpu", []):
        return _on_cpu(f"This onnxruntime has no {GPU_NAMES[gpu]} ({_INSTALL[gpu]})", name, precision)
    unused = name == OPENVINO or precision == FAST
    said = f"{GPU_NAMES[gpu]} runs the networks: --engine openvino and --precision fast are not used with it."
    return Engine(said=said if unused else "", gpu=gpu)


def _on_intel_gpu(name: str, precision: str) -> Engine:
    """OpenVINO's part for Intel's graphics."""
    if name == ONNXRUNTIME:
        return _on_cpu("--device intel-gpu needs OpenVINO, and --engine onnxruntime was given", name, precision)
    has_gpu, missing = _asked_openvino(lambda core: any(one.startswith("GPU") for one in core.available_devices))
    if missing:
        return Engine(said=f"--device intel-gpu needs OpenVINO. {missing}")
    if not has_gpu:
        return _on_cpu("OpenVINO sees no Intel GPU here, or its driver is missing", name, precision)
    return Engine(OPENVINO, precision, gpu=INTEL_GPU)


def _on_cpu(why: str, name: str, precision: str) -> Engine:
    """What else was asked for still holds."""
    engine = choose_engine(name, precision, "cpu")
    return replace(engine, said=f"{why}, so the CPU runs the networks. {engine.said}".rstrip())


def _asked_openvino(question: Callable[[Any], bool]) -> tuple[bool, str]:
    """The answer of OpenVINO's core, or (False, why there is none)."""
    if find_spec(OPENVINO) is None:
        return False, f"OpenVINO is not installed, so onnxruntime runs the networks exactly: {INSTALL_OPENVINO}"
    from mirror.detectors.openvino_session import last_line, openvino_core

    try:
        return question(openvino_core()), ""
    except Exception as error:  # a library that is missing or too old, said in many ways
        return False, f"OpenVINO does not start ({last_line(error)}), so onnxruntime runs the networks exactly."


def _has_cuda() -> bool:
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def _has_directml() -> bool:
    """Without loading onnxruntime, which most runs with nothing new do without."""
    if sys.platform != "win32":
        return False
    try:
        return bool(version("onnxruntime-directml"))
    except PackageNotFoundError:
        return False
