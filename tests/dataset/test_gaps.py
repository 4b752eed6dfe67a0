"""The arithmetic of gaps: counts that reach their goals, goals files, the gap file, what pixels tell, and the page."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product

import cv2
import numpy as np
import pytest
from gaps_fixture import record, report_of, shares, target
from pages_browser import assert_fits, assert_quiet, chromium, opened

from mirror.contracts.contract import ContractError, read_contract, write_contract
from mirror.contracts.gaps import GapReport
from mirror.dataset import pixels
from mirror.dataset.gaps import (
    GAP_TYPES,
    GapType,
    Look,
    clipped,
    face_angle,
    images_wanted,
    measure_values,
    recommend,
    register,
    synthetic_room,
)
from mirror.dataset.goals import load_goals
from mirror.report.gaps import build_gaps
from utils.console import UserError
from utils.files import Status

ANGLE_GOALS = {"front": (50, 25), "three_quarter": (30, 15), "profile": (20, 10)}


def random_distribution(rng: np.random.Generator):
    """Up to five targets with up to 300 images each, random goals and triggers, some targets without a goal."""
    names = [f"t{i}" for i in range(rng.integers(1, 6))]
    counts = {name: int(rng.integers(0, 1 + rng.choice([3, 30, 300]))) for name in names}
    percents = rng.dirichlet(np.ones(len(names) + 1))[:-1] * 100
    goals = {}
    for name, percent in zip(names, percents, strict=True):
        goal = round(float(percent), int(rng.integers(0, 3)))
        if goal >= 1 and rng.uniform() < 0.8:
            goals[name] = (goal, goal * float(rng.choice([0.4, 0.5, 0.6])))
    return shares(counts, goals)


def after(one, wanted):
    """Exact share of each target after adding `wanted`."""
    total = one.measured + sum(wanted.values())
    return {share.target: Fraction(share.count + wanted.get(share.target, 0), total) for share in one.targets}


def percent(value):
    return Fraction(str(value)) / 100


def test_random_shares_reach_their_goals_after_adding():
    rng = np.random.default_rng(5)
    gaps = 0
    for _ in range(3000):
        one = random_distribution(rng)
        wanted = images_wanted(one)
        if not one.measured:
            assert wanted == {}
            continue
        reached = after(one, wanted)
        for share in one.targets:
            count = wanted.get(share.target)
            if share.goal_percent is None:
                assert count is None, "nothing is asked for without a goal"
            elif count is not None:
                gaps += 1
                assert count >= 0 and reached[share.target] >= percent(share.goal_percent)
            else:  # no gap before, and none is made of it by what is added for others
                assert reached[share.target] >= percent(share.trigger_percent)
                assert Fraction(share.count, one.measured) >= percent(share.trigger_percent)
    assert gaps > 1000, "the test must test something"


def test_counts_are_the_fewest():
    """Against trying all pairs of counts, for two gaps of one family."""
    rng = np.random.default_rng(6)
    for _ in range(40):
        counts = {"a": int(rng.integers(0, 3)), "b": int(rng.integers(0, 3)), "rest": int(rng.integers(8, 14))}
        goals = {"a": (int(rng.integers(10, 30)),) * 2, "b": (int(rng.integers(10, 30)),) * 2}
        one = shares(counts, goals)
        wanted = images_wanted(one)
        fitting = []
        for a, b in product(range(30), repeat=2):
            reached = after(one, {"a": a, "b": b})
            if all(reached[name] >= percent(goals[name][0]) for name in goals):
                fitting.append(a + b)
        assert sum(wanted.values()) == (min(fitting) if wanted else 0)


def test_exact_shares_need_no_more():
    """30 % of 10 are 3, although 0.3 * 10 is more than 3 in floating point for some sizes."""
    for measured in range(10, 2001, 10):
        one = shares({"a": 3 * measured // 10, "rest": 7 * measured // 10}, {"a": (30, 30)})
        assert images_wanted(one) == {}
    assert images_wanted(shares({"a": 0, "rest": 70}, {"a": (30, 15)})) == {"a": 30}


def test_the_documented_reason_and_its_count():
    one = shares({"front": 30, "three_quarter": 15, "profile": 4}, ANGLE_GOALS)
    (gap,) = recommend([one], room=1000, max_share=0.3)
    assert gap.reason == "Profile shots are 8.2% (target: 20%)"
    assert (gap.target, gap.count) == ("profile", 8)  # 12 of 57 are 21 %, 11 of 56 only 19.6 %


def test_frontal_only_is_solved_jointly():
    wanted = images_wanted(shares({"front": 50, "three_quarter": 0, "profile": 0}, ANGLE_GOALS))
    assert wanted == {"three_quarter": 30, "profile": 20}, "alone they would ask for 22 and 13, and dilute each other"


def test_what_others_dilute_is_asked_for_too():
    one = shares({"front": 84, "three_quarter": 16, "profile": 0}, ANGLE_GOALS)
    wanted = images_wanted(one)  # 16 % is above the trigger of 15, but not with 25 profiles more
    assert set(wanted) == {"three_quarter", "profile"}


def test_never_above_the_cap():
    rng = np.random.default_rng(7)
    tight = 0
    for _ in range(800):
        images = int(rng.integers(0, 400))
        synthetic = int(rng.integers(0, images + 1))
        cap = round(float(rng.uniform(0, 0.5)), 2)
        room = synthetic_room(images, synthetic, cap)
        assert room >= 0
        if room:
            assert Fraction(synthetic + room, images + room) <= Fraction(str(cap))
        assert Fraction(synthetic + room + 1, images + room + 1) > Fraction(str(cap)), "one more would be too many"
        gaps = recommend([random_distribution(rng), random_distribution(rng)], room, cap)
        assert sum(gap.count for gap in gaps) <= room
        assert all(0 <= gap.count <= gap.wanted for gap in gaps)
        clips = [gap for gap in gaps if gap.count < gap.wanted]
        assert all(f"to {gap.count}, as at most" in gap.reason for gap in clips)
        assert all("clipped" not in gap.reason for gap in gaps if gap.count == gap.wanted)
        if clips:
            tight += 1
            assert sum(gap.count for gap in gaps) == room, "what room there is gets used"
    assert tight > 100, "the test must test something"


def test_clipping_keeps_the_proportions():
    assert clipped([30, 20], 10) == [6, 4]
    assert clipped([1, 1, 1], 2) == [1, 1, 0]
    assert clipped([5, 0], 0) == [0, 0] and clipped([2, 1], 7) == [2, 1]


def test_the_reason_does_not_round_the_cap():
    (gap,) = recommend([shares({"a": 0, "rest": 70}, {"a": (30, 15)})], room=10, max_share=0.125)
    assert gap.reason.endswith("clipped from 30 to 10, as at most 12.5% of the dataset may be synthetic")


# Goals files


def goals_file(tmp_path, content):
    path = tmp_path / "goals.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def goal_of(types, name, which):
    found = types[name].target(which)
    return found.goal_percent, found.trigger_percent


def test_goals_of_a_file_replace_only_what_they_name(tmp_path):
    given = {
        "face_angle": {"profile": 15, "three_quarter": {"goal": 30, "trigger": 25}},
        "lighting": {"low_key": None, "high_key": 0},
        "eyes": {"visible": 80},
        "hands": {"visible": 44},  # as earlier versions spelled it
    }
    types = load_goals(goals_file(tmp_path, given), GAP_TYPES)
    assert goal_of(types, "face_angle", "profile") == (15, 7.5)
    assert goal_of(types, "face_angle", "three_quarter") == (30, 25)
    assert goal_of(types, "face_angle", "front") == (50, 25)
    assert goal_of(types, "lighting", "low_key") == goal_of(types, "lighting", "high_key") == (None, None)
    assert goal_of(types, "eyes", "visible") == (80, 40)
    assert goal_of(types, "composition", "hands_visible") == (44, 22)
    assert goal_of(GAP_TYPES, "face_angle", "profile") == (20, 10), "the registry itself stays"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "cannot be read"),
        ([], "a table of goals is expected"),
        ({"angle": {}}, "'angle' is no gap type; known: face_angle"),
        ({"hands": {"seen": 10}}, "'seen' is no target; known: hands_visible, hands_hidden"),
        ({"hands": 30}, "composition: a table of goals is expected here, not 30"),
        (
            {"composition": {"hands_visible": 0.3}},
            "composition.hands_visible: goal 0.3 is no percentage from 1 to 100. ",
        ),
        ({"composition": {"hands_visible": 0.3}}, "Goals are percentages"),
        ({"composition": {}, "hands": {"visible": 30}}, "composition stands there in two spellings; leave one"),
        ({"hands": {"visible": 30, "hands_visible": 20}}, "hands_visible stands there in two spellings"),
        ({"face_angle": {"three-quarter": 30, "three_quarter": 20}}, "three_quarter stands there in two spellings"),
        ({"hands": {"visible": 130}}, "goal 130 is no percentage"),
        ({"hands": {"visible": True}}, "goal true is no percentage"),
        ({"hands": {"visible": {"goal": 30, "triger": 1}}}, "'triger' is no field of a goal; known: goal, trigger"),
        ({"hands": {"visible": {"trigger": 10}}}, "composition.hands_visible: goal null is no percentage"),
        (
            {"hands": {"visible": {"goal": 20, "trigger": 30}}},
            "composition.hands_visible: the trigger must be given, and not lie above",
        ),
        ({"face_angle": {"front": 60}}, "add up to 110%; they may take 100%"),
        ({"lighting": {"low_key": 50, "high_key": 50}}, "add up to 100%; they may take less than 100%"),
    ],
)
def test_broken_goals_are_named(tmp_path, given, said):
    path = goals_file(tmp_path, given)
    with pytest.raises(UserError) as caught:
        load_goals(path, GAP_TYPES)
    assert str(path) in str(caught.value) and said in str(caught.value)


# The registry


def test_every_goal_has_prompts_and_documented_goals_stand():
    assert goal_of(GAP_TYPES, "face_angle", "profile")[0] == 20
    assert goal_of(GAP_TYPES, "composition", "hands_visible")[0] == 30
    assert [one.goal_percent for one in GAP_TYPES["face_angle"].targets] == [50, 30, 20]
    for gap in GAP_TYPES.values():
        assert all(one.prompts for one in gap.targets), f"{gap.name} cannot be asked for"


def test_registering_twice_or_beyond_reach_is_refused():
    with pytest.raises(ValueError, match="registered already"):
        register(GAP_TYPES["composition"])
    with pytest.raises(ValueError, match="add up to 120%"):
        register(GapType("x", "X", lambda look: None, (target("a", 60), target("b", 60))))
    with pytest.raises(ValueError, match=r"must be the angle bins .*: front, three_quarter, profile"):
        register(GapType("turned", "Turned", face_angle, (target("front", 60), target("half_turn", 20))))
    assert "x" not in GAP_TYPES


@pytest.mark.parametrize(
    ("measure", "said"),
    [(lambda look: "c", "gave 'c'; its targets are ['a']"), (lambda look: 1 / 0, "ZeroDivisionError")],
)
def test_a_measure_function_that_breaks_its_promise_is_named(measure, said):
    grey = np.zeros((4, 4), np.uint8)
    look = Look(np.zeros((4, 4, 3), np.uint8), grey, pixels.histogram(grey), None, None, None, None, None)
    gap = GapType("mine", "Mine", measure, (target("a"),))
    with pytest.raises(UserError, match="gap type mine") as caught:
        measure_values(look, {"mine": gap})
    assert said in str(caught.value)


# What pixels tell


def picture(seed=0, size=(256, 192)):
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def test_light_and_exposure():
    def light(dark, bright):
        return pixels.lighting(
            pixels.histogram(np.repeat(np.uint8([10, 120, 240]), [dark, 100 - dark - bright, bright]))
        )

    assert light(70, 5) == "low_key" and light(5, 70) == "high_key"
    assert light(40, 40) == light(70, 30) == light(30, 70) == light(0, 0) == "normal"
    assert [pixels.exposure(value) for value in (29.9, 30, 225, 225.1)] == ["under", "normal", "normal", "over"]
    assert pixels.brightness(pixels.histogram(np.full((3, 5), 77, np.uint8))) == pytest.approx(77)


def test_sharpness_falls_with_blur_and_does_not_grow_with_the_file():
    grey = pixels.grey_of(picture(1, (1024, 768)))
    noisy = np.clip(grey + np.random.default_rng(0).normal(0, 20, grey.shape), 0, 255).astype(np.uint8)
    sharp = pixels.sharpness(noisy)
    blurred = [pixels.sharpness(cv2.GaussianBlur(noisy, (0, 0), sigma)) for sigma in (2, 4, 8)]
    assert sharp > blurred[0] > blurred[1] > blurred[2] and sharp > pixels.SHARPNESS_LIMIT > blurred[0]
    half = cv2.resize(noisy, (512, 384), interpolation=cv2.INTER_AREA)
    assert pixels.sharpness(half) == pytest.approx(sharp, rel=0.02), "the size of measuring is fixed"
    flat = np.full((1, 3000), 9, np.uint8)
    assert pixels.sharpness(flat) == 0


def test_near_duplicates_are_the_same_picture_in_other_clothes():
    first, other = picture(1), picture(2)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", first, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    brighter = np.clip(first.astype(int) * 9 // 10 + 20, 0, 255).astype(np.uint8)
    smaller = cv2.resize(first, (100, 75), interpolation=cv2.INTER_AREA)
    hashes = [pixels.picture_hash(pixels.grey_of(one)) for one in (first, other, jpeg, brighter, smaller)]
    pairs = {(i, j) for i, j, _ in pixels.near_duplicates(hashes)}
    assert pairs == {(0, 2), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4)}
    assert pixels.near_duplicates([5, 2, 5]) == [(0, 1, 3), (0, 2, 0), (1, 2, 3)]
    assert pixels.near_duplicates([]) == [] == pixels.near_duplicates([1])


# The gap file


@pytest.fixture
def gap_file(tmp_path):
    records = [record(f"{i}.jpg") for i in range(30)]
    write_contract(tmp_path / "gaps.json", report_of(records))
    return tmp_path / "gaps.json"


def test_read_equals_written(gap_file, tmp_path):
    report = read_contract(gap_file, GapReport, "gap_analysis.py")
    assert [(gap.target, gap.count) for gap in report.recommendations][:2] == [("three_quarter", 6), ("profile", 4)]
    write_contract(tmp_path / "again.json", report)
    assert (tmp_path / "again.json").read_bytes() == gap_file.read_bytes()


def changed(data, *path_and_value):
    *path, last, value = path_and_value
    inner = data
    for key in path:
        inner = inner[key]
    inner[last] = value
    return data


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: changed(data, "schema_version", 2), "schema_version"),
        (lambda data: changed(data, "script", "mirror_metrics.py"), "script"),
        (lambda data: changed(data, "recommendations", 0, "count", -3), "recommendations.0.count"),
        (lambda data: changed(data, "recommendations", 1, "count", "many"), "recommendations.1.count"),
        (lambda data: changed(data, "recommendations", 0, "typo", 1), "recommendations.0.typo"),
        (lambda data: changed(data, "sensors", "angle", None), "sensors.angle"),
        (lambda data: changed(data, "images", 4, "status", "fine"), "images.4.status"),
        (lambda data: {key: value for key, value in data.items() if key != "recommendations"}, "recommendations"),
        (lambda data: [data], "the whole file"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_cure(gap_file, change, field):
    gap_file.write_text(json.dumps(change(json.loads(gap_file.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(ContractError) as caught:
        read_contract(gap_file, GapReport, "gap_analysis.py")
    for part in (str(gap_file), f"field {field}:", "run gap_analysis.py again"):
        assert part in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_half_written_files_are_refused(gap_file, share):
    data = gap_file.read_bytes().rstrip()
    gap_file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ContractError, match=r"gaps\.json.*run gap_analysis\.py again"):
        read_contract(gap_file, GapReport, "gap_analysis.py")


# The page


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


HOSTILE = "</script><img src=x onerror=alert(1)> ä 'x' \N{GRINNING FACE}" + "long" * 40 + ".jpg"


def hostile_report():
    records = [record(f"{i}.jpg") for i in range(20)]
    records += [record(HOSTILE, "profile", -71.4), record("none.png", None, None, status=Status.NO_FACE, reason="<i>")]
    records += [record("dark.png", "three_quarter", 40.0, exposure="under", sharpness=3.0, det_score=0.7)]
    lost = ["size_wh", "faces", "yaw_deg", "pitch_deg", "sharpness", "brightness", "exposure", "picture_hash"]
    empty = dict.fromkeys(lost) | {"values": {}, "status": Status.UNREADABLE, "reason": "is <b>empty</b>"}
    return report_of([*records, record("broken.png", **empty)], warnings=("<b>look</b> here",))


def test_page_refuses_thumbnails_that_do_not_match():
    with pytest.raises(ValueError, match="thumbnails"):
        build_gaps(hostile_report(), [None])


def test_page_says_where_there_is_no_room_and_keeps_degrees_in_their_bin(browser, tmp_path):
    report = report_of([record(f"{i}.jpg", yaw=-24.78) for i in range(20)])
    gaps = [gap.model_copy(update={"count": 0 if i else 3}) for i, gap in enumerate(report.recommendations)]
    report = report.model_copy(update={"recommendations": gaps})
    result = opened(browser, tmp_path, build_gaps(report, [None] * 20), 1280)
    assert result.texts(".gap .add") == ["+3", *["none: synthetic limit reached"] * (len(gaps) - 1)] and len(gaps) > 1
    assert result.texts(".share:first-child .state")[1:] == ["gap, +3", "gap, synthetic limit reached"]
    assert set(result.texts("main > section:first-child .hint")) == {"24° left, 4° down"}, "25 is three-quarter"
    result.page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_page_shows_what_the_report_says(browser, tmp_path, width):
    report = hostile_report()
    small = cv2.imencode(".jpg", picture(3, (40, 30)))[1].tobytes()
    result = opened(browser, tmp_path, build_gaps(report, [small] * 23 + [None]), width)
    assert_fits(result)
    assert_quiet(result)
    assert "<b>look</b> here" in result.texts(".warnings li")[0], "a warning is text"
    assert result.texts(".gap .add") == [f"+{gap.count}" for gap in report.recommendations]
    assert result.texts(".gap span:last-child") == [f"{gap.reason}." for gap in report.recommendations]
    unmeasured = " ".join(result.texts(".unmeasured"))
    assert result.page.locator(".unmeasured").count() == 4, "hands, eyes, expression and, in this report, shot size"
    assert "Not measured: no <b>detector</b>." in unmeasured and "%" not in unmeasured
    sections = result.page.locator("main > section")
    cards = {label: sections.nth(i).locator("li").count() for i, label in enumerate(result.texts("main h2"))}
    assert [(label.split()[0], count) for label, count in cards.items()] == [
        ("Front", 20),
        ("Three-quarter", 1),
        ("Profile", 1),
        ("Images", 1),
    ]
    assert result.texts("main > section:nth-child(3) .hint") == ["71° left, 4° down"]
    assert result.texts("main > section:nth-child(3) .name")[0] == HOSTILE
    assert result.texts("main > section:nth-child(2) .tag")[1:] == ["blurred", "too dark"]
    assert result.ask("[...document.images].every(image => image.naturalWidth === 40)")
    assert "broken.png" in result.texts("#failures td")[0] and "is <b>empty</b>" in result.texts("#failures td")[2]
    goals = result.ask(
        """() => [...document.querySelectorAll('.share:first-child .track')].map(track => {
             const box = track.getBoundingClientRect(), goal = track.querySelector('.goal').getBoundingClientRect();
             return [track.querySelector('.fill').getBoundingClientRect().width / box.width,
                     (goal.left + 1 - box.left) / box.width]; })"""
    )
    angles = report.distributions[0].targets
    for (length, goal), share in zip(goals, angles, strict=True):
        assert length == pytest.approx(share.share_percent / 100, abs=0.01)
        assert goal == pytest.approx(share.goal_percent / 100, abs=0.01)
    result.page.close()
