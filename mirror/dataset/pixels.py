"""What pixels alone tell about a picture: light, exposure, sharpness, near duplicates. No model is needed."""

from __future__ import annotations

import cv2
import numpy as np

# The size at which sharpness is measured, longest side in pixels; larger pictures are shrunk to it, smaller ones
# enlarged: the variance of the Laplacian depends on the size more than on anything else. Our choice: half of SDXL's
# 1024, at which the grain of a photo is gone and its edges are not.
SHARPNESS_SIDE = 512
SHARPNESS_LIMIT = 100.0  # variance of the Laplacian below which a picture counts as blurred, as documented

# Mean grey level (0-255) outside which a picture is too dark or too bright, as documented for validation.
BRIGHTNESS_LIMITS = (30.0, 225.0)

# Lighting by the thirds of the grey scale: a low-key picture is mostly dark and has few lights, a high-key one the
# other way round. Photographers read the histogram in such thirds; the two shares are our choice.
DARK_BELOW, LIGHT_FROM = 85, 170
MOSTLY, FEW = 0.60, 0.15
LOW_KEY, HIGH_KEY, NORMAL = "low_key", "high_key", "normal"

# Near duplicates: 128 bits of the picture's coarsest shapes, two views of 64 each. Pictures count as one where at most
# this many bits differ. On 84 rendered pictures of three worlds (demo/) pictures taken again a moment later
# differed by up to 6 bits, different ones by 15 and more; in 32 photos by 27 and more.
HASH_SIDE, HASH_FREQUENCIES = 32, 8
DUPLICATE_BITS = 10

# A picture that is cut out of another one is found by sliding it over that one, 64 pixels long, at sizes from all of it
# to half of it in steps of 4.5 %. On 22 photos, cut at random to 95, 90, 80, 70 and 60 % of their sides, the similarity
# was 0.92 and more; of 462 pairs of files 95 % stayed below 0.67, and all above 0.90 were a picture and its own crops.
CROP_SIDE, CROP_STEP, CROP_SIZES, CROP_LIKENESS = 64, 0.955, 15, 0.90

# A picture that the decoder spoiled shows nothing: NaN turned into black or grey, or values beyond all limits cut off
# at white (the SDXL VAE in float16 does it: huggingface.co/madebyollin/sdxl-vae-fp16-fix). Our choice, wide apart from
# low-key and high-key pictures: 98 % of the pixels next to black or one grey, 90 % next to white.
BLACK_TO, WHITE_FROM, ONE_GREY_WIDTH = 5, 250, 7
SPOILED_SHARE, BLOWN_SHARE = 0.98, 0.90
BLACK, GREY, BLOWN = "black", "one grey", "blown"


def grey_of(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 grey levels of a picture (H, W, 3) uint8 BGR."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def histogram(grey: np.ndarray) -> np.ndarray:
    """(256,) share of the pixels at each grey level; the sum is 1."""
    return np.bincount(grey.ravel(), minlength=256) / grey.size


def brightness(shares: np.ndarray) -> float:
    """Mean grey level, 0-255, of a `histogram`."""
    return float(shares @ np.arange(256))


def exposure(mean_grey: float) -> str:
    """under, normal or over, by BRIGHTNESS_LIMITS."""
    darkest, brightest = BRIGHTNESS_LIMITS
    if mean_grey < darkest:
        return "under"
    return "over" if mean_grey > brightest else "normal"


def lighting(shares: np.ndarray) -> str:
    """low_key, high_key or normal, of a `histogram`."""
    dark, light = float(shares[:DARK_BELOW].sum()), float(shares[LIGHT_FROM:].sum())
    if dark >= MOSTLY and light <= FEW:
        return LOW_KEY
    return HIGH_KEY if light >= MOSTLY and dark <= FEW else NORMAL


def unusable(shares: np.ndarray) -> str | None:
    """BLACK, GREY or BLOWN where a `histogram` is that of a picture that shows nothing, else None."""
    if shares[: BLACK_TO + 1].sum() >= SPOILED_SHARE:
        return BLACK
    if shares[WHITE_FROM:].sum() >= BLOWN_SHARE:
        return BLOWN
    densest = np.convolve(shares, np.ones(ONE_GREY_WIDTH), "valid").max()
    return GREY if densest >= SPOILED_SHARE else None


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al. 2000) with the longest side at SHARPNESS_SIDE pixels."""
    height, width = grey.shape
    scale = SHARPNESS_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return float(cv2.Laplacian(scaled, cv2.CV_64F).var())


def picture_hash(grey: np.ndarray) -> int:
    """128 bits. 64 of a pHash (Zauner 2010): which of the 8 x 8 lowest cosine frequencies of a 32 x 32 grey picture lie
    above their median; 64 of a dHash (Krawetz 2013): where a 9 x 8 grey picture gets lighter from left to right."""
    small = cv2.resize(grey, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    coarse = cv2.dct(small)[:HASH_FREQUENCIES, :HASH_FREQUENCIES].ravel()
    tiny = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = np.concatenate([coarse > np.median(coarse[1:]), (tiny[:, 1:] > tiny[:, :-1]).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: list[int]) -> list[tuple[int, int, int]]:
    """(first, second, bits that differ) of every pair within DUPLICATE_BITS, by index, first < second."""
    halves = np.array([divmod(value, 1 << 64) for value in hashes], dtype=np.uint64).reshape(-1, 2)
    pairs = []
    for i in range(len(halves) - 1):
        differing = np.bitwise_count(halves[i] ^ halves[i + 1 :]).sum(axis=1, dtype=int)
        pairs += [(i, i + 1 + int(j), int(differing[j])) for j in np.flatnonzero(differing <= DUPLICATE_BITS)]
    return pairs


def for_cuts(grey: np.ndarray) -> np.ndarray:
    """As much of a picture as `is_cut_from` looks at, for who compares many with each other."""
    return grey if max(grey.shape) <= 2 * CROP_SIDE else of_side(grey, 2 * CROP_SIDE)


def is_cut_from(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether one grey picture shows a part of another, of at least about half of its sides. Icons show too little."""
    if min(max(part.shape), max(whole.shape)) < CROP_SIDE // 2:
        return False
    whole, part = of_side(whole, CROP_SIDE), for_cuts(part)
    (height, width), (high, wide) = whole.shape, part.shape
    for step in range(CROP_SIZES):
        scale = min(height / high, width / wide) * CROP_STEP**step
        size = min(width, max(8, round(wide * scale))), min(height, max(8, round(high * scale)))
        if min(size) < 8:
            return False
        template = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        if template.std() > 0 and cv2.matchTemplate(whole, template, cv2.TM_CCOEFF_NORMED).max() >= CROP_LIKENESS:
            return True
    return False


def of_side(grey: np.ndarray, side: int) -> np.ndarray:
    """A picture whose longest side is `side` pixels."""
    scale = side / max(grey.shape)
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
