"""Families of text-to-image models: how each is recognised, and what it is run with where the user says nothing.

A family is one entry of `FAMILIES`. It is found from the `model_index.json` of a diffusers folder or hub id, or from
the key names in the header of a single `.safetensors` file. Nothing heavy is imported, and no weight is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.console import UserError
from utils.files import safetensors_header

SIZE_STEP = 16  # pixels: all families take sizes of such steps
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Family:
    """One family: all that the scripts know of it. What most families share is the default."""

    name: str
    title: str
    pipeline: str  # class in diffusers
    steps: int
    guidance: float
    file_keys: tuple[str, ...]  # by which its single files are known, without `MODEL_PREFIX`
    also: tuple[str, ...] = ()  # classes of other tasks over the same weights
    denoiser: str = "transformer"  # component of the pipeline
    guidance_argument: str = "guidance_scale"  # name under which the pipeline takes the guidance
    gpu_dtype: str = "bfloat16"
    size: int = 1024  # pixels, width and height
    takes_negative: bool = False
    guided_above: float = 1.0  # with less guidance the negative prompt is not used at all
    working_gib: float = 3.0  # memory beside the weights for one image of `size`, for the choice of offload
    is_whole_in_file: bool = False  # a single file holds text encoders and VAE too, not the denoiser alone
    reads_by_clip: bool = False  # which reads the beginning of a prompt, 77 tokens; others have a longer encoder too
    is_diffusion: bool = False  # a U-Net that train_lora.py itself trains; the others learn by flow matching
    ai_toolkit: str = ""  # what ai-toolkit calls it; "": not known there
    sd_scripts: tuple[str, str] | None = None  # script of kohya's sd-scripts and its module for LoRA
    base_version: str = ""  # kohya's ss_base_model_version, in the header of LoRAs that are trained here
    architecture: str = ""  # Stability's ModelSpec 1.0.0 (github.com/Stability-AI/ModelSpec), in the same header


_UNET = {
    "denoiser": "unet",
    "gpu_dtype": "float16",
    "takes_negative": True,
    "is_whole_in_file": True,
    "reads_by_clip": True,
    "is_diffusion": True,
}

# Sources: the model cards on huggingface.co named at each entry; sdxl's steps and guidance as documented for this
# project; the names in LoRA headers are those that A1111 reads; the keys of single files tell models apart as
# `diffusers.loaders.single_file_utils` does it. `working_gib` is our estimate.
FAMILIES = {
    family.name: family
    for family in (
        # stabilityai/stable-diffusion-xl-base-1.0 (float16 variant, 1024 pixels); kin: Animagine, Pony, Illustrious
        Family(
            "sdxl",
            "SDXL",
            "StableDiffusionXLPipeline",
            steps=30,
            guidance=7.5,
            also=("StableDiffusionXLImg2ImgPipeline",),
            working_gib=5.0,
            file_keys=("label_emb.0.0.weight", "conditioner.embedders.1.model.positional_embedding"),
            ai_toolkit="sdxl",
            sd_scripts=("sdxl_train_network.py", "networks.lora"),
            base_version="sdxl_base_v1-0",
            architecture="stable-diffusion-xl-v1-base/lora",
            **_UNET,
        ),
        # stable-diffusion-v1-5/stable-diffusion-v1-5: 512 pixels; steps and guidance as for SDXL
        Family(
            "sd15",
            "Stable Diffusion 1.5",
            "StableDiffusionPipeline",
            steps=30,
            guidance=7.5,
            also=("StableDiffusionImg2ImgPipeline",),
            size=512,
            working_gib=2.0,
            file_keys=(
                "input_blocks.0.0.weight",
                "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
            ),
            ai_toolkit="sd1",
            sd_scripts=("train_network.py", "networks.lora"),
            base_version="sd_v1",
            architecture="stable-diffusion-v1/lora",
            **_UNET,
        ),
        # black-forest-labs/FLUX.1-dev: 50 steps, guidance 3.5; 28 steps are the default of its pipeline in diffusers
        Family(
            "flux",
            "Flux.1",
            "FluxPipeline",
            steps=28,
            guidance=3.5,
            also=("FluxImg2ImgPipeline",),
            file_keys=("double_blocks.0.img_attn.norm.key_norm.scale", "txt_in.weight"),
            ai_toolkit="flux",
            sd_scripts=("flux_train_network.py", "networks.lora_flux"),
        ),
        # black-forest-labs/FLUX.2-klein-base-4B; the distilled one: `VARIANTS`
        Family(
            "flux2-klein",
            "Flux.2-Klein",
            "Flux2KleinPipeline",
            steps=50,
            guidance=4.0,
            file_keys=("double_stream_modulation_img.lin.weight", "single_stream_modulation.lin.weight"),
            ai_toolkit="flux2_klein_4b",
        ),
        # Tongyi-MAI/Z-Image-Turbo: 9 steps, guidance 0; the base: `VARIANTS`
        Family(
            "z-image",
            "Z-Image",
            "ZImagePipeline",
            steps=9,
            guidance=0.0,
            also=("ZImageImg2ImgPipeline",),
            takes_negative=True,
            guided_above=0.0,
            file_keys=("layers.0.adaLN_modulation.0.weight", "cap_embedder.1.weight"),
            ai_toolkit="zimage",
        ),
        # Qwen/Qwen-Image: 50 steps, true_cfg_scale 4, 1328 pixels
        Family(
            "qwen-image",
            "Qwen-Image",
            "QwenImagePipeline",
            steps=50,
            guidance=4.0,
            also=("QwenImageImg2ImgPipeline",),
            guidance_argument="true_cfg_scale",
            size=1328,
            takes_negative=True,
            working_gib=5.0,
            file_keys=("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"),
            ai_toolkit="qwen_image",
        ),
    )
}


@dataclass(frozen=True)
class Variant:
    """Relatives of one family that have the same layout and want other settings, told apart by one value of a
    configuration: that of component `part`, or with "" of the pipeline."""

    family: str
    part: str
    key: str
    holds: Callable[[Any], bool]
    changes: dict[str, str | int | float]


# Sources: the model cards of black-forest-labs/FLUX.1-schnell, black-forest-labs/FLUX.2-klein-4B and
# Tongyi-MAI/Z-Image. The shift is 6 in the base's files and 3 in Turbo's; from 5 on InvokeAI too takes it for the base
# (invokeai/backend/model_manager, ZImageVariantType).
Z_IMAGE_BASE_SHIFT = 5.0
VARIANTS = (
    Variant(
        "flux",
        "transformer",
        "guidance_embeds",
        lambda value: not value,
        {"title": "Flux.1 [schnell]", "steps": 4, "guidance": 0.0},
    ),
    Variant("flux2-klein", "", "is_distilled", bool, {"title": "Flux.2-Klein, distilled", "steps": 4, "guidance": 1.0}),
    Variant(
        "z-image",
        "scheduler",
        "shift",
        lambda value: (value or 0) >= Z_IMAGE_BASE_SHIFT,
        {"title": "Z-Image base (by its scheduler's shift)", "steps": 50, "guidance": 4.0},
    ),
    Variant(
        "z-image",
        "scheduler",
        "shift",
        lambda value: (value or 0) < Z_IMAGE_BASE_SHIFT,
        {"title": "Z-Image-Turbo (by its scheduler's shift)"},
    ),
)
CONFIG_FILES = {
    "": "model_index.json",
    "transformer": "transformer/config.json",
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


def with_variant(family: Family, value_of: Callable[[str, str], Any]) -> Family:
    """The family with the defaults of the variant that the configuration tells; `value_of` asks for part and key."""
    for one in VARIANTS:
        if one.family == family.name and one.holds(value_of(one.part, one.key)):
            return replace(family, **one.changes)
    return _with_own_size(family, value_of) if family.denoiser == "unet" else family


def _with_own_size(family: Family, value_of: Callable[[str, str], Any]) -> Family:
    """The size that a U-Net was trained on, as diffusers takes it by default, and the memory for such an image.

    The family's where the configuration does not say it in one number.
    """
    latents, widths = value_of("unet", "sample_size"), value_of("vae", "block_out_channels")
    if not isinstance(latents, int) or not isinstance(widths, list | tuple) or not widths:
        return family
    size = latents * 2 ** (len(widths) - 1)
    return replace(family, size=size, working_gib=family.working_gib * (size / family.size) ** 2)


def variant_of_folder(family: Family, folder: Path) -> Family:
    """`with_variant` by the files of a diffusers folder. Raises UserError."""

    def value_of(part: str, key: str) -> Any:
        path = folder / CONFIG_FILES[part]
        return read_json(path, f"{folder} cannot be used").get(key)

    return with_variant(family, value_of)


MODEL_PREFIX = "model.diffusion_model."  # of keys; files that hold the denoiser alone may lack it
# Others that people try, so that they are refused by name.
OTHER_FILE_KEYS = (
    ("the SDXL refiner", "conditioner.embedders.0.model.text_projection"),
    ("Stable Diffusion 2", "cond_stage_model.model.token_embedding.weight"),
    ("Stable Diffusion 3", "joint_blocks.0.context_block.adaLN_modulation.1.bias"),
    ("Wan", "head.modulation"),
    ("Lumina 2", "layers.0.adaLN_modulation.1.weight"),
    ("HunyuanVideo", "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias"),
    ("AuraFlow", "double_layers.0.attn.w2q.weight"),
)
FLUX2_DEV_TEXT_WIDTH = 15360  # of three layers of Mistral Small (diffusers, Flux2Transformer2DModel)
INPAINTING_CHANNELS = 9
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin", ".gguf")
SD2_TEXT_WIDTH = 1024  # stabilityai/stable-diffusion-2-1, unet/config.json


def supported() -> str:
    return ", ".join(f"{family.title} ({family.name})" for family in FAMILIES.values())


def family_of_class(class_name: str, what: object) -> Family:
    """The family whose pipeline a `model_index.json` names. Raises UserError for one that is not supported."""
    for family in FAMILIES.values():
        if class_name == family.pipeline or class_name in family.also:
            return family
    raise UserError(f"{what} is a {class_name}, which is not supported; supported: {supported()}.")


def family_of_folder(folder: Path) -> Family:
    """The family of a diffusers folder. Raises UserError."""
    index = read_json(folder / "model_index.json", f"{folder} is no diffusers folder")
    family = family_of_class(str(index.get("_class_name")), folder)
    if family.name == "sd15" and (folder / "unet" / "config.json").exists():
        unet = read_json(folder / "unet" / "config.json", f"{folder} cannot be used")
        if unet.get("cross_attention_dim") == SD2_TEXT_WIDTH:
            raise UserError(f"{folder} is Stable Diffusion 2, which is not supported; supported: {supported()}.")
        _refuse_inpainting(unet.get("in_channels"), folder)
    return family


def _as_given(folder: Path, given: str) -> Family:
    """--family overrides what is not known, but no folder that says it is of another family. Raises UserError."""
    class_name = read_json(folder / "model_index.json", f"{folder} is no diffusers folder").get("_class_name")
    for family in FAMILIES.values():
        if class_name in (family.pipeline, *family.also) and family.name != given:
            raise UserError(f"{folder} is {family.title}, not {FAMILIES[given].title}; leave --family out.")
    return FAMILIES[given]


def read_json(path: Path, problem: str) -> dict:
    """A JSON object. Raises UserError that begins with `problem`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{problem}: {path.name} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{problem}: {path.name} is no JSON object.")
    return content


def read_header(path: Path) -> dict[str, dict]:
    """Tensor name -> {"dtype", "shape", ...} of a `.safetensors` file, and "__metadata__". Raises UserError."""
    try:
        return safetensors_header(path)[0]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}. Fetch it again.") from error


def family_of_file(path: Path) -> Family:
    """The family of a single checkpoint, from its key names. Raises UserError."""
    shapes = {
        name.removeprefix(MODEL_PREFIX): entry.get("shape", [])
        for name, entry in read_header(path).items()
        if name != "__metadata__"
    }
    for family in reversed(FAMILIES.values()):  # the newest first: Flux.2 may have the keys of Flux.1 too
        if all(key in shapes for key in family.file_keys):
            _refuse_relatives(family, shapes, path)
            return family
    other = next((title for title, key in OTHER_FILE_KEYS if key in shapes), None)
    if other is None and any("lora" in name for name in shapes):
        raise UserError(f"{path} is a LoRA, not a base model; --lora takes it.")
    found = f"is {other}, which is not supported" if other else "holds no model that is known here"
    raise UserError(f"{path} {found}; supported: {supported()}. If it is one of these, say which with --family.")


def _refuse_relatives(family: Family, shapes: dict[str, list[int]], path: Path) -> None:
    if family.name == "flux2-klein" and shapes.get("txt_in.weight", [0, 0])[-1] == FLUX2_DEV_TEXT_WIDTH:
        raise UserError(f"{path} is Flux.2 [dev], which is not supported; supported: {supported()}.")
    if family.denoiser == "unet":
        first = shapes.get("input_blocks.0.0.weight", [0, 0])
        _refuse_inpainting(first[1] if len(first) > 1 else 0, path)


def _refuse_inpainting(channels: int | None, what: object) -> None:
    if channels == INPAINTING_CHANNELS:
        raise UserError(f"{what} is an inpainting model; take the one that makes pictures from text alone.")


def find_family(base_model: str, given: str | None) -> Family | None:
    """The family of a base model that lies on this computer, or the `given` one; None for a hub id.

    Raises UserError for what cannot be a base model.
    """
    path = Path(base_model).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UserError(f"{path} is no diffusers folder: it has no model_index.json.")
        return _as_given(path, given) if given else family_of_folder(path)
    if path.is_file():
        if path.suffix != path.suffix.lower() == ".safetensors":
            raise UserError(f"{path}: diffusers knows the suffix only in lower case; rename it to .safetensors.")
        if path.suffix.lower() != ".safetensors":
            raise UserError(
                f"{path} is no .safetensors file. Other checkpoints can run code when they are loaded; "
                "take the model as safetensors."
            )
        return FAMILIES[given] if given else family_of_file(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base_model) or path.suffix in MODEL_SUFFIXES:
        raise UserError(
            f"{base_model} does not exist. --base-model takes a diffusers folder, a .safetensors checkpoint or a hub "
            "id such as stabilityai/stable-diffusion-xl-base-1.0."
        )
    return FAMILIES[given] if given else None
