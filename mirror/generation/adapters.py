"""Relatives of LoRA on a pipeline: where each module of a file belongs, and what it adds to that layer's output.

diffusers 0.42 reads LoKr for Z-Image and Flux.2 alone, drops the `dora_scale` of a DoRA with no more than a warning,
and reads no LoHa and no (IA)³; `lycoris.create_lycoris_from_weights` knows layers by diffusers' own names alone, fails
for (IA)³, and merges with alpha / rank squared (lycoris-lora 4.1.3, `LohaModule.get_diff_weight`). So names are found
by diffusers' renaming of LoRA files, weights are made by LyCORIS' functions, and the layer's output gets its share by
a hook, as `LohaModule.forward` there does it: base weights stay as they are, and strength 0 is no LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from mirror.generation.effects import PROBE_SEED, Effects
from mirror.generation.kinds import LOKR, TINY, Parts, added, magnitude_like, rows_in_all, vector_like
from mirror.generation.pipelines import UNFIT, Loaded, networks, quiet

CHILD = "lora_relative"  # name of the adapter inside the layer that it belongs to: it moves to a device with it
# Names begin with what program wrote them, and name a part of the pipeline
OF_DENOISER = (
    "diffusion_model.",
    "model.diffusion_model.",
    "transformer.",
    "unet.",
    "base_model.model.",
    "",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)
OF_ENCODERS = {
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_", "lycoris_"),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
}
RANK, WIDTH, DIGIT = 5, 8, 256  # of stand-ins: a rank that divides into no 2, 3 or 4 parts


@dataclass
class Place:
    """A layer that a module of a file acts on, or some of whose rows do."""

    name: str
    layer: torch.nn.Module
    rows: torch.Tensor | None  # numbers of the module's outputs that are this layer's, in its order; None: all


class Adapter(torch.nn.Module):
    """What one module of a file adds to one layer."""

    def __init__(self, parts: Parts, place: Place) -> None:
        super().__init__()
        self.kind, self.scale, self.on_input = parts.kind, parts.scale, parts.on_input
        self.strength = 1.0
        self.has_run = False
        self.names = list(parts.tensors)
        for name, tensor in parts.tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("rows", place.rows, persistent=False)
        self.register_buffer("gain", None, persistent=False)  # of a DoRA by output: how much longer each output gets

    def parts(self) -> Parts:
        return Parts(self.kind, {name: getattr(self, name) for name in self.names}, self.scale, self.on_input)

    def added(self, weight: torch.Tensor) -> torch.Tensor | None:
        """What is added to the layer's weight at strength 1. float32; None where only a bias changes."""
        weight = weight.detach().float()
        change, magnitude = self._before_dora(weight), magnitude_like(self.parts(), weight)
        if magnitude is None or change is None:
            return change
        from lycoris.functional.general import weight_decompose

        lengths, by_output = magnitude
        lengths = self._mine(lengths) if by_output else lengths
        return weight_decompose(weight + change, lengths, 1, by_output, backend="torch") - weight

    def _before_dora(self, weight: torch.Tensor) -> torch.Tensor | None:
        parts = self.parts()
        if self.kind == "full":
            change = self._mine(parts.tensors["weight"].float()) if "weight" in parts.tensors else None
        elif self.kind == "ia3":
            vector = vector_like(parts, weight)
            change = weight * (vector if self.on_input else self._mine(vector))
        else:
            change = self._mine(by_lycoris(parts))
            if change.shape[0] != weight.shape[0]:
                raise RuntimeError(f"{change.shape[0]} outputs instead of {weight.shape[0]}")
        return change if change is None else change.reshape(weight.shape)

    def _mine(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of this layer."""
        return tensor if self.rows is None else tensor[self.rows]

    def measure(self, weight: torch.Tensor) -> None:
        """Find the gain of a DoRA by output: neither the weights nor the file change from now on."""
        magnitude = magnitude_like(self.parts(), weight)
        if magnitude is not None and magnitude[1]:
            whole = weight.detach().float() + self._before_dora(weight.detach().float())
            lengths = torch.linalg.vector_norm(whole.flatten(1), dim=1).clamp_min(TINY)
            self.gain = self._mine(magnitude[0]).flatten() / lengths

    def effect(self, layer: torch.nn.Module, source: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What is added at strength 1 to the `output` that the layer has for `source`.

        What only makes outputs longer needs no second product with the weights: (IA)³, and a DoRA by output, which is
        gain · (W + Δ) - W = (gain - 1) · W + gain · Δ.
        """
        if self.kind == "ia3" and not self.on_input:
            return on_channels(output, self._mine(self.vector.flatten())) * without_bias(layer, output)
        share = self._share(layer, source)
        if self.gain is None:
            return share
        return on_channels(output, self.gain - 1) * without_bias(layer, output) + on_channels(output, self.gain) * share

    def _share(self, layer: torch.nn.Module, source: torch.Tensor) -> torch.Tensor:
        """The input through the change alone; of a DoRA by output before its gain."""
        bias = self._mine(self.bias).to(source) if "bias" in self.names else None
        by_input = "magnitude" in self.names and self.gain is None
        if isinstance(layer, torch.nn.Linear) and self.rows is None and not by_input:
            share = by_steps(self.parts(), source)
            if share is not None:
                return share if bias is None else share + bias
        weight = layer.weight.detach().float()
        change = self.added(weight) if self.gain is None else self._before_dora(weight)
        return run_as(layer, source, change if change is None else change.to(source), bias)


def on_channels(output: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values by channel, so that they multiply an output (B, C, height, width) or (..., C)."""
    values = values.to(output)
    return values[:, None, None] if output.dim() == 4 else values


def without_bias(layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    return output if layer.bias is None else output - on_channels(output, layer.bias)


def by_steps(parts: Parts, source: torch.Tensor) -> torch.Tensor | None:
    """The input through the matrices of a LoRA or LoKr one by one, as LyCORIS does it; None for other kinds."""
    from lycoris.functional import locon, lokr

    part = {name: tensor.to(source) for name, tensor in parts.tensors.items()}
    if parts.kind == "lora" and "mid" not in part:
        down, up = part["down"].flatten(1), part["up"].flatten(1)
        return locon.bypass_forward_diff(source, None, down, up, None, gamma=parts.scale, backend="torch")
    if parts.kind == "lokr" and all(tensor.dim() == 2 for name, tensor in part.items() if name.startswith("lokr_")):
        return lokr.kron_bypass(
            source, *(part.get(f"lokr_{name}") for name in LOKR), scale=parts.scale, backend="torch"
        )
    return None


def by_lycoris(parts: Parts) -> torch.Tensor:
    """`kinds.product` as LyCORIS computes it. On the device without compiling anything."""
    from lycoris.functional import locon, loha, lokr

    part, scale = {name: tensor.float() for name, tensor in parts.tensors.items()}, parts.scale
    if parts.kind == "lora":
        return locon.diff_weight(part["down"], part["up"], part.get("mid"), gamma=scale, backend="torch")
    if parts.kind == "loha":
        names = ("w1_b", "w1_a", "w2_b", "w2_a", "t1", "t2")
        gamma = part["hada_w1_a"].new_tensor(scale)
        return loha.diff_weight(*(part.get(f"hada_{name}") for name in names), gamma=gamma, backend="torch")
    return lokr.kron_weight(*(part.get(f"lokr_{name}") for name in LOKR), scale=scale, backend="torch")


def run_as(
    layer: torch.nn.Module, source: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """The layer's operation with other weights. Raises NotImplementedError for a layer of another type."""
    weight = torch.zeros_like(layer.weight, dtype=source.dtype) if weight is None else weight
    if isinstance(layer, torch.nn.Linear):
        return functional.linear(source, weight, bias)
    if isinstance(layer, torch.nn.Conv2d):
        return functional.conv2d(source, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer, torch.nn.LayerNorm):
        return functional.layer_norm(source, layer.normalized_shape, weight, bias, layer.eps)
    if isinstance(layer, torch.nn.GroupNorm):
        return functional.group_norm(source, layer.num_groups, weight, bias, layer.eps)
    raise NotImplementedError(type(layer).__name__)


LAYERS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm, torch.nn.GroupNorm)


def fits(parts: Parts, places: list[Place]) -> bool:
    """Whether the shapes are those of the layers."""
    for place in places:
        weight = getattr(place.layer, "weight", None)
        if weight is None or not isinstance(place.layer, LAYERS):
            return False
        if "bias" in parts.tensors and place.layer.bias is None:
            return False
        adapter = Adapter(parts, place)
        try:  # on no device at all: shapes alone
            change = adapter.to("meta").added(weight.to("meta"))
        except (RuntimeError, IndexError):
            return False
        if change is not None and change.shape != weight.shape:
            return False
        magnitude = magnitude_like(parts, weight)
        if magnitude is not None and not magnitude[1] and place.rows is not None:
            return False  # lengths by input are those of all rows together
    return bool(places)


def attach(parts: Parts, place: Place) -> Adapter:
    """From now on the layer's output has the module's share, times the adapter's strength."""
    adapter = Adapter(parts, place).to(place.layer.weight.device)
    adapter.measure(place.layer.weight)
    number = sum(name.startswith(CHILD) for name, _ in place.layer.named_children())
    place.layer.add_module(f"{CHILD}_{number}", adapter)
    place.layer.register_forward_hook(partial(_add_share, adapter))
    return adapter


def _add_share(adapter: Adapter, layer: torch.nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor:
    adapter.has_run = True
    if adapter.strength == 0:
        return output
    return output + adapter.strength * adapter.effect(layer, arguments[0], output)


def adapters_on(pipeline: Any) -> Iterator[tuple[torch.nn.Module, Adapter]]:
    """(layer, adapter) of all relatives of LoRA on a pipeline."""
    for part in networks(pipeline).values():
        for layer in part.modules():
            for child in layer.children():
                if isinstance(child, Adapter):
                    yield layer, child


def find_places(loaded: Loaded, wanted: dict[str, Parts]) -> dict[str, list[Place]]:
    """Name of each module whose layers are found -> the layers, with shapes that fit."""
    layers = _layers_by_name(loaded)
    found = {name: [Place(*layers[name], None)] for name in wanted if name in layers}
    rest = {name: rows_in_all(parts) or DIGIT for name, parts in wanted.items() if name not in found}
    for spelled in (lambda name: name, _like_kohya):
        sought = {spelled(name): name for name in rest if name not in found}
        for name, targets in _renamed(loaded, {new: rest[old] for new, old in sought.items()}).items():
            if all(target in layers for target, _ in targets):
                old = sought[name]
                on_rows = rows_in_all(wanted[old]) is not None
                found[old] = [Place(*layers[target], rows if on_rows else None) for target, rows in targets]
    return {name: places for name, places in found.items() if fits(wanted[name], _whole(places))}


def _like_kohya(name: str) -> str:
    """The original's dotted names as kohya writes them."""
    prefix = next((prefix for prefix in OF_DENOISER if prefix.endswith(".") and name.startswith(prefix)), "")
    return "lora_unet_" + name.removeprefix(prefix).replace(".", "_")


def _whole(places: list[Place]) -> list[Place]:
    """Rows are left out where one layer has all of them in their order."""
    if len(places) == 1 and places[0].rows is not None:
        rows = places[0].rows
        if torch.equal(rows, torch.arange(len(rows))) and len(rows) == places[0].layer.weight.shape[0]:
            places[0].rows = None
    return places


def _layers_by_name(loaded: Loaded) -> dict[str, tuple[str, torch.nn.Module]]:
    """Every name that a layer may have in a file -> (its name in the pipeline, the layer)."""
    found = {}
    for component, prefixes in {loaded.family.denoiser: OF_DENOISER, **OF_ENCODERS}.items():
        network = getattr(loaded.pipeline, component, None)
        if not isinstance(network, torch.nn.Module):
            continue
        for path, layer in network.named_modules():
            if getattr(layer, "weight", None) is None:
                continue
            # transformers 5 dropped an outer name of CLIP that files have
            paths = {path} if component == loaded.family.denoiser else {path, f"text_model.{path}"}
            for prefix in prefixes:
                for one in paths:
                    spelled = one.replace(".", "_") if prefix.endswith("_") else one
                    found.setdefault(prefix + spelled, (f"{component}.{path}", layer))
    return found


def _renamed(loaded: Loaded, rows_of: dict[str, int]) -> dict[str, list[tuple[str, torch.Tensor]]]:
    """Module of a file -> [(layer's name, its rows of the module's outputs)], as diffusers renames a LoRA of that name.

    Where one name is unknown to it, diffusers may refuse all; then each is asked for alone.
    """
    if not rows_of:
        return {}
    try:
        return _ask_diffusers(loaded.pipeline, rows_of)
    except UNFIT:
        pass
    found = {}
    for name, rows in rows_of.items():
        try:
            found |= _ask_diffusers(loaded.pipeline, {name: rows})
        except UNFIT:
            continue
    return found


def _ask_diffusers(pipeline: Any, rows_of: dict[str, int]) -> dict[str, list[tuple[str, torch.Tensor]]]:
    """Let stand-in LoRAs be renamed: `down` holds the number of the module, `up` in each row the row's own number."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    stand_ins, names = {}, list(rows_of)
    for number, name in enumerate(names):
        down, up = ("lora_A", "lora_B") if "." in name else ("lora_down", "lora_up")
        stand_ins[f"{name}.{down}.weight"] = torch.full((RANK, WIDTH), float(number))
        row = torch.arange(rows_of[name])
        columns = [row // DIGIT, row % DIGIT, *[torch.ones_like(row)] * (RANK - 2)]
        stand_ins[f"{name}.{up}.weight"] = torch.stack(columns, dim=1).float()
    unet = getattr(pipeline, "unet", None)
    with quiet():
        renamed = pipeline.lora_state_dict(stand_ins, **({} if unet is None else {"unet_config": unet.config}))
    renamed = renamed[0] if isinstance(renamed, tuple) else renamed
    renamed = convert_unet_state_dict_to_peft(renamed) if unet is not None else renamed
    found: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for key, down in renamed.items():
        if key.endswith(".lora_A.weight"):
            up = renamed[key.replace(".lora_A.", ".lora_B.")]
            rows = (up[:, 0] * DIGIT + up[:, 1]).long()
            found.setdefault(names[int(down[0, 0])], []).append((key.removesuffix(".lora_A.weight"), rows))
    return found


def effect_of(parts: Parts, places: list[Place], adapters: list[Adapter]) -> Effects:
    """Compare what the adapters make of one random input with what the closed form makes of it.

    Values so small that the layers' dtype has only steps between them lose up to half a step each.
    """
    expected, found, lost, apart = [], [], 0.0, []
    for place, adapter, change in zip(places, adapters, _changes(parts, places), strict=True):
        weight = place.layer.weight
        source = _random_input(place.layer).to(weight.device, weight.dtype)
        mine = slice(None) if place.rows is None else place.rows
        bias = parts.tensors["bias"].to(weight.device).float()[mine] if "bias" in parts.tensors else None
        with torch.inference_mode():
            should = run_as(place.layer, source.float(), change, bias)
            does = adapter.effect(place.layer, source, place.layer.forward(source)).float()
        expected.append(float(should.norm()))
        found.append(float(does.norm()))
        apart.append(float((does - should).norm()))
        limits = torch.finfo(weight.dtype)
        lost += limits.smallest_normal * limits.eps * math.sqrt(weight.numel()) * (float(source.norm()) + 1)
    return Effects(math.hypot(*expected), math.hypot(*found), lost, math.hypot(*apart))


def _changes(parts: Parts, places: list[Place]) -> list[torch.Tensor | None]:
    """What the file says that each layer's weight gets, float32."""
    weights = [place.layer.weight.detach().float() for place in places]
    if places[0].rows is None:
        return [added(parts, weight) for weight in weights]
    whole = weights[0].new_zeros(sum(len(weight) for weight in weights), *weights[0].shape[1:])
    for place, weight in zip(places, weights, strict=True):
        whole[place.rows] = weight
    change = added(parts, whole)
    return [None if change is None else change[place.rows] for place in places]


def _random_input(layer: torch.nn.Module) -> torch.Tensor:
    """One random input of a layer, float32: (1, in), or for what works on pictures (1, in, 8, 8)."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    if isinstance(layer, torch.nn.Conv2d):
        return torch.randn(1, layer.in_channels, 8, 8, generator=generator)
    beside = (8, 8) if isinstance(layer, torch.nn.GroupNorm) else ()
    return torch.randn(1, layer.weight.shape[-1], *beside, generator=generator)
