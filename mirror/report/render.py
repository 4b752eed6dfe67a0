"""From Python values to one HTML page that opens offline: escaping, inlined assets, Content-Security-Policy.

A page is a jinja template (autoescape on) with its style sheets, its scripts and its data inside. Scripts are named in
the policy by their SHA-256, so nothing else runs on the page - no injected handler - and nothing is ever requested.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from mirror.contracts.gaps import GapSensors
from mirror.contracts.summary import Summary

TEMPLATES = Path(__file__).parent / "templates"
ANGLE_SOURCES = {"landmark_3d_68": "3-D landmarks", "keypoints": "five keypoints (coarser)"}

# JSON inside <script>: < > & could end the element or open a comment; U+2028/9 end a line in old engines.
_JSON_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE_JSON = re.compile("[<>&\u2028\u2029]")
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(name: object) -> str:
    """`name` as text that every page can hold: control characters and bytes that are no UTF-8 become `\\x..`.

    Linux file names are bytes; Python keeps what it cannot decode as lone surrogates U+DC80-DCFF, which no UTF-8 page
    can carry. All other text comes back unchanged.
    """
    return _UNSHOWABLE.sub(_escape_code, str(name))


def _escape_code(match: re.Match) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "\N{REPLACEMENT CHARACTER}"


def json_for_script(value: object) -> Markup:
    """`value` as JSON that is safe inside a <script> element. NaN is refused: not measured is null."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE_JSON.sub(lambda match: _JSON_ESCAPES[match[0]], text))


def plotly_text(name: object) -> str:
    """`name` for Plotly, which reads pseudo-HTML (<b>, <a>, entities) in all its texts."""
    return shown(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(name: str, limit: int = 18) -> str:
    """`name` with its middle left out when longer than `limit`: names of one training series differ at the end."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[head + 1 - limit :]}"


@cache
def asset(name: str) -> str:
    """A style sheet or script of `mirror/report/templates`, read once."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def plotly_javascript() -> str:
    """Plotly's own library, as its Python package ships it, without importing that package (50 ms)."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The dashboard needs plotly: pip install plotly", name="plotly")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def render(
    name: str,
    facts: Sequence[tuple[str, str]],
    warnings: Sequence[str],
    plotly: bool = False,
    parts: Sequence[str] = (),
    **values: object,
) -> str:
    """The page of the template `name`, with its style sheet and, where it has one, its script inside.

    `facts` are the label and text pairs of its head. `parts` name further style sheets and scripts, before its own.
    `plotly`: with that library, whose WebGL drawing compiles functions from text, which a policy must allow explicitly.
    """
    styles = [asset(f"{one}.css") for one in ("base", *parts, name) if (TEMPLATES / f"{one}.css").is_file()]
    scripts = [plotly_javascript()] if plotly else []
    scripts += [asset(f"{one}.js") for one in (*parts, name) if (TEMPLATES / f"{one}.js").is_file()]
    for text in (*styles, *scripts):
        if re.search("</(script|style)", text, re.IGNORECASE):
            raise ValueError("an inlined style sheet or script would end its own element")
    return (
        _environment()
        .get_template(f"{name}.html")
        .render(
            policy=_policy(scripts, plotly),
            facts=facts,
            warnings=warnings,
            styles=[Markup(text) for text in styles],
            scripts=[Markup(text) for text in scripts],
            **values,
        )
    )


def _policy(scripts: Sequence[str], needs_eval: bool) -> str:
    sources = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    if needs_eval:
        sources.append("'unsafe-eval'")
    return (
        f"default-src 'none'; script-src {' '.join(sources)}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["number"] = number
    return environment


def number(value: float | None, digits: int = 3) -> str:
    """A measured value for people; an en dash where nothing was measured."""
    return "\N{EN DASH}" if value is None or value != value else f"{value:.{digits}f}"


def encoded(picture: bytes | None) -> str | None:
    """A picture as base64, which needs no escaping; None without one."""
    return base64.b64encode(picture).decode("ascii") if picture else None


def moment(created: str) -> str:
    """The time at which a document was made, for people."""
    return shown(created).replace("T", " ", 1)


def sensor_facts(sensors: GapSensors) -> list[tuple[str, str]]:
    """Who measured hands, eyes and expressions."""
    found = (("Hands by", sensors.hands), ("Eyes by", sensors.eyes), ("Expressions by", sensors.expression))
    return [(label, shown(identity or "no model: not measured")) for label, identity in found]


def sibling_link(summary: Summary, prefix: str) -> str | None:
    """Relative address of the result file whose name begins with `prefix`, to link the two pages; None without one."""
    names = (Path(name).name for name in summary.results.values())
    return next((quote(name) for name in names if name.startswith(prefix) and name.endswith(".html")), None)


def run_facts(summary: Summary) -> list[tuple[str, str]]:
    """What measured this run, as label and text, for the head of both pages."""
    providers = ", ".join(f"{name} ({faces:,} faces)" for name, faces in summary.providers.items()) or "none"
    return [
        ("Created", moment(summary.created)),
        ("Model pack", shown(summary.pack.identity)),
        ("Measured by", shown(providers)),
        ("Head angles from", ANGLE_SOURCES[summary.pack.pose_source]),
        ("Pack licence", shown(summary.pack.licence)),
    ]
