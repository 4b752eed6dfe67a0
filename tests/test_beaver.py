"""beaver.py: without a question, on a real terminal, stopped and gone on with. Stand-ins take the place of steps."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from terminal import Terminal

STEPS = ["scan", "cluster", "dedup", "label", "caption", "prep", "train_lora.py"]
STANDINS = ("facevault.py", "train_lora.py", "bootstrap_loop.py")


class Project:
    """A copy of the project in which the steps are stand-ins."""

    def __init__(self, folder: Path):
        self.folder = folder / "project"
        for name in ("utils", "mirror"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "beaver.py", self.folder)
        shutil.copy(ROOT / "gap_analysis.py", self.folder)
        for name in STANDINS:
            shutil.copy(ROOT / "tests" / "fixtures" / "beaver_standins.py", self.folder / name)
        (self.folder / "photos").mkdir()
        (self.folder / "models").mkdir()

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "beaver.py", *map(str, arguments)]

    def run(self, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    @property
    def calls(self) -> list[list[str]]:
        log = self.folder / "calls.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        return [json.loads(line) for line in lines]

    @property
    def steps(self) -> list[str]:
        return [call[1] if call[0] == "facevault.py" else call[0] for call in self.calls]

    @property
    def session(self) -> dict:
        return json.loads((self.folder / "outputs" / "beaver_session.json").read_text(encoding="utf-8"))


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


ALICE = ("--workflow", "1", "--photos", "photos", "--person", "alice", "--yes")


def test_the_pipeline_runs_without_a_question(project):
    done = project.run(*ALICE, "--more", "train --epochs 3 --rank 8", "--pack", "demo")
    assert project.steps == STEPS and project.session["finished"]
    by_step = dict(zip(project.steps, project.calls, strict=True))
    assert by_step["label"][2:4] == ["7", "alice"], "the largest cluster"
    assert "Taken for alice: cluster 7: no name, 5 faces" in done.stderr
    assert "a guess by size: the largest without a name; it has 5 faces, 50% of those in clusters" in done.stderr
    assert "outputs/facevault/faces.html. --cluster takes others" in done.stderr.replace("\\", "/")
    assert by_step["caption"][2:5] == ["alice", "--trigger", "ohwx alice"]
    train = by_step["train_lora.py"]
    assert train[1] == "outputs/facevault/organized/alice" and train[-4:] == ["--epochs", "3", "--rank", "8"]
    assert "--resume" in train and train[train.index("--preset") + 1] == "sdxl"
    assert [call[call.index("--pack") + 1] for call in project.calls if "--pack" in call] == ["demo", "demo"]
    metadata = project.folder / "outputs" / "facevault" / "organized" / "alice" / "metadata.json"
    metadata.write_text('{"trigger": "zkw alice"}')
    assert "--trigger 'zkw alice'" in project.run(*ALICE, "--dry-run").stdout, "the dataset's own trigger stays"
    shown = [line for line in done.stderr.splitlines() if line.startswith("$ ")]
    assert len(shown) == len(STEPS) and "facevault.py scan photos --recursive" in shown[0]


@pytest.mark.parametrize("failing", ["dedup", "train_lora.py"])
def test_it_goes_on_at_the_step_that_failed(project, failing):
    done = project.run(*ALICE, "--more", "prep --size 512", code=2, STANDIN_FAILS=failing)
    assert "ended with exit code 2" in done.stderr and project.session["running"] == failing.removesuffix("_lora.py")
    before = len(project.steps)
    project.run("--workflow", "1", "--yes")  # the answers are remembered
    assert project.steps[before:] == STEPS[STEPS.index(failing) :] and project.session["finished"]
    project.run(*ALICE)
    assert project.steps[before + len(STEPS) - STEPS.index(failing) :][:3] == STEPS[:3], "a finished one begins anew"


def test_other_photos_begin_anew_and_a_lost_result_is_made_again(project):
    project.run(*ALICE, code=2, STANDIN_FAILS="prep")
    (project.folder / "outputs" / "facevault" / "duplicates.json").unlink()
    before = len(project.steps)
    project.run(*ALICE)
    assert project.steps[before:][0] == "dedup"
    project.run(*ALICE, code=2, STANDIN_FAILS="cluster")
    (project.folder / "others").mkdir()
    before = len(project.steps)
    project.run(*ALICE[:2], "--photos", "others", "--person", "bob", "--yes")
    assert project.steps[before:] == STEPS and project.calls[before][2] == "others"
    assert ["label", "7", "bob"] in [call[1:4] for call in project.calls], "the cluster of alice is not bob's"


def test_photos_that_were_added_are_scanned_before_it_goes_on(project, make_picture):
    project.run(*ALICE, code=2, STANDIN_FAILS="prep")
    make_picture(project.folder / "photos" / "1.jpg")
    report = project.folder / "outputs" / "facevault" / "scan_report.json"
    report.write_text('{"files": [{"file": "1.jpg"}]}')
    before = len(project.steps)
    project.run(*ALICE, code=2, STANDIN_FAILS="prep")
    assert project.steps[before:] == ["prep"]
    make_picture(project.folder / "photos" / "2.jpg")
    project.run(*ALICE)
    assert [step for step in project.steps[before + 1 :] if step != "label"] == [one for one in STEPS if one != "label"]


def test_another_person_gets_no_answers_of_the_one_before(project):
    alices = ("--trigger", "zkw alice", "--captioner", "models", "--more", "prep --most 3")
    project.run(*ALICE, *alices, code=2, STANDIN_FAILS="train_lora.py")
    before = len(project.steps)
    done = project.run("--workflow", "1", "--person", "bob", "--yes")
    assert "Another person than in the session that was left unfinished" in done.stderr
    assert project.steps[before:] == STEPS
    said = [word for call in project.calls[before:] for word in call]
    assert "ohwx bob" in said and not {"zkw alice", "models", "--model", "--most"} & set(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_there(project, number):
    process = subprocess.Popen(
        project.command(*ALICE),
        cwd=project.folder,
        env=os.environ | {"STANDIN_SLOW": "prep"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 60
    while "prep" not in project.steps:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1] if number != signal.SIGKILL else ""
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "Stopped in the step prep" in said and "Traceback" not in said
        assert said.count("Interrupted.") == 1
        assert (project.folder / "stopped.log").is_file(), "the step heard of it too"
    process.kill()
    process.wait()
    assert project.session["running"] == "prep" and not project.session["finished"]
    before = len(project.steps)
    project.run(*ALICE)
    assert project.steps[before:] == STEPS[STEPS.index("prep") :]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nobody can answer them here: give --yes"),
        (("--yes",), "Which workflow? Give --workflow 1 or 2 or 4 or 6."),
        (("--workflow", "1", "--yes"), "give --photos"),
        (("--workflow", "1", "--yes", "--photos", "nowhere"), "--photos nowhere is no folder"),
        (("--workflow", "1", "--yes", "--photos", "photos"), "give --person"),
        (("--workflow", "1", "--yes", "--photos", "photos", "--person", "../bob"), "is no name of a folder"),
        ((*ALICE[:4], "--person", "Sammy Jr.", "--yes"), "is no name of a folder"),
        ((*ALICE[:4], "--person", "nul", "--yes"), "is no name of a folder"),
        ((*ALICE, "--trigger", "a, b"), "a comma ends trigger words"),
        ((*ALICE, "--more", "trian -x"), "its first word is no step; known: caption, cluster"),
        (("--workflow", "4", "--yes", "--person", "nobody"), "workflow 1 makes the dataset of nobody"),
    ],
)
def test_a_mistake_gets_one_sentence(project, arguments, said):
    done = project.run(*arguments, code=2)
    assert said in done.stderr and done.stderr.count("Error:") == 1 and not project.calls


def test_other_trainers_and_the_dry_run(project):
    done = project.run(*ALICE[:-1], "--preset", "flux", "--dry-run")
    assert "--trainer ai-toolkit" in done.stdout and "--resume" not in done.stdout and not project.calls
    told = project.run(*ALICE, "--preset", "flux").stdout
    assert "Nothing is trained yet" in told and "LoRA:" not in told and "workflow 4" not in told
    assert project.session["finished"] and "--trainer-path" not in project.calls[-1]


def test_photos_are_organized_after_another_workflow_was_left(project):
    project.run(*ALICE, code=2, STANDIN_FAILS="label")
    project.run("--workflow", "2", "--photos", "photos", "--base-model", "b", "--yes")
    assert project.steps[4:] == ["scan", "cluster", "dedup", "page"], "nobody has a name, so nothing is exported"
    project.run("--workflow", "2", "--photos", "photos", "--yes")
    assert project.session["finished"] and project.session["workflow"] == "2"


def test_two_at_once_the_second_says_so(project):
    from utils.folder_lock import only_one

    (project.folder / "outputs").mkdir()
    with only_one(project.folder / "outputs", "beaver.lock"):
        assert "Another run works in outputs" in project.run(*ALICE, code=2).stderr


def test_the_loop_gets_a_configuration_that_it_reads(project):
    from mirror.loop.config import load_config
    from mirror.training.presets import PRESETS

    (project.folder / "outputs" / "facevault" / "organized" / "alice").mkdir(parents=True)
    project.run("--workflow", "4", "--person", "alice", "--base-model", "base", "--iterations", "2", "--yes")
    config = load_config(project.folder / "outputs" / "bootstrap_alice.json", PRESETS)
    assert Path(config.lora_output_dir) == project.folder / "outputs" / "lora_models" / "alice"
    assert Path(config.dataset_dir) == project.folder / "outputs" / "facevault" / "organized" / "alice"
    assert (config.person_trigger, config.max_iterations, config.training.preset) == ("ohwx alice", 2, "sdxl")
    assert [call[-1] for call in project.calls] == ["--dry-run", "--yes"]
    written = (project.folder / "outputs" / "bootstrap_alice.json").read_bytes()
    again = ("--workflow", "4", "--person", "alice", "--base-model", "base", "--yes")
    done = project.run(*again, "--iterations", "9", "--trigger", "t9")
    assert "person_trigger ohwx alice, not t9; max_iterations 2, not 9. Delete it" in done.stderr
    assert (project.folder / "outputs" / "bootstrap_alice.json").read_bytes() == written
    assert "is there already" not in project.run(*again, "--iterations", "2").stderr


def with_exports(project: Project) -> None:
    """The exports as stand-ins, which write nothing but their folder."""
    for name in ("export_for_did.py", "export_facesheet.py", "export_expressions.py"):
        shutil.copy(ROOT / "tests" / "fixtures" / "beaver_standins.py", project.folder / name)


def test_exports_are_offered_after_the_loop(project):
    dataset = "outputs/facevault/organized/alice"
    (project.folder / dataset).mkdir(parents=True)
    loop = ("--workflow", "4", "--person", "alice", "--base-model", "base", "--yes")
    with_exports(project)
    assert "Next: workflow 6 makes packages of the dataset for avatars (D-ID, MetaHuman, VTuber)" in (
        project.run(*loop).stdout
    )
    before = len(project.calls)
    project.run("--workflow", "6", "--person", "alice", "--yes")
    assert [call[0] for call in project.calls[before:]] == ["export_for_did.py", "export_facesheet.py"], "no model"
    model = project.folder / "models" / "expression.onnx"
    model.parent.mkdir(exist_ok=True)
    model.write_bytes(b"a model of expressions, as far as the menu knows")
    before = len(project.calls)
    done = project.run("--workflow", "6", "--person", "alice", "--yes")
    written = (
        ("export_for_did.py", "alice_did_package"),
        ("export_facesheet.py", "alice_metahuman.jpg", "--angles", "front,profile_left,profile_right,three_quarter"),
        ("export_expressions.py", "alice_live2d", "--expressions", "neutral,smile,surprised,angry"),
    )
    wanted = [[script, "--dataset", dataset, "--output", output, *more] for script, output, *more in written]
    assert project.calls[before:] == wanted and "alice_live2d" in done.stdout and project.session["finished"]
    project.run("--workflow", "6", "--person", "alice", "--packages", "vtuber", "--pack", "demo", "--yes")
    assert project.calls[before + 3 :] == [[*wanted[2], "--pack", "demo"]]
    done = project.run("--workflow", "6", "--person", "alice", "--packages", "sims", "--yes", code=2)
    assert "--packages sims is none of did, metahuman, vtuber." in done.stderr


def test_what_can_be_trained_is_what_the_trainers_know():
    import train_lora
    from mirror.guide.parts import PRESETS

    for preset in PRESETS.values():
        train_lora.parse_args(["d", "--base-model", "b", "--output", "o", "--trigger", "t", *preset.options])


# On a terminal


def terminal_of(project: Project, *arguments: object, **environment: str) -> Terminal:
    return Terminal(project.folder, project.command(*arguments), **environment)


posix = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")


@posix
def test_the_menu_leads_through_the_pipeline(project):
    terminal = terminal_of(project)
    menu = terminal.answer("What shall be done", "1")
    for entry in ("1: LoRA Training Pipeline", "2: Photo Organization", "3: Individual Tools", "4: Bootstrap Loop"):
        assert entry in menu
    terminal.answer("Folder with the photos", "nowhere")
    assert "--photos" not in terminal.see("nowhere is no folder that is there")
    terminal.answer("Folder with the photos", "photos")
    terminal.answer("Name of the person", "alice")
    terminal.answer("Trigger words for the person [ohwx alice]", "")
    assert "flux: Flux.1" in terminal.answer("What to train", "zit")
    terminal.answer("cagliostrolab/animagine-xl-3.1", "")
    terminal.answer("Folder of a captioner", "")
    terminal.answer("InsightFace model pack", "")
    assert "9: no name, 3 faces" in terminal.answer("Which clusters are the person (numbers) [7]", "4, 9")
    terminal.see("Next: workflow 4")
    terminal.answer("What shall be done", "5")
    terminal.see("There is no page yet")
    terminal.answer("What shall be done", "q")
    assert terminal.end() == 0
    labels = [call[1:4] for call in project.calls if call[1] == "label"]
    assert labels == [["label", "4", "alice"], ["label", "9", "alice"]]
    assert project.calls[-1][project.calls[-1].index("--preset") + 1] == "zit"


@posix
def test_ctrl_c_leaves_it_and_the_next_start_offers_to_go_on(project):
    terminal = terminal_of(project, *ALICE[:-1], STANDIN_SLOW="caption")
    terminal.answer("Trigger words", "")
    terminal.answer("What to train", "")
    terminal.answer("Base model", "")
    terminal.answer("Folder of a captioner", "")
    terminal.answer("InsightFace model pack", "")
    terminal.answer("Which clusters", "")
    terminal.see("Step 5 of 7")
    while "caption" not in project.steps:
        time.sleep(0.05)
    time.sleep(0.3)
    terminal.say("\x03")
    assert terminal.see("Stopped in the step caption").count("Interrupted.") == 1
    assert terminal.end() == 130 and (project.folder / "stopped.log").is_file()
    assert "Interrupted." not in terminal.text
    before = len(project.steps)
    terminal = terminal_of(project)
    terminal.answer("LoRA Training Pipeline (alice) stopped in the step caption. Go on?", "")
    terminal.see("Next: workflow 4")
    terminal.answer("What shall be done", "q")
    assert terminal.end() == 0 and project.steps[before:] == STEPS[STEPS.index("caption") :]


@posix
def test_the_menu_starts_the_loop(project):
    terminal = terminal_of(project, STANDIN_SLOW="bootstrap_loop.py")
    terminal.answer("What shall be done", "4")
    terminal.answer("Name of the person", "../alice")
    assert "--person" not in terminal.see("that is no name of a folder")
    terminal.answer("Name of the person", "alice")
    terminal.answer("Trigger words for the person [ohwx alice]", "zkw alice")
    assert "flux" not in terminal.answer("What to train", "sd15")
    terminal.answer("stable-diffusion-v1-5/stable-diffusion-v1-5", "models")
    terminal.answer("Iterations at most [5]", "3")
    terminal.answer("InsightFace model pack", "")
    terminal.see("workflow 1 makes the dataset of alice")
    terminal.answer("What shall be done", "q")
    assert terminal.end() == 0 and not project.calls, "without a dataset nothing is started"

    (project.folder / "outputs" / "facevault" / "organized" / "alice").mkdir(parents=True)
    terminal = terminal_of(project, STANDIN_SLOW="bootstrap_loop.py")
    terminal.answer("Bootstrap Loop (alice) stopped in the step loop. Go on?", "")
    terminal.see("$ ")
    while not project.calls:
        time.sleep(0.05)
    time.sleep(0.3)
    terminal.say("\x03")
    terminal.see("Stopped in the step loop")
    assert terminal.end() == 130 and [call[-1] for call in project.calls] == ["--dry-run"]

    terminal = terminal_of(project)
    terminal.answer("Bootstrap Loop (alice) stopped in the step loop. Go on?", "")
    terminal.see("bootstrap_report.html")
    terminal.answer("What shall be done", "q")
    assert terminal.end() == 0 and project.session["finished"]
    config = project.folder / "outputs" / "bootstrap_alice.json"
    assert [call[1:] for call in project.calls[1:]] == [
        ["--config", str(config.relative_to(project.folder)), one] for one in ("--dry-run", "--yes")
    ]
    written = json.loads(config.read_text(encoding="utf-8"))
    assert (written["person_trigger"], written["max_iterations"], written["training"]) == (
        "zkw alice",
        3,
        {"preset": "sd15"},
    )


@posix
def test_persons_are_named_while_photos_are_organized(project):
    terminal = terminal_of(project, "--workflow", "2", "--photos", "photos", "--pack", "demo")
    seen = terminal.answer("Names of clusters, such as 1=alice, 4=bob", "7=alice, 9 = bob b")
    assert "outputs/facevault/faces.html" in seen and "4: no name, 2 faces" in seen
    terminal.see("The photos of all who have a name")
    assert terminal.end() == 0
    assert [call[2:4] for call in project.calls if call[1] == "label"] == [["7", "alice"], ["9", "bob b"]]
    assert project.steps[-1] == "export"
    done = project.run("--workflow", "2", "--photos", "photos", "--names", "alice", "--yes", code=2)
    assert "is not like 1=alice, 4=bob" in done.stderr


@posix
def test_a_wrong_cluster_and_other_answers_can_be_given_anew(project):
    answered = ("--preset", "sdxl", "--trigger", "t", "--base-model", "b", "--captioner", "models", "--pack", "demo")
    terminal = terminal_of(project, *ALICE[:-1], *answered, STANDIN_FAILS="label")
    terminal.answer("Which clusters are the person", "7")
    terminal.see("The step label ended with exit code 2")
    assert terminal.end() == 2
    before = len(project.steps)
    terminal = terminal_of(project)
    terminal.answer("stopped in the step label. Go on?", "")
    terminal.answer("Which clusters are the person (numbers) [7]", "9")
    terminal.see("Next: workflow 4")
    terminal.answer("What shall be done", "q")
    assert terminal.end() == 0 and project.steps[before:] == STEPS[STEPS.index("label") :]
    assert project.calls[before][2:4] == ["9", "alice"]
    project.run(*ALICE[:4], "--person", "bob", "--yes", code=2, STANDIN_FAILS="prep")
    terminal = terminal_of(project)
    terminal.answer("(bob) stopped in the step prep. Go on?", "n")
    terminal.answer("What shall be done", "1")
    terminal.answer("Folder with the photos (they are never changed) [photos]", "'photos'")
    terminal.answer("Name of the person [bob]", "carol")
    terminal.say("\x04")
    assert terminal.end() == 130


@posix
def test_a_tool_asks_for_its_options_and_shows_the_command(project, make_picture, tiny_pack):
    shutil.copytree(tiny_pack, project.folder / "models" / "buffalo_l")
    make_picture(project.folder / "my photos" / "1.jpg")
    terminal = terminal_of(project)
    terminal.answer("What shall be done", "3")
    listed = terminal.see("Which script")
    number = next(line.split(":")[0].strip() for line in listed.splitlines() if "gap_analysis.py" in line)
    assert number.isdecimal()
    terminal.say("gap_analysis.py\n")
    terminal.answer("DATASET:", "my photos")
    terminal.answer("Change other options?", "y")
    table = terminal.see("Enter to go on")
    row = next(line for line in table.splitlines() if "--output" in line)
    assert "gaps.json" in row, "the default is shown"
    terminal.say(row.replace("│", " ").split()[0] + "\n")
    terminal.answer("--output:", "mine.json")
    terminal.answer("Enter to go on", "")
    assert "gap_analysis.py 'my photos' --output mine.json" in terminal.answer("Run it?", "")
    terminal.answer("What shall be done", "5")
    assert "mine.html" in terminal.see("What shall be done")
    terminal.say("q\n")
    assert terminal.end() == 0 and (project.folder / "mine.json").is_file()


@posix
def test_the_menu_asks_which_packages_and_for_whom(project):
    with_exports(project)
    terminal = terminal_of(project)
    assert "6: Exports for Avatars" in terminal.answer("What shall be done", "6")
    terminal.answer("Name of the person", "alice")
    terminal.answer("Which packages (did, metahuman, vtuber) [did,metahuman]", "did")
    terminal.answer("InsightFace model pack", "")
    terminal.see("D-ID: pictures for a talking head: alice_did_package")
    terminal.answer("What shall be done", "q")
    assert terminal.end() == 0 and [call[0] for call in project.calls] == ["export_for_did.py"]


def test_the_commands_of_the_page_run(project):
    from documents import commands

    lines = [line for line in commands("python beaver.py") if line != "python beaver.py"]  # the menu, see above
    for line in lines:
        project.run(*shlex.split(line)[2:])
    assert len(lines) == 2 and project.session["finished"]
