"""Prompts and seeds read back from pictures as the programs write them, and kept by content."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mirror.contracts.generation import GeneratedImage, Origin, prompt_key
from mirror.faces.cache import content_hash, open_cache
from mirror.generation import a1111
from mirror.generation.origins import origin_in, origins_of

A1111 = """photo of ohwx person, "red" coat: winter <lora:ohwx-000004:0.9>
second line
Negative prompt: blurry, text
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 3735928559, Size: 832x1216, Model: base"""
LARGE_SEED = 2**64 - 1


def clip(text: object) -> dict:
    return {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}}


KSAMPLER = {  # ComfyUI's first example
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": LARGE_SEED,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
    "6": clip("photo of ohwx person"),
    "7": clip("blurry"),
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
}
FLUX = {  # ComfyUI's example for Flux: no KSampler, and no negative prompt
    "6": clip("photo of ohwx person"),
    "13": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {"noise": ["25", 0], "guider": ["22", 0], "sigmas": ["17", 0]},
    },
    "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "17": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 20, "model": ["30", 0]}},
    "22": {"class_type": "BasicGuider", "inputs": {"model": ["30", 0], "conditioning": ["26", 0]}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": LARGE_SEED}},
    "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
}
LINKED = KSAMPLER | {  # text and seed come from nodes of their own
    "3": {"class_type": "KSampler", "inputs": KSAMPLER["3"]["inputs"] | {"seed": ["20", 0]}},
    "6": clip(["21", 0]),
    "20": {"class_type": "PrimitiveInt", "inputs": {"value": 7}},
    "21": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "photo of ohwx person"}},
}
INVOKE = {
    "app_version": "5.6.0",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "photo of ohwx person",
    "negative_prompt": "blurry",
    "seed": 42,
    "steps": 30,
    "scheduler": "euler",
    "cfg_scale": 7.5,
    "model": {"key": "k", "hash": "h", "name": "base", "base": "sdxl", "type": "main"},
}
HIM = "photo of ohwx person"


def png(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def comfy(graph: dict) -> dict:
    return {"prompt": json.dumps(graph)}


@pytest.mark.parametrize(
    "texts, prompt, negative, seed, generator",
    [
        ({"parameters": A1111}, A1111.split("\nNegative")[0], "blurry, text", 0xDEADBEEF, "AUTOMATIC1111"),
        (comfy(KSAMPLER) | {"workflow": '{"links": []}'}, HIM, "blurry", LARGE_SEED, "ComfyUI"),
        (comfy(KSAMPLER), HIM, "blurry", LARGE_SEED, "ComfyUI"),  # over its API: without a workflow
        (comfy(FLUX), HIM, None, LARGE_SEED, "ComfyUI"),
        (comfy(LINKED), HIM, "blurry", 7, "ComfyUI"),
        ({"invokeai_metadata": json.dumps(INVOKE)}, HIM, "blurry", 42, "InvokeAI"),
        ({"prompt": HIM, "seed": "5", "negative_prompt": "blurry"}, HIM, "blurry", 5, "diffusers"),
        ({"Prompt": HIM}, HIM, None, None, "diffusers"),
    ],
)
def test_programs_are_understood(tmp_path, texts, prompt, negative, seed, generator):
    found = origin_in(png(tmp_path / "a.png", **texts))
    assert found == Origin(prompt=prompt, negative_prompt=negative, seed=seed, generator=generator)


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"Software": "GIMP"},
        {"parameters": "no settings"},
        {"prompt": "", "workflow": "{"},
        {"prompt": json.dumps({"1": {"class_type": "Loop", "inputs": {"positive": ["1", 0]}}})},
        {"prompt": json.dumps({"1": {"class_type": "Odd", "inputs": None}})},
        {"parameters": "{" * 100_000, "mirrormetrics": "{", "invokeai_metadata": "[" * 100_000},
    ],
)
def test_what_says_nothing_stays_unknown(tmp_path, texts):
    assert origin_in(png(tmp_path / "a.png", **texts)) is None


def test_characters_that_are_none_become_text(tmp_path):
    graph = KSAMPLER | {"6": clip("lone \ud800 surrogate")}
    assert origin_in(png(tmp_path / "a.png", **comfy(graph))).prompt == "lone ? surrogate"


def test_jpegs_one_after_the_other_keep_their_own_prompts(tmp_path):
    """sd-parsers' manager remembers the last JPEG by id(), which the next one can have again."""
    for index in range(20):
        exif = Image.Exif()
        text = f"number {index}\nSteps: 2, Sampler: Euler, CFG scale: 1, Seed: {index}"
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf_16_be")
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.jpg", exif=exif if index % 2 else b"")
    for index in range(20):
        found = origin_in(tmp_path / f"{index}.jpg")
        assert (found and found.seed) == (index if index % 2 else None)


def test_our_own_pictures_and_metadata(tmp_path):
    import numpy as np

    image = GeneratedImage(
        file="a.png", prompt=HIM, negative_prompt="blurry", seed=9, steps=2, guidance=1, size_wh=(8, 8)
    )
    text = a1111.parameters(image, "Euler", "base", None, None)
    (tmp_path / "a.png").write_bytes(a1111.png(np.zeros((8, 8, 3), np.uint8), text, image))
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png")
    beside = {"images": [{"file": "a.png", "prompt": "another"}, {"file": "b.png", "prompt": "beside", "seed": 3}]}
    (tmp_path / "generation_metadata.json").write_text(json.dumps(beside), encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "generation_metadata.json").write_text("{", encoding="utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "d.png")
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png", "other/d.png", "gone.png")]
    found, warnings = origins_of(paths, open_cache(None))
    assert found[0] == Origin(prompt=HIM, negative_prompt="blurry", seed=9, generator="MirrorMetrics")
    assert found[1] == Origin(prompt="beside", seed=3, generator="MirrorMetrics")
    assert found[2:] == [None] * 3
    assert len(warnings) == 1 and str(Path("other") / "generation_metadata.json") in warnings[0]


def test_what_was_read_is_kept_by_content(tmp_path, monkeypatch):
    paths = [png(tmp_path / "a.png", parameters=A1111), png(tmp_path / "b.png")]
    with_cache = open_cache(tmp_path / "cache.sqlite")
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)  # files are remembered once they are some seconds old
    for path in paths:
        with_cache.remember_file(path, path.stat(), content_hash(path.read_bytes()))
    with_cache._flush()
    first, _ = origins_of(paths, with_cache)
    with_cache._flush()
    monkeypatch.setattr("mirror.generation.origins.origin_in", lambda path: pytest.fail("read again"))
    assert origins_of(paths, with_cache)[0] == first and first[0].seed == 0xDEADBEEF and first[1] is None
    with_cache.close()


def test_a_prompt_is_the_same_for_all_checkpoints_of_a_series():
    assert prompt_key("a  cat, <lora:x-000004:0.8>") == prompt_key("<lora:x-000008:1> a cat") == "a cat"
    assert prompt_key("a < b > c") == "a < b > c"
