"""Shared parts of figures: sheets of image panels with scale bars and legends, training curves, PNG bytes.

Pillow composes a sheet of panels in a tenth of the time that matplotlib needs, and lets other threads work meanwhile.
Charts are drawn by matplotlib without its global state, so that several threads can draw at once.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dermatome.classes import Rgb, RgbImage
from dermatome.geometry import Box, Size
from dermatome.reports.html import encoded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE_PX = 440
"""Width of a panel in a slide's sheet, px."""
DETAIL_UM = 120.0
"""Side of the square that is shown enlarged, µm."""
DPI = 150
INK, GREY, RIM = "#222222", "#767676", "#999999"
SAMPLES = 3
"""Number of best samples, and of worst samples, that are shown."""
_MARGIN, _GAP, _TITLE, _ROW_TITLE, _HEADING, _LEGEND = 16, 16, 36, 34, 52, 56
"""Margin, gap between panels, and heights of a panel's title, a row's title, the heading and the legend; px."""
SAMPLES_SHOWN = 3
"""Number of training samples in a preview."""
_PREVIEW_MARGIN, _PREVIEW_BYTES = 8, 8_000
_PREVIEW_STEPS = (
    (1.0, 25),
    (0.8, 25),
    (0.65, 25),
    (0.5, 25),
    (0.4, 25),
    (0.4, 12),
    (0.3, 10),
    (0.2, 5),
    (0.1, 5),
    (0.05, 1),
)
"""Detail of the image and quality of the WebP, until a preview fits."""

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Panel:
    """One image of a sheet.

    Attributes:
        image: (h, w, 3) uint8, or (h, w) uint8 for grey values.
        title: text above the image, or above the column if rows have titles.
        span: the part of the slide that the image shows, px of the slide.
        frames: rectangles to mark, px of the slide from the panel's corner.
    """

    image: Any
    title: str
    span: Size
    frames: tuple[Box, ...] = ()


def contact_sheet(
    panels: Sequence[Panel],
    columns: int,
    side_px: int,
    *,
    name: str,
    facts: Sequence[str] = (),
    note: str = "",
    mpp: float | None = None,
    legend: Sequence[tuple[str, Rgb]] = (),
    row_titles: Sequence[str] = (),
    chart: RgbImage | None = None,
) -> bytes:
    """Draws a sheet of panels under a heading and above a legend.

    Args:
        panels: row by row; the shape of the first one decides the room for each.
        columns: panels in a row.
        side_px: width of a panel.
        name: heading in bold, such as the name of the slide.
        facts: text after the heading.
        note: text at the lower right.
        mpp: microns per pixel of the slide; without it, no scale bars are drawn.
        legend: label and colour of each class.
        row_titles: text above each row of panels.
        chart: image to the right of the panels.

    Returns:
        PNG bytes; the same arguments give the same bytes.
    """
    aspect = min(2.5, max(0.4, panels[0].span.height_px / panels[0].span.width_px))
    room = Size(round(side_px * aspect), side_px)
    # Rows that have titles of their own share the panel titles of the first row.
    title_px, shared_px = (_ROW_TITLE, _TITLE) if row_titles else (_TITLE, 0)
    row_px = title_px + room.height_px
    rows = math.ceil(len(panels) / columns)
    right = _MARGIN + columns * (room.width_px + _GAP)
    width, height = right - _GAP + _MARGIN, shared_px + rows * row_px
    if chart is not None:
        width, height = right + chart.shape[1] + _MARGIN, max(height, chart.shape[0])
    sheet = Image.new("RGB", (width, _HEADING + height + _LEGEND), "white")
    draw = ImageDraw.Draw(sheet, "RGBA")
    draw.text((_MARGIN, 14), name, INK, _font(21, bold=True))
    after = _MARGIN + draw.textlength(name, _font(21, bold=True)) + 24
    draw.text((after, 14), "  ·  ".join(facts), INK, _font(21))
    for number, title in enumerate(row_titles):
        draw.text((_MARGIN, _HEADING + shared_px + number * row_px + 8), title, INK, _font(18))
    for number, panel in enumerate(panels):
        left = _MARGIN + number % columns * (room.width_px + _GAP)
        top = _HEADING + shared_px + number // columns * row_px
        if not row_titles or number < columns:
            draw.text((left, top - shared_px + 5), panel.title, INK, _font(21))
        _draw_panel(sheet, draw, panel, left, top + title_px, room, mpp)
    if chart is not None:
        sheet.paste(Image.fromarray(chart), (right, _HEADING))
    _draw_legend(draw, sheet.height - _LEGEND // 2 + 4, width, note, legend)
    return png_bytes(np.asarray(sheet))


@dataclass(frozen=True)
class SlideFigure:
    """The figure of a slide, and a preview of it that is readable at its small size.

    Attributes:
        png: PNG bytes.
        preview: WebP bytes; see :func:`preview_panel`.
    """

    png: bytes
    preview: bytes


def preview_panel(panel: Panel, name: str, facts: Sequence[str | tuple[str, Rgb]], mpp: float | None = None) -> bytes:
    """Draws one image above the numbers, 480 px wide, in at most 8,000 bytes, as each slide has several.

    Args:
        panel: the image; if the limit on bytes is exceeded, the image loses detail, not the text.
        name: name of the slide.
        facts: short texts, each perhaps with the colour of its class.
        mpp: microns per pixel of the panel; without it, there is no scale bar.

    Returns:
        WebP bytes.
    """
    width, text_px = 480, 24
    aspect = min(0.8, panel.span.height_px / panel.span.width_px)
    room = Size(round((width - 2 * _PREVIEW_MARGIN) * aspect), width - 2 * _PREVIEW_MARGIN)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], _PREVIEW_MARGIN, room.height_px + 2 * _PREVIEW_MARGIN + text_px
    for fact in facts:
        text, colour = fact if isinstance(fact, tuple) else (fact, None)
        wide = measure.textlength(text, _font(16)) + (24 if colour else 0)
        if x > _PREVIEW_MARGIN and x + wide > width - _PREVIEW_MARGIN:
            x, y = _PREVIEW_MARGIN, y + text_px
        places.append((x, y, text, colour))
        x += round(wide) + 22
    image, webp = np.asarray(panel.image), b""
    for detail, quality in _PREVIEW_STEPS:
        sheet = Image.new("RGB", (width, y + text_px + _PREVIEW_MARGIN), "white")
        draw = ImageDraw.Draw(sheet, "RGBA")
        least = _resized(image, max(1, round(room.width_px * detail)), max(1, round(room.width_px * detail * aspect)))
        large = cv2.resize(least, (room.width_px, max(1, round(room.width_px * aspect))), interpolation=cv2.INTER_CUBIC)
        _draw_panel(sheet, draw, replace(panel, image=large), _PREVIEW_MARGIN, _PREVIEW_MARGIN, room, mpp)
        draw.text((_PREVIEW_MARGIN, room.height_px + _PREVIEW_MARGIN + 6), name, INK, _font(16, bold=True))
        for left, top, text, colour in places:
            if colour:
                draw.rectangle((left, top + 6, left + 16, top + 18), colour, (102, 102, 102))
            draw.text((left + (24 if colour else 0), top + 2), text, INK, _font(16))
        webp = encoded(np.asarray(sheet), "webp", quality=quality)
        if len(webp) <= _PREVIEW_BYTES:
            break
    return webp


def middle(panel: Panel) -> Panel:
    """The middle of a panel, half as wide and high, in which outlines stay visible in a preview."""
    height, width = panel.image.shape[:2]
    part = panel.image[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return replace(panel, image=part, span=panel.span.scaled(0.5), frames=())


def preview_samples(samples: Sequence[RgbImage], name: str, facts: Sequence[str | tuple[str, Rgb]]) -> bytes:
    """The preview of training samples: up to three of them side by side, each as a square, above the numbers."""
    side_px, gap = 152, ((0, 0), (0, 4), (0, 0))
    squares = [np.pad(_resized(one, side_px, side_px), gap, constant_values=255) for one in samples[:SAMPLES_SHOWN]]
    squares += [np.full_like(squares[0], 255)] * (SAMPLES_SHOWN - len(squares))
    row = np.concatenate(squares, axis=1)
    return preview_panel(Panel(row, "", Size(*row.shape[:2])), name, facts)


def longest_px(span: Size, side_px: int = SIDE_PX) -> int:
    """Longer side at which an image of ``span`` is drawn at most, px: a larger image need not be prepared."""
    scale = min(side_px / span.width_px, 2.5 * side_px / span.height_px)
    return max(1, round(max(span.height_px, span.width_px) * scale))


def bar_length_um(span: Size, mpp: float) -> float:
    """Length of the scale bar of an image of ``span``: 1, 2 or 5 times a power of ten, about a fifth of its side."""
    about_um = min(max(span.height_px, span.width_px) / 4.5, span.width_px / 2) * mpp
    power: float = 10.0 ** math.floor(math.log10(about_um))
    return max(step * power for step in (1, 2, 5) if step * power <= about_um * 1.0001)


def _draw_panel(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int, room: Size, mpp: float | None
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
    if mpp is None:
        return
    length_um = bar_length_um(span, mpp)
    bar, side = max(1, round(length_um / mpp * scale)), max(width, height)
    text, font = f"{length_um:g} µm", _font(17)
    x, y, thick = left + round(0.035 * side), top + height - round(0.035 * side), max(3, round(0.014 * side))
    pad = max(3, round(0.01 * side))
    above = draw.textbbox((x, y - thick - 4), text, font=font, anchor="lb")
    draw.rectangle((x - pad, above[1] - 3, max(x + bar, above[2]) + pad, y + pad), fill=(255, 255, 255, 217))
    draw.text((x, y - thick - 4), text, (0, 0, 0), font, anchor="lb")
    draw.rectangle((x, y - thick, x + bar - 1, y - 1), fill=(0, 0, 0))


def _resized(image: Any, width: int, height: int) -> RgbImage:
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    # Keeps single pixels of very small images visible.
    larger = cv2.INTER_NEAREST if rgb.shape[0] < 300 else cv2.INTER_LINEAR
    how = cv2.INTER_AREA if rgb.shape[0] >= height else larger
    return np.asarray(cv2.resize(np.ascontiguousarray(rgb), (width, height), interpolation=how))


def _draw_legend(
    draw: ImageDraw.ImageDraw, middle: int, width: int, note: str, legend: Sequence[tuple[str, Rgb]]
) -> None:
    font, swatch, between = _font(19), (26, 16), 34
    x = _MARGIN
    for label, colour in legend:
        draw.rectangle((x, middle - swatch[1] // 2, x + swatch[0], middle + swatch[1] // 2), colour, (102, 102, 102))
        draw.text((x + swatch[0] + 10, middle), label, INK, font, anchor="lm")
        x += swatch[0] + 10 + int(draw.textlength(label, font)) + between
    draw.text((width - _MARGIN, middle), note, GREY, _font(16), anchor="rm")


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, the typeface of the charts; it comes with matplotlib."""
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def busiest_square(objects: pd.DataFrame, crop: Box, side_px: int) -> Box:
    """Finds the square with the most cells or nuclei, so that single outlines can be shown.

    Args:
        objects: a row for each object, with ``centroid_y_px`` and ``centroid_x_px``.
        crop: where the square may lie.
        side_px: side of the square; smaller where the crop is.
    """
    height_px, width_px = min(side_px, crop.size.height_px), min(side_px, crop.size.width_px)
    # Objects are counted in quarters of the square, so that a square is the sum of four by four of them.
    steps = (max(1, height_px // 4), max(1, width_px // 4))
    places = tuple((side - part) // step + 1 for side, part, step in zip(
        (crop.size.height_px, crop.size.width_px), (height_px, width_px), steps, strict=True
    ))  # fmt: skip
    bins = np.zeros([place + 4 for place in places], np.int64)
    rows = ((objects["centroid_y_px"].to_numpy(float) - crop.top_px) // steps[0]).astype(int)
    columns = ((objects["centroid_x_px"].to_numpy(float) - crop.left_px) // steps[1]).astype(int)
    known = (rows >= 0) & (rows < bins.shape[0]) & (columns >= 0) & (columns < bins.shape[1])
    np.add.at(bins, (rows[known], columns[known]), 1)
    counts = sum(bins[y : y + places[0], x : x + places[1]] for y in range(4) for x in range(4))
    row, column = np.unravel_index(int(np.argmax(counts)), places)
    top, left = crop.top_px + int(row) * steps[0], crop.left_px + int(column) * steps[1]
    return Box(top, left, top + height_px, left + width_px)


def best_and_worst(samples: Sequence[Sample], rank: Callable[[Sample], Any]) -> list[tuple[str, Sample]]:
    """Chooses up to :data:`SAMPLES` best and worst samples, none twice, best first, each with its title.

    Args:
        samples: what is scored.
        rank: sort key of a sample, lowest for the best.
    """
    ranked = sorted(samples, key=rank)
    count = min(SAMPLES, len(ranked) // 2) if len(ranked) > 1 else len(ranked)
    worst = ranked[count:][-count:]
    best = [(f"Best {n}", sample) for n, sample in enumerate(ranked[:count], 1)]
    return best + [(f"Worst {len(worst) - n}", sample) for n, sample in enumerate(worst)]


@dataclass(frozen=True)
class Line:
    """One line of a chart: a column of the training history, its label and how it is drawn."""

    column: str
    label: str
    colour: str = INK
    style: str = "-"


@dataclass(frozen=True)
class Chart:
    """One chart of :func:`curves_figure`.

    Attributes:
        title: text above the chart.
        lines: what is drawn; columns that the history lacks, or that are empty, are left out.
        share: whether values lie between 0 and 1.
    """

    title: str
    lines: tuple[Line, ...]
    share: bool = True


LOSS_CHART = Chart("Training loss", (Line("train_loss", "loss"),), share=False)


def curves_figure(history: pd.DataFrame, charts: Sequence[Chart], *, legend: Literal["last", "best"] = "last") -> bytes:
    """Draws loss and validation scores by epoch, two charts in a row; PNG bytes.

    The legend gives of each score the value of the ``last`` epoch, or the ``best``, which is the highest.
    """
    rows = math.ceil(len(charts) / 2)
    figure = new_figure(9.5, 3.6 * rows)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for letter, axes, chart in zip("abcdefghi", grid, charts, strict=False):
        axes.set_title(f"{letter}  {chart.title}", fontsize=10, loc="left", color=INK)
        for line in chart.lines:
            if line.column not in history or history[line.column].isna().all():
                continue
            values = history[line.column].astype(float)
            shown = values.max() if legend == "best" else values.dropna().iloc[-1]
            label = f"{line.label} {shown:.3f}" if chart.share else line.label
            marker = "o" if len(history) < 25 else None
            style: dict[str, Any] = {"color": line.colour, "marker": marker, "markersize": 3, "linewidth": 1.6}
            axes.plot(history["epoch"], values, line.style, label=label, **style)
        if chart.share:
            axes.set_ylim(0, 1.02)
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing was held out", transform=axes.transAxes, ha="center", color=GREY, fontsize=9)
        elif chart.share or len(chart.lines) > 1:
            title = "best epoch" if legend == "best" else "last epoch"
            axes.legend(fontsize=8, frameon=False, loc="best", title=title, title_fontsize=8)
        axes.set_xlabel("Epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        plain_axes(axes)
    return to_png(figure)


def new_figure(width_in: float, height_in: float) -> Figure:
    """Creates an empty matplotlib figure that belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """Removes the frame of a chart and adds pale horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def hex_colour(colour: Rgb) -> str:
    """A colour in the notation of matplotlib and HTML: ``#rrggbb``."""
    return f"#{bytes(colour).hex()}"


def to_png(figure: Figure) -> bytes:
    """Renders a matplotlib figure as PNG bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Renders a matplotlib figure as SVG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def to_pixels(figure: Figure) -> RgbImage:
    """Renders a matplotlib figure as (H, W, 3) uint8."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def png_bytes(pixels: npt.NDArray[Any]) -> bytes:
    """Encodes an image (H, W, 3) uint8, or a map (H, W) uint8 or uint16, as PNG."""
    return encoded(pixels, "png", compress_level=4)
