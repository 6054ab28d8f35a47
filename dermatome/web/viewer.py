"""HTML of an image with layers that can be chosen and faded.

The HTML holds its pictures, so the server keeps no result that another person could see. The controls are the browser's
own and work with a keyboard and a screen reader. Text that comes from the name of a file is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb, RgbImage
from dermatome.imaging.overlay import borders
from dermatome.reports.html import data_uri, picture_uri
from dermatome.slides.slide import Slide

VIEW_PX = 1200
"""Longest side of the pictures that are sent to a browser."""


@dataclass(frozen=True)
class Layer:
    """A picture that can be shown over the image.

    Attributes:
        title: Label of its button.
        pixels: RGBA, (h, w, 4) uint8, transparent where there is nothing.
        legend: Names and colours.
    """

    title: str
    pixels: npt.NDArray[np.uint8]
    legend: Sequence[tuple[str, Rgb]] = ()


def filled_layer(
    title: str, labels: npt.NDArray[Any], colours: Sequence[Rgb], legend: Sequence[tuple[str, Rgb]] = ()
) -> Layer:
    """Colours labels, (h, w), with darker borders; label 0 is transparent."""
    pixels = np.zeros((*labels.shape, 4), np.uint8)
    pixels[..., :3] = np.asarray(colours, np.uint8)[labels]
    pixels[..., 3] = np.where(labels > 0, 255, 0)
    edge = borders(labels)
    pixels[edge, :3] //= 3
    return Layer(title, pixels, legend)


def slide_html(slide: Slide, layers: Sequence[Layer]) -> str:
    """Shows a slide with layers, its size, its scale, and how the image was converted when it was read."""
    image, size = slide.overview(VIEW_PX), slide.size
    caption = f"{size.width_px:,} × {size.height_px:,} px, shown at {image.shape[1]:,} px; {slide.mpp_note}."
    if slide.conversions:
        caption += f" Conversions: {'; '.join(slide.conversions)}."
    return viewer_html(image, layers, name=slide.name, caption=caption)


def viewer_html(image: RgbImage, layers: Sequence[Layer], *, name: str, caption: str) -> str:
    """Shows an image with controls: which layer, opacity, zoom.

    Args:
        image: (h, w, 3) uint8.
        layers: Layers of the same size; the first one is shown initially.
        name: Name of the image, for its description.
        caption: Text below the image.
    """
    shown = escape(name)
    choices, pictures, legends = [], [], []
    for number, layer in enumerate(layers):
        title = escape(layer.title)
        checked = " checked" if number == 0 else ""
        # The name groups radio buttons within a form, so a second viewer on the page has a group of its own.
        choices.append(
            f'<label><input type="radio" name="layer" value="{number}"{checked}> <span>{title}</span></label>'
        )
        drawn = picture_uri(layer.pixels, "png", compress_level=6)
        pictures.append(f'<img class="dm-layer dm-layer-{number}" alt="{title} of {shown}" src="{drawn}">')
        entries = "".join(
            f'<li><span class="dm-swatch" style="background:rgb{colour}"></span>{escape(text)}</li>'
            for text, colour in layer.legend
        )
        legends.append(f'<ul class="dm-legend dm-layer-{number}" aria-label="Legend of {title}">{entries}</ul>')
    slide = picture_uri(image, "jpeg", quality=88)
    return (
        f'<form class="dm-viewer" onsubmit="return false">'
        f'<div class="dm-controls">'
        f"<fieldset><legend>Layer</legend>{''.join(choices)}</fieldset>"
        f"{_slider('Opacity', 'opacity', 0, 100, 5, 55)}{_slider('Zoom', 'zoom', 100, 400, 25, 100)}"
        f"</div>"
        f'<div class="dm-scroll" tabindex="0" role="group" aria-label="Image {shown}, scrollable">'
        f'<div class="dm-stack"><img alt="{shown}" src="{slide}">{"".join(pictures)}</div></div>'
        f'{"".join(legends)}<p class="dm-caption">{escape(caption)}</p></form>'
    )


def picture_html(png: bytes, description: str) -> str:
    """Shows a figure (PNG bytes) at the width of the page; on a narrow page it can be scrolled."""
    return (
        f'<div class="dm-scroll" tabindex="0" role="group" aria-label="{escape(description)}, scrollable">'
        f'<img class="dm-figure" alt="{escape(description)}" src="{data_uri("image/png", png)}"></div>'
    )


def status_html(message: str, *, bad: bool = False, warning: str = "") -> str:
    """A status or error message, which screen readers announce; amber if it comes with a ``warning``."""
    kind = "dm-bad" if bad else "dm-warn" if warning else "dm-good"
    text = f"<strong>{escape(warning)}</strong> {escape(message)}" if warning else escape(message)
    return f'<p class="dm-status {kind}" role="{"alert" if bad else "status"}">{text}</p>'


def markdown_text(text: str) -> str:
    """Escapes the special characters of Markdown and HTML in a text."""
    return re.sub(r"([\\`*_{}\[\]<>&#!$|~])", r"\\\1", text)


def _slider(title: str, name: str, low: int, high: int, step: int, value: int) -> str:
    return (
        f'<label class="dm-slider"><span>{title}</span> <input type="range" name="{name}" min="{low}" max="{high}" '
        f'step="{step}" value="{value}" oninput="this.form.style.setProperty(\'--{name}\', this.value / 100);'
        f"this.nextElementSibling.textContent = this.value + ' %'\"> <output>{value} %</output></label>"
    )
