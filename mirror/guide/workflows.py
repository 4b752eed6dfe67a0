"""The workflows of beaver.py as tables: what is asked, which scripts run in which order, and what they leave.

A new step is a line here. `commands` builds the arguments of a script from the answers; an empty list means that there
is nothing to do. A step is done when its commands ended well in this session, are still the same, and `leaves` exists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mirror.contracts.contract import read_contract
from mirror.contracts.vault import LabelledPerson, Labels
from mirror.guide.loop import loop_commands, write_loop_config
from mirror.guide.packages import PACKAGES, usual_packages, wanted_packages
from mirror.guide.parts import (
    PRESETS,
    Answers,
    Commands,
    Question,
    Step,
    Workflow,
    dataset,
    faces_page,
    loras,
    trigger_of,
    vault,
)
from utils.console import UserError
from utils.files import readable
from utils.images import list_images


def _in_vault(answers: Answers, command: str, *arguments: str) -> list[str]:
    return ["facevault.py", command, *arguments, "--output", str(vault(answers))]


def _pack(answers: Answers) -> list[str]:
    return ["--pack", answers["pack"]] if answers["pack"] else []


def _scan(answers: Answers) -> Commands:
    return [_in_vault(answers, "scan", answers["photos"], "--recursive", *_pack(answers))]


def _knows_all_photos(answers: Answers) -> bool:
    """Whether no photo was added since the scan, so that it need not run again."""
    try:
        report = json.loads((vault(answers) / "scan_report.json").read_text(encoding="utf-8"))
        known = {one["file"] for one in report["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return True  # whether there is a report at all is asked elsewhere
    folder, own = Path(answers["photos"]), vault(answers).resolve()
    images = list_images(folder, recursive=True).images
    new = [path for path in images if readable(path.relative_to(folder).as_posix()) not in known]
    return all(own in path.resolve().parents for path in new)


def persons_of(answers: Answers) -> list[LabelledPerson]:
    """The clusters that are persons, the largest first; empty before the first clustering."""
    path = vault(answers) / "labels.json"
    if not path.is_file():
        return []
    found = read_contract(path, Labels, "facevault.py cluster").persons
    return sorted((one for one in found if one.kept), key=lambda one: (-len(one.faces), one.cluster))


def told_clusters(answers: Answers) -> list[str]:
    """A line for each cluster that may be the person."""
    return [
        f"{one.cluster}: {one.name or 'no name'}, {len(one.faces)} faces, such as {one.faces[0].file}"
        for one in persons_of(answers)
        if one.faces
    ]


def _likely_cluster(answers: Answers) -> str:
    """The one that has the name already, else the largest without one."""
    persons = persons_of(answers)
    named = [one for one in persons if one.name == answers["person"]]
    return str(next((one.cluster for one in [*named, *(one for one in persons if not one.name)]), ""))


def told_choice(answers: Answers) -> list[str]:
    """Which cluster was taken without asking, why, and how to look whether that is right."""
    persons = [one for one in persons_of(answers) if one.faces]
    chosen = next((one for one in persons if str(one.cluster) == answers["cluster"]), None)
    if chosen is None:
        return []
    line = next(line for line in told_clusters(answers) if line.startswith(f"{chosen.cluster}: "))
    share = len(chosen.faces) / sum(len(one.faces) for one in persons)
    size = f"it has {len(chosen.faces)} faces, {share:.0%} of those in clusters"
    how = "it has that name already" if chosen.name else "the largest without a name"
    return [
        f"Taken for {answers['person']}: cluster {line}",
        f"That is a guess by size: {how}; {size}." if not chosen.name else f"Because {how}; {size}.",
        f"Look whether it is one person, and that person: {faces_page(answers)}. --cluster takes others, such as 4,9. "
        "To look before anything is named: workflow 2.",
    ]


def _label(answers: Answers) -> Commands:
    """Names the chosen clusters, those that do not have the name yet."""
    persons = {str(one.cluster): one for one in persons_of(answers)}
    wanted = answers["cluster"].replace(",", " ").split()
    if not wanted:
        raise UserError(
            f"No cluster is left that could be {answers['person']}: look at the photos with facevault.py page, "
            "and name one with facevault.py label CLUSTER NAME."
        )
    return [
        _in_vault(answers, "label", one, answers["person"])
        for one in wanted
        if one not in persons or persons[one].name != answers["person"]
    ]


def _names(answers: Answers) -> Commands:
    """Names as they are typed: 1=alice, 4=bob."""
    pairs = [part.partition("=") for part in re.split(r"[,;]", answers["names"]) if part.strip()]
    for number, sign, name in pairs:
        if not (number.strip() and sign and name.strip()):
            raise UserError(f"{answers['names']!r} is not like 1=alice, 4=bob: a cluster, =, its name.")
    return [_in_vault(answers, "label", number.strip(), name.strip()) for number, _, name in pairs]


def _caption(answers: Answers) -> Commands:
    model = ["--model", answers["captioner"]] if answers["captioner"] else []
    style = "sentence" if answers["preset"] == "flux" else "tags"
    command = _in_vault(answers, "caption", answers["person"], "--trigger", answers["trigger"], "--style", style)
    return [[*command, *model]]


def _train(answers: Answers) -> Commands:
    preset = PRESETS[answers["preset"]]
    path = ["--trainer-path", answers["trainer_path"]] if answers["trainer_path"] else []
    command = ["train_lora.py", str(dataset(answers)), "--base-model", answers["base_model"]]
    command += ["--output", str(loras(answers)), "--trigger", answers["trigger"], *preset.options, *path]
    return [[*command, *(["--resume"] if preset.is_ours else []), *_pack(answers)]]


def _is_trained_here(answers: Answers) -> bool:
    return PRESETS[answers["preset"]].is_ours or bool(answers["trainer_path"])


def _trained(answers: Answers) -> list[Path]:
    return [loras(answers) / ("lora.safetensors" if _is_trained_here(answers) else "trainer")]


def _told_results(answers: Answers) -> list[str]:
    """What the LoRA pipeline leaves, and what can be done next."""
    lines = [f"Dataset: {dataset(answers)}"]
    if not _is_trained_here(answers):
        return [
            *lines,
            f"Nothing is trained yet. Files for ai-toolkit: {loras(answers) / 'trainer'}; its command is above.",
        ]
    lines.append(f"LoRA: {loras(answers)}")
    return [*lines, "Next: workflow 4 improves both."] if PRESETS[answers["preset"]].is_ours else lines


def _export(name: str) -> Step:
    """The step of one package; nothing to do where it is not wanted."""
    package = PACKAGES[name]

    def commands(answers: Answers) -> Commands:
        if name not in wanted_packages(answers["packages"]):
            return []
        output = str(package.leaves(answers["person"]))
        command = [package.script, "--dataset", str(dataset(answers)), "--output", output]
        return [[*command, *package.options, *_pack(answers)]]

    def leaves(answers: Answers) -> list[Path]:
        return [package.leaves(answers["person"])] if name in wanted_packages(answers["packages"]) else []

    return Step(name, package.title, commands, leaves)


def _told_loop(answers: Answers) -> list[str]:
    report = f"Report: {Path(answers['output']) / 'bootstrap' / answers['person'] / 'bootstrap_report.html'}"
    titles = ", ".join(PACKAGES[name].title.partition(":")[0] for name in PACKAGES)
    return [report, f"Next: workflow 6 makes packages of the dataset for avatars ({titles})."]


def _told_packages(answers: Answers) -> list[str]:
    wanted = [PACKAGES[name] for name in wanted_packages(answers["packages"])]
    return [f"{one.title}: {one.leaves(answers['person'])}" for one in wanted]


_PHOTOS = Question("photos", "Folder with the photos (they are never changed)", is_folder=True)
_PERSON = Question("person", "Name of the person", is_name=True)
_TRIGGER = Question("trigger", "Trigger words for the person", trigger_of)
_PACK = Question("pack", "InsightFace model pack", is_needed=False)
_BASE = Question(
    "base_model",
    "Base model (hub id, folder or file)",
    lambda answers: PRESETS[answers["preset"]].base_model if answers["preset"] else "",
)
_TRAIN_QUESTIONS = (
    Question("preset", "What to train", lambda answers: "sdxl", tuple(PRESETS)),
    _BASE,
    Question(
        "trainer_path",
        "Folder of ai-toolkit (empty: only write its configuration)",
        is_needed=False,
        when=lambda answers: not PRESETS[answers["preset"]].is_ours,
    ),
)
_LOOK = (
    Step(
        "scan",
        "Find every face in the photos",
        _scan,
        lambda answers: [vault(answers) / "vault.sqlite", vault(answers) / "scan_report.json"],
        is_current=_knows_all_photos,
    ),
    Step(
        "cluster",
        "Group the faces into persons",
        lambda answers: [_in_vault(answers, "cluster")],
        lambda answers: [vault(answers) / "labels.json"],
    ),
    Step(
        "dedup",
        "Find duplicates",
        lambda answers: [_in_vault(answers, "dedup")],
        lambda answers: [vault(answers) / "duplicates.json"],
    ),
)

WORKFLOWS = {
    "1": Workflow(
        "LoRA Training Pipeline",
        (
            _PHOTOS,
            _PERSON,
            _TRIGGER,
            *_TRAIN_QUESTIONS,
            Question("captioner", "Folder of a captioner (empty: captions from what is measured)", is_needed=False),
            _PACK,
            Question("cluster", "Which clusters are the person (numbers)", _likely_cluster, at="label"),
        ),
        (
            *_LOOK,
            Step("label", "Name the person", _label),
            Step("caption", "Write captions", _caption),
            Step(
                "prep",
                "Make the dataset",
                lambda answers: [_in_vault(answers, "prep", answers["person"])],
                lambda answers: [dataset(answers) / "metadata.json"],
            ),
            Step("train", "Train the LoRA", _train, _trained),
        ),
        _told_results,
    ),
    "2": Workflow(
        "Photo Organization",
        (
            _PHOTOS,
            _PACK,
            Question("names", "Names of clusters, such as 1=alice, 4=bob (empty: none)", is_needed=False, at="names"),
        ),
        (
            *_LOOK,
            Step(
                "page",
                "Make the page to look at and to name persons by",
                lambda answers: [_in_vault(answers, "page")],
                lambda answers: [faces_page(answers)],
            ),
            Step("names", "Name persons", _names),
            Step(
                "export",
                "Sort the photos of all who have a name",
                lambda answers: (
                    [_in_vault(answers, "export", "--all")] if any(one.name for one in persons_of(answers)) else []
                ),
                lambda answers: [],
            ),
        ),
        lambda answers: [
            f"Page: {faces_page(answers)}",
            f"The photos of all who have a name are in {vault(answers) / 'organized'}.",
        ],
    ),
    "4": Workflow(
        "Bootstrap Loop",
        (
            _PERSON,
            _TRIGGER,
            Question("preset", "What to train", lambda answers: "sdxl", ("sdxl", "zit", "sd15")),
            _BASE,
            Question("iterations", "Iterations at most", lambda answers: "5"),
            _PACK,
        ),
        (Step("loop", "Improve dataset and LoRA, iteration by iteration", loop_commands, before=write_loop_config),),
        _told_loop,
    ),
}

if PACKAGES:
    WORKFLOWS["6"] = Workflow(
        "Exports for Avatars",
        (
            _PERSON,
            Question("packages", f"Which packages ({', '.join(PACKAGES)})", lambda answers: usual_packages()),
            _PACK,
        ),
        tuple(_export(name) for name in PACKAGES),
        _told_packages,
    )
