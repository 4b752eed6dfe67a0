"""How fast is mirror_metrics.py, beside the loop that everybody writes first, and how much memory does it take?

    python -m benchmarks.mirror_metrics_bench              # stand-in for buffalo_l, 250 pictures, about 20 minutes
    python -m benchmarks.mirror_metrics_bench --pack buffalo_l --photos DIR

Four ways are timed in turns, each as a process of its own, from start to end: a plain loop over `FaceAnalysis.get`, the
same loop with onnxruntime's spinning off, and mirror_metrics.py with a new cache, exactly and with --precision fast
(which is as exact where OpenVINO or the CPU's bfloat16 is missing: the table says what really ran). Machines are noisy:
what counts are the ratios within one run. The floor is what the needed networks take alone on one thread, by the cores.
Runs on Linux and macOS (it asks the system for the memory of a finished process).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from utils.cores import available_cores
from utils.defaults import IMAGE_EXTENSIONS

ROOT = Path(__file__).resolve().parent.parent
GROUPS = 5  # the references and four LoRA folders
NEW = 30  # pictures of one more LoRA
FLOOR_PICTURES = 24


def make_photos(folder: Path, count: int, start: int = 0) -> None:
    """JPEGs of 832 x 1216 pixels with the detail of a photo (about 250 kB), each another."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        random = np.random.default_rng(index)
        coarse = random.integers(0, 255, (19, 13, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (832, 1216), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture += random.integers(-12, 13, picture.shape, dtype=np.int16)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), np.clip(picture, 0, 255).astype(np.uint8))


def fill_world(base: Path, count: int, photos: Path | None) -> None:
    """`base`/ref and `base`/cand/lora1.. with `count` pictures together, `base`/new with NEW more."""
    targets = [base / "ref"] + [base / "cand" / f"lora{i}" for i in range(1, GROUPS)]
    if photos is None:
        for i, target in enumerate(targets):
            make_photos(target, len(range(i, count, GROUPS)), start=i * count)
        make_photos(base / "new", NEW, start=GROUPS * count)
        return
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower()[1:] in IMAGE_EXTENSIONS)
    for i in range(count + NEW):
        target = targets[i % GROUPS] if i < count else base / "new"
        target.mkdir(parents=True, exist_ok=True)
        data = found[i % len(found)].read_bytes()
        (target / f"{i:05d}{found[i % len(found)].suffix}").write_bytes(
            data + b"\0" * (i // len(found))
        )  # no two alike


def child(*arguments: object) -> dict:
    """Run a process to its end: {"seconds", "peak_mb", "stdout", "stderr"}. Raises where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=out, stderr=err, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kilobytes on Linux
    if status:
        raise SystemExit(f"{arguments} failed:\n{texts[1]}")
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / unit, "stdout": texts[0], "stderr": texts[1]}


def mirror(base: Path, pack: Path, cache: Path, output: Path, *more: str) -> dict:
    """mirror_metrics.py over a world."""
    return child(
        "mirror_metrics.py",
        *more,
        *("--reference", base / "ref", "--candidates", base / "cand", "--output", output),
        *("--pack", pack, "--cache", cache, "--json"),
    )


def standin(folder: Path, *options: str) -> Path:
    """A stand-in pack, made by another process: a process counts its parent's memory as its own until it starts."""
    child("-m", "benchmarks.standin_pack", folder, *options)
    return folder


def worker(kind: str, base: Path, pack: Path) -> dict:
    """One of this file's own processes; prints its figures as JSON."""
    return json.loads(child("-m", "benchmarks.mirror_metrics_bench", "--worker", kind, base, pack)["stdout"])


def count_calls() -> tuple[Counter[str], list[float]]:
    """From now on, the calls of every network, by the file that it came from; and the seconds of each call."""
    import onnxruntime

    calls: Counter[str] = Counter()
    seconds: list[float] = []
    run = onnxruntime.InferenceSession.run

    def counted(session, *arguments, **options):
        # the session that InsightFace derives for the detector's input size carries no path
        calls[Path(getattr(session, "model_path", "det_10g")).stem] += 1
        started = time.perf_counter()
        result = run(session, *arguments, **options)
        seconds.append(time.perf_counter() - started)
        return result

    onnxruntime.InferenceSession.run = counted
    return calls, seconds


def pictures_of(base: Path) -> list[Path]:
    return sorted((base / "ref").iterdir()) + sorted((base / "cand").rglob("*.*"))


def work_plain(base: Path, pack: Path, spinning: bool) -> dict:
    """The loop that everybody writes first; all five networks, default settings."""
    import onnxruntime
    from insightface.app import FaceAnalysis

    calls, _ = count_calls()
    options = onnxruntime.SessionOptions()
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    app = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"], sess_options=options)
    app.prepare(ctx_id=0, det_size=(640, 640))
    faces = [app.get(cv2.imread(str(path))) for path in pictures_of(base)]
    return {"images": len(faces), "faces": sum(map(len, faces)), "calls": calls}


def work_calls(base: Path, pack: Path) -> dict:
    """What our measuring runs: pictures, faces, network calls, and the networks' share of the cores' time."""
    from mirror.faces.cache import open_cache
    from mirror.faces.measurer import Measurer, Picture
    from mirror.faces.packs import find_pack

    measurer = Measurer(find_pack(str(pack)), open_cache(None))
    measurer.engine()
    calls, seconds = count_calls()
    pictures = [Picture("Reference", path.parent.name, path.name, path) for path in pictures_of(base)]
    started = time.perf_counter()
    measurer.measure(pictures)
    share = sum(seconds) / ((time.perf_counter() - started) * available_cores())
    faces = sum(picture.face.faces for picture in pictures if picture.face)
    return {"images": len(pictures), "faces": faces, "calls": calls, "network_share": share}


def work_floor(base: Path, pack: Path) -> dict:
    """Milliseconds that the needed networks take alone, one thread, one call at a time, for one picture."""
    from mirror.faces.engine import FaceEngine

    engine = FaceEngine(pack)
    _, seconds = count_calls()
    images = [cv2.imread(str(path)) for path in pictures_of(base)[:FLOOR_PICTURES]]
    engine.measure(images[0])
    seconds.clear()
    for image in images:
        engine.measure(image)
    return {"ms_per_image": 1000 * sum(seconds) / len(images)}


def compare(base: Path, pack: Path, rounds: int) -> None:
    """The table of docs/speed.md."""
    count = len(pictures_of(base))
    cores = available_cores()
    times: dict[str, list[float]] = {
        name: [] for name in ("plain", "no_spin", "floor", "cold", "fast", "stage", "map", "known", "warm", "added")
    }
    peaks: dict[str, float] = {}
    facts: dict[str, dict] = {}
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            cache, out = Path(scratch) / "cache.sqlite", Path(scratch) / "out"
            for kind in ("plain", "no_spin"):
                done = child("-m", "benchmarks.mirror_metrics_bench", "--worker", kind, base, pack)
                times[kind].append(done["seconds"])
                peaks[kind] = done["peak_mb"]
                facts[kind] = json.loads(done["stdout"])
            floors = [worker("floor", base, pack)["ms_per_image"]]
            done = mirror(base, pack, cache, out)
            floors.append(worker("floor", base, pack)["ms_per_image"])  # the machine's pace drifts: before and after
            times["floor"].append(statistics.mean(floors) / 1000 * count / cores)
            times["cold"].append(done["seconds"])
            peaks["cold"] = done["peak_mb"]
            spent = json.loads(done["stdout"])["seconds"]
            times["stage"].append(spent["measuring"])
            times["map"].append(spent["map"])
            done = mirror(base, pack, Path(scratch) / "fast.sqlite", out, "--precision", "fast")
            times["fast"].append(done["seconds"])
            peaks["fast"] = done["peak_mb"]
            engine = ", ".join(json.loads(done["stdout"])["providers"])
            for kind in ("known", "warm"):  # into a new folder, then into one that has the results
                done = mirror(base, pack, cache, Path(scratch) / "again")
                times[kind].append(done["seconds"])
                peaks[kind] = done["peak_mb"]
            shutil.copytree(base / "new", base / "cand" / "new")
            times["added"].append(mirror(base, pack, cache, out)["seconds"])
            shutil.rmtree(base / "cand" / "new")
        print(
            f"round {turn + 1}: " + "  ".join(f"{name} {values[-1]:.1f} s" for name, values in times.items()),
            flush=True,
        )
    facts["ours"] = worker("calls", base, pack)
    tell(count, cores, times, peaks, facts, engine)
    demand_equal_work(facts)


def tell(
    count: int, cores: int, times: dict[str, list[float]], peaks: dict[str, float], facts: dict[str, dict], engine: str
) -> None:
    """Medians of seconds, and medians of ratios that were taken within one round."""

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    middle = {name: statistics.median(values) for name, values in times.items()}
    labels = {
        "plain": "plain loop over FaceAnalysis.get",
        "no_spin": "the same, spinning off",
        "cold": "mirror_metrics.py, cold",
        "fast": f"the same, --precision fast ({engine})",
        "known": "mirror_metrics.py, every picture known",
        "warm": "mirror_metrics.py, nothing new",
    }
    print(f"\n{count} pictures, {cores} cores, median of {len(times['plain'])} rounds\n")
    print("| way | seconds | images/s | against the plain loop | peak memory |")
    print("|---|---|---|---|---|")
    for name, label in labels.items():
        speed, gain = count / middle[name], ratio("plain", name)
        print(f"| {label} | {middle[name]:.1f} | {speed:.1f} | {gain:.2f} x | {peaks[name]:.0f} MB |")
    added = ratio("plain", "added") * (count + NEW) / count
    print(f"| mirror_metrics.py, {NEW} new on {count} known | {middle['added']:.1f} | | {added:.1f} x | |")
    print(f"\ncold run against the loop with spinning off: {ratio('no_spin', 'cold'):.2f} x")
    print(
        f"measuring stage: {middle['stage']:.1f} s, {ratio('floor', 'stage'):.0%} of its floor {middle['floor']:.1f} s"
    )
    print(f"networks' share of the cores' time while measuring, in one run: {facts['ours'].pop('network_share'):.0%}")
    print(f"t-SNE: {middle['map']:.1f} s, {ratio('map', 'cold'):.0%} of the cold run")
    for name in ("plain", "no_spin", "ours"):
        print(f"{name}: {facts[name]['images']} images, {facts[name]['faces']} faces, calls {facts[name]['calls']}")


def demand_equal_work(facts: dict[str, dict]) -> None:
    """Fail unless both ways measured the same: pictures, faces and calls, the 2-D landmarks aside that we never run."""
    for fact in facts.values():
        fact.get("calls", {}).pop("2d106det", None)
    if not facts["plain"] == facts["no_spin"] == facts["ours"]:
        raise SystemExit("the ways did not do the same work: the times cannot be compared")


def grow(sizes: list[int], pack: Path, photos: Path | None) -> None:
    """Memory, page sizes and page build times as the number of pictures grows."""
    print("\n| pictures | cold | all known | nothing new | peak memory | dashboard | copycat report | pages built in |")
    print("|---|---|---|---|---|---|---|---|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            base = Path(scratch)
            fill_world(base, size, photos)
            cold = mirror(base, pack, base / "cache.sqlite", base / "out")
            known, warm = (mirror(base, pack, base / "cache.sqlite", base / "again") for _ in range(2))
            pages = json.loads(known["stdout"])["results"]
            sizes_mb = [(base / "again" / pages[kind]).stat().st_size / 1e6 for kind in ("dashboard", "copycat")]
            built = json.loads(known["stdout"])["seconds"]["pages"]
            print(
                f"| {size} | {cold['seconds']:.1f} s | {known['seconds']:.1f} s | {warm['seconds']:.2f} s "
                f"| {cold['peak_mb']:.0f} MB | {sizes_mb[0]:.1f} MB | {sizes_mb[1]:.1f} MB | {built:.1f} s |",
                flush=True,
            )


def memory(files: int, pack: Path) -> None:
    """Peak memory with every engine, of so many files; one in twenty is new, so that networks do not take hours."""
    print("\n| engine | files | peak memory |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        make_photos(base / "made", max(1, files // 20))
        made = sorted((base / "made").iterdir())
        for i in range(files):
            folder = base / "ref" if i < len(made) else base / "cand" / f"lora{i // len(made)}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(made[i % len(made)], folder / f"{i:05d}.jpg")
        for place, options in enumerate(((), ("--engine", "openvino"), ("--precision", "fast"))):
            done = mirror(base, pack, base / f"{place}.sqlite", base / "out", "--device", "cpu", *options)
            engine = ", ".join(json.loads(done["stdout"])["providers"])
            print(f"| {engine} | {files} | {done['peak_mb']:.0f} MB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pack", help="name or folder of a model pack (default: a stand-in for buffalo_l)")
    parser.add_argument("--photos", type=Path, help="folder of photos to use instead of made ones")
    parser.add_argument("--count", type=int, default=250, help="pictures")
    parser.add_argument("--rounds", type=int, default=2, help="turns of all ways")
    parser.add_argument("--grow", type=int, nargs="*", default=[250, 1000, 4000], help="sizes of the growth table")
    parser.add_argument("--files", type=int, default=0, help="for the memory that each engine takes: 5000, say")
    parser.add_argument(
        "--grow-pack",
        choices=("tiny", "same"),
        default="tiny",
        help="tiny shows the growth without an hour of networks",
    )
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, base, pack = args.worker[0], Path(args.worker[1]), Path(args.worker[2])
        works = {
            "plain": lambda: work_plain(base, pack, spinning=True),
            "no_spin": lambda: work_plain(base, pack, spinning=False),
            "calls": lambda: work_calls(base, pack),
            "floor": lambda: work_floor(base, pack),
        }
        print(json.dumps(works[kind]()))
        return
    from mirror.faces.packs import find_pack

    with tempfile.TemporaryDirectory() as scratch:
        pack = find_pack(args.pack).folder if args.pack else standin(Path(scratch) / "standin")
        if args.rounds:
            fill_world(Path(scratch) / "world", args.count, args.photos)
            compare(Path(scratch) / "world", pack, args.rounds)
        if args.grow:
            tiny = args.grow_pack == "tiny"
            grow(args.grow, standin(Path(scratch) / "tiny", "--tiny") if tiny else pack, args.photos)
        if args.files:
            memory(args.files, pack)


if __name__ == "__main__":
    main()
