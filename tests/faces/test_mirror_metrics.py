"""The main job on real photos: the script as users run it, and what it wrote."""

import base64
import json
import os
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_script
from pages_fixture import pictures_in

from mirror.contracts.contract import read_contract
from mirror.contracts.summary import Summary

SAME_MAN = ("d1.jpeg", "d3.jpeg", "d4.jpeg", "d5.jpeg")
FRONTAL = ("happy.png", "sad.png", "close_eyes.jpeg", "d1.jpeg", "Rob_Lowe_0002.jpg", "mask2.jpg", "rise_face.jpeg")


@pytest.fixture(scope="module")
def real_run(tmp_path_factory, mini_pack, photos):
    """d1, d3, d4, d5 as references; every photo as a candidate."""
    from conftest import Run

    base = tmp_path_factory.mktemp("real")
    (base / "ref").mkdir()
    for name in SAME_MAN:
        shutil.copy(photos / name, base / "ref")
    shutil.copytree(photos, base / "cand" / "everyone")
    done = run_script(
        "mirror_metrics.py",
        *("--reference", base / "ref", "--candidates", base / "cand", "--output", base / "out"),
        *("--cache", base / "cache.sqlite", "--pack", mini_pack),
    )
    assert done.returncode == 0, done.stderr
    return Run(done.returncode, done.stdout, done.stderr, base / "out")


def test_one_row_for_every_file(real_run, photos):
    table = real_run.table
    assert sorted(table[table.Type == "Candidate"].Filename) == sorted(p.name for p in photos.iterdir())
    assert sorted(table[table.Type == "Reference"].Filename) == sorted(SAME_MAN)
    assert table.Pack.str.startswith("pack_mini@").all()


def test_the_same_man_scores_above_everybody_else(real_run):
    table = real_run.table
    candidates = table[(table.Type == "Candidate") & table.Similarity.notna()]
    is_him = candidates.Filename.isin(SAME_MAN)
    assert is_him.sum() == 4
    assert candidates[is_him].Similarity.min() > candidates[~is_him].Similarity.max() + 0.3
    references = table[table.Type == "Reference"]
    assert references.Similarity.min() > candidates[~is_him].Similarity.max() + 0.3
    assert candidates[is_him].set_index("Filename").NearestReference.to_dict() == {name: name for name in SAME_MAN}


def test_pictures_without_a_face_are_rows_without_numbers(real_run):
    for name in ("view.jpg", "no_face.png"):
        row = real_run.row(name)
        assert (row.Status, row.Faces) == ("no_face", 0)
        measured = ["Similarity", "Age", "Yaw", "Pitch", "Roll", "DetScore", "AspectRatio", "NearestSimilarity"]
        assert row[measured].isna().all(), "not measured must be blank, never 0"


def test_angles_agree_with_the_truth_by_eye(real_run):
    for name in FRONTAL:
        assert abs(real_run.row(name, "everyone").Yaw) < 20, name
    # by eye within 20 degrees as well; five points say 23, no farther off than they are on average (README.md)
    assert real_run.row("lower_face.jpeg").AngleBin == "front"
    assert real_run.row("left_face.jpeg").Yaw < -45, "the nose points to the picture's left"
    assert real_run.row("right_face.png").Yaw > 45
    assert real_run.row("rise_face.jpeg").Pitch > 10, "looks up"
    assert real_run.row("lower_face.jpeg").Pitch < -10, "looks down"
    assert real_run.row("left_wryneck.png").Roll < -20
    assert real_run.row("right_wryneck.png").Roll > 20
    assert real_run.row("rot_90.jpg").Roll > 60, "lies on its side, clockwise"


def test_a_plain_loop_gives_the_same_similarities(real_run, mini_pack, photos):
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(mini_pack), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=0, det_size=(640, 640))

    def embedding(path):
        faces = app.get(cv2.imread(str(path)))
        if not faces:
            return None
        return max(faces, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1])).normed_embedding

    truth = np.stack([embedding(photos / name) for name in SAME_MAN])
    for i, name in enumerate(SAME_MAN):
        others = np.delete(truth, i, axis=0).mean(axis=0)
        expected = truth[i] @ others / np.linalg.norm(others)
        assert real_run.row(name, "Reference").Similarity == pytest.approx(expected, abs=1e-3)
    centroid = truth.mean(axis=0) / np.linalg.norm(truth.mean(axis=0))
    compared = 0
    for path in sorted(photos.iterdir()):
        face = embedding(path)
        if face is not None:
            row = real_run.row(path.name, "everyone")
            if row.Status in ("rescued", "rotated"):
                continue  # a second look sees more, see test_real_files.py
            assert row.Similarity == pytest.approx(face @ centroid, abs=1e-3), path.name
            assert row.NearestSimilarity == pytest.approx((truth @ face).max(), abs=1e-3), path.name
            compared += 1
    assert compared == 28


def test_held_out_photos_take_the_place_of_the_centroid(real_run, metrics, mini_pack, tmp_path, photos):
    """d1 and d3 as references, d4 and d5 held out."""
    for folder, names in (("ref", SAME_MAN[:2]), ("held", SAME_MAN[2:]), ("cand/lora", ("d1.jpeg", "happy.png"))):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(photos / name, tmp_path / folder)
    run = metrics("--holdout", tmp_path / "held", "--pack", mini_pack)
    assert run.code == 0, run.stderr
    assert "Similarity to the held-out photos" in run.stdout
    groups = {(group["type"], group["name"]): group for group in run.summary["groups"]}
    assert list(groups) == [("Reference", "Reference"), ("Reference", "Held-out"), ("Candidate", "lora")]
    one, other = run.row("d4.jpeg", "Held-out"), run.row("d5.jpeg", "Held-out")
    assert one.Similarity == pytest.approx(other.Similarity), "two photos, each scored against the other"
    him, stranger = run.row("d1.jpeg", "lora"), run.row("happy.png", "lora")
    assert him.Similarity == pytest.approx(run.row("d1.jpeg", "Reference").Similarity), "the same picture, one centroid"
    assert him.Similarity > stranger.Similarity + 0.3
    assert him.NearestReference == "d1.jpeg" and him.NearestSimilarity > 0.999, "copies are of what was trained on"
    assert "held-out" in run.file("Dashboard").read_text(encoding="utf-8").lower()
    assert groups["Candidate", "lora"]["similarity_interval"] is None, "two faces are too few"
    low, high = real_run.summary["groups"][1]["similarity_interval"]
    assert low < real_run.summary["groups"][1]["similarity"]["median"] < high


def test_nothing_is_copied_on_real_photos_but_crops_and_rotations(metrics, mini_pack, tmp_path, photos):
    """Half of the photos as references, the others as one LoRA; and ten crops and turns of one reference."""
    left_out = ("no_face.png", "view.jpg", "kun_cartoon_crop.jpg", "rot_90.jpg")
    names = sorted(path.name for path in photos.iterdir() if path.name not in left_out)
    for folder, some in (("ref", names[::2]), ("cand/others", names[1::2]), ("cand/again", ())):
        (tmp_path / folder).mkdir(parents=True)
        for name in some:
            shutil.copy(photos / name, tmp_path / folder)
    photo = cv2.imread(str(photos / "d3.jpeg"))
    assert "d3.jpeg" in names[::2] or shutil.copy(photos / "d3.jpeg", tmp_path / "ref")
    height, width = photo.shape[:2]
    for i in range(10):
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 2.0 * (i - 5), 1 + 0.03 * i)
        turned = cv2.warpAffine(photo, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(tmp_path / "cand" / "again" / f"{i}.png"), turned)
    run = metrics("--pack", mini_pack, "--fail-below", "0.95")
    assert run.code == 3, "the best group is far below"
    assert "--fail-below 0.95" in run.stderr and run.file("Summary").is_file()
    said = {group["name"]: {one["name"] for one in group["verdicts"]} for group in run.summary["groups"]}
    assert "overtrained" in said["again"] and not said["others"] & {"overtrained", "copycat", "black hole"}


def test_four_references_are_too_few_for_a_verdict(real_run):
    (verdict,) = real_run.summary["groups"][1]["verdicts"]
    assert verdict["name"] == "too few images to tell" and "Too few reference photos" in verdict["sentence"]
    assert [answer["question"] for answer in real_run.summary["answers"]] == [
        "best checkpoint",
        "overtrained",
        "rigid",
        "dataset",
    ]


def test_places_on_the_map_stand_in_the_table(real_run):
    table, page = real_run.table, json.loads(page_data(real_run.file("Dashboard")))
    assert table.tsne_x.notna().equals(table.DetScore.notna()) and table.tsne_z.isna().all()
    for trace in page["figures"]["map"]["data"]:
        rows = table.loc[trace["customdata"]]
        assert trace["x"] == pytest.approx(list(rows.tsne_x), abs=1e-5)
        assert trace["y"] == pytest.approx(list(rows.tsne_y), abs=1e-5)


def test_images_without_the_lora_are_a_floor_and_no_candidate(metrics, tiny_pack, tmp_path, make_picture):
    for folder, count in (("ref", 4), ("ref/holdout", 3), ("cand/lora", 3), ("plain", 2)):
        for seed in range(count):
            make_picture(tmp_path / folder / f"{seed}.jpg", 10 * len(folder) + seed)
    run = metrics("--pack", tiny_pack, "--baseline", tmp_path / "plain", "--recursive")
    assert run.code == 0, run.stderr
    groups = {group["name"]: group["images"] for group in run.summary["groups"]}
    assert groups == {"Reference": 4, "Held-out": 3, "lora": 3, "_baseline": 2}, "held-out photos are no references"
    assert [one["name"] for one in run.summary["ranking"]] == ["lora"]
    assert "Similarity to the held-out photos" in run.stdout and run.summary["settings"]["holdout"].endswith("holdout")
    make_picture(tmp_path / "cand" / "_baseline" / "a.jpg", 1)
    found = metrics("--pack", tiny_pack, output="out2")
    assert [one["name"] for one in found.summary["ranking"]] == ["lora"]
    both = metrics("--pack", tiny_pack, "--baseline", tmp_path / "plain", output="out3")
    assert both.code == 2 and "two baselines" in both.stderr
    (tmp_path / "empty").mkdir()
    shutil.rmtree(tmp_path / "cand" / "_baseline")
    assert metrics("--pack", tiny_pack, "--baseline", tmp_path / "empty").code == 2


def test_a_gate_without_anything_to_judge_does_not_open(metrics, tiny_pack, tmp_path, make_picture):
    for seed in range(3):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed)
    run = metrics("--pack", tiny_pack, "--fail-below", "0.1")
    assert run.code == 3 and "There are no generated images." in run.stderr
    make_picture(tmp_path / "cand" / "lora" / "a.jpg", 7)
    run = metrics("--pack", tiny_pack, "--fail-below", "-1", output="out1")
    assert run.code == 3 and "No group has more than 1 measured face" in run.stderr, "one face proves nothing"
    for seed in range(8, 13):
        make_picture(tmp_path / "cand" / "lora" / f"{seed}.jpg", seed)
    assert metrics("--pack", tiny_pack, "--fail-below", "-1", output="out2").code == 0
    assert metrics("--pack", tiny_pack, "--fail-below", "55", output="out3").code == 2


def test_black_and_uniform_frames_are_not_just_no_face(metrics, mini_pack, tmp_path, photos):
    for folder in ("ref", "cand/late"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(photos / "d1.jpeg", tmp_path / "ref")
    rng = np.random.default_rng(1)
    for i, frame in enumerate((rng.integers(0, 9, (256, 256, 3)), np.full((256, 256, 3), 130))):
        cv2.imwrite(str(tmp_path / "cand" / "late" / f"{i}.png"), frame.astype(np.uint8))
    for name in ("view.jpg", "no_face.png"):
        shutil.copy(photos / name, tmp_path / "cand" / "late")
    run = metrics("--pack", mini_pack)
    for name, is_empty in (("0.png", True), ("1.png", True), ("view.jpg", False), ("no_face.png", False)):
        row = run.row(name)
        assert row.Status == "no_face" and ("a black or uniform frame" in str(row.Reason)) == is_empty, name
    assert run.summary["groups"][1]["verdicts"][0]["name"] == "collapsed"


def test_held_out_photos_must_be_new(metrics, mini_pack, tmp_path, photos):
    (tmp_path / "ref").mkdir()
    for name in SAME_MAN[:2]:
        shutil.copy(photos / name, tmp_path / "ref")
    run = metrics("--holdout", tmp_path / "ref", "--pack", mini_pack)
    assert run.code == 0 and "2 held-out photo(s) are also references" in run.stderr
    assert metrics("--holdout", tmp_path / "nowhere", "--pack", mini_pack).code == 2


def test_largest_face_of_many_and_their_count(metrics, mini_pack, tmp_path, photos):
    from insightface.data import get_image

    (tmp_path / "ref").mkdir()
    (tmp_path / "cand" / "g").mkdir(parents=True)
    shutil.copy(photos / "d1.jpeg", tmp_path / "ref")
    group, single = get_image("t1"), cv2.imread(str(photos / "Rob_Lowe_0002.jpg"))
    # the group photo with one much larger face beside it: that face must be the measured one
    height = max(group.shape[0], 3 * single.shape[0])
    both = np.zeros((height, group.shape[1] + 3 * single.shape[1], 3), np.uint8)
    both[: group.shape[0], : group.shape[1]] = group
    large = cv2.resize(single, None, fx=3, fy=3)
    both[: large.shape[0], group.shape[1] :] = large
    cv2.imwrite(str(tmp_path / "cand" / "g" / "both.png"), both)
    cv2.imwrite(str(tmp_path / "cand" / "g" / "single.png"), single)
    cv2.imwrite(str(tmp_path / "cand" / "g" / "six.png"), group)
    run = metrics("--pack", mini_pack)
    assert run.code == 0, run.stderr
    assert run.row("six.png").Faces == 6
    assert run.row("both.png").Faces >= 5
    assert run.row("both.png").Similarity == pytest.approx(run.row("single.png").Similarity, abs=0.1)


def test_close_up_is_rescued_by_padding(metrics, mini_pack, tmp_path, photos):
    """A face larger than the picture: found only with a black border, its box in the picture's own pixels."""
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(mini_pack), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=0, det_size=(640, 640))
    (tmp_path / "ref").mkdir()
    (tmp_path / "cand" / "g").mkdir(parents=True)
    shutil.copy(photos / "d1.jpeg", tmp_path / "ref")
    photo = cv2.imread(str(photos / "d4.jpeg"))
    left, top, right, bottom = app.get(photo)[0].bbox
    dx, dy = 0.3 * (right - left), 0.3 * (bottom - top)
    tight = photo[int(top + dy) : int(bottom - dy), int(left + dx) : int(right - dx)]
    assert not app.get(tight), "the test has lost its subject: this crop needs no rescue"
    cv2.imwrite(str(tmp_path / "cand" / "g" / "tight.png"), tight)
    run = metrics("--pack", mini_pack)
    row = run.row("tight.png")
    said = "Rescued via padding; black-and-white, which lowers similarity"
    assert (row.Status, row.Reason, row.Faces) == ("rescued", said, 1)
    assert "g/tight.png: \N{ANTICLOCKWISE DOWNWARDS AND UPWARDS OPEN CIRCLE ARROWS} Rescued via padding" in run.stderr
    assert run.summary["groups"][1]["rescued"] == 1

    height, width = tight.shape[:2]
    pad_y, pad_x = round(0.4 * height), round(0.4 * width)
    plain = app.get(cv2.copyMakeBorder(tight, pad_y, pad_y, pad_x, pad_x, cv2.BORDER_CONSTANT))[0]
    box = plain.bbox - [pad_x, pad_y, pad_x, pad_y]
    assert row.AspectRatio == pytest.approx((box[2] - box[0]) / (box[3] - box[1]), rel=0.03)
    truth = app.get(cv2.imread(str(photos / "d1.jpeg")))[0].normed_embedding
    assert row.Similarity == pytest.approx(plain.normed_embedding @ truth, abs=0.05)


def test_summary_equals_the_table(real_run):
    table = real_run.table
    summary = read_contract(real_run.file("Summary"), Summary, "mirror_metrics.py")
    assert [group.name for group in summary.groups] == ["Reference", "everyone"]
    for group in summary.groups:
        rows = table[(table.Type == group.type) & (table.Group == group.name)]
        assert group.images == len(rows)
        assert group.faces == rows.Similarity.notna().sum()
        assert group.failed == rows.Similarity.isna().sum()
        assert group.similarity.median == pytest.approx(rows.Similarity.median(), abs=1e-6)
        assert group.similarity.q1 == pytest.approx(rows.Similarity.quantile(0.25), abs=1e-6)
        assert sum(group.angle_bins.values()) == group.faces
    assert summary.groups[1].copy_bands["Danger Zone"] == 4
    assert summary.pack.tasks == ["detection", "recognition"]
    assert (summary.pack.pose_source, summary.pack.has_age) == ("keypoints", False)
    assert summary.providers == {"CPUExecutionProvider": 34}, "faces that were measured, not pictures"


def test_pack_provider_and_licence_stand_in_every_result_file(real_run):
    identity = real_run.summary["pack"]["identity"]
    licence = real_run.summary["pack"]["licence"]
    for kind in ("Dashboard", "CopycatReport", "Data", "Summary"):
        text = real_run.file(kind).read_text(encoding="utf-8-sig")
        for fact in (identity, "CPUExecutionProvider", licence.split(";")[0].split("'")[0]):
            assert fact in text, f"{kind} lacks {fact}"
    assert "pack_mini" in real_run.stderr
    assert "CPUExecutionProvider" in real_run.stderr


def test_pages_show_the_numbers_of_the_table(real_run, photos):
    """Page data beside the CSV: every point of every panel, every card, and the pictures themselves."""
    table = real_run.table
    dashboard = json.loads(page_data(real_run.file("Dashboard")))
    panels = dashboard["figures"]
    columns = {"similarity": "Similarity", "ratio": "AspectRatio", "confidence": "DetScore"}
    for panel, column in columns.items():
        for trace, kind in zip(panels[panel]["data"], ("Reference", "Candidate"), strict=True):
            shown = sorted(np.ravel(trace["x"]))
            assert shown == pytest.approx(sorted(table[table.Type == kind][column].dropna()), abs=1e-6), panel
    for trace in panels["pose"]["data"]:
        rows = table.loc[trace["customdata"]]
        assert trace["x"] == pytest.approx(list(rows.Yaw), abs=1e-6)
        assert trace["y"] == pytest.approx(list(rows.Pitch), abs=1e-6)
    for trace in panels["profile"]["data"]:
        rows = table.loc[trace["customdata"]]
        assert trace["x"] == pytest.approx(list(rows.Yaw.abs()), abs=1e-6)
        assert trace["y"] == pytest.approx(list(rows.Similarity), abs=1e-6)

    page = real_run.file("CopycatReport").read_text(encoding="utf-8")
    copycat = json.loads(page_data(real_run.file("CopycatReport")))
    thumbnails = pictures_in(page)
    files = copycat["rows"]["file"]
    measured = [card for card in copycat["cards"] if card.get("nearest") is not None]
    assert len(measured) == 30 and len(copycat["cards"]) == 32
    for card in measured:
        row = table.loc[card["row"]]
        assert files[card["row"]] == row.Filename
        assert files[card["nearest"]] == row.NearestReference
        assert card["nearest_similarity"] == pytest.approx(row.NearestSimilarity, abs=1e-6)
        assert card["similarity"] == pytest.approx(row.Similarity, abs=1e-6)
        small = cv2.imdecode(np.frombuffer(base64.b64decode(thumbnails[card["row"]]), np.uint8), cv2.IMREAD_COLOR)
        photo = cv2.resize(cv2.imread(str(photos / row.Filename)), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - photo).mean() < 8, f"{row.Filename} shows another picture"
    hits = table[table.Type == "Candidate"].NearestReference.value_counts()
    assert {files[r["row"]]: r["hits"] for r in copycat["ranking"]} == {n: hits.get(n, 0) for n in SAME_MAN}


def test_too_few_faces_for_a_map_is_a_sentence(metrics, tiny_pack, tmp_path, make_picture):
    for seed in range(4):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed)
    run = metrics("--pack", tiny_pack)
    assert "The map needs at least 5 faces; here are 4." in run.file("Dashboard").read_text(encoding="utf-8")


def test_json_is_alone_on_stdout_and_equals_the_file(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    run = metrics("--pack", tiny_pack, "--json")
    assert run.code == 0
    assert json.loads(run.stdout) == run.summary


def test_console_table_and_paths(real_run):
    for text in ("Reference", "everyone", "Median similarity", real_run.file("Dashboard").name):
        assert text in real_run.stdout


def test_second_run_loads_no_network_and_gives_the_same(real_run, mini_pack, tmp_path):
    base = real_run.output.parent
    done = run_script(
        "mirror_metrics.py",
        *("--reference", base / "ref", "--candidates", base / "cand", "--output", tmp_path),
        *("--cache", base / "cache.sqlite", "--pack", mini_pack),
    )
    assert done.returncode == 0
    assert "Networks:" not in done.stderr
    (again,) = tmp_path.glob("Data_*.csv")
    pd.testing.assert_frame_equal(pd.read_csv(again), pd.read_csv(real_run.file("Data")))


def test_a_new_lora_costs_only_its_own_pictures(metrics, tiny_pack, tmp_path, make_picture):
    for seed in range(4):
        path = make_picture(tmp_path / "ref" / f"{seed}.jpg", seed)
        os.utime(path, (1e9, 1e9))  # old enough for its time stamp to be trusted
    assert metrics("--pack", tiny_pack).code == 0
    for seed in range(3):
        make_picture(tmp_path / "cand" / "new" / f"{seed}.png", 10 + seed)
    run = metrics("--pack", tiny_pack, output="out2")
    assert run.code == 0
    assert "new: 3 images" in run.stderr
    assert "Reference:" not in run.stderr, "known pictures were looked at again"


def test_references_alone_are_a_full_run(metrics, tiny_pack, tmp_path, make_picture):
    for seed in range(6):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed)
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    assert len(list(run.output.iterdir())) == 4
    table = run.table
    assert table.Similarity.notna().all()
    assert (table.NearestReference != table.Filename).all()


def test_a_single_reference_has_no_score_of_its_own(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "only.jpg")
    make_picture(tmp_path / "cand" / "g" / "a.jpg", 1)
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    only = run.row("only.jpg")
    assert only.Status == "ok"
    assert pd.isna(only.Similarity) and pd.isna(only.NearestSimilarity)
    assert run.row("a.jpg").Similarity == pytest.approx(run.row("a.jpg").NearestSimilarity)
    assert run.summary["groups"][0]["similarity"] == {
        "count": 0,
        "median": None,
        "q1": None,
        "q3": None,
        "minimum": None,
        "maximum": None,
    }


def test_pack_with_all_networks_fills_age_and_pose(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    run = metrics("--pack", tiny_pack)
    assert run.summary["pack"]["tasks"] == ["detection", "genderage", "landmark_3d_68", "recognition"]
    assert run.summary["pack"]["pose_source"] == "landmark_3d_68"
    assert run.table.Age.between(1, 100).all()


def test_three_dimensional_map_and_fixed_seed(metrics, tiny_pack, tmp_path, make_picture):
    for seed in range(7):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed)
    runs = [metrics("--pack", tiny_pack, "--map", "3d", "--no-cache", output=f"o{i}") for i in (1, 2)]
    first, second = (page_data(run.file("Dashboard")) for run in runs)
    assert '"scatter3d"' in first
    assert '"scatter3d"' not in page_data(metrics("--pack", tiny_pack, output="flat").file("Dashboard"))
    assert first == second


def page_data(page):
    """The numbers in a page, without its time stamps."""
    data = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    return re.sub(r"2\d{3}-\d\d-\d\d[T ][\d:]{8}|2\d{7}_\d{6}", "", data[1])


def test_no_age_model_is_said_in_the_panel(real_run):
    page = real_run.file("Dashboard").read_text(encoding="utf-8")
    assert "no age model" in page


def test_help_is_complete_and_quick():
    done = run_script("mirror_metrics.py", "--help")
    assert done.returncode == 0
    for option in (
        "--reference",
        "--candidates",
        "--output",
        "--pack",
        "--device",
        "--det-size",
        "--no-cache",
        "--json",
        "--recursive",
        "--require-gpu",
        "--map",
        "--max-megapixels",
    ):
        assert option in done.stdout
    heavy = "import sys; sys.argv = ['x', '--help']\ntry:\n import mirror_metrics; mirror_metrics.main()\n"
    heavy += "except SystemExit: pass\nprint([m for m in ('numpy', 'pandas', 'cv2', 'rich') if m in sys.modules])"
    import subprocess
    import sys

    shown = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]", "--help must not wait for heavy imports"


def test_require_gpu_fails_without_one_even_when_everything_is_cached(metrics, tiny_pack, tmp_path, make_picture):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine's onnxruntime has CUDA")
    make_picture(tmp_path / "ref" / "a.jpg")
    assert metrics("--pack", tiny_pack).code == 0
    run = metrics("--pack", tiny_pack, "--require-gpu", output="out2")
    assert run.code == 2
    assert "CPUExecutionProvider, not on CUDA" in run.stderr
    assert not list(run.output.glob("*_*"))
    warned = metrics("--pack", tiny_pack, "--device", "cuda", "--no-cache", output="out3")
    assert warned.code == 0
    assert "Warning: --device cuda" in warned.stderr
