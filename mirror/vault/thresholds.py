"""From which mean cosine two groups of faces are one person: a number of the pack, measured where that was possible."""

from __future__ import annotations

# By the pack's identity, or its name where only one pack bears it. Measured by `python -m benchmarks.vault_bench`; its
# sweeps stand in docs/facevault.md.
MEASURED = {
    "pack_mini@8fe07c3bfc3e": 0.55,  # real photos: precision 1.00, recall 1.00; at 0.50 women merge
    "demo": 0.50,  # rendered albums: below, persons merge as soon as there are many of them
}
# For packs that could not be measured here. Our choice, on the careful side: too many clusters are merged with two
# words, a mixed one is taken apart face by face. ArcFace's authors verify from about 0.3 on for single pairs.
UNMEASURED = 0.40


def default_threshold(identity: str) -> tuple[float, bool]:
    """(threshold, whether it was measured for this pack)"""
    for key in (identity, identity.partition("@")[0]):
        if key in MEASURED:
            return MEASURED[key], True
    return UNMEASURED, False
