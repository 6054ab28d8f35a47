"""`annotation_queue`: the regions of slides that are most worth annotating next."""

import dagster as dg

from assets.materialize import deciding, materialize_one
from assets.partitions import by_hand
from assets.skin.slide_images import slide_images
from assets.skin.tissue_champion import tissue_champion
from resources import PathsResource, SettingsResource
from resources.settings import DECIDED_BY


@dg.asset(
    deps=[by_hand(slide_images), tissue_champion],
    code_version="1",
    group_name="skin_training",
    kinds={"html"},
    pool="gpu",
    metadata={DECIDED_BY: "queue, compute.precision"},
)
def annotation_queue(
    context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Regions on which the tissue network is least sure, unlike each other and unlike annotated ones, best first.

    Files: `queue.parquet`, and `queue.html` with pictures and links to the page on which a region is corrected.
    """
    from dermatome.skin.queue.stage import make_queue, queue_slides
    from dermatome.skin.tissue.networks import find_tissue_weights

    root, decided, compute = paths.data_root, settings.value.queue, settings.value.compute
    web_url = settings.value.platform.web_url
    weights, slides = find_tissue_weights(root), queue_slides(root, decided)
    return materialize_one(
        context,
        root,
        make=lambda folder: make_queue(root, folder, list(slides), weights, compute, decided, web_url),
        inputs={"tissue_champion": weights.data_version, **slides},
        settings=deciding(context, settings.value, root),
    )
