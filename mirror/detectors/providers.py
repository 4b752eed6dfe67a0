"""Which of onnxruntime's execution providers a session is asked to use, and which onnxruntime is installed.

What a session really uses, it says itself.
"""

from importlib.metadata import PackageNotFoundError, version


def wanted_providers(device: str, available: list[str]) -> list[str]:
    """Execution providers for `device` (auto, cpu or cuda), best first."""
    cuda = "CUDAExecutionProvider"
    wants_cuda = device in ("auto", "cuda") and cuda in available
    return [cuda, "CPUExecutionProvider"] if wants_cuda else ["CPUExecutionProvider"]


def onnxruntime_version() -> str:
    """Of the distribution that holds the code: with a GPU, `onnxruntime` is only a marker (see requirements/)."""
    for name in ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime"):
        try:
            return f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    return "unknown"
