"""Names and defaults that options of facevault.py show. Nothing heavy is imported, so that --help is instant."""

ORGANIZED, LORA_READY, MANIFEST, METADATA = "organized", "lora_ready", "manifest.json", "metadata.json"
DUPLICATES = "duplicates.json"
FORMATS = (ORGANIZED, "lora", "json")
STYLES = ("tags", "sentence")

SIZE, REAL_MIN = 1024, 15  # as documented: pixels, the size SDXL was trained at; the fewest photos
MIN_FACE = 64  # pixels, longer side of the box: smaller faces are mush once a trainer enlarges them. Our choice
REPEATS = 10  # as in kohya's usual folder names, 10_name
BATCH = 4  # pictures that a captioner sees at once. Our choice
