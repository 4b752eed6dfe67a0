"""train_lora.py on tiny models: what it refuses in one sentence, and that nothing good is lost to it."""

from __future__ import annotations

import json
import re

import pytest
from conftest import run_script
from small_trainings import command, log_of, make_dataset, train

from mirror.training import loop as training_loop
from utils.console import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


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
