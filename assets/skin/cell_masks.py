"""`cell_masks`: every cell of the epidermis, as an instance map and a table."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.each import Event, make_each, partitioned
from assets.partitions import SLIDES
from assets.skin.epidermis_masks import epidermis_masks
from assets.skin.slide_images import slide_images
from dermatome.stage_record import StageResult, made_by
from resources import CellSegmenterResource, ComputeResource, PathsResource, SettingsResource, SlideEngineResource
from resources.settings import as_plain


@partitioned(
    partitions_def=SLIDES,
    deps=[slide_images, epidermis_masks],
    partitions_a_run=100,
    group_name="inference",
    kind="pytorch",
    code_version="1",
    pool="gpu",
    checks={
        "cell_density": "As many cells per mm² of epidermis as skin has.",
        "seam_density": "As many cells at tile seams as elsewhere.",
        "mask_made_with_champion": "The mask these cells lie in is the present champion's.",
    },
)
def cell_masks(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
    compute: ComputeResource,
    cell_segmenter: CellSegmenterResource,
    engine: SlideEngineResource,
) -> Iterator[Event]:
    """All epidermis components → H channel → Cellpose → cells at full resolution.

    Files: `cells.npz` (`instances`), `cells.parquet`, `cells.ome.tif`, `cells.geojson`, `figure.png`.
    """
    from dermatome.skin.stages import check_champion, make_cells

    root = paths.data_root
    on = compute.choose()
    network = cell_segmenter.load(root, on)
    in_force = settings.value.cells

    def inputs(slide: str) -> dict[str, str]:
        return {name: made_by(root, name, slide).data_version for name in ("slide_images", "epidermis_masks")}

    def make(slide: str, folder: Path) -> StageResult:
        return make_cells(root, slide, folder, network, on, in_force)

    yield from make_each(
        context,
        root,
        engine,
        inputs=inputs,
        make=make,
        check_now=lambda slide: [check_champion(root, slide)],
        settings=as_plain(in_force) | {"weights_sha256": network.sha256},
    )
