"""`epidermis_layers`: DAB, H and their ratio by layer of the epidermis, counted from the dermis."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.each import Event, make_each, partitioned
from assets.partitions import SLIDES
from assets.skin.cell_masks import cell_masks
from assets.skin.epidermis_masks import epidermis_masks
from assets.skin.slide_images import slide_images
from dermatome.stage_record import StageResult, made_by
from resources import PathsResource, SettingsResource, SlideEngineResource
from resources.settings import as_plain


@partitioned(
    partitions_def=SLIDES,
    deps=[slide_images, epidermis_masks, cell_masks],
    partitions_a_run=400,
    group_name="inference",
    kind="parquet",
    code_version="1",
)
def epidermis_layers(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
    engine: SlideEngineResource,
) -> Iterator[Event]:
    """Layers of one mean cell diameter; no epidermis, no dermis or no cells is a named outcome.

    Files: `layers.parquet`, `cell_layers.parquet`, `profile.parquet`, `layers.ome.tif`, `figure.png`.
    """
    from dermatome.skin.stages import make_layers

    root = paths.data_root
    in_force = settings.value.layers

    def inputs(slide: str) -> dict[str, str]:
        upstream = ("slide_images", "epidermis_masks", "cell_masks")
        return {name: made_by(root, name, slide).data_version for name in upstream}

    def make(slide: str, folder: Path) -> StageResult:
        return make_layers(root, slide, folder, in_force)

    yield from make_each(context, root, engine, inputs=inputs, make=make, settings=as_plain(in_force))
