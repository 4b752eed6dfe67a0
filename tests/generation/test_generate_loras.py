"""LoRA files of all formats: every key followed into the model, alpha honoured, foreign files refused."""

from __future__ import annotations

import json
from pathlib import Path

import lora_files
import numpy as np
import pytest
import tiny_models
import torch

from mirror.generation import loras, pipelines
from mirror.generation.loras import LoraFacts, label, number_of, sort_keys
from utils.console import UserError

DRAWING = pipelines.SamplingParameters(2, 1.0, 64, 64, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def opened(folder):
    """Load a tiny model afresh."""

    def load(family: str) -> pipelines.Loaded:
        path = folder / family
        if not path.exists():
            tiny_models.TINY_FOLDERS[family](path)
        return pipelines.load(str(path), None, None, "cpu", None)

    return load


def loaded_lora(loaded: pipelines.Loaded, path: Path, tensors: dict, scale: float = 1.0, **metadata: str) -> LoraFacts:
    facts = loras.load_lora(loaded, lora_files.write(path, tensors, metadata), scale)
    pipelines.move_to_device(loaded, "cpu", low_vram=False)
    loras.demand_difference(loaded, facts, "ohwx person", DRAWING)
    return facts


def picture(loaded: pipelines.Loaded) -> np.ndarray:
    (drawn,) = pipelines.sample(loaded, ["ohwx person"], None, [3], DRAWING)
    return drawn


def test_kohya_names_of_sdxl_match_in_full_and_do_what_the_file_says(opened, tmp_path):
    """SGM key names, alpha 2 at rank 4: each merged layer has changed by up x down x alpha / rank."""
    loaded = opened("sdxl")
    before = {name: tensor.clone() for name, tensor in loaded.pipeline.unet.state_dict().items()}
    without = picture(loaded)
    tensors = lora_files.kohya_sdxl(loaded.pipeline)
    layers = lora_files.attention_layers(loaded.pipeline.unet)
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", tensors, scale=0.7)
    assert (facts.keys, facts.unmatched) == (3 * len(layers), [])
    assert facts.difference > 0.01
    assert not np.array_equal(picture(loaded), without)
    loras.set_scale(loaded, 0.0)
    assert np.array_equal(picture(loaded), without), "scale 0 is no LoRA"
    loras.set_scale(loaded, 1.0)
    loaded.pipeline.fuse_lora(components=["unet"])
    loaded.pipeline.unload_lora_weights()
    after = loaded.pipeline.unet.state_dict()
    for name in layers:
        base = "lora_unet_" + tiny_models.sgm_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
        up, down = tensors[f"{base}.lora_up.weight"], tensors[f"{base}.lora_down.weight"]
        delta = after[f"{name}.weight"] - before[f"{name}.weight"]
        assert torch.allclose(delta, up @ down * lora_files.ALPHA / lora_files.RANK, atol=1e-5), name


def test_text_encoders_get_their_part_and_keep_their_weights(opened, tmp_path):
    """transformers reports CLIP's weights as newly initialized here; they are what they were."""
    loaded = opened("sdxl")
    encoders = [loaded.pipeline.text_encoder, loaded.pipeline.text_encoder_2]
    before = [{name: tensor.clone() for name, tensor in encoder.state_dict().items()} for encoder in encoders]
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", lora_files.kohya_sdxl(loaded.pipeline, text_encoders=True))
    assert not facts.unmatched
    for encoder, old in zip(encoders, before, strict=True):
        now = {name.replace(".base_layer", ""): tensor for name, tensor in encoder.state_dict().items()}
        assert all(torch.equal(now[name], tensor) for name, tensor in old.items())
        assert sum("lora_A" in name for name in now) == 12


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        ("sd15", "unet."),
        ("flux", "transformer."),
        ("flux2-klein", "diffusion_model."),
        ("z-image", "diffusion_model."),
        ("qwen-image", "diffusion_model."),
    ],
)
def test_formats_of_diffusers_and_ai_toolkit(opened, tmp_path, family, prefix):
    loaded = opened(family)
    tensors = lora_files.peft_format(loaded.pipeline, prefix)
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", tensors)
    assert (facts.keys, facts.unmatched) == (len(tensors), [])


def test_joined_matrices_of_kohya_for_flux(opened, tmp_path):
    """One module of the file is three layers of the model."""
    loaded = opened("flux")
    tensors = lora_files.kohya_flux(loaded.pipeline)
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", tensors)
    assert (facts.keys, facts.unmatched) == (len(tensors), [])


def test_alpha_in_the_header_is_read(opened, tmp_path):
    """diffusers writes alpha and rank into the header of its files; without them the same tensors act at full scale."""
    tensors, effects = lora_files.peft_format(opened("qwen-image").pipeline, "transformer."), []
    layers = sorted({key.split(".lora_")[0].removeprefix("transformer.") for key in tensors})
    told = {"transformer.r": 4, "transformer.lora_alpha": 1, "transformer.target_modules": layers}
    for metadata in ({}, {"lora_adapter_metadata": json.dumps(told)}):
        loaded = opened("qwen-image")
        loras.load_lora(loaded, lora_files.write(tmp_path / "a.safetensors", tensors, metadata), 1.0)
        effects.append({layer.scaling for layer in loras.adapted_layers(loaded.pipeline, loras.ADAPTER)})
    assert effects == [{1.0}, {0.25}]


def test_lora_of_another_architecture_is_refused(opened, tmp_path):
    cases = [
        ("sdxl", lora_files.kohya_sd15(opened("sd15").pipeline)),
        ("sdxl", lora_files.peft_format(opened("z-image").pipeline, "transformer.")),
        ("qwen-image", lora_files.peft_format(opened("sd15").pipeline, "unet.")),
    ]
    for family, tensors in cases:
        path = lora_files.write(tmp_path / "a.safetensors", tensors)
        with pytest.raises(UserError, match=rf": 0 of {len(tensors)} keys matched: was it trained for another base"):
            loras.load_lora(opened(family), path, 1.0)


def renamed(tensors: dict, some: slice) -> dict:
    """The modules of `some` get names that no model has."""
    modules = sorted({key.split(".lora_")[0] for key in tensors})
    foreign = set(modules[some])
    return {
        key.replace("blocks", "stones") if key.split(".lora_")[0] in foreign else key: tensor
        for key, tensor in tensors.items()
    }


def test_half_foreign_is_refused_and_a_few_keys_are_listed(opened, tmp_path):
    loaded = opened("qwen-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    half = lora_files.write(tmp_path / "half.safetensors", renamed(tensors, slice(None, None, 2)))
    with pytest.raises(UserError, match=rf"{len(tensors) // 2} of {len(tensors)} keys matched"):
        loras.load_lora(loaded, half, 1.0)
    facts = loaded_lora(loaded, tmp_path / "few.safetensors", renamed(tensors, slice(2)))
    assert len(facts.unmatched) == 4 and all("stones" in key for key in facts.unmatched)
    assert len(loras.adapted_layers(loaded.pipeline, loras.ADAPTER)) == len(tensors) // 2 - 2


def test_half_foreign_of_kohya_is_refused(opened, tmp_path):
    tensors = lora_files.kohya_sdxl(opened("sdxl").pipeline)
    path = lora_files.write(tmp_path / "half.safetensors", renamed(tensors, slice(None, None, 2)))
    with pytest.raises(UserError, match=rf"of {len(tensors)} keys matched"):
        loras.load_lora(opened("sdxl"), path, 1.0)


def test_lora_without_effect_is_refused(opened, tmp_path):
    loaded = opened("z-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    idle = {key: torch.zeros_like(tensor) if "lora_B" in key else tensor for key, tensor in tensors.items()}
    with pytest.raises(UserError, match="changes nothing"):
        loaded_lora(loaded, tmp_path / "a.safetensors", idle)


def test_weak_lora_is_told_from_one_that_is_read_wrongly(opened, tmp_path, folder):
    """In float16 the smallest numbers are steps of 6e-8; in float32 the same file acts, if hardly."""
    tensors = lora_files.peft_format(opened("qwen-image").pipeline, "transformer.")
    for strength, said in ((1e-9, "weights are too small for float16.*--dtype float32"), (1e-4, None)):
        weak = {key: tensor * strength for key, tensor in tensors.items()}
        path = lora_files.write(tmp_path / "weak.safetensors", weak)
        loaded = pipelines.load(str(folder / "qwen-image"), None, None, "cpu", "float16")
        if said is None:
            assert loras.load_lora(loaded, path, 1.0).unmatched == []
            continue
        with pytest.raises(UserError, match=said):
            loras.load_lora(loaded, path, 1.0)
    assert 0 < loaded_lora(opened("qwen-image"), path, weak).difference < loras.HARDLY


def test_lora_that_is_not_a_number_is_refused(opened, tmp_path):
    loaded = opened("z-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    next(iter(tensors.values()))[0, 0] = float("nan")
    with pytest.raises(UserError, match="holds values that are not numbers: its training diverged"):
        loaded_lora(loaded, tmp_path / "a.safetensors", tensors)


def test_suffix_in_capitals_loads(opened, tmp_path):
    loaded = opened("z-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    facts = loaded_lora(loaded, tmp_path / "A.SAFETENSORS", tensors)
    assert facts.unmatched == [] and facts.identity.startswith("A@")


def test_layer_that_does_not_act_as_the_file_says_is_refused(opened, tmp_path, monkeypatch):
    """A loader that forgets alpha."""
    loaded = opened("z-image")
    tensors = {}
    for name, layer in lora_files.attention_layers(loaded.denoiser).items():
        tensors |= lora_files.kohya_keys("lora_unet_" + name.replace(".", "_"), *lora_files.matrices(layer))
    path = lora_files.write(tmp_path / "a.safetensors", tensors)
    loras.load_lora(loaded, path, 1.0)
    loaded.pipeline.unload_lora_weights()
    real = loaded.pipeline.load_lora_weights

    def forgetful(source, **options):
        if options["adapter_name"] == loras.ADAPTER:
            source = {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
            options.pop("weight_name")
        real(source, **options)

    monkeypatch.setattr(loaded.pipeline, "load_lora_weights", forgetful)
    with pytest.raises(UserError, match=r"\d+ of \d+ layers do not act as the file says"):
        loras.load_lora(loaded, path, 1.0)


def test_relatives_and_files_that_are_none(opened, tmp_path):
    loaded = opened("z-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    name = next(iter(tensors)).removesuffix(".lora_A.weight")
    with pytest.raises(UserError, match="is a DoRA, not a plain LoRA"):
        loaded_lora(loaded, tmp_path / "a.safetensors", tensors | {f"{name}.dora_scale": torch.ones(4)})
    (tmp_path / "b.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing of the sort")
    (tmp_path / "c.pt").write_bytes(b"x")
    for file, said in (("b.safetensors", "cannot be read"), ("c.pt", "is no .safetensors"), ("d", "is not there")):
        with pytest.raises(UserError, match=said):
            loras.load_lora(loaded, tmp_path / file, 1.0)


def test_labels_survive_every_dtype():
    numbers = range(22 * 128)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        values = torch.tensor([label(number) for number in numbers]).to(dtype).float().tolist()
        assert [number_of(value) for value in values] == list(numbers)
    assert number_of(0.0) is None and number_of(-1.0) is None and number_of(1.23456789) is None
    with pytest.raises(ValueError, match="no label"):
        label(22 * 128)


def test_keys_are_sorted_into_modules():
    modules, strangers = sort_keys(["a.lora_down.weight", "a.lora_up.weight", "a.alpha", "b.lora_up.weight", "c.bias"])
    assert [(module.name, len(module.keys)) for module in modules] == [("a", 3)]
    assert sorted(strangers) == ["b.lora_up.weight", "c.bias"]
