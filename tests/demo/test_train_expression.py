"""The demo's expression model: it learns, exports, goes on where it stopped; the committed one reads unseen heads."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import expression_bench as bench
from demo import train_expression as script
from mirror.contracts.expressions import EXPRESSIONS
from mirror.detectors.expressions import OURS, ExpressionModel
from utils.defaults import DEMO_EXPRESSION

STEPS = 12
SMALL = ["--steps", str(STEPS), "--people", "2", "--each", "1", "--workers", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training as the command runs it: the finished process, its scratch folder and its model."""
    pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    base = tmp_path_factory.mktemp("expression")
    command = [sys.executable, "-m", "demo.train_expression", *SMALL]
    command += ["--scratch", str(base / "scratch"), "--output", str(base / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done, base / "scratch", base / "model" / DEMO_EXPRESSION.name


def test_a_short_training_writes_a_model_that_the_sensor_reads(trained):
    done, _, path = trained
    facts = json.loads(done.stdout)
    assert facts["steps"] == STEPS and facts["bytes"] == path.stat().st_size < 1.1e6
    assert facts["loss"] < np.log(len(EXPRESSIONS))  # better than saying nothing of all seven
    model = ExpressionModel(path)
    assert model.kind == OURS and model.tells == EXPRESSIONS
    reading = model.read(np.full((80, 80, 3), 128, np.uint8))
    assert sum(reading.scores.values()) == pytest.approx(1)


def test_a_stopped_training_goes_on_to_the_same_file(trained, tmp_path, monkeypatch, capsys):
    from demo import expression_training as learning

    _, scratch, whole = trained
    one_step, taken = learning._one_step, []

    def until_stopped(*parts) -> None:
        if len(taken) == 5:
            raise KeyboardInterrupt
        taken.append(one_step(*parts))

    monkeypatch.setattr(learning, "_CHECKPOINT_S", -1)  # after every step
    monkeypatch.setattr(learning, "_one_step", until_stopped)
    options = [*SMALL, "--scratch", str(scratch), "--output", str(tmp_path)]
    assert script.main(options) == 130
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(learning, "_one_step", one_step)
    assert script.main([*options, "--resume"]) == 0
    assert (tmp_path / whole.name).read_bytes() == whole.read_bytes()

    assert script.main([*options, "--resume", "--seed", "2"]) == 2
    assert "is of a training with --seed 1" in capsys.readouterr().err
    (scratch / script.CHECKPOINT).write_bytes(b"nothing")
    assert script.main([*options, "--resume"]) == 2
    assert "cannot be gone on from" in capsys.readouterr().err


def test_the_export_computes_what_pytorch_computes(tmp_path):
    torch = pytest.importorskip("torch", reason="training needs PyTorch: requirements/bootstrap.txt")
    import onnxruntime

    from demo.expression_training import SIDE, exported, expression_network

    torch.manual_seed(1)
    network, pictures = expression_network(), torch.rand(4, 3, SIDE, SIDE)
    network.train()(pictures)  # moves the running means away from 0, so that folding them is put to the test
    with torch.no_grad():
        wanted = network.eval()(pictures).numpy()
    session = onnxruntime.InferenceSession(exported(network), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": pictures.numpy()})[0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "0"], "--steps 0 is too small"),
        (["--people", "1"], "--people 1 is too small"),
        (["--minutes", "-1"], "--minutes -1.0 is too small"),
        (["--resume"], "--resume needs --scratch"),
    ],
)
def test_values_that_train_nothing_are_refused(capsys, options, said):
    assert script.main(options) == 2
    assert said in capsys.readouterr().err


def test_the_committed_model_is_small_and_says_whose_it_is():
    assert DEMO_EXPRESSION.stat().st_size < 1.1e6
    licence = (DEMO_EXPRESSION.parent / "LICENSE.txt").read_text(encoding="utf-8")
    assert "MIT" in licence and "not for photos of people" in licence
    assert ExpressionModel(DEMO_EXPRESSION).tells == EXPRESSIONS


def test_the_committed_model_reads_people_whom_it_never_saw():
    """A slice of benchmarks/expression_bench.py, through the demo pack's detection: frontal to 45 degrees."""
    answers = bench.measure(3, DEMO_EXPRESSION, workers=1, bands=bench.BANDS_DEG[:3])
    assert len(answers) == 3 * 3 * len(EXPRESSIONS)
    assert np.mean([answer.right for answer in answers]) >= 0.85
    lines = bench.report(answers)
    assert all(any(line.startswith(f"| {name} |") for line in lines) for name in EXPRESSIONS)
