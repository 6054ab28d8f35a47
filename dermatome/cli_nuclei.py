"""The commands of nuclei: `dermatome nuclei …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
