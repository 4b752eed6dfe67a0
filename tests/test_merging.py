"""The working dataset: the split, the merge under its cap, taking a merge out, and folders that follow the manifest."""

from fractions import Fraction

import numpy as np
import pytest
from loop_fakes import picture

from utils import merging
from utils.console import UserError
from utils.contracts import (
    GeneratedImage,
    GenerationMetadata,
    MergedImage,
    MergeManifest,
    RealPhoto,
    ValidatedImage,
    ValidationReport,
)
from utils.merging import DATASET, HELD_OUT, REAL, plan_merge, room, sha256_of, split, sync, synthetic_share, take_out

TRIGGER = "ohwx alice"


def photos(count):
    return [RealPhoto(file=f"{i}.jpg", sha256=f"{i:064x}", caption_sha256=None) for i in range(count)]


@pytest.mark.parametrize(("count", "held_out"), [(3, 0), (24, 0), (25, 5), (30, 6), (100, 20)])
def test_a_fifth_is_held_out_where_there_are_enough(count, held_out):
    assert sum(photo.held_out for photo in split(photos(count), [], 1)) == held_out


def test_the_split_depends_on_contents_and_seed_not_on_names_or_order():
    def drawn(some, seed):
        return {photo.sha256 for photo in split(some, [], seed) if photo.held_out}

    some = photos(40)
    renamed = [photo.model_copy(update={"file": f"x{photo.file}"}) for photo in reversed(some)]
    assert drawn(some, 1) == drawn(renamed, 1) != drawn(some, 2)


def test_near_duplicates_and_generated_files_are_never_held_out():
    some = photos(40)
    some[0] = some[0].model_copy(update={"file": "synthetic_0.png"})
    twins = [(i, i + 1) for i in range(1, 20, 2)]
    for seed in range(20):
        held_out = {int(photo.sha256, 16) for photo in split(some, twins, seed) if photo.held_out}
        assert len(held_out) == 8 and not held_out & set(range(21))
    assert not any(photo.held_out for photo in split(some, [(i, i + 1) for i in range(35)], 1)), "too few are left"


def test_new_photos_are_trained_on_and_held_out_ones_stay_so():
    manifest = MergeManifest(dataset_dir="x", seed=1, real=split(photos(30), [], 1))
    more = merging.with_photos(manifest, photos(50)[5:])
    before = {photo.sha256 for photo in manifest.real if photo.held_out}
    after = {photo.sha256 for photo in more.real if photo.held_out}
    assert after == before - {photo.sha256 for photo in photos(5)}
    assert f"{REAL}/0.jpg" in more.retired


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
    manifest = MergeManifest(dataset_dir=str(source), seed=1, real=merging.list_real(source))
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
    return ValidationReport.model_construct(images=images), GenerationMetadata(created="", images=made)


def merged(world, iteration, count, cap=0.5, **more):
    _, output, manifest = world
    report, metadata = batch(output, iteration, count, **more)
    return plan_merge(manifest, report, metadata, output, iteration, ("v1", "hash"), TRIGGER, cap)


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


def test_nothing_enters_twice(world):
    source, output, manifest = world
    report, metadata = batch(output, 1, 3)
    (output / "approved_iter1" / "0.png").write_bytes((source / "photo_0.png").read_bytes())
    report.images[0].sha256 = sha256_of(source / "photo_0.png")
    report.images[2].sha256 = report.images[1].sha256
    (output / "approved_iter1" / "2.png").write_bytes((output / "approved_iter1" / "1.png").read_bytes())
    merge = plan_merge(manifest, report, metadata, output, 1, ("v1", "h"), TRIGGER, 0.5)
    assert len(merge.merged) == 1 and merge.left_out == {merging.DOUBLE: 2}
    again = plan_merge(merge.manifest, report, metadata, output, 1, ("v1", "h"), TRIGGER, 0.5)
    assert again.manifest == merge.manifest, "the same merge again changes nothing"
    other = plan_merge(merge.manifest, report, metadata, output, 2, ("v1", "h"), TRIGGER, 0.5)
    assert other.merged == []


def test_what_changed_after_validation_does_not_enter(world):
    _, output, manifest = world
    report, metadata = batch(output, 1, 2)
    (output / "approved_iter1" / "0.png").write_bytes(b"another picture")
    merge = plan_merge(manifest, report, metadata, output, 1, ("v1", "h"), TRIGGER, 0.5)
    assert len(merge.merged) == 1 and merge.left_out == {merging.VANISHED: 1}


def test_taking_out_leaves_the_folders_as_before(world):
    source, output, manifest = world
    sync(manifest, output)
    before, real = contents(output / DATASET), contents(source)
    first = merged(world, 1, 4)
    sync(first.manifest, output)
    report, metadata = batch(output, 2, 2)
    second = plan_merge(first.manifest, report, metadata, output, 2, ("v2", "h"), TRIGGER, 0.5)
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
    assert len(merging.list_real(source)) == 8
