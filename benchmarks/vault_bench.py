"""What the clusters of facevault.py are worth, against persons who are known.

    python -m benchmarks.vault_bench --albums 8 20 40
    python -m benchmarks.vault_bench --faces 20000 --dimensions 512

prints  for real photos (beside the repository) and rendered albums: precision and recall of pairs and BCubed F at every
        threshold, beside plain DBSCAN at 0.4 and single pairs; then time and memory of clustering
        so many perturbed embeddings.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from demo.album import make_album, write_album
from mirror.vault.clustering import is_turned, persons
from mirror.vault.neighbours import NOBODY, nearest
from mirror.vault.store import open_store
from mirror.vault.thresholds import default_threshold
from utils import options
from utils.console import EXIT_OK, print_table, run_script, say, show
from utils.defaults import DEMO_PACK, PROJECT

SHARED = PROJECT.parent / "shared" / "faces"
SWEEP = tuple(round(0.15 + 0.05 * i, 2) for i in range(12))
DBSCAN_DISTANCE, DBSCAN_SAMPLES = 0.4, 3  # as other programs set it

# Who is who in the real photos, by their README and the files' names; every other face is somebody of their own.
# Left out of all pairs: a drawing, a face blurred beyond measure, and among each other the four of "?", of whom the
# README does not say who is the same.
REAL = {"d1": "d", "d3": "d", "d4": "d", "d5": "d", "Rob_Lowe_0001": "Lowe", "Rob_Lowe_0002": "Lowe"}
REAL |= dict.fromkeys(("kun", "kun_crop", "rot_0", "rot_90", "crop"), "kun")
REAL |= {"woman": "woman", "woman_search": "woman"}
REAL |= dict.fromkeys(("yifei", "open_eyes", "close_eyes", "left_face"), "?")
# Of perturbed embeddings of 128 numbers: cosines of one person 0.55, 0.75, 0.90 (5th, 50th, 95th percentile), of
# different ones -0.14, 0.00, 0.15. Of 300 labelled pairs that pack had 0.52, 0.75, 0.86 and -0.17, -0.02, 0.14.
LIKE_MINI = 0.865
LEFT_OUT = ("kun_cartoon_crop", "blur")


@dataclass(frozen=True)
class Truth:
    """Faces of a vault by index."""

    embeddings: np.ndarray  # (N, D) float32, unit norm
    pictures: np.ndarray  # (N,) which faces are of one picture
    who: np.ndarray  # (N,) names
    turned: np.ndarray  # (N,) bool
    labels: np.ndarray  # (N,) persons that the vault holds, -1 for none


@dataclass(frozen=True)
class Scores:
    precision: float  # of pairs that are in one cluster, the share that is one person
    recall: float  # of pairs that are one person, the share that is in one cluster
    bcubed: float  # F of BCubed (Amigó et al. 2009); a face in no cluster is a cluster of its own


def truth_of(vault: Path, album: Path) -> Truth:
    """The faces of a rendered album that was scanned, with who they are."""
    entries = json.loads((album / "truth.json").read_text(encoding="utf-8"))["images"]
    known = {entry["file"]: entry["faces"] for entry in entries}

    def name(file: str, box: tuple[float, ...], face: int) -> str:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        boxes = [(one["person"], one["box_xyxy"]) for one in known[file] if one["box_xyxy"]]
        return next((who for who, b in boxes if b[0] <= x <= b[2] and b[1] <= y <= b[3]), f"nobody {face}")

    return _truth(vault, name)


def _truth(vault: Path, name) -> Truth:
    with open_store(vault) as store:
        faces, pictures = store.faces(), store.pictures()
        embeddings = store.embeddings(faces)
    numbers = {content: i for i, content in enumerate(pictures)}
    return Truth(
        embeddings,
        np.array([numbers[face.content] for face in faces]),
        np.array([name(pictures[face.content].paths[0].name, face.box_xyxy, face.id) for face in faces]),
        is_turned(np.array([face.yaw_deg for face in faces])),
        np.array([-1 if face.person is None else face.person for face in faces]),
    )


def real_truth(vault: Path) -> Truth:
    """The faces of the real photos."""
    found = _truth(vault, lambda file, box, face: REAL.get(Path(file).stem, f"{Path(file).stem} {face}"))
    keep = [not name.startswith(LEFT_OUT) for name in found.who]
    return Truth(*(getattr(found, field.name)[keep] for field in fields(Truth)))


def scores(labels: np.ndarray, who: np.ndarray) -> Scores:
    """Of faces (N,) in clusters, -1 in none."""
    together = (labels[:, None] == labels) & (labels != -1) & (labels[:, None] != -1)
    same = who[:, None] == who
    counted = np.triu(~((who[:, None] == "?") & (who == "?")), 1)
    both = (together & same & counted).sum()
    shown, true = (together & counted).sum(), (same & counted).sum()
    own = together | np.eye(len(labels), dtype=bool)
    precision, recall = ((own & same).sum(axis=1) / mask.sum(axis=1) for mask in (own, same))
    p, r = precision.mean(), recall.mean()
    return Scores(float(both / max(1, shown)), float(both / max(1, true)), float(2 * p * r / (p + r)))


def sweep(title: str, truth: Truth, pack: str, min_cluster: int) -> None:
    """One table: every threshold, and DBSCAN alone."""
    cosine = truth.embeddings @ truth.embeddings.T
    pairs = np.triu(~((truth.who[:, None] == "?") & (truth.who == "?")), 1)
    same = truth.who[:, None] == truth.who
    apart, alike = cosine[pairs & ~same], cosine[pairs & same]
    limit = np.quantile(apart, 0.99)
    default, _ = default_threshold(pack)
    rows = []
    for threshold in sorted({*SWEEP, default}):
        labels = persons(truth.embeddings, truth.pictures, threshold, min_cluster, turned=truth.turned)
        mark = " (default)" if threshold == default else ""
        rows.append([f"{threshold:.2f}{mark}", *_cells(scores(labels, truth.who)), str(labels.max(initial=-1) + 1)])
    plain = plain_dbscan(truth.embeddings, DBSCAN_DISTANCE, min(DBSCAN_SAMPLES, min_cluster))
    rows.append([f"DBSCAN at {DBSCAN_DISTANCE}", *_cells(scores(plain, truth.who)), str(plain.max(initial=-1) + 1)])
    print_table(title, ["Threshold", "Precision", "Recall", "BCubed F", "Persons"], rows)
    show(
        f"{len(truth.who)} faces of {len(set(truth.who))} persons, pack {pack}; single pairs: "
        f"{(alike >= limit).mean():.1%} of the same person are above 99 % of different ones (cosine {limit:.2f})"
    )


def plain_dbscan(embeddings: np.ndarray, distance: float, min_samples: int) -> np.ndarray:
    """Labels (N,) of DBSCAN on cosine distance, NOBODY for noise, of each face's NEIGHBOURS nearest."""
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import sort_graph_by_row_values

    if len(embeddings) < 2:
        return np.full(len(embeddings), NOBODY)
    graph = nearest(embeddings, distance)
    if not graph.nnz:
        return np.full(len(embeddings), NOBODY)
    graph = sort_graph_by_row_values(graph, warn_when_not_sorted=False)
    return DBSCAN(eps=distance, min_samples=min_samples, metric="precomputed").fit_predict(graph)


def hard_ones(truth: Truth, pack: str, persons_in_album: int) -> None:
    """The siblings and the one who is photographed over thirty years, at the default threshold."""
    labels = persons(truth.embeddings, truth.pictures, default_threshold(pack)[0], 3, turned=truth.turned)
    one, other = (labels[truth.who == name] for name in ("p00", "p01"))
    found = (one != -1)[:, None] & (other != -1)
    mixed = ((one[:, None] == other) & found).sum() / max(1, found.sum())
    years = labels[truth.who == f"p{persons_in_album - 1:02d}"]
    largest = max(((years == label).sum() for label in set(years) - {-1}), default=0)
    show(
        f"siblings: {mixed:.0%} of their pairs in one cluster; one person over thirty years: "
        f"{largest} of {len(years)} faces in one cluster"
    )


def _cells(one: Scores) -> list[str]:
    return [f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.bcubed:.3f}"]


def scanned(photos: Path, pack: str, vault: Path) -> str:
    """Scan with the real script; identity of the pack."""
    import subprocess

    command = [sys.executable, str(PROJECT / "facevault.py"), "scan", str(photos), "--pack", pack]
    subprocess.run([*command, "--output", str(vault)], check=True, stdout=subprocess.DEVNULL)
    with open_store(vault) as store:
        return store.fact("pack")


def gallery(count: int, dimensions: int, share: float = 0.67, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Perturbed embeddings: (faces (N, D), picture of each, who): persons of 10 to 60 faces, a tenth strangers.

    Cosine of two faces of a person is about `share` squared, 0.45 with a tail down to 0.1: a hard library.
    """
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    while sum(sizes) < count * 0.9:
        sizes.append(int(rng.integers(10, 61)))
    who = np.repeat(np.arange(len(sizes)), sizes)[: int(count * 0.9)]
    who = np.concatenate([who, len(sizes) + np.arange(count - len(who))])
    centres = rng.standard_normal((who.max() + 1, dimensions), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    share = np.clip(rng.normal(share, 0.08, count), 0.3, 0.97).astype(np.float32)[:, None]
    noise = rng.standard_normal((count, dimensions), dtype=np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    faces = share * centres[who] + np.sqrt(1 - share**2) * noise
    pictures = rng.permutation(count) // 2
    pairs = np.argsort(pictures)[: count // 2 * 2].reshape(-1, 2)  # nobody is twice in a picture
    twice = pairs[who[pairs[:, 0]] == who[pairs[:, 1]], 1]
    pictures[twice] = count + np.arange(len(twice))
    return faces / np.linalg.norm(faces, axis=1, keepdims=True), pictures, who


def large(count: int, dimensions: int) -> None:
    """Time, memory and scores (of 4,000 of the faces) of one clustering."""
    import resource

    faces, pictures, who = gallery(count, dimensions)
    began, busy = time.monotonic(), time.process_time()
    labels = persons(faces, pictures, 0.35, 3)
    took, busy = time.monotonic() - began, time.process_time() - busy
    some = np.random.default_rng(1).choice(count, min(count, 4000), replace=False)
    found = scores(labels[some], who[some])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    show(
        f"{count:,} faces of {dimensions} numbers: {took:.1f} s ({busy:.1f} s of processor time), {memory:.2f} GB, "
        f"precision {found.precision:.3f}, recall {found.recall:.3f}"
    )


def run(args: argparse.Namespace) -> int:
    """All tables, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        mini = SHARED / "pack_mini"
        if mini.is_dir():
            pack = scanned(SHARED / "photos", str(mini), folder / "real")
            sweep("Real photos, persons from 2 faces on", real_truth(folder / "real"), pack, 2)
            like_mini = Truth(*gallery(2000, 128, LIKE_MINI), np.zeros(2000, dtype=bool), np.array([]))
            sweep("Perturbed embeddings, as far apart as that pack's", like_mini, pack, 3)
        else:
            say(f"{SHARED} is not here: no real photos.")
        for count in args.albums:
            album = folder / f"album{count}"
            write_album(album, make_album(args.seed, count, tuple(args.photos)), args.pixels)
            pack = scanned(album, DEMO_PACK, folder / f"vault{count}")
            truth = truth_of(folder / f"vault{count}", album)
            sweep(f"Rendered album of {count} persons", truth, pack, 3)
            hard_ones(truth, pack, count)
    for count in args.faces:
        large(count, args.dimensions)
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.vault_bench", __doc__)
    add = parser.add_argument
    add("--albums", type=options.count, nargs="*", default=[6, 20, 40], metavar="N", help="persons of each album")
    add("--photos", type=options.count, nargs=2, default=[10, 30], metavar=("FEWEST", "MOST"), help="of each person")
    add("--pixels", type=options.count, default=256, metavar="N", help="height of the rendered pictures")
    add("--seed", type=options.seed, default=2, metavar="N", help="decides the albums")
    add("--faces", type=options.count, nargs="*", default=[20000], metavar="N", help="perturbed embeddings")
    add("--dimensions", type=options.count, default=512, metavar="N", help="numbers of a perturbed embedding")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
