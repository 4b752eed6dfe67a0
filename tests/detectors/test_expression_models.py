"""Expression models: known by inputs and outputs, fed as each was trained, and never more told than they can tell."""

import cv2
import numpy as np
import pytest
from expression_nets import HSEMOTION, ferplus_net, hsemotion_net, own_net

from mirror.contracts.expressions import EXPRESSIONS
from mirror.detectors.expressions import OTHER, ExpressionModel, find_expression_model
from mirror.faces.cache import open_cache
from mirror.faces.engine import FaceMeasurement
from mirror.faces.expressions import ExpressionSensor, face_crop, reading_of
from utils.console import UserError
from utils.files import Status

LEVELS = {"neutral": 40.0, "happiness": 80.0, "surprise": 120.0, "sadness": 160.0, "anger": 200.0, "fear": 240.0}
SEVEN = tuple(name for name in HSEMOTION if name != "contempt")
TOLD = {"neutral": "neutral", "happiness": "smile", "surprise": "surprised", "sadness": "sad", "anger": "angry"}


def grey(level: float, side: int = 90) -> np.ndarray:
    return np.full((side, side, 3), round(level), np.uint8)


def face(box, roll_deg=0.0, turned_deg=0) -> FaceMeasurement:
    return FaceMeasurement(Status.OK, 1, "", (400, 400), box_xyxy=box, roll_deg=roll_deg, turned_deg=turned_deg)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (ferplus_net, "FER+"),
        (hsemotion_net, "HSEmotion"),
        (lambda path, levels: hsemotion_net(path, levels, side=260), "HSEmotion"),
        (lambda path, levels: hsemotion_net(path, levels, more=2), "HSEmotion"),
        (
            lambda path, levels: hsemotion_net(path, levels, names=tuple(n for n in HSEMOTION if n != "contempt")),
            "HSEmotion",
        ),
    ],
    ids=["ferplus", "b0", "b2", "with valence and arousal", "seven classes"],
)
def test_known_models_are_fed_as_they_were_trained(tmp_path, build, kind):
    model = ExpressionModel(build(tmp_path / "named_by_nobody.onnx", LEVELS))
    assert model.kind == kind and model.identity.startswith("named_by_nobody.onnx@")
    assert model.tells == ("neutral", "smile", "surprised", "angry", "sad")  # neither laughing nor serious
    for name, level in LEVELS.items():
        reading = model.read(grey(level))
        assert reading.expression == TOLD.get(name), name  # fear: none of ours
        assert sum(reading.scores.values()) == pytest.approx(1)
    assert model.read(grey(240)).best == OTHER


def test_what_a_model_is_not_sure_of_is_not_told(tmp_path):
    model = ExpressionModel(ferplus_net(tmp_path / "a.onnx", LEVELS, sharpness=0.0003))
    reading = model.read(grey(80))
    assert reading.best == "smile" and 0.3 < reading.scores["smile"] < 0.5 and reading.expression is None
    assert ExpressionModel(ferplus_net(tmp_path / "b.onnx", LEVELS)).read(grey(80)).expression == "smile"


@pytest.mark.parametrize("side", [96, "any"])
def test_ours_says_which_expressions_it_tells(tmp_path, side):
    levels = dict(zip((*EXPRESSIONS, OTHER), range(20, 250, 30), strict=True))
    model = ExpressionModel(own_net(tmp_path / "a.onnx", levels, side=side))
    assert model.kind == "MirrorMetrics" and model.tells == EXPRESSIONS
    read = [model.read(grey(level)).expression for level in levels.values()]
    assert read == [*EXPRESSIONS, None]


def test_red_is_not_taken_for_blue(tmp_path):
    """A network of ours weighs its channels alike; HSEmotion's normalisation does not: red and blue differ in it."""
    model = ExpressionModel(hsemotion_net(tmp_path / "a.onnx", {"neutral": 80.0, "anger": 84.0}))
    red, blue = np.zeros((2, 50, 50, 3), np.uint8)
    red[..., 2] = blue[..., 0] = 255
    shares = [model.read(picture).scores["angry"] for picture in (red, blue)]
    assert shares[1] > shares[0]  # blue's deviation 0.225 is smaller than red's 0.229, so it counts for more


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda path: path.write_bytes(b"no model"), "cannot be loaded as ONNX"),
        (lambda path: hsemotion_net(path, LEVELS, name="pixel_values"), "is no expression model: it takes"),
        (lambda path: hsemotion_net(path, LEVELS, side=112), "is no expression model: it takes"),
        (lambda path: hsemotion_net(path, LEVELS, more=1), "is no expression model: it takes"),
        (lambda path: own_net(path, {"smile": 1.0, "grin": 2.0}), "'grin' is none of neutral, smile"),
        (lambda path: own_net(path, {"smile": 1.0, "sad": 2.0}, said="smile,sad,angry"), "the file gives 2 numbers"),
        (lambda path: own_net(path, {"smile": 1.0, "sad": 2.0}, said="smile,smile"), "two names at least are needed"),
    ],
)
def test_a_file_that_is_none_of_these_is_one_sentence(tmp_path, build, said):
    path = tmp_path / "enet_b0_8_best_afew.onnx"  # its name says nothing
    build(path)
    with pytest.raises(UserError) as error:
        ExpressionModel(path)
    assert said in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_is_searched_by_the_names_that_models_have(tmp_path):
    assert find_expression_model(tmp_path) is None
    (tmp_path / "det_10g.onnx").touch()
    assert find_expression_model(tmp_path) is None
    for name in ("enet_b0_8_best_vgaf.onnx", "emotion-ferplus-8.onnx", "expression.onnx"):
        (tmp_path / name).touch()
        assert find_expression_model(tmp_path).name == name  # the later goes before
    assert find_expression_model(tmp_path, "det_10g.onnx").name == "det_10g.onnx"
    assert find_expression_model(tmp_path, "missing.onnx") is None


def arrow() -> np.ndarray:
    """A picture whose top half of the box (100, 120) to (200, 240) is white."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[120:180, 90:210] = 255
    return image


@pytest.mark.parametrize("tilt", [0, 20, 90, 180, -90])
def test_the_crop_stands_upright_whatever_the_tilt(tilt):
    """A head tilted clockwise by its roll, or lying on its side, is levelled."""
    about = cv2.getRotationMatrix2D((150, 180), -tilt, 1.0)  # OpenCV turns counterclockwise
    tilted = cv2.warpAffine(arrow(), about, (400, 400))
    crop = face_crop(tilted, face((100.0, 120.0, 200.0, 240.0), roll_deg=float(tilt)), 1.0)
    assert crop.shape == (120, 120, 3)
    assert crop[5:50, 20:100].mean() > 250 and crop[70:, 20:100].mean() < 5


def test_a_crop_grows_and_goes_on_beyond_the_edge():
    image = np.full((100, 100, 3), 77, np.uint8)
    crop = face_crop(image, face((-10.0, 0.0, 50.0, 80.0)), 1.25)
    assert crop.shape == (100, 100, 3) and (crop == 77).all()
    assert face_crop(image, face((0.0, 0.0, 20.0, 22.0)), 1.25) is None  # too small to see a mouth in
    assert face_crop(image, FaceMeasurement(Status.NO_FACE, 0, "", (100, 100)), 1.25) is None


def test_a_reading_is_kept_by_content_box_and_model(tmp_path):
    image = np.zeros((200, 200, 3), np.uint8)
    image[:, 100:] = 80
    left, right = face((10.0, 10.0, 90.0, 90.0)), face((110.0, 10.0, 190.0, 90.0))
    cache = open_cache(tmp_path / "cache.sqlite")
    sensor = ExpressionSensor(ExpressionModel(own_net(tmp_path / "a.onnx", {"neutral": 0.0, "smile": 80.0})), cache)
    assert sensor.read("one", image, left).expression == "neutral"
    assert sensor.read("one", image, right).expression == "smile"
    cache.close()
    cache = open_cache(tmp_path / "cache.sqlite")
    sensor = ExpressionSensor(sensor.model, cache)
    assert sensor.read("one", image * 0, right).expression == "smile"  # kept
    assert sensor.read("two", image * 0, right).expression == "neutral"
    other = ExpressionSensor(ExpressionModel(own_net(tmp_path / "b.onnx", {"angry": 0.0, "sad": 80.0})), cache)
    assert other.read("one", image, right).expression == "sad"
    assert other.read("one", image, FaceMeasurement(Status.NO_FACE, 0, "", (200, 200))) is None
    beside = other.beside()
    assert other.identity in beside.kind and reading_of(beside.measure(image, left)).expression == "angry"
    cache.close()
