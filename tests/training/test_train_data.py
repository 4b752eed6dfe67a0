"""What training reads: captions, repeats, buckets that never cut a face, presets; and the plan of --dry-run."""

from __future__ import annotations

import codecs
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script
from documents import commands

import train_lora
from mirror.dataset.buckets import buckets, place
from mirror.training.data import (
    assign_buckets,
    find_faces,
    pixels_of,
    read_dataset,
    refuse_shared,
    steps_an_epoch,
    with_trigger,
)
from mirror.training.presets import MOST_VIEWS, PRESETS, Preset, epochs_of, recommended_epochs
from utils.captions import told_kinds
from utils.console import UserError

TRIGGER = "ohwx alice"


# Folders and captions


@pytest.fixture
def dataset(tmp_path, make_picture) -> Path:
    folder = tmp_path / "dataset"
    for name in ("loose.jpg", "10_ohwx alice/a.png", "10_ohwx alice/b.png", "3_other words/c.webp", "notes/d.png"):
        make_picture(folder / name, len(name))
    (folder / "10_ohwx alice" / "a.txt").write_text("Ohwx  Alice smiling".replace("  ", " "))
    (folder / "3_other words" / "c.txt").write_text("\ufeff a red coat \nsecond line\n", encoding="utf-8")
    return folder


def test_kohyas_folders_are_read(dataset):
    found = read_dataset(dataset, TRIGGER, 7, 100)
    assert [(image.file, image.repeats, image.caption) for image in found.images] == [
        ("loose.jpg", 7, "ohwx alice"),
        ("10_ohwx alice/a.png", 10, "Ohwx Alice smiling"),
        ("10_ohwx alice/b.png", 10, "ohwx alice"),
        ("3_other words/c.webp", 3, "ohwx alice, a red coat"),
    ]
    assert found.samples == 30
    said = " ".join(found.warnings)
    assert "not like 10_name: notes" in said and "several lines: the first counts" in said
    inside = read_dataset(dataset / "10_ohwx alice", TRIGGER, 1, 100)
    assert [image.repeats for image in inside.images] == [10, 10], "the folder's own name counts too"


def test_generated_pictures_beside_photos_are_seen_less_often(dataset, make_picture):
    for name in ("synthetic_iter1_a.png", "10_ohwx alice/synthetic_b.png", "3_other words/synthetic_c.png"):
        make_picture(dataset / name, len(name))
    found = read_dataset(dataset, TRIGGER, 8, 100, 0.5)
    assert {image.file: image.repeats for image in found.images} == {
        "loose.jpg": 8,
        "synthetic_iter1_a.png": 4,
        "10_ohwx alice/a.png": 10,
        "10_ohwx alice/b.png": 10,
        "10_ohwx alice/synthetic_b.png": 5,
        "3_other words/c.webp": 3,
        "3_other words/synthetic_c.png": 2,
    }
    said = [one for one in found.warnings if "seen" in one]
    assert said == [
        "Generated pictures are seen 2 time(s) an epoch beside photos that are seen 3: 0.5 times that is no whole "
        "number."
    ]
    once = read_dataset(dataset, TRIGGER, 1, 100, 0.5)
    assert next(image.repeats for image in once.images if image.file.startswith("synthetic_iter1")) == 1
    assert any("seen 1 time(s) an epoch beside photos that are seen 1" in one for one in once.warnings)
    assert {image.repeats for image in read_dataset(dataset, TRIGGER, 8, 100).images} == {3, 8, 10}, "1 is the default"


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("synthetic_a.png", "synthetic_b.png")])
def test_a_weight_says_nothing_where_all_pictures_are_of_a_kind(tmp_path, make_picture, names):
    for name in names:
        make_picture(tmp_path / name, 1)
    found = read_dataset(tmp_path, TRIGGER, 7, 100, 0.5)
    assert [image.repeats for image in found.images] == [7, 7]
    assert found.identity == read_dataset(tmp_path, TRIGGER, 7, 100).identity


def test_the_datasets_hash_changes_with_all_that_is_learned(dataset, make_picture):
    seen = {read_dataset(dataset, TRIGGER, 7, 100).identity}
    assert seen == {read_dataset(dataset, TRIGGER, 7, 100).identity}
    seen.add(read_dataset(dataset, "other", 7, 100).identity)
    seen.add(read_dataset(dataset, TRIGGER, 8, 100).identity)
    (dataset / "10_ohwx alice" / "b.txt").write_text("frowning")
    seen.add(read_dataset(dataset, TRIGGER, 7, 100).identity)
    make_picture(dataset / "loose.jpg", 99)
    seen.add(read_dataset(dataset, TRIGGER, 7, 100).identity)
    assert len(seen) == 5


def test_the_trigger_is_a_word_of_its_own():
    assert with_trigger("photo of OHWX Alice, smiling", TRIGGER) == "photo of OHWX Alice, smiling"
    assert with_trigger("photo of ohwx alicent", TRIGGER) == "ohwx alice, photo of ohwx alicent"
    assert with_trigger("", TRIGGER) == TRIGGER


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ("älter, lächelnd".encode(), "älter, lächelnd"),
        ("älter, lächelnd".encode("utf-8-sig"), "älter, lächelnd"),
        (codecs.BOM_UTF16_LE + "älter, lächelnd\r\n".encode("utf-16-le"), "älter, lächelnd"),  # Notepad's Unicode
        (codecs.BOM_UTF16_BE + "älter, lächelnd".encode("utf-16-be"), "älter, lächelnd"),
        (b"smiling\rin a hat", "smiling"),  # kohya's sd-scripts train the first of several lines
        ("\n a red\x85coat \nsecond".encode(), "a red\x85coat"),  # only \n and \r end a line, as in readlines()
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_captions_as_editors_save_them(tmp_path, make_picture, data, caption, suffix):
    make_picture(tmp_path / "01.jpg").with_suffix(suffix).write_bytes(data)
    found = read_dataset(tmp_path, TRIGGER, 1, 100)
    assert [image.caption for image in found.images] == [f"ohwx alice, {caption}"] and found.captions == {suffix: 1}


def test_captions_of_diffusers_metadata(dataset):
    """Of the nearest metadata.jsonl, from the dataset's folder down; text files of a picture's own go before."""
    (dataset / "10_ohwx alice" / "b.txt").write_text(" \n")
    (dataset / "10_ohwx alice" / "b.caption").write_text("")
    rows = [
        {"file_name": "loose.jpg", "text": "outdoor\u2028light"},
        {"file_name": "10_ohwx alice/a.png", "text": "never"},
        {"file_name": "10_ohwx alice\\b.png", "text": ["in the garden", "another"], "label": 3},
        {"file_name": "gone.png", "text": "of no picture"},
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (dataset / "metadata.jsonl").write_text(lines + "\n", encoding="utf-8-sig", newline="")
    found = read_dataset(dataset, TRIGGER, 7, 100)
    assert [image.caption for image in found.images] == [
        "ohwx alice, outdoor\u2028light",
        "Ohwx Alice smiling",
        "ohwx alice, in the garden",
        "ohwx alice, a red coat",
    ]
    assert found.captions == {".txt": 2, "metadata.jsonl": 2}
    assert told_kinds(found.captions) == "Captions: 2 from .txt files, 2 from metadata.jsonl."
    (dataset / "10_ohwx alice" / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "nearer"}')
    assert read_dataset(dataset, TRIGGER, 7, 100).images[2].caption == "ohwx alice, nearer"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "loose.jpg", "text": "a"', r"Line 2 of .*metadata\.jsonl is not like"),
        ('{"name": "loose.jpg", "text": "a"}', r"Line 2 of .*metadata\.jsonl is not like"),
        ('{"file_name": "loose.jpg", "text": 3}', r"Line 2 of .*metadata\.jsonl is not like"),
        ('{"file_name": "loose.jpg", "text": "cut emoji \\ud83d"}', r"Line 2 of .*metadata\.jsonl is not like"),
        ("[" * 100_000, r"Line 2 of .*metadata\.jsonl is not like"),
        ('{"file_name": "loose.jpg", "caption": "a"}', r'metadata\.jsonl has no "text" in any line'),
    ],
)
def test_metadata_without_captions_is_refused(dataset, line, said):
    (dataset / "metadata.jsonl").write_text(f'{{"file_name": "x.jpg"}}\n{line}\n')
    with pytest.raises(UserError, match=said):
        read_dataset(dataset, TRIGGER, 1, 100)


def test_a_folder_where_captions_should_be_is_a_sentence(dataset):
    (dataset / "metadata.jsonl").mkdir()
    with pytest.raises(UserError, match=r"The captions .*metadata\.jsonl cannot be read"):
        read_dataset(dataset, TRIGGER, 1, 100)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0\x00\x10JFIF", b"a\0b", "smiling".encode("utf-16-le")])
def test_captions_that_are_no_text_are_refused(dataset, data):
    (dataset / "loose.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"The caption .*loose\.txt is not text"):
        read_dataset(dataset, TRIGGER, 1, 100)


def test_no_pictures(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_dataset(tmp_path / "nowhere", TRIGGER, 1, 100)
    (tmp_path / "0_regularisation").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        read_dataset(tmp_path, TRIGGER, 1, 100)


def test_damaged_and_huge_pictures_are_left_out_by_name(dataset):
    (dataset / "bad.png").write_bytes(b"no picture")
    found = read_dataset(dataset, TRIGGER, 1, 100)
    assert len(found.images) == 4 and "bad.png is left out: it is not a picture" in " ".join(found.warnings)
    whole = (dataset / "10_ohwx alice" / "a.png").read_bytes()
    (dataset / "10_ohwx alice" / "a.png").write_bytes(whole[: len(whole) // 2])  # its header says nothing of that
    found = read_dataset(dataset, TRIGGER, 1, 100)
    assert len(found.images) == 3 and "a.png is left out: it is damaged" in " ".join(found.warnings)
    with pytest.raises(UserError, match=r"holds no pictures.*megapixels"):
        read_dataset(dataset, TRIGGER, 1, 0.001)


def test_held_out_pictures_are_not_trained_on(dataset, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "copy.jpg").write_bytes((dataset / "loose.jpg").read_bytes())
    trained, held_out = (read_dataset(folder, TRIGGER, 1, 100) for folder in (dataset, tmp_path / "held"))
    with pytest.raises(UserError, match=r"--validation .*copy\.jpg is loose\.jpg of the dataset"):
        refuse_shared(trained, held_out)


def test_size_conditioning_of_a_cropped_picture(tmp_path):
    """SDXL's six numbers against the definition: original height and width, crop's top and left, size trained."""
    from PIL import Image

    from mirror.training.base import _time_ids

    (tmp_path / "set").mkdir()
    Image.new("RGB", (500, 100)).save(tmp_path / "set" / "wide.png")
    placed = assign_buckets(
        read_dataset(tmp_path / "set", TRIGGER, 1, 100), {"wide.png": (480.0, 0.0, 500.0, 100.0)}, 64
    )
    (image,) = placed.images
    (width, height), (left, top) = image.placement.bucket_wh, image.placement.crop_xy
    assert width > height and left > 0 == top and left + width == image.placement.scaled_wh[0]
    assert _time_ids(image).tolist() == [100, 500, top, left, height, width]


# Buckets


@pytest.mark.parametrize("resolution", [64, 512, 768, 1024])
def test_buckets(resolution):
    made = buckets(resolution)
    step = 64 if resolution >= 512 else 8
    assert (resolution, resolution) in made and len(made) > 10
    for width, height in made:
        assert width % step == 0 == height % step and width * height <= resolution**2
        assert (height, width) in made
        assert max(width, height) <= 2 * resolution


def test_no_box_is_ever_cut():
    """Boxes anywhere in pictures of any shape, against the definition: scale, then crop."""
    random = np.random.default_rng(0)
    moved = 0
    for _ in range(400):
        width, height = (int(side) for side in random.integers(200, 3000, 2))
        corners = np.sort(random.uniform(-0.1, 1.1, (2, 2)), axis=0) * (width, height)
        box = tuple(corners.flatten())
        found = place((width, height), box, 512)
        plain = place((width, height), None, 512)
        if found is None:  # only a picture that is longer than every bucket, with a face from end to end
            assert max(width, height) / min(width, height) > 3.9
            continue
        moved += found != plain
        scale = np.array(found.scaled_wh) / (width, height)
        assert abs(scale[0] / scale[1] - 1) < 0.01, "nothing is stretched"
        inside = np.clip(corners, 0, (width, height)) * scale - found.crop_xy
        assert (inside >= -1e-6).all() and (inside <= np.array(found.bucket_wh) + 1e-6).all()
        window = np.array(found.crop_xy) + found.bucket_wh
        assert min(found.crop_xy) >= 0 and (window <= found.scaled_wh).all()
    assert moved > 20, "the boxes did matter"


def test_no_face_box_is_cut_over_a_portrait_set(photos, mini_pack, tmp_path):
    from mirror.faces.cache import open_cache
    from mirror.faces.measurer import Measurer
    from mirror.faces.packs import find_pack

    cache = open_cache(tmp_path / "cache.sqlite")
    found = read_dataset(photos, TRIGGER, 1, 100)
    faces = find_faces(found, Measurer(find_pack(str(mini_pack)), cache, "cpu"))
    cache.close()
    boxes = {file: box for file, box in faces.items() if box is not None}
    assert len(boxes) > 20
    for resolution in (512, 1024):
        placed = assign_buckets(found, faces, resolution)
        assert len(placed.images) == len(found.images), "every portrait has a bucket"
        for image in placed.images:
            if image.file not in boxes:
                continue
            scale = np.array(image.placement.scaled_wh * 2) / (image.size_wh * 2)
            visible = np.clip(boxes[image.file], 0, image.size_wh * 2) * scale - image.placement.crop_xy * 2
            assert visible.min() >= -1e-6, image.file
            assert (visible[2:] <= np.array(image.placement.bucket_wh) + 1e-6).all(), image.file


def test_pixels_are_those_of_the_crop(tmp_path):
    """A face at the right edge of a panorama stays in the training picture; turned pictures are upright."""
    from PIL import Image

    array = np.zeros((100, 400, 3), np.uint8)
    array[:, 380:] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "set").mkdir()
    Image.fromarray(array).save(tmp_path / "set" / "wide.png")
    Image.fromarray(array).save(tmp_path / "set" / "turned.jpg", exif=exif)
    found = read_dataset(tmp_path / "set", TRIGGER, 1, 100)
    assert {image.file: image.size_wh for image in found.images} == {"wide.png": (400, 100), "turned.jpg": (100, 400)}
    (wide,) = (image for image in found.images if image.file == "wide.png")
    cut = assign_buckets(found, {"wide.png": (380.0, 0.0, 400.0, 100.0)}, 64)
    (image,) = (image for image in cut.images if image.file == wide.file)
    pixels = pixels_of(image, 100)
    assert pixels.shape == (*reversed(image.placement.bucket_wh), 3)
    assert (pixels[:, -1] == (255, 0, 0)).all(), "RGB, and the right edge is kept"


# Presets and the plan


def test_every_value_of_a_preset_has_a_source():
    for preset in PRESETS.values():
        values = set(Preset.__dataclass_fields__) - {"family", "sources"}
        assert values == set(preset.sources) and all(preset.sources.values())


def test_epochs_for_a_number_of_steps_are_whole():
    assert [epochs_of(None, steps, 20, 200, 50) for steps in (1, 74, 76, 500)] == [1, 1, 2, 10]
    assert epochs_of(3, None, 20, 200, 50) == 3 and epochs_of(None, None, 20, 200, 50) == 10


def test_recommended_epochs():
    assert recommended_epochs(20, 200) == 10
    assert recommended_epochs(5, 50) == 30
    assert recommended_epochs(1000, 10_000) == 1
    for images in (1, 10, 30, 60, 500):
        assert recommended_epochs(images, images) * images < MOST_VIEWS + images


def test_dry_run_prints_the_plan_and_loads_nothing(dataset, tmp_path):
    """Not even PyTorch is imported, and the base model need not be there."""
    arguments = [dataset, "--base-model", "nobody/nothing", "--output", tmp_path / "out", "--trigger", TRIGGER]
    arguments += ["--preset", "sdxl", "--epochs", "4", "--batch", "4", "--dry-run"]
    code = "import sys, train_lora\nassert train_lora.main() == 0\nassert not {'torch', 'diffusers'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "images: 4\nan epoch: 33 pictures seen, 9 steps on one process\nepochs: 4\nsteps: 36" in done.stdout
    assert "rank: 32" in done.stdout and "1152 x 896" in done.stdout
    assert "checkpoints: 4 files ohwx_alice-*.safetensors" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if "10_ohwx" in line or "3_other" in line]
    assert [row[-2] for row in rows] == ["10", "3"], "the repeats of both folders"
    assert not (tmp_path / "out").exists()


def test_help_is_instant_and_tells_the_zits_apart():
    done = run_script("train_lora.py", "--help")
    assert done.returncode == 0 and "Z-Image" in done.stdout and "Animagine" in done.stdout


def test_steps_of_the_plan_are_those_of_the_loop(dataset):
    """With buckets, accumulation and several processes."""
    from mirror.training.noising import epoch_batches, share_of

    found = assign_buckets(read_dataset(dataset, TRIGGER, 5, 100), None, 512)
    samples = [image.placement.bucket_wh for image in found.images for _ in range(image.repeats)]
    for batch, accumulate, processes in ((1, 1, 1), (3, 2, 1), (4, 1, 3), (5, 3, 2)):
        batches = epoch_batches(samples, batch, 0, "order", 1)
        shares = [share_of(batches, process, processes, accumulate) for process in range(processes)]
        planned = steps_an_epoch(found, batch, accumulate, processes)
        assert {len(share) for share in shares} == {planned}
        seen = {sample for share in shares for group in share for one in group for sample in one}
        assert seen == set(range(len(samples)))


def test_commands_of_the_documents(tmp_path, make_picture):
    """All of them are understood, and the plan is printed as written."""
    import re
    import shlex

    text = "\n".join(commands())
    lines = re.findall(r"^(?:python|accelerate launch .*) (train_lora\.py .*)$", text, re.MULTILINE)
    asked = [train_lora.parse_args(shlex.split(line)[1:]) for line in lines]
    assert len(asked) == 9 and {args.trainer for args in asked} == {None, "sd-scripts", "ai-toolkit", "command"}
    make_picture(tmp_path / "dataset" / "1.jpg")
    (dry,) = (line for line in lines if "--dry-run" in line)
    done = run_script(*shlex.split(dry), cwd=tmp_path)
    assert done.returncode == 0 and "epochs: 150 (recommended)" in done.stdout, done.stderr
