"""Relatives of LoRA in a file (LoHa, LoKr, DoRA, (IA)³, ...): its keys sorted, and what each module says of a weight.

Every module adds something to the weight W of a layer, here in closed form with plain torch. Sources: the LyCORIS paper
(Yeh et al., "Navigating Text-To-Image Customization", ICLR 2024, section 3) and its repository
(github.com/KohakuBlueleaf/LyCORIS, `lycoris/modules`), whose key names they are; the DoRA paper (Liu et al., 2024,
equation 5); for peft's names its documentation (huggingface.co/docs/peft, LoHa, LoKr, IA3, DoRA).

    LoRA    s · up · down                               also with a core t (Tucker) for convolutions
    LoHa    s · (w1_a · w1_b) ⊙ (w2_a · w2_b)           ⊙: element by element
    LoKr    s · w1 ⊗ w2                                 ⊗: Kronecker; each of both may be a product a · b
    (IA)³   W · vector                                  on the outputs, or with `on_input` on the inputs
    full    the difference itself, also of a bias or a norm
    DoRA    magnitude · (W + Δ) / |W + Δ| - W           Δ of any kind above; lengths by output, or by input

s is alpha / rank; 1 without an alpha, and for a LoKr of two whole matrices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

DOWN = (
    ".lora_down.weight",  # kohya's and ComfyUI's
    ".lora_A.weight",  # peft's, as diffusers and ai-toolkit write it
    ".lora_A.default.weight",
    "lora.down.weight",  # two older ones of diffusers
    "_linear_layer.down.weight",
)
UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", "lora.up.weight", "_linear_layer.up.weight")
ALPHA = (".alpha",)
PEFT_METADATA = "lora_adapter_metadata"  # in the header of files that diffusers wrote: alpha and rank by layer

LOHA = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
LOKR = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
ENDINGS = (  # of a key -> part of a module
    dict.fromkeys(DOWN, "down")
    | dict.fromkeys(UP, "up")
    | {".lora_mid.weight": "mid"}
    | {f".hada_{part}": f"hada_{part}" for part in LOHA}
    | {f".lokr_{part}": f"lokr_{part}" for part in LOKR}
    | {".on_input": "on_input", ".weight": "vector", ".ia3_l": "factor"}
    | {".diff": "weight", ".diff_b": "bias", ".w_norm": "weight", ".b_norm": "bias"}
    | {".alpha": "alpha", ".dora_scale": "magnitude"}
    | {".lora_magnitude_vector": "magnitude_out", ".lora_magnitude_vector.weight": "magnitude_out"}
)
LONGEST_FIRST = sorted(ENDINGS, key=len, reverse=True)
MAGNITUDES = ("magnitude", "magnitude_out")  # the second, peft's, always by output
PLAIN = {"down", "up", "alpha"}
TITLES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "ia3": "(IA)³", "full": "full difference"}
# What nothing here puts onto a pipeline; a mark in a key -> name
FOREIGN = {"oft_blocks": "OFT or BOFT", "oft_diag": "OFT", ".a1.weight": "GLoRA", "vera_lambda": "VeRA"}
TINY = 1e-12


@dataclass
class Module:
    """One layer's part of a file."""

    name: str
    keys: dict[str, str] = field(default_factory=dict)  # part -> key

    @property
    def kind(self) -> str | None:
        """None where a part is missing."""
        have = self.keys.keys()
        if {"down", "up"} <= have:
            return "lora"
        if {f"hada_{part}" for part in LOHA[:4]} <= have and ("hada_t1" in have) == ("hada_t2" in have):
            return "loha"
        if all(f"lokr_{w}" in have or {f"lokr_{w}_a", f"lokr_{w}_b"} <= have for w in ("w1", "w2")):
            return "lokr"
        if {"on_input", "vector"} <= have or "factor" in have:
            return "ia3"
        started = any(part.startswith(("hada_", "lokr_")) or part in ("down", "up", "mid") for part in have)
        return "full" if have & {"weight", "bias"} and not started else None

    @property
    def title(self) -> str:
        return "DoRA" if self.keys.keys() & set(MAGNITUDES) else TITLES[self.kind]


def sort_relatives(keys: Iterable[str]) -> tuple[list[Module], list[str]]:
    """(whole modules of a file, keys that belong to none)"""
    modules: dict[str, Module] = {}
    strangers, known = [], set(keys)
    for key in known:
        ending = next((ending for ending in LONGEST_FIRST if key.endswith(ending)), None)
        name = key.removesuffix(ending or "")
        if ending is None or (ending == ".weight" and f"{name}.on_input" not in known):
            strangers.append(key)
        else:
            modules.setdefault(name, Module(name)).keys[ENDINGS[ending]] = key
    whole = sorted((module for module in modules.values() if module.kind), key=lambda module: module.name)
    strangers += [key for module in modules.values() if not module.kind for key in module.keys.values()]
    return whole, sorted(strangers)


def is_plain(keys: Iterable[str]) -> bool:
    """Whether a file is a LoRA and nothing else, as far as its keys are known."""
    return all(module.keys.keys() <= PLAIN for module in sort_relatives(keys)[0])


def foreign_kind(keys: Iterable[str]) -> str | None:
    """The name of a kind that nothing here can load."""
    return next((kind for mark, kind in FOREIGN.items() if any(mark in key for key in keys)), None)


@dataclass
class Parts:
    """What a file says of one layer."""

    kind: str
    tensors: dict[str, Any]  # part -> torch.Tensor, as in the file
    scale: float = 1.0  # s above
    on_input: bool = False  # of an (IA)³


def parts_of(module: Module, tensors: dict[str, Any], metadata: dict[str, str]) -> Parts:
    """Its tensors; an (IA)³ of peft as LyCORIS writes it, whose vector is what is added to 1."""
    found = {part: tensors[key] for part, key in module.keys.items() if part not in ("alpha", "on_input")}
    on_input = "on_input" in module.keys and bool(tensors[module.keys["on_input"]])
    if "factor" in found:
        factor = found.pop("factor")  # (out, 1) or (1, in)
        found["vector"], on_input = factor - 1, factor.dim() > 1 and factor.shape[0] == 1
    alpha = float(tensors[module.keys["alpha"]]) if "alpha" in module.keys else None
    return Parts(module.kind, found, _scale(module, found, alpha, metadata), on_input)


def _scale(module: Module, tensors: dict[str, Any], alpha: float | None, metadata: dict[str, str]) -> float:
    """alpha / rank. LyCORIS takes an alpha of 0 for the rank, and so does this."""
    narrow = {"lora": ("down",), "loha": ("hada_w1_b",), "lokr": ("lokr_w2_b", "lokr_w1_b")}.get(module.kind, ())
    rank = next((tensors[part].shape[0] for part in narrow if part in tensors), None)
    if alpha is None and PEFT_METADATA in metadata and narrow:
        return _told_scale(module.name, json.loads(metadata[PEFT_METADATA]))
    return 1.0 if rank is None or not alpha else alpha / rank


def _told_scale(name: str, told: dict[str, Any]) -> float:
    """alpha / rank from the header of a file that diffusers wrote, where peft's configuration stands by component."""
    component, _, path = name.partition(".")

    def value(what: str, otherwise: Any) -> Any:
        pattern = told.get(f"{component}.{what}_pattern") or {}
        fits = (number for key, number in pattern.items() if path == key or path.endswith(f".{key.lstrip('^')}"))
        return next(fits, otherwise)

    rank = value("rank", told.get(f"{component}.r", 1))
    alpha = value("alpha", told.get(f"{component}.lora_alpha", told.get(f"{component}.alpha", rank)))
    return alpha / (math.sqrt(rank) if told.get(f"{component}.use_rslora") else rank)


def product(parts: Parts) -> Any:
    """What a LoRA, LoHa or LoKr adds to W: (out, in) or (out, in, height, width), in closed form."""
    import torch

    part = {name: tensor.float() for name, tensor in parts.tensors.items()}
    if parts.kind == "lora":
        if "mid" in part:
            return parts.scale * _tucker(part["mid"], part["up"].flatten(1).T, part["down"].flatten(1))
        return parts.scale * (part["up"].flatten(1) @ part["down"].flatten(1)).unflatten(1, part["down"].shape[1:])
    if parts.kind == "loha":
        if "hada_t1" in part:
            both = [_tucker(*(part[f"hada_{one}"] for one in (f"t{n}", f"w{n}_a", f"w{n}_b"))) for n in (1, 2)]
        else:
            both = [part[f"hada_w{n}_a"] @ part[f"hada_w{n}_b"] for n in (1, 2)]
        return parts.scale * both[0] * both[1]
    left = part["lokr_w1"] if "lokr_w1" in part else part["lokr_w1_a"] @ part["lokr_w1_b"]
    if "lokr_w2" in part:
        right = part["lokr_w2"]
    elif "lokr_t2" in part:
        right = _tucker(part["lokr_t2"], part["lokr_w2_a"], part["lokr_w2_b"])
    else:
        right = (part["lokr_w2_a"] @ part["lokr_w2_b"].flatten(1)).unflatten(1, part["lokr_w2_b"].shape[1:])
    return parts.scale * torch.kron(left.reshape(*left.shape, *[1] * (right.dim() - 2)), right)


def _tucker(core: Any, outward: Any, inward: Any) -> Any:
    """core (R, R, height, width), outward (R, out), inward (R, in) -> (out, in, height, width)"""
    import torch

    return torch.einsum("ij..., ip, jr -> pr...", core, outward, inward)


def rows_in_all(parts: Parts) -> int | None:
    """How many outputs the module has; None where only the layer tells."""
    if parts.kind in ("lora", "loha", "lokr"):
        on_meta = {name: tensor.to("meta") for name, tensor in parts.tensors.items()}
        return product(Parts(parts.kind, on_meta)).shape[0]
    if parts.kind == "full":
        return next(iter(parts.tensors.values())).shape[0]
    return None if parts.on_input else parts.tensors["vector"].numel()


def vector_like(parts: Parts, weight: Any) -> Any:
    """The vector of an (IA)³, so that it multiplies `weight` (out, in, ...)."""
    vector, beside = parts.tensors["vector"].float().flatten(), [1] * (weight.dim() - 2)
    return vector.reshape(1, -1, *beside) if parts.on_input else vector.reshape(-1, 1, *beside)


def magnitude_like(parts: Parts, weight: Any) -> tuple[Any, bool] | None:
    """(magnitude of a DoRA in the form of lengths of `weight`, whether by output); None for what is no DoRA."""
    name = next((name for name in MAGNITUDES if name in parts.tensors), None)
    if name is None:
        return None
    magnitude = parts.tensors[name].float()
    by_output = name == "magnitude_out" or magnitude.dim() < 2 or magnitude.shape[0] != 1 or weight.shape[0] == 1
    beside = [1] * (weight.dim() - 2)
    return magnitude.reshape(-1, 1, *beside) if by_output else magnitude.reshape(1, -1, *beside), by_output


def added(parts: Parts, weight: Any) -> Any | None:
    """What the file adds to `weight` (out, in, ...) of all outputs of the module; None where only a bias changes."""
    import torch

    weight = weight.float()
    if parts.kind == "full":
        change = parts.tensors["weight"].float().reshape(weight.shape) if "weight" in parts.tensors else None
    elif parts.kind == "ia3":
        change = weight * vector_like(parts, weight)
    else:
        change = product(parts).reshape(weight.shape)
    magnitude = magnitude_like(parts, weight)
    if magnitude is None or change is None:
        return change
    whole, along = weight + change, [1, *range(2, weight.dim())] if magnitude[1] else [0, *range(2, weight.dim())]
    return magnitude[0] * whole / torch.linalg.vector_norm(whole, dim=along, keepdim=True).clamp_min(TINY) - weight
