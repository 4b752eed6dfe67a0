"""`Data_<timestamp>.csv`: the columns of the table that mirror_metrics.py writes, one row for every input file.

The names are an interface: spreadsheets and other programs read them. `mirror.faces.table` fills them.
"""

TYPE = "Type"  # REFERENCE or CANDIDATE, see mirror/contracts/summary.py
GROUP = "Group"  # "Reference", "Held-out", or the LoRA's folder name
FILENAME = "Filename"  # relative to the group's folder, with forward slashes
STATUS = "Status"  # utils.files.Status
SIMILARITY = "Similarity"  # cosine to the centroid of held-out photos, else of references (their own: leave-one-out)
AGE = "Age"  # years
YAW, PITCH, ROLL = "Yaw", "Pitch", "Roll"  # degrees, signs in mirror/faces/pose.py
ANGLE_BIN = "AngleBin"  # see mirror.faces.pose.angle_bin
DET_SCORE = "DetScore"  # the detector's score of the face, 0-1
ASPECT_RATIO = "AspectRatio"  # face box width / height
FACES = "Faces"  # faces found in the image; the largest one is measured
NEAREST_REFERENCE = "NearestReference"  # file name of the most similar reference (references: of another one)
NEAREST_SIMILARITY = "NearestSimilarity"  # cosine to it
REASON = "Reason"  # in words: why nothing was measured, or what is wrong with the file
PACK = "Pack"  # identity of the model pack
PROVIDER = "Provider"  # what ran the networks for this face
PACK_LICENCE = "PackLicence"
TSNE = ("tsne_x", "tsne_y", "tsne_z")  # place on the identity map; the third only with --map 3d
PROMPT = "Prompt"  # of a generated picture, where its file or generation_metadata.json says it
SEED = "Seed"  # text: ComfyUI's seeds are wider than the integers of most programs
GENERATOR = "Generator"  # the program that wrote prompt and seed down
COPY = "Copy"  # what the picture and its nearest reference share, see mirror.faces.copies.KINDS
HASH_DISTANCE = "HashDistance"  # bits that differ between the two, of 256

# In the order of the file, with their pandas types; unmeasured cells are NaN / NA in the frame and blank in the file.
COLUMNS = {
    TYPE: "object",
    GROUP: "object",
    FILENAME: "object",
    STATUS: "object",
    SIMILARITY: "float64",
    AGE: "float64",
    YAW: "float64",
    PITCH: "float64",
    ROLL: "float64",
    ANGLE_BIN: "object",
    DET_SCORE: "float64",
    ASPECT_RATIO: "float64",
    FACES: "Int64",
    NEAREST_REFERENCE: "object",
    NEAREST_SIMILARITY: "float64",
    REASON: "object",
    PACK: "object",
    PROVIDER: "object",
    PACK_LICENCE: "object",
    **dict.fromkeys(TSNE, "float64"),
    PROMPT: "object",
    SEED: "object",
    GENERATOR: "object",
    COPY: "object",
    HASH_DISTANCE: "Int64",
}
