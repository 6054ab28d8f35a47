"""The closing table of the demo: what was measured on each slide, compared with its ground truth."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.synthetic.cohort import DemoSlide, demo_genes

# The means that the synthetic cohort must reach for the demo to pass.
TARGETS = {"epidermis IoU": 0.90, "keratin IoU": 0.80, "cell F1": 0.80}
_LAYERS_SHOWN = 5
_MEASURED = f"""
    select k.cells, l.layers, l.pattern,
      (select string_agg(printf('%.2f', mean_dab_od), ' ' order by layer)
        from layers where slide = $slide and layer <= {_LAYERS_SHOWN})
    from layer_slides l join cell_masks k using (slide) where slide = $slide
"""


def print_report(console: Console, root: DataRoot) -> bool:
    """Prints the table, the means and where the results are.

    Returns:
        Whether every good slide was processed with the right staining pattern, the means reach :data:`TARGETS`, and
        only the slide that is broken on purpose failed.
    """
    import duckdb

    table = Table(title="Synthetic cohort: measured, and compared with the ground truth", title_justify="left")
    for name in ("slide", "gene"):
        table.add_column(name)
    for name in ("cells", "layers"):
        table.add_column(name, justify="right")
    for name in (f"DAB OD by layer (1–{_LAYERS_SHOWN})", "pattern (ground truth)"):
        table.add_column(name)
    for name in TARGETS:
        table.add_column(name, justify="right")
    scores, notes, good = [], [], True
    with duckdb.connect(str(root.store), read_only=True) as store:
        for gene, slide in [(one.gene, slide) for one in demo_genes() for slide in one.slides]:
            failure = store.execute("select asset, error from failures where partition = ?", [slide.slide]).fetchone()
            measured = store.execute(_MEASURED, {"slide": slide.slide}).fetchone()
            if failure or measured is None or slide.broken:
                asset, error = failure or ("", "")
                expected = slide.broken and failure is not None
                text = (
                    "failed: broken on purpose"
                    if expected
                    else f"[red]{asset} failed[/]"
                    if failure
                    else "[red]missing[/]"
                )
                table.add_row(slide.slide, gene, "", "", text)
                notes += [f"{slide.slide}: {error}"] * bool(failure)
                good &= expected
                continue
            *counts, pattern, profile = measured
            right = pattern == slide.pattern.value
            good &= right
            scores.append(_scores(root, slide))
            truth = f"({slide.pattern.value})" if right else f"[red]({slide.pattern.value})[/]"
            cells = [f"{value:.2f}" for value in scores[-1]]
            table.add_row(slide.slide, gene, *map(str, counts), profile, f"{pattern} {truth}", *cells)
        champion: Any = store.execute(
            "select t.version, t.mean_iou, t.steps from training t join champion c using (version)"
        ).fetchone()
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False)
    means = dict(zip(TARGETS, np.mean(scores, axis=0) if scores else np.zeros(len(TARGETS)), strict=True))
    console.print("Means: " + ", ".join(f"{name} {means[name]:.3f} (target {TARGETS[name]:.2f})" for name in TARGETS))
    if champion:
        console.print(f"Champion: {champion[0]}, mean IoU {champion[1]:.3f} on held-out tiles, {champion[2]} steps")
    console.print(f"DuckDB   {root.store}")
    for asset in ("epidermis_layers", "epidermis_masks", "cell_masks"):
        console.print(f"Figure   {root.folder(asset, demo_genes()[0].slides[0].slide) / 'figure.png'}")
    console.print(f"Card     {root.folder('gene_profiles', demo_genes()[0].ensembl_id) / 'card.html'}")
    console.print(f"Atlas    {root.folder('skin_atlas', CHAMPION) / 'atlas.html'}")
    console.print(f"HPA      {root.folder('hpa_agreement', CHAMPION) / 'agreement.html'}")
    return good and all(means[name] >= target for name, target in TARGETS.items())


def _scores(root: DataRoot, slide: DemoSlide) -> tuple[float, ...]:
    """The scores of :data:`TARGETS` of a slide."""
    from dermatome.labels.npz import load_instances, load_mask
    from dermatome.metrics.instances import f1_at_iou
    from dermatome.metrics.semantic import class_scores, confusion_matrix

    truth = slide.draw()
    mask, _ = load_mask(root.folder("epidermis_masks", slide.slide) / "mask.npz")
    instances = load_instances(root.folder("cell_masks", slide.slide) / "cells.npz")
    tissues = class_scores(confusion_matrix(truth.mask, mask, len(TISSUE_LABELS)), TISSUE_LABELS)
    ious = [tissues[tissue].iou or 0.0 for tissue in (TissueClass.EPIDERMIS, TissueClass.KERATIN)]
    return *ious, f1_at_iou(truth.instances, instances, 0.5) or 0.0
