"""Peak memory of the mask and the cell stage, file to file, on slides of up to 60,000 px a side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dermatome.classes import RgbImage
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from pipelines_tests.benchmarks.rows import Row, below
from pipelines_tests.benchmarks.timing import peak_mib, run_alone

SIDES_PX = (3_000, 10_000, 30_000, 60_000)
LIMIT_GB = 4.0
_PATTERN_PX = 4096
_PIECE_PX = 1024
_TILE_PX = 512
_GB_IN_MIB = 2**20 / 1e9


def memory(toy: bool) -> Iterator[Row]:
    """Peak resident memory of the mask stage at each size."""
    yield from _peaks("epidermis mask", (1_000,) if toy else SIDES_PX, [train, draw_skin], mask)


def memory_cells(toy: bool) -> Iterator[Row]:
    """Peak resident memory of the cell stage at each size."""
    yield from _peaks("cell mask", (1_100, 2_100) if toy else SIDES_PX, [draw_cells], cells)


def _peaks(
    what: str, sides_px: tuple[int, ...], prepare: list[Callable[[str, int], None]], stage: Callable[[str], Any]
) -> Iterator[Row]:
    for side_px in sides_px:
        with tempfile.TemporaryDirectory(prefix="dermatome-memory-") as folder:
            for step in prepare:
                run_alone(step, folder, side_px, timeout_s=1800)
            found = run_alone(stage, folder, timeout_s=3000)
            file_mb = (Path(folder) / "slide.tif").stat().st_size / 1e6
        yield below(
            f"peak resident memory, {what} of {side_px:,}² px, file to file",
            found.peak_mib * _GB_IN_MIB,
            "GB",
            at_most=LIMIT_GB,
            baseline=f"{found.value['start_gb']:.2f} GB once the network is ready",
            note=f"synthetic TIFF of {file_mb:.0f} MB; {found.value['seconds']:.0f} s, {found.value['note']}",
        )


def _write_tiff(path: Path, side_px: int, tile_at: Callable[[int, int], RgbImage]) -> None:
    """A tiled JPEG TIFF written tile by tile; ``tile_at`` has the same array for the same picture, encoded once."""
    import imagecodecs
    import tifffile

    encoded: dict[int, bytes] = {}

    def tile(row: int, column: int) -> bytes:
        pixels = tile_at(row, column)
        if id(pixels) not in encoded:
            encoded[id(pixels)] = bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=85))
        return encoded[id(pixels)]

    across = range(-(-side_px // _TILE_PX))
    options: dict[str, Any] = {"photometric": "ycbcr", "subsampling": (2, 2), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        tiles = (tile(row, column) for row in across for column in across)
        writer.write(tiles, shape=(side_px, side_px, 3), dtype=np.uint8, tile=(_TILE_PX, _TILE_PX), **options)


def _tiles_of(pixels: RgbImage) -> list[list[RgbImage]]:
    starts = range(0, len(pixels), _TILE_PX)
    return [[pixels[y : y + _TILE_PX, x : x + _TILE_PX] for x in starts] for y in starts]


def train(folder: str, side_px: int) -> None:
    """The weights of the mask stage as the data root's version `toy`."""
    from dermatome.inference.compute import choose_compute
    from pipelines_tests.toy_network import trained

    weights = DataRoot(Path(folder) / "root").folder("tissue_weights", "toy") / WEIGHTS_FILE
    weights.parent.mkdir(parents=True)
    weights.write_bytes(trained(Path(folder) / "training", choose_compute("cpu")).path.read_bytes())


def draw_skin(folder: str, side_px: int) -> None:
    """A slide of synthetic skin with background between its pieces, repeated."""
    from dermatome.synthetic.skin import toy_slide

    pattern = np.full((_PATTERN_PX, _PATTERN_PX, 3), 240, np.uint8)
    for seed, (top, left) in enumerate(((0, 0), (2048, 1024), (1024, 2560))):
        pattern[top : top + 1536, left : left + 1536] = toy_slide(seed, size_px=1536).slide.whole()
    tiles = _tiles_of(pattern)
    _write_tiff(Path(folder) / "slide.tif", side_px, lambda y, x: tiles[y % len(tiles)][x % len(tiles)])


def draw_cells(folder: str, side_px: int) -> None:
    """A slide of background with skin in one row from edge to edge and here and there on the diagonal; and its mask."""
    from dermatome.geometry import Box, Size
    from dermatome.labels.ome_tiff import write_ome_tiff
    from dermatome.labels.tiled import TiledArray
    from dermatome.synthetic.skin import toy_slide

    toy = toy_slide(81, size_px=_PIECE_PX, island=True)
    skin, background = _tiles_of(toy.slide.whole()), np.full((_TILE_PX, _TILE_PX, 3), 240, np.uint8)
    pieces = -(-side_px // _PIECE_PX)

    def has_skin(row: int, column: int) -> bool:
        return row == pieces // 2 or (row == column and row % 4 == 0)

    def tile_at(row: int, column: int) -> RgbImage:
        return skin[row % 2][column % 2] if has_skin(row // 2, column // 2) else background

    _write_tiff(Path(folder) / "slide.tif", side_px, tile_at)
    mask = TiledArray(Size(side_px, side_px), np.uint8)
    for box in Box(0, 0, side_px, side_px).blocks(_PIECE_PX):
        if has_skin(box.top_px // _PIECE_PX, box.left_px // _PIECE_PX):
            mask.write(box, toy.mask[: box.size.height_px, : box.size.width_px])
            mask.pack()
    write_ome_tiff(Path(folder) / "mask.ome.tif", mask, 0.5)


def mask(folder: str) -> dict[str, Any]:
    """The mask stage on what :func:`draw_skin` wrote, by the weights of :func:`train`."""
    from dermatome.inference.compute import ComputeSettings
    from dermatome.registry.champion import Weights
    from dermatome.registry.model_kinds import TISSUE
    from dermatome.skin.tissue.settings import TissueSettings
    from dermatome.skin.tissue.stage import MaskStage
    from dermatome.slides.slide import read_slide
    from dermatome.storage.files import sha256_file

    root, out = DataRoot(Path(folder) / "root"), Path(folder) / "out"
    sha256 = sha256_file(root.folder("tissue_weights", "toy") / WEIGHTS_FILE)
    stage = MaskStage(root, Weights(root, TISSUE, "toy", sha256, ""), ComputeSettings(), TissueSettings())
    stage.open(lambda: None)
    start_gb, started = peak_mib() * _GB_IN_MIB, time.perf_counter()
    (found,) = stage.compute([(read_slide(Path(folder) / "slide.tif", name="synthetic"), {})])
    out.mkdir()
    values = stage.save("synthetic", found, out).values
    note = f"{values['tiles']} tiles through the network ({values['backend']})"
    return {"start_gb": start_gb, "seconds": time.perf_counter() - started, "note": note}


def cells(folder: str) -> dict[str, Any]:
    """The cell stage on what :func:`draw_cells` wrote."""
    from dermatome.inference.compute import choose_compute
    from dermatome.labels.geojson import object_features, write_geojson
    from dermatome.labels.npz import save_instances
    from dermatome.labels.ome_tiff import open_ome_tiff, write_ome_tiff
    from dermatome.skin.cells.figures import cells_figure
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.slides.slide import read_slide

    network = load_cell_network("toy", choose_compute("cpu"))
    start_gb, place, started = peak_mib() * _GB_IN_MIB, Path(folder), time.perf_counter()
    slide, tissue = read_slide(place / "slide.tif"), open_ome_tiff(place / "mask.ome.tif")
    found = segment_cells(slide, tissue, network)
    save_instances(place / "cells.npz", found.instances)
    write_ome_tiff(place / "cells.ome.tif", found.instances, slide.mpp)
    write_geojson(place / "cells.geojson", object_features(found.instances, found.table, slide="synthetic"))
    found.table.to_parquet(place / "cells.parquet")
    (place / "figure.png").write_bytes(cells_figure(slide, tissue, found).png)
    note = f"{len(found.table):,} cells, {found.tiles:,} tiles through the network ({network.runner.backend})"
    return {"start_gb": start_gb, "seconds": time.perf_counter() - started, "note": note}
