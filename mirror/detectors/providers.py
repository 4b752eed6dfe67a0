"""How a file becomes a session of onnxruntime: the execution providers it is asked to use, and which onnxruntime it is.

What a session really uses, it says itself.
"""

import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.console import UserError

CUDA, DIRECTML, COREML = "CUDAExecutionProvider", "DmlExecutionProvider", "CoreMLExecutionProvider"
# DirectML and CoreML run only where they were chosen (mirror.detectors.engines): what they measure is kept apart.
_TAKEN = {"auto": CUDA, "cuda": CUDA, "directml": DIRECTML, "coreml": COREML}


def wanted_providers(device: str, available: list[str]) -> list[str]:
    """Execution providers for `device`, a value of `--device`, best first."""
    taken = _TAKEN.get(device)
    return [taken, "CPUExecutionProvider"] if taken in available else ["CPUExecutionProvider"]


def session_options(device: str) -> tuple[list[str], Any]:
    """Providers and options of a session that tells nobody anything and leaves other sessions' cores alone."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings about graph details mean nothing to users
    onnxruntime.disable_telemetry_events()  # nothing leaves the machine
    options = onnxruntime.SessionOptions()
    # threads that spin while they wait steal the cores of the other networks (benchmarks/mirror_metrics_bench.py)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    providers = wanted_providers(device, onnxruntime.get_available_providers())
    if DIRECTML in providers:
        options.enable_mem_pattern = False  # DirectML refuses sessions with it
    return providers, options


class OneAtATime:
    """A session that several threads may call: DirectML runs one call of a session at a time.

    onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html, "Configuration options".
    """

    def __init__(self, session: Any):
        self._session, self._lock = session, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *args: Any, **options: Any) -> list:
        """As the session's own."""
        with self._lock:
            return self._session.run(*args, **options)


def safe_for_threads(session: Any) -> Any:
    """The session, or one around it that waits where its provider runs one call at a time."""
    return OneAtATime(session) if DIRECTML in session.get_providers() else session


def open_session(path: Path, data: bytes, device: str) -> Any:
    """A session of the file `path`, whose bytes are `data`, on CUDA or the CPU. Raises UserError.

    It runs nothing that a file names.
    """
    try:
        import onnxruntime
    except ImportError as error:
        how = "python -m pip install -r requirements/analysis.txt"
        raise UserError(f"{path} needs onnxruntime, which is not installed: {how}") from error
    providers, options = session_options(device if device in ("auto", "cuda") else "cpu")
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
