"""Defaults that the options of several scripts show. Nothing heavy is imported here, so that --help is instant."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp")

PACK = "buffalo_l"  # InsightFace's own default
MODELS_FOLDER = PROJECT / "models"
DEMO_PACK = "demo"  # ships with the project: models/demo/face
DEMO_WORLD = PROJECT / "demo_world"

DETECTION_SIZE = 640  # pixels, side of the detector's square input, as documented

# A decoded picture takes 3 bytes a pixel: 100 megapixels are 300 MB for each worker.
MAX_MEGAPIXELS = 100.0

CACHE_FILE = PROJECT / ".mirror_cache.sqlite"

# Share of a dataset that may be synthetic, and the limit that no option exceeds, as documented for the bootstrap loop:
# models that train on mostly their own output get worse (Shumailov et al. 2024, Nature 631).
MAX_SYNTHETIC_SHARE, HARD_SYNTHETIC_SHARE = 0.30, 0.50
METADATA = "generation_metadata.json"  # beside the generated images, as documented
SYNTHETIC_PREFIX = "synthetic_"  # how generated files are named, as documented

# What validation may be told to let pass unmeasured: the sensors that a gap can need, and the likeness to the person.
UNVERIFIED_WORDS = ("angle", "hands", "eyes", "identity")
