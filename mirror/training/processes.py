"""One process or many: accelerate's start, what one process does for all, and stopping at the same step.

`accelerate launch` starts a script several times; each process trains its share, and the main one reads and writes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mirror.generation.devices import choose_device
from utils.console import EXIT_USER, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

AUTO, FP32, BF16, FP16 = "auto", "fp32", "bf16", "fp16"
PRECISIONS = {FP32: "float32", BF16: "bfloat16", FP16: "float16"}  # accelerate's words (its "no" is fp32) and PyTorch's
_SAME_REQUEST_S = 2.0  # a launcher may pass on the Ctrl-C that its children got already

Result = TypeVar("Result")


def start_accelerator(device: str, precision: str) -> Accelerator:
    """Accelerate on `device` (auto, cpu, cuda) in `precision` (auto or a key of PRECISIONS). Raises UserError."""
    import torch
    from accelerate import Accelerator

    on_cpu = choose_device(device) == "cpu"
    if precision == AUTO:
        precision = FP32 if on_cpu else BF16 if torch.cuda.is_bf16_supported() else FP16
    if on_cpu and precision == FP16:
        raise UserError("--precision fp16 needs a GPU; on the CPU there are fp32 and bf16.")
    return Accelerator(mixed_precision="no" if precision == FP32 else precision, cpu=on_cpu)


def in_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Let the main process alone do `work`; all of them get its result. A UserError ends them all, and is said once."""
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = work()
        except UserError as error:
            answer[1] = error.lines
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        if accelerator.is_main_process:
            raise UserError(*answer[1])
        raise SystemExit(EXIT_USER)
    return answer[0]


class StopRequests:
    """While it is entered, the first Ctrl-C (or request to end) only sets `asked`; a second one interrupts at once.

    Of several processes one `talks`: it says at once that it has heard.
    """

    def __init__(self, talks: bool = True) -> None:
        self.asked = False
        self._talks = talks
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self.asked and time.monotonic() - self._when > _SAME_REQUEST_S:
            raise KeyboardInterrupt
        if self._talks and not self.asked:  # straight to stderr: a print may be what was interrupted
            os.write(2, b"\nStopping after this step. Ctrl-C once more stops at once, and saves nothing.\n")
        self.asked, self._when = True, time.monotonic()

    def anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked: all must stop at the same step."""
        if accelerator.num_processes == 1:
            return self.asked
        import torch

        count = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(count, "sum").item())


@contextmanager
def progress_in_main(accelerator: Accelerator, unit: str = "done") -> Iterator[tuple[Callable, Callable]]:
    """(add, step) of a progress display in the main process, and of nothing in the others."""
    from utils.progress import GroupProgress

    if not accelerator.is_main_process:
        yield (lambda name, total: None), (lambda task: None)
        return
    with GroupProgress(unit) as progress:
        yield progress.add, progress.step
