"""`training_tiles`: ROIs of an annotated slide, cut into image and mask pairs."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.partitions import ANNOTATED_SLIDES
from assets.slide_asset import Event, materialize_slides, slide_asset
from assets.sources import ANNOTATIONS
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.storage.record import StageResult
from resources import PathsResource, SettingsResource


@slide_asset(
    partitions_def=ANNOTATED_SLIDES,
    deps=[ANNOTATIONS],
    partitions_a_run=300,
    group_name="skin_training",
    kind="file",
    code_version="4",
)
def training_tiles(
    context: dg.AssetExecutionContext, paths: PathsResource, settings: SettingsResource
) -> Iterator[Event]:
    """One partition is one annotated slide: pairs of image and mask that training learns from.

    Cuts `annotations/<slide>/` (`he.*` and `mask.*`, where present `ihc.*`, `palette.json`, and `rois.json` or
    `rois.geojson`, without which all that is annotated is cut) into `images/`, `masks/` and `ihc/`, each ROI divided
    n×n. Pixels that nobody annotated are 255 in `masks/`, and nothing is learnt from them.

    An unknown mask colour, an ROI outside its image, or an image and mask of different sizes stops that slide alone.
    """
    from dermatome.skin.tiles.annotated import annotation_version, make_tiles

    root = paths.data_root

    def make(slide: str, folder: Path) -> StageResult:
        return make_tiles(root.annotations / slide, folder)

    def inputs(slide: str) -> dict[str, str]:
        return {"annotation": annotation_version(root.annotations / slide)}

    stage = WaitingStage(root, "training_tiles", make=make, inputs=inputs)
    yield from materialize_slides(context, settings, stage)
