"""Shared by the tests: where things are, the packs to measure with, and one way to run the real script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils.cores import available_cores

# The suite has more processes than cores already: threads of torch beside them only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A script that ends by a signal says where: a measuring run once did, and nobody knows why.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

# A suite that was begun in the background of a shell or under nohup ignores these, and so would every script that it
# interrupts.
for _name, _handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    _number = getattr(signal, _name, None)  # Windows has no SIGHUP
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED_FACES = ROOT.parent / "shared" / "faces"

# The files that take longest, by seconds: they come first, so that no core waits for the last of them at the end.
LONGEST = (
    "training/test_train_lora.py",
    "training/test_train_steps.py",
    "demo/test_truth.py",
    "test_documents.py",
    "generation/test_generate.py",
    "generation/test_generate_loras.py",
    "demo/test_demo.py",
    "vault/test_prep.py",
    "loop/test_bootstrap.py",
    "loop/test_bootstrap_faults.py",
    "loop/test_bootstrap_demo.py",
    "faces/test_mirror_metrics.py",
    "export/test_export_expressions.py",
    "export/test_facesheet.py",
    "export/test_did.py",
    "demo/test_train_yolo.py",
    "demo/test_train_face.py",
    "vault/test_label.py",
    "vault/test_dedup.py",
    "vault/test_workflow.py",
    "vault/test_scan.py",
    "vault/test_cluster.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests that kill and interrupt wait for much of their time. On two cores of one
    machine the suite took 18 minutes with three processes, 21 and 22 with two."""
    return available_cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@dataclass
class Run:
    """What one run of the script gave."""

    code: int
    stdout: str
    stderr: str
    output: Path

    def file(self, kind: str) -> Path:
        """The only result file that begins with `kind`."""
        (path,) = self.output.glob(f"{kind}_*")
        return path

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.file("Data"), encoding="utf-8-sig", keep_default_na=False, na_values=[""])

    @property
    def summary(self) -> dict:
        return json.loads(self.file("Summary").read_text(encoding="utf-8"))

    def row(self, filename: str, group: str | None = None) -> pd.Series:
        table = self.table
        rows = table[(table["Filename"] == filename) & ((table["Group"] == group) | (group is None))]
        assert len(rows) == 1, f"{filename}: {len(rows)} rows"
        return rows.iloc[0]


def run_script(script: str, *arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of the project as users do, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "PYTHONIOENCODING": "utf-8"} | environment,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


@pytest.fixture
def metrics(tmp_path):
    """Run mirror_metrics.py with folders and a cache of the test's own; more options as arguments."""

    def run(
        *arguments: object,
        reference: Path | None = None,
        candidates: Path | None = None,
        output: str = "out",
        **environment: str,
    ) -> Run:
        for folder in ("ref", "cand"):
            (tmp_path / folder).mkdir(exist_ok=True)
        done = run_script(
            "mirror_metrics.py",
            *("--reference", reference or tmp_path / "ref", "--candidates", candidates or tmp_path / "cand"),
            *("--output", tmp_path / output, "--cache", tmp_path / "cache.sqlite", *arguments),
            **environment,
        )
        return Run(done.returncode, done.stdout, done.stderr, tmp_path / output)

    return run


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory) -> Path:
    """A stand-in pack: all five networks, random weights, one face in every picture."""
    from benchmarks.standin_pack import build_pack

    return build_pack(tmp_path_factory.mktemp("packs") / "tiny", tiny=True)


@pytest.fixture(scope="session")
def mini_pack() -> Path:
    """The real small pack beside the repository."""
    return _shared("pack_mini")


@pytest.fixture(scope="session")
def photos() -> Path:
    """The real photos beside the repository."""
    return _shared("photos")


def _shared(name: str) -> Path:
    folder = SHARED_FACES / name
    if not folder.is_dir():
        pytest.skip(f"needs real faces in {SHARED_FACES}, which are not part of the repository")
    return folder


@pytest.fixture
def make_picture():
    """Write a colourful picture of random blobs; a seed makes it unlike the others."""

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (160, 120)) -> Path:
        from PIL import Image

        small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP"}
        picture.save(path, formats.get(path.suffix.lower(), "PNG"))
        return path

    return make


@pytest.fixture
def one_thread():
    """The tests' own process computes as their subprocesses do: sums of another order have other last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory) -> Path:
    """A tiny SDXL of random weights."""
    from tiny_models import tiny_sdxl

    return tiny_sdxl(tmp_path_factory.mktemp("base") / "sdxl")


@pytest.fixture(scope="session")
def sd15_velocity(tmp_path_factory) -> Path:
    """A tiny Stable Diffusion 1.5 of v-prediction and zero terminal SNR."""
    from tiny_models import tiny_sd15

    return tiny_sd15(tmp_path_factory.mktemp("base") / "sd15", prediction_type="v_prediction", zero_snr=True)
