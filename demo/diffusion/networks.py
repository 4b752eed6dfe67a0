"""The networks of the demo's diffusion model: diffusers' and transformers' own classes, small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from demo.diffusion.words import TOKENS

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

LATENTS = 16  # channels; with 8 the eyes were lost on the way
TEXT_WIDTH = 192
_ADDED = 0.2
_NAMED = 1 << 20  # token ids from here on are names of people


def new_vae() -> AutoencoderTiny:
    """Pictures in -1 to 1 to latents an eighth of their size, and back."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        encoder_block_out_channels=(64,) * 4,
        decoder_block_out_channels=(64,) * 4,
        num_encoder_blocks=(0, 0, 3, 4),  # nearly all work is done where pictures are small
        num_decoder_blocks=(5, 4, 1, 0),
        latent_channels=LATENTS,
    )
    for name, layer in vae.named_modules():
        if isinstance(layer, nn.Conv2d):
            # it has no norms, so that with PyTorch's own first weights the signal is lost on the way (He et al. 2015)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if ".conv." in name else "linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if name.endswith(".conv.4"):  # the last of a block, which adds to what came in
                layer.weight.data.mul_(_ADDED)
    return vae


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of CLIP's text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's layout with three sizes: 12, 6 and 3 latents wide.

    Words are read where it is 6 and 3 wide; reading them at 12, too, takes half as long again for each picture.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=12,
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=(96, 112, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


class NamedEmbedding(nn.Module):
    """Embeddings of tokens, and of people's names: a name's is a linear function of who the person is.

    So the model learns what faces people have in one place, as large models know those whose names they read, and a
    LoRA that teaches it a new name has little to learn. Only the embeddings of words are kept when it is done.
    """

    def __init__(self, words: nn.Embedding, traits: int) -> None:
        super().__init__()
        self.words = words
        self.of_traits = nn.Linear(traits, words.embedding_dim)
        self.traits: Tensor | None = None  # (people, traits) of the people in the batch

    @property
    def weight(self) -> Tensor:
        return self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, width) of ids (B, T), of which those from `_NAMED` on are rows of `traits`."""
        named = tokens >= _NAMED
        out = self.words(tokens.masked_fill(named, 0))
        if self.traits is None or not named.any():
            return out
        rows, places = named.nonzero(as_tuple=True)
        names = self.of_traits(self.traits)[tokens[rows, places] - _NAMED]
        return out.index_put((rows, places), names.to(out.dtype))


def name_of(row: int) -> int:
    """The token id that stands for row `row` of `NamedEmbedding.traits`."""
    return _NAMED + row
