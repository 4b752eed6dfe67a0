"""What one module of a LoRA file does: by the file, and by the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

PROBE_SEED = 0
SAME_TO = 0.02  # relative difference of a layer's effect to the file's, where weights may be rounded to bfloat16


@dataclass
class Effects:
    """Lengths of what one module makes of a random input: by the file, by the pipeline, and what rounding may lose."""

    expected: float
    found: float
    rounding: float
    distance: float | None = None  # between both; None: that of their lengths

    @property
    def is_same(self) -> bool:
        distance = abs(self.found - self.expected) if self.distance is None else self.distance
        return distance <= SAME_TO * self.expected + self.rounding
