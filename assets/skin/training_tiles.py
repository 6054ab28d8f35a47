"""`training_tiles`: ROIs of an annotated slide, cut into image and mask pairs."""

from assets.partitions import ANNOTATED_SLIDES
from assets.slide_asset import AnyStage, Run, slide_asset
from assets.sources import ANNOTATIONS
from dermatome.pipeline.cached_stage import WaitingStage


@slide_asset(
    ANNOTATED_SLIDES, "skin_training", kind="file", code_version="4", partitions_a_run=300,
    deps=[ANNOTATIONS],
)  # fmt: skip
def training_tiles(run: Run) -> AnyStage:
    """One partition is one annotated slide: pairs of image and mask for training.

    Cuts the files in `annotations/<slide>/` (`he.*` and `mask.*`; optionally `ihc.*`, `palette.json`, and `rois.json`
    or `rois.geojson`) into `images/`, `masks/` and `ihc/`. Each ROI is divided n×n; without ROIs, everything annotated
    is cut. Pixels without annotation are 255 in `masks/` and are ignored by the loss.

    An unknown mask colour, an ROI outside its image, or different sizes of image and mask fail only that slide.
    """
    from dermatome.skin.tiles.annotated import annotation_version, make_tiles

    source = run.root.annotations
    return WaitingStage(
        run.root,
        "training_tiles",
        make=lambda slide, folder: make_tiles(source / slide, folder),
        inputs=lambda slide: {"annotation": annotation_version(source / slide)},
    )
