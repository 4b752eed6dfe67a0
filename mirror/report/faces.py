"""`faces.html`: persons as cards with their faces under them, faces in no cluster, duplicates side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mirror.contracts.vault import Duplicates, LabelledFace, Labels
from mirror.report.files import MOST_PICTURE_BYTES, address, picture_blocks
from mirror.report.render import encoded, json_for_script, moment, render, shown
from utils.images import shrunk

LOW_SCORE = 0.70  # of the detector, below which faces stand apart: our choice, half-hidden and blurred ones as a rule
SHOWN_SETS = 300  # of duplicates; the rest stands in duplicates.json
_MOST_DUPLICATE_BYTES = 8e6  # of JPEGs


def build_faces(
    labels: Labels,
    duplicates: Duplicates | None,
    faces: Mapping[int, bytes],
    pictures: Mapping[str, bytes],
    folder: Path,
) -> str:
    """The whole page, which will lie in `folder`.

    `faces` are small JPEGs by the faces' numbers, `pictures` those of files that duplicates.json names.
    """
    groups = [(one.name, one.cluster, one.kept, _sorted(one.faces)) for one in labels.persons if one.faces]
    groups.append((None, None, True, _sorted(labels.unclustered)))
    ordered = [face for *_, members in groups for face in members]
    jpegs = shrunk([faces.get(face.face) for face in ordered], MOST_PICTURE_BYTES)
    cards, first = [], 0
    for name, cluster, kept, members in groups:
        cards.append(_card(name, cluster, kept, members, first, jpegs))
        first += len(members)
    *persons, alone = cards
    return render(
        "faces",
        _facts(labels, ordered, duplicates),
        [],
        persons=persons,
        alone=alone,
        sets=_sets(duplicates, pictures) if duplicates else [],
        more_sets=max(0, len(duplicates.groups) - SHOWN_SETS) if duplicates else 0,
        looked_for_duplicates=duplicates is not None,
        low_score=LOW_SCORE,
        data=json_for_script([_row(face, folder) for face in ordered]),
        blocks=picture_blocks(jpegs),
    )


def _sorted(faces: list[LabelledFace]) -> list[LabelledFace]:
    """Clear ones in their order, then those of low scores."""
    return [face for low in (False, True) for face in faces if (face.score < LOW_SCORE) == low]


def _facts(labels: Labels, faces: list[LabelledFace], duplicates: Duplicates | None) -> list[tuple[str, str]]:
    named = sum(one.name is not None for one in labels.persons)
    found = [one for group in duplicates.groups for one in group.duplicates] if duplicates else []
    return [
        ("Created", moment(labels.created)),
        ("Persons", f"{len(labels.persons):,}, of them {named:,} with a name"),
        ("Faces", f"{len(faces):,}, of them {len(labels.unclustered):,} in no cluster"),
        ("Duplicates", f"{len(found):,}" if duplicates else "not looked for yet: facevault.py dedup"),
        ("Model pack", shown(labels.pack)),
    ]


def _card(
    name: str | None, cluster: int | None, kept: bool, faces: list[LabelledFace], first: int, jpegs: list[bytes | None]
) -> dict:
    """`first` is the place of the card's first face in the page's list; the faces of low scores come last."""
    return {
        "name": None if name is None else shown(name),
        "cluster": cluster,
        "kept": kept,
        "first": first,
        "count": len(faces),
        "low": sum(face.score < LOW_SCORE for face in faces),
        "source": encoded(jpegs[first]) if faces else None,
    }


def _row(face: LabelledFace, folder: Path) -> list:
    """[number, file's name, its address, score, yaw]"""
    path = Path(face.file)
    return [face.face, shown(path.name), address(path, folder), round(face.score, 2), round(face.yaw_deg)]


def _sets(duplicates: Duplicates, pictures: Mapping[str, bytes]) -> list[dict]:
    """Each set: the picture that is kept, then the others with the reason."""
    chosen = duplicates.groups[:SHOWN_SETS]
    files = list(dict.fromkeys(file for one in chosen for file in (one.keep, *(each.file for each in one.duplicates))))
    small = dict(zip(files, shrunk([pictures.get(file) for file in files], _MOST_DUPLICATE_BYTES), strict=True))
    return [
        {
            "keep": _picture(group.keep, "kept", "", small),
            "others": [
                _picture(one.file, f"{one.kind}{', mirrored' if one.mirrored else ''}", one.why, small)
                | {"kind": one.kind}
                for one in group.duplicates
            ],
        }
        for group in chosen
    ]


def _picture(file: str, tag: str, why: str, small: Mapping[str, bytes | None]) -> dict:
    return {
        "file": shown(Path(file).name),
        "path": shown(file),
        "tag": tag,
        "why": shown(why),
        "source": encoded(small[file]),
    }
