"""Making images: base-model families, pipelines, LoRA files, prompts."""
