"""How a generated picture was made, as its own file says: prompt, seed and program.

sd-parsers knows the texts of A1111 (and Forge, SD.Next), ComfyUI, InvokeAI, Fooocus and NovelAI. Its parsers are called
one by one: its manager remembers the last JPEG by id(), which a later picture can have again. What it leaves out is
ours: generate_synthetic.py's own text, ComfyUI without a workflow or without a KSampler (as Flux runs there), and the
plain texts "prompt" and "seed" that scripts around diffusers write. Only headers are read, no pixels.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mirror.contracts.contract import ContractError, read_contract
from mirror.contracts.generation import GenerationMetadata, Origin
from mirror.generation.a1111 import OURS, PARAMETERS, facts_in
from utils.defaults import METADATA

OUR_NAME = "MirrorMetrics"
MOST_TEXT = 16_000_000  # characters of a text that is looked at; workflows of 5 MB were seen
MOST_PROMPT = 4_000  # characters of a prompt that are kept

_KIND = "origin-1"  # in the cache; raise the number when more is read than before
_USER_COMMENT, _EXIF_IFD, _COMFY_TAGS = 0x9286, 0x8769, (0x010F, 0x0110)  # ComfyUI's WebP: Make and Model
_SEEDS = ("seed", "noise_seed")
_TEXTS = ("text", "prompt", "text_g", "text_l", "clip_l", "t5xxl", "string", "value")
_NO_WAY_TO_A_PROMPT = ("negative", "model", "clip", "vae", "latent_image", "image", "mask", "control_net")


class Kept(Protocol):
    """Where answers are kept by content (mirror/faces/cache.py)."""

    def content_of(self, path: Path) -> str | None: ...

    def get_blob(self, kind: str, key: str) -> bytes | None: ...

    def put_blob(self, kind: str, key: str, value: bytes) -> None: ...


def origins_of(paths: list[Path], kept: Kept) -> tuple[list[Origin | None], list[str]]:
    """For every picture how it was made, or None; and a sentence for each metadata file that cannot be read.

    The picture's own text goes before METADATA beside it, which others may have written for another batch.
    """
    beside: dict[Path, dict[str, Origin]] = {}
    warnings: list[str] = []
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            beside[folder] = _beside(folder)
        except ContractError as error:
            warnings.append(f"Prompts are not read from it: {error}")
            beside[folder] = {}
    return [_kept_origin(path, kept) or beside[path.parent].get(path.name) for path in paths], warnings


def _beside(folder: Path) -> dict[str, Origin]:
    """What generation_metadata.json says of each file. Raises ContractError."""
    path = folder / METADATA
    if not path.is_file():
        return {}
    images = read_contract(path, GenerationMetadata).images
    return {one.file: found for one in images if (found := _origin(one.prompt, one.negative_prompt, one.seed))}


def _kept_origin(path: Path, kept: Kept) -> Origin | None:
    content = kept.content_of(path)
    known = kept.get_blob(_KIND, content) if content else None
    if known is not None:
        return Origin.model_validate_json(known) if known else None
    found = origin_in(path)
    if content:
        kept.put_blob(_KIND, content, found.model_dump_json().encode() if found else b"")
    return found


def origin_in(path: Path) -> Origin | None:
    """What the file says of how it was made; None where it says nothing, or nothing that is understood."""
    texts = {key: text for key, text in _texts_of(path).items() if len(text) <= MOST_TEXT}
    for read in (_ours, _by_library, _comfy_by_hand, _plain):
        with contextlib.suppress(Exception):  # anybody's text: whatever it makes a parser raise, it says nothing
            if texts and (found := read(texts)) is not None:
                return found
    return None


def _texts_of(path: Path) -> dict[str, str]:
    """Texts in the header of a PNG, JPEG or WebP; a PNG's behind its pixels are not looked for."""
    from PIL import Image

    if not path.is_file():  # opening a pipe would wait for ever
        return {}
    with contextlib.suppress(Exception), Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
        if picture.format == "PNG":
            return {key: text for key, text in picture.info.items() if isinstance(text, str)}
        if "exif" in picture.info:
            return dict(_exif_texts(picture.getexif()))
    return {}


def _exif_texts(exif) -> Iterator[tuple[str, str]]:
    comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    if isinstance(comment, bytes) and len(comment) > 8:
        code = "utf_16_be" if comment.startswith(b"UNICODE") else "utf-8"  # EXIF 2.32, 4.6.5: 8 bytes name the code
        yield PARAMETERS, comment[8:].decode(code)
    for tag in _COMFY_TAGS:
        name, mark, text = str(exif.get(tag, "")).partition(":")
        if mark and name in ("prompt", "workflow"):
            yield name, text


def _origin(
    prompt: str | None, negative: str | None = None, seed: object = None, generator: str = OUR_NAME
) -> Origin | None:
    """None where neither a prompt nor a seed is known."""
    number = int(seed) if isinstance(seed, int) or str(seed).strip().isdecimal() else None
    prompt, negative = (_clean(text) for text in (prompt, negative))
    if prompt is None and number is None:
        return None
    return Origin(prompt=prompt, negative_prompt=negative, seed=number, generator=generator)


def _clean(text: object) -> str | None:
    """A prompt that every file can hold: JSON may spell characters that are none (lone surrogates)."""
    return str(text or "").strip()[:MOST_PROMPT].encode("utf-8", "replace").decode() or None


def _ours(texts: dict[str, str]) -> Origin | None:
    if OURS not in texts:
        return None
    facts = facts_in(texts[OURS])
    return _origin(facts.prompt, facts.negative_prompt, facts.seed)


def _by_library(texts: dict[str, str]) -> Origin | None:
    from sd_parsers.exceptions import ParserError
    from sd_parsers.parsers import MANAGED_PARSERS

    graph = _graph(texts)
    given = {**texts, "workflow": {"links": _links(graph)}} if graph else texts
    for parser in MANAGED_PARSERS:
        with contextlib.suppress(ParserError):
            info = parser().parse(dict(given))
            seeds = (one.parameters.get(key) for one in info.samplers for key in _SEEDS)
            seed = next((seed for seed in seeds if seed is not None), None)
            if graph and (seed is None or not info.full_prompt):
                return None  # what is linked from other nodes is followed below
            return _origin(info.full_prompt, info.full_negative_prompt, seed, info.generator.value)
    return None


def _graph(texts: dict[str, str]) -> dict[str, dict]:
    """ComfyUI's nodes by their number; empty for pictures of other programs."""
    with contextlib.suppress(ValueError):
        nodes = json.loads(texts.get("prompt", ""))
        if isinstance(nodes, dict) and all(isinstance(node, dict) and "class_type" in node for node in nodes.values()):
            return {str(number): node for number, node in nodes.items()}
    return {}


def _links(graph: dict[str, dict]) -> list[tuple]:
    """The workflow's links as the library reads them: runs over ComfyUI's API write no workflow."""
    return [
        (0, source, 0, number, 0, name.upper()) for number, node in graph.items() for name, source in _sources(node)
    ]


def _sources(node: dict) -> Iterator[tuple[str, str]]:
    """(input's name, number of the node that it comes from)."""
    for name, value in node.get("inputs", {}).items():
        if isinstance(value, list) and len(value) == 2:
            yield name, str(value[0])


def _comfy_by_hand(texts: dict[str, str]) -> Origin | None:
    """Seed and prompt of a graph whose sampler is spread over several nodes, or gets them from others."""
    graph = _graph(texts)
    if not graph:
        return None
    inputs = [node.get("inputs", {}) for node in graph.values()]
    seeds = (value for one in inputs for key in _SEEDS for value in _values(graph, one.get(key)))
    seed = next((value for value in seeds if isinstance(value, int)), None)
    words = {"positive": [], "negative": []}
    for node in graph.values():
        for name, source in _sources(node):
            if name in words:
                words[name] += _words_before(graph, source, set())
            elif name == "conditioning" and "Guider" in node["class_type"]:
                words["positive"] += _words_before(graph, source, set())
    prompt, negative = (", ".join(dict.fromkeys(found)) for found in words.values())
    return _origin(prompt, negative, seed, "ComfyUI")


def _values(graph: dict[str, dict], value: object) -> Iterator[object]:
    """An input's own value, or those of the node that it is linked from."""
    if isinstance(value, list) and value and str(value[0]) in graph:
        yield from graph[str(value[0])].get("inputs", {}).values()
    else:
        yield value


def _words_before(graph: dict[str, dict], number: str, seen: set[str]) -> list[str]:
    """Texts of a node and of those that lead to it."""
    if number in seen or number not in graph:
        return []
    seen.add(number)
    node = graph[number]
    texts = (node.get("inputs", {}).get(key) for key in _TEXTS)
    found = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    for name, source in _sources(node):
        if name not in _NO_WAY_TO_A_PROMPT:
            found += _words_before(graph, source, seen)
    return found


def _plain(texts: dict[str, str]) -> Origin | None:
    """Texts under the names of diffusers' own arguments."""
    named = {key.lower(): text for key, text in texts.items()}
    if "prompt" not in named or _graph(named):
        return None
    return _origin(named["prompt"], named.get("negative_prompt"), named.get("seed"), "diffusers")
