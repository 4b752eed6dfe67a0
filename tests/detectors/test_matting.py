"""Matting models: each kind is fed and read as its own project does it; what is unknown is refused in one sentence."""

from __future__ import annotations

import cv2
import matting_nets as nets
import numpy as np
import pytest

from mirror.detectors.matting import BIREFNET, MODNET, RMBG, U2NET, MattingModel
from utils.console import UserError


@pytest.fixture
def picture() -> np.ndarray:
    """(300, 400, 3) BGR: red rises from 10 at the left to 210 at the right; green and blue fall."""
    red = np.tile(np.linspace(10, 210, 400), (300, 1))
    return np.dstack([250 - red, 230 - red, red]).round().clip(0, 255).astype(np.uint8)


def test_modnet_gives_the_matte_as_it_is(tmp_path, picture):
    model = MattingModel(nets.modnet(tmp_path / "modnet.onnx"), "cpu")
    assert model.kind == MODNET
    alpha = model.alpha(picture)
    assert alpha.shape == (300, 400) and alpha.dtype == np.float32
    assert np.abs(alpha - picture[..., 2] / 255).max() < 0.01


@pytest.mark.parametrize("make, kind", [(nets.u2net, U2NET), (nets.rmbg, RMBG)])
def test_u2net_and_rmbg_are_stretched(tmp_path, picture, make, kind):
    model = MattingModel(make(tmp_path / "net.onnx"), "cpu")
    assert model.kind == kind
    assert np.abs(model.alpha(picture) - (picture[..., 2] - 10.0) / 200).max() < 0.01


def test_a_flat_matte_is_not_stretched_into_noise(tmp_path):
    model = MattingModel(nets.rmbg(tmp_path / "net.onnx"), "cpu")
    alpha = model.alpha(np.full((64, 64, 3), 255, np.uint8))
    assert np.abs(alpha - 0.25).max() < 0.01  # 0.5 * (1 - 0.5)


@pytest.mark.parametrize("side", [512, 1024])
def test_birefnet_gives_logits(tmp_path, picture, side):
    model = MattingModel(nets.birefnet(tmp_path / "net.onnx", side), "cpu")
    assert model.kind == BIREFNET
    wanted = 1 / (1 + np.exp(-nets.STEEPNESS * (picture[..., 2] / 255 - 0.5)))
    assert np.abs(model.alpha(picture) - wanted).max() < 0.02


def test_u2net_divides_by_the_largest_value(tmp_path, picture):
    """A dark picture and a bright one of the same pattern give the same matte."""
    model = MattingModel(nets.u2net(tmp_path / "net.onnx", 0), "cpu")
    assert np.abs(model.alpha(picture) - model.alpha((picture // 2).astype(np.uint8))).max() < 0.02


def test_a_tall_picture_keeps_its_place(tmp_path):
    """Red above a line, nothing below it: height and width are not mixed up."""
    picture = np.zeros((640, 200, 3), np.uint8)
    picture[:160, :, 2] = 255
    alpha = MattingModel(nets.modnet(tmp_path / "modnet.onnx"), "cpu").alpha(picture)
    assert alpha[:150].min() > 0.95 and alpha[170:].max() < 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda path: nets.net(path, "x", [1, 3, 64, 64], 1.0, 0.0),
        lambda path: nets.net(path, "input", ["n", 3, "h", "w"], 1.0, 0.0, channels=3),
        lambda path: nets.net(path, "x", [1, 3, 1024, 1024], 1.0, 0.0),
        lambda path: path.write_bytes(b"no model"),
    ],
)
def test_what_is_unknown_is_one_sentence(tmp_path, make):
    path = tmp_path / "strange.onnx"
    make(path)
    with pytest.raises(UserError) as refused:
        MattingModel(path, "cpu")
    assert "strange.onnx" in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"matting model .*nothing\.onnx cannot be read"):
        MattingModel(tmp_path / "nothing.onnx", "cpu")


def test_the_picture_is_not_changed(tmp_path, picture):
    before = picture.copy()
    MattingModel(nets.modnet(tmp_path / "modnet.onnx"), "cpu").alpha(picture)
    assert cv2.absdiff(before, picture).max() == 0
