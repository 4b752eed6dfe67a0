"""Bad pictures, hostile names and faults: none stops the others, and every file is a row."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

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
    if os.name != "nt":
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
    assert table.Status.to_dict() == {name: status for name, status in expected.items() if name in table.index}
    reasons = {
        "empty.jpg": "0 bytes",
        "truncated.jpg": "ends after",
        "truncated.png": "truncated",
        "text.png": "not a picture",
        "folder.jpg": "folder",
        "dead_link.jpg": "vanished",
        "pipe.jpg": "special file",
        "huge.png": "900 megapixels",
    }
    for name, word in reasons.items():
        assert name not in table.index or word in table.Reason[name].lower(), name
    # the same picture in other clothes must score like itself: 16 bit, alpha and a wrong suffix change nothing
    for name in ("png_named.jpg", "sixteen_bit.png", "alpha.png", "animated.webp", "cmyk.jpg"):
        near = 2e-3 if name.endswith("png") or name == "png_named.jpg" else 0.05  # the others are coded with loss
        assert table.Similarity[name] == pytest.approx(table.Similarity["full.png"], abs=near), name
    assert "libpng" not in run.stderr and "loadsave" not in run.stderr, "libraries must not write past us"


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
        "import os\nfrom pathlib import Path\n"
        "from utils.decoding import ImageError\nfrom utils.images import read_file\n"
        "os.geteuid() or os.setuid(65534)  # root may read everything\n"
        f"try: read_file(Path({str(secret)!r}))\n"
        "except ImageError as error: print(error.status, error.reason)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "unreadable no permission to read it", done.stderr


def test_a_folder_without_permission_does_not_stop_the_others(tmp_path, make_picture):
    if os.name == "nt":
        pytest.skip("Windows has no such permission bits")
    for name in ("ref", "cand/open", "cand/open/closed_sub", "cand/closed"):
        make_picture(tmp_path / name / "a.jpg")
    for closed in ("cand/open/closed_sub", "cand/closed"):
        (tmp_path / closed).chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    program = (
        "import os, mirror_metrics, utils.images, mirror.faces.measurer, mirror.faces.table, utils.files\n"
        "import mirror.faces.inputs as inputs_module\n"
        "os.geteuid() or os.setuid(65534)  # root may enter everything\n"
        f"arguments = ['--reference', {str(tmp_path / 'ref')!r}, '--candidates', {str(tmp_path / 'cand')!r}]\n"
        "for more in ([], ['--recursive']):\n"
        "    inputs = inputs_module.collect(mirror_metrics.folders_of(mirror_metrics.parse_args(arguments + more)))\n"
        "    print([p.filename for p in inputs.candidates], inputs.groups[1:])\n"
        "    print(*inputs.warnings, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    for closed in ("cand/open/closed_sub", "cand/closed"):
        (tmp_path / closed).chmod(0o755)
    assert done.stdout.count("['a.jpg'] [('Candidate', 'closed'), ('Candidate', 'open')]") == 2, done.stderr
    assert f"{tmp_path / 'cand' / 'closed'} cannot be opened" in done.stdout
    assert "closed_sub cannot be opened" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="making links needs special rights on Windows")
def test_links_that_lead_back_or_away(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    group = make_picture(tmp_path / "cand" / "g" / "b.jpg", 1).parent
    (group / "itself").symlink_to(group / "itself")
    (group / "parent").symlink_to(tmp_path / "cand")
    (group / "everything").symlink_to("/")
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    assert list(run.table[run.table.Type == "Candidate"].Filename) == ["b.jpg"]
    (group / "everything").unlink()
    run = metrics("--pack", tiny_pack, "--recursive", output="deep")
    assert list(run.table[run.table.Type == "Candidate"].Filename) == ["b.jpg"]


def test_names_that_read_the_same_do_not_swallow_each_other(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    make_picture(tmp_path / "cand" / "loose.jpg", 1)
    make_picture(tmp_path / "cand" / "(no folder)" / "inside.jpg", 2)
    if os.name != "nt":
        shutil.copytree(tmp_path / "cand" / "(no folder)", tmp_path / "cand" / "x\\xff")
        os.makedirs(os.fsencode(tmp_path / "cand") + b"/x\xff")
        shutil.copy(os.fsencode(tmp_path / "cand" / "loose.jpg"), os.fsencode(tmp_path / "cand") + b"/x\xff/l.jpg")
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    groups = run.table[run.table.Type == "Candidate"].groupby("Filename").Group.unique().to_dict()
    assert list(groups["loose.jpg"]) == ["(no folder)"]
    assert "(no folder) (2)" in groups["inside.jpg"]
    if os.name != "nt":
        assert len(run.table) == 5
        assert {"x\\xff", "x\\xff (2)"} <= set(run.table.Group)


def test_pictures_that_are_references_themselves_are_named(metrics, tiny_pack, tmp_path, make_picture):
    for seed in range(3):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed)
    run = metrics("--pack", tiny_pack, candidates=tmp_path)
    assert run.code == 0
    assert "ref: 3 picture(s) are copies of references" in run.stderr
    assert any("copies of references" in warning for warning in run.summary["warnings"])


def test_a_limit_on_megapixels_holds_for_known_pictures_too(metrics, tiny_pack, tmp_path, make_picture):
    small = make_picture(tmp_path / "ref" / "small.jpg", size=(100, 100))
    large = make_picture(tmp_path / "ref" / "large.jpg", 1, size=(1000, 800))
    for path in (small, large):
        os.utime(path, (1e9, 1e9))  # old enough for its time stamp to be trusted
    assert set(metrics("--pack", tiny_pack).table.Status) == {"ok"}
    run = metrics("--pack", tiny_pack, "--max-megapixels", "0.5", output="limited")
    assert "Networks:" not in run.stderr
    assert run.row("large.jpg").Status == "too_large"
    assert "1000 x 800 pixels are 0.8 megapixels; the limit is 0.5" in run.row("large.jpg").Reason
    assert run.row("small.jpg").Status == "ok"
    for wrong in ("0", "-5", "nan", "inf", "many"):
        assert run_script("mirror_metrics.py", "--max-megapixels", wrong).returncode == 2


def test_settings_may_be_written_as_strings(tmp_path, tiny_pack, make_picture):
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "mirror_metrics.py").read_text(encoding="utf-8")
    text = text.replace('PATH_REFERENCE = PROJECT / "Reference_Images"', f"PATH_REFERENCE = {str(tmp_path / 'r')!r}")
    text = text.replace('= PROJECT / "Lora_Candidates"', f"= {str(tmp_path / 'c')!r}")
    text = text.replace("EXTENSIONS = IMAGE_EXTENSIONS", 'EXTENSIONS = ["JPG"]')
    (tmp_path / "mirror_metrics.py").write_text(text, encoding="utf-8")
    make_picture(tmp_path / "r" / "a.jpg")
    make_picture(tmp_path / "r" / "a.png")
    make_picture(tmp_path / "c" / "g" / "b.jpg", 1)
    done = subprocess.run(
        [sys.executable, "mirror_metrics.py", "--pack", str(tiny_pack), "--output", "out"],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "out").glob("Summary_*.json")
    assert [group["images"] for group in json.loads(summary.read_text(encoding="utf-8"))["groups"]] == [1, 1]


def test_a_missing_package_is_a_sentence(tmp_path):
    """-S hides site-packages: a Python in which nothing was installed."""
    (tmp_path / "ref").mkdir()
    command = [sys.executable, "-S", str(ROOT / "mirror_metrics.py"), "--reference", str(tmp_path / "ref")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "No module named" in done.stderr and "pip install -r requirements/analysis.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_listening_is_no_error(tmp_path, tiny_pack, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    arguments = ["--reference", tmp_path / "ref", "--candidates", tmp_path / "ref", "--output", tmp_path / "out"]
    arguments += ["--cache", tmp_path / "c.sqlite", "--pack", tiny_pack, "--json"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "mirror_metrics.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.wait(60) == 0, process.stderr.read()
    assert "Traceback" not in process.stderr.read()


def names_for_this_system(names):
    """Windows forbids some characters in names, and takes `a` and `A` for one."""
    if os.name != "nt":
        return names
    return [name for name in names if not set(name) & set('<>:"|?*') and name != "A"]


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
    "semi;=cmd()",
]


def test_hostile_names_are_kept_and_defused(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "=1+1.JPG", 1)
    make_picture(tmp_path / "ref" / names_for_this_system(["[b] ü 😀 <i>.PnG", "[b] ü 😀.PnG"])[0], 2)
    names = names_for_this_system(HOSTILE)
    for seed, name in enumerate(names):
        make_picture(tmp_path / "cand" / name / f"{name}.jpg", 3 + seed)
    if os.name != "nt":
        broken = os.fsencode(tmp_path / "cand" / "a") + b"/bytes\xff.jpg"
        with open(broken, "wb") as file:
            file.write((tmp_path / "cand" / "a" / "a.jpg").read_bytes())
    run = metrics("--pack", tiny_pack)
    assert run.code == 0, run.stderr
    table = run.table
    candidates = table[table.Type == "Candidate"]
    plain = candidates.Group.str.removeprefix("'").str.replace(";'=", ";=")
    assert set(plain) == set(names)
    assert "bytes\\xff.jpg" in set(candidates.Filename) or os.name == "nt"
    for column in ("Type", "Group", "Filename", "Reason", "NearestReference"):
        assert not table[column].dropna().astype(str).str.startswith(("=", "+", "-", "@", "\t", "\r")).any(), column
    assert sorted(group["name"] for group in run.summary["groups"]) == sorted([*names, "Reference"])
    assert [group["type"] for group in run.summary["groups"]].count("Reference") == 1
    assert "Reference (LoRA)" in run.stdout
    assert not table.Group.str.contains(";=").any(), "where lists are parted by semicolons, a cell begins there"
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
    from mirror.faces.cache import open_cache
    from mirror.faces.measurer import Measurer, Picture
    from mirror.faces.packs import find_pack
    from utils.files import Status

    paths = [make_picture(tmp_path / f"{seed}.jpg", seed) for seed in range(6)]
    pictures = [Picture("Reference", "Reference", path.name, path) for path in paths]
    paths[4].unlink()  # listed, then gone
    Measurer(find_pack(str(tiny_pack)), open_cache(None)).measure(pictures)
    assert [picture.status for picture in pictures] == [Status.OK] * 4 + [Status.UNREADABLE, Status.OK]
    assert "vanished" in pictures[4].reason


@pytest.mark.skipif(os.name == "nt", reason="needs tmpfs or setrlimit")
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
    assert "Results cannot be written" in done.stderr
    assert "disk is full" in done.stderr or not mounted
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="on Windows Ctrl-C goes to the whole console, the tests among it")
def test_ctrl_c_keeps_what_was_measured(tmp_path, make_picture, tiny_pack):
    for seed in range(400):
        make_picture(tmp_path / "ref" / f"{seed}.jpg", seed, size=(1600, 1200))
    arguments = ["--reference", tmp_path / "ref", "--candidates", tmp_path, "--output", tmp_path / "out",
                 "--cache", tmp_path / "cache.sqlite", "--pack", tiny_pack]  # fmt: skip
    command = [sys.executable, ROOT / "mirror_metrics.py", *arguments]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while "Networks:" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(2.5)
    assert process.poll() is None, "finished before it could be interrupted: the test needs more pictures"
    process.send_signal(signal.SIGINT)
    _stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr and "measured so far is kept" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*_*"))
    import sqlite3

    (kept,) = sqlite3.connect(tmp_path / "cache.sqlite").execute("SELECT COUNT(*) FROM faces").fetchone()
    assert 0 < kept < 400


def test_a_network_that_fails_on_one_picture_does_not_stop_the_others(tmp_path, tiny_pack, make_picture, monkeypatch):
    from mirror.faces.cache import open_cache
    from mirror.faces.engine import FaceEngine
    from mirror.faces.measurer import Measurer, Picture
    from mirror.faces.packs import find_pack
    from utils.files import Status

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


def test_ctrl_c_while_writing_leaves_no_half_set(tmp_path, monkeypatch, metrics, tiny_pack, make_picture):
    from mirror.contracts.contract import read_contract
    from mirror.contracts.summary import Summary
    from mirror.faces.table import make_table
    from mirror.report import results
    from mirror.report.files import PageFiles

    make_picture(tmp_path / "ref" / "a.jpg")
    summary = read_contract(metrics("--pack", tiny_pack).file("Summary"), Summary, "mirror_metrics.py")
    (tmp_path / "half").mkdir()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_contract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.write_results(tmp_path / "half", make_table([]), PageFiles([]), None, "none", summary)
    assert list((tmp_path / "half").iterdir()) == []


def test_runs_in_the_same_second_do_not_share_files(tmp_path, metrics, tiny_pack, make_picture):
    from mirror.contracts.contract import read_contract
    from mirror.contracts.summary import Summary
    from mirror.faces.table import make_table
    from mirror.report import results
    from mirror.report.files import PageFiles

    make_picture(tmp_path / "ref" / "a.jpg")
    summary = read_contract(metrics("--pack", tiny_pack).file("Summary"), Summary, "mirror_metrics.py")
    (tmp_path / "both").mkdir()
    with ThreadPoolExecutor(4) as pool:
        for done in [
            pool.submit(
                results.write_results,
                *(tmp_path / "both", make_table([]), PageFiles([]), None, "none", summary.model_copy(deep=True)),
            )
            for _ in range(4)
        ]:
            done.result()
    assert len(list((tmp_path / "both").iterdir())) == 16
