"""The picture of a face sheet: cells in rows, each with its label, in the colours that were asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mirror.export.facesheet import Choice, Pick
from mirror.export.geometry import warp
from utils.console import UserError

DPI = 300
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
# JPEG's quality at which print shops see no blocks, colours at full size; TIFF without loss.
_SAVED_WITH = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"}}
_MOST_PIXELS = 65000  # a side: JPEG's limit is 65,535 (ITU-T T.81, 16 bits)

ORIGINAL = "original"
_PAPER = (255, 255, 255)  # RGB
_BORDER = 8  # pixels of a picture's edge, whose colour goes on outside of it

# Shares of the cell.
_GAP, _LABEL, _LETTERS = 1 / 64, 0.085, 0.042


@dataclass(frozen=True)
class Layout:
    """Where the cells are. Pixels."""

    cell: int
    columns: int
    count: int

    @property
    def gap(self) -> int:
        return max(2, round(self.cell * _GAP))

    @property
    def label(self) -> int:
        return max(12, round(self.cell * _LABEL))

    @property
    def size_wh(self) -> tuple[int, int]:
        rows = -(-self.count // self.columns)
        return (
            self.columns * (self.cell + self.gap) + self.gap,
            rows * (self.cell + self.label + self.gap) + self.gap,
        )

    def box(self, index: int) -> tuple[int, int, int, int]:
        """xyxy of a cell without its label."""
        row, column = divmod(index, self.columns)
        left = self.gap + column * (self.cell + self.gap)
        top = self.gap + row * (self.cell + self.label + self.gap)
        return left, top, left + self.cell, top + self.cell


def layout_of(cell: int, columns: int, count: int) -> Layout:
    """Raises UserError for a sheet that no file can hold."""
    layout = Layout(cell, min(columns, count), count)
    if max(layout.size_wh) > _MOST_PIXELS:
        width, height = layout.size_wh
        raise UserError(f"A sheet of {width} x {height} pixels is too large; give a smaller --cell or other --columns.")
    return layout


def demand_format(output: Path) -> str:
    """What Pillow calls the format of the file's suffix. Raises UserError for others."""
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"--output {output} takes the name of a picture that ends in {', '.join(FORMATS)}.")
    return FORMATS[output.suffix.lower()]


def colour_of(text: str) -> tuple[int, int, int] | None:
    """RGB of `--background`; None for the original. Raises UserError."""
    if text == ORIGINAL:
        return None
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError(
            f"--background takes {ORIGINAL}, a colour's name such as white, or #rrggbb, not {text!r}."
        ) from error


def draw_sheet(choices: list[Choice], layout: Layout, background: tuple[int, int, int] | None) -> Image.Image:
    """All cells with their labels. Raises UserError where a picture can no longer be read."""
    paper = background or _PAPER
    ink = (0, 0, 0) if np.dot(paper, (0.299, 0.587, 0.114)) > 127 else (255, 255, 255)
    sheet = Image.new("RGB", layout.size_wh, paper)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(9, round(layout.cell * _LETTERS)))
    for index, choice in enumerate(choices):
        left, top, right, bottom = layout.box(index)
        if choice.best is None:
            draw.rectangle((left, top, right - 1, bottom - 1), outline=ink, width=max(1, layout.cell // 256))
            draw.text(((left + right) / 2, (top + bottom) / 2), "not in the dataset", ink, font, "mm")
        else:
            head = drawn(choice.best, layout.cell, background)
            sheet.paste(Image.fromarray(np.ascontiguousarray(head[:, :, ::-1])), (left, top))
        _label(draw, choice, (left, bottom, right, bottom + layout.label), font, ink)
    return sheet


def drawn(pick: Pick, cell: int, background: tuple[int, int, int] | None) -> np.ndarray:
    """(cell, cell, 3) uint8 BGR: the levelled head."""
    image = pick.candidate.image()
    border = _edge_colour(image) if background is None else background[::-1]
    return warp(image, pick.placement.matrix, (cell, cell), tuple(int(value) for value in border))


def _edge_colour(image: np.ndarray) -> np.ndarray:
    """BGR that is usual at the edge of a picture."""
    wide = min(_BORDER, *image.shape[:2])
    strips = (image[:wide], image[-wide:], image[:, :wide], image[:, -wide:])
    return np.median(np.concatenate([strip.reshape(-1, 3) for strip in strips]), axis=0)


def _label(
    draw: ImageDraw.ImageDraw,
    choice: Choice,
    box: tuple[int, int, int, int],
    font: ImageFont.FreeTypeFont,
    ink: tuple[int, int, int],
) -> None:
    """The angle's name to the left; the measured angle, and what is generated, to the right."""
    left, top, right, bottom = box
    left, right = left + (bottom - top) // 6, right - (bottom - top) // 6  # so that two labels are not read as one
    draw.text((left, (top + bottom) / 2), choice.angle.name, ink, font, "lm")
    if choice.best is not None:
        candidate = choice.best.candidate
        by = choice.angle.by
        degrees = candidate.face.pitch_deg if by == "pitch" else candidate.face.yaw_deg
        words = f"{by} {round(round(degrees, 1))}"  # as the record has it
        draw.text(
            (right, (top + bottom) / 2), f"generated, {words}" if candidate.is_synthetic else words, ink, font, "rm"
        )


def encoded(sheet: Image.Image, name: str) -> bytes:
    """The file: in Pillow's format `name`, for print at DPI, with no other metadata."""
    file = io.BytesIO()
    sheet.save(file, name, dpi=(DPI, DPI), **_SAVED_WITH[name])
    return file.getvalue()
