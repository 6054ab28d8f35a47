"""Peak memory of the cell stage, file to file, on slides of up to 60,000 px a side, each in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines_tests.benchmarks.rows import Row, below, benchmark
from pipelines_tests.benchmarks.timing import resident_mib, run_alone

SIDES_PX = (3_000, 10_000, 30_000, 60_000)
LIMIT_GB = 4.0
_PIECE_PX = 1024
_TILE_PX = 512


@benchmark("memory_cells", timeout_s=3600, order=81)
def memory_cells(toy: bool) -> Iterator[Row]:
    """Peak resident memory at each size."""
    for side_px in (1_100, 2_100) if toy else SIDES_PX:
        found = main(side_px)
        yield below(
            f"peak resident memory, cell mask of {side_px:,}² px, file to file",
            found["peak_gb"],
            "GB",
            at_most=LIMIT_GB,
            bare=f"{found['start_gb']:.2f} GB once the network is ready",
            note=f"synthetic tiled JPEG TIFF, {found['cells']:,} cells, {found['tiles']:,} tiles through the network "
            f"({found['backend']}), {found['seconds']:.0f} s",
        )


def main(side_px: int) -> dict[str, Any]:
    """Writes a synthetic slide and its mask, ``side_px`` a side, and finds its cells in a process of its own.

    Returns:
        side_px, cells, tiles, backend, seconds (and by phase), start_gb (network ready) and peak_gb.
    """
    with tempfile.TemporaryDirectory(prefix="dermatome-memory-") as folder:
        run_alone(draw, folder, side_px, timeout_s=1800)
        found = run_alone(segment, folder, timeout_s=3000)
    return {"side_px": side_px, **found.value, "peak_gb": found.peak_mib * 2**20 / 1e9}


def draw(folder: str, side_px: int) -> None:
    """A tiled TIFF of glass with skin in one row from edge to edge and here and there on the diagonal; and its mask."""
    import imagecodecs
    import tifffile

    from dermatome.geometry import Box, Size
    from dermatome.labels.ome_tiff import write_ome_tiff
    from dermatome.labels.tiled import TiledArray
    from dermatome.synthetic.skin import toy_slide

    toy = toy_slide(81, size_px=_PIECE_PX, island=True)
    halves = [slice(0, _TILE_PX), slice(_TILE_PX, _PIECE_PX)]
    glass = imagecodecs.jpeg8_encode(np.full((_TILE_PX, _TILE_PX, 3), 240, np.uint8), level=85)
    skin = [
        [imagecodecs.jpeg8_encode(np.ascontiguousarray(toy.slide.whole()[y, x]), level=85) for x in halves]
        for y in halves
    ]
    pieces = -(-side_px // _PIECE_PX)

    def has_skin(row: int, column: int) -> bool:
        return row == pieces // 2 or (row == column and row % 4 == 0)

    across = -(-side_px // _TILE_PX)
    places = ((row, column) for row in range(across) for column in range(across))
    with tifffile.TiffWriter(Path(folder) / "slide.tif", bigtiff=True) as writer:
        writer.write(
            (skin[row % 2][column % 2] if has_skin(row // 2, column // 2) else glass for row, column in places),
            shape=(side_px, side_px, 3),
            dtype=np.uint8,
            tile=(_TILE_PX, _TILE_PX),
            photometric="ycbcr",
            subsampling=(2, 2),
            compression="jpeg",
            metadata=None,
        )

    mask = TiledArray(Size(side_px, side_px), np.uint8)
    for box in Box(0, 0, side_px, side_px).blocks(_PIECE_PX):
        if has_skin(box.top_px // _PIECE_PX, box.left_px // _PIECE_PX):
            mask.write(box, toy.mask[: box.size.height_px, : box.size.width_px])
            mask.pack()
    write_ome_tiff(Path(folder) / "mask.ome.tif", mask, 0.5)


def segment(folder: str) -> dict[str, Any]:
    """The cell stage on what :func:`draw` wrote."""
    from dermatome.inference.compute import choose_compute
    from dermatome.labels.geojson import object_features, write_geojson
    from dermatome.labels.npz import save_instances
    from dermatome.labels.ome_tiff import open_ome_tiff, write_ome_tiff
    from dermatome.skin.cells.figures import cells_figure
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.slides.slide import read_slide

    network = load_cell_network("toy", choose_compute("cpu"))
    start_gb = resident_mib("VmHWM") * 2**20 / 1e9
    place, started = Path(folder), time.perf_counter()
    slide, mask = read_slide(place / "slide.tif"), open_ome_tiff(place / "mask.ome.tif")
    found = segment_cells(slide, mask, network)
    segmented = time.perf_counter()
    save_instances(place / "cells.npz", found.instances)
    write_ome_tiff(place / "cells.ome.tif", found.instances, slide.mpp)
    write_geojson(place / "cells.geojson", object_features(found.instances, found.table, slide="synthetic"))
    found.table.to_parquet(place / "cells.parquet")
    written = time.perf_counter()
    (place / "figure.png").write_bytes(cells_figure(slide, mask, found))
    return {
        "cells": len(found.table),
        "tiles": found.tiles,
        "backend": network.runner.backend,
        "start_gb": start_gb,
        "seconds": time.perf_counter() - started,
        "phases": {**found.seconds, "write": written - segmented, "figure": time.perf_counter() - written},
    }
