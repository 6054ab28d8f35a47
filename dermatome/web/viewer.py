"""An image with layers that can be chosen and faded, as one piece of HTML: everything happens in the browser.

So no result is kept on the server, two people cannot meet each other's, and the controls are the browser's own, which
work with a keyboard and a screen reader. Text that comes from a file's name is escaped.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermatome.classes import Rgb, RgbImage
from dermatome.imaging.overlay import borders

VIEW_PX = 1200
"""Longest side of what is sent to a browser."""


@dataclass(frozen=True)
class Layer:
    """What may be laid over the image.

    Attributes:
        title: of its button.
        pixels: (h, w, 4) uint8, clear where there is nothing.
        legend: names and colours.
    """

    title: str
    pixels: npt.NDArray[np.uint8]
    legend: Sequence[tuple[str, Rgb]] = ()


def filled_layer(
    title: str, labels: npt.NDArray[Any], colours: Sequence[Rgb], legend: Sequence[tuple[str, Rgb]] = ()
) -> Layer:
    """Labels (h, w) as areas of colour with their borders darker; label 0 is clear."""
    pixels = np.zeros((*labels.shape, 4), np.uint8)
    pixels[..., :3] = np.asarray(colours, np.uint8)[labels]
    pixels[..., 3] = np.where(labels > 0, 255, 0)
    edge = borders(labels)
    pixels[edge, :3] //= 3
    return Layer(title, pixels, legend)


def viewer_html(image: RgbImage, layers: Sequence[Layer], *, name: str, caption: str) -> str:
    """The image, its layers, and controls: which layer, how opaque, how large.

    Args:
        image: (h, w, 3) uint8.
        layers: of the same size; the first is shown.
        name: of the image, for its description.
        caption: below it.
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
        pictures.append(
            f'<img class="dm-layer dm-layer-{number}" alt="{title} of {shown}" src="{_png_uri(layer.pixels)}">'
        )
        entries = "".join(
            f'<li><span class="dm-swatch" style="background:rgb{colour}"></span>{escape(text)}</li>'
            for text, colour in layer.legend
        )
        legends.append(f'<ul class="dm-legend dm-layer-{number}" aria-label="Legend of {title}">{entries}</ul>')
    return (
        f'<form class="dm-viewer" onsubmit="return false">'
        f'<div class="dm-controls">'
        f"<fieldset><legend>Layer</legend>{''.join(choices)}</fieldset>"
        f"{_slider('Opacity', 'opacity', 0, 100, 5, 55)}{_slider('Zoom', 'zoom', 100, 400, 25, 100)}"
        f"</div>"
        f'<div class="dm-scroll" tabindex="0" role="group" aria-label="Image {shown}, scrollable">'
        f'<div class="dm-stack"><img alt="{shown}" src="{jpeg_uri(image)}">{"".join(pictures)}</div></div>'
        f'{"".join(legends)}<p class="dm-caption">{escape(caption)}</p></form>'
    )


def picture_html(png: bytes, description: str) -> str:
    """A figure (PNG bytes) as wide as the page, to be scrolled where that is narrow."""
    return (
        f'<div class="dm-scroll" tabindex="0" role="group" aria-label="{escape(description)}, scrollable">'
        f'<img class="dm-figure" alt="{escape(description)}" src="{_uri("image/png", png)}"></div>'
    )


def status_html(message: str, *, bad: bool = False) -> str:
    """A sentence for the person, which screen readers speak as it comes."""
    kind = "dm-bad" if bad else "dm-good"
    return f'<p class="dm-status {kind}" role="{"alert" if bad else "status"}">{escape(message)}</p>'


def markdown_text(text: str) -> str:
    """Escapes text that is shown as Markdown, so that it is shown as it is."""
    return re.sub(r"([\\`*_{}\[\]<>&#!$|~])", r"\\\1", text)


def _slider(title: str, name: str, low: int, high: int, step: int, value: int) -> str:
    return (
        f'<label class="dm-slider"><span>{title}</span> <input type="range" name="{name}" min="{low}" max="{high}" '
        f'step="{step}" value="{value}" oninput="this.form.style.setProperty(\'--{name}\', this.value / 100);'
        f"this.nextElementSibling.textContent = this.value + ' %'\"> <output>{value} %</output></label>"
    )


def _png_uri(pixels: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6)
    return _uri("image/png", buffer.getvalue())


def jpeg_uri(pixels: RgbImage) -> str:
    """An image as an address that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    return _uri("image/jpeg", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
