"""What `prep` says that a dataset lacks, in words of somebody who looks for photos."""

from __future__ import annotations

from mirror.contracts.prepared import PreparedPicture, PreparedSet
from mirror.vault.dataset_steps import tell_prepared
from mirror.vault.lacking import coverage, warnings_of


def picture(number: int, angle: str) -> PreparedPicture:
    return PreparedPicture(
        file=f"{number}.png",
        source=f"photos/{number}.jpg",
        content=f"{number:064d}",
        quality=0.5,
        size_wh=(1024, 1024),
        window_xyxy=(0, 0, 1024, 1024),
        face_xyxy=(300, 300, 600, 600),
        yaw_deg=0.0,
        values={"face_angle": angle, "shot_size": "close_up", "lighting": "normal"},
        caption=None,
        caption_by=None,
    )


def test_missing_photos_are_told_with_a_number_and_without_a_limit_of_the_loop(tmp_path, capsys):
    pictures = [picture(i, "profile" if i == 0 else "front") for i in range(30)]
    shares, wanted = coverage(pictures)
    warnings = list(warnings_of(pictures, shares, "ohwx alice", 1024, 15))
    assert "Unbalanced shots: 30 of 30 pictures are close-ups." in " ".join(warnings)
    prepared = PreparedSet(
        created="",
        person="alice",
        trigger="ohwx alice",
        settings={},
        versions={},
        pictures=pictures,
        left_out=[],
        distributions=shares,
        recommendations=wanted,
        warnings=warnings,
    )
    tell_prepared(prepared, tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Lacking")]
    profiles = next(gap for gap in wanted if gap.target == "profile")
    line = f"Lacking: Profile shots are 3 % of the pictures, the goal is 20 %; {profiles.wanted} more photos would do."
    assert line in told and len(told) == len(wanted)
    assert not any("clipped" in one or "synthetic" in one for one in told)
    assert profiles.count <= profiles.wanted
