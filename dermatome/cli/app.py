"""The command line: the same functions as the platform's, for a folder of images or one file.

Each command goes on after a bad file, says why on the error stream in one sentence, and ends with exit code 1 if
anything failed. Nothing heavy is imported before a command needs it, so that help is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.cli.nuclei import nuclei_predict, nuclei_score
from dermatome.cli.patches import nuclei_patches
from dermatome.cli.support import (
    MODELS,
    Device,
    DeviceChoice,
    Images,
    Out,
    PrecisionChoice,
    PrecisionOption,
    Threads,
    choose,
    complain,
    each,
    each_slide,
    end,
    read_cells,
    write_rows,
)
from dermatome.cli.train import TrainGroup
from dermatome.cli.web import web
from dermatome.errors import DermatomeError
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.tissue.settings import TissueSettings

if TYPE_CHECKING:
    import pandas as pd

    from dermatome.slides.slide import Slide

_HELP: dict[str, Any] = {"no_args_is_help": True, "context_settings": {"help_option_names": ["-h", "--help"]}}

app = typer.Typer(
    name="dermatome",
    help="Skin tissue images into tissue masks, cells, epidermal layers and rows.",
    add_completion=False,
    pretty_exceptions_enable=False,
    **_HELP,
)
hpa_app = typer.Typer(help="Human Protein Atlas pages.", **_HELP)
tissue_app = typer.Typer(
    cls=TrainGroup, help="Background, dermis, epidermis and keratin: train a network, predict masks.", **_HELP
)
cells_app = typer.Typer(cls=TrainGroup, help="Cells in the epidermis.", **_HELP)
layers_app = typer.Typer(help="Epidermal layers and the stains in them.", **_HELP)
nuclei_app = typer.Typer(cls=TrainGroup, help="Nuclei of H&E images and their classes.", **_HELP)
_GROUPS = {"hpa": hpa_app, "tissue": tissue_app, "cells": cells_app, "layers": layers_app, "nuclei": nuclei_app}
for _name, _sub in _GROUPS.items():
    app.add_typer(_sub, name=_name)
nuclei_app.command("patches")(nuclei_patches)
nuclei_app.command("predict")(nuclei_predict)
nuclei_app.command("score")(nuclei_score)
app.command("web")(web)


Mpp = Annotated[float, typer.Option(help="Microns per pixel of images that do not say it themselves, such as HPA's.")]


@hpa_app.command("parse")
def hpa_parse(
    pages: Annotated[list[Path], typer.Argument(metavar="PAGE.xml...", help="Gene pages.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file for the records.", show_default=False)],
    tissue: Annotated[str, typer.Option(help="Tissue or organ to read.")] = "Skin",
) -> None:
    """Read gene pages into image records: one row for each image."""
    from dermatome.hpa.pages import parse_page
    from dermatome.hpa.records import merge_records, write_records

    tables = []

    def parse(page: Path) -> str:
        read = parse_page(page, tissue=tissue)
        tables.append(read.records)
        return f"{read.gene}: {read.records.num_rows} images" if read.records.num_rows else read.message

    failed = each(pages, parse, "Pages")
    if tables:
        records = merge_records(tables)
        write_records(records, out)
        typer.echo(f"{records.num_rows} image records of {len(tables)} pages in {out}")
    end(failed, len(pages), "pages")


@tissue_app.command("predict")
def tissue_predict(
    images: Images,
    weights: Annotated[Path, typer.Option(help="Weights of 'tissue train'.", show_default=False)],
    out: Out,
    mpp: Mpp = 0.5,
    any_scale: Annotated[
        bool, typer.Option(help="Also images too coarse for what the weights were trained at.")
    ] = False,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Write each image's tissue mask: <stem>.npz (mask, crop_bbox) and <stem>.png (the mask over the image)."""
    from dermatome.imaging.overlay import tinted
    from dermatome.labels.npz import save_mask
    from dermatome.reports.figures import png_bytes
    from dermatome.skin.tissue.network import load_tissue_weights
    from dermatome.skin.tissue.segment import prepare_tissue, segment_tissue
    from dermatome.storage.files import write_atomic

    compute = choose(device, precision, threads)
    settings = TissueSettings(any_scale=any_scale)
    network = prepare_tissue(load_tissue_weights(weights), compute, settings)

    def predict(slide: Slide) -> str:
        found = segment_tissue(slide, network, settings)
        save_mask(out / f"{slide.name}.npz", found.mask, found.crop)
        write_atomic(out / f"{slide.name}.png", png_bytes(tinted(slide.overview(2048), found.mask)))
        return f"epidermis {found.epidermis_share:.1%}" if found.epidermis_share else "tissue without epidermis"

    each_slide(images, mpp, predict)


@cells_app.command("segment")
def cells_segment(
    images: Images,
    tissue: Annotated[Path, typer.Option(help="Folder of the masks of 'tissue predict'.", show_default=False)],
    weights: Annotated[
        str, typer.Option(help="A cell network (.safetensors), or cyto2, or toy: the demo's.", show_default=False)
    ],
    out: Out,
    models: Annotated[
        Path, typer.Option(help="Folder of Cellpose's own files, for cyto2; fetched into it where they are not there.")
    ] = MODELS,
    diameter_um: Annotated[float | None, typer.Option(help="Diameter of a cell; estimated without it.")] = None,
    mpp: Mpp = 0.5,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Write each image's cells: <stem>.npz (instances) and <stem>.parquet (one row for each cell)."""
    from dermatome.labels.npz import load_mask, save_instances
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.cells.segment import segment_cells

    compute = choose(device, precision, threads)
    network = load_cell_network(weights, compute, models_folder=models.expanduser(), fetch_missing=True)
    settings = CellSettings(diameter_um=diameter_um)

    def segment(slide: Slide) -> str:
        mask, _ = load_mask(tissue / f"{slide.name}.npz", size=slide.size)
        found = segment_cells(slide, mask, network, settings)
        write_rows(out / f"{slide.name}.parquet", found.table)
        save_instances(out / f"{slide.name}.npz", found.instances)
        return f"{len(found.table)} cells" if len(found.table) else found.outcome.replace("_", " ")

    each_slide(images, mpp, segment)


@layers_app.command("measure")
def layers_measure(
    images: Images,
    tissue: Annotated[Path, typer.Option(help="Folder of the masks of 'tissue predict'.", show_default=False)],
    cells: Annotated[Path, typer.Option(help="Folder of the cells of 'cells segment'.", show_default=False)],
    out: Out,
    layer_um: Annotated[
        float | None, typer.Option(help="Thickness of a layer; the mean cell diameter without it.")
    ] = None,
    mpp: Mpp = 0.5,
) -> None:
    """Measure the epidermal layers of each image: layers.parquet (all images) and <stem>.png (profiles)."""
    import pandas as pd

    from dermatome.labels.npz import load_instances, load_mask
    from dermatome.skin.layers.figures import layers_figure
    from dermatome.skin.layers.measure import measure_layers
    from dermatome.storage.files import write_atomic

    settings = LayerSettings(layer_um=layer_um)
    tables: list[pd.DataFrame] = []

    def measure(slide: Slide) -> str:
        mask, _ = load_mask(tissue / f"{slide.name}.npz", size=slide.size)
        instances = load_instances(cells / f"{slide.name}.npz", size=slide.size)
        found = measure_layers(slide, mask, instances, read_cells(cells / f"{slide.name}.parquet"), settings)
        write_atomic(out / f"{slide.name}.png", layers_figure(slide, found))
        table = found.layers.copy()
        table.insert(0, "slide", pd.Series([slide.name] * len(table), dtype="str"))
        table["pattern"] = pd.Series([found.pattern.value if found.pattern else ""] * len(table), dtype="str")
        tables.append(table)
        return f"{len(table)} layers, {found.pattern} staining" if found.pattern else found.message

    def finish() -> None:
        if tables:
            write_rows(out / "layers.parquet", pd.concat(tables, ignore_index=True))

    each_slide(images, mpp, measure, finish)


@app.command()
def doctor(
    weights: Annotated[list[Path] | None, typer.Option(help="Weights files to check; may be repeated.")] = None,
    models: Annotated[Path | None, typer.Option(help="Folder where Cellpose's own files lie.")] = None,
    data: Annotated[str, typer.Option(help="Data root to check.")] = ".",
    network: Annotated[bool, typer.Option(help="Whether to ask the Human Protein Atlas for an answer.")] = True,
    device: Device = DeviceChoice.AUTO,
) -> None:
    """Check device, weights, disk, network and versions, and say what to do about what is wrong."""
    from dermatome.cli.doctor import examine

    failed = 0
    for finding in examine(weights or [], data, models_folder=models, ask_network=network, device=device.value):
        failed += finding.state == "fail"
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.state]
        typer.echo(f"{typer.style(f'{finding.state:<5}', fg=colour)}{finding.topic:<10}{finding.message}")
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Runs the command line; what a user can act on ends in one sentence and exit code 1, not in a traceback."""
    try:
        app()
    except DermatomeError as error:
        complain(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
