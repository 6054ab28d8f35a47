"""Exports slides to QuPath: images, GeoJSON, and a script for its script editor that imports and colours them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from dermatome.classes import Rgb
from dermatome.errors import BadImage
from dermatome.export.results import SlideResults
from dermatome.slides.slide import MppSource
from dermatome.storage.files import write_atomic

SCRIPT = "dermatome.groovy"
_TYPES = {"cell": "BRIGHTFIELD_H_DAB", "nucleus": "BRIGHTFIELD_H_E"}


def export_qupath(slides: Iterable[SlideResults], out: Path) -> list[str]:
    """Writes `<slide>.<suffix>`, a `<slide>.<what>.geojson` for each kind of outlines, and :data:`SCRIPT` to a folder.

    A class has one colour in QuPath: layers get the colours for the slide with most layers.

    Results are read one by one, and existing files are replaced. Returns the names of the slides.

    Raises:
        BadImage: the image is a folder of DICOM files.
        StorageFailed: the disk is full or the folder is not writable.
    """
    colours: dict[str, Rgb] = {}
    layers: dict[str, Rgb] = {}
    mpp: dict[str, float] = {}
    types: dict[str, str] = {}
    for found in slides:
        name = found.slide.name
        if found.image.is_dir():
            raise BadImage(f"{name} is a folder of DICOM files: add it to QuPath and import its GeoJSON files by hand.")
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.image, out / f"{name}{found.image.suffix}")
        for what, path in found.outlines.items():
            shutil.copyfile(path, out / f"{name}.{what}.geojson")
        of_layers = {label: rgb for label, rgb in found.colours.items() if label.startswith("layer ")}
        layers = max(layers, of_layers, key=len)
        colours |= found.colours
        types[name] = _TYPES[found.kind]
        if found.slide.mpp_source is MppSource.DECLARED:
            mpp[name] = found.slide.mpp
    script = (files("dermatome.export") / "qupath.groovy").read_text()
    for mark, entries in (
        ("@COLOURS@", [(_text(label), str(list(rgb))) for label, rgb in (colours | layers).items()]),
        ("@MPP@", [(_text(name), f"{value:g}") for name, value in mpp.items()]),
        ("@TYPES@", [(_text(name), _text(kind)) for name, kind in types.items()]),
    ):
        lines = ",\n".join(f"    {key}: {value}" for key, value in entries)
        script = script.replace(mark, lines or "    :")  # [:] is an empty map
    write_atomic(out / SCRIPT, script.encode())
    return list(types)


def _text(text: str) -> str:
    """A string literal of Groovy without substitution."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
