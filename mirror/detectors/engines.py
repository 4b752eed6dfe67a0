"""Which library runs the networks, and how exactly: as asked, as far as this machine has it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
EXACT, FAST = "exact", "fast"
INSTALL_OPENVINO = "python -m pip install -r requirements/openvino.txt"


@dataclass(frozen=True)
class Engine:
    """What runs. `said` is a sentence where it is not what was asked for."""

    name: str = ONNXRUNTIME
    precision: str = EXACT
    said: str = ""

    @property
    def key(self) -> str:
        """Its part of a cache key; empty for the one that needs nothing but the requirements."""
        return "" if (self.name, self.precision) == (ONNXRUNTIME, EXACT) else f"-{self.name}-{self.precision}"


DEFAULT = Engine()


def choose_engine(name: str = "auto", precision: str = EXACT, device: str = "auto") -> Engine:
    """The engine for options `--engine`, `--precision` and `--device`.

    auto is OpenVINO where it is faster, which is with a CPU's bfloat16; in float32 both take about as long
    (`python -m benchmarks.mirror_metrics_bench`). Whatever is not there is replaced by what is, with a sentence.
    """
    if name == ONNXRUNTIME or (name == "auto" and precision == EXACT):
        no_fast = f"{ONNXRUNTIME} has no faster arithmetic on CPUs, so the networks run exactly."
        return Engine(said=no_fast if precision == FAST else "")
    if device == "cuda":
        return Engine(said="OpenVINO and --precision fast are for CPUs: for --device cuda onnxruntime is asked.")
    if device == "auto" and _has_cuda():
        asked = "onnxruntime is here with CUDA, so it is asked to run the networks on the GPU, exactly"
        return Engine(said=f"{asked}. OpenVINO and --precision fast are for CPUs: --device cpu takes them.")
    if find_spec(OPENVINO) is None:
        return Engine(said=f"OpenVINO is not installed, so onnxruntime runs the networks exactly: {INSTALL_OPENVINO}")
    try:
        has_bfloat16 = _has_bfloat16()
    except Exception as error:  # a library that is missing or too old, said in many ways
        from mirror.detectors.openvino_session import last_line

        reason = last_line(error)
        return Engine(said=f"OpenVINO does not start ({reason}), so onnxruntime runs the networks exactly.")
    if precision == FAST and not has_bfloat16:
        lacks = "This CPU has no bfloat16 arithmetic, so --precision fast would gain nothing: the networks run exactly."
        return Engine(ONNXRUNTIME if name == "auto" else OPENVINO, EXACT, lacks)
    return Engine(OPENVINO, precision)


def _has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _has_bfloat16() -> bool:
    from mirror.detectors.openvino_session import openvino_core

    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
