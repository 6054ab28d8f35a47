"""The closing tables of the demo: slides compared with their ground truth, the atlas, and HPA's annotation."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.synthetic.cohort import MISLABELLED, DemoSlide, demo_genes

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
        Whether every good slide was processed with the right staining pattern, the means reach :data:`TARGETS`, only
        the slide that is broken on purpose failed, and the gene that is mislabelled on purpose is suspected first.
    """
    import duckdb

    table = _table(
        "Synthetic cohort: measured, and compared with the ground truth", "slide", "gene", "cells", "layers",
        f"DAB OD by layer (1–{_LAYERS_SHOWN})", "pattern (ground truth)", *TARGETS,
    )  # fmt: skip
    scores, notes, good = [], [], True
    with duckdb.connect(str(root.store), read_only=True) as store:
        for gene, slide in [(demo_gene.gene, slide) for demo_gene in demo_genes() for slide in demo_gene.slides]:
            failure = store.execute("select asset, error from failures where partition = ?", [slide.slide]).fetchone()
            measured = store.execute(_MEASURED, {"slide": slide.slide}).fetchone()
            if failure or measured is None or slide.broken:
                asset, error = failure or ("", "")
                expected = slide.broken and failure is not None
                text = f"[red]{asset} failed[/]" if failure else "[red]missing[/]"
                text = "failed: broken on purpose" if expected else text
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
    print_atlas(console, root)
    good &= print_agreement(console, root)
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


def print_atlas(console: Console, root: DataRoot) -> None:
    """Prints what each gene's antibody stains: its pattern, and mean DAB by zone with its interval over patients."""
    import pandas as pd

    table = _table(
        "Atlas: mean DAB (OD) of each zone, with its interval over patients", "gene", "pattern (share of resamples)",
        "n", "basal", "lower suprabasal", "upper suprabasal",
    )  # fmt: skip
    for gene in demo_genes():
        folder = root.folder("gene_profiles", gene.ensembl_id)
        zones = pd.read_parquet(folder / "profile.parquet").query("part == 'zone'").set_index("zone")
        for antibody in pd.read_parquet(folder / "antibodies.parquet").to_dict("records"):
            dab = [
                "{mean_dab_od:.2f} ({mean_dab_od_low:.2f} to {mean_dab_od_high:.2f})".format(**zones.loc[zone])
                for zone in ("basal", "lower_suprabasal", "upper_suprabasal")
            ]
            pattern = f"{antibody['pattern']} ({100 * antibody['pattern_share']:.0f} %)"
            table.add_row(gene.gene, pattern, str(antibody["patients"]), *dab)
    console.print(table)


def print_agreement(console: Console, root: DataRoot) -> bool:
    """Prints HPA's levels and the levels that were read, the least likely annotations first.

    Returns:
        Whether the gene whose label contradicts its images on purpose comes first for intensity and for quantity.
    """
    import pandas as pd

    rows = pd.read_parquet(root.folder("hpa_agreement", CHAMPION) / "agreement.parquet")
    rows = rows[rows["read"].notna()].sort_values("probability", kind="stable")
    table = _table(
        "HPA's annotation and what was read, least likely first", "gene", "level of", "measured", "HPA", "read",
        "probability of HPA's level",
    )  # fmt: skip
    for row in rows.to_dict("records"):
        same = row["annotated"] == row["read"]
        read = row["read"] if same else f"[yellow]{row['read']}[/]"
        cells = (f"{row['measure']:.2f}", row["annotated"], read, f"{row['probability']:.2g}")
        table.add_row(row["gene"], row["target"], *cells)
    console.print(table)
    first = rows.groupby("target").first()["gene"]
    found = all(first.get(target) == f"TOY{MISLABELLED}" for target in ("intensity", "quantity"))
    text = "is suspected first, as it should be" if found else "[red]is not suspected first[/]"
    console.print(f"TOY{MISLABELLED} stains all of the epidermis and is annotated as negative: it {text}.")
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in ("cells", "layers", *TARGETS) else "left")
    return table


def _scores(root: DataRoot, slide: DemoSlide) -> tuple[float, ...]:
    from dermatome.labels.npz import load_instances, load_mask
    from dermatome.metrics.instances import match_instances
    from dermatome.metrics.semantic import class_scores, confusion_matrix

    truth = slide.draw()
    mask, _ = load_mask(root.folder("epidermis_masks", slide.slide) / "mask.npz")
    instances = load_instances(root.folder("cell_masks", slide.slide) / "cells.npz")
    tissues = class_scores(confusion_matrix(truth.mask, mask, len(TISSUE_LABELS)), TISSUE_LABELS)
    ious = [tissues[tissue].iou or 0.0 for tissue in (TissueClass.EPIDERMIS, TissueClass.KERATIN)]
    return *ious, match_instances(truth.instances, instances, 0.5).f1 or 0.0
