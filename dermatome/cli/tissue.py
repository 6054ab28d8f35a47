"""The commands of training: `dermatome tissue train` and what goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dermatome.cli.support import (
    MODELS,
    Device,
    DeviceChoice,
    PrecisionChoice,
    PrecisionOption,
    Threads,
    choose,
    progress_bar,
)


def tissue_train(
    tiles: Annotated[list[Path], typer.Option(help="Folder with images/, masks/ and palette.json; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Weights file to write (.safetensors), its card beside it as .json.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="Tiles to validate on; without it a share of --tiles is held out.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder, as segmentation-models-pytorch names it.")] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="What its encoder was trained on, such as imagenet; fetched once.")
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder that fetched files are kept in.")] = MODELS,
    epochs: Annotated[int | None, typer.Option(help="Epochs to train for.", min=1)] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Time to end within, validation included.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    mpp: Annotated[float, typer.Option(help="Microns per pixel of the tiles.")] = 0.5,
    continue_from: Annotated[
        Path | None, typer.Option(help="Weights to go on from; encoder and scale are then theirs.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better mean IoU before it ends early.", min=1)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for the report: scores, calibration, best and worst tiles, TensorBoard.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs share a step; each takes a batch.", min=1)] = 1,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Train a U-Net on tiles and their masks, and write its weights."""
    from dermatome.registry.lineage import lineage_of_file
    from dermatome.skin.tissue.report import report_values, write_tissue_report
    from dermatome.skin.tissue.train import EpochReport, TrainSettings
    from dermatome.skin.tissue.training_files import train_file
    from dermatome.training.weights import load_weights

    chosen: dict[str, Any] = {"epochs": epochs, "max_minutes": max_minutes, "seed": seed, "mpp": mpp}
    chosen |= {"patience": patience, "accumulate": gpus}
    if encoder:
        chosen["encoder"] = encoder
    if encoder_weights:
        chosen["encoder_weights"] = encoder_weights
    lineage = lineage_of_file(continue_from, load_weights) if continue_from else None
    settings = TrainSettings(**(chosen if lineage is None else lineage.fill_in(chosen)))
    compute = choose(device, precision, threads)
    with progress_bar() as bar:
        task = bar.add_task(f"Training on {compute.device_name}", total=1.0)

        def tell(report: EpochReport) -> None:
            iou = "" if report.mean_iou is None else f", mean IoU {report.mean_iou:.3f}"
            text = f"Epoch {report.epoch}: loss {report.train_loss:.3f}{iou}"
            bar.update(task, completed=min(1.0, report.share_done), description=text)

        result, sha256 = train_file(
            tiles,
            out,
            settings,
            compute,
            validation_folders=validation or (),
            on_epoch=tell,
            parent=lineage.weights if lineage else None,
            known_sides=lineage.sides() if lineage else None,
            processes=gpus,
            models_folder=models.expanduser(),
        )
    if report is not None:
        values = report_values(result.evaluation) | {"weights_sha256": sha256, "steps": result.card.steps}
        write_tissue_report(
            report, out.stem, result.history, result.evaluation, values=values, settings=result.card.settings
        )
    for score in result.scores:
        if score.iou is not None:
            typer.echo(f"{score.label:<11} IoU {score.iou:.3f}")
    typer.echo(f"{out}  sha256 {sha256}")


def tissue_import_weights(
    file: Annotated[Path, typer.Argument(help="State dict of an smp.Unet (.pt, .pth).", show_default=False)],
    out: Annotated[Path, typer.Option(help="Weights file to write (.safetensors), its card beside it as .json.")],
    encoder: Annotated[str, typer.Option(help="Its encoder, as segmentation-models-pytorch names it.")],
    mpp: Annotated[float, typer.Option(help="Microns per pixel that it was trained at.")],
    classes: Annotated[
        str, typer.Option(help="Its output channels in order, separated by commas.")
    ] = "background,dermis,epidermis,keratin",
    tile_px: Annotated[int, typer.Option(help="Side of the tiles that it was trained on.", min=32)] = 256,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
) -> None:
    """Take over weights of another training, and say what cannot be carried over."""
    from dermatome.training.weights_import import import_state_dict

    labels = [label.strip() for label in classes.split(",")]
    made = import_state_dict(file, out, encoder=encoder, mpp=mpp, classes=labels, tile_px=tile_px, licence=licence)
    typer.echo(f"{out}  sha256 {made.sha256}\nNot carried over:")
    for sentence in made.not_carried_over:
        typer.echo(f"  {sentence}")
