"""`epidermis_layers`: DAB, H and their ratio by layer of the epidermis, counted from the dermis."""

from assets.partitions import SLIDES
from assets.skin.cell_masks import cell_masks
from assets.skin.epidermis_masks import epidermis_masks
from assets.skin.origin import origin_of
from assets.skin.slide_images import slide_images
from assets.slide_asset import AnyStage, Run, slide_asset


@slide_asset(
    SLIDES, "skin_inference", kind="parquet", code_version="5", partitions_a_run=400,
    deps=[slide_images, epidermis_masks, cell_masks], decided_by=["layers"],
    checks={
        "background_found": "The slide has enough background to measure the light intensity that OD is relative to.",
        "light_not_clipped": "The background is below 255, so its intensity was measured and not clipped.",
        "stains_present": "The slide's colours are compatible with hematoxylin and DAB; otherwise stains are null.",
        "stain_vectors_found": "If requested, the slide's own stain vectors of hematoxylin and DAB were estimated.",
    },
    more=origin_of,
)  # fmt: skip
def epidermis_layers(run: Run) -> AnyStage:
    """One partition is one slide: stains in the layers of its epidermis, counted from the dermis.

    A layer is one mean cell diameter thick. A slide without epidermis, dermis or cells has an outcome of that name.

    Files: `layers.parquet`, `cell_layers.parquet`, `profile.parquet`, `relative.parquet`, `zones.parquet`,
    `layers.ome.tif`, `layers.geojson` (each layer), `cells.geojson` (cells with class, layer and stains), `figure.png`.

    [Find the slides of a gene by its symbol](/genes)
    """
    from dermatome.skin.layers.stage import LayersStage

    return LayersStage(run.root, run.settings.layers, run.settings.figures)
