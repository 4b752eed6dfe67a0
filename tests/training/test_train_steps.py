"""train_lora.py on tiny models: it learns as a plain diffusers loop does, again and again the same, through kills."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from small_trainings import command, launch, log_of, make_dataset, start, train, wait_for

from mirror.training import loop as training_loop
from utils.console import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


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
