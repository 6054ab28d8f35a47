"""The hold-out set of tissue networks: tiles of annotated slides, and the scores of a version on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from dermatome.registry.manifest import ManifestRow
from dermatome.skin.tiles.crops import load_tiles, manifest_rows
from dermatome.skin.tissue.evaluate import evaluate, tile_probabilities
from dermatome.skin.tissue.figures import samples_figure
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.skin.tissue.report import report_values, score_rows
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import Scalar, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute


def tissue_rows(folders: Sequence[Path]) -> list[ManifestRow]:
    """Manifest rows of the tiles in folders of the hold-out set."""
    return manifest_rows(load_tiles(*folders), "hold_out")


def score_tissue(
    weights: Path, samples: Sequence[Path], folder: Path, *, version: str, compute: Compute, mpp: float
) -> dict[str, Scalar]:
    """Scores of a version on the hold-out set, by class and in the mean.

    Files: `scores.parquet` by class, `samples.png`.

    Args:
        weights: the weights file.
        samples: folders of tiles.
        folder: for the files.
        version: its name.
        compute: device and precision.
        mpp: microns per pixel of tiles that state none.
    """
    loaded = load_tissue_weights(weights)
    card, network = loaded.card, loaded.network.to(compute.torch_device)
    run = tile_probabilities(network, compute, card.mean, card.std, mpp, card.mpp, tile_px=card.tile_px, batch=8)
    found = evaluate(load_tiles(*samples), run, mpp)
    if figure := samples_figure(found.tiles):
        write_atomic(folder / "samples.png", figure)
        write_atomic(folder / PREVIEW_FILE, preview(figure))
    write_table(folder / "scores.parquet", pa.Table.from_pylist(score_rows(version, found)))
    return report_values(found)
