"""A Stable Diffusion XL of a few MB: its real layout with few channels and random weights, the same by seed.

It loads, trains and saves like the real one, in seconds on a CPU, and draws nothing that anybody would call a picture.
The demo of the bootstrap loop trains its LoRAs on it; the tests build their models of other families from its parts.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

START, END = "<|startoftext|>", "<|endoftext|>"


@contextmanager
def seeded(seed: int):
    """Random weights by seed, the generator of everybody else untouched."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def byte_letters() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes with (GPT-2's table): printable ones as they are."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]


def clip_tokenizer(folder: Path, length: int = 77):
    """A real CLIPTokenizer that spells every word: 512 letters, no merges, start and end."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = byte_letters()
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    (folder / "vocab.json").write_text(
        json.dumps({word: place for place, word in enumerate(vocabulary)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def clip_text_encoder(width: int = 32, layers: int = 2, projection: int | None = None):
    """CLIP's text encoder; with `projection` the one with a pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=projection or width,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def image_vae(latent_channels: int = 4, scaling: float = 0.18215, **more: object):
    """A Stable Diffusion VAE of factor 8. Its last layer is scaled so that random latents become pictures."""
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=scaling,
        **more,
    )
    return with_contrast(vae.eval(), torch.randn(1, latent_channels, 8, 8))


def with_contrast(vae, latents: torch.Tensor):
    """`vae` with its decoder's output spread over the grey levels: what random weights draw is otherwise one grey."""
    import torch

    with torch.no_grad():
        out = vae.decode(latents).sample
        vae.decoder.conv_out.weight *= 0.45 / out.std()  # of -1 to 1
        vae.decoder.conv_out.bias.zero_()
    return vae


def unet(blocks: tuple[int, ...], depths: tuple[int, ...], width: int, linear: bool, **more: object):
    """A U-Net whose blocks of depth 0 have no attention."""
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths)
    up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths))
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=blocks,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=2,
        transformer_layers_per_block=tuple(depth or 1 for depth in depths) if linear else 1,
        attention_head_dim=4,
        cross_attention_dim=width,
        norm_num_groups=8,
        use_linear_projection=linear,
        **more,
    )
    return model.eval()


def noise_schedule(prediction_type: str = "epsilon", zero_snr: bool = False, **more: object):
    """Stable Diffusion's. `zero_snr`: the last step is pure noise (arXiv 2305.08891), as v-prediction bases have it."""
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        timestep_spacing="trailing" if zero_snr else "leading",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        **more,
    )


def tiny_sdxl(folder: Path, seed: int = 0, prediction_type: str = "epsilon", zero_snr: bool = False) -> Path:
    """A diffusers folder of SDXL: two text encoders, time ids, three blocks of which two have attention.

    A folder that is there whole is left as it is.
    """
    if (folder / "model_index.json").is_file():
        return folder
    from diffusers import StableDiffusionXLPipeline

    with seeded(seed):
        pipeline = StableDiffusionXLPipeline(
            vae=image_vae(scaling=0.13025, force_upcast=True),
            text_encoder=clip_text_encoder(32),
            text_encoder_2=clip_text_encoder(40, layers=2, projection=40),  # diffusers tells the two apart by width
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            tokenizer_2=clip_tokenizer(folder / "tokenizer_2"),
            unet=unet(
                (16, 32, 32),
                (0, 1, 2),
                32 + 40,
                linear=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=40 + 6 * 8,
            ),
            scheduler=noise_schedule(prediction_type, zero_snr),
        )
    pipeline.set_progress_bar_config(disable=True)
    part = folder.with_name(f"{folder.name}.part")  # a folder with the right name is whole
    pipeline.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder
