"""Bad pictures, hostile names and faults: none stops the others, and every file is a row."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        (320, 240), Image.Resampling.BICUBIC
    )


def save(picture, path, kind=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, kind, **options)


def test_every_kind_of_picture_is_a_row(metrics, tiny_pack, tmp_path, photo):
    group = tmp_path / "cand" / "g"
    save(photo, tmp_path / "ref" / "good.jpg", quality=95)
    save(photo, group / "good.jpg", quality=95)
    (group / "empty.jpg").write_bytes(b"")
    data = (group / "good.jpg").read_bytes()
    (group / "truncated.jpg").write_bytes(data[: len(data) // 2])
    save(photo, group / "full.png")
    data = (group / "full.png").read_bytes()
    (group / "truncated.png").write_bytes(data[: len(data) // 2])
    (group / "text.png").write_text("I am no picture")
    save(photo, group / "png_named.jpg", "PNG")
    cv2.imwrite(str(group / "sixteen_bit.png"), (np.asarray(photo)[:, :, ::-1].astype(np.uint16)) * 257)
    save(photo.convert("L"), group / "grey.png")
    save(photo.convert("RGBA"), group / "alpha.png")
    save(photo.convert("CMYK"), group / "cmyk.jpg", "JPEG")
    save(photo, group / "animated.webp", save_all=True, append_images=[photo.rotate(90)])
    save(photo.resize((1, 1)), group / "dot.png")
    save(photo.resize((3000, 1)), group / "line.png")
    save(Image.new("1", (30000, 30000)), group / "huge.png")
    (group / "folder.jpg").mkdir()
    (group / "dead_link.jpg").symlink_to(group / "nowhere.jpg")
    os.mkfifo(group / "pipe.jpg")
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    table = run.table[run.table.Type == "Candidate"].set_index("Filename")
    assert sorted(table.index) == sorted(path.name for path in group.iterdir())
    expected = {
        "good.jpg": "ok",
        "full.png": "ok",
        "png_named.jpg": "ok",
        "sixteen_bit.png": "ok",
        "grey.png": "ok",
        "alpha.png": "ok",
        "cmyk.jpg": "ok",
        "animated.webp": "ok",
        "dot.png": "ok",
        "line.png": "no_face",
        "empty.jpg": "unreadable",
        "truncated.jpg": "unreadable",
        "truncated.png": "unreadable",
        "text.png": "unreadable",
        "folder.jpg": "unreadable",
        "dead_link.jpg": "unreadable",
        "pipe.jpg": "unreadable",
        "huge.png": "too_large",
    }
    assert table.Status.to_dict() == expected
    reasons = {
        "empty.jpg": "0 bytes",
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "text.png": "not a picture",
        "folder.jpg": "folder",
        "dead_link.jpg": "vanished",
        "pipe.jpg": "special file",
        "huge.png": "900 megapixels",
    }
    for name, word in reasons.items():
        assert word in table.Reason[name], name
    # the same picture in other clothes must score like itself: 16 bit, alpha and a wrong suffix change nothing
    for name in ("full.png", "png_named.jpg", "sixteen_bit.png", "alpha.png"):
        assert table.Similarity[name] == pytest.approx(table.Similarity["full.png"], abs=2e-3), name


def test_exif_rotation_is_applied(metrics, tiny_pack, tmp_path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    save(photo, tmp_path / "ref" / "upright.png")
    for suffix in ("jpg", "png", "webp"):
        save(photo.rotate(90, expand=True), tmp_path / "cand" / "g" / f"turned.{suffix}", exif=exif, quality=98)
        save(photo.rotate(90, expand=True), tmp_path / "cand" / "g" / f"lying.{suffix}", quality=98)
    run = metrics("--pack", tiny_pack)
    for suffix in ("jpg", "png", "webp"):
        assert run.row(f"turned.{suffix}").NearestSimilarity > 0.98
        assert run.row(f"lying.{suffix}").NearestSimilarity < run.row(f"turned.{suffix}").NearestSimilarity


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permission bits")
def test_no_permission_is_a_reason_in_words(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    secret.chmod(0)
    program = (
        "import os; from pathlib import Path; from utils.images import ImageError, read_file\n"
        "os.geteuid() or os.setuid(65534)  # root may read everything\n"
        f"try: read_file(Path({str(secret)!r}))\n"
        "except ImageError as error: print(error.status, error.reason)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "unreadable no permission to read it", done.stderr


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"<script>',
    "=cmd()",
    "Reference",
    "brackets [x] {y}",
    "Ünïcödé ß 😀",
    "10",
    "+1",
    "-1",
    "@x",
    "a",
    "A",
    "[red]rich",
    "100%",
    "it's",
]


def test_hostile_names_are_kept_and_defused(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "=1+1.JPG", 1)
    make_picture(tmp_path / "ref" / "[b] ü 😀 <i>.PnG", 2)
    for seed, name in enumerate(HOSTILE):
        make_picture(tmp_path / "cand" / name / f"{name}.jpg", 3 + seed)
    broken = os.fsencode(tmp_path / "cand" / "a") + b"/bytes\xff.jpg"
    with open(broken, "wb") as file:
        file.write((tmp_path / "cand" / "a" / "a.jpg").read_bytes())
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    table = run.table
    candidates = table[table.Type == "Candidate"]
    plain = candidates.Group.str.removeprefix("'")
    assert set(plain) == set(HOSTILE)
    assert len(candidates) == len(HOSTILE) + 1
    assert "bytes\\xff.jpg" in set(candidates.Filename)
    for column in ("Type", "Group", "Filename", "Reason", "NearestReference"):
        assert not table[column].dropna().astype(str).str.startswith(("=", "+", "-", "@", "\t", "\r")).any(), column
    names = [group["name"] for group in run.summary["groups"]]
    assert sorted(names) == sorted([*HOSTILE, "Reference"])
    assert [group["type"] for group in run.summary["groups"]].count("Reference") == 1
    assert "[red]rich" in run.stdout, "names are no markup"
    assert "Traceback" not in run.stderr


def test_suffixes_case_order_and_recursion(metrics, tiny_pack, tmp_path, make_picture):
    for seed, name in enumerate(["10.jpg", "9.JPG", "b.JpEg", "a.webp", "c.BMP"]):
        make_picture(tmp_path / "ref" / name, seed)
    (tmp_path / "ref" / "notes.txt").write_text("x")
    (tmp_path / "ref" / "._9.jpg").write_bytes(b"x")
    make_picture(tmp_path / "ref" / "sub" / "deep.jpg", 7)
    make_picture(tmp_path / "cand" / "loose.jpg", 8)
    (tmp_path / "cand" / "empty").mkdir()
    run = metrics("--pack", tiny_pack)
    references = run.table[run.table.Type == "Reference"]
    assert list(references.Filename) == ["9.JPG", "10.jpg", "a.webp", "b.JpEg", "c.BMP"]
    assert run.row("loose.jpg").Group == "(no folder)"
    assert "--recursive" in run.stderr and "sub-folder" in run.stderr
    assert "empty holds no pictures" in run.stderr
    assert run.summary["ignored_files"] == {".txt": 1, "hidden": 1}
    assert ".txt" in run.stderr
    assert [g["images"] for g in run.summary["groups"] if g["name"] == "empty"] == [0]
    deep = metrics("--pack", tiny_pack, "--recursive", output="deep")
    assert deep.row("sub/deep.jpg").Status == "ok"


def test_empty_folders_get_a_friendly_sentence(metrics, tmp_path, make_picture):
    run = metrics()
    assert run.code == 2
    assert "Put real photos" in run.stderr and str(tmp_path / "ref") in run.stderr
    make_picture(tmp_path / "cand" / "g" / "a.jpg")
    run = metrics()
    assert run.code == 2
    assert "no real photos to compare them with" in run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_folders(metrics, tmp_path, make_picture):
    picture = make_picture(tmp_path / "ref" / "a.jpg")
    for arguments, words in (
        ({"reference": tmp_path / "nowhere"}, "does not exist"),
        ({"reference": picture}, "is a file, not a folder"),
        ({"candidates": picture}, "is a file, not a folder"),
    ):
        run = metrics(**arguments)
        assert run.code == 2 and words in run.stderr, run.stderr
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    run = metrics("--output", blocked)
    assert run.code == 2 and "Results cannot be written" in run.stderr
    assert run_script("mirror_metrics.py", "--det-size", "100").returncode == 2


def test_no_face_in_any_reference(metrics, mini_pack, tmp_path, photos):
    (tmp_path / "ref").mkdir()
    shutil.copy(photos / "view.jpg", tmp_path / "ref")
    (tmp_path / "ref" / "broken.jpg").write_bytes(b"broken")
    run = metrics("--pack", mini_pack)
    assert run.code == 2
    assert "view.jpg: no_face" in run.stderr and "broken.jpg: unreadable" in run.stderr
    assert not list((tmp_path / "out").glob("*_*"))


def test_a_picture_that_vanishes_during_the_run(tmp_path, tiny_pack, make_picture):
    from utils.cache import open_cache
    from utils.contracts import Status
    from utils.measurer import Measurer, Picture
    from utils.packs import find_pack

    paths = [make_picture(tmp_path / f"{seed}.jpg", seed) for seed in range(6)]
    pictures = [Picture("Reference", "Reference", path.name, path) for path in paths]
    paths[4].unlink()  # listed, then gone
    Measurer(find_pack(str(tiny_pack)), open_cache(None)).measure(pictures)
    assert [picture.status for picture in pictures] == [Status.OK] * 4 + [Status.UNREADABLE, Status.OK]
    assert "vanished" in pictures[4].reason


def test_full_disk_while_writing_leaves_no_result(tmp_path, tiny_pack, make_picture):
    """A real full disk: a small tmpfs where root may mount one, else a limit on the size of files."""
    make_picture(tmp_path / "ref" / "a.jpg")
    out = tmp_path / "out"
    out.mkdir()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); "
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", out], capture_output=True).returncode
    )
    try:
        arguments = ["mirror_metrics.py", "--reference", tmp_path / "ref", "--candidates", tmp_path / "ref"]
        arguments += ["--output", out, "--pack", tiny_pack, "--no-cache"]
        program = ("" if mounted else limit) + "import sys, runpy; sys.argv = sys.argv[1:]; sys.path.insert(0, '.'); "
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
        )
        left = list(out.iterdir())
    finally:
        if mounted:
            subprocess.run(["umount", out], check=True)
    assert left == [], "half a set of results was left behind"
    assert done.returncode == 2, done.stderr
    assert ("disk is full" if mounted else os.strerror(errno.EFBIG)) in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_was_measured(tmp_path, make_picture, tiny_pack):
    for seed in range(400):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed, size=(1600, 1200))
    arguments = ["--reference", tmp_path / "ref", "--candidates", tmp_path, "--output", tmp_path / "out",
                 "--cache", tmp_path / "cache.sqlite", "--pack", tiny_pack]  # fmt: skip
    command = [sys.executable, ROOT / "mirror_metrics.py", *arguments]
    flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {}
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **flags
    )
    while "Networks:" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(2.5)
    assert process.poll() is None, "finished before it could be interrupted: the test needs more pictures"
    process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGINT)
    _stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*_*"))
    import sqlite3

    (kept,) = sqlite3.connect(tmp_path / "cache.sqlite").execute("SELECT COUNT(*) FROM faces").fetchone()
    assert 0 < kept < 400


def test_a_network_that_fails_on_one_picture_does_not_stop_the_others(tmp_path, tiny_pack, make_picture, monkeypatch):
    from utils.cache import open_cache
    from utils.contracts import Status
    from utils.faces import FaceEngine
    from utils.measurer import Measurer, Picture
    from utils.packs import find_pack

    paths = [make_picture(tmp_path / f"{seed}.png", seed, size=(100 + seed, 100)) for seed in range(4)]
    pictures = [Picture("Reference", "Reference", path.name, path) for path in paths]
    measure = FaceEngine.measure

    def choke(engine, image):
        if image.shape[1] == 102:
            raise RuntimeError("out of memory")
        return measure(engine, image)

    monkeypatch.setattr(FaceEngine, "measure", choke)
    Measurer(find_pack(str(tiny_pack)), open_cache(None)).measure(pictures)
    assert [picture.status for picture in pictures] == [Status.OK, Status.OK, Status.ERROR, Status.OK]
    assert "out of memory" in pictures[2].reason
