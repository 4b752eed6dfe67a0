"""Training a LoRA: data, loop, state, samples, presets, and other programs' trainers."""
