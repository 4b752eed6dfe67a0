"""What does train_lora.py cost beside a bare diffusers loop that takes the same steps?

    python -m benchmarks.train_bench            # tiny SDXL of random weights on the CPU, about 2 minutes
    python -m benchmarks.train_bench --cuda     # SDXL at its true size, random weights, 1024 pixels, rank 32

Both train the same layers on the same number of pictures, each in a process of its own, in turns. The bare loop holds
random latents and text embeddings and does nothing but noise, predict, learn: no weighting, log or checkpoint. Seconds
per step are the fastest epoch's mean of the script, without its checkpoint, and the fastest of as many steps of the
loop; of all rounds the fastest counts, as others may use the machine. The memory is the process's peak, and on a GPU
what PyTorch reserved at most. Runs on Linux and macOS. --cuda has not been run by us on a real GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.generate_bench import ROOT, build_model

PICTURES, EPOCHS = 10, 3  # batch 1: as many steps an epoch


def write_pictures(folder: Path, side: int) -> None:
    """Square pictures of noise, so that all are in one bucket."""
    from PIL import Image

    folder.mkdir()
    for number in range(PICTURES):
        array = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")


def measured(command: list[str]) -> tuple[str, float]:
    """(stdout, peak MiB of the process). Ends the benchmark where the command fails."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    talk = process.stdout.read()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
    return talk, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def run_script(model: Path, pictures: Path, output: Path, side: int, rank: int, cuda: bool) -> dict:
    """Seconds per step, MiB and MiB of the GPU of train_lora.py."""
    options = [
        "--base-model",
        model,
        "--output",
        output,
        "--trigger",
        "ohwx person",
        "--resolution",
        side,
        "--rank",
        rank,
    ]
    options += ["--batch", 1, "--repeats", 1, "--epochs", EPOCHS, "--overwrite", "--no-cache", "--optimizer", "adamw"]
    options += ["--device", "cuda" if cuda else "cpu"]
    _, memory = measured([sys.executable, "train_lora.py", str(pictures), *map(str, options)])
    log = json.loads((output / "training_log.json").read_text(encoding="utf-8"))
    seconds = min(epoch["seconds"] / len(epoch["losses"]) for epoch in log["epochs"])
    gpu = log["gpu_memory_bytes"]
    return {"seconds": seconds, "mib": memory, "gpu_mib": gpu / (1 << 20) if gpu else None}


def run_bare(model: Path, side: int, rank: int, cuda: bool) -> dict:
    """The same of the bare loop, in a process of its own."""
    options = ["--bare", model, "--side", side, "--rank", rank, *(["--cuda"] if cuda else [])]
    answer, memory = measured([sys.executable, "-m", "benchmarks.train_bench", *map(str, options)])
    return json.loads(answer.splitlines()[-1]) | {"mib": memory}


def bare_loop(model: Path, side: int, rank: int, cuda: bool) -> dict:
    """Noise, predict, learn."""
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=dtype).requires_grad_(False)
    layers = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank / 2, target_modules=layers))
    cast_training_params(unet, torch.float32)
    unet.enable_gradient_checkpointing()
    unet.to(device).train()
    parameters = [one for one in unet.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    latents = torch.randn(1, 4, side // 8, side // 8, device=device)
    embeds = torch.randn(1, 77, unet.config.cross_attention_dim, device=device, dtype=dtype)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    added = {
        "text_embeds": torch.randn(1, pooled, device=device, dtype=dtype),
        "time_ids": torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=dtype),
    }
    best = float("inf")
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for _ in range(PICTURES):
            noise, at = torch.randn_like(latents), torch.randint(0, 1000, (1,), device=device)
            with torch.autocast(device, dtype, enabled=cuda):
                noisy = schedule.add_noise(latents, noise, at).to(dtype)
                guess = unet(noisy, at, embeds, added_cond_kwargs=added).sample
            torch.nn.functional.mse_loss(guess.float(), noise).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / PICTURES)
    gpu = torch.cuda.max_memory_reserved() / (1 << 20) if cuda else None
    return {"seconds": best, "gpu_mib": gpu}


def fastest(runs: list[dict]) -> dict:
    return min(runs, key=lambda run: run["seconds"])


def compare(cuda: bool, rounds: int) -> None:
    side, rank = (1024, 32) if cuda else (64, 4)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        build_model(root / "model", cuda)
        write_pictures(root / "pictures", side)
        both: dict[str, list[dict]] = {"train_lora.py": [], "bare loop": []}
        for _ in range(rounds):
            both["train_lora.py"].append(run_script(root / "model", root / "pictures", root / "out", side, rank, cuda))
            both["bare loop"].append(run_bare(root / "model", side, rank, cuda))
    what = f"SDXL {'true size' if cuda else 'tiny'}, {side} pixels, rank {rank}"
    print(f"| {what} | seconds per step | peak MiB | GPU MiB |")
    print("|---|---|---|---|")
    for name, runs in both.items():
        best = fastest(runs)
        gpu = "-" if best["gpu_mib"] is None else f"{best['gpu_mib']:.0f}"
        print(f"| {name} | {best['seconds']:.3f} | {best['mib']:.0f} | {gpu} |")
    ratio = fastest(both["bare loop"])["seconds"] / fastest(both["train_lora.py"])["seconds"]
    print(f"speed of the bare loop reached: {ratio:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cuda", action="store_true", help="true size on an NVIDIA GPU")
    parser.add_argument("--rounds", type=int, default=2, help="each way is run so often (default: 2)")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)  # the bare loop itself, in its own process
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(json.dumps(bare_loop(args.bare, args.side, args.rank, args.cuda)))
    else:
        compare(args.cuda, args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
