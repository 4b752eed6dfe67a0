"""A loop whose steps are all fakes: folders, templates and configuration of one that runs in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from gaps_fixture import record, report_of
from loop_fakes import picture

from mirror.contracts.contract import Spread
from mirror.contracts.gaps import Recommendation
from mirror.contracts.summary import GroupSummary, PackInfo, Summary
from mirror.contracts.validation import ValidationReport

FAKES = ROOT / "tests" / "loop_fakes.py"
PHOTOS = 30  # so that a fifth is held out
COMMANDS = {
    "gap_analysis": ["gaps", "{dataset}", "{output}"],
    "generation": ["generate", "{gaps}", "{prompts}", "{lora}", "{output}", "{seed}"],
    "validation": ["validate", "{folder}", "{approved}", "{report}"],
    "training": ["train", "{dataset}", "{output}"],
    "metrics": ["metrics", "{candidates}", "{output}"],
}


def make_loop(base: Path, photos: int = PHOTOS, **changes: object) -> Path:
    """Photos, templates and configuration in `base`; path of the configuration. `changes` are keys of it."""
    (base / "photos").mkdir(parents=True)
    for index in range(photos):
        (base / "photos" / f"photo_{index:02d}.png").write_bytes(picture(f"photo {index}"))
        if index % 3 == 0:
            (base / "photos" / f"photo_{index:02d}.txt").write_text(f"ohwx alice, photo {index}")
    (base / "models").mkdir()
    write_templates(base / "templates")
    config = {
        "person_name": "alice",
        "person_trigger": "ohwx alice",
        "base_model": "nobody/nothing",
        "dataset_dir": "photos",
        "output_dir": "out",
        "lora_output_dir": "loras",
        "max_iterations": 3,
        "max_synthetic_share": 0.5,
        "metrics": {"samples": 3},
    }
    for section, command in COMMANDS.items():
        command = ["{python}", "-I", "-S", str(FAKES), command[0], str(base / "templates"), *command[1:]]
        config[section] = config.get(section, {}) | {"command": command}
    for key, value in changes.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    path = base / "config.json"
    path.write_text(json.dumps(config))
    return path


def write_templates(folder: Path) -> None:
    """What the fakes fill in: a gap file, a validation report, a summary."""
    folder.mkdir()
    gaps = report_of([record(f"{i}.png") for i in range(24)])
    gaps.recommendations = [
        Recommendation(
            type=kind, target=target, count=4, reason=f"{target} is scarce", share_percent=0, goal_percent=20, wanted=4
        )
        for kind, target in (("face_angle", "profile"), ("lighting", "low_key"))
    ]
    report = ValidationReport(
        created="",
        folder="",
        metadata=None,
        references=None,
        sensors=gaps.sensors,
        identity_pack=None,
        settings={},
        versions={},
        approved=0,
        rejected=0,
        unverified=0,
        approved_percent=None,
        mean_quality=None,
        failures={},
        ignored_files={},
        warnings=[],
        images=[],
    )
    spread = Spread(count=3, median=0.7, q1=0.6, q3=0.8, minimum=0.5, maximum=0.9)
    facts = {"images": 3, "faces": 3, "rescued": 0, "failed": 0, "statuses": {"ok": 3}}
    facts |= dict.fromkeys(
        ("similarity", "nearest_similarity", "age", "yaw_abs_deg", "det_score", "aspect_ratio"), spread
    )
    facts |= {"identity": 0.7, "angle_bins": {"front": 1, "three_quarter": 1, "profile": 1}, "copy_bands": {}}
    groups = [("Reference", "Reference"), ("Reference", "Held-out"), ("Candidate", "lora")]
    pack = PackInfo(name="p", identity="p@0", tasks=[], licence="none", pose_source="keypoints", has_age=False)
    summary = Summary(
        created="",
        pack=pack,
        providers={},
        versions={},
        settings={},
        reference_folder="",
        candidates_folder=None,
        groups=[GroupSummary(type=kind, name=name, **facts) for kind, name in groups],
        ignored_files={},
        warnings=[],
        seconds={},
        results={},
    )
    for name, contract in (("gaps", gaps), ("validation", report), ("summary", summary)):
        (folder / f"{name}.json").write_text(contract.model_dump_json())


def run_loop(config: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        loop_command(config, *arguments),
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )


def loop_command(config: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "bootstrap_loop.py"), "--config", str(config), "--debug", *map(str, arguments)]
