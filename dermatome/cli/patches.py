"""The command `dermatome nuclei patches`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.cli.support import each, end
from dermatome.errors import DermatomeError
from dermatome.nuclei.patches.settings import PatchSettings

if TYPE_CHECKING:
    from dermatome.nuclei.patches.files import PatchRow


def nuclei_patches(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of patients, or one patient's: images beside their .xml, or images/ beside instances/ or "
            "classes/.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the patches and patches.parquet.", show_default=False)],
    mpp: Annotated[float, typer.Option(help="Microns per pixel of images whose files state no scale.")] = 0.25,
    size: Annotated[int, typer.Option(help="Side of a patch, px.", min=32)] = 256,
    stride: Annotated[int, typer.Option(help="Distance from one patch to the next, px.", min=1)] = 128,
    least_foreground: Annotated[
        float, typer.Option(help="Smallest share of nuclear pixels in a patch.", min=0, max=1)
    ] = 0.01,
    boundary: Annotated[int, typer.Option(help="Width of the boundary inside a nucleus, px.", min=1)] = 3,
    validation_share: Annotated[
        float, typer.Option(help="Share of the patches to mark for validation, whole patients at a time.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    normalise_stain: Annotated[bool, typer.Option(help="Whether to normalise the stain of each image first.")] = False,
) -> None:
    """Cut annotated images of nuclei (MoNuSAC, MoNuSeg, label images) into training patches."""
    from dermatome.nuclei.patches.annotated import annotated_images, case_folders
    from dermatome.nuclei.patches.cut import cut_patches, split_patches
    from dermatome.nuclei.patches.files import write_manifest

    settings = PatchSettings(
        size_px=size,
        stride_px=stride,
        least_foreground=least_foreground,
        boundary_px=boundary,
        declared_mpp=mpp,
        normalise_stain=normalise_stain,
    )
    rows: list[PatchRow] = []

    def cut(case: Path) -> str:
        made = [row for image in annotated_images(case) for row in cut_patches(image, out, settings)]
        if twice := {row.name for row in rows} & {row.name for row in made}:
            raise DermatomeError(f"{case} has an image of the same name as another case ({min(twice)}): rename one.")
        rows.extend(made)
        return f"{len(made)} patches of {sum(row.nuclei for row in made)} nuclei"

    cases = [case for folder in folders for case in case_folders(folder)]
    failed = each(cases, cut, "Cutting patches")
    if rows:
        sided, how = split_patches(rows, validation_share, seed)
        write_manifest(out, sided)
        typer.echo(f"{out}: {len(rows)} patches of {len({row.case for row in rows})} patients; {how}")
    end(failed, len(cases), "cases")
