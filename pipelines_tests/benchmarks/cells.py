"""A core's cell mask, file to file, against stock Cellpose on the same crop with the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.skin.cells.settings import CellSettings
from pipelines_tests.benchmarks.rows import Row, times_faster
from pipelines_tests.benchmarks.samples import cores
from pipelines_tests.benchmarks.timing import take_turns

if TYPE_CHECKING:
    from dermatome.inference.backends import Runner

CROP_PX = 900


def cells(toy: bool) -> Iterator[Row]:
    """A crop of a core, all of it taken for epidermis, with a network of the size of cyto2."""
    from PIL import Image

    from dermatome.classes import TissueClass
    from dermatome.errors import BadSetting
    from dermatome.geometry import Box
    from dermatome.inference.compute import choose_compute
    from dermatome.inference.int8 import int8_runner
    from dermatome.labels.geojson import object_features, write_geojson
    from dermatome.labels.npz import load_mask, save_instances, save_mask
    from dermatome.labels.ome_tiff import write_ome_tiff
    from dermatome.metrics.instances import match_instances
    from dermatome.skin.cells.image import cell_image_of
    from dermatome.skin.cells.network import TILE_PX, load_cell_network
    from dermatome.skin.cells.scores import same_cells
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.slides.slide import MppSource, Slide, read_slide
    from pipelines_tests.reference.stock_cellpose import cyto2_sized_weights, stock_cells, stock_model

    (core,), which = cores(1, toy)
    side = 250 if toy else CROP_PX
    first = (core.shape[0] - side) // 2
    crop = np.ascontiguousarray(core[first : first + side, first : first + side])
    settings = CellSettings()
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(crop).save(folder / "crop.png")
        save_mask(folder / "mask.npz", np.full(crop.shape[:2], TissueClass.EPIDERMIS, np.uint8), Box(0, 0, side, side))
        weights, state_dict = cyto2_sized_weights(folder)
        network = load_cell_network(weights, choose_compute("cpu", "fp32"))
        stock = stock_model(state_dict)

        def calibrate(runner: Runner, top: int, left: int) -> None:
            """Shows a network what lies around the crop, which is to be new to its int8 form."""
            beside = Slide("beside", core[top : top + side, left : left + side], 0.5, MppSource.DECLARED, "")
            everywhere = np.full((side, side), TissueClass.EPIDERMIS, np.uint8)
            segment_cells(beside, everywhere, replace(network, runner=runner), settings)

        networks = {"fp32": network}
        compute = choose_compute("cpu")
        networks.setdefault(compute.precision, load_cell_network(weights, compute))
        if not toy:
            with suppress(BadSetting):  # this processor does not multiply int8
                compute = choose_compute("cpu", "int8")
                last = core.shape[0] - side
                places = ((0, first), (first, 0), (first, last), (last, first))
                around = [partial(calibrate, top=top, left=left) for top, left in places]
                judge = same_cells(network.diameter_px, settings)
                plain = load_cell_network(weights, compute).runner
                runner = int8_runner(plain, folder / "int8", around, judge)
                networks.setdefault(runner.precision, replace(network, runner=runner))

        def ours(precision: str) -> None:
            slide = read_slide(folder / "crop.png")
            found = segment_cells(slide, load_mask(folder / "mask.npz")[0], networks[precision], settings)
            save_instances(folder / "ours.npz", found.instances)
            write_ome_tiff(folder / "ours.ome.tif", found.instances, slide.mpp)
            write_geojson(folder / "ours.geojson", object_features(found.instances, found.table, slide="crop"))
            found.table.to_parquet(folder / "ours.parquet")
            made[precision], made["tiles"] = found.instances.whole(), found.tiles

        def reference() -> None:
            slide = read_slide(folder / "crop.png")
            epidermis = load_mask(folder / "mask.npz")[0] == TissueClass.EPIDERMIS
            image = cell_image_of(slide.whole(), epidermis, slide.mpp, settings.margin_um)
            region = Box.whole(slide.size)
            made["stock"] = stock_cells(stock, image, region, network.diameter_px, settings, 32)
            np.savez_compressed(folder / "stock.npz", instances=made["stock"])

        def forward() -> None:
            tiles = np.random.default_rng(0).random((8, 2, TILE_PX, TILE_PX), dtype=np.float32)
            count = made["tiles"]
            batches = ((None, tiles[: min(8, count - start)]) for start in range(0, count, 8))
            for _ in network.runner.stream(batches):
                pass

        for precision in networks:
            ours(precision)
        by_precision = {precision: partial(ours, precision) for precision in networks}
        seconds = take_turns(
            {**by_precision, "reference": reference, "forward": forward}, rounds=1 if toy else 3, warm=False
        )
    for precision in networks:
        agreement = match_instances(made["stock"], made[precision], 0.7).f1 or 0.0
        yield times_faster(
            f"cell mask of a {side}² crop, file to file, at {precision}",
            "stock Cellpose eval on the same crop, same weights",
            seconds[precision],
            seconds["reference"],
            at_least=3 if precision == "fp32" else 4,
            baseline=f"network alone on the same {made['tiles']} tiles at fp32: {seconds['forward']:.1f} s",
            note=f"{which}, {made[precision].max()} cells, a network of the size of cyto2 on {network.runner.backend}; "
            f"F1 at IoU 0.7 against stock {agreement:.3f}",
        )
