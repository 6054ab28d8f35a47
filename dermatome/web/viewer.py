"""HTML of the pages, from templates with embedded pictures, so the server keeps no results that others could see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb
from dermatome.imaging.overlay import borders
from dermatome.reports.html import picture_uri, template
from dermatome.slides.slide import Slide

VIEW_PX = 1200
"""Longest side of the pictures that are sent to a browser, px."""


@dataclass(frozen=True)
class Layer:
    """A picture that can be shown over the image.

    Attributes:
        title: Label of its button.
        pixels: (h, w, 4) uint8 RGBA, transparent where nothing is shown.
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
    pixels[borders(labels), :3] //= 3
    return Layer(title, pixels, legend)


def slide_html(slide: Slide, layers: Sequence[Layer]) -> str:
    """Shows a slide with layers of its overview's size, the first one over it, and controls.

    The caption states the slide's size, its scale, and the conversions made when it was read.
    """
    image, size = slide.overview(VIEW_PX), slide.size
    caption = f"{size.width_px:,} × {size.height_px:,} px, shown at {image.shape[1]:,} px; {slide.mpp_note}."
    if slide.conversions:
        caption += f" Conversions: {'; '.join(slide.conversions)}."
    return web_template("viewer", image=image, layers=layers, name=slide.name, caption=caption, uri=picture_uri)


def web_template(page: str, /, **values: Any) -> str:
    """Renders a template of the web app, which escapes every value."""
    return template(f"{page}.html.j2", "dermatome.web").render(**values)


def status_html(message: str, *, bad: bool = False, warning: str = "") -> str:
    """A status or error message, which screen readers announce; amber if it comes with a ``warning``."""
    kind = "dm-bad" if bad else "dm-warn" if warning else "dm-good"
    text = f"<strong>{escape(warning)}</strong> {escape(message)}" if warning else escape(message)
    return f'<p class="dm-status {kind}" role="{"alert" if bad else "status"}">{text}</p>'


def markdown_text(text: str) -> str:
    """Escapes the special characters of Markdown and HTML in a text."""
    return re.sub(r"([\\`*_{}\[\]<>&#!$|~])", r"\\\1", text)
