"""`cell_masks`: every cell of the epidermis, as an instance map and a table."""

from assets.partitions import SLIDES
from assets.skin.cell_champion import cell_champion
from assets.skin.epidermis_masks import epidermis_masks
from assets.skin.slide_images import slide_images
from assets.slide_asset import AnyStage, Run, slide_asset
from assets.sources import CYTO2
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.skin.stage_files import check_champion


@slide_asset(
    SLIDES, "skin_inference", kind="pytorch", code_version="3", partitions_a_run=100,
    deps=[slide_images, epidermis_masks, cell_champion, CYTO2],
    decided_by=["cells", "compute.precision", "cell_weights unless cell_champion"], pool="gpu",
    checks={
        "cell_density": "As many cells per mm² of epidermis as skin has.",
        "seam_density": "As many cells at tile seams as elsewhere.",
        "mask_made_with_champion": "The mask these cells lie in is the present champion's.",
    },
    check_now=check_champion,
)  # fmt: skip
def cell_masks(run: Run) -> AnyStage:
    """One partition is one slide: every cell of its epidermis.

    All epidermis components → H channel → Cellpose or another `[cells] segmenter` → cells at full resolution.

    Files: `cells.npz` (`instances`), `cells.parquet`, `cells.ome.tif`, `cells.geojson`, `figure.png`.
    """
    from dermatome.skin.cells.stage import CellsStage

    settings = run.settings
    weights = find_cell_weights(run.root, settings.cell_weights, settings.cells.segmenter)
    return CellsStage(run.root, weights, settings.compute, settings.cells, settings.figures)
