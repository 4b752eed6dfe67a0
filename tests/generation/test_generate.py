"""generate_synthetic.py with tiny models of every family: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gaps_fixture
import lora_files
import numpy as np
import pytest
import tiny_models
import torch
from conftest import ROOT, run_script
from documents import commands, page
from PIL import Image

import generate_synthetic
from mirror.contracts.contract import read_contract, write_contract
from mirror.contracts.gaps import GapReport, Recommendation
from mirror.contracts.generation import GenerationMetadata, retry_seed
from mirror.dataset.batch import collect
from mirror.dataset.gaps import GAP_TYPES, GapType, Target
from mirror.generation import a1111, families, making, pipelines, planning
from mirror.generation.prompts import PlannedImage, plan_gaps
from utils.console import UserError

PERSON = "ohwx person"
SIZE = ("--width", 64, "--height", 64)
QUICK = (*SIZE, "--steps", 2)


@dataclass
class ImagePipeline:
    """Tiny models, LoRAs and a gap file in one folder; models are built when they are first asked for."""

    root: Path

    def model(self, family: str) -> Path:
        folder = self.root / family
        return folder if folder.exists() else tiny_models.TINY_FOLDERS[family](folder)

    def lora(self, family: str) -> Path:
        path = self.root / f"lora_{family}.safetensors"
        if path.exists():
            return path
        pipeline = pipelines.load(str(self.model(family)), None, None, "cpu", None).pipeline
        if family == "sdxl":
            tensors = lora_files.kohya_sdxl(pipeline, text_encoders=True)
        elif family == "sd15":
            tensors = lora_files.kohya_sd15(pipeline, only="up_blocks.2")  # fewer layers load faster
        else:
            tensors = lora_files.peft_format(pipeline, "transformer.")
        return lora_files.write(path, tensors)

    @property
    def gaps(self) -> Path:
        path = self.root / "gaps.json"
        if not path.exists():
            write_contract(path, gap_report(("face_angle", "profile", 3), ("lighting", "low_key", 1)))
        return path

    def arguments(self, output: Path, family: str = "sdxl", *more: object) -> list[str]:
        command = [self.gaps, "--base-model", self.model(family), "--lora", self.lora(family), "--output", output]
        return [str(part) for part in (*command, "--person", PERSON, *QUICK, *more)]


def gap_report(*gaps: tuple[str, str, int]) -> GapReport:
    report = gaps_fixture.report_of([gaps_fixture.record(f"{number}.png") for number in range(30)])
    report.recommendations = [recommendation(*gap) for gap in gaps]
    return report


def recommendation(kind: str, target: str, count: int) -> Recommendation:
    return Recommendation(
        type=kind, target=target, count=count, reason="few", share_percent=0, goal_percent=20, wanted=max(count, 1)
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> ImagePipeline:
    return ImagePipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def first_run(tiny) -> tuple[Path, subprocess.CompletedProcess]:
    """One run as users do it, SDXL with a kohya LoRA of U-Net and text encoders."""
    folder = tiny.root / "first"
    return folder, run_script("generate_synthetic.py", *tiny.arguments(folder))


def generate(arguments: list[str]) -> GenerationMetadata:
    """A run in this process, which saves the seconds that imports take."""
    args = generate_synthetic.parse_args(list(map(str, arguments)))
    assert generate_synthetic.run(args) == 0
    return metadata(args.output)


def metadata(folder: Path) -> GenerationMetadata:
    return read_contract(folder / "generation_metadata.json", GenerationMetadata, "it")


def pictures(folder: Path) -> dict[str, bytes]:
    """Name without time stamp -> bytes."""
    return {re.sub(r"_\d{8}_\d{6}$", "", path.stem): path.read_bytes() for path in folder.glob("*.png")}


def test_a_run_writes_what_is_documented(tiny, first_run):
    folder, done = first_run
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert [re.sub(r"\d{8}_\d{6}", "STAMP", name) for name in names] == [
        "generation_metadata.json",
        "synthetic_face_angle_profile_001_STAMP.png",
        "synthetic_face_angle_profile_002_STAMP.png",
        "synthetic_face_angle_profile_003_STAMP.png",
        "synthetic_lighting_low_key_001_STAMP.png",
    ]
    facts = metadata(folder)
    assert {image.file for image in facts.images} == set(names[1:])
    assert facts.base_model.startswith("sdxl@") and facts.lora.startswith("lora_sdxl@")
    assert (facts.dataset, facts.sensors.angle.identity) == ("/somewhere/dataset", "made_up@0123456789ab")
    assert (facts.settings["steps"], facts.settings["guidance"], facts.settings["dtype"]) == (2, 7.5, "float32")
    assert facts.versions["device"] == "cpu"
    assert all("person" in image.prompt and image.negative_prompt for image in facts.images)
    assert "648 of 648 keys matched" in done.stderr
    assert "4 of 4 image(s)" in done.stdout


def test_the_talk_is_ours_alone(first_run):
    """transformers 5 reports weights as newly initialized while a LoRA goes into CLIP; bars of libraries stay away."""
    talk = first_run[1].stderr
    assert "newly initialized" not in talk and "LOAD REPORT" not in talk and "it/s" not in talk
    assert len(talk.splitlines()) <= 9, talk


def test_validation_takes_the_folder(tiny, first_run):
    batch = collect(first_run[0], first_run[0])
    assert len(batch.wanted) == len(batch.pictures) == 4
    assert {(image.gap_type, image.target) for image in batch.wanted.values()} == {
        ("face_angle", "profile"),
        ("lighting", "low_key"),
    }
    assert batch.sensors.angle.identity == "made_up@0123456789ab" and not batch.warnings


def test_png_carries_its_prompt_for_other_tools(tiny, first_run):
    from sd_parsers import ParserManager

    folder, _ = first_run
    image = metadata(folder).images[0]
    read = ParserManager().parse(folder / image.file)
    assert read.generator.value == "AUTOMATIC1111"
    (sampler,) = read.samplers
    assert [prompt.value for prompt in sampler.prompts] == [image.prompt]
    assert [prompt.value for prompt in sampler.negative_prompts] == [image.negative_prompt]
    assert 'Lora hashes: "lora_sdxl: ' in (text := Image.open(folder / image.file).text["parameters"])
    assert a1111.lora_hash(tiny.lora("sdxl")) in text
    assert sampler.parameters == {"cfg_scale": "7.5", "seed": str(image.seed), "steps": "2"}
    assert (sampler.name, sampler.model.name, read.metadata["Size"]) == ("Euler", "sdxl", "64x64")


def test_names_with_the_marks_of_the_line_of_settings_are_quoted(tiny, first_run):
    """Commas, colons and quotes, as A1111 writes and reads them: JSON text."""
    image = metadata(first_run[0]).images[0]
    model, lora = 'base, "v2": final', "alice: the, best"
    line = a1111.parameters(image, "DDIMScheduler", model, (lora, "0123456789ab"), 0.5).splitlines()[-1]
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line))  # A1111's own pattern
    assert json.loads(found["Model"]) == model and json.loads(found["Lora hashes"]) == f"{lora}: 0123456789ab"
    assert (found["Sampler"], found["Lora scale"]) == ("DDIM", "0.5")


def test_hash_of_a_lora_is_that_of_its_tensors(tmp_path):
    """Other words in the header leave it as it is."""
    tensors = {"a.lora_down.weight": torch.ones(4, 4)}
    one = lora_files.write(tmp_path / "a.safetensors", tensors, {"ss_title": "one"})
    other = lora_files.write(tmp_path / "b.safetensors", tensors, {"ss_title": "another"})
    assert a1111.lora_hash(one) == a1111.lora_hash(other) == hashlib.sha256(torch.ones(16).numpy()).hexdigest()[:12]


def test_killed_run_goes_on_without_loss_or_double(tiny, first_run, tmp_path):
    """SIGKILL after some images; the same command ends with the same bytes as the undisturbed run."""
    command = [sys.executable, str(ROOT / "generate_synthetic.py"), *tiny.arguments(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*.png"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = pictures(tmp_path / "out")
    assert 2 <= len(before) < 4
    generate(tiny.arguments(tmp_path / "out"))
    assert pictures(tmp_path / "out") == pictures(first_run[0])
    assert len(list((tmp_path / "out").glob("*.png"))) == len(metadata(tmp_path / "out").images) == 4


def copy_of(folder: Path, to: Path) -> Path:
    import shutil

    return shutil.copytree(folder, to)


def test_image_written_just_before_the_kill_is_taken_over(tiny, first_run, tmp_path):
    """The picture is there, its line in the metadata is not; and the rest of a write that was cut off."""
    folder = copy_of(first_run[0], tmp_path / "out")
    facts = metadata(folder)
    lost = facts.images.pop()
    write_contract(folder / "generation_metadata.json", facts)
    (folder / ".synthetic_face.abc.tmp").write_bytes(b"half")
    before = (folder / lost.file).stat().st_mtime_ns
    assert {image.file for image in generate(tiny.arguments(folder)).images} == {
        image.file for image in metadata(first_run[0]).images
    }
    assert (folder / lost.file).stat().st_mtime_ns == before, "it was not drawn again"
    assert not list(folder.glob("*.tmp")) and not list(folder.glob(".*.tmp"))


def test_complete_run_needs_no_model(tiny, first_run, tmp_path, capsys, monkeypatch):
    folder = copy_of(first_run[0], tmp_path / "out")
    monkeypatch.setattr(generate_synthetic, "open_pipeline", None)
    generate(tiny.arguments(folder))
    assert "are there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--seed", 1), "another plan"),
        (("--num-per-gap", 1), "another plan"),
        (("--steps", 3), "steps 2 instead of 3"),
        (("--lora-scale", 0.5), r"lora_scale 1\.0 instead of 0\.5"),
        (("--dtype", "bfloat16"), "dtype float32 instead of bfloat16"),
        (("--guidance", 1, "--width", 128), r"guidance 7\.5 instead of 1\.0, width 64 instead of 128, negative .*None"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tiny, first_run, more, said, monkeypatch):
    """Before anything is loaded, whether the folder is finished or not."""
    monkeypatch.setattr(generate_synthetic, "open_pipeline", None)
    before = pictures(first_run[0])
    with pytest.raises(UserError, match=said):
        generate(tiny.arguments(first_run[0], "sdxl", *more))
    assert pictures(first_run[0]) == before


def test_pictures_have_the_size_that_a_unet_was_trained_on(tiny, tmp_path):
    """As its configuration says, and the memory for an image with it; where it says nothing, the family's."""
    folder = copy_of(tiny.model("sdxl"), tmp_path / "model")
    config = folder / "unet" / "config.json"
    facts = json.loads(config.read_text())
    for latents, side in ((8, 64), (96, 768), (None, 1024)):
        config.write_text(json.dumps(facts | {"sample_size": latents}))
        found = pipelines.local_family(str(folder), None, None)
        assert found.size == side
        assert found.working_gib / side**2 == pytest.approx(families.FAMILIES["sdxl"].working_gib / 1024**2)


def test_options_that_are_left_out_count_too(tiny, first_run, tmp_path, monkeypatch):
    """A finished folder of 2 steps is no result of the same command without them (64 pixels is the model's own)."""
    monkeypatch.setattr(generate_synthetic, "open_pipeline", None)
    arguments = tiny.arguments(first_run[0])
    with pytest.raises(UserError, match=r"steps 2 instead of 30\)"):
        generate(arguments[: -len(QUICK)])


def test_a_second_run_in_the_same_folder_is_refused(tiny, tmp_path, monkeypatch, capsys):
    """As long as the first one lives; what it leaves behind keeps nobody out."""
    from utils.folder_lock import only_one

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / generate_synthetic.LOCK_FILE).touch()
    monkeypatch.setattr(sys, "argv", ["generate_synthetic.py", *tiny.arguments(tmp_path / "out", "sd15")])
    with only_one(tmp_path / "out", generate_synthetic.LOCK_FILE):
        assert generate_synthetic.main() == 2
    assert "Another run works in" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    with only_one(tmp_path / "out", generate_synthetic.LOCK_FILE):
        pass


def test_damaged_metadata_say_what_to_do(tiny, tmp_path):
    (tmp_path / "generation_metadata.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_metadata\.json.*delete it, and take another --output\.$"):
        generate(tiny.arguments(tmp_path, "sd15"))


def test_images_without_metadata_are_not_mixed_with(tiny, first_run, tmp_path):
    folder = copy_of(first_run[0], tmp_path / "out")
    (folder / "generation_metadata.json").unlink()
    with pytest.raises(UserError, match=r"no generation_metadata\.json"):
        generate(tiny.arguments(folder))


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name != "sdxl"])
def test_every_family_generates_from_a_gap_file(tiny, family, tmp_path, capsys):
    facts = generate(tiny.arguments(tmp_path / "out", family, "--num-per-gap", 1))
    assert (facts.family, len(facts.images)) == (family, 2)
    known = families.FAMILIES[family]
    guidance = {"flux2-klein": 1.0}.get(family, known.guidance)  # the tiny one is the distilled one
    assert facts.settings["guidance"] == guidance
    assert (facts.settings["negative"] is not None) == (family in ("sd15", "qwen-image"))
    shapes = {np.asarray(Image.open(tmp_path / "out" / image.file)).shape for image in facts.images}
    assert shapes == {(64, 64, 3)}
    assert re.search(r"(\d+) of \1 keys matched", capsys.readouterr().err)


def test_single_file_makes_the_same_pictures_as_the_folder(tiny, first_run, tmp_path):
    single = tiny_models.tiny_sdxl_single_file(tiny.root / "sdxl.safetensors")
    arguments = tiny.arguments(tmp_path / "out", "sdxl", "--base-config", tiny.model("sdxl"))
    arguments[arguments.index("--base-model") + 1] = str(single)
    facts = generate(arguments)
    assert facts.base_model.startswith("sdxl@") and facts.family == "sdxl"
    for name, data in pictures(tmp_path / "out").items():
        one, other = (
            np.asarray(Image.open(next(folder.glob(f"{name}*")))) for folder in (tmp_path / "out", first_run[0])
        )
        assert np.array_equal(one, other), data


def test_single_file_that_predicts_velocity_says_so_with_a_mark(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    single = tiny_models.tiny_sdxl_single_file(tmp_path / "plain.safetensors")
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file(load_file(single) | marks, tmp_path / "velocity.safetensors")
    schedulers = [
        pipelines.load(str(path), None, tiny.model("sdxl"), "cpu", None).pipeline.scheduler.config
        for path in (single, tmp_path / "velocity.safetensors")
    ]
    assert [one.prediction_type for one in schedulers] == ["epsilon", "v_prediction"]
    assert [one.rescale_betas_zero_snr for one in schedulers] == [False, True]


def test_single_file_of_a_transformer_takes_the_rest_from_a_folder(tiny, tmp_path):
    from safetensors.torch import save_file

    folder = tiny.model("qwen-image")
    transformer = pipelines.load(str(folder), None, None, "cpu", None).pipeline.transformer
    save_file(transformer.state_dict(), tmp_path / "qwen.safetensors")
    loaded = pipelines.load(str(tmp_path / "qwen.safetensors"), None, folder, "cpu", None)
    assert loaded.family.name == "qwen-image"
    assert all(map(torch.equal, loaded.denoiser.state_dict().values(), transformer.state_dict().values()))
    with pytest.raises(UserError, match="--base-config takes the diffusers folder"):
        pipelines.load(str(tmp_path / "qwen.safetensors"), None, None, "cpu", None)


def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch, diffusers and transformers cannot be imported."""
    for name in ("torch", "diffusers", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    return {"PYTHONPATH": str(tmp_path)}


def test_dry_run_needs_no_model_and_no_torch(tiny, tmp_path):
    done = run_script("generate_synthetic.py", tiny.gaps, "--person", PERSON, "--dry-run", **without_torch(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "4 image(s) to generate" in done.stdout
    for word in ("face_angle", "profile", "low_key", "Seed", PERSON):
        assert word in done.stdout
    helped = run_script("generate_synthetic.py", "--help", **without_torch(tmp_path))
    assert helped.returncode == 0 and "Animagine" in helped.stdout


def test_dry_run_is_the_plan_of_the_run(tiny, first_run, capsys):
    args = generate_synthetic.parse_args([str(tiny.gaps), "--person", PERSON, "--dry-run"])
    planned = planning.make_plan(args).planned_images
    made = metadata(first_run[0]).images
    assert [(planned.prompt, planned.seed) for planned in planned] == [(image.prompt, image.seed) for image in made]
    args.json = True
    assert generate_synthetic.run(args) == 0
    shown = json.loads(capsys.readouterr().out)["images"]
    assert [(one["prompt"], one["seed"], one["target"]) for one in shown] == [
        (image.prompt, image.seed, image.target) for image in made
    ]


def test_images_of_a_gap_differ_and_follow_the_seed():
    def plan(seed: int, count: int = 60) -> list[PlannedImage]:
        return plan_gaps([recommendation("face_angle", "profile", count)], PERSON, 1000, seed)[0]

    one = plan(0)
    assert len({(planned.prompt, planned.seed) for planned in one}) == len({planned.seed for planned in one}) == 60
    assert one == plan(0) and one[:5] == plan(0, 5), "more images leave the first ones as they were"
    assert {planned.prompt for planned in one} != {planned.prompt for planned in plan(1)}
    assert sum("left side" in planned.prompt for planned in one) == 30, "both sides in turn"


def test_number_of_images_and_gaps_that_get_none():
    gaps = [
        recommendation("face_angle", "profile", 3),
        recommendation("face_angle", "front", 9),
        recommendation("hands", "visible", 0),
        recommendation("tone", "sepia", 4),
        recommendation("lighting", "neon", 4),
    ]
    planned_images, passed_over = plan_gaps(gaps, PERSON, 5, 0)
    assert [planned.target for planned in planned_images] == ["profile"] * 3 + ["front"] * 5
    assert [sentence.partition(":")[0] for sentence in passed_over] == [
        "composition hands_visible",
        "tone sepia",
        "lighting neon",
    ]


def test_candidates_are_more_images_of_the_same_gaps():
    gaps = [recommendation("face_angle", "profile", 3), recommendation("face_angle", "front", 9)]
    wanted, _ = plan_gaps(gaps, PERSON, 5, 0)
    more, _ = plan_gaps(gaps, PERSON, 5, 0, candidates=4)
    assert Counter(planned.target for planned in more) == {"profile": 12, "front": 20}
    assert len({planned.name for planned in more}) == 32
    assert {(planned.name, planned.prompt) for planned in wanted} < {(planned.name, planned.prompt) for planned in more}


def test_own_gap_type_is_asked_for_in_its_own_words(monkeypatch):
    own = GapType("tone", "Tone", lambda look: None, (Target("b w", "Black and white", ("monochrome photo",)),))
    monkeypatch.setitem(GAP_TYPES, "tone", own)
    (planned,), _ = plan_gaps([recommendation("tone", "b w", 1)], PERSON, 5, 0)
    assert "monochrome photo" in planned.prompt and planned.name == "synthetic_tone_b_w_001"


def test_gaps_never_share_a_file_name(monkeypatch):
    for kind, target in (("hair", "color_red"), ("hair_color", "red")):
        own = GapType(kind, "Hair", lambda look: None, (Target(target, "Red hair", ("red hair",)),))
        monkeypatch.setitem(GAP_TYPES, kind, own)
    gaps = [recommendation("hair", "color_red", 2), recommendation("hair_color", "red", 1)]
    names = [planned.name for planned in plan_gaps([*gaps, gaps[0]], PERSON, 5, 0)[0]]
    assert names == [
        "synthetic_hair_color_red_001",
        "synthetic_hair_color_red_002",
        "synthetic_hair_color_red_2_001",
        "synthetic_hair_color_red_003",
        "synthetic_hair_color_red_004",
    ]


@pytest.mark.parametrize(
    ("gaps", "why"),
    [
        ((), "the gap file asks for no image"),
        ((("hands", "visible", 0),), "the gap file asks for no image"),
        ((("tone", "sepia", 3),), "none of the gaps can be asked for, as the notes say"),
    ],
)
def test_nothing_to_do_is_a_sentence_and_exit_0(gaps, why, tmp_path, capsys):
    write_contract(tmp_path / "gaps.json", gap_report(*gaps))
    arguments = [str(tmp_path / "gaps.json"), "--person", PERSON]
    for more in ([], ["--json"], ["--json", "--dry-run"]):
        assert generate_synthetic.run(generate_synthetic.parse_args([*arguments, *more])) == 0
        shown = capsys.readouterr()
        if more:
            assert json.loads(shown.out)["images"] == []
        assert (shown.err if more else shown.out).endswith(f"Nothing to generate: {why}.\n")
        assert len(shown.err.splitlines()) == len(gaps) + bool(more)


def test_prompts_of_ones_own(tiny, tmp_path):
    (tmp_path / "prompts.txt").write_text(
        "portrait of {person}, {target}, at night\n  # a remark\nselfie of {person}\nby a lake\n"
    )
    options = [tiny.gaps, "--person", PERSON, "--prompts-file", tmp_path / "prompts.txt"]
    planned_images = planning.make_plan(generate_synthetic.parse_args(list(map(str, options)))).planned_images
    assert (
        planned_images[0].prompt
        == "portrait of ohwx person, profile view from the left side, side of the face, at night"
    )
    assert planned_images[1].prompt == "selfie of ohwx person, profile view from the right side, side of the face"
    assert planned_images[2].prompt.startswith("ohwx person, by a lake, profile view")
    (tmp_path / "prompts.txt").write_text("portrait of {name}")
    with pytest.raises(UserError, match=r"\{name\} is not known"):
        planning.make_plan(generate_synthetic.parse_args(list(map(str, options))))


def test_fixed_plan_needs_no_gap_file_and_repeats(tiny, tmp_path):
    images = [
        {"prompt": "ohwx person, smiling", "seed": 7, "name": "smile"},
        {"prompt": "ohwx person, side", "seed": 7, "negative_prompt": "hat"},
    ]
    (tmp_path / "plan.json").write_text(json.dumps({"images": images}))
    runs = []
    for folder in ("one", "two"):
        arguments = tiny.arguments(tmp_path / folder, "sd15", "--prompts-file", tmp_path / "plan.json")[1:]
        facts = generate(arguments)
        assert [(image.file, image.seed, image.gap_type) for image in facts.images] == [
            ("smile.png", 7, None),
            ("002.png", 7, None),
        ]
        assert facts.images[1].negative_prompt == "hat" and facts.gaps_file is None
        runs.append(pictures(tmp_path / folder))
    assert runs[0] == runs[1] and runs[0]["smile"] != runs[0]["002"]
    for broken in ({"images": []}, {"images": [images[0], images[0]]}, {"images": [{"prompt": "x", "seed": -1}]}):
        (tmp_path / "plan.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"plan\.json") as refused:
            generate(arguments)
        assert " run " not in str(refused.value), "no script writes a plan"


def test_options_that_do_not_act_do_not_count(tiny, tmp_path, capsys):
    """A plan of one's own knows neither --seed nor --person; its negative prompts act only where there is guidance."""
    images = [{"prompt": "ohwx person", "seed": 7, "negative_prompt": "hat"}]
    (tmp_path / "plan.json").write_text(json.dumps({"images": images}))
    plan = ("--prompts-file", tmp_path / "plan.json", "--guidance", 1)
    facts = generate(tiny.arguments(tmp_path / "out", "sd15", *plan)[1:])
    assert "those of the plan are left out" in capsys.readouterr().err
    assert generate(tiny.arguments(tmp_path / "out", "sd15", *plan, "--seed", 5, "--person", "x")[1:]) == facts


def break_drawing(monkeypatch, *faults: object) -> list[tuple]:
    """The first calls of the pipeline give an error or a picture of our choice; all calls are recorded."""
    real, calls, left = pipelines.sample, [], list(faults)

    def sample(loaded, prompts, negatives, seeds, sampling, on_step):
        calls.append((len(prompts), loaded.low_vram, sampling.width, seeds[0]))
        if not left:
            return real(loaded, prompts, negatives, seeds, sampling, on_step)
        broken = left.pop(0)
        if isinstance(broken, Exception):
            raise broken
        return [broken] * len(prompts)

    monkeypatch.setattr(pipelines, "sample", sample)
    return calls


def out_of_memory() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_steps_down_and_says_so(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(making, "SMALLEST", 32)
    calls = break_drawing(monkeypatch, *(out_of_memory() for _ in range(4)))
    facts = generate(tiny.arguments(tmp_path / "out", "sd15", "--batch", 4, "--allow-smaller"))
    assert [call[:3] for call in calls[:5]] == [
        (4, False, 64),
        (2, False, 64),
        (1, False, 64),
        (1, True, 64),
        (1, True, 48),
    ]
    assert {image.size_wh for image in facts.images} == {(48, 48)} and len(facts.images) == 4
    used = {"batch_used": 1, "width_used": 48, "height_used": 48, "low_vram": True, "batch": 4, "width": 64}
    assert used.items() <= facts.settings.items()
    talk = capsys.readouterr().err
    for said in ("with 2 image(s) at once", "with 1 image(s)", "with --low-vram", "with 48 x 48 pixels"):
        assert said in talk


def test_out_of_memory_with_nothing_left_is_a_sentence(tiny, tmp_path, monkeypatch):
    break_drawing(monkeypatch, *(out_of_memory() for _ in range(2)))
    with pytest.raises(UserError, match=r"not enough for 64 x 64 pixels.*--allow-smaller"):
        generate(tiny.arguments(tmp_path / "out", "sd15"))


def test_memory_of_the_computer_that_ends_is_no_fault_of_ours(tiny, tmp_path, monkeypatch):
    words = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    break_drawing(monkeypatch, *(RuntimeError(words) for _ in range(2)), RuntimeError("something else"))
    with pytest.raises(UserError, match=r"^The memory is not enough for 64 x 64 pixels.*smaller --width and --height"):
        generate(tiny.arguments(tmp_path / "out", "sd15"))
    with pytest.raises(RuntimeError, match="something else"):
        generate(tiny.arguments(tmp_path / "out", "sd15"))


def test_smaller_keeps_the_shape_and_never_enlarges():
    assert making.smaller_size(1024, 768) == (768, 576)
    assert making.smaller_size(512, 320) == (416, 256)
    assert making.smaller_size(1024, 256) is None
    assert making.smaller_size(128, 1024) is None


BLACK = np.zeros((64, 64, 3), np.uint8)
WHITE = np.full((64, 64, 3), 255, np.uint8)


@pytest.mark.parametrize(("unusable", "said"), [(BLACK, "black"), (WHITE, "blown"), (None, "not a number")])
def test_spoiled_image_gets_another_seed_once(tiny, tmp_path, monkeypatch, capsys, unusable, said):
    calls = break_drawing(monkeypatch, unusable)
    facts = generate(tiny.arguments(tmp_path / "out", "sd15", "--num-per-gap", 1))
    first, second, _ = (call[3] for call in calls)
    assert second == retry_seed(first) == facts.images[0].seed
    assert len(facts.images) == 2 and not facts.failed
    assert f"came out as {said}" in capsys.readouterr().err


def test_spoiled_twice_is_reported_and_not_written(tiny, tmp_path, monkeypatch, capsys):
    calls = break_drawing(monkeypatch, BLACK, BLACK)
    arguments = tiny.arguments(tmp_path / "out", "sd15", "--num-per-gap", 1)
    facts = generate(arguments)
    (failed,) = facts.failed
    assert (failed.name, failed.reason) == ("synthetic_face_angle_profile_001", "black")
    assert failed.seeds == [calls[0][3], calls[1][3]] and len(list((tmp_path / "out").glob("*.png"))) == 1
    assert "Not generated: synthetic_face_angle_profile_001 (black" in capsys.readouterr().out
    assert generate(arguments) == facts, "the same command does not try it again"


def test_all_spoiled_is_no_success(tiny, tmp_path, monkeypatch):
    break_drawing(monkeypatch, *[BLACK] * 4)
    with pytest.raises(UserError, match="Every image came out unusable"):
        generate(tiny.arguments(tmp_path / "out", "sd15", "--num-per-gap", 1))


def test_not_a_number_in_the_network_is_found(tiny):
    loaded = pipelines.load(str(tiny.model("sd15")), None, None, "cpu", None)
    loaded.pipeline.vae.decoder.conv_out.weight.data.fill_(float("nan"))
    assert pipelines.sample(loaded, ["x"], None, [1], pipelines.SamplingParameters(1, 1.0, 64, 64, None)) == [None]


def test_vae_of_sdxl_is_decoded_in_float32(tiny):
    """In float16 this VAE's values leave float16's range: 65504; the picture is there all the same.

    Also where the configuration does not say so; one that says no has a VAE that was mended.
    """
    folder = tiny_models.tiny_sdxl(tiny.root / "hot")
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    mended = pipelines.load(str(folder), None, None, "cpu", "float16")
    assert not mended.pipeline.vae.config.force_upcast
    single = tiny_models.tiny_sdxl_single_file(tiny.root / "hot.safetensors")
    assert pipelines.load(str(single), None, folder, "cpu", "float16").pipeline.vae.config.force_upcast
    del config["force_upcast"]
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    loaded = pipelines.load(str(folder), None, None, "cpu", "float16")
    vae = loaded.pipeline.vae
    vae.decoder.conv_in.weight.data *= 1000
    vae.post_quant_conv.weight.data *= 1000
    sampling = pipelines.SamplingParameters(1, 1.0, 64, 64, None)
    (picture,) = pipelines.sample(loaded, ["x"], None, [1], sampling)
    assert picture is not None and making.fault(picture) is None
    vae.register_to_config(force_upcast=False)
    assert pipelines.sample(loaded, ["x"], None, [1], sampling) == [None], "without it the picture is lost"


def test_low_vram_on_a_cpu_uses_the_vae_in_pieces(tiny):
    loaded = pipelines.load(str(tiny.model("sd15")), None, None, "cpu", None)
    pipelines.move_to_device(loaded, "cpu", low_vram=True)
    assert loaded.pipeline.vae.use_slicing and loaded.pipeline.vae.use_tiling


def test_little_free_memory_switches_low_vram_on(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipelines, "free_bytes", lambda device: 1 << 20)
    facts = generate(tiny.arguments(tmp_path / "out", "sd15", "--num-per-gap", 1))
    assert len(facts.images) == 2
    talk = capsys.readouterr().err
    assert "Low-memory mode, as with --low-vram: 0.0 GiB are free" in talk and ", low memory." in talk


def test_memory_that_ends_while_the_model_is_placed(tiny, tmp_path, monkeypatch, capsys):
    real, tried = pipelines.move_to_device, []

    def move_to_device(loaded, device, low_vram):
        tried.append(low_vram)
        if len(tried) in failing:
            raise out_of_memory()
        real(loaded, device, low_vram)

    monkeypatch.setattr(pipelines, "move_to_device", move_to_device)
    failing = {1}
    generate(tiny.arguments(tmp_path / "out", "sd15", "--num-per-gap", 1))
    assert tried == [False, True] and "with --low-vram" in capsys.readouterr().err
    failing = {3, 4}
    with pytest.raises(UserError, match="not enough for sd15"):
        generate(tiny.arguments(tmp_path / "other", "sd15"))


def test_offload_is_chosen_by_free_memory():
    sampling = pipelines.SamplingParameters(30, 7.5, 1024, 1024, None)
    sdxl, weights = families.FAMILIES["sdxl"], 7 * pipelines.GIB
    assert not pipelines.needs_low_vram(24 * pipelines.GIB, weights, sdxl, sampling, 1)
    assert pipelines.needs_low_vram(24 * pipelines.GIB, weights, sdxl, sampling, 4)
    assert pipelines.needs_low_vram(8 * pipelines.GIB, weights, sdxl, sampling, 1)


def test_pipeline_is_asked_for_its_arguments(tiny):
    """The same wish, by what each pipeline takes: Qwen-Image's guidance has another name, Flux.2 has no negative."""
    sampling = pipelines.SamplingParameters(3, 4.0, 64, 64, "ugly")
    taken = {}
    for family in families.FAMILIES:
        loaded = pipelines.load(str(tiny.model(family)), None, None, "cpu", None)
        taken[family] = pipelines.call_arguments(loaded, ["x"], ["ugly"], sampling)
    assert all(arguments["prompt"] == ["x"] for arguments in taken.values())
    assert taken["qwen-image"]["true_cfg_scale"] == 4.0 and "guidance_scale" not in taken["qwen-image"]
    assert "negative_prompt" not in taken["flux2-klein"] and taken["sdxl"]["negative_prompt"] == ["ugly"]


def test_base_and_turbo_of_z_image_are_told_apart(tiny, tmp_path):
    """By the scheduler's shift, from the files and from the pipeline alike."""
    folder = copy_of(tiny.model("z-image"), tmp_path / "z")
    path = folder / "scheduler" / "scheduler_config.json"
    for shift, expected in ((6.0, (50, 4.0)), (3.0, (9, 0.0))):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"shift": shift}))
        found = pipelines.local_family(str(folder), None, None)
        assert (found.steps, found.guidance) == expected
        assert pipelines.load(str(folder), None, None, "cpu", None).family == found


def test_variants_are_the_same_by_files_and_by_pipeline(tiny):
    for family in families.FAMILIES:
        folder = str(tiny.model(family))
        assert pipelines.local_family(folder, None, None) == pipelines.load(folder, None, None, "cpu", None).family


@pytest.mark.parametrize(("family", "name"), [("sd15", "tokenizer"), ("z-image", "tokenizer"), ("flux", "tokenizer_2")])
def test_missing_tokenizer_is_a_sentence(tiny, tmp_path, family, name):
    folder = copy_of(tiny.model(family), tmp_path / family)
    for path in (folder / name).iterdir():
        path.unlink()
    with pytest.raises(UserError, match=rf"{name}.*fetch it again|cannot be loaded as"):
        pipelines.load(str(folder), None, None, "cpu", None)


def test_errors_of_libraries_lose_their_advice():
    error = OSError("Error no file named x.safetensors found in directory y. Please make sure that\nyou pass `z=True`.")
    assert pipelines.first_clause(error) == "Error no file named x.safetensors found in directory y"
    assert pipelines.first_clause(ValueError("\nversion 1.5 is old!\nmore")) == "version 1.5 is old"
    assert pipelines.first_clause(KeyError()) == "KeyError"


def index(folder: Path, class_name: str, **unet: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    if unet:
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text(json.dumps(unet))
    return folder


def checkpoint(path: Path, *keys: str, shape: tuple[int, ...] = (1, 4, 1, 1)) -> Path:
    from safetensors.torch import save_file

    save_file({key: torch.zeros(shape) for key in keys}, path)
    return path


def test_single_files_are_known_by_their_keys(tmp_path):
    for name, family in families.FAMILIES.items():
        more = families.FAMILIES["flux"].file_keys if name == "flux2-klein" else ()
        path = checkpoint(tmp_path / f"{name}.safetensors", *family.file_keys, *more)
        assert families.find_family(str(path), None) is family


def test_unsupported_models_are_refused_by_name(tmp_path):
    sd15 = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
    first = "model.diffusion_model.input_blocks.0.0.weight"
    cases = {
        index(tmp_path / "a", "StableDiffusion3Pipeline"): "is a StableDiffusion3Pipeline, which is not supported",
        index(tmp_path / "b", "StableDiffusionPipeline", cross_attention_dim=1024): "is Stable Diffusion 2",
        index(tmp_path / "c", "StableDiffusionPipeline", in_channels=9): "is an inpainting model",
        checkpoint(tmp_path / "d.safetensors", "model.diffusion_model.joint_blocks.0.context_block."
                   "adaLN_modulation.1.bias"): "is Stable Diffusion 3",
        checkpoint(tmp_path / "e.safetensors", sd15, first, shape=(1, 9, 1, 1)): "is an inpainting model",
        checkpoint(tmp_path / "f.safetensors", "lora_unet_x.lora_down.weight"): "is a LoRA, not a base model",
        checkpoint(tmp_path / "g.safetensors", "some.weight"): "holds no model that is known here",
    }  # fmt: skip
    (tmp_path / "h.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "i.ckpt").write_bytes(b"x")
    cases |= {tmp_path / "h.safetensors": "its header is cut off", tmp_path / "i.ckpt": "is no .safetensors file"}
    cases |= {tmp_path / "nowhere": "does not exist", tmp_path: "is no diffusers folder"}
    for path, said in cases.items():
        with pytest.raises(UserError, match=said):
            families.find_family(str(path), None)
    assert families.find_family(str(tmp_path / "g.safetensors"), "sdxl").name == "sdxl", "--family overrides"
    with pytest.raises(UserError, match=r"is Stable Diffusion 1\.5, not SDXL; leave --family out"):
        families.find_family(str(index(tmp_path / "j", "StableDiffusionPipeline")), "sdxl")
    with pytest.raises(UserError, match=r"rename it to \.safetensors"):
        families.find_family(str(checkpoint(tmp_path / "K.SAFETENSORS", "some.weight")), "sdxl")
    assert families.find_family("stabilityai/stable-diffusion-xl-base-1.0", None) is None


def test_damaged_model_is_a_sentence(tiny, tmp_path):
    folder = tiny_models.tiny_sd15(tmp_path / "damaged")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cannot be loaded as Stable Diffusion 1\.5"):
        pipelines.load(str(folder), None, None, "cpu", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--person", "x"], "A gap file is needed"),
        (["GAPS"], "--person says who"),
        (["GAPS", "--person", " "], "--person says who"),
        (["GAPS", "--person", "x"], "--base-model is needed"),
        (["GAPS", "--person", "x", "--base-model", "m", "--output", "o"], "--no-lora generates with the base model"),
        (["GAPS", "--person", "x", "--base-model", "m", "--no-lora"], "--output is needed"),
        (["GAPS", "--person", "x", "--base-model", "m", "--lora", "none.safetensors", "--output", "o"], "is not there"),
        (["none.json", "--person", "x"], "none.json cannot be read"),
    ],
)
def test_missing_options_are_one_sentence(tiny, arguments, said):
    given = [str(tiny.gaps) if part == "GAPS" else part for part in arguments]
    with pytest.raises(UserError, match=said):
        generate_synthetic.run(generate_synthetic.parse_args(given))


def test_wrong_numbers_are_refused(capsys):
    for option, value in (("--steps", "0"), ("--width", "100"), ("--lora-scale", "0"), ("--seed", "x")):
        with pytest.raises(SystemExit) as stopped:
            generate_synthetic.parse_args([option, value])
        assert stopped.value.code == 2 and value in capsys.readouterr().err


def test_without_lora_only_where_that_is_said(tiny, tmp_path):
    arguments = tiny.arguments(tmp_path / "out", "sd15", "--num-per-gap", 1, "--no-lora")
    place = arguments.index("--lora")
    facts = generate(arguments[:place] + arguments[place + 2 :])
    assert facts.lora is None and facts.lora_scale is None and len(facts.images) == 2


def test_foreign_lora_ends_the_run_with_exit_2(tiny, tmp_path, monkeypatch, capsys):
    arguments = tiny.arguments(tmp_path / "out", "sd15")
    arguments[arguments.index("--lora") + 1] = str(tiny.lora("sdxl"))
    monkeypatch.setattr(sys, "argv", ["generate_synthetic.py", *arguments])
    assert generate_synthetic.main() == 2
    talk = capsys.readouterr().err
    assert "0 of 648 keys matched: was it trained for another base model?" in talk
    assert "Traceback" not in talk and not list((tmp_path / "out").glob("*.png"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        generate(tiny.arguments(tmp_path / "closed" / "out"))


COMMANDS = commands("python generate_synthetic.py")


def test_commands_of_the_documents_run(tiny, tmp_path, monkeypatch):
    """Each line as written, with tiny models where it looks for them; only the size and the steps are ours."""
    single = tiny_models.tiny_sdxl_single_file(tmp_path / "animagine.safetensors")
    for name, source in (
        ("gaps.json", tiny.gaps),
        ("gaps_iter1.json", tiny.gaps),
        ("sdxl_base", tiny.model("sdxl")),
        ("alice.safetensors", tiny.lora("sdxl")),
    ):
        (tmp_path / name).symlink_to(source)
    (plan,) = re.findall(r'```\n(\{"images".*?)```', page("generation"), re.DOTALL)
    (tmp_path / "plan.json").write_text(plan)
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS:
        args = generate_synthetic.parse_args([*shlex.split(line)[2:], *map(str, QUICK)])
        assert generate_synthetic.run(args) == 0
    assert single.exists() and len(COMMANDS) == 5
    assert (len(pictures(tmp_path / "synthetic_iter1")), len(pictures(tmp_path / "synthetic_iter2"))) == (4, 4)
    assert set(pictures(tmp_path / "Lora_Candidates" / "alice")) == {"smile", "profile"}


def test_families_told_are_those_of_the_table():
    told = re.findall(
        r"^\| `([\w-]+)` \|.*\| (\d+) \| ([\d.]+) \| (\d+) \| (?:yes|no|above)", page("generation"), re.MULTILINE
    )
    known = [(one.name, str(one.steps), f"{one.guidance:g}", str(one.size)) for one in families.FAMILIES.values()]
    assert told == known
