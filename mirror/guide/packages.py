"""The exports for avatar services that beaver.py offers, with the names that the guide gives to what they leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.console import UserError
from utils.defaults import EXPRESSION_FILES, MODELS_FOLDER


@dataclass(frozen=True)
class Package:
    """One export, as the guide has it."""

    script: str
    title: str
    name: str  # what follows the person's name
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # patterns of files, one of which must be in the models folder

    def leaves(self, person: str) -> Path:
        """The folder or file, in the current folder."""
        return Path(f"{person}_{self.name}")


PACKAGES = {
    "did": Package("export_for_did.py", "D-ID: pictures for a talking head", "did_package"),
    "metahuman": Package(
        "export_facesheet.py",
        "MetaHuman: a face sheet",
        "metahuman.jpg",
        ("--angles", "front,profile_left,profile_right,three_quarter"),
    ),
    "vtuber": Package(
        "export_expressions.py",
        "VTuber: expressions",
        "live2d",
        ("--expressions", "neutral,smile,surprised,angry"),
        EXPRESSION_FILES,
    ),
}


def usual_packages() -> str:
    """Those that can be made with the models at hand, with commas between."""
    return ",".join(
        name
        for name, one in PACKAGES.items()
        if not one.needs or any(path for pattern in one.needs for path in MODELS_FOLDER.glob(pattern))
    )


def wanted_packages(text: str) -> list[str]:
    """Names of PACKAGES as they are typed, with commas or spaces between. Raises UserError for another one."""
    wanted = text.replace(",", " ").split()
    unknown = [name for name in wanted if name not in PACKAGES]
    if unknown:
        raise UserError(f"--packages {unknown[0]} is none of {', '.join(PACKAGES)}.")
    return wanted
