"""The demo's diffusion model: what it learns from, its networks and the stages of its training."""
