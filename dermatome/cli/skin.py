"""The commands of the skin pipeline: `dermatome hpa`, `tissue`, `cells` and `layers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.cli.support import (
    GROUP,
    MODELS,
    Device,
    DeviceChoice,
    Images,
    Models,
    Mpp,
    Out,
    PrecisionChoice,
    PrecisionOption,
    Threads,
    TissueMasks,
    choose,
    each,
    each_slide,
    number,
    read_cells,
    warn,
    write_rows,
)
from dermatome.cli.train import TrainGroup
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.tissue.settings import TissueSettings

if TYPE_CHECKING:
    import pandas as pd

    from dermatome.slides.slide import Slide

hpa_app = typer.Typer(help="Gene pages of the Human Protein Atlas.", **GROUP)
tissue_app = typer.Typer(
    cls=TrainGroup, help="Background, dermis, epidermis and keratin: train a network, predict masks.", **GROUP
)
cells_app = typer.Typer(cls=TrainGroup, help="Cells of the epidermis: train a network, segment cells.", **GROUP)
layers_app = typer.Typer(help="Layers of the epidermis and their stains.", **GROUP)


@hpa_app.command("parse")
def hpa_parse(
    pages: Annotated[
        list[Path], typer.Argument(metavar="PAGE.xml...", help="Gene pages, as downloaded.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.", show_default=False)],
    tissue: Annotated[str, typer.Option(help="Tissue or organ whose images are read, as the pages name it.")] = "Skin",
) -> None:
    """Read gene pages into a table with one row for each image."""
    from dermatome.hpa.pages import parse_page
    from dermatome.hpa.records import merge_records, write_records

    tables = []

    def parse(page: Path) -> str:
        read = parse_page(page, tissue=tissue)
        tables.append(read.records)
        return f"{read.gene}: {read.records.num_rows} images" if read.records.num_rows else read.message

    def finish() -> None:
        if tables:
            records = merge_records(tables)
            write_records(records, out)
            typer.echo(f"{records.num_rows} image records of {len(tables)} pages in {out}")

    each(pages, parse, "pages", finish)


@tissue_app.command("predict")
def tissue_predict(
    images: Images,
    weights: Annotated[Path, typer.Option(help="Weights file from 'tissue train'.", show_default=False)],
    out: Out,
    mpp: Mpp = 0.5,
    any_scale: Annotated[
        bool, typer.Option(help="Accept images that are much coarser than the weights' training images.")
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

    settings = TissueSettings(any_scale=any_scale)
    network = prepare_tissue(load_tissue_weights(weights), choose(device, precision, threads), settings)
    warn(network.weights.card.warning)

    def predict(slide: Slide) -> str:
        found = segment_tissue(slide, network, settings)
        save_mask(out / f"{slide.name}.npz", found.mask, found.crop)
        write_atomic(out / f"{slide.name}.png", png_bytes(tinted(slide.overview(2048), found.mask)))
        text, skin = f"epidermis {found.epidermis_share:.1%}", found.skin_check()
        if not skin.passed:
            warn(f"{slide.name}: {skin.description}")
        return text if found.epidermis_share else "tissue without epidermis"

    each_slide(images, mpp, predict)


@cells_app.command("segment")
def cells_segment(
    images: Images,
    tissue: TissueMasks,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights file from 'cells train' (.safetensors), cyto2 (Cellpose's), or toy (the demo's network).",
            show_default=False,
        ),
    ],
    out: Out,
    models: Models = MODELS,
    diameter_um: Annotated[
        float | None,
        typer.Option(
            help="Typical diameter of a cell, µm. Without it, the network's own estimate is used; set it if cells are "
            "merged or split."
        ),
    ] = None,
    mpp: Mpp = 0.5,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Write each image's cells: <stem>.npz (instances) and <stem>.parquet (one row for each cell)."""
    from dermatome.labels.npz import load_mask, save_instances
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.cells.segment import segment_cells

    settings = CellSettings(diameter_um=diameter_um)
    compute = choose(device, precision, threads)
    network = load_cell_network(weights, compute, models_folder=models.expanduser(), fetch_missing=True)
    warn(network.warning)

    def segment(slide: Slide) -> str:
        mask, _ = load_mask(tissue / f"{slide.name}.npz", size=slide.size)
        found = segment_cells(slide, mask, network, settings)
        write_rows(out / f"{slide.name}.parquet", found.table, network.warning)
        save_instances(out / f"{slide.name}.npz", found.instances)
        return f"{len(found.table)} cells" if len(found.table) else found.outcome.replace("_", " ")

    each_slide(images, mpp, segment)


@layers_app.command("measure")
def layers_measure(
    images: Images,
    tissue: TissueMasks,
    cells: Annotated[Path, typer.Option(help="Folder of cells from 'cells segment'.", show_default=False)],
    out: Out,
    layer_um: Annotated[
        float | None,
        number(
            "Thickness of a layer, µm. Without it, the mean cell diameter of the image is used; set it to compare "
            "images layer by layer.",
            0.01,
            10_000,
        ),
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
    warnings: list[str] = []

    def measure(slide: Slide) -> str:
        mask, _ = load_mask(tissue / f"{slide.name}.npz", size=slide.size)
        instances = load_instances(cells / f"{slide.name}.npz", size=slide.size)
        table = read_cells(cells / f"{slide.name}.parquet")
        warning = str(table.attrs.get("warning", ""))
        if warning not in warnings:
            warn(warning)
            warnings.append(warning)
        found = measure_layers(slide, mask, instances, table, settings)
        write_atomic(out / f"{slide.name}.png", layers_figure(slide, found))
        table = found.layers.copy()
        table.insert(0, "slide", pd.Series([slide.name] * len(table), dtype="str"))
        table["pattern"] = pd.Series([found.pattern.value if found.pattern else ""] * len(table), dtype="str")
        tables.append(table.assign(**found.background.values))
        text = f"{len(table)} layers, {found.pattern} staining" if found.pattern else found.message
        background = found.background.check()
        return text if background.passed else f"{text}. {background.description}"

    def finish() -> None:
        if tables:
            write_rows(out / "layers.parquet", pd.concat(tables, ignore_index=True), max(warnings, default=""))

    each_slide(images, mpp, measure, finish)
