"""A prompts file in JSON: a fixed plan of images, which people write too."""

from __future__ import annotations

from pydantic import Field

from mirror.contracts.contract import Contract

MAX_SEED = 2**32 - 1  # what A1111 and ComfyUI take too


class PlannedPrompt(Contract):
    """One image of a fixed plan; its file gets `name`, or its number in the plan."""

    prompt: str = Field(min_length=1)
    seed: int = Field(ge=0, le=MAX_SEED)
    name: str | None = None
    negative_prompt: str | None = None


class PromptPlan(Contract):
    """A JSON file for `generate_synthetic.py --prompts-file`: the same pictures with every model and LoRA.

    People write it, so it has no `schema_version`.
    """

    images: list[PlannedPrompt]
