"""The documents tell the truth: their commands run, their options, files and links exist."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, run_script
from documents import PAGES, TEXT, TEXTS, commands, page

# tests/demo/test_demo.py runs --demo
MAIN_COMMANDS = [line for line in commands("python mirror_metrics.py") if "--demo" not in line]


@pytest.mark.parametrize("line", MAIN_COMMANDS)
def test_commands_run(line, tmp_path, make_picture, tiny_pack):
    """Each line as written, in a folder with pictures and with the stand-in under the pack's name."""
    import shutil

    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mirror_metrics.py", tmp_path)
    pack = re.search(r"--pack (\S+)", line)
    name = pack[1] if pack else "buffalo_l"
    shutil.copytree(tiny_pack, tmp_path / "models" / name)
    if name == "buffalo_s":
        (tmp_path / "models" / name / "det_10g.onnx").rename(tmp_path / "models" / name / "det_500m.onnx")
        (tmp_path / "models" / name / "w600k_r50.onnx").rename(tmp_path / "models" / name / "w600k_mbf.onnx")
    world = ("my_world/Reference_Images", "my_world/Lora_Candidates/a")
    loop = ("dataset", "held_out", "baseline", "samples/v1")
    for folder in ("Reference_Images", "photos", "Lora_Candidates/a", "loras/a", *world, *loop):
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


def test_gap_commands_run(tmp_path, make_picture, tiny_pack):
    """Each line as written, where the README says that dataset, pack and goals lie."""
    import shutil

    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gap_analysis.py", tmp_path)
    shutil.copytree(tiny_pack, tmp_path / "models" / "buffalo_l")
    make_picture(tmp_path / "dataset" / "1.jpg")
    (goals,) = re.findall(r"```json\n(.*?)```", page("gap-analysis"), re.DOTALL)
    (tmp_path / "my_goals.json").write_text(goals)
    lines = commands("python gap_analysis.py")
    for line in lines:
        command = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
        if "--goals" in line:
            assert "Images without hands" not in done.stdout and "Shot size: full" in done.stdout
    assert len(lines) == 4
    for name in ("gaps", "gaps_iter1"):
        assert (tmp_path / f"{name}.json").is_file() and (tmp_path / f"{name}.html").is_file()


def test_vault_commands_run(tmp_path):
    """Each line as written, one after the other, on a rendered album; the demo pack stands in for the default one."""
    import shutil

    from demo.album import make_album, write_album
    from mirror.faces.packs import KNOWN_PACKS

    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "facevault.py", tmp_path)
    shutil.copytree(ROOT / "models" / "demo" / "face", tmp_path / "models" / "buffalo_l")
    ours = sorted(path for path in (tmp_path / "models" / "buffalo_l").glob("*.onnx"))
    order = {"det": "det_10g.onnx", "rec": "w600k_r50.onnx", "lmk": "1k3d68.onnx", "age": "genderage.onnx"}
    assert set(order.values()) == set(KNOWN_PACKS["buffalo_l"])
    for path in ours:
        path.rename(path.with_name(order[path.name[:3]]))
    write_album(tmp_path / "photos", make_album(1, 2, (6, 8)), 224, workers=1)
    lines = commands("python facevault.py")
    for line in lines:
        command = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, (line, done.stderr)
    assert len(lines) == 8
    assert list((tmp_path / "outputs" / "facevault" / "organized" / "alice").glob("*.txt"))
    assert (tmp_path / "outputs" / "facevault" / "faces.html").is_file()


def test_goals_told_are_those_of_the_registry():
    from mirror.dataset.gaps import GAP_TYPES

    told = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d+) \| (\d+) \|$", page("gap-analysis"), re.MULTILINE)
    known = [
        (gap.name, target.name, f"{target.goal_percent:g}", f"{target.trigger_percent:g}")
        for gap in GAP_TYPES.values()
        for target in gap.targets
        if target.goal_percent is not None
    ]
    assert told == known


def test_bins_told_are_those_of_the_measuring():
    from mirror.faces.pose import BIN_LIMITS_DEG

    told = re.search(r"Bins by absolute yaw: (.*?)\.", " ".join(page("method").split()))[1]
    names = [name.replace("_", "-") for name in BIN_LIMITS_DEG]
    (_, first_end), *between, (last_begin, _) = BIN_LIMITS_DEG.values()
    ranges = [f"below {first_end:g}", *(f"{low:g} to {high:g}" for low, high in between), f"from {last_begin:g}"]
    assert told == ", ".join(f"{name} {limits}" for name, limits in zip(names, ranges, strict=True))


def test_stop_rules_told_are_those_that_are_asked():
    from mirror.loop.stopping import LIFTED_BY_PHOTOS, RULES

    text = page("bootstrap-loop")
    told = re.findall(r"^\| `(\w+)` \| ", text[text.index("| rule | it stops when") :].split("\n\n")[0], re.MULTILINE)
    lifted = re.search(r"because of the old photos\s+\((.*?)\)", text, re.DOTALL)[1]
    assert tuple(told) == RULES and tuple(re.findall(r"`(\w+)`", lifted)) == LIFTED_BY_PHOTOS


def test_checks_told_are_those_that_are_judged():
    from mirror.dataset.checks import CHECK_NAMES

    text = page("validation")
    table = text[text.index("| check | an image passes where") :].split("\n\n")[0]
    assert re.findall(r"^\| ([^|-]+) \|", table, re.MULTILINE)[1:] == list(CHECK_NAMES.values())


def test_columns_told_are_those_of_the_table():
    from mirror.contracts.table import COLUMNS

    assert re.findall(r"^\| `(\w+)` \| .+ \|$", page("running"), re.MULTILINE) == list(COLUMNS)


def test_verdicts_told_are_those_that_are_judged():
    from mirror.faces.verdicts import GOOD, LIMITS, RULES, TOO_FEW

    text = page("how-to-read-the-verdicts")
    told = re.findall(r"^\| \*(.+?)\* \|", text, re.MULTILINE)
    assert told == [*RULES, GOOD, TOO_FEW]
    assert f"fewer than {LIMITS.fewest_faces} clear faces" in " ".join(text.split())
    assert f"fewer than {LIMITS.fewest_references} references" in " ".join(text.split())


def test_faults_of_references_told_are_those_that_are_looked_for():
    from mirror.dataset.soundness import FAULTS, LIMITS
    from mirror.faces.group import OUTLIER_MADS

    text = page("gap-analysis")
    table = text[text.index("| fault | a photo has it where") :].split("\n\n")[0]
    assert re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:] == list(FAULTS)
    for told in (OUTLIER_MADS, LIMITS.darkest_face, LIMITS.brightest_face, LIMITS.smallest_face):
        assert f" {told:g}" in table


def test_image_formats_told_are_those_that_are_read():
    from utils.defaults import IMAGE_EXTENSIONS

    told = re.search(r"^(`jpg`.*?), upper", page("running"), re.MULTILINE | re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", told) == list(IMAGE_EXTENSIONS)


def test_bands_told_are_those_of_the_copycat_report():
    from mirror.faces.metrics import BANDS

    rows = re.findall(r"^\| ([^|]+) \| ([^|\n]*\d[^|\n]*) \| (.+) \|$", page("reading-the-dashboard"), re.MULTILINE)
    told = [(name, list(map(float, re.findall(r"[\d.]+", limits))), meaning) for name, limits, meaning in rows]
    known = BANDS.items()
    assert told == [(name, [one for one in band[:2] if one is not None], band.meaning) for name, band in known]


def test_trainers_told_are_those_that_can_be_chosen():
    from mirror.training.elsewhere import NOT_PASSED_ON
    from mirror.training.trainers import TRAINERS

    assert set(re.findall(r"--trainer ([\w-]+)", page("training"))) == set(TRAINERS)
    for name in NOT_PASSED_ON:
        assert f"`--{name.replace('_', '-')}`" in page("training"), name


@pytest.mark.parametrize("line", commands("python inspect_pkl.py"))
def test_inspecting_commands_run(line, tmp_path):
    import pickle
    import shutil

    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "inspect_pkl.py", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "hand_yolov8n.pt").write_bytes(pickle.dumps({"a": 1}, 2))
    command = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "hand_yolov8n.pt is safe" in done.stdout
    assert (tmp_path / "models" / "hand_yolov8n.safetensors").exists() == ("--convert" in line)


def test_loop_commands_run(tmp_path):
    """Each line as written, beside a configuration of the documented name whose steps are fakes."""
    from loop_fixture import make_loop

    config = make_loop(tmp_path / "here", max_iterations=2)
    config.rename(config.with_name("bootstrap_config.json"))
    lines = [line for line in commands("python bootstrap_loop.py") if "--demo" not in line]
    for line in lines:
        done = run_script(*shlex.split(line)[1:], cwd=config.parent, FAKE_PAUSE_S="0.002")
        assert done.returncode == 0, (line, done.stderr)
    assert len(lines) == 4 and "Taken out" in done.stdout


def test_keys_of_the_loops_configuration_are_those_told():
    from mirror.loop.config import LoopConfig

    text = page("bootstrap-loop")
    table = text[text.index("| key | default | what |") : text.index("Each section also takes")]
    told = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[2:] if line))
    assert sorted(told) == sorted(LoopConfig.model_fields)


def test_options_named_are_options_that_exist():
    modules = (
        "bootstrap_loop",
        "mirror_metrics",
        "gap_analysis",
        "generate_synthetic",
        "validate_synthetic",
        "inspect_pkl",
        "export_for_did",
        "export_facesheet",
    )
    vault = ("scan", "cluster", "dedup", "label", "caption", "prep", "export")
    modules += tuple(f"facevault {command}" for command in vault)
    modules += ("beaver", "train_lora", "export_expressions")
    modules += tuple(f"demo.{name}" for name in ("make_world", "train_face", "train_yolo", "train_expression"))
    benches = ("mirror_metrics_bench", "truth_bench", "demo_models_bench", "identity_by_yaw", "facesheet_bench")
    benches += (
        "generate_bench",
        "demo_diffusion_bench",
        "loop_bench",
        "train_bench",
        "did_bench",
        "expression_bench",
        "expressions_export_bench",
        "vault_bench",
    )
    modules += tuple(f"benchmarks.{name}" for name in benches)
    known = "".join(
        subprocess.run(
            [sys.executable, "-m", *name.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in modules
    )
    of_accelerate = {"--cpu", "--multi_gpu", "--num_processes", "--num_machines", "--machine_rank", "--main_process_ip"}
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z_-]+)", TEXT)) - of_accelerate
    assert named
    assert {option for option in named if option not in known} == set()


def test_files_named_are_files_that_exist():
    for name in re.findall(r"`(requirements[\w./-]*|[\w/]*\w+\.py|LICENSE\.txt|run\.\w+)`", TEXT):
        if name not in ("my_comfy.py", "my_trainer.py"):
            assert (ROOT / name).exists(), name


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=TEXTS)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", TEXTS[path.relative_to(ROOT).as_posix()], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in map(anchor, headings), target


def test_every_page_is_linked_and_says_when_one_needs_it():
    for name, text in TEXTS.items():
        if name.startswith("docs/"):
            assert f"]({name}" in TEXTS["README.md"], f"the README does not lead to {name}"
            assert re.match(r"# .+\n\nWhen you need this: .+\n\n", text), name


def test_the_front_page_is_short_and_begins_with_a_picture_and_the_commands():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 250
    first_screen = "\n".join(lines[:45])
    assert "](docs/pictures/dashboard.jpg)" in first_screen
    assert (
        "./run.sh\n" in first_screen and "./run.sh --demo" in first_screen and "Dashboard_<time>.html" in first_screen
    )
    assert "./run.sh test" in "\n".join(lines[:55])


def test_files_that_contributors_are_sent_to_hold_what_is_named():
    rows = re.findall(r"^\| (?!to change)([^|]+) \| (`.*?) \| (`.*?) \|$", TEXTS["CONTRIBUTING.md"], re.MULTILINE)
    assert len(rows) == 14
    for what, where, tests in rows:
        for file, names in re.findall(r"`([\w/]+\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?", where):
            source = (ROOT / file).read_text(encoding="utf-8")
            for name in re.findall(r"\w+", names):
                assert re.search(rf"^(?:def |class )?{name}\b|^\s*{name} = ", source, re.MULTILINE), (what, file, name)
        for file in re.findall(r"`([\w/]+\.py)`", tests):
            assert (ROOT / file).is_file(), (what, file)


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"@[A-Z_]+@", TEXT)


def test_settings_named_stand_at_the_top_of_the_script():
    top = (ROOT / "mirror_metrics.py").read_text(encoding="utf-8")[:4000]
    for setting in ("PATH_REFERENCE", "PATH_CANDIDATES_ROOT", "EXTENSIONS"):
        assert setting in TEXT
        assert re.search(rf"^{setting} = ", top, re.MULTILINE)


def test_help_shows_every_default():
    shown = run_script("mirror_metrics.py", "--help").stdout
    for default in ("buffalo_l", "640", "100.0", "auto", "Reference_Images", "Lora_Candidates"):
        assert default in shown
