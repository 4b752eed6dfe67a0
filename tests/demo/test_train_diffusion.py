"""The training of the demo's diffusion model: words, pictures, stages that go on, and a folder that the scripts use."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import ROOT

from demo import train_diffusion
from demo.diffusion import words
from demo.diffusion.captions import Captions, seen_in_mirror
from demo.diffusion.photos import TRIGGER, usual_yaws, write_photos
from demo.diffusion.pictures import BACKDROPS, RENDERED, draw_picture, shrunk, traits
from demo.render import render
from demo.training_data import draw_people, generator
from mirror.dataset.gaps import GAP_TYPES
from mirror.dataset.pixels import grey_of, histogram, lighting
from mirror.generation.prompts import composed

random = np.random.default_rng(1)
SOMEBODY = draw_people(1, 1)[0]


def scene(**fixed):
    return draw_picture(SOMEBODY, np.random.default_rng(2), **fixed)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return words.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_every_word_of_every_prompt_is_one_token(tokenizer):
    from random import Random

    known = set(words.vocabulary())
    assert len(known) > 150 and set(words.RARE) < known
    for gap in GAP_TYPES.values():
        for text in (text for target in gap.targets for text in target.prompts):
            prompt = composed("ohwx person", gap.name, text, Random(text))
            assert set(words.words_in(prompt)) <= known
            ids = tokenizer(prompt).input_ids
            assert len(ids) == len(words.words_in(prompt)) + 2 <= words.TOKENS
            assert tokenizer.unk_token_id not in ids[1:-1]
    assert len(tokenizer("gryphon").input_ids) > 3, "other words are spelled"


def test_captions_say_what_is_true_of_the_scene():
    sides = {text: words.side_of(text) for target in GAP_TYPES["face_angle"].targets for text in target.prompts}
    for yaw in (-70.0, -40.0, 0.0, 10.0, 40.0, 70.0):
        text = words.angle_text(yaw, random)
        assert sides[text] == (np.sign(yaw) if abs(yaw) > 20 else 0)
        assert sides[words.angle_text(seen_in_mirror(scene(yaw_deg=yaw)).yaw_deg, random)] == -sides[text]
    assert words.angle_text(55.0, random) is None, "neither word is true between them"
    texts = [words.caption_of(scene(expression="angry", background="outdoor"), random, False) for _ in range(40)]
    angry = [text for text in texts if "angry" in text or "furious" in text]
    assert len(angry) > 20 and not any("smile" in text for text in texts)
    assert any("in a park" in text for text in texts) and not any("studio" in text for text in texts)
    named = words.caption_of(scene(), random, True)
    assert named.startswith(f"photo of {words.NAME} person")


def test_pictures_are_what_their_words_will_say():
    drawn = [draw_picture(SOMEBODY, np.random.default_rng(seed)) for seed in range(300)]
    for light, background in BACKDROPS.items():
        alike = [one for one in drawn if words.light_of(one) == light]
        assert len(alike) > 8 and {one.background for one in alike} == {background}
        texts = [words.caption_of(alike[0], random, False) for _ in range(40)]
        places = [place for group in words._PLACES.values() for place in group]
        assert not any(place in text for text in texts for place in places), "a backdrop is no place"
        front = [replace(one, who=who, yaw_deg=0.0) for one, who in zip(alike, draw_people(6, 8), strict=False)]
        seen = [lighting(histogram(grey_of(shrunk(render(one, RENDERED, 1.0).image)))) for one in front]
        assert seen.count(light) >= 4, "as gap analysis sees most of them; dark skin is not high-key"
    places = {draw_picture(SOMEBODY, np.random.default_rng(seed), fill=0.75).place for seed in range(60)}
    assert len(places) == 1, "where a head lies follows from its size"


def test_mirrored_pictures_get_the_other_sides_words(tokenizer):
    class Seen:
        scenes = [scene(yaw_deg=40.0)]  # noqa: RUF012

    captions = Captions(Seen, tokenizer, np.random.default_rng(3))
    right, left = (tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in ("right", "left"))
    plain, _ = captions.of(np.zeros(30, int), np.zeros(30, bool), unsaid=0.0)
    turned, who = captions.of(np.zeros(30, int), np.ones(30, bool), unsaid=0.0)
    assert (plain == right).any(1).float().mean() > 0.8 and not (plain == left).any()
    assert (turned == left).any(1).float().mean() > 0.8 and not (turned == right).any()
    assert who.shape == (30, len(traits(SOMEBODY))) and (plain >= 1 << 20).any(), "some name the person"


def test_people_differ_in_their_traits():
    people = draw_people(5, 12)
    vectors = np.stack([traits(who) for who in people])
    assert np.abs(vectors).max() <= 1 and np.isfinite(vectors).all()
    apart = [np.linalg.norm(a - b) for a, b in pairwise(vectors)]
    assert min(apart) > 1
    assert generator(1, "x").random() != generator(1, "y").random()


def train(part, scratch, *more, code=0):
    """In this process: PyTorch takes longer to load than a part to train for a second."""
    arguments = [part, "--scratch", scratch, "--people", 8, "--each", 1, "--workers", 1, *more]
    assert train_diffusion.main(list(map(str, arguments))) == code


def test_all_parts_train_go_on_and_become_a_folder_that_the_scripts_use(tmp_path, capsys):
    """A training of seconds draws nothing, but every file is written and read as after one of hours."""
    import torch

    scratch, model = tmp_path / "scratch", tmp_path / "model"
    train("unet", scratch, code=2)
    assert "vae.pt is missing: train that part first" in capsys.readouterr().err
    for part in ("vae", "text", "unet", "decoder"):
        train(part, scratch, "--minutes", 0.01)
    first = torch.load(scratch / "unet.pt", weights_only=True)
    train("unet", scratch, "--minutes", 0.01)
    again = torch.load(scratch / "unet.pt", weights_only=True)
    assert again["steps"] == first["steps"] > 0, "its minutes were over"
    assert again["means"].keys() == first["means"].keys()
    assert all(torch.equal(mean, first["means"][name]) for name, mean in again["means"].items())
    train("unet", scratch, "--minutes", (first["seconds"] + 1.5) / 60)  # its steps may take seconds on a busy machine
    more = torch.load(scratch / "unet.pt", weights_only=True)
    assert more["steps"] > first["steps"] and more["seconds"] > first["seconds"] + 1.4
    assert (scratch / "decoder.pt").exists()
    train("vae", scratch, "--minutes", 0.02)
    assert not (scratch / "decoder.pt").exists(), "it was learned for another encoder"
    train("decoder", scratch, "--minutes", 0.01)
    model.mkdir()
    (model / "photo.txt").write_text("mine")
    train("export", scratch, "--output", model, code=2)
    assert "holds other files" in capsys.readouterr().err and (model / "photo.txt").exists()
    (model / "photo.txt").unlink()
    (model / "LICENSE.txt").write_text("MIT")
    train("export", scratch, "--output", model)
    assert (model / "LICENSE.txt").read_text() == "MIT"
    assert sum(path.stat().st_size for path in model.rglob("*")) < 30e6
    train("import", tmp_path / "other", "--output", tmp_path, code=2)
    assert "names.safetensors is missing" in capsys.readouterr().err
    train("import", tmp_path / "other", "--output", model)
    train("import", tmp_path / "other", "--output", model, code=2)
    assert "holds a training already" in capsys.readouterr().err
    taken, trained = (
        torch.load(folder / "unet.pt", weights_only=True)["networks"]["text_encoder"]
        for folder in (tmp_path / "other", scratch)
    )
    assert taken.keys() == trained.keys()
    names = next(name for name in taken if name.endswith("of_traits.weight"))
    assert taken[names].std() > 0 and (taken[names] - trained[names]).abs().max() < 0.01, "people keep their names"
    train("unet", tmp_path / "other", "--minutes", 0.01, "--keep-text-encoder")
    train("export", tmp_path / "other", "--output", tmp_path / "further")
    for part, stays in (
        ("unet/diffusion_pytorch_model", False),
        ("vae/diffusion_pytorch_model", True),
        ("text_encoder/model", True),
    ):
        files = [(folder / f"{part}.safetensors").read_bytes() for folder in (model, tmp_path / "further")]
        assert (files[0] == files[1]) == stays, "git stores only anew what has learned"
    train("decoder", tmp_path / "other", "--minutes", 0.01)
    went_on = torch.load(tmp_path / "other" / "unet.pt", weights_only=True)["networks"]["unet"]["conv_in.weight"]
    before = torch.load(scratch / "unet.pt", weights_only=True)["networks"]["unet"]["conv_in.weight"]
    assert 0 < (went_on - before).abs().max() < 0.05, "it begins with the weights that were exported"
    plan = {"images": [{"name": "one", "prompt": "photo of person, front view", "seed": 1}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    command = ["generate_synthetic.py", "--base-model", model, "--prompts-file", tmp_path / "plan.json", "--no-lora"]
    command += ["--output", tmp_path / "out", "--steps", 2, "--device", "cpu"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "generation_metadata.json").read_text())
    assert [image["file"] for image in made["images"]] == ["one.png"]
    import cv2

    assert cv2.imread(str(tmp_path / "out" / "one.png")).shape == (96, 96, 3)
    photos, lora = tmp_path / "photos", tmp_path / "lora"
    write_photos(photos, SOMEBODY, usual_yaws(3, 1, 0, random), random)
    assert {path.read_text().split(",")[0] for path in photos.glob("*.txt")} == {f"photo of {TRIGGER}"}
    command = ["train_lora.py", photos, "--base-model", model, "--output", lora, "--trigger", TRIGGER]
    command += ["--resolution", 96, "--repeats", 1, "--epochs", 2, "--device", "cpu"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    log = json.loads((lora / "training_log.json").read_text(encoding="utf-8"))
    assert [epoch["loss"] > 0 for epoch in log["epochs"]] == [True, True]
    assert (lora / "lora.safetensors").stat().st_size > 1e5
