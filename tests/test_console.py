"""The terminal: whole names in narrow tables, no words of libraries, nothing that a terminal would obey."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image
from rich.cells import cell_len

from utils.decoding import decode, decode_with_note
from utils.library_output import overheard
from utils.options import script_parser

COLUMNS = ["Group", "Images", "Faces", "Failed", "Median similarity", "95 % interval", "Q1", "Q3"]
NAMES = ["alice", "Reference", "lora-000004 (LoRA)", "Ana\u0308ïs-000012", "my_character_sdxl_rank32_adamw-000010"]
NAMES += ["👩‍🎨 ohwx 👍🏽-000004", "名前の長いロラの組-000008", "x" * 45 + "-000004", "x" * 45 + "-000008"]
NAMES += ["photos_of_a_person_with_a_rather_long_folder_name_of_2026_60c"]
HOSTILE = "a\x1b[31m\x07b\u202egpj\u2066\nc\x9b2J"
OBEYED = set("\x1b\x07\x9b\u202e\u2066\r")

TABLE = """
import json, sys
from utils.console import print_table
names, columns = json.loads(sys.argv[1])
rows = [[name, "12", "12", "0", "0.812", "0.790 - 0.830", "0.78", "0.84"] for name in names]
print_table("Similarity", columns, rows, fold=("Q3", "Q1", "Images", "95 % interval"), elsewhere="The CSV has them.")
"""


def test_help_shows_a_default_of_zero_but_not_of_nothing():
    parser = script_parser("script.py", "Does something.")
    for option, default in (("--seed", 0), ("--rate", 0.0), ("--name", None), ("--more", ())):
        parser.add_argument(option, default=default, help="what it is")
    parser.add_argument("--flag", action="store_true", help="what it is")
    text = " ".join(parser.format_help().split())
    for shown in ("--seed SEED what it is (default: 0)", "--rate RATE what it is (default: 0.0)"):
        assert shown in text
    assert text.count("(default:") == 2


def printed_table(width: int | None, names: list[str] = NAMES) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TABLE, json.dumps([names, COLUMNS])],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONUTF8": "1", "PATH": ""} | ({} if width is None else {"COLUMNS": str(width)}),
        check=True,
    )
    return done.stdout


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_breaks_no_word_and_every_name_is_told_apart(width):
    lines = printed_table(width).splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith("└"))
    assert all(cell_len(line) <= width for line in lines[: end + 1])
    shown = [cells_of(line)[0] for line in lines[:end] if line.startswith("│")]
    assert len(shown) == len(NAMES) == len(set(shown)), "a line a name, and no two alike"
    for name, cut in zip(NAMES, shown, strict=True):
        if cut != name:
            head, _, tail = cut.partition("…")
            assert cell_len(name) > 32 and name.startswith(head) and name.endswith(tail) and head and tail
    heading = " ".join(" ".join(cell) for cell in zip(*map(head_cells, lines), strict=False))
    for column in COLUMNS:
        words = column.split()
        left_out = f" {column}" in lines[end + 1].replace(":", "").replace(",", "") if end + 1 < len(lines) else False
        assert all(word in heading.split() for word in words) or left_out, column
    assert "Median" in heading, "what the table is about is never left out"


def head_cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("┃").split("┃")] if line.startswith("┃") else [""] * 9


def test_quartiles_go_first_and_the_table_says_so():
    wide, narrow = printed_table(120, NAMES[:3]), printed_table(80, NAMES[:3])
    assert "Q1" in wide.splitlines()[2] and "Left out" not in wide
    assert "Left out, as the terminal is narrow: Q3, Q1. The CSV has them." in narrow


def test_a_file_gets_the_whole_table():
    text = printed_table(None)
    assert all(name in text for name in NAMES) and "Left out" not in text


def test_demo_names_are_whole_at_80_columns(metrics, tmp_path, tiny_pack, make_picture):
    make_picture(tmp_path / "ref" / "1.jpg")
    make_picture(tmp_path / "cand" / "lora-000004" / "1.jpg", 2)
    run = metrics("--pack", tiny_pack, COLUMNS="80")
    assert run.code == 0, run.stderr
    assert "│ Reference " in run.stdout and "│ lora-000004 " in run.stdout


# Words of libraries


def jpeg(seed: int = 0, **more: object) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG", **more)
    return file.getvalue()


def damaged_jpeg(seed: int = 0) -> bytes:
    """libjpeg says "Corrupt JPEG data" and makes up what is missing."""
    data = bytearray(jpeg(seed))
    del data[-400:-340]
    return bytes(data)


def jpeg_with_bytes_too_many(seed: int = 0) -> bytes:
    """libjpeg says "Corrupt JPEG data", and every pixel is there."""
    data = jpeg(seed)
    return data[:-2] + bytes(100) + data[-2:]


def jpeg_with_broken_exif() -> bytes:
    """Decodes, and Pillow warns of what follows the header."""
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00\x1a\x01\x05\x00\x01\x00\x00\x00\xff\xff\x00\x00"
    return jpeg(exif=exif)


def test_damaged_pictures_are_told_in_their_rows_and_libraries_say_nothing(metrics, tmp_path, tiny_pack, make_picture):
    make_picture(tmp_path / "ref" / "healthy.jpg")
    for i in range(12):
        (tmp_path / "ref" / f"damaged{i}.jpg").write_bytes(damaged_jpeg(i))
        (tmp_path / "ref" / f"junk{i}.jpg").write_bytes(jpeg_with_bytes_too_many(i))
    (tmp_path / "ref" / "exif.jpg").write_bytes(jpeg_with_broken_exif())
    (tmp_path / "ref" / "cut.jpg").write_bytes(jpeg()[:3000])
    for _ in range(2):  # the second time from the cache
        run = metrics("--pack", tiny_pack)
        assert run.code == 0, run.stderr
        for words in ("Corrupt JPEG", "Premature end", "UserWarning", "warnings.warn"):
            assert words not in run.stderr and words not in run.stdout
        for i in range(12):
            row = run.row(f"damaged{i}.jpg")
            assert row["Status"] == "unreadable" and row["Reason"].startswith("is damaged: "), row["Reason"]
            row = run.row(f"junk{i}.jpg")
            assert row["Status"] == "ok" and "damaged, and part of the picture may be wrong" in row["Reason"]
        assert "header is damaged" in run.row("exif.jpg")["Reason"]
        assert run.row("cut.jpg")["Status"] == "unreadable" and "ends after 4" in run.row("cut.jpg")["Reason"]
        assert run.table["Reason"].notna().sum() == 26 and run.row("healthy.jpg")["Status"] == "ok"
        for file in run.output.iterdir():
            file.unlink()


def test_each_thread_hears_what_its_own_picture_caused():
    pictures = [jpeg_with_bytes_too_many(i) if i % 3 == 0 else jpeg(i) for i in range(60)]
    notes = [""] * len(pictures)

    def work(start: int) -> None:
        for i in range(start, len(pictures), 4):
            notes[i] = decode_with_note(pictures[i])[1]

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bool(note) for note in notes] == [i % 3 == 0 for i in range(60)]


def test_what_others_say_meanwhile_is_not_lost(capfd):
    """A script's own talk has a descriptor of its own while a library's words are led away."""
    program = (
        "import os, sys\n"
        "from utils.console import run_script, say\n"
        "from utils.library_output import overheard\n"
        "def work():\n"
        "    os.write(2, b'words of a library')\n"
        "    say('our talk')\n"
        "def run():\n"
        "    _, words = overheard(work)\n"
        "    assert words == 'words of a library', words\n"
        "    return 0\n"
        "sys.exit(run_script(run, True))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "words of a library" not in done.stderr and "our talk" in done.stderr
    assert overheard(lambda: 3) == (3, "")
    assert np.array_equal(decode(jpeg()), cv2.imdecode(np.frombuffer(jpeg(), np.uint8), cv2.IMREAD_COLOR))


# Names that a terminal would obey


def assert_harmless(done: subprocess.CompletedProcess) -> None:
    assert not OBEYED & set(done.stdout + done.stderr)
    assert not any(line.startswith("c\ufffd") for line in (done.stdout + done.stderr).splitlines()), (
        "a name's line break"
    )
    assert "Traceback" not in done.stderr


@pytest.fixture
def hostile(tmp_path, make_picture):
    """A folder whose name and files a terminal would obey."""
    if sys.platform == "win32":
        pytest.skip("Windows has no such names")
    folder = tmp_path / HOSTILE
    for i in range(2):
        make_picture(folder / f"{HOSTILE}{i}.png", i)
    (folder / f"{HOSTILE}.jpg").write_bytes(b"no picture")
    return folder


def test_mirror_metrics_prints_names_harmlessly(hostile, tmp_path, tiny_pack, make_picture):
    own = ("--pack", tiny_pack, "--no-cache", "--output", tmp_path / "out")
    candidates = ("--candidates", hostile.parent / "root")
    make_picture(hostile.parent / "root" / HOSTILE / "1.png")
    for more in ((), ("--json",)):
        done = run_script("mirror_metrics.py", "--reference", hostile, *candidates, *own, *more)
        assert done.returncode == 0, done.stderr
        assert_harmless(done)
    assert any(HOSTILE in group["name"] for group in json.loads(done.stdout)["groups"]), "JSON means the same"
    assert_harmless(run_script("mirror_metrics.py", "--reference", hostile / HOSTILE, *own))
    assert_harmless(run_script("mirror_metrics.py", "--map", HOSTILE))


def test_the_other_scripts_print_names_harmlessly(hostile, tmp_path, tiny_pack, make_picture):
    real = make_picture(tmp_path / "real" / f"{HOSTILE}.png").parent
    cache = ("--cache", tmp_path / "cache.sqlite")
    gaps = tmp_path / f"{HOSTILE}.json"
    done = run_script("gap_analysis.py", hostile, "--pack", tiny_pack, "--output", gaps, *cache)
    assert done.returncode == 0, done.stderr
    runs = [done, run_script("generate_synthetic.py", gaps, "--person", HOSTILE, "--dry-run")]
    runs.append(run_script("validate_synthetic.py", hostile, "--reference", real, "--pack", tiny_pack, *cache))
    assert runs[-1].returncode == 0, runs[-1].stderr
    model = ("--base-model", "nobody/nothing", "--trigger", "ohwx", "--output", tmp_path / HOSTILE / "out")
    runs.append(run_script("train_lora.py", hostile, *model, "--preset", "sdxl", "--dry-run", *cache))
    runs.append(run_script("bootstrap_loop.py", "--config", hostile / HOSTILE))
    (tmp_path / f"{HOSTILE}.pkl").write_bytes(b"\x80\x04N.")
    runs.append(run_script("inspect_pkl.py", tmp_path / f"{HOSTILE}.pkl", hostile))
    for run in runs:
        assert_harmless(run)
    for script in (
        "gap_analysis",
        "generate_synthetic",
        "validate_synthetic",
        "train_lora",
        "bootstrap_loop",
        "inspect_pkl",
        "export_facesheet",
    ):
        refused = run_script(f"{script}.py", f"--{HOSTILE}")
        assert refused.returncode == 2
        assert_harmless(refused)
