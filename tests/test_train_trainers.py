"""Trainers that others made: configurations that parse, and success only where a new LoRA that loads is there."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from pathlib import Path

import pytest
from conftest import run_script

import train_lora
from utils.console import UserError
from utils.contracts import TrainingLog, read_contract

TRIGGER = "ohwx alice"


@pytest.fixture
def dataset(tmp_path, make_picture) -> Path:
    for number, name in enumerate(("10_ohwx alice/a.png", "10_ohwx alice/b.jpg", "2_more/c.webp")):
        make_picture(tmp_path / "dataset" / name, number)
    (tmp_path / "dataset" / "10_ohwx alice" / "a.txt").write_text("smiling")
    return tmp_path / "dataset"


def base(folder: Path, pipeline: str) -> Path:
    """As much of a base model as is looked at here."""
    for part, content in (("", {"_class_name": pipeline}), ("scheduler", {"prediction_type": "v_prediction"})):
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
    out = order(dataset, base(tmp_path / "animagine", "StableDiffusionXLPipeline"), "--trainer", "sd-scripts")
    config = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
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
    config = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
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
    job = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
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
        out / "ai-toolkit" / "ohwx_alice" / "ohwx_alice.safetensors"
    ).read_bytes()
    log = read_contract(out / "training_log.json", TrainingLog, "train_lora.py")
    assert (log.finished, log.trainer, log.images, log.lora) == (True, "ai-toolkit", 3, "lora.safetensors")
    done = run_script("train_lora.py", *arguments(dataset, model, "--trainer", "ai-toolkit", "--trainer-path", dataset))
    assert done.returncode == 2 and "holds" in done.stderr, "results are there already"


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("nothing", "The trainer ended without an error, but there is no"),
        ("old", "is older than its start"),
        ("fails", "The trainer ended with exit code 3"),
        ("base", "is no LoRA: 1 of its 1 tensors are no part of one"),
        ("nan", "holds values that are no numbers"),
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
    with pytest.raises(UserError, match="cannot be started"):
        order(dataset, model, "--trainer", "command", "--trainer-command", "no-such-program", "--overwrite")
    with pytest.raises(UserError, match="--trainer command needs"):
        order(dataset, model, "--trainer", "command", "--overwrite")
    with pytest.raises(UserError, match="--resume belongs to"):
        order(dataset, model, "--trainer", "sd-scripts", "--resume")
