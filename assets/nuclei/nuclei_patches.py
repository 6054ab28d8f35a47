"""`nuclei_patches`: annotated images of one patient's nuclei, cut into training patches."""

from assets.partitions import NUCLEI_CASES
from assets.slide_asset import AnyStage, Run, slide_asset
from assets.sources import NUCLEI_ANNOTATIONS
from dermatome.pipeline.cached_stage import WaitingStage


@slide_asset(
    NUCLEI_CASES, "nuclei_training", kind="file", code_version="6", partitions_a_run=300,
    deps=[NUCLEI_ANNOTATIONS], decided_by=["nuclei_patches"],
)  # fmt: skip
def nuclei_patches(run: Run) -> AnyStage:
    """One partition is one patient: training patches of `nuclei_annotations/<case>/`: `rgb/`, `semantic/`, `ternary/`,
    `instances/` and `patches.parquet`.

    A case is a patient's images with their Aperio XML files as in MoNuSAC and MoNuSeg, or `images/` with `instances/`
    or `classes/`. Ambiguous regions are ignored; an annotation that cannot be read fails only its own case.
    """
    from dermatome.nuclei.patches.annotated import case_version
    from dermatome.nuclei.patches.cut import make_patches

    source, chosen = run.root.nuclei_annotations, run.settings.nuclei_patches
    return WaitingStage(
        run.root,
        "nuclei_patches",
        make=lambda case, folder: make_patches(source / case, folder, chosen),
        inputs=lambda case: {"annotation": case_version(source / case)},
    )
