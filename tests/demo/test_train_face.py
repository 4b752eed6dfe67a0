"""The demo's face pack: its networks learn, export and load; the committed pack finds and measures rendered heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from demo.render import render
from demo.scene import Scene, draw_scene
from demo.training_data import UNSEEN_SEED, draw_people

PACK = ROOT / "models" / "demo" / "face"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a network for a few steps on a few pictures, as the command does: its losses, its file's folder."""
    torch = pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo import train_face

    base = tmp_path_factory.mktemp("training")
    torch.set_num_threads(1)
    counts = ["--people", "8", "--each", "3", "--oddities", "8", "--workers", "1"]

    def train(network: str, steps: int, output: str = "pack", *more: str) -> tuple[list[float], Path]:
        folder = base / output
        options = ["--steps", str(steps), "--output", str(folder), *counts, *more]
        return train_face.train(train_face.parse_args([network, *options]), base / "scratch"), folder

    return train


@pytest.mark.parametrize(
    ("network", "file", "steps", "side", "shape"),
    [
        ("recogniser", "rec_demo.onnx", 12, 112, (2, 512)),
        ("landmarks", "lmk_demo.onnx", 16, 192, (2, 3309)),
        ("age", "age_demo.onnx", 16, 96, (2, 3)),
    ],
)
def test_network_learns_and_exports_what_it_learned(trained, network, file, steps, side, shape):
    losses, folder = trained(network, steps)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    session = loaded(folder / file)
    pictures = np.random.default_rng(1).normal(0, 0.5, (2, 3, side, side)).astype(np.float32)
    (answer,) = session.run(None, {"input": pictures})
    assert answer.shape == shape
    (alone,) = session.run(None, {"input": pictures[1:]})
    assert alone[0] == pytest.approx(answer[1], abs=1e-4)


def test_detector_learns_and_exports_for_any_size(trained):
    from demo.facepack.detector import STRIDES

    losses, folder = trained("detector", 14)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    session = loaded(folder / "det_demo.onnx")
    for wide, high in ((640, 640), (320, 256), (128, 128)):
        answers = session.run(None, {"input": np.zeros((1, 3, high, wide), np.float32)})
        cells = [2 * (wide // stride) * (high // stride) for stride in STRIDES]
        assert [each.shape for each in answers] == [(count, values) for values in (1, 4, 10) for count in cells]
        assert all(each.min() >= 0 and each.max() <= 1 for each in answers[:3])


@pytest.mark.parametrize("kind", ["recogniser", "landmarks", "age"])
def test_export_computes_what_pytorch_computes(tmp_path, kind):
    torch = pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo.facepack import export, networks

    side, zeros, width = {"recogniser": (112, 0, 512), "landmarks": (192, 3105, 204), "age": (96, 2, 1)}[kind]
    torch.manual_seed(1)
    maker = {"recogniser": networks.Recogniser, "landmarks": networks.landmarks, "age": networks.age}[kind]
    network = maker()
    pictures = torch.randn(4, 3, side, side)
    network.train()(pictures)  # moves the running means away from 0, so that folding them is put to the test
    with torch.no_grad():
        wanted = network.eval()(pictures).numpy()
    (tmp_path / "net.onnx").write_bytes(export.column(network, side, zeros, width))
    (answer,) = loaded(tmp_path / "net.onnx").run(None, {"input": pictures.numpy()})
    assert not answer[:, :zeros].any()
    assert answer[:, zeros:] == pytest.approx(wanted, abs=1e-4)

    again = maker()
    export.restore(again, tmp_path / "net.onnx")
    with torch.no_grad():
        assert again.eval()(pictures).numpy() == pytest.approx(wanted, abs=1e-4)


def test_detector_export_computes_what_pytorch_computes(tmp_path):
    torch = pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo.facepack import detector, networks

    torch.manual_seed(1)
    network = networks.Detector()
    picture = torch.randn(1, 3, 256, 256)
    halved = torch.nn.functional.avg_pool2d(picture, 2)
    network.train()(torch.cat([halved, -halved]))
    with torch.no_grad():
        scores, boxes, fives = (each[0].numpy() for each in detector.flattened(network.eval()(halved)))
    (tmp_path / "det.onnx").write_bytes(detector.exported(network))
    answers = loaded(tmp_path / "det.onnx").run(None, {"input": picture.numpy()})
    size = detector.cells(128)[2][:, None]
    stride = np.repeat(detector.STRIDES, [len(each) for each in answers[:3]])[:, None]
    assert np.concatenate(answers[:3])[:, 0] == pytest.approx(1 / (1 + np.exp(detector.CAUTION - scores)), abs=1e-5)
    assert np.concatenate(answers[3:6]) * stride == pytest.approx(boxes * size, abs=1e-2)
    assert np.concatenate(answers[6:]) * stride == pytest.approx(fives * size, abs=1e-2)


def test_training_goes_on_from_the_file(trained):
    """The first step is a small one: the file changes, but what it computes hardly does."""
    pictures = {"input": np.random.default_rng(1).normal(0, 0.5, (8, 3, 96, 96)).astype(np.float32)}
    files, ages = [], []
    for more in ([], ["--resume"]):
        path = trained("age", 16 if not more else 1, "resumed", *more)[1] / "age_demo.onnx"
        files.append(path.read_bytes())
        ages.append(loaded(path).run(None, pictures)[0][:, 2])
    assert files[0] != files[1]
    assert ages[1] == pytest.approx(ages[0], abs=0.02) and ages[0].std() > 1e-4


def test_recogniser_goes_on_with_the_people_it_knows(trained):
    """Their directions are not in the file: they are found again by what it says of them."""
    fresh, _ = trained("recogniser", 12, "known_people")
    again, _ = trained("recogniser", 1, "known_people", "--resume")
    assert again[0] < 0.8 * fresh[0]


def test_killed_training_goes_on_where_it_was(trained, monkeypatch, capsys):
    from demo.facepack import training
    from utils.console import UserError

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_KEEP_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("demo.facepack.age.write_model", killed)
        with pytest.raises(KeyboardInterrupt):
            trained("age", 4, "killed")
    whole, _ = trained("age", 4, "not_killed")
    losses, folder = trained("age", 6, "killed", "--resume")
    assert len(losses) == 6 and losses[:4] == whole
    assert [path.name for path in folder.iterdir()] == ["age_demo.onnx"]

    (folder / "age_demo.unfinished").write_bytes(b"nothing")
    with pytest.raises(UserError, match="unfinished cannot be trained further"):
        trained("age", 6, "killed", "--resume")


def test_another_networks_file_is_not_trained_further(tmp_path, tiny_pack):
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo.facepack import export, networks
    from utils.console import UserError

    (tmp_path / "damaged.onnx").write_bytes(b"nothing")
    for path in (tiny_pack / "genderage.onnx", tmp_path / "missing.onnx", tmp_path / "damaged.onnx"):
        with pytest.raises(UserError, match="cannot be trained further"):
            export.restore(networks.age(), path)


def test_same_seed_same_network(trained):
    first, second = (trained("age", 2, output)[1] / "age_demo.onnx" for output in ("once", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_targets_of_the_detector_decode_to_the_face():
    """What it learns, read as InsightFace reads it, is the box and the points that were drawn."""
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo.facepack.detector import Canvas, cells, target

    box, five = np.array([100.0, 80.0, 190.0, 205.0]), np.arange(10.0).reshape(5, 2) * 9 + 80
    score, weight, boxes, fives = target(Canvas(np.zeros((160, 160, 3), np.uint8), [box], [five], []))
    x, y, size = cells(160)
    taking = np.flatnonzero(score)
    assert len(taking) and (weight[taking] == 1).all() and (weight == 0).any()
    for i in taking:
        left, top, right, bottom = boxes[i] * size[i]
        assert (x[i] - left, y[i] - top, x[i] + right, y[i] + bottom) == pytest.approx(box, abs=1e-3)
        assert fives[i].reshape(5, 2) * size[i] + (x[i], y[i]) == pytest.approx(five, abs=1e-3)


@pytest.mark.parametrize("turn", [(-60.0, 12.0, 8.0), (0.0, 0.0, 0.0), (35.0, -15.0, -10.0)])
def test_corrected_points_give_insightface_the_true_angles(turn):
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from insightface.data import get_object
    from insightface.utils import transform

    from demo.facepack.landmarks import posed_points
    from mirror.faces.pose import Angles

    yaw, pitch, roll = turn
    (who,) = draw_people(UNSEEN_SEED, 1)
    truth = render(Scene(who, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll), 128).truth
    points = posed_points(truth.points_68, Angles(yaw, pitch, roll))
    affine = transform.estimate_affine_matrix_3d23d(get_object("meanshape_68.pkl"), points)
    read_pitch, read_yaw, read_roll = transform.matrix2angle(transform.P2sRt(affine)[1])
    assert (read_yaw, read_pitch, read_roll) == pytest.approx(turn, abs=0.01)
    width = np.ptp(truth.points_68[:, 0])
    assert np.abs(points - truth.points_68)[:, :2].mean() < 0.06 * width  # still the points of this head


def test_crops_are_those_of_insightface():
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from insightface.utils import face_align

    from demo.facepack.pictures import aligned, box_transform

    (who,) = draw_people(UNSEEN_SEED, 1)
    picture = render(draw_scene(who, np.random.default_rng(1), roll_deg=12.0), 256)
    five, box = picture.truth.five_points, np.array(picture.truth.face_box_xyxy)
    theirs = face_align.norm_crop(picture.image, five.astype(np.float32))
    assert np.abs(aligned(picture.image, five).astype(int) - theirs).mean() < 1
    scale = 192 / (max(box[2:] - box[:2]) * 1.5)
    _, matrix = face_align.transform(picture.image, tuple((box[:2] + box[2:]) / 2), 192, scale, 0)
    assert box_transform(box, 192) == pytest.approx(matrix, abs=1e-6)


def test_crop_laid_by_wrong_points_is_laid_anew_by_the_true_ones():
    torch = pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")

    from demo.facepack import networks, pictures, recogniser

    (who,) = draw_people(UNSEEN_SEED, 1)
    picture = render(Scene(who, yaw_deg=20.0), 256)
    five = picture.truth.five_points
    wrong = five + np.random.default_rng(5).normal(0, 3, five.shape)
    to_crop = pictures.similarity(wrong, pictures.ARCFACE_POINTS)
    network = networks.Recogniser()

    def redrawn(crop: np.ndarray, off: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(crop.astype(np.float32).transpose(2, 0, 1)[None])
        return network.redraw(values, torch.from_numpy(off[None].astype(np.float32)))[0].numpy().transpose(1, 2, 0)

    inner = (slice(12, -12), slice(12, -12))
    crop, wanted = pictures.aligned(picture.image, wrong), pictures.aligned(picture.image, five)
    assert redrawn(crop, np.zeros(10)) == pytest.approx(crop, abs=0.5)
    assert np.abs(crop[inner].astype(int) - wanted[inner]).mean() > 6
    assert np.abs(redrawn(crop, recogniser.shifts_of(to_crop, five))[inner] - wanted[inner]).mean() < 3


def test_ages_are_learned_from_two_looks_of_one_person():
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo.facepack.age import two_looks

    ages = np.repeat([20.0, 20.0, 60.0, 60.0], 5).reshape(4, 5)
    random = np.random.default_rng(1)
    first, second = np.hstack([two_looks(ages, random).reshape(2, -1) for _ in range(20)])
    assert (first // 5 == second // 5).all()
    assert set(first % 5) == {0, 1, 2} and set(second % 5) == {3, 4}
    assert (first // 5 < 2).mean() == pytest.approx(0.75, abs=0.07)  # three times as often at a third of the age


def test_ageing_goes_on_from_what_age_learned(trained):
    from utils.console import UserError

    with pytest.raises(UserError, match=r"age_demo\.onnx is missing: python -m demo\.train_face age makes it first"):
        trained("ageing", 1, "ageing")
    pictures = {"input": np.random.default_rng(1).normal(0, 0.5, (8, 3, 96, 96)).astype(np.float32)}
    path = trained("age", 16, "ageing")[1] / "age_demo.onnx"
    before, ages = path.read_bytes(), loaded(path).run(None, pictures)[0][:, 2]
    trained("ageing", 1, "ageing")
    assert path.read_bytes() != before
    assert loaded(path).run(None, pictures)[0][:, 2] == pytest.approx(ages, abs=0.02)  # one small step from there
    losses, folder = trained("ageing", 16, "ageing")
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert [each.name for each in folder.iterdir()] == ["age_demo.onnx"]


def test_killed_ageing_goes_on_where_it_was(trained, monkeypatch):
    from demo.facepack import training
    from utils.console import UserError

    def killed(*_):
        raise KeyboardInterrupt

    for output in ("ageing_killed", "ageing_killed_twice", "ageing_whole"):
        trained("age", 2, output)
    whole, _ = trained("ageing", 4, "ageing_whole")
    monkeypatch.setattr(training, "_KEEP_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("demo.facepack.ageing.write", killed)
        with pytest.raises(KeyboardInterrupt):
            trained("ageing", 4, "ageing_killed")
        with pytest.raises(KeyboardInterrupt):
            trained("ageing", 4, "ageing_killed_twice")
    losses, folder = trained("ageing", 6, "ageing_killed", "--resume")
    assert len(losses) == 6 and losses[:4] == whole
    assert [each.name for each in folder.iterdir()] == ["age_demo.onnx"]

    folder = trained("age", 2, "ageing_killed_twice")[1]
    assert [each.name for each in folder.iterdir()] == ["age_demo.onnx"], "the ageing had begun with another network"
    (folder / "age_demo.unfinished").touch()
    with pytest.raises(UserError, match=r"age_demo\.unfinished is of a training of age that was killed"):
        trained("ageing", 1, "ageing_killed_twice")


def test_ageing_shows_everyone_in_two_looks_some_years_apart():
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    from demo.facepack.ageing import both_looks
    from demo.facepack.gallery import ageing_scenes

    scenes = ageing_scenes(draw_people(UNSEEN_SEED, 40), 5, np.random.default_rng(1))
    ages = np.array([scene.age_years for scene in scenes]).reshape(40, 5)
    first, second = ages[:, 0], ages[:, 4]
    assert (ages[:, :3] == first[:, None]).all() and (ages[:, 3:] == second[:, None]).all()
    assert (second - first >= 7).all() and (second - first <= 14).all()
    assert first.min() >= 18 and second.max() <= 75
    assert np.median(first) < 40 and first.max() > 50  # mostly young, but not only
    assert len({scene.who for scene in scenes}) == 40

    first, second = both_looks(40, 5, np.random.default_rng(1)).reshape(2, -1, 2)
    assert (first // 5 == second // 5).all() and (first[:, 0] // 5 == first[:, 1] // 5).all()
    assert len(set(first[:, 0] // 5)) == len(first)
    assert set((first % 5).flat) == {0, 1, 2} and set((second % 5).flat) == {3, 4}


def test_file_in_8_bits_computes_nearly_the_same(tmp_path):
    torch = pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    import onnx
    import onnxruntime

    from demo.facepack import export, networks

    torch.manual_seed(1)
    network = networks.age()
    pictures = torch.randn(4, 3, 96, 96)
    network.train()(pictures)
    plain = export.column(network.eval(), 96, 2, 1)
    small = export.packed(plain)
    assert len(small) < 0.3 * len(plain)
    answers = [onnx_answer(data, pictures.numpy())[:, 2] for data in (plain, small)]
    assert answers[1] == pytest.approx(answers[0], abs=0.001)  # a tenth of a year
    assert (answers[0] != answers[1]).any()
    assert export.packed(small) == small

    (tmp_path / "small.onnx").write_bytes(small)
    again = networks.age()
    export.restore(again, tmp_path / "small.onnx")
    with torch.no_grad():
        assert again.eval()(pictures).numpy()[:, 0] == pytest.approx(answers[1], abs=1e-4)
    assert export.packed(export.column(again, 96, 2, 1)) == small, "a file that is read and written stays the same"

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    assert "Conv" in kinds and not {"Cast", "Mul"} & kinds, "multiplied out once, when the file is loaded"


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--people", "2"), ("--minutes", "-1")])
def test_values_that_train_nothing_are_refused(capsys, option, value):
    from demo import train_face

    assert train_face.main(["age", option, value]) == 2
    assert f"{option} {float(value) if option == '--minutes' else value} is too small" in capsys.readouterr().err


@pytest.fixture(scope="module")
def app():
    """The committed pack as InsightFace loads it."""
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(PACK), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(640, 640))
    return app


def test_pack_is_whole_small_and_says_whose_it_is(app):
    from mirror.faces.packs import Pack

    assert set(app.models) == {"detection", "recognition", "landmark_3d_68", "genderage"}
    assert sum(path.stat().st_size for path in PACK.iterdir()) < 12e6
    assert "MIT" in Pack("demo", PACK).licence() and "not for photos of people" in Pack("demo", PACK).licence()


@pytest.mark.parametrize("yaw", [-40.0, 0.0, 40.0])
def test_pack_measures_a_rendered_head(app, yaw):
    who = draw_people(UNSEEN_SEED, 2)[1]
    picture = render(Scene(who, yaw_deg=yaw, age_years=40), 384)
    (face,) = app.get(picture.image)
    truth = picture.truth
    reach = np.linalg.norm(np.subtract(*truth.points_68[[36, 45]]))
    assert np.linalg.norm(face.kps - truth.five_points, axis=1).max() < 0.2 * reach
    assert face.bbox == pytest.approx(truth.face_box_xyxy, abs=0.35 * reach)
    assert face.pose[1] == pytest.approx(yaw, abs=12)
    assert face.age == pytest.approx(40, abs=20)


@pytest.mark.parametrize("size", [128, 320])
def test_pack_finds_faces_at_other_detector_sizes(app, size):
    (who,) = draw_people(UNSEEN_SEED, 1)
    boxes, points = app.models["detection"].detect(render(Scene(who), 384).image, input_size=(size, size))
    assert len(boxes) == 1 and points.shape == (1, 5, 2)


def test_pack_finds_nobody_in_empty_rooms(app):
    random = np.random.default_rng(3)
    rooms = [render(draw_scene(who, random, person=False), 256).image for who in draw_people(UNSEEN_SEED, 6)]
    assert sum(len(app.get(room)) for room in rooms) <= 1


def test_pack_tells_people_apart(app):
    """Most pictures lie nearest to the other one of their person; by chance one in nine would."""
    random = np.random.default_rng(4)
    vectors = []
    for who in draw_people(UNSEEN_SEED, 5):
        for yaw in (-25.0, 20.0):
            faces = app.get(render(draw_scene(who, random, yaw_deg=yaw), 256).image)
            assert len(faces) == 1
            vectors.append(faces[0].normed_embedding)
    cosines = np.array(vectors) @ np.array(vectors).T
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    assert (nearest // 2 == np.arange(10) // 2).sum() >= 7


def onnx_answer(data: bytes, pictures: np.ndarray) -> np.ndarray:
    import onnxruntime

    (answer,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"input": pictures})
    return answer


def loaded(path: Path):
    """The file as InsightFace would run it."""
    import onnxruntime
    from insightface.model_zoo import get_model

    tasks = {"rec": "recognition", "lmk": "landmark_3d_68", "age": "genderage", "det": "detection"}
    if path.stem[:3] in tasks and path.stem.endswith("_demo"):
        assert get_model(str(path), providers=["CPUExecutionProvider"]).taskname == tasks[path.stem[:3]]
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
