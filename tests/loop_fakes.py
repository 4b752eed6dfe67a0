"""The steps of a loop in no time: one program for all, under the `command` keys, with the files that ours write.

    python loop_fakes.py STEP TEMPLATES argument ...

Standard library alone, so that it starts at once. What it makes depends on what it reads, never on a clock. Between
its writes it waits, so that there is a moment in which it can be killed with half of its work on the disk. A file
TEMPLATES/fail_STEP makes it fail: `exit` with a code, `kill`, or with one of the faulty results named below.
"""

import hashlib
import json
import os
import shutil
import signal
import struct
import sys
import time
import zlib
from pathlib import Path

PAUSE_S = float(os.environ.get("FAKE_PAUSE_S", "0.012"))


def pause():
    time.sleep(PAUSE_S)


def picture(seed):
    """A 16 x 16 PNG that the seed decides."""
    pixels = b"".join(b"\0" + (hashlib.sha256(f"{seed} {y}".encode()).digest() * 2)[:48] for y in range(16))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def pictures_in(folder):
    return sorted(path for path in Path(folder).iterdir() if path.suffix == ".png" and not path.name.startswith("."))


def write(path, text):
    """In two halves, with a pause between: a kill leaves half a file."""
    data = text.encode() if isinstance(text, str) else text
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        pause()
        file.write(data[len(data) // 2 :])


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def gaps(templates, dataset, output):
    report = json.loads((templates / "gaps.json").read_text())
    names = [path.name for path in pictures_in(dataset)]
    report["created"], report["dataset"] = now(), str(dataset)
    for one in report["distributions"]:
        for share in one["targets"]:
            share["count"] += sum(f"_{one['type']}_{share['target']}_" in name for name in names)
    if len(names) > 60:
        report["recommendations"] = []
    write(output, json.dumps(report))


def generate(templates, wanted, plan, lora, output, seed):
    folder = Path(output)
    origin = sha256(lora)
    quality = json.loads(read_header(lora)["__metadata__"]["quality"])
    if plan:
        todo = [
            (f"{one['name']}.png", one["prompt"], one["seed"], None, None)
            for one in json.loads(Path(plan).read_text())["images"]
        ]
    else:
        gaps = json.loads(Path(wanted).read_text())["recommendations"]
        todo = [
            (
                f"synthetic_{one['type']}_{one['target']}_{i:03d}.png",
                f"ohwx alice, {one['target']} {i}",
                int(seed) * 100 + i,
                one["type"],
                one["target"],
            )
            for one in gaps
            for i in range(min(one["count"], 4))
        ]
    images = []
    for name, prompt, number, kind, target in todo:
        write(folder / name, picture(f"{origin} {prompt} {number}"))
        images.append({"file": name, "gap_type": kind, "target": target, "prompt": prompt, "seed": number})
    metadata = {"schema_version": 1, "script": "loop_fakes.py", "created": now(), "images": images}
    metadata |= {"gaps_file": wanted or None, "settings": {"quality": quality}}
    write(folder / "generation_metadata.json", json.dumps(metadata))


def read_header(path):
    data = Path(path).read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def validate(templates, folder, approved, report):
    told = json.loads((templates / "validation.json").read_text())
    metadata = json.loads((Path(folder) / "generation_metadata.json").read_text())
    images, none = [], (templates / "approve_none").exists()
    for one in metadata["images"]:
        path = Path(folder) / one["file"]
        good = not none and int(sha256(path)[:4], 16) % 5 > 0
        if good:
            write(Path(approved) / path.name, path.read_bytes())
        outcome = {
            "check": "target",
            "value": "x",
            "limit": "x",
            "outcome": "passed" if good else "failed",
            "reason": "" if good else "angle",
        }
        images.append(
            {
                "file": one["file"],
                "sha256": sha256(path),
                "verdict": "approved" if good else "rejected",
                "gap_type": one["gap_type"],
                "target": one["target"],
                "quality": 0.8,
                "checks": [outcome],
                "copied_to": str(Path(approved) / path.name) if good else None,
            }
            | dict.fromkeys(("relative_sharpness", "yaw_deg", "similarity", "nearest_reference", "nearest_similarity"))
        )
    count = sum(one["verdict"] == "approved" for one in images)
    told |= {
        "created": now(),
        "folder": str(folder),
        "images": images,
        "approved": count,
        "rejected": len(images) - count,
    }
    told |= {"failures": {"target": len(images) - count}, "mean_quality": 0.8 if count else None}
    write(report, json.dumps(told))


def train(templates, dataset, output):
    folder = Path(output)
    paths = pictures_in(dataset)
    assert all(path.with_suffix(".txt").exists() for path in paths if path.name.startswith("synthetic_"))
    content = hashlib.sha256("".join(f"{path.name} {sha256(path)}" for path in paths).encode()).digest()
    merged = sum(path.name.startswith("synthetic_") for path in paths)
    gain = 0.0 if (templates / "no_gain").exists() else 0.035 * merged**0.75
    tensor = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
    header = json.dumps({"a.weight": tensor, "__metadata__": {"quality": json.dumps(0.4 + gain)}}).encode()
    write(folder / "lora.safetensors", len(header).to_bytes(8, "little") + header + content)
    write(folder / "training_log.json", json.dumps({"created": now(), "finished": True, "images": len(paths)}))


def metrics(templates, candidates, output):
    told = json.loads((templates / "summary.json").read_text())
    told["created"] = now()
    group = told["groups"].pop()
    for folder in sorted(Path(candidates).iterdir()):
        quality = json.loads((folder / "generation_metadata.json").read_text())["settings"]["quality"]
        spread = group["similarity"] | {"median": quality}
        told["groups"].append(
            group
            | {"name": folder.name, "similarity": spread, "identity": quality}
            | {"identity_interval": [quality - 0.01, quality + 0.01]}
        )
    stamp = time.strftime("%Y%m%d_%H%M%S")
    write(Path(output) / f"Summary_{stamp}.json", json.dumps(told))


STEPS = {"gaps": gaps, "generate": generate, "validate": validate, "train": train, "metrics": metrics}


def spoil(how, step, arguments):
    """What a broken program leaves, by name; True where the step is not done at all."""
    if how.startswith("exit"):
        print("something useful about the failure", file=sys.stderr)
        sys.exit(int(how.split()[1]))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return how == "nothing"


def cut(path):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


def after(how, step, arguments):
    """Results that look done and are not."""
    named = {"gaps": arguments[-1:], "validate": arguments[-1:]}
    if how == "cut":
        folder = Path(arguments[3 if step == "generate" else 1])
        results = {
            "generate": lambda: pictures_in(folder)[0],
            "train": lambda: folder / "lora.safetensors",
            "metrics": lambda: next(folder.glob("Summary_*")),
        }
        cut(named[step][0] if step in named else results[step]())
    elif how == "lost":
        pictures_in(arguments[3] if step == "generate" else arguments[1])[0].unlink()
    elif how == "stray":
        shutil.copy(pictures_in(arguments[3])[0], Path(arguments[3]) / "stray.png")
    elif step == "generate":
        spoil_images(how, Path(arguments[3]))
    elif how == "unfinished":
        (Path(arguments[1]) / "training_log.json").write_text("{}")
    elif step == "metrics":
        spoil_summary(how, next(Path(arguments[1]).glob("Summary_*")))


def spoil_images(how, folder):
    """Images that are all whole and named, and not those that were asked for."""
    path = folder / "generation_metadata.json"
    told = json.loads(path.read_text())
    first = told["images"][0]
    if how in ("ignored", "fewer"):
        kept = [one for one in told["images"] if one["target"] != first["target"]]
        kept += [first] if how == "fewer" else []
        for one in told["images"]:
            if one not in kept:
                (folder / one["file"]).unlink()
        told["images"] = kept
    elif how == "strange":
        first["target"] = "three_quarter"
    elif how == "more":
        shutil.copy(folder / first["file"], folder / "more.png")
        told["images"].append(first | {"file": "more.png"})
    elif how == "prompt":
        first["prompt"] = "somebody else"
    elif how == "seed":
        first["seed"] += 1
    path.write_text(json.dumps(told))


def spoil_summary(how, path):
    told = json.loads(path.read_text())
    if how == "columns":
        (path.parent / "Data.csv").write_text("A,B\n1,2\n")
        told["results"]["data"] = "Data.csv"
    elif how == "faces":
        told["groups"][-1]["faces"] = 99
    path.write_text(json.dumps(told))


def main():
    step, templates, *arguments = sys.argv[1:]
    wish = Path(templates) / f"fail_{step}"
    how = wish.read_text().strip() if wish.exists() else ""
    print(f"{step} begins", file=sys.stderr, flush=True)
    pause()
    if spoil(how, step, arguments):
        return
    STEPS[step](Path(templates), *arguments)
    after(how, step, arguments)


if __name__ == "__main__":
    main()
