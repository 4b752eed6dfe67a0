"""A photo library on a read-only folder: every command, run by a user whom the permissions bind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from demo.album import make_album, write_album

NOBODY = 65534
# root is bound by permissions as another user, or at least without its capabilities (capabilities(7): CAP_DAC_OVERRIDE)
WAYS = (
    ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    ("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
)
_PROBE = "import os, sys; open(os.path.join(sys.argv[1], 'x'), 'w')"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions of folders are POSIX's")


@pytest.fixture
def library():
    """(photos that nobody can write, a folder for the output); not below pytest's own folder, which is its user's."""
    folder = Path(tempfile.mkdtemp(prefix="facevault_"))
    write_album(folder / "photos" / "2019" / "june", make_album(3, 2, (5, 6)), 224, workers=1)
    (folder / "out").mkdir()
    for path in (folder / "photos").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "photos").chmod(0o555)
    folder.chmod(0o755)
    yield folder / "photos", folder / "out"
    for path in (folder / "photos", *(folder / "photos").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def user(library) -> tuple[str, ...]:
    """What stands before a command so that permissions bind it; nothing where they bind the tests themselves."""
    photos, output = library
    if os.geteuid() != 0:
        return ()
    for way in WAYS if shutil.which("setpriv") else ():
        if str(NOBODY) in way[1]:
            os.chown(output, NOBODY, NOBODY)
        starts = subprocess.run([*way, sys.executable, "-c", "import numpy"], cwd=ROOT, capture_output=True)
        probe = subprocess.run([*way, sys.executable, "-c", _PROBE, str(photos)], cwd=ROOT, capture_output=True)
        if starts.returncode == 0 and b"PermissionError" in probe.stderr:
            return way
        os.chown(output, 0, 0)
    pytest.skip("root is bound by no permissions here, and setpriv makes no other user that can run Python")


def state(photos: Path) -> dict[str, tuple]:
    return {str(one): (one.stat().st_mtime_ns, one.is_dir() or one.read_bytes()) for one in sorted(photos.rglob("*"))}


def test_a_library_that_cannot_be_written_becomes_a_dataset(library, user):
    photos, output = library
    before = state(photos)
    vault = output / "vault"

    def run(*arguments: object) -> str:
        command = [*user, sys.executable, str(ROOT / "facevault.py"), *map(str, arguments), "--output", str(vault)]
        environment = os.environ | {"HOME": str(output), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=output, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done.stdout

    run("scan", photos, "--recursive", "--pack", "demo")
    report = json.loads((vault / "scan_report.json").read_text(encoding="utf-8"))
    assert report["faces"] >= 8 and {one["status"] for one in report["files"]} <= {"ok", "rescued", "no_face"}
    assert "0 measured now" in run("scan", photos, "--recursive", "--pack", "demo")
    run("cluster", "--min-cluster", "2")
    run("dedup")
    labels = json.loads((vault / "labels.json").read_text(encoding="utf-8"))
    run("label", labels["persons"][0]["cluster"], "alice")
    run("caption", "alice")
    run("prep", "alice", "--size", 256, "--min-face", 32)
    run("prep", "alice", "--size", 256, "--min-face", 32)
    run("export", "--all", "--format", "lora", "--symlink", "--size", 256, "--min-face", 32)
    run("page")
    made = list((vault / "organized" / "alice").glob("*.txt"))
    assert made and all(os.access(path, os.W_OK) for path in made), "what was copied can be edited"
    pictures = [path for path in (vault / "organized" / "alice").iterdir() if path.suffix in (".png", ".jpg")]
    assert len(pictures) == len(made) and all(path.stat().st_mode & 0o200 for path in pictures)
    assert state(photos) == before
