"""The working dataset: the split, the merge under its cap, taking a merge out, and folders that follow the manifest."""

import os
import shutil
from fractions import Fraction
from itertools import combinations

import cv2
import numpy as np
import pytest
from loop_fakes import picture

from benchmarks.held_out_bench import picture as detailed_picture
from mirror.contracts.gaps import GapKey
from mirror.contracts.generation import GeneratedImage, GenerationMetadata
from mirror.contracts.manifest import MergedImage, MergeManifest, RealPhoto
from mirror.contracts.validation import ReferenceFacts, ValidatedImage, ValidationReport
from mirror.dataset.cuts import likely_cuts, points_of
from mirror.dataset.pixels import for_cuts, is_cut_from
from mirror.faces.metrics import usual_similarity
from mirror.loop import merging
from mirror.loop.merging import Source, plan_merge, room, sync, synthetic_share, take_out
from mirror.loop.photos import (
    DATASET,
    HELD_OUT,
    REAL,
    cut_from_held_out,
    cuts_among,
    list_real,
    near_duplicates_of,
    passed_over,
    split,
    with_photos,
    with_picture_hashes,
)
from utils.console import UserError
from utils.files import sha256_of

TRIGGER = "ohwx alice"


def photos(count):
    return [RealPhoto(file=f"{i}.jpg", sha256=f"{i:064x}", caption_sha256=None) for i in range(count)]


@pytest.mark.parametrize(("count", "held_out"), [(3, 0), (24, 0), (25, 5), (30, 6), (100, 20)])
def test_a_fifth_is_held_out_where_there_are_enough(count, held_out):
    assert sum(photo.held_out for photo in split(photos(count), [], 1)) == held_out
    generated = [photo.model_copy(update={"file": f"synthetic_{photo.file}"}) for photo in photos(2)]
    assert sum(photo.held_out for photo in split(photos(count + 2)[2:] + generated, [], 1)) == held_out


def test_the_split_depends_on_contents_and_seed_not_on_names_or_order():
    def drawn(some, seed):
        return {photo.sha256 for photo in split(some, [], seed) if photo.held_out}

    some = photos(40)
    renamed = [photo.model_copy(update={"file": f"x{photo.file}"}) for photo in reversed(some)]
    assert drawn(some, 1) == drawn(renamed, 1) != drawn(some, 2)


def test_near_duplicates_and_generated_files_are_never_held_out():
    some = photos(40)
    some[0] = some[0].model_copy(update={"file": "synthetic_0.png"})
    near_duplicates = [(i, i + 1) for i in range(1, 20, 2)]
    for seed in range(20):
        held_out = {int(photo.sha256, 16) for photo in split(some, near_duplicates, seed) if photo.held_out}
        assert len(held_out) == 8 and not held_out & set(range(21))
    assert not any(photo.held_out for photo in split(some, [(i, i + 1) for i in range(35)], 1)), "too few are left"


def test_new_photos_are_trained_on_and_held_out_ones_stay_so():
    manifest = MergeManifest(dataset_dir="x", seed=1, real=split(photos(30), [], 1))
    before = {photo.sha256 for photo in manifest.real if photo.held_out}
    first = next(photo for photo in manifest.real if not photo.held_out)
    more = with_photos(manifest, [photo for photo in photos(50) if photo.sha256 != first.sha256])
    assert {photo.sha256 for photo in more.real if photo.held_out} == before and len(more.real) == 49
    assert f"{REAL}/{first.file}" in more.retired


def test_a_held_out_photo_that_goes_is_said():
    manifest = MergeManifest(dataset_dir="x", seed=1, real=split(photos(30), [], 1))
    gone = next(photo for photo in manifest.real if photo.held_out)
    with pytest.raises(UserError, match=f"^{gone.file} is gone from x: this loop holds it out"):
        with_photos(manifest, [photo for photo in photos(30) if photo.sha256 != gone.sha256])
    trained = next(photo for photo in manifest.real if not photo.held_out)
    over = trained.model_copy(update={"file": gone.file, "held_out": False})
    with pytest.raises(UserError, match="is gone"):  # a photo that was trained on takes its name
        with_photos(manifest, [photo for photo in photos(30) if photo.sha256 != gone.sha256] + [over])


def scene(seed):
    """(240, 320, 3) picture of large shapes, as photos have them."""
    return cv2.resize(np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8), (320, 240))


def test_a_photo_of_which_there_is_a_crop_is_not_held_out(tmp_path):
    """Neither the whole nor its crop: whoever was trained on one has seen the other."""
    for index in range(28):
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), scene(index))
    for index in range(10):
        cv2.imwrite(str(tmp_path / f"{index:02d}_face.jpg"), scene(index)[40:220, 60:280])
    photos = list_real(tmp_path)
    is_cut = cuts_among(photos, tmp_path)
    related = {f"{index:02d}.png" for index in range(10)} | {f"{index:02d}_face.jpg" for index in range(10)}
    assert {photo.file for photo in photos if is_cut(photo)} == related
    held_out = {photo.file for photo in split(photos, [], 1, is_cut) if photo.held_out}
    assert len(held_out) == 8 and not held_out & related
    assert not any(photo.held_out for photo in split(photos, [], 1, lambda photo: photo.file != "27.png"))


def related_pairs(pictures):
    """Every pair that the slow comparison knows, by index."""
    small = [for_cuts(one) for one in pictures]
    pairs = combinations(range(len(small)), 2)
    return {(i, j) for i, j in pairs if is_cut_from(small[i], small[j]) or is_cut_from(small[j], small[i])}


def test_no_crop_of_a_real_photo_is_missed_by_its_points(photos):
    wholes = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(photos.glob("*.jpg"))[:8]]
    crops = []
    for index, whole in enumerate(wholes):
        height, width = (round(side * (0.9, 0.75, 0.6)[index % 3]) for side in whole.shape)
        crop = whole[7 : 7 + height, 3 : 3 + width]
        smaller = cv2.resize(crop, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
        crops.append(cv2.imdecode(cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], 0))
    pictures = wholes + crops
    likely = likely_cuts([points_of(one) for one in pictures])
    known = related_pairs(pictures)
    assert len(known) >= len(crops)
    assert all(j in likely[i] and i in likely[j] for i, j in known)
    assert likely == likely_cuts([points_of(one) for one in pictures]), "the split must not depend on chance"


def test_plain_pictures_are_compared_with_all_and_others_with_few():
    """A sky has no points that it could be known by."""
    sky = np.tile(np.linspace(40, 220, 320, dtype=np.uint8), (240, 1))
    cv2.circle(sky, (160, 120), 60, 250, -1)
    pictures = [detailed_picture(seed) for seed in range(20)] + [sky, sky[30:210, 40:280]]
    points = [points_of(one) for one in pictures]
    likely = likely_cuts(points)
    assert len(points[20]) < 25 and related_pairs(pictures) == {(20, 21)}
    assert set(likely[20]) == set(range(22)) - {20} and all({20, 21} <= set(one) for one in likely[:20])
    assert all(len(one) <= 4 for one in likely[:20])
    assert likely_cuts([]) == [] and likely_cuts([np.zeros((0, 128), np.float32)] * 2) == [[1], [0]]


def test_what_was_held_out_is_never_trained_on_however_it_comes_back(tmp_path):
    for index in range(30):
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), scene(index))
    first = with_picture_hashes(list_real(tmp_path), tmp_path)
    manifest = MergeManifest(dataset_dir=str(tmp_path), seed=1, real=split(first, near_duplicates_of(first), 1))
    tagged, renamed, doubled, cropped, *rest = [photo.file for photo in manifest.real if photo.held_out]
    with open(tmp_path / tagged, "ab") as file:
        file.write(b"what a photo manager adds")
    smaller = cv2.resize(cv2.imread(str(tmp_path / renamed)), (200, 150))
    (tmp_path / renamed).unlink()
    cv2.imwrite(str(tmp_path / "other_name.jpg"), smaller, [cv2.IMWRITE_JPEG_QUALITY, 80])
    cv2.imwrite(str(tmp_path / "near duplicate.jpg"), cv2.imread(str(tmp_path / doubled)))
    cv2.imwrite(str(tmp_path / "crop.png"), cv2.imread(str(tmp_path / cropped))[2:-2, 2:-2])
    cv2.imwrite(str(tmp_path / "new.png"), scene(99))
    cv2.imwrite(str(tmp_path / "part.jpg"), cv2.imread(str(tmp_path / rest[0]))[20:200, 30:270])
    now = with_picture_hashes(list_real(tmp_path), tmp_path, manifest.real)
    shutil.copytree(tmp_path, tmp_path / "out" / HELD_OUT, ignore=shutil.ignore_patterns("out"))
    cut = cut_from_held_out(manifest, now, tmp_path / "out")
    assert "new.png" not in {photo.file for photo in now if photo.sha256 in cut}
    more = with_photos(manifest, now, cut)
    held_out = {photo.file for photo in more.real if photo.held_out}
    assert held_out == {tagged, "other_name.jpg", doubled, "near duplicate.jpg", cropped, "crop.png", "part.jpg", *rest}
    again = with_photos(more, with_picture_hashes(list_real(tmp_path), tmp_path, more.real))
    assert again.real == more.real


def test_the_entries_of_an_iteration_change_with_each_field():
    manifest = MergeManifest(dataset_dir="x", seed=1, real=[], merged=[merged_image(i) for i in range(3)])
    before = merging.entries_of(manifest, 1)
    for field, value in (("caption", "other"), ("seed", 7), ("lora", "v9"), ("quality", 0.1)):
        changed = [manifest.merged[0].model_copy(update={field: value}), *manifest.merged[1:]]
        assert merging.entries_of(manifest.model_copy(update={"merged": changed}), 1) != before
    assert merging.entries_of(manifest.model_copy(update={"merged": manifest.merged[::-1]}), 1) == before


def test_the_cap_is_held_where_real_photos_go():
    manifest = MergeManifest(dataset_dir="x", seed=1, real=photos(7), merged=[merged_image(i) for i in range(3)])
    assert not merging.exceeds(manifest, 0.3)
    assert merging.exceeds(manifest.model_copy(update={"real": photos(6)}), 0.3)


@pytest.mark.parametrize("seed", range(5))
def test_room_is_the_most_that_the_cap_allows(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        real, merged = int(rng.integers(1, 80)), int(rng.integers(0, 30))
        cap = float(rng.choice([0.0, 0.1, 0.3, 0.333, 0.5]))
        manifest = MergeManifest(
            dataset_dir="x", seed=1, real=photos(real), merged=[merged_image(i) for i in range(merged)]
        )
        free = room(manifest, cap)
        limit = Fraction(str(cap))
        assert free >= 0
        if free:
            assert Fraction(merged + free, real + merged + free) <= limit
        assert Fraction(merged + free + 1, real + merged + free + 1) > limit


def merged_image(index, iteration=1):
    return MergedImage(
        file=f"synthetic_iter{iteration}_{index}.png",
        source=f"approved_iter{iteration}/{index}.png",
        sha256=f"{index + 1000:064x}",
        caption="c",
        iteration=iteration,
        gap_type=None,
        target=None,
        seed=None,
        quality=None,
        lora="v1",
        lora_sha256="0",
    )


@pytest.fixture
def world(tmp_path):
    """Eight photos, four with captions, and two approved batches on the disk."""
    source, output = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    for i in range(8):
        (source / f"photo_{i}.png").write_bytes(picture(f"photo {i}"))
        if i % 2:
            (source / f"photo_{i}.txt").write_text(f"photo {i}")
    manifest = MergeManifest(dataset_dir=str(source), seed=1, real=list_real(source))
    return source, output, manifest


def batch(output, iteration, count, captions=()):
    """(report, metadata) of `count` approved images of two gaps, the better ones later; the files are written."""
    folder = output / f"approved_iter{iteration}"
    folder.mkdir(parents=True)
    images, made = [], []
    for i in range(count):
        path = folder / f"{i}.png"
        path.write_bytes(picture(f"{iteration} {i}"))
        if i in captions:
            path.with_suffix(".txt").write_text(f"a caption of {i}")
        target = "profile" if i % 2 else "front"
        made.append(GeneratedImage(file=path.name, gap_type="face_angle", target=target, prompt=f"prompt {i}", seed=i))
        images.append(
            ValidatedImage(
                file=path.name,
                sha256=sha256_of(path),
                verdict="approved",
                gap_type="face_angle",
                target=target,
                quality=i / 10,
                relative_sharpness=None,
                yaw_deg=None,
                similarity=None,
                nearest_reference=None,
                nearest_similarity=None,
                checks=[],
                copied_to=str(path),
            )
        )
    return ValidationReport.model_construct(images=images, references=None), GenerationMetadata(created="", images=made)


def merged(world, iteration, count, cap=0.5, wanted=None, **more):
    _, output, manifest = world
    report, metadata = batch(output, iteration, count, **more)
    source = Source(iteration, "v1", "hash", TRIGGER)
    return plan_merge(manifest, report, metadata, output, source, cap, wanted or {})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_merge_carries_captions_and_says_where_from(world):
    _, output, _ = world
    merge = merged(world, 1, 2, captions=(1,))
    sync(merge.manifest, output)
    first, second = sorted(merge.merged, key=lambda one: one.seed)
    assert (first.caption, second.caption) == (f"{TRIGGER}, prompt 0", f"{TRIGGER}, a caption of 1")
    assert (first.seed, first.lora, first.lora_sha256, first.iteration) == (0, "v1", "hash", 1)
    assert first.source == "approved_iter1/0.png"
    dataset = contents(output / DATASET)
    assert dataset[first.file] == (output / first.source).read_bytes()
    assert dataset[first.file.replace(".png", ".txt")].decode() == first.caption
    assert dataset["photo_1.txt"] == b"photo 1" and len(dataset) == 8 + 4 + 2 + 2


def test_the_cap_keeps_the_best_of_each_gap(world):
    merge = merged(world, 1, 8, cap=0.3)
    assert len(merge.merged) == 3 and merge.left_out == {merging.CAP: 5}
    assert sorted(one.seed for one in merge.merged) == [5, 6, 7] or sorted(one.seed for one in merge.merged) == [
        4,
        6,
        7,
    ]
    assert synthetic_share(merge.manifest) <= 0.3


def test_of_more_images_than_are_wanted_the_best_of_each_gap_enter(world):
    wanted = {GapKey("face_angle", "profile"): 1, GapKey("face_angle", "front"): 2}
    merge = merged(world, 1, 8, wanted=wanted)
    assert sorted(one.seed for one in merge.merged) == [4, 6, 7]
    assert merge.left_out == {merging.SPARE: 5}
    capped = merged(world, 2, 8, cap=0.12, wanted=wanted)
    assert len(capped.merged) == 1 and capped.left_out == {merging.SPARE: 5, merging.CAP: 2}, (
        "only those that were wanted are missing for want of room"
    )


def test_what_is_most_like_the_person_for_its_angle_enters_first(world):
    _, output, manifest = world
    report, metadata = batch(output, 1, 6)
    level = 0.8
    report.references = ReferenceFacts(folder="", images=8, faces=8, level=level, sharpness=None)
    shares = {1: (80.0, 0.99), 3: (0.0, 0.9), 5: (80.0, 0.7)}  # image of the profile gap: yaw, share of the usual
    for i, (yaw, share) in shares.items():
        report.images[i].yaw_deg = yaw
        report.images[i].similarity = share * usual_similarity(yaw, level)
    assert report.images[1].similarity < report.images[3].similarity, "a profile scores less by its angle alone"
    wanted = {GapKey("face_angle", "profile"): 1, GapKey("face_angle", "front"): 0}

    def best():
        return plan_merge(manifest, report, metadata, output, Source(1, "v1", "h", TRIGGER), 0.5, wanted).merged[0].seed

    assert best() == 1
    report.images[1].similarity = None
    assert best() == 3, "an image whose likeness is not known comes after those whose is"
    report.references = None
    assert best() == 5, "nothing is known of likeness: the best quality"


def test_nothing_enters_twice(world):
    source, output, manifest = world
    report, metadata = batch(output, 1, 3)
    (output / "approved_iter1" / "0.png").write_bytes((source / "photo_0.png").read_bytes())
    report.images[0].sha256 = sha256_of(source / "photo_0.png")
    report.images[2].sha256 = report.images[1].sha256
    (output / "approved_iter1" / "2.png").write_bytes((output / "approved_iter1" / "1.png").read_bytes())
    merge = plan_merge(manifest, report, metadata, output, Source(1, "v1", "h", TRIGGER), 0.5, {})
    assert len(merge.merged) == 1 and merge.left_out == {merging.DOUBLE: 2}
    again = plan_merge(merge.manifest, report, metadata, output, Source(1, "v1", "h", TRIGGER), 0.5, {})
    assert again.manifest == merge.manifest, "the same merge again changes nothing"
    other = plan_merge(merge.manifest, report, metadata, output, Source(2, "v1", "h", TRIGGER), 0.5, {})
    assert other.merged == []


def test_what_changed_after_validation_does_not_enter(world):
    _, output, manifest = world
    report, metadata = batch(output, 1, 2)
    (output / "approved_iter1" / "0.png").write_bytes(b"another picture")
    merge = plan_merge(manifest, report, metadata, output, Source(1, "v1", "h", TRIGGER), 0.5, {})
    assert len(merge.merged) == 1 and merge.left_out == {merging.VANISHED: 1}


def test_taking_out_leaves_the_folders_as_before(world):
    source, output, manifest = world
    sync(manifest, output)
    before, real = contents(output / DATASET), contents(source)
    first = merged(world, 1, 4)
    sync(first.manifest, output)
    report, metadata = batch(output, 2, 2)
    second = plan_merge(first.manifest, report, metadata, output, Source(2, "v2", "h", TRIGGER), 0.5, {})
    sync(second.manifest, output)
    after_first = take_out(second.manifest, 2)
    sync(after_first, output)
    assert {one.iteration for one in after_first.merged} == {1} and after_first.undone == [2]
    after_both = take_out(after_first, 1)
    sync(after_both, output)
    assert contents(output / DATASET) == before and len(after_both.taken_out) == 6
    assert contents(source) == real
    assert take_out(after_both, 1) == after_both


def test_real_photos_are_never_written_to(world):
    source, output, manifest = world
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in source.iterdir()}
    sync(manifest, output)
    (output / DATASET / "photo_0.png").write_bytes(b"somebody edits the copy")
    sync(manifest, output)
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in source.iterdir()
    } == before
    assert (output / DATASET / "photo_0.png").read_bytes() == (source / "photo_0.png").read_bytes()


def test_held_out_photos_are_apart(world):
    _, output, manifest = world
    manifest.real[3].held_out = True
    sync(manifest, output)
    assert set(contents(output / HELD_OUT)) == {"photo_3.png", "photo_3.txt"}
    assert "photo_3.png" not in contents(output / DATASET) and "photo_3.png" not in contents(output / REAL)


def test_pictures_of_somebody_else_are_neither_trained_on_nor_deleted(world):
    _, output, manifest = world
    sync(manifest, output)
    (output / DATASET / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holiday\.jpg is not of this loop"):
        sync(manifest, output)
    assert (output / DATASET / "holiday.jpg").exists()


def test_a_photo_that_vanishes_meanwhile_is_said(world):
    source, output, manifest = world
    (source / "photo_2.png").unlink()
    with pytest.raises(UserError, match=r"photo_2\.png is gone"):
        sync(manifest, output)


def test_copies_of_one_photo_count_once(world):
    source, _, _ = world
    (source / "again.png").write_bytes((source / "photo_0.png").read_bytes())
    assert len(list_real(source)) == 8


def test_generated_files_of_the_user_come_after_the_control_and_count_as_synthetic(world):
    source, output, _ = world
    (source / "synthetic_old.png").write_bytes(picture("generated"))
    (source / "synthetic_old.txt").write_text("a generated one")
    manifest = MergeManifest(dataset_dir=str(source), seed=1, real=list_real(source))
    sync(manifest, output)
    assert "synthetic_old.png" not in contents(output / DATASET) and merging.trained_on(manifest) == (8, 0)
    later = manifest.model_copy(update={"baseline_is_made": True})
    sync(later, output)
    assert {"synthetic_old.png", "synthetic_old.txt"} <= set(contents(output / DATASET))
    assert "synthetic_old.png" not in contents(output / REAL) and merging.trained_on(later) == (8, 1)
    assert room(manifest, 0.5) == room(later, 0.5) == 7 and synthetic_share(later) == pytest.approx(1 / 9)
    assert merging.fingerprint(manifest) != merging.fingerprint(later)
    assert merging.photos_of(manifest) == merging.photos_of(world[2]), "they are no real photos"


def test_generated_files_alone_are_no_dataset(tmp_path):
    (tmp_path / "synthetic_1.png").write_bytes(picture("x"))
    inside = tmp_path / "10_alice"
    inside.mkdir()
    (inside / "photo.png").write_bytes(picture("y"))
    with pytest.raises(UserError, match=r"holds no real photos .* Those in 10_alice are not used"):
        list_real(tmp_path)
    assert passed_over(tmp_path) == ["10_alice"]


def test_a_caption_that_goes_is_not_trained_on(world):
    source, output, manifest = world
    sync(manifest, output)
    (source / "photo_1.txt").unlink()
    now = with_photos(manifest, list_real(source))
    sync(now, output)
    assert not (output / DATASET / "photo_1.txt").exists() and not (output / REAL / "photo_1.txt").exists()
    assert merging.fingerprint(now) != merging.fingerprint(manifest)
    (source / "photo_3.png").unlink()
    (source / "photo_3.txt").unlink()
    sync(with_photos(now, list_real(source)), output)
    assert not list(output.rglob("photo_3.*"))
    (output / DATASET / "photo_0.txt").write_text("somebody writes it beside the copy")
    with pytest.raises(UserError, match=r"photo_0\.txt is not of this loop"):
        sync(with_photos(now, list_real(source)), output)


def test_temporary_files_of_somebody_else_stay(world):
    _, output, manifest = world
    sync(manifest, output)
    ours, other = output / DATASET / ".photo_0.png.abcd.tmp", output / DATASET / ".mine.abcd.tmp"
    ours.touch()
    other.touch()
    sync(manifest, output)
    assert other.exists() and not ours.exists()


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_names_that_are_no_utf8(tmp_path):
    source, output = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    (source / os.fsdecode(b"caf\xe9.png")).write_bytes(picture("x"))
    manifest = MergeManifest(dataset_dir=str(source), seed=1, real=list_real(source))
    sync(MergeManifest.model_validate_json(manifest.model_dump_json()), output)
    assert set(contents(output / DATASET)) == {r"caf\xe9.png"}
