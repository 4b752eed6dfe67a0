"""bootstrap_config.json: deep defaults, and every mistake one sentence with the key and the nearest valid name."""

import json

import pytest
from conftest import ROOT

from mirror.generation.families import FAMILIES
from mirror.loop.commands import Commands, LoopPaths
from mirror.loop.config import filled, load_config
from mirror.loop.state import WEIGHT, settings_of
from mirror.training.presets import PRESETS
from utils.console import UserError

GOOD = {"person_name": "alice", "person_trigger": "ohwx alice", "base_model": "someone/model"}
PHOTOS = "outputs/facevault/organized/alice"  # as documented


@pytest.fixture
def folder(tmp_path):
    for name in (PHOTOS, "models"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def loaded(folder, given):
    path = folder / "config.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return load_config(path, PRESETS)


def test_defaults_reach_every_depth(folder):
    config = loaded(folder, GOOD | {"generation": {"num_inference_steps": 12}})
    wanted = config.generation
    assert (wanted.num_inference_steps, wanted.num_per_gap, wanted.guidance_scale) == (12, 5, None)
    assert (config.training.epochs, config.convergence_threshold, config.max_synthetic_share) == (10, 0.05, 0.30)
    assert config.output_dir == str((folder / "outputs/bootstrap").resolve()), (
        "relative to the file, not to where one is"
    )
    assert config.dataset_dir == str((folder / PHOTOS).resolve())
    assert config.lora_output_dir == str((folder / "outputs/lora_models/alice").resolve())


def test_other_names_of_keys_are_read_and_never_both(folder):
    config = loaded(folder, GOOD | {"generation": {"steps": 12, "guidance": 3.5}})
    assert (config.generation.num_inference_steps, config.generation.guidance_scale) == (12, 3.5)
    twice = GOOD | {"generation": {"steps": 12, "num_inference_steps": 12}}
    with pytest.raises(UserError, match=r"generation.num_inference_steps and generation.steps are the same; leave"):
        loaded(folder, twice)


def test_a_name_that_is_no_folder_needs_its_folders_named(folder):
    with pytest.raises(UserError, match=r'person_name: "a/b" is no name of a folder, and dataset_dir and lora_output'):
        loaded(folder, GOOD | {"person_name": "a/b"})
    named = {"person_name": "a/b", "dataset_dir": PHOTOS, "lora_output_dir": "loras"}
    assert loaded(folder, GOOD | named).person_name == "a/b"


def test_the_documented_file_is_valid_and_says_the_defaults(folder):
    given = json.loads((ROOT / "bootstrap_config.json").read_text())
    assert set(given) >= {"person_name", "person_trigger", "base_model", "dataset_dir", "models_dir", "output_dir"}
    assert set(given) >= {"lora_output_dir", "max_iterations", "convergence_threshold"}
    assert set(given) >= {"generation", "validation", "training"}
    sdxl = FAMILIES["sdxl"]  # of the base model in the file: what a file leaves out, the family decides
    assert [given["generation"].pop(key) for key in ("num_inference_steps", "guidance_scale")] == [
        sdxl.steps,
        sdxl.guidance,
    ]
    written, default = loaded(folder, given), loaded(folder, GOOD)
    names = {"person_name", "person_trigger", "base_model"}
    assert written.model_dump(exclude=names) == default.model_dump(exclude=names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_iteration": 3}, "max_iteration is not a known key; did you mean max_iterations"),
        ({"generation": {"num_per_gaps": 3}}, "generation.num_per_gaps is not a known key; did you mean num_per_gap"),
        ({"generation": {"zebra": 3}}, "generation.zebra is not a known key; known: command, options, num_per_gap"),
        ({"max_iterations": "5"}, 'max_iterations: it should be a valid integer, and it is "5"'),
        ({"max_iterations": 0}, "max_iterations: it should be greater than or equal to 1"),
        ({"max_iterations": True}, "max_iterations: it should be a valid integer"),
        ({"training": 5}, "training: "),
        ({"convergence_threshold": 5}, "convergence_threshold: .* It is a share: 0.05 is 5 %"),
        (
            {"generation": {"command": ["draw", "{gaps}", "{prompts}", "{output}", "{steps}"]}},
            r"generation.command: {steps} stands for generation.num_inference_steps, which has no value",
        ),
        ({"max_synthetic_share": 0.6}, "max_synthetic_share: it should be less than or equal to 0.5"),
        ({"validation": {"allow_unverified": ["hats"]}}, "validation.allow_unverified.0"),
        ({"dataset_dir": "output"}, "dataset_dir: .*output does not exist; did you mean .*outputs"),
        ({"models_dir": "config.json"}, "models_dir: .* is a file, and it should be a folder"),
        ({"output_dir": "config.json"}, "output_dir: .* is a file"),
        ({"output_dir": f"{PHOTOS}/out"}, "overlap"),
        ({"output_dir": "."}, "overlap"),
        ({"lora_output_dir": "outputs/bootstrap"}, "choose two folders"),
        ({"lora_output_dir": "outputs/bootstrap/samples"}, "overlap"),
        ({"output_dir": "models/out"}, "output_dir .* and models_dir .* overlap"),
        ({"training": {"preset": "sdx"}}, "training.preset: 'sdx' is no preset; did you mean sdxl"),
        ({"person_trigger": "  "}, 'person_trigger: "  " is blank'),
        ({"person_name": "a\nb"}, "person_name: .* is blank, or not one line of text"),
        ({"pack": "bufalo_l"}, "pack: 'bufalo_l' is no model pack that is here; did you mean buffalo_l"),
        ({"pack": " "}, "pack: "),
        ({"expression_model": "ferplus.onnx"}, "expression_model: .*ferplus.onnx does not exist"),
        ({"expression_model": "models"}, "expression_model: .* is a folder; it takes an ONNX file"),
        ({"base_model": "./nowhere"}, "base_model: .*nowhere does not exist"),
        ({"base_model": "sdxl.safetensors"}, "base_model: .*sdxl.safetensors does not exist"),
        ({"gap_analysis": {"goals": "goals.json"}}, "gap_analysis.goals: .* does not exist"),
        ({"training": {"command": ["x", "{dataset}"]}}, "training.command: {output} is missing"),
        ({"training": {"command": ["{datset}", "{output}"]}}, "{datset} is no placeholder; did you mean dataset"),
        ({"training": {"command": []}}, "training.command"),
        (
            {"training": {"synthetic_weight": 0}},
            "training.synthetic_weight: it should be greater than or equal to 0.01",
        ),
        (
            {"training": {"command": ["x", "{dataset}", "{output}"], "synthetic_weight": 0.5}},
            "training.synthetic_weight does nothing, as training.command does not name {synthetic_weight}",
        ),
        ({"generation": {"candidates": 0}}, "generation.candidates: it should be greater than or equal to 1"),
        (
            {"training": {"command": ["{dataset}{output}"], "options": ["-x"]}},
            "training.options are for our own script",
        ),
    ],
)
def test_each_mistake_is_a_sentence(folder, change, words):
    with pytest.raises(UserError, match=words) as caught:
        loaded(folder, GOOD | change)
    assert "\n" not in str(caught.value) and str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "the whole file"),
        ('{"seed": 1, "seed": 2}', "'seed' appears twice"),
        ("\xff", "must be a JSON file"),
    ],
)
def test_broken_files(folder, text, words):
    with pytest.raises(UserError, match=words):
        loaded(folder, text)


def test_a_mark_at_the_beginning_is_no_damage(folder):
    assert loaded(folder, "\ufeff" + json.dumps(GOOD)).person_name == GOOD["person_name"]


@pytest.mark.parametrize("given", ["~nobody-of-that-name/x", "a\0b", "x" * 5000])
def test_what_can_be_no_path(folder, given):
    with pytest.raises(UserError, match="in the configuration cannot be a path"):
        loaded(folder, GOOD | {"dataset_dir": given})


def test_a_missing_key_and_a_missing_file(folder):
    with pytest.raises(UserError, match="the key person_trigger is missing"):
        loaded(folder, {key: value for key, value in GOOD.items() if key != "person_trigger"})
    with pytest.raises(UserError, match="does not exist"):
        load_config(folder / "nothing.json", PRESETS)


def test_an_expression_model_is_handed_to_what_looks_at_pictures(folder):
    """By its name in the models folder, or by a path from the configuration's folder; left out, by neither."""
    plain = Commands(loaded(folder, GOOD), LoopPaths(folder / "out", folder / "loras"), folder)
    assert "--expression-model" not in plain.gaps(1).command + plain.validate(1).command
    (folder / "models" / "a.onnx").touch()
    (folder / "b.onnx").touch()
    for given, found in (("a.onnx", folder / "models" / "a.onnx"), ("b.onnx", folder / "b.onnx")):
        config = loaded(folder, GOOD | {"expression_model": given})
        commands = Commands(config, LoopPaths(folder / "out", folder / "loras"), folder)
        for child in (commands.gaps(1), commands.validate(1)):
            at = child.command.index("--expression-model")
            assert child.command[at + 1] == str(found.resolve())
        assert settings_of(config)["expression_model"] == found.relative_to(folder).as_posix()


def test_candidates_and_the_weight_of_merged_images_reach_the_steps(folder):
    """Images for the gaps are made several times over, samples are not; v1 learns from photos alone."""

    def commands(**given):
        return Commands(loaded(folder, GOOD | given), LoopPaths(folder / "out", folder / "loras"), folder)

    def after(option, child):
        return child.command[child.command.index(option) + 1] if option in child.command else None

    tuned = {"generation": {"candidates": 3}, "training": {"synthetic_weight": 0.25}}
    off = {"generation": {"candidates": 1}, "training": {"synthetic_weight": 1}}
    for given, candidates, weight in ((tuned, "3", "0.25"), ({}, "4", "0.5"), (off, None, None)):
        all_of_them = commands(**given)
        assert after("--candidates", all_of_them.generate(1, "v1", 1)) == candidates
        assert after("--synthetic-weight", all_of_them.train(1, "v2")) == weight
        assert after("--candidates", all_of_them.sample(1, "v1")) is None
        assert after("--synthetic-weight", all_of_them.train(0, "v1")) is None
    draw, train = ["draw", "{gaps}", "{prompts}", "{output}"], ["x", "{dataset}", "{output}"]
    own = commands(generation={"command": draw}, training={"command": train})
    assert own.config.generation.candidates_asked_for == 1, "it does not know of any others"
    assert settings_of(own.config)[WEIGHT] is None, "what does nothing may change"
    told = commands(
        generation={"command": [*draw, "{candidates}"]}, training={"command": [*train, "{synthetic_weight}"]}
    )
    assert told.config.generation.candidates_asked_for == 4 and settings_of(told.config)[WEIGHT] == 0.5
    assert told.generate(1, "v1", 1).command[-1] == "4" and told.train(1, "v2").command[-1] == "0.5"
    assert settings_of(commands(real_photos_only=True).config)[WEIGHT] is None


def test_another_trainer_may_have_other_presets(folder):
    training = {"preset": "mine", "command": ["x", "{dataset}", "{output}", "{preset}"]}
    assert loaded(folder, GOOD | {"training": training}).training.preset == "mine"


def test_paths_below_the_file_are_kept_relative_to_it(folder):
    config = loaded(folder, GOOD)
    assert config.portable(config.output_dir) == "outputs/bootstrap"
    assert config.portable("someone/model") == "someone/model"
    assert config.portable(str(folder.parent / "elsewhere")) == str(folder.parent / "elsewhere")


def test_placeholders_are_filled_and_other_braces_stay():
    assert filled(["{a}/x", "{b}", '{"json": 1}', "{}"], {"a": 1}) == ["1/x", "{b}", '{"json": 1}', "{}"]
