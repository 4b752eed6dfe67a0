"""Files as people have them, with real photos of one man: each must score as the healthy upright file does.

"Before" is what the version without second looks measured with the same pack and photos.
"""

import io
import json
import os
import re

import numpy as np
import pillow_heif
import pytest
from conftest import run_script
from PIL import Image, PngImagePlugin

from mirror.faces.engine import FaceEngine
from mirror.faces.finding import FaceFinder

SAME = 0.03  # as the upright file


@pytest.fixture(scope="module")
def man(photos):
    """One of his photos, RGB, 690 x 1035."""
    return Image.open(photos / "d3.jpeg").convert("RGB")


@pytest.fixture
def folders(tmp_path, photos, man):
    """His other photos as references, and a folder for what becomes of the one."""
    (tmp_path / "ref").mkdir()
    for name in ("d1.jpeg", "d5.jpeg"):
        (tmp_path / "ref" / name).write_bytes((photos / name).read_bytes())
    group = tmp_path / "cand" / "g"
    group.mkdir(parents=True)
    man.save(group / "upright.png")
    return group


@pytest.fixture(scope="module")
def engine(mini_pack):
    return FaceEngine(mini_pack)


def test_sideways_photos_without_exif(metrics, folders, mini_pack, man):
    """Before: 0.06, 0.83 and 0.56 to the upright photo, status ok."""
    for turn in (90, 180, 270):
        man.rotate(-turn, expand=True).save(folders / f"turned{turn}.png")
    run = metrics("--pack", mini_pack)
    upright = run.row("upright.png")
    assert upright.Status == "ok"
    for turn, way in ((90, "90° counterclockwise"), (180, "180°"), (270, "90° clockwise")):
        row = run.row(f"turned{turn}.png")
        assert row.Status == "rotated" and f"measured turned by {way}; turn the file" in row.Reason
        assert row.Similarity == pytest.approx(upright.Similarity, abs=SAME)
        assert row.Yaw == pytest.approx(upright.Yaw, abs=2)
        assert row.AspectRatio == pytest.approx(upright.AspectRatio, rel=0.03)
        assert (row.Roll - upright.Roll - turn + 180) % 360 - 180 == pytest.approx(0, abs=3)
    assert "3 picture(s) lie on their side or upside down" in run.stderr
    assert any("turn the files: g/turned90.png" in warning for warning in run.summary["warnings"])


def test_every_photo_is_measured_alike_whichever_way_it_lies(engine, photos):
    """28 photos, three turns each. One has its head tilted by 64 degrees: there a turn is a matter of taste."""
    from utils.decoding import decode

    left_out = {"no_face.png", "view.jpg", "kun_cartoon_crop.jpg", "rot_90.jpg", "left_wryneck.png"}
    worst = {}
    for path in sorted(photos.iterdir()):
        if path.name not in left_out:
            image = decode(path.read_bytes())
            upright = engine.measure(image)
            turned = [engine.measure(np.ascontiguousarray(np.rot90(image, turns))) for turns in (1, 2, 3)]
            worst[path.name] = min(float(one.embedding @ upright.embedding) for one in turned)
            for one, turns in zip(turned, (1, 2, 3), strict=True):
                _assert_same_box(one.box_xyxy, upright.box_xyxy, turns, image.shape)
    assert len(worst) == 27 and min(worst.values()) > 1 - SAME, worst


def _assert_same_box(box, upright, turns, shape):
    """`box` of a picture turned `turns` quarters counterclockwise lies where `upright` does."""
    height, width = shape[:2]
    left, top, right, bottom = upright
    expected = {
        1: (top, width - right, bottom, width - left),
        2: (width - right, height - bottom, width - left, height - top),
        3: (height - bottom, left, height - top, right),
    }[turns]
    assert np.allclose(box, expected, atol=0.03 * max(right - left, bottom - top))


def test_plainly_upright_pictures_are_looked_at_once(engine, photos, monkeypatch):
    from utils.decoding import decode

    looks = []
    detect = FaceFinder._detect
    monkeypatch.setattr(FaceFinder, "_detect", lambda self, *a, **k: (looks.append(1), detect(self, *a, **k))[1])
    for name in ("d3.jpeg", "Rob_Lowe_0001.jpg", "happy.png", "left_face.jpeg", "yifei.jpg"):
        engine.measure(decode((photos / name).read_bytes()))
    assert len(looks) == 5


def test_damaged_files_are_no_faces(metrics, folders, mini_pack, man):
    """Before: a JPEG of which the lower part is missing was measured, at about 0.0, as ok."""
    for name, options in (("a.jpg", {}), ("progressive.jpg", {"progressive": True}), ("b.png", {}), ("c.webp", {})):
        file = io.BytesIO()
        man.save(file, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.split(".")[1]], **options)
        data = file.getvalue()
        (folders / f"cut_{name}").write_bytes(data[: len(data) * 6 // 10])
        (folders / f"hole_{name}").write_bytes(data[: len(data) * 6 // 10] + data[-2:])
    whole = io.BytesIO()
    man.save(whole, "JPEG")
    (folders / "without_end_marker.jpg").write_bytes(whole.getvalue()[:-2])
    run = metrics("--pack", mini_pack)
    for path in folders.glob("cut_*"):
        assert run.row(path.name).Status == "unreadable" and "damaged" in run.row(path.name).Reason
    for name in ("hole_a.jpg", "hole_progressive.jpg", "hole_b.png"):
        assert run.row(name).Status == "unreadable" and "damaged" in run.row(name).Reason
    assert re.search(r"is damaged: ends after [56]\d % of its rows", run.row("cut_a.jpg").Reason)
    whole, upright = run.row("without_end_marker.jpg"), run.row("upright.png")
    assert whole.Status == "ok" and whole.Similarity == pytest.approx(upright.Similarity, abs=SAME)


def test_transparent_parts_are_white_not_what_lies_under_them(metrics, folders, mini_pack, man):
    """Before: alpha was dropped, and noise under it was part of the picture."""
    noise = np.random.default_rng(0).integers(0, 255, np.asarray(man).shape, dtype=np.uint8)
    alpha = np.zeros(noise.shape[:2], np.uint8)
    alpha[100:700, 100:600] = 255
    pixels = np.where(alpha[..., None] > 0, np.asarray(man), noise)
    Image.fromarray(np.dstack([pixels, alpha])).save(folders / "cutout.png")
    Image.fromarray(np.dstack([pixels, alpha])).save(folders / "cutout.webp", lossless=True)
    white = np.where(alpha[..., None] > 0, np.asarray(man), 255).astype(np.uint8)
    Image.fromarray(white).save(folders / "on_white.png")
    man.convert("RGBA").save(folders / "opaque.png")
    run = metrics("--pack", mini_pack)
    for name in ("cutout.png", "cutout.webp"):
        assert run.row(name).Similarity == pytest.approx(run.row("on_white.png").Similarity, abs=1e-4)
        assert "transparent parts are shown on white" in run.row(name).Reason
    assert run.row("opaque.png").Similarity == pytest.approx(run.row("upright.png").Similarity, abs=1e-4)
    assert run.row("opaque.png").Reason != run.row("opaque.png").Reason, "nothing to say of it"
    assert run.stderr.count("transparent parts") == 1, "said once"


def test_formats_of_phones_and_the_web(metrics, folders, mini_pack, man):
    """Before: files that are no pictures."""
    for name in ("a.heic", "a.avif", "a.tif", "a.TIFF"):
        man.save(folders / name, quality=95)
    man.save(folders / "a.jfif", "JPEG", quality=95)
    man.save(folders / "a.gif", save_all=True, append_images=[Image.new("RGB", man.size, "black")])
    lying = pillow_heif.from_pillow(man.rotate(90, expand=True))
    lying.info["exif"] = None
    lying.save(folders / "b.heif", quality=95)
    run = metrics("--pack", mini_pack)
    upright = run.row("upright.png").Similarity
    for name in ("a.heic", "a.avif", "a.tif", "a.TIFF", "a.jfif"):
        assert run.row(name).Status == "ok", name
        assert run.row(name).Similarity == pytest.approx(upright, abs=SAME), name
    assert run.row("a.gif").Similarity == pytest.approx(upright, abs=0.08), "256 colours"
    assert run.row("b.heif").Status == "rotated"


def test_a_large_workflow_in_a_png(metrics, folders, mini_pack, man):
    """Before: "is damaged"."""
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", json.dumps([os.urandom(8).hex() for _ in range(600_000)]), zip=True)
    text.add_itxt("prompt", "x" * 6_000_000, zip=True)
    man.save(folders / "workflow.png", pnginfo=text)
    assert (folders / "workflow.png").stat().st_size > 5_000_000
    run = metrics("--pack", mini_pack)
    row = run.row("workflow.png")
    assert row.Status == "ok" and row.Reason != row.Reason
    assert row.Similarity == pytest.approx(run.row("upright.png").Similarity, abs=1e-4)


def test_faces_cut_at_the_frame(engine, photos):
    """Cropped 15 % inside the face's box. Before: mean cosine 0.37 to the whole photo."""
    from utils.decoding import decode

    found = []
    for path in sorted(photos.iterdir()):
        if path.name in ("no_face.png", "view.jpg", "kun_cartoon_crop.jpg", "rot_90.jpg"):
            continue
        image = decode(path.read_bytes())
        whole = engine.measure(image)
        left, top, right, bottom = whole.box_xyxy
        dx, dy = 0.15 * (right - left), 0.15 * (bottom - top)
        crop = image[int(max(0, top + dy)) : int(bottom - dy), int(max(0, left + dx)) : int(right - dx)]
        tight = engine.measure(np.ascontiguousarray(crop))
        found.append(0.0 if tight.embedding is None else float(tight.embedding @ whole.embedding))
    assert len(found) == 28 and np.mean(found) > 0.6, np.mean(found)


def test_a_small_face_in_a_large_landscape(metrics, folders, mini_pack, engine, man):
    """A face 38 pixels wide in 4000 x 3000. Before: no_face."""
    left, _, right, _ = engine.measure(np.asarray(man)[:, :, ::-1].copy()).box_xyxy
    scale = 38 / (right - left)
    small = man.resize((round(man.width * scale), round(man.height * scale)), Image.Resampling.LANCZOS)
    landscape = Image.new("RGB", (4000, 3000), (90, 140, 90))
    landscape.paste(small, (1900, 1500))
    landscape.save(folders / "landscape.png")
    run = metrics("--pack", mini_pack)
    row = run.row("landscape.png")
    assert row.Status == "rescued" and row.Reason == "Rescued at 1920 pixels: the face is small"
    assert row.Similarity == pytest.approx(run.row("upright.png").Similarity, abs=0.15)
    assert "Rescued at 1920 pixels" in run.stderr


def test_a_small_face_in_a_landscape_on_its_side(engine, photos):
    """Found only enlarged, and lying: before, 0.69 and less to the upright one."""
    for name in ("Rob_Lowe_0001.jpg", "kun.jpg", "happy.png"):
        person = Image.open(photos / name).convert("RGB")
        left, _, right, _ = engine.measure(np.asarray(person)[:, :, ::-1].copy()).box_xyxy
        scale = 60 / (right - left)
        landscape = Image.open(photos / "view.jpg").convert("RGB").resize((1600, 1200))
        landscape.paste(person.resize((round(person.width * scale), round(person.height * scale))), (700, 500))
        image = np.asarray(landscape)[:, :, ::-1].copy()
        upright = engine.measure(image)
        for turns in (1, 2, 3):
            found = engine.measure(np.ascontiguousarray(np.rot90(image, turns)))
            assert found.status == "rotated", (name, turns)
            assert float(found.embedding @ upright.embedding) > 0.85, (name, turns)


def test_a_small_group_keeps_all_its_faces(engine, man, photos):
    landscape = Image.new("RGB", (4000, 3000), (90, 140, 90))
    for i, name in enumerate(("d3.jpeg", "Rob_Lowe_0001.jpg", "happy.png")):
        person = Image.open(photos / name).convert("RGB")
        left, _, right, _ = engine.measure(np.asarray(person)[:, :, ::-1].copy()).box_xyxy
        scale = (55 - 5 * i) / (right - left)
        small = person.resize((round(person.width * scale), round(person.height * scale)), Image.Resampling.LANCZOS)
        landscape.paste(small, (1200 + 800 * i, 1500))
    found = engine.measure(np.asarray(landscape)[:, :, ::-1].copy())
    assert (found.status, found.faces, len(found.others)) == ("rescued", 3, 2)
    alone = engine.measure(np.asarray(man)[:, :, ::-1].copy())
    assert float(found.embedding @ alone.embedding) > 0.85


def test_shot_size_is_that_of_the_upright_picture(photos, mini_pack, man, tmp_path):
    from mirror.contracts.contract import read_contract
    from mirror.contracts.gaps import GapReport

    for turn in (0, 90, 180):
        (tmp_path / "set").mkdir(exist_ok=True)
        man.crop((60, 60, 560, 1035)).rotate(turn, expand=True).save(tmp_path / "set" / f"{turn}.png")
    command = ("gap_analysis.py", tmp_path / "set", "--pack", mini_pack, "--output", tmp_path / "gaps.json")
    done = run_script(*command, "--no-cache", "--models-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    report = read_contract(tmp_path / "gaps.json", GapReport, "gap_analysis.py")
    heights = {one.file: one.face_height_percent for one in report.images}
    assert heights["90.png"] == pytest.approx(heights["0.png"], rel=0.04)
    assert len({one.values["shot_size"] for one in report.images}) == 1
    assert {one.file: one.turned_deg for one in report.images} == {"0.png": 0, "90.png": 90, "180.png": 180}
    assert "2 of 3 images lie on their side or upside down" in done.stderr


def test_black_and_white_is_said(metrics, folders, mini_pack, man, photos):
    man.convert("L").convert("RGB").save(folders / "grey.jpg")
    (folders / "toned.jpeg").write_bytes((photos / "d4.jpeg").read_bytes())
    on_white = Image.new("RGB", (4000, 4000), "white")
    on_white.paste(man.resize((345, 517)), (1800, 1800))
    on_white.save(folders / "coloured_on_white.png")
    man.point(lambda level: level // 4).save(folders / "dark.png")
    run = metrics("--pack", mini_pack)
    assert "black-and-white" in run.row("toned.jpeg").Reason
    for name in ("coloured_on_white.png", "dark.png", "upright.png"):
        assert "black-and-white" not in str(run.row(name).Reason), name
    assert run.row("grey.jpg").Reason == "black-and-white, which lowers similarity"
    assert run.row("grey.jpg").Similarity < run.row("upright.png").Similarity
    assert "2 picture(s) are black-and-white" in run.stderr


def test_several_faces(metrics, folders, mini_pack, man, photos):
    """A larger stranger beside him: the largest face is measured, and the row says that another one is nearer."""
    stranger = Image.open(photos / "woman_search.jpeg").convert("RGB").crop((200, 0, 900, 1100))
    group = Image.new("RGB", (stranger.width + 1 + man.width, 1100), "white")
    group.paste(stranger, (0, 0))
    group.paste(man.resize((414, 621)), (stranger.width + 1, 0))
    group.save(folders / "two.png")
    largest, nearest = metrics("--pack", mini_pack), metrics("--pack", mini_pack, "--face", "nearest", output="near")
    upright = largest.row("upright.png").Similarity
    assert largest.row("two.png").Similarity < 0.3
    assert "another face is more like the references" in largest.row("two.png").Reason
    assert "--face nearest measures those: g/two.png" in largest.stderr
    assert nearest.row("two.png").Similarity == pytest.approx(upright, abs=0.1)
    assert "the face most like the references is measured" in nearest.row("two.png").Reason
    assert nearest.summary["settings"]["face"] == "nearest" and largest.summary["settings"]["face"] == "largest"
    assert nearest.row("upright.png").Similarity == pytest.approx(upright, abs=1e-6)
