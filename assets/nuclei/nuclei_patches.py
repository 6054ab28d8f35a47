"""`nuclei_patches`: annotated images of one patient's nuclei, cut into training patches."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.partitions import NUCLEI_CASES
from assets.slide_asset import Event, materialize_slides, slide_asset
from assets.sources import NUCLEI_ANNOTATIONS
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.storage.record import StageResult
from resources import PathsResource, SettingsResource


@slide_asset(
    partitions_def=NUCLEI_CASES,
    deps=[NUCLEI_ANNOTATIONS],
    partitions_a_run=300,
    group_name="nuclei_training",
    kind="file",
    code_version="6",
    decided_by=["nuclei_patches"],
)
def nuclei_patches(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
) -> Iterator[Event]:
    """One partition is one patient: training patches of `nuclei_annotations/<case>/`: `rgb/`, `semantic/`, `ternary/`,
    `instances/` and `patches.parquet`.

    A case is a patient's images beside their Aperio XML as MoNuSAC and MoNuSeg give them, or `images/` with
    `instances/` or `classes/`. Ambiguous regions are ignored; an annotation that cannot be read stops that case alone.
    """
    from dermatome.nuclei.patches.annotated import case_version
    from dermatome.nuclei.patches.cut import make_patches

    root = paths.data_root
    chosen = settings.value.nuclei_patches

    def make(case: str, folder: Path) -> StageResult:
        return make_patches(root.nuclei_annotations / case, folder, chosen)

    def inputs(case: str) -> dict[str, str]:
        return {"annotation": case_version(root.nuclei_annotations / case)}

    stage = WaitingStage(root, "nuclei_patches", make=make, inputs=inputs)
    yield from materialize_slides(context, settings, stage)
