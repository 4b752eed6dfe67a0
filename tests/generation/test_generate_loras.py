"""LoRA files of all formats: every key followed into the model, alpha honoured, foreign files refused."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import subprocess
from pathlib import Path

import lora_files
import numpy as np
import pytest
import tiny_models
import torch
from conftest import run_script
from diffusers import FluxPipeline
from PIL import Image

from mirror.generation import adapters, loras, pipelines
from mirror.generation.a1111 import lora_hash
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
    for strength, said in ((1e-9, "its weights are too small for float16.*--dtype float32"), (1e-4, None)):
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


def test_kinds_that_nothing_loads_and_files_that_are_none(opened, tmp_path):
    loaded = opened("z-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    name = next(iter(tensors)).removesuffix(".lora_A.weight")
    with pytest.raises(UserError, match="is of the kind VeRA, which cannot be loaded here"):
        loaded_lora(loaded, tmp_path / "a.safetensors", tensors | {f"{name}.vera_lambda_b": torch.ones(4)})
    (tmp_path / "b.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing of the sort")
    (tmp_path / "c.pt").write_bytes(b"x")
    for file, said in (("b.safetensors", "cannot be read"), ("c.pt", "is no .safetensors"), ("d", "is not there")):
        with pytest.raises(UserError, match=said):
            loras.load_lora(loaded, tmp_path / file, 1.0)


NAMES = {
    "sd15": lambda name: "lora_unet_" + name.replace(".", "_"),
    "sdxl": lambda name: (
        "lora_unet_" + tiny_models.sgm_name(f"{name}.weight").removesuffix(".weight").replace(".", "_")
    ),
    "flux": lambda name: f"transformer.{name}",
    "flux2-klein": lambda name: "lycoris_" + name.replace(".", "_"),
    "z-image": lambda name: f"diffusion_model.{name}",
    "qwen-image": lambda name: f"diffusion_model.{name}",
}
KINDS = ("loha", "lokr", "lokr-product", "dora", "dora-in", "ia3", "ia3-in")


def merged(loaded: pipelines.Loaded, deltas: dict[str, torch.Tensor], scale: float) -> np.ndarray:
    """The picture of a model whose weights are W + scale x delta, written by hand."""
    add_by_hand(loaded, deltas, scale)
    return picture(loaded)


def add_by_hand(loaded: pipelines.Loaded, deltas: dict[str, torch.Tensor], scale: float) -> None:
    with torch.no_grad():
        for name, delta in deltas.items():
            loaded.denoiser.get_submodule(name).weight.add_(scale * delta)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def mean_apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("family", NAMES)
def test_relatives_give_the_picture_of_weights_merged_by_hand(opened, tmp_path, family):
    """All kinds in one file, each in several layers, with the names that trainers write for the family."""
    loaded, scale = opened(family), 0.7
    without = picture(loaded)
    only = "up_blocks.2" if family == "sd15" else ""  # SDXL's names are the difficult ones: all of them
    convolutions = loaded.family.is_diffusion
    tensors, deltas = lora_files.relatives(loaded.denoiser, KINDS, NAMES[family], convolutions, only)
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", tensors, scale)
    assert (facts.keys, facts.unmatched, facts.kind) == (len(tensors), [], "(IA)³, DoRA, LoHa, LoKr")
    drawn = picture(loaded)
    by_hand = merged(opened(family), deltas, scale)
    assert apart(drawn, by_hand) <= 1, "rounding alone"
    assert mean_apart(drawn, without) > 20 * mean_apart(drawn, by_hand)
    loras.set_scale(loaded, 0.0)
    assert np.array_equal(picture(loaded), without), "scale 0 is no LoRA"


def in_process(script: str, *arguments: str) -> subprocess.CompletedProcess:
    """As run_script, in this process: PyTorch takes longer to load than a tiny model to draw. Raises UserError."""
    module = importlib.import_module(script.removesuffix(".py"))
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        code = module.run(module.parse_args(arguments))
    return subprocess.CompletedProcess(script, code, told.getvalue(), said.getvalue())


@pytest.mark.parametrize(
    ("family", "kind", "run"),
    [
        ("sdxl", "loha", in_process),
        ("sd15", "ia3", in_process),
        ("flux", "lokr", in_process),
        ("sdxl", "dora", run_script),
    ],
)
def test_script_draws_with_relatives(opened, folder, tmp_path, family, kind, run):
    """The picture is that of weights merged by hand, and the prompt data know the file; once as users run it."""
    loaded, scale = opened(family), 0.6
    tensors, deltas = lora_files.relatives(loaded.denoiser, [kind], NAMES[family], only="transformer_blocks")
    path = lora_files.write(tmp_path / "alice.safetensors", tensors)
    plan, output = tmp_path / "plan.json", tmp_path / "out"
    prompt = "ohwx person, smiling"
    plan.write_text(json.dumps({"images": [{"prompt": prompt, "seed": 3, "name": "smile"}]}))
    given = ("--prompts-file", plan, "--base-model", folder / family, "--lora", path, "--lora-scale", scale)
    drawn_as = ("--output", output, "--width", 64, "--height", 64, "--steps", 2, "--guidance", 1)
    done = run("generate_synthetic.py", *map(str, (*given, *drawn_as, "--device", "cpu")))
    assert done.returncode == 0, done.stderr
    title = {"loha": "LoHa", "ia3": "(IA)³", "lokr": "LoKr", "dora": "DoRA"}[kind]
    assert f"{title} alice@" in done.stdout + done.stderr
    assert f"{len(tensors)} of {len(tensors)} keys matched; at scale 0.6" in done.stdout + done.stderr
    (file,) = output.glob("*.png")
    with Image.open(file) as opened_file:
        drawn, text = np.asarray(opened_file), opened_file.text["parameters"]
    assert f'Lora hashes: "alice: {lora_hash(path)}", Lora scale: 0.6' in text
    sampling = pipelines.SamplingParameters(2, 1.0, 64, 64, None)
    (without,) = pipelines.sample(loaded, [prompt], None, [3], sampling)
    add_by_hand(loaded, deltas, scale)
    (by_hand,) = pipelines.sample(loaded, [prompt], None, [3], sampling)
    assert apart(drawn, by_hand) <= 1
    assert mean_apart(drawn, without) > 20 * mean_apart(drawn, by_hand)


def test_script_refuses_relatives_of_another_model(opened, folder, tmp_path):
    tensors, _ = lora_files.relatives(opened("sd15").denoiser, ["lokr"], NAMES["sd15"], only="up_blocks.2")
    path = lora_files.write(tmp_path / "bob.safetensors", tensors)
    plan, output = tmp_path / "plan.json", tmp_path / "out"
    plan.write_text(json.dumps({"images": [{"prompt": "ohwx person", "seed": 3, "name": "smile"}]}))
    opened("flux")
    given = ("--prompts-file", plan, "--base-model", folder / "flux", "--lora", path, "--output", output)
    said = f"bob.safetensors: 0 of {len(tensors)} keys matched: was it trained for another base model?"
    with pytest.raises(UserError, match=re.escape(said)):
        in_process("generate_synthetic.py", *map(str, given))
    assert list(output.glob("*.png")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_relative_alone(opened, tmp_path, kind):
    loaded = opened("flux")
    tensors, deltas = lora_files.relatives(loaded.denoiser, [kind], NAMES["flux"])
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", tensors)
    assert facts.kind == {"lo": "LoHa" if kind == "loha" else "LoKr", "do": "DoRA", "ia": "(IA)³"}[kind[:2]]
    assert apart(picture(loaded), merged(opened("flux"), deltas, 1.0)) <= 1


@pytest.mark.parametrize("kind", ["loha", "lokr", "dora", "ia3"])
def test_joined_modules_of_relatives_for_flux(opened, tmp_path, kind):
    """One module of the file is query, key and value: each layer gets its rows."""
    loaded = opened("flux")
    attention = loaded.denoiser.transformer_blocks[0].attn
    parts = [f"transformer_blocks.0.attn.to_{one}" for one in "qkv"]
    whole = torch.cat([getattr(attention, f"to_{one}").weight.detach() for one in "qkv"])
    torch.manual_seed(0)
    own, delta = lora_files.relative(kind, whole)
    for name in ("lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.double_blocks.0.img_attn.qkv"):
        loaded = opened("flux")
        facts = loaded_lora(
            loaded, tmp_path / "a.safetensors", {f"{name}.{ending}": tensor for ending, tensor in own.items()}
        )
        assert facts.unmatched == []
        by_hand = merged(opened("flux"), dict(zip(parts, delta.chunk(3), strict=True)), 1.0)
        assert apart(picture(loaded), by_hand) <= 1


def test_rows_of_the_joined_layer_of_real_flux():
    """diffusers splits linear1 at the real model's width alone: query, key, value, and the first layer of the MLP."""
    name = "lora_unet_single_blocks_5_linear1"
    found = adapters._ask_diffusers(FluxPipeline, {name: 3 * 3072 + 12288})[name]
    ends = [place.rsplit(".", 1)[1] for place, _ in found]
    assert ends == ["to_q", "to_k", "to_v", "proj_mlp"]
    assert torch.equal(torch.cat([rows for _, rows in found]), torch.arange(3 * 3072 + 12288))


def test_text_encoders_get_relatives_too(opened, tmp_path):
    loaded = opened("sdxl")
    tensors = {}
    for number, encoder in ((1, loaded.pipeline.text_encoder), (2, loaded.pipeline.text_encoder_2)):
        for name, layer in encoder.named_modules():
            if name.endswith(("q_proj", "fc1")):
                own, _ = lora_files.relative("loha", layer.weight.detach())
                base = f"lora_te{number}_" + tiny_models.hf_clip(name).replace(".", "_")
                tensors |= {f"{base}.{ending}": tensor for ending, tensor in own.items()}
    path = lora_files.write(tmp_path / "a.safetensors", tensors)
    without = picture(loaded)
    assert loras.load_lora(loaded, path, 1.0).unmatched == []
    assert apart(picture(loaded), without) > 0


def test_dora_of_diffusers_is_what_diffusers_makes_of_it(opened, tmp_path):
    """Its own names, alpha in the header: the same picture as by `load_lora_weights`."""
    loaded = opened("qwen-image")
    tensors = lora_files.peft_format(loaded.pipeline, "transformer.")
    layers = sorted({key.split(".lora_")[0].removeprefix("transformer.") for key in tensors})
    for name in layers:
        weight = loaded.denoiser.get_submodule(name).weight.detach()
        tensors[f"transformer.{name}.lora_magnitude_vector"] = weight.norm(dim=1) * 1.5
    told = {"r": 4, "lora_alpha": 1, "target_modules": layers, "use_dora": True}
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in told.items()})}
    path = lora_files.write(tmp_path / "a.safetensors", tensors, header)
    facts = loras.load_lora(loaded, path, 1.0)
    assert (facts.kind, facts.unmatched) == ("DoRA", [])
    theirs = opened("qwen-image")
    theirs.pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    assert apart(picture(loaded), picture(theirs)) <= 1
    assert apart(picture(loaded), picture(opened("qwen-image"))) > 1


def test_lokr_of_z_image_is_what_diffusers_makes_of_it(opened, tmp_path):
    """One of the two families whose LoKr diffusers reads itself."""
    loaded = opened("z-image")
    tensors = {}
    for name in lora_files.attention_layers(loaded.denoiser):
        if "attention" in name:
            own = {"lokr_w1": torch.randn(4, 4), "lokr_w2": 0.1 * torch.randn(8, 8), "alpha": torch.tensor(1e10)}
            tensors |= {f"diffusion_model.{name}.{ending}": tensor for ending, tensor in own.items()}
    path = lora_files.write(tmp_path / "a.safetensors", tensors)
    assert loras.load_lora(loaded, path, 1.0).unmatched == []
    theirs = opened("z-image")
    theirs.pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    assert apart(picture(loaded), picture(theirs)) <= 1
    assert apart(picture(loaded), picture(opened("z-image"))) > 1


def test_joined_lokr_of_ai_toolkit_for_flux2_is_what_diffusers_makes_of_it(opened, tmp_path):
    """diffusers joins the model's own layers for such a file; here each of three layers gets its rows."""
    loaded, tensors = opened("flux2-klein"), {}
    denoiser = loaded.denoiser
    query = denoiser.transformer_blocks[0].attn
    weights = {
        "double_blocks.0.img_attn.qkv": torch.cat([query.to_q.weight, query.to_k.weight, query.to_v.weight]),
        "double_blocks.0.txt_mlp.2": denoiser.transformer_blocks[0].ff_context.linear_out.weight,
        "single_blocks.0.linear1": denoiser.single_transformer_blocks[0].attn.to_qkv_mlp_proj.weight,
    }
    torch.manual_seed(0)
    for name, weight in weights.items():
        own, _ = lora_files.relative("lokr", weight.detach())
        tensors |= {f"diffusion_model.{name}.{ending}": tensor for ending, tensor in own.items()}
    path = lora_files.write(tmp_path / "a.safetensors", tensors)
    assert loras.load_lora(loaded, path, 1.0).unmatched == []
    theirs = opened("flux2-klein")
    theirs.pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    assert apart(picture(loaded), picture(theirs)) <= 1
    assert apart(picture(loaded), picture(opened("flux2-klein"))) > 1


def test_cores_differences_norms_and_peft_names(opened, tmp_path):
    """What LyCORIS writes beside: Tucker cores of convolutions, full differences, norms; and peft's (IA)³."""
    loaded, torch_norm = opened("sd15"), "down_blocks.0.resnets.0.norm1"
    unet, conv, linear = loaded.pipeline.unet, "mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_out"
    out, width = unet.get_submodule(conv).weight.shape[:2]
    core, up, down = torch.randn(4, 4, 3, 3), torch.randn(out, 4, 1, 1), torch.randn(4, width, 1, 1)
    joined = {name: torch.randn_like(tensor) for name, tensor in unet.get_submodule(linear).state_dict().items()}
    norm = {name: torch.randn_like(tensor) for name, tensor in unet.get_submodule(torch_norm).state_dict().items()}
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    factor = 1 + 0.5 * torch.randn(unet.get_submodule(key).weight.shape[0], 1)
    tensors = {
        **lora_files.kohya_keys(NAMES["sd15"](conv), down, up),
        f"{NAMES['sd15'](conv)}.lora_mid.weight": core,
        f"{NAMES['sd15'](linear)}.diff": joined["weight"],
        f"{NAMES['sd15'](linear)}.diff_b": joined["bias"],
        f"{NAMES['sd15'](torch_norm)}.w_norm": norm["weight"],
        f"{NAMES['sd15'](torch_norm)}.b_norm": norm["bias"],
        f"base_model.model.{key}.ia3_l": factor,
    }
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", tensors)
    assert (facts.kind, facts.unmatched) == ("(IA)³, LoRA, full difference", [])
    other = opened("sd15")
    with torch.no_grad():
        unet = other.pipeline.unet
        delta = torch.einsum("abhw,oa,bi->oihw", core, up.flatten(1), down.flatten(1)) * 0.5
        unet.get_submodule(conv).weight.add_(delta)
        unet.get_submodule(key).weight.mul_(factor)
        for name, change in ((linear, joined), (torch_norm, norm)):
            unet.get_submodule(name).weight.add_(change["weight"])
            unet.get_submodule(name).bias.add_(change["bias"])
    assert apart(picture(loaded), picture(other)) <= 1
    assert apart(picture(loaded), picture(opened("sd15"))) > 10


def test_relatives_of_another_model_are_refused(opened, tmp_path):
    tensors, _ = lora_files.relatives(opened("qwen-image").denoiser, KINDS, NAMES["qwen-image"])
    path = lora_files.write(tmp_path / "a.safetensors", tensors)
    for family in ("sdxl", "z-image"):
        with pytest.raises(UserError, match=rf": 0 of {len(tensors)} keys matched: was it trained for another base"):
            loras.load_lora(opened(family), path, 1.0)
    wider, _ = lora_files.relatives(torch.nn.ModuleDict({"layers": torch.nn.Linear(64, 96)}), ["lokr"], str)
    assert wider == {}, "no such layer"


def test_shapes_of_another_size_are_refused(opened, tmp_path):
    """The names of a bigger sister: Flux.2-Klein 9B for 4B."""
    loaded = opened("flux2-klein")
    tensors = {}
    for name, layer in lora_files.attention_layers(loaded.denoiser).items():
        own, _ = lora_files.relative("lokr", torch.zeros(*(2 * size for size in layer.weight.shape)))
        tensors |= {f"diffusion_model.{name}.{ending}": tensor for ending, tensor in own.items()}
    path = lora_files.write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match=rf": 0 of {len(tensors)} keys matched"):
        loras.load_lora(loaded, path, 1.0)


def test_relative_without_effect_or_too_weak_is_refused(opened, tmp_path, folder):
    tensors, _ = lora_files.relatives(opened("z-image").denoiser, ["loha"], NAMES["z-image"])
    idle = {key: torch.zeros_like(tensor) if "w2_a" in key else tensor for key, tensor in tensors.items()}
    with pytest.raises(UserError, match="changes nothing"):
        loaded_lora(opened("z-image"), tmp_path / "a.safetensors", idle)
    weak = {key: tensor * (1e-8 if "w2_a" in key else 1) for key, tensor in tensors.items()}
    path = lora_files.write(tmp_path / "weak.safetensors", weak)
    half = pipelines.load(str(folder / "z-image"), None, None, "cpu", "float16")
    with pytest.raises(UserError, match=r"too small for float16.*--dtype float32"):
        loras.load_lora(half, path, 1.0)
    assert loras.load_lora(opened("z-image"), path, 1.0).unmatched == []


def test_relative_that_acts_otherwise_than_the_file_says_is_refused(opened, tmp_path, monkeypatch):
    """A library that multiplies by alpha / rank twice, as LyCORIS does where it merges."""
    loaded = opened("z-image")
    tensors, _ = lora_files.relatives(loaded.denoiser, ["loha"], NAMES["z-image"])
    path, real = lora_files.write(tmp_path / "a.safetensors", tensors), adapters.by_lycoris
    monkeypatch.setattr(adapters, "by_lycoris", lambda parts: real(parts) * parts.scale)
    with pytest.raises(UserError, match=r"16 of 16 layers do not act as the file says"):
        loras.load_lora(loaded, path, 1.0)


def test_layers_that_are_never_called_are_refused(opened, tmp_path, monkeypatch):
    loaded = opened("z-image")
    tensors, _ = lora_files.relatives(loaded.denoiser, ["lokr"], NAMES["z-image"])
    facts = loras.load_lora(loaded, lora_files.write(tmp_path / "a.safetensors", tensors), 1.0)
    block = loaded.denoiser.layers[0].feed_forward
    monkeypatch.setattr(block, "forward", lambda source: source)
    with pytest.raises(UserError, match=r"only 13 of its 16 layers are at work"):
        loras.demand_difference(loaded, facts, "ohwx person", DRAWING)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_relatives_in_half_precision(opened, tmp_path, folder, dtype):
    tensors, _ = lora_files.relatives(opened("qwen-image").denoiser, KINDS, NAMES["qwen-image"])
    half = {key: tensor.to(getattr(torch, dtype)) if tensor.dim() else tensor for key, tensor in tensors.items()}
    loaded = pipelines.load(str(folder / "qwen-image"), None, None, "cpu", dtype)
    facts = loaded_lora(loaded, tmp_path / "a.safetensors", half)
    assert facts.unmatched == [] and facts.difference > 0.001


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
