"""The rooms import downwards only, and nothing imports in a circle. CONTRIBUTING.md says what each room is for."""

import ast
from pathlib import Path

from conftest import ROOT

# From the bottom up: a room may import the rooms below it, but for those that it is kept away from.
ROOMS = (
    "utils",
    "contracts",
    "detectors",
    "faces",
    "dataset",
    "vault",
    "generation",
    "training",
    "loop",
    "report",
    "guide",
)
KEPT_AWAY = {
    "generation": {"detectors", "faces"},  # makes images, and measures none
    "loop": {"generation", "training"},  # its steps are subprocesses
    "report": {"detectors", "generation", "training", "loop", "vault"},  # shows, and finds nothing out
}
LEAST = {
    "guide": {"utils", "contracts"},  # leads through scripts, which are subprocesses
}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return "utils" if parts[0] == "utils" else parts[1] if parts[0] == "mirror" and len(parts) > 1 else None


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file names, wherever in it they stand; `from package import module` names the module."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{one.name}" for one in node.names}
            named |= {one for one in inside if (ROOT / (one.replace(".", "/") + ".py")).exists()} or {node.module}
        elif isinstance(node, ast.Import):
            named |= {one.name for one in node.names}
    return named


LIBRARY = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): imports_of(path)
    for folder in ("utils", "mirror")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def test_rooms_import_downwards_only():
    upwards = [
        f"{module} imports {named}"
        for module, names in LIBRARY.items()
        for named in names
        if (here := room_of(module)) in ROOMS and (there := room_of(named)) in ROOMS and there != here
        if ROOMS.index(there) > ROOMS.index(here)
        or there in KEPT_AWAY.get(here, ())
        or (here in LEAST and there not in LEAST[here])
    ]
    assert upwards == []


def test_every_file_stands_in_a_room():
    assert {room_of(module) for module in LIBRARY if module.count(".") > 1 or module.startswith("utils.")} == {*ROOMS}


def test_no_module_imports_itself_through_others():
    circles = []
    for start in LIBRARY:
        reached, waiting = set(), [start]
        while waiting:
            for named in LIBRARY.get(waiting.pop(), ()):
                if named not in reached and named in LIBRARY:
                    reached.add(named)
                    waiting.append(named)
        circles += [start] if start in reached else []
    assert circles == []


def test_the_library_imports_no_script():
    scripts = {path.stem for path in ROOT.glob("*.py")} | {"demo", "benchmarks", "tests"}
    assert [module for module, names in LIBRARY.items() if {one.split(".")[0] for one in names} & scripts] == []


def test_a_script_imports_no_other_script():
    scripts = {path.stem: imports_of(path) for path in ROOT.glob("*.py")}
    assert [name for name, names in scripts.items() if names & (scripts.keys() - {name})] == []
