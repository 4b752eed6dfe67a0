"""train_lora.py on tiny models: it learns, as a plain diffusers loop does, again and again the same, through kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script
from tiny_models import sgm_name, tiny_sd15, tiny_sdxl, tiny_sdxl_single_file

import train_lora
from mirror.contracts.contract import read_contract
from mirror.contracts.training import TrainingLog
from mirror.training import loop as training_loop
from utils.console import UserError

# A training of seconds: 64 pixels, few pictures. The learning rate is high, as there are few steps.
SMALL = ("--trigger", "ohwx alice", "--resolution", "64", "--rank", "4", "--repeats", "2", "--batch", "2")
SMALL += ("--no-gradient-checkpointing", "--learning-rate", "0.01", "--warmup", "0", "--no-cache", "--debug")


@pytest.fixture(autouse=True)
def one_thread():
    """The tests' own process computes as their subprocesses do: sums of another order have other last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("base") / "sdxl")


@pytest.fixture(scope="module")
def sd15_velocity(tmp_path_factory) -> Path:
    """A base of v-prediction and zero terminal SNR."""
    return tiny_sd15(tmp_path_factory.mktemp("base") / "sd15", prediction_type="v_prediction", zero_snr=True)


def make_dataset(folder: Path, sizes=((64, 64), (96, 64), (64, 96)), seed: int = 0) -> Path:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        small = np.random.default_rng(seed + number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a photo of a woman")
    return folder


def command(dataset: Path, base: Path, output: Path, *more: object) -> list[str]:
    return list(map(str, (dataset, "--base-model", base, "--output", output, *SMALL, *more)))


def train(dataset: Path, base: Path, output: Path, *more: object) -> TrainingLog:
    """In this process."""
    assert train_lora.run(train_lora.parse_args(command(dataset, base, output, *more))) == 0
    return log_of(output)


def log_of(output: Path) -> TrainingLog:
    return read_contract(output / "training_log.json", TrainingLog, "train_lora.py")


def start(dataset: Path, base: Path, output: Path, *more: object) -> subprocess.Popen:
    """As users do, without waiting for the end."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train_lora.py"), *command(dataset, base, output, *more)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def launch(options: tuple, arguments: list[str]) -> subprocess.CompletedProcess:
    """accelerate launch."""
    start = [sys.executable, "-m", "accelerate.commands.launch", *map(str, options), str(ROOT / "train_lora.py")]
    return subprocess.run(
        [*start, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


# Learning


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sdxl):
    """One training with everything switched on, by accelerate launch."""
    root = tmp_path_factory.mktemp("trained")
    make_dataset(root / "dataset")
    make_dataset(root / "held out", [(64, 64)] * 2, seed=50)
    (root / "prompts.txt").write_text("# what to draw\na photo of ohwx alice\n")
    options = ("--epochs", 3, "--validation", root / "held out", "--sample-prompts", root / "prompts.txt")
    options += ("--sample-steps", 2, "--learning-rate", 0.05, "--rank", 16, "--alpha", 12)
    arguments = command(root / "dataset", sdxl, root / "out", *options)
    done = launch(("--cpu", "--num_processes", 2), arguments)
    assert done.returncode == 0, done.stderr
    return root, options, done


def test_it_learns_what_held_out_pictures_share(trained):
    root, _, done = trained
    log = log_of(root / "out")
    after = [epoch.validation_loss for epoch in log.epochs]
    assert after[-1] < after[0] < log.validation_loss_before, "at the same noise and timesteps each time"
    assert after[-1] < 0.97 * log.validation_loss_before
    assert f"{log.validation_loss_before:.4f} before, {after[-1]:.4f} after" in done.stdout


def test_what_a_training_leaves(trained):
    root, _, done = trained
    names = {path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*") if path.is_file()}
    epochs = [f"ohwx_alice-{number:06d}" for number in (1, 2, 3)]
    assert names == {
        "lora.safetensors",
        "training_log.json",
        *(f"{name}.safetensors" for name in epochs),
        *(f"samples/{name}/prompt01_seed42.png" for name in epochs),
    }
    log = log_of(root / "out")
    assert (log.finished, log.lora, log.images, log.samples_per_epoch, log.steps) == (True, "lora.safetensors", 3, 6, 9)
    assert [len(epoch.losses) for epoch in log.epochs] == [3, 3, 3]
    assert log.buckets == {"48x80": 1, "64x64": 1, "80x48": 1}
    assert re.fullmatch(r"sdxl@[0-9a-f]{12}", log.base_model)
    assert "Traceback" not in done.stderr and "newly" not in done.stderr, "the libraries' remarks are kept quiet"


def test_samples_are_candidates_of_mirror_metrics(trained, metrics, tiny_pack):
    root, _, _ = trained
    run = metrics("--pack", tiny_pack, reference=root / "dataset", candidates=root / "out" / "samples")
    assert run.code == 0, run.stderr
    groups = [group["name"] for group in run.summary["groups"] if group["type"] == "Candidate"]
    assert groups == ["ohwx_alice-000001", "ohwx_alice-000002", "ohwx_alice-000003"]


def test_same_seed_same_bytes_and_another_seed_other_ones(trained, sdxl, tmp_path):
    root, options, _ = trained
    train(root / "dataset", sdxl, tmp_path / "again", *options)
    for name in ("lora.safetensors", "ohwx_alice-000001.safetensors", "samples/ohwx_alice-000003/prompt01_seed42.png"):
        assert (tmp_path / "again" / name).read_bytes() == (root / "out" / name).read_bytes(), name
    train(root / "dataset", sdxl, tmp_path / "other", "--epochs", 1, "--seed", 43)
    other = (tmp_path / "other" / "ohwx_alice-000001.safetensors").read_bytes()
    assert other != (root / "out" / "ohwx_alice-000001.safetensors").read_bytes()


# Against a plain loop


def plain_losses(base: Path, dataset: Path, count: int, settings: dict) -> list[float]:
    """The first losses of a loop written with diffusers, peft and PyTorch alone; only order and noise are ours."""
    import torch
    from diffusers import DDPMScheduler, DiffusionPipeline
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import compute_snr
    from peft import LoraConfig
    from PIL import Image

    from mirror.training.noising import epoch_batches, sample_noise

    pipe = DiffusionPipeline.from_pretrained(base)
    is_xl = hasattr(pipe, "text_encoder_2")
    velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    schedule = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if velocity else "epsilon",
        rescale_betas_zero_snr=velocity,
    )
    pipe.unet.requires_grad_(False)
    torch.manual_seed(settings["seed"])
    layers = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
    pipe.unet.add_adapter(LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=layers))
    parameters = [one for one in pipe.unet.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings["learning_rate"])
    rates = get_cosine_schedule_with_warmup(optimizer, 0, settings["steps"])
    pipe.unet.train()
    pixels, captions = [], []
    for path in sorted(dataset.glob("*.png")):  # all of one size, the size of their bucket
        array = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 127.5 - 1
        pixels.append(torch.from_numpy(array).permute(2, 0, 1))
        captions.append("ohwx alice, a photo of a woman" if path.stem == "0" else "ohwx alice")
    samples = [number for number in range(len(pixels)) for _ in range(2)]
    losses = []
    batches = epoch_batches([0] * len(samples), settings["batch"], settings["seed"], "order", 1)
    for step in range(count):
        group = batches[step * settings["accumulate"] : (step + 1) * settings["accumulate"]]
        total = 0.0
        for place, batch in enumerate(group):
            chosen = [samples[sample] for sample in batch]
            with torch.no_grad():
                images = torch.stack([pixels[one] for one in chosen])
                latents = pipe.vae.encode(images).latent_dist.mode() * pipe.vae.config.scaling_factor
                encoded = pipe.encode_prompt([captions[one] for one in chosen], "cpu", 1, False) if not is_xl else (
                    pipe.encode_prompt([captions[one] for one in chosen], do_classifier_free_guidance=False)
                )  # fmt: skip
            offset = settings["noise_offset"]
            seed = (settings["seed"], "noise", 1, step, place, 0)
            noise, at = sample_noise(latents.shape, schedule.config.num_train_timesteps, offset, *seed)
            added = None
            if is_xl:
                ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * len(batch))
                added = {"text_embeds": encoded[2], "time_ids": ids}
            noisy = schedule.add_noise(latents, noise, at)
            guess = pipe.unet(noisy, at, encoded[0], added_cond_kwargs=added).sample
            target = schedule.get_velocity(latents, noise, at) if velocity else noise
            snr = compute_snr(schedule, at)
            weights = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / snr
            weights = torch.ones_like(snr) if velocity else weights  # of a base that ends in pure noise
            loss = (torch.nn.functional.mse_loss(guess, target, reduction="none").mean(dim=(1, 2, 3)) * weights).mean()
            (loss / len(group)).backward()
            total += float(loss) / len(group)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


@pytest.mark.parametrize(("model", "accumulate"), [("sdxl", 1), ("sd15_velocity", 2)])
def test_losses_equal_those_of_a_plain_loop(model, accumulate, request, tmp_path):
    base = request.getfixturevalue(model)
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)] * 10)
    log = train(dataset, base, tmp_path / "out", "--epochs", 1, "--accumulate", accumulate)
    first = log.epochs[0].losses[:5]
    assert len(first) == 5
    assert first == pytest.approx(plain_losses(base, dataset, 5, log.settings), abs=1e-4)
    velocity = model == "sd15_velocity"
    assert (log.settings["prediction"] == "v_prediction", log.settings["zero_terminal_snr"]) == (velocity, velocity)
    assert (log.settings["noise_offset"] == 0, log.settings["min_snr_gamma"] == 0) == (velocity, velocity)


def test_gradient_checkpointing_changes_nothing_but_memory(sd15_velocity, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)])
    kept = train(dataset, sd15_velocity, tmp_path / "kept", "--epochs", 1)
    again = train(dataset, sd15_velocity, tmp_path / "again", "--epochs", 1, "--gradient-checkpointing")
    assert again.epochs[0].losses == pytest.approx(kept.epochs[0].losses, abs=1e-5)


def test_weights_and_rates_in_closed_form():
    import torch
    from diffusers.optimization import get_cosine_schedule_with_warmup

    from mirror.training.noising import learning_rate_factor, min_snr_weights, noise_schedule

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    at = torch.tensor([0, 400, 999])
    plain = noise_schedule(config, "epsilon", False)
    snr = plain.alphas_cumprod[at] / (1 - plain.alphas_cumprod[at])
    assert snr[0] > 5 > snr[2]
    assert min_snr_weights(plain, at, 5.0).tolist() == pytest.approx([5 / float(snr[0]), min(1, 5 / float(snr[1])), 1])
    assert min_snr_weights(plain, at, 0.0).tolist() == [1, 1, 1]
    zero = noise_schedule(config, "v_prediction", True)
    assert float(zero.alphas_cumprod[-1]) == 0 and min_snr_weights(zero, at, 5.0)[2] == 0
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = get_cosine_schedule_with_warmup(optimizer, 0, 20)
    for step in range(20):
        assert learning_rate_factor(step, 20, 0) == pytest.approx(rates.get_last_lr()[0])
        optimizer.step()
        rates.step()
    warm = [learning_rate_factor(step, 20, 4) for step in range(20)]
    assert 0 < warm[0] < warm[3] < warm[4] == 1.0 and warm[4:] == sorted(warm[4:], reverse=True)


# Interrupted


def test_ctrl_c_then_a_kill_then_resume_gives_the_weights_of_an_undisturbed_run(sd15_velocity, tmp_path):
    dataset, options = make_dataset(tmp_path / "dataset", [(64, 64)] * 5), ("--epochs", 3, "--batch", 1)
    undisturbed = train(dataset, sd15_velocity, tmp_path / "undisturbed", *options)
    out = tmp_path / "disturbed"
    process = start(dataset, sd15_velocity, out, *options)
    wait_for(out / "ohwx_alice-000001.safetensors", process)
    time.sleep(0.5)  # for its state, and the first step of the next epoch
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=120)
    assert process.returncode == 130, talk
    stopped = list(out.glob("ohwx_alice-step*.safetensors"))
    assert len(stopped) == 1 and "Stopping after this step" in talk and "--resume goes on" in talk
    assert 10 < int(stopped[0].stem[-8:]) < 20, "in the middle of the second epoch"
    process = start(dataset, sd15_velocity, out, *options, "--resume")
    wait_for(out / "ohwx_alice-000002.safetensors", process)
    process.kill()
    process.communicate(timeout=120)
    assert not (out / "lora.safetensors").exists()
    resumed = train(dataset, sd15_velocity, out, *options, "--resume")
    assert (out / "lora.safetensors").read_bytes() == (tmp_path / "undisturbed" / "lora.safetensors").read_bytes()
    assert [one.losses for one in resumed.epochs] == [one.losses for one in undisturbed.epochs]
    assert resumed.finished and resumed.steps == 30 and not (out / "training_state.pt").exists()
    before = (out / "lora.safetensors").stat().st_mtime_ns
    train(dataset, sd15_velocity, out, *options, "--resume")
    assert (out / "lora.safetensors").stat().st_mtime_ns == before, "finished: nothing is left to do"


def test_resume_wants_the_same_settings_and_a_whole_state(sd15_velocity, tmp_path, monkeypatch):
    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)]), tmp_path / "out"
    monkeypatch.setattr(training_loop, "finish", lambda job: None)  # as if it ended after its last epoch
    train(dataset, sd15_velocity, out, "--epochs", 1)
    for change, named in (
        (("--rank", 8), "another rank (4 then, 8 now)"),
        (("--seed", 7), "another seed"),
        (("--batch", 1), "another batch (2 then, 1 now)"),  # and not the number of steps, which follows from it
        (("--resolution", 128), "another resolution"),  # and not the cropping
        (("--name", "bob"), "another name (ohwx_alice then, bob now)"),
        (("--trigger", "ohwx bob", "--name", "ohwx_alice"), "another trigger"),
        (("--epochs", 2), "another number of epochs (1 then, 2 now)"),
    ):
        with pytest.raises(UserError, match=re.escape(f"was begun with {named}")):
            train(dataset, sd15_velocity, out, "--epochs", 1, "--resume", *change)
    (dataset / "0.txt").write_text("another caption")
    with pytest.raises(UserError, match="begun with another dataset"):
        train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")
    (out / "training_state.pt").write_bytes((out / "training_state.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"training_state\.pt is damaged"):
        train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")
    (out / "training_state.pt").unlink()
    with pytest.raises(UserError, match=r"holds ohwx_alice-000001\.safetensors, but no training_state\.pt"):
        train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")


def test_another_cropping_makes_another_lora(sd15_velocity, tmp_path, monkeypatch):
    from mirror.training import data as training_data

    dataset, out = make_dataset(tmp_path / "dataset", [(400, 64)]), tmp_path / "out"
    monkeypatch.setattr(training_loop, "finish", lambda job: None)
    train(dataset, sd15_velocity, out, "--epochs", 1)
    plain = training_data.assign_buckets
    monkeypatch.setattr(
        training_data,
        "assign_buckets",
        lambda found, faces, side: plain(found, {"0.png": (380.0, 0.0, 400.0, 64.0)}, side),
    )
    with pytest.raises(UserError, match="another cropping of the pictures"):
        train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")


def test_resume_of_a_finished_training_compares_too(sd15_velocity, tmp_path, capsys):
    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)]), tmp_path / "out"
    train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")
    assert "There is nothing to resume in" in capsys.readouterr().err
    written = (out / "lora.safetensors").read_bytes()
    train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")
    assert "is finished already" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"is finished, with another number of epochs \(1 then, 2 now\)"):
        train(dataset, sd15_velocity, out, "--epochs", 2, "--resume")
    (dataset / "0.txt").write_text("another caption")
    with pytest.raises(UserError, match="is finished, with another dataset"):
        train(dataset, sd15_velocity, out, "--epochs", 1, "--resume")
    assert (out / "lora.safetensors").read_bytes() == written


def test_ctrl_c_in_an_epoch_of_one_step(sd15_velocity, tmp_path, monkeypatch, capfd):
    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)]), tmp_path / "out"
    plain = training_loop.train_step

    def interrupted(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    monkeypatch.setattr(training_loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, sd15_velocity, out, "--epochs", 5)
    said = capfd.readouterr().err
    assert said.index("Stopping after this step") < said.index("Stopped after epoch 1")
    assert len(log_of(out).epochs) == 1


def test_validation_may_come_and_go(sd15_velocity, tmp_path, monkeypatch):
    """It changes no weights; a resumed training without it has no figures to tell."""
    dataset, held = make_dataset(tmp_path / "dataset", [(64, 64)]), make_dataset(tmp_path / "held", [(64, 64)], 50)
    (held / "bad.png").write_bytes(b"no picture")
    stop = training_loop.finish_epoch

    def interrupted(*arguments: object) -> None:
        stop(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_loop, "finish_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, sd15_velocity, tmp_path / "out", "--epochs", 2, "--validation", held)
    monkeypatch.undo()
    log = train(dataset, sd15_velocity, tmp_path / "out", "--epochs", 2, "--resume")
    assert log.finished and [one.validation_loss is None for one in log.epochs] == [False, True]


def test_accelerate_launch_on_two_processes(sd15_velocity, tmp_path):
    """On the CPU too, though with --cpu accelerate starts one process whatever it is told, unless there is MPI."""
    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)] * 3), tmp_path / "out"
    several = ("--multi_gpu", "--num_processes", 2, "--main_process_port", 0)
    done = launch(several, command(dataset, sd15_velocity, out, "--epochs", 2, "--device", "cpu"))
    assert done.returncode == 0, done.stderr
    log = log_of(out)
    assert (log.finished, log.settings["processes"]) == (True, 2)
    assert [len(epoch.losses) for epoch in log.epochs] == [2, 2], "three batches are shared by two processes"
    assert done.stdout.count("lora: ") == 1 and done.stderr.count("Epoch 2: loss") == 1, "only one of them talks"


# The files


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory, sdxl, sd15_velocity):
    """LoRA and LoCon files of both families in both namings, in full precision; alpha is not the rank."""
    root, files = trained[0], {}
    for family, base in (("sdxl", sdxl), ("sd15", sd15_velocity)):
        for naming in ("kohya", "diffusers"):
            for kind, options in (("lora", ()), ("locon", ("--conv-rank", 6))):
                out = tmp_path_factory.mktemp(f"{family}_{naming}_{kind}")
                how = ("--epochs", 1, "--format", naming, "--save-precision", "fp32", *options)
                train(root / "dataset", base, out, *how)
                files[family, naming, kind] = base, out / "lora.safetensors"
    return files


def test_kohya_names_are_those_of_the_original_network(sdxl):
    from diffusers import UNet2DConditionModel

    from mirror.generation.lora_files import kohya_module
    from mirror.training.base import BESIDE_CONVOLUTIONS, CONVOLUTIONS, TARGET_MODULES

    modules = [name for name, _ in UNet2DConditionModel.from_pretrained(sdxl / "unet").named_modules()]
    adapted = [name for name in modules if name.endswith(TARGET_MODULES) and "attentions" in name]
    convolutions = [name for name in modules if name.rpartition(".")[2] in (*CONVOLUTIONS, *BESIDE_CONVOLUTIONS)]
    assert len(adapted) > 100 and {name.split(".")[-3] for name in convolutions} == {
        "resnets",
        "downsamplers",
        "upsamplers",
    }
    adapted += convolutions
    for name in adapted:
        original = sgm_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
        assert kohya_module(name, "sdxl", layers_per_block=2) == f"lora_unet_{original}"
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    for plain in (attention, "up_blocks.0.resnets.1.conv_shortcut", "down_blocks.0.downsamplers.0.conv"):
        assert kohya_module(plain, "sd15", 2) == "lora_unet_" + plain.replace(".", "_")


def test_convolutions_have_their_own_width_and_the_scale_of_the_others(written):
    from safetensors.torch import load_file

    from mirror.generation.families import read_header

    path = written["sd15", "kohya", "locon"][1]
    tensors, widths = load_file(path), {}
    for name, one in tensors.items():
        if name.endswith("lora_down.weight"):
            alpha = float(tensors[name.replace("lora_down.weight", "alpha")])
            widths.setdefault((*one.shape[2:],), set()).add((one.shape[0], alpha))
    assert widths == {(3, 3): {(6, 3.0)}, (1, 1): {(4, 2.0)}, (): {(4, 2.0)}}
    said = read_header(path)["__metadata__"]
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "6", "conv_alpha": "3"}
    said = read_header(written["sd15", "diffusers", "locon"][1])["__metadata__"]
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "6", "conv_alpha": "6"}
    assert "ss_network_args" not in read_header(written["sd15", "kohya", "lora"][1])["__metadata__"]


def test_layers_learn_with_the_scale_that_the_file_says(sd15_velocity):
    from diffusers import UNet2DConditionModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from mirror.training.base import with_lora

    settings = {"rank": 4, "alpha": 2, "conv_rank": 6, "seed": 1, "gradient_checkpointing": True}
    unet = with_lora(UNet2DConditionModel.from_pretrained(sd15_velocity / "unet"), settings)
    layers = {name: one for name, one in unet.named_modules() if isinstance(one, BaseTunerLayer)}
    assert {one.scaling["default"] for one in layers.values()} == {0.5}
    assert {one.r["default"] for name, one in layers.items() if name.endswith(("conv1", "conv2", ".conv"))} == {6}
    assert any(name.startswith("down_blocks.0") for name in layers) and "conv_in" not in layers


def deltas_of(path: Path) -> dict:
    """Kohya's module name -> up x down x alpha / rank."""
    from safetensors.torch import load_file

    own, found = load_file(path), {}
    for name in own:
        module, _, leaf = name.partition(".")
        if leaf == "lora_up.weight":
            up, down = own[name].flatten(1), own[f"{module}.lora_down.weight"].flatten(1)
            found[module] = up @ down * float(own[f"{module}.alpha"]) / down.shape[0]
    return found


@pytest.mark.parametrize("naming", ["kohya", "diffusers"])
@pytest.mark.parametrize("family", ["sdxl", "sd15"])
@pytest.mark.parametrize("kind", ["lora", "locon"])
def test_files_load_with_every_key_and_act(written, family, naming, kind):
    """Through diffusers, as users load them: each layer's delta is the file's, alpha unlike rank in both namings."""
    from mirror.generation.lora_files import kohya_module
    from mirror.generation.loras import adapted_layers, load_lora
    from mirror.generation.pipelines import load

    base, path = written[family, naming, kind]
    expected = deltas_of(written[family, "kohya", kind][1])
    assert any("conv" in name or "layers_2" in name for name in expected) == (kind == "locon")
    loaded = load(str(base), None, None, "cpu", None)
    facts = load_lora(loaded, path, 1.0)
    layers = adapted_layers(loaded.pipeline, "lora")
    assert facts.unmatched == [] and len(layers) == len(expected)
    for layer in layers:
        delta = expected[kohya_module(layer.name.removeprefix("unet."), family, 2)]
        found = layer.scaling * layer.up.flatten(1) @ layer.down.flatten(1)
        assert float((found - delta).abs().max()) < 1e-5 < float(delta.abs().max())


def test_the_lora_changes_the_picture_and_at_scale_0_it_does_not(trained, sdxl):
    import torch
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl)
    pipe.set_progress_bar_config(disable=True)

    def picture() -> np.ndarray:
        made = pipe(
            "ohwx alice", num_inference_steps=4, height=64, width=64, generator=torch.Generator().manual_seed(0)
        )
        return np.asarray(made.images[0], dtype=int)

    without = picture()
    pipe.load_lora_weights(str(trained[0] / "out"), weight_name="lora.safetensors", adapter_name="person")
    changed = abs(picture() - without)
    pipe.set_adapters("person", 0.0)
    assert changed.mean() > 1
    assert abs(picture() - without).max() == 0


def test_the_header_says_what_it_is(trained):
    from mirror.generation.families import read_header

    root, _, _ = trained
    log = log_of(root / "out")
    said = read_header(root / "out" / "ohwx_alice-000002.safetensors")["__metadata__"]
    assert (said["ss_epoch"], said["ss_steps"], said["ss_num_epochs"]) == ("2", "6", "3")
    assert (said["ss_network_dim"], float(said["ss_network_alpha"])) == ("16", 12.0)
    assert said["ss_base_model_version"] == "sdxl_base_v1-0" and said["ss_sd_model_name"] == log.base_model
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert said["modelspec.trigger_phrase"] == "ohwx alice" and said["modelspec.prediction_type"] == "epsilon"
    assert said["mirrormetrics.dataset_hash"] == log.dataset_hash
    assert not any(re.search(r"20\d\d-\d\d|\d{10}\.\d", value) for value in said.values()), "no times: same bytes"


def test_bytes_of_a_file_do_not_depend_on_chance():
    import torch
    from safetensors.torch import load

    from mirror.generation.lora_files import safetensors_bytes

    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0).half()}
    metadata = {f"key{number}": str(number) for number in range(40)}
    made = {safetensors_bytes(tensors, dict(sorted(metadata.items(), reverse=bool(turn)))) for turn in range(6)}
    assert len(made) == 1
    read = load(made.pop())
    assert read.keys() == tensors.keys() and all(bool((read[name] == tensors[name]).all()) for name in tensors)


def test_single_file_as_base(sdxl, tmp_path):
    checkpoint = tiny_sdxl_single_file(tmp_path / "tiny.safetensors")
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)])
    log = train(dataset, checkpoint, tmp_path / "out", "--epochs", 1, "--base-config", sdxl)
    same = train(dataset, sdxl, tmp_path / "folder", "--epochs", 1)
    assert log.base_model.startswith("tiny@")
    assert log.epochs[0].losses == pytest.approx(same.epochs[0].losses, abs=1e-5), "the same weights as the folder"


def test_single_file_that_says_it_predicts_velocity(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    from mirror.training.base import look_at_base

    path = tiny_sdxl_single_file(tmp_path / "tiny.safetensors")
    assert look_at_base(str(path)).prediction == "epsilon"
    config = tmp_path / "config"
    (config / "scheduler").mkdir(parents=True)
    (config / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    assert look_at_base(str(path), config=config).prediction == "v_prediction"
    save_file(load_file(path) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, path)
    facts = look_at_base(str(path))
    assert (facts.family.name, facts.prediction, facts.zero_snr) == ("sdxl", "v_prediction", True)


# What is refused


def test_results_are_never_overwritten_unasked(sd15_velocity, tmp_path):
    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)]), tmp_path / "out"
    train(dataset, sd15_velocity, out, "--epochs", 1)
    (out / "mine.safetensors").write_bytes(b"")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for wrong in (("--sample-prompts", "nowhere.txt"), ("--validation", dataset), ("--prediction", "epsilon")):
        with pytest.raises(UserError):
            train(dataset, sd15_velocity, out, "--epochs", 1, "--overwrite", *wrong)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}, "deleted only when a training begins"
    with pytest.raises(UserError, match="--resume goes on with it, --overwrite deletes it"):
        train(dataset, sd15_velocity, out, "--epochs", 1)
    train(dataset, sd15_velocity, out, "--epochs", 1, "--overwrite")
    assert (out / "mine.safetensors").exists(), "only what is a training's own is deleted"


def test_too_little_memory(sd15_velocity, tmp_path, monkeypatch):
    from mirror.training import base as training_base

    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)]), tmp_path / "out"
    monkeypatch.setattr(training_base, "memory_free", lambda device: 1000)
    with pytest.raises(UserError, match=r"Loading .* takes about .* GB, and 0\.0 GB are free"):
        train(dataset, sd15_velocity, out)
    answers = iter([10**12, 1000])
    monkeypatch.setattr(training_base, "memory_free", lambda device: next(answers))
    with pytest.raises(UserError, match=r"This training takes about .*What helps: --batch 1 with --accumulate"):
        train(dataset, sd15_velocity, out)


def test_weights_are_counted_once_and_as_they_are_loaded(tmp_path):
    import torch
    from safetensors.torch import save_file

    from mirror.training.base import bytes_when_loaded

    (tmp_path / "unet").mkdir()
    for name, kind in (("", torch.float32), (".fp16", torch.float16), (".non_ema", torch.float32)):
        path = tmp_path / "unet" / f"diffusion_pytorch_model{name}.safetensors"
        save_file({"a": torch.zeros(10, 3, dtype=kind)}, path, {"format": "pt"})
    assert bytes_when_loaded(str(tmp_path), 2) == 60
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert bytes_when_loaded(str(tmp_path), 4) == 120 == bytes_when_loaded(str(path), 4)
    assert bytes_when_loaded("nobody/nothing", 4) == 0


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory"]
)
def test_memory_that_runs_out_is_a_sentence(sd15_velocity, tmp_path, monkeypatch, words):
    import torch

    def full(*_: object) -> None:
        raise (torch.OutOfMemoryError if "CUDA" in words else RuntimeError)(words)

    monkeypatch.setattr(training_loop, "loss_of", full)
    with pytest.raises(UserError, match=r"Memory ran out\. What helps: --batch 1"):
        train(make_dataset(tmp_path / "dataset", [(64, 64)]), sd15_velocity, tmp_path / "out")


def test_a_loss_that_is_no_number_leaves_no_checkpoint(sd15_velocity, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)] * 4)
    with pytest.raises(UserError, match="The loss is not a number"):
        train(dataset, sd15_velocity, tmp_path / "out", "--epochs", 1, "--learning-rate", "1e6", "--alpha", "1e6")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_weights_that_break_in_the_last_step_are_no_success(sd15_velocity, tmp_path):
    """The loss of the only step is a number; what the step makes of the weights is none in float16."""
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)])
    with pytest.raises(UserError, match=r"The LoRA broke: .*not numbers \(NaN\) in float16"):
        train(dataset, sd15_velocity, tmp_path / "out", "--epochs", 1, "--learning-rate", "1e6")
    assert not list((tmp_path / "out").glob("*.safetensors")) and not log_of(tmp_path / "out").finished


def test_broken_weights_never_replace_the_good_state(sd15_velocity, tmp_path, monkeypatch):
    dataset, out = make_dataset(tmp_path / "dataset", [(64, 64)]), tmp_path / "out"
    undisturbed = train(dataset, sd15_velocity, tmp_path / "good", "--epochs", 2)
    plain = training_loop.train_step

    def breaking(job: object, group: list, when: tuple) -> object:
        import torch

        loss = plain(job, group, when)
        if when[0] == 2:
            with torch.no_grad():
                next(iter(job.trained.values())).fill_(float("nan"))
        return loss

    monkeypatch.setattr(training_loop, "train_step", breaking)
    with pytest.raises(UserError, match="The LoRA broke"):
        train(dataset, sd15_velocity, out, "--epochs", 2)
    assert [path.name for path in out.glob("*.safetensors")] == ["ohwx_alice-000001.safetensors"]
    monkeypatch.setattr(training_loop, "train_step", plain)
    resumed = train(dataset, sd15_velocity, out, "--epochs", 2, "--resume")
    assert resumed.epochs[1].losses == undisturbed.epochs[1].losses
    assert (out / "lora.safetensors").read_bytes() == (tmp_path / "good" / "lora.safetensors").read_bytes()


def test_a_lora_that_learned_nothing_is_no_success(sd15_velocity, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)])
    with pytest.raises(UserError, match="Nothing was learned"):
        train(dataset, sd15_velocity, tmp_path / "out", "--epochs", 1, "--learning-rate", "1e-12")
    assert not (tmp_path / "out" / "lora.safetensors").exists()


def test_a_held_out_loss_that_is_no_number_is_no_success(sd15_velocity, tmp_path, monkeypatch):
    dataset, held = make_dataset(tmp_path / "dataset", [(64, 64)]), make_dataset(tmp_path / "held", [(64, 64)], 50)
    plain = training_loop.predict

    def broken(job: object, unet: object, *more: object) -> object:
        guess = plain(job, unet, *more)
        return guess * float("nan") if job.log.steps and not unet.training else guess

    monkeypatch.setattr(training_loop, "predict", broken)
    with pytest.raises(UserError, match="held-out pictures is not a number \\(NaN\\) after 1 steps"):
        train(dataset, sd15_velocity, tmp_path / "out", "--epochs", 1, "--validation", held)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_what_another_process_finds_is_said_with_its_rank(sd15_velocity, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match=r"process 1: .*does not exist"):
        train(tmp_path / "nowhere", sd15_velocity, tmp_path / "out")


def test_samples_follow_the_schedule_that_is_trained():
    """Also where the base's own sampler knows nothing of zero terminal SNR, as that of Stable Diffusion 1.5."""
    from types import SimpleNamespace

    from diffusers import EulerDiscreteScheduler, PNDMScheduler

    from mirror.training.samples import sample_as_trained

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for scheduler in (PNDMScheduler(**betas), EulerDiscreteScheduler(**betas)):
        pipeline = SimpleNamespace(scheduler=scheduler)
        sample_as_trained(pipeline, "epsilon", False)
        assert pipeline.scheduler is scheduler, "nothing is changed that fits"
        sample_as_trained(pipeline, "v_prediction", True)
        config = pipeline.scheduler.config
        assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)
        assert config.timestep_spacing == "trailing" and config.beta_end == 0.012
        pipeline.scheduler.set_timesteps(4)
        assert int(pipeline.scheduler.timesteps[0]) == 999 and float(pipeline.scheduler.alphas_cumprod[-1]) < 1e-6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--preset", "zit"), "--preset zit is for sdxl, and"),
        (("--prediction", "epsilon"), "Zero terminal SNR needs a model that predicts velocity"),
        (("--precision", "fp16"), "--precision fp16 needs a GPU"),
        (("--optimizer", "adamw8bit"), "pip install bitsandbytes"),
        (("--sample-prompts", "nowhere.txt"), "--sample-prompts nowhere.txt cannot be read"),
    ],
)
def test_options_that_cannot_work(sd15_velocity, tmp_path, options, sentence, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no bitsandbytes
    with pytest.raises(UserError, match=re.escape(sentence)):
        train(make_dataset(tmp_path / "dataset", [(64, 64)]), sd15_velocity, tmp_path / "out", *options)


def test_what_cannot_be_used_is_one_sentence_and_exit_code_2(tmp_path):
    """A base model of another kind, captions that are no text, no pictures, no model."""
    dataset = make_dataset(tmp_path / "dataset", [(64, 64)])
    other = tmp_path / "flux"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    done = run_script("train_lora.py", *command(dataset, other, tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert "is Flux.1, and train_lora.py itself trains SDXL and SD 1.5: --trainer hands Flux.1" in done.stderr
    done = run_script("train_lora.py", *command(dataset, tmp_path / "nowhere", tmp_path / "out"))
    assert done.returncode == 2 and "does not exist. --base-model takes" in done.stderr
    assert not (tmp_path / "out").exists()
