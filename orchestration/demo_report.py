"""The demo's closing table: what was found on each slide, held against the truth it was drawn from."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.cohort import DemoGene, DemoSlide, demo_genes

# What the toy cohort must reach for the demo to count as passed.
TARGETS = {"epidermis IoU": 0.90, "keratin IoU": 0.80, "cell F1": 0.80}
_LAYERS_SHOWN = 5


def print_report(console: Console, root: DataRoot) -> bool:
    """Prints the table and where everything lies.

    Returns:
        Whether every good slide was made and read back right, and only the broken one failed.
    """
    import duckdb

    table = Table(title="Toy cohort: measured, and held against the truth", title_justify="left")
    for name, justify in {
        "slide": "left",
        "gene": "left",
        "cells": "right",
        "layers": "right",
        f"DAB OD by layer (1–{_LAYERS_SHOWN})": "left",
        "pattern (truth)": "left",
        "epidermis IoU": "right",
        "keratin IoU": "right",
        "cell F1": "right",
    }.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    scores: dict[str, list[float]] = {name: [] for name in TARGETS}
    notes: list[str] = []
    good = True
    with duckdb.connect(str(root.store), read_only=True) as store:
        for gene in demo_genes():
            for slide in gene.slides:
                good = _add_row(table, root, store, gene, slide, scores, notes) and good
        champion = store.execute(
            "select t.version, t.mean_iou, t.steps from training t join champion c using (version)"
        ).fetchone()
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False)
    means = {name: float(np.mean(values)) if values else 0.0 for name, values in scores.items()}
    console.print(
        "Means: " + ", ".join(f"{name} {means[name]:.3f} (target {target:.2f})" for name, target in TARGETS.items())
    )
    if champion:
        console.print(f"Champion: {champion[0]}, mean IoU {champion[1]:.3f} on held-out tiles, {champion[2]} steps")
    example = demo_genes()[0].slides[0].slide
    for name, path in {
        "DuckDB": root.store,
        "Figures": root.folder("epidermis_layers", example) / "figure.png",
        "": root.folder("epidermis_masks", example) / "figure.png",
        " ": root.folder("cell_masks", example) / "figure.png",
    }.items():
        console.print(f"{name:8} {path}")
    return good and all(means[name] >= target for name, target in TARGETS.items())


def _add_row(
    table: Table,
    root: DataRoot,
    store: Any,
    gene: DemoGene,
    slide: DemoSlide,
    scores: dict[str, list[float]],
    notes: list[str],
) -> bool:
    failure = store.execute("select asset, error from failures where partition = ?", [slide.slide]).fetchone()
    if failure is not None:
        asset, said = failure
        reason = "failed: broken on purpose" if slide.broken else f"[red]{asset} failed[/]"
        table.add_row(slide.slide, gene.gene, "", "", reason)
        notes.append(f"{slide.slide}: {said}")
        return slide.broken
    measured = store.execute(
        "select l.pattern, l.layers, k.cells from layer_slides l join cell_masks k using (slide) where slide = ?",
        [slide.slide],
    ).fetchone()
    if measured is None or slide.broken:
        table.add_row(slide.slide, gene.gene, "", "", "[red]not made[/]")
        return False
    pattern, layers, cells = measured
    profile = [
        row[0]
        for row in store.execute(
            "select mean_dab_od from layers where slide = ? order by layer limit ?", [slide.slide, _LAYERS_SHOWN]
        ).fetchall()
    ]
    agreement = _agreement(root, slide)
    for name, value in agreement.items():
        scores[name].append(value)
    right = pattern == slide.pattern.value
    table.add_row(
        slide.slide,
        gene.gene,
        str(cells),
        str(layers),
        " ".join(f"{od:.2f}" for od in profile),
        f"{pattern} " + (f"({slide.pattern.value})" if right else f"[red]({slide.pattern.value})[/]"),
        *(f"{value:.2f}" for value in agreement.values()),
    )
    return right


def _agreement(root: DataRoot, slide: DemoSlide) -> dict[str, float]:
    from dermatome.labels.npz import load_instances, load_mask
    from dermatome.metrics.instances import f1_at_iou
    from dermatome.metrics.semantic import class_scores, confusion_matrix

    truth = slide.draw()
    mask, _ = load_mask(root.folder("epidermis_masks", slide.slide) / "mask.npz")
    instances = load_instances(root.folder("cell_masks", slide.slide) / "cells.npz")
    by_label = {
        s.label: s.iou or 0.0
        for s in class_scores(confusion_matrix(truth.mask, mask, len(TISSUE_LABELS)), TISSUE_LABELS)
    }
    return {
        "epidermis IoU": by_label[TissueClass.EPIDERMIS.label],
        "keratin IoU": by_label[TissueClass.KERATIN.label],
        "cell F1": f1_at_iou(truth.instances, instances, 0.5),
    }
