"""The commands of nuclei: `dermatome nuclei …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.cli_support import (
    Device,
    DeviceChoice,
    PrecisionChoice,
    PrecisionOption,
    Threads,
    choose,
    each_slide,
    write_rows,
)

if TYPE_CHECKING:
    from dermatome.slide import Slide


def nuclei_import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint of the source system (.pt, .pth).", show_default=False)],
    out: Annotated[Path, typer.Option(help="Weights file to write (.safetensors), its card beside it as .json.")],
    encoder: Annotated[str, typer.Option(help="Its encoder, as segmentation-models-pytorch names it.")] = "resnet34",
    mpp: Annotated[float, typer.Option(help="Microns per pixel that it was trained at.")] = 0.25,
    classes: Annotated[
        str, typer.Option(help="Its semantic channels in order, separated by commas.")
    ] = "background,epithelial,lymphocyte,neutrophil,macrophage",
    tile_px: Annotated[int, typer.Option(help="Side of the tiles that it was trained on.", min=32)] = 256,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
) -> None:
    """Take over the source system's weights, and say what cannot be carried over."""
    from dermatome.nuclei.weights_import import import_nucleus_weights

    labels = [label.strip() for label in classes.split(",")]
    made = import_nucleus_weights(file, out, encoder=encoder, mpp=mpp, classes=labels, tile_px=tile_px, licence=licence)
    typer.echo(f"{out}  sha256 {made.sha256}\nNot carried over:")
    for sentence in made.not_carried_over:
        typer.echo(f"  {sentence}")


def nuclei_predict(
    images: Annotated[
        list[Path], typer.Argument(help="Images (JPEG, PNG, TIFF), or folders of them.", show_default=False)
    ],
    weights: Annotated[
        str, typer.Option(help="Weights of 'nuclei train', or toy: the small network for toys.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.", show_default=False)],
    mpp: Annotated[float, typer.Option(help="Microns per pixel of images that do not say it themselves.")] = 0.25,
    opacity: Annotated[float, typer.Option(help="Of the colours over the image, 0 to 1.", min=0, max=1)] = 0.45,
    batch: Annotated[int, typer.Option(help="Tiles at once.", min=1)] = 8,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Write each image's nuclei.

    <stem>_semantic.png and <stem>_ternary.png (the maps over the image), <stem>_instances.tif (OME-TIFF),
    <stem>.parquet (one row for each nucleus) and <stem>.geojson (outlines for QuPath).
    """
    from dermatome.files import write_whole
    from dermatome.nuclei.network import load_nucleus_weights
    from dermatome.nuclei.networks import weights_path
    from dermatome.nuclei.overlays import semantic_overlay, ternary_overlay
    from dermatome.nuclei.predict import NucleusSettings, prepare_nuclei, segment_nuclei
    from dermatome.nuclei.result_files import write_instances, write_outlines
    from dermatome.panels import png_bytes

    compute = choose(device, precision, threads)
    settings = NucleusSettings(batch=batch)
    loaded = load_nucleus_weights(weights_path(weights))
    network = prepare_nuclei(loaded, compute, settings)

    def predict(slide: Slide) -> str:
        (found,) = segment_nuclei([slide], network, settings)
        write_whole(out / f"{slide.name}_semantic.png", png_bytes(semantic_overlay(slide, found, opacity=opacity)))
        write_whole(out / f"{slide.name}_ternary.png", png_bytes(ternary_overlay(slide, found, opacity=opacity)))
        write_instances(out / f"{slide.name}_instances.tif", found, slide)
        write_outlines(out / f"{slide.name}.geojson", found, slide)
        write_rows(out / f"{slide.name}.parquet", found.table)
        counts = found.table["class"].value_counts()
        return f"{len(found.table)} nuclei" + "".join(f", {count} {label}" for label, count in counts.items())

    each_slide(images, mpp, predict)
