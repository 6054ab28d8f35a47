"""The commands of the nuclei pipeline: `dermatome nuclei`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.cli.support import (
    GROUP,
    BackendChoice,
    BackendOption,
    Batch,
    Device,
    DeviceChoice,
    Images,
    Mpp,
    Out,
    PrecisionChoice,
    PrecisionOption,
    Seed,
    Threads,
    choose,
    each,
    each_slide,
    number,
    warn,
    write_rows,
)
from dermatome.cli.train import TrainGroup
from dermatome.errors import DermatomeError, MissingInput
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.patches.settings import PatchSettings

if TYPE_CHECKING:
    from dermatome.nuclei.patches.files import PatchRow
    from dermatome.slides.slide import Slide

nuclei_app = typer.Typer(
    cls=TrainGroup, help="Nuclei of H&E images and their classes: cut patches, train, predict, score.", **GROUP
)
Weights = Annotated[
    str,
    typer.Option(
        help="Weights file from 'nuclei train', or toy: the small network trained on synthetic nuclei.",
        show_default=False,
    ),
]


@nuclei_app.command("patches")
def nuclei_patches(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of patients, or the folder of one patient: images beside their .xml, or images/ beside "
            "instances/ or classes/.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the patches and patches.parquet.", show_default=False)],
    mpp: Mpp = 0.25,
    size: Annotated[int, typer.Option(help="Side of a patch, px.", min=32)] = 256,
    stride: Annotated[
        int, typer.Option(help="Step from one patch to the next, px; below --size, patches overlap.", min=1)
    ] = 128,
    least_foreground: Annotated[
        float,
        number("Share of a patch's pixels in nuclei below which the patch is left out; 0 keeps all patches.", 0, 1),
    ] = 0.01,
    boundary: Annotated[
        int, typer.Option(help="Width of the boundary class along the inner edge of a nucleus, px.", min=1)
    ] = 3,
    validation_share: Annotated[
        float,
        number("Share of the patches to mark for validation; a patient's patches stay together.", 0, 1),
    ] = 0.0,
    seed: Seed = 0,
    normalise_stain: Annotated[
        bool, typer.Option(help="Normalise the stain of each image first; use it if images come from several labs.")
    ] = False,
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
        new = [row for image in annotated_images(case) for row in cut_patches(image, out, settings)]
        if twice := {row.name for row in rows} & {row.name for row in new}:
            raise DermatomeError(f"{case} has an image of the same name as another case ({min(twice)}): rename one.")
        rows.extend(new)
        return f"{len(new)} patches of {sum(row.nuclei for row in new)} nuclei"

    def finish() -> None:
        if rows:
            divided, how = split_patches(rows, validation_share, seed)
            write_manifest(out, divided)
            typer.echo(f"{out}: {len(rows)} patches of {len({row.case for row in rows})} patients; {how}")

    cases = [case for folder in folders for case in case_folders(folder)]
    if not cases:
        names = ", ".join(map(str, folders))
        raise MissingInput(f"There are no annotated images in {names}: put images beside their .xml there.")
    each(cases, cut, "cases", finish)


@nuclei_app.command("predict")
def nuclei_predict(
    images: Images,
    weights: Weights,
    out: Out,
    mpp: Mpp = 0.25,
    opacity: Annotated[
        float,
        number("Opacity of the colours over the image: 0 shows the image only, 1 the colours only.", 0, 1),
    ] = 0.45,
    normalise_stain: Annotated[
        bool | None,
        typer.Option(help="Normalise the stain of each image first. Without it, as in the training of the weights."),
    ] = None,
    batch: Batch = 8,
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
    network = prepare_nuclei(load_nucleus_weights(weights_path(weights)), compute, settings)
    warn(network.weights.card.warning)

    def predict(slide: Slide) -> str:
        fit = fitted_stain(slide, network, settings)
        (found,) = segment_nuclei([slide], network, settings, normalise=[None if fit is None else fit.normalise])
        write_atomic(out / f"{slide.name}_semantic.png", png_bytes(semantic_overlay(slide, found, opacity=opacity)))
        write_atomic(out / f"{slide.name}_ternary.png", png_bytes(ternary_overlay(slide, found, opacity=opacity)))
        write_instances(out / f"{slide.name}_instances.tif", found, slide)
        write_outlines(out / f"{slide.name}.geojson", found, slide)
        write_rows(out / f"{slide.name}.parquet", found.table, found.warning)
        counts = found.table["class"].value_counts()
        text = f"{len(found.table)} nuclei" + "".join(f", {count} {label}" for label, count in counts.items())
        return text if fit is None else f"{text}. {fit.check().description}"

    each_slide(images, mpp, predict)


@nuclei_app.command("score")
def nuclei_score(
    patches: Annotated[list[Path], typer.Option(help="Folder of patches from 'nuclei patches'; repeatable.")],
    weights: Weights,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the scores to.")] = None,
    batch: Batch = 8,
    device: Device = DeviceChoice.AUTO,
    precision: PrecisionOption = PrecisionChoice.AUTO,
    backend: BackendOption = BackendChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Score weights on annotated images, assembled from their patches: Dice, IoU, PQ, AJI, detection, classes."""
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
    images = evaluate_patches(known, prepare_nuclei(loaded, compute, settings), loaded.card.mpp, settings)
    scores, nuclei = nucleus_values(images), sum(image.nuclei for image in images)
    typer.echo(f"{len(images)} images with {nuclei} nuclei, assembled from {len(known)} patches")
    for name, value in scores.items():
        typer.echo(f"{name:<28}{'none' if value is None else f'{value:.4f}'}")
    if out is not None:
        counts = {"patches": len(known), "images": len(images), "nuclei": nuclei}
        content = {"weights_sha256": loaded.sha256, **counts, "scores": scores}
        write_atomic(out, json.dumps(content, indent=2).encode() + b"\n")
