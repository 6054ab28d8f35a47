"""The commands of nuclei: `dermatome nuclei …`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.cli.support import (
    BackendChoice,
    BackendOption,
    Device,
    DeviceChoice,
    Images,
    Out,
    PrecisionChoice,
    PrecisionOption,
    Threads,
    choose,
    each_slide,
    write_rows,
)
from dermatome.nuclei.maps.settings import NucleusSettings

if TYPE_CHECKING:
    from dermatome.slides.slide import Slide


def nuclei_predict(
    images: Images,
    weights: Annotated[
        str, typer.Option(help="Weights of 'nuclei train', or toy: the small network for toys.", show_default=False)
    ],
    out: Out,
    mpp: Annotated[float, typer.Option(help="Microns per pixel of images that do not say it themselves.")] = 0.25,
    opacity: Annotated[float, typer.Option(help="Of the colours over the image, 0 to 1.", min=0, max=1)] = 0.45,
    normalise_stain: Annotated[
        bool | None, typer.Option(help="Bring each image to one stain first; not given, as the weights' patches were.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Tiles at once.", min=1)] = 8,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    backend: BackendOption = BackendChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Write each image's nuclei.

    <stem>_semantic.png and <stem>_ternary.png (the maps over the image), <stem>_instances.tif (OME-TIFF),
    <stem>.parquet (one row for each nucleus) and <stem>.geojson (outlines for QuPath).
    """
    from dermatome.nuclei.maps.figures import semantic_overlay, ternary_overlay
    from dermatome.nuclei.maps.files import write_instances, write_outlines
    from dermatome.nuclei.maps.network import load_nucleus_weights
    from dermatome.nuclei.maps.networks import weights_path
    from dermatome.nuclei.maps.segment import fitted_stain, prepare_nuclei, segment_nuclei
    from dermatome.reports.figures import png_bytes
    from dermatome.storage.files import write_atomic

    compute = choose(device, precision, threads, backend)
    settings = NucleusSettings(batch=batch, normalise_stain=normalise_stain)
    loaded = load_nucleus_weights(weights_path(weights))
    network = prepare_nuclei(loaded, compute, settings)

    def predict(slide: Slide) -> str:
        fit = fitted_stain(slide, network, settings)
        (found,) = segment_nuclei([slide], network, settings, normalise=[None if fit is None else fit.normalise])
        write_atomic(out / f"{slide.name}_semantic.png", png_bytes(semantic_overlay(slide, found, opacity=opacity)))
        write_atomic(out / f"{slide.name}_ternary.png", png_bytes(ternary_overlay(slide, found, opacity=opacity)))
        write_instances(out / f"{slide.name}_instances.tif", found, slide)
        write_outlines(out / f"{slide.name}.geojson", found, slide)
        write_rows(out / f"{slide.name}.parquet", found.table)
        counts = found.table["class"].value_counts()
        told = f"{len(found.table)} nuclei" + "".join(f", {count} {label}" for label, count in counts.items())
        return told if fit is None else f"{told}. {fit.check().description}"

    each_slide(images, mpp, predict)


def nuclei_score(
    patches: Annotated[list[Path], typer.Option(help="Folder of 'nuclei patches'; may be repeated.")],
    weights: Annotated[str, typer.Option(help="Weights of 'nuclei train', or toy.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="JSON file for the scores.")] = None,
    batch: Annotated[int, typer.Option(help="Tiles at once.", min=1)] = 8,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    backend: BackendOption = BackendChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Score weights on annotated images, put together from their patches: Dice, IoU, PQ, AJI, detection, classes."""
    from dermatome.metrics.panoptic import nucleus_values
    from dermatome.nuclei.maps.evaluate import check_stain, evaluate_patches
    from dermatome.nuclei.maps.network import load_nucleus_weights
    from dermatome.nuclei.maps.networks import weights_path
    from dermatome.nuclei.maps.segment import prepare_nuclei
    from dermatome.nuclei.patches.files import load_patches
    from dermatome.storage.files import write_atomic

    compute = choose(device, precision, threads, backend)
    settings = NucleusSettings(batch=batch)
    loaded = load_nucleus_weights(weights_path(weights))
    known = load_patches(*patches)
    check_stain(weights, loaded, known)
    network = prepare_nuclei(loaded, compute, settings)
    images = evaluate_patches(known, network, loaded.card.mpp, settings)
    found, nuclei = nucleus_values(images), sum(image.nuclei for image in images)
    typer.echo(f"{len(images)} images with {nuclei} nuclei, put together from {len(known)} patches")
    for name, value in found.items():
        typer.echo(f"{name:<28}{'none' if value is None else f'{value:.4f}'}")
    if out is not None:
        counted = {"patches": len(known), "images": len(images), "nuclei": nuclei}
        told = {"weights_sha256": loaded.sha256, **counted, "scores": found}
        write_atomic(out, json.dumps(told, indent=2).encode() + b"\n")
