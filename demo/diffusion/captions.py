"""Captions of the training's pictures as token ids, with people's names in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from demo.diffusion.networks import name_of
from demo.diffusion.pictures import EXPRESSIONS, traits
from demo.diffusion.words import FACE, FACES, NAME, RARE, TOKENS, caption_of, vocabulary, words_in
from demo.scene import Scene
from mirror.generation.prompts import NEGATIVE

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

NAMED = 0.6  # share of captions that name the person
# Share without a caption, for classifier-free guidance (Ho and Salimans 2022), or with the usual negative prompt, which
# says nothing about rendered heads either.
UNSAID = 0.12


class Captions:
    """A new caption of a picture each time; a mirrored picture has the other side's words."""

    def __init__(self, scenes: list[Scene], tokenizer: CLIPTokenizer, random: np.random.Generator) -> None:
        self.scenes, self.tokenizer, self.random = scenes, tokenizer, random
        self.traits = torch.from_numpy(np.stack([traits(scene.who) for scene in scenes]))
        self._placeholder = tokenizer.convert_tokens_to_ids(f"{RARE[0]}</w>")
        self._known = {word: tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in vocabulary()}

    def of(self, chosen: np.ndarray, mirrored: np.ndarray, unsaid: float = UNSAID) -> tuple[Tensor, Tensor]:
        """(token ids (B, TOKENS), traits (B, T)) of pictures; names count the rows of the traits."""
        ids = []
        for row, (index, turned) in enumerate(zip(chosen, mirrored, strict=True)):
            named = self.random.random() < NAMED
            text = caption_of(seen_in_mirror(self.scenes[index]) if turned else self.scenes[index], self.random, named)
            if self.random.random() < unsaid:
                text = str(self.random.choice(["", NEGATIVE]))
            ids.append(self._ids(text, row))
        return torch.tensor(ids), self.traits[torch.from_numpy(chosen)]

    def of_faces(self, chosen: np.ndarray, mirrored: np.ndarray) -> tuple[Tensor, Tensor]:
        """(token ids (B * E, TOKENS), traits (B, T)): one caption of each scene, with words for each expression."""
        ids = []
        for row, (index, turned) in enumerate(zip(chosen, mirrored, strict=True)):
            scene = self.scenes[index]
            named = self.random.random() < NAMED
            text = caption_of(seen_in_mirror(scene) if turned else scene, self.random, named, FACE)
            for expression in EXPRESSIONS:
                ids.append(self._ids(text.replace(FACE, str(self.random.choice(FACES[expression]))), row))
        return torch.tensor(ids), self.traits[torch.from_numpy(chosen)]

    def _ids(self, text: str, row: int) -> list[int]:
        """What the tokenizer makes of it, but sooner: every word is one token."""
        named, words = NAME in text, words_in(text.replace(NAME, RARE[0]))
        known = [self._known[word] for word in words][: TOKENS - 2]
        ids = [self.tokenizer.bos_token_id, *known, self.tokenizer.eos_token_id]
        ids += [self.tokenizer.pad_token_id] * (TOKENS - len(ids))
        return [name_of(row) if named and one == self._placeholder else one for one in ids]


def seen_in_mirror(scene: Scene) -> Scene:
    """What matters for words: which way the nose points."""
    return replace(scene, yaw_deg=-scene.yaw_deg)
