"""Scores tumour-infiltrating lymphocytes (TIL) of a slide from the table of its nuclei.

There are three scores, each over the whole slide. Lymphocytes per mm² of tissue, and their map on squares of 50 µm,
follow Saltz et al. 2018 ("Spatial organization and molecular correlation of tumor-infiltrating lymphocytes using deep
learning on pathology images", Cell Reports 23:181), who classify squares of 50 µm by whether they contain lymphocytes.
The immune share is that of lymphocytes, neutrophils and macrophages among all nuclei with a class; nuclei without one
are not counted. The share of lymphocytes near epithelium counts those whose nearest epithelial nucleus lies within
20 µm, centre to centre, the radius within which Barua et al. 2018 ("Spatial interaction of tumor cells and regulatory T
cells correlates with survival in non-small cell lung cancer", Lung Cancer 117:73) consider that cells can interact.

Pathologists estimate, following Salgado et al. 2015 (Annals of Oncology 26:259), the share of the *stroma's area* that
lymphocytes cover within the borders of the tumour. These scores are different: stroma and tumour are not separated
here, and epithelium may be benign.
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
    """TIL scores of one slide; None if the denominator is zero or if no nucleus has a class.

    Attributes:
        has_classes: whether any nucleus has a class, or there are no nuclei.
        immune_share: share of immune nuclei among all nuclei with a class.
        near_epithelium_share: share of the lymphocytes that are near epithelium.
        infiltrated_share: share of squares with a lymphocyte among those with any nucleus that has a class.
        squares: (h, w) int32, number of lymphocytes in each square of the map.
        nuclei: (h, w) int32, number of nuclei with a class in each square.
        areas_mm2: (h, w) float64, area of each square on the slide, mm²; those at the lower and right edge are cut.
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
    """Scores the TIL of a slide.

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
    """The map as rows: each square with a nucleus, its top left corner in µm, and its counts.

    ``side_um`` is the side of an uncut square; densities are those of the part on the slide.
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
