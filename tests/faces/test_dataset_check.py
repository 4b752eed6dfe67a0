"""The references as a training set: real photos with planted faults, each to be named, and clean ones left in peace."""

import sqlite3

import cv2
import numpy as np
import pytest
from conftest import run_script
from PIL import Image, ImageFilter, ImageOps

from mirror.contracts.summary import DatasetCheck
from mirror.dataset.references import Photo, PhotoPixels, Repeat
from mirror.dataset.soundness import FAULTS, check
from mirror.faces.engine import FaceMeasurement
from utils.files import Status

CLEAN = ("happy.png", "d1.jpeg", "d3.jpeg", "woman.png", "left_face.jpeg", "right_wryneck.png")


def blurred(photo):
    return photo.filter(ImageFilter.GaussianBlur(max(photo.size) / 150))


def darkened(photo):
    return photo.point(lambda level: level * 0.22)


def overexposed(photo):
    return photo.point(lambda level: min(255, level * 2.4 + 40))


def tiny(photo):
    return photo.resize((photo.width // 5, photo.height // 5), Image.Resampling.LANCZOS)


def beside_another(photo, other):
    group = Image.new("RGB", (photo.width + other.width, max(photo.height, other.height)), "white")
    group.paste(photo, (0, 0))
    group.paste(other, (photo.width, 0))
    return group


@pytest.fixture(scope="module")
def planted(photos, tmp_path_factory):
    """(folder of photos, what is wrong with each of them)."""
    folder = tmp_path_factory.mktemp("planted")
    photo = {path.name: Image.open(path).convert("RGB") for path in photos.iterdir()}
    for name in CLEAN:
        (folder / name).write_bytes((photos / name).read_bytes())
    truth = {name: set() for name in CLEAN}

    def plant(name, picture, *faults):
        picture.save(folder / name)
        truth[name] = set(faults)

    plant("soft.png", blurred(photo["anger.png"]), "blurred")
    plant("night.png", darkened(photo["close_eyes.jpeg"]), "dark")
    plant("sun.png", overexposed(photo["yifei.jpg"]), "bright")
    plant("far.png", tiny(photo["open_eyes.png"]), "small face")
    plant("lying.png", photo["mask2.jpg"].rotate(90, expand=True), "turned")
    crowd = beside_another(photo["woman_search.jpeg"].crop((200, 0, 900, 1100)), photo["d5.jpeg"])
    plant("crowd.png", crowd, "several faces")
    plant("grey.png", photo["sad.png"].convert("L"), "black-and-white")
    plant("again.jpg", photo["happy.png"].resize((300, 368)), "near duplicate")
    plant("mirrored.png", ImageOps.mirror(photo["d1.jpeg"]), "near duplicate")
    plant("closer.png", photo["woman.png"].crop((90, 40, 800, 900)), "near duplicate")
    plant("wall.png", photo["view.jpg"], "no face")
    (folder / "cut_off.jpg").write_bytes((photos / "d5.jpeg").read_bytes()[:9000])
    truth["cut_off.jpg"] = {"unreadable"}
    return folder, truth


def faults_of(dataset):
    found = {}
    for fault in dataset["faults"]:
        found.setdefault(fault["file"], set()).add(fault["fault"])
    return found


def test_planted_faults_are_named_and_clean_photos_are_not(metrics, mini_pack, planted, tmp_path):
    folder, truth = planted
    run = metrics("--pack", mini_pack, "--export-keep", tmp_path / "keep.txt", reference=folder)
    assert run.code == 0, run.stderr
    dataset = run.summary["dataset"]
    found = faults_of(dataset)
    assert {name: found.get(name, set()) for name in truth} == truth
    likes = {fault["file"]: fault["like"] for fault in dataset["faults"] if fault["fault"] == "near duplicate"}
    assert likes == {"again.jpg": "happy.png", "mirrored.png": "d1.jpeg", "closer.png": "woman.png"}
    dropped = {"unreadable", "no face", "near duplicate"}
    keep = [name for name in sorted(truth) if not truth[name] & dropped]
    assert sorted(dataset["keep"]) == keep and dataset["photos"] == len(truth)
    assert all(fault["keep"] == (fault["file"] in keep) and fault["advice"] for fault in dataset["faults"])
    order = [list(FAULTS).index(fault["fault"]) for fault in dataset["faults"]]
    assert order == sorted(order), "the gravest first"
    assert (tmp_path / "keep.txt").read_text(encoding="utf-8").splitlines() == dataset["keep"]
    (answer,) = [one for one in run.summary["answers"] if one["question"] == "dataset"]
    assert answer["numbers"]["near_duplicates"] == 3 and "1 blurred (soft.png)" in answer["sentence"]
    assert "3 near duplicates (" in answer["sentence"]
    assert f"It would keep {len(keep)} of {len(truth)} photos" in run.stdout and "near duplicate" in run.stdout


def test_a_second_run_knows_it_all_and_an_older_cache_is_filled_without_networks(metrics, mini_pack, planted, tmp_path):
    folder, _ = planted
    first = metrics("--pack", mini_pack, reference=folder, output="a").summary["dataset"]
    again = metrics("--pack", mini_pack, reference=folder, output="b")
    assert again.summary["dataset"] == first and "Networks:" not in again.stderr
    with sqlite3.connect(tmp_path / "cache.sqlite") as cache:
        cache.execute("DELETE FROM blobs WHERE kind LIKE 'photo-pixels%' OR kind = 'repeats'")
    older = metrics("--pack", mini_pack, reference=folder, output="c")
    assert older.summary["dataset"] == first and "Networks:" not in older.stderr


def test_another_person_is_an_outlier_and_is_not_kept(metrics, mini_pack, photos, tmp_path):
    (tmp_path / "ref").mkdir()
    for name in ("d1.jpeg", "d3.jpeg", "d4.jpeg", "d5.jpeg", "Rob_Lowe_0001.jpg"):
        (tmp_path / "ref" / name).write_bytes((photos / name).read_bytes())
    dataset = metrics("--pack", mini_pack).summary["dataset"]
    assert [fault["file"] for fault in dataset["faults"] if fault["fault"] == "outlier"] == ["Rob_Lowe_0001.jpg"]
    assert dataset["keep"] == ["d1.jpeg", "d3.jpeg", "d4.jpeg", "d5.jpeg"]
    assert "10 to 30" in dataset["missing"][0] and sum(dataset["coverage"]["angles"].values()) == 4
    (tmp_path / "ref" / "d5.jpeg").unlink()
    few = metrics("--pack", mini_pack, output="few").summary["dataset"]
    assert "Outliers cannot be told: 4 face(s)" in few["missing"][1] and len(few["keep"]) == 4


@pytest.mark.parametrize(
    "name", ["folder", "mine.JPG", "photo", "nowhere/keep.txt", "caption.txt", "model.safetensors"]
)
def test_a_picture_or_a_folder_is_never_overwritten(tmp_path, make_picture, tiny_pack, name):
    make_picture(tmp_path / "ref" / "1.png")
    (tmp_path / "folder").mkdir()
    make_picture(tmp_path / "photo.png").rename(tmp_path / "photo")
    (tmp_path / "caption.txt").write_text("ohwx man, portrait\n")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x00\xff")
    asked = tmp_path / name
    before = asked.read_bytes() if asked.is_file() else None
    done = run_script(
        "mirror_metrics.py", "--reference", tmp_path / "ref", "--pack", tiny_pack, "--output", tmp_path / "out",
        "--export-keep", asked,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("Error:") == 1 and "--export-keep takes" in done.stderr
    assert asked.read_bytes() == before if before else not asked.is_file()
    assert not list((tmp_path / "out").glob("Summary*"))


def test_names_in_the_list_are_utf8_and_relative(metrics, make_picture, tiny_pack, tmp_path):
    make_picture(tmp_path / "ref" / "tief" / "Jürgen 人.png", 1)
    make_picture(tmp_path / "ref" / "b.png", 2)
    (tmp_path / "keep").write_text("older.png\nlist.jpg\n")
    run = metrics("--pack", tiny_pack, "--recursive", "--export-keep", tmp_path / "keep")
    assert run.code == 0, run.stderr
    assert (tmp_path / "keep").read_bytes().decode("utf-8") == "".join(f"{n}\n" for n in run.summary["dataset"]["keep"])
    assert "tief/Jürgen 人.png" in run.summary["dataset"]["keep"]


# The rules by themselves.


def photo(file, vector, yaw_deg=0.0, age=None, lighting="normal", sharpness=500.0, side=1000):
    embedding = np.asarray(vector, dtype=np.float32) / np.linalg.norm(vector)
    face = FaceMeasurement(
        Status.OK, 1, "CPU", (side, side), (0, 0, 300.0, 300.0), 0.9, age, yaw_deg, 0.0, 0.0, embedding=embedding
    )
    return Photo(file, Status.OK, "", face, PhotoPixels(120.0, sharpness, lighting, "0", "0"), b"")


def person(count, **more):
    rng = np.random.default_rng(3)
    return [photo(f"{i}.jpg", np.r_[3, 0.2 * rng.normal(size=40)], **more) for i in range(count)]


def test_a_dataset_without_a_fault():
    one = check(person(12), [])
    assert isinstance(one, DatasetCheck) and one.faults == [] and len(one.keep) == 12
    assert one.coverage["angles"] == {"front": 12, "three_quarter": 0, "profile": 0}
    assert one.missing[0] == "Three-quarter shots are 0 of 12, and at least 15% are advised: add 3."
    assert not any("years" in sentence or "Front" in sentence for sentence in one.missing)
    assert check([], []).missing[0].startswith("0 photo(s)") and check([], []).coverage["ages"] == {}


def test_what_is_asked_for_is_enough():
    """The number of photos to add is the smallest that closes the gap."""
    photos = [*person(12), *(photo(f"p{i}.jpg", np.r_[3, np.eye(40)[i]], yaw_deg=40.0) for i in range(3))]
    missing = check(photos, []).missing
    assert not any("Three-quarter" in sentence for sentence in missing)
    assert "Profile shots are 0 of 15, and at least 10% are advised: add 2." in missing


def test_of_repeats_the_best_is_kept_and_a_chain_is_not_one_picture():
    photos = person(6)
    photos[1] = photo("1.jpg", photos[1].face.embedding, side=1600)
    photos[2] = photo("2.jpg", photos[2].face.embedding, side=1700, sharpness=10.0)
    chain = [Repeat(0, 1, "same picture", 0.99, 2), Repeat(1, 2, "same picture", 0.99, 2)]
    one = check(photos, chain)
    assert {(fault.file, fault.like) for fault in one.faults if fault.like} == {("0.jpg", "1.jpg"), ("2.jpg", "1.jpg")}
    ends = check(person(6), [Repeat(0, 3, "cut out", 0.9, 50), Repeat(3, 5, "cut out", 0.9, 50)])
    assert {fault.file: fault.like for fault in ends.faults} == {"3.jpg": "0.jpg"}, "5 repeats what is left out"


def test_ages_that_are_left_out():
    photos = [photo(f"{i}.jpg", np.r_[3, np.eye(40)[i]], age=age) for i, age in enumerate((23, 24, 25, 48, 51, 52))]
    one = check(photos, [])
    assert one.coverage["ages"] == {"20-29": 3, "30-39": 0, "40-49": 1, "50-59": 2}
    assert any("30-39 years old" in sentence for sentence in one.missing)


def test_face_pixels_of_a_face_at_the_edge():
    face = FaceMeasurement(Status.OK, 1, "CPU", (20, 20), (-5, -5, 1, 1), 0.9)
    found = PhotoPixels.of(np.full((20, 20, 3), 90, np.uint8), face)
    assert found.sharpness is None and found.brightness == pytest.approx(90, abs=1)
    grey = cv2.cvtColor(np.full((20, 20, 3), 90, np.uint8), cv2.COLOR_BGR2GRAY)
    assert grey.mean() == pytest.approx(found.brightness, abs=1)
