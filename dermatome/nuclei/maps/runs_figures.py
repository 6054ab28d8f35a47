"""The dashboard of a training's curves, three rows of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.reports.panels import GREY, INK, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# The source's yellow and green are drawn on dark tissue; on white they need to be darker.
_LINES = {"epithelial": "#d62728", "lymphocyte": "#1f77d0", "neutrophil": "#b58900", "macrophage": "#2ca02c"}
_PARTS = {"inside": "#009e73", "boundary": "#d55e00"}


def dashboard_figure(history: pd.DataFrame, title: str) -> Figure:
    """Loss, learning rate, score, and Dice and IoU of both maps by epoch, as a figure to be saved in any format."""
    figure = new_figure(10.5, 11.5)
    figure.suptitle(title, fontsize=12, x=0.012, ha="left", color=INK)
    classes = [c.label for c in NucleusClass if c is not NucleusClass.BACKGROUND]
    parts = [c.label for c in TernaryClass if c is not TernaryClass.BACKGROUND]
    panels = (
        ("a  Training loss", {"train_loss": ("loss", INK)}, False),
        ("b  Learning rate", {"learning_rate": ("learning rate", INK)}, False),
        ("c  Score by which epochs are chosen", {"score": ("score", INK)}, True),
        ("d  Dice of the ternary map", {f"ternary_dice_{p}": (p, _PARTS[p]) for p in parts}, True),
        ("e  Dice of classes", {f"dice_{c}": (c, _LINES[c]) for c in classes}, True),
        ("f  IoU of classes", {f"iou_{c}": (c, _LINES[c]) for c in classes}, True),
    )
    for axes, (name, columns, share) in zip(figure.subplots(3, 2).ravel(), panels, strict=True):
        _curves(axes, history, columns, share)
        axes.set_title(name, fontsize=10, loc="left", color=INK)
    return figure


def _curves(axes: Any, history: pd.DataFrame, columns: dict[str, tuple[str, str]], share: bool) -> None:
    marker = "o" if len(history) < 25 else None
    drawn = False
    for column, (label, colour) in columns.items():
        values = history[column].astype(float) if column in history else None
        if values is None or values.isna().all():
            continue
        best = f"{label}, best {values.max():.3f}" if share else label
        axes.plot(history["epoch"], values, color=colour, label=best, marker=marker, markersize=3, linewidth=1.5)
        drawn = True
    if share:
        axes.set_ylim(0, 1.02)
    if drawn:
        axes.legend(fontsize=8, frameon=False, loc="best")
    else:
        axes.text(0.5, 0.5, "nothing was validated", transform=axes.transAxes, ha="center", color=GREY, fontsize=9)
    axes.set_xlabel("Epoch", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
