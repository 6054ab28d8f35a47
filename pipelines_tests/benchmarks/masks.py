"""Epidermis masks file to file: JPEG in; mask, OME-TIFF, outlines, figure and record out, for a batch of slides."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines_tests.benchmarks.networks import tissue_network
from pipelines_tests.benchmarks.rows import Row, times_the_cost
from pipelines_tests.benchmarks.samples import cores, toy_cores


def epidermis_masks(toy: bool) -> Iterator[Row]:
    """Against the network alone on the same tiles."""
    from dermatome.skin.tissue import segment as tissue
    from dermatome.storage.layout import DataRoot
    from pipelines_tests.benchmarks.stages import mask_stage, measure, put_slides

    count = 2 if toy else 8
    with tempfile.TemporaryDirectory() as folder:
        weights = tissue_network(Path(folder), toy)
        batches = {which: images for images, which in (toy_cores(count, toy), cores(count, toy))}
        for which, images in batches.items():
            root = DataRoot(Path(folder) / which.replace(" ", "_"))
            keys = put_slides(root, images)
            cost = measure(mask_stage(root, weights, "cpu"), keys, tissue, rounds=1 if toy else 2)
            yield times_the_cost(
                f"epidermis mask, file to file, a slide in a batch of {count} {which}s",
                "network alone on the same tiles, same backend and precision",
                cost.seconds / count,
                cost.baseline / count,
                at_most=1.5,
                baseline=f"network alone on its tiles: {cost.baseline / count:.3g} s",
                note=f"{cost.tiles / count:.3g} tiles a slide, backend {cost.backend}",
            )
