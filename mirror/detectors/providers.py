"""How a file becomes a session of onnxruntime: the execution providers it is asked to use, and which onnxruntime it is.

What a session really uses, it says itself.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.console import UserError


def wanted_providers(device: str, available: list[str]) -> list[str]:
    """Execution providers for `device` (auto, cpu or cuda), best first."""
    cuda = "CUDAExecutionProvider"
    wants_cuda = device in ("auto", "cuda") and cuda in available
    return [cuda, "CPUExecutionProvider"] if wants_cuda else ["CPUExecutionProvider"]


def session_options(device: str) -> tuple[list[str], Any]:
    """Providers and options of a session that tells nobody anything and leaves other sessions' cores alone."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings about graph details mean nothing to users
    onnxruntime.disable_telemetry_events()  # nothing leaves the machine
    options = onnxruntime.SessionOptions()
    # threads that spin while they wait steal the cores of the other networks (benchmarks/mirror_metrics_bench.py)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return wanted_providers(device, onnxruntime.get_available_providers()), options


def open_session(path: Path, data: bytes, device: str) -> Any:
    """A session of the file `path`, whose bytes are `data`; it runs nothing that a file names. Raises UserError."""
    try:
        import onnxruntime
    except ImportError as error:
        how = "python -m pip install -r requirements/analysis.txt"
        raise UserError(f"{path} needs onnxruntime, which is not installed: {how}") from error
    providers, options = session_options(device)
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnx, protobuf and onnxruntime each have their own way to refuse a damaged file
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded as ONNX ({reason}). If it is damaged, fetch it again.") from error


def onnxruntime_version() -> str:
    """Of the distribution that holds the code: with a GPU, `onnxruntime` is only a marker (see requirements/)."""
    for name in ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime"):
        try:
            return f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    return "unknown"
