"""Pictures drawn while a LoRA is trained: the same prompts and seeds after every epoch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.training.base import Prompt, encode_captions
from utils.console import UserError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


@dataclass
class Sampler:
    """Draws with the network that is being trained. `draw` needs no text encoder: prompts are encoded beforehand."""

    pipeline: Any  # without text encoders; its VAE is in float32, and on the CPU while it waits
    prompts: list[Prompt]
    nothing: Prompt  # what is to be avoided: the empty prompt
    seeds: list[int]
    size: int  # pixels, width and height
    steps: int  # of denoising

    def draw(self, accelerator: Accelerator, unet: Any, dtype: torch.dtype, folder: Path) -> None:
        """One PNG a prompt and seed into `folder`, a candidate for mirror_metrics.py."""
        import torch

        folder.mkdir(parents=True, exist_ok=True)
        self.pipeline.vae.to(accelerator.device)
        with torch.no_grad(), accelerator.autocast(), _looking(unet):
            self.pipeline.unet = unet
            for place, prompt in enumerate(self.prompts, start=1):
                for seed in self.seeds:
                    latents = self._latents(prompt, seed, accelerator.device, dtype)
                    self._picture(latents).save(folder / f"prompt{place:02d}_seed{seed}.png")
        self.pipeline.vae.to("cpu")

    def _latents(self, prompt: Prompt, seed: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        import torch

        embeds = {"prompt_embeds": prompt.embeds, "negative_prompt_embeds": self.nothing.embeds}
        if prompt.pooled is not None:
            embeds |= {"pooled_prompt_embeds": prompt.pooled, "negative_pooled_prompt_embeds": self.nothing.pooled}
        return self.pipeline(
            **{name: one[None].to(device, dtype) for name, one in embeds.items()},
            num_inference_steps=self.steps,
            height=self.size,
            width=self.size,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images

    def _picture(self, latents: torch.Tensor) -> Any:
        vae = self.pipeline.vae
        decoded = vae.decode(latents.float() / vae.config.scaling_factor, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(decoded.float())[0]


@contextmanager
def _looking(unet: Any) -> Iterator[None]:
    unet.eval()
    try:
        yield
    finally:
        unet.train()


def sample_as_trained(pipeline: Any, prediction: str, zero_snr: bool) -> None:
    """Samples are drawn by the schedule that is trained, where options say another than the model itself.

    A schedule that ends in pure noise must be drawn from its very end ("trailing", Lin et al. 2023, arXiv 2305.08891,
    section 3.3) and by a sampler that knows of it, as DDIM does.
    """
    from diffusers import DDIMScheduler

    config, kind = pipeline.scheduler.config, type(pipeline.scheduler)
    if (config.prediction_type, bool(config.get("rescale_betas_zero_snr"))) == (prediction, zero_snr):
        return
    changed: dict[str, Any] = {"prediction_type": prediction}
    if "rescale_betas_zero_snr" in inspect.signature(kind.__init__).parameters:
        changed["rescale_betas_zero_snr"] = zero_snr
    elif zero_snr:
        kind = DDIMScheduler
        changed["rescale_betas_zero_snr"] = True
    if zero_snr:
        changed["timestep_spacing"] = "trailing"
    pipeline.scheduler = kind.from_config(config, **changed)


def make_sampler(
    pipeline: Any, texts: list[str], seeds: list[int], size: int, steps: int, device: torch.device
) -> Sampler:
    """Encodes the prompts; the pipeline must have its text encoders still."""
    encoded = encode_captions(pipeline, ["", *texts], device, lambda: None)
    return Sampler(pipeline, [encoded[text] for text in texts], encoded[""], seeds, size, steps)


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are neither empty nor comments (#). Raises UserError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sample-prompts {path} cannot be read as text: {error}.") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise UserError(f"--sample-prompts {path} has no lines; it takes one prompt a line.")
    return prompts
