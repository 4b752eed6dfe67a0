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
