"""Fourth stage: the text encoder says after the end of a prompt which expression it asks for.

The words for an expression stand anywhere in a prompt, and say little beside its other words: whichever part of the
U-Net was trained, it learned open mouths from closed ones and nothing else. Here the text encoder learns to add one
direction for each expression to every token after the last word, before its last norm, and to leave everything else as
it was. That takes minutes, as it needs no pictures: what it shall say is what it said before, and that direction.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from demo.diffusion import unet
from demo.diffusion.captions import Captions
from demo.diffusion.pictures import EXPRESSIONS, Pictures
from demo.diffusion.stages import Course, Stage, batches, discard
from demo.diffusion.words import telling_words

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

BATCH, RATE, FASTER = 64, 1e-3, ("embed", 10.0)
_LEARNS = "layers.1.self_attn"  # the last layer's attention, which fetches the words; and those words' own vectors
_SIZE = 1.0  # of the direction, by what the tokens have before it is added
_SHARED = 0.6  # of the direction: that an expression is told at all; the rest tells which
_SEED = 11  # the directions are drawn, and are the same for each training


def file_of(scratch: Path) -> Path:
    return scratch / "expression_words.pt"


def are_imported(scratch: Path) -> bool:
    """Whether the text encoder came with an exported model, which has the directions (`export.take_up`)."""
    return file_of(scratch).exists() and torch.load(file_of(scratch), weights_only=True)["seconds"] == float("inf")


def train(seen: Pictures, tokenizer: CLIPTokenizer, scratch: Path, minutes: float, seed: int) -> None:
    """Until its minutes are over."""
    torch.manual_seed(seed)
    _, before, named_before = unet.trained(tokenizer, scratch)
    _, encoder, named = unet.trained(tokenizer, scratch)
    before.requires_grad_(False)
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(_LEARNS in name)
    words = expression_of_tokens(tokenizer)
    only_these = (words >= 0).float()[:, None]
    named.weight.requires_grad_(True)
    named.weight.register_hook(lambda gradient: gradient * only_these)
    stage = Stage(Course(file_of(scratch), minutes, RATE, faster=FASTER), {"text_encoder": encoder})
    if not stage.is_over:
        discard(scratch / "expressions.pt")
    random = stage.random(seed)
    captions = Captions(seen.scenes, tokenizer, random)
    order = iter(batches(len(seen.scenes), BATCH, random))

    def loss_of_batch() -> dict[str, Tensor]:
        ids, traits = captions.of(next(order), random.random(BATCH) < 0.5)
        named.traits = named_before.traits = traits
        with torch.no_grad():
            shall, was = said_with_expressions(before, ids, asked_for(ids, words), tokenizer.eos_token_id)
        errors = (encoder(ids).last_hidden_state - shall).square().mean(-1)
        after = ids == tokenizer.eos_token_id
        missing, added = errors[after].mean(), (shall - was).square().mean(-1)[after].mean()
        return {"loss": missing + errors[~after].mean(), "left of the direction": missing / added}

    stage.run(loss_of_batch)


def said_with_expressions(encoder: CLIPTextModel, ids: Tensor, asked: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Two times (B, TOKENS, width): with the direction of the expression that is `asked` for (B,), -1 for none, and
    without it."""
    norm = next(one for name, one in encoder.named_modules() if name.endswith("final_layer_norm"))
    inside: list[Tensor] = []
    hook = norm.register_forward_hook(lambda _, inputs, __: inside.append(inputs[0]))
    was = encoder(ids).last_hidden_state
    hook.remove()
    after = (ids == end) & (asked >= 0)[:, None]
    size = inside[0][ids == end].square().mean().sqrt()
    added = _SIZE * size * directions(was.shape[-1])[asked.clamp(min=0)][:, None]
    return norm(inside[0] + added * after[..., None]), was


def directions(width: int) -> Tensor:
    """(E, width) of mean square 1: one direction that all expressions share, and one of its own for each."""
    drawn = torch.randn(width, len(EXPRESSIONS) + 1, generator=torch.Generator().manual_seed(_SEED))
    basis = torch.linalg.qr(drawn)[0].T
    own = nn.functional.normalize(basis[:-1] - basis[:-1].mean(0), dim=1)
    return width**0.5 * ((1 - _SHARED**2) ** 0.5 * own + _SHARED * basis[-1])


def expression_of_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """(vocabulary,) the place in EXPRESSIONS that a token tells of, -1 for none."""
    out = np.full(len(tokenizer), -1)
    for word, expression in telling_words().items():
        out[tokenizer.convert_tokens_to_ids(f"{word}</w>")] = list(EXPRESSIONS).index(expression)
    return torch.from_numpy(out)


def asked_for(ids: Tensor, words: Tensor) -> Tensor:
    """(B,) the place in EXPRESSIONS of the one that each of `ids` (B, TOKENS) asks for, -1 for none."""
    known = torch.where(ids < len(words), words[ids.clamp(max=len(words) - 1)], -1)
    return known.amax(1)
