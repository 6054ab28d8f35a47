"""The figure of a gene's profile: stains by relative depth and by layer, a line for each antibody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dermatome.reports.figures import GREY, INK, new_figure, plain_axes, to_png, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dermatome.skin.profiles.profile import GeneProfile

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette; with more antibodies, colours repeat with another line style."""
_STYLES = ("-", "--", ":", "-.")
_DEPTH = "Relative depth: 0 dermis, 1 upper edge"
_PANELS = (
    ("a  DAB by relative depth", "relative_depth", "mean_dab_od", "Mean DAB (OD)", _DEPTH),
    ("b  DAB by layer", "layer", "mean_dab_od", "Mean DAB (OD)", "Layer, 1 = basal"),
    ("c  Hematoxylin by relative depth", "relative_depth", "mean_h_od", "Mean H (OD)", _DEPTH),
)


def profile_figure(title: str, profile: GeneProfile) -> tuple[bytes, bytes]:
    """Draws DAB and hematoxylin over patients, with the interval, if there is one, as a band.

    Returns:
        PNG bytes and SVG bytes.
    """
    figure = new_figure(12, 4.2)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    for axes, panel in zip(figure.subplots(1, 3), _PANELS, strict=True):
        _panel(axes, profile, *panel)
    return to_png(figure), to_svg(figure)


def _panel(axes: Axes, profile: GeneProfile, title: str, part: str, measure: str, label: str, below: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(below, fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    plain_axes(axes)
    if profile.antibodies.empty:
        axes.text(0.5, 0.5, "no slide was measured", transform=axes.transAxes, ha="center", color=GREY, fontsize=9)
        return
    highest = 0.1
    for number, antibody in enumerate(profile.antibodies.to_dict("records")):
        rows = rows_of(profile, antibody["antibody"], part)
        place = rows["relative_from"] + 1 / (2 * len(rows)) if part == "relative_depth" else rows["layer"]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.8}
        dashes = _STYLES[number // len(COLOURS) % len(_STYLES)]
        name = antibody["antibody"] or "antibody unknown"
        label_n = f"{name}, n = {rows['patients'].max()}" + ("" if rows["patients"].max() > 1 else ", no interval")
        axes.plot(place, rows[measure], dashes, label=label_n, marker="o", markersize=3, **style)
        axes.fill_between(
            place, rows[f"{measure}_low"], rows[f"{measure}_high"], color=style["color"], alpha=0.2, linewidth=0
        )
        highest = max(highest, rows[measure].max(), rows[f"{measure}_high"].max())
    axes.set_ylim(0, 1.3 * highest)
    if part == "layer":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if part == "relative_depth":
        axes.set_xlim(0, 1)
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def rows_of(profile: GeneProfile, antibody: str | None, part: str) -> pd.DataFrame:
    """The rows of one antibody and part."""
    rows = profile.rows
    mine = rows["antibody"].isna() if antibody is None else rows["antibody"] == antibody
    return rows[mine & (rows["part"] == part)]
