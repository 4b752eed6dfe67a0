"""What does generate_synthetic.py cost beside a bare diffusers loop that makes the same images?

    python -m benchmarks.generate_bench                    # tiny SDXL of random weights on the CPU, about 2 minutes
    python -m benchmarks.generate_bench --cuda             # SDXL at its true size, random weights, 1024 pixels
    python -m benchmarks.generate_bench --cuda --low-vram

Both load the same model and LoRA and make the same images with the same seeds, each in a process of its own, in turns.
The bare loop calls the pipeline and saves the pictures, and does nothing else. Seconds per image are the median from
one picture to the next, without loading, of which the script does more; of each way the fastest run counts, as others
may use the machine. The memory is the process's peak, and on a GPU what PyTorch reserved at most. Runs on Linux and
macOS. --cuda has not been run by us on a real GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PERSON, PROMPTS = "ohwx person", "prompts.json"


def build_model(folder: Path, cuda: bool) -> None:
    """SDXL with random weights: tiny, or as large as the real one in float16."""
    from tests.fixtures import tiny_models

    if not cuda:
        tiny_models.tiny_sdxl(folder)
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("--cuda: PyTorch finds no NVIDIA GPU here.")
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.float16)
    full_sdxl(folder, tiny_models)
    torch.set_default_device("cpu")
    torch.set_default_dtype(torch.float32)


def full_sdxl(folder: Path, tiny_models) -> None:
    """The layout of stabilityai/stable-diffusion-xl-base-1.0, as it is configured; only the vocabulary is small."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    one = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **small)
    two = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
        **small,
    )
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_models.with_contrast(vae.eval(), torch.randn(1, 4, 16, 16)),
        text_encoder=CLIPTextModel(one),
        text_encoder_2=CLIPTextModelWithProjection(two),
        tokenizer=tiny_models.clip_tokenizer(folder / "tokenizer"),
        tokenizer_2=tiny_models.clip_tokenizer(folder / "tokenizer_2"),
        unet=unet,
        scheduler=tiny_models.noise_schedule(),
    )
    pipeline.save_pretrained(folder)


def build_lora(path: Path, model: Path, rank: int) -> None:
    """A kohya LoRA of the U-Net's transformers."""
    from diffusers import UNet2DConditionModel

    from tests.fixtures import lora_files

    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    lora_files.write(path, lora_files.kohya_unet_sdxl(unet, rank, strength=1e-3))


def write_plan(path: Path, images: int) -> None:
    plan = [{"prompt": f"photo of {PERSON}, number {i}", "seed": i, "name": f"{i:03d}"} for i in range(images)]
    path.write_text(json.dumps({"images": plan}))


def bare_loop(args: argparse.Namespace) -> None:
    """Load, place, call, save: what one would write by hand. Prints what it took as JSON."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    kind, device = (torch.float16, "cuda") if args.cuda else (torch.float32, "cpu")
    pipeline = StableDiffusionXLPipeline.from_pretrained(args.folder / "model", dtype=kind)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(args.folder), weight_name="lora.safetensors")
    if args.low_vram:
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_tiling()
    if args.low_vram and args.cuda:
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.to(device)
    (args.folder / "bare").mkdir(exist_ok=True)
    for one in json.loads((args.folder / PROMPTS).read_text())["images"]:
        picture = pipeline(
            prompt=one["prompt"],
            negative_prompt="lowres, blurry",
            num_inference_steps=args.steps,
            guidance_scale=7.5,
            width=args.size,
            height=args.size,
            generator=torch.Generator("cpu").manual_seed(one["seed"]),
        ).images[0]
        picture.save(args.folder / "bare" / f"{one['name']}.png")
    print_gpu_memory()


def print_gpu_memory() -> None:
    import torch

    if torch.cuda.is_available():
        print(f"GPU {torch.cuda.max_memory_reserved()}", file=sys.stderr)


def script(args: argparse.Namespace) -> None:
    """generate_synthetic.py takes the place of this process; its metadata tell the GPU's memory."""
    command = [
        sys.executable,
        ROOT / "generate_synthetic.py",
        "--prompts-file",
        args.folder / PROMPTS,
        "--base-model",
        args.folder / "model",
    ]
    command += ["--lora", args.folder / "lora.safetensors", "--output", args.folder / "ours"]
    command += ["--steps", args.steps, "--guidance", 7.5, "--width", args.size, "--height", args.size]
    command += ["--negative", "lowres, blurry", *(["--low-vram"] if args.low_vram else [])]
    os.execv(sys.executable, list(map(str, command)))


def measure(way: str, args: argparse.Namespace) -> dict[str, float]:
    """One process: seconds in all and per image, peak memory in MiB."""
    folder = args.folder / ("bare" if way == "bare" else "ours")
    for file in folder.glob("*"):
        file.unlink()
    command = [sys.executable, "-m", "benchmarks.generate_bench", "--way", way, "--folder", str(args.folder)]
    command += ["--steps", str(args.steps), "--size", str(args.size)]
    command += [option for option in ("--cuda", "--low-vram") if getattr(args, option[2:].replace("-", "_"))]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as talk:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=talk)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        talk.seek(0)
        said = talk.read()
    if status:
        raise SystemExit(f"{way} failed:\n{said}")
    written = sorted(path.stat().st_mtime_ns for path in folder.glob("*.png"))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, Linux KiB
    gpu = [int(line.split()[1]) / (1 << 20) for line in said.splitlines() if line.startswith("GPU ")]
    if way == "script":
        settings = json.loads((folder / "generation_metadata.json").read_text())["settings"]
        gpu = [(settings["gpu_memory_bytes"] or 0) / (1 << 20)]
    return {
        "seconds": seconds,
        "per image": statistics.median(later - earlier for earlier, later in pairwise(written)) / 1e9,
        "MiB": usage.ru_maxrss / unit,
        "GPU MiB": gpu[-1] if gpu else 0.0,
    }


def compare(args: argparse.Namespace) -> None:
    """Both ways in turns, and the ratio of their fastest runs."""
    build_model(args.folder / "model", args.cuda)
    build_lora(args.folder / "lora.safetensors", args.folder / "model", args.rank)
    write_plan(args.folder / PROMPTS, args.images)
    found: dict[str, list[dict[str, float]]] = {"bare": [], "script": []}
    for _ in range(args.repeats):
        for way, runs in found.items():
            runs.append(measure(way, args))
    same_pictures(args.folder)
    print(f"SDXL, {'true size' if args.cuda else 'tiny'}, {args.size} pixels, {args.steps} steps, {args.images} images")
    fastest = {way: min(runs, key=lambda run: run["per image"]) for way, runs in found.items()}
    for way, run in fastest.items():
        print(f"{way:>7}: " + ", ".join(f"{name} {value:.3f}" for name, value in run.items()))
    print(
        f"speed of the script by the bare loop's: {fastest['bare']['per image'] / fastest['script']['per image']:.3f}"
    )


def same_pictures(folder: Path) -> None:
    """Both ways must have made the same images, or the comparison means nothing."""
    import numpy as np
    from PIL import Image

    for path in sorted((folder / "bare").glob("*.png")):
        one, other = (np.asarray(Image.open(at), int) for at in (path, folder / "ours" / path.name))
        if np.abs(one - other).mean() > 1:
            raise SystemExit(f"{path.name} differs between the two ways")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cuda", action="store_true", help="true size on an NVIDIA GPU")
    parser.add_argument("--low-vram", action="store_true", help="both ways with offload, VAE slicing and tiling")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--steps", type=int, help="(default: 10, with --cuda 30)")
    parser.add_argument("--size", type=int, help="pixels (default: 128, with --cuda 1024)")
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=("bare", "script"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.steps = args.steps or (30 if args.cuda else 10)
    args.size = args.size or (1024 if args.cuda else 128)
    if args.way:
        {"bare": bare_loop, "script": script}[args.way](args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        args.folder = Path(scratch)
        compare(args)


if __name__ == "__main__":
    main()
