"""What runs the networks: the same faces from every engine, said in every result, and never mixed in the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
from conftest import ROOT, run_script

from mirror.detectors import engines, openvino_session
from mirror.detectors.engines import DEFAULT, EXACT, FAST, ONNXRUNTIME, OPENVINO, Engine, choose_engine
from mirror.detectors.providers import safe_for_threads, session_options, wanted_providers
from mirror.faces.engine import FaceEngine, FaceMeasurement, settings_key
from mirror.faces.finding import FaceFinder
from utils.console import UserError
from utils.decoding import decode
from utils.images import read_file

PAIRS = {EXACT: 1e-3, FAST: 0.01}  # what the similarity of two photos may change by; measured: 0.0002 and 0.0086


@pytest.fixture(scope="module")
def images(photos) -> list[np.ndarray]:
    return [decode(read_file(path)) for path in sorted(photos.iterdir())]


@pytest.fixture(scope="module")
def plain(mini_pack, images) -> list[FaceMeasurement]:
    engine = FaceEngine(mini_pack, "cpu")
    return [engine.measure(image) for image in images]


def needs_openvino(precision: str = EXACT) -> None:
    pytest.importorskip("openvino", reason="needs OpenVINO: requirements/openvino.txt")
    if choose_engine(OPENVINO, precision, "cpu").precision != precision:
        pytest.skip("this CPU has no bfloat16")


def pairs(faces: list[FaceMeasurement]) -> np.ndarray:
    found = np.array([face.embedding for face in faces if face.embedding is not None])
    return found @ found.T


def assert_alike(faces: list[FaceMeasurement], plain: list[FaceMeasurement], limit: float) -> None:
    assert [(face.status, face.faces) for face in faces] == [(face.status, face.faces) for face in plain]
    assert np.abs(pairs(faces) - pairs(plain)).max() < limit


SAME = (  # people of whom the photos have several pictures, then women who are all different ones
    ("d1", "d3", "d4", "d5"),
    ("Rob_Lowe_0001", "Rob_Lowe_0002"),
    ("kun", "kun_crop", "rot_0", "rot_90", "crop"),
    *(("woman",), ("mask2",), ("yifei",), ("image_T1",), ("Nathalie_Baye_0002",)),
)


def likeness_of_known_pairs(photos, faces: list[FaceMeasurement]) -> tuple[list[float], list[float]]:
    """Similarities of pictures of one person, and of two."""
    who = {name: number for number, names in enumerate(SAME) for name in names}
    measured = zip((path.stem for path in sorted(photos.iterdir())), faces, strict=True)
    known = [(who[name], face.embedding) for name, face in measured if name in who]
    found: tuple[list[float], list[float]] = ([], [])
    for (a, one), (b, other) in combinations(known, 2):
        found[a != b].append(float(one @ other))
    return found


@pytest.mark.parametrize("precision", [EXACT, FAST])
def test_openvino_measures_real_photos_as_onnxruntime_does(mini_pack, photos, images, plain, precision):
    needs_openvino(precision)
    engine = FaceEngine(mini_pack, "cpu", engine=Engine(OPENVINO, precision))
    faces = [engine.measure(image) for image in images]
    assert_alike(faces, plain, PAIRS[precision])
    for measured in (faces, plain):
        same, different = likeness_of_known_pairs(photos, measured)
        assert (len(same), len(different)) == (17, 103) and min(same) > max(different), "all pairs are told apart"
    assert {face.provider for face in faces} == {engine.provider}
    said = {EXACT: "OpenVINO, CPU, float32", FAST: "CPUExecutionProvider+OpenVINO, CPU, bfloat16"}
    assert engine.provider == said[precision]


def test_a_rectangle_shows_the_detector_what_a_square_does(mini_pack, images, plain, monkeypatch):
    """The black bars that a square has beside a portrait say nothing."""
    monkeypatch.setattr(FaceFinder, "_input_wh", lambda self, image, size: (size, size))
    engine = FaceEngine(mini_pack, "cpu")
    squares = [engine.measure(image) for image in images]
    assert_alike(squares, plain, 1e-3)
    found = [(one, other) for one, other in zip(squares, plain, strict=True) if one.embedding is not None]
    assert max(1 - float(one.embedding @ other.embedding) for one, other in found) < 1e-3
    assert max(abs(one.det_score - other.det_score) for one, other in found) < 1e-3


def test_the_detector_gets_no_more_black_than_its_grid_asks_for():
    class Detector:
        static_input_size = None

        def detect(self, image, input_size, det_thresh):
            seen.append(input_size)
            return np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)

    seen: list[tuple[int, int]] = []
    finder = FaceFinder(Detector(), 640, np.zeros((64, 64, 3), np.uint8))
    seen.clear()
    finder.find(np.zeros((1216, 832, 3), np.uint8))
    assert seen[:2] == [(480, 640), (480, 640)], "as it is, and with a border"
    seen.clear()
    finder.find(np.zeros((600, 1200, 3), np.uint8))
    assert seen[0] == (640, 352)
    Detector.static_input_size = (640, 640)
    seen.clear()
    finder.find(np.zeros((1216, 832, 3), np.uint8))
    assert {wide == high for wide, high in seen} == {True}, "a network that was exported for one size takes that only"


def test_two_engines_have_rows_of_their_own_in_the_cache():
    every = [DEFAULT, Engine(OPENVINO, EXACT), Engine(OPENVINO, FAST)]
    assert len({settings_key(640, engine=engine) for engine in every}) == 3


def test_what_is_not_there_is_replaced_with_a_sentence(monkeypatch):
    assert choose_engine() == DEFAULT and choose_engine("auto", EXACT, "cuda") == DEFAULT
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    missing = choose_engine(OPENVINO, FAST, "cpu")
    assert (missing.name, missing.precision) == (ONNXRUNTIME, EXACT)
    assert "OpenVINO is not installed" in missing.said and "requirements/openvino.txt" in missing.said
    monkeypatch.undo()
    assert "no faster arithmetic" in choose_engine(ONNXRUNTIME, FAST).said
    if engines.find_spec(OPENVINO) is not None:
        monkeypatch.setattr(openvino_session, "openvino_core", lambda: MachineOf("CPU"))
        plain = choose_engine("auto", FAST, "cpu")
        assert plain.key == "" and "no bfloat16" in plain.said

        def fails() -> MachineOf:
            raise ImportError("libtbb.so.12 is missing")

        monkeypatch.setattr(openvino_session, "openvino_core", fails)
        broken = choose_engine(OPENVINO, EXACT, "cpu")
        assert broken.key == "" and "OpenVINO does not start (libtbb.so.12 is missing)" in broken.said


class MachineOf:
    """What OpenVINO says of a machine: which processors there are."""

    def __init__(self, *devices: str):
        self.available_devices = list(devices)

    def get_property(self, device: str, name: str) -> list[str]:
        return ["FP32"]


CPU_ALONE = ["AzureExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("device", "available", "taken"),
    [
        ("auto", CPU_ALONE, "CPUExecutionProvider"),
        ("auto", ["CUDAExecutionProvider", *CPU_ALONE], "CUDAExecutionProvider"),
        ("cpu", ["CUDAExecutionProvider", *CPU_ALONE], "CPUExecutionProvider"),
        ("auto", ["DmlExecutionProvider", *CPU_ALONE], "CPUExecutionProvider"),
        ("directml", ["DmlExecutionProvider", *CPU_ALONE], "DmlExecutionProvider"),
        ("cuda", ["DmlExecutionProvider", *CPU_ALONE], "CPUExecutionProvider"),
        ("auto", ["CoreMLExecutionProvider", *CPU_ALONE], "CPUExecutionProvider"),
        ("coreml", ["CoreMLExecutionProvider", *CPU_ALONE], "CoreMLExecutionProvider"),
        ("directml", CPU_ALONE, "CPUExecutionProvider"),
    ],
)
def test_onnxruntime_is_asked_for_what_it_has(device, available, taken):
    providers = wanted_providers(device, available)
    assert providers[0] == taken and providers[-1] == "CPUExecutionProvider"


def test_other_gpus_are_chosen_where_they_are_and_have_rows_of_their_own(monkeypatch):
    import onnxruntime

    keys = {DEFAULT.key}
    for device, name in (("directml", "DmlExecutionProvider"), ("coreml", "CoreMLExecutionProvider")):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: CPU_ALONE)
        missing = choose_engine(device=device)
        assert "so the CPU runs the networks." in missing.said and missing.key == ""
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda name=name: [name, *CPU_ALONE])
        chosen = choose_engine(device=device)
        assert (chosen.name, chosen.gpu, chosen.said) == (ONNXRUNTIME, device, "")
        assert "--precision fast are not used" in choose_engine(precision=FAST, device=device).said
        keys.add(chosen.key)
        monkeypatch.undo()
    if engines.find_spec(OPENVINO) is not None:
        for precision in (EXACT, FAST):
            monkeypatch.setattr(openvino_session, "openvino_core", lambda: MachineOf("CPU", "GPU.0"))
            chosen = choose_engine(precision=precision, device="intel-gpu")
            assert (chosen.name, chosen.gpu) == (OPENVINO, "intel-gpu")
            keys |= {chosen.key, Engine(OPENVINO, precision).key}
        monkeypatch.setattr(openvino_session, "openvino_core", lambda: MachineOf("CPU"))
        missing = choose_engine(OPENVINO, EXACT, "intel-gpu")
        assert "sees no Intel GPU" in missing.said and (missing.name, missing.gpu) == (OPENVINO, ""), "as asked"
        assert len(keys) == 7
    assert "--device intel-gpu needs OpenVINO" in choose_engine(ONNXRUNTIME, EXACT, "intel-gpu").said


def test_auto_takes_directml_where_somebody_installed_it(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["DmlExecutionProvider", *CPU_ALONE])
    assert choose_engine().gpu == ""
    monkeypatch.setattr(engines, "_has_directml", lambda: True)
    assert choose_engine().gpu == "directml" and choose_engine(device="cpu").gpu == ""
    assert session_options("auto")[0] == ["CPUExecutionProvider"], "but only under its name"
    providers, options = session_options("directml")
    assert providers[0] == "DmlExecutionProvider" and not options.enable_mem_pattern


def test_a_gpu_that_does_not_start_ends_the_run_before_anything_is_kept_under_its_name(mini_pack):
    with pytest.raises(UserError, match="DirectML does not start here, so nothing was measured"):
        FaceEngine(mini_pack, engine=Engine(gpu="directml"))


def test_a_session_of_directml_runs_one_call_at_a_time():
    class Session:
        running = most = 0

        def get_providers(self) -> list[str]:
            return ["DmlExecutionProvider", "CPUExecutionProvider"]

        def run(self, names, feed) -> list:
            self.running += 1
            Session.most = max(Session.most, self.running)
            time.sleep(0.01)
            self.running -= 1
            return [feed]

    session = safe_for_threads(Session())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda value: session.run(None, value), range(8))) == [[value] for value in range(8)]
    assert Session.most == 1 and session.get_providers()[0] == "DmlExecutionProvider"


@pytest.mark.parametrize("device", ["directml", "coreml", "intel-gpu"])
def test_a_gpu_that_is_not_here_is_one_sentence_and_the_cpu_measures(tmp_path, photos, mini_pack, device):
    if device == "intel-gpu":
        needs_openvino()
    if choose_engine(device=device).gpu:
        pytest.skip(f"this machine has {device}")
    for place, name in (("ref", "d1.jpeg"), ("cand/lora", "d3.jpeg")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / name).write_bytes((photos / name).read_bytes())
    arguments = ["--reference", tmp_path / "ref", "--candidates", tmp_path / "cand", "--output", tmp_path / "out"]
    arguments += ["--pack", mini_pack, "--no-cache", "--device", device, "--json"]
    done = run_script("mirror_metrics.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the CPU runs the networks") == 1
    assert json.loads(done.stdout)["providers"] == {"CPUExecutionProvider": 2}


def test_every_result_says_what_measured(tmp_path, photos, mini_pack):
    needs_openvino(FAST)
    for name in ("ref", "cand/lora"):
        (tmp_path / name).mkdir(parents=True)
    for place, name in (("ref", "d1.jpeg"), ("ref", "d5.jpeg"), ("cand/lora", "d3.jpeg")):
        (tmp_path / place / name).write_bytes((photos / name).read_bytes())
    arguments = ["--reference", tmp_path / "ref", "--candidates", tmp_path / "cand", "--output", tmp_path / "out"]
    arguments += ["--pack", mini_pack, "--cache", tmp_path / "cache.sqlite", "--device", "cpu", "--json"]
    similarity = {}
    for precision in (EXACT, FAST, EXACT):
        done = run_script("mirror_metrics.py", *arguments, "--precision", precision)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        said = "CPUExecutionProvider+OpenVINO, CPU, bfloat16" if precision == FAST else "CPUExecutionProvider"
        assert summary["providers"] == {said: 3}, "nothing of the other engine comes from the cache"
        assert summary["settings"]["precision"] == precision
        group = next(one for one in summary["groups"] if one["name"] == "lora")
        similarity.setdefault(precision, group["similarity"]["median"])
    assert 0 < abs(similarity[FAST] - similarity[EXACT]) < 0.005


def test_openvino_tells_nobody_that_it_is_used():
    needs_openvino()
    code = "import sys\nfrom mirror.detectors.openvino_session import openvino_core\nopenvino_core()\n"
    code += "assert not [name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module]"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_cache_keeps_what_each_precision_made_apart(tmp_path, photos):
    """FaceVault's store and gap analysis' records: what was measured fast is measured anew for an exact run."""
    needs_openvino(FAST)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "d1.jpeg").write_bytes((photos / "d1.jpeg").read_bytes())
    # the demo's pack has landmarks, from which angles come; the small one has the detector's keypoints, always exact
    shared = ["--pack", "demo", "--device", "cpu"]
    measured = []
    for precision in (FAST, EXACT, EXACT):
        vault = ["facevault.py", "scan", tmp_path / "photos", "--output", tmp_path / "vault", *shared]
        assert run_script(*vault, "--precision", precision).returncode == 0
        report = json.loads((tmp_path / "vault" / "scan_report.json").read_text(encoding="utf-8"))
        assert report["settings"]["precision"] == precision
        measured.append(report["measured_now"])
    assert measured == [1, 1, 0]
    yaws = []
    for precision, cache in ((FAST, "shared"), (EXACT, "shared"), (EXACT, "own")):
        out = ["--output", tmp_path / "gaps.json", "--cache", tmp_path / cache, "--models-dir", tmp_path]
        done = run_script("gap_analysis.py", tmp_path / "photos", *out, *shared, "--precision", precision)
        assert done.returncode == 0, done.stderr
        gaps = json.loads((tmp_path / "gaps.json").read_text(encoding="utf-8"))
        said = "CPUExecutionProvider+OpenVINO, CPU, bfloat16" if precision == FAST else "CPUExecutionProvider"
        assert gaps["providers"] == {said: 1} and gaps["images"][0]["measured_by"] == said
        yaws.append(gaps["images"][0]["yaw_deg"])
    assert yaws[1] == yaws[2] != yaws[0]


@pytest.fixture
def pack_with_swapper(mini_pack, tmp_path):
    """The small pack beside a face swapper, whose name comes first and whose input is as square as a recogniser's."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder = tmp_path / "pack"
    folder.mkdir()
    for path in mini_pack.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    inputs = [
        helper.make_tensor_value_info("target", TensorProto.FLOAT, [1, 3, 128, 128]),
        helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, 512]),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 128, 128])
    map_of_source = numpy_helper.from_array(np.eye(512, dtype=np.float32), "emap")
    node = helper.make_node("Identity", ["target"], ["output"])
    opset = [helper.make_opsetid("", 13)]
    graph = helper.make_graph([node], "swap", inputs, [output], [map_of_source])
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "inswapper_128.onnx")
    return folder


@pytest.mark.parametrize("engine", [DEFAULT, Engine(OPENVINO, EXACT)], ids=lambda one: one.name)
def test_a_face_swapper_in_the_folder_is_no_recogniser(pack_with_swapper, images, plain, engine):
    if engine.name == OPENVINO:
        needs_openvino()
    at = next(at for at, one in enumerate(plain) if one.embedding is not None)
    found = FaceEngine(pack_with_swapper, "cpu", engine=engine).measure(images[at])
    assert float(found.embedding @ plain[at].embedding) > 0.999


def _times(factor: float, path) -> None:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [factor])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "times", ports[:1], ports[1:], [weight])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    os.utime(path, (1e9, 1e9))


def test_a_file_that_was_replaced_does_not_run_as_it_was_before(tmp_path):
    needs_openvino()
    from mirror.detectors.openvino_session import OpenVinoSession

    made = []
    for factor in (2.0, 3.0):  # of one path, one size and one time
        _times(factor, tmp_path / "net.onnx")
        session = OpenVinoSession(tmp_path / "net.onnx", EXACT, cache=tmp_path / "cache")
        made.append(float(session.run(None, {"x": np.ones((1, 4), np.float32)})[0].max()))
    assert made == [2.0, 3.0]


def test_what_openvino_cannot_run_is_one_sentence(tmp_path):
    needs_openvino()
    from mirror.detectors.openvino_session import OpenVinoError, OpenVinoSession

    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(OpenVinoError, match="--engine onnxruntime") as told:
        OpenVinoSession(tmp_path / "net.onnx", EXACT, cache=tmp_path / "cache")
    assert len(str(told.value).splitlines()) == 1
