"""Builds the atlas: a row for each gene by relative depth, with similar genes side by side, and the marker check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import StainingPattern
from dermatome.skin.atlas.settings import AtlasSettings
from dermatome.skin.layers.measure import RELATIVE_BINS

GRANULAR = "granular"
MARKERS = {
    **dict.fromkeys(("KRT5", "KRT14", "COL17A1"), StainingPattern.BASAL.value),
    **dict.fromkeys(("KRT1", "KRT10"), StainingPattern.SUPRABASAL.value),
    **dict.fromkeys(("FLG", "LOR", "LORICRIN", "IVL"), GRANULAR),
}
"""Markers and their place in the epidermis (Fuchs 1990, "Epidermal differentiation: the bare essentials", Journal of
Cell Biology 111(6)). LOR is named LORICRIN in newer gene lists."""


_READS_AS = {
    StainingPattern.BASAL.value: {StainingPattern.BASAL.value},
    StainingPattern.SUPRABASAL.value: {StainingPattern.SUPRABASAL.value, GRANULAR},
    GRANULAR: {GRANULAR},
}


@dataclass(frozen=True)
class MarkerResult:
    """How the antibodies of a marker gene stain.

    Attributes:
        gene: Symbol of the gene.
        expected: ``basal``, ``suprabasal`` or ``granular``.
        antibodies: For each antibody, its name and where it stains.
        passed: Whether more than half of the antibodies stain as expected.
    """

    gene: str
    expected: str
    antibodies: dict[str, str]
    passed: bool


@dataclass(frozen=True)
class Atlas:
    """All genes.

    Attributes:
        antibodies: A row for each antibody: gene, pattern, numbers, annotation.
        genes: Ensembl id and symbol of each gene with a profile, in the order of ``depth``.
        depth: (genes, 20) mean DAB by relative depth, over the gene's antibodies; NaN where nothing was measured.
        linkage: Clustering of the rows in scipy's format; None if they are not clustered.
        markers: The markers among the genes.
    """

    antibodies: pd.DataFrame
    genes: pd.DataFrame
    depth: npt.NDArray[np.float64]
    linkage: npt.NDArray[np.float64] | None
    markers: tuple[MarkerResult, ...]


def build_atlas(profiles: pd.DataFrame, antibodies: pd.DataFrame, settings: AtlasSettings | None = None) -> Atlas:
    """Combines the profiles of all genes.

    Genes are clustered by their DAB at each relative depth (Ward's method, Euclidean distance).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    settings = settings or AtlasSettings()
    by_depth = profiles[profiles["part"] == "relative_depth"]
    wide = by_depth.pivot_table(index=["ensembl_id", "gene"], columns="relative_from", values="mean_dab_od")
    wide = wide.reindex(columns=np.linspace(0, 1, RELATIVE_BINS + 1)[:-1])
    depth = wide.to_numpy(float, na_value=np.nan)
    filled = np.array([_filled(row) for row in depth]).reshape(depth.shape)
    tree = linkage(filled, "ward") if 2 <= len(wide) <= settings.max_clustered else None
    # Without clustering, genes are sorted by the centre of their staining, basal ones first.
    centre = filled @ np.arange(RELATIVE_BINS) / np.maximum(filled.sum(axis=1), 1e-9)
    order = leaves_list(tree) if tree is not None else np.argsort(centre)
    genes = wide.index.to_frame(index=False).iloc[order].reset_index(drop=True)
    return Atlas(antibodies, genes, depth[order], tree, tuple(check_markers(profiles, antibodies)))


def check_markers(profiles: pd.DataFrame, antibodies: pd.DataFrame) -> list[MarkerResult]:
    """Where the antibodies of the marker genes stain.

    Basal or suprabasal follows from an antibody's staining pattern; it is granular if it is suprabasal and its DAB is
    higher in the upper than in the lower suprabasal zone.
    """
    results = []
    zones = profiles[profiles["part"] == "zone"]
    for gene, expected in MARKERS.items():
        found: dict[str, str] = {}
        for row in antibodies[antibodies["gene"] == gene].to_dict("records"):
            mine = zones[(zones["gene"] == gene) & (zones["antibody"].fillna("") == (row["antibody"] or ""))]
            found[str(row["antibody"])] = _reading(row["pattern"], mine.set_index("zone")["mean_dab_od"])
        if found:
            right = sum(reading in _READS_AS[expected] for reading in found.values())
            results.append(MarkerResult(gene, expected, found, 2 * right > len(found)))
    return results


def _reading(pattern: str, zones: Any) -> str:
    if pattern == StainingPattern.SUPRABASAL and zones.get("upper_suprabasal", 0) > zones.get("lower_suprabasal", 0):
        return GRANULAR
    return pattern


def _filled(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A row with its gaps interpolated."""
    known = np.flatnonzero(np.isfinite(row))
    filled: npt.NDArray[np.float64] = (
        np.interp(np.arange(row.size), known, row[known]) if known.size else np.zeros(row.size)
    )
    return filled


def marker_sentence(markers: Sequence[MarkerResult]) -> str:
    """A sentence on how many markers stain as expected."""
    if not markers:
        return f"None of the markers ({', '.join(dict.fromkeys(MARKERS))}) is among the genes."
    wrong = [
        f"{marker.gene} ({', '.join(sorted(set(marker.antibodies.values())))}, not {marker.expected})"
        for marker in markers
        if not marker.passed
    ]
    right = f"{len(markers) - len(wrong)} of {len(markers)} markers read as they should"
    return f"{right}: not {', '.join(wrong)}." if wrong else f"{right}."
