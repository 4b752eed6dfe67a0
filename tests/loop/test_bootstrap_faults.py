"""A loop of fakes that is killed, failed, damaged and doubled: what it ends with equals an undisturbed run."""

import json
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from conftest import ROOT
from loop_fixture import FAKES, loop_command, make_loop, run_loop

from mirror.loop import steps
from mirror.loop.steps import Child, content_of, run_child

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and limits are those of Unix")

ASIDE = ("logs", ".loop.lock", "metrics_iter", "bootstrap_report.html")  # named by time, or telling it
QUICK = {"FAKE_PAUSE_S": "0.002"}


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """Configuration of a loop that has not begun, and what an undisturbed run of it ends with."""
    return undisturbed(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def short_loop(tmp_path_factory):
    """The same with one iteration."""
    return undisturbed(tmp_path_factory.mktemp("short"), max_iterations=1)


def undisturbed(base, **changes):
    config = make_loop(base, **changes)
    done = run_loop(config, **QUICK)
    assert done.returncode == 0, done.stderr
    state = state_of(base)
    clear(base)
    return base, config, state


def state_of(base):
    """Every file of both folders by content, time stamps aside; the page without the time of its beginning."""
    created = json.loads((base / "out" / "iteration_history.json").read_text())["created"].replace("T", " ")
    state = {"page": (base / "out" / "bootstrap_report.html").read_text().replace(created, "")}
    for folder in ("out", "loras"):
        for path in sorted((base / folder).rglob("*")):
            name = path.relative_to(base).as_posix()
            if path.is_file() and not any(f"/{part}" in name for part in ASIDE):
                state[name] = content_of(path)
    state["metrics"] = [len(list(folder.iterdir())) for folder in sorted((base / "out").glob("metrics_iter*"))]
    return state


def clear(base):
    for folder in ("out", "loras"):
        shutil.rmtree(base / folder, ignore_errors=True)
    for wish in (base / "templates").glob("fail_*"):
        wish.unlink()


@pytest.fixture
def fresh(loop):
    """The same loop in the same place, not begun."""
    clear(loop[0])
    return loop


@pytest.fixture
def short(short_loop):
    clear(short_loop[0])
    return short_loop


def assert_equal(base, state):
    now = state_of(base)
    assert sorted(now) == sorted(state), "nothing lost, nothing left over"
    assert [name for name in now if now[name] != state[name]] == []


def killed_in(config, kind, delay_s):
    """Start the loop and kill it `delay_s` after a step of this kind begins; the exit code, None where none began."""
    process = subprocess.Popen(
        loop_command(config),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"FAKE_PAUSE_S": "0.03"},
        encoding="utf-8",
    )
    for line in process.stderr:
        if line.startswith(f"{kind} begins"):
            time.sleep(delay_s)
            process.kill()
            break
    process.stderr.close()
    return process.wait()


def running_step(base):
    path = base / "out" / "iteration_history.json"
    iterations = json.loads(path.read_text())["iterations"] if path.exists() else []
    running = iterations[-1]["running"] if iterations else None
    return running["step"] if running else None


ROUND = ("gaps", "generate", "validate", "train", "generate", "metrics")


def test_killed_at_thirty_moments(fresh):
    """Once in each of the 21 steps of three iterations and at nine more moments, at random within the step."""
    base, config, state = fresh
    draw = random.Random(7)
    kinds = ["train", "generate", "metrics", *ROUND, *ROUND, *ROUND]
    for place in sorted(draw.sample(range(len(kinds)), 9), reverse=True):
        kinds.insert(place, kinds[place])  # the same step once more
    hit = Counter()
    for kind in kinds:
        assert killed_in(config, kind, draw.uniform(0, 0.08)) == -9
        hit[running_step(base)] += 1
    done = run_loop(config, **QUICK)
    assert done.returncode == 0, done.stderr
    assert_equal(base, state)
    inside = {step: hit[step] for step in ("gaps", "generate", "validate", "train", "sample", "measure")}
    assert sum(hit.values()) == 30 and min(inside.values()) >= 3, hit


def test_killed_during_writes(fresh):
    """Before and after files take their place, again and again, until the loop is through: merges are among them."""
    base, config, state = fresh
    draw = random.Random(8)
    kills, in_merge = 0, 0
    for _ in range(60):
        mode = draw.choice(["kill-before", "kill-after"])
        done = harness(config, mode, draw.randint(10, 38))
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        kills += 1
        in_merge += running_step(base) == "merge"
    assert_equal(base, state)
    assert kills >= 8 and in_merge >= 3, (kills, in_merge)


def harness(config, mode, at):
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests" / "fixtures" / "loop_harness.py"),
            mode,
            str(at),
            "--config",
            str(config),
            "--debug",
        ],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=os.environ | QUICK,
        timeout=60,
    )


FAULTS = [
    ("train", "exit 1"),
    ("train", "nothing"),
    ("train", "cut"),
    ("train", "unfinished"),
    ("generate", "kill"),
    ("generate", "cut"),
    ("generate", "lost"),
    ("generate", "more"),
    ("generate", "prompt"),
    ("generate", "seed"),
    ("metrics", "exit 2"),
    ("metrics", "nothing"),
    ("metrics", "cut"),
    ("metrics", "columns"),
    ("metrics", "faces"),
    ("gaps", "exit 3"),
    ("gaps", "cut"),
    ("generate", "stray"),
    ("generate", "nothing"),
    ("generate", "ignored"),
    ("generate", "strange"),
    ("validate", "kill"),
    ("validate", "nothing"),
    ("validate", "cut"),
]


SAID = {  # of the results that only look right
    "unfinished": 'does not tell of a finished training ("finished": true)',
    "more": "images that are not in the plan, or one of them twice: more",
    "prompt": "was generated with another prompt than the plan's: 'somebody else'",
    "seed": "and the plan says",
    "columns": "Data.csv has no column Type",
    "faces": "counts 99 faces of v1, which has 3 samples",
    "ignored": "it made no image for face_angle profile",
    "strange": "images that no gap asks for: face_angle three_quarter",
}


def test_every_child_made_to_fail(fresh):
    """One after the other, in the order in which a loop meets them: each stops it with the child's own words."""
    base, config, state = fresh
    for step, how in FAULTS:
        wish = base / "templates" / f"fail_{step}"
        wish.write_text(how)
        done = run_loop(config, **QUICK)
        assert done.returncode == 2, (step, how, done.stderr)
        error = done.stderr[done.stderr.rindex("Error:") :]
        assert "Traceback" not in done.stderr and len(error) < 3000
        if how.startswith("exit"):
            assert f"ended with exit code {how[5:]}" in error and "something useful about the failure" in error
            assert "give the same command again" in error
        if how == "kill":
            assert "was ended by signal 9" in error
        assert SAID.get(how, "") in error, (how, error)
        assert "run python again" not in error
        wish.unlink()
    assert run_loop(config, **QUICK).returncode == 0
    assert_equal(base, state)


@pytest.mark.parametrize("crashes", [1, 2])
def test_our_script_that_crashes_is_tried_once_more(tmp_path, crashes):
    """Its interpreter is ended as a crash of native code ends it, so many times; then the script runs, and finds that
    the photos of the fakes show nobody."""
    config = make_loop(tmp_path)
    given = json.loads(config.read_text())
    given["metrics"].pop("command")
    given["pack"] = "demo"
    config.write_text(json.dumps(given))
    tries = tmp_path / "tries"
    tries.mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys\ntries = {str(tries)!r}\n"
        f"if 'mirror_metrics.py' in ' '.join(sys.orig_argv) and len(os.listdir(tries)) < {crashes}:\n"
        "    open(os.path.join(tries, str(os.getpid())), 'w').close()\n    os.abort()\n"
    )
    done = run_loop(config, **QUICK, PYTHONPATH=str(tmp_path))
    assert len(list(tries.iterdir())) == crashes
    note = "Note: Measuring was ended by signal 6: a library crashed. The step is tried once more.\n"
    assert done.stderr.count(note) == 1
    log = (tmp_path / "out" / "logs" / "iter0_measure.log").read_text()
    assert log.count("Fatal Python error: Aborted") == crashes
    error = done.stderr[done.stderr.rindex("Error: Measuring ") :]
    if crashes == 1:
        assert done.returncode == 2 and "ended with exit code 2" in error and "no face found" in log
        assert "Fix that and give the same command again" in error
    else:
        assert done.returncode == 1 and "was ended by signal 6" in error
        assert "Give the same command again" in error and "please report it" in error
        assert "Fatal Python error" not in error, "that is in the log, and leaves room for what the script said"


@pytest.mark.parametrize(("ours", "number"), [(True, 11), (True, 7), (True, 8), (True, 4), (True, 9), (False, 11)])
def test_only_our_own_crashes_count_as_such(tmp_path, ours, number):
    """Who kills a script wants it to end, and whether a program of the user's goes on nobody knows."""
    child = replace(python_child(tmp_path, f"import os; os.kill(os.getpid(), {number})"), ours=ours)
    with pytest.raises(steps.StepError, match=f"was ended by signal {number}") as failure:
        run_child(child)
    assert isinstance(failure.value, steps.CrashError) == (ours and number in (7, 8, 11))


def test_what_a_users_python_says_as_it_fails_is_shown_whole(tmp_path):
    code = "print('before'); print('Fatal Python error: no codec'); print('behind'); raise SystemExit(1)"
    with pytest.raises(steps.StepError) as failure:
        run_child(python_child(tmp_path, code))
    assert failure.value.lines[1:4] == ("  before", "  Fatal Python error: no codec", "  behind")


@pytest.mark.parametrize("at", [1, 4, 9, 21])
def test_disk_full(short, at):
    base, config, state = short
    done = harness(config, "full", at)
    assert done.returncode == 2 and "the disk is full" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "the same command again" in done.stderr
    if at == 21:  # the others are through the same door; one is finished
        assert run_loop(config, **QUICK).returncode == 0
        assert_equal(base, state)


def test_files_may_not_grow(short):
    """A limit of the system on the size of files, which the history meets when it grows."""
    _, config, _ = short
    limit = 6000
    done = subprocess.run(
        loop_command(config),
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=os.environ | QUICK,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=60,
    )
    assert done.returncode == 2 and "cannot be written" in done.stderr, done.stderr


def test_two_loops_at_once(short):
    base, config, state = short
    first = subprocess.Popen(
        loop_command(config),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    first.stderr.readline()  # its first step has begun
    started = time.monotonic()
    second = run_loop(config, **QUICK)
    assert second.returncode == 2 and f"Another loop (process {first.pid}) works in" in second.stderr
    assert time.monotonic() - started < 20
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert_equal(base, state)


def test_an_orphaned_step_keeps_others_out_until_it_ends(short):
    """A child that outlives its loop (here because it says so) still holds the lock, which the next start waits for."""
    import fcntl

    base, config, state = short
    assert killed_in(config, "gaps", 0.0) == -9
    holder = subprocess.Popen(["sleep", "60"], pass_fds=(handle := os.open(base / "out" / ".loop.lock", os.O_RDWR),))
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.close(handle)
    pipe = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(loop_command(config), env=os.environ | QUICK, encoding="utf-8", **pipe) as second:
        assert any("waiting for its end" in line for line in second.stderr)
        assert second.poll() is None
        holder.kill()
        holder.wait()
        second.communicate(timeout=60)
    assert second.returncode == 0
    assert_equal(base, state)


def test_clock_set_back(short):
    """All that is there comes from the future: no decision asks for the time."""
    base, config, state = short
    killed_in(config, "validate", 0.01)
    for path in (base / "out").rglob("*"):
        os.utime(path, (time.time() + 1e7,) * 2)
    done = run_loop(config, **QUICK)
    assert done.returncode == 0, done.stderr
    assert_equal(base, state)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A loop that has ended; each test works on a copy of its files in the same place."""
    base = tmp_path_factory.mktemp("finished")
    config = make_loop(base)
    assert run_loop(config, **QUICK).returncode == 0
    shutil.copytree(base, base.with_name("kept"))
    return base, config


@pytest.fixture
def ended(finished):
    base = finished[0]
    yield finished
    shutil.rmtree(base)
    shutil.copytree(base.with_name("kept"), base)


def edited(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def drop_merged(told):
    told["merged"].pop()


def wrong_field(told):
    told["iterations"][1]["approved"] = "many"


def forget_lora(told):
    told["loras"][1]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("iteration_history.json", lambda path: path.write_text(path.read_text()[:500]), "damaged or changed by hand"),
        ("iteration_history.json", lambda path: edited(path, wrong_field), "field iterations.1.approved"),
        ("iteration_history.json", lambda path: edited(path, forget_lora), "v2/lora.safetensors was changed"),
        ("iteration_history.json", lambda path: path.unlink(), "is there already, without"),
        ("merge_manifest.json", lambda path: edited(path, drop_merged), "one of them was edited by hand"),
        ("merge_manifest.json", lambda path: path.unlink(), "merge_manifest.json cannot be read"),
        ("../loras/v1/lora.safetensors", lambda path: path.unlink(), "v1/lora.safetensors is gone"),
        ("../loras/lora.safetensors", lambda path: path.write_bytes(b"mine"), "was not written by this loop"),
        ("dataset/mine.png", lambda path: path.write_bytes(b"mine"), "dataset/mine.png is not of this loop"),
    ],
)
def test_damaged_by_hand(ended, name, damage, words):
    base, config = ended
    path = base / "out" / name
    damage(path)
    before = {one: one.read_bytes() for one in (base / "loras").rglob("*.safetensors")}
    done = run_loop(config, **QUICK)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.strip().count("\n") <= 2
    assert {one: one.read_bytes() for one in (base / "loras").rglob("*.safetensors")} == before, "nothing is touched"


def test_the_working_dataset_mends_itself(ended):
    base, config = ended
    before = state_of(base)
    dataset = base / "out" / "dataset"
    merged = sorted(dataset.glob("synthetic_*.png"))
    merged[0].unlink()
    merged[1].write_bytes(b"spoiled")
    merged[2].with_suffix(".txt").unlink()
    (dataset / "photo_00.png").write_bytes(b"spoiled")
    (dataset / "photo_00.npz").write_bytes(b"what a trainer keeps beside a picture stays")
    done = run_loop(config, **QUICK)
    assert done.returncode == 0 and "This loop has ended" in done.stdout, done.stderr
    (dataset / "photo_00.npz").unlink()
    assert_equal(base, before)
    assert (base / "photos" / "photo_00.png").read_bytes() != b"spoiled"


def test_a_finished_loop_does_nothing_twice(ended):
    base, config = ended
    before = {path: path.stat().st_mtime_ns for path in (base / "out" / "logs").iterdir()}
    done = run_loop(config, **QUICK)
    assert done.returncode == 0 and "begins" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (base / "out" / "logs").iterdir()} == before
    assert re.search(r"This loop has ended: The limit of 3 iteration\(s\) is reached", done.stdout)


def test_lost_samples_are_drawn_again(ended):
    base, config = ended
    folder = base / "out" / "samples" / "v1"
    before = content_of(folder)
    shutil.rmtree(folder)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_iterations": 4}))
    done = run_loop(config, **QUICK)
    assert done.returncode == 0 and "samples of v1 are gone or were changed" in done.stderr, done.stderr
    assert content_of(folder) == before and "Iteration 4: of at most 4" in done.stdout


def test_a_loop_that_goes_on_asks_nothing(ended):
    """Nobody answers on the terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(loop_command(ended[1]), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    os.close(slave)
    os.close(master)
    assert process.returncode == 0 and b"This loop has ended" in out


def test_dry_run_says_what_would_run(ended, tmp_path):
    done = run_loop(ended[1], "--dry-run")
    assert done.returncode == 0 and done.stdout.startswith("# Nothing would run.\nThis loop has ended:")
    for photos in (12, 30):
        config = make_loop(tmp_path / str(photos), photos=photos)
        given = json.loads(config.read_text())
        given["metrics"].pop("command")
        config.write_text(json.dumps(given | {"pack": "buffalo_l"}))
        done = run_loop(config, "--dry-run")
        assert done.returncode == 0 and done.stdout.count("--holdout") == (2 if photos == 30 else 0), done.stderr


def test_fewer_images_than_asked_for_are_said(short):
    base, config, _ = short
    assert killed_in(config, "metrics", 0.0) == -9  # the samples of v1 are drawn
    (base / "templates" / "fail_generate").write_text("fewer")
    done = run_loop(config, **QUICK)
    assert "Generation made fewer images than were asked for: 1 of 4 for face_angle profile." in done.stderr
    assert "✓ Generated: 5 images" in done.stdout


def test_a_console_that_goes_away_does_not_end_the_loop(short):
    base, config, state = short
    process = subprocess.Popen(
        loop_command(config),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | QUICK,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert_equal(base, state)


def python_child(tmp_path, code):
    return Child("Step", [sys.executable, "-c", code], tmp_path / "step.log", tmp_path, ours=False)


def test_a_child_is_read_to_its_end_where_nobody_reads_us(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as deaf:
        monkeypatch.setattr(sys, "stderr", deaf)
        run_child(python_child(tmp_path, "print('x' * 300_000)"))
    assert (tmp_path / "step.log").stat().st_size == 300_001


def test_a_child_has_a_session_of_its_own_and_all_that_it_started_ends_with_it(tmp_path):
    """Who sleeps on is the child's child; it holds the pipe open as long as it lives."""
    code = "import os, time\nif os.fork() == 0: time.sleep(60)\nassert os.getsid(0) == os.getpid()"
    reader, writer = os.pipe()
    started = time.monotonic()
    run_child(python_child(tmp_path, code), (writer,))
    os.close(writer)
    assert select.select([reader], [], [], 10)[0] and os.read(reader, 1) == b""
    os.close(reader)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_a_signal_while_a_child_is_forked_is_not_lost(tmp_path, number, moment):
    """It arrives in a function that forking calls, as those of the standard library are."""
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom mirror.loop.steps import Child, run_child\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "def handlers():\n    return [signal.getsignal(number) for number in (1, 2, 15)]\n"
        f"before = handlers()\nos.register_at_fork({moment}=lambda: os.kill(os.getpid(), {number}))\n"
        "try:\n    run_child(Child('Step', ['sleep', '60'], Path('step.log').absolute(), Path.cwd()))\n"
        "except KeyboardInterrupt:\n    print('interrupted', handlers() == before)\n"
        "    try:\n        os.waitpid(-1, os.WNOHANG)\n"
        "    except ChildProcessError:\n        print('no child is left')\n"
    )
    command, environment = [sys.executable, "-c", program], os.environ | {"PYTHONPATH": str(ROOT)}
    # less than the child sleeps, and than an interrupted one may take to end
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("interrupted True\nno child is left\n", "")


def test_a_signal_while_handlers_come_back_keeps_no_other_one_away(monkeypatch):
    handlers = {number: lambda number, _: came.append(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before, came = {number: signal.signal(number, handler) for number, handler in handlers.items()}, []
    interrupt, put = signal.getsignal(signal.SIGINT), signal.signal

    def put_and_interrupt(number, handler):
        put(number, handler)
        if handler is interrupt:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt), steps.held_signals():
            monkeypatch.setattr(signal, "signal", put_and_interrupt)
        monkeypatch.undo()
        for number in handlers:
            os.kill(os.getpid(), number)
        assert came == list(handlers)
    finally:
        for number, handler in {**before, signal.SIGINT: interrupt}.items():
            signal.signal(number, handler)


def test_ctrl_c_while_a_step_ends_leaves_nothing(tmp_path, monkeypatch):
    """As its group is about to be ended: who sleeps on is the child's child."""
    end_group = os.killpg

    def interrupted(group, number):
        os.kill(os.getpid(), signal.SIGINT)
        end_group(group, number)

    monkeypatch.setattr(os, "killpg", interrupted)
    reader, writer = os.pipe()
    with pytest.raises(KeyboardInterrupt):
        run_child(python_child(tmp_path, "import os, time\nif os.fork() == 0: time.sleep(60)"), (writer,))
    os.close(writer)
    assert select.select([reader], [], [], 10)[0] and os.read(reader, 1) == b""
    os.close(reader)


def test_what_cannot_start_is_said(tmp_path):
    with pytest.raises(steps.StepError, match=r"Step cannot start /no/such: No such file or directory\."):
        run_child(Child("Step", ["/no/such"], tmp_path / "step.log", tmp_path))


def test_what_is_ignored_stays_so_in_the_child(tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_child(python_child(tmp_path, "import signal; assert signal.getsignal(1) == signal.SIG_IGN"))
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_left_the_session_may_speak_late(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "_LAST_WORDS_SECONDS", 0.1)
    code = "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(1); print('late')"
    run_child(python_child(tmp_path, code + "\nelse: time.sleep(0.3)"))
    assert "late" not in (tmp_path / "step.log").read_text()
    for _ in range(100):
        if "late" in (tmp_path / "step.log").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("nobody listened any more")


def test_litter_undoes_no_step(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "a.txt").write_text("a caption")
    without_metadata = content_of(tmp_path)
    (tmp_path / "generation_metadata.json").write_text(json.dumps({"images": [{"file": "a.png"}]}))
    before = content_of(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "._a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"litter")
    assert content_of(tmp_path) == before
    (tmp_path / "generation_metadata.json").unlink()
    assert content_of(tmp_path) == without_metadata != before
    (tmp_path / "a.txt").write_text("another caption")
    assert content_of(tmp_path) != without_metadata


def test_a_program_beside_the_configuration(tmp_path):
    """As the README writes it: a bare name."""
    command = ["my_trainer.sh", str(tmp_path / "templates"), "{dataset}", "{output}"]
    config = make_loop(tmp_path, max_iterations=1, training={"command": command})
    run = run_loop(config)
    assert run.returncode == 2 and "training.command: my_trainer.sh is neither in" in run.stderr
    assert not (tmp_path / "out").exists()
    trainer = tmp_path / "my_trainer.sh"
    trainer.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAKES}" train "$@"\n')
    run = run_loop(config)
    assert run.returncode == 2 and "my_trainer.sh may not be run; chmod +x" in run.stderr
    trainer.chmod(0o755)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "✓ Training: LoRA v2 complete" in run.stdout, run.stderr
