"""Text-to-image pipelines of diffusers: load one (a folder, a hub id or a single file), move it to a device, generate.

What differs between families stands in `mirror.generation.families`; which arguments a pipeline takes is asked of its
signature.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirror.generation.devices import default_dtype
from mirror.generation.families import (
    Family,
    family_of_class,
    find_family,
    read_header,
    variant_of_folder,
    with_variant,
)
from utils.console import UserError
from utils.known_hashes import file_hash

GIB = 1 << 30
LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "huggingface_hub", "LyCORIS")
# What these raise for files that are damaged, incomplete, or of another model.
UNFIT = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    NotImplementedError,
)


@dataclass
class Loaded:
    """A pipeline that is ready to be placed on a device."""

    pipeline: Any  # diffusers.DiffusionPipeline
    family: Family  # with the defaults of the variant that was found
    identity: str  # name@hash
    name: str
    device: str = "cpu"
    low_vram: bool = False

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipeline, self.family.denoiser)

    @property
    def dtype(self) -> str:
        """What the denoiser's weights really are."""
        return str(next(self.denoiser.parameters()).dtype).removeprefix("torch.")


@dataclass(frozen=True)
class SamplingParameters:
    """How all images of a run are generated."""

    steps: int
    guidance: float
    width: int
    height: int
    negative: str | None  # None: the family has no use for one


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Keep the libraries' remarks from the user: what matters is checked here and said in our words. Their `bars` too,
    but where something is downloaded.

    transformers 5 reports the weights of CLIP as "newly initialized" while diffusers loads a LoRA into it, though they
    are all there.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        if not bars:
            of_diffusers.disable_progress_bar()
            of_transformers.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        of_diffusers.enable_progress_bar()
        of_transformers.enable_progress_bar()


def load(base_model: str, given_family: str | None, base_config: Path | None, device: str, dtype: str | None) -> Loaded:
    """Load a base model into main memory. Raises UserError."""
    import torch

    path = Path(base_model).expanduser()
    family = find_family(base_model, given_family) or family_of_hub(base_model)
    kind = getattr(torch, dtype or default_dtype(family, device))
    with quiet(bars=not path.exists()):
        if path.is_file():
            pipeline = _from_file(path, family, base_config, kind)
            _follow_marks(pipeline, read_header(path).keys())
            if family.name == "sdxl":
                # its VAE overflows in float16 and the picture comes out black; with this the pipeline decodes in
                # float32. Only a folder knows that its VAE is one that does not: madebyollin/sdxl-vae-fp16-fix
                pipeline.vae.register_to_config(force_upcast=True)
        else:
            pipeline = _from_folder(str(path) if path.is_dir() else base_model, family, kind)
    pipeline.set_progress_bar_config(disable=True)
    _demand_all_weights(pipeline, base_model)
    _demand_tokenizers(pipeline, base_model if base_config is None or path.is_dir() else str(base_config))
    name = path.stem if path.is_file() else path.name if path.is_dir() else base_model
    return Loaded(pipeline, variant(family, pipeline), identity_of(base_model, pipeline), name)


def family_of_hub(hub_id: str) -> Family:
    """Read the hub's model_index.json, from the cache where it is there. Raises UserError."""
    from diffusers import DiffusionPipeline

    try:
        with quiet():
            index = DiffusionPipeline.load_config(hub_id)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{hub_id} is not on this computer and could not be downloaded: {first_clause(error)}."
        ) from error
    return family_of_class(str(index.get("_class_name")), hub_id)


def first_clause(error: Exception) -> str:
    """What an error says, without the advice that the libraries add: it is about their arguments."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.split(r"[.!?:;,]?(?:\s*$|(?<=[.!?;])\s)", line)[0]


MEMORY_WORDS = ("can't allocate memory", "not enough memory: you tried to allocate")  # PyTorch's allocator of the CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory ended: a GPU's or the computer's."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def _unfit(error: Exception, source: object, family: Family, hint: str = "") -> UserError:
    if is_out_of_memory(error):
        return UserError(f"The memory is not enough to load {source}: close other programs.")
    return UserError(f"{source} cannot be loaded as {family.title}: {first_clause(error)}.{hint}")


def _from_folder(source: str, family: Family, kind: Any) -> Any:
    """Local folders stay local; a hub id may be downloaded."""
    import diffusers

    folder = Path(source)
    of_file = getattr(diffusers, family.pipeline).from_pretrained
    options = {"dtype": kind, "use_safetensors": True, "local_files_only": folder.is_dir()}
    half = {"variant": "fp16"}
    if folder.is_dir():
        weights = [path.name for path in (folder / family.denoiser).glob("*.safetensors*")]
        variants = [half] if weights and all(".fp16." in name for name in weights) else [{}]
    else:  # half of the download, where the hub has it
        variants = [half, {}] if str(kind) == "torch.float16" else [{}]
    for index, one in enumerate(variants):
        try:
            return of_file(source, **options, **one)
        except UNFIT as error:
            if index == len(variants) - 1:
                raise _unfit(error, source, family) from error
    raise AssertionError("one of the variants is always tried")


def _from_file(path: Path, family: Family, base_config: Path | None, kind: Any) -> Any:
    """A single checkpoint. What it does not hold (configuration, and often text encoders) comes from `base_config`."""
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    if base_config is not None and not (base_config / "model_index.json").is_file():
        raise UserError(f"--base-config {base_config} is no diffusers folder: it has no model_index.json.")
    whole = getattr(diffusers, family.pipeline)
    local = {} if base_config is None else {"config": str(base_config), "local_files_only": True}
    try:
        if family.is_whole_in_file:
            return whole.from_single_file(str(path), dtype=kind, **local)
        if base_config is None:
            raise UserError(
                f"{path} holds the denoiser of {family.title} alone; --base-config takes the diffusers folder that has "
                "its text encoders and VAE."
            )
        part = inspect.signature(whole.__init__).parameters["transformer"].annotation
        part = getattr(diffusers, part if isinstance(part, str) else part.__name__)
        denoiser = part.from_single_file(str(path), subfolder="transformer", dtype=kind, **local)
        return whole.from_pretrained(str(base_config), transformer=denoiser, dtype=kind, local_files_only=True)
    except (*UNFIT, SingleFileComponentError) as error:
        hint = "" if base_config else " Without a network, --base-config takes a diffusers folder of the same family."
        raise _unfit(error, path, family, hint) from error


def _follow_marks(pipeline: Any, keys: Collection[str]) -> None:
    """Set the scheduler as the marks in a single file say, which cannot hold its configuration.

    Fine-tunes that predict velocity carry an empty tensor "v_pred", and "ztsnr" where the last step is pure noise;
    ComfyUI reads them too (comfy/supported_models.py).
    """
    if "v_pred" in keys:
        pure_noise = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in keys else {}
        changed = {"prediction_type": "v_prediction"} | pure_noise
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changed)


def networks(pipeline: Any) -> dict[str, Any]:
    """Name -> torch module of a pipeline."""
    import torch

    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def _demand_all_weights(pipeline: Any, what: str) -> None:
    """diffusers leaves weights that a checkpoint lacks empty, without a word."""
    for name, part in networks(pipeline).items():
        empty = sum(weight.is_meta for weight in part.parameters())
        if empty:
            raise UserError(f"{what} lacks {empty} weights of its {name}: it is damaged, or of another family.")


PLAIN_TEXT = "photo of a person"  # every tokenizer has a token of its own for each of these words, or several


def _demand_tokenizers(pipeline: Any, what: str) -> None:
    """Without its files transformers makes a tokenizer that knows no word, and every prompt gives the same image."""
    for name in inspect.signature(type(pipeline).__init__).parameters:
        if not name.startswith("tokenizer"):
            continue
        tokenizer = getattr(pipeline, name, None)
        known: set[int] = set()
        if tokenizer is not None:
            known = {*tokenizer(PLAIN_TEXT, add_special_tokens=False).input_ids} - {tokenizer.unk_token_id}
        if len(known) < len(PLAIN_TEXT.split()):
            raise UserError(
                f"{what} has no {name} that can read words: its files are missing or damaged; fetch it again."
            )


def local_family(base_model: str, given: str | None, base_config: Path | None) -> Family | None:
    """The family with the defaults of its variant, as `load` finds it; None for a hub id. Raises UserError."""
    family, path = find_family(base_model, given), Path(base_model).expanduser()
    folder = path if path.is_dir() else base_config
    known = family is not None and folder is not None and (folder / "model_index.json").is_file()
    return variant_of_folder(family, folder) if known else family


def variant(family: Family, pipeline: Any) -> Family:
    """The family's defaults, or those of its variant, which the configuration of a loaded pipeline tells."""
    return with_variant(
        family, lambda part, key: getattr(getattr(pipeline, part) if part else pipeline, "config", {}).get(key)
    )


def local_identity(base_model: str) -> str | None:
    """name@hash of a model that lies here: SHA-256 of its files. None for a hub id."""
    path = Path(base_model).expanduser()
    if path.is_file():
        return f"{path.stem}@{file_hash(path)[:12]}"
    return f"{path.resolve().name}@{folder_hash(path)[:12]}" if path.is_dir() else None


def identity_of(base_model: str, pipeline: Any) -> str:
    """name@hash; for a hub id the hash is the hub's own of the commit, as far as the pipeline knows it."""
    commits = (getattr(getattr(part, "config", None), "_commit_hash", None) for part in networks(pipeline).values())
    commit = next(filter(None, commits), None)
    return local_identity(base_model) or (f"{base_model}@{commit[:12]}" if commit else base_model)


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a diffusers folder's weights and configuration."""
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json") and path.is_file()]
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def weight_bytes(pipeline: Any) -> int:
    """Memory of all weights."""
    return sum(one.numel() * one.element_size() for part in networks(pipeline).values() for one in part.parameters())


def needs_low_vram(free: int, weights: int, family: Family, sampling: SamplingParameters, batch: int) -> bool:
    """Whether weights and `batch` images at once do not fit into `free` bytes."""
    pixels = sampling.width * sampling.height / family.size**2
    return weights + batch * pixels * family.working_gib * GIB > free


def free_bytes(device: str) -> int | None:
    """Free memory of the GPU; None on a CPU."""
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else None


def move_to_device(loaded: Loaded, device: str, low_vram: bool) -> None:
    """Bring the pipeline to the device. `low_vram`: each network only while it works, and the VAE in pieces."""
    if low_vram:
        for saving in ("enable_slicing", "enable_tiling"):
            getattr(loaded.pipeline.vae, saving, lambda: None)()
    with quiet():
        if low_vram and device != "cpu":
            loaded.pipeline.enable_model_cpu_offload(device=device)
        else:
            loaded.pipeline.to(device)
    loaded.device, loaded.low_vram = device, low_vram


def taken_arguments(pipeline: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of `wanted` that the pipeline's own signature has. Raises UserError without `prompt`."""
    known = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" not in known:
        raise UserError(f"{type(pipeline).__name__} takes no prompt: it does not make pictures from text.")
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def call_arguments(
    loaded: Loaded, prompts: list[str], negatives: list[str] | None, sampling: SamplingParameters
) -> dict:
    """Everything but the random numbers and what is done with the result."""
    return taken_arguments(
        loaded.pipeline,
        {
            "prompt": prompts,
            "negative_prompt": negatives,
            "num_inference_steps": sampling.steps,
            loaded.family.guidance_argument: sampling.guidance,
            "width": sampling.width,
            "height": sampling.height,
        },
    )


def sample(
    loaded: Loaded,
    prompts: list[str],
    negatives: list[str] | None,
    seeds: list[int],
    sampling: SamplingParameters,
    on_step: Callable[[], None] = lambda: None,
) -> list[np.ndarray | None]:
    """A picture (H, W, 3) uint8 RGB for each prompt; None where it is not a number.

    Noise is sampled on the CPU, one stream an image: neither device nor batch changes them.
    """
    import torch

    def after_step(pipeline: Any, step: int, time: Any, tensors: dict) -> dict:
        on_step()
        return tensors

    arguments = call_arguments(loaded, prompts, negatives, sampling)
    arguments |= taken_arguments(
        loaded.pipeline,
        {
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "np",
            "callback_on_step_end": after_step,
        },
    )
    with quiet(), torch.inference_mode():
        pictures = np.asarray(loaded.pipeline(**arguments).images)  # (B, H, W, 3) float, 0-1
    return [np.round(one * 255).astype(np.uint8) if np.isfinite(one).all() else None for one in pictures]


def prompt_is_cut(loaded: Loaded, prompt: str) -> bool:
    """Whether the text encoder reads only the beginning of a prompt: CLIP reads 77 tokens."""
    if not loaded.family.reads_by_clip:
        return False
    tokenizer = loaded.pipeline.tokenizer
    with quiet():
        return len(tokenizer(prompt).input_ids) > tokenizer.model_max_length
