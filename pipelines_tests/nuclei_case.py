"""Toy nuclei laid out on disk as annotated images are, for tests and demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dermatome.classes import NucleusClass
from dermatome.labels.outlines import trace_polygons
from dermatome.storage.files import write_atomic
from dermatome.synthetic.nuclei import ToyNuclei


def save_toy_case(folder: Path, toys: Sequence[ToyNuclei]) -> None:
    """Writes toys as a patient of MoNuSAC lies on disk: for each ``<name>.tif`` (RGBA) and ``<name>.xml`` (Aperio)."""
    folder.mkdir(parents=True, exist_ok=True)
    for toy in toys:
        rgb = toy.slide.whole()
        opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
        Image.fromarray(np.concatenate([rgb, opaque], axis=2)).save(folder / f"{toy.slide.name}.tif")
        write_atomic(folder / f"{toy.slide.name}.xml", _aperio_xml(toy).encode())


def _aperio_xml(toy: ToyNuclei) -> str:
    """Its nuclei as ImageScope saves outlines, a layer for each class."""
    outlines: dict[int, list[str]] = {int(kind): [] for kind in NucleusClass if kind}
    for polygon in trace_polygons(toy.maps.instances):
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in polygon.rings[0])
        outlines[int(toy.maps.classes[polygon.label])].append(f"<Region><Vertices>{vertices}</Vertices></Region>")
    layers = "".join(
        f'<Annotation><Attributes><Attribute Name="{NucleusClass(kind).label.title()}"/></Attributes>'
        f"<Regions>{''.join(regions)}</Regions></Annotation>"
        for kind, regions in outlines.items()
    )
    return f'<Annotations MicronsPerPixel="{toy.slide.mpp}">{layers}</Annotations>'
