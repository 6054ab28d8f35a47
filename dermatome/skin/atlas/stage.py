"""The stage `skin_atlas`: from all gene profiles to a table, a heatmap and one HTML file with a search box."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermatome.pipeline.stage_files import synthetic_warning, write_report
from dermatome.skin.atlas.build import Atlas, build_atlas, marker_sentence
from dermatome.skin.atlas.figures import COLOURS, atlas_figure, highest_dab
from dermatome.skin.atlas.search import SCRIPT, SCRIPT_SOURCE
from dermatome.skin.atlas.settings import AtlasSettings
from dermatome.skin.profiles.stage import ANTIBODIES_TABLE, PROFILE_TABLE, all_genes, any_synthetic, page
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, StageResult, content_version

ATLAS_FILE = "atlas.html"
MARKER_CHECK = "markers_as_expected"
_COLUMNS = ("gene", "ensembl_id", "antibody", "part", "zone", "relative_from", "mean_dab_od", "pattern")


def make_atlas(root: DataRoot, folder: Path, settings: AtlasSettings) -> StageResult:
    """Writes `antibodies.parquet`, `figure.png`, `figure.svg` and `atlas.html`."""
    profiles, antibodies = (all_genes(root, name, _COLUMNS) for name in (PROFILE_TABLE, ANTIBODIES_TABLE))
    atlas = build_atlas(profiles, antibodies, settings)
    synthetic = any_synthetic(root)
    warning, drawn = synthetic_warning(synthetic), atlas_figure(atlas)
    write_report(folder, {ANTIBODIES_TABLE: antibodies}, drawn, warning)
    write_atomic(folder / ATLAS_FILE, atlas_html(atlas, profiles, drawn[1], warning))
    right, sentence = sum(marker.passed for marker in atlas.markers), marker_sentence(atlas.markers)
    return StageResult(
        outcome="atlas" if len(atlas.genes) else "no_genes",
        message=f"{len(atlas.genes)} genes, {len(antibodies)} antibodies. {sentence}",
        data_version=content_version([atlas.depth.tobytes(), antibodies.to_csv().encode(), warning.encode()]),
        values=synthetic
        | {"genes": len(atlas.genes), "antibodies": len(antibodies)}
        | {"markers": len(atlas.markers), "markers_as_expected": right},
        checks=(Check(MARKER_CHECK, right == len(atlas.markers), sentence),),
    )


def atlas_html(atlas: Atlas, profiles: pd.DataFrame, svg: bytes, warning: str = "") -> bytes:
    """The atlas as one HTML file; its only script is the search, and every text is escaped."""
    from matplotlib import colormaps

    whole = profiles[profiles["part"] == "epidermis"].groupby("ensembl_id")["mean_dab_od"].mean()
    colours = colormaps[COLOURS](np.clip(np.nan_to_num(atlas.depth) / highest_dab(atlas), 0, 1), bytes=True)
    of_gene: dict[str, list[dict[Any, Any]]] = {}
    for row in atlas.antibodies.replace({np.nan: None}).to_dict("records"):
        of_gene.setdefault(row["ensembl_id"], []).append(row)
    rows = [
        {
            "gene": gene,
            "ensembl_id": ensembl_id,
            "strip": _strip(shades, np.isfinite(values)),
            "dab": float(whole.get(ensembl_id, math.nan)),
            "antibodies": of_gene[ensembl_id],
            "synonyms": of_gene[ensembl_id][0]["synonyms"],
        }
        for (ensembl_id, gene), shades, values in zip(
            atlas.genes[["ensembl_id", "gene"]].itertuples(index=False), colours, atlas.depth, strict=True
        )
    ]
    return page(
        "atlas", svg, warning,
        rows=rows[::-1],  # the figure's first row is at its bottom
        clustered=atlas.linkage is not None, highest=highest_dab(atlas), markers=atlas.markers,
        sentence=marker_sentence(atlas.markers), script=SCRIPT, script_source=SCRIPT_SOURCE,
    )  # fmt: skip


def _strip(shades: Any, known: Any) -> str:
    """A row of the heatmap as a CSS gradient with a step for each bin, grey where nothing was measured."""
    step = 100 / len(shades)
    named = [f"#{bytes(shade[:3]).hex()}" if ok else "#cccccc" for shade, ok in zip(shades, known, strict=True)]
    stops = [f"{colour} {n * step:g}% {(n + 1) * step:g}%" for n, colour in enumerate(named)]
    return f"linear-gradient(to right,{','.join(stops)})"
