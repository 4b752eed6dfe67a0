"""Verdicts through the real script on real photos: only a photo that comes back is called a copy."""

import pytest
from PIL import Image

# One photo a person or more, as references; others of the same people and of more beside them.
REFERENCES = ("d1.jpeg", "d5.jpeg", "Rob_Lowe_0001.jpg", "kun.jpg", "woman.png", "yifei.jpg", "happy.png", "sad.png")
OTHERS = ("d3.jpeg", "d4.jpeg", "Rob_Lowe_0002.jpg", "woman_search.jpeg", "open_eyes.png", "close_eyes.jpeg")
OTHERS += ("anger.png", "mask2.jpg", "image_T1.jpeg", "rise_face.jpeg", "Nathalie_Baye_0002.jpg")
COPIED = "d1.jpeg"
COPYING = {"overtrained", "copycat", "black hole"}


def crops_and_turns(image, count):
    """The same photo again and again: turned by up to 10 degrees and cropped by up to a fifth."""
    width, height = image.size
    for i in range(count):
        turned = image.rotate(20 * i / (count - 1) - 10, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
        part = 0.02 * (i % 6)
        yield turned.crop((round(width * part), round(height * part), round(width * (1 - part)), height))


@pytest.fixture
def judged(metrics, tmp_path, photos, mini_pack):
    """Verdicts of each group of one run."""
    for folder, names in (("ref", REFERENCES), ("cand/others", OTHERS)):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).write_bytes((photos / name).read_bytes())
    again = tmp_path / "cand" / "again"
    again.mkdir()
    for i, image in enumerate(crops_and_turns(Image.open(photos / COPIED).convert("RGB"), 12)):
        image.save(again / f"{i:02d}.jpg", quality=92)
    run = metrics("--pack", mini_pack)
    assert run.code == 0, run.stderr
    return {group["name"]: group["verdicts"] for group in run.summary["groups"]}


def test_other_photos_are_no_copies_and_crops_of_one_are(judged):
    others = {verdict["name"] for verdict in judged["others"]}
    assert not others & COPYING, judged["others"]
    again = {verdict["name"]: verdict for verdict in judged["again"]}
    assert "overtrained" in again, judged["again"]
    assert again["overtrained"]["numbers"]["copies"] >= 10
    assert again["black hole"]["numbers"]["reference"] == COPIED
