"""What finds cells in windows of a slide: Cellpose's way apart, each method is one :class:`Segmenter`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dermatome.classes import Instances
from dermatome.geometry import Box


@dataclass(frozen=True)
class Segmenter:
    """A network or an algorithm that finds cells.

    Attributes:
        name: of the weights, or of the method if it has none.
        sha256: of the weights file, or of what defines the method.
        licence: of the weights.
        on: makes of a slide and its microns per pixel a function from a box to the instances in it, (h, w) int32, 0
            background; those far from the box's edges must not depend on where the edges are. The slide's
            ``read_rgb(box)`` gives its pixels, ``network_input(box)`` its hematoxylin, 0 to 1.
        warning: what every result must say of it; empty if nothing.
        device_name: where it runs.
        backend: what runs it.
        precision: number format of its network; empty without one.
        halo_um: how far a window looks beyond its core, µm: more than a cell is wide.
    """

    name: str
    sha256: str
    licence: str
    on: Callable[[Any, float], Callable[[Box], Instances]]
    warning: str = ""
    device_name: str = "cpu"
    backend: str = ""
    precision: str = ""
    halo_um: float = 40.0
