"""`nucleus_maps`: every nucleus of an H&E slide, its class and its outline."""

from assets.nuclei.nuclei_champion import nuclei_champion
from assets.nuclei.nuclei_slides import nuclei_slides
from assets.partitions import NUCLEI_SLIDES
from assets.slide_asset import AnyStage, Run, slide_asset
from dermatome.nuclei.maps.networks import find_nucleus_weights


@slide_asset(
    NUCLEI_SLIDES, "nuclei_inference", kind="pytorch", code_version="3", partitions_a_run=50,
    deps=[nuclei_slides, nuclei_champion],
    decided_by=["nuclei", "compute.precision", "nuclei_weights unless nuclei_champion"], pool="gpu",
    checks={
        "nucleus_density": "As many nuclei per mm² of tissue as tissues have.",
        "stain_fit": "If stains are normalised, hematoxylin and eosin could be separated.",
    },
)  # fmt: skip
def nucleus_maps(run: Run) -> AnyStage:
    """One partition is one H&E slide: every nucleus with its class and outline.

    Tiles → network, blended at seams → semantic and ternary maps → watershed → nuclei with class and probability.

    Files: `semantic.ome.tif`, `ternary.ome.tif`, `instances.ome.tif`, `nuclei.parquet`, `nuclei.geojson`,
    `semantic.png`, `ternary.png`, `figure.png`.
    """
    from dermatome.nuclei.maps.stage import NucleusStage

    settings = run.settings
    weights = find_nucleus_weights(run.root, settings.nuclei_weights)
    return NucleusStage(run.root, weights, settings.compute, settings.nuclei, settings.nuclei_opacity, settings.figures)
