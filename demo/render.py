"""From a scene to a picture and its truth.

    from demo.render import render
    picture = render(scene, 512)      # picture.image (H, W, 3) uint8 BGR, picture.truth

Meshes are turned, rasterised part by part, merged by depth, lit per pixel and laid over the background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from demo import parts, shade
from demo.backgrounds import paint_background
from demo.facial_hair import eye_opening
from demo.hair import STYLES, build_hair
from demo.head import NECK_PIVOT, Head, build_head
from demo.raster import Fragments, rasterise
from demo.scene import HEAD_CM, Scene
from demo.skin import paint_skin
from demo.surfaces import Mesh, joined, rotation
from demo.truth import Truth, box_of, clip_box, face_patch, landmarks

_FILM_MM = 24.0  # height of the film that lens_mm refers to
_SHADOW_PIXELS = 128
_SHADOW_CM = 34.0  # side of the square that the shadow map covers
_SHARPENING = 0.36  # as cameras do, so that plain pictures are not softer than photos
_MEDIUM_PX_CM = 13.0  # below this many pixels per centimetre half of the skin's triangles are enough
_BODY_SHARE = 0.45  # how much of the head's yaw the shoulders follow


@dataclass(frozen=True)
class Picture:
    """BGR uint8 (H, W, 3) and what is true about it."""

    image: np.ndarray
    truth: Truth


@dataclass(frozen=True)
class Camera:
    """Looks at the head's middle along -z; `focal_px` at the size of `size_wh`."""

    distance: float
    focal_px: float
    centre: tuple[float, float]
    size_wh: tuple[int, int]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 2) and depth (N,)."""
        depth = self.distance - points[:, 2]
        scale = self.focal_px / np.maximum(depth, 1.0)
        return np.stack([self.centre[0] + points[:, 0] * scale, self.centre[1] - points[:, 1] * scale], -1), depth

    def unproject(self, pixel: np.ndarray, depth: np.ndarray) -> np.ndarray:
        width = self.size_wh[0]
        row = pixel // width
        out = np.empty((len(pixel), 3), np.float32)
        scaled = depth * np.float32(1 / self.focal_px)
        out[:, 0] = ((pixel - row * width).astype(np.float32) + np.float32(0.5 - self.centre[0])) * scaled
        out[:, 1] = (np.float32(self.centre[1] - 0.5) - row.astype(np.float32)) * scaled
        out[:, 2] = np.float32(self.distance) - depth
        return out

    def enlarged(self, by: float) -> Camera:
        size = (round(self.size_wh[0] * by), round(self.size_wh[1] * by))
        by = size[1] / self.size_wh[1]
        return Camera(self.distance, self.focal_px * by, (self.centre[0] * by, self.centre[1] * by), size)


def camera_for(scene: Scene, size_wh: tuple[int, int]) -> Camera:
    width, height = size_wh
    distance = max(HEAD_CM * scene.lens_mm / (scene.fill * _FILM_MM), 38.0)
    focal = scene.fill * height * distance / HEAD_CM
    x, y = scene.place or (0.5, float(np.clip(0.10 + 0.74 * scene.fill, 0.10, 0.5)))
    return Camera(distance, focal, (x * width, y * height), size_wh)


@dataclass
class Posed:
    """The meshes of a scene where the camera sees them."""

    meshes: list[Mesh]
    head: Head
    turn: np.ndarray
    centre: np.ndarray  # the head's middle before it was moved to the origin
    hands: list[np.ndarray]

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points of the head's own frame in the camera's."""
        return parts.around_neck(points, self.turn) - self.centre


def pose_meshes(scene: Scene) -> Posed:
    who, age = scene.who, scene.age
    head = build_head(who, age, scene.face)
    turn = rotation(scene.yaw_deg, scene.pitch_deg, scene.roll_deg).astype(np.float32)
    body_turn = rotation(_BODY_SHARE * scene.yaw_deg, 0.0, 0.0).astype(np.float32)
    centre = parts.around_neck(np.zeros((1, 3)), turn)[0]
    shift = NECK_PIVOT - centre

    share = head.mesh.extra[:, 2:3]
    local = head.mesh.points - NECK_PIVOT
    turned = local @ turn.T
    skin = replace(
        head.mesh,
        points=(share * turned + (1 - share) * (local @ body_turn.T) + shift).astype(np.float32),
        normals=head.mesh.normals @ turn.T,
    )
    worn: list[Mesh] = []
    if scene.face.blink < 0.97:
        worn.append(joined([parts.eyeball(head, s, gaze_of(scene)) for s in (-1, 1)], "eye"))
    if scene.face.parted > 0.02:
        worn += [parts.teeth(head), parts.mouth_lining(head)]
    hair = build_hair(who, age, scene.hair_name)
    if hair is not None:
        worn += [hair, replace(hair, triangles=hair.triangles[:, ::-1], material="hair_inside")]
    if scene.hair_name not in ("long", "bob"):
        worn.append(parts.ears(who, age, scene.face))
    if scene.glasses != "none":
        worn += parts.glasses(head, scene.glasses == "dark")
    if scene.cover == "mask":
        worn.append(parts.mask(head))
    meshes = [skin] + [_turned(m, turn, shift) for m in worn]

    hands: list[np.ndarray] = []
    build = 0.94 + 0.5 * (who.neck_width - 0.84)
    bottom_cm = (1 - camera_for(scene, (100, 100)).centre[1] / 100) * HEAD_CM / scene.fill
    if bottom_cm > 12.0:
        meshes.append(_turned(parts.torso(round(build, 2)), body_turn, shift))
    pose = "cover" if scene.cover == "hand" else scene.hand
    wanted = [(pose, 1)] if pose != "none" else []
    if bottom_cm > 45.0:
        wanted += [("down", s) for s in (-1, 1) if not (s == 1 and wanted)]
    for name, side in wanted:
        follow = turn if name in ("cover", "chin", "cheek") else body_turn
        pieces, points = parts.arm(name, side, round(build, 2))
        meshes += [_turned(m, follow, shift) for m in pieces]
        hands.append((points - NECK_PIVOT) @ follow.T + shift)
    if bottom_cm > 80.0:
        meshes += [_turned(m, body_turn, shift) for m in parts.legs(round(build, 2))]
    return Posed(meshes, head, turn, centre, hands)


def _turned(mesh: Mesh, turn: np.ndarray, shift: np.ndarray) -> Mesh:
    return mesh.moved(turn, shift - NECK_PIVOT @ turn.T)


def gaze_of(scene: Scene) -> tuple[float, float]:
    """Where the eyes turn in the head (degrees): towards the camera as far as eyes go, plus the scene's own gaze."""
    right = float(np.clip(-0.55 * scene.yaw_deg, -22, 22)) + scene.gaze_deg[0]
    return float(np.clip(right, -30, 30)), float(np.clip(-0.6 * scene.pitch_deg, -14, 14)) + scene.gaze_deg[1]


class Shadow:
    """Depth seen from the key light, blurred with its square (variance shadow maps, Donnelly and Lauritzen 2006)."""

    def __init__(self, meshes: list[Mesh], towards: np.ndarray, softness: float) -> None:
        side = np.cross([0.0, 1.0, 0.0], towards)
        side /= np.linalg.norm(side)
        self.axes = np.stack([side, np.cross(towards, side), towards]).astype(np.float32)
        self.scale = _SHADOW_PIXELS / _SHADOW_CM
        size = (_SHADOW_PIXELS, _SHADOW_PIXELS)
        depth = np.full(_SHADOW_PIXELS**2, 60.0, np.float32)
        for mesh in meshes:
            if mesh.material in ("eye", "mouth", "lens", "ear", "trousers", "shoe", "hair_inside"):
                continue
            xy, far = self._project(mesh.points.astype(np.float32))
            triangles = mesh.triangles if mesh.coarse is None else mesh.coarse
            drawn = rasterise(xy, far, None, triangles, size)
            depth[drawn.pixel] = np.minimum(depth[drawn.pixel], drawn.depth)
        depth = np.minimum(depth, 60.0).reshape(_SHADOW_PIXELS, _SHADOW_PIXELS)
        both = np.stack([depth, depth * depth], -1)
        self.moments = cv2.GaussianBlur(both, (0, 0), 0.7 + 1.9 * softness)
        self.strength = 1.0 - 0.45 * softness

    def _project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = points @ self.axes.T
        middle = _SHADOW_PIXELS / 2
        p[:, 0] = middle + p[:, 0] * self.scale
        p[:, 1] = middle - (p[:, 1] + 3.0) * self.scale
        return p[:, :2], 40.0 - p[:, 2]

    def lit(self, points: np.ndarray) -> np.ndarray:
        """(N,) share of the key light that reaches the points."""
        xy, far = self._project(points)
        mean, square = shade.sample(self.moments, xy[:, 0] - 0.5, xy[:, 1] - 0.5).T
        behind = far - 0.45 - mean
        spread = np.maximum(square - mean * mean, 0.06)
        chance = np.where(behind <= 0, 1.0, spread / (spread + behind * np.maximum(behind, 0)))
        chance = np.clip((chance - 0.18) / 0.82, 0, 1)
        limit = _SHADOW_PIXELS / 2
        inside = np.maximum(np.abs(xy[:, 0] - limit), np.abs(xy[:, 1] - limit)) < limit - 2
        return np.where(inside, 1 - self.strength * (1 - chance), 1.0).astype(np.float32)


def _visible(posed: Posed, scene: Scene, camera: Camera) -> tuple[list[tuple[Mesh, Fragments]], np.ndarray, np.ndarray]:
    """Each part's pixels that nothing hides; flat images of the depth (inf where there is nothing) and of how far (cm)
    a pixel lies below the edge of an upper lid (0 outside the eyes)."""
    width, height = camera.size_wh
    depth = np.full(width * height, np.inf, np.float32)
    owner = np.full(width * height, -1, np.int16)
    below_lid = np.zeros(width * height, np.float32)
    drawn = []
    for i, mesh in enumerate(posed.meshes):
        xy, far = camera.project(mesh.points)
        if xy[:, 1].min() > height or xy[:, 1].max() < 0:
            continue
        small = mesh.medium is not None and camera.focal_px / camera.distance < _MEDIUM_PX_CM
        triangles = mesh.medium if small else mesh.triangles
        values = np.concatenate([mesh.normals, mesh.extra], axis=1).astype(np.float32)
        piece = rasterise(
            xy.astype(np.float32),
            far.astype(np.float32),
            values,
            triangles,
            camera.size_wh,
            both_sides=mesh.material in ("lens", "mask", "mouth"),
        )
        if len(piece.pixel) == 0:
            continue
        if mesh.material == "skin":
            gap = eye_opening(piece.values[:, 3], piece.values[:, 4], posed.head.lay, scene.face.blink)
            below_lid[piece.pixel] = gap
            hole = gap > 0
            piece.depth += 1.6 * hole  # the eyeball shows; where it does not reach, the corner's flesh does
            piece.values[:, 5] = hole
        elif mesh.material in ("hair", "hair_inside"):
            piece = piece.keep(shade.hair_gaps(piece.values[:, 3:], STYLES[scene.hair_name].ragged))
        nearer = piece.depth < depth[piece.pixel]
        piece = piece.keep(nearer)
        depth[piece.pixel] = piece.depth
        owner[piece.pixel] = i
        drawn.append((i, mesh, piece))
    return [(mesh, piece.keep(owner[piece.pixel] == i)) for i, mesh, piece in drawn], depth, below_lid


def _openness(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """Flat image, 1 in the open, less where a pixel lies behind its surroundings (after Luft et al. 2006)."""
    width, height = camera.size_wh
    pixels_cm = camera.focal_px / camera.distance
    near = np.minimum(depth, camera.distance + 11.0).reshape(height, width)
    small = cv2.resize(near, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(cv2.GaussianBlur(small, (0, 0), max(0.75 * pixels_cm / 2, 0.6)), (width, height))
    behind = np.clip(near - blurred, 0, 1.3)
    return (1 - 0.50 * behind / 1.3 - 0.08 * (behind > 0.02)).reshape(-1).astype(np.float32)


def _lit_picture(scene: Scene, posed: Posed, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Linear RGB and coverage (H, W, 4) of the person, and the depth image."""
    width, height = camera.size_wh
    visible, depth, below_lid = _visible(posed, scene, camera)
    lamp = shade.lamps(scene.light)
    shadow = Shadow(posed.meshes, lamp.key, scene.light.softness)
    openness = _openness(depth, camera)
    up = posed.turn[:, 1].astype(np.float32)
    image = np.zeros((width * height, 4), np.float32)
    image[:, 3] = np.isfinite(depth)
    eye_place = np.array([0, 0, camera.distance], np.float32)
    for mesh, piece in visible:
        if len(piece.pixel) == 0:
            continue
        at = camera.unproject(piece.pixel, piece.depth)
        px = shade.Pixels(
            shade.unit(piece.values[:, :3]),
            shade.unit(eye_place - at),
            piece.values[:, 3:],
            shadow.lit(at),
            openness[piece.pixel],
        )
        kind = mesh.material
        if kind == "skin":
            scale = float(np.clip(2 ** np.ceil(np.log2(camera.focal_px / camera.distance * 0.9)), 8, 64))
            colour, arrived, bright = shade.shade_skin(
                px, paint_skin(scene.who, scene.age, scene.face, scale, scene.hair_name), up, lamp
            )
            colour[px.extra[:, 2] > 0.5] = (0.56, 0.36, 0.33)
            scattered = _scatter(arrived, piece.pixel, camera)
            light = colour * scattered + bright
        elif kind in ("hair", "hair_inside"):
            light = shade.shade_hair(px, scene, lamp, up)
        elif kind == "eye":
            light = shade.shade_eye(px, scene, lamp, below_lid[piece.pixel])
        elif kind == "ear":
            light = shade.shade_ear(px, scene, lamp)
        elif kind == "mouth":
            light = shade.shade_mouth(px, lamp)
        elif kind == "hand":
            light = shade.shade_plain_skin(px, scene, lamp, 0.15)
        elif kind == "frame":
            light = shade.shade_frame(px, scene, lamp)
        elif kind == "lens":
            light = shade.shade_lens(px, lamp)
        else:
            light = shade.shade_cloth(px, scene, lamp, kind)
        image[piece.pixel, :3] = np.minimum(light, 3.0)
    return image.reshape(height, width, 4), depth.reshape(height, width)


def _scatter(arrived: np.ndarray, pixel: np.ndarray, camera: Camera) -> np.ndarray:
    """Light under the skin: red travels about 3 mm, green less, blue stays."""
    width = camera.size_wh[0]
    pixels_cm = camera.focal_px / camera.distance
    rows = pixel // width
    top = int(rows.min())
    cols = pixel - rows * width
    left, right = int(cols.min()), int(cols.max()) + 1
    place = (rows - top) * (right - left) + cols - left
    plane = np.zeros(((int(rows.max()) + 1 - top) * (right - left), 3), np.float32)
    plane[place, :2] = arrived[:, :2]
    plane[place, 2] = 1
    out = arrived.copy()
    for channel, way_cm in ((0, 0.20), (1, 0.09)):
        if way_cm * pixels_cm > 0.5:
            both = cv2.GaussianBlur(
                np.ascontiguousarray(plane[:, (channel, 2)]).reshape(-1, right - left, 2), (0, 0), way_cm * pixels_cm
            ).reshape(-1, 2)[place]
            out[:, channel] = both[:, 0] / np.maximum(both[:, 1], 1e-3)
    return out


def _develop(linear: np.ndarray) -> np.ndarray:
    """Linear RGB to display BGR in 0..255 floats, with a soft shoulder (curve fit of Narkowicz 2015, lowered)."""
    grey = linear @ np.array([0.30, 0.59, 0.11], np.float32)
    x = np.clip(linear * 0.86 + 0.14 * grey[..., None], 0, 8) * 0.64
    x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    shown = cv2.pow(np.clip(x[..., ::-1], 0, 1), 1 / 2.2) * 255
    return shown + _SHARPENING * (shown - cv2.GaussianBlur(shown, (0, 0), 0.9))


def _camera_faults(image: np.ndarray, scene: Scene) -> np.ndarray:
    """Blur, motion, grain, JPEG."""
    height, width = image.shape[:2]
    unit_px = height / 512
    if scene.blur_px * unit_px > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur_px * unit_px)
    if scene.motion_px * unit_px > 1.0:
        count = round(scene.motion_px * unit_px) | 1
        image = cv2.filter2D(image, -1, np.full((1, count), 1 / count, np.float32))
    if scene.contrast < 1:
        image = scene.veil_grey + (image - image.mean()) * scene.contrast
    if scene.grain > 0:
        rng = np.random.default_rng([scene.seed, 99])
        image = image + rng.standard_normal((height, width, 1), dtype=np.float32) * scene.grain
    out = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if scene.jpeg:
        out = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])[1], cv2.IMREAD_COLOR)
    return out


def _samples(size_wh: tuple[int, int]) -> float:
    """Enlargement before the edges are averaged down."""
    longest = max(size_wh)
    return 1.5 if longest <= 1024 else 1.0


def render(scene: Scene, size: int | tuple[int, int] = 512, samples: float | None = None) -> Picture:
    """`size` is the side of a square or (width, height); `samples` per pixel and direction (default by size)."""
    size_wh = (size, size) if isinstance(size, int) else size
    camera = camera_for(scene, size_wh)
    fine = camera.enlarged(samples or _samples(size_wh))
    ground = paint_background(scene.background, scene.background_seed, size_wh, 1.0 if scene.fill > 0.2 else 0.6)
    brightness = 0.35 + 0.45 * scene.light.key + 0.40 * scene.light.fill
    ground = ground * min(brightness, 1.15) * (0.35 if scene.light.fill < 0.15 else 1.0)
    posed = pose_meshes(scene)
    depth = np.full(fine.size_wh[::-1], np.inf, np.float32)
    if scene.person:
        person, depth = _lit_picture(scene, posed, fine)
        small = cv2.resize(person, size_wh, interpolation=cv2.INTER_AREA)
        ground = small[..., :3] + ground * (1 - small[..., 3:])
    image = _camera_faults(_develop(ground), scene)
    return Picture(image, _truth(scene, posed, camera, fine, depth))


def _truth(scene: Scene, posed: Posed, camera: Camera, fine: Camera, depth: np.ndarray) -> Truth:
    five, points = landmarks(scene.who, scene.age, scene.face)
    five_px, _ = camera.project(posed.place(five))
    placed = posed.place(points)
    points_px, _ = camera.project(placed)
    fine_px, far = fine.project(posed.place(five))
    seen = []
    for (x, y), z in zip(fine_px, far, strict=True):
        c, r = int(x), int(y)
        inside = 0 <= c < fine.size_wh[0] and 0 <= r < fine.size_wh[1]
        seen.append(bool(scene.person and inside and depth[r, c] > z - 0.9))
    face = face_patch(posed.head)
    skin = posed.meshes[0]
    towards = np.array([0, 0, camera.distance]) - skin.points[face]
    front = face[np.einsum("ij,ij->i", skin.normals[face], towards) > 0]
    box = None
    if scene.person and len(front):
        box = clip_box(box_of(camera.project(skin.points[front])[0]), camera.size_wh)
    hands = [clip_box(box_of(camera.project(p)[0]), camera.size_wh) for p in posed.hands]
    hands = [h for h in hands if h is not None]
    scale = camera.focal_px / camera.distance
    return Truth(
        five_points=five_px,
        five_visible=tuple(seen),
        points_68=np.column_stack([points_px, placed[:, 2] * scale]),
        face_box_xyxy=box,
        eye_boxes_xyxy=tuple(box_of(points_px[i : i + 6]) for i in (36, 42)),
        hand_boxes_xyxy=tuple(hands) if scene.person else (),
        yaw_deg=scene.yaw_deg,
        pitch_deg=scene.pitch_deg,
        roll_deg=scene.roll_deg,
        age_years=scene.age,
        expression=scene.expression,
        eyes_closed=scene.eyes_closed,
        hands_in_frame=bool(hands) and scene.person,
        scene=scene.as_dict(),
    )
