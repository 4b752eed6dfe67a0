"""What the user's documents say works as it stands there: commands, configuration, JSON, files, console, recipe.

The names lie in tests/fixtures/interfaces.py, so that they are tested without the documents; where the documents are
there, they and that copy must agree. Models are small stand-ins: the face pack and the pipelines of the tests.
"""

from __future__ import annotations

import importlib
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import interfaces
import lora_files
import numpy as np
import pytest
from conftest import ROOT, run_script
from loop_fakes import picture as fake_picture
from loop_fixture import COMMANDS as FAKE_STEPS
from loop_fixture import FAKES, PHOTOS, loop_command, write_templates

from mirror.contracts.gaps import Recommendation
from mirror.generation.prompts import own_tables, plan_gaps
from utils.console import UserError

DOCUMENTS = ROOT.parent / "shared" / "documents"
TEXTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.glob("*.md")))
needs_documents = pytest.mark.skipif(not TEXTS, reason=f"needs the user's documents in {DOCUMENTS}")

SMALL = ("--width", "64", "--height", "64")


def blocks(kind: str) -> list[str]:
    """The documents' blocks of one language."""
    return re.findall(rf"```{kind}\n(.*?)```", TEXTS, re.DOTALL)


def documented_commands() -> list[str]:
    """Every command that runs a script, on one line, with single spaces."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    lines = (re.sub(r"\s+", " ", line.partition(" #")[0]).strip() for line in text.splitlines())
    return [line for line in lines if line.startswith("python ") and line.split()[1] not in interfaces.TESTED_ELSEWHERE]


def documented_json() -> list[dict]:
    return [json.loads(block) for block in blocks("json")]


# The copy of the interfaces and the documents themselves


@needs_documents
def test_every_command_of_the_documents_is_tested_here():
    told = [re.sub(r" \.\.\.$", "", line) for line in dict.fromkeys(documented_commands())]
    known = [line.removesuffix(" ...") for line in interfaces.COMMANDS]
    assert sorted(told) == sorted(known)


@needs_documents
def test_the_jsons_of_the_documents_are_tested_here():
    gaps, configuration = documented_json()
    assert configuration == interfaces.CONFIGURATION

    def names(told: dict) -> list:
        return [{**one, "reason": ""} for one in told["recommendations"]]

    assert names(gaps) == names(interfaces.GAPS) and set(gaps) == set(interfaces.GAPS)


@needs_documents
def test_the_names_of_the_documents_are_tested_here():
    names = [*interfaces.METRICS_FILES, *interfaces.PANELS, *interfaces.COPYCAT, *interfaces.DETECTORS]
    names += [*interfaces.SETTINGS, *interfaces.SETTINGS.values(), interfaces.RESCUED, *interfaces.OWN_PROMPTS]
    names += [target for targets in interfaces.PROMPT_TARGETS.values() for target in targets]
    names += [part for limits in interfaces.RANGES.values() for part in limits]
    assert [name for name in names if name not in TEXTS] == []
    tree = TEXTS[TEXTS.index("├── iteration_history.json") :]
    in_folders = [name.rpartition("/")[2] or name for name in interfaces.LOOP_FILES]
    assert [name for name in in_folders if name not in tree] == []
    console = [line.partition("←")[0].rstrip() for line in TEXTS.splitlines() if re.match(r"  ✓ |Iteration \d+:", line)]
    assert console
    patterns = [pattern.replace(" into dataset", "(?: into dataset)?") for pattern in interfaces.LOOP_LINES]
    for line in console:
        line = re.sub(r"[^\x00-\x7f✓─].*$", "", line).rstrip()  # what the guide remarks behind a line
        assert any(re.fullmatch(pattern, line) for pattern in patterns), line
    assert all(re.search(rf"^{line}", TEXTS, re.MULTILINE) for line in interfaces.VALIDATION_LINES)


# The commands, in a copy of the project with small models under the documented names


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_pack) -> Path:
    """Scripts, photos, models and LoRAs where the documents say that they lie."""
    folder = tmp_path_factory.mktemp("documents") / "MirrorMetrics"
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for line in interfaces.COMMANDS:
        shutil.copy(ROOT / line.split()[1], folder)
    shutil.copytree(tiny_pack, folder / "models" / "buffalo_l")
    for name, ours in interfaces.DETECTORS.items():
        shutil.copy(ROOT / "models" / "demo" / "yolo" / ours, folder / "models" / name)
    for place in ("outputs/facevault/organized/person", "outputs/facevault/organized/alice"):
        write_pictures(folder / place, 3)
    for place in ("Reference_Images", "Lora_Candidates/MyLoRA_v1", "Lora_Candidates/MyLoRA_v2"):
        write_pictures(folder / place, 2)
    return folder


@pytest.fixture(scope="module")
def with_models(project) -> Path:
    """The same with the base models and LoRAs of the commands."""
    from demo.tiny_sdxl import tiny_sdxl
    from mirror.generation import pipelines

    for name in (interfaces.SDXL, interfaces.ANIMAGINE):
        tiny_sdxl(project / name)
    pipeline = pipelines.load(str(project / interfaces.SDXL), None, None, "cpu", None).pipeline
    for seed, name in enumerate(loras_of_the_commands()):
        lora_files.write(project / name, lora_files.kohya_sdxl(pipeline, seed=seed))
    return project


def loras_of_the_commands() -> list[str]:
    return [re.search(r"--lora (\S+)", line)[1] for line in interfaces.GENERATE_COMMANDS]


def write_pictures(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        small = np.random.default_rng([number, len(str(folder))]).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((160, 120)).save(folder / f"photo{number + 1}.jpg")


def run_line(folder: Path, line: str, *more: str) -> subprocess.CompletedProcess:
    """A command as it stands, in `folder`; `more` options come last and win."""
    command = [sys.executable, *shlex.split(line.removesuffix(" ..."))[1:], *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode == 0, (line, done.stderr)
    return done


def option(line: str, name: str) -> str:
    return re.search(rf"--{name} (\S+)", line)[1]


def test_gap_analysis(project):
    for line in interfaces.GAP_COMMANDS:
        done = run_line(project, line)
        told = json.loads((project / option(line, "output")).read_text(encoding="utf-8"))
        assert set(interfaces.GAPS) <= set(told)
        for gap in told["recommendations"]:
            assert set(interfaces.GAPS["recommendations"][0]) <= set(gap)
        assert "composition" in {one["type"] for one in told["distributions"]}
        # all three detectors were found by their names; the guide has no model of expressions
        assert re.findall(r"Not measured: (\w+)", done.stdout) == ["expression"]


def test_generation_and_validation(with_models):
    """By the guide's own gap file, which has nothing but what is documented; then the folder is validated."""
    for line in interfaces.GENERATE_COMMANDS:
        gaps = with_models / line.split()[2]
        gaps.write_text(json.dumps(interfaces.GAPS | {"dataset": "outputs/facevault/organized/alice"}))
        if "--output" in line:  # two of the commands are alternatives, with one folder
            shutil.rmtree(with_models / option(line, "output"), ignore_errors=True)
        base = () if "--base-model" in line else ("--base-model", interfaces.SDXL)
        rest = () if "--person" in line else ("--person", "ohwx alice", "--output", "synthetic_2/")
        run_line(with_models, line, *SMALL, *base, *rest, "--num-per-gap", "1", "--steps", "2")
    folder = with_models / option(interfaces.GENERATE_COMMANDS[0], "output")
    names = [path.name for path in folder.iterdir()]
    assert any(re.fullmatch(interfaces.IMAGE_NAME, name) for name in names) and "generation_metadata.json" in names
    assert sum(name.startswith("synthetic_composition_hands_visible_001_") for name in names) == 1
    for line in interfaces.VALIDATE_COMMANDS:
        done = run_line(with_models, line)
        lines = done.stdout.splitlines()
        for pattern in interfaces.VALIDATION_LINES:
            assert any(re.fullmatch(pattern, one) for one in lines), (pattern, done.stdout)


def test_measuring(project):
    (line,) = interfaces.METRICS_COMMANDS
    (project / "Lora_Candidates" / "MyLoRA_v1" / "broken.png").write_bytes(b"no picture")
    run_line(project, line)
    text = ""
    for kind in interfaces.METRICS_FILES:
        (found,) = project.glob(f"{kind}_*")
        text += found.read_text(encoding="utf-8-sig")
    assert [name for name in (*interfaces.PANELS, *interfaces.COPYCAT) if name not in text] == []
    assert "MyLoRA_v1" in text and "MyLoRA_v2" in text


def test_settings_at_the_top_of_mirror_metrics(project):
    """Defaults as documented, and other values as a reader writes them."""
    source = (project / "mirror_metrics.py").read_text(encoding="utf-8")
    for name, value in interfaces.SETTINGS.items():
        assert re.search(rf"^{name} = ", source[:4000], re.MULTILINE), name
        assert name == "EXTENSIONS" or re.search(rf"^{name} = .*{value}", source, re.MULTILINE), name
    from utils.defaults import IMAGE_EXTENSIONS

    assert set(interfaces.SETTINGS["EXTENSIONS"].split(", ")) <= set(IMAGE_EXTENSIONS)
    for name, value in (("PATH_REFERENCE", "'my photos'"), ("PATH_CANDIDATES_ROOT", "'my_loras'")):
        source = re.sub(rf"^{name} = .*$", f"{name} = {value}", source, flags=re.MULTILINE)
    source = re.sub(r"^EXTENSIONS = .*$", "EXTENSIONS = ['jpg', '.PNG']", source, flags=re.MULTILINE)
    (project / "changed.py").write_text(source, encoding="utf-8")
    write_pictures(project / "my photos", 2)
    (project / "my photos" / "photo1.jpg").rename(project / "my photos" / "photo1.webp")
    write_pictures(project / "my_loras" / "mine", 1)
    done = run_line(project, "python changed.py --output changed --json")
    groups = {group["name"]: group["images"] for group in json.loads(done.stdout)["groups"]}
    assert groups == {"Reference": 1, "mine": 1}


def test_checking_model_files(project):
    (project / "models" / "own.pkl").write_bytes(pickle.dumps({"a": 1}, 2))
    (line,) = interfaces.INSPECT_COMMANDS
    done = run_line(project, line)
    assert "own.pkl is safe" in done.stdout and (project / "models" / "own.safetensors").is_file()


def test_files_that_the_documents_name():
    for name in interfaces.PROJECT_FILES:
        assert (ROOT / name).is_file(), name
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for family, (steps, guidance) in interfaces.RANGES.items():
        ranges = (steps, guidance.replace(".0", ""))
        row = re.search(rf"^\| [^|]*{re.escape(family)}[^|]* \|.*\b{ranges[0]}\b.*\b{ranges[1]}\b", text, re.MULTILINE)
        assert row, (family, ranges)


# The configuration and the loop


@pytest.fixture
def loop_folder(tmp_path) -> Path:
    """Photos and models where the documented configuration has them, and steps that take no time."""
    photos, models = (tmp_path / interfaces.CONFIGURATION[key] for key in ("dataset_dir", "models_dir"))
    photos.mkdir(parents=True)
    models.mkdir()
    for number in range(PHOTOS):
        (photos / f"photo_{number:02d}.png").write_bytes(fake_picture(f"photo {number}"))
    write_templates(tmp_path / "templates")
    return tmp_path


def test_the_configuration_of_the_project_is_the_documented_one():
    assert json.loads((ROOT / "bootstrap_config.json").read_text(encoding="utf-8")) == interfaces.CONFIGURATION


@pytest.mark.parametrize("line", interfaces.LOOP_COMMANDS)
def test_the_documented_configuration_leads_to_commands_that_parse(line, loop_folder):
    (loop_folder / option(line, "config")).write_text(json.dumps(interfaces.CONFIGURATION))
    done = run_script(*shlex.split(line)[1:], "--dry-run", cwd=loop_folder)
    assert done.returncode == 0, done.stderr
    for command in (one for one in done.stdout.splitlines() if not one.startswith("#")):
        script = Path(shlex.split(command)[1])
        importlib.import_module(script.stem).parse_args(shlex.split(command)[2:])
    assert "--steps 30 --guidance 7.5" in done.stdout


def test_the_loop_writes_and_says_what_is_documented(loop_folder):
    config = interfaces.CONFIGURATION | {"metrics": {"samples": 3}, "max_iterations": 2}
    for section, step in FAKE_STEPS.items():
        command = ["{python}", "-I", "-S", str(FAKES), step[0], str(loop_folder / "templates"), *step[1:]]
        config[section] = config.get(section, {}) | {"command": command}
    path = loop_folder / "bootstrap_config.json"
    path.write_text(json.dumps(config))
    done = subprocess.run(
        loop_command(path), capture_output=True, encoding="utf-8", timeout=120, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for pattern in interfaces.LOOP_LINES:
        assert any(re.fullmatch(pattern, one) for one in lines), (pattern, done.stdout)
    output = loop_folder / interfaces.CONFIGURATION["output_dir"]
    assert [name for name in interfaces.LOOP_FILES if not (output / name).exists()] == []
    assert (loop_folder / interfaces.CONFIGURATION["lora_output_dir"] / "lora.safetensors").is_file()


# Gap files as people write them, and the recipe for a gap type of one's own


def test_a_gap_file_needs_no_more_than_is_documented(tmp_path):
    (tmp_path / "gaps.json").write_text("\ufeff" + json.dumps(interfaces.GAPS), encoding="utf-8")
    done = run_script("generate_synthetic.py", "gaps.json", "--person", "ohwx", "--dry-run", "--json", cwd=tmp_path)
    images = json.loads(done.stdout)["images"]
    assert [image["name"] for image in images[::5]] == [
        "synthetic_face_angle_profile_001",
        "synthetic_composition_hands_visible_001",
    ]
    del (lacking := json.loads(json.dumps(interfaces.GAPS)))["recommendations"][1]["count"]
    (tmp_path / "gaps.json").write_text(json.dumps(lacking))
    done = run_script("generate_synthetic.py", "gaps.json", "--person", "ohwx", "--dry-run", cwd=tmp_path)
    said = "gaps.json: field recommendations.1.count: it is missing; correct it, or run gap_analysis.py again"
    assert done.returncode == 2 and said in done.stderr


def test_a_gap_of_every_prompt_template_is_generated(tmp_path):
    asked = [(kind, target) for kind, targets in interfaces.PROMPT_TARGETS.items() for target in targets]
    gaps = [{"type": kind, "target": target, "count": 1, "reason": ""} for kind, target in [*asked, ("quality", "x")]]
    gaps[-1]["target"] = "professional"
    (tmp_path / "gaps.json").write_text(json.dumps({"recommendations": gaps}))
    done = run_script("generate_synthetic.py", "gaps.json", "--person", "ohwx", "--dry-run", "--json", cwd=tmp_path)
    names = [image["name"] for image in json.loads(done.stdout)["images"]]
    assert names == [f"synthetic_{kind}_{target}_001".replace("-", "_") for kind, target in asked] + [
        "synthetic_quality_professional_001"
    ]
    assert "no image for" not in done.stderr
    assert "no sensor measures expression neutral, expression smile" in done.stderr and "face_angle" not in done.stderr


def recipe() -> tuple[str, str, str]:
    """A measure function, what appends a gap, and a table of prompts: as the guide has them, else in its names."""
    snippets = [block for block in blocks("python") if "analyze_lighting" in block or "LIGHTING_PROMPTS" in block]
    if snippets:
        function, appending = snippets[0].split("# Add to recommendations\n")
        return function, appending, re.sub(r"^\s+\.\.\.$", "", snippets[1], flags=re.MULTILINE)
    function = "def analyze_lighting(image_path: str, model) -> Dict:\n    ...\n"
    appending = f"if dark_pct < 20:\n    recommendations.append({interfaces.OWN_GAP | {'count': 0}!r})\n"
    table = f"LIGHTING_PROMPTS = {interfaces.OWN_PROMPTS!r}\n"
    return function, appending.replace("'count': 0", "'count': needed"), table


def test_the_recipe_for_custom_gap_types(project):
    """Function and recommendation go into gap_analysis.py, the table into generate_synthetic.py, as they stand."""
    function, appending, table = recipe()
    source = (ROOT / "gap_analysis.py").read_text(encoding="utf-8")
    head, place, rest = source.partition("def add_recommendations(")
    signature, _, rest = rest.partition('    """\n\n\n')
    body = "dark = [analyze_lighting(path, None) for path in image_paths]\nassert len(dark) == 3\n"
    body += f"dark_pct, needed = 8.0, np.int64({interfaces.OWN_GAP['count']})\n{appending}"
    body = "import numpy as np\n" + body
    own = head + function + "\n\n" + place + signature + '    """\n\n' + textwrap.indent(body, "    ") + "\n\n" + rest
    (project / "own_gaps.py").write_text(own, encoding="utf-8")
    script = (ROOT / "generate_synthetic.py").read_text(encoding="utf-8")
    changed = script.replace("\nLOCK_FILE = ", f"\n{table}\nLOCK_FILE = ", 1)
    (project / "own_generate.py").write_text(changed, encoding="utf-8")

    done = run_line(project, "python own_gaps.py outputs/facevault/organized/person --output own.json")
    told = json.loads((project / "own.json").read_text(encoding="utf-8"))["recommendations"]
    mine = [gap for gap in told if (gap["type"], gap["target"]) == ("lighting", "low_key")]
    assert [gap["count"] for gap in mine] == [
        interfaces.OWN_GAP["count"]
    ] and "lighting low_key, 7 to add" in done.stdout
    done = run_line(project, "python own_generate.py own.json --person ohwx --dry-run --json")
    prompts = [one["prompt"] for one in json.loads(done.stdout)["images"] if one["gap_type"] == "lighting"]
    assert prompts and all(interfaces.OWN_PROMPTS["low_key"] in prompt for prompt in prompts)


def test_a_type_and_target_of_ones_own(tmp_path):
    """Only the table knows them: they are asked for in its words; without it a note says what is missing."""
    gap = {"type": "hair", "target": "red", "count": 2, "reason": "none is red"}
    (tmp_path / "gaps.json").write_text(json.dumps({"recommendations": [gap]}))
    arguments = ("gaps.json", "--person", "ohwx", "--dry-run", "--json")
    done = run_script("generate_synthetic.py", *arguments, cwd=tmp_path)
    assert "a table HAIR_PROMPTS in generate_synthetic.py gives it some" in done.stderr
    assert own_tables({"HAIR_PROMPTS": {"red": "red hair"}, "OTHER": {}}, "x.py") == {"hair": {"red": "red hair"}}
    with pytest.raises(UserError, match=r"x.py: HAIR_PROMPTS\['red'\] must be a text in quotes, or a list"):
        own_tables({"HAIR_PROMPTS": {"red": 3}}, "x.py")
    planned, _ = plan_gaps([Recommendation(**gap)], "ohwx", 5, 0, own={"hair": {"red": ("red hair", "ginger hair")}})
    assert [("red hair" in one.prompt, "ginger hair" in one.prompt) for one in planned] == [
        (True, False),
        (False, True),
    ]
    assert planned[0].name == "synthetic_hair_red_001"
