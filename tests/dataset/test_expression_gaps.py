"""Expressions from the dataset to the verdict: gap_analysis.py and validate_synthetic.py with models of known answers.

A stand-in answers by how bright the face's crop is, so photos made brighter and darker are of known expression. What it
really sees of them is measured beside the scripts, from the photos alone.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run_script
from expression_nets import ferplus_net, hsemotion_net, own_net

from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import GapReport
from mirror.faces.engine import FaceEngine
from mirror.faces.expressions import face_crop

PHOTOS = ("happy.png", "sad.png", "open_eyes.png", "woman.png", "yifei.jpg")
DARK, MIDDLE, BRIGHT = 0.45, 0.75, 1.0  # what a photo's grey levels are multiplied by


@pytest.fixture(scope="module")
def dataset(photos, mini_pack, tmp_path_factory) -> tuple[Path, dict[str, dict[float, float]]]:
    """Photos in three lights, and the mean grey level of the face in each, as known models and ours are to see it."""
    folder, engine, levels = tmp_path_factory.mktemp("faces") / "dataset", FaceEngine(mini_pack, "cpu"), {}
    folder.mkdir()
    for name in PHOTOS:
        photo = cv2.imread(str(photos / name))
        for word, light in (("dark", DARK), ("middle", MIDDLE), ("bright", BRIGHT)):
            path = folder / f"{Path(name).stem}_{word}.png"
            cv2.imwrite(str(path), (photo * light).astype(np.uint8))
            image = cv2.imread(str(path))
            face = engine.measure(image)
            levels[path.name] = {growth: float(face_crop(image, face, growth).mean()) for growth in (1.0, 1.2)}
    for path in folder.iterdir():  # the cache does not trust the time stamp of a file that was written a moment ago
        os.utime(path, (path.stat().st_mtime - 60,) * 2)
    return folder, levels


def models_with(folder: Path, name: str, build, levels: dict[str, float]) -> Path:
    build(folder / "models" / name, levels)
    return folder / "models"


def analysed(folder: Path, tmp_path: Path, pack: Path, *more: object):
    done = run_script(
        "gap_analysis.py",
        *(folder, "--pack", pack, "--output", tmp_path / "gaps.json", "--cache", tmp_path / "cache.sqlite", *more),
    )
    assert done.returncode == 0, done.stderr
    return done, read_contract(tmp_path / "gaps.json", GapReport, "gap_analysis.py")


@pytest.mark.parametrize("name", ["emotion-ferplus-8.onnx", "enet_b0_8_best_afew.onnx", "expression.onnx"])
def test_a_dataset_is_sorted_by_what_the_model_sees(dataset, tmp_path, mini_pack, name):
    """Every kind of model, found by itself in the models folder; what it cannot tell is not measured."""
    folder, levels = dataset
    is_ours = name == "expression.onnx"
    levels = {file: seen[1.2 if is_ours else 1.0] for file, seen in levels.items()}
    darkest, brightest = min(levels.values()), max(levels.values())
    wanted = {"neutral": darkest, "laughing" if is_ours else "happiness": brightest}
    build = {"emo": ferplus_net, "ene": hsemotion_net, "exp": own_net}[name[:3]]
    models = models_with(tmp_path, name, build, wanted)
    done, report = analysed(folder, tmp_path, mini_pack, "--models-dir", models)
    assert report.sensors.expression.startswith(f"{name}@") and f"Expression model {name}@" in done.stderr
    bright = "laughing" if is_ours else "smile"
    middle = (darkest + brightest) / 2
    clear = {file: level for file, level in levels.items() if abs(level - middle) > 6}
    seen = {record.file: record.values["expression"] for record in report.images}
    assert len(clear) >= 10
    assert {file: seen[file] for file in clear} == {
        file: bright if level > middle else "neutral" for file, level in clear.items()
    }
    assert all(record.expression == record.values["expression"] for record in report.images)
    (told,) = [one for one in report.distributions if one.type == "expression"]
    (missing,) = [one for one in report.not_measured if one.type == "expression"]
    if is_ours:
        assert [one.target for one in told.targets] == ["neutral", "laughing"]
        assert missing.targets == ["smile", "serious", "surprised", "angry", "sad"]
    else:
        assert [one.target for one in told.targets] == ["neutral", "smile", "surprised", "angry", "sad"]
        assert missing.targets == ["serious", "laughing"]
    assert f"Not measured: expression {', '.join(missing.targets)}, because {name}@" in done.stdout
    assert ", ".join(missing.targets) in (tmp_path / "gaps.html").read_text(encoding="utf-8")
    again, same = analysed(folder, tmp_path, mini_pack, "--models-dir", models)
    assert same.images == report.images and "Looking" not in again.stderr


def test_an_expression_that_is_missing_is_a_gap(dataset, tmp_path, mini_pack):
    """A file of any name where it is named; the goal is that of the registry."""
    smiles = own_net(tmp_path / "named.onnx", {"neutral": 2000.0, "smile": 100.0, "angry": 3000.0})
    more = ("--models-dir", mini_pack, "--expression-model", smiles)
    _, report = analysed(dataset[0], tmp_path, mini_pack, *more)
    (gap,) = [gap for gap in report.recommendations if gap.type == "expression"]
    assert (gap.target, gap.share_percent, gap.goal_percent) == ("neutral", 0.0, 20.0)
    assert gap.reason.startswith("Neutral faces are 0.0% (target: 20%)")
    assert report.settings["expression_model"] == str(smiles.resolve())
    planned = run_script("generate_synthetic.py", tmp_path / "gaps.json", "--person", "ohwx", "--dry-run", "--json")
    names = [one["name"] for one in json.loads(planned.stdout)["images"]]
    assert "synthetic_expression_neutral_001" in names and "no sensor measures" not in planned.stderr


def test_without_a_model_nothing_is_guessed(dataset, tmp_path, mini_pack):
    done, report = analysed(dataset[0], tmp_path, mini_pack, "--models-dir", mini_pack)
    assert report.sensors.expression is None
    assert {record.expression for record in report.images} == {None}
    assert {record.values["expression"] for record in report.images} == {None}
    (told,) = [one for one in report.distributions if one.type == "expression"]
    assert told.measured == 0 and {one.share_percent for one in told.targets} == {None}
    assert "Not measured: expression, because there is no expression model: put one, such as" in done.stdout
    assert "expression" not in {gap.type for gap in report.recommendations}


def test_what_a_model_is_not_sure_of_is_not_counted(dataset, tmp_path, mini_pack):
    models = tmp_path / "models"
    ferplus_net(models / "emotion-ferplus-8.onnx", {"neutral": 90.0, "happiness": 110.0}, sharpness=1e-7)
    _, report = analysed(dataset[0], tmp_path, mini_pack, "--models-dir", models)
    assert {record.expression for record in report.images} <= {None, "neutral", "smile"}
    fear = ferplus_net(models / "fear.onnx", {"fear": 100.0})
    done, report = analysed(dataset[0], tmp_path, mini_pack, "--models-dir", models, "--expression-model", fear)
    assert {record.expression for record in report.images} == {None}
    assert "Not measured: expression, because no face was found in which the expression model is sure" in done.stdout


@pytest.mark.parametrize("script", ["gap_analysis.py", "validate_synthetic.py"])
def test_a_file_that_is_no_expression_model_is_one_sentence(dataset, tmp_path, mini_pack, script):
    folder, _ = dataset
    wrong = next(mini_pack.glob("rec*.onnx"))
    options = ("--pack", mini_pack, "--cache", tmp_path / "cache.sqlite")
    done = run_script(script, folder, *options, "--expression-model", wrong, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert f"{wrong} is no expression model: it takes" in done.stderr and "Traceback" not in done.stderr
    done = run_script(script, folder, *options, "--expression-model", "missing.onnx", cwd=tmp_path)
    assert done.returncode == 2 and "The expression model missing.onnx is not in" in done.stderr


# Validation


@pytest.fixture
def batch(dataset, tmp_path, mini_pack):
    """Generated images, made for expressions, with the gap file that asked for them."""
    folder, levels = dataset
    seen = {file: one[1.2] for file, one in levels.items() if "dark" not in file}  # those are too dark for anything
    order = sorted(seen, key=seen.get)
    dark, bright = order[0], order[-1]
    models = models_with(tmp_path, "expression.onnx", own_net, {"neutral": seen[dark], "smile": seen[bright]})
    _, report = analysed(folder, tmp_path, mini_pack, "--models-dir", models)
    made = tmp_path / "synthetic_iter1"
    made.mkdir()
    targets = {"right.png": (bright, "smile"), "wrong.png": (dark, "smile"), "untold.png": (bright, "laughing")}
    for name, (source, _) in targets.items():
        shutil.copy(folder / source, made / name)
    write_metadata(made, {name: target for name, (_, target) in targets.items()}, report)
    return made, models


def write_metadata(folder: Path, targets: dict[str, str], report: GapReport) -> None:
    images = [{"file": file, "gap_type": "expression", "target": target} for file, target in targets.items()]
    data = {"schema_version": 1, "created": "", "gaps_file": "../gaps.json", "images": images}
    data["sensors"] = report.sensors.model_dump()
    (folder / "generation_metadata.json").write_text(json.dumps(data), encoding="utf-8")


def validated(folder: Path, tmp_path: Path, *more: object):
    done = run_script("validate_synthetic.py", folder, "--cache", tmp_path / "cache.sqlite", *more)
    if done.returncode:
        return done, {}
    report = json.loads((folder / "validation_report.json").read_text(encoding="utf-8"))
    checks = {one["file"]: {check["check"]: check for check in one["checks"]} for one in report["images"]}
    return done, {file: found["target"] for file, found in checks.items()}


def test_an_image_made_for_an_expression_is_checked_by_the_sensor(batch, tmp_path):
    folder, _ = batch
    # near duplicates of the photos they are: only the target is looked at here, so no photos are compared with
    (tmp_path / "nobody").mkdir()
    cv2.imwrite(str(tmp_path / "nobody" / "grey.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3)))
    done, checks = validated(folder, tmp_path, "--reference", tmp_path / "nobody")
    assert done.returncode == 0, done.stderr
    right, wrong, untold = (checks[name] for name in ("right.png", "wrong.png", "untold.png"))
    assert (right["outcome"], right["value"], right["limit"]) == ("passed", "smile", "smile")
    assert (wrong["outcome"], wrong["value"]) == ("failed", "neutral")
    assert wrong["reason"] == "Smiles were asked for, not neutral"
    assert untold["outcome"] == "not_measured" and untold["value"] is None
    assert "no sensor measures expression laughing; it is told apart as neutral, smile" in untold["reason"]


def test_another_model_than_found_the_gaps_is_no_judge(batch, tmp_path):
    folder, models = batch
    other = hsemotion_net(models / "other.onnx", {"neutral": 0.0, "happiness": 255.0})
    (tmp_path / "nobody").mkdir()
    cv2.imwrite(str(tmp_path / "nobody" / "grey.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3)))
    more = ("--reference", tmp_path / "nobody", "--expression-model", other)
    done, _ = validated(folder, tmp_path, *more)
    assert done.returncode == 2
    for part in ("found with expression.onnx@", "this is other.onnx@", "(--expression-model)", "unverified expression"):
        assert part in done.stderr
    done, checks = validated(folder, tmp_path, *more, "--allow-unverified", "expression")
    assert done.returncode == 0 and {check["outcome"] for check in checks.values()} == {"not_measured"}
    assert "another sensor (expression.onnx@" in checks["right.png"]["reason"]
    for model in models.iterdir():
        model.unlink()
    done, _ = validated(folder, tmp_path, "--reference", tmp_path / "nobody", "--expression-model", "expression.onnx")
    assert done.returncode == 2 and "The expression model expression.onnx is not in" in done.stderr


def test_a_gap_file_of_before_still_reads(tmp_path, batch):
    data = json.loads((tmp_path / "gaps.json").read_text(encoding="utf-8"))
    del data["sensors"]["expression"], data["settings"]["expression_model"]
    data["images"] = [{key: value for key, value in one.items() if key != "expression"} for one in data["images"]]
    for one in data["not_measured"]:
        one.pop("targets")
    (tmp_path / "old.json").write_text(json.dumps(data), encoding="utf-8")
    assert read_contract(tmp_path / "old.json", GapReport, "gap_analysis.py").sensors.expression is None
