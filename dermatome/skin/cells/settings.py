"""Settings of `cell_masks`."""

from typing import Annotated, Literal

from pydantic import Field

from dermatome.classes import WantedVectors
from dermatome.storage.settings_model import Effect, SettingsModel

SegmenterName = Literal["cellpose", "instanseg", "nuclei", "watershed"]
"""Method that finds cells."""


class CellSettings(SettingsModel):
    """How cells are segmented.

    Attributes:
        segmenter: method that finds cells: ``cellpose`` (the `cell_champion`, else `cell_weights`), ``instanseg``,
            ``nuclei`` (a network for nuclei, whose file `cell_weights` names), or ``watershed``, which needs no network
            and serves as a baseline. The settings of diameter, thresholds, batch and tiles apply to ``cellpose``.
        diameter_um: cell diameter, µm, to which images are scaled for the network; None uses the network's size
            estimate if it has one, else the diameter it was trained on.
        flow_threshold: Cellpose's flow error threshold; 0 keeps every cell.
        cellprob_threshold: Cellpose's cell probability threshold, a logit.
        min_area_um2: smaller cells are dropped, µm².
        margin_um: margin around the epidermis that the network sees, µm, so that cells at the edge are complete.
        batch: number of tiles per call of the network.
        tile_overlap: overlap of the network's tiles as a share of their side, as in Cellpose; another grid gives
            other cells.
        stain_vectors: stain vectors for DAB and hematoxylin of single cells, ``standard`` or ``slide``, as in the
            section `[layers]`. Cells are always found with the published vectors, as in the networks' training.
    """

    segmenter: SegmenterName = "cellpose"
    diameter_um: float | None = Field(default=None, ge=1, le=200)
    flow_threshold: float = 0.4
    cellprob_threshold: float = 0.0
    min_area_um2: float = Field(default=8.0, ge=0)
    margin_um: float = Field(default=12.0, ge=0)
    batch: Annotated[int, Effect.SPEED] = Field(default=8, ge=1)
    tile_overlap: float = Field(default=0.1, ge=0.05, le=0.5)
    stain_vectors: WantedVectors = "standard"
