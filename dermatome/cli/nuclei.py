"""The commands of the nuclei pipeline: `dermatome nuclei`."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermatome.classes import NUCLEUS_LABELS, UNCLASSIFIED
from dermatome.cli.support import (
    BATCH,
    GROUP,
    MODELS,
    GivenMpp,
    Images,
    Mpp,
    Out,
    Overwrite,
    Report,
    Results,
    Seed,
    TableOut,
    complain,
    each,
    each_slide,
    number,
    warn,
    with_options,
)
from dermatome.cli.train import TrainGroup
from dermatome.errors import DermatomeError, MissingInput, StorageFailed
from dermatome.inference.compute import Compute
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.nuclei.til.settings import TilSettings
from dermatome.storage.layout import DataRoot

if TYPE_CHECKING:
    from dermatome.nuclei.patches.files import Patch
    from dermatome.slides.slide import Slide
    from dermatome.storage.record import StageResult

nuclei_app = typer.Typer(
    cls=TrainGroup, help="Nuclei of H&E images and their classes: cut patches, train, predict, score.", **GROUP
)
Weights = Annotated[
    str,
    typer.Option(
        help="Weights file from 'nuclei train', or toy, the small network trained on synthetic nuclei.",
        show_default=False,
    ),
]


@nuclei_app.command("patches")
@with_options(
    PatchSettings,
    size_px="Side of a patch, px.",
    stride_px="Step from one patch to the next, px; if it is below --size-px, patches overlap.",
    least_foreground="Smallest share of pixels in nuclei, 0 to 1; other patches are left out. 0 keeps all patches.",
    boundary_px="Width of the boundary class along the inner edge of a nucleus, px.",
    normalise_stain="Normalise the stain of each image first; use it if images come from several laboratories.",
)
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
    settings: PatchSettings,
    mpp: Mpp = 0.25,
    validation_share: Annotated[
        float, number("Share of the patches to mark for validation; a patient's patches stay together.", 0, 1)
    ] = 0.0,
    seed: Seed = 0,
) -> None:
    """Cut annotated images of nuclei (MoNuSAC, MoNuSeg, label images) into training patches.

    Example: dermatome nuclei patches annotated/ --out patches --mpp 0.25
    """
    from dermatome.nuclei.patches.annotated import annotated_images, case_folders
    from dermatome.nuclei.patches.cut import cut_case, one_class, split_patches
    from dermatome.nuclei.patches.files import write_manifest

    settings = settings.changed(declared_mpp=mpp)
    patches: list[Patch] = []
    given = isinstance(mpp, GivenMpp)

    def cut(case: Path, report: Report) -> str:
        images = annotated_images(case)
        new, left_out = cut_case(images, out, settings, given)
        if twice := {patch.name for patch in patches} & {patch.name for patch in new}:
            raise DermatomeError(f"{case} has an image of the same name as another case ({min(twice)}): rename one.")
        patches.extend(new)
        warn(one_class(images, new))
        text = f"{len(new)} patches of {sum(patch.nuclei for patch in new)} nuclei"
        return f"{text}; left out, as they are no objects: {left_out}" if left_out else text

    def finish() -> None:
        if patches:
            divided, how = split_patches(patches, validation_share, seed)
            write_manifest(out, divided)
            typer.echo(f"{out}: {len(patches)} patches of {len({patch.case for patch in patches})} patients; {how}")

    cases = [case for folder in folders for case in case_folders(folder)]
    if not cases:
        names = ", ".join(map(str, folders))
        raise MissingInput(f"There are no annotated images in {names}: put images beside their .xml there.")
    each(cases, cut, "cases", finish)


@nuclei_app.command("predict")
@with_options(
    NucleusSettings,
    normalise_stain="Normalise the stain of each image first. By default, as in the training of the weights.",
    batch=BATCH,
    compute=True,
)
def nuclei_predict(
    images: Images,
    weights: Weights,
    out: Out,
    settings: NucleusSettings,
    compute: Compute,
    mpp: Mpp = 0.25,
    opacity: Annotated[
        float, number("Opacity of the colours over the image: 0 shows the image only, 1 the colours only.", 0, 1)
    ] = 0.45,
    overwrite: Overwrite = False,
) -> None:
    """Find the nuclei of each image and their classes.

    Files for each image: <stem>_semantic, _ternary and _instances.ome.tif (maps), <stem>_semantic.png and
    <stem>_ternary.png (the maps over the image), <stem>.parquet (one row for each nucleus), <stem>.geojson (outlines
    for QuPath), <stem>.png (figure) and <stem>.json (weights, scale, settings, versions).

    Example: dermatome nuclei predict fields/ --weights toy --out nuclei --mpp 0.25
    """
    from dermatome.imaging.stain_normalisation import AS_IT_IS
    from dermatome.nuclei.maps.networks import load_nuclei, nucleus_weights_named
    from dermatome.nuclei.maps.segment import fitted_stain, segment_nuclei
    from dermatome.nuclei.maps.stage import write_nuclei

    found_weights = nucleus_weights_named(DataRoot(out), weights)
    kept = MODELS.expanduser() / "prepared"
    network_of = cache(lambda: load_nuclei(found_weights, compute, settings, kept))
    results = Results(out, "nucleus_maps", settings, overwrite)

    def predict(slide: Slide, report: Report) -> str:
        def write(folder: Path) -> StageResult:
            network = network_of()
            fit = fitted_stain(slide, network, settings)
            (found,) = segment_nuclei(
                [slide], network, settings, lambda done: report(f"{done} tiles done"),
                normalise=[None if fit is None else fit.normalise],
            )  # fmt: skip
            return write_nuclei(folder, slide, found, fit, network, compute, {}, weights, opacity, slide.name)

        record, note = results.of(slide, write, weights_sha256=found_weights.sha256, opacity=f"{opacity:g}")
        counts = {label: int(str(record.values[label])) for label in (*NUCLEUS_LABELS[1:], UNCLASSIFIED)}
        kinds = sorted((-count, label) for label, count in counts.items() if count)
        text = f"{note}{record.values['nuclei']} nuclei" + "".join(f", {-count} {label}" for count, label in kinds)
        return text if record.values["stain"] == AS_IT_IS else f"{text}. {record.checks[1].description}"

    each_slide(images, mpp, predict)


@nuclei_app.command("til")
@with_options(
    TilSettings,
    near_um="Largest distance between a lymphocyte and an epithelial nucleus that it is near to, µm.",
    square_um="Side of a square of the TIL map, µm; infiltrated_share is the share of squares with a lymphocyte.",
)
def nuclei_til(
    folder: Annotated[Path, typer.Argument(help="Folder of nuclei from 'nuclei predict'.", show_default=False)],
    out: Out,
    settings: TilSettings,
    table: TableOut = "",
    overwrite: Overwrite = False,
) -> None:
    """Score the tumour-infiltrating lymphocytes (TIL) of each image whose nuclei were predicted.

    Files: til.parquet (a row of scores for each image in the folder), and for each image <stem>.parquet (squares),
    <stem>.png (figure) and <stem>.json (scores, settings, versions).

    Example: dermatome nuclei til nuclei --out til --table -
    """
    import pandas as pd

    from dermatome.nuclei.til.stage import write_til
    from dermatome.pipeline.stage_files import read_rows
    from dermatome.storage.record import read_record

    results, tables = Results(out, "til_scores", settings, overwrite), []

    def score(path: Path, report: Report) -> str:
        try:
            nuclei = read_record(path)
        except StorageFailed:  # another program's JSON, or a damaged one
            nuclei = None
        if nuclei is None or nuclei.asset != "nucleus_maps" or path.stem == "til":
            raise MissingInput(
                f"{path} is not a readable record of 'nuclei predict': name its folder of results, or predict again."
            )
        inputs, slide = {"nuclei": nuclei.data_version, "made_at": str(nuclei.made_at)}, nuclei.partition

        def write(place: Path) -> StageResult:
            return write_til(place, slide, read_rows(path.with_suffix(".parquet")), nuclei.values, settings, slide)

        record, note = results.from_inputs(slide, inputs, write, "nuclei")
        tables.append(pd.DataFrame([{"slide": slide, "outcome": record.outcome, **record.values}]))
        density = record.values["lymphocytes_per_mm2"]
        found = "no tissue" if density is None else f"{density:,.0f} lymphocytes per mm² of tissue"
        return note + (record.message or found)

    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise MissingInput(f"There are no nuclei in {folder}: run 'dermatome nuclei predict' first.")
    finish = partial(results.join, "til.parquet", tables, table)
    each(paths, score, "images", finish, complain if table == "-" else typer.echo)


@nuclei_app.command("score")
@with_options(NucleusSettings, batch=BATCH, compute=True)
def nuclei_score(
    patches: Annotated[list[Path], typer.Option(help="Folder of patches from 'nuclei patches'; repeatable.")],
    weights: Weights,
    settings: NucleusSettings,
    compute: Compute,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the scores to.")] = None,
) -> None:
    """Score weights on annotated images, assembled from their patches: Dice, IoU, PQ, AJI, detection, classes.

    Example: dermatome nuclei score --patches held_out --weights nuclei.safetensors --out scores.json
    """
    from dermatome.metrics.panoptic import nucleus_values
    from dermatome.nuclei.maps.evaluate import check_stain, evaluate_patches
    from dermatome.nuclei.maps.network import load_nucleus_weights
    from dermatome.nuclei.maps.networks import weights_path
    from dermatome.nuclei.maps.segment import prepare_nuclei
    from dermatome.nuclei.patches.files import load_patches
    from dermatome.storage.files import write_atomic

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
