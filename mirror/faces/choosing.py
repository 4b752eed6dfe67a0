"""Which face of a picture with several people is compared: the largest, or the one most like the references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mirror.faces import metrics
from mirror.faces.measurer import Picture

LARGEST, NEAREST = "largest", "nearest"
# By how much similarity another face must be nearer to be told. Photos of one person scatter by about as much.
WORTH_TELLING = 0.1
ANOTHER_IS_NEARER = "another face is more like the references"  # in the rows of which --face nearest makes others


def choose_faces(pictures: list[Picture], standard: np.ndarray, which: str) -> None:
    """Set the face of every picture that holds several. `standard` (N, D) is what similarity is measured against.

    The row says where the nearest face is another than the largest: always if it was taken, else if it makes a
    difference of more than WORTH_TELLING.
    """
    for picture in pictures:
        if not picture.measured or not picture.face.others:
            continue
        faces = [picture.face, *picture.face.others]
        similarity = metrics.similarity_to_centroid(np.stack([face.embedding for face in faces]), standard)
        best = int(similarity.argmax())
        scores = f"{similarity[best]:.2f}, the largest {similarity[0]:.2f}"
        if which == NEAREST and best:
            picture.face = replace(faces[best], note=picture.face.note)
            _say(picture, f"the face most like the references is measured, not the largest one ({scores})")
        elif similarity[best] - similarity[0] > WORTH_TELLING:
            _say(picture, f"{ANOTHER_IS_NEARER} ({scores}): --face nearest measures that one")


def _say(picture: Picture, words: str) -> None:
    picture.reason = "; ".join(filter(None, (picture.reason, words)))
