"""run.sh, run.bat and launch.py: the real files in a small checkout, with the real pip and tiny wheels made here.

Nothing leaves the machine: pip gets one folder of wheels and no index. Distributions of the same names and requirements
as the real ones stand in for onnxruntime, insightface and NVIDIA's libraries.
"""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import launch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for nvidia-smi and Python are shell scripts")

ROOT = Path(__file__).resolve().parents[1]
ANALYSIS = "requirements/analysis.txt"

SCRIPT = """\
import json, os, sys
if "--wait" in sys.argv:
    import time
    try:
        print("waiting", flush=True)
        time.sleep(120)
    except KeyboardInterrupt:
        sys.exit(130)
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "prefix": sys.prefix, "path": sys.path}))
sys.exit(int(os.environ.get("SCRIPT_EXIT", "0")))
"""

SLOW_BACKEND = """\
import pathlib, time
def build_wheel(folder, config_settings=None, metadata_directory=None):
    pathlib.Path("started").touch()
    time.sleep(120)
"""

# The plain output of nvidia-smi, the two spellings that drivers have used.
SMI_HEADER = "| NVIDIA-SMI 550.54.14              Driver Version: 550.54.14      CUDA Version: {}     |"
SMI_HEADER_610 = "| NVIDIA-SMI 610.43.02              KMD Version: 610.43.02     CUDA UMD Version: {}     |"


def make_wheel(folder, name, version, requires=(), extras=(), files=None):
    """The smallest wheel that pip takes. `files`: path -> text."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    files = {
        **(files or {f"{name.replace('-', '_')}.py": f"VERSION = '{version}'\n"}),
        f"{stem}.dist-info/METADATA": "\n".join(metadata) + "\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{path},,\n" for path in files)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def make_runtime_wheels(folder):
    """What the requirement files in the repository name, with the files that collide in the real ones."""
    extras = ("cuda", "cudnn")
    module = "onnxruntime/__init__.py"
    make_wheel(folder, "insightface", "2.1", ["onnxruntime"])
    make_wheel(folder, "onnxruntime", "1.31.1", files={module: "VARIANT = 'cpu 1.31.1'\n"})
    needs = ['nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"', 'nvidia-cudnn-cu12~=9.0; extra == "cudnn"']
    make_wheel(folder, "onnxruntime-gpu", "1.26.0", needs, extras, {module: "VARIANT = 'gpu 1.26.0'\n"})
    for version, cuda in (("1.31.1", 13), ("1.50.0", 14)):
        needs = [f'nvidia-cuda-runtime~={cuda}.0; extra == "cuda"', 'nvidia-cudnn-cu13~=9.0; extra == "cudnn"']
        make_wheel(folder, "onnxruntime-gpu", version, needs, extras, {module: f"VARIANT = 'gpu {version}'\n"})
        make_wheel(folder, "nvidia-cuda-runtime", f"{cuda}.5")
    make_wheel(folder, "nvidia-cuda-runtime-cu12", "12.9")
    for name, version in (("cu12", "9.10.2"), ("cu12", "9.26.0"), ("cu13", "9.28.0")):
        make_wheel(folder, f"nvidia-cudnn-{name}", version, files={"nvidia/cudnn/__init__.py": f"'{name} {version}'\n"})


def test_an_install_without_openvino_is_completed_where_the_cpu_gains_by_it(monkeypatch):
    command, version = launch.COMMANDS[""], "3.11"
    monkeypatch.setattr(launch, "driver_mark", lambda: "")
    monkeypatch.delenv("MIRROR_ONNXRUNTIME", raising=False)
    files = {file: launch.fingerprint(file) for file in (*command.requirements, *launch.RUNTIMES["cpu"])}
    stamp = launch.Stamp(version, "auto", "", "cpu", files)
    monkeypatch.setattr(launch, "has_bfloat16", lambda: False)
    assert launch.is_ready(command, stamp)
    monkeypatch.setattr(launch, "has_bfloat16", lambda: True)
    assert not launch.is_ready(command, stamp)
    complete = stamp._replace(files=files | {launch.OPENVINO: launch.fingerprint(launch.OPENVINO)})
    assert launch.is_ready(command, complete)


class Checkout:
    """launch.py and its requirement files in a folder of their own; `run` starts it as a user would."""

    def __init__(self, folder, wheels):
        self.folder, self.wheels = folder, wheels
        self.programs = folder.parent / "programs"  # the whole PATH: no nvidia-smi of this machine is found
        self.programs.mkdir(exist_ok=True)
        self.site = folder / f".venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

    def fill(self, analysis=""):
        self.folder.mkdir(parents=True)
        for name in ("launch.py", "run.sh"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "requirements", self.folder / "requirements")
        self.require("", launch.OPENVINO)  # is wanted on some CPUs; no test here is about it
        (self.folder / "mirror_metrics.py").write_text(SCRIPT)
        self.require(analysis)
        return self

    def require(self, text, file=ANALYSIS):
        (self.folder / file).write_text(text)

    def environment(self, **more):
        ours = ("PIP_", "PYTHON", "MIRROR_", "VIRTUAL_ENV", "COV_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
        return {**inherited, **pip, "PIP_FIND_LINKS": str(self.wheels), "PATH": str(self.programs), **more}

    def start(self, *arguments, cwd=None, command=None, **environment):
        command = [*(command or [sys.executable, "-I", str(self.folder / "launch.py")]), *arguments]
        return subprocess.Popen(
            command,
            cwd=cwd or self.folder.parent,
            env=self.environment(**environment),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments, **how):
        process = self.start(*arguments, **how)
        output, talk = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, talk)

    def installed(self):
        names = [re.sub(r"-[^-]+\.dist-info$", "", path.name) for path in self.site.glob("*.dist-info")]
        return sorted(name for name in names if name not in ("pip", "setuptools"))

    def stamp(self):
        return json.loads((self.folder / ".venv/installed.json").read_text())

    def nvidia_smi(self, header, capability="8.9"):
        """A driver is there from now on: its nvidia-smi prints this."""
        program = self.programs / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\ncase \"$1\" in\n--query-gpu=compute_cap) echo '{capability}';;\n*) echo '{header}';;\nesac\n"
        )
        program.chmod(0o755)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "first", "1.0")
    make_wheel(folder, "second", "1.0")
    make_runtime_wheels(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, wheels):
    """A checkout whose first start is over, in a folder that is hard to quote; kept as it is."""
    checkout = Checkout(tmp_path_factory.mktemp("prepared") / "neu & schön 📷 (1)", wheels).fill("first\n")
    checkout.first = checkout.run()
    return checkout


@pytest.fixture
def checkout(prepared, tmp_path):
    """A copy of it, so that each test need not make its own .venv: that takes seconds."""
    shutil.copytree(prepared.folder, tmp_path / "checkout", symlinks=True)
    return Checkout(tmp_path / "checkout", prepared.wheels)


# First and second start


def test_first_start_installs_and_runs(prepared):
    first = prepared.first
    assert first.returncode == 0, first.stderr
    assert prepared.installed() == ["first"]
    assert json.loads(first.stdout)["prefix"] == str(prepared.folder / ".venv")
    assert "onnxruntime: cpu (no NVIDIA driver found)" in first.stderr
    assert "Installing into" in first.stderr


def test_second_start_is_immediate_and_silent(checkout):
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        second = checkout.run()
        times.append(time.perf_counter() - begin)
        assert (second.returncode, second.stderr) == (0, "")
    assert min(times) < 0.5  # 0.06 s measured, 0.01 s of it the script's own Python


@pytest.mark.parametrize("code", [0, 1, 2, 77, 130])
def test_exit_code_passes_through(checkout, code):
    assert checkout.run("--x", SCRIPT_EXIT=str(code)).returncode == code


def test_arguments_arrive_unharmed(checkout, tmp_path):
    arguments = ["--reference", "mit Leerzeichen", "öäü 📷", '"quoted"', "it's", "", "*", "$HOME", "a\\b", "--", "test"]
    result = checkout.run(*arguments, cwd=tmp_path)
    assert json.loads(result.stdout)["argv"] == arguments
    assert json.loads(result.stdout)["cwd"] == str(tmp_path), "results go to the user's current folder"


def test_inspect_is_known_where_its_script_is_and_installs_what_scanning_needs(checkout, tmp_path):
    checkout.require("second\n", "requirements/bootstrap.txt")
    unknown = checkout.run("inspect", "x.pt")
    assert unknown.returncode == 2
    assert "'inspect' is not a known command" in unknown.stderr
    (checkout.folder / "inspect_pkl.py").write_text(SCRIPT)
    result = checkout.run("inspect", "x.pt", "--convert", cwd=tmp_path, SCRIPT_EXIT="4")
    assert result.returncode == 4, result.stderr
    assert json.loads(result.stdout)["argv"] == ["x.pt", "--convert"]
    assert checkout.installed() == ["first"], "what trains and generates is several GB"


def test_no_other_python_leaks_in(checkout, tmp_path):
    result = checkout.run(PYTHONPATH=str(tmp_path / "foreign"), PYTHONHOME=str(tmp_path / "nowhere"))
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "foreign") not in json.loads(result.stdout)["path"]


def test_moved_folder_needs_no_new_install(checkout, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = Checkout(checkout.folder.rename(tmp_path / "elsewhere" / "mm"), checkout.wheels)
    result = moved.run()
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["prefix"] == str(moved.folder / ".venv")


def test_changed_requirements_are_installed(checkout):
    checkout.require("first\nsecond\n")
    result = checkout.run()
    assert result.returncode == 0, result.stderr
    assert checkout.installed() == ["first", "second"]
    assert checkout.run().stderr == ""


def test_change_in_an_included_file_counts(checkout):
    checkout.require("-r more.txt\n")
    checkout.require("first\n", "requirements/more.txt")
    assert checkout.run().returncode == 0
    checkout.require("second\n", "requirements/more.txt")
    assert checkout.run().returncode == 0
    assert "second" in checkout.installed()


def test_stdout_is_the_scripts_alone(checkout):
    checkout.require("second\n")
    assert list(json.loads(checkout.run().stdout)) == ["argv", "cwd", "prefix", "path"]


# Commands


def test_command_test_runs_pytest_with_all_requirements(checkout, tmp_path):
    make_wheel(tmp_path, "pytest", "9.9", files={"pytest/__main__.py": SCRIPT})
    (checkout.folder / "tests").mkdir()
    checkout.require("second\n", "requirements/bootstrap.txt")
    checkout.require(f"{tmp_path}/pytest-9.9-py3-none-any.whl\n", "requirements/test.txt")
    result = checkout.run("test", "-k", "a b", SCRIPT_EXIT="5")
    assert result.returncode == 5, result.stderr
    seen = json.loads(result.stdout)
    assert (seen["argv"], seen["cwd"]) == (["-k", "a b"], str(checkout.folder))
    assert checkout.installed() == ["first", "pytest", "second"]
    assert checkout.run().stderr == "", "the analysis is part of it"
    checkout.require("first\nsecond\n")
    assert "Installing into" in checkout.run().stderr
    assert checkout.run("test").stderr == "", "what the tests need was kept in step"


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("gaps", "gap_analysis.py"),
        ("generate", "generate_synthetic.py"),
        ("validate", "validate_synthetic.py"),
        ("bootstrap", "bootstrap_loop.py"),
        ("train", "train_lora.py"),
    ],
)
def test_commands_of_the_bootstrap_steps_run_with_both_requirements(checkout, tmp_path, command, script):
    (checkout.folder / script).write_text(SCRIPT)
    checkout.require("second\n", "requirements/bootstrap.txt")
    result = checkout.run(command, "my set", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert (seen["argv"], seen["cwd"]) == (["my set", "--json"], str(tmp_path)), "results go to the current folder"
    assert checkout.installed() == ["first", "second"]


def test_unknown_command(checkout):
    result = checkout.run("analyse", "--x")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "'analyse' is not a known command" in result.stderr
    assert "known: none" in result.stderr, "there is no tests folder here"
    (checkout.folder / "tests").mkdir()
    assert "known: test." in checkout.run("analyse").stderr


def test_missing_script(checkout):
    (checkout.folder / "mirror_metrics.py").unlink()
    result = checkout.run()
    assert result.returncode == 2
    assert "mirror_metrics.py is missing" in result.stderr


# What can go wrong


def test_pip_fails_then_succeeds(checkout, tmp_path):
    checkout.require("first\nlater\n")
    before = checkout.stamp()
    result = checkout.run()
    assert (result.returncode, result.stdout) == (2, "")
    pip, sentence = result.stderr.strip().splitlines()[-2:]
    assert pip == "ERROR: No matching distribution found for later"
    assert sentence.startswith("Installing failed") and "no connection to the internet" in sentence
    assert checkout.stamp() == before, "what was there before still is"
    make_wheel(tmp_path, "later", "1.0")
    result = checkout.run(PIP_FIND_LINKS=f"{tmp_path} {checkout.wheels}")
    assert result.returncode == 0, result.stderr
    assert checkout.installed() == ["first", "later"]


def test_first_install_fails(checkout):
    shutil.rmtree(checkout.folder / ".venv")
    result = checkout.run(PIP_FIND_LINKS="")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Installing failed" in result.stderr
    assert not (checkout.folder / ".venv/installed.json").exists()


def test_pips_talk_goes_into_a_log_and_one_line_stands_for_it(checkout):
    shutil.rmtree(checkout.folder / ".venv")
    result = checkout.run()
    assert result.returncode == 0, result.stderr
    log = (checkout.folder / ".venv" / "install.log").read_text(encoding="utf-8")
    assert "Successfully installed" in log and "Looking in links" in log
    assert not re.search("Collecting|Looking in links|Processing|WARNING|Successfully", result.stderr)
    assert len(result.stderr.splitlines()) <= 4
    bad = checkout.run(PIP_FIND_LINKS="", MIRROR_ONNXRUNTIME="cuda12-system")
    assert bad.returncode == 2 and "ERROR: " in bad.stderr and "install.log" in bad.stderr
    assert "Traceback" not in bad.stderr and "Looking in links" not in bad.stderr


def wait_for_build(checkout):
    """Start an install that hangs in the middle; the process that was started."""
    slow = checkout.folder / "slow"
    slow.mkdir()
    (slow / "backend.py").write_text(SLOW_BACKEND)
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (slow / "pyproject.toml").write_text(build)
    checkout.require("first\n./slow\n")
    process = checkout.start()
    for _ in range(600):
        if (slow / "started").exists():
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("pip never came to building")


def test_killed_install_is_not_taken_for_complete(checkout):
    process = wait_for_build(checkout)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    checkout.require("first\nsecond\n")
    (checkout.folder / ".venv/left-over").touch()
    # started by the Python of that .venv, as run.sh does: it must survive that .venv is removed under it
    result = checkout.run(command=[str(checkout.folder / ".venv/bin/python"), "-I", str(checkout.folder / "launch.py")])
    assert result.returncode == 0, result.stderr
    assert "making it anew" in result.stderr
    assert checkout.installed() == ["first", "second"]
    assert not (checkout.folder / ".venv/left-over").exists()
    assert os.path.realpath(checkout.folder / ".venv/bin/python") == os.path.realpath(sys.executable)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_install(checkout, number, code):
    process = wait_for_build(checkout)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C reaches pip, too
    else:
        process.send_signal(number)  # kill and timeout reach launch.py alone
    output, talk = process.communicate(timeout=60)
    assert (process.returncode, output) == (code, "")
    assert "Traceback" not in talk
    assert not (checkout.folder / ".venv/installed.json").exists()


def test_ctrl_c_is_the_scripts_own(checkout):
    process = checkout.start("--wait")
    assert process.stdout.readline() == "waiting\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_python_of_venv_is_gone_for_two_starts_side_by_side(checkout):
    for name in (checkout.folder / ".venv/bin").glob("python*"):
        name.unlink()
        name.symlink_to("/nowhere/python3.11")
    processes = [checkout.start(), checkout.start()]
    talks = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], talks
    for text in ("making it anew", "Installing into", "waiting until it is done"):
        assert sum(text in talk for talk in talks) == 1, text
    assert checkout.installed() == ["first"]


def test_python_of_venv_became_another_version(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "STAMP", tmp_path / "installed.json")
    monkeypatch.setattr(launch, "VENV_PYTHON", Path(sys.executable))
    stamp = launch.Stamp("{}.{}".format(*sys.version_info), "auto", "", "cpu", {})
    launch.write_stamp(stamp)
    assert launch.read_stamp() == stamp
    launch.write_stamp(stamp._replace(python="3.10"))
    assert launch.read_stamp() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"python": "3.11"}'])
def test_broken_stamp_is_no_stamp(text, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "STAMP", tmp_path / "installed.json")
    launch.STAMP.write_text(text)
    assert launch.read_stamp() is None


def run_after(checkout, change):
    """launch.py in a Python where `change` was executed before."""
    start = f"import runpy; runpy.run_path({str(checkout.folder / 'launch.py')!r}, run_name='__main__')"
    return checkout.run(command=[sys.executable, "-c", f"import sys; {change}; {start}"])


def test_debian_python_without_venv(checkout):
    shutil.rmtree(checkout.folder / ".venv")
    result = run_after(checkout, "sys.modules['ensurepip'] = None")
    assert result.returncode == 2
    assert "sudo apt install python3-venv" in result.stderr and "Traceback" not in result.stderr


def test_python_too_old(checkout):
    ast.parse((ROOT / "launch.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    result = run_after(checkout, "sys.version_info = (3, 10, 14)")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "needs Python 3.11 or newer, and this is Python 3.10.14" in result.stderr


def test_unreadable_requirements_are_one_sentence(checkout):
    (checkout.folder / ANALYSIS).unlink()
    (checkout.folder / ANALYSIS).mkdir()
    result = checkout.run()
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "analysis.txt" in result.stderr


# run.sh and run.bat


@pytest.fixture
def shell(checkout):
    """run.sh with the few programs that it needs, and Pythons that do not fit in front of one that does."""
    for name in ("dirname", "readlink", "sh"):
        (checkout.programs / name).symlink_to(shutil.which(name))
    for name, text in (("python3.14", "echo 'pyenv: not found' >&2; exit 127"), ("python3.12", "exit 1")):
        (checkout.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (checkout.programs / name).chmod(0o755)
    (checkout.programs / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
    return checkout


def test_run_sh(shell, tmp_path):
    result = shell.run("--a b", "ü", command=[str(shell.folder / "run.sh")], cwd=tmp_path, SCRIPT_EXIT="7")
    assert (result.returncode, result.stderr) == (7, "")
    assert json.loads(result.stdout)["argv"] == ["--a b", "ü"]
    assert json.loads(result.stdout)["cwd"] == str(tmp_path)


def test_run_sh_without_venv_through_a_link(shell, tmp_path):
    shutil.rmtree(shell.folder / ".venv")
    (shell.folder / "mirror_metrics.py").unlink()
    folder = tmp_path / "mit Leer & Ümlaut"
    shell.folder.rename(folder)
    (tmp_path / "link").symlink_to(folder / "run.sh")
    result = shell.run(command=[str(tmp_path / "link")])
    assert result.returncode == 2
    assert result.stderr.startswith("mirror_metrics.py is missing"), "launch.py was found and started"


def test_run_sh_without_python(shell):
    shutil.rmtree(shell.folder / ".venv")
    (shell.programs / "python3").unlink()
    result = shell.run(command=[str(shell.folder / "run.sh")])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("MirrorMetrics needs Python 3.11 or newer, and none was found.")


def test_run_bat_reads_as_cmd_wants_it():
    data = (ROOT / "run.bat").read_bytes()
    assert data.isascii() and data.count(b"\n") == data.count(b"\r\n") > 10
    text = data.decode()
    assert '"%~dp0launch.py" %*' in text and "exit /b %CODE%" in text and "pause" in text
    labels = set(re.findall(r"^:(\w+)", text, re.MULTILINE))
    assert set(re.findall(r"goto (\w+)", text)) <= labels


def test_windows_way_of_running_passes_the_exit_code():
    assert launch.run_and_wait([sys.executable, "-c", "raise SystemExit(42)"]) == 42


# onnxruntime


@pytest.fixture
def intel_linux(monkeypatch, tmp_path):
    """choose_runtime as on the machines that have wheels for the GPU, with nothing on PATH yet."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    return Checkout(tmp_path / "checkout", None)


@pytest.mark.parametrize(("header", "capability", "runtime", "reason"), [
    (SMI_HEADER.format("11.8"), "8.6", "cpu", "update the driver to 525"),
    (SMI_HEADER.format("12.0"), "8.6", "cuda12", "CUDA 12.0"),
    (SMI_HEADER.format("12.4"), "8.9", "cuda12", "CUDA 12.4"),
    (SMI_HEADER.format("12.9"), "12.0", "cuda12", "capability 12.0"),
    (SMI_HEADER.format("13.0"), "7.5", "cuda13", "CUDA 13.0"),
    (SMI_HEADER_610.format("13.3"), "10.0", "cuda13", "CUDA 13.3"),
    (SMI_HEADER.format("13.0"), "6.1", "cuda12", "capability 6.1"),  # GTX 1080 with the last driver that knows it
    (SMI_HEADER.format("13.0"), "9.0\n6.1", "cuda12", "capability 6.1"),
    (SMI_HEADER.format("12.2"), "5.2", "cpu", "needs 6.0"),
    ("No devices were found", "", "cpu", "no answer"),
])  # fmt: skip
def test_runtime_fits_the_driver(intel_linux, header, capability, runtime, reason):
    intel_linux.nvidia_smi(header, capability)
    chosen, why, _ = launch.choose_runtime("auto", None)
    assert chosen == runtime
    assert reason in why


def test_driver_that_fails_or_hangs(intel_linux, monkeypatch):
    program = intel_linux.programs / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    program.chmod(0o755)
    runtime, why, mark = launch.choose_runtime("auto", None)
    assert (runtime, mark) == ("cpu", "?")
    assert "Driver/library version mismatch" in why
    before = launch.Stamp("3.11", "auto", "x", "cuda12", {})
    assert launch.choose_runtime("auto", before)[0] == "cuda12", "an update that waits for a reboot takes nothing away"
    monkeypatch.setattr(launch, "SMI_SECONDS", 0.5)
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    begin = time.monotonic()
    assert launch.choose_runtime("auto", None)[0] == "cpu"
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "ARM64")])
def test_no_gpu_wheels_for_this_machine(intel_linux, monkeypatch, system, machine):
    intel_linux.nvidia_smi(SMI_HEADER.format("13.0"))
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert launch.choose_runtime("auto", None)[0] == "cpu"


def test_unknown_choice_of_runtime(checkout):
    result = checkout.run(MIRROR_ONNXRUNTIME="cuda11")
    assert result.returncode == 2
    assert result.stderr == (
        "MIRROR_ONNXRUNTIME=cuda11 is not known; "
        "known: auto, cpu, cuda12, cuda13, cuda12-system, cuda13-system, directml.\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has DirectML")
def test_directml_is_for_windows_alone(checkout):
    result = checkout.run(MIRROR_ONNXRUNTIME="directml")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "onnxruntime-directml exists for Windows on x86-64 alone" in result.stderr


def test_directml_is_taken_where_it_can_be(monkeypatch):
    monkeypatch.setattr(launch, "driver_mark", lambda: "")
    monkeypatch.setattr(launch, "WINDOWS", True)
    monkeypatch.setattr(launch, "has_gpu_wheels", lambda: True)
    runtime, _, _ = launch.choose_runtime("directml", None)
    assert runtime == "directml" and launch.DISTRIBUTIONS[runtime] == "onnxruntime-directml"
    named = [line for file in launch.RUNTIMES[runtime] for line in (ROOT / file).read_text().splitlines()]
    assert any(line.startswith("onnxruntime-directml") for line in named)
    assert "./requirements/onnxruntime-gpu-marker" in named, "insightface asks for onnxruntime by name"
    monkeypatch.setattr(launch, "has_gpu_wheels", lambda: False)
    with pytest.raises(SystemExit):
        launch.choose_runtime("directml", None)


def variant(checkout):
    """What `import onnxruntime` gives, after a check that exactly one distribution holds it and all needs are met."""
    python = checkout.folder / ".venv/bin/python"
    check = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, env=checkout.environment())
    assert check.returncode == 0, check.stdout
    holders = [
        path.parent.name
        for path in checkout.site.glob("onnxruntime*.dist-info/RECORD")
        if "onnxruntime/__init__.py" in path.read_text()
    ]
    assert len(holders) == 1, holders
    ask = "import onnxruntime; print(onnxruntime.VARIANT)"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()


def cudnn(checkout):
    path = checkout.site / "nvidia/cudnn/__init__.py"
    return path.read_text().strip() if path.exists() else None


@pytest.mark.skipif(not launch.has_gpu_wheels(), reason="onnxruntime-gpu has no wheels for this machine")
def test_runtime_follows_the_driver(checkout):
    checkout.require("insightface\nonnxruntime>=1.31.1\n")
    assert checkout.run().returncode == 0
    assert (variant(checkout), cudnn(checkout)) == ("cpu 1.31.1", None)

    checkout.nvidia_smi(SMI_HEADER.format("12.4"))
    result = checkout.run()
    assert "onnxruntime: cuda12 (" in result.stderr, result.stderr
    assert (variant(checkout), cudnn(checkout)) == ("gpu 1.26.0", "'cu12 9.10.2'")
    assert checkout.run().stderr == ""
    checkout.nvidia_smi(SMI_HEADER.format("12.8") + " updated")
    assert "Installing into" not in checkout.run().stderr, "the same onnxruntime fits the updated driver"

    checkout.nvidia_smi(SMI_HEADER_610.format("13.3"))
    assert "onnxruntime: cuda13 (" in checkout.run().stderr
    assert (variant(checkout), cudnn(checkout)) == ("gpu 1.31.1", "'cu13 9.28.0'")
    assert not [name for name in checkout.installed() if name.endswith("cu12")]
    for options in ([], ["--upgrade"]):
        command = [checkout.folder / ".venv/bin/python", "-m", "pip", "install", *options, "-r", ANALYSIS]
        subprocess.run(command, cwd=checkout.folder, env=checkout.environment(), check=True, capture_output=True)
        assert variant(checkout) == "gpu 1.31.1", "installing by hand takes nothing away"

    (checkout.programs / "nvidia-smi").unlink()
    assert checkout.run().returncode == 0
    assert (variant(checkout), cudnn(checkout)) == ("cpu 1.31.1", None)


def test_choice_by_hand_is_remembered(checkout):
    checkout.require("insightface\nonnxruntime>=1.31.1\n")
    assert "onnxruntime: cuda12-system (MIRROR" in checkout.run(MIRROR_ONNXRUNTIME="cuda12-system").stderr
    assert (variant(checkout), cudnn(checkout)) == ("gpu 1.26.0", None), "CUDA and cuDNN are the system's"
    assert checkout.run().stderr == "", "without the variable, too"
    assert checkout.run(MIRROR_ONNXRUNTIME="auto").returncode == 0
    assert variant(checkout) == "cpu 1.31.1"


def test_changed_marker_counts_as_changed_requirement(checkout):
    checkout.require("insightface\n")
    assert checkout.run(MIRROR_ONNXRUNTIME="cuda13-system").returncode == 0
    backend = checkout.folder / "requirements/onnxruntime-gpu-marker/marker_backend.py"
    backend.write_text(backend.read_text().replace("1.9999+", "1.99999+"))
    assert "Installing into" in checkout.run().stderr
    assert variant(checkout) == "gpu 1.50.0"


# What the repository promises


def test_requirements_are_composed_of_the_parts():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-r " + launch.ANALYSIS, "-r " + launch.BOOTSTRAP]
    for command in launch.COMMANDS.values():
        assert all((ROOT / file).is_file() for file in command.requirements)
    for file in (launch.ANALYSIS, launch.BOOTSTRAP, launch.TEST):
        wanted = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
        assert wanted and all(re.fullmatch(r"[a-z0-9-]+>=[\d.]+", line) for line in wanted), file


def test_ruff_finds_nothing():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
