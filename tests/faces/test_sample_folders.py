"""Folders as trainers leave them, all steps in one: a group for each step, and never one for a seed or a counter."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo


@pytest.fixture
def measured(metrics, make_picture, tiny_pack, tmp_path):
    """Run over these candidate files: groups with their files, and the run."""

    def run(files, *options, candidates=None):
        make_picture(tmp_path / "ref" / "1.png")
        for number, name in enumerate(files):
            make_picture(tmp_path / "cand" / name, 10 + number)
        done = metrics("--pack", tiny_pack, *options, candidates=candidates)
        assert done.code == 0, done.stderr
        table = done.table[done.table.Type == "Candidate"]
        groups = {name: sorted(rows.Filename) for name, rows in table.groupby("Group", sort=False)}
        assert [one["name"] for one in done.summary["groups"] if one["type"] == "Candidate"] == list(groups)
        return groups, done

    return run


def test_kohya(measured):
    files = [
        f"sample/alice_{step:06d}_{i:02d}_2024010112{step // 100:02d}{i:02d}_42.png"
        for step in (1000, 500)
        for i in (0, 1)
    ]
    groups, run = measured(files)
    assert {name: len(files) for name, files in groups.items()} == {"sample step 500": 2, "sample step 1000": 2}
    assert run.stderr.count("told by their file names") == 1 and "sample images of 2 steps" in run.stderr
    (curve,) = run.summary["curves"]
    assert curve["unit"] == "step" and [one["number"] for one in curve["checkpoints"]] == [500, 1000]
    assert "pictures of the same name are compared with each other" in run.summary["compared"], "pairs across steps"


def test_kohya_epochs_of_two_runs(measured):
    files = [f"s/{run}_e{epoch:06d}_00_20240101120000_42.png" for run in "ab" for epoch in (2, 4)]
    groups, run = measured([*files, "s/notes.png"])
    assert list(groups) == ["s", "s a epoch 2", "s a epoch 4", "s b epoch 2", "s b epoch 4"]
    assert groups["s"] == ["notes.png"], "every file is in a group"
    assert [curve["series"] for curve in run.summary["curves"]] == ["s a", "s b"]


def test_ai_toolkit_loose_in_the_folder_of_samples(measured):
    files = [f"17000000{step:05d}__{step:09d}_{i}.jpg" for step in (0, 250, 500) for i in (0, 1)]
    groups, run = measured(files)
    assert list(groups) == ["step 0", "step 250", "step 500"]
    assert [len(curve["checkpoints"]) for curve in run.summary["curves"]] == [3]


@pytest.mark.parametrize("inside", ["workspace/", ""])
def test_onetrainer_one_folder_a_prompt(measured, inside):
    files = [
        f"{inside}{i} - a man, smiling/2024-01-01_12-0{i}-00-training-sample-{step}-{step // 50}-0.png"
        for i in (0, 1)
        for step in (500, 1000)
    ]
    groups, run = measured(files)
    folder = inside.strip("/") or "cand"
    assert list(groups) == [f"{folder} step 500", f"{folder} step 1000"]
    assert all(len(names) == 2 and all(" - a man, smiling/" in name for name in names) for names in groups.values())
    assert "left out" not in run.stderr
    assert "pictures of the same name are compared with each other" in run.summary["compared"]


def test_names_of_generators_are_left_together(measured):
    files = [
        "a1111/00012-1234567.png",
        "a1111/00013-123456.png",
        "comfy/ComfyUI_00012_.png",
        "comfy/ComfyUI_00013_.png",
    ]
    files += ["one_step/alice_000500_00_20240101120000_42.png", "one_step/alice_000500_01_20240101120001_42.png"]
    files += [f"_baseline/{step}_step{step}.png" for step in (500, 600)]
    groups, run = measured(files)
    assert sorted(groups) == ["_baseline", "a1111", "comfy", "one_step"] and "told by" not in run.stderr


def save_with_prompt(path, prompt, seed):
    text = PngInfo()
    text.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: {seed}, Size: 64x64")
    with Image.open(path) as picture:
        picture.load()
    picture.save(path, pnginfo=text)


def test_lora_tags_tell_steps_where_names_do_not(measured, make_picture, tmp_path):
    prompts = [f"photo of ohwx <lora:alice-{step}:0.8> <lora:film-000003:0.5>" for step in ("000004", "000008")]
    for number, prompt in enumerate([*prompts, "photo of ohwx <lora:alice:0.8>"]):
        for seed in (1, 2):
            path = make_picture(tmp_path / "cand" / "xyz" / f"{number}{seed:04d}-{seed}.png", 50 + 2 * number + seed)
            save_with_prompt(path, prompt, seed)
    groups, run = measured([])
    assert {name: len(files) for name, files in groups.items()} == {"xyz": 2, "xyz epoch 4": 2, "xyz epoch 8": 2}
    assert "xyz: images of 2 steps of a LoRA, told by their prompts" in run.stderr
    assert json.dumps(run.summary["curves"]).count('"number"') == 2
