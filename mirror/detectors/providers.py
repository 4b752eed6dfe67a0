"""Which of onnxruntime's execution providers a session is asked to use. What it really uses, the session says."""


def wanted_providers(device: str, available: list[str]) -> list[str]:
    """Execution providers for `device` (auto, cpu or cuda), best first."""
    cuda = "CUDAExecutionProvider"
    wants_cuda = device in ("auto", "cuda") and cuda in available
    return [cuda, "CPUExecutionProvider"] if wants_cuda else ["CPUExecutionProvider"]
