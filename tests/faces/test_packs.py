"""Finding a model pack, and fetching it from a real server on this machine: whole, or not at all."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_pack):
    """Answers /<kind>/<pack>.zip, in each way in which a download can go."""
    folder = tmp_path_factory.mktemp("served")
    files = {path.name: path.read_bytes() for path in tiny_pack.iterdir()}

    def archive(name, members):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as writer:
            for member, data in members.items():
                writer.writestr(member, data)
        return (folder / name).read_bytes()

    whole = archive("whole.zip", files)
    corrupt = bytearray(archive("corrupt.zip", {name: os.urandom(50_000) + data for name, data in files.items()}))
    corrupt[20_000:20_010] = b"\0" * 10
    bodies = {
        "whole": whole,
        "nested": archive("nested.zip", {f"buffalo_l/{name}": data for name, data in files.items()}),
        "half": whole,
        "page": b"<html><body>Log in to the hotel network</body></html>",
        "no_models": archive("no_models.zip", {"readme.txt": b"nothing"}),
        "incomplete": archive("incomplete.zip", {"det_10g.onnx": files["det_10g.onnx"]}),
        "corrupt": bytes(corrupt),
        "silent": whole,
    }
    soft = bytearray(archive("soft.zip", {name: data + b"compressible " * 50_000 for name, data in files.items()}))
    soft[5_000:5_200] = b"\xff" * 200
    bodies["damaged"] = bytes(soft)
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kind = self.path.split("/")[1]
            requests.append(self.path)
            if kind not in (*bodies, "chunks"):
                self.send_error(404)
                return
            self.send_response(200)
            if kind == "chunks":
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"10000\r\n" + bodies["whole"][:1000])  # announces more than comes
                return
            if kind != "silent":  # a server may not say how long its answer is
                self.send_header("Content-Length", str(len(bodies[kind])))
            self.end_headers()
            self.wfile.write(bodies[kind][: len(bodies[kind]) // 2] if kind == "half" else bodies[kind])

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", requests
    listening.shutdown()


@pytest.fixture
def checkout(tmp_path, make_picture):
    """A copy of the program with empty models/ and an empty home, one reference picture, and a way to run it."""
    for name in ("utils", "mirror"):
        shutil.copytree(ROOT / name, tmp_path / "app" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mirror_metrics.py", tmp_path / "app")
    make_picture(tmp_path / "app" / "Reference_Images" / "a.jpg")
    (tmp_path / "home").mkdir()

    def run(*arguments):
        home = str(tmp_path / "home")
        return subprocess.run(
            [sys.executable, "mirror_metrics.py", "--output", "out", *map(str, arguments)],
            cwd=tmp_path / "app",
            env=os.environ | {"HOME": home, "USERPROFILE": home, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )

    run.app = tmp_path / "app"
    run.home = tmp_path / "home"
    return run


def models(app):
    return sorted(path.relative_to(app / "models").as_posix() for path in (app / "models").rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["whole", "nested", "silent"])
def test_download_once_then_offline(checkout, server, tiny_pack, kind):
    url, requests = server
    requests.clear()
    done = checkout("--pack-url", f"{url}/{kind}/buffalo_l.zip")
    assert done.returncode == 0, done.stderr
    assert models(checkout.app) == sorted(f"buffalo_l/{path.name}" for path in tiny_pack.iterdir())
    assert "downloading it once" in done.stderr
    assert list((checkout.app / "models").iterdir()) == [checkout.app / "models" / "buffalo_l"], (
        "scratch files were left"
    )
    again = checkout("--pack-url", f"{url}/{kind}/buffalo_l.zip", "--no-cache")
    assert again.returncode == 0
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("half", "the connection ended after"),
        ("page", "not a zip archive"),
        ("no_models", "no .onnx files"),
        ("incomplete", "lacks w600k_r50.onnx, 1k3d68.onnx, genderage.onnx"),
        ("missing", "HTTP 404"),
        ("corrupt", "could not be downloaded"),
        ("damaged", "could not be downloaded"),
        ("chunks", "could not be downloaded"),
    ],
)
def test_a_bad_download_leaves_nothing_and_says_what_to_do(checkout, server, kind, reason):
    url, _ = server
    done = checkout("--pack-url", f"{url}/{kind}/buffalo_l.zip")
    assert done.returncode == 2
    assert reason in done.stderr
    for part in (
        "Nothing was measured",
        "det_10g.onnx, w600k_r50.onnx",
        f"{url}/{kind}",
        str(checkout.app / "models" / "buffalo_l"),
    ):
        assert part in done.stderr, part
    assert models(checkout.app) == []
    assert not list((checkout.app / "out").glob("*_*"))
    assert "Traceback" not in done.stderr


def test_no_server_at_all(checkout):
    done = checkout("--pack-url", "http://127.0.0.1:9/buffalo_l.zip")  # port 9: nobody listens
    assert done.returncode == 2
    assert "Nothing was measured" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_of_the_users_is_never_deleted(checkout, server):
    url, _ = server
    mine = checkout.app / "models" / "buffalo_l" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep me")
    done = checkout("--pack-url", f"{url}/whole/buffalo_l.zip")
    assert done.returncode == 2
    assert "move it away first" in done.stderr
    assert mine.read_text() == "keep me"


def test_an_empty_folder_is_not_taken_for_the_pack(checkout, server):
    url, _ = server
    (checkout.app / "models" / "buffalo_l").mkdir(parents=True)
    assert checkout("--pack-url", f"{url}/whole/buffalo_l.zip").returncode == 0


@pytest.mark.parametrize("nested", [False, True])
def test_order_of_places(checkout, tiny_pack, nested):
    """models/ wins over ~/.insightface/models/; each flat or nested; no download while one of them has the pack."""
    home = checkout.home / ".insightface" / "models" / "buffalo_l"
    shutil.copytree(tiny_pack, home / "buffalo_l" if nested else home)
    done = checkout("--pack-url", "http://127.0.0.1:9/")
    assert done.returncode == 0, done.stderr
    assert str(home) in done.stderr
    ours = checkout.app / "models" / "buffalo_l"
    shutil.copytree(tiny_pack, ours / "buffalo_l" if nested else ours)
    assert str(ours) in checkout("--pack-url", "http://127.0.0.1:9/").stderr
    (tiny_like := checkout.app / "own pack").mkdir()
    for path in tiny_pack.iterdir():
        shutil.copy(path, tiny_like)
    assert "own pack@" in checkout("--pack", tiny_like, "--json").stdout


def test_a_pack_without_a_needed_network(checkout, tiny_pack, tmp_path):
    for missing, words in (("det_10g.onnx", "no face detector"), ("w600k_r50.onnx", "no recognition model")):
        folder = tmp_path / missing
        shutil.copytree(tiny_pack, folder)
        (folder / missing).unlink()
        done = checkout("--pack", folder)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_model_is_a_sentence(checkout, tiny_pack, tmp_path):
    shutil.copytree(tiny_pack, tmp_path / "damaged")
    (tmp_path / "damaged" / "w600k_r50.onnx").write_bytes(b"not onnx at all")
    done = checkout("--pack", tmp_path / "damaged")
    assert done.returncode == 2
    assert "cannot be loaded" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_no_pack(checkout, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no .onnx files" in checkout("--pack", tmp_path / "empty").stderr
    done = checkout("--pack", tmp_path / "nowhere" / "pack")
    assert done.returncode == 2 and "There is no folder" in done.stderr


@pytest.mark.parametrize("name", ["pack [v1]", "päck 😀", "a*b"])
def test_any_folder_name(checkout, tiny_pack, tmp_path, name):
    if "*" in name and os.name == "nt":
        pytest.skip("Windows forbids this name")
    shutil.copytree(tiny_pack, tmp_path / name)
    done = checkout("--pack", tmp_path / name)
    assert done.returncode == 0, done.stderr


def test_never_a_pack_that_was_not_meant(checkout, tiny_pack):
    models = checkout.app / "models"
    shutil.copytree(tiny_pack, models / "one")
    shutil.copytree(tiny_pack, models / "two")
    for asked, words in (
        ("", "--pack is empty"),
        ("models", "several packs (one, two)"),
        ("./models", "several packs"),
    ):
        done = checkout("--pack", asked)
        assert done.returncode == 2 and words in done.stderr, done.stderr
    half = checkout.app / "buffalo_l"
    half.mkdir()
    for name in ("det_10g.onnx", "w600k_r50.onnx"):
        shutil.copy(tiny_pack / name, half)
    done = checkout()
    assert done.returncode == 2
    assert "not a whole buffalo_l: it lacks 1k3d68.onnx, genderage.onnx" in done.stderr


def test_an_expression_model_is_no_pack(tiny_pack, tmp_path):
    """It lies beside the packs in models/, in a folder or not."""
    from mirror.faces.packs import PackError, find_pack

    shutil.copytree(tiny_pack, tmp_path / "face")
    beside = tmp_path / "mood"
    beside.mkdir()
    for place in (beside, tmp_path):
        shutil.copy(tiny_pack / "genderage.onnx", place / "expression_mine.onnx")
    assert find_pack(str(tmp_path)).folder == (tmp_path / "face").resolve()
    with pytest.raises(PackError, match=r"holds no \.onnx files"):
        find_pack(str(beside))


def test_identity_follows_the_content(tiny_pack, tmp_path):
    from mirror.faces.cache import open_cache
    from mirror.faces.packs import find_pack

    hash_file = open_cache(None).hash_file
    copy = shutil.copytree(tiny_pack, tmp_path / "tiny")
    before = find_pack(str(tiny_pack)).identity(hash_file)
    assert find_pack(str(copy)).identity(hash_file) == before
    with open(copy / "genderage.onnx", "ab") as file:
        file.write(b"\0")
    assert find_pack(str(copy)).identity(hash_file) != before
