"""Words of captions: the trigger first, constant looks left out; and captioners of three kinds, batched and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from expression_nets import ferplus_net, own_net
from tiny_captioners import TINY_CAPTIONERS
from vault_fixture import VaultRun

from mirror.detectors.expressions import ExpressionModel
from mirror.faces.expressions import face_crop
from mirror.vault import sameness
from mirror.vault.wording import Measured, caption, constant_phrases, is_constant_look

FRONT = Measured(5, 0, 0, "close_up", "normal", False, False)
TRIGGER = "ohwx alice"


def test_measured_words_say_what_is_seen():
    seen = Measured(-70, -20, 18, "medium", "low_key", True, True)
    assert caption(TRIGGER, "tags", seen) == (
        "ohwx alice, medium shot, profile view, facing left, head lowered, head tilted, low-key lighting, "
        "black-and-white photo, with other people"
    )
    turned = Measured(40, 0, 0, "full", "normal", False, False)
    assert caption(TRIGGER, "sentence", turned) == (
        "ohwx alice, a full shot in three-quarter view, head turned to the right"
    )


def test_an_expression_is_said_where_it_was_measured():
    smiling = Measured(40, 20, 0, "close_up", "normal", False, False, "smile")
    assert caption(TRIGGER, "tags", smiling) == (
        "ohwx alice, close-up portrait, three-quarter view, head turned to the right, smiling, head raised"
    )
    angry = Measured(5, 0, 0, "close_up", "normal", False, False, "angry")
    assert caption(TRIGGER, "sentence", angry) == "ohwx alice, a close-up portrait in front view, angry expression"
    told = caption(TRIGGER, "tags", angry, "a woman, red coat, serious expression")
    assert "serious expression" in told and "angry" not in told, "one word for it, not two"
    assert "angry expression" in caption(TRIGGER, "tags", angry, "a woman, red coat")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a young woman with long brown hair wearing a red coat", "ohwx alice wearing a red coat"),
        (
            "The image shows a man with a beard and glasses sitting on a bench. He has brown eyes. It is raining.",
            "ohwx alice with glasses sitting on a bench. It is raining",
        ),
        ("there is a man that is smiling for the camera", "ohwx alice smiling for the camera"),
        ("1girl, solo, brown hair, red dress, outdoors, eyes closed", "ohwx alice, red dress, outdoors, eyes closed"),
        ("ohwx alice, laughing", "ohwx alice, laughing"),
        ("a close up of a woman with blonde hair and blue eyes", "ohwx alice, a close-up portrait in front view"),
    ],
)
def test_a_captioners_sentence_loses_what_is_always_the_person(said, kept):
    assert caption(TRIGGER, "sentence", FRONT, said) == kept


def test_a_captioners_tags_are_joined_with_what_was_measured():
    said = "a woman, red coat, brown hair, outdoors, front view"
    assert caption(TRIGGER, "tags", FRONT, said) == "ohwx alice, red coat, outdoors, front view, close-up portrait"
    assert is_constant_look("long blond hair") and is_constant_look("1girl") and not is_constant_look("wet hair")


def test_phrases_in_nearly_all_captions_are_told():
    captions = [f"ohwx alice, red coat, place {i % 2}" for i in range(10)]
    assert constant_phrases(captions, TRIGGER) == {"red coat": 10}
    assert constant_phrases(captions[:4], TRIGGER) == {}, "too few to say"
    dotted = [f"ohwx J. Smith, red coat, place {i % 2}" for i in range(10)]
    assert constant_phrases(dotted, "ohwx J. Smith") == {"red coat": 10}


def test_one_outfit_and_one_room_are_told_from_many():
    rng = np.random.default_rng(2)

    def photo(coat, wall):
        image = np.empty((176, 132, 3), np.uint8)
        image[:] = wall
        image[100:] = coat
        image[20:90, 40:90] = (120, 150, 190)
        light = rng.uniform(0.93, 1.07)
        return np.clip(image * light + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)

    colours = rng.integers(0, 255, (12, 2, 3))
    face = (45.0, 30.0, 85.0, 85.0)

    def found(photos):
        return sameness.same_throughout([sameness.histograms(one, face) for one in photos]).keys()

    assert found([photo(*colours[i]) for i in range(12)]) == set()
    assert found([photo(colours[0][0], colours[i][1]) for i in range(12)]) == {"outfit"}
    assert found([photo(colours[i][0], colours[0][1]) for i in range(12)]) == {"room"}


# Captioners


@pytest.fixture(scope="module")
def vault_of_one(tmp_path_factory, tiny_pack) -> Path:
    """Six photos of which the stand-in pack says that all show one person."""
    home = tmp_path_factory.mktemp("captions")
    (home / "photos").mkdir()
    for i in range(6):
        small = np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(home / "photos" / f"{i}.png"), cv2.resize(small, (200, 200), interpolation=cv2.INTER_CUBIC))
    run_script("facevault.py", "scan", home / "photos", "--pack", tiny_pack, "--output", home / "vault")
    run_script("facevault.py", "cluster", "--threshold", "-1", "--output", home / "vault")
    done = run_script("facevault.py", "label", "1", "alice", "--output", home / "vault")
    assert done.returncode == 0, done.stderr
    return home / "vault"


@pytest.fixture
def vault(vault_of_one, tmp_path) -> VaultRun:
    return VaultRun(vault_of_one, tmp_path)


@pytest.mark.parametrize("kind", TINY_CAPTIONERS)
def test_a_batch_says_what_each_picture_would_be_told_alone(kind, tmp_path):
    from mirror.vault.captioner import load_captioner

    folder = TINY_CAPTIONERS[kind](tmp_path / kind)
    captioner = load_captioner(folder, "tags", "cpu")
    pictures = [
        cv2.resize(np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8), (90 + 20 * i, 80))
        for i in range(3)
    ]
    alone = [captioner.describe([one])[0] for one in pictures]
    assert captioner.describe(pictures) == alone and len(set(alone)) > 1 and all(alone)
    assert captioner.identity.startswith(f"{kind}@")


def test_a_captioner_goes_on_where_it_was_killed(vault, tmp_path):
    model = TINY_CAPTIONERS["blip"](tmp_path / "blip")
    command = [sys.executable, str(ROOT / "facevault.py"), "caption", "alice", "--model", str(model), "--batch", "1"]
    process = subprocess.Popen([*command, "--output", str(vault.output)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'captions'"
    while not (vault.ask(query)[0][0] and vault.ask("SELECT count(*) FROM captions")[0][0] >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = dict(vault.ask("SELECT face, said FROM captions"))
    assert 2 <= len(before) < 6
    done = vault("caption", "alice", "--model", model)
    after = dict(vault.ask("SELECT face, said FROM captions"))
    assert len(after) == 6 and before.items() <= after.items() and "6 captions by the captioner" in done.stdout
    assert f"Captioning: {6 - len(before)} images" in done.stderr
    (source,) = {row[0] for row in vault.ask("SELECT source FROM captions")}
    assert source.startswith("blip@")


def test_a_model_that_is_no_captioner_is_refused(vault, tmp_path):
    for text, said in (("{}", "has no model_type"), ('{"model_type": "llama"}', "cannot be loaded")):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(text)
        assert said in vault("caption", "alice", "--model", tmp_path / "model", code=2).stderr


def grey_levels(vault: VaultRun, growth: float) -> dict[str, float]:
    """Mean grey level of the face in each photo, as a model with this growth is to see it."""

    class Placed:
        def __init__(self, *box_and_roll: float):
            self.box_xyxy, self.roll_deg = box_and_roll[:4], box_and_roll[4]

    rows = vault.ask(
        "SELECT files.path, left, top, right, bottom, roll FROM faces JOIN files ON files.content = faces.content"
    )
    paths = [Path(path.decode() if isinstance(path, bytes) else path) for path, *_ in rows]
    return {
        path.stem: float(face_crop(cv2.imread(str(path)), Placed(*place), growth).mean())
        for path, (_, *place) in zip(paths, rows, strict=True)
    }


def test_captions_say_the_expression_that_a_model_measured(vault, tmp_path):
    """Each photo gets the word of its own face; a model that is gone takes its words with it."""
    model = own_net(tmp_path / "models" / "expression.onnx", {"smile": 0.0, "surprised": 255.0})
    levels = grey_levels(vault, ExpressionModel(model).growth)
    middle = (min(levels.values()) + max(levels.values())) / 2
    own_net(model, {"smile": middle - 40, "surprised": middle + 40})
    folder = vault.output / "organized" / "alice"

    def captions() -> dict[str, str]:
        return {path.stem.rpartition("_")[0]: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}

    vault("prep", "alice", "--min-face", 50)
    done = vault("caption", "alice", "--models-dir", model.parent)
    assert "Expression model expression.onnx@" in done.stderr and "Expressions: 6 images" in done.stderr
    said = captions()
    assert said.keys() == levels.keys() and len(said) == 6
    clear = {name for name, level in levels.items() if abs(level - middle) > 2}
    assert {name for name in clear if "smiling" in said[name]} == {name for name in clear if levels[name] < middle}
    assert {name for name in clear if "surprised expression" in said[name]} == {
        name for name in clear if levels[name] > middle
    }
    assert "Expressions: " not in vault("caption", "alice", "--models-dir", model.parent).stderr, "all are known"
    vault("prep", "alice", "--min-face", 50)
    assert captions() == said, "they are kept in the vault"

    fear = ferplus_net(tmp_path / "fear.onnx", {"fear": 100.0})
    vault("caption", "alice", "--expression-model", fear)
    assert not any("smiling" in text or "surprised" in text for text in captions().values())
    vault("caption", "alice", "--models-dir", model.parent)
    assert captions() == said
    model.unlink()
    vault("caption", "alice", "--models-dir", model.parent)
    assert not any("smiling" in text or "surprised" in text for text in captions().values())
    wrong = vault("caption", "alice", "--expression-model", vault.output / "vault.sqlite", code=2)
    assert "cannot be loaded as ONNX" in wrong.stderr
