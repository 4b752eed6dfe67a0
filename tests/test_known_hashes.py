"""Hashes of base models: read once, and again as soon as anything about the file changes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

ASK = """
import sys
from pathlib import Path
import utils.known_hashes as hashes
hashes.HASHES_FILE, hashes.KEPT_FROM = Path(sys.argv[1]), 1000
from mirror.generation.pipelines import local_identity
print(local_identity(sys.argv[2]))
"""


def ask(kept: Path, model: Path) -> str:
    """The identity of a model, as generate_synthetic.py writes it, in a process of its own."""
    command = [sys.executable, "-c", ASK, str(kept), str(model)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def identity(path: Path) -> str:
    return f"{path.stem}@{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "base.safetensors"
    path.write_bytes(os.urandom(5000))
    os.utime(path, (0, time.time() - 60))
    return path


def test_a_base_model_is_read_once(model, tmp_path):
    kept = tmp_path / "hashes.json"
    assert ask(kept, model) == identity(model)
    told = json.loads(kept.read_text())
    (key, (size, _, digest)) = next(iter(told.items()))
    assert (key, size, digest) == (str(model), 5000, hashlib.sha256(model.read_bytes()).hexdigest())
    told[key][2] = "5" * 64  # so that it shows who is asked
    told["/gone/model.safetensors"] = told[key]
    kept.write_text(json.dumps(told))
    assert ask(kept, model) == "base@555555555555"
    model.write_bytes(model.read_bytes()[::-1])
    os.utime(model, (0, time.time() - 30))
    assert ask(kept, model) == identity(model)
    assert list(json.loads(kept.read_text())) == [key], "what is gone is forgotten"


def test_a_file_that_was_touched_just_now_is_read_again(model, tmp_path):
    os.utime(model)
    assert ask(tmp_path / "hashes.json", model) == identity(model)
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "[" * 100_000, '{"%s": [5000, 1, "no hash"]}'])
def test_a_damaged_file_of_hashes_is_no_fault(model, tmp_path, content):
    kept = tmp_path / "hashes.json"
    kept.write_text(content.replace("%s", str(model)))
    assert ask(kept, model) == identity(model) == ask(kept, model)


def test_where_nothing_can_be_kept_it_is_read_each_time(model, tmp_path):
    assert ask(tmp_path / "no folder" / "hashes.json", model) == identity(model)
