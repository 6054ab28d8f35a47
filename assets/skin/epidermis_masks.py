"""`epidermis_masks`: background, dermis, epidermis and keratin of a slide, at full resolution."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.each import Event, make_each, partitioned
from assets.partitions import SLIDES
from assets.skin.slide_images import slide_images
from assets.skin.tissue_champion import tissue_champion
from dermatome.stage_record import StageResult, made_by
from resources import (
    ComputeResource,
    PathsResource,
    SettingsResource,
    SlideEngineResource,
    TissueSegmenterResource,
)
from resources.settings import as_plain


@partitioned(
    partitions_def=SLIDES,
    deps=[slide_images, tissue_champion],
    partitions_a_run=200,
    group_name="inference",
    kind="pytorch",
    code_version="1",
    pool="gpu",
    checks={
        "tissue_fraction": "Between 2 % and 98 % of the slide is tissue.",
        "epidermis_plausible": "Epidermis is there, and is not everything.",
    },
)
def epidermis_masks(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
    tissue_segmenter: TissueSegmenterResource,
    engine: SlideEngineResource,
) -> Iterator[Event]:
    """Coarse prediction → significant regions → those again at full resolution → cleanup.

    Files: `mask.npz` (`mask`, `crop_bbox`), `mask.ome.tif`, `tissue.geojson`, `figure.png`.
    """
    from dermatome.skin.stages import make_mask

    root = paths.data_root
    on = compute.choose()
    champion = tissue_segmenter.load(root, on)
    in_force = settings.value.tissue

    def inputs(slide: str) -> dict[str, str]:
        return {
            "slide_images": made_by(root, "slide_images", slide).data_version,
            "tissue_champion": champion.record.data_version,
        }

    def make(slide: str, folder: Path) -> StageResult:
        return make_mask(root, slide, folder, champion.weights, on, in_force)

    yield from make_each(context, root, engine, inputs=inputs, make=make, settings=as_plain(in_force))
