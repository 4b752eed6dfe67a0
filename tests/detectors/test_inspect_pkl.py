"""inspect_pkl.py on files that would do harm and on harmless ones, and what --convert makes of the latter."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script
from model_corpus import evil_files, good_files, in_zip, save, text, whole

SHARED_DETECTORS = ROOT.parent / "shared" / "yolov5_face"
FIXTURES = ("yolov5-c3-tiny-face", "yolov5n-0.5-face")

# Brings files to life as a careless program would; each variant in a process of its own fate, all in one call.
CARELESS = """
import pickle, sys
for line in sys.stdin.read().splitlines():
    how, path = line.split(" ", 1)
    try:
        if how == "torch":
            import torch
            torch.load(path, weights_only=False)
        else:
            pickle.load(open(path, "rb"))
    except Exception:
        pass
"""


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """(variants, their folder, the folder of canaries)"""
    folder, canaries = tmp_path_factory.mktemp("evil"), tmp_path_factory.mktemp("canaries")
    fixture = SHARED_DETECTORS / f"{FIXTURES[1]}.pt"
    variants = evil_files(canaries, fixture.read_bytes() if fixture.exists() else None)
    for variant in variants:
        (folder / f"{variant.name}.pt").write_bytes(variant.data)
    return variants, folder, canaries


@pytest.fixture(scope="module")
def scanned(evil):
    """One run of the script over all variants, --convert included."""
    return run_script("inspect_pkl.py", "--convert", evil[1])


def tensor_file() -> bytes:
    """A .safetensors of two bytes, as its format says."""
    header = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    return len(header).to_bytes(8, "little") + header + b"\x01\x02"


def onnx_file() -> bytes:
    """A ModelProto: format 10, a graph named g, operators of version 21."""
    return b"\x08\x0a" + b"\x3a\x03\x12\x01g" + b"\x42\x02\x10\x15"


def report_of(stdout: str, path: Path) -> tuple[str, str]:
    """(verdict, all lines about a file)"""
    found = re.search(rf"^{re.escape(str(path))} is (\w+): .*\n(?:  .*\n)*", stdout, re.MULTILINE)
    assert found, f"{path.name} is not in the report"
    return found[1], found[0]


def test_every_variant_is_named_and_none_runs(evil, scanned):
    variants, folder, canaries = evil
    assert len(variants) >= 30
    assert scanned.returncode == 4, scanned.stderr
    wrong = {}
    for variant in variants:
        verdict, lines = report_of(scanned.stdout, folder / f"{variant.name}.pt")
        if verdict != variant.verdict or variant.named not in lines:
            wrong[variant.name] = lines
    assert not wrong
    assert list(canaries.iterdir()) == []


def test_none_is_converted(evil, scanned):
    assert scanned.stderr.count("is not converted, because it is not safe") == len(evil[0])
    assert list(evil[1].glob("*.safetensors")) == []


def test_no_detector_is_loaded_from_them(evil):
    from mirror.detectors.detectors import load_detector
    from utils.console import UserError

    variants, folder, canaries = evil
    for variant in variants:
        path = folder / f"{variant.name}.pt"
        with pytest.raises(UserError) as caught:
            load_detector(path, "cpu")
        sentence = str(caught.value)
        assert (
            str(path) in sentence
            and f"python inspect_pkl.py {path}" in sentence
            and "nothing of it has run" in sentence
        )
    assert list(canaries.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="the canaries of some variants need touch")
def test_the_variants_are_alive(evil, scanned):
    """The proof that the two tests above can fail: loaded carelessly, these files do run."""
    variants, folder, canaries = evil
    alive = [variant for variant in variants if variant.runs]
    lines = "\n".join(f"{variant.runs} {folder / variant.name}.pt" for variant in alive)
    subprocess.run([sys.executable, "-c", CARELESS], input=lines, text=True, capture_output=True, timeout=200)
    ran = {path.name for path in canaries.iterdir()}
    for path in canaries.iterdir():
        path.unlink()
    assert {variant.name for variant in alive} - ran == set()
    assert len(alive) >= 20


@pytest.mark.parametrize("protocol", range(6))
def test_exit_code_of_a_safe_pickle(protocol, tmp_path):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"a": np.arange(3), "b": ["x", 1.5, {2}]}, protocol))
    done = run_script("inspect_pkl.py", tmp_path / "weights.pkl")
    assert (done.returncode, report_of(done.stdout, tmp_path / "weights.pkl")[0]) == (0, "safe"), done.stdout


def test_exit_code_is_that_of_the_worst_file(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1]))
    (tmp_path / "b.bin").write_bytes(whole(b"cmy.project\nNet\n)\x81", 2))
    (tmp_path / "c.ckpt").write_bytes(whole(b"cos\nsystem\n", 2))
    (tmp_path / "d.txt").write_bytes(b"not looked at")
    assert run_script("inspect_pkl.py", tmp_path / "a.pkl").returncode == 0
    assert run_script("inspect_pkl.py", str(tmp_path / "[ab].*")).returncode == 3
    done = run_script("inspect_pkl.py", tmp_path)
    assert done.returncode == 4
    assert "d.txt" not in done.stdout


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is no model file"),
        (pickle.dumps({"a": list(range(500))}, 2)[:-40], "cannot be read as a pickle after byte"),
        (in_zip({"x/data.pkl": b"\x80\x02}"}), "x/data.pkl in it: it cannot be read as a pickle"),
        (in_zip({"x/data.pkl": pickle.dumps(1)})[:60], "damaged or cut off"),
        (tensor_file()[:-1], "it is no model file"),
        (onnx_file()[:-1], "it is no model file"),
    ],
    # Named, because pytest would name them by their bytes, and a zip's hold the time of writing:
    # xdist's processes would then collect tests of different names.
    ids=["empty", "page", "cut pickle", "cut in zip", "cut zip", "cut tensors", "cut onnx"],
)
def test_what_cannot_be_read_is_unknown_and_to_be_fetched_again(content, finding, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    done = run_script("inspect_pkl.py", tmp_path / "file.pt")
    assert done.returncode == 3, done.stderr
    assert done.stdout.count(finding) == 1
    assert "It is damaged or not what it says: fetch it again." in done.stdout and "trust" not in done.stdout


def test_what_damage_does_not_explain_is_a_matter_of_trust(tmp_path):
    foreign = whole(b"cmy.project\nNet\n)\x81", 2)
    for name, content in {"whole": foreign, "cut": foreign[:-1], "script": in_zip({"x/code/a.py": b"x"})}.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
    done = run_script("inspect_pkl.py", tmp_path)
    assert done.returncode == 3
    assert done.stdout.count("Load it only if you trust whoever made it.") == 3 and "fetch" not in done.stdout


def test_formats_without_a_program_are_safe_where_they_are_whole(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(tensor_file())
    (tmp_path / "b.onnx").write_bytes(onnx_file())
    done = run_script("inspect_pkl.py", "--convert", tmp_path / "a.safetensors", tmp_path / "b.onnx")
    assert done.returncode == 0, done.stdout
    assert "a.safetensors is safe: its format holds numbers and no program.\n" in done.stdout
    assert "b.onnx is safe: its format holds a network of known operators and no program.\n" in done.stdout
    assert "b.onnx is not converted: ONNX, not a pickle" in done.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\x80\x02.",
        lambda data: data.replace(b"\x08\x0a", b"\x08", 1),
        lambda data: data[2:],  # without the version of the format
        lambda data: data + b"\xfa\x01\x00",  # field 31, which a ModelProto has not
        lambda data: data + b"\xff" * 12,
    ],
)
def test_what_is_not_onnx_to_its_last_byte_is_not_taken_for_it(spoil):
    from mirror.detectors.modelfiles import NOT_A_MODEL, ONNX, inspect_bytes

    assert inspect_bytes(onnx_file()).kind == ONNX
    assert inspect_bytes(spoil(onnx_file())).kind == NOT_A_MODEL


def test_zip_member_with_wrong_checksum_is_not_passed_over(tmp_path):
    """torch does not check the sum, Python's zip reader does: what the one refuses, the other would load."""
    data = bytearray(in_zip({"x/data.pkl": whole(b"cos\nsystem\n" + text("id") + b"\x85R", 2)}))
    position = data.rindex(b"PK\x01\x02") + 16
    data[position] ^= 0xFF
    (tmp_path / "file.pt").write_bytes(data)
    done = run_script("inspect_pkl.py", tmp_path / "file.pt")
    assert done.returncode == 3
    assert "x/data.pkl in it cannot be read" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["missing.pt"], "missing.pt does not exist."), (["*.none"], "*.none does not exist."), ([], "no model files in")],
)
def test_nothing_to_look_at_is_the_users_to_change(arguments, sentence, tmp_path):
    """Without arguments it looks into models/ of the project, which holds no model files of its own."""
    for part in ("utils", "mirror", "inspect_pkl.py"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / "models").mkdir()
    command = [sys.executable, "inspect_pkl.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert sentence in done.stderr
    (tmp_path / "models" / "a.pkl").write_bytes(pickle.dumps(1))
    if not arguments:
        assert "a.pkl is safe" in subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8").stdout


def test_scanning_needs_no_torch(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}))
    for missing in ("torch", "numpy", "safetensors"):
        (tmp_path / f"{missing}.py").write_text(f"raise ImportError('no {missing} here')")
    environment = {"PYTHONPATH": str(tmp_path)}
    assert run_script("inspect_pkl.py", tmp_path / "a.pt", **environment).returncode == 0
    (tmp_path / "numpy.py").unlink()
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"b": 1}))
    done = run_script("inspect_pkl.py", "--convert", tmp_path / "a.pt", tmp_path / "b.pt", **environment)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: Nothing is converted. This needs torch, which is not installed: "
        "python -m pip install -r requirements/bootstrap.txt\n"
    )


# Harmless files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """(content by name, their folder, one run of the script with --convert over all of them)"""
    folder = tmp_path_factory.mktemp("good")
    files = good_files()
    for name, (content, how) in files.items():
        save(folder / f"{name}.pt", content, how)
    return files, folder, run_script("inspect_pkl.py", "--convert", folder)


def test_harmless_files_are_safe_and_converted(good):
    files, folder, done = good
    assert len(files) >= 20
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {name: report_of(done.stdout, folder / f"{name}.pt")[0] for name in files}
    assert set(verdicts.values()) == {"safe"}, verdicts
    assert {path.stem for path in folder.glob("*.safetensors")} == set(files)


def test_converted_files_hold_the_same(good):
    """Compared with what was saved, by means of the test's own."""
    from mirror.detectors.tensorfiles import read_data

    files, folder, _ = good
    for name, (content, _) in files.items():
        assert_same(read_data(folder / f"{name}.safetensors"), content, name)


def assert_same(found: object, saved: object, where: str) -> None:
    """Equal in type, order and value, tensors and arrays element by element."""
    import torch

    if isinstance(saved, torch.Tensor):
        assert found.dtype == saved.dtype, where
        torch.testing.assert_close(found, saved.detach(), rtol=0, atol=0, equal_nan=True)
        return
    assert type(found) is type(saved), where
    if isinstance(saved, (np.ndarray, np.generic)):
        assert found.dtype == saved.dtype.newbyteorder("="), where
        np.testing.assert_array_equal(found, saved)
    elif isinstance(saved, dict):
        assert list(found) == list(saved), where
        for key in saved:
            assert_same(found[key], saved[key], f"{where}.{key}")
    elif isinstance(saved, (list, tuple)):
        assert len(found) == len(saved), where
        for index, item in enumerate(saved):
            assert_same(found[index], item, f"{where}.{index}")
    else:
        assert repr(found) == repr(saved), where


def test_tensors_keep_their_names_for_other_programs(good):
    from safetensors.torch import load_file

    assert set(load_file(good[1] / "float16.safetensors")) == {f"unet.{i}.weight" for i in range(3)}
    assert "state_dict.unet.0.weight" in load_file(good[1] / "with_settings.safetensors")


def test_nothing_is_overwritten(good, tmp_path):
    shutil.copy(good[1] / "float16.pt", tmp_path)
    (tmp_path / "float16.safetensors").write_bytes(b"mine")
    done = run_script("inspect_pkl.py", "--convert", tmp_path)
    assert done.returncode == 2
    assert "float16.safetensors is there already and is not overwritten, as it holds something else" in done.stderr
    assert (tmp_path / "float16.safetensors").read_bytes() == b"mine"
    assert list(tmp_path.glob(".converting-*")) == []


def test_a_second_run_converts_nothing_and_says_so(good):
    files, folder, _ = good
    before = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    done = run_script("inspect_pkl.py", "--convert", folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.count(" is converted already: ") == len(files)
    assert {path: path.read_bytes() for path in folder.glob("*.safetensors")} == before


def test_a_detector_is_converted_once(tmp_path):
    source = SHARED_DETECTORS / f"{FIXTURES[1]}.pt"
    if not source.exists():
        pytest.skip("the detectors of ../shared are not here")
    shutil.copy(source, tmp_path / "face.pt")
    assert run_script("inspect_pkl.py", "--convert", tmp_path / "face.pt").returncode == 0
    done = run_script("inspect_pkl.py", "--convert", tmp_path / "face.pt")
    assert done.returncode == 0 and "face.pt is converted already" in done.stdout
    (tmp_path / "face.safetensors").write_bytes(tensor_file())
    assert run_script("inspect_pkl.py", "--convert", tmp_path / "face.pt").returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="the shell there quotes otherwise")
def test_the_advised_command_holds_the_path_as_one_word():
    from mirror.detectors.checkpoints import how_to_inspect

    assert how_to_inspect("models/a.pt") == "python inspect_pkl.py models/a.pt"
    assert shlex.split(how_to_inspect("my 'own' models/$a.pt"))[2:] == ["my 'own' models/$a.pt"]


def test_what_safetensors_cannot_hold_is_a_sentence(tmp_path):
    (tmp_path / "long.pkl").write_bytes(pickle.dumps({"words": np.array(["a", "bc"])}, 2))
    done = run_script("inspect_pkl.py", "--convert", tmp_path / "long.pkl")
    assert done.returncode == 2
    assert "cannot be converted: words is a array of <U2" in done.stderr
    assert list(tmp_path.glob("*.safetensors")) == []
