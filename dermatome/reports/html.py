"""Shared parts of HTML reports: templates that escape their values, and images embedded in the page."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import jinja2
    import numpy.typing as npt


@cache
def template(name: str, package: str = "dermatome.reports") -> jinja2.Template:
    """A template of a package; it escapes every value, and an unknown name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def data_uri(kind: str, content: bytes) -> str:
    """A data URI with a file's content and media type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def encoded(pixels: npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    """An image (H, W, 3) uint8, or a map (H, W), in a format of Pillow, such as ``jpeg``, and with its options."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def picture_uri(pixels: npt.NDArray[Any], kind: str, **options: Any) -> str:
    """An image as a data URI; arguments as of :func:`encoded`."""
    return data_uri(f"image/{kind}", encoded(pixels, kind, **options))
