"""`til_scores`: tumour-infiltrating lymphocytes of a slide, as three numbers and a map."""

from assets.nuclei.nucleus_maps import nucleus_maps
from assets.partitions import NUCLEI_SLIDES
from assets.slide_asset import AnyStage, Run, slide_asset


@slide_asset(
    NUCLEI_SLIDES, "nuclei_inference", kind="parquet", code_version="2", partitions_a_run=300,
    deps=[nucleus_maps], decided_by=["til"],
)  # fmt: skip
def til_scores(run: Run) -> AnyStage:
    """One partition is one H&E slide: lymphocytes per mm² of tissue and their map on 50 µm squares (Saltz et al. 2018),
    the share of immune nuclei, and the share of lymphocytes within 20 µm of an epithelial nucleus (Barua et al. 2018).

    Definitions and their limits: `dermatome.nuclei.til.score`. Files: `til_map.parquet`, `figure.png`.
    """
    from dermatome.nuclei.til.stage import til_stage

    return til_stage(run.root, run.settings.til, figures=run.settings.figures)
