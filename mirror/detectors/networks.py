"""Networks of the families that are known here: found in a checkpoint, described as plain data, built again.

The description and the tensors are all that is taken from a file, be it a checkpoint or the .safetensors made of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from mirror.detectors import ultralytics_yolo
from mirror.detectors.checkpoints import UnfitError, import_torch


@dataclass
class Network:
    """A network as data."""

    family: str
    architecture: dict  # plain values, fit for JSON
    tensors: dict[str, Any] = field(default_factory=dict)  # name -> torch.Tensor, as in a state_dict

    def build(self) -> Any:
        """The torch module with its weights, float32, for inference, on the CPU. Raises UnfitError, UserError."""
        family = _families().get(self.family)
        if family is None:
            raise UnfitError(f"its network is of the family {self.family}, which is not known here")
        module = family.build(self.architecture)
        try:
            module.load_state_dict(self.tensors)
        except RuntimeError as error:  # torch lists every tensor that does not fit, a line each
            raise UnfitError("its weights do not fit its own description") from error
        return module.float().eval()


def find_network(checkpoint: object) -> Network | None:
    """The network in the content of a checkpoint, None where there is none. Raises UnfitError for one of no use."""
    for name, family in _families().items():
        model = family.find_model(checkpoint)
        if model is not None:
            return Network(name, family.describe(model), model.tensors())
    return None


def _families() -> dict[str, ModuleType]:
    import_torch()
    from mirror.detectors import yolov5_face

    return {family.FAMILY: family for family in (yolov5_face, ultralytics_yolo)}
