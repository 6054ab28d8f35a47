"""`epidermis_masks`: background, dermis, epidermis and keratin of a slide, at full resolution."""

from collections.abc import Iterator

import dagster as dg

from assets.partitions import SLIDES
from assets.skin.slide_images import slide_images
from assets.skin.tissue_champion import tissue_champion
from assets.slide_asset import Event, materialize_slides, slide_asset
from resources import PathsResource, SettingsResource


@slide_asset(
    partitions_def=SLIDES,
    deps=[slide_images, tissue_champion],
    partitions_a_run=200,
    group_name="skin_inference",
    kind="pytorch",
    code_version="3",
    decided_by=["tissue", "compute.precision"],
    pool="gpu",
    checks={
        "tissue_fraction": "Between 2 % and 98 % of the slide is tissue.",
        "epidermis_plausible": "Epidermis is there, and is not everything.",
        "looks_like_skin": "Where there is epidermis, there is dermis: else the slide is not what the network knows.",
    },
)
def epidermis_masks(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
) -> Iterator[Event]:
    """One partition is one slide: where its dermis, epidermis and keratin are.

    Coarse prediction → significant regions → those again at full resolution → cleanup.

    Files: `mask.npz` (`mask`, `crop_bbox`), `mask.ome.tif`, `tissue.geojson`, `figure.png`.
    """
    from dermatome.skin.tissue.networks import find_tissue_weights
    from dermatome.skin.tissue.stage import MaskStage

    root = paths.data_root
    now = settings.value
    stage = MaskStage(root, find_tissue_weights(root), now.compute, now.tissue, now.images.declared_mpp)
    yield from materialize_slides(context, settings, stage)
