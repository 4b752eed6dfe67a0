"""train_lora.py on tiny models: it learns what it is shown, and writes files that others load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_trainings import command, launch, log_of, make_dataset, train
from tiny_models import sgm_name, tiny_sdxl_single_file

pytestmark = pytest.mark.usefixtures("one_thread")


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
