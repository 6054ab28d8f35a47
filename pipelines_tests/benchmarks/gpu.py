"""Networks on a CUDA card: tiles a second over a batch of slides, file to file, and the share of the time it is busy.

The busy share is the time that the network alone needs for the same tiles, by the time that the batch takes: stricter
than what the driver calls utilisation, which counts a moment with one small kernel as busy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines_tests.benchmarks.networks import tissue_network
from pipelines_tests.benchmarks.rows import Row, not_measured, share_of_rate
from pipelines_tests.benchmarks.samples import toy_cores

NAMES = ("U-Net", "Cellpose network")
TARGET = 0.8


def gpu(toy: bool) -> Iterator[Row]:
    """On the first CUDA card, over 200 slides."""
    import torch

    if not torch.cuda.is_available():
        for name in NAMES:
            yield not_measured(_row_name(name), "no GPU here", target=f"≥ {TARGET:g} of it")
        return
    yield from on_device("cuda", torch.cuda.get_device_name(), 4 if toy else 200, toy)


def on_device(device: str, device_name: str, count: int, toy: bool) -> Iterator[Row]:
    """The rows of a device: masks, then cells in them, of ``count`` toy cores."""
    from dermatome.skin.cells import network as cell_network
    from dermatome.skin.tissue import segment as tissue
    from dermatome.storage.layout import DataRoot
    from pipelines_tests.benchmarks.stages import Cost, cells_stage, mask_stage, measure, put_slides

    def row(name: str, cost: Cost) -> Row:
        return share_of_rate(
            _row_name(name),
            "network alone on the same tiles, same backend and precision",
            cost.tiles / cost.seconds,
            cost.tiles / cost.baseline,
            "tiles/s",
            at_least=TARGET,
            baseline=f"{cost.tiles / cost.baseline:,.0f} tiles/s",
            note=f"{device_name}, backend {cost.backend}, {count} {which}s, {cost.tiles} tiles",
        )

    images, which = toy_cores(count, toy)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder) / "root")
        keys = put_slides(root, images)
        weights = tissue_network(Path(folder), toy)
        yield row(NAMES[0], measure(mask_stage(root, weights, device), keys, tissue, rounds=1))
        yield row(NAMES[1], measure(cells_stage(root, device), keys, cell_network, rounds=1))


def _row_name(network: str) -> str:
    return f"{network} over a batch of slides, file to file, on a GPU"
