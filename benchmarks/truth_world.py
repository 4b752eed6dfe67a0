"""One world of known truth through the real mirror_metrics.py: written, measured, and compared with its truth.

`measure_world` gives plain numbers (JSON) for truth_bench.py. Everything is read from what the
script wrote: Data_*.csv, Summary_*.json, and its cache where a figure needs the embeddings themselves.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.truth_panels import PANELS, nearest_median, top_hits_share
from demo import make_world as writer
from demo.identity import Identity, draw_identity
from demo.parallel import render_all
from demo.scene import BACKGROUNDS, Scene, draw_scene
from demo.sets import DEFAULT_SEVERITY, KINDS, STEPS, Shot, World, far_stranger, make_reference, make_set, make_world
from mirror.faces.cache import FaceCache, content_hash, open_cache
from mirror.faces.engine import settings_key
from mirror.faces.metrics import centroid, leave_one_out
from utils.defaults import DETECTION_SIZE

ROOT = Path(__file__).resolve().parent.parent
PLAIN_YAWS_DEG = range(-80, 81, 20)
PAIR_YAW_DEG = 40.0  # heads are compared with each other up to this angle, as the renderer's promise says
HEADS, PICTURES_A_HEAD = 6, 2
MORPH_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the way from the person to another one
SEVERITIES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
SWEPT = [kind for kind in KINDS if DEFAULT_SEVERITY[kind] > 0]


def plain_heads(world: World) -> tuple[Shot, ...]:
    """The person from profile to profile, everything else neutral."""
    place = {
        "background": BACKGROUNDS[world.seed % len(BACKGROUNDS)],
        "background_seed": world.seed,
        "clothes_seed": world.seed,
    }
    return tuple(Shot(Scene(world.person, yaw_deg=float(yaw), seed=yaw + 90, **place)) for yaw in PLAIN_YAWS_DEG)


def everyday(who: Identity, random: np.random.Generator) -> Scene:
    return draw_scene(who, random, yaw_deg=float(random.uniform(-PAIR_YAW_DEG, PAIR_YAW_DEG)))


def passers_by(seed: int) -> list[Identity]:
    """HEADS people at random, none of them the world's own."""
    random = np.random.default_rng([seed, 31])
    return [draw_identity(random) for _ in range(HEADS)]


def morphed(world: World, random: np.random.Generator) -> tuple[Shot, ...]:
    """The person on the way to another one; hair and the like switch in the middle."""
    other = far_stranger(world.person, random, 4)
    faces = [world.person.towards(other, share) for share in MORPH_SHARES]
    return tuple(Shot(everyday(who, random), facts={"distance": world.person.distance(who)}) for who in faces)


def outliers_at(world: World, severity: float) -> tuple[Shot, ...]:
    """The planted outliers of the references, as faces only `severity` of the way to the stranger."""
    other = world.person.towards(world.stranger, severity)
    shots = make_reference(world.person, other, world.seed, len(world.reference))
    return tuple(shot for shot in shots if shot.planted == "outlier")


@dataclass
class Measured:
    """What mirror_metrics.py said about a world. `rows` is Data_*.csv with the truth's columns beside it."""

    base: Path
    rows: pd.DataFrame
    summary: dict
    cache: FaceCache

    def group(self, name: str) -> pd.DataFrame:
        return self.rows[self.rows["Group"] == name]

    @property
    def references(self) -> pd.DataFrame:
        return self.rows[self.rows["Type"] == "Reference"]

    def embeddings(self, rows: pd.DataFrame) -> list[np.ndarray | None]:
        """Of each row, from the run's own cache; None without a face."""
        found = []
        for row in rows.itertuples():
            content = content_hash((folder_of(self.base, row.Group) / row.Filename).read_bytes())
            face = self.cache.get_face(content, self.summary["pack"]["identity"], settings_key(DETECTION_SIZE))
            found.append(None if face is None else face.embedding)
        return found


def folder_of(base: Path, group: str) -> Path:
    return base / "Reference_Images" if group == "Reference" else base / "Lora_Candidates" / group


def write_world(base: Path, seed: int, size: int, pixels: int, sweep: bool) -> None:
    """The demo world as `python -m demo.make_world` writes it, and the bench's own groups beside its sets."""
    with contextlib.redirect_stderr(io.StringIO()):  # a line for each set
        writer.run(base, writer.Settings(seed, size, pixels), workers=1)
    world = make_world(seed, reference_size=max(size + 4, 8))
    random = np.random.default_rng([seed, 32])
    extra = {
        "bench_plain": plain_heads(world),
        "bench_heads": [Shot(everyday(who, random)) for who in passers_by(seed) for _ in range(PICTURES_A_HEAD)],
        "bench_morph": morphed(world, random),
    }
    for severity in SEVERITIES if sweep else ():
        extra[f"sweep_{severity}_outliers"] = outliers_at(world, severity)
        for kind in SWEPT:
            extra[f"sweep_{severity}_{kind}"] = make_set(world, kind, size, severity).shots
    for group, shots in extra.items():
        pictures = render_all([shot.scene for shot in shots], pixels, workers=1)
        writer.write_shots(base / "Lora_Candidates" / group, shots, pictures, {"set": group})


def run_script(pack: str, base: Path, candidates: str, output: Path, cache: Path) -> str:
    """mirror_metrics.py as users run it, over the world in `base`; its summary as JSON. Raises RuntimeError with what
    it said."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "mirror_metrics.py"), "--pack", pack, "--cache", str(cache)),
            *("--reference", str(base / writer.REFERENCES), "--candidates", str(base / candidates)),
            *("--output", str(output), "--json"),
        ],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise RuntimeError(f"mirror_metrics.py ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def run_mirror_metrics(base: Path, pack: str) -> Measured:
    """The results of the real script, with a cache of its own. Raises RuntimeError with what it said."""
    output, cache = base / "results", base / "cache.sqlite"
    run_script(pack, base, writer.CANDIDATES, output, cache)
    (data,) = output.glob("Data_*.csv")
    (summary,) = output.glob("Summary_*.json")
    table = pd.read_csv(data, encoding="utf-8-sig", keep_default_na=False, na_values=[""])
    rows = table.merge(truth_table(base, table["Group"].unique()), on=["Group", "Filename"], how="left")
    return Measured(base, rows, json.loads(summary.read_text(encoding="utf-8")), open_cache(cache))


def truth_table(base: Path, groups: list[str]) -> pd.DataFrame:
    """One row for each picture: what truth.json of its folder says."""
    rows = []
    for group in groups:
        truth = json.loads((folder_of(base, group) / "truth.json").read_text(encoding="utf-8"))
        rows += [
            {
                "Group": group,
                "Filename": entry["file"],
                "Planted": entry["planted"],
                "Facts": entry["facts"],
                "TrueYaw": entry["yaw_deg"],
            }
            for entry in truth["images"]
        ]
    return pd.DataFrame(rows)


def measure_world(seed: int, pack: str, size: int, pixels: int, sweep: bool = False) -> dict:
    """Everything that the figures need of one world, as plain numbers; its files are gone afterwards."""
    cv2.setNumThreads(1)  # worlds run side by side, one a core
    with tempfile.TemporaryDirectory() as scratch:
        write_world(Path(scratch), seed, size, pixels, sweep)
        measured = run_mirror_metrics(Path(scratch), pack)
        try:
            return {
                "seed": seed,
                "pack": measured.summary["pack"],
                "yaw": yaw_facts(measured),
                "heads": head_facts(measured, seed),
                "references": reference_facts(measured),
                "copies": copy_facts(measured),
                "close_ups": close_up_facts(measured),
                "steps": step_facts(measured),
                "panels": panel_facts(measured, {kind: kind for kind in KINDS}),
                "balanced": panel_facts(measured, dict.fromkeys(KINDS, "balanced")),
                "sweep": {str(severity): sweep_facts(measured, severity) for severity in SEVERITIES if sweep},
            }
        finally:
            measured.cache.close()


def number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def yaw_facts(measured: Measured) -> dict:
    """[true, measured or None, status] of plain heads, and [true, measured] of everyday heads."""
    rows = measured.group("bench_plain")
    plain = [[row.TrueYaw, number(row.Yaw), row.Status] for row in rows.itertuples()]
    daily = measured.group("balanced").dropna(subset=["Yaw"])
    return {"plain": plain, "everyday": daily[["TrueYaw", "Yaw"]].to_numpy().tolist()}


def head_facts(measured: Measured, seed: int) -> dict:
    """Cosines of pairs of pictures: of the same head, and of different heads with their true distance."""
    people = passers_by(seed)
    faces = measured.embeddings(measured.group("bench_heads"))
    found = [(i // PICTURES_A_HEAD, face) for i, face in enumerate(faces) if face is not None]
    same, different = [], []
    for (a, first), (b, second) in combinations(found, 2):
        cosine = float(first @ second)
        if a == b:
            same.append(cosine)
        else:
            different.append([people[a].distance(people[b]), cosine])
    morph = measured.group("bench_morph").dropna(subset=["Similarity"])
    nearer = [[row.Facts["distance"], row.Similarity] for row in morph.itertuples()]
    return {"same": same, "different": different, "morph": nearer}


def reference_facts(measured: Measured) -> dict:
    """Do planted outliers have the lowest leave-one-out scores, and do duplicates find each other?"""
    rows = measured.references
    by_name = rows.set_index("Filename")
    outlier = rows["Planted"] == "outlier"
    scores = rows["Similarity"]
    lowest = set(scores.nsmallest(int(outlier.sum())).index)
    pairs = []
    for row in rows[rows["Planted"] == "near_duplicate"].itertuples():
        original = f"{row.Facts['of']:03d}.png"
        mutual = row.NearestReference == original and by_name.loc[original, "NearestReference"] == row.Filename
        pairs.append([bool(mutual), number(row.NearestSimilarity)])
    others = rows[~outlier & (rows["Planted"] != "near_duplicate")]
    single = others[~others["Filename"].isin(by_name.loc[by_name["Planted"] == "near_duplicate", "NearestReference"])]
    return {
        "outliers_last": lowest == set(rows[outlier].index),
        "outlier_margin": number(scores[~outlier].min() - scores[outlier].max()),
        "duplicates": pairs,
        "nearest_of_single": number(single["NearestSimilarity"].median()),
    }


def copy_facts(measured: Measured) -> dict:
    """Do planted near copies come first in the Copycat order, and does their source top the Black Hole Ranking?"""
    demo = [*KINDS, *(f"lora-{step:06d}" for step in STEPS)]
    report = measured.rows[measured.rows["Group"].isin(demo)]
    return {"set": copies_first(measured.group("overtrained")), "report": copies_first(report)}


def copies_first(rows: pd.DataFrame) -> dict:
    """Precision among the first k of the Copycat order, k planted copies; `chance` is their share of all faces."""
    copies = rows["Planted"] == "near_copy"
    order = rows.sort_values("NearestSimilarity", ascending=False, na_position="last").index
    count = int(copies.sum())
    (source,) = {f"{facts['of_reference']:03d}.png" for facts in rows.loc[copies, "Facts"]}
    hits = Counter(rows["NearestReference"].dropna()).most_common(2)
    alone = len(hits) == 1 or hits[0][1] > hits[1][1]
    return {
        "precision": float(copies[order[:count]].mean()),
        "chance": count / int(rows["Similarity"].notna().sum()),
        "source_first": alone and hits[0][0] == source,
    }


def close_up_facts(measured: Measured) -> list[dict]:
    """Of each planted close-up: status, and how alike it is to the person and to the stranger."""
    rows = measured.group("close_ups")
    rows = rows[rows["Planted"] == "close_up"]
    person = mean_face(measured.embeddings(measured.references[measured.references["Planted"] != "outlier"]))
    stranger = mean_face(measured.embeddings(measured.group("wrong_person")))
    found = []
    for row, face in zip(rows.itertuples(), measured.embeddings(rows), strict=True):
        fact = {"status": row.Status, "similarity": number(row.Similarity)}
        if face is not None:
            fact |= {"person": float(face @ person), "stranger": float(face @ stranger)}
        found.append(fact)
    return found


def mean_face(embeddings: list[np.ndarray | None]) -> np.ndarray:
    return centroid(np.stack([face for face in embeddings if face is not None]))


def step_facts(measured: Measured) -> list[list[float | None]]:
    """[median Similarity, median NearestSimilarity, share of the images that one reference takes] of each step."""
    groups = [measured.group(f"lora-{step:06d}") for step in STEPS]
    references = measured.references
    return [
        [
            number(rows["Similarity"].median()),
            number(nearest_median(rows, references)),
            number(top_hits_share(rows, references)),
        ]
        for rows in groups
    ]


def panel_facts(measured: Measured, group_of: dict[str, str]) -> dict[str, float | None]:
    """Each panel's number for the group that stands for its kind of set."""
    return {panel.key: panel.value(measured.group(group_of[panel.kind]), measured.references) for panel in PANELS}


def sweep_facts(measured: Measured, severity: float) -> dict:
    """The panels for sets of one severity; and whether milder outliers would be last among the references."""
    good = measured.references[measured.references["Planted"] != "outlier"]
    milder = [face for face in measured.embeddings(measured.group(f"sweep_{severity}_outliers")) if face is not None]
    faces = [face for face in measured.embeddings(good) if face is not None]
    scores = leave_one_out(np.stack(faces + milder))
    return {
        "panels": panel_facts(measured, {kind: f"sweep_{severity}_{kind}" for kind in KINDS}),
        "copies": copies_first(measured.group(f"sweep_{severity}_overtrained")),
        "outliers_last": bool(milder and scores[len(faces) :].max() < scores[: len(faces)].min()),
    }
