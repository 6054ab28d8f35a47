"""`epidermis_masks`: background, dermis, epidermis and keratin of a slide, at full resolution."""

from assets.partitions import SLIDES
from assets.skin.slide_images import slide_images
from assets.skin.tissue_champion import tissue_champion
from assets.slide_asset import AnyStage, Run, slide_asset


@slide_asset(
    SLIDES, "skin_inference", kind="pytorch", code_version="3", partitions_a_run=200,
    deps=[slide_images, tissue_champion], decided_by=["tissue", "compute.precision"], pool="gpu",
    checks={
        "tissue_fraction": "Between 2 % and 98 % of the slide is tissue.",
        "epidermis_plausible": "There is epidermis, and it does not fill the slide.",
        "looks_like_skin": "Epidermis lies on dermis in one piece; otherwise the slide is unlike the training slides.",
    },
)  # fmt: skip
def epidermis_masks(run: Run) -> AnyStage:
    """One partition is one slide: where its dermis, epidermis and keratin are.

    Coarse prediction → significant regions → prediction of these at full resolution → cleanup.

    Files: `mask.npz` (`mask`, `crop_bbox`), `mask.ome.tif`, `tissue.geojson`, `figure.png`.
    """
    from dermatome.skin.tissue.networks import find_tissue_weights
    from dermatome.skin.tissue.stage import MaskStage

    settings = run.settings
    weights, mpp = find_tissue_weights(run.root), settings.images.declared_mpp
    return MaskStage(run.root, weights, settings.compute, settings.tissue, mpp, settings.figures)
