"""The commands that trace and reproduce results: `dermatome explain`, `export crate` and `replay`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.cli.export import export_app
from dermatome.cli.support import MODELS, AsJson, Data, Device, Models, Threads, complain, progress_bar, warn
from dermatome.inference.compute import ComputeSettings

if TYPE_CHECKING:
    from dermatome.skin.explain import Explanation


def explain(
    slide: Annotated[str, typer.Argument(help="Name of the slide.", show_default=False)],
    column: Annotated[str, typer.Option(help="Column of the value, such as mean_dab_od.", show_default=False)],
    layer: Annotated[int | None, typer.Option(help="Layer of the value; 1 is the basal one.")] = None,
    cell: Annotated[int | None, typer.Option(help="Cell of the value: its cell_id.")] = None,
    zone: Annotated[str | None, typer.Option(help="Zone of the value, such as basal.")] = None,
    relative_depth: Annotated[
        float | None, typer.Option(help="Relative depth of the value, 0 to 1; its bin is used.", min=0, max=1)
    ] = None,
    data: Data = "dermatome_data",
    pixels: Annotated[
        Path | None, typer.Option(help="PNG file to write: the image around the counted pixels, with their outline.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a value was computed from, and compute it again from those files alone.

    Without a layer, cell, zone or depth, it is a value of the whole epidermis, such as h_score. The exit code is 1 if
    the recomputed value differs from the stored one in any bit.

    Example: dermatome explain 901-1_A_1_1 --layer 2 --column mean_dab_od --pixels layer2.png
    """
    from dermatome.reports.figures import png_bytes
    from dermatome.skin.explain import explain_value, pixels_picture
    from dermatome.storage.files import write_atomic
    from dermatome.storage.layout import DataRoot

    given = {"layer": layer, "cell": cell, "zone": zone, "relative_depth": relative_depth}
    chosen: list[Any] = [(part, row) for part, row in given.items() if row is not None]
    if len(chosen) > 1:
        raise typer.BadParameter("Give one of --layer, --cell, --zone and --relative-depth.")
    root = DataRoot.at(data)
    found = explain_value(root, slide, column, *(chosen or [("epidermis", None)])[0])
    if pixels is not None:
        write_atomic(pixels, png_bytes(pixels_picture(root, slide, found)))
    if as_json:
        value = {name: getattr(found, name) for name in ("of", "column", "stored", "recomputed", "equal")}
        typer.echo(json.dumps({"slide": slide} | value | found.made_from, indent=1))
    else:
        warn(found.made_from["warning"])
        for name, text in _lines(slide, found):
            typer.echo(f"{name:<12}{text}")
    if not found.equal:
        raise typer.Exit(1)


@export_app.command("crate")
def export_crate(
    out: Annotated[Path, typer.Option(help="Zip file to write.", show_default=False)],
    genes: Annotated[
        list[str] | None, typer.Argument(metavar="GENE...", help="Symbols or Ensembl ids.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Export all genes and all slides, also slides without a gene.")
    ] = False,
    data: Data = "dermatome_data",
) -> None:
    """Write an RO-Crate of genes and their slides: results, settings, networks, cards, versions, licences.

    Images are listed with address and sha256, but not included. 'dermatome replay' recomputes the results.

    Example: dermatome export crate KRT5 KRT10 --out study.crate.zip
    """
    from dermatome.skin.crate import export
    from dermatome.storage.layout import DataRoot

    if everything == bool(genes):
        raise typer.BadParameter("Give genes, or --all.")
    done = export.export_crate(DataRoot.at(data), out, genes)
    for slide, reason in done.left_out.items():
        complain(f"{slide} is left out: {reason}")
    for sha256, name in done.weights_left_out.items():
        complain(f"The network {name} is listed by its sha256 only ({sha256}): it is not a safetensors file.")
    typer.echo(f"{len(done.genes)} genes and {len(done.slides)} slides in {out} ({out.stat().st_size / 1e6:.1f} MB)")


def replay(
    crate: Annotated[Path, typer.Argument(metavar="CRATE", help="Zip file of 'export crate'.", show_default=False)],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which images are searched by their sha256; by default they are fetched from the Human "
            "Protein Atlas."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="New folder for a data root with the results; by default they are deleted at the end."),
    ] = None,
    models: Models = MODELS,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Recompute a crate's masks, cells and layers, and report which of their data versions are equal.

    The exit code is 1 unless all are equal.

    Example: dermatome replay study.crate.zip --images slides/
    """
    import tempfile
    from collections import Counter

    from dermatome.skin.crate.replay import Crate, replay_crate
    from dermatome.storage.layout import DataRoot

    equal = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="dermatome-replay-") as temporary, progress_bar() as bar:
        (unpacked := Path(temporary) / "crate").mkdir()
        read = Crate(crate, unpacked)
        task = bar.add_task("Results", total=len(read.records))
        for result in replay_crate(
            read,
            DataRoot.at(str(keep or Path(temporary) / "data")),
            compute=ComputeSettings(device=device, threads=threads),
            images=images,
            models=models.expanduser(),
        ):
            equal[result.asset] += result.equal
            bar.advance(task)
            if not result.equal:
                complain(
                    f"{result.asset} of {result.slide}: {result.reason or f'{result.now} instead of {result.stored}'}"
                )
    for asset in dict.fromkeys(asset for asset, _ in read.records):
        typer.echo(f"{asset}: {equal[asset]} of {len(read.of(asset))} equal")
    if equal.total() < len(read.records):
        if others := read.other_versions():
            complain(f"The crate was computed with other versions: {', '.join(others)}.")
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
