"""The model pack that somebody asked for: found, or fetched once."""

from __future__ import annotations

from mirror.faces.packs import Pack, find_pack, missing_demo_pack
from utils.console import UserError, say
from utils.defaults import DEMO_PACK


def find_or_download(asked: str, url: str | None = None) -> Pack:
    """The pack `asked` for, fetched once if need be. Raises UserError: no other pack ever takes its place."""
    pack = find_pack(asked)
    if pack is not None:
        return pack
    if asked == DEMO_PACK:
        raise UserError(missing_demo_pack())
    from mirror.faces.pack_download import DOWNLOAD_URL, download_with_bar  # the network's libraries load slowly

    url = url or DOWNLOAD_URL.format(name=asked)
    say(f"The model pack {asked} is not here yet; downloading it once from {url}")
    return download_with_bar(asked, url)
