"""The interface of methods that find cells in windows of a slide; Cellpose alone has its own path."""

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
        name: name of the weights, or of the method if it has none.
        sha256: sha256 of the weights file, or of the definition of the method.
        licence: licence of the weights.
        on: maps a slide and its microns per pixel to a function from a box to the instances in it, (h, w) int32, 0
            background. Instances far from the box's edges must not depend on the position of the edges. The slide's
            ``read_rgb(box)`` returns its pixels, ``network_input(box)`` its hematoxylin, 0 to 1.
        warning: warning that every result must carry; empty if none.
        device_name: device that it runs on.
        backend: library that runs it.
        precision: number format of its network; empty without a network.
        halo_um: margin of a window around its core, µm; larger than a cell.
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
