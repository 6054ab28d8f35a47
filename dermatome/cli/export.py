"""The commands that export results of a data root to other programs: `dermatome export`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.cli.support import GROUP, Data, warn, with_signature

if TYPE_CHECKING:
    from dermatome.export.results import SlideResults

export_app = typer.Typer(help="Export results of a data root: QuPath, SpatialData, RO-Crate.", **GROUP)


def _of_slides(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command: it gets the options that choose slides, and receives their results as ``found``."""
    slides = typer.Argument(help="Names of skin slides with layers, or of H&E slides with nuclei.", show_default=False)
    gene = typer.Option(help="Symbol or Ensembl id of a gene whose measured slides to export, instead of slides.")

    def run(*, data: str, slides: list[str] | None = None, gene: str | None = None, **values: Any) -> None:
        command(found=_results(slides, gene, data), **values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    options: dict[str, tuple[Any, Any]] = {
        "slides": (Annotated[list[str] | None, slides], None),
        "gene": (Annotated[str | None, gene], None),
        "data": (Data, "dermatome_data"),
    }
    kept = {parameter.name: (parameter.annotation, parameter.default) for parameter in own if parameter.name != "found"}
    return with_signature(run, kept | options, str(command.__doc__))


@export_app.command("qupath")
@_of_slides
def export_qupath(
    found: Iterator[Any],
    out: Annotated[Path, typer.Option(help="Folder for images, outlines and the script.", show_default=False)],
) -> None:
    """Write images, outlines as GeoJSON, and a script for QuPath that imports and colours them.

    In QuPath, add the images to a project, open dermatome.groovy in the script editor and run it for the project.

    Example: dermatome export qupath 901-1_A_1_1 --data dermatome_data --out qupath
    """
    from dermatome.export.qupath import SCRIPT
    from dermatome.export.qupath import export_qupath as export

    names = export(found, out)
    typer.echo(
        f"{len(names)} slides in {out}; open {out / SCRIPT} in QuPath's script editor and run it for the project"
    )


@export_app.command("spatialdata")
@_of_slides
def export_spatialdata(
    found: Iterator[Any],
    out: Annotated[Path, typer.Option(help="Folder to write, such as study.zarr.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
) -> None:
    """Write slides as SpatialData: image and labels as OME-Zarr, outlines, and a table of cells or nuclei, in µm.

    Needs pip install 'dermatome[spatialdata]'.

    Example: dermatome export spatialdata --gene KRT5 --data dermatome_data --out krt5.zarr
    """
    from dermatome.export.spatial import export_spatialdata as export

    if out.exists() and not overwrite:
        raise typer.BadParameter(f"{out} exists already: give another folder, or --overwrite.")
    slides = list(found)
    export(slides, out)
    typer.echo(f"{len(slides)} slides in {out}")


def _results(slides: list[str] | None, gene: str | None, data: str) -> Iterator[SlideResults]:
    """Yields the results of the slides that a command was given, one by one."""
    from dermatome.export.results import read_results, slides_of_gene
    from dermatome.storage.layout import DataRoot

    if bool(slides) == bool(gene):
        raise typer.BadParameter("Give names of slides, or --gene.")
    root, warned = DataRoot.at(data), False
    for name in slides_of_gene(root, gene) if gene else dict.fromkeys(slides or ()):
        found = read_results(root, name)
        if found.warning and not warned:
            warn(found.warning)
            warned = True
        yield found
