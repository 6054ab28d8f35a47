"""Parts of figures: image panels with scale bars, legends, PNG bytes. Matplotlib without its global state."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dermatome.geometry import Size
from dermatome.imaging.contact_sheet import bar_length_um
from dermatome.slides.slide import MppSource

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dermatome.slides.slide import RgbImage, Slide

PANEL_PX = 620
"""Longest side of what is kept of a slide only to be shown in a panel."""
LARGE_PANEL_PX = 900
"""Longest side of an image in a panel: little more than is drawn, as shrinking is what takes a figure its time."""
OVERVIEW_PX = 640
"""Longest side of what is looked at of a slide as a whole: its grey values, its preview."""
_PREVIEW_PX = 480
DPI = 150
INK = "#222222"
GREY = "#767676"


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that belongs to no window and no global state, so that threads may draw at once."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def show(axes: Axes, image: npt.NDArray[Any], title: str, *, span: Size, mpp: float | None, **options: Any) -> Any:
    """Shows an image that stands for ``span`` px of the slide, with a scale bar where ``mpp`` is given."""
    options.setdefault("interpolation", "nearest" if image.shape[0] < 300 else "antialiased")
    shown = axes.imshow(image, extent=(0, span.width_px, span.height_px, 0), aspect="equal", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.6)
    axes.set_title(title, fontsize=10, loc="left", color=INK, pad=4)
    if mpp is not None:
        scale_bar(axes, span, mpp)
    return shown


def scale_bar(axes: Axes, span: Size, mpp: float) -> None:
    """A bar of a round number of microns on a white plate in the lower left corner."""
    from matplotlib.patches import Rectangle

    side = max(span.width_px, span.height_px)
    length_um = bar_length_um(span, mpp)
    bar = length_um / mpp
    left, bottom = 0.035 * side, span.height_px - 0.035 * side
    thick = 0.014 * side
    text = axes.annotate(
        f"{length_um:g} µm",
        (left, bottom - thick),
        xytext=(0, 2),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=8,
        color="black",
        zorder=5,
        bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )
    text.set_in_layout(False)
    pad = 0.01 * side
    plate = (left - pad, bottom - thick - pad)
    axes.add_patch(
        Rectangle(plate, bar + 2 * pad, thick + 2 * pad, facecolor="white", alpha=0.85, linewidth=0, zorder=4)
    )
    axes.add_patch(Rectangle((left, bottom - thick), bar, thick, facecolor="black", linewidth=0, zorder=6))


def heading(figure: Figure, slide: Slide, *facts: str) -> None:
    """The slide's name and what was found, above the panels."""
    text = "  ·  ".join(facts)
    figure.suptitle(f"$\\bf{{{_escaped(slide.name)}}}$   {text}", fontsize=10, x=0.012, ha="left", color=INK)


def mpp_note(slide: Slide) -> str:
    """Where the slide's microns come from, in words."""
    source = "declared, not measured" if slide.mpp_source is MppSource.DECLARED else "stated by the file"
    return f"µm from {slide.mpp:g} µm/px ({source})"


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def png_bytes(pixels: RgbImage) -> bytes:
    """An image (H, W, 3) uint8 as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def preview(image: bytes | RgbImage, max_bytes: int = 8_000) -> bytes:
    """A small WebP of a figure (PNG bytes) or an image (H, W, 3): it is shrunk until it fits into ``max_bytes``.

    Dagster keeps it in the event of what was made, in SQLite twice, for as long as that counts.
    """
    from PIL import Image

    with Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(image) as opened:
        full = opened.convert("RGB")
    full.thumbnail((_PREVIEW_PX, _PREVIEW_PX), Image.Resampling.LANCZOS)
    small, side = full, _PREVIEW_PX
    while True:
        buffer = io.BytesIO()
        # So little that a core of noisy tissue is still 200 px wide, and the words of most figures can be read.
        small.save(buffer, format="WEBP", quality=30)
        if buffer.tell() <= max_bytes or side <= 64:
            return buffer.getvalue()
        side = max(64, int(side * min(0.92, (max_bytes / buffer.tell()) ** 0.6)))
        small = full.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)


def _escaped(text: str) -> str:
    """Plain text as it must be written inside matplotlib's mathematics."""
    return "".join({"_": r"\_", "-": "{-}", " ": r"\ "}.get(sign, sign) for sign in text if sign not in "\\${}^%&#~")
