"""The commands `dermatome models`, which list, download and import published networks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.cli.support import GROUP, MODELS, AsJson, complain

if TYPE_CHECKING:
    from dermatome.registry.published import Published, Taken

models_app = typer.Typer(help="Published networks for tissue, cells and nuclei.", **GROUP)

Models = Annotated[Path, typer.Option(help="Folder in which networks are stored.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Accept a TorchScript file, which is a program, without a published sha256."),
]


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the published networks, their licences and scales.

    Example: dermatome models list
    """
    from dermatome.registry.published import published

    entries = published().values()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=1))
        return
    for entry in entries:
        scale = f"{entry.mpp:g} µm per px" if entry.mpp else "any scale"
        typer.echo(f"{entry.name}\n  {entry.title} ({entry.kind}, {scale})\n  {entry.licence}\n  {entry.citation}")


@models_app.command("get")
def models_get(
    name: Annotated[str, typer.Argument(help="Name of the network, see 'models list'.", show_default=False)],
    models: Models = MODELS,
    non_commercial: Annotated[
        bool, typer.Option("--non-commercial", help="Confirm that the network is used for non-commercial work only.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Download a published network after showing its licence, and print where it is.

    Example: dermatome models get skin_seg_b3_10x
    """
    from dermatome.errors import BadSetting
    from dermatome.registry.published import fetch, published_named

    entry, folder = published_named(name), models.expanduser()
    if entry.non_commercial and not non_commercial:
        raise BadSetting(
            f"{name} is not for commercial use ({entry.licence}, see {entry.licence_source}): give --non-commercial "
            "if your use is non-commercial."
        )
    if entry.form == "cellpose":
        from dermatome.skin.cells.cyto2 import fetch_cyto2

        complain(f"{entry.title}: {entry.licence} ({entry.licence_source}).")
        typer.echo(fetch_cyto2(folder, progress=complain))
    else:
        typer.echo(_take_over(entry, fetch(entry, folder, trust=trust, log=complain), folder))


@models_app.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(help="File of the network, as downloaded.", show_default=False)],
    name: Annotated[str, typer.Option("--as", help="Name of the network, see 'models list'.", show_default=False)],
    models: Models = MODELS,
    trust: Trust = False,
) -> None:
    """Import the file of a published network that was downloaded by hand.

    For unlisted networks, use 'tissue import-weights' and 'nuclei import-weights'.

    Example: dermatome models import efficientnet-b3_10x_unet_best.pt --as skin_seg_b3_10x
    """
    from dermatome.errors import BadSetting
    from dermatome.registry.published import published_named, read_file

    entry = published_named(name)
    if entry.form == "cellpose":
        raise BadSetting(f"Put the two files of {name} unchanged into {models.expanduser()}: no import is needed.")
    typer.echo(_take_over(entry, read_file(entry, file, trust=trust), models.expanduser()))


def _take_over(entry: Published, taken: Taken, folder: Path) -> Path:
    """Writes a network in Dermatome's format, and prints what its file did not contain."""
    from dermatome.nuclei.maps.network import NucleusCard
    from dermatome.registry.published import keep_program
    from dermatome.skin.tissue.network import TissueCard
    from dermatome.training.weights_import import import_weights

    if entry.form == "torchscript":
        return keep_program(entry, taken, folder)
    out = folder / f"{entry.name}.safetensors"
    made = import_weights(
        TissueCard if entry.kind == "tissue" else NucleusCard,
        Path(taken.origin),
        out,
        data=taken.data,
        encoder=entry.encoder,
        mpp=entry.mpp,
        classes=entry.classes,
        tile_px=entry.tile_px,
        licence=entry.licence,
        name=entry.name,
        source=f"{taken.origin}, sha256 {taken.sha256} ({taken.sha256_is}); {entry.citation}",
    )
    for sentence in made.not_carried_over:
        complain(f"Not imported: {sentence}")
    return out
