"""From the photos of one person to a dataset folder: which photos, which part of each, and the captions beside them."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mirror.contracts.contract import demand_own, read_contract, write_contract
from mirror.contracts.prepared import CaptionBy, LeftOut, PreparedPicture, PreparedSet
from mirror.contracts.vault import Duplicates
from mirror.faces.pose import angle_bin
from mirror.vault.captions import (
    Captions,
    edited_words,
    measured,
    words_for,
)
from mirror.vault.choices import DUPLICATES, METADATA, MIN_FACE, REAL_MIN, SIZE
from mirror.vault.crops import Window, choose_window, cut, in_window, upright
from mirror.vault.folders import Folder
from mirror.vault.lacking import coverage, warnings_of, warnings_of_photos
from mirror.vault.shots import Shot, person_named, read_photo, shots_of
from mirror.vault.store import VaultStore
from mirror.vault.wording import Measured
from utils.captions import METADATA_LINES, caption_of, usual_trigger
from utils.console import UserError
from utils.decoding import ImageError, decode, is_opaque
from utils.files import disk_errors_as, file_word, folder_of, readable, some_of, timestamp, versions_of
from utils.images import read_file
from utils.progress import GroupProgress

_COPIED = (".jpg", ".jpeg", ".png", ".webp")  # read by every trainer as they are
_VERSION = 1  # of how pictures are made: part of each recipe
DELETED = "somebody deleted its picture here; --restore brings it back"
_DIGITS = 8  # of a photo's SHA-256, at the end of the name of its picture


@dataclass(frozen=True)
class Settings:
    """How a dataset is made; the options of facevault.py prep and export."""

    trigger: str
    size: int = SIZE
    crop: bool = True
    min_face: int = MIN_FACE
    real_min: int = REAL_MIN
    most: int | None = None  # pictures, the best first
    repeats: int | None = None  # of kohya's folder name; None: the pictures lie in the folder itself
    lines: bool = False  # metadata.jsonl too
    links: bool = False  # instead of copies, where a photo is taken as it is
    exported: bool = False  # by export, which leaves what prep made as it is

    def as_dict(self) -> dict[str, str | int | bool | None]:
        return dict(vars(self))

    @property
    def inner(self) -> str:
        """Folder of the pictures within the dataset's, with its slash."""
        return "" if self.repeats is None else folder_of(f"{self.repeats}_{self.trigger}") + "/"


@dataclass(frozen=True)
class Chosen:
    """One photo that enters, and the part of it."""

    shot: Shot
    window: Window
    quality: float


def choose(shots: list[Shot], settings: Settings, duplicates: dict[str, str]) -> tuple[list[Chosen], list[LeftOut]]:
    """The photos that enter, the best first, and why the others do not. `duplicates`: content -> reason."""
    windows: dict[int, Window] = {}
    left_out = []
    for shot in shots:
        window, reason = None, duplicates.get(shot.picture.content)
        if reason is None and shot.face.size < settings.min_face:
            reason = f"the face is {shot.face.size:.0f} pixels long; --min-face {shot.face.size:.0f} takes it in"
        if reason is None:
            window, reason = _window_of(shot, settings)
        if window is None:
            left_out.append(_left_out(shot, reason))
        else:
            windows[shot.face.id] = window
    kept = [shot for shot in shots if shot.face.id in windows]
    ranked = [Chosen(shot, windows[shot.face.id], value) for shot, value in zip(kept, qualities(kept), strict=True)]
    ranked.sort(key=lambda one: (-one.quality, one.shot.picture.content))
    most = len(ranked) if settings.most is None else settings.most
    left_out += [_left_out(one.shot, f"--most {most} takes better ones") for one in ranked[most:]]
    return ranked[:most], left_out


def parts_of(shots: list[Shot], settings: Settings | None) -> list[tuple[Shot, Window]]:
    """Every photo with the part of it that a dataset gets, or all of it where it gets none; for captions."""
    found = []
    for shot in shots:
        window, _ = _window_of(shot, settings or Settings(trigger=""))
        found.append((shot, window or Window((0, 0, *shot.size_wh), shot.size_wh)))
    return found


def _left_out(shot: Shot, reason: str) -> LeftOut:
    return LeftOut(source=readable(str(shot.source)), content=shot.picture.content, reason=reason)


def _window_of(shot: Shot, settings: Settings) -> tuple[Window | None, str | None]:
    if not settings.crop:
        return Window((0, 0, *shot.size_wh), shot.size_wh), None
    window = choose_window(shot.size_wh, shot.face_box, shot.other_boxes, settings.size)
    return window, None if window else "somebody else's face cannot be cut away; --no-crop takes the whole photo"


def qualities(shots: list[Shot]) -> list[float]:
    """0 to 1: how a photo ranks among the person's by size and sharpness of the face and the detector's score.

    The mean of three ranks, because their units cannot be added. Our choice.
    """
    if not shots:
        return []
    columns = (
        [one.face.size for one in shots],
        [one.face.sharpness for one in shots],
        [one.face.score for one in shots],
    )
    ranks = [[float(np.mean(np.array(column) <= value)) for value in column] for column in columns]
    return [round(sum(one) / len(columns), 4) for one in zip(*ranks, strict=True)]


def with_trigger(store: VaultStore, name: str, settings: Settings) -> Settings:
    """The trigger that was given, which the person's captions then have too, or else theirs, or else the usual one."""
    captions = Captions(store)
    faces = {shot.face.id for shot in shots_of(store, person_named(store, name))}
    stored = {face: one for face, one in captions.all().items() if face in faces}
    if settings.trigger:
        captions.put({face: replace(one, trigger=settings.trigger) for face, one in stored.items()})
        return settings
    used = Counter(one.trigger for one in stored.values()).most_common(1)
    return replace(settings, trigger=used[0][0] if used else usual_trigger(name))


def duplicates_in(store: VaultStore, output: Path) -> dict[str, str]:
    """Photos of which dedup keeps another one that is still there: content -> reason."""
    path = output / DUPLICATES
    if not path.is_file():
        return {}
    content_of = {readable(str(file)): one.content for one in store.pictures().values() for file in one.paths}
    there, reasons = store.pictures_on_disk(), {}
    for group in read_contract(path, Duplicates, "facevault.py dedup").groups:
        kept = content_of.get(group.keep)
        for one in group.duplicates:
            content = content_of.get(one.file)
            if kept in there and content not in (None, kept):
                reasons.setdefault(content, f"{one.kind} duplicate of {group.keep}, which is kept: {one.why}")
    return reasons


def _demand_folder_of(target: Path, name: str) -> None:
    """Raise UserError where the folder is somebody else's: another program's, or another person's."""
    path = target / METADATA
    demand_own(path, "facevault.py")
    with contextlib.suppress(OSError, ValueError):
        whose = json.loads(path.read_text(encoding="utf-8")).get("person")
        if whose != name:
            raise UserError(f"{target} is the folder of {whose}: give one of the two another name.")


class Preparation:
    """One dataset on its way into its folder."""

    def __init__(self, store: VaultStore, name: str, person: int, target: Path, settings: Settings):
        self.store, self.name, self.settings = store, name, settings
        self.shots = shots_of(store, person)
        if not self.shots:
            raise UserError(f"No photo of {name} is there any more: scan the folder again that holds them.")
        _demand_folder_of(target, name)
        self.folder = Folder(store, target)
        self.earlier = self._earlier_names()
        self.stored = Captions(store).all()
        self.written: list[tuple[PreparedPicture, Measured]] = []
        self.ours: set[str] = {METADATA}
        self.warnings: list[str] = []
        self.linked: Counter[str] = Counter()  # pictures in this run, by how

    def run(self, duplicates: dict[str, str], restores: bool = False) -> PreparedSet:
        """Write pictures, captions and metadata.json; what an earlier run wrote and nobody changed goes.

        `restores`: pictures too that somebody deleted.
        """
        target = self.folder.path
        deleted = {} if restores else dict.fromkeys(self._deleted(), DELETED)
        chosen, left_out = choose(self.shots, self.settings, duplicates | deleted)
        with GroupProgress() as progress:
            task = progress.add("Preparing", len(chosen))
            for one in chosen:
                problem = self._add(one)
                left_out += [_left_out(one.shot, problem)] if problem else []
                progress.step(task)
        if not self.written:
            reasons = some_of(list(dict.fromkeys(one.reason for one in left_out)), separator="; ")
            raise UserError(f"No photo of {self.name} can be used: {reasons}.")
        self._write_lines()
        for name in self.folder.clear(self.ours):
            self.warnings.append(f"{name} was changed by somebody, and stays in {self.folder.path}.")
        prepared = self._prepared(left_out, [one for one in chosen if self._has(one)])
        with disk_errors_as(f"{target / METADATA} cannot be written"):
            write_contract(target / METADATA, prepared)
        return prepared

    def _deleted(self) -> set[str]:
        """Contents of photos whose pictures somebody deleted, now or before an earlier run."""
        try:
            known = PreparedSet.model_validate_json((self.folder.path / METADATA).read_bytes())
        except (OSError, ValueError):
            return set()
        gone = {one.content for one in known.pictures if self.folder.is_deleted(one.file)}
        there = {content for content in gone if self._is_there(content)}
        return gone - there | {one.content for one in known.left_out if one.reason == DELETED}

    def _is_there(self, content: str) -> bool:
        """Whether a picture of the photo lies here under any name, as after a killed run with another one."""
        names = (Path(name) for name in self.earlier.get(content[:_DIGITS], ()))
        return any(name != caption_of(name) and (self.folder.path / name).exists() for name in names)

    def _has(self, one: Chosen) -> bool:
        return any(picture.content == one.shot.picture.content for picture, _ in self.written)

    def _add(self, one: Chosen) -> str | None:
        """Save a picture and its caption; why it cannot be, or None."""
        shot, window = one.shot, one.window
        as_it_is = self._is_copied(one)
        suffix = shot.source.suffix.lower() if as_it_is else ".png"
        name = f"{self.settings.inner}{file_word(shot.source.stem)[:60]}_{shot.picture.content[:_DIGITS]}{suffix}"
        name = self._with_changes(name, shot.picture.content)
        try:
            self._save(one, name, as_it_is)
        except ImageError as problem:
            return f"it {problem.reason}"
        seen = measured(self.store, shot, window)
        words, by = self._caption(name, shot, seen)
        self.ours |= {name} if words is None else {name, caption_of(Path(name)).as_posix()}
        self.written.append((self._row(one, name, seen, words, by), seen))
        return None

    def _earlier_names(self) -> dict[str, list[str]]:
        """Pictures and captions that may ever have been here, by the end of their names, which is of the content."""
        found: dict[str, list[str]] = {}
        names = self.folder.names()
        for name in sorted({*names, *(caption_of(Path(one)).as_posix() for one in names)}):
            found.setdefault(Path(name).stem[-_DIGITS:], []).append(name)
        return found

    def _with_changes(self, name: str, content: str) -> str:
        """The name of a picture, after what somebody changed under an earlier one (the photo was renamed, --kohya) has
        moved there. A changed picture keeps its suffix."""
        for old in filter(self.folder.is_changed, self.earlier.get(content[:_DIGITS], ())):
            suffix = Path(old).suffix
            new = Path(name).with_suffix(suffix).as_posix()
            is_there = old == new or self.folder.move(old, new)
            if is_there and suffix != caption_of(Path(old)).suffix:
                name = new
        return name

    def _is_copied(self, one: Chosen) -> bool:
        """Whether the photo is taken byte for byte: whole, upright, unscaled, of a kind that every trainer reads."""
        shot, whole = one.shot, (0, 0, *one.shot.size_wh)
        if one.window != Window(whole, shot.size_wh) or shot.face.turned_deg:
            return False
        return shot.source.suffix.lower() in _COPIED and _is_plain(shot.source)

    def _save(self, one: Chosen, name: str, as_it_is: bool) -> None:
        shot, links = one.shot, self.settings.links and as_it_is
        recipe = f"{_VERSION} {shot.picture.content} {one.window} {shot.face.turned_deg} {links}"
        if self.folder.holds(name, recipe):
            return
        source, data = read_photo(shot)
        if links:
            how = self.folder.link(name, source, shot.picture.content, recipe)
            self.linked.update([how] if how else [])
            return
        if not as_it_is:
            image = cut(upright(decode(data), shot.face.turned_deg), one.window)
            data = cv2.imencode(".png", image)[1].tobytes()
        if not self.folder.write(name, data, recipe):
            self.warnings.append(f"{name} was changed by somebody, and is left as it is.")

    def _caption(self, name: str, shot: Shot, seen: Measured) -> tuple[str | None, CaptionBy | None]:
        """Words of a picture, written beside it unless somebody wrote others there."""
        text = caption_of(Path(name)).as_posix()
        if not self.folder.is_ours(text):
            return edited_words(self.folder.path / name), "person"
        words, by = words_for(shot, seen, self.stored.get(shot.face.id))
        if words is not None:
            self.folder.write(text, (words + "\n").encode("utf-8", "replace"))
        return words, by

    def _row(self, one: Chosen, name: str, seen: Measured, words: str | None, by: CaptionBy | None) -> PreparedPicture:
        window, face = one.window, in_window(one.shot.face_box, one.window)
        across, down = window.size_wh[0] / window.wh[0], window.size_wh[1] / window.wh[1]
        return PreparedPicture(
            file=name,
            source=readable(str(one.shot.source)),
            content=one.shot.picture.content,
            quality=one.quality,
            size_wh=window.size_wh,
            window_xyxy=window.box_xyxy,
            face_xyxy=tuple(round(edge * (across, down)[i % 2], 1) for i, edge in enumerate(face)),
            yaw_deg=seen.yaw_deg,
            values={"face_angle": angle_bin(seen.yaw_deg), "shot_size": seen.shot_size, "lighting": seen.lighting},
            caption=words,
            caption_by=by,
        )

    def _write_lines(self) -> None:
        """metadata.jsonl, as Hugging Face's datasets read it."""
        if not self.settings.lines:
            return
        rows = [{"file_name": one.file, "text": one.caption or self.settings.trigger} for one, _ in self.written]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.ours.add(METADATA_LINES)
        self.folder.write(METADATA_LINES, text.encode("utf-8", "replace"))

    def _prepared(self, left_out: list[LeftOut], chosen: list[Chosen]) -> PreparedSet:
        pictures = [one for one, _ in self.written]
        shares, wanted = coverage(pictures)
        settings, crowded = self.settings, sum(seen.has_others for _, seen in self.written)
        self.warnings += warnings_of(pictures, shares, settings.trigger, settings.size, settings.real_min)
        self.warnings += warnings_of_photos(self.store, [one.shot for one in chosen], crowded)
        return PreparedSet(
            created=timestamp(),
            person=self.name,
            trigger=self.settings.trigger,
            settings=self.settings.as_dict(),
            versions=versions_of("facevault", opencv=cv2.__version__),
            pictures=pictures,
            left_out=left_out,
            distributions=shares,
            recommendations=wanted,
            warnings=self.warnings,
        )


def _is_plain(path: Path) -> bool:
    """Opaque and not turned by EXIF: some trainers read neither."""
    from PIL import Image

    try:
        data = read_file(path)
        with Image.open(path) as image:
            return is_opaque(data) and image.getexif().get(0x0112, 1) == 1
    except (ImageError, OSError, ValueError):
        return False
