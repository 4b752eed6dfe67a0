"""The base model of a training: what it is, loading it, and what its frozen parts make of pictures and captions.

Text encoders and VAE run once, before the training: their results are kept in main memory, and the networks let go.
Of what the VAE says of a picture, a distribution, the mean is trained on, not a sample: our choice, so that latents are
made once and are the same each time (others sample anew; the deviations of these VAEs are small beside the latents).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.generation.families import Family, find_family, read_header, read_json
from mirror.generation.pipelines import family_of_hub
from mirror.training.data import TrainingImage, pixels_of
from mirror.training.noising import EPSILON, PREDICTIONS, V_PREDICTION
from mirror.training.presets import conv_alpha
from utils.console import UserError

if TYPE_CHECKING:
    import torch

# The layers that learn: all of the U-Net's transformers, as kohya's trainers choose them.
TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
# With --conv-rank also what stands in residual blocks and changes the size, as in kohya's LoCon: convolutions of 3 x 3
# pixels in their own width, what looks at one pixel in that of the others.
CONVOLUTIONS = ("conv1", "conv2", "conv")
BESIDE_CONVOLUTIONS = ("conv_shortcut", "time_emb_proj")
WEIGHT_DECAY = 0.01  # PyTorch's default for AdamW
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}  # kept for each trained number
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(\.fp16)?(-\d+-of-\d+)?\.safetensors")
_V_PREDICTION_KEY, _ZERO_SNR_KEY = "v_pred", "ztsnr"  # empty tensors with which v-prediction checkpoints say so

# What holds the activations of one pixel of latents, in multiples of the U-Net's first width: our estimate, high enough
# that a training that starts does not end for want of memory.
_ACTIVATIONS = {True: 240, False: 2000}  # with and without gradient checkpointing


@dataclass(frozen=True)
class BaseFacts:
    """What is known of a base model before it is loaded."""

    name: str
    family: Family
    prediction: str
    zero_snr: bool


@dataclass(frozen=True)
class Prompt:
    """A caption as the U-Net gets it: `embeds` (77, D), `pooled` (P,) for SDXL."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


@dataclass(frozen=True)
class Example:
    """A picture as the U-Net gets it: `latents` (C, H / 8, W / 8) float32; `time_ids` (6,) for SDXL."""

    latents: torch.Tensor
    prompt: Prompt
    time_ids: torch.Tensor | None
    bucket_wh: tuple[int, int]


def look_at_base(
    model: str, prediction: str | None = None, zero_snr: bool | None = None, config: Path | None = None
) -> BaseFacts:
    """Family and kind of prediction; the options go before what the model says of itself.

    A single file says it by its keys, else the folder `config` that it is loaded with does.

    Raises UserError for a model that is not there, or that is not to be trained here.
    """
    path = Path(model).expanduser()
    family = find_family(model, None) or family_of_hub(model)
    if not family.is_diffusion:
        raise UserError(
            f"{model} is {family.title}, and train_lora.py itself trains SDXL and SD 1.5: "
            f"--trainer hands {family.title} to a trainer that can."
        )
    marks = read_header(path).keys() if path.is_file() else ()
    if _V_PREDICTION_KEY in marks:
        found = V_PREDICTION, _ZERO_SNR_KEY in marks
    elif path.is_file() and config is None:
        found = EPSILON, False
    else:
        schedule = _schedule_of(model, config if path.is_file() else path)
        found = schedule.get("prediction_type", EPSILON), bool(schedule.get("rescale_betas_zero_snr"))
    kind, zero = prediction or found[0], found[1] if zero_snr is None else zero_snr
    if kind not in PREDICTIONS:
        raise UserError(f"{model} predicts {kind!r}; {' and '.join(PREDICTIONS)} can be trained.")
    if zero and kind == EPSILON:
        raise UserError("Zero terminal SNR needs a model that predicts velocity: --prediction v_prediction.")
    return BaseFacts(model, family, kind, zero)


def _schedule_of(model: str, folder: Path) -> dict:
    if folder.is_dir():
        return read_json(folder / "scheduler" / "scheduler_config.json", f"{folder} is no whole diffusers folder")
    from diffusers.schedulers import SchedulerMixin

    try:
        return SchedulerMixin.load_config(model, subfolder="scheduler")
    except (OSError, ValueError) as error:
        raise UserError(
            f"The scheduler's configuration of {model} can be neither read nor downloaded: {error}"
        ) from error


def bytes_when_loaded(model: str, bytes_each: int) -> int:
    """Memory of the weights of a model on this disk, at `bytes_each` a number; 0 for one that is not here yet.

    Of a part that is there in two precisions, one is loaded.
    """
    path = Path(model).expanduser()
    files = [path] if path.is_file() else []
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        found = [one for one in (path / part).glob("*.safetensors") if _WEIGHTS.fullmatch(one.name)]
        files += [one for one in found if ".fp16" not in one.name] or found
    tensors = [one for file in files for name, one in read_header(file).items() if name != "__metadata__"]
    return bytes_each * sum(math.prod(one["shape"]) for one in tensors)


def refuse_unusual(pipeline: Any, model: str) -> None:
    """Raise UserError for models of a known pipeline that are not for text to image: inpainting, refiners."""
    channels, usual = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if channels != usual:
        raise UserError(
            f"{model} takes {channels} channels where its VAE gives {usual}: it is made for inpainting or editing."
        )
    if pipeline.text_encoder is None:
        raise UserError(f"{model} has no first text encoder: a refiner is not trained; take the base model.")


# Memory


def memory_needed(unet: Any, batch: int, resolution: int, checkpointing: bool, state_bytes: int) -> int:
    """Bytes that a training takes: frozen weights, LoRA with gradients and optimizer, activations (our estimate).

    `state_bytes` is what the optimizer keeps of each trained number.
    """
    width = unet.config.block_out_channels[0]
    trained = sum(one.numel() for one in unet.parameters() if one.requires_grad)
    frozen = [one for one in unet.parameters() if not one.requires_grad]
    bytes_each = frozen[0].element_size()
    pixels = batch * (resolution // 8) ** 2
    return (
        sum(one.numel() for one in frozen) * bytes_each
        + trained * (4 + 4 + state_bytes)
        + pixels * width * bytes_each * _ACTIVATIONS[checkpointing]
    )


def memory_free(device: str) -> int | None:
    """Free bytes where the training will run (cuda or cpu); None where that cannot be asked."""
    import torch

    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    if device == "cpu":
        import psutil  # comes with accelerate

        return psutil.virtual_memory().available
    return None


def demand_memory(needed: int, free: int | None, for_what: str, advice: str) -> None:
    """Raise UserError where `free` bytes are known not to suffice."""
    if free is not None and needed > free:
        raise UserError(f"{for_what} takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. {advice}")


def demand_room(device: str, unet: Any, settings: dict[str, Any]) -> None:
    """Raise UserError where the memory will not do, with what would help."""
    batch, resolution, checkpointing = (settings[name] for name in ("batch", "resolution", "gradient_checkpointing"))
    needed = memory_needed(unet, batch, resolution, checkpointing, OPTIMIZER_BYTES[settings["optimizer"]])
    if device == "cpu":  # there the weights are loaded already
        needed -= sum(one.numel() * one.element_size() for one in unet.parameters())
    helps = ["--batch 1 with --accumulate"] if batch > 1 else []
    helps += [] if checkpointing else ["--gradient-checkpointing"]
    helps += [f"--resolution {max(64, resolution * 3 // 4 // 64 * 64)}", "a smaller --rank"]
    helps += ["no --conv-rank"] if "conv_rank" in settings else []
    demand_memory(needed, memory_free(device), "This training", f"What helps: {', '.join(helps)}.")


# What learns


def with_lora(unet: Any, settings: dict[str, Any]) -> Any:
    """The U-Net frozen, with LoRA layers in float32 beside those that learn; repeatable by seed."""
    import torch
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    unet.requires_grad_(False)
    torch.manual_seed(settings["seed"])
    layers, ranks, alphas = list(TARGET_MODULES), {}, {}
    if rank := settings.get("conv_rank"):
        layers += [*CONVOLUTIONS, *BESIDE_CONVOLUTIONS]
        ranks, alphas = dict.fromkeys(CONVOLUTIONS, rank), dict.fromkeys(CONVOLUTIONS, conv_alpha(settings))
    rank, alpha = settings["rank"], settings["alpha"]
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, rank_pattern=ranks, alpha_pattern=alphas)
    )
    cast_training_params(unet, torch.float32)
    if settings["gradient_checkpointing"]:
        unet.enable_gradient_checkpointing()
    return unet.train()


def optimizer_name(asked: str, device: str) -> str:
    """adamw or adamw8bit. Raises UserError."""
    from importlib.util import find_spec

    has_8bit = find_spec("bitsandbytes") is not None
    if asked == "adamw8bit" and not has_8bit:
        raise UserError("--optimizer adamw8bit needs a package: python -m pip install bitsandbytes")
    if asked == "auto":
        return "adamw8bit" if has_8bit and device == "cuda" else "adamw"
    return asked


def make_optimizer(unet: Any, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW over the LoRA, with 8-bit states where that was chosen (Dettmers et al. 2021, arXiv 2110.02861)."""
    import torch

    parameters = [one for one in unet.parameters() if one.requires_grad]
    options = {"lr": settings["learning_rate"], "weight_decay": WEIGHT_DECAY}
    if settings["optimizer"] == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, **options)


# What the frozen networks make of the dataset


def encode_captions(
    pipeline: Any, captions: Iterable[str], device: torch.device, progress: Callable[[], object]
) -> dict[str, Prompt]:
    """Each caption once, as diffusers' own pipeline encodes it."""
    import torch

    encoders = [one for one in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)) if one is not None]
    for encoder in encoders:
        encoder.to(device)
    encoded = {}
    with torch.inference_mode():
        for caption in dict.fromkeys(captions):
            made = pipeline.encode_prompt(
                prompt=caption, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            pooled = made[2][0].cpu().clone() if len(made) == 4 else None  # SDXL's is (prompt, negative, pooled, ...)
            encoded[caption] = Prompt(made[0][0].cpu().clone(), pooled)
            progress()
    for encoder in encoders:
        encoder.to("cpu")
    return encoded


def too_long(pipeline: Any, captions: Iterable[str]) -> int:
    """How many captions have more tokens than CLIP reads; the rest of those is not seen."""
    tokenizer = pipeline.tokenizer
    return sum(len(tokenizer(caption).input_ids) > tokenizer.model_max_length for caption in captions)


def encode_images(
    pipeline: Any,
    images: list[TrainingImage],
    prompts: dict[str, Prompt],
    device: torch.device,
    max_megapixels: float,
    progress: Callable[[], object],
) -> list[Example]:
    """Latents of every picture (the posterior's middle), always by the VAE in float32: SDXL's overflows in float16."""
    import torch

    vae = pipeline.vae.to(device, torch.float32)
    examples = []
    for image in images:
        pixels = torch.from_numpy(pixels_of(image, max_megapixels)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            encoded = vae.encode(pixels.to(device, torch.float32) / 127.5 - 1)
            # AutoencoderTiny says latents at once, AutoencoderKL a distribution
            made = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            latents = (made * vae.config.scaling_factor)[0].cpu().clone()
        prompt = prompts[image.caption]
        examples.append(
            Example(latents, prompt, _time_ids(image) if prompt.pooled is not None else None, image.placement.bucket_wh)
        )
        progress()
    vae.to("cpu")
    return examples


def _time_ids(image: TrainingImage) -> torch.Tensor:
    """SDXL's size conditioning: original height and width, the crop's top and left, height and width trained.

    Original sizes are the file's, the crop's corner is in pixels of the scaled picture (Podell et al. 2023, arXiv
    2307.01952, section 2.2).
    """
    import torch

    (width, height), (left, top) = image.size_wh, image.placement.crop_xy
    trained_w, trained_h = image.placement.bucket_wh
    return torch.tensor([height, width, top, left, trained_h, trained_w], dtype=torch.float32)
