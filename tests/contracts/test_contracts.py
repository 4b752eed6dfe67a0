"""JSON between scripts: what is written can be read, and what is broken is named."""

import json

import pytest

from mirror.contracts.contract import ContractError, read_contract, write_contract
from mirror.contracts.gaps import Distribution, GapKey, read_gaps
from mirror.contracts.generation import GenerationMetadata
from mirror.contracts.summary import Summary


@pytest.fixture
def summary_file(metrics, tiny_pack, tmp_path, make_picture):
    make_picture(tmp_path / "ref" / "a.jpg")
    return metrics("--pack", tiny_pack).file("Summary")


def test_read_equals_written(summary_file, tmp_path):
    summary = read_contract(summary_file, Summary, "mirror_metrics.py")
    write_contract(tmp_path / "again.json", summary)
    assert (tmp_path / "again.json").read_bytes() == summary_file.read_bytes()
    assert list(tmp_path.glob(".again*")) == [], "the temporary file was left"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: data | {"schema_version": 99}, "schema_version"),
        (lambda data: data | {"groups": "none"}, "groups"),
        (lambda data: {key: value for key, value in data.items() if key != "pack"}, "pack"),
        (lambda data: data | {"typo": 1}, "typo"),
        (lambda data: data | {"pack": data["pack"] | {"has_age": "perhaps"}}, "pack.has_age"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_cure(summary_file, change, field):
    summary_file.write_text(json.dumps(change(json.loads(summary_file.read_text(encoding="utf-8")))))
    with pytest.raises(ContractError) as caught:
        read_contract(summary_file, Summary, "mirror_metrics.py")
    for part in (str(summary_file), f"field {field}:", "run mirror_metrics.py again"):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe broken", None])
def test_half_written_and_missing_files(tmp_path, content):
    path = tmp_path / "Summary.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ContractError, match=r"run mirror_metrics\.py again"):
        read_contract(path, Summary, "mirror_metrics.py")


def test_another_generator_may_write_no_more_than_the_readme_asks_for(tmp_path):
    image = {"file": "a.png", "gap_type": "face_angle", "target": "profile", "prompt": "ohwx", "seed": 1}
    path = tmp_path / "generation_metadata.json"
    path.write_text(json.dumps({"gaps_file": "gaps.json", "images": [image]}))
    assert read_contract(path, GenerationMetadata, "my_comfy.py").images[0].target == "profile"


def test_a_gap_file_of_a_person_needs_recommendations_and_no_more(tmp_path):
    path = tmp_path / "gaps.json"
    gap = {"type": "hands", "target": "visible", "count": 2}
    path.write_text("\ufeff" + json.dumps({"recommendations": [gap], "dataset": "photos"}), encoding="utf-8")
    gaps = read_gaps(path)
    assert gaps.recommendations[0].key == GapKey("composition", "hands_visible"), "as earlier versions spelled it"
    assert gaps.dataset == str(tmp_path / "photos") and gaps.sensors is None
    path.write_text(json.dumps({"recommendations": [gap | {"priority": 1}]}))
    with pytest.raises(ContractError, match=r"recommendations.0.priority: no such field is known here; correct it"):
        read_gaps(path)


@pytest.mark.parametrize("target", ["visible", "hands_visible"])
def test_shares_of_earlier_versions_have_the_documented_names(target):
    share = {"target": target, "label": "", "count": 1, "share_percent": 5, "goal_percent": 30, "trigger_percent": 15}
    one = Distribution.model_validate({"type": "hands", "title": "Hands", "measured": 20, "targets": [share]})
    assert (one.type, one.targets[0].target) == ("composition", "hands_visible")
