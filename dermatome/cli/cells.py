"""The training of cell networks: `dermatome cells train`."""

from __future__ import annotations

from collections.abc import Mapping
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


def cells_train(
    images: Annotated[
        list[Path],
        typer.Option(
            help="Folder of images, each with its cells beside it: .xml, .geojson or _labels.tif; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Weights file to write (.safetensors), its card beside it as .json.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="Images to validate on; without it a share of --images is held out.")
    ] = None,
    continue_from: Annotated[
        str | None, typer.Option(help="Weights to go on from: a file, cyto2 or toy; without it from scratch.")
    ] = None,
    models: Annotated[
        Path, typer.Option(help="Folder of Cellpose's own files, for cyto2; fetched into it where they are not there.")
    ] = MODELS,
    epochs: Annotated[int | None, typer.Option(help="Epochs to train for.", min=1)] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Time to end within, validation included.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better AP at IoU 0.5 before it ends early.", min=1)
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="The highest, after warming up.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Views that pass through the network together.", min=2)] = 8,
    crop_px: Annotated[int, typer.Option(help="Side of a view, where the network sees it.")] = 224,
    validation_share: Annotated[float, typer.Option(help="Of the images, held out.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    mpp: Annotated[float, typer.Option(help="Microns per pixel of images for which no file states it.")] = 0.5,
    report: Annotated[
        Path | None, typer.Option(help="Folder for the report: scores before and after, curves, samples, TensorBoard.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs share a step; each takes a batch.", min=1)] = 1,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Train a network of Cellpose's form on annotated cells, and write its weights."""
    from dermatome.skin.cells.report import precision_values, write_cell_report
    from dermatome.skin.cells.scores import mean_precision
    from dermatome.skin.cells.train import CellTrainSettings
    from dermatome.skin.cells.weights_stage import named_lineage, train_cells_file

    chosen: dict[str, Any] = {"epochs": epochs, "max_minutes": max_minutes, "patience": patience, "accumulate": gpus}
    chosen |= {"learning_rate": learning_rate, "batch": batch, "crop_px": crop_px, "seed": seed}
    chosen |= {"validation_share": validation_share}
    lineage = named_lineage(continue_from, models.expanduser()) if continue_from else None
    settings = CellTrainSettings(**(chosen if lineage is None else lineage.fill_in(chosen)))
    compute = choose(device, precision, threads)
    with progress_bar() as bar:
        task = bar.add_task(f"Training on {compute.device_name}", total=1.0)

        def tell(row: Mapping[str, Any], share: float) -> None:
            precision = "" if row["ap_50"] is None else f", AP {row['ap_50']:.3f}"
            text = f"Epoch {row['epoch']}: loss {row['train_loss']:.3f}{precision}"
            bar.update(task, completed=share, description=text)

        result, sha256 = train_cells_file(
            images,
            out,
            settings,
            compute,
            name=out.stem,
            validation_folders=validation or (),
            declared_mpp=mpp,
            lineage=lineage,
            on_epoch=tell,
            processes=gpus,
        )
    if report is not None:
        values = {**precision_values(result.before, result.after), "weights_sha256": sha256, "steps": result.card.steps}
        write_cell_report(
            report, out.stem, result.history, result.before, result.after, values=values, settings=result.card.settings
        )
    before, after = mean_precision(result.before), mean_precision(result.after)
    for name, value in after.items():
        if value is not None:
            was = "" if before[name] is None else f"  (before {before[name]:.3f})"
            typer.echo(f"AP at IoU {int(name[-2:]) / 100:<4} {value:.3f}{was}")
    typer.echo(f"{out}  sha256 {sha256}")
