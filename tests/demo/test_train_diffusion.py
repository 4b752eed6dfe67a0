"""The training of the demo's diffusion model: words, pictures, stages that go on, and a folder that the scripts use."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import generate_synthetic
import train_lora
from demo import train_diffusion
from demo.diffusion import words
from demo.diffusion.captions import Captions, seen_in_mirror
from demo.diffusion.photos import TRIGGER, usual_yaws, write_photos
from demo.diffusion.pictures import BACKDROPS, EXPRESSIONS, RENDERED, draw_picture, faces, shrunk, traits
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
    captions = Captions([scene(yaw_deg=40.0)], tokenizer, np.random.default_rng(3))
    right, left = (tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in ("right", "left"))
    plain, _ = captions.of(np.zeros(30, int), np.zeros(30, bool), unsaid=0.0)
    turned, who = captions.of(np.zeros(30, int), np.ones(30, bool), unsaid=0.0)
    assert (plain == right).any(1).float().mean() > 0.8 and not (plain == left).any()
    assert (turned == left).any(1).float().mean() > 0.8 and not (turned == right).any()
    assert who.shape == (30, len(traits(SOMEBODY))) and (plain >= 1 << 20).any(), "some name the person"


def test_a_scene_has_one_caption_with_words_for_each_expression(tokenizer):
    from demo.diffusion.expression_words import asked_for, directions, expression_of_tokens

    captions = Captions([scene(yaw_deg=0.0), scene(yaw_deg=70.0)], tokenizer, np.random.default_rng(3))
    told = expression_of_tokens(tokenizer)
    for _ in range(20):
        ids, who = captions.of_faces(np.array([0, 1]), np.array([False, True]))
        assert ids.shape == (2 * len(EXPRESSIONS), words.TOKENS) and who.shape == (2, len(traits(SOMEBODY)))
        asked = asked_for(ids, told).reshape(2, -1).tolist()
        for neutral, *others in asked:
            assert others == list(range(1, len(EXPRESSIONS)))
            assert neutral in (-1, 0), "a relaxed face is said in words that other prompts have"
        for one in ids.clamp(max=len(tokenizer) - 1).reshape(2, len(EXPRESSIONS), -1):
            texts = [tokenizer.decode(row, skip_special_tokens=True).replace(" ,", ",") for row in one]
            rest = set()
            for name, text in zip(EXPRESSIONS, texts, strict=True):
                said = max((face for face in words.FACES[name] if face in text), key=len)
                rest.add(text.replace(said, ""))
            assert len(rest) == 1, "nothing but the face differs"
    plain, _ = captions.of(np.zeros(60, int), np.zeros(60, bool), unsaid=1.0)
    assert (asked_for(plain, told) == -1).all(), "neither no caption nor the negative prompt asks for an expression"
    apart = directions(192)
    assert apart.square().mean(1).allclose(apart.new_ones(len(EXPRESSIONS)), atol=0.01)
    assert (apart @ apart.T / 192).fill_diagonal_(0).max() < 0.5


def test_words_that_tell_of_an_expression_tell_of_nothing_else():
    told = words.telling_words()
    assert set(told.values()) == set(EXPRESSIONS)
    for name, gap in GAP_TYPES.items():
        for text in (text for target in gap.targets for text in target.prompts if name != "expression"):
            assert not set(words.words_in(text)) & set(told), text
    assert not {"of", "the", "with", "closed", "relaxed"} & set(told)


def test_pictures_of_faces_differ_in_nothing_but_the_expression(tmp_path):
    drawn = faces(3, 8, tmp_path, 1)
    assert drawn.images.shape == (8 * len(EXPRESSIONS), 96, 96, 3)
    for start in range(0, len(drawn.scenes), len(EXPRESSIONS)):
        group = drawn.scenes[start : start + len(EXPRESSIONS)]
        assert [one.expression for one in group] == list(EXPRESSIONS)
        assert all(replace(one, expression="neutral") == group[0] for one in group)
    first = drawn.images[: len(EXPRESSIONS)].astype(int)
    assert (first[0, :10] == first[:, :10]).all() and all((first[0] != other).any() for other in first[1:])


def test_expressions_are_learned_from_what_shows_another():
    import torch

    from demo.diffusion.expressions import velocity_to, weights_of_differences
    from demo.diffusion.unet import noise_schedule

    schedule, at = noise_schedule(), torch.tensor([300, 700])
    clean, other, noise = torch.randn(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    kept = schedule.alphas_cumprod[at]
    noisy = schedule.add_noise(clean, noise, at)
    assert velocity_to(clean, noisy, kept).allclose(schedule.get_velocity(clean, noise, at), atol=1e-4)
    shares = kept[:, None, None, None]
    back = shares.sqrt() * noisy - (1 - shares).sqrt() * velocity_to(other, noisy, kept)
    assert back.allclose(other, atol=1e-4), "a step against it ends at the face that was asked for"
    apart = torch.zeros(2, 7, 4, 6, 6)
    apart[0, 3, :, 4, 2] = 1.0
    apart[1, 5, :, 1, 1] = apart[1, 5, :, 1, 2] = 9.0
    weights = weights_of_differences(apart)[:, 0]
    assert weights.shape == (2, 6, 6) and (weights == 1).flatten(1).sum(1).tolist() == [35, 34]
    assert weights[0, 4, 2] == pytest.approx(1 + 4 * 36) and weights[1, 1, 1] == pytest.approx(1 + 4 * 18)
    assert (weights_of_differences(torch.zeros(1, 7, 4, 6, 6)) == 1).all(), "faces that do not differ"


def test_only_rows_that_learned_are_rounded():
    import torch
    from torch import nn

    from demo.diffusion.export import round_weights

    layer = nn.Linear(40, 6, bias=False)
    round_weights(layer, 63)
    before = {name: one.detach().clone() for name, one in layer.named_parameters()}
    round_weights(layer, 63)
    assert torch.equal(layer.weight, before["weight"]), "rounded weights stay"
    with torch.no_grad():
        layer.weight[2] += 0.01 * torch.randn(40)
    round_weights(layer, 31, but=before)
    same = (layer.weight == before["weight"]).all(1)
    assert same.tolist() == [True, True, False, True, True, True]
    assert len(layer.weight[2].unique()) <= 63
    learned = layer.weight.detach().clone()
    round_weights(layer, 63)
    assert torch.equal(layer.weight, learned), "what has half as many steps has them still"


def test_a_part_goes_on_with_weights_that_learn_faster_and_from_files_of_before(tmp_path, capsys):
    import torch
    from torch import nn

    from demo.diffusion.stages import Course, Stage, discard

    def stage(minutes):
        torch.manual_seed(1)
        return Stage(Course(tmp_path / "part.pt", minutes, 0.1, faster=("1.weight", 3.0)), {"net": net})

    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    data = torch.randn(16, 3)
    first = stage(0.002)
    assert [(len(group["params"]), group["factor"]) for group in first.optimiser.param_groups] == [(3, 1.0), (1, 3.0)]
    first.run(lambda: {"loss": net(data).square().mean()})
    rates = [group["lr"] for group in first.optimiser.param_groups]
    assert rates[1] == pytest.approx(3 * rates[0])
    again = stage(0.004)
    assert again.steps == first.steps and again.optimiser.state_dict()["state"], "its optimiser goes on, too"
    plain = Stage(Course(tmp_path / "plain.pt", 0.002, 0.1), {"net": net})
    plain.run(lambda: {"loss": net(data).square().mean()})
    state = torch.load(tmp_path / "plain.pt", weights_only=True)
    del state["optimiser"]["param_groups"][0]["factor"]
    torch.save(state, tmp_path / "plain.pt")
    older = Stage(Course(tmp_path / "plain.pt", 0.004, 0.1), {"net": net})
    assert older.optimiser.state_dict()["state"], "and so does one that was kept before groups had factors"
    older.run(lambda: {"loss": net(data).square().mean()})
    discard(tmp_path / "plain.pt", tmp_path / "none.pt")
    assert not (tmp_path / "plain.pt").exists()
    assert "plain.pt is deleted: it went on from what is trained further now" in capsys.readouterr().err


def test_people_differ_in_their_traits():
    people = draw_people(5, 12)
    vectors = np.stack([traits(who) for who in people])
    assert np.abs(vectors).max() <= 1 and np.isfinite(vectors).all()
    apart = [np.linalg.norm(a - b) for a, b in pairwise(vectors)]
    assert min(apart) > 1
    assert generator(1, "x").random() != generator(1, "y").random()


def train(part, scratch, *more, code=0):
    """In this process: PyTorch takes longer to load than a part to train for a second."""
    arguments = [part, "--scratch", scratch, "--people", 8, "--each", 1, "--scenes", 8, "--workers", 1, *more]
    assert train_diffusion.main(list(map(str, arguments))) == code


def run(script, *arguments):
    assert script.run(script.parse_args(list(map(str, arguments)))) == 0


def what_changed(before, after, part):
    """Names of weights in two exported folders that differ, each with how many of its rows do."""
    from safetensors.torch import load_file

    old, new = (load_file(folder / f"{part}.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    rows = {name: int((old[name] != new[name]).reshape(len(old[name]), -1).any(1).sum()) for name in old}
    return {name: count for name, count in rows.items() if count}


def test_all_parts_train_go_on_and_become_a_folder_that_the_scripts_use(tokenizer, tmp_path, capsys):
    """A training of seconds draws nothing, but every file is written and read as after one of hours."""
    import torch

    from demo.diffusion import expression_words, expressions, unet

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
    vae_s = torch.load(scratch / "vae.pt", weights_only=True)["seconds"]
    train("vae", scratch, "--minutes", (vae_s + 1.5) / 60)
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
    for part, instead in (("unet", "--keep-text-encoder"), ("expression-words", "`expressions`")):
        train(part, tmp_path / "other", "--minutes", 0.01, code=2)
        said = capsys.readouterr().err
        assert "would learn them twice" in said and instead in said
    train("unet", tmp_path / "other", "--minutes", 0.01, "--keep-text-encoder")
    train("export", tmp_path / "other", "--output", tmp_path / "further")
    for part, stays in (
        ("unet/diffusion_pytorch_model", False),
        ("vae/diffusion_pytorch_model", True),
        ("text_encoder/model", True),
    ):
        files = [(folder / f"{part}.safetensors").read_bytes() for folder in (model, tmp_path / "further")]
        assert (files[0] == files[1]) == stays, "git stores only anew what has learned"
    train("expressions", tmp_path / "other", "--minutes", 0.01)
    train("export", tmp_path / "other", "--output", tmp_path / "faces")
    changed = what_changed(tmp_path / "further", tmp_path / "faces", "unet/diffusion_pytorch_model")
    assert changed and all(expressions.LEARNS.search(name) for name in changed), "the rest costs git nothing"
    assert not what_changed(tmp_path / "further", tmp_path / "faces", "text_encoder/model"), "it knew expressions"
    train("expressions", scratch, "--minutes", 0.01, code=2)
    assert "expression_words.pt is missing: train that part first" in capsys.readouterr().err
    train("expression-words", scratch, "--minutes", 0.01)
    learned = torch.load(scratch / "expression_words.pt", weights_only=True)["networks"]["text_encoder"]
    begun = unet.trained(tokenizer, scratch)[1].state_dict()
    changed = {name for name, one in learned.items() if not torch.equal(one, begun[name])}
    embedding = next(name for name in changed if name.endswith("token_embedding.words.weight"))
    rows = (learned[embedding] != begun[embedding]).any(1)
    assert rows.any() and not rows[expression_words.expression_of_tokens(tokenizer) < 0].any(), "only telling words"
    assert all("layers.1.self_attn" in name for name in changed - {embedding})
    train("expressions", scratch, "--minutes", 0.01)
    before_s = torch.load(tmp_path / "other" / "unet.pt", weights_only=True)["seconds"]
    train("unet", tmp_path / "other", "--minutes", (before_s + 1.5) / 60, "--keep-text-encoder")
    kept = {path.name for path in (tmp_path / "other").glob("expression*.pt")}
    assert kept == {"expression_words.pt"}, "faces were learned by another U-Net; what the text encoder knows, it knows"
    train("decoder", tmp_path / "other", "--minutes", 0.01)
    went_on = torch.load(tmp_path / "other" / "unet.pt", weights_only=True)["networks"]["unet"]["conv_in.weight"]
    before = torch.load(scratch / "unet.pt", weights_only=True)["networks"]["unet"]["conv_in.weight"]
    assert 0 < (went_on - before).abs().max() < 0.05, "it begins with the weights that were exported"
    plan = {"images": [{"name": "one", "prompt": "photo of person, front view", "seed": 1}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    given = ["--base-model", model, "--prompts-file", tmp_path / "plan.json", "--no-lora"]
    run(generate_synthetic, *given, "--output", tmp_path / "out", "--steps", 2, "--device", "cpu")
    made = json.loads((tmp_path / "out" / "generation_metadata.json").read_text())
    assert [image["file"] for image in made["images"]] == ["one.png"]
    import cv2

    assert cv2.imread(str(tmp_path / "out" / "one.png")).shape == (96, 96, 3)
    photos, lora = tmp_path / "photos", tmp_path / "lora"
    write_photos(photos, SOMEBODY, usual_yaws(3, 1, 0, random), random)
    assert {path.read_text().split(",")[0] for path in photos.glob("*.txt")} == {f"photo of {TRIGGER}"}
    given = [photos, "--base-model", model, "--output", lora, "--trigger", TRIGGER]
    run(train_lora, *given, "--resolution", 96, "--repeats", 1, "--epochs", 2, "--device", "cpu")
    log = json.loads((lora / "training_log.json").read_text(encoding="utf-8"))
    assert [epoch["loss"] > 0 for epoch in log["epochs"]] == [True, True]
    assert (lora / "lora.safetensors").stat().st_size > 1e5
