"""Clusters: against known persons, no chains, never two faces of one picture, and what somebody said stays."""

from __future__ import annotations

import numpy as np
import pytest
from vault_fixture import VaultRun, make_vault

from benchmarks.vault_bench import gallery, plain_dbscan, scores, truth_of
from mirror.vault.clustering import NOBODY, Known, alike, persons
from mirror.vault.neighbours import components, nearest


def people(counts: list[int], spread: float, seed: int = 0, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, size) of persons with so many faces each, and who is who; cosine within a person: 1 - spread."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(len(counts)), counts)
    centres, noise = rng.standard_normal((len(counts), size)), rng.standard_normal((len(who), size))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    faces = np.sqrt(1 - spread) * centres[who] + np.sqrt(spread) * noise
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32), who


def apart(count: int) -> np.ndarray:
    return np.arange(count)


def test_persons_are_found_and_strangers_stay_alone():
    faces, who = people([12, 9, 20, 3, 1, 1, 2], 0.4)
    labels = persons(faces, apart(len(faces)), 0.4, 3)
    for person in range(4):
        assert len(set(labels[who == person])) == 1 and labels[who == person][0] != NOBODY
    assert len(set(labels[who < 4])) == 4
    assert (labels[who >= 4] == NOBODY).all()  # two faces are no person, as long as nobody says so


def test_a_chain_of_faces_between_ties_nobody_together():
    """Two persons and faces on the way from one to the other: DBSCAN makes one cluster of all."""
    faces, _ = people([15, 15], 0.2)
    one, other = faces[:15].mean(axis=0), faces[15:].mean(axis=0)
    between = np.stack([one * (1 - t) + other * t for t in np.linspace(0.05, 0.95, 12)])
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    chain = np.concatenate([faces, between.astype(np.float32)])
    assert len(set(plain_dbscan(chain, 0.4, 3))) == 1
    labels = persons(chain, apart(len(chain)), 0.6, 3)
    assert len(set(labels[:15])) == len(set(labels[15:30])) == 1 and labels[0] != labels[15]


def test_two_faces_of_one_picture_are_never_one_person():
    faces, _ = people([20], 0.1)
    pictures = np.repeat(np.arange(10), 2)
    labels = persons(faces, pictures, 0.3, 3)
    for picture in range(10):
        pair = labels[pictures == picture]
        assert pair[0] != pair[1] or pair[0] == NOBODY


def test_new_photos_of_a_named_person_do_not_go_to_a_sibling():
    """The same faces again, in other pictures: the named person is as near as can be, though it is no free group."""
    rng = np.random.default_rng(3)
    alice, other = np.linalg.qr(rng.standard_normal((64, 2)))[0].T
    centres = np.repeat([alice, 0.7 * alice + np.sqrt(1 - 0.7**2) * other], 5, axis=0)
    faces = np.sqrt(0.7) * centres + np.sqrt(0.3 / 64) * rng.standard_normal((10, 64))
    faces = np.concatenate([faces, faces[:3]])
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    pictures = np.array([0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11])  # one picture shows both
    assert 0.35 < (faces[:5] @ faces[5:10].T).mean() < (faces[:5] @ faces[:5].T).mean()
    labels = persons(faces, pictures, 0.35, 3, Known(owner=dict.fromkeys(range(5), 1)))
    assert len(set(labels[:5])) == len(set(labels[5:10])) == 1 and labels[0] != labels[5]
    assert (labels[10:] == labels[0]).all()


def test_merging_at_once_is_merging_one_by_one():
    """Against average linkage by the book: the nearest pair first, one at a time."""
    faces, _ = people([5, 7, 4, 6], 0.55, seed=3, size=16)
    pictures = np.random.default_rng(1).permutation(len(faces)) // 2
    labels = alike(faces, pictures, 0.25, Known())
    groups = [[i] for i in range(len(faces))]
    while True:
        pairs = [
            (float(np.mean(faces[a] @ faces[b].T)), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups[:i])
            if not set(pictures[a]) & set(pictures[b])
        ]
        cosine, i, j = max(pairs)
        if cosine < 0.25:
            break
        groups[j] += groups.pop(i)
    assert {frozenset(group) for group in groups} == {
        frozenset(np.flatnonzero(labels == one).tolist()) for one in set(labels)
    }


def test_in_cells_nearly_all_neighbours_are_found_and_no_false_ones():
    embeddings, _, _ = gallery(4000, 128)
    exact, by_cells = (nearest(embeddings, 0.6, up_to) for up_to in (4000, 100))
    rows, columns = by_cells.nonzero()
    cosines = (embeddings[rows] * embeddings[columns]).sum(axis=1)
    assert np.allclose(by_cells.data, 1 - cosines, atol=1e-5) and cosines.min() >= 0.4
    assert 0.95 <= exact.multiply(by_cells > 0).nnz / exact.nnz < 1, "nearly the exact graph, and not the same"


def test_profiles_join_persons_and_tie_none_together():
    """Turned faces that are alike for all persons, each a little more like its own."""
    faces, who = people([8, 8], 0.3)
    centres = np.stack([faces[who == one].mean(axis=0) for one in (0, 1)])
    common = np.random.default_rng(9).standard_normal(64)
    common /= np.linalg.norm(common)
    profiles = 0.75 * centres[[0, 0, 0, 1, 1, 1]] + 0.55 * common
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    both = np.concatenate([faces, profiles.astype(np.float32)])
    turned = np.arange(len(both)) >= 16
    labels = persons(both, apart(len(both)), 0.35, 3, turned=turned)
    assert len(set(labels[:8])) == len(set(labels[8:16])) == 1 and labels[0] != labels[8]
    assert (labels[16:19] == labels[0]).all() and (labels[19:] == labels[8]).all()
    alone = persons(both[16:19], apart(3), 0.35, 3, turned=turned[16:19])
    assert (alone == 0).all()  # whoever is only seen in profile is a person, too


def test_what_somebody_said_holds():
    faces, _ = people([6, 6], 0.3)
    known = Known(owner={0: 7, 6: 7, 1: 8}, banned={2: frozenset({7})})
    labels = persons(faces, apart(12), 0.4, 3, known)
    assert labels[0] == labels[6] and labels[1] != labels[0] and labels[2] != labels[0]
    assert (labels[[0, 6, 1]] != NOBODY).all()


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    return make_vault(tmp_path_factory.mktemp("album"))


@pytest.mark.parametrize("threshold", [0.65, 0.75, 0.85])
def test_components_are_the_clusters_of_dbscan_with_two_samples(threshold):
    random = np.random.default_rng(7)
    embeddings = (
        random.normal(size=(40, 16))[random.integers(0, 40, 200)] + random.normal(size=(200, 16)) * 0.5
    ).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = plain_dbscan(embeddings, 1 - threshold, 2)
    expected = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    assert len(expected) > 1 and NOBODY in labels
    assert [part.tolist() for part in components(embeddings, threshold)] == expected
    assert components(embeddings[:1], threshold) == []


@pytest.fixture
def vault(scanned, tmp_path) -> VaultRun:
    return VaultRun(scanned, tmp_path)


def test_an_album_is_clustered_better_than_by_dbscan_alone(vault):
    done = vault("cluster")
    assert "in no cluster" in done.stdout and "Threshold 0.5 (" in done.stdout
    found = truth_of(vault.output, vault.photos)
    ours, plain = scores(found.labels, found.who), scores(plain_dbscan(found.embeddings, 0.4, 3), found.who)
    assert ours.precision >= 0.9 and ours.recall >= 0.8
    assert ours.bcubed > plain.bcubed + 0.1
    inside = sum(len(faces) for faces in vault.clusters.values())
    assert inside + len(vault.json("labels.json")["unclustered"]) == len(found.who)
    shown = vault.ask("SELECT content, person FROM faces WHERE person IS NOT NULL")
    assert len(shown) == len(set(shown))  # nobody is twice in one picture


def test_numbers_names_and_corrections_survive_a_new_clustering(vault):
    vault("cluster")
    first = vault.clusters
    one, two, *_ = sorted(first, key=lambda number: -len(first[number]))
    vault("label", one, "alice")
    face = min(first[two])
    vault("label", "--take-out", face)
    vault("cluster", "--threshold", "0.6")
    assert vault.names == {one: "alice"} and first[one] <= vault.clusters[one]
    assert ">alice</b>" in (vault.output / "faces.html").read_text(encoding="utf-8")
    vault("cluster")
    assert face not in vault.clusters[two] and first[two] - {face} <= vault.clusters[two]
    assert first[one] <= vault.clusters[one]


def test_a_preview_writes_nothing(vault):
    vault("cluster", "--preview")
    assert vault.ask("SELECT count(*) FROM persons") == [(0,)] and not (vault.output / "labels.json").exists()
    assert vault.ask("SELECT count(*) FROM faces WHERE person IS NOT NULL") == [(0,)]


def test_without_a_scan_one_sentence(tmp_path):
    from conftest import run_script

    done = run_script("facevault.py", "cluster", "--output", tmp_path)
    assert done.returncode == 2 and "run facevault.py scan PHOTOS first" in done.stderr
