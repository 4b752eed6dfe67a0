"""A bootstrap loop on the disk: begun, found again, and compared with what it was begun with."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from mirror.contracts.contract import write_contract
from mirror.contracts.history import IterationHistory
from mirror.contracts.manifest import MergeManifest, RealPhoto
from mirror.loop import merging
from mirror.loop import photos as user_photos
from mirror.loop.commands import (
    GAPS,
    LORA_FILE,
    SAMPLE,
    TRAINING_LOG,
    Commands,
    LoopPaths,
    read_own,
    sample_plan,
)
from mirror.loop.config import OTHER_NAMES, LoopConfig
from mirror.loop.facts import best_now
from mirror.loop.results import lora_problem
from mirror.loop.steps import Ledger, copy_atomic
from utils.console import UserError
from utils.files import sha256_of, timestamp
from utils.progress import GroupProgress

START_ANEW = "put a copy of it back, or begin anew with another output_dir and lora_output_dir."
WEIGHT = "training.synthetic_weight"  # in a history's settings: younger than other keys, and None where it does nothing


@dataclass
class Loop:
    """A loop at work: what was asked for, where everything lies, what is known so far."""

    config: LoopConfig
    paths: LoopPaths
    commands: Commands
    ledger: Ledger
    manifest: MergeManifest
    locks: tuple[int, ...]  # file descriptors, kept open by the children too


def open_loop(commands: Commands, locks: tuple[int, ...], may_exceed_cap: bool = False) -> Loop:
    """The loop of `output_dir` as it was left, or a new one. Raises UserError for one that does not fit.

    The dataset `may_exceed_cap` of synthetic images for --undo: taking some out is the cure.
    """
    config, paths = commands.config, commands.paths
    folder = Path(config.dataset_dir)
    photos = user_photos.list_real(folder)
    if paths.history.exists():
        history, manifest = read_loop(config, paths)
        if any(photo.held_out for photo in manifest.real):
            photos = user_photos.with_picture_hashes(photos, folder, manifest.real)
    else:
        demand_empty(paths)
        history, manifest = new_history(config, paths, photos)
        photos = manifest.real
    manifest = manifest.model_copy(update={"dataset_dir": config.dataset_dir})
    manifest = user_photos.with_photos(manifest, photos, user_photos.cut_from_held_out(manifest, photos, paths.output))
    if not may_exceed_cap:
        demand_share(config, manifest)
    history.held_out = merging.held_out_in(manifest)
    history.warnings = warnings_of(folder, history, manifest)
    sweep(paths, history)
    loop = Loop(config, paths, commands, Ledger(paths.history, history), manifest, locks)
    write_contract(paths.manifest, loop.manifest)
    write_plan(loop)
    merging.sync(loop.manifest, paths.output)
    settle(loop)
    return loop


def read_loop(config: LoopConfig, paths: LoopPaths) -> tuple[IterationHistory, MergeManifest]:
    """What an earlier run wrote. Raises UserError where it is damaged, or belongs to another configuration."""
    history = read_own(paths.history, IterationHistory, START_ANEW)
    manifest = read_own(paths.manifest, MergeManifest, START_ANEW)
    changed = without_effect(config, history)
    history.settings |= {key: value for key, value in changed.items() if key != WEIGHT or key in history.settings}
    demand_same_loop(config, history, paths)
    demand_whole(history, manifest, paths)
    return history, manifest


def as_begun(config: LoopConfig, paths: LoopPaths) -> LoopConfig:
    """`config` for a loop that began before images had candidates and a weight: it goes on without either.

    What the file names stands. Raises UserError for a damaged history.
    """
    if not paths.history.exists() or WEIGHT in read_own(paths.history, IterationHistory, START_ANEW).settings:
        return config
    changes = {}
    for section, key, before in (("generation", "candidates", 1), ("training", "synthetic_weight", 1.0)):
        settings = getattr(config, section)
        if key not in settings.model_fields_set:
            changes[section] = settings.model_copy(update={key: before})
    return config.model_copy(update=changes)


def settle(loop: Loop) -> None:
    """Keep and generate with no LoRA that learned from images that were taken out since; publish the best one."""
    history = loop.ledger.history
    tainted = {lora.name for lora in history.loras if set(lora.learned_from) & set(loop.manifest.undone)}
    best = best_now(history, loop.manifest)
    if history.best in tainted:
        history.best = best
    last = history.iterations[-1] if history.iterations else None
    if last is not None and last.decision is None and last.generator in tainted:
        last.generator = best
    loop.ledger.save()
    publish(loop)


def sweep(paths: LoopPaths, history: IterationHistory) -> None:
    """Remove what killed writes of an earlier run left: temporary files beside those they were to become."""
    numbers = range(len(history.iterations) + 2)
    ours = [paths.history, paths.manifest, paths.page, paths.plan, paths.best]
    ours += [path_of(number) for number in numbers for path_of in (paths.gaps, paths.report)]
    ours += [paths.lora(f"v{number}").with_name(name) for number in numbers for name in (LORA_FILE, TRAINING_LOG)]
    for path in ours:
        for temporary in merging.half_written(path.parent, [path.name]):
            temporary.unlink(missing_ok=True)


def new_history(
    config: LoopConfig, paths: LoopPaths, photos: list[RealPhoto], looks: bool = True
) -> tuple[IterationHistory, MergeManifest]:
    """History and manifest of a loop that begins: photos are held out, a LoRA that is there is adopted.

    Without `looks` no picture is read: about as many are held out, and perhaps others.
    """
    real = split_of(photos, config) if looks else user_photos.split(photos, [], config.seed)
    adopted = None
    if paths.best.exists():
        problem = lora_problem(paths.best)
        if problem:
            raise UserError(f"{paths.best} {problem}. It would become v1; put a whole one there, or move it away.")
        adopted = sha256_of(paths.best)
    history = IterationHistory(
        created=timestamp(),
        updated=timestamp(),
        person=config.person_name,
        base_model=config.portable(config.base_model),
        dataset_dir=config.portable(config.dataset_dir),
        lora_output_dir=config.portable(config.lora_output_dir),
        seed=config.seed,
        held_out=sum(photo.held_out for photo in real),
        adopted=adopted,
        settings=settings_of(config),
    )
    return history, MergeManifest(dataset_dir=config.dataset_dir, seed=config.seed, real=real)


def split_of(photos: list[RealPhoto], config: LoopConfig) -> list[RealPhoto]:
    """`photos` with some of them held out, where there are enough; their pictures are read for it."""
    if len(photos) < user_photos.FEWEST_TO_SPLIT:
        return photos
    folder = Path(config.dataset_dir)
    photos = user_photos.with_picture_hashes(photos, folder)
    shows_part = user_photos.cuts_among(photos, folder)
    with GroupProgress(only_live=True) as progress:
        task = progress.add("Looking for crops", round(user_photos.HELD_OUT_SHARE * len(photos)))

        def is_cut(photo: RealPhoto) -> bool:
            progress.step(task)
            return shows_part(photo)

        return user_photos.split(photos, user_photos.near_duplicates_of(photos), config.seed, is_cut)


def warnings_of(folder: Path, history: IterationHistory, manifest: MergeManifest) -> list[str]:
    """What must be known to read the figures rightly, a sentence or two each; `folder` holds the user's photos."""
    genuine = sum(not user_photos.is_generated(photo) for photo in manifest.real)
    generated = len(manifest.real) - genuine
    inside = user_photos.passed_over(folder)
    baseline = next((one for one in history.iterations if one.number == 0 and one.photos), None)
    found = []
    if not history.held_out and history.iterations and genuine >= user_photos.FEWEST_TO_SPLIT:
        found.append(
            f"None of the {genuine} real photos is held out: when this loop began, too few could be, and its LoRAs "
            "were trained on all photos there were. So similarity is measured against photos that were trained on. A "
            "new loop in other folders can hold some out."
        )
    elif not history.held_out:
        found.append(
            f"The dataset has {genuine} real photo(s): with fewer than {user_photos.FEWEST_TO_SPLIT}, or if most are "
            "near duplicates, none is held out, and similarity is measured against photos that were trained on."
        )
    if history.adopted:
        found.append(
            "v1 was there before this loop. It may have learned from the held-out photos or from synthetic images, "
            "so it may score better than it should, and the loop may wrongly report no gain."
        )
    if generated:
        found.append(
            f"{generated} file(s) in dataset_dir are named synthetic_* and treated as generated: v1 is trained "
            "without them, later LoRAs with them, and they count as synthetic."
        )
    if inside:
        found.append(f"Not used, as they lie in folders within dataset_dir: the pictures in {', '.join(inside)}.")
    if baseline is not None and baseline.photos != merging.photos_of(manifest):
        found.append(
            "The real photos have changed since v1, the baseline, was made: what later LoRAs gain may come from that "
            "and not from synthetic images."
        )
    return found


def settings_of(config: LoopConfig) -> dict[str, str | int | float | None]:
    """What must stay the same while a loop runs, by key: with another value its LoRAs could not be compared."""
    settings = {key: getattr(config, key) for key in ("person_name", "person_trigger")}
    models = {key: getattr(config, key) for key in ("pack", "expression_model")}
    settings |= {key: config.portable(named) if named else None for key, named in models.items()}
    settings |= {"training.preset": config.training.preset, "training.epochs": config.training.epochs}
    weight, weighs = config.training.synthetic_weight, config.training.weighs and not config.real_photos_only
    settings[WEIGHT] = weight if weighs and weight < 1 else None
    settings |= {"training.steps": config.training.steps, "real_photos_only": config.real_photos_only or None}
    for key in OTHER_NAMES["generation"].values():
        settings[f"generation.{key}"] = getattr(config.generation, key)
    settings |= {"metrics.samples": config.metrics.samples, "gap_analysis.goals": goals_in(config)}
    for section in ("gap_analysis", "generation", "training", "metrics"):
        for key in ("command", "options"):
            given = getattr(getattr(config, section), key)
            settings[f"{section}.{key}"] = shlex.join(map(config.portable, given)) if given else None
    return settings


def without_effect(config: LoopConfig, history: IterationHistory) -> dict[str, str | int | float | None]:
    """Settings of steps that never ended: they may still change, as after a first training that ran out of memory."""
    done = {record.step for one in history.iterations for record in one.steps}
    used = {"generation": SAMPLE in done, "metrics": SAMPLE in done, "gap_analysis": GAPS in done}
    used["training"] = any(not lora.adopted for lora in history.loras)
    return {key: value for key, value in settings_of(config).items() if used.get(key.partition(".")[0]) is False}


def goals_in(config: LoopConfig) -> str | None:
    """What the file with goals says, on one line. Raises UserError where it cannot be read."""
    if config.gap_analysis.goals is None:
        return None
    path = Path(config.gap_analysis.goals)
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8-sig")), sort_keys=True)
    except (OSError, ValueError) as error:
        raise UserError(f"The goals {path} cannot be read: {error}.") from error


def _in_todays_names(settings: dict) -> dict:
    """Settings of a loop that may have been begun before its keys were called as documented."""
    other = {f"{part}.{old}": f"{part}.{new}" for part, names in OTHER_NAMES.items() for old, new in names.items()}
    return {other.get(key, key): value for key, value in settings.items()}


def demand_same_loop(config: LoopConfig, history: IterationHistory, paths: LoopPaths) -> None:
    """Raise UserError where the configuration is not the one that the loop was begun with."""
    folders = {"base_model", "dataset_dir", "lora_output_dir"}
    before = _in_todays_names(history.settings) | history.model_dump(include=folders | {"seed"})
    now = settings_of(config) | {key: config.portable(getattr(config, key)) for key in folders} | {"seed": config.seed}
    for key, value in sorted(now.items()):
        if before.get(key) != value:
            was, is_now = (json.dumps(one, ensure_ascii=False) for one in (before.get(key), value))
            raise UserError(
                f"{paths.output} holds a loop that was begun with {key} {was}, and it is {is_now} now: its iterations "
                "would not be comparable. Put it back, or choose another output_dir and lora_output_dir."
            )


def demand_whole(history: IterationHistory, manifest: MergeManifest, paths: LoopPaths) -> None:
    """Raise UserError where what earlier iterations left is not there any more, or was changed."""
    by_hand = "one of them was edited by hand. Restore a copy of it; to remove a merge, use --undo."
    for one in history.iterations:
        ended = one.decision is not None and one.number not in manifest.undone
        if ended and merging.entries_of(manifest, one.number) != one.merged_entries:
            raise UserError(
                f"{paths.manifest} and {paths.history} disagree about the images of iteration {one.number}: {by_hand}"
            )
    held_out = merging.held_out_in(manifest)
    if held_out < history.held_out:
        raise UserError(
            f"{paths.manifest} has {held_out} held-out photo(s), and {paths.history} says {history.held_out}: {by_hand}"
        )
    for lora in history.loras:
        path = paths.loras / lora.file
        if not path.is_file() or sha256_of(path) != lora.sha256:
            what = "was changed" if path.is_file() else "is gone"
            raise UserError(f"{path} {what}, and the loop needs it. Put it back, or start a new loop in other folders.")


def demand_share(config: LoopConfig, manifest: MergeManifest) -> None:
    """Raise UserError where real photos went, or the cap was lowered, and too much of the dataset is synthetic."""
    if merging.exceeds(manifest, config.max_synthetic_share):
        newest = max(one.iteration for one in manifest.merged)
        raise UserError(
            f"{merging.synthetic_share(manifest):.0%} of the working dataset is synthetic, and max_synthetic_share "
            f"allows {100 * config.max_synthetic_share:g}%: put real photos back, or take merged images out with "
            f"--undo {newest}."
        )


def demand_empty(paths: LoopPaths) -> None:
    """Raise UserError where a new loop would write over something."""
    made = [paths.gaps(0), paths.report(0), paths.samples(), paths.dataset, paths.real, paths.held_out]
    made += [paths.of(what, 0) for what in ("synthetic", "approved", "rejected", "unverified", "metrics")]
    known = {paths.dataset, paths.real, paths.held_out} if paths.manifest.exists() else set()
    for folder, names in (
        (paths.output, [path.name.replace("0", "*") for path in made]),
        (paths.loras, [paths.lora("v[0-9]*").parent.name]),
    ):
        found = sorted({path for name in names for path in folder.glob(name)} - known) if folder.is_dir() else []
        if found:  # what is `known` is left of a loop that was killed at its very beginning
            raise UserError(
                f"{found[0]} is there already, without {paths.history}: choose another folder than {folder}."
            )


def write_plan(loop: Loop) -> None:
    config = loop.config
    write_contract(loop.paths.plan, sample_plan(config.person_trigger, config.metrics.samples, config.seed))


def publish(loop: Loop) -> None:
    """`lora.safetensors` is the best LoRA, as soon as there is one. Raises UserError where it is somebody else's."""
    history, path = loop.ledger.history, loop.paths.best
    if history.best is None:
        return
    best = next(lora for lora in history.loras if lora.name == history.best)
    there = sha256_of(path) if path.is_file() else None
    if there not in {None, history.adopted, *(lora.sha256 for lora in history.loras)}:
        raise UserError(f"{path} was not written by this loop: move it away; {best.name} goes there.")
    if there != best.sha256:
        copy_atomic(loop.paths.loras / best.file, path)
