"""Defaults that the options of several scripts show. Nothing heavy is imported here, so that --help is instant."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"  # of the product: every script says it, and every result carries it

# What installs the packages of all scripts; mirror_metrics.py and inspect_pkl.py need the first alone.
ANALYSIS_REQUIREMENTS, BOOTSTRAP_REQUIREMENTS = "requirements/analysis.txt", "requirements/bootstrap.txt"

# The first five are the documented ones.
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "jfif", "heic", "heif", "avif", "tif", "tiff", "gif")

PACK = "buffalo_l"  # InsightFace's own default
MODELS_FOLDER = PROJECT / "models"
DETECTOR_FILES = {"face": "yolov5l-face.pt", "hand": "hand_yolov8n.pt", "eye": "eyes_yolov.pt"}  # as documented
# Where an expression model is looked for, the first that is there: a name of one's own, then the names that the models
# people have are published under (github.com/onnx/models, github.com/av-savchenko/hsemotion-onnx).
EXPRESSION_FILES = ("expression*.onnx", "emotion-ferplus*.onnx", "emotion_ferplus*.onnx", "enet_b*.onnx")
DEMO_EXPRESSION = MODELS_FOLDER / "demo" / "expression" / "expression_demo.onnx"  # ours: demo/train_expression.py
DEMO_PACK = "demo"  # ships with the project: models/demo/face
DEMO_WORLD = PROJECT / "demo_world"

DETECTION_SIZE = 640  # pixels, side of the detector's square input, as documented

# A decoded picture takes 3 bytes a pixel: 100 megapixels are 300 MB for each worker.
MAX_MEGAPIXELS = 100.0

CACHE_FILE = PROJECT / ".mirror_cache.sqlite"
ENGINE_CACHE = PROJECT / ".openvino_cache"  # networks as OpenVINO compiled them; may be deleted at any time
HASHES_FILE = PROJECT / ".mirror_hashes.json"  # of base models

# Share of a dataset that may be synthetic, and the limit that no option exceeds, as documented for the bootstrap loop:
# models that train on mostly their own output get worse (Shumailov et al. 2024, Nature 631).
MAX_SYNTHETIC_SHARE, HARD_SYNTHETIC_SHARE = 0.30, 0.50
LEAST_SYNTHETIC_WEIGHT = 0.01  # below it generated images are hardly seen: leave them out
METADATA = "generation_metadata.json"  # beside the generated images, as documented
SYNTHETIC_PREFIX = "synthetic_"  # how generated files are named, as documented

# What validation may be told to let pass unmeasured: the sensors that a gap can need, a target that no sensor measures,
# and the similarity to the person.
UNVERIFIED_WORDS = ("angle", "hands", "eyes", "expression", "target", "identity")
