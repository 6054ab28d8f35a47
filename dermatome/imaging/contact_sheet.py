"""Panels of images on one sheet, put together pixel by pixel.

A slide's figure is little more than images and a few words. Composed here it costs a tenth of what a plotting library
takes, and other threads work meanwhile.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dermatome.classes import Rgb, TissueClass
from dermatome.geometry import Box, Size
from dermatome.slides.slide import RgbImage

TISSUES: tuple[tuple[str, Rgb], ...] = tuple((tissue.label, tissue.colour) for tissue in TissueClass)
INK, GREY, RIM = (34, 34, 34), (118, 118, 118), (153, 153, 153)
_MARGIN, _GAP, _TITLE, _HEADING, _LEGEND = 16, 16, 36, 52, 56
"""Of the sheet, between panels, and the heights of a panel's title, the heading and the legend; px."""


@dataclass(frozen=True)
class Panel:
    """One image of a sheet.

    Attributes:
        image: (h, w, 3) uint8, or (h, w) uint8 for greys.
        title: above it.
        span: the part of the slide it stands for, px of the slide.
        frames: parts to mark, px of the slide from the panel's corner.
    """

    image: Any
    title: str
    span: Size
    frames: tuple[Box, ...] = ()


def draw_sheet(
    panels: Sequence[Panel],
    columns: int,
    side_px: int,
    *,
    mpp: float,
    name: str,
    facts: Sequence[str],
    note: str,
    classes: Sequence[tuple[str, Rgb]] = TISSUES,
) -> bytes:
    """A sheet of panels, each with a scale bar, under a heading and over a legend of the classes: PNG bytes.

    Args:
        panels: row by row; the first one's shape decides the room for each.
        columns: panels in a row.
        side_px: width of a panel.
        mpp: microns per pixel of the slide.
        name: the slide's, in bold.
        facts: after it.
        note: lower right.
        classes: label and colour of each.
    """
    aspect = min(2.5, max(0.4, panels[0].span.height_px / panels[0].span.width_px))
    room = Size(round(side_px * aspect), side_px)
    rows = math.ceil(len(panels) / columns)
    width = 2 * _MARGIN + columns * room.width_px + (columns - 1) * _GAP
    sheet = Image.new("RGB", (width, _HEADING + rows * (room.height_px + _TITLE) + _LEGEND), "white")
    draw = ImageDraw.Draw(sheet, "RGBA")
    _heading(draw, name, facts)
    for number, panel in enumerate(panels):
        left = _MARGIN + number % columns * (room.width_px + _GAP)
        top = _HEADING + number // columns * (room.height_px + _TITLE)
        draw.text((left, top + 5), panel.title, INK, _font(21))
        _place(sheet, draw, panel, left, top + _TITLE, room, mpp)
    _legend(draw, sheet.height - _LEGEND // 2 + 4, width, note, classes)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def panel_size(span: Size, side_px: int) -> Size:
    """How large an image of ``span`` is drawn at most: no more of it needs to be prepared."""
    scale = min(side_px / span.width_px, 2.5 * side_px / span.height_px)
    return Size(max(1, round(span.height_px * scale)), max(1, round(span.width_px * scale)))


def round_length_um(about_um: float) -> float:
    """The largest of 1, 2, 5, 10, … that is not above ``about_um``."""
    if not about_um > 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(about_um))
    return max(step * power for step in (1, 2, 5) if step * power <= about_um * 1.0001)


def bar_length_um(span: Size, mpp: float) -> float:
    """Of the scale bar of an image of ``span``: round, and about a fifth of its longer side."""
    return round_length_um(min(max(span.height_px, span.width_px) / 4.5, span.width_px / 2) * mpp)


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int, room: Size, mpp: float
) -> None:
    span = panel.span
    scale = min(room.width_px / span.width_px, room.height_px / span.height_px)
    width, height = max(1, round(span.width_px * scale)), max(1, round(span.height_px * scale))
    left += (room.width_px - width) // 2
    sheet.paste(Image.fromarray(_resized(panel.image, width, height)), (left, top))
    draw.rectangle((left, top, left + width - 1, top + height - 1), outline=RIM)
    for frame in panel.frames:
        corners = [round(edge * scale) for edge in (frame.left_px, frame.top_px, frame.right_px, frame.bottom_px)]
        box = (left + corners[0], top + corners[1], left + corners[2] - 1, top + corners[3] - 1)
        draw.rectangle((box[0], box[1], max(box[0], box[2]), max(box[1], box[3])), outline=(0, 0, 0), width=2)
    length_um = bar_length_um(span, mpp)
    bar, side = max(1, round(length_um / mpp * scale)), max(width, height)
    words, font = f"{length_um:g} µm", _font(17)
    x, y, thick = left + round(0.035 * side), top + height - round(0.035 * side), max(3, round(0.014 * side))
    pad = max(3, round(0.01 * side))
    above = draw.textbbox((x, y - thick - 4), words, font=font, anchor="lb")
    draw.rectangle((x - pad, above[1] - 3, max(x + bar, above[2]) + pad, y + pad), fill=(255, 255, 255, 217))
    draw.text((x, y - thick - 4), words, (0, 0, 0), font, anchor="lb")
    draw.rectangle((x, y - thick, x + bar - 1, y - 1), fill=(0, 0, 0))


def _resized(image: Any, width: int, height: int) -> RgbImage:
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    # What is very small is shown as the pixels it is.
    larger = cv2.INTER_NEAREST if rgb.shape[0] < 300 else cv2.INTER_LINEAR
    how = cv2.INTER_AREA if rgb.shape[0] >= height else larger
    return np.asarray(cv2.resize(np.ascontiguousarray(rgb), (width, height), interpolation=how))


def _heading(draw: ImageDraw.ImageDraw, name: str, facts: Sequence[str]) -> None:
    draw.text((_MARGIN, 14), name, INK, _font(21, bold=True))
    after = _MARGIN + draw.textlength(name, _font(21, bold=True)) + 24
    draw.text((after, 14), "  ·  ".join(facts), INK, _font(21))


def _legend(draw: ImageDraw.ImageDraw, middle: int, width: int, note: str, classes: Sequence[tuple[str, Rgb]]) -> None:
    font, swatch, between = _font(19), (26, 16), 34
    x = _MARGIN
    for label, colour in classes:
        draw.rectangle((x, middle - swatch[1] // 2, x + swatch[0], middle + swatch[1] // 2), colour, (102, 102, 102))
        draw.text((x + swatch[0] + 10, middle), label, INK, font, anchor="lm")
        x += swatch[0] + 10 + int(draw.textlength(label, font)) + between
    draw.text((width - _MARGIN, middle), note, GREY, _font(16), anchor="rm")


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The typeface of the other figures: DejaVu Sans, which comes with matplotlib."""
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
