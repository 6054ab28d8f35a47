"""The commands of nuclei: `dermatome nuclei …`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.cli.support import (
    MODELS,
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
    progress_bar,
    write_rows,
)
from dermatome.nuclei.maps.settings import NucleusSettings

if TYPE_CHECKING:
    from dermatome.slides.slide import Slide


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
    from dermatome.nuclei.maps.weights_import import import_nucleus_weights

    labels = [label.strip() for label in classes.split(",")]
    made = import_nucleus_weights(file, out, encoder=encoder, mpp=mpp, classes=labels, tile_px=tile_px, licence=licence)
    typer.echo(f"{out}  sha256 {made.sha256}\nNot carried over:")
    for sentence in made.not_carried_over:
        typer.echo(f"  {sentence}")


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


def nuclei_train(
    patches: Annotated[list[Path], typer.Option(help="Folder of 'nuclei patches'; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Weights file to write (.safetensors), its card beside it as .json.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="Patches to validate on; without it whole patients are held out.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder, as segmentation-models-pytorch names it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs to train for.", min=1)] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Time to end within, validation included.")] = None,
    crop_px: Annotated[int | None, typer.Option(help="Side of a view of a patch.", min=32)] = None,
    batch: Annotated[int | None, typer.Option(help="Views in a pass.", min=2)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    mpp: Annotated[float, typer.Option(help="Microns per pixel of the patches.")] = 0.25,
    boundary_weighting: Annotated[bool, typer.Option(help="Whether rare ternary classes weigh more.")] = True,
    immune_sampling: Annotated[bool, typer.Option(help="Whether patches with immune cells come more often.")] = True,
    continue_from: Annotated[Path | None, typer.Option(help="Weights to go on from.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder for what a training that was killed goes on from.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs share a step; each takes a batch.", min=1)] = 1,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Train the network of nuclei on patches, and write its weights."""
    from dermatome.nuclei.maps.network import load_nucleus_weights
    from dermatome.nuclei.maps.train import train_nuclei
    from dermatome.nuclei.maps.training_files import choose_patches
    from dermatome.nuclei.maps.training_settings import nucleus_settings
    from dermatome.training.weights import save_weights

    plain: dict[str, Any] = {"epochs": epochs, "max_minutes": max_minutes, "seed": seed, "mpp": mpp}
    plain |= {"encoder": encoder, "crop_px": crop_px, "batch": batch, "learning_rate": learning_rate}
    plain |= {"accumulate": gpus, "loss": {"boundary_weighting": boundary_weighting}}
    parent = load_nucleus_weights(continue_from) if continue_from else None
    if parent is not None:
        plain |= {"encoder": encoder or parent.card.encoder, "decoder_channels": parent.card.decoder_channels}
    given = {name: value for name, value in plain.items() if value is not None}
    settings = nucleus_settings(given | {"sampling": {"enabled": immune_sampling}})
    split = choose_patches(patches, validation or (), settings, parent)
    compute = choose(device, precision, threads)
    with progress_bar() as bar:
        task = bar.add_task(f"Training on {compute.device_name}", total=1.0)

        def tell(row: dict[str, Any], share: float) -> None:
            score = "" if row["score"] is None else f", score {row['score']:.3f}"
            bar.update(task, completed=share, description=f"Epoch {row['epoch']}: loss {row['train_loss']:.3f}{score}")

        result = train_nuclei(
            split.train,
            split.validation,
            settings,
            compute,
            checkpoints,
            tell,
            validation=split.how,
            parent=parent,
            processes=gpus,
            models_folder=MODELS.expanduser(),
        )
    sha256 = save_weights(out, result.state, result.card)
    for score in (*result.scores.parts, *result.scores.classes[1:]):
        if score.f1 is not None:
            typer.echo(f"{score.label:<11} Dice {score.f1:.3f}")
    typer.echo(f"{out}  sha256 {sha256}")


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
