"""Tumour-infiltrating lymphocytes (TIL) of a slide, from the table of its nuclei.

Three numbers, each of the whole slide. Lymphocytes for each mm² of tissue, and their map on squares of 50 µm, follow
Saltz et al. 2018 ("Spatial organization and molecular correlation of tumor-infiltrating lymphocytes using deep learning
on pathology images", Cell Reports 23:181), who tell squares of 50 µm with lymphocytes from those without. The immune
share is that of lymphocytes, neutrophils and macrophages among all nuclei that have a class; those without one count
nowhere. The share of lymphocytes near epithelium
counts those whose nearest epithelial nucleus lies within 20 µm, middle to middle, the radius that Barua et al. 2018
("Spatial interaction of tumor cells and regulatory T cells correlates with survival in non-small cell lung cancer",
Lung Cancer 117:73) take for cells that can interact.

What pathologists read, following Salgado et al. 2015 (Annals of Oncology 26:259), is the share of the *stroma's area*
that lymphocytes cover within the tumour's borders. These numbers are not that: no stroma is told from tumour here, and
epithelium may be benign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import NUCLEUS_LABELS, UNCLASSIFIED, NucleusClass
from dermatome.geometry import Size
from dermatome.nuclei.til.settings import TilSettings

IMMUNE = (NucleusClass.LYMPHOCYTE, NucleusClass.NEUTROPHIL, NucleusClass.MACROPHAGE)


@dataclass(frozen=True)
class TilScores:
    """TIL of one slide; ``None`` where the divisor is zero, or, for the scores, where there are nuclei and
    none has a class.

    Attributes:
        has_classes: whether any nucleus has a class, or there is none.
        immune_share: of all nuclei that have a class.
        near_epithelium_share: of the lymphocytes.
        infiltrated_share: of the squares with any such nucleus, those with a lymphocyte.
        squares: (h, w) int32, lymphocytes in each square of the map.
        nuclei: (h, w) int32, all nuclei in each that have a class.
        areas_mm2: (h, w), of each square what lies on the slide: those at its lower and right edge are cut.
    """

    counts: dict[str, int]
    has_classes: bool
    tissue_mm2: float
    lymphocytes_per_mm2: float | None
    immune_share: float | None
    near_epithelium_share: float | None
    infiltrated_share: float | None
    squares: npt.NDArray[np.int32]
    nuclei: npt.NDArray[np.int32]
    areas_mm2: npt.NDArray[np.float64]


def score_til(
    nuclei: pd.DataFrame, size: Size, mpp: float, tissue_mm2: float, settings: TilSettings | None = None
) -> TilScores:
    """TIL of a slide.

    ``nuclei`` is its table, with ``centroid_y_px``, ``centroid_x_px``, ``class`` and ``class_probability``.
    """
    from scipy.spatial import KDTree

    settings = settings or TilSettings()
    has_classes = nuclei.empty or bool((nuclei["class"] != UNCLASSIFIED).any())
    sure = nuclei[(nuclei["class_probability"] >= settings.min_probability) & (nuclei["class"] != UNCLASSIFIED)]
    kinds = sure["class"].to_numpy(dtype=str)
    places = sure[["centroid_y_px", "centroid_x_px"]].to_numpy(dtype=float) * mpp
    counts = {label: int((kinds == label).sum()) for label in NUCLEUS_LABELS[1:]}
    lymphocytes = places[kinds == NucleusClass.LYMPHOCYTE.label]
    epithelium = places[kinds == NucleusClass.EPITHELIAL.label]
    near: float | None = None
    if len(lymphocytes):
        distances = KDTree(epithelium).query(lymphocytes)[0] if len(epithelium) else np.full(len(lymphocytes), np.inf)
        near = float((distances <= settings.near_um).mean())
    squares, everything = (_count_in_squares(which, size, mpp, settings.square_um) for which in (lymphocytes, places))
    filled = int((everything > 0).sum())
    return TilScores(
        counts=counts,
        has_classes=has_classes,
        tissue_mm2=tissue_mm2,
        lymphocytes_per_mm2=len(lymphocytes) / tissue_mm2 if tissue_mm2 > 0 and has_classes else None,
        immune_share=sum(counts[kind.label] for kind in IMMUNE) / len(sure) if len(sure) else None,
        near_epithelium_share=near,
        infiltrated_share=float((squares > 0).sum() / filled) if filled else None,
        squares=squares,
        nuclei=everything,
        areas_mm2=_square_areas(squares.shape, size, mpp, settings.square_um),
    )


def _count_in_squares(
    places: npt.NDArray[np.float64], size: Size, mpp: float, square_um: float
) -> npt.NDArray[np.int32]:
    shape = tuple(max(1, int(np.ceil(side * mpp / square_um))) for side in (size.height_px, size.width_px))
    counts = np.zeros(shape, np.int32)
    where = np.minimum((places / square_um).astype(np.intp), np.array(shape) - 1)
    np.add.at(counts, (where[:, 0], where[:, 1]), 1)
    return counts


def _square_areas(shape: tuple[int, ...], size: Size, mpp: float, square_um: float) -> npt.NDArray[np.float64]:
    tall, wide = (
        np.minimum(square_um, side * mpp - np.arange(count) * square_um) / 1000
        for count, side in zip(shape, (size.height_px, size.width_px), strict=True)
    )
    areas: npt.NDArray[np.float64] = np.outer(tall, wide)
    return areas


def square_rows(scores: TilScores, square_um: float) -> pd.DataFrame:
    """The map as rows: each square that has a nucleus, its top left corner in µm, and what it holds.

    ``side_um`` is that of a whole square; densities are of the part that lies on the slide.
    """
    rows, columns = np.nonzero(scores.nuclei)
    lymphocytes = scores.squares[rows, columns]
    return pd.DataFrame(
        {
            "top_um": rows * square_um,
            "left_um": columns * square_um,
            "side_um": np.full(len(rows), square_um),
            "nuclei": scores.nuclei[rows, columns].astype("int32"),
            "lymphocytes": lymphocytes.astype("int32"),
            "lymphocytes_per_mm2": lymphocytes / scores.areas_mm2[rows, columns],
        }
    )
