"""Progress bars with speed and remaining time, one for each group."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from utils.console import printable, talk


class _Rate(ProgressColumn):
    """Steps per second since the task's first step, and the time that the rest will take at that pace."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time or task.elapsed or 0.0
        if not task.completed or elapsed <= 0:
            return Text("  --.- /s  --:-- left", style="dim")
        speed = task.completed / elapsed
        left = max(0.0, (task.total or 0) - task.completed) / speed
        clock = "done" if task.finished else f"{int(left) // 60:02d}:{int(left) % 60:02d} left"
        return Text(f"{speed:6.1f} /s  {clock}")


class GroupProgress:
    """One progress bar a group on a terminal; one line a finished group elsewhere, unless `only_live`. Use as a context
    manager.

    `bars` are rich's, `live` tells whether they are shown.
    """

    def __init__(self, unit: str = "images", only_live: bool = False):
        self._unit, self._only_live = unit, only_live
        self._console = talk()
        self.live = self._console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            console=self._console,
            disable=not self.live,
        )
        self._last_step = time.monotonic()
        self._started: dict[TaskID, float] = {}

    def __enter__(self) -> GroupProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def add(self, name: str, total: int) -> TaskID:
        """A new bar, shown from its first step on."""
        return self.bars.add_task(printable(name), total=total, start=False, visible=False)

    def step(self, task: TaskID) -> None:
        """One more done."""
        if task not in self._started:
            self._started[task] = self._last_step  # the first picture took its time too
            self.bars.start_task(task)
            self.bars.tasks[task].start_time = self._last_step
            self.bars.update(task, visible=True)
        self._last_step = time.monotonic()
        self.bars.advance(task)
        state = self.bars.tasks[task]
        if state.finished and not self.live and not self._only_live:
            seconds = max(time.monotonic() - self._started[task], 1e-3)
            self.print(f"{state.description}: {state.completed:.0f} {self._unit}, {seconds:.1f} s")

    def print(self, message: str) -> None:
        """A line above the bars."""
        self.bars.console.print(printable(message), soft_wrap=True)


class ImageProgress:
    """Bars over images and over the steps of the image in work; off a terminal one line an image."""

    def __init__(self, images: int, steps: int):
        self._groups = GroupProgress()
        self._images, self._steps = images, steps
        self._done, self._last = 0, time.monotonic()
        bars = self._groups.bars
        self._image_bar = bars.add_task("Images", total=images)
        self._step_bar = bars.add_task("Steps of this one", total=steps)

    def __enter__(self) -> ImageProgress:
        self._groups.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._groups.__exit__()

    def begin(self) -> None:
        """The next image, or the next images at once."""
        self._groups.bars.reset(self._step_bar, total=self._steps)

    def step(self) -> None:
        """One more denoising step."""
        self._groups.bars.advance(self._step_bar)

    def done(self, what: str) -> None:
        """One more image, with what became of it."""
        self._done += 1
        self._groups.bars.advance(self._image_bar)
        seconds, self._last = time.monotonic() - self._last, time.monotonic()
        if not self._groups.live:
            self.print(f"{self._done} of {self._images}: {what}, {seconds:.1f} s")

    def print(self, message: str) -> None:
        """A line above the bars."""
        self._groups.print(message)
