"""The README tells the truth: its commands run, its options and files exist."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, run_script

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands():
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        yield from block.strip().splitlines()


# tests/test_demo.py runs --demo
MAIN_COMMANDS = [line for line in commands() if line.startswith("python mirror_metrics.py") and "--demo" not in line]


@pytest.mark.parametrize("line", MAIN_COMMANDS)
def test_commands_run(line, tmp_path, make_picture, tiny_pack):
    """Each line as written, in a folder with pictures and with the stand-in under the pack's name."""
    import shutil

    for name in ("utils", "report"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mirror_metrics.py", tmp_path)
    pack = re.search(r"--pack (\S+)", line)
    name = pack[1] if pack else "buffalo_l"
    shutil.copytree(tiny_pack, tmp_path / "models" / name)
    if name == "buffalo_s":
        (tmp_path / "models" / name / "det_10g.onnx").rename(tmp_path / "models" / name / "det_500m.onnx")
        (tmp_path / "models" / name / "w600k_r50.onnx").rename(tmp_path / "models" / name / "w600k_mbf.onnx")
    world = ("my_world/Reference_Images", "my_world/Lora_Candidates/a")
    for folder in ("Reference_Images", "photos", "Lora_Candidates/a", "loras/a", *world):
        make_picture(tmp_path / folder / "1.jpg", len(folder))
    arguments = shlex.split(line)[1:]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120
    )
    if "--require-gpu" in line and done.returncode == 2:
        assert "not on CUDA" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    if "--json" in line:
        assert done.stdout.startswith("{")
    output = re.search(r"--output (\S+)", line)
    output = tmp_path / output[1] if output else tmp_path
    assert len(list(output.glob("Dashboard_*.html"))) == 1


def test_options_named_are_options_that_exist():
    modules = ("mirror_metrics", "demo.make_world", "demo.train_face", "demo.train_yolo")
    modules += tuple(f"benchmarks.{name}" for name in ("mirror_metrics_bench", "truth_bench", "demo_models_bench"))
    known = "".join(
        subprocess.run(
            [sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in modules
    )
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", README))
    assert named
    assert {option for option in named if option not in known} == set()


def test_files_named_are_files_that_exist():
    for name in re.findall(r"`(requirements[\w./-]*|\w+\.py|LICENSE\.txt|run\.\w+)`", README):
        assert (ROOT / name).exists(), name


def test_nothing_is_left_to_fill_in_and_pictures_are_there():
    assert not re.findall(r"@[A-Z_]+@|TODO", README)
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_settings_named_stand_at_the_top_of_the_script():
    top = (ROOT / "mirror_metrics.py").read_text(encoding="utf-8")[:4000]
    for setting in ("PATH_REFERENCE", "PATH_CANDIDATES_ROOT", "EXTENSIONS"):
        assert setting in README
        assert re.search(rf"^{setting} = ", top, re.MULTILINE)


def test_help_shows_every_default():
    shown = run_script("mirror_metrics.py", "--help").stdout
    for default in ("buffalo_l", "640", "100.0", "auto", "Reference_Images", "Lora_Candidates"):
        assert default in shown
