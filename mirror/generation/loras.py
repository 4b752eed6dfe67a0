"""LoRA files: load one into a pipeline, and prove that it acts.

diffusers reads the formats (its own, kohya's, ai-toolkit's) and renames their keys, but it may load none of them with
no more than a warning. So each module of the file is followed into the pipeline: a copy of the file in which every
module holds a number of its own is loaded first, and what arrives in the adapters tells which keys were matched. Then
the file itself is loaded, and each layer's effect is compared with up x down x alpha / rank of the file.

Relatives of LoRA (`mirror.generation.kinds`) go another way onto the pipeline, `mirror.generation.adapters`, and are
proved in the same manner.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirror.generation.a1111 import lora_hash
from mirror.generation.effects import PROBE_SEED, Effects
from mirror.generation.families import read_header
from mirror.generation.kinds import ALPHA, DOWN, PEFT_METADATA, UP, foreign_kind, is_plain, parts_of, sort_relatives
from mirror.generation.pipelines import (
    UNFIT,
    Loaded,
    SamplingParameters,
    call_arguments,
    file_hash,
    first_clause,
    networks,
    quiet,
)
from utils.console import UserError

ADAPTER, TRACER = "lora", "tracer"
NEEDED_SHARE = 0.9  # of the file's keys that must be matched: below that it was made for something else (our choice)
SHOWN_KEYS = 5
PROBE_SIDE = 256  # pixels, at most: whether the output differs does not depend on the size
HARDLY = 1e-3  # of the output: a LoRA that changes less is taken, with a warning (our choice)
KEPT_SHARE = 0.5  # of the effect of all layers together that rounding to the base's dtype must leave (our choice)


@dataclass
class Module:
    """One layer's part of a LoRA file."""

    name: str
    down: str | None = None  # keys
    up: str | None = None
    alpha: str | None = None

    @property
    def keys(self) -> list[str]:
        return [key for key in (self.down, self.up, self.alpha) if key]

    @property
    def is_whole(self) -> bool:
        return self.down is not None and self.up is not None


@dataclass
class LoraFacts:
    """A LoRA that was loaded and proved to act."""

    path: Path
    identity: str  # name@hash
    a1111_hash: str  # under which the A1111 web UI knows it
    keys: int
    unmatched: list[str]
    scale: float
    difference: float  # of the denoiser's output with and without it, relative to its size
    kind: str = "LoRA"


def sort_keys(keys: list[str]) -> tuple[list[Module], list[str]]:
    """(modules of a file, keys that belong to no LoRA module)"""
    modules: dict[str, Module] = {}
    strangers = []
    for key in keys:
        for kind, endings in (("down", DOWN), ("up", UP), ("alpha", ALPHA)):
            ending = next((ending for ending in endings if key.endswith(ending)), None)
            if ending:
                name = key.removesuffix(ending)
                setattr(modules.setdefault(name, Module(name)), kind, key)
                break
        else:
            strangers.append(key)
    whole = [module for module in modules.values() if module.is_whole]
    strangers += [key for module in modules.values() if not module.is_whole for key in module.keys]
    return whole, strangers


def label(number: int) -> float:
    """A value for module `number` that every dtype keeps exactly: 7 bits of fraction, as bfloat16 has.

    In float16's range: 128 to 255 times a power of two from 2**-13 to 2**8, so 2816 of them.
    """
    exponent, fraction = divmod(number, 128)
    if exponent > 21:
        raise ValueError(f"no label for module {number}")
    return (128 + fraction) * 2.0 ** (exponent - 13)


def number_of(value: float) -> int | None:
    """The inverse of `label`; None for another value."""
    if not value > 0 or math.isinf(value):
        return None
    fraction, exponent = math.frexp(value)  # 0.5 <= fraction < 1
    number = (exponent - 8 + 13) * 128 + round(fraction * 256) - 128
    return number if 0 <= number < 22 * 128 and label(number) == value else None


def labelled(tensors: dict[str, Any], modules: list[Module]) -> dict[str, Any]:
    """`tensors` with every module's matrices filled with its label, and alpha equal to the rank: nothing is scaled."""
    import torch

    copies = dict(tensors)
    for number, module in enumerate(modules):
        down, up = tensors[module.down], tensors[module.up]
        copies[module.down] = torch.full_like(down, label(number), dtype=torch.float32)
        copies[module.up] = torch.full_like(up, label(number), dtype=torch.float32)
        if module.alpha:
            copies[module.alpha] = torch.tensor(float(down.shape[0]))
    return copies


@dataclass
class Layer:
    """A layer of the pipeline that has an adapter."""

    name: str
    down: Any  # torch.Tensor (rank, in, ...)
    up: Any  # (out, rank, ...)
    scaling: float


def adapted_layers(pipeline: Any, adapter: str) -> list[Layer]:
    """All layers of a pipeline that have this adapter, with what they multiply."""
    return [
        Layer(
            name, layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach(), layer.scaling[adapter]
        )
        for name, layer in tuner_layers(pipeline, adapter)
    ]


def tuner_layers(pipeline: Any, adapter: str) -> Iterator[tuple[str, Any]]:
    """(name, peft's layer) of all layers of a pipeline that have this adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part_name, part in networks(pipeline).items():
        for name, layer in part.named_modules():
            if isinstance(layer, BaseTunerLayer) and adapter in getattr(layer, "lora_A", {}):
                yield f"{part_name}.{name}", layer


def trace(pipeline: Any, tensors: dict[str, Any], modules: list[Module]) -> dict[int, list[str]]:
    """Number of each module of the file that arrives in the pipeline -> names of the layers that it arrives in."""
    arrived: dict[int, list[str]] = defaultdict(list)
    try:
        with quiet():
            pipeline.load_lora_weights(labelled(tensors, modules), adapter_name=TRACER)
        for layer in adapted_layers(pipeline, TRACER):
            for number in numbers_in(layer.down) & numbers_in(layer.up):
                arrived[number].append(layer.name)
    except UNFIT:  # keys that cannot be renamed, or that fit no layer
        arrived.clear()
    finally:
        with quiet():
            pipeline.unload_lora_weights()
    return dict(arrived)


def numbers_in(matrix: Any) -> set[int]:
    """The modules whose labels a matrix holds; several where diffusers joined them."""
    import torch

    first = matrix.reshape(-1)[:1]
    values = first if bool((matrix == first).all()) else torch.unique(matrix)
    return {number_of(value) for value in values.float().tolist()} - {None}


def load_lora(loaded: Loaded, path: Path, scale: float) -> LoraFacts:
    """Load a LoRA file and prove that its weights are in the pipeline. Call it before any offload is switched on.

    Raises UserError where less than `NEEDED_SHARE` of its keys fit, or where a layer does not do what the file says.
    """
    tensors = read_lora(path)
    _refuse_nan(path, tensors)
    _refuse_foreign(path, tensors)
    if not is_plain(tensors):
        return _load_relatives(loaded, path, tensors, scale)
    modules, strangers = sort_keys(list(tensors))
    arrived = trace(loaded.pipeline, tensors, modules) if modules else {}
    unmatched = strangers + [key for i, module in enumerate(modules) if i not in arrived for key in module.keys]
    _demand_keys(loaded, path, len(tensors), unmatched)
    _load_file(loaded.pipeline, path, {key: tensor for key, tensor in tensors.items() if key not in set(unmatched)})
    set_scale(loaded, 1.0)
    _demand_effect(loaded.pipeline, path, tensors, modules, arrived)
    _convert_like_base(loaded.pipeline)
    set_scale(loaded, scale)
    return LoraFacts(path, lora_identity(path), lora_hash(path), len(tensors), sorted(unmatched), scale, 0.0)


def _load_relatives(loaded: Loaded, path: Path, tensors: dict[str, Any], scale: float) -> LoraFacts:
    """`load_lora` for LoHa, LoKr, DoRA, (IA)³ and differences. Raises UserError."""
    from mirror.generation.adapters import attach, effect_of, find_places

    modules, unmatched = sort_relatives(tensors)
    metadata = read_header(path).get("__metadata__", {})
    parts = {module.name: parts_of(module, tensors, metadata) for module in modules}
    with quiet():
        places = find_places(loaded, parts)
    unmatched += [key for module in modules if module.name not in places for key in module.keys.values()]
    _demand_keys(loaded, path, len(tensors), unmatched)
    effects = {}
    for name, own in places.items():
        adapters = [attach(parts[name], place) for place in own]
        effects[name] = effect_of(parts[name], own, adapters)
    _demand_same(path, effects, next(iter(places.values()))[0].layer.weight.dtype)
    set_scale(loaded, scale)
    kind = ", ".join(sorted({module.title for module in modules if module.name in places}))
    return LoraFacts(path, lora_identity(path), lora_hash(path), len(tensors), sorted(unmatched), scale, 0.0, kind)


def _demand_keys(loaded: Loaded, path: Path, keys: int, unmatched: list[str]) -> None:
    """Raises UserError where less than `NEEDED_SHARE` of the keys fit the model."""
    if keys - len(unmatched) < NEEDED_SHARE * keys:
        first = ", ".join(sorted(unmatched)[:SHOWN_KEYS]) + (" ..." if len(unmatched) > SHOWN_KEYS else "")
        raise UserError(
            f"{path}: {keys - len(unmatched)} of {keys} keys matched: was it trained for another base model? This is "
            f"{loaded.name} ({loaded.family.title}). Not matched: {first}"
        )


def lora_identity(path: Path) -> str:
    """name@hash"""
    return f"{path.stem}@{file_hash(path)[:12]}"


def read_lora(path: Path) -> dict[str, Any]:
    """Key -> tensor. Raises UserError."""
    if not path.is_file():
        raise UserError(f"--lora {path} is not there; it takes a .safetensors file.")
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"--lora {path} is no .safetensors file. Other formats can run code when they are loaded.")
    read_header(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--lora {path} cannot be read: {error}. Fetch it again.") from error
    if not tensors:
        raise UserError(f"--lora {path} is empty.")
    return tensors


def _refuse_nan(path: Path, tensors: dict[str, Any]) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(f"{path} holds values that are not numbers: its training diverged; take an earlier checkpoint.")


def _refuse_foreign(path: Path, tensors: dict[str, Any]) -> None:
    """Kinds that would load in part, or not at all."""
    kind = foreign_kind(tensors)
    if kind:
        raise UserError(f"{path} is of the kind {kind}, which cannot be loaded here; train or export it as LoRA.")


def _load_file(pipeline: Any, path: Path, fitting: dict[str, Any]) -> None:
    """From a file, not from the tensors alone: alpha and rank can stand in its header. Raises UserError.

    A copy holds only what fits, and has the suffix in small letters, which are all that diffusers knows.
    """
    import tempfile

    from safetensors.torch import save_file

    header = read_header(path)
    try:
        with tempfile.TemporaryDirectory() as scratch, quiet():
            source = path
            if len(fitting) < len(header.keys() - {"__metadata__"}) or path.suffix != ".safetensors":
                source = Path(scratch) / f"{path.stem}.safetensors"
                save_file(fitting, source, header.get("__metadata__"))
            pipeline.load_lora_weights(str(source.parent), weight_name=source.name, adapter_name=ADAPTER)
    except UNFIT as error:
        raise UserError(f"{path} cannot be loaded: {first_clause(error)}.") from error


def _convert_like_base(pipeline: Any) -> None:
    """Adapters in the dtype of the layer that they belong to: otherwise every layer would convert back and forth."""
    for _, layer in tuner_layers(pipeline, ADAPTER):
        for matrix in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            matrix.to(layer.get_base_layer().weight.dtype)


def set_scale(loaded: Loaded, scale: float) -> None:
    """The strength of the LoRA in all networks that it is in."""
    from mirror.generation.adapters import adapters_on

    relatives = [adapter for _, adapter in adapters_on(loaded.pipeline)]
    for adapter in relatives:
        adapter.strength = scale
    if relatives:
        return
    with quiet():
        loaded.pipeline.set_adapters(ADAPTER, scale)


def _demand_effect(
    pipeline: Any, path: Path, tensors: dict[str, Any], modules: list[Module], arrived: dict[int, list[str]]
) -> None:
    """Each layer must do what the file says: up x down x alpha / rank. Raises UserError."""
    layers = {layer.name: layer for layer in adapted_layers(pipeline, ADAPTER)}
    told_elsewhere = PEFT_METADATA in read_header(path).get("__metadata__", {})
    effects: dict[str, Effects | None] = {}
    for number, names in arrived.items():
        module, effect = modules[number], None
        if all(name in layers for name in names):
            effect = _effects(tensors, module, [layers[name] for name in names], told_elsewhere)
        effects[module.name] = effect
    _demand_same(path, effects, next(iter(layers.values())).down.dtype)


def _demand_same(path: Path, effects: dict[str, Effects | None], dtype: object) -> None:
    """Raises UserError where a layer does not act as the file says (None: not at all), or all are rounded away."""
    wrong = [name for name, effect in effects.items() if effect is None or not effect.is_same]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} of {len(effects)} layers do not act as the file says (the first is {wrong[0]}); "
            "this version of diffusers does not load it correctly."
        )
    expected, found = (math.hypot(*(getattr(one, what) for one in effects.values())) for what in ("expected", "found"))
    if found < KEPT_SHARE * expected:
        raise _too_weak(path, dtype)


def _too_weak(path: Path, dtype: object) -> UserError:
    name = str(dtype).removeprefix("torch.")
    return UserError(f"{path}: its weights are too small for {name}; use --dtype float32.")


def _effects(tensors: dict[str, Any], module: Module, layers: list[Layer], told_elsewhere: bool) -> Effects:
    """Compare what `layers` together make of one random input with what the file's matrices make of it.

    A module of a file can hold several layers side by side (query, key, value): their outputs are parts of its output.
    Layers that several modules share are bigger than each of them, and are not judged here. Without an alpha the scale
    is 1, or, `told_elsewhere`, in the file's header, which peft reads. Values so small that the layers' dtype has only
    steps between them (in float16: below 6e-5) lose up to half a step each.
    """
    import torch

    down, up = (tensors[key].float().flatten(1) for key in (module.down, module.up))
    if sum(layer.up.shape[0] for layer in layers) != up.shape[0] or (told_elsewhere and not module.alpha):
        return Effects(0.0, 0.0, 0.0)
    scale = float(tensors[module.alpha]) / down.shape[0] if module.alpha else 1.0
    source = torch.randn(down.shape[1], generator=torch.Generator().manual_seed(PROBE_SEED))
    expected = abs(scale) * float((up @ (down @ source)).norm())
    found = math.hypot(*(float(_effect(layer, source).norm()) for layer in layers))
    step = torch.finfo(layers[0].down.dtype).smallest_normal * torch.finfo(layers[0].down.dtype).eps
    lost = float(up.norm()) * math.sqrt(down.numel()) + float(down.norm()) * math.sqrt(up.numel())
    return Effects(expected, found, step * max(1.0, abs(scale)) * lost * float(source.norm()))


def _effect(layer: Layer, source: Any) -> Any:
    down, up = (matrix.float().flatten(1).cpu() for matrix in (layer.down, layer.up))
    return layer.scaling * (up @ (down @ source))


class _SeenError(Exception):
    """Thrown out of a pipeline once its denoiser has worked for the first time."""


def demand_difference(loaded: Loaded, lora: LoraFacts, prompt: str, sampling: SamplingParameters) -> None:
    """Hold the denoiser's first output at scale 0 against that at the chosen scale. Raises UserError for no change."""
    without, with_it = (_first_output(loaded, scale, prompt, sampling) for scale in (0.0, lora.scale))
    set_scale(loaded, lora.scale)
    lora.difference = float((with_it - without).norm() / without.norm().clamp_min(1e-12))
    if not lora.difference > 0:
        if loaded.dtype != "float32" and _holds_something(loaded):
            raise _too_weak(lora.path, loaded.dtype)
        raise UserError(
            f"{lora.path} changes nothing: at scale {lora.scale:g} the model's output is the same as without it. "
            "Are all its weights 0?"
        )
    _demand_use(loaded, lora.path)


def _holds_something(loaded: Loaded) -> bool:
    """Whether a layer's change is not 0."""
    from mirror.generation.adapters import adapters_on

    if any(bool(layer.up.any() and layer.down.any()) for layer in adapted_layers(loaded.pipeline, ADAPTER)):
        return True
    changes = (adapter.added(layer.weight) for layer, adapter in adapters_on(loaded.pipeline))
    return any(change is not None and bool(change.any()) for change in changes)


def _demand_use(loaded: Loaded, path: Path) -> None:
    """A relative acts only through layers that are called. Raises UserError."""
    from mirror.generation.adapters import adapters_on

    used = [adapter.has_run for _, adapter in adapters_on(loaded.pipeline)]
    if sum(used) < NEEDED_SHARE * len(used):
        raise UserError(
            f"{path}: only {sum(used)} of its {len(used)} layers are at work in {loaded.name}; this version of "
            "diffusers cannot use it."
        )


def _first_output(loaded: Loaded, scale: float, prompt: str, sampling: SamplingParameters) -> Any:
    """Output of the denoiser's first call, at a fixed seed. (B, C, H, W) or (B, N, C) float32 on the CPU"""
    import torch

    seen = []

    def catch(module: Any, arguments: Any, output: Any) -> None:
        while not isinstance(output, torch.Tensor):
            output = output[0]
        seen.append(output.float().cpu())
        raise _SeenError

    set_scale(loaded, scale)
    hook = loaded.denoiser.register_forward_hook(catch)
    try:
        small = replace(sampling, width=min(sampling.width, PROBE_SIDE), height=min(sampling.height, PROBE_SIDE))
        arguments = call_arguments(loaded, [prompt], None, small)
        generator = torch.Generator("cpu").manual_seed(PROBE_SEED)
        with quiet(), torch.inference_mode():
            loaded.pipeline(**arguments, generator=generator)
    except _SeenError:
        pass
    finally:
        hook.remove()
        with quiet():
            loaded.pipeline.maybe_free_model_hooks()
    return seen[0]
