"""The rendered world: conventions, truth, limits of quality, speed; and, where the real face networks lie beside the
repository (../shared/faces/pack_mini), that they find these heads and tell them apart."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import make_world as writer
from demo.identity import NAMES, PARAMETERS, draw_identity, mean_identity
from demo.render import render
from demo.scene import BACKGROUNDS, FRAMINGS, LIGHTS, Scene, draw_scene
from demo.sets import DEFAULT_SEVERITY, KINDS, STEPS, make_set, make_steps, make_world

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT.parent / "shared" / "faces" / "pack_mini"
EYE_LEFT, EYE_RIGHT, NOSE, MOUTH_LEFT, MOUTH_RIGHT = range(5)


def person(seed: int):
    return draw_identity(np.random.default_rng(seed))


def test_same_scene_same_bytes():
    scene = draw_scene(person(1), np.random.default_rng(2), jpeg=85)
    first, second = render(scene, 160), render(scene, 160)
    assert np.array_equal(first.image, second.image)
    assert first.truth.as_dict() == second.truth.as_dict()
    assert not np.array_equal(first.image, render(draw_scene(person(1), np.random.default_rng(3)), 160).image)


def test_same_seed_same_scenes_in_all_sets():
    for kind in KINDS:
        assert make_set(make_world(5), kind, 6) == make_set(make_world(5), kind, 6)
    assert make_set(make_world(5), "balanced", 6) != make_set(make_world(6), "balanced", 6)


@pytest.mark.parametrize("yaw", [-30.0, 30.0])
def test_yaw_turns_the_nose_to_the_side_of_its_sign(yaw):
    points = render(Scene(person(3), yaw_deg=yaw), 128).truth.five_points
    offset = points[NOSE, 0] - points[[EYE_LEFT, EYE_RIGHT], 0].mean()
    assert np.sign(offset) == np.sign(yaw)
    assert abs(offset) > 2


def test_pitch_up_lifts_the_nose_between_eyes_and_mouth():
    def nose_share(pitch):
        p = render(Scene(person(3), pitch_deg=pitch), 128).truth.five_points
        eyes, mouth = p[:2, 1].mean(), p[3:, 1].mean()
        return (p[NOSE, 1] - eyes) / (mouth - eyes)

    assert nose_share(20) < nose_share(0) < nose_share(-20)


def test_roll_moves_the_crown_to_the_side_of_its_sign():
    points = render(Scene(person(3), roll_deg=20), 128).truth.five_points
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    assert eyes[0] > mouth[0]  # clockwise: the upper face goes right
    assert points[EYE_RIGHT, 1] > points[EYE_LEFT, 1]
    assert np.degrees(np.arctan2(*(points[EYE_RIGHT] - points[EYE_LEFT])[::-1])) == pytest.approx(20, abs=4)


def test_points_are_named_by_their_side_of_the_image():
    points = render(Scene(person(4)), 128).truth.five_points
    assert points[EYE_LEFT, 0] < points[NOSE, 0] < points[EYE_RIGHT, 0]
    assert points[MOUTH_LEFT, 0] < points[MOUTH_RIGHT, 0]
    assert points[:2, 1].max() < points[NOSE, 1] < points[3:, 1].min()


@pytest.mark.parametrize("yaw", [-60.0, 0.0, 35.0])
def test_truth_geometry(yaw):
    truth = render(Scene(person(6), yaw_deg=yaw, pitch_deg=5, roll_deg=-8), 200).truth
    x0, y0, x1, y1 = truth.face_box_xyxy
    assert ((truth.five_points > (x0 - 1, y0 - 1)) & (truth.five_points < (x1 + 1, y1 + 1))).all()
    p68, unit = truth.points_68, (y1 - y0) / 100
    assert p68.shape == (68, 3)
    assert np.allclose(p68[30, :2], truth.five_points[NOSE])
    assert np.allclose(p68[[48, 54], :2], truth.five_points[3:])
    for eye, rows in ((EYE_LEFT, slice(36, 42)), (EYE_RIGHT, slice(42, 48))):
        assert np.linalg.norm(p68[rows, :2].mean(0) - truth.five_points[eye]) < 7 * unit
    assert p68[30, 2] > p68[[0, 16], 2].min()  # the nose is nearer than the far ear
    if yaw:
        near, far = (0, 16) if yaw > 0 else (16, 0)  # a nose to the right shows the image-left cheek
        assert p68[near, 2] > p68[far, 2]


def test_the_jaws_points_lie_on_the_faces_lower_edge():
    for seed in (6, 7, 8):
        truth = render(Scene(person(seed), hair="bald"), 256).truth
        _, top, _, bottom = truth.face_box_xyxy
        jaw = truth.points_68[:17, :2]
        assert jaw[8, 1] == pytest.approx(bottom, abs=0.04 * (bottom - top))
        assert (np.diff(jaw[:9, 1]) > 0).all() and (np.diff(jaw[8:, 1]) < 0).all()  # down to the chin and up again
        assert (np.diff(jaw[:, 0]) > 0).all()


def test_a_profile_hides_the_far_eye_and_a_hand_is_reported():
    truth = render(Scene(person(6), yaw_deg=80), 160).truth
    assert truth.five_visible[EYE_LEFT] and not truth.five_visible[EYE_RIGHT]
    assert render(Scene(person(6)), 160).truth.five_visible == (True,) * 5
    assert not render(Scene(person(6)), 160).truth.hands_in_frame
    hand = render(Scene(person(6), hand="chin"), 160).truth
    assert hand.hands_in_frame and len(hand.hand_boxes_xyxy) == 1


def test_closed_eyes_and_the_dark_of_an_open_mouth_are_painted():
    def eye_patch(**kwargs):
        picture = render(Scene(person(4), grain=0, **kwargs), 256)
        x, y = picture.truth.five_points[EYE_LEFT].astype(int)
        return picture.image[y - 3 : y + 4, x - 3 : x + 4].astype(float)

    assert np.abs(eye_patch() - eye_patch(eyes_closed=True)).mean() > 25


def test_no_person_no_box():
    truth = render(Scene(person(4), person=False), 96).truth
    assert truth.face_box_xyxy is None and not any(truth.five_visible)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [(96, 128), (144, 96)])
def test_every_framing_in_any_format(framing, size):
    picture = render(Scene(person(5), fill=FRAMINGS[framing], hand="wave"), size)
    assert picture.image.shape == (size[1], size[0], 3) and picture.image.dtype == np.uint8
    assert picture.image.std() > 5
    json.dumps(picture.truth.as_dict())


def test_ages_hair_and_cover_change_the_picture_not_the_shape():
    scene = Scene(person(7), age_years=30.0)
    young = render(scene, 128)
    old = render(Scene(person(7), age_years=60.0), 128)
    assert np.abs(young.image.astype(int) - old.image).mean() > 2
    assert np.abs(young.truth.five_points - old.truth.five_points).max() < 128 * 0.03
    for change in (
        {"glasses": "clear"},
        {"glasses": "dark"},
        {"cover": "mask"},
        {"cover": "hand"},
        {"hair": "bald"},
    ):
        assert (
            np.abs(young.image.astype(int) - render(Scene(person(7), age_years=30.0, **change), 128).image).mean() > 0.3
        )


def test_plain_pictures_pass_the_limits_of_quality():
    """The documented limits: variance of the Laplacian above 100, mean brightness 30 to 225, at 512 pixels."""
    for i, background in enumerate(BACKGROUNDS * 2):
        picture = render(
            Scene(
                person(20 + i),
                background=background,
                background_seed=i,
                yaw_deg=10.0 * i - 25,
                light=LIGHTS["studio" if i < 3 else "daylight"],
            ),
            512,
        )
        grey = cv2.cvtColor(picture.image, cv2.COLOR_BGR2GRAY)
        assert cv2.Laplacian(grey, cv2.CV_64F).var() > 100
        assert 30 < grey.mean() < 225


def test_a_picture_of_256_pixels_is_quick_on_one_core():
    """43 ms when it was measured on a quiet machine (aim 60); twice the aim is what a busy one may take.

    Processor time of this thread, best of three medians of 30 turns.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        who, medians = person(3), []
        render(Scene(who), 256)
        for _ in range(3):
            took = []
            for i in range(30):
                start = time.thread_time()
                render(Scene(who, yaw_deg=4.0 * i - 58, background_seed=i), 256)
                took.append(time.thread_time() - start)
            medians.append(float(np.median(took)))
            if medians[-1] < 0.120:
                break
    finally:
        cv2.setNumThreads(threads)
    assert min(medians) < 0.120, f"medians {medians}"


def test_parameters_stay_in_their_ranges_and_blend():
    a, b = person(1), person(2)
    for who in (a, b, mean_identity(), a.towards(b, 0.3)):
        for name in NAMES:
            low, high, _ = PARAMETERS[name]
            assert low - 1e-9 <= getattr(who, name) <= high + 1e-9, name
    assert a.towards(b, 0.0) == a and a.distance(a) == 0
    steps = [a.distance(a.towards(b, t)) for t in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_zero_plants_nothing(kind):
    world = make_world(2)
    assert not any(shot.planted for shot in make_set(world, kind, 6, 0.0).shots)
    if DEFAULT_SEVERITY[kind] > 0:
        assert any(shot.planted for shot in make_set(world, kind, 6).shots)
    assert len(make_set(world, kind, 7).shots) == 7


def test_steps_improve_peak_and_copy():
    steps = make_steps(make_world(2), "name", 6)
    assert [s.name for s in steps] == [f"name-{n:06d}" for n in STEPS]
    blends = [np.mean([shot.facts["share"] for shot in s.shots]) for s in steps[:4]]
    assert blends == sorted(blends, reverse=True) and blends[-1] == 0
    copies = [sum(shot.planted == "near_copy" for shot in s.shots) for s in steps]
    assert copies[:4] == [0] * 4 and 0 < copies[4] < copies[5]


def test_wrong_words_are_refused_with_the_right_ones():
    with pytest.raises(ValueError, match="balanced"):
        make_set(make_world(1), "balancd")
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_set(make_world(1), "rigid", severity=1.5)
    with pytest.raises(SystemExit) as ended:
        writer.main(["--output", "x", "--pixels", "5"])
    assert ended.value.code == 2


def test_make_world_writes_pictures_truth_and_table(tmp_path, capsys):
    command = ["--seed", "3", "--size", "3", "--pixels", "96", "--sets", "overtrained", "failures", "--no-steps"]
    assert writer.main(["--output", str(tmp_path / "a"), *command]) == 0
    table = capsys.readouterr().out
    assert "near_copy" in table and "Copycat report" in table
    assert writer.main(["--output", str(tmp_path / "b"), *command]) == 0
    folders = ["Reference_Images", "Lora_Candidates/overtrained", "Lora_Candidates/failures"]
    for folder in folders:
        truth = json.loads((tmp_path / "a" / folder / "truth.json").read_text(encoding="utf-8"))
        names = sorted(p.name for p in (tmp_path / "a" / folder).glob("*.png"))
        assert names == [entry["file"] for entry in truth["images"]]
        assert set(truth["images"][0]["scene"]["who"]) == set(NAMES)
        for path in (tmp_path / "a" / folder).iterdir():
            assert path.read_bytes() == (tmp_path / "b" / folder / path.name).read_bytes()
    planted = [e["planted"] for e in json.loads((tmp_path / "a" / folders[0] / "truth.json").read_text())["images"]]
    assert planted.count("outlier") == 2 and planted.count("near_duplicate") == 2


def load_pack(side):
    if not PACK.is_dir():
        pytest.skip(f"the real face networks are not at {PACK}")
    analysis = pytest.importorskip("insightface.app")
    app = analysis.FaceAnalysis(name=str(PACK), providers=["CPUExecutionProvider"])
    app.prepare(0, det_size=(side, side))
    return app


@pytest.fixture(scope="module")
def pack():
    return load_pack(320)


def best_face(app, image):
    return max(app.get(image), key=lambda face: face.det_score, default=None)


def test_every_plain_head_is_found_from_profile_to_profile_and_yaw_is_in_order(pack):
    for seed in range(3):
        offsets = []
        for yaw in range(-80, 81, 20):
            picture = render(
                Scene(person(40 + seed), yaw_deg=yaw, background=BACKGROUNDS[seed], background_seed=seed), 320
            )
            face = best_face(pack, picture.image)
            assert face is not None, f"person {40 + seed} at {yaw} degrees"
            eyes = face.kps[:2].mean(0)
            offsets.append((face.kps[NOSE, 0] - eyes[0]) / np.linalg.norm(face.kps[3:].mean(0) - eyes))
        inner, outer = np.array(offsets[1:-1]), np.array(offsets)[[0, -1]]  # the order of -60 .. 60 degrees
        assert np.all(np.diff(inner) > 0), (seed, np.round(offsets, 2))
        assert outer[0] < offsets[3] and outer[1] > offsets[5]  # profiles lie beyond 20 degrees at least


def test_the_networks_keypoints_lie_near_the_truth(pack):
    for seed in range(3):
        picture = render(Scene(person(50 + seed), yaw_deg=10.0 * seed - 10), 320)
        truth = picture.truth.five_points
        gap = np.linalg.norm(best_face(pack, picture.image).kps - truth, axis=1).mean()
        assert gap < 0.16 * np.linalg.norm(truth[EYE_RIGHT] - truth[EYE_LEFT]) + 1


def test_same_head_scores_at_least_a_quarter_above_different_heads(pack):
    rows, owner = [], []
    for k in range(8):
        rng = np.random.default_rng([60, k])
        who = draw_identity(rng)
        for _ in range(4):
            face = best_face(pack, render(draw_scene(who, rng, yaw_deg=float(rng.uniform(-40, 40))), 320).image)
            if face is not None:
                rows.append(face.normed_embedding)
                owner.append(k)
    rows, owner = np.array(rows), np.array(owner)
    assert len(rows) >= 31
    upper = np.triu_indices(len(rows), 1)
    cosine, same = (rows @ rows.T)[upper], (owner[:, None] == owner[None])[upper]
    assert np.median(cosine[same]) - np.median(cosine[~same]) >= 0.25
