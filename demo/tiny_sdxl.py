"""A Stable Diffusion XL of a few hundred kilobytes: its real layout with few channels and random weights.

It loads, trains and saves like the real one, in seconds on a CPU, and draws nothing that anybody would call a picture.
The demo of the bootstrap loop trains its LoRAs on it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_LETTERS_END = 512  # ids of the tokenizer: 256 bytes, 256 bytes that end a word, start, end
_WIDTHS = (32, 40)  # of the two text encoders


def build(folder: Path, seed: int = 0) -> Path:
    """Write the model as a diffusers folder, unless it is there whole."""
    if (folder / "model_index.json").is_file():
        return folder
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=0.13025,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=4,
            cross_attention_dim=sum(_WIDTHS),
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=_WIDTHS[1] + 6 * 8,
        )
        pipeline = StableDiffusionXLPipeline(
            vae=vae.eval(),
            text_encoder=_text_encoder(_WIDTHS[0], projects=False),
            text_encoder_2=_text_encoder(_WIDTHS[1], projects=True),
            tokenizer=_tokenizer(folder / "tokenizer"),
            tokenizer_2=_tokenizer(folder / "tokenizer_2"),
            unet=unet.eval(),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
        )
    part = folder.with_name(f"{folder.name}.part")  # a folder with the right name is whole
    pipeline.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def _text_encoder(width: int, projects: bool):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=_LETTERS_END + 2,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=_LETTERS_END,
        eos_token_id=_LETTERS_END + 1,
        pad_token_id=_LETTERS_END + 1,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config).eval()


def _tokenizer(folder: Path):
    """CLIP's tokenizer without merges: it spells every word, byte by byte, in the letters of GPT-2's table."""
    from transformers import CLIPTokenizer

    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
