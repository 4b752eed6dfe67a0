"""Tiny random pipelines of every family, a few MB each, with tokenizers of their own: no network, the same by seed.

Each function writes a diffusers folder (or one file) that loads like the real model does; the networks have the real
layout with few channels. A step of 64 x 64 pixels takes some milliseconds on a CPU. SDXL, and the parts that other
families have in common with it, are the demo's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from demo.tiny_sdxl import (
    byte_letters,
    clip_text_encoder,
    clip_tokenizer,
    image_vae,
    noise_schedule,
    seeded,
    tiny_sdxl,
    unet,
    with_contrast,
)


def tiny_sd15(folder: Path, seed: int = 0, prediction_type: str = "epsilon", zero_snr: bool = False) -> Path:
    """A diffusers folder of Stable Diffusion 1.5, without a safety checker."""
    from diffusers import StableDiffusionPipeline

    with seeded(seed):
        pipeline = StableDiffusionPipeline(
            vae=image_vae(),
            text_encoder=clip_text_encoder(32),
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            unet=unet((16, 32, 32, 32), (1, 1, 1, 0), 32, linear=False),
            scheduler=noise_schedule(prediction_type, zero_snr),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return saved(pipeline, folder)


def t5_tokenizer(folder: Path):
    """A real T5Tokenizer that spells every word."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    T5Tokenizer(vocab=words, extra_ids=0, model_max_length=512).save_pretrained(folder)
    return T5Tokenizer.from_pretrained(folder)


CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"


def qwen_tokenizer(folder: Path):
    """A real Qwen2Tokenizer that spells every word, with a chat template."""
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: place for place, word in enumerate([*byte_letters(), *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return Qwen2Tokenizer.from_pretrained(folder)


QWEN_LANGUAGE = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "bos_token_id": 256,
    "eos_token_id": 256,
}


def qwen3(layers: int):
    """The language model that Flux.2-Klein and Z-Image read prompts with."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**QWEN_LANGUAGE, num_hidden_layers=layers, head_dim=8)).eval()


def flow_schedule(shift: float = 1.0, **more: object):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift, **more)


def tiny_flux(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder of Flux.1 [dev]: CLIP and T5, guidance embedded."""
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    with seeded(seed):
        t5 = T5Config(vocab_size=98, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4)
        pipeline = FluxPipeline(
            vae=image_vae(4, 0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=clip_text_encoder(32),
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            text_encoder_2=T5EncoderModel(t5).eval(),
            tokenizer_2=t5_tokenizer(folder / "tokenizer_2"),
            transformer=FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                guidance_embeds=True,
                axes_dims_rope=(4, 4, 8),
            ).eval(),
            scheduler=flow_schedule(3.0, use_dynamic_shifting=True),
        )
    return saved(pipeline, folder)


def tiny_flux2_klein(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder of Flux.2-Klein, distilled: prompts are read from three layers of a Qwen3 of 28."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    with seeded(seed):
        vae = AutoencoderKLFlux2(
            block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64
        )
        pipeline = Flux2KleinPipeline(
            vae=with_contrast(vae.eval(), torch.randn(1, 4, 8, 8)),
            text_encoder=qwen3(28),
            tokenizer=qwen_tokenizer(folder / "tokenizer"),
            transformer=Flux2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=3 * 16,
                timestep_guidance_channels=32,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ).eval(),
            scheduler=flow_schedule(3.0, use_dynamic_shifting=True),
            is_distilled=True,
        )
    return saved(pipeline, folder)


def tiny_z_image(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder of Z-Image."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    with seeded(seed):
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 4, 8],
            axes_lens=[1024, 512, 512],
        )
        for token in (transformer.x_pad_token, transformer.cap_pad_token):  # empty memory until weights are loaded
            torch.nn.init.normal_(token, std=0.02)
        pipeline = ZImagePipeline(
            vae=image_vae(4, 0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=qwen3(2),
            tokenizer=qwen_tokenizer(folder / "tokenizer"),
            transformer=transformer.eval(),
            scheduler=flow_schedule(3.0),
        )
    return saved(pipeline, folder)


def tiny_qwen_image(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder of Qwen-Image, whose VAE is one for video and whose text encoder could see."""
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = QWEN_LANGUAGE | {
        "num_hidden_layers": 2,
        "rope_parameters": {"type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }
    sight = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    with seeded(seed):
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            num_res_blocks=1,
            dim_mult=[1, 1, 1, 1],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
        pipeline = QwenImagePipeline(
            vae=with_contrast(vae.eval(), torch.randn(1, 4, 1, 8, 8)),
            text_encoder=Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(text_config=text, vision_config=sight)
            ).eval(),
            tokenizer=qwen_tokenizer(folder / "tokenizer"),
            transformer=QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 4, 8),
            ).eval(),
            scheduler=flow_schedule(3.0, use_dynamic_shifting=True),
        )
    return saved(pipeline, folder)


TINY_FOLDERS = {
    "sdxl": tiny_sdxl,
    "sd15": tiny_sd15,
    "flux": tiny_flux,
    "flux2-klein": tiny_flux2_klein,
    "z-image": tiny_z_image,
    "qwen-image": tiny_qwen_image,
}


def saved(pipeline, folder: Path) -> Path:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return folder


def tiny_sdxl_single_file(path: Path, seed: int = 0) -> Path:
    """The pipeline of `tiny_sdxl` as one checkpoint with the original's key names (Stability's generative-models)."""
    import tempfile

    from diffusers import StableDiffusionXLPipeline
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as scratch:
        pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl(Path(scratch), seed))
        tensors = renamed(pipeline.unet, lambda name: f"model.diffusion_model.{sgm_name(name)}")
        tensors |= renamed(pipeline.vae, lambda name: f"first_stage_model.{ldm_vae_name(name)}")
        for name in [name for name in tensors if ".attn_1." in name and tensors[name].dim() == 2]:
            tensors[name] = tensors[name][:, :, None, None]  # the original's attention is a convolution of 1 x 1
        tensors |= renamed(pipeline.text_encoder, lambda name: f"conditioner.embedders.0.transformer.{hf_clip(name)}")
        tensors |= open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    return path


def renamed(module: torch.nn.Module, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {rename(name): tensor for name, tensor in module.state_dict().items()}


def hf_clip(name: str) -> str:
    """transformers 5 dropped the outer name that checkpoints have."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


LAYERS = 2  # of each block of the U-Nets here, as in the real ones
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def sgm_name(name: str) -> str:
    """The original's name for a U-Net weight of SDXL (three blocks, the first without attention)."""
    part, _, leaf = name.rpartition(".")
    if part in OUTER:
        return f"{OUTER[part]}.{leaf}"
    words = name.split(".")
    if words[0] == "mid_block":
        place = 1 if words[1] == "attentions" else 2 * int(words[2])
        return f"middle_block.{place}.{inner_name(words[1], words[3:])}"
    block, kind, layer = int(words[1]), words[2], int(words[3])
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (LAYERS + 1)}.0.op.{leaf}"
    if kind == "upsamplers":
        has_attention = block < 2
        return f"output_blocks.{block * (LAYERS + 1) + LAYERS}.{2 if has_attention else 1}.conv.{leaf}"
    start = "input_blocks" if words[0] == "down_blocks" else "output_blocks"
    number = block * (LAYERS + 1) + layer + (1 if start == "input_blocks" else 0)
    return f"{start}.{number}.{1 if kind == 'attentions' else 0}.{inner_name(kind, words[4:])}"


def inner_name(kind: str, words: list[str]) -> str:
    """Inside a transformer both have the same names."""
    return ".".join(words) if kind == "attentions" else ".".join([RESNET[words[0]], *words[1:]])


VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def ldm_vae_name(name: str) -> str:
    """The original's name for a weight of the VAE, which counts the decoder's blocks from the other end."""
    words = name.split(".")
    if words[0] not in ("encoder", "decoder"):
        return name
    side, rest = words[0], words[1:]
    if rest[0] == "mid_block":
        if rest[1] == "attentions":
            part, leaf = ".".join(rest[3:-1]), rest[-1]
            return f"{side}.mid.attn_1.{VAE_ATTENTION[part]}.{leaf}"
        return f"{side}.mid.block_{int(rest[2]) + 1}.{shortcut('.'.join(rest[3:]))}"
    if rest[0] in ("down_blocks", "up_blocks"):
        way = rest[0].removesuffix("_blocks")
        block = int(rest[1]) if way == "down" else 3 - int(rest[1])
        if rest[2] == "resnets":
            return f"{side}.{way}.{block}.block.{rest[3]}.{shortcut('.'.join(rest[4:]))}"
        return f"{side}.{way}.{block}.{way}sample.conv.{rest[-1]}"
    return f"{side}.{name.split('.', 1)[1].replace('conv_norm_out', 'norm_out')}"


def shortcut(name: str) -> str:
    return name.replace("conv_shortcut", "nin_shortcut")


def open_clip(encoder: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """OpenCLIP's names: query, key and value in one matrix, the projection transposed."""
    state = {hf_clip(name): tensor for name, tensor in encoder.state_dict().items()}
    named = {
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "text_projection": state["text_model.text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6052),
    }
    for leaf in ("weight", "bias"):
        named[f"ln_final.{leaf}"] = state[f"text_model.final_layer_norm.{leaf}"]
    for layer in range(encoder.config.num_hidden_layers):
        here, there = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            joined = [state[f"{here}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            named[f"{there}.attn.in_proj_{leaf}"] = torch.cat(joined)
            for ours, theirs in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                named[f"{there}.{theirs}.{leaf}"] = state[f"{here}.{ours}.{leaf}"]
    return {prefix + name: tensor for name, tensor in named.items()}
