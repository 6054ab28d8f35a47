"""The commands that follow a number back: `dermatome explain`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.cli.support import warn

if TYPE_CHECKING:
    from dermatome.skin.explain import Explanation

Data = Annotated[str, typer.Option(help="Data root with the results.")]


def explain(
    slide: Annotated[str, typer.Argument(help="Name of the slide.", show_default=False)],
    column: Annotated[str, typer.Option(help="Column of the value, such as mean_dab_od.", show_default=False)],
    layer: Annotated[int | None, typer.Option(help="Layer of the value; 1 is the basal one.")] = None,
    cell: Annotated[int | None, typer.Option(help="Cell of the value: its cell_id.")] = None,
    zone: Annotated[str | None, typer.Option(help="Zone of the value, such as basal.")] = None,
    relative_depth: Annotated[
        float | None, typer.Option(help="Relative depth of the value, of which the bin is taken.", min=0, max=1)
    ] = None,
    data: Data = "dermatome_data",
    pixels: Annotated[
        Path | None, typer.Option(help="PNG file to write: the image around the counted pixels, with their outline.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Show what a value was computed from, and compute it again from those files alone.

    Without a layer, cell, zone or depth, it is a value of the whole epidermis, such as h_score. The exit code is 1 if
    the value computed again is not the stored one, to the last bit.

    Example: dermatome explain 901-1_A_1_1 --layer 2 --column mean_dab_od --pixels layer2.png
    """
    from dermatome.skin.explain import explain_value, pixels_picture
    from dermatome.storage.layout import DataRoot

    given = {"layer": layer, "cell": cell, "zone": zone, "relative_depth": relative_depth}
    chosen: list[Any] = [(part, row) for part, row in given.items() if row is not None]
    if len(chosen) > 1:
        raise typer.BadParameter("Give one of --layer, --cell, --zone and --relative-depth.")
    root = DataRoot.at(data)
    found = explain_value(root, slide, column, *(chosen or [("epidermis", None)])[0])
    if pixels is not None:
        _write_png(pixels, pixels_picture(root, slide, found))
    if as_json:
        value = {name: getattr(found, name) for name in ("of", "column", "stored", "recomputed", "equal")}
        typer.echo(json.dumps({"slide": slide} | value | found.made_from, indent=1))
    else:
        warn(found.made_from["warning"])
        for name, text in _lines(slide, found):
            typer.echo(f"{name:<12}{text}")
    if not found.equal:
        raise typer.Exit(1)


def _lines(slide: str, found: Explanation) -> Iterator[tuple[str, str]]:
    made, image, i0 = found.made_from, found.made_from["image"], found.made_from["i0"]
    yield "value", f"{found.column} of {found.of}, {slide}"
    yield "stored", f"{found.stored!r} in {made['file']}"
    yield "recomputed", f"{found.recomputed!r}: {'equal' if found.equal else 'NOT EQUAL'}"
    box = found.box
    place = "" if box is None else f", rows {box.top_px}–{box.bottom_px}, columns {box.left_px}–{box.right_px}"
    yield "pixels", f"{found.counted_px:,} px, {made['pixels']['counted_um2']:,.1f} µm²{place}"
    yield "image", f"{image['location']}, {image['width_px']}×{image['height_px']} px"
    yield "", f"sha256 {image['image_sha256']}, {image['mpp']:g} µm/px ({image['mpp_source']})"
    light = ", ".join(f"{i0[f'i0_{name}']:.2f}" for name in ("red", "green", "blue"))
    yield "I0", f"{light} ({i0['i0_source']})"
    for what in ("mask", "cells", "layers"):
        if what in made:
            result = made[what]
            version = f"code {result['code_version']} of dermatome {result['dermatome']}, {result['made_at']}"
            yield what, f"{result['asset']} {result['data_version']}, {version}"
            for file, sha256 in result["files"].items():
                yield "", f"{file} sha256 {sha256}"
            if "weights" in result:
                yield "", f"weights {result['weights']} sha256 {result['weights_sha256']}"
            yield "", f"settings {json.dumps(result['settings'])}"
    yield "computed by", f"dermatome {made['recomputed_by']}"


def _write_png(path: Path, pixels: Any) -> None:
    import io

    from PIL import Image

    from dermatome.storage.files import write_atomic

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
