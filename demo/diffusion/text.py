"""Second stage: the text encoder learns to tell from a caption what its picture shows.

A text encoder that begins at random together with the U-Net tells left from right too late: the U-Net has learned to do
without by then. This takes minutes, as it needs no pictures, only what is true of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from demo.diffusion.captions import Captions
from demo.diffusion.networks import TEXT_WIDTH, NamedEmbedding, new_text_encoder
from demo.diffusion.pictures import EXPRESSIONS, Pictures, traits
from demo.diffusion.stages import Course, Stage, batches
from demo.diffusion.words import light_of
from demo.identity import mean_identity
from demo.scene import BACKGROUNDS, Scene

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

BATCH, RATE = 64, 1e-3
_LIGHTS = ("normal", "low_key", "high_key")


def file_of(scratch: Path) -> Path:
    return scratch / "text.pt"


def new_named_encoder(tokenizer: CLIPTokenizer, people_traits: int) -> tuple[CLIPTextModel, NamedEmbedding]:
    """A text encoder whose token embeddings know names, too."""
    encoder = new_text_encoder(tokenizer)
    words = encoder.get_input_embeddings()
    nn.init.normal_(words.weight, std=0.5)  # words apart from each other: position must not drown them
    named = NamedEmbedding(words, people_traits)
    encoder.set_input_embeddings(named)
    return encoder, named


def train(seen: Pictures, tokenizer: CLIPTokenizer, scratch: Path, minutes: float, seed: int) -> None:
    """Until its minutes are over."""
    torch.manual_seed(seed)
    encoder, named = new_named_encoder(tokenizer, traits_of_a_person())
    facts = torch.from_numpy(np.stack([facts_of(scene) for scene in seen.scenes]))
    answers = nn.Linear(TEXT_WIDTH, facts.shape[1] + traits_of_a_person())
    stage = Stage(Course(file_of(scratch), minutes, RATE), {"text_encoder": encoder, "answers": answers})
    random = stage.random(seed)
    captions = Captions(seen.scenes, tokenizer, random)
    order = iter(batches(len(seen.scenes), BATCH, random))

    def loss_of_batch() -> dict[str, Tensor]:
        chosen = next(order)
        mirrored = random.random(BATCH) < 0.5
        ids, named.traits = captions.of(chosen, mirrored, unsaid=0.0)
        told = answers(encoder(ids).pooler_output)
        true = facts[torch.from_numpy(chosen)].clone()
        true[torch.from_numpy(mirrored), :2] *= -1
        errors = (told - torch.cat([true, named.traits], 1)).square()
        return {"loss": errors.mean(), "sides": errors[:, 0].mean(), "who": errors[:, facts.shape[1] :].mean()}

    stage.run(loss_of_batch)


def facts_of(scene: Scene) -> np.ndarray:
    """What a caption may tell of a scene, (F,) float32; the first two change sign in the mirror."""
    turn = scene.yaw_deg / 45
    one_of = [
        *(scene.expression == name for name in EXPRESSIONS),
        *(scene.background == name for name in BACKGROUNDS),
        *(light_of(scene) == name for name in _LIGHTS),
        scene.eyes_closed,
    ]
    return np.array([turn, np.tanh(2 * turn), abs(turn), 4 * scene.fill, *map(float, one_of)], np.float32)


def traits_of_a_person() -> int:
    """How many numbers tell who somebody is."""
    return len(traits(mean_identity()))
