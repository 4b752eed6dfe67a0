"""`facevault.py label`: names, merging, splitting, taking out, undo; in labels.json and in the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from terminal import Terminal
from vault_fixture import VaultRun, make_vault


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    vault = make_vault(folder)
    run = VaultRun(vault, folder / "clustered")
    (run.output.parent / "photos").symlink_to(vault.parent / "photos")
    run("cluster")
    return run.output


@pytest.fixture
def vault(clustered, tmp_path) -> VaultRun:
    return VaultRun(clustered, tmp_path)


def state(vault: VaultRun) -> list:
    queries = ("persons", "pins", "bans")
    return [vault.ask(f"SELECT * FROM {one} ORDER BY 1, 2") for one in queries] + [
        vault.ask("SELECT id, person FROM faces ORDER BY id")
    ]


def apart(vault: VaultRun) -> tuple[int, int]:
    """Two clusters that are together in no picture."""
    numbers = [number for (number,) in vault.ask("SELECT id FROM persons")]
    for one in numbers:
        for other in numbers:
            shared = "SELECT content FROM faces WHERE person = {}"
            if one < other and not vault.ask(f"{shared.format(one)} INTERSECT {shared.format(other)}"):
                return one, other
    raise AssertionError("every two clusters share a picture")


def test_names_by_argument_and_by_file(vault, tmp_path):
    one, two, three, *_ = (number for (number,) in vault.ask("SELECT id FROM persons ORDER BY id"))
    assert f"cluster {one} is alice" in vault("label", one, "alice").stdout
    file = tmp_path / "names.json"
    file.write_text(json.dumps({str(two): "Zoë O'Brien <b>", str(three): None, "alice": "Alice"}), encoding="utf-8")
    vault("label", "--names", file)
    assert vault.names == {one: "Alice", two: "Zoë O'Brien <b>"}
    kept = {person["cluster"]: person["kept"] for person in vault.json("labels.json")["persons"]}
    assert kept[three] is False and kept[one] is True
    vault("label", "--names", vault.output / "labels.json")  # its own file is a file of names, too
    assert vault.names == {one: "Alice", two: "Zoë O'Brien <b>"}


def test_a_file_of_names_holds_as_a_whole_or_not_at_all(vault, tmp_path):
    before = state(vault)
    file = tmp_path / "names.json"
    file.write_text('{"1": "alice", "99": "bob"}')
    assert "There is no cluster 99" in vault("label", "--names", file, code=2).stderr
    assert state(vault) == before
    file.write_text('["alice"]')
    assert "is to be an object such as" in vault("label", "--names", file, code=2).stderr


def test_every_act_can_be_undone_one_after_the_other(vault):
    one, two = apart(vault)
    face = min(vault.ask(f"SELECT id FROM faces WHERE person = {one}"))[0]
    states = [state(vault)]
    for act in (
        (one, "alice"),
        ("--merge", "alice", two),
        ("--split", "alice"),
        ("--take-out", face),
        ("--not-a-person", "alice"),
    ):
        vault("label", *act)
        states.append(state(vault))
        assert states[-1] != states[-2], act
    for earlier in reversed(states[:-1]):
        assert "Undone: " in vault("label", "--undo").stdout
        assert state(vault) == earlier
    assert "nothing to undo" in vault("label", "--undo", code=2).stderr


def test_merged_stays_merged_and_split_stays_split(vault):
    one, two = apart(vault)
    faces = {
        number: {f for (f,) in vault.ask(f"SELECT id FROM faces WHERE person = {number}")} for number in (one, two)
    }
    vault("label", "--merge", one, two)
    vault("cluster", "--threshold", "0.6")
    assert faces[one] | faces[two] <= vault.clusters[one] and two not in vault.clusters
    chosen = sorted(faces[two])[:2]
    said = vault("label", "--split", one, "--faces", *chosen).stdout
    new = int(said.split("a new cluster: cluster ")[1].split(".")[0])
    vault("cluster", "--threshold", "0.1")
    assert set(chosen) <= vault.clusters[new] and not set(chosen) & vault.clusters[one]


def test_undo_after_a_new_clustering_leaves_what_that_one_found(vault):
    one, _ = apart(vault)
    vault("label", one, "alice")
    vault("cluster", "--threshold", "0.25")
    vault("label", "--undo")
    assert vault.names == {} and vault.ask("SELECT count(*) FROM pins") == [(0,)]
    assert one in vault.clusters


def test_two_faces_of_one_picture_are_not_merged(vault):
    query = "SELECT a.person, b.person FROM faces a JOIN faces b ON a.content = b.content AND a.person < b.person"
    one, other = vault.ask(query)[0]
    before = state(vault)
    assert "two faces of one picture are two persons" in vault("label", "--merge", one, other, code=2).stderr
    assert state(vault) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "alice"), "There is no cluster nobody"),
        ((1,), "Which name is cluster 1 to have?"),
        ((1, "7"), "clusters are called by numbers"),
        ((1, " "), "is no name"),
        (("--take-out", 99999), "There is no face 99999"),
        (("--split", 1, "--undo"), "One act at a time"),
        (("--merge", 1, 1), "are the same cluster"),
        (("--names", "missing.json"), "cannot be read"),
    ],
)
def test_a_mistake_gets_one_sentence(vault, arguments, said):
    done = vault("label", *arguments, code=2)
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_kills_leave_an_act_done_or_not_begun(vault):
    one, two = apart(vault)
    command = [sys.executable, str(ROOT / "facevault.py"), "label", "--merge", str(one), str(two)]
    before = state(vault)
    for delay in np.linspace(0.1, 1.2, 12):
        process = subprocess.Popen([*command, "--output", str(vault.output)], stdout=subprocess.DEVNULL)
        time.sleep(float(delay))
        process.kill()
        process.wait()
        acts = vault.ask("SELECT count(*) FROM acts")[0][0]
        assert acts in (0, 1) and (state(vault) == before) == (acts == 0)
        if acts:
            vault("label", "--undo")
            assert state(vault) == before
    assert vault.ask("PRAGMA integrity_check") == [("ok",)]


def test_the_table_and_the_numbers(vault):
    shown = vault("label").stdout
    assert "Name one: facevault.py label CLUSTER NAME" in shown and ".jpg" in shown
    stats = vault("stats").stdout
    assert f"{vault.ask('SELECT count(*) FROM faces')[0][0]}" in stats and "faces in no cluster" in stats


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")
def test_names_are_asked_for_on_a_terminal(vault):
    command = [sys.executable, str(ROOT / "facevault.py"), "label", "--output", str(vault.output)]
    persons = vault.json("labels.json")["persons"]
    terminal = Terminal(vault.output, command)
    for one, word in zip(persons, ("7", "", "-"), strict=False):
        seen = terminal.answer("Name (Enter: none yet", word)
        if word == "7":
            assert one["faces"][0]["file"] in seen
            terminal.see("clusters are called by numbers")
            terminal.answer("Name (Enter: none yet", "alice")
    terminal.answer("Name (Enter: none yet", "q")
    terminal.see(f"cluster {persons[0]['cluster']} is alice.")
    assert terminal.end() == 0
    assert vault.names == {persons[0]["cluster"]: "alice"}
    left_out = [one["cluster"] for one in vault.json("labels.json")["persons"] if not one["kept"]]
    assert left_out == [persons[2]["cluster"]]
