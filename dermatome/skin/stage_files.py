"""Files of the skin stages: their names, and how later stages read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from dermatome.classes import LabelArray
from dermatome.errors import MissingInput
from dermatome.geometry import Size
from dermatome.labels.npz import load_instances, load_mask
from dermatome.labels.ome_tiff import open_ome_tiff
from dermatome.pipeline.cached_stage import Stage
from dermatome.pipeline.stage_files import load_slide, read_rows, timed, versions_of
from dermatome.slides.slide import WHOLE_PX, Slide
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Check, StageRecord, read_record, require_record

Result = TypeVar("Result")

MASK_FILE = "mask.npz"
MASK_TIFF = "mask.ome.tif"
CELLS_FILE = "cells.npz"
CELLS_TIFF = "cells.ome.tif"
LAYERS_TABLE = "layers.parquet"
CELLS_TABLE = "cells.parquet"


def load_tissue_mask(root: DataRoot, slide: str, size: Size) -> tuple[LabelArray, StageRecord]:
    """The tissue mask of a slide and its record; the mask of a very large slide is read from its file in parts.

    Raises:
        MissingInput: there is no mask yet.
        StorageFailed: its file is not the one that was written.
    """
    whole, folder = size.area_px <= WHOLE_PX, root.folder("epidermis_masks", slide)
    record = require_record(root, "epidermis_masks", slide, MASK_FILE if whole else MASK_TIFF)
    return (load_mask(folder / MASK_FILE)[0] if whole else open_ome_tiff(folder / MASK_TIFF)), record


def load_cell_map(root: DataRoot, slide: str, size: Size) -> tuple[LabelArray, pd.DataFrame, StageRecord]:
    """The instance map of a slide's cells, their table and record; a very large map is read from its file in parts.

    Raises:
        MissingInput: there are no cells yet.
        StorageFailed: a file of them is not the one that was written.
    """
    whole, folder = size.area_px <= WHOLE_PX, root.folder("cell_masks", slide)
    record = require_record(root, "cell_masks", slide, CELLS_TABLE, CELLS_FILE if whole else CELLS_TIFF)
    cells = read_rows(folder / CELLS_TABLE)
    return (load_instances(folder / CELLS_FILE) if whole else open_ome_tiff(folder / CELLS_TIFF)), cells, record


@dataclass(frozen=True)
class SkinInput:
    """A slide with its tissue mask and, on request, its cells; large ones are opened without decoding.

    Attributes:
        slide: the image.
        mask: (H, W) uint8 of :class:`~dermatome.classes.TissueClass`.
        mask_record: record of the mask.
        instances: (H, W) int32 of the cells; empty unless requested.
        cells: a row for each cell.
        cells_record: record of the cells; that of the mask unless cells are requested.
        seconds: wall time of each phase, s, to which stages add.
    """

    slide: Slide
    mask: LabelArray
    mask_record: StageRecord
    instances: LabelArray
    cells: pd.DataFrame
    cells_record: StageRecord
    seconds: dict[str, float]


def load_skin(root: DataRoot, name: str, *, cells: bool = True) -> SkinInput:
    """Loads a slide and its results; raises the errors of :func:`load_tissue_mask` and :func:`load_cell_map`."""
    seconds: dict[str, float] = {}
    with timed(seconds, "decode"):
        slide = load_slide(root, name)
        mask, made = load_tissue_mask(root, name, slide.size)
        found = load_cell_map(root, name, slide.size) if cells else (mask, pd.DataFrame(), made)
    return SkinInput(slide, mask, made, *found, seconds)


class SkinStage(Stage[SkinInput, tuple[SkinInput, Result]]):
    """A stage that computes one slide after another from its image, tissue mask and, optionally, cells.

    Attributes:
        phase: name of the computation in the record's seconds.
        reads_cells: whether it needs the cells.
    """

    phase: str
    reads_cells = False

    def load(self, key: str) -> SkinInput:
        """Decodes the image and the results of earlier stages, or opens them if they are large."""
        return load_skin(self.root, key, cells=self.reads_cells)

    def pixels(self, loaded: SkinInput) -> int:
        """Size of the image, px."""
        return loaded.slide.size.area_px

    def compute(self, loaded: Sequence[SkinInput]) -> list[tuple[SkinInput, Result]]:
        """Computes each slide."""
        found = []
        for skin in loaded:
            with timed(skin.seconds, self.phase):
                result = self.result(skin)
            found.append((skin, result))
        return found

    def result(self, skin: SkinInput) -> Result:
        """Computes one slide."""
        raise NotImplementedError


def require_current(root: DataRoot, asset: str, slide: str, made_from: Sequence[str], *read: str) -> StageRecord:
    """The record of a slide's result, if it was computed from the present results of other assets.

    ``read`` are names of the result's files that will be read; see :func:`require_record`.

    Raises:
        MissingInput: there is no result, or it was computed from earlier results.
        StorageFailed: one of the files is not the one that was written.
    """
    record = require_record(root, asset, slide, *read)
    for other, version in versions_of(root, slide, *made_from).items():
        if record.inputs.get(other) != version:
            raise MissingInput(
                f"The {asset} of {slide} were computed from earlier {other}: materialize {asset} for it again."
            )
    return record


def check_champion(root: DataRoot, slide: str) -> Check:
    """Checks that the mask of a slide was computed with the weights of the present champion.

    Raises:
        MissingInput: the slide has no mask yet.
    """
    used = require_record(root, "epidermis_masks", slide).values["weights_sha256"]
    champion = read_record(root.record("tissue_champion", CHAMPION))
    passed = champion is not None and used == champion.values["weights_sha256"]
    weights = "the present champion's weights" if passed else "other weights than the present champion's"
    return Check("mask_made_with_champion", passed, f"The mask was made with {weights}.", {"weights_sha256": str(used)})
