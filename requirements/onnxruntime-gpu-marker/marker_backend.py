"""Build the marker with the standard library alone (PEP 517), so that nothing is fetched for it.

The version lies above every onnxruntime 1.x: `pip install --upgrade -r requirements.txt` keeps the marker, too.
"""

import base64
import hashlib
import zipfile
from pathlib import Path

VERSION = "1.9999+gpu.marker"
INFO = f"onnxruntime-{VERSION}.dist-info"
FILES = {
    f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {VERSION}\n"
    "Summary: Stands in for onnxruntime where onnxruntime-gpu is installed\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: marker_backend\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"onnxruntime-{VERSION}-py3-none-any.whl"
    record = [f"{path},sha256={digest(text)},{len(text)}" for path, text in FILES.items()]
    record = "\n".join([*record, f"{INFO}/RECORD,,", ""])
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        for path, text in {**FILES, f"{INFO}/RECORD": record}.items():
            wheel.writestr(path, text)
    return name


def digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
