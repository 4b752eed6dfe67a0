"""What measures faces and head angles in a dataset: an InsightFace pack, or a face detector with five landmarks."""

from __future__ import annotations

import cv2
import numpy as np

from mirror.contracts.gaps import AngleSensor
from mirror.dataset.boxes import Boxes, BoxSensor
from mirror.faces.engine import PADDED, FaceMeasurement, second_face_share
from mirror.faces.finding import RESCUE_PADDING
from mirror.faces.measurer import Measurer
from mirror.faces.pose import angles_from_keypoints
from utils.files import Status

RESCUE_SIDE = 1280  # pixels; detectors shrink to about half of it, so a larger picture is not needed for a second look


class PackAngles:
    """Faces and angles from an InsightFace pack, one picture at a time, from any thread."""

    def __init__(self, measurer: Measurer):
        self.measurer = measurer
        self.info = AngleSensor(kind="pack", identity=measurer.identity, source=measurer.pack_info().pose_source)
        self.engine_key = measurer.runs_on.key


class DetectorAngles:
    """Faces and angles from a face detector with five landmarks, in batches."""

    def __init__(self, sensor: BoxSensor):
        self.sensor = sensor
        self.info = AngleSensor(kind="detector", identity=sensor.identity, source="keypoints")
        self.engine_key = ""  # a detector has one engine

    def faces(self, contents: list[str], images: list[np.ndarray]) -> list[FaceMeasurement | Exception]:
        """The largest face of every picture; where none is seen, a second look with a black border around it."""
        found = self.sensor.find(contents, images)
        again = [i for i, boxes in enumerate(found) if isinstance(boxes, Boxes) and not len(boxes.boxes_xyxy)]
        faces = [_face_of(boxes, image, Status.OK) for boxes, image in zip(found, images, strict=True)]
        padded = [_with_border(images[i]) for i in again]
        keys = [f"{contents[i]} with border" for i in again]
        for i, boxes, (_, corner, scale) in zip(
            again, self.sensor.find(keys, [image for image, _, _ in padded]), padded, strict=True
        ):
            back = boxes.moved(corner, scale) if isinstance(boxes, Boxes) else boxes
            faces[i] = _face_of(back, images[i], Status.RESCUED)
        return faces


def _face_of(boxes: Boxes | Exception, image: np.ndarray, status: Status) -> FaceMeasurement | Exception:
    """The largest face among the boxes of a face detector with five landmarks; what went wrong is handed on."""
    if isinstance(boxes, Exception):
        return boxes
    size_wh, provider = (image.shape[1], image.shape[0]), ""
    if not len(boxes.boxes_xyxy):
        return FaceMeasurement(Status.NO_FACE, 0, provider, size_wh)
    sizes = boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]
    largest = int(sizes.prod(axis=1).argmax())
    try:
        yaw, pitch, roll = angles_from_keypoints(boxes.keypoints[largest])
    except ValueError as error:  # points that coincide: the network made nothing of this face
        return error
    return FaceMeasurement(
        status,
        len(boxes.scores),
        provider,
        size_wh,
        found=PADDED if status == Status.RESCUED else "",
        box_xyxy=tuple(float(edge) for edge in boxes.boxes_xyxy[largest]),
        det_score=float(boxes.scores[largest]),
        yaw_deg=yaw,
        pitch_deg=pitch,
        roll_deg=roll,
        second_face_share=second_face_share(boxes.boxes_xyxy),
    )


def _with_border(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """`image` inside a black border of RESCUE_PADDING of its sides, the corner (x, y) it begins at, and its scale."""
    scale = min(1.0, RESCUE_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    top, left = round(RESCUE_PADDING * small.shape[0]), round(RESCUE_PADDING * small.shape[1])
    padded = cv2.copyMakeBorder(small, top, top, left, left, cv2.BORDER_CONSTANT)
    return padded, np.array([left, top], np.float32), scale
