"""A bootstrap loop as it lies on the disk: begun, found again, and held against what it was begun with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils import merging
from utils.console import UserError
from utils.contracts import IterationHistory, MergeManifest, RealPhoto, write_contract
from utils.loop_commands import Commands, Places, lora_problem, read_own, sample_plan
from utils.loop_config import LoopConfig
from utils.steps import Ledger, copy_atomic, digest, now


@dataclass
class Loop:
    """A loop at work: what was asked for, where everything lies, what is known so far."""

    config: LoopConfig
    places: Places
    commands: Commands
    ledger: Ledger
    manifest: MergeManifest
    locks: tuple[int, ...]  # file descriptors, kept open by the children too


def open_loop(config: LoopConfig, commands: Commands, locks: tuple[int, ...]) -> Loop:
    """The loop of `output_dir` as it was left, or a new one. Raises UserError for one that does not fit."""

    places = commands.places
    sweep(places)
    photos = merging.list_real(Path(config.dataset_dir))
    if places.history.exists():
        start_anew = "put a copy of it back, or begin anew with another output_dir and lora_output_dir."
        history = read_own(places.history, IterationHistory, start_anew)
        manifest = read_own(places.manifest, MergeManifest, start_anew)
        demand_same_loop(config, history, places)
        demand_whole(history, manifest, places)
    else:
        demand_empty(places)
        history, manifest = new_history(config, places, photos)
    loop = Loop(config, places, commands, Ledger(places.history, history), manifest, locks)
    loop.manifest = merging.with_photos(manifest, photos)
    write_contract(places.manifest, loop.manifest)
    write_plan(loop)
    merging.sync(loop.manifest, places.output)
    loop.ledger.save()
    publish(loop)
    return loop


def sweep(places: Places) -> None:
    """Remove what killed writes of an earlier run left: temporary files beside those they were to become."""
    for folder in (places.output, places.loras, *places.loras.glob("v[0-9]*")):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def new_history(config: LoopConfig, places: Places, photos: list[RealPhoto]) -> tuple[IterationHistory, MergeManifest]:
    """History and manifest of a loop that begins: photos are held out, a LoRA that is there is adopted."""

    real = merging.split(photos, twins_of(config, photos), config.seed)
    held_out = sum(photo.held_out for photo in real)
    adopted = None
    if places.best.exists():
        problem = lora_problem(places.best)
        if problem:
            raise UserError(f"{places.best} {problem}. It would become v1; put a whole one there, or move it away.")
        adopted = merging.sha256_of(places.best)
    warnings = []
    if not held_out:
        warnings.append(
            f"The dataset has {len(photos)} real photo(s): below {merging.FEWEST_TO_SPLIT}, or where most are near "
            "duplicates, none is held out, and likeness is measured against photos that were trained on."
        )
    history = IterationHistory(
        created=now(),
        updated=now(),
        person=config.person_name,
        base_model=config.base_model,
        dataset_dir=config.dataset_dir,
        lora_output_dir=config.lora_output_dir,
        seed=config.seed,
        held_out=held_out,
        adopted=adopted,
        settings=settings_of(config),
        warnings=warnings,
    )
    return history, MergeManifest(dataset_dir=config.dataset_dir, seed=config.seed, real=real)


def twins_of(config: LoopConfig, photos: list[RealPhoto]) -> list[tuple[int, int]]:
    """Near duplicates among the photos, by index; a photo that cannot be read has none."""
    from utils.images import ImageError, decode, read_file
    from utils.pixels import grey_of, near_duplicates, picture_hash

    if len(photos) < merging.FEWEST_TO_SPLIT:
        return []
    hashes, places = [], []
    for index, photo in enumerate(photos):
        try:
            hashes.append(picture_hash(grey_of(decode(read_file(Path(config.dataset_dir) / photo.file)))))
            places.append(index)
        except ImageError:
            continue
    return [(places[first], places[second]) for first, second, _ in near_duplicates(hashes)]


def settings_of(config: LoopConfig) -> dict[str, str | int | float | None]:
    """What must stay the same while a loop runs: with other samples its LoRAs could not be compared."""

    sampling = config.generation
    return {
        "person_trigger": config.person_trigger,
        "generation.steps": sampling.steps,
        "generation.guidance": sampling.guidance,
        "generation.options": " ".join(sampling.options),
        "generation.command": digest(sampling.command)[:12] if sampling.command else None,
        "metrics.samples": config.metrics.samples,
        "pack": config.pack,
    }


def demand_same_loop(config: LoopConfig, history: IterationHistory, places: Places) -> None:
    """Raise UserError where the configuration is not the one that the loop was begun with."""
    before = history.settings | history.model_dump(include={"base_model", "dataset_dir", "lora_output_dir", "seed"})
    now = settings_of(config) | config.model_dump(include={"base_model", "dataset_dir", "lora_output_dir", "seed"})
    for key, value in now.items():
        if before.get(key) != value:
            raise UserError(
                f"{places.output} holds a loop that was begun with {key} {before.get(key)!r}, and it is {value!r} now: "
                "its rounds would not be comparable. Put it back, or choose another output_dir and lora_output_dir."
            )


def demand_whole(history: IterationHistory, manifest: MergeManifest, places: Places) -> None:
    """Raise UserError where what earlier iterations left is not there any more."""

    for one in history.iterations:
        merged = sum(image.iteration == one.number for image in manifest.merged)
        if one.decision and one.number not in manifest.undone and merged != (one.merged or 0):
            raise UserError(
                f"{places.manifest} has {merged} image(s) of iteration {one.number}, and {places.history} says "
                f"{one.merged or 0}: one of them was changed by hand. Put its copy back; --undo takes a merge out."
            )
    for lora in history.loras:
        path = places.loras / lora.file
        if not path.is_file() or merging.sha256_of(path) != lora.sha256:
            what = "was changed" if path.is_file() else "is gone"
            raise UserError(f"{path} {what}, and the loop needs it. Put it back, or begin anew with other folders.")


def demand_empty(places: Places) -> None:
    """Raise UserError where a new loop would write over something."""
    for folder, names in (
        (places.output, ("gaps_iter*", "*_iter*", "samples", "dataset", "real", "holdout")),
        (places.loras, ("v[0-9]*",)),
    ):
        found = sorted(path for name in names for path in folder.glob(name)) if folder.is_dir() else []
        known = {places.dataset, places.real, places.held_out} if places.manifest.exists() else set()
        found = [path for path in found if path not in known]  # a loop that was killed at its very beginning
        if found:
            raise UserError(
                f"{found[0]} is there already, without {places.history}: choose another folder than {folder}."
            )


def write_plan(loop: Loop) -> None:

    config = loop.config
    write_contract(loop.places.plan, sample_plan(config.person_trigger, config.metrics.samples, config.seed))


def publish(loop: Loop) -> None:
    """`lora.safetensors` is the best LoRA, as soon as there is one. Raises UserError where it is somebody else's."""

    history, place = loop.ledger.history, loop.places.best
    if history.best is None:
        return
    best = next(lora for lora in history.loras if lora.name == history.best)
    there = merging.sha256_of(place) if place.is_file() else None
    if there not in {None, history.adopted, *(lora.sha256 for lora in history.loras)}:
        raise UserError(f"{place} is none of this loop's LoRAs: move it away, {best.name} is to take its place.")
    if there != best.sha256:
        copy_atomic(loop.places.loras / best.file, place)
