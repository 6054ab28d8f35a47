"""The figure of the atlas: genes by relative depth as a clustered heatmap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dermatome.reports.figures import GREY, INK, new_figure, to_png, to_svg

if TYPE_CHECKING:
    from dermatome.skin.atlas.build import Atlas

COLOURS = "YlOrBr"
"""From pale yellow to brown, with evenly decreasing brightness, which is readable for the colour-blind."""
_NAMED, _WITH_TREE = 60, 500


def highest_dab(atlas: Atlas) -> float:
    """DAB at the dark end of the colour scale: the 99th percentile, at least 0.2."""
    return max(0.2, float(np.nanpercentile(atlas.depth, 99))) if atlas.depth.size else 0.2


def atlas_figure(atlas: Atlas) -> tuple[bytes, bytes]:
    """Draws the heatmap; genes are named if there are at most 60, and the tree is drawn for at most 500.

    Returns:
        PNG bytes and SVG bytes.
    """
    from scipy.cluster.hierarchy import dendrogram

    count = len(atlas.genes)
    figure = new_figure(8, min(12, max(3.4, 0.24 * count + 1.6)))
    tree, heat = figure.subplots(1, 2, width_ratios=(1, 4))
    tree.set_axis_off()
    if not count:
        heat.set_axis_off()
        heat.text(0.5, 0.5, "no gene has a profile", ha="center", color=GREY)
    else:
        # Rows lie at 5, 15, 25, …, as in scipy's trees.
        drawn = heat.imshow(
            atlas.depth, cmap=COLOURS, vmin=0, vmax=highest_dab(atlas), aspect="auto", origin="lower",
            interpolation="nearest", extent=(0, 1, 0, 10 * count),
        )  # fmt: skip
        heat.set_facecolor("#cccccc")  # where nothing was measured
        if atlas.linkage is not None and count <= _WITH_TREE:
            dendrogram(
                atlas.linkage, ax=tree, orientation="left", no_labels=True, color_threshold=0,
                above_threshold_color=GREY,
            )  # fmt: skip
            tree.set_ylim(0, 10 * count)
        shown = list(atlas.genes["gene"]) if count <= _NAMED else []
        heat.set_yticks([10 * n + 5 for n in range(len(shown))], shown, fontsize=8)
        heat.set_xlabel("Relative depth: 0 dermis, 1 upper edge", fontsize=9)
        heat.tick_params(axis="x", labelsize=8)
        heat.set_title(f"{count} genes, mean of their antibodies", fontsize=10, loc="left", color=INK)
        figure.colorbar(drawn, ax=heat, shrink=0.7).set_label("Mean DAB (OD)", fontsize=9)
    return to_png(figure), to_svg(figure)
