"""A captioner from a local folder, whatever transformers loads: Florence-2, BLIP, Qwen-VL and other chat models.

What kind it is says its configuration. No code that comes with a model is run, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirror.vault.captions import Captions, StoredCaption
from mirror.vault.crops import Window, cut, upright
from mirror.vault.shots import Shot, read_photo
from mirror.vault.store import VaultStore
from utils.console import UserError, say
from utils.decoding import ImageError, decode
from utils.defaults import BOOTSTRAP_REQUIREMENTS
from utils.files import reason_of
from utils.progress import GroupProgress

MOST_TOKENS = 160  # of a caption; our choice: text encoders read 77, Flux's and Z-Image's 256 and more
_FLORENCE_TASK = "<DETAILED_CAPTION>"  # the model card's word for two or three sentences
_ASK = {
    "tags": "Describe this photo in short tags separated by commas: clothes, expression, pose, place, light. "
    "Leave out hair, eyes, face, age and gender. Tags only.",
    "sentence": "Describe this photo in one sentence: clothes, expression, pose, place, light. "
    "Leave out hair, eyes, face, age and gender.",
}


@dataclass(frozen=True)
class Captioner:
    """`describe` takes pictures (H, W, 3) uint8 RGB and gives a text for each."""

    identity: str
    style: str
    describe: Callable[[list[np.ndarray]], list[str]]


def load_captioner(folder: Path, style: str, device: str) -> Captioner:
    """The captioner in a folder. Raises UserError for what is none, or cannot be loaded."""
    kind = _kind_of(folder)
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"{error}. A captioner needs more packages: python -m pip install -r {BOOTSTRAP_REQUIREMENTS}"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        raise UserError("--device cuda: PyTorch finds no NVIDIA GPU here. --device cpu takes the processor.")
    where = "cuda" if on_gpu and device != "cpu" else "cpu"
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype=torch.bfloat16 if where == "cuda" else torch.float32
        )
    except Exception as error:  # transformers raises whatever its parts raise
        raise UserError(f"The captioner in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    model = model.eval().to(where)
    ask = _way_to_ask(kind, folder, processor)
    identity = _identity(folder) + (f" for {style}" if ask is _ask_in_a_chat else "")  # only those hear of the style
    return Captioner(identity, style, lambda pictures: _ask(ask, processor, model, pictures, style))


def _kind_of(folder: Path) -> str:
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except OSError as error:
        raise UserError(
            f"--model {folder} holds no captioner ({path.name}: {reason_of(error)}). It takes the local folder of a "
            "model that transformers loads, such as florence-community/Florence-2-base after its download."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no configuration of a model: it has no model_type.") from error
    return str(kind)


def _identity(folder: Path) -> str:
    """Name and eight digits over the configuration and the sizes of the weights; hashing gigabytes would take long."""
    sizes = sorted((path.name, path.stat().st_size) for path in folder.glob("*.safetensors"))
    digest = hashlib.sha256((folder / "config.json").read_bytes() + repr(sizes).encode()).hexdigest()
    return f"{folder.resolve().name}@{digest[:8]}"


def _way_to_ask(kind: str, folder: Path, processor: Any) -> Callable[..., list[str]]:
    """How such a model is asked. Raises UserError for one that cannot be."""
    if kind == "florence2":
        return _ask_florence
    if getattr(processor, "chat_template", None):
        return _ask_in_a_chat
    if kind in ("blip", "git", "blip-2"):
        return _ask_nothing
    raise UserError(
        f"--model {folder}: a model of type {kind} without a chat template is not known as a captioner. "
        "Known: Florence-2, BLIP, BLIP-2, GIT, and chat models that see, such as Qwen-VL."
    )


def _ask(ask: Callable, processor: Any, model: Any, pictures: list[np.ndarray], style: str) -> list[str]:
    from PIL import Image

    with _enough_memory():
        return [text.strip() for text in ask(processor, model, [Image.fromarray(one) for one in pictures], style)]


def _ask_nothing(processor: Any, model: Any, pictures: list, style: str) -> list[str]:
    inputs = _moved(processor(images=pictures, return_tensors="pt"), model)
    return processor.batch_decode(_generate(model, inputs), skip_special_tokens=True)


def _ask_florence(processor: Any, model: Any, pictures: list, style: str) -> list[str]:
    inputs = _moved(processor(images=pictures, text=[_FLORENCE_TASK] * len(pictures), return_tensors="pt"), model)
    return processor.batch_decode(_generate(model, inputs), skip_special_tokens=True)  # a caption is its plain text


def _ask_in_a_chat(processor: Any, model: Any, pictures: list, style: str) -> list[str]:
    processor.tokenizer.padding_side = "left"  # answers of a batch begin side by side
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": one}, {"type": "text", "text": _ASK[style]}]}]
        for one in pictures
    ]
    inputs = processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    inputs = _moved(inputs, model)
    answers = _generate(model, inputs)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(answers, skip_special_tokens=True)


def _generate(model: Any, inputs: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)


def _moved(inputs: Any, model: Any) -> Any:
    """To the model's device, pictures in its precision."""
    inputs = inputs.to(model.device)
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = value.to(model.dtype)
    return inputs


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise UserError("Memory ran out while captioning: give --batch 1, or a smaller captioner.") from error
        raise


def caption_photos(
    store: VaultStore, parts: list[tuple[Shot, Window]], captioner: Captioner, trigger: str, batch: int
) -> None:
    """Ask for every photo that has no caption of this captioner yet; each batch is kept at once."""
    captions = Captions(store)
    known = captions.all()

    def is_known(face: int) -> bool:
        return face in known and known[face].source == captioner.identity

    def kept(said: str) -> StoredCaption:
        return StoredCaption(captioner.identity, captioner.style, trigger, said)

    captions.put({shot.face.id: kept(known[shot.face.id].said) for shot, _ in parts if is_known(shot.face.id)})
    todo = [(shot, window) for shot, window in parts if not is_known(shot.face.id)]
    with GroupProgress() as progress:
        task = progress.add("Captioning", len(todo))
        for start in range(0, len(todo), batch):
            seen = _read(todo[start : start + batch])
            if seen:
                texts = captioner.describe([image for _, image in seen])
                captions.put({face: kept(text) for (face, _), text in zip(seen, texts, strict=True)})
            for _ in todo[start : start + batch]:
                progress.step(task)


def _read(parts: list[tuple[Shot, Window]]) -> list[tuple[int, np.ndarray]]:
    """(face, the part of its photo in RGB) of those that can be read; prep says of the others why they are left out."""
    found = []
    for shot, window in parts:
        try:
            image = cut(upright(decode(read_photo(shot)[1]), shot.face.turned_deg), window)
        except ImageError as problem:
            say(f"Note: {shot.source} gets no caption: it {problem.reason}.")
            continue
        found.append((shot.face.id, np.ascontiguousarray(image[:, :, ::-1])))
    return found
