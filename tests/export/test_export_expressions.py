"""export_expressions.py on rendered photos whose expressions and eyes are known, and on real ones."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import matting_nets as nets
import numpy as np
import pytest
from conftest import ROOT, run_script
from expression_world import expression_model, photo_of, write_photo, write_world
from PIL import Image

from mirror.contracts.expressions import EXPRESSIONS
from mirror.faces.packs import KNOWN_PACKS
from mirror.generation.prompts import prompt_texts
from utils.defaults import DEMO_EXPRESSION

PACK = ROOT / "models" / "demo" / "face"
ASKED = "neutral,smile,surprised,angry"


class World:
    """Photos, a model, and the script run on them."""

    def __init__(self, folder: Path):
        self.dataset = folder / "alice"
        self.photos = write_world(self.dataset)
        self.models = folder / "models"
        expression_model(self.models / "expression_test.onnx")
        self.cache = folder / "cache.sqlite"

    def __call__(self, output: Path, *arguments: object, code: int = 0, dataset: Path | None = None):
        done = run_script(
            "export_expressions.py",
            *("--dataset", dataset or self.dataset, "--output", output, "--pack", PACK),
            *("--models-dir", self.models, "--cache", self.cache, *arguments),
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("expressions"))


@pytest.fixture(scope="module")
def exported(world, tmp_path_factory):
    """(folder, what the script printed) of the plain export."""
    folder = tmp_path_factory.mktemp("exported") / "alice_live2d"
    return folder, world(folder, "--expressions", ASKED)


def record_in(folder: Path) -> dict:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def pictures_of(record: dict) -> list[tuple[str, dict]]:
    return [(one["expression"], picture) for one in record["expressions"] for picture in one["pictures"]]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_sentence(done: subprocess.CompletedProcess) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return line


# What is chosen


def test_each_picture_is_in_the_folder_of_its_expression(world, exported):
    folder, done = exported
    record = record_in(folder)
    found = pictures_of(record)
    assert {name: sum(name == other for other, _ in found) for name, _ in found} == {
        "neutral": 3,
        "smile": 2,
        "surprised": 1,
    }
    for expression, picture in found:
        assert world.photos[picture["picture"]].expression == expression
        assert picture["file"].startswith(f"{expression}/") and (folder / picture["file"]).is_file()
    written = {name for name in files_in(folder) if name.endswith(".png")}
    assert written == {picture["file"] for _, picture in found}
    assert "IMG 10.png" in done.stdout and "01_" in done.stdout


def test_every_picture_of_the_dataset_is_accounted_for(world, exported):
    record = record_in(exported[0])
    chosen = [picture["picture"] for _, picture in pictures_of(record)]
    left = {one["file"]: one["reason"] for one in record["not_used"]}
    assert sorted([*chosen, *left]) == sorted(world.photos) and record["pictures"] == len(world.photos)
    assert "turned to a side" in left["smile_turned.jpg"] and "sad, which was not asked" in left["cry.jpg"]
    assert "generated" in left["synthetic_smile_1.png"]


def test_the_best_come_first(exported):
    for one in record_in(exported[0])["expressions"]:
        scores = [picture["score"] for picture in one["pictures"]]
        assert scores == sorted(scores, reverse=True)
        numbers = [Path(picture["file"]).name[:3] for picture in one["pictures"]]
        assert numbers == [f"{number:02d}_" for number in range(1, len(numbers) + 1)]


def test_what_lacks_is_said(exported):
    folder, done = exported
    by_name = {one["expression"]: one for one in record_in(folder)["expressions"]}
    assert by_name["smile"]["lacking"] == 3 and "--allow-synthetic for 1 generated" in by_name["smile"]["said"]
    angry = by_name["angry"]  # the model of the tests knows no anger
    assert angry["told"] is False and angry["lacking"] is None and "cannot tell" in angry["said"]
    assert "cannot tell" in done.stdout and "2 of 5" in done.stdout
    assert not (folder / "angry").exists()


def test_fewer_are_taken_when_asked(world, tmp_path):
    world(tmp_path / "out", "--expressions", "neutral", "--count", 1)
    record = record_in(tmp_path / "out")
    ((_, best),) = pictures_of(record)
    better = [one["reason"] for one in record["not_used"] if "better one(s) were enough" in one["reason"]]
    assert best["file"].startswith("neutral/01_") and len(better) == 2


def test_blur_and_a_turned_head_lower_the_rank(world, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    write_photo(folder / "a_blurred.png", cv2.GaussianBlur(world.photos["IMG 2.jpg"].image, (0, 0), 3))
    write_photo(folder / "b_sharp.png", world.photos["IMG 1.jpg"].image)
    write_photo(folder / "c_oblique.png", photo_of(3, 1, "neutral", yaw_deg=17.0).image)
    world(tmp_path / "out", "--expressions", "neutral", dataset=folder)
    (first, *_) = pictures_of(record_in(tmp_path / "out"))
    assert first[1]["picture"] == "b_sharp.png"


def test_nearly_the_same_picture_is_taken_once(world, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    image = world.photos["IMG 1.jpg"].image
    write_photo(folder / "1.png", image)
    write_photo(folder / "2.jpg", image)
    write_photo(folder / "3.png", np.ascontiguousarray(image[:, ::-1]))
    world(tmp_path / "out", "--expressions", "neutral", dataset=folder)
    record = record_in(tmp_path / "out")
    assert len(pictures_of(record)) == 1
    reasons = " ".join(one["reason"] for one in record["not_used"])
    assert reasons.count("nearly the same picture as") == reasons.count("the mirror image of the same picture as") == 1


def test_generated_pictures_are_marked(world, tmp_path):
    done = world(tmp_path / "out", "--expressions", "smile", "--allow-synthetic")
    (generated,) = [one for _, one in pictures_of(record_in(tmp_path / "out")) if one["is_synthetic"]]
    assert generated["picture"] == "synthetic_smile_1.png" and "synthetic_smile_1.png (generated)" in done.stdout
    assert ">generated</span>" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


# Where the eyes lie


def test_eyes_are_on_the_same_pixels(world, exported):
    """The true eyes, through the saved matrix; limits are wider than what the benchmark gives."""
    record = record_in(exported[0])
    wanted = np.array([record["left_eye_xy"], record["right_eye_xy"]])
    off = []
    for _, picture in pictures_of(record):
        matrix, eyes = np.array(picture["matrix"]), world.photos[picture["picture"]].eyes
        off.append(np.linalg.norm((eyes @ matrix[:, :2].T + matrix[:, 2]) / record["canvas"] - wanted, axis=1))
    assert np.mean(off) < 0.01 and np.max(off) < 0.04


def test_the_files_are_what_the_matrices_say(world, exported):
    folder, record = exported[0], record_in(exported[0])
    for _, picture in pictures_of(record):
        written = cv2.imread(str(folder / picture["file"]), cv2.IMREAD_UNCHANGED)
        assert written.shape[:2] == (record["canvas"],) * 2
        original = cv2.imread(str(world.dataset / picture["picture"]))
        alpha = written[..., 3] if written.shape[2] == 4 else np.full(written.shape[:2], 255, np.uint8)
        again = cv2.warpAffine(original, np.array(picture["matrix"]), (record["canvas"],) * 2)
        difference = np.abs(again.astype(int) - written[..., :3])[alpha == 255]
        assert difference.mean() < 2
        assert abs((alpha < 128).mean() - picture["beyond_share"]) < 0.001


def test_nothing_is_enlarged_and_all_have_one_size(exported):
    folder, done = exported
    record = record_in(folder)
    assert record["canvas"] < 1024 and "nothing is enlarged" in record["canvas_said"] and "not 1024" in done.stdout
    scales = [picture["scale"] for _, picture in pictures_of(record)]
    assert max(scales) <= 1 and max(scales) > 0.98  # the smallest face fills the canvas


def test_a_canvas_that_all_fill_is_taken_as_asked(world, tmp_path):
    world(tmp_path / "out", "--expressions", "neutral", "--canvas", 200)
    record = record_in(tmp_path / "out")
    assert record["canvas"] == 200 and record["canvas_said"] == ""
    assert {Image.open(path).size for path in (tmp_path / "out").rglob("*.png")} == {(200, 200)}


def test_a_small_face_is_left_out_and_does_not_shrink_the_others(world, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    image = world.photos["IMG 1.jpg"].image
    write_photo(folder / "large.png", image)
    small = cv2.copyMakeBorder(cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA), 0, 0, 90, 0, 0)
    write_photo(folder / "small.png", small)
    world(tmp_path / "out", "--expressions", "neutral", dataset=folder)
    record = record_in(tmp_path / "out")
    (left,) = record["not_used"]
    assert record["canvas"] >= 256 and left["file"] == "small.png" and "never enlarged" in left["reason"]
    world(tmp_path / "out", "--expressions", "neutral", "--smallest-canvas", 64, dataset=folder)
    assert record_in(tmp_path / "out")["canvas"] < 256


def test_a_picture_on_its_side_is_turned_upright(world, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    photo = world.photos["IMG 1.jpg"]
    write_photo(folder / "side.png", np.ascontiguousarray(np.rot90(photo.image, -1)))
    world(tmp_path / "out", "--expressions", "neutral", dataset=folder)
    record = record_in(tmp_path / "out")
    ((_, picture),) = pictures_of(record)
    matrix = np.array(picture["matrix"])
    eyes = np.column_stack([photo.image.shape[0] - 1 - photo.eyes[:, 1], photo.eyes[:, 0]])
    off = (eyes @ matrix[:, :2].T + matrix[:, 2]) / record["canvas"] - [record["left_eye_xy"], record["right_eye_xy"]]
    assert np.abs(off).max() < 0.04


# Transparent backgrounds


def test_matting_makes_the_background_transparent(world, tmp_path):
    """The matte of this model is the red of the picture."""
    model = nets.modnet(tmp_path / "modnet.onnx")
    world(tmp_path / "plain", "--expressions", "surprised")
    done = world(tmp_path / "cut", "--expressions", "surprised", "--matting", model)
    ((_, picture),) = pictures_of(record_in(tmp_path / "cut"))
    plain = cv2.imread(str(tmp_path / "plain" / picture["file"]), cv2.IMREAD_UNCHANGED)
    cut = cv2.imread(str(tmp_path / "cut" / picture["file"]), cv2.IMREAD_UNCHANGED)
    assert cut.shape[2] == 4 and cut[..., 3].max() > 150
    inside = plain[..., 3] == 255 if plain.shape[2] == 4 else np.full(plain.shape[:2], True)
    assert np.abs(cut[..., 3].astype(int) - plain[..., 2])[inside].mean() < 3
    assert not cut[cut[..., 3] == 0].any() and (cut[~inside][:, 3] < 255).all()
    record = record_in(tmp_path / "cut")
    assert record["matting_kind"] == "MODNet" and record["matting_model"].startswith("modnet.onnx@")
    assert "transparent by modnet.onnx" in done.stdout
    assert "data:image/png" in (tmp_path / "cut" / "index.html").read_text(encoding="utf-8")


def test_an_unknown_matting_model_is_one_sentence(world, tmp_path):
    model = nets.net(tmp_path / "strange.onnx", "x", [1, 3, 64, 64], 1.0, 0.0)
    done = world(tmp_path / "out", "--matting", model, code=2)
    assert "strange.onnx is no matting model that is known" in one_sentence(done)
    assert not (tmp_path / "out").exists()


# What lacks, for the loop


def test_the_gap_file_is_taken_by_generate_synthetic(world, tmp_path):
    gaps = tmp_path / "gaps.json"
    world(tmp_path / "out", "--expressions", "neutral,smile,surprised,sad,angry", "--count", 3, "--gaps", gaps)
    told = json.loads(gaps.read_text(encoding="utf-8"))
    wanted = {one["target"]: one["count"] for one in told["recommendations"]}
    assert wanted == {"smile": 1, "surprised": 2, "sad": 2}, "neutral has three, anger is not measured"
    assert {one["type"] for one in told["recommendations"]} == {"expression"}
    assert told["dataset"] == str(world.dataset)
    done = run_script("generate_synthetic.py", gaps, "--person", "ohwx person", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert "no sensor measures" not in done.stderr, "the gap file names the model by which validation checks them"
    planned = Counter(one["target"] for one in json.loads(done.stdout)["images"])
    assert planned == {name: count for name, count in wanted.items() if prompt_texts("expression", name)}
    assert planned["smile"] == 1


def test_the_gap_file_is_written_where_nothing_can_be_taken(world, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(world.dataset / "cry.jpg", folder)
    gaps = tmp_path / "gaps.json"
    done = world(tmp_path / "out", "--expressions", "smile", "--gaps", gaps, code=2, dataset=folder)
    assert "None of the 1 picture(s)" in one_sentence(done) and "It shows sad" in done.stderr
    assert json.loads(gaps.read_text())["recommendations"][0]["count"] == 5 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("gaps.json", '{"script": "gap_analysis.py"}', "was not written by export_expressions.py"),
        ("gaps.txt", "", ".json"),
    ],
)
def test_a_gap_file_of_somebody_else_is_kept(world, tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    done = world(tmp_path / "out", "--gaps", tmp_path / name, code=2)
    assert said in one_sentence(done) and (tmp_path / name).read_text() == content
    assert not (tmp_path / "out").exists()


# Bad input


def test_without_an_expression_model_nothing_is_guessed(world, tmp_path):
    (tmp_path / "models").mkdir()
    done = world(tmp_path / "out", "--models-dir", tmp_path / "models", code=2)
    said = one_sentence(done)
    assert "emotion-ferplus-8.onnx" in said and "enet_b0_8" in said and str(tmp_path / "models") in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_expression_is_named_with_the_list(world, tmp_path):
    done = world(tmp_path / "out", "--expressions", "smile,happy", code=2)
    assert "'happy' is no expression; known: neutral, smile, serious, laughing, surprised, angry, sad" in done.stderr


def test_expressions_that_the_model_cannot_tell(world, tmp_path):
    done = world(tmp_path / "out", "--expressions", "angry,laughing", code=2)
    assert "cannot tell angry or laughing; it tells neutral, smile, surprised, sad" in one_sentence(done)
    assert not (tmp_path / "out").exists()


def test_bad_datasets_give_one_sentence_each(world, tmp_path):
    empty, faceless, both, alone = (tmp_path / name for name in ("empty", "faceless", "both", "alone"))
    for folder in (empty, faceless, both, alone):
        folder.mkdir()
    write_photo(faceless / "wall.jpg", np.full((300, 300, 3), 120, np.uint8))
    for number in range(3):
        write_photo(both / f"a{number}.png", world.photos[list(world.photos)[number]].image)
        write_photo(both / f"b{number}.png", photo_of(8, number, "neutral").image)
    write_photo(alone / "one.png", world.photos["smile_turned.jpg"].image)
    for folder, said in (
        (tmp_path / "nothing", "does not exist"),
        (empty, "holds no pictures"),
        (faceless, "No face was found"),
        (both, "shows two persons"),
        (alone, "None of the 1 picture(s)"),
    ):
        done = world(tmp_path / "out", code=2, dataset=folder)
        assert said in one_sentence(done), folder
        assert not (tmp_path / "out").exists()


def test_one_picture_is_enough_for_one_expression(world, tmp_path):
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(world.dataset / "wow.jpg", folder)
    done = world(tmp_path / "out", dataset=folder)
    ((expression, picture),) = pictures_of(record_in(tmp_path / "out"))
    assert expression == "surprised" and picture["likeness"] is None and "identity" not in picture["parts"]
    assert "1 of 5" in done.stdout and "None of 5" in done.stdout


def test_output_in_the_dataset_is_refused(world):
    done = world(world.dataset / "out", code=2)
    assert "lies in the dataset" in one_sentence(done) and not (world.dataset / "out").exists()


# The same again, nothing of others, nothing of the camera


def test_the_same_command_gives_the_same_bytes(world, exported, tmp_path):
    folder = exported[0]
    before = files_in(folder)
    world(folder, "--expressions", ASKED)
    assert files_in(folder) == before
    world(tmp_path / "again", "--expressions", ASKED, "--no-cache")
    assert files_in(tmp_path / "again") == before


def test_files_of_others_are_kept(world, tmp_path):
    output = tmp_path / "out"
    world(output, "--expressions", "smile,neutral")
    mine = output / "smile" / "my_drawing.png"
    mine.write_bytes(b"mine")
    world(output, "--expressions", "neutral")
    left = set(files_in(output))
    assert "smile/my_drawing.png" in left and sum(name.startswith("smile/") for name in left) == 1
    changed = next(path for path in output.rglob("neutral/01_*.png"))
    changed.write_bytes(b"painted over")
    done = world(output, "--expressions", "neutral", code=2)
    assert changed.name in one_sentence(done) and changed.read_bytes() == b"painted over"


def test_nothing_of_the_camera_is_in_the_files(world, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010F] = "SECRETCAMERA"
    exif.get_ifd(0x8825)[29] = "2026:01:02"
    Image.open(world.dataset / "IMG 1.jpg").save(folder / "gps.jpg", exif=exif, quality=95)
    assert b"SECRETCAMERA" in (folder / "gps.jpg").read_bytes()
    world(tmp_path / "out", "--expressions", "neutral", dataset=folder)
    for name, data in files_in(tmp_path / "out").items():
        assert b"SECRETCAMERA" not in data and b"2026:01:02" not in data, name
        assert not name.endswith(".png") or b"eXIf" not in data


# The guide's command, the page, real photos


def test_the_command_of_the_guide(world, tmp_path):
    line = (
        "python export_expressions.py --dataset outputs/facevault/organized/alice "
        "--expressions neutral,smile,surprised,angry --output alice_live2d/"
    )
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "export_expressions.py", tmp_path)
    pack = tmp_path / "models" / "buffalo_l"
    shutil.copytree(PACK, pack)
    order = {"det": "det_10g.onnx", "rec": "w600k_r50.onnx", "lmk": "1k3d68.onnx", "age": "genderage.onnx"}
    assert set(order.values()) == set(KNOWN_PACKS["buffalo_l"])
    for path in pack.glob("*.onnx"):
        path.rename(pack / order[path.name[:3]])
    expression_model(tmp_path / "models" / "expression_mine.onnx")
    shutil.copytree(world.dataset, tmp_path / "outputs" / "facevault" / "organized" / "alice")
    command = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "alice_live2d").iterdir()} == {
        *("neutral", "smile", "surprised", "index.json", "index.html")
    }


def test_the_page_lays_pictures_over_each_other(exported):
    from pages_browser import assert_fits, assert_quiet, chromium, opened

    html = (exported[0] / "index.html").read_text(encoding="utf-8")
    with chromium() as browser:
        for width in (1280, 390):
            page = opened(browser, exported[0].parent, html, width)
            assert_quiet(page)
            assert_fits(page)
            first = page.ask("document.getElementById('above').src")
            page.ask(
                "(() => { const s = document.getElementById('choose-above'); s.value = '1';"
                " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
            )
            assert page.ask("document.getElementById('above').src") != first
            assert page.ask("document.querySelectorAll('.picture').length") == 6


def test_the_demo_model_reads_what_rendered_heads_show(world, tmp_path):
    """No brightness here: faces that really smile, frown and gape. The benchmark has the figures."""
    from demo.render import render
    from demo.scene import draw_scene
    from demo.training_data import UNSEEN_SEED, draw_people, generator

    (who,) = draw_people(UNSEEN_SEED, 1)
    (tmp_path / "shown").mkdir()
    for name in EXPRESSIONS:
        scene = draw_scene(who, generator(UNSEEN_SEED, f"test {name}"), expression=name, yaw_deg=4.0, strength=1.0)
        write_photo(tmp_path / "shown" / f"{name}.png", render(scene, 400).image)
    done = world(
        tmp_path / "out",
        *("--expressions", ",".join(EXPRESSIONS), "--expression-model", DEMO_EXPRESSION.relative_to(ROOT)),
        dataset=tmp_path / "shown",
    )
    assert "trained on rendered heads only" in done.stderr.partition("Expression model")[2]
    found = pictures_of(record_in(tmp_path / "out"))
    right = [expression for expression, picture in found if picture["picture"] == f"{expression}.png"]
    assert len(right) >= 5 and len(found) - len(right) <= 1


def test_real_photos(mini_pack, photos, tmp_path):
    """Three photos of one man; the model of the tests calls everything neutral, so the choice is by the rest."""
    from expression_nets import own_net

    for name in ("d1.jpeg", "d3.jpeg", "d5.jpeg"):
        (tmp_path / "man").mkdir(exist_ok=True)
        shutil.copy(photos / name, tmp_path / "man")
    own_net(tmp_path / "models" / "expression_any.onnx", {"neutral": 100.0, "smile": 900.0})
    done = run_script(
        "export_expressions.py",
        *("--dataset", tmp_path / "man", "--output", tmp_path / "out", "--pack", mini_pack, "--expressions", "neutral"),
        *("--models-dir", tmp_path / "models", "--cache", tmp_path / "cache.sqlite", "--smallest-canvas", 64),
    )
    assert done.returncode == 0, done.stderr
    record = record_in(tmp_path / "out")
    assert {picture["eyes_by"] for _, picture in pictures_of(record)} <= {"irises", "keypoints"}
    assert len(pictures_of(record)) + len(record["not_used"]) == 3 and pictures_of(record)


def test_a_canvas_is_never_smaller_than_the_smallest_that_is_allowed(mini_pack, photos, tmp_path):
    """The irises of this photo are nearer to each other than the pack's points: by those it would fill 256 pixels."""
    from expression_nets import own_net

    (tmp_path / "man").mkdir()
    shutil.copy(photos / "Rob_Lowe_0001.jpg", tmp_path / "man")
    own_net(tmp_path / "models" / "expression_any.onnx", {"neutral": 100.0, "smile": 900.0})
    done = run_script(
        "export_expressions.py",
        *("--dataset", tmp_path / "man", "--output", tmp_path / "out", "--pack", mini_pack, "--expressions", "neutral"),
        *("--models-dir", tmp_path / "models", "--cache", tmp_path / "cache.sqlite"),
    )
    assert done.returncode == 2 and "fills a canvas of 252 pixels (at least 256)" in done.stderr
    assert not (tmp_path / "out").exists()
