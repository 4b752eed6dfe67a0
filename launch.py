"""Make .venv beside this file, install what is needed into it, then run the script. run.sh and run.bat end up here.

    ./run.sh [options]             mirror_metrics.py with these options; results go to the current folder
    ./run.sh gaps DATASET          gap_analysis.py: what does a dataset lack?
    ./run.sh generate GAPS         generate_synthetic.py: make the images that it lacks
    ./run.sh validate FOLDER       validate_synthetic.py: which generated images may enter the dataset?
    ./run.sh train DATASET         train_lora.py: a LoRA of the person, for the next iteration of images
    ./run.sh bootstrap [options]   bootstrap_loop.py: all of these, until it no longer helps; --demo shows it
    ./run.sh vault COMMAND         facevault.py: from a photo library to the pictures of one person
    ./run.sh did [options]         export_for_did.py: the best pictures for a talking head at D-ID
    ./run.sh beaver [options]      beaver.py: a menu that leads from a photo library to a LoRA
    ./run.sh expressions [options] export_expressions.py: aligned pictures by expression, for VTuber models
    ./run.sh inspect [FILE ...]    inspect_pkl.py: what would these model files do when they are loaded?
    ./run.sh facesheet [options]   export_facesheet.py: one sheet of a head from all sides
    ./run.sh test [options]        everything is installed, then pytest runs with these options

The first start installs, later ones start at once: a stamp in .venv remembers the requirement files of the last
complete install, and only a change in them installs again. A .venv without a stamp, or whose Python does not run any
more, is made anew.

onnxruntime comes in distributions that overwrite each other, so exactly one is installed: the one for the GPU where
nvidia-smi reports a driver that it can use, else the one for the CPU. MIRROR_ONNXRUNTIME chooses by hand, and .venv
remembers the choice until another one is given:

    auto                              ask nvidia-smi (the default)
    cpu                               never the GPU
    cuda12, cuda13                    onnxruntime-gpu with its own CUDA and cuDNN in .venv
    cuda12-system, cuda13-system      onnxruntime-gpu alone: CUDA and cuDNN 9 are on this machine already
    directml                          onnxruntime-directml, for GPUs on Windows; untried

Reads requirements/*.txt; writes .venv/ only. Exit codes: those of the script; 2 where the user must change something
before it can start; 130 after Ctrl-C. Standard library only, and readable for Python 3.8, so that an old Python can say
that it is too old.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

OLDEST_PYTHON = (3, 11)  # onnxruntime 1.31 has no wheels for older ones
NEWEST_PYTHON = (3, 14)  # nor for newer ones (November 2026); tried all the same, named when it fails
WINDOWS = os.name == "nt"
ROOT = Path(__file__).absolute().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
STAMP = VENV / "installed.json"
LOG = VENV / "install.log"  # all that pip said

ANALYSIS = "requirements/analysis.txt"
BOOTSTRAP = "requirements/bootstrap.txt"
TEST = "requirements/test.txt"
OPENVINO = "requirements/openvino.txt"


class Command(NamedTuple):
    """What the first argument stands for. A command is known where its target exists."""

    target: str  # script, or the folder of the tests
    requirements: tuple
    size: str  # installed, measured on Linux without GPU


COMMANDS = {
    "": Command("mirror_metrics.py", (ANALYSIS,), "about 1 GB"),
    "gaps": Command("gap_analysis.py", (ANALYSIS, BOOTSTRAP), "about 7 GB"),
    "generate": Command("generate_synthetic.py", (ANALYSIS, BOOTSTRAP), "about 7 GB"),
    "validate": Command("validate_synthetic.py", (ANALYSIS, BOOTSTRAP), "about 7 GB"),
    "train": Command("train_lora.py", (ANALYSIS, BOOTSTRAP), "about 7 GB"),
    "bootstrap": Command("bootstrap_loop.py", (ANALYSIS, BOOTSTRAP), "about 7 GB"),
    "vault": Command("facevault.py", (ANALYSIS,), "about 1 GB"),
    "did": Command("export_for_did.py", (ANALYSIS,), "about 1 GB"),
    "beaver": Command("beaver.py", (ANALYSIS, BOOTSTRAP), "about 7 GB"),
    "expressions": Command("export_expressions.py", (ANALYSIS,), "about 1 GB"),
    "inspect": Command("inspect_pkl.py", (ANALYSIS,), "about 1 GB"),  # --convert alone needs more, and says what
    "facesheet": Command("export_facesheet.py", (ANALYSIS,), "about 1 GB"),
    "test": Command("tests", (ANALYSIS, BOOTSTRAP, TEST), "about 7 GB"),
}

RUNTIMES = {
    "cpu": (),
    "cuda12": ("requirements/gpu-cuda12.txt",),
    "cuda13": ("requirements/gpu-cuda13.txt",),
    "cuda12-system": ("requirements/gpu-cuda12-system.txt",),
    "cuda13-system": ("requirements/gpu-cuda13-system.txt",),
    "directml": ("requirements/gpu-directml.txt",),
}
DISTRIBUTIONS = {"cpu": "onnxruntime", "directml": "onnxruntime-directml"}  # else onnxruntime-gpu

GPU_SIZE = "3 GB"
LAST_LINES = 30  # of pip's output, shown where it fails
LINE_EVERY_SECONDS = 30  # how often an install tells where it is, without a terminal
PIP_TIDIES_SECONDS = 5  # after Ctrl-C
SMI_SECONDS = 30  # a server with eight sleeping GPUs takes about 10
SMI_FOLDERS_WINDOWS = (r"C:\Windows\System32", r"C:\Program Files\NVIDIA Corporation\NVSMI")


class Stamp(NamedTuple):
    """What a complete install left in .venv, kept as JSON."""

    python: str  # "3.11"
    asked: str  # the last MIRROR_ONNXRUNTIME, "auto" without one
    driver: str  # mark of the nvidia-smi that was asked; "?" when it gave no answer and is to be asked again
    runtime: str  # a key of RUNTIMES
    files: dict  # requirement file -> fingerprint


def main(arguments):
    if sys.version_info < OLDEST_PYTHON:
        found = "{}.{}.{} ({})".format(*sys.version_info[:3], sys.executable)
        stop(
            f"MirrorMetrics needs Python 3.11 or newer, and this is Python {found}. "
            "Install one from https://www.python.org/downloads/ and start again."
        )
    command, rest = read_command(arguments)
    if not is_ready(command, read_stamp()):
        with only_one_installs():
            stamp = read_stamp()  # again: another start may have installed in the meantime
            if not is_ready(command, stamp):
                install(command, stamp)
    start(command, rest)


def read_command(arguments):
    """(command, its arguments): options alone belong to mirror_metrics.py."""
    asked = "" if not arguments or arguments[0].startswith("-") else arguments[0]
    known = [name for name, command in COMMANDS.items() if (ROOT / command.target).exists()]
    if asked in known:
        return COMMANDS[asked], arguments[1:] if asked else arguments
    if not asked:
        stop(f"{COMMANDS[''].target} is missing beside launch.py: the download of MirrorMetrics is incomplete.")
    stop(
        f"'{asked}' is not a known command; known: {', '.join(filter(None, known)) or 'none'}. "
        "Without a command, the options of mirror_metrics.py follow; --help lists them."
    )


# Is everything there?


def read_stamp():
    """The stamp of a complete install whose Python still runs, else None."""
    try:
        stamp = Stamp(**json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return stamp if stamp.runtime in RUNTIMES and stamp.python == venv_python_version() else None


def venv_python_version():
    """'3.11' as the Python of .venv says it: its base may be gone, or be another version by now. '' if it cannot."""
    command = [str(VENV_PYTHON), "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def is_ready(command, stamp):
    """Whether the command can start as things are. Fast: nvidia-smi is only looked at, not run."""
    asked = asked_runtime(stamp)
    if stamp is None or stamp.asked != asked or (asked == "auto" and stamp.driver != driver_mark()):
        return False
    needed = [*command.requirements, *RUNTIMES[stamp.runtime], *faster_files(stamp.runtime)]
    return all(stamp.files.get(file) == fingerprint(file) for file in needed)


def asked_runtime(stamp):
    asked = os.environ.get("MIRROR_ONNXRUNTIME") or (stamp.asked if stamp else "auto")
    if asked != "auto" and asked not in RUNTIMES:
        stop(f"MIRROR_ONNXRUNTIME={asked} is not known; known: auto, {', '.join(RUNTIMES)}.")
    return asked


def fingerprint(file):
    """Hash of a requirement file and of all that it includes: other requirement files and the folder of the marker.

    The marker, requirements/onnxruntime-gpu-marker, is an empty package that stands for onnxruntime where
    onnxruntime-gpu is installed.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("-r "):
            text += fingerprint((Path(file).parent / line[3:].strip()).as_posix())
        elif line.startswith("./"):
            text += "".join(part.read_text(encoding="utf-8") for part in sorted((ROOT / line.strip()).glob("*.*")))
    return hashlib.sha256(text.encode()).hexdigest()


# Which onnxruntime?


def choose_runtime(asked, stamp):
    """(key of RUNTIMES, reason to print, mark of the driver for the stamp)"""
    if asked == "directml" and not (WINDOWS and has_gpu_wheels()):
        stop("onnxruntime-directml exists for Windows on x86-64 alone; MIRROR_ONNXRUNTIME=auto takes what fits here.")
    if asked != "auto":
        return asked, "MIRROR_ONNXRUNTIME says so", driver_mark()
    if not driver_mark():
        return "cpu", "no NVIDIA driver found", ""
    if not has_gpu_wheels():
        return "cpu", "onnxruntime-gpu exists for x86-64 Linux and Windows alone", driver_mark()
    try:
        cuda, capability = ask_driver(find_smi())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # often just an updated driver that waits for a reboot: keep what is there, ask again at the next start
        return stamp.runtime if stamp else "cpu", f"nvidia-smi gives no answer: {error}", "?"
    runtime, reason = runtime_for(cuda, capability)
    return runtime, reason, driver_mark()


def runtime_for(cuda, capability):
    """The newest onnxruntime-gpu that a driver (cuda: (12, 4)) and a graphics card (capability: 8.6) can run.

    Read off the kernels in the wheels: 1.26, the last for CUDA 12, has them from capability 6.0 on, 1.31 from 7.5 on.
    Within a major version of CUDA an older driver runs newer libraries.
    """
    seen = f"the NVIDIA driver knows CUDA {cuda[0]}.{cuda[1]}, the graphics card has compute capability {capability}"
    if cuda < (12, 0):
        return "cpu", f"{seen}: too old; update the driver to 525 (CUDA 12.0) or newer and start again"
    if capability < 6.0:
        return "cpu", f"{seen}; onnxruntime-gpu needs 6.0"
    return "cuda13" if cuda >= (13, 0) and capability >= 7.5 else "cuda12", seen


def ask_driver(smi):
    """((13, 0), 9.0): CUDA version and compute capability of the weakest graphics card, as nvidia-smi prints them."""
    import re

    # drivers from 610 on write "CUDA UMD Version: 13.3"
    header = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)", run_smi(smi))
    cards = re.findall(r"\d+\.\d+", run_smi(smi, "--query-gpu=compute_cap", "--format=csv,noheader"))
    if not header or not cards:
        raise ValueError("no CUDA version or no graphics card in its output")
    return (int(header[1]), int(header[2])), min(map(float, cards))


def run_smi(smi, *options):
    result = subprocess.run(
        [smi, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=SMI_SECONDS,
    )
    if result.returncode:
        raise ValueError((result.stdout.strip().splitlines() or [f"exit code {result.returncode}"])[0])
    return result.stdout


def find_smi():
    folders = os.pathsep.join(SMI_FOLDERS_WINDOWS) if WINDOWS else ""
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=folders)


def driver_mark():
    """Changes with every driver update, '' without a driver. At once, where nvidia-smi can take seconds to answer."""
    smi = find_smi()
    if not smi:
        return ""
    found = os.stat(smi)
    return f"{smi} {found.st_size} {int(found.st_mtime)}"


def has_gpu_wheels():
    import platform

    return sys.platform in ("linux", "win32") and platform.machine().lower() in ("x86_64", "amd64")


# Installing


def install(command, stamp):
    asked = asked_runtime(stamp)
    runtime, reason, driver = choose_runtime(asked, stamp)
    say(f"onnxruntime: {runtime} ({reason})")
    files = {file: fingerprint(file) for file in files_to_install(command, runtime, stamp)}
    if stamp is None or stamp.runtime != runtime or any(stamp.files.get(file) != files[file] for file in files):
        change_venv(command, files, runtime, stamp)
    write_stamp(Stamp(venv_python_version(), asked, driver, runtime, files))


def files_to_install(command, runtime, stamp):
    """What the command needs, and again what earlier ones needed: pip finds versions that suit all if it sees all."""
    of_runtimes = {file for files in RUNTIMES.values() for file in files}
    earlier = [file for file in (stamp.files if stamp else ()) if file not in of_runtimes and (ROOT / file).exists()]
    return list(dict.fromkeys([*earlier, *command.requirements, *RUNTIMES[runtime], *faster_files(runtime)]))


def faster_files(runtime):
    """Requirements that this machine runs faster with, beside those of a runtime."""
    return [OPENVINO] if runtime == "cpu" and has_bfloat16() else []


def has_bfloat16():
    """Whether the CPU is one of those for which OpenVINO is worth its 180 MB. Only Linux tells without a program."""
    import platform

    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return platform.machine() == "x86_64" and any(f"{word}_bf16" in told for word in ("avx512", "amx"))


def change_venv(command, files, runtime, stamp):
    if stamp is None:
        make_venv()
    STAMP.unlink(missing_ok=True)  # from here on .venv is unfinished: whoever finds it so makes it anew
    if stamp and stamp.runtime != runtime:
        remove_onnxruntime()
    more = f" and {GPU_SIZE} for the GPU" if runtime.startswith("cuda") else ""
    say(f"Installing into {VENV}, {command.size}{more}; later starts skip this ...")
    if pip("install", "--prefer-binary", *(part for file in files for part in ("-r", file))):
        if stamp and stamp.runtime == runtime:
            write_stamp(stamp)  # pip gave up by itself: what was there before still is
        stop(why_pip_failed())
    owners = owners_of_onnxruntime()
    if owners not in ([], [DISTRIBUTIONS.get(runtime, "onnxruntime-gpu")]):
        stop(f"{' and '.join(owners)} is installed where {runtime} was to be: start again, .venv will be made anew.")


def make_venv():
    import importlib.util

    if VENV.exists() or VENV.is_symlink():
        say("The .venv here is unfinished or its Python does not run any more: making it anew.")
        remove_venv()
    # where this runs in a virtual environment itself (run.sh takes that of an earlier start): the Python behind it
    python = getattr(sys, "_base_executable", None) or sys.executable
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        stop(
            f"{python} cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv "
            f"(or python{sys.version_info[0]}.{sys.version_info[1]}-venv), then start again."
        )
    if subprocess.run([python, "-m", "venv", str(VENV)], stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
        stop(f"{python} -m venv failed, see above. Fix that and start again.")


def remove_venv():
    try:
        if VENV.is_symlink() or VENV.is_file():
            VENV.unlink()
        else:
            shutil.rmtree(VENV)
    except OSError as error:
        stop(f"{VENV} cannot be removed ({error}). Close what uses it, delete the folder and start again.")


def remove_onnxruntime():
    """Remove all variants and NVIDIA's libraries.

    One over the other leaves a mix: the variants share a folder, and so do the cuDNN of CUDA 12 and of CUDA 13. What
    torch needs of these comes back with the install that follows.
    """
    variants = {*DISTRIBUTIONS.values(), "onnxruntime-gpu"}
    names = [name for name in installed() if name in variants or name.startswith("nvidia-")]
    if names and pip("uninstall", "--yes", *names):
        stop("The other onnxruntime could not be removed, see above: start again, .venv will be made anew.")


def owners_of_onnxruntime():
    """Distributions that hold the module itself: the marker, though it is named onnxruntime, does not."""
    return sorted(
        name
        for name, found in installed().items()
        if name.startswith("onnxruntime")
        and any(file.as_posix() == "onnxruntime/__init__.py" for file in found.files or ())
    )


def installed():
    """Name -> distribution, for what is installed in .venv."""
    from importlib.metadata import distributions

    folders = [VENV / "Lib" / "site-packages"] if WINDOWS else VENV.glob("lib/python*/site-packages")
    return {found.metadata["Name"].lower().replace("_", "-"): found for found in distributions(path=map(str, folders))}


def pip(*arguments):
    """Run pip in ROOT, where the path of the marker starts. Its output goes into LOG; a line of progress stands for it.

    Where it fails, its last words are shown. Exit code of pip.
    """
    environment = {**sealed_environment(), "PIP_NO_INPUT": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(VENV_PYTHON), "-m", "pip", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, encoding="utf-8", errors="replace", **pipes)
    output = PipOutput()
    with open(LOG, "a", encoding="utf-8") as log:
        log.write("\n{} pip {}\n".format(time.strftime("%Y-%m-%d %H:%M:%S"), " ".join(arguments)))
        reader = threading.Thread(target=output.listen, args=(process.stdout, log))
        reader.start()
        try:
            while reader.is_alive():
                reader.join(0.5)
                output.show()
            code = process.wait()
        except BaseException:  # Ctrl-C reached pip as well: it may tidy up
            end(process)
            raise
        finally:
            reader.join()
            output.clear()
    if code:
        say(*output.last_words())
    return code


def end(process):
    try:
        process.wait(PIP_TIDIES_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class PipOutput:
    """What pip says: kept in the log, and told as one line that changes on a terminal, or now and then elsewhere."""

    def __init__(self):
        self.lines = []
        self.step = "starting"
        self.started = time.monotonic()
        self.is_terminal = sys.stderr.isatty()
        self.next_line = self.started + LINE_EVERY_SECONDS

    def listen(self, pipe, log):
        """In a thread of its own."""
        for line in pipe:
            log.write(line)
            log.flush()
            self.lines = [*self.lines[-LAST_LINES:], line.rstrip()]
            words = line.split()
            if words[:1] == ["Installing"]:
                self.step = "unpacking everything that was downloaded"
            elif words[:1] in (["Collecting"], ["Downloading"]):
                self.step = "{} {}".format(words[0].lower(), " ".join(words[1:4] if "(" in line else words[1:2]))

    def show(self):
        seconds = int(time.monotonic() - self.started)
        line = printable(f"  {seconds // 60}:{seconds % 60:02d}  {self.step}")
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="", file=sys.stderr, flush=True)
        elif time.monotonic() > self.next_line:
            self.next_line += LINE_EVERY_SECONDS
            say(line)

    def clear(self):
        if self.is_terminal:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", file=sys.stderr, flush=True)

    def last_words(self):
        """From its first error on, or its last lines."""
        errors = [i for i, line in enumerate(self.lines) if line.startswith("ERROR")]
        return self.lines[errors[0] :] if errors else self.lines


def why_pip_failed():
    gigabytes = shutil.disk_usage(ROOT).free / 1e9
    causes = f"no connection to the internet, or too little space on the disk ({gigabytes:.1f} GB are free)"
    if sys.version_info[:2] > NEWEST_PYTHON:
        causes += ", or a Python that is too new: this is {}.{}, 3.11 to 3.14 work".format(*sys.version_info)
    return (
        f"Installing failed; the lines above are pip's own, and all of them are in {LOG}. Usual causes: {causes}. "
        "Fix that and start again: what is downloaded already is not downloaded again."
    )


def write_stamp(stamp):
    draft = STAMP.with_suffix(".tmp")
    draft.write_text(json.dumps(stamp._asdict(), indent=2), encoding="utf-8")
    os.replace(draft, STAMP)


@contextlib.contextmanager
def only_one_installs():
    """Wait until no other start installs into .venv. SIGTERM then ends this like Ctrl-C, and pip with it.

    launch.py itself is what gets locked: no file is left behind, and the system frees the lock however this ends.
    """
    handle = os.open(__file__, os.O_RDONLY)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        told = False
        while not try_lock(handle):
            if not told:
                say("Another start is installing into .venv: waiting until it is done ...")
            told = True
            time.sleep(0.3)
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(handle)


def try_lock(handle):
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # far behind the end: Windows keeps others from reading locked bytes
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass  # a file system without locks: better to go on than never to start
    return True


# Starting


def start(command, arguments):
    """Become the script. pytest runs in ROOT, where its settings are; a script stays in the user's current folder."""
    if command.target.endswith(".py"):
        python_arguments = [str(ROOT / command.target), *arguments]
    else:
        python_arguments = ["-m", "pytest", *arguments]
        os.chdir(ROOT)
    if WINDOWS:
        sys.exit(run_and_wait([str(VENV_PYTHON), *python_arguments]))
    sys.stderr.flush()
    os.execve(str(VENV_PYTHON), [str(VENV_PYTHON), *python_arguments], sealed_environment())


def run_and_wait(line):
    """Exit code of a command line. Ctrl-C reaches it by itself; it decides how to end, and this waits for it."""
    process = subprocess.Popen(line, env=sealed_environment())
    while True:
        try:
            code = process.wait()
            return 130 if code == 0xC000013A else code  # what Windows reports for a process that Ctrl-C ended
        except KeyboardInterrupt:
            continue


def sealed_environment():
    """For everything that runs in .venv: nothing of another Python leaks in, and any file name can be printed."""
    foreign = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__")
    return {"PYTHONUTF8": "1", **{name: value for name, value in os.environ.items() if name not in foreign}}


def say(*lines):
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)


def printable(text):
    """One line without what a terminal would obey; as utils/console.py, which an old Python could not read."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def stop(sentence):
    say(sentence)
    sys.exit(2)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)
    except OSError as error:
        stop(f"That did not work: {error}.")
