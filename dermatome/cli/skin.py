"""The commands of the skin pipeline: `dermatome hpa`, `tissue`, `cells` and `layers`."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from dermatome.cli.support import (
    BATCH,
    GROUP,
    MODELS,
    Images,
    Models,
    Mpp,
    Out,
    Overwrite,
    Report,
    Results,
    TableOut,
    TissueMasks,
    complain,
    each,
    each_slide,
    read_cells,
    warn,
    with_options,
    write_table,
)
from dermatome.cli.train import TrainGroup
from dermatome.errors import BadImage
from dermatome.inference.compute import Compute
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.layout import DataRoot

if TYPE_CHECKING:
    from dermatome.slides.slide import Slide
    from dermatome.storage.record import StageResult

OwnStains = Annotated[
    bool,
    typer.Option(
        "--own-stains",
        help="Estimate the stain vectors of hematoxylin and DAB on each image, for cells and layers; use it if stains "
        "or scanners differ.",
    ),
]

hpa_app = typer.Typer(help="Gene pages and images of the Human Protein Atlas.", **GROUP)
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
    out: TableOut,
    tissue: Annotated[str, typer.Option(help="Tissue or organ whose images are read, named as on the pages.")] = "Skin",
) -> None:
    """Read gene pages into a table with one row for each image.

    Example: dermatome hpa parse ENSG00000186847.xml --out images.parquet
    """
    from dermatome.hpa.pages import check_tissue, parse_page
    from dermatome.hpa.records import merge_records, write_records

    tables = []
    say = complain if out == "-" else typer.echo

    def parse(page: Path, report: Report) -> str:
        read = parse_page(page, tissue=tissue)
        check_tissue(read, tissue)
        tables.append(read.records)
        return f"{read.gene}: {read.records.num_rows} images" if read.records.num_rows else read.message

    def finish() -> None:
        if tables:
            records = merge_records(tables)
            if out.lower().endswith(".parquet"):
                write_records(records, Path(out))
            else:
                write_table(out, records.to_pandas())
            say(f"{records.num_rows} image records of {len(tables)} pages in {out}")

    each(pages, parse, "pages", finish, say)


@hpa_app.command("fetch")
def hpa_fetch(
    genes: Annotated[
        list[str],
        typer.Argument(
            metavar="ENSG...|GENES.tsv...",
            help="Ensembl ids of genes, or files with them: one id per line, or a table of HPA or BioMart.",
            show_default=False,
        ),
    ],
    out: Out,
    tissue: Annotated[
        str,
        typer.Option(help="Tissue or organ whose images are fetched; by default that of the data root's settings."),
    ] = "",
    data: Annotated[
        str, typer.Option(help="Data root whose settings, sections hpa and images, are used if it exists.")
    ] = "dermatome_data",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Request existing pages and images again instead of keeping them.")
    ] = False,
) -> None:
    """Fetch the gene pages and images of genes from the Human Protein Atlas, one file at a time.

    Files: images/<slide>.jpg (.tif with image = "tiff" in the settings), images.parquet (a row for each image, with its
    licence), pages/<gene>.xml, and for each gene <gene>.parquet and <gene>.json. After an interruption, run it again:
    it continues with what is missing.

    Example: dermatome hpa fetch ENSG00000186847 --out hpa
    """
    from dermatome.hpa.client import HpaClient
    from dermatome.hpa.genes import read_gene_list
    from dermatome.hpa.records import merge_records, read_records, write_records
    from dermatome.hpa.stage import make_images
    from dermatome.settings import load_settings
    from dermatome.slides.slide import read_slide
    from dermatome.slides.source import fetch_hpa

    settings = load_settings(DataRoot.at(data).settings)
    lossless = settings.hpa.image == "tiff"
    tissue = tissue or settings.images.tissue
    lists = [Path(gene) if Path(gene).is_file() else [gene] for gene in genes]
    wanted = dict.fromkeys(Path(gene.ensembl_id) for source in lists for gene in read_gene_list(source))
    tables = []

    with HpaClient(settings.hpa) as client:

        def page(gene: Path, report: Report) -> str:
            path = out / "pages" / f"{gene.name}.xml"
            results = Results(out, "hpa_images", settings.hpa, overwrite or not path.is_file())

            def write(folder: Path) -> StageResult:
                return make_images(client, gene.name, path, folder, tissue, f"{gene.name}.parquet")

            record, note = results.from_inputs(gene.name, {"tissue": tissue}, write, "tissue")
            tables.append(read_records(out / f"{gene.name}.parquet"))
            return note + record.message

        def images() -> None:
            everything = [read_records(file) for file in sorted(out.glob("ENSG*.parquet"))]  # also of earlier calls
            write_records(merge_records(everything), out / "images.parquet")
            urls = {
                out / "images" / f"{slide}{Path(urlsplit(url).path).suffix}": url
                for table in tables
                for slide, url in zip(table["slide"].to_pylist(), table["image_url"].to_pylist(), strict=True)
            }

            def image(path: Path, report: Report) -> str:
                if not overwrite and (path.with_suffix(".tif") if lossless else path).is_file():
                    return "kept"
                _, path, _ = fetch_hpa(urls[path], path, client.fetch_image, lossless)
                try:
                    read_slide(path)
                except BadImage:
                    path.unlink()
                    raise
                return f"{path.suffix.removeprefix('.')}, {path.stat().st_size / 1e6:.2f} MB"

            each(list(urls), image, "images", lambda: typer.echo(settings.hpa.attribution))

        each(list(wanted), page, "genes", images)


@tissue_app.command("predict")
@with_options(
    TissueSettings,
    any_scale="Accept images that are much coarser than the weights' training images.",
    batch=BATCH,
    compute=True,
)
def tissue_predict(
    images: Images,
    out: Out,
    settings: TissueSettings,
    compute: Compute,
    weights: Annotated[
        str, typer.Option(help="Weights file from 'tissue train', or starter, trained on synthetic skin only.")
    ] = "starter",
    mpp: Mpp = 0.5,
    overwrite: Overwrite = False,
) -> None:
    """Segment the tissue of each image.

    Files for each image: <stem>.npz (mask, crop_bbox), <stem>.ome.tif, <stem>.geojson (outlines for QuPath), <stem>.png
    (figure) and <stem>.json (weights, scale, settings, versions).

    Example: dermatome tissue predict slides/ --weights tissue.safetensors --out masks --mpp 0.5
    """
    from dermatome.skin.tissue.networks import load_tissue, tissue_weights_named
    from dermatome.skin.tissue.segment import segment_tissue
    from dermatome.skin.tissue.stage import write_tissue

    found_weights = tissue_weights_named(DataRoot(out), weights)
    kept = MODELS.expanduser() / "prepared"
    network = cache(lambda: load_tissue(found_weights, compute, settings, kept))
    results = Results(out, "epidermis_masks", settings, overwrite)

    def predict(slide: Slide, report: Report) -> str:
        def write(folder: Path) -> StageResult:
            found = segment_tissue(slide, network(), settings, report)
            return write_tissue(folder, slide, found, network(), compute, {}, weights, slide.name)

        record, note = results.of(slide, write, weights_sha256=found_weights.sha256)
        share, skin = record.values["epidermis_share"], record.checks[-1]
        if not skin.passed:
            warn(f"{slide.name}: {skin.description}")
        return f"{note}{f'epidermis {share:.1%}' if share else 'tissue without epidermis'}"

    each_slide(images, mpp, predict)


@cells_app.command("segment")
@with_options(
    CellSettings,
    segmenter="Method that finds cells: Cellpose's network, InstanSeg (see 'models get'), a network of 'nuclei train' "
    "or, for comparison, a watershed on hematoxylin, for which --weights is any text.",
    diameter_um="Typical diameter of a cell, µm. By default the network's own estimate; set it if cells are merged or "
    "split.",
    compute=True,
)
def cells_segment(
    images: Images,
    tissue: TissueMasks,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights file from 'cells train' (.safetensors), cyto2 (Cellpose's), toy (the demo's network), or the "
            "file of another segmenter.",
            show_default=False,
        ),
    ],
    out: Out,
    settings: CellSettings,
    compute: Compute,
    models: Models = MODELS,
    own_stains: OwnStains = False,
    overwrite: Overwrite = False,
    mpp: Mpp = 0.5,
) -> None:
    """Segment the cells of each image.

    Files for each image: <stem>.npz (instances), <stem>.ome.tif, <stem>.parquet (one row for each cell), <stem>.geojson
    (outlines for QuPath), <stem>.png (figure) and <stem>.json (weights, scale, background, settings, versions).

    Example: dermatome cells segment slides/ --tissue masks --weights toy --out cells --mpp 0.5
    """
    from dermatome.labels.npz import load_mask
    from dermatome.pipeline.exported import check_same_scale, result_warning
    from dermatome.skin.cells.networks import cell_weights_named, load_cells
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.skin.cells.stage import write_cells
    from dermatome.storage.files import sha256_file

    settings = settings.changed(stain_vectors="slide" if own_stains else "standard")
    models = models.expanduser()
    found_weights = cell_weights_named(DataRoot(out), weights, settings.segmenter, models)
    load = cache(lambda: load_cells(found_weights, compute, settings.segmenter, models / "prepared"))
    results = Results(out, "cell_masks", settings, overwrite)

    def segment(slide: Slide, report: Report) -> str:
        path = tissue / f"{slide.name}.npz"
        mask, _ = load_mask(path, size=slide.size)
        check_same_scale(tissue, slide)

        def write(folder: Path) -> StageResult:
            found = segment_cells(slide, mask, load(), settings, report)
            return write_cells(folder, slide, mask, found, load(), {}, result_warning(tissue, slide.name), slide.name)

        record, note = results.of(slide, write, weights_sha256=found_weights.sha256, mask_sha256=sha256_file(path))
        return note + (
            f"{record.values['cells']} cells" if record.values["cells"] else record.outcome.replace("_", " ")
        )

    each_slide(images, mpp, segment)


@layers_app.command("measure")
@with_options(
    LayerSettings,
    layer_um="Thickness of a layer, µm. By default the mean cell diameter of the image; set it to compare images layer "
    "by layer.",
)
def layers_measure(
    images: Images,
    tissue: TissueMasks,
    cells: Annotated[Path, typer.Option(help="Folder of cells from 'cells segment'.", show_default=False)],
    out: Out,
    settings: LayerSettings,
    own_stains: OwnStains = False,
    table: TableOut = "",
    overwrite: Overwrite = False,
    mpp: Mpp = 0.5,
) -> None:
    """Measure the epidermal layers of each image.

    Files: layers.parquet (a row for each layer of all images in the folder; an image without layers has one row with
    its outcome), and for each image <stem>.parquet (layers), <stem>_cell_layers, _profile, _relative and _zones
    .parquet, <stem>.ome.tif, <stem>.geojson (layers for QuPath), <stem>_cells.geojson (cells with class, layer and
    stains), <stem>.png (figure) and <stem>.json (scale, background, settings, versions).

    Example: dermatome layers measure slides/ --tissue masks --cells cells --out layers --table layers.csv
    """
    from dermatome.labels.npz import load_instances, load_mask
    from dermatome.pipeline.exported import check_same_scale
    from dermatome.skin.layers.measure import measure_layers
    from dermatome.skin.layers.stage import layers_rows, write_layers
    from dermatome.storage.files import sha256_file

    settings = settings.changed(stain_vectors="slide" if own_stains else "standard")
    results, tables = Results(out, "epidermis_layers", settings, overwrite), []

    def measure(slide: Slide, report: Report) -> str:
        if slide.name == "layers":
            raise BadImage("An image named layers would overwrite the table layers.parquet: rename it.")
        paths = (tissue / f"{slide.name}.npz", cells / f"{slide.name}.npz", cells / f"{slide.name}.parquet")
        mask, _ = load_mask(paths[0], size=slide.size)
        instances, rows = load_instances(paths[1], size=slide.size), read_cells(paths[2])
        for folder in (tissue, cells):
            check_same_scale(folder, slide)

        def write(folder: Path) -> StageResult:
            found = measure_layers(slide, mask, instances, rows, settings)
            return write_layers(
                folder, slide, instances, rows, found, {}, str(rows.attrs.get("warning", "")), slide.name
            )

        versions = dict(zip(("mask_sha256", "cells_sha256", "table_sha256"), map(sha256_file, paths), strict=True))
        record, note = results.of(slide, write, **versions)
        tables.append(layers_rows(record, out / f"{slide.name}.parquet"))
        pattern = record.values["pattern"]
        text = f"{record.values['layers']} layers, {pattern} staining" if pattern else record.message
        failed = [check for check in record.checks if not check.passed and check.name != "stains_present"]
        return note + ". ".join([text, *(check.description.removesuffix(".") for check in failed)])

    finish = partial(results.join, "layers.parquet", tables, table)
    each_slide(images, mpp, measure, finish, complain if table == "-" else typer.echo)
