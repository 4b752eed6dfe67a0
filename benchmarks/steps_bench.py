"""How fast are gap_analysis.py and validate_synthetic.py, beside their networks alone?

    python -m benchmarks.steps_bench              # stand-in for buffalo_l, two YOLOv8n, 200 pictures, about 6 minutes
    python -m benchmarks.steps_bench --count 40

Each script runs as a process of its own with a new cache, from start to end. The networks alone: what the pack's
networks take for one picture on one thread, by the cores, plus what ultralytics' own modules take in batches of ready
tensors on all cores; before and after, because machines drift. Start-up, decoding, detectors' own work around the
networks, pixels, decisions, pages and copies are what is between the two. What counts are the ratios within one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.mirror_metrics_bench import child, make_photos, standin, worker
from utils.cores import available_cores

SHARE_OF_REAL = 0.25  # of the pictures that validation looks at: it measures the dataset too
DETECTORS = ("hand_yolov8n.pt", "eyes_yolov.pt")
REPEATS = 4
INPUT_HW = (640, 448)  # of a detector for pictures of 832 x 1216, the longer side at 640, in strides of 32


def make_detectors(folder: Path) -> None:
    """Checkpoints of YOLOv8n with random weights, as ultralytics writes them, for hands and for eyes."""
    folder.mkdir()
    for seed, name in enumerate(DETECTORS):
        child("-c", MAKE, folder / name, seed)


MAKE = """
import sys
import torch
from mirror.detectors.ultralytics_yolo import import_tasks
torch.manual_seed(int(sys.argv[2]))
model = import_tasks().DetectionModel("yolov8n.yaml", nc=1, verbose=False)
model.names = {0: ["hand", "eye"][int(sys.argv[2])]}
torch.save({"model": model.half(), "date": "", "version": "8"}, sys.argv[1])
"""


def work_detectors() -> dict:
    """Milliseconds that the detectors' modules take for one picture, fused, in batches as the product makes them."""
    import torch

    from mirror.detectors.detectors import BATCH
    from mirror.detectors.ultralytics_yolo import import_tasks

    batch = torch.zeros(BATCH, 3, *INPUT_HW)
    seconds = []
    for _ in DETECTORS:
        module = import_tasks().DetectionModel("yolov8n.yaml", nc=1, verbose=False).eval().fuse(verbose=False)
        with torch.inference_mode():
            module(batch)
            for _ in range(REPEATS):
                started = time.perf_counter()
                module(batch)
                seconds.append(time.perf_counter() - started)
    return {"ms_per_image": 1000 * statistics.median(seconds) / BATCH * len(DETECTORS)}


def networks(base: Path, pack: Path) -> float:
    """Seconds that all networks take for one picture."""
    alone = worker("floor", base, pack)["ms_per_image"] / available_cores()
    told = child("-m", "benchmarks.steps_bench", "--worker")["stdout"]
    detectors = json.loads(told.splitlines()[-1])["ms_per_image"]
    return (alone + detectors) / 1000


def write_batch(folder: Path, count: int) -> None:
    """Generated images of the detail of a photo, asked to show profiles."""
    make_photos(folder, count, start=100_000)
    names = sorted(path.name for path in folder.iterdir())
    images = [{"file": name, "gap_type": "face_angle", "target": "profile"} for name in names]
    told = {"schema_version": 1, "created": "", "gaps_file": "../gaps.json", "images": images}
    (folder / "generation_metadata.json").write_text(json.dumps(told), encoding="utf-8")


def compare(base: Path, pack: Path, count: int) -> None:
    """Both scripts against their networks, one after the other."""
    real = round(count * SHARE_OF_REAL)
    make_photos(base / "ref", count)
    make_photos(base / "few", real, start=count)
    (base / "cand").mkdir()
    models = base / "models"
    make_detectors(models)
    write_batch(base / "batch", count - real)
    steps = {
        "gap_analysis.py": (base / "ref", "--output", base / "all.json"),
        "validate_synthetic.py": (base / "batch",),
    }
    child("gap_analysis.py", base / "few", *_common(base, pack, models), "--output", base / "gaps.json", "--no-cache")
    print("| script | images | seconds | images/s | its networks alone, images/s | share |")
    print("|---|---|---|---|---|---|")
    for script, arguments in steps.items():
        before = networks(base, pack)
        done = child(script, *arguments, *_common(base, pack, models), "--cache", base / f"{script}.sqlite")
        alone = statistics.mean([before, networks(base, pack)])
        speed = count / done["seconds"]
        share = speed * alone
        print(
            f"| {script} | {count} | {done['seconds']:.1f} | {speed:.2f} | {1 / alone:.2f} | {share:.0%} |", flush=True
        )


def _common(base: Path, pack: Path, models: Path) -> tuple:
    return ("--pack", pack, "--models-dir", models, "--device", "cpu")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=200, help="pictures that each script looks at")
    parser.add_argument("--pack", type=Path, help="folder of a model pack instead of the stand-in")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work_detectors()))
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        compare(base, args.pack or standin(base / "pack"), args.count)


if __name__ == "__main__":
    main()
