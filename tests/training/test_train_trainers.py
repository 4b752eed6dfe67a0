"""Trainers that others made: configurations that parse, and success only where a new LoRA that loads is there."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script
from PIL import Image

import train_lora
from mirror.contracts.contract import read_contract
from mirror.contracts.training import TrainingLog
from utils.console import UserError

TRIGGER = "ohwx alice"


def test_two_pictures_that_would_share_a_caption_file_are_refused(dataset, make_picture):
    make_picture(dataset / "10_ohwx alice" / "a.jpg", 7)
    rows = [{"file_name": f"a.{suffix}", "text": f"as {suffix}"} for suffix in ("jpg", "png")]
    (dataset / "10_ohwx alice" / "a.txt").unlink()
    (dataset / "10_ohwx alice" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"a\.jpg and 10_ohwx alice/a\.png have different captions.*rename one"):
        order(dataset, base(dataset.parent / "base", "StableDiffusionXLPipeline"), "--trainer", "sd-scripts")


@pytest.fixture
def dataset(tmp_path, make_picture) -> Path:
    for number, name in enumerate(("10_ohwx alice/a.png", "10_ohwx alice/b.jpg", "2_more/c.webp")):
        make_picture(tmp_path / "dataset" / name, number)
    (tmp_path / "dataset" / "10_ohwx alice" / "a.txt").write_text("smiling")
    return tmp_path / "dataset"


def base(folder: Path, pipeline: str, zero_snr: bool = False) -> Path:
    """As much of a base model as is looked at here."""
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero_snr}
    for part, content in (("", {"_class_name": pipeline}), ("scheduler", schedule)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        name = "scheduler_config.json" if part else "model_index.json"
        (folder / part / name).write_text(json.dumps(content))
    return folder


def arguments(dataset: Path, model: object, *more: object) -> list[str]:
    output = dataset.parent / "out"
    given = (dataset, "--base-model", model, "--output", output, "--trigger", TRIGGER, "--epochs", 4)
    return list(map(str, (*given, "--no-cache", *more)))


def order(dataset: Path, model: object, *more: object) -> Path:
    assert train_lora.run(train_lora.parse_args(arguments(dataset, model, *more))) == 0
    return dataset.parent / "out"


# A trainer of the test's own: does what MODE says.
FAKE = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    import torch
    from safetensors.torch import save_file

    lora, mode = Path(sys.argv[1]), os.environ.get("MODE", "good")
    up = torch.zeros(8, 4) if mode == "zero" else torch.ones(8, 4)
    tensors = {"lora_unet_x.lora_down.weight": torch.ones(4, 8), "lora_unet_x.lora_up.weight": up}
    if mode == "nan":
        tensors["lora_unet_x.lora_down.weight"][0] = float("nan")
    if mode == "base":
        tensors = {"model.weight": torch.ones(3)}
    assert sys.stdin.read() == ""
    if mode == "fails":
        sys.exit(3)
    lora.parent.mkdir(parents=True, exist_ok=True)
    if mode != "nothing":
        save_file(tensors, lora)
    if mode == "old":
        os.utime(lora, (1, 1))
    """
)


def test_sd_scripts_gets_its_two_files(dataset, tmp_path, capsys):
    model = base(tmp_path / "animagine", "StableDiffusionXLPipeline")
    out = order(dataset, model, "--trainer", "sd-scripts", "--conv-rank", "8")
    config = tomllib.loads((out / "trainer" / "config.toml").read_text(encoding="utf-8"))
    assert config["network_args"] == ["conv_dim=8", "conv_alpha=4"]
    assert (config["network_dim"], config["network_alpha"], config["max_train_epochs"]) == (32, 16, 4)
    assert config["pretrained_model_name_or_path"] == str((tmp_path / "animagine").resolve())
    assert config["v_parameterization"] is True and config["learning_rate"] == 1e-4 and config["no_half_vae"] is True
    folders = tomllib.loads(Path(config["dataset_config"]).read_text(encoding="utf-8"))
    (data,) = folders["datasets"]
    assert data["resolution"] == 1024 and folders["general"]["caption_extension"] == ".txt"
    seen = {Path(subset["image_dir"]).name: subset["num_repeats"] for subset in data["subsets"]}
    assert seen == {"10_ohwx alice": 10, "2_more": 2}
    staged = {path.name: path for subset in data["subsets"] for path in Path(subset["image_dir"]).iterdir()}
    assert sorted(staged) == ["a.png", "a.txt", "b.jpg", "b.txt", "c_webp.png", "c_webp.txt"]
    assert staged["a.txt"].read_text() == "ohwx alice, smiling\n"
    assert staged["a.png"].read_bytes() == (dataset / "10_ohwx alice" / "a.png").read_bytes()
    said = capsys.readouterr().out
    assert "Nothing is trained yet" in said and "sdxl_train_network.py" in said
    assert not (out / "lora.safetensors").exists() and not (out / "training_log.json").exists()


def test_transparent_parts_are_white_for_other_trainers_too(dataset, tmp_path):
    pixels = np.full((64, 64, 4), (10, 200, 30, 0), np.uint8)
    pixels[16:48, 16:48, 3] = 255
    Image.fromarray(pixels).save(dataset / "2_more" / "cutout.png")
    out = order(dataset, base(tmp_path / "animagine", "StableDiffusionXLPipeline"), "--trainer", "sd-scripts")
    (staged,) = (out / "trainer").rglob("cutout.png")
    copy = Image.open(staged)
    assert copy.mode == "RGB" and copy.getpixel((0, 0)) == (255, 255, 255) and copy.getpixel((32, 32)) == (10, 200, 30)


def test_folders_that_would_share_a_name_are_all_kept(dataset, tmp_path, make_picture):
    """Generated pictures of 20_x are seen 10 times at half the weight, as are those of 10_x and 010_x."""
    for number, name in enumerate(("10_x/a.png", "010_x/b.png", "20_x/synthetic_c.png", "20_x/d.png")):
        make_picture(dataset / name, 10 + number)
    model = base(tmp_path / "animagine", "StableDiffusionXLPipeline")
    out = order(dataset, model, "--trainer", "sd-scripts", "--synthetic-weight", "0.5")
    staged = sorted((out / "trainer").rglob("*.png"))
    repeats = {path.name: path.parent.name for path in staged if path.parent.name.partition("_")[2].startswith("x")}
    assert repeats.keys() == {"a.png", "b.png", "synthetic_c.png", "d.png"}
    assert sorted(repeats.values()) == ["10_x", "10_x (2)", "10_x (3)", "20_x"] and repeats["d.png"] == "20_x"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nobodys_pictures_are_deleted(dataset, tmp_path, monkeypatch):
    """Output and dataset in each other, and folders of the names that we use."""
    model = base(tmp_path / "xl", "StableDiffusionXLPipeline")
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    common = ("--base-model", str(model), "--trigger", TRIGGER, "--trainer", "sd-scripts", "--overwrite")
    for source, output in (("dataset", "."), ("dataset", "dataset"), ("dataset", "dataset/out")):
        with pytest.raises(UserError, match="overlap"):
            train_lora.run(train_lora.parse_args([source, "--output", output, *common]))
    (tmp_path / "out" / "trainer").mkdir(parents=True)
    (tmp_path / "out" / "trainer" / "mine.png").write_bytes(b"mine")
    (tmp_path / "out" / "dataset").mkdir()
    (tmp_path / "out" / "dataset" / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"trainer is there already and was not made by train_lora\.py"):
        order(dataset, model, "--trainer", "sd-scripts", "--overwrite")
    (tmp_path / "out" / "trainer").rename(tmp_path / "out" / "other")
    order(dataset, model, "--trainer", "sd-scripts")
    after = files_of(tmp_path)
    assert before.items() <= after.items()
    assert after["out/other/mine.png"] == after["out/dataset/mine.png"] == b"mine"
    with pytest.raises(UserError, match="holds trainer of an earlier training"):
        order(dataset, model, "--trainer", "sd-scripts")
    (tmp_path / "out" / "trainer" / "stale.txt").write_text("")
    order(dataset, model, "--trainer", "sd-scripts", "--overwrite")
    assert not (tmp_path / "out" / "trainer" / "stale.txt").exists()


def test_a_lora_of_the_name_lora_is_checked_before_it_is_given(dataset, tmp_path, monkeypatch):
    fake = tmp_path / "my trainer.py"
    fake.write_text(FAKE)
    monkeypatch.setenv("MODE", "nan")
    command = f"'{train_lora.sys.executable}' '{fake}' {{lora}}"
    model = base(tmp_path / "flux", "FluxPipeline")
    with pytest.raises(UserError, match="not numbers"):
        order(dataset, model, "--trainer", "command", "--trainer-command", command, "--name", "lora")
    assert not (tmp_path / "out" / "lora.safetensors").exists()


@pytest.mark.parametrize(
    ("pipeline", "trainer", "option", "named"),
    [
        ("StableDiffusionXLPipeline", "sd-scripts", ("--optimizer", "adamw"), "--optimizer"),
        ("StableDiffusionXLPipeline", "sd-scripts", ("--format", "kohya"), "--format"),
        ("StableDiffusionXLPipeline", "ai-toolkit", ("--warmup", "0.1"), "--warmup"),
        ("StableDiffusionXLPipeline", "ai-toolkit", ("--validation", "held"), "--validation"),
        ("ZImagePipeline", "ai-toolkit", ("--min-snr-gamma", "1"), "--min-snr-gamma"),
        ("ZImagePipeline", "ai-toolkit", ("--conv-rank", "8"), "--conv-rank"),
        ("ZImagePipeline", "command", ("--prediction", "epsilon"), "--prediction"),
    ],
)
def test_options_that_a_trainer_would_not_hear_of(dataset, tmp_path, pipeline, trainer, option, named):
    with pytest.raises(UserError, match=f"{named} is not passed on to --trainer {trainer}"):
        order(dataset, base(tmp_path / "m", pipeline), "--trainer", trainer, *option)
    assert not (tmp_path / "out").exists()


def test_settings_are_those_of_the_base_and_reach_the_trainer(dataset, tmp_path):
    import yaml

    plain = base(tmp_path / "xl", "StableDiffusionXLPipeline")
    out = order(dataset, plain, "--trainer", "ai-toolkit", "--conv-rank", "8")
    (process,) = yaml.safe_load((out / "trainer" / "config.yaml").read_text())["config"]["process"]
    train, model = process["train"], process["model"]
    assert process["network"] == {"type": "lora", "linear": 32, "linear_alpha": 16, "conv": 8, "conv_alpha": 4.0}
    assert (train["min_snr_gamma"], train["noise_offset"], train["lr_scheduler"]) == (5.0, 0.05, "cosine")
    assert model["is_v_pred"] is True and process["training_seed"] == 42
    zero = base(tmp_path / "zero", "StableDiffusionXLPipeline", zero_snr=True)
    with pytest.raises(UserError, match="no option that we know of for models of zero terminal SNR"):
        order(dataset, zero, "--trainer", "ai-toolkit", "--overwrite")
    order(dataset, zero, "--trainer", "sd-scripts", "--overwrite")
    config = tomllib.loads((out / "trainer" / "config.toml").read_text(encoding="utf-8"))
    assert config["zero_terminal_snr"] is True and not {"noise_offset", "min_snr_gamma"} & config.keys()


def test_dry_run_for_another_trainer(dataset, tmp_path, capsys):
    model = base(tmp_path / "flux", "FluxPipeline")
    order(dataset, model, "--trainer", "ai-toolkit", "--dry-run")
    said = capsys.readouterr().out
    assert "run.py" in said and "steps: 88" in said and "min_snr_gamma" not in said
    assert not (tmp_path / "out").exists()


def test_toml_takes_whatever_a_path_holds():
    from mirror.training.trainers import _plain, toml_lines

    values = {"a": '\U0001f600 \u00e9 "q" \\ back', "b": "".join(map(chr, range(1, 32))) + "\x7f\x85", "c": 1e-5}
    values |= {"d": True, "e": _plain("NaN"), "f": _plain("1e999"), "g": _plain("3")}
    assert tomllib.loads(toml_lines(values | {"none": None})) == values | {"e": "NaN", "f": "1e999", "g": 3}


def test_commands_of_windows_keep_their_backslashes():
    from mirror.training.trainers import split_command

    said = r'"C:\Program Files\py.exe" C:\train\my.py --out "{lora}"'
    assert split_command(said, windows=True) == [r"C:\Program Files\py.exe", r"C:\train\my.py", "--out", "{lora}"]


def test_sd_scripts_asks_for_the_files_of_flux(dataset, tmp_path):
    model = base(tmp_path / "flux", "FluxPipeline")
    with pytest.raises(UserError, match=r"clip_l=FILE --trainer-option t5xxl=FILE --trainer-option ae=FILE"):
        order(dataset, model, "--trainer", "sd-scripts")
    extra = [
        word for name in ("clip_l", "t5xxl", "ae") for word in ("--trainer-option", f"{name}=/m/{name}.safetensors")
    ]
    out = order(
        dataset, model, "--trainer", "sd-scripts", *extra, "--trainer-option", "blocks_to_swap=18", "--overwrite"
    )
    config = tomllib.loads((out / "trainer" / "config.toml").read_text(encoding="utf-8"))
    assert config["network_module"] == "networks.lora_flux" and config["ae"] == "/m/ae.safetensors"
    assert config["blocks_to_swap"] == 18 and "min_snr_gamma" not in config


@pytest.mark.parametrize(
    ("pipeline", "arch", "scheduler"),
    [
        ("FluxPipeline", "flux", "flowmatch"),
        ("Flux2KleinPipeline", "flux2_klein_4b", "flowmatch"),
        ("ZImagePipeline", "zimage", "flowmatch"),
        ("QwenImagePipeline", "qwen_image", "flowmatch"),
        ("StableDiffusionPipeline", "sd1", "ddpm"),
    ],
)
def test_ai_toolkit_gets_its_job(dataset, tmp_path, pipeline, arch, scheduler):
    import yaml

    out = order(dataset, base(tmp_path / "Z-Image-Turbo", pipeline), "--trainer", "ai-toolkit")
    job = yaml.safe_load((out / "trainer" / "config.yaml").read_text(encoding="utf-8"))
    (process,) = job["config"]["process"]
    assert job["job"] == "extension" and process["type"] == "sd_trainer"
    assert process["model"]["arch"] == arch and process["train"]["noise_scheduler"] == scheduler
    assert ("assistant_lora_path" in process["model"]) == (arch == "zimage")
    assert [one["num_repeats"] for one in process["datasets"]] == [10, 2]
    assert all(Path(one["folder_path"]).is_dir() for one in process["datasets"])


def test_sd_scripts_names_the_trainer_that_can(dataset, tmp_path):
    with pytest.raises(UserError, match="not for Qwen-Image: --trainer ai-toolkit trains it"):
        order(dataset, base(tmp_path / "qwen", "QwenImagePipeline"), "--trainer", "sd-scripts")


def test_a_trainer_that_is_there_is_run_and_its_lora_checked(dataset, tmp_path):
    """ai-toolkit's place of output, as a subprocess; nobody is asked anything."""
    place = tmp_path / "ai-toolkit"
    place.mkdir()
    code = FAKE.replace("Path(sys.argv[1])", "lora_of(sys.argv[1])").replace(
        "from pathlib import Path",
        "from pathlib import Path\nimport yaml\n"
        "def lora_of(config):\n    job = yaml.safe_load(open(config))['config']\n    name = job['name']\n"
        "    return Path(job['process'][0]['training_folder']) / name / f'{name}.safetensors'",
    )
    (place / "run.py").write_text(code)
    model = base(tmp_path / "z", "ZImagePipeline")
    done = run_script(
        "train_lora.py", *arguments(dataset, model, "--trainer", "ai-toolkit", "--trainer-path", place), "--debug"
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert "layers: 1" in done.stdout
    assert (out / "lora.safetensors").read_bytes() == (
        out / "trainer" / "ai-toolkit" / "ohwx_alice" / "ohwx_alice.safetensors"
    ).read_bytes()
    log = read_contract(out / "training_log.json", TrainingLog, "train_lora.py")
    assert (log.finished, log.trainer, log.images, log.lora) == (True, "ai-toolkit", 3, "lora.safetensors")
    done = run_script("train_lora.py", *arguments(dataset, model, "--trainer", "ai-toolkit", "--trainer-path", place))
    assert done.returncode == 2 and "holds lora.safetensors" in done.stderr, "results are there already"
    done = run_script("train_lora.py", *arguments(dataset, model, "--trainer", "ai-toolkit", "--trainer-path", dataset))
    assert done.returncode == 2 and "is no ai-toolkit: it has no run.py" in done.stderr


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("nothing", "The trainer ended without an error, but there is no"),
        ("old", "is older than its start"),
        ("fails", "The trainer ended with exit code 3"),
        ("base", "is no LoRA: 1 of its 1 tensors are no part of one"),
        ("nan", "holds values that are not numbers"),
        ("zero", "changes nothing"),
    ],
)
def test_no_success_that_did_not_happen(dataset, tmp_path, monkeypatch, mode, sentence):
    fake = tmp_path / "my trainer.py"
    fake.write_text(FAKE)
    monkeypatch.setenv("MODE", mode)
    command = f"'{train_lora.sys.executable}' '{fake}' {{lora}} {{dataset}}"
    with pytest.raises(UserError, match=re.escape(sentence)):
        order(dataset, base(tmp_path / "flux", "FluxPipeline"), "--trainer", "command", "--trainer-command", command)
    out = tmp_path / "out"
    assert not (out / "lora.safetensors").exists() and not (out / "training_log.json").exists()


def test_a_command_is_filled_in(dataset, tmp_path):
    fake = tmp_path / "my trainer.py"
    fake.write_text(FAKE)
    model = base(tmp_path / "flux", "FluxPipeline")
    command = f"'{train_lora.sys.executable}' '{fake}' {{lora}}"
    out = order(dataset, model, "--trainer", "command", "--trainer-command", command)
    assert (out / "lora.safetensors").is_file()
    with pytest.raises(UserError, match=r"cannot be filled in \('lore'\); it knows \{dataset\}"):
        order(dataset, model, "--trainer", "command", "--trainer-command", "x {lore}", "--overwrite")
    with pytest.raises(UserError, match="there is no program no-such-program"):
        order(dataset, model, "--trainer", "command", "--trainer-command", "no-such-program", "--overwrite")
    assert (out / "lora.safetensors").is_file(), "nothing is deleted for what cannot begin"
    with pytest.raises(UserError, match="--trainer command needs"):
        order(dataset, model, "--trainer", "command", "--overwrite")
    with pytest.raises(UserError, match="--resume works only for"):
        order(dataset, model, "--trainer", "sd-scripts", "--resume")
