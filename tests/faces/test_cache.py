"""The cache: right or rebuilt, never trusted blindly, and shared by processes."""

import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from mirror.faces.cache import open_cache
from mirror.faces.engine import FaceMeasurement
from utils.files import Status


def face(seed=0):
    vector = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    vector /= np.linalg.norm(vector)
    return FaceMeasurement(
        Status.RESCUED,
        2,
        "CPUExecutionProvider",
        (640, 480),
        (1.5, 2.0, 30.25, 40.0),
        0.9,
        31.0,
        1.0,
        -2.0,
        3.0,
        vector,
    )


def same(a, b):
    return np.array_equal(a.embedding, b.embedding) and all(
        getattr(a, name) == getattr(b, name)
        for name in ("status", "faces", "provider", "box_xyxy", "det_score", "age", "yaw_deg")
    )


def test_what_went_in_comes_out(tmp_path):
    cache = open_cache(tmp_path / "c.sqlite")
    cache.put_face("content", "pack@1", "s", face())
    cache.put_face("nothing", "pack@1", "s", FaceMeasurement(Status.NO_FACE, 0, "CPUExecutionProvider", (640, 480)))
    cache.put_blob("thumbnail", "content", b"jpeg")
    cache.close()
    cache = open_cache(tmp_path / "c.sqlite")
    assert cache.message == ""
    assert same(cache.get_face("content", "pack@1", "s"), face())
    assert cache.get_face("nothing", "pack@1", "s").status == Status.NO_FACE
    assert cache.get_blob("thumbnail", "content") == b"jpeg"


def test_other_pack_settings_content_or_provider_do_not_match(tmp_path):
    cache = open_cache(tmp_path / "c.sqlite")
    cache.put_face("content", "pack@1", "s", face())
    cache.close()
    cache = open_cache(tmp_path / "c.sqlite")
    assert cache.get_face("other", "pack@1", "s") is None
    assert cache.get_face("content", "pack@2", "s") is None
    assert cache.get_face("content", "pack@1", "t") is None
    assert cache.get_face("content", "pack@1", "s", "CUDAExecutionProvider") is None


def test_a_changed_file_is_not_the_same_content(tmp_path):
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"one")
    old = picture.stat().st_mtime - 100
    os.utime(picture, (old, old))
    cache = open_cache(tmp_path / "c.sqlite")
    first = cache.hash_file(picture)
    cache.close()
    cache = open_cache(tmp_path / "c.sqlite")
    assert cache.content_of(picture) == first
    picture.write_bytes(b"two")
    assert cache.content_of(picture) is None
    assert cache.hash_file(picture) != first


def test_a_file_that_was_just_written_is_read_again(tmp_path):
    """Its time stamp may stay the same through another change within the clock's tick."""
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"one")
    cache = open_cache(tmp_path / "c.sqlite")
    cache.hash_file(picture)
    cache.close()
    assert open_cache(tmp_path / "c.sqlite").content_of(picture) is None


@pytest.mark.parametrize("harm", ["garbage", "truncated", "foreign", "row", "thumbnail", "old", "overwritten"])
def test_harmed_caches_are_rebuilt_not_trusted(tmp_path, harm):
    path = tmp_path / "c.sqlite"
    cache = open_cache(path)
    for seed in range(200):
        cache.put_face(f"content{seed}", "pack@1", "s", face(seed))
        cache.put_blob("thumbnail", f"content{seed}", os.urandom(2000))
    cache.close()
    if harm == "garbage":
        path.write_bytes(os.urandom(5000))
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    elif harm == "overwritten":
        data = bytearray(path.read_bytes())
        data[4096:40960] = os.urandom(36864)
        path.write_bytes(bytes(data))
    elif harm == "foreign":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE mine (precious TEXT)")
            db.execute("INSERT INTO mine VALUES ('keep')")
    else:
        with sqlite3.connect(path) as db:
            if harm == "row":
                db.execute("UPDATE faces SET record = replace(record, '0.9', '0.8')")
            elif harm == "thumbnail":
                db.execute("UPDATE blobs SET value = x'00'")
            else:
                db.execute("PRAGMA user_version = 99")
        db.close()
    cache = open_cache(path)
    if harm in ("row", "thumbnail"):
        assert cache.message == ""
    else:
        assert "anew" in cache.message
    if harm == "thumbnail":
        assert cache.get_blob("thumbnail", "content3") is None
    else:
        assert all(cache.get_face(f"content{seed}", "pack@1", "s") is None for seed in range(200))
    cache.put_face("new", "pack@1", "s", face())
    cache.close()
    assert same(open_cache(path).get_face("new", "pack@1", "s"), face())
    if harm == "foreign":
        (aside,) = tmp_path.glob("c.sqlite.*.unused")
        assert sqlite3.connect(aside).execute("SELECT precious FROM mine").fetchall() == [("keep",)]


def test_a_cache_that_cannot_be_opened_does_not_stop_the_run(tmp_path):
    cache = open_cache(tmp_path / "no" / "such" / "folder" / "c.sqlite")
    assert "goes on without it" in cache.message
    cache.put_face("content", "pack@1", "s", face())
    assert cache.get_face("content", "pack@1", "s") is None
    cache.close()


@pytest.mark.skipif(os.name == "nt", reason="needs setrlimit")
def test_a_cache_that_fails_in_the_middle_is_said_and_the_run_goes_on(tmp_path):
    program = """
import resource, signal, sys, time
from pathlib import Path
from mirror.faces.cache import open_cache
cache = open_cache(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
cache.put_blob("thumbnail", "large", bytes(1_000_000))
time.sleep(1.1)
cache.put_blob("thumbnail", "next", b"x")
assert not cache.keeps and cache.get_blob("thumbnail", "large") is None
cache.put_blob("thumbnail", "after", b"x")
cache.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "c.sqlite")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the run goes on without it") == 1


def test_a_harmed_cache_is_said_and_the_run_succeeds(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    (tmp_path / "cache.sqlite").write_bytes(b"this is no database" * 100)
    run = metrics("--pack", tiny_pack)
    assert run.code == 0
    assert "everything is measured anew" in run.stderr


def test_what_was_written_is_known_at_once(tmp_path):
    cache = open_cache(tmp_path / "c.sqlite")
    cache.put_face("a", "p", "s", face(1))
    assert same(cache.get_face("a", "p", "s"), face(1))
    cache.close()


def test_processes_and_threads_side_by_side(tmp_path):
    """Three processes of four threads write and read the same file; nothing is lost and nothing fails."""
    program = """
import sys, threading
sys.path[:0] = ["tests", "tests/faces"]
from pathlib import Path
from test_cache import face, same
from mirror.faces.cache import open_cache
cache = open_cache(Path(sys.argv[1]))
assert not cache.message, cache.message
def work(thread):
    for seed in range(100):
        key = f"{sys.argv[2]}-{thread}-{seed}"
        cache.put_face(key, "p", "s", face(seed))
        cache.get_face(f"0-{thread}-{seed}", "p", "s")
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
cache.close()
assert not cache.message, cache.message
"""
    path = tmp_path / "c.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(i)], cwd=ROOT, stderr=subprocess.PIPE)
        for i in range(3)
    ]
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read().decode()
    cache = open_cache(path)
    for process in range(3):
        for thread in range(4):
            for seed in range(100):
                assert same(cache.get_face(f"{process}-{thread}-{seed}", "p", "s"), face(seed))
